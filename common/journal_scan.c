/* SPDX-License-Identifier: Apache-2.0 */
#include "common/journal_scan.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include "common/io.h"
#include "common/journal_record.h"

/* Bytes [start, end) of the stream in memory; start may lie inside a segment. */
struct image {
	uint8_t *bytes;
	uint64_t start, end;
};

static int load_image(const struct segments *s, size_t index, uint64_t from, uint64_t end, struct image *ret,
	struct segment_commit *ret_commit, struct cdm_error *err)
{
	const struct segment *g = &s->list[index];
	_cleanup_close_ int fd = segment_open(s, index, O_RDONLY);
	int r = fd < 0 ? fd : 0;
	if (r == 0 && ret_commit)
		r = segment_commit_read(fd, g, ret_commit);
	size_t len = end - from;
	uint8_t *bytes = r == 0 ? malloc(len ? len : 1) : NULL;
	if (r == 0 && !bytes)
		r = -ENOMEM;
	if (r == 0)
		r = cdm_pread_all(fd, bytes, len, (off_t)(SEGMENT_HEADER_SIZE + (from - g->start)));
	if (r < 0) {
		free(bytes);
		return cdm_fail(err, r == -ENODATA ? EBADMSG : -r, "read journal segment %08llu",
			(unsigned long long)g->number);
	}
	*ret = (struct image){.bytes = bytes, .start = from, .end = end};
	return 0;
}

/* The settled record at this position; NULL if there is none. Only settled ones are ever written. */
static const uint8_t *image_record(const struct image *im, uint64_t position, size_t *ret_length, bool *ret_pad)
{
	const uint8_t *record = im->bytes + (position - im->start);
	*ret_length = record_check(record, im->end - position, position, ret_pad);
	if (*ret_length == 0 || (!*ret_pad && record_outcome(record) == CDM_PENDING))
		return NULL;
	return record;
}

static int damaged(const struct segments *s, size_t index, uint64_t position, struct cdm_error *err)
{
	const struct segment *g = &s->list[index];
	cdm_fail_plain(err, EBADMSG, "journal segment %08llu is damaged at offset %llu", (unsigned long long)g->number,
		(unsigned long long)(position - g->start + SEGMENT_HEADER_SIZE));
	cdm_hint(err, "check the disk; put the journal's directory aside to start with an empty one and resynchronise");
	return -EBADMSG;
}

static bool all_zero(const uint8_t *bytes, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (bytes[i])
			return false;
	return true;
}

int scan_end(const struct segments *s, struct scan_end *ret, struct cdm_error *err)
{
	size_t index = s->count - 1, length;
	struct image im;
	bool pad;
	int r = load_image(s, index, s->list[index].start, segment_limit(&s->list[index]), &im, &ret->commit, err);
	if (r < 0)
		return r;
	uint64_t position = im.start;
	while (image_record(&im, position, &length, &pad))
		position += length;
	ret->position = position;
	ret->torn = !all_zero(im.bytes + (position - im.start), im.end - position);
	if (position < ret->commit.synced)
		r = damaged(s, index, position, err);
	free(im.bytes);
	return r;
}

/* Where the records of a segment stop, if the whole stream stops at `end`. */
static uint64_t stop_of(const struct segments *s, size_t index, uint64_t end)
{
	uint64_t stop = index + 1 < s->count ? s->list[index + 1].previous_end : segment_limit(&s->list[index]);
	return stop < end ? stop : end;
}

static int scan_segment(const struct segments *s, size_t index, uint64_t from, uint64_t stop, scan_fn *fn, void *arg,
	struct cdm_error *err)
{
	struct image im;
	size_t length;
	bool pad;
	int r = load_image(s, index, from, stop, &im, NULL, err);
	if (r < 0)
		return r;
	for (uint64_t position = from; r == 0 && position < stop; position += length) {
		const uint8_t *record = image_record(&im, position, &length, &pad);
		if (!record)
			r = damaged(s, index, position, err);
		else if (!pad)
			r = fn(arg, record, length);
	}
	free(im.bytes);
	return r;
}

int scan_records(const struct segments *s, uint64_t from, uint64_t end, scan_fn *fn, void *arg, struct cdm_error *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < s->count && s->list[i].start < end; i++) {
		uint64_t stop = stop_of(s, i, end);
		if (stop > from)
			r = scan_segment(s, i, from > s->list[i].start ? from : s->list[i].start, stop, fn, arg, err);
	}
	return r;
}

static int note_mark(void *arg, const uint8_t *record, size_t length)
{
	struct scan_mark *mark = arg;
	struct cdm_change_head head;
	mark->clean_end = false;
	if (!record_is_mark(record) || record_head(record, &head) < 0)
		return 0;
	mark->position = record_u64(record, RECORD_POSITION);
	mark->since = record_u64(record, RECORD_SINCE);
	mark->clean_end = head.op == CDM_OP_CLEAN;
	return 0;
}

int scan_last_mark(const struct segments *s, uint64_t end, struct scan_mark *ret, struct cdm_error *err)
{
	*ret = (struct scan_mark){0};
	bool later_records = false;
	for (size_t i = s->count; i-- > 0 && ret->position == 0;) {
		uint64_t stop = stop_of(s, i, end);
		if (stop <= s->list[i].start)
			continue;
		int r = scan_segment(s, i, s->list[i].start, stop, note_mark, ret, err);
		if (r < 0)
			return r;
		if (later_records)
			ret->clean_end = false;
		later_records = true;
	}
	return 0;
}
