/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "replicator/pack.h"

static uint8_t content[PACK_MOST], packed[PACK_MOST + 4096];

static void fill_random(uint8_t *to, size_t len)
{
	static uint64_t x = 88172645463325252ull;
	for (size_t i = 0; i < len; i++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		to[i] = (uint8_t)(x >> 32);
	}
}

static void fill_text(uint8_t *to, size_t len, unsigned seed)
{
	for (size_t at = 0; at < len;) {
		char line[80];
		int n = snprintf(line, sizeof line, "<li class=\"item\"><a href=\"/page/%u.html\">page %u</a></li>\n", seed, seed % 977);
		seed = seed * 1103515245 + 12345;
		size_t part = len - at < (size_t)n ? len - at : (size_t)n;
		memcpy(to + at, line, part);
		at += part;
	}
}

/* Returns the packed length. */
static size_t round_trip(struct packer *p, struct unpacker *u, unsigned level, size_t head_len, size_t len)
{
	const uint8_t *got;
	size_t got_len;
	assert_true(packer_room(p, len) <= sizeof packed);
	size_t n = packer_pack(p, level, content, head_len, content + head_len, len - head_len, packed);
	assert_true(n > 0 && n <= packer_room(p, len));
	assert_int_equal(unpacker_unpack(u, packed, n, 256u << 10, &got, &got_len, NULL), 0);
	assert_int_equal(got_len, len);
	assert_memory_equal(got, content, len);
	return n;
}

static void what_is_packed_comes_out_equal_and_fits_a_frame(void **state)
{
	static const unsigned levels[] = {1, 9, 3, 3, 6, 1, 2, 4, 5, 7, 8};
	static const size_t sizes[] = {PACK_LEAST, 65, 1000, 4096, 70000, 128 << 10, PACK_MOST};
	for (unsigned method = 0; method < PACK_METHODS; method++) {
		struct packer *p = packer_new(method);
		struct unpacker *u = unpacker_new(method);
		for (unsigned i = 0; i < sizeof levels / sizeof *levels; i++)
			for (unsigned k = 0; k < sizeof sizes / sizeof *sizes; k++) {
				fill_random(content, sizes[k]);
				assert_true(round_trip(p, u, levels[i], k % 2 ? 8 : 0, sizes[k]) <= 256u << 10);
				fill_text(content, sizes[k], i * 100 + k);
				round_trip(p, u, levels[i], k % 3 ? 8 : sizes[k], sizes[k]);
			}
		packer_free(&p);
		unpacker_free(&u);
	}
}

static void small_frames_that_resemble_each_other_share_the_window(void **state)
{
	for (unsigned method = 0; method < PACK_METHODS; method++) {
		struct packer *p = packer_new(method);
		struct unpacker *u = unpacker_new(method);
		fill_random(content, 600);
		assert_true(round_trip(p, u, 1, 0, 600) > 600);
		assert_true(round_trip(p, u, 1, 0, 600) < 60);
		packer_free(&p);
		unpacker_free(&u);
	}
}

static bool wants(struct packer *p, size_t len)
{
	return packer_wants(p, NULL, 0, content, len);
}

static void random_bytes_are_left_alone_and_text_is_not(void **state)
{
	struct packer *p = packer_new(PACK_ZSTD);
	for (unsigned i = 0; i < 1000; i++) {
		size_t len = 2048 + i * 131;
		fill_random(content, len);
		assert_false(wants(p, len));
		fill_text(content, len, i);
		assert_true(wants(p, len));
	}
	for (unsigned i = 0; i < 65536; i++) /* base64 of something random */
		content[i] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[content[i] % 64];
	assert_true(wants(p, 65536));
	assert_false(wants(p, PACK_LEAST - 1));
	assert_false(wants(p, PACK_MOST + 1));
	packer_free(&p);
}

static void after_frames_that_did_not_shrink_some_go_by(void **state)
{
	struct packer *p = packer_new(PACK_ZSTD);
	unsigned tried = 0;
	for (unsigned i = 0; i < 200; i++) { /* the look at a sample is deceived: equal only where it looks */
		size_t len = 65536, step = (len - 128) / 15;
		fill_random(content, len);
		for (unsigned k = 0; k < 16; k++)
			memset(content + k * step, 'x', 128);
		if (!wants(p, len))
			continue;
		tried++;
		assert_true(packer_pack(p, 1, content, len, NULL, 0, packed) > 0);
	}
	assert_in_range(tried, 2, 20);
	fill_text(content, 65536, 1);
	for (unsigned i = 0; i < 16 && !wants(p, 65536); i++)
		;
	assert_true(packer_pack(p, 1, content, 65536, NULL, 0, packed) > 0);
	for (unsigned i = 0; i < 16; i++)
		assert_true(wants(p, 65536));
	packer_free(&p);
}

static void refused(unsigned method, const uint8_t *bytes, size_t len, size_t most, const char *why)
{
	struct unpacker *u = unpacker_new(method);
	struct cdm_error err = CDM_ERROR_INIT;
	const uint8_t *got;
	size_t got_len;
	uint8_t *copy = malloc(len ? len : 1);
	memcpy(copy, bytes, len);
	assert_int_equal(unpacker_unpack(u, copy, len, most, &got, &got_len, &err), -EBADMSG);
	if (!strstr(err.text, why))
		fail_msg("%s instead of %s", err.text, why);
	free(copy);
	unpacker_free(&u);
}

static void what_says_other_than_it_holds_is_refused(void **state)
{
	for (unsigned method = 0; method < PACK_METHODS; method++) {
		struct packer *p = packer_new(method);
		memset(content, 'x', 200000);
		size_t n = packer_pack(p, 6, content, 200000, NULL, 0, packed);
		assert_true(n > 0 && n < 2000);
		refused(method, packed, n, 199999, "says it holds");
		for (size_t cut = 0; cut < PACK_HEAD; cut++)
			refused(method, packed, cut, 256u << 10, "says it holds");
		for (size_t cut = PACK_HEAD; cut < n - 8; cut++)
			refused(method, packed, cut, 256u << 10, "");
		const struct {
			uint32_t says;
			const char *why;
		} lies[] = {{0, "says it holds"}, {(256u << 10) + 1, "says it holds"}, {UINT32_MAX, "says it holds"}, {200001, "fewer"}, {199999, "more"}, {1, "more"}};
		for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
			memcpy(packed, &lies[i].says, 4);
			refused(method, packed, n, 256u << 10, lies[i].why);
		}
		packer_free(&p);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_packed_comes_out_equal_and_fits_a_frame),
		cmocka_unit_test(small_frames_that_resemble_each_other_share_the_window),
		cmocka_unit_test(random_bytes_are_left_alone_and_text_is_not),
		cmocka_unit_test(after_frames_that_did_not_shrink_some_go_by),
		cmocka_unit_test(what_says_other_than_it_holds_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
