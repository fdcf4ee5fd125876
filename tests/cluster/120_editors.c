/* SPDX-License-Identifier: Apache-2.0 */
/* Whatever way a program saves a file, a reader at a target sees the old version or the new one, and only final names arrive. */
#include "tests/cluster/story.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define ROUNDS 15
#define PAGE_BYTES (200u << 10)

typedef void save_fn(const char *path, const uint8_t *bytes, size_t len);

static void must(bool good, const char *what)
{
	if (!good)
		fail_msg("%s: %s", what, strerror(errno));
}

static void write_to(int fd, const uint8_t *bytes, size_t len)
{
	must(fd >= 0, "open");
	for (size_t done = 0; done < len;) {
		ssize_t n = write(fd, bytes + done, len - done < 30000 ? len - done : 30000);
		must(n > 0, "write");
		done += (size_t)n;
	}
}

static void write_new(const char *path, int flags, const uint8_t *bytes, size_t len)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | flags, 0644);
	write_to(fd, bytes, len);
	must(close(fd) == 0, "close");
}

static char *beside(const char *path, const char *before, const char *after)
{
	static char name[4096];
	const char *slash = strrchr(path, '/');
	snprintf(name, sizeof name, "%.*s/%s%s%s", (int)(slash - path), path, before, slash + 1, after);
	return name;
}

/* vim with backupcopy=yes: a copy is kept, the file is written over in place, the swap file goes. */
static void like_vim(const char *path, const uint8_t *bytes, size_t len)
{
	char swap[4096], backup[4096];
	strcpy(swap, beside(path, ".", ".swp"));
	strcpy(backup, beside(path, "", "~"));
	write_new(swap, O_EXCL, bytes, 4096);
	write_new(backup, O_TRUNC, bytes, len);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	write_to(fd, bytes, len);
	must(fsync(fd) == 0 && close(fd) == 0, "fsync");
	must(unlink(backup) == 0 && unlink(swap) == 0, "unlink");
}

/* vim with backupcopy=no, emacs: the old file is renamed to the backup, the new one is written under the name. */
static void like_emacs(const char *path, const uint8_t *bytes, size_t len)
{
	char backup[4096], lock[4096];
	strcpy(backup, beside(path, "", "~"));
	strcpy(lock, beside(path, ".#", ""));
	must(symlink("me@here.1:2", lock) == 0, "symlink");
	if (rename(path, backup) < 0)
		must(errno == ENOENT, "rename");
	write_new(path, O_EXCL, bytes, len);
	must(unlink(lock) == 0, "unlink");
}

/* VS Code: opened, truncated by a call of its own, written. */
static void like_vscode(const char *path, const uint8_t *bytes, size_t len)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	must(fd >= 0 && ftruncate(fd, 0) == 0, "ftruncate");
	write_to(fd, bytes, len);
	must(close(fd) == 0, "close");
}

/* WordPress, many CMS: a temporary name, then the final one. */
static void like_wordpress(const char *path, const uint8_t *bytes, size_t len)
{
	char temporary[4096];
	strcpy(temporary, beside(path, "", ".tmp-4711"));
	write_new(temporary, O_EXCL, bytes, len);
	must(chmod(temporary, 0640) == 0 && rename(temporary, path) == 0, "rename");
}

static void like_tmpfile_and_link(const char *path, const uint8_t *bytes, size_t len)
{
	char folder[4096], fd_path[64], temporary[4096];
	snprintf(folder, sizeof folder, "%.*s", (int)(strrchr(path, '/') - path), path);
	strcpy(temporary, beside(path, ".", ".linked"));
	int fd = open(folder, O_WRONLY | O_TMPFILE | O_CLOEXEC, 0644);
	write_to(fd, bytes, len);
	snprintf(fd_path, sizeof fd_path, "/proc/self/fd/%d", fd);
	must(linkat(AT_FDCWD, fd_path, AT_FDCWD, temporary, AT_SYMLINK_FOLLOW) == 0, "linkat");
	must(close(fd) == 0 && rename(temporary, path) == 0, "rename");
}

static void like_exchange(const char *path, const uint8_t *bytes, size_t len)
{
	char temporary[4096];
	strcpy(temporary, beside(path, ".", ".new"));
	write_new(temporary, O_EXCL, bytes, len);
	if (renameat2(AT_FDCWD, temporary, AT_FDCWD, path, RENAME_EXCHANGE) == 0)
		must(unlink(temporary) == 0, "unlink");
	else
		must(errno == ENOENT && rename(temporary, path) == 0, "rename");
}

static void like_mmap(const char *path, const uint8_t *bytes, size_t len)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	must(fd >= 0 && ftruncate(fd, (off_t)len) == 0, "ftruncate");
	uint8_t *map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	must(map != MAP_FAILED && close(fd) == 0, "mmap");
	memcpy(map, bytes, len);
	must(munmap(map, len) == 0, "munmap");
}

static int names_in(const char *node, const char *folder)
{
	_cleanup_free_ char *count = NULL;
	assert_int_equal(shell_status(node, &count, "find %s -mindepth 1 | wc -l", folder), 0);
	return atoi(count);
}

/* Save version after version while two targets read; then only the final names are there, equal everywhere. */
static void only_whole_versions(const char *folder, save_fn *save_like, bool may_be_absent)
{
	uint8_t *bytes = malloc(PAGE_BYTES);
	char page[200];
	assert_non_null(bytes);
	snprintf(page, sizeof page, "%s/index.html", folder);
	_cleanup_free_ char *path = lab_path(lab, "n1", page);
	make_directory("n1", folder);
	fill_version(bytes, PAGE_BYTES, 0x0101010101010101);
	write_new(path, O_EXCL, bytes, PAGE_BYTES);
	in_sync();
	struct reader *second = reader_begin("n2", page, may_be_absent), *third = reader_begin("n3", page, may_be_absent);
	for (uint64_t version = 2; version < 2 + ROUNDS; version++) {
		size_t len = PAGE_BYTES - version * 1000;
		fill_version(bytes, len, version << 40 | version);
		save_like(path, bytes, len);
		if (version % 3 == 0)
			in_sync();
	}
	in_sync();
	assert_true(reader_end(second) > 0);
	assert_true(reader_end(third) > 0);
	free(bytes);
	shell("n1", "rm -f %s/*~; touch %s", folder, folder); /* excluded names moved the directory's time here only */
	everywhere_equal();
	assert_int_equal(names_in("n2", folder), 1);
}

static void vim(void **state)
{
	only_whole_versions("vim", like_vim, false);
}

static void emacs(void **state)
{
	only_whole_versions("emacs", like_emacs, true); /* the name is gone for a moment at the source, too */
}

static void vscode(void **state)
{
	only_whole_versions("vscode", like_vscode, false);
}

static void wordpress(void **state)
{
	only_whole_versions("wordpress", like_wordpress, false);
}

static void tmpfile_and_link(void **state)
{
	only_whole_versions("tmpfile", like_tmpfile_and_link, false);
}

static void exchange(void **state)
{
	only_whole_versions("exchange", like_exchange, false);
}

static void shared_mapping(void **state)
{
	only_whole_versions("mmap", like_mmap, false);
}

/* The real tools; git and tar remove the old file first. Their files hold one repeated letter, so that a mix shows. */
static void tool_saves(const char *folder, bool may_be_absent, const char *command)
{
	char page[200];
	snprintf(page, sizeof page, "%s/page", folder);
	shell("n1", "mkdir %s && cd %s && printf 'a%%.0s' $(seq 8000) > page", folder, folder);
	in_sync();
	struct reader *second = reader_begin("n2", page, may_be_absent), *third = reader_begin("n3", page, may_be_absent);
	for (int i = 0; i < 8; i++) {
		char from = (char)('a' + i), to = (char)('a' + i + 1);
		shell("n1", "cd %s && from=%c to=%c && %s", folder, from, to, command);
		in_sync();
	}
	assert_true(reader_end(second) > 0);
	assert_true(reader_end(third) > 0);
	everywhere_equal();
	shell("n3", "cd %s && [ \"$(head -c 1 page)\" = i ] && [ \"$(ls -A | grep -v '^.git$')\" = page ]", folder);
}

static void sed_in_place(void **state)
{
	tool_saves("sed", false, "sed -i s/$from/$to/g page");
}

static void rsync_by_rename(void **state)
{
	tool_saves("rsync", false, "t=$(mktemp -d) && tr $from $to < page > $t/page && rsync -a --ignore-times $t/page page; s=$?; rm -r $t; [ $s = 0 ]");
}

static void rsync_in_place(void **state)
{
	tool_saves("rsync-inplace", false,
		"t=$(mktemp -d) && tr $from $to < page > $t/page && rsync -a --ignore-times --inplace $t/page page; s=$?; rm -r $t; [ $s = 0 ]");
}

static void git_checkout(void **state)
{
	tool_saves("git", true, "export HOME=/nonexistent GIT_CONFIG_NOSYSTEM=1 && g() { git -c user.name=n -c user.email=e -c safe.directory='*' -c init.defaultBranch=m \"$@\"; } && "
			  "{ [ -d .git ] || { g init -q . && g add page && g commit -qm $from; }; } && t=$(tr $from $to < page | g hash-object -w --stdin) && "
			  "g update-index --cacheinfo 100644,$t,page && g commit -qm $to && g checkout -q -f HEAD -- page");
}

static void tar_over_it(void **state)
{
	tool_saves("tar", true, "t=$(mktemp -d) && tr $from $to < page > $t/page && tar cf - -C $t page | tar xf -; s=$?; rm -r $t; [ $s = 0 ]");
}

static void log_appends_arrive_when_it_rests(void **state)
{
	make_directory("n1", "logs");
	save("n1", "logs/log", "");
	for (int i = 0; i < 50; i++)
		append("n1", "logs/log", "a line of a log\n");
	everywhere_equal();
}

/* --- update = strict --- */

#define LARGE (1u << 20)

static ino_t inode_at(const char *node, const char *path)
{
	struct stat st;
	_cleanup_free_ char *full = lab_store_path(lab, node, path);
	must(stat(full, &st) == 0, full);
	return st.st_ino;
}

/* Eight bytes in the middle of a large file are written; does the file at n2 become another? */
static bool a_small_change_makes_a_new_file(const char *path)
{
	static unsigned count;
	char text[32], got[32] = "";
	_cleanup_free_ char *full = lab_path(lab, "n2", path);
	ino_t before = inode_at("n2", path);
	snprintf(text, sizeof text, "%08u", ++count);
	save_at("n1", path, LARGE / 2, text);
	in_sync();
	_cleanup_close_ int fd = open(full, O_RDONLY | O_CLOEXEC);
	must(fd >= 0 && pread(fd, got, 8, LARGE / 2) == 8, "read");
	assert_string_equal(got, text);
	return inode_at("n2", path) != before;
}

struct update { const char *path; bool strict; };

static bool is_in_force(void *arg, char *seen)
{
	const struct update *u = arg;
	snprintf(seen, 512, "a small change is %s", u->strict ? "written in place" : "a new file");
	return a_small_change_makes_a_new_file(u->path) == u->strict;
}

static void comes_into_force(const char *update, const char *path)
{
	struct cdm_error err = CDM_ERROR_INIT;
	struct update u = {path, strcmp(update, "strict") == 0};
	administrator("set", "change", LAB_SET, "--update", update, NULL);
	if (lab_wait_for(is_in_force, &u, STORY_MS, update, &err) < 0)
		fail_msg("--update %s: %s", update, err.text);
}

/* Nothing is restarted. */
static void strict_shows_small_changes_as_new_files(void **state)
{
	uint8_t *bytes = calloc(1, LARGE), *held = calloc(1, LARGE);
	must(bytes && held, "calloc");
	make_directory("n1", "strict");
	save_bytes("n1", "strict/large", bytes, LARGE);
	in_sync();
	assert_false(a_small_change_makes_a_new_file("strict/large"));
	comes_into_force("strict", "strict/large");
	for (int i = 0; i < 5; i++)
		assert_true(a_small_change_makes_a_new_file("strict/large"));

	/* who has the old version open at a target keeps it, whole */
	_cleanup_free_ char *full = lab_path(lab, "n2", "strict/large");
	_cleanup_close_ int fd = open(full, O_RDONLY | O_CLOEXEC);
	must(fd >= 0 && pread(fd, bytes, LARGE, 0) == LARGE, "read");
	assert_true(a_small_change_makes_a_new_file("strict/large"));
	must(pread(fd, held, LARGE, 0) == LARGE, "read");
	assert_memory_equal(bytes, held, LARGE);

	/* a file with two names stays one */
	shell("n1", "ln strict/large strict/other");
	in_sync();
	assert_true(a_small_change_makes_a_new_file("strict/large"));
	assert_true(inode_at("n2", "strict/large") == inode_at("n2", "strict/other"));
	shell("n1", "rm strict/other");
	comes_into_force("follow", "strict/large");
	everywhere_equal();
	free(bytes);
	free(held);
}

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(vim),
		cmocka_unit_test(emacs),
		cmocka_unit_test(vscode),
		cmocka_unit_test(wordpress),
		cmocka_unit_test(tmpfile_and_link),
		cmocka_unit_test(exchange),
		cmocka_unit_test(shared_mapping),
		cmocka_unit_test(sed_in_place),
		cmocka_unit_test(rsync_by_rename),
		cmocka_unit_test(rsync_in_place),
		cmocka_unit_test(git_checkout),
		cmocka_unit_test(tar_over_it),
		cmocka_unit_test(log_appends_arrive_when_it_rests),
		cmocka_unit_test(strict_shows_small_changes_as_new_files),
	};
	return STORIES("editors", ((struct lab_options){.nodes = 3}), stories);
}
