/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/route.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "common/io.h"
#include "common/log.h"
#include "replicator/set.h"
#include "replicator/state.h"

#define ROUTES_FILE "routes.json"
#define ROUTES_BYTES_MAX (16u << 20)
#define SETS_MAX 256
#define MEMBERS_MAX 20000
#define BROUGHT_MS 600000 /* who stops bringing is taken for one that does so long: what is on its way through it was sent while it did */

struct route_table {
	uint64_t epoch;
	struct held **held;
	size_t count;
	struct sections sections;
};

/* --- lookups --- */

const struct member *route_member(const struct route *r, const char *name)
{
	for (size_t i = 0; i < r->member_count; i++)
		if (strcmp(r->members[i].name, name) == 0)
			return &r->members[i];
	return NULL;
}

const struct member *route_member_number(const struct route *r, uint32_t number)
{
	for (size_t i = 0; i < r->member_count; i++)
		if (r->members[i].number == number)
			return &r->members[i];
	return NULL;
}

bool route_brings(const struct member *m)
{
	return m->brings || cdm_now_ms() < m->brought_until_ms;
}

struct held *route_held(const struct node *node, size_t index)
{
	return node->routes && index < node->routes->count ? node->routes->held[index] : NULL;
}

struct held *route_held_find(const struct node *node, const char *set)
{
	struct held *h;
	for (size_t i = 0; (h = route_held(node, i)); i++)
		if (strcmp(h->route.set, set) == 0)
			return h;
	return NULL;
}

const struct route *route_of(const struct node *node, const char *set)
{
	const struct held *h = route_held_find(node, set);
	return h ? &h->route : NULL;
}

uint64_t route_epoch(const struct node *node)
{
	return node->routes ? node->routes->epoch : 0;
}

bool route_shares_set(const struct node *node, uint32_t number, const char *name)
{
	const struct held *h;
	for (size_t i = 0; (h = route_held(node, i)); i++) {
		const struct member *m = route_member_number(&h->route, number);
		if (m && strcmp(m->name, name) == 0)
			return true;
	}
	return false;
}

enum section_class route_section_of(const struct node *node, uint32_t number)
{
	const struct held *h;
	for (size_t i = 0; (h = route_held(node, i)); i++) {
		const struct member *own = route_member_number(&h->route, node->id->number), *peer = route_member_number(&h->route, number);
		if (own && peer)
			return section_class_of(own, peer);
	}
	return section_class_of(NULL, NULL);
}

const struct section *route_section(const struct node *node, enum section_class class)
{
	return &node->routes->sections.of[class];
}

/* --- memory --- */

static void strings_fini(char **list, size_t count)
{
	for (size_t i = 0; i < count; i++)
		free(list[i]);
	free(list);
}

static void route_fini(struct route *r)
{
	free(r->set);
	free(r->parent);
	strings_fini(r->alternates, r->alternate_count);
	strings_fini(r->children, r->child_count);
	for (size_t i = 0; i < r->member_count; i++) {
		free(r->members[i].name);
		free(r->members[i].addr);
		free(r->members[i].group);
		free(r->members[i].region);
	}
	free(r->members);
	*r = (struct route){0};
}

static void table_free(struct route_table **pt)
{
	struct route_table *t = *pt;
	*pt = NULL;
	if (!t)
		return;
	for (size_t i = 0; i < t->count; i++) {
		parent_fini(t->held[i]);
		route_fini(&t->held[i]->route);
		free(t->held[i]);
	}
	free(t->held);
	free(t);
}

static void *must(void *p)
{
	if (!p)
		abort();
	return p;
}

/* --- from JSON --- */

static char *copy_text(const json_t *j, size_t max)
{
	const char *s = json_string_value(j);
	return s && *s && json_string_length(j) <= max && strlen(s) == json_string_length(j) ? must(strdup(s)) : NULL;
}

static int parse_names(const json_t *list, char ***ret, size_t *ret_count)
{
	size_t count = json_array_size(list);
	if (list && !json_is_null(list) && !json_is_array(list))
		return -EBADMSG;
	if (count > MEMBERS_MAX)
		return -EBADMSG;
	*ret = must(calloc(count + 1, sizeof **ret));
	for (size_t i = 0; i < count; i++) {
		(*ret)[i] = copy_text(json_array_get(list, i), 255);
		if (!(*ret)[i])
			return -EBADMSG;
		*ret_count = i + 1;
	}
	return 0;
}

static enum cdm_role parse_role(const char *s)
{
	if (s && strcmp(s, "source") == 0)
		return CDM_ROLE_SOURCE;
	if (s && strcmp(s, "target") == 0)
		return CDM_ROLE_TARGET;
	return s && strcmp(s, "both") == 0 ? CDM_ROLE_BOTH : CDM_ROLE_NONE;
}

static int parse_member(const json_t *j, struct member *m)
{
	json_int_t number = json_integer_value(json_object_get(j, "number"));
	const char *state = json_string_value(json_object_get(j, "state"));
	const json_t *brings = json_object_get(j, "brings");
	m->name = copy_text(json_object_get(j, "name"), 255);
	m->addr = copy_text(json_object_get(j, "addr"), 300);
	m->group = copy_text(json_object_get(j, "group"), 255);
	m->region = copy_text(json_object_get(j, "region"), 255);
	m->role = parse_role(json_string_value(json_object_get(j, "role")));
	m->drained = state && strcmp(state, "drained") == 0;
	m->paused = state && strcmp(state, "paused") == 0;
	m->brings = !brings || json_is_true(brings); /* an older master does not say */
	if (!m->name || number <= 0 || number > UINT32_MAX)
		return -EBADMSG;
	m->number = (uint32_t)number;
	return 0;
}

static int parse_route(const json_t *j, uint64_t epoch, uint32_t own_number, struct route *r)
{
	const json_t *parent = json_object_get(j, "parent"), *members = json_object_get(j, "members");
	r->epoch = epoch;
	r->set = copy_text(json_object_get(j, "name"), 255);
	r->parent = copy_text(parent, 255);
	if (!r->set || (parent && !json_is_null(parent) && !r->parent))
		return -EBADMSG;
	if (parse_names(json_object_get(j, "alternates"), &r->alternates, &r->alternate_count) < 0 ||
		parse_names(json_object_get(j, "children"), &r->children, &r->child_count) < 0)
		return -EBADMSG;
	size_t count = json_array_size(members);
	if (!json_is_array(members) || count > MEMBERS_MAX)
		return -EBADMSG;
	r->members = must(calloc(count + 1, sizeof *r->members));
	for (size_t i = 0; i < count; i++) {
		r->member_count = i + 1;
		if (parse_member(json_array_get(members, i), &r->members[i]) < 0)
			return -EBADMSG;
	}
	const struct member *own = route_member_number(r, own_number);
	r->paused = own && own->paused;
	r->neighbours_only = json_is_true(json_object_get(j, "neighbours_only"));
	return 0;
}

static int table_parse(struct node *node, const json_t *j, struct route_table **ret, struct cdm_error *err)
{
	const json_t *sets = json_object_get(j, "sets"), *epoch = json_object_get(j, "epoch");
	const char *name = json_string_value(json_object_get(j, "node"));
	if (!json_is_integer(epoch) || !json_is_array(sets) || json_array_size(sets) > SETS_MAX)
		return cdm_fail_plain(err, EBADMSG, "routes: no epoch, or no list of at most %d sets", SETS_MAX);
	if (!name || strcmp(name, node->id->node) != 0)
		return cdm_fail_plain(err, EBADMSG, "routes: made for node %s, this is %s", name ? name : "(none)", node->id->node);
	struct route_table *t = must(calloc(1, sizeof *t));
	t->epoch = (uint64_t)json_integer_value(epoch);
	t->held = must(calloc(json_array_size(sets) + 1, sizeof *t->held));
	for (size_t i = 0; i < json_array_size(sets); i++) {
		struct held *h = must(calloc(1, sizeof *h));
		h->node = node;
		t->held[t->count++] = h;
		if (parse_route(json_array_get(sets, i), t->epoch, node->id->number, &h->route) < 0) {
			table_free(&t);
			return cdm_fail_plain(err, EBADMSG, "routes: set number %zu cannot be read", i + 1);
		}
	}
	int r = sections_parse(json_object_get(j, "sections"), &t->sections, err);
	if (r < 0) {
		table_free(&t);
		return r;
	}
	*ret = t;
	return 0;
}

/* --- taking over --- */

/* A set without a row in the table gets an empty route: no members, nothing ships. */
static const struct route no_route = {.set = (char *)""};

void route_apply_set(struct node *node, struct set *set)
{
	const struct route *r = route_of(node, set_name(set));
	set_route(set, r ? r : &no_route);
}

/* End the sets' transport on links whose peer is no member any more, or where one of both is paused, and links without any set in common (a node that was removed). */
static void drop_strangers(struct node *node)
{
	for (size_t i = 0; i < node->link_count; i++) {
		struct link *l = node->links[i];
		if (link_peer_number(l) && !route_shares_set(node, link_peer_number(l), link_peer_name(l))) {
			link_end(l, "no longer a member of any set here");
			continue;
		}
		for (size_t k = 0; k < node->set_count; k++) {
			const struct route *r = route_of(node, set_name(node->sets[k]));
			const struct member *m = r ? route_member_number(r, link_peer_number(l)) : NULL;
			bool paused = r && m && (r->paused || m->paused);
			if (link_carries(l, node->sets[k]) && (!m || paused))
				link_detach(l, node->sets[k], paused ? ROUTE_PAUSED : "no longer a member of this set");
		}
	}
}

/* The alternate in use stays in use when the set's parent and alternates are what they were. */
static void keep_choice(struct held *h, const struct held *before)
{
	const char *a = h->route.parent, *b = before->route.parent;
	bool same = h->route.alternate_count == before->route.alternate_count && !a == !b && (!a || strcmp(a, b) == 0);
	for (size_t i = 0; same && i < h->route.alternate_count; i++)
		same = strcmp(h->route.alternates[i], before->route.alternates[i]) == 0;
	if (same) {
		h->at = before->at;
		h->primary_refused_ms = before->primary_refused_ms;
	}
}

/* What is over for a member counts a while longer. */
static void keep_lost(struct route *r, const struct route *before)
{
	int64_t until = cdm_now_ms() + BROUGHT_MS;
	for (size_t i = 0; i < r->member_count; i++) {
		struct member *m = &r->members[i];
		const struct member *was = route_member_number(before, m->number);
		if (was && !m->brings)
			m->brought_until_ms = was->brings ? until : was->brought_until_ms;
		if (was && !(m->role & CDM_ROLE_SOURCE))
			m->wrote_until_ms = was->role & CDM_ROLE_SOURCE ? until : was->wrote_until_ms;
	}
}

static void table_use(struct node *node, struct route_table *t)
{
	struct route_table *before = node->routes;
	for (size_t i = 0; i < t->count; i++) {
		const struct held *h = route_held_find(node, t->held[i]->route.set);
		if (!h)
			continue;
		keep_choice(t->held[i], h);
		keep_lost(&t->held[i]->route, &h->route);
	}
	node->routes = t;
	for (size_t i = 0; i < node->set_count; i++)
		route_apply_set(node, node->sets[i]);
	table_free(&before);
	drop_strangers(node);
	links_follow_sections(node);
	parent_step_all(node);
	state_members_changed(node);
}

static int table_store(struct node *node, const json_t *j, struct cdm_error *err)
{
	_cleanup_close_ int dir = open(node->conf->state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return cdm_fail(err, errno, "open %s", node->conf->state);
	json_t *copy = json_copy((json_t *)j);
	json_object_del(copy, "type");
	json_object_del(copy, "v");
	char *text = json_dumps(copy, JSON_COMPACT);
	json_decref(copy);
	if (!text)
		return cdm_fail(err, ENOMEM, "write %s", ROUTES_FILE);
	int r = cdm_replace_file(dir, ROUTES_FILE, text, strlen(text), 0600, err);
	free(text);
	return r;
}

int route_take(struct node *node, const json_t *table, struct cdm_error *err)
{
	struct route_table *t = NULL;
	int r = table_parse(node, table, &t, err);
	if (r < 0)
		return r;
	if (t->epoch < route_epoch(node))
		cdm_log(route_older, cdm_uint("epoch", t->epoch), cdm_uint("held", route_epoch(node)));
	cdm_log(route_new, cdm_uint("epoch", t->epoch), cdm_uint("sets", t->count));
	r = table_store(node, table, err); /* before it is used: the mount reads it when the set pokes it */
	table_use(node, t);
	return r;
}

/* Nothing is known then: the master sends the table when it hears that we hold none. */
static void begin_without(struct node *node)
{
	node->routes = must(calloc(1, sizeof *node->routes));
	sections_default(&node->routes->sections);
}

int route_new(struct node *node, struct cdm_error *err)
{
	_cleanup_close_ int dir = open(node->conf->state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return cdm_fail(err, errno, "open %s", node->conf->state);
	_cleanup_free_ char *text = NULL;
	size_t len = 0;
	int r = cdm_read_file(dir, ROUTES_FILE, ROUTES_BYTES_MAX, &text, &len, err);
	if (r == -ENOENT) {
		begin_without(node);
		return 0;
	}
	if (r < 0 && r != -EFBIG)
		return r;
	json_error_t jerr;
	json_t *j = r == 0 ? json_loadb(text, len, JSON_REJECT_DUPLICATES, &jerr) : NULL;
	if (r == 0 && !j)
		r = cdm_fail_plain(err, EBADMSG, "%s/%s line %d: %s", node->conf->state, ROUTES_FILE, jerr.line, jerr.text);
	if (r == 0)
		r = table_parse(node, j, &node->routes, err);
	json_decref(j);
	if (r < 0) {
		cdm_hint(err, "nothing is exchanged until the master has sent the routes again");
		cdm_log_err(route_bad, err);
		*err = (struct cdm_error)CDM_ERROR_INIT;
		begin_without(node);
	}
	return 0;
}

void route_free(struct node *node)
{
	table_free(&node->routes);
}
