/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/content_cache.h"

#include <stdlib.h>

struct kept {
	struct content *content;
	struct cdm_handle handle;
	uint64_t position;
};

struct content_cache { /* the oldest goes first */
	struct kept kept[CACHE_CONTENTS];
	size_t first, count, bytes;
};

struct content_cache *content_cache_new(void)
{
	struct content_cache *r = calloc(1, sizeof *r);
	if (!r)
		abort();
	return r;
}

static struct kept *kept_at(const struct content_cache *r, size_t index)
{
	return (struct kept *)&r->kept[(r->first + index) % CACHE_CONTENTS];
}

static size_t memory_of(const struct content *c)
{
	return sizeof *c + c->pieces.len + c->xattr_bytes.len + c->extent_count * sizeof *c->extents;
}

static void drop_oldest(struct content_cache *r)
{
	struct kept *k = kept_at(r, 0);
	r->bytes -= memory_of(k->content);
	content_close(&k->content);
	r->first = (r->first + 1) % CACHE_CONTENTS;
	r->count--;
}

void content_cache_forget(struct content_cache *r)
{
	while (r->count)
		drop_oldest(r);
}

void content_cache_free(struct content_cache **pr)
{
	struct content_cache *r = *pr;
	*pr = NULL;
	if (!r)
		return;
	content_cache_forget(r);
	free(r);
}

void content_cache_keep(struct content_cache *r, struct content *c, const struct cdm_handle *handle, uint64_t position)
{
	while (r->count && (r->count == CACHE_CONTENTS || r->bytes + memory_of(c) > CACHE_BYTES))
		drop_oldest(r);
	*kept_at(r, r->count++) = (struct kept){content_share(c), *handle, position};
	r->bytes += memory_of(c);
}

struct content *content_cache_find(const struct content_cache *r, const struct item *item)
{
	const struct cdm_change *c = &item->change;
	if (!item_is_whole_save(item))
		return NULL;
	for (size_t i = r->count; i-- > 0;) {
		const struct kept *k = kept_at(r, i);
		if (cdm_dot_equal(k->content->carried.stamp.content.dot, c->version.dot) && cdm_handle_equal(&k->handle, &c->handle))
			return k->position > item_known_from(item) ? content_share(k->content) : NULL;
	}
	return NULL;
}
