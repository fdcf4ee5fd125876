/* SPDX-License-Identifier: Apache-2.0 */
/* delta_roll.h — the rolling checksum of the delta search: a polynomial over the bytes of a window, modulo 2^32 (Karp and Rabin,
 * "Efficient randomized pattern-matching algorithms", 1987), so that a window's checksum follows from its neighbour's. Chosen over
 * the two sums of the classic algorithm because its bits are spread evenly (a filter can use them as they are) and because a
 * prefix sum gives sixteen neighbours at once where the processor has AVX2; elsewhere the plain loop gives the same values.
 * Pure; any thread. */
#ifndef REPLICATOR_DELTA_ROLL_H
#define REPLICATOR_DELTA_ROLL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Checksum of len bytes. */
uint32_t roll_hash(const uint8_t *data, size_t len);
/* Of two neighbours together, from the checksum of each: a, then b which has b_len bytes. */
uint32_t roll_join(uint32_t a, uint32_t b, uint64_t b_len);

/* Which checksums are worth a look: each sets two bits in one word. False hits only. */
struct roll_filter {
	uint32_t *words; /* 1 << (32 - shift) of them */
	unsigned shift;  /* 9 … 31 */
};
static inline uint32_t roll_filter_bits(uint32_t hash)
{
	return 1u << (hash & 31) | 1u << (hash >> 5 & 31);
}
static inline void roll_filter_add(struct roll_filter *f, uint32_t hash)
{
	f->words[hash >> f->shift] |= roll_filter_bits(hash);
}
static inline bool roll_filter_has(const struct roll_filter *f, uint32_t hash)
{
	uint32_t bits = roll_filter_bits(hash);
	return (f->words[hash >> f->shift] & bits) == bits;
}

struct roll_window { /* what moving a window of this length needs */
	size_t len;
	uint32_t leaving;    /* weight of a byte that leaves */
	uint32_t powers[17]; /* of the base */
};
void roll_window_init(struct roll_window *w, size_t len);

/* The window lies on data[0 … len) and has the checksum *hash. Moves it until its checksum is in the filter, but at most to
 * `count` (there it is not looked at any more): count + len bytes must be readable. Returns how far it moved; *hash is the checksum there. */
size_t roll_scan(const struct roll_window *w, const struct roll_filter *f, const uint8_t *data, size_t count, uint32_t *hash);
/* One byte further, without a look: data[0 … len] must be readable. */
uint32_t roll_move(const struct roll_window *w, const uint8_t *data, uint32_t hash);

/* As the above with or without vectors; for tests and measurements. `vector` is only obeyed where the processor can. */
void roll_use_vectors(bool vector);

#endif
