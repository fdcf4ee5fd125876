/* SPDX-License-Identifier: Apache-2.0 */
/* holder_mount.c — the mounts of a set: RUN/SET (memory), RUN/SET/full (the filesystem), the visible bind. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>
#include "cdmfs/holder_parts.h"
#include "common/io.h"
#include "common/log.h"

#define RUN_OPTIONS "size=256m,mode=0700" /* the tail, the node table; what is not used costs nothing */
#define VISIBLE_FLAGS (MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOSYMFOLLOW)

static int is_on_memory(const char *dir, struct cdm_error *err)
{
	struct statfs fs;

	if (statfs(dir, &fs) < 0)
		return cdm_fail(err, errno, "look at %s", dir);
	return fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC;
}

/* RUN/SET must be in memory, and private: the full mount below it must not spread to other namespaces. */
int mount_run_dir(struct holder *h, struct cdm_error *err)
{
	struct mount_table t = {0};
	const struct mount_entry *at, *of;
	int r, memory;

	r = cdm_make_dirs(h->run_dir, 0700, err);
	if (r < 0)
		return r;
	if (chmod(h->run_dir, 0700) < 0)
		return cdm_fail(err, errno, "chmod %s", h->run_dir);
	memory = is_on_memory(h->run_dir, err);
	if (memory < 0)
		return memory;
	r = mount_table_read(&t, err);
	if (r < 0)
		return r;
	at = mount_table_at(&t, h->run_dir);
	of = mount_table_of(&t, h->run_dir);
	bool have_own = at != NULL, shared = of && of->shared;
	mount_table_fini(&t);
	if (have_own && memory) { /* of an earlier run, with a tail that outlived it */
		h->own_run_mount = true;
	} else if (!memory) {
		if (mount("cdmfs-run", h->run_dir, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, RUN_OPTIONS) < 0)
			return cdm_fail(err, errno, "mount memory on %s", h->run_dir);
		h->own_run_mount = true;
	} else if (shared) {
		if (mount(h->run_dir, h->run_dir, NULL, MS_BIND, NULL) < 0)
			return cdm_fail(err, errno, "bind %s", h->run_dir);
		h->own_run_mount = true;
	}
	if (h->own_run_mount && mount(NULL, h->run_dir, NULL, MS_PRIVATE, NULL) < 0)
		return cdm_fail(err, errno, "make %s private", h->run_dir);
	if (mkdir(h->full, 0700) < 0 && errno != EEXIST)
		return cdm_fail(err, errno, "create %s", h->full);
	return 0;
}

void unmount_run_dir(struct holder *h)
{
	rmdir(h->full);
	if (h->own_run_mount && umount2(h->run_dir, UMOUNT_NOFOLLOW) < 0 && errno == EBUSY)
		umount2(h->run_dir, MNT_DETACH | UMOUNT_NOFOLLOW); /* the replicator has it mapped; it lets go by itself */
	h->own_run_mount = false;
}

int mount_full(struct holder *h, struct cdm_error *err)
{
	_cleanup_close_ int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	_cleanup_free_ char *data = NULL;

	if (fd < 0) {
		int r = cdm_fail(err, errno, "open /dev/fuse");
		cdm_hint(err, r == -ENOENT || r == -ENODEV ? "load the module: modprobe fuse (a container needs the device)" :
			"cdmfs must be started by root");
		return r;
	}
	if (asprintf(&data, "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions%s%s", fd,
		h->options.context ? "," : "", h->options.context ? h->options.context : "") < 0)
		return cdm_fail(err, ENOMEM, "mount %s", h->full);
	if (mount(h->set->name, h->full, "fuse.cdmfs", MS_NODEV | MS_NOSUID | MS_NOEXEC, data) < 0) {
		int r = cdm_fail(err, errno, "mount %s", h->full);
		if (r == -EPERM)
			cdm_hint(err, "cdmfs must be started by root (CAP_SYS_ADMIN)");
		return r;
	}
	h->full_mounted = true;
	h->fuse_fd = cdm_take_fd(&fd);
	if (mount(NULL, h->full, NULL, MS_PRIVATE, NULL) < 0)
		return cdm_fail(err, errno, "make %s private", h->full);
	return 0;
}

/* The first OPENDIR, CREATE, OPEN and FLUSH get ENOSYS; from then on the kernel opens files by itself. The watcher's mark
 * works only after that. */
int prime_in_helper(struct holder *h, struct cdm_error *err)
{
	_cleanup_close_ int content = open(h->content, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_free_ char *name = NULL;
	int fd;

	if (content < 0)
		return cdm_fail(err, errno, "open %s", h->content);
	if (asprintf(&name, "%s/staging/.prime-%d", h->full, (int)getpid()) < 0)
		return cdm_fail(err, ENOMEM, "open %s", h->full);
	fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return cdm_fail(err, errno, "create %s", name);
	close(fd);
	if (unlink(name) < 0 && errno != ENOENT) /* a replicator that starts empties staging */
		return cdm_fail(err, errno, "remove %s", name);
	return 0;
}

/* What the person asked for, and read-only when this node may only receive and has no local paths. */
uint64_t visible_flags(const struct holder *h)
{
	bool policy_ro = h->policy.known && h->policy.read_only && h->policy.local.count == 0;

	return h->options.attr_set | (policy_ro ? MOUNT_ATTR_RDONLY : 0);
}

int bind_in_helper(struct holder *h, struct cdm_error *err)
{
	uint64_t flags = visible_flags(h);
	struct mount_attr attr = {.attr_set = flags, .attr_clr = VISIBLE_FLAGS & ~flags, .propagation = MS_PRIVATE};
	_cleanup_close_ int tree = open_tree(AT_FDCWD, h->content, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);

	if (tree < 0)
		return cdm_fail(err, errno, "open %s for a bind", h->content);
	if (mount_setattr(tree, "", AT_EMPTY_PATH, &attr, sizeof(attr)) < 0)
		return cdm_fail(err, errno, "set the flags of the mount");
	if (move_mount(tree, "", AT_FDCWD, h->mountpoint, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		return cdm_fail(err, errno, "mount at %s", h->mountpoint);
	return 0;
}

int flags_in_helper(struct holder *h, struct cdm_error *err)
{
	uint64_t flags = visible_flags(h);
	struct mount_attr attr = {.attr_set = flags & MOUNT_ATTR_RDONLY, .attr_clr = ~flags & MOUNT_ATTR_RDONLY};

	if (mount_setattr(AT_FDCWD, h->mountpoint, AT_SYMLINK_NOFOLLOW, &attr, sizeof(attr)) < 0)
		return cdm_fail(err, errno, "make %s %s", h->mountpoint, attr.attr_set ? "read-only" : "writable");
	return 0;
}

int unbind_in_helper(struct holder *h, struct cdm_error *err)
{
	struct mount_table t = {0};
	char users[300];
	int r = mount_table_read(&t, err);

	if (r < 0)
		return r;
	const struct mount_entry *e = mount_table_at(&t, h->mountpoint);
	bool ours = e && e->id == h->visible_id;
	mount_table_fini(&t);
	if (!ours) {
		cdm_fail_plain(err, EBUSY, "something else is mounted over %s; it is left there", h->mountpoint);
		return -EBUSY;
	}
	if (umount2(h->mountpoint, UMOUNT_NOFOLLOW) == 0)
		return 0;
	if (errno != EBUSY)
		return cdm_fail(err, errno, "unmount %s", h->mountpoint);
	busy_describe(h->mountpoint, users, sizeof(users));
	cdm_log(mount_busy, cdm_str("mountpoint", h->mountpoint), cdm_str("users", users),
		cdm_str("msg", "still in use: detached; open files there get errors when the server has ended"));
	if (umount2(h->mountpoint, MNT_DETACH | UMOUNT_NOFOLLOW) < 0)
		return cdm_fail(err, errno, "detach %s", h->mountpoint);
	return 0;
}

/* Writes what mappings left dirty first: with users left, here or in another namespace, unmounting does not. (Before a server
 * has answered INIT nothing can be opened, nor be dirty.) */
int unmount_full_in_helper(struct holder *h, struct cdm_error *err)
{
	int fd = h->resumed ? open(h->full, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

	if (fd >= 0) {
		if (cdm_syncfs(fd) < 0)
			cdm_debug("syncfs %s: %m", h->full);
		close(fd);
	}
	if (umount2(h->full, UMOUNT_NOFOLLOW) == 0)
		return 0;
	if (errno == EINVAL) /* somebody has done it */
		return 0;
	if (errno != EBUSY)
		return cdm_fail(err, errno, "unmount %s", h->full);
	if (umount2(h->full, MNT_DETACH | UMOUNT_NOFOLLOW) < 0)
		return cdm_fail(err, errno, "detach %s", h->full);
	return 0;
}

void detach_leftovers(struct holder *h, const struct mount_table *t, dev_t dev)
{
	for (size_t i = t->count; i-- > 0;) {
		const struct mount_entry *e = &t->entries[i];
		if (e->dev != dev || strcmp(e->type, "fuse.cdmfs") != 0)
			continue;
		/* FORCE ends calls that still wait for the server that is gone */
		if (umount2(e->mountpoint, MNT_FORCE | MNT_DETACH | UMOUNT_NOFOLLOW) == 0)
			cdm_log(mount_leftover, cdm_str("mountpoint", e->mountpoint), cdm_str("source", e->source));
	}
}

bool set_immutable(const char *dir, bool on)
{
	_cleanup_close_ int fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	int flags = 0;

	if (fd < 0 || ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0 || !!(flags & FS_IMMUTABLE_FL) == on)
		return false;
	flags = on ? flags | FS_IMMUTABLE_FL : flags & ~FS_IMMUTABLE_FL;
	return ioctl(fd, FS_IOC_SETFLAGS, &flags) == 0;
}

/* -o remount: only the flags of the visible mount change. */
int remount_visible(struct holder *h, struct cdm_error *err)
{
	struct mount_attr attr = {.attr_set = h->options.attr_set, .attr_clr = h->options.attr_clear};
	struct mount_table t = {0};
	int r = mount_table_read(&t, err);

	if (r < 0)
		return r;
	const struct mount_entry *e = mount_table_at(&t, h->mountpoint);
	bool ours = e && strcmp(e->type, "fuse.cdmfs") == 0 && strcmp(e->source, h->set->name) == 0;
	mount_table_fini(&t);
	if (!ours)
		return cdm_fail_plain(err, EINVAL, "set %s is not mounted at %s", h->set->name, h->mountpoint);
	if (mount_setattr(AT_FDCWD, h->mountpoint, 0, &attr, sizeof(attr)) < 0) {
		r = cdm_fail(err, errno, "remount %s", h->mountpoint);
		if (r == -EBUSY)
			cdm_hint(err, "files are open for writing there");
		return r;
	}
	return 0;
}
