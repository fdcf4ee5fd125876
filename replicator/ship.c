/* SPDX-License-Identifier: Apache-2.0 */
/* ship.c — one peer's cursor in our journal: where it starts, what of the journal is for it, when a batch goes out.
 * Source and relay alike follow their own journal (design.md 5, 6). */
#include "replicator/ship.h"
#include "replicator/publish.h"
#include "replicator/content_cache.h"
#include "replicator/resync.h"
#include "replicator/unsure.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "common/filter.h"
#include "common/io.h"

#define GATHER_RECORDS 4000 /* journal records looked at before the loop gets its turn */

/* --- start position --- */

static int open_reader(struct ship *ship)
{
	struct set *s = ship_set(ship);
	struct cdm_error err = CDM_ERROR_INIT;
	cdm_journal_reader_close(&ship->reader);
	_cleanup_close_ int dir = openat(s->store_fd, ".cdmfs/journal", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return -errno;
	int r = cdm_journal_reader_open(dir, s->run_dir, &ship->reader, &err);
	if (r < 0)
		cdm_log_err(failed, &err, cdm_str("set", set_name(s)));
	return r;
}

void ship_resume_at(struct peer *p, uint64_t position, const struct cdm_vector *passed)
{
	struct ship *ship = p->ship;
	ship->compare_due = false;
	cdm_vector_copy(&ship->passed, passed);
	for (size_t i = 0; i < ship->queue_count; i++) /* it is read again */
		item_free(ship->queue[i]);
	ship->queue_count = 0;
	ship->queue_bytes = 0;
	if (open_reader(ship) < 0 || cdm_journal_reader_seek(ship->reader, position) < 0) {
		resync_begin(p, 0);
		return;
	}
	ship->phase = SHIP_STREAM;
	ship_kick(p);
}

static void start_resync(struct ship *ship)
{
	ship->phase = SHIP_RESYNC;
	ship->compare_due = false;
	resync_begin(ship->peer, 0);
}

void ship_subscribed(struct peer *p, const struct subscribe *sub)
{
	struct ship *ship = p->ship;
	struct set *s = p->set;
	bool force = sub->flags & SUBSCRIBE_RESYNC || (sub->flags & SUBSCRIBE_EMPTY && set_has_unstamped(s));
	cdm_vector_copy(&p->has, &sub->visible);
	p->is_empty = sub->flags & SUBSCRIBE_EMPTY;
	if (p->is_empty)
		ship_root(p, false);
	if (force) {
		start_resync(ship);
		return;
	}
	const struct milestone *m = follow_milestone(s, &p->has);
	if (m) {
		ship_resume_at(p, m->position, &m->vector);
		return;
	}
	if (open_reader(ship) < 0 || cdm_journal_reader_seek(ship->reader, 0) < 0) {
		start_resync(ship);
		return;
	}
	ship->phase = SHIP_SEEK;
	ship->seek_candidate = 0;
	ship->seek_first = true;
	ship->seek_complete = false;
	cdm_vector_fini(&ship->seek_seen);
	ship->seek_seen = (struct cdm_vector){0};
	cdm_vector_fini(&ship->passed);
	ship->passed = (struct cdm_vector){0};
	ship_kick(p);
}

/* Found: stream from the candidate, or walk the trees. */
static void seek_end(struct ship *ship)
{
	if (ship->seek_candidate) {
		struct cdm_vector passed = {0};
		cdm_vector_copy(&passed, &ship->passed);
		ship_resume_at(ship->peer, ship->seek_candidate - 1, &passed);
		cdm_vector_fini(&passed);
		return;
	}
	start_resync(ship);
}

/* A mark counts our own changes of any kind; for a peer only those matter that ship. */
static void mark_that_ships(struct ship *ship, const struct cdm_vector *mark, struct cdm_vector *ret)
{
	uint32_t self = ship_set(ship)->node->id->number;
	cdm_vector_fini(ret);
	*ret = (struct cdm_vector){0};
	for (size_t i = 0; i < mark->count; i++) {
		struct cdm_dot dot = mark->entries[i];
		uint64_t seen = cdm_vector_get(&ship->seek_seen, dot.origin);
		if (CDM_ORIGIN_NODE(dot.origin) == self && (seen || ship->seek_complete))
			dot.number = seen;
		if (dot.number)
			cdm_vector_raise(ret, dot);
	}
	/* A mark's vector was noted some time before the mark was written: what was recorded in between lies before it, too. */
	cdm_vector_merge(ret, &ship->seek_seen);
}

/* Read forward from the oldest record to the newest mark whose vector the peer covers. */
static void seek_step(struct ship *ship)
{
	struct cdm_change c;
	struct cdm_vector mark = {0};
	int r = 0;
	for (int i = 0; i < GATHER_RECORDS && (r = cdm_journal_reader_next(ship->reader, &c)) == 1; i++) {
		if (ship->seek_first && c.sequence <= 1) {
			ship->seek_candidate = c.position + 1;
			ship->seek_complete = true;
		}
		ship->seek_first = false;
		if (change_ships(&c))
			cdm_vector_raise(&ship->seek_seen, c.dot);
		if ((c.op != CDM_OP_MARK && c.op != CDM_OP_CLEAN) || !c.vector)
			continue;
		mark_that_ships(ship, c.vector, &mark);
		if (!cdm_vector_covers_all(&ship->peer->has, &mark)) {
			r = 0;
			break;
		}
		ship->seek_candidate = c.position + 1;
		cdm_vector_copy(&ship->passed, &mark);
	}
	cdm_vector_fini(&mark);
	if (r == 1)
		ship->again = true; /* more to read: after the loop's turn */
	else
		seek_end(ship);
}

/* --- gathering --- */

bool set_leaves_out(struct set *s, const char *path, size_t len)
{
	pthread_mutex_lock(&s->policy_lock);
	bool out = cdm_filter_match(&s->policy.exclude, path, len) || cdm_filter_match(&s->policy.local, path, len);
	pthread_mutex_unlock(&s->policy_lock);
	return out;
}

/* A RENAME out of the set, or of a file nobody knows over one they know: for the others the old name is removed. False: nothing ships. */
static bool becomes_removal(struct set *s, struct cdm_change *c)
{
	if (c->op != CDM_OP_RENAME)
		return true;
	if (c->flags & CDM_CH_LOCAL && set_leaves_out(s, c->path, c->path_len))
		return false;
	bool directory = c->attr.mask & CDM_ATTR_MODE && S_ISDIR(c->attr.mode);
	c->op = directory ? CDM_OP_RMDIR : CDM_OP_UNLINK;
	c->flags = directory ? CDM_CH_WHOLE : 0; /* RMDIR with WHOLE: with all that is in it */
	c->path2_len = 0;
	c->parent2_mtime_ns = 0;
	return true;
}

/* When was the directory of this new file changed by it? 0 = not known. */
static int64_t note_created(struct ship *ship, const struct cdm_change *c)
{
	uint64_t key = XXH3_64bits(&c->handle.type, 1u + c->handle.len);
	struct created *slot = &ship->created[key % SHIP_CREATED];
	if (c->op == CDM_OP_CREATE)
		*slot = (struct created){key, c->parent_mtime_ns};
	return slot->key == key ? slot->parent_mtime_ns : 0;
}

/* A name that the others never had is gone (a temporary file, an editor's swap file): they only need the mtime that its directory
 * has since. False: not even that. */
static bool becomes_mtime(struct set *s, struct cdm_change *c)
{
	const char *slash = memrchr(c->path, '/', c->path_len);
	if (!c->path_len || !c->parent_mtime_ns || (slash && set_leaves_out(s, c->path, (size_t)(slash - c->path))))
		return false;
	*c = (struct cdm_change){.op = CDM_OP_SKIP, .dot = c->dot, .clock = c->clock, .path = c->path, .path_len = c->path_len,
		.parent_mtime_ns = c->parent_mtime_ns, .position = c->position, .next_position = c->next_position};
	return true;
}

/* LOCAL and UNSAVED records: what of them the others need. */
static bool is_left(struct set *s, struct cdm_change *c)
{
	if (c->flags & CDM_CH_LOCAL)
		return (c->op == CDM_OP_RENAME && becomes_removal(s, c)) || becomes_mtime(s, c);
	return c->flags & CDM_CH_COVERS ? becomes_removal(s, c) : becomes_mtime(s, c);
}

/* A pure target finds changes of its own only after a power cut; they are nobody's. */
static bool may_write(const struct set *s)
{
	const struct member *self = s->route ? route_member_number(s->route, s->node->id->number) : NULL;
	return !self || self->role & CDM_ROLE_SOURCE;
}

static void gather_one(struct ship *ship, struct cdm_change *c)
{
	struct peer *p = ship->peer;
	int64_t created_ns = 0;
	contexts_note(&ship->contexts, c);
	if (c->handle.len && (c->op == CDM_OP_CREATE || (c->op == CDM_OP_SAVE && c->flags & CDM_CH_NEW)))
		created_ns = note_created(ship, c);
	if (!change_ships(c))
		return;
	cdm_vector_raise(&ship->passed, c->dot);
	if (cdm_vector_covers(&p->has, c->dot))
		return;
	if (c->op == CDM_OP_SKIP && c->flags & CDM_CH_WHOLE) { /* here we compared trees: so must whoever follows us */
		ship->compare_due = true;
		return;
	}
	if (c->flags & (CDM_CH_LOCAL | CDM_CH_UNSAVED) && !is_left(ship_set(ship), c))
		return;
	if (c->flags & CDM_CH_RECOVERED && !may_write(ship_set(ship)))
		*c = (struct cdm_change){.op = CDM_OP_SKIP, .dot = c->dot, .clock = c->clock, .position = c->position, .next_position = c->next_position};
	c->context = &contexts_get(&ship->contexts, c->dot.origin)->vector;
	struct item *item = item_new(c, cdm_now_ms());
	if (!item)
		return;
	item->created_ns = created_ns;
	ship->queue[ship->queue_count++] = item;
	ship->queue_bytes += item->bytes;
}

bool ship_gather(struct ship *ship)
{
	struct cdm_change c;
	int r = 1;
	for (int i = 0; i < GATHER_RECORDS && ship->queue_count < SHIP_QUEUE_MAX && !ship->compare_due; i++) {
		r = cdm_journal_reader_next(ship->reader, &c);
		if (r != 1)
			break;
		gather_one(ship, &c);
	}
	if (r == -ENODATA) { /* a new run of the writer: go on where we were */
		uint64_t position = cdm_journal_reader_position(ship->reader);
		content_cache_forget(ship_set(ship)->content_cache);
		if (open_reader(ship) == 0 && cdm_journal_reader_seek(ship->reader, position) == 0)
			return false;
		r = -ESTALE;
	}
	if (r < 0)
		start_resync(ship);
	return r == 0;
}

/* --- batches --- */

static bool has_one_source(const struct set *s)
{
	size_t sources = 0;
	for (size_t i = 0; s->route && i < s->route->member_count; i++)
		sources += s->route->members[i].role & CDM_ROLE_SOURCE ? 1 : 0;
	return sources == 1;
}

/* Fold the queue, free what went. */
static void fold_queue(struct ship *ship)
{
	size_t seen = 0;
	while (seen < ship->queue_count && ship->queue[seen]->change.position < ship->fold_from)
		seen++;
	fold_items(ship->queue + seen, ship->queue_count - seen, has_one_source(ship_set(ship)));
	size_t kept = 0;
	ship->queue_bytes = 0;
	for (size_t i = 0; i < ship->queue_count; i++) {
		struct item *item = ship->queue[i];
		if (item->gone) {
			count_up(&ship_set(ship)->counters.folded, 1);
			item_free(item);
			continue;
		}
		ship->queue_bytes += item->bytes;
		ship->queue[kept++] = item;
	}
	ship->queue_count = kept;
}

static void hold_over(void *arg)
{
	struct ship *ship = arg;
	ship->hold = NULL;
	ship_kick(ship->peer);
}

static void gather_over(void *arg)
{
	struct ship *ship = arg;
	ship->gather = NULL;
	ship_kick(ship->peer);
}

/* Several changes in one batch: they come faster than batches go. Then the next one gathers for a moment, for what is published
 * together costs a fraction of one by one (assemble.c); a change that comes alone never waits. As interrupts are moderated. */
static void gather_after(struct ship *ship, size_t count)
{
	cdm_timer_cancel(&ship->gather);
	if (count >= SHIP_BURST)
		ship->gather = cdm_loop_after(ship_set(ship)->node->loop, SHIP_GATHER_MS, gather_over, ship);
}

/* How many of the queue's items may go now? */
static size_t batch_size(struct ship *ship, bool all_read)
{
	uint64_t bytes = 0;
	size_t n = 0;
	while (n < ship->queue_count && n < SHIP_BATCH_CHANGES && (!n || bytes + ship->queue[n]->bytes <= SHIP_BATCH_BYTES))
		bytes += ship->queue[n++]->bytes;
	if (n < ship->queue_count || !all_read)
		return n;
	int64_t hold = fold_hold_ms(ship->queue[n - 1]) - (cdm_now_ms() - ship->queue[n - 1]->read_ms);
	if (hold <= 0)
		return n;
	if (!ship->hold)
		ship->hold = cdm_loop_after(ship_set(ship)->node->loop, hold, hold_over, ship);
	return n - 1;
}

static bool is_below(const struct cdm_change *c, const struct cdm_change *dir)
{
	return c->path_len > dir->path_len && c->path[dir->path_len] == '/' && memcmp(c->path, dir->path, dir->path_len) == 0;
}

/* A new directory that is still being filled goes at the head of the next batch, so that most of what comes into it is published with
 * it as one. It waits once: at the head it is sent as far as it is there. */
static size_t leave_open_directory(const struct ship *ship, size_t n)
{
	for (size_t k = n; n >= SHIP_BURST && --k > 0;)
		if (ship->queue[k]->change.op == CDM_OP_MKDIR && is_below(&ship->queue[n - 1]->change, &ship->queue[k]->change))
			return k;
	return n;
}

static bool start_batch(struct ship *ship, bool all_read)
{
	uint64_t in_flight = ship->batch_number - ship->batch_acked;
	if (!ship->queue_count || in_flight >= FRAME_BATCHES_IN_FLIGHT)
		return false;
	if ((in_flight || ship->gather) && ship->queue_count < SHIP_NEXT_CHANGES && ship->queue_bytes < SHIP_NEXT_BYTES)
		return false; /* gather while the last one is on its way */
	fold_queue(ship);
	size_t n = ship->queue_count ? leave_open_directory(ship, batch_size(ship, all_read)) : 0;
	if (!n)
		return false;
	ship->batch = calloc(n, sizeof *ship->batch);
	if (!ship->batch)
		abort();
	uint64_t bytes = 0;
	for (size_t i = 0; i < n; i++) {
		ship->batch[i] = ship->queue[i];
		bytes += ship->queue[i]->bytes;
		deltas_expect(ship_set(ship)->deltas, ship->queue[i]);
	}
	ship->queue_count -= n;
	ship->queue_bytes -= bytes;
	memmove(ship->queue, ship->queue + n, ship->queue_count * sizeof *ship->queue);
	ship->batch_count = n;
	ship->batch_at = 0;
	ship->batch_copies = 0;
	struct batch_head head = {.number = ++ship->batch_number, .changes = (uint32_t)n, .bytes = bytes};
	struct bytes frame = {0};
	batch_head_encode(&head, &frame);
	link_send(ship->peer->link, ship_set(ship), FRAME_BATCH, 0, frame.data, frame.len, NULL, 0);
	bytes_fini(&frame);
	count_up(&ship_set(ship)->counters.batches_sent, 1);
	gather_after(ship, n);
	return true;
}

/* All was looked at and nothing is left to send, yet the peer's vector lacks dots: they need nothing (superseded, local,
 * never saved). Say so with a SKIP per origin, so that vectors become equal. */
static void level_vectors(struct ship *ship)
{
	struct peer *p = ship->peer;
	const struct cdm_vector *visible = &p->set->follow.visible;
	for (size_t i = 0; i < visible->count && ship->queue_count < SHIP_QUEUE_MAX; i++) {
		struct cdm_dot dot = visible->entries[i];
		if (cdm_vector_covers(&p->has, dot))
			continue;
		struct cdm_change skip = {.op = CDM_OP_SKIP, .dot = dot, .clock = 1};
		struct item *item = item_new(&skip, cdm_now_ms());
		if (item)
			ship->queue[ship->queue_count++] = item;
	}
}

static bool has_all(const struct ship *ship)
{
	return !ship->queue_count && !ship->batch && ship->batch_number == ship->batch_acked;
}

static void forget_contents(struct set *s)
{
	for (const struct peer *p = s->peers; p; p = p->next)
		if (!has_all(p->ship))
			return;
	content_cache_forget(s->content_cache);
}

static void run_stream(struct ship *ship)
{
	for (;;) {
		if (!ship_send_step(ship) || ship->phase != SHIP_STREAM || unsure_waits_for(ship->peer))
			return;
		bool all_read = ship->compare_due || ship_gather(ship);
		bool all_there = all_read && has_all(ship);
		if (ship->phase == SHIP_STREAM && ship->compare_due && all_there)
			start_resync(ship);
		if (ship->phase != SHIP_STREAM)
			return;
		if (all_there) {
			forget_contents(ship_set(ship));
			level_vectors(ship);
		}
		if (all_there && !ship->queue_count && doubt_begin_verify(ship->peer))
			return;
		if (!start_batch(ship, all_read)) {
			if (!all_read && ship->queue_count < SHIP_QUEUE_MAX)
				ship->again = true;
			return;
		}
	}
}

static void run_again(void *arg)
{
	struct set *s = arg;
	s->posted--;
	for (struct peer *p = s->peers, *next; p; p = next) {
		next = p->next;
		if (p->ship->again) {
			p->ship->again = false;
			ship_kick(p);
		}
	}
}

void ship_kick(struct peer *p)
{
	struct ship *ship = p->ship;
	if (!p->subscribed || p->set->stopping)
		return;
	if (ship->running) {
		ship->again = true;
		return;
	}
	ship->running = true;
	if (ship->phase == SHIP_SEEK)
		seek_step(ship);
	else if (ship->phase == SHIP_STREAM)
		run_stream(ship);
	else if (ship->phase == SHIP_RESYNC)
		ship_send_step(ship);
	ship->running = false;
	if (ship->again) {
		p->set->posted++;
		cdm_loop_post(p->set->node->loop, run_again, p->set);
	}
}

void ship_acked(struct peer *p, uint64_t batch)
{
	if (batch > p->ship->batch_acked && batch <= p->ship->batch_number)
		p->ship->batch_acked = batch;
	ship_kick(p);
}

/* --- lifetime --- */

void ship_new(struct peer *p)
{
	struct ship *ship = calloc(1, sizeof *ship);
	if (!ship)
		abort();
	ship->peer = p;
	ship->answer_tail = &ship->answer_head;
	p->ship = ship;
}

void ship_free(struct peer *p)
{
	struct ship *ship = p->ship;
	if (!ship)
		return;
	p->ship = NULL;
	ship_send_reset(ship);
	cdm_timer_cancel(&ship->hold);
	cdm_timer_cancel(&ship->gather);
	for (size_t i = 0; i < ship->queue_count; i++)
		item_free(ship->queue[i]);
	for (size_t i = ship->batch_at; i < ship->batch_count; i++)
		item_free(ship->batch[i]);
	free(ship->batch);
	ship_answers_free(ship);
	contexts_fini(&ship->contexts);
	contexts_fini(&ship->told);
	cdm_vector_fini(&ship->passed);
	cdm_vector_fini(&ship->seek_seen);
	cdm_journal_reader_close(&ship->reader);
	free(ship->owed);
	free(ship);
}
