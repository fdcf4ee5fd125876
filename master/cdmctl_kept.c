/* SPDX-License-Identifier: Apache-2.0 */
/* What nodes keep beside their content until somebody decides: losers of conflicts, changes that were set aside. Each node is asked for its own. */
#include <stdio.h>
#include <string.h>
#include <time.h>
#include "common/text.h"
#include "master/cdmctl.h"

static json_t *ask_node(const struct options *o, const char *set, const char *node, const char *what, const char *action, const char *id, int *code)
{
	char url[400], tail[32];
	struct options patient = *o;
	patient.patience_s = 3600; /* what is taken may be large */
	snprintf(tail, sizeof tail, "/%s", what);
	put_path(url, sizeof url, "/sets/", set, tail);
	return master_call(&patient, "POST", url, json_pack("{s:s, s:s, s:s*}", "node", node, "action", action, "id", id), code);
}

/* Add what a node has to the list; each entry knows where it is. */
static int gather_node(const struct options *o, const char *set, const char *node, const char *what, json_t *all)
{
	int code = EXIT_GOOD;
	size_t i;
	json_t *entry, *answer = ask_node(o, set, node, what, "list", NULL, &code), *found = json_object_get(answer, what);
	json_array_foreach(found, i, entry) {
		json_object_set_new(entry, "set", json_string(set));
		json_object_set_new(entry, "node", json_string(node));
		json_array_append(all, entry);
	}
	json_int_t more = answer_number(answer, "count") - (json_int_t)json_array_size(found);
	if (more > 0)
		fprintf(stderr, "cdmctl: %s has %lld older ones of set %s, too\n", node, (long long)more, set);
	json_decref(answer);
	return answer ? EXIT_GOOD : code;
}

static int gather_set(const struct options *o, const char *set, const char *what, json_t *all)
{
	char url[400];
	int code = EXIT_GOOD;
	size_t i;
	json_t *node;
	put_path(url, sizeof url, "/sets/", set, "/status");
	json_t *status = master_call(o, "GET", url, NULL, &code);
	json_array_foreach(json_object_get(status, "nodes"), i, node) {
		const char *name = answer_text(node, "name");
		bool down = strcmp(answer_text(node, "state"), "down") == 0;
		if (o->node && strcmp(o->node, name) != 0)
			continue;
		if (down)
			fprintf(stderr, "cdmctl: %s is down and was left out\n", name);
		int r = down ? EXIT_GOOD : gather_node(o, set, name, what, all);
		code = r > code ? r : code;
	}
	json_decref(status);
	return code;
}

/* Of all sets. What could not be asked was said; the code tells. */
static json_t *gather(const struct options *o, const char *what, int *code)
{
	size_t i;
	json_t *set, *all = json_array(), *answer = master_call(o, "GET", "/sets", NULL, code);
	json_array_foreach(json_object_get(answer, "sets"), i, set) {
		int r = gather_set(o, answer_text(set, "name"), what, all);
		*code = r > *code ? r : *code;
	}
	json_decref(answer);
	return all;
}

static int list(const struct options *o, const char *what, const char *none, void print(const json_t *entry))
{
	int code = EXIT_GOOD;
	size_t i;
	json_t *entry, *all = gather(o, what, &code);
	if (o->json)
		print_json(json_pack("{s:i, s:O}", "apiVersion", 1, what, all));
	else
		json_array_foreach(all, i, entry)
			print(entry);
	if (!o->json && !json_array_size(all) && code == EXIT_GOOD)
		puts(none);
	json_decref(all);
	return code;
}

/* Who has the one of this id? NULL: nobody that could be asked; it was said. The caller's reference. */
static json_t *find(const struct options *o, const char *what, const char *noun, int *code)
{
	size_t i;
	json_t *entry, *found = NULL, *all = gather(o, what, code);
	json_array_foreach(all, i, entry)
		if (!found && strcmp(answer_text(entry, "id"), o->words[0]) == 0)
			found = json_incref(entry);
	json_decref(all);
	if (!found) {
		fprintf(stderr, "cdmctl: no node has a %s \"%s\"\ncdmctl: cdmctl %s list shows all\n", noun, o->words[0], noun);
		*code = EXIT_FAILED;
	}
	return found;
}

/* Do it where it is. The entry as that node tells it, with "set" and "node"; NULL: it was said. */
static json_t *act(const struct options *o, const char *what, const char *noun, const char *action, int *code)
{
	json_t *entry, *found = find(o, what, noun, code);
	if (!found)
		return NULL;
	json_t *answer = ask_node(o, answer_text(found, "set"), answer_text(found, "node"), what, action, o->words[0], code);
	entry = json_incref(json_array_get(json_object_get(answer, what), 0));
	json_decref(answer);
	if (entry) {
		json_object_set(entry, "set", json_object_get(found, "set"));
		json_object_set(entry, "node", json_object_get(found, "node"));
		*code = EXIT_GOOD;
	}
	json_decref(found);
	return entry;
}

static const char *path_of(const json_t *entry)
{
	const char *path = answer_text(entry, "path");
	return *path ? path : "(its path is not known)";
}

/* "www:site/a" */
static void put_where(const json_t *entry)
{
	printf("%s:", answer_text(entry, "set"));
	cdm_text_put(path_of(entry));
	printf(" on %s", answer_text(entry, "node"));
}

static int acted(const struct options *o, json_t *entry, const char *done)
{
	if (o->json)
		return print_json(entry);
	printf("%s ", o->words[0]);
	put_where(entry);
	puts(done);
	json_decref(entry);
	return EXIT_GOOD;
}

/* --- conflicts --- */

/* "C3f0a91bc www:site/a on n2  version n2:6  12 KiB  kept 2026-11-28 12:00:01Z" */
static void print_conflict(const json_t *entry)
{
	char bytes[32], when[48];
	cdm_text_bytes((uint64_t)answer_number(entry, "bytes"), bytes, sizeof bytes);
	printf("%s ", answer_text(entry, "id"));
	put_where(entry);
	if (*answer_text(entry, "version"))
		printf("  version %s", answer_text(entry, "version"));
	printf("  %s  kept %s\n", bytes, cdm_text_time(answer_number(entry, "kept_s") * 1000000000, when, sizeof when));
}

int run_conflict_list(const struct command *c, const struct options *o)
{
	return list(o, "conflicts", "no versions that lost are kept", print_conflict);
}

int run_conflict_show(const struct command *c, const struct options *o)
{
	int code = EXIT_GOOD;
	char when[48];
	json_t *entry = act(o, "conflicts", "conflict", "show", &code);
	if (!entry || o->json)
		return entry ? print_json(entry) : code;
	print_conflict(entry);
	printf("%s, mode %s, uid %lld, gid %lld, modified %s\nas %s:", answer_text(entry, "type"), answer_text(entry, "mode"), (long long)answer_number(entry, "uid"),
		(long long)answer_number(entry, "gid"), cdm_text_time(answer_number(entry, "mtime_s") * 1000000000, when, sizeof when), answer_text(entry, "node"));
	cdm_text_put(answer_text(entry, "file"));
	putchar('\n');
	json_decref(entry);
	return EXIT_GOOD;
}

static int decide(const struct options *o, const char *action, const char *done)
{
	int code = EXIT_GOOD;
	json_t *entry = act(o, "conflicts", "conflict", action, &code);
	return entry ? acted(o, entry, done) : code;
}

int run_conflict_take(const struct command *c, const struct options *o)
{
	return decide(o, "take", o->dry_run ? " can be taken (dry run, nothing changed)" : ": saved again, it is sent");
}

int run_conflict_drop(const struct command *c, const struct options *o)
{
	return decide(o, "drop", o->dry_run ? " can be dropped (dry run, nothing changed)" : ": dropped");
}

/* --- what was set aside --- */

/* "Q3f0a91bc www:site/a on n2: File name too long" */
static void print_set_aside(const json_t *entry)
{
	printf("%s ", answer_text(entry, "id"));
	put_where(entry);
	fputs(json_is_true(json_object_get(entry, "unread")) ? ": cannot be read for the others: " : ": ", stdout);
	cdm_text_put(answer_text(entry, "reason"));
	putchar('\n');
}

int run_quarantine_list(const struct command *c, const struct options *o)
{
	return list(o, "quarantine", "nothing is set aside", print_set_aside);
}

int run_quarantine_retry(const struct command *c, const struct options *o)
{
	char url[400];
	int code = EXIT_GOOD;
	struct options patient = *o;
	json_t *entry = find(o, "quarantine", "quarantine", &code);
	if (!entry)
		return code;
	patient.patience_s = 3600;
	put_path(url, sizeof url, "/sets/", answer_text(entry, "set"), "/rescan");
	json_t *answer = master_call(&patient, "POST", url, json_pack("{s:O, s:O}", "node", json_object_get(entry, "node"), "path", json_object_get(entry, "path")), &code);
	json_decref(answer);
	if (answer)
		return acted(o, entry, o->dry_run ? " can be tried again (dry run, nothing changed)" : ": is being tried again; cdmctl quarantine list shows whether it works");
	json_decref(entry);
	return code;
}

int run_quarantine_drop(const struct command *c, const struct options *o)
{
	int code = EXIT_GOOD;
	json_t *entry = act(o, "quarantine", "quarantine", "drop", &code);
	return entry ? acted(o, entry, o->dry_run ? " can be dropped (dry run, nothing changed)" : ": is not waited for any more") : code;
}
