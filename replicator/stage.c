/* SPDX-License-Identifier: Apache-2.0 */
/* stage.c — build a received object in the store's staging area, complete with owner, mode, xattrs, stamp and mtime, so that
 * one rename makes all of it visible. Straight in the store, never through the mount: nobody can look there. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "common/faultpoint.h"
#include "common/io.h"
#include "replicator/content.h"
#include "replicator/publish.h"

/* --- owners: by name where the name exists here, else by number; asked once per minute --- */

#define OWNERS 32
struct known_owner {
	char name[FRAME_OWNER_MAX + 1];
	int64_t until_ms;
	uint32_t id;
	bool found;
};

static bool find_user(const char *name, uint32_t *ret)
{
	struct passwd pw, *found = NULL;
	char buf[4096];
	if (getpwnam_r(name, &pw, buf, sizeof buf, &found) != 0 || !found)
		return false;
	*ret = pw.pw_uid;
	return true;
}

static bool find_group(const char *name, uint32_t *ret)
{
	struct group gr, *found = NULL;
	char buf[16384];
	if (getgrnam_r(name, &gr, buf, sizeof buf, &found) != 0 || !found)
		return false;
	*ret = gr.gr_gid;
	return true;
}

static uint32_t owner_id(struct known_owner *cache, size_t *next, bool (*find)(const char *, uint32_t *), const char *name, size_t len,
	uint32_t number)
{
	if (!len)
		return number;
	int64_t now = cdm_now_ms();
	for (size_t i = 0; i < OWNERS; i++)
		if (strlen(cache[i].name) == len && memcmp(cache[i].name, name, len) == 0 && cache[i].until_ms > now)
			return cache[i].found ? cache[i].id : number;
	struct known_owner *o = &cache[(*next)++ % OWNERS];
	memcpy(o->name, name, len);
	o->name[len] = 0;
	o->until_ms = now + 60000;
	o->found = find(o->name, &o->id);
	return o->found ? o->id : number;
}

uint32_t stage_uid(const struct incoming *in, uint32_t uid)
{
	static _Thread_local struct known_owner cache[OWNERS];
	static _Thread_local size_t next;
	return owner_id(cache, &next, find_user, in->carried.user, in->carried.user_len, uid);
}

uint32_t stage_gid(const struct incoming *in, uint32_t gid)
{
	static _Thread_local struct known_owner cache[OWNERS];
	static _Thread_local size_t next;
	return owner_id(cache, &next, find_group, in->carried.group, in->carried.group_len, gid);
}

/* --- content --- */

/* One of the ranges of a CONTENT_RANGES, as far as it lies within the file. */
static struct cdm_range range_of(const struct incoming *in, size_t index)
{
	struct cdm_range r = in->carried.change.ranges[index];
	uint64_t size = in->carried.size;
	if (r.offset > size)
		r.offset = size;
	if (r.length > size - r.offset)
		r.length = size - r.offset;
	return r;
}

int stage_each_range(const struct incoming *in, int spool, stage_range_fn *fn, void *arg)
{
	_cleanup_free_ uint8_t *buf = malloc(FRAME_PIECE_MAX);
	int r = buf ? 0 : -ENOMEM;
	for (size_t i = 0; r == 0 && i < in->carried.change.range_count; i++) {
		struct cdm_range range = range_of(in, i);
		for (uint64_t done = 0; r == 0 && done < range.length;) {
			uint64_t at = range.offset + done, left = range.length - done;
			ssize_t n = pread(spool, buf, left < FRAME_PIECE_MAX ? (size_t)left : FRAME_PIECE_MAX, (off_t)at);
			if (n <= 0)
				return n < 0 ? -errno : -EIO;
			r = fn(arg, buf, (size_t)n, at);
			done += (uint64_t)n;
		}
	}
	return r;
}

static int copy_range(void *arg, const uint8_t *data, size_t len, uint64_t at)
{
	return cdm_pwrite_all(*(int *)arg, data, len, (off_t)at);
}

int stage_write_pieces(struct incoming *in, int store_staging_fd, int fd)
{
	struct carried *k = &in->carried;
	struct piece piece;
	size_t at = 0;
	int r = 0;
	if (k->flags & CARRIED_INLINE) {
		while (r == 0 && piece_next(k->pieces, k->pieces_len, &at, &piece) > 0)
			r = cdm_pwrite_all(fd, piece.data, piece.len, (off_t)piece.offset);
		return r;
	}
	_cleanup_close_ int spool = openat(store_staging_fd, in->staging, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (spool < 0)
		return -errno;
	return k->kind == CONTENT_RANGES ? stage_each_range(in, spool, copy_range, &fd) : cdm_copy_file(spool, fd, k->size);
}

static int set_mtime(int dir_fd, const char *name, int fd, int64_t mtime_ns)
{
	struct timespec times[2] = {cdm_time_of(mtime_ns), cdm_time_of(mtime_ns)};
	return (fd >= 0 ? futimens(fd, times) : utimensat(dir_fd, name, times, AT_SYMLINK_NOFOLLOW)) < 0 ? -errno : 0;
}

static int set_xattrs(const struct incoming *in, int fd)
{
	for (size_t i = 0; i < in->carried.xattr_count; i++) {
		const struct carried_xattr *x = &in->carried.xattrs[i];
		if (!content_xattr_replicates(x->name))
			continue;
		if (fsetxattr(fd, x->name, x->value, x->value_len, 0) < 0 && errno != ENOTSUP)
			return -errno;
	}
	return 0;
}

/* Owner, xattrs, mode, stamp, mtime of an open file or directory that is like `st` now. */
static int finish_open(struct incoming *in, int fd, const struct stat *st)
{
	const struct carried *k = &in->carried;
	uid_t uid = stage_uid(in, k->uid);
	gid_t gid = stage_gid(in, k->gid);
	bool owned = st->st_uid == uid && st->st_gid == gid;
	if (!owned && fchown(fd, uid, gid) < 0)
		return -errno;
	int r = set_xattrs(in, fd);
	if (r < 0)
		return r;
	if ((!owned || k->xattr_count || (st->st_mode ^ k->mode) & 07777) && fchmod(fd, k->mode & 07777) < 0)
		return -errno;
	r = cdm_dot_is_none(k->stamp.content.dot) ? 0 : cdm_stamp_set(fd, &k->stamp);
	return r < 0 ? r : set_mtime(-1, "", fd, k->mtime_ns);
}

static int make_file(struct publisher *pub, struct incoming *in, int dir_fd, const char *name)
{
	bool spooled = in->staging[0] && dir_fd == pub->set->staging_fd;
	if (in->lost)
		return -ECANCELED;
	_cleanup_close_ int fd = openat(dir_fd, spooled ? in->staging : name, O_RDWR | O_NOFOLLOW | O_CLOEXEC | (spooled ? 0 : O_CREAT | O_EXCL), in->carried.mode & 0777);
	if (fd < 0)
		return -errno;
	int r = spooled ? 0 : stage_write_pieces(in, pub->set->staging_fd, fd);
	struct stat st;
	if (r == 0 && fstat(fd, &st) < 0)
		r = -errno;
	if (r == 0 && (uint64_t)st.st_size != in->carried.size && ftruncate(fd, (off_t)in->carried.size) < 0)
		r = -errno;
	return r < 0 ? r : finish_open(in, fd, &st);
}

static int make_directory(struct incoming *in, int dir_fd, const char *name)
{
	if (mkdirat(dir_fd, name, 0700) < 0)
		return -errno;
	_cleanup_close_ int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;
	return fd < 0 || fstat(fd, &st) < 0 ? -errno : finish_open(in, fd, &st);
}

static int stamp_path(int dir_fd, const char *name, const struct cdm_stamp *stamp)
{
	char path[64 + CDM_NAME_LEN_MAX];
	uint8_t bytes[CDM_XATTR_VERSION_SIZE];
	cdm_stamp_encode(stamp, bytes);
	snprintf(path, sizeof path, "/proc/self/fd/%d/%s", dir_fd, name);
	return lsetxattr(path, CDM_XATTR_VERSION, bytes, sizeof bytes, 0) < 0 && errno != ENOTSUP && errno != EPERM ? -errno : 0;
}

static int make_special(struct incoming *in, int dir_fd, const char *name)
{
	const struct cdm_change *c = &in->carried.change;
	int r;
	if (c->op == CDM_OP_SYMLINK) {
		char target[CDM_VALUE_MAX + 1];
		memcpy(target, c->value, c->value_len);
		target[c->value_len] = 0;
		r = symlinkat(target, dir_fd, name);
	} else {
		uint32_t type = c->attr.mode & S_IFMT;
		if (type != S_IFIFO && type != S_IFSOCK && type != S_IFCHR && type != S_IFBLK)
			return -EINVAL;
		r = mknodat(dir_fd, name, type | 0600, (dev_t)c->attr.rdev);
	}
	if (r < 0)
		return -errno;
	if (fchownat(dir_fd, name, stage_uid(in, c->attr.uid), stage_gid(in, c->attr.gid), AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (c->op == CDM_OP_MKNOD && fchmodat(dir_fd, name, c->attr.mode & 07777, 0) < 0)
		return -errno;
	struct cdm_stamp stamp = {.content = change_version(c)};
	r = stamp_path(dir_fd, name, &stamp);
	if (r == 0 && c->attr.mask & CDM_ATTR_MTIME)
		r = set_mtime(dir_fd, name, -1, c->attr.mtime_ns);
	return r;
}

/* A directory that came without its object part: the journal's attributes must do. */
static void attributes_from_change(struct incoming *in)
{
	struct carried *k = &in->carried;
	const struct cdm_change *c = &k->change;
	if (k->kind != CONTENT_NONE)
		return;
	k->kind = CONTENT_ATTRS;
	k->mode = c->attr.mask & CDM_ATTR_MODE ? c->attr.mode : S_IFDIR | 0755;
	k->uid = c->attr.uid;
	k->gid = c->attr.gid;
	k->mtime_ns = c->attr.mask & CDM_ATTR_MTIME ? c->attr.mtime_ns : cdm_clock_to_ns(c->clock);
	k->stamp = (struct cdm_stamp){.content = change_version(c)};
}

int stage_object(struct publisher *pub, struct incoming *in, int dir_fd, const char *name, struct cdm_handle *handle, struct cdm_error *err)
{
	const struct cdm_change *c = &in->carried.change;
	const char *made = in->staging[0] && dir_fd == pub->set->staging_fd ? in->staging : name;
	int r;
	if (c->op == CDM_OP_SAVE) {
		r = make_file(pub, in, dir_fd, name);
	} else if (c->op == CDM_OP_MKDIR) {
		attributes_from_change(in);
		if (cdm_dot_is_none(in->carried.stamp.content.dot))
			in->carried.stamp.content = change_version(c);
		r = make_directory(in, dir_fd, name);
	} else {
		r = make_special(in, dir_fd, name);
	}
	cdm_faultpoint("stage.made_not_published");
	if (r == 0)
		r = cdm_handle_get(dir_fd, made, handle);
	if (r == 0)
		return 0;
	if (made == name && r != -EEXIST) /* what is there already was made before */
		unlinkat(dir_fd, name, c->op == CDM_OP_MKDIR ? AT_REMOVEDIR : 0);
	return cdm_fail(err, -r, "stage %s of %.*s", cdm_op_name(c->op), (int)(c->path_len < 200 ? c->path_len : 200), c->path);
}

int stage_copy_with_ranges(struct publisher *pub, struct incoming *in, int base_fd, const char *name, struct cdm_handle *handle,
	struct cdm_error *err)
{
	int dir_fd = pub->set->staging_fd;
	struct stat st;
	_cleanup_close_ int fd = openat(dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	int r = fd < 0 || fstat(base_fd, &st) < 0 ? -errno : 0;
	if (r == 0)
		r = cdm_copy_file(base_fd, fd, (uint64_t)st.st_size);
	if (r == 0)
		r = stage_write_pieces(in, dir_fd, fd);
	if (r == 0 && ftruncate(fd, (off_t)in->carried.size) < 0)
		r = -errno;
	if (r == 0 && fstat(fd, &st) < 0)
		r = -errno;
	if (r == 0)
		r = finish_open(in, fd, &st);
	if (r == 0)
		r = cdm_handle_get(dir_fd, name, handle);
	if (r == 0)
		return 0;
	unlinkat(dir_fd, name, 0);
	return cdm_fail(err, -r, "stage a changed copy of %.*s", (int)(in->carried.change.path_len < 200 ? in->carried.change.path_len : 200),
		in->carried.change.path);
}

static bool begins_with(const char *name, const char *prefix)
{
	return strncmp(name, prefix, strlen(prefix)) == 0;
}

static void sweep(int dir_fd, const char *name, bool all)
{
	int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (!d) {
		if (fd >= 0)
			close(fd);
		return;
	}
	for (struct dirent *e; (e = readdir(d));) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		if (!all && (begins_with(e->d_name, STAGING_FETCH) || begins_with(e->d_name, STAGING_SEVERAL)))
			continue; /* fetch_start's; several_tidy's */
		if (unlinkat(fd, e->d_name, 0) < 0 && errno == EISDIR) {
			sweep(fd, e->d_name, true);
			unlinkat(fd, e->d_name, AT_REMOVEDIR);
		}
	}
	closedir(d);
}

void stage_remove_tree(int staging_fd, const char *name)
{
	sweep(staging_fd, name, true);
	unlinkat(staging_fd, name, AT_REMOVEDIR);
}

void stage_sweep(int staging_fd)
{
	sweep(staging_fd, ".", false);
}
