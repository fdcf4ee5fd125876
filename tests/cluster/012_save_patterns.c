/* SPDX-License-Identifier: Apache-2.0 */
/* 012_save_patterns — the many ways in which programs save, read back from the journal: each save ends as one SAVE at the final
 * name (or one SAVE that a rename brings there), nothing is missing, nothing is too much. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include "common/filter.h"
#include "tests/cluster/mount_fixture.h"
#include "tests/cluster/shipped.h"

static struct fixture *fixture;
static struct shipped tree;
static struct cdm_filter excludes;
static uint64_t position;

static bool is_excluded(const char *path)
{
	return cdm_filter_match(&excludes, path, strlen(path)) != NULL;
}

static const char *at(const char *name)
{
	static char path[4][300];
	static unsigned turn;
	char *out = path[turn++ % 4];

	snprintf(out, 300, "%s/%s", fixture->mnt, name);
	return out;
}

/* Take what was journaled since the last call into the tree; returns the number of SAVEs, and the tree must be as the mount. */
static unsigned catch_up(void)
{
	tree.saves = 0;
	tree.last_save[0] = 0;
	position = fixture_journal_read(fixture, position, shipped_record, &tree);
	shipped_assert_equal(&tree, fixture, is_excluded);
	return tree.saves;
}

static void saved_once(const char *path)
{
	assert_int_equal(catch_up(), 1);
	assert_string_equal(tree.last_save, path);
}

/* A shell line in the mount; the test is skipped if its program is not there. */
static void shell(const char *program, const char *line)
{
	const char *const argv[] = {"sh", "-ec", line, NULL};

	if (!program_exists(program)) {
		print_message("skipped: no %s\n", program);
		skip();
	}
	assert_int_equal(run_program(fixture->mnt, argv), 0);
}

/* --- by system calls --- */

static void create_write_close(void **state)
{
	put_file(at("plain"), "one", 3);
	saved_once("plain");
	put_file(at("plain"), "two", 3); /* truncate and write, as VS Code does */
	saved_once("plain");
	put_file(at("empty"), "", 0);
	saved_once("empty");
}

static void many_writes_one_close(void **state)
{
	int fd = open(at("many"), O_WRONLY | O_CREAT, 0644);

	for (int i = 0; i < 1000; i++)
		assert_int_equal(write(fd, "0123456789", 10), 10);
	assert_int_equal(fsync(fd), 0);
	close(fd);
	saved_once("many");
}

static void two_writers_one_save(void **state)
{
	int a = open(at("two"), O_WRONLY | O_CREAT, 0644), b = open(at("two"), O_WRONLY);

	assert_int_equal(write(a, "aa", 2), 2);
	assert_int_equal(close(a), 0);
	assert_int_equal(write(b, "bb", 2), 2);
	assert_int_equal(close(b), 0);
	saved_once("two");
}

static void open_for_writing_without_a_write(void **state)
{
	put_file(at("untouched"), "x", 1);
	catch_up();
	int fd = open(at("untouched"), O_RDWR);
	close(fd);
	assert_int_equal(catch_up(), 0);
}

static void still_open_is_not_saved(void **state)
{
	int fd = open(at("open"), O_WRONLY | O_CREAT, 0644);

	assert_int_equal(write(fd, "half", 4), 4);
	tree.saves = 0;
	position = fixture_journal_read(fixture, position, shipped_record, &tree);
	assert_int_equal(tree.saves, 0);
	close(fd);
	saved_once("open");
}

static void temporary_and_rename(void **state)
{
	put_file(at("page"), "old", 3);
	catch_up();
	put_file(at("page.tmp12"), "new", 3);
	assert_int_equal(rename(at("page.tmp12"), at("page")), 0);
	assert_int_equal(catch_up(), 1);
	/* the rename before the close */
	int fd = open(at("page.tmp13"), O_WRONLY | O_CREAT, 0644);
	assert_int_equal(write(fd, "newer", 5), 5);
	assert_int_equal(rename(at("page.tmp13"), at("page")), 0);
	close(fd);
	saved_once("page");
	/* written on after the rename */
	fd = open(at("page.tmp14"), O_WRONLY | O_CREAT, 0644);
	assert_int_equal(rename(at("page.tmp14"), at("page")), 0);
	assert_int_equal(write(fd, "newest", 6), 6);
	close(fd);
	saved_once("page");
}

static void unnamed_and_link(void **state)
{
	char name[64];
	int fd = open(fixture->mnt, O_TMPFILE | O_RDWR, 0644);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, "unnamed", 7), 7);
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	assert_int_equal(linkat(AT_FDCWD, name, AT_FDCWD, at("linked"), AT_SYMLINK_FOLLOW), 0);
	close(fd);
	saved_once("linked");
	fd = open(fixture->mnt, O_TMPFILE | O_RDWR, 0644);
	assert_int_equal(write(fd, "never named", 11), 11);
	close(fd);
	assert_int_equal(catch_up(), 0);
}

static void exchange(void **state)
{
	put_file(at("live"), "old", 3);
	put_file(at("next"), "new", 3);
	assert_int_equal(catch_up(), 2);
	put_file(at("next"), "newer", 5);
	assert_int_equal(renameat2(AT_FDCWD, at("next"), AT_FDCWD, at("live"), RENAME_EXCHANGE), 0);
	assert_int_equal(catch_up(), 1);
	assert_int_equal(unlink(at("next")), 0);
	assert_int_equal(catch_up(), 0);
}

/* The known file moves for the others, too; the other one comes with its own SAVE. */
static void exchange_with_an_unsaved_file(void **state)
{
	put_file(at("known-x"), "known", 5);
	catch_up();
	int fd = open(at("unsaved-x"), O_WRONLY | O_CREAT, 0644);
	assert_int_equal(write(fd, "new", 3), 3);
	assert_int_equal(renameat2(AT_FDCWD, at("unsaved-x"), AT_FDCWD, at("known-x"), RENAME_EXCHANGE), 0);
	close(fd);
	catch_up();
	put_file(at("known-y"), "known", 5);
	catch_up();
	fd = open(at("unsaved-y"), O_WRONLY | O_CREAT, 0644);
	assert_int_equal(renameat2(AT_FDCWD, at("known-y"), AT_FDCWD, at("unsaved-y"), RENAME_EXCHANGE), 0);
	assert_int_equal(write(fd, "new", 3), 3);
	close(fd);
	catch_up();
}

static void writable_mapping(void **state)
{
	put_file(at("mapped"), "0123456789", 10);
	catch_up();
	int fd = open(at("mapped"), O_RDWR);
	char *m = mmap(NULL, 10, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(m != MAP_FAILED);
	close(fd);
	memcpy(m + 3, "MAP", 3);
	assert_int_equal(munmap(m, 10), 0);
	saved_once("mapped");
	size_t len;
	char in_store[300];
	snprintf(in_store, sizeof(in_store), "%s/mapped", fixture->store);
	char *text = get_file(in_store, &len);
	assert_memory_equal(text, "012MAP6789", 10);
	free(text);
}

static bool has_saved(void *arg)
{
	position = fixture_journal_read(fixture, position, shipped_record, &tree);
	return tree.saves > 0;
}

/* Changed by path: nobody closes anything, the server asks the watcher by itself. */
static void truncate_by_path(void **state)
{
	put_file(at("cut"), "0123456789", 10);
	catch_up();
	tree.saves = 0;
	assert_int_equal(truncate(at("cut"), 4), 0);
	fixture_wait("the SAVE of a file cut by path", has_saved, NULL);
	shipped_assert_equal(&tree, fixture, is_excluded);
}

static void by_another_process_that_dies(void **state)
{
	pid_t pid = fork();

	if (pid == 0) {
		int fd = open(at("died"), O_WRONLY | O_CREAT, 0644);
		if (write(fd, "not closed", 10) != 10)
			_exit(1);
		raise(SIGKILL);
	}
	waitpid(pid, NULL, 0);
	saved_once("died");
}

static void inherited_descriptor(void **state)
{
	int fd = open(at("inherited"), O_WRONLY | O_CREAT, 0644), go[2];

	assert_int_equal(pipe(go), 0);
	pid_t pid = fork();
	if (pid == 0) {
		char c;
		close(go[1]);
		if (read(go[0], &c, 1) != 0 || write(fd, "child", 5) != 5)
			_exit(1);
		_exit(0);
	}
	assert_int_equal(write(fd, "parent", 6), 6);
	close(fd);
	tree.saves = 0;
	position = fixture_journal_read(fixture, position, shipped_record, &tree);
	assert_int_equal(tree.saves, 0);
	close(go[0]);
	close(go[1]);
	waitpid(pid, NULL, 0);
	saved_once("inherited");
}

static void hard_link_backup(void **state)
{
	put_file(at("doc"), "old", 3);
	catch_up();
	assert_int_equal(link(at("doc"), at("doc.bak")), 0); /* backup link, then temporary and rename */
	put_file(at("doc.new"), "new", 3);
	assert_int_equal(rename(at("doc.new"), at("doc")), 0);
	assert_int_equal(catch_up(), 1);
	assert_int_equal(link(at("doc"), at("doc2")), 0);
	put_file(at("doc2"), "through the other name", 22);
	assert_int_equal(catch_up(), 1);
}

static void removed_before_saved(void **state)
{
	int fd = open(at("gone"), O_WRONLY | O_CREAT, 0644);

	assert_int_equal(write(fd, "x", 1), 1);
	assert_int_equal(unlink(at("gone")), 0);
	assert_int_equal(write(fd, "y", 1), 1);
	close(fd);
	assert_int_equal(catch_up(), 0);
	/* it covered a name that others know */
	put_file(at("known"), "1", 1);
	catch_up();
	fd = open(at("cover"), O_WRONLY | O_CREAT, 0644);
	assert_int_equal(write(fd, "2", 1), 1);
	assert_int_equal(rename(at("cover"), at("known")), 0);
	assert_int_equal(unlink(at("known")), 0);
	close(fd);
	assert_int_equal(catch_up(), 0);
}

static void tree_moved_while_written(void **state)
{
	assert_int_equal(mkdir(at("dir"), 0755), 0);
	int fd = open(at("dir/file"), O_WRONLY | O_CREAT, 0644);
	assert_int_equal(write(fd, "1", 1), 1);
	assert_int_equal(rename(at("dir"), at("dir2")), 0);
	assert_int_equal(write(fd, "2", 1), 1);
	close(fd);
	saved_once("dir2/file");
}

static void out_of_excluded_names(void **state)
{
	put_file(at("note.swp~"), "excluded", 8);
	assert_int_equal(catch_up(), 0);
	assert_int_equal(rename(at("note.swp~"), at("note")), 0);
	assert_int_equal(catch_up(), 1);
	assert_int_equal(rename(at("note"), at("note~")), 0);
	assert_int_equal(catch_up(), 0);
	assert_int_equal(mkdir(at("build~"), 0755), 0);
	assert_int_equal(mkdir(at("build~/sub"), 0755), 0);
	put_file(at("build~/a"), "a", 1);
	put_file(at("build~/sub/b"), "b", 1);
	assert_int_equal(catch_up(), 0);
	assert_int_equal(rename(at("build~"), at("build")), 0);
	assert_int_equal(catch_up(), 2);
}

/* --- by programs --- */

static void vim_saves(void **state)
{
	shell("vim", "printf 'line\\n' > vimmed");
	catch_up();
	shell("vim", "vim -u NONE -N -es -c 'set nowritebackup nobackup' -c '%s/line/changed/' -c 'wq' vimmed </dev/null");
	saved_once("vimmed");
	shell("vim", "vim -u NONE -N -es -c 'set writebackup backupcopy=no' -c '%s/changed/again/' -c 'wq' vimmed </dev/null");
	assert_int_equal(catch_up(), 1);
	shell("vim", "vim -u NONE -N -es -c 'set writebackup backupcopy=yes' -c '%s/again/thrice/' -c 'wq' vimmed </dev/null");
	assert_int_equal(catch_up(), 1);
}

static void sed_in_place(void **state)
{
	shell("sed", "printf 'a\\nb\\n' > sedded");
	catch_up();
	shell("sed", "sed -i s/a/A/ sedded");
	assert_int_equal(catch_up(), 1);
	shell("sed", "sed -i.bak s/b/B/ sedded");
	assert_int_equal(catch_up(), 1);
}

static void perl_in_place(void **state)
{
	shell("perl", "printf 'a\\nb\\n' > perled");
	catch_up();
	shell("perl", "perl -pi -e s/a/A/ perled");
	assert_int_equal(catch_up(), 1);
}

static void rsync_copies(void **state)
{
	shell("rsync", "rm -rf ../rsrc; mkdir ../rsrc; for i in 1 2 3; do seq 1 5000 > ../rsrc/f$i; done; mkdir ../rsrc/sub; ln -s f1 ../rsrc/sub/l; rsync -a ../rsrc/ rdst/");
	assert_int_equal(catch_up(), 3);
	shell("rsync", "echo more >> ../rsrc/f1; rsync -a ../rsrc/ rdst/");
	assert_int_equal(catch_up(), 1);
	shell("rsync", "echo more >> ../rsrc/f2; rsync -a --inplace --no-whole-file ../rsrc/ rdst/");
	assert_int_equal(catch_up(), 1);
	shell("rsync", "rm ../rsrc/f3; rsync -a --delete ../rsrc/ rdst/");
	assert_int_equal(catch_up(), 0);
	shell("rsync", "rsync -a --link-dest=../rdst ../rsrc/ rdst2/");
	assert_int_equal(catch_up(), 0);
}

static void git_checkout(void **state)
{
	shell("git", "git init -q repo; cd repo; git config user.email a@b; git config user.name n; for i in 1 2 3 4 5; do echo $i > f$i; done; "
		     "git add .; git commit -qm one; git branch -m main; git checkout -qb other; echo changed > f1; rm f2; echo new > g; git add -A; git commit -qm two");
	catch_up();
	shell("git", "cd repo; git checkout -q main");
	catch_up();
	shell("git", "cd repo; git checkout -q other; git gc -q");
	catch_up();
}

static void tar_extracts(void **state)
{
	shell("tar", "mkdir t; for i in $(seq 50); do echo $i > t/f$i; done; ln t/f1 t/hard; ln -s f2 t/soft; tar cf ../t.tar t; rm -rf t");
	catch_up();
	shell("tar", "tar xf ../t.tar");
	assert_int_equal(catch_up(), 50);
	shell("tar", "tar xf ../t.tar --overwrite");
	catch_up();
}

static void copies_and_patches(void **state)
{
	shell("cp", "seq 1 1000 > c1; cp c1 c2; cp --reflink=never c1 c3; dd if=c1 of=c3 bs=100 count=2 conv=notrunc status=none; mv c2 c4; "
		    "install -m 0600 c1 c5; cp -a c1 c6; tee c7 < c1 > /dev/null; truncate -s 10 c7; fallocate -l 100 c8");
	/* c1 c2 c3 (twice: cp and dd) c5 c6 c7 (twice) c8 */
	assert_in_range(catch_up(), 7, 9);
	shell("patch", "printf -- '--- c1\\n+++ c1\\n@@ -1,2 +1,2 @@\\n-1\\n+one\\n 2\\n' | patch -s -p0");
	assert_int_equal(catch_up(), 1);
}

static void start_and_stop_keep_it(void **state)
{
	put_file(at("before-the-end"), "1", 1);
	int fd = open(at("open-at-the-end"), O_WRONLY | O_CREAT, 0644);
	assert_int_equal(write(fd, "2", 1), 1);
	close(fd);
	catch_up();
	assert_int_equal(fixture_unmount(fixture), 0);
	fixture_mount(fixture, NULL);
	put_file(at("after"), "3", 1);
	saved_once("after");
}

static int mount_all(void **state)
{
	for (const char *const *x = cdm_filter_default_excludes; *x; x++)
		cdm_filter_add(&excludes, *x);
	fixture_mount(fixture, NULL);
	return 0;
}

static int unmount_all(void **state)
{
	shipped_fini(&tree);
	cdm_filter_fini(&excludes);
	return fixture->holder ? fixture_unmount(fixture) : 0;
}

static int body(struct fixture *f)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(create_write_close), cmocka_unit_test(many_writes_one_close), cmocka_unit_test(two_writers_one_save),
		cmocka_unit_test(open_for_writing_without_a_write), cmocka_unit_test(still_open_is_not_saved), cmocka_unit_test(temporary_and_rename),
		cmocka_unit_test(unnamed_and_link), cmocka_unit_test(exchange),
		cmocka_unit_test(exchange_with_an_unsaved_file), cmocka_unit_test(writable_mapping), cmocka_unit_test(truncate_by_path),
		cmocka_unit_test(by_another_process_that_dies), cmocka_unit_test(inherited_descriptor), cmocka_unit_test(hard_link_backup),
		cmocka_unit_test(removed_before_saved), cmocka_unit_test(tree_moved_while_written), cmocka_unit_test(out_of_excluded_names),
		cmocka_unit_test(vim_saves), cmocka_unit_test(sed_in_place), cmocka_unit_test(perl_in_place), cmocka_unit_test(rsync_copies),
		cmocka_unit_test(git_checkout), cmocka_unit_test(tar_extracts), cmocka_unit_test(copies_and_patches), cmocka_unit_test(start_and_stop_keep_it)};

	fixture = f;
	return cmocka_run_group_tests_name("save_patterns", tests, mount_all, unmount_all);
}

int main(void)
{
	return fixture_main(body);
}
