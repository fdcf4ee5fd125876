/* SPDX-License-Identifier: Apache-2.0 */
/* fetch_internal.h — what the files of fetching share: fetch.c (the table, how far a file got, beginning and ending), fetch_content.c (pieces on their way
 * to the disk, the digest, the changes that wait) and fetch_feeder.c (whom to ask). Loop thread only. */
#ifndef REPLICATOR_FETCH_INTERNAL_H
#define REPLICATOR_FETCH_INTERNAL_H

#include "replicator/blocks.h"
#include "replicator/fetch.h"
#include "replicator/publish.h"

#define FETCH_PARTIAL_XATTR "trusted.cdmfs.partial" /* on a file that is not whole: how far it got */
#define FETCH_RING_AGAIN_MS 5000    /* after the ring failed a content */
#define FETCH_PART_KEPT_MS 86400000 /* for a parent that comes back … */
#define FETCH_PART_FULL_MS 10000    /* … where it does not take the last room; a link that broke of that is back before */

struct fetch_write { /* a piece on its way to the disk */
	struct fetch_write *next;
	struct fetch *fetch;
	uint64_t offset;
	uint32_t len;
	bool done;
	uint8_t data[];
};

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
	struct fetch_write *writes, **writes_tail; /* in the order they came */
	size_t writing;              /* bytes of them */
	struct block_hash hash;
	bool hashed;                 /* it covers all that came */
	bool ended, checking, whole, gone;
	uint8_t digest[16];          /* with ended: what it must have */
	struct link *feeder;         /* it was asked and has not ended */
	uint32_t request;
	bool from_ring, paused;      /* the feeder is not who sent the change; paused: the feeder's link, by us */
	unsigned damages;            /* times that what came was not right */
	int64_t ring_bad_ms;         /* until then the ring is not asked */
	int64_t pause_ms;            /* until then nobody is: it was damaged each time */
	uint64_t sender;             /* peer that told us of it */
	struct waiter *waiters;
	unsigned refs;               /* the table, writes, the worker, feeds */
	bool was_full;               /* there was no room for all of it */
	int64_t heard_ms, used_ms;
	int64_t looked_ms;           /* when FETCH_LOOK was sent, and … */
	uint64_t looked_came, pace;  /* … how far it was then; bytes per second before that */
	enum trial { TRIAL_NONE, TRIAL_RUNS, TRIAL_OVER } trial; /* of the sender in place of the ring */
	uint64_t trial_pace;         /* what the ring gave */
	uint64_t marked;
};

/* fetch.c */
void fetch_mark(struct fetch *f); /* note in the file how far it got */
void fetch_drop(struct fetch *f); /* out of the table; its file goes unless it was handed over */
void fetch_queue_step(struct set *s); /* there may be room for changes that wait for it */

/* fetch_content.c */
void fetch_settle_waiters(struct fetch *f);
void fetch_check(struct fetch *f); /* if everything came and is written: is it right? */

/* fetch_feeder.c */
void fetch_step(struct fetch *f); /* ask somebody, if nobody is asked */
/* Who told us of it, by now: after another parent was chosen that is not the feeder, which may be stuck. */
void fetch_sender_is(struct fetch *f, const struct peer *p);
void fetch_stop_asking(struct fetch *f);
void fetch_resume_feeder(struct fetch *f);
void fetch_tick_wanted(struct set *s); /* look again in a moment, if there is something to look at */
int fetch_take_at(struct node *node, const uint8_t *payload, size_t len, struct cdm_error *err);
/* What this feeder (NULL: anybody) was asked under this number; NULL: nothing, or no more. */
struct fetch *fetch_find_request(struct node *node, const struct link *feeder, uint32_t request);

#endif
