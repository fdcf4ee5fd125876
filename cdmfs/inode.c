/* SPDX-License-Identifier: Apache-2.0 */
/* The node table in a mapped file: fixed slots and an arena for names, handles and dirty ranges. Everything that must survive is
 * published by one aligned store (a slot's id, a reference, a flag word), after what it refers to was written. */
#include "cdmfs/inode.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "cdmfs/arena.h"

#define NODES_MAGIC 0x3173656e6d6463ull
#define SLOTS_MAX (1u << 24)
#define ARENA_PAGES_MAX (1u << 18)
#define SLOTS_OFFSET 4096ull
#define ARENA_OFFSET (SLOTS_OFFSET + (uint64_t)SLOTS_MAX * sizeof(struct slot))
#define FILE_BYTES (ARENA_OFFSET + (uint64_t)ARENA_PAGES_MAX * ARENA_PAGE)
#define RESERVE_SLOTS 4096u
#define DEPTH_MAX (CDM_PATH_MAX / 2)

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

static size_t name_bytes(size_t len)
{
	return offsetof(struct name_record, name) + len;
}

static size_t dirty_bytes(uint32_t count)
{
	return offsetof(struct dirty_record, ranges) + (size_t)count * sizeof(struct cdm_range);
}

static struct name_record *name_at(const struct inodes *t, uint32_t ref)
{
	return arena_at(&t->arena, ref);
}

static int64_t mono_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

/* --- index --- */

static uint32_t bucket_of(const struct inodes *t, uint64_t id)
{
	return (uint32_t)((id * 0x9e3779b97f4a7c15ull) >> 32) & t->bucket_mask;
}

static uint32_t slot_find(const struct inodes *t, uint64_t id)
{
	uint32_t i = t->buckets[bucket_of(t, id)];

	while (i && t->slots[i].id != id)
		i = t->slots[i].next;
	return i;
}

static void index_put(struct inodes *t, uint32_t i)
{
	uint32_t b = bucket_of(t, t->slots[i].id);

	t->slots[i].next = t->buckets[b];
	t->buckets[b] = i;
}

static void index_drop(struct inodes *t, uint32_t i)
{
	uint32_t *p = &t->buckets[bucket_of(t, t->slots[i].id)];

	while (*p != i)
		p = &t->slots[*p].next;
	*p = t->slots[i].next;
}

static int index_size(struct inodes *t, uint32_t want)
{
	uint32_t n = 1024;
	uint32_t *fresh;

	while (n < want)
		n *= 2;
	fresh = calloc(n, sizeof(*fresh));
	if (!fresh)
		return -ENOMEM;
	free(t->buckets);
	t->buckets = fresh;
	t->bucket_mask = n - 1;
	for (uint32_t i = 1; i <= t->head->slot_high; i++)
		if (t->slots[i].id)
			index_put(t, i);
	return 0;
}

static int slot_alloc(struct inodes *t, uint32_t *ret)
{
	uint32_t i = t->free_slot;

	if (i) {
		t->free_slot = t->slots[i].next;
		*ret = i;
		return 0;
	}
	i = t->head->slot_high + 1;
	if (i >= SLOTS_MAX)
		return -ENOMEM;
	if (i >= t->reserved_slots) {
		if (fallocate(t->fd, 0, SLOTS_OFFSET + (uint64_t)i * sizeof(struct slot), RESERVE_SLOTS * sizeof(struct slot)) < 0)
			return -ENOMEM;
		t->reserved_slots = i + RESERVE_SLOTS;
	}
	t->slots[i] = (struct slot){0};
	PUBLISH(t->head->slot_high, i);
	*ret = i;
	return 0;
}

static void slot_free(struct inodes *t, uint32_t i)
{
	t->slots[i].next = t->free_slot;
	t->free_slot = i;
}

/* --- names --- */

static void parent_unref(struct inodes *t, uint64_t parent);

static void names_drop(struct inodes *t, struct slot *s)
{
	uint32_t ref = s->name;

	PUBLISH(s->name, 0);
	while (ref) {
		struct name_record *n = name_at(t, ref);
		uint32_t next = n->next;
		uint64_t parent = n->parent;
		arena_free(&t->arena, ref);
		parent_unref(t, parent);
		ref = next;
	}
}

static bool needed(const struct slot *s)
{
	return s->lookups || s->children || s->dirty || s->flags & (NODE_PINNED | NODE_BARRIER);
}

/* Recursion goes up one directory per step, and only where that one falls with it. */
static void release(struct inodes *t, uint32_t i)
{
	struct slot *s = &t->slots[i];

	if (!i || needed(s))
		return;
	index_drop(t, i);
	PUBLISH(s->id, 0);
	t->count--;
	names_drop(t, s);
	arena_free(&t->arena, s->handle);
	slot_free(t, i);
}

static void parent_unref(struct inodes *t, uint64_t parent)
{
	uint32_t i = slot_find(t, parent);

	if (!i || t->slots[i].children == 0)
		return;
	t->slots[i].children--;
	release(t, i);
}

static bool name_is(const struct name_record *n, uint64_t parent, const char *name, size_t len)
{
	return n->parent == parent && n->len == len && memcmp(n->name, name, len) == 0;
}

/* The link (field) that points to this name, NULL = not there. */
static uint32_t *name_link(struct inodes *t, struct slot *s, uint64_t parent, const char *name, size_t len)
{
	uint32_t *link = &s->name;

	while (*link && !name_is(name_at(t, *link), parent, name, len))
		link = &name_at(t, *link)->next;
	return *link ? link : NULL;
}

static void name_cut(struct inodes *t, uint32_t *link)
{
	uint32_t ref = *link;
	uint64_t parent = name_at(t, ref)->parent;

	PUBLISH(*link, name_at(t, ref)->next);
	arena_free(&t->arena, ref);
	parent_unref(t, parent);
}

static void names_bound(struct inodes *t, struct slot *s)
{
	uint32_t *link = &s->name;

	for (unsigned n = 0; *link; n++) {
		if (n >= NODE_NAMES_MAX)
			name_cut(t, link);
		else
			link = &name_at(t, *link)->next;
	}
}

static int name_add(struct inodes *t, struct slot *s, uint64_t parent, const char *name, size_t len)
{
	uint32_t ref, p;
	struct name_record *n;

	if (s->name && name_is(name_at(t, s->name), parent, name, len))
		return 0;
	if (name_link(t, s, parent, name, len))
		return 0;
	ref = arena_alloc(&t->arena, name_bytes(len));
	if (!ref)
		return -ENOMEM;
	n = name_at(t, ref);
	n->parent = parent;
	n->len = len;
	memcpy(n->name, name, len);
	n->next = S_ISDIR(s->type) ? 0 : s->name;
	p = slot_find(t, parent);
	if (p)
		t->slots[p].children++;
	if (S_ISDIR(s->type)) { /* has one name; a newer one replaces it */
		uint32_t old = s->name;
		PUBLISH(s->name, ref);
		if (old)
			name_cut(t, &old);
		return 0;
	}
	PUBLISH(s->name, ref);
	names_bound(t, s);
	return 0;
}

/* --- public: entries --- */

static bool id_is_handle(const struct cdm_handle *h, uint64_t id)
{
	return h->len == sizeof(id) && h->type == 1 && memcmp(h->bytes, &id, sizeof(id)) == 0;
}

static int slot_new(struct inodes *t, const struct node_seen *seen, uint32_t *ret)
{
	uint32_t i, handle = 0;
	struct slot *s;

	if (!id_is_handle(seen->handle, seen->id)) {
		handle = arena_alloc(&t->arena, sizeof(struct cdm_handle));
		if (!handle)
			return -ENOMEM;
		memcpy(arena_at(&t->arena, handle), seen->handle, sizeof(*seen->handle));
	}
	if (slot_alloc(t, &i) < 0) {
		arena_free(&t->arena, handle);
		return -ENOMEM;
	}
	s = &t->slots[i];
	*s = (struct slot){.handle = handle, .flags = seen->flags, .type = seen->type, .lookups = seen->lookups};
	PUBLISH(s->id, seen->id);
	index_put(t, i);
	if (++t->count > t->bucket_mask)
		(void)index_size(t, t->count * 2); /* without memory it stays as it is, slower */
	*ret = i;
	return 0;
}

int inodes_see(struct inodes *t, const struct node_seen *seen)
{
	uint32_t i;
	int r = 0;

	pthread_mutex_lock(&t->mtx);
	i = slot_find(t, seen->id);
	if (!i) {
		r = slot_new(t, seen, &i);
	} else {
		struct slot *s = &t->slots[i];
		PUBLISH(s->flags, s->flags | seen->flags);
		s->type = seen->type;
		PUBLISH(s->lookups, s->lookups + seen->lookups);
	}
	if (r == 0 && seen->parent)
		r = name_add(t, &t->slots[i], seen->parent, seen->name, seen->name_len);
	pthread_mutex_unlock(&t->mtx);
	return r;
}

static void copy_out(const struct inodes *t, const struct slot *s, struct node *ret)
{
	*ret = (struct node){.id = s->id, .lookups = s->lookups, .flags = s->flags & ~(uint32_t)NODE_UNSAVED, .type = s->type,
		.named = s->name != 0};
	if (s->dirty)
		ret->flags |= NODE_UNSAVED;
	if (s->handle) {
		memcpy(&ret->handle, arena_at(&t->arena, s->handle), sizeof(ret->handle));
	} else {
		ret->handle.len = sizeof(s->id);
		ret->handle.type = 1;
		memcpy(ret->handle.bytes, &s->id, sizeof(s->id));
	}
}

bool inodes_find(struct inodes *t, uint64_t id, struct node *ret)
{
	uint32_t i;

	pthread_mutex_lock(&t->mtx);
	i = slot_find(t, id);
	if (i)
		copy_out(t, &t->slots[i], ret);
	pthread_mutex_unlock(&t->mtx);
	return i != 0;
}

bool inodes_forget(struct inodes *t, uint64_t id, uint64_t count)
{
	uint32_t i;
	bool none = false;

	pthread_mutex_lock(&t->mtx);
	i = slot_find(t, id);
	if (i) {
		struct slot *s = &t->slots[i];
		PUBLISH(s->lookups, s->lookups > count ? s->lookups - count : 0);
		none = s->lookups == 0;
	}
	pthread_mutex_unlock(&t->mtx);
	return none;
}

void inodes_release(struct inodes *t, uint64_t id)
{
	pthread_mutex_lock(&t->mtx);
	release(t, slot_find(t, id));
	pthread_mutex_unlock(&t->mtx);
}

void inodes_flags(struct inodes *t, uint64_t id, uint32_t set, uint32_t clear)
{
	uint32_t i;

	pthread_mutex_lock(&t->mtx);
	i = slot_find(t, id);
	if (i)
		PUBLISH(t->slots[i].flags, (t->slots[i].flags & ~clear) | set);
	pthread_mutex_unlock(&t->mtx);
}

int inodes_name_add(struct inodes *t, uint64_t id, uint64_t parent, const char *name, size_t len)
{
	uint32_t i;
	int r = -ENOENT;

	pthread_mutex_lock(&t->mtx);
	i = slot_find(t, id);
	if (i)
		r = name_add(t, &t->slots[i], parent, name, len);
	pthread_mutex_unlock(&t->mtx);
	return r;
}

void inodes_name_remove(struct inodes *t, uint64_t id, uint64_t parent, const char *name, size_t len)
{
	uint32_t i, *link;

	pthread_mutex_lock(&t->mtx);
	i = slot_find(t, id);
	link = i ? name_link(t, &t->slots[i], parent, name, len) : NULL;
	if (link)
		name_cut(t, link);
	pthread_mutex_unlock(&t->mtx);
}

uint64_t inodes_name_owner(struct inodes *t, uint64_t parent, const char *name, size_t len, uint64_t except)
{
	uint64_t owner = 0;

	pthread_mutex_lock(&t->mtx);
	for (uint32_t i = 1; i <= t->head->slot_high && !owner; i++) {
		struct slot *s = &t->slots[i];
		if (s->id && s->id != except && name_link(t, s, parent, name, len))
			owner = s->id;
	}
	pthread_mutex_unlock(&t->mtx);
	return owner;
}

void inodes_names_clear(struct inodes *t, uint64_t id)
{
	uint32_t i;

	pthread_mutex_lock(&t->mtx);
	i = slot_find(t, id);
	if (i)
		names_drop(t, &t->slots[i]);
	pthread_mutex_unlock(&t->mtx);
}

/* --- public: paths --- */

static enum place root_place(const struct inodes *t, uint64_t id)
{
	return id == t->content ? PLACE_CONTENT : id == t->staging ? PLACE_STAGING : PLACE_NONE;
}

static int path_locked(struct inodes *t, uint64_t id, unsigned which, char *buf, size_t room, struct node_path *ret)
{
	size_t at = room;
	unsigned depth = 0;

	ret->len = 0;
	ret->path = buf + at;
	while ((ret->place = root_place(t, id)) == PLACE_NONE) {
		uint32_t i = slot_find(t, id), ref = i ? t->slots[i].name : 0;
		for (unsigned k = depth == 0 ? which : 0; ref && k; k--)
			ref = name_at(t, ref)->next;
		if (!ref)
			return -ENOENT;
		const struct name_record *n = name_at(t, ref);
		size_t need = n->len + (depth ? 1u : 0u);
		if (at < need || ++depth > DEPTH_MAX)
			return -ENAMETOOLONG;
		if (depth > 1)
			buf[--at] = '/';
		at -= n->len;
		memcpy(buf + at, n->name, n->len);
		id = n->parent;
	}
	ret->path = buf + at;
	ret->len = room - at;
	return 0;
}

int inodes_path(struct inodes *t, uint64_t id, unsigned which, char *buf, size_t room, struct node_path *ret)
{
	int r;

	pthread_mutex_lock(&t->mtx);
	r = path_locked(t, id, which, buf, room, ret);
	pthread_mutex_unlock(&t->mtx);
	return r;
}

/* --- public: unsaved content --- */

static struct dirty_record *dirty_at(const struct inodes *t, uint32_t ref)
{
	return arena_at(&t->arena, ref);
}

/* The usual case of a file written from front to back: the last range grows, or nothing changes. */
static bool dirty_grow(struct dirty_record *d, const struct dirty_add *add)
{
	struct cdm_range *last = d->count ? &d->ranges[d->count - 1] : NULL;

	if (add->whole && !d->whole)
		PUBLISH(d->whole, 1u);
	if (add->truncated && !d->truncated)
		PUBLISH(d->truncated, 1u);
	if (d->whole || add->length == 0)
		return true;
	if (!last || add->offset < last->offset || add->offset > last->offset + last->length)
		return false;
	if (add->offset + add->length > last->offset + last->length)
		PUBLISH(last->length, add->offset + add->length - last->offset);
	return true;
}

static int dirty_replace(struct inodes *t, struct slot *s, const struct dirty_record *fresh)
{
	uint32_t old = s->dirty, ref = arena_alloc(&t->arena, dirty_bytes(fresh->count));

	if (!ref)
		return -ENOMEM;
	memcpy(dirty_at(t, ref), fresh, dirty_bytes(fresh->count));
	PUBLISH(s->dirty, ref);
	arena_free(&t->arena, old);
	return 0;
}

static int dirty_add_locked(struct inodes *t, struct slot *s, const struct dirty_add *add)
{
	struct dirty_record fresh = {.since_ns = mono_ns(), .base = add->base};
	bool was_clean = s->dirty == 0;
	size_t count;
	int r;

	fresh.last_ns = fresh.since_ns;
	if (!was_clean) {
		struct dirty_record *d = dirty_at(t, s->dirty);
		PUBLISH(d->last_ns, fresh.last_ns);
		if (dirty_grow(d, add))
			return 0;
		memcpy(&fresh, d, dirty_bytes(d->count));
	}
	fresh.whole |= add->whole;
	fresh.truncated |= add->truncated;
	if (!fresh.whole && add->length) {
		count = cdm_ranges_add(fresh.ranges, fresh.count, add->offset, add->length);
		fresh.whole = count > CDM_RANGES_MAX;
		fresh.count = fresh.whole ? 0 : (uint32_t)count;
	}
	if (fresh.whole)
		fresh.count = 0;
	r = dirty_replace(t, s, &fresh);
	return r < 0 ? r : was_clean;
}

int inodes_dirty_add(struct inodes *t, uint64_t id, const struct dirty_add *add)
{
	uint32_t i;
	int r = -ENOENT;

	pthread_mutex_lock(&t->mtx);
	i = slot_find(t, id);
	if (i)
		r = dirty_add_locked(t, &t->slots[i], add);
	pthread_mutex_unlock(&t->mtx);
	return r;
}

bool inodes_dirty(struct inodes *t, uint64_t id, struct dirty *ret)
{
	uint32_t i;
	bool found;

	pthread_mutex_lock(&t->mtx);
	i = slot_find(t, id);
	found = i && t->slots[i].dirty;
	if (found) {
		const struct dirty_record *d = dirty_at(t, t->slots[i].dirty);
		*ret = (struct dirty){.since_ns = d->since_ns, .last_ns = d->last_ns, .base = d->base, .whole = d->whole,
			.truncated = d->truncated, .count = d->count};
		memcpy(ret->ranges, d->ranges, d->count * sizeof(struct cdm_range));
	}
	pthread_mutex_unlock(&t->mtx);
	return found;
}

void inodes_dirty_clear(struct inodes *t, uint64_t id)
{
	uint32_t i;

	pthread_mutex_lock(&t->mtx);
	i = slot_find(t, id);
	if (i) {
		struct slot *s = &t->slots[i];
		uint32_t old = s->dirty;
		PUBLISH(s->flags, s->flags & ~(uint32_t)(NODE_NEW | NODE_COVERS));
		PUBLISH(s->dirty, 0u);
		arena_free(&t->arena, old);
	}
	pthread_mutex_unlock(&t->mtx);
}

/* --- public: walking --- */

bool inodes_next(struct inodes *t, uint32_t *cursor, struct node *ret)
{
	bool found = false;

	pthread_mutex_lock(&t->mtx);
	while (!found && *cursor < t->head->slot_high) {
		struct slot *s = &t->slots[++*cursor];
		if (s->id) {
			copy_out(t, s, ret);
			found = true;
		}
	}
	pthread_mutex_unlock(&t->mtx);
	return found;
}

uint64_t inodes_count(struct inodes *t)
{
	uint64_t n;

	pthread_mutex_lock(&t->mtx);
	n = t->count;
	pthread_mutex_unlock(&t->mtx);
	return n;
}

/* --- open: everything a dead server may have left half done is put right here --- */

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

void inodes_set_roots(struct inodes *t, uint64_t content, uint64_t staging)
{
	t->content = content;
	t->staging = staging;
}
