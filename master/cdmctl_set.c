/* SPDX-License-Identifier: Apache-2.0 */
/* cdmctl set … and cdmctl status. */
#include <stdio.h>
#include <string.h>
#include "common/status.h"
#include "common/text.h"
#include "master/cdmctl.h"

static json_t *set_body(const struct options *o)
{
	const struct { const char *key; json_t *list; } lists[] = {
		{"source", o->source}, {"target", o->target}, {"both", o->both}, {"exclude", o->exclude}, {"local", o->local}};
	json_t *body = json_object();
	for (size_t i = 0; i < 5; i++)
		if (lists[i].list)
			json_object_set(body, lists[i].key, lists[i].list);
	if (o->update)
		json_object_set_new(body, "update", json_string(o->update));
	if (o->open)
		json_object_set_new(body, "open", json_string(o->open));
	if (o->default_excludes)
		json_object_set_new(body, "default_excludes", json_boolean(strcmp(o->default_excludes, "no") != 0));
	return body;
}

/* "set www: 1 source, 40 targets (read-only), 2 both ways" */
static void print_set(const json_t *s)
{
	const json_t *count = json_object_get(s, "count");
	json_int_t sources = answer_number(count, "source"), targets = answer_number(count, "target"), both = answer_number(count, "both");
	const char *comma = "";
	printf("set %s: ", answer_text(s, "name"));
	if (sources + targets + both == 0)
		printf("no nodes yet");
	if (both > 0)
		printf("%lld source%s and target%s", (long long)both, one_or_more(both), one_or_more(both)), comma = ", ";
	if (sources > 0)
		printf("%s%lld source%s", comma, (long long)sources, one_or_more(sources)), comma = ", ";
	if (targets > 0)
		printf("%s%lld target%s (read-only)", comma, (long long)targets, one_or_more(targets));
	putchar('\n');
}

static int show_set(const struct options *o, const char *name)
{
	char path[400];
	int code;
	put_path(path, sizeof path, "/sets/", name, "");
	json_t *s = master_call(o, "GET", path, NULL, &code);
	if (!s || o->json)
		return s ? print_json(s) : code;
	print_set(s);
	json_decref(s);
	return EXIT_GOOD;
}

int run_set_add(const struct command *c, const struct options *o)
{
	int code;
	char said[200];
	if (!o->source && !o->target && !o->both)
		return report_usage("for example --source auth1 --target @eu, or --both @all", "set add needs to know its nodes");
	json_t *body = set_body(o);
	json_object_set_new(body, "name", json_string(o->words[0]));
	snprintf(said, sizeof said, "set %.80s can be added", o->words[0]);
	if (o->dry_run)
		return make_change(o, "POST", "/sets", body, said);
	json_t *answer = master_call(o, "POST", "/sets", body, &code);
	json_decref(answer);
	return answer ? show_set(o, o->words[0]) : code;
}

int run_set_list(const struct command *c, const struct options *o)
{
	int code;
	json_t *answer = master_call(o, "GET", "/sets", NULL, &code), *s;
	size_t i;
	if (!answer || o->json)
		return answer ? print_json(answer) : code;
	json_array_foreach(json_object_get(answer, "sets"), i, s)
		print_set(s);
	json_decref(answer);
	return EXIT_GOOD;
}

static void print_list(const char *what, const json_t *list)
{
	size_t i;
	json_t *item;
	if (json_array_size(list) > 0)
		printf("  %-8s", what);
	json_array_foreach(list, i, item)
		printf(" %s", json_string_value(item));
	if (json_array_size(list) > 0)
		putchar('\n');
}

int run_set_show(const struct command *c, const struct options *o)
{
	static const char *const lists[] = {"source", "target", "both", "exclude", "local", "paused"};
	char path[400];
	int code;
	put_path(path, sizeof path, "/sets/", o->words[0], "");
	json_t *s = master_call(o, "GET", path, NULL, &code);
	if (!s || o->json)
		return s ? print_json(s) : code;
	print_set(s);
	for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++)
		print_list(lists[i], json_object_get(s, lists[i]));
	printf("  update   %s\n  open     %s\n  default excludes %s\n", answer_text(s, "update"), answer_text(s, "open"),
		json_is_true(json_object_get(s, "default_excludes")) ? "yes" : "no");
	print_set_cost(json_object_get(s, "cost"));
	json_decref(s);
	return EXIT_GOOD;
}

int run_set_change(const struct command *c, const struct options *o)
{
	char path[400], said[200];
	json_t *body = set_body(o);
	if (json_object_size(body) == 0) {
		json_decref(body);
		return report_usage("cdmctl set change --help", "set change: nothing to change");
	}
	put_path(path, sizeof path, "/sets/", o->words[0], "");
	snprintf(said, sizeof said, "set %.80s changed", o->words[0]);
	return make_change(o, "PATCH", path, body, said);
}

int run_set_remove(const struct command *c, const struct options *o)
{
	return remove_one(o, "set", "/sets/", " (the files on the nodes stay, they are not replicated any more)");
}

static void print_figure(const json_t *a, const char *key, const char *said, const char *behind)
{
	char count[32];
	cdm_text_count((uint64_t)answer_number(a, key), count, sizeof count);
	printf("%s %s%s", said, count, behind);
}

/* "same 412,006   fetch 31 (4.1 MiB)   only here 2 (kept; --delete removes)   local 9" */
static void print_adoption(const struct options *o, const json_t *a)
{
	char bytes[32], text[60];
	size_t i;
	json_t *name;
	cdm_text_bytes((uint64_t)answer_number(a, "fetch_bytes"), bytes, sizeof bytes);
	snprintf(text, sizeof text, answer_number(a, "fetch") ? " (%s)   " : "   ", bytes);
	print_figure(a, "same", "same", "   ");
	print_figure(a, "fetch", "fetch", text);
	if (answer_number(a, "newer"))
		print_figure(a, "newer", "newer here", "   ");
	print_figure(a, "only_here", "only here", !answer_number(a, "only_here") ? "   " : o->remove ? " (removed)   " : " (kept; --delete removes)   ");
	if (answer_number(a, "removed"))
		print_figure(a, "removed", "removed elsewhere", "   ");
	print_figure(a, "local", "local", "\n");
	json_array_foreach(json_object_get(a, "names"), i, name)
		printf("%s%s", i ? ", " : "only here: ", json_string_value(name));
	if (i)
		printf("%s; ", answer_number(a, "only_here") > (json_int_t)i ? " …" : "");
	puts(o->dry_run ? "nothing changed" : strcmp(answer_text(a, "when"), "mount") == 0 ? "adopted when the set is mounted there"
		: "being adopted; cdmfs-stat shows when it is in sync");
}

int run_set_adopt(const struct command *c, const struct options *o)
{
	struct options patient = *o;
	char path[400], said[300];
	int code = EXIT_GOOD;
	if (!o->node)
		return report_usage("the node whose tree is adopted", "set adopt needs --node N");
	snprintf(said, sizeof said, "remove on %.80s what only it has in set %.80s", o->node, o->words[0]);
	if (o->remove && !is_sure(o, said, &code))
		return code;
	patient.patience_s = 3600;
	put_path(path, sizeof path, "/sets/", o->words[0], "/adopt");
	json_t *body = json_pack("{s:s, s:b, s:s*}", "node", o->node, "delete", o->remove, "store", o->store);
	json_t *answer = master_call(&patient, "POST", path, body, &code);
	if (!answer || o->json)
		return answer ? print_json(answer) : code;
	print_adoption(o, answer);
	json_decref(answer);
	return EXIT_GOOD;
}

/* --- pausing ---------------------------------------------------------------------------------------------------- */

static json_t *ask_pause(const struct options *o, const char *what, int *code)
{
	char path[400], tail[16];
	snprintf(tail, sizeof tail, "/%s", what);
	put_path(path, sizeof path, "/sets/", o->words[0], tail);
	return master_call(o, "POST", path, json_pack("{s:s*}", "group", o->group), code);
}

/* "www paused in us (20 nodes)" */
static void print_pause(const struct options *o, const json_t *answer, const char *what)
{
	json_int_t nodes = answer_number(answer, "nodes");
	printf("%s %s%s%s (%lld node%s)", o->words[0], what, o->group ? " in " : "", o->group ? o->group : "", (long long)nodes, one_or_more(nodes));
}

int run_set_pause(const struct command *c, const struct options *o)
{
	int code;
	char when[32];
	json_t *answer = ask_pause(o, "pause", &code);
	if (!answer || o->json)
		return answer ? print_json(answer) : code;
	const json_t *full_s = json_object_get(answer, "journal_full_s");
	print_pause(o, answer, o->dry_run ? "can be paused" : "paused");
	fputs("; saves are journaled", stdout);
	if (json_is_number(full_s))
		printf("; the journal is full in about %s", cdm_text_duration(json_number_value(full_s), when, sizeof when));
	puts(o->dry_run ? " (dry run, nothing changed)" : "");
	json_decref(answer);
	return EXIT_GOOD;
}

int run_set_resume(const struct command *c, const struct options *o)
{
	int code;
	json_t *answer = ask_pause(o, "resume", &code);
	if (!answer || o->json)
		return answer ? print_json(answer) : code;
	print_pause(o, answer, o->dry_run ? "can be resumed" : "resumed");
	puts(o->dry_run ? " (dry run, nothing changed)" : "");
	json_decref(answer);
	return EXIT_GOOD;
}

/* --- rescan ----------------------------------------------------------------------------------------------------- */

/* "web07  looked at 412,006   changed 1   new 0   gone 0; journaled" */
static void print_rescan(const struct options *o, const char *node, const json_t *a)
{
	const char *done = answer_text(a, "done");
	size_t i;
	json_t *name;
	printf("%s  ", node);
	print_figure(a, "looked", "looked at", "   ");
	print_figure(a, "changed", "changed", "   ");
	print_figure(a, "new", "new", "   ");
	print_figure(a, "gone", "gone", "");
	if (answer_number(a, "aside"))
		print_figure(a, "aside", "   set aside before", o->dry_run ? "" : ", fetched again");
	if (answer_number(a, "failed"))
		print_figure(a, "failed", "   failed", "");
	puts(o->dry_run ? " (dry run, nothing changed)" : strcmp(done, "journaled") == 0 ? "; made changes of it, which are sent"
		: strcmp(done, "repaired") == 0 ? "; being repaired, copies are in .cdmfs/conflicts" : "");
	json_array_foreach(json_object_get(a, "names"), i, name)
		printf("%s%s", i ? ", " : "written past the mount: ", json_string_value(name));
	if (i)
		puts(answer_number(a, "changed") + answer_number(a, "new") + answer_number(a, "gone") > (json_int_t)i ? " …" : "");
}

static int rescan_node(const struct options *o, const char *set, const char *path, const char *node, json_t *all)
{
	struct options patient = *o;
	char url[400];
	int code;
	patient.patience_s = 3600;
	put_path(url, sizeof url, "/sets/", set, "/rescan");
	json_t *answer = master_call(&patient, "POST", url, json_pack("{s:s, s:s*}", "node", node, "path", path[0] ? path : NULL), &code);
	if (!answer)
		return code;
	if (!o->json)
		print_rescan(o, node, answer);
	json_object_set_new(answer, "node", json_string(node));
	json_array_append_new(all, answer);
	return EXIT_GOOD;
}

/* What is done on one node, or on all that can be asked. */
static int errand(const struct options *o, const char *set, const char *path, const char *only,
	int on_node(const struct options *o, const char *set, const char *path, const char *node, json_t *all))
{
	char url[400];
	int code = EXIT_GOOD;
	size_t i;
	json_t *node, *all = json_array();
	put_path(url, sizeof url, "/sets/", set, "/status");
	json_t *status = only ? json_pack("{s:[{s:s}]}", "nodes", "name", only) : master_call(o, "GET", url, NULL, &code);
	json_array_foreach(json_object_get(status, "nodes"), i, node) {
		bool gone = !only && strcmp(answer_text(node, "state"), "down") == 0;
		int r = gone ? EXIT_GOOD : on_node(o, set, path, answer_text(node, "name"), all);
		if (gone)
			fprintf(stderr, "cdmctl: %s is down and was left out\n", answer_text(node, "name"));
		code = r > code ? r : code;
	}
	json_decref(status);
	if (o->json)
		print_json(json_pack("{s:i, s:O}", "apiVersion", 1, "nodes", all));
	json_decref(all);
	return code;
}

/* SET:PATH */
int run_rescan(const struct command *c, const struct options *o)
{
	char set[80];
	const char *colon = strchr(o->words[0], ':'), *path = colon ? colon + 1 : "";
	snprintf(set, sizeof set, "%.*s", colon ? (int)(colon - o->words[0]) : (int)strlen(o->words[0]), o->words[0]);
	return errand(o, set, path + strspn(path, "/"), o->node, rescan_node);
}

/* --- scrub ------------------------------------------------------------------------------------------------------ */

/* "web07  scrub begins, with auth1" */
static int scrub_node(const struct options *o, const char *set, const char *path, const char *node, json_t *all)
{
	char url[400];
	int code;
	put_path(url, sizeof url, "/sets/", set, "/scrub");
	json_t *answer = master_call(o, "POST", url, json_pack("{s:s}", "node", node), &code);
	if (!answer)
		return code;
	if (!o->json && o->dry_run)
		printf("%s  can be asked (dry run, nothing changed)\n", node);
	else if (!o->json)
		printf("%s  scrub %s, with %s\n", node, strcmp(answer_text(answer, "scrub"), "runs") == 0 ? "runs already" : "begins", answer_text(answer, "with"));
	json_object_set_new(answer, "node", json_string(node));
	json_array_append_new(all, answer);
	return EXIT_GOOD;
}

int run_scrub(const struct command *c, const struct options *o)
{
	int code = errand(o, o->words[0], "", o->word_count > 1 ? o->words[1] : NULL, scrub_node);
	if (!o->json && !o->dry_run && code == EXIT_GOOD)
		puts("cdmfs-stat says \"proven equal\" when it ended without a difference");
	return code;
}

/* --- status ----------------------------------------------------------------------------------------------------- */

int run_status(const struct command *c, const struct options *o)
{
	char path[400] = "/status";
	int code;
	if (o->word_count)
		put_path(path, sizeof path, "/sets/", o->words[0], "/status");
	json_t *answer = master_call(o, "GET", path, NULL, &code), *s;
	size_t i;
	bool in_sync = true;
	if (!answer)
		return code;
	json_t *sets = o->word_count ? json_pack("[O]", answer) : json_incref(json_object_get(answer, "sets"));
	if (!o->json && !o->word_count)
		printf("%lld of %lld nodes connected, epoch %lld\n", (long long)answer_number(answer, "nodes_connected"),
			(long long)answer_number(answer, "nodes"), (long long)answer_number(answer, "epoch"));
	json_array_foreach(sets, i, s) {
		in_sync &= json_is_true(json_object_get(s, "in_sync"));
		if (!o->json && !o->word_count)
			putchar('\n');
		if (!o->json)
			cdm_status_print(s);
	}
	json_decref(sets);
	if (o->json)
		print_json(answer);
	else
		json_decref(answer);
	return in_sync ? EXIT_GOOD : EXIT_NOT_IN_SYNC;
}
