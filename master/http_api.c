/* SPDX-License-Identifier: Apache-2.0 */
/* What the HTTP API answers (http_api.md). A handler checks the fields, hands a change to the registry or reads the model. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "common/status.h"
#include "master/http.h"
#include "master/live.h"
#include "master/metrics.h"
#include "master/policy.h"
#include "master/section.h"

static const char openapi[] =
#include "openapi.inc"
	;

/* --- fields ----------------------------------------------------------------------------------------------------- */

struct field {
	const char *name;
	enum { TEXT, TEXT_OR_NULL, NUMBER, BOOL, LIST, OBJECTS } type;
	bool required;
	const char *words; /* TEXT: allowed ones, separated by blanks */
	int64_t low, high; /* NUMBER */
};

static bool is_word(const char *words, const char *text)
{
	size_t len = strlen(text);
	for (const char *w = words; *w;) {
		size_t n = strcspn(w, " ");
		if (n == len && memcmp(w, text, n) == 0)
			return true;
		w += n + strspn(w + n, " ");
	}
	return false;
}

static bool is_text_list(const json_t *v)
{
	size_t i;
	json_t *item;
	if (!json_is_array(v) || json_array_size(v) > 10000)
		return false;
	json_array_foreach(v, i, item)
		if (!json_is_string(item))
			return false;
	return true;
}

static bool check_field(struct http_call *c, const struct field *f, const json_t *v)
{
	bool ok = f->type == NUMBER ? json_is_integer(v) : f->type == BOOL ? json_is_boolean(v) : f->type == LIST ? is_text_list(v)
		: f->type == OBJECTS ? json_is_array(v) : json_is_string(v) || (f->type == TEXT_OR_NULL && json_is_null(v));
	if (!ok) {
		http_problem(c, 400, "", "%s must be %s", f->name, f->type == NUMBER ? "a whole number" : f->type == BOOL ? "true or false"
			: f->type == LIST ? "a list of at most 10000 texts" : f->type == OBJECTS ? "a list" : "a text");
		return false;
	}
	if (f->type == NUMBER && (json_integer_value(v) < f->low || json_integer_value(v) > f->high)) {
		http_problem(c, 400, "", "%s must be %" PRId64 " to %" PRId64, f->name, f->low, f->high);
		return false;
	}
	if (f->words && !is_word(f->words, json_string_value(v))) {
		http_problem(c, 400, "", "%s must be one of: %s", f->name, f->words);
		return false;
	}
	return true;
}

/* All fields known, of their type, the required ones there. Answers and returns false otherwise. */
static bool check_fields(struct http_call *c, const struct field *fields)
{
	const char *key;
	json_t *v;
	json_object_foreach(c->body, key, v) {
		const struct field *f = fields;
		while (f->name && strcmp(f->name, key) != 0)
			f++;
		if (!f->name) {
			http_problem(c, 400, "see /api/v1/openapi.json", "unknown field \"%.80s\"", key);
			return false;
		}
		if (!check_field(c, f, v))
			return false;
	}
	for (const struct field *f = fields; f->name; f++)
		if (f->required && !json_object_get(c->body, f->name)) {
			http_problem(c, 400, "", "field \"%s\" is missing", f->name);
			return false;
		}
	return true;
}

/* --- changes ---------------------------------------------------------------------------------------------------- */

static void on_changed(void *arg, int error, const json_t *result, const struct cdm_error *err)
{
	struct http_call *c = arg;
	if (error < 0)
		http_problem(c, problem_status(error), err->hint, "%s", err->text);
	else
		http_answer(c, 200, json_pack("{s:b}", "dry_run", c->dry));
}

static void submit(struct http_call *c, enum registry_op op, registry_done_fn *done)
{
	struct registry_who who = {.account = c->account, .address = c->address};
	registry_submit(c->master->registry, op, json_incref(c->body), &who, c->dry, done, c);
}

static void change(struct http_call *c, enum registry_op op, const struct field *fields)
{
	if (!check_fields(c, fields))
		return;
	if (c->name)
		json_object_set_new(c->body, "name", json_string(c->name));
	submit(c, op, on_changed);
}

static const struct field no_fields[] = {{0}};
static const struct field region_fields[] = {{.name = "name", .required = true}, {0}};
static const struct field group_fields[] = {{.name = "name", .required = true}, {.name = "region", .required = true}, {0}};
static const struct field node_fields[] = {{.name = "state", .words = "active drained revoked"},
	{.name = "capacity", .type = NUMBER, .low = 1, .high = 1000}, {.name = "group"}, {0}};
#define SET_FIELDS                                                                                                             \
	{.name = "source", .type = LIST}, {.name = "target", .type = LIST}, {.name = "both", .type = LIST},                    \
		{.name = "exclude", .type = LIST}, {.name = "local", .type = LIST}, {.name = "default_excludes", .type = BOOL}, \
		{.name = "update", .words = "follow strict"}, {.name = "open", .words = "rest ship"}, {0}
static const struct field set_add_fields[] = {{.name = "name", .required = true}, SET_FIELDS};
static const struct field set_change_fields[] = {SET_FIELDS};
static const struct field section_fields[] = {{.name = "compression", .type = NUMBER, .low = 0, .high = 9}, {.name = "encryption", .type = BOOL},
	{.name = "delta", .type = BOOL}, {.name = "rate", .type = NUMBER, .low = 0, .high = SECTION_RATE_MAX}, {.name = "grid", .type = OBJECTS}, {0}};
static const struct field route_fields[] = {{.name = "set", .required = true}, {.name = "node", .required = true},
	{.name = "parent", .type = TEXT_OR_NULL, .required = true}, {0}};
static const struct field token_fields[] = {{.name = "group", .required = true}, {.name = "role", .words = "both source target"},
	{.name = "ttl_s", .type = NUMBER, .low = 1, .high = 366 * 86400}, {.name = "uses", .type = NUMBER, .low = 1, .high = 100000}, {0}};

static void region_post(struct http_call *c) { change(c, REG_REGION_ADD, region_fields); }
static void region_delete(struct http_call *c) { change(c, REG_REGION_REMOVE, no_fields); }
static void group_post(struct http_call *c) { change(c, REG_GROUP_ADD, group_fields); }
static void group_delete(struct http_call *c) { change(c, REG_GROUP_REMOVE, no_fields); }
static void node_patch(struct http_call *c) { change(c, REG_NODE_CHANGE, node_fields); }
static void node_delete(struct http_call *c) { change(c, REG_NODE_REMOVE, no_fields); }
static void set_post(struct http_call *c) { change(c, REG_SET_ADD, set_add_fields); }
static void set_patch(struct http_call *c) { change(c, REG_SET_CHANGE, set_change_fields); }
static void set_delete(struct http_call *c) { change(c, REG_SET_REMOVE, no_fields); }
static void section_patch(struct http_call *c) { change(c, REG_SECTION_CHANGE, section_fields); }
static void route_post(struct http_call *c) { change(c, REG_ROUTE_SET, route_fields); }

static const struct field adopt_fields[] = {{.name = "node", .required = true}, {.name = "store"}, {.name = "delete", .type = BOOL}, {0}};

static const struct field rescan_fields[] = {{.name = "node", .required = true}, {.name = "path"}, {0}};

static const struct field scrub_fields[] = {{.name = "node", .required = true}, {0}};

static const struct field conflicts_fields[] = {{.name = "node", .required = true}, {.name = "action", .words = "list show take drop", .required = true}, {.name = "id"}, {0}};

static const struct field quarantine_fields[] = {{.name = "node", .required = true}, {.name = "action", .words = "list drop", .required = true}, {.name = "id"}, {0}};

static void errand_post(struct http_call *c, const char *what, const struct field *fields)
{
	const struct model *m = registry_model(c->master->registry);
	const struct model_set *s = model_set(m, c->name);
	if (!check_fields(c, fields))
		return;
	const char *name = json_string_value(json_object_get(c->body, "node"));
	const struct model_node *n = model_node(m, name);
	if (!s)
		http_problem(c, 404, "cdmctl set list shows all", "unknown set \"%.80s\"", c->name);
	else if (!n)
		http_problem(c, 404, "cdmctl node list shows all", "unknown node \"%.80s\"", name);
	else if (!s->role[n - m->nodes])
		http_problem(c, 409, "add it to the set first: cdmctl set change", "node %s is not in set %s", n->name, s->name);
	else
		adopt_start(c, n, s->name, what);
}

static void adopt_post(struct http_call *c) { errand_post(c, "adopt", adopt_fields); }
static void rescan_post(struct http_call *c) { errand_post(c, "rescan", rescan_fields); }
static void scrub_post(struct http_call *c) { errand_post(c, "scrub", scrub_fields); }
static void conflicts_post(struct http_call *c) { errand_post(c, "conflicts", conflicts_fields); }
static void quarantine_post(struct http_call *c) { errand_post(c, "quarantine", quarantine_fields); }

/* --- holds ------------------------------------------------------------------------------------------------------ */

static const struct field hold_fields[] = {{.name = "decision", .words = "approve reject", .required = true}, {0}};

static void holds_get(struct http_call *c)
{
	http_answer(c, 200, json_pack("{s:o}", "holds", live_holds(c->master->live, registry_model(c->master->registry))));
}

static void hold_post(struct http_call *c)
{
	const struct model *m = registry_model(c->master->registry);
	size_t i;
	json_t *hold, *found = NULL;
	if (!check_fields(c, hold_fields))
		return;
	json_t *all = live_holds(c->master->live, m);
	json_array_foreach(all, i, hold)
		if (strcmp(json_string_value(json_object_get(hold, "id")), c->name) == 0)
			found = hold;
	const char *decision = json_string_value(json_object_get(c->body, "decision"));
	const struct model_node *n = found ? model_node(m, json_string_value(json_object_get(found, "node"))) : NULL;
	if (!n) {
		http_problem(c, 404, "cdmctl hold list shows all", "nothing is held under \"%.80s\"", c->name);
	} else if (c->dry) {
		http_answer(c, 200, json_pack("{s:b, s:O}", "dry_run", true, "hold", found));
	} else {
		json_object_set_new(c->body, "hold", json_string(c->name));
		json_object_set_new(c->body, "approve", json_boolean(strcmp(decision, "approve") == 0));
		adopt_start(c, n, json_string_value(json_object_get(found, "set")), "hold");
	}
	json_decref(all);
}

/* --- pausing ---------------------------------------------------------------------------------------------------- */

static const struct field pause_fields[] = {{.name = "group"}, {0}};

/* Members of the set in "@all", "@group" or "@region". */
static size_t count_members(const struct model *m, const struct model_set *s, const char *where)
{
	size_t count = 0;
	for (size_t i = 0; i < m->node_count; i++) {
		const struct model_group *g = &m->groups[m->nodes[i].group];
		count += s->role[i] && (strcmp(where, "@all") == 0 || strcmp(where + 1, g->name) == 0 || strcmp(where + 1, m->regions[g->region].name) == 0);
	}
	return count;
}

static void answer_pause(struct http_call *c, int error, const struct cdm_error *err, const char *event, const char *said)
{
	const struct model *m = registry_model(c->master->registry);
	const struct model_set *s = model_set(m, json_string_value(json_object_get(c->body, "name")));
	if (error < 0 || !s) {
		http_problem(c, error < 0 ? problem_status(error) : 404, err->hint, "%s", error < 0 ? err->text : "the set is gone");
		return;
	}
	const char *where = json_string_value(json_object_get(c->body, "where"));
	double full_s = live_journal_full_s(c->master->live, m, s);
	size_t nodes = count_members(m, s, where);
	if (!c->dry)
		news_tell(c->master->news, 5, event, NULL, s->name, "%s in %s (%zu node%s) by %s", said, where + 1, nodes, nodes == 1 ? "" : "s",
			c->account ? c->account : "?");
	http_answer(c, 200, json_pack("{s:b, s:s, s:I, s:O, s:o}", "dry_run", c->dry, "set", s->name, "nodes", (json_int_t)nodes, "paused", s->pauses,
		"journal_full_s", full_s >= 0 ? json_real(full_s) : json_null()));
}

static void on_paused(void *arg, int error, const json_t *result, const struct cdm_error *err)
{
	answer_pause(arg, error, err, "set.paused", "paused");
}

static void on_resumed(void *arg, int error, const json_t *result, const struct cdm_error *err)
{
	answer_pause(arg, error, err, "set.resumed", "resumed");
}

static void pause_or_resume(struct http_call *c, enum registry_op op, registry_done_fn *done)
{
	if (!check_fields(c, pause_fields))
		return;
	const char *group = json_string_value(json_object_get(c->body, "group"));
	json_t *where = group ? json_sprintf("@%s", group) : json_string("@all");
	json_object_del(c->body, "group");
	json_object_set_new(c->body, "name", json_string(c->name));
	json_object_set_new(c->body, "where", where);
	json_object_set_new(c->body, "now", json_integer((json_int_t)time(NULL)));
	submit(c, op, done);
}

static void pause_post(struct http_call *c) { pause_or_resume(c, REG_SET_PAUSE, on_paused); }
static void resume_post(struct http_call *c) { pause_or_resume(c, REG_SET_RESUME, on_resumed); }

static void token_delete(struct http_call *c)
{
	if (!check_fields(c, no_fields))
		return;
	json_object_set_new(c->body, "id", json_string(c->name));
	submit(c, REG_TOKEN_REMOVE, on_changed);
}

/* --- tokens ----------------------------------------------------------------------------------------------------- */

static void on_token(void *arg, int error, const json_t *result, const struct cdm_error *err)
{
	struct http_call *c = arg;
	char at[32], agents[300];
	if (error < 0) {
		http_problem(c, problem_status(error), err->hint, "%s", err->text);
		return;
	}
	const char *token = json_string_value(json_object_get(c->body, "token"));
	master_format_time(json_integer_value(json_object_get(c->body, "expires")), at);
	master_agents_address(c->master, agents);
	http_answer(c, 200, json_pack("{s:s, s:s, s:s, s:s, s:i, s:s, s:o, s:b}", "id", json_string_value(json_object_get(c->body, "id")), "token", token, "group",
		json_string_value(json_object_get(c->body, "group")), "role", json_string_value(json_object_get(c->body, "role")), "uses",
		(int)json_integer_value(json_object_get(c->body, "uses")), "expires", at, "join",
		json_sprintf("cdm-replicator join %s --token %s", agents, token), "dry_run", c->dry));
}

static void token_post(struct http_call *c)
{
	struct token t;
	struct cdm_error err = CDM_ERROR_INIT;
	char text[TOKEN_TEXT], hash[TOKEN_HASH_TEXT];
	if (!check_fields(c, token_fields))
		return;
	if (token_make(ca_fingerprint(c->master->ca), &t, &err) < 0) {
		http_problem(c, 500, err.hint, "%s", err.text);
		return;
	}
	token_format(&t, text);
	token_hash(t.secret, hash);
	json_t *ttl = json_object_get(c->body, "ttl_s");
	time_t now = time(NULL);
	json_t *args = json_pack("{s:s, s:s, s:I, s:I}", "id", t.id, "hash", hash, "now", (json_int_t)now, "expires",
		(json_int_t)(now + (ttl ? json_integer_value(ttl) : 3600)));
	json_object_update(c->body, args);
	json_decref(args);
	if (!json_object_get(c->body, "uses"))
		json_object_set_new(c->body, "uses", json_integer(1));
	if (!json_object_get(c->body, "role"))
		json_object_set_new(c->body, "role", json_string("both"));
	struct registry_who who = {.account = c->account, .address = c->address};
	json_t *stored = json_copy(c->body); /* the secret goes to the asker only */
	json_object_set_new(c->body, "token", json_string(text));
	registry_submit(c->master->registry, REG_TOKEN_ADD, stored, &who, c->dry, on_token, c);
}

static void tokens_get(struct http_call *c)
{
	const struct model *m = registry_model(c->master->registry);
	json_t *list = json_array();
	for (size_t i = 0; i < m->token_count; i++) {
		const struct model_token *t = &m->tokens[i];
		char expires[32], created[32];
		master_format_time(t->expires, expires);
		master_format_time(t->created, created);
		bool usable = t->uses_left > 0 && t->expires > time(NULL);
		json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s, s:s, s:i, s:b}", "id", t->id, "group", t->group, "role", role_name(t->role), "created",
			created, "expires", expires, "uses_left", t->uses_left, "usable", usable));
	}
	http_answer(c, 200, json_pack("{s:o}", "tokens", list));
}

/* --- reading ---------------------------------------------------------------------------------------------------- */

static void regions_get(struct http_call *c)
{
	const struct model *m = registry_model(c->master->registry);
	json_t *list = json_array();
	for (size_t i = 0; i < m->region_count; i++)
		json_array_append_new(list, json_pack("{s:s, s:I}", "name", m->regions[i].name, "groups", (json_int_t)m->regions[i].groups));
	http_answer(c, 200, json_pack("{s:o}", "regions", list));
}

static void groups_get(struct http_call *c)
{
	const struct model *m = registry_model(c->master->registry);
	json_t *list = json_array();
	for (size_t i = 0; i < m->group_count; i++)
		json_array_append_new(list, json_pack("{s:s, s:s, s:I}", "name", m->groups[i].name, "region", m->regions[m->groups[i].region].name, "nodes",
			(json_int_t)m->groups[i].nodes));
	http_answer(c, 200, json_pack("{s:o}", "groups", list));
}

static void nodes_get(struct http_call *c)
{
	const struct model *m = registry_model(c->master->registry);
	json_t *list = json_array();
	for (size_t i = 0; i < m->node_count; i++)
		json_array_append_new(list, live_node_json(c->master->live, m, &m->nodes[i]));
	cdm_status_sort(list, "name");
	http_answer(c, 200, json_pack("{s:o}", "nodes", list));
}

static void node_get(struct http_call *c)
{
	const struct model *m = registry_model(c->master->registry);
	const struct model_node *n = model_node(m, c->name);
	if (n)
		http_answer(c, 200, live_node_json(c->master->live, m, n));
	else
		http_problem(c, 404, "cdmctl node list shows all", "unknown node \"%.80s\"", c->name);
}

/* What is set, the limit in force now, and what its links cost. */
static json_t *shown_section(const struct master *master, enum section which)
{
	const struct model *m = registry_model(master->registry);
	json_t *j = section_json(&m->sections[which]), *cost = live_section_cost(master->live, m, which);
	json_object_set_new(j, "name", json_string(section_name(which)));
	json_object_set_new(j, "rate_now", json_integer(section_rate_at(&m->sections[which], time(NULL))));
	if (cost)
		json_object_set_new(j, "cost", cost);
	return j;
}

static void sections_get(struct http_call *c)
{
	json_t *list = json_array();
	for (enum section which = SECTION_GROUP; which < SECTION_COUNT; which++)
		json_array_append_new(list, shown_section(c->master, which));
	http_answer(c, 200, json_pack("{s:o}", "sections", list));
}

static void section_get(struct http_call *c)
{
	enum section which = section_find(c->name);
	if (which < SECTION_COUNT)
		http_answer(c, 200, shown_section(c->master, which));
	else
		http_problem(c, 404, "known sections: group, region, international", "unknown section \"%.80s\"", c->name);
}

static json_t *set_json(const struct model *m, const struct model_set *s)
{
	size_t sources = 0, targets = 0, both = 0;
	for (size_t i = 0; i < m->node_count; i++) {
		sources += s->role[i] == CDM_ROLE_SOURCE;
		targets += s->role[i] == CDM_ROLE_TARGET;
		both += s->role[i] == CDM_ROLE_BOTH;
	}
	return json_pack("{s:s, s:I, s:O, s:O, s:O, s:O, s:O, s:b, s:s, s:s, s:O, s:{s:I, s:I, s:I}}", "name", s->name, "id", (json_int_t)s->id, "source", s->source,
		"target", s->target, "both", s->both, "exclude", s->exclude, "local", s->local, "default_excludes", s->default_excludes, "update", s->update,
		"open", s->open, "paused", s->pauses, "count", "source", (json_int_t)sources, "target", (json_int_t)targets, "both", (json_int_t)both);
}

static void sets_get(struct http_call *c)
{
	const struct model *m = registry_model(c->master->registry);
	json_t *list = json_array();
	for (size_t i = 0; i < m->set_count; i++)
		json_array_append_new(list, set_json(m, &m->sets[i]));
	http_answer(c, 200, json_pack("{s:o}", "sets", list));
}

static const struct model_set *find_set(struct http_call *c, const char *name)
{
	const struct model_set *s = model_set(registry_model(c->master->registry), name);
	if (!s)
		http_problem(c, 404, "cdmctl set list shows all", "unknown set \"%.80s\"", name);
	return s;
}

static void set_get(struct http_call *c)
{
	const struct model_set *s = find_set(c, c->name);
	if (!s)
		return;
	json_t *j = set_json(registry_model(c->master->registry), s), *cost = live_set_cost(c->master->live, registry_model(c->master->registry), s);
	if (cost)
		json_object_set_new(j, "cost", cost);
	http_answer(c, 200, j);
}

static void set_status_get(struct http_call *c)
{
	const struct model_set *s = find_set(c, c->name);
	if (s)
		http_answer(c, 200, live_set_status(c->master->live, registry_model(c->master->registry), s));
}

static void status_get(struct http_call *c)
{
	const struct model *m = registry_model(c->master->registry);
	json_t *sets = json_array();
	for (size_t i = 0; i < m->set_count; i++)
		json_array_append_new(sets, live_set_status(c->master->live, m, &m->sets[i]));
	http_answer(c, 200, json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:o}", "version", CDM_VERSION, "epoch", (json_int_t)m->epoch, "regions",
		(json_int_t)m->region_count, "groups", (json_int_t)m->group_count, "nodes", (json_int_t)m->node_count, "nodes_connected",
		(json_int_t)live_connected_count(c->master->live), "sets", sets));
}

static void routes_get(struct http_call *c)
{
	const char *name = evhttp_find_header(&c->query, "set");
	if (!name) {
		http_problem(c, 400, "", "say which: /api/v1/routes?set=NAME");
		return;
	}
	const struct model_set *s = find_set(c, name);
	if (s)
		http_answer(c, 200, policy_routes_json(c->master->policy, s));
}

static void on_log(void *arg, int error, const json_t *result, const struct cdm_error *err)
{
	struct http_call *c = arg;
	if (error < 0) {
		http_problem(c, problem_status(error), err->hint, "%s", err->text);
		return;
	}
	json_t *rows = json_deep_copy(result), *row;
	size_t i;
	json_array_foreach(rows, i, row) {
		char at[32];
		master_format_time(json_integer_value(json_object_get(row, "at")), at);
		json_object_set_new(row, "at", json_string(at));
	}
	http_answer(c, 200, json_pack("{s:o}", strstr(c->path, "audit") ? "audit" : "events", rows));
}

static void audit_get(struct http_call *c)
{
	registry_read_log(c->master->registry, true, 200, on_log, c);
}

static void events_get(struct http_call *c)
{
	const char *follow = evhttp_find_header(&c->query, "follow");
	const char *last = evhttp_find_header(evhttp_request_get_input_headers(c->req), "Last-Event-ID");
	if (follow && strcmp(follow, "0") == 0)
		registry_read_log(c->master->registry, false, 200, on_log, c);
	else
		http_follow_news(c, last ? strtoull(last, NULL, 10) : UINT64_MAX - 1);
}

static void openapi_get(struct http_call *c)
{
	http_text(c, "application/json", openapi, sizeof openapi - 1);
}

static void healthz_get(struct http_call *c)
{
	http_text(c, "text/plain", "ok\n", 3);
}

static void readyz_get(struct http_call *c)
{
	if (registry_is_healthy(c->master->registry))
		http_text(c, "text/plain", "ready\n", 6);
	else
		http_problem(c, 503, "see the master's log", "the database cannot be written");
}

static void on_joined(void *arg, int status, json_t *body)
{
	http_answer(arg, status, json_incref(body));
}

static void join_post(struct http_call *c)
{
	_cleanup_free_ char *text = json_dumps(c->body, JSON_COMPACT);
	join_start(c->master, c->address, text ? text : "", text ? strlen(text) : 0, on_joined, c);
}

/* --- paths ------------------------------------------------------------------------------------------------------ */

static const struct {
	enum evhttp_cmd_type method;
	const char *path; /* * stands for one name */
	void (*run)(struct http_call *c);
} paths[] = {
	{EVHTTP_REQ_GET, "/api/v1/status", status_get},
	{EVHTTP_REQ_GET, "/api/v1/regions", regions_get},
	{EVHTTP_REQ_POST, "/api/v1/regions", region_post},
	{EVHTTP_REQ_DELETE, "/api/v1/regions/*", region_delete},
	{EVHTTP_REQ_GET, "/api/v1/groups", groups_get},
	{EVHTTP_REQ_POST, "/api/v1/groups", group_post},
	{EVHTTP_REQ_DELETE, "/api/v1/groups/*", group_delete},
	{EVHTTP_REQ_GET, "/api/v1/nodes", nodes_get},
	{EVHTTP_REQ_GET, "/api/v1/nodes/*", node_get},
	{EVHTTP_REQ_PATCH, "/api/v1/nodes/*", node_patch},
	{EVHTTP_REQ_DELETE, "/api/v1/nodes/*", node_delete},
	{EVHTTP_REQ_GET, "/api/v1/sets", sets_get},
	{EVHTTP_REQ_POST, "/api/v1/sets", set_post},
	{EVHTTP_REQ_GET, "/api/v1/sets/*", set_get},
	{EVHTTP_REQ_PATCH, "/api/v1/sets/*", set_patch},
	{EVHTTP_REQ_DELETE, "/api/v1/sets/*", set_delete},
	{EVHTTP_REQ_GET, "/api/v1/sets/*/status", set_status_get},
	{EVHTTP_REQ_POST, "/api/v1/sets/*/adopt", adopt_post},
	{EVHTTP_REQ_POST, "/api/v1/sets/*/rescan", rescan_post},
	{EVHTTP_REQ_POST, "/api/v1/sets/*/scrub", scrub_post},
	{EVHTTP_REQ_POST, "/api/v1/sets/*/conflicts", conflicts_post},
	{EVHTTP_REQ_POST, "/api/v1/sets/*/quarantine", quarantine_post},
	{EVHTTP_REQ_POST, "/api/v1/sets/*/pause", pause_post},
	{EVHTTP_REQ_POST, "/api/v1/sets/*/resume", resume_post},
	{EVHTTP_REQ_GET, "/api/v1/sections", sections_get},
	{EVHTTP_REQ_GET, "/api/v1/sections/*", section_get},
	{EVHTTP_REQ_PATCH, "/api/v1/sections/*", section_patch},
	{EVHTTP_REQ_GET, "/api/v1/holds", holds_get},
	{EVHTTP_REQ_POST, "/api/v1/holds/*", hold_post},
	{EVHTTP_REQ_GET, "/api/v1/routes", routes_get},
	{EVHTTP_REQ_POST, "/api/v1/routes", route_post},
	{EVHTTP_REQ_GET, "/api/v1/tokens", tokens_get},
	{EVHTTP_REQ_POST, "/api/v1/tokens", token_post},
	{EVHTTP_REQ_DELETE, "/api/v1/tokens/*", token_delete},
	{EVHTTP_REQ_POST, "/api/v1/join", join_post},
	{EVHTTP_REQ_GET, "/api/v1/events", events_get},
	{EVHTTP_REQ_GET, "/api/v1/audit", audit_get},
	{EVHTTP_REQ_GET, "/api/v1/openapi.json", openapi_get},
	{EVHTTP_REQ_GET, "/healthz", healthz_get},
	{EVHTTP_REQ_GET, "/readyz", readyz_get},
	{EVHTTP_REQ_GET, "/metrics", metrics_answer},
};

/* Does the path fit? *start, *len: what stands for the star. */
static bool path_fits(const char *pattern, const char *path, size_t *start, size_t *len)
{
	const char *star = strchr(pattern, '*');
	*len = 0;
	if (!star)
		return strcmp(pattern, path) == 0;
	size_t head = (size_t)(star - pattern);
	if (strncmp(pattern, path, head) != 0)
		return false;
	*start = head;
	*len = strcspn(path + head, "/");
	return *len > 0 && strcmp(path + head + *len, star + 1) == 0;
}

void http_dispatch(struct http_call *c)
{
	bool known = false;
	for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
		size_t start = 0, len;
		if (!path_fits(paths[i].path, c->path, &start, &len))
			continue;
		known = true;
		if (paths[i].method != c->method)
			continue;
		if (len > 0) {
			c->path[start + len] = 0;
			c->name = c->path + start;
		}
		paths[i].run(c);
		return;
	}
	if (known)
		http_problem(c, 405, "see /api/v1/openapi.json", "this method is not for %.200s", c->path);
	else
		http_problem(c, 404, "see /api/v1/openapi.json", "no such path: %.200s", c->path);
}
