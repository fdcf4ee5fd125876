/* SPDX-License-Identifier: Apache-2.0 */
/* cursor.h — reading and writing bytes with bounds. Everything that comes from a disk, a peer or shared memory is taken
 * apart with these and nothing else. All integers are little endian.
 * A cursor that would leave its bytes turns bad and stays so: reads then give zeros, writes do nothing. So a codec reads
 * all its fields first and looks at `bad` once, before it trusts any of them. Lengths that were read are limited by the
 * caller before memory is taken for them. Threads: none of its own. */
#ifndef CDM_CURSOR_H
#define CDM_CURSOR_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct cdm_reader {
	const uint8_t *at, *end;
	bool bad;
};

struct cdm_writer {
	uint8_t *at, *end;
	bool bad;
};

static inline struct cdm_reader cdm_reader_of(const void *bytes, size_t len)
{
	const uint8_t *b = bytes;
	return (struct cdm_reader){.at = b, .end = b + len};
}
static inline struct cdm_writer cdm_writer_of(void *bytes, size_t room)
{
	uint8_t *b = bytes;
	return (struct cdm_writer){.at = b, .end = b + room};
}
static inline size_t cdm_reader_left(const struct cdm_reader *r)
{
	return r->bad ? 0 : (size_t)(r->end - r->at);
}

/* Borrow the next len bytes; NULL (and bad) if there are fewer. */
static inline const uint8_t *cdm_get_bytes(struct cdm_reader *r, size_t len)
{
	if (cdm_reader_left(r) < len) {
		r->bad = true;
		return NULL;
	}
	const uint8_t *p = r->at;
	r->at += len;
	return p;
}
/* Room for the next len bytes; NULL (and bad) if there is less. */
static inline uint8_t *cdm_put_room(struct cdm_writer *w, size_t len)
{
	if (w->bad || (size_t)(w->end - w->at) < len) {
		w->bad = true;
		return NULL;
	}
	uint8_t *p = w->at;
	w->at += len;
	return p;
}
static inline void cdm_put_bytes(struct cdm_writer *w, const void *bytes, size_t len)
{
	uint8_t *p = cdm_put_room(w, len);
	if (p && len)
		memcpy(p, bytes, len);
}

#define CDM_CURSOR_INT(bits)                                                       \
	static inline uint##bits##_t cdm_get_u##bits(struct cdm_reader *r)         \
	{                                                                          \
		uint##bits##_t v = 0;                                              \
		const uint8_t *p = cdm_get_bytes(r, sizeof v);                     \
		if (p)                                                             \
			memcpy(&v, p, sizeof v);                                   \
		return le##bits##toh(v);                                           \
	}                                                                          \
	static inline void cdm_put_u##bits(struct cdm_writer *w, uint##bits##_t v) \
	{                                                                          \
		v = htole##bits(v);                                                \
		cdm_put_bytes(w, &v, sizeof v);                                    \
	}
CDM_CURSOR_INT(16)
CDM_CURSOR_INT(32)
CDM_CURSOR_INT(64)
#undef CDM_CURSOR_INT

static inline uint8_t cdm_get_u8(struct cdm_reader *r)
{
	const uint8_t *p = cdm_get_bytes(r, 1);
	return p ? *p : 0;
}
static inline void cdm_put_u8(struct cdm_writer *w, uint8_t v)
{
	cdm_put_bytes(w, &v, 1);
}
static inline int64_t cdm_get_i64(struct cdm_reader *r)
{
	return (int64_t)cdm_get_u64(r);
}
static inline void cdm_put_i64(struct cdm_writer *w, int64_t v)
{
	cdm_put_u64(w, (uint64_t)v);
}

/* A string or blob: u32 length, bytes. get: a length above `max` makes the cursor bad; an empty one gives "", 0. */
const char *cdm_get_blob(struct cdm_reader *r, size_t max, size_t *ret_len);
void cdm_put_blob(struct cdm_writer *w, const void *bytes, size_t len);

/* CRC-32C (Castagnoli) of len bytes, continued from `crc` (0 to start). */
uint32_t cdm_crc32c(uint32_t crc, const void *bytes, size_t len);

#endif
