/* SPDX-License-Identifier: Apache-2.0 */
/* What is left to be asked of neighbours that come late, as it is kept in a store. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "replicator/unsure_late.h"
#include "store_rig.h"

static void what_was_written_is_read(void **state)
{
	struct late l = {0}, got = {0};
	size_t at = 0;
	assert_int_equal(late_read(store_fd, &got, NULL), 0);
	late_add_asked(&l, 3);
	late_add_asked(&l, 4000000000u);
	late_add_asked(&l, 3);
	late_add_path(&l, "a line\nand more", 15);
	late_add_path(&l, "dir/file", 8);
	assert_int_equal(late_write(store_fd, &l, NULL), 0);
	assert_int_equal(late_read(store_fd, &got, NULL), 1);
	assert_int_equal(got.asked_count, 2);
	assert_true(late_was_asked(&got, 3) && late_was_asked(&got, 4000000000u) && !late_was_asked(&got, 4));
	assert_string_equal(late_next_path(&got, &at), "a line\nand more");
	assert_string_equal(late_next_path(&got, &at), "dir/file");
	assert_null(late_next_path(&got, &at));
	late_fini(&got);
	late_fini(&l);
}

static void without_a_path_there_is_no_file(void **state)
{
	struct late l = {0}, got = {0};
	late_add_asked(&l, 3);
	late_add_path(&l, "file", 4);
	assert_int_equal(late_write(store_fd, &l, NULL), 0);
	late_fini(&l);
	assert_int_equal(late_write(store_fd, &l, NULL), 0);
	assert_int_equal(late_read(store_fd, &got, NULL), 0);
	assert_int_equal(late_write(store_fd, &l, NULL), 0);
}

static void the_nodes_asked_first_make_way(void **state)
{
	struct late l = {0};
	for (uint32_t i = 1; i <= LATE_ASKED_MAX + 1; i++)
		late_add_asked(&l, i);
	assert_int_equal(l.asked_count, LATE_ASKED_MAX);
	assert_true(!late_was_asked(&l, 1) && late_was_asked(&l, 2) && late_was_asked(&l, LATE_ASKED_MAX + 1));
}

static int read_of(const char *bytes, size_t len)
{
	struct late got = {0};
	int fd = openat(store_fd, ".cdmfs/late", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0 && write(fd, bytes, len) == (ssize_t)len && close(fd) == 0);
	int r = late_read(store_fd, &got, NULL);
	if (r < 0)
		assert_true(!got.asked_count && !got.paths.len);
	late_fini(&got);
	return r;
}

static void what_is_damaged_is_refused(void **state)
{
	static const char good[] = "asked 1 22\nfile\0dir/other";
	assert_int_equal(read_of(good, sizeof good), 1);
	for (size_t len = 0; len < sizeof good; len++)
		if (len != strlen(good) + 1)
			assert_int_equal(read_of(good, len), -EBADMSG);
	assert_int_equal(read_of("asked 1\n../file", 16), -EBADMSG);
	assert_int_equal(read_of("asked 1\n.cdmfs/late", 20), -EBADMSG);
	assert_int_equal(read_of("asked 1 x\nfile", 15), -EBADMSG);
	assert_int_equal(read_of("asked 1\nfile\0", 14), -EBADMSG);
	assert_int_equal(read_of("else", 5), -EBADMSG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_written_is_read),
		cmocka_unit_test(without_a_path_there_is_no_file),
		cmocka_unit_test(the_nodes_asked_first_make_way),
		cmocka_unit_test(what_is_damaged_is_refused),
	};
	return cmocka_run_group_tests(tests, store_set_up, store_tear_down);
}
