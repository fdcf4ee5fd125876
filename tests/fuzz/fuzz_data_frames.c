/* SPDX-License-Identifier: Apache-2.0 */
/* Payloads of the data plane from a hostile peer: the first byte says which decoder. What decodes encodes to the same bytes again. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>
#include "replicator/data_frames.h"

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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct batch_head head;
	struct piece piece;
	struct change_end end;
	struct need need;
	if (!size)
		return 0;
	uint8_t kind = data[0] % 6;
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
	else if (need_decode(data, size, &need) < 0)
		change_end_decode(data, size, &end);
	return 0;
}
