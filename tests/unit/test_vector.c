/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>
#include "common/vector.h"

#define DOT(node, incarnation, n) ((struct cdm_dot){CDM_ORIGIN(node, incarnation), n})

static struct cdm_vector vector_of(const char *text)
{
	struct cdm_vector v;
	assert_int_equal(cdm_vector_parse(text, &v), 0);
	return v;
}

static void assert_vector(struct cdm_vector *v, const char *text)
{
	char *got = cdm_vector_format(v);
	assert_string_equal(got, text);
	free(got);
	cdm_vector_fini(v);
}

static void raising_keeps_the_highest_number_and_the_order(void **state)
{
	struct cdm_vector v = {0};
	assert_true(cdm_vector_raise(&v, DOT(4, 2, 17)));
	assert_true(cdm_vector_raise(&v, DOT(3, 1, 5)));
	assert_true(cdm_vector_raise(&v, DOT(4, 1, 1)));
	assert_false(cdm_vector_raise(&v, DOT(4, 2, 16)));
	assert_false(cdm_vector_raise(&v, (struct cdm_dot){0}));
	assert_int_equal(cdm_vector_get(&v, CDM_ORIGIN(4, 2)), 17);
	assert_int_equal(cdm_vector_get(&v, CDM_ORIGIN(5, 1)), 0);
	assert_true(cdm_vector_covers(&v, DOT(4, 2, 17)));
	assert_false(cdm_vector_covers(&v, DOT(4, 2, 18)));
	assert_true(cdm_vector_covers(&v, (struct cdm_dot){0}));
	assert_vector(&v, "3.1:5 4.1:1 4.2:17");
}

static void a_later_incarnation_is_told(void **state)
{
	struct cdm_vector v = vector_of("1.3:5 3.1:1");
	assert_true(cdm_vector_began_anew(&v, CDM_ORIGIN(1, 2)));
	assert_false(cdm_vector_began_anew(&v, CDM_ORIGIN(1, 3)) || cdm_vector_began_anew(&v, CDM_ORIGIN(1, 4)) || cdm_vector_began_anew(&v, CDM_ORIGIN(2, 1)));
	cdm_vector_fini(&v);
}

static void merge_and_meet_are_element_wise(void **state)
{
	struct cdm_vector a = vector_of("1.1:5 2.1:9 3.1:1"), b = vector_of("1.1:7 3.1:1 4.1:2"), c = {0};
	cdm_vector_copy(&c, &a);
	assert_true(cdm_vector_equal(&a, &c));
	cdm_vector_merge(&c, &b);
	assert_true(cdm_vector_covers_all(&c, &a) && cdm_vector_covers_all(&c, &b));
	assert_false(cdm_vector_covers_all(&a, &b) || cdm_vector_covers_all(&b, &a));
	assert_vector(&c, "1.1:7 2.1:9 3.1:1 4.1:2");
	cdm_vector_meet(&a, &b);
	assert_vector(&a, "1.1:5 3.1:1");
	cdm_vector_fini(&b);
}

static void text_that_is_no_vector_is_refused(void **state)
{
	static const char *const bad[] = {"1", "1.1", "1.1:", "1.1:0", "0.1:1", "1.0:1", "1.1:1x", "1.1:1 1.1:2", "-1.1:1",
		"4294967296.1:1", "1.1:18446744073709551616", "1.1: 1", "a"};
	struct cdm_vector v;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		assert_int_equal(cdm_vector_parse(bad[i], &v), -EINVAL);
	v = vector_of(" 4.1:18446744073709551615  3.1:2 ");
	assert_vector(&v, "3.1:2 4.1:18446744073709551615");
	v = vector_of("");
	assert_int_equal(v.count, 0);
	struct cdm_dot d;
	assert_int_equal(cdm_dot_parse("7.2:9", &d), 0);
	assert_true(cdm_dot_equal(d, DOT(7, 2, 9)));
	assert_int_equal(cdm_dot_parse("7.2:9 ", &d), -EINVAL);
}

static void dots_name_the_node_for_people(void **state)
{
	char text[CDM_DOT_NAMED_SIZE];
	cdm_dot_format_named(DOT(7, 1, 9), "web07", text);
	assert_string_equal(text, "web07:9");
	cdm_dot_format_named(DOT(7, 3, 9), "web07", text);
	assert_string_equal(text, "web07.3:9");
	cdm_dot_format_named(DOT(7, 3, 9), NULL, text);
	assert_string_equal(text, "7.3:9");
	cdm_dot_format_named(DOT(UINT32_MAX, UINT32_MAX, UINT64_MAX), "a-name-of-the-sixty-three-bytes-that-a-name-of-a-node-may-have-x", text);
	assert_true(strlen(text) < sizeof text - 1);
}

static void bytes_come_back_and_every_truncation_is_refused(void **state)
{
	struct cdm_vector v = vector_of("1.1:5 2.3:9 70000.1:1"), back;
	uint8_t bytes[128];
	size_t n = cdm_vector_encode(&v, bytes);
	assert_int_equal(n, cdm_vector_encoded_size(&v));
	static const uint8_t golden[] = {3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0};
	assert_memory_equal(bytes, golden, sizeof golden);
	assert_int_equal(cdm_vector_decode(bytes, sizeof bytes, &back), n);
	assert_true(cdm_vector_equal(&v, &back));
	cdm_vector_fini(&back);
	for (size_t len = 0; len < n; len++)
		assert_int_equal(cdm_vector_decode(bytes, len, &back), -EBADMSG);
	uint8_t swapped[128];
	memcpy(swapped, bytes, n);
	memcpy(swapped + 4, bytes + 20, 16);
	memcpy(swapped + 20, bytes + 4, 16);
	assert_int_equal(cdm_vector_decode(swapped, n, &back), -EBADMSG);
	memset(swapped, 0xff, 4);
	assert_int_equal(cdm_vector_decode(swapped, n, &back), -EBADMSG);
	memcpy(swapped, bytes, n);
	memset(swapped + 12, 0, 8); /* number 0 */
	assert_int_equal(cdm_vector_decode(swapped, n, &back), -EBADMSG);
	cdm_vector_fini(&v);
}

static void the_higher_version_wins_by_clock_then_origin_then_number(void **state)
{
	struct cdm_version a = {DOT(1, 1, 9), 100}, b = {DOT(2, 1, 1), 99}, c = {DOT(2, 1, 1), 100}, d = {DOT(2, 1, 2), 100};
	assert_true(cdm_version_compare(&a, &b) > 0);
	assert_true(cdm_version_compare(&a, &c) < 0);
	assert_true(cdm_version_compare(&d, &c) > 0);
	assert_int_equal(cdm_version_compare(&d, &d), 0);
}

static void *take_many(void *arg)
{
	uint64_t *times = arg;
	for (int i = 0; i < 100000; i++)
		times[i] = cdm_clock_now();
	return NULL;
}

static int compare_times(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

static void the_clock_never_says_the_same_twice(void **state)
{
	uint64_t *times = calloc(200000, sizeof *times);
	pthread_t other;
	assert_non_null(times);
	assert_int_equal(pthread_create(&other, NULL, take_many, times), 0);
	take_many(times + 100000);
	pthread_join(other, NULL);
	for (int i = 1; i < 200000; i++)
		assert_true(i == 100000 || times[i] > times[i - 1]);
	qsort(times, 200000, sizeof *times, compare_times);
	for (int i = 1; i < 200000; i++)
		assert_true(times[i] > times[i - 1]);
	free(times);
}

static void a_clock_ahead_is_followed_up_to_a_minute(void **state)
{
	uint64_t now = cdm_clock_now();
	assert_false(cdm_clock_observe(now + CDM_CLOCK_AHEAD_NS + 10000000000ull));
	assert_true(cdm_clock_now() < now + CDM_CLOCK_AHEAD_NS);
	assert_true(cdm_clock_observe(now + 5000000000ull));
	assert_true(cdm_clock_now() > now + 5000000000ull);
	assert_true(cdm_clock_observe(1));
	struct timespec ts;
	clock_gettime(CLOCK_REALTIME, &ts);
	assert_in_range((uint64_t)(cdm_clock_to_ns(now) / 1000000000 - ts.tv_sec + 60), 0, 120);
}

static void a_stamp_survives_and_a_spoiled_one_is_refused(void **state)
{
	struct cdm_stamp s = {.content = {DOT(3, 1, 8841), 77}, .attr_clock = 78, .attr_origin = CDM_ORIGIN(4, 2)}, back;
	uint8_t bytes[CDM_XATTR_VERSION_SIZE];
	cdm_stamp_encode(&s, bytes);
	assert_int_equal(cdm_stamp_decode(bytes, sizeof bytes, &back), 0);
	assert_memory_equal(&s, &back, sizeof s);
	for (size_t i = 0; i < sizeof bytes; i++) {
		bytes[i] ^= 0x40;
		assert_int_equal(cdm_stamp_decode(bytes, sizeof bytes, &back), -EBADMSG);
		bytes[i] ^= 0x40;
	}
	assert_int_equal(cdm_stamp_decode(bytes, sizeof bytes - 1, &back), -EBADMSG);
}

static void a_stamp_is_kept_on_files_and_reached_through_o_path(void **state)
{
	char name[] = "stamp-XXXXXX";
	struct cdm_stamp s = {.content = {DOT(3, 1, 1), 7}}, back;
	int fd = mkstemp(name);
	assert_true(fd >= 0);
	int r = cdm_stamp_get(fd, &back);
	if (r != -ENODATA || cdm_stamp_set(fd, &s) < 0) {
		print_message("no trusted xattrs here (%s): skipped\n", strerror(-r));
		unlink(name);
		close(fd);
		skip();
	}
	int path_fd = open(name, O_PATH | O_CLOEXEC);
	assert_int_equal(cdm_stamp_get(path_fd, &back), 0);
	assert_memory_equal(&s, &back, sizeof s);
	s.attr_clock = 9;
	assert_int_equal(cdm_stamp_set(path_fd, &s), 0);
	assert_int_equal(cdm_stamp_get(fd, &back), 0);
	assert_memory_equal(&s, &back, sizeof s);
	close(path_fd);
	close(fd);
	unlink(name);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(raising_keeps_the_highest_number_and_the_order),
		cmocka_unit_test(a_later_incarnation_is_told), cmocka_unit_test(merge_and_meet_are_element_wise),
		cmocka_unit_test(text_that_is_no_vector_is_refused),
		cmocka_unit_test(dots_name_the_node_for_people),
		cmocka_unit_test(bytes_come_back_and_every_truncation_is_refused),
		cmocka_unit_test(the_higher_version_wins_by_clock_then_origin_then_number),
		cmocka_unit_test(the_clock_never_says_the_same_twice),
		cmocka_unit_test(a_clock_ahead_is_followed_up_to_a_minute),
		cmocka_unit_test(a_stamp_survives_and_a_spoiled_one_is_refused),
		cmocka_unit_test(a_stamp_is_kept_on_files_and_reached_through_o_path),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
