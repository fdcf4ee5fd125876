/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/seal_chain.h"

#include <string.h>

/* --- holes between seals --- */

static void hole_add(struct seal_chain *c, const struct hole *h)
{
	if (c->hole_count < HOLES_MAX)
		c->holes[c->hole_count++] = *h;
}

void chain_forgive(struct seal_chain *c, size_t hole)
{
	c->hole_count--;
	memmove(&c->holes[hole], &c->holes[hole + 1], (c->hole_count - hole) * sizeof *c->holes);
}

static bool overlaps(const struct hole *h, const struct seal *s)
{
	return h->origin == s->upto.origin && s->after < h->through && s->through > h->after;
}

static void fill(struct seal_chain *c, const struct seal *s)
{
	for (size_t i = c->hole_count; i-- > 0;) {
		struct hole *h = &c->holes[i], rest = *h;
		if (!overlaps(h, s))
			continue;
		bool before = s->after > h->after, behind = s->through < h->through;
		rest.after = s->through;
		if (before)
			h->through = s->after;
		else if (behind)
			*h = rest;
		else
			chain_forgive(c, i);
		if (before && behind)
			hole_add(c, &rest);
	}
}

bool chain_wants(const struct seal_chain *c, const struct seal *s)
{
	for (size_t i = 0; i < c->hole_count; i++)
		if (overlaps(&c->holes[i], s))
			return true;
	return false;
}

uint64_t chain_unbroken(const struct seal_chain *c, uint64_t newest)
{
	for (size_t i = 0; i < c->hole_count; i++)
		if (c->holes[i].before < newest)
			newest = c->holes[i].before;
	return newest;
}

/* --- the end --- */

static bool has_begun(const struct seal_chain *c)
{
	return !cdm_dot_is_none(c->told);
}

static bool is_behind(struct cdm_dot a, struct cdm_dot b)
{
	return a.origin != b.origin ? a.origin < b.origin : a.number < b.number;
}

static uint64_t told_of(const struct seal_chain *c, cdm_origin origin)
{
	return c->told.origin == origin ? c->told.number : 0;
}

void chain_shows(struct seal_chain *c, struct cdm_dot change, uint64_t clock, int64_t now_ms)
{
	if (!has_begun(c) || !is_behind(c->told, change))
		return;
	if (!is_behind(c->told, c->shown))
		c->end = (struct hole){.since_ms = now_ms, .since_clock = clock};
	if (is_behind(c->shown, change))
		c->shown = change;
}

/* What is missing before this one, which is newer than all that came. That an author that began anew leaves changes without a seal is no hole, but for
 * what was late before: it had the time to tell of that. */
static void note_hole(struct seal_chain *c, const struct seal *s, uint64_t newest, int64_t now_ms)
{
	struct hole h = {.origin = s->upto.origin, .after = told_of(c, s->upto.origin), .through = s->after, .before = newest, .since_ms = now_ms,
		.since_clock = s->clock, .late = c->end.late};
	if (!s->after && c->end.late) {
		h.origin = c->shown.origin;
		h.after = told_of(c, h.origin);
		h.through = c->shown.number;
	}
	if (h.through > h.after)
		hole_add(c, &h);
}

void chain_takes(struct seal_chain *c, const struct seal *s, uint64_t newest, int64_t now_ms)
{
	bool old = s->clock < newest || s->upto.origin < c->told.origin;
	if (old || s->after)
		fill(c, s);
	if (old)
		return;
	if (has_begun(c))
		note_hole(c, s, newest, now_ms);
	uint64_t told = told_of(c, s->upto.origin);
	c->told = (struct cdm_dot){s->upto.origin, s->through > told ? s->through : told};
	c->end = (struct hole){.since_ms = now_ms, .since_clock = s->clock};
}

void chain_settle(struct seal_chain *c)
{
	c->hole_count = 0;
	c->end.late = false;
	if (is_behind(c->told, c->shown))
		c->told = c->shown;
}

/* --- time --- */

bool chain_waits(const struct seal_chain *c)
{
	bool waits = is_behind(c->told, c->shown) && !c->end.late;
	for (size_t i = 0; i < c->hole_count; i++)
		waits |= !c->holes[i].late;
	return waits;
}

static void judge(struct hole *h, int64_t now_ms, uint64_t author_clock, int64_t late_ms)
{
	if (!author_clock && !h->late)
		h->since_ms = now_ms;
	if (now_ms - h->since_ms > late_ms && author_clock > h->since_clock && author_clock - h->since_clock > (uint64_t)late_ms * 1000000)
		h->late = true;
}

void chain_judge(struct seal_chain *c, int64_t now_ms, uint64_t author_clock, int64_t late_ms)
{
	for (size_t i = 0; i < c->hole_count; i++)
		judge(&c->holes[i], now_ms, author_clock, late_ms);
	if (is_behind(c->told, c->shown))
		judge(&c->end, now_ms, author_clock, late_ms);
}

bool chain_is_late(const struct seal_chain *c, struct hole *ret)
{
	for (size_t i = 0; i < c->hole_count; i++) {
		*ret = c->holes[i];
		if (ret->late)
			return true;
	}
	*ret = c->end;
	ret->origin = c->shown.origin;
	ret->after = told_of(c, ret->origin);
	ret->through = c->shown.number;
	return ret->late;
}
