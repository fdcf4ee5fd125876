/* SPDX-License-Identifier: Apache-2.0 */
/* Making SAVE records: from what the table knows of a node, or from what is found at a path. */
#include "cdmfs/save.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "cdmfs/walk.h"
#include "common/faultpoint.h"
#include "common/io.h"
#include "common/log.h"

static void set_attr(struct cdm_change *c, const struct stat *st)
{
	c->attr = (struct cdm_attr){.mask = CDM_ATTR_MODE | CDM_ATTR_UID | CDM_ATTR_GID | CDM_ATTR_SIZE | CDM_ATTR_MTIME,
		.mode = st->st_mode, .uid = st->st_uid, .gid = st->st_gid, .nlink = st->st_nlink, .size = st->st_size,
		.rdev = st->st_rdev, .mtime_ns = st->st_mtim.tv_sec * 1000000000ll + st->st_mtim.tv_nsec};
}

/* Ranges that are half of the file or more are no better than the whole. */
static bool mostly_changed(const struct dirty *d, uint64_t size)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < d->count && d->ranges[i].offset < size; i++)
		sum += d->ranges[i].length < size - d->ranges[i].offset ? d->ranges[i].length : size - d->ranges[i].offset;
	return sum > size / 2;
}

static void describe_content(struct cdm_change *c, const struct dirty *d, uint32_t node_flags)
{
	if (node_flags & NODE_NEW)
		c->flags |= CDM_CH_NEW | CDM_CH_WHOLE | (node_flags & NODE_COVERS ? CDM_CH_COVERS : 0);
	if (d->whole || mostly_changed(d, c->attr.size))
		c->flags |= CDM_CH_WHOLE;
	if (d->truncated)
		c->flags |= CDM_CH_TRUNCATE;
	if (!(node_flags & NODE_NEW))
		c->base = d->base;
	if (!(c->flags & CDM_CH_WHOLE)) {
		c->ranges = d->ranges;
		c->range_count = d->count;
	}
	if (c->attr.nlink > 1)
		c->flags |= CDM_CH_LINKED;
}

/* The others make a new name when they get the SAVE: their directory's mtime then is to be what it is here now (someone may have
 * set it since the name was made, as cp -a does). 0: not told. */
static int64_t mtime_of_parent(struct fs *fs, const char *path, size_t len)
{
	const char *name;
	struct stat st;
	_cleanup_close_ int dir = cdm_open_parent(fs->store.root_fd, path, len, &name);

	if (dir < 0 || fstat(dir, &st) < 0)
		return 0;
	return st.st_mtim.tv_sec * 1000000000ll + st.st_mtim.tv_nsec;
}

/* `path` is another name of what is saved. */
static void put_link(struct fs *fs, const struct cdm_change *saved, const char *path, size_t len)
{
	struct cdm_change c = {.op = CDM_OP_LINK, .flags = CDM_CH_LINKED, .path = saved->path, .path_len = saved->path_len, .path2 = path, .path2_len = len,
		.parent2_mtime_ns = mtime_of_parent(fs, path, len), .handle = saved->handle, .version = saved->version, .base = saved->version.dot,
		.attr = saved->attr};

	cdm_journal_put(fs->journal, &c);
}

/* The other names of a file: their LINK records were not shipped if nobody knew it before, and came to nothing where the content that
 * was to be linked was overtaken by this one. Who has them already does nothing. */
static void link_other_names(struct fs *fs, uint64_t id, const struct cdm_change *saved)
{
	char *buf = malloc(CDM_PATH_MAX);
	struct node_path p;

	for (unsigned which = 0; buf && inodes_path(fs->nodes, id, which, buf, CDM_PATH_MAX, &p) == 0; which++) {
		bool is_saved = p.len == saved->path_len && memcmp(p.path, saved->path, p.len) == 0;
		if (is_saved || p.place != PLACE_CONTENT || policy_is_local(fs, p.path, p.len))
			continue;
		put_link(fs, saved, p.path, p.len);
	}
	free(buf);
}

static int find_name(struct fs *fs, const struct walk_entry *e, void *arg)
{
	struct object o;
	uint64_t id = *(uint64_t *)arg;

	if (!S_ISREG(e->st->st_mode) || e->st->st_nlink < 1 || object_find(fs, e->dirfd, e->name, &o) < 0)
		return 0;
	if (o.fd >= 0 && o.id == id) {
		struct cdm_handle h;
		uint64_t parent;
		if (node_identify(e->dirfd, &h, &parent) == 0)
			inodes_name_add(fs->nodes, id, parent, e->name, strlen(e->name));
		object_close(&o);
		return -ECANCELED; /* found */
	}
	object_close(&o);
	return 0;
}

/* The name it was opened by was removed, but it has another one that was never looked up: search. */
static int name_of_node(struct fs *fs, uint64_t id, const struct stat *st, char *buf, struct node_path *p)
{
	int r = path_that_travels(fs, id, buf, CDM_PATH_MAX, p);

	if (r != -ENOENT || st->st_nlink == 0)
		return r;
	r = walk_tree(fs, "", 0, find_name, &id);
	if (r != -ECANCELED)
		return r < 0 ? r : -ENOENT;
	return path_that_travels(fs, id, buf, CDM_PATH_MAX, p);
}

static int save_open(struct fs *fs, const struct node *n, const struct dirty *d, int fd, char *buf)
{
	struct cdm_change c = {.op = CDM_OP_SAVE, .handle = n->handle};
	struct cdm_stamp stamp = {0};
	struct node_path p;
	struct stat st;
	int r;

	if (fstat(fd, &st) < 0)
		return -errno;
	r = name_of_node(fs, n->id, &st, buf, &p);
	if (r < 0 || p.place != PLACE_CONTENT)
		return r;
	r = cdm_stamp_get(fd, &stamp);
	if (r < 0 && r != -ENODATA)
		return r;
	c.path = p.path;
	c.path_len = p.len;
	c.version = stamp.content;
	set_attr(&c, &st);
	describe_content(&c, d, n->flags);
	if (policy_is_local(fs, p.path, p.len))
		c.flags |= CDM_CH_LOCAL;
	if (c.flags & CDM_CH_NEW)
		c.parent_mtime_ns = mtime_of_parent(fs, p.path, p.len);
	r = cdm_journal_put(fs->journal, &c);
	if (r == 0 && st.st_nlink > 1)
		link_other_names(fs, n->id, &c);
	cdm_faultpoint("save.recorded_not_noted");
	return r;
}

int save_node_locked(struct fs *fs, uint64_t id, char *path_buf)
{
	struct node n;
	struct dirty d;
	int fd, r;

	if (!inodes_find(fs->nodes, id, &n) || n.flags & NODE_ORPHAN || !inodes_dirty(fs->nodes, id, &d))
		return 0;
	fd = node_open_path(fs, id);
	r = fd < 0 ? fd : save_open(fs, &n, &d, fd, path_buf);
	if (fd >= 0)
		close(fd);
	if (r < 0 && r != -ESTALE && r != -ENOENT && r != -ENAMETOOLONG)
		return r; /* the journal takes nothing now, or it cannot be looked at: it stays unsaved, and is looked at again */
	inodes_dirty_clear(fs->nodes, id);
	inodes_flags(fs->nodes, id, 0, NODE_WRITER);
	return r < 0 ? r : 1;
}

/* The directory of a new file, which its SAVE speaks of (mtime_of_parent): nobody may set its times between the look and the record.
 * 0: not known, or the file is not new. */
static uint64_t parent_to_lock(struct fs *fs, uint64_t id, char *path_buf)
{
	struct node n;
	struct node_path p;
	struct cdm_handle h;
	uint64_t parent;
	const char *name;

	if (!inodes_find(fs->nodes, id, &n) || !(n.flags & NODE_NEW) || path_that_travels(fs, id, path_buf, CDM_PATH_MAX, &p) < 0 ||
		p.place != PLACE_CONTENT)
		return 0;
	_cleanup_close_ int dir = cdm_open_parent(fs->store.root_fd, p.path, p.len, &name);
	return dir >= 0 && node_identify(dir, &h, &parent) == 0 ? parent : 0;
}

void save_node(struct fs *fs, uint64_t id, int64_t looked_ns)
{
	struct stripes nodes;
	struct dirty d;
	char *buf = malloc(CDM_PATH_MAX);
	int r = 0;

	if (!buf)
		return;
	pthread_rwlock_rdlock(&fs->tree);
	lock_nodes(fs, &nodes, id, parent_to_lock(fs, id, buf));
	if (inodes_dirty(fs->nodes, id, &d) && (!looked_ns || d.last_ns <= looked_ns))
		r = save_node_locked(fs, id, buf);
	unlock_stripes(&nodes);
	pthread_rwlock_unlock(&fs->tree);
	free(buf);
	if (r < 0 && r != -ESTALE && r != -ENOENT) {
		struct cdm_error err = CDM_ERROR_INIT;
		cdm_fail(&err, -r, "record a save");
		cdm_log_err(save_failed, &err);
	}
}

/* --- what nobody saw coming to be --- */

/* Does the journal confirm that this content was whole on the disk at the last mark? Own writes are in the journal one by one; but of
 * what others made only the SAVE is, whose number is higher than the one in the stamp, so the vector alone does not tell. */
static bool is_confirmed(const struct fs *fs, const struct cdm_vector *known, struct cdm_dot dot)
{
	if (CDM_ORIGIN_NODE(dot.origin) != fs->node_number)
		return recall_is_confirmed(fs, dot);
	return cdm_vector_covers(known, dot);
}

/* The clock of a version made of what was found. What the last mark covers, so that only its name or attributes may be new, is dated just
 * after its stamp. What was fsynced since then: just before it, for in-place writing may have begun again since; it wins over older versions,
 * and whoever has that version whole wins over it. All else may be half: any version that somebody has wins over it. */
static uint64_t found_clock(const struct fs *fs, const struct cdm_stamp *stamp, const struct cdm_vector *known, uint64_t now)
{
	if (!known)
		return now;
	if (cdm_dot_is_none(stamp->content.dot))
		return CDM_CLOCK_UNSURE;
	if (is_confirmed(fs, known, stamp->content.dot))
		return stamp->content.clock + 1;
	return recall_is_synced(fs, stamp->content.dot) ? stamp->content.clock - 1 : CDM_CLOCK_UNSURE;
}

static int found_file(struct fs *fs, const struct object *o, struct cdm_change *c, const struct cdm_vector *known)
{
	struct cdm_stamp stamp = {0};
	struct cdm_change w = {.op = CDM_OP_WRITE, .flags = c->flags & (uint32_t)~(CDM_CH_NEW | CDM_CH_WHOLE), .path = c->path,
		.path_len = c->path_len, .handle = o->handle};
	int r = cdm_stamp_get(o->fd, &stamp);

	if (r < 0)
		stamp = (struct cdm_stamp){0};
	if (known)
		w.base = stamp.content.dot; /* so the replicator knows what this may be half of */
	if (known && stamp.content.dot.origin == cdm_journal_origin(fs->journal))
		return 0; /* made since this server runs */
	if (known && CDM_ORIGIN_NODE(stamp.content.dot.origin) != fs->node_number && is_confirmed(fs, known, stamp.content.dot))
		return 0; /* the others have it under this version */
	if (!(c->flags & CDM_CH_NEW) && (!known || is_confirmed(fs, known, stamp.content.dot)))
		c->base = stamp.content.dot; /* else it does not build on what its stamp names: it may be half of that */
	c->parent_mtime_ns = mtime_of_parent(fs, c->path, c->path_len);
	r = cdm_journal_append(fs->journal, &w);
	if (r < 0)
		return r;
	stamp.content = (struct cdm_version){w.dot, found_clock(fs, &stamp, known, w.clock)};
	r = cdm_stamp_set(o->fd, &stamp);
	cdm_journal_settle(fs->journal, &w, r < 0 ? CDM_FAILED : CDM_DONE, r < 0 ? -r : 0);
	if (r < 0)
		return r;
	c->op = CDM_OP_SAVE;
	c->version = stamp.content;
	c->flags |= CDM_CH_WHOLE;
	if (o->st.st_nlink > 1)
		c->flags |= CDM_CH_LINKED;
	r = cdm_journal_put(fs->journal, c);
	if (r == 0 && !known && !(c->flags & CDM_CH_LOCAL) && o->st.st_nlink > 1)
		link_other_names(fs, o->id, c); /* those that were recorded before have an older version by now */
	return r;
}

static int found_other(struct fs *fs, const struct object *o, struct cdm_change *c)
{
	struct cdm_stamp stamp = {0};
	int r;

	c->parent_mtime_ns = mtime_of_parent(fs, c->path, c->path_len);
	r = cdm_journal_append(fs->journal, c);
	if (r < 0)
		return r;
	if (cdm_stamp_get(o->fd, &stamp) < 0)
		stamp = (struct cdm_stamp){0};
	stamp.content = (struct cdm_version){c->dot, c->clock};
	c->version = stamp.content;
	r = cdm_stamp_set(o->fd, &stamp);
	if (r == -EOPNOTSUPP && !S_ISDIR(o->st.st_mode))
		r = 0;
	cdm_journal_settle(fs->journal, c, r < 0 ? CDM_FAILED : CDM_DONE, r < 0 ? -r : 0);
	return r;
}

int save_found(struct fs *fs, int dirfd, const char *name, const char *path, size_t len, uint32_t flags, const struct cdm_vector *known)
{
	struct object o;
	struct cdm_change c = {.flags = flags, .path = path, .path_len = len};
	struct stripes nodes;
	char target[PATH_MAX];
	int r = object_find(fs, dirfd, name, &o);

	if (r < 0 || o.fd < 0)
		return r;
	if (policy_is_local(fs, path, len))
		c.flags |= CDM_CH_LOCAL;
	c.handle = o.handle;
	set_attr(&c, &o.st);
	lock_nodes(fs, &nodes, o.id, 0);
	if (S_ISREG(o.st.st_mode)) {
		r = found_file(fs, &o, &c, known);
		if (r == 0)
			inodes_dirty_clear(fs->nodes, o.id);
	} else {
		c.op = S_ISDIR(o.st.st_mode) ? CDM_OP_MKDIR : S_ISLNK(o.st.st_mode) ? CDM_OP_SYMLINK : CDM_OP_MKNOD;
		if (c.op == CDM_OP_SYMLINK) {
			ssize_t n = readlinkat(o.fd, "", target, sizeof(target));
			c.value = target;
			c.value_len = n < 0 ? 0 : n;
		}
		r = found_other(fs, &o, &c);
	}
	unlock_stripes(&nodes);
	object_close(&o);
	return r;
}

static bool is_at(struct fs *fs, const char *path, size_t len, uint64_t id)
{
	const char *name;
	struct object there = {.fd = -1};
	_cleanup_close_ int dir = cdm_open_parent(fs->store.root_fd, path, len, &name);
	bool is = dir >= 0 && object_find(fs, dir, name, &there) == 0 && there.fd >= 0 && there.id == id;

	object_close(&there);
	return is;
}

int save_found_link(struct fs *fs, const struct object *o, const char *first, size_t first_len, const char *path, size_t len)
{
	struct cdm_change saved = {.path = first, .path_len = first_len, .handle = o->handle};
	struct cdm_stamp stamp = {0};
	struct stripes nodes;
	int r;

	set_attr(&saved, &o->st);
	lock_nodes(fs, &nodes, o->id, 0);
	r = !is_at(fs, path, len, o->id) ? -ENOENT : !is_at(fs, first, first_len, o->id) ? -ESTALE : 0;
	if (r == 0 && cdm_stamp_get(o->fd, &stamp) == 0)
		saved.version = stamp.content;
	if (r == 0)
		put_link(fs, &saved, path, len);
	unlock_stripes(&nodes);
	return r;
}

static int record_again(struct fs *fs, int dir, const char *name, struct cdm_change *c)
{
	struct stripes nodes;
	struct dirty d;
	struct cdm_stamp stamp;
	struct object o;
	int r = object_find(fs, dir, name, &o);

	if (r < 0 || o.fd < 0)
		return r < 0 ? r : -ENOENT;
	c->handle = o.handle;
	set_attr(c, &o.st);
	if (o.st.st_nlink > 1)
		c->flags |= CDM_CH_LINKED;
	lock_nodes(fs, &nodes, o.id, 0);
	r = S_ISREG(o.st.st_mode) ? cdm_stamp_get(o.fd, &stamp) : -EINVAL;
	if (r == 0 && !inodes_dirty(fs->nodes, o.id, &d)) {
		c->version = stamp.content;
		r = cdm_journal_put(fs->journal, c);
	}
	unlock_stripes(&nodes);
	object_close(&o);
	return r;
}

int save_again(struct fs *fs, const char *path, size_t len)
{
	struct cdm_change c = {.op = CDM_OP_SAVE, .flags = CDM_CH_WHOLE, .path = path, .path_len = len};
	const char *name;
	int r = -ENOENT;

	if (atomic_load(&fs->read_only))
		return -EROFS;
	pthread_rwlock_rdlock(&fs->tree);
	_cleanup_close_ int dir = cdm_open_parent(fs->store.root_fd, path, len, &name);
	if (dir >= 0 && policy_is_local(fs, path, len))
		c.flags |= CDM_CH_LOCAL;
	if (dir >= 0) {
		_cleanup_free_ char *component = strndup(name, (size_t)(path + len - name));
		c.parent_mtime_ns = mtime_of_parent(fs, path, len);
		r = component ? record_again(fs, dir, component, &c) : -ENOMEM;
	}
	pthread_rwlock_unlock(&fs->tree);
	return r;
}
