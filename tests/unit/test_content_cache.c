/* SPDX-License-Identifier: Apache-2.0 */
/* What was read for one child is given to the others while it says all that they are to know, and the cache stays within its bounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "replicator/content_cache.h"

#define ORIGIN CDM_ORIGIN(1, 1)

static unsigned open_contents;

struct content *content_share(struct content *c)
{
	c->references++;
	return c;
}

void content_close(struct content **content)
{
	struct content *c = *content;
	*content = NULL;
	if (--c->references)
		return;
	bytes_fini(&c->pieces);
	free(c);
	open_contents--;
}

static struct cdm_handle handle_of(uint64_t file)
{
	struct cdm_handle h = {.len = sizeof file, .type = 1};
	memcpy(h.bytes, &file, sizeof file);
	return h;
}

static void keep(struct content_cache *cache, uint64_t version, uint64_t file, size_t len, uint64_t position)
{
	struct content *c = calloc(1, sizeof *c);
	struct cdm_handle h = handle_of(file);
	assert_non_null(c);
	c->references = 1;
	c->carried.stamp.content.dot = (struct cdm_dot){ORIGIN, version};
	bytes_add(&c->pieces, len);
	open_contents++;
	content_cache_keep(cache, c, &h, position);
	content_close(&c);
}

/* A save of this version, journaled at this position; attributes_at: what was folded into it. */
static bool finds(struct content_cache *cache, uint64_t version, uint64_t file, uint64_t position, uint64_t attributes_at)
{
	struct item item = {.change = {.op = CDM_OP_SAVE, .flags = CDM_CH_WHOLE, .version = {.dot = {ORIGIN, version}}, .handle = handle_of(file),
		.position = position}, .attributes_at = attributes_at};
	struct content *c = content_cache_find(cache, &item);
	bool found = c;
	if (c)
		content_close(&c);
	return found;
}

static void only_the_same_version_of_the_same_file(void **state)
{
	struct content_cache *cache = content_cache_new();
	keep(cache, 5, 1, 100, 50);
	assert_true(finds(cache, 5, 1, 40, 0));
	assert_false(finds(cache, 6, 1, 40, 0));
	assert_false(finds(cache, 5, 2, 40, 0));
	content_cache_free(&cache);
	assert_int_equal(open_contents, 0);
}

static void not_what_came_after_it_was_read(void **state)
{
	struct content_cache *cache = content_cache_new();
	keep(cache, 5, 1, 100, 50);
	assert_true(finds(cache, 5, 1, 49, 0));
	assert_false(finds(cache, 5, 1, 50, 0)); /* the next record when it was read */
	assert_false(finds(cache, 5, 1, 51, 0));
	assert_false(finds(cache, 5, 1, 40, 60)); /* attributes that were changed after the read */
	keep(cache, 5, 1, 100, 70);
	assert_true(finds(cache, 5, 1, 40, 60));
	content_cache_free(&cache);
}

static void the_oldest_goes_first(void **state)
{
	struct content_cache *cache = content_cache_new();
	for (uint64_t i = 0; i < CACHE_CONTENTS + 1; i++)
		keep(cache, i + 1, i, 10, 50);
	assert_false(finds(cache, 1, 0, 40, 0));
	assert_true(finds(cache, 2, 1, 40, 0));
	assert_int_equal(open_contents, CACHE_CONTENTS);
	for (uint64_t i = 0; i < 5; i++)
		keep(cache, 10000 + i, i, CACHE_BYTES / 4 - sizeof(struct content), 50);
	assert_false(finds(cache, 10000, 0, 40, 0));
	assert_true(finds(cache, 10001, 1, 40, 0));
	assert_int_equal(open_contents, 4);
	content_cache_forget(cache);
	assert_int_equal(open_contents, 0);
	content_cache_free(&cache);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(only_the_same_version_of_the_same_file),
		cmocka_unit_test(not_what_came_after_it_was_read),
		cmocka_unit_test(the_oldest_goes_first),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
