/* SPDX-License-Identifier: Apache-2.0 */
/* delta_search.c — most of a rewritten file is as it was, so the block that should come next is tried first and costs one hash; only
 * where it fails does the rolling checksum look at each position, through a small filter that few positions pass. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "replicator/delta.h"
#include "replicator/delta_read.h"
#include "replicator/delta_roll.h"

#define PROBES_MAX 16            /* a block that finds no place within so many is only found in its turn */
#define NOWHERE SIZE_MAX
#define WASTE_MAX 4              /* bytes hashed in vain, as a multiple of the file's size, before a search gives up */

struct search {
	int fd;
	const struct delta_signature *old;
	struct roll_window window;
	struct roll_filter filter;
	uint32_t *slots;             /* index + 1 of a block; 0 = free */
	unsigned slot_shift;
	size_t block, full;          /* bytes of a block; blocks of this length */
	size_t last;                 /* bytes of the one behind them, 0 = none */
	size_t expect;               /* index of the block that should come next, or NOWHERE */
	uint64_t waste;              /* bytes that may still be hashed in vain */

	uint8_t *buf;                /* the file's [buf_at, buf_at + buf_len) */
	size_t buf_room, buf_len;
	uint64_t buf_at;
	struct delta_signer *signer;
	struct delta_copies *copies;
};

void delta_copies_fini(struct delta_copies *c)
{
	free(c->list);
	*c = (struct delta_copies){0};
}

void delta_found_fini(struct delta_found *f)
{
	delta_copies_fini(&f->copies);
	free(f->signature);
	*f = (struct delta_found){0};
}

/* --- the old blocks --- */

static bool same_block(const struct delta_block *a, const struct delta_block *b)
{
	return a->rolling == b->rolling && a->strong == b->strong;
}

static void index_block(struct search *s, size_t i)
{
	const struct delta_block *blocks = s->old->blocks;
	size_t mask = ((size_t)1 << (32 - s->slot_shift)) - 1, slot = blocks[i].rolling >> s->slot_shift;
	for (unsigned probe = 0; probe < PROBES_MAX; probe++, slot = (slot + 1) & mask) {
		if (!s->slots[slot]) {
			s->slots[slot] = (uint32_t)i + 1;
			roll_filter_add(&s->filter, blocks[i].rolling);
			return;
		}
		if (same_block(&blocks[s->slots[slot] - 1], &blocks[i]))
			return; /* the first of equals is enough: those behind it are tried in their turn */
	}
}

static int index_blocks(struct search *s)
{
	unsigned bits = 6;
	while ((size_t)1 << bits < 2 * s->full)
		bits++;
	s->slot_shift = 32 - bits;
	s->filter.shift = s->slot_shift;
	s->slots = calloc((size_t)1 << bits, sizeof *s->slots);
	s->filter.words = calloc((size_t)1 << bits, sizeof *s->filter.words);
	if (!s->slots || !s->filter.words)
		return -ENOMEM;
	for (size_t i = 0; i < s->full; i++)
		index_block(s, i);
	return 0;
}

static uint32_t strong(const uint8_t *data, size_t len)
{
	return (uint32_t)XXH3_128bits(data, len).low64;
}

/* A block with this content, or NOWHERE. */
static size_t find_block(struct search *s, uint32_t rolling, const uint8_t *data)
{
	size_t mask = ((size_t)1 << (32 - s->slot_shift)) - 1, slot = rolling >> s->slot_shift;
	uint32_t hash = 0;
	bool hashed = false;
	for (unsigned probe = 0; probe < PROBES_MAX && s->slots[slot]; probe++, slot = (slot + 1) & mask) {
		size_t i = s->slots[slot] - 1;
		if (s->old->blocks[i].rolling != rolling)
			continue;
		if (!hashed)
			hash = strong(data, s->block);
		hashed = true;
		if (s->old->blocks[i].strong == hash)
			return i;
	}
	if (hashed)
		s->waste = s->waste > s->block ? s->waste - s->block : 0;
	return NOWHERE;
}

/* --- the new file, as a window that moves on --- */

static const uint8_t *bytes_at(const struct search *s, uint64_t at)
{
	return s->buf + (at - s->buf_at);
}

static size_t readable(const struct search *s, uint64_t at)
{
	return (size_t)(s->buf_at + s->buf_len - at);
}

/* At least `need` bytes from `at` on into the buffer, all that it holds if it must be read; nothing before `at` is needed any more.
 * Nothing behind `end` is read. */
static int fill(struct search *s, uint64_t at, size_t need, uint64_t end, struct cdm_error *err)
{
	if (readable(s, at) >= need)
		return 0;
	s->buf_len = readable(s, at);
	memmove(s->buf, bytes_at(s, at), s->buf_len);
	s->buf_at = at;
	while (s->buf_len < s->buf_room && at + s->buf_len < end) {
		uint64_t left = end - at - s->buf_len, room = s->buf_room - s->buf_len;
		size_t n = DELTA_CHUNK;
		n = n < left ? n : (size_t)left;
		n = n < room ? n : (size_t)room;
		int r = delta_pread(s->fd, s->buf + s->buf_len, n, at + s->buf_len, err);
		if (r < 0)
			return r;
		delta_signer_feed(s->signer, s->buf + s->buf_len, n);
		s->buf_len += n;
	}
	return 0;
}

/* What was not looked at belongs to the new signature all the same. The bytes before `end` stay in the buffer as far as they fit. */
static int drain(struct search *s, uint64_t end, struct cdm_error *err)
{
	for (uint64_t have; (have = s->buf_at + s->buf_len) < end;) {
		uint64_t keep = s->buf_len < s->block ? s->buf_len : s->block;
		int r = fill(s, have - keep, (size_t)keep + 1, end, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int copies_add(struct delta_copies *c, uint64_t at, uint64_t from, uint64_t length)
{
	struct delta_copy *last = c->count ? &c->list[c->count - 1] : NULL;
	c->bytes += length;
	if (last && last->at + last->length == at && last->from + last->length == from) {
		last->length += length;
		return 0;
	}
	if (c->count == DELTA_COPIES_MAX)
		return -EFBIG;
	if (c->count == c->room) {
		c->room = c->room ? 2 * c->room : 16;
		c->list = realloc(c->list, c->room * sizeof *c->list);
		if (!c->list)
			abort();
	}
	c->list[c->count++] = (struct delta_copy){at, from, length};
	return 0;
}

static int take_block(struct search *s, uint64_t at, size_t index, size_t len, struct cdm_error *err)
{
	s->expect = index + 1;
	if (copies_add(s->copies, at, (uint64_t)index << s->old->bits, len) < 0)
		return cdm_fail_plain(err, EFBIG, "a delta of more than %u pieces", DELTA_COPIES_MAX);
	return 0;
}

/* --- searching --- */

static size_t length_of(const struct search *s, size_t index)
{
	return index < s->full ? s->block : index == s->full ? s->last : 0;
}

/* Is block `index` at `at`? Its length, or 0. Only asked where it is likely: 32 bits are enough. */
static size_t block_is_at(const struct search *s, size_t index, uint64_t at)
{
	size_t len = length_of(s, index);
	return len && len <= readable(s, at) && strong(bytes_at(s, at), len) == s->old->blocks[index].strong ? len : 0;
}

/* The next block, or the one behind it (bytes were changed, none came or went). Returns how far that goes, 0 = not so, or -errno. */
static int64_t follow_on(struct search *s, uint64_t at, struct cdm_error *err)
{
	if (s->expect == NOWHERE)
		return 0;
	size_t len = block_is_at(s, s->expect, at), before = 0;
	size_t index = s->expect;
	if (!len && index < s->full && readable(s, at) > s->block) {
		before = s->block;
		len = block_is_at(s, ++index, at + before);
	}
	if (!len)
		return 0;
	int r = take_block(s, at + before, index, len, err);
	return r < 0 ? r : (int64_t)(before + len);
}

/* Look at each position from *at on until a block is found (*at is behind it then) or less than a block is left. */
static int look_everywhere(struct search *s, uint64_t *at, uint64_t end, struct cdm_error *err)
{
	uint32_t hash = roll_hash(bytes_at(s, *at), s->block);
	s->expect = NOWHERE;
	while (s->waste) {
		size_t moves = readable(s, *at) - s->block;
		size_t moved = roll_scan(&s->window, &s->filter, bytes_at(s, *at), moves, &hash);
		*at += moved;
		if (moved == moves && *at + s->block < end) {
			int r = fill(s, *at, s->block + 1, end, err);
			if (r < 0)
				return r;
			continue; /* this position comes first in the next stretch */
		}
		size_t found = roll_filter_has(&s->filter, hash) ? find_block(s, hash, bytes_at(s, *at)) : NOWHERE;
		if (found != NOWHERE) {
			int r = take_block(s, *at, found, s->block, err);
			*at += s->block;
			return r;
		}
		if (*at + s->block == end)
			break;
		hash = roll_move(&s->window, bytes_at(s, *at), hash);
		++*at;
	}
	*at = s->waste ? *at + 1 : end;
	return 0;
}

/* The last block of the old version, where it is shorter than the others, is only sought where it was: at the end. */
static int look_at_end(struct search *s, uint64_t at, uint64_t end, struct cdm_error *err)
{
	if (!s->last || end - at < s->last)
		return 0;
	const uint8_t *data = bytes_at(s, end - s->last);
	const struct delta_block *b = &s->old->blocks[s->full];
	if (roll_hash(data, s->last) != b->rolling || strong(data, s->last) != b->strong)
		return 0;
	return take_block(s, end - s->last, s->full, s->last, err);
}

static int search_part(struct search *s, uint64_t at, uint64_t end, struct cdm_error *err)
{
	s->buf_at = at;
	s->buf_len = 0;
	s->expect = at & (s->block - 1) || at >> s->old->bits >= s->old->count ? NOWHERE : (size_t)(at >> s->old->bits);
	while (at < end) {
		size_t need = end - at < 2 * s->block ? (size_t)(end - at) : 2 * s->block;
		int r = fill(s, at, need, end, err);
		if (r < 0)
			return r;
		int64_t on = follow_on(s, at, err);
		if (on < 0)
			return (int)on;
		at += (uint64_t)on;
		if (on)
			continue;
		if (end - at < s->block)
			break;
		r = look_everywhere(s, &at, end, err);
		if (r < 0)
			return r;
	}
	int r = drain(s, end, err);
	return r < 0 || at >= end ? r : look_at_end(s, at, end, err);
}

/* Where the next stretch of data ends; holes too small to be worth an interruption belong to it. */
static int stretch_end(struct search *s, uint64_t size, uint64_t *end, bool *holes)
{
	while (*end < size) {
		uint64_t part_end;
		int data = delta_part(s->fd, *end, size, &part_end);
		if (data < 0)
			return data;
		if (!data && (part_end == size || part_end - *end >= 2 * s->block))
			return 0;
		*holes = *holes || !data;
		*end = part_end;
	}
	return 0;
}

/* What is a hole in the new file stays one: no copy covers it. */
static int leave_holes(int fd, struct delta_copies *c)
{
	struct delta_copies cut = {0};
	for (size_t i = 0; i < c->count; i++) {
		struct delta_copy k = c->list[i];
		for (uint64_t at = k.at, end = k.at + k.length, part_end; at < end; at = part_end) {
			int r = delta_part(fd, at, end, &part_end);
			if (r > 0)
				r = copies_add(&cut, at, k.from + (at - k.at), part_end - at);
			if (r < 0) {
				delta_copies_fini(&cut);
				return r;
			}
		}
	}
	delta_copies_fini(c);
	*c = cut;
	return 0;
}

static int search_all(struct search *s, uint64_t size, struct cdm_error *err)
{
	bool holes = false;
	uint64_t end;
	int r = 0;
	for (uint64_t at = 0; r >= 0 && at < size; at = end) {
		r = delta_part(s->fd, at, size, &end);
		if (r == 0) {
			delta_signer_feed_zeros(s->signer, end - at);
		} else if (r > 0) {
			r = stretch_end(s, size, &end, &holes);
			if (r == 0)
				r = search_part(s, at, end, err);
		}
	}
	if (r >= 0 && holes)
		r = leave_holes(s->fd, s->copies);
	return r < 0 && err && !err->number ? cdm_fail(err, -r, "look for the holes of a file") : r < 0 ? r : 0;
}

int delta_search(int fd, const struct delta_signature *old, struct delta_found *ret, struct cdm_error *err)
{
	struct stat st;
	*ret = (struct delta_found){0};
	if (fstat(fd, &st) < 0)
		return cdm_fail(err, errno, "search a file");
	uint64_t size = (uint64_t)st.st_size;
	if (size > DELTA_SIZE_MAX)
		return cdm_fail_plain(err, EFBIG, "a file of %llu bytes has no signature", (unsigned long long)size);
	struct search s = {.fd = fd, .old = old, .block = (size_t)1 << old->bits, .copies = &ret->copies, .waste = WASTE_MAX * size + 1};
	s.full = (size_t)(old->size >> old->bits);
	s.last = (size_t)(old->size & (s.block - 1));
	s.buf_room = 2 * s.block + DELTA_CHUNK < size ? 2 * s.block + DELTA_CHUNK : (size_t)size + 1;
	s.buf = malloc(s.buf_room);
	s.signer = delta_signer_new(size, true);
	roll_window_init(&s.window, s.block);
	int r = s.buf ? index_blocks(&s) : -ENOMEM;
	if (r < 0)
		cdm_fail(err, -r, "search a file");
	else if (s.full)
		r = search_all(&s, size, err);
	else
		r = delta_feed(fd, 0, size, s.signer, err); /* hardly anything that could be found */
	if (r == 0) {
		ret->size = size;
		ret->signature = delta_signer_end(s.signer, ret->digest);
	} else {
		delta_found_fini(ret);
	}
	delta_signer_free(&s.signer);
	free(s.slots);
	free(s.filter.words);
	free(s.buf);
	return r;
}
