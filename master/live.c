/* SPDX-License-Identifier: Apache-2.0 */
#include "master/live.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "common/status.h"
#include "common/text.h"
#include "common/vector.h"
#include "master/policy.h"
#include "master/section.h"

struct live {
	struct master *master;
	struct live_node **nodes; /* by number */
	size_t room;
	int64_t start_ms;
};

struct live *live_new(struct master *m)
{
	struct live *l = calloc(1, sizeof *l);
	if (l) {
		l->master = m;
		l->start_ms = master_now_ms();
	}
	return l;
}

void live_free(struct live **pl)
{
	struct live *l = *pl;
	*pl = NULL;
	if (!l)
		return;
	for (size_t i = 0; i < l->room; i++) {
		if (!l->nodes[i])
			continue;
		json_decref(l->nodes[i]->hello_sets);
		json_decref(l->nodes[i]->sets);
		json_decref(l->nodes[i]->parents);
		free(l->nodes[i]);
	}
	free(l->nodes);
	free(l);
}

static struct live_node *find(const struct live *l, uint32_t number)
{
	return number < l->room ? l->nodes[number] : NULL;
}

const struct live_node *live_find(const struct live *l, uint32_t number)
{
	return find(l, number);
}

/* Numbers come from the registry, so the table is as large as the installation ever was. */
static struct live_node *find_or_add(struct live *l, uint32_t number)
{
	struct live_node *n = find(l, number);
	if (n)
		return n;
	if (number >= l->room) {
		size_t room = number + 64;
		struct live_node **grown = realloc(l->nodes, room * sizeof *grown);
		if (!grown)
			return NULL;
		memset(grown + l->room, 0, (room - l->room) * sizeof *grown);
		l->nodes = grown;
		l->room = room;
	}
	n = calloc(1, sizeof *n);
	if (!n)
		return NULL;
	n->number = number;
	n->sets = json_object();
	n->parents = json_object();
	l->nodes[number] = n;
	return n;
}

void live_hello(struct live *l, uint32_t number, const json_t *hello)
{
	struct live_node *n = find_or_add(l, number);
	if (!n)
		return;
	const char *version = json_string_value(json_object_get(hello, "version"));
	snprintf(n->version, sizeof n->version, "%s", version ? version : "");
	n->connected = true;
	n->since_ms = master_now_ms();
	n->seen = time(NULL);
	n->epoch = (uint64_t)json_integer_value(json_object_get(hello, "epoch"));
	json_decref(n->hello_sets);
	n->hello_sets = json_incref(json_object_get(hello, "sets"));
	json_object_clear(n->sets);
	json_object_clear(n->parents);
	memset(n->sections, 0, sizeof n->sections);
}

void live_certificate(struct live *l, uint32_t number, int64_t end)
{
	struct live_node *n = find(l, number);
	if (n)
		n->certificate_end = end;
}

void live_lost(struct live *l, uint32_t number)
{
	struct live_node *n = find(l, number);
	if (!n || !n->connected)
		return;
	n->connected = false;
	n->since_ms = master_now_ms();
}

/* What was offered comes first, what was sent last. */
static const char *const section_figures[COST_FIGURES] = {"offered_bytes", "raw_bytes", "compressed_bytes", "wire_bytes"};
static const char *const set_figures[COST_FIGURES] = {"offered_bytes", "after_delta_bytes", "sent_bytes"};

/* All of them, or not known. */
static struct live_cost parse_cost(const json_t *said, const char *const figures[COST_FIGURES])
{
	struct live_cost cost = {.known = true};
	for (int i = 0; i < COST_FIGURES && figures[i]; i++) {
		const json_t *v = json_object_get(said, figures[i]);
		cost.bytes[i] = json_integer_value(v);
		cost.known &= json_is_integer(v) && cost.bytes[i] >= 0;
	}
	return cost;
}

void live_status(struct live *l, uint32_t number, const json_t *status)
{
	struct live_node *n = find(l, number);
	if (!n)
		return;
	n->seen = time(NULL);
	n->status_ms = master_now_ms();
	size_t i;
	json_t *set;
	bool appeared = false;
	json_array_foreach(json_object_get(status, "sets"), i, set) {
		const char *name = json_string_value(json_object_get(set, "name"));
		if (!name || !model_set(registry_model(l->master->registry), name))
			continue; /* bounded: only sets that exist are kept */
		appeared |= !json_object_get(n->sets, name);
		json_object_set(n->sets, name, set);
	}
	for (enum section which = SECTION_GROUP; which < SECTION_COUNT; which++) {
		const json_t *said = json_object_get(json_object_get(status, "sections"), section_name(which));
		if (said)
			n->sections[which] = parse_cost(said, section_figures);
	}
	if (appeared)
		policy_poke(l->master->policy);
}

void live_parent(struct live *l, uint32_t number, const char *set, const char *parent)
{
	struct live_node *n = find(l, number);
	if (n && model_set(registry_model(l->master->registry), set))
		json_object_set_new(n->parents, set, parent ? json_string(parent) : json_null());
}

void live_confirmed(struct live *l, uint32_t number, uint64_t epoch)
{
	struct live_node *n = find(l, number);
	if (!n)
		return;
	n->epoch = epoch;
	json_object_clear(n->parents); /* it follows the table again */
}

static bool lists_set(const struct live_node *n, const char *set)
{
	size_t i;
	json_t *item;
	json_array_foreach(n->hello_sets, i, item) {
		const char *name = json_string_value(json_object_get(item, "name"));
		if (name && strcmp(name, set) == 0)
			return true;
	}
	return json_object_get(n->sets, set) != NULL;
}

bool live_is_up(const struct live *l, const struct model_node *n, const char *set)
{
	const struct live_node *ln = find(l, n->number);
	int64_t now = master_now_ms();
	if (!ln) /* not heard of yet: known from before, it gets the time to come back after our start */
		return n->last_seen > 0 && now - l->start_ms < LIVE_START_MS;
	if (!ln->connected && now - ln->since_ms >= LIVE_LOST_MS)
		return false;
	return lists_set(ln, set);
}

int64_t live_next_change_ms(const struct live *l)
{
	int64_t now = master_now_ms(), next = l->start_ms + LIVE_START_MS - now;
	for (size_t i = 0; i < l->room; i++) {
		if (!l->nodes[i] || l->nodes[i]->connected)
			continue;
		int64_t left = l->nodes[i]->since_ms + LIVE_LOST_MS - now;
		if (left > 0 && (next <= 0 || left < next))
			next = left;
	}
	return next > 0 ? next : 0;
}

size_t live_connected_count(const struct live *l)
{
	size_t count = 0;
	for (size_t i = 0; i < l->room; i++)
		count += l->nodes[i] && l->nodes[i]->connected;
	return count;
}

/* --- answers ---------------------------------------------------------------------------------------------------- */

static const char *text_of(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));
	return s ? s : "";
}

/* Everything that any node of the set has, by what they said last. */
static void merge_visible(const struct live *l, const struct model *m, const struct model_set *s, struct cdm_vector *all)
{
	for (size_t i = 0; i < m->node_count; i++) {
		const struct live_node *ln = s->role[i] ? find(l, m->nodes[i].number) : NULL;
		struct cdm_vector v = {0};
		const json_t *status = ln ? json_object_get(ln->sets, s->name) : NULL;
		if (status && cdm_vector_parse(text_of(status, "vector"), &v) == 0)
			cdm_vector_merge(all, &v);
		cdm_vector_fini(&v);
	}
}

struct judged {
	const char *state, *code;
	char reason[200];
	double lag_s;
	json_int_t changes, bytes;
};

/* What connected nodes say that this one lacks of theirs; the most counts. */
static void add_reports(const struct live *l, const struct model *m, const struct model_set *s, const char *name, struct judged *j)
{
	for (size_t i = 0; i < m->node_count; i++) {
		const struct live_node *ln = s->role[i] ? find(l, m->nodes[i].number) : NULL;
		const json_t *list = ln && ln->connected ? json_object_get(json_object_get(ln->sets, s->name), "behind") : NULL;
		size_t k;
		const json_t *item;
		json_array_foreach(list, k, item) {
			if (strcmp(text_of(item, "name"), name) != 0)
				continue;
			double lag = json_number_value(json_object_get(item, "lag_s"));
			json_int_t changes = json_integer_value(json_object_get(item, "pending_changes"));
			json_int_t bytes = json_integer_value(json_object_get(item, "pending_bytes"));
			if (changes > 0) /* it grows until the next report says otherwise */
				lag += (double)(master_now_ms() - ln->status_ms) / 1000;
			j->lag_s = lag > j->lag_s ? lag : j->lag_s;
			j->changes = changes > j->changes ? changes : j->changes;
			j->bytes = bytes > j->bytes ? bytes : j->bytes;
		}
	}
}

static void judge_lost(const struct live_node *ln, const struct model_node *n, struct judged *j)
{
	int64_t seen = ln ? ln->seen : n->last_seen;
	time_t t = (time_t)seen;
	char at[32];
	struct tm tm;
	gmtime_r(&t, &tm);
	strftime(at, sizeof at, time(NULL) - t < 86400 ? "%H:%MZ" : "%Y-%m-%d %H:%MZ", &tm);
	j->state = "down";
	j->code = "no_contact";
	snprintf(j->reason, sizeof j->reason, seen ? "no contact since %s" : "not seen yet; start its cdm-replicator%.0s", at);
}

/* The words are those of the replicators (view.c there). */
static void judge(const struct live *l, const struct model_node *n, const struct model_set *s, enum cdm_role role, const struct cdm_vector *all,
	struct judged *j)
{
	const struct live_node *ln = find(l, n->number);
	const json_t *status = ln ? json_object_get(ln->sets, s->name) : NULL;
	const char *state = text_of(status, "state");
	struct cdm_vector durable = {0};
	bool has_all = status && cdm_vector_parse(text_of(status, "durable"), &durable) == 0 && cdm_vector_covers_all(&durable, all) &&
		strcmp(text_of(status, "reason_code"), "quarantined") != 0;
	cdm_vector_fini(&durable);
	*j = (struct judged){.state = has_all ? "in sync" : "behind", .code = text_of(status, "reason_code")};
	snprintf(j->reason, sizeof j->reason, "%s", text_of(status, "reason"));
	if (!ln || !ln->connected) {
		judge_lost(ln, n, j);
	} else if (!status) {
		j->state = "paused";
		j->code = "not_mounted";
		snprintf(j->reason, sizeof j->reason, "no [set %s] in its node.conf, or not reported yet", s->name);
	} else if (strcmp(state, "ok") != 0) {
		j->state = strcmp(state, "resync") == 0 ? "resync" : "paused";
	} else if (role == CDM_ROLE_SOURCE) {
		j->state = "source";
	}
	int64_t paused = s->paused_since[model_index(registry_model(l->master->registry), n)];
	if (paused && strcmp(j->state, "down") != 0) {
		char since[32];
		j->state = j->code = "paused";
		snprintf(j->reason, sizeof j->reason, "paused since %s", cdm_text_minute(paused, since, sizeof since));
	}
	if (n->state == NODE_DRAINED)
		j->state = "drained";
}

/* --- costs ------------------------------------------------------------------------------------------------------ */

struct cost_sum {
	size_t nodes;
	int64_t bytes[COST_FIGURES];
};

static void add_cost(struct cost_sum *sum, const struct live_cost *cost)
{
	if (!cost->known)
		return;
	sum->nodes++;
	for (int i = 0; i < COST_FIGURES; i++)
		if (__builtin_add_overflow(sum->bytes[i], cost->bytes[i], &sum->bytes[i]))
			sum->bytes[i] = INT64_MAX;
}

static json_t *cost_json(const struct cost_sum *sum, const char *const figures[COST_FIGURES])
{
	json_t *j = sum->nodes ? json_pack("{s:I}", "nodes", (json_int_t)sum->nodes) : NULL;
	int64_t offered = sum->bytes[0], sent = 0;
	for (int i = 0; j && i < COST_FIGURES && figures[i]; i++) {
		sent = sum->bytes[i];
		json_object_set_new(j, figures[i], json_integer(sent));
	}
	if (j)
		json_object_set_new(j, "saved_bytes", json_integer(offered > sent ? offered - sent : 0));
	return j;
}

json_t *live_section_cost(const struct live *l, const struct model *m, enum section which)
{
	struct cost_sum sum = {0};
	for (size_t i = 0; i < m->node_count; i++) {
		const struct live_node *ln = find(l, m->nodes[i].number);
		if (ln && ln->connected)
			add_cost(&sum, &ln->sections[which]);
	}
	return cost_json(&sum, section_figures);
}

struct live_cost live_node_set_cost(const struct live_node *n, const char *set)
{
	return parse_cost(json_object_get(json_object_get(n->sets, set), "cost"), set_figures);
}

json_t *live_set_cost(const struct live *l, const struct model *m, const struct model_set *s)
{
	struct cost_sum sum = {0};
	for (size_t i = 0; i < m->node_count; i++) {
		const struct live_node *ln = s->role[i] ? find(l, m->nodes[i].number) : NULL;
		if (!ln || !ln->connected)
			continue;
		struct live_cost cost = live_node_set_cost(ln, s->name);
		add_cost(&sum, &cost);
	}
	return cost_json(&sum, set_figures);
}

/* --- status ----------------------------------------------------------------------------------------------------- */

/* What it told of its last scrub. The reason, where nothing else is one. */
static void put_proof(const struct live *l, const struct model_node *n, const struct model_set *s, json_t *one)
{
	const struct live_node *ln = find(l, n->number);
	const json_t *status = ln ? json_object_get(ln->sets, s->name) : NULL;
	json_t *proven_s = json_object_get(status, "proven_s");
	bool good = cdm_status_is_good(one);
	char at[32], reason[64];
	if (!json_is_integer(proven_s))
		return;
	json_object_set(one, "proven_s", proven_s);
	json_object_set_new(one, "proven_with", json_string(text_of(status, "proven_with")));
	if (!good || *text_of(one, "reason"))
		return;
	snprintf(reason, sizeof reason, "proven equal %s", cdm_text_minute(json_integer_value(proven_s), at, sizeof at));
	json_object_set_new(one, "reason", json_string(reason));
}

json_t *live_set_status(const struct live *l, const struct model *m, const struct model_set *s)
{
	struct cdm_vector all = {0};
	json_t *nodes = json_array();
	bool in_sync = true;
	merge_visible(l, m, s, &all);
	for (size_t i = 0; i < m->node_count; i++) {
		const struct model_node *n = &m->nodes[i];
		if (!s->role[i])
			continue;
		struct judged j;
		judge(l, n, s, s->role[i], &all, &j);
		bool counted = (s->role[i] & CDM_ROLE_TARGET) && n->state != NODE_DRAINED;
		if (strcmp(j.state, "in sync") != 0)
			add_reports(l, m, s, n->name, &j);
		if (counted && strcmp(j.state, "in sync") != 0)
			in_sync = false;
		json_t *one = json_pack("{s:s, s:s, s:f, s:I, s:I, s:s, s:s, s:s, s:b}", "name", n->name, "state", j.state, "lag_s", j.lag_s,
			"pending_changes", j.changes, "pending_bytes", j.bytes, "reason_code", j.code, "reason", j.reason, "group", m->groups[n->group].name,
			"counted", counted);
		put_proof(l, n, s, one);
		json_array_append_new(nodes, one);
	}
	cdm_vector_fini(&all);
	cdm_status_sort(nodes, "name");
	return json_pack("{s:i, s:s, s:b, s:o, s:o*}", "apiVersion", 1, "set", s->name, "in_sync", in_sync, "nodes", nodes, "cost", live_set_cost(l, m, s));
}

double live_journal_full_s(const struct live *l, const struct model *m, const struct model_set *s)
{
	double least = -1;
	for (size_t i = 0; i < m->node_count; i++) {
		const struct live_node *ln = s->role[i] ? find(l, m->nodes[i].number) : NULL;
		const json_t *full = ln && ln->connected ? json_object_get(json_object_get(ln->sets, s->name), "journal_full_s") : NULL;
		if (json_is_number(full) && (least < 0 || json_number_value(full) < least))
			least = json_number_value(full);
	}
	return least;
}

json_t *live_holds(const struct live *l, const struct model *m)
{
	json_t *all = json_array();
	for (size_t i = 0; i < m->node_count; i++) {
		const struct live_node *ln = find(l, m->nodes[i].number);
		const char *set;
		json_t *status, *hold;
		size_t k;
		if (!ln || !ln->connected)
			continue;
		json_object_foreach(ln->sets, set, status) {
			json_array_foreach(json_object_get(status, "holds"), k, hold) {
				json_t *one = json_is_string(json_object_get(hold, "id")) ? json_copy(hold) : NULL;
				if (!one)
					continue;
				json_object_set_new(one, "set", json_string(set));
				json_object_set_new(one, "node", json_string(m->nodes[i].name));
				json_array_append_new(all, one);
			}
		}
	}
	return all;
}

json_t *live_node_json(const struct live *l, const struct model *m, const struct model_node *n)
{
	const struct live_node *ln = find(l, n->number);
	const struct model_group *g = &m->groups[n->group];
	int64_t seen = ln ? ln->seen : n->last_seen;
	int64_t end = ln ? ln->certificate_end : 0;
	char at[32], until[32];
	master_format_time(seen, at);
	master_format_time(end, until);
	json_t *sets = json_array();
	const char *name;
	json_t *status;
	json_object_foreach(ln ? ln->sets : NULL, name, status)
		json_array_append(sets, status);
	return json_pack("{s:s, s:I, s:s, s:s, s:s, s:s, s:I, s:s, s:b, s:o, s:s, s:o, s:I, s:o}", "name", n->name, "number", (json_int_t)n->number, "group", g->name,
		"region", m->regions[g->region].name, "role", role_name(n->role), "state", node_state_name(n->state), "capacity", (json_int_t)n->capacity, "addr",
		n->addr, "connected", ln && ln->connected, "last_seen", seen ? json_string(at) : json_null(), "version", ln ? ln->version : "",
		"certificate_until", end ? json_string(until) : json_null(), "epoch",
		(json_int_t)(ln ? ln->epoch : 0), "sets", sets);
}
