/* SPDX-License-Identifier: Apache-2.0 */
/* cdmfs-stat — what is replicated, what is pending, where and why. Asks the replicator of this node, which knows the state of all. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "cdmfs/stat.h"

const char *stat_text(const json_t *object, const char *key)
{
	const char *s = json_string_value(json_object_get(object, key));
	return s ? s : "";
}

bool stat_is_asked(const struct stat_options *o, const json_t *node)
{
	return (!o->node || strcmp(stat_text(node, "name"), o->node) == 0) && (!o->group || strcmp(stat_text(node, "group"), o->group) == 0);
}

static json_t *hex_string(const char *bytes)
{
	size_t len = strlen(bytes);
	char *hex = malloc(2 * len + 1);
	if (!hex)
		return NULL;
	for (size_t i = 0; i < len; i++)
		snprintf(hex + 2 * i, 3, "%02x", (unsigned char)bytes[i]);
	json_t *ret = json_string(hex);
	free(hex);
	return ret;
}

json_t *stat_request(const char *cmd, const char *set, const char *path)
{
	json_t *request = json_object();
	json_object_set_new(request, "cmd", json_string(cmd));
	if (set)
		json_object_set_new(request, "set", json_string(set));
	json_t *text = path ? json_string(path) : NULL;
	if (text)
		json_object_set_new(request, "path", text);
	else if (path)
		json_object_set_new(request, "path_hex", hex_string(path));
	return request;
}

void stat_print_json(const json_t *answer)
{
	json_t *shown = json_copy((json_t *)answer);
	json_object_del(shown, "end");
	json_dumpf(shown, stdout, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9));
	putchar('\n');
	json_decref(shown);
}

/* The sets that are asked about: a list of names; NULL with err. */
static json_t *list_sets(const struct cdm_conf *conf, const struct stat_target *t, struct cdm_error *err)
{
	if (t->set)
		return json_pack("[s]", t->set->name);
	struct stat_client c;
	json_t *answer = NULL;
	if (stat_client_open(conf, &c, err) < 0)
		return NULL;
	int r = stat_client_ask(&c, stat_request("sets", NULL, NULL), &answer, err);
	stat_client_close(&c);
	json_t *sets = r < 0 ? NULL : json_incref(json_object_get(answer, "sets"));
	json_decref(answer);
	if (r == 0 && json_array_size(sets) == 0) {
		cdm_fail_plain(err, ENOENT, "this node has no content set");
		cdm_hint(err, "add [set NAME] with a store to %s, reload the replicator, then: mount -t cdmfs NAME /mountpoint", conf->path);
		json_decref(sets);
		return NULL;
	}
	return sets;
}

static int run(const struct stat_options *o, struct cdm_error *err)
{
	struct cdm_conf *conf = NULL;
	struct stat_target target = {0};
	int r = cdm_conf_load(o->config, &conf, err);
	if (r == -ENOENT && stat_master_is_named())
		return stat_master(o, err);
	if (r < 0)
		return r;
	r = stat_target_find(conf, o->subject, &target, err);
	if (r == 0 && target.path && !o->wait && !o->watch) {
		r = stat_why(conf, o, &target, err);
	} else if (r == 0) {
		json_t *sets = list_sets(conf, &target, err);
		if (!sets)
			r = -EIO;
		else if (o->wait)
			r = stat_wait(conf, o, sets, target.path, err);
		else
			r = o->watch ? stat_watch(conf, o, sets, err) : stat_status(conf, o, sets, err);
		json_decref(sets);
	}
	stat_target_fini(&target);
	cdm_conf_free(&conf);
	return r;
}

/* What went wrong may quote names from elsewhere: control bytes must not reach the terminal. */
static void print_error(const struct cdm_error *err)
{
	struct cdm_error shown = {.number = err->number};
	cdm_text_escape(err->text, shown.text, sizeof shown.text);
	cdm_text_escape(err->hint, shown.hint, sizeof shown.hint);
	cdm_error_print("cdmfs-stat", &shown);
}

int main(int argc, char **argv)
{
	struct stat_options options;
	struct cdm_error err = CDM_ERROR_INIT;
	int r = stat_options_parse(argc, argv, &options, &err);
	if (r > 0)
		return STAT_GOOD;
	int code = r < 0 ? STAT_USAGE : STAT_FAILED;
	if (r == 0)
		r = run(&options, &err);
	if (r < 0)
		print_error(&err);
	else
		code = r;
	if (fflush(stdout) != 0 || ferror(stdout))
		return STAT_FAILED;
	return code;
}
