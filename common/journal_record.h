/* SPDX-License-Identifier: Apache-2.0 */
/* journal_record.h — one record of the journal stream: its bytes, in the ring and in segments alike
 * (journal_format.md, section 2). Used by journal*.c only. Threads: none of its own. */
#ifndef CDM_JOURNAL_RECORD_H
#define CDM_JOURNAL_RECORD_H

#include "common/change.h"

#define RECORD_ALIGN 8u
#define RECORD_MAX (512u << 10) /* no record is longer; a pad is shorter too */
#define RECORD_PAD 0x80000000u  /* in the length: not a change, skip so many bytes */

enum record_offset {
	RECORD_LENGTH = 0,     /* u32, multiple of 8 */
	RECORD_CRC = 4,        /* u32 over [8, RECORD_RESULT) and [RECORD_WIRE, length) */
	RECORD_POSITION = 8,   /* u64 */
	RECORD_SEQUENCE = 16,  /* u64 */
	RECORD_REQUEST = 24,   /* u64 */
	RECORD_SINCE = 32,     /* u64; MARK, CLEAN: first position that `vector` does not cover */
	RECORD_FLAGS = 40,     /* u32 */
	RECORD_WIRE_BYTES = 44,/* u32 */
	RECORD_HANDLE = 48,    /* u8 length, u8 type, 32 bytes, 6 zero */
	RECORD_RESULT = 88,    /* filled when it is settled: */
	RECORD_OUTCOME = 88,   /* u32, written last */
	RECORD_RESULT_CRC = 92,/* u32 over [96, RECORD_WIRE) */
	RECORD_RESULT_FIELDS = 96, /* i32 error, u32 zero, handle as above, version, parent mtimes, attr */
	RECORD_WIRE = 240,     /* the encoded change, zeros up to a multiple of 8 */
};

struct record_journal_part { /* what the journal knows of a record beside the change */
	uint64_t position, sequence, since;
};

/* Room it takes at most; 0: the change is not sound (a length beyond its limit, a bad path). */
size_t record_size_max(const struct cdm_change *c);
/* Write it as pending; returns its length. */
size_t record_encode(const struct cdm_change *c, const struct record_journal_part *part, uint8_t *out);
void record_encode_pad(uint64_t position, size_t length, uint8_t *out);
/* Fill the result area, all but the outcome; then record_set_outcome publishes it. */
void record_encode_result(const struct cdm_change *c, int error, uint8_t *record);
void record_set_outcome(uint8_t *record, enum cdm_outcome outcome);
enum cdm_outcome record_outcome(const uint8_t *record);

/* The length that stands there with the pad bit taken off, or 0 if no record can have it. Needs 8 readable bytes. */
size_t record_length(const uint8_t *bytes, bool *ret_pad);
/* Whether a whole, undamaged record (or pad) of this position is at bytes[0..available). Its length, or 0. */
size_t record_check(const uint8_t *bytes, size_t available, uint64_t position, bool *ret_pad);

/* The following want a checked record that is no pad. */
uint64_t record_u64(const uint8_t *record, enum record_offset offset);
uint32_t record_flags(const uint8_t *record);
int record_head(const uint8_t *record, struct cdm_change_head *ret); /* 0 or -EBADMSG */
bool record_is_mark(const uint8_t *record); /* a MARK or CLEAN that was done */
/* Whether the record concerns this file: by the handle of the subject or of the result. */
bool record_touches(const uint8_t *record, const struct cdm_handle *h);
/* All of it; the change points into the record. 0 or -EBADMSG. */
int record_decode(const uint8_t *record, size_t length, struct cdm_change *ret);

#endif
