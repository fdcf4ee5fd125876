/* SPDX-License-Identifier: Apache-2.0 */
/* link.h — one authenticated connection to a peer, carrying all sets the two share. The child dials its parent; after the
 * hello it does not matter who dialled: frames flow both ways. TLS 1.3 through memory BIOs over io_uring; frames are
 * queued and written in order. Loop thread only.
 * A frame is u32 length (of what follows), u8 type, u8 flags, u16 set (the sender's index of it, told by its SET_UP), payload; little endian. */
#ifndef REPLICATOR_LINK_H
#define REPLICATOR_LINK_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "replicator/node.h"

enum frame_type {
	/* link.c */
	FRAME_HELLO = 1,   /* versions, features, node number and name, clock */
	FRAME_PING = 2, FRAME_PONG = 3,
	FRAME_ERROR = 4,   /* number + text; the sender closes after it */
	FRAME_SET_UP = 5,  /* the sender routes this set over this link (parent/child), may come later than the hello */
	FRAME_SET_DOWN = 6,
	FRAME_STATE = 7,   /* flooded: node, set, visible and durable vector, state, reason (state.c) */
	FRAME_PLAIN = 8,   /* 1: what follows from the sender is readable records (plain.h); 0: TLS again */
	/* set data plane, 32 and up: ship.c receive.c resync.c */
	FRAME_SUBSCRIBE = 32, /* my vector (and durable vector), resumable partial contents */
	FRAME_BATCH = 33,     /* start of a batch: number, count of changes, bytes */
	FRAME_CHANGE = 34,    /* encoded change + how its content travels */
	FRAME_DATA = 35,      /* content bytes of the current change */
	FRAME_CHANGE_END = 36,/* hash of the content */
	FRAME_BATCH_END = 37, /* vector after it */
	FRAME_ACK = 38,       /* visible vector, durable vector */
	FRAME_NEED = 39,      /* of a change: send it another way (whole, from offset, …) */
	FRAME_COPIES = 40,    /* of the current change: what is copied out of the base version */
	FRAME_COMING = 41,    /* a large content is on its way: it may be fetched already */
	FRAME_SIGN = 42,      /* to who needs something and has another version of it: tell its signature … */
	FRAME_SIGNATURE = 43, /* … here it is */
	FRAME_RESYNC_START = 48, FRAME_RESYNC_DIR = 49, FRAME_RESYNC_NEED = 50,
	FRAME_RESYNC_ASK = 51, /* child to parent: let me compare trees with you (doubt.c) */
	FRAME_RESYNC_OVERTAKEN = 52, /* after START: these names are behind its vector (overtaken.h) */
	FRAME_RESYNC_END = 54,
	/* contents compared by their digests: scrub*.c */
	FRAME_SCRUB_ASK = 55,  /* which digests have these files at yours? */
	FRAME_SCRUB_TELL = 56,
	FRAME_SCRUB_LOOK = 57, /* look at this file of yours: others have it otherwise */
	/* what authors signed of their changes: seal*.c */
	FRAME_SEAL = 58,       /* flooded as it is over the set's tree */
	FRAME_SEAL_SEEN = 59,  /* these came to me already */
	/* contents that are fetched, also between nodes that are not parent and child: fetch.c feed.c */
	FRAME_FETCH = 64,     /* send me this content */
	FRAME_FETCH_STOP = 65,
	FRAME_FED = 66,       /* a piece of it */
	FRAME_FED_END = 67,   /* its digest, or why not */
	FRAME_FETCH_LOOK = 68, /* how fast do those get it who take it from you? */
	FRAME_FETCH_AT = 69,
};
#define FRAME_PAYLOAD_MAX (256u << 10) /* every type; content is cut into pieces of at most 128 KiB */
#define LINK_QUEUE_HIGH (2u << 20)     /* stop producing content above this many queued bytes … */
#define LINK_QUEUE_LOW (512u << 10)    /* … until set_link_drained() below this */

struct link;
const char *link_peer_name(const struct link *l);
uint32_t link_peer_number(const struct link *l);
/* Queue one frame for a set; head and body are copied (two parts so that the caller need not join them). Never blocks; memory is
 * bounded by the caller minding link_queued(). A dead link swallows it. */
void link_send(struct link *l, struct set *set, enum frame_type type, uint8_t flags, const void *head, size_t head_len,
	const void *body, size_t body_len);
/* A frame that belongs to no set's stream (types 64 and up); set: for whose sake it is sent, NULL = none that we have. */
void link_send_bare(struct link *l, struct set *set, enum frame_type type, const void *head, size_t head_len, const void *body, size_t body_len);
/* The same with a body that is in a chunk, where it stays as it is until it went out; chunk NULL: copied. */
struct chunk;
void link_send_chunk(struct link *l, struct set *set, enum frame_type type, const void *head, size_t head_len, const void *body, size_t body_len,
	struct chunk *chunk);
/* How links of this class are used now; the same for both ends only while both hold the same table. Valid until the next table. */
const struct section *link_section(const struct link *l);
size_t link_queued(const struct link *l);
/* Do both ends understand this (WIRE_FEATURE_…)? */
bool link_has(const struct link *l, uint32_t feature);
/* Stop/resume reading from the peer (back-pressure of a full receiver). Counted. */
void link_pause(struct link *l);
void link_resume(struct link *l);
/* End the link: tells the peer (FRAME_ERROR), logs, closes; set_link_down() follows from the loop. It is dialled again later. */
void link_fail(struct link *l, int errnum, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
