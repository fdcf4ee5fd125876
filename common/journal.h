/* SPDX-License-Identifier: Apache-2.0 */
/* journal.h — ordered, durable log of the changes of one set on this node (design.md 5, promise 1; journal_format.md).
 *
 * The journal is one stream of records. Its newest part, the tail, is a ring in a mapped file in memory
 * (RUN/SET/tail) that outlives every program; one thread of the writer copies settled records to preallocated
 * segments STORE/.cdmfs/journal/NNNNNNNN.log and syncs them in groups. Writer: the mount's server, one process.
 * Readers: the replicator, tools; they map the tail and read segments for what has left it.
 *
 * A record is appended *pending*, the operation is done, the record is settled with its outcome. Readers see records
 * in order and only up to the first pending one (the frontier).
 * Threads: append, settle, sync may be called by any thread of the writer; a reader belongs to one thread. */
#ifndef CDM_JOURNAL_H
#define CDM_JOURNAL_H

#include "common/change.h"

/* How large a journal may grow that lies in this directory: as configured, or (0) 512 MiB, but at most an eighth of its filesystem, which is there
 * for the content. */
uint64_t cdm_journal_limit(uint64_t configured, int dir_fd);

struct cdm_journal;
struct cdm_journal_reader;

struct cdm_journal_conf {
	int journal_dir_fd;      /* STORE/.cdmfs/journal, borrowed for the journal's life */
	const char *run_dir;     /* RUN/SET: holds "tail" (this) and the FIFO "wake" (created if missing) */
	uint32_t node_number;
	uint32_t incarnation;    /* of the last clean run; the journal may report that a new one is needed */
	uint64_t tail_bytes;     /* capacity of the ring, power of two, default 16 MiB */
	uint64_t segment_bytes;  /* default 16 MiB, less where max_bytes is small by default */
	uint64_t max_bytes;      /* all segments together, 0 = cdm_journal_limit; the oldest go first, never past keep_position
				  * unless over max_bytes (then a reader behind gets -ESTALE and must resynchronise). On a full disk
				  * all goes that nobody needs */
	unsigned sync_interval_ms; /* 100 */
	bool cut_to_mark;        /* where the tail was lost, forget what the last mark does not cover: the store may lack it,
				  * although the journal has it, and only what is not counted is fetched again */
};

struct cdm_journal_state { /* what open found */
	bool tail_alive;         /* the writer died, nothing was lost: pending records must be settled */
	bool clean;              /* the last writer closed it; an empty journal is not clean */
	bool torn;               /* a torn end was cut */
	struct cdm_vector applied, durable; /* from the last MARK/CLEAN on; durable = that mark */
	int64_t mark_ns;         /* wall clock of the last MARK, 0 = none */
	uint64_t records;        /* so many had to be read to know what is applied */
};

/* Open for writing. On a dead tail after an unclean end (with cut_to_mark `applied` is `durable` then, and the caller finds
 * out itself, before this call with a reader, what own changes are forgotten) the caller must raise the incarnation
 * (cdm_journal_set_incarnation) before the first append. -EBADMSG: a damaged middle; err says which segment and offset.
 * -EBUSY: another writer holds it. */
int cdm_journal_open(const struct cdm_journal_conf *conf, struct cdm_journal **ret, struct cdm_journal_state *ret_state,
	struct cdm_error *err);
void cdm_journal_set_incarnation(struct cdm_journal *j, uint32_t incarnation);
cdm_origin cdm_journal_origin(const struct cdm_journal *j);

/* Append one change as pending. For own changes (dot.origin == 0) assigns dot and clock and writes them back to *c
 * together with position; their context is the journal's to record (c->context is NULL afterwards). Received ones
 * keep their dot, clock and context (the clock is observed) and get CDM_CH_RECEIVED. MARK, BARRIER and CLEAN change
 * nothing and take no number: their dot stays none. A memory copy, well under a microsecond. 0; -ENOSPC (tail full
 * because the disk does not take it: the call must fail, nothing was recorded); -EIO (a sync failed: the journal
 * takes nothing more until the next start); -EINVAL (no sound change: a bad path, a length beyond its limit). May
 * wait for the flusher when the ring is full; never longer than 5 s. */
int cdm_journal_append(struct cdm_journal *j, struct cdm_change *c);

/* Give the record at c->position its outcome; for DONE these parts of *c are written back into the record's result
 * area: handle, version, parent_mtime_ns, parent2_mtime_ns, attr (pass the *c of the append, completed). Once per
 * record. A received change that FAILED does not raise the applied vector; an own number is used up either way. Wakes
 * readers. */
void cdm_journal_settle(struct cdm_journal *j, const struct cdm_change *c, enum cdm_outcome outcome, int error);

/* Append and settle at once: for records without an operation (SAVE, SKIP, MARK, BARRIER). */
int cdm_journal_put(struct cdm_journal *j, struct cdm_change *c);

/* Block until everything appended before the call that is settled, and everything pending before it, is on stable
 * storage. Group commit. 0; -EIO (final: never retried and then called safe); -ENOSPC (the disk did not take it for 5
 * s; may be called again). */
int cdm_journal_sync(struct cdm_journal *j);

/* Walk the pending records after a writer's death, oldest first; settle each. 1 = got one, 0 = no more. */
int cdm_journal_next_pending(struct cdm_journal *j, struct cdm_change *ret);
/* Decode the record at `position` if it is still in the tail. 0, -ESTALE. For matching a resent request. These two
 * changes are copies: cdm_change_fini them. */
int cdm_journal_peek(struct cdm_journal *j, uint64_t position, struct cdm_change *ret);

/* Copy of what is applied now (own and received). Caller finis. */
void cdm_journal_applied(struct cdm_journal *j, struct cdm_vector *ret);

struct cdm_journal_stats {
	uint64_t head_position, frontier_position, synced_position, oldest_position, keep_position, records, bytes;
};
void cdm_journal_stats(struct cdm_journal *j, struct cdm_journal_stats *ret);

/* Writes CLEAN, syncs, marks the tail as closed and removes it. -EBUSY: a record is still pending; then, and after
 * -EIO, the tail stays and the next open takes it up. *j is gone in any case. */
int cdm_journal_close(struct cdm_journal **j, struct cdm_error *err);

/* --- readers --- */
/* Works while the writer is dead too (then up to the frontier). run_dir may lack a tail (then segments only). */
int cdm_journal_reader_open(int journal_dir_fd, const char *run_dir, struct cdm_journal_reader **ret,
	struct cdm_error *err);
void cdm_journal_reader_close(struct cdm_journal_reader **r);
/* Start at a position; 0 = the oldest that is there. CDM_JOURNAL_LAST_MARK: at the first record that the last MARK or
 * CLEAN does not cover: itself, or one before it that was recorded after its maker had noted the vector (so the mark
 * may come later, and what it covers may come before it). CDM_JOURNAL_FRONTIER: after the last settled record. 0;
 * -ESTALE: no record begins there (any more). */
#define CDM_JOURNAL_LAST_MARK UINT64_MAX
#define CDM_JOURNAL_FRONTIER (UINT64_MAX - 1)
int cdm_journal_reader_seek(struct cdm_journal_reader *r, uint64_t position);
uint64_t cdm_journal_reader_position(const struct cdm_journal_reader *r);
/* Next settled record (FAILED ones are skipped). The change is a private copy, valid until the next call.
 * 1; 0 at the frontier; -ESTALE position no longer there; -EBADMSG damaged; -ENODATA the tail was replaced by a new
 * writer run (close and open again). */
int cdm_journal_reader_next(struct cdm_journal_reader *r, struct cdm_change *ret);
/* Is an operation on this file under way: recorded, not settled? Looks only at what lies between the frontier and the head, so the
 * cost does not grow with what a reader has yet to read. Together with the file's stamp, read *after* this call, it
 * tells whether content read before is of one version (design.md 4): an operation that began before this call is either pending
 * now or has put its dot into the stamp. 1 yes, 0 no, -ESTALE: overtaken by the writer, ask again. */
int cdm_journal_reader_pending(struct cdm_journal_reader *r, const struct cdm_handle *h);
/* A descriptor that becomes readable when records were settled after arm() returned 0 (a FIFO of this reader's own in
 * RUN/SET, wake or wake.N, opened O_RDWR|O_NONBLOCK; also when a writer comes where there was none). arm: 1 = there
 * is already something to read, do not wait. Drain with read(2) on wake. */
int cdm_journal_reader_wake_fd(struct cdm_journal_reader *r);
int cdm_journal_reader_arm(struct cdm_journal_reader *r);
/* Tell the writer that nothing before `position` is needed by a known target any more. */
void cdm_journal_reader_keep(struct cdm_journal_reader *r, uint64_t position);
/* The writer's head (position after the newest appended record), for bytes pending. */
uint64_t cdm_journal_reader_head(const struct cdm_journal_reader *r);

#endif
