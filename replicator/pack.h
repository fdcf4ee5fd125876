/* SPDX-License-Identifier: Apache-2.0 */
/* pack.h — compression of the frames of a link: one stream for each direction and method, which keeps its window from frame to frame, so
 * that many small files that resemble each other become small; flushed with every frame. Packed = u32 length before, then the stream's
 * bytes (wire_protocol.md). A frame that is sent as it is does not pass through the stream of either end. Pure; one thread.
 * Memory: sending 2 to 4 MiB by level, receiving 1.5 MiB (zstd); 0.3 MiB and less (zlib). */
#ifndef REPLICATOR_PACK_H
#define REPLICATOR_PACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "common/error.h"

enum pack_method { PACK_ZLIB, PACK_ZSTD };
#define PACK_METHODS 2
#define PACK_LEAST 64u            /* shorter payloads are sent as they are, … */
#define PACK_MOST (252u << 10)    /* … longer ones, too: packed they must fit into a frame however they turn out */
#define PACK_HEAD 4u

struct packer;
/* NULL without memory. */
struct packer *packer_new(enum pack_method method);
enum pack_method packer_method(const struct packer *p);
void packer_free(struct packer **p);
/* Is it likely that packing these bytes makes them fewer? Looks at a sample of them and at how the last ones went. */
bool packer_wants(struct packer *p, const void *head, size_t head_len, const void *body, size_t body_len);
/* Room that packing takes at most. */
size_t packer_room(const struct packer *p, size_t len);
/* Head and body, PACK_LEAST to PACK_MOST bytes in all, at level 1 to 9: returns the bytes at `out`, 0 without memory (the stream is lost then). */
size_t packer_pack(struct packer *p, unsigned level, const void *head, size_t head_len, const void *body, size_t body_len, uint8_t *out);

struct unpacker;
struct unpacker *unpacker_new(enum pack_method method);
void unpacker_free(struct unpacker **u);
/* At most `most` bytes; they stay until the next call. 0; -EBADMSG: damaged, or it holds more or less than it says. The stream is lost then. */
int unpacker_unpack(struct unpacker *u, const uint8_t *in, size_t len, size_t most, const uint8_t **ret, size_t *ret_len,
	struct cdm_error *err);

#endif
