/* SPDX-License-Identifier: Apache-2.0 */
/* link_sets.c — the sets that a link carries: who is whose parent is agreed on per set, with SET_UP and SET_DOWN; frames of a set go to it. */
#include "replicator/link_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "common/log.h"
#include "replicator/route.h"
#include "replicator/set.h"
#include "replicator/state.h"

static struct attach *attach_find(const struct link *l, const struct set *set)
{
	for (size_t i = 0; i < l->attach_count; i++)
		if (l->attaches[i].set == set)
			return &l->attaches[i];
	return NULL;
}

static struct attach *attach_get(struct link *l, struct set *set)
{
	struct attach *a = attach_find(l, set);
	if (a)
		return a;
	l->attaches = realloc(l->attaches, (l->attach_count + 1) * sizeof *a);
	if (!l->attaches)
		abort();
	a = &l->attaches[l->attach_count++];
	*a = (struct attach){.set = set};
	return a;
}

static struct attach *attach_by_index(struct link *l, uint16_t index)
{
	for (size_t i = 0; i < l->attach_count; i++)
		if (l->attaches[i].has_index && l->attaches[i].peer_index == index)
			return &l->attaches[i];
	return NULL;
}

static uint16_t own_index(const struct link *l, const struct set *set)
{
	for (size_t i = 0; i < l->node->set_count; i++)
		if (l->node->sets[i] == set)
			return (uint16_t)i;
	return UINT16_MAX;
}

static void attach_up(struct link *l, struct attach *a)
{
	if (a->up)
		return;
	a->up = true;
	struct set *set = a->set;
	bool towards_parent = a->asked;
	cdm_log(set_up, cdm_str("peer", l->name), cdm_str("set", set_name(set)), cdm_str("as", towards_parent ? "parent" : "child"));
	set_link_up(set, l, towards_parent);
	state_link_up(l->node, set, l);
	route_set_up(l->node, set, l);
}

static void attach_down(struct link *l, struct attach *a, const char *why)
{
	bool was = a->up;
	a->up = a->asked = false;
	if (!was)
		return;
	struct set *set = a->set;
	cdm_log(set_down, cdm_str("peer", l->name), cdm_str("set", set_name(set)), cdm_str("msg", why));
	set_link_down(set, l);
	state_link_down(l->node, set, l);
}

/* --- sending --- */

void link_send(struct link *l, struct set *set, enum frame_type type, uint8_t flags, const void *head, size_t head_len,
	const void *body, size_t body_len)
{
	const struct attach *a = attach_find(l, set);
	if (l->state == LINK_UP && a && a->up)
		set_sent(set, WIRE_HEADER + link_send_frame(l, (uint8_t)type, flags, own_index(l, set), head, head_len, body, body_len));
}

static void send_set_up(struct link *l, const struct set *set, bool child)
{
	uint8_t out[WIRE_SMALL_MAX];
	const struct route *r = route_of(l->node, set_name(set));
	struct wire_set_up s = {.child = child, .epoch = r ? r->epoch : 0};
	snprintf(s.name, sizeof s.name, "%s", set_name(set));
	size_t n = wire_set_up_encode(&s, out);
	link_send_frame(l, FRAME_SET_UP, 0, own_index(l, set), out, n, NULL, 0);
}

static void send_set_down(struct link *l, const char *name, int errnum, const char *why)
{
	uint8_t out[WIRE_SMALL_MAX];
	struct wire_set_down s = {.why.number = wire_errno_of(errnum)};
	snprintf(s.name, sizeof s.name, "%s", name);
	snprintf(s.why.text, sizeof s.why.text, "%s", why);
	size_t n = wire_set_down_encode(&s, out);
	link_send_frame(l, FRAME_SET_DOWN, 0, 0, out, n, NULL, 0);
}

/* --- what comes --- */

void link_take_set_up(struct link *l, uint16_t index, const uint8_t *payload, size_t len)
{
	struct wire_set_up s;
	if (wire_set_up_decode(payload, len, &s) < 0) {
		link_fail(l, EPROTO, "a SET_UP that cannot be read");
		return;
	}
	struct set *set = node_set(l->node, s.name);
	const struct route *r = set ? route_of(l->node, s.name) : NULL;
	const struct member *m = r ? route_member_number(r, l->number) : NULL;
	if (!set || !r) {
		send_set_down(l, s.name, set ? EAGAIN : ENOENT, set ? "no route for this set here yet" : "this node does not hold the set");
		return;
	}
	if (!m || strcmp(m->name, l->name) != 0) {
		send_set_down(l, s.name, EACCES, "not a member of this set");
		return;
	}
	if (r->paused || m->paused) {
		send_set_down(l, s.name, EAGAIN, ROUTE_PAUSED);
		return;
	}
	struct attach *a = attach_get(l, set);
	const struct attach *same = attach_by_index(l, index);
	if (same && same != a) {
		link_fail(l, EPROTO, "one index for two sets");
		return;
	}
	a->has_index = true;
	a->peer_index = index;
	if (s.child && a->up) { /* it begins anew: it left us before, or we were its child */
		bool asked = a->asked;
		attach_down(l, a, "the other side begins anew");
		a->asked = asked;
	}
	if (s.child)
		send_set_up(l, set, false);
	else if (!a->asked)
		return; /* we changed our mind meanwhile; our SET_DOWN is on its way */
	attach_up(l, a);
}

void link_take_set_down(struct link *l, const uint8_t *payload, size_t len)
{
	struct wire_set_down s;
	if (wire_set_down_decode(payload, len, &s) < 0) {
		link_fail(l, EPROTO, "a SET_DOWN that cannot be read");
		return;
	}
	struct set *set = node_set(l->node, s.name);
	struct attach *a = set ? attach_find(l, set) : NULL;
	if (!a)
		return;
	bool asked = a->asked;
	attach_down(l, a, s.why.text);
	if (asked)
		route_set_refused(l->node, set, l, wire_errno_to(s.why.number), s.why.text);
}

void link_take_set_frame(struct link *l, const struct wire_header *h, const uint8_t *payload)
{
	struct attach *a = attach_by_index(l, h->set);
	if (!a) {
		link_fail(l, EPROTO, "a frame for a set that was never named");
		return;
	}
	if (!a->up)
		return; /* sent before the peer saw our SET_DOWN */
	struct cdm_error err = CDM_ERROR_INIT;
	int r = h->type == FRAME_STATE ? state_frame(l->node, a->set, l, payload, h->payload, &err)
				       : set_frame(a->set, l, h->type, h->flags, payload, h->payload, &err);
	if (r < 0)
		link_fail(l, -r, "%s", err.text[0] ? err.text : "a frame that cannot be used");
}

/* --- what others ask --- */

void link_attach(struct link *l, struct set *set)
{
	struct attach *a = attach_get(l, set);
	if (l->state != LINK_UP || a->asked)
		return;
	attach_down(l, a, "it is to be our parent now"); /* what was our child: both begin anew */
	a->asked = true;
	send_set_up(l, set, true);
}

void link_detach(struct link *l, struct set *set, const char *why)
{
	struct attach *a = attach_find(l, set);
	if (l->state != LINK_UP || !a || (!a->up && !a->asked))
		return;
	send_set_down(l, set_name(set), ESHUTDOWN, why);
	attach_down(l, a, why);
}

bool link_carries(const struct link *l, const struct set *set)
{
	const struct attach *a = attach_find(l, set);
	return a && a->up && l->state == LINK_UP;
}

bool link_attaching(const struct link *l, const struct set *set)
{
	const struct attach *a = attach_find(l, set);
	return a && a->asked;
}

bool link_serves_any(const struct link *l)
{
	for (size_t i = 0; i < l->attach_count; i++)
		if (l->attaches[i].up || l->attaches[i].asked)
			return true;
	return false;
}

void link_sets_drained(struct link *l)
{
	for (size_t i = 0; i < l->attach_count && l->state == LINK_UP; i++)
		if (l->attaches[i].up)
			set_link_drained(l->attaches[i].set, l);
}

void link_sets_closed(struct link *l)
{
	for (size_t i = 0; i < l->attach_count; i++)
		attach_down(l, &l->attaches[i], l->why.text);
	free(l->attaches);
	l->attaches = NULL;
	l->attach_count = 0;
}
