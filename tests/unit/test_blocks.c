/* SPDX-License-Identifier: Apache-2.0 */
/* blocks.h: the digest does not depend on holes or cuts; ring.h: the order in which large contents travel. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "replicator/blocks.h"
#include "replicator/ring.h"

#define SIZE (3 * BLOCK + 12345)

/* As route.c has it. */
const struct member *route_member_number(const struct route *r, uint32_t number)
{
	for (size_t i = 0; i < r->member_count; i++)
		if (r->members[i].number == number)
			return &r->members[i];
	return NULL;
}

static int file_of(const uint8_t *bytes, size_t len)
{
	int fd = memfd_create("blocks", MFD_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, bytes, len), len);
	return fd;
}

/* Each block cut into its runs, as a feeder sends them. */
static void digest_of_runs(const uint8_t *bytes, size_t size, uint8_t ret[16])
{
	struct block_hash h = {0};
	block_hash_begin(&h, size);
	for (size_t start = 0; start < size; start += BLOCK) {
		uint32_t len = size - start < BLOCK ? (uint32_t)(size - start) : BLOCK, at = 0, run;
		for (; block_next_run(bytes + start, len, &at, &run); at += run)
			assert_int_equal(block_hash_piece(&h, start + at, bytes + start + at, run), 0);
	}
	block_hash_end(&h, ret);
	block_hash_fini(&h);
}

static uint8_t *content(void)
{
	uint8_t *bytes = calloc(1, SIZE);
	assert_non_null(bytes);
	for (size_t i = 0; i < SIZE; i++)
		if (i < 5000 || (i > BLOCK + 70000 && i < BLOCK + 70003) || i > 3 * BLOCK)
			bytes[i] = (uint8_t)(i * 31 + i / 251 + 1);
	return bytes;
}

static void holes_do_not_change_the_digest(void **state)
{
	uint8_t *bytes = content(), runs[16], dense[16], sparse[16];
	int fd = file_of(bytes, SIZE);
	digest_of_runs(bytes, SIZE, runs);
	assert_int_equal(block_hash_file(fd, SIZE, dense), 0);
	assert_memory_equal(runs, dense, 16);
	assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 2 * BLOCK, BLOCK), 0);
	assert_int_equal(block_hash_file(fd, SIZE, sparse), 0);
	assert_memory_equal(runs, sparse, 16);
	close(fd);
	free(bytes);
}

static void bytes_and_size_change_it(void **state)
{
	uint8_t *bytes = content(), before[16], after[16];
	digest_of_runs(bytes, SIZE, before);
	bytes[2 * BLOCK + 1] = 1;
	digest_of_runs(bytes, SIZE, after);
	assert_memory_not_equal(before, after, 16);
	memset(bytes, 0, SIZE);
	digest_of_runs(bytes, SIZE, before);
	digest_of_runs(bytes, SIZE - 1, after);
	assert_memory_not_equal(before, after, 16);
	free(bytes);
}

static void a_hole_to_the_end_ends(void **state)
{
	uint8_t digest[16];
	int fd = memfd_create("blocks", MFD_CLOEXEC);
	assert_int_equal(ftruncate(fd, 10 * (off_t)BLOCK + 7), 0);
	assert_int_equal(block_next_data(fd, 0, 10 * BLOCK + 7), 10 * BLOCK + 7);
	assert_int_equal(block_hash_file(fd, 10 * BLOCK + 7, digest), 0);
	assert_int_equal(block_hash_file(fd, 0, digest), 0);
	close(fd);
}

static void a_file_that_is_shorter_is_found_out(void **state)
{
	uint8_t *bytes = content(), digest[16];
	int fd = file_of(bytes, 5000);
	assert_int_equal(block_hash_file(fd, SIZE, digest), -ENODATA);
	close(fd);
	free(bytes);
}

static void pieces_out_of_order_are_refused(void **state)
{
	struct block_hash h = {0};
	uint8_t byte[2] = {1, 2};
	block_hash_begin(&h, SIZE);
	assert_int_equal(block_hash_piece(&h, BLOCK + 10, byte, 2), 0);
	assert_int_equal(block_hash_piece(&h, BLOCK + 11, byte, 2), -EBADMSG);
	assert_int_equal(block_hash_piece(&h, 0, byte, 2), -EBADMSG);
	assert_int_equal(block_hash_piece(&h, 2 * BLOCK - 1, byte, 2), -EBADMSG);
	assert_int_equal(block_hash_piece(&h, SIZE - 1, byte, 2), -EBADMSG);
	assert_int_equal(block_hash_piece(&h, UINT64_MAX, byte, 2), -EBADMSG);
	block_hash_fini(&h);
}

static struct member member(uint32_t number, const char *region, const char *group)
{
	static const char *const names[] = {"n0", "n1", "n2", "n3", "n4", "n5", "n6", "n7", "n8", "n9"};
	return (struct member){.name = (char *)names[number], .addr = (char *)"a", .number = number, .region = (char *)region, .group = (char *)group};
}

static void the_ring_crosses_each_border_once(void **state)
{
	struct member members[] = {member(1, "eu", "a"), member(2, "us", "c"), member(3, "eu", "b"), member(4, "eu", "a"), member(5, "us", "c")};
	struct route r = {.members = members, .member_count = 5};
	/* eu a: 1, 4; eu b: 3; us c: 2, 5 */
	const uint32_t order[] = {1, 4, 3, 2, 5};
	for (size_t i = 0; i < 5; i++)
		assert_int_equal(ring_before(&r, order[(i + 1) % 5])->number, order[i]);
	members[3].drained = true;
	assert_int_equal(ring_before(&r, 3)->number, 1);
	assert_int_equal(ring_before(&r, 4)->number, 1);
	r.neighbours_only = true;
	assert_null(ring_before(&r, 3));
}

static void who_brings_is_fed_by_who_brings(void **state)
{
	struct member members[] = {member(7, "eu", "a"), member(8, "eu", "a"), member(9, "eu", "a")};
	struct route r = {.members = members, .member_count = 3};
	members[0].brings = members[2].brings = true;
	assert_int_equal(ring_before(&r, 7)->number, 9);
	assert_int_equal(ring_before(&r, 8)->number, 7);
	assert_int_equal(ring_before(&r, 9)->number, 7);
	members[0].brings = false;
	assert_null(ring_before(&r, 9));
}

static void nobody_is_before_the_only_one(void **state)
{
	struct member members[] = {member(7, "eu", "a"), member(9, "eu", "a")};
	struct route r = {.members = members, .member_count = 1};
	assert_null(ring_before(&r, 7));
	assert_null(ring_before(&r, 8));
	r.member_count = 2;
	members[1].paused = true;
	assert_null(ring_before(&r, 7));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(holes_do_not_change_the_digest), cmocka_unit_test(bytes_and_size_change_it), cmocka_unit_test(a_hole_to_the_end_ends),
		cmocka_unit_test(a_file_that_is_shorter_is_found_out), cmocka_unit_test(pieces_out_of_order_are_refused),
		cmocka_unit_test(the_ring_crosses_each_border_once), cmocka_unit_test(who_brings_is_fed_by_who_brings),
		cmocka_unit_test(nobody_is_before_the_only_one)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
