/* SPDX-License-Identifier: Apache-2.0 */
#include "common/journal_writer.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "common/faultpoint.h"

int64_t journal_monotonic_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

bool journal_wait_done_locked(struct cdm_journal *j, int64_t deadline_ns)
{
	struct timespec ts = {.tv_sec = deadline_ns / 1000000000, .tv_nsec = deadline_ns % 1000000000};
	return pthread_cond_timedwait(&j->done, &j->lock, &ts) != ETIMEDOUT;
}

/* --- append --- */

/* MARK, BARRIER, CLEAN and SYNCED say something about the journal or the disk and change nothing: they take no number. */
static bool takes_number(enum cdm_op op)
{
	return op != CDM_OP_MARK && op != CDM_OP_BARRIER && op != CDM_OP_CLEAN && op != CDM_OP_SYNCED;
}

/* Bytes that appending `size` takes from the ring: a record is never cut by its end. */
static uint64_t with_pad(const struct cdm_journal *j, uint64_t head, size_t size)
{
	uint64_t contiguous = tail_contiguous(&j->tail, head);
	return contiguous < size ? contiguous + size : size;
}

/* An own change carries the applied vector where it changed by others' changes, and once per half a segment's length. */
static bool context_is_due(const struct cdm_journal *j)
{
	return (j->context_due || journal_head(j) - j->context_position >= j->segment_bytes / 2) &&
		j->applied.count <= CDM_VECTOR_MAX;
}

static size_t context_size(const struct cdm_journal *j)
{
	return (cdm_vector_encoded_size(&j->applied) + RECORD_ALIGN - 1) & ~(size_t)(RECORD_ALIGN - 1);
}

/* Room for a record of `size` and, if it is wanted and due then, a context. Sets *ret_size to what both may take. */
static int wait_for_space_locked(struct cdm_journal *j, size_t size, bool wants_context, size_t *ret_size)
{
	int64_t deadline = 0;
	bool in_time = true;
	for (;;) {
		if (j->failed)
			return j->failed;
		uint64_t head = journal_head(j);
		*ret_size = size + (wants_context && context_is_due(j) ? context_size(j) : 0);
		if (with_pad(j, head, *ret_size) <= j->tail.capacity - (head - journal_synced(j)))
			return 0;
		if (!in_time)
			return -ENOSPC;
		if (deadline == 0)
			deadline = journal_monotonic_ns() + APPEND_WAIT_MS * 1000000ll;
		j->waiters++;
		journal_kick_flusher_locked(j);
		in_time = journal_wait_done_locked(j, deadline);
		j->waiters--;
	}
}

static bool covered(const uint8_t *record, const struct cdm_vector *vector)
{
	struct cdm_change_head head;
	return record_head(record, &head) < 0 || cdm_dot_is_none(head.dot) || cdm_vector_covers(vector, head.dot);
}

/* The first position whose change a MARK with this vector does not cover: between the moment its maker noted the
 * vector and now other changes may have been recorded. Starts from what the MARK before covered, or from what was
 * applied then if that is in the vector, and looks on from there as far as the ring still has it. */
static uint64_t mark_since_locked(struct cdm_journal *j, const struct cdm_vector *vector)
{
	struct tail_header *h = j->tail.header;
	uint64_t position = atomic_load_explicit(&h->mark_since, memory_order_relaxed), head = journal_head(j);
	if (j->check_position > position && cdm_vector_covers_all(vector, &j->check))
		position = j->check_position;
	if (position < j->segment_oldest)
		position = j->segment_oldest;
	if (position < tail_oldest(&j->tail))
		return position;
	bool pad;
	for (size_t length; position < head; position += length) {
		const uint8_t *record = tail_at(&j->tail, position);
		length = record_length(record, &pad);
		/* What a writer killed within an append has spoiled at the ring's old end is not looked through. */
		if (length == 0 || (!pad && record_u64(record, RECORD_POSITION) != position))
			break;
		if (!pad && !covered(record, vector))
			break;
	}
	return position;
}

static void assign_own_locked(struct cdm_journal *j, struct cdm_change *c)
{
	if (takes_number(c->op))
		c->dot = (struct cdm_dot){j->origin, ++j->last_number};
	if (takes_number(c->op) || c->clock == 0) /* a renewed mark keeps its time */
		c->clock = cdm_clock_now();
}

/* There is room. Everything a reader or a later writer needs is in the ring before `head` moves. */
static void write_record_locked(struct cdm_journal *j, struct cdm_change *c, size_t size)
{
	struct tail_header *h = j->tail.header;
	struct record_journal_part part = {.position = journal_head(j), .sequence = j->sequence + 1};
	bool own = cdm_dot_is_none(c->dot);
	uint64_t pad = with_pad(j, part.position, size) - size, at = part.position;
	part.position += pad;
	if (c->op == CDM_OP_CLEAN)
		part.since = part.position;
	else if (c->op == CDM_OP_MARK && c->vector)
		part.since = mark_since_locked(j, c->vector);
	if (part.since == at && pad)
		part.since = part.position;
	atomic_store_explicit(&h->reserved, part.position + size, memory_order_relaxed);
	atomic_thread_fence(memory_order_release);
	if (own)
		assign_own_locked(j, c);
	if (pad)
		record_encode_pad(at, pad, tail_at(&j->tail, at));
	size_t length = record_encode(c, &part, tail_at(&j->tail, part.position));
	c->position = part.position;
	c->next_position = part.position + length;
	c->sequence = j->sequence = part.sequence;
	c->outcome = CDM_PENDING;
	if (c->op == CDM_OP_MARK) {
		cdm_vector_copy(&j->check, &j->applied);
		j->check_position = journal_frontier(j);
	}
	atomic_store_explicit(&h->head, c->next_position, memory_order_release);
}

static int append_locked(struct cdm_journal *j, struct cdm_change *c, size_t size)
{
	bool wants_context = cdm_dot_is_none(c->dot) && takes_number(c->op);
	int r = wait_for_space_locked(j, size, wants_context, &size);
	if (r < 0)
		return r;
	if (!wants_context || !context_is_due(j)) {
		write_record_locked(j, c, size);
		return 0;
	}
	c->context = &j->applied;
	write_record_locked(j, c, size);
	c->context = NULL;
	j->context_due = false;
	j->context_position = c->position;
	return 0;
}

/* A mark must not leave the journal with its oldest segment while no new one comes: with it would go what was durable
 * of origins that have been silent since. So it is said again, before the half that may be needed begins to be
 * trimmed. */
static bool mark_is_ageing(const struct cdm_journal *j)
{
	return j->mark_position && journal_head(j) - j->mark_position > j->max_bytes / 4 &&
		j->marked.count <= CDM_VECTOR_MAX;
}

static void renew_mark(struct cdm_journal *j)
{
	struct cdm_vector marked = {0};
	struct cdm_change mark = {.op = CDM_OP_MARK, .vector = &marked};
	pthread_mutex_lock(&j->lock);
	bool ageing = mark_is_ageing(j);
	if (ageing) {
		cdm_vector_copy(&marked, &j->marked);
		mark.clock = j->mark_clock;
		j->mark_position = journal_head(j); /* nobody else does it, too */
	}
	pthread_mutex_unlock(&j->lock);
	if (ageing)
		cdm_journal_put(j, &mark); /* if the journal is full or failed, the next append says so */
	cdm_vector_fini(&marked);
}

int cdm_journal_append(struct cdm_journal *j, struct cdm_change *c)
{
	bool own = cdm_dot_is_none(c->dot);
	if (own)
		c->context = NULL;
	else
		c->flags |= CDM_CH_RECEIVED;
	size_t size = record_size_max(c);
	if (size == 0)
		return -EINVAL;
	if (!own)
		cdm_clock_observe(c->clock);
	pthread_mutex_lock(&j->lock);
	int r = append_locked(j, c, size);
	bool ageing = mark_is_ageing(j);
	pthread_mutex_unlock(&j->lock);
	if (ageing)
		renew_mark(j);
	if (r == 0)
		cdm_faultpoint("journal.appended_not_done");
	return r;
}

/* --- settle --- */

void journal_take_settled_locked(struct cdm_journal *j, const uint8_t *record, size_t length)
{
	struct cdm_change_head head;
	struct cdm_change c;
	bool done = record_outcome(record) == CDM_DONE;
	if (record_head(record, &head) < 0)
		return;
	/* A number of ours is used up either way; a received change that failed is still wanted. */
	bool own = !(record_flags(record) & CDM_CH_RECEIVED);
	if ((done || own) && cdm_vector_raise(&j->applied, head.dot) && !own)
		j->context_due = true;
	if (!record_is_mark(record) || record_decode(record, length, &c) < 0)
		return;
	if (c.vector && !cdm_vector_covers_all(&j->applied, c.vector)) {
		cdm_vector_merge(&j->applied, c.vector);
		j->context_due = true;
	}
	if (c.vector)
		cdm_vector_copy(&j->marked, c.vector);
	j->mark_clock = c.clock;
	j->mark_position = c.position;
	cdm_change_fini(&c);
}

static void note_mark_locked(struct cdm_journal *j, const uint8_t *record)
{
	if (!record_is_mark(record))
		return;
	struct tail_header *h = j->tail.header;
	atomic_store_explicit(&h->mark_since, record_u64(record, RECORD_SINCE), memory_order_relaxed);
	atomic_store_explicit(&h->last_mark, record_u64(record, RECORD_POSITION), memory_order_relaxed);
}

bool journal_advance_frontier_locked(struct cdm_journal *j)
{
	uint64_t from = journal_frontier(j), frontier = from, head = journal_head(j);
	bool pad;
	while (frontier < head) {
		const uint8_t *record = tail_at(&j->tail, frontier);
		size_t length = record_length(record, &pad);
		assert(length > 0);
		if (!pad && record_outcome(record) == CDM_PENDING)
			break;
		if (!pad)
			note_mark_locked(j, record);
		frontier += length;
	}
	if (frontier == from)
		return false;
	/* Before the look at `armed`: readers do it the other way round. */
	atomic_store(&j->tail.header->frontier, frontier);
	return true;
}

void journal_wake_readers(struct cdm_journal *j, uint32_t slots)
{
	pthread_mutex_lock(&j->wake_lock);
	for (unsigned i = 0; i < TAIL_READERS; i++) {
		if (!(slots & 1u << i))
			continue;
		if (j->wake_fds[i] < 0)
			j->wake_fds[i] = tail_open_wake(j->run_dir, i);
		/* A full FIFO is readable already. */
		if (j->wake_fds[i] >= 0 && write(j->wake_fds[i], "", 1) < 0 && errno != EAGAIN) {
			close(j->wake_fds[i]);
			j->wake_fds[i] = -1;
		}
	}
	pthread_mutex_unlock(&j->wake_lock);
}

static uint8_t *own_record(struct cdm_journal *j, uint64_t position)
{
	assert(position >= journal_synced(j) && position < atomic_load(&j->tail.header->head));
	uint8_t *record = tail_at(&j->tail, position);
	assert(record_u64(record, RECORD_POSITION) == position);
	return record;
}

void cdm_journal_settle(struct cdm_journal *j, const struct cdm_change *c, enum cdm_outcome outcome, int error)
{
	uint8_t *record = own_record(j, c->position);
	struct tail_header *h = j->tail.header;
	bool pad;
	assert(outcome != CDM_PENDING && record_outcome(record) == CDM_PENDING);
	record_encode_result(c, outcome == CDM_FAILED ? error : 0, record);
	pthread_mutex_lock(&j->lock);
	record_set_outcome(record, outcome);
	journal_take_settled_locked(j, record, record_length(record, &pad));
	bool moved = journal_advance_frontier_locked(j);
	if (moved)
		journal_kick_flusher_locked(j);
	pthread_mutex_unlock(&j->lock);
	if (moved && atomic_load(&h->armed))
		journal_wake_readers(j, atomic_exchange(&h->armed, 0));
}

int cdm_journal_put(struct cdm_journal *j, struct cdm_change *c)
{
	int r = cdm_journal_append(j, c);
	if (r == 0)
		cdm_journal_settle(j, c, CDM_DONE, 0);
	return r;
}

int cdm_journal_sync(struct cdm_journal *j)
{
	int r = 0;
	pthread_mutex_lock(&j->lock);
	uint64_t goal = journal_head(j);
	j->waiters++;
	while (journal_synced(j) < goal) {
		r = j->failed;
		if (r < 0)
			break;
		journal_kick_flusher_locked(j);
		/* Pending operations may take their time; a full disk gets as long as append gives it. */
		if (!journal_wait_done_locked(j, journal_monotonic_ns() + APPEND_WAIT_MS * 1000000ll) && j->disk_full) {
			r = -ENOSPC;
			break;
		}
	}
	j->waiters--;
	pthread_mutex_unlock(&j->lock);
	return r;
}

/* --- after a writer's death --- */

/* A private copy, decoded; the change owns the bytes. */
static int decode_copy(const uint8_t *record, size_t length, struct cdm_change *ret)
{
	uint8_t *bytes = malloc(length);
	if (!bytes)
		return -ENOMEM;
	memcpy(bytes, record, length);
	int r = record_decode(bytes, length, ret);
	if (r < 0)
		free(bytes);
	else
		ret->bytes_mem = bytes;
	return r;
}

int cdm_journal_next_pending(struct cdm_journal *j, struct cdm_change *ret)
{
	int r = 0;
	pthread_mutex_lock(&j->lock);
	if (j->pending_next < journal_frontier(j))
		j->pending_next = journal_frontier(j);
	while (r == 0 && j->pending_next < j->pending_end) {
		const uint8_t *record = tail_at(&j->tail, j->pending_next);
		bool pad;
		size_t length = record_length(record, &pad);
		j->pending_next += length;
		if (pad || record_outcome(record) != CDM_PENDING)
			continue;
		r = decode_copy(record, length, ret);
		r = r < 0 ? r : 1;
	}
	pthread_mutex_unlock(&j->lock);
	return r;
}

int cdm_journal_peek(struct cdm_journal *j, uint64_t position, struct cdm_change *ret)
{
	int r = -ESTALE;
	bool pad;
	pthread_mutex_lock(&j->lock);
	uint64_t head = journal_head(j);
	if (position % RECORD_ALIGN == 0 && position >= tail_oldest(&j->tail) && position < head) {
		const uint8_t *record = tail_at(&j->tail, position);
		uint64_t available = tail_contiguous(&j->tail, position);
		if (available > head - position)
			available = head - position;
		size_t length = record_check(record, available, position, &pad);
		if (length && !pad)
			r = decode_copy(record, length, ret);
	}
	pthread_mutex_unlock(&j->lock);
	return r;
}

/* --- what there is --- */

void cdm_journal_set_incarnation(struct cdm_journal *j, uint32_t incarnation)
{
	pthread_mutex_lock(&j->lock);
	j->origin = CDM_ORIGIN(j->node_number, incarnation);
	j->last_number = cdm_vector_get(&j->applied, j->origin);
	j->context_due = true;
	atomic_store(&j->tail.header->incarnation, incarnation);
	pthread_mutex_unlock(&j->lock);
}

cdm_origin cdm_journal_origin(const struct cdm_journal *j)
{
	return CDM_ORIGIN(j->node_number, atomic_load(&j->tail.header->incarnation));
}

void cdm_journal_applied(struct cdm_journal *j, struct cdm_vector *ret)
{
	*ret = (struct cdm_vector){0};
	pthread_mutex_lock(&j->lock);
	cdm_vector_copy(ret, &j->applied);
	pthread_mutex_unlock(&j->lock);
}

void cdm_journal_stats(struct cdm_journal *j, struct cdm_journal_stats *ret)
{
	pthread_mutex_lock(&j->lock);
	*ret = (struct cdm_journal_stats){
		.head_position = journal_head(j),
		.frontier_position = journal_frontier(j),
		.synced_position = journal_synced(j),
		.oldest_position = j->segment_oldest,
		.keep_position = atomic_load(&j->tail.header->keep_position),
		.records = j->sequence,
		.bytes = j->segment_total,
	};
	pthread_mutex_unlock(&j->lock);
}
