/* SPDX-License-Identifier: Apache-2.0 */
/* Slabs of eight record sizes in a mapped file. */
#include "cdmfs/arena.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define UNIT 16u
#define HEAD 32u /* bytes of a page before its first record */
#define RESERVE_PAGES 16u

static const uint16_t class_size[ARENA_CLASSES] = {32, 48, 64, 96, 144, 208, 304, ARENA_RECORD_MAX};

struct page_head {
	uint32_t class;
};

static struct page_head *page_of(const struct arena *a, uint32_t page)
{
	return (struct page_head *)(a->base + (size_t)page * ARENA_PAGE);
}

void *arena_at(const struct arena *a, uint32_t ref)
{
	return a->base + (size_t)ref * UNIT;
}

int arena_valid(const struct arena *a, uint32_t ref, size_t size)
{
	size_t offset = (size_t)ref * UNIT;
	uint32_t page = offset / ARENA_PAGE;
	size_t in_page = offset % ARENA_PAGE;
	uint32_t class;

	if (ref == 0 || page >= *a->used_pages || in_page < HEAD)
		return 0;
	class = page_of(a, page)->class;
	return class < ARENA_CLASSES && (in_page - HEAD) % class_size[class] == 0 &&
		in_page + class_size[class] <= ARENA_PAGE && size <= class_size[class];
}

static int class_for(size_t size)
{
	for (int i = 0; i < ARENA_CLASSES; i++)
		if (size <= class_size[i])
			return i;
	return -1;
}

static void free_push(struct arena *a, int class, uint32_t ref)
{
	*(uint32_t *)arena_at(a, ref) = a->free_head[class];
	a->free_head[class] = ref;
}

static void free_page_records(struct arena *a, uint32_t page, int class)
{
	uint32_t first = ((size_t)page * ARENA_PAGE + HEAD) / UNIT, step = class_size[class] / UNIT;
	unsigned count = (ARENA_PAGE - HEAD) / class_size[class];

	for (unsigned i = count; i-- > 0;) {
		uint32_t ref = first + i * step;
		if (!a->marks || !(a->marks[ref / 8] & 1u << ref % 8))
			free_push(a, class, ref);
	}
}

static int page_add(struct arena *a, int class)
{
	uint32_t page = *a->used_pages;

	if (page >= a->max_pages)
		return -ENOMEM;
	if (page >= a->reserved_pages) {
		if (fallocate(a->fd, 0, a->file_offset + (uint64_t)page * ARENA_PAGE, (uint64_t)RESERVE_PAGES * ARENA_PAGE) < 0)
			return -ENOMEM;
		a->reserved_pages = page + RESERVE_PAGES;
	}
	page_of(a, page)->class = class;
	__atomic_store_n(a->used_pages, page + 1, __ATOMIC_RELEASE);
	free_page_records(a, page, class);
	return 0;
}

uint32_t arena_alloc(struct arena *a, size_t size)
{
	int class = class_for(size);
	uint32_t ref;

	assert(class >= 0);
	if (a->free_head[class] == 0 && page_add(a, class) < 0)
		return 0;
	ref = a->free_head[class];
	a->free_head[class] = *(uint32_t *)arena_at(a, ref);
	return ref;
}

void arena_free(struct arena *a, uint32_t ref)
{
	if (ref)
		free_push(a, page_of(a, (size_t)ref * UNIT / ARENA_PAGE)->class, ref);
}

int arena_mark_begin(struct arena *a)
{
	a->marks = calloc((size_t)*a->used_pages * (ARENA_PAGE / UNIT) / 8 + 1, 1);
	return a->marks ? 0 : -ENOMEM;
}

int arena_mark(struct arena *a, uint32_t ref)
{
	if (a->marks[ref / 8] & 1u << ref % 8)
		return 0;
	a->marks[ref / 8] |= 1u << ref % 8;
	return 1;
}

void arena_sweep(struct arena *a)
{
	memset(a->free_head, 0, sizeof(a->free_head));
	for (uint32_t page = 0; page < *a->used_pages; page++)
		if (page_of(a, page)->class < ARENA_CLASSES)
			free_page_records(a, page, page_of(a, page)->class);
	free(a->marks);
	a->marks = NULL;
	a->reserved_pages = *a->used_pages;
}
