/* SPDX-License-Identifier: Apache-2.0 */
/* Which names are behind what a vector says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "replicator/overtaken.h"

#define AUTHOR ((cdm_origin)1 << 32 | 1) /* node 1, incarnation 1 */
#define AUTHOR_ANEW ((cdm_origin)1 << 32 | 2)
#define ANOTHER ((cdm_origin)2 << 32 | 1)

static struct overtaken *o;

static int begin(void **state)
{
	o = overtaken_new();
	return 0;
}

static int end(void **state)
{
	overtaken_free(&o);
	return 0;
}

static struct cdm_change change(enum cdm_op op, const char *path, const char *path2)
{
	static uint64_t number;
	number++;
	return (struct cdm_change){.op = op, .dot = {AUTHOR, number}, .clock = number, .path = path, .path_len = strlen(path), .path2 = path2, .path2_len = strlen(path2)};
}

static void happens(enum cdm_op op, const char *path, const char *path2)
{
	struct cdm_change c = change(op, path, path2);
	overtaken_note(o, &c);
}

static void skipped(const char *path, const char *path2)
{
	struct cdm_change c = change(CDM_OP_SKIP, path, path2);
	c.flags = CDM_CH_OVERTAKEN;
	overtaken_note(o, &c);
}

static bool has(const char *path)
{
	return overtaken_has(o, path, strlen(path));
}

static void the_next_save_settles_it(void **state)
{
	skipped("a", "");
	skipped("b", "");
	skipped("c", "");
	happens(CDM_OP_SETATTR, "a", "");
	happens(CDM_OP_SAVE, "ab", "");
	assert_true(has("a") && has("b") && has("c"));
	happens(CDM_OP_SAVE, "a", "");
	happens(CDM_OP_UNLINK, "b", "");
	happens(CDM_OP_SKIP, "c", ""); /* of attributes, say */
	assert_true(has("c"));
	struct cdm_change gone = change(CDM_OP_SKIP, "c", "");
	gone.parent_mtime_ns = 1;
	overtaken_note(o, &gone);
	assert_true(!has("a") && !has("b") && !has("c"));
}

/* Passed on by a node that lost it: dot and version are of two incarnations. */
static void an_older_version_does_not_settle_it(void **state)
{
	struct cdm_change again = change(CDM_OP_SAVE, "a", "");
	again.version = (struct cdm_version){.dot = again.dot, .clock = again.clock};
	skipped("a", "");
	again.dot.origin = AUTHOR_ANEW;
	overtaken_note(o, &again);
	assert_true(has("a"));
	again.version.clock++; /* what was skipped itself */
	overtaken_note(o, &again);
	assert_false(has("a"));
}

static void it_goes_along_with_its_name(void **state)
{
	skipped("from", "to"); /* of a rename: the new name lacks it */
	skipped("dir/file", "");
	skipped("dirt", "");
	assert_true(has("to") && !has("from"));
	happens(CDM_OP_RENAME, "to", "further");
	happens(CDM_OP_RENAME, "dir", "another/dir");
	assert_true(has("further") && !has("to") && has("another/dir/file") && !has("dir/file") && has("dirt"));
	struct cdm_change exchange = change(CDM_OP_RENAME, "further", "good");
	exchange.rename_flags = RENAME_EXCHANGE;
	overtaken_note(o, &exchange);
	assert_true(has("good") && !has("further"));
	happens(CDM_OP_RENAME, "new", "good");
	happens(CDM_OP_RMDIR, "another/dir", "");
	happens(CDM_OP_LINK, "another", "dirt");
	assert_true(!has("good") && !has("another/dir/file") && !has("dirt"));
}

static void directories_change_places(void **state)
{
	struct cdm_change exchange = change(CDM_OP_RENAME, "here", "there/deep");
	exchange.rename_flags = RENAME_EXCHANGE;
	skipped("here/a", "");
	skipped("there/deep/b", "");
	overtaken_note(o, &exchange);
	assert_true(has("there/deep/a") && has("here/b") && !has("here/a") && !has("there/deep/b"));
	assert_true(overtaken_has_below(o, "there", 5) && !overtaken_has_below(o, "the", 3) && !overtaken_has_below(o, "here/b", 6));
	happens(CDM_OP_LINK, "here/b", "linked");
	assert_true(has("linked"));
}

/* What an author made of the name since he began anew, or somebody else, is not what was skipped. */
static void only_versions_up_to_it_are_lacking(void **state)
{
	struct cdm_change skip = change(CDM_OP_SKIP, "a", "");
	skip.flags = CDM_CH_OVERTAKEN;
	overtaken_note(o, &skip);
	skip.path = "dir";
	skip.path_len = 3;
	overtaken_note(o, &skip);
	uint64_t number = skip.dot.number;
	assert_true(overtaken_lacks(o, "a", 1, (struct cdm_dot){AUTHOR, number}));
	assert_false(overtaken_lacks(o, "a", 1, (struct cdm_dot){AUTHOR, number + 1}));
	assert_false(overtaken_lacks(o, "a", 1, (struct cdm_dot){AUTHOR_ANEW, 1}));
	assert_false(overtaken_lacks(o, "b", 1, (struct cdm_dot){AUTHOR, 1}));
	assert_true(overtaken_lacks(o, "dir/below/it", 12, (struct cdm_dot){ANOTHER, 1}));
	assert_false(overtaken_lacks(o, "dirt/below", 10, (struct cdm_dot){AUTHOR, 1}));
}

static void what_did_not_come_says_where(void **state)
{
	struct cdm_change save = change(CDM_OP_SAVE, "dir/page", "tmp/new"), attributes = change(CDM_OP_SETATTR, "other", "");
	save.parent_mtime_ns = 1;
	save.parent2_mtime_ns = 2;
	overtaken_skip(&save);
	assert_int_equal(save.op, CDM_OP_SKIP);
	assert_string_equal(save.path, "tmp/new");
	assert_int_equal(save.parent_mtime_ns, 2);
	assert_int_equal(save.parent2_mtime_ns, 1);
	overtaken_note(o, &save);
	overtaken_skip(&attributes);
	overtaken_note(o, &attributes);
	assert_true(has("dir/page") && !has("tmp/new") && !has("other"));
}

static void it_is_lost_when_its_author_begins_anew(void **state)
{
	skipped("a", "");
	assert_false(overtaken_is_lost(o, AUTHOR));
	assert_false(overtaken_is_lost(o, ANOTHER));
	assert_true(overtaken_is_lost(o, AUTHOR_ANEW));
}

static void a_comparison_leaves_what_the_other_lacks_too(void **state)
{
	skipped("a", "");
	skipped("b", "");
	uint64_t number = overtaken_number(o);
	skipped("since", "");
	struct overtaken *theirs = overtaken_new(), *mine = o;
	struct cdm_dot dots[] = {{AUTHOR, 1000}, {AUTHOR_ANEW, 1}};
	const struct cdm_vector vector = {.entries = dots, .count = 1}, anew = {.entries = dots, .count = 2};
	o = theirs;
	skipped("b", "");
	o = mine;
	overtaken_settled(o, number, theirs, &vector);
	assert_true(!has("a") && has("b") && has("since"));
	overtaken_settled(o, overtaken_number(o), NULL, &anew);
	assert_true(has("b") && has("since")); /* who has them may be another one */
	overtaken_settled(o, overtaken_number(o), NULL, &vector);
	assert_true(!has("b") && !has("since"));
	overtaken_free(&theirs);
}

/* Who takes over a vector lacks what is behind it, but for what it has. */
static void what_is_behind_a_vector_goes_with_it(void **state)
{
	struct overtaken *theirs = o;
	skipped("a", "");
	skipped("b", "");
	overtaken_is_here(theirs, "b", 1);
	o = overtaken_new();
	overtaken_taken_over(o, theirs);
	assert_true(has("a") && !has("b") && overtaken_is_lost(o, AUTHOR_ANEW));
	skipped("dir/c", "");
	overtaken_compared(o, "dir", 3, false);
	assert_true(has("dir/c"));
	overtaken_compared(o, "dir", 3, true);
	overtaken_compared(o, "a", 1, false);
	assert_true(!has("a") && !has("dir/c"));
	overtaken_free(&theirs);
}

static void the_oldest_are_forgotten(void **state)
{
	char path[OVERTAKEN_PATH_MAX + 2];
	skipped("oldest", "");
	for (int i = 0; i < OVERTAKEN_MAX; i++) {
		snprintf(path, sizeof path, "name-%d", i);
		skipped(path, "");
	}
	assert_true(!has("oldest") && has("name-0") && has("name-1023"));
	memset(path, 'p', sizeof path - 1);
	path[sizeof path - 1] = 0;
	skipped(path, "");
	assert_false(has(path)); /* too long */
	for (int i = 0; i < 30; i++) {
		snprintf(path, sizeof path, "%0*d", OVERTAKEN_PATH_MAX, i);
		skipped(path, "");
	}
	assert_true(has(path) && !has("name-1023"));
}

static void put_name(struct bytes *frame, cdm_origin origin, const char *name, size_t len)
{
	bytes_put_u64(frame, origin);
	bytes_put_u64(frame, 1);
	bytes_put_u64(frame, 1);
	bytes_put(frame, name, len);
}

static void what_is_told_is_what_was_meant(void **state)
{
	struct bytes frame = {0};
	overtaken_encode(o, &frame);
	assert_int_equal(frame.len, 0);
	skipped("dir/a\nb \xff", "");
	skipped("c", "");
	overtaken_encode(o, &frame);
	struct overtaken *told = overtaken_decode(frame.data, frame.len);
	assert_non_null(told);
	assert_true(overtaken_has(told, "dir/a\nb \xff", 9) && overtaken_has(told, "c", 1));
	overtaken_free(&told);
	for (size_t len = 1; len < frame.len; len++) {
		struct overtaken *cut = overtaken_decode(frame.data, len);
		assert_true(!cut || len == 16 + 8 + 2 + 9); /* between two names */
		overtaken_free(&cut);
	}
	static const char *const bad[] = {"\1\0", "\0\0", "\2\0..", "\2\0/a", "\7\0.cdmfs/", "\3\0a\0b"};
	static const size_t lengths[] = {2, 2, 4, 4, 9, 5};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		bytes_fini(&frame);
		put_name(&frame, AUTHOR, bad[i], lengths[i]);
		assert_null(overtaken_decode(frame.data, frame.len));
	}
	bytes_fini(&frame);
	put_name(&frame, 1, "\1\0a", 3); /* of no node */
	assert_null(overtaken_decode(frame.data, frame.len));
	bytes_fini(&frame);
	for (int i = 0; i <= OVERTAKEN_MAX; i++) {
		char name[8] = {4};
		snprintf(name + 2, sizeof name - 2, "%04d", i);
		put_name(&frame, AUTHOR, name, 6);
	}
	assert_null(overtaken_decode(frame.data, frame.len));
	bytes_fini(&frame);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(the_next_save_settles_it, begin, end),
		cmocka_unit_test_setup_teardown(an_older_version_does_not_settle_it, begin, end),
		cmocka_unit_test_setup_teardown(it_goes_along_with_its_name, begin, end),
		cmocka_unit_test_setup_teardown(directories_change_places, begin, end),
		cmocka_unit_test_setup_teardown(only_versions_up_to_it_are_lacking, begin, end),
		cmocka_unit_test_setup_teardown(what_did_not_come_says_where, begin, end),
		cmocka_unit_test_setup_teardown(what_is_behind_a_vector_goes_with_it, begin, end),
		cmocka_unit_test_setup_teardown(it_is_lost_when_its_author_begins_anew, begin, end),
		cmocka_unit_test_setup_teardown(a_comparison_leaves_what_the_other_lacks_too, begin, end),
		cmocka_unit_test_setup_teardown(the_oldest_are_forgotten, begin, end),
		cmocka_unit_test_setup_teardown(what_is_told_is_what_was_meant, begin, end),
	};
	return cmocka_run_group_tests_name("overtaken", tests, NULL, NULL);
}
