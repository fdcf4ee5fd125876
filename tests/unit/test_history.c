/* SPDX-License-Identifier: Apache-2.0 */
/* What the applier remembers: saves of versions, renamed directories, paths that were set aside. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>
#include "common/io.h"
#include "replicator/history.h"
#include "replicator/quarantine.h"

#define N1 (1ull << 32 | 1)
#define N2 (2ull << 32 | 1)

static void renamed(struct history *h, cdm_origin origin, uint64_t number, const char *from, const char *to)
{
	struct cdm_change c = {.op = CDM_OP_RENAME, .dot = {origin, number}, .clock = number, .path = from, .path_len = strlen(from), .path2 = to,
		.path2_len = strlen(to), .attr = {.mask = CDM_ATTR_MODE, .mode = S_IFDIR | 0755}};
	history_note(h, &c);
	history_note(h, &c);
}

static void is_now(struct history *h, const char *path, cdm_origin author, const struct cdm_vector *context, const char *want)
{
	size_t len;
	char *mapped = history_map(h, path, strlen(path), author, context, &len, NULL);
	if (want) {
		assert_non_null(mapped);
		assert_string_equal(mapped, want);
		assert_int_equal(len, strlen(want));
	} else {
		assert_null(mapped);
	}
	free(mapped);
}

static void paths_follow_renames_their_author_did_not_know(void **state)
{
	struct history *h = history_new();
	struct cdm_vector knows_one = {0}, nothing = {0};
	renamed(h, N1, 5, "before", "after");
	renamed(h, N1, 9, "after", "last/one");
	cdm_vector_raise(&knows_one, (struct cdm_dot){N1, 5});
	is_now(h, "before/file", N2, &nothing, "last/one/file");
	is_now(h, "before", N2, &nothing, "last/one");
	is_now(h, "beforehand", N2, &nothing, NULL);
	is_now(h, "before/file", N2, &knows_one, NULL); /* made again after the first rename */
	is_now(h, "after/file", N2, &knows_one, "last/one/file");
	is_now(h, "before/file", N1, &nothing, NULL); /* its own renames an author knows */
	history_forget(h, (struct cdm_dot){N1, 9});
	is_now(h, "before/file", N2, &nothing, "after/file");
	for (uint64_t i = 0; i < 1000; i++)
		renamed(h, N1, 10 + i, "x", "y");
	is_now(h, "before/file", N2, &nothing, NULL); /* forgotten */
	cdm_vector_fini(&knows_one);
	history_free(&h);
}

static void what_the_journal_tells_later_lies_before(void **state)
{
	struct history *h = history_new(), *older = history_new();
	struct cdm_vector nothing = {0};
	renamed(h, N1, 9, "after", "last");
	renamed(older, N1, 5, "before", "after");
	renamed(older, N1, 9, "after", "last");
	history_put_before(h, &older);
	assert_null(older);
	is_now(h, "before/file", N2, &nothing, "last/file");
	renamed(h, N1, 11, "last", "end");
	is_now(h, "before/file", N2, &nothing, "end/file");
	older = history_new();
	for (uint64_t i = 0; i < 1000; i++)
		renamed(older, N2, 10 + i, "x", "y");
	history_put_before(h, &older);
	is_now(h, "before/file", N2, &nothing, "end/file");
	history_free(&h);
}

static void a_version_is_known_by_its_save(void **state)
{
	struct history *h = history_new();
	struct cdm_change save = {.op = CDM_OP_SAVE, .dot = {N1, 55}, .version = {.dot = {N1, 50}}, .path = "f", .path_len = 1};
	history_note(h, &save);
	assert_int_equal(history_saved_by(h, save.version.dot).number, 55);
	assert_true(cdm_dot_is_none(history_saved_by(h, (struct cdm_dot){N1, 51})));
	assert_true(cdm_dot_is_none(history_saved_by(h, (struct cdm_dot){N2, 50})));
	history_free(&h);
}

/* Names that are local to a node may be of a file that is not. */
static void what_does_not_ship_tells_nobody_of_a_version(void **state)
{
	struct history *h = history_new();
	struct cdm_change save = {.op = CDM_OP_SAVE, .dot = {N1, 55}, .version = {.dot = {N1, 50}}, .path = "f", .path_len = 1};
	struct cdm_change local = {.op = CDM_OP_RENAME, .flags = CDM_CH_LOCAL, .dot = {N2, 7}, .version = {.dot = {N1, 50}}, .path = "l", .path_len = 1,
		.path2 = "m", .path2_len = 1};
	history_note(h, &save);
	history_note(h, &local);
	assert_int_equal(history_saved_by(h, save.version.dot).number, 55);
	history_free(&h);
}

static void what_was_set_aside_outlives_the_program(void **state)
{
	char dir[] = "/tmp/test-history-XXXXXX", reason[256];
	assert_non_null(mkdtemp(dir));
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fd >= 0 && mkdirat(fd, ".cdmfs", 0700) == 0);
	for (int run = 0; run < 2; run++) {
		struct quarantine *q = quarantine_new();
		assert_int_equal(quarantine_load(q, fd), run ? 1 : 0);
		if (!run) {
			quarantine_add(q, "a \n\xff", 4, "too long\nand more");
			quarantine_add(q, "b", 1, "resolved");
			quarantine_resolve(q, "b", 1);
			quarantine_add(q, "dir/below", 9, "removed");
			quarantine_add(q, "dir", 3, "removed");
			assert_true(quarantine_has_below(q, "dir", 3));
			quarantine_resolve_below(q, "dir", 3);
			assert_false(quarantine_has_below(q, "dir", 3) || quarantine_has_below(q, "a", 1));
		}
		assert_true(quarantine_find(q, "a \n\xff", 4, reason, sizeof reason));
		assert_memory_equal(reason, "too long", 8);
		assert_false(quarantine_find(q, "b", 1, reason, sizeof reason));
		quarantine_free(&q);
	}
	_cleanup_close_ int private = openat(fd, ".cdmfs", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(cdm_replace_file(private, "quarantine", "zz x\n6 y\n\n61 ok", 16, 0600, NULL), 0);
	struct quarantine *q = quarantine_new();
	assert_int_equal(quarantine_load(q, fd), 1); /* damaged lines are left out */
	quarantine_free(&q);
	assert_int_equal(unlinkat(fd, ".cdmfs/quarantine", 0), 0);
	assert_int_equal(unlinkat(fd, ".cdmfs", AT_REMOVEDIR), 0);
	close(fd);
	rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(paths_follow_renames_their_author_did_not_know),
		cmocka_unit_test(what_the_journal_tells_later_lies_before),
		cmocka_unit_test(a_version_is_known_by_its_save),
		cmocka_unit_test(what_does_not_ship_tells_nobody_of_a_version),
		cmocka_unit_test(what_was_set_aside_outlives_the_program),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
