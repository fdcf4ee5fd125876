/* SPDX-License-Identifier: Apache-2.0 */
/* The power goes at any write or sync of the journal. What was written since the last sync of its file is then kept or lost sector
 * by sector, as a printed seed says; what had been synced must be there, and the journal must open. */
#include "../unit/journal_rig.h"

#include <stdatomic.h>
#include <sys/mman.h>
#include <time.h>
#include "common/io.h"

#define SECTOR 512
#define UNSYNCED_MAX 4096
#define RUNS 150

static struct cdm_io_table real;
static struct unsynced {
	int fd;
	off_t offset;
	size_t len;
	uint8_t *before; /* what a lost sector goes back to */
} unsynced[UNSYNCED_MAX];
static size_t unsynced_count;
static int calls_left;
static unsigned seed;

static void restore(const struct unsynced *u)
{
	for (size_t at = 0; at < u->len;) {
		size_t n = SECTOR - (size_t)(u->offset + (off_t)at) % SECTOR;
		if (n > u->len - at)
			n = u->len - at;
		if (rand_r(&seed) % 3 == 0 && real.pwrite(u->fd, u->before + at, n, u->offset + (off_t)at) != (ssize_t)n)
			_exit(8);
		at += n;
	}
}

/* Only the flusher and, before it starts, open call these: one thread at a time. */
static void count_down_to_power_cut(void)
{
	if (--calls_left > 0)
		return;
	while (unsynced_count > 0)
		restore(&unsynced[--unsynced_count]);
	_exit(0);
}

static ssize_t noted_pwrite(int fd, const void *buf, size_t len, off_t offset)
{
	if (unsynced_count == UNSYNCED_MAX)
		_exit(9);
	struct unsynced *u = &unsynced[unsynced_count++];
	*u = (struct unsynced){.fd = fd, .offset = offset, .len = len, .before = calloc(1, len)};
	if (!u->before || pread(fd, u->before, len, offset) < 0)
		_exit(10);
	ssize_t n = real.pwrite(fd, buf, len, offset);
	count_down_to_power_cut();
	return n;
}

static int noted_sync(int fd, int (*sync_fn)(int))
{
	count_down_to_power_cut();
	size_t kept = 0;
	for (size_t i = 0; i < unsynced_count; i++) {
		if (unsynced[i].fd == fd)
			free(unsynced[i].before);
		else
			unsynced[kept++] = unsynced[i];
	}
	unsynced_count = kept;
	return sync_fn(fd);
}

static int noted_fdatasync(int fd)
{
	return noted_sync(fd, real.fdatasync);
}
static int noted_fsync(int fd)
{
	return noted_sync(fd, real.fsync);
}

static void write_until_power_cut(struct rig *rig, _Atomic uint64_t *synced)
{
	cdm_io_table.pwrite = noted_pwrite;
	cdm_io_table.fdatasync = noted_fdatasync;
	cdm_io_table.fsync = noted_fsync;
	if (rig_try_open(rig) < 0)
		_exit(2);
	for (int i = 1;; i++) {
		struct cdm_change c = rig_write_change("some/file");
		if (cdm_journal_put(rig->j, &c) < 0)
			_exit(3);
		if (i % 300 == 0 && cdm_journal_sync(rig->j) == 0)
			atomic_store(synced, c.dot.number);
	}
}

static uint64_t count_incarnation(struct rig *rig, uint32_t incarnation)
{
	struct cdm_journal_reader *r = rig_reader(rig);
	struct cdm_change c;
	uint64_t last = 0;
	int n;
	while ((n = cdm_journal_reader_next(r, &c)) == 1)
		if (CDM_ORIGIN_INCARNATION(c.dot.origin) == incarnation) {
			assert_int_equal(c.dot.number, last + 1);
			last = c.dot.number;
		}
	assert_int_equal(n, 0);
	cdm_journal_reader_close(&r);
	return last;
}

static void what_was_synced_survives_a_power_cut(void **state)
{
	unsigned first_seed = (unsigned)time(NULL);
	_Atomic uint64_t *synced = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(synced != MAP_FAILED);
	print_message("seed %u\n", first_seed);
	for (unsigned run = 0; run < RUNS; run++) {
		struct rig rig;
		int status;
		rig_init(&rig);
		for (uint32_t incarnation = 1; incarnation <= 2; incarnation++) { /* the second on what the first left */
			seed = first_seed + run * 2 + incarnation;
			calls_left = 1 + (int)(rand_r(&seed) % 60);
			rig.conf.incarnation = incarnation;
			atomic_store(synced, 0);
			pid_t pid = fork();
			assert_true(pid >= 0);
			if (pid == 0)
				write_until_power_cut(&rig, synced);
			assert_int_equal(waitpid(pid, &status, 0), pid);
			if (status != 0)
				fail_msg("run %u: the writer ended with status %x", run, (unsigned)status);
			char path[128];
			snprintf(path, sizeof path, "%s/tail", rig.run);
			unlink(path);
			if (rig_try_open(&rig) < 0)
				fail_msg("run %u: %s", run, rig.err.text);
			uint64_t found = count_incarnation(&rig, incarnation);
			assert_true(found >= atomic_load(synced) && !rig.state.tail_alive);
			if (rig.state.clean) /* it was cut before its open had returned */
				assert_int_equal(found, 0);
			rig_close(&rig);
		}
		rig_fini(&rig);
	}
	munmap((void *)synced, 4096);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(what_was_synced_survives_a_power_cut)};
	real = cdm_io_table;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
