/* SPDX-License-Identifier: Apache-2.0 */
/* What is set aside: the list, and the file that outlives the program. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include "replicator/quarantine.h"
#include "store_rig.h"

#define MORE_THAN_FIT 300

static struct quarantine *loaded(size_t count)
{
	struct quarantine *q = quarantine_new();
	assert_int_equal(quarantine_load(q, store_fd), count);
	return q;
}

static bool has(struct quarantine *q, const char *path)
{
	return quarantine_has(q, path, strlen(path));
}

static void add(struct quarantine *q, const char *path)
{
	quarantine_add(q, path, strlen(path), "SAVE: no reason");
}

static void it_outlives_the_program(void **state)
{
	struct quarantine *q = loaded(0);
	char reason[64];
	add(q, "dir/a\nb \xff");
	quarantine_add_unread(q, "unread", 6, "EIO");
	quarantine_free(&q);
	q = loaded(2);
	assert_true(has(q, "dir/a\nb \xff") && has(q, "unread") && !has(q, "dir") && quarantine_has_below(q, "dir", 3));
	assert_true(quarantine_has_unread(q, "unread", 6) && !quarantine_has_unread(q, "dir", 3));
	assert_true(quarantine_find(q, "unread", 6, reason, sizeof reason));
	assert_string_equal(reason, "EIO");
	quarantine_resolve_below(q, "dir", 3);
	quarantine_resolve(q, "unread", 6);
	quarantine_free(&q);
	q = loaded(0);
	quarantine_free(&q);
}

static void a_comparison_settles_what_was_there_before(void **state)
{
	struct quarantine *q = loaded(0);
	add(q, "before");
	add(q, "again");
	quarantine_add_unread(q, "unread", 6, "EIO");
	uint64_t number = quarantine_number(q);
	add(q, "again");
	add(q, "since");
	quarantine_compared(q, number);
	assert_true(!has(q, "before") && has(q, "again") && has(q, "since") && has(q, "unread"));
	quarantine_free(&q);
	q = loaded(3);
	quarantine_compared(q, quarantine_number(q));
	assert_true(!has(q, "again") && has(q, "unread"));
	quarantine_resolve(q, "unread", 6);
	quarantine_free(&q);
}

/* Then any missing name may be one of those that are not on the list any more. */
static void what_ran_over_counts_until_trees_are_compared(void **state)
{
	struct quarantine *q = loaded(0);
	char path[16];
	for (int i = 0; i < MORE_THAN_FIT; i++) {
		snprintf(path, sizeof path, "file-%d", i);
		add(q, path);
	}
	uint64_t number = quarantine_number(q);
	assert_true(!has(q, "file-0") && has(q, path) && quarantine_may_have_below(q, "any", 3));
	quarantine_compared(q, number - 1);
	assert_true(quarantine_may_have_below(q, "any", 3));
	quarantine_free(&q);
	q = loaded(1);
	assert_true(quarantine_may_have_below(q, "any", 3));
	quarantine_compared(q, quarantine_number(q));
	assert_false(quarantine_may_have_below(q, "any", 3));
	add(q, "given up");
	quarantine_give_up(q, "given up", 8);
	assert_true(!has(q, "given up") && quarantine_may_have_below(q, "any", 3));
	quarantine_compared(q, quarantine_number(q));
	quarantine_free(&q);
	q = loaded(0);
	assert_false(quarantine_may_have_below(q, "any", 3));
	quarantine_free(&q);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_outlives_the_program),
		cmocka_unit_test(a_comparison_settles_what_was_there_before),
		cmocka_unit_test(what_ran_over_counts_until_trees_are_compared),
	};
	return cmocka_run_group_tests(tests, store_set_up, store_tear_down);
}
