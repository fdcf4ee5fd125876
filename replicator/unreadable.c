/* SPDX-License-Identifier: Apache-2.0 */
/* unreadable.c — content of this node that cannot be read for shipping (a bad sector, no memory): the others do not get this version, which must not
 * look like being in sync. The path is set aside like a change that cannot be applied (quarantine.h), and said with its reason, once. Then it
 * is tried again, after a pause that doubles, when it was shipped after all, or when a person orders it (a rescan), until it can be read:
 * then it is recorded again, and ships as any change (unreadable_try.c). Should that fail, the pause goes on growing. Loop thread; the
 * list of what is set aside is written by the applier's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "replicator/quarantine.h"
#include "replicator/unreadable.h"

#define PAUSE_FIRST_MS 1000
#define PAUSE_MAX_MS 3600000
#define UNREAD_MAX 256 /* as many as can be set aside */
#define RENAMES_MAX 256
#define MOVES_MAX 8    /* so often one is looked for under its next name */
#define MISSED_MAX 3   /* so often what is not there may be under a name that the journal did not tell yet */

enum unread_state {
	NOTING,  /* being set aside */
	WAITING, /* for its next try */
	TRYING,
	OVER,    /* recorded again: kept until it ships, or for its pause, should it fail once more */
};

struct unread {
	struct unread *next;
	char *path;
	size_t len;
	enum unread_state state;
	bool hastened; /* by being shipped: once */
	unsigned moves, missed;
	int64_t pause_ms, due_ms;
};

struct renamed { /* a directory, in the journal's order; from NULL: none yet */
	char *from, *to;
	size_t from_len, to_len;
	bool exchanged;
};

struct unreadable {
	struct unread *list; /* newest first */
	size_t count;
	struct renamed renames[RENAMES_MAX]; /* a ring */
	size_t renamed_at;   /* the oldest */
	bool trying;
	struct cdm_timer *timer;
};

/* --- what is remembered of each --- */

static struct unread **slot_of(struct unreadable *u, const char *path, size_t len)
{
	struct unread **at = &u->list;
	while (*at && !((*at)->len == len && memcmp((*at)->path, path, len) == 0))
		at = &(*at)->next;
	return at;
}

static struct unread *find(struct set *s, const char *path, size_t len)
{
	return s->unreadable ? *slot_of(s->unreadable, path, len) : NULL;
}

static void drop(struct unreadable *u, struct unread **at)
{
	struct unread *e = *at;
	*at = e->next;
	u->count--;
	free(e->path);
	free(e);
}

static void drop_oldest(struct unreadable *u)
{
	struct unread **at = &u->list;
	while ((*at)->next)
		at = &(*at)->next;
	drop(u, at);
}

static struct unreadable *unreadable_of(struct set *s)
{
	if (!s->unreadable && !(s->unreadable = calloc(1, sizeof *s->unreadable)))
		abort();
	return s->unreadable;
}

static struct unread *remember(struct set *s, const char *path, size_t len)
{
	struct unreadable *u = unreadable_of(s);
	if (u->count == UNREAD_MAX)
		drop_oldest(u);
	struct unread *e = calloc(1, sizeof *e);
	if (!e || !(e->path = malloc(len + 1)))
		abort();
	memcpy(e->path, path, len);
	e->len = len;
	e->pause_ms = PAUSE_FIRST_MS;
	e->next = u->list;
	u->list = e;
	u->count++;
	return e;
}

static bool is_path_below(const char *path, size_t len, const char *dir, size_t dir_len)
{
	return len >= dir_len && memcmp(path, dir, dir_len) == 0 && (len == dir_len || path[dir_len] == '/');
}

static bool is_at_or_below(const struct unread *e, const char *path, size_t len)
{
	return !len || is_path_below(e->path, e->len, path, len);
}

/* path, at or below from, as it is called once from is called to. The caller frees. */
static char *renamed_path(const char *path, size_t len, size_t from_len, const char *to, size_t to_len, size_t *ret_len)
{
	*ret_len = to_len;
	char *name = len > from_len ? cdm_path_join(to, to_len, path + from_len + 1, len - from_len - 1, ret_len) : strndup(to, to_len);
	if (!name)
		abort();
	return name;
}

/* --- the list of what is set aside --- */

struct note {
	struct set *set;
	enum { SAID, RESOLVED, GONE, LOAD } what;
	char *path;
	size_t len;
	char reason[256];
	struct paths_found {
		char *path;
		size_t len;
	} found[UNREAD_MAX]; /* LOAD */
	size_t found_count;
};

static void note_found(void *arg, const char *path, size_t len)
{
	struct note *n = arg;
	char *copy = n->found_count < UNREAD_MAX ? malloc(len + 1) : NULL;
	if (!copy)
		return;
	memcpy(copy, path, len);
	n->found[n->found_count++] = (struct paths_found){copy, len};
}

static void note_work(void *arg)
{
	struct note *n = arg;
	struct quarantine *q = n->set->quarantine;
	quarantine_load(q, n->set->store_fd); /* else it would come behind what is added now */
	if (n->what == RESOLVED)
		quarantine_resolve(q, n->path, n->len);
	else if (n->what == GONE)
		quarantine_resolve_below(q, n->path, n->len);
	else if (n->what == SAID)
		quarantine_add_unread(q, n->path, n->len, n->reason);
	else
		quarantine_each_unread(q, note_found, n);
}

static void arm(struct set *s);

static void wait_again(struct set *s, struct unread *e)
{
	e->state = WAITING;
	e->due_ms = cdm_now_ms() + e->pause_ms;
	arm(s);
}

static void note_taken(struct note *n)
{
	struct set *s = n->set;
	struct unread *e = n->what == SAID ? find(s, n->path, n->len) : NULL;
	if (e && e->state == NOTING)
		wait_again(s, e);
	for (size_t i = 0; i < n->found_count; i++)
		if (!find(s, n->found[i].path, n->found[i].len))
			wait_again(s, remember(s, n->found[i].path, n->found[i].len));
	state_changed(s);
}

static void note_done(void *arg)
{
	struct note *n = arg;
	n->set->posted--;
	if (!n->set->stopping)
		note_taken(n);
	for (size_t i = 0; i < n->found_count; i++)
		free(n->found[i].path);
	free(n->path);
	free(n);
}

static void submit(struct set *s, int what, const char *path, size_t len, const char *reason)
{
	struct note *n = calloc(1, sizeof *n);
	if (!n || !(n->path = malloc(len + 1)))
		abort();
	n->set = s;
	n->what = what;
	memcpy(n->path, path, len);
	n->len = len;
	snprintf(n->reason, sizeof n->reason, "%s", reason);
	s->posted++;
	cdm_worker_submit(s->applier, note_work, note_done, n);
}

/* --- directories that are renamed --- */

static void note_rename(struct unreadable *u, const struct cdm_change *c)
{
	struct renamed *r = &u->renames[u->renamed_at++ % RENAMES_MAX];
	free(r->from);
	free(r->to);
	*r = (struct renamed){strndup(c->path, c->path_len), strndup(c->path2, c->path2_len), c->path_len, c->path2_len, c->rename_flags & RENAME_EXCHANGE};
	if (!r->from || !r->to)
		abort();
}

/* NULL: the rename did not concern it. */
static char *path_after(const struct renamed *r, const char *path, size_t len, size_t *ret_len)
{
	if (r->from && is_path_below(path, len, r->from, r->from_len))
		return renamed_path(path, len, r->from_len, r->to, r->to_len, ret_len);
	if (r->from && r->exchanged && is_path_below(path, len, r->to, r->to_len))
		return renamed_path(path, len, r->to_len, r->from, r->from_len, ret_len);
	return NULL;
}

/* Set aside under this name, which it has now: it is not known what the others have of it. Takes path. */
static void move_to(struct set *s, struct unread *e, char *path, size_t len)
{
	if (len > CDM_PATH_MAX || find(s, path, len)) {
		free(path);
		return;
	}
	submit(s, RESOLVED, e->path, e->len, "");
	free(e->path);
	e->path = path;
	e->len = len;
	e->state = NOTING;
	e->pause_ms = PAUSE_FIRST_MS;
	submit(s, SAID, path, len, "it could not be read before it was renamed");
}

/* It is not there: it may be that a directory above had been renamed before this was said. False: that leads nowhere. */
static bool follow_renames(struct set *s, struct unread *e)
{
	const struct unreadable *u = s->unreadable;
	char *path = NULL;
	size_t len = e->len;
	for (size_t i = 0; i < RENAMES_MAX && e->moves < MOVES_MAX; i++) {
		char *next = path_after(&u->renames[(u->renamed_at + i) % RENAMES_MAX], path ?: e->path, len, &len);
		if (!next)
			continue;
		free(path);
		path = next;
	}
	if (!path)
		return false;
	e->moves++;
	move_to(s, e, path, len);
	return true;
}

/* --- trying again --- */

/* What is over is forgotten, what is set aside no more (another change was applied there, the name went) likewise. */
static bool is_settled(struct set *s, const struct unread *e)
{
	if (e->state == OVER)
		return true;
	return e->state == WAITING && !quarantine_has_unread(s->quarantine, e->path, e->len);
}

static void try_due(void *arg)
{
	struct set *s = arg;
	struct unreadable *u = s->unreadable;
	int64_t now = cdm_now_ms();
	u->timer = NULL;
	for (struct unread **at = &u->list; *at && !u->trying;) {
		struct unread *e = *at;
		if (e->due_ms > now || e->state == NOTING) {
			at = &e->next;
		} else if (is_settled(s, e)) {
			drop(u, at);
		} else if (!s->mounted) {
			e->due_ms = now + e->pause_ms;
		} else {
			e->state = TRYING;
			u->trying = true;
			unreadable_try(s, e->path, e->len);
		}
	}
	arm(s);
}

/* The timer runs to what is due first; not during a try. */
static void arm(struct set *s)
{
	struct unreadable *u = s->unreadable;
	int64_t first = INT64_MAX, now = cdm_now_ms();
	cdm_timer_cancel(&u->timer);
	for (const struct unread *e = u->list; e; e = e->next)
		if (e->state != NOTING && e->due_ms < first)
			first = e->due_ms;
	if (first < INT64_MAX && !u->trying && !s->stopping)
		u->timer = cdm_loop_after(s->node->loop, first > now ? first - now : 0, try_due, s);
}

static void double_pause(struct unread *e)
{
	e->pause_ms = 2 * e->pause_ms < PAUSE_MAX_MS ? 2 * e->pause_ms : PAUSE_MAX_MS;
}

/* Else it is looked for once more, or was found under another name. */
static bool is_gone(struct set *s, struct unread *e)
{
	return !follow_renames(s, e) && ++e->missed == MISSED_MAX;
}

static void settle(struct set *s, struct unread *e, enum tried tried)
{
	double_pause(e);
	wait_again(s, e);
	if (tried == TRIED_IN_VAIN || (tried == TRIED_GONE && !is_gone(s, e)))
		return;
	submit(s, RESOLVED, e->path, e->len, "");
	e->state = OVER;
}

void unreadable_tried(struct set *s, const char *path, size_t len, enum tried tried)
{
	struct unread *e = find(s, path, len);
	s->unreadable->trying = false;
	if (e)
		settle(s, e, tried);
	else
		arm(s); /* so many others came meanwhile, or it was renamed */
	if (tried == TRIED_COMPARE || tried == TRIED_LINKED)
		doubt_raise(s);
}

static void hasten(struct set *s, struct unread *e)
{
	if (e->state == WAITING) {
		e->due_ms = cdm_now_ms();
		arm(s);
	}
}

/* --- what happens to them --- */

void unreadable_ready(struct set *s)
{
	submit(s, LOAD, "", 0, "");
}

void unreadable_stop(struct set *s)
{
	struct unreadable *u = s->unreadable;
	s->unreadable = NULL;
	if (!u)
		return;
	cdm_timer_cancel(&u->timer);
	while (u->list)
		drop(u, &u->list);
	for (size_t i = 0; i < RENAMES_MAX; i++) {
		free(u->renames[i].from);
		free(u->renames[i].to);
	}
	free(u);
}

void unreadable_said(struct peer *p, const char *path, size_t len, struct cdm_error *err)
{
	struct set *s = p->set;
	struct unread *e = find(s, path, len);
	if (e && e->state != OVER)
		return; /* it is known, and waits */
	if (!e)
		e = remember(s, path, len);
	e->state = NOTING;
	cdm_log_err(content_unreadable, err, cdm_str("set", set_name(s)), cdm_str("peer", link_peer_name(p->link)));
	submit(s, SAID, path, len, err->text);
}

void unreadable_over(struct set *s, const char *path, size_t len)
{
	struct unread *e = find(s, path, len);
	if (e && e->state == OVER) {
		drop(s->unreadable, slot_of(s->unreadable, path, len));
	} else if (e && e->state == WAITING && !e->hastened) { /* to a peer: others may have been left without */
		e->hastened = true;
		hasten(s, e);
	}
}

void unreadable_asked(struct set *s, const char *path, size_t len)
{
	for (struct unread *e = s->unreadable ? s->unreadable->list : NULL; e; e = e->next)
		if (is_at_or_below(e, path, len)) {
			e->pause_ms = PAUSE_FIRST_MS;
			hasten(s, e);
		}
}

/* Also one that is only being set aside. */
static bool is_known_below(struct set *s, const struct cdm_change *c)
{
	for (const struct unread *e = s->unreadable ? s->unreadable->list : NULL; e; e = e->next)
		if (is_at_or_below(e, c->path, c->path_len))
			return true;
	return !(c->flags & CDM_CH_RECEIVED) && quarantine_has_below(s->quarantine, c->path, c->path_len);
}

void unreadable_gone(struct set *s, const struct cdm_change *c)
{
	bool went = c->op == CDM_OP_UNLINK || c->op == CDM_OP_RMDIR || c->op == CDM_OP_RENAME;
	if (c->op == CDM_OP_RENAME && c->attr.mask & CDM_ATTR_MODE && S_ISDIR(c->attr.mode))
		note_rename(unreadable_of(s), c);
	if (!s->ready || !went || !is_known_below(s, c))
		return;
	if (c->op == CDM_OP_RENAME && quarantine_count_aside(s->quarantine, c->path, c->path_len)) /* that is lacking elsewhere now */
		doubt_raise(s);
	submit(s, GONE, c->path, c->path_len, "");
	for (struct unread *e = s->unreadable && c->op == CDM_OP_RENAME ? s->unreadable->list : NULL; e; e = e->next)
		if (e->state != OVER && is_at_or_below(e, c->path, c->path_len)) {
			size_t len;
			char *path = renamed_path(e->path, e->len, c->path_len, c->path2, c->path2_len, &len);
			move_to(s, e, path, len);
		}
}
