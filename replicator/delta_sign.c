/* SPDX-License-Identifier: Apache-2.0 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "replicator/delta.h"
#include "replicator/delta_read.h"
#include "replicator/delta_roll.h"

static const uint8_t zeros[4096];

unsigned delta_bits(uint64_t size)
{
	unsigned bits = size ? (63u - (unsigned)__builtin_clzll(size)) / 2 : 0; /* 2^bits: about the root */
	bits = bits > DELTA_BITS_MIN + 2 ? bits - 2 : DELTA_BITS_MIN;           /* smaller: the signature does not travel */
	while (bits < DELTA_BITS_MAX && (size + (1ull << bits) - 1) >> bits > DELTA_BLOCKS_MAX)
		bits++;
	return bits;
}

struct delta_signer {
	uint64_t size, fed;
	unsigned bits;
	size_t in_block;         /* bytes of the current block so far */
	uint32_t rolling;        /* of them */
	XXH3_state_t *block;     /* of them, if any */
	XXH3_state_t *whole;
	bool zero_known;
	uint32_t zero_strong;    /* of a whole block of zeros */
	XXH128_canonical_t zero_hash;
	struct delta_signature *signature; /* or NULL */
};

struct delta_signer *delta_signer_new(uint64_t size, bool want_blocks)
{
	struct delta_signer *s = calloc(1, sizeof *s);
	if (!s || !(s->block = XXH3_createState()) || !(s->whole = XXH3_createState()))
		abort();
	s->size = size;
	s->bits = delta_bits(size);
	XXH3_128bits_reset(s->whole);
	if (!want_blocks)
		return s;
	size_t count = (size_t)((size + (1ull << s->bits) - 1) >> s->bits);
	s->signature = malloc(sizeof *s->signature + count * sizeof s->signature->blocks[0]);
	if (!s->signature)
		abort();
	s->signature->size = size;
	s->signature->bits = s->bits;
	s->signature->count = 0;
	return s;
}

void delta_signer_free(struct delta_signer **signer)
{
	struct delta_signer *s = *signer;
	if (!s)
		return;
	*signer = NULL;
	XXH3_freeState(s->block);
	XXH3_freeState(s->whole);
	free(s->signature);
	free(s);
}

static void add_block(struct delta_signer *s, uint32_t rolling, XXH128_hash_t hash)
{
	XXH128_canonical_t canonical;
	XXH128_canonicalFromHash(&canonical, hash);
	XXH3_128bits_update(s->whole, canonical.digest, sizeof canonical.digest);
	if (s->signature)
		s->signature->blocks[s->signature->count++] = (struct delta_block){rolling, (uint32_t)hash.low64};
}

static void end_block(struct delta_signer *s)
{
	add_block(s, s->rolling, XXH3_128bits_digest(s->block));
	s->in_block = 0;
	s->rolling = 0;
}

static void feed_part(struct delta_signer *s, const uint8_t *data, size_t len)
{
	if (!s->in_block)
		XXH3_128bits_reset(s->block);
	XXH3_128bits_update(s->block, data, len);
	if (s->signature)
		s->rolling = roll_join(s->rolling, roll_hash(data, len), len);
	s->in_block += len;
	if (s->in_block == (size_t)1 << s->bits)
		end_block(s);
}

static void take(struct delta_signer *s, uint64_t len)
{
	if (len > s->size - s->fed)
		abort(); /* the caller's promise; the room for blocks rests on it */
	s->fed += len;
}

void delta_signer_feed(struct delta_signer *s, const void *data, size_t len)
{
	const uint8_t *p = data, *end = p + len;
	const size_t block = (size_t)1 << s->bits;
	take(s, len);
	if (s->in_block) {
		size_t part = block - s->in_block < len ? block - s->in_block : len;
		feed_part(s, p, part);
		p += part;
	}
	for (; (size_t)(end - p) >= block; p += block)
		add_block(s, s->signature ? roll_hash(p, block) : 0, XXH3_128bits(p, block));
	if (p < end)
		feed_part(s, p, (size_t)(end - p));
}

static void know_zeros(struct delta_signer *s)
{
	XXH3_128bits_reset(s->block); /* between two blocks it is free */
	for (size_t left = (size_t)1 << s->bits, n; left; left -= n) {
		n = left < sizeof zeros ? left : sizeof zeros;
		XXH3_128bits_update(s->block, zeros, n);
	}
	XXH128_hash_t hash = XXH3_128bits_digest(s->block);
	XXH128_canonicalFromHash(&s->zero_hash, hash);
	s->zero_strong = (uint32_t)hash.low64;
	s->zero_known = true;
}

static void add_zero_blocks(struct delta_signer *s, uint64_t count)
{
	if (!s->zero_known)
		know_zeros(s);
	for (; count; count--) {
		XXH3_128bits_update(s->whole, s->zero_hash.digest, sizeof s->zero_hash.digest);
		if (s->signature)
			s->signature->blocks[s->signature->count++] = (struct delta_block){0, s->zero_strong};
	}
}

void delta_signer_feed_zeros(struct delta_signer *s, uint64_t len)
{
	const uint64_t block = 1ull << s->bits;
	while (len) {
		if (!s->in_block && len >= block) {
			take(s, len & ~(block - 1));
			add_zero_blocks(s, len >> s->bits);
			len &= block - 1;
			continue;
		}
		uint64_t n = block - s->in_block < len ? block - s->in_block : len;
		n = n < sizeof zeros ? n : sizeof zeros;
		delta_signer_feed(s, zeros, n);
		len -= n;
	}
}

struct delta_signature *delta_signer_end(struct delta_signer *s, uint8_t ret_digest[16])
{
	if (s->fed != s->size)
		abort();
	if (s->in_block)
		end_block(s);
	uint64_t le = htole64(s->size);
	XXH128_canonical_t canonical;
	XXH3_128bits_update(s->whole, &le, sizeof le);
	XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(s->whole));
	memcpy(ret_digest, canonical.digest, sizeof canonical.digest);
	struct delta_signature *signature = s->signature;
	s->signature = NULL;
	return signature;
}

int delta_sign_file(int fd, struct delta_signature **ret, uint8_t ret_digest[16], struct cdm_error *err)
{
	struct stat st;
	if (fstat(fd, &st) < 0)
		return cdm_fail(err, errno, "sign a file");
	uint64_t size = (uint64_t)st.st_size;
	if (size > DELTA_SIZE_MAX)
		return cdm_fail_plain(err, EFBIG, "a file of %llu bytes has no signature", (unsigned long long)size);
	struct delta_signer *s = delta_signer_new(size, true);
	int r = delta_feed(fd, 0, size, s, err);
	if (r == 0)
		*ret = delta_signer_end(s, ret_digest);
	delta_signer_free(&s);
	return r;
}
