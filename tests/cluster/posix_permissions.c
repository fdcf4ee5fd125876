/* SPDX-License-Identifier: Apache-2.0 */
/* posix_permissions.c — who may do what: set up by root, tried by an ordinary user. */
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "tests/cluster/posix.h"

static void be_user(uid_t uid, gid_t gid, gid_t extra)
{
	if (setgroups(extra ? 1 : 0, &extra) < 0 || setegid(gid) < 0 || seteuid(uid) < 0)
		abort();
}

static void be_root(void)
{
	if (seteuid(0) < 0 || setegid(0) < 0 || setgroups(0, NULL) < 0)
		abort();
}

static void make(struct probe *p, const char *name, mode_t mode, uid_t uid, gid_t gid)
{
	int r = S_ISDIR(mode) ? mkdirat(p->dir, name, 0700) : mknodat(p->dir, name, S_IFREG | 0600, 0);

	if (r < 0 || fchownat(p->dir, name, uid, gid, 0) < 0 || fchmodat(p->dir, name, mode & 07777, 0) < 0)
		probe_say(p, "make %s: %s", name, strerrorname_np(errno));
}

static void denied(struct probe *p)
{
	make(p, "roots", 0600, 0, 0);
	make(p, "groups", 0060, 0, PROBE_GID2);
	make(p, "others", 0006, 0, 0);
	make(p, "mine", 0600, PROBE_UID, PROBE_GID);
	make(p, "closed", S_IFDIR | 0700, 0, 0);
	make(p, "closed/inside", 0666, 0, 0);
	make(p, "list", S_IFDIR | 0744, 0, 0);
	make(p, "list/inside", 0666, 0, 0);
	make(p, "pass", S_IFDIR | 0711, 0, 0);
	make(p, "pass/inside", 0666, 0, 0);
	be_user(PROBE_UID, PROBE_GID, PROBE_GID2);
	static const char *const names[] = {"roots", "groups", "others", "mine", "closed/inside", "list/inside", "pass/inside"};
	for (size_t i = 0; i < 7; i++) {
		probe_say(p, "as user: %s", names[i]);
		F(openat(p->dir, names[i], O_RDONLY));
		F(openat(p->dir, names[i], O_RDWR));
		F(openat(p->dir, names[i], O_WRONLY | O_TRUNC));
		T(faccessat(p->dir, names[i], R_OK | W_OK, AT_EACCESS));
		T(faccessat(p->dir, names[i], X_OK, AT_EACCESS));
		T(fchmodat(p->dir, names[i], 0666, 0));
		T(fchownat(p->dir, names[i], PROBE_UID, -1, 0));
		T(fchownat(p->dir, names[i], -1, PROBE_GID3, 0));
		T(utimensat(p->dir, names[i], NULL, 0));
		struct timespec ts[2] = {{1, 0}, {1, 0}};
		T(utimensat(p->dir, names[i], ts, 0));
	}
	F(openat(p->dir, "closed", O_RDONLY | O_DIRECTORY));
	F(openat(p->dir, "list", O_RDONLY | O_DIRECTORY));
	F(openat(p->dir, "pass", O_RDONLY | O_DIRECTORY));
	F(openat(p->dir, "pass/new", O_RDWR | O_CREAT, 0644));
	T(mkdirat(p->dir, "pass/new", 0755));
	T(unlinkat(p->dir, "pass/inside", 0));
	T(renameat(p->dir, "pass/inside", p->dir, "stolen"));
	T(linkat(p->dir, "pass/inside", p->dir, "link", 0));
	T(linkat(p->dir, "roots", p->dir, "link2", 0));
	T(mknodat(p->dir, "device", S_IFCHR | 0666, 0x103));
	char path[300];
	snprintf(path, sizeof(path), "%s/mine", p->path);
	T(setxattr(path, "trusted.mine", "x", 1, 0));
	T(setxattr(path, "user.mine", "x", 1, 0));
	be_root();
	probe_stat(p, "mine");
}

static void setgid_directory(struct probe *p)
{
	make(p, "shared", S_IFDIR | 02775, 0, PROBE_GID2);
	make(p, "foreign", S_IFDIR | 02777, 0, PROBE_GID3);
	be_user(PROBE_UID, PROBE_GID, PROBE_GID2);
	umask(002);
	int fd = F(openat(p->dir, "shared/file", O_RDWR | O_CREAT, 02775));
	T(close(fd));
	T(mkdirat(p->dir, "shared/sub", 0775));
	T(mkdirat(p->dir, "shared/sub/sub", 0755));
	T(symlinkat("x", p->dir, "shared/link"));
	T(mknodat(p->dir, "shared/fifo", S_IFIFO | 0666, 0));
	fd = F(openat(p->dir, "foreign/file", O_RDWR | O_CREAT, 02775));
	T(close(fd));
	T(mkdirat(p->dir, "foreign/sub", 02775));
	fd = F(openat(p->dir, "foreign", O_TMPFILE | O_RDWR, 02775));
	probe_fstat(p, fd);
	T(close(fd));
	T(fchmodat(p->dir, "foreign/file", 02755, 0));
	probe_stat(p, "foreign/file");
	T(fchmodat(p->dir, "shared/file", 02755, 0));
	probe_stat(p, "shared/file");
	be_root();
	umask(022);
	T(mkdirat(p->dir, "shared/by-root", 0755));
	probe_stat(p, "shared/by-root");
}

static void sticky_directory(struct probe *p)
{
	make(p, "tmp", S_IFDIR | 01777, 0, 0);
	make(p, "tmp/roots", 0666, 0, 0);
	make(p, "tmp/theirs", 0666, 12345, 12345);
	make(p, "tmp/theirs2", 0666, 12345, 12345);
	make(p, "tmp/dir", S_IFDIR | 0777, 12345, 12345);
	be_user(PROBE_UID, PROBE_GID, 0);
	int fd = F(openat(p->dir, "tmp/mine", O_RDWR | O_CREAT, 0644));
	T(close(fd));
	T(unlinkat(p->dir, "tmp/theirs", 0));
	T(unlinkat(p->dir, "tmp/dir", AT_REMOVEDIR));
	T(renameat(p->dir, "tmp/theirs", p->dir, "tmp/x"));
	T(renameat(p->dir, "tmp/mine", p->dir, "tmp/theirs"));
	T(renameat2(p->dir, "tmp/mine", p->dir, "tmp/theirs", RENAME_EXCHANGE));
	T(renameat(p->dir, "tmp/mine", p->dir, "tmp/mine2"));
	be_user(12345, 12345, 0);
	T(renameat(p->dir, "tmp/theirs", p->dir, "tmp/moved"));
	T(unlinkat(p->dir, "tmp/mine2", 0));
	T(unlinkat(p->dir, "tmp/theirs2", 0));
	be_root();
	T(unlinkat(p->dir, "tmp/moved", 0));
}

static void new_files_owner(struct probe *p)
{
	make(p, "d", S_IFDIR | 0777, 0, 0);
	be_user(PROBE_UID, PROBE_GID, PROBE_GID2);
	int fd = F(openat(p->dir, "d/file", O_RDWR | O_CREAT, 0666));
	T(write(fd, "x", 1));
	T(close(fd));
	T(mkdirat(p->dir, "d/dir", 0777));
	T(symlinkat("x", p->dir, "d/link"));
	T(mknodat(p->dir, "d/fifo", S_IFIFO | 0666, 0));
	T(linkat(p->dir, "d/file", p->dir, "d/hard", 0));
	T(fchownat(p->dir, "d/file", PROBE_UID, PROBE_GID2, 0));
	T(fchownat(p->dir, "d/file", PROBE_UID, PROBE_GID3, 0));
	T(fchownat(p->dir, "d/file", 0, -1, 0));
	fd = F(openat(p->dir, "d/unwritable", O_RDWR | O_CREAT, 0444));
	T(write(fd, "created with it open", 20));
	T(close(fd));
	F(openat(p->dir, "d/unwritable", O_RDWR));
	be_user(4000000000u, 4000000001u, 0);
	fd = F(openat(p->dir, "d/high", O_RDWR | O_CREAT, 0600));
	T(close(fd));
	be_root();
	probe_stat(p, "d/file");
	probe_stat(p, "d/high");
}

static void acl_permissions(struct probe *p)
{
	/* user PROBE_UID may read and write, the mask allows it; everybody else nothing */
	static const uint16_t entries[][4] = {{1, 6, 0xffff, 0xffff}, {2, 6, PROBE_UID, 0}, {4, 0, 0xffff, 0xffff}, {16, 6, 0xffff, 0xffff}, {32, 0, 0xffff, 0xffff}};
	static const uint16_t masked[][4] = {{1, 6, 0xffff, 0xffff}, {2, 6, PROBE_UID, 0}, {4, 0, 0xffff, 0xffff}, {16, 4, 0xffff, 0xffff}, {32, 0, 0xffff, 0xffff}};
	struct {
		uint32_t version;
		uint16_t entries[5][4];
	} acl = {2, {{0}}};
	char path[300];

	snprintf(path, sizeof(path), "%s/f", p->path);
	make(p, "f", 0600, 0, 0);
	memcpy(acl.entries, entries, sizeof(entries));
	probe_result(p, "set ACL", setxattr(path, "system.posix_acl_access", &acl, sizeof(acl), 0), errno);
	be_user(PROBE_UID, PROBE_GID, 0);
	F(openat(p->dir, "f", O_RDWR));
	be_user(12345, 12345, 0);
	F(openat(p->dir, "f", O_RDONLY));
	be_root();
	memcpy(acl.entries, masked, sizeof(masked));
	probe_result(p, "set masked ACL", setxattr(path, "system.posix_acl_access", &acl, sizeof(acl), 0), errno);
	be_user(PROBE_UID, PROBE_GID, 0);
	F(openat(p->dir, "f", O_RDWR));
	F(openat(p->dir, "f", O_RDONLY));
	probe_result(p, "user sets ACL", setxattr(path, "system.posix_acl_access", &acl, sizeof(acl), 0), errno);
	be_root();
	T(fchmodat(p->dir, "f", 0660, 0));
	be_user(PROBE_UID, PROBE_GID, 0);
	F(openat(p->dir, "f", O_RDWR));
	be_root();
	probe_stat(p, "f");
}

const struct scenario posix_permissions[] = {
	{"denied", denied, AS_ROOT}, {"setgid_directory", setgid_directory, AS_ROOT}, {"sticky_directory", sticky_directory, AS_ROOT},
	{"new_files_owner", new_files_owner, AS_ROOT}, {"acl_permissions", acl_permissions, AS_ROOT}, {0}};
