/* SPDX-License-Identifier: Apache-2.0 */
#include "common/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "common/io.h"
#include "common/journal_record.h"
#include "common/journal_scan.h"
#include "common/journal_tail.h"

#define WINDOW_BYTES RECORD_MAX

struct cdm_journal_reader {
	int dir_fd;
	char *run_dir;
	struct tail tail; /* header NULL: there was none at open */
	unsigned slot;
	int wake_fd;
	bool tail_gone; /* the mapped file is not the one at the path any more */
	uint64_t position;
	struct cdm_change held; /* owns what the change given out last points to */

	uint8_t *copy; /* of a record of the ring */
	size_t copy_room;

	/* reading what has left the ring: a piece of one segment */
	struct segments segments;
	int segment_fd;
	uint64_t segment_number;
	uint8_t *window; /* WINDOW_BYTES, or NULL */
	uint64_t window_start, window_end;
};

/* --- from the ring --- */

static bool is_in_ring(const struct cdm_journal_reader *r, uint64_t position)
{
	return r->tail.header && position >= tail_oldest(&r->tail);
}

static bool grow_copy(struct cdm_journal_reader *r, size_t length)
{
	if (length <= r->copy_room)
		return true;
	uint8_t *copy = realloc(r->copy, length);
	if (!copy)
		return false;
	r->copy = copy;
	r->copy_room = length;
	return true;
}

/* A record that is being settled meanwhile is copied again, so that outcome and result fit each other. */
static void copy_settling(uint8_t *copy, const uint8_t *record, size_t length)
{
	enum cdm_outcome outcome;
	int attempts = 3;
	do {
		outcome = record_outcome(record);
		memcpy(copy, record, length);
	} while (record_outcome(record) != outcome && --attempts);
}

/* Copy first, then see whether the writer has come round meanwhile. NULL: not there (any more). */
static const uint8_t *ring_record(struct cdm_journal_reader *r, uint64_t position, size_t *ret_length, bool *ret_pad)
{
	if (!is_in_ring(r, position) || !grow_copy(r, 1024))
		return NULL;
	const uint8_t *record = tail_at(&r->tail, position);
	memcpy(r->copy, record, 8); /* a record or pad has at least these, never cut by the ring's end */
	size_t length = record_length(r->copy, ret_pad);
	if (length == 0 || length > tail_contiguous(&r->tail, position))
		return NULL;
	if (!*ret_pad) {
		if (!grow_copy(r, length))
			return NULL;
		copy_settling(r->copy, record, length);
	}
	atomic_thread_fence(memory_order_acquire);
	if (!is_in_ring(r, position))
		return NULL;
	*ret_length = record_check(r->copy, length, position, ret_pad);
	return *ret_length ? r->copy : NULL;
}

/* --- from the segments --- */

static void drop_window(struct cdm_journal_reader *r)
{
	free(r->window);
	r->window = NULL;
	r->window_start = r->window_end = 0;
	cdm_cleanup_close(&r->segment_fd);
	r->segment_fd = -1;
	r->segment_number = 0;
}

static int reload_segments(struct cdm_journal_reader *r)
{
	segments_fini(&r->segments);
	return segments_load(r->dir_fd, &r->segments, NULL);
}

static int open_segment(struct cdm_journal_reader *r, size_t index)
{
	if (r->segment_fd >= 0 && r->segment_number == r->segments.list[index].number)
		return 0;
	drop_window(r);
	r->segment_fd = segment_open(&r->segments, index, O_RDONLY);
	if (r->segment_fd < 0)
		return r->segment_fd == -ENOENT ? -ESTALE : r->segment_fd;
	r->segment_number = r->segments.list[index].number;
	return 0;
}

static int fill_window(struct cdm_journal_reader *r, const struct segment *s, uint64_t position)
{
	if (!r->window)
		r->window = malloc(WINDOW_BYTES);
	if (!r->window)
		return -ENOMEM;
	ssize_t n;
	do
		n = pread(r->segment_fd, r->window, WINDOW_BYTES, (off_t)(position - s->start + SEGMENT_HEADER_SIZE));
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	r->window_start = position;
	r->window_end = position + (uint64_t)n;
	return 0;
}

static const uint8_t *window_record(const struct cdm_journal_reader *r, uint64_t position, size_t *ret_length,
	bool *ret_pad)
{
	if (!r->window || position < r->window_start || position >= r->window_end)
		return NULL;
	const uint8_t *record = r->window + (position - r->window_start);
	*ret_length = record_check(record, r->window_end - position, position, ret_pad);
	if (*ret_length == 0 || (!*ret_pad && record_outcome(record) == CDM_PENDING))
		return NULL;
	return record;
}

/* 1 and the record; 0: none begins there. */
static int segment_record(struct cdm_journal_reader *r, size_t index, uint64_t position, const uint8_t **ret,
	size_t *ret_length, bool *ret_pad)
{
	int n = open_segment(r, index);
	if (n < 0)
		return n;
	*ret = window_record(r, position, ret_length, ret_pad);
	if (*ret)
		return 1;
	n = fill_window(r, &r->segments.list[index], position);
	if (n < 0)
		return n;
	*ret = window_record(r, position, ret_length, ret_pad);
	return *ret != NULL;
}

/* Behind the end of a segment the stream may go on further up (a tail was lost): the start of the segment whose
 * predecessor ended here, else the position itself. A segment may be empty: list order settles it. The segment that
 * the tail began with is in the list since open. */
static uint64_t skip_gap(const struct cdm_journal_reader *r, uint64_t position)
{
	if (r->tail.header && position >= r->tail.header->base)
		return position;
	for (size_t i = 0; i < r->segments.count; i++)
		if (r->segments.list[i].previous_end == position)
			position = r->segments.list[i].start;
	return position;
}

/* 1 and the record at the position; 0: nothing begins there; -errno. */
static int read_segments(struct cdm_journal_reader *r, uint64_t position, const uint8_t **ret, size_t *ret_length,
	bool *ret_pad)
{
	for (int attempt = 0; attempt < 2; attempt++) {
		int n = attempt || r->segments.count == 0 ? reload_segments(r) : 0;
		if (n < 0)
			return n;
		size_t index = segments_find(&r->segments, position);
		n = index == SEGMENTS_NONE ? 0 : segment_record(r, index, position, ret, ret_length, ret_pad);
		if (n > 0 || (n < 0 && n != -ESTALE))
			return n;
	}
	return 0;
}

/* --- one record from wherever it is --- */

static int read_record(struct cdm_journal_reader *r, uint64_t position, const uint8_t **ret, size_t *ret_length,
	bool *ret_pad)
{
	*ret = ring_record(r, position, ret_length, ret_pad);
	if (*ret) {
		if (r->window)
			drop_window(r);
		return 1;
	}
	return read_segments(r, position, ret, ret_length, ret_pad);
}

/* Nothing can be read at a position where a settled record should be. */
static int nothing_there(struct cdm_journal_reader *r)
{
	if (r->segments.count == 0 || r->position < r->segments.list[0].start ||
		segments_find(&r->segments, r->position) == SEGMENTS_NONE)
		return -ESTALE;
	return -EBADMSG;
}

static bool tail_has_come(const struct cdm_journal_reader *r)
{
	struct tail t;
	bool come = tail_map(r->run_dir, &t) == 0;
	if (come)
		tail_unmap(&t);
	return come;
}

/* The end of the segments without a tail: is it the end, or damage? */
static int at_end_of_segments(struct cdm_journal_reader *r)
{
	struct segment_commit commit;
	if (tail_has_come(r))
		return -ENODATA;
	if (r->segments.count == 0)
		return r->position == 0 ? 0 : -ESTALE;
	size_t index = segments_find(&r->segments, r->position);
	if (index != r->segments.count - 1)
		return nothing_there(r);
	int n = open_segment(r, index);
	if (n == 0)
		n = segment_commit_read(r->segment_fd, &r->segments.list[index], &commit);
	if (n < 0)
		return n;
	return r->position < commit.synced ? -EBADMSG : 0;
}

/* 1 and the next settled record that is no pad; 0; -errno. */
static int next_record(struct cdm_journal_reader *r, const uint8_t **ret, size_t *ret_length)
{
	bool pad;
	for (;;) {
		r->position = skip_gap(r, r->position);
		if (r->tail.header) {
			bool closed = atomic_load(&r->tail.header->closed); /* first: it is set after the last record */
			if (r->position >= atomic_load(&r->tail.header->frontier))
				return closed || r->tail_gone ? -ENODATA : 0;
		}
		int n = read_record(r, r->position, ret, ret_length, &pad);
		if (n < 0)
			return n;
		if (n == 0)
			return r->tail.header ? nothing_there(r) : at_end_of_segments(r);
		r->position += *ret_length;
		if (!pad)
			return 1;
	}
}

/* What the change owns becomes the reader's until the next call. */
static void hold(struct cdm_journal_reader *r, struct cdm_change *c)
{
	r->held = *c;
	c->ranges_mem = NULL;
	c->context_mem = c->vector_mem = (struct cdm_vector){0};
	if (c->context)
		c->context = &r->held.context_mem;
	if (c->vector)
		c->vector = &r->held.vector_mem;
}

int cdm_journal_reader_next(struct cdm_journal_reader *r, struct cdm_change *ret)
{
	const uint8_t *record;
	size_t length;
	cdm_change_fini(&r->held);
	for (;;) {
		uint64_t before = r->position;
		int n = next_record(r, &record, &length);
		if (n <= 0)
			return n;
		if (record_outcome(record) != CDM_DONE)
			continue;
		if (record_decode(record, length, ret) < 0) {
			r->position = before;
			return -EBADMSG;
		}
		hold(r, ret);
		return 1;
	}
}

/* --- where to read --- */

static int seek_segments_end(struct cdm_journal_reader *r, bool to_mark)
{
	struct scan_end end;
	struct scan_mark mark;
	int n = reload_segments(r);
	if (n < 0)
		return n;
	r->position = 0;
	if (r->segments.count == 0)
		return 0;
	n = scan_end(&r->segments, &end, NULL);
	if (n < 0)
		return n;
	r->position = end.position;
	if (!to_mark)
		return 0;
	n = scan_last_mark(&r->segments, end.position, &mark, NULL);
	if (n < 0)
		return n;
	return cdm_journal_reader_seek(r, mark.since);
}

static int seek_oldest(struct cdm_journal_reader *r)
{
	int n = reload_segments(r);
	if (n < 0)
		return n;
	r->position = r->segments.count ? r->segments.list[0].start : r->tail.header ? r->tail.header->base : 0;
	return 0;
}

int cdm_journal_reader_seek(struct cdm_journal_reader *r, uint64_t position)
{
	struct tail_header *h = r->tail.header;
	const uint8_t *record;
	size_t length;
	bool pad;
	cdm_change_fini(&r->held);
	if (position == CDM_JOURNAL_FRONTIER || position == CDM_JOURNAL_LAST_MARK) {
		if (!h)
			return seek_segments_end(r, position == CDM_JOURNAL_LAST_MARK);
		position = atomic_load(position == CDM_JOURNAL_FRONTIER ? &h->frontier : &h->mark_since);
	}
	if (position == 0)
		return seek_oldest(r);
	if (position % RECORD_ALIGN)
		return -ESTALE;
	uint64_t at = skip_gap(r, position);
	int n = h && at == atomic_load(&h->frontier) ? 1 : read_record(r, at, &record, &length, &pad);
	if (n < 0)
		return n;
	if (n == 0 && h)
		return -ESTALE;
	uint64_t before = r->position;
	r->position = at;
	if (n == 0 && at_end_of_segments(r) < 0) {
		r->position = before;
		return -ESTALE;
	}
	return 0;
}

uint64_t cdm_journal_reader_position(const struct cdm_journal_reader *r)
{
	return r->position;
}

uint64_t cdm_journal_reader_head(const struct cdm_journal_reader *r)
{
	return r->tail.header ? atomic_load(&r->tail.header->head) : r->position;
}

int cdm_journal_reader_pending(struct cdm_journal_reader *r, const struct cdm_handle *h)
{
	if (!r->tail.header)
		return -ESTALE;
	uint64_t position = atomic_load(&r->tail.header->frontier), head = atomic_load(&r->tail.header->head);
	while (position < head) {
		size_t length;
		bool pad;
		const uint8_t *record = ring_record(r, position, &length, &pad);
		if (!record)
			return -ESTALE;
		if (!pad && record_outcome(record) == CDM_PENDING && record_touches(record, h))
			return 1;
		position += length;
	}
	return 0;
}

/* --- waiting --- */

int cdm_journal_reader_wake_fd(struct cdm_journal_reader *r)
{
	return r->wake_fd;
}

int cdm_journal_reader_arm(struct cdm_journal_reader *r)
{
	struct tail_header *h = r->tail.header;
	if (!h)
		return tail_has_come(r);
	atomic_fetch_or(&h->armed, 1u << r->slot);
	r->tail_gone = !tail_is_current(&r->tail);
	return r->tail_gone || atomic_load(&h->frontier) > r->position;
}

void cdm_journal_reader_keep(struct cdm_journal_reader *r, uint64_t position)
{
	if (r->tail.header)
		atomic_store(&r->tail.header->keep_position, position);
}

/* --- open, close --- */

int cdm_journal_reader_open(int journal_dir_fd, const char *run_dir, struct cdm_journal_reader **ret,
	struct cdm_error *err)
{
	struct cdm_journal_reader *r = calloc(1, sizeof *r);
	*ret = NULL;
	if (!r)
		return cdm_fail(err, ENOMEM, "read the journal");
	r->tail = TAIL_NONE;
	r->segment_fd = r->wake_fd = -1;
	r->dir_fd = openat(journal_dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int n = r->dir_fd < 0 ? cdm_fail(err, errno, "open the journal's directory") : 0;
	r->run_dir = strdup(run_dir);
	if (n == 0 && !r->run_dir)
		n = cdm_fail(err, ENOMEM, "read the journal");
	if (n == 0 && tail_map(run_dir, &r->tail) == 0)
		r->slot = tail_claim_slot(&r->tail);
	if (n == 0) {
		r->wake_fd = tail_open_wake(run_dir, r->slot);
		if (r->wake_fd < 0)
			n = cdm_fail(err, -r->wake_fd, "open %s/wake", run_dir);
	}
	if (n == 0) {
		n = seek_oldest(r);
		if (n < 0)
			cdm_fail(err, -n, "read the journal's segments");
	}
	if (n < 0) {
		cdm_journal_reader_close(&r);
		return n;
	}
	*ret = r;
	return 0;
}

void cdm_journal_reader_close(struct cdm_journal_reader **rp)
{
	struct cdm_journal_reader *r = *rp;
	*rp = NULL;
	if (!r)
		return;
	cdm_change_fini(&r->held);
	if (r->tail.header)
		tail_release_slot(&r->tail, r->slot);
	drop_window(r);
	tail_unmap(&r->tail);
	segments_fini(&r->segments);
	cdm_cleanup_close(&r->wake_fd);
	cdm_cleanup_close(&r->dir_fd);
	free(r->copy);
	free(r->run_dir);
	free(r);
}
