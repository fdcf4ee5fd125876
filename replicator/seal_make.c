/* SPDX-License-Identifier: Apache-2.0 */
/* seal_make.c — this node as author: names that its changes were about are gathered, looked at, and what is there is signed. What is being changed
 * again is left out: its next save brings it here once more. A content is told by the save that made it, not again when its attributes change, so that
 * nothing that rotted since is signed; nor after a few ranges of a large file were written, which cost no node the reading of all of it.
 *
 * Each seal tells how far all is told by now, so that others know when one is missing. While there is more to tell, one goes out now and then, be it
 * without a name: a large content takes its time, and of some changes there is nothing to sign. */
#include "replicator/seal_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "replicator/scrub_internal.h"
#include "replicator/seal_sign.h"

#define NAMES_MAX 16384     /* waiting … */
#define NAMES_BYTES_MAX (4u << 20) /* … and their bytes */
#define RANGES_FROM (1u << 20) /* in files of this size and more */
#define BACK 64             /* so many names back it is looked whether one is noted already */

struct noted {
	char *path;
	size_t len;
	struct cdm_dot since; /* the change that it was noted for first */
	bool new;      /* a file that nobody else need have heard of */
	bool contents; /* its content is to be told */
};

struct seal_maker {
	struct seals *seals;
	struct noted names[NAMES_MAX]; /* a ring */
	size_t first, count, bytes;
	size_t due;                /* so many of them are to be looked at, one look after the other */
	int64_t first_ms, last_ms; /* when the oldest of them was noted, and the newest */
	uint64_t clock;            /* of the newest seal that anybody has of this node */
	struct cdm_timer *timer;
	struct look *look;
	struct cdm_vector vector; /* what was visible when the look began … */
	bool settled;             /* … and that was all there is, and nothing in doubt … */
	struct cdm_dot through;   /* … and so far all is told once what is looked at is */
	struct cdm_dot told;      /* so far it is */
	struct cdm_timer *life;   /* there is more to tell: a sign of life is due */
};

static struct noted *nth(struct seal_maker *m, size_t i)
{
	return &m->names[(m->first + i) % NAMES_MAX];
}

/* --- noting --- */

static struct noted *find_back(struct seal_maker *m, const char *path, size_t len)
{
	for (size_t back = 1; back <= BACK && back <= m->count; back++) {
		struct noted *n = nth(m, m->count - back);
		if (n->len == len && memcmp(n->path, path, len) == 0)
			return n;
	}
	return NULL;
}

static struct noted *note_name(struct seal_maker *m, const struct cdm_change *c, const char *path, size_t len)
{
	struct noted *n = len ? find_back(m, path, len) : NULL;
	if (n || !len)
		return n; /* the root: its attributes travel by themselves */
	if (m->count == NAMES_MAX || m->bytes + len > NAMES_BYTES_MAX) {
		count_up(&m->seals->set->counters.seal_left_out, 1);
		return NULL;
	}
	n = nth(m, m->count++);
	*n = (struct noted){.path = strndup(path, len), .len = len, .since = c->dot};
	if (!n->path)
		abort();
	m->bytes += len;
	return n;
}

static void note_save(struct seal_maker *m, const struct cdm_change *c)
{
	bool ranges = !(c->flags & (CDM_CH_WHOLE | CDM_CH_NEW)), new = c->flags & CDM_CH_NEW && cdm_dot_is_none(c->victim);
	bool noted = find_back(m, c->path, c->path_len);
	struct noted *n = note_name(m, c, c->path, c->path_len);
	if (!n)
		return;
	n->new = new && (!noted || n->new);
	n->contents = !ranges || c->attr.size < RANGES_FROM;
}

/* Where a temporary name was no other node saw it, or none will miss it: its content is told under its next name. */
static void note_rename(struct seal_maker *m, const struct cdm_change *c)
{
	struct noted *from = c->rename_flags & RENAME_EXCHANGE ? NULL : find_back(m, c->path, c->path_len);
	bool contents = from && from->contents;
	if (from && from->new) {
		m->bytes -= from->len;
		from->len = 0;
	} else {
		note_name(m, c, c->path, c->path_len);
	}
	struct noted *to = note_name(m, c, c->path2, c->path2_len);
	if (to) {
		to->new = false;
		to->contents = contents;
	}
}

/* What was noted below a directory has the directory's new name. */
static void note_moved(struct seal_maker *m, const struct cdm_change *c)
{
	for (size_t i = 0; i < m->count; i++) {
		struct noted *n = nth(m, i);
		size_t len;
		if (n->len <= c->path_len || n->path[c->path_len] != '/' || memcmp(n->path, c->path, c->path_len) != 0)
			continue;
		char *moved = cdm_path_join(c->path2, c->path2_len, n->path + c->path_len + 1, n->len - c->path_len - 1, &len);
		m->bytes += len - n->len;
		free(n->path);
		n->path = moved;
		n->len = len;
	}
}

static void gather_over(void *arg);

void seal_maker_note(struct seal_maker *m, const struct cdm_change *c)
{
	if (c->op == CDM_OP_SKIP)
		return;
	m->last_ms = cdm_now_ms();
	if (!m->count)
		m->first_ms = m->last_ms;
	if (c->op == CDM_OP_RENAME && S_ISDIR(c->attr.mode) && !(c->rename_flags & RENAME_EXCHANGE))
		note_moved(m, c);
	if (c->op == CDM_OP_SAVE)
		note_save(m, c);
	else if (c->op == CDM_OP_RENAME)
		note_rename(m, c);
	else if (c->op == CDM_OP_LINK)
		note_name(m, c, c->path2, c->path2_len);
	else
		note_name(m, c, c->path, c->path_len);
	seal_maker_go(m);
}

void seal_maker_go(struct seal_maker *m)
{
	struct set *s = m->seals->set;
	if (m->count && s->ready && !m->timer && !m->look)
		m->timer = cdm_loop_after(s->node->loop, SEALS_QUIET_MS, gather_over, m);
}

/* --- how far all is told --- */

/* Of the incarnation whose changes it makes now, or, as long as none of these ships, of the one before. */
static cdm_origin own_origin(const struct set *s)
{
	const struct follow *f = &s->follow;
	cdm_origin origin = f->own_raw.origin;
	if (cdm_vector_get(&f->visible, origin))
		return origin;
	for (size_t i = 0; i < f->visible.count; i++)
		if (CDM_ORIGIN_NODE(f->visible.entries[i].origin) == s->node->id->number)
			origin = f->visible.entries[i].origin; /* they are sorted */
	return origin;
}

static uint64_t number_in(struct cdm_dot dot, cdm_origin origin)
{
	return dot.origin == origin ? dot.number : 0;
}

static struct cdm_dot visible_of(const struct set *s, cdm_origin origin)
{
	return (struct cdm_dot){origin, cdm_vector_get(&s->follow.visible, origin)};
}

/* So far all is told once the names are that were taken to be looked at: up to the first that waits. */
static struct cdm_dot will_be_told(struct seal_maker *m)
{
	struct cdm_dot upto = visible_of(m->seals->set, own_origin(m->seals->set));
	if (m->count)
		upto = (struct cdm_dot){nth(m, 0)->since.origin, nth(m, 0)->since.number - 1};
	return upto;
}

static bool has_more_to_tell(const struct seal_maker *m)
{
	const struct set *s = m->seals->set;
	cdm_origin origin = own_origin(s);
	return s->ready && visible_of(s, origin).number > number_in(m->told, origin);
}

/* --- looking --- */

/* Everything that is in the journal is in the vector. */
static bool is_caught_up(const struct set *s)
{
	struct cdm_journal_reader *r = s->follow.reader;
	return r && cdm_journal_reader_position(r) == cdm_journal_reader_head(r);
}

static void take_names(struct seal_maker *m)
{
	size_t bytes = 0;
	m->look = look_new(m->seals->set);
	while (m->count) {
		struct noted *n = nth(m, 0);
		bytes += n->len;
		if (m->look->count && bytes > SEAL_PATHS_MAX)
			return;
		struct looked *l = n->len ? look_add(m->look, n->path, n->len) : NULL;
		if (n->len && !l)
			return;
		if (l)
			l->contents = n->contents;
		m->bytes -= n->len;
		free(n->path);
		m->first = (m->first + 1) % NAMES_MAX;
		m->count--;
		m->due -= m->due > 0;
	}
}

static void looked(void *arg, struct look *look);

static void begin(struct seal_maker *m)
{
	struct set *s = m->seals->set;
	cdm_vector_copy(&m->vector, &s->follow.visible);
	m->settled = is_caught_up(s) && seals_at_rest(s);
	take_names(m);
	m->through = will_be_told(m);
	look_begin(m->look, s->scrub->reader, READ_TO_SEAL, looked, m);
}

static void gather_over(void *arg)
{
	struct seal_maker *m = arg;
	int64_t now = cdm_now_ms(), due = m->last_ms + SEALS_QUIET_MS, most = m->first_ms + SEALS_LATE_MS;
	m->timer = NULL;
	if (due > most)
		due = most;
	if (!m->count || !m->seals->set->ready)
		return;
	if (!m->due && now >= due) {
		m->due = m->count;
		m->first_ms = now; /* what comes from now on waits anew */
	}
	if (m->due)
		begin(m);
	else
		m->timer = cdm_loop_after(m->seals->set->node->loop, due - now, gather_over, m);
}

/* --- signing --- */

/* An author speaks for what it made: another's content may have come in its place meanwhile. */
static struct sealed told_of(const struct set *s, const struct looked *l)
{
	struct sealed n = l->is;
	if (S_ISREG(n.mode) && CDM_ORIGIN_NODE(n.stamp.content.dot.origin) != s->node->id->number)
		memset(n.content, 0, sizeof n.content);
	return n;
}

/* Can it be said what others must have there? Not of a file that has no version (yet), or one that nobody saved. */
static bool is_sure(const struct set *s, const struct looked *l)
{
	if (l->found != LOOK_THERE)
		return l->found == LOOK_NOTHING;
	struct cdm_dot version = l->is.stamp.content.dot;
	return !cdm_dot_is_none(version) && (!S_ISREG(l->is.mode) || (l->read == l->contents && follow_knows_saved(s, version)));
}

/* What each seal tells; after it all is told up to `through`. */
static struct seal *begin_seal(struct seal_maker *m, const struct cdm_vector *vector, struct cdm_dot through)
{
	struct set *s = m->seals->set;
	struct seal *seal = calloc(1, sizeof *seal);
	if (!seal)
		abort();
	snprintf(seal->set, sizeof seal->set, "%s", set_name(s));
	seal->clock = cdm_clock_now();
	if (seal->clock <= m->clock)
		seal->clock = m->clock + 1;
	m->clock = seal->clock;
	cdm_vector_copy(&seal->vector, vector);
	seal->upto.origin = own_origin(s);
	seal->upto.number = cdm_vector_get(vector, seal->upto.origin);
	if (!seal->upto.number)
		seal->upto.number = 1; /* nothing of this incarnation ships yet: they count once something does */
	seal->after = number_in(m->told, seal->upto.origin);
	if (seal->after > seal->upto.number)
		seal->after = seal->upto.number; /* the journal is read anew */
	seal->through = number_in(through, seal->upto.origin);
	if (seal->through < seal->after)
		seal->through = seal->after;
	if (seal->through > seal->upto.number)
		seal->through = seal->upto.number;
	return seal;
}

static struct seal *write_seal(struct seal_maker *m, const struct look *look)
{
	struct set *s = m->seals->set;
	struct seal *seal = begin_seal(m, &m->vector, m->through);
	seal->still = m->settled && is_caught_up(s) && seals_at_rest(s) && cdm_vector_equal(&m->vector, &s->follow.visible);
	for (size_t i = 0; i < look->count; i++) {
		if (is_sure(s, &look->names[i]))
			seal->names[seal->count++] = told_of(s, &look->names[i]);
		else
			count_up(&s->counters.seal_left_out, 1);
	}
	return seal;
}

static void send_seal(struct seal_maker *m, struct seal *seal)
{
	struct set *s = m->seals->set;
	struct bytes statement = {0}, memory = {0}, payload = {0};
	struct cdm_error err = CDM_ERROR_INIT;
	seal_statement_encode(seal, &statement);
	seal->statement = statement.data;
	seal->statement_len = statement.len;
	if (seal_sign(s->node, seal, &memory, &err) < 0) {
		cdm_log_err(failed, &err, cdm_str("set", set_name(s)));
	} else {
		seal_encode(seal, &payload);
		seals_spread(m->seals, seal, payload.data, payload.len, 0);
		m->told = (struct cdm_dot){seal->upto.origin, seal->through};
		count_up(&s->counters.seals_made, 1);
	}
	bytes_fini(&statement);
	bytes_fini(&memory);
	bytes_fini(&payload);
}

static void looked(void *arg, struct look *look)
{
	struct seal_maker *m = arg;
	struct seal *seal = write_seal(m, look);
	m->look = NULL;
	if (seal->count && seal->upto.origin)
		send_seal(m, seal);
	seal_fini(seal);
	free(seal);
	look_drop(&look); /* its names are the seal's */
	gather_over(m);
	seal_maker_moved(m);
}

/* --- a sign of life --- */

static void live(void *arg)
{
	struct seal_maker *m = arg;
	m->life = NULL;
	if (has_more_to_tell(m)) {
		struct seal *seal = begin_seal(m, &m->seals->set->follow.visible, m->look ? m->told : will_be_told(m));
		send_seal(m, seal);
		seal_fini(seal);
		free(seal);
	}
	seal_maker_moved(m);
}

void seal_maker_moved(struct seal_maker *m)
{
	struct set *s = m->seals->set;
	if (!m->life && !s->stopping && has_more_to_tell(m))
		m->life = cdm_loop_after(s->node->loop, seal_sign_of_life_ms(), live, m);
}

void seal_maker_knows(struct seal_maker *m, uint64_t clock)
{
	if (clock > m->clock)
		m->clock = clock;
}

/* --- life --- */

struct seal_maker *seal_maker_new(struct seals *seals)
{
	struct seal_maker *m = calloc(1, sizeof *m);
	if (!m)
		abort();
	m->seals = seals;
	return m;
}

void seal_maker_stop(struct seal_maker *m)
{
	cdm_timer_cancel(&m->timer);
	cdm_timer_cancel(&m->life);
	look_drop(&m->look);
}

void seal_maker_free(struct seal_maker **maker)
{
	struct seal_maker *m = *maker;
	*maker = NULL;
	if (!m)
		return;
	for (size_t i = 0; i < m->count; i++)
		free(nth(m, i)->path);
	cdm_vector_fini(&m->vector);
	free(m);
}
