/* SPDX-License-Identifier: Apache-2.0 */
/* holder_settings.c — what is to be mounted where, from the command line and the node's files; the lock of the set. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "cdmfs/holder_parts.h"
#include "common/io.h"
#include "common/log.h"
#include "common/loop.h"

#define LOCK_WAIT_MS 60000
#define LOCK_AGAIN_MS 100

/* Does our full mount show its content anywhere? (Other installations on this machine may have a set of that name.) */
static bool is_visible(const struct holder *h)
{
	struct mount_table t = {0};
	bool found = false;

	if (mount_table_read(&t, NULL) < 0)
		return true;
	const struct mount_entry *full = mount_table_at(&t, h->full);
	for (size_t i = 0; full && i < t.count && !found; i++)
		found = t.entries[i].dev == full->dev && strcmp(t.entries[i].root, "/content") == 0;
	mount_table_fini(&t);
	return found;
}

/* The lock is held, but nothing is to be seen: the holder before is just ending (umount returned already), or another one is
 * starting. Wait a while for it to go or to become visible. False: it is visible, or the time is over. What a killed holder mounted stays
 * visible; a process that it had just started may hold the lock for a moment more. */
static bool wait_for_holder(struct holder *h, pid_t pid, int64_t end_ms)
{
	_cleanup_close_ int other = (int)syscall(SYS_pidfd_open, pid, 0);
	_cleanup_close_ int mounts = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
	struct pollfd p[2] = {{.fd = mounts, .events = POLLPRI}, {.fd = other, .events = POLLIN}};
	bool gone = other < 0 || poll(&p[1], 1, 0) == 1;
	int64_t left = end_ms - cdm_now_ms();

	if (left <= 0 || (!gone && is_visible(h)))
		return false;
	if (gone && left > LOCK_AGAIN_MS)
		left = LOCK_AGAIN_MS;
	poll(p, gone ? 1 : 2, (int)left);
	return true;
}

int lock_set(struct holder *h, struct cdm_error *err)
{
	_cleanup_free_ char *path = NULL;
	char by[32];
	int64_t end_ms = cdm_now_ms() + LOCK_WAIT_MS;
	int r;

	if (asprintf(&path, "%s.lock", h->run_dir) < 0)
		return cdm_fail(err, ENOMEM, "lock %s", h->run_dir);
	h->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (h->lock_fd < 0)
		return cdm_fail(err, errno, "open %s", path);
	while (flock(h->lock_fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK)
			return cdm_fail(err, errno, "lock %s", path);
		ssize_t n = pread(h->lock_fd, by, sizeof(by) - 1, 0);
		by[n > 0 ? n : 0] = 0;
		if (wait_for_holder(h, (pid_t)strtol(by, NULL, 10), end_ms))
			continue;
		r = cdm_fail_plain(err, EBUSY, "set %s is mounted already, by process %s", h->set->name, n > 0 ? by : "?");
		cdm_hint(err, "a set has one mount on a node; show it elsewhere with mount --bind");
		return r;
	}
	r = snprintf(by, sizeof(by), "%d", (int)getpid());
	if (ftruncate(h->lock_fd, 0) < 0 || pwrite(h->lock_fd, by, (size_t)r, 0) < 0)
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
