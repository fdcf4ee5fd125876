/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>
#include "common/error.h"
#include "common/filter.h"

static bool matches(const char *pattern, const char *path)
{
	struct cdm_filter f = {0};
	cdm_filter_add(&f, pattern);
	const char *hit = cdm_filter_match(&f, path, strlen(path));
	bool found = hit != NULL;
	if (found)
		assert_string_equal(hit, pattern);
	cdm_filter_fini(&f);
	return found;
}

static void table_of_patterns(void **state)
{
	static const struct {
		const char *pattern, *path;
		bool expected;
	} rows[] = {
		/* no '/': the last component, at any depth, or a directory above */
		{"*.bak", "a.bak", true},
		{"*.bak", "x/y/a.bak", true},
		{"*.bak", "a.bak/inside", true},
		{"*.bak", "a.bakx", false},
		{"*.bak", ".bak", true},
		{"a?c", "abc", true},
		{"a?c", "a/c", false},
		{"a?c", "ac", false},
		{"**", "any/thing", true},
		{"cache", "x/cache/y/z", true},
		{"cache", "x/cached", false},
		{"cache/", "x/cache/y", true},
		{"*", "a", true},
		/* with '/': the whole path from the root */
		{"cache/**", "cache/a", true},
		{"cache/**", "cache/a/b/c", true},
		{"cache/**", "cache", false},
		{"cache/**", "x/cache/a", false},
		{"/cache", "cache", true},
		{"/cache", "cache/a", true},
		{"/cache", "x/cache", false},
		{"a/*.txt", "a/b.txt", true},
		{"a/*.txt", "a/b/c.txt", false},
		{"a/*.txt", "a/b.txt/c", true},
		{"**/foo", "foo", true},
		{"**/foo", "a/foo", true},
		{"**/foo", "a/b/foo/c", true},
		{"**/foo", "a/xfoo", false},
		{"a/**/z", "a/z", true},
		{"a/**/z", "a/b/c/z", true},
		{"a/**/z", "a/bz", false},
		{"a/**/z", "az", false},
		{"a/**.css", "a/b/c.css", true},
		{"a**z/x", "a/b/z/x", true},
		{"x**y/**/z", "x1y/2y/z", true},
		{"*/b/*c/d", "a/b/ccc/d", true},
		{"*/b/*c/d", "a/b/cc/x/d", false},
		/* sets and escapes */
		{"[abc]x", "bx", true},
		{"[a-c]x", "cx", true},
		{"[!a-c]x", "cx", false},
		{"[^a-c]x", "dx", true},
		{"[]]x", "]x", true},
		{"[!]]x", "]x", false},
		{"[a-]x", "-x", true},
		{"[\\]]x", "]x", true},
		{"[!x]", "a/b", true},
		{"\\*", "*", true},
		{"\\*", "a", false},
		{"a\\[b", "a[b", true},
		{"[never", "[never", true},
		{"\xc3?", "\xc3\xa9", true},
		{"[\x80-\xff]", "\xfe", true},
		{"#*#", "d/#draft#", true},
		{".#*", ".#lock", true},
		{"a\nb", "a\nb", true},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
		if (matches(rows[i].pattern, rows[i].path) != rows[i].expected)
			fail_msg("pattern '%s' and path '%s': expected %d", rows[i].pattern, rows[i].path, rows[i].expected);
}

static void editors_files_are_excluded_by_default(void **state)
{
	static const char *const yes[] = {".a.swp", "d/.index.html.swo", ".a.swx", ".a.swn", "4913", "d/4913", "a~", ".#a", "#a#",
		".nfs0001", ".~lock.a.odt#", "~$a.docx", ".fuse_hidden01"};
	static const char *const no[] = {"a.swp", "a.html", "49131", "a~b", "#a", ".htaccess", "nfs", ".swap", "4913.html"};
	struct cdm_filter f = {0};
	for (const char *const *p = cdm_filter_default_excludes; *p; p++) {
		struct cdm_error err = CDM_ERROR_INIT;
		assert_int_equal(cdm_filter_check(*p, &err), 0);
		cdm_filter_add(&f, *p);
	}
	for (size_t i = 0; i < sizeof yes / sizeof yes[0]; i++)
		if (!cdm_filter_match(&f, yes[i], strlen(yes[i])))
			fail_msg("%s is not excluded", yes[i]);
	for (size_t i = 0; i < sizeof no / sizeof no[0]; i++)
		if (cdm_filter_match(&f, no[i], strlen(no[i])))
			fail_msg("%s is excluded", no[i]);
	cdm_filter_fini(&f);
}

static void unusable_patterns_are_refused_with_a_reason(void **state)
{
	char longest[1026];
	memset(longest, 'a', sizeof longest);
	longest[1025] = 0;
	const char *const bad[] = {"", "/", "[abc", "a/[", "x\\", "..", "a/../b", "../a", "a/..", "./a", "a//b", "//a", "[a/b]", "[[:digit:]]",
		"[!", "[]", "\\\\[", longest};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct cdm_error err = CDM_ERROR_INIT;
		if (cdm_filter_check(bad[i], &err) != -22 || !err.text[0])
			fail_msg("'%s' was taken", bad[i]);
	}
	longest[1024] = 0;
	const char *const good[] = {"a", "/a", "a/", "a/**", "**", "*.b", "[]]", "a..b", "...", "a/.b", "\\[", "\\\\", "[a\\]b]", longest};
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
		assert_int_equal(cdm_filter_check(good[i], NULL), 0);
}

/* Every pattern against a plain recursive reading of the rules. */
static bool slow_match(const char *p, const char *t, bool at_component)
{
	if (!*p)
		return !*t || *t == '/';
	if (p[0] == '*' && p[1] == '*') {
		if (at_component && p[2] == '/') {
			if (slow_match(p + 3, t, true))
				return true;
			for (; *t; t++)
				if (*t == '/' && slow_match(p + 3, t + 1, true))
					return true;
			return false;
		}
		for (;; t++) {
			if (slow_match(p + 2, t, false))
				return true;
			if (!*t)
				return false;
		}
	}
	if (*p == '*') {
		for (;; t++) {
			if (slow_match(p + 1, t, false))
				return true;
			if (!*t || *t == '/')
				return false;
		}
	}
	if (!*t || (*p == '?' ? *t == '/' : *p != *t))
		return false;
	return slow_match(p + 1, t + 1, *p == '/');
}

static void random_patterns_agree_with_the_plain_reading(void **state)
{
	unsigned seed = (unsigned)time(NULL);
	print_message("seed %u\n", seed);
	srand(seed);
	for (int round = 0; round < 200000; round++) {
		char pattern[12] = "", path[14] = "";
		int n = 1 + rand() % 9, m = 1 + rand() % 12;
		for (int i = 0; i < n; i++)
			pattern[i] = "ab**/?"[rand() % 6];
		for (int i = 0; i < m; i++)
			path[i] = "ab/"[rand() % 3];
		if (cdm_filter_check(pattern, NULL) || !strchr(pattern, '/') || pattern[n - 1] == '/' || strstr(pattern, "***") ||
			path[0] == '/' || path[m - 1] == '/' || strstr(path, "//"))
			continue;
		if (matches(pattern, path) != slow_match(*pattern == '/' ? pattern + 1 : pattern, path, true))
			fail_msg("pattern '%s' and path '%s'", pattern, path);
	}
}

static void a_hostile_pair_takes_no_time(void **state)
{
	char path[60001], pattern[] = "**a*a*a*a*b/**/a**a**a**a**a**a**a**a**a**c";
	for (size_t i = 0; i < sizeof path - 1; i++)
		path[i] = i % 200 == 199 ? '/' : 'a';
	path[sizeof path - 1] = 0;
	clock_t before = clock();
	assert_false(matches(pattern, path));
	assert_true(clock() - before < 5 * CLOCKS_PER_SEC);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(table_of_patterns),
		cmocka_unit_test(editors_files_are_excluded_by_default),
		cmocka_unit_test(unusable_patterns_are_refused_with_a_reason),
		cmocka_unit_test(random_patterns_agree_with_the_plain_reading),
		cmocka_unit_test(a_hostile_pair_takes_no_time),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
