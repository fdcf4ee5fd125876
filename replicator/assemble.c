/* SPDX-License-Identifier: Apache-2.0 */
/* assemble.c — a new directory and what follows in the batch below it are built in staging and published with one rename
 * that carries all their records: one call through the mount instead of several per file. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "common/io.h"
#include "replicator/publish_ops.h"

#define RUN_MAX 2048
#define RUN_BYTES (400u << 10) /* of records: a lane has room for 512 KiB */

struct assembly {
	struct publisher *pub;
	struct incoming *top;
	char staged[STAGING_NAME_MAX];
	int root;                 /* the new directory in the store's staging */
	char *dir;                /* last directory used, relative to root; "" is root */
	size_t dir_len;
	int dir_fd;
	struct timespec dir_mtime; /* what it is to have; our own making of things in it must not show */
	bool dir_touched;
	struct cdm_change records[RUN_MAX];
	size_t count, bytes;
};

static bool is_top(const struct assembly *a, const struct cdm_change *c)
{
	const struct cdm_change *top = &a->top->carried.change;
	return c->path_len == top->path_len && memcmp(c->path, top->path, top->path_len) == 0;
}

static const char *below(const struct assembly *a, const struct cdm_change *c, size_t *ret_len)
{
	const struct cdm_change *top = &a->top->carried.change;
	if (c->path_len <= top->path_len + 1 || memcmp(c->path, top->path, top->path_len) != 0 || c->path[top->path_len] != '/')
		return NULL;
	*ret_len = c->path_len - top->path_len - 1;
	return c->path + top->path_len + 1;
}

/* What is made in such a directory gets an ACL at once, which it may not have where it comes from: the directory came with the
 * attributes that it has by now, not with those that it had when that was made. */
static bool gives_acls(const struct incoming *in)
{
	for (size_t i = 0; i < in->carried.xattr_count; i++)
		if (strcmp(in->carried.xattrs[i].name, "system.posix_acl_default") == 0)
			return true;
	return false;
}

/* May it be part of the new directory? A creation whose content is here, by the same origin. */
static bool fits(const struct assembly *a, const struct incoming *in)
{
	const struct cdm_change *c = &in->carried.change;
	if (in->superseded || in->resync || c->dot.origin != a->top->carried.change.dot.origin)
		return false;
	if (c->op == CDM_OP_SAVE)
		return in->carried.kind == CONTENT_WHOLE && !(c->flags & CDM_CH_LINKED) && cdm_dot_is_none(c->base) && cdm_dot_is_none(c->victim);
	return (c->op == CDM_OP_MKDIR && !gives_acls(in)) || c->op == CDM_OP_SYMLINK || c->op == CDM_OP_MKNOD || c->op == CDM_OP_SETATTR;
}

/* 0, or -errno: to be tried again, for nobody else sets it. */
static int leave_directory(struct assembly *a)
{
	struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, a->dir_mtime};
	if (a->dir_touched && futimens(a->dir_fd, times) < 0)
		return -errno;
	a->dir_touched = false;
	return 0;
}

/* Make things in the directory that directory_of gave; its mtime from now on is this one, or (0) stays. */
static int touch_directory(struct assembly *a, int64_t mtime_ns)
{
	struct stat st;
	if (!a->dir_touched && fstat(a->dir_fd, &st) < 0)
		return -errno;
	if (!a->dir_touched)
		a->dir_mtime = st.st_mtim;
	if (mtime_ns)
		a->dir_mtime = cdm_time_of(mtime_ns);
	a->dir_touched = true;
	return 0;
}

static int directory_of(struct assembly *a, const char *path, size_t len, char name[CDM_NAME_LEN_MAX + 1])
{
	const char *slash = memrchr(path, '/', len);
	const char *last = slash ? slash + 1 : path;
	size_t name_len = (size_t)(path + len - last), dir_len = slash ? (size_t)(slash - path) : 0;
	memcpy(name, last, name_len);
	name[name_len] = 0;
	if (a->dir && a->dir_len == dir_len && memcmp(a->dir, path, dir_len) == 0)
		return a->dir_fd;
	int r = leave_directory(a);
	if (r < 0)
		return r;
	int fd = dir_len ? cdm_open_beneath(a->root, path, dir_len, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0) : fcntl(a->root, F_DUPFD_CLOEXEC, 3);
	if (fd < 0)
		return dir_len ? fd : -errno;
	free(a->dir);
	if (a->dir_fd >= 0)
		close(a->dir_fd);
	a->dir_fd = fd;
	a->dir_len = dir_len;
	a->dir = malloc(dir_len + 1);
	if (!a->dir)
		abort();
	memcpy(a->dir, path, dir_len);
	return fd;
}

static int set_attributes(struct incoming *in, int dir, const char *name, struct cdm_handle *handle)
{
	const struct cdm_attr *attr = &in->carried.change.attr;
	_cleanup_close_ int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	struct stat st;
	struct cdm_stamp stamp;
	if (fd < 0 || fstat(fd, &st) < 0 || (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode)) || cdm_stamp_get(fd, &stamp) < 0)
		return -EINVAL; /* rare: on its own then */
	if (attr->mask & (CDM_ATTR_UID | CDM_ATTR_GID) &&
		fchown(fd, attr->mask & CDM_ATTR_UID ? stage_uid(in, attr->uid) : (uid_t)-1,
			attr->mask & CDM_ATTR_GID ? stage_gid(in, attr->gid) : (gid_t)-1) < 0)
		return -errno;
	if (attr->mask & CDM_ATTR_MODE && fchmod(fd, attr->mode & 07777) < 0)
		return -errno;
	struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, attr->mask & CDM_ATTR_MTIME ? cdm_time_of(attr->mtime_ns) : (struct timespec){.tv_nsec = UTIME_OMIT}};
	if (futimens(fd, times) < 0)
		return -errno;
	stamp.attr_clock = in->carried.change.clock;
	stamp.attr_origin = in->carried.change.dot.origin;
	int r = cdm_stamp_set(fd, &stamp);
	return r < 0 ? r : cdm_handle_get(dir, name, handle);
}

static int make_at(struct assembly *a, struct incoming *in, int dir, const char *name, struct cdm_handle *handle)
{
	int staging = a->pub->set->staging_fd;
	if (!in->staging[0])
		return stage_object(a->pub, in, dir, name, handle, NULL);
	int r = stage_object(a->pub, in, staging, name, handle, NULL);
	return r == 0 && renameat2(staging, in->staging, dir, name, RENAME_NOREPLACE) < 0 ? -errno : r;
}

/* What exists already is part of the assembly, and this replaces it: on its own then (EEXIST). */
static int make(struct assembly *a, struct incoming *in, const char *path, size_t len, struct cdm_handle *handle)
{
	char name[CDM_NAME_LEN_MAX + 1];
	int dir = directory_of(a, path, len, name);
	if (dir < 0)
		return dir;
	int r = touch_directory(a, 0);
	if (r == 0)
		r = make_at(a, in, dir, name, handle);
	return r < 0 ? r : touch_directory(a, in->carried.change.parent_mtime_ns);
}

/* Of what was made, or of the new directory itself. Times that were set before stay. */
static int change_attributes(struct assembly *a, struct incoming *in, const char *path, size_t len, struct cdm_handle *handle)
{
	char name[CDM_NAME_LEN_MAX + 1];
	int r = leave_directory(a);
	if (r < 0)
		return r;
	if (!path)
		return set_attributes(in, a->pub->set->staging_fd, a->staged, handle);
	int dir = directory_of(a, path, len, name);
	return dir < 0 ? dir : set_attributes(in, dir, name, handle);
}

static int add(struct assembly *a, struct incoming *in)
{
	const struct cdm_change *c = &in->carried.change;
	size_t len = 0;
	const char *path = below(a, c, &len);
	bool attributes = c->op == CDM_OP_SETATTR;
	struct cdm_handle handle;
	if (a->count == RUN_MAX || a->bytes + cdm_change_encoded_max(c) + 64 > RUN_BYTES || (!path && !(attributes && is_top(a, c))))
		return -E2BIG;
	int r = attributes ? change_attributes(a, in, path, len, &handle) : make(a, in, path, len, &handle);
	if (r < 0)
		return r;
	a->bytes += cdm_change_encoded_max(c) + 64;
	a->records[a->count] = record_of(a->pub, in);
	a->records[a->count++].handle = handle;
	return 0;
}

/* Build what fits. Number of changes taken. */
static size_t build(struct assembly *a, struct cdm_handle *handle)
{
	struct incoming *in = a->top;
	if (stage_object(a->pub, in, a->pub->set->staging_fd, a->staged, handle, NULL) < 0)
		return 0;
	a->root = openat(a->pub->set->staging_fd, a->staged, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (a->root < 0)
		return 0;
	a->records[0] = record_of(a->pub, in);
	a->records[0].handle = *handle;
	a->count = 1;
	while ((in = in->next) && fits(a, in) && add(a, in) == 0)
		;
	return a->count;
}

/* What was spooled in staging is published, or (give_back) needed there again; what cannot be moved back goes with the assembly. */
static void end_spools(struct assembly *a, bool give_back)
{
	char name[CDM_NAME_LEN_MAX + 1];
	size_t len;
	struct incoming *in = a->top;
	a->dir_touched = false; /* the assembly is there, or it goes */
	for (size_t i = 1; i < a->count; i++) {
		in = in->next;
		if (!in->staging[0])
			continue;
		if (!give_back) {
			in->staging[0] = 0;
			continue;
		}
		const char *path = below(a, &in->carried.change, &len);
		int dir = directory_of(a, path, len, name);
		in->lost = dir < 0 || renameat(dir, name, a->pub->set->staging_fd, in->staging) < 0;
	}
}

static bool same_directory(const struct cdm_change *a, const struct cdm_change *b)
{
	const char *x = memrchr(a->path2, '/', a->path2_len), *y = memrchr(b->path2, '/', b->path2_len);
	size_t n = x ? (size_t)(x - a->path2) : 0, m = y ? (size_t)(y - b->path2) : 0;
	return n == m && memcmp(a->path2, b->path2, n) == 0;
}

/* What was renamed into place changed another directory, too. Of several in a row the last one counts. */
static void raise_old_directories(struct publisher *pub, struct incoming *in, size_t taken)
{
	struct incoming *last = NULL;
	for (; taken; taken--, in = in->next) {
		const struct cdm_change *c = &in->carried.change;
		if (!c->path2_len)
			continue;
		if (last && !same_directory(&last->carried.change, c))
			raise_parent(pub, last, last->carried.change.path2, last->carried.change.path2_len, last->carried.change.parent2_mtime_ns);
		last = in;
	}
	if (last)
		raise_parent(pub, last, last->carried.change.path2, last->carried.change.path2_len, last->carried.change.parent2_mtime_ns);
}

size_t assemble_run(struct publisher *pub, struct incoming *top)
{
	const struct cdm_change *c = &top->carried.change;
	char name[CDM_NAME_LEN_MAX + 1];
	struct cdm_handle handle;
	size_t len, taken = 0;
	struct assembly *a = calloc(1, sizeof *a);
	if (!a)
		abort();
	*a = (struct assembly){.pub = pub, .top = top, .root = -1, .dir_fd = -1};
	bool several = top->next && !gives_acls(top) && fits(a, top->next) && below(a, &top->next->carried.change, &len);
	int parent = several ? publisher_parent(pub, c->path, c->path_len, name) : -1;
	if (parent >= 0) {
		snprintf(a->staged, sizeof a->staged, "tree.%lx", (unsigned long)++pub->staged_number);
		taken = build(a, &handle);
		if (leave_directory(a) < 0 || (taken > 1 && publish_tree(pub, top, a->staged, parent, name, a->records, a->count) != 0))
			taken = 0;
		end_spools(a, taken < 2);
		if (taken < 2) {
			stage_remove_tree(pub->set->staging_fd, a->staged);
			contexts_fini(&pub->told); /* what was said with it was not journaled */
			taken = 0;
		}
	}
	free(a->dir);
	if (a->dir_fd >= 0)
		close(a->dir_fd);
	if (a->root >= 0)
		close(a->root);
	free(a);
	raise_old_directories(pub, top, taken);
	if (taken)
		count_up(&pub->set->counters.assembled, taken);
	return taken;
}
