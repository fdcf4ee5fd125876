/* SPDX-License-Identifier: Apache-2.0 */
#include "common/journal_record.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include "common/cursor.h"

#define HANDLE_SIZE 40
#define RESULT_SIZE (RECORD_WIRE - RECORD_RESULT_FIELDS)
_Static_assert(RESULT_SIZE == 8 + HANDLE_SIZE + 24 + 16 + 24 + 32, "the result area holds exactly its fields");

static void put_handle(struct cdm_writer *w, const struct cdm_handle *h)
{
	uint8_t *p = cdm_put_room(w, HANDLE_SIZE);
	if (!p)
		return;
	memset(p, 0, HANDLE_SIZE);
	p[0] = h->len <= CDM_HANDLE_MAX ? h->len : 0;
	p[1] = h->type;
	memcpy(p + 2, h->bytes, p[0]);
}

static void get_handle(struct cdm_reader *r, struct cdm_handle *h)
{
	const uint8_t *p = cdm_get_bytes(r, HANDLE_SIZE);
	*h = (struct cdm_handle){0};
	if (!p || p[0] > CDM_HANDLE_MAX) {
		r->bad = true;
		return;
	}
	h->len = p[0];
	h->type = p[1];
	memcpy(h->bytes, p + 2, CDM_HANDLE_MAX);
}

/* The checksum covers what is fixed from append on: everything around the result area. */
static uint32_t fixed_crc(const uint8_t *record, size_t length)
{
	uint32_t crc = cdm_crc32c(0, record + RECORD_POSITION, RECORD_RESULT - RECORD_POSITION);
	return cdm_crc32c(crc, record + RECORD_WIRE, length - RECORD_WIRE);
}

static uint32_t pad_crc(uint64_t position, uint32_t length)
{
	uint8_t bytes[12];
	struct cdm_writer w = cdm_writer_of(bytes, sizeof bytes);
	cdm_put_u64(&w, position);
	cdm_put_u32(&w, length);
	return cdm_crc32c(0, bytes, sizeof bytes);
}

size_t record_size_max(const struct cdm_change *c)
{
	size_t wire = cdm_change_encoded_max(c);
	size_t size = (RECORD_WIRE + wire + RECORD_ALIGN - 1) & ~(size_t)(RECORD_ALIGN - 1);
	return wire && size <= RECORD_MAX ? size : 0;
}

size_t record_encode(const struct cdm_change *c, const struct record_journal_part *part, uint8_t *out)
{
	size_t wire = cdm_change_encode(c, out + RECORD_WIRE);
	assert(wire > 0); /* record_size_max looked at it */
	size_t used = RECORD_WIRE + wire, length = (used + RECORD_ALIGN - 1) & ~(size_t)(RECORD_ALIGN - 1);
	memset(out + used, 0, length - used);
	struct cdm_writer w = cdm_writer_of(out + RECORD_POSITION, RECORD_WIRE - RECORD_POSITION);
	cdm_put_u64(&w, part->position);
	cdm_put_u64(&w, part->sequence);
	cdm_put_u64(&w, c->request);
	cdm_put_u64(&w, part->since);
	cdm_put_u32(&w, c->flags);
	cdm_put_u32(&w, (uint32_t)wire);
	put_handle(&w, &c->handle);
	uint8_t *result = cdm_put_room(&w, RECORD_WIRE - RECORD_RESULT);
	assert(result && w.at == w.end);
	memset(result, 0, RECORD_WIRE - RECORD_RESULT);
	w = cdm_writer_of(out, RECORD_POSITION);
	cdm_put_u32(&w, (uint32_t)length);
	cdm_put_u32(&w, fixed_crc(out, length));
	return length;
}

void record_encode_pad(uint64_t position, size_t length, uint8_t *out)
{
	struct cdm_writer w = cdm_writer_of(out, 8);
	cdm_put_u32(&w, (uint32_t)length | RECORD_PAD);
	cdm_put_u32(&w, pad_crc(position, (uint32_t)length));
}

void record_encode_result(const struct cdm_change *c, int error, uint8_t *record)
{
	struct cdm_writer w = cdm_writer_of(record + RECORD_RESULT_FIELDS, RESULT_SIZE);
	cdm_put_u32(&w, (uint32_t)error);
	cdm_put_u32(&w, 0);
	put_handle(&w, &c->handle);
	cdm_put_u64(&w, c->version.dot.origin);
	cdm_put_u64(&w, c->version.dot.number);
	cdm_put_u64(&w, c->version.clock);
	cdm_put_i64(&w, c->parent_mtime_ns);
	cdm_put_i64(&w, c->parent2_mtime_ns);
	cdm_put_u32(&w, c->attr.mask);
	cdm_put_u32(&w, c->attr.mode);
	cdm_put_u32(&w, c->attr.uid);
	cdm_put_u32(&w, c->attr.gid);
	cdm_put_u32(&w, c->attr.nlink);
	cdm_put_u32(&w, 0);
	cdm_put_u64(&w, c->attr.size);
	cdm_put_u64(&w, c->attr.rdev);
	cdm_put_i64(&w, c->attr.mtime_ns);
	cdm_put_i64(&w, c->attr.atime_ns);
	assert(!w.bad && w.at <= w.end);
	uint8_t *crc = record + RECORD_RESULT_CRC;
	w = cdm_writer_of(crc, 4);
	cdm_put_u32(&w, cdm_crc32c(0, record + RECORD_RESULT_FIELDS, RESULT_SIZE));
}

static _Atomic uint32_t *outcome_word(const uint8_t *record)
{
	return (_Atomic uint32_t *)(uintptr_t)(record + RECORD_OUTCOME);
}

void record_set_outcome(uint8_t *record, enum cdm_outcome outcome)
{
	atomic_store_explicit(outcome_word(record), htole32((uint32_t)outcome), memory_order_release);
}

enum cdm_outcome record_outcome(const uint8_t *record)
{
	return (enum cdm_outcome)le32toh(atomic_load_explicit(outcome_word(record), memory_order_acquire));
}

static uint32_t load_u32(const uint8_t *record, enum record_offset offset)
{
	struct cdm_reader r = cdm_reader_of(record + offset, 4);
	return cdm_get_u32(&r);
}

uint64_t record_u64(const uint8_t *record, enum record_offset offset)
{
	struct cdm_reader r = cdm_reader_of(record + offset, 8);
	return cdm_get_u64(&r);
}

uint32_t record_flags(const uint8_t *record)
{
	return load_u32(record, RECORD_FLAGS);
}

size_t record_length(const uint8_t *bytes, bool *ret_pad)
{
	uint32_t length = load_u32(bytes, RECORD_LENGTH);
	*ret_pad = length & RECORD_PAD;
	length &= ~RECORD_PAD;
	if (length % RECORD_ALIGN || length > RECORD_MAX || length < (*ret_pad ? 8 : RECORD_WIRE))
		return 0;
	return length;
}

static bool result_is_sound(const uint8_t *record)
{
	enum cdm_outcome outcome = record_outcome(record);
	if (outcome == CDM_PENDING)
		return true;
	return (outcome == CDM_DONE || outcome == CDM_FAILED) &&
		load_u32(record, RECORD_RESULT_CRC) == cdm_crc32c(0, record + RECORD_RESULT_FIELDS, RESULT_SIZE);
}

size_t record_check(const uint8_t *bytes, size_t available, uint64_t position, bool *ret_pad)
{
	if (available < 8)
		return 0;
	size_t length = record_length(bytes, ret_pad);
	if (length == 0 || length > available)
		return 0;
	uint32_t crc = load_u32(bytes, RECORD_CRC);
	if (*ret_pad)
		return crc == pad_crc(position, (uint32_t)length) ? length : 0;
	if (record_u64(bytes, RECORD_POSITION) != position || crc != fixed_crc(bytes, length) || !result_is_sound(bytes))
		return 0;
	return load_u32(bytes, RECORD_WIRE_BYTES) <= length - RECORD_WIRE ? length : 0;
}

int record_head(const uint8_t *record, struct cdm_change_head *ret)
{
	return cdm_change_decode_head(record + RECORD_WIRE, load_u32(record, RECORD_WIRE_BYTES), ret);
}

bool record_is_mark(const uint8_t *record)
{
	struct cdm_change_head head;
	return record_head(record, &head) == 0 && (head.op == CDM_OP_MARK || head.op == CDM_OP_CLEAN) &&
		record_outcome(record) == CDM_DONE;
}

static bool handle_at(const uint8_t *record, size_t offset, const struct cdm_handle *h)
{
	return record[offset] == h->len && record[offset + 1] == h->type &&
		memcmp(record + offset + 2, h->bytes, h->len) == 0;
}

bool record_touches(const uint8_t *record, const struct cdm_handle *h)
{
	return h->len && (handle_at(record, RECORD_HANDLE, h) || handle_at(record, RECORD_RESULT_FIELDS + 8, h));
}

static void overlay_result(struct cdm_reader *r, struct cdm_change *c)
{
	struct cdm_handle handle;
	get_handle(r, &handle);
	if (handle.len) /* else the one known at append stays */
		c->handle = handle;
	c->version.dot.origin = cdm_get_u64(r);
	c->version.dot.number = cdm_get_u64(r);
	c->version.clock = cdm_get_u64(r);
	c->parent_mtime_ns = cdm_get_i64(r);
	c->parent2_mtime_ns = cdm_get_i64(r);
	c->attr.mask = cdm_get_u32(r);
	c->attr.mode = cdm_get_u32(r);
	c->attr.uid = cdm_get_u32(r);
	c->attr.gid = cdm_get_u32(r);
	c->attr.nlink = cdm_get_u32(r);
	cdm_get_u32(r);
	c->attr.size = cdm_get_u64(r);
	c->attr.rdev = cdm_get_u64(r);
	c->attr.mtime_ns = cdm_get_i64(r);
	c->attr.atime_ns = cdm_get_i64(r);
}

int record_decode(const uint8_t *record, size_t length, struct cdm_change *ret)
{
	size_t wire = load_u32(record, RECORD_WIRE_BYTES);
	if (wire > length - RECORD_WIRE)
		return -EBADMSG;
	int n = cdm_change_decode(record + RECORD_WIRE, wire, ret);
	if (n < 0 || (size_t)n != wire) {
		cdm_change_fini(ret);
		return -EBADMSG;
	}
	ret->flags = record_flags(record);
	ret->request = record_u64(record, RECORD_REQUEST);
	ret->sequence = record_u64(record, RECORD_SEQUENCE);
	ret->position = record_u64(record, RECORD_POSITION);
	ret->next_position = ret->position + length;
	ret->outcome = record_outcome(record);
	struct cdm_reader r = cdm_reader_of(record + RECORD_HANDLE, HANDLE_SIZE);
	get_handle(&r, &ret->handle);
	struct cdm_reader results = cdm_reader_of(record + RECORD_RESULT_FIELDS, RESULT_SIZE);
	int32_t error = (int32_t)cdm_get_u32(&results);
	cdm_get_u32(&results);
	if (ret->outcome == CDM_DONE)
		overlay_result(&results, ret);
	else if (ret->outcome == CDM_FAILED)
		ret->error = error;
	if (r.bad || results.bad) {
		cdm_change_fini(ret);
		return -EBADMSG;
	}
	return 0;
}
