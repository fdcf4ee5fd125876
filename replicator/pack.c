/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/pack.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>
#include "common/cursor.h"

#define WINDOW_LOG 20
#define TABLE_LOG 18      /* of match finders: 1 MiB each */
#define SAMPLE_FROM 2048u /* shorter ones are not worth a look */
#define STRETCHES 16u
#define STRETCH 128u
#define MISSES_MAX 4      /* after frames that did not shrink up to 15 go by */

struct packer {
	enum pack_method method;
	unsigned level; /* the stream's now; 0: none yet */
	ZSTD_CCtx *zstd;
	z_stream zlib;
	unsigned misses, let_by;
};

struct unpacker {
	enum pack_method method;
	ZSTD_DCtx *zstd;
	z_stream zlib;
	uint8_t *mem;
	size_t room;
};

/* --- worth it? --- */

/* Are all values about equally frequent, as in what is compressed already? */
static bool looks_random(const uint8_t *bytes, size_t len)
{
	uint16_t count[256] = {0};
	size_t step = (len - STRETCH) / (STRETCHES - 1);
	for (size_t i = 0; i < STRETCHES; i++)
		for (size_t k = 0; k < STRETCH; k++)
			count[bytes[i * step + k]]++;
	uint64_t squares = 0;
	for (size_t i = 0; i < 256; i++)
		squares += (uint64_t)count[i] * count[i];
	const uint64_t n = STRETCHES * STRETCH;
	return squares - n < n * n / 256 * 5 / 4; /* a fair draw gives n²/256, give or take 1 % */
}

bool packer_wants(struct packer *p, const void *head, size_t head_len, const void *body, size_t body_len)
{
	size_t len = head_len + body_len;
	if (len < PACK_LEAST || len > PACK_MOST)
		return false;
	if (len < SAMPLE_FROM)
		return true;
	if (p->let_by > 0) {
		p->let_by--;
		return false;
	}
	return body_len >= SAMPLE_FROM ? !looks_random(body, body_len) : head_len < SAMPLE_FROM || !looks_random(head, head_len);
}

static void learn(struct packer *p, size_t before, size_t after)
{
	if (before < SAMPLE_FROM)
		return;
	if (after < before - before / 16) {
		p->misses = 0;
		return;
	}
	if (p->misses < MISSES_MAX)
		p->misses++;
	p->let_by = (1u << p->misses) - 1;
}

/* --- packing --- */

struct packer *packer_new(enum pack_method method)
{
	struct packer *p = calloc(1, sizeof *p);
	if (p)
		p->method = method;
	return p;
}

enum pack_method packer_method(const struct packer *p)
{
	return p->method;
}

void packer_free(struct packer **pp)
{
	struct packer *p = *pp;
	*pp = NULL;
	if (!p)
		return;
	ZSTD_freeCCtx(p->zstd);
	if (p->method == PACK_ZLIB && p->level > 0)
		deflateEnd(&p->zlib);
	free(p);
}

size_t packer_room(const struct packer *p, size_t len)
{
	size_t zstd = ZSTD_compressBound(len), zlib = compressBound(len);
	return PACK_HEAD + (zstd > zlib ? zstd : zlib) + 64; /* an end of the old level's stream, a flush */
}

static bool zstd_set(ZSTD_CCtx *ctx, unsigned level)
{
	static const int levels[] = {1, 2, 3, 4, 5, 7, 9, 11, 12};
	int zstd = levels[level - 1], table = zstd >= 5 ? TABLE_LOG : 0; /* 0: the level's own, which is smaller */
	return !ZSTD_isError(ZSTD_CCtx_setParameter(ctx, ZSTD_c_compressionLevel, zstd)) &&
		!ZSTD_isError(ZSTD_CCtx_setParameter(ctx, ZSTD_c_windowLog, WINDOW_LOG)) &&
		!ZSTD_isError(ZSTD_CCtx_setParameter(ctx, ZSTD_c_hashLog, table)) &&
		!ZSTD_isError(ZSTD_CCtx_setParameter(ctx, ZSTD_c_chainLog, table));
}

static bool zstd_put(ZSTD_CCtx *ctx, ZSTD_outBuffer *out, const void *bytes, size_t len, ZSTD_EndDirective how)
{
	ZSTD_inBuffer in = {.src = bytes, .size = len};
	size_t left;
	do {
		left = ZSTD_compressStream2(ctx, out, &in, how);
	} while (!ZSTD_isError(left) && out->pos < out->size && (in.pos < in.size || (how != ZSTD_e_continue && left > 0)));
	return !ZSTD_isError(left) && in.pos == in.size && (how == ZSTD_e_continue || left == 0);
}

/* Another level begins another zstd frame; the end of the old one goes first. */
static bool zstd_level(struct packer *p, ZSTD_outBuffer *out, unsigned level)
{
	if (p->level == level)
		return true;
	if (!p->zstd && !(p->zstd = ZSTD_createCCtx()))
		return false;
	if (p->level > 0 && !zstd_put(p->zstd, out, NULL, 0, ZSTD_e_end))
		return false;
	p->level = level;
	return zstd_set(p->zstd, level);
}

static size_t pack_zstd(struct packer *p, unsigned level, const void *head, size_t head_len, const void *body, size_t body_len, uint8_t *to,
	size_t room)
{
	ZSTD_outBuffer out = {.dst = to, .size = room};
	if (!zstd_level(p, &out, level) || !zstd_put(p->zstd, &out, head, head_len, ZSTD_e_continue) ||
		!zstd_put(p->zstd, &out, body, body_len, ZSTD_e_flush))
		return 0;
	return out.pos;
}

static bool zlib_level(struct packer *p, unsigned level)
{
	int r = Z_OK;
	if (p->level == 0)
		r = deflateInit2(&p->zlib, (int)level, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
	else if (p->level != level)
		r = deflateParams(&p->zlib, (int)level, Z_DEFAULT_STRATEGY);
	if (r == Z_OK || (r == Z_BUF_ERROR && p->level > 0)) /* nothing was left to be flushed */
		p->level = level;
	return p->level == level;
}

static bool zlib_put(z_stream *z, const void *bytes, size_t len, int how)
{
	z->next_in = (Bytef *)bytes;
	z->avail_in = (uInt)len;
	int r = deflate(z, how);
	return (r == Z_OK || r == Z_BUF_ERROR) && z->avail_in == 0;
}

static size_t pack_zlib(struct packer *p, unsigned level, const void *head, size_t head_len, const void *body, size_t body_len, uint8_t *to,
	size_t room)
{
	p->zlib.next_out = to;
	p->zlib.avail_out = (uInt)room;
	if (!zlib_level(p, level) || !zlib_put(&p->zlib, head, head_len, Z_NO_FLUSH) || !zlib_put(&p->zlib, body, body_len, Z_SYNC_FLUSH) ||
		p->zlib.avail_out == 0)
		return 0;
	return room - p->zlib.avail_out;
}

size_t packer_pack(struct packer *p, unsigned level, const void *head, size_t head_len, const void *body, size_t body_len, uint8_t *out)
{
	size_t len = head_len + body_len, room = packer_room(p, len) - PACK_HEAD;
	assert(level >= 1 && level <= 9 && len >= PACK_LEAST && len <= PACK_MOST);
	struct cdm_writer w = cdm_writer_of(out, PACK_HEAD);
	cdm_put_u32(&w, (uint32_t)len);
	size_t n = (p->method == PACK_ZSTD ? pack_zstd : pack_zlib)(p, level, head, head_len, body, body_len, out + PACK_HEAD, room);
	learn(p, len, n);
	return n ? PACK_HEAD + n : 0;
}

/* --- unpacking --- */

struct unpacker *unpacker_new(enum pack_method method)
{
	struct unpacker *u = calloc(1, sizeof *u);
	if (!u)
		return NULL;
	u->method = method;
	bool good = method == PACK_ZSTD ? (u->zstd = ZSTD_createDCtx()) && !ZSTD_isError(ZSTD_DCtx_setParameter(u->zstd, ZSTD_d_windowLogMax, WINDOW_LOG))
					: inflateInit2(&u->zlib, -MAX_WBITS) == Z_OK;
	if (!good)
		unpacker_free(&u);
	return u;
}

void unpacker_free(struct unpacker **pu)
{
	struct unpacker *u = *pu;
	*pu = NULL;
	if (!u)
		return;
	ZSTD_freeDCtx(u->zstd);
	if (u->method == PACK_ZLIB)
		inflateEnd(&u->zlib);
	free(u->mem);
	free(u);
}

/* Both: how many bytes came out, never more than `room`; SIZE_MAX when the stream is damaged. All of `in` is used, or `room` is. */
static size_t unpack_zstd(struct unpacker *u, const uint8_t *from, size_t len, size_t room)
{
	ZSTD_inBuffer in = {.src = from, .size = len};
	ZSTD_outBuffer out = {.dst = u->mem, .size = room};
	do {
		size_t r = ZSTD_decompressStream(u->zstd, &out, &in);
		if (ZSTD_isError(r))
			return SIZE_MAX;
	} while (in.pos < in.size && out.pos < out.size);
	return in.pos == in.size || out.pos == out.size ? out.pos : SIZE_MAX;
}

static size_t unpack_zlib(struct unpacker *u, const uint8_t *from, size_t len, size_t room)
{
	u->zlib.next_in = (Bytef *)from;
	u->zlib.avail_in = (uInt)len;
	u->zlib.next_out = u->mem;
	u->zlib.avail_out = (uInt)room;
	int r = inflate(&u->zlib, Z_SYNC_FLUSH);
	if (r != Z_OK || (u->zlib.avail_in > 0 && u->zlib.avail_out > 0))
		return SIZE_MAX; /* our streams have no end */
	return room - u->zlib.avail_out;
}

int unpacker_unpack(struct unpacker *u, const uint8_t *in, size_t len, size_t most, const uint8_t **ret, size_t *ret_len, struct cdm_error *err)
{
	struct cdm_reader r = cdm_reader_of(in, len);
	size_t size = cdm_get_u32(&r);
	if (r.bad || size == 0 || size > most)
		return cdm_fail_plain(err, EBADMSG, "a compressed frame that says it holds %zu bytes (1 to %zu)", size, most);
	if (u->room < size + 1) { /* one more, to see when there is more than was said */
		free(u->mem);
		u->room = 0;
		u->mem = malloc(size + 1);
		if (!u->mem)
			return cdm_fail(err, ENOMEM, "unpack a frame");
		u->room = size + 1;
	}
	size_t got = (u->method == PACK_ZSTD ? unpack_zstd : unpack_zlib)(u, r.at, cdm_reader_left(&r), size + 1);
	if (got == SIZE_MAX)
		return cdm_fail_plain(err, EBADMSG, "a compressed frame that is damaged");
	if (got != size)
		return cdm_fail_plain(err, EBADMSG, "a compressed frame that holds %s bytes than the %zu it says", got > size ? "more" : "fewer", size);
	*ret = u->mem;
	*ret_len = size;
	return 0;
}
