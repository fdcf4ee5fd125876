/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/overtaken.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

struct name {
	char *path;
	size_t len;
	uint64_t hash;
	struct cdm_dot dot; /* of the change that was skipped … */
	uint64_t clock;    /* … and of the content it made: what overtook it is later */
	uint64_t number;   /* rising from name to name */
	bool here;         /* overtaken_is_here */
};

struct overtaken { /* oldest first */
	struct name names[OVERTAKEN_MAX];
	size_t count, bytes;
	uint64_t number;
};

struct overtaken *overtaken_new(void)
{
	struct overtaken *o = calloc(1, sizeof *o);
	if (!o)
		abort();
	return o;
}

void overtaken_free(struct overtaken **o)
{
	for (size_t i = 0; *o && i < (*o)->count; i++)
		free((*o)->names[i].path);
	free(*o);
	*o = NULL;
}

static void drop(struct overtaken *o, size_t i)
{
	o->bytes -= o->names[i].len;
	free(o->names[i].path);
	memmove(&o->names[i], &o->names[i + 1], (--o->count - i) * sizeof *o->names);
}

/* Its place, or count. */
static size_t find(const struct overtaken *o, const char *path, size_t len)
{
	uint64_t hash = o->count ? XXH3_64bits(path, len) : 0;
	size_t i = 0;
	while (i < o->count && (o->names[i].hash != hash || o->names[i].len != len || memcmp(o->names[i].path, path, len) != 0))
		i++;
	return i;
}

bool overtaken_has(const struct overtaken *o, const char *path, size_t len)
{
	return find(o, path, len) < o->count;
}

bool overtaken_lacks(const struct overtaken *o, const char *path, size_t len, struct cdm_dot version)
{
	size_t i = find(o, path, len);
	const char *slash = path + len;
	bool above = false;
	while (i == o->count && !above && (slash = memrchr(path, '/', (size_t)(slash - path))))
		above = overtaken_has(o, path, (size_t)(slash - path));
	return i < o->count ? version.origin == o->names[i].dot.origin && version.number <= o->names[i].dot.number : above;
}

static void remove_name(struct overtaken *o, const char *path, size_t len)
{
	size_t i = find(o, path, len);
	if (i < o->count)
		drop(o, i);
}

static void add(struct overtaken *o, const char *path, size_t len, struct cdm_dot dot, uint64_t clock)
{
	remove_name(o, path, len);
	if (len > OVERTAKEN_PATH_MAX)
		return;
	while (o->count == OVERTAKEN_MAX || (o->count && o->bytes + len > OVERTAKEN_BYTES_MAX))
		drop(o, 0);
	struct name *n = &o->names[o->count++];
	*n = (struct name){.path = malloc(len), .len = len, .hash = XXH3_64bits(path, len), .dot = dot, .clock = clock, .number = ++o->number};
	if (!n->path)
		abort();
	memcpy(n->path, path, len);
	o->bytes += len;
}

static bool is_below(const struct name *n, const char *dir, size_t len)
{
	return n->len > len && n->path[len] == '/' && memcmp(n->path, dir, len) == 0;
}

static void set_path(struct overtaken *o, struct name *n, char *path, size_t len)
{
	o->bytes += len - n->len;
	free(n->path);
	n->path = path;
	n->len = len;
	n->hash = XXH3_64bits(path, len);
}

static void drop_below(struct overtaken *o, const char *dir, size_t len)
{
	for (size_t i = o->count; i-- > 0;)
		if (is_below(&o->names[i], dir, len))
			drop(o, i);
}

/* What is below a directory has its new name. */
static void directory_moved(struct overtaken *o, const struct cdm_change *c)
{
	for (size_t i = o->count; i-- > 0;) {
		struct name *n = &o->names[i];
		bool forth = is_below(n, c->path, c->path_len), back = c->rename_flags & RENAME_EXCHANGE && is_below(n, c->path2, c->path2_len);
		const char *to = forth ? c->path2 : c->path;
		size_t from_len = forth ? c->path_len : c->path2_len, to_len = forth ? c->path2_len : c->path_len, len = to_len + n->len - from_len;
		if (!forth && !back)
			continue;
		if (len <= OVERTAKEN_PATH_MAX)
			set_path(o, n, cdm_path_join(to, to_len, n->path + from_len + 1, n->len - from_len - 1, &len), len);
		else
			drop(o, i);
	}
	while (o->bytes > OVERTAKEN_BYTES_MAX)
		drop(o, 0);
}

/* What lay at the old name is at the new one now. */
static void note_rename(struct overtaken *o, const struct cdm_change *c)
{
	bool exchange = c->rename_flags & RENAME_EXCHANGE;
	size_t from = find(o, c->path, c->path_len), to = find(o, c->path2, c->path2_len);
	struct name none = {0}, came = from < o->count ? o->names[from] : none, went = exchange && to < o->count ? o->names[to] : none;
	remove_name(o, c->path, c->path_len);
	remove_name(o, c->path2, c->path2_len);
	if (came.number)
		add(o, c->path2, c->path2_len, came.dot, came.clock);
	if (went.number)
		add(o, c->path, c->path_len, went.dot, went.clock);
	directory_moved(o, c);
}

/* The other name is one of a file that is behind, too, if the first one is. */
static void note_link(struct overtaken *o, const struct cdm_change *c)
{
	size_t i = find(o, c->path, c->path_len);
	if (i < o->count)
		add(o, c->path2, c->path2_len, o->names[i].dot, o->names[i].clock);
	else
		remove_name(o, c->path2, c->path2_len);
}

/* Not by an older one: a node that lost it may pass on what a neighbour had (unsure.h), and others may save at the same time. */
static void note_save(struct overtaken *o, const struct cdm_change *c)
{
	size_t i = find(o, c->path, c->path_len);
	if (i < o->count && (!c->version.clock || c->version.clock >= o->names[i].clock))
		drop(o, i);
}

void overtaken_skip(struct cdm_change *c)
{
	bool is_link = c->op == CDM_OP_LINK, has_content = c->op == CDM_OP_SAVE || c->op == CDM_OP_RENAME || is_link;
	if (c->op == CDM_OP_SAVE && c->path2_len) { /* there it is where the file was before it got its name: as of a rename */
		struct cdm_change was = *c;
		c->path = was.path2;
		c->path_len = was.path2_len;
		c->parent_mtime_ns = was.parent2_mtime_ns;
		c->path2 = was.path;
		c->path2_len = was.path_len;
		c->parent2_mtime_ns = was.parent_mtime_ns;
	}
	c->op = CDM_OP_SKIP;
	c->flags = has_content ? CDM_CH_OVERTAKEN | (is_link ? CDM_CH_LINKED : 0) : 0;
}

void overtaken_compared(struct overtaken *o, const char *path, size_t len, bool removed)
{
	remove_name(o, path, len);
	if (removed)
		drop_below(o, path, len);
}

void overtaken_missed(struct overtaken *o, const char *path, size_t len, struct cdm_dot dot, uint64_t clock)
{
	add(o, path, len, dot, clock);
}

void overtaken_note(struct overtaken *o, const struct cdm_change *c)
{
	bool behind = c->op == CDM_OP_SKIP && c->flags & CDM_CH_OVERTAKEN && c->path_len, two = c->path2_len;
	if (behind && two && !(c->flags & CDM_CH_LINKED)) /* it had that name before */
		remove_name(o, c->path, c->path_len);
	if (behind)
		add(o, two ? c->path2 : c->path, two ? c->path2_len : c->path_len, c->dot, c->version.clock ? c->version.clock : c->clock);
	if (behind || !o->count)
		return;
	switch ((unsigned)c->op) {
	case CDM_OP_SAVE:
		note_save(o, c);
		break;
	case CDM_OP_SKIP: /* with its directory's time: the name is gone, or something later tells of it */
		if (c->parent_mtime_ns)
			remove_name(o, c->path, c->path_len);
		break;
	case CDM_OP_MKDIR:
	case CDM_OP_UNLINK:
	case CDM_OP_SYMLINK:
	case CDM_OP_MKNOD:
		remove_name(o, c->path, c->path_len);
		break;
	case CDM_OP_LINK:
		note_link(o, c);
		break;
	case CDM_OP_RMDIR:
		overtaken_compared(o, c->path, c->path_len, true);
		break;
	case CDM_OP_RENAME:
		note_rename(o, c);
	}
}

bool overtaken_has_below(const struct overtaken *o, const char *dir, size_t len)
{
	size_t i = 0;
	while (i < o->count && !is_below(&o->names[i], dir, len))
		i++;
	return i < o->count;
}

bool overtaken_is_lost(const struct overtaken *o, cdm_origin now)
{
	size_t i = 0;
	while (i < o->count && (CDM_ORIGIN_NODE(o->names[i].dot.origin) != CDM_ORIGIN_NODE(now) || o->names[i].dot.origin >= now))
		i++;
	return i < o->count;
}

uint64_t overtaken_number(const struct overtaken *o)
{
	return o->number;
}

void overtaken_settled(struct overtaken *o, uint64_t number, const struct overtaken *theirs, const struct cdm_vector *vector)
{
	for (size_t i = o->count; i-- > 0;) {
		const struct name *n = &o->names[i];
		bool named = theirs && overtaken_has(theirs, n->path, n->len);
		if (n->number <= number && !named && !cdm_vector_began_anew(vector, n->dot.origin))
			drop(o, i);
	}
}

void overtaken_is_here(struct overtaken *theirs, const char *path, size_t len)
{
	size_t i = find(theirs, path, len);
	if (i < theirs->count)
		theirs->names[i].here = true;
}

void overtaken_taken_over(struct overtaken *o, const struct overtaken *theirs)
{
	for (size_t i = 0; i < theirs->count; i++) {
		const struct name *n = &theirs->names[i];
		size_t at = find(o, n->path, n->len);
		bool known = at < o->count && (o->names[at].dot.origin != n->dot.origin || o->names[at].dot.number >= n->dot.number);
		if (!n->here && !known)
			add(o, n->path, n->len, n->dot, n->clock);
	}
}

void overtaken_encode(const struct overtaken *o, struct bytes *out)
{
	for (size_t i = 0; i < o->count; i++) {
		bytes_put_u64(out, o->names[i].dot.origin);
		bytes_put_u64(out, o->names[i].dot.number);
		bytes_put_u64(out, o->names[i].clock);
		bytes_put_u16(out, (uint16_t)o->names[i].len);
		bytes_put(out, o->names[i].path, o->names[i].len);
	}
}

struct overtaken *overtaken_decode(const uint8_t *in, size_t len)
{
	struct reading r = {in, len, 0, false};
	struct overtaken *o = overtaken_new();
	while (!r.bad && r.at < len) {
		struct cdm_dot dot = {reading_u64(&r), 0};
		dot.number = reading_u64(&r);
		uint64_t clock = reading_u64(&r);
		size_t n = reading_u16(&r);
		const char *path = (const char *)reading_bytes(&r, n);
		r.bad |= !path || !CDM_ORIGIN_NODE(dot.origin) || !CDM_ORIGIN_INCARNATION(dot.origin) || cdm_path_check(path, n) < 0 || o->count == OVERTAKEN_MAX || o->bytes + n > OVERTAKEN_BYTES_MAX;
		if (!r.bad)
			add(o, path, n, dot, clock);
	}
	if (r.bad)
		overtaken_free(&o);
	return o;
}
