/* SPDX-License-Identifier: Apache-2.0 */
/* Does lab_same_tree see every kind of difference? The cluster tests stand on it. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <cmocka.h>
#include "tests/lab/lab.h"

static char top[] = "/tmp/cdm-tree-XXXXXX", *side[2];

static char *at(int s, const char *rel)
{
	static char path[2][200];
	snprintf(path[s], sizeof path[s], "%s/%s", side[s], rel);
	return path[s];
}

static void put(int s, const char *rel, const char *text)
{
	int fd = open(at(s, rel), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
	const struct timespec times[2] = {{.tv_sec = 1000, .tv_nsec = 5}, {.tv_sec = 1000, .tv_nsec = 5}};
	assert_int_equal(utimensat(AT_FDCWD, at(s, rel), times, 0), 0);
}

static void same_directory_times(void)
{
	const struct timespec times[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
	for (int s = 0; s < 2; s++) {
		utimensat(AT_FDCWD, side[s], times, 0);
		utimensat(AT_FDCWD, at(s, "sub"), times, 0);
	}
}

/* Two equal trees with one of each. */
static int set_up(void **state)
{
	strcpy(top, "/tmp/cdm-tree-XXXXXX");
	assert_non_null(mkdtemp(top));
	for (int s = 0; s < 2; s++) {
		assert_true(asprintf(&side[s], "%s/%c", top, 'a' + s) > 0);
		assert_int_equal(mkdir(side[s], 0755), 0);
		assert_int_equal(mkdir(at(s, "sub"), 0755), 0);
		put(s, "file", "text");
		put(s, "sub/other", "more");
		put(s, "odd\n\xff name", "x");
		assert_int_equal(symlink("somewhere", at(s, "link")), 0);
		assert_int_equal(mkfifo(at(s, "fifo"), 0600), 0);
		const struct timespec times[2] = {{.tv_sec = 7}, {.tv_sec = 7}};
		utimensat(AT_FDCWD, at(s, "link"), times, AT_SYMLINK_NOFOLLOW);
		utimensat(AT_FDCWD, at(s, "fifo"), times, 0);
		char first[200];
		strcpy(first, at(s, "file"));
		assert_int_equal(link(first, at(s, "file2")), 0);
	}
	same_directory_times();
	return 0;
}

static int tear_down(void **state)
{
	assert_int_equal(lab_remove_tree(top, NULL), 0);
	free(side[0]);
	free(side[1]);
	return 0;
}

/* They differ, and the answer says this. */
static void assert_differs(const char *expected)
{
	char *text = NULL;
	size_t len;
	same_directory_times();
	FILE *out = open_memstream(&text, &len);
	assert_int_equal(lab_same_tree(side[0], side[1], out, NULL), 1);
	fclose(out);
	if (!strstr(text, expected))
		fail_msg("'%s' does not say '%s'", text, expected);
	free(text);
}

static void equal_trees_are_equal(void **state)
{
	assert_int_equal(lab_same_tree(side[0], side[1], stderr, NULL), 0);
}

static void a_missing_and_an_extra_name_are_seen(void **state)
{
	unlink(at(0, "sub/other"));
	assert_differs("sub/other: only in the second");
}

static void odd_names_are_shown_escaped(void **state)
{
	unlink(at(1, "odd\n\xff name"));
	assert_differs("odd\\012\xff name: only in the first");
}

static void one_byte_of_content_is_seen(void **state)
{
	put(1, "sub/other", "mope");
	assert_differs("sub/other: content differs at byte 2");
}

static void one_nanosecond_is_seen(void **state)
{
	const struct timespec times[2] = {{.tv_sec = 1000, .tv_nsec = 6}, {.tv_sec = 1000, .tv_nsec = 6}};
	utimensat(AT_FDCWD, at(1, "sub/other"), times, 0);
	assert_differs("sub/other: mtime 1000.000000005 | 1000.000000006");
}

static void a_mode_is_seen(void **state)
{
	chmod(at(1, "sub"), 0700);
	assert_differs("sub: mode 755 | 700");
}

static void an_xattr_is_seen(void **state)
{
	if (setxattr(at(1, "file"), "user.a", "ok", 2, 0) < 0)
		skip(); /* this filesystem has none */
	assert_differs("file: xattrs  | user.a=6f6b");
}

static void a_type_is_seen(void **state)
{
	unlink(at(1, "fifo"));
	put(1, "fifo", "");
	assert_differs("fifo: fifo | file");
}

static void a_link_target_is_seen(void **state)
{
	unlink(at(1, "link"));
	assert_int_equal(symlink("elsewhere", at(1, "link")), 0);
	assert_differs("link: points to somewhere | elsewhere");
}

static void a_copy_in_place_of_a_hard_link_is_seen(void **state)
{
	unlink(at(1, "file2"));
	put(1, "file2", "text");
	assert_differs("file: 2 names | 1 names");
}

static void links_between_other_files_are_seen(void **state)
{
	for (int s = 0; s < 2; s++) { /* c = d, but c = file on the other side's d */
		char first[200];
		put(s, "c", "text");
		strcpy(first, at(s, s ? "file" : "c"));
		unlink(at(s, "file2"));
		assert_int_equal(link(first, at(s, "d")), 0);
	}
	assert_differs("d: is the same file as c | d");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(equal_trees_are_equal), TEST(a_missing_and_an_extra_name_are_seen), TEST(odd_names_are_shown_escaped),
		TEST(one_byte_of_content_is_seen), TEST(one_nanosecond_is_seen), TEST(a_mode_is_seen), TEST(an_xattr_is_seen), TEST(a_type_is_seen),
		TEST(a_link_target_is_seen), TEST(a_copy_in_place_of_a_hard_link_is_seen), TEST(links_between_other_files_are_seen),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
