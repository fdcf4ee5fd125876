/* SPDX-License-Identifier: Apache-2.0 */
/* The journal when the disk fails: the nth write or sync goes wrong, for each n until a run meets no fault; afterwards
 * what was called synced must be there. */
#include "../unit/journal_rig.h"

#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include "common/io.h"

static struct cdm_io_table real;

enum what { FAIL_PWRITE, FAIL_SHORT, FAIL_FDATASYNC, FAIL_FSYNC };
static struct {
	enum what what;
	int number;         /* errno */
	bool for_good;      /* not only once */
	_Atomic int before; /* calls that still go well */
	_Atomic int met;    /* faults injected */
} fault;

static bool meets_fault(enum what what)
{
	if (fault.what != what)
		return false;
	int before = atomic_fetch_sub(&fault.before, 1);
	if (before > 0 || (before < 0 && !fault.for_good))
		return false;
	atomic_fetch_add(&fault.met, 1);
	return true;
}

static ssize_t faulty_pwrite(int fd, const void *buf, size_t len, off_t offset)
{
	if (meets_fault(FAIL_PWRITE)) {
		errno = fault.number;
		return -1;
	}
	if (len > 1 && meets_fault(FAIL_SHORT))
		len = 1 + len / 3;
	return real.pwrite(fd, buf, len, offset);
}

static int faulty_sync(enum what what, int (*sync_fn)(int), int fd)
{
	if (meets_fault(what)) {
		errno = fault.number;
		return -1;
	}
	return sync_fn(fd);
}

static int faulty_fdatasync(int fd)
{
	return faulty_sync(FAIL_FDATASYNC, real.fdatasync, fd);
}
static int faulty_fsync(int fd)
{
	return faulty_sync(FAIL_FSYNC, real.fsync, fd);
}

static void arm(enum what what, int number, int before, bool for_good)
{
	fault.what = what;
	fault.number = number;
	fault.for_good = for_good;
	atomic_store(&fault.before, before);
	atomic_store(&fault.met, 0);
	cdm_io_table.pwrite = faulty_pwrite;
	cdm_io_table.fdatasync = faulty_fdatasync;
	cdm_io_table.fsync = faulty_fsync;
}

static void disarm(void)
{
	cdm_io_table = real;
}

#define STEPS 6
#define STEP_RECORDS 700 /* over some steps the segment changes */

/* Returns the number up to which sync said it was safe; *ret_last what append took. */
static uint64_t run_into_fault(struct rig *rig, uint64_t *ret_last)
{
	uint64_t safe = 0;
	*ret_last = 0;
	if (rig_try_open(rig) < 0)
		return 0;
	for (int step = 0; step < STEPS; step++) {
		for (int i = 0; i < STEP_RECORDS; i++) {
			struct cdm_change c = rig_write_change("some/file");
			int r = cdm_journal_put(rig->j, &c);
			if (r < 0) {
				assert_int_equal(r, -EIO);
				cdm_journal_close(&rig->j, NULL);
				return safe;
			}
			*ret_last = c.dot.number;
		}
		if (cdm_journal_sync(rig->j) < 0)
			break;
		safe = *ret_last;
	}
	cdm_journal_close(&rig->j, NULL);
	return safe;
}

static void check_after(struct rig *rig, uint64_t safe, uint64_t last)
{
	unsigned count;
	rig_open(rig);
	struct cdm_journal_reader *r = rig_reader(rig);
	uint64_t found = rig_read_numbers(r, 0, &count);
	assert_int_equal(found, count); /* from 1 on, without a gap */
	if (rig->state.tail_alive || rig->state.clean)
		assert_int_equal(found, last); /* memory was not lost: all that append took */
	assert_true(found >= safe);
	cdm_journal_reader_close(&r);
	rig_close(rig);
}

static void check_after_power_cut(struct rig *rig, uint64_t safe)
{
	unsigned count;
	char path[128];
	snprintf(path, sizeof path, "%s/tail", rig->run);
	unlink(path);
	int r = rig_try_open(rig);
	if (r < 0)
		fail_msg("open: %s", rig->err.text);
	struct cdm_journal_reader *reader = rig_reader(rig);
	assert_true(rig_read_numbers(reader, 0, &count) >= safe);
	cdm_journal_reader_close(&reader);
	rig_close(rig);
}

static void nth_fault(enum what what, int number, bool for_good, bool power_cut)
{
	int met, n = 0;
	do {
		struct rig rig;
		uint64_t last;
		rig_init(&rig);
		arm(what, number, n++, for_good);
		uint64_t safe = run_into_fault(&rig, &last);
		met = atomic_load(&fault.met);
		disarm();
		if (met == 0)
			assert_int_equal(safe, STEPS * STEP_RECORDS);
		if (power_cut)
			check_after_power_cut(&rig, safe);
		else
			check_after(&rig, safe, last);
		rig_fini(&rig);
	} while (met > 0);
	assert_true(n > 4);
}

static void a_failed_write_is_never_called_safe(void **state)
{
	nth_fault(FAIL_PWRITE, EIO, false, false);
	nth_fault(FAIL_PWRITE, EIO, true, true);
}

static void a_failed_sync_is_final_and_never_called_safe(void **state)
{
	nth_fault(FAIL_FDATASYNC, EIO, false, false);
	nth_fault(FAIL_FDATASYNC, EIO, false, true);
	nth_fault(FAIL_FDATASYNC, ENOSPC, false, false); /* late allocation: the bytes are gone all the same */
	nth_fault(FAIL_FSYNC, EIO, true, true);
}

static void short_writes_are_continued(void **state)
{
	struct rig rig;
	uint64_t last;
	rig_init(&rig);
	arm(FAIL_SHORT, 0, 0, true);
	assert_int_equal(run_into_fault(&rig, &last), STEPS * STEP_RECORDS);
	disarm();
	check_after(&rig, last, last);
	rig_fini(&rig);
}

static void a_disk_full_for_a_moment_is_waited_out(void **state)
{
	int n = 2, met; /* past open */
	do {
		struct rig rig;
		uint64_t last;
		rig_init(&rig);
		arm(FAIL_PWRITE, ENOSPC, n++, false);
		assert_int_equal(run_into_fault(&rig, &last), STEPS * STEP_RECORDS);
		met = atomic_load(&fault.met);
		disarm();
		check_after(&rig, last, last);
		rig_fini(&rig);
	} while (met > 0);
}

static void a_full_disk_refuses_when_the_ring_is_full_and_goes_on_afterwards(void **state)
{
	struct rig rig;
	unsigned count;
	int r = 0;
	uint64_t last = 0;
	rig_init(&rig);
	rig_open(&rig);
	arm(FAIL_PWRITE, ENOSPC, 0, true);
	while (r == 0) {
		struct cdm_change c = rig_write_change("some/file");
		r = cdm_journal_put(rig.j, &c);
		if (r == 0)
			last = c.dot.number;
	}
	assert_int_equal(r, -ENOSPC);
	assert_true(last > 1000); /* the ring took some */
	disarm();
	assert_int_equal(rig_put(&rig, 1), last + 1); /* nothing was recorded for the refused one */
	assert_int_equal(cdm_journal_sync(rig.j), 0);
	struct cdm_journal_reader *reader = rig_reader(&rig);
	assert_int_equal(rig_read_numbers(reader, 0, &count), last + 1);
	assert_int_equal(count, last + 1);
	cdm_journal_reader_close(&reader);
	rig_fini(&rig);
}

/* A disk with room for so many segments; a segment begins with a write at 0. */
#define ROOM 4
static DIR *room;

static ssize_t pwrite_with_room(int fd, const void *buf, size_t len, off_t offset)
{
	int files = 0;
	rewinddir(room);
	for (struct dirent *e; (e = readdir(room));)
		files += e->d_name[0] != '.';
	if (offset == 0 && files > ROOM) {
		atomic_fetch_add(&fault.met, 1);
		errno = ENOSPC;
		return -1;
	}
	return real.pwrite(fd, buf, len, offset);
}

static void put_and_checkpoint(struct rig *rig, struct cdm_journal_reader *follower, unsigned count)
{
	struct cdm_vector applied;
	rig_put(rig, count);
	assert_int_equal(cdm_journal_sync(rig->j), 0);
	cdm_journal_reader_seek(follower, CDM_JOURNAL_FRONTIER);
	cdm_journal_reader_keep(follower, cdm_journal_reader_position(follower));
	cdm_journal_applied(rig->j, &applied);
	struct cdm_change mark = {.op = CDM_OP_MARK, .vector = &applied};
	assert_int_equal(cdm_journal_put(rig->j, &mark), 0);
	cdm_vector_fini(&applied);
}

static void on_a_full_disk_goes_what_nobody_needs(void **state)
{
	struct rig rig;
	struct cdm_journal_stats s;
	rig_init(&rig);
	rig.conf.max_bytes = 64 << 20;
	rig_open(&rig);
	room = opendir(rig.segments);
	assert_non_null(room);
	atomic_store(&fault.met, 0);
	cdm_io_table.pwrite = pwrite_with_room;
	struct cdm_journal_reader *follower = rig_reader(&rig);
	for (int i = 0; i < 12; i++)
		put_and_checkpoint(&rig, follower, 5000);
	assert_true(atomic_load(&fault.met) > 2);
	cdm_journal_stats(rig.j, &s);
	assert_true(s.bytes <= ROOM << 20);
	assert_true(s.oldest_position < s.keep_position); /* what is needed stays */
	disarm();
	cdm_journal_reader_close(&follower);
	closedir(room);
	rig_fini(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_failed_write_is_never_called_safe),
		cmocka_unit_test(a_failed_sync_is_final_and_never_called_safe),
		cmocka_unit_test(short_writes_are_continued),
		cmocka_unit_test(a_disk_full_for_a_moment_is_waited_out),
		cmocka_unit_test(a_full_disk_refuses_when_the_ring_is_full_and_goes_on_afterwards),
		cmocka_unit_test(on_a_full_disk_goes_what_nobody_needs),
	};
	real = cdm_io_table;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
