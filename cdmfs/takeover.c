/* SPDX-License-Identifier: Apache-2.0 */
/* takeover.c — a holder that was killed leaves a server that goes on serving. The next holder takes /dev/fuse and the watch
 * socket over from the running children and looks after them as if it had started them. One of the two is
 * enough. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "cdmfs/holder_parts.h"
#include "common/io.h"
#include "common/log.h"

#define PIDS_BYTES_MAX 65536
#define ARGS_BYTES_MAX 65536

struct old_child { /* a child of the earlier holder, pidfd -1 if it is gone */
	pid_t pid;
	int pidfd, watch_fd, fuse_fd; /* numbers in its own table */
};

static int number_after(const char *arg, const char *prefix, int *ret)
{
	size_t n = strlen(prefix);

	if (strncmp(arg, prefix, n) != 0)
		return 0;
	*ret = atoi(arg + n);
	return 1;
}

/* Is process `pid` this set's child of that role? Its command line says so, and with which descriptors it works. */
static bool read_old_child(struct holder *h, pid_t pid, const char *role, struct old_child *ret)
{
	_cleanup_free_ char *text = NULL, *set_arg = NULL;
	char path[64];
	size_t len = 0;
	bool role_fits = false, set_fits = false;
	struct old_child c = {.pid = pid, .pidfd = -1, .watch_fd = -1, .fuse_fd = -1};

	*ret = c;
	if (pid <= 0)
		return false;
	c.pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (c.pidfd < 0)
		return false;
	snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
	if (asprintf(&set_arg, "--set=%s", h->set->name) < 0 || cdm_read_file(AT_FDCWD, path, ARGS_BYTES_MAX, &text, &len, NULL) < 0) {
		close(c.pidfd);
		return false;
	}
	for (const char *a = text; a < text + len; a += strlen(a) + 1) {
		role_fits |= strcmp(a, role) == 0;
		set_fits |= strcmp(a, set_arg) == 0;
		number_after(a, "--fuse-fd=", &c.fuse_fd);
		number_after(a, "--watch-fd=", &c.watch_fd);
	}
	if (!role_fits || !set_fits || c.watch_fd < 0) {
		close(c.pidfd);
		return false;
	}
	*ret = c;
	return true;
}

static int take_fd(const struct old_child *c, int number)
{
	int fd = (int)syscall(SYS_pidfd_getfd, c->pidfd, number, 0);

	if (fd >= 0)
		fcntl(fd, F_SETFD, FD_CLOEXEC);
	return fd;
}

/* Either child has /dev/fuse: one of them is enough for the mount to live on. */
static void take_fuse(struct holder *h, const struct old_child *c)
{
	if (c && h->fuse_fd < 0 && c->fuse_fd >= 0)
		h->fuse_fd = take_fd(c, c->fuse_fd);
}

static json_t *read_pids(struct holder *h)
{
	_cleanup_free_ char *path = NULL, *text = NULL;
	size_t len = 0;

	if (asprintf(&path, "%s/pids", h->run_dir) < 0 || cdm_read_file(AT_FDCWD, path, PIDS_BYTES_MAX, &text, &len, NULL) < 0)
		return NULL;
	return json_loadb(text, len, 0, NULL);
}

static pid_t pid_of(const json_t *pids, const char *key)
{
	return (pid_t)json_integer_value(json_object_get(pids, key));
}

/* The watch socket: each child has its own end only; with one of them gone that end is lost, and a new pair needs new children. */
static int take_watch(struct holder *h, const struct old_child *server, const struct old_child *watcher, struct cdm_error *err)
{
	h->watch_fds[0] = server->pidfd >= 0 ? take_fd(server, server->watch_fd) : -1;
	h->watch_fds[1] = watcher->pidfd >= 0 ? take_fd(watcher, watcher->watch_fd) : -1;
	if (h->watch_fds[0] >= 0 && h->watch_fds[1] >= 0)
		return 0;
	if (h->watch_fds[0] >= 0)
		close(h->watch_fds[0]);
	if (h->watch_fds[1] >= 0)
		close(h->watch_fds[1]);
	int r = holder_make_watch(h, err);
	return r < 0 ? r : 1;
}

static int adopt(struct holder *h, struct old_child *server, struct old_child *watcher, struct cdm_error *err)
{
	int new_pair = take_watch(h, server, watcher, err), r;

	if (new_pair < 0)
		return new_pair;
	h->resumed = true;
	h->server.wanted = true;
	h->server.once_ready = true;
	r = server->pidfd >= 0 ? child_adopt(h, &h->server, server->pid, err) : child_start(h, &h->server, err);
	if (r == 0 && watcher->pidfd >= 0) {
		h->watcher.wanted = true;
		r = child_adopt(h, &h->watcher, watcher->pid, err);
	}
	h->watcher.once_ready = true; /* the next one has missed something */
	if (r == 0 && new_pair) {
		if (server->pidfd >= 0)
			child_signal(&h->server, SIGUSR2);
		child_signal(&h->watcher, SIGTERM);
	}
	return r < 0 ? r : 1;
}

/* The visible bind of that filesystem at our mountpoint, if it is still there. */
static int visible_id_of(struct holder *h, const struct mount_table *t, dev_t dev)
{
	const struct mount_entry *e = mount_table_at(t, h->mountpoint);

	return e && e->dev == dev ? e->id : 0;
}

/* It may have been mounted elsewhere; that one must go first, or two places would show the set. */
static int check_same_place(struct holder *h, const struct mount_table *t, dev_t dev, const char *old, struct cdm_error *err)
{
	const struct mount_entry *e = old ? mount_table_at(t, old) : NULL;

	if (!e || e->dev != dev || strcmp(old, h->mountpoint) == 0)
		return 0;
	cdm_fail_plain(err, EBUSY, "set %s is mounted already, at %s", h->set->name, old);
	cdm_hint(err, "umount %s   first", old);
	return -EBUSY;
}

int takeover(struct holder *h, struct cdm_error *err)
{
	struct mount_table t = {0};
	struct old_child server = {.pidfd = -1}, watcher = {.pidfd = -1};
	json_t *pids = read_pids(h);
	int r = mount_table_read(&t, err);

	if (r < 0)
		goto out;
	const struct mount_entry *full = mount_table_at(&t, h->full);
	if (!full || strcmp(full->type, "fuse.cdmfs") != 0)
		goto out;
	h->immutable = json_is_true(json_object_get(pids, "immutable"));
	take_fuse(h, read_old_child(h, pid_of(pids, "server"), "--server", &server) ? &server : NULL);
	take_fuse(h, read_old_child(h, pid_of(pids, "watcher"), "--watcher", &watcher) ? &watcher : NULL);
	if (h->fuse_fd < 0) {
		detach_leftovers(h, &t, full->dev);
		goto out;
	}
	h->visible_id = visible_id_of(h, &t, full->dev);
	r = check_same_place(h, &t, full->dev, json_string_value(json_object_get(pids, "mountpoint")), err);
	if (r == 0)
		r = adopt(h, &server, &watcher, err);
	h->full_mounted = r > 0;
	if (r > 0)
		cdm_log(holder_took_over, cdm_int("server", h->server.pid), cdm_int("watcher", h->watcher.pid));
out:
	if (server.pidfd >= 0)
		close(server.pidfd);
	if (watcher.pidfd >= 0)
		close(watcher.pidfd);
	json_decref(pids);
	mount_table_fini(&t);
	return r;
}
