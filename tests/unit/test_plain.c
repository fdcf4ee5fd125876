/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "replicator/plain.h"

static const uint8_t key[32] = {1, 2, 3}, other_key[32] = {1, 2, 4};
static uint8_t content[PLAIN_RECORD_MAX], record[PLAIN_RECORD_MAX + PLAIN_OVERHEAD];

struct ends {
	struct plain *from, *to;
};

static struct ends ends_make(const uint8_t of_receiver[32])
{
	struct ends e;
	assert_int_equal(plain_new(key, &e.from, NULL), 0);
	assert_int_equal(plain_new(of_receiver, &e.to, NULL), 0);
	return e;
}

static void ends_free(struct ends *e)
{
	plain_free(&e->from);
	plain_free(&e->to);
}

static int seal(struct plain *p, const uint8_t *bytes, size_t len, uint8_t *out)
{
	memcpy(out + PLAIN_HEAD, bytes, len);
	return plain_seal(p, out, len, NULL);
}

static ssize_t open_now(struct plain *p, const uint8_t *bytes, size_t have)
{
	size_t len = 0;
	return plain_open(p, bytes, have, &len, NULL);
}

static void records_arrive_readable_and_equal(void **state)
{
	static const size_t sizes[] = {1, 100, 65535, PLAIN_RECORD_MAX};
	struct ends e = ends_make(key);
	for (unsigned i = 0; i < 12; i++) {
		size_t len = sizes[i % 4], got = 0;
		memset(content, (int)('a' + i), len);
		assert_int_equal(seal(e.from, content, len, record), 0);
		assert_memory_equal(record + PLAIN_HEAD, content, len);
		assert_int_equal(plain_open(e.to, record, sizeof record, &got, NULL), len + PLAIN_OVERHEAD);
		assert_int_equal(got, len);
	}
	ends_free(&e);
}

static void a_part_of_a_record_waits_for_the_rest(void **state)
{
	struct ends e = ends_make(key);
	assert_int_equal(seal(e.from, content, 50, record), 0);
	for (size_t have = 0; have < 50 + PLAIN_OVERHEAD; have++)
		assert_int_equal(open_now(e.to, record, have), 0);
	assert_int_equal(open_now(e.to, record, 50 + PLAIN_OVERHEAD), 50 + PLAIN_OVERHEAD);
	ends_free(&e);
}

static void any_changed_bit_is_noticed(void **state)
{
	for (size_t bit = 0; bit < (20 + PLAIN_OVERHEAD) * 8; bit++) {
		struct ends e = ends_make(key);
		assert_int_equal(seal(e.from, content, 20, record), 0);
		record[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_true(open_now(e.to, record, 20 + PLAIN_OVERHEAD) <= 0); /* a greater length waits for more … */
		assert_true(open_now(e.to, record, sizeof record) < 0);        /* … and does not match then */
		ends_free(&e);
	}
}

static void repeated_missing_and_foreign_records_are_refused(void **state)
{
	uint8_t second[30 + PLAIN_OVERHEAD];
	struct ends e = ends_make(key);
	seal(e.from, content, 30, record);
	assert_true(open_now(e.to, record, sizeof record) > 0);
	assert_int_equal(open_now(e.to, record, sizeof record), -EBADMSG);
	ends_free(&e);
	e = ends_make(key);
	seal(e.from, content, 30, record);
	seal(e.from, content, 30, second);
	assert_int_equal(open_now(e.to, second, sizeof second), -EBADMSG);
	ends_free(&e);
	e = ends_make(other_key);
	seal(e.from, content, 30, record);
	assert_int_equal(open_now(e.to, record, sizeof record), -EBADMSG);
	ends_free(&e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(records_arrive_readable_and_equal),
		cmocka_unit_test(a_part_of_a_record_waits_for_the_rest),
		cmocka_unit_test(any_changed_bit_is_noticed),
		cmocka_unit_test(repeated_missing_and_foreign_records_are_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
