/* SPDX-License-Identifier: Apache-2.0 */
/* inode.h — the node table: what the kernel knows of the mount, and what of it is not saved yet (design.md 4 "Nodes").
 *
 * One entry per node id: file handle, names with their directories, lookup count, and, while a file has unsaved content, what
 * was written since. It lies in a mapped file in memory (RUN/SET/nodes), so it outlives the server: a SIGKILL at any instant leaves it
 * usable (every change becomes visible by one store; index, free lists and reference counts are rebuilt at open).
 * Entries go when the kernel forgets them, unless something still needs them: children that name them as their directory,
 * unsaved content, a pin. About 90 bytes per entry.
 * Threads: any; one mutex inside, never held over a system call but the growth of the file. */
#ifndef CDMFS_INODE_H
#define CDMFS_INODE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "common/change.h"

enum node_flags {
	NODE_UNSAVED = 1 << 0,  /* content changed since its last SAVE */
	NODE_NEW = 1 << 1,      /* never saved: no other node knows the file */
	NODE_COVERS = 1 << 2,   /* NEW, and it took the name of a file that others know */
	NODE_ORPHAN = 1 << 3,   /* has no name but is open or cached: linked as .cdmfs/orphans/ID; one link less is reported */
	NODE_CONFLICT = 1 << 4, /* ORPHAN that a received version replaced: later writes go to conflicts/; its names say where it was */
	NODE_WRITER = 1 << 5,   /* written through a descriptor whose close was not seen yet */
	NODE_BARRIER = 1 << 6,  /* a barrier file in staging: kept until its close was seen, also when removed and forgotten */
	NODE_PINNED = 1 << 7,   /* content and staging: never removed */
};

struct node { /* a copy of an entry */
	uint64_t id, lookups;
	uint32_t flags, type; /* type: S_IFMT bits */
	struct cdm_handle handle;
	bool named;           /* has a name (in CONFLICT: had) */
};

struct dirty { /* unsaved content of a file */
	int64_t since_ns, last_ns; /* CLOCK_MONOTONIC of the first and the last change */
	struct cdm_dot base;       /* content version before the first change, none = new or never versioned */
	uint32_t whole, truncated; /* the ranges do not describe it; the size was set */
	uint32_t count;
	struct cdm_range ranges[CDM_RANGES_MAX];
};

struct inodes;

/* The node id of what has this handle of the store. Where a handle is 8 bytes (ext4) it is the id; longer ones are hashed (XXH3-64) with all that is in them: xfs
 * gives an inode number to the next file at once, so only number and generation together mean one file. Never 0 or 1 (none; the root of the mount). */
uint64_t inodes_id(const struct cdm_handle *h);

/* Opens what is there; a new mount looks through what the last one left unsaved (inodes_next) and then empties it (inodes_clear).
 * Paths end at the ids of set_roots. */
int inodes_open(int run_fd, struct inodes **ret, struct cdm_error *err);
void inodes_close(struct inodes **t);
void inodes_clear(struct inodes *t);
void inodes_set_roots(struct inodes *t, uint64_t content, uint64_t staging);

/* Add or complete an entry with a name and `lookups` lookups more. flags are set in addition. 0 or -ENOMEM; -EIO: the id is that of
 * another handle (two of a million do not meet once in ten million trees; the second one cannot be looked at while the first one is known). */
struct node_seen {
	uint64_t id, parent; /* parent 0: no name */
	const char *name;
	size_t name_len;
	const struct cdm_handle *handle;
	uint32_t type, flags;
	uint64_t lookups;
};
int inodes_see(struct inodes *t, const struct node_seen *seen);
/* Copy out; false: no such entry. */
bool inodes_find(struct inodes *t, uint64_t id, struct node *ret);
/* The kernel forgot `count` lookups. Returns true if none is left; the entry stays until inodes_release. */
bool inodes_forget(struct inodes *t, uint64_t id, uint64_t count);
/* Remove the entry if nothing needs it (see above), and directories that were kept only for it. */
void inodes_release(struct inodes *t, uint64_t id);
void inodes_flags(struct inodes *t, uint64_t id, uint32_t set, uint32_t clear);

/* Names. An entry keeps the NODE_NAMES_MAX newest. */
#define NODE_NAMES_MAX 16
int inodes_name_add(struct inodes *t, uint64_t id, uint64_t parent, const char *name, size_t len);
void inodes_name_remove(struct inodes *t, uint64_t id, uint64_t parent, const char *name, size_t len);
/* Which entry has this name? 0 = none. Looks at all entries: for settling after a crash only. `except` is passed over. */
uint64_t inodes_name_owner(struct inodes *t, uint64_t parent, const char *name, size_t len, uint64_t except);
void inodes_names_clear(struct inodes *t, uint64_t id);

/* Where a path lies. */
enum place { PLACE_NONE = 0, PLACE_CONTENT = 1, PLACE_STAGING = 2 };
/* The path of name number `which` (0 = newest) of an entry, relative to content or staging, into buf (not terminated by NUL).
 * 0; -ENOENT: no (such) name, or a directory above is unknown; -ENAMETOOLONG. The roots themselves have the path "". */
struct node_path {
	enum place place;
	char *path; /* inside buf */
	size_t len;
};
int inodes_path(struct inodes *t, uint64_t id, unsigned which, char *buf, size_t room, struct node_path *ret);

/* Unsaved content. add: [offset, offset + length) was written (length 0: only the size was set); `base` counts at the first one. Returns
 * 1 if the file was clean before, 0, or -ENOMEM. */
struct dirty_add {
	uint64_t offset, length, size; /* size: of the file after */
	struct cdm_dot base;
	bool whole, truncated;
};
int inodes_dirty_add(struct inodes *t, uint64_t id, const struct dirty_add *add);
bool inodes_dirty(struct inodes *t, uint64_t id, struct dirty *ret);
/* Forget ranges, UNSAVED, NEW, COVERS. */
void inodes_dirty_clear(struct inodes *t, uint64_t id);

/* Walk all entries: *cursor starts at 0. false at the end. Entries added or removed meanwhile may or may not be seen. */
bool inodes_next(struct inodes *t, uint32_t *cursor, struct node *ret);
uint64_t inodes_count(struct inodes *t);

#endif
