/* SPDX-License-Identifier: Apache-2.0 */
/* One file: which version it has, who has it, who lacks it and why. */
#include <errno.h>
#include <string.h>
#include "cdmfs/stat.h"

static void print_version(const json_t *answer)
{
	const char *version = stat_text(answer, "version_name");
	int64_t saved = json_integer_value(json_object_get(answer, "saved_ns"));
	const json_t *uid = json_object_get(answer, "uid");
	char when[48];
	fputs(*version ? "  version " : "  no version yet", stdout);
	cdm_text_put(version);
	if (saved > 0) {
		printf("  saved %s", cdm_text_time(saved, when, sizeof when));
		if (json_is_integer(uid))
			printf(" by uid %lld", (long long)json_integer_value(uid));
	}
	putchar('\n');
}

/* Nothing is wrong with the node: it has all that it was sent so far. */
static bool is_on_its_way(const char *reason)
{
	return !*reason || strcmp(reason, "behind") == 0 || strcmp(reason, "in sync") == 0;
}

static void print_nodes(const json_t *answer)
{
	const json_t *lack = json_object_get(answer, "lack");
	size_t have = json_array_size(json_object_get(answer, "have")), lacking = json_array_size(lack);
	if (!lacking && !have)
		fputs("never saved through a mount, so no node is told of it", stdout);
	else if (!lacking)
		printf(have == 1 ? "the only node has it" : "all %zu nodes have it", have);
	else
		printf("%zu node%s it", have, have == 1 ? " has" : "s have");
	for (size_t i = 0; i < lacking; i++) {
		const json_t *one = json_array_get(lack, i);
		const char *reason = stat_text(one, "reason");
		fputs("; ", stdout);
		cdm_text_put(stat_text(one, "node"));
		fputs(": ", stdout);
		cdm_text_put(is_on_its_way(reason) ? "on its way" : reason);
	}
	putchar('\n');
}

/* The sentence of each state, around what the replicator adds, and without. */
static const struct state {
	const char *name, *with_detail, *behind, *bare;
	bool has_version; /* and who has it is of interest */
	int code;         /* exit code, when all who should have it do */
} states[] = {
	{"shipped", NULL, NULL, NULL, true, STAT_GOOD},
	{"open", "open for writing since ", ": not shipped before it is closed", "open for writing: not shipped before it is closed", false,
		STAT_NOT_IN_SYNC},
	{"excluded", "excluded by '", "'", "excluded: never leaves this node", false, STAT_GOOD},
	{"local", "local, by '", "'", "local: belongs to this node alone", false, STAT_GOOD},
	{"quarantined", "quarantined ", "", "quarantined", true, STAT_NOT_IN_SYNC},
	{"absent", "no such file here; ", "", "no such file here", false, STAT_FAILED},
};

static const struct state *find_state(const char *name)
{
	for (size_t i = 0; i < sizeof states / sizeof states[0]; i++)
		if (strcmp(states[i].name, name) == 0)
			return &states[i];
	return NULL;
}

static void print_state(const json_t *answer, const struct state *state)
{
	int64_t since = json_integer_value(json_object_get(answer, "since_ns"));
	char when[48] = "";
	const char *detail = since > 0 ? cdm_text_time(since, when, sizeof when) : stat_text(answer, "detail");
	fputs(*detail ? state->with_detail : state->bare, stdout);
	cdm_text_put(detail);
	puts(*detail ? state->behind : "");
}

static void print_people(const json_t *answer, const char *path, const struct state *state)
{
	if (state->code != STAT_FAILED)
		cdm_text_put(path);
	if (state->has_version)
		print_version(answer);
	else if (state->code != STAT_FAILED)
		fputs("  ", stdout);
	if (state->bare)
		print_state(answer, state);
	if (state->has_version && (!state->bare || *stat_text(answer, "version")))
		print_nodes(answer);
}

int stat_why(const struct cdm_conf *conf, const struct stat_options *o, const struct stat_target *t, struct cdm_error *err)
{
	struct stat_client c;
	json_t *answer = NULL;
	int r = stat_client_open(conf, &c, err);
	if (r < 0)
		return r;
	r = stat_client_ask(&c, stat_request("why", t->set->name, t->path), &answer, err);
	stat_client_close(&c);
	if (r < 0)
		return r;
	const struct state *state = find_state(stat_text(answer, "state"));
	if (!state) {
		cdm_fail_plain(err, EPROTO, "the replicator's answer is not understood: state '%s'", stat_text(answer, "state"));
		json_decref(answer);
		return -EPROTO;
	}
	bool all = json_array_size(json_object_get(answer, "have")) && !json_array_size(json_object_get(answer, "lack"));
	r = state->has_version && !all ? STAT_NOT_IN_SYNC : state->code;
	if (o->json) {
		json_object_set_new(answer, "apiVersion", json_integer(1));
		json_object_set_new(answer, "set", json_string(t->set->name));
		stat_print_json(answer);
	} else {
		print_people(answer, t->path, state);
	}
	json_decref(answer);
	return r;
}
