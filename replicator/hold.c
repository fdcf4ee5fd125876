/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/hold.h"

#include <stdio.h>
#include <string.h>
#include "replicator/resync.h"

#define RUNNING_MAX 1000

void hold_remember(struct set *s, const struct hold *h, uint32_t peer)
{
	struct hold_before *slot = &s->holds_before[0];
	for (size_t i = 0; i < HOLDS_BEFORE; i++)
		if (s->holds_before[i].since_ns < slot->since_ns)
			slot = &s->holds_before[i];
	*slot = (struct hold_before){.id = h->id, .peer = peer, .since_ns = h->since_ns};
}

void hold_forget(struct set *s, uint32_t peer)
{
	for (size_t i = 0; i < HOLDS_BEFORE; i++)
		if (s->holds_before[i].peer == peer)
			s->holds_before[i] = (struct hold_before){0};
}

static bool was_held(struct set *s, struct hold *h, uint32_t peer)
{
	for (size_t i = 0; i < HOLDS_BEFORE; i++) {
		struct hold_before *before = &s->holds_before[i];
		if (!before->id || before->peer != peer)
			continue;
		h->id = before->id;
		h->since_ns = before->since_ns;
		*before = (struct hold_before){0};
		return true;
	}
	return false;
}

void hold_begin(struct set *s, struct hold *h, uint32_t peer, uint64_t removals, uint64_t names, json_t *examples)
{
	static unsigned running; /* begins anywhere: a number of an earlier run should not come again */
	if (!running)
		running = (unsigned)(cdm_wall_ns() / 1000000000 % RUNNING_MAX);
	if (!h->id && !was_held(s, h, peer)) {
		running = (running + 1) % RUNNING_MAX;
		h->id = s->node->id->number * RUNNING_MAX + running;
		h->since_ns = cdm_wall_ns();
	}
	h->decision = UNDECIDED;
	h->removals = removals;
	h->names = names;
	json_decref(h->examples);
	h->examples = examples;
}

void hold_end(struct hold *h)
{
	json_decref(h->examples);
	*h = (struct hold){0};
}

static struct hold *hold_of(const struct peer *p)
{
	struct hold *h = p->resync && p->resync->in ? resync_in_hold(p->resync->in) : NULL;
	return h && h->id && h->decision == UNDECIDED ? h : NULL;
}

json_t *set_holds(struct set *s)
{
	json_t *list = json_array();
	for (const struct peer *p = s->peers; p; p = p->next) {
		const struct hold *h = hold_of(p);
		if (h)
			json_array_append_new(list, json_pack("{s:o, s:s, s:s, s:I, s:I, s:I, s:O}", "id", json_sprintf("H%u", h->id), "set", set_name(s), "peer",
				link_peer_name(p->link), "removals", (json_int_t)h->removals, "names", (json_int_t)h->names, "since_ns", (json_int_t)h->since_ns,
				"examples", h->examples));
	}
	return list;
}

static json_t *refusal(const char *error, const char *hint)
{
	return json_pack("{s:s, s:s}", "error", error, "hint", hint);
}

json_t *set_hold_decide(struct set *s, const char *id, bool approve)
{
	char text[16];
	const struct member *self = s->route ? route_member_number(s->route, s->node->id->number) : NULL;
	for (struct peer *p = s->peers; p; p = p->next) {
		struct hold *h = hold_of(p);
		snprintf(text, sizeof text, "H%u", h ? h->id : 0);
		if (!h || strcmp(text, id) != 0)
			continue;
		if (!approve && self && !(self->role & CDM_ROLE_SOURCE))
			return refusal("this node only receives the set, it cannot bring anything back", "make it a source for the time (cdmctl set change), or approve");
		h->decision = approve ? APPROVED : REJECTED;
		cdm_log(hold_decided, cdm_str("set", set_name(s)), cdm_str("hold", id), cdm_str("decision", approve ? "approved" : "rejected"));
		json_t *answer = json_pack("{s:{s:s, s:s, s:s, s:I}}", "result", "id", id, "set", set_name(s), "decision", approve ? "approved" : "rejected",
			"removals", (json_int_t)h->removals);
		resync_in_decided(p->resync->in);
		return answer;
	}
	return refusal("nothing is held here under this number", "cdmctl hold list shows what is");
}
