/* SPDX-License-Identifier: Apache-2.0 */
/* resync_receive.c — the receiver's side of comparing trees: asks for directories, hands what differs to the applier in the order
 * it was found, removes what is gone last, and then takes over the sender's vector. Memory: one path per directory on
 * the way, a window of requests, and a bounded list of removals. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include "common/faultpoint.h"
#include "replicator/base.h"
#include "replicator/hold.h"
#include "replicator/overtaken.h"
#include "replicator/publish.h"
#include "replicator/quarantine.h"
#include "replicator/resync_compare.h"
#include "replicator/rights.h"
#include "replicator/unsure.h"
#include "replicator/view.h"

#define DIRS_ASKED_MAX 16
#define ASKED_MAX 64
#define WANTS_HIGH 8192      /* stop asking for directories above this */
#define JOB_CHANGES 256
#define JOBS_MAX 2
#define GUARD_COUNT 1000     /* more removals than this are held, and … */
#define EXAMPLES 5
#define GUARD_PERCENT 90     /* … such a part of a tree of … */
#define GUARD_TREE 100       /* … more names than this */
#define DECIDED_MAX 65536    /* removals of one round, once decided */
#define HELD_AGAIN_MS 60000  /* has somebody decided meanwhile? */

enum resync_phase { WALKING, REMOVING, SEALING, ENDED };

struct resync_in {
	struct set *set;
	uint64_t serial;             /* of the peer */
	uint32_t peer_number;
	enum resync_phase phase;
	struct compare_shared shared; /* read by the walker */
	struct todo *stack, *asked, **asked_tail;
	size_t asked_count;
	struct listing listing;      /* of the oldest asked directory, arriving */
	size_t comparing, jobs, asks_open;
	struct want *wants, **wants_tail, *unasked; /* unasked: first that was not asked for */
	size_t want_count;
	uint64_t ticket;
	uint64_t same, fetched, removed, changed, seen; /* changed: attributes and links, too */
	uint64_t set_aside;          /* of these, again or for the first time: comparing once more would not help */
	struct removal *removals;    /* newest first: deepest first */
	size_t removal_count;
	struct incoming *root;       /* the sender's root directory, to be settled after what is in it */
	bool root_stays;             /* compare.stays */
	struct cdm_timer *timer;     /* held: look again then */
	struct hold hold;
	uint64_t rejected;           /* how much the round before brought back */
	bool clash, clash_tried;     /* directories in the way of other things: once they are gone, compare again, once */
	bool keeps_own;              /* RESYNC_KEEP */
	bool verify;                 /* RESYNC_VERIFY */
	bool began;                  /* the first directory came */
	bool once_more;              /* compare again: not all that was decided on fitted into one round */
	bool ahead;                  /* compare.ahead */
	unsigned taken_ahead;        /* doubt_taken_ahead, when it began */
	uint64_t aside_before;       /* set.aside_number, when it began */
	uint64_t overtaken_before;   /* overtaken_number, likewise */
	struct overtaken *missed;    /* what was overtaken while we asked for it */
	bool had_aside;              /* something was set aside then */
	bool lacking;                /* not all that differs was had */
	bool unlooked;               /* some of it could not be looked at here: trees are compared again */
	bool orphan;
};

static void pump(struct resync_in *in);

static struct peer *peer_of(struct resync_in *in)
{
	struct peer *p = in->set->peers;
	while (p && p->serial != in->serial)
		p = p->next;
	return p;
}

static void want_free(struct want *w, int staging_fd)
{
	incoming_free(w->in, staging_fd);
	free(w->path);
	free(w);
}

static void removals_free(struct removal *list)
{
	for (struct removal *r = list, *next; r; r = next) {
		next = r->next;
		free(r->path);
		free(r);
	}
}

static void removals_clear(struct resync_in *in)
{
	removals_free(in->removals);
	in->removals = NULL;
	in->removal_count = 0;
}

static void really_free(struct resync_in *in)
{
	for (struct todo *t = in->stack, *next; t; t = next) {
		next = t->next;
		todo_free(t);
	}
	for (struct todo *t = in->asked, *next; t; t = next) {
		next = t->next;
		todo_free(t);
	}
	for (struct want *w = in->wants, *next; w; w = next) {
		next = w->next;
		want_free(w, in->set->staging_fd);
	}
	removals_clear(in);
	hold_end(&in->hold);
	incoming_free(in->root, in->set->staging_fd);
	listing_free(&in->listing);
	compare_shared_fini(&in->shared);
	overtaken_free(&in->missed);
	free(in);
}

static bool is_held(const struct resync_in *in)
{
	return in->hold.id && in->hold.decision == UNDECIDED;
}

/* What comparisons are there now, and does one of them wait for a decision? */
static void tell_comparisons(struct set *s)
{
	s->resyncing = false;
	s->held_reason[0] = 0;
	for (const struct peer *p = s->peers; p; p = p->next) {
		const struct resync_in *in = p->resync ? p->resync->in : NULL;
		s->resyncing |= in && in->phase != ENDED;
		if (in && is_held(in))
			snprintf(s->held_reason, sizeof s->held_reason, "held: comparing trees with %s would remove %" PRIu64 " of %" PRIu64 " names here",
				link_peer_name(p->link), in->hold.removals, in->hold.names);
	}
}

void resync_in_free(struct resync_in **ret)
{
	struct resync_in *in = *ret;
	if (!in)
		return;
	*ret = NULL;
	if (is_held(in))
		hold_remember(in->set, &in->hold, in->peer_number);
	tell_comparisons(in->set);
	cdm_timer_cancel(&in->timer);
	in->orphan = true;
	if (!in->comparing && !in->jobs)
		really_free(in);
}

/* --- directories --- */

static void ask_directories(struct resync_in *in, struct peer *p)
{
	while (in->stack && in->asked_count < DIRS_ASKED_MAX && in->want_count < WANTS_HIGH) {
		struct todo *t = in->stack;
		in->stack = t->next;
		t->next = NULL;
		link_send(p->link, in->set, FRAME_RESYNC_NEED, 0, t->path, t->len, NULL, 0);
		*in->asked_tail = t;
		in->asked_tail = &t->next;
		in->asked_count++;
	}
}

static void compare_one(void *arg)
{
	struct compare *c = arg;
	int64_t began = cdm_now_ns();
	compare_work(c);
	c->worked_ns = cdm_now_ns() - began;
}

static void compare_finished(void *arg)
{
	struct compare *c = arg;
	struct resync_in *in = c->owner;
	in->set->posted--;
	doubt_looked(in->set, c->worked_ns);
	in->comparing--;
	if (in->orphan) {
		compare_free(c);
		if (!in->comparing && !in->jobs)
			really_free(in);
		return;
	}
	if (c->error) { /* as if the sender had no such directory */
		in->unlooked = true;
		resync_unlooked(in->set, c->dir->path, c->dir->len, c->error);
		compare_free(c);
		pump(in);
		return;
	}
	if (!c->dir->len)
		in->root_stays = c->stays;
	in->clash |= c->clash;
	in->same += c->same;
	in->seen += c->seen;
	in->changed += c->taken_over;
	in->ahead |= c->ahead;
	count_up(&in->set->counters.resync_same, c->same);
	while (c->subdirs) {
		struct todo *t = c->subdirs;
		c->subdirs = t->next;
		t->next = in->stack;
		in->stack = t;
	}
	if (c->wants) {
		*in->wants_tail = c->wants;
		if (!in->unasked)
			in->unasked = c->wants;
		for (struct want *w = c->wants; w; w = w->next) {
			in->want_count++;
			in->wants_tail = &w->next;
		}
		c->wants = NULL;
	}
	while (c->removals) {
		struct removal *r = c->removals;
		c->removals = r->next;
		if (in->removal_count++ > (in->hold.decision == UNDECIDED ? GUARD_COUNT : DECIDED_MAX)) {
			free(r->path);
			free(r);
			continue;
		}
		r->next = in->removals;
		in->removals = r;
	}
	compare_free(c);
	pump(in);
}

int resync_in_dir(struct peer *p, uint8_t flags, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	struct resync_in *in = p->resync ? p->resync->in : NULL;
	if (!in || !in->asked || listing_decode(payload, len, &in->listing) < 0)
		return cdm_fail_plain(err, EBADMSG, "RESYNC_DIR out of place or malformed");
	count_up(&p->set->counters.resync_bytes, len);
	if (!(flags & DIR_LAST))
		return 0;
	struct todo *t = in->asked;
	in->asked = t->next;
	if (!in->asked)
		in->asked_tail = &in->asked;
	in->asked_count--;
	if (!t->len && in->root)
		t->theirs.mtime_ns = in->root->carried.change.attr.mtime_ns;
	listing_settle(&in->listing);
	struct compare *c = compare_new(in->set, &in->shared, t, &in->listing, flags & DIR_GONE);
	c->owner = in;
	in->listing = (struct listing){0};
	in->began = true;
	in->comparing++;
	in->set->posted++;
	cdm_worker_submit(in->set->walker, compare_one, compare_finished, c);
	pump(in);
	return 0;
}

int resync_in_overtaken(struct peer *p, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	struct resync_in *in = p->resync ? p->resync->in : NULL;
	if (!in && p->tree_refused)
		return 0; /* it has not heard of that yet */
	if (!in || in->began || in->shared.overtaken || !(in->shared.overtaken = overtaken_decode(payload, len)))
		return cdm_fail_plain(err, EBADMSG, "RESYNC_OVERTAKEN out of place or malformed");
	return 0;
}

/* --- what differs --- */

static void ask_objects(struct resync_in *in, struct peer *p)
{
	while (in->unasked && in->asks_open < ASKED_MAX) {
		struct want *w = in->unasked;
		in->unasked = w->next;
		if (w->in)
			continue; /* nothing to ask: done here */
		w->ticket = RESYNC_TICKET | ++in->ticket;
		struct need need = {.ticket = w->ticket, .path = w->path, .path_len = w->len, .base = w->base, .base_size = w->base_size};
		base_send_need(p, &need, 0);
		in->asks_open++;
	}
}

/* Those that we feed should have the root as we have it now. */
static void pass_root_on(const struct job *job)
{
	for (struct peer *p = job->set->peers; p; p = p->next)
		if (p->subscribed && p->serial != job->peer_serial) {
			ship_root(p, false);
			ship_kick(p);
		}
}

static void root_done(struct job *job)
{
	struct peer *p = set_peer_by_serial(job->set, job->peer_serial);
	if (p && p->root_due) {
		p->root_due = false;
		state_changed(job->set);
	}
	pass_root_on(job);
	job_free(job);
}

static int64_t root_mtime_ns(const struct set *s)
{
	struct stat st;
	return fstat(s->store_fd, &st) < 0 ? 0 : st.st_mtim.tv_sec * 1000000000ll + st.st_mtim.tv_nsec;
}

/* The root's attributes. Where something was already, its mtime only moves forward: a newer one is on its way to the sender. So it is where nothing was,
 * but somebody has done something since; the applier looks at that. */
static void take_root(struct peer *p, struct incoming *answer)
{
	struct cdm_attr *attr = &answer->carried.change.attr;
	bool was_empty = p->was_empty && !p->root_taken, exactly = p->root_exact;
	cdm_faultpoint("resync.root_came_not_taken");
	p->root_exact = false;
	p->root_taken = true;
	answer->resync = true;
	if (!cdm_dot_is_none(answer->carried.change.base)) /* who set its attributes */
		answer->carried.change.dot.origin = answer->carried.change.base.origin;
	if (p->resync && p->resync->in && p->resync->in->phase == WALKING) {
		incoming_free(p->resync->in->root, p->set->staging_fd);
		p->resync->in->root = answer;
		return;
	}
	if (!exactly)
		answer->mtime_was_ns = was_empty ? p->set->follow.root_was_ns : root_mtime_ns(p->set);
	if (!exactly && !was_empty && answer->mtime_was_ns >= attr->mtime_ns)
		attr->mask &= ~(uint32_t)CDM_ATTR_MTIME;
	struct job *job = job_new(p->set, p->serial, 0);
	job_add(job, answer);
	job->done = root_done;
	publisher_submit(job);
}

/* The vector that we take over covers what was there. */
static void note_missed(struct resync_in *in, const struct want *w)
{
	struct cdm_dot dot = {w->theirs.dot.origin, cdm_vector_get(&in->shared.sender, w->theirs.dot.origin)};
	if (dot.number)
		overtaken_missed(in->missed, w->path, w->len, dot, w->theirs.clock);
}

void resync_answer(struct peer *p, struct incoming *answer)
{
	struct resync_in *in = p->resync ? p->resync->in : NULL;
	if (answer->carried.change.dot.number == RESYNC_TICKET) {
		bool takes = in || rights_takes_root(p), of_root = answer->carried.change.op == CDM_OP_SETATTR && !answer->carried.change.path_len;
		if (!takes)
			rights_refuse_tree(p);
		if (takes && of_root)
			take_root(p, answer);
		else
			incoming_free(answer, p->set->staging_fd);
		return;
	}
	struct want *w = in ? in->wants : NULL;
	while (w && w->ticket != answer->carried.change.dot.number)
		w = w->next;
	if (!w || w->answered) {
		incoming_free(answer, p->set->staging_fd);
		return;
	}
	w->answered = true;
	in->asks_open--;
	struct cdm_change *c = &answer->carried.change;
	bool same_path = c->path_len == w->len && memcmp(c->path, w->path, w->len) == 0;
	if (c->op == CDM_OP_SKIP || answer->superseded || !same_path) {
		incoming_free(answer, p->set->staging_fd); /* gone or changed meanwhile: the stream will tell; or it could not be read there */
		note_missed(in, w);
		in->lacking |= quarantine_may_have_below(p->set->quarantine, w->path, w->len);
	} else {
		c->parent_mtime_ns = w->parent_mtime_ns;
		answer->resync = true;
		answer->decisive = in->shared.decisive;
		answer->orphaned = w->orphaned;
		answer->keeps_own = in->keeps_own;
		answer->again = w->again && c->op == CDM_OP_SAVE;
		answer->along = w->along;
		cdm_vector_copy(&answer->context, &in->shared.sender);
		w->in = answer;
		in->fetched++;
		count_up(&p->set->counters.resync_fetched, 1);
		count_up(&p->set->counters.resync_bytes, answer->carried.content_bytes);
	}
	pump(in);
}

static void job_finished(struct job *job)
{
	struct resync_in *in = job->arg;
	in->lacking |= job->lacking;
	in->set_aside += job->set_aside;
	job_free(job);
	in->jobs--;
	if (!in->orphan)
		pump(in);
	else if (!in->comparing && !in->jobs)
		really_free(in);
}

static void submit(struct resync_in *in, struct job *job, void (*done)(struct job *job))
{
	job->done = done;
	job->arg = in;
	in->jobs++;
	publisher_submit(job);
}

static void journal_unread(struct resync_in *in, int error)
{
	if (!in->unlooked)
		resync_unlooked(in->set, "", 0, error);
	in->unlooked = true;
}

/* Was it removed here since the comparison began? Or that cannot be known. */
static bool is_to_stay_away(struct resync_in *in, struct unseen *since, const struct want *w)
{
	bool went = unseen_surely_went(since, w->path, w->len);
	if (unseen_error(since))
		journal_unread(in, unseen_error(since));
	return went || unseen_error(since);
}

/* In the order found: a directory before what is in it, a file before its other names. */
static void submit_ready(struct resync_in *in)
{
	struct unseen *since = in->shared.decisive && in->wants ? unseen_new(in->set, &in->shared.sender) : NULL; /* what we removed since it began */
	while (in->wants && in->jobs < JOBS_MAX) {
		struct job *job = job_new(in->set, in->serial, 0);
		while (in->wants && job->count < JOB_CHANGES && (in->wants->answered || in->wants->in)) {
			struct want *w = in->wants;
			if (in->unasked == w)
				in->unasked = w->next;
			in->wants = w->next;
			if (!in->wants)
				in->wants_tail = &in->wants;
			in->want_count--;
			if (w->in && since && is_to_stay_away(in, since, w)) {
				incoming_free(w->in, in->set->staging_fd);
				w->in = NULL;
			}
			if (w->in) {
				w->in->resync = true;
				w->in->decisive = in->shared.decisive;
				w->in->keeps_own = in->keeps_own;
				w->in->began_clock = in->shared.began_clock;
				in->changed++;
				if (w->in->carried.change.op != CDM_OP_SETATTR && !(in->shared.overtaken && overtaken_has(in->shared.overtaken, w->path, w->len)))
					overtaken_compared(in->set->overtaken, w->path, w->len, false);
				job_add(job, w->in);
				w->in = NULL;
			}
			want_free(w, in->set->staging_fd);
		}
		if (!job->count) {
			job_free(job);
			if (!in->wants || !(in->wants->answered || in->wants->in))
				break;
			continue;
		}
		submit(in, job, job_finished);
	}
	if (since)
		unseen_free(&since);
}

/* --- the root --- */

static void root_settled(struct job *job)
{
	pass_root_on(job);
	job_finished(job);
}

static bool is_set_later(const struct cdm_stamp *a, const struct cdm_stamp *b)
{
	return a->attr_clock != b->attr_clock ? a->attr_clock > b->attr_clock : a->attr_origin > b->attr_origin;
}

/* By the rule of all other directories (compare_directory), but where ours was set later the sender is told, however much he knew: no vector
 * says that he has it. So the applier looks at the clocks once more (not decisive). False: nothing to do. */
static bool settle_root(struct resync_in *in)
{
	struct peer *p = peer_of(in);
	struct incoming *root = in->root;
	struct entry ours;
	in->root = NULL;
	if (!root)
		return false;
	struct cdm_attr *attr = &root->carried.change.attr;
	struct directory theirs = {.mtime_ns = attr->mtime_ns, .stamp = {.attr_clock = root->carried.change.clock > 1 ? root->carried.change.clock : 0,
		.attr_origin = root->carried.change.base.origin}};
	int r = entry_read(in->set, "", 0, &ours);
	bool found = r == 0;
	if (!found) {
		in->unlooked = true;
		resync_unlooked(in->set, "", 0, r);
	}
	if (found && p && is_set_later(&ours.stamp, &theirs.stamp)) {
		incoming_free(root, in->set->staging_fd);
		ship_root(p, true);
		ship_kick(p);
		return false;
	}
	bool differs = found && compare_directory(&in->shared, &theirs, &ours, in->root_stays, &attr->mtime_ns) &&
		((attr->mode ^ ours.mode) & 07777 || attr->uid != ours.uid || attr->gid != ours.gid || attr->mtime_ns != ours.mtime_ns);
	if (!differs) {
		incoming_free(root, in->set->staging_fd);
		return false;
	}
	root->mtime_was_ns = ours.mtime_ns;
	in->changed++;
	struct job *job = job_new(in->set, in->serial, 0);
	job_add(job, root);
	submit(in, job, root_settled);
	return true;
}

/* --- the end --- */

/* Must this wait for somebody's decision? A parent that lost its content must not empty this node. */
static bool guard(const struct resync_in *in)
{
	uint64_t n = in->removal_count;
	return n > GUARD_COUNT || (in->seen > GUARD_TREE && n * 100 > in->seen * GUARD_PERCENT);
}

/* Compare all anew, with what was fetched by now, and with what people did here or there. */
static void look_again(void *arg)
{
	struct resync_in *in = arg;
	struct compare_shared before = in->shared;
	in->timer = NULL;
	in->once_more = in->clash = in->lacking = false;
	in->phase = WALKING;
	removals_clear(in);
	compare_shared_init(&in->shared, in->set, &before.sender, before.incomplete);
	struct paths *none = in->shared.there;
	in->shared.there = before.there;
	before.there = none;
	in->shared.overtaken = before.overtaken;
	before.overtaken = NULL;
	compare_shared_fini(&before);
	in->seen = in->same = 0;
	in->stack = todo_new("", 0);
	pump(in);
}

static json_t *examples_of(const struct resync_in *in)
{
	json_t *list = json_array();
	for (const struct removal *r = in->removals; r && json_array_size(list) < EXAMPLES; r = r->next)
		if (r->top)
			json_array_append_new(list, view_text(r->path));
	return list;
}

struct hold *resync_in_hold(struct resync_in *in)
{
	return &in->hold;
}

void resync_in_decided(struct resync_in *in)
{
	in->rejected = 0;
	tell_comparisons(in->set);
	if (in->timer) { /* else a round is under way: it ends as decided now */
		cdm_timer_cancel(&in->timer);
		look_again(in);
	}
	state_changed(in->set);
}

/* Nothing is removed and the sender's vector is not taken over: this node does not count as having what it lacks. */
static void hold(struct resync_in *in)
{
	struct set *s = in->set;
	struct peer *p = peer_of(in);
	if (!s->held_reason[0])
		cdm_log(resync_held, cdm_str("set", set_name(s)), cdm_str("peer", p ? link_peer_name(p->link) : "?"),
			cdm_uint("removals", in->removal_count));
	hold_begin(s, &in->hold, in->peer_number, in->removal_count, in->seen, examples_of(in));
	tell_comparisons(s);
	in->phase = WALKING;
	removals_clear(in);
	in->timer = cdm_loop_after(s->node->loop, HELD_AGAIN_MS, look_again, in);
	state_changed(s);
}

/* --- rejected: what was to be removed becomes new --- */

struct revival { /* applier */
	struct resync_in *in;
	struct removal *list;
	struct cdm_error err;
};

static void revive_work(void *arg)
{
	struct revival *v = arg;
	char path[512];
	snprintf(path, sizeof path, "%s/full", v->in->set->run_dir);
	for (const struct removal *r = v->list; r; r = r->next)
		if (setxattr(path, "trusted.cdmfs.new", r->path, r->len, 0) < 0 && errno != ENOENT && !v->err.number)
			cdm_fail(&v->err, errno, "bring %.200s back", r->path);
}

static void revive_done(void *arg)
{
	struct revival *v = arg;
	struct resync_in *in = v->in;
	if (v->err.number)
		cdm_log_err(failed, &v->err, cdm_str("set", set_name(in->set)));
	in->set->posted--;
	in->jobs--;
	removals_free(v->list);
	free(v);
	if (!in->orphan)
		pump(in);
	else if (!in->comparing && !in->jobs)
		really_free(in);
}

static void submit_revival(struct resync_in *in)
{
	struct revival *v = calloc(1, sizeof *v);
	if (!v)
		abort();
	v->in = in;
	for (struct removal *r = in->removals, *next; r; r = next) { /* what is below comes with it */
		next = r->next;
		if (r->top) {
			r->next = v->list;
			v->list = r;
		} else {
			free(r->path);
			free(r);
		}
	}
	in->removals = NULL;
	in->rejected = in->removal_count;
	in->once_more = true; /* until a comparison finds nothing to remove */
	in->jobs++;
	in->set->posted++;
	cdm_worker_submit(in->set->applier, revive_work, revive_done, v);
}

static void submit_removals(struct resync_in *in)
{
	in->once_more = in->removal_count > DECIDED_MAX || (in->clash && !in->clash_tried);
	in->clash_tried |= in->clash;
	struct job *job = job_new(in->set, in->serial, 0);
	struct unseen *since = unseen_new(in->set, &in->shared.sender); /* names that came here while trees were compared */
	while (in->removals) {
		struct removal *r = in->removals;
		in->removals = r->next;
		bool came = unseen_came(since, r->path, r->len);
		if (unseen_error(since))
			journal_unread(in, unseen_error(since));
		if (came || unseen_error(since)) {
			free(r->path);
			free(r);
			continue;
		}
		struct incoming *removal = removal_incoming(r, &in->shared.sender);
		removal->decisive = in->shared.decisive;
		removal->orphaned = r->orphaned;
		overtaken_compared(in->set->overtaken, r->path, r->len, true);
		/* After a conflict the sender may lack what nobody removed: a node between had set it aside, and its author has the only copy. */
		removal->keeps_own = in->keeps_own || in->verify;
		job_add(job, removal);
		in->removed++;
		count_up(&in->set->counters.resync_deleted, 1);
		free(r->path);
		free(r);
	}
	unseen_free(&since);
	submit(in, job, job_finished);
}

/* The sender's vector is ours now: a SKIP per origin, marked so that those who follow this journal compare trees, too. */
static void submit_seal(struct resync_in *in)
{
	struct job *job = job_new(in->set, in->serial, 0);
	for (size_t i = 0; i < in->shared.sender.count; i++) {
		struct carried k = {.change = {.op = CDM_OP_SKIP, .flags = CDM_CH_WHOLE, .dot = in->shared.sender.entries[i], .clock = 1}};
		struct incoming *skip = incoming_make(&k);
		job_add(job, skip);
	}
	job->compared = in->shared.decisive && !in->unlooked && !in->clash && !in->lacking;
	job->aside_before = in->aside_before;
	job->had_aside = in->had_aside;
	submit(in, job, job_finished);
}

/* What is held against others may be no more: what was removed here, or came back, is so for them, too. */
static void look_at_others_again(struct set *s)
{
	for (struct peer *p = s->peers; p; p = p->next) {
		struct resync_in *in = p->resync ? p->resync->in : NULL;
		if (!in || !in->timer)
			continue;
		cdm_timer_cancel(&in->timer);
		look_again(in);
	}
}

static void finish(struct resync_in *in)
{
	struct set *s = in->set;
	struct peer *p = peer_of(in);
	in->phase = ENDED;
	tell_comparisons(s);
	hold_forget(s, in->peer_number);
	if (p) {
		cdm_log(resync_ends, cdm_str("set", set_name(s)), cdm_str("peer", link_peer_name(p->link)), cdm_uint("same", in->same),
			cdm_uint("fetched", in->fetched), cdm_uint("removed", in->removed));
		link_send(p->link, s, FRAME_RESYNC_END, 0, NULL, 0, NULL, 0);
		bool incomplete = in->shared.incomplete, decisive = in->shared.decisive, changed = in->changed + in->removed > in->set_aside;
		if (!incomplete && !changed && !in->ahead && !in->unlooked)
			doubt_none_is_ahead(s, in->taken_ahead);
		if (decisive && !in->unlooked)
			overtaken_settled(s->overtaken, in->overtaken_before, in->shared.overtaken, &in->shared.sender);
		if (in->shared.overtaken)
			overtaken_taken_over(s->overtaken, in->shared.overtaken);
		overtaken_taken_over(s->overtaken, in->missed);
		resync_in_free(&p->resync->in);
		p->root_due = p->towards_parent; /* take_end */
		unsure_compared(p);
		doubt_compared(s, decisive || incomplete, changed);
		look_at_others_again(s);
	}
	set_moved(s);
}

static void pump(struct resync_in *in)
{
	struct peer *p = peer_of(in);
	if (!p || in->set->stopping || in->timer)
		return;
	ask_directories(in, p);
	ask_objects(in, p);
	submit_ready(in);
	if (in->stack || in->asked || in->comparing || in->wants || in->jobs || (in->phase == WALKING && settle_root(in)))
		return;
	if (in->once_more) {
		look_again(in);
		return;
	}
	in->phase++;
	bool in_vain = in->hold.decision == REJECTED && in->rejected && in->removal_count >= in->rejected;
	if (in->phase == REMOVING && ((in->hold.decision == UNDECIDED && guard(in)) || in_vain)) {
		hold(in);
	} else if (in->phase == REMOVING && in->hold.decision == REJECTED && in->removal_count) {
		submit_revival(in);
	} else if (in->phase == REMOVING) {
		if (in->hold.decision == UNDECIDED)
			hold_end(&in->hold); /* it is not too much any more */
		tell_comparisons(in->set);
		submit_removals(in);
	} else if (in->phase == SEALING) {
		submit_seal(in);
	} else {
		finish(in);
	}
}

void resync_in_refuse(struct peer *p, const struct cdm_vector *sender)
{
	struct set *s = p->set;
	struct job *job = job_new(s, p->serial, 0);
	rights_refuse_tree(p);
	for (size_t i = 0; i < sender->count; i++) {
		struct cdm_change skip = {.op = CDM_OP_SKIP, .dot = sender->entries[i], .clock = 1};
		if (cdm_vector_covers(&s->follow.visible, skip.dot))
			continue;
		if (CDM_ORIGIN_NODE(skip.dot.origin) == p->number && rights_of(p, &skip) == RIGHT_TAKEN)
			job_add(job, incoming_make(&(struct carried){.change = skip}));
		else
			rights_pass_over(p, &skip);
	}
	cdm_vector_merge(&p->has, sender);
	publisher_submit(job);
	link_send(p->link, s, FRAME_RESYNC_END, 0, NULL, 0, NULL, 0);
}

void resync_in_start(struct peer *p, const struct cdm_vector *sender, uint8_t flags)
{
	bool verify = flags & RESYNC_VERIFY;
	struct set *s = p->set;
	struct resync_in *in = calloc(1, sizeof *in);
	if (!in)
		abort();
	in->set = s;
	in->serial = p->serial;
	in->peer_number = p->number;
	in->keeps_own = flags & RESYNC_KEEP;
	in->verify = verify;
	in->taken_ahead = doubt_taken_ahead(s);
	in->aside_before = s->aside_number;
	in->overtaken_before = overtaken_number(s->overtaken);
	in->missed = overtaken_new();
	in->had_aside = quarantine_count_aside(s->quarantine, "", 0) || quarantine_ran_over(s->quarantine);
	in->asked_tail = &in->asked;
	in->wants_tail = &in->wants;
	compare_shared_init(&in->shared, s, sender, flags & RESYNC_INCOMPLETE);
	in->stack = todo_new("", 0);
	p->resync->in = in;
	cdm_vector_merge(&p->has, sender);
	p->root_exact = in->shared.decisive;
	s->resyncing = true;
	s->doubt.raised |= verify;
	s->doubt.raised_since = false;
	doubt_begins(s);
	count_up(verify ? &s->counters.verify_count : &s->counters.full_resync_count, 1);
	cdm_log(resync_begins, cdm_str("set", set_name(s)), cdm_str("peer", link_peer_name(p->link)), cdm_str("reason", verify ? "after a conflict" : "the peer asks for it"));
	state_changed(s);
	pump(in);
}
