/* SPDX-License-Identifier: Apache-2.0 */
/* arena.h — records of a few sizes inside the node table's mapped file. Only inode.c uses it, under its lock.
 *
 * The area is cut into pages of one record size each; which size is written in the page's head, the rest is found out at open by marking
 * what is referenced (arena_mark) and making the others free (arena_sweep). A reference is the offset / 16; 0 = none. */
#ifndef CDMFS_ARENA_H
#define CDMFS_ARENA_H

#include <stddef.h>
#include <stdint.h>

#define ARENA_PAGE 16384u
#define ARENA_CLASSES 8
#define ARENA_RECORD_MAX 1152

struct arena {
	uint8_t *base;              /* of the area in the map */
	uint32_t *used_pages;       /* in the map: pages that have a head */
	uint32_t max_pages;
	int fd;                     /* for reserving memory before it is touched: a full tmpfs must be an error, not a SIGBUS */
	uint64_t file_offset;
	uint32_t reserved_pages;
	uint32_t free_head[ARENA_CLASSES];
	uint8_t *marks;             /* between open and sweep: one bit per 16 bytes */
};

void *arena_at(const struct arena *a, uint32_t ref);
/* Can this reference be of a record of at least `size` bytes? For what a damaged file may hold. */
int arena_valid(const struct arena *a, uint32_t ref, size_t size);
uint32_t arena_alloc(struct arena *a, size_t size); /* 0: no memory */
void arena_free(struct arena *a, uint32_t ref);

int arena_mark_begin(struct arena *a);
/* 1: marked; 0: was marked already (two owners: the file is damaged). */
int arena_mark(struct arena *a, uint32_t ref);
void arena_sweep(struct arena *a);

#endif
