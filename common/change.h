/* SPDX-License-Identifier: Apache-2.0 */
/* change.h — one journaled mutation, in memory, and its one encoding, used in the journal and on the wire
 * (journal_format.md). A decoded change points into the buffer it was decoded from.
 *
 * How a file's content travels. Raw content operations (CREATE of a regular file, WRITE: also truncate, fallocate)
 * are recorded when they happen, are never shipped, and put their dot into the file's stamp. When the last writer
 * has closed the file (or it was unmapped, truncated by path, …) the server appends SAVE, which carries the ranges
 * written since the SAVE before it; SAVE is what ships. All other operations ship as they are. */
#ifndef CDM_CHANGE_H
#define CDM_CHANGE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "common/vector.h"

enum cdm_op {
	/* local: never shipped */
	CDM_OP_CREATE = 1,  /* a regular file came to be at path (mknod, O_TMPFILE: empty path) */
	CDM_OP_WRITE = 2,   /* content of `handle` changed in ranges (or truncated to attr.size: CDM_CH_TRUNCATE) */
	CDM_OP_MARK = 3,    /* checkpoint: everything in `vector` is durable in the store */
	CDM_OP_BARRIER = 4, /* every close before the barrier file's close has its SAVE before this; `path` = its name */
	CDM_OP_CLEAN = 5,   /* last record of a clean end; `vector` = all applied */
	CDM_OP_SYNCED = 6,  /* an fsync is done: the content `version` is on the disk */
	/* shipped */
	CDM_OP_SAVE = 16,     /* path has content `version` (whole if CDM_CH_WHOLE, else ranges on `base`) */
	CDM_OP_MKDIR = 17,
	CDM_OP_RMDIR = 18,
	CDM_OP_UNLINK = 19,
	CDM_OP_RENAME = 20,   /* path -> path2; `rename_flags` (RENAME_EXCHANGE); `victim` = what was replaced at path2 */
	CDM_OP_LINK = 21,     /* path2 becomes another name of the file at path */
	CDM_OP_SYMLINK = 22,  /* path; value = target */
	CDM_OP_MKNOD = 23,    /* fifo, socket, device at path (attr.mode, attr.rdev) */
	CDM_OP_SETATTR = 24,  /* attr fields named in attr.mask */
	CDM_OP_SETXATTR = 25, /* name, value (ACLs are system.posix_acl_*) */
	CDM_OP_REMOVEXATTR = 26,
	CDM_OP_SKIP = 27,     /* dot is superseded, filtered or lost a conflict: nothing to do, the vector moves */
};
static inline bool cdm_op_ships(enum cdm_op op)
{
	return op >= CDM_OP_SAVE;
}
const char *cdm_op_name(enum cdm_op op); /* "SAVE", …; "?" for an unknown number */

enum cdm_change_flags {
	CDM_CH_RECEIVED = 1 << 0,  /* made elsewhere, applied here (journal only) */
	CDM_CH_UNSAVED = 1 << 1,   /* the subject was never saved: other nodes do not know it; do not ship this record */
	CDM_CH_COVERS = 1 << 2,    /* the subject took the name of a file other nodes know (rename over it) before it was saved: with UNSAVED,
				    * unlink and rename-away must still remove that name there; with SAVE, it replaces that file */
	CDM_CH_NEW = 1 << 3,       /* SAVE: first save of this file */
	CDM_CH_WHOLE = 1 << 4,     /* SAVE: ranges do not describe it; ship the whole */
	CDM_CH_TRUNCATE = 1 << 5,  /* WRITE: size set to attr.size;  SAVE: the file was also cut or grown to attr.size */
	CDM_CH_LOCAL = 1 << 6,     /* path matches a local or exclude pattern of the set: do not ship */
	CDM_CH_RECOVERED = 1 << 7, /* found by the start-up check, not seen as it happened */
	CDM_CH_LINKED = 1 << 8,    /* the subject has more than one name */
	CDM_CH_OVERTAKEN = 1 << 9, /* SKIP: path (path2, where there is one) has not what this change made, for the next write came before it could
				    * be had: the save of that brings it */
};

enum cdm_attr_mask {
	CDM_ATTR_MODE = 1, CDM_ATTR_UID = 2, CDM_ATTR_GID = 4, CDM_ATTR_SIZE = 8, CDM_ATTR_MTIME = 16, CDM_ATTR_ATIME = 32,
};
struct cdm_attr {
	uint32_t mask; /* which fields are meant (enum cdm_attr_mask) */
	uint32_t mode, uid, gid, nlink;
	uint64_t size, rdev;
	int64_t mtime_ns, atime_ns; /* since the epoch, may be negative */
};

struct cdm_range {
	uint64_t offset, length;
};
#define CDM_RANGES_MAX 64       /* more become CDM_CH_WHOLE */
#define CDM_PATH_MAX 65536      /* bytes of a whole path in a record; deeper is refused with ENAMETOOLONG */
#define CDM_NAME_LEN_MAX 255
#define CDM_VALUE_MAX 65536     /* xattr value, symlink target */
#define CDM_HANDLE_MAX 32

/* A file handle of the store (name_to_handle_at); local, never on the wire. len 0 = none. */
struct cdm_handle {
	uint8_t len, type, bytes[CDM_HANDLE_MAX];
};
static inline bool cdm_handle_equal(const struct cdm_handle *a, const struct cdm_handle *b)
{
	return a->len == b->len && a->type == b->type && __builtin_memcmp(a->bytes, b->bytes, a->len) == 0;
}
/* open_by_handle_at / name_to_handle_at (AT_EMPTY_PATH when name is ""). Return fd or 0, or -errno. */
int cdm_handle_open(int store_fd, const struct cdm_handle *h, int flags);
int cdm_handle_get(int dirfd, const char *name, struct cdm_handle *ret);

enum cdm_outcome { CDM_PENDING = 0, CDM_DONE = 1, CDM_FAILED = 2 };

struct cdm_change {
	enum cdm_op op;
	uint32_t flags;            /* enum cdm_change_flags */
	struct cdm_dot dot;        /* given by the journal for own changes */
	uint64_t clock;            /* hybrid logical clock; given by the journal for own changes */
	struct cdm_version version; /* content after (SAVE), of the subject otherwise; none for never versioned */
	struct cdm_dot base;       /* SAVE: content version this builds on (none: new);  others: the subject's version */
	struct cdm_dot victim;     /* content version of what was replaced at the final name (rename over) */
	struct cdm_attr attr;
	int64_t parent_mtime_ns, parent2_mtime_ns; /* of path's / path2's directory after the operation, 0 = not told */
	uint32_t rename_flags;

	const char *path;  size_t path_len;   /* relative to the content root, any bytes but NUL, no leading '/', no "."/".." */
	const char *path2; size_t path2_len;
	const char *name;  size_t name_len;   /* xattr name */
	const void *value; size_t value_len;  /* xattr value, symlink target */
	const struct cdm_range *ranges; size_t range_count; /* sorted, disjoint */
	const struct cdm_vector *context;     /* what the origin had applied when it changed; NULL = as in its change before */
	const struct cdm_vector *vector;      /* MARK, CLEAN */

	/* journal only, never on the wire */
	struct cdm_handle handle;  /* the subject's */
	uint64_t request;          /* FUSE request number, 0 = none */
	enum cdm_outcome outcome;
	int32_t error;             /* errno of a FAILED change */
	uint64_t sequence;         /* running number of the record in this node's journal */
	uint64_t position;         /* byte position in the journal stream (a cursor: reading may start here) */
	uint64_t next_position;

	/* owned by a decoded change; see cdm_change_fini */
	struct cdm_range *ranges_mem;
	struct cdm_vector context_mem, vector_mem;
	uint8_t *bytes_mem;        /* the bytes it points into, where nobody else keeps them (cdm_journal_peek) */
};

/* Wire form: everything but the journal-only part. encode returns bytes, decode bytes read or -EBADMSG; decode checks
 * every length and that paths are relative, normal and free of "..", ".", empty components and NUL (an empty path is
 * the root or an unnamed file, where the operation allows it). encoded_max and encode return 0 for a change that
 * decode would refuse. Absent strings are decoded as "". A decoded change with a context or vector points into
 * itself: do not copy the struct. */
size_t cdm_change_encoded_max(const struct cdm_change *c);
size_t cdm_change_encode(const struct cdm_change *c, uint8_t *out);
int cdm_change_decode(const uint8_t *in, size_t len, struct cdm_change *ret);
/* Only operation, dot and clock, without looking at the rest. 0 or -EBADMSG. */
struct cdm_change_head {
	enum cdm_op op;
	struct cdm_dot dot;
	uint64_t clock;
};
int cdm_change_decode_head(const uint8_t *in, size_t len, struct cdm_change_head *ret);
void cdm_change_fini(struct cdm_change *c); /* frees ranges_mem, context_mem, vector_mem, bytes_mem */

/* 0, or -EBADMSG: is this a path that may be used beneath a set's root? Also refuses ".cdmfs" as first component. */
int cdm_path_check(const char *path, size_t len);
/* dir/name, or name where dir is the root (dir_len 0), with a NUL behind it; the caller frees. Never NULL. */
char *cdm_path_join(const char *dir, size_t dir_len, const char *name, size_t name_len, size_t *ret_len);

/* Bytes of content that a SAVE carries: the whole, or its ranges as far as they lie within the file (what was cut off is beyond). 0: no SAVE. */
uint64_t cdm_change_content_bytes(const struct cdm_change *c);

/* Ranges helper: insert [offset, offset+length) into a sorted disjoint list, merging; returns the new count, or
 * CDM_RANGES_MAX + 1 if it would not fit (the caller then means "whole"). */
size_t cdm_ranges_add(struct cdm_range *ranges, size_t count, uint64_t offset, uint64_t length);

#endif
