/* SPDX-License-Identifier: Apache-2.0 */
/* 014_mount_crash_points — each changing operation while the server dies at each named point of it, up to three times in a row: the call
 * gives what it would have given, happened exactly once, and the journal says so. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <cmocka.h>
#include "common/filter.h"
#include "tests/cluster/mount_fixture.h"
#include "tests/cluster/shipped.h"

static struct fixture *fixture;
static struct shipped tree;
static struct cdm_filter excludes;
static uint64_t position;
static char point_file[160];
static unsigned deaths; /* seen in all runs */
static unsigned acl_records; /* seen since the operation began */

static void see_record(const struct cdm_change *c, void *arg)
{
	acl_records += c->op == CDM_OP_SETXATTR && c->name_len > 17 && memcmp(c->name, "system.posix_acl_", 17) == 0;
	shipped_record(c, arg);
}

static void read_journal(void)
{
	position = fixture_journal_read(fixture, position, see_record, &tree);
}

/* --- arming the points --- */

static struct {
	const char *point;
	int times;
	atomic_int done;
	atomic_bool stop;
	pthread_t thread;
} armed;

static void arm(const char *point)
{
	char temporary[200];
	int fd;

	snprintf(temporary, sizeof(temporary), "%s.new", point_file);
	fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || write(fd, point, strlen(point)) < 0 || close(fd) < 0 || rename(temporary, point_file) < 0)
		abort();
}

/* Arms the point again as soon as a server has died of it. */
static void *keep_armed(void *arg)
{
	for (;;) {
		while (access(point_file, F_OK) == 0) {
			if (atomic_load(&armed.stop))
				return NULL;
			sched_yield();
		}
		if (atomic_fetch_add(&armed.done, 1) + 1 >= armed.times)
			return NULL;
		arm(armed.point);
	}
}

static void begin_dying(const char *point, int times)
{
	armed.point = point;
	armed.times = times;
	atomic_store(&armed.done, 0);
	atomic_store(&armed.stop, false);
	arm(point);
	assert_int_equal(pthread_create(&armed.thread, NULL, keep_armed, NULL), 0);
}

static int end_dying(void)
{
	atomic_store(&armed.stop, true);
	pthread_join(armed.thread, NULL);
	unlink(point_file);
	return atomic_load(&armed.done);
}

/* --- operations, in a directory of their own --- */

static int dir; /* the directory of this run */

static void make(const char *name, const char *text)
{
	int fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL, 0644);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

static bool holds(const char *name, const char *text)
{
	char buf[256];
	int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, sizeof(buf));

	if (fd >= 0)
		close(fd);
	return n == (ssize_t)strlen(text) && memcmp(buf, text, strlen(text)) == 0;
}

static bool there(const char *name)
{
	struct stat st;

	return fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

static nlink_t links_of(const char *name)
{
	struct stat st;

	return fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ? 0 : st.st_nlink;
}

static void one_file(void)
{
	make("a", "content of a");
}

static void two_files(void)
{
	make("a", "content of a");
	make("b", "content of b");
}

static int open_a(int flags)
{
	int fd = openat(dir, "a", flags);

	assert_true(fd >= 0);
	return fd;
}

static int do_mkdir(void) { return mkdirat(dir, "new", 0750); }
static bool is_mkdir(void) { return links_of("new") == 2; }
static int do_create(void)
{
	int fd = openat(dir, "new", O_WRONLY | O_CREAT | O_EXCL, 0640);

	return fd < 0 ? -1 : close(fd);
}
static bool is_create(void) { return holds("new", ""); }
static int do_symlink(void) { return symlinkat("target", dir, "new"); }
static bool is_new(void) { return links_of("new") == 1; }
static int do_fifo(void) { return mknodat(dir, "new", S_IFIFO | 0600, 0); }
static int do_link(void) { return linkat(dir, "a", dir, "new", 0); }
static bool is_link(void) { return links_of("a") == 2 && holds("new", "content of a"); }
static int do_unlink(void) { return unlinkat(dir, "a", 0); }
static bool is_gone(void) { return !there("a"); }
static void a_directory(void) { assert_int_equal(mkdirat(dir, "a", 0755), 0); }
static int do_rmdir(void) { return unlinkat(dir, "a", AT_REMOVEDIR); }
static int do_rename(void) { return renameat(dir, "a", dir, "new"); }
static bool is_renamed(void) { return !there("a") && holds("new", "content of a"); }
static int do_rename_over(void) { return renameat(dir, "a", dir, "b"); }
static bool is_renamed_over(void) { return !there("a") && holds("b", "content of a"); }
static int do_noreplace(void) { return renameat2(dir, "a", dir, "new", RENAME_NOREPLACE); }
static int do_exchange(void) { return renameat2(dir, "a", dir, "b", RENAME_EXCHANGE); }
static bool is_exchanged(void) { return holds("a", "content of b") && holds("b", "content of a"); }
static int do_rename_directory(void) { return renameat(dir, "a", dir, "new"); }
static bool is_directory_renamed(void) { return !there("a") && holds("new/inside", "inside"); }
static void a_tree(void)
{
	assert_int_equal(mkdirat(dir, "a", 0755), 0);
	make("a/inside", "inside");
}

static int do_write(void)
{
	int fd = open_a(O_WRONLY), r = pwrite(fd, "CONTENT", 7, 0) == 7 ? 0 : -1;

	close(fd);
	return r;
}
static bool is_written(void) { return holds("a", "CONTENT of a"); }
static int do_append(void)
{
	int fd = open_a(O_WRONLY | O_APPEND), r = write(fd, " and more", 9) == 9 ? 0 : -1;

	close(fd);
	return r;
}
static bool is_appended(void) { return holds("a", "content of a and more"); }
static int do_truncate(void)
{
	int fd = open_a(O_WRONLY), r = ftruncate(fd, 7);

	close(fd);
	return r;
}
static bool is_truncated(void) { return holds("a", "content"); }
static int do_chmod(void) { return fchmodat(dir, "a", 0604, 0); }
static bool is_chmodded(void)
{
	struct stat st;

	return fstatat(dir, "a", &st, 0) == 0 && (st.st_mode & 07777) == 0604;
}
static int do_times(void)
{
	const struct timespec ts[2] = {{1000, 1}, {2000, 2}};

	return utimensat(dir, "a", ts, 0);
}
static bool has_times(void)
{
	struct stat st;

	return fstatat(dir, "a", &st, 0) == 0 && st.st_mtim.tv_sec == 2000 && st.st_mtim.tv_nsec == 2;
}
static int do_setxattr(void)
{
	int fd = open_a(O_RDONLY), r = fsetxattr(fd, "user.x", "value", 5, XATTR_CREATE);

	close(fd);
	return r;
}
static bool has_xattr(void)
{
	char value[16];
	int fd = open_a(O_RDONLY);
	bool r = fgetxattr(fd, "user.x", value, sizeof(value)) == 5;

	close(fd);
	return r;
}
static void with_xattr(void)
{
	one_file();
	assert_int_equal(do_setxattr(), 0);
}
static int do_removexattr(void)
{
	int fd = open_a(O_RDONLY), r = fremovexattr(fd, "user.x");

	close(fd);
	return r;
}
static bool has_no_xattr(void) { return !has_xattr(); }
static int do_fallocate(void)
{
	int fd = open_a(O_WRONLY), r = fallocate(fd, FALLOC_FL_ZERO_RANGE, 0, 7);

	close(fd);
	return r;
}
static bool is_zeroed(void)
{
	char buf[32];
	int fd = open_a(O_RDONLY);
	bool r = read(fd, buf, sizeof(buf)) == 12 && memcmp(buf, "\0\0\0\0\0\0\0 of a", 12) == 0;

	close(fd);
	return r;
}
static int do_copy(void)
{
	int from = openat(dir, "b", O_RDONLY), to = open_a(O_WRONLY);
	off_t at = 0, there_at = 12;
	int r = copy_file_range(from, &at, to, &there_at, 12, 0) == 12 ? 0 : -1;

	close(from);
	close(to);
	return r;
}
static bool is_copied(void) { return holds("a", "content of acontent of b"); }
static int do_fsync(void)
{
	int fd = open_a(O_WRONLY), r = pwrite(fd, "CONTENT", 7, 0) == 7 ? fsync(fd) : -1;

	close(fd);
	return r;
}
static int do_tmpfile_link(void)
{
	char name[64];
	int fd = openat(dir, ".", O_TMPFILE | O_WRONLY, 0644), r;

	if (fd < 0 || write(fd, "unnamed", 7) != 7)
		return -1;
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	r = linkat(AT_FDCWD, name, dir, "new", AT_SYMLINK_FOLLOW);
	close(fd);
	return r;
}
static bool is_tmpfile_linked(void) { return holds("new", "unnamed") && links_of("new") == 1; }
/* Open while its name goes: what was there stays readable and writable. */
static int held = -1;

static void hold(const char *name, int flags)
{
	held = openat(dir, name, flags);
	assert_true(held >= 0);
}
static bool held_has(const char *text)
{
	char buf[64] = "";
	struct stat st = {0};
	bool r = pread(held, buf, sizeof(buf), 0) == (ssize_t)strlen(text) && memcmp(buf, text, strlen(text)) == 0 && fstat(held, &st) == 0 &&
		st.st_nlink == 0;

	r = r && pwrite(held, "CONTENT", 7, 0) == 7 && posix_fadvise(held, 0, 0, POSIX_FADV_DONTNEED) == 0 && pread(held, buf, 7, 0) == 7 &&
		memcmp(buf, "CONTENT", 7) == 0;
	if (!r)
		print_error("what is held has %lu links and '%.*s'\n", (unsigned long)st.st_nlink, 7, buf);
	close(held);
	return r;
}
static void one_held(void)
{
	one_file();
	hold("a", O_RDWR);
}
static bool is_gone_but_held(void) { return held_has("content of a") && !there("a"); }
static void two_one_held(void)
{
	two_files();
	hold("b", O_RDWR);
}
static bool is_renamed_over_held(void) { return held_has("content of b") && is_renamed_over(); }
static void held_directory(void)
{
	a_directory();
	hold("a", O_RDONLY | O_DIRECTORY);
}
static bool is_held_directory_gone(void)
{
	struct stat st;
	bool r = fstat(held, &st) == 0 && st.st_nlink == 0 && S_ISDIR(st.st_mode) && !there("a");

	close(held);
	return r;
}
static void held_link(void)
{
	assert_int_equal(symlinkat("target", dir, "a"), 0);
	hold("a", O_PATH | O_NOFOLLOW);
}
static bool is_held_link_gone(void)
{
	struct stat st;
	bool r = fstat(held, &st) == 0 && st.st_nlink == 0 && S_ISLNK(st.st_mode) && !there("a");

	close(held);
	return r;
}
static void linked_file(void)
{
	one_file();
	assert_int_equal(linkat(dir, "a", dir, "b", 0), 0);
}
static bool is_one_of_two_gone(void) { return !there("a") && links_of("b") == 1 && holds("b", "content of a"); }
static void two_directories(void)
{
	a_tree();
	assert_int_equal(mkdirat(dir, "b", 0755), 0);
}
static bool is_directory_over(void) { return !there("a") && holds("b/inside", "inside"); }
static void tree_and_file(void)
{
	a_tree();
	make("b", "content of b");
}
static bool is_exchanged_with_directory(void) { return holds("a", "content of b") && holds("b/inside", "inside"); }
static int do_rename_into(void) { return renameat(dir, "b", dir, "a/new"); }
static bool is_moved_into(void) { return holds("a/new", "content of b") && holds("a/inside", "inside") && !there("b"); }

#define LARGE (3u << 20)

static bool holds_large(const char *name, size_t before)
{
	int fd = openat(dir, name, O_RDONLY);
	char *buf = malloc(LARGE + 64);
	bool r = fd >= 0 && pread(fd, buf, LARGE + 64, 0) == (ssize_t)(LARGE + before);

	for (size_t i = 0; r && i < LARGE; i++)
		r = buf[before + i] == (char)('a' + i / 4096 % 26);
	free(buf);
	close(fd);
	return r;
}
static int write_large(int flags)
{
	char *buf = malloc(LARGE);
	int fd = open_a(flags), r;

	for (size_t i = 0; i < LARGE; i++)
		buf[i] = (char)('a' + i / 4096 % 26);
	r = write(fd, buf, LARGE) == LARGE ? 0 : -1;
	close(fd);
	free(buf);
	return r;
}
static int do_write_large(void) { return write_large(O_WRONLY | O_TRUNC); }
static bool is_written_large(void) { return holds_large("a", 0); }
static int do_append_large(void) { return write_large(O_WRONLY | O_APPEND); }
static bool is_appended_large(void) { return holds_large("a", 12); }
static int do_map(void)
{
	int fd = open_a(O_RDWR);
	char *m = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (m == MAP_FAILED)
		return -1;
	memcpy(m, "CONTENT", 7);
	close(fd);
	return msync(m, 4096, MS_SYNC) < 0 || munmap(m, 4096) < 0 ? -1 : 0;
}
static int do_unnamed(void)
{
	held = openat(dir, ".", O_TMPFILE | O_RDWR, 0600);
	return held >= 0 && write(held, "unnamed", 7) == 7 ? 0 : -1;
}
static bool is_unnamed(void) { return held_has("unnamed"); }
static void with_default_acl(void)
{
	static const uint8_t acl[] = {2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 5, 0, 1, 0, 0, 0, 4, 0, 5, 0, 255, 255, 255, 255,
		16, 0, 7, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255};

	assert_int_equal(fsetxattr(dir, "system.posix_acl_default", acl, sizeof(acl), 0), 0);
}
static bool is_mkdir_with_acl(void)
{
	int fd = openat(dir, "new", O_RDONLY | O_DIRECTORY);
	bool r = fgetxattr(fd, "system.posix_acl_default", NULL, 0) == 44 && fgetxattr(fd, "system.posix_acl_access", NULL, 0) == 44;

	close(fd);
	read_journal();
	return r && acl_records >= 2;
}
static void local_file(void) { make("a.local", "content of a"); }
static int do_rename_out_of_local(void) { return renameat(dir, "a.local", dir, "new"); }
static bool is_out_of_local(void) { return !there("a.local") && holds("new", "content of a"); }
static int do_link_out_of_local(void) { return linkat(dir, "a.local", dir, "new", 0); }
static bool is_linked_out_of_local(void) { return links_of("a.local") == 2 && holds("new", "content of a"); }
static int do_rename_out_and_on(void)
{
	return renameat(dir, "a.local", dir, "b") < 0 ? -1 : renameat(dir, "b", dir, "new");
}
static void local_tree(void)
{
	assert_int_equal(mkdirat(dir, "a.local", 0755), 0);
	make("a.local/inside", "inside");
}
static bool is_tree_out_of_local(void) { return !there("a.local") && holds("new/inside", "inside"); }
static int do_existing(void) { return mkdirat(dir, "a", 0755) < 0 && errno == EEXIST ? 0 : -1; }
static bool is_unchanged(void) { return holds("a", "content of a"); }

static void nothing(void)
{
}

static const struct operation {
	const char *name;
	void (*prepare)(void);
	int (*act)(void);
	bool (*check)(void);
} operations[] = {
	{"mkdir", nothing, do_mkdir, is_mkdir}, {"create", nothing, do_create, is_create}, {"symlink", nothing, do_symlink, is_new},
	{"fifo", nothing, do_fifo, is_new}, {"link", one_file, do_link, is_link}, {"unlink", one_file, do_unlink, is_gone},
	{"rmdir", a_directory, do_rmdir, is_gone}, {"rename", one_file, do_rename, is_renamed},
	{"rename over", two_files, do_rename_over, is_renamed_over}, {"rename noreplace", one_file, do_noreplace, is_renamed},
	{"exchange", two_files, do_exchange, is_exchanged}, {"rename directory", a_tree, do_rename_directory, is_directory_renamed},
	{"write", one_file, do_write, is_written}, {"append", one_file, do_append, is_appended}, {"truncate", one_file, do_truncate, is_truncated},
	{"chmod", one_file, do_chmod, is_chmodded}, {"times", one_file, do_times, has_times}, {"setxattr", one_file, do_setxattr, has_xattr},
	{"removexattr", with_xattr, do_removexattr, has_no_xattr}, {"zero range", one_file, do_fallocate, is_zeroed},
	{"copy range", two_files, do_copy, is_copied}, {"fsync", one_file, do_fsync, is_written},
	{"unlink held", one_held, do_unlink, is_gone_but_held}, {"rename over held", two_one_held, do_rename_over, is_renamed_over_held},
	{"rmdir held", held_directory, do_rmdir, is_held_directory_gone}, {"unlink held symlink", held_link, do_unlink, is_held_link_gone},
	{"unlink one of two", linked_file, do_unlink, is_one_of_two_gone}, {"directory over directory", two_directories, do_rename_over, is_directory_over},
	{"exchange with directory", tree_and_file, do_exchange, is_exchanged_with_directory}, {"rename into", tree_and_file, do_rename_into, is_moved_into},
	{"large write", one_file, do_write_large, is_written_large}, {"large append", one_file, do_append_large, is_appended_large},
	{"mapping", one_file, do_map, is_written}, {"tmpfile", nothing, do_unnamed, is_unnamed},
	{"rename out of local", local_file, do_rename_out_of_local, is_out_of_local},
	{"link out of local", local_file, do_link_out_of_local, is_linked_out_of_local},
	{"rename out of local and on", local_file, do_rename_out_and_on, is_out_of_local},
	{"rename tree out of local and on", local_tree, do_rename_out_and_on, is_tree_out_of_local},
	{"rename tree out of local", local_tree, do_rename_out_of_local, is_tree_out_of_local}, {"mkdir with ACLs", with_default_acl, do_mkdir, is_mkdir_with_acl},
	{"tmpfile and link", nothing, do_tmpfile_link, is_tmpfile_linked}, {"refused mkdir", one_file, do_existing, is_unchanged},
};

/* --- the test --- */

static bool is_excluded(const char *path)
{
	return cdm_filter_match(&excludes, path, strlen(path)) != NULL;
}

static bool all_have_died(void *arg)
{
	return atomic_load(&armed.done) == armed.times;
}

/* till_dead: the point is passed by itself, not by the operation; until that has happened nothing is looked at. */
static void run_one(const struct operation *o, const char *point, int times, bool till_dead)
{
	static unsigned run;
	char path[200];

	snprintf(path, sizeof(path), "%s/run-%u", fixture->mnt, run++);
	assert_int_equal(mkdir(path, 0755), 0);
	dir = open(path, O_RDONLY | O_DIRECTORY);
	assert_true(dir >= 0);
	o->prepare();
	read_journal();
	acl_records = 0;
	begin_dying(point, times);
	errno = 0;
	int r = o->act(), e = errno;
	if (till_dead)
		fixture_wait("the deaths", all_have_died, NULL);
	int died = end_dying();
	deaths += (unsigned)died;
	if (r < 0)
		fail_msg("%s, %s, %d deaths: %s", o->name, point, died, strerror(e));
	if (!o->check())
		fail_msg("%s, %s, %d deaths: not as it should be (see %s)", o->name, point, died, path);
	close(dir);
}

static bool all_saved(void *arg)
{
	return fixture_unsaved(fixture) == 0;
}

static void end_deaths(void)
{
	fixture_wait("everything is saved", all_saved, NULL);
	read_journal();
	shipped_assert_equal(&tree, fixture, is_excluded);
}

/* Up to three deaths at the first pass; and one, or two in a row, at later passes, where the first is not the operation itself but what
 * goes before it. */
static void die_at(const char *point)
{
	char later[64];

	for (int pass = 1; pass <= 3; pass++)
		for (int times = 1; times <= (pass == 1 ? 3 : 2); times++)
			for (size_t i = 0; i < sizeof(operations) / sizeof(*operations); i++) {
				snprintf(later, sizeof(later), "%s:%d", point, pass);
				run_one(&operations[i], later, times, false);
			}
	end_deaths();
}

static void before_the_operation(void **state)
{
	die_at("act.recorded_not_done");
}

static void after_the_operation(void **state)
{
	die_at("act.done_not_settled");
}

static void before_the_answer(void **state)
{
	die_at("session.done_not_answered");
}

static void before_the_answer_of_a_change(void **state)
{
	die_at("session.changed_not_answered");
}

static void after_the_answer(void **state)
{
	die_at("session.answered_not_noted");
}

static void after_the_outcome(void **state)
{
	die_at("act.settled_not_published");
}

static void while_appending_to_the_journal(void **state)
{
	die_at("journal.appended_not_done");
}

/* Only renames come there. */
static void die_amid_a_rename(const char *point)
{
	for (int times = 1; times <= 3; times++)
		for (size_t i = 0; i < sizeof(operations) / sizeof(*operations); i++)
			run_one(&operations[i], point, times, false);
	end_deaths();
}

static void while_what_is_replaced_is_kept(void **state)
{
	die_amid_a_rename("rename.kept_not_done");
}

static void before_new_names_are_noted(void **state)
{
	die_amid_a_rename("rename.done_not_noted");
}

static void while_saving(void **state)
{
	die_at("save.recorded_not_noted");
}

/* Syncs without a pause, so that a server is always about to note for the next one what its journal amounts to. */
static atomic_bool syncing;

static void *sync_on(void *arg)
{
	int *fd = arg;

	while (atomic_load(&syncing))
		if (pwrite(*fd, "x", 1, 0) != 1 || fsync(*fd) < 0)
			return fd;
	return NULL;
}

static void die_while_noting(const char *point)
{
	static int fd; /* of a thread that a failed test leaves behind */
	char path[200];
	pthread_t thread;
	void *failed;

	snprintf(path, sizeof(path), "%s/synced", fixture->mnt);
	fd = open(path, O_WRONLY | O_CREAT, 0644);
	assert_true(fd >= 0);
	atomic_store(&syncing, true);
	assert_int_equal(pthread_create(&thread, NULL, sync_on, &fd), 0);
	for (int times = 1; times <= 2; times++)
		for (size_t i = 0; i < sizeof(operations) / sizeof(*operations); i++)
			run_one(&operations[i], point, times, true);
	atomic_store(&syncing, false);
	pthread_join(thread, &failed);
	close(fd);
	if (failed)
		fail_msg("%s: a write or fsync beside the operations failed", point);
	end_deaths();
}

static void before_the_note_for_the_next_server(void **state)
{
	die_while_noting("journal.synced_not_noted");
}

static void after_the_note_for_the_next_server(void **state)
{
	die_while_noting("journal.noted_not_next");
}

static void servers_did_die(void **state)
{
	assert_true(deaths > 100);
}

static int mount_all(void **state)
{
	for (const char *const *x = cdm_filter_default_excludes; *x; x++)
		cdm_filter_add(&excludes, *x);
	cdm_filter_add(&excludes, "*.local");
	fixture_policy(fixture, "\"role\":\"both\",\"local\":[\"*.local\"]");
	snprintf(point_file, sizeof(point_file), "%s/point", fixture->dir);
	setenv("CDMFS_FAULTPOINT_FILE", point_file, 1);
	fixture_mount(fixture, NULL);
	return 0;
}

static int unmount_all(void **state)
{
	shipped_fini(&tree);
	cdm_filter_fini(&excludes);
	return fixture->holder ? fixture_unmount(fixture) : 0;
}

static int body(struct fixture *f)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(before_the_operation), cmocka_unit_test(after_the_operation),
		cmocka_unit_test(after_the_outcome), cmocka_unit_test(before_the_answer),
		cmocka_unit_test(before_the_answer_of_a_change), cmocka_unit_test(after_the_answer), cmocka_unit_test(while_appending_to_the_journal), cmocka_unit_test(while_saving),
		cmocka_unit_test(while_what_is_replaced_is_kept), cmocka_unit_test(before_new_names_are_noted),
		cmocka_unit_test(before_the_note_for_the_next_server), cmocka_unit_test(after_the_note_for_the_next_server),
		cmocka_unit_test(servers_did_die)};

	fixture = f;
	return cmocka_run_group_tests_name("mount_crash_points", tests, mount_all, unmount_all);
}

int main(void)
{
	return fixture_main(body);
}
