/* SPDX-License-Identifier: Apache-2.0 */
/* The node table: entries, names and paths. Unsaved content: inode_dirty.c; the file it lies in: inode_file.c. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>
#include "cdmfs/inode_parts.h"

#define RESERVE_SLOTS 4096u
#define DEPTH_MAX (CDM_PATH_MAX / 2)

/* --- index --- */

static uint32_t bucket_of(const struct inodes *t, uint64_t id)
{
	return (uint32_t)((id * 0x9e3779b97f4a7c15ull) >> 32) & t->bucket_mask;
}

uint32_t slot_find(const struct inodes *t, uint64_t id)
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

int index_size(struct inodes *t, uint32_t want)
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

void slot_free(struct inodes *t, uint32_t i)
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

static bool id_is_handle(const struct cdm_handle *h)
{
	return h->len == sizeof(uint64_t) && h->type == 1;
}

uint64_t inodes_id(const struct cdm_handle *h)
{
	uint64_t id;

	if (id_is_handle(h))
		memcpy(&id, h->bytes, sizeof(id));
	else
		id = XXH3_64bits_withSeed(h->bytes, h->len, h->type);
	return id <= 1 ? ~id : id;
}

/* Does the entry stand for what has this handle? */
static bool is_of(const struct inodes *t, const struct slot *s, const struct cdm_handle *h)
{
	return s->handle ? cdm_handle_equal(arena_at(&t->arena, s->handle), h) : id_is_handle(h);
}

static int slot_new(struct inodes *t, const struct node_seen *seen, uint32_t *ret)
{
	uint32_t i, handle = 0;
	struct slot *s;

	if (!id_is_handle(seen->handle)) {
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
	} else if (!is_of(t, &t->slots[i], seen->handle)) {
		r = -EIO;
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

void inodes_set_roots(struct inodes *t, uint64_t content, uint64_t staging)
{
	t->content = content;
	t->staging = staging;
}
