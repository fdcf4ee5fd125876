/* SPDX-License-Identifier: Apache-2.0 */
/* --wait: the replicator answers when it is done; here it is only asked, for all sets at once, and told. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "cdmfs/stat.h"

#define GRACE_MS 10000 /* the replicator keeps the time-out; this much later it counts as hung */

static json_t *wait_request(const struct stat_options *o, const char *set, const char *path)
{
	json_t *request = stat_request("wait", set, path);
	json_object_set_new(request, "timeout_s", json_real(o->timeout_s));
	if (o->group)
		json_object_set_new(request, "group", json_string(o->group));
	if (o->node)
		json_object_set_new(request, "node", json_string(o->node));
	json_object_set_new(request, "min_percent", json_real(o->min_percent));
	json_object_set_new(request, "fail_fast", json_boolean(o->fail_fast));
	return request;
}

static void print_lack(const json_t *lack)
{
	size_t count = json_array_size(lack);
	if (!count)
		return;
	fputs("lacking: ", stdout);
	for (size_t i = 0; i < count; i++) {
		const json_t *one = json_array_get(lack, i);
		const char *reason = stat_text(one, "reason");
		fputs(i ? ", " : "", stdout);
		cdm_text_put(stat_text(one, "node"));
		if (!*reason)
			continue;
		fputs(" (", stdout);
		cdm_text_put(reason);
		putchar(')');
	}
	putchar('\n');
}

static void print_people(const struct stat_options *o, const json_t *answer, const char *set, const char *path, bool good)
{
	double seconds = json_number_value(json_object_get(answer, "seconds"));
	char took[32];
	cdm_text_put(path ? path : set);
	const char *upto = stat_text(answer, "upto_name");
	fputs(good ? " up to " : " NOT up to ", stdout);
	cdm_text_put(*upto ? upto : "date"); /* nothing was saved here: it is about what came from others */
	printf(" on %lld of %lld", (long long)json_integer_value(json_object_get(answer, "have")),
		(long long)json_integer_value(json_object_get(answer, "of")));
	if (o->group || o->node) {
		fputs(o->group ? " in " : " (", stdout);
		cdm_text_put(o->group ? o->group : o->node);
		fputs(o->group ? "" : ")", stdout);
	}
	if (seconds < 1)
		snprintf(took, sizeof took, "%.2f s", seconds);
	else
		cdm_text_duration(seconds, took, sizeof took);
	printf(" (%s%s)\n", good ? "" : "after ", took);
	if (!good)
		print_lack(json_object_get(answer, "lack"));
	cdm_status_print_open(json_object_get(answer, "open"));
}

static int wait_for(const struct stat_options *o, struct stat_client *c, const char *set, const char *path, struct cdm_error *err)
{
	json_t *answer = NULL;
	int r = stat_client_read(c, (int)(o->timeout_s * 1000) + GRACE_MS, &answer, err);
	if (r < 0)
		return r;
	const char *result = stat_text(answer, "result");
	int code = strcmp(result, "ok") == 0 ? STAT_GOOD : strcmp(result, "down") == 0 ? STAT_NOT_IN_SYNC :
		strcmp(result, "timeout") == 0 ? STAT_TIMEOUT : -EPROTO;
	if (code < 0) {
		cdm_fail_plain(err, EPROTO, "the replicator's answer is not understood: result '%s'", result);
	} else if (o->json) {
		json_object_set_new(answer, "apiVersion", json_integer(1));
		json_object_set_new(answer, "set", json_string(set));
		stat_print_json(answer);
	} else {
		print_people(o, answer, set, path, code == STAT_GOOD);
	}
	json_decref(answer);
	return code;
}

int stat_wait(const struct cdm_conf *conf, const struct stat_options *o, const json_t *sets, const char *path, struct cdm_error *err)
{
	size_t count = json_array_size(sets), opened = 0;
	struct stat_client *clients = calloc(count, sizeof *clients);
	int r = clients ? 0 : cdm_fail(err, ENOMEM, "wait"), worst = 0;
	for (; r >= 0 && opened < count; opened++) {
		r = stat_client_open(conf, &clients[opened], err);
		if (r < 0)
			break;
		r = stat_client_send(&clients[opened], wait_request(o, json_string_value(json_array_get(sets, opened)), path), err);
	}
	for (size_t i = 0; r >= 0 && i < count; i++) {
		r = wait_for(o, &clients[i], json_string_value(json_array_get(sets, i)), path, err);
		worst = r > worst ? r : worst;
	}
	for (size_t i = 0; i < opened; i++)
		stat_client_close(&clients[i]);
	free(clients);
	return r < 0 ? r : worst;
}
