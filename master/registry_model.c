/* SPDX-License-Identifier: Apache-2.0 */
/* Loads the whole registry into a model: at 10,000 nodes some ten milliseconds on the writer's thread. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "master/registry_sql.h"
#include "master/section.h"

const char *role_name(enum cdm_role role)
{
	return role == CDM_ROLE_BOTH ? "both" : role == CDM_ROLE_SOURCE ? "source" : role == CDM_ROLE_TARGET ? "target" : "none";
}

enum cdm_role role_parse(const char *text)
{
	for (enum cdm_role r = CDM_ROLE_SOURCE; r <= CDM_ROLE_BOTH; r++)
		if (strcmp(text, role_name(r)) == 0)
			return r;
	return CDM_ROLE_NONE;
}

const char *node_state_name(enum node_state s)
{
	return s == NODE_ACTIVE ? "active" : s == NODE_DRAINED ? "drained" : "revoked";
}

/* --- looking up ------------------------------------------------------------------------------------------------- */

#define FIND(list, count, field, wanted)                                  \
	for (size_t i = 0; i < (count); i++)                              \
		if (strcmp((list)[i].field, wanted) == 0)                 \
			return &(list)[i];                                \
	return NULL

const struct model_region *model_region(const struct model *m, const char *name)
{
	FIND(m->regions, m->region_count, name, name);
}

const struct model_group *model_group(const struct model *m, const char *name)
{
	FIND(m->groups, m->group_count, name, name);
}

const struct model_node *model_node(const struct model *m, const char *name)
{
	FIND(m->nodes, m->node_count, name, name);
}

const struct model_set *model_set(const struct model *m, const char *name)
{
	FIND(m->sets, m->set_count, name, name);
}

const struct model_node *model_node_number(const struct model *m, uint32_t number)
{
	size_t low = 0, high = m->node_count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (m->nodes[middle].number < number)
			low = middle + 1;
		else
			high = middle;
	}
	return low < m->node_count && m->nodes[low].number == number ? &m->nodes[low] : NULL;
}

static int node_index(const struct model *m, int64_t number)
{
	const struct model_node *n = number > 0 && number <= UINT32_MAX ? model_node_number(m, (uint32_t)number) : NULL;
	return n ? (int)model_index(m, n) : MODEL_NONE;
}

/* --- loading ---------------------------------------------------------------------------------------------------- */

static char *column(sqlite3_stmt *st, int i)
{
	const char *text = (const char *)sqlite3_column_text(st, i);
	return strdup(text ? text : "");
}

/* Calls row() for each row of a query. */
typedef int row_fn(struct model *m, sqlite3_stmt *st, void *arg);
static int for_rows(sqlite3 *db, struct model *m, row_fn *row, void *arg, struct cdm_error *err, const char *sql)
{
	sqlite3_stmt *st = NULL;
	int r = sql_prepare(db, &st, err, sql, "");
	if (r < 0)
		return r;
	int step;
	while ((step = sqlite3_step(st)) == SQLITE_ROW && r == 0)
		r = row(m, st, arg);
	if (r < 0)
		r = cdm_fail(err, -r, "load the registry");
	else if (step != SQLITE_DONE)
		r = sql_fail(db, step, err);
	sqlite3_finalize(st);
	return r;
}

#define GROW(list, count)                                                                     \
	({                                                                                    \
		void *grown = ((count) & ((count)-1)) == 0 ?                                  \
			realloc((list), ((count) ? 2 * (count) : 1) * sizeof *(list)) : (list); \
		if (!grown)                                                                   \
			return -ENOMEM;                                                       \
		(list) = grown;                                                               \
		memset(&(list)[count], 0, sizeof *(list));                                    \
		&(list)[(count)++];                                                           \
	})

static int region_row(struct model *m, sqlite3_stmt *st, void *arg)
{
	struct model_region *r = GROW(m->regions, m->region_count);
	r->id = sqlite3_column_int64(st, 0);
	r->name = column(st, 1);
	return 0;
}

static int group_row(struct model *m, sqlite3_stmt *st, void *arg)
{
	struct model_group *g = GROW(m->groups, m->group_count);
	g->id = sqlite3_column_int64(st, 0);
	g->name = column(st, 1);
	while (g->region + 1 < m->region_count && m->regions[g->region].id != sqlite3_column_int64(st, 2))
		g->region++;
	m->regions[g->region].groups++;
	return 0;
}

static int node_row(struct model *m, sqlite3_stmt *st, void *arg)
{
	struct model_node *n = GROW(m->nodes, m->node_count);
	n->number = (uint32_t)sqlite3_column_int64(st, 0);
	n->name = column(st, 1);
	while (n->group + 1 < m->group_count && m->groups[n->group].id != sqlite3_column_int64(st, 2))
		n->group++;
	n->role = (enum cdm_role)sqlite3_column_int(st, 3);
	n->capacity = (uint32_t)sqlite3_column_int(st, 4);
	const char *state = (const char *)sqlite3_column_text(st, 5);
	n->state = strcmp(state, "active") == 0 ? NODE_ACTIVE : strcmp(state, "drained") == 0 ? NODE_DRAINED : NODE_REVOKED;
	n->addr = column(st, 6);
	n->serial = column(st, 7);
	n->joined = sqlite3_column_int64(st, 8);
	n->last_seen = sqlite3_column_int64(st, 9);
	m->groups[n->group].nodes++;
	return 0;
}

static json_t *column_json(sqlite3_stmt *st, int i)
{
	json_t *j = json_loads((const char *)sqlite3_column_text(st, i), 0, NULL);
	return j ? j : json_array();
}

static int set_row(struct model *m, sqlite3_stmt *st, void *arg)
{
	struct model_set *s = GROW(m->sets, m->set_count);
	s->id = sqlite3_column_int64(st, 0);
	s->name = column(st, 1);
	s->update = column(st, 2);
	s->open = column(st, 3);
	s->exclude = column_json(st, 4);
	s->local = column_json(st, 5);
	s->default_excludes = sqlite3_column_int(st, 6) != 0;
	s->source = json_array();
	s->target = json_array();
	s->both = json_array();
	s->pauses = json_array();
	s->paused_since = calloc(m->node_count + 1, sizeof *s->paused_since);
	s->role = calloc(m->node_count + 1, sizeof *s->role);
	s->hand = calloc(m->node_count + 1, sizeof *s->hand);
	s->tree = calloc(m->node_count + 1, sizeof *s->tree);
	if (!s->role || !s->hand || !s->tree || !s->paused_since)
		return -ENOMEM;
	for (size_t i = 0; i < m->node_count; i++)
		s->hand[i] = s->tree[i] = MODEL_NONE;
	return 0;
}

static struct model_set *set_by_id(struct model *m, int64_t id)
{
	for (size_t i = 0; i < m->set_count; i++)
		if (m->sets[i].id == id)
			return &m->sets[i];
	return NULL;
}

/* "@all", "@group" or "@region" of a row; NULL for a node, or one that is gone. The caller decrefs. */
static json_t *area_name(const struct model *m, char kind, int64_t subject)
{
	if (kind == 'a')
		return json_string("@all");
	for (size_t i = 0; kind == 'g' && i < m->group_count; i++)
		if (m->groups[i].id == subject)
			return json_sprintf("@%s", m->groups[i].name);
	for (size_t i = 0; kind == 'r' && i < m->region_count; i++)
		if (m->regions[i].id == subject)
			return json_sprintf("@%s", m->regions[i].name);
	return NULL;
}

static bool is_in_area(const struct model *m, const struct model_node *n, char kind, int64_t subject)
{
	const struct model_group *g = &m->groups[n->group];
	return kind == 'a' || (kind == 'g' && g->id == subject) || (kind == 'r' && m->regions[g->region].id == subject);
}

/* Rows come from the least to the most specific kind (a, r, g, n), so later ones overwrite. */
static int role_row(struct model *m, sqlite3_stmt *st, void *arg)
{
	struct model_set *s = set_by_id(m, sqlite3_column_int64(st, 0));
	char kind = ((const char *)sqlite3_column_text(st, 1))[0];
	int64_t subject = sqlite3_column_int64(st, 2);
	enum cdm_role role = (enum cdm_role)sqlite3_column_int(st, 3);
	if (!s)
		return 0;
	json_t *list = role == CDM_ROLE_BOTH ? s->both : role == CDM_ROLE_SOURCE ? s->source : s->target, *name = area_name(m, kind, subject);
	int node = kind == 'n' ? node_index(m, subject) : MODEL_NONE;
	if (node != MODEL_NONE) {
		s->role[node] = role;
		name = json_string(m->nodes[node].name);
	}
	if (name)
		json_array_append_new(list, name);
	for (size_t i = 0; kind != 'n' && i < m->node_count; i++)
		if (is_in_area(m, &m->nodes[i], kind, subject))
			s->role[i] = role;
	return 0;
}

static int pause_row(struct model *m, sqlite3_stmt *st, void *arg)
{
	struct model_set *s = set_by_id(m, sqlite3_column_int64(st, 0));
	char kind = ((const char *)sqlite3_column_text(st, 1))[0];
	int64_t subject = sqlite3_column_int64(st, 2), since = sqlite3_column_int64(st, 3);
	json_t *name = s ? area_name(m, kind, subject) : NULL;
	if (!name)
		return 0;
	json_array_append_new(s->pauses, name);
	for (size_t i = 0; i < m->node_count; i++)
		if (is_in_area(m, &m->nodes[i], kind, subject) && (!s->paused_since[i] || since < s->paused_since[i]))
			s->paused_since[i] = since;
	return 0;
}

static void cut_roles(struct model *m)
{
	for (size_t k = 0; k < m->set_count; k++)
		for (size_t i = 0; i < m->node_count; i++) {
			const struct model_node *n = &m->nodes[i];
			m->sets[k].role[i] = n->state == NODE_REVOKED ? CDM_ROLE_NONE : m->sets[k].role[i] & n->role;
		}
}

static int hand_row(struct model *m, sqlite3_stmt *st, void *arg)
{
	struct model_set *s = set_by_id(m, sqlite3_column_int64(st, 0));
	int node = node_index(m, sqlite3_column_int64(st, 1));
	if (s && node != MODEL_NONE)
		s->hand[node] = node_index(m, sqlite3_column_int64(st, 2));
	return 0;
}

static int tree_row(struct model *m, sqlite3_stmt *st, void *arg)
{
	struct model_set *s = set_by_id(m, sqlite3_column_int64(st, 0));
	int node = node_index(m, sqlite3_column_int64(st, 1));
	if (s && node != MODEL_NONE)
		s->tree[node] = sqlite3_column_type(st, 2) == SQLITE_NULL ? MODEL_ROOT : node_index(m, sqlite3_column_int64(st, 2));
	return 0;
}

static int section_row(struct model *m, sqlite3_stmt *st, void *arg)
{
	enum section which = section_find((const char *)sqlite3_column_text(st, 0));
	if (which == SECTION_COUNT)
		return 0;
	struct model_section *s = &m->sections[which];
	s->compression = sqlite3_column_int(st, 1);
	s->encryption = sqlite3_column_int(st, 2) != 0;
	s->delta = sqlite3_column_int(st, 3) != 0;
	s->rate = sqlite3_column_int64(st, 4);
	s->grid = column_json(st, 5);
	return 0;
}

static int token_row(struct model *m, sqlite3_stmt *st, void *arg)
{
	struct model_token *t = GROW(m->tokens, m->token_count);
	t->id = column(st, 0);
	t->group = column(st, 1);
	t->role = (enum cdm_role)sqlite3_column_int(st, 2);
	t->expires = sqlite3_column_int64(st, 3);
	t->uses_left = sqlite3_column_int(st, 4);
	t->created = sqlite3_column_int64(st, 5);
	return 0;
}

static int account_row(struct model *m, sqlite3_stmt *st, void *arg)
{
	free(m->admin_hash);
	m->admin_hash = column(st, 0);
	return 0;
}

int registry_load_model(sqlite3 *db, struct model **ret, struct cdm_error *err)
{
	static const struct {
		row_fn *row;
		const char *sql;
	} parts[] = {
		{region_row, "SELECT id, name FROM region ORDER BY name"},
		{group_row, "SELECT id, name, region FROM \"group\" ORDER BY name"},
		{node_row, "SELECT number, name, \"group\", role, capacity, state, addr, serial, joined, last_seen FROM node ORDER BY number"},
		{set_row, "SELECT id, name, \"update\", open, exclude, local, default_excludes FROM \"set\" ORDER BY name"},
		{role_row, "SELECT \"set\", kind, subject, role FROM set_role ORDER BY CASE kind WHEN 'a' THEN 0 WHEN 'r' THEN 1 WHEN 'g' THEN 2 ELSE 3 END"},
		{pause_row, "SELECT \"set\", kind, subject, since FROM pause ORDER BY since"},
		{hand_row, "SELECT \"set\", node, parent FROM hand"},
		{tree_row, "SELECT \"set\", node, parent FROM tree"},
		{section_row, "SELECT name, compression, encryption, \"delta\", rate, grid FROM section"},
		{token_row, "SELECT t.id, g.name, t.role, t.expires, t.uses_left, t.created FROM token t JOIN \"group\" g ON g.id = t.\"group\" ORDER BY t.created"},
		{account_row, "SELECT hash FROM account WHERE name = 'admin'"},
	};
	struct model *m = calloc(1, sizeof *m);
	if (!m)
		return cdm_fail(err, ENOMEM, "load the registry");
	int64_t epoch = 0;
	int r = sql_int(db, &epoch, err, "SELECT value FROM meta WHERE key = 'epoch'", "");
	m->epoch = (uint64_t)epoch;
	for (size_t i = 0; r >= 0 && i < sizeof parts / sizeof parts[0]; i++)
		r = for_rows(db, m, parts[i].row, NULL, err, parts[i].sql);
	if (r < 0) {
		registry_free_model(&m);
		return r;
	}
	cut_roles(m);
	*ret = m;
	return 0;
}

void registry_free_model(struct model **pm)
{
	struct model *m = *pm;
	*pm = NULL;
	if (!m)
		return;
	for (size_t i = 0; i < m->region_count; i++)
		free(m->regions[i].name);
	for (size_t i = 0; i < m->group_count; i++)
		free(m->groups[i].name);
	for (size_t i = 0; i < m->node_count; i++) {
		free(m->nodes[i].name);
		free(m->nodes[i].addr);
		free(m->nodes[i].serial);
	}
	for (size_t i = 0; i < m->set_count; i++) {
		struct model_set *s = &m->sets[i];
		free(s->name);
		free(s->update);
		free(s->open);
		json_decref(s->exclude);
		json_decref(s->local);
		json_decref(s->source);
		json_decref(s->target);
		json_decref(s->both);
		json_decref(s->pauses);
		free(s->paused_since);
		free(s->role);
		free(s->hand);
		free(s->tree);
	}
	for (size_t i = 0; i < SECTION_COUNT; i++)
		json_decref(m->sections[i].grid);
	for (size_t i = 0; i < m->token_count; i++) {
		free(m->tokens[i].id);
		free(m->tokens[i].group);
	}
	free(m->regions);
	free(m->groups);
	free(m->nodes);
	free(m->sets);
	free(m->tokens);
	free(m->admin_hash);
	free(m);
}

/* --- logs ------------------------------------------------------------------------------------------------------- */

json_t *registry_load_log(sqlite3 *db, bool audit, int limit, struct cdm_error *err)
{
	sqlite3_stmt *st = NULL;
	const char *sql = audit ? "SELECT id, at, account, address, action, detail FROM audit ORDER BY id DESC LIMIT ?"
				: "SELECT id, at, level, name, node, \"set\", text FROM event ORDER BY id DESC LIMIT ?";
	if (sql_prepare(db, &st, err, sql, "i", (int64_t)limit) < 0)
		return NULL;
	json_t *rows = json_array();
	while (sqlite3_step(st) == SQLITE_ROW) {
		json_t *row = json_object();
		for (int i = 0; i < sqlite3_column_count(st); i++) {
			bool number = sqlite3_column_type(st, i) == SQLITE_INTEGER;
			json_object_set_new(row, sqlite3_column_name(st, i),
				number ? json_integer(sqlite3_column_int64(st, i)) : json_string((const char *)sqlite3_column_text(st, i)));
		}
		json_array_append_new(rows, row);
	}
	sqlite3_finalize(st);
	return rows;
}
