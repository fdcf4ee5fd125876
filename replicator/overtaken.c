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
	cdm_origin origin; /* of the change that was skipped … */
	uint64_t clock;    /* … and its clock: what overtook it is later */
	uint64_t number;   /* rising from name to name */
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

static void remove_name(struct overtaken *o, const char *path, size_t len)
{
	size_t i = find(o, path, len);
	if (i < o->count)
		drop(o, i);
}

static void add(struct overtaken *o, const char *path, size_t len, cdm_origin origin, uint64_t clock)
{
	remove_name(o, path, len);
	if (len > OVERTAKEN_PATH_MAX)
		return;
	while (o->count == OVERTAKEN_MAX || (o->count && o->bytes + len > OVERTAKEN_BYTES_MAX))
		drop(o, 0);
	struct name *n = &o->names[o->count++];
	*n = (struct name){.path = malloc(len), .len = len, .hash = XXH3_64bits(path, len), .origin = origin, .clock = clock, .number = ++o->number};
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

/* What was below a directory is gone with it, or has its new name. */
static void directory_went(struct overtaken *o, const struct cdm_change *c)
{
	for (size_t i = o->count; i-- > 0;) {
		struct name *n = &o->names[i];
		size_t at = c->path_len + 1, len = c->path2_len + 1 + n->len - at;
		if (!is_below(n, c->path, c->path_len))
			continue;
		if (c->op == CDM_OP_RENAME && len <= OVERTAKEN_PATH_MAX)
			set_path(o, n, cdm_path_join(c->path2, c->path2_len, n->path + at, n->len - at, &len), len);
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
	if (came.origin)
		add(o, c->path2, c->path2_len, came.origin, came.clock);
	if (went.origin)
		add(o, c->path, c->path_len, went.origin, went.clock);
	if (!exchange)
		directory_went(o, c);
}

/* Not if a node that lost it passes on an older one that it got from a neighbour (unsure.h). */
static void note_save(struct overtaken *o, const struct cdm_change *c)
{
	size_t i = find(o, c->path, c->path_len);
	bool told_again = !cdm_dot_is_none(c->version.dot) && c->version.dot.origin != c->dot.origin;
	if (i < o->count && (!told_again || c->version.clock > o->names[i].clock))
		drop(o, i);
}

void overtaken_note(struct overtaken *o, const struct cdm_change *c)
{
	if (c->op == CDM_OP_SKIP && c->flags & CDM_CH_OVERTAKEN && c->path_len)
		add(o, c->path2_len ? c->path2 : c->path, c->path2_len ? c->path2_len : c->path_len, c->dot.origin, c->clock);
	if (!o->count)
		return;
	switch ((unsigned)c->op) {
	case CDM_OP_SAVE:
		note_save(o, c);
		break;
	case CDM_OP_MKDIR:
	case CDM_OP_UNLINK:
	case CDM_OP_SYMLINK:
	case CDM_OP_MKNOD:
		remove_name(o, c->path, c->path_len);
		break;
	case CDM_OP_LINK:
		remove_name(o, c->path2, c->path2_len);
		break;
	case CDM_OP_RMDIR:
		remove_name(o, c->path, c->path_len);
		directory_went(o, c);
		break;
	case CDM_OP_RENAME:
		note_rename(o, c);
	}
}

bool overtaken_is_lost(const struct overtaken *o, cdm_origin now)
{
	size_t i = 0;
	while (i < o->count && (CDM_ORIGIN_NODE(o->names[i].origin) != CDM_ORIGIN_NODE(now) || o->names[i].origin >= now))
		i++;
	return i < o->count;
}

uint64_t overtaken_number(const struct overtaken *o)
{
	return o->number;
}

void overtaken_settled(struct overtaken *o, uint64_t number, const struct overtaken *theirs)
{
	for (size_t i = o->count; i-- > 0;)
		if (o->names[i].number <= number && !(theirs && overtaken_has(theirs, o->names[i].path, o->names[i].len)))
			drop(o, i);
}

void overtaken_encode(const struct overtaken *o, struct bytes *out)
{
	for (size_t i = 0; i < o->count; i++) {
		bytes_put_u16(out, (uint16_t)o->names[i].len);
		bytes_put(out, o->names[i].path, o->names[i].len);
	}
}

struct overtaken *overtaken_decode(const uint8_t *in, size_t len)
{
	struct reading r = {in, len, 0, false};
	struct overtaken *o = overtaken_new();
	while (!r.bad && r.at < len) {
		size_t n = reading_u16(&r);
		const char *path = (const char *)reading_bytes(&r, n);
		r.bad |= !path || cdm_path_check(path, n) < 0 || o->count == OVERTAKEN_MAX || o->bytes + n > OVERTAKEN_BYTES_MAX;
		if (!r.bad)
			add(o, path, n, 0, 0);
	}
	if (r.bad)
		overtaken_free(&o);
	return o;
}
