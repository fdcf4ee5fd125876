/* SPDX-License-Identifier: Apache-2.0 */
#include "common/cursor.h"

#ifdef __SSE4_2__
#include <nmmintrin.h>
#endif

const char *cdm_get_blob(struct cdm_reader *r, size_t max, size_t *ret_len)
{
	size_t len = cdm_get_u32(r);
	*ret_len = 0;
	if (len > max) {
		r->bad = true;
		return "";
	}
	const uint8_t *p = cdm_get_bytes(r, len);
	if (!p || len == 0)
		return "";
	*ret_len = len;
	return (const char *)p;
}

void cdm_put_blob(struct cdm_writer *w, const void *bytes, size_t len)
{
	cdm_put_u32(w, (uint32_t)len);
	cdm_put_bytes(w, bytes, len);
}

#ifdef __SSE4_2__

uint32_t cdm_crc32c(uint32_t crc, const void *bytes, size_t len)
{
	const uint8_t *p = bytes;
	uint64_t c = ~crc;
	for (; len >= 8; len -= 8, p += 8) {
		uint64_t word;
		memcpy(&word, p, sizeof word);
		c = _mm_crc32_u64(c, word);
	}
	for (; len > 0; len--)
		c = _mm_crc32_u8((uint32_t)c, *p++);
	return ~(uint32_t)c;
}

#else

/* Four bits at a time: small, no set-up, fast enough for machines without the instruction. */
uint32_t cdm_crc32c(uint32_t crc, const void *bytes, size_t len)
{
	static const uint32_t nibble[16] = {
		0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
		0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9, 0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
	};
	const uint8_t *p = bytes;
	uint32_t c = ~crc;
	for (; len > 0; len--) {
		c ^= *p++;
		c = c >> 4 ^ nibble[c & 15];
		c = c >> 4 ^ nibble[c & 15];
	}
	return ~c;
}

#endif
