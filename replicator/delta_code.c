/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "replicator/delta.h"

#define FORMAT 1
#define HEAD 10       /* format, bits, size */
#define BLOCK 8
#define VARINT_MAX 10
#define COPY_MAX (3 * VARINT_MAX)
#define COPY_MIN 3

/* --- signatures --- */

size_t delta_signature_size_for(uint64_t file_size)
{
	unsigned bits = delta_bits(file_size);
	return HEAD + (size_t)((file_size + (1ull << bits) - 1) >> bits) * BLOCK;
}

size_t delta_signature_size(const struct delta_signature *s)
{
	return HEAD + s->count * BLOCK;
}

void delta_signature_encode(const struct delta_signature *s, struct bytes *out)
{
	bytes_put_u8(out, FORMAT);
	bytes_put_u8(out, (uint8_t)s->bits);
	bytes_put_u64(out, s->size);
	for (size_t i = 0; i < s->count; i++) {
		bytes_put_u32(out, s->blocks[i].rolling);
		bytes_put_u32(out, s->blocks[i].strong);
	}
}

int delta_signature_decode(const uint8_t *in, size_t len, struct delta_signature **ret)
{
	struct reading r = {in, len, 0, false};
	uint8_t format = reading_u8(&r), bits = reading_u8(&r);
	uint64_t size = reading_u64(&r);
	if (r.bad || format != FORMAT || bits < DELTA_BITS_MIN || bits > DELTA_BITS_MAX || size > (uint64_t)DELTA_BLOCKS_MAX << bits)
		return -EBADMSG;
	size_t count = (size_t)((size + (1ull << bits) - 1) >> bits);
	if (len - HEAD != count * BLOCK)
		return -EBADMSG;
	struct delta_signature *s = malloc(sizeof *s + count * sizeof s->blocks[0]);
	if (!s)
		return -ENOMEM;
	*s = (struct delta_signature){.size = size, .bits = bits, .count = count};
	for (size_t i = 0; i < count; i++) {
		s->blocks[i].rolling = reading_u32(&r);
		s->blocks[i].strong = reading_u32(&r);
	}
	*ret = s;
	return 0;
}

/* --- copies --- */

static void put_varint(struct bytes *b, uint64_t v)
{
	for (; v >= 0x80; v >>= 7)
		bytes_put_u8(b, (uint8_t)(v | 0x80));
	bytes_put_u8(b, (uint8_t)v);
}

static uint64_t read_varint(struct reading *r)
{
	uint64_t v = 0;
	for (unsigned shift = 0; shift < 64; shift += 7) {
		uint8_t byte = reading_u8(r);
		if (shift == 63 && byte > 1)
			break;
		v |= (uint64_t)(byte & 0x7f) << shift;
		if (byte < 0x80 && (byte || !shift))
			return v;
		if (byte < 0x80)
			break; /* a zero that nobody needs */
	}
	r->bad = true;
	return 0;
}

static uint64_t zigzag(int64_t v)
{
	return (uint64_t)v << 1 ^ (uint64_t)(v >> 63);
}

static int64_t unzigzag(uint64_t v)
{
	return (int64_t)(v >> 1) ^ -(int64_t)(v & 1);
}

size_t delta_copies_encode(const struct delta_copies *c, size_t from, size_t room, struct bytes *out)
{
	size_t i = from, limit = out->len + room;
	for (; i < c->count && out->len + COPY_MAX <= limit; i++) {
		const struct delta_copy *k = &c->list[i], *before = i ? k - 1 : &(struct delta_copy){0};
		put_varint(out, k->at - before->at - before->length);
		put_varint(out, zigzag((int64_t)(k->from - before->from - before->length)));
		put_varint(out, k->length);
	}
	return i - from;
}

/* Next copy behind `before`: false when it is none that could be. */
static bool read_copy(struct reading *r, const struct delta_copy *before, uint64_t old_size, uint64_t new_size, struct delta_copy *ret)
{
	uint64_t end = before->at + before->length, skip = read_varint(r);
	uint64_t from = before->from + before->length + (uint64_t)unzigzag(read_varint(r)), length = read_varint(r);
	if (r->bad || !length || skip > new_size - end || length > new_size - end - skip || from > old_size || length > old_size - from)
		return false;
	*ret = (struct delta_copy){end + skip, from, length};
	return true;
}

int delta_copies_decode(const uint8_t *in, size_t len, uint64_t old_size, uint64_t new_size, struct delta_copies *c)
{
	struct reading r = {in, len, 0, false};
	size_t count = c->count;
	uint64_t bytes = c->bytes;
	struct delta_copy before = count ? c->list[count - 1] : (struct delta_copy){0};
	if (old_size > INT64_MAX || new_size > INT64_MAX || before.at + before.length > new_size)
		return -EBADMSG;
	while (r.at < len) {
		if (count == DELTA_COPIES_MAX || !read_copy(&r, &before, old_size, new_size, &before))
			return -EBADMSG;
		if (count == c->room) { /* never more than the bytes that came can fill */
			size_t room = count + (len - r.at) / COPY_MIN + 1;
			room = room < DELTA_COPIES_MAX ? room : DELTA_COPIES_MAX;
			struct delta_copy *grown = realloc(c->list, room * sizeof *grown);
			if (!grown)
				return -ENOMEM;
			c->list = grown;
			c->room = room;
		}
		c->list[count++] = before;
		bytes += before.length;
	}
	c->count = count;
	c->bytes = bytes;
	return 0;
}
