/* SPDX-License-Identifier: Apache-2.0 */
/* hostile.h — a node of the lab that lies: speaks the protocol between replicators (wire_protocol.md) with the certificate of a node
 * whose own replicator does not run, byte for byte as a test wants. Waits have a deadline and then fail the running test. */
#ifndef HOSTILE_H
#define HOSTILE_H

#include "replicator/data_frames.h"
#include "replicator/link.h"
#include "replicator/wire_codec.h"
#include "tests/cluster/story.h"

struct hostile;

uint32_t hostile_number(const char *node); /* the one that the master gave it */

/* How far the connection is brought before the lies begin. */
enum hostile_stage {
	HOSTILE_TLS,        /* connected, both certificates are good */
	HOSTILE_HELLO,      /* hellos exchanged */
	HOSTILE_SET,        /* the set LAB_SET is agreed on; `as` asked `to` to be its parent */
	HOSTILE_SUBSCRIBED, /* both have sent SUBSCRIBE; ours says that nothing is lacking */
};
/* Connect as node `as` to node `to`, with these WIRE_FEATURE_…. */
struct hostile *hostile_connect(const char *as, const char *to, enum hostile_stage stage, uint32_t features);
void hostile_close(struct hostile **h);

/* Never fail: a connection that the other side has ended takes everything. */
void hostile_frame(struct hostile *h, unsigned type, unsigned flags, unsigned set, const void *payload, size_t len);
void hostile_bytes(struct hostile *h, const void *bytes, size_t len); /* within TLS, but no frame of ours around them */
void hostile_tcp(struct hostile *h, const void *bytes, size_t len);   /* past TLS */

/* Our hello, to be spoiled; a vector of `to` from its SUBSCRIBE. */
struct wire_hello hostile_hello(const struct hostile *h);
const struct cdm_vector *hostile_their_vector(const struct hostile *h);

/* As its parent: it asks for the set LAB_SET, and gets it. */
void hostile_serves(struct hostile *h);

/* A relay that lies: what comes from either of the two is passed on to the other as it is, but for frames that `drops` says true of. It does so in a
 * thread, until the end of it, which closes both. */
typedef bool hostile_drops_fn(unsigned type, const uint8_t *payload, size_t len);
struct hostile_relay;
struct hostile_relay *hostile_relay_begin(struct hostile *above, struct hostile *below, hostile_drops_fn *drops);
void hostile_relay_end(struct hostile_relay **r);

/* Until the other side has ended the connection. What its ERROR said, "" without one. */
const char *hostile_ended(struct hostile *h);
/* Until it has answered a PING that was sent now: all before was read, and the link stays. */
void hostile_lives(struct hostile *h);
/* Take in what comes until a frame of this type is there; its payload stays valid until the next call. */
const uint8_t *hostile_await(struct hostile *h, unsigned type, size_t *ret_len);

#endif
