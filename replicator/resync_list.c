/* SPDX-License-Identifier: Apache-2.0 */
/* resync_list.c — directory listings for comparing trees, and their frames. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <xxhash.h>
#include "common/filter.h"
#include "common/io.h"
#include "replicator/content.h"
#include "replicator/publish.h"
#include "replicator/resync.h"

void listing_free(struct listing *l)
{
	free(l->entries);
	bytes_fini(&l->bytes);
	*l = (struct listing){0};
}

static struct entry *listing_add(struct listing *l)
{
	if ((l->count & (l->count - 1)) == 0) {
		l->entries = realloc(l->entries, (l->count ? 2 * l->count : 1) * sizeof *l->entries);
		if (!l->entries)
			abort();
	}
	struct entry *e = &l->entries[l->count++];
	*e = (struct entry){0};
	return e;
}

/* While a listing grows its bytes move: entries hold offsets until this. */
void listing_settle(struct listing *l)
{
	const char *base = (const char *)l->bytes.data;
	for (size_t i = 0; i < l->count; i++) {
		struct entry *e = &l->entries[i];
		e->name = base + (uintptr_t)e->name;
		e->user = base + (uintptr_t)e->user;
		e->owner_group = base + (uintptr_t)e->owner_group;
	}
}

static const char *keep_text(struct listing *l, const char *text, size_t len)
{
	size_t at = l->bytes.len;
	bytes_put(&l->bytes, text, len);
	return (const char *)(uintptr_t)at;
}

static int compare_names(const void *x, const void *y)
{
	const struct entry *a = x, *b = y;
	size_t n = a->name_len < b->name_len ? a->name_len : b->name_len;
	int r = memcmp(a->name, b->name, n);
	return r ? r : a->name_len < b->name_len ? -1 : a->name_len > b->name_len;
}

bool listing_is_gone(int r)
{
	return r == -ENOENT || r == -ENOTDIR || r == -ELOOP;
}

/* Else the object has no such attribute, or cannot have any. */
static bool is_fault(int number)
{
	return number == EIO || number == ENOMEM || number == EINTR;
}

/* Order must not matter: the hashes of all are added up. */
static int hash_xattrs(const char *proc, uint64_t *ret)
{
	char names[8192];
	ssize_t n = listxattr(proc, names, sizeof names);
	*ret = 0;
	if (n < 0 && is_fault(errno))
		return -errno;
	for (char *name = names; n > 0 && name < names + n; name += strlen(name) + 1) {
		char value[CDM_VALUE_MAX];
		if (!content_xattr_replicates(name))
			continue;
		ssize_t len = getxattr(proc, name, value, sizeof value);
		if (len < 0 && is_fault(errno))
			return -errno;
		if (len >= 0)
			*ret += XXH3_64bits_withSeed(value, (size_t)len, XXH3_64bits(name, strlen(name)));
	}
	return 0;
}

static int fill_entry(struct set *s, int dir_fd, const char *name, struct entry *e)
{
	_cleanup_close_ int fd = openat(dir_fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;
	char proc[64], target[4096];
	uint8_t stamp[CDM_XATTR_VERSION_SIZE];
	if (fd < 0)
		return -errno;
	/* First: a stamp is set after the attributes, so what is seen then is never older than it says. */
	snprintf(proc, sizeof proc, "/proc/self/fd/%d", fd);
	ssize_t n = getxattr(proc, CDM_XATTR_VERSION, stamp, sizeof stamp);
	if (n < 0 && is_fault(errno))
		return -errno;
	if (n <= 0 || cdm_stamp_decode(stamp, (size_t)n, &e->stamp) < 0)
		e->stamp = (struct cdm_stamp){0};
	int r = publisher_stat(s->publisher, fd, &st);
	if (r < 0)
		return r;
	e->mode = st.st_mode;
	e->uid = st.st_uid;
	e->gid = st.st_gid;
	e->nlink = (uint32_t)st.st_nlink;
	e->size = S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
	e->rdev = S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode) ? st.st_rdev : 0;
	e->group = st.st_ino;
	e->mtime_ns = st.st_mtim.tv_sec * 1000000000ll + st.st_mtim.tv_nsec;
	if (!S_ISLNK(st.st_mode))
		return hash_xattrs(proc, &e->extra);
	n = readlinkat(dir_fd, name, target, sizeof target);
	if (n < 0)
		return -errno;
	e->extra = XXH3_64bits(target, (size_t)n);
	return 0;
}

int entry_read(struct set *s, const char *path, size_t len, struct entry *ret)
{
	*ret = (struct entry){.name = "", .user = "", .owner_group = ""};
	if (!len)
		return fill_entry(s, s->store_fd, ".", ret);
	const char *name;
	char component[CDM_NAME_LEN_MAX + 1];
	_cleanup_close_ int dir = cdm_open_parent(s->store_fd, path, len, &name);
	size_t n = (size_t)(path + len - name);
	if (dir < 0 || n > CDM_NAME_LEN_MAX)
		return dir < 0 ? dir : -ENAMETOOLONG;
	memcpy(component, name, n);
	component[n] = 0;
	return fill_entry(s, dir, component, ret);
}

static bool belongs(struct set *s, const char *dir, size_t dir_len, const char *name)
{
	_cleanup_free_ char *path = NULL;
	if (!dir_len && strcmp(name, ".cdmfs") == 0)
		return false;
	int n = asprintf(&path, "%.*s%s%s", (int)dir_len, dir, dir_len ? "/" : "", name);
	return n > 0 && !set_leaves_out(s, path, (size_t)n);
}

int listing_read(struct set *s, const char *path, size_t len, struct listing *ret)
{
	*ret = (struct listing){0};
	int fd = len ? cdm_open_beneath(s->store_fd, path, len, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0)
		     : openat(s->store_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (!d) {
		int e = fd < 0 ? -fd : errno;
		if (fd >= 0)
			close(fd);
		return -e;
	}
	int r = 0;
	while (r == 0 && ret->count < LISTING_ENTRIES_MAX) {
		errno = 0;
		const struct dirent *de = readdir(d);
		if (!de) {
			r = -errno;
			break;
		}
		if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0 || !belongs(s, path, len, de->d_name))
			continue;
		struct entry *e = listing_add(ret);
		int seen = fill_entry(s, fd, de->d_name, e);
		if (seen < 0) {
			ret->count--;
			r = listing_is_gone(seen) ? 0 : seen;
			continue;
		}
		e->name_len = strlen(de->d_name);
		e->name = keep_text(ret, de->d_name, e->name_len);
	}
	closedir(d);
	if (r < 0) {
		listing_free(ret);
		return r;
	}
	listing_settle(ret);
	if (ret->count)
		qsort(ret->entries, ret->count, sizeof *ret->entries, compare_names);
	return 0;
}

/* --- frames --- */

void entry_encode(const struct entry *e, struct bytes *out)
{
	const char *user = content_user_name(e->uid), *group = content_group_name(e->gid);
	bytes_put_u16(out, (uint16_t)e->name_len);
	bytes_put(out, e->name, e->name_len);
	bytes_put_u32(out, e->mode);
	bytes_put_u32(out, e->uid);
	bytes_put_u32(out, e->gid);
	bytes_put_u32(out, e->nlink);
	bytes_put_u64(out, e->size);
	bytes_put_u64(out, e->rdev);
	bytes_put_u64(out, e->group);
	bytes_put_u64(out, (uint64_t)e->mtime_ns);
	bytes_put_u64(out, e->extra);
	cdm_stamp_encode(&e->stamp, bytes_add(out, CDM_XATTR_VERSION_SIZE));
	bytes_put_u8(out, (uint8_t)strlen(user));
	bytes_put(out, user, strlen(user));
	bytes_put_u8(out, (uint8_t)strlen(group));
	bytes_put(out, group, strlen(group));
}

static int decode_one(struct reading *r, struct listing *l)
{
	struct entry *e = listing_add(l);
	e->name_len = reading_u16(r);
	const char *name = (const char *)reading_bytes(r, e->name_len);
	if (!name || cdm_path_check(name, e->name_len) < 0 || memchr(name, '/', e->name_len))
		return -EBADMSG;
	e->name = keep_text(l, name, e->name_len);
	e->mode = reading_u32(r);
	e->uid = reading_u32(r);
	e->gid = reading_u32(r);
	e->nlink = reading_u32(r);
	e->size = reading_u64(r);
	e->rdev = reading_u64(r);
	e->group = reading_u64(r);
	e->mtime_ns = (int64_t)reading_u64(r);
	e->extra = reading_u64(r);
	const uint8_t *stamp = reading_bytes(r, CDM_XATTR_VERSION_SIZE);
	if (!stamp || cdm_stamp_decode(stamp, CDM_XATTR_VERSION_SIZE, &e->stamp) < 0)
		return -EBADMSG;
	e->user_len = reading_u8(r);
	const char *user = (const char *)reading_bytes(r, e->user_len);
	e->owner_group_len = reading_u8(r);
	const char *group = (const char *)reading_bytes(r, e->owner_group_len);
	if (r->bad || e->user_len > FRAME_OWNER_MAX || e->owner_group_len > FRAME_OWNER_MAX)
		return -EBADMSG;
	e->user = keep_text(l, user, e->user_len);
	e->owner_group = keep_text(l, group, e->owner_group_len);
	if (l->count < 2)
		return 0;
	struct entry before = l->entries[l->count - 2], now = *e;
	before.name = (const char *)l->bytes.data + (uintptr_t)before.name;
	now.name = (const char *)l->bytes.data + (uintptr_t)now.name;
	return compare_names(&before, &now) < 0 ? 0 : -EBADMSG;
}

int listing_decode(const uint8_t *in, size_t len, struct listing *l)
{
	struct reading r = {in, len, 0, false};
	while (r.at < len) {
		if (l->count >= LISTING_ENTRIES_MAX || decode_one(&r, l) < 0)
			return -EBADMSG;
	}
	return 0;
}

bool set_has_unstamped(struct set *s)
{
	struct listing l;
	bool found = false;
	int r = listing_read(s, "", 0, &l);
	if (r < 0)
		return !listing_is_gone(r); /* trees are compared rather once too often */
	for (size_t i = 0; i < l.count && !found; i++)
		found = cdm_dot_is_none(l.entries[i].stamp.content.dot);
	listing_free(&l);
	return found;
}
