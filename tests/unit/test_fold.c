/* SPDX-License-Identifier: Apache-2.0 */
/* What is about to be shipped is folded as internals.md 3 and design.md 4 say: each test is a program's save pattern. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "replicator/fold.h"

#define ORIGIN CDM_ORIGIN(1, 1)

struct list {
	struct item *items[64];
	size_t count;
	uint64_t number;
	cdm_origin origin;
};

static struct cdm_change *add(struct list *l, enum cdm_op op, const char *path, const char *path2, uint8_t file)
{
	struct cdm_change c = {.op = op, .dot = {l->origin ? l->origin : ORIGIN, ++l->number}, .clock = l->number << 16, .position = 100 * l->number, .path = path,
		.path_len = strlen(path), .path2 = path2, .path2_len = path2 ? strlen(path2) : 0};
	if (op == CDM_OP_SYMLINK) {
		c.value = "target";
		c.value_len = 6;
	}
	if (op == CDM_OP_SETXATTR) {
		c.name = "user.a";
		c.name_len = 6;
	}
	c.handle = (struct cdm_handle){.len = 1, .type = 1, .bytes = {file}};
	struct item *item = item_new(&c, 0);
	assert_non_null(item);
	l->items[l->count++] = item;
	return &item->change;
}

static struct cdm_change *save(struct list *l, const char *path, uint8_t file, uint32_t flags)
{
	struct cdm_change *c = add(l, CDM_OP_SAVE, path, NULL, file);
	c->flags = flags;
	c->version = (struct cdm_version){.dot = c->dot, .clock = c->clock};
	c->attr.size = 100;
	return c;
}

static void save_range(struct list *l, const char *path, uint8_t file, uint64_t offset, uint64_t length, struct cdm_dot base)
{
	struct cdm_change *c = save(l, path, file, 0);
	c->ranges_mem = calloc(1, sizeof *c->ranges_mem);
	c->ranges_mem[0] = (struct cdm_range){offset, length};
	c->ranges = c->ranges_mem;
	c->range_count = 1;
	c->base = base;
}

/* "SAVE a#3" per kept item, for comparison. */
static void expect(struct list *l, const char *want)
{
	char got[2048] = "";
	for (size_t i = 0; i < l->count; i++) {
		const struct item *item = l->items[i];
		const struct cdm_change *c = &item->change;
		if (item->gone)
			continue;
		size_t at = strlen(got);
		snprintf(got + at, sizeof got - at, "%s%s %.*s%s%.*s#%u", at ? ", " : "", cdm_op_name(c->op), (int)c->path_len, c->path,
			c->path2_len ? ">" : "", (int)c->path2_len, c->path2 ? c->path2 : "", (unsigned)c->dot.number);
	}
	assert_string_equal(got, want);
}

static void done(struct list *l)
{
	for (size_t i = 0; i < l->count; i++)
		item_free(l->items[i]);
}

static void several_saves_of_a_file_become_the_last(void **state)
{
	struct list l = {0};
	save(&l, "a", 1, CDM_CH_NEW | CDM_CH_WHOLE);
	save(&l, "b", 2, CDM_CH_NEW | CDM_CH_WHOLE);
	save(&l, "a", 1, CDM_CH_WHOLE);
	fold_items(l.items, l.count, true);
	expect(&l, "SAVE b#2, SAVE a#3");
	assert_true(l.items[2]->change.flags & CDM_CH_NEW);
	done(&l);
}

static void ranges_of_saves_are_joined_on_the_first_base(void **state)
{
	struct list l = {0};
	save_range(&l, "a", 1, 0, 10, (struct cdm_dot){ORIGIN, 90});
	save_range(&l, "a", 1, 50, 10, (struct cdm_dot){ORIGIN, 1});
	fold_items(l.items, l.count, true);
	expect(&l, "SAVE a#2");
	const struct cdm_change *c = &l.items[1]->change;
	assert_int_equal(c->range_count, 2);
	assert_int_equal(c->base.number, 90);
	assert_int_equal(l.items[1]->bytes, 20);
	done(&l);
}

static void temporary_and_rename_become_a_save_of_the_final_name(void **state)
{
	struct list l = {0};
	save(&l, ".page.html.Xa81Zq", 7, CDM_CH_NEW | CDM_CH_WHOLE);
	struct cdm_change *c = add(&l, CDM_OP_RENAME, ".page.html.Xa81Zq", "page.html", 7);
	c->victim = (struct cdm_dot){ORIGIN, 77};
	fold_items(l.items, l.count, true);
	expect(&l, "SAVE page.html#2");
	assert_int_equal(l.items[1]->change.base.number, 77);
	assert_int_equal(l.items[1]->change.version.dot.number, 1);
	assert_int_equal(l.items[1]->change.handle.bytes[0], 7);
	done(&l);
}

static void attributes_of_a_new_file_ride_in_its_save(void **state)
{
	struct list l = {0};
	save(&l, "a", 1, CDM_CH_NEW | CDM_CH_WHOLE);
	add(&l, CDM_OP_SETATTR, "a", NULL, 1);
	add(&l, CDM_OP_SETXATTR, "a", NULL, 1);
	add(&l, CDM_OP_SETATTR, "other", NULL, 9);
	fold_items(l.items, l.count, true);
	expect(&l, "SAVE a#3, SETATTR other#4");
	done(&l);
}

/* Cut off after #2, #3 alone would come to a file that is not there. */
static void attributes_never_take_a_save_past_another_change(void **state)
{
	struct list l = {0};
	save(&l, "a", 1, CDM_CH_NEW | CDM_CH_WHOLE);
	add(&l, CDM_OP_MKDIR, "d", NULL, 2);
	add(&l, CDM_OP_SETATTR, "a", NULL, 1);
	add(&l, CDM_OP_RENAME, "a", "d/a", 1);
	fold_items(l.items, l.count, true);
	expect(&l, "MKDIR d#2, SAVE d/a>a#4");
	done(&l);
	l = (struct list){0};
	save(&l, "a", 1, CDM_CH_NEW | CDM_CH_WHOLE);
	add(&l, CDM_OP_MKDIR, "d", NULL, 2);
	add(&l, CDM_OP_SETATTR, "a", NULL, 1);
	fold_items(l.items, l.count, true);
	expect(&l, "SAVE a#1, MKDIR d#2, SKIP a#3");
	assert_int_equal(item_known_from(l.items[0]), 300); /* it is sent with those attributes */
	done(&l);
}

static void the_directory_that_a_temporary_name_left_is_told(void **state)
{
	struct list l = {0};
	save(&l, "objects/tmp_obj_1", 1, CDM_CH_NEW | CDM_CH_WHOLE);
	struct cdm_change *c = add(&l, CDM_OP_RENAME, "objects/tmp_obj_1", "objects/ab/cd", 1);
	c->parent_mtime_ns = 5;
	c->parent2_mtime_ns = 6;
	fold_items(l.items, l.count, true);
	expect(&l, "SAVE objects/ab/cd>objects/tmp_obj_1#2");
	assert_int_equal(c->parent_mtime_ns, 6);
	assert_int_equal(c->parent2_mtime_ns, 5);
	save(&l, "objects/ab/cd", 1, CDM_CH_WHOLE);
	fold_items(l.items + 1, l.count - 1, true);
	expect(&l, "SAVE objects/ab/cd>objects/tmp_obj_1#3");
	assert_int_equal(l.items[2]->change.parent2_mtime_ns, 5);
	done(&l);
}

static struct cdm_change *rename_between(struct list *l, const char *from, const char *to, uint8_t file, int64_t mtime_ns)
{
	struct cdm_change *c = add(l, CDM_OP_RENAME, from, to, file);
	c->parent_mtime_ns = c->parent2_mtime_ns = mtime_ns;
	return c;
}

/* What came out of it was replaced, removed, or moved on before anybody saw it. */
static void the_directory_is_told_when_what_left_it_is_gone(void **state)
{
	struct list l = {0};
	save(&l, "d/a", 1, CDM_CH_NEW);
	rename_between(&l, "d/a", "f", 1, 5)->victim = (struct cdm_dot){ORIGIN, 100};
	save(&l, "f.tmp", 2, CDM_CH_NEW);
	rename_between(&l, "f.tmp", "f", 2, 7);
	fold_items(l.items, l.count, true);
	expect(&l, "SKIP d/a#2, SAVE f#4");
	assert_int_equal(l.items[1]->change.parent_mtime_ns, 5);
	done(&l);

	l = (struct list){0};
	save(&l, "d/a", 1, CDM_CH_NEW);
	rename_between(&l, "d/a", "e/a", 1, 5);
	rename_between(&l, "e/a", "f", 1, 6);
	add(&l, CDM_OP_SYMLINK, "d/l", NULL, 2);
	rename_between(&l, "d/l", "l", 2, 7);
	add(&l, CDM_OP_UNLINK, "l", NULL, 2)->parent_mtime_ns = 8;
	fold_items(l.items, l.count, true);
	expect(&l, "SAVE f>e/a#3, SKIP d/l#5, SKIP l#6");
	done(&l);
}

static void a_skip_stays_while_only_it_tells_a_directory(void **state)
{
	struct list l = {0};
	save(&l, "d/lock", 1, CDM_CH_NEW | CDM_CH_WHOLE);
	add(&l, CDM_OP_UNLINK, "d/lock", NULL, 1)->parent_mtime_ns = 7;
	save(&l, "other", 2, CDM_CH_NEW | CDM_CH_WHOLE);
	fold_items(l.items, l.count, true);
	expect(&l, "SKIP d/lock#2, SAVE other#3");
	save(&l, "d/new", 3, CDM_CH_NEW | CDM_CH_WHOLE);
	fold_items(l.items + 1, l.count - 1, true);
	expect(&l, "SAVE other#3, SAVE d/new#4");
	done(&l);
}

static void what_came_and_went_moves_only_the_vector(void **state)
{
	struct list l = {0};
	save(&l, "4913", 1, CDM_CH_NEW | CDM_CH_WHOLE);
	add(&l, CDM_OP_UNLINK, "4913", NULL, 1);
	fold_items(l.items, l.count, true);
	expect(&l, "SKIP 4913#2");
	done(&l);
	l = (struct list){0};
	add(&l, CDM_OP_MKDIR, "d", NULL, 1);
	save(&l, "d/f", 2, CDM_CH_NEW | CDM_CH_WHOLE);
	add(&l, CDM_OP_UNLINK, "d/f", NULL, 2);
	add(&l, CDM_OP_RMDIR, "d", NULL, 1);
	save(&l, "x", 3, CDM_CH_NEW | CDM_CH_WHOLE);
	fold_items(l.items, l.count, true);
	expect(&l, "SAVE x#5");
	done(&l);
}

static void a_directory_stays_when_something_known_passed_through_it(void **state)
{
	struct list l = {0};
	add(&l, CDM_OP_MKDIR, "d", NULL, 1);
	add(&l, CDM_OP_RENAME, "old", "d/old", 2);
	add(&l, CDM_OP_UNLINK, "d/old", NULL, 2);
	add(&l, CDM_OP_RMDIR, "d", NULL, 1);
	fold_items(l.items, l.count, true);
	expect(&l, "MKDIR d#1, RENAME old>d/old#2, UNLINK d/old#3, RMDIR d#4");
	done(&l);
}

static void a_known_file_is_still_removed(void **state)
{
	struct list l = {0};
	save_range(&l, "a", 1, 0, 10, (struct cdm_dot){ORIGIN, 90});
	add(&l, CDM_OP_UNLINK, "a", NULL, 1);
	fold_items(l.items, l.count, true);
	expect(&l, "UNLINK a#2");
	done(&l);
}

static void never_across_a_rename_of_a_directory_above(void **state)
{
	struct list l = {0};
	save(&l, "d/a", 1, CDM_CH_NEW | CDM_CH_WHOLE);
	add(&l, CDM_OP_RENAME, "d", "e", 9);
	save(&l, "e/a", 1, CDM_CH_WHOLE);
	save(&l, "d/a", 2, CDM_CH_NEW | CDM_CH_WHOLE);
	fold_items(l.items, l.count, true);
	expect(&l, "SAVE d/a#1, RENAME d>e#2, SAVE e/a#3, SAVE d/a#4");
	done(&l);
}

static void never_across_a_link_of_the_path(void **state)
{
	struct list l = {0};
	save(&l, "a", 1, CDM_CH_NEW | CDM_CH_WHOLE);
	add(&l, CDM_OP_LINK, "a", "a~", 1);
	save(&l, "a", 1, CDM_CH_WHOLE | CDM_CH_LINKED);
	fold_items(l.items, l.count, true);
	expect(&l, "SAVE a#1, LINK a>a~#2, SAVE a#3");
	done(&l);
}

static void never_across_a_change_of_another_origin(void **state)
{
	struct list l = {0};
	save(&l, "a", 1, CDM_CH_NEW | CDM_CH_WHOLE);
	l.origin = CDM_ORIGIN(2, 1);
	save(&l, "b", 2, CDM_CH_NEW | CDM_CH_WHOLE);
	l.origin = ORIGIN;
	save(&l, "a", 1, CDM_CH_WHOLE);
	fold_items(l.items, l.count, true);
	expect(&l, "SAVE a#1, SAVE b#2, SAVE a#3");
	done(&l);
}

static void a_symlink_switched_by_rename_is_one_symlink(void **state)
{
	struct list l = {0};
	add(&l, CDM_OP_SYMLINK, "current.tmp", NULL, 1);
	add(&l, CDM_OP_RENAME, "current.tmp", "current", 1);
	fold_items(l.items, l.count, true);
	expect(&l, "SYMLINK current#2");
	assert_memory_equal(l.items[1]->change.value, "target", 6);
	done(&l);
}

static void folding_goes_on_when_more_is_read(void **state)
{
	struct list l = {0};
	save(&l, "a.tmp", 1, CDM_CH_NEW | CDM_CH_WHOLE);
	fold_items(l.items, l.count, true);
	expect(&l, "SAVE a.tmp#1");
	assert_int_equal(fold_hold_ms(l.items[0]), 100);
	add(&l, CDM_OP_RENAME, "a.tmp", "a", 1);
	fold_items(l.items, l.count, true);
	expect(&l, "SAVE a#2");
	assert_int_equal(fold_hold_ms(l.items[1]), 3);
	done(&l);
}

static void a_new_file_that_took_a_known_name_removes_it_when_it_goes(void **state)
{
	struct list l = {0};
	save(&l, "known", 1, CDM_CH_NEW | CDM_CH_WHOLE | CDM_CH_COVERS);
	add(&l, CDM_OP_UNLINK, "known", NULL, 1);
	fold_items(l.items, l.count, true);
	expect(&l, "UNLINK known#2");
	done(&l);
	l = (struct list){0};
	save(&l, "known", 1, CDM_CH_NEW | CDM_CH_WHOLE | CDM_CH_COVERS);
	add(&l, CDM_OP_RENAME, "known", "other", 1);
	fold_items(l.items, l.count, true);
	expect(&l, "SAVE known#1, RENAME known>other#2");
	done(&l);
}

static void among_several_authors_removals_always_go_out(void **state)
{
	struct list l = {0};
	save(&l, "a", 1, CDM_CH_NEW | CDM_CH_WHOLE);
	add(&l, CDM_OP_UNLINK, "a", NULL, 1);
	add(&l, CDM_OP_MKDIR, "d", NULL, 2);
	add(&l, CDM_OP_RMDIR, "d", NULL, 2);
	fold_items(l.items, l.count, false);
	expect(&l, "UNLINK a#2, RMDIR d#4");
	done(&l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_new_file_that_took_a_known_name_removes_it_when_it_goes),
		cmocka_unit_test(among_several_authors_removals_always_go_out),
		cmocka_unit_test(several_saves_of_a_file_become_the_last),
		cmocka_unit_test(ranges_of_saves_are_joined_on_the_first_base),
		cmocka_unit_test(temporary_and_rename_become_a_save_of_the_final_name),
		cmocka_unit_test(attributes_of_a_new_file_ride_in_its_save),
		cmocka_unit_test(attributes_never_take_a_save_past_another_change),
		cmocka_unit_test(the_directory_that_a_temporary_name_left_is_told),
		cmocka_unit_test(the_directory_is_told_when_what_left_it_is_gone),
		cmocka_unit_test(a_skip_stays_while_only_it_tells_a_directory),
		cmocka_unit_test(what_came_and_went_moves_only_the_vector),
		cmocka_unit_test(a_directory_stays_when_something_known_passed_through_it),
		cmocka_unit_test(a_known_file_is_still_removed),
		cmocka_unit_test(never_across_a_rename_of_a_directory_above),
		cmocka_unit_test(never_across_a_link_of_the_path),
		cmocka_unit_test(never_across_a_change_of_another_origin),
		cmocka_unit_test(a_symlink_switched_by_rename_is_one_symlink),
		cmocka_unit_test(folding_goes_on_when_more_is_read),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
