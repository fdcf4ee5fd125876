/* SPDX-License-Identifier: Apache-2.0 */
/* What all changes of content have in common. */
#include "cdmfs/content.h"

#include <errno.h>
#include <unistd.h>
#include "cdmfs/save.h"
#include "cdmfs/session.h"
#include "cdmfs/settle.h"

static int begin_open(struct content_change *c, uint64_t id)
{
	struct act *a = &c->act;
	struct fs *fs = a->rq->fs;
	struct place_path p;
	struct object o = {.id = id};
	int r = node_borrow(fs, id, DESCRIPTOR_WRITE, &c->file);

	if (r < 0)
		return r;
	if (fstat(c->file->fd, &c->before) < 0)
		return -errno;
	r = path_of_node(fs, id, a->rq->worker->path, &p);
	if (r == -ENAMETOOLONG)
		return r;
	act_set_path(a, &p);
	a->silent |= p.place == PLACE_STAGING && !act_is_announced(a);
	o.fd = c->file->fd;
	o.st = c->before;
	r = act_policy(a);
	return r < 0 ? r : act_expect(a, &o);
}

static int note_unsaved(struct content_change *c, uint64_t id)
{
	struct act *a = &c->act;
	struct cdm_stamp stamp = {0};
	int r;

	if (a->silent || act_is_announced(a))
		return 0;
	if (cdm_stamp_get(c->file->fd, &stamp) < 0)
		stamp = (struct cdm_stamp){0};
	r = inodes_dirty_add(a->rq->fs->nodes, id, &(struct dirty_add){.offset = c->range.offset, .length = c->range.length,
		.base = stamp.content.dot, .truncated = c->truncate, .whole = c->truncate && c->size == 0});
	if (r < 0)
		return r;
	if (!c->by_path)
		inodes_flags(a->rq->fs->nodes, id, NODE_WRITER, 0);
	if (r == 1 || c->by_path)
		saver_expect(a->rq->fs, id, c->by_path);
	return 0;
}

/* What is cut off is gone from the disk as soon as the filesystem likes, so the stamp says first that this is another content: else a power cut
 * in between leaves a part of it that passes for the version it had. (Of a received version the stamp may only come when all of it is there.) */
static int stamp_before_cut(struct content_change *c)
{
	struct act *a = &c->act;
	bool cuts = c->truncate && c->size < (uint64_t)c->before.st_size && !act_is_announced(a);

	return cuts ? act_stamp(a, c->file->fd, true, false) : 0;
}

int content_begin(struct content_change *c, uint64_t id)
{
	struct act *a = &c->act;
	int r = begin_open(c, id);

	if (r < 0)
		return r;
	a->c.handle = (struct cdm_handle){0};
	struct node n;
	if (inodes_find(a->rq->fs->nodes, id, &n))
		a->c.handle = n.handle;
	if (c->truncate && c->size < (uint64_t)c->before.st_size) /* should it grow again, what comes there is new */
		c->range = (struct cdm_range){c->size, (uint64_t)c->before.st_size - c->size};
	if (c->range.length) {
		a->c.ranges = &c->range;
		a->c.range_count = 1;
	}
	if (c->truncate) {
		a->c.flags |= CDM_CH_TRUNCATE;
		a->c.attr.mask = CDM_ATTR_SIZE;
		a->c.attr.size = c->size;
	}
	r = act_begin(a);
	if (r == 0)
		r = note_unsaved(c, id);
	return r < 0 ? r : stamp_before_cut(c);
}

mode_t mode_without_privileges(mode_t mode)
{
	mode_t keep = mode & ~(mode_t)S_ISUID;

	return mode & S_IXGRP ? keep & ~(mode_t)S_ISGID : keep;
}

/* The kernel has the old mode cached and does not expect a write to change it. */
static void kill_privileges(struct content_change *c, uint64_t id)
{
	mode_t keep = mode_without_privileges(c->before.st_mode);

	if (keep == c->before.st_mode)
		return;
	fchmod(c->file->fd, keep & 07777);
	session_invalidate(c->act.rq->fs, id);
}

int64_t content_end(struct content_change *c, uint64_t id, int64_t r, bool kill_suid)
{
	struct act *a = &c->act;
	int e = 0;

	if (a->begun && r >= 0) {
		if (kill_suid && c->before.st_mode & (S_ISUID | S_ISGID))
			kill_privileges(c, id);
		e = act_stamp(a, c->file->fd, true, false);
		settle_result(a->rq, r);
	}
	if (e == 0)
		e = r < 0 ? (int)r : 0;
	e = act_end(a, e);
	node_return(a->rq->fs, c->file);
	c->file = NULL;
	return e < 0 ? e : r;
}
