/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include "replicator/growth.h"

static void the_pace_of_the_last_day_counts(void **state)
{
	struct growth g = {0};
	growth_note(&g, 1000, 4096);
	assert_true(growth_full_s(&g, 1030, 5096, 1000000) < 0);                  /* too short a time */
	assert_true(growth_full_s(&g, 1100, 4096, 1000000) < 0);                  /* it does not grow */
	assert_true(growth_full_s(&g, 1100, 4096 + 1000, 1000000) == 100000);     /* 10 bytes a second */
	for (int64_t hour = 1; hour <= 48; hour++) /* a quiet day, then a busy one */
		growth_note(&g, 1000 + 3600 * hour, 4096 + (hour > 24 ? (uint64_t)(hour - 24) * 3600 * 100 : 0));
	assert_int_equal(g.count, GROWTH_LOOKS);
	assert_true(growth_full_s(&g, 1000 + 3600 * 48, 4096 + 24 * 3600 * 100, 1000000) == 10000);
}

static void another_journal_begins_anew(void **state)
{
	struct growth g = {0};
	growth_note(&g, 0, 1 << 20);
	growth_note(&g, 10, 4096);
	assert_int_equal(g.count, 1);
	growth_note(&g, 20, 4096 + (2ull << 30)); /* after a lost tail */
	assert_int_equal(g.count, 1);
	assert_true(growth_full_s(&g, 120, 4096 + (2ull << 30) + 100, 1000) == 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_pace_of_the_last_day_counts),
		cmocka_unit_test(another_journal_begins_anew),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
