/* SPDX-License-Identifier: Apache-2.0 */
/* A file saved in one mount appears in every other mount, with everything that belongs to it. */
#include "tests/cluster/story.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void a_saved_file_is_everywhere(void **state)
{
	save("n1", "hello.txt", "hello\n");
	gets_text("n2", "hello.txt", "hello\n");
	gets_text("n3", "hello.txt", "hello\n");
	everywhere_equal();
}

static void every_node_may_save(void **state)
{
	save("n2", "from-n2.txt", "two\n");
	save("n3", "from-n3.txt", "three\n");
	everywhere_equal();
	has_text("n1", "from-n2.txt", "two\n");
	has_text("n2", "from-n3.txt", "three\n");
}

static void all_attributes_arrive(void **state)
{
	shell("n1", "mkdir attr && cd attr && echo content > file && chown 1234:4321 file && chmod 4751 file && "
		    "setfattr -n user.note -v 'a note' file && setfacl -m u:77:rw file && touch -d '2001-02-03 04:05:06.789012345' file && "
		    "mkdir dir && chmod 2770 dir && setfacl -d -m g:88:rx dir && ln -s no/such/place link && chown -h 5:6 link && mkfifo fifo && "
		    ": > empty && mknod null c 1 3");
	everywhere_equal();
}

static void hard_links_stay_one_file(void **state)
{
	shell("n1", "mkdir links && cd links && echo one > a && ln a b && ln b c");
	everywhere_equal();
	append("n1", "links/b", "two\n");
	everywhere_equal();
	has_text("n3", "links/c", "one\ntwo\n");
	remove_file("n1", "links/a");
	everywhere_equal();
}

static void changes_of_a_file_arrive(void **state)
{
	save("n1", "changing", "first version");
	everywhere_equal();
	save("n1", "changing", "second");
	everywhere_equal();
	append("n1", "changing", " and more");
	everywhere_equal();
	save_at("n1", "changing", 0, "SEC");
	everywhere_equal();
	has_text("n2", "changing", "SECond and more");
	shell("n1", "truncate -s 3 changing && chmod 600 changing");
	everywhere_equal();
	has_text("n3", "changing", "SEC");
}

static void a_small_change_of_a_large_file_arrives(void **state)
{
	shell("n1", "head -c 64M /dev/urandom > large");
	everywhere_equal();
	save_at("n1", "large", 33 << 20, "in the middle");
	everywhere_equal();
}

static void names_come_move_and_go(void **state)
{
	make_directory("n2", "names");
	make_directory("n2", "names/deep");
	save("n2", "names/deep/file", "x");
	everywhere_equal();
	move("n1", "names/deep/file", "names/moved");
	move("n1", "names/deep", "names/deeper");
	everywhere_equal();
	has_text("n3", "names/moved", "x");
	remove_tree("n3", "names");
	everywhere_equal();
	absent("n1", "names");
}

static void two_names_are_exchanged(void **state)
{
	make_directory("n1", "exchange");
	save("n1", "exchange/a", "was a");
	save("n1", "exchange/b", "was b");
	everywhere_equal();
	_cleanup_free_ char *a = lab_path(lab, "n1", "exchange/a"), *b = lab_path(lab, "n1", "exchange/b");
	assert_int_equal(renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE), 0);
	everywhere_equal();
	has_text("n2", "exchange/a", "was b");
}

static void a_sparse_file_stays_sparse_and_equal(void **state)
{
	shell("n1", "truncate -s 5G sparse && printf end | dd of=sparse bs=1 seek=5000000000 conv=notrunc status=none");
	in_sync();
	_cleanup_free_ char *mount = lab_path(lab, "n2", "sparse"), *there = lab_store_path(lab, "n2", "sparse");
	char end[4] = "";
	struct stat st;
	int fd = open(mount, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, end, 3, 5000000000), 3);
	close(fd);
	assert_string_equal(end, "end");
	assert_int_equal(stat(there, &st), 0);
	assert_int_equal(st.st_size, 5ll << 30);
	assert_true(st.st_blocks < 2048 * 64);
	remove_file("n1", "sparse");
}

static void an_open_file_is_not_shipped_before_it_rests(void **state)
{
	_cleanup_free_ char *path = lab_path(lab, "n1", "growing");
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, "half ", 5), 5);
	in_sync();
	absent("n2", "growing");
	assert_int_equal(write(fd, "whole", 5), 5);
	close(fd);
	gets_text("n2", "growing", "half whole");
	everywhere_equal();
}

static void stat_says_how_it_is(void **state)
{
	_cleanup_free_ char *table = NULL, *json = NULL;
	in_sync();
	if (shell_status("n2", &table, "cdmfs-stat " LAB_SET) != 0)
		fail_msg("cdmfs-stat in an installation in sync: %s", table);
	assert_non_null(strstr(table, "n1"));
	assert_non_null(strstr(table, "in sync"));
	assert_int_equal(shell_status("n2", &json, "cdmfs-stat " LAB_SET " --json"), 0);
	json_t *j = json_loads(json, 0, NULL);
	assert_int_equal(json_integer_value(json_object_get(j, "apiVersion")), 1);
	assert_true(json_is_true(json_object_get(j, "in_sync")));
	assert_int_equal(json_array_size(json_object_get(j, "nodes")), lab_node_count(lab));
	json_decref(j);
}

static void a_file_answers_for_itself(void **state)
{
	_cleanup_free_ char *status = NULL, *why = NULL;
	save("n1", "asked", "x");
	in_sync();
	assert_int_equal(shell_status("n3", &status, "getfattr --only-values -n user.cdmfs.status asked"), 0);
	assert_true(strlen(status) > 0);
	if (shell_status("n3", &why, "cdmfs-stat asked") != 0 || !strstr(why, "version n1:"))
		fail_msg("cdmfs-stat asked: %s", why);
}

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(a_saved_file_is_everywhere),
		cmocka_unit_test(every_node_may_save),
		cmocka_unit_test(all_attributes_arrive),
		cmocka_unit_test(hard_links_stay_one_file),
		cmocka_unit_test(changes_of_a_file_arrive),
		cmocka_unit_test(a_small_change_of_a_large_file_arrives),
		cmocka_unit_test(names_come_move_and_go),
		cmocka_unit_test(two_names_are_exchanged),
		cmocka_unit_test(a_sparse_file_stays_sparse_and_equal),
		cmocka_unit_test(an_open_file_is_not_shipped_before_it_rests),
		cmocka_unit_test(stat_says_how_it_is),
		cmocka_unit_test(a_file_answers_for_itself),
	};
	return STORIES("first_file", ((struct lab_options){.nodes = 3}), stories);
}
