/* SPDX-License-Identifier: Apache-2.0 */
/* fetch_internal.h — what the files of fetching share: fetch.c (the table, how far a file got, beginning and ending), fetch_content.c (what comes, the
 * digest, the changes that wait), fetch_pieces.c (pieces on their way to the disk, kept for a while) and fetch_feeder.c (whom to ask). Loop thread only. */
#ifndef REPLICATOR_FETCH_INTERNAL_H
#define REPLICATOR_FETCH_INTERNAL_H

#include "replicator/blocks.h"
#include "replicator/fetch.h"
#include "replicator/publish.h"

#define FETCH_PARTIAL_XATTR "trusted.cdmfs.partial" /* on a file that is not whole: how far it got */
#define FETCH_PARTIAL_BYTES (36 + 8 + 8) /* boot id, size, bytes that are there */
#define FETCH_RING_AGAIN_MS 5000    /* after the ring failed a content; twice as long each time */
#define FETCH_PART_KEPT_MS 86400000 /* for a parent that comes back … */
#define FETCH_PART_FULL_MS 10000    /* … where it does not take the last room; a link that broke of that is back before */

struct fetch_piece; /* fetch_pieces.c */

struct waiter {
	struct waiter *next;
	struct incoming *in;
	uint64_t peer_serial;
};

struct fetch {
	struct fetch *next;
	struct set *set;
	struct cdm_dot version;
	char *path;
	size_t path_len;
	uint64_t size;
	int fd;
	char name[STAGING_NAME_MAX]; /* in staging; "" = it was handed over */
	uint64_t came;               /* all before this came (or is a hole) */
	int direct_fd;               /* past the page cache; -1: none */
	bool no_direct;              /* it does not take them */
	struct fetch_piece *kept, **pieces_tail; /* in the order they came */
	struct fetch_piece *writes;  /* from here on they are on their way to the disk, … */
	struct fetch_piece *gathered; /* … and from here on that is still to begin … */
	unsigned gathered_count;
	uint64_t gathered_end;       /* … and ends there */
	uint64_t kept_from;          /* all that came behind this is among them, or a hole */
	size_t writing;              /* bytes on their way */
	struct block_hash hash;
	bool hashed;                 /* it covers all that came */
	bool ended, checking, whole, gone;
	uint8_t digest[16];          /* with ended: what it must have */
	bool right;                  /* it has; the worker's answer, its only write here: not beside what the loop reads meanwhile, in one word */
	struct link *feeder;         /* it was asked and has not ended */
	uint32_t request;
	bool answered;               /* the feeder said what it has, … */
	int64_t starved_ms;          /* … and when it said last that it has no more itself */
	bool from_ring, paused;      /* the feeder is not who sent the change; paused: the feeder's link, by us */
	bool held;                   /* so it was since looked_ms */
	unsigned slow_looks;         /* so many answers in a row said that others get it faster */
	unsigned damages;            /* times that what came was not right */
	int64_t ring_bad_ms;         /* until then the ring is not asked */
	unsigned ring_failures;
	int64_t pause_ms;            /* until then nobody is: it was damaged each time */
	uint64_t sender;             /* peer that told us of it */
	struct waiter *waiters;
	unsigned refs;               /* the table, writes, the worker, feeds */
	bool was_full;               /* there was no room for all of it */
	int64_t heard_ms, used_ms;
	int64_t fed_ms;              /* when the feeder's link brought a whole piece last, whosever */
	int64_t gap_ms;              /* the longest silence that ended by itself */
	uint64_t heard_bytes;        /* what the feeder's link had received then, pieces that are not complete included */
	int64_t looked_ms;           /* when FETCH_LOOK was sent, and … */
	uint64_t looked_came, pace;  /* … how far it was then; bytes per second before that … */
	uint64_t usual_pace;         /* … and in the looks before, the older the less */
	enum trial { TRIAL_NONE, TRIAL_RUNS, TRIAL_OVER } trial; /* of the sender in place of the ring */
	uint64_t trial_pace;         /* what the ring gave */
	uint64_t marked;
	uint8_t mark[FETCH_PARTIAL_BYTES];
	bool marking;                /* it is being written */
};

/* fetch.c */
/* Note in the file how far it got. Not on the loop thread: a filesystem that writes out what an author saved lets it wait for seconds. */
void fetch_mark_wanted(struct fetch *f);
void fetch_drop(struct fetch *f); /* out of the table; its file goes unless it was handed over */
void fetch_queue_step(struct set *s); /* there may be room for changes that wait for it */

/* fetch_pieces.c */
void fetch_begin_writing(struct fetch *f);
void fetch_end_writing(struct fetch *f); /* nothing is on its way */
/* For what comes from its begin on. 0 or -errno. */
int fetch_empty_file(struct fetch *f);
void fetch_write_piece(struct fetch *f, const struct piece *piece, struct chunk *chunk /* where it is, NULL: copied */);
/* Pieces are written several at once: those that came do not wait for more. */
void fetch_flush_pieces(struct fetch *f);
uint64_t fetch_written(const struct fetch *f); /* all before this */
void fetch_forget_pieces(struct fetch *f); /* but those on their way */

/* fetch_content.c */
void fetch_settle_waiters(struct fetch *f);
/* The links of all changes that wait for it begin anew, and with them the changes. */
void fetch_fail_waiters(struct fetch *f, int error, const char *what);
void fetch_check(struct fetch *f); /* if everything came and is written: is it right? */

/* fetch_feeder.c */
void fetch_step(struct fetch *f); /* ask somebody, if nobody is asked */
/* Who told us of it, by now: after another parent was chosen that is not the feeder, which may be stuck. */
void fetch_sender_is(struct fetch *f, const struct peer *p);
void fetch_stop_asking(struct fetch *f);
void fetch_heard(struct fetch *f, int64_t now); /* content came from its feeder */
void fetch_ring_failed(struct fetch *f); /* it is not asked for a while */
void fetch_resume_feeder(struct fetch *f);
void fetch_tick_wanted(struct set *s); /* look again in a moment, if there is something to look at */
int fetch_take_at(struct node *node, const struct link *l, const uint8_t *payload, size_t len, struct cdm_error *err);
/* What this feeder (NULL: anybody) was asked under this number; NULL: nothing, or no more. */
struct fetch *fetch_find_request(struct node *node, const struct link *feeder, uint32_t request);

#endif
