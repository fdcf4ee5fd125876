/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/history.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define SAVES 16384 /* power of two */
#define FOUND 4096  /* power of two */
#define RENAMES 256
#define PATH_KEPT 4096 /* longer ones are not kept */

struct saved {
	struct cdm_dot version, by;
};

struct found {
	struct cdm_dot version, was;
};

struct history {
	pthread_mutex_t lock;
	struct saved saves[SAVES];
	struct found found[FOUND];
	struct history_rename renames[RENAMES];
	size_t renamed; /* how many there ever were */
};

struct history *history_new(void)
{
	struct history *h = calloc(1, sizeof *h);
	if (!h)
		abort();
	pthread_mutex_init(&h->lock, NULL);
	return h;
}

void history_rename_fini(struct history_rename *r)
{
	free(r->from);
	free(r->to);
	*r = (struct history_rename){0};
}

void history_free(struct history **ph)
{
	struct history *h = *ph;
	*ph = NULL;
	if (!h)
		return;
	for (size_t i = 0; i < RENAMES; i++)
		history_rename_fini(&h->renames[i]);
	pthread_mutex_destroy(&h->lock);
	free(h);
}

static struct saved *slot_of(struct history *h, struct cdm_dot version)
{
	return &h->saves[(version.number ^ version.origin * 0x9e3779b97f4a7c15u >> 40) % SAVES];
}

static char *copy_of(const char *text, size_t len)
{
	char *copy = malloc(len + 1);
	if (!copy)
		abort();
	memcpy(copy, text, len);
	copy[len] = 0;
	return copy;
}

static bool knows_rename(const struct history *h, struct cdm_dot dot)
{
	size_t known = h->renamed < RENAMES ? h->renamed : RENAMES;
	for (size_t i = 0; i < known; i++)
		if (cdm_dot_equal(h->renames[i].version.dot, dot))
			return true;
	return false;
}

static void note_rename(struct history *h, const struct cdm_change *c)
{
	if (c->path_len > PATH_KEPT || c->path2_len > PATH_KEPT || c->rename_flags)
		return;
	if (knows_rename(h, c->dot))
		return;
	struct history_rename *r = &h->renames[h->renamed++ % RENAMES];
	history_rename_fini(r);
	*r = (struct history_rename){.version = {.dot = c->dot, .clock = c->clock}, .from_mtime_ns = c->parent_mtime_ns,
		.to_mtime_ns = c->parent2_mtime_ns, .from = copy_of(c->path, c->path_len), .to = copy_of(c->path2, c->path2_len),
		.from_len = c->path_len, .to_len = c->path2_len};
}

static struct found *found_slot(struct history *h, struct cdm_dot version)
{
	return &h->found[version.number % FOUND];
}

static void note_found(struct history *h, const struct cdm_change *c)
{
	if (cdm_dot_is_none(c->dot) || cdm_dot_is_none(c->base) || c->flags & CDM_CH_RECEIVED)
		return;
	pthread_mutex_lock(&h->lock);
	*found_slot(h, c->dot) = (struct found){c->dot, c->base};
	pthread_mutex_unlock(&h->lock);
}

void history_note(struct history *h, const struct cdm_change *c)
{
	bool rename = c->op == CDM_OP_RENAME;
	if (c->op == CDM_OP_WRITE && c->flags & CDM_CH_RECOVERED)
		note_found(h, c);
	bool directory = rename && c->attr.mask & CDM_ATTR_MODE && S_ISDIR(c->attr.mode);
	if ((!rename && c->op != CDM_OP_SAVE) || cdm_dot_is_none(c->dot))
		return;
	pthread_mutex_lock(&h->lock);
	if (directory)
		note_rename(h, c);
	else if (!cdm_dot_is_none(c->version.dot) && !(c->flags & CDM_CH_LOCAL)) /* that tells nobody */
		*slot_of(h, c->version.dot) = (struct saved){c->version.dot, c->dot};
	pthread_mutex_unlock(&h->lock);
}

void history_put_before(struct history *h, struct history **older)
{
	struct history *o = *older;
	struct history_rename *newer = calloc(RENAMES, sizeof *newer);
	if (!newer)
		abort();
	pthread_mutex_lock(&h->lock);
	size_t count = h->renamed, from = count > RENAMES ? count - RENAMES : 0;
	memcpy(newer, h->renames, sizeof h->renames);
	memcpy(h->renames, o->renames, sizeof h->renames);
	memset(o->renames, 0, sizeof o->renames);
	h->renamed = o->renamed;
	for (size_t i = from; i < count; i++) {
		struct history_rename *r = &newer[i % RENAMES];
		if (!r->from || knows_rename(h, r->version.dot)) {
			history_rename_fini(r);
			continue;
		}
		struct history_rename *slot = &h->renames[h->renamed++ % RENAMES];
		history_rename_fini(slot);
		*slot = *r;
	}
	for (size_t i = 0; i < SAVES; i++)
		if (cdm_dot_is_none(h->saves[i].version))
			h->saves[i] = o->saves[i];
	pthread_mutex_unlock(&h->lock);
	free(newer);
	history_free(older);
}

struct cdm_dot history_saved_by(struct history *h, struct cdm_dot version)
{
	struct cdm_dot by = {0};
	pthread_mutex_lock(&h->lock);
	const struct saved *s = slot_of(h, version);
	if (cdm_dot_equal(s->version, version))
		by = s->by;
	pthread_mutex_unlock(&h->lock);
	return by;
}

struct cdm_dot history_found_as(struct history *h, struct cdm_dot version)
{
	struct cdm_dot was = {0};
	pthread_mutex_lock(&h->lock);
	const struct found *f = found_slot(h, version);
	if (cdm_dot_equal(f->version, version))
		was = f->was;
	pthread_mutex_unlock(&h->lock);
	return was;
}

static bool is_at_or_below(const char *path, size_t len, const char *dir, size_t dir_len)
{
	return len >= dir_len && memcmp(path, dir, dir_len) == 0 && (len == dir_len || path[dir_len] == '/');
}

char *history_map(struct history *h, const char *path, size_t len, cdm_origin author, const struct cdm_vector *context, size_t *ret_len,
	struct history_rename *last)
{
	char *now = NULL;
	const struct history_rename *followed = NULL;
	pthread_mutex_lock(&h->lock);
	for (size_t i = h->renamed > RENAMES ? h->renamed - RENAMES : 0; i < h->renamed; i++) {
		const struct history_rename *r = &h->renames[i % RENAMES];
		if (!r->from || !is_at_or_below(path, len, r->from, r->from_len))
			continue;
		if (r->version.dot.origin == author || cdm_vector_covers(context, r->version.dot) || r->to_len + len - r->from_len > CDM_PATH_MAX)
			continue;
		char *mapped = malloc(r->to_len + len - r->from_len + 1);
		if (!mapped)
			abort();
		memcpy(mapped, r->to, r->to_len);
		memcpy(mapped + r->to_len, path + r->from_len, len - r->from_len);
		len = r->to_len + len - r->from_len;
		mapped[len] = 0;
		free(now);
		path = now = mapped;
		followed = r;
	}
	if (last && followed)
		*last = (struct history_rename){.version = followed->version, .from_mtime_ns = followed->from_mtime_ns,
			.to_mtime_ns = followed->to_mtime_ns, .from = copy_of(followed->from, followed->from_len),
			.to = copy_of(followed->to, followed->to_len), .from_len = followed->from_len, .to_len = followed->to_len};
	pthread_mutex_unlock(&h->lock);
	*ret_len = len;
	return now;
}

void history_forget(struct history *h, struct cdm_dot rename)
{
	pthread_mutex_lock(&h->lock);
	for (size_t i = 0; i < RENAMES; i++)
		if (h->renames[i].from && cdm_dot_equal(h->renames[i].version.dot, rename))
			history_rename_fini(&h->renames[i]);
	pthread_mutex_unlock(&h->lock);
}
