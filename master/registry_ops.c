/* SPDX-License-Identifier: Apache-2.0 */
/* The changes of the registry, each inside the caller's savepoint. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "common/filter.h"
#include "master/registry_sql.h"
#include "master/router.h"
#include "master/section.h"
#include "master/token.h"

#define NAME_MAX_BYTES 63
#define LIST_MAX 1000

struct op {
	sqlite3 *db;
	const json_t *args;
	json_t **result;
	bool *bump;
	struct cdm_error *err;
};

static const char *text_arg(const struct op *o, const char *key)
{
	return json_string_value(json_object_get(o->args, key));
}

static int64_t int_arg(const struct op *o, const char *key)
{
	return json_integer_value(json_object_get(o->args, key));
}

static int check_name(const struct op *o, const char *what, const char *name)
{
	size_t len = name ? strlen(name) : 0;
	bool good = len > 0 && len <= NAME_MAX_BYTES && strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == len &&
		!strchr("._-", name[0]);
	if (good && strcmp(name, "all") != 0)
		return 0;
	cdm_fail_plain(o->err, EINVAL, name ? "%s name \"%.80s\" cannot be used" : "%s name is missing", what, name);
	cdm_hint(o->err, "use 1 to %d of a-z A-Z 0-9 . _ - beginning with a letter or digit; \"all\" is reserved", NAME_MAX_BYTES);
	return -EINVAL;
}

/* "known groups: a, b, c" */
static void hint_known(const struct op *o, const char *what, const char *sql)
{
	sqlite3_stmt *st = NULL;
	char list[200] = "";
	size_t n = 0;
	if (sql_prepare(o->db, &st, NULL, sql, "") < 0)
		return;
	int step;
	while ((step = sqlite3_step(st)) == SQLITE_ROW && n < sizeof list - 70)
		n += (size_t)snprintf(list + n, sizeof list - n, "%s%s", n ? ", " : "", (const char *)sqlite3_column_text(st, 0));
	bool more = step == SQLITE_ROW;
	sqlite3_finalize(st);
	if (n)
		cdm_hint(o->err, "known %ss: %s%s", what, list, more ? ", …" : "");
	else
		cdm_hint(o->err, "there is no %s yet%s%s", what, strcmp(what, "node") == 0 ? ": join one (cdmctl node token)" : ": cdmctl ",
			strcmp(what, "node") == 0 ? "" : strcmp(what, "set") == 0 ? "set add" : strcmp(what, "group") == 0 ? "group add" : "region add");
}

static const struct {
	const char *what, *find, *list;
} tables[] = {
	{"region", "SELECT id FROM region WHERE name = ?", "SELECT name FROM region ORDER BY name LIMIT 9"},
	{"group", "SELECT id FROM \"group\" WHERE name = ?", "SELECT name FROM \"group\" ORDER BY name LIMIT 9"},
	{"node", "SELECT number FROM node WHERE name = ?", "SELECT name FROM node ORDER BY name LIMIT 9"},
	{"set", "SELECT id FROM \"set\" WHERE name = ?", "SELECT name FROM \"set\" ORDER BY name LIMIT 9"},
};
enum table { REGION, GROUP, NODE, SET };

/* The id of a named thing; -ENOENT names the known ones. */
static int find_id(const struct op *o, enum table t, const char *name, int64_t *ret)
{
	if (!name)
		return cdm_fail_plain(o->err, EINVAL, "%s is missing", tables[t].what);
	int r = sql_int(o->db, ret, o->err, tables[t].find, "s", name);
	if (r != 0)
		return r < 0 ? r : 0;
	cdm_fail_plain(o->err, ENOENT, "unknown %s \"%.80s\"", tables[t].what, name);
	hint_known(o, tables[t].what, tables[t].list);
	return -ENOENT;
}

static int exists_already(const struct op *o, int r, const char *what, const char *name)
{
	if (r != -EEXIST)
		return r;
	return cdm_fail_plain(o->err, EEXIST, "%s %s exists already", what, name);
}

/* --- regions and groups ----------------------------------------------------------------------------------------- */

/* Groups and regions share a name space: both are written @name. */
static int check_free(const struct op *o, enum table other, const char *name)
{
	int64_t id;
	int r = sql_int(o->db, &id, o->err, tables[other].find, "s", name);
	return r <= 0 ? r : cdm_fail_plain(o->err, EEXIST, "%s is the name of a %s already", name, tables[other].what);
}

static int region_add(struct op *o)
{
	const char *name = text_arg(o, "name");
	int r = check_name(o, "region", name);
	if (r == 0)
		r = check_free(o, GROUP, name);
	return r < 0 ? r : exists_already(o, sql_run(o->db, o->err, "INSERT INTO region (name) VALUES (?)", "s", name), "region", name);
}

static int group_add(struct op *o)
{
	const char *name = text_arg(o, "name");
	int64_t region;
	int r = check_name(o, "group", name);
	if (r == 0)
		r = check_free(o, REGION, name);
	if (r == 0)
		r = find_id(o, REGION, text_arg(o, "region"), &region);
	return r < 0 ? r : exists_already(o, sql_run(o->db, o->err, "INSERT INTO \"group\" (name, region) VALUES (?, ?)", "si", name, region), "group", name);
}

static int area_remove(struct op *o, enum table t, const char *count_sql, const char *what, const char *sql)
{
	const char *name = text_arg(o, "name");
	int64_t id, users;
	int r = find_id(o, t, name, &id);
	if (r == 0)
		r = sql_int(o->db, &users, o->err, count_sql, "i", id);
	if (r < 0)
		return r;
	if (users > 0) {
		cdm_fail_plain(o->err, EBUSY, "%s %s still has %" PRId64 " %s%s", tables[t].what, name, users, what, users == 1 ? "" : "s");
		cdm_hint(o->err, "remove or move %s first", users == 1 ? "it" : "them");
		return -EBUSY;
	}
	r = sql_run(o->db, o->err, "DELETE FROM set_role WHERE kind = ? AND subject = ?", "si", t == REGION ? "r" : "g", id);
	*o->bump = true;
	return r < 0 ? r : sql_run(o->db, o->err, sql, "i", id);
}

static int region_remove(struct op *o)
{
	return area_remove(o, REGION, "SELECT COUNT(*) FROM \"group\" WHERE region = ?", "group", "DELETE FROM region WHERE id = ?");
}

static int group_remove(struct op *o)
{
	return area_remove(o, GROUP, "SELECT COUNT(*) FROM node WHERE \"group\" = ?", "node", "DELETE FROM \"group\" WHERE id = ?");
}

/* --- tokens ----------------------------------------------------------------------------------------------------- */

static int token_add(struct op *o)
{
	int64_t group;
	int r = find_id(o, GROUP, text_arg(o, "group"), &group);
	enum cdm_role role = role_parse(text_arg(o, "role"));
	if (r == 0) /* forget those that can no longer be used */
		r = sql_run(o->db, o->err, "DELETE FROM token WHERE expires < ? - 604800", "i", int_arg(o, "now"));
	return r < 0 ? r : sql_run(o->db, o->err, "INSERT INTO token (id, hash, \"group\", role, expires, uses_left, created) VALUES (?, ?, ?, ?, ?, ?, ?)",
		"ssiiiii", text_arg(o, "id"), text_arg(o, "hash"), group, (int64_t)role, int_arg(o, "expires"), int_arg(o, "uses"), int_arg(o, "now"));
}

static int token_remove(struct op *o)
{
	const char *id = text_arg(o, "id");
	int r = sql_run(o->db, o->err, "DELETE FROM token WHERE id = ?", "s", id);
	return r < 0 || sqlite3_changes(o->db) > 0 ? r : cdm_fail_plain(o->err, ENOENT, "unknown token %.40s", id);
}

struct token_row {
	int64_t group, role;
	char group_name[NAME_MAX_BYTES + 1], region_name[NAME_MAX_BYTES + 1];
};

/* -EACCES says which of the reasons; only the log may tell it. */
static int use_token(struct op *o, struct token_row *ret)
{
	const char *id = text_arg(o, "id");
	sqlite3_stmt *st = NULL;
	int r = sql_prepare(o->db, &st, o->err, "SELECT t.hash, t.\"group\", t.role, t.expires, t.uses_left, g.name, r.name FROM token t "
		"JOIN \"group\" g ON g.id = t.\"group\" JOIN region r ON r.id = g.region WHERE t.id = ?", "s", id);
	if (r < 0)
		return r;
	if (sqlite3_step(st) != SQLITE_ROW)
		r = cdm_fail_plain(o->err, EACCES, "token %s is unknown", id);
	else if (!token_hash_equal((const char *)sqlite3_column_text(st, 0), text_arg(o, "hash")))
		r = cdm_fail_plain(o->err, EACCES, "token %s: wrong secret", id);
	else if (sqlite3_column_int64(st, 3) <= int_arg(o, "now"))
		r = cdm_fail_plain(o->err, EACCES, "token %s has expired", id);
	else if (sqlite3_column_int(st, 4) <= 0)
		r = cdm_fail_plain(o->err, EACCES, "token %s is used up", id);
	if (r == 0) {
		ret->group = sqlite3_column_int64(st, 1);
		ret->role = sqlite3_column_int64(st, 2);
		snprintf(ret->group_name, sizeof ret->group_name, "%s", (const char *)sqlite3_column_text(st, 5));
		snprintf(ret->region_name, sizeof ret->region_name, "%s", (const char *)sqlite3_column_text(st, 6));
	}
	sqlite3_finalize(st);
	return r < 0 ? r : sql_run(o->db, o->err, "UPDATE token SET uses_left = uses_left - 1 WHERE id = ?", "s", id);
}

/* --- nodes ------------------------------------------------------------------------------------------------------ */

static int node_join(struct op *o)
{
	struct token_row t = {0};
	const char *name = text_arg(o, "name");
	char made[NAME_MAX_BYTES + 16];
	int r = use_token(o, &t);
	if (r == 0 && name)
		r = check_name(o, "node", name);
	if (r < 0)
		return r;
	if (!name) {
		int64_t last = 0;
		r = sql_int(o->db, &last, o->err, "SELECT seq FROM sqlite_sequence WHERE name = 'node'", "");
		if (r < 0)
			return r;
		snprintf(made, sizeof made, "%.48s-%" PRId64, t.group_name, last + 1);
		name = made;
	}
	r = sql_run(o->db, o->err, "INSERT INTO node (name, \"group\", role, serial, joined) VALUES (?, ?, ?, ?, ?)", "siisi", name, t.group, t.role,
		text_arg(o, "serial"), int_arg(o, "now"));
	if (r == -EEXIST) {
		cdm_fail_plain(o->err, EEXIST, "a node named %s has joined already", name);
		cdm_hint(o->err, "choose another with --name, or remove the old one first: cdmctl node remove %s", name);
		return -EEXIST;
	}
	if (r < 0)
		return r;
	*o->bump = true;
	*o->result = json_pack("{s:s, s:I, s:s, s:s, s:s}", "node", name, "number", (json_int_t)sqlite3_last_insert_rowid(o->db), "group", t.group_name,
		"region", t.region_name, "role", role_name((enum cdm_role)t.role));
	return *o->result ? 0 : -ENOMEM;
}

static int revoke(struct op *o, int64_t number)
{
	return sql_run(o->db, o->err, "INSERT OR IGNORE INTO revoked (serial, number, name, at) SELECT serial, number, name, ? FROM node WHERE number = ?",
		"ii", (int64_t)time(NULL), number);
}

static int change_state(struct op *o, int64_t number, const char *state)
{
	int64_t revoked;
	int r = sql_int(o->db, &revoked, o->err, "SELECT 1 FROM node WHERE number = ? AND state = 'revoked'", "i", number);
	if (r < 0)
		return r;
	if (r == 1 && strcmp(state, "revoked") != 0) {
		cdm_fail_plain(o->err, EINVAL, "node %s is revoked and stays so", text_arg(o, "name"));
		cdm_hint(o->err, "remove it and join the server again with a new token");
		return -EINVAL;
	}
	if (strcmp(state, "revoked") == 0) {
		r = revoke(o, number);
		if (r < 0)
			return r;
	}
	return sql_run(o->db, o->err, "UPDATE node SET state = ? WHERE number = ?", "si", state, number);
}

static int node_change(struct op *o)
{
	int64_t number, group;
	int r = find_id(o, NODE, text_arg(o, "name"), &number);
	const char *state = text_arg(o, "state");
	*o->bump = true;
	if (r == 0 && state)
		r = change_state(o, number, state);
	if (r == 0 && json_object_get(o->args, "capacity"))
		r = sql_run(o->db, o->err, "UPDATE node SET capacity = ? WHERE number = ?", "ii", int_arg(o, "capacity"), number);
	if (r == 0 && text_arg(o, "group")) {
		r = find_id(o, GROUP, text_arg(o, "group"), &group);
		if (r == 0)
			r = sql_run(o->db, o->err, "UPDATE node SET \"group\" = ? WHERE number = ?", "ii", group, number);
	}
	return r;
}

static int node_remove(struct op *o)
{
	int64_t number;
	int r = find_id(o, NODE, text_arg(o, "name"), &number);
	*o->bump = true;
	if (r == 0)
		r = revoke(o, number);
	if (r == 0)
		r = sql_run(o->db, o->err, "DELETE FROM set_role WHERE kind = 'n' AND subject = ?", "i", number);
	return r < 0 ? r : sql_run(o->db, o->err, "DELETE FROM node WHERE number = ?", "i", number);
}

static int node_seen(struct op *o)
{
	int64_t number = int_arg(o, "number");
	const char *addr = text_arg(o, "addr"), *serial = text_arg(o, "serial");
	int r = sql_run(o->db, o->err, "UPDATE node SET last_seen = ? WHERE number = ?", "ii", int_arg(o, "last_seen"), number);
	if (r == 0 && serial)
		r = sql_run(o->db, o->err, "UPDATE node SET serial = ? WHERE number = ?", "si", serial, number);
	if (r < 0 || !addr)
		return r;
	r = sql_run(o->db, o->err, "UPDATE node SET addr = ? WHERE number = ? AND addr <> ?", "sis", addr, number, addr);
	*o->bump = r == 0 && sqlite3_changes(o->db) > 0;
	return r;
}

/* A restored database has forgotten numbers that it gave. */
static int node_unknown(struct op *o)
{
	return sql_run(o->db, o->err, "UPDATE sqlite_sequence SET seq = ? WHERE name = 'node' AND seq < ?", "ii", int_arg(o, "number"), int_arg(o, "number"));
}

/* --- sets ------------------------------------------------------------------------------------------------------- */

/* "@all", "@group", "@region" or a node's name → kind and id. */
static int find_subject(const struct op *o, const char *word, const char **kind, int64_t *id)
{
	if (word[0] != '@') {
		*kind = "n";
		return find_id(o, NODE, word, id);
	}
	*id = 0;
	*kind = "a";
	if (strcmp(word, "@all") == 0)
		return 0;
	*kind = "g";
	int r = sql_int(o->db, id, o->err, tables[GROUP].find, "s", word + 1);
	if (r != 0)
		return r < 0 ? r : 0;
	*kind = "r";
	r = find_id(o, REGION, word + 1, id);
	if (r == -ENOENT) {
		cdm_fail_plain(o->err, ENOENT, "unknown group or region \"%.80s\"", word);
		hint_known(o, "group", "SELECT '@' || name FROM \"group\" UNION SELECT '@' || name FROM region UNION SELECT '@all' LIMIT 9");
	}
	return r;
}

/* Replace one list (source, target, both). A subject in source and target is both. */
static int set_roles(struct op *o, int64_t set, const char *key)
{
	const json_t *list = json_object_get(o->args, key);
	if (!list)
		return 0;
	enum cdm_role role = role_parse(key);
	int r = sql_run(o->db, o->err, "DELETE FROM set_role WHERE \"set\" = ? AND role = ?", "ii", set, (int64_t)role);
	size_t i;
	json_t *word;
	json_array_foreach(list, i, word) {
		const char *kind = NULL;
		int64_t subject = 0;
		if (r == 0)
			r = find_subject(o, json_string_value(word), &kind, &subject);
		if (r == 0)
			r = sql_run(o->db, o->err, "INSERT INTO set_role (\"set\", kind, subject, role) VALUES (?, ?, ?, ?) "
				"ON CONFLICT DO UPDATE SET role = role | excluded.role", "isii", set, kind, subject, (int64_t)role);
		if (r < 0)
			return r;
	}
	return r;
}

static int set_patterns(struct op *o, int64_t set, const char *key, const char *sql)
{
	const json_t *list = json_object_get(o->args, key);
	if (!list)
		return 0;
	if (json_array_size(list) > LIST_MAX)
		return cdm_fail_plain(o->err, EINVAL, "%s: more than %d patterns", key, LIST_MAX);
	size_t i;
	json_t *pattern;
	json_array_foreach(list, i, pattern) {
		int r = cdm_filter_check(json_string_value(pattern), o->err);
		if (r < 0)
			return cdm_wrap(o->err, r, "%s", key);
	}
	_cleanup_free_ char *text = json_dumps(list, JSON_COMPACT);
	return text ? sql_run(o->db, o->err, sql, "si", text, set) : cdm_fail(o->err, ENOMEM, "%s", key);
}

static int apply_set(struct op *o, int64_t set)
{
	static const char *const roles[] = {"both", "source", "target"};
	const char *update = text_arg(o, "update"), *open = text_arg(o, "open");
	const json_t *defaults = json_object_get(o->args, "default_excludes");
	int r = 0;
	*o->bump = true;
	for (size_t i = 0; i < 3 && r == 0; i++)
		r = set_roles(o, set, roles[i]);
	if (r == 0)
		r = set_patterns(o, set, "exclude", "UPDATE \"set\" SET exclude = ? WHERE id = ?");
	if (r == 0)
		r = set_patterns(o, set, "local", "UPDATE \"set\" SET local = ? WHERE id = ?");
	if (r == 0 && update)
		r = sql_run(o->db, o->err, "UPDATE \"set\" SET \"update\" = ? WHERE id = ?", "si", update, set);
	if (r == 0 && open)
		r = sql_run(o->db, o->err, "UPDATE \"set\" SET open = ? WHERE id = ?", "si", open, set);
	if (r == 0 && defaults)
		r = sql_run(o->db, o->err, "UPDATE \"set\" SET default_excludes = ? WHERE id = ?", "ii", (int64_t)json_is_true(defaults), set);
	return r;
}

static int set_add(struct op *o)
{
	const char *name = text_arg(o, "name");
	int r = check_name(o, "set", name);
	if (r == 0)
		r = exists_already(o, sql_run(o->db, o->err, "INSERT INTO \"set\" (name) VALUES (?)", "s", name), "set", name);
	return r < 0 ? r : apply_set(o, sqlite3_last_insert_rowid(o->db));
}

static int set_change(struct op *o)
{
	int64_t set;
	int r = find_id(o, SET, text_arg(o, "name"), &set);
	return r < 0 ? r : apply_set(o, set);
}

static int set_remove(struct op *o)
{
	int64_t set;
	int r = find_id(o, SET, text_arg(o, "name"), &set);
	*o->bump = true;
	return r < 0 ? r : sql_run(o->db, o->err, "DELETE FROM \"set\" WHERE id = ?", "i", set);
}

/* --- sections --------------------------------------------------------------------------------------------------- */

static int check_section(struct op *o, const char *name)
{
	const json_t *rate = json_object_get(o->args, "rate"), *grid = json_object_get(o->args, "grid");
	if (section_find(name) == SECTION_COUNT) {
		cdm_fail_plain(o->err, ENOENT, "unknown section \"%.80s\"", name);
		cdm_hint(o->err, "known sections: group, region, international");
		return -ENOENT;
	}
	int r = rate ? section_check_rate(json_integer_value(rate), o->err) : 0;
	return r == 0 && grid ? section_check_grid(grid, o->err) : r;
}

static int section_change(struct op *o)
{
	static const struct {
		const char *key, *sql;
	} numbers[] = {
		{"compression", "UPDATE section SET compression = ? WHERE name = ?"},
		{"encryption", "UPDATE section SET encryption = ? WHERE name = ?"},
		{"delta", "UPDATE section SET \"delta\" = ? WHERE name = ?"},
		{"rate", "UPDATE section SET rate = ? WHERE name = ?"},
	};
	const char *name = text_arg(o, "name");
	const json_t *grid = json_object_get(o->args, "grid");
	int r = check_section(o, name);
	*o->bump = true;
	for (size_t i = 0; i < sizeof numbers / sizeof numbers[0] && r == 0; i++) {
		const json_t *v = json_object_get(o->args, numbers[i].key);
		if (v)
			r = sql_run(o->db, o->err, numbers[i].sql, "is", (int64_t)(json_is_true(v) ? 1 : json_integer_value(v)), name);
	}
	if (r < 0 || !grid)
		return r;
	_cleanup_free_ char *text = json_dumps(grid, JSON_COMPACT);
	return text ? sql_run(o->db, o->err, "UPDATE section SET grid = ? WHERE name = ?", "ss", text, name) : cdm_fail(o->err, ENOMEM, "grid");
}

/* --- routes ----------------------------------------------------------------------------------------------------- */

static int refuse_cycle(struct op *o, const struct model *m, const int *path, size_t count, const char *node)
{
	char text[300];
	size_t n = (size_t)snprintf(text, sizeof text, "%s", node);
	for (size_t i = 0; i < count && n < sizeof text - 80; i++)
		n += (size_t)snprintf(text + n, sizeof text - n, " < %s", m->nodes[path[i]].name);
	cdm_fail_plain(o->err, ELOOP, "this would be a circle of hand-set parents: %s (each is fed by the next)", text);
	cdm_hint(o->err, "make one of them automatic first: cdmctl route set %s NODE --auto", text_arg(o, "set"));
	return -ELOOP;
}

static int check_cycle(struct op *o, const char *node, const char *parent)
{
	struct model *m = NULL;
	int r = registry_load_model(o->db, &m, o->err);
	if (r < 0)
		return r;
	const struct model_set *s = model_set(m, text_arg(o, "set"));
	int child = (int)model_index(m, model_node(m, node)), feeder = (int)model_index(m, model_node(m, parent));
	struct router_node *nodes = calloc(m->node_count, sizeof *nodes);
	int path[16];
	if (!nodes)
		r = cdm_fail(o->err, ENOMEM, "check the route");
	for (size_t i = 0; nodes && i < m->node_count; i++)
		nodes[i].hand = s->hand[i] < 0 ? ROUTER_NONE : s->hand[i];
	size_t count = nodes ? router_check_hand(nodes, m->node_count, child, feeder, path, 16) : 0;
	if (count > 0)
		r = refuse_cycle(o, m, path, count < 16 ? count : 16, node);
	else if (r == 0 && (s->role[child] == CDM_ROLE_NONE || s->role[feeder] == CDM_ROLE_NONE))
		r = cdm_fail_plain(o->err, EINVAL, "%s is not a member of set %s", s->role[child] == CDM_ROLE_NONE ? node : parent, s->name);
	free(nodes);
	registry_free_model(&m);
	return r;
}

static int route_set(struct op *o)
{
	const char *node = text_arg(o, "node"), *parent = text_arg(o, "parent");
	int64_t set, number, feeder;
	int r = find_id(o, SET, text_arg(o, "set"), &set);
	if (r == 0)
		r = find_id(o, NODE, node, &number);
	*o->bump = true;
	if (r == 0 && !parent)
		return sql_run(o->db, o->err, "DELETE FROM hand WHERE \"set\" = ? AND node = ?", "ii", set, number);
	if (r == 0)
		r = find_id(o, NODE, parent, &feeder);
	if (r == 0)
		r = check_cycle(o, node, parent);
	return r < 0 ? r : sql_run(o->db, o->err, "INSERT OR REPLACE INTO hand (\"set\", node, parent) VALUES (?, ?, ?)", "iii", set, number, feeder);
}

static int set_pause(struct op *o)
{
	const char *kind = NULL;
	int64_t set, subject;
	int r = find_id(o, SET, text_arg(o, "name"), &set);
	if (r == 0)
		r = find_subject(o, text_arg(o, "where"), &kind, &subject);
	*o->bump = true;
	return r < 0 ? r : sql_run(o->db, o->err, "INSERT OR IGNORE INTO pause (\"set\", kind, subject, since) VALUES (?, ?, ?, ?)", "isii", set, kind,
		subject, int_arg(o, "now"));
}

static int set_resume(struct op *o)
{
	const char *kind = NULL, *name = text_arg(o, "name"), *where = text_arg(o, "where");
	int64_t set, subject, whole = 0;
	int r = find_id(o, SET, name, &set);
	if (r == 0)
		r = find_subject(o, where, &kind, &subject);
	if (r < 0)
		return r;
	*o->bump = true;
	if (kind[0] == 'a')
		return sql_run(o->db, o->err, "DELETE FROM pause WHERE \"set\" = ?", "i", set);
	r = sql_int(o->db, &whole, o->err, "SELECT 1 FROM pause WHERE \"set\" = ? AND kind = 'a'", "i", set);
	if (r < 0)
		return r;
	if (r == 1) {
		cdm_fail_plain(o->err, EEXIST, "set %s is paused as a whole, not only in %s", name, where + 1);
		cdm_hint(o->err, "cdmctl set resume %s, then pause what shall stay paused", name);
		return -EEXIST;
	}
	return sql_run(o->db, o->err, "DELETE FROM pause WHERE \"set\" = ? AND kind = ? AND subject = ?", "isi", set, kind, subject);
}

/* The computed trees changed. Sets and nodes that are gone by now are passed over. */
static int trees(struct op *o)
{
	size_t i;
	json_t *edge;
	*o->bump = true;
	json_array_foreach(json_object_get(o->args, "edges"), i, edge) {
		int64_t set = json_integer_value(json_array_get(edge, 0)), node = json_integer_value(json_array_get(edge, 1));
		int64_t parent = json_integer_value(json_array_get(edge, 2));
		int r = parent < 0 ? sql_run(o->db, o->err, "DELETE FROM tree WHERE \"set\" = ? AND node = ?", "ii", set, node)
				   : sql_run(o->db, o->err, "INSERT OR REPLACE INTO tree SELECT s.id, n.number, NULLIF(?, 0) FROM \"set\" s, node n "
					   "WHERE s.id = ? AND n.number = ?", "iii", parent, set, node);
		if (r < 0)
			return r;
	}
	return 0;
}

/* --- the rest --------------------------------------------------------------------------------------------------- */

static int account_set(struct op *o)
{
	return sql_run(o->db, o->err, "INSERT OR REPLACE INTO account (name, hash) VALUES (?, ?)", "ss", text_arg(o, "name"), text_arg(o, "hash"));
}

static int event_store(struct op *o)
{
	int r = sql_run(o->db, o->err, "INSERT INTO event (at, level, name, node, \"set\", text) VALUES (?, ?, ?, ?, ?, ?)", "iissss", int_arg(o, "at"),
		int_arg(o, "level"), text_arg(o, "name"), text_arg(o, "node"), text_arg(o, "set"), text_arg(o, "text"));
	return r < 0 ? r : sql_run(o->db, o->err, "DELETE FROM event WHERE id <= (SELECT MAX(id) FROM event) - ?", "i", (int64_t)REGISTRY_LOG_ROWS);
}

static const struct {
	const char *name;
	int (*run)(struct op *o);
} ops[] = {
	[REG_REGION_ADD] = {"region add", region_add},
	[REG_REGION_REMOVE] = {"region remove", region_remove},
	[REG_GROUP_ADD] = {"group add", group_add},
	[REG_GROUP_REMOVE] = {"group remove", group_remove},
	[REG_NODE_JOIN] = {"node join", node_join},
	[REG_NODE_CHANGE] = {"node change", node_change},
	[REG_NODE_REMOVE] = {"node remove", node_remove},
	[REG_NODE_SEEN] = {"node seen", node_seen},
	[REG_NODE_UNKNOWN] = {"node unknown", node_unknown},
	[REG_SET_ADD] = {"set add", set_add},
	[REG_SET_CHANGE] = {"set change", set_change},
	[REG_SET_REMOVE] = {"set remove", set_remove},
	[REG_SET_PAUSE] = {"set pause", set_pause},
	[REG_SET_RESUME] = {"set resume", set_resume},
	[REG_SECTION_CHANGE] = {"section change", section_change},
	[REG_ROUTE_SET] = {"route set", route_set},
	[REG_TREES] = {"routes computed", trees},
	[REG_TOKEN_ADD] = {"token add", token_add},
	[REG_TOKEN_REMOVE] = {"token remove", token_remove},
	[REG_ACCOUNT_SET] = {"account set", account_set},
	[REG_EVENT] = {"event", event_store},
};

const char *registry_op_name(enum registry_op op)
{
	return op < REG_OP_MAX ? ops[op].name : "read log";
}

int registry_operate(sqlite3 *db, enum registry_op op, const json_t *args, json_t **ret_result, bool *bump, struct cdm_error *err)
{
	struct op o = {.db = db, .args = args, .result = ret_result, .bump = bump, .err = err};
	return ops[op].run(&o);
}
