/* SPDX-License-Identifier: Apache-2.0 */
/* mount.cdmfs — what mount(8) runs for `mount -t cdmfs SET MOUNTPOINT` and for fstab. Translates mount's command line into
 * that of cdmfs, which is started in the background and says when it is ready; becomes it, so that its exit code and its one
 * line of explanation are mount's. Called by root; the environment of a user mount is not passed on by mount(8). */
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "common/error.h"

enum { EXIT_GOOD = 0, EXIT_USAGE = 1, EXIT_SYSTEM = 2 }; /* as mount(8) documents them; a mount that fails: cdmfs's own */

struct request {
	const char *set, *mountpoint; /* mountpoint NULL: the one of node.conf */
	char *config;                 /* config= of the options */
	char *options;                /* what is left of -o for cdmfs, or NULL */
	bool fake, sloppy, verbose;
};

static int usage(struct cdm_error *err)
{
	cdm_hint(err, "usage: mount.cdmfs SET [MOUNTPOINT] [-sfnv] [-o OPTIONS]");
	return -EINVAL;
}

static void print_help(void)
{
	printf("usage: mount.cdmfs SET [MOUNTPOINT] [-sfnv] [-o OPTIONS]\n"
	       "Mount a content set of this node; usually called by mount(8): mount -t cdmfs SET MOUNTPOINT.\n\n"
	       "  -s   unknown options are no error       -f   only check the arguments\n"
	       "  -v   say what is started                -n   accepted (there is no mtab to write)\n"
	       "  -o   config=FILE, and the options of cdmfs(8)\n");
}

static int add_option(struct request *q, const char *word, size_t len, struct cdm_error *err)
{
	char *joined = NULL;
	int n = asprintf(&joined, "%s%s%.*s", q->options ? q->options : "", q->options ? "," : "", (int)len, word);
	if (n < 0)
		return cdm_fail(err, ENOMEM, "read the mount options");
	free(q->options);
	q->options = joined;
	return 0;
}

/* Take config=FILE out of a list; the rest is for cdmfs, which knows all other words. Quoted parts may hold commas. */
static int take_options(struct request *q, const char *list, struct cdm_error *err)
{
	while (*list) {
		size_t len = 0;
		for (bool quoted = false; list[len] && (quoted || list[len] != ','); len++)
			quoted ^= list[len] == '"';
		int r = 0;
		if (len > 7 && strncmp(list, "config=", 7) == 0) {
			free(q->config);
			q->config = strndup(list + 7, len - 7);
			r = q->config ? 0 : cdm_fail(err, ENOMEM, "read the mount options");
		} else if (len > 0) {
			r = add_option(q, list, len, err);
		}
		if (r < 0)
			return r;
		list += len + (list[len] == ',');
	}
	return 0;
}

static int take_option(int c, struct request *q, struct cdm_error *err)
{
	switch (c) {
	case 'o':
		return take_options(q, optarg, err);
	case 's':
		q->sloppy = true;
		return 0;
	case 'f':
		q->fake = true;
		return 0;
	case 'v':
		q->verbose = true;
		return 0;
	case 'n': /* no mtab: nothing to do */
	case 't': /* the type, which mount(8) may pass on */
	case 'N':
		return 0;
	case 'h':
		print_help();
		return 1;
	case 'V':
		printf("mount.cdmfs %s\n", CDM_VERSION);
		return 1;
	default:
		cdm_fail_plain(err, EINVAL, "unknown option or missing argument: -%c", optopt);
		return usage(err);
	}
}

/* The set is fstab's first field. mount(8) makes a whole path of it when something of that name lies in the working directory. */
static int take_arguments(struct request *q, int argc, char **argv, struct cdm_error *err)
{
	if (argc < 1 || argc > 2 || !*argv[0]) {
		cdm_fail_plain(err, EINVAL, argc > 2 ? "too many arguments: %s" : "which set?", argc > 2 ? argv[2] : "");
		return usage(err);
	}
	const char *slash = strrchr(argv[0], '/');
	q->set = slash && slash[1] ? slash + 1 : argv[0];
	q->mountpoint = argc == 2 && *argv[1] && strcmp(argv[1], "none") != 0 ? argv[1] : NULL;
	return 0;
}

/* 0, 1 = answered, -EINVAL. */
static int parse(int argc, char **argv, struct request *q, struct cdm_error *err)
{
	if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "--version") == 0))
		return take_option(argv[1][2] == 'h' ? 'h' : 'V', q, err);
	opterr = 0;
	for (int c; (c = getopt(argc, argv, "o:sfnvhVt:N:")) != -1;) {
		int r = take_option(c, q, err);
		if (r != 0)
			return r;
	}
	return take_arguments(q, argc - optind, argv + optind, err);
}

/* cdmfs beside this program, in the bin beside its sbin, or in the directories a system keeps it in; "cdmfs" (by PATH) when there is none. */
static char *find_cdmfs(void)
{
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
	self[n > 0 ? n : 0] = 0;
	char *slash = strrchr(self, '/');
	if (slash)
		slash[1] = 0;
	const char *here = slash ? self : "/usr/sbin/";
	const struct {
		const char *dir, *below;
	} places[] = {{here, ""}, {here, "../bin/"}, {"/usr/sbin/", ""}, {"/usr/bin/", ""}, {"/usr/local/sbin/", ""}, {"/usr/local/bin/", ""}};
	for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
		char *path = NULL;
		if (asprintf(&path, "%s%scdmfs", places[i].dir, places[i].below) < 0)
			return NULL;
		if (access(path, X_OK) == 0)
			return path;
		free(path);
	}
	return strdup("cdmfs");
}

static void say(char *const argv[])
{
	fputs("mount.cdmfs: starting", stderr);
	for (size_t i = 0; argv[i]; i++)
		fprintf(stderr, " %s", argv[i]);
	fputc('\n', stderr);
}

/* Become cdmfs; returns only when that fails. */
static int start(const struct request *q, struct cdm_error *err)
{
	_cleanup_free_ char *program = find_cdmfs();
	if (!program)
		return cdm_fail(err, ENOMEM, "start cdmfs");
	const char *argv[12];
	size_t n = 0;
	argv[n++] = program;
	argv[n++] = "--daemon";
	if (q->config) {
		argv[n++] = "--config";
		argv[n++] = q->config;
	}
	if (q->sloppy)
		argv[n++] = "-s";
	if (q->options) {
		argv[n++] = "-o";
		argv[n++] = q->options;
	}
	argv[n++] = "--";
	argv[n++] = q->set;
	if (q->mountpoint)
		argv[n++] = q->mountpoint;
	argv[n] = NULL;
	if (q->verbose)
		say((char *const *)argv);
	if (q->fake)
		return 0;
	execvp(program, (char *const *)argv);
	int r = cdm_fail(err, errno, "start %s", program);
	cdm_hint(err, "install cdmfs beside mount.cdmfs or in a directory of PATH");
	return r;
}

int main(int argc, char **argv)
{
	struct cdm_error err = CDM_ERROR_INIT;
	struct request q = {0};
	int r = parse(argc, argv, &q, &err), code = EXIT_GOOD;
	if (r < 0)
		code = EXIT_USAGE;
	if (r == 0 && start(&q, &err) < 0)
		code = EXIT_SYSTEM;
	if (code != EXIT_GOOD)
		cdm_error_print("mount.cdmfs", &err);
	free(q.config);
	free(q.options);
	return code;
}
