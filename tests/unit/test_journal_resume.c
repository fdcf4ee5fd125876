/* SPDX-License-Identifier: Apache-2.0 */
/* What a writer notes for the next one (journal_resume.h): it saves reading and never changes what is found, whatever became of it. */
#include "journal_rig.h"
#include "common/cursor.h"
#include "common/journal_resume.h"

#define SLOT 135168
#define PUT 3000

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

static void sync_or_die(struct rig *rig)
{
	if (cdm_journal_sync(rig->j) < 0)
		_exit(2);
}

static void put_received(struct rig *rig, uint32_t node, uint64_t number)
{
	struct cdm_change c = {.op = CDM_OP_MKDIR, .dot = {CDM_ORIGIN(node, 1), number}, .clock = 1000, .path = "d", .path_len = 1};
	if (cdm_journal_put(rig->j, &c) < 0)
		_exit(3);
}

/* When the second sync returns, the note behind the first is there. */
static void put_many(struct rig *rig)
{
	rig_put(rig, PUT);
	sync_or_die(rig);
	rig_put(rig, 1);
	sync_or_die(rig);
}

static void all_kinds(struct rig *rig)
{
	struct cdm_vector applied;
	struct cdm_change mark = {.op = CDM_OP_MARK, .vector = &applied}, open = rig_write_change("open"), failed = rig_write_change("failed");
	put_received(rig, 9, 40);
	rig_put(rig, 5);
	cdm_journal_applied(rig->j, &applied);
	put_received(rig, 7, 3);
	cdm_journal_put(rig->j, &mark);
	rig_put(rig, PUT);
	cdm_journal_append(rig->j, &failed);
	cdm_journal_settle(rig->j, &failed, CDM_FAILED, EPERM);
	sync_or_die(rig);
	put_received(rig, 9, 41);
	sync_or_die(rig);
	cdm_journal_append(rig->j, &open); /* nothing behind is synced: it stays pending */
	put_received(rig, 9, 42);
}

static void a_new_writer_reads_what_came_after_the_note(void **state)
{
	struct rig *rig = *state;
	rig_in_dying_child(rig, put_many);
	rig_open(rig);
	assert_true(rig->state.tail_alive);
	assert_in_range(rig->state.records, 0, 1);
	rig_assert_applied(rig, "1.1:3001");
	struct cdm_change c = rig_write_change("next");
	assert_int_equal(cdm_journal_put(rig->j, &c), 0);
	assert_true(c.dot.number == PUT + 2 && c.sequence == PUT + 2);
}

static void it_finds_the_same_as_by_reading_all(void **state)
{
	struct rig *rig = *state;
	struct cdm_change c;
	rig_in_dying_child(rig, all_kinds);
	rig_assert_note_is_true(rig);
	rig_open(rig);
	assert_in_range(rig->state.records, 1, 4);
	rig_assert_applied(rig, "1.1:3006 7.1:3 9.1:42");
	assert_int_equal(cdm_vector_get(&rig->state.durable, CDM_ORIGIN(9, 1)), 40);
	assert_true(rig->state.mark_ns > 0);
	assert_int_equal(cdm_journal_next_pending(rig->j, &c), 1);
	assert_int_equal(c.dot.number, PUT + 7);
	cdm_journal_settle(rig->j, &c, CDM_DONE, 0);
	cdm_change_fini(&c);
	assert_int_equal(rig_put(rig, 1), PUT + 8);
}

static void open_only(struct rig *rig)
{
	(void)rig;
}

/* The second of two that die one after the other need not read again what the first did. */
static void who_had_to_read_notes_at_once(void **state)
{
	struct rig *rig = *state;
	char path[128];
	rig_in_dying_child(rig, put_many);
	snprintf(path, sizeof path, "%s/resume", rig->run);
	assert_int_equal(unlink(path), 0);
	rig_in_dying_child(rig, open_only);
	rig_open(rig);
	assert_int_equal(rig->state.records, 0);
	rig_assert_applied(rig, "1.1:3001");
}

static int note_fd(struct rig *rig)
{
	char path[128];
	snprintf(path, sizeof path, "%s/resume", rig->run);
	int fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

/* Behind a pending record a clean end is refused and the tail stays, as after a death. */
static void end_like_a_death(struct rig *rig)
{
	struct cdm_change c = rig_write_change("pending");
	assert_int_equal(cdm_journal_append(rig->j, &c), 0);
	assert_int_equal(cdm_journal_close(&rig->j, NULL), -EBUSY);
}

static void settle_all(struct rig *rig)
{
	struct cdm_change c;
	while (cdm_journal_next_pending(rig->j, &c) == 1) {
		cdm_journal_settle(rig->j, &c, CDM_DONE, 0);
		cdm_change_fini(&c);
	}
}

static void the_note_of_a_lost_tail_does_not_count(void **state)
{
	struct rig *rig = *state;
	uint8_t *note = calloc(1, 2 * SLOT);
	rig->conf.cut_to_mark = true;
	rig_in_dying_child(rig, put_many);
	int fd = note_fd(rig);
	ssize_t size = pread(fd, note, 2 * SLOT, 0);
	assert_true(size > 0);
	close(fd);
	rig_lose_tail(rig);
	rig_open(rig);
	rig_assert_applied(rig, ""); /* no mark covers it */
	rig->conf.sync_interval_ms = 60000;
	end_like_a_death(rig);
	fd = note_fd(rig);
	assert_int_equal(pwrite(fd, note, (size_t)size, 0), size);
	close(fd);
	rig_open(rig);
	assert_true(rig->state.tail_alive);
	settle_all(rig);
	rig_assert_applied(rig, "1.1:3002");
	assert_int_equal(rig->state.records, 1);
	free(note);
}

static void put_next_incarnation(struct rig *rig)
{
	put_many(rig);
	cdm_journal_set_incarnation(rig->j, 2);
}

static void the_note_of_an_incarnation_gives_no_number_of_the_next(void **state)
{
	struct rig *rig = *state;
	rig_in_dying_child(rig, put_next_incarnation);
	rig_open(rig);
	assert_int_equal(cdm_journal_origin(rig->j), CDM_ORIGIN(1, 2));
	assert_int_equal(rig_put(rig, 1), 1);
	rig_assert_applied(rig, "1.1:3001 1.2:1");
}

/* --- damage --- */

static size_t note_length(const uint8_t *slot)
{
	struct cdm_reader r = cdm_reader_of(slot + 12, 4);
	return cdm_get_u32(&r);
}

static void read_notes(struct rig *rig, uint8_t slots[2][256])
{
	int fd = note_fd(rig);
	for (unsigned i = 0; i < 2; i++) {
		assert_true(pread(fd, slots[i], 256, (off_t)i * SLOT) >= 100);
		assert_in_range(note_length(slots[i]), 100, 256);
	}
	close(fd);
}

static void write_notes(struct rig *rig, uint8_t slots[2][256])
{
	int fd = note_fd(rig);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(pwrite(fd, slots[i], 256, (off_t)i * SLOT), 256);
	close(fd);
}

/* Two notes behind the last record, and no others follow by themselves. */
static void two_notes(struct rig *rig, uint8_t slots[2][256])
{
	rig->conf.sync_interval_ms = 60000;
	rig_in_dying_child(rig, put_many);
	rig_in_dying_child(rig, open_only);
	rig_in_dying_child(rig, open_only);
	read_notes(rig, slots);
}

static void applied_is_right(struct rig *rig)
{
	char *text = cdm_vector_format(&rig->state.applied);
	if (!rig->state.tail_alive || strcmp(text, "1.1:3001") != 0)
		_exit(5);
	free(text);
}

static void all_is_read(struct rig *rig)
{
	applied_is_right(rig);
	if (rig->state.records != PUT + 1)
		_exit(6);
}

static void little_is_read(struct rig *rig)
{
	applied_is_right(rig);
	if (rig->state.records > 1)
		_exit(7);
}

static void damage(struct rig *rig, uint8_t slots[2][256], unsigned which, size_t at)
{
	uint8_t damaged[2][256];
	memcpy(damaged, slots, sizeof damaged);
	for (unsigned i = 0; i < 2; i++)
		if (which & 1u << i)
			damaged[i][at] ^= 0x10;
	write_notes(rig, damaged);
}

static uint64_t field(const uint8_t *slot, size_t offset)
{
	struct cdm_reader r = cdm_reader_of(slot + offset, 8);
	return cdm_get_u64(&r);
}

/* Generation of the note that counts, 0: none does. */
static uint64_t note_that_counts(struct rig *rig, uint64_t instance, uint64_t base)
{
	struct resume_file f = resume_open(rig->run, false);
	struct resume found;
	bool any = resume_read(&f, instance, base, &found);
	uint64_t generation = f.generation;
	assert_true(any == (generation > 0));
	assert_true(!any || cdm_vector_get(&found.applied, CDM_ORIGIN(1, 1)) == PUT + 1);
	resume_fini(&found);
	resume_close(&f);
	return generation;
}

static void a_damaged_note_does_not_count(void **state)
{
	struct rig *rig = *state;
	uint8_t slots[2][256];
	two_notes(rig, slots);
	uint64_t instance = field(slots[0], 24), base = field(slots[0], 32), generation[2] = {field(slots[0], 16), field(slots[1], 16)};
	size_t length = note_length(slots[0]);
	for (size_t at = 0; at < length; at++) {
		damage(rig, slots, 3, at);
		assert_int_equal(note_that_counts(rig, instance, base), 0);
		damage(rig, slots, 1, at);
		assert_int_equal(note_that_counts(rig, instance, base), generation[1]);
		damage(rig, slots, 2, at);
		assert_int_equal(note_that_counts(rig, instance, base), generation[0]);
	}
	write_notes(rig, slots);
	int fd = note_fd(rig);
	for (off_t at = SLOT + (off_t)length; at-- > SLOT;) {
		assert_int_equal(ftruncate(fd, at), 0);
		assert_int_equal(note_that_counts(rig, instance, base), generation[0]);
	}
	for (off_t at = (off_t)length; at-- > 0;) {
		assert_int_equal(ftruncate(fd, at), 0);
		assert_int_equal(note_that_counts(rig, instance, base), 0);
	}
	close(fd);
}

static void without_a_sound_note_all_is_read(void **state)
{
	struct rig *rig = *state;
	uint8_t slots[2][256];
	two_notes(rig, slots);
	for (size_t at = 12; at < note_length(slots[0]); at += 28) {
		damage(rig, slots, 3, at);
		rig_in_dying_child(rig, all_is_read);
	}
	damage(rig, slots, 1, 40);
	rig_in_dying_child(rig, little_is_read);
	damage(rig, slots, 2, 40);
	rig_in_dying_child(rig, little_is_read);
}

/* Sound, but not true of this journal. */
static void with_field(struct rig *rig, uint8_t slots[2][256], size_t offset, uint64_t value)
{
	uint8_t changed[2][256];
	memcpy(changed, slots, sizeof changed);
	for (unsigned i = 0; i < 2; i++) {
		size_t length = note_length(changed[i]);
		struct cdm_writer w = cdm_writer_of(changed[i] + offset, 8), crc = cdm_writer_of(changed[i] + length - 4, 4);
		cdm_put_u64(&w, value);
		cdm_put_u32(&crc, cdm_crc32c(0, changed[i], length - 4));
	}
	write_notes(rig, changed);
	rig_in_dying_child(rig, all_is_read);
}

static void a_note_that_does_not_fit_the_journal_is_not_followed(void **state)
{
	struct rig *rig = *state;
	uint8_t slots[2][256];
	two_notes(rig, slots);
	uint64_t position = field(slots[0], 40);
	with_field(rig, slots, 24, 1);                 /* another journal's */
	with_field(rig, slots, 32, 4104);              /* another tail's */
	with_field(rig, slots, 40, 0);                 /* before the oldest */
	with_field(rig, slots, 40, 4096 + 8);          /* within a record */
	with_field(rig, slots, 40, position - 3);
	with_field(rig, slots, 40, position + 8);      /* ahead of what is synced */
	with_field(rig, slots, 40, UINT64_MAX - 7);
	with_field(rig, slots, 48, CDM_ORIGIN(1, 2));  /* another incarnation's */
}

static void something_else_lies_there(void **state)
{
	struct rig *rig = *state;
	char path[128];
	rig_in_dying_child(rig, put_many);
	snprintf(path, sizeof path, "%s/resume", rig->run);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkdir(path, 0700), 0);
	rig_in_dying_child(rig, all_is_read);
	assert_int_equal(rmdir(path), 0);
	assert_int_equal(symlink("tail", path), 0);
	rig_in_dying_child(rig, all_is_read);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkfifo(path, 0600), 0);
	rig_in_dying_child(rig, all_is_read);
	assert_int_equal(unlink(path), 0);
	rig_in_dying_child(rig, all_is_read);
	rig_in_dying_child(rig, little_is_read);
}

static void put_of_too_many_origins(struct rig *rig)
{
	put_many(rig);
	for (uint32_t node = 2; node < 2 + CDM_VECTOR_MAX; node++)
		put_received(rig, node, 5);
	rig_put(rig, 100);
	sync_or_die(rig);
	rig_put(rig, 1);
	sync_or_die(rig);
}

static void what_is_too_large_for_a_note_is_read(void **state)
{
	struct rig *rig = *state;
	rig_in_dying_child(rig, put_of_too_many_origins);
	rig_open(rig);
	assert_int_equal(rig->state.applied.count, CDM_VECTOR_MAX + 1);
	assert_in_range(rig->state.records, 101, PUT + 102 + CDM_VECTOR_MAX);
	assert_int_equal(rig_put(rig, 1), PUT + 103);
}

static void a_clean_end_leaves_no_note(void **state)
{
	struct rig *rig = *state;
	char path[128];
	rig_open(rig);
	rig_put(rig, 10);
	rig_close(rig);
	snprintf(path, sizeof path, "%s/resume", rig->run);
	assert_int_equal(access(path, F_OK), -1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_new_writer_reads_what_came_after_the_note),
		TEST(it_finds_the_same_as_by_reading_all),
		TEST(who_had_to_read_notes_at_once),
		TEST(the_note_of_a_lost_tail_does_not_count),
		TEST(the_note_of_an_incarnation_gives_no_number_of_the_next),
		TEST(a_damaged_note_does_not_count),
		TEST(without_a_sound_note_all_is_read),
		TEST(a_note_that_does_not_fit_the_journal_is_not_followed),
		TEST(something_else_lies_there),
		TEST(what_is_too_large_for_a_note_is_read),
		TEST(a_clean_end_leaves_no_note),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
