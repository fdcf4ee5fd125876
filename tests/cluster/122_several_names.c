/* SPDX-License-Identifier: Apache-2.0 */
/* 122_several_names — update = strict, and files with several names: a change is seen whole or not at all under each of them, all of them stay names of
 * one file, wherever they are and whoever dies amid it, and who has the old content open keeps it. n1 is the author, n2 is looked at. */
#include "tests/cluster/nth.h"
#include "tests/cluster/held.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LARGE (1u << 20)
#define AT_ONE "publish.put_at_one_name_not_all"
#define AT_OTHERS "publish.put_at_others_not_own"
#define AT_A_CALL "publish.called_not_counted"

static void must(bool good, const char *what)
{
	if (!good)
		fail_msg("%s: %s", what, strerror(errno));
}

static ino_t inode_at(const char *node, const char *path)
{
	struct stat st;
	_cleanup_free_ char *full = lab_store_path(lab, node, path);
	must(stat(full, &st) == 0, full);
	return st.st_ino;
}

/* What names a, b and c of a directory are at a node. */
static const char *const abc[] = {"a", "b", "c"};
#define ABC 3

static char *path_in(const char *dir, const char *name)
{
	char *path = NULL;
	assert_true(asprintf(&path, "%s/%s", dir, name) > 0);
	return path;
}

static void are_one_file(const char *node, const char *dir)
{
	_cleanup_free_ char *first = path_in(dir, abc[0]);
	for (size_t i = 1; i < ABC; i++) {
		_cleanup_free_ char *path = path_in(dir, abc[i]);
		if (inode_at(node, path) != inode_at(node, first))
			fail_msg("at %s %s is another file than %s", node, path, first);
	}
}

static bool is_new_file(void *arg, char *seen)
{
	static unsigned count;
	char text[9];
	ino_t before = inode_at("n2", "force");
	snprintf(text, sizeof text, "%08u", count++);
	save_at("n1", "force", LARGE / 2, text);
	in_sync();
	snprintf(seen, 512, "a small change is written in place");
	return inode_at("n2", "force") != before;
}

/* Once; each story may be the first one. */
static void strict_is_in_force(void)
{
	static bool done;
	struct cdm_error err = CDM_ERROR_INIT;
	if (done)
		return;
	done = true;
	uint8_t *bytes = calloc(1, LARGE);
	must(bytes, "calloc");
	save_bytes("n1", "force", bytes, LARGE);
	free(bytes);
	in_sync();
	administrator("set", "change", LAB_SET, "--update", "strict", NULL);
	if (lab_wait_for(is_new_file, NULL, STORY_MS, "strict", &err) < 0)
		fail_msg("%s", err.text);
}

/* A large file with three names, the same everywhere. */
static void make_three(const char *dir)
{
	uint8_t *bytes = calloc(1, LARGE);
	must(bytes, "calloc");
	strict_is_in_force();
	make_directory("n1", dir);
	_cleanup_free_ char *first = path_in(dir, abc[0]);
	save_bytes("n1", first, bytes, LARGE);
	shell("n1", "ln %s %s/b && ln %s %s/c", first, dir, first, dir);
	free(bytes);
	in_sync();
	are_one_file("n2", dir);
}

/* Eight bytes in the middle, in place; they say which change it was. */
static void change(const char *node, const char *dir, const char *name, const char *text)
{
	_cleanup_free_ char *path = path_in(dir, name);
	save_at(node, path, LARGE / 2, text);
}

static bool has(const char *node, const char *dir, const char *name, const char *text)
{
	char got[9] = "";
	_cleanup_free_ char *path = path_in(dir, name), *full = lab_path(lab, node, path);
	_cleanup_close_ int fd = open(full, O_RDONLY | O_CLOEXEC);
	must(fd >= 0 && pread(fd, got, 8, LARGE / 2) == 8, full);
	return strcmp(got, text) == 0;
}

static void all_have(const char *node, const char *dir, const char *text)
{
	for (size_t i = 0; i < ABC; i++)
		if (!has(node, dir, abc[i], text))
			fail_msg("at %s %s/%s has not %s", node, dir, abc[i], text);
}

/* What is done goes from there at the end of its batch, after it is counted. */
static void nothing_is_staged(const char *node)
{
	comes_about("! ls %s/.cdmfs/staging | grep -E '^(several|name|back)'", lab_store(lab, node));
}

static int64_t comparisons(void)
{
	int64_t count = 0;
	for (unsigned i = 0; i < lab_node_count(lab); i++)
		count += counter(lab_node_name(lab, i), "verify_count");
	return count;
}

static void who_looks_finds_it_whole_under_every_name(void **state)
{
	strict_is_in_force();
	make_directory("n1", "whole");
	save("n1", "whole/load-0", "xxxxxxxxxxxxxxxx");
	shell("n1", "ln whole/load-0 whole/b && ln whole/load-0 whole/c");
	in_sync();
	struct reader *readers[] = {reader_begin("n2", "whole/load-0", false), reader_begin("n2", "whole/b", false), reader_begin("n2", "whole/c", false)};
	int64_t before = comparisons();
	struct load *load = load_begin("n1", "whole", 1, LOAD_REWRITE);
	for (int i = 0; i < 40; i++) {
		char text[16];
		snprintf(text, sizeof text, "mark %d", i);
		save("n1", "whole-mark", text);
		gets_text("n2", "whole-mark", text);
	}
	assert_true(load_end(load) > 0);
	everywhere_equal();
	assert_int_equal(comparisons(), before);
	for (int i = 0; i < 3; i++)
		assert_true(reader_end(readers[i]) > 0);
	assert_true(inode_at("n2", "whole/load-0") == inode_at("n2", "whole/b") && inode_at("n2", "whole/b") == inode_at("n2", "whole/c"));
}

static void who_has_it_open_keeps_it(void **state)
{
	make_three("open");
	ino_t before = inode_at("n2", "open/b");
	_cleanup_free_ char *full = lab_path(lab, "n2", "open/b");
	_cleanup_close_ int fd = open(full, O_RDONLY | O_CLOEXEC);
	char got[8], none[8] = "";
	must(fd >= 0, full);
	change("n1", "open", "c", "another1");
	in_sync();
	all_have("n2", "open", "another1");
	are_one_file("n2", "open");
	assert_true(inode_at("n2", "open/b") != before);
	must(pread(fd, got, 8, LARGE / 2) == 8, "read");
	assert_memory_equal(got, none, 8);
	everywhere_equal();
	nothing_is_staged("n2");
}

/* Its replicator has just begun, and knows none of them. */
static void a_thousand_names_are_found_wherever_they_are(void **state)
{
	make_three("many");
	shell("n1", "cd many && mkdir -p 1/deep/er && for i in $(seq 100); do ln a 1/deep/er/$i; done && for d in 2 3 4 5 6 7 8 9 10; do cp -al 1 $d; done");
	in_sync();
	killed("n2", LAB_REPLICATOR);
	started("n2", LAB_REPLICATOR);
	int64_t before = comparisons();
	change("n1", "many", "b", "thousand");
	in_sync();
	all_have("n2", "many", "thousand");
	are_one_file("n2", "many");
	shell("n2", "test $(stat -c %%h %s/many/a) = 1003", lab_store(lab, "n2"));
	change("n1", "many", "b", "and more");
	everywhere_equal();
	assert_int_equal(comparisons(), before);
	shell("n2", "test $(stat -c %%h %s/many/a) = 1003", lab_store(lab, "n2"));
	shell("n1", "rm -r many"); /* later stories look at all that is there */
}

/* As it does where it is changed, and where changes are written in place. */
static void a_name_of_the_nodes_own_goes_with_it(void **state)
{
	make_three("own");
	shell("n2", "mkdir -p mine && ln own/b mine/too");
	change("n1", "own", "a", "for mine");
	in_sync();
	all_have("n2", "own", "for mine");
	are_one_file("n2", "own");
	assert_true(inode_at("n2", "own/a") == inode_at("n2", "mine/too"));
	shell("n2", "rm -r mine");
	shell("n1", "touch ."); /* mine was made there */
	everywhere_equal();
}

/* What an author does to a file ships, whichever name he takes, and whichever was made last. */
static void an_authors_own_names_hide_nothing(void **state)
{
	make_three("shown");
	shell("n1", "mkdir -p mine && ln shown/b mine/link");
	change("n1", "shown", "a", "by name1");
	in_sync();
	all_have("n2", "shown", "by name1");
	change("n1", "mine", "link", "by name2");
	in_sync();
	all_have("n2", "shown", "by name2");
	shell("n1", "chmod 604 mine/link");
	in_sync();
	shell("n2", "test $(stat -c %%a shown/c) = 604");
	are_one_file("n2", "shown");
	shell("n1", "rm -r mine");
	shell("n1", "touch .");
	everywhere_equal();
}

static void dies_at(const char *point, const char *dir)
{
	make_three(dir);
	started_to_be_held("n2");
	hold(point);
	change("n1", dir, "b", "in parts");
	_cleanup_close_ int held = arrived(point);
	killed("n2", LAB_REPLICATOR);
	assert_in_range(has("n2", dir, "a", "in parts") + has("n2", dir, "b", "in parts") + has("n2", dir, "c", "in parts"), 1, ABC - 1);
}

static void comes_back_and_ends_it(const char *dir, const char *text)
{
	started("n2", LAB_REPLICATOR);
	everywhere_equal();
	all_have("n2", dir, text);
	are_one_file("n2", dir);
	nothing_is_staged("n2");
}

static void death_after_one_name(void **state)
{
	dies_at(AT_ONE, "one");
	comes_back_and_ends_it("one", "in parts");
}

static void death_before_the_last_name(void **state)
{
	dies_at(AT_OTHERS, "last");
	comes_back_and_ends_it("last", "in parts");
}

static void death_of_all_programs(void **state)
{
	dies_at(AT_ONE, "all");
	node_killed("n2");
	node_started("n2");
	comes_back_and_ends_it("all", "in parts");
}

/* What the first attempt brought is old when the second one is made; that dies, too. Whether the first change comes once more, or only says that
 * another one has replaced it, is a race. */
static void death_and_another_change(void **state)
{
	dies_at(AT_ONE, "again");
	change("n1", "again", "c", "changed2");
	hold(AT_A_CALL);
	started_to_be_held("n2");
	_cleanup_close_ int held = arrived(AT_A_CALL);
	killed("n2", LAB_REPLICATOR);
	change("n1", "again", "a", "changed3");
	comes_back_and_ends_it("again", "changed3");
}

/* Under a name that has got the first one's content. */
static void death_and_changes_by_both(void **state)
{
	int64_t before = counter("n2", "quarantined");
	dies_at(AT_ONE, "apart");
	change("n2", "apart", has("n2", "apart", "a", "in parts") ? "a" : has("n2", "apart", "b", "in parts") ? "b" : "c", "by n2 n2");
	change("n1", "apart", "c", "changed2");
	started("n2", LAB_REPLICATOR);
	everywhere_equal();
	assert_true(counter("n2", "quarantined") <= before);
	all_have("n2", "apart", has("n1", "apart", "a", "changed2") ? "changed2" : "by n2 n2");
	are_one_file("n2", "apart");
	nothing_is_staged("n2");
}

static void the_mount_dies_amid_it(void **state)
{
	make_three("mount");
	started_to_be_held("n2");
	hold(AT_ONE);
	change("n1", "mount", "b", "mounted1");
	int held = arrived(AT_ONE);
	killed("n2", LAB_SERVER);
	close(held);
	started("n2", LAB_SERVER);
	everywhere_equal();
	all_have("n2", "mount", "mounted1");
	are_one_file("n2", "mount");
	nothing_is_staged("n2");
}

/* Those of the node's own, for the others' would be changes that conflict with this one: some are moved, others are made of what is old and of what is new. */
static void names_that_move_amid_it(void **state)
{
	make_three("moves");
	shell("n2", "mkdir -p mine && cd mine && for i in 1 2 3 4; do ln ../moves/a $i; done");
	started_to_be_held("n2");
	hold(AT_ONE);
	change("n1", "moves", "b", "moving 1");
	int held = arrived(AT_ONE);
	shell("n2", "cd mine && mkdir to && mv 1 2 3 4 to && for i in a b c; do ln ../moves/$i new-$i; done");
	close(held);
	in_sync();
	all_have("n2", "moves", "moving 1");
	are_one_file("n2", "moves");
	nothing_is_staged("n2");
	shell("n2", "cd mine && find . -type f | while read i; do test $i -ef ../moves/a || exit 1; done; test $(find . -type f | wc -l) = 7");
	shell("n2", "rm -r mine");
	shell("n1", "touch .");
	everywhere_equal();
}

/* Somebody writes at n2 what is not replaced yet: one of the two wins, everywhere and under all names. */
static void a_change_of_the_nodes_own_amid_it(void **state)
{
	make_three("both");
	started_to_be_held("n2");
	hold(AT_OTHERS);
	change("n1", "both", "b", "by n1 n1");
	int held = arrived(AT_OTHERS);
	change("n2", "both", "b", "by n2 n2");
	close(held);
	everywhere_equal();
	const char *won = has("n1", "both", "a", "by n1 n1") ? "by n1 n1" : "by n2 n2";
	for (unsigned i = 0; i < lab_node_count(lab); i++)
		all_have(lab_node_name(lab, i), "both", won);
	are_one_file("n2", "both");
}

static bool has_set_aside(void *arg, char *seen)
{
	bool aside = counter("n2", "quarantined") > *(const int64_t *)arg;
	snprintf(seen, 512, "n2 has set %s aside", aside ? "something" : "nothing");
	return aside;
}

/* A directory that cannot be read may hold one of them: all names keep the old content, and n2 says so. */
static void a_name_that_cannot_be_looked_for(void **state)
{
	struct cdm_error err = CDM_ERROR_INIT;
	make_three("closed");
	shell("n1", "mkdir closed/sealed && ln closed/a closed/sealed/d");
	in_sync();
	killed("n2", LAB_REPLICATOR);
	started("n2", LAB_REPLICATOR);
	gets_text("n2", "whole-mark", "mark 39");
	int64_t before = counter("n2", "quarantined");
	nth_armed_on("n2", LAB_REPLICATOR, NTH_READ, EIO, "sealed");
	change("n1", "closed", "b", "unlooked");
	if (lab_wait_for(has_set_aside, &before, STORY_MS, "what n2 sets aside", &err) < 0)
		fail_msg("%s", err.text);
	nth_disarmed();
	for (size_t i = 0; i < ABC; i++)
		assert_false(has("n2", "closed", abc[i], "unlooked"));
	are_one_file("n2", "closed");
	nothing_is_staged("n2");
	shell("n1", "cd closed && cat a > whole && cat whole > a && rm whole");
	everywhere_equal();
	all_have("n2", "closed", "unlooked");
}

/* -- trees are compared ------------------------------------------------------------------------------------------ */

/* The first thing its replicator does: as if the last one had been killed amid such a comparison (unsure.h). */
static void comes_back_and_compares(const char *node)
{
	shell(node, "touch %s/.cdmfs/unsure", lab_store(lab, node));
	started_to_be_held(node);
	counts(node, "full_resync_count", 1);
}

struct awaited {
	const char *dir, *name, *text;
};

static bool n3_has(void *arg, char *seen)
{
	const struct awaited *a = arg;
	bool good = has("n3", a->dir, a->name, a->text);
	snprintf(seen, 512, "n3 has %s%s", good ? "" : "not yet ", a->text);
	return good;
}

/* Its neighbours have it when it comes back. */
static void n2_misses(const char *dir, const char *name, const char *text)
{
	struct cdm_error err = CDM_ERROR_INIT;
	struct awaited a = {dir, name, text};
	killed("n2", LAB_REPLICATOR);
	change("n1", dir, name, text);
	if (lab_wait_for(n3_has, &a, STORY_MS, "a change at n3", &err) < 0)
		fail_msg("%s", err.text);
}

/* A file with three names that travel, and two that are n2's own. */
static void make_three_and_local_ones(const char *dir)
{
	make_three(dir);
	shell("n2", "mkdir -p mine/deep && ln %s/b mine/too && ln %s/b mine/deep/er", dir, dir);
	save("n2", "local-mark", dir); /* who has this knows of all that n2 did, local or not: then his tree counts */
	in_sync();
}

/* As many as n2 has are not what makes the difference. */
static void n1_gets_one_of_its_own(const char *dir)
{
	shell("n1", "mkdir mine && ln %s/c mine/here", dir);
}

static void local_ones_are_names_of(const char *dir)
{
	_cleanup_free_ char *a = path_in(dir, "a");
	are_one_file("n2", dir);
	assert_true(inode_at("n2", "mine/too") == inode_at("n2", a));
	assert_true(inode_at("n2", "mine/deep/er") == inode_at("n2", a));
	assert_true(inode_at("n1", "mine/here") == inode_at("n1", a));
	nothing_is_staged("n2");
}

static void local_ones_go(void)
{
	shell("n2", "rm -r mine");
	shell("n1", "rm -r mine && touch .");
	everywhere_equal();
}

static void local_names_are_none_that_a_comparison_counts(void **state)
{
	make_three_and_local_ones("counted");
	ino_t before = inode_at("n2", "counted/a");
	killed("n2", LAB_REPLICATOR);
	n1_gets_one_of_its_own("counted");
	comes_back_and_compares("n2");
	in_sync();
	assert_true(inode_at("n2", "counted/a") == before);
	local_ones_are_names_of("counted");
	local_ones_go();
}

/* Each name is told of as one that is new. */
static void a_tree_comes_out_of_local_names_with_all_of_its_own(void **state)
{
	shell("n1", "mkdir -p mine/out/deep && echo one > mine/out/a && for f in b deep/c a.local b.local deep/c.local; do ln mine/out/a mine/out/$f; done");
	node_killed("n1"); /* the next mount has not seen these names */
	node_started("n1");
	shell("n1", "mv mine/out . && rmdir mine && touch .");
	gets_text("n3", "out/a", "one\n");
	gets_text("n2", "out/b", "one\n");
	gets_text("n2", "out/deep/c", "one\n");
	shell("n2", "echo two > out/b");
	gets_text("n3", "out/deep/c", "two\n");
	gets_text("n1", "out/a.local", "two\n");
	shell("n1", "rm out/*.local out/*/*.local && touch out out/deep");
	everywhere_equal();
	remove_tree("n1", "out");
	everywhere_equal();
}

static void local_names_go_along_with_what_a_comparison_brings(void **state)
{
	make_three_and_local_ones("along");
	ino_t before = inode_at("n2", "along/a");
	n2_misses("along", "c", "compared");
	n1_gets_one_of_its_own("along");
	comes_back_and_compares("n2");
	in_sync();
	all_have("n2", "along", "compared");
	assert_true(inode_at("n2", "along/a") != before);
	local_ones_are_names_of("along");
	local_ones_go();
}

/* It has put the new content under names of its own when it dies; the next comparison goes on with that. */
static void death_amid_a_comparison(void **state)
{
	make_three_and_local_ones("dies");
	n2_misses("dies", "a", "compared");
	hold(AT_OTHERS);
	comes_back_and_compares("n2");
	_cleanup_close_ int held = arrived(AT_OTHERS);
	killed("n2", LAB_REPLICATOR);
	assert_true(has("n2", "mine", "too", "compared") && !has("n2", "dies", "b", "compared"));
	n1_gets_one_of_its_own("dies");
	comes_back_and_compares("n2");
	in_sync();
	all_have("n2", "dies", "compared");
	local_ones_are_names_of("dies");
	local_ones_go();
}

/* What is under some of the names already is joined with the rest, whichever these are. */
static void a_comparison_after_a_death(void **state)
{
	make_three_and_local_ones("rest");
	started_to_be_held("n2");
	hold(AT_ONE);
	change("n1", "rest", "c", "in parts");
	_cleanup_close_ int held = arrived(AT_ONE);
	killed("n2", LAB_REPLICATOR);
	n1_gets_one_of_its_own("rest");
	comes_back_and_compares("n2");
	in_sync();
	all_have("n2", "rest", "in parts");
	local_ones_are_names_of("rest");
	local_ones_go();
}

static void local_names_move_amid_a_comparison(void **state)
{
	make_three_and_local_ones("amid");
	n2_misses("amid", "b", "compared");
	n1_gets_one_of_its_own("amid");
	hold(AT_ONE);
	comes_back_and_compares("n2");
	int held = arrived(AT_ONE);
	shell("n2", "cd mine && mv too to && mv deep/er too && mv to deep/er && ln deep/er more && ln too yet");
	close(held);
	in_sync();
	all_have("n2", "amid", "compared");
	local_ones_are_names_of("amid");
	assert_true(inode_at("n2", "mine/more") == inode_at("n2", "amid/a") && inode_at("n2", "mine/yet") == inode_at("n2", "amid/a"));
	local_ones_go();
}

/* What is one file here is two there, of one version: the second one parts, and what is local stays with the first. */
static void names_of_two_files_part(void **state)
{
	make_three_and_local_ones("parts");
	ino_t before = inode_at("n2", "parts/a");
	killed("n2", LAB_REPLICATOR);
	for (unsigned i = 0; i < lab_node_count(lab); i += 2) { /* past their mounts */
		const char *node = lab_node_name(lab, i);
		node_killed(node);
		shell("n2", "cd %s/parts && cp --preserve=all b t && mv t b && ln -f b c && touch -d @1700000000 .", lab_store(lab, node));
		node_started(node);
	}
	comes_back_and_compares("n2");
	in_sync();
	assert_true(inode_at("n2", "parts/a") == before && inode_at("n2", "mine/too") == before);
	assert_true(inode_at("n2", "parts/b") != before && inode_at("n2", "parts/b") == inode_at("n2", "parts/c"));
	shell("n2", "rm -r mine");
	shell("n1", "touch .");
	everywhere_equal();
}

/* A file with one name there may be another one by now, and here somebody keeps the one before. */
static void a_local_name_of_what_was_replaced_stays(void **state)
{
	strict_is_in_force();
	save("n1", "once", "before");
	in_sync();
	shell("n2", "mkdir mine && ln once mine/once");
	in_sync();
	killed("n2", LAB_REPLICATOR);
	shell("n1", "echo after > once.new && mv once.new once");
	gets_text("n3", "once", "after\n");
	comes_back_and_compares("n2");
	gets_text("n2", "once", "after\n");
	has_text("n2", "mine/once", "before");
	shell("n2", "rm -r mine");
	shell("n1", "touch .");
	everywhere_equal();
}

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(who_looks_finds_it_whole_under_every_name),
		cmocka_unit_test(who_has_it_open_keeps_it),
		cmocka_unit_test(a_name_of_the_nodes_own_goes_with_it),
		cmocka_unit_test(an_authors_own_names_hide_nothing),
		cmocka_unit_test(death_after_one_name),
		cmocka_unit_test(death_before_the_last_name),
		cmocka_unit_test(death_of_all_programs),
		cmocka_unit_test(death_and_another_change),
		cmocka_unit_test(death_and_changes_by_both),
		cmocka_unit_test(the_mount_dies_amid_it),
		cmocka_unit_test(names_that_move_amid_it),
		cmocka_unit_test(a_change_of_the_nodes_own_amid_it),
		cmocka_unit_test(a_name_that_cannot_be_looked_for),
		cmocka_unit_test(local_names_are_none_that_a_comparison_counts),
		cmocka_unit_test(a_tree_comes_out_of_local_names_with_all_of_its_own),
		cmocka_unit_test(local_names_go_along_with_what_a_comparison_brings),
		cmocka_unit_test(death_amid_a_comparison),
		cmocka_unit_test(a_comparison_after_a_death),
		cmocka_unit_test(local_names_move_amid_a_comparison),
		cmocka_unit_test(a_local_name_of_what_was_replaced_stays),
		cmocka_unit_test(names_of_two_files_part),
		cmocka_unit_test(a_thousand_names_are_found_wherever_they_are), /* last: with its thousand names there all others take longer */
	};
	nth_prepare();
	int status = STORIES("names", ((struct lab_options){.nodes = 3, .local = "mine,mine/**,*.local,**/*.local"}), stories);
	nth_forget();
	return status;
}
