/* SPDX-License-Identifier: Apache-2.0 */
/* journal_writer.h — the writer's side of a journal, between journal.c (append, settle), journal_flush.c (the thread
 * that takes settled records to the segments) and journal_open.c (what a new writer finds). */
#ifndef CDM_JOURNAL_WRITER_H
#define CDM_JOURNAL_WRITER_H

#include <pthread.h>
#include "common/journal_record.h"
#include "common/journal_resume.h"
#include "common/journal_segments.h"
#include "common/journal_tail.h"

#define APPEND_WAIT_MS 5000

enum flusher_wait { FLUSHER_RUNS, FLUSHER_IDLE, FLUSHER_GATHERS };

struct cdm_journal {
	/* fixed after open */
	int lock_fd; /* holds the lock on the journal's directory */
	int dir_fd;
	char *run_dir;
	uint32_t node_number;
	uint64_t segment_bytes, max_bytes;
	unsigned sync_interval_ms;
	struct tail tail;
	pthread_t flusher;
	bool flusher_started;

	/* under lock; head, frontier and synced are changed in the tail's header only under it */
	pthread_mutex_t lock;
	pthread_cond_t work; /* for the flusher */
	pthread_cond_t done; /* synced, space, failure: for append and sync */
	cdm_origin origin;
	uint64_t last_number, sequence;
	struct cdm_vector applied;
	bool context_due;             /* the next own change carries its context */
	uint64_t context_position;    /* of the last own change that did */
	struct cdm_vector check;      /* what was applied at the last MARK: all that stood before check_position */
	uint64_t check_position;
	struct cdm_vector marked;     /* of the last mark that was settled, its clock and position */
	uint64_t mark_clock, mark_position;
	uint64_t pending_next, pending_end; /* of cdm_journal_next_pending */
	enum flusher_wait flusher_wait;
	unsigned waiters;             /* appends and syncs that wait for the flusher */
	bool kicked;                  /* something was settled since the disk was full */
	bool stop, disk_full;
	int failed;                   /* 0, or -EIO for good */
	uint64_t segment_total, segment_oldest; /* bytes of all files, first position */

	/* the flusher's (before it starts and after it ended: open's and close's) */
	struct segments segments;
	int segment_fd; /* the last of them, or -1: make one */
	struct segment_commit commit;
	uint64_t written; /* >= synced */
	struct resume_file resume;

	/* the FIFOs of the readers */
	pthread_mutex_t wake_lock;
	int wake_fds[TAIL_READERS]; /* -1: not open yet */
};

static inline uint64_t journal_head(const struct cdm_journal *j)
{
	return atomic_load_explicit(&j->tail.header->head, memory_order_relaxed);
}
static inline uint64_t journal_frontier(const struct cdm_journal *j)
{
	return atomic_load_explicit(&j->tail.header->frontier, memory_order_relaxed);
}
static inline uint64_t journal_synced(const struct cdm_journal *j)
{
	return atomic_load_explicit(&j->tail.header->synced, memory_order_relaxed);
}

/* Take one settled record into the applied vector (and a MARK's vector). */
void journal_take_settled_locked(struct cdm_journal *j, const uint8_t *record, size_t length);
/* Move the frontier over settled records. True if it moved. */
bool journal_advance_frontier_locked(struct cdm_journal *j);
/* Write into the FIFO of every reader in `slots`. */
void journal_wake_readers(struct cdm_journal *j, uint32_t slots);

/* Note for the next writer what all before `synced` amounts to; called and left with the lock held, not held while it writes. */
void journal_note_resume_locked(struct cdm_journal *j);
int journal_start_flusher(struct cdm_journal *j, struct cdm_error *err);
/* Ends it after what is settled by now has been tried once. */
void journal_stop_flusher(struct cdm_journal *j);
/* The flusher has something to do: see that it does. */
void journal_kick_flusher_locked(struct cdm_journal *j);
void journal_note_segments_locked(struct cdm_journal *j);

int64_t journal_monotonic_ns(void);
/* Wait on `done` until the deadline. False: it has passed. */
bool journal_wait_done_locked(struct cdm_journal *j, int64_t deadline_ns);

#endif
