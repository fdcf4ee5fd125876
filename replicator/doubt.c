/* SPDX-License-Identifier: Apache-2.0 */
/* doubt.c — promise 4 where authors met. A change that was applied otherwise than its author saw it (a conflict of names, a subject that
 * was missing or another one), while others changed the set unknown to him, may have come out differently elsewhere. Then trees are compared, as soon
 * as it is quiet and the node has all that its parent has: each node with its parent, from the root of the set's tree downwards, until a comparison finds nothing to do. Where the parent knew
 * all of this node's changes its tree is right; so all end as the root decided. An empty file remembers that, for who is killed
 * before it is over.
 *
 * What an answer brought ahead of the stream is nobody's when its author loses it with his power: no vector tells of it. So whoever took
 * such a thing, until a comparison sees none any more (a second empty file), compares trees when an author begins a new incarnation (resync_compare.c).
 * Loop thread, but for doubt_note and doubt_note_ahead. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "replicator/publish.h"
#include "replicator/resync.h"
#include "replicator/route.h"
#include "replicator/ship.h"

#define FILE_NAME ".cdmfs/doubt"
#define AHEAD_NAME ".cdmfs/ahead"
#define QUIET_MS 200      /* after something came up */
#define WAIT_MAX_MS 60000 /* between comparisons that found something, doubling up to this */
#define ASKED_MS 5000     /* an answer that does not come: ask again */
#define REST 10           /* times as long as a comparison took, none follows: however often authors meet, large trees are not walked all the time */
#define ROUNDS_MAX 8      /* comparisons that find something again and again: what differs cannot be mended so */

static void on_timer(void *arg);

static void wait_for(struct set *s, int64_t ms)
{
	int64_t rest = s->doubt.not_before_ms - cdm_now_ms();
	if (!s->doubt.timer && !s->stopping)
		s->doubt.timer = cdm_loop_after(s->node->loop, rest > ms ? rest : ms, on_timer, s);
}

static void took(struct set *s, int64_t began_ms)
{
	int64_t now = cdm_now_ms();
	s->doubt.not_before_ms = now + REST * (now - began_ms);
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
	s->doubt.raised = false;
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
	if (s->resyncing) {
		wait_for(s, ASKED_MS);
	} else if (parent) {
		link_send(parent->link, s, FRAME_RESYNC_ASK, 0, NULL, 0, NULL, 0);
		wait_for(s, ASKED_MS);
	} else if (held && !parent_now(held)) {
		settle(s); /* the root: what is here counts */
	} /* else: when the parent is there (doubt_parent_is_there) */
}

void doubt_raise(struct set *s)
{
	bool before = s->doubt.raised;
	s->doubt.raised = s->doubt.raised_since = true;
	remember(s, FILE_NAME);
	wait_for(s, QUIET_MS);
	if (!before)
		state_changed(s);
}

void doubt_ready(struct set *s)
{
	if (is_remembered(s, AHEAD_NAME))
		s->doubt.ahead = 1; /* and maybe an author began anew, and nobody had read that yet */
	if (s->doubt.ahead || is_remembered(s, FILE_NAME))
		doubt_raise(s);
}

void doubt_author_began_anew(struct set *s)
{
	if (s->doubt.ahead)
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
	if (!p->verify_wanted || p->verifying || (p->set->doubt.raised && set_parent_peer(p->set)))
		return false; /* in the last case when we have compared with our own parent */
	p->verify_wanted = false;
	p->verifying = true;
	p->set->doubt.began_ms = cdm_now_ms();
	resync_begin(p, RESYNC_VERIFY);
	return true;
}

void doubt_compared(struct set *s, bool decisive, bool changed)
{
	if (!s->doubt.raised)
		return;
	took(s, s->doubt.began_ms);
	cdm_timer_cancel(&s->doubt.timer);
	if (decisive && !changed && !s->doubt.raised_since) {
		settle(s);
		return;
	}
	s->doubt.rounds += changed;
	if (s->doubt.rounds >= ROUNDS_MAX) {
		cdm_log(trees_differ, cdm_str("set", set_name(s)), cdm_uint("comparisons", s->doubt.rounds));
		settle(s);
		return;
	}
	unsigned shift = s->doubt.waits < 9 ? s->doubt.waits++ : 9;
	int64_t ms = (int64_t)QUIET_MS << shift;
	wait_for(s, ms < WAIT_MAX_MS ? ms : WAIT_MAX_MS);
}

void doubt_child_done(struct peer *p)
{
	if (!p->verifying)
		return;
	p->verifying = false;
	took(p->set, p->set->doubt.began_ms);
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
