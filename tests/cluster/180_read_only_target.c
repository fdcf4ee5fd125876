/* SPDX-License-Identifier: Apache-2.0 */
/* A pure target's mount is read-only for everybody but the replicator, local paths apart. */
#include "tests/cluster/story.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

static void what_the_source_saves_arrives(void **state)
{
	shell("n1", "mkdir dir && echo x > dir/file && ln -s file dir/link");
	everywhere_equal();
}

static void every_way_to_change_it_is_refused(void **state)
{
	_cleanup_free_ char *file = lab_path(lab, "n2", "dir/file"), *other = lab_path(lab, "n2", "dir/other"), *dir = lab_path(lab, "n2", "dir");
	int fd = open(file, O_WRONLY | O_CLOEXEC);
	if (fd >= 0) { /* the kernel opens by itself; the write must fail */
		assert_int_equal(write(fd, "y", 1), -1);
		assert_int_equal(errno, EROFS);
		assert_int_equal(ftruncate(fd, 0), -1);
		assert_int_equal(errno, EROFS);
		close(fd);
	} else {
		assert_int_equal(errno, EROFS);
	}
#define REFUSED(call) (assert_int_equal(call, -1), assert_int_equal(errno, EROFS))
	REFUSED(open(other, O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
	REFUSED(mkdir(other, 0755));
	REFUSED(symlink("x", other));
	REFUSED(mkfifo(other, 0644));
	REFUSED(link(file, other));
	REFUSED(rename(file, other));
	REFUSED(unlink(file));
	REFUSED(chmod(file, 0600));
	REFUSED(chown(file, 1, 1));
	REFUSED(truncate(file, 0));
	REFUSED(setxattr(file, "user.a", "b", 1, 0));
	REFUSED(utimensat(AT_FDCWD, dir, NULL, 0));
	has_text("n2", "dir/file", "x\n");
	same_everywhere();
}

static void local_paths_belong_to_the_node(void **state)
{
	make_directory("n1", "cache");
	in_sync();
	shell("n2", "mkdir -p cache && echo mine > cache/page && echo again > cache/page && mkdir cache/sub && mv cache/page cache/sub/ && "
		    "echo secret > config.local.php");
	shell("n1", "echo other > config.local.php");
	in_sync();
	has_text("n2", "cache/sub/page", "again\n");
	has_text("n2", "config.local.php", "secret\n");
	absent("n3", "config.local.php");
	absent("n1", "cache/sub");
}

static void swap_and_backup_files_stay_where_they_are(void **state)
{
	shell("n1", "echo x > dir/.file.swp && echo x > dir/file~ && echo x > '.#lock' && echo x > page.bak && echo y > dir/file");
	in_sync();
	has_text("n3", "dir/file", "y\n");
	absent("n3", "dir/.file.swp");
	absent("n3", "dir/file~");
	absent("n3", "page.bak");
	move("n1", "page.bak", "page.html");
	in_sync();
	has_text("n2", "page.html", "x\n");
	move("n1", "page.html", "page.bak");
	in_sync();
	absent("n2", "page.html");
}

static void its_power_is_cut(const char *node)
{
	node_killed(node);
	shell("n1", "cd / && umount -l %s %s/full %s; rm -rf %s/*", lab_mount(lab, node), lab_run_dir(lab, node), lab_run_dir(lab, node), lab_run_dir(lab, node));
}

/* What its start-up check finds a pure target must not send: it has no right to. */
static void its_power_is_pulled(void **state)
{
	shell("n1", "mkdir -p pulled/sub && for i in $(seq 50); do echo $i > pulled/file-$i; done && ln -s file-1 pulled/link");
	in_sync();
	shell("n1", "for i in $(seq 30); do echo again > pulled/file-$i; done && rm pulled/file-5?; mkdir pulled/new && echo x > pulled/new/file");
	its_power_is_cut("n2");
	save("n1", "pulled/file-40", "while-it-is-off\n");
	node_started("n2");
	in_sync();
	has_text("n2", "pulled/file-1", "again\n");
	has_text("n2", "pulled/new/file", "x\n");
	everywhere_equal_below("pulled");
	shell("n1", "echo later > pulled/file-2");
	gets_text("n2", "pulled/file-2", "later\n");
	everywhere_equal_below("pulled");
}

/* What was published there, but not the mtime of its directory. */
static void its_power_is_pulled_amid_a_change(void **state)
{
	shell("n1", "mkdir -p amid/sub && echo x > amid/file");
	in_sync();
	its_power_is_cut("n2");
	shell("n1", "cd %s && touch . amid amid/sub", lab_store(lab, "n2"));
	node_started("n2");
	in_sync();
	everywhere_equal_below("amid");
	shell("n2", "test \"$(stat -c %%y .)\" = \"$(stat -c %%y %s)\"", lab_mount(lab, "n1"));
}

/* Nobody else has it. */
static void the_sources_power_is_pulled_amid_a_change(void **state)
{
	shell("n1", "mkdir -p there/sub && echo x > there/file");
	in_sync();
	its_power_is_cut("n1");
	shell("n2", "cd %s && touch there there/sub", lab_store(lab, "n1"));
	node_started("n1");
	in_sync();
	everywhere_equal_below("there");
}

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(what_the_source_saves_arrives),
		cmocka_unit_test(every_way_to_change_it_is_refused),
		cmocka_unit_test(local_paths_belong_to_the_node),
		cmocka_unit_test(swap_and_backup_files_stay_where_they_are),
		cmocka_unit_test(its_power_is_pulled),
		cmocka_unit_test(its_power_is_pulled_amid_a_change),
		cmocka_unit_test(the_sources_power_is_pulled_amid_a_change),
	};
	return STORIES("read_only",
		((struct lab_options){.nodes = 3, .sources = "n1", .exclude = "*.bak", .local = "cache/**,config.local.php"}), stories);
}
