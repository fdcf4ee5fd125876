/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "common/log.h"
#include "replicator/links.h"
#include "replicator/route.h"
#include "replicator/wire_codec.h"

#define FLOOD_MS 20          /* own states at most this often */
#define VISIBLE_MS 200       /* what only became visible waits this long for being durable: one frame instead of two */
#define FORWARD_MS 10        /* other nodes' states are gathered this long: one packet instead of several */
#define REFRESH_MS 5000      /* sign of life */
#define SILENT_MS 15000      /* without one: down */
#define STRANGERS_MAX 64     /* states kept of nodes that our routes do not name (yet) */

struct entry { /* one other node in one set */
	struct wire_state state;
	const struct link *via; /* the newest state came over this link; NULL = gone */
	bool down;
	bool forward;            /* to be sent on, to all links but `via` */
	int64_t heard_ms, heard_wall_ns;
};

struct set_states {
	struct set *set;
	struct entry *entries;
	size_t count;
	uint64_t sequence;       /* of our own states */
	int64_t flooded_ms, due_ms; /* due: when `flood` fires */
	struct cdm_timer *flood, *forward;
	struct cdm_vector told_durable; /* what our last flooded state said */
	char told_state[16], told_reason_code[32];
};

struct state_table {
	struct node *node;
	struct set_states *sets;
	size_t count;
	struct cdm_timer *refresh;
	struct state_watch *watches;
};

static const struct cdm_vector empty_vector;

static void flood_now(void *arg);
static void refresh(void *arg);

/* Found by index, since the array moves when sets are added. */
static struct set_states *states_of(struct node *node, struct set *set)
{
	struct state_table *t = node->states;
	for (size_t i = 0; i < t->count; i++)
		if (t->sets[i].set == set)
			return &t->sets[i];
	t->sets = realloc(t->sets, (t->count + 1) * sizeof *t->sets);
	if (!t->sets)
		abort();
	t->sets[t->count] = (struct set_states){.set = set};
	return &t->sets[t->count++];
}

static void notify(struct node *node, struct set *set)
{
	for (struct state_watch *w = node->states->watches, *next; w; w = next) {
		next = w->next;
		w->fn(w->arg, set);
	}
}

void state_watch(struct node *node, struct state_watch *w)
{
	w->next = node->states->watches;
	node->states->watches = w;
}

void state_unwatch(struct node *node, struct state_watch *w)
{
	for (struct state_watch **at = &node->states->watches; *at; at = &(*at)->next)
		if (*at == w) {
			*at = w->next;
			return;
		}
}

/* --- sending --- */

static void send_state(struct link *l, struct set *set, const struct wire_state *s)
{
	size_t size = wire_state_size(s);
	uint8_t *bytes = malloc(size);
	if (!bytes)
		abort();
	size = wire_state_encode(s, bytes);
	link_send(l, set, FRAME_STATE, 0, bytes, size, NULL, 0);
	free(bytes);
}

static void send_to_others(struct node *node, struct set *set, const struct link *but, const struct wire_state *s)
{
	for (size_t i = 0; i < node->link_count; i++)
		if (node->links[i] != but && link_carries(node->links[i], set))
			send_state(node->links[i], set, s);
}

/* Borrows the set's vectors. */
static void own_state(struct node *node, struct set_states *ss, struct wire_state *ret)
{
	struct set_state now = {0};
	set_get_state(ss->set, &now);
	*ret = (struct wire_state){.number = node->id->number, .start = node->instance, .sequence = ss->sequence,
		.clock = cdm_clock_now(), .visible = now.visible, .durable = now.durable};
	snprintf(ret->state, sizeof ret->state, "%s", now.state);
	snprintf(ret->reason_code, sizeof ret->reason_code, "%s", now.reason_code);
	snprintf(ret->reason, sizeof ret->reason, "%s", now.reason);
}

static void flood_own(struct node *node, struct set_states *ss)
{
	struct wire_state own;
	ss->sequence++;
	ss->flooded_ms = cdm_now_ms();
	own_state(node, ss, &own);
	cdm_vector_copy(&ss->told_durable, &own.durable);
	memcpy(ss->told_state, own.state, sizeof ss->told_state);
	memcpy(ss->told_reason_code, own.reason_code, sizeof ss->told_reason_code);
	send_to_others(node, ss->set, NULL, &own);
}

static void flood_now(void *arg)
{
	struct set *set = arg;
	struct node *node = set_node(set);
	struct set_states *ss = states_of(node, set);
	ss->flood = NULL;
	flood_own(node, ss);
	notify(node, set);
}

/* Does anybody wait for this news? What is only visible so far interests nobody at once. */
static bool is_urgent(const struct set_states *ss)
{
	struct set_state now = {0};
	set_get_state(ss->set, &now);
	return strcmp(now.state, ss->told_state) != 0 || strcmp(now.reason_code, ss->told_reason_code) != 0 ||
		!cdm_vector_equal(&now.durable, &ss->told_durable);
}

void state_changed(struct set *set)
{
	struct node *node = set_node(set);
	if (!node->states)
		return;
	struct set_states *ss = states_of(node, set);
	int64_t now = cdm_now_ms(), due = ss->flooded_ms + FLOOD_MS;
	if (due < now)
		due = now;
	if (!is_urgent(ss))
		due = now + VISIBLE_MS;
	if (ss->flood && ss->due_ms <= due)
		return;
	cdm_timer_cancel(&ss->flood);
	ss->due_ms = due;
	ss->flood = cdm_loop_after(node->loop, due - now, flood_now, set);
}

void state_tell_now(struct set *set)
{
	struct node *node = set_node(set);
	if (!node->states)
		return;
	cdm_timer_cancel(&states_of(node, set)->flood);
	flood_now(set);
}

/* --- other nodes --- */

static struct entry *entry_find(struct set_states *ss, uint32_t number)
{
	for (size_t i = 0; i < ss->count; i++)
		if (ss->entries[i].state.number == number)
			return &ss->entries[i];
	return NULL;
}

static struct entry *entry_add(struct node *node, struct set_states *ss, uint32_t number)
{
	const struct route *r = route_of(node, set_name(ss->set));
	if (ss->count >= (r ? r->member_count : 0) + STRANGERS_MAX)
		return NULL;
	ss->entries = realloc(ss->entries, (ss->count + 1) * sizeof *ss->entries);
	if (!ss->entries)
		abort();
	struct entry *e = &ss->entries[ss->count++];
	*e = (struct entry){.state.number = number};
	return e;
}

static void entry_down(struct node *node, struct set_states *ss, struct entry *e, const struct link *but)
{
	if (e->down)
		return;
	e->down = true;
	struct wire_state down = {.down = true, .number = e->state.number, .start = e->state.start, .sequence = e->state.sequence,
		.clock = cdm_clock_now()};
	send_to_others(node, ss->set, but, &down);
}

static void forward_now(void *arg)
{
	struct set *set = arg;
	struct node *node = set_node(set);
	struct set_states *ss = states_of(node, set);
	ss->forward = NULL;
	for (size_t i = 0; i < ss->count; i++) {
		struct entry *e = &ss->entries[i];
		if (e->forward && !e->down)
			send_to_others(node, set, e->via, &e->state);
		e->forward = false;
	}
}

static bool is_newer(const struct wire_state *a, const struct wire_state *b)
{
	return a->start != b->start ? a->start > b->start : a->sequence > b->sequence;
}

/* Counts unless we know something newer. */
static bool take_down(struct node *node, struct set_states *ss, struct link *l, const struct wire_state *s)
{
	struct entry *e = entry_find(ss, s->number);
	if (!e || e->down || is_newer(&e->state, s))
		return false;
	e->down = true;
	send_to_others(node, ss->set, l, s);
	return true;
}

static bool take_state(struct node *node, struct set_states *ss, struct link *l, struct wire_state *s)
{
	struct entry *e = entry_find(ss, s->number);
	if (!e)
		e = entry_add(node, ss, s->number);
	/* One that was down may come back with an earlier start: its clock was set back. */
	bool back = e && e->down && s->start != e->state.start;
	if (!e || (e->state.start && !back && !is_newer(s, &e->state)))
		return false;
	wire_state_fini(&e->state);
	e->state = *s;
	*s = (struct wire_state){0};
	e->via = l;
	e->down = false;
	e->heard_ms = cdm_now_ms();
	e->heard_wall_ns = cdm_wall_ns();
	e->forward = true;
	if (!ss->forward)
		ss->forward = cdm_loop_after(node->loop, FORWARD_MS, forward_now, ss->set);
	return true;
}

int state_frame(struct node *node, struct set *set, struct link *l, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	struct wire_state s;
	struct set_states *ss = states_of(node, set);
	if (wire_state_decode(payload, len, &s) < 0)
		return cdm_fail_plain(err, EPROTO, "a state that cannot be read");
	if (!cdm_clock_observe(s.clock))
		cdm_log(clock_ahead, cdm_str("peer", link_peer_name(l)), cdm_int("ahead_ms", (cdm_clock_to_ns(s.clock) - cdm_wall_ns()) / 1000000));
	bool news = false;
	if (s.number == node->id->number) {
		if (s.down && s.start == node->instance && s.sequence >= ss->sequence)
			state_changed(set); /* somebody lost us on one way; we are still there */
	} else {
		news = s.down ? take_down(node, ss, l, &s) : take_state(node, ss, l, &s);
	}
	wire_state_fini(&s);
	if (news) {
		notify(node, set);
		parent_heard(node, set);
	}
	return 0;
}

void state_link_up(struct node *node, struct set *set, struct link *l)
{
	struct set_states *ss = states_of(node, set);
	for (size_t i = 0; i < ss->count; i++)
		if (ss->entries[i].state.start && !ss->entries[i].down)
			send_state(l, set, &ss->entries[i].state);
	flood_own(node, ss);
	notify(node, set);
}

void state_link_down(struct node *node, struct set *set, struct link *l)
{
	struct set_states *ss = states_of(node, set);
	for (size_t i = 0; i < ss->count; i++) {
		struct entry *e = &ss->entries[i];
		if (e->via != l)
			continue;
		e->via = NULL;
		entry_down(node, ss, e, l);
	}
	notify(node, set);
}

static void refresh(void *arg)
{
	struct node *node = arg;
	struct state_table *t = node->states;
	int64_t now = cdm_now_ms();
	t->refresh = cdm_loop_after(node->loop, REFRESH_MS, refresh, node);
	for (size_t i = 0; i < t->count; i++) {
		struct set_states *ss = &t->sets[i];
		bool changed = false;
		for (size_t k = 0; k < ss->count; k++) {
			struct entry *e = &ss->entries[k];
			if (!e->down && now - e->heard_ms > SILENT_MS)
				e->down = changed = true; /* the others see its silence themselves */
		}
		if (now - ss->flooded_ms >= REFRESH_MS - FLOOD_MS)
			flood_own(node, ss);
		if (changed)
			notify(node, ss->set);
	}
}

void state_members_changed(struct node *node)
{
	struct state_table *t = node->states;
	for (size_t i = 0; t && i < t->count; i++) {
		struct set_states *ss = &t->sets[i];
		const struct route *r = route_of(node, set_name(ss->set));
		for (size_t k = 0; r && k < ss->count;) {
			if (route_member_number(r, ss->entries[k].state.number) || ss->entries[k].via) {
				k++;
				continue;
			}
			wire_state_fini(&ss->entries[k].state);
			ss->entries[k] = ss->entries[--ss->count];
		}
		notify(node, ss->set);
	}
}

size_t state_each(struct node *node, struct set *set, state_each_fn *fn, void *arg)
{
	const struct route *r = route_of(node, set_name(set));
	struct set_states *ss = states_of(node, set);
	for (size_t i = 0; r && i < r->member_count; i++) {
		struct wire_state own;
		struct peer_state p = {.member = &r->members[i], .state = "", .reason_code = "", .reason = "",
			.visible = &empty_vector, .durable = &empty_vector};
		const struct entry *e = entry_find(ss, p.member->number);
		const struct wire_state *s = e && e->state.start ? &e->state : NULL;
		if (p.member->number == node->id->number) {
			own_state(node, ss, &own);
			s = &own;
			p.self = true;
		}
		p.known = s != NULL;
		p.down = !p.self && (!s || e->down);
		p.heard_wall_ns = p.self ? cdm_wall_ns() : e ? e->heard_wall_ns : 0;
		if (s) {
			p.state = s->state;
			p.reason_code = s->reason_code;
			p.reason = s->reason;
			p.visible = &s->visible;
			p.durable = &s->durable;
		}
		fn(arg, &p);
	}
	return r ? r->member_count : 0;
}

bool state_is_stuck(struct node *node, struct set *set, uint32_t number)
{
	const struct entry *e = entry_find(states_of(node, set), number);
	if (!e || cdm_now_ms() - e->heard_ms > SILENT_MS)
		return false;
	return strcmp(e->state.state, "paused") == 0 || strcmp(e->state.state, "not_mounted") == 0;
}

bool state_heard(struct node *node, struct set *set, uint32_t number, struct state_heard *ret)
{
	const struct entry *e = entry_find(states_of(node, set), number);
	if (!e || e->down || !e->via || strcmp(e->state.state, "ok") != 0)
		return false;
	*ret = (struct state_heard){e->state.start, e->state.clock, e->via};
	return true;
}

int state_new(struct node *node)
{
	node->states = calloc(1, sizeof *node->states);
	if (!node->states)
		return -ENOMEM;
	node->states->node = node;
	node->states->refresh = cdm_loop_after(node->loop, REFRESH_MS, refresh, node);
	return 0;
}

void state_free(struct node *node)
{
	struct state_table *t = node->states;
	node->states = NULL;
	if (!t)
		return;
	cdm_timer_cancel(&t->refresh);
	for (size_t i = 0; i < t->count; i++) {
		cdm_timer_cancel(&t->sets[i].flood);
		cdm_timer_cancel(&t->sets[i].forward);
		cdm_vector_fini(&t->sets[i].told_durable);
		for (size_t k = 0; k < t->sets[i].count; k++)
			wire_state_fini(&t->sets[i].entries[k].state);
		free(t->sets[i].entries);
	}
	free(t->sets);
	free(t);
}
