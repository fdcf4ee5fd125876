/* SPDX-License-Identifier: Apache-2.0 */
/* Text for people: what is shown, figures, tables. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "common/log.h"
#include "common/text.h"

static void only_what_is_harmless_on_a_screen_is_shown(void **state)
{
	static const struct {
		const char *text, *shown;
	} rows[] = {{"a b", "a b"}, {"käse…", "käse…"}, {"\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80"}, {"\033[2J", "\\x1b[2J"}, {"\xc2\x9b", "\\xc2\\x9b"},
		{"\xff", "\\xff"}, {"\xc3", "\\xc3"}, {"\xc0\xaf", "\\xc0\\xaf"}, {"\xed\xa0\x80", "\\xed\\xa0\\x80"}, {"\xe2\x80\xae", "\\xe2\\x80\\xae"}};
	char out[64];
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
		assert_string_equal(cdm_text_escape(rows[i].text, out, sizeof out), rows[i].shown);
	assert_string_equal(cdm_text_escape("ab\xc3\xa4", out, 4), "ab"); /* no half characters */
}

static void figures_have_units(void **state)
{
	char out[64];
	assert_string_equal(cdm_text_count(412006, out, sizeof out), "412,006");
	assert_string_equal(cdm_text_bytes(0, out, sizeof out), "0 B");
	assert_string_equal(cdm_text_bytes(3250000, out, sizeof out), "3.1 MiB");
	assert_string_equal(cdm_text_bytes(1ull << 30, out, sizeof out), "1 GiB");
	assert_string_equal(cdm_text_duration(0.04, out, sizeof out), "0.04 s");
	assert_string_equal(cdm_text_duration(41.2, out, sizeof out), "41 s");
	assert_string_equal(cdm_text_duration(7300, out, sizeof out), "2 h");
	assert_int_equal(strlen(cdm_text_minute(time(NULL), out, sizeof out)), strlen("14:02Z"));
	assert_string_equal(cdm_text_minute(0, out, sizeof out), "1970-01-01 00:00Z");
}

static void durations_are_read(void **state)
{
	static const struct {
		const char *text;
		int64_t seconds;
	} rows[] = {{"90", 90}, {"90s", 90}, {"15m", 900}, {"1h", 3600}, {"7d", 604800}, {"", -1}, {"x", -1}, {"1x", -1}, {"1hh", -1}, {"0s", -1},
		{"-1h", -1}, {"99999999999999999999d", -1}, {"9223372036854775807d", -1}, {"1.5h", -1}};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
		assert_int_equal(cdm_text_to_seconds(rows[i].text), rows[i].seconds);
}

/* What a function writes to a descriptor. */
static void captured(int fd, void (*write_it)(void), char *out, size_t room)
{
	FILE *f = tmpfile();
	fflush(stdout);
	int before = dup(fd);
	dup2(fileno(f), fd);
	write_it();
	fflush(stdout);
	dup2(before, fd);
	close(before);
	rewind(f);
	out[fread(out, 1, room - 1, f)] = 0;
	fclose(f);
}

static void a_table(void)
{
	static const char *const titles[] = {"NODE", "STATE", "WHY"}, *const first[] = {"web09", "in sync", ""}, *const second[] = {"kä", "down", "a\nb"};
	struct cdm_table *t = cdm_table_new(3, titles);
	cdm_table_add(t, first, NULL);
	cdm_table_add(t, second, "\033[31m");
	cdm_table_print(&t);
}

static void tables_are_as_wide_as_their_texts(void **state)
{
	char out[400];
	captured(STDOUT_FILENO, a_table, out, sizeof out);
	assert_string_equal(out, "NODE   STATE    WHY\nweb09  in sync\nkä     \033[31mdown\033[0m     a\\x0ab\n");
}

static void an_event(void)
{
	cdm_log(failed, cdm_str("msg", "käse \"…\" \\ \033 \xff"));
}

static void the_log_keeps_letters_of_all_languages(void **state)
{
	char out[400];
	captured(STDERR_FILENO, an_event, out, sizeof out);
	assert_string_equal(out, "<3>event=failed msg=\"käse \\\"…\\\" \\\\ \\x1b \\xff\"\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(only_what_is_harmless_on_a_screen_is_shown),
		cmocka_unit_test(figures_have_units),
		cmocka_unit_test(durations_are_read),
		cmocka_unit_test(tables_are_as_wide_as_their_texts),
		cmocka_unit_test(the_log_keeps_letters_of_all_languages),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
