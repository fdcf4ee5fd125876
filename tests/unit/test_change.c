/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "common/change.h"
#include "common/cursor.h"

#define DOT(node, incarnation, n) ((struct cdm_dot){CDM_ORIGIN(node, incarnation), n})

static struct cdm_range two_ranges[] = {{0, 10}, {20, 4096}};
static struct cdm_dot entries[] = {{CDM_ORIGIN(1, 1), 5}, {CDM_ORIGIN(2, 1), 6}};
static struct cdm_vector some_vector = {entries, 2, 2};

static struct cdm_change full_change(void)
{
	return (struct cdm_change){
		.op = CDM_OP_SAVE,
		.flags = CDM_CH_NEW | CDM_CH_LINKED,
		.dot = DOT(3, 1, 8841),
		.clock = 123456789,
		.version = {DOT(3, 1, 8840), 123456788},
		.base = DOT(4, 1, 2),
		.victim = DOT(5, 2, 3),
		.attr = {CDM_ATTR_SIZE | CDM_ATTR_MODE, 0100644, 33, 34, 2, 1 << 20, 0, -5, 1700000000000000001},
		.parent_mtime_ns = 7,
		.parent2_mtime_ns = -8,
		.rename_flags = 2,
		.path = "a/b.css",
		.path_len = 7,
		.path2 = "c",
		.path2_len = 1,
		.name = "user.x",
		.name_len = 6,
		.value = "v\0w",
		.value_len = 3,
		.ranges = two_ranges,
		.range_count = 2,
		.context = &some_vector,
		.vector = &some_vector,
	};
}

static uint8_t *encode(const struct cdm_change *c, size_t *ret_len)
{
	size_t max = cdm_change_encoded_max(c);
	assert_true(max > 0);
	uint8_t *bytes = malloc(max);
	assert_non_null(bytes);
	*ret_len = cdm_change_encode(c, bytes);
	assert_in_range(*ret_len, 1, max);
	return bytes;
}

static void assert_same(const struct cdm_change *a, const struct cdm_change *b)
{
	assert_int_equal(a->op, b->op);
	assert_int_equal(a->flags & ~(uint32_t)CDM_CH_RECEIVED, b->flags);
	assert_memory_equal(&a->dot, &b->dot, sizeof a->dot);
	assert_int_equal(a->clock, b->clock);
	assert_memory_equal(&a->version, &b->version, sizeof a->version);
	assert_memory_equal(&a->base, &b->base, sizeof a->base);
	assert_memory_equal(&a->victim, &b->victim, sizeof a->victim);
	assert_memory_equal(&a->attr, &b->attr, sizeof a->attr);
	assert_int_equal(a->parent_mtime_ns, b->parent_mtime_ns);
	assert_int_equal(a->parent2_mtime_ns, b->parent2_mtime_ns);
	assert_int_equal(a->rename_flags, b->rename_flags);
	assert_int_equal(a->path_len, b->path_len);
	assert_int_equal(a->path2_len, b->path2_len);
	assert_int_equal(a->name_len, b->name_len);
	assert_int_equal(a->value_len, b->value_len);
	if (a->path_len)
		assert_memory_equal(a->path, b->path, a->path_len);
	if (a->value_len)
		assert_memory_equal(a->value, b->value, a->value_len);
	assert_int_equal(a->range_count, b->range_count);
	if (a->range_count)
		assert_memory_equal(a->ranges, b->ranges, a->range_count * sizeof *a->ranges);
	assert_int_equal(!a->context, !b->context);
	assert_true(!a->context || cdm_vector_equal(a->context, b->context));
	assert_int_equal(!a->vector, !b->vector);
	assert_true(!a->vector || cdm_vector_equal(a->vector, b->vector));
}

static void all_parts_come_back(void **state)
{
	struct cdm_change c = full_change(), back;
	size_t len;
	c.flags |= CDM_CH_RECEIVED; /* the journal's business, not the wire's */
	uint8_t *bytes = encode(&c, &len);
	assert_int_equal(cdm_change_decode(bytes, len, &back), len);
	assert_same(&c, &back);
	struct cdm_change_head head;
	assert_int_equal(cdm_change_decode_head(bytes, len, &head), 0);
	assert_true(head.op == CDM_OP_SAVE && cdm_dot_equal(head.dot, c.dot) && head.clock == c.clock);
	assert_int_equal(cdm_change_decode_head(bytes, 35, &head), -EBADMSG);
	cdm_change_fini(&back);
	cdm_change_fini(&back);
	free(bytes);
}

static void a_bare_change_is_small_and_its_absent_strings_are_empty(void **state)
{
	struct cdm_change c = {.op = CDM_OP_SKIP, .dot = DOT(1, 1, 1)}, back;
	static const uint8_t golden[] = {27, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		0, 0, 0, 0, 0, 0};
	size_t len;
	uint8_t *bytes = encode(&c, &len);
	assert_int_equal(len, sizeof golden);
	assert_memory_equal(bytes, golden, len);
	assert_int_equal(cdm_change_decode(bytes, len, &back), len);
	assert_string_equal(back.path, "");
	assert_non_null(back.value);
	free(bytes);
}

static void every_truncation_is_refused(void **state)
{
	struct cdm_change c = full_change(), back;
	size_t len;
	uint8_t *bytes = encode(&c, &len);
	for (size_t n = 0; n < len; n++) {
		uint8_t *cut = malloc(n ? n : 1); /* of its own, so that a sanitizer sees a read behind it */
		memcpy(cut, bytes, n);
		assert_int_equal(cdm_change_decode(cut, n, &back), -EBADMSG);
		free(cut);
	}
	free(bytes);
}

static void paths_that_leave_the_set_are_refused(void **state)
{
	static const char *const bad[] = {"", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b", "a/../b", ".cdmfs",
		".cdmfs/journal"};
	static const char *const good[] = {"a", "a/b", "...", ".a", "a..", "a/.cdmfs", ".cdmfsx", "\xff\x01 \n"};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		assert_int_equal(cdm_path_check(bad[i], strlen(bad[i])), -EBADMSG);
	for (size_t i = 0; i < sizeof good / sizeof *good; i++)
		assert_int_equal(cdm_path_check(good[i], strlen(good[i])), 0);
	assert_int_equal(cdm_path_check("a\0b", 3), -EBADMSG);
	char *path = malloc(CDM_PATH_MAX + 2);
	memset(path, 'x', CDM_PATH_MAX + 2);
	assert_int_equal(cdm_path_check(path, 255), 0);
	assert_int_equal(cdm_path_check(path, 256), -EBADMSG);
	for (size_t i = 1; i < CDM_PATH_MAX + 2; i += 2)
		path[i] = '/';
	assert_int_equal(cdm_path_check(path, CDM_PATH_MAX - 1), 0);
	assert_int_equal(cdm_path_check(path, CDM_PATH_MAX + 1), -EBADMSG);
	free(path);
}

static void assert_unsound(struct cdm_change c)
{
	uint8_t bytes[8192];
	assert_int_equal(cdm_change_encoded_max(&c), 0);
	assert_int_equal(cdm_change_encode(&c, bytes), 0);
}

static void changes_that_no_node_would_take_are_not_encoded(void **state)
{
	struct cdm_change base = full_change(), c = base;
	c.path = "../x", c.path_len = 4;
	assert_unsound(c);
	c = base, c.op = 99;
	assert_unsound(c);
	c = base, c.value_len = CDM_VALUE_MAX + 1;
	assert_unsound(c);
	c = base, c.range_count = CDM_RANGES_MAX + 1;
	assert_unsound(c);
	struct cdm_range overlapping[] = {{0, 10}, {9, 1}}, huge[] = {{UINT64_MAX - 1, 2}};
	c = base, c.ranges = overlapping;
	assert_unsound(c);
	c = base, c.ranges = huge, c.range_count = 1;
	assert_unsound(c);
	c = base, c.dot = DOT(0, 1, 1);
	assert_unsound(c);
	c = base, c.rename_flags = 1u << 30;
	assert_unsound(c);
	c = base, c.op = CDM_OP_RENAME, c.path2_len = 0;
	assert_unsound(c);
	c = base, c.op = CDM_OP_SYMLINK, c.value = "a\0b", c.value_len = 3;
	assert_unsound(c);
	c = base, c.op = CDM_OP_SETXATTR, c.name_len = 0;
	assert_unsound(c);
}

/* The same on bytes: flip every bit; what is still accepted must be encodable again to the same bytes. */
static void flipped_bits_are_refused_or_mean_something_sound(void **state)
{
	struct cdm_change c = full_change(), back;
	size_t len, again_len;
	uint8_t *bytes = encode(&c, &len);
	for (size_t bit = 0; bit < len * 8; bit++) {
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
		int n = cdm_change_decode(bytes, len, &back);
		if (n > 0) {
			uint8_t *again = encode(&back, &again_len);
			assert_int_equal(again_len, n);
			assert_memory_equal(again, bytes, again_len);
			free(again);
			cdm_change_fini(&back);
		} else {
			assert_int_equal(n, -EBADMSG);
		}
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	free(bytes);
}

static void ranges_are_merged_where_they_touch(void **state)
{
	struct cdm_range r[CDM_RANGES_MAX];
	size_t n = cdm_ranges_add(r, 0, 100, 10);
	n = cdm_ranges_add(r, n, 200, 10);
	n = cdm_ranges_add(r, n, 0, 10);
	n = cdm_ranges_add(r, n, 50, 0);
	assert_int_equal(n, 3);
	n = cdm_ranges_add(r, n, 10, 5);
	n = cdm_ranges_add(r, n, 95, 5);
	assert_int_equal(n, 3);
	assert_true(r[0].offset == 0 && r[0].length == 15 && r[1].offset == 95 && r[1].length == 15);
	n = cdm_ranges_add(r, n, 12, 190);
	assert_int_equal(n, 1);
	assert_true(r[0].offset == 0 && r[0].length == 210);
	n = cdm_ranges_add(r, n, UINT64_MAX - 5, 100);
	assert_int_equal(n, 2);
}

static void too_many_ranges_mean_the_whole(void **state)
{
	struct cdm_range r[CDM_RANGES_MAX];
	size_t n = 0;
	for (uint64_t i = 0; i < CDM_RANGES_MAX; i++)
		n = cdm_ranges_add(r, n, i * 10, 5);
	assert_int_equal(n, CDM_RANGES_MAX);
	assert_int_equal(cdm_ranges_add(r, n, 3, 4), CDM_RANGES_MAX);
	n = cdm_ranges_add(r, n, 100000, 1);
	assert_int_equal(n, CDM_RANGES_MAX + 1);
	assert_int_equal(cdm_ranges_add(r, n, 0, 1), CDM_RANGES_MAX + 1);
}

static void the_checksum_is_crc32c_whatever_the_pieces(void **state)
{
	const char *text = "123456789";
	assert_int_equal(cdm_crc32c(0, text, 9), 0xe3069283);
	for (size_t i = 0; i <= 9; i++)
		assert_int_equal(cdm_crc32c(cdm_crc32c(0, text, i), text + i, 9 - i), 0xe3069283);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_parts_come_back),
		cmocka_unit_test(a_bare_change_is_small_and_its_absent_strings_are_empty),
		cmocka_unit_test(every_truncation_is_refused),
		cmocka_unit_test(paths_that_leave_the_set_are_refused),
		cmocka_unit_test(changes_that_no_node_would_take_are_not_encoded),
		cmocka_unit_test(flipped_bits_are_refused_or_mean_something_sound),
		cmocka_unit_test(ranges_are_merged_where_they_touch),
		cmocka_unit_test(too_many_ranges_mean_the_whole),
		cmocka_unit_test(the_checksum_is_crc32c_whatever_the_pieces),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
