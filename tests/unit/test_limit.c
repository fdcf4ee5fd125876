/* SPDX-License-Identifier: Apache-2.0 */
/* Bandwidth as it is typed, as it is shown, and as the master takes it. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "master/limit.h"
#include "master/section.h"

static void rates_are_read(void **state)
{
	static const struct {
		const char *text;
		int64_t rate; /* -1: refused */
	} rows[] = {{"none", 0}, {"100mbit", 12500000}, {"2gbit", 250000000}, {"64kbit", 8000}, {"2.5mbit", 312500}, {"10MB/s", 10000000}, {"1.5kB/s", 1500},
		{"1GB/s", 1000000000}, {"8000gbit", 1000000000000}, {"0x10mbit", -1}, {"1e3mbit", -1}, {"8001gbit", -1}, {"1kbit", -1}, {"0mbit", -1}, {"", -1}, {"mbit", -1}, {"100", -1}, {"100Mbit", -1},
		{"100 mbit", -1}, {"-1mbit", -1}, {"nanmbit", -1}, {"1e400gbit", -1}, {"10mb/s", -1}, {"10MB", -1}, {"infgbit", -1}, {"None", -1}};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct cdm_error err = CDM_ERROR_INIT;
		int64_t rate = -1;
		int r = limit_parse_rate(rows[i].text, &rate, &err);
		if (r != (rows[i].rate < 0 ? -EINVAL : 0) || rate != rows[i].rate)
			fail_msg("\"%s\": %d, %lld", rows[i].text, r, (long long)rate);
		assert_true(r == 0 || (err.text[0] && err.hint[0]));
		assert_true(r < 0 || section_check_rate(rate, NULL) == 0); /* what is typed the master takes */
	}
}

static void rates_are_shown(void **state)
{
	char out[32];
	assert_string_equal(limit_format_rate(0, out, sizeof out), "none");
	assert_string_equal(limit_format_rate(12500000, out, sizeof out), "100mbit");
	assert_string_equal(limit_format_rate(1250000000, out, sizeof out), "10gbit");
	assert_string_equal(limit_format_rate(1500000, out, sizeof out), "12mbit");
	assert_string_equal(limit_format_rate(1024, out, sizeof out), "8.192kbit");
	assert_string_equal(limit_format_rate(-5, out, sizeof out), "none");
}

/* The window as entries "from-to", and as it is shown again. */
static void becomes(const char *text, const char *entries, const char *shown)
{
	struct cdm_error err = CDM_ERROR_INIT;
	json_t *grid = json_array(), *e;
	char list[400] = "", again[400] = "", one[120];
	size_t i;
	if (limit_parse_window(text, grid, &err) < 0)
		fail_msg("%s", err.text);
	json_array_foreach(grid, i, e)
		snprintf(list + strlen(list), sizeof list - strlen(list), "%s%lld-%lld", i ? " " : "", (long long)json_integer_value(json_object_get(e, "from")),
			(long long)json_integer_value(json_object_get(e, "to")));
	assert_string_equal(list, entries);
	for (size_t at = 0; at < json_array_size(grid);) {
		limit_format_window(grid, &at, one, sizeof one);
		snprintf(again + strlen(again), sizeof again - strlen(again), "%s%s", again[0] ? "; " : "", one);
	}
	assert_string_equal(again, shown);
	assert_int_equal(section_check_grid(grid, &err), 0);
	json_decref(grid);
}

static void windows_become_minutes_of_the_week(void **state)
{
	becomes("mon 08:00-18:00 20mbit", "480-1080", "mon 08:00-18:00Z 20mbit");
	becomes("mon-wed 8:00-18:30Z 20mbit", "480-1110 1920-2550 3360-3990", "mon-wed 08:00-18:30Z 20mbit");
	becomes("mon,wed 08:00-18:00 20mbit", "480-1080 3360-3960", "mon 08:00-18:00Z 20mbit; wed 08:00-18:00Z 20mbit");
	becomes("Sat-Sun none", "7200-10080", "sat-sun 00:00-24:00Z none");
	becomes("daily 00:00-24:00 1gbit", "0-10080", "daily 00:00-24:00Z 1gbit");
	becomes("  fri   18:00-0:00   10MB/s ", "6840-7200", "fri 18:00-24:00Z 80mbit");
}

static void over_midnight_and_over_the_end_of_the_week(void **state)
{
	becomes("mon-fri 22:00-06:00 1gbit", "1320-1800 2760-3240 4200-4680 5640-6120 7080-7560", "mon-fri 22:00-06:00Z 1gbit");
	becomes("sun 22:00-06:00 1gbit", "0-360 9960-10080", "mon 00:00-06:00Z 1gbit; sun 22:00-24:00Z 1gbit");
	becomes("sat-mon 2gbit", "0-1440 7200-10080", "mon 00:00-24:00Z 2gbit; sat-sun 00:00-24:00Z 2gbit");
	becomes("sat-mon 10:00-12:00 2gbit", "600-720 7800-7920 9240-9360", "mon 10:00-12:00Z 2gbit; sat-sun 10:00-12:00Z 2gbit");
	becomes("daily 12:00-11:00 2mbit", "0-660 720-2100 2160-3540 3600-4980 5040-6420 6480-7860 7920-9300 9360-10080",
		"mon 00:00-11:00Z 2mbit; mon-sat 12:00-11:00Z 2mbit; sun 12:00-24:00Z 2mbit");
}

static void what_is_no_window_is_refused(void **state)
{
	static const char *const texts[] = {"", "mon", "08:00-18:00 20mbit", "mon 08:00-18:00", "mon 08:00 20mbit", "mon-xyz 20mbit", "mon- 20mbit", "mon, 20mbit",
		"monday 20mbit", "mon 25:00-26:00 20mbit", "mon 08:60-09:00 20mbit", "mon 24:00-06:00 20mbit", "mon 08:00-08:00 20mbit", "mon 08:00-24:01 20mbit",
		"mon 08:00-18:00 20", "mon 08:00-18:00 20mbit more", "mon 08:00-18:00X 20mbit", "mon 008:00-18:00 20mbit", "mon -18:00 20mbit"};
	for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
		struct cdm_error err = CDM_ERROR_INIT;
		json_t *grid = json_array();
		if (limit_parse_window(texts[i], grid, &err) != -EINVAL || json_array_size(grid) || !err.hint[0])
			fail_msg("\"%s\" was taken", texts[i]);
		json_decref(grid);
	}
}

/* A grid that was made by hand, or answered by something that is no master. */
static void any_grid_can_be_shown(void **state)
{
	char out[120];
	json_t *grid = json_pack("[{s:i, s:i, s:i}, {s:I, s:I, s:I}, {s:s}, i]", "from", 480, "to", 4000, "rate", 12500000, "from", (json_int_t)-5, "to",
		(json_int_t)INT64_MAX, "rate", (json_int_t)INT64_MIN, "from", "x", 7);
	size_t at = 0;
	assert_string_equal(limit_format_window(grid, &at, out, sizeof out), "mon 08:00 to wed 18:40Z 100mbit");
	assert_string_equal(limit_format_window(grid, &at, out, sizeof out), "daily 00:00-24:00Z none");
	while (at < json_array_size(grid))
		limit_format_window(grid, &at, out, sizeof out);
	json_decref(grid);
}

static void the_master_refuses_other_grids(void **state)
{
	static const char *const texts[] = {"{}", "[1]", "[{}]", "[{\"from\":0,\"to\":1}]", "[{\"from\":0,\"to\":1,\"rate\":0,\"day\":1}]", "[{\"from\":5,\"to\":5,\"rate\":0}]",
		"[{\"from\":-1,\"to\":5,\"rate\":0}]", "[{\"from\":0,\"to\":10081,\"rate\":0}]", "[{\"from\":0,\"to\":1,\"rate\":1}]", "[{\"from\":0,\"to\":1,\"rate\":-1}]",
		"[{\"from\":0.0,\"to\":1,\"rate\":0}]", "[{\"from\":0,\"to\":1,\"rate\":\"1mbit\"}]", "[{\"from\":0,\"to\":1,\"rate\":0},{\"from\":2,\"to\":1,\"rate\":0}]"};
	for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
		struct cdm_error err = CDM_ERROR_INIT;
		json_t *grid = json_loads(texts[i], 0, NULL);
		assert_non_null(grid);
		assert_int_equal(section_check_grid(grid, &err), -EINVAL);
		assert_true(err.text[0]);
		json_decref(grid);
	}
	json_t *many = json_array();
	for (int i = 0; i < SECTION_GRID_MAX; i++)
		json_array_append_new(many, json_pack("{s:i, s:i, s:i}", "from", 0, "to", 1, "rate", 0));
	assert_int_equal(section_check_grid(many, NULL), 0);
	json_array_append_new(many, json_pack("{s:i, s:i, s:i}", "from", 0, "to", 1, "rate", 0));
	assert_int_equal(section_check_grid(many, NULL), -EINVAL);
	json_decref(many);
}

static void the_last_matching_entry_counts(void **state)
{
	json_t *grid = json_pack("[{s:i, s:i, s:i}, {s:i, s:i, s:i}]", "from", 0, "to", 10080, "rate", 5000, "from", 480, "to", 1080, "rate", 0);
	struct model_section s = {.rate = 7000, .grid = grid};
	int64_t monday = 4 * 86400; /* 1970-01-05 */
	assert_int_equal(section_rate_at(&s, monday + 8 * 3600 - 1), 5000);
	assert_int_equal(section_rate_at(&s, monday + 8 * 3600), 0);
	assert_int_equal(section_rate_at(&s, monday + 2900ll * 7 * 86400 + 18 * 3600 - 1), 0);
	assert_int_equal(section_rate_at(&s, monday + 18 * 3600), 5000);
	json_array_clear(grid);
	assert_int_equal(section_rate_at(&s, monday), 7000);
	json_decref(grid);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rates_are_read),
		cmocka_unit_test(rates_are_shown),
		cmocka_unit_test(windows_become_minutes_of_the_week),
		cmocka_unit_test(over_midnight_and_over_the_end_of_the_week),
		cmocka_unit_test(what_is_no_window_is_refused),
		cmocka_unit_test(any_grid_can_be_shown),
		cmocka_unit_test(the_master_refuses_other_grids),
		cmocka_unit_test(the_last_matching_entry_counts),
	};
	return cmocka_run_group_tests_name("limit", tests, NULL, NULL);
}
