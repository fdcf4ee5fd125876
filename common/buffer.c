/* SPDX-License-Identifier: Apache-2.0 */
#include "common/buffer.h"

#include <stdlib.h>
#include <string.h>

#define ROOM_FIRST 4096

static void grow(struct cdm_buffer *b, size_t used, size_t len)
{
	size_t room = b->room ? b->room : ROOM_FIRST;
	while (room - used < len)
		room *= 2;
	uint8_t *mem = malloc(room);
	if (!mem)
		abort();
	if (used)
		memcpy(mem, b->mem + b->start, used);
	free(b->mem);
	b->mem = mem;
	b->room = room;
}

uint8_t *cdm_buffer_reserve(struct cdm_buffer *b, size_t len)
{
	size_t used = cdm_buffer_len(b);
	if (used > 0 && b->room - b->end >= len)
		return b->mem + b->end;
	if (b->room - used < len)
		grow(b, used, len);
	else if (used > 0)
		memmove(b->mem, b->mem + b->start, used);
	b->start = 0;
	b->end = used;
	return b->mem + used;
}

void cdm_buffer_consume(struct cdm_buffer *b, size_t len)
{
	b->start += len;
	if (b->start == b->end)
		b->start = b->end = 0;
}

void cdm_buffer_fini(struct cdm_buffer *b)
{
	free(b->mem);
	*b = (struct cdm_buffer){0};
}
