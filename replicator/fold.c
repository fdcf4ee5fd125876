/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/fold.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define HOLD_NEW_MS 3
#define HOLD_TEMPORARY_MS 100

struct item *item_new(const struct cdm_change *c, int64_t now_ms)
{
	struct item *item = calloc(1, sizeof *item);
	size_t max = cdm_change_encoded_max(c);
	if (!item || !(item->buf = malloc(max)))
		abort();
	size_t n = cdm_change_encode(c, item->buf);
	if (cdm_change_decode(item->buf, n, &item->change) < 0) { /* what the journal gave us always encodes well */
		item_free(item);
		return NULL;
	}
	item->change.handle = c->handle;
	item->change.position = c->position;
	item->change.next_position = c->next_position;
	item->read_ms = now_ms;
	item->bytes = cdm_change_content_bytes(c);
	return item;
}

void item_free(struct item *item)
{
	if (!item)
		return;
	cdm_change_fini(&item->change);
	free(item->buf);
	free(item->buf2);
	free(item->path2_mem);
	free(item);
}

bool item_is_whole_save(const struct item *item)
{
	return item->change.op == CDM_OP_SAVE && item->change.flags & (CDM_CH_WHOLE | CDM_CH_NEW);
}

uint64_t item_known_from(const struct item *item)
{
	return item->attributes_at > item->change.position ? item->attributes_at : item->change.position;
}

/* --- what is pending per path: a hash table from path to index, rebuilt for each fold --- */

struct pending {
	struct item **items;
	struct slot {
		uint64_t hash;
		int32_t index; /* -1 = free or closed */
		bool used;
	} *slots;
	size_t mask;
	bool one_author;
};

static uint64_t hash_path(const char *path, size_t len)
{
	return XXH3_64bits(path, len);
}

static struct slot *pending_slot(struct pending *p, const char *path, size_t len)
{
	uint64_t hash = hash_path(path, len);
	size_t i = hash & p->mask;
	for (; p->slots[i].used; i = (i + 1) & p->mask) {
		if (p->slots[i].hash != hash)
			continue;
		if (p->slots[i].index < 0)
			return &p->slots[i];
		const struct cdm_change *c = &p->items[p->slots[i].index]->change;
		if (c->path_len == len && memcmp(c->path, path, len) == 0)
			return &p->slots[i];
	}
	p->slots[i] = (struct slot){.hash = hash, .index = -1, .used = true};
	return &p->slots[i];
}

static struct item *pending_find(struct pending *p, const char *path, size_t len)
{
	struct slot *s = pending_slot(p, path, len);
	return s->index < 0 ? NULL : p->items[s->index];
}

static void pending_set(struct pending *p, const char *path, size_t len, size_t index)
{
	pending_slot(p, path, len)->index = (int32_t)index;
}

static void pending_close(struct pending *p, const char *path, size_t len)
{
	pending_slot(p, path, len)->index = -1;
}

static size_t dir_length(const char *path, size_t len)
{
	const char *slash = len ? memrchr(path, '/', len) : NULL;
	return slash ? (size_t)(slash - path) : 0;
}

static bool is_at_or_below(const char *path, size_t len, const char *dir, size_t dir_len)
{
	return len >= dir_len && memcmp(path, dir, dir_len) == 0 && (len == dir_len || path[dir_len] == '/');
}

static void pending_close_below(struct pending *p, const char *dir, size_t len)
{
	for (size_t i = 0; i <= p->mask; i++) {
		struct slot *s = &p->slots[i];
		if (!s->used || s->index < 0)
			continue;
		const struct cdm_change *c = &p->items[s->index]->change;
		if (is_at_or_below(c->path, c->path_len, dir, len))
			s->index = -1;
	}
}

static void pending_close_all(struct pending *p)
{
	for (size_t i = 0; i <= p->mask; i++)
		p->slots[i].index = -1;
}

/* --- merging --- */

/* `to` becomes the save that `from` was, at to's place in the order. */
static void take_save(struct item *to, struct item *from)
{
	struct cdm_change *t = &to->change, *f = &from->change;
	t->op = CDM_OP_SAVE;
	t->flags = f->flags;
	t->version = f->version;
	t->base = f->base;
	t->victim = f->victim;
	t->attr = f->attr;
	t->handle = f->handle;
	t->name_len = t->value_len = 0;
	cdm_change_fini(&(struct cdm_change){.ranges_mem = t->ranges_mem});
	t->ranges_mem = f->ranges_mem;
	t->ranges = f->ranges;
	t->range_count = f->range_count;
	f->ranges_mem = NULL;
	f->ranges = NULL;
	f->range_count = 0;
	to->bytes = from->bytes;
	to->created_ns = from->created_ns;
	to->attributes_at = from->attributes_at;
	to->change.parent_mtime_ns = from->change.parent_mtime_ns;
	from->gone = true;
}

/* The directory that the temporary name left. */
static void take_old_directory(struct item *later, struct item *earlier)
{
	struct cdm_change *l = &later->change, *e = &earlier->change;
	if (l->path2_len || !e->path2_len)
		return;
	later->path2_mem = malloc(e->path2_len);
	if (!later->path2_mem)
		abort();
	memcpy(later->path2_mem, e->path2, e->path2_len);
	l->path2 = later->path2_mem;
	l->path2_len = e->path2_len;
	l->parent2_mtime_ns = e->parent2_mtime_ns;
}

/* Both are saves of one file: the later one says all of it. */
static void join_saves(struct item *later, struct item *earlier)
{
	struct cdm_change *l = &later->change, *e = &earlier->change;
	l->base = e->base;
	if (cdm_dot_is_none(l->victim))
		l->victim = e->victim;
	l->flags |= e->flags & (CDM_CH_NEW | CDM_CH_WHOLE | CDM_CH_TRUNCATE | CDM_CH_COVERS);
	take_old_directory(later, earlier);
	earlier->gone = true;
	if (!later->created_ns)
		later->created_ns = earlier->created_ns;
	later->bytes = l->attr.size;
	if (item_is_whole_save(later))
		return;
	struct cdm_range *joined = calloc(CDM_RANGES_MAX + 1, sizeof *joined);
	if (!joined)
		abort();
	size_t count = 0;
	for (size_t i = 0; i < e->range_count && count <= CDM_RANGES_MAX; i++)
		count = cdm_ranges_add(joined, count, e->ranges[i].offset, e->ranges[i].length);
	for (size_t i = 0; i < l->range_count && count <= CDM_RANGES_MAX; i++)
		count = cdm_ranges_add(joined, count, l->ranges[i].offset, l->ranges[i].length);
	free(l->ranges_mem);
	l->ranges_mem = joined;
	l->ranges = joined;
	l->range_count = count;
	if (count > CDM_RANGES_MAX) {
		l->flags |= CDM_CH_WHOLE;
		l->range_count = 0;
	}
	later->bytes = cdm_change_content_bytes(l);
}

static void become_skip(struct item *item)
{
	item->change.op = CDM_OP_SKIP;
	item->change.flags = 0;
	item->bytes = 0;
}

/* Nobody needs it any more; but that it left another directory on its way nobody else tells. */
static void drop(struct item *item)
{
	struct cdm_change *c = &item->change;
	item->gone = !c->path2_len || !c->parent2_mtime_ns;
	if (item->gone)
		return;
	become_skip(item);
	c->path = c->path2;
	c->path_len = c->path2_len;
	c->path2_len = 0;
	c->parent_mtime_ns = c->parent2_mtime_ns;
	c->parent2_mtime_ns = 0;
	c->value_len = c->range_count = 0;
}

static void fold_save(struct pending *p, size_t index)
{
	struct item *item = p->items[index];
	struct cdm_change *c = &item->change;
	struct item *before = pending_find(p, c->path, c->path_len);
	if (before && before->change.op == CDM_OP_SAVE && cdm_handle_equal(&before->change.handle, &c->handle))
		join_saves(item, before);
	pending_set(p, c->path, c->path_len, index);
}

static bool is_next_after(const struct pending *p, size_t index, const struct item *before)
{
	while (index > 0 && p->items[index - 1]->gone)
		index--;
	return index > 0 && p->items[index - 1] == before;
}

/* A whole content is sent with the attributes that the file has by then. The save comes here only when nothing lies between: were it
 * cut off from what does, this change alone would come to a file that nobody has. */
static void fold_attribute(struct pending *p, size_t index)
{
	struct item *item = p->items[index];
	struct cdm_change *c = &item->change;
	struct item *before = pending_find(p, c->path, c->path_len);
	if (!before || !item_is_whole_save(before))
		return;
	if (!is_next_after(p, index, before)) {
		before->attributes_at = c->position;
		become_skip(item);
		return;
	}
	take_save(item, before);
	take_old_directory(item, before);
	pending_set(p, c->path, c->path_len, index);
}

/* What was pending at the final name is replaced before anybody saw it: what the others have there is what it would have replaced. */
static void replace_pending(struct pending *p, struct item *item, const char *path, size_t len)
{
	struct item *old = pending_find(p, path, len);
	if (!old || old == item || old->change.op != CDM_OP_SAVE || old->change.flags & CDM_CH_LINKED)
		return;
	item->change.base = old->change.base;
	if (old->change.flags & CDM_CH_NEW && cdm_dot_is_none(item->change.base))
		item->change.base = old->change.victim;
	item->change.flags |= old->change.flags & CDM_CH_COVERS;
	drop(old);
}

static void rename_into_place(struct pending *p, size_t index, struct item *before)
{
	struct item *item = p->items[index];
	struct cdm_change *c = &item->change;
	struct cdm_dot victim = c->victim;
	pending_close(p, c->path, c->path_len);
	int64_t old_mtime_ns = c->parent_mtime_ns, new_mtime_ns = c->parent2_mtime_ns;
	const char *old = c->path, *new = c->path2;
	size_t old_len = c->path_len, new_len = c->path2_len, old_dir = dir_length(old, old_len);
	if (before->change.op == CDM_OP_SAVE) {
		take_save(item, before);
		c->base = victim;
		if (cdm_dot_is_none(victim))
			c->flags |= CDM_CH_NEW;
		c->flags |= CDM_CH_WHOLE;
	} else { /* SYMLINK: its target lies in its own buffer */
		c->op = CDM_OP_SYMLINK;
		c->flags = before->change.flags;
		c->version = before->change.version;
		c->attr = before->change.attr;
		c->handle = before->change.handle;
		c->value = before->change.value;
		c->value_len = before->change.value_len;
		free(item->buf2);
		item->buf2 = before->buf2 ? before->buf2 : before->buf;
		if (before->buf2)
			before->buf2 = NULL;
		else
			before->buf = NULL;
		c->base = victim;
	}
	drop(before);
	c->victim = victim;
	bool same_dir = old_dir == dir_length(new, new_len) && memcmp(old, new, old_dir) == 0;
	c->parent_mtime_ns = new_mtime_ns;
	c->parent2_mtime_ns = same_dir ? 0 : old_mtime_ns;
	c->rename_flags = 0;
	replace_pending(p, item, new, new_len);
	c->path = new;
	c->path_len = new_len;
	c->path2 = same_dir ? "" : old; /* a name that nobody else ever saw: its directory's mtime is what counts */
	c->path2_len = same_dir ? 0 : old_len;
	pending_set(p, c->path, c->path_len, index);
}

/* Do the others have nothing yet under the name of this creation? */
static bool is_unknown(const struct item *before)
{
	const struct cdm_change *c = &before->change;
	return cdm_dot_is_none(c->base) && cdm_dot_is_none(c->victim) && !(c->flags & CDM_CH_COVERS) &&
		(c->op != CDM_OP_SAVE || c->flags & CDM_CH_NEW);
}

static void fold_rename(struct pending *p, size_t index)
{
	struct cdm_change *c = &p->items[index]->change;
	struct item *before = pending_find(p, c->path, c->path_len);
	bool fresh = before && !(before->change.flags & CDM_CH_LINKED) && !(c->rename_flags & RENAME_EXCHANGE) &&
		(before->change.op == CDM_OP_SYMLINK || before->change.op == CDM_OP_SAVE) && is_unknown(before);
	if (fresh) {
		rename_into_place(p, index, before);
		return;
	}
	pending_close_below(p, c->path, c->path_len);
	pending_close_below(p, c->path2, c->path2_len);
}

static void fold_unlink(struct pending *p, size_t index)
{
	struct item *item = p->items[index];
	struct cdm_change *c = &item->change;
	struct item *before = pending_find(p, c->path, c->path_len);
	bool several = before && (before->change.flags | c->flags) & CDM_CH_LINKED;
	if (before && !several && before->change.op != CDM_OP_MKDIR) {
		if (p->one_author && is_unknown(before))
			become_skip(item);
		drop(before);
	}
	pending_close(p, c->path, c->path_len);
}

static void fold_rmdir(struct pending *p, size_t index)
{
	struct item *item = p->items[index];
	struct cdm_change *c = &item->change;
	struct item *before = pending_find(p, c->path, c->path_len);
	pending_close_below(p, c->path, c->path_len);
	if (!before || before->change.op != CDM_OP_MKDIR)
		return;
	for (size_t i = index; i-- > 0 && p->items[i] != before;) {
		const struct cdm_change *between = &p->items[i]->change;
		if (p->items[i]->gone || between->op == CDM_OP_SKIP)
			continue;
		if (is_at_or_below(between->path, between->path_len, c->path, c->path_len) ||
			is_at_or_below(between->path2, between->path2_len, c->path, c->path_len))
			return;
	}
	before->gone = true;
	if (p->one_author)
		become_skip(item);
}

static void fold_one(struct pending *p, size_t index)
{
	struct cdm_change *c = &p->items[index]->change;
	switch (c->op) {
	case CDM_OP_SAVE:
		fold_save(p, index);
		break;
	case CDM_OP_SETATTR:
	case CDM_OP_SETXATTR:
	case CDM_OP_REMOVEXATTR:
		fold_attribute(p, index);
		break;
	case CDM_OP_RENAME:
		fold_rename(p, index);
		break;
	case CDM_OP_UNLINK:
		fold_unlink(p, index);
		break;
	case CDM_OP_RMDIR:
		fold_rmdir(p, index);
		break;
	case CDM_OP_LINK:
		pending_close(p, c->path, c->path_len);
		pending_close(p, c->path2, c->path2_len);
		break;
	case CDM_OP_MKDIR:
	case CDM_OP_SYMLINK:
	case CDM_OP_MKNOD:
		pending_set(p, c->path, c->path_len, index);
		break;
	default:
		break;
	}
}

/* Directories whose mtime is told by something later. */
struct told {
	uint64_t *hashes; /* 0 = free */
	size_t mask;
};

/* Was it there? It is now. */
static bool told_add(struct told *t, const char *path, size_t len)
{
	uint64_t hash = hash_path(path, dir_length(path, len)) | 1;
	size_t i = hash >> 1 & t->mask;
	while (t->hashes[i] && t->hashes[i] != hash)
		i = (i + 1) & t->mask;
	bool there = t->hashes[i];
	t->hashes[i] = hash;
	return there;
}

/* A SKIP moves the vector, as any later change of its origin does, and tells its directory's mtime. */
static void drop_covered_skips(struct item **items, size_t count, size_t table)
{
	struct told told = {.hashes = calloc(table, sizeof *told.hashes), .mask = table - 1};
	cdm_origin seen = 0;
	if (!told.hashes)
		abort();
	for (size_t i = count; i-- > 0;) {
		const struct cdm_change *c = &items[i]->change;
		if (items[i]->gone)
			continue;
		bool tells = c->path_len && (c->parent_mtime_ns || (c->op == CDM_OP_SAVE && c->flags & CDM_CH_NEW));
		bool new = tells && !told_add(&told, c->path, c->path_len);
		new |= c->path2_len && c->parent2_mtime_ns && !told_add(&told, c->path2, c->path2_len);
		if (c->op == CDM_OP_SKIP && c->dot.origin == seen && !new && !(c->flags & (CDM_CH_WHOLE | CDM_CH_OVERTAKEN)))
			items[i]->gone = true;
		seen = c->dot.origin;
	}
	free(told.hashes);
}

void fold_items(struct item **items, size_t count, bool one_author)
{
	struct pending p = {.items = items, .one_author = one_author};
	size_t size = 64;
	while (size < 4 * count)
		size *= 2;
	p.mask = size - 1;
	p.slots = calloc(size, sizeof *p.slots);
	if (!p.slots)
		abort();
	cdm_origin origin = 0;
	for (size_t i = 0; i < count; i++) {
		if (items[i]->change.dot.origin != origin)
			pending_close_all(&p);
		origin = items[i]->change.dot.origin;
		fold_one(&p, i);
	}
	drop_covered_skips(items, count, size);
	free(p.slots);
}

/* Names that programs give to files they are about to rename. */
static bool looks_temporary(const char *path, size_t len)
{
	const char *name = path + len;
	while (name > path && name[-1] != '/')
		name--;
	size_t n = (size_t)(path + len - name);
	static const char *const endings[] = {".tmp", ".part", ".temp", ".new", ".swp", "~", ".lock"};
	for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
		size_t e = strlen(endings[i]);
		if (n > e && memcmp(name + n - e, endings[i], e) == 0)
			return true;
	}
	if (n > 4 && (memcmp(name, "tmp_", 4) == 0 || memcmp(name, "sed", 3) == 0) && n <= 12)
		return true;
	const char *dot = memrchr(name, '.', n);
	return n > 7 && name[0] == '.' && dot > name && (size_t)(name + n - dot) >= 5; /* ".index.html.Xa81Zq" */
}

int64_t fold_hold_ms(const struct item *newest)
{
	const struct cdm_change *c = &newest->change;
	bool fresh = (c->op == CDM_OP_SAVE && c->flags & CDM_CH_NEW && cdm_dot_is_none(c->victim)) || c->op == CDM_OP_SYMLINK;
	if (!fresh || c->flags & CDM_CH_RECEIVED)
		return 0;
	return looks_temporary(c->path, c->path_len) ? HOLD_TEMPORARY_MS : HOLD_NEW_MS;
}
