/* SPDX-License-Identifier: Apache-2.0 */
/* follow.c — a set's own bookkeeping reader of its journal: what is visible here, the ring of recent changes, milestones
 * for finding start positions, barriers. It alone waits on the journal's wake pipe and kicks the links. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include "common/faultpoint.h"
#include "replicator/fetch.h"
#include "replicator/overtaken.h"
#include "replicator/publish.h"
#include "replicator/content_cache.h"
#include "replicator/route.h"
#include "replicator/seal.h"
#include "replicator/state.h"
#include "replicator/unsure.h"

#define STEP_RECORDS 2000       /* read at most so many before the loop gets its turn */
#define MILESTONE_RECORDS 4096
#define WAKES_IN_A_ROW 16
#define PAUSE_MS 2
#define KEEP_MS 5000            /* the journal is told so often what is not needed any more */

static void milestone_add(struct follow *f, uint64_t position)
{
	if (f->milestone_count == MILESTONES_MAX) { /* thin out: drop every second of the older ones */
		size_t kept = 0;
		for (size_t i = 0; i < MILESTONES_MAX; i++) {
			if (i % 2 && i < MILESTONES_MAX - 2)
				cdm_vector_fini(&f->milestones[i].vector);
			else
				f->milestones[kept++] = f->milestones[i];
		}
		f->milestone_count = kept;
	}
	struct milestone *m = &f->milestones[f->milestone_count++];
	*m = (struct milestone){.position = position};
	cdm_vector_copy(&m->vector, &f->visible);
	f->since_milestone = 0;
}

static void milestones_clear(struct follow *f)
{
	for (size_t i = 0; i < f->milestone_count; i++)
		cdm_vector_fini(&f->milestones[i].vector);
	f->milestone_count = 0;
}

const struct milestone *follow_milestone(const struct set *s, const struct cdm_vector *covered_by)
{
	const struct follow *f = &s->follow;
	for (size_t i = f->milestone_count; i-- > 0;)
		if (cdm_vector_covers_all(covered_by, &f->milestones[i].vector))
			return &f->milestones[i];
	return NULL;
}

bool change_ships(const struct cdm_change *c)
{
	if (!cdm_op_ships(c->op) || cdm_dot_is_none(c->dot))
		return false;
	if (c->flags & (CDM_CH_LOCAL | CDM_CH_UNSAVED)) /* a removal for the others, or their directory's mtime; ship.c looks closer */
		return c->op == CDM_OP_RENAME || c->op == CDM_OP_UNLINK;
	return true;
}

bool follow_knows_saved(const struct set *s, struct cdm_dot version)
{
	const struct follow *f = &s->follow;
	if (version.origin != f->saves_since.origin || version.number <= f->saves_since.number)
		return true; /* older than what we look back to */
	uint64_t known = f->recent_head < RECENT_MAX ? f->recent_head : RECENT_MAX;
	for (uint64_t i = 0; i < known; i++) {
		const struct recent *r = &f->recent[(f->recent_head - 1 - i) % RECENT_MAX];
		if (cdm_dot_equal(r->version, version) || cdm_dot_equal(r->dot, version))
			return true;
		if (r->dot.origin == version.origin && r->dot.number < version.number)
			return false; /* a save comes after what it saves */
	}
	return false;
}

/* The first change of an incarnation, of a node that had another one before? */
static bool began_anew(const struct cdm_vector *visible, cdm_origin origin)
{
	bool before = false;
	for (size_t i = 0; i < visible->count && !cdm_vector_get(visible, origin); i++)
		before |= CDM_ORIGIN_NODE(visible->entries[i].origin) == CDM_ORIGIN_NODE(origin);
	return before;
}

/* What was overtaken at an incarnation that is over does not come any more: another node may have it. */
static void note_overtaken(struct set *s, const struct cdm_change *c)
{
	overtaken_note(s->overtaken, c);
	if (!s->ready || c->op != CDM_OP_SKIP || !(c->flags & CDM_CH_OVERTAKEN))
		return;
	if (CDM_ORIGIN_NODE(c->dot.origin) == s->node->id->number || cdm_vector_began_anew(&s->follow.visible, c->dot.origin))
		doubt_raise(s);
}

static bool note_record(struct set *s, const struct cdm_change *c)
{
	struct follow *f = &s->follow;
	bool own = CDM_ORIGIN_NODE(c->dot.origin) == s->node->id->number && !(c->flags & CDM_CH_RECEIVED);
	if (own && !cdm_dot_is_none(c->dot)) {
		if (f->saves_since.origin != c->dot.origin)
			f->saves_since = c->dot;
		f->own_raw = c->dot;
	}
	if (f->started && ++f->since_milestone >= MILESTONE_RECORDS)
		milestone_add(f, c->position);
	if (!s->ready && (c->op == CDM_OP_MARK || c->op == CDM_OP_CLEAN) && c->vector) { /* what was applied before we look */
		cdm_vector_merge(&f->visible, c->vector);
		cdm_vector_merge(&s->durable.vector, c->vector);
		for (size_t i = 0; i < c->vector->count; i++)
			if (CDM_ORIGIN_NODE(c->vector->entries[i].origin) == s->node->id->number && c->vector->entries[i].origin >= f->saves_since.origin)
				f->saves_since = c->vector->entries[i];
	}
	if (c->op == CDM_OP_BARRIER) {
		barrier_seen(s, c->path, c->path_len);
		return false;
	}
	if (c->op == CDM_OP_WRITE)
		publisher_note(s->publisher, c);
	unreadable_gone(s, c);
	note_overtaken(s, c);
	if (!change_ships(c))
		return false;
	publisher_note(s->publisher, c);
	unsure_note(s, c);
	if (own)
		seals_note(s, c);
	bool anew = s->ready && began_anew(&f->visible, c->dot.origin);
	if (!cdm_vector_raise(&f->visible, c->dot))
		return false;
	if (!own && s->ready)
		seals_came(s, c);
	if (anew)
		doubt_author_began_anew(s, c->dot.origin);
	struct recent *slot = &f->recent[f->recent_head++ % RECENT_MAX];
	if (slot->dot.origin == f->saves_since.origin && slot->dot.number > f->saves_since.number)
		f->saves_since = slot->dot; /* it falls out of the ring */
	*slot = (struct recent){.dot = c->dot, .bytes = cdm_change_content_bytes(c),
		.version = c->op == CDM_OP_SAVE ? c->version.dot : (struct cdm_dot){0}, .wall_ns = cdm_clock_to_ns(c->clock)};
	return true;
}

/* --- what the journal must keep --- */

struct needed {
	const struct set *set;
	uint64_t position;
};

static void need_of(void *arg, const struct peer_state *p)
{
	struct needed *n = arg;
	if (p->self || !(p->member->role & CDM_ROLE_TARGET))
		return;
	const struct milestone *m = p->known ? follow_milestone(n->set, p->durable) : NULL;
	uint64_t position = m ? m->position : 0; /* 0: it may need all there is */
	if (position < n->position)
		n->position = position;
}

void follow_keep(struct set *s)
{
	struct follow *f = &s->follow;
	struct needed n = {s, UINT64_MAX};
	int64_t now = cdm_now_ms();
	if (!f->reader || now - f->kept_ms < KEEP_MS || state_each(s->node, s, need_of, &n) == 0)
		return;
	f->kept_ms = now;
	uint64_t here = cdm_journal_reader_position(f->reader);
	cdm_journal_reader_keep(f->reader, n.position < here ? n.position : here);
}

static void on_wake(void *arg, int result);

static void pause_over(void *arg)
{
	struct set *s = arg;
	s->follow.pause = NULL;
	follow_step(s);
}

/* A copy of a tree journals thousands of records a second: while they come one after the other they are taken every few
 * milliseconds, not each with a wake-up of its own. A single save is taken at once. */
static void wait_for_records(struct set *s)
{
	struct follow *f = &s->follow;
	if (f->wakes >= WAKES_IN_A_ROW && !f->pause && !s->stopping)
		f->pause = cdm_loop_after(s->node->loop, PAUSE_MS, pause_over, s);
	else if (!f->pause && !f->wake && !s->stopping)
		f->wake = cdm_loop_poll(s->node->loop, cdm_journal_reader_wake_fd(f->reader), POLLIN, on_wake, s);
}

/* The journal will be read anew from its last mark on: what it says then counts, not what we remember (the store may be a restored or
 * another one). Links begin anew, too, with the vector that comes out. */
static void forget(struct set *s)
{
	struct follow *f = &s->follow;
	follow_stop(s);
	f->asked = 0;
	cdm_vector_fini(&f->visible);
	cdm_vector_fini(&s->durable.vector);
	f->visible = s->durable.vector = (struct cdm_vector){0};
	f->own_raw = f->saves_since = (struct cdm_dot){0};
	f->recent_head = 0;
	memset(f->recent, 0, sizeof f->recent);
	s->ready = false;
	unsure_free(s);
	publisher_unseed(s->publisher);
	for (struct peer *p = s->peers, *next; p; p = next) {
		next = p->next;
		if (p->told)
			link_fail(p->link, EAGAIN, "the journal of set %s is read anew, subscribing again", set_name(s));
	}
}

static void follow_failed(struct set *s, int r)
{
	struct cdm_error err = CDM_ERROR_INIT;
	forget(s);
	if (r == -ENODATA || r == -ESTALE) { /* the writer began anew, as far as can be seen: what follows may fail */
		follow_start(s);
		follow_step(s);
	} else {
		cdm_fail(&err, -r, "read the journal of set %s", set_name(s));
		cdm_log_err(failed, &err, cdm_str("set", set_name(s)));
	}
	set_mount_follow_later(s);
}

static void step_again(void *arg)
{
	struct set *s = arg;
	s->posted--;
	follow_step(s);
}

static void tell_who_asked(struct set *s)
{
	struct follow *f = &s->follow;
	if (!f->asked || !f->reader || !s->ready || cdm_journal_reader_position(f->reader) < f->asked_to)
		return;
	publisher_was_read(s->publisher, f->asked);
	f->asked = 0;
}

void follow_read_up(struct set *s, uint64_t number)
{
	struct follow *f = &s->follow;
	f->asked = number;
	f->asked_to = f->reader ? cdm_journal_reader_head(f->reader) : 0;
	follow_step(s);
}

void follow_step(struct set *s)
{
	struct follow *f = &s->follow;
	if (!f->reader || f->stepping || s->stopping)
		return;
	f->stepping = true;
	bool moved = false;
	int r = 1, i = 0;
	struct cdm_change c;
	for (; i < STEP_RECORDS && (r = cdm_journal_reader_next(f->reader, &c)) == 1; i++) {
		moved |= note_record(s, &c);
	}
	f->stepping = false;
	if (i == 0)
		f->wakes = 0;
	if (r < 0) {
		follow_failed(s, r);
	} else if (r == 1 || cdm_journal_reader_arm(f->reader)) {
		s->posted++;
		cdm_loop_post(s->node->loop, step_again, s);
	} else {
		wait_for_records(s);
	}
	if (r == 0 && !f->started) {
		f->started = true;
		milestone_add(f, cdm_journal_reader_position(f->reader));
	}
	if (r == 0 && cdm_journal_reader_position(f->reader) == cdm_journal_reader_head(f->reader))
		s->aside_number = s->aside_pending;
	if (r == 0 && !s->ready)
		set_ready(s);
	tell_who_asked(s);
	for (struct peer *p = s->peers, *next; p; p = next) {
		next = p->next;
		ship_kick(p);
	}
	feed_kick(s);
	if (moved)
		set_moved(s);
}

static void on_wake(void *arg, int result)
{
	struct set *s = arg;
	s->follow.wake = NULL;
	if (!s->follow.reader || s->stopping) {
		set_let_go(s);
		return;
	}
	int64_t now = cdm_now_ms();
	s->follow.wakes = now - s->follow.woken_ms < PAUSE_MS ? s->follow.wakes + 1 : 0;
	s->follow.woken_ms = now;
	char drain[4096];
	while (read(cdm_journal_reader_wake_fd(s->follow.reader), drain, sizeof drain) == (ssize_t)sizeof drain)
		;
	cdm_faultpoint("follow.woken_not_read");
	follow_step(s);
}

void follow_start(struct set *s)
{
	struct follow *f = &s->follow;
	struct cdm_error err = CDM_ERROR_INIT;
	if (f->reader)
		return;
	_cleanup_close_ int dir = openat(s->store_fd, ".cdmfs/journal", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0 || cdm_journal_reader_open(dir, s->run_dir, &f->reader, &err) < 0) {
		if (dir < 0)
			cdm_fail(&err, errno, "open the journal of set %s", set_name(s));
		cdm_log_err(failed, &err, cdm_str("set", set_name(s)));
		return;
	}
	struct stat st;
	f->root_was_ns = fstat(s->store_fd, &st) == 0 ? st.st_mtim.tv_sec * 1000000000ll + st.st_mtim.tv_nsec : 0;
	milestones_clear(f);
	f->started = false;
	if (cdm_journal_reader_seek(f->reader, CDM_JOURNAL_LAST_MARK) < 0)
		cdm_journal_reader_seek(f->reader, 0);
}

void follow_stop(struct set *s)
{
	struct follow *f = &s->follow;
	if (f->wake)
		cdm_loop_cancel(s->node->loop, f->wake);
	cdm_timer_cancel(&f->pause);
	f->wakes = 0;
	milestones_clear(f);
	cdm_journal_reader_close(&f->reader);
	content_cache_forget(s->content_cache);
}
