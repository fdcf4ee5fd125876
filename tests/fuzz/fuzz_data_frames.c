/* SPDX-License-Identifier: Apache-2.0 */
/* Payloads of the data plane from a hostile peer: the first byte says which decoder. What decodes encodes to the same bytes again. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>
#include "replicator/scrub_frames.h"

static void same(const struct bytes *again, const uint8_t *data, size_t size)
{
	if (again->len != size || memcmp(again->data, data, size) != 0)
		abort();
}

static void try_carried(const uint8_t *data, size_t size)
{
	struct carried c;
	if (carried_decode(data, size, &c) < 0)
		return;
	struct bytes again = {0};
	carried_encode(&c, &again);
	if (c.flags & CARRIED_INLINE) {
		bytes_put(&again, c.pieces, c.pieces_len);
		bytes_put(&again, c.hash, sizeof c.hash);
	}
	same(&again, data, size);
	bytes_fini(&again);
	carried_fini(&c);
}

static void try_subscribe(const uint8_t *data, size_t size)
{
	struct subscribe s;
	if (subscribe_decode(data, size, &s) < 0)
		return;
	struct bytes again = {0};
	subscribe_encode(&s, &again);
	same(&again, data, size);
	bytes_fini(&again);
	subscribe_fini(&s);
}

static void try_ack(const uint8_t *data, size_t size)
{
	struct ack a;
	if (ack_decode(data, size, &a) < 0)
		return;
	struct bytes again = {0};
	ack_encode(&a, &again);
	same(&again, data, size);
	bytes_fini(&again);
	ack_fini(&a);
}

static void try_small(uint8_t kind, const uint8_t *data, size_t size)
{
	struct bytes again = {0};
	struct fetch_ask ask;
	struct coming coming;
	struct fed_piece fed;
	struct fed_end end;
	struct fetch_at at;
	struct need need;
	struct signature_part part;
	uint32_t request;
	if (kind == 6 && fetch_ask_decode(data, size, &ask) == 0)
		fetch_ask_encode(&ask, &again);
	else if (kind == 7 && coming_decode(data, size, &coming) == 0)
		coming_encode(&coming, &again);
	else if (kind == 8 && fed_end_decode(data, size, &end) == 0)
		fed_end_encode(&end, &again);
	else if (kind == 9 && fetch_at_decode(data, size, &at) == 0)
		fetch_at_encode(&at, &again);
	else if (kind == 10 && fetch_stop_decode(data, size, &request) == 0)
		fetch_stop_encode(request, &again);
	else if (kind == 11 && fed_piece_decode(data, size, &fed) == 0) {
		fed_piece_encode_head(fed.request, fed.piece.offset, fed.piece.len, &again);
		bytes_put(&again, fed.piece.data, fed.piece.len);
	} else if (kind == 15 && need_decode(data, size, &need) == 0) {
		need_encode(&need, &again);
	} else if (kind == 16 && signature_part_decode(data, size, &part) == 0) {
		signature_part_encode_head(part.ticket, part.total, &again);
		bytes_put(&again, part.data, part.len);
	} else {
		return;
	}
	same(&again, data, size);
	bytes_fini(&again);
}

static void try_scrub(uint8_t kind, const uint8_t *data, size_t size)
{
	static struct scrub_ask ask;
	static struct scrub_tell tell;
	struct bytes again = {0};
	struct scrub_question look;
	if (kind == 12 && scrub_ask_decode(data, size, &ask) == 0)
		scrub_ask_encode(&ask, &again);
	else if (kind == 13 && scrub_tell_decode(data, size, &tell) == 0)
		scrub_tell_encode(&tell, &again);
	else if (kind == 14 && scrub_look_decode(data, size, &look) == 0)
		scrub_look_encode(&look, &again);
	else
		return;
	same(&again, data, size);
	bytes_fini(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct batch_head head;
	struct piece piece;
	struct change_end end;
	if (!size)
		return 0;
	uint8_t kind = data[0] % 17;
	data++;
	size--;
	if (kind == 0)
		try_carried(data, size);
	else if (kind == 1)
		try_subscribe(data, size);
	else if (kind == 2)
		try_ack(data, size);
	else if (kind == 3)
		batch_head_decode(data, size, &head);
	else if (kind == 4)
		piece_decode(data, size, &piece);
	else if (kind > 11 && kind < 15)
		try_scrub(kind, data, size);
	else if (kind > 5)
		try_small(kind, data, size);
	else
		change_end_decode(data, size, &end);
	return 0;
}
