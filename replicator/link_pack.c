/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/link_pack.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "replicator/link.h"

static const struct {
	uint32_t feature;
	uint8_t flag;
} methods[PACK_METHODS] = {
	[PACK_ZLIB] = {WIRE_FEATURE_ZLIB, WIRE_FLAG_ZLIB},
	[PACK_ZSTD] = {WIRE_FEATURE_ZSTD, WIRE_FLAG_ZSTD},
};

static void must(bool good)
{
	if (!good)
		abort(); /* no memory */
}

static bool wants(struct link_pack *p, unsigned level, uint32_t features, const void *head, size_t head_len, const void *body, size_t body_len)
{
	if (level == 0 || head_len + body_len < PACK_LEAST || !(features & (WIRE_FEATURE_ZSTD | WIRE_FEATURE_ZLIB)))
		return false;
	if (!p->packer)
		must((p->packer = packer_new(features & WIRE_FEATURE_ZSTD ? PACK_ZSTD : PACK_ZLIB)));
	return packer_wants(p->packer, head, head_len, body, body_len);
}

size_t link_pack_send(struct link_pack *p, unsigned level, uint32_t features, struct conn *conn, const struct wire_header *h, const void *head,
	size_t head_len, const void *body, size_t body_len, struct chunk *chunk)
{
	struct wire_header sent = *h;
	bool packed = wants(p, level, features, head, head_len, body, body_len);
	size_t copied = head_len + (chunk ? 0 : body_len);
	uint8_t *to = conn_room(conn, WIRE_HEADER + (packed ? packer_room(p->packer, h->payload) : copied));
	if (!to)
		return 0;
	if (packed) {
		sent.flags |= methods[packer_method(p->packer)].flag;
		sent.payload = (uint32_t)packer_pack(p->packer, level, head, head_len, body, body_len, to + WIRE_HEADER);
		must(sent.payload > 0 && sent.payload <= FRAME_PAYLOAD_MAX);
		copied = sent.payload;
	} else {
		if (head_len)
			memcpy(to + WIRE_HEADER, head, head_len);
		if (copied > head_len)
			memcpy(to + WIRE_HEADER + head_len, body, body_len);
	}
	wire_header_encode(&sent, to);
	conn_added(conn, WIRE_HEADER + copied);
	if (sent.payload > copied)
		conn_send_chunk(conn, chunk, body, body_len);
	return sent.payload;
}

int link_pack_take(struct link_pack *p, uint32_t features, struct wire_header *h, const uint8_t **payload, struct cdm_error *err)
{
	uint8_t flags = h->flags & (WIRE_FLAG_ZSTD | WIRE_FLAG_ZLIB);
	if (!flags)
		return 0;
	enum pack_method method = flags == WIRE_FLAG_ZSTD ? PACK_ZSTD : PACK_ZLIB;
	if (flags != methods[method].flag || h->type < FRAME_SUBSCRIBE || !(features & methods[method].feature))
		return cdm_fail_plain(err, EPROTO, "a frame of type %u compressed in a way that was not agreed on (flags %x)", h->type, h->flags);
	if (!p->unpackers[method])
		must((p->unpackers[method] = unpacker_new(method)));
	size_t len;
	int r = unpacker_unpack(p->unpackers[method], *payload, h->payload, FRAME_PAYLOAD_MAX, payload, &len, err);
	if (r < 0)
		return r;
	h->flags &= (uint8_t)~flags;
	h->payload = (uint32_t)len;
	return 0;
}

void link_pack_fini(struct link_pack *p)
{
	packer_free(&p->packer);
	for (unsigned i = 0; i < PACK_METHODS; i++)
		unpacker_free(&p->unpackers[i]);
}
