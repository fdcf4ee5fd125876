/* SPDX-License-Identifier: Apache-2.0 */
/* The names of a file are found in a tree, and remembered as long as they are its names. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "replicator/names.h"

struct tree {
	char path[64];
	int fd;
	struct stat file;
};

static int set_up(void **state)
{
	struct tree *t = calloc(1, sizeof *t);
	snprintf(t->path, sizeof t->path, "/tmp/cdm-names-XXXXXX");
	assert_non_null(mkdtemp(t->path));
	t->fd = open(t->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(t->fd >= 0 && mkdirat(t->fd, "d", 0700) == 0 && mkdirat(t->fd, "d/e", 0700) == 0 && mkdirat(t->fd, ".cdmfs", 0700) == 0);
	int fd = openat(t->fd, "a", O_WRONLY | O_CREAT | O_CLOEXEC, 0600), other = openat(t->fd, "d/other", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0 && other >= 0 && close(fd) == 0 && close(other) == 0 && fstatat(t->fd, "a", &t->file, 0) == 0);
	assert_true(linkat(t->fd, "a", t->fd, "d/b", 0) == 0 && linkat(t->fd, "a", t->fd, "d/e/c", 0) == 0 && linkat(t->fd, "a", t->fd, ".cdmfs/no", 0) == 0);
	*state = t;
	return 0;
}

static int tear_down(void **state)
{
	struct tree *t = *state;
	char command[80];
	snprintf(command, sizeof command, "rm -rf %s", t->path);
	close(t->fd);
	free(t);
	return system(command);
}

static bool goes_on(void *arg)
{
	return --*(int *)arg >= 0;
}

/* All names in one line, sorted. */
static const char *line_of(struct names *n)
{
	static char line[256];
	const char *all[8];
	size_t count = 0, at = 0, len = 0;
	for (const char *name; (name = names_next(n, &at));)
		all[count++] = name;
	for (size_t i = 0; i < count; i++)
		for (size_t k = i + 1; k < count; k++)
			if (strcmp(all[k], all[i]) < 0) {
				const char *swap = all[i];
				all[i] = all[k];
				all[k] = swap;
			}
	line[0] = 0;
	for (size_t i = 0; i < count; i++)
		len += (size_t)snprintf(line + len, sizeof line - len, "%s ", all[i]);
	names_fini(n);
	return line;
}

static void all_names_of_a_file_are_found(void **state)
{
	struct tree *t = *state;
	struct names n = {0};
	int directories = 3;
	assert_int_equal(names_find(t->fd, &t->file, &n, goes_on, &directories), 0);
	assert_string_equal(line_of(&n), "a d/b d/e/c ");
}

static int note_name(void *arg, int dir, const char *name, const char *path, size_t len)
{
	struct names *n = arg;
	struct stat st;
	assert_true(fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && strlen(path) == len);
	n->bytes = realloc(n->bytes, n->len + len + 1);
	memcpy(n->bytes + n->len, path, len + 1);
	n->len += len + 1;
	return strcmp(name, "c") == 0 ? -EIO : 0;
}

static void each_name_is_looked_at(void **state)
{
	struct tree *t = *state;
	struct names n = {0};
	int directories = 3;
	assert_int_equal(names_look_at_each(t->fd, note_name, &n, goes_on, &directories), -EIO);
	assert_string_equal(line_of(&n), "a d/b d/e/c d/other ");
}

static void a_search_ends_when_it_is_to(void **state)
{
	struct tree *t = *state;
	struct names n = {0};
	int directories = 2;
	assert_int_equal(names_find(t->fd, &t->file, &n, goes_on, &directories), -ECANCELED);
	names_fini(&n);
}

static void what_is_no_name_any_more_is_not_remembered(void **state)
{
	struct tree *t = *state;
	struct known_names *k = known_names_new();
	struct names n = {0};
	known_names_add(k, &t->file, "d/b", 3);
	known_names_add(k, &t->file, "a", 1);
	known_names_add(k, &t->file, "d/b", 3);
	known_names_look(k, t->fd, &t->file, &n);
	assert_string_equal(line_of(&n), "a d/b ");
	assert_true(unlinkat(t->fd, "a", 0) == 0 && renameat(t->fd, "d/other", t->fd, "a") == 0);
	known_names_look(k, t->fd, &t->file, &n);
	assert_string_equal(line_of(&n), "d/b ");
	known_names_free(&k);
}

static void what_was_not_used_for_longest_is_forgotten(void **state)
{
	struct tree *t = *state;
	struct known_names *k = known_names_new();
	struct stat st = t->file;
	struct names n = {0};
	known_names_add(k, &t->file, "a", 1);
	for (st.st_ino = 1; st.st_ino < FAMILIES; st.st_ino++)
		known_names_add(k, &st, "x", 1);
	known_names_look(k, t->fd, &t->file, &n);
	assert_string_equal(line_of(&n), "a ");
	for (st.st_ino = 1; st.st_ino <= FAMILIES; st.st_ino++)
		known_names_add(k, &st, "x", 1);
	known_names_look(k, t->fd, &t->file, &n);
	assert_string_equal(line_of(&n), "");
	known_names_free(&k);
}

static void a_name_that_finds_no_room_is_left_out(void **state)
{
	struct tree *t = *state;
	struct known_names *k = known_names_new();
	struct names n = {0};
	char *path = malloc(FAMILY_BYTES_MAX);
	assert_non_null(path);
	memset(path, 'x', FAMILY_BYTES_MAX);
	known_names_add(k, &t->file, path, FAMILY_BYTES_MAX);
	known_names_add(k, &t->file, "a", 1);
	known_names_look(k, t->fd, &t->file, &n);
	assert_string_equal(line_of(&n), "a ");
	free(path);
	known_names_free(&k);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(all_names_of_a_file_are_found, set_up, tear_down),
		cmocka_unit_test_setup_teardown(each_name_is_looked_at, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_search_ends_when_it_is_to, set_up, tear_down),
		cmocka_unit_test_setup_teardown(what_is_no_name_any_more_is_not_remembered, set_up, tear_down),
		cmocka_unit_test_setup_teardown(what_was_not_used_for_longest_is_forgotten, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_name_that_finds_no_room_is_left_out, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
