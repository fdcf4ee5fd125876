/* SPDX-License-Identifier: Apache-2.0 */
/* What waits for somebody's decision. */
#include <stdio.h>
#include "common/text.h"
#include "master/cdmctl.h"

/* "H3127  www  delete 61,204 of 80,000 names on n3, as on n1: releases/1, releases/2, …" */
static void print_hold(const json_t *hold)
{
	char removals[32], names[32];
	const json_t *examples = json_object_get(hold, "examples");
	size_t i;
	json_t *path;
	cdm_text_count((uint64_t)answer_number(hold, "removals"), removals, sizeof removals);
	cdm_text_count((uint64_t)answer_number(hold, "names"), names, sizeof names);
	printf("%s %s delete %s of %s names on %s, which are not on %s", answer_text(hold, "id"), answer_text(hold, "set"), removals, names,
		answer_text(hold, "node"), answer_text(hold, "peer"));
	json_array_foreach(examples, i, path)
		printf("%s%s", i ? ", " : ": ", json_string_value(path));
	puts(answer_number(hold, "removals") > (json_int_t)json_array_size(examples) && json_array_size(examples) ? ", …" : "");
}

int run_hold_list(const struct command *c, const struct options *o)
{
	int code;
	size_t i;
	json_t *hold, *answer = master_call(o, "GET", "/holds", NULL, &code);
	if (!answer || o->json)
		return answer ? print_json(answer) : code;
	json_array_foreach(json_object_get(answer, "holds"), i, hold)
		print_hold(hold);
	if (!i)
		puts("nothing is held");
	json_decref(answer);
	return EXIT_GOOD;
}

static int decide(const struct options *o, const char *decision, const char *done)
{
	char path[400], said[200];
	put_path(path, sizeof path, "/holds/", o->words[0], "");
	snprintf(said, sizeof said, "%.80s %s", o->words[0], done);
	return make_change(o, "POST", path, json_pack("{s:s}", "decision", decision), said);
}

int run_hold_approve(const struct command *c, const struct options *o)
{
	return decide(o, "approve", "approved: it is removed");
}

int run_hold_reject(const struct command *c, const struct options *o)
{
	return decide(o, "reject", "rejected: it comes back where it is lacking");
}
