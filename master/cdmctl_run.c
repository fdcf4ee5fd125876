/* SPDX-License-Identifier: Apache-2.0 */
/* What each command of cdmctl does: one call of the HTTP API, one line per fact on stdout. Those about sets: cdmctl_set.c. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "common/text.h"
#include "master/cdmctl.h"

const char *answer_text(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));
	return s ? s : "";
}

json_int_t answer_number(const json_t *o, const char *key)
{
	return json_integer_value(json_object_get(o, key));
}

const char *one_or_more(json_int_t count)
{
	return count == 1 ? "" : "s";
}

int print_json(json_t *j)
{
	if (!j)
		return EXIT_FAILED;
	json_dumpf(j, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
	putchar('\n');
	json_decref(j);
	return EXIT_GOOD;
}

void put_path(char *out, size_t room, const char *head, const char *name, const char *tail)
{
	size_t n = (size_t)snprintf(out, room, "%s", head);
	for (; *name && n + 4 < room; name++) {
		bool plain = strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~", *name) != NULL;
		n += (size_t)snprintf(out + n, room - n, plain ? "%c" : "%%%02X", (unsigned char)*name);
	}
	snprintf(out + n, room - n, "%s", tail);
}

int make_change(const struct options *o, const char *method, const char *path, json_t *body, const char *said)
{
	int code;
	json_t *answer = master_call(o, method, path, body, &code);
	if (!answer)
		return code;
	if (o->json)
		return print_json(answer);
	json_decref(answer);
	printf("%s%s\n", said, o->dry_run ? " (dry run, nothing changed)" : "");
	return EXIT_GOOD;
}

bool is_sure(const struct options *o, const char *what, int *code)
{
	char line[16];
	if (o->yes || o->dry_run)
		return true;
	*code = EXIT_USAGE;
	if (!isatty(STDIN_FILENO)) {
		report_usage("add --yes, or --dry-run to see what it would do", "%s: not done without a yes", what);
		return false;
	}
	fprintf(stderr, "%s. Go on? [y/N] ", what);
	return fgets(line, sizeof line, stdin) && (line[0] == 'y' || line[0] == 'Y');
}

int remove_one(const struct options *o, const char *noun, const char *plural, const char *consequence)
{
	char path[400], said[300];
	int code = EXIT_GOOD;
	snprintf(said, sizeof said, "remove %s %.100s%s", noun, o->words[0], consequence);
	if (!is_sure(o, said, &code))
		return code;
	put_path(path, sizeof path, plural, o->words[0], "");
	snprintf(said, sizeof said, "%s %.100s removed", noun, o->words[0]);
	return make_change(o, "DELETE", path, NULL, said);
}

/* --- region, group ---------------------------------------------------------------------------------------------- */

static int region_add(const struct command *c, const struct options *o)
{
	char said[200];
	snprintf(said, sizeof said, "region %.80s added", o->words[0]);
	return make_change(o, "POST", "/regions", json_pack("{s:s}", "name", o->words[0]), said);
}

static int region_list(const struct command *c, const struct options *o)
{
	int code;
	json_t *answer = master_call(o, "GET", "/regions", NULL, &code), *r;
	size_t i;
	if (!answer || o->json)
		return answer ? print_json(answer) : code;
	json_array_foreach(json_object_get(answer, "regions"), i, r)
		printf("%s  %lld group%s\n", answer_text(r, "name"), (long long)answer_number(r, "groups"), one_or_more(answer_number(r, "groups")));
	json_decref(answer);
	return EXIT_GOOD;
}

static int region_remove(const struct command *c, const struct options *o)
{
	return remove_one(o, "region", "/regions/", "");
}

static int group_add(const struct command *c, const struct options *o)
{
	char said[300];
	if (!o->region)
		return report_usage("cdmctl region list shows them", "group add needs --region R");
	snprintf(said, sizeof said, "group %.80s added to region %.80s", o->words[0], o->region);
	return make_change(o, "POST", "/groups", json_pack("{s:s, s:s}", "name", o->words[0], "region", o->region), said);
}

static int group_list(const struct command *c, const struct options *o)
{
	int code;
	json_t *answer = master_call(o, "GET", "/groups", NULL, &code), *g;
	size_t i;
	if (!answer || o->json)
		return answer ? print_json(answer) : code;
	json_array_foreach(json_object_get(answer, "groups"), i, g)
		printf("%s  region %s  %lld node%s\n", answer_text(g, "name"), answer_text(g, "region"), (long long)answer_number(g, "nodes"), one_or_more(answer_number(g, "nodes")));
	json_decref(answer);
	return EXIT_GOOD;
}

static int group_remove(const struct command *c, const struct options *o)
{
	return remove_one(o, "group", "/groups/", "");
}

/* --- node ------------------------------------------------------------------------------------------------------- */

static int node_list(const struct command *c, const struct options *o)
{
	int code;
	json_t *answer = master_call(o, "GET", "/nodes", NULL, &code), *n;
	size_t i;
	if (!answer || o->json)
		return answer ? print_json(answer) : code;
	static const char *const titles[] = {"NODE", "GROUP", "REGION", "STATE", "CONNECTED", "ADDRESS", "LAST SEEN"};
	struct cdm_table *table = cdm_table_new(7, titles);
	json_array_foreach(json_object_get(answer, "nodes"), i, n) {
		const char *seen = answer_text(n, "last_seen");
		const char *const cells[] = {answer_text(n, "name"), answer_text(n, "group"), answer_text(n, "region"), answer_text(n, "state"),
			json_is_true(json_object_get(n, "connected")) ? "yes" : "no", answer_text(n, "addr"), seen[0] ? seen : "never"};
		cdm_table_add(table, cells, NULL);
	}
	cdm_table_print(&table);
	json_decref(answer);
	return EXIT_GOOD;
}

static int node_show(const struct command *c, const struct options *o)
{
	char path[400];
	int code;
	put_path(path, sizeof path, "/nodes/", o->words[0], "");
	json_t *n = master_call(o, "GET", path, NULL, &code), *s;
	size_t i;
	if (!n || o->json)
		return n ? print_json(n) : code;
	printf("node %s (number %lld), group %s, region %s, %s, role %s, feeds up to %lld\n", answer_text(n, "name"), (long long)answer_number(n, "number"),
		answer_text(n, "group"), answer_text(n, "region"), answer_text(n, "state"), answer_text(n, "role"), (long long)answer_number(n, "capacity"));
	printf("%s, address %s, version %s, routes of epoch %lld\n", json_is_true(json_object_get(n, "connected")) ? "connected" : "not connected",
		answer_text(n, "addr"), answer_text(n, "version"), (long long)answer_number(n, "epoch"));
	if (answer_text(n, "certificate_until")[0])
		printf("certificate until %s\n", answer_text(n, "certificate_until"));
	json_array_foreach(json_object_get(n, "sets"), i, s)
		printf("set %s: %s%s%s\n", answer_text(s, "name"), answer_text(s, "state"), answer_text(s, "reason")[0] ? ": " : "", answer_text(s, "reason"));
	json_decref(n);
	return EXIT_GOOD;
}

/* "cdm-replicator join m1:7440 --token K10ab…   (until 14:02Z)" */
static void print_token(const json_t *answer, long uses)
{
	struct tm tm = {0};
	char until[32] = "", more[40] = "";
	if (strptime(answer_text(answer, "expires"), "%Y-%m-%dT%H:%M:%SZ", &tm))
		cdm_text_minute(timegm(&tm), until, sizeof until);
	if (uses > 1)
		snprintf(more, sizeof more, ", %ld uses", uses);
	printf("%s   (until %s%s)\n", answer_text(answer, "join"), until, more);
}

static int node_token(const struct command *c, const struct options *o)
{
	int64_t ttl = cdm_text_to_seconds(o->ttl ? o->ttl : "1h");
	char *end = NULL;
	long uses = o->uses ? strtol(o->uses, &end, 10) : 1;
	int code;
	if (!o->group)
		return report_usage("cdmctl group list shows them", "node token needs --group G");
	if (ttl < 0)
		return report_usage("for example 15m, 1h, 7d", "--ttl %.40s is not a time", o->ttl);
	if (uses < 1 || (end && *end))
		return report_usage("a whole number from 1", "--uses %.40s is not a number", o->uses);
	json_t *answer = master_call(o, "POST", "/tokens", json_pack("{s:s, s:s, s:I, s:I}", "group", o->group, "role", o->role ? o->role : "both", "ttl_s",
		(json_int_t)ttl, "uses", (json_int_t)uses), &code);
	if (!answer || o->json)
		return answer ? print_json(answer) : code;
	print_token(answer, uses);
	json_decref(answer);
	return EXIT_GOOD;
}

static int node_state(const struct options *o, const char *state, const char *said_as)
{
	char path[400], said[200];
	put_path(path, sizeof path, "/nodes/", o->words[0], "");
	snprintf(said, sizeof said, "%.80s %s", o->words[0], said_as);
	return make_change(o, "PATCH", path, json_pack("{s:s}", "state", state), said);
}

static int node_drain(const struct command *c, const struct options *o)
{
	return node_state(o, "drained", "draining");
}

static int node_undrain(const struct command *c, const struct options *o)
{
	return node_state(o, "active", "active");
}

static int node_revoke(const struct command *c, const struct options *o)
{
	char said[200];
	int code = EXIT_GOOD;
	snprintf(said, sizeof said, "revoke the certificate of %.80s for good", o->words[0]);
	return is_sure(o, said, &code) ? node_state(o, "revoked", "revoked; the others refuse it from now on") : code;
}

static int node_remove(const struct command *c, const struct options *o)
{
	return remove_one(o, "node", "/nodes/", " (its files stay, its certificate is refused from now on)");
}

static int node_change(const struct command *c, const struct options *o)
{
	char path[400], said[200];
	json_t *body = json_object();
	if (o->capacity)
		json_object_set_new(body, "capacity", json_integer(atoll(o->capacity)));
	if (o->group)
		json_object_set_new(body, "group", json_string(o->group));
	put_path(path, sizeof path, "/nodes/", o->words[0], "");
	snprintf(said, sizeof said, "%.80s changed", o->words[0]);
	return make_change(o, "PATCH", path, body, said);
}

/* --- route, events -------------------------------------------------------------------------------------- */

static int route_show(const struct command *c, const struct options *o)
{
	char path[400];
	int code;
	put_path(path, sizeof path, "/routes?set=", o->words[0], "");
	json_t *answer = master_call(o, "GET", path, NULL, &code), *n, *a;
	size_t i, k;
	if (!answer || o->json)
		return answer ? print_json(answer) : code;
	static const char *const titles[] = {"NODE", "PARENT", "DEPTH", "ALTERNATES"};
	struct cdm_table *table = cdm_table_new(4, titles);
	json_array_foreach(json_object_get(answer, "nodes"), i, n) {
		char parent[100], depth[24], alternates[300] = "";
		size_t used = 0;
		snprintf(parent, sizeof parent, "%.70s%s", answer_text(n, "parent")[0] ? answer_text(n, "parent") : "(root)",
			json_is_true(json_object_get(n, "by_hand")) ? " by hand" : "");
		snprintf(depth, sizeof depth, "%lld", (long long)answer_number(n, "depth"));
		json_array_foreach(json_object_get(n, "alternates"), k, a)
			used += (size_t)snprintf(alternates + used, sizeof alternates - used, "%s%.80s", k ? " " : "", json_string_value(a));
		if (!json_is_true(json_object_get(n, "up")))
			snprintf(alternates + used, sizeof alternates - used, "%s(down)", used ? "  " : "");
		const char *const cells[] = {answer_text(n, "node"), parent, depth, alternates};
		cdm_table_add(table, cells, NULL);
	}
	cdm_table_print(&table);
	json_decref(answer);
	return EXIT_GOOD;
}

static int route_set(const struct command *c, const struct options *o)
{
	char said[300];
	if ((o->parent != NULL) == o->automatic)
		return report_usage("say which", "route set needs --parent P or --auto");
	snprintf(said, sizeof said, o->parent ? "%.80s is fed by %.80s in set %.80s" : "%.80s is routed automatically%.0s in set %.80s", o->words[1],
		o->parent ? o->parent : "", o->words[0]);
	return make_change(o, "POST", "/routes",
		json_pack("{s:s, s:s, s:s?}", "set", o->words[0], "node", o->words[1], "parent", o->parent), said);
}

static int events(const struct command *c, const struct options *o)
{
	return master_follow(o);
}

#define SET_OPTIONS "source target both exclude local update open default-excludes"
#define SET_SYNOPSIS "[--source LIST] [--target LIST] [--both LIST] [--exclude P]… [--local P]… [--update follow|strict] [--open rest|ship]"

#define SECTION_SYNOPSIS "[--compression 0-9] [--encryption on|off] [--delta on|off] [--limit RATE|none] [--limit-at 'mon-fri 08:00-18:00 RATE'|none]…"

const struct command commands[] = {
	{"region", "add", "NAME", "a new region", 1, 1, "", region_add},
	{"region", "list", "", "all regions", 0, 0, "", region_list},
	{"region", "remove", "NAME", "remove an empty region", 1, 1, "", region_remove},
	{"group", "add", "NAME --region R", "a new group of nodes in a region", 1, 1, "region", group_add},
	{"group", "list", "", "all groups", 0, 0, "", group_list},
	{"group", "remove", "NAME", "remove an empty group", 1, 1, "", group_remove},
	{"node", "list", "", "all nodes", 0, 0, "", node_list},
	{"node", "show", "NAME", "one node and its sets", 1, 1, "", node_show},
	{"node", "token", "--group G [--role both|source|target] [--ttl 1h] [--uses 1]", "the line that joins a server", 0, 0, "group role ttl uses", node_token},
	{"node", "change", "NAME [--capacity N] [--group G]", "how many others it may feed; move it", 1, 1, "capacity group", node_change},
	{"node", "drain", "NAME", "it feeds nobody and does not count", 1, 1, "", node_drain},
	{"node", "undrain", "NAME", "it takes part again", 1, 1, "", node_undrain},
	{"node", "revoke", "NAME", "refuse its certificate from now on", 1, 1, "", node_revoke},
	{"node", "remove", "NAME", "forget it; its files stay", 1, 1, "", node_remove},
	{"set", "add", "NAME " SET_SYNOPSIS, "a new content set", 1, 1, SET_OPTIONS, run_set_add},
	{"set", "list", "", "all sets", 0, 0, "", run_set_list},
	{"set", "show", "NAME", "one set", 1, 1, "", run_set_show},
	{"set", "change", "NAME " SET_SYNOPSIS, "a list given replaces the list", 1, 1, SET_OPTIONS, run_set_change},
	{"set", "adopt", "NAME --node N [--store DIR] [--delete]", "compare a node's tree with its parent's, and take it over", 1, 1, "node store delete", run_set_adopt},
	{"set", "pause", "NAME [--group G]", "nothing is sent or received, everywhere or in a group or region; saves are journaled", 1, 1, "group", run_set_pause},
	{"set", "resume", "NAME [--group G]", "go on, and catch up", 1, 1, "group", run_set_resume},
	{"set", "remove", "NAME", "stop replicating; files stay", 1, 1, "", run_set_remove},
	{"section", "list", "", "how links in a group, in a region, between regions are used, and what they cost", 0, 0, "", run_section_list},
	{"section", "show", "group|region|international", "one of them", 1, 1, "", run_section_show},
	{"section", "set", "NAME " SECTION_SYNOPSIS, "change one, on all nodes at once; RATE: 100mbit, 10MB/s", 1, 1,
		"compression encryption delta limit limit-at", run_section_set},
	{"route", "show", "SET", "who feeds whom", 1, 1, "", route_show},
	{"route", "set", "SET NODE --parent P | --auto", "a parent by hand, or automatic again", 2, 2, "parent auto", route_set},
	{"hold", "list", "", "what waits for a decision because it would remove much", 0, 0, "", run_hold_list},
	{"hold", "approve", "H", "let it be removed", 1, 1, "", run_hold_approve},
	{"hold", "reject", "H", "keep it, and bring it back where it is lacking", 1, 1, "", run_hold_reject},
	{"conflict", "list", "[--node N]", "the versions that lost, which nodes keep", 0, 0, "node", run_conflict_list},
	{"conflict", "show", "C", "one of them, and where it lies", 1, 1, "node", run_conflict_show},
	{"conflict", "take", "C", "save it again in place of what is there now", 1, 1, "node", run_conflict_take},
	{"conflict", "drop", "C", "remove it", 1, 1, "node", run_conflict_drop},
	{"quarantine", "list", "[--node N]", "changes that nodes could not apply and set aside, with the reason", 0, 0, "node", run_quarantine_list},
	{"quarantine", "retry", "Q", "fetch it again, once the cause is gone", 1, 1, "node", run_quarantine_retry},
	{"quarantine", "drop", "Q", "do not wait for it any more", 1, 1, "node", run_quarantine_drop},
	{"rescan", "", "SET[:PATH] [--node N]", "find what was written to a store past its mount; take it over, or on targets repair it", 1, 1, "node", run_rescan},
	{"scrub", "", "SET [NODE]", "compare all contents with a neighbour's, in the background, on all nodes or one", 1, 2, "", run_scrub},
	{"status", "", "[SET]", "how it is; exit 3 when not in sync", 0, 1, "", run_status},
	{"events", "", "", "what happens, as it happens", 0, 0, "", events},
};
const size_t command_count = sizeof commands / sizeof commands[0];
