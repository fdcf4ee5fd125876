/* SPDX-License-Identifier: Apache-2.0 */
/* What a scrub says to the others (scrub_frames.h), and how it judges (scrub_judge.h). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "replicator/scrub_frames.h"
#include "replicator/scrub_judge.h"

#define DAY 86400

/* --- judging --- */

/* 'X', 'Y': contents, '-': cannot be read. Node i + 1 has the i-th. What is right, '=' for equal, '?' for nobody knows. */
static char judged(const char *contents, uint32_t author)
{
	struct scrub_vote votes[16] = {0};
	uint8_t right[SCRUB_DIGEST_SIZE];
	size_t count = strlen(contents);
	for (size_t i = 0; i < count; i++) {
		votes[i] = (struct scrub_vote){.node = (uint32_t)i + 1, .sound = contents[i] != '-'};
		memset(votes[i].digest, contents[i], SCRUB_DIGEST_SIZE);
	}
	switch (scrub_judge(votes, count, author, right)) {
	case SCRUB_EQUAL:
		return '=';
	case SCRUB_DECIDED:
		return (char)right[0];
	default:
		return '?';
	}
}

static void what_all_have_is_equal(void **state)
{
	assert_int_equal(judged("", 1), '=');
	assert_int_equal(judged("X", 1), '=');
	assert_int_equal(judged("XXX", 1), '=');
}

static void what_the_most_have_is_right_also_against_its_author(void **state)
{
	assert_int_equal(judged("XYY", 1), 'Y');
	assert_int_equal(judged("YXY", 1), 'Y');
	assert_int_equal(judged("YYXXX", 1), 'X');
}

static void of_as_many_the_author_counts(void **state)
{
	assert_int_equal(judged("XY", 1), 'X');
	assert_int_equal(judged("XY", 2), 'Y');
	assert_int_equal(judged("XYXY", 4), 'Y');
	assert_int_equal(judged("XYZ", 3), 'Z');
}

static void without_the_author_as_many_are_undecided(void **state)
{
	assert_int_equal(judged("XY", 9), '?');
	assert_int_equal(judged("XYZ", 9), '?');
	assert_int_equal(judged("XXYYZ", 5), '?'); /* he is there, and alone */
	assert_int_equal(judged("XYY", 9), 'Y');
}

static void what_cannot_be_read_has_no_vote(void **state)
{
	assert_int_equal(judged("-X", 1), 'X');
	assert_int_equal(judged("X-", 2), 'X');
	assert_int_equal(judged("--", 1), '?');
	assert_int_equal(judged("-XY", 1), '?');
	assert_int_equal(judged("-XY", 3), 'Y');
}

static void who_is_sure_is_right_against_all(void **state)
{
	struct scrub_vote votes[3] = {{.node = 1, .sound = true, .sure = true, .digest = "X"}, {.node = 2, .sound = true, .digest = "Y"},
		{.node = 3, .sound = true, .digest = "Y"}};
	uint8_t right[SCRUB_DIGEST_SIZE];
	assert_int_equal(scrub_judge(votes, 3, 2, right), SCRUB_DECIDED);
	assert_int_equal(right[0], 'X');
	votes[2].sure = true; /* of something else: then as if nobody were */
	assert_int_equal(scrub_judge(votes, 3, 1, right), SCRUB_DECIDED);
	assert_int_equal(right[0], 'Y');
}

/* --- when --- */

static void the_next_one_is_at_night_and_not_too_soon(void **state)
{
	int64_t noon = 20000ll * DAY + DAY / 2;
	for (uint32_t node = 1; node < 300; node++) {
		int64_t good = scrub_next_due(noon, node, true), bad = scrub_next_due(noon, node, false);
		assert_true(bad > noon && bad <= noon + DAY);
		assert_true(good > noon + 6 * DAY && good <= noon + 7 * DAY);
		assert_in_range(good % DAY, 3600, 5 * 3600);
		assert_in_range(bad % DAY, 3600, 5 * 3600);
	}
	assert_int_not_equal(scrub_next_due(noon, 1, true), scrub_next_due(noon, 2, true));
}

/* --- frames --- */

static int decode_ask(const uint8_t *in, size_t len)
{
	static struct scrub_ask ask;
	return scrub_ask_decode(in, len, &ask);
}

static int decode_tell(const uint8_t *in, size_t len)
{
	static struct scrub_tell tell;
	return scrub_tell_decode(in, len, &tell);
}

static int decode_look(const uint8_t *in, size_t len)
{
	struct scrub_question look;
	return scrub_look_decode(in, len, &look);
}

static void each_truncation_is_refused(const struct bytes *b, int (*decode)(const uint8_t *in, size_t len))
{
	assert_int_equal(decode(b->data, b->len), 0);
	for (size_t len = 0; len < b->len; len++) {
		uint8_t *exact = malloc(len ? len : 1);
		memcpy(exact, b->data, len);
		assert_true(decode(exact, len) < 0);
		free(exact);
	}
}

static const struct scrub_question sample = {.path = "a/b", .path_len = 3, .version = {0x100000001, 7}, .size = 5, .mtime_ns = -1};

static void ask_comes_back_as_it_was(void **state)
{
	static struct scrub_ask ask = {.request = 9, .count = 2}, back;
	struct bytes b = {0};
	ask.files[0] = sample;
	ask.files[1] = (struct scrub_question){.path = "c", .path_len = 1, .size = 1};
	scrub_ask_encode(&ask, &b);
	assert_int_equal(scrub_ask_decode(b.data, b.len, &back), 0);
	assert_int_equal(back.request, 9);
	assert_int_equal(back.count, 2);
	assert_false(back.others);
	assert_memory_equal(back.files[0].path, "a/b", 3);
	assert_int_equal(back.files[0].version.number, 7);
	assert_int_equal(back.files[0].mtime_ns, -1);
	each_truncation_is_refused(&b, decode_ask);
	b.data[4] = 2;
	assert_int_equal(scrub_ask_decode(b.data, b.len, &back), 0);
	assert_true(back.doubted);
	b.data[4] = 1; /* others, with two files */
	assert_true(decode_ask(b.data, b.len) < 0);
	bytes_fini(&b);
}

static void tell_comes_back_as_it_was(void **state)
{
	static struct scrub_tell tell = {.request = 9, .count = 2,
		.answers = {{.index = 1, .node = 3, .found = SCRUB_DIGEST, .digest = {1, 2, 3}}, {.index = 2, .node = 4, .found = SCRUB_BAD}}}, back;
	struct bytes b = {0};
	scrub_tell_encode(&tell, &b);
	assert_int_equal(scrub_tell_decode(b.data, b.len, &back), 0);
	assert_int_equal(back.count, 2);
	assert_int_equal(back.answers[0].node, 3);
	assert_memory_equal(back.answers[0].digest, tell.answers[0].digest, 16);
	assert_int_equal(back.answers[1].found, SCRUB_BAD);
	each_truncation_is_refused(&b, decode_tell);
	bytes_fini(&b);
}

static void look_has_a_path_that_may_be_used(void **state)
{
	struct bytes b = {0}, bad = {0};
	struct scrub_question evil = sample;
	scrub_look_encode(&sample, &b);
	each_truncation_is_refused(&b, decode_look);
	evil.path = "../";
	scrub_look_encode(&evil, &bad);
	assert_true(decode_look(bad.data, bad.len) < 0);
	bytes_fini(&b);
	bytes_fini(&bad);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_all_have_is_equal),
		cmocka_unit_test(what_the_most_have_is_right_also_against_its_author),
		cmocka_unit_test(of_as_many_the_author_counts),
		cmocka_unit_test(without_the_author_as_many_are_undecided),
		cmocka_unit_test(what_cannot_be_read_has_no_vote),
		cmocka_unit_test(who_is_sure_is_right_against_all),
		cmocka_unit_test(the_next_one_is_at_night_and_not_too_soon),
		cmocka_unit_test(ask_comes_back_as_it_was),
		cmocka_unit_test(tell_comes_back_as_it_was),
		cmocka_unit_test(look_has_a_path_that_may_be_used),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
