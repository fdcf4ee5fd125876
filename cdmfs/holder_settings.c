/* SPDX-License-Identifier: Apache-2.0 */
/* holder_settings.c — what is to be mounted where, from the command line and the node's files; the lock of the set. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>
#include "cdmfs/holder_parts.h"
#include "common/io.h"
#include "common/log.h"

int lock_set(struct holder *h, struct cdm_error *err)
{
	_cleanup_free_ char *path = NULL;
	char by[32] = "";
	ssize_t n;
	int r;

	if (asprintf(&path, "%s.lock", h->run_dir) < 0)
		return cdm_fail(err, ENOMEM, "lock %s", h->run_dir);
	h->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (h->lock_fd < 0)
		return cdm_fail(err, errno, "open %s", path);
	if (flock(h->lock_fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK)
			return cdm_fail(err, errno, "lock %s", path);
		n = pread(h->lock_fd, by, sizeof(by) - 1, 0);
		r = cdm_fail_plain(err, EBUSY, "set %s is mounted already, by process %s", h->set->name, n > 0 ? by : "?");
		cdm_hint(err, "a set has one mount on a node; show it elsewhere with mount --bind");
		return r;
	}
	n = snprintf(by, sizeof(by), "%d", (int)getpid());
	if (ftruncate(h->lock_fd, 0) < 0 || pwrite(h->lock_fd, by, (size_t)n, 0) < 0)
		return cdm_fail(err, errno, "write %s", path);
	return 0;
}

/* Absolute and without links, dots and doubled slashes, also when the last component is a dead mount that cannot be looked at. */
static int canonical_mountpoint(const char *path, char **ret, struct cdm_error *err)
{
	_cleanup_free_ char *copy = NULL, *dir = NULL;
	char *slash;
	int r;

	*ret = realpath(path, NULL);
	if (*ret)
		return 0;
	r = cdm_fail(err, errno, "mountpoint %s", path);
	if (r == -ENOENT)
		cdm_hint(err, "create it: mkdir -p %s", path);
	if (r != -ENOTCONN || asprintf(&copy, "%s%s", path[0] == '/' ? "" : "./", path) < 0)
		return r;
	while ((slash = strrchr(copy, '/')) && slash > copy && slash[1] == 0)
		*slash = 0;
	if (!slash)
		return r;
	*slash = 0;
	dir = realpath(*copy ? copy : "/", NULL);
	if (!dir || asprintf(ret, "%s/%s", strcmp(dir, "/") == 0 ? "" : dir, slash + 1) < 0)
		return r;
	return 0;
}

static int absolute(const char *path, char **ret, struct cdm_error *err)
{
	_cleanup_free_ char *cwd = path[0] == '/' ? strdup("") : getcwd(NULL, 0);

	if (!cwd || asprintf(ret, "%s%s%s", cwd, *cwd ? "/" : "", path) < 0)
		return cdm_fail(err, errno, "find %s", path);
	return 0;
}

/* The program's own path: as it was started, links kept, so that what lies there later is taken up. */
static int find_program(struct holder *h, const char *argv0, struct cdm_error *err)
{
	char self[4096];
	ssize_t n;

	if (strchr(argv0, '/'))
		return absolute(argv0, &h->program, err);
	n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (n < 0)
		return cdm_fail(err, errno, "find the program's path");
	self[n] = 0;
	h->program = strdup(self);
	return h->program ? 0 : cdm_fail(err, ENOMEM, "find the program's path");
}

int load_settings(struct holder *h, const char *argv0, struct cdm_error *err)
{
	const char *wanted;
	_cleanup_free_ char *run = NULL;
	int r = cdm_conf_load(h->options.config, &h->conf, err);

	if (r < 0)
		return r;
	h->set = cdm_conf_set(h->conf, h->options.set, err);
	if (!h->set)
		return -ENOENT;
	r = cdm_identity_load(h->conf, &h->identity, err);
	if (r < 0)
		return r;
	cdm_log_identity(h->identity->node, h->set->name);
	r = cdm_policy_load(h->conf, h->set->name, &h->policy, err);
	if (r < 0)
		return r;
	wanted = h->options.mountpoint ? h->options.mountpoint : h->set->mountpoint;
	if (!wanted) {
		r = cdm_fail_plain(err, EINVAL, "where should set %s be mounted?", h->set->name);
		cdm_hint(err, "name a directory, or set \"mountpoint\" of [set %s] in %s", h->set->name, h->conf->path);
		return r;
	}
	r = canonical_mountpoint(wanted, &h->mountpoint, err);
	if (r == 0)
		r = absolute(h->conf->path, &h->config_path, err);
	if (r == 0)
		r = find_program(h, argv0, err);
	if (r < 0)
		return r;
	r = cdm_make_dirs(h->conf->run, 0755, err);
	if (r < 0)
		return r;
	run = realpath(h->conf->run, NULL);
	if (!run)
		return cdm_fail(err, errno, "open %s", h->conf->run);
	if (asprintf(&h->run_dir, "%s/%s", run, h->set->name) < 0 || asprintf(&h->full, "%s/full", h->run_dir) < 0 ||
		asprintf(&h->content, "%s/content", h->full) < 0)
		return cdm_fail(err, ENOMEM, "start");
	return 0;
}
