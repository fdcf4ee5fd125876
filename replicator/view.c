/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/view.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "common/text.h"
#include "replicator/links.h"
#include "replicator/opens.h"
#include "replicator/route.h"

#define BEHIND_MAX 64 /* in one report to the master */
#define REST_NS 15000000000ll

json_t *view_text(const char *bytes)
{
	json_t *j = json_string(bytes);
	if (j)
		return j;
	size_t len = strlen(bytes), n = 0;
	char *out = malloc(len * 4 + 1);
	if (!out)
		abort();
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)bytes[i];
		n += (size_t)sprintf(out + n, c >= 0x80 ? "\\x%02x" : "%c", c);
	}
	j = json_string(out);
	free(out);
	return j;
}

char *view_hex(const char *bytes, size_t len)
{
	char *hex = malloc(2 * len + 1);
	if (!hex)
		abort();
	for (size_t i = 0; i < len; i++)
		sprintf(hex + 2 * i, "%02x", (unsigned char)bytes[i]);
	hex[2 * len] = 0;
	return hex;
}

void view_put_path(json_t *object, const char *path, size_t len)
{
	json_t *text = json_stringn(path, len);
	if (!text) {
		_cleanup_free_ char *copy = strndup(path, len), *hex = view_hex(path, len);
		json_object_set_new(object, "path_hex", json_string(hex));
		text = view_text(copy ? copy : "");
	}
	json_object_set_new(object, "path", text);
}

json_t *view_version(struct node *node, struct set *set, struct cdm_dot dot)
{
	char text[CDM_DOT_NAMED_SIZE] = "";
	const struct route *r = route_of(node, set_name(set));
	const struct member *m = r ? route_member_number(r, CDM_ORIGIN_NODE(dot.origin)) : NULL;
	if (!cdm_dot_is_none(dot))
		cdm_dot_format_named(dot, m ? m->name : NULL, text);
	return view_text(text);
}

bool view_counts(const struct peer_state *p)
{
	return (p->member->role & CDM_ROLE_TARGET) && !p->member->drained;
}

static void say(struct view_node *v, const char *code, const char *reason)
{
	snprintf(v->reason_code, sizeof v->reason_code, "%s", code);
	snprintf(v->reason, sizeof v->reason, "%s", reason);
}

static bool is_ailing(const struct peer_state *p)
{
	return p->reason[0] && strcmp(p->state, "ok") != 0;
}

static void say_no_contact(struct view_node *v, const struct peer_state *p)
{
	char when[32];
	struct tm tm;
	time_t t = (time_t)(p->heard_wall_ns / 1000000000);
	if (!p->heard_wall_ns) {
		say(v, "no_contact", "not heard of since this node started");
		return;
	}
	gmtime_r(&t, &tm);
	strftime(when, sizeof when, time(NULL) - t < 86400 ? "%H:%MZ" : "%Y-%m-%d %H:%MZ", &tm);
	snprintf(v->reason, sizeof v->reason, "no contact since %s%s%.200s", when, is_ailing(p) ? "; before: " : "", is_ailing(p) ? p->reason : "");
	snprintf(v->reason_code, sizeof v->reason_code, "no_contact");
}

static void measure(struct set *set, const struct peer_state *p, struct view_node *v)
{
	struct set_state own = {0};
	struct set_pending pending = {0};
	set_get_state(set, &own);
	v->in_sync = p->self || (p->known && cdm_vector_covers_all(p->durable, &own.visible));
	if (v->in_sync)
		return;
	set_pending(set, p->durable, &pending);
	v->pending_changes = pending.changes;
	v->pending_bytes = pending.bytes;
	if (pending.oldest_ns) {
		int64_t age = cdm_wall_ns() - pending.oldest_ns;
		v->lag_s = age > 0 ? (double)age / 1e9 : 0;
	}
}

/* It said what ails it a moment ago, and may have left for that (a full disk). */
static bool is_resting(const struct peer_state *p)
{
	return p->down && is_ailing(p) && cdm_wall_ns() - p->heard_wall_ns < REST_NS;
}

/* How a state tells of a proof: code "proven", reason "proven equal 2026-11-28 03:12:07Z with n1". 0: it does not. */
static int64_t proof_of(const char *reason_code, const char *reason, char ret_with[64])
{
	struct tm tm = {0};
	const char *rest = strcmp(reason_code, "proven") == 0 ? strptime(reason, "proven equal %Y-%m-%d %H:%M:%SZ with ", &tm) : NULL;
	snprintf(ret_with, 64, "%s", rest ? rest : "");
	return rest ? (int64_t)timegm(&tm) : 0;
}

/* Nothing ails it. */
static void say_what_it_says(struct view_node *v, const struct peer_state *p)
{
	char at[32];
	v->proven_s = proof_of(p->reason_code, p->reason, v->proven_with);
	if (!v->proven_s)
		say(v, p->reason_code, p->reason);
	else if (v->in_sync)
		snprintf(v->reason, sizeof v->reason, "proven equal %s", cdm_text_minute(v->proven_s, at, sizeof at));
}

void view_of(struct set *set, const struct peer_state *p, struct view_node *ret)
{
	*ret = (struct view_node){.state = "in sync"};
	measure(set, p, ret);
	if (p->down && !is_resting(p)) {
		say_no_contact(ret, p);
		ret->in_sync = false;
	}
	if (p->member->drained) {
		ret->state = "drained";
	} else if (p->member->paused) {
		ret->state = "paused";
		ret->in_sync = false; /* it does not follow */
		say(ret, "paused", ROUTE_PAUSED);
	} else if (p->down && !is_resting(p)) {
		ret->state = "down";
	} else if (strcmp(p->state, "ok") != 0) {
		ret->state = strcmp(p->state, "resync") == 0 ? "resync" : "paused";
		say(ret, p->reason_code[0] ? p->reason_code : p->state, p->reason);
		ret->in_sync = false; /* whatever it has: it is not following */
	} else if (p->member->role == CDM_ROLE_SOURCE) {
		ret->state = "source";
		say_what_it_says(ret, p);
	} else {
		ret->in_sync &= strcmp(p->reason_code, "quarantined") != 0; /* what it has set aside it lacks */
		ret->state = ret->in_sync ? "in sync" : "behind";
		say_what_it_says(ret, p);
	}
}

struct listing {
	struct set *set;
	json_t *nodes;
	bool in_sync;
};

/* "proven_s", "proven_with"; nothing without a proof. */
static void put_proof(json_t *j, int64_t proven_s, const char *with)
{
	if (!proven_s)
		return;
	json_object_set_new(j, "proven_s", json_integer(proven_s));
	json_object_set_new(j, "proven_with", view_text(with));
}

static void list_node(void *arg, const struct peer_state *p)
{
	struct listing *l = arg;
	struct view_node v;
	view_of(l->set, p, &v);
	if (view_counts(p) && !v.in_sync)
		l->in_sync = false;
	json_t *j = json_object();
	json_object_set_new(j, "name", view_text(p->member->name));
	json_object_set_new(j, "state", json_string(v.state));
	json_object_set_new(j, "lag_s", json_real(v.lag_s));
	json_object_set_new(j, "pending_changes", json_integer((json_int_t)v.pending_changes));
	json_object_set_new(j, "pending_bytes", json_integer((json_int_t)v.pending_bytes));
	json_object_set_new(j, "reason_code", view_text(v.reason_code));
	json_object_set_new(j, "reason", view_text(v.reason));
	json_object_set_new(j, "group", view_text(p->member->group ? p->member->group : ""));
	json_object_set_new(j, "counted", json_boolean(view_counts(p)));
	put_proof(j, v.proven_s, v.proven_with);
	json_array_append_new(l->nodes, j);
}

json_t *view_status(struct node *node, struct set *set)
{
	struct listing l = {.set = set, .nodes = json_array(), .in_sync = true};
	if (state_each(node, set, list_node, &l) == 0)
		l.in_sync = false;
	json_t *j = json_object();
	json_object_set_new(j, "apiVersion", json_integer(1));
	json_object_set_new(j, "set", json_string(set_name(set)));
	json_object_set_new(j, "in_sync", json_boolean(l.in_sync));
	json_object_set_new(j, "nodes", l.nodes);
	return j;
}

static json_t *links_of(struct node *node, struct set *set)
{
	json_t *list = json_array();
	for (size_t i = 0; i < node->link_count; i++) {
		const struct link *l = node->links[i];
		uint64_t sent, received;
		if (!link_carries(l, set) && !link_attaching(l, set))
			continue;
		link_counters(l, &sent, &received);
		json_array_append_new(list, json_pack("{s:s, s:b, s:I, s:I}", "peer", link_peer_name(l), "up", link_carries(l, set),
			"sent_bytes", (json_int_t)sent, "received_bytes", (json_int_t)received));
	}
	return list;
}

struct behind {
	struct set *set;
	const struct node *node;
	json_t *list;
};

static bool has_link(const struct node *node, uint32_t number, struct set *set)
{
	for (size_t i = 0; i < node->link_count; i++)
		if (link_peer_number(node->links[i]) == number && link_carries(node->links[i], set))
			return true;
	return false;
}

static void add_behind(void *arg, const struct peer_state *p)
{
	struct behind *b = arg;
	struct view_node v;
	if (p->self || json_array_size(b->list) >= BEHIND_MAX || !(p->down || has_link(b->node, p->member->number, b->set)))
		return;
	view_of(b->set, p, &v);
	if (v.pending_changes)
		json_array_append_new(b->list, json_pack("{s:o, s:f, s:I, s:I}", "name", view_text(p->member->name), "lag_s", v.lag_s, "pending_changes",
			(json_int_t)v.pending_changes, "pending_bytes", (json_int_t)v.pending_bytes));
}

/* What this node has and its neighbours lack, and those that nobody hears: only who has a change knows how old it is. */
static json_t *behind_of(struct node *node, struct set *set)
{
	struct behind b = {.set = set, .node = node, .list = json_array()};
	state_each(node, set, add_behind, &b);
	return b.list;
}

static json_t *count_of(json_t *stats, const char *key)
{
	return json_integer(json_integer_value(json_object_get(stats, key)));
}

static uint64_t saved(uint64_t offered, uint64_t sent)
{
	return offered > sent ? offered - sent : 0;
}

json_t *view_sections(struct node *node)
{
	json_t *all = json_object();
	links_account(node);
	for (unsigned i = 0; i < SECTION_CLASSES; i++) {
		const struct section_cost *c = &node->section_costs[i];
		uint64_t offered = c->raw_bytes + c->delta_saved_bytes;
		json_object_set_new(all, section_name(i), json_pack("{s:I, s:I, s:I, s:I, s:I}", "offered_bytes", (json_int_t)offered, "raw_bytes", (json_int_t)c->raw_bytes,
			"compressed_bytes", (json_int_t)c->compressed_bytes, "wire_bytes", (json_int_t)c->wire_bytes, "saved_bytes", (json_int_t)saved(offered, c->wire_bytes)));
	}
	return all;
}

json_t *view_cost(json_t *stats)
{
	json_t *j = json_object();
	const char *const keys[] = {"offered_bytes", "after_delta_bytes", "sent_bytes"};
	for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
		json_object_set_new(j, keys[i], count_of(stats, keys[i]));
	json_object_set_new(j, "saved_bytes", json_integer((json_int_t)saved((uint64_t)json_integer_value(json_object_get(j, "offered_bytes")),
		(uint64_t)json_integer_value(json_object_get(j, "sent_bytes")))));
	return j;
}

json_t *view_own(struct node *node, struct set *set)
{
	struct set_state now = {0};
	struct set_pending pending = {0};
	set_get_state(set, &now);
	if (strcmp(now.reason_code, "proven") == 0)
		now.reason_code[0] = now.reason[0] = 0; /* said by itself */
	set_pending(set, &now.durable, &pending);
	_cleanup_free_ char *visible = cdm_vector_format(&now.visible), *durable = cdm_vector_format(&now.durable);
	json_t *j = json_object(), *stats = set_stats(set);
	const struct held *h = route_held_find(node, set_name(set));
	double full_s = set_journal_full_s(set);
	int64_t age = pending.oldest_ns ? cdm_wall_ns() - pending.oldest_ns : 0;
	json_object_set_new(j, "name", json_string(set_name(set)));
	json_object_set_new(j, "state", view_text(now.state));
	json_object_set_new(j, "reason_code", view_text(now.reason_code));
	json_object_set_new(j, "reason", view_text(now.reason[0] || !h ? now.reason : parent_why(h)));
	put_proof(j, now.proven_s, now.proven_with);
	json_object_set_new(j, "vector", json_string(visible ? visible : ""));
	json_object_set_new(j, "durable", json_string(durable ? durable : ""));
	json_object_set_new(j, "lag_s", json_real(age > 0 ? (double)age / 1e9 : 0));
	json_object_set_new(j, "pending_changes", json_integer((json_int_t)pending.changes));
	json_object_set_new(j, "pending_bytes", json_integer((json_int_t)pending.bytes));
	json_object_set_new(j, "open", json_integer((json_int_t)opens_known(node, set)));
	json_object_set_new(j, "conflicts", count_of(stats, "conflicts"));
	json_object_set_new(j, "quarantined", count_of(stats, "quarantined"));
	json_object_set_new(j, "journal_full_s", full_s >= 0 ? json_real(full_s) : json_null());
	json_object_set_new(j, "links", links_of(node, set));
	json_object_set_new(j, "behind", behind_of(node, set));
	json_object_set_new(j, "holds", set_holds(set));
	json_object_set_new(j, "cost", view_cost(stats));
	json_decref(stats);
	return j;
}
