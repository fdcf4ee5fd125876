/* SPDX-License-Identifier: Apache-2.0 */
/* act.h — one mutating operation: recorded as pending, done, settled. Own changes and announced ones (announce.h) take the same way.
 *
 *   act_init     whose change is it? takes the announcement of an applying thread
 *   act_expect   is what is there what the announcement expects? (own changes: always)
 *   act_begin    journal it as pending
 *   … the system calls, node table …
 *   act_end      settle with the result; always called after act_init, whatever failed in between
 * Paths in `c` must live until act_end. Lifetime: one request, one thread. */
#ifndef CDMFS_ACT_H
#define CDMFS_ACT_H

#include "cdmfs/fs.h"

struct act {
	struct request *rq;
	struct cdm_change c;           /* own change; announced: only handle, as the subject */
	bool silent;                   /* nothing of it is journaled (it happens in staging) */
	bool begun;
	struct cdm_lane *lane;         /* of an applying thread */
	struct cdm_announcement *an;
	uint64_t *positions;           /* of the announced records */
	int64_t parent_mtime_ns[2];    /* announced: before the operation */
};

/* 0; -EPERM: an applying thread makes a call it has not announced; -EPROTO: it has announced another. */
int act_init(struct act *a, struct request *rq, enum cdm_op op, enum cdm_call call);
static inline bool act_is_announced(const struct act *a)
{
	return a->an != NULL;
}
/* o->fd < 0: nothing is there. 0 or -ESTALE. */
int act_expect(struct act *a, const struct object *o);
/* -EROFS: a read-only target, and the path(s) of the change are not local. Sets CDM_CH_LOCAL. Own changes only. */
int act_policy(struct act *a);
int act_begin(struct act *a);
/* Directory number which (0, 1) before and after: records its mtime, or sets it as announced. */
void act_parent_before(struct act *a, unsigned which, int dirfd);
void act_parent_after(struct act *a, unsigned which, int dirfd);
/* A directory in which a name came or went, and nothing was set since: the kernel made its mtime and ctime the same. */
bool act_is_undated(const struct stat *directory);
/* After two names changed places: a directory that only moved keeps its mtime (for xfs its new ".." is a change of it). */
void act_keep_mtime(const struct object *moved);
/* Put the record's version (announced: the announced one) into the subject's stamp: as content, as attributes, or both. */
int act_stamp(struct act *a, int fd, bool content, bool attributes);
/* r: the operation's result. Returns r, or another error if the outcome could not be kept. */
int act_end(struct act *a, int r);

/* A new directory inherits the ACLs of the one above in the store: the others are told what came out, as changes of their own, before the
 * directory itself counts as made. made: its record. Own changes only. */
void act_record_acls(struct fs *fs, int dirfd, const char *name, const struct cdm_change *made);

/* Paths for records: of a node, or of a name in a directory. -ENOENT without a known name only if `must`; else the path is empty. */
struct place_path {
	enum place place;
	const char *path;
	size_t len;
};
int path_of_node(struct fs *fs, uint64_t id, char *buf, struct place_path *ret);
int path_of_name(struct fs *fs, uint64_t parent, const char *name, size_t len, char *buf, struct place_path *ret);
void act_set_path(struct act *a, const struct place_path *p);
void act_set_path2(struct act *a, const struct place_path *p);
/* attr from stat, all but atime. */
void act_set_attr(struct act *a, const struct stat *st);

#endif
