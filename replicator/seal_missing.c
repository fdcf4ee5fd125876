/* SPDX-License-Identifier: Apache-2.0 */
/* seal_missing.c — what authors made is here, and what they signed of it is not: who carries it here holds that back. Said only of an author that is
 * there, tells its state, and of which a seal came since this program runs; whoever has more to sign than it can at once says that with a seal, too. */
#include "replicator/seal_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include "replicator/route.h"
#include "replicator/state.h"
#include "replicator/wire_codec.h"

#define LOOKS 8 /* so often in the time after which they are late */
#define OVERRUN_BYTES (SEALS_KEPT_MAX / 4) /* so much came about that time: a neighbour may have had to forget some */

/* --- saying --- */

static void describe(const struct seals *seals, const struct author *a, const struct hole *h, char *out, size_t room)
{
	const struct set *s = seals->set;
	const struct member *m = s->route ? route_member_number(s->route, a->number) : NULL;
	char from[CDM_DOT_NAMED_SIZE], upto[CDM_DOT_NAMED_SIZE];
	cdm_dot_format_named((struct cdm_dot){h->origin, h->after + 1}, m ? m->name : NULL, from);
	cdm_dot_format_named((struct cdm_dot){h->origin, h->through}, m ? m->name : NULL, upto);
	snprintf(out, room, "changes from %s to %s came, and what %s signed of them did not", from, upto, m ? m->name : "their author");
}

static void say(struct seals *seals, struct author *a, const struct hole *h, const struct link *via)
{
	struct set *s = seals->set;
	const struct member *m = s->route ? route_member_number(s->route, a->number) : NULL;
	char text[512];
	a->missing = true;
	a->missing_by = via ? link_peer_number(via) : 0;
	describe(seals, a, h, text, sizeof text);
	count_up(&s->counters.seal_missing, 1);
	cdm_log(seal_missing, cdm_str("set", set_name(s)), cdm_str("author", m ? m->name : "?"), cdm_str("peer", via ? link_peer_name(via) : ""), cdm_str("msg", text));
	state_changed(s);
}

static void say_found(struct seals *seals, struct author *a, const char *how)
{
	struct set *s = seals->set;
	const struct member *m = s->route ? route_member_number(s->route, a->number) : NULL;
	a->missing = false;
	cdm_log(seal_found, cdm_str("set", set_name(s)), cdm_str("author", m ? m->name : "?"), cdm_str("msg", how));
	state_changed(s);
}

bool seals_describe_missing(const struct set *s, char *out, size_t room)
{
	struct hole h;
	for (size_t i = 0; i < s->seals->author_count; i++) {
		const struct author *a = &s->seals->authors[i];
		if (a->missing && chain_is_late(&a->chain, &h)) {
			describe(s->seals, a, &h, out, room);
			return true;
		}
	}
	return false;
}

/* --- looking --- */

/* Seals that came since then, or were made here. */
static size_t bytes_since(const struct seals *seals, int64_t since_ms)
{
	size_t bytes = 0;
	for (const struct kept *k = seals->first; k; k = k->next)
		bytes += k->came_ms >= since_ms ? k->len : 0;
	return bytes;
}

static void forgive_overrun(const struct seals *seals, struct seal_chain *c, int64_t late_ms)
{
	for (size_t i = c->hole_count; i-- > 0;)
		if (!c->holes[i].late && bytes_since(seals, c->holes[i].since_ms - late_ms) >= OVERRUN_BYTES)
			chain_forgive(c, i);
}

/* The author's clock as it told it last; 0: it is not there, or began anew. */
static uint64_t clock_of(const struct seals *seals, struct author *a, const struct link **ret_via)
{
	struct state_heard heard;
	*ret_via = NULL;
	if (!state_heard(seals->set->node, seals->set, a->number, &heard) || !link_has(heard.via, WIRE_FEATURE_SEALS))
		return 0;
	bool same = heard.start == a->start;
	a->start = heard.start;
	*ret_via = heard.via;
	return same ? heard.clock : 0;
}

static void look(struct seals *seals, struct author *a)
{
	int64_t late_ms = seal_late_ms();
	const struct link *via;
	struct hole h;
	uint64_t clock = clock_of(seals, a, &via);
	forgive_overrun(seals, &a->chain, late_ms);
	chain_judge(&a->chain, cdm_now_ms(), clock, late_ms);
	if (!a->missing && chain_is_late(&a->chain, &h))
		say(seals, a, &h, via);
}

static void look_at_all(void *arg)
{
	struct seals *seals = arg;
	seals->look = NULL;
	for (size_t i = 0; i < seals->author_count; i++)
		if (chain_waits(&seals->authors[i].chain))
			look(seals, &seals->authors[i]);
	for (size_t i = 0; i < seals->author_count; i++)
		if (chain_waits(&seals->authors[i].chain))
			missing_look_later(seals);
}

void missing_look_later(struct seals *seals)
{
	if (!seals->look && !seals->set->stopping)
		seals->look = cdm_loop_after(seals->set->node->loop, seal_late_ms() / LOOKS, look_at_all, seals);
}

/* --- what comes --- */

void missing_took(struct seals *seals, struct author *a, const struct seal *s)
{
	struct hole h;
	chain_takes(&a->chain, s, a->newest, cdm_now_ms());
	if (a->missing && !chain_is_late(&a->chain, &h))
		say_found(seals, a, "what it signed came");
	if (chain_waits(&a->chain))
		missing_look_later(seals);
}

void seals_came(struct set *s, const struct cdm_change *c)
{
	struct author *a = seals_find_author(s->seals, CDM_ORIGIN_NODE(c->dot.origin));
	if (!a || c->op == CDM_OP_SKIP)
		return;
	chain_shows(&a->chain, c->dot, c->clock, cdm_now_ms());
	if (chain_waits(&a->chain))
		missing_look_later(s->seals);
}

void seals_proven(struct set *s, const char *with)
{
	const struct member *m = s->route ? route_member(s->route, with) : NULL;
	for (size_t i = 0; m && i < s->seals->author_count; i++) {
		struct author *a = &s->seals->authors[i];
		if (!a->missing || a->missing_by == m->number)
			continue;
		chain_settle(&a->chain);
		say_found(s->seals, a, "the set is proven equal with a node that did not feed this one then");
	}
}

void seals_members_changed(struct set *s)
{
	for (size_t i = 0; i < s->seals->author_count; i++) {
		struct author *a = &s->seals->authors[i];
		if (seals_may_seal(s, a->number))
			continue;
		a->chain = (struct seal_chain){0};
		if (a->missing)
			say_found(s->seals, a, "it may not write any more");
	}
}
