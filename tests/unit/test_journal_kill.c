/* SPDX-License-Identifier: Apache-2.0 */
/* kill -9 of a writer with four appending threads, at random instants, again and again on one journal. What the threads
 * knew is in shared memory: after each death the journal must know it, too. */
#include "journal_rig.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <time.h>

#define THREADS 4
#define ROUNDS 12
#define NUMBERS (1u << 22)

struct shared {
	_Atomic uint32_t ready, appended;
	_Atomic uint8_t known[NUMBERS]; /* by number: 1 appended, 2 settled as done, 3 as failed */
};

struct writer {
	struct rig *rig;
	struct shared *shared;
	unsigned seed;
};

static void *write_for_ever(void *arg)
{
	struct writer *w = arg;
	char path[64];
	for (unsigned i = 0;; i++) {
		int tail = (int)(rand_r(&w->seed) % 20);
		snprintf(path, sizeof path, "dir%u/file-%u%.*s", w->seed % 7, i, tail, "xxxxxxxxxxxxxxxxxxxx");
		struct cdm_change c = rig_write_change(path);
		if (cdm_journal_append(w->rig->j, &c) < 0 || c.dot.number >= NUMBERS)
			_exit(1);
		atomic_store(&w->shared->known[c.dot.number], 1);
		atomic_fetch_add(&w->shared->appended, 1);
		bool failed = rand_r(&w->seed) % 16 == 0;
		cdm_journal_settle(w->rig->j, &c, failed ? CDM_FAILED : CDM_DONE, EPERM);
		atomic_store(&w->shared->known[c.dot.number], failed ? 3 : 2);
	}
	return NULL;
}

static void settle_pending(struct rig *rig)
{
	struct cdm_change c;
	unsigned pending = 0;
	int n;
	while ((n = cdm_journal_next_pending(rig->j, &c)) == 1) {
		pending++;
		cdm_journal_settle(rig->j, &c, CDM_DONE, 0);
		cdm_change_fini(&c);
	}
	assert_int_equal(n, 0);
	assert_in_range(pending, 0, THREADS);
}

static void write_until_killed(struct rig *rig, struct shared *shared, unsigned seed)
{
	struct writer writers[THREADS];
	pthread_t thread;
	if (rig_try_open(rig) < 0)
		_exit(2);
	settle_pending(rig);
	atomic_store(&shared->ready, 1);
	for (unsigned i = 0; i < THREADS; i++) {
		writers[i] = (struct writer){rig, shared, seed + i};
		if (pthread_create(&thread, NULL, write_for_ever, &writers[i]))
			_exit(3);
	}
	for (;;)
		pause();
}

/* The child is past so many appends. Spins: the instant should be any, not one after a system call. */
static void await_appends(pid_t pid, struct shared *shared, uint32_t count)
{
	struct timespec start, now;
	clock_gettime(CLOCK_MONOTONIC, &start);
	while (atomic_load(&shared->appended) < count) {
		clock_gettime(CLOCK_MONOTONIC, &now);
		if (now.tv_sec - start.tv_sec > 30 || waitpid(pid, NULL, WNOHANG) == pid)
			fail_msg("the writer ended or hangs after %u of %u appends", atomic_load(&shared->appended), count);
	}
}

struct seen {
	uint64_t next;
};

/* Readers skip failed records: a hole in the numbers must be one that failed, or whose settling nobody can know of. */
static void check_journal(struct cdm_journal_reader *r, struct shared *shared, struct seen *seen)
{
	struct cdm_change c;
	int n;
	while ((n = cdm_journal_reader_next(r, &c)) == 1) {
		if (cdm_dot_is_none(c.dot))
			continue;
		assert_true(c.dot.number >= seen->next);
		for (; seen->next < c.dot.number; seen->next++)
			assert_int_not_equal(atomic_load(&shared->known[seen->next]), 2);
		assert_int_not_equal(atomic_load(&shared->known[seen->next]), 3);
		seen->next++;
	}
	assert_int_equal(n, 0);
}

static uint64_t highest_known(const struct shared *shared)
{
	uint64_t n = NUMBERS - 1;
	while (n > 0 && !atomic_load(&shared->known[n]))
		n--;
	return n;
}

static void nothing_settled_is_lost_by_kill(void **state)
{
	struct rig rig;
	struct seen seen = {.next = 1};
	unsigned seed = (unsigned)time(NULL);
	struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(shared != MAP_FAILED);
	print_message("seed %u\n", seed);
	rig_init(&rig);
	uint64_t position = 0;
	for (int round = 0; round < ROUNDS; round++) {
		atomic_store(&shared->appended, 0);
		pid_t pid = fork();
		assert_true(pid >= 0);
		if (pid == 0)
			write_until_killed(&rig, shared, seed + (unsigned)round * 100);
		await_appends(pid, shared, (uint32_t)(rand_r(&seed) % 20000));
		assert_int_equal(kill(pid, SIGKILL), 0);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
		bool was_opened = position > 0 || highest_known(shared) > 0 || atomic_load(&shared->ready);
		if (was_opened)
			rig_assert_note_is_true(&rig);
		rig_open(&rig);
		assert_int_equal(rig.state.tail_alive, was_opened);
		settle_pending(&rig);
		struct cdm_journal_reader *r = rig_reader(&rig);
		assert_int_equal(cdm_journal_reader_seek(r, position), 0);
		check_journal(r, shared, &seen);
		uint64_t number = rig_put(&rig, 1);
		assert_true(number > highest_known(shared) && number <= highest_known(shared) + THREADS + 1);
		atomic_store(&shared->known[number], 2);
		check_journal(r, shared, &seen);
		assert_int_equal(seen.next, number + 1);
		position = cdm_journal_reader_position(r);
		cdm_journal_reader_close(&r);
		rig_close(&rig);
	}
	rig_fini(&rig);
	munmap(shared, sizeof *shared);
}

#ifdef CDM_FAULTPOINTS

/* --- killed at named points: this program anew, as "write DIRECTORY", with the point in its environment --- */

struct progress { /* in a shared file */
	_Atomic uint64_t put, synced;
};

static struct progress *map_progress(const char *dir)
{
	char path[128];
	snprintf(path, sizeof path, "%s/progress", dir);
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, sizeof(struct progress)) < 0)
		return MAP_FAILED;
	struct progress *p = mmap(NULL, sizeof *p, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	return p;
}

static int write_and_sync(const char *dir)
{
	struct rig rig;
	rig_attach(&rig, dir);
	struct progress *progress = map_progress(dir);
	if (progress == MAP_FAILED || rig_try_open(&rig) < 0)
		return 1;
	for (int i = 0; i < 8000; i++) {
		struct cdm_change c = rig_write_change("some/file");
		if (cdm_journal_put(rig.j, &c) < 0)
			return 2;
		atomic_store(&progress->put, c.dot.number);
		if (i % 500 == 0 && cdm_journal_sync(rig.j) == 0)
			atomic_store(&progress->synced, c.dot.number);
	}
	return 0;
}

static void run_to_point(struct rig *rig, const char *point)
{
	int status;
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		setenv("CDMFS_FAULTPOINT", point, 1);
		execl("/proc/self/exe", "test_journal_kill", "write", rig->dir, NULL);
		_exit(99);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void check_after_point(const char *point, bool lose_tail)
{
	struct rig rig;
	unsigned count;
	rig_init(&rig);
	run_to_point(&rig, point);
	struct progress *progress = map_progress(rig.dir);
	assert_true(progress != MAP_FAILED);
	if (lose_tail)
		rig_lose_tail(&rig);
	else
		rig_assert_note_is_true(&rig);
	rig_open(&rig);
	assert_int_equal(rig.state.tail_alive, !lose_tail);
	settle_pending(&rig);
	struct cdm_journal_reader *r = rig_reader(&rig);
	uint64_t last = rig_read_numbers(r, 0, &count);
	assert_int_equal(last, count);
	assert_true(last >= (lose_tail ? progress->synced : progress->put));
	cdm_journal_reader_close(&r);
	munmap(progress, sizeof *progress);
	rig_fini(&rig);
}

static void nothing_is_lost_at_any_named_point(void **state)
{
	static const char *const points[] = {"journal.appended_not_done", "journal.appended_not_done:3000",
		"journal.segment_full_next_not_made", "journal.segment_full_next_not_made:2",
		"journal.written_not_synced", "journal.written_not_synced:7", "journal.synced_not_noted", "journal.synced_not_noted:7",
		"journal.noted_not_next", "journal.noted_not_next:7"};
	for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
		check_after_point(points[i], false);
		check_after_point(points[i], true);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_settled_is_lost_by_kill),
		cmocka_unit_test(nothing_is_lost_at_any_named_point),
	};
	if (argc == 3 && strcmp(argv[1], "write") == 0)
		return write_and_sync(argv[2]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(nothing_settled_is_lost_by_kill)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

#endif
