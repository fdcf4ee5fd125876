/* SPDX-License-Identifier: Apache-2.0 */
/* Readers beside a writer at work, at its end, and at its return. */
#include "journal_rig.h"

#include <poll.h>
#include <pthread.h>

static int setup(void **state)
{
	struct rig *rig = malloc(sizeof *rig);
	rig_init(rig);
	*state = rig;
	return 0;
}

static int teardown(void **state)
{
	rig_fini(*state);
	free(*state);
	return 0;
}

#define CONCURRENT_RECORDS 60000u

static void *write_many(void *arg)
{
	rig_put(arg, CONCURRENT_RECORDS);
	return NULL;
}

static void wait_for_wake(struct cdm_journal_reader *r)
{
	struct pollfd p = {.fd = cdm_journal_reader_wake_fd(r), .events = POLLIN};
	int armed = cdm_journal_reader_arm(r);
	assert_true(armed >= 0);
	if (armed)
		return;
	if (poll(&p, 1, 20000) != 1)
		fail_msg("no wake at position %llu, head %llu", (unsigned long long)cdm_journal_reader_position(r),
			(unsigned long long)cdm_journal_reader_head(r));
	char bytes[64];
	assert_true(read(p.fd, bytes, sizeof bytes) > 0);
}

static void *read_many(void *arg)
{
	struct cdm_journal_reader *r = arg;
	uint64_t last = 0;
	unsigned count;
	while (last < CONCURRENT_RECORDS) {
		last = rig_read_numbers(r, last, &count);
		if (last < CONCURRENT_RECORDS)
			wait_for_wake(r);
	}
	return NULL;
}

static void readers_see_everything_over_many_laps_of_the_ring(void **state)
{
	struct rig *rig = *state;
	pthread_t writer, threads[2];
	rig_open(rig);
	struct cdm_journal_reader *readers[2] = {rig_reader(rig), rig_reader(rig)};
	assert_int_not_equal(cdm_journal_reader_wake_fd(readers[0]), cdm_journal_reader_wake_fd(readers[1]));
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, read_many, readers[i]), 0);
	assert_int_equal(pthread_create(&writer, NULL, write_many, rig), 0);
	pthread_join(writer, NULL);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	struct cdm_journal_stats s;
	cdm_journal_stats(rig->j, &s);
	assert_true(s.head_position > 10ull << 20); /* laps */
	for (int i = 0; i < 2; i++)
		cdm_journal_reader_close(&readers[i]);
}

static void a_reader_is_woken_by_each_settled_record(void **state)
{
	struct rig *rig = *state;
	struct cdm_change c;
	rig_open(rig);
	struct cdm_journal_reader *r = rig_reader(rig);
	struct pollfd p = {.fd = cdm_journal_reader_wake_fd(r), .events = POLLIN};
	for (int i = 0; i < 100; i++) {
		char bytes[64];
		assert_int_equal(cdm_journal_reader_next(r, &c), 0);
		while (read(p.fd, bytes, sizeof bytes) > 0)
			;
		assert_int_equal(cdm_journal_reader_arm(r), 0);
		assert_int_equal(poll(&p, 1, 0), 0);
		rig_put(rig, 1);
		assert_int_equal(poll(&p, 1, 0), 1);
		assert_int_equal(cdm_journal_reader_arm(r), 1);
		assert_int_equal(cdm_journal_reader_next(r, &c), 1);
	}
	cdm_journal_reader_close(&r);
}

static void a_reader_follows_the_writer_through_its_end_and_return(void **state)
{
	struct rig *rig = *state;
	struct cdm_change c;
	char bytes[64];
	struct cdm_journal_reader *r = rig_reader(rig); /* before there is anything */
	struct pollfd p = {.fd = cdm_journal_reader_wake_fd(r), .events = POLLIN};
	assert_int_equal(cdm_journal_reader_next(r, &c), 0);
	assert_int_equal(cdm_journal_reader_arm(r), 0);
	rig_open(rig);
	assert_int_equal(poll(&p, 1, 0), 1);
	assert_int_equal(cdm_journal_reader_next(r, &c), -ENODATA);
	cdm_journal_reader_close(&r);
	r = rig_reader(rig);
	rig_put(rig, 1);
	assert_int_equal(cdm_journal_reader_next(r, &c), 1);
	p.fd = cdm_journal_reader_wake_fd(r);
	assert_int_equal(cdm_journal_reader_arm(r), 0);
	rig_close(rig);
	assert_int_equal(poll(&p, 1, 0), 1);
	assert_int_equal(cdm_journal_reader_next(r, &c), 1);
	assert_int_equal(c.op, CDM_OP_CLEAN);
	assert_int_equal(cdm_journal_reader_next(r, &c), -ENODATA);
	uint64_t position = cdm_journal_reader_position(r);
	cdm_journal_reader_close(&r);
	r = rig_reader(rig);
	assert_int_equal(cdm_journal_reader_seek(r, position), 0);
	assert_int_equal(cdm_journal_reader_next(r, &c), 0);
	while (read(cdm_journal_reader_wake_fd(r), bytes, sizeof bytes) > 0)
		;
	cdm_journal_reader_close(&r);
	rig_open(rig);
	assert_int_equal(rig_put(rig, 1), 2);
	r = rig_reader(rig);
	assert_int_equal(cdm_journal_reader_seek(r, position), 0);
	assert_int_equal(cdm_journal_reader_next(r, &c), 1);
	assert_int_equal(c.dot.number, 2);
	cdm_journal_reader_close(&r);
}

static void a_position_that_is_no_record_is_refused(void **state)
{
	struct rig *rig = *state;
	rig_open(rig);
	rig_put(rig, 10);
	struct cdm_journal_reader *r = rig_reader(rig);
	uint64_t position = cdm_journal_reader_position(r);
	assert_int_equal(cdm_journal_reader_seek(r, position + 8), -ESTALE);
	assert_int_equal(cdm_journal_reader_seek(r, position + 1), -ESTALE);
	assert_int_equal(cdm_journal_reader_seek(r, 1ull << 60), -ESTALE);
	assert_int_equal(cdm_journal_reader_seek(r, position), 0);
	cdm_journal_reader_close(&r);
}

static void an_operation_under_way_is_pending(void **state)
{
	struct rig *rig = *state;
	struct cdm_handle other = {.len = 8, .type = 1, .bytes = {9}};
	rig_open(rig);
	rig_put(rig, 3);
	struct cdm_journal_reader *r = rig_reader(rig);
	struct cdm_change c = rig_write_change("x");
	assert_int_equal(cdm_journal_reader_pending(r, &c.handle), 0);
	assert_int_equal(cdm_journal_append(rig->j, &c), 0);
	struct cdm_change behind = rig_write_change("y");
	behind.handle = other;
	assert_int_equal(cdm_journal_append(rig->j, &behind), 0);
	assert_int_equal(cdm_journal_reader_pending(r, &c.handle), 1);
	assert_int_equal(cdm_journal_reader_pending(r, &other), 1);
	cdm_journal_settle(rig->j, &behind, CDM_DONE, 0); /* done, though not at the frontier yet */
	assert_int_equal(cdm_journal_reader_pending(r, &other), 0);
	cdm_journal_settle(rig->j, &c, CDM_FAILED, EIO);
	assert_int_equal(cdm_journal_reader_pending(r, &c.handle), 0);
	rig_put(rig, 8000); /* far more than the ring holds, unread: no matter */
	assert_int_equal(cdm_journal_reader_pending(r, &c.handle), 0);
	cdm_journal_reader_close(&r);
}

static void the_longest_records_fit(void **state)
{
	struct rig *rig = *state;
	char *path = malloc(CDM_PATH_MAX), *value = malloc(CDM_VALUE_MAX);
	for (size_t i = 0; i < CDM_PATH_MAX; i++)
		path[i] = i % 2 ? '/' : 'p';
	memset(value, 'v', CDM_VALUE_MAX);
	rig_open(rig);
	struct cdm_journal_reader *r = rig_reader(rig);
	for (int i = 0; i < 40; i++) {
		struct cdm_change c = {.op = CDM_OP_RENAME, .path = path, .path_len = CDM_PATH_MAX - 1, .path2 = path,
			.path2_len = CDM_PATH_MAX - 1, .value = value, .value_len = CDM_VALUE_MAX}, got;
		assert_int_equal(cdm_journal_put(rig->j, &c), 0);
		rig_put(rig, 1);
		assert_int_equal(cdm_journal_reader_next(r, &got), 1);
		assert_int_equal(got.value_len, CDM_VALUE_MAX);
		assert_int_equal(cdm_journal_reader_next(r, &got), 1);
	}
	unsigned count;
	cdm_journal_reader_seek(r, 0);
	assert_int_equal(rig_read_numbers(r, 0, &count), 80);
	cdm_journal_reader_close(&r);
	free(path);
	free(value);
}

static void put_and_sync(struct rig *rig)
{
	rig_put(rig, 20);
	if (cdm_journal_sync(rig->j) < 0)
		_exit(2);
}

static void a_reader_notices_that_its_tail_was_taken_away(void **state)
{
	struct rig *rig = *state;
	struct cdm_change c;
	rig_in_dying_child(rig, put_and_sync);
	struct cdm_journal_reader *r = rig_reader(rig);
	while (cdm_journal_reader_next(r, &c) == 1)
		;
	assert_int_equal(cdm_journal_reader_arm(r), 0);
	rig_lose_tail(rig);
	assert_int_equal(cdm_journal_reader_arm(r), 1);
	assert_int_equal(cdm_journal_reader_next(r, &c), -ENODATA);
	cdm_journal_reader_close(&r);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(readers_see_everything_over_many_laps_of_the_ring),
		TEST(a_reader_is_woken_by_each_settled_record),
		TEST(a_reader_follows_the_writer_through_its_end_and_return),
		TEST(a_position_that_is_no_record_is_refused),
		TEST(an_operation_under_way_is_pending),
		TEST(the_longest_records_fit),
		TEST(a_reader_notices_that_its_tail_was_taken_away),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
