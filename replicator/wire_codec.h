/* SPDX-License-Identifier: Apache-2.0 */
/* wire_codec.h — the frames of the link layer (types below 32), between bytes and structs (wire_protocol.md). Decoders check every
 * length and value; what they return lies in the caller's struct, nothing points into the bytes. Encoders return the bytes written;
 * `out` must have WIRE_SMALL_MAX bytes unless told otherwise. */
#ifndef REPLICATOR_WIRE_CODEC_H
#define REPLICATOR_WIRE_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "common/error.h"
#include "common/vector.h"

#define WIRE_MAGIC 0x6c6d6463u /* "cdml" */
#define WIRE_VERSION 1
#define WIRE_HEADER 8
#define WIRE_NAME_MAX 255
#define WIRE_TEXT_MAX 599
#define WIRE_SMALL_MAX 1024
#define WIRE_FLAG_MAY_SKIP 0x80 /* a receiver that does not know this type drops the frame */
#define WIRE_FLAG_ZSTD 0x40 /* the payload is packed (pack.h): types of the data plane only, … */
#define WIRE_FLAG_ZLIB 0x20 /* … and not both */
/* What a node understands, told in its HELLO. */
#define WIRE_FEATURE_ZSTD 1u
#define WIRE_FEATURE_ZLIB 2u
#define WIRE_FEATURE_PLAIN 4u /* FRAME_PLAIN */
#define WIRE_FEATURE_FETCH 8u /* contents apart from their changes: COMING, FETCH and what answers it */
#define WIRE_FEATURE_ANSWERS 16u /* a NEED says what is there already, SIGN, SIGNATURE; answers may be deltas, or fetched */
#define WIRE_FEATURE_SCRUB 32u /* contents compared by digests: SCRUB_ASK, SCRUB_TELL, SCRUB_LOOK */
#define WIRE_FEATURE_SEALS 64u /* what authors signed: SEAL (format 2), SEAL_SEEN */
#define WIRE_FEATURE_OVERTAKEN 128u /* RESYNC_OVERTAKEN */
#define WIRE_FEATURES (WIRE_FEATURE_ZSTD | WIRE_FEATURE_ZLIB | WIRE_FEATURE_PLAIN | WIRE_FEATURE_FETCH | WIRE_FEATURE_ANSWERS | \
	WIRE_FEATURE_SCRUB | WIRE_FEATURE_SEALS | WIRE_FEATURE_OVERTAKEN)

struct wire_header {
	uint32_t payload; /* bytes that follow the header */
	uint8_t type, flags;
	uint16_t set;
};
void wire_header_encode(const struct wire_header *h, uint8_t out[WIRE_HEADER]);
/* Checks the length against the limit of its type. 0, or -EPROTO with err. */
int wire_header_decode(const uint8_t in[WIRE_HEADER], struct wire_header *ret, struct cdm_error *err);

struct wire_hello {
	uint16_t version, min_version; /* of the protocol: spoken, still understood */
	uint32_t features, required;   /* bits; a required one that the peer does not know ends the link */
	uint32_t number;
	uint64_t instance; /* of the process: start time */
	uint64_t clock;
	char name[WIRE_NAME_MAX + 1];
};
size_t wire_hello_encode(const struct wire_hello *h, uint8_t *out);
int wire_hello_decode(const uint8_t *in, size_t len, struct wire_hello *ret);

struct wire_error {
	uint32_t number; /* enum wire_errno */
	char text[WIRE_TEXT_MAX + 1];
};
size_t wire_error_encode(const struct wire_error *e, uint8_t *out);
int wire_error_decode(const uint8_t *in, size_t len, struct wire_error *ret);

/* Errors travel as these numbers, not as a system's errno. */
enum wire_errno {
	WIRE_E_OTHER = 0, WIRE_E_PROTOCOL = 1, WIRE_E_DENIED = 2, WIRE_E_VERSION = 3, WIRE_E_DUPLICATE = 4, WIRE_E_UNKNOWN_SET = 5,
	WIRE_E_NOT_READY = 6, WIRE_E_NO_SPACE = 7, WIRE_E_TIMEOUT = 8, WIRE_E_ENDING = 9,
};
enum wire_errno wire_errno_of(int errnum); /* positive errno */
int wire_errno_to(uint32_t number);        /* back; unknown: EIO */

struct wire_set_up {
	bool child; /* the sender wants the receiver as its parent; else: agreed */
	uint64_t epoch;
	char name[WIRE_NAME_MAX + 1];
};
size_t wire_set_up_encode(const struct wire_set_up *s, uint8_t *out);
int wire_set_up_decode(const uint8_t *in, size_t len, struct wire_set_up *ret);

struct wire_set_down {
	char name[WIRE_NAME_MAX + 1];
	struct wire_error why;
};
size_t wire_set_down_encode(const struct wire_set_down *s, uint8_t *out);
int wire_set_down_decode(const uint8_t *in, size_t len, struct wire_set_down *ret);

struct wire_state {
	bool down;           /* told by a neighbour of the node: its link is gone; vectors are empty then */
	uint32_t number;     /* the node it speaks of */
	uint64_t start, sequence; /* of the node's process, and running number in it: the newer wins */
	uint64_t clock;
	char state[16], reason_code[32], reason[256];
	struct cdm_vector visible, durable;
};
size_t wire_state_size(const struct wire_state *s);
size_t wire_state_encode(const struct wire_state *s, uint8_t *out); /* wire_state_size bytes */
int wire_state_decode(const uint8_t *in, size_t len, struct wire_state *ret);
void wire_state_fini(struct wire_state *s);

#endif
