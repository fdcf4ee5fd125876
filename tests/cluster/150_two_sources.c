/* SPDX-License-Identifier: Apache-2.0 */
/* Two nodes save the same path without knowing of each other: all end with one of both, the same everywhere; the other is kept. */
#include "tests/cluster/held.h"
#include "tests/cluster/story.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define COMPARING "resync.root_came_not_taken"

static unsigned kept_anywhere(void)
{
	unsigned count = 0;
	for (unsigned i = 0; i < lab_node_count(lab); i++)
		count += kept_files(lab_node_name(lab, i), "conflicts");
	return count;
}

/* n2 is cut off; `first` saves, then `second`; then they meet. The later one wins. */
static void concurrent_saves(const char *path, const char *first, const char *second)
{
	char earlier[64], later[64];
	snprintf(earlier, sizeof earlier, "earlier, by %s", first);
	snprintf(later, sizeof later, "later, by %s", second);
	save("n1", path, "both know this");
	in_sync();
	unsigned kept = kept_anywhere();
	cut("n2");
	save(first, path, earlier);
	save(second, path, later);
	healed("n2");
	everywhere_equal();
	has_text("n3", path, later);
	if (kept_anywhere() <= kept)
		fail_msg("%s: the version that lost is nowhere in conflicts/", path);
}

static void the_island_saves_last(void **state)
{
	concurrent_saves("island-last", "n1", "n2");
}

static void the_island_saves_first(void **state)
{
	concurrent_saves("island-first", "n2", "n1");
}

static void both_create_the_same_name(void **state)
{
	cut("n2");
	save("n1", "created", "by n1");
	save("n2", "created", "by n2");
	healed("n2");
	everywhere_equal();
	has_text("n3", "created", "by n2");
}

static void equal_content_is_no_conflict(void **state)
{
	cut("n2");
	save("n1", "agreed", "the same");
	save("n2", "agreed", "the same");
	healed("n2");
	everywhere_equal();
	has_text("n1", "agreed", "the same");
}

static void removed_here_changed_there(void **state)
{
	save("n1", "removed-or-changed", "old");
	in_sync();
	cut("n2");
	remove_file("n1", "removed-or-changed");
	save("n2", "removed-or-changed", "changed");
	healed("n2");
	everywhere_equal();
	has_text("n1", "removed-or-changed", "changed"); /* the later one */
}

static void changed_here_removed_there(void **state)
{
	save("n1", "changed-or-removed", "old");
	in_sync();
	unsigned kept = kept_anywhere();
	cut("n2");
	save("n1", "changed-or-removed", "work of an hour");
	remove_file("n2", "changed-or-removed");
	healed("n2");
	everywhere_equal();
	if (!exists("n1", "changed-or-removed") && kept_anywhere() <= kept)
		fail_msg("the work of an hour is gone");
}

static void a_directory_is_removed_while_a_child_comes(void **state)
{
	make_directory("n1", "revived");
	save("n1", "revived/old", "old");
	in_sync();
	cut("n2");
	remove_tree("n1", "revived");
	save("n2", "revived/new", "new");
	healed("n2");
	everywhere_equal();
	has_text("n1", "revived/new", "new");
}

static void a_file_here_a_directory_there(void **state)
{
	cut("n2");
	save("n1", "clash", "a file");
	make_directory("n2", "clash");
	save("n2", "clash/inside", "in a directory");
	healed("n2");
	everywhere_equal();
}

static void a_directory_is_renamed_while_a_file_in_it_changes(void **state)
{
	make_directory("n1", "before");
	save("n1", "before/file", "old");
	in_sync();
	cut("n2");
	move("n1", "before", "after");
	save("n2", "before/file", "new");
	healed("n2");
	everywhere_equal();
}

/* What a replicator knew of renames does not end with it. */
static void a_directory_was_renamed_before_a_restart(void **state)
{
	_cleanup_free_ char *said = NULL;
	shell("n1", "mkdir -p restarted/before && echo old > restarted/before/file");
	in_sync();
	killed("n2", LAB_REPLICATOR);
	move("n1", "restarted/before", "restarted/after");
	for (int i = 0; i < 2; i++) { /* past a checkpoint or two */
		save("n1", "restarted/mark", i ? "2" : "1");
		if (stat_wait("n1", "--node n3", &said) != 0)
			fail_msg("%s", said);
		free(said);
		said = NULL;
	}
	killed("n1", LAB_REPLICATOR);
	killed("n3", LAB_REPLICATOR);
	save("n2", "restarted/before/new", "made where it was");
	save("n2", "restarted/before/file", "changed where it was");
	started("n1", LAB_REPLICATOR);
	started("n3", LAB_REPLICATOR);
	started("n2", LAB_REPLICATOR);
	everywhere_equal();
	has_text("n1", "restarted/after/new", "made where it was");
	has_text("n2", "restarted/after/file", "changed where it was");
	absent("n3", "restarted/before");
}

static void both_move_a_directory(void **state)
{
	shell("n1", "mkdir -p moves/a moves/b && echo a > moves/a/file && echo b > moves/b/file");
	in_sync();
	cut("n2");
	move("n1", "moves/a", "moves/b/a"); /* together a cycle */
	move("n2", "moves/b", "moves/a/b");
	healed("n2");
	everywhere_equal();
}

static void both_hammer_the_same_files(void **state)
{
	make_directory("n1", "hammered");
	in_sync();
	struct load *first = load_begin("n1", "hammered", 3, LOAD_REWRITE), *second = load_begin("n2", "hammered", 3, LOAD_RENAME);
	for (int i = 0; i < 20; i++) {
		char text[32];
		snprintf(text, sizeof text, "while they do %d", i);
		save("n3", "hammer-mark", text);
		gets_text("n1", "hammer-mark", text);
	}
	assert_true(load_end(first) > 0);
	assert_true(load_end(second) > 0);
	everywhere_equal();
}

static int64_t comparisons(void)
{
	int64_t count = 0;
	for (unsigned i = 0; i < lab_node_count(lab); i++)
		count += counter(lab_node_name(lab, i), "verify_count");
	return count;
}

static bool all_have_compared(void *arg, char *seen)
{
	int64_t now = comparisons();
	snprintf(seen, 512, "%lld comparisons", (long long)now);
	return now >= *(int64_t *)arg;
}

/* Nobody else can have removed what was never saved, although they know later changes of its author. */
static void a_comparison_leaves_alone_what_is_being_written(void **state)
{
	struct cdm_error err = CDM_ERROR_INIT;
	unsigned nodes = lab_node_count(lab);
	int fds[8];
	save("n1", "meeting", "both know this");
	for (unsigned i = 0; i < nodes; i++) {
		const char *node = lab_node_name(lab, i);
		_cleanup_free_ char *path = lab_path(lab, node, node);
		fds[i] = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
		assert_true(fds[i] >= 0 && write(fds[i], "first ", 6) == 6);
		save(node, "beside", node);
		in_sync();
	}
	int64_t compared = comparisons() + nodes - 1; /* each with its parent */
	cut("n2");
	save("n1", "meeting", "earlier, by n1");
	save("n2", "meeting", "later, by n2");
	healed("n2");
	if (lab_wait_for(all_have_compared, &compared, STORY_MS, "comparisons of all", &err) < 0)
		fail_msg("%s", err.text);
	in_sync();
	for (unsigned i = 0; i < nodes; i++) {
		const char *node = lab_node_name(lab, i);
		assert_true(exists(node, node));
		assert_int_equal(write(fds[i], "second", 6), 6);
		assert_int_equal(close(fds[i]), 0);
		gets_text(lab_node_name(lab, (i + 1) % nodes), node, "first second");
	}
	everywhere_equal();
}

static void nothing_is_set_aside(void)
{
	for (unsigned i = 0; i < lab_node_count(lab); i++)
		assert_int_equal(counter(lab_node_name(lab, i), "quarantined"), 0);
}

#define MEETINGS 1500

static void *makes_children(void *arg)
{
	_cleanup_free_ char *child = lab_path(lab, "n2", "meet/child");
	for (int i = 0; i < MEETINGS; i++) {
		mkdir(child, 0755);
		rmdir(child);
	}
	return NULL;
}

/* A child comes at the very moment at which its directory goes: it is made again, nothing is set aside. */
static void a_directory_comes_and_goes_while_children_come(void **state)
{
	pthread_t thread;
	_cleanup_free_ char *dir = lab_path(lab, "n1", "meet");
	assert_int_equal(pthread_create(&thread, NULL, makes_children, NULL), 0);
	for (int i = 0; i < MEETINGS; i++) {
		mkdir(dir, 0755);
		rmdir(dir);
	}
	pthread_join(thread, NULL);
	everywhere_equal();
	nothing_is_set_aside();
	shell("n1", "rm -rf meet");
}

/* Both make a directory of one name, n1 removes its own. (What n3 does meanwhile keeps the removals from being left out with what they remove.) */
static void removed_is_another_directory(void **state)
{
	administrator("route", "set", LAB_SET, "n2", "--parent", "n1", NULL);
	administrator("route", "set", LAB_SET, "n3", "--parent", "n1", NULL);
	in_sync();
	cut("n2");
	save("n3", "third", "of n3");
	gets_text("n1", "third", "of n3");
	make_directory("n2", "earlier");
	shell("n1", "mkdir earlier later && rmdir earlier later");
	make_directory("n2", "later");
	healed("n2");
	everywhere_equal();
	assert_true(exists("n1", "later"));
	administrator("route", "set", LAB_SET, "n2", "--auto", NULL);
	administrator("route", "set", LAB_SET, "n3", "--auto", NULL);
}

/* n1 renames to a name that n2 gave to something else meanwhile, or to an empty directory that n2 put something into. */
static void renamed_to_what_is_something_else_by_now(void **state)
{
	shell("n1", "mkdir rename && cd rename && mkdir -p tree/sub site empty folder && echo 1 > tree/sub/one && echo 2 > site/two && echo 3 > three && echo 4 > folder/four");
	everywhere_equal();
	cut("n2");
	shell("n2", "cd rename && mkdir -p to/sub && echo 5 > to/sub/five && echo 6 > empty/six && mkdir named && echo 7 > named/seven && echo 8 > taken");
	shell("n1", "cd rename && mv tree to && mv -T site empty && mv three named && mv folder taken");
	healed("n2");
	everywhere_equal();
	nothing_is_set_aside();
	has_text("n1", "rename/to/sub/five", "5\n");
	has_text("n2", "rename/to/sub/one", "1\n");
	has_text("n1", "rename/empty/six", "6\n");
	has_text("n2", "rename/empty/two", "2\n");
	has_text("n1", "rename/named/seven", "7\n");
	has_text("n2", "rename/taken/four", "4\n");
}

static void an_attribute_comes_for_what_is_something_else_by_now(void **state)
{
	save("n1", "subject", "a file");
	everywhere_equal();
	cut("n2");
	shell("n2", "setfattr -n user.of -v file subject");
	shell("n1", "ln -s nowhere link && mv link subject");
	healed("n2");
	everywhere_equal();
	nothing_is_set_aside();
}

/* The comparison after that cannot mend it, for what is there is not saved yet; the save shows it once more. */
static void attributes_were_set_under_a_name_that_is_gone(void **state)
{
	struct cdm_error err = CDM_ERROR_INIT;
	save("n1", "page", "text that both know");
	make_directory("n1", "away");
	everywhere_equal();
	int64_t compared = comparisons() + 1;
	cut("n2");
	shell("n1", "chmod 640 page");
	move("n2", "page", "away/page");
	_cleanup_free_ char *path = lab_path(lab, "n2", "away/page");
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_true(fd >= 0 && pwrite(fd, "Text", 4, 0) == 4);
	healed("n2");
	if (lab_wait_for(all_have_compared, &compared, STORY_MS, "a comparison", &err) < 0)
		fail_msg("%s", err.text);
	in_sync();
	assert_int_equal(close(fd), 0);
	gets_text("n1", "away/page", "Text that both know");
	everywhere_equal();
}

static bool is_gone_at_its_maker(void *arg, char *seen)
{
	bool here[] = {exists("n1", "forgotten"), exists("n2", "forgotten"), exists("n3", "forgotten")};
	snprintf(seen, 512, "n1 %d, n2 %d, n3 %d", here[0], here[1], here[2]);
	return here[0] && !here[1] && here[2];
}

/* As in removed_is_another_directory; only n2 met something that its author had not seen, and has nobody to compare with before it is killed. */
static void a_conflict_is_remembered_by_who_is_killed(void **state)
{
	static const char *const order[] = {"n1", "n3", "n2"};
	struct cdm_error err = CDM_ERROR_INIT;
	administrator("route", "set", LAB_SET, "n2", "--parent", "n1", NULL);
	administrator("route", "set", LAB_SET, "n3", "--parent", "n1", NULL);
	started_to_be_held("n2");
	save("n3", "third", "before");
	in_sync();
	cut("n2");
	save("n3", "third", "of n3 again");
	gets_text("n1", "third", "of n3 again");
	make_directory("n2", "forgotten");
	shell("n1", "mkdir forgotten && rmdir forgotten");
	hold(COMPARING);
	healed("n2");
	_cleanup_close_ int held = arrived(COMPARING);
	if (lab_wait_for(is_gone_at_its_maker, NULL, STORY_MS, "the directory everywhere but at n2", &err) < 0)
		fail_msg("%s", err.text);
	for (int i = 0; i < 3; i++)
		killed(order[i], LAB_REPLICATOR);
	for (int i = 0; i < 3; i++)
		started(order[i], LAB_REPLICATOR);
	everywhere_equal();
	administrator("route", "set", LAB_SET, "n2", "--auto", NULL);
	administrator("route", "set", LAB_SET, "n3", "--auto", NULL);
}

static void nothing_echoes(void **state)
{
	in_sync();
	int64_t before[8];
	for (unsigned i = 0; i < lab_node_count(lab); i++)
		before[i] = counter(lab_node_name(lab, i), "changes_sent");
	save("n3", "one-change", "x");
	in_sync();
	int64_t sent = 0;
	for (unsigned i = 0; i < lab_node_count(lab); i++)
		sent += counter(lab_node_name(lab, i), "changes_sent") - before[i];
	if (sent > (int64_t)lab_node_count(lab) - 1)
		fail_msg("one saved file was sent %lld times to %u other nodes", (long long)sent, lab_node_count(lab) - 1);
}

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(the_island_saves_last),
		cmocka_unit_test(the_island_saves_first),
		cmocka_unit_test(both_create_the_same_name),
		cmocka_unit_test(equal_content_is_no_conflict),
		cmocka_unit_test(removed_here_changed_there),
		cmocka_unit_test(changed_here_removed_there),
		cmocka_unit_test(a_directory_is_removed_while_a_child_comes),
		cmocka_unit_test(a_file_here_a_directory_there),
		cmocka_unit_test(a_directory_is_renamed_while_a_file_in_it_changes),
		cmocka_unit_test(a_directory_was_renamed_before_a_restart),
		cmocka_unit_test(both_move_a_directory),
		cmocka_unit_test(both_hammer_the_same_files),
		cmocka_unit_test(a_comparison_leaves_alone_what_is_being_written),
		cmocka_unit_test(a_directory_comes_and_goes_while_children_come),
		cmocka_unit_test(removed_is_another_directory),
		cmocka_unit_test(renamed_to_what_is_something_else_by_now),
		cmocka_unit_test(an_attribute_comes_for_what_is_something_else_by_now),
		cmocka_unit_test(attributes_were_set_under_a_name_that_is_gone),
		cmocka_unit_test(a_conflict_is_remembered_by_who_is_killed),
		cmocka_unit_test(nothing_echoes),
	};
	return STORIES("two_sources", ((struct lab_options){.nodes = 3, .netns = true}), stories);
}
