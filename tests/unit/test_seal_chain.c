/* SPDX-License-Identifier: Apache-2.0 */
/* Which seals of an author are missing, and since when that counts (seal_chain.h). Its clock is that of the test, in ms. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include "replicator/seal_chain.h"

#define FIRST CDM_ORIGIN(7, 1)
#define SECOND CDM_ORIGIN(7, 2)
#define LATE_MS 1000

static struct seal_chain chain;
static uint64_t newest;
static int64_t now_ms;

static int begin(void **state)
{
	chain = (struct seal_chain){0};
	newest = 0;
	now_ms = 1;
	return 0;
}

static uint64_t clock_at(int64_t ms)
{
	return (uint64_t)ms * 1000000;
}

static void shows(cdm_origin origin, uint64_t number)
{
	chain_shows(&chain, (struct cdm_dot){origin, number}, clock_at(now_ms), now_ms);
}

/* A seal; it was made `old` seals before the newest one. */
static void takes(cdm_origin origin, uint64_t after, uint64_t through, uint64_t old)
{
	struct seal s = {.upto = {origin, through}, .after = after, .through = through, .clock = old ? newest - old : clock_at(now_ms)};
	chain_takes(&chain, &s, newest, now_ms);
	if (s.clock > newest)
		newest = s.clock;
}

/* In steps, as the product looks. */
static void passes(int64_t ms, bool author_is_there)
{
	for (int64_t until = now_ms + ms; now_ms < until;) {
		now_ms += 100;
		chain_judge(&chain, now_ms, author_is_there ? clock_at(now_ms) : 0, LATE_MS);
	}
}

static void is_late(bool late, uint64_t after, uint64_t through)
{
	struct hole h;
	assert_int_equal(chain_is_late(&chain, &h), late);
	if (late) {
		assert_int_equal(h.after, after);
		assert_int_equal(h.through, through);
	}
}

static void what_is_sealed_in_time_is_not_missed(void **state)
{
	takes(FIRST, 0, 5, 0);
	for (uint64_t n = 6; n < 40; n += 2) {
		shows(FIRST, n);
		passes(LATE_MS / 2, true);
		shows(FIRST, n + 1);
		passes(LATE_MS / 4, true);
		takes(FIRST, n - 1, n + 1, 0);
		is_late(false, 0, 0);
	}
	passes(9 * LATE_MS, true);
	is_late(false, 0, 0);
	assert_false(chain_waits(&chain));
}

static void changes_without_a_seal_are_missed_until_it_comes(void **state)
{
	takes(FIRST, 0, 5, 0);
	passes(9 * LATE_MS, true);
	shows(FIRST, 7);
	assert_true(chain_waits(&chain));
	passes(LATE_MS, true);
	is_late(false, 0, 0);
	shows(FIRST, 9);
	passes(100, true);
	is_late(true, 5, 9);
	passes(LATE_MS, false); /* its author's end does not undo it */
	is_late(true, 5, 9);
	takes(FIRST, 5, 9, 0);
	is_late(false, 0, 0);
}

static void a_seal_that_comes_before_its_changes_counts(void **state)
{
	takes(FIRST, 0, 5, 0);
	takes(FIRST, 5, 9, 0);
	shows(FIRST, 7);
	shows(FIRST, 9);
	assert_false(chain_waits(&chain));
}

static void nothing_is_missed_of_who_never_sealed(void **state)
{
	shows(FIRST, 7);
	assert_false(chain_waits(&chain));
	passes(9 * LATE_MS, true);
	is_late(false, 0, 0);
	takes(FIRST, 3, 5, 0); /* the first that comes here need not be its first */
	assert_int_equal(chain.hole_count, 0);
}

static void an_author_that_is_away_is_waited_for(void **state)
{
	takes(FIRST, 0, 5, 0);
	shows(FIRST, 7);
	passes(9 * LATE_MS, false);
	is_late(false, 0, 0);
	passes(LATE_MS, true);
	is_late(false, 0, 0);
	passes(200, true);
	is_late(true, 5, 7);
}

static void what_the_author_told_long_ago_says_nothing(void **state)
{
	takes(FIRST, 0, 5, 0);
	shows(FIRST, 7);
	now_ms += 9 * LATE_MS; /* all comes late here, its seals, too */
	chain_judge(&chain, now_ms, clock_at(now_ms - 9 * LATE_MS + 500), LATE_MS);
	is_late(false, 0, 0);
}

static void a_sign_of_life_grants_more_time(void **state)
{
	takes(FIRST, 0, 5, 0);
	shows(FIRST, 7);
	for (int i = 0; i < 9; i++) {
		passes(LATE_MS / 2, true);
		takes(FIRST, 5, 5, 0);
	}
	is_late(false, 0, 0);
	passes(LATE_MS + 100, true);
	is_late(true, 5, 7);
}

static void an_author_that_begins_anew_need_not_seal_what_was_before(void **state)
{
	takes(FIRST, 0, 5, 0);
	shows(FIRST, 7);
	passes(100, true);
	takes(FIRST, 0, 8, 0);
	assert_false(chain_waits(&chain));
	shows(SECOND, 2);
	passes(100, true);
	takes(SECOND, 0, 2, 0);
	assert_false(chain_waits(&chain));
	shows(FIRST, 9); /* of an incarnation that ended */
	assert_false(chain_waits(&chain));
}

static void nor_does_that_excuse_what_is_late(void **state)
{
	takes(FIRST, 0, 5, 0);
	shows(FIRST, 7);
	passes(LATE_MS + 100, true);
	is_late(true, 5, 7);
	takes(FIRST, 0, 8, 0);
	is_late(true, 5, 7);
	takes(FIRST, 5, 7, 1);
	is_late(false, 0, 0);
}

static void a_hole_is_missed_until_it_is_filled(void **state)
{
	takes(FIRST, 0, 5, 0);
	uint64_t before = newest;
	passes(100, true);
	takes(FIRST, 9, 12, 0);
	assert_int_equal(chain_unbroken(&chain, newest), before);
	passes(LATE_MS, true);
	is_late(false, 0, 0);
	passes(100, true);
	is_late(true, 5, 9);
	takes(FIRST, 12, 15, 0);
	is_late(true, 5, 9);
	takes(FIRST, 5, 7, 10);
	is_late(true, 7, 9);
	assert_true(chain_wants(&chain, &(struct seal){.upto = {FIRST, 9}, .after = 7, .through = 9}));
	assert_false(chain_wants(&chain, &(struct seal){.upto = {FIRST, 9}, .after = 5, .through = 7}));
	takes(FIRST, 7, 9, 9);
	is_late(false, 0, 0);
	assert_int_equal(chain_unbroken(&chain, newest), newest);
}

static void holes_are_filled_in_any_order(void **state)
{
	takes(FIRST, 0, 5, 0);
	passes(100, true);
	takes(FIRST, 11, 12, 0);
	takes(FIRST, 7, 9, 8);
	assert_int_equal(chain.hole_count, 2);
	takes(FIRST, 9, 11, 7);
	assert_int_equal(chain.hole_count, 1);
	takes(FIRST, 5, 7, 9);
	assert_int_equal(chain.hole_count, 0);
	assert_false(chain_waits(&chain));
}

static void the_first_of_a_process_may_be_missing_too(void **state)
{
	takes(FIRST, 0, 5, 0);
	passes(100, true);
	takes(SECOND, 3, 4, 0);
	passes(LATE_MS + 100, true);
	is_late(true, 0, 3);
	takes(SECOND, 0, 3, 1);
	is_late(false, 0, 0);
}

static void more_holes_than_are_noted_do_no_harm(void **state)
{
	for (uint64_t n = 0; n < 40; n++) {
		takes(FIRST, 10 * n, 10 * n + 5, 0);
		passes(100, true);
	}
	assert_int_equal(chain.hole_count, HOLES_MAX);
	for (uint64_t n = 0; n < 40; n++)
		takes(FIRST, 10 * n + 2, 10 * n + 8, 400 - n); /* each leaves a rest at the end, where there is room */
	assert_true(chain.hole_count <= HOLES_MAX);
	while (chain.hole_count)
		chain_forgive(&chain, 0);
	assert_false(chain_waits(&chain));
}

static void what_was_proven_is_not_missed(void **state)
{
	takes(FIRST, 0, 5, 0);
	takes(FIRST, 6, 7, 0);
	shows(FIRST, 9);
	passes(2 * LATE_MS, true);
	is_late(true, 5, 6);
	chain_settle(&chain);
	is_late(false, 0, 0);
	assert_false(chain_waits(&chain));
	shows(FIRST, 10);
	passes(2 * LATE_MS, true);
	is_late(true, 9, 10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(what_is_sealed_in_time_is_not_missed, begin),
		cmocka_unit_test_setup(changes_without_a_seal_are_missed_until_it_comes, begin),
		cmocka_unit_test_setup(a_seal_that_comes_before_its_changes_counts, begin),
		cmocka_unit_test_setup(nothing_is_missed_of_who_never_sealed, begin),
		cmocka_unit_test_setup(an_author_that_is_away_is_waited_for, begin),
		cmocka_unit_test_setup(what_the_author_told_long_ago_says_nothing, begin),
		cmocka_unit_test_setup(a_sign_of_life_grants_more_time, begin),
		cmocka_unit_test_setup(an_author_that_begins_anew_need_not_seal_what_was_before, begin),
		cmocka_unit_test_setup(nor_does_that_excuse_what_is_late, begin),
		cmocka_unit_test_setup(a_hole_is_missed_until_it_is_filled, begin),
		cmocka_unit_test_setup(holes_are_filled_in_any_order, begin),
		cmocka_unit_test_setup(the_first_of_a_process_may_be_missing_too, begin),
		cmocka_unit_test_setup(more_holes_than_are_noted_do_no_harm, begin),
		cmocka_unit_test_setup(what_was_proven_is_not_missed, begin),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
