/* SPDX-License-Identifier: Apache-2.0 */
#include "journal_rig.h"

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

static const struct cdm_dot foreign = {CDM_ORIGIN(9, 1), 40};

static struct cdm_change received_change(struct cdm_dot dot)
{
	return (struct cdm_change){.op = CDM_OP_MKDIR, .dot = dot, .clock = 1000, .path = "d", .path_len = 1};
}

static void a_settled_change_is_read_as_it_was_recorded(void **state)
{
	struct rig *rig = *state;
	rig_open(rig);
	assert_false(rig->state.clean || rig->state.tail_alive || rig->state.torn);
	struct cdm_journal_reader *r = rig_reader(rig);
	struct cdm_change c = rig_write_change("a/b"), got;
	struct cdm_range range = {4096, 100};
	c.ranges = &range;
	c.range_count = 1;
	assert_int_equal(cdm_journal_append(rig->j, &c), 0);
	assert_true(c.dot.origin == CDM_ORIGIN(1, 1) && c.dot.number == 1 && c.clock && c.position && c.sequence == 1);
	assert_int_equal(cdm_journal_reader_next(r, &got), 0);
	c.version.dot = c.dot;
	c.attr = (struct cdm_attr){.mask = CDM_ATTR_SIZE, .size = 4196};
	c.parent_mtime_ns = 99;
	cdm_journal_settle(rig->j, &c, CDM_DONE, 0);
	assert_int_equal(cdm_journal_reader_next(r, &got), 1);
	assert_int_equal(got.op, CDM_OP_WRITE);
	assert_true(cdm_dot_equal(got.dot, c.dot) && got.clock == c.clock && got.position == c.position);
	assert_true(cdm_dot_equal(got.version.dot, c.dot) && got.attr.size == 4196 && got.parent_mtime_ns == 99);
	assert_true(got.request == 7 && got.outcome == CDM_DONE && cdm_handle_equal(&got.handle, &c.handle));
	assert_true(got.range_count == 1 && got.ranges[0].offset == 4096);
	assert_non_null(got.context);
	assert_memory_equal(got.path, "a/b", 3);
	cdm_change_fini(&got); /* harmless: the reader owns what it gave out */
	assert_int_equal(cdm_journal_reader_next(r, &got), 0);
	assert_int_equal(got.next_position, cdm_journal_reader_position(r));
	cdm_journal_reader_close(&r);
}

static void nothing_passes_a_pending_record(void **state)
{
	struct rig *rig = *state;
	rig_open(rig);
	struct cdm_journal_reader *r = rig_reader(rig);
	struct cdm_change a = rig_write_change("a"), b = rig_write_change("b"), c = rig_write_change("c"), got;
	assert_int_equal(cdm_journal_append(rig->j, &a), 0);
	assert_int_equal(cdm_journal_append(rig->j, &b), 0);
	assert_int_equal(cdm_journal_append(rig->j, &c), 0);
	cdm_journal_settle(rig->j, &c, CDM_DONE, 0);
	cdm_journal_settle(rig->j, &b, CDM_FAILED, EPERM);
	assert_int_equal(cdm_journal_reader_next(r, &got), 0);
	cdm_journal_settle(rig->j, &a, CDM_DONE, 0);
	assert_int_equal(cdm_journal_reader_next(r, &got), 1);
	assert_int_equal(got.path[0], 'a');
	assert_int_equal(cdm_journal_reader_next(r, &got), 1); /* the failed one is not shown */
	assert_int_equal(got.path[0], 'c');
	assert_int_equal(cdm_journal_reader_next(r, &got), 0);
	rig_assert_applied(rig, "1.1:3"); /* but its number is used up */
	cdm_journal_reader_close(&r);
}

static void a_received_change_counts_only_when_it_is_done(void **state)
{
	struct rig *rig = *state;
	rig_open(rig);
	struct cdm_change c = received_change(foreign);
	assert_int_equal(cdm_journal_append(rig->j, &c), 0);
	assert_true(cdm_dot_equal(c.dot, foreign) && c.clock == 1000 && c.flags & CDM_CH_RECEIVED);
	cdm_journal_settle(rig->j, &c, CDM_FAILED, ENOSPC);
	rig_assert_applied(rig, "");
	c = received_change(foreign);
	assert_int_equal(cdm_journal_put(rig->j, &c), 0);
	rig_assert_applied(rig, "9.1:40");
}

static void own_changes_tell_what_they_had_seen_when_that_changed(void **state)
{
	struct rig *rig = *state;
	rig_open(rig);
	rig_put(rig, 2);
	struct cdm_change c = received_change(foreign), got;
	assert_int_equal(cdm_journal_put(rig->j, &c), 0);
	rig_put(rig, 2);
	struct cdm_journal_reader *r = rig_reader(rig);
	bool with_context[] = {true, false, false, true, false};
	for (size_t i = 0; i < 5; i++) {
		assert_int_equal(cdm_journal_reader_next(r, &got), 1);
		assert_int_equal(got.context != NULL, with_context[i]);
		if (i == 3)
			assert_true(cdm_vector_covers(got.context, foreign));
	}
	cdm_journal_reader_close(&r);
}

static void unsound_changes_are_not_recorded(void **state)
{
	struct rig *rig = *state;
	rig_open(rig);
	struct cdm_change c = rig_write_change("../x");
	assert_int_equal(cdm_journal_append(rig->j, &c), -EINVAL);
	assert_int_equal(rig_put(rig, 1), 1);
}

static void a_clean_end_is_found_and_numbers_go_on(void **state)
{
	struct rig *rig = *state;
	unsigned count;
	rig_open(rig);
	rig_put(rig, 10);
	struct cdm_change c = received_change(foreign);
	assert_int_equal(cdm_journal_put(rig->j, &c), 0);
	rig_close(rig);
	rig_open(rig);
	assert_true(rig->state.clean && !rig->state.tail_alive && !rig->state.torn);
	rig_assert_applied(rig, "1.1:10 9.1:40");
	assert_true(cdm_vector_equal(&rig->state.applied, &rig->state.durable));
	assert_int_equal(rig_put(rig, 1), 11);
	struct cdm_journal_reader *r = rig_reader(rig);
	assert_int_equal(rig_read_numbers(r, 0, &count), 11);
	assert_int_equal(count, 11);
	cdm_journal_reader_close(&r);
}

static void append_two(struct rig *rig)
{
	struct cdm_change a = rig_write_change("a"), b = rig_write_change("b");
	rig_put(rig, 3);
	cdm_journal_append(rig->j, &a);
	cdm_journal_append(rig->j, &b);
	cdm_journal_settle(rig->j, &b, CDM_DONE, 0);
}

static void a_dead_writers_pending_records_are_listed(void **state)
{
	struct rig *rig = *state;
	struct cdm_change c, peeked;
	unsigned count;
	rig_in_dying_child(rig, append_two);
	rig_open(rig);
	assert_true(rig->state.tail_alive && !rig->state.clean);
	assert_int_equal(cdm_journal_next_pending(rig->j, &c), 1);
	assert_true(c.path[0] == 'a' && c.dot.number == 4 && c.request == 7 && c.outcome == CDM_PENDING);
	assert_int_equal(cdm_journal_peek(rig->j, c.position, &peeked), 0);
	assert_int_equal(peeked.dot.number, 4);
	cdm_change_fini(&peeked);
	assert_int_equal(cdm_journal_peek(rig->j, c.position + 8, &peeked), -ESTALE);
	cdm_journal_settle(rig->j, &c, CDM_DONE, 0);
	cdm_change_fini(&c);
	assert_int_equal(cdm_journal_next_pending(rig->j, &c), 0);
	assert_int_equal(rig_put(rig, 1), 6);
	struct cdm_journal_reader *r = rig_reader(rig);
	assert_int_equal(rig_read_numbers(r, 0, &count), 6);
	assert_int_equal(count, 6);
	cdm_journal_reader_close(&r);
}

static void put_and_sync(struct rig *rig)
{
	rig_put(rig, 20);
	if (cdm_journal_sync(rig->j) < 0)
		_exit(2);
}

static void a_lost_tail_is_not_a_clean_end(void **state)
{
	struct rig *rig = *state;
	unsigned count;
	rig_in_dying_child(rig, put_and_sync);
	rig_lose_tail(rig);
	struct cdm_journal_reader *old = rig_reader(rig); /* segments only */
	assert_int_equal(rig_read_numbers(old, 0, &count), 20);
	rig_open(rig);
	assert_false(rig->state.clean || rig->state.tail_alive || rig->state.torn);
	rig_assert_applied(rig, "1.1:20");
	cdm_journal_set_incarnation(rig->j, 2);
	assert_int_equal(cdm_journal_origin(rig->j), CDM_ORIGIN(1, 2));
	assert_int_equal(rig_put(rig, 1), 1);
	rig_assert_applied(rig, "1.1:20 1.2:1");
	struct cdm_change c;
	assert_int_equal(cdm_journal_reader_next(old, &c), -ENODATA);
	struct cdm_journal_reader *r = rig_reader(rig);
	assert_int_equal(cdm_journal_reader_seek(r, cdm_journal_reader_position(old)), 0); /* over the gap */
	assert_int_equal(cdm_journal_reader_next(r, &c), 1);
	assert_int_equal(c.dot.origin, CDM_ORIGIN(1, 2));
	assert_int_equal(cdm_journal_reader_seek(r, 0), 0);
	for (int i = 0; i < 21; i++)
		assert_int_equal(cdm_journal_reader_next(r, &c), 1);
	assert_int_equal(cdm_journal_reader_next(r, &c), 0);
	cdm_journal_reader_close(&r);
	cdm_journal_reader_close(&old);
}

static void open_and_put_unsynced(struct rig *rig)
{
	rig_put(rig, 1);
}

static void a_run_that_lost_everything_is_not_clean_either(void **state)
{
	struct rig *rig = *state;
	rig_open(rig);
	rig_put(rig, 5);
	rig_close(rig);
	rig->conf.sync_interval_ms = 60000;
	rig_in_dying_child(rig, open_and_put_unsynced);
	rig_lose_tail(rig);
	rig_open(rig);
	assert_false(rig->state.clean || rig->state.tail_alive);
}

static void put_two(struct rig *rig)
{
	rig_put(rig, 2);
}

static void a_tail_that_is_damaged_or_not_ours_is_lost(void **state)
{
	struct rig *rig = *state;
	char path[128];
	rig->conf.sync_interval_ms = 60000;
	rig_in_dying_child(rig, put_two);
	snprintf(path, sizeof path, "%s/tail", rig->run);
	int fd = open(path, O_RDWR | O_CLOEXEC);
	uint8_t byte;
	off_t at = 4096 + 4096 + 280; /* within the path of the first record: the stream begins at 4096 */
	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= 1;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	close(fd);
	rig_open(rig);
	assert_false(rig->state.tail_alive || rig->state.clean);
	rig_assert_applied(rig, "");
}

static void a_second_writer_is_refused(void **state)
{
	struct rig *rig = *state;
	struct cdm_journal *other;
	struct cdm_journal_state found;
	rig_open(rig);
	assert_int_equal(cdm_journal_open(&rig->conf, &other, &found, &rig->err), -EBUSY);
	assert_null(other);
	assert_int_equal(rig_put(rig, 1), 1);
}

static void a_pending_record_prevents_a_clean_end(void **state)
{
	struct rig *rig = *state;
	rig_open(rig);
	struct cdm_change c = rig_write_change("a");
	assert_int_equal(cdm_journal_append(rig->j, &c), 0);
	assert_int_equal(cdm_journal_close(&rig->j, &rig->err), -EBUSY);
	rig_open(rig);
	assert_true(rig->state.tail_alive);
	assert_int_equal(cdm_journal_next_pending(rig->j, &c), 1);
	cdm_journal_settle(rig->j, &c, CDM_FAILED, EIO);
	cdm_change_fini(&c);
}

/* --- marks --- */

static void mark_in_the_past(struct rig *rig)
{
	struct cdm_vector noted;
	rig_put(rig, 5);
	cdm_journal_applied(rig->j, &noted);
	rig_put(rig, 3); /* recorded between the note and the mark */
	struct cdm_change mark = {.op = CDM_OP_MARK, .vector = &noted};
	if (cdm_journal_put(rig->j, &mark) < 0 || !cdm_dot_is_none(mark.dot))
		_exit(3);
	rig_put(rig, 2);
	if (cdm_journal_sync(rig->j) < 0)
		_exit(4);
}

static void assert_mark_found(struct rig *rig)
{
	struct cdm_journal_reader *r = rig_reader(rig);
	struct cdm_change c;
	assert_int_equal(cdm_journal_reader_seek(r, CDM_JOURNAL_LAST_MARK), 0);
	for (uint64_t number = 6; number <= 8; number++) {
		assert_int_equal(cdm_journal_reader_next(r, &c), 1);
		assert_int_equal(c.dot.number, number);
	}
	assert_int_equal(cdm_journal_reader_next(r, &c), 1);
	assert_int_equal(c.op, CDM_OP_MARK);
	assert_int_equal(cdm_vector_get(c.vector, CDM_ORIGIN(1, 1)), 5);
	cdm_journal_reader_close(&r);
}

static void what_a_mark_does_not_cover_is_not_forgotten(void **state)
{
	struct rig *rig = *state;
	for (int lost = 0; lost < 2; lost++) {
		rig_in_dying_child(rig, mark_in_the_past);
		assert_mark_found(rig);
		if (lost) {
			rig_lose_tail(rig);
			assert_mark_found(rig);
		}
		rig_open(rig);
		assert_int_equal(rig->state.tail_alive, !lost);
		assert_int_equal(cdm_vector_get(&rig->state.durable, CDM_ORIGIN(1, 1)), 5);
		assert_true(rig->state.mark_ns > 0);
		rig_assert_applied(rig, "1.1:10");
		cdm_journal_close(&rig->j, NULL);
		rig_fini(rig);
		rig_init(rig);
	}
}

static void a_mark_may_raise_what_is_applied(void **state)
{
	struct rig *rig = *state;
	struct cdm_vector v;
	rig_open(rig);
	assert_int_equal(cdm_vector_parse("7.1:99", &v), 0);
	struct cdm_change mark = {.op = CDM_OP_MARK, .vector = &v};
	assert_int_equal(cdm_journal_put(rig->j, &mark), 0);
	rig_assert_applied(rig, "7.1:99");
	cdm_vector_fini(&v);
}

/* --- segments --- */

static void old_segments_go_when_nobody_needs_them(void **state)
{
	struct rig *rig = *state;
	struct cdm_journal_stats s;
	struct cdm_change c;
	rig->conf.max_bytes = 4 << 20;
	rig_open(rig);
	struct cdm_journal_reader *behind = rig_reader(rig);
	for (int i = 0; i < 10; i++) {
		rig_put(rig, 3000);
		assert_int_equal(cdm_journal_sync(rig->j), 0);
	}
	cdm_journal_stats(rig->j, &s);
	assert_in_range(s.bytes, 3 << 20, 4 << 20);
	assert_true(s.oldest_position > 4096 && s.synced_position == s.head_position);
	assert_int_equal(cdm_journal_reader_next(behind, &c), -ESTALE);
	assert_int_equal(cdm_journal_reader_seek(behind, 0), 0);
	assert_int_equal(cdm_journal_reader_position(behind), s.oldest_position);
	cdm_journal_reader_seek(behind, CDM_JOURNAL_FRONTIER);
	cdm_journal_reader_keep(behind, cdm_journal_reader_position(behind));
	struct cdm_vector applied;
	cdm_journal_applied(rig->j, &applied);
	struct cdm_change mark = {.op = CDM_OP_MARK, .vector = &applied};
	assert_int_equal(cdm_journal_put(rig->j, &mark), 0);
	cdm_vector_fini(&applied);
	rig_put(rig, 6000);
	assert_int_equal(cdm_journal_sync(rig->j), 0);
	cdm_journal_stats(rig->j, &s);
	assert_true(s.bytes <= 4 << 20 && s.keep_position > s.oldest_position - (4 << 20));
	cdm_journal_reader_close(&behind);
}

static void mark_and_fill(struct rig *rig)
{
	struct cdm_change c = received_change(foreign);
	struct cdm_vector applied;
	if (cdm_journal_put(rig->j, &c) < 0)
		_exit(3);
	cdm_journal_applied(rig->j, &applied);
	struct cdm_change mark = {.op = CDM_OP_MARK, .vector = &applied, .clock = 77ull << 32};
	if (cdm_journal_put(rig->j, &mark) < 0)
		_exit(4);
	rig_put(rig, 40000);
	if (cdm_journal_sync(rig->j) < 0)
		_exit(5);
}

static void a_mark_outlives_the_trimming_of_its_segment(void **state)
{
	struct rig *rig = *state;
	struct cdm_journal_stats s;
	rig->conf.max_bytes = 4 << 20;
	rig_in_dying_child(rig, mark_and_fill);
	rig_lose_tail(rig);
	rig_open(rig);
	cdm_journal_stats(rig->j, &s);
	assert_true(s.oldest_position > 4 << 20);
	rig_assert_applied(rig, "1.1:40000 9.1:40");
	assert_true(cdm_vector_covers(&rig->state.durable, foreign));
	assert_int_equal(rig->state.mark_ns, 77ll << 32);
	struct cdm_journal_reader *r = rig_reader(rig);
	assert_int_equal(cdm_journal_reader_seek(r, CDM_JOURNAL_LAST_MARK), -ESTALE); /* not all behind it is there */
	cdm_journal_reader_close(&r);
}

static void a_torn_end_is_cut_at_the_last_whole_record(void **state)
{
	struct rig *rig = *state;
	struct cdm_journal_stats s;
	rig_in_dying_child(rig, put_and_sync);
	rig_open(rig);
	cdm_journal_stats(rig->j, &s);
	uint64_t end = s.synced_position;
	cdm_journal_close(&rig->j, NULL);
	/* As if the power had gone while a record was being written: no clean end noted, half a record where CLEAN was. */
	int fd = rig_segment_fd(rig, 1);
	uint8_t bytes[200];
	assert_int_equal(pread(fd, bytes, sizeof bytes, 4096), sizeof bytes);
	uint8_t slot[24] = {0};
	assert_int_equal(pwrite(fd, slot, sizeof slot, 512), sizeof slot);
	assert_int_equal(pwrite(fd, slot, sizeof slot, 1024), sizeof slot);
	off_t offset = (off_t)end; /* the stream begins at position 4096, behind 4096 bytes of header */
	assert_int_equal(pwrite(fd, bytes, sizeof bytes, offset), sizeof bytes);
	close(fd);
	rig_open(rig);
	assert_true(rig->state.torn && !rig->state.clean);
	rig_assert_applied(rig, "1.1:20");
	cdm_journal_set_incarnation(rig->j, 2);
	rig_put(rig, 1);
	struct cdm_journal_reader *r = rig_reader(rig);
	struct cdm_change c;
	for (int i = 0; i < 21; i++)
		assert_int_equal(cdm_journal_reader_next(r, &c), 1);
	assert_int_equal(c.dot.origin, CDM_ORIGIN(1, 2));
	assert_int_equal(cdm_journal_reader_next(r, &c), 0);
	cdm_journal_reader_close(&r);
}

static void a_flipped_bit_in_the_middle_is_never_skipped(void **state)
{
	struct rig *rig = *state;
	rig_open(rig);
	rig_put(rig, 50);
	rig_close(rig);
	int fd = rig_segment_fd(rig, 1);
	uint8_t byte;
	off_t at = 4096 + 10 * 320;
	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= 0x10;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	assert_int_equal(rig_try_open(rig), -EBADMSG);
	assert_non_null(strstr(rig->err.text, "00000001"));
	assert_non_null(strstr(rig->err.text, "offset"));
	struct cdm_journal_reader *r = rig_reader(rig);
	struct cdm_change c;
	int n;
	while ((n = cdm_journal_reader_next(r, &c)) == 1)
		;
	assert_int_equal(n, -EBADMSG);
	cdm_journal_reader_close(&r);
	byte ^= 0x10;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	close(fd);
	rig_open(rig);
	assert_true(rig->state.clean);
}

static void a_missing_or_foreign_segment_is_refused(void **state)
{
	struct rig *rig = *state;
	rig_open(rig);
	rig_put(rig, 10000);
	rig_close(rig);
	rig->conf.node_number = 2;
	assert_int_equal(rig_try_open(rig), -EBADMSG);
	rig->conf.node_number = 1;
	assert_int_equal(renameat(rig->dir_fd, "00000002.log", rig->dir_fd, "aside"), 0);
	assert_int_equal(rig_try_open(rig), -EBADMSG);
	assert_non_null(strstr(rig->err.text, "00000002"));
	assert_int_equal(renameat(rig->dir_fd, "aside", rig->dir_fd, "00000002.log"), 0);
	rig_open(rig);
}

static void a_segment_that_was_never_born_is_removed(void **state)
{
	struct rig *rig = *state;
	rig_in_dying_child(rig, put_and_sync);
	rig_lose_tail(rig);
	int fd = openat(rig->dir_fd, "00000002.log", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	close(fd);
	rig_open(rig);
	assert_true(rig->state.torn);
	rig_assert_applied(rig, "1.1:20");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_settled_change_is_read_as_it_was_recorded),
		TEST(nothing_passes_a_pending_record),
		TEST(a_received_change_counts_only_when_it_is_done),
		TEST(own_changes_tell_what_they_had_seen_when_that_changed),
		TEST(unsound_changes_are_not_recorded),
		TEST(a_clean_end_is_found_and_numbers_go_on),
		TEST(a_dead_writers_pending_records_are_listed),
		TEST(a_lost_tail_is_not_a_clean_end),
		TEST(a_run_that_lost_everything_is_not_clean_either),
		TEST(a_tail_that_is_damaged_or_not_ours_is_lost),
		TEST(a_second_writer_is_refused),
		TEST(a_pending_record_prevents_a_clean_end),
		TEST(what_a_mark_does_not_cover_is_not_forgotten),
		TEST(a_mark_may_raise_what_is_applied),
		TEST(old_segments_go_when_nobody_needs_them),
		TEST(a_mark_outlives_the_trimming_of_its_segment),
		TEST(a_torn_end_is_cut_at_the_last_whole_record),
		TEST(a_flipped_bit_in_the_middle_is_never_skipped),
		TEST(a_missing_or_foreign_segment_is_refused),
		TEST(a_segment_that_was_never_born_is_removed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
