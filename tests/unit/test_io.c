/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "common/io.h"

static char dir[] = "/tmp/cdm-test-io-XXXXXX";
static int dir_fd = -1;

/* Calls to the table count down; the one that brings it to zero fails (or all from there on). -1: none fails. */
static int countdown = -1, fail_with;
static bool fail_for_good;

static bool fault(void)
{
	if (countdown < 0)
		return false;
	if (countdown > 0 && --countdown > 0)
		return false;
	if (!fail_for_good)
		countdown = -1;
	return true;
}
static ssize_t short_pwrite(int fd, const void *buf, size_t len, off_t offset)
{
	static int calls;
	if (++calls % 3 == 0) {
		errno = EINTR;
		return -1;
	}
	return pwrite(fd, buf, len > 5 ? 5 : len, offset);
}
static ssize_t faulty_pwrite(int fd, const void *buf, size_t len, off_t offset)
{
	if (fault()) {
		errno = fail_with;
		return -1;
	}
	return pwrite(fd, buf, len, offset);
}
static int faulty_fsync(int fd)
{
	if (fault()) {
		errno = fail_with;
		return -1;
	}
	return fsync(fd);
}
static int faulty_renameat2(int olddir, const char *from, int newdir, const char *to, unsigned flags)
{
	if (fault()) {
		errno = fail_with;
		return -1;
	}
	return renameat2(olddir, from, newdir, to, flags);
}

static void empty_directory(int fd)
{
	DIR *d = fdopendir(openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	for (struct dirent *e; (e = readdir(d));) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		if (e->d_type == DT_DIR) {
			int sub = openat(fd, e->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
			empty_directory(sub);
			close(sub);
			unlinkat(fd, e->d_name, AT_REMOVEDIR);
		} else {
			unlinkat(fd, e->d_name, 0);
		}
	}
	closedir(d);
}

static int make_dir(void **state)
{
	strcpy(dir + strlen(dir) - 6, "XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return dir_fd < 0 ? -1 : 0;
}

static int remove_dir(void **state)
{
	cdm_io_table = (struct cdm_io_table){pwrite, fsync, fdatasync, syncfs, renameat2};
	empty_directory(dir_fd);
	close(dir_fd);
	return rmdir(dir);
}

static size_t count_entries(void)
{
	size_t n = 0;
	DIR *d = fdopendir(openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	while (readdir(d))
		n++;
	closedir(d);
	return n - 2;
}

static void short_writes_are_continued(void **state)
{
	char in[100], out[100];
	for (size_t i = 0; i < sizeof in; i++)
		in[i] = (char)i;
	cdm_io_table.pwrite = short_pwrite;
	int fd = openat(dir_fd, "f", O_RDWR | O_CREAT, 0600);
	assert_int_equal(cdm_pwrite_all(fd, in, sizeof in, 7), 0);
	assert_int_equal(cdm_pread_all(fd, out, sizeof out, 7), 0);
	assert_memory_equal(in, out, sizeof in);
	assert_int_equal(cdm_pread_all(fd, out, sizeof out, 8), -ENODATA);
	assert_int_equal(cdm_fsync(fd), 0);
	assert_int_equal(cdm_fdatasync(fd), 0);
	close(fd);
}

static void replace_leaves_the_old_or_the_new(void **state)
{
	static const int errors[] = {EIO, ENOSPC};
	cdm_io_table.pwrite = faulty_pwrite;
	cdm_io_table.fsync = faulty_fsync;
	cdm_io_table.renameat2 = faulty_renameat2;
	for (size_t e = 0; e < 4; e++) {
		fail_with = errors[e % 2];
		fail_for_good = e >= 2; /* else: only the nth call fails */
		bool done = false;
		for (int nth = 1; !done; nth++) {
			countdown = -1;
			assert_int_equal(cdm_replace_file(dir_fd, "f", "old", 3, 0640, NULL), 0);
			countdown = nth;
			struct cdm_error err = CDM_ERROR_INIT;
			int r = cdm_replace_file(dir_fd, "f", "newer", 5, 0600, &err);
			done = r == 0;
			char *text = NULL;
			size_t len = 0;
			assert_int_equal(cdm_read_file(dir_fd, "f", 100, &text, &len, NULL), 0);
			if (r == 0)
				assert_string_equal(text, "newer");
			else
				assert_true(r == -fail_with && (strcmp(text, "old") == 0 || strcmp(text, "newer") == 0));
			assert_int_equal(len, strlen(text));
			free(text);
			assert_int_equal(count_entries(), 1);
			assert_true(nth < 10);
		}
	}
	struct stat st;
	assert_int_equal(fstatat(dir_fd, "f", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
}

static void a_large_file_is_not_read(void **state)
{
	struct cdm_error err = CDM_ERROR_INIT;
	char *text = NULL;
	static char big[10000];
	assert_int_equal(cdm_replace_file(dir_fd, "f", big, sizeof big, 0600, NULL), 0);
	assert_int_equal(cdm_read_file(dir_fd, "f", sizeof big - 1, &text, NULL, &err), -EFBIG);
	assert_null(text);
	assert_int_equal(cdm_read_file(dir_fd, "f", sizeof big, &text, NULL, &err), 0);
	free(text);
	assert_int_equal(cdm_read_file(dir_fd, "none", 1, &text, NULL, &err), -ENOENT);
	assert_int_equal(cdm_read_file(dir_fd, ".", 1, &text, NULL, &err), -EISDIR);
}

static void directories_are_made_down_to_the_last(void **state)
{
	char path[200];
	struct cdm_error err = CDM_ERROR_INIT;
	snprintf(path, sizeof path, "%s/a/b//c/", dir);
	assert_int_equal(cdm_make_dirs(path, 0700, &err), 0);
	assert_int_equal(cdm_make_dirs(path, 0700, &err), 0);
	assert_int_equal(cdm_replace_file(dir_fd, "file", "", 0, 0600, NULL), 0);
	snprintf(path, sizeof path, "%s/file/x", dir);
	assert_int_equal(cdm_make_dirs(path, 0700, &err), -ENOTDIR);
}

static int beneath(const char *path, int flags)
{
	int fd = cdm_open_beneath(dir_fd, path, strlen(path), flags, 0600);
	if (fd >= 0)
		close(fd);
	return fd >= 0 ? 0 : fd;
}

static void nothing_outside_is_reached(void **state)
{
	assert_int_equal(mkdirat(dir_fd, "d", 0700), 0);
	assert_int_equal(cdm_replace_file(dir_fd, "f", "", 0, 0600, NULL), 0);
	assert_int_equal(symlinkat("/etc", dir_fd, "abs"), 0);
	assert_int_equal(symlinkat("d", dir_fd, "rel"), 0);
	assert_int_equal(beneath("f", O_RDONLY), 0);
	assert_int_equal(beneath("d/new", O_WRONLY | O_CREAT | O_EXCL), 0);
	assert_int_equal(beneath("d/new", O_WRONLY | O_CREAT | O_EXCL), -EEXIST);
	assert_int_equal(beneath("", O_RDONLY | O_DIRECTORY), 0);
	assert_int_equal(beneath("abs", O_PATH | O_NOFOLLOW), 0);
	static const char *const bad[] = {"..", "d/../../x", "/etc/passwd", "abs/passwd", "rel/new", "rel", "/"};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		if (beneath(bad[i], O_RDONLY) == 0)
			fail_msg("%s was opened", bad[i]);
	assert_int_equal(cdm_open_beneath(dir_fd, "f\0g", 3, O_RDONLY, 0), -EINVAL);
}

static void paths_longer_than_path_max_work(void **state)
{
	enum { LEVELS = 60, NAME = 200 };
	char path[LEVELS * (NAME + 1) + 1] = "";
	int at = dup(dir_fd);
	char name[NAME + 1];
	memset(name, 'n', NAME);
	name[NAME] = 0;
	for (int i = 0; i < LEVELS; i++) {
		assert_int_equal(mkdirat(at, name, 0700), 0);
		int next = openat(at, name, O_RDONLY | O_DIRECTORY);
		close(at);
		at = next;
		strcat(strcat(path, i ? "/" : ""), name);
	}
	close(at);
	assert_int_equal(beneath(path, O_RDONLY | O_DIRECTORY), 0);
	const char *last = NULL;
	int parent = cdm_open_parent(dir_fd, path, strlen(path), &last);
	assert_true(parent >= 0);
	assert_ptr_equal(last, path + strlen(path) - NAME);
	close(parent);
	memset(path, 'x', 5000);
	path[5000] = 0;
	assert_int_equal(beneath(path, O_RDONLY), -ENAMETOOLONG);
}

static void the_parent_of_a_bare_name_is_the_directory_itself(void **state)
{
	struct stat a, b;
	const char *last = NULL, *path = "name";
	int fd = cdm_open_parent(dir_fd, path, 4, &last);
	assert_true(fd >= 0 && fd != dir_fd);
	assert_int_equal(fstat(fd, &a) | fstat(dir_fd, &b), 0);
	assert_int_equal(a.st_ino, b.st_ino);
	assert_ptr_equal(last, path);
	close(fd);
	assert_true(cdm_open_parent(dir_fd, "/x", 2, &last) < 0);
	assert_true(cdm_open_parent(dir_fd, "../x", 4, &last) < 0);
	assert_true(cdm_open_parent(dir_fd, "none/x", 6, &last) == -ENOENT);
}

static void times_before_1970_are_told(void **state)
{
	struct timespec t = cdm_time_of(-1);
	assert_int_equal(t.tv_sec, -1);
	assert_int_equal(t.tv_nsec, 999999999);
	t = cdm_time_of(1500000000);
	assert_int_equal(t.tv_sec, 1);
	assert_int_equal(t.tv_nsec, 500000000);
}

int main(void)
{
#define in_dir(test) cmocka_unit_test_setup_teardown(test, make_dir, remove_dir)
	const struct CMUnitTest tests[] = {
		in_dir(short_writes_are_continued),
		in_dir(replace_leaves_the_old_or_the_new),
		in_dir(a_large_file_is_not_read),
		in_dir(directories_are_made_down_to_the_last),
		in_dir(nothing_outside_is_reached),
		in_dir(paths_longer_than_path_max_work),
		in_dir(the_parent_of_a_bare_name_is_the_directory_itself),
		cmocka_unit_test(times_before_1970_are_told),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
