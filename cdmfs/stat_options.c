/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "cdmfs/stat.h"

#define TIMEOUT_DEFAULT_S (7 * 86400.0) /* the longest the replicator takes */

enum { OPT_NODE = 256, OPT_GROUP, OPT_JSON, OPT_WATCH, OPT_WAIT, OPT_TIMEOUT, OPT_MIN, OPT_FAIL_FAST, OPT_CONFIG, OPT_VERSION };

static const struct row {
	struct option option;
	const char *argument, *help;
} rows[] = {
	{{"node", required_argument, NULL, OPT_NODE}, "N", "only this node"},
	{{"group", required_argument, NULL, OPT_GROUP}, "G", "only the nodes of this group"},
	{{"json", no_argument, NULL, OPT_JSON}, "", "for programs: one JSON object per line and set"},
	{{"watch", no_argument, NULL, OPT_WATCH}, "", "show each change until interrupted"},
	{{"wait", no_argument, NULL, OPT_WAIT}, "", "return when everything saved before the call is durable on all counted nodes"},
	{{"timeout", required_argument, NULL, OPT_TIMEOUT}, "S", "give up waiting after S seconds (default: a week), exit 4"},
	{{"min", required_argument, NULL, OPT_MIN}, "N%", "be content with this share of the counted nodes (default: 100%)"},
	{{"fail-fast", no_argument, NULL, OPT_FAIL_FAST}, "", "do not wait when a counted node is down, exit 3"},
	{{"config", required_argument, NULL, OPT_CONFIG}, "FILE", "instead of $CDMFS_CONFIG or /etc/cdmfs/node.conf"},
	{{"help", no_argument, NULL, 'h'}, "", "this text"},
	{{"version", no_argument, NULL, OPT_VERSION}, "", "print the version"},
};
#define ROWS (sizeof rows / sizeof rows[0])

static void print_help(void)
{
	printf("usage: cdmfs-stat [SET|PATH|MOUNT] [OPTIONS]\n"
	       "Show what is replicated, what is pending, where and why. SET or MOUNT: a content set on all its nodes;\n"
	       "PATH: one file in a mount, who has it and why others lack it; nothing: all sets of this node.\n\n");
	for (size_t i = 0; i < ROWS; i++) {
		char left[32];
		snprintf(left, sizeof left, "--%s %s", rows[i].option.name, rows[i].argument);
		printf("  %-16s %s\n", left, rows[i].help);
	}
	printf("\nExit codes: 0 in sync, 1 failed, 2 wrong usage, 3 not in sync or a node is down, 4 time-out\n");
}

static int usage(struct cdm_error *err)
{
	cdm_hint(err, "usage: cdmfs-stat [SET|PATH|MOUNT] [--node N] [--group G] [--json] [--watch] "
		      "[--wait [--timeout S] [--min N%%] [--fail-fast]]");
	return -EINVAL;
}

/* A number from low to high, with `unit` allowed behind it. */
static int take_number(const char *name, const char *text, const char *unit, double low, double high, double *ret, struct cdm_error *err)
{
	char *end = NULL;
	double n = strtod(text, &end);
	if (end == text || !isfinite(n) || n < low || n > high || (*end && strcmp(end, unit) != 0)) {
		cdm_fail_plain(err, EINVAL, "--%s %s: not a number from %g to %g", name, text, low, high);
		return usage(err);
	}
	*ret = n;
	return 0;
}

static int take_option(int c, struct stat_options *o, struct cdm_error *err)
{
	switch (c) {
	case OPT_NODE:
		o->node = optarg;
		return 0;
	case OPT_GROUP:
		o->group = optarg;
		return 0;
	case OPT_JSON:
		o->json = true;
		return 0;
	case OPT_WATCH:
		o->watch = true;
		return 0;
	case OPT_WAIT:
		o->wait = true;
		return 0;
	case OPT_TIMEOUT:
		return take_number("timeout", optarg, "s", 0, TIMEOUT_DEFAULT_S, &o->timeout_s, err);
	case OPT_MIN:
		return take_number("min", optarg, "%", 0, 100, &o->min_percent, err);
	case OPT_FAIL_FAST:
		o->fail_fast = true;
		return 0;
	case OPT_CONFIG:
		o->config = optarg;
		return 0;
	case 'h':
		print_help();
		return 1;
	case OPT_VERSION:
		printf("cdmfs-stat %s\n", CDM_VERSION);
		return 1;
	default:
		return -EINVAL;
	}
}

static int check_together(const struct stat_options *o, struct cdm_error *err)
{
	if (!o->wait && (o->timeout_s < TIMEOUT_DEFAULT_S || o->min_percent < 100 || o->fail_fast))
		cdm_fail_plain(err, EINVAL, "--timeout, --min and --fail-fast go with --wait");
	else if (o->wait && o->watch)
		cdm_fail_plain(err, EINVAL, "--wait and --watch exclude each other");
	else
		return 0;
	return usage(err);
}

int stat_options_parse(int argc, char **argv, struct stat_options *ret, struct cdm_error *err)
{
	struct option longs[ROWS + 1] = {0};
	struct stat_options o = {.timeout_s = TIMEOUT_DEFAULT_S, .min_percent = 100};
	for (size_t i = 0; i < ROWS; i++)
		longs[i] = rows[i].option;
	opterr = 0;
	for (int c; (c = getopt_long(argc, argv, ":h", longs, NULL)) != -1;) {
		if (c == '?' || c == ':') {
			cdm_fail_plain(err, EINVAL, c == ':' ? "%s needs an argument" : "unknown option %s", argv[optind - 1]);
			return usage(err);
		}
		int r = take_option(c, &o, err);
		if (r != 0)
			return r;
	}
	if (argc - optind > 1) {
		cdm_fail_plain(err, EINVAL, "one SET, PATH or MOUNT at a time, not also %s", argv[optind + 1]);
		return usage(err);
	}
	o.subject = argv[optind];
	*ret = o;
	return check_together(ret, err);
}
