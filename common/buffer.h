/* SPDX-License-Identifier: Apache-2.0 */
/* buffer.h — bytes that come in at the end and go away at the start of a growing piece of memory. Zeroed: empty. Ends the program when there is
 * no memory: what fills it is bounded by its users. */
#ifndef COMMON_BUFFER_H
#define COMMON_BUFFER_H

#include <stddef.h>
#include <stdint.h>

struct cdm_buffer { /* the bytes are mem[start, end) */
	uint8_t *mem;
	size_t start, end, room;
};

static inline size_t cdm_buffer_len(const struct cdm_buffer *b)
{
	return b->end - b->start;
}

/* Where the next bytes go, with room for at least `len` (b->room - b->end); whoever puts them there raises `end`. Pointers into the buffer taken
 * before are no longer good. */
uint8_t *cdm_buffer_reserve(struct cdm_buffer *b, size_t len);
/* The first `len` bytes are done with. */
void cdm_buffer_consume(struct cdm_buffer *b, size_t len);
void cdm_buffer_fini(struct cdm_buffer *b);

#endif
