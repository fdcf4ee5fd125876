/* SPDX-License-Identifier: Apache-2.0 */
/* What each command of cdmctl does: one call of the HTTP API, one line per fact on stdout. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "master/cdmctl.h"

static const char *text_of(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));
	return s ? s : "";
}

static json_int_t number_of(const json_t *o, const char *key)
{
	return json_integer_value(json_object_get(o, key));
}

static const char *one_or_more(json_int_t count)
{
	return count == 1 ? "" : "s";
}

static int print_json(json_t *j)
{
	if (!j)
		return EXIT_FAILED;
	json_dumpf(j, stdout, JSON_COMPACT);
	putchar('\n');
	json_decref(j);
	return EXIT_GOOD;
}

/* A name as a part of a path. */
static void put_path(char *out, size_t room, const char *head, const char *name, const char *tail)
{
	size_t n = (size_t)snprintf(out, room, "%s", head);
	for (; *name && n + 4 < room; name++) {
		bool plain = strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~", *name) != NULL;
		n += (size_t)snprintf(out + n, room - n, plain ? "%c" : "%%%02X", (unsigned char)*name);
	}
	snprintf(out + n, room - n, "%s", tail);
}

/* Make a change, then say so in one line (or the answer with --json). */
static int change(const struct options *o, const char *method, const char *path, json_t *body, const char *said)
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

/* Removing needs a yes. */
static bool is_sure(const struct options *o, const char *what, int *code)
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

static int remove_one(const struct options *o, const char *noun, const char *plural, const char *consequence)
{
	char path[400], said[300];
	int code = EXIT_GOOD;
	snprintf(said, sizeof said, "remove %s %.100s%s", noun, o->words[0], consequence);
	if (!is_sure(o, said, &code))
		return code;
	put_path(path, sizeof path, plural, o->words[0], "");
	snprintf(said, sizeof said, "%s %.100s removed", noun, o->words[0]);
	return change(o, "DELETE", path, NULL, said);
}

/* --- region, group ---------------------------------------------------------------------------------------------- */

static int region_add(const struct command *c, const struct options *o)
{
	char said[200];
	snprintf(said, sizeof said, "region %.80s added", o->words[0]);
	return change(o, "POST", "/regions", json_pack("{s:s}", "name", o->words[0]), said);
}

static int region_list(const struct command *c, const struct options *o)
{
	int code;
	json_t *answer = master_call(o, "GET", "/regions", NULL, &code), *r;
	size_t i;
	if (!answer || o->json)
		return answer ? print_json(answer) : code;
	json_array_foreach(json_object_get(answer, "regions"), i, r)
		printf("%s  %lld group%s\n", text_of(r, "name"), (long long)number_of(r, "groups"), one_or_more(number_of(r, "groups")));
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
	return change(o, "POST", "/groups", json_pack("{s:s, s:s}", "name", o->words[0], "region", o->region), said);
}

static int group_list(const struct command *c, const struct options *o)
{
	int code;
	json_t *answer = master_call(o, "GET", "/groups", NULL, &code), *g;
	size_t i;
	if (!answer || o->json)
		return answer ? print_json(answer) : code;
	json_array_foreach(json_object_get(answer, "groups"), i, g)
		printf("%s  region %s  %lld node%s\n", text_of(g, "name"), text_of(g, "region"), (long long)number_of(g, "nodes"), one_or_more(number_of(g, "nodes")));
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
	printf("%-16s %-12s %-12s %-8s %-10s %-22s %s\n", "NODE", "GROUP", "REGION", "STATE", "CONNECTED", "ADDRESS", "LAST SEEN");
	json_array_foreach(json_object_get(answer, "nodes"), i, n) {
		const char *seen = text_of(n, "last_seen");
		printf("%-16s %-12s %-12s %-8s %-10s %-22s %s\n", text_of(n, "name"), text_of(n, "group"), text_of(n, "region"), text_of(n, "state"),
			json_is_true(json_object_get(n, "connected")) ? "yes" : "no", text_of(n, "addr"), seen[0] ? seen : "never");
	}
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
	printf("node %s (number %lld), group %s, region %s, %s, role %s, feeds up to %lld\n", text_of(n, "name"), (long long)number_of(n, "number"),
		text_of(n, "group"), text_of(n, "region"), text_of(n, "state"), text_of(n, "role"), (long long)number_of(n, "capacity"));
	printf("%s, address %s, version %s, routes of epoch %lld\n", json_is_true(json_object_get(n, "connected")) ? "connected" : "not connected",
		text_of(n, "addr"), text_of(n, "version"), (long long)number_of(n, "epoch"));
	json_array_foreach(json_object_get(n, "sets"), i, s)
		printf("set %s: %s%s%s\n", text_of(s, "name"), text_of(s, "state"), text_of(s, "reason")[0] ? ": " : "", text_of(s, "reason"));
	json_decref(n);
	return EXIT_GOOD;
}

/* "90", "90s", "15m", "1h", "7d" → seconds; -1 otherwise. */
static long parse_duration(const char *text)
{
	char *end;
	errno = 0;
	long n = strtol(text, &end, 10);
	long unit = *end == 'd' ? 86400 : *end == 'h' ? 3600 : *end == 'm' ? 60 : 1;
	if (errno || n < 1 || n > 366L * 86400 || end == text || (*end && (end[1] || !strchr("smhd", *end))))
		return -1;
	return n * unit;
}

static int node_token(const struct command *c, const struct options *o)
{
	long ttl = parse_duration(o->ttl ? o->ttl : "1h"), uses = o->uses ? parse_duration(o->uses) : 1;
	int code;
	if (!o->group)
		return report_usage("cdmctl group list shows them", "node token needs --group G");
	if (ttl < 0)
		return report_usage("for example 15m, 1h, 7d", "--ttl %.40s is not a time", o->ttl);
	if (uses < 0)
		return report_usage("a whole number", "--uses %.40s is not a number", o->uses);
	json_t *answer = master_call(o, "POST", "/tokens", json_pack("{s:s, s:s, s:I, s:I}", "group", o->group, "role", o->role ? o->role : "both", "ttl_s",
		(json_int_t)ttl, "uses", (json_int_t)uses), &code);
	if (!answer || o->json)
		return answer ? print_json(answer) : code;
	printf("%s   (until %s, %lld use%s)\n", text_of(answer, "join"), text_of(answer, "expires"), (long long)uses, one_or_more(uses));
	json_decref(answer);
	return EXIT_GOOD;
}

static int node_state(const struct options *o, const char *state, const char *said_as)
{
	char path[400], said[200];
	put_path(path, sizeof path, "/nodes/", o->words[0], "");
	snprintf(said, sizeof said, "%.80s %s", o->words[0], said_as);
	return change(o, "PATCH", path, json_pack("{s:s}", "state", state), said);
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
	return change(o, "PATCH", path, body, said);
}

/* --- set -------------------------------------------------------------------------------------------------------- */

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
	json_int_t sources = number_of(count, "source"), targets = number_of(count, "target"), both = number_of(count, "both");
	const char *comma = "";
	printf("set %s: ", text_of(s, "name"));
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

static int set_add(const struct command *c, const struct options *o)
{
	int code;
	char said[200];
	if (!o->source && !o->target && !o->both)
		return report_usage("for example --source auth1 --target @eu, or --both @all", "set add needs to know its nodes");
	json_t *body = set_body(o);
	json_object_set_new(body, "name", json_string(o->words[0]));
	snprintf(said, sizeof said, "set %.80s can be added", o->words[0]);
	if (o->dry_run)
		return change(o, "POST", "/sets", body, said);
	json_t *answer = master_call(o, "POST", "/sets", body, &code);
	json_decref(answer);
	return answer ? show_set(o, o->words[0]) : code;
}

static int set_list(const struct command *c, const struct options *o)
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

static int set_show(const struct command *c, const struct options *o)
{
	static const char *const lists[] = {"source", "target", "both", "exclude", "local"};
	char path[400];
	int code;
	put_path(path, sizeof path, "/sets/", o->words[0], "");
	json_t *s = master_call(o, "GET", path, NULL, &code);
	if (!s || o->json)
		return s ? print_json(s) : code;
	print_set(s);
	for (size_t i = 0; i < 5; i++)
		print_list(lists[i], json_object_get(s, lists[i]));
	printf("  update   %s\n  open     %s\n  default excludes %s\n", text_of(s, "update"), text_of(s, "open"),
		json_is_true(json_object_get(s, "default_excludes")) ? "yes" : "no");
	json_decref(s);
	return EXIT_GOOD;
}

static int set_change(const struct command *c, const struct options *o)
{
	char path[400], said[200];
	json_t *body = set_body(o);
	if (json_object_size(body) == 0) {
		json_decref(body);
		return report_usage("cdmctl set change --help", "set change: nothing to change");
	}
	put_path(path, sizeof path, "/sets/", o->words[0], "");
	snprintf(said, sizeof said, "set %.80s changed", o->words[0]);
	return change(o, "PATCH", path, body, said);
}

static int set_remove(const struct command *c, const struct options *o)
{
	return remove_one(o, "set", "/sets/", " (the files on the nodes stay, they are not replicated any more)");
}

static void format_bytes(json_int_t bytes, char out[32])
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
	double n = (double)bytes;
	int u = 0;
	for (; n >= 1024 && u < 4; u++)
		n /= 1024;
	snprintf(out, 32, u ? "%.1f %s" : "%.0f %s", n, units[u]);
}

static void format_count(json_int_t n, char out[32])
{
	char digits[24];
	size_t len = (size_t)snprintf(digits, sizeof digits, "%lld", (long long)n), used = 0;
	for (size_t i = 0; i < len; i++) {
		if (i > 0 && (len - i) % 3 == 0)
			out[used++] = ',';
		out[used++] = digits[i];
	}
	out[used] = 0;
}

static void print_figure(const json_t *a, const char *key, const char *said, const char *behind)
{
	char count[32];
	format_count(number_of(a, key), count);
	printf("%s %s%s", said, count, behind);
}

/* "same 412,006   fetch 31 (4.1 MiB)   only here 2 (kept; --delete removes)   local 9" */
static void print_adoption(const struct options *o, const json_t *a)
{
	char bytes[32], text[60];
	size_t i;
	json_t *name;
	format_bytes(number_of(a, "fetch_bytes"), bytes);
	snprintf(text, sizeof text, number_of(a, "fetch") ? " (%s)   " : "   ", bytes);
	print_figure(a, "same", "same", "   ");
	print_figure(a, "fetch", "fetch", text);
	if (number_of(a, "newer"))
		print_figure(a, "newer", "newer here", "   ");
	print_figure(a, "only_here", "only here", !number_of(a, "only_here") ? "   " : o->remove ? " (removed)   " : " (kept; --delete removes)   ");
	if (number_of(a, "removed"))
		print_figure(a, "removed", "removed elsewhere", "   ");
	print_figure(a, "local", "local", "\n");
	json_array_foreach(json_object_get(a, "names"), i, name)
		printf("%s%s", i ? ", " : "only here: ", json_string_value(name));
	if (i)
		printf("%s; ", number_of(a, "only_here") > (json_int_t)i ? " …" : "");
	puts(o->dry_run ? "nothing changed" : strcmp(text_of(a, "when"), "mount") == 0 ? "adopted when the set is mounted there"
		: "being adopted; cdmfs-stat shows when it is in sync");
}

static int set_adopt(const struct command *c, const struct options *o)
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

/* --- route, status, events -------------------------------------------------------------------------------------- */

static int route_show(const struct command *c, const struct options *o)
{
	char path[400];
	int code;
	put_path(path, sizeof path, "/routes?set=", o->words[0], "");
	json_t *answer = master_call(o, "GET", path, NULL, &code), *n, *a;
	size_t i, k;
	if (!answer || o->json)
		return answer ? print_json(answer) : code;
	printf("%-16s %-20s %-6s %s\n", "NODE", "PARENT", "DEPTH", "ALTERNATES");
	json_array_foreach(json_object_get(answer, "nodes"), i, n) {
		char parent[100];
		snprintf(parent, sizeof parent, "%.70s%s", text_of(n, "parent")[0] ? text_of(n, "parent") : "(root)",
			json_is_true(json_object_get(n, "by_hand")) ? " by hand" : "");
		printf("%-16s %-20s %-6lld", text_of(n, "node"), parent, (long long)number_of(n, "depth"));
		json_array_foreach(json_object_get(n, "alternates"), k, a)
			printf(" %s", json_string_value(a));
		printf("%s\n", json_is_true(json_object_get(n, "up")) ? "" : "  (down)");
	}
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
	return change(o, "POST", "/routes",
		json_pack("{s:s, s:s, s:s?}", "set", o->words[0], "node", o->words[1], "parent", o->parent), said);
}

static void format_lag(double seconds, char out[32])
{
	if (seconds < 0.005)
		snprintf(out, 32, "0 s");
	else if (seconds < 120)
		snprintf(out, 32, "%.*f s", seconds < 1 ? 2 : seconds < 9.95, seconds);
	else
		snprintf(out, 32, seconds < 7200 ? "%.0f min" : "%.0f h", seconds < 7200 ? seconds / 60 : seconds / 3600);
}

/* Returns whether it is in sync. */
static bool print_status(const json_t *s)
{
	size_t i, good = 0, count = 0;
	json_t *n;
	printf("%-16s %-9s %-8s %-20s %s\n", "NODE", "STATE", "LAG", "PENDING", "WHY");
	json_array_foreach(json_object_get(s, "nodes"), i, n) {
		char pending[60] = "", bytes[32], lag[32];
		const char *state = text_of(n, "state");
		bool counted = json_is_true(json_object_get(n, "counted"));
		if (number_of(n, "pending_changes") > 0) {
			format_bytes(number_of(n, "pending_bytes"), bytes);
			snprintf(pending, sizeof pending, "%lld / %s", (long long)number_of(n, "pending_changes"), bytes);
		}
		count += counted;
		good += counted && strcmp(state, "in sync") == 0;
		format_lag(json_number_value(json_object_get(n, "lag_s")), lag);
		printf("%-16s %-9s %-8s %-20s %s\n", text_of(n, "name"), state, lag, pending, text_of(n, "reason"));
	}
	bool in_sync = json_is_true(json_object_get(s, "in_sync"));
	printf("set %s %s (%zu of %zu)\n", text_of(s, "set"), in_sync ? "in sync" : "NOT IN SYNC", good, count);
	return in_sync;
}

static int status(const struct command *c, const struct options *o)
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
	if (o->word_count) {
		in_sync = json_is_true(json_object_get(answer, "in_sync"));
		if (!o->json)
			print_status(answer);
	} else {
		if (!o->json)
			printf("%lld of %lld nodes connected, epoch %lld\n", (long long)number_of(answer, "nodes_connected"), (long long)number_of(answer, "nodes"),
				(long long)number_of(answer, "epoch"));
		json_array_foreach(json_object_get(answer, "sets"), i, s) {
			in_sync &= json_is_true(json_object_get(s, "in_sync"));
			if (!o->json)
				print_status(s);
		}
	}
	if (o->json)
		print_json(answer);
	else
		json_decref(answer);
	return in_sync ? EXIT_GOOD : EXIT_NOT_IN_SYNC;
}

static int events(const struct command *c, const struct options *o)
{
	return master_follow(o);
}

#define SET_OPTIONS "source target both exclude local update open default-excludes"
#define SET_SYNOPSIS "[--source LIST] [--target LIST] [--both LIST] [--exclude P]… [--local P]… [--update follow|strict] [--open rest|ship]"

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
	{"set", "add", "NAME " SET_SYNOPSIS, "a new content set", 1, 1, SET_OPTIONS, set_add},
	{"set", "list", "", "all sets", 0, 0, "", set_list},
	{"set", "show", "NAME", "one set", 1, 1, "", set_show},
	{"set", "change", "NAME " SET_SYNOPSIS, "a list given replaces the list", 1, 1, SET_OPTIONS, set_change},
	{"set", "adopt", "NAME --node N [--store DIR] [--delete]", "compare a node's tree with its parent's, and take it over", 1, 1, "node store delete", set_adopt},
	{"set", "remove", "NAME", "stop replicating; files stay", 1, 1, "", set_remove},
	{"route", "show", "SET", "who feeds whom", 1, 1, "", route_show},
	{"route", "set", "SET NODE --parent P | --auto", "a parent by hand, or automatic again", 2, 2, "parent auto", route_set},
	{"status", "", "[SET]", "how it is; exit 3 when not in sync", 0, 1, "", status},
	{"events", "", "", "what happens, as it happens", 0, 0, "", events},
};
const size_t command_count = sizeof commands / sizeof commands[0];
