/* SPDX-License-Identifier: Apache-2.0 */
#include "master/policy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "common/log.h"
#include "common/status.h"
#include "master/live.h"
#include "master/section.h"

struct policy {
	struct master *master;
	struct event *turn;  /* runs once at the end of this turn of the loop */
	struct event *timer; /* next moment a lost node stops counting */
	struct policy_tree *trees;
	size_t tree_count;
	bool storing;        /* a REG_TREES is on its way */
};

static void free_trees(struct policy *p)
{
	for (size_t i = 0; i < p->tree_count; i++) {
		free(p->trees[i].slot);
		free(p->trees[i].node);
		free(p->trees[i].out);
		free(p->trees[i].brings);
	}
	free(p->trees);
	p->trees = NULL;
	p->tree_count = 0;
}

const struct policy_tree *policy_tree(const struct policy *p, int64_t set_id)
{
	for (size_t i = 0; i < p->tree_count; i++)
		if (p->trees[i].set_id == set_id)
			return &p->trees[i];
	return NULL;
}

/* --- computing -------------------------------------------------------------------------------------------------- */

static int slot_of(const struct policy_tree *t, int node)
{
	return node < 0 ? ROUTER_NONE : t->slot[node];
}

static void fill_router(const struct policy *p, const struct model *m, const struct model_set *s, const struct policy_tree *t, struct router_node *in)
{
	for (size_t k = 0; k < t->count; k++) {
		size_t i = (size_t)t->node[k];
		const struct model_node *n = &m->nodes[i];
		in[k] = (struct router_node){
			.number = n->number,
			.group = (uint32_t)n->group,
			.region = (uint32_t)m->groups[n->group].region,
			.capacity = n->capacity,
			.source = (s->role[i] & CDM_ROLE_SOURCE) != 0,
			.up = live_is_up(p->master->live, n, s->name),
			.drained = n->state == NODE_DRAINED || s->paused_since[i],
			.hand = slot_of(t, s->hand[i]),
			.previous = slot_of(t, s->tree[i]),
			.previous_root = s->tree[i] == MODEL_ROOT,
		};
	}
}

static int compute_tree(const struct policy *p, const struct model *m, const struct model_set *s, struct policy_tree *t)
{
	t->set_id = s->id;
	t->slot = calloc(m->node_count + 1, sizeof *t->slot);
	t->node = calloc(m->node_count + 1, sizeof *t->node);
	t->out = calloc(m->node_count + 1, sizeof *t->out);
	t->brings = calloc(m->node_count + 1, sizeof *t->brings);
	struct router_node *in = calloc(m->node_count + 1, sizeof *in);
	int r = t->slot && t->node && t->out && t->brings && in ? 0 : -ENOMEM;
	for (size_t i = 0; r == 0 && i < m->node_count; i++) {
		t->slot[i] = s->role[i] ? (int)t->count : ROUTER_NONE;
		if (s->role[i])
			t->node[t->count++] = (int)i;
	}
	if (r == 0) {
		fill_router(p, m, s, t, in);
		r = router_compute(in, t->count, t->out, &t->overfull);
	}
	if (r == 0)
		r = router_brings(in, t->count, t->out, t->brings);
	free(in);
	return r;
}

static json_t *edge_new(const struct model_set *s, const struct model_node *n, int64_t parent)
{
	return json_pack("[I, I, I]", (json_int_t)s->id, (json_int_t)n->number, (json_int_t)parent);
}

/* What differs from the stored tree. */
static void diff_tree(const struct model *m, const struct model_set *s, const struct policy_tree *t, json_t *edges)
{
	for (size_t i = 0; i < m->node_count; i++) {
		int slot = t->slot[i];
		if (slot == ROUTER_NONE) {
			if (s->tree[i] != MODEL_NONE)
				json_array_append_new(edges, edge_new(s, &m->nodes[i], -1));
			continue;
		}
		int parent = t->out[slot].parent == ROUTER_NONE ? MODEL_ROOT : t->node[t->out[slot].parent];
		if (parent != s->tree[i])
			json_array_append_new(edges, edge_new(s, &m->nodes[i], parent == MODEL_ROOT ? 0 : m->nodes[parent].number));
	}
}

/* --- documents -------------------------------------------------------------------------------------------------- */

static json_t *name_of(const struct model *m, const struct policy_tree *t, int slot)
{
	return slot == ROUTER_NONE ? json_null() : json_string(m->nodes[t->node[slot]].name);
}

static json_t *member_json(const struct model *m, const struct model_set *s, const struct policy_tree *t, size_t slot)
{
	int node = t->node[slot];
	const struct model_node *n = &m->nodes[node];
	const struct model_group *g = &m->groups[n->group];
	return json_pack("{s:s, s:I, s:s, s:s, s:s, s:s, s:s, s:b}", "name", n->name, "number", (json_int_t)n->number, "addr", n->addr, "role",
		role_name(s->role[node]), "group", g->name, "region", m->regions[g->region].name, "state",
		n->state == NODE_ACTIVE && s->paused_since[node] ? "paused" : node_state_name(n->state), "brings", t->brings[slot]);
}

static bool is_paused(const struct model_set *s, const struct policy_tree *t, int slot)
{
	return slot != ROUTER_NONE && s->paused_since[t->node[slot]];
}

static bool is_alternate(const struct router_result *o, int slot)
{
	for (int k = 0; k < o->alternate_count; k++)
		if (o->alternates[k] == slot)
			return true;
	return false;
}

static bool is_neighbour(const struct policy_tree *t, int a, int b)
{
	const struct router_result *x = &t->out[a], *y = &t->out[b];
	return a == b || x->parent == b || y->parent == a || is_alternate(x, b) || is_alternate(y, a);
}

static json_t *members_json(const struct model *m, const struct model_set *s, const struct policy_tree *t, int slot)
{
	json_t *members = json_array();
	for (size_t k = 0; k < t->count; k++)
		if (t->count <= POLICY_MEMBERS_FULL || (s->role[t->node[k]] & CDM_ROLE_SOURCE) || is_neighbour(t, slot, (int)k))
			json_array_append_new(members, member_json(m, s, t, k));
	return members;
}

/* A paused node has no neighbours. */
static json_t *neighbours_json(const struct model *m, const struct model_set *s, const struct policy_tree *t, int slot, bool children)
{
	json_t *list = json_array();
	const struct router_result *o = &t->out[slot];
	if (is_paused(s, t, slot))
		return list;
	for (int k = 0; !children && k < o->alternate_count; k++)
		if (!is_paused(s, t, o->alternates[k]))
			json_array_append_new(list, name_of(m, t, o->alternates[k]));
	for (size_t k = 0; children && o->children > 0 && k < t->count; k++)
		if (t->out[k].parent == slot && !is_paused(s, t, (int)k))
			json_array_append_new(list, name_of(m, t, (int)k));
	return list;
}

static json_t *parent_json(const struct model *m, const struct model_set *s, const struct policy_tree *t, int slot)
{
	bool none = is_paused(s, t, slot) || is_paused(s, t, t->out[slot].parent);
	return name_of(m, t, none ? ROUTER_NONE : t->out[slot].parent);
}

static json_t *set_document(const struct model *m, const struct model_set *s, const struct policy_tree *t, int slot, json_t *all_members)
{
	return json_pack("{s:s, s:I, s:s, s:s, s:s, s:O, s:b, s:O, s:o, s:o, s:o, s:o, s:b}", "name", s->name, "id", (json_int_t)s->id, "role",
		role_name(s->role[t->node[slot]]), "update", s->update, "open", s->open, "exclude", s->exclude, "default_excludes", s->default_excludes, "local",
		s->local, "parent", parent_json(m, s, t, slot), "alternates", neighbours_json(m, s, t, slot, false), "children",
		neighbours_json(m, s, t, slot, true), "members", all_members ? json_incref(all_members) : members_json(m, s, t, slot),
		"neighbours_only", t->count > POLICY_MEMBERS_FULL);
}

/* The members of small sets are the same in every document: built once per push. */
struct document_cache { json_t **members; };

static void push_node(struct policy *p, const struct model *m, size_t i, struct document_cache *cache)
{
	json_t *sets = json_array();
	for (size_t k = 0; k < p->tree_count; k++) {
		const struct policy_tree *t = &p->trees[k];
		if (t->slot[i] == ROUTER_NONE)
			continue;
		if (!cache->members[k] && t->count <= POLICY_MEMBERS_FULL)
			cache->members[k] = members_json(m, &m->sets[k], t, 0);
		json_array_append_new(sets, set_document(m, &m->sets[k], t, t->slot[i], cache->members[k]));
	}
	json_t *doc = json_pack("{s:s, s:i, s:s, s:o, s:o}", "type", "routes", "v", 1, "node", m->nodes[i].name, "sets", sets, "sections", sections_json(m));
	_cleanup_free_ char *bare = json_dumps(doc, JSON_COMPACT);
	json_object_set_new(doc, "epoch", json_integer((json_int_t)m->epoch));
	_cleanup_free_ char *text = json_dumps(doc, JSON_COMPACT);
	json_decref(doc);
	if (bare && text)
		agents_push(p->master->agents, m->nodes[i].number, text, strlen(text), XXH3_64bits(bare, strlen(bare)));
}

static void push(struct policy *p, uint32_t only)
{
	const struct model *m = registry_model(p->master->registry);
	struct document_cache cache = {calloc(p->tree_count + 1, sizeof *cache.members)};
	if (!cache.members || p->tree_count != m->set_count)
		goto out; /* a run for the newest model is due */
	for (size_t i = 0; i < m->node_count; i++)
		if ((!only || m->nodes[i].number == only) && agents_is_connected(p->master->agents, m->nodes[i].number))
			push_node(p, m, i, &cache);
out:
	for (size_t k = 0; cache.members && k < p->tree_count; k++)
		json_decref(cache.members[k]);
	free(cache.members);
}

void policy_push_to(struct policy *p, uint32_t number)
{
	if (!event_pending(p->turn, EV_TIMEOUT, NULL) && !p->storing)
		push(p, number);
}

/* --- running ---------------------------------------------------------------------------------------------------- */

static void on_stored(void *arg, int error, const json_t *result, const struct cdm_error *err)
{
	struct policy *p = arg;
	p->storing = false;
	if (error < 0)
		cdm_log_err(routes_failed, err);
	else
		policy_poke(p); /* the new model holds these trees: the next run pushes them */
}

/* Wake up when the next lost node stops counting. */
static void arm_timer(struct policy *p)
{
	int64_t left = live_next_change_ms(p->master->live);
	if (left > 0) {
		struct timeval tv = {.tv_sec = left / 1000, .tv_usec = left % 1000 * 1000 + 1000};
		event_add(p->timer, &tv);
	}
}

static void on_turn(evutil_socket_t fd, short what, void *arg)
{
	struct policy *p = arg;
	const struct model *m = registry_model(p->master->registry);
	if (p->master->stopping)
		return;
	free_trees(p);
	p->trees = calloc(m->set_count + 1, sizeof *p->trees);
	json_t *edges = json_array();
	int r = p->trees ? 0 : -ENOMEM;
	for (size_t i = 0; r == 0 && i < m->set_count; i++) {
		p->tree_count++;
		r = compute_tree(p, m, &m->sets[i], &p->trees[i]);
		if (r == 0)
			diff_tree(m, &m->sets[i], &p->trees[i], edges);
	}
	arm_timer(p);
	if (r < 0) {
		struct cdm_error err = CDM_ERROR_INIT;
		cdm_fail(&err, -r, "compute routes");
		cdm_log_err(routes_failed, &err);
		free_trees(p);
	} else if (json_array_size(edges) > 0) {
		size_t changed = json_array_size(edges);
		if (!p->storing) {
			cdm_log(routes_changed, cdm_uint("edges", changed), cdm_uint("epoch", m->epoch + 1));
			registry_submit(p->master->registry, REG_TREES, json_pack("{s:O}", "edges", edges), NULL, false, on_stored, p);
		}
		p->storing = true;
	} else {
		push(p, 0);
	}
	json_decref(edges);
}

void policy_poke(struct policy *p)
{
	if (p)
		event_active(p->turn, EV_TIMEOUT, 0);
}

void policy_model_changed(struct policy *p)
{
	free_trees(p); /* their indices belong to the model that is gone */
	p->tree_count = 0;
	policy_poke(p);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	policy_poke(arg);
}

struct policy *policy_new(struct master *m)
{
	struct policy *p = calloc(1, sizeof *p);
	if (!p)
		return NULL;
	p->master = m;
	p->turn = event_new(m->base, -1, 0, on_turn, p);
	p->timer = event_new(m->base, -1, 0, on_timer, p);
	if (p->turn && p->timer)
		return p;
	policy_free(&p);
	return NULL;
}

void policy_free(struct policy **pp)
{
	struct policy *p = *pp;
	*pp = NULL;
	if (!p)
		return;
	free_trees(p);
	if (p->turn)
		event_free(p->turn);
	if (p->timer)
		event_free(p->timer);
	free(p);
}

json_t *policy_routes_json(const struct policy *p, const struct model_set *s)
{
	const struct model *m = registry_model(p->master->registry);
	const struct policy_tree *t = policy_tree(p, s->id);
	json_t *nodes = json_array(), *root = NULL;
	for (size_t k = 0; t && k < t->count; k++) {
		const struct router_result *o = &t->out[k];
		const struct model_node *n = &m->nodes[t->node[k]];
		const struct live_node *ln = live_find(p->master->live, n->number);
		json_t *taken = ln ? json_object_get(ln->parents, s->name) : NULL;
		if (o->parent == ROUTER_NONE)
			root = json_string(n->name);
		json_array_append_new(nodes, json_pack("{s:s, s:o, s:b, s:o, s:o, s:I, s:b, s:O?, s:b}", "node", n->name, "parent", parent_json(m, s, t, (int)k), "by_hand",
			o->by_hand, "alternates", neighbours_json(m, s, t, (int)k, false), "children", neighbours_json(m, s, t, (int)k, true), "depth",
			(json_int_t)o->depth, "up", live_is_up(p->master->live, n, s->name), "taken", taken, "paused", is_paused(s, t, (int)k)));
	}
	cdm_status_sort(nodes, "node");
	return json_pack("{s:i, s:s, s:I, s:o, s:b, s:o}", "apiVersion", 1, "set", s->name, "epoch", (json_int_t)m->epoch, "root", root ? root : json_null(), "overfull",
		t && t->overfull, "nodes", nodes);
}
