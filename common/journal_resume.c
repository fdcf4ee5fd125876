/* SPDX-License-Identifier: Apache-2.0 */
#include "common/journal_resume.h"

#include <assert.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "common/cursor.h"
#include "common/io.h"

#define RESUME_MAGIC 0x314d5352304d4443ull /* "CDM0RSM1" */
#define RESUME_VERSION 1u
#define FIELDS_BYTES 96u /* in front of the vectors */
#define VECTOR_BYTES_MAX (4u + CDM_VECTOR_MAX * 16u)
#define NOTE_BYTES_MAX (FIELDS_BYTES + 2 * VECTOR_BYTES_MAX + 4)
#define SLOT_BYTES 135168 /* whole pages, each slot has its own */
_Static_assert(NOTE_BYTES_MAX <= SLOT_BYTES, "a note fits its slot");

void resume_fini(struct resume *r)
{
	cdm_vector_fini(&r->applied);
	cdm_vector_fini(&r->marked);
}

/* --- bytes --- */

static void put_vector(struct cdm_writer *w, const struct cdm_vector *v)
{
	uint8_t *p = cdm_put_room(w, cdm_vector_encoded_size(v));
	if (p)
		cdm_vector_encode(v, p);
}

static size_t note_encode(const struct resume *r, uint64_t generation, uint8_t *out)
{
	size_t length = FIELDS_BYTES + cdm_vector_encoded_size(&r->applied) + cdm_vector_encoded_size(&r->marked) + 4;
	struct cdm_writer w = cdm_writer_of(out, length);
	cdm_put_u64(&w, RESUME_MAGIC);
	cdm_put_u32(&w, RESUME_VERSION);
	cdm_put_u32(&w, (uint32_t)length);
	cdm_put_u64(&w, generation);
	cdm_put_u64(&w, r->instance);
	cdm_put_u64(&w, r->base);
	cdm_put_u64(&w, r->position);
	cdm_put_u64(&w, r->origin);
	cdm_put_u64(&w, r->last_number);
	cdm_put_u64(&w, r->sequence);
	cdm_put_u64(&w, r->clock);
	cdm_put_u64(&w, r->mark_clock);
	cdm_put_u64(&w, 0);
	put_vector(&w, &r->applied);
	put_vector(&w, &r->marked);
	cdm_put_u32(&w, cdm_crc32c(0, out, length - 4));
	assert(!w.bad && w.at == w.end);
	return length;
}

static bool get_vector(struct cdm_reader *in, struct cdm_vector *ret)
{
	int n = cdm_vector_decode(in->at, cdm_reader_left(in), ret);
	return n >= 0 && cdm_get_bytes(in, (size_t)n);
}

/* `bytes` holds `length`, the checksum is right. */
static bool note_decode(const uint8_t *bytes, size_t length, uint64_t *ret_generation, struct resume *ret)
{
	struct cdm_reader in = cdm_reader_of(bytes + 16, length - 16 - 4);
	*ret_generation = cdm_get_u64(&in);
	ret->instance = cdm_get_u64(&in);
	ret->base = cdm_get_u64(&in);
	ret->position = cdm_get_u64(&in);
	ret->origin = cdm_get_u64(&in);
	ret->last_number = cdm_get_u64(&in);
	ret->sequence = cdm_get_u64(&in);
	ret->clock = cdm_get_u64(&in);
	ret->mark_clock = cdm_get_u64(&in);
	cdm_get_u64(&in);
	return get_vector(&in, &ret->applied) && get_vector(&in, &ret->marked) && !in.bad && cdm_reader_left(&in) == 0;
}

/* --- slots --- */

static off_t slot_offset(uint64_t generation)
{
	return (off_t)(generation % 2 * SLOT_BYTES);
}

/* The length that stands at the beginning of a slot; 0: no note of this version. */
static size_t note_length(const uint8_t *bytes)
{
	struct cdm_reader in = cdm_reader_of(bytes, 16);
	bool ours = cdm_get_u64(&in) == RESUME_MAGIC && cdm_get_u32(&in) == RESUME_VERSION;
	size_t length = cdm_get_u32(&in);
	return ours && length >= FIELDS_BYTES + 4 + 4 + 4 && length <= NOTE_BYTES_MAX ? length : 0;
}

static bool slot_read(const struct resume_file *f, unsigned slot, uint64_t *ret_generation, struct resume *ret)
{
	if (cdm_pread_all(f->fd, f->bytes, 16, slot_offset(slot)) < 0)
		return false;
	size_t length = note_length(f->bytes);
	if (length == 0 || cdm_pread_all(f->fd, f->bytes, length, slot_offset(slot)) < 0)
		return false;
	struct cdm_reader crc = cdm_reader_of(f->bytes + length - 4, 4);
	if (note_length(f->bytes) != length || cdm_get_u32(&crc) != cdm_crc32c(0, f->bytes, length - 4))
		return false;
	return note_decode(f->bytes, length, ret_generation, ret);
}

bool resume_read(struct resume_file *f, uint64_t instance, uint64_t base, struct resume *ret)
{
	*ret = (struct resume){0};
	f->generation = 0;
	for (unsigned slot = 0; f->fd >= 0 && slot < 2; slot++) {
		struct resume r = {0};
		uint64_t generation = 0;
		if (slot_read(f, slot, &generation, &r) && generation > f->generation && generation % 2 == slot && r.instance == instance &&
			r.base == base) {
			resume_fini(ret);
			*ret = r;
			f->generation = generation;
		} else {
			resume_fini(&r);
		}
	}
	return f->generation > 0;
}

void resume_prepare(struct resume_file *f, const struct resume *r)
{
	bool fits = r->applied.count <= CDM_VECTOR_MAX && r->marked.count <= CDM_VECTOR_MAX;
	f->length = fits && f->fd >= 0 ? note_encode(r, f->generation + 1, f->bytes) : 0;
}

/* Into the slot of the older note. After a failure the newer one still stands, and the next try goes to the same slot. */
void resume_write(struct resume_file *f)
{
	if (f->length && cdm_pwrite_all(f->fd, f->bytes, f->length, slot_offset(f->generation + 1)) == 0)
		f->generation++;
	f->length = 0;
}

/* --- open, close --- */

struct resume_file resume_open(const char *run_dir, bool fresh)
{
	char path[PATH_MAX];
	struct resume_file f = RESUME_FILE_NONE;
	int n = snprintf(path, sizeof path, "%s/" RESUME_FILE, run_dir);
	if (n < 0 || n >= (int)sizeof path || !(f.bytes = malloc(NOTE_BYTES_MAX)))
		return f;
	f.fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | (fresh ? O_TRUNC : 0), 0600);
	return f;
}

void resume_close(struct resume_file *f)
{
	cdm_cleanup_close(&f->fd);
	free(f->bytes);
	*f = RESUME_FILE_NONE;
}
