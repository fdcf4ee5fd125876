/* SPDX-License-Identifier: Apache-2.0 */
/* link_pack.h — frames of a link between their plain and their compressed form (pack.h). Streams are made when first needed and live as
 * long as the link. Loop thread only. */
#ifndef REPLICATOR_LINK_PACK_H
#define REPLICATOR_LINK_PACK_H

#include "replicator/conn.h"
#include "replicator/pack.h"
#include "replicator/wire_codec.h"

struct link_pack { /* zeroed: nothing was compressed yet */
	struct packer *packer;
	struct unpacker *unpackers[PACK_METHODS];
};
/* Queue a frame; `h` tells the plain one. Compressed where level > 0, features (WIRE_FEATURE_…, of both ends) allow it and the bytes let
 * hope for it. The body is copied, unless it is in a chunk (else NULL). Returns the payload's bytes as they are sent. */
size_t link_pack_send(struct link_pack *p, unsigned level, uint32_t features, struct conn *conn, const struct wire_header *h, const void *head,
	size_t head_len, const void *body, size_t body_len, struct chunk *chunk);
/* A frame that came: if it is compressed, header and payload become those of the plain one, which stays until the next call. Every frame
 * must pass here, in order, also one that is then dropped. 0, or -errno with err: the link must end. */
int link_pack_take(struct link_pack *p, uint32_t features, struct wire_header *h, const uint8_t **payload, struct cdm_error *err);
void link_pack_fini(struct link_pack *p);

#endif
