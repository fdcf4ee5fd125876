/* SPDX-License-Identifier: Apache-2.0 */
/* mountinfo.h — what is mounted where in this mount namespace, from /proc/self/mountinfo. Asks no filesystem, so that it
 * never waits for a dead or hanging one. */
#ifndef CDMFS_MOUNTINFO_H
#define CDMFS_MOUNTINFO_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include "common/error.h"

struct mount_entry { /* the strings are unescaped and owned by the table */
	int id, parent;
	dev_t dev;
	bool shared;            /* its mounts propagate to other namespaces */
	const char *root;       /* which directory of the filesystem is mounted, "/content" */
	const char *mountpoint;
	const char *type;       /* "fuse.cdmfs" */
	const char *source;     /* the set's name */
};

struct mount_table {
	struct mount_entry *entries;
	size_t count, room;
	char *text;
};

/* Read all. 0 or -errno; the caller frees with mount_table_fini (also a zeroed one). */
int mount_table_read(struct mount_table *ret, struct cdm_error *err);
void mount_table_fini(struct mount_table *t);

/* The topmost mount at exactly this path (canonical), NULL if there is none. Borrowed from the table. */
const struct mount_entry *mount_table_at(const struct mount_table *t, const char *path);
/* The mount that a path (canonical) lies in. NULL only if the table is empty. */
const struct mount_entry *mount_table_of(const struct mount_table *t, const char *path);
const struct mount_entry *mount_table_by_id(const struct mount_table *t, int id);

/* Does `path` equal `dir` or lie below it? Both canonical. */
bool path_is_beneath(const char *path, const char *dir);

#endif
