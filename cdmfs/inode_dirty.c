/* SPDX-License-Identifier: Apache-2.0 */
/* The node table: what of a file's content is not saved yet. */
#include <errno.h>
#include <string.h>
#include <time.h>
#include "cdmfs/inode_parts.h"

static int64_t mono_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ll + ts.tv_nsec;
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
