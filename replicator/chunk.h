/* SPDX-License-Identifier: Apache-2.0 */
/* chunk.h — page-aligned memory for pieces of contents, counted: a piece that came is hashed, written, kept and sent on where it is, without a
 * copy. What is given back is used again, up to CHUNKS_SPARE of full size. Whoever takes one bounds how many there are. Loop thread only. */
#ifndef REPLICATOR_CHUNK_H
#define REPLICATOR_CHUNK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CHUNK_BYTES (128u << 10) /* the largest piece */
#define CHUNKS_SPARE 16

struct chunk {
	uint8_t *data; /* page-aligned */
	unsigned refs;
	bool full_size;
	struct chunk *next; /* among the spare ones */
};

/* Room for `len` bytes, CHUNK_BYTES at most, uninitialised, with one reference. Ends the program without memory. */
struct chunk *chunk_new(size_t len);
struct chunk *chunk_ref(struct chunk *c);
void chunk_unref(struct chunk *c); /* NULL is fine */

#endif
