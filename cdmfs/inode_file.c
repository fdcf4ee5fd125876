/* SPDX-License-Identifier: Apache-2.0 */
/* The node table's file: mapping it, and putting right at open whatever a dead server may have left half done. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "cdmfs/inode_parts.h"

#define NODES_MAGIC 0x3173656e6d6463ull
#define ARENA_PAGES_MAX (1u << 18)
#define ARENA_OFFSET (SLOTS_OFFSET + (uint64_t)SLOTS_MAX * sizeof(struct slot))
#define FILE_BYTES (ARENA_OFFSET + (uint64_t)ARENA_PAGES_MAX * ARENA_PAGE)

static bool names_check(struct inodes *t, struct slot *s)
{
	uint32_t ref = s->name;

	for (unsigned n = 0; ref; n++) {
		if (n > NODE_NAMES_MAX || !arena_valid(&t->arena, ref, name_bytes(0)) ||
		    !arena_valid(&t->arena, ref, name_bytes(name_at(t, ref)->len)) || !arena_mark(&t->arena, ref))
			return false;
		ref = name_at(t, ref)->next;
	}
	return true;
}

static bool dirty_check(struct inodes *t, struct slot *s)
{
	if (!s->dirty)
		return true;
	return arena_valid(&t->arena, s->dirty, dirty_bytes(0)) && dirty_at(t, s->dirty)->count <= CDM_RANGES_MAX &&
		arena_valid(&t->arena, s->dirty, dirty_bytes(dirty_at(t, s->dirty)->count)) && arena_mark(&t->arena, s->dirty);
}

static bool handle_check(struct inodes *t, struct slot *s)
{
	if (!s->handle)
		return true;
	return arena_valid(&t->arena, s->handle, sizeof(struct cdm_handle)) && arena_mark(&t->arena, s->handle) &&
		((struct cdm_handle *)arena_at(&t->arena, s->handle))->len <= CDM_HANDLE_MAX;
}

static void check_slots(struct inodes *t)
{
	t->free_slot = 0;
	t->count = 0;
	for (uint32_t i = t->head->slot_high; i > 0; i--) {
		struct slot *s = &t->slots[i];
		if (s->id && !handle_check(t, s)) {
			s->id = 0;
		} else if (s->id) {
			if (!dirty_check(t, s))
				s->dirty = 0;
			if (!names_check(t, s))
				s->name = 0;
			s->children = 0;
			t->count++;
		}
		if (!s->id)
			slot_free(t, i);
	}
}

static void count_children(struct inodes *t)
{
	for (uint32_t i = 1; i <= t->head->slot_high; i++) {
		if (!t->slots[i].id)
			continue;
		for (uint32_t ref = t->slots[i].name; ref; ref = name_at(t, ref)->next) {
			uint32_t p = slot_find(t, name_at(t, ref)->parent);
			if (p)
				t->slots[p].children++;
		}
	}
}

static int attach(struct inodes *t)
{
	int r;

	t->reserved_slots = t->head->slot_high + 1;
	r = arena_mark_begin(&t->arena);
	if (r < 0)
		return r;
	check_slots(t);
	arena_sweep(&t->arena);
	r = index_size(t, t->count * 2);
	if (r < 0)
		return r;
	count_children(t);
	return 0;
}

static bool head_usable(const struct file_head *h, uint64_t bytes)
{
	return bytes == FILE_BYTES && h->magic == NODES_MAGIC && h->slot_bytes == sizeof(struct slot) && h->slot_high < SLOTS_MAX &&
		h->arena_pages <= ARENA_PAGES_MAX;
}

static int map_file(struct inodes *t, struct cdm_error *err)
{
	struct stat st;
	uint8_t *map;

	if (fstat(t->fd, &st) < 0 || ftruncate(t->fd, FILE_BYTES) < 0 || fallocate(t->fd, 0, 0, SLOTS_OFFSET) < 0)
		return cdm_fail(err, errno, "prepare the node table");
	map = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, t->fd, 0);
	if (map == MAP_FAILED)
		return cdm_fail(err, errno, "map the node table");
	t->head = (struct file_head *)map;
	t->slots = (struct slot *)(map + SLOTS_OFFSET);
	t->arena = (struct arena){.base = map + ARENA_OFFSET, .used_pages = &t->head->arena_pages, .max_pages = ARENA_PAGES_MAX,
		.fd = t->fd, .file_offset = ARENA_OFFSET};
	if (!head_usable(t->head, st.st_size)) {
		t->head->slot_high = t->head->arena_pages = 0;
		t->head->slot_bytes = sizeof(struct slot);
		t->head->magic = NODES_MAGIC;
	}
	return 0;
}

int inodes_open(int run_fd, struct inodes **ret, struct cdm_error *err)
{
	struct inodes *t = calloc(1, sizeof(*t));
	int r;

	if (!t)
		return cdm_fail(err, ENOMEM, "node table");
	pthread_mutex_init(&t->mtx, NULL);
	t->fd = openat(run_fd, "nodes", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (t->fd < 0)
		r = cdm_fail(err, errno, "open the node table");
	else
		r = map_file(t, err);
	if (r == 0) {
		r = attach(t);
		if (r < 0)
			cdm_fail(err, -r, "read the node table");
	}
	if (r < 0) {
		inodes_close(&t);
		return r;
	}
	*ret = t;
	return 0;
}

void inodes_close(struct inodes **tp)
{
	struct inodes *t = *tp;

	if (!t)
		return;
	*tp = NULL;
	if (t->head)
		munmap(t->head, FILE_BYTES);
	if (t->fd >= 0)
		close(t->fd);
	free(t->buckets);
	pthread_mutex_destroy(&t->mtx);
	free(t);
}

void inodes_clear(struct inodes *t)
{
	pthread_mutex_lock(&t->mtx);
	PUBLISH(t->head->slot_high, 0u);
	PUBLISH(t->head->arena_pages, 0u);
	memset(t->buckets, 0, ((size_t)t->bucket_mask + 1) * sizeof(*t->buckets));
	memset(t->arena.free_head, 0, sizeof(t->arena.free_head));
	t->free_slot = t->count = 0;
	pthread_mutex_unlock(&t->mtx);
}
