/* SPDX-License-Identifier: Apache-2.0 */
/* unreadable.c — content of this node that cannot be read for shipping (a bad sector, no memory): the others do not get this version, which must not
 * look like being in sync. The path is set aside like a change that cannot be applied (quarantine.h), and said with its reason, once. Then it
 * is tried again, after a pause that doubles, when it was shipped after all, or when a person orders it (a rescan), until it can be read:
 * then it is recorded again, and ships as any change (unreadable_try.c). Should that fail, the pause goes on growing. Loop thread; the
 * list of what is set aside is written by the applier's. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "replicator/quarantine.h"
#include "replicator/unreadable.h"

#define PAUSE_FIRST_MS 1000
#define PAUSE_MAX_MS 3600000
#define UNREAD_MAX 256 /* as many as can be set aside */

enum unread_state {
	NOTING,  /* being set aside */
	WAITING, /* for its next try */
	TRYING,
	OVER,    /* recorded again: kept for its pause, should it fail once more */
};

struct unread {
	struct unread *next;
	char *path;
	size_t len;
	enum unread_state state;
	bool hastened; /* by being shipped: once */
	int64_t pause_ms, due_ms;
};

struct unreadable {
	struct unread *list; /* newest first */
	size_t count;
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

static struct unread *remember(struct set *s, const char *path, size_t len)
{
	if (!s->unreadable && !(s->unreadable = calloc(1, sizeof *s->unreadable)))
		abort();
	struct unreadable *u = s->unreadable;
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

static bool is_at_or_below(const struct unread *e, const char *path, size_t len)
{
	return !len || (e->len >= len && memcmp(e->path, path, len) == 0 && (e->len == len || e->path[len] == '/'));
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

void unreadable_tried(struct set *s, const char *path, size_t len, enum tried tried)
{
	struct unread *e = find(s, path, len);
	s->unreadable->trying = false;
	if (tried != TRIED_IN_VAIN)
		submit(s, RESOLVED, path, len, "");
	if (tried == TRIED_COMPARE)
		doubt_raise(s);
	if (!e) { /* so many others came meanwhile */
		arm(s);
		return;
	}
	double_pause(e);
	wait_again(s, e);
	if (tried != TRIED_IN_VAIN)
		e->state = OVER;
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
	if (!e || e->hastened || e->state != WAITING)
		return;
	e->hastened = true;
	hasten(s, e);
}

void unreadable_asked(struct set *s, const char *path, size_t len)
{
	for (struct unread *e = s->unreadable ? s->unreadable->list : NULL; e; e = e->next)
		if (is_at_or_below(e, path, len)) {
			e->pause_ms = PAUSE_FIRST_MS;
			hasten(s, e);
		}
}

/* Set aside under the name that it has now: it is not known what the others have of it. */
static void rename_one(struct set *s, struct unread *e, const struct cdm_change *c)
{
	const char *rest = e->path + c->path_len + 1;
	size_t len = c->path2_len;
	char *path = e->len > c->path_len ? cdm_path_join(c->path2, len, rest, e->len - c->path_len - 1, &len) : strndup(c->path2, len);
	if (!path)
		abort();
	if (len > CDM_PATH_MAX || find(s, path, len)) {
		free(path);
		return;
	}
	free(e->path);
	e->path = path;
	e->len = len;
	e->state = NOTING;
	submit(s, SAID, path, len, "it could not be read before it was renamed");
}

void unreadable_gone(struct set *s, const struct cdm_change *c)
{
	bool went = s->ready && (c->op == CDM_OP_UNLINK || c->op == CDM_OP_RMDIR || c->op == CDM_OP_RENAME), received = c->flags & CDM_CH_RECEIVED;
	if (!went || !(received ? quarantine_has_unread : quarantine_has_below)(s->quarantine, c->path, c->path_len))
		return;
	submit(s, GONE, c->path, c->path_len, "");
	for (struct unread *e = s->unreadable && c->op == CDM_OP_RENAME ? s->unreadable->list : NULL; e; e = e->next)
		if (e->state != OVER && is_at_or_below(e, c->path, c->path_len))
			rename_one(s, e, c);
}
