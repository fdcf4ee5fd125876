/* SPDX-License-Identifier: Apache-2.0 */
/* set_mount.c — a set works while its mount is there: /proc/self/mountinfo tells when mounts come and go, asking the mount tells whether it is ours. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "common/io.h"
#include "replicator/deltas.h"
#include "replicator/set_internal.h"

#define PROBE_AGAIN_MS 1000
#define FUSE_MAGIC 0x65735546

struct probe {
	struct set *set;
	bool mounted;
	bool unknown; /* the mount could not be asked: that says nothing */
	bool reload; /* and tell it to read its policy again */
};

static void probe_work(void *arg)
{
	struct probe *probe = arg;
	char path[512], status[65536];
	struct statfs fs;
	snprintf(path, sizeof path, "%s/full", probe->set->run_dir);
	errno = 0;
	probe->mounted = statfs(path, &fs) == 0 && fs.f_type == FUSE_MAGIC && getxattr(path, "trusted.cdmfs.status", status, sizeof status) >= 0;
	probe->unknown = !probe->mounted && (errno == EIO || errno == ENOMEM || errno == EINTR);
	if (probe->mounted && probe->reload)
		setxattr(path, "trusted.cdmfs.policy", "", 0, 0);
}

static int open_private_dir(struct set *s, const char *name)
{
	char path[64];
	snprintf(path, sizeof path, ".cdmfs/%s", name);
	return openat(s->store_fd, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* The store's private directories exist since the first mount. */
static bool open_store(struct set *s)
{
	if (s->staging_fd < 0)
		s->staging_fd = open_private_dir(s, "staging");
	if (s->conflicts_fd < 0)
		s->conflicts_fd = open_private_dir(s, "conflicts");
	if (s->staging_fd < 0 || s->conflicts_fd < 0)
		return false;
	if (!s->deltas)
		s->deltas = deltas_new(s);
	return true;
}

static void probe_start(struct set *s, bool reload);
static void follow_or_later(struct set *s);

/* Whatever waits: the mount could not be asked, its store not opened, or its journal not read. */
static void on_probe_timer(void *arg)
{
	struct set *s = arg;
	s->probe_timer = NULL;
	if (s->mounted && !s->follow.reader)
		follow_or_later(s);
	probe_start(s, false);
}

void set_mount_follow_later(struct set *s)
{
	if (!s->probe_timer && !s->stopping && (!s->mounted || !s->follow.reader))
		s->probe_timer = cdm_loop_after(s->node->loop, PROBE_AGAIN_MS, on_probe_timer, s);
}

static void follow_or_later(struct set *s)
{
	follow_start(s);
	follow_step(s);
	set_mount_follow_later(s);
}

static void probe_done(void *arg)
{
	struct probe *probe = arg;
	struct set *s = probe->set;
	bool mounted = probe->mounted, unknown = probe->unknown;
	free(probe);
	s->posted--;
	s->probing = false;
	if (s->stopping)
		return;
	if (s->probe_again) {
		s->probe_again = false;
		probe_start(s, false);
		return;
	}
	if (unknown && !s->probe_timer)
		s->probe_timer = cdm_loop_after(s->node->loop, PROBE_AGAIN_MS, on_probe_timer, s);
	if (unknown || mounted == s->mounted)
		return;
	s->mounted = mounted && open_store(s);
	if (mounted && !s->mounted)
		set_mount_follow_later(s);
	cdm_log(set_mounted, cdm_str("set", set_name(s)), cdm_str("state", s->mounted ? "mounted" : "not mounted"));
	if (s->mounted)
		follow_or_later(s);
	else
		barrier_fail_all(s, -ENOTCONN);
	state_changed(s);
}

static void probe_start(struct set *s, bool reload)
{
	if (s->probing && !reload) {
		s->probe_again = true;
		return;
	}
	struct probe *probe = calloc(1, sizeof *probe);
	if (!probe)
		abort();
	probe->set = s;
	probe->reload = reload;
	s->probing = true;
	s->posted++;
	cdm_worker_submit(s->caller, probe_work, probe_done, probe);
}

static void mounts_changed(void *arg, int result)
{
	struct set *s = arg;
	s->mounts_io = NULL;
	if (s->stopping || result < 0) {
		set_let_go(s);
		return;
	}
	s->mounts_io = cdm_loop_poll(s->node->loop, s->mounts_fd, POLLPRI, mounts_changed, s);
	probe_start(s, false);
}

void set_mount_begin(struct set *s)
{
	s->mounts_io = cdm_loop_poll(s->node->loop, s->mounts_fd, POLLPRI, mounts_changed, s);
	probe_start(s, false);
}

void set_mount_reload(struct set *s)
{
	probe_start(s, true);
}

int set_mount_touch(const struct set *s, const char *path, size_t len)
{
	char content[600];
	struct stat st;
	snprintf(content, sizeof content, "%s/full/content", s->run_dir);
	_cleanup_close_ int root = open(content, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return -EIO; /* that says nothing of the path */
	_cleanup_close_ int fd = cdm_open_beneath(root, path, len, O_PATH | O_NOFOLLOW, 0);
	if (fd < 0)
		return fd;
	return fstat(fd, &st) < 0 || fchownat(fd, "", st.st_uid, st.st_gid, AT_EMPTY_PATH) < 0 ? -errno : 0;
}

void set_mount_stop(struct set *s)
{
	cdm_timer_cancel(&s->probe_timer);
	if (s->mounts_io)
		cdm_loop_cancel(s->node->loop, s->mounts_io);
}
