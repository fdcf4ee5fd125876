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
	int root;                 /* the new directory in the store's staging */
	char *dir;                /* last directory used, relative to root */
	size_t dir_len;
	int dir_fd;
	struct cdm_change records[RUN_MAX];
	size_t count, bytes;
};

static const char *below(const struct assembly *a, const struct cdm_change *c, size_t *ret_len)
{
	const struct cdm_change *top = &a->top->carried.change;
	if (c->path_len <= top->path_len + 1 || memcmp(c->path, top->path, top->path_len) != 0 || c->path[top->path_len] != '/')
		return NULL;
	*ret_len = c->path_len - top->path_len - 1;
	return c->path + top->path_len + 1;
}

/* May it be part of the new directory? A creation whose content is here, by the same origin. */
static bool fits(const struct assembly *a, const struct incoming *in)
{
	const struct cdm_change *c = &in->carried.change;
	if (in->superseded || in->resync || in->staging[0] || c->dot.origin != a->top->carried.change.dot.origin)
		return false;
	if (c->op == CDM_OP_SAVE)
		return in->carried.kind == CONTENT_WHOLE && !(c->flags & CDM_CH_LINKED) && cdm_dot_is_none(c->base) && cdm_dot_is_none(c->victim);
	return c->op == CDM_OP_MKDIR || c->op == CDM_OP_SYMLINK || c->op == CDM_OP_MKNOD || c->op == CDM_OP_SETATTR;
}

static int directory_of(struct assembly *a, const char *path, size_t len, char name[CDM_NAME_LEN_MAX + 1])
{
	const char *slash = memrchr(path, '/', len);
	const char *last = slash ? slash + 1 : path;
	size_t name_len = (size_t)(path + len - last), dir_len = slash ? (size_t)(slash - path) : 0;
	memcpy(name, last, name_len);
	name[name_len] = 0;
	if (!dir_len)
		return a->root;
	if (a->dir && a->dir_len == dir_len && memcmp(a->dir, path, dir_len) == 0)
		return a->dir_fd;
	int fd = cdm_open_beneath(a->root, path, dir_len, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
	if (fd < 0)
		return fd;
	free(a->dir);
	if (a->dir_fd >= 0)
		close(a->dir_fd);
	a->dir_fd = fd;
	a->dir_len = dir_len;
	a->dir = malloc(dir_len);
	if (!a->dir)
		abort();
	memcpy(a->dir, path, dir_len);
	return fd;
}

static struct timespec time_of(int64_t ns)
{
	struct timespec t = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
	if (t.tv_nsec < 0) {
		t.tv_nsec += 1000000000;
		t.tv_sec--;
	}
	return t;
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
	struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, attr->mask & CDM_ATTR_MTIME ? time_of(attr->mtime_ns) : (struct timespec){.tv_nsec = UTIME_OMIT}};
	if (futimens(fd, times) < 0)
		return -errno;
	stamp.attr_clock = in->carried.change.clock;
	stamp.attr_origin = in->carried.change.dot.origin;
	int r = cdm_stamp_set(fd, &stamp);
	return r < 0 ? r : cdm_handle_get(dir, name, handle);
}

static int add(struct assembly *a, struct incoming *in)
{
	const struct cdm_change *c = &in->carried.change;
	char name[CDM_NAME_LEN_MAX + 1];
	size_t len;
	const char *path = below(a, c, &len);
	struct cdm_handle handle;
	if (!path || a->count == RUN_MAX || a->bytes + cdm_change_encoded_max(c) + 64 > RUN_BYTES)
		return -E2BIG;
	int dir = directory_of(a, path, len, name);
	if (dir < 0)
		return dir;
	struct stat st, before;
	if (fstat(dir, &before) < 0)
		return -errno;
	if (c->op != CDM_OP_SETATTR && fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return -EEXIST; /* it replaces what is part of the assembly already: on its own then */
	int r = c->op == CDM_OP_SETATTR ? set_attributes(in, dir, name, &handle) : stage_object(a->pub, in, dir, name, &handle, NULL);
	if (c->op != CDM_OP_SETATTR) { /* our own making of it must not show */
		struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, r == 0 && c->parent_mtime_ns ? time_of(c->parent_mtime_ns) : before.st_mtim};
		futimens(dir, times);
	}
	if (r < 0)
		return r;
	a->bytes += cdm_change_encoded_max(c) + 64;
	a->records[a->count] = record_of(a->pub, in);
	a->records[a->count++].handle = handle;
	return 0;
}

/* Build what fits. Number of changes taken. */
static size_t build(struct assembly *a, const char *staged, struct cdm_handle *handle)
{
	struct incoming *in = a->top;
	if (stage_object(a->pub, in, a->pub->set->staging_fd, staged, handle, NULL) < 0)
		return 0;
	a->root = openat(a->pub->set->staging_fd, staged, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (a->root < 0)
		return 0;
	a->records[0] = record_of(a->pub, in);
	a->records[0].handle = *handle;
	a->count = 1;
	while ((in = in->next) && fits(a, in) && add(a, in) == 0)
		;
	return a->count;
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
	char name[CDM_NAME_LEN_MAX + 1], staged[STAGING_NAME_MAX];
	struct cdm_handle handle;
	size_t len, taken = 0;
	struct assembly *a = calloc(1, sizeof *a);
	if (!a)
		abort();
	*a = (struct assembly){.pub = pub, .top = top, .root = -1, .dir_fd = -1};
	bool several = top->next && fits(a, top->next) && below(a, &top->next->carried.change, &len);
	int parent = several ? publisher_parent(pub, c->path, c->path_len, name) : -1;
	if (parent >= 0) {
		snprintf(staged, sizeof staged, "tree.%lx", (unsigned long)++pub->staged_number);
		taken = build(a, staged, &handle);
		if (taken > 1 && publish_tree(pub, top, staged, parent, name, a->records, a->count) != 0)
			taken = 0;
		if (taken < 2) {
			stage_remove_tree(pub->set->staging_fd, staged);
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
