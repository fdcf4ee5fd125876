/* SPDX-License-Identifier: Apache-2.0 */
/* Compressed frames of one stream. First byte: the method; then u16 length, a frame, and so on, until one is refused. */
#include "fuzz.h"

#include <stdlib.h>
#include "common/cursor.h"
#include "replicator/pack.h"

#define MOST (256u << 10)

static uint64_t sum; /* of all bytes that came out: every one of them must be there */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cdm_reader r = cdm_reader_of(data, size);
	struct unpacker *u = unpacker_new(cdm_get_u8(&r) % PACK_METHODS);
	if (!u)
		abort();
	while (cdm_reader_left(&r) > 2) {
		size_t len = cdm_get_u16(&r), left = cdm_reader_left(&r), got_len;
		const uint8_t *got, *in = cdm_get_bytes(&r, len < left ? len : left);
		if (unpacker_unpack(u, in, len < left ? len : left, MOST, &got, &got_len, NULL) < 0)
			break;
		if (got_len == 0 || got_len > MOST)
			abort();
		for (size_t i = 0; i < got_len; i++)
			sum += got[i];
	}
	unpacker_free(&u);
	return 0;
}
