/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "master/token.h"

#define CA "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void a_token_survives_its_text(void **state)
{
	struct token t, back;
	char text[TOKEN_TEXT];
	assert_int_equal(token_make(CA, &t, NULL), 0);
	token_format(&t, text);
	assert_int_equal(strlen(text), TOKEN_TEXT - 3);
	assert_int_equal(token_parse(text, &back), 0);
	assert_string_equal(back.ca, CA);
	assert_string_equal(back.id, t.id);
	assert_string_equal(back.secret, t.secret);
}

static void anything_else_is_refused(void **state)
{
	struct token t, back;
	char text[TOKEN_TEXT], bad[TOKEN_TEXT + 8];
	assert_int_equal(token_make(CA, &t, NULL), 0);
	token_format(&t, text);
	for (size_t i = 0; i < strlen(text); i++) { /* every truncation, every wrong byte */
		snprintf(bad, sizeof bad, "%.*s", (int)i, text);
		assert_int_equal(token_parse(bad, &back), -EINVAL);
		snprintf(bad, sizeof bad, "%s", text);
		bad[i] = 'X';
		assert_int_equal(token_parse(bad, &back), -EINVAL);
	}
	snprintf(bad, sizeof bad, "%s0", text);
	assert_int_equal(token_parse(bad, &back), -EINVAL);
	assert_int_equal(token_parse("", &back), -EINVAL);
}

static void hashes_compare(void **state)
{
	char a[TOKEN_HASH_TEXT], b[TOKEN_HASH_TEXT];
	token_hash("secret", a);
	token_hash("secret", b);
	assert_true(token_hash_equal(a, b));
	token_hash("Secret", b);
	assert_false(token_hash_equal(a, b));
	assert_false(token_hash_equal(a, ""));
	token_hash("abc", a);
	assert_string_equal(a, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

static void failures_are_limited_per_address(void **state)
{
	struct token_limiter *l = calloc(1, sizeof *l);
	assert_non_null(l);
	for (int i = 0; i < TOKEN_FAILURES_MAX; i++) {
		assert_true(token_limiter_allows(l, "10.0.0.1", 1000 + i));
		token_limiter_failed(l, "10.0.0.1", 1000 + i);
	}
	assert_false(token_limiter_allows(l, "10.0.0.1", 2000));
	assert_true(token_limiter_allows(l, "10.0.0.2", 2000));
	assert_true(token_limiter_allows(l, "10.0.0.1", 1000 + TOKEN_WINDOW_MS));
	token_limiter_failed(l, "10.0.0.1", 1000 + TOKEN_WINDOW_MS);
	assert_true(token_limiter_allows(l, "10.0.0.1", 1001 + TOKEN_WINDOW_MS));
	for (int i = 0; i < 5000; i++) { /* a flood of addresses stays within the table */
		char address[32];
		snprintf(address, sizeof address, "10.1.%d.%d", i / 250, i % 250);
		token_limiter_failed(l, address, 100000 + i);
		assert_true(token_limiter_allows(l, address, 100000 + i));
	}
	free(l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_token_survives_its_text),
		cmocka_unit_test(anything_else_is_refused),
		cmocka_unit_test(hashes_compare),
		cmocka_unit_test(failures_are_limited_per_address),
	};
	return cmocka_run_group_tests_name("token", tests, NULL, NULL);
}
