/* SPDX-License-Identifier: Apache-2.0 */
/* posix_names.c — making, moving, linking and removing names. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include "tests/cluster/posix.h"

static void touch(struct probe *p, const char *name, const char *text)
{
	int fd = openat(p->dir, name, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		probe_say(p, "touch %s: %s", name, strerrorname_np(errno));
	if (fd >= 0)
		close(fd);
}

static bool same_file(struct probe *p, const char *a, const char *b)
{
	struct stat x, y;

	return fstatat(p->dir, a, &x, AT_SYMLINK_NOFOLLOW) == 0 && fstatat(p->dir, b, &y, AT_SYMLINK_NOFOLLOW) == 0 && x.st_ino == y.st_ino &&
		x.st_dev == y.st_dev;
}

static void create(struct probe *p)
{
	int fd = F(openat(p->dir, "a", O_RDWR | O_CREAT | O_EXCL, 0640));
	T(write(fd, "hello", 5));
	T(close(fd));
	F(openat(p->dir, "a", O_RDWR | O_CREAT | O_EXCL, 0640));
	F(openat(p->dir, "missing", O_RDWR));
	F(openat(p->dir, "a/b", O_RDWR | O_CREAT, 0600));
	F(openat(p->dir, "missing/b", O_RDWR | O_CREAT, 0600));
	F(openat(p->dir, "a", O_RDONLY | O_DIRECTORY));
	T(mkdirat(p->dir, "d", 0751));
	T(mkdirat(p->dir, "d", 0751));
	T(mkdirat(p->dir, "a", 0751));
	F(openat(p->dir, "d", O_RDWR));
	F(openat(p->dir, "d", O_RDONLY | O_CREAT, 0600));
	F(openat(p->dir, "e/", O_RDWR | O_CREAT, 0600));
	T(mkdirat(p->dir, "slash/", 0755));
	T(mkdirat(p->dir, "", 0755));
	T(mkdirat(p->dir, ".", 0755));
	T(mkdirat(p->dir, "d/..", 0755));
	int fd2 = F(openat(p->dir, "read-only", O_RDWR | O_CREAT, 0000));
	T(write(fd2, "x", 1));
	T(close(fd2));
	fd = F(openat(p->dir, "a", O_WRONLY | O_TRUNC));
	probe_fstat(p, fd);
	T(close(fd));
	probe_stat(p, "a");
	probe_stat(p, "d");
}

static void unlinking(struct probe *p)
{
	char buf[16] = "";

	touch(p, "a", "content");
	T(mkdirat(p->dir, "d", 0755));
	T(mkdirat(p->dir, "d/e", 0755));
	T(unlinkat(p->dir, "d", 0));
	T(unlinkat(p->dir, "d", AT_REMOVEDIR));
	T(unlinkat(p->dir, "a", AT_REMOVEDIR));
	T(unlinkat(p->dir, "missing", 0));
	T(unlinkat(p->dir, "missing", AT_REMOVEDIR));
	T(unlinkat(p->dir, "d/e/.", AT_REMOVEDIR));
	T(unlinkat(p->dir, "d/e/..", AT_REMOVEDIR));
	T(unlinkat(p->dir, "a/", 0));
	int fd = F(openat(p->dir, "a", O_RDWR));
	T(unlinkat(p->dir, "a", 0));
	probe_fstat(p, fd);
	T(pread(fd, buf, 7, 0));
	probe_bytes(p, "after unlink", buf, 7);
	T(pwrite(fd, "CONTENT2", 8, 0));
	T(pread(fd, buf, 8, 0));
	probe_bytes(p, "written after unlink", buf, 8);
	T(ftruncate(fd, 3));
	T(fchmod(fd, 0600));
	T(fsync(fd));
	probe_fstat(p, fd);
	probe_stat(p, "a");
	touch(p, "a", "new");
	probe_content(p, "a");
	T(close(fd));
	int sub = F(openat(p->dir, "d/e", O_RDONLY | O_DIRECTORY));
	T(unlinkat(p->dir, "d/e", AT_REMOVEDIR));
	F(openat(sub, "x", O_RDWR | O_CREAT, 0600));
	T(mkdirat(sub, "y", 0700));
	probe_fstat(p, sub);
	T(close(sub));
	T(unlinkat(p->dir, "d", AT_REMOVEDIR));
}

static void renaming(struct probe *p)
{
	touch(p, "a", "A");
	touch(p, "b", "B");
	T(mkdirat(p->dir, "d", 0755));
	T(mkdirat(p->dir, "d/sub", 0755));
	T(mkdirat(p->dir, "e", 0755));
	T(renameat(p->dir, "a", p->dir, "c"));
	T(renameat(p->dir, "a", p->dir, "c"));
	T(renameat(p->dir, "c", p->dir, "b"));
	probe_content(p, "b");
	T(renameat(p->dir, "b", p->dir, "b"));
	T(renameat(p->dir, "b", p->dir, "d"));
	T(renameat(p->dir, "d", p->dir, "b"));
	T(renameat(p->dir, "d", p->dir, "d/sub/inside"));
	T(renameat(p->dir, "e", p->dir, "d"));
	T(renameat(p->dir, "d", p->dir, "e"));
	probe_stat(p, "e/sub");
	probe_stat(p, "d");
	T(renameat(p->dir, "b", p->dir, "e/sub/b"));
	T(renameat(p->dir, "e/sub/b", p->dir, "missing/b"));
	T(renameat(p->dir, "e/.", p->dir, "x"));
	T(renameat(p->dir, "e/sub", p->dir, "sub"));
	probe_stat(p, "e");
	T(linkat(p->dir, "sub/b", p->dir, "b2", 0));
	T(renameat(p->dir, "sub/b", p->dir, "b2"));
	probe_stat(p, "sub/b");
	int fd = F(openat(p->dir, "b2", O_RDWR));
	touch(p, "n", "replaces");
	T(renameat(p->dir, "n", p->dir, "b2"));
	char buf[8] = "";
	T(pread(fd, buf, 8, 0));
	probe_bytes(p, "old content", buf, 1);
	probe_fstat(p, fd);
	T(close(fd));
}

static void rename_flags(struct probe *p)
{
	touch(p, "a", "A");
	touch(p, "b", "BB");
	T(mkdirat(p->dir, "d", 0755));
	touch(p, "d/x", "X");
	T(renameat2(p->dir, "a", p->dir, "b", RENAME_NOREPLACE));
	T(renameat2(p->dir, "a", p->dir, "n", RENAME_NOREPLACE));
	T(renameat2(p->dir, "n", p->dir, "b", RENAME_EXCHANGE));
	probe_content(p, "n");
	probe_content(p, "b");
	T(renameat2(p->dir, "n", p->dir, "missing", RENAME_EXCHANGE));
	T(renameat2(p->dir, "n", p->dir, "d", RENAME_EXCHANGE));
	probe_content(p, "d");
	probe_content(p, "n/x");
	T(renameat2(p->dir, "n", p->dir, "n/x", RENAME_EXCHANGE));
	T(renameat2(p->dir, "b", p->dir, "b", RENAME_EXCHANGE));
	T(renameat2(p->dir, "b", p->dir, "b", RENAME_NOREPLACE));
	T(renameat2(p->dir, "b", p->dir, "x", RENAME_EXCHANGE | RENAME_NOREPLACE));
	T(renameat2(p->dir, "b", p->dir, "x", 1u << 30));
	T(symlinkat("nowhere", p->dir, "s"));
	T(renameat2(p->dir, "s", p->dir, "b", RENAME_EXCHANGE));
	probe_stat(p, "s");
	probe_stat(p, "b");
}

static void links(struct probe *p)
{
	char buf[64];

	touch(p, "a", "A");
	T(linkat(p->dir, "a", p->dir, "b", 0));
	T(linkat(p->dir, "a", p->dir, "b", 0));
	T(linkat(p->dir, "missing", p->dir, "c", 0));
	T(mkdirat(p->dir, "d", 0755));
	T(linkat(p->dir, "d", p->dir, "d2", 0));
	T(linkat(p->dir, "a", p->dir, "d/a", 0));
	probe_say(p, "same file: %d %d", same_file(p, "a", "b"), same_file(p, "a", "d/a"));
	probe_stat(p, "a");
	touch(p, "b", "through b");
	probe_content(p, "d/a");
	T(fchmodat(p->dir, "b", 0600, 0));
	probe_stat(p, "a");
	T(unlinkat(p->dir, "a", 0));
	probe_stat(p, "b");
	T(symlinkat("b", p->dir, "s"));
	T(symlinkat("b", p->dir, "s"));
	T(symlinkat("", p->dir, "empty"));
	T(symlinkat("../nowhere/at all", p->dir, "dangling"));
	T(symlinkat("loop", p->dir, "loop"));
	T(readlinkat(p->dir, "s", buf, sizeof(buf)));
	T(readlinkat(p->dir, "dangling", buf, sizeof(buf)));
	probe_bytes(p, "dangling", buf, 18);
	T(readlinkat(p->dir, "b", buf, sizeof(buf)));
	T(readlinkat(p->dir, "dangling", buf, 3));
	F(openat(p->dir, "s", O_RDONLY | O_NOFOLLOW));
	F(openat(p->dir, "loop", O_RDONLY));
	F(openat(p->dir, "dangling", O_RDONLY));
	T(linkat(p->dir, "s", p->dir, "s2", 0));
	T(linkat(p->dir, "s", p->dir, "b3", AT_SYMLINK_FOLLOW));
	probe_say(p, "link to symlink: %d, through it: %d", same_file(p, "s", "s2"), same_file(p, "b", "b3"));
	T(faccessat(p->dir, "s", R_OK, 0));
	T(fchmodat(p->dir, "s", 0640, 0));
	probe_stat(p, "b");
	char long_target[4200];
	memset(long_target, 'x', sizeof(long_target));
	long_target[4095] = 0;
	T(symlinkat(long_target, p->dir, "longest"));
	long_target[4095] = 'x';
	long_target[4096] = 0;
	T(symlinkat(long_target, p->dir, "too-long"));
}

static void special_files(struct probe *p)
{
	T(mknodat(p->dir, "fifo", S_IFIFO | 0644, 0));
	T(mknodat(p->dir, "fifo", S_IFIFO | 0644, 0));
	T(mknodat(p->dir, "socket", S_IFSOCK | 0600, 0));
	T(mknodat(p->dir, "plain", S_IFREG | 0604, 0));
	T(mknodat(p->dir, "chr", S_IFCHR | 0666, makedev(1, 3)));
	T(mknodat(p->dir, "blk", S_IFBLK | 0660, makedev(7, 999)));
	T(mknodat(p->dir, "bad", S_IFDIR | 0660, 0));
	probe_stat(p, "fifo");
	probe_stat(p, "socket");
	probe_stat(p, "chr");
	int fd = F(openat(p->dir, "fifo", O_RDWR | O_NONBLOCK));
	char c = 0;
	T(write(fd, "z", 1));
	T(read(fd, &c, 1));
	probe_say(p, "through the fifo: %d", c);
	T(close(fd));
	F(openat(p->dir, "fifo", O_WRONLY | O_NONBLOCK));
	F(openat(p->dir, "socket", O_RDONLY));
	T(renameat(p->dir, "fifo", p->dir, "fifo2"));
	T(linkat(p->dir, "fifo2", p->dir, "fifo3", 0));
	T(fchmodat(p->dir, "fifo2", 0600, 0));
}

static void tmpfile_and_link(struct probe *p)
{
	char name[64];
	char buf[16] = "";
	int fd = F(openat(p->dir, ".", O_TMPFILE | O_RDWR, 0640));

	T(write(fd, "unnamed", 7));
	T(pread(fd, buf, 16, 0));
	probe_fstat(p, fd);
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	T(linkat(AT_FDCWD, name, p->dir, "named", AT_SYMLINK_FOLLOW));
	probe_fstat(p, fd);
	probe_content(p, "named");
	T(linkat(AT_FDCWD, name, p->dir, "named", AT_SYMLINK_FOLLOW));
	T(write(fd, " more", 5));
	T(close(fd));
	probe_content(p, "named");
	fd = F(openat(p->dir, ".", O_TMPFILE | O_RDWR | O_EXCL, 0640));
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	T(linkat(AT_FDCWD, name, p->dir, "never", AT_SYMLINK_FOLLOW));
	T(close(fd));
	fd = F(openat(p->dir, ".", O_TMPFILE | O_WRONLY, 0600));
	T(write(fd, "gone", 4));
	T(close(fd));
	F(openat(p->dir, ".", O_TMPFILE | O_RDONLY, 0600));
	F(openat(p->dir, "missing", O_TMPFILE | O_RDWR, 0600));
	F(openat(p->dir, "named", O_TMPFILE | O_RDWR, 0600));
}

static void any_byte_names(struct probe *p)
{
	char name[300];

	for (int c = 1; c < 256; c++) {
		if (c == '/')
			continue;
		snprintf(name, sizeof(name), "n%cn", c);
		touch(p, name, name);
	}
	touch(p, "\xff\xfe\xfd", "not UTF-8");
	touch(p, " ", "space");
	touch(p, "\n", "newline");
	touch(p, "...", "three dots");
	touch(p, "-rf *", "rm bait");
	touch(p, ".cdmfs.x", "not the metadata directory");
	memset(name, 'n', sizeof(name));
	name[255] = 0;
	touch(p, name, "longest name");
	name[255] = 'n';
	name[256] = 0;
	touch(p, name, "too long");
	T(mkdirat(p->dir, name, 0755));
	T(symlinkat("x", p->dir, name));
	T(renameat(p->dir, " ", p->dir, name));
	T(unlinkat(p->dir, name, 0));
	probe_stat(p, name);
	T(mkdirat(p->dir, "d", 0755));
	touch(p, "d/.cdmfs", "only the root has one");
	probe_stat(p, "d/.cdmfs");
	touch(p, "case", "lower");
	touch(p, "CASE", "upper");
	touch(p, "e\xcc\x81", "decomposed");
	touch(p, "\xc3\xa9", "composed");
}

static void deep_paths(struct probe *p)
{
	enum { LEVELS = 900 };
	int dir = dup(p->dir), next;
	char up[LEVELS * 3 + 1];

	for (int i = 0; i < LEVELS; i++) {
		if (mkdirat(dir, "a-directory-name", 0755) < 0 || (next = openat(dir, "a-directory-name", O_RDONLY | O_DIRECTORY)) < 0) {
			probe_say(p, "level %d: %s", i, strerrorname_np(errno));
			break;
		}
		close(dir);
		dir = next;
	}
	int fd = F(openat(dir, "file", O_RDWR | O_CREAT | O_EXCL, 0600));
	T(write(fd, "deep", 4));
	T(close(fd));
	T(linkat(dir, "file", dir, "link", 0));
	T(renameat(dir, "file", p->dir, "up"));
	T(unlinkat(dir, "link", 0));
	probe_content(p, "up");
	T(renameat(p->dir, "up", dir, "down"));
	T(fchmodat(dir, "down", 0640, 0));
	T(unlinkat(dir, "down", 0));
	up[0] = 0;
	for (int i = 0; i < 5; i++)
		strcat(up, "../");
	next = F(openat(dir, up, O_RDONLY | O_DIRECTORY));
	T(close(next));
	for (int i = 0; i < LEVELS; i++) {
		next = openat(dir, "..", O_RDONLY | O_DIRECTORY);
		close(dir);
		dir = next;
		if (unlinkat(dir, "a-directory-name", AT_REMOVEDIR) < 0) {
			probe_say(p, "removing level %d: %s", i, strerrorname_np(errno));
			break;
		}
	}
	close(dir);
}

static void moving_trees(struct probe *p)
{
	T(mkdirat(p->dir, "a", 0755));
	T(mkdirat(p->dir, "a/b", 0755));
	T(mkdirat(p->dir, "a/b/c", 0755));
	touch(p, "a/b/c/f", "F");
	int fd = F(openat(p->dir, "a/b/c/f", O_RDWR));
	int dir = F(openat(p->dir, "a/b/c", O_RDONLY | O_DIRECTORY));
	T(renameat(p->dir, "a", p->dir, "z"));
	probe_content(p, "z/b/c/f");
	T(pwrite(fd, "written while moved", 19, 0));
	T(mkdirat(p->dir, "other", 0700));
	T(renameat(p->dir, "z/b", p->dir, "other/b"));
	int fd2 = F(openat(dir, "g", O_RDWR | O_CREAT, 0644));
	T(write(fd2, "G", 1));
	T(close(fd2));
	T(renameat(dir, "..", p->dir, "no"));
	T(renameat(p->dir, "other", dir, "into-itself"));
	T(pwrite(fd, "again", 5, 0));
	T(close(fd));
	T(close(dir));
	probe_content(p, "other/b/c/f");
	probe_stat(p, "z");
	T(unlinkat(p->dir, "z", AT_REMOVEDIR));
}

const struct scenario posix_names[] = {
	{"create", create, AS_BOTH}, {"unlinking", unlinking, AS_BOTH}, {"renaming", renaming, AS_BOTH},
	{"rename_flags", rename_flags, AS_BOTH}, {"links", links, AS_BOTH}, {"special_files", special_files, AS_BOTH},
	{"tmpfile_and_link", tmpfile_and_link, AS_BOTH}, {"any_byte_names", any_byte_names, AS_ROOT}, {"deep_paths", deep_paths, AS_BOTH},
	{"moving_trees", moving_trees, AS_BOTH}, {0}};
