/* SPDX-License-Identifier: Apache-2.0 */
/* resync_unseen.c — what a version alone does not tell when trees are compared: a file that is only on one side, under a version both know, was
 * removed by one side, or got its name from the other by a rename or a link, or was saved. Our own journal knows what we did. Paths are kept as
 * hashes, 64 bits each, and at most so many. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>
#include "common/io.h"
#include "replicator/resync_compare.h"

#define PATHS_MAX (1u << 20)

struct paths { /* open addressing, 0 = free */
	uint64_t *slots;
	size_t count, room;
};

struct unseen {
	struct set *set;
	struct cdm_vector sender;
	uint64_t from;          /* position in our journal; what the sender lacks comes after it */
	bool nothing, looked, complete;
	int error;              /* the journal could not be read: what is said then says nothing */
	struct paths went, came;
};

static uint64_t hash_of(const char *path, size_t len)
{
	uint64_t h = XXH3_64bits(path, len);
	return h ? h : 1;
}

static uint64_t *slot_of(const struct paths *p, uint64_t hash)
{
	size_t i = hash & (p->room - 1);
	while (p->slots[i] && p->slots[i] != hash)
		i = (i + 1) & (p->room - 1);
	return &p->slots[i];
}

struct paths *paths_new(void)
{
	struct paths *p = calloc(1, sizeof *p);
	if (!p)
		abort();
	return p;
}

void paths_free(struct paths **p)
{
	if (*p)
		free((*p)->slots);
	free(*p);
	*p = NULL;
}

bool paths_have(const struct paths *p, const char *path, size_t len)
{
	return p->count && *slot_of(p, hash_of(path, len));
}

static void paths_grow(struct paths *p)
{
	struct paths larger = {.room = p->room ? 2 * p->room : 1024, .count = p->count};
	larger.slots = calloc(larger.room, sizeof *larger.slots);
	if (!larger.slots)
		abort();
	for (size_t i = 0; i < p->room; i++)
		if (p->slots[i])
			*slot_of(&larger, p->slots[i]) = p->slots[i];
	free(p->slots);
	*p = larger;
}

bool paths_add(struct paths *p, const char *path, size_t len)
{
	if (p->count >= PATHS_MAX)
		return false;
	if (2 * p->count >= p->room)
		paths_grow(p);
	uint64_t hash = hash_of(path, len), *slot = slot_of(p, hash);
	p->count += !*slot;
	*slot = hash;
	return true;
}

struct unseen *unseen_new(struct set *s, const struct cdm_vector *sender)
{
	struct unseen *u = calloc(1, sizeof *u);
	if (!u)
		abort();
	u->set = s;
	u->nothing = cdm_vector_covers_all(sender, &s->follow.visible);
	cdm_vector_copy(&u->sender, sender);
	const struct milestone *m = follow_milestone(s, sender);
	u->from = m ? m->position : 0;
	return u;
}

void unseen_free(struct unseen **p)
{
	struct unseen *u = *p;
	*p = NULL;
	if (!u)
		return;
	cdm_vector_fini(&u->sender);
	free(u->went.slots);
	free(u->came.slots);
	free(u);
}

static bool take_record(struct unseen *u, const struct cdm_change *c)
{
	if (cdm_dot_is_none(c->dot) || cdm_vector_covers(&u->sender, c->dot))
		return true;
	if (c->op == CDM_OP_SAVE) { /* of a version that the sender's vector may cover: that is the dot of the last write */
		paths_add(&u->came, c->path, c->path_len);
		return true;
	}
	bool went = c->op == CDM_OP_UNLINK || c->op == CDM_OP_RMDIR || c->op == CDM_OP_RENAME;
	bool came = c->op == CDM_OP_RENAME || c->op == CDM_OP_LINK;
	return (!went || paths_add(&u->went, c->path, c->path_len)) && (!came || paths_add(&u->came, c->path2, c->path2_len));
}

/* The journal from where the sender may lack something. Complete if it reaches back to there. */
static void look(struct unseen *u)
{
	struct cdm_journal_reader *reader = NULL;
	struct cdm_error err = CDM_ERROR_INIT;
	struct cdm_change c;
	u->looked = true;
	u->complete = true;
	if (u->nothing)
		return;
	_cleanup_close_ int dir = openat(u->set->store_fd, ".cdmfs/journal", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r = dir < 0 ? -errno : cdm_journal_reader_open(dir, u->set->run_dir, &reader, &err);
	if (r == 0)
		r = cdm_journal_reader_seek(reader, u->from);
	bool first = !u->from;
	while (r == 0 && (r = cdm_journal_reader_next(reader, &c)) == 1) {
		if (first && c.sequence > 1)
			u->complete = false;
		first = false;
		r = take_record(u, &c) ? 0 : -E2BIG;
	}
	u->complete &= r == 0;
	u->error = r == -E2BIG || r == -ESTALE ? 0 : r; /* more than is remembered, or than the journal reaches back to */
	cdm_journal_reader_close(&reader);
}

int unseen_error(const struct unseen *u)
{
	return u->error;
}

bool unseen_went(struct unseen *u, const char *path, size_t len)
{
	if (!u->looked)
		look(u);
	return !u->complete || paths_have(&u->went, path, len);
}

bool unseen_surely_went(struct unseen *u, const char *path, size_t len)
{
	if (!u->looked)
		look(u);
	return paths_have(&u->went, path, len);
}

bool unseen_came(struct unseen *u, const char *path, size_t len)
{
	if (!u->looked)
		look(u);
	return paths_have(&u->came, path, len);
}
