/* SPDX-License-Identifier: Apache-2.0 */
/* fs.h — what the parts of the server share: the open store, the node table, locks, threads, one request. Server process only.
 *
 * Lock order (each level may be left out, never taken in another order):
 *   1. fs->tree       shared by every operation on names; exclusive when a directory is moved or removed, so that path names in the
 *                     journal mean what they meant at that moment. WRITE does not take it.
 *   2. fs->dir_locks  of the directories whose names change, in ascending order of the stripes
 *   3. fs->node_locks of the inodes whose links or content change, in ascending order of the stripes
 *   4. the mutexes inside the node table, descriptor cache, journal, policy: never held over a call into another part
 * All are released before the request is answered. */
#ifndef CDMFS_FS_H
#define CDMFS_FS_H

#include <linux/fuse.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>
#include "cdmfs/descriptors.h"
#include "cdmfs/inode.h"
#include "common/announce.h"
#include "common/conf.h"
#include "common/journal.h"

#define META_DIR ".cdmfs"
#define ROOT_NODE 1ull           /* the full mount's root: holds "content" and "staging" */
#define MAX_WRITE (1u << 20)
#define DIR_STRIPES 64
#define NODE_STRIPES 256
#define OPCODES_MAX 64
#define FOREVER_S (1ull << 30)   /* cached without expiry */

struct alive;
struct settle;
struct saver;
struct check;
struct recalled;
struct removed;
struct recalled_dots {
	struct cdm_dot *dots; /* sorted once they are all there */
	size_t count;         /* that there ever were: the newest are kept */
};

struct store { /* store.h */
	int root_fd, meta_fd, journal_fd, staging_fd, orphans_fd, conflicts_fd, lock_fd;
	dev_t dev;
	_Atomic uint32_t incarnation; /* a call on the root may set it, one at a time, while others read it */
	bool fresh;              /* `format` was made now */
};

struct fs {
	/* fixed after start */
	int fuse_fd, watch_fd, run_fd;
	char *run_dir;
	const char *set;
	struct cdm_conf *conf;
	const struct cdm_set_conf *set_conf;
	char *node_name;
	uint32_t node_number;
	struct store store;
	uint64_t content_id, staging_id;
	struct cdm_journal *journal;
	struct inodes *nodes;
	struct descriptors *descriptors;
	struct cdm_announce_map *announce;
	struct alive *alive;
	struct settle *settle;
	struct removed *removed;
	struct saver *saver;
	struct check *check;
	struct recalled *recalled;   /* until they are recorded */
	struct recalled_dots confirmed, synced; /* until the check is done: versions (recall.c) */

	pthread_rwlock_t tree;
	pthread_mutex_t dir_locks[DIR_STRIPES], node_locks[NODE_STRIPES];

	pthread_rwlock_t policy_lock;
	struct cdm_policy policy;    /* under policy_lock */
	atomic_bool read_only;       /* = policy.read_only, for the fast path */

	atomic_bool ending;          /* threads stop after the request in hand */
	atomic_bool unmounted;       /* the device says the mount is gone */
	atomic_bool no_dontcache;    /* the store does not take RWF_DONTCACHE */
	_Atomic uint64_t requests[OPCODES_MAX]; /* answered, by opcode; for tests and status */
};

struct worker { /* one thread that answers requests; its own, nobody else looks */
	struct fs *fs;
	pthread_t thread;
	unsigned index;
	uint8_t *in, *out;           /* MAX_WRITE and a page each */
	char *path, *path2;          /* CDM_PATH_MAX each */
	uid_t fsuid;
	gid_t fsgid;
	mode_t umask;
};
#define WORKER_BUFFER (MAX_WRITE + 4096u)

struct request {
	struct fs *fs;
	struct worker *worker;
	uint64_t unique;             /* as journaled: without the resend bit */
	bool resent;
	bool redo;                   /* resent, and a server before may have written at redo_offset: again exactly there */
	uint64_t redo_offset;
	uint64_t node;
	uint32_t opcode, uid, gid, pid;
	const uint8_t *arg;
	size_t arg_len;
	/* the answer */
	const void *data;
	size_t data_len;
	uint64_t counted;            /* node whose lookup count this answer raised: taken back if nobody takes the answer */
	union {
		struct fuse_entry_out entry;
		struct fuse_attr_out attr;
		struct fuse_write_out write;
		struct fuse_statfs_out statfs;
		struct fuse_getxattr_out xattr;
		struct fuse_lseek_out lseek;
		struct {
			struct fuse_entry_out entry;
			struct fuse_open_out open;
		} create;
	} small;
};

/* An operation returns 0 (answer in data), a negative errno, or OP_SILENT (no answer is due). */
const char *opcode_name(uint32_t opcode); /* "LOOKUP", …; NULL for one without an operation here */
#define OP_SILENT 1
typedef int op_fn(struct request *rq);

static inline int request_answer(struct request *rq, const void *data, size_t len)
{
	rq->data = data;
	rq->data_len = len;
	return 0;
}

/* The arguments of a request: a struct at its beginning, then strings. NULL if it is too short. */
const void *request_arg(const struct request *rq, size_t bytes);
/* The string at *offset; moves *offset behind its NUL. NULL if there is none. */
const char *request_string(const struct request *rq, size_t *offset, size_t *ret_len);

/* --- locks (locks.c) --- */
struct stripes {
	pthread_mutex_t *locks[2];
	unsigned count;
};
void lock_dirs(struct fs *fs, struct stripes *s, uint64_t a, uint64_t b);             /* 0 = none */
void lock_nodes(struct fs *fs, struct stripes *s, uint64_t a, uint64_t b);
void unlock_stripes(struct stripes *s);

/* --- signs of life for the holder (alive.c) --- */
int alive_open(struct fs *fs, struct cdm_error *err);
void alive_close(struct fs *fs);
void alive_thread_is(struct worker *w);
/* A request was taken. */
void alive_begin(struct worker *w);
/* From here on it waits for something that may take any time. */
void alive_waits(struct worker *w);
void alive_end(struct worker *w);

/* --- acting as the caller (caller.c) --- */
int caller_prepare_thread(struct worker *w, struct cdm_error *err);
/* From here on the store's filesystem sees the caller as the owner of what is made, and his umask. caller_end: root again. */
void caller_begin(struct request *rq, mode_t umask);
void caller_end(struct request *rq);

/* --- opening what a request names (lookup.c) --- */
/* O_PATH descriptor of a node; the caller closes. -ESTALE: it is gone. */
int node_open_path(struct fs *fs, uint64_t id);
/* The same, or READ or WRITE, from the cache; give it back. */
int node_borrow(struct fs *fs, uint64_t id, enum descriptor_kind kind, struct descriptor **ret);
void node_return(struct fs *fs, struct descriptor *d);
/* The kernel has forgotten the node: drop what was kept for it (orphan.c). */
void node_forgotten(struct fs *fs, uint64_t id);
/* Handle of an open file → node id. */
int node_identify(int fd, struct cdm_handle *ret_handle, uint64_t *ret_id);

struct object { /* a name in a directory, looked at once: what was there */
	int fd;              /* O_PATH, -1 = nothing there */
	struct stat st;
	struct cdm_handle handle;
	uint64_t id;
};
/* 0 (also when nothing is there), -EXDEV: it lies on another filesystem. */
int object_find(struct fs *fs, int dirfd, const char *name, struct object *ret);
void object_close(struct object *o);

void fill_attr(const struct fs *fs, const struct stat *st, uint32_t node_flags, struct fuse_attr *out);
/* Answer with an entry for the object; counts a lookup. */
int answer_entry(struct request *rq, uint64_t parent, const char *name, size_t len, const struct object *o, uint32_t node_flags);
int answer_negative(struct request *rq);
int answer_attr(struct request *rq, uint64_t id, const struct stat *st);
/* A node's attributes: from the store, or what was noted when it was removed. */
int node_stat(struct fs *fs, uint64_t id, struct stat *ret);
/* Is this name hidden or not allowed there? */
bool name_is_hidden(const struct fs *fs, uint64_t parent, const char *name);

/* Remove .cdmfs/orphans/ID of a node the kernel has forgotten; in conflict, keep what was written to it (orphan.c). */
void orphan_name(uint64_t id, char out[32]);
int orphan_keep(struct fs *fs, const struct object *o);
bool orphan_is_kept(struct fs *fs, uint64_t id);
void orphan_drop(struct fs *fs, uint64_t id);
int conflict_keep(struct fs *fs, int fd, const char *path, size_t len, const struct cdm_dot *dot);
void conflict_check(struct fs *fs, uint64_t id);
/* Orphans that a server before left. Listed before anybody is served (a new one is not known to the kernel until its request is
 * answered), then probed: those the kernel has forgotten meanwhile go. The caller frees *ret. */
size_t orphans_list(struct fs *fs, uint64_t **ret);
void orphans_probe(struct fs *fs, const uint64_t *ids, size_t count);
/* All of them: of a mount that is no more. */
void orphans_remove(struct fs *fs);

/* --- removed.c: attributes of a directory or special file, for those who still have it open when it is gone. In RUN/SET/removed, so that
 * the next server knows them, too; noted before the removal, and only asked for when the store does not know the node any more --- */
int removed_open(struct fs *fs, struct cdm_error *err);
void removed_close(struct fs *fs);
void removed_note(struct fs *fs, uint64_t id, const struct stat *st);
bool removed_find(struct fs *fs, uint64_t id, struct stat *ret);

/* --- policy (policy.c) --- */
int policy_reload(struct fs *fs, struct cdm_error *err);
/* Does the path stay on this node (exclude or local patterns)? */
bool policy_is_local(struct fs *fs, const char *path, size_t len);
/* As inodes_path: of all names that are known of it the newest by which the others know it, too; the newest of all if each of them is local. */
int path_that_travels(struct fs *fs, uint64_t id, char *buf, size_t room, struct node_path *ret);

/* --- start-up check (check.c): record what changed since then without a record; known: what the journal has --- */
int check_start(struct fs *fs, int64_t since_ns, const struct cdm_vector *known, struct cdm_error *err);
/* A server before began it and is not done: the same again. */
int check_resume(struct fs *fs, struct cdm_error *err);
/* Until it is over. What others have made meanwhile must not come before: a file that looks like theirs may hold only half of it.
 * False: the server ends before that. */
bool check_wait(struct fs *fs);
/* fs->ending was set. */
void check_wake_waiters(struct fs *fs);
void check_stop(struct fs *fs);
/* recall.c: before the journal is opened, note what it may forget; afterwards record it again, if it did. */
void recall_read(struct fs *fs);
void recall_record(struct fs *fs);
void recall_drop(struct fs *fs);
/* While the check runs: is this a version of another node whose SAVE the journal still has (so it was whole on the disk at the last mark)? */
void recall_confirm(struct fs *fs);
/* What was synced, for a server that goes on with the check: as lines, and back. */
void recall_synced_write(struct fs *fs, FILE *to);
void recall_synced_read(struct fs *fs, const char *text);
bool recall_is_confirmed(const struct fs *fs, struct cdm_dot version);
/* Was this version of this node fsynced since the last mark? */
bool recall_is_synced(const struct fs *fs, struct cdm_dot version);
void recall_confirmed_drop(struct fs *fs); /* both kinds of versions */

/* rescan.c: take over one name that was changed past the mount: an encoded change, SAVE of what lies there (base: the version in its stamp) or
 * UNLINK, RMDIR of what is gone. -ESTALE: it is not so any more, nothing was done. */
int rescan_take(struct fs *fs, const void *bytes, size_t len);

/* --- operations --- */
op_fn op_lookup, op_forget, op_batch_forget, op_getattr, op_statx, op_setattr, op_readlink, op_symlink, op_mknod, op_mkdir, op_unlink, op_rmdir,
	op_rename, op_rename2, op_link, op_tmpfile, op_read, op_write, op_fsync, op_fsyncdir, op_fallocate, op_lseek,
	op_copy_file_range, op_statfs, op_readdir, op_readdirplus, op_setxattr, op_getxattr, op_listxattr, op_removexattr;

/* Nobody took this READDIRPLUS answer: take its lookups back. */
void readdirplus_undo(struct fs *fs, const uint8_t *out, size_t used);

/* Control xattrs of the full mount's root (control.c). */
int control_set(struct request *rq, const char *name, const void *value, size_t len);
int control_get(struct request *rq, const char *name, uint32_t size);
/* user.cdmfs.status of a file. */
int control_file_status(struct request *rq, uint64_t id, uint32_t size);
int answer_xattr(struct request *rq, const void *value, size_t len, uint32_t size);

#endif
