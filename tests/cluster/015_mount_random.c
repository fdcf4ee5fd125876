/* SPDX-License-Identifier: Apache-2.0 */
/* 015_mount_random — random operations on a small tree, each done on the store's filesystem and on the mount; results, contents and
 * attributes must stay equal, first undisturbed, then while server and watcher are killed. In the end the journal's shipped records must give
 * the same tree. SEED=n repeats a run, OPERATIONS=n sets its length. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>
#include "common/filter.h"
#include "tests/cluster/mount_fixture.h"
#include "tests/cluster/shipped.h"

#define NAMES 12          /* per directory */
#define OPEN_FILES 6
#define FILE_BYTES 300000 /* most writes stay below */
#define LOOK_EVERY 250    /* whole trees are compared */

static struct fixture *fixture;
static struct shipped tree;
static struct cdm_filter excludes;
static uint64_t position;
static uint64_t random_state;
static char data[1 << 20];

static unsigned pick(unsigned n)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (unsigned)((random_state >> 16) % n);
}

/* --- both sides --- */

static struct side {
	const char *name;
	int root;
	int fds[OPEN_FILES];
} sides[2] = {{"native", -1, {0}}, {"mount", -1, {0}}};

struct outcome {
	long r;
	int e;
	uint64_t hash; /* of what was read */
};

struct step { /* one operation with its parameters */
	unsigned op;
	char a[64], b[64];
	unsigned slot, slot2, flags;
	long offset, length, mode;
};

static uint64_t hash_of(const void *bytes, size_t len)
{
	uint64_t h = 0xcbf29ce484222325ull;

	for (size_t i = 0; i < len; i++)
		h = (h ^ ((const uint8_t *)bytes)[i]) * 0x100000001b3ull;
	return h;
}

static const char *random_path(char out[64])
{
	static const char *const dirs[] = {"", "d0/", "d1/", "d0/e0/", "d1/e1/", "d0/e0/f/"};

	snprintf(out, 64, "%s%c%u", dirs[pick(6)], "dnnnn"[pick(5)], pick(NAMES));
	if (pick(8) == 0)
		snprintf(out, 64, "%s", (const char *const[]){"d0", "d1", "d0/e0", "d1/e1", "d0/e0/f", "s0"}[pick(6)]);
	return out;
}

static void random_step(struct step *s)
{
	s->op = pick(40);
	random_path(s->a);
	random_path(s->b);
	s->slot = pick(OPEN_FILES);
	s->slot2 = pick(OPEN_FILES);
	s->flags = pick(8);
	s->offset = pick(4) ? (long)pick(FILE_BYTES) : (long)(pick(FILE_BYTES / 4096) * 4096);
	s->length = pick(4) ? (long)pick(9000) : (long)pick(FILE_BYTES / 2);
	s->mode = (long)pick(01000);
}

/* Fixed beforehand, for both sides: what is written must be equal. */
static void random_data(long length)
{
	uint64_t x = random_state | 1;

	for (long i = 0; i < length; i += 8) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		memcpy(data + i, &x, 8);
	}
}

static long reopen(struct side *d, const struct step *s)
{
	static const int flags[] = {O_RDWR, O_RDWR | O_CREAT, O_RDWR | O_CREAT | O_EXCL, O_RDWR | O_TRUNC, O_RDWR | O_APPEND, O_RDWR | O_CREAT | O_TRUNC,
		O_RDONLY, O_RDWR | O_CREAT | O_SYNC};

	if (d->fds[s->slot] >= 0)
		close(d->fds[s->slot]);
	d->fds[s->slot] = openat(d->root, s->a, flags[s->flags] | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, s->mode | 0600);
	return d->fds[s->slot] >= 0 ? 0 : -1;
}

static long by_mapping(int fd, const struct step *s, uint64_t *hash)
{
	long length = s->length % 50000 + 1, page = s->offset & ~4095l;
	struct stat st;
	char *m;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return -1;
	if (page + length > st.st_size) /* behind the end is SIGBUS, there as here */
		length = st.st_size - page;
	if (length <= 0)
		return -2;
	m = mmap(NULL, (size_t)length, PROT_READ | (s->flags & 1 ? PROT_WRITE : 0), MAP_SHARED, fd, page);
	if (m == MAP_FAILED)
		return -1;
	if (s->flags & 1)
		memcpy(m, data, (size_t)length);
	*hash = hash_of(m, (size_t)length);
	if (s->flags & 2)
		msync(m, (size_t)length, MS_SYNC);
	return munmap(m, (size_t)length);
}

static long with_xattr(struct side *d, const struct step *s)
{
	char path[600], name[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", d->root, s->a);
	snprintf(name, sizeof(name), "user.x%u", s->flags & 3);
	return s->flags & 4 ? lremovexattr(path, name) : lsetxattr(path, name, data, (size_t)s->length % 200, 0);
}

static long link_unnamed(struct side *d, const struct step *s)
{
	char name[64];
	int fd = openat(d->root, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0640);
	long r;

	if (fd < 0)
		return -1;
	r = write(fd, data, (size_t)s->length % 5000);
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	r = linkat(AT_FDCWD, name, d->root, s->a, AT_SYMLINK_FOLLOW);
	int e = errno;
	close(fd);
	errno = e;
	return r;
}

static long change_content(struct side *d, const struct step *s, uint64_t *hash)
{
	int fd = d->fds[s->slot];
	off_t from = s->offset, to = s->mode * 512;
	struct stat st;
	ssize_t n;

	if (fd >= 0 && fstat(fd, &st) == 0 && !S_ISREG(st.st_mode))
		return -2; /* seeking in a directory is each filesystem's own */
	switch (s->op) {
	case 0: case 1: case 2: case 3:
		return pwrite(fd, data, (size_t)s->length, s->offset);
	case 4: case 5:
		n = pread(fd, data + sizeof(data) / 2, (size_t)s->length, s->offset);
		*hash = n > 0 ? hash_of(data + sizeof(data) / 2, (size_t)n) : 0;
		return n;
	case 6:
		return ftruncate(fd, s->offset);
	case 7: case 8:
		return by_mapping(fd, s, hash);
	case 9:
		return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, s->offset, s->length + 1);
	case 10:
		return fallocate(fd, s->flags & 1 ? FALLOC_FL_ZERO_RANGE : s->flags & 2 ? FALLOC_FL_KEEP_SIZE : 0, s->offset, s->length + 1);
	case 11:
		return copy_file_range(fd, &from, d->fds[s->slot2], &to, (size_t)s->length, 0);
	case 12:
		return s->flags & 1 ? fsync(fd) : fdatasync(fd);
	case 13:
		return lseek(fd, s->offset, s->flags & 1 ? SEEK_END : SEEK_SET) < 0 ? -1 : write(fd, data, (size_t)s->length % 3000);
	default:
		return fchmod(fd, (mode_t)s->mode);
	}
}

static long change_names(struct side *d, const struct step *s)
{
	const struct timespec ts[2] = {{s->offset, s->length}, {s->length, s->offset}};

	switch (s->op) {
	case 15: case 16: case 17: case 18:
		return reopen(d, s);
	case 19: case 20:
		return mkdirat(d->root, s->a, (mode_t)s->mode | 0700);
	case 21: case 22: case 23:
		return unlinkat(d->root, s->a, 0);
	case 24: case 25:
		return unlinkat(d->root, s->a, AT_REMOVEDIR);
	case 26: case 27: case 28: case 29:
		return renameat2(d->root, s->a, d->root, s->b, s->flags == 0 ? RENAME_EXCHANGE : s->flags == 1 ? RENAME_NOREPLACE : 0);
	case 30: case 31:
		return linkat(d->root, s->a, d->root, s->b, 0);
	case 32:
		return symlinkat(s->b, d->root, s->a);
	case 33:
		return mknodat(d->root, s->a, S_IFIFO | 0600, 0);
	case 34:
		return fchmodat(d->root, s->a, (mode_t)s->mode | 0400, 0);
	case 35:
		return fchownat(d->root, s->a, (uid_t)s->flags, (gid_t)s->slot, AT_SYMLINK_NOFOLLOW);
	case 36:
		return utimensat(d->root, s->a, ts, AT_SYMLINK_NOFOLLOW);
	case 37:
		return with_xattr(d, s);
	case 38:
		return link_unnamed(d, s);
	default:
		if (d->fds[s->slot] >= 0)
			close(d->fds[s->slot]);
		d->fds[s->slot] = -1;
		return 0;
	}
}

static struct outcome perform(struct side *d, const struct step *s)
{
	struct outcome o = {0};

	errno = 0;
	o.r = s->op < 15 ? change_content(d, s, &o.hash) : change_names(d, s);
	o.e = o.r < 0 ? errno : 0;
	return o;
}

/* --- comparing trees --- */

static void describe(struct side *d, const char *path, const struct stat *st, char out[512])
{
	char full[600], target[256] = "";
	ssize_t n = 0;
	uint64_t content = 0;

	if (S_ISREG(st->st_mode)) {
		int fd = openat(d->root, path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
		while (fd >= 0 && (n = read(fd, data + sizeof(data) / 2, sizeof(data) / 2)) > 0)
			content = content * 31 + hash_of(data + sizeof(data) / 2, (size_t)n);
		close(fd);
	} else if (S_ISLNK(st->st_mode) && readlinkat(d->root, path, target, sizeof(target) - 1) < 0) {
		target[0] = '?';
	}
	snprintf(full, sizeof(full), "/proc/self/fd/%d/%s", d->root, path);
	n = llistxattr(full, NULL, 0);
	snprintf(out, 512, "%s: mode %o uid %u gid %u links %lu size %lld %s xattrs %zd content %016lx", path, st->st_mode, st->st_uid, st->st_gid,
		(unsigned long)st->st_nlink, S_ISDIR(st->st_mode) ? 0ll : (long long)st->st_size, target, n, (unsigned long)content);
}

static void compare_path(const char *path)
{
	char text[2][512] = {"absent", "absent"};
	struct stat st;

	for (int i = 0; i < 2; i++) {
		if (fstatat(sides[i].root, path, &st, AT_SYMLINK_NOFOLLOW) == 0)
			describe(&sides[i], path, &st, text[i]);
	}
	if (strcmp(text[0], text[1]) != 0)
		fail_msg("native %s\nmount  %s", text[0], text[1]);
}

static void compare_trees(void)
{
	static const char *const dirs[] = {"", "d0/", "d1/", "d0/e0/", "d1/e1/", "d0/e0/f/"};
	char path[64];

	for (size_t i = 0; i < sizeof(dirs) / sizeof(*dirs); i++)
		for (unsigned k = 0; k < NAMES; k++)
			for (const char *c = "dn"; *c; c++) {
				snprintf(path, sizeof(path), "%s%c%u", dirs[i], *c, k);
				compare_path(path);
			}
	for (int i = 0; i < OPEN_FILES; i++) {
		struct stat a, b;
		if (sides[0].fds[i] < 0)
			continue;
		assert_int_equal(fstat(sides[0].fds[i], &a), 0);
		assert_int_equal(fstat(sides[1].fds[i], &b), 0);
		if (a.st_size != b.st_size && S_ISREG(a.st_mode))
			fail_msg("open file %d: size %lld, on the mount %lld", i, (long long)a.st_size, (long long)b.st_size);
		if (a.st_nlink != b.st_nlink)
			fail_msg("open file %d: links %lu, on the mount %lu", i, (unsigned long)a.st_nlink, (unsigned long)b.st_nlink);
	}
}

/* --- runs --- */

static void begin_run(const char *name, uint64_t seed)
{
	const char *const bases[2] = {fixture->native, fixture->mnt};
	char path[300];

	random_state = seed;
	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%s/%s", bases[i], name);
		assert_int_equal(mkdir(path, 0755), 0);
		sides[i].root = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		assert_true(sides[i].root >= 0);
		for (int k = 0; k < OPEN_FILES; k++)
			sides[i].fds[k] = -1;
	}
}

static void end_run(void)
{
	for (int i = 0; i < 2; i++) {
		for (int k = 0; k < OPEN_FILES; k++)
			if (sides[i].fds[k] >= 0)
				close(sides[i].fds[k]);
		close(sides[i].root);
	}
}

static void run(const char *name, long operations)
{
	uint64_t seed = getenv("SEED") ? strtoull(getenv("SEED"), NULL, 10) : (uint64_t)time(NULL) * 1000003 + (uint64_t)getpid();

	if (getenv("OPERATIONS"))
		operations = atol(getenv("OPERATIONS"));
	print_message("SEED=%llu\n", (unsigned long long)seed);
	begin_run(name, seed);
	for (long i = 0; i < operations; i++) {
		struct step s;
		random_step(&s);
		random_data(s.op < 15 || s.op > 36 ? FILE_BYTES : 0);
		struct outcome a = perform(&sides[0], &s), b = perform(&sides[1], &s);
		if (a.r != b.r || a.e != b.e || a.hash != b.hash)
			fail_msg("SEED=%llu operation %ld: %u(%s, %s, slot %u/%u, flags %u, offset %ld, length %ld, mode %lo) = %ld %s %lx, on the mount %ld %s %lx",
				(unsigned long long)seed, i, s.op, s.a, s.b, s.slot, s.slot2, s.flags, s.offset, s.length, (unsigned long)s.mode, a.r,
				strerrorname_np(a.e), (unsigned long)a.hash, b.r, strerrorname_np(b.e), (unsigned long)b.hash);
		if (i % LOOK_EVERY == LOOK_EVERY - 1)
			compare_trees();
	}
	compare_trees();
	end_run();
}

static bool is_excluded(const char *path)
{
	return cdm_filter_match(&excludes, path, strlen(path)) != NULL;
}

static bool is_shipped(void *arg)
{
	position = fixture_journal_read(fixture, position, shipped_record, &tree);
	if (fixture_unsaved(fixture) > 0)
		return false;
	position = fixture_journal_read(fixture, position, shipped_record, &tree); /* what was saved since */
	return true;
}

static void journal_gives_the_tree(void)
{
	fixture_wait("everything to be saved", is_shipped, NULL);
	shipped_assert_equal(&tree, fixture, is_excluded);
}

static void undisturbed(void **state)
{
	run("calm", 20000);
	journal_gives_the_tree();
}

static atomic_bool stop_killing;

static void *kill_often(void *arg)
{
	unsigned seed = 1;

	while (!atomic_load(&stop_killing)) {
		poll(NULL, 0, 20 + (int)(rand_r(&seed) % 150)); /* the moment of the kill */
		pid_t victim = fixture_pid(fixture, rand_r(&seed) % 5 ? "server" : "watcher");
		if (victim > 0)
			kill(victim, SIGKILL);
	}
	return NULL;
}

static void under_kills(void **state)
{
	pthread_t killer;

	atomic_store(&stop_killing, false);
	assert_int_equal(pthread_create(&killer, NULL, kill_often, NULL), 0);
	run("killed", 6000);
	atomic_store(&stop_killing, true);
	pthread_join(killer, NULL);
	journal_gives_the_tree();
}

static int stop_killer(void **state)
{
	atomic_store(&stop_killing, true);
	return 0;
}

static int mount_all(void **state)
{
	char point[160];

	for (const char *const *x = cdm_filter_default_excludes; *x; x++)
		cdm_filter_add(&excludes, *x);
	snprintf(point, sizeof(point), "%s/point", fixture->dir);
	setenv("CDMFS_FAULTPOINT_FILE", point, 1); /* no pauses between deaths; no point is ever named */
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
	const struct CMUnitTest tests[] = {cmocka_unit_test(undisturbed), cmocka_unit_test_teardown(under_kills, stop_killer)};

	fixture = f;
	return cmocka_run_group_tests_name("mount_random", tests, mount_all, unmount_all);
}

int main(void)
{
	return fixture_main(body);
}
