/* SPDX-License-Identifier: Apache-2.0 */
/* 011_mount_reattach — the server and the watcher are killed again and again under load. No call of a program fails, locks stay,
 * mappings reach their file, and afterwards the content is what the programs wrote. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <cmocka.h>
#include "common/loop.h"
#include "tests/cluster/mount_fixture.h"

#define KILLS 40
#define LIST_FILES 3000
#define MAP_BYTES (4 << 20)
#define WORKERS_MAX 16

static struct fixture *fixture;

struct shared { /* between the test and its workers */
	volatile int stop;
	volatile long rounds[WORKERS_MAX];
	volatile long appended[2];
	char error[WORKERS_MAX][256];
} *shared;

/* In a worker: a call failed that must not. */
#define CHECK(worker, call) do { errno = 0; if (!(call)) { \
	snprintf(shared->error[worker], sizeof(shared->error[worker]), "%s: %s (line %d)", #call, strerror(errno), __LINE__); _exit(1); } } while (0)

static char *in_mount(const char *name)
{
	static char path[4][300];
	static unsigned turn;
	char *out = path[turn++ % 4];

	snprintf(out, 300, "%s/%s", fixture->mnt, name);
	return out;
}

/* --- the load --- */

static void appends(int w, int which)
{
	int fd = open(in_mount("log"), O_WRONLY | O_CREAT | O_APPEND, 0644);
	char line[64];

	CHECK(w, fd >= 0);
	for (long i = 0; !shared->stop; i++) {
		int n = snprintf(line, sizeof(line), "%d %08ld\n", which, i);
		CHECK(w, write(fd, line, (size_t)n) == n);
		if (i % 50 == 0)
			CHECK(w, fsync(fd) == 0);
		shared->appended[which] = i + 1;
		shared->rounds[w]++;
	}
	CHECK(w, close(fd) == 0);
}

static void append_one(int w)
{
	appends(w, 0);
}

static void append_two(int w)
{
	appends(w, 1);
}

/* Each round writes its number over the whole mapping; dirty pages are there whenever the server dies. */
static void maps(int w)
{
	int fd = open(in_mount("map"), O_RDWR | O_CREAT, 0644);

	CHECK(w, fd >= 0 && ftruncate(fd, MAP_BYTES) == 0);
	uint64_t *m = mmap(NULL, MAP_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(w, m != MAP_FAILED);
	CHECK(w, close(fd) == 0);
	for (uint64_t round = 1; !shared->stop; round++) {
		for (size_t i = 0; i < MAP_BYTES / 8; i += 64)
			m[i] = round << 32 | i;
		if (round % 3 == 0)
			CHECK(w, msync(m, MAP_BYTES, MS_SYNC) == 0);
		for (size_t i = 0; i < MAP_BYTES / 8; i += 64)
			CHECK(w, m[i] == (round << 32 | i));
		shared->rounds[w]++;
	}
	for (size_t i = 0; i < MAP_BYTES / 8; i += 64)
		m[i] = 0xfeedull << 32 | i;
	CHECK(w, munmap(m, MAP_BYTES) == 0);
}

static int take_lock(int fd)
{
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 10, .l_len = 20};

	return fcntl(fd, F_OFD_SETLK, &l);
}

static void locks(int w)
{
	int fd = open(in_mount("lock"), O_RDWR | O_CREAT, 0644), other = open(in_mount("lock"), O_RDWR);

	CHECK(w, fd >= 0 && other >= 0 && flock(fd, LOCK_EX) == 0 && take_lock(fd) == 0);
	while (!shared->stop) {
		CHECK(w, flock(other, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK);
		CHECK(w, take_lock(other) < 0 && errno == EAGAIN);
		CHECK(w, pwrite(fd, "locked", 6, 0) == 6);
		shared->rounds[w]++;
	}
}

static void lists(int w)
{
	DIR *d = opendir(in_mount("list"));

	CHECK(w, d != NULL);
	while (!shared->stop) {
		struct dirent *e;
		int count = 0;
		rewinddir(d);
		errno = 0;
		while ((e = readdir(d)))
			count += strncmp(e->d_name, "file-", 5) == 0;
		CHECK(w, errno == 0 && count == LIST_FILES);
		shared->rounds[w]++;
	}
	closedir(d);
}

/* A walk through all kinds of changes, each of which must happen exactly once. */
static void changes_names(int w)
{
	char dir[64], a[128], b[128], c[128], buf[64];

	snprintf(dir, sizeof(dir), "names-%d", w);
	for (long i = 0; !shared->stop; i++) {
		struct stat st;
		int n = snprintf(buf, sizeof(buf), "round %ld", i);
		snprintf(a, sizeof(a), "%s/a", dir), snprintf(b, sizeof(b), "%s/b", dir), snprintf(c, sizeof(c), "%s/sub/c", dir);
		CHECK(w, mkdir(in_mount(dir), 0755) == 0);
		int fd = open(in_mount(a), O_WRONLY | O_CREAT | O_EXCL, 0644);
		CHECK(w, fd >= 0);
		CHECK(w, write(fd, buf, (size_t)n) == n);
		CHECK(w, close(fd) == 0);
		CHECK(w, link(in_mount(a), in_mount(b)) == 0);
		CHECK(w, stat(in_mount(a), &st) == 0 && st.st_nlink == 2 && st.st_size == n);
		snprintf(a, sizeof(a), "%s/sub", dir);
		CHECK(w, mkdir(in_mount(a), 0700) == 0);
		CHECK(w, rename(in_mount(b), in_mount(c)) == 0);
		snprintf(a, sizeof(a), "%s/link", dir);
		CHECK(w, symlink("a", in_mount(a)) == 0);
		snprintf(b, sizeof(b), "%s/a", dir);
		CHECK(w, renameat2(AT_FDCWD, in_mount(a), AT_FDCWD, in_mount(b), RENAME_EXCHANGE) == 0);
		CHECK(w, readlink(in_mount(b), buf + 32, 16) == 1 && buf[32] == 'a');
		CHECK(w, chmod(in_mount(a), 0600) == 0);
		CHECK(w, setxattr(in_mount(a), "user.round", &i, sizeof(i), 0) == 0);
		CHECK(w, truncate(in_mount(a), 3) == 0);
		CHECK(w, stat(in_mount(c), &st) == 0 && st.st_size == 3 && (st.st_mode & 07777) == 0600);
		CHECK(w, unlink(in_mount(b)) == 0);
		CHECK(w, rename(in_mount(a), in_mount(c)) == 0); /* two names of one file: nothing happens */
		CHECK(w, unlink(in_mount(a)) == 0);
		CHECK(w, unlink(in_mount(c)) == 0);
		snprintf(a, sizeof(a), "%s/sub", dir);
		CHECK(w, rmdir(in_mount(a)) == 0);
		CHECK(w, rmdir(in_mount(dir)) == 0);
		shared->rounds[w]++;
	}
}

static void reads(int w)
{
	char *buf = malloc(1 << 20);

	for (long i = 0; !shared->stop; i++) {
		int fd = open(in_mount("content"), O_RDONLY);
		CHECK(w, fd >= 0);
		if (i % 4 == 0) /* past the cache */
			CHECK(w, posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0);
		CHECK(w, pread(fd, buf, 1 << 20, 0) == 1 << 20);
		for (int k = 0; k < 1 << 20; k += 4096)
			CHECK(w, buf[k] == (char)(k >> 12));
		CHECK(w, close(fd) == 0);
		shared->rounds[w]++;
	}
	free(buf);
}

/* Temporary, write, rename over the name: readers of the name see whole files only. */
static void replaces(int w)
{
	char text[5000];

	for (unsigned i = 0; !shared->stop; i++) {
		memset(text, (int)('a' + i % 26), sizeof(text));
		int fd = open(in_mount("replaced.new"), O_WRONLY | O_CREAT | O_TRUNC, 0644);
		CHECK(w, fd >= 0);
		CHECK(w, write(fd, text, sizeof(text)) == sizeof(text));
		CHECK(w, close(fd) == 0);
		CHECK(w, rename(in_mount("replaced.new"), in_mount("replaced")) == 0);
		fd = open(in_mount("replaced"), O_RDONLY);
		CHECK(w, fd >= 0);
		char got[6000];
		CHECK(w, read(fd, got, sizeof(got)) == sizeof(text) && memcmp(got, text, sizeof(text)) == 0);
		CHECK(w, close(fd) == 0);
		shared->rounds[w]++;
	}
}

/* A removed file that is still open keeps its content over the death of the server. */
static void uses_removed(int w)
{
	char buf[32];

	for (long i = 0; !shared->stop; i++) {
		int fd = open(in_mount("removed"), O_RDWR | O_CREAT | O_EXCL, 0600);
		CHECK(w, fd >= 0);
		CHECK(w, write(fd, "still here", 10) == 10);
		CHECK(w, unlink(in_mount("removed")) == 0);
		for (int k = 0; k < 5; k++) {
			CHECK(w, pwrite(fd, "STILL", 5, 0) == 5);
			CHECK(w, posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0);
			CHECK(w, pread(fd, buf, 10, 0) == 10 && memcmp(buf, "STILL here", 10) == 0);
		}
		CHECK(w, close(fd) == 0);
		shared->rounds[w]++;
	}
}

static void (*const workers[])(int) = {append_one, append_two, maps, locks, lists, changes_names, changes_names, reads, replaces, uses_removed};
#define WORKERS (sizeof(workers) / sizeof(*workers))

/* --- the test --- */

static void prepare_content(void)
{
	char *bytes = malloc(1 << 20), name[64];

	for (int i = 0; i < 1 << 20; i++)
		bytes[i] = (char)(i >> 12);
	put_file(in_mount("content"), bytes, 1 << 20);
	free(bytes);
	assert_int_equal(mkdir(in_mount("list"), 0755), 0);
	for (int i = 0; i < LIST_FILES; i++) {
		snprintf(name, sizeof(name), "list/file-%05d", i);
		put_file(in_mount(name), "x", 1);
	}
}

static pid_t pids[WORKERS];

static void start_workers(void)
{
	memset(shared, 0, sizeof(*shared));
	for (size_t i = 0; i < WORKERS; i++) {
		pids[i] = fork();
		if (pids[i] == 0) {
			workers[i]((int)i);
			_exit(0);
		}
	}
}

static void join_workers(void)
{
	shared->stop = 1;
	for (size_t i = 0; i < WORKERS; i++) {
		int status;
		assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
		pids[i] = 0;
		if (status != 0)
			fail_msg("worker %zu: %s (status %x)", i, shared->error[i], status);
		assert_true(shared->rounds[i] > 0);
	}
}

static bool all_moved(void *arg)
{
	const long *before = arg;

	for (size_t i = 0; i < WORKERS; i++)
		if (shared->rounds[i] == before[i] && shared->error[i][0] == 0)
			return false;
	return true;
}

/* Until every worker has come further: all of them got over it. */
static void wait_for_progress(void)
{
	long before[WORKERS_MAX];

	for (size_t i = 0; i < WORKERS; i++)
		before[i] = shared->rounds[i];
	fixture_wait("progress of all programs", all_moved, before);
}

static void check_log(void)
{
	size_t len;
	char *text = get_file(in_mount("log"), &len), *save = NULL;
	long next[2] = {0, 0};

	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		int which;
		long i;
		assert_int_equal(sscanf(line, "%d %ld", &which, &i), 2);
		assert_true(which == 0 || which == 1);
		assert_int_equal(i, next[which]);
		next[which]++;
	}
	assert_int_equal(next[0], shared->appended[0]);
	assert_int_equal(next[1], shared->appended[1]);
	free(text);
}

static void check_map(const char *path)
{
	size_t len;
	uint64_t *m = (uint64_t *)get_file(path, &len);

	assert_int_equal(len, MAP_BYTES);
	for (size_t i = 0; i < MAP_BYTES / 8; i += 64)
		assert_true(m[i] == (0xfeedull << 32 | i));
	free(m);
}

static void survives_kills(const char *which)
{
	unsigned seed = 12345;

	start_workers();
	wait_for_progress();
	for (int i = 0; i < KILLS; i++) {
		const char *victim = which ? which : rand_r(&seed) % 4 ? "server" : "watcher";
		poll(NULL, 0, (int)(rand_r(&seed) % 60)); /* the moment of the kill, not a wait for anything */
		fixture_kill(fixture, victim);
		for (size_t w = 0; w < WORKERS; w++)
			if (shared->error[w][0])
				fail_msg("after kill %d of the %s: worker %zu: %s", i, victim, w, shared->error[w]);
	}
	wait_for_progress();
	join_workers();
	check_log();
	check_map(in_mount("map"));
}

static void server_and_watcher_killed_at_random(void **state)
{
	survives_kills(NULL);
}

static void polite_restarts(void **state)
{
	start_workers();
	wait_for_progress();
	for (int i = 0; i < 10; i++) {
		pid_t before = fixture_pid(fixture, "server");
		kill(fixture->holder, SIGHUP);
		int64_t end = cdm_now_ms() + FIXTURE_DEADLINE_MS;
		while (fixture_pid(fixture, "server") == before || fixture_pid(fixture, "server") == 0) {
			assert_true(cdm_now_ms() < end);
			poll(NULL, 0, 2);
		}
		wait_for_progress();
	}
	join_workers();
	check_log();
	check_map(in_mount("map"));
}

static bool holder_mounted(void *arg)
{
	return fixture_pid(fixture, "holder") == fixture->holder;
}

/* The holder itself: server and watcher go on, the next holder takes them over. */
static void holder_killed(void **state)
{
	pid_t server = fixture_pid(fixture, "server");
	int status;

	start_workers();
	wait_for_progress();
	kill(fixture->holder, SIGKILL);
	waitpid(fixture->holder, &status, 0);
	fixture->holder = 0;
	wait_for_progress();
	fixture_mount(fixture, NULL);
	fixture_wait("the next holder", holder_mounted, NULL);
	assert_int_equal(fixture_pid(fixture, "server"), server);
	wait_for_progress();
	fixture_kill(fixture, "server");
	wait_for_progress();
	join_workers();
	check_log();
	check_map(in_mount("map"));
}

static void clean_end_and_start_again(void **state)
{
	char in_store[300];

	assert_int_equal(fixture_unmount(fixture), 0);
	snprintf(in_store, sizeof(in_store), "%s/map", fixture->store);
	check_map(in_store);
	fixture_mount(fixture, NULL);
	check_map(in_mount("map"));
}

/* Whatever a failed test left behind is not the next one's. */
static int end_workers(void **state)
{
	for (size_t i = 0; i < WORKERS; i++)
		if (pids[i] > 0) {
			kill(pids[i], SIGKILL);
			waitpid(pids[i], NULL, 0);
			pids[i] = 0;
		}
	return 0;
}

static int begin_fresh(void **state)
{
	const char *const clean[] = {"sh", "-c", "rm -rf log map lock replaced* removed names-*", NULL};

	return run_program(fixture->mnt, clean);
}

static int mount_all(void **state)
{
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	fixture_mount(fixture, NULL);
	prepare_content();
	return 0;
}

static int unmount_all(void **state)
{
	return fixture->holder ? fixture_unmount(fixture) : 0;
}

static int body(struct fixture *f)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(server_and_watcher_killed_at_random, begin_fresh, end_workers),
		cmocka_unit_test_setup_teardown(polite_restarts, begin_fresh, end_workers),
		cmocka_unit_test_setup_teardown(holder_killed, begin_fresh, end_workers),
		cmocka_unit_test(clean_end_and_start_again)};

	fixture = f;
	return cmocka_run_group_tests_name("mount_reattach", tests, mount_all, unmount_all);
}

int main(void)
{
	return fixture_main(body);
}
