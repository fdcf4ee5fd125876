/* SPDX-License-Identifier: Apache-2.0 */
/* announce.h — how the replicator tells the mount's server which calls it is about to make (design.md 4 "Applying").
 *
 * RUN/SET/announce is a mapped file in memory (root only) with a few lanes. An applying thread claims a lane with its
 * thread id, announces in order the calls it will make through the full mount, then makes them, one after the other.
 * The server finds the lane by the thread id of the FUSE request, takes the lane's next announcement, refuses the call if it is not the
 * announced one (EPROTO) or if what it finds is not what was expected (ESTALE; `found` says what is there), otherwise
 * journals the announced records as pending, acts, settles, and answers. Announcements stay until overwritten, so that a request
 * resent after the server's death finds its own (by `request`).
 *
 * Only mutating calls are announced; lookups, stats and reads of an applying thread are served as anybody's. A
 * mutating call of a claimed thread without an announcement gets EPERM.
 * What becomes visible with a call is described by records (wire-encoded changes with journal handle) in the lane's data area:
 * usually one; many for a directory that was assembled in staging/; none for a step whose record comes with a later step. */
#ifndef CDM_ANNOUNCE_H
#define CDM_ANNOUNCE_H

#include <sys/types.h>
#include "common/change.h"

enum cdm_call { /* the FUSE operation announced */
	CDM_CALL_RENAME = 1, CDM_CALL_MKDIR, CDM_CALL_RMDIR, CDM_CALL_UNLINK, CDM_CALL_LINK, CDM_CALL_SYMLINK, CDM_CALL_MKNOD,
	CDM_CALL_SETATTR, CDM_CALL_SETXATTR, CDM_CALL_REMOVEXATTR, CDM_CALL_WRITE, CDM_CALL_FALLOCATE,
};

enum cdm_expect { CDM_EXPECT_ANY = 0, CDM_EXPECT_ABSENT = 1, CDM_EXPECT_VERSION = 2 };

enum cdm_announce_flags {
	CDM_AN_ATTR_ORDER = 4, /* refused where the attributes are of a later (clock, origin) than attr_clock, attr_origin */
	CDM_AN_KEEP_OLD = 1,   /* what is replaced or removed is kept: linked into .cdmfs/conflicts/ first */
	CDM_AN_SAVED = 8,      /* with CDM_EXPECT_VERSION: refused where what is found has content that was not saved yet */
	CDM_AN_PART = 16,      /* SETATTR: another call of the same change follows, and only the last one sets the clock of the attributes: who reads the
				* stamp before them must never take old ones for those of a newer clock */
	CDM_AN_MTIME_SEEN = 32, /* SETATTR: its mtime was parent_mtime_ns; is it another one by now, and later than what is to be set, it stays */
	CDM_AN_MORE = 2,       /* WRITE: may arrive as several FUSE WRITE requests; all of them match this announcement until
				* `bytes` bytes have come */
};

enum cdm_announce_state { CDM_AN_FREE = 0, CDM_AN_READY = 1, CDM_AN_BUSY = 2, CDM_AN_DONE = 3, CDM_AN_REFUSED = 4 };

#define CDM_ANNOUNCE_FILE "announce"
#define CDM_LANES 8
#define CDM_LANE_SLOTS 64           /* power of two */
#define CDM_LANE_DATA (512u << 10)  /* bytes for encoded records, a ring of its own */

struct cdm_announcement { /* shared memory, fixed layout, native endian */
	uint32_t call;          /* enum cdm_call */
	uint32_t flags;         /* enum cdm_announce_flags */
	_Atomic uint32_t state; /* enum cdm_announce_state */
	uint32_t expect;        /* enum cdm_expect, of the object at the final name (rename, create) or of the subject */
	struct cdm_dot expect_version;
	struct cdm_version stamp; /* SETATTR, WRITE, SETXATTR: content version to put into the subject's stamp; none: leave it */
	uint64_t attr_clock;    /* and its attribute version; 0: leave it */
	cdm_origin attr_origin;
	int64_t parent_mtime_ns, parent2_mtime_ns; /* the server raises the directories' mtimes to these: max(before, this); 0 = restore */
	uint64_t bytes;         /* WRITE: total length */
	uint32_t record_offset, record_bytes, record_count; /* in the lane's data: count × (u32 length, encoded change, u8 handle
							      * length, u8 handle type, handle bytes) */
	/* answers */
	int32_t result;         /* 0 or -errno */
	uint64_t request;       /* FUSE request number that took it */
	struct cdm_version found; /* when refused: what is at the name; none = absent or never versioned */
	uint32_t found_exists, found_unsaved, found_is_dir;
	uint32_t spare;
};

struct cdm_lane {
	_Atomic uint64_t owner; /* 0 = free; low half: the applying thread's id, high half: when it started (ids are reused) */
	_Atomic uint64_t seen_ms; /* the owner was alive then (CLOCK_MONOTONIC) */
	_Atomic uint64_t head;  /* announcements made (replicator) */
	_Atomic uint64_t taken; /* announcements taken (server) */
	struct cdm_announcement slots[CDM_LANE_SLOTS];
	uint8_t data[CDM_LANE_DATA];
};

struct cdm_announce_map {
	uint64_t magic;
	uint32_t version, lanes;
	struct cdm_lane lane[CDM_LANES];
};
#define CDM_ANNOUNCE_MAGIC 0x31636e6e616d6463ull

/* Map RUN/SET/announce, creating it (0600) if it is missing. Both sides. */
int cdm_announce_open(const char *run_dir, struct cdm_announce_map **ret, struct cdm_error *err);
void cdm_announce_close(struct cdm_announce_map **m);

/* Replicator: claim a free lane (or one whose thread is gone) for this thread. NULL when all are taken, or without /proc. */
struct cdm_lane *cdm_lane_claim(struct cdm_announce_map *m);
void cdm_lane_release(struct cdm_lane *lane);
/* Announce one call with its records (each change with its handle; record i uses changes[i]). `a` gives the fields up to `bytes`.
 * Returns the slot number for cdm_lane_result, or -EAGAIN when the lane is full (make the announced calls first), or
 * -EMSGSIZE when these records do not fit even an empty lane. */
int cdm_lane_announce(struct cdm_lane *lane, const struct cdm_announcement *a, const struct cdm_change *changes, size_t count);
/* After the system call returned: the answer. A call that failed before it reached the server leaves it READY: then it is withdrawn here
 * and its state returned as CDM_AN_READY. BUSY likewise: a WRITE of which not all has come. Read each slot's answer before the lane
 * has gone once around (CDM_LANE_SLOTS announcements). */
enum cdm_announce_state cdm_lane_result(struct cdm_lane *lane, int slot, struct cdm_announcement *ret);

/* Server side. find: by the request's thread id (NULL = not an applying thread, also when the id was reused since). peek: next READY or
 * BUSY one, NULL = none. */
struct cdm_lane *cdm_lane_find(struct cdm_announce_map *m, pid_t tid);
struct cdm_announcement *cdm_lane_peek(struct cdm_lane *lane);
/* An announcement already taken by this request number (resent)? */
struct cdm_announcement *cdm_lane_find_request(struct cdm_lane *lane, uint64_t request);
void cdm_lane_taken(struct cdm_lane *lane, struct cdm_announcement *a); /* after state is DONE or REFUSED */
/* Decode record i (0 …) into *ret, which points into the lane's data. 0 or -EBADMSG. */
int cdm_lane_record(const struct cdm_lane *lane, const struct cdm_announcement *a, size_t index, struct cdm_change *ret);

#endif
