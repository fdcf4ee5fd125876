/* SPDX-License-Identifier: Apache-2.0 */
/* journal_segments.h — the files of a journal: NNNNNNNN.log, a header page, then the bytes of the stream from `start`
 * on (journal_format.md, section 4). Used by journal*.c only; the owner locks. */
#ifndef CDM_JOURNAL_SEGMENTS_H
#define CDM_JOURNAL_SEGMENTS_H

#include "common/error.h"
#include "common/vector.h"

#define SEGMENT_HEADER_SIZE 4096u
#define SEGMENT_BYTES_MIN (1ull << 20)
#define SEGMENT_BYTES_MAX (256ull << 20)
#define JOURNAL_START 4096u /* the first position of a new journal: 0 means "the oldest" */

struct segment {
	uint64_t number;
	uint64_t start, previous_end; /* differ where a lost tail left a gap */
	uint64_t size;                /* of the file */
};
static inline uint64_t segment_limit(const struct segment *s) /* position that no record of it passes */
{
	return s->start + s->size - SEGMENT_HEADER_SIZE;
}

struct segments { /* sorted, numbers without a gap */
	int dir_fd; /* borrowed */
	uint64_t instance;
	uint32_t node_number;
	struct segment *list;
	size_t count, room;
	uint64_t unborn; /* number of a last file whose header was never completed, 0 = none */
};

/* Read all headers. No file at all gives count 0. -EBADMSG: a header is damaged, a number is missing, files of two
 * journals are mixed. A file that vanishes meanwhile (trimmed by the writer) is as if it had not been there. */
int segments_load(int dir_fd, struct segments *ret, struct cdm_error *err);
void segments_fini(struct segments *s);
#define SEGMENTS_NONE SIZE_MAX
/* The segment that would hold the byte at this position; SEGMENTS_NONE if it is before all or in a gap. */
size_t segments_find(const struct segments *s, uint64_t position);
/* Make the next file, preallocated and durable, and add it. Its descriptor or -errno; nothing is left behind on
 * failure. */
int segments_create(struct segments *s, uint64_t start, uint64_t previous_end, uint64_t segment_bytes);
/* Remove the oldest file, durable or not. */
int segments_drop_oldest(struct segments *s);
/* Remove the newest file, durable. */
int segments_drop_newest(struct segments *s);
int segments_remove_unborn(struct segments *s);
int segment_open(const struct segments *s, size_t index, int flags); /* fd or -errno */

/* What the writer noted last in a segment's header: everything before `synced` had been synced. */
struct segment_commit {
	uint64_t generation, synced;
	bool clean; /* the journal was closed at `synced` */
};
int segment_commit_write(int fd, const struct segment *s, const struct segment_commit *c); /* not synced */
/* A segment without a sound note gives {0, start, false}. */
int segment_commit_read(int fd, const struct segment *s, struct segment_commit *ret);

#endif
