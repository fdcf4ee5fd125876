/* SPDX-License-Identifier: Apache-2.0 */
/* doubt.c — promise 4 where authors met. A change that was applied otherwise than its author saw it (a conflict of names, a subject that
 * was missing or another one), while others changed the set unknown to him, may have come out differently elsewhere. Then trees are compared, as soon
 * as it is quiet and the node has all that its parent has: each node with its parent, from the root of the set's tree downwards, until a comparison finds nothing to do. Where the parent knew
 * all of this node's changes its tree is right; so all end as the root decided. An empty file remembers that, for who is killed
 * before it is over.
 *
 * What an answer brought ahead of the stream is nobody's when its author loses it with his power: no vector tells of it. So whoever took
 * such a thing, until a comparison sees none any more (a second empty file), compares trees when an author begins a new incarnation (resync_compare.c).
 *
 * What could not be looked at (a bad sector of a directory) is compared again, too, but after a pause of its own: however fast a comparison comes to
 * it, and however it ends, the next one for that reason alone is twice as far away, until one came without.
 * Loop thread, but for doubt_note and doubt_note_ahead. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "replicator/overtaken.h"
#include "replicator/publish.h"
#include "replicator/resync.h"
#include "replicator/route.h"
#include "replicator/ship.h"

#define FILE_NAME ".cdmfs/doubt"
#define AHEAD_NAME ".cdmfs/ahead"
#define QUIET_MS 200      /* after something came up */
#define WAIT_MAX_MS 60000 /* between comparisons that found something, doubling up to this */
#define ASKED_MS 5000     /* an answer that does not come: ask again */
#define UNLOOKED_MS 1000  /* after something could not be looked at, doubling up to … */
#define UNLOOKED_MAX_MS 600000
#define REST 10           /* times as long as a comparison was worked at here, none follows: however often authors meet, large trees are not walked all the time */
#define ROUNDS_MAX 8      /* comparisons that find something again and again: what differs cannot be mended so */

static void on_timer(void *arg);

static int64_t later(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

static void wait_for(struct set *s, int64_t ms)
{
	const struct doubt_state *d = &s->doubt;
	int64_t now = cdm_now_ms(), due = later(now + ms, d->not_before_ms);
	if (d->only_unlooked)
		due = later(due, d->unlooked_due_ms);
	if (!d->timer && !s->stopping)
		s->doubt.timer = cdm_loop_after(s->node->loop, due - now, on_timer, s);
}

void doubt_begins(struct set *s)
{
	s->doubt.began_ms = cdm_now_ms();
	s->doubt.looked_ns = 0;
}

void doubt_looked(struct set *s, int64_t worked_ns)
{
	s->doubt.looked_ns += worked_ns;
}

/* What it waited for, contents or somebody's decision, is no work. */
static void rest(struct set *s)
{
	s->doubt.not_before_ms = cdm_now_ms() + REST * s->doubt.looked_ns / 1000000;
}

static bool any_child_is_at_it(const struct set *s)
{
	for (const struct peer *p = s->peers; p; p = p->next)
		if (p->verifying)
			return true;
	return false;
}

static bool any_child_compares(const struct set *s)
{
	for (const struct peer *p = s->peers; p; p = p->next)
		if (p->verifying || p->verify_wanted)
			return true;
	return false;
}

bool doubt_is_open(const struct set *s)
{
	return s->doubt.raised || any_child_compares(s);
}

static void remember(const struct set *s, const char *name)
{
	int fd = openat(s->store_fd, name, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd >= 0) /* else a kill in the next moments costs a comparison */
		close(fd);
}

/* Also where that cannot be told. */
static bool is_remembered(const struct set *s, const char *name)
{
	return faccessat(s->store_fd, name, F_OK, 0) == 0 || errno != ENOENT;
}

static void forget_if_over(const struct set *s)
{
	if (!doubt_is_open(s) && !s->doubt.owed)
		unlinkat(s->store_fd, FILE_NAME, 0);
}

static bool all_children_are_here(const struct set *s)
{
	size_t here = 0;
	for (const struct peer *p = s->peers; p; p = p->next)
		here += !p->towards_parent && p->subscribed;
	return !s->route || here >= s->route->child_count;
}

/* Those that we feed compare with us, now or when they come. */
static void children_compare(struct set *s)
{
	for (struct peer *p = s->peers; p; p = p->next)
		if (!p->towards_parent && p->subscribed)
			doubt_asked(p);
	s->doubt.owed |= !all_children_are_here(s);
}

void doubt_child_is_there(struct peer *p)
{
	if (!p->set->doubt.owed)
		return;
	doubt_asked(p);
	p->set->doubt.owed = !all_children_are_here(p->set);
}

static void settle(struct set *s)
{
	s->doubt.raised = s->doubt.only_unlooked = false;
	s->doubt.rounds = s->doubt.waits = 0;
	children_compare(s);
	forget_if_over(s);
	state_changed(s);
}

static void on_timer(void *arg)
{
	struct set *s = arg;
	s->doubt.timer = NULL;
	if (s->stopping || !s->doubt.raised)
		return;
	const struct held *held = route_held_find(s->node, set_name(s));
	struct peer *parent = set_parent_peer(s);
	bool too_early = s->doubt.only_unlooked && (any_child_is_at_it(s) || s->doubt.not_before_ms > cdm_now_ms());
	if (s->resyncing || too_early) {
		wait_for(s, ASKED_MS);
	} else if (parent) {
		link_send(parent->link, s, FRAME_RESYNC_ASK, 0, NULL, 0, NULL, 0);
		wait_for(s, ASKED_MS);
	} else if (held && !parent_now(held)) {
		settle(s); /* the root: what is here counts */
	} /* else: when the parent is there (doubt_parent_is_there) */
}

static void raise_it(struct set *s)
{
	bool before = s->doubt.raised;
	s->doubt.raised = true;
	remember(s, FILE_NAME);
	wait_for(s, QUIET_MS);
	if (!before)
		state_changed(s);
}

void doubt_raise(struct set *s)
{
	if (s->doubt.only_unlooked)
		cdm_timer_cancel(&s->doubt.timer); /* this one does not wait so long */
	s->doubt.only_unlooked = false;
	s->doubt.raised_since = true;
	raise_it(s);
}

/* Several in one comparison count once. */
static void put_off(struct doubt_state *d)
{
	int64_t now = cdm_now_ms(), doubled = later(UNLOOKED_MS, 2 * d->unlooked_ms);
	if (now < d->unlooked_due_ms)
		return;
	d->unlooked_ms = doubled < UNLOOKED_MAX_MS ? doubled : UNLOOKED_MAX_MS;
	d->unlooked_due_ms = now + d->unlooked_ms;
}

void doubt_unlooked(struct set *s)
{
	s->doubt.unlooked_at_ms = cdm_now_ms();
	s->doubt.only_unlooked |= !s->doubt.raised;
	put_off(&s->doubt);
	raise_it(s);
}

/* Since the comparison began that ends now. */
static bool was_unlooked(const struct doubt_state *d)
{
	return d->unlooked_at_ms && d->unlooked_at_ms >= d->began_ms;
}

void doubt_ready(struct set *s)
{
	if (is_remembered(s, AHEAD_NAME))
		s->doubt.ahead = 1; /* and maybe an author began anew, and nobody had read that yet */
	bool lost = false; /* noted, and its author had begun anew, before anybody could say so */
	for (size_t i = 0; i < s->follow.visible.count && !s->doubt.looked_back; i++)
		lost |= overtaken_is_lost(s->overtaken, s->follow.visible.entries[i].origin);
	s->doubt.looked_back = true;
	if (s->doubt.ahead || lost || is_remembered(s, FILE_NAME))
		doubt_raise(s);
}

void doubt_author_began_anew(struct set *s, cdm_origin origin)
{
	if (s->doubt.ahead || overtaken_is_lost(s->overtaken, origin))
		doubt_raise(s);
}

void doubt_parent_is_there(struct set *s)
{
	if (s->doubt.raised)
		wait_for(s, QUIET_MS);
}

void doubt_asked(struct peer *p)
{
	p->verify_wanted = true; /* also while it compares: what it looks at may have changed since */
	state_changed(p->set);
	ship_kick(p);
}

bool doubt_begin_verify(struct peer *p)
{
	const struct doubt_state *d = &p->set->doubt;
	if (!p->verify_wanted || p->verifying || (d->raised && !d->only_unlooked && set_parent_peer(p->set)))
		return false; /* in the last case when we have compared with our own parent */
	p->verify_wanted = false;
	p->verifying = true;
	doubt_begins(p->set);
	resync_begin(p, RESYNC_VERIFY);
	return true;
}

/* A comparison ended: where it came to everything, the pause begins anew. */
static void note_looked(struct set *s)
{
	if (!any_child_is_at_it(s) && !was_unlooked(&s->doubt))
		s->doubt.unlooked_ms = s->doubt.unlooked_due_ms = 0;
}

/* All was compared but what could not be looked at: that is left, and those that we feed need not wait for it. */
static void leave_unlooked(struct set *s)
{
	if (!s->doubt.only_unlooked)
		children_compare(s);
	s->doubt.only_unlooked = true;
	s->doubt.rounds = s->doubt.waits = 0;
	wait_for(s, QUIET_MS);
	state_changed(s);
}

void doubt_compared(struct set *s, bool decisive, bool changed)
{
	struct doubt_state *d = &s->doubt;
	note_looked(s);
	if (!d->raised)
		return;
	rest(s);
	cdm_timer_cancel(&d->timer);
	bool over = decisive && !changed && !d->raised_since;
	d->rounds += changed;
	if (!over && d->rounds >= ROUNDS_MAX) {
		cdm_log(trees_differ, cdm_str("set", set_name(s)), cdm_uint("comparisons", d->rounds));
		over = true;
	}
	if (over && was_unlooked(d)) {
		leave_unlooked(s);
	} else if (over) {
		settle(s);
	} else {
		unsigned shift = d->waits < 9 ? d->waits++ : 9;
		int64_t ms = (int64_t)QUIET_MS << shift;
		d->only_unlooked = false;
		wait_for(s, ms < WAIT_MAX_MS ? ms : WAIT_MAX_MS);
	}
}

void doubt_child_done(struct peer *p)
{
	if (!p->verifying)
		return;
	p->verifying = false;
	rest(p->set);
	note_looked(p->set);
	forget_if_over(p->set);
	state_changed(p->set);
}

void doubt_child_gone(struct peer *p)
{
	bool open = p->verifying || p->verify_wanted;
	p->verifying = p->verify_wanted = false;
	p->set->doubt.owed |= open;
	if (open)
		state_changed(p->set);
}

void doubt_stop(struct set *s)
{
	cdm_timer_cancel(&s->doubt.timer);
}

/* --- what the applier noticed in a job --- */

void doubt_note_ahead(struct publisher *pub, struct cdm_dot version, const struct cdm_vector *context)
{
	struct set *s = pub->set;
	if (cdm_dot_is_none(version) || cdm_vector_covers(context, version) || cdm_vector_covers(&pub->applied, version))
		return;
	if (!s->doubt.ahead++)
		remember(s, AHEAD_NAME);
}

unsigned doubt_taken_ahead(const struct set *s)
{
	return s->doubt.ahead;
}

void doubt_none_is_ahead(struct set *s, unsigned taken)
{
	if (!taken || !atomic_compare_exchange_strong(&s->doubt.ahead, &taken, 0))
		return;
	unlinkat(s->store_fd, AHEAD_NAME, 0);
	if (s->doubt.ahead) /* taken in this moment, by the applier */
		remember(s, AHEAD_NAME);
}

void doubt_note(struct job *job, const struct incoming *in)
{
	if (in->resync)
		return;
	for (size_t i = 0; i < job->odd_count; i++)
		if (job->odd[i].origin == in->carried.change.dot.origin)
			return; /* the first one of an author knew least */
	if (!job->odd_count && !job->odd_surely)
		remember(job->set, FILE_NAME);
	if (job->odd_count == ODD_MAX) {
		job->odd_surely = true;
		return;
	}
	struct odd *o = &job->odd[job->odd_count++];
	o->origin = in->carried.change.dot.origin;
	cdm_vector_copy(&o->context, &in->context);
}

/* Did its author know all that is applied here by now (his own changes apart)? */
static bool knew_all(const struct odd *o, const struct cdm_vector *visible)
{
	for (size_t i = 0; i < visible->count; i++)
		if (visible->entries[i].origin != o->origin && !cdm_vector_covers(&o->context, visible->entries[i]))
			return false;
	return true;
}

void doubt_judge(struct job *job)
{
	struct set *s = job->set;
	bool concurrent = job->odd_surely;
	for (size_t i = 0; i < job->odd_count; i++)
		concurrent |= !knew_all(&job->odd[i], &s->follow.visible);
	if (concurrent)
		doubt_raise(s);
	else if (job->odd_count)
		forget_if_over(s);
}
