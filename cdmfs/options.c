/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include "cdmfs/options.h"

enum word_kind { W_SET, W_CLEAR, W_ATIME, W_IGNORE, W_NONEMPTY, W_REMOUNT, W_CONTEXT };

/* Every word of -o. The flags are those of the visible mount; the content filesystem starts with nodev,nosuid: content comes from
 * other nodes, and neither devices nor set-uid programs of theirs should work here unless the site says so. */
static const struct word {
	const char *name;
	enum word_kind kind;
	uint64_t attr;
	const char *help; /* NULL: not shown */
} words[] = {
	{"ro", W_SET, MOUNT_ATTR_RDONLY, "read-only for programs; received changes still appear"},
	{"rw", W_CLEAR, MOUNT_ATTR_RDONLY, NULL},
	{"dev", W_CLEAR, MOUNT_ATTR_NODEV, "device files work (default: nodev)"},
	{"nodev", W_SET, MOUNT_ATTR_NODEV, NULL},
	{"suid", W_CLEAR, MOUNT_ATTR_NOSUID, "set-uid programs work (default: nosuid)"},
	{"nosuid", W_SET, MOUNT_ATTR_NOSUID, NULL},
	{"exec", W_CLEAR, MOUNT_ATTR_NOEXEC, NULL},
	{"noexec", W_SET, MOUNT_ATTR_NOEXEC, "no programs run from here"},
	{"nosymfollow", W_SET, MOUNT_ATTR_NOSYMFOLLOW, "symbolic links are not followed"},
	{"symfollow", W_CLEAR, MOUNT_ATTR_NOSYMFOLLOW, NULL},
	{"nonempty", W_NONEMPTY, 0, "mount over a directory that holds files"},
	{"remount", W_REMOUNT, 0, "change the flags of the mount that is there"},
	{"context=", W_CONTEXT, 0, "SELinux context of all files; also fscontext=, defcontext=, rootcontext="},
	{"fscontext=", W_CONTEXT, 0, NULL},
	{"defcontext=", W_CONTEXT, 0, NULL},
	{"rootcontext=", W_CONTEXT, 0, NULL},
	/* said by mount(8), fstab and systemd, or always so here */
	{"atime", W_IGNORE, 0, NULL}, {"noatime", W_IGNORE, 0, NULL}, {"relatime", W_IGNORE, 0, NULL},
	{"norelatime", W_IGNORE, 0, NULL}, {"strictatime", W_IGNORE, 0, NULL}, {"diratime", W_IGNORE, 0, NULL},
	{"nodiratime", W_IGNORE, 0, NULL}, {"lazytime", W_IGNORE, 0, NULL}, {"nolazytime", W_IGNORE, 0, NULL},
	{"async", W_IGNORE, 0, NULL}, {"defaults", W_IGNORE, 0, NULL},
	{"auto", W_IGNORE, 0, NULL}, {"noauto", W_IGNORE, 0, NULL}, {"user", W_IGNORE, 0, NULL},
	{"nouser", W_IGNORE, 0, NULL}, {"users", W_IGNORE, 0, NULL}, {"owner", W_IGNORE, 0, NULL},
	{"group", W_IGNORE, 0, NULL}, {"nofail", W_IGNORE, 0, NULL}, {"_netdev", W_IGNORE, 0, NULL},
	{"silent", W_IGNORE, 0, NULL}, {"loud", W_IGNORE, 0, NULL}, {"iversion", W_IGNORE, 0, NULL},
	{"allow_other", W_IGNORE, 0, NULL}, {"default_permissions", W_IGNORE, 0, NULL},
};

static const struct word *find_word(const char *s)
{
	for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++) {
		size_t n = strlen(words[i].name);
		if (words[i].name[n - 1] == '=' ? strncmp(s, words[i].name, n) == 0 : strcmp(s, words[i].name) == 0)
			return &words[i];
	}
	return NULL;
}

static bool is_for_others(const char *s)
{
	return strncmp(s, "x-", 2) == 0 || strncmp(s, "X-", 2) == 0 || strncmp(s, "comment=", 8) == 0 ||
		strncmp(s, "uhelper=", 8) == 0 || strncmp(s, "helper=", 7) == 0;
}

static int add_context(struct holder_options *o, const char *s, struct cdm_error *err)
{
	char *joined;

	if (asprintf(&joined, "%s%s%s", o->context ? o->context : "", o->context ? "," : "", s) < 0)
		return cdm_fail(err, ENOMEM, "read the mount options");
	free(o->context);
	o->context = joined;
	return 0;
}

static int apply_word(struct holder_options *o, const char *s, struct cdm_error *err)
{
	const struct word *w = find_word(s);

	if (!w) {
		if (*s == 0 || is_for_others(s) || o->sloppy)
			return 0;
		cdm_fail_plain(err, EINVAL, "unknown mount option \"%s\"", s);
		cdm_hint(err, "`cdmfs --help` lists the options");
		return -EINVAL;
	}
	switch (w->kind) {
	case W_SET:
		o->attr_set |= w->attr;
		o->attr_clear &= ~w->attr;
		return 0;
	case W_CLEAR:
		o->attr_clear |= w->attr;
		o->attr_set &= ~w->attr;
		return 0;
	case W_NONEMPTY:
		o->nonempty = true;
		return 0;
	case W_REMOUNT:
		o->remount = true;
		return 0;
	case W_CONTEXT:
		return add_context(o, s, err);
	default:
		return 0;
	}
}

/* A quoted part ("context=\"system_u:object_r:t:s0:c1,c2\"") may hold commas. */
static char *next_word(char **rest)
{
	char *start = *rest, *s;
	bool quoted = false;

	if (!start)
		return NULL;
	for (s = start; *s && (quoted || *s != ','); s++)
		if (*s == '"')
			quoted = !quoted;
	*rest = *s ? s + 1 : NULL;
	*s = 0;
	return start;
}

int mount_options_parse(const char *list, struct holder_options *o, struct cdm_error *err)
{
	_cleanup_free_ char *copy = strdup(list);
	char *rest = copy, *word;

	if (!copy)
		return cdm_fail(err, ENOMEM, "read the mount options");
	while ((word = next_word(&rest))) {
		int r = apply_word(o, word, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static void print_help(void)
{
	printf("usage: cdmfs SET [MOUNTPOINT] [-o OPTIONS] [--config FILE] [--daemon]\n"
	       "Mount the content set SET of this node. The set's store, and the mountpoint if none is given, are those of\n"
	       "the node's configuration. Ends at SIGTERM, SIGINT or when MOUNTPOINT is unmounted; SIGHUP reads the policy again\n"
	       "and takes an upgraded program up.\n\n"
	       "  -o OPTIONS      comma-separated, see below\n"
	       "  --config FILE   instead of $CDMFS_CONFIG or /etc/cdmfs/node.conf\n"
	       "  --daemon        return when the mount is ready, with 0, or with 1 and the reason\n"
	       "  --help, --version\n\nOptions:\n");
	for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++)
		if (words[i].help)
			printf("  %-15s %s\n", words[i].name, words[i].help);
	printf("Options for mount(8), fstab and systemd (defaults, _netdev, nofail, x-…) are accepted.\n");
}

enum { OPT_CONFIG = 256, OPT_DAEMON, OPT_HELP, OPT_VERSION };

static int usage_error(struct cdm_error *err)
{
	cdm_hint(err, "usage: cdmfs SET [MOUNTPOINT] [-o OPTIONS] [--config FILE] [--daemon]");
	return -EINVAL;
}

int holder_options_parse(int argc, char **argv, struct holder_options *ret, struct cdm_error *err)
{
	static const struct option longs[] = {
		{"config", required_argument, NULL, OPT_CONFIG}, {"daemon", no_argument, NULL, OPT_DAEMON},
		{"help", no_argument, NULL, OPT_HELP}, {"version", no_argument, NULL, OPT_VERSION}, {0}};
	struct holder_options o = {0};
	int c, r;

	*ret = o;
	opterr = 0;
	while ((c = getopt_long(argc, argv, "o:sh", longs, NULL)) != -1) {
		switch (c) {
		case 'o':
			r = mount_options_parse(optarg, &o, err);
			*ret = o;
			if (r < 0)
				return r;
			break;
		case 's':
			o.sloppy = true;
			break;
		case OPT_CONFIG:
			o.config = optarg;
			break;
		case OPT_DAEMON:
			o.daemon = true;
			break;
		case 'h':
		case OPT_HELP:
			print_help();
			return 1;
		case OPT_VERSION:
			printf("cdmfs %s\n", CDM_VERSION);
			return 1;
		default:
			cdm_fail_plain(err, EINVAL, "unknown option or missing argument: %s", argv[optind - 1]);
			return usage_error(err);
		}
	}
	if (argc - optind < 1 || argc - optind > 2) {
		cdm_fail_plain(err, EINVAL, argc - optind < 1 ? "which set?" : "too many arguments: %s", argv[argc - 1]);
		return usage_error(err);
	}
	o.set = argv[optind];
	o.mountpoint = argv[optind + 1];
	if (!o.remount)
		o.attr_set |= (MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID) & ~o.attr_clear;
	*ret = o;
	return 0;
}

void holder_options_fini(struct holder_options *o)
{
	free(o->context);
	o->context = NULL;
}
