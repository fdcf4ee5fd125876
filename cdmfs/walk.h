/* SPDX-License-Identifier: Apache-2.0 */
/* walk.h — visiting a tree of the store, one directory at a time, without following links or crossing filesystems; .cdmfs is left out. */
#ifndef CDMFS_WALK_H
#define CDMFS_WALK_H

#include "cdmfs/fs.h"

#define WALK_DEPTH_MAX 2048 /* directories open at once; deeper ones are left out and reported */

struct walk_entry {
	int dirfd;           /* where it lies */
	const char *name;
	const char *path;    /* from the content root */
	size_t len;
	const struct stat *st;
};
/* Called for a directory before its entries. <0 ends the walk with this. */
typedef int walk_fn(struct fs *fs, const struct walk_entry *e, void *arg);

/* Everything below `path` ("" = all), and the object at `path` itself if it is not the root. Names that vanish meanwhile are passed over. */
int walk_tree(struct fs *fs, const char *path, size_t len, walk_fn *fn, void *arg);

#endif
