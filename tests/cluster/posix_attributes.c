/* SPDX-License-Identifier: Apache-2.0 */
/* posix_attributes.c — modes, owners, times, extended attributes, ACLs, statfs. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "tests/cluster/posix.h"

static const char *at(struct probe *p, const char *name)
{
	static char path[2][600];
	static unsigned turn;
	char *out = path[turn++ % 2];

	snprintf(out, 600, "%s/%s", p->path, name);
	return out;
}

static void touch(struct probe *p, const char *name, mode_t mode)
{
	int fd = openat(p->dir, name, O_WRONLY | O_CREAT, 0644);

	if (fd < 0 || write(fd, "text", 4) != 4 || fchmod(fd, mode) < 0)
		probe_say(p, "touch %s: %s", name, strerrorname_np(errno));
	close(fd);
}

static void modes(struct probe *p)
{
	touch(p, "f", 0644);
	T(mkdirat(p->dir, "d", 0755));
	static const mode_t tried[] = {0, 0777, 04755, 02755, 01644, 07777, 0400};
	for (size_t i = 0; i < sizeof(tried) / sizeof(*tried); i++) {
		T(fchmodat(p->dir, "f", tried[i], 0));
		probe_stat(p, "f");
		T(fchmodat(p->dir, "d", tried[i] | 0700, 0));
		probe_stat(p, "d");
	}
	T(fchmodat(p->dir, "missing", 0644, 0));
	T(fchmodat(p->dir, "f", 0644, 0));
	int fd = F(openat(p->dir, "f", O_RDONLY));
	T(fchmod(fd, 0604));
	probe_fstat(p, fd);
	T(close(fd));
	umask(0);
	T(mkdirat(p->dir, "open", 01777));
	F(openat(p->dir, "f666", O_RDWR | O_CREAT, 0666));
	umask(0777);
	T(mkdirat(p->dir, "closed", 0777));
	F(openat(p->dir, "f000", O_RDWR | O_CREAT, 0666));
	umask(027);
	T(mknodat(p->dir, "fifo", S_IFIFO | 0666, 0));
	probe_stat(p, "open");
	probe_stat(p, "closed");
}

/* Writing and changing owners take set-uid and set-gid away. */
static void privilege_bits(struct probe *p)
{
	touch(p, "a", 06755);
	int fd = F(openat(p->dir, "a", O_WRONLY));
	T(write(fd, "x", 1));
	T(close(fd));
	probe_stat(p, "a");
	touch(p, "b", 06755);
	fd = F(openat(p->dir, "b", O_WRONLY));
	T(ftruncate(fd, 1));
	T(close(fd));
	probe_stat(p, "b");
	touch(p, "c", 06755);
	T(fchownat(p->dir, "c", -1, getuid() ? PROBE_GID2 : PROBE_GID3, 0));
	probe_stat(p, "c");
	touch(p, "d", 02745);
	T(fchownat(p->dir, "d", -1, getuid() ? PROBE_GID2 : PROBE_GID3, 0));
	probe_stat(p, "d");
	T(truncate(at(p, "d"), 0) == 0);
	probe_stat(p, "d");
	touch(p, "e", 06755);
	fd = F(openat(p->dir, "e", O_RDWR | O_TRUNC));
	T(close(fd));
	probe_stat(p, "e");
	touch(p, "f", 06755);
	fd = F(openat(p->dir, "f", O_RDWR));
	T(fallocate(fd, 0, 0, 8192));
	T(close(fd));
	probe_stat(p, "f");
	if (getuid() == 0) {
		static const char capability[20] = {1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
		touch(p, "g", 0755);
		T(setxattr(at(p, "g"), "security.capability", capability, sizeof(capability), 0) == 0);
		probe_xattrs(p, "g");
		fd = F(openat(p->dir, "g", O_WRONLY | O_APPEND));
		T(write(fd, "x", 1));
		T(close(fd));
		probe_xattrs(p, "g");
	}
}

static void owners(struct probe *p)
{
	touch(p, "f", 0644);
	T(mkdirat(p->dir, "d", 0755));
	T(symlinkat("f", p->dir, "s"));
	T(fchownat(p->dir, "f", 12, 34, 0));
	T(fchownat(p->dir, "f", -1, PROBE_GID2, 0));
	T(fchownat(p->dir, "f", -1, PROBE_GID3, 0));
	T(fchownat(p->dir, "f", -1, -1, 0));
	T(fchownat(p->dir, "d", 4294967294u, 4294967294u, 0));
	T(fchownat(p->dir, "s", 77, 88, AT_SYMLINK_NOFOLLOW));
	probe_stat(p, "f");
	probe_stat(p, "d");
	probe_stat(p, "s");
	T(fchownat(p->dir, "s", 99, 99, 0));
	probe_stat(p, "f");
	int fd = F(openat(p->dir, "f", O_RDONLY));
	T(fchown(fd, 0, 0));
	T(close(fd));
}

static void times(struct probe *p)
{
	struct probe_times before;
	struct timespec ts[2] = {{1000000000, 123456789}, {-5, 1}};
	struct stat st;

	touch(p, "f", 0644);
	T(mkdirat(p->dir, "d", 0755));
	T(utimensat(p->dir, "f", ts, 0));
	T(fstatat(p->dir, "f", &st, 0));
	probe_say(p, "set: %ld.%09ld %ld.%09ld", st.st_atim.tv_sec, st.st_atim.tv_nsec, st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
	ts[0].tv_nsec = UTIME_OMIT;
	ts[1] = (struct timespec){4102444800, 999999999};
	T(utimensat(p->dir, "f", ts, 0));
	T(fstatat(p->dir, "f", &st, 0));
	probe_say(p, "omitted: %ld.%09ld %ld.%09ld", st.st_atim.tv_sec, st.st_atim.tv_nsec, st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
	ts[0] = (struct timespec){5, 2000000000};
	T(utimensat(p->dir, "f", ts, 0));
	before = probe_times(p, "f");
	T(utimensat(p->dir, "f", NULL, 0));
	probe_times_changed(p, "touch", "f", before);
	T(symlinkat("f", p->dir, "s"));
	ts[0] = (struct timespec){1, 1}, ts[1] = (struct timespec){2, 2};
	T(utimensat(p->dir, "s", ts, AT_SYMLINK_NOFOLLOW));
	T(fstatat(p->dir, "s", &st, AT_SYMLINK_NOFOLLOW));
	probe_say(p, "symlink: %ld %ld", st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
	int fd = F(openat(p->dir, "f", O_RDONLY));
	T(futimens(fd, ts));
	T(close(fd));
}

/* Which call moves which time. */
static void times_moved(struct probe *p)
{
	struct probe_times f, d;
	int fd;

#define MOVED(what, call) do { f = probe_times(p, "d/f"); d = probe_times(p, "d"); probe_tick(); T(call); \
	probe_times_changed(p, what, "d/f", f); probe_times_changed(p, what, "d", d); } while (0)
	T(mkdirat(p->dir, "d", 0755));
	touch(p, "d/f", 0644);
	fd = F(openat(p->dir, "d/f", O_RDWR));
	MOVED("write", write(fd, "x", 1));
	MOVED("empty write", write(fd, "x", 0));
	MOVED("truncate", ftruncate(fd, 10));
	MOVED("truncate to the same", ftruncate(fd, 10));
	MOVED("chmod", fchmod(fd, 0600));
	MOVED("chmod to the same", fchmod(fd, 0600));
	MOVED("chown to nothing", fchown(fd, -1, -1));
	MOVED("setxattr", fsetxattr(fd, "user.a", "b", 1, 0));
	MOVED("link", linkat(p->dir, "d/f", p->dir, "d/g", 0));
	MOVED("unlink", unlinkat(p->dir, "d/g", 0));
	MOVED("link elsewhere", linkat(p->dir, "d/f", p->dir, "e", 0));
	MOVED("unlink elsewhere", unlinkat(p->dir, "e", 0));
	MOVED("rename", renameat(p->dir, "d/f", p->dir, "d/h"));
	MOVED("rename back", renameat(p->dir, "d/h", p->dir, "d/f"));
	MOVED("mkdir", mkdirat(p->dir, "d/sub", 0755));
	MOVED("rmdir", unlinkat(p->dir, "d/sub", AT_REMOVEDIR));
	MOVED("symlink", symlinkat("x", p->dir, "d/s"));
	MOVED("fallocate", fallocate(fd, 0, 0, 5));
	MOVED("fallocate more", fallocate(fd, 0, 0, 100000));
	MOVED("fsync", fsync(fd));
	MOVED("read", pread(fd, &(char[4]){0}, 4, 0));
#undef MOVED
	T(close(fd));
}

static void xattrs(struct probe *p)
{
	static char value[65537], list[1000];

	touch(p, "f", 0644);
	T(mkdirat(p->dir, "d", 0755));
	T(symlinkat("f", p->dir, "s"));
	int fd = F(openat(p->dir, "f", O_RDWR));
	T(fsetxattr(fd, "user.one", "1", 1, 0));
	T(fsetxattr(fd, "user.one", "11", 2, XATTR_CREATE));
	T(fsetxattr(fd, "user.one", "11", 2, XATTR_REPLACE));
	T(fsetxattr(fd, "user.two", "2", 1, XATTR_REPLACE));
	T(fsetxattr(fd, "user.empty", "", 0, 0));
	T(fsetxattr(fd, "user.bytes", "\0\xff\n", 3, 0));
	T(fgetxattr(fd, "user.one", value, 0));
	T(fgetxattr(fd, "user.one", value, 1));
	T(fgetxattr(fd, "user.one", value, 100));
	T(fgetxattr(fd, "user.missing", value, 100));
	T(fgetxattr(fd, "nonsense", value, 100));
	T(fsetxattr(fd, "nonsense", "x", 1, 0));
	T(fsetxattr(fd, "user.", "x", 1, 0));
	T(fsetxattr(fd, "other.thing", "x", 1, 0));
	T(flistxattr(fd, list, 3));
	T(fremovexattr(fd, "user.one"));
	T(fremovexattr(fd, "user.one"));
	memset(value, 'v', sizeof(value));
	T(fsetxattr(fd, "user.large", value, 3000, 0));
	T(fsetxattr(fd, "user.too-large", value, 65537, 0));
	T(fsetxattr(fd, "user.more-than-a-block", value, 60000, 0));
	char name[300] = "user.";
	memset(name + 5, 'n', 260);
	name[255] = 0;
	T(fsetxattr(fd, name, "longest", 7, 0));
	name[255] = 'n';
	T(fsetxattr(fd, name, "too long", 8, 0));
	T(close(fd));
	probe_xattrs(p, "f");
	T(setxattr(at(p, "d"), "user.dir", "d", 1, 0) == 0);
	T(lsetxattr(at(p, "s"), "user.link", "s", 1, 0) == 0);
	T(lsetxattr(at(p, "s"), "trusted.link", "s", 1, 0) == 0);
	T(setxattr(at(p, "f"), "trusted.site", "t", 1, 0) == 0);
	T(setxattr(at(p, "f"), "security.site", "s", 1, 0) == 0);
	T(getxattr(at(p, "f"), "trusted.site", value, 10));
	T(mknodat(p->dir, "fifo", S_IFIFO | 0644, 0));
	T(lsetxattr(at(p, "fifo"), "user.fifo", "s", 1, 0) == 0);
	T(fchmodat(p->dir, "f", 0444, 0));
	T(setxattr(at(p, "f"), "user.read-only", "s", 1, 0) == 0);
	T(fchmodat(p->dir, "f", 0000, 0));
	T(getxattr(at(p, "f"), "user.large", value, 4000));
	T(fchmodat(p->dir, "f", 0644, 0));
	probe_xattrs(p, "f");
	probe_xattrs(p, "d");
	probe_xattrs(p, "s");
}

/* version 2, entries (tag, permissions, id) */
static size_t make_acl(char *out, const unsigned (*entries)[3], size_t count)
{
	uint32_t version = 2;

	memcpy(out, &version, 4);
	for (size_t i = 0; i < count; i++) {
		uint16_t tag = (uint16_t)entries[i][0], perm = (uint16_t)entries[i][1];
		uint32_t id = entries[i][2];
		memcpy(out + 4 + i * 8, &tag, 2);
		memcpy(out + 6 + i * 8, &perm, 2);
		memcpy(out + 8 + i * 8, &id, 4);
	}
	return 4 + count * 8;
}

static void acls(struct probe *p)
{
	static const unsigned access_acl[][3] = {{1, 6, ~0u}, {2, 7, 777}, {4, 4, ~0u}, {8, 1, 888}, {16, 7, ~0u}, {32, 0, ~0u}};
	static const unsigned minimal[][3] = {{1, 6, ~0u}, {4, 4, ~0u}, {32, 4, ~0u}};
	static const unsigned broken[][3] = {{1, 6, ~0u}, {32, 4, ~0u}, {4, 4, ~0u}};
	char acl[200], got[200];
	size_t len = make_acl(acl, access_acl, 6);

	touch(p, "f", 0644);
	T(mkdirat(p->dir, "d", 0755));
	T(setxattr(at(p, "f"), "system.posix_acl_access", acl, len, 0) == 0);
	probe_stat(p, "f");
	ssize_t n = getxattr(at(p, "f"), "system.posix_acl_access", got, sizeof(got));
	probe_bytes(p, "access ACL", got, n);
	T(fchmodat(p->dir, "f", 0604, 0));
	n = getxattr(at(p, "f"), "system.posix_acl_access", got, sizeof(got));
	probe_bytes(p, "after chmod", got, n);
	probe_stat(p, "f");
	T(setxattr(at(p, "d"), "system.posix_acl_default", acl, len, 0) == 0);
	T(setxattr(at(p, "f"), "system.posix_acl_default", acl, len, 0) == 0);
	umask(077);
	touch(p, "d/inherits", 0600);
	int fd = F(openat(p->dir, "d/inherits2", O_RDWR | O_CREAT, 0666));
	T(close(fd));
	T(mkdirat(p->dir, "d/sub", 0777));
	T(mkdirat(p->dir, "d/sub/sub", 0700));
	T(mknodat(p->dir, "d/fifo", S_IFIFO | 0666, 0));
	T(symlinkat("x", p->dir, "d/link"));
	fd = F(openat(p->dir, "d", O_TMPFILE | O_RDWR, 0666));
	probe_fstat(p, fd);
	T(close(fd));
	umask(022);
	static const char *const names[] = {"d/inherits", "d/inherits2", "d/sub", "d/sub/sub", "d/fifo"};
	for (size_t i = 0; i < 5; i++) {
		probe_stat(p, names[i]);
		probe_xattrs(p, names[i]);
	}
	T(linkat(p->dir, "d/inherits", p->dir, "plain", 0));
	T(renameat(p->dir, "plain", p->dir, "d/renamed"));
	probe_xattrs(p, "d/renamed");
	len = make_acl(acl, minimal, 3);
	T(setxattr(at(p, "f"), "system.posix_acl_access", acl, len, 0) == 0);
	probe_stat(p, "f");
	probe_xattrs(p, "f");
	len = make_acl(acl, broken, 3);
	T(setxattr(at(p, "f"), "system.posix_acl_access", acl, len, 0) == 0);
	T(setxattr(at(p, "f"), "system.posix_acl_access", "x", 1, 0) == 0);
	T(removexattr(at(p, "d"), "system.posix_acl_default"));
	T(removexattr(at(p, "d"), "system.posix_acl_default"));
	touch(p, "d/without", 0644);
	probe_xattrs(p, "d/without");
	T(setxattr(at(p, "d"), "system.posix_acl_access", acl, make_acl(acl, access_acl, 6), 0) == 0);
	probe_stat(p, "d");
}

static void statfs_numbers(struct probe *p)
{
	struct statvfs v;
	int fd = F(openat(p->dir, "f", O_RDWR | O_CREAT, 0644));

	T(fstatvfs(fd, &v));
	probe_say(p, "block %lu fragment %lu blocks %lu files %lu name %lu", v.f_bsize, v.f_frsize, (unsigned long)v.f_blocks,
		(unsigned long)v.f_files, v.f_namemax);
	probe_say(p, "free is less: %d %d", v.f_bfree < v.f_blocks, v.f_bavail <= v.f_bfree);
	T(fstatvfs(p->dir, &v));
	T(fpathconf(p->dir, _PC_NAME_MAX));
	T(close(fd));
}

static void blocks(struct probe *p)
{
	static char data[200000];
	struct stat st;
	int fd = F(openat(p->dir, "f", O_RDWR | O_CREAT, 0644));

	memset(data, 'b', sizeof(data));
	T(write(fd, data, sizeof(data)));
	T(fsync(fd));
	T(fstat(fd, &st));
	probe_say(p, "blocks %ld of %ld", (long)st.st_blocks, (long)st.st_blksize);
	T(ftruncate(fd, 0));
	T(fsync(fd));
	T(fstat(fd, &st));
	probe_say(p, "blocks %ld", (long)st.st_blocks);
	T(close(fd));
}

const struct scenario posix_attributes[] = {
	{"modes", modes, AS_BOTH}, {"privilege_bits", privilege_bits, AS_BOTH}, {"owners", owners, AS_BOTH}, {"times", times, AS_BOTH},
	{"times_moved", times_moved, AS_BOTH}, {"xattrs", xattrs, AS_BOTH}, {"acls", acls, AS_BOTH}, {"statfs_numbers", statfs_numbers, AS_BOTH},
	{"blocks", blocks, AS_ROOT}, {0}};
