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

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(what_the_source_saves_arrives),
		cmocka_unit_test(every_way_to_change_it_is_refused),
		cmocka_unit_test(local_paths_belong_to_the_node),
		cmocka_unit_test(swap_and_backup_files_stay_where_they_are),
	};
	return STORIES("read_only",
		((struct lab_options){.nodes = 3, .sources = "n1", .exclude = "*.bak", .local = "cache/**,config.local.php"}), stories);
}
