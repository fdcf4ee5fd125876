/* SPDX-License-Identifier: Apache-2.0 */
/* journal_tail.h — the newest part of a journal: a ring in the mapped file RUN/SET/tail (journal_format.md, section
 * 3). One writer process, any number of reader processes map it. Used by journal*.c only.
 *
 * A position p of the stream lies at ring[p % capacity]. The ring holds [tail_oldest, head). The writer announces in
 * `reserved` how far it is about to write before it does, and publishes `head` when it has; so a reader copies first
 * and looks at `reserved` afterwards to know whether what it copied was still whole. Everything is consistent at any
 * instant at which a process is killed. */
#ifndef CDM_JOURNAL_TAIL_H
#define CDM_JOURNAL_TAIL_H

#include <stdatomic.h>
#include "common/journal.h"

#define TAIL_FILE "tail"
#define TAIL_MAGIC 0x314c4941544d4443ull /* "CDMTAIL1" */
#define TAIL_VERSION 1u
#define TAIL_HEADER_SIZE 4096u
#define TAIL_BYTES_MIN (1ull << 20) /* a few of the longest records */
#define TAIL_BYTES_MAX (1ull << 30)
#define TAIL_READERS 32u

struct tail_header { /* shared memory, native endian, fixed layout */
	uint64_t magic;
	uint32_t version, node_number;
	uint64_t instance;  /* of the segments it belongs to */
	uint64_t capacity;  /* bytes of the ring, power of two */
	uint64_t base;      /* the position it began at */
	_Atomic uint32_t incarnation;
	_Atomic uint32_t closed; /* no writer will come back to this file */
	_Atomic uint32_t writer_pid, spare;
	_Atomic uint64_t writer_start; /* field 22 of /proc/PID/stat */

	_Alignas(64) _Atomic uint64_t reserved, head;
	_Alignas(64) _Atomic uint64_t frontier;
	_Atomic uint64_t last_mark, mark_since; /* the last MARK or CLEAN before the frontier, its RECORD_SINCE; 0: none */
	_Alignas(64) _Atomic uint64_t synced;   /* everything before is on stable storage */
	_Alignas(64) _Atomic uint32_t armed;    /* bit i: the reader in slot i waits on its FIFO */
	_Alignas(64) _Atomic uint64_t keep_position;
	_Atomic uint32_t reader_pids[TAIL_READERS];
};
_Static_assert(sizeof(struct tail_header) <= TAIL_HEADER_SIZE, "the header is one page");

struct tail {
	struct tail_header *header; /* NULL: not mapped */
	uint8_t *ring;
	uint64_t capacity; /* checked copy: the mapping's size never depends on shared memory again */
	int fd;
};
#define TAIL_NONE ((struct tail){.fd = -1})

/* Map RUN/SET/tail. 0; -ENOENT; -EBADMSG: not a tail of this version. */
int tail_map(const char *run_dir, struct tail *ret);
/* Make a new one in place of whatever is there (which is marked closed, so that its readers notice). */
int tail_create(const char *run_dir, uint64_t capacity, uint64_t base, uint64_t instance, uint32_t node_number,
	struct tail *ret, struct cdm_error *err);
void tail_unmap(struct tail *t);
/* Put this process into the header as its writer. */
void tail_set_writer(struct tail *t);
/* Whether the file at the path is still the mapped one. */
bool tail_is_current(const struct tail *t);

static inline uint8_t *tail_at(const struct tail *t, uint64_t position)
{
	return t->ring + (position & (t->capacity - 1));
}
static inline uint64_t tail_contiguous(const struct tail *t, uint64_t position) /* bytes up to the ring's end */
{
	return t->capacity - (position & (t->capacity - 1));
}
/* The oldest position that is (still) in the ring. */
uint64_t tail_oldest(const struct tail *t);

/* FIFOs RUN/SET/wake (slot 0), wake.1, …: made if missing, opened so that neither side ever blocks. fd or -errno. */
int tail_open_wake(const char *run_dir, unsigned slot);
uint32_t tail_wake_slots(const char *run_dir); /* bit i: the FIFO of slot i exists */
/* A reader's slot; slots of dead processes are taken over; when all are taken, slot 0 is shared. */
unsigned tail_claim_slot(struct tail *t);
void tail_release_slot(struct tail *t, unsigned slot);

#endif
