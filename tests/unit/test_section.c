/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "replicator/node.h"
#include "replicator/pace.h"
#include "replicator/section.h"

#define MONDAY_NS (4 * 86400ll * 1000000000) /* 5 January 1970, 0:00 */
#define MINUTE_NS 60000000000ll

static int parse(const char *text, struct sections *ret, struct cdm_error *err)
{
	json_t *j = json_loads(text, 0, NULL);
	assert_non_null(j);
	int r = sections_parse(j, ret, err);
	json_decref(j);
	return r;
}

static void what_is_missing_keeps_its_default(void **state)
{
	struct sections s;
	assert_int_equal(sections_parse(NULL, &s, NULL), 0);
	assert_int_equal(s.of[SECTION_GROUP].compression, 1);
	assert_int_equal(s.of[SECTION_REGION].compression, 3);
	assert_int_equal(s.of[SECTION_INTERNATIONAL].compression, 6);
	assert_int_equal(parse("{\"region\":{\"encryption\":false,\"rate\":5000},\"new\":7}", &s, NULL), 0);
	assert_true(s.of[SECTION_GROUP].encryption && s.of[SECTION_GROUP].delta);
	assert_false(s.of[SECTION_REGION].encryption);
	assert_true(s.of[SECTION_REGION].delta);
	assert_int_equal(s.of[SECTION_REGION].compression, 3);
	assert_int_equal(s.of[SECTION_REGION].rate, 5000);
}

static void bad_values_are_refused_with_their_place(void **state)
{
	static const char *const bad[][2] = {
		{"[]", "no object"},
		{"{\"group\":7}", "section group"},
		{"{\"group\":{\"compression\":-1}}", "0 to 9"},
		{"{\"group\":{\"compression\":10}}", "0 to 9"},
		{"{\"group\":{\"compression\":\"1\"}}", "0 to 9"},
		{"{\"region\":{\"encryption\":1}}", "section region"},
		{"{\"region\":{\"delta\":null}}", "section region"},
		{"{\"international\":{\"rate\":-1}}", "rate"},
		{"{\"international\":{\"rate\":1.5}}", "rate"},
		{"{\"international\":{\"grid\":{}}}", "grid"},
		{"{\"international\":{\"grid\":[{\"from\":0,\"to\":0,\"rate\":1}]}}", "span 1"},
		{"{\"international\":{\"grid\":[{\"from\":0,\"to\":1,\"rate\":1},{\"from\":5,\"to\":10081,\"rate\":1}]}}", "span 2"},
		{"{\"international\":{\"grid\":[{\"from\":0,\"to\":1}]}}", "span 1"},
		{"{\"international\":{\"grid\":[{\"to\":1,\"rate\":1}]}}", "span 1"},
	};
	struct sections s;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct cdm_error err = CDM_ERROR_INIT;
		assert_int_equal(parse(bad[i][0], &s, &err), -EBADMSG);
		if (!strstr(err.text, bad[i][1]))
			fail_msg("%s: %s", bad[i][0], err.text);
	}
	json_t *grid = json_array(), *j = json_pack("{s:{s:o}}", "group", "grid", grid);
	for (unsigned i = 0; i <= SECTION_GRID_MAX; i++) {
		assert_int_equal(sections_parse(j, &s, NULL), 0);
		json_array_append_new(grid, json_pack("{s:i, s:i, s:i}", "from", 0, "to", 1, "rate", 1));
	}
	assert_int_equal(sections_parse(j, &s, NULL), -EBADMSG);
	json_decref(j);
}

static void the_last_matching_span_of_the_week_says_the_rate(void **state)
{
	struct sections all;
	assert_int_equal(parse("{\"group\":{\"rate\":7,\"grid\":[{\"from\":480,\"to\":1080,\"rate\":100},{\"from\":720,\"to\":780,\"rate\":0},"
			       "{\"from\":10079,\"to\":10080,\"rate\":9}]}}", &all, NULL), 0);
	const struct section *s = &all.of[SECTION_GROUP];
	const struct {
		unsigned minute, rate;
	} when[] = {{0, 7}, {479, 7}, {480, 100}, {719, 100}, {720, 0}, {779, 0}, {780, 100}, {1080, 7}, {10079, 9}, {10080, 7}, {10080 + 480, 100}};
	for (size_t i = 0; i < sizeof when / sizeof *when; i++) {
		assert_int_equal(section_rate(s, MONDAY_NS + when[i].minute * MINUTE_NS), when[i].rate);
		assert_int_equal(section_rate(s, MONDAY_NS + (when[i].minute + 1) * MINUTE_NS - 1), when[i].rate);
	}
}

static void the_class_tells_where_both_ends_are(void **state)
{
	struct member a = {.group = (char *)"g1", .region = (char *)"r1"}, b = a, other_group = {.group = (char *)"g2", .region = (char *)"r1"},
		      other_region = {.group = (char *)"g1", .region = (char *)"r2"}, nowhere = {0};
	assert_int_equal(section_class_of(&a, &b), SECTION_GROUP);
	assert_int_equal(section_class_of(&a, &other_group), SECTION_REGION);
	assert_int_equal(section_class_of(&a, &other_region), SECTION_INTERNATIONAL);
	assert_int_equal(section_class_of(&a, &nowhere), SECTION_INTERNATIONAL);
	assert_int_equal(section_class_of(NULL, &b), SECTION_INTERNATIONAL);
}

/* A clock of our own: what was let through in ten seconds is the rate, whatever pieces are asked for. */
static void a_pace_lets_through_the_rate_and_no_burst_beyond_its_bucket(void **state)
{
	static const uint64_t rates[] = {1, PACE_LEAST, 100000, 12500000, 1250000000};
	for (size_t i = 0; i < sizeof rates / sizeof *rates; i++) {
		struct pace p = {0};
		const uint64_t rate = rates[i] < PACE_LEAST ? PACE_LEAST : rates[i];
		const int64_t start = 1000000007, end = start + 10000000000;
		int64_t now = start, longest_ms = 0;
		uint64_t passed = 0;
		while (now < end) {
			int64_t wait_ms = 0;
			size_t n = pace_ask(&p, rates[i], now, 65536, &wait_ms);
			assert_true(n > 0 || (wait_ms > 0 && wait_ms <= 1000));
			pace_used(&p, n ? n + 20 : 0);
			passed += n ? n + 20 : 0;
			now += n ? 1000 : wait_ms * 1000000;
			longest_ms = wait_ms > longest_ms ? wait_ms : longest_ms;
			uint64_t burst = rate * PACE_BURST_MS / 1000;
			burst = burst > PACE_LEAST ? burst : PACE_LEAST;
			assert_true(passed <= burst + 20 + (uint64_t)((double)(now - start) * (double)rate / 1e9) + 1);
		}
		assert_true(passed >= rate * 9);
		assert_true(longest_ms > 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_missing_keeps_its_default),
		cmocka_unit_test(bad_values_are_refused_with_their_place),
		cmocka_unit_test(the_last_matching_span_of_the_week_says_the_rate),
		cmocka_unit_test(the_class_tells_where_both_ends_are),
		cmocka_unit_test(a_pace_lets_through_the_rate_and_no_burst_beyond_its_bucket),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
