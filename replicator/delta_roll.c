/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/delta_roll.h"

#include <stdatomic.h>

#define P 0x2C9277B5u /* odd and 5 modulo 8: its powers repeat only after 2^30 */

static uint32_t power(uint64_t n)
{
	uint32_t result = 1, square = P;
	for (; n; n >>= 1, square *= square)
		if (n & 1)
			result *= square;
	return result;
}

uint32_t roll_join(uint32_t a, uint32_t b, uint64_t b_len)
{
	return a * power(b_len) + b;
}

/* --- anywhere --- */

static uint32_t hash_plain(uint32_t h, const uint8_t *data, size_t len)
{
	const uint32_t p2 = P * P, p3 = p2 * P, p4 = p2 * p2;
	size_t i = 0;
	for (; i + 4 <= len; i += 4)
		h = h * p4 + (data[i] * p3 + data[i + 1] * p2 + data[i + 2] * P + data[i + 3]);
	for (; i < len; i++)
		h = h * P + data[i];
	return h;
}

void roll_window_init(struct roll_window *w, size_t len)
{
	w->len = len;
	w->leaving = power(len);
	w->powers[0] = 1;
	for (int i = 1; i <= 16; i++)
		w->powers[i] = w->powers[i - 1] * P;
}

uint32_t roll_move(const struct roll_window *w, const uint8_t *data, uint32_t hash)
{
	return hash * P + data[w->len] - data[0] * w->leaving;
}

/* From position `at` on. */
static size_t scan_plain(const struct roll_window *w, const struct roll_filter *f, const uint8_t *data, size_t at, size_t count,
	uint32_t *hash)
{
	uint32_t h = *hash;
	for (; at < count && !roll_filter_has(f, h); at++)
		h = roll_move(w, data + at, h);
	*hash = h;
	return at;
}

/* --- AVX2 --- */

#ifdef __x86_64__
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2")))

static _Atomic int vectors = -1; /* unknown yet */

static bool have_vectors(void)
{
	int v = atomic_load_explicit(&vectors, memory_order_relaxed);
	if (v < 0) {
		v = __builtin_cpu_supports("avx2") != 0;
		atomic_store_explicit(&vectors, v, memory_order_relaxed);
	}
	return v != 0;
}

void roll_use_vectors(bool vector)
{
	atomic_store(&vectors, vector && __builtin_cpu_supports("avx2") != 0);
}

AVX2 static __m256i eight_bytes(const uint8_t *p)
{
	return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
}

#define P2 (P * P)
#define P4 (P2 * P2)
#define P8 (P4 * P4)
#define P16 (P8 * P8)
#define P64 (P16 * P16 * P16 * P16)

/* 64 bytes a step, each of the 64 lanes the polynomial of every 64th byte: independent of each other, for the multiplication takes long. */
AVX2 static uint32_t hash_vector(const uint8_t *data, size_t len)
{
	const __m256i p64 = _mm256_set1_epi32((int)P64), p8 = _mm256_set1_epi32((int)P8);
	const __m256i ends = _mm256_setr_epi32((int)(P4 * P2 * P), (int)(P4 * P2), (int)(P4 * P), (int)P4, (int)(P2 * P), (int)P2, (int)P, 1);
	__m256i acc[8];
	size_t i = 64;
#pragma GCC unroll 8
	for (int k = 0; k < 8; k++)
		acc[k] = eight_bytes(data + 8 * k);
	for (; i + 64 <= len; i += 64)
#pragma GCC unroll 8
		for (int k = 0; k < 8; k++)
			acc[k] = _mm256_add_epi32(_mm256_mullo_epi32(acc[k], p64), eight_bytes(data + i + 8 * k));
	__m256i sum = acc[0];
#pragma GCC unroll 8
	for (int k = 1; k < 8; k++)
		sum = _mm256_add_epi32(_mm256_mullo_epi32(sum, p8), acc[k]);
	sum = _mm256_mullo_epi32(sum, ends);
	__m128i half = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
	half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
	half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1));
	return hash_plain((uint32_t)_mm_cvtsi128_si32(half), data + i, len - i);
}

struct scan_constants {
	__m256i leaving, p1, p2, p_high, p1_8, p9_16, p16;
};

/* What eight moves of the window add to its checksum: lane j has the sum over i ≤ j of P^(j-i) (entering i - leaving i × P^window). */
AVX2 static inline __m256i moves(const struct scan_constants *k, const uint8_t *leaving, const uint8_t *entering)
{
	__m256i s = _mm256_sub_epi32(eight_bytes(entering), _mm256_mullo_epi32(eight_bytes(leaving), k->leaving));
	s = _mm256_add_epi32(s, _mm256_mullo_epi32(_mm256_slli_si256(s, 4), k->p1));
	s = _mm256_add_epi32(s, _mm256_mullo_epi32(_mm256_slli_si256(s, 8), k->p2));
	__m256i low_end = _mm256_permutevar8x32_epi32(s, _mm256_set1_epi32(3));
	return _mm256_add_epi32(s, _mm256_mullo_epi32(low_end, k->p_high)); /* zero for the low half */
}

AVX2 static inline __m256i last_lane(__m256i v)
{
	return _mm256_permutevar8x32_epi32(v, _mm256_set1_epi32(7));
}

/* A bit for each lane that is in the filter. */
AVX2 static inline unsigned filtered(const struct roll_filter *f, __m128i shift, __m256i hash)
{
	const __m256i low5 = _mm256_set1_epi32(31), one = _mm256_set1_epi32(1);
	__m256i word = _mm256_i32gather_epi32((const int *)f->words, _mm256_srl_epi32(hash, shift), 4);
	__m256i a = _mm256_srlv_epi32(word, _mm256_and_si256(hash, low5));
	__m256i b = _mm256_srlv_epi32(word, _mm256_and_si256(_mm256_srli_epi32(hash, 5), low5));
	__m256i both = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_and_si256(a, b), one), one);
	return (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(both));
}

AVX2 static uint32_t lane(__m256i v, unsigned i)
{
	uint32_t all[8];
	_mm256_storeu_si256((__m256i *)all, v);
	return all[i];
}

AVX2 static __m256i load(const uint32_t *p)
{
	return _mm256_loadu_si256((const __m256i *)p);
}

AVX2 static size_t scan_vector(const struct roll_window *w, const struct roll_filter *f, const uint8_t *data, size_t count, uint32_t *hash)
{
	const uint32_t *p = w->powers;
	const struct scan_constants k = {.leaving = _mm256_set1_epi32((int)w->leaving), .p1 = _mm256_set1_epi32((int)p[1]),
		.p2 = _mm256_set1_epi32((int)p[2]), .p_high = _mm256_setr_epi32(0, 0, 0, 0, (int)p[1], (int)p[2], (int)p[3], (int)p[4]),
		.p1_8 = load(p + 1), .p9_16 = load(p + 9), .p16 = _mm256_set1_epi32((int)p[16])};
	const size_t window = w->len;
	const __m128i shift = _mm_cvtsi32_si128((int)f->shift);
	__m256i h = _mm256_set1_epi32((int)*hash); /* at position `at`, looked at already */
	size_t at = 0;
	if (roll_filter_has(f, *hash))
		return 0;
	for (; at + 16 < count; at += 16) {
		__m256i a = moves(&k, data + at, data + at + window);
		__m256i b = moves(&k, data + at + 8, data + at + 8 + window);
		b = _mm256_add_epi32(b, _mm256_mullo_epi32(last_lane(a), k.p1_8));
		__m256i first = _mm256_add_epi32(a, _mm256_mullo_epi32(h, k.p1_8));
		__m256i second = _mm256_add_epi32(b, _mm256_mullo_epi32(h, k.p9_16));
		unsigned hits = filtered(f, shift, first) | filtered(f, shift, second) << 8;
		if (hits) {
			unsigned i = (unsigned)__builtin_ctz(hits);
			*hash = i < 8 ? lane(first, i) : lane(second, i - 8);
			return at + 1 + i;
		}
		h = _mm256_add_epi32(last_lane(b), _mm256_mullo_epi32(h, k.p16));
	}
	*hash = (uint32_t)_mm_cvtsi128_si32(_mm256_castsi256_si128(h));
	return scan_plain(w, f, data, at, count, hash);
}

#else

static bool have_vectors(void)
{
	return false;
}

void roll_use_vectors(bool vector)
{
}

static uint32_t hash_vector(const uint8_t *data, size_t len)
{
	return hash_plain(0, data, len);
}

static size_t scan_vector(const struct roll_window *w, const struct roll_filter *f, const uint8_t *data, size_t count, uint32_t *hash)
{
	return scan_plain(w, f, data, 0, count, hash);
}

#endif

uint32_t roll_hash(const uint8_t *data, size_t len)
{
	return have_vectors() && len >= 64 ? hash_vector(data, len) : hash_plain(0, data, len);
}

size_t roll_scan(const struct roll_window *w, const struct roll_filter *f, const uint8_t *data, size_t count, uint32_t *hash)
{
	return have_vectors() ? scan_vector(w, f, data, count, hash) : scan_plain(w, f, data, 0, count, hash);
}
