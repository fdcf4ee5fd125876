/* SPDX-License-Identifier: Apache-2.0 */
/* rename in all its forms, and what it means for files that are not saved yet and for the borders of exclude and local patterns. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "cdmfs/act.h"
#include "cdmfs/publish.h"
#include "cdmfs/save.h"
#include "common/faultpoint.h"

struct renaming {
	uint64_t parent2;
	const char *name, *name2;
	size_t len, len2;
	uint32_t flags;              /* RENAME_* */
	int dirfd, dirfd2;
	struct object o, victim;     /* victim: what is at the new name */
	struct node node, victim_node;
	struct place_path path, path2;
	bool local, local2;
	uint64_t note;               /* of a tree that the others are to be told of, 0 = none */
	bool turned;                 /* the record tells of the victim: see record_of_exchange */
};

static bool involves_directory(const struct renaming *m)
{
	return (m->o.fd >= 0 && S_ISDIR(m->o.st.st_mode)) || (m->victim.fd >= 0 && S_ISDIR(m->victim.st.st_mode));
}

static int find_both(struct fs *fs, struct renaming *m)
{
	int r = object_find(fs, m->dirfd, m->name, &m->o);

	if (r == 0)
		r = object_find(fs, m->dirfd2, m->name2, &m->victim);
	if (r == 0 && m->o.fd < 0)
		r = -ENOENT;
	return r;
}

static bool replaces(const struct renaming *m)
{
	return m->victim.fd >= 0 && !(m->flags & RENAME_EXCHANGE);
}

/* Is what the others get of an exchange with an unsaved file a link? The known one takes its new name there and keeps the old until the
 * SAVE of the unsaved one replaces that: at no moment is the name missing (promise 2). Not for directories, and not where the new name
 * is one that the others know, too. */
static bool becomes_link(const struct renaming *m)
{
	const struct object *known = m->node.flags & NODE_NEW ? &m->victim : &m->o;

	return !S_ISDIR(known->st.st_mode) && !((m->node.flags | m->victim_node.flags) & NODE_COVERS);
}

/* An exchange with a file that the others do not know is for them a rename (or link) of the one that they know; the unsaved one comes
 * with its SAVE. The record says just that: from the known one's old name to its new one. False: an exchange as such. */
static bool record_of_exchange(struct act *a, struct renaming *m)
{
	bool unknown = m->node.flags & NODE_NEW, unknown2 = m->victim_node.flags & NODE_NEW;
	struct place_path swap = m->path;

	if (!(m->flags & RENAME_EXCHANGE) || unknown == unknown2 || m->local || m->local2 || act_is_announced(a) || a->silent)
		return false;
	m->turned = unknown;
	if (m->turned) {
		act_set_path(a, &m->path2);
		act_set_path2(a, &swap);
	}
	return true;
}

/* What the record says of subject and victim. */
static void describe(struct act *a, struct renaming *m)
{
	struct cdm_stamp stamp;

	if (record_of_exchange(a, m)) {
		const struct object *known = m->turned ? &m->victim : &m->o;
		if (becomes_link(m)) {
			a->c.op = CDM_OP_LINK;
			a->c.flags |= CDM_CH_LINKED;
		}
		a->c.handle = known->handle;
		if (cdm_stamp_get(known->fd, &stamp) == 0) {
			a->c.version = stamp.content;
			a->c.base = stamp.content.dot;
		}
		act_set_attr(a, &known->st);
		if (S_ISREG(known->st.st_mode) && known->st.st_nlink > 1)
			a->c.flags |= CDM_CH_LINKED;
		return;
	}
	a->c.handle = m->o.handle;
	a->c.rename_flags = m->flags & RENAME_EXCHANGE;
	if (cdm_stamp_get(m->o.fd, &stamp) == 0) {
		a->c.version = stamp.content;
		a->c.base = stamp.content.dot;
	}
	if (m->victim.fd >= 0 && cdm_stamp_get(m->victim.fd, &stamp) == 0)
		a->c.victim = stamp.content.dot;
	if (m->node.flags & NODE_NEW)
		a->c.flags |= CDM_CH_UNSAVED | (m->node.flags & NODE_COVERS && !(m->flags & RENAME_EXCHANGE) ? CDM_CH_COVERS : 0);
	act_set_attr(a, &m->o.st);
	if (S_ISREG(m->o.st.st_mode) && m->o.st.st_nlink > 1)
		a->c.flags |= CDM_CH_LINKED;
}

/* What is replaced by a received version that did not know of it stays in conflicts/; what is no file and no directory is noted as removed. */
static int keep_loser(struct act *a, const struct renaming *m)
{
	struct fs *fs = a->rq->fs;

	if (replaces(m) && !S_ISREG(m->victim.st.st_mode))
		removed_note(fs, m->victim.id, &m->victim.st);
	if (!replaces(m) || S_ISDIR(m->victim.st.st_mode) || !act_is_announced(a) || !(a->an->flags & CDM_AN_KEEP_OLD))
		return 0;
	return conflict_keep(fs, m->victim.fd, m->path2.path, m->path2.len, &a->c.victim);
}

/* A replaced file that the kernel knows gets another name, so that who has it open keeps it. Once the rename is recorded: settling it drops that name
 * again if no more was done. A server that died may have left it all the same, of a call that comes again now. */
static int keep_victim(struct act *a, const struct renaming *m, bool *ret_kept)
{
	struct fs *fs = a->rq->fs;
	int r;

	*ret_kept = false;
	if (!replaces(m) || !S_ISREG(m->victim.st.st_mode) || !m->victim_node.lookups)
		return 0;
	if (m->victim.st.st_nlink > 1 && !orphan_is_kept(fs, m->victim.id))
		return 0;
	r = orphan_keep(fs, &m->victim);
	*ret_kept = r == 0;
	cdm_faultpoint("rename.kept_not_done");
	return r == -ENOSPC || r == -EDQUOT || r == -EMLINK || r == -EXDEV ? 0 : r;
}

/* Which of the two now has a name under which the others know something: of two unsaved ones the names keep that; a known one took
 * its content along, unless the others got a link. */
static void covers_exchanged(struct fs *fs, const struct renaming *m)
{
	bool both = m->node.flags & m->victim_node.flags & NODE_NEW;
	bool one = !both && (m->node.flags | m->victim_node.flags) & NODE_NEW && becomes_link(m);
	bool covers = both ? m->victim_node.flags & NODE_COVERS : one && m->node.flags & NODE_NEW;
	bool covers2 = both ? m->node.flags & NODE_COVERS : one && m->victim_node.flags & NODE_NEW;

	inodes_flags(fs->nodes, m->o.id, covers ? NODE_COVERS : 0, covers ? 0 : NODE_COVERS);
	inodes_flags(fs->nodes, m->victim.id, covers2 ? NODE_COVERS : 0, covers2 ? 0 : NODE_COVERS);
}

static void names_exchanged(struct fs *fs, const struct renaming *m, uint64_t parent)
{
	covers_exchanged(fs, m);
	inodes_name_remove(fs->nodes, m->o.id, parent, m->name, m->len);
	inodes_name_add(fs->nodes, m->o.id, m->parent2, m->name2, m->len2);
	inodes_name_remove(fs->nodes, m->victim.id, m->parent2, m->name2, m->len2);
	inodes_name_add(fs->nodes, m->victim.id, parent, m->name, m->len);
}

/* The victim has lost this name, maybe its last. */
static void victim_gone(struct act *a, struct renaming *m, bool kept)
{
	struct fs *fs = a->rq->fs;
	const struct object *v = &m->victim;

	if (kept && act_is_announced(a) && m->victim_node.flags & (NODE_WRITER | NODE_UNSAVED)) {
		inodes_flags(fs->nodes, v->id, NODE_ORPHAN | NODE_CONFLICT, 0);
	} else if (kept) {
		inodes_flags(fs->nodes, v->id, NODE_ORPHAN, 0);
		inodes_names_clear(fs->nodes, v->id);
	} else {
		inodes_name_remove(fs->nodes, v->id, m->parent2, m->name2, m->len2);
	}
	descriptors_drop(fs->descriptors, v->id);
}

static void names_moved(struct act *a, struct renaming *m, bool kept)
{
	struct fs *fs = a->rq->fs;
	uint64_t parent = a->rq->node;

	if (m->flags & RENAME_EXCHANGE) {
		names_exchanged(fs, m, parent);
		return;
	}
	if (replaces(m))
		victim_gone(a, m, kept);
	if (!S_ISDIR(m->o.st.st_mode)) /* a directory's new name replaces the old one by itself */
		inodes_name_remove(fs->nodes, m->o.id, parent, m->name, m->len);
	inodes_see(fs->nodes, &(struct node_seen){.id = m->o.id, .parent = m->parent2, .name = m->name2, .name_len = m->len2,
		.handle = &m->o.handle, .type = m->o.st.st_mode & S_IFMT});
	if (m->node.flags & NODE_NEW) {
		bool covers = replaces(m) && (!(m->victim_node.flags & NODE_NEW) || m->victim_node.flags & NODE_COVERS) && !m->local2;
		inodes_flags(fs->nodes, m->o.id, covers ? NODE_COVERS : 0, covers ? 0 : NODE_COVERS);
	}
}

/* The path under which something comes out of local or excluded names, and so is new to the others; NULL: nothing does. */
static const struct place_path *comes_out(const struct act *a, const struct renaming *m)
{
	if (act_is_announced(a) || a->silent)
		return NULL;
	if (m->local && !m->local2)
		return &m->path2;
	return m->local2 && !m->local && m->flags & RENAME_EXCHANGE ? &m->path : NULL;
}

static int note_moved(struct act *a, struct renaming *m)
{
	const struct place_path *out = comes_out(a, m);

	return out ? publish_note(a->rq->fs, out->path, out->len, &m->note) : 0;
}

static int rename_act(struct act *a, struct renaming *m)
{
	struct request *rq = a->rq;
	bool kept = false;
	int r;

	describe(a, m);
	r = keep_loser(a, m);
	if (r < 0)
		return r;
	act_parent_before(a, 0, m->dirfd);
	act_parent_before(a, 1, m->dirfd2);
	r = note_moved(a, m);
	if (r == 0)
		r = act_begin(a);
	if (r == 0)
		r = keep_victim(a, m, &kept);
	if (r == 0 && renameat2(m->dirfd, m->name, m->dirfd2, m->name2, m->flags) < 0)
		r = -errno;
	if (r < 0) {
		if (kept)
			orphan_drop(rq->fs, m->victim.id);
		return r;
	}
	cdm_faultpoint("rename.done_not_noted");
	names_moved(a, m, kept);
	if (m->flags & RENAME_EXCHANGE) {
		act_keep_mtime(&m->o);
		act_keep_mtime(&m->victim);
	}
	act_parent_after(a, m->turned, m->dirfd);
	act_parent_after(a, !m->turned, m->dirfd2);
	return act_is_announced(a) ? act_stamp(a, m->o.fd, false, false) : 0;
}

static int rename_found(struct act *a, struct renaming *m)
{
	struct fs *fs = a->rq->fs;
	struct stripes nodes;
	int r = act_expect(a, &m->victim);

	if (r < 0)
		return r;
	if (m->victim.fd < 0 && m->flags & RENAME_EXCHANGE)
		return -ENOENT;
	if (m->victim.fd >= 0 && m->flags & RENAME_NOREPLACE)
		return -EEXIST;
	lock_nodes(fs, &nodes, m->o.id, m->victim.fd >= 0 ? m->victim.id : 0);
	if (fstat(m->o.fd, &m->o.st) < 0 || (m->victim.fd >= 0 && fstat(m->victim.fd, &m->victim.st) < 0))
		r = -errno;
	inodes_find(fs->nodes, m->o.id, &m->node);
	if (m->victim.fd >= 0)
		inodes_find(fs->nodes, m->victim.id, &m->victim_node);
	if (r == 0)
		r = rename_act(a, m);
	unlock_stripes(&nodes);
	return r;
}

static int rename_paths(struct act *a, struct renaming *m)
{
	struct request *rq = a->rq;
	struct fs *fs = rq->fs;
	int r = path_of_name(fs, rq->node, m->name, m->len, rq->worker->path, &m->path);

	if (r == 0)
		r = path_of_name(fs, m->parent2, m->name2, m->len2, rq->worker->path2, &m->path2);
	if (r < 0)
		return r;
	act_set_path(a, &m->path);
	act_set_path2(a, &m->path2);
	if (act_is_announced(a))
		return 0;
	if ((m->path.place == PLACE_STAGING) != (m->path2.place == PLACE_STAGING))
		return -EXDEV; /* only what is announced passes between staging and content */
	a->silent = m->path.place != PLACE_CONTENT;
	m->local = policy_is_local(fs, m->path.path, m->path.len);
	m->local2 = policy_is_local(fs, m->path2.path, m->path2.len);
	return act_policy(a);
}

static void publish_moved(struct fs *fs, const struct act *a, const struct renaming *m)
{
	const struct place_path *out = comes_out(a, m);

	if (out)
		saver_publish_tree(fs, out->path, out->len, m->note);
	else if (m->node.flags & NODE_UNSAVED)
		saver_expect(fs, m->o.id, true);
	if (m->flags & RENAME_EXCHANGE && m->victim_node.flags & NODE_UNSAVED)
		saver_expect(fs, m->victim.id, true);
}

#define TRY_EXCLUSIVE 1 /* a directory is involved and the tree is not locked for that */
#define TRY_PUBLISHED 2 /* the others are still to be told of the old name */

static int rename_look(struct act *a, struct renaming *m, bool exclusive)
{
	struct fs *fs = a->rq->fs;
	int r = find_both(fs, m);

	if (r == 0 && involves_directory(m) && !exclusive)
		return TRY_EXCLUSIVE;
	if (r == 0)
		r = rename_paths(a, m);
	if (r == 0 && !act_is_announced(a) && saver_is_publishing(fs, m->path.path, m->path.len))
		r = TRY_PUBLISHED;
	return r;
}

static int rename_end(struct act *a, struct renaming *m, int r)
{
	r = act_end(a, r);
	if (r == 0 && !act_is_announced(a) && !a->silent)
		publish_moved(a->rq->fs, a, m);
	else
		publish_forget(a->rq->fs, m->note);
	return r;
}

/* TRY_…: not now; 0 or -errno: done. */
static int rename_try(struct request *rq, struct renaming *m, struct act *a, bool exclusive)
{
	struct fs *fs = rq->fs;
	struct descriptor *dir, *dir2 = NULL;
	int r = node_borrow(fs, rq->node, DESCRIPTOR_PATH, &dir);

	if (r < 0)
		return act_end(a, r);
	r = node_borrow(fs, m->parent2, DESCRIPTOR_PATH, &dir2);
	if (r == 0) {
		m->dirfd = dir->fd;
		m->dirfd2 = dir2->fd;
		r = rename_look(a, m, exclusive);
	}
	if (r == 0)
		r = rename_found(a, m);
	if (r <= 0)
		r = rename_end(a, m, r);
	object_close(&m->o);
	object_close(&m->victim);
	node_return(fs, dir2);
	node_return(fs, dir);
	return r;
}

static int rename_any(struct request *rq, struct renaming *m)
{
	struct fs *fs = rq->fs;
	struct stripes names;
	struct act a;
	int r;

	if (rq->node == ROOT_NODE || m->parent2 == ROOT_NODE)
		return -EPERM;
	if (name_is_hidden(fs, rq->node, m->name))
		return -ENOENT;
	if (name_is_hidden(fs, m->parent2, m->name2))
		return -EPERM;
	if (m->len > CDM_NAME_LEN_MAX || m->len2 > CDM_NAME_LEN_MAX)
		return -ENAMETOOLONG;
	if (m->flags & ~(uint32_t)(RENAME_EXCHANGE | RENAME_NOREPLACE))
		return -EINVAL;
	r = act_init(&a, rq, CDM_OP_RENAME, CDM_CALL_RENAME);
	if (r < 0)
		return r;
	for (bool exclusive = false;;) {
		if (exclusive)
			pthread_rwlock_wrlock(&fs->tree);
		else
			pthread_rwlock_rdlock(&fs->tree);
		lock_dirs(fs, &names, rq->node, m->parent2);
		r = rename_try(rq, m, &a, exclusive);
		unlock_stripes(&names);
		pthread_rwlock_unlock(&fs->tree);
		if (r <= 0)
			return r;
		exclusive |= r == TRY_EXCLUSIVE;
		if (r == TRY_PUBLISHED) {
			alive_waits(rq->worker);
			if (!saver_wait_published(fs, m->path.path, m->path.len))
				return OP_SILENT; /* the next server is asked again */
		}
	}
}

static int rename_names(struct request *rq, struct renaming *m, size_t at)
{
	m->o.fd = m->victim.fd = -1;
	m->name = request_string(rq, &at, &m->len);
	m->name2 = m->name ? request_string(rq, &at, &m->len2) : NULL;
	return m->name2 ? rename_any(rq, m) : -EINVAL;
}

int op_rename(struct request *rq)
{
	const struct fuse_rename_in *in = request_arg(rq, sizeof(*in));
	struct renaming m = {.parent2 = in ? in->newdir : 0};

	return in ? rename_names(rq, &m, sizeof(*in)) : -EINVAL;
}

int op_rename2(struct request *rq)
{
	const struct fuse_rename2_in *in = request_arg(rq, sizeof(*in));
	struct renaming m = {.parent2 = in ? in->newdir : 0, .flags = in ? in->flags : 0};

	return in ? rename_names(rq, &m, sizeof(*in)) : -EINVAL;
}
