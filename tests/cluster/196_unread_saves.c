/* SPDX-License-Identifier: Apache-2.0 */
/* What an author on this node saved is in its journal, and its replicator has not read that yet, when something comes that was made by who did not
 * know of it, although he knows later changes of this node: it neither removes nor silently replaces what was saved. Threads of n2's replicator
 * are held where that can happen (common/faultpoint.h). */
#include "tests/cluster/held.h"
#include "tests/cluster/story.h"

#include <fcntl.h>
#include <string.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define READING "follow.woken_not_read"
#define ASKING "publish.found_not_read_up"
#define REMOVING "publish.removal_came_not_looked"
#define REPLACING "stage.made_not_published"
#define ROOT "resync.root_came_not_taken"

/* The only program that can be held is n2's replicator. */
static int can_be_held(void **state)
{
	started_to_be_held("n2");
	return 0;
}

static bool is_closed(void *arg, char *seen)
{
	char path[512];
	snprintf(path, sizeof path, "%s/full", lab_run_dir(lab, "n2"));
	ssize_t n = getxattr(path, "trusted.cdmfs.open", seen, 511);
	seen[n > 0 ? n : 0] = 0;
	return strcmp(seen, "[]") == 0;
}

/* An author at n2 begins to save this; n1 knows what n2 did afterwards. */
static int author_begins(const char *path, const char *text)
{
	_cleanup_free_ char *there = lab_path(lab, "n2", path), *later = NULL;
	int fd = open(there, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	assert_true(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	assert_true(asprintf(&later, "%s-later", path) >= 0);
	save("n2", later, text);
	gets_text("n1", later, text);
	return fd;
}

/* Somebody of n2's replicator waits at `point`. Meanwhile the author ends his save, and then, before its loop has read of that, n2 goes on until it has
 * to know. */
static void author_ends(int fd, const char *path, const char *point)
{
	struct cdm_error err = CDM_ERROR_INIT;
	_cleanup_free_ char *other = NULL;
	int at_point = arrived(point);
	assert_true(asprintf(&other, "%s-other", path) >= 0);
	hold(READING);
	save("n2", other, "");
	int loop = arrived(READING);
	close(fd);
	if (lab_wait_for(is_closed, NULL, STORY_MS, "the save is in the journal", &err) < 0)
		fail_msg("%s", err.text);
	hold(ASKING);
	close(at_point);
	int asking = arrived(ASKING);
	close(asking);
	close(loop);
}

/* n2 has nothing yet, so it is about to take n1's root directory for its own, mtime and all: not any more. */
static void the_root_of_who_had_nothing(void **state)
{
	administrator("route", "set", LAB_SET, "n2", "--parent", "n1", NULL);
	hold(ROOT);
	can_be_held(state);
	int loop = arrived(ROOT);
	make_directory("n2", "first");
	close(loop);
	everywhere_equal();
}

static void trees_that_are_compared(void **state)
{
	administrator("route", "set", LAB_SET, "n2", "--parent", "n1", NULL);
	make_directory("n1", "compared");
	everywhere_equal();
	int fd = author_begins("compared/draft", "saved");
	shell("n2", ": > %s/.cdmfs/doubt", lab_store(lab, "n2"));
	hold(REMOVING);
	can_be_held(state);
	author_ends(fd, "compared/draft", REMOVING);
	everywhere_equal();
	move("n2", "compared/draft", "compared/new");
	gets_text("n1", "compared/new", "saved");
	everywhere_equal();
}

static void a_removal_that_comes(void **state)
{
	make_directory("n1", "removed");
	save("n1", "removed/page", "old");
	everywhere_equal();
	int fd = author_begins("removed/page", "new");
	hold(REMOVING);
	remove_file("n1", "removed/page");
	author_ends(fd, "removed/page", REMOVING);
	everywhere_equal();
	has_text("n1", "removed/page", "new");
}

static void a_save_that_comes(void **state)
{
	make_directory("n1", "replaced");
	everywhere_equal();
	unsigned kept = kept_files("n2", "conflicts");
	int fd = author_begins("replaced/page", "by n2");
	hold(REPLACING);
	save("n1", "replaced/page", "by n1, who knows nothing of it");
	author_ends(fd, "replaced/page", REPLACING);
	everywhere_equal();
	has_text("n2", "replaced/page", "by n1, who knows nothing of it");
	assert_int_equal(kept_files("n2", "conflicts"), kept + 1);
}

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(the_root_of_who_had_nothing), /* the first */
		cmocka_unit_test(trees_that_are_compared),
		cmocka_unit_test_setup(a_removal_that_comes, can_be_held),
		cmocka_unit_test_setup(a_save_that_comes, can_be_held),
	};
	return STORIES("unread", ((struct lab_options){.nodes = 2}), stories);
}
