/* SPDX-License-Identifier: Apache-2.0 */
/* The wire form (journal_format.md, section 1): fixed fields, then the optional parts named by the presence bits, in the
 * order of the bits. */
#include "common/change.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/cursor.h"

#define ENCODING_VERSION 1
#define FIXED_SIZE 36
#define ATTR_SIZE 52

enum part {
	PART_VERSION = 1 << 0,
	PART_BASE = 1 << 1,
	PART_VICTIM = 1 << 2,
	PART_ATTR = 1 << 3,
	PART_PARENTS = 1 << 4,
	PART_RENAME_FLAGS = 1 << 5,
	PART_PATH = 1 << 6,
	PART_PATH2 = 1 << 7,
	PART_NAME = 1 << 8,
	PART_VALUE = 1 << 9,
	PART_RANGES = 1 << 10,
	PART_CONTEXT = 1 << 11,
	PART_VECTOR = 1 << 12,
	PART_ALL = (1 << 13) - 1,
};

const char *cdm_op_name(enum cdm_op op)
{
	switch (op) {
	case CDM_OP_CREATE: return "CREATE";
	case CDM_OP_WRITE: return "WRITE";
	case CDM_OP_MARK: return "MARK";
	case CDM_OP_BARRIER: return "BARRIER";
	case CDM_OP_CLEAN: return "CLEAN";
	case CDM_OP_SYNCED: return "SYNCED";
	case CDM_OP_SAVE: return "SAVE";
	case CDM_OP_MKDIR: return "MKDIR";
	case CDM_OP_RMDIR: return "RMDIR";
	case CDM_OP_UNLINK: return "UNLINK";
	case CDM_OP_RENAME: return "RENAME";
	case CDM_OP_LINK: return "LINK";
	case CDM_OP_SYMLINK: return "SYMLINK";
	case CDM_OP_MKNOD: return "MKNOD";
	case CDM_OP_SETATTR: return "SETATTR";
	case CDM_OP_SETXATTR: return "SETXATTR";
	case CDM_OP_REMOVEXATTR: return "REMOVEXATTR";
	case CDM_OP_SKIP: return "SKIP";
	}
	return "?";
}

/* --- handles --- */

union handle_room {
	struct file_handle h;
	uint8_t room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
};

#define OPEN_TRIES 16

int cdm_handle_open(int store_fd, const struct cdm_handle *h, int flags)
{
	union handle_room u = {0};
	if (h->len == 0 || h->len > CDM_HANDLE_MAX)
		return -ESTALE;
	u.h.handle_bytes = h->len;
	u.h.handle_type = h->type;
	memcpy(u.h.f_handle, h->bytes, h->len);
	int fd = -1;
	errno = ENOMEM; /* said, too, of a file that is just being replaced: only ESTALE says that it is gone */
	for (int tries = 0; fd < 0 && (errno == ENOMEM || errno == EINTR) && tries < OPEN_TRIES; tries++)
		fd = open_by_handle_at(store_fd, &u.h, flags);
	return fd < 0 ? -errno : fd;
}

int cdm_handle_get(int dirfd, const char *name, struct cdm_handle *ret)
{
	union handle_room u = {0};
	int mount_id;
	u.h.handle_bytes = CDM_HANDLE_MAX;
	if (name_to_handle_at(dirfd, name, &u.h, &mount_id, *name ? 0 : AT_EMPTY_PATH) < 0)
		return -errno;
	if (u.h.handle_type < 0 || u.h.handle_type > UINT8_MAX)
		return -EOVERFLOW;
	*ret = (struct cdm_handle){.len = (uint8_t)u.h.handle_bytes, .type = (uint8_t)u.h.handle_type};
	memcpy(ret->bytes, u.h.f_handle, ret->len);
	return 0;
}

/* --- checks, the same for what goes out and what comes in --- */

char *cdm_path_join(const char *dir, size_t dir_len, const char *name, size_t name_len, size_t *ret_len)
{
	*ret_len = dir_len + (dir_len ? 1 : 0) + name_len;
	char *path = malloc(*ret_len + 1);
	if (!path)
		abort();
	memcpy(path, dir, dir_len);
	if (dir_len)
		path[dir_len] = '/';
	memcpy(path + *ret_len - name_len, name, name_len);
	path[*ret_len] = 0;
	return path;
}

int cdm_path_check(const char *path, size_t len)
{
	static const char private_dir[] = ".cdmfs";
	if (len == 0 || len > CDM_PATH_MAX || memchr(path, 0, len))
		return -EBADMSG;
	for (size_t start = 0; start <= len;) {
		const char *component = path + start;
		const char *slash = start < len ? memchr(component, '/', len - start) : NULL;
		size_t n = slash ? (size_t)(slash - component) : len - start;
		if (n == 0 || n > CDM_NAME_LEN_MAX || (n == 1 && component[0] == '.') ||
			(n == 2 && component[0] == '.' && component[1] == '.'))
			return -EBADMSG;
		if (start == 0 && n == sizeof private_dir - 1 && memcmp(component, private_dir, n) == 0)
			return -EBADMSG;
		start += n + 1;
		if (!slash)
			break;
	}
	return 0;
}

static bool ranges_are_sound(const struct cdm_range *ranges, size_t count)
{
	uint64_t end = 0;
	for (size_t i = 0; i < count; i++) {
		if (ranges[i].length == 0 || ranges[i].offset < end ||
			__builtin_add_overflow(ranges[i].offset, ranges[i].length, &end) || end > INT64_MAX)
			return false;
	}
	return true;
}

static bool dot_is_sound(struct cdm_dot d)
{
	if (cdm_dot_is_none(d))
		return d.number == 0;
	return CDM_ORIGIN_NODE(d.origin) && CDM_ORIGIN_INCARNATION(d.origin) && d.number;
}

/* Which paths an operation cannot do without. A change of the root, of an unnamed file or of none has an empty one. */
static bool needs_path(enum cdm_op op)
{
	return op == CDM_OP_MKDIR || op == CDM_OP_RMDIR || op == CDM_OP_UNLINK || op == CDM_OP_RENAME ||
		op == CDM_OP_SYMLINK || op == CDM_OP_MKNOD;
}
static bool needs_path2(enum cdm_op op)
{
	return op == CDM_OP_RENAME || op == CDM_OP_LINK;
}

static bool strings_are_sound(const struct cdm_change *c)
{
	if (c->path_len ? cdm_path_check(c->path, c->path_len) < 0 : needs_path(c->op))
		return false;
	if (c->path2_len ? cdm_path_check(c->path2, c->path2_len) < 0 : needs_path2(c->op))
		return false;
	if (c->name_len > CDM_NAME_LEN_MAX || (c->name_len && memchr(c->name, 0, c->name_len)))
		return false;
	if ((c->op == CDM_OP_SETXATTR || c->op == CDM_OP_REMOVEXATTR) && c->name_len == 0)
		return false;
	if (c->value_len > CDM_VALUE_MAX)
		return false;
	return c->op != CDM_OP_SYMLINK || (c->value_len && !memchr(c->value, 0, c->value_len));
}

static bool change_is_sound(const struct cdm_change *c)
{
	return cdm_op_name(c->op)[0] != '?' && dot_is_sound(c->dot) && dot_is_sound(c->version.dot) &&
		dot_is_sound(c->base) && dot_is_sound(c->victim) && c->attr.size <= INT64_MAX &&
		(c->rename_flags & ~(uint32_t)(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT)) == 0 &&
		strings_are_sound(c) && c->range_count <= CDM_RANGES_MAX && ranges_are_sound(c->ranges, c->range_count) &&
		(!c->context || c->context->count <= CDM_VECTOR_MAX) && (!c->vector || c->vector->count <= CDM_VECTOR_MAX);
}

/* --- encoding --- */

static bool attr_is_set(const struct cdm_attr *a)
{
	return a->mask || a->mode || a->uid || a->gid || a->nlink || a->size || a->rdev || a->mtime_ns || a->atime_ns;
}

static uint32_t parts_of(const struct cdm_change *c)
{
	return (c->version.dot.origin || c->version.clock ? PART_VERSION : 0u) | (c->base.origin ? PART_BASE : 0u) |
		(c->victim.origin ? PART_VICTIM : 0u) | (attr_is_set(&c->attr) ? PART_ATTR : 0u) |
		(c->parent_mtime_ns || c->parent2_mtime_ns ? PART_PARENTS : 0u) |
		(c->rename_flags ? PART_RENAME_FLAGS : 0u) | (c->path_len ? PART_PATH : 0u) |
		(c->path2_len ? PART_PATH2 : 0u) | (c->name_len ? PART_NAME : 0u) | (c->value_len ? PART_VALUE : 0u) |
		(c->range_count ? PART_RANGES : 0u) | (c->context ? PART_CONTEXT : 0u) | (c->vector ? PART_VECTOR : 0u);
}

size_t cdm_change_encoded_max(const struct cdm_change *c)
{
	if (!change_is_sound(c))
		return 0;
	size_t size = FIXED_SIZE + 24 + 16 + 16 + ATTR_SIZE + 16 + 4 + 5 * 4;
	size += c->path_len + c->path2_len + c->name_len + c->value_len + c->range_count * 16;
	size += c->context ? cdm_vector_encoded_size(c->context) : 0;
	size += c->vector ? cdm_vector_encoded_size(c->vector) : 0;
	return size;
}

static void put_dot(struct cdm_writer *w, struct cdm_dot d)
{
	cdm_put_u64(w, d.origin);
	cdm_put_u64(w, d.number);
}

static void put_attr(struct cdm_writer *w, const struct cdm_attr *a)
{
	cdm_put_u32(w, a->mask);
	cdm_put_u32(w, a->mode);
	cdm_put_u32(w, a->uid);
	cdm_put_u32(w, a->gid);
	cdm_put_u32(w, a->nlink);
	cdm_put_u64(w, a->size);
	cdm_put_u64(w, a->rdev);
	cdm_put_i64(w, a->mtime_ns);
	cdm_put_i64(w, a->atime_ns);
}

static void put_vector(struct cdm_writer *w, const struct cdm_vector *v)
{
	uint8_t *room = cdm_put_room(w, cdm_vector_encoded_size(v));
	if (room)
		cdm_vector_encode(v, room);
}

static void put_parts(struct cdm_writer *w, const struct cdm_change *c, uint32_t parts)
{
	if (parts & PART_VERSION) {
		put_dot(w, c->version.dot);
		cdm_put_u64(w, c->version.clock);
	}
	if (parts & PART_BASE)
		put_dot(w, c->base);
	if (parts & PART_VICTIM)
		put_dot(w, c->victim);
	if (parts & PART_ATTR)
		put_attr(w, &c->attr);
	if (parts & PART_PARENTS) {
		cdm_put_i64(w, c->parent_mtime_ns);
		cdm_put_i64(w, c->parent2_mtime_ns);
	}
	if (parts & PART_RENAME_FLAGS)
		cdm_put_u32(w, c->rename_flags);
	if (parts & PART_PATH)
		cdm_put_blob(w, c->path, c->path_len);
	if (parts & PART_PATH2)
		cdm_put_blob(w, c->path2, c->path2_len);
	if (parts & PART_NAME)
		cdm_put_blob(w, c->name, c->name_len);
	if (parts & PART_VALUE)
		cdm_put_blob(w, c->value, c->value_len);
	if (parts & PART_RANGES)
		cdm_put_u32(w, (uint32_t)c->range_count);
	for (size_t i = 0; i < c->range_count; i++) {
		cdm_put_u64(w, c->ranges[i].offset);
		cdm_put_u64(w, c->ranges[i].length);
	}
	if (parts & PART_CONTEXT)
		put_vector(w, c->context);
	if (parts & PART_VECTOR)
		put_vector(w, c->vector);
}

size_t cdm_change_encode(const struct cdm_change *c, uint8_t *out)
{
	size_t room = cdm_change_encoded_max(c);
	if (room == 0)
		return 0;
	struct cdm_writer w = cdm_writer_of(out, room);
	uint32_t parts = parts_of(c);
	cdm_put_u8(&w, (uint8_t)c->op);
	cdm_put_u8(&w, ENCODING_VERSION);
	cdm_put_u16(&w, 0);
	cdm_put_u32(&w, parts);
	cdm_put_u32(&w, c->flags & ~(uint32_t)CDM_CH_RECEIVED);
	put_dot(&w, c->dot);
	cdm_put_u64(&w, c->clock);
	put_parts(&w, c, parts);
	assert(!w.bad);
	return (size_t)(w.at - out);
}

/* --- decoding --- */

static struct cdm_dot get_dot(struct cdm_reader *r)
{
	struct cdm_dot d;
	d.origin = cdm_get_u64(r);
	d.number = cdm_get_u64(r);
	return d;
}

static void get_attr(struct cdm_reader *r, struct cdm_attr *a)
{
	a->mask = cdm_get_u32(r);
	a->mode = cdm_get_u32(r);
	a->uid = cdm_get_u32(r);
	a->gid = cdm_get_u32(r);
	a->nlink = cdm_get_u32(r);
	a->size = cdm_get_u64(r);
	a->rdev = cdm_get_u64(r);
	a->mtime_ns = cdm_get_i64(r);
	a->atime_ns = cdm_get_i64(r);
}

static void get_ranges(struct cdm_reader *r, struct cdm_change *c)
{
	size_t count = cdm_get_u32(r);
	if (r->bad || count == 0 || count > CDM_RANGES_MAX || cdm_reader_left(r) < count * 16) {
		r->bad = true;
		return;
	}
	c->ranges_mem = reallocarray(NULL, count, sizeof *c->ranges_mem);
	if (!c->ranges_mem)
		abort(); /* at most CDM_RANGES_MAX: not to be taken for damage of a journal that is sound */
	for (size_t i = 0; i < count; i++) {
		c->ranges_mem[i].offset = cdm_get_u64(r);
		c->ranges_mem[i].length = cdm_get_u64(r);
	}
	c->ranges = c->ranges_mem;
	c->range_count = count;
}

static const struct cdm_vector *get_vector(struct cdm_reader *r, struct cdm_vector *v)
{
	int n = cdm_vector_decode(r->at, cdm_reader_left(r), v);
	if (n < 0) {
		r->bad = true;
		return NULL;
	}
	r->at += n;
	return v;
}

static void get_parts(struct cdm_reader *r, struct cdm_change *c, uint32_t parts)
{
	if (parts & PART_VERSION) {
		c->version.dot = get_dot(r);
		c->version.clock = cdm_get_u64(r);
	}
	if (parts & PART_BASE)
		c->base = get_dot(r);
	if (parts & PART_VICTIM)
		c->victim = get_dot(r);
	if (parts & PART_ATTR)
		get_attr(r, &c->attr);
	if (parts & PART_PARENTS) {
		c->parent_mtime_ns = cdm_get_i64(r);
		c->parent2_mtime_ns = cdm_get_i64(r);
	}
	if (parts & PART_RENAME_FLAGS)
		c->rename_flags = cdm_get_u32(r);
	if (parts & PART_PATH)
		c->path = cdm_get_blob(r, CDM_PATH_MAX, &c->path_len);
	if (parts & PART_PATH2)
		c->path2 = cdm_get_blob(r, CDM_PATH_MAX, &c->path2_len);
	if (parts & PART_NAME)
		c->name = cdm_get_blob(r, CDM_NAME_LEN_MAX, &c->name_len);
	if (parts & PART_VALUE)
		c->value = cdm_get_blob(r, CDM_VALUE_MAX, &c->value_len);
	if (parts & PART_RANGES)
		get_ranges(r, c);
	if (parts & PART_CONTEXT)
		c->context = get_vector(r, &c->context_mem);
	if (parts & PART_VECTOR)
		c->vector = get_vector(r, &c->vector_mem);
}

int cdm_change_decode(const uint8_t *in, size_t len, struct cdm_change *ret)
{
	struct cdm_reader r = cdm_reader_of(in, len);
	*ret = (struct cdm_change){.path = "", .path2 = "", .name = "", .value = ""};
	ret->op = cdm_get_u8(&r);
	unsigned version = cdm_get_u8(&r), spare = cdm_get_u16(&r);
	uint32_t parts = cdm_get_u32(&r);
	ret->flags = cdm_get_u32(&r);
	ret->dot = get_dot(&r);
	ret->clock = cdm_get_u64(&r);
	if (r.bad || version != ENCODING_VERSION || spare || parts & ~(uint32_t)PART_ALL || ret->flags & CDM_CH_RECEIVED)
		goto bad;
	get_parts(&r, ret, parts);
	if (r.bad || !change_is_sound(ret) || parts_of(ret) != parts)
		goto bad;
	return (int)(r.at - in);
bad:
	cdm_change_fini(ret);
	return -EBADMSG;
}

int cdm_change_decode_head(const uint8_t *in, size_t len, struct cdm_change_head *ret)
{
	struct cdm_reader r = cdm_reader_of(in, len);
	ret->op = cdm_get_u8(&r);
	cdm_get_bytes(&r, 11);
	ret->dot = get_dot(&r);
	ret->clock = cdm_get_u64(&r);
	return r.bad ? -EBADMSG : 0;
}

void cdm_change_fini(struct cdm_change *c)
{
	free(c->ranges_mem);
	free(c->bytes_mem);
	cdm_vector_fini(&c->context_mem);
	cdm_vector_fini(&c->vector_mem);
	c->ranges_mem = NULL;
	c->bytes_mem = NULL;
	c->ranges = NULL;
	c->range_count = 0;
	c->context = c->vector = NULL;
}

/* --- ranges --- */

uint64_t cdm_change_content_bytes(const struct cdm_change *c)
{
	uint64_t size = c->attr.size, bytes = 0;
	if (c->op != CDM_OP_SAVE)
		return 0;
	if (c->flags & (CDM_CH_WHOLE | CDM_CH_NEW) || !c->range_count)
		return size;
	for (size_t i = 0; i < c->range_count && c->ranges[i].offset < size; i++)
		bytes += c->ranges[i].length < size - c->ranges[i].offset ? c->ranges[i].length : size - c->ranges[i].offset;
	return bytes;
}

size_t cdm_ranges_add(struct cdm_range *ranges, size_t count, uint64_t offset, uint64_t length)
{
	if (length == 0 || count > CDM_RANGES_MAX)
		return count;
	uint64_t end = offset + length < offset ? UINT64_MAX : offset + length;
	size_t first = 0;
	while (first < count && ranges[first].offset + ranges[first].length < offset)
		first++;
	size_t last = first; /* [first, last) touch the new one */
	for (; last < count && ranges[last].offset <= end; last++) {
		uint64_t other_end = ranges[last].offset + ranges[last].length;
		if (ranges[last].offset < offset)
			offset = ranges[last].offset;
		if (other_end > end)
			end = other_end;
	}
	size_t new_count = count - (last - first) + 1;
	if (new_count > CDM_RANGES_MAX)
		return CDM_RANGES_MAX + 1;
	memmove(ranges + first + 1, ranges + last, (count - last) * sizeof *ranges);
	ranges[first] = (struct cdm_range){offset, end - offset};
	return new_count;
}
