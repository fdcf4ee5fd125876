/* SPDX-License-Identifier: Apache-2.0 */
/* inode_parts.h — inside the node table, for inode*.c only: fixed slots and an arena for names, handles and dirty ranges, all in one mapped
 * file. Everything that must survive is published by one aligned store (a slot's id, a reference, a flag word), after what it refers to was
 * written. All functions here are called under the table's mutex, or before anybody else has the table. */
#ifndef CDMFS_INODE_PARTS_H
#define CDMFS_INODE_PARTS_H

#include <assert.h>
#include <pthread.h>
#include <stddef.h>
#include "cdmfs/arena.h"
#include "cdmfs/inode.h"

#define SLOTS_MAX (1u << 24)
#define SLOTS_OFFSET 4096ull

struct slot { /* in the file */
	uint64_t id;      /* 0 = free */
	uint64_t lookups;
	uint32_t name;    /* newest; struct name_record */
	uint32_t dirty;   /* struct dirty_record */
	uint32_t handle;  /* struct cdm_handle, 0: the id is the handle (type 1, 8 bytes) */
	uint32_t flags, type;
	uint32_t children; /* names elsewhere that have this as directory; rebuilt at open */
	uint32_t next;     /* hash chain or free list; rebuilt at open */
	uint32_t spare;
};
struct name_record {
	uint64_t parent;
	uint32_t next;
	uint8_t len;
	char name[CDM_NAME_LEN_MAX];
};
struct dirty_record {
	int64_t since_ns, last_ns;
	struct cdm_dot base;
	uint32_t whole, truncated, count, spare;
	struct cdm_range ranges[CDM_RANGES_MAX];
};
struct file_head {
	uint64_t magic;
	uint32_t slot_bytes, slot_high; /* slots 1 … slot_high were used */
	uint32_t arena_pages, spare;
};

struct inodes {
	pthread_mutex_t mtx;
	struct file_head *head;
	struct slot *slots; /* [0] is not used */
	struct arena arena;
	int fd;
	uint32_t reserved_slots, free_slot, count;
	uint32_t *buckets;
	uint32_t bucket_mask;
	uint64_t content, staging;
};

static_assert(sizeof(struct slot) == 56 || sizeof(struct slot) == 48, "slot layout");

#define PUBLISH(field, value) __atomic_store_n(&(field), (value), __ATOMIC_RELEASE)

static inline size_t name_bytes(size_t len)
{
	return offsetof(struct name_record, name) + len;
}

static inline size_t dirty_bytes(uint32_t count)
{
	return offsetof(struct dirty_record, ranges) + (size_t)count * sizeof(struct cdm_range);
}

static inline struct name_record *name_at(const struct inodes *t, uint32_t ref)
{
	return arena_at(&t->arena, ref);
}

static inline struct dirty_record *dirty_at(const struct inodes *t, uint32_t ref)
{
	return arena_at(&t->arena, ref);
}

/* The slot of an id, 0 = none. */
uint32_t slot_find(const struct inodes *t, uint64_t id);
/* Onto the free list; its id is 0 already. */
void slot_free(struct inodes *t, uint32_t i);
/* Build the index anew, with room for `want` entries. 0 or -ENOMEM (then the old one stays). */
int index_size(struct inodes *t, uint32_t want);

#endif
