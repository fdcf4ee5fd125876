/* SPDX-License-Identifier: Apache-2.0 */
/* link_internal.h — what the parts of a link share: link.c (begin, hello, frames, end), link_sets.c (the sets it carries), link_section.c (how
 * it is used: compression, protection, limit, cost). */
#ifndef REPLICATOR_LINK_INTERNAL_H
#define REPLICATOR_LINK_INTERNAL_H

#include "replicator/links.h"

#include "common/error.h"
#include "common/loop.h"
#include "replicator/conn.h"
#include "replicator/fetch.h"
#include "replicator/link_pack.h"
#include "replicator/section.h"
#include "replicator/wire_codec.h"

#define LINK_MAGIC 0x11e7c0deu

struct attach { /* one set on this link */
	struct set *set;
	bool asked;      /* we want the peer as parent: SET_UP sent */
	bool up;         /* both agreed; the set knows */
	bool has_index;
	uint16_t peer_index;
};

enum link_state { LINK_DIAL, LINK_HELLO, LINK_UP, LINK_ENDING };

struct link {
	uint32_t magic;
	struct node *node;
	struct conn *conn;
	enum link_state state;
	bool dialled, busy_queue;
	char name[WIRE_NAME_MAX + 1]; /* dialled: whom we want; then whom the certificate named */
	uint32_t number;              /* 0 before the certificate was seen */
	uint64_t instance;
	struct sockaddr_storage from;
	struct cdm_timer *timer;      /* hello deadline, then the tick */
	struct attach *attaches;
	size_t attach_count;
	uint32_t features;            /* WIRE_FEATURE_…: both ends have them */
	enum section_class section;
	uint64_t accounted;           /* sent bytes that are in the node's section_costs */
	struct link_pack pack;
	struct chunk *fed;            /* the bytes of a FED that is coming in; NULL: none … */
	uint8_t fed_head[FED_HEAD];   /* … and what came before them */
	size_t fed_len;
	struct cdm_error why;
};

/* Whatever the state, unless there is no connection. Returns the payload bytes as they are sent; 0 also when the connection takes nothing any
 * more. */
size_t link_send_frame(struct link *l, uint8_t type, uint8_t flags, uint16_t set, const void *head, size_t head_len,
	const void *body, size_t body_len);

/* link_fed.c: the bytes of a FED go straight to where they stay. How many bytes of the frame that begins here are taken, the rest comes by
 * itself; 0: it is taken as any other. And when the rest is there. */
size_t link_fed_begin(struct link *l, const struct wire_header *h, const uint8_t *frame, size_t len);
void link_fed_came(struct link *l);

/* link_sets.c */
void link_take_set_up(struct link *l, uint16_t index, const uint8_t *payload, size_t len);
void link_take_set_down(struct link *l, const uint8_t *payload, size_t len);
void link_take_set_frame(struct link *l, const struct wire_header *h, const uint8_t *payload);
void link_sets_drained(struct link *l);
void link_sets_closed(struct link *l); /* all sets lose it; why: l->why */

/* link_section.c */
void link_account(struct link *l); /* adds what it sent since the last time to its section's cost */
void link_follow_section(struct link *l); /* what is configured for it changed, or it just came up */
void link_follow_encryption(struct link *l);
void link_take_plain(struct link *l, const uint8_t *payload, size_t len);
uint64_t link_rate(void *arg); /* bytes per second now, 0 = no limit */

#endif
