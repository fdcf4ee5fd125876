/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/cluster/mount_load.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
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

#define LIST_FILES 1000
#define MAP_BYTES (4 << 20)
#define SERVED_FILES 8
#define WORKERS_MAX 20

static struct fixture *fixture;

static struct shared { /* between the test and its workers */
	volatile int stop;
	int pace_ms;
	volatile long rounds[WORKERS_MAX];
	volatile long appended[2];
	_Atomic int64_t longest_ns; /* call of the prober */
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

/* A round is done. Programs of the real world do not call without a break: how long one is, is part of the load. */
static void round_done(int w)
{
	shared->rounds[w]++;
	if (shared->pace_ms)
		poll(NULL, 0, shared->pace_ms);
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
		round_done(w);
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
		round_done(w);
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
		round_done(w);
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
		round_done(w);
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
		round_done(w);
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
		round_done(w);
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
		round_done(w);
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
		round_done(w);
	}
}

/* Lists a directory in which names come and go: those that stay are seen once. */
static void lists_changing(int w)
{
	DIR *d = opendir(in_mount("list"));
	char name[64];

	CHECK(w, d != NULL);
	for (long i = 0; !shared->stop; i++) {
		struct dirent *e;
		int count = 0;
		rewinddir(d);
		errno = 0;
		for (long k = 0; (e = readdir(d)); k++) {
			count += strncmp(e->d_name, "file-", 5) == 0;
			if (k % 300 == 100) {
				snprintf(name, sizeof(name), "list/other-%ld", (i + k) % 7);
				CHECK(w, unlink(in_mount(name)) == 0 || (errno == ENOENT && symlink("x", in_mount(name)) == 0));
				errno = 0;
			}
		}
		CHECK(w, errno == 0 && count == LIST_FILES);
		round_done(w);
	}
	closedir(d);
}

/* Files that say in their first line how long they are and what they hash to. */
static uint64_t hash_of(const char *bytes, size_t len)
{
	uint64_t h = 0xcbf29ce484222325ull;

	for (size_t i = 0; i < len; i++)
		h = (h ^ (uint8_t)bytes[i]) * 0x100000001b3ull;
	return h;
}

static size_t make_page(char *out, size_t room, unsigned *seed)
{
	size_t len = 40 + (size_t)rand_r(seed) % (room - 80);

	for (size_t i = 40; i < 40 + len; i++)
		out[i] = (char)('a' + rand_r(seed) % 26);
	snprintf(out, 40, "%06zu %016lx", len, (unsigned long)hash_of(out + 40, len));
	out[39] = '\n';
	return 40 + len;
}

static bool page_is_whole(const char *page, ssize_t n)
{
	size_t len;
	unsigned long hash;

	return n >= 40 && sscanf(page, "%zu %lx", &len, &hash) == 2 && (size_t)n == 40 + len && hash == hash_of(page + 40, len);
}

/* An editor: temporary name and rename, or a backup link and the like; always whole under its name. */
static void edits(int w)
{
	unsigned seed = (unsigned)w;
	char page[30000], name[64], temporary[64];

	for (long i = 0; !shared->stop; i++) {
		snprintf(name, sizeof(name), "site/page-%d.html", rand_r(&seed) % SERVED_FILES);
		snprintf(temporary, sizeof(temporary), "site/.page-%d.new", w);
		size_t n = make_page(page, sizeof(page), &seed);
		int fd = open(in_mount(temporary), O_WRONLY | O_CREAT | O_EXCL, 0644);
		CHECK(w, fd >= 0);
		for (size_t at = 0, part; at < n; at += part) {
			part = n - at < 7000 ? n - at : 7000;
			CHECK(w, write(fd, page + at, part) == (ssize_t)part);
		}
		CHECK(w, i % 8 || fsync(fd) == 0);
		CHECK(w, close(fd) == 0);
		if (i % 3 == 0) {
			CHECK(w, renameat2(AT_FDCWD, in_mount(temporary), AT_FDCWD, in_mount(name), RENAME_EXCHANGE) == 0);
			CHECK(w, unlink(in_mount(temporary)) == 0);
		} else {
			CHECK(w, rename(in_mount(temporary), in_mount(name)) == 0);
		}
		round_done(w);
	}
}

/* A web server: whatever the editors do, each page is there and whole. */
static void serves(int w)
{
	unsigned seed = (unsigned)w;
	char page[32000], name[64];

	for (long i = 0; !shared->stop; i++) {
		snprintf(name, sizeof(name), "site/page-%d.html", rand_r(&seed) % SERVED_FILES);
		int fd = open(in_mount(name), O_RDONLY);
		CHECK(w, fd >= 0);
		if (i % 5 == 0)
			CHECK(w, posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0);
		ssize_t n = read(fd, page, sizeof(page));
		CHECK(w, page_is_whole(page, n));
		CHECK(w, close(fd) == 0);
		round_done(w);
	}
}

/* Calls that the server must answer, one after the other: what a program feels of a death. */
static void probes(int w)
{
	int fd = open(in_mount("probe"), O_WRONLY | O_CREAT, 0644);

	CHECK(w, fd >= 0);
	for (int64_t i = 0; !shared->stop; i++) {
		int64_t begin = cdm_now_ns(), longest = atomic_load(&shared->longest_ns), took;
		CHECK(w, pwrite(fd, &i, sizeof(i), 0) == sizeof(i));
		took = cdm_now_ns() - begin;
		while (took > longest && !atomic_compare_exchange_weak(&shared->longest_ns, &longest, took))
			;
		shared->rounds[w]++;
		if (shared->pace_ms)
			poll(NULL, 0, 1);
	}
	CHECK(w, close(fd) == 0);
}

static void (*const workers[])(int) = {append_one, append_two, maps, locks, lists, lists_changing, changes_names, changes_names, reads, replaces,
	uses_removed, edits, edits, serves, serves, probes};
#define WORKERS (sizeof(workers) / sizeof(*workers))
#define PROBER (WORKERS - 1)

/* --- the test's side --- */

static pid_t pids[WORKERS];

static void fill_content(void)
{
	char *bytes = malloc(1 << 20), name[64];
	unsigned seed = 1;

	for (int i = 0; i < 1 << 20; i++)
		bytes[i] = (char)(i >> 12);
	put_file(in_mount("content"), bytes, 1 << 20);
	assert_int_equal(mkdir(in_mount("list"), 0755), 0);
	for (int i = 0; i < LIST_FILES; i++) {
		snprintf(name, sizeof(name), "list/file-%05d", i);
		put_file(in_mount(name), "x", 1);
	}
	assert_int_equal(mkdir(in_mount("site"), 0755), 0);
	for (int i = 0; i < SERVED_FILES; i++) {
		snprintf(name, sizeof(name), "site/page-%d.html", i);
		put_file(in_mount(name), bytes, make_page(bytes, 30000, &seed));
	}
	free(bytes);
}

void load_prepare(struct fixture *f)
{
	fixture = f;
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(shared != MAP_FAILED);
	fill_content();
}

void load_start(int pace_ms)
{
	memset(shared, 0, sizeof(*shared));
	shared->pace_ms = pace_ms;
	for (size_t i = 0; i < WORKERS; i++) {
		pids[i] = fork();
		if (pids[i] == 0) {
			workers[i]((int)i);
			_exit(0);
		}
	}
}

void load_look(const char *when)
{
	for (size_t i = 0; i < WORKERS; i++)
		if (shared->error[i][0])
			fail_msg("%s: worker %zu: %s", when, i, shared->error[i]);
}

static bool all_moved(void *arg)
{
	const long *before = arg;

	for (size_t i = 0; i < WORKERS; i++)
		if (shared->rounds[i] == before[i] && shared->error[i][0] == 0)
			return false;
	return true;
}

void load_wait_for_progress(void)
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

void load_check_map(const char *path)
{
	size_t len;
	uint64_t *m = (uint64_t *)get_file(path, &len);

	assert_int_equal(len, MAP_BYTES);
	for (size_t i = 0; i < MAP_BYTES / 8; i += 64)
		assert_true(m[i] == (0xfeedull << 32 | i));
	free(m);
}

void load_finish(void)
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
	check_log();
	load_check_map(in_mount("map"));
}

void load_end(void)
{
	for (size_t i = 0; i < WORKERS; i++)
		if (pids[i] > 0) {
			kill(pids[i], SIGKILL);
			waitpid(pids[i], NULL, 0);
			pids[i] = 0;
		}
}

int load_clean(void)
{
	const char *const clean[] = {"sh", "-c", "rm -rf log map lock replaced* removed names-* probe list/other-* site/.page*", NULL};

	return run_program(fixture->mnt, clean);
}

/* --- pauses --- */

static long probed_before;

void load_pause_begin(void)
{
	atomic_store(&shared->longest_ns, 0);
	probed_before = shared->rounds[PROBER];
}

static bool probed_twice(void *arg)
{
	return shared->rounds[PROBER] >= probed_before + 2 || shared->error[PROBER][0];
}

int64_t load_pause_end(void)
{
	probed_before = shared->rounds[PROBER];
	fixture_wait("two answers", probed_twice, NULL);
	return atomic_load(&shared->longest_ns);
}
