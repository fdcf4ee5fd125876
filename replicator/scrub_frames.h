/* SPDX-License-Identifier: Apache-2.0 */
/* scrub_frames.h — payloads of the frames by which nodes compare contents by digests (wire_protocol.md, "Scrub"): the one place that knows their
 * bytes. Decoders check everything and point into the payload they were given. Pure. */
#ifndef REPLICATOR_SCRUB_FRAMES_H
#define REPLICATOR_SCRUB_FRAMES_H

#include "replicator/data_frames.h"

#define SCRUB_FILES_MAX 64              /* of one ASK */
#define SCRUB_PATHS_MAX (128u << 10)    /* bytes of their paths together */
#define SCRUB_OPEN_MAX 8                /* ASKs to one peer without an answer */
#define SCRUB_ANSWERS_MAX 128           /* of one TELL */

struct scrub_question {
	const char *path;
	size_t path_len;
	struct cdm_dot version; /* of the content; none: a file that never had one, then size and mtime say which content is meant */
	uint64_t size;
	int64_t mtime_ns;
};
struct scrub_ask { /* SCRUB_ASK */
	uint32_t request; /* the asker's, not 0 */
	bool others;      /* what do your other neighbours have? Only with one file */
	bool doubted;     /* others have it otherwise: look whether yours is what you sent */
	struct scrub_question files[SCRUB_FILES_MAX];
	size_t count;
};
void scrub_ask_encode(const struct scrub_ask *a, struct bytes *out);
int scrub_ask_decode(const uint8_t *in, size_t len, struct scrub_ask *ret);

enum scrub_found {
	SCRUB_DIGEST = 0,     /* it is this version; its digest (blocks.h) */
	SCRUB_OTHER = 1,      /* another version, none, or it is being changed: nothing to compare */
	SCRUB_BAD = 2,        /* it is this version, and the disk does not give it, or not as this node once sent it */
	SCRUB_AS_SENT = 3,    /* as DIGEST, and it is known to be what this node sent (only where it was asked as doubted) */
};
struct scrub_answer {
	uint16_t index; /* of the file in the ASK */
	uint32_t node;  /* who has it so */
	uint8_t found;
	uint8_t digest[16];
};
struct scrub_tell { /* SCRUB_TELL */
	uint32_t request;
	struct scrub_answer answers[SCRUB_ANSWERS_MAX];
	size_t count;
};
void scrub_tell_encode(const struct scrub_tell *t, struct bytes *out);
int scrub_tell_decode(const uint8_t *in, size_t len, struct scrub_tell *ret);

/* SCRUB_LOOK: one question; look at this file of yours, others have it otherwise. */
void scrub_look_encode(const struct scrub_question *q, struct bytes *out);
int scrub_look_decode(const uint8_t *in, size_t len, struct scrub_question *ret);

#endif
