/* SPDX-License-Identifier: Apache-2.0 */
/* ship.h — what ship.c (gathering, batches) and ship_send.c (items and their content onto the link) share about one peer. */
#ifndef REPLICATOR_SHIP_H
#define REPLICATOR_SHIP_H

#include "replicator/content.h"
#include "replicator/deltas.h"
#include "replicator/set_internal.h"

#define SHIP_QUEUE_MAX 2048
#define SHIP_BATCH_CHANGES 1024
#define SHIP_BATCH_BYTES (8u << 20)
#define SHIP_NEXT_CHANGES 256    /* so much must be there for a batch while another one is on its way */
#define SHIP_NEXT_BYTES (2u << 20)
#define SHIP_BURST 4             /* changes in a batch: after it the next one gathers … */
#define SHIP_GATHER_MS 100       /* … for so long, unless as much is there */
#define SHIP_OWED_MAX 1024

struct owed { /* a save that was overtaken by the next write: what the next save of this file must carry, too */
	struct cdm_handle handle;
	struct cdm_dot base, victim;
	uint32_t flags;
	struct cdm_range ranges[CDM_RANGES_MAX + 1];
	size_t range_count;
};

/* A read in flight outlives the peer: then `ship` is NULL and the callback frees it. */
struct content_read {
	struct ship *ship;
	struct content *content;
	uint64_t offset;
	uint32_t len;
	unsigned tries;
	uint8_t data[FRAME_PIECE_MAX];
};

struct answer { /* to one NEED */
	struct answer *next;
	struct item *item;        /* NULL once it is being sent */
	uint64_t ticket;
	bool within;              /* its content does not go apart */
	struct cdm_dot base;      /* what the peer has already; none: it gets the whole */
	struct bytes signature;   /* of it, where the peer had to tell */
	size_t signature_len;     /* what that will have */
};

#define SHIP_CREATED 4096 /* power of two */
struct created { /* when a new file's directory got it: its CREATE says so, its SAVE does not */
	uint64_t key; /* hash of the handle */
	int64_t parent_mtime_ns;
};

struct ship {
	struct peer *peer;
	enum ship_phase phase;
	struct cdm_journal_reader *reader;
	struct cdm_vector passed;     /* everything up to here was looked at */
	struct contexts contexts;     /* as read */
	struct contexts told;         /* as sent */
	struct created created[SHIP_CREATED];
	uint64_t seek_candidate;      /* SHIP_SEEK: newest mark that the peer covers, + 1; 0 = none yet */
	bool seek_first, seek_complete; /* complete: the journal begins with the set's first record */
	struct cdm_vector seek_seen;

	struct item *queue[SHIP_QUEUE_MAX];
	size_t queue_count;
	uint64_t queue_bytes;
	struct item **batch;          /* being sent */
	size_t batch_count, batch_at;
	uint64_t batch_number, batch_acked;
	struct answer *answer_head, **answer_tail; /* to NEED */
	size_t answer_count;          /* asked for and not sent yet */
	struct answer *answering;
	struct answer *awaited;       /* those whose signature is on its way … */
	size_t awaited_count, awaited_bytes; /* … and has so many bytes together */

	struct item *current;         /* whose content is being sent */
	struct content *content;
	uint64_t known_to;            /* position in the journal up to which all was read when the content was opened */
	bool streaming;               /* its CHANGE is out; pieces follow, then CHANGE_END */
	bool short_read;
	int read_error;               /* errno of the read that ended it, 0 = none */
	struct delta_plan *plan;      /* how the content is to be sent; NULL = whole, or not asked yet */
	bool plan_asked;
	uint32_t batch_copies;        /* bytes of copies in the batch */
	struct content_read *read;
	struct owed *owed;
	size_t owed_count;

	struct cdm_timer *hold;       /* the last change may belong to one that comes */
	struct cdm_timer *gather;     /* while it runs a small batch waits */
	bool compare_due;             /* the journal says so: once all before it is there, trees are compared */
	uint64_t fold_from;           /* position in the journal: what lies before it the peer may have seen in the tree, under names of a moment, too */
	bool running, again;
};

static inline struct set *ship_set(const struct ship *ship)
{
	return ship->peer->set;
}

/* ship_answer.c */
void answer_free(struct answer **a);
void ship_answers_free(struct ship *ship);

/* ship_send.c: continue what is being sent. True: nothing is being sent any more. */
bool ship_send_step(struct ship *ship);
void ship_send_reset(struct ship *ship);
/* ship.c: read on in the journal (into the queue). Returns whether everything up to the frontier was read. */
bool ship_gather(struct ship *ship);

#endif
