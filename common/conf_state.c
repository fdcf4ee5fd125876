/* SPDX-License-Identifier: Apache-2.0 */
/* The files programs write: identity.json and routes.json (conf.h, docs/internals.md 1). */
#include "common/conf.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/io.h"

#define STATE_BYTES_MAX (64u << 20)

/* STATE/name as a JSON object; *ret_path is for messages. 0, or -errno with err. */
static int load_object(const struct cdm_conf *conf, const char *name, json_t **ret, struct cdm_error *err)
{
	_cleanup_free_ char *path = NULL;
	if (asprintf(&path, "%s/%s", conf->state, name) < 0)
		return cdm_fail(err, ENOMEM, "read %s", name);
	_cleanup_free_ char *text = NULL;
	size_t len = 0;
	int r = cdm_read_file(AT_FDCWD, path, STATE_BYTES_MAX, &text, &len, err);
	if (r < 0)
		return r;
	json_error_t wrong;
	json_t *object = json_loadb(text, len, JSON_REJECT_DUPLICATES, &wrong);
	if (!object)
		return cdm_fail_plain(err, EBADMSG, "%s line %d: %s", path, wrong.line, wrong.text);
	if (!json_is_object(object)) {
		json_decref(object);
		return cdm_fail_plain(err, EBADMSG, "%s: not a JSON object", path);
	}
	*ret = object;
	return 0;
}

static int take_string(const json_t *object, const char *key, char **ret, struct cdm_error *err)
{
	const char *s = json_string_value(json_object_get(object, key));
	if (!s || !*s)
		return cdm_fail_plain(err, EBADMSG, "'%s' is missing or not a text", key);
	*ret = strdup(s);
	assert(*ret);
	return 0;
}

static int fill_identity(const json_t *object, struct cdm_identity *id, struct cdm_error *err)
{
	json_int_t number = json_integer_value(json_object_get(object, "number"));
	if (number < 1 || number > UINT32_MAX)
		return cdm_fail_plain(err, EBADMSG, "'number' is missing or not a node number");
	id->number = (uint32_t)number;
	const struct {
		const char *key;
		char **field;
	} texts[] = {{"node", &id->node}, {"group", &id->group}, {"region", &id->region}, {"master", &id->master}, {"api", &id->api}};
	int r = 0;
	for (size_t i = 0; i < sizeof texts / sizeof texts[0] && r == 0; i++)
		r = take_string(object, texts[i].key, texts[i].field, err);
	return r;
}

int cdm_identity_load(const struct cdm_conf *conf, struct cdm_identity **ret, struct cdm_error *err)
{
	json_t *object = NULL;
	int r = load_object(conf, "identity.json", &object, err);
	if (r == -ENOENT) {
		cdm_fail_plain(err, ENOENT, "this node has not joined an installation yet (no %s/identity.json)", conf->state);
		cdm_hint(err, "get a command with `cdmctl node token` and run it here: cdm-replicator join MASTER:7440 --token …");
		return r;
	}
	if (r < 0)
		return cdm_wrap(err, r, "identity of this node");
	struct cdm_identity *id = calloc(1, sizeof *id);
	assert(id);
	r = fill_identity(object, id, err);
	json_decref(object);
	if (r < 0) {
		cdm_identity_free(&id);
		cdm_wrap(err, r, "%s/identity.json", conf->state);
		cdm_hint(err, "restore it from a backup, or let the node join again");
		return r;
	}
	*ret = id;
	return 0;
}

void cdm_identity_free(struct cdm_identity **id)
{
	struct cdm_identity *i = *id;
	*id = NULL;
	if (!i)
		return;
	free(i->node);
	free(i->group);
	free(i->region);
	free(i->master);
	free(i->api);
	free(i);
}

static int take_patterns(const json_t *set, const char *key, struct cdm_filter *to, struct cdm_error *err)
{
	const json_t *list = json_object_get(set, key);
	if (!list)
		return 0;
	if (!json_is_array(list))
		return cdm_fail_plain(err, EBADMSG, "'%s' is not a list", key);
	for (size_t i = 0; i < json_array_size(list); i++) {
		const char *pattern = json_string_value(json_array_get(list, i));
		if (!pattern)
			return cdm_fail_plain(err, EBADMSG, "'%s' holds something that is not a text", key);
		int r = cdm_filter_check(pattern, err);
		if (r < 0)
			return r;
		cdm_filter_add(to, pattern);
	}
	return 0;
}

/* Which of `names` (NULL-terminated) the text at `key` is; the first when the key is missing; -EBADMSG for another text. */
static int take_choice(const json_t *set, const char *key, const char *const *names, struct cdm_error *err)
{
	const json_t *value = json_object_get(set, key);
	if (!value)
		return 0;
	const char *text = json_string_value(value);
	for (int i = 0; text && names[i]; i++)
		if (strcmp(text, names[i]) == 0)
			return i;
	return cdm_fail_plain(err, EBADMSG, "'%s' is '%s', which this version does not know", key, text ? text : "not a text");
}

static void add_default_excludes(struct cdm_filter *exclude)
{
	for (const char *const *p = cdm_filter_default_excludes; *p; p++)
		cdm_filter_add(exclude, *p);
}

static int fill_policy(const json_t *set, struct cdm_policy *p, struct cdm_error *err)
{
	static const char *const roles[] = {"none", "source", "target", "both", NULL}; /* as enum cdm_role */
	static const char *const updates[] = {"follow", "strict", NULL};
	static const char *const opens[] = {"rest", "ship", NULL};
	int role = take_choice(set, "role", roles, err);
	int update = role < 0 ? role : take_choice(set, "update", updates, err);
	int open = update < 0 ? update : take_choice(set, "open", opens, err);
	if (open < 0)
		return open;
	p->known = true;
	p->role = (enum cdm_role)role;
	p->read_only = p->role == CDM_ROLE_TARGET;
	p->strict_update = update == 1;
	p->ship_open = open == 1;
	const json_t *defaults = json_object_get(set, "default_excludes");
	if (!defaults || json_is_true(defaults))
		add_default_excludes(&p->exclude);
	int r = take_patterns(set, "exclude", &p->exclude, err);
	return r < 0 ? r : take_patterns(set, "local", &p->local, err);
}

/* The token that this node joined with made it a target of whatever set? -errno when that cannot be told; no identity: no. */
static int is_target_only(const struct cdm_conf *conf, struct cdm_error *err)
{
	json_t *identity = NULL;
	int r = load_object(conf, "identity.json", &identity, err);
	const char *role = json_string_value(json_object_get(identity, "role"));
	bool target = role && strcmp(role, "target") == 0;
	json_decref(identity);
	return r == -ENOENT ? 0 : r < 0 ? r : target;
}

/* No routes for the set (yet). */
static int fill_unknown(const struct cdm_conf *conf, struct cdm_policy *p, struct cdm_error *err)
{
	int target = is_target_only(conf, err);
	p->read_only = target > 0;
	add_default_excludes(&p->exclude);
	return target < 0 ? target : 0;
}

static const json_t *find_set(const json_t *routes, const char *name)
{
	const json_t *sets = json_object_get(routes, "sets");
	for (size_t i = 0; i < json_array_size(sets); i++) {
		const json_t *set = json_array_get(sets, i);
		const char *its_name = json_string_value(json_object_get(set, "name"));
		if (its_name && strcmp(its_name, name) == 0)
			return set;
	}
	return NULL;
}

int cdm_policy_load(const struct cdm_conf *conf, const char *set, struct cdm_policy *ret, struct cdm_error *err)
{
	*ret = (struct cdm_policy){0};
	json_t *routes = NULL;
	int r = load_object(conf, "routes.json", &routes, err);
	if (r == -ENOENT)
		r = fill_unknown(conf, ret, err);
	if (r == -EBADMSG)
		cdm_hint(err, "start cdm-replicator: it gets the routes from the master again; then mount");
	if (r < 0 || !routes)
		return r < 0 ? cdm_wrap(err, r, "policy of set %s", set) : 0;
	json_int_t epoch = json_integer_value(json_object_get(routes, "epoch"));
	ret->epoch = epoch > 0 ? (uint64_t)epoch : 0;
	const json_t *entry = find_set(routes, set);
	r = entry ? fill_policy(entry, ret, err) : fill_unknown(conf, ret, err);
	json_decref(routes);
	if (r < 0) {
		cdm_policy_fini(ret);
		return cdm_wrap(err, r, "%s/routes.json: set %s", conf->state, set);
	}
	return 0;
}

void cdm_policy_fini(struct cdm_policy *p)
{
	cdm_filter_fini(&p->exclude);
	cdm_filter_fini(&p->local);
	*p = (struct cdm_policy){0};
}
