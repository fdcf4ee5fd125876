/* SPDX-License-Identifier: Apache-2.0 */
/* holder_check.c — everything that can be known to be wrong before a mount is made, said with what to do about it. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "cdmfs/holder_parts.h"
#include "common/change.h"
#include "common/log.h"
#include "common/vector.h"

/* A store needs file handles (nodes are found by them, not by names) and trusted xattrs (versions lie there). */
static int check_store_kind(int fd, const char *store, struct cdm_error *err)
{
	struct cdm_handle handle;
	struct statfs fs;
	int r, again;

	if (fstatfs(fd, &fs) < 0)
		return cdm_fail(err, errno, "look at store %s", store);
	if (fs.f_type == FUSE_SUPER_MAGIC || fs.f_type == NFS_SUPER_MAGIC) {
		r = cdm_fail_plain(err, EOPNOTSUPP, "store %s lies on a %s filesystem", store,
			fs.f_type == NFS_SUPER_MAGIC ? "network" : "FUSE");
		goto wrong_kind;
	}
	r = cdm_handle_get(fd, "", &handle);
	if (r < 0) {
		r = cdm_fail(err, -r, "store %s: its filesystem gives no file handles", store);
		goto wrong_kind;
	}
	again = cdm_handle_open(fd, &handle, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (again < 0) {
		r = cdm_fail(err, -again, "store %s: opening a file by its handle", store);
		if (again == -EPERM)
			cdm_hint(err, "cdmfs must be started by root (CAP_DAC_READ_SEARCH)");
		return r;
	}
	close(again);
	if (fgetxattr(fd, CDM_XATTR_VERSION, NULL, 0) < 0 && errno != ENODATA) {
		r = cdm_fail(err, errno, "store %s: its filesystem keeps no trusted extended attributes", store);
		goto wrong_kind;
	}
	return 0;
wrong_kind:
	cdm_hint(err, "put the store on a local ext4, xfs or btrfs filesystem");
	return r;
}

int check_store(struct holder *h, struct cdm_error *err)
{
	const char *store = h->set->store;
	_cleanup_close_ int fd = open(store, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r;

	if (fd < 0) {
		r = cdm_fail(err, errno, "open store %s", store);
		if (r == -ENOENT)
			cdm_hint(err, "create it: mkdir -p -m 0700 %s   (or correct \"store\" of [set %s] in %s)", store, h->set->name,
				h->conf->path);
		else if (r == -ENOTCONN)
			cdm_hint(err, "a dead mount lies there: umount -l %s", store);
		return r;
	}
	r = check_store_kind(fd, store, err);
	if (r < 0)
		return r;
	if (faccessat(fd, ".", W_OK | X_OK, AT_EACCESS) < 0) {
		r = cdm_fail(err, errno, "store %s is not writable", store);
		cdm_hint(err, errno == EROFS ? "its filesystem is read-only: mount it read-write, and see dmesg for errors of the disk" :
			"cdmfs must be started by root");
		return r;
	}
	return 0;
}

static int check_not_nested(struct holder *h, struct cdm_error *err)
{
	_cleanup_free_ char *store = realpath(h->set->store, NULL);
	int r;

	if (!store)
		return cdm_fail(err, errno, "open store %s", h->set->store);
	if (path_is_beneath(h->run_dir, h->mountpoint)) {
		r = cdm_fail_plain(err, EINVAL, "mountpoint %s would cover %s, where the mount keeps its state", h->mountpoint, h->run_dir);
		cdm_hint(err, "choose another mountpoint, or another \"run\" in %s", h->conf->path);
		return r;
	}
	if (!path_is_beneath(store, h->mountpoint) && !path_is_beneath(h->mountpoint, store))
		return 0;
	if (strcmp(store, h->mountpoint) == 0)
		r = cdm_fail_plain(err, EINVAL, "store and mountpoint are the same directory %s", store);
	else if (path_is_beneath(store, h->mountpoint))
		r = cdm_fail_plain(err, EINVAL, "store %s lies inside the mountpoint %s", store, h->mountpoint);
	else
		r = cdm_fail_plain(err, EINVAL, "mountpoint %s lies inside the store %s", h->mountpoint, store);
	cdm_hint(err, "keep the store apart on the same disk, for example at %.*s/.cdmfs-store/%s",
		(int)(strrchr(h->mountpoint, '/') - h->mountpoint), h->mountpoint, h->set->name);
	return r;
}

static int check_empty(struct holder *h, struct cdm_error *err)
{
	int fd = open(h->mountpoint, O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	if (!d) {
		r = cdm_fail(err, errno, "open mountpoint %s", h->mountpoint);
		if (fd >= 0)
			close(fd);
		return r;
	}
	while (r == 0 && !h->options.nonempty && (e = readdir(d)))
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) {
			r = cdm_fail_plain(err, ENOTEMPTY, "mountpoint %s is not empty (it holds \"%s\")", h->mountpoint, e->d_name);
			cdm_hint(err, "make its content part of the set: cdmctl set adopt %s; or hide it while mounted: -o nonempty",
				h->set->name);
		}
	closedir(d);
	return r;
}

/* Something is mounted there. A dead FUSE mount of ours goes away quietly; anything else is an error that says what it is. */
static int clear_mounted(struct holder *h, const struct mount_table *t, const struct mount_entry *e, struct cdm_error *err)
{
	struct stat st;
	int r;

	if (strcmp(e->type, "fuse.cdmfs") == 0 && stat(h->mountpoint, &st) < 0 && errno == ENOTCONN) {
		detach_leftovers(h, t, e->dev);
		return 0;
	}
	r = cdm_fail_plain(err, EBUSY, "mountpoint %s is busy: %s%s (%s) is mounted there", h->mountpoint,
		strcmp(e->type, "fuse.cdmfs") == 0 ? "set " : "", e->source, e->type);
	cdm_hint(err, "umount %s   if it is not needed", h->mountpoint);
	return r;
}

static int check_not_mounted(struct holder *h, struct cdm_error *err)
{
	for (int tries = 0;; tries++) {
		struct mount_table t = {0};
		int r = mount_table_read(&t, err);
		if (r < 0)
			return r;
		const struct mount_entry *e = mount_table_at(&t, h->mountpoint);
		bool free_now = !e || strcmp(e->mountpoint, "/") == 0;
		if (!free_now)
			r = tries < 16 ? clear_mounted(h, &t, e, err) :
				cdm_fail_plain(err, EBUSY, "mountpoint %s is busy: dead mounts on it cannot be detached", h->mountpoint);
		mount_table_fini(&t);
		if (free_now || r < 0)
			return r;
	}
}

int check_mountpoint(struct holder *h, struct cdm_error *err)
{
	struct stat st;
	int r = check_not_nested(h, err);

	if (r == 0)
		r = check_not_mounted(h, err);
	if (r < 0)
		return r;
	if (stat(h->mountpoint, &st) < 0) {
		r = cdm_fail(err, errno, "mountpoint %s", h->mountpoint);
		if (r == -ENOENT)
			cdm_hint(err, "create it: mkdir -p %s", h->mountpoint);
		return r;
	}
	if (!S_ISDIR(st.st_mode))
		return cdm_fail(err, ENOTDIR, "mountpoint %s", h->mountpoint);
	return check_empty(h, err);
}

void check_kernel(void)
{
	struct utsname u;
	unsigned int version, patch;

	if (uname(&u) < 0 || sscanf(u.release, "%u.%u", &version, &patch) != 2)
		return;
	if (version < 6 || (version == 6 && patch < 9))
		cdm_log(kernel_old, cdm_str("kernel", u.release),
			cdm_str("msg", "this kernel cannot resend requests (6.9 can): a crash of the server ends the calls in flight with an error"));
}
