/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/content.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "common/io.h"
#include "common/journal.h"
#include "common/loop.h"

#define EXTENTS_MAX 65536   /* a file cut into more is sent with its smaller holes */
#define NAME_CACHE 64
#define NAME_CACHE_MS 60000
#define PENDING_TRIES 8
#define READ_TRIES 4

bool content_xattr_replicates(const char *name)
{
	return strncmp(name, "trusted.cdmfs.", 14) != 0 && strcmp(name, "security.selinux") != 0;
}

struct cached_name {
	int64_t until_ms;
	uint32_t id;
	char name[FRAME_OWNER_MAX + 1];
};

static struct cached_name *name_slot(struct cached_name *cache, uint32_t id, bool *ret_fresh)
{
	struct cached_name *slot = &cache[id % NAME_CACHE];
	*ret_fresh = slot->id == id && slot->until_ms > cdm_now_ms();
	slot->id = id;
	if (!*ret_fresh) {
		slot->until_ms = cdm_now_ms() + NAME_CACHE_MS;
		slot->name[0] = 0;
	}
	return slot;
}

static void name_take(struct cached_name *slot, const char *name)
{
	if (strlen(name) <= FRAME_OWNER_MAX)
		strcpy(slot->name, name);
}

const char *content_user_name(uint32_t uid)
{
	static _Thread_local struct cached_name cache[NAME_CACHE];
	bool fresh;
	struct cached_name *slot = name_slot(cache, uid, &fresh);
	struct passwd pw, *found = NULL;
	char buf[4096];
	if (!fresh && getpwuid_r(uid, &pw, buf, sizeof buf, &found) == 0 && found)
		name_take(slot, pw.pw_name);
	return slot->name;
}

const char *content_group_name(uint32_t gid)
{
	static _Thread_local struct cached_name cache[NAME_CACHE];
	bool fresh;
	struct cached_name *slot = name_slot(cache, gid, &fresh);
	struct group gr, *found = NULL;
	char buf[16384];
	if (!fresh && getgrgid_r(gid, &gr, buf, sizeof buf, &found) == 0 && found)
		name_take(slot, gr.gr_name);
	return slot->name;
}

void content_hash_piece(XXH3_state_t *hash, uint64_t offset, const void *data, uint32_t len)
{
	uint64_t le = htole64(offset);
	XXH3_128bits_update(hash, &le, sizeof le);
	XXH3_128bits_update(hash, data, len);
}

/* --- attributes --- */

/* Else there is no such attribute (any more; or it was set anew meanwhile, which its own change tells), or not one that anybody can read. */
static bool is_unread(int number)
{
	return number != ENODATA && number != ERANGE && number != E2BIG && number != ENOTSUP && number != EPERM && number != EACCES;
}

static int read_xattrs(struct content *c)
{
	char names[8192];
	ssize_t n = flistxattr(c->fd, names, sizeof names);
	if (n <= 0)
		return n < 0 && errno != ENOTSUP ? -errno : 0;
	struct bytes *b = &c->xattr_bytes;
	size_t count = 0, total = 0;
	struct {
		size_t name, value;
		uint32_t len;
	} at[FRAME_XATTRS_MAX];
	for (char *name = names; name < names + n && count < FRAME_XATTRS_MAX; name += strlen(name) + 1) {
		if (!content_xattr_replicates(name))
			continue;
		ssize_t len = fgetxattr(c->fd, name, NULL, 0);
		if (len < 0 && is_unread(errno))
			return -errno;
		if (len < 0 || (total += (size_t)len) > FRAME_PIECE_MAX / 2)
			continue; /* gone meanwhile, or more than one frame can carry */
		at[count].name = b->len;
		bytes_put(b, name, strlen(name) + 1);
		at[count].value = b->len;
		uint8_t *room = bytes_add(b, (size_t)len + 1);
		ssize_t got = fgetxattr(c->fd, name, room, (size_t)len);
		if (got < 0 && is_unread(errno))
			return -errno;
		if (got < 0)
			continue;
		at[count++].len = (uint32_t)got;
	}
	if (!count)
		return 0;
	c->carried.xattrs = calloc(count, sizeof *c->carried.xattrs);
	if (!c->carried.xattrs)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++)
		c->carried.xattrs[i] = (struct carried_xattr){(const char *)b->data + at[i].name, b->data + at[i].value, at[i].len};
	c->carried.xattr_count = count;
	return 0;
}

static size_t copy_name(char to[FRAME_OWNER_MAX + 1], const char *name)
{
	size_t len = strnlen(name, FRAME_OWNER_MAX);
	memcpy(to, name, len);
	to[len] = 0;
	return len;
}

static void fill_object(struct content *c, const struct stat *st)
{
	struct carried *k = &c->carried;
	k->mode = st->st_mode;
	k->uid = st->st_uid;
	k->gid = st->st_gid;
	k->size = S_ISREG(st->st_mode) ? (uint64_t)st->st_size : 0;
	k->rdev = st->st_rdev;
	k->mtime_ns = st->st_mtim.tv_sec * 1000000000ll + st->st_mtim.tv_nsec;
	k->user = c->user;
	k->group = c->group;
	k->user_len = copy_name(c->user, content_user_name(k->uid));
	k->group_len = copy_name(c->group, content_group_name(k->gid));
}

bool content_again(int result, uint32_t wanted, unsigned *tries)
{
	bool is_short = result >= 0 && (uint32_t)result < wanted;
	bool may_pass = is_short || result == -EINTR || result == -EIO || result == -ENOMEM || result == -EMFILE || result == -ENFILE;
	return may_pass && ++*tries < READ_TRIES;
}

/* --- what is to be sent --- */

static void add_extent(struct content *c, uint64_t offset, uint64_t length)
{
	if (!length)
		return;
	if (c->extent_count && (c->extent_count & (c->extent_count - 1)) == 0)
		c->extents = realloc(c->extents, 2 * c->extent_count * sizeof *c->extents);
	else if (!c->extent_count)
		c->extents = malloc(sizeof *c->extents);
	if (!c->extents)
		abort();
	c->extents[c->extent_count++] = (struct cdm_range){offset, length};
	c->carried.content_bytes += length;
}

static void find_data(struct content *c, const struct stat *st)
{
	uint64_t size = (uint64_t)st->st_size;
	if ((uint64_t)st->st_blocks * 512 >= size) {
		add_extent(c, 0, size);
		return;
	}
	for (uint64_t at = 0; at < size;) {
		off_t data = lseek(c->fd, (off_t)at, SEEK_DATA);
		if (data < 0)
			return; /* ENXIO: only a hole is left */
		off_t hole = c->extent_count < EXTENTS_MAX ? lseek(c->fd, data, SEEK_HOLE) : (off_t)size;
		uint64_t end = hole < 0 || (uint64_t)hole > size ? size : (uint64_t)hole;
		add_extent(c, (uint64_t)data, end - (uint64_t)data);
		at = end;
	}
}

static void take_ranges(struct content *c, const struct cdm_change *change)
{
	for (size_t i = 0; i < change->range_count; i++) {
		const struct cdm_range *r = &change->ranges[i];
		if (r->offset >= c->carried.size)
			break;
		uint64_t room = c->carried.size - r->offset;
		add_extent(c, r->offset, r->length < room ? r->length : room);
	}
}

/* The same version in another file: it was fetched again under its name (unsure.h, resync.h). */
static int open_by_name(int store_fd, const struct cdm_change *c)
{
	struct cdm_stamp stamp;
	_cleanup_close_ int fd = c->path_len ? cdm_open_beneath(store_fd, c->path, c->path_len, O_RDONLY | O_NONBLOCK | O_NOFOLLOW, 0) : -1;
	if (fd < 0 || cdm_stamp_get(fd, &stamp) < 0 || !cdm_dot_equal(stamp.content.dot, c->version.dot))
		return -ESTALE;
	return cdm_take_fd(&fd);
}

int content_open(int store_fd, const struct item *item, struct content **ret, struct cdm_error *err)
{
	const struct cdm_change *change = &item->change;
	bool save = change->op == CDM_OP_SAVE;
	struct content *c = calloc(1, sizeof *c);
	if (!c)
		return cdm_fail(err, ENOMEM, "read content");
	c->references = 1;
	c->fd = cdm_handle_open(store_fd, &change->handle, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
	if (save && (c->fd == -ESTALE || c->fd == -ENOENT) && !cdm_dot_is_none(change->version.dot))
		c->fd = open_by_name(store_fd, change);
	if (c->fd < 0) {
		int r = c->fd;
		free(c);
		return r == -ENOENT ? -ESTALE : r == -ESTALE ? r : cdm_fail(err, -r, "open content of %.*s", (int)change->path_len, change->path);
	}
	struct stat st;
	int r = cdm_stamp_get(c->fd, &c->carried.stamp); /* before the attributes: never a stamp that is newer than they are, with which their change would count as known */
	if (fstat(c->fd, &st) < 0)
		r = -errno;
	else if (save && !S_ISREG(st.st_mode))
		r = -ESTALE;
	if (r == -ENODATA && !save)
		r = 0;
	if (r == 0 && save && !cdm_dot_equal(c->carried.stamp.content.dot, change->version.dot))
		r = -EAGAIN;
	if (r == 0)
		r = read_xattrs(c);
	if (r < 0) {
		if (r != -ESTALE && r != -EAGAIN)
			cdm_fail(err, -r, "look at %.*s", (int)change->path_len, change->path);
		content_close(&c);
		return r;
	}
	fill_object(c, &st);
	if (change->op == CDM_OP_MKDIR && change->dot.origin != ANSWER_ORIGIN) {
		/* A directory's times do not travel with it: a SETATTR that is in the stamp already must still count as new there. */
		c->carried.stamp.attr_clock = change->clock;
		c->carried.stamp.attr_origin = change->dot.origin;
	}
	c->carried.kind = !save ? CONTENT_ATTRS : item_is_whole_save(item) ? CONTENT_WHOLE : CONTENT_RANGES;
	if (c->carried.kind == CONTENT_WHOLE)
		find_data(c, &st);
	else if (c->carried.kind == CONTENT_RANGES)
		take_ranges(c, change);
	c->hash = XXH3_createState();
	if (!c->hash)
		abort();
	XXH3_128bits_reset(c->hash);
	*ret = c;
	return 0;
}

void content_leave_out(struct content *c, const struct delta_copies *copies)
{
	struct cdm_range *whole = c->extents;
	size_t count = c->extent_count, k = 0;
	c->extents = NULL;
	c->extent_count = 0;
	c->carried.content_bytes = 0;
	for (size_t i = 0; i < count; i++) {
		uint64_t at = whole[i].offset, end = at + whole[i].length;
		for (; k < copies->count && copies->list[k].at < end; k++) {
			uint64_t from = copies->list[k].at, to = from + copies->list[k].length;
			if (from > at)
				add_extent(c, at, from - at);
			at = to > at ? to : at;
			if (to > end)
				break; /* reaches into the next one */
		}
		if (at < end)
			add_extent(c, at, end - at);
	}
	free(whole);
}

void content_close(struct content **content)
{
	struct content *c = *content;
	if (!c)
		return;
	*content = NULL;
	if (--c->references)
		return;
	if (c->fd >= 0)
		close(c->fd);
	bytes_fini(&c->pieces);
	free(c->carried.xattrs);
	bytes_fini(&c->xattr_bytes);
	free(c->extents);
	if (c->hash)
		XXH3_freeState(c->hash);
	free(c);
}

struct content *content_share(struct content *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	c->references++;
	return c;
}

int content_next(struct content *c, uint64_t *ret_offset, uint32_t *ret_len)
{
	if (c->extent_at == c->extent_count)
		return 0;
	const struct cdm_range *e = &c->extents[c->extent_at];
	uint64_t left = e->length - c->extent_done;
	*ret_offset = e->offset + c->extent_done;
	*ret_len = left < FRAME_PIECE_MAX ? (uint32_t)left : FRAME_PIECE_MAX;
	c->extent_done += *ret_len;
	if (c->extent_done == e->length) {
		c->extent_at++;
		c->extent_done = 0;
	}
	return 1;
}

void content_hashed(struct content *c, uint64_t offset, const void *data, uint32_t len)
{
	content_hash_piece(c->hash, offset, data, len);
}

void content_digest(struct content *c, uint8_t ret[16])
{
	XXH128_canonical_t canonical;
	XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(c->hash));
	memcpy(ret, canonical.digest, 16);
}

bool content_has_version(int fd, struct cdm_dot version)
{
	struct cdm_stamp now;
	return cdm_stamp_get(fd, &now) == 0 && cdm_dot_equal(now.content.dot, version);
}

int content_verdict(struct cdm_journal_reader *reader, const struct cdm_handle *handle, int fd, struct cdm_dot version)
{
	int r = -ESTALE;
	for (int tries = 0; reader && r == -ESTALE && tries < PENDING_TRIES; tries++) /* without a tail it stays so: then nobody writes */
		r = cdm_journal_reader_pending(reader, handle);
	if (r == 1)
		return 1;
	struct cdm_stamp now;
	r = cdm_stamp_get(fd, &now);
	if (r < 0 && r != -ENODATA && r != -EBADMSG)
		return r;
	return r == 0 && cdm_dot_equal(now.content.dot, version) ? 0 : -EAGAIN;
}
