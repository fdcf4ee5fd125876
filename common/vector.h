/* SPDX-License-Identifier: Apache-2.0 */
/* vector.h — dots, versions, the hybrid logical clock and vectors (design.md 2 and 5).
 * A vector says what a node has: each dot up to its number is applied, superseded or skipped by a recorded skip.
 * Version vectors: Parker et al. 1983; dots: Almeida et al. 2012; clock: Kulkarni et al. 2014 (HLC).
 * Threads: none of these types locks; the owner does. */
#ifndef CDM_VECTOR_H
#define CDM_VECTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "common/error.h"

/* Node number (assigned by the master, never reused) in the high 32 bits, incarnation (>= 1) in the low. 0 = none. */
typedef uint64_t cdm_origin;
#define CDM_ORIGIN(node, incarnation) ((cdm_origin)(node) << 32 | (uint32_t)(incarnation))
#define CDM_ORIGIN_NODE(o) ((uint32_t)((o) >> 32))
#define CDM_ORIGIN_INCARNATION(o) ((uint32_t)(o))

/* Names a change everywhere, once. number starts at 1; {0,0} = no change. */
struct cdm_dot {
	cdm_origin origin;
	uint64_t number;
};

/* Which change made a content, and when: clock orders concurrent versions, origin breaks ties. */
struct cdm_version {
	struct cdm_dot dot;
	uint64_t clock;
};

static inline bool cdm_dot_is_none(struct cdm_dot d)
{
	return d.origin == 0;
}
static inline bool cdm_dot_equal(struct cdm_dot a, struct cdm_dot b)
{
	return a.origin == b.origin && a.number == b.number;
}
/* <0, 0, >0: which of two concurrent versions wins (the higher): by clock, then origin, then number. */
int cdm_version_compare(const struct cdm_version *a, const struct cdm_version *b);

/* Hybrid logical clock: Unix time in ns with its low 16 bits replaced by a counter. Thread-safe (one per process).
 * cdm_clock_now() is strictly greater than all it returned or was told before. */
uint64_t cdm_clock_now(void);
/* Learn a peer's clock. Values more than CDM_CLOCK_AHEAD_NS ahead of this node are not followed (returns false). */
bool cdm_clock_observe(uint64_t clock);
#define CDM_CLOCK_AHEAD_NS (60ull * 1000000000ull)
static inline int64_t cdm_clock_to_ns(uint64_t clock)
{
	return (int64_t)(clock & ~0xffffull);
}

/* The clock of a version that the start-up check found after a power cut and that nothing says is whole: any other version wins over it. */
#define CDM_CLOCK_UNSURE 1

/* Sorted by origin, no doubles, no zero numbers. {0} is the empty vector. */
struct cdm_vector {
	struct cdm_dot *entries;
	size_t count, room;
};
#define CDM_VECTOR_MAX 4096 /* origins; more are refused on the wire */

void cdm_vector_fini(struct cdm_vector *v);
void cdm_vector_copy(struct cdm_vector *to, const struct cdm_vector *from);
uint64_t cdm_vector_get(const struct cdm_vector *v, cdm_origin origin); /* 0 = nothing of it */
/* number = max(number, dot.number). Returns whether the vector changed. */
bool cdm_vector_raise(struct cdm_vector *v, struct cdm_dot dot);
bool cdm_vector_covers(const struct cdm_vector *v, struct cdm_dot dot);
bool cdm_vector_covers_all(const struct cdm_vector *v, const struct cdm_vector *other);
/* Does it tell of a later incarnation of that node? */
bool cdm_vector_began_anew(const struct cdm_vector *v, cdm_origin origin);
bool cdm_vector_equal(const struct cdm_vector *a, const struct cdm_vector *b);
void cdm_vector_merge(struct cdm_vector *into, const struct cdm_vector *other); /* element-wise maximum */
void cdm_vector_meet(struct cdm_vector *into, const struct cdm_vector *other);  /* element-wise minimum */

/* Text form for logs and JSON: "3.1:8841 4.2:17" (node number.incarnation:number). */
void cdm_dot_format(struct cdm_dot d, char out[64]);
/* For people: "n1:88" by the node's name, "n1.3:88" for an incarnation after its first; without a name (NULL, "") as above. */
#define CDM_DOT_NAMED_SIZE 128
void cdm_dot_format_named(struct cdm_dot d, const char *name, char out[CDM_DOT_NAMED_SIZE]);
int cdm_dot_parse(const char *text, struct cdm_dot *ret);
/* Allocates; the caller frees. */
char *cdm_vector_format(const struct cdm_vector *v);
int cdm_vector_parse(const char *text, struct cdm_vector *ret);

/* Binary form (little endian): u32 count, then count × (u64 origin, u64 number). */
size_t cdm_vector_encoded_size(const struct cdm_vector *v);
size_t cdm_vector_encode(const struct cdm_vector *v, uint8_t *out); /* returns bytes written */
/* Returns bytes read, or -EBADMSG for anything not well formed (unsorted, too many, truncated, zero). */
int cdm_vector_decode(const uint8_t *in, size_t len, struct cdm_vector *ret);

/* trusted.cdmfs.version of a file or directory: content version, and the version of its attributes (mode, owner,
 * times). CDM_XATTR_VERSION_SIZE bytes; fits an ext4 inode of 256 bytes. For a directory `content` names the
 * change that created it (its id). */
#define CDM_XATTR_VERSION "trusted.cdmfs.version"
#define CDM_XATTR_VERSION_SIZE 44
#define CDM_XATTR_KEPT "trusted.cdmfs.kept" /* of a file in conflicts/ or aside/: the path that it had */
struct cdm_stamp {
	struct cdm_version content;
	uint64_t attr_clock;  /* (attr_clock, attr_origin) orders attribute changes */
	cdm_origin attr_origin;
};
void cdm_stamp_encode(const struct cdm_stamp *s, uint8_t out[CDM_XATTR_VERSION_SIZE]);
int cdm_stamp_decode(const uint8_t *in, size_t len, struct cdm_stamp *ret); /* 0 or -EBADMSG */
/* From an open (not O_PATH) descriptor, or "/proc/self/fd/N" inside for O_PATH. 0; -ENODATA: never versioned. */
int cdm_stamp_get(int fd, struct cdm_stamp *ret);
int cdm_stamp_set(int fd, const struct cdm_stamp *s);

#endif
