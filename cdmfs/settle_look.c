/* SPDX-License-Identifier: Apache-2.0 */
/* Settling by looking: handles at the names, stamps, orphans. */
#include "cdmfs/settle_look.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "cdmfs/act.h"
#include "common/io.h"
#include "common/log.h"

struct spot { /* a path of a record, looked at */
	char *path;
	const char *name;
	size_t name_len;
	int dirfd;
	uint64_t dir_id;
	struct object o;
};

static void spot_fini(struct spot *s)
{
	object_close(&s->o);
	if (s->dirfd >= 0)
		close(s->dirfd);
	free(s->path);
}

/* 0 also when nothing is there; -ENOENT when there is not even the directory. */
static int spot_look(struct fs *fs, const char *path, size_t len, struct spot *s)
{
	struct cdm_handle h;
	int r;

	*s = (struct spot){.dirfd = -1, .o.fd = -1, .path = strndup(path, len)};
	if (!s->path || len == 0)
		return -ENOENT;
	s->dirfd = cdm_open_parent(fs->store.root_fd, s->path, len, &s->name);
	if (s->dirfd < 0)
		return s->dirfd;
	s->name_len = strlen(s->name);
	r = node_identify(s->dirfd, &h, &s->dir_id);
	return r < 0 ? r : object_find(fs, s->dirfd, s->name, &s->o);
}

static bool spot_has(const struct spot *s, const struct cdm_handle *h)
{
	return s->o.fd >= 0 && h->len && cdm_handle_equal(&s->o.handle, h);
}

static void result_from(struct cdm_change *c, const struct object *o, const struct cdm_stamp *stamp)
{
	c->handle = o->handle;
	c->version = stamp->content;
	c->attr.mask = CDM_ATTR_MODE | CDM_ATTR_UID | CDM_ATTR_GID | CDM_ATTR_SIZE | CDM_ATTR_MTIME;
	c->attr.mode = o->st.st_mode;
	c->attr.uid = o->st.st_uid;
	c->attr.gid = o->st.st_gid;
	c->attr.nlink = o->st.st_nlink;
	c->attr.size = o->st.st_size;
	c->attr.rdev = o->st.st_rdev;
	c->attr.mtime_ns = o->st.st_mtim.tv_sec * 1000000000ll + o->st.st_mtim.tv_nsec;
}

static int64_t mtime_of(int fd)
{
	struct stat st;

	return fd < 0 || fstat(fd, &st) < 0 ? 0 : st.st_mtim.tv_sec * 1000000000ll + st.st_mtim.tv_nsec;
}

/* The directory in which the record's change was made: ours is told with it. Somebody else's says what mtime it leaves there, which is still to be set if
 * the server died before that. */
static void directory_changed(struct cdm_change *c, int dirfd, int64_t *mtime_ns)
{
	struct stat st;
	struct timespec ts[2] = {{.tv_nsec = UTIME_OMIT}, cdm_time_of(*mtime_ns)};

	if (!(c->flags & CDM_CH_RECEIVED))
		*mtime_ns = mtime_of(dirfd);
	else if (dirfd >= 0 && *mtime_ns && fstat(dirfd, &st) == 0 && act_is_undated(&st) && utimensat(dirfd, "", ts, AT_EMPTY_PATH) < 0)
		cdm_debug("set the mtime of the directory of %.*s: %m", (int)c->path_len, c->path);
}

/* --- made: create, mkdir, symlink, mknod, and a received save --- */

static int look_made(struct fs *fs, struct cdm_change *c)
{
	struct cdm_stamp stamp = {0};
	struct spot s;
	bool received = c->flags & CDM_CH_RECEIVED;
	int r = spot_look(fs, c->path, c->path_len, &s), e = 0;

	if (r == 0 && s.o.fd < 0)
		r = -ENOENT;
	if (r == 0)
		e = cdm_stamp_get(s.o.fd, &stamp);
	if (r == 0 && e == -ENODATA && !received) { /* made, but not stamped yet */
		stamp = (struct cdm_stamp){.content = {c->dot, c->clock}, .attr_clock = c->clock, .attr_origin = c->dot.origin};
		r = cdm_stamp_set(s.o.fd, &stamp);
	} else if (r == 0 && !cdm_dot_equal(stamp.content.dot, received && c->op == CDM_OP_SAVE ? c->version.dot : c->dot) &&
		   !(received && spot_has(&s, &c->handle))) {
		r = -EEXIST; /* something else has this name */
	}
	if (r == 0 && !received) {
		result_from(c, &s.o, &stamp);
		r = inodes_see(fs->nodes, &(struct node_seen){.id = s.o.id, .parent = s.dir_id, .name = s.name, .name_len = s.name_len,
			.handle = &s.o.handle, .type = s.o.st.st_mode & S_IFMT, .flags = c->op == CDM_OP_CREATE ? NODE_NEW : 0});
		if (c->op == CDM_OP_MKDIR)
			act_record_acls(fs, s.dirfd, s.name, c);
		if (r == 0 && c->op == CDM_OP_CREATE)
			r = inodes_dirty_add(fs->nodes, s.o.id, &(struct dirty_add){.whole = true});
	}
	if (r == 0)
		directory_changed(c, s.dirfd, &c->parent_mtime_ns);
	spot_fini(&s);
	return r < 0 ? r : 0;
}

/* --- removed --- */

static void name_lost(struct fs *fs, uint64_t id, const struct spot *s)
{
	char orphan[32];

	orphan_name(id, orphan);
	if (faccessat(fs->store.orphans_fd, orphan, F_OK, AT_SYMLINK_NOFOLLOW) == 0) {
		inodes_flags(fs->nodes, id, NODE_ORPHAN, 0);
		inodes_names_clear(fs->nodes, id);
	} else {
		inodes_name_remove(fs->nodes, id, s->dir_id, s->name, s->name_len);
	}
}

static int look_removed(struct fs *fs, struct cdm_change *c)
{
	struct spot s;
	int r = spot_look(fs, c->path, c->path_len, &s);

	if (r == 0 && spot_has(&s, &c->handle))
		r = -ECANCELED;
	else if (r == -ENOENT)
		r = 0; /* even the directory is gone */
	if (r == 0 && c->handle.len && s.dirfd >= 0) {
		name_lost(fs, inodes_id(&c->handle), &s);
		directory_changed(c, s.dirfd, &c->parent_mtime_ns);
	}
	spot_fini(&s);
	return r;
}

/* --- moved and linked --- */

static void moved_in_table(struct fs *fs, const struct spot *from, const struct spot *to)
{
	uint64_t id = to->o.id, owner = inodes_name_owner(fs->nodes, to->dir_id, to->name, to->name_len, id);

	if (owner && from->o.fd >= 0 && from->o.id == owner) { /* exchanged */
		inodes_name_remove(fs->nodes, owner, to->dir_id, to->name, to->name_len);
		inodes_name_add(fs->nodes, owner, from->dir_id, from->name, from->name_len);
	} else if (owner) {
		name_lost(fs, owner, to);
	}
	if (from->dirfd >= 0)
		inodes_name_remove(fs->nodes, id, from->dir_id, from->name, from->name_len);
	inodes_name_add(fs->nodes, id, to->dir_id, to->name, to->name_len);
}

/* Not done: a link that was made to keep the one to be replaced is not needed. */
static void unkeep(struct fs *fs, const struct spot *to)
{
	if (to->o.fd >= 0 && S_ISREG(to->o.st.st_mode) && to->o.st.st_nlink > 1)
		orphan_drop(fs, to->o.id);
}

static int look_renamed(struct fs *fs, struct cdm_change *c)
{
	struct spot from, to;
	int e = spot_look(fs, c->path, c->path_len, &from), r = spot_look(fs, c->path2, c->path2_len, &to);
	bool exchange = c->rename_flags & RENAME_EXCHANGE;

	(void)e; /* from a directory that is gone, or from staging: only the new name tells */
	if (r == 0 && !spot_has(&to, &c->handle))
		r = -ECANCELED;
	if (r == 0 && !exchange && spot_has(&from, &c->handle) && to.o.st.st_nlink < 2)
		r = -ECANCELED;
	if (r == 0) {
		moved_in_table(fs, &from, &to);
		directory_changed(c, from.dirfd, &c->parent_mtime_ns);
		directory_changed(c, to.dirfd, &c->parent2_mtime_ns);
	} else {
		unkeep(fs, &to);
	}
	spot_fini(&from);
	spot_fini(&to);
	return r;
}

/* As link_publish does: under its old name the others do not know it. */
static void note_linked(struct fs *fs, const struct cdm_change *c, uint64_t id)
{
	bool known = c->path_len && !policy_is_local(fs, c->path, c->path_len);

	if (known || c->flags & CDM_CH_RECEIVED || policy_is_local(fs, c->path2, c->path2_len))
		return;
	inodes_flags(fs->nodes, id, NODE_NEW, 0);
	inodes_dirty_add(fs->nodes, id, &(struct dirty_add){.whole = true});
}

static int look_linked(struct fs *fs, struct cdm_change *c)
{
	struct spot to;
	int r = spot_look(fs, c->path2, c->path2_len, &to);
	char orphan[32];

	if (r == 0 && !spot_has(&to, &c->handle))
		r = -ECANCELED;
	if (r == 0) {
		inodes_name_add(fs->nodes, to.o.id, to.dir_id, to.name, to.name_len);
		orphan_name(to.o.id, orphan);
		if (faccessat(fs->store.orphans_fd, orphan, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
			inodes_flags(fs->nodes, to.o.id, 0, NODE_ORPHAN | NODE_CONFLICT);
		directory_changed(c, to.dirfd, &c->parent2_mtime_ns);
		note_linked(fs, c, to.o.id);
	}
	spot_fini(&to);
	return r;
}

/* --- content and attributes: done again, that does no harm --- */

static int look_written(struct fs *fs, struct cdm_change *c)
{
	_cleanup_close_ int fd = cdm_handle_open(fs->store.root_fd, &c->handle, O_PATH | O_CLOEXEC);
	struct cdm_stamp stamp = {0};
	uint64_t id = inodes_id(&c->handle);
	struct stat st;
	struct dirty_add add = {0};
	int r;

	if (fd < 0)
		return fd;
	if (c->flags & CDM_CH_RECEIVED || fstat(fd, &st) < 0 || !id)
		return -ECANCELED;
	if (cdm_stamp_get(fd, &stamp) < 0)
		stamp = (struct cdm_stamp){0};
	if (c->range_count) {
		add.offset = c->ranges[0].offset;
		add.length = c->ranges[0].length;
	}
	add.truncated = c->flags & CDM_CH_TRUNCATE;
	add.whole = add.truncated && c->attr.size == 0;
	add.base = stamp.content.dot;
	r = inodes_see(fs->nodes, &(struct node_seen){.id = id, .handle = &c->handle, .type = st.st_mode & S_IFMT});
	if (r == 0)
		r = inodes_dirty_add(fs->nodes, id, &add);
	if (r < 0)
		return r;
	if (stamp.content.clock < c->clock)
		stamp.content = (struct cdm_version){c->dot, c->clock};
	c->version = stamp.content;
	r = cdm_stamp_set(fd, &stamp);
	return r < 0 ? r : SETTLED_REDO;
}

static struct timespec to_timespec(int64_t ns, bool meant)
{
	return meant ? cdm_time_of(ns) : (struct timespec){.tv_nsec = UTIME_OMIT};
}

static int redo_setattr(int fd, const char *self, const struct cdm_attr *a)
{
	struct timespec ts[2] = {to_timespec(a->atime_ns, a->mask & CDM_ATTR_ATIME), to_timespec(a->mtime_ns, a->mask & CDM_ATTR_MTIME)};

	if (a->mask & (CDM_ATTR_UID | CDM_ATTR_GID) &&
	    fchownat(fd, "", a->mask & CDM_ATTR_UID ? a->uid : (uid_t)-1, a->mask & CDM_ATTR_GID ? a->gid : (gid_t)-1, AT_EMPTY_PATH) < 0)
		return -errno;
	if (a->mask & CDM_ATTR_MODE && chmod(self, a->mode & 07777) < 0)
		return -errno;
	return a->mask & (CDM_ATTR_ATIME | CDM_ATTR_MTIME) && utimensat(fd, "", ts, AT_EMPTY_PATH) < 0 ? -errno : 0;
}

static int redo_xattr(const char *self, const struct cdm_change *c)
{
	char name[256];

	if (c->name_len >= sizeof(name))
		return -EINVAL;
	memcpy(name, c->name, c->name_len);
	name[c->name_len] = 0;
	if (c->op == CDM_OP_SETXATTR)
		return setxattr(self, name, c->value, c->value_len, 0) < 0 ? -errno : 0;
	return removexattr(self, name) < 0 && errno != ENODATA ? -errno : 0;
}

static int look_attributes(struct fs *fs, struct cdm_change *c)
{
	_cleanup_close_ int fd = cdm_handle_open(fs->store.root_fd, &c->handle, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	struct cdm_stamp stamp = {0};
	char self[32];
	int r;

	if (fd < 0)
		return fd;
	if (c->flags & CDM_CH_RECEIVED)
		return -ECANCELED; /* asked for again: its dot does not count as applied */
	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	r = c->op == CDM_OP_SETATTR ? redo_setattr(fd, self, &c->attr) : redo_xattr(self, c);
	if (r < 0)
		return r;
	if (cdm_stamp_get(fd, &stamp) < 0)
		stamp = (struct cdm_stamp){0};
	stamp.attr_clock = c->clock;
	stamp.attr_origin = c->dot.origin;
	c->version = stamp.content;
	cdm_stamp_set(fd, &stamp);
	return 0;
}

int settle_look(struct fs *fs, struct cdm_change *c)
{
	switch (c->op) {
	case CDM_OP_SAVE:
		return c->flags & CDM_CH_RECEIVED ? look_made(fs, c) : 0;
	case CDM_OP_CREATE:
	case CDM_OP_MKDIR:
	case CDM_OP_SYMLINK:
	case CDM_OP_MKNOD:
		return look_made(fs, c);
	case CDM_OP_UNLINK:
	case CDM_OP_RMDIR:
		return look_removed(fs, c);
	case CDM_OP_RENAME:
		return look_renamed(fs, c);
	case CDM_OP_LINK:
		return look_linked(fs, c);
	case CDM_OP_WRITE:
		return look_written(fs, c);
	case CDM_OP_SETATTR:
	case CDM_OP_SETXATTR:
	case CDM_OP_REMOVEXATTR:
		return look_attributes(fs, c);
	case CDM_OP_MARK:
	case CDM_OP_BARRIER:
	case CDM_OP_CLEAN:
	case CDM_OP_SYNCED:
	case CDM_OP_SKIP:
		return 0;
	}
	return -EINVAL;
}
