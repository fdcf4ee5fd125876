/* SPDX-License-Identifier: Apache-2.0 */
/* Deltas against a plain model: whatever was done to a file, old + delta is the new file, and what travels is little where little changed. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>
#include "common/io.h"
#include "replicator/delta.h"
#include "replicator/delta_read.h"
#include "replicator/delta_roll.h"

static uint64_t seed;

static uint64_t dice(uint64_t n)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (seed >> 33) % n;
}

struct blob {
	uint8_t *data;
	size_t len;
};

static struct blob blob_random(size_t len)
{
	struct blob b = {malloc(len + 1), len};
	for (size_t i = 0; i < len; i++)
		b.data[i] = (uint8_t)dice(256);
	return b;
}

static struct blob blob_text(size_t len)
{
	static const char *words[] = {"the ", "set ", "of ", "a page ", "<p>", "</p>\n", "0123 ", "    "};
	struct blob b = {malloc(len + 16), 0};
	while (b.len < len) {
		const char *w = words[dice(8)];
		memcpy(b.data + b.len, w, strlen(w));
		b.len += strlen(w);
	}
	b.len = len;
	return b;
}

/* new = b with [at, at + gone) replaced by these bytes */
static void blob_splice(struct blob *b, size_t at, size_t gone, const uint8_t *with, size_t with_len)
{
	uint8_t *data = malloc(b->len - gone + with_len + 1);
	memcpy(data, b->data, at);
	memcpy(data + at, with, with_len);
	memcpy(data + at + with_len, b->data + at + gone, b->len - at - gone);
	free(b->data);
	b->data = data;
	b->len += with_len - gone;
}

static struct blob blob_copy(const struct blob *b)
{
	struct blob c = {malloc(b->len + 1), b->len};
	memcpy(c.data, b->data, b->len);
	return c;
}

static int file_of(const struct blob *b)
{
	int fd = memfd_create("blob", MFD_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(cdm_pwrite_all(fd, b->data, b->len, 0), 0);
	return fd;
}

static struct delta_signature *sign(int fd, uint8_t digest[16])
{
	struct delta_signature *s = NULL;
	assert_int_equal(delta_sign_file(fd, &s, digest, NULL), 0);
	return s;
}

/* The delta's copies, through their bytes in frames of `room`. */
static void through_bytes(const struct delta_copies *c, uint64_t old_size, uint64_t new_size, size_t room, struct delta_copies *ret)
{
	*ret = (struct delta_copies){0};
	for (size_t at = 0; at < c->count;) {
		struct bytes b = {0};
		size_t n = delta_copies_encode(c, at, room, &b);
		assert_true(n > 0);
		assert_true(b.len <= room);
		assert_int_equal(delta_copies_decode(b.data, b.len, old_size, new_size, ret), 0);
		bytes_fini(&b);
		at += n;
	}
	assert_int_equal(ret->count, c->count);
	assert_int_equal(ret->bytes, c->bytes);
	assert_true(!c->count || memcmp(ret->list, c->list, c->count * sizeof *c->list) == 0);
}

/* What the receiver has before: the data that no copy covers. Returns how many bytes. */
static uint64_t literals(int from, uint64_t size, const struct delta_copies *c, int to)
{
	uint64_t at = 0, sum = 0, end;
	for (size_t i = 0; i <= c->count; i++) {
		uint64_t gap_end = i < c->count ? c->list[i].at : size;
		for (; at < gap_end; at = end) {
			if (!delta_part(from, at, gap_end, &end))
				continue;
			uint8_t *buf = malloc(end - at);
			assert_int_equal(cdm_pread_all(from, buf, end - at, (off_t)at), 0);
			assert_int_equal(cdm_pwrite_all(to, buf, end - at, (off_t)at), 0);
			free(buf);
			sum += end - at;
		}
		at = i < c->count ? gap_end + c->list[i].length : at;
	}
	return sum;
}

static void assert_same_file(int a, int b)
{
	struct stat sa, sb;
	assert_int_equal(fstat(a, &sa), 0);
	assert_int_equal(fstat(b, &sb), 0);
	assert_int_equal(sa.st_size, sb.st_size);
	if (!sa.st_size || sa.st_size > 1 << 30) /* mapping a hole fills it; then the digest must do */
		return;
	void *x = mmap(NULL, (size_t)sa.st_size, PROT_READ, MAP_SHARED, a, 0), *y = mmap(NULL, (size_t)sa.st_size, PROT_READ, MAP_SHARED, b, 0);
	assert_int_equal(memcmp(x, y, (size_t)sa.st_size), 0);
	munmap(x, (size_t)sa.st_size);
	munmap(y, (size_t)sa.st_size);
}

/* Old to new through a delta; all promises checked. Returns the literal bytes; *ret_pieces the number of copies. */
static uint64_t travel(int old, int new, size_t *ret_pieces)
{
	uint8_t digest[16], digest_there[16], digest_alone[16];
	struct delta_found found;
	struct delta_copies copies;
	struct stat st;
	struct delta_signature *s = sign(old, digest);
	assert_int_equal(delta_search(new, s, &found, NULL), 0);
	assert_int_equal(fstat(new, &st), 0);
	assert_int_equal(found.size, st.st_size);
	through_bytes(&found.copies, s->size, found.size, 128, &copies);
	int there = memfd_create("there", MFD_CLOEXEC);
	uint64_t sent = literals(new, found.size, &copies, there);
	struct delta_signer *signer = delta_signer_new(found.size, true);
	assert_int_equal(delta_apply(old, &copies, there, found.size, signer, NULL), 0);
	struct delta_signature *signature = delta_signer_end(signer, digest_there);
	assert_memory_equal(digest_there, found.digest, 16);
	assert_same_file(new, there);
	struct delta_signature *alone = sign(new, digest_alone);
	assert_memory_equal(digest_alone, found.digest, 16);
	assert_int_equal(alone->count, signature->count);
	assert_memory_equal(alone->blocks, signature->blocks, alone->count * sizeof alone->blocks[0]);
	assert_memory_equal(alone->blocks, found.signature->blocks, alone->count * sizeof alone->blocks[0]);
	if (ret_pieces)
		*ret_pieces = found.copies.count;
	delta_signer_free(&signer);
	delta_copies_fini(&copies);
	delta_found_fini(&found);
	free(s);
	free(signature);
	free(alone);
	close(there);
	return sent;
}

static uint64_t travel_blobs(const struct blob *old, const struct blob *new, size_t *ret_pieces)
{
	int a = file_of(old), b = file_of(new);
	uint64_t sent = travel(a, b, ret_pieces);
	close(a);
	close(b);
	return sent;
}

static void vectors_give_the_same_checksums(void **state)
{
	struct blob b = blob_random(5000);
	struct roll_filter f = {.words = calloc(1 << 8, sizeof(uint32_t)), .shift = 24};
	for (int i = 0; i < 40; i++)
		roll_filter_add(&f, (uint32_t)dice(UINT32_MAX));
	for (size_t len = 0; len < 300; len++) {
		roll_use_vectors(false);
		uint32_t plain = roll_hash(b.data + len % 7, len);
		roll_use_vectors(true);
		assert_int_equal(roll_hash(b.data + len % 7, len), plain);
		size_t half = len / 3;
		assert_int_equal(roll_join(roll_hash(b.data, half), roll_hash(b.data + half, len - half), len - half), roll_hash(b.data, len));
	}
	for (size_t window = 1; window < 600; window += 37) {
		struct roll_window w;
		roll_window_init(&w, window);
		uint32_t fast = roll_hash(b.data, window), slow = fast;
		for (size_t at = 0; at + window + 1 < b.len;) {
			size_t count = dice(b.len - at - window);
			roll_use_vectors(false);
			size_t n = roll_scan(&w, &f, b.data + at, count, &slow);
			roll_use_vectors(true);
			assert_int_equal(roll_scan(&w, &f, b.data + at, count, &fast), n);
			assert_int_equal(fast, slow);
			assert_int_equal(fast, roll_hash(b.data + at + n, window));
			at += n;
			if (at + window + 1 < b.len) {
				fast = slow = roll_move(&w, b.data + at, fast);
				at++;
			}
		}
	}
	free(f.words);
	free(b.data);
}

static void block_sizes_are_bounded(void **state)
{
	for (unsigned i = 0; i <= 40; i++)
		for (int d = -1; d <= 1; d++) {
			uint64_t size = (1ull << i) + (uint64_t)(int64_t)d;
			if (size > DELTA_SIZE_MAX)
				continue;
			unsigned bits = delta_bits(size);
			assert_in_range(bits, DELTA_BITS_MIN, DELTA_BITS_MAX);
			assert_true((size + (1ull << bits) - 1) >> bits <= DELTA_BLOCKS_MAX);
		}
	assert_int_equal(delta_bits(256u << 20), 12);
	assert_int_equal(delta_bits(30000), 7);
}

static void what_is_equal_is_one_copy(void **state)
{
	for (size_t len = 1; len < 3000; len += 1 + len / 9) {
		struct blob b = blob_random(len);
		size_t pieces;
		uint64_t sent = travel_blobs(&b, &b, &pieces);
		assert_int_equal(sent, len < 128 ? len : 0);
		assert_int_equal(pieces, len < 128 ? 0 : 1);
		free(b.data);
	}
}

static void every_size_around_a_block_border(void **state)
{
	struct blob whole = blob_random(128 * 6);
	for (size_t a = 0; a <= 128 * 4 + 2; a += a % 128 > 2 && a % 128 < 125 ? 61 : 1)
		for (size_t b = 0; b <= 128 * 4 + 2; b += b % 128 > 2 && b % 128 < 125 ? 61 : 1) {
			struct blob old = {whole.data, a}, new = {whole.data + dice(3), b};
			travel_blobs(&old, &new, NULL);
		}
	free(whole.data);
}

static void an_insertion_is_found_again_within_a_block(void **state)
{
	static const size_t sizes[] = {1, 7, 100, 1000, 4096, 12345};
	struct blob old = blob_random(1 << 20);
	unsigned block = 1u << delta_bits(old.len);
	for (size_t i = 0; i < 6; i++) {
		struct blob extra = blob_random(sizes[i]), new = blob_copy(&old);
		blob_splice(&new, 104857, 0, extra.data, extra.len);
		size_t pieces;
		uint64_t sent = travel_blobs(&old, &new, &pieces);
		assert_in_range(sent, sizes[i], sizes[i] + block);
		assert_int_equal(pieces, 2);
		free(extra.data);
		free(new.data);
	}
	free(old.data);
}

static void a_changed_byte_costs_one_block(void **state)
{
	struct blob old = blob_text(300000), new = blob_copy(&old);
	unsigned block = 1u << delta_bits(old.len);
	for (size_t i = 0; i < 10; i++)
		new.data[i * 30000 + 17] ^= 1;
	assert_in_range(travel_blobs(&old, &new, NULL), 10, 10 * block);
	free(old.data);
	free(new.data);
}

static void an_append_costs_what_was_appended(void **state)
{
	struct blob old = blob_random(100001), more = blob_random(777), new = blob_copy(&old);
	blob_splice(&new, new.len, 0, more.data, more.len);
	assert_int_equal(travel_blobs(&old, &new, NULL), 777);
	free(old.data);
	free(more.data);
	free(new.data);
}

static void moved_parts_are_copied(void **state)
{
	struct blob old = blob_random(400000), new = blob_random(0);
	unsigned block = 1u << delta_bits(old.len);
	blob_splice(&new, 0, 0, old.data + 200000, 200000);
	blob_splice(&new, new.len, 0, old.data, 200000);
	blob_splice(&new, new.len, 0, old.data + 100000, 50000);
	assert_in_range(travel_blobs(&old, &new, NULL), 0, 6 * block);
	free(old.data);
	free(new.data);
}

static void periodic_content_is_found(void **state)
{
	struct blob old = blob_random(500000);
	for (size_t i = 0; i < old.len; i++)
		old.data[i] = (uint8_t)(i % 50 < 3 ? 'x' : ' ');
	struct blob new = blob_copy(&old);
	blob_splice(&new, 1234, 0, (const uint8_t *)"something else", 14);
	assert_in_range(travel_blobs(&old, &new, NULL), 14, 1000);
	memset(new.data, 0, new.len); /* zeros written, not a hole */
	assert_int_equal(travel_blobs(&old, &new, NULL), new.len);
	free(old.data);
	free(new.data);
}

static void random_edits_equal_the_model(void **state)
{
	for (int round = 0; round < 400; round++) {
		seed = (uint64_t)round + 1;
		size_t len = (size_t)dice(round % 10 ? 20000 : 2000000);
		struct blob old = dice(2) ? blob_text(len) : blob_random(len), new = blob_copy(&old);
		roll_use_vectors(round % 2);
		for (uint64_t edits = dice(12); edits; edits--) {
			size_t at = (size_t)dice(new.len + 1), gone = (size_t)dice((new.len - at) / (1 + dice(64)) + 1);
			struct blob with = dice(2) ? blob_text((size_t)dice(500)) : blob_random((size_t)dice(1 + dice(5000)));
			if (dice(4) == 0 && old.len) { /* something that is elsewhere in the old one */
				size_t from = (size_t)dice(old.len), n = (size_t)dice(old.len - from);
				blob_splice(&new, at, gone, old.data + from, n);
			} else {
				blob_splice(&new, at, gone, with.data, with.len);
			}
			free(with.data);
		}
		travel_blobs(&old, &new, NULL);
		free(old.data);
		free(new.data);
	}
	roll_use_vectors(true);
}

static uint64_t disk_bytes(int fd)
{
	struct stat st;
	assert_int_equal(fstat(fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static int sparse_file(uint64_t size)
{
	int fd = memfd_create("sparse", MFD_CLOEXEC);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	return fd;
}

static void put(int fd, uint64_t at, const struct blob *b, size_t len)
{
	assert_int_equal(cdm_pwrite_all(fd, b->data, len, (off_t)at), 0);
}

static void holes_stay_holes(void **state)
{
	struct blob b = blob_random(1 << 20);
	int old = sparse_file(64u << 20), new = sparse_file((64u << 20) + 5), there = sparse_file((64u << 20) + 5);
	put(old, 0, &b, 40000);
	put(old, 10u << 20, &b, 1 << 20);
	put(old, 63u << 20, &b, 70000);
	put(new, 0, &b, 40000);
	put(new, (10u << 20) + 4096 * 3, &b, 1 << 20);
	for (unsigned i = 0; i < 50; i++) /* holes of a page within what the old one has as data */
		put(new, (30u << 20) + i * 8192, &b, 4096);
	uint8_t digest[16], there_digest[16];
	struct delta_found found;
	struct delta_signature *s = sign(old, digest);
	assert_int_equal(delta_search(new, s, &found, NULL), 0);
	uint64_t sent = literals(new, found.size, &found.copies, there);
	assert_in_range(sent, 0, 20000);
	struct delta_signer *signer = delta_signer_new(found.size, false);
	assert_int_equal(delta_apply(old, &found.copies, there, found.size, signer, NULL), 0);
	assert_null(delta_signer_end(signer, there_digest));
	assert_memory_equal(there_digest, found.digest, 16);
	assert_same_file(new, there);
	assert_in_range(disk_bytes(there), 1 << 20, disk_bytes(new));
	delta_signer_free(&signer);
	delta_found_fini(&found);
	free(s);
	free(b.data);
	close(old);
	close(new);
	close(there);
}

static void a_terabyte_of_nothing_is_quick(void **state)
{
	struct blob b = blob_random(1 << 20);
	int old = sparse_file(DELTA_SIZE_MAX), new = sparse_file(DELTA_SIZE_MAX);
	put(old, 1ull << 39, &b, b.len);
	put(new, 1ull << 39, &b, b.len);
	put(new, 0, &b, 10);
	assert_int_equal(travel(old, new, NULL), 4096 + (1 << 20)); /* less than a block each */
	struct delta_signature *s = NULL;
	uint8_t digest[16];
	assert_int_equal(ftruncate(old, (off_t)DELTA_SIZE_MAX + 1), 0);
	assert_int_equal(delta_sign_file(old, &s, digest, NULL), -EFBIG);
	close(old);
	close(new);
	free(b.data);
}

static void another_old_version_is_noticed(void **state)
{
	struct blob old = blob_random(200000), new = blob_copy(&old);
	blob_splice(&new, 5000, 100, (const uint8_t *)"abc", 3);
	int a = file_of(&old), b = file_of(&new), there = sparse_file(0);
	uint8_t digest[16];
	struct delta_found found;
	struct delta_signature *s = sign(a, digest);
	assert_int_equal(delta_search(b, s, &found, NULL), 0);
	literals(b, found.size, &found.copies, there);
	assert_int_equal(cdm_pwrite_all(a, "!", 1, 150000), 0);
	struct delta_signer *signer = delta_signer_new(found.size, false);
	assert_int_equal(delta_apply(a, &found.copies, there, found.size, signer, NULL), 0);
	delta_signer_end(signer, digest);
	assert_memory_not_equal(digest, found.digest, 16);
	delta_signer_free(&signer);
	signer = delta_signer_new(found.size, false);
	assert_int_equal(ftruncate(a, 100000), 0);
	assert_int_equal(delta_apply(a, &found.copies, there, found.size, signer, NULL), -ESTALE);
	delta_signer_free(&signer);
	delta_found_fini(&found);
	free(s);
	free(old.data);
	free(new.data);
	close(a);
	close(b);
	close(there);
}

static void a_signature_that_lies_wastes_no_time(void **state)
{
	struct blob old = blob_random(1 << 20), new = blob_random(1 << 20);
	memset(new.data, 'a', new.len);
	int a = file_of(&old), b = file_of(&new);
	uint8_t digest[16];
	struct delta_found found;
	struct delta_signature *s = sign(a, digest);
	for (size_t i = 0; i < s->count; i++) /* every position looks right and is wrong */
		s->blocks[i] = (struct delta_block){roll_hash(new.data, 1u << s->bits), (uint32_t)i};
	assert_int_equal(delta_search(b, s, &found, NULL), 0);
	assert_int_equal(found.copies.count, 0);
	assert_int_equal(found.signature->count, s->count);
	delta_found_fini(&found);
	free(s);
	free(old.data);
	free(new.data);
	close(a);
	close(b);
}

static void absurd_bytes_are_refused(void **state)
{
	struct delta_signature *s;
	uint8_t head[18] = {1, 12, 0x00, 0x10}; /* 4096 bytes: one block */
	assert_int_equal(delta_signature_decode(head, 18, &s), 0);
	free(s);
	assert_int_equal(delta_signature_decode(head, 17, &s), -EBADMSG);
	for (size_t i = 0; i < 10; i++) {
		uint8_t bad[18];
		memcpy(bad, head, sizeof bad);
		bad[i] = 0xff;
		assert_int_equal(delta_signature_decode(bad, sizeof bad, &s), -EBADMSG);
	}
	struct delta_copies c = {0};
	static const struct {
		uint8_t bytes[24];
		size_t len;
		int result;
	} cases[] = {
		{{0, 0, 100}, 3, 0},
		{{0, 0, 100, 0, 0}, 5, -EBADMSG},                    /* torn */
		{{0, 0, 0}, 3, -EBADMSG},                            /* nothing copied */
		{{0, 1, 1}, 3, -EBADMSG},                            /* from -1 */
		{{0, 0, 0xc9, 0x01}, 4, -EBADMSG},                   /* 201 of 200 */
		{{0x65, 0, 100}, 3, -EBADMSG},                       /* beyond the new one */
		{{0, 0, 0x80, 0}, 4, -EBADMSG},                      /* longer than needed */
		{{0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, 12, -EBADMSG},
		{{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0, 1}, 12, -EBADMSG},
		{{0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 1}, 12, -EBADMSG},
		{{0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}, 12, -EBADMSG},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		assert_int_equal(delta_copies_decode(cases[i].bytes, cases[i].len, 200, 200, &c), cases[i].result);
		c.count = 0;
		c.bytes = 0;
	}
	delta_copies_fini(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(vectors_give_the_same_checksums),
		cmocka_unit_test(block_sizes_are_bounded),
		cmocka_unit_test(what_is_equal_is_one_copy),
		cmocka_unit_test(every_size_around_a_block_border),
		cmocka_unit_test(an_insertion_is_found_again_within_a_block),
		cmocka_unit_test(a_changed_byte_costs_one_block),
		cmocka_unit_test(an_append_costs_what_was_appended),
		cmocka_unit_test(moved_parts_are_copied),
		cmocka_unit_test(periodic_content_is_found),
		cmocka_unit_test(random_edits_equal_the_model),
		cmocka_unit_test(holes_stay_holes),
		cmocka_unit_test(a_terabyte_of_nothing_is_quick),
		cmocka_unit_test(another_old_version_is_noticed),
		cmocka_unit_test(a_signature_that_lies_wastes_no_time),
		cmocka_unit_test(absurd_bytes_are_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
