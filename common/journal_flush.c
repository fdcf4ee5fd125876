/* SPDX-License-Identifier: Apache-2.0 */
/* The one thread that takes settled records from the ring to the segments and syncs them in groups. It sleeps without a
 * time-out when everything settled is synced, and for at most the sync interval when something is not. */
#include "common/journal_writer.h"

#include <errno.h>
#include <signal.h>
#include <unistd.h>
#include "common/faultpoint.h"
#include "common/io.h"

#define GROUP_BYTES (4ull << 20) /* synced at a time, so that the ring gets space again in steps */

/* --- writing --- */

static const struct segment *current(const struct cdm_journal *j)
{
	return &j->segments.list[j->segments.count - 1];
}

/* A noted end helps a later start to tell damage from a torn end; without it the start is only less certain. */
static int note_synced(struct cdm_journal *j, uint64_t synced)
{
	j->commit.generation++;
	j->commit.synced = synced;
	return segment_commit_write(j->segment_fd, current(j), &j->commit);
}

static int sync_current(struct cdm_journal *j)
{
	int r = j->segment_fd >= 0 ? cdm_fdatasync(j->segment_fd) : 0;
	return r < 0 ? -EIO : 0; /* whatever it says: nothing is known about these bytes any more */
}

void journal_note_segments_locked(struct cdm_journal *j)
{
	j->segment_total = 0;
	for (size_t i = 0; i < j->segments.count; i++)
		j->segment_total += j->segments.list[i].size;
	j->segment_oldest = j->segments.count ? j->segments.list[0].start : 0;
}

/* By who follows it, and by a start after a power cut. */
static uint64_t needed_from(const struct cdm_journal *j)
{
	const struct tail_header *h = j->tail.header;
	uint64_t keep = atomic_load(&h->keep_position), mark = atomic_load(&h->mark_since);
	return mark < keep ? mark : keep;
}

/* Oldest first: what nobody needs above half of the limit, anything above the limit. */
static void trim(struct cdm_journal *j)
{
	uint64_t keep = needed_from(j), total = 0;
	for (size_t i = 0; i < j->segments.count; i++)
		total += j->segments.list[i].size;
	while (j->segments.count > 1) {
		bool needed = j->segments.list[1].previous_end > keep;
		if (total <= (needed ? j->max_bytes : j->max_bytes / 2))
			break;
		total -= j->segments.list[0].size;
		if (segments_drop_oldest(&j->segments) < 0)
			break;
	}
}

static bool disk_is_full(int r)
{
	return r == -ENOSPC || r == -EDQUOT;
}

/* The oldest segment, if nobody needs it. */
static bool drop_unneeded(struct cdm_journal *j)
{
	return j->segments.count > 1 && j->segments.list[1].previous_end <= needed_from(j) && segments_drop_oldest(&j->segments) == 0;
}

static int next_segment(struct cdm_journal *j, uint64_t start)
{
	int fd, r = sync_current(j);
	if (r < 0)
		return r;
	cdm_faultpoint("journal.segment_full_next_not_made");
	do
		fd = segments_create(&j->segments, start, start, j->segment_bytes);
	while (disk_is_full(fd) && drop_unneeded(j));
	if (fd < 0)
		return fd;
	if (j->segment_fd >= 0)
		close(j->segment_fd);
	j->segment_fd = fd;
	j->commit = (struct segment_commit){.generation = 1, .synced = start};
	trim(j);
	pthread_mutex_lock(&j->lock);
	journal_note_segments_locked(j);
	pthread_mutex_unlock(&j->lock);
	return 0;
}

/* How far from `at` whole records go that lie in one piece in the ring and fit the current segment. */
static uint64_t piece_end(const struct cdm_journal *j, uint64_t at, uint64_t upto)
{
	uint64_t limit = j->segment_fd >= 0 ? segment_limit(current(j)) : 0, lap = at + tail_contiguous(&j->tail, at);
	bool pad;
	if (upto > lap)
		upto = lap;
	uint64_t end = at;
	while (end < upto) {
		size_t length = record_length(tail_at(&j->tail, end), &pad);
		if (end + length > limit)
			break;
		end += length;
	}
	return end;
}

static int write_group(struct cdm_journal *j, uint64_t upto)
{
	while (j->written < upto) {
		uint64_t end = piece_end(j, j->written, upto);
		if (end == j->written) {
			int r = next_segment(j, j->written);
			if (r < 0)
				return r;
			continue;
		}
		off_t offset = (off_t)(j->written - current(j)->start + SEGMENT_HEADER_SIZE);
		int r = cdm_pwrite_all(j->segment_fd, tail_at(&j->tail, j->written), end - j->written, offset);
		if (r < 0)
			return r;
		j->written = end;
	}
	cdm_faultpoint("journal.written_not_synced");
	return sync_current(j);
}

/* --- the thread --- */

void journal_note_resume_locked(struct cdm_journal *j)
{
	const struct tail_header *h = j->tail.header;
	struct resume known = {.instance = h->instance, .base = h->base, .position = journal_synced(j), .origin = j->origin,
		.last_number = j->last_number, .sequence = j->sequence, .clock = cdm_clock_now(), .mark_clock = j->mark_clock,
		.applied = j->applied, .marked = j->marked};
	resume_prepare(&j->resume, &known);
	pthread_mutex_unlock(&j->lock);
	cdm_faultpoint("journal.synced_not_noted");
	resume_write(&j->resume);
	cdm_faultpoint("journal.noted_not_next");
	pthread_mutex_lock(&j->lock);
}

static void flush_locked(struct cdm_journal *j)
{
	uint64_t upto = journal_frontier(j), synced = journal_synced(j);
	bool pad;
	if (upto - synced > GROUP_BYTES) {
		upto = synced;
		while (upto - synced < GROUP_BYTES)
			upto += record_length(tail_at(&j->tail, upto), &pad);
	}
	j->kicked = false;
	pthread_mutex_unlock(&j->lock);
	int r = write_group(j, upto);
	if (r == 0)
		note_synced(j, upto);
	pthread_mutex_lock(&j->lock);
	j->disk_full = disk_is_full(r);
	if (r == 0)
		atomic_store_explicit(&j->tail.header->synced, upto, memory_order_release);
	else if (!j->disk_full)
		j->failed = -EIO;
	pthread_cond_broadcast(&j->done);
	if (r == 0)
		journal_note_resume_locked(j);
}

static void wait_work_locked(struct cdm_journal *j, enum flusher_wait how, int64_t deadline_ns)
{
	j->flusher_wait = how;
	if (how == FLUSHER_IDLE) {
		pthread_cond_wait(&j->work, &j->lock);
	} else {
		struct timespec ts = {.tv_sec = deadline_ns / 1000000000, .tv_nsec = deadline_ns % 1000000000};
		pthread_cond_timedwait(&j->work, &j->lock, &ts);
	}
	j->flusher_wait = FLUSHER_RUNS;
}

/* Whether what is unsynced should go now, before the interval is over. */
static bool is_urgent(const struct cdm_journal *j)
{
	return j->waiters || journal_frontier(j) - journal_synced(j) > j->tail.capacity / 4;
}

static void *flusher_main(void *arg)
{
	struct cdm_journal *j = arg;
	int64_t interval_ns = (int64_t)j->sync_interval_ms * 1000000, due_ns = journal_monotonic_ns() + interval_ns;
	pthread_mutex_lock(&j->lock);
	while (!j->stop) {
		int64_t now = journal_monotonic_ns();
		if (journal_frontier(j) == journal_synced(j) || j->failed ||
			(j->disk_full && !j->kicked && !j->waiters)) {
			wait_work_locked(j, FLUSHER_IDLE, 0);
			if (!j->disk_full)
				due_ns = journal_monotonic_ns() + interval_ns;
		} else if (now < due_ns && (j->disk_full || !is_urgent(j))) {
			wait_work_locked(j, FLUSHER_GATHERS, due_ns);
		} else {
			flush_locked(j);
			due_ns = journal_monotonic_ns() + interval_ns;
		}
	}
	if (journal_frontier(j) != journal_synced(j) && !j->failed)
		flush_locked(j);
	pthread_mutex_unlock(&j->lock);
	return NULL;
}

void journal_kick_flusher_locked(struct cdm_journal *j)
{
	j->kicked = true;
	if (j->flusher_wait == FLUSHER_IDLE ||
		(j->flusher_wait == FLUSHER_GATHERS && !j->disk_full && is_urgent(j)))
		pthread_cond_signal(&j->work);
}

int journal_start_flusher(struct cdm_journal *j, struct cdm_error *err)
{
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the program's threads */
	int r = pthread_create(&j->flusher, NULL, flusher_main, j);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r)
		return cdm_fail(err, r, "start the journal's thread");
	pthread_setname_np(j->flusher, "cdm-journal");
	j->flusher_started = true;
	return 0;
}

void journal_stop_flusher(struct cdm_journal *j)
{
	if (!j->flusher_started)
		return;
	pthread_mutex_lock(&j->lock);
	j->stop = true;
	pthread_cond_signal(&j->work);
	pthread_mutex_unlock(&j->lock);
	pthread_join(j->flusher, NULL);
	j->flusher_started = false;
}
