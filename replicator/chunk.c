/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/chunk.h"

#include <assert.h>
#include <stdlib.h>

#define PAGE 4096u

static struct chunk *spare;
static unsigned spare_count;

static struct chunk *take_spare(void)
{
	struct chunk *c = spare;
	if (c) {
		spare = c->next;
		spare_count--;
	}
	return c;
}

struct chunk *chunk_new(size_t len)
{
	size_t room = (len + PAGE - 1) / PAGE * PAGE;
	bool full_size = room > CHUNK_BYTES / 2;
	assert(room > 0 && room <= CHUNK_BYTES);
	struct chunk *c = full_size ? take_spare() : NULL;
	if (!c) {
		c = malloc(sizeof *c);
		if (!c || !(c->data = aligned_alloc(PAGE, full_size ? CHUNK_BYTES : room)))
			abort();
	}
	c->refs = 1;
	c->full_size = full_size;
	return c;
}

struct chunk *chunk_ref(struct chunk *c)
{
	c->refs++;
	return c;
}

void chunk_unref(struct chunk *c)
{
	if (!c || --c->refs > 0)
		return;
	if (c->full_size && spare_count < CHUNKS_SPARE) {
		c->next = spare;
		spare = c;
		spare_count++;
		return;
	}
	free(c->data);
	free(c);
}
