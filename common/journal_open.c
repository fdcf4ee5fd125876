/* SPDX-License-Identifier: Apache-2.0 */
/* Opening a journal for writing: what did the last writer leave? Either its tail is alive, then nothing is missing and
 * this writer goes on in the middle; or it is not, then the segments say what is there and how they ended. */
#include "common/journal_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include "common/io.h"
#include "common/journal_scan.h"

/* Positions skipped where a tail was lost: more than any ring held, so that no position ever means two records. */
#define LOST_GAP (2 * TAIL_BYTES_MAX)
#define JOURNAL_BYTES (512ull << 20)   /* by default */
#define JOURNAL_BYTES_MIN (8ull << 20) /* by default on the smallest disk */
#define SEGMENT_BYTES (16ull << 20)    /* by default */

/* --- what the records say --- */

struct recovery {
	struct cdm_journal *j;
	struct cdm_journal_state *state;
	uint64_t own_highest; /* number, pending ones included */
};

/* Nothing of it, or what a note says that all records before its position amount to. */
static struct recovery recovery_begin(struct cdm_journal *j, struct cdm_journal_state *state, const struct resume *known)
{
	if (j->sequence < known->sequence) /* what was forgotten had numbers, too */
		j->sequence = known->sequence;
	j->mark_clock = known->mark_clock;
	cdm_vector_copy(&j->applied, &known->applied);
	cdm_vector_copy(&j->marked, &known->marked);
	cdm_vector_copy(&state->durable, &known->marked);
	state->mark_ns = cdm_clock_to_ns(known->mark_clock);
	state->records = 0;
	cdm_clock_observe(known->clock);
	return (struct recovery){.j = j, .state = state, .own_highest = known->last_number};
}

static void take_mark(struct recovery *rec, const uint8_t *record, size_t length)
{
	struct cdm_change c;
	if (record_decode(record, length, &c) < 0)
		return;
	cdm_vector_fini(&rec->state->durable);
	if (c.vector)
		cdm_vector_copy(&rec->state->durable, c.vector);
	rec->state->mark_ns = cdm_clock_to_ns(c.clock);
	cdm_change_fini(&c);
}

static int take_record(void *arg, const uint8_t *record, size_t length)
{
	struct recovery *rec = arg;
	struct cdm_change_head head;
	uint64_t sequence = record_u64(record, RECORD_SEQUENCE);
	rec->state->records++;
	if (sequence > rec->j->sequence)
		rec->j->sequence = sequence;
	if (record_head(record, &head) < 0)
		return 0;
	cdm_clock_observe(head.clock); /* what is recorded next must be later, even if this node's clock was put back */
	if (head.dot.origin == rec->j->origin && head.dot.number > rec->own_highest)
		rec->own_highest = head.dot.number;
	if (record_outcome(record) == CDM_PENDING)
		return 0;
	if (record_is_mark(record))
		take_mark(rec, record, length);
	journal_take_settled_locked(rec->j, record, length);
	return 0;
}

/* All records from `known->position`, if that is 0 the oldest, up to `end` in the segments and up to head in the ring. */
static int recover_from(struct cdm_journal *j, const struct resume *known, uint64_t end, struct cdm_journal_state *state, struct cdm_error *err)
{
	struct recovery rec = recovery_begin(j, state, known);
	int r = scan_records(&j->segments, known->position, end, take_record, &rec, err);
	if (r < 0)
		return r;
	bool pad;
	size_t length;
	for (uint64_t at = end; j->tail.header && at < journal_head(j); at += length) {
		const uint8_t *record = tail_at(&j->tail, at);
		length = record_length(record, &pad);
		if (!pad)
			take_record(&rec, record, length);
	}
	j->last_number = cdm_vector_get(&j->applied, j->origin);
	if (j->last_number < rec.own_highest)
		j->last_number = rec.own_highest;
	cdm_vector_copy(&state->applied, &j->applied);
	return 0;
}

/* From where the last mark began to be behind. */
static int recover_state(struct cdm_journal *j, uint64_t since, uint64_t end, struct cdm_journal_state *state, struct cdm_error *err)
{
	return recover_from(j, &(struct resume){.position = since}, end, state, err);
}

/* --- a living tail --- */

/* Every record in [synced, head) whole? Then *ret_frontier is the first pending one. `boundary` must be the border of
 * two. */
static bool ring_is_sound(const struct tail *t, uint64_t synced, uint64_t boundary, uint64_t *ret_frontier)
{
	uint64_t head = atomic_load(&t->header->head), at = synced;
	bool found_pending = false, found_boundary = false;
	*ret_frontier = head;
	while (at < head) {
		uint64_t available = tail_contiguous(t, at);
		bool pad;
		found_boundary |= at == boundary;
		size_t length = record_check(tail_at(t, at), available < head - at ? available : head - at, at, &pad);
		if (length == 0)
			return false;
		if (!pad && !found_pending && record_outcome(tail_at(t, at)) == CDM_PENDING) {
			*ret_frontier = at;
			found_pending = true;
		}
		at += length;
	}
	return found_boundary || at == boundary;
}

static bool positions_are_sound(const struct tail *t)
{
	const struct tail_header *h = t->header;
	uint64_t synced = h->synced, head = h->head;
	return synced % RECORD_ALIGN == 0 && head % RECORD_ALIGN == 0 && h->base <= synced && synced <= head &&
		head - synced <= t->capacity;
}

/* Take over the ring of a writer that died. False: it is not there, not ours, or damaged; then it is lost. */
static bool take_over(struct cdm_journal *j)
{
	struct tail t;
	if (j->segments.count == 0 || tail_map(j->run_dir, &t) < 0)
		return false;
	struct tail_header *h = t.header;
	uint64_t frontier, start = j->segments.list[j->segments.count - 1].start, synced = h->synced;
	uint64_t from = synced;
	if (synced < start) /* a new segment is begun only when all before it is synced */
		synced = start;
	if (h->closed || h->node_number != j->node_number || h->instance != j->segments.instance ||
		!positions_are_sound(&t) || !ring_is_sound(&t, from, synced, &frontier) || synced > frontier ||
		synced > segment_limit(&j->segments.list[j->segments.count - 1])) {
		tail_unmap(&t);
		return false;
	}
	h->synced = synced;
	h->frontier = frontier;
	h->reserved = (uint64_t)h->head;
	j->tail = t;
	return true;
}

static int reopen_segment(struct cdm_journal *j, struct cdm_error *err)
{
	size_t last = j->segments.count - 1;
	j->segment_fd = segment_open(&j->segments, last, O_RDWR);
	if (j->segment_fd < 0)
		return cdm_fail(err, -j->segment_fd, "open the last journal segment");
	int r = segment_commit_read(j->segment_fd, &j->segments.list[last], &j->commit);
	return r < 0 ? cdm_fail(err, -r, "read the last journal segment") : 0;
}

static bool note_fits(const struct cdm_journal *j, const struct resume *known)
{
	return known->origin == j->origin && known->position % RECORD_ALIGN == 0 && known->position >= j->segments.list[0].start &&
		known->position <= journal_synced(j);
}

/* From where the writer that died noted what it knew; false: as if there were no note. */
static bool recover_noted(struct cdm_journal *j, struct cdm_journal_state *state)
{
	const struct tail_header *h = j->tail.header;
	struct resume known;
	bool found = resume_read(&j->resume, h->instance, h->base, &known) && note_fits(j, &known) &&
		recover_from(j, &known, h->synced, state, NULL) == 0;
	resume_fini(&known);
	return found;
}

static int open_alive(struct cdm_journal *j, struct cdm_journal_state *state, struct cdm_error *err)
{
	struct tail_header *h = j->tail.header;
	state->tail_alive = true;
	j->origin = CDM_ORIGIN(j->node_number, h->incarnation);
	j->written = h->synced;
	j->pending_next = h->frontier;
	j->pending_end = h->head;
	j->mark_position = h->last_mark;
	int r = reopen_segment(j, err);
	if (r < 0)
		return r;
	j->resume = resume_open(j->run_dir, false);
	r = recover_noted(j, state) ? 0 : recover_state(j, h->mark_since, h->synced, state, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&j->lock);
	journal_note_resume_locked(j);
	pthread_mutex_unlock(&j->lock);
	return 0;
}

/* --- only segments --- */

/* Nothing from `cut` on counts any more; said in the segment before anything is taken away from it. */
static int note_cut(int fd, const struct segment *last, uint64_t cut)
{
	struct segment_commit commit;
	int r = segment_commit_read(fd, last, &commit);
	if (r < 0 || commit.synced <= cut)
		return r;
	commit = (struct segment_commit){.generation = commit.generation + 1, .synced = cut};
	r = segment_commit_write(fd, last, &commit);
	return r < 0 ? r : cdm_fsync(fd);
}

/* Cut what is behind `cut`, and begin a new segment far enough behind `end`, where the last whole record ended. */
static int begin_after_loss(struct cdm_journal *j, uint64_t cut, uint64_t end, struct cdm_error *err)
{
	while (j->segments.count > 1 && j->segments.list[j->segments.count - 1].start >= cut) {
		int dropped = segments_drop_newest(&j->segments);
		if (dropped < 0)
			return cdm_fail(err, -dropped, "remove a journal segment");
	}
	struct segment *last = &j->segments.list[j->segments.count - 1];
	if (cut < last->start)
		cut = last->start;
	uint64_t size = cut - last->start + SEGMENT_HEADER_SIZE;
	_cleanup_close_ int fd = segment_open(&j->segments, j->segments.count - 1, O_RDWR);
	if (fd < 0)
		return cdm_fail(err, -fd, "open the last journal segment");
	int r = note_cut(fd, last, cut);
	if (r < 0)
		return cdm_fail(err, -r, "write the last journal segment");
	if (ftruncate(fd, (off_t)size) < 0)
		return cdm_fail(err, errno, "cut the last journal segment");
	r = cdm_fsync(fd);
	if (r < 0)
		return cdm_fail(err, -r, "sync the last journal segment");
	last->size = size;
	j->written = end + LOST_GAP;
	j->segment_fd = segments_create(&j->segments, j->written, cut, j->segment_bytes);
	return j->segment_fd < 0 ? cdm_fail(err, -j->segment_fd, "begin a new journal segment") : 0;
}

/* From now on the journal is not clean, and that must be known after a power cut. */
static int note_open(struct cdm_journal *j, struct cdm_error *err)
{
	j->commit.generation++;
	j->commit.synced = j->written;
	j->commit.clean = false;
	int r = segment_commit_write(j->segment_fd, &j->segments.list[j->segments.count - 1], &j->commit);
	if (r == 0)
		r = cdm_fdatasync(j->segment_fd);
	return r < 0 ? cdm_fail(err, -r, "write the last journal segment") : 0;
}

static int begin_segment(struct cdm_journal *j, uint64_t cut, const struct scan_end *end, bool clean, struct cdm_error *err)
{
	if (j->segments.count == 0) {
		j->written = JOURNAL_START;
		j->segment_fd = segments_create(&j->segments, j->written, j->written, j->segment_bytes);
		return j->segment_fd < 0 ? cdm_fail(err, -j->segment_fd, "begin a journal") : 0;
	}
	if (!clean)
		return begin_after_loss(j, cut, end->position, err);
	j->written = end->position;
	int r = reopen_segment(j, err);
	return r < 0 ? r : note_open(j, err);
}

/* What is forgotten is not applied; but no clock, number or sequence of it may be given again. */
static int pass_forgotten(void *arg, const uint8_t *record, size_t length)
{
	struct recovery *rec = arg;
	struct cdm_change_head head;
	uint64_t sequence = record_u64(record, RECORD_SEQUENCE);
	if (sequence > rec->j->sequence)
		rec->j->sequence = sequence;
	if (record_head(record, &head) < 0)
		return 0;
	cdm_clock_observe(head.clock);
	if (head.dot.origin == rec->j->origin && head.dot.number > rec->own_highest)
		rec->own_highest = head.dot.number;
	if (record_is_mark(record))
		take_mark(rec, record, length);
	return 0;
}

/* Forget what `mark` does not cover. *ret_cut: from where on; *mark becomes the one before, from which what stays is recovered: what
 * lies between the two and before the cut is covered by `mark`. */
static int forget_uncovered(struct cdm_journal *j, uint64_t end, uint64_t *ret_cut, struct scan_mark *mark, struct cdm_journal_state *state,
	struct cdm_error *err)
{
	struct recovery rec = {.j = j, .state = state};
	*ret_cut = mark->position ? mark->since : j->segments.list[0].start;
	int r = scan_records(&j->segments, *ret_cut, end, pass_forgotten, &rec, err);
	int64_t mark_ns = state->mark_ns;
	if (r == 0)
		r = scan_last_mark(&j->segments, *ret_cut, mark, err);
	if (r == 0)
		r = recover_state(j, mark->since, *ret_cut, state, err);
	if (r < 0)
		return r;
	if (j->last_number < rec.own_highest)
		j->last_number = rec.own_highest;
	cdm_vector_fini(&state->durable);
	cdm_vector_copy(&state->durable, &state->applied);
	state->mark_ns = mark_ns;
	return 0;
}

static int open_lost(struct cdm_journal *j, const struct cdm_journal_conf *conf, struct cdm_journal_state *state,
	struct cdm_error *err)
{
	struct scan_end end = {0};
	struct scan_mark mark = {0};
	uint64_t cut = 0;
	int r = 0;
	j->origin = CDM_ORIGIN(j->node_number, conf->incarnation);
	if (j->segments.count) {
		r = scan_end(&j->segments, &end, err);
		if (r == 0)
			r = scan_last_mark(&j->segments, end.position, &mark, err);
		state->torn |= end.torn;
		state->clean = end.commit.clean && mark.clean_end && end.commit.synced == end.position && !state->torn;
		cut = end.position;
		if (r == 0 && conf->cut_to_mark && !state->clean)
			r = forget_uncovered(j, end.position, &cut, &mark, state, err);
		else if (r == 0)
			r = recover_state(j, mark.since, end.position, state, err);
	}
	if (r < 0)
		return r;
	r = begin_segment(j, cut, &end, state->clean, err);
	if (r < 0)
		return r;
	r = tail_create(j->run_dir, conf->tail_bytes ? conf->tail_bytes : 16u << 20, j->written, j->segments.instance,
		j->node_number, &j->tail, err);
	if (r < 0)
		return r;
	j->tail.header->incarnation = conf->incarnation;
	j->tail.header->last_mark = mark.position;
	j->tail.header->mark_since = mark.since;
	j->resume = resume_open(j->run_dir, true);
	return 0;
}

/* --- open, close --- */

static int lock_directory(struct cdm_journal *j, int dir_fd, struct cdm_error *err)
{
	j->lock_fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (j->lock_fd < 0)
		return cdm_fail(err, errno, "open the journal's directory");
	if (flock(j->lock_fd, LOCK_EX | LOCK_NB) == 0)
		return 0;
	if (errno != EWOULDBLOCK)
		return cdm_fail(err, errno, "lock the journal's directory");
	return cdm_fail_plain(err, EBUSY, "another process writes this journal");
}

static int check_conf(const struct cdm_journal_conf *conf, struct cdm_error *err)
{
	uint64_t tail = conf->tail_bytes, segment = conf->segment_bytes;
	if (tail && (tail < TAIL_BYTES_MIN || tail > TAIL_BYTES_MAX || tail & (tail - 1)))
		return cdm_fail_plain(err, EINVAL, "journal tail of %llu bytes: must be a power of two, 1 MiB to 1 GiB",
			(unsigned long long)tail);
	if (segment && (segment < SEGMENT_BYTES_MIN || segment > SEGMENT_BYTES_MAX))
		return cdm_fail_plain(err, EINVAL, "journal segments of %llu bytes: must be from 1 to 256 MiB",
			(unsigned long long)segment);
	return 0;
}

uint64_t cdm_journal_limit(uint64_t configured, int dir_fd)
{
	struct statvfs v;
	uint64_t share = fstatvfs(dir_fd, &v) == 0 ? (uint64_t)v.f_blocks * v.f_frsize / 8 : JOURNAL_BYTES;
	if (configured)
		return configured;
	return share > JOURNAL_BYTES ? JOURNAL_BYTES : share < JOURNAL_BYTES_MIN ? JOURNAL_BYTES_MIN : share;
}

/* Several in any journal, so that it can let go of parts. */
static uint64_t default_segment_bytes(const struct cdm_journal_conf *conf, uint64_t max_bytes)
{
	uint64_t part = max_bytes / 8;
	return conf->max_bytes || part > SEGMENT_BYTES ? SEGMENT_BYTES : part;
}

static struct cdm_journal *new_journal(const struct cdm_journal_conf *conf)
{
	struct cdm_journal *j = calloc(1, sizeof *j);
	char *run_dir = strdup(conf->run_dir);
	if (!j || !run_dir) {
		free(j);
		free(run_dir);
		return NULL;
	}
	j->run_dir = run_dir;
	j->node_number = conf->node_number;
	j->max_bytes = cdm_journal_limit(conf->max_bytes, conf->journal_dir_fd);
	j->segment_bytes = conf->segment_bytes ? conf->segment_bytes : default_segment_bytes(conf, j->max_bytes);
	j->sync_interval_ms = conf->sync_interval_ms ? conf->sync_interval_ms : 100;
	j->lock_fd = j->segment_fd = -1;
	j->tail = TAIL_NONE;
	j->resume = RESUME_FILE_NONE;
	j->context_due = true;
	for (unsigned i = 0; i < TAIL_READERS; i++)
		j->wake_fds[i] = -1;
	pthread_mutex_init(&j->lock, NULL);
	pthread_mutex_init(&j->wake_lock, NULL);
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&j->work, &attr);
	pthread_cond_init(&j->done, &attr);
	pthread_condattr_destroy(&attr);
	return j;
}

static void free_journal(struct cdm_journal *j)
{
	journal_stop_flusher(j);
	for (unsigned i = 0; i < TAIL_READERS; i++)
		cdm_cleanup_close(&j->wake_fds[i]);
	tail_unmap(&j->tail);
	resume_close(&j->resume);
	cdm_cleanup_close(&j->segment_fd);
	segments_fini(&j->segments);
	cdm_cleanup_close(&j->lock_fd);
	cdm_vector_fini(&j->applied);
	cdm_vector_fini(&j->check);
	cdm_vector_fini(&j->marked);
	pthread_mutex_destroy(&j->lock);
	pthread_mutex_destroy(&j->wake_lock);
	pthread_cond_destroy(&j->work);
	pthread_cond_destroy(&j->done);
	free(j->run_dir);
	free(j);
}

static int load_segments(struct cdm_journal *j, struct cdm_journal_state *state, struct cdm_error *err)
{
	int r = segments_load(j->lock_fd, &j->segments, err);
	if (r < 0)
		return r;
	if (j->segments.unborn) {
		state->torn = true;
		r = segments_remove_unborn(&j->segments);
		if (r < 0)
			return cdm_fail(err, -r, "remove an unfinished journal segment");
	}
	if (j->segments.count && j->segments.node_number != j->node_number) {
		cdm_fail_plain(err, EBADMSG, "the journal was written by node number %u, this is %u",
			j->segments.node_number, j->node_number);
		cdm_hint(err, "this store belongs to another node; a copied store needs its .cdmfs directory removed");
		return -EBADMSG;
	}
	j->segments.node_number = j->node_number;
	return 0;
}

static int open_locked(struct cdm_journal *j, const struct cdm_journal_conf *conf, struct cdm_journal_state *state,
	struct cdm_error *err)
{
	int r = load_segments(j, state, err);
	if (r < 0)
		return r;
	r = take_over(j) ? open_alive(j, state, err) : open_lost(j, conf, state, err);
	if (r < 0)
		return r;
	tail_set_writer(&j->tail);
	journal_note_segments_locked(j);
	r = tail_open_wake(j->run_dir, 0);
	if (r < 0)
		return cdm_fail(err, -r, "open %s/wake", j->run_dir);
	j->wake_fds[0] = r;
	return journal_start_flusher(j, err);
}

int cdm_journal_open(const struct cdm_journal_conf *conf, struct cdm_journal **ret, struct cdm_journal_state *ret_state,
	struct cdm_error *err)
{
	*ret = NULL;
	*ret_state = (struct cdm_journal_state){0};
	int r = check_conf(conf, err);
	if (r < 0)
		return r;
	struct cdm_journal *j = new_journal(conf);
	if (!j)
		return cdm_fail(err, ENOMEM, "open the journal");
	r = lock_directory(j, conf->journal_dir_fd, err);
	if (r == 0)
		r = open_locked(j, conf, ret_state, err);
	if (r < 0) {
		free_journal(j);
		cdm_vector_fini(&ret_state->applied);
		cdm_vector_fini(&ret_state->durable);
		return r;
	}
	journal_wake_readers(j, tail_wake_slots(j->run_dir)); /* those that wait for a writer to come */
	*ret = j;
	return 0;
}

static int write_clean(struct cdm_journal *j, struct cdm_error *err)
{
	struct cdm_vector applied;
	cdm_journal_applied(j, &applied);
	struct cdm_change c = {.op = CDM_OP_CLEAN, .vector = &applied};
	int r = cdm_journal_put(j, &c);
	if (r == 0)
		r = cdm_journal_sync(j);
	cdm_vector_fini(&applied);
	journal_stop_flusher(j);
	if (r < 0)
		return cdm_fail(err, -r, "end the journal");
	j->commit.generation++;
	j->commit.synced = journal_synced(j);
	j->commit.clean = true;
	r = segment_commit_write(j->segment_fd, &j->segments.list[j->segments.count - 1], &j->commit);
	if (r == 0)
		r = cdm_fdatasync(j->segment_fd);
	return r < 0 ? cdm_fail(err, -r, "end the journal") : 0;
}

static void remove_tail(struct cdm_journal *j)
{
	int run_fd = open(j->run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	atomic_store(&j->tail.header->closed, 1);
	if (run_fd >= 0) {
		unlinkat(run_fd, TAIL_FILE, 0);
		unlinkat(run_fd, RESUME_FILE, 0);
		close(run_fd);
	}
	journal_wake_readers(j, atomic_exchange(&j->tail.header->armed, 0));
}

int cdm_journal_close(struct cdm_journal **jp, struct cdm_error *err)
{
	struct cdm_journal *j = *jp;
	int r;
	*jp = NULL;
	if (!j)
		return 0;
	if (journal_frontier(j) != journal_head(j))
		r = cdm_fail_plain(err, EBUSY, "end the journal: an operation is not settled");
	else
		r = write_clean(j, err);
	if (r == 0)
		remove_tail(j);
	free_journal(j);
	return r;
}
