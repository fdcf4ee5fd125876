/* SPDX-License-Identifier: Apache-2.0 */
/* fetch.h — large contents travel apart from their changes. A CHANGE with CONTENT_APART only says what belongs to the file; its receiver fetches the
 * content from its *feeder*: the member before it in the ring (ring.h), or, where that one cannot serve, whoever sent the change. A feeder
 * serves what it has published and, while it is itself still fetching, what has already come (cut-through). So every
 * link carries the content once, and it reaches the last node in little more than the time of one hop.
 *
 * What came is kept by version in the store's staging area: a broken transfer goes on where it stopped, from the same or
 * another node, also after a restart of the replicator (not of the machine). The whole is checked by its digest (blocks.h)
 * before the change may be published.
 *
 * Tables are bounded: FETCHES_MAX contents here, further changes wait until there is room; FEEDS_MAX requests served. Loop thread only. */
#ifndef REPLICATOR_FETCH_H
#define REPLICATOR_FETCH_H

#include "replicator/links.h"
#include "replicator/wire_codec.h"

#define FETCH_MIN (1u << 20) /* whole contents of so many bytes go apart */
#define FETCHES_MAX 64
#define FETCHES_AHEAD 16     /* of these at most: announced, and the change has not come */
#define FEEDS_MAX 1024

struct cdm_dot;
struct chunk;
struct cdm_handle;
struct coming;
struct fetch;
struct incoming;
struct peer;

/* --- as the one who fetches (fetch.c) --- */

/* A set's table; what an earlier run of this boot left in staging is taken up. */
void fetch_start(struct set *s);
void fetch_stop(struct set *s);
/* receive.c: this change waits for its content; receive_content_came() when it is there. The peer that sent it is asked when the ring cannot serve. */
void fetch_await(struct peer *p, struct incoming *in);
/* COMING: begin now, the change will come. */
void fetch_coming(struct peer *p, const struct coming *c);
/* The set's vector moved. */
void fetch_moved(struct set *s);
/* The peer's changes wait no more. */
void fetch_peer_gone(struct peer *p);

/* --- link.c --- */
int fetch_frame(struct node *node, struct link *l, enum frame_type type, const uint8_t *payload, size_t len, struct cdm_error *err);
/* A FED whose content is in a chunk (borrowed), and what came before it. */
#define FED_HEAD 16u
int fetch_fed(struct node *node, struct link *l, const uint8_t head[FED_HEAD], struct chunk *chunk, size_t len, struct cdm_error *err);
void fetch_link_gone(struct node *node, struct link *l);
void feed_link_drained(struct node *node, struct link *l);

/* --- as the one who feeds (feed.c) --- */

/* ship_send.c: a content that a peer was told of: where it is whatever it is renamed to. */
void feed_offer(struct set *s, struct cdm_dot version, const struct cdm_handle *handle);
/* Go on: the journal moved; this content has more. */
void feed_kick(struct set *s);
void feed_stop(struct set *s);

/* --- between the two --- */
struct fetch *fetch_find(struct set *s, struct cdm_dot version);
/* Borrowed until fetch_unref: a descriptor, how many bytes of it can be read by now, the digest once it is whole. */
void fetch_ref(struct fetch *f);
void fetch_unref(struct fetch *f);
int fetch_fd(const struct fetch *f);
int fetch_direct_fd(const struct fetch *f); /* for reads past the page cache, -1: there is none */
uint64_t fetch_size(const struct fetch *f);
uint64_t fetch_readable(const struct fetch *f);
uint64_t fetch_came(const struct fetch *f);
bool fetch_is_fed(const struct fetch *f); /* or whole */
/* The pieces of the block that begins at `at`, if all of it came and is still in memory (what is not told is a hole). False: see what can be read. */
typedef void fetch_piece_fn(void *arg, uint64_t offset, uint32_t len, struct chunk *chunk /* at its begin */);
bool fetch_each_kept(const struct fetch *f, uint64_t at, fetch_piece_fn *fn, void *arg);
bool fetch_is_whole(const struct fetch *f, uint8_t ret_digest[16]);
bool fetch_is_gone(const struct fetch *f); /* it will not become whole */
int feed_frame(struct node *node, struct link *l, enum frame_type type, const uint8_t *payload, size_t len, struct cdm_error *err);
void feed_link_gone(struct node *node, struct link *l);
/* Is this content being fed to, or wanted by, this peer? Then it is no feeder for it. */
bool feed_feeds(const struct node *node, const struct set *s, struct cdm_dot version, const struct link *l);

#endif
