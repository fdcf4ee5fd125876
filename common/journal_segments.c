/* SPDX-License-Identifier: Apache-2.0 */
#include "common/journal_segments.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include "common/cursor.h"
#include "common/io.h"

#define SEGMENT_MAGIC 0x31304745534d4443ull /* "CDMSEG01" */
#define SEGMENT_VERSION 1u
#define HEADER_FIELDS 52u
#define COMMIT_FIELDS 20u
#define COMMIT_SLOT_SIZE 512u /* the first is at 512, the second at 1024: a torn write spoils one sector */

static void segment_name(uint64_t number, char out[32])
{
	snprintf(out, 32, "%08llu.log", (unsigned long long)number);
}

static bool parse_name(const char *name, uint64_t *ret)
{
	uint64_t n = 0;
	size_t digits = strspn(name, "0123456789");
	if (digits < 8 || digits > 18 || strcmp(name + digits, ".log") != 0)
		return false;
	for (size_t i = 0; i < digits; i++)
		n = n * 10 + (uint64_t)(name[i] - '0');
	*ret = n;
	return n > 0;
}

/* --- header --- */

static void header_encode(const struct segments *s, const struct segment *g, uint8_t out[HEADER_FIELDS + 4])
{
	struct cdm_writer w = cdm_writer_of(out, HEADER_FIELDS + 4);
	cdm_put_u64(&w, SEGMENT_MAGIC);
	cdm_put_u32(&w, SEGMENT_VERSION);
	cdm_put_u32(&w, SEGMENT_HEADER_SIZE);
	cdm_put_u64(&w, g->number);
	cdm_put_u64(&w, g->start);
	cdm_put_u64(&w, g->previous_end);
	cdm_put_u64(&w, s->instance);
	cdm_put_u32(&w, s->node_number);
	cdm_put_u32(&w, cdm_crc32c(0, out, HEADER_FIELDS));
	assert(!w.bad && w.at == w.end);
}

struct header {
	struct segment segment;
	uint64_t instance;
	uint32_t node_number;
};

static bool header_decode(const uint8_t *in, struct header *ret)
{
	struct cdm_reader r = cdm_reader_of(in, HEADER_FIELDS + 4);
	uint64_t magic = cdm_get_u64(&r);
	uint32_t version = cdm_get_u32(&r), header_size = cdm_get_u32(&r);
	ret->segment.number = cdm_get_u64(&r);
	ret->segment.start = cdm_get_u64(&r);
	ret->segment.previous_end = cdm_get_u64(&r);
	ret->instance = cdm_get_u64(&r);
	ret->node_number = cdm_get_u32(&r);
	uint32_t crc = cdm_get_u32(&r);
	return magic == SEGMENT_MAGIC && version == SEGMENT_VERSION && header_size == SEGMENT_HEADER_SIZE &&
		crc == cdm_crc32c(0, in, HEADER_FIELDS) && ret->segment.start % 8 == 0 &&
		ret->segment.start >= ret->segment.previous_end;
}

/* A header is durable before the first record is written behind it. So a bad one without any is a birth cut short. */
static bool holds_nothing(int fd)
{
	uint8_t bytes[4096];
	for (off_t at = SEGMENT_HEADER_SIZE; at < SEGMENT_HEADER_SIZE + (off_t)(64 << 10); at += sizeof bytes) {
		ssize_t n = pread(fd, bytes, sizeof bytes, at);
		if (n <= 0)
			return n == 0;
		for (ssize_t i = 0; i < n; i++)
			if (bytes[i])
				return false;
	}
	return true;
}

static int read_header(int fd, uint64_t number, struct header *ret)
{
	uint8_t bytes[HEADER_FIELDS + 4];
	struct stat st;
	if (fstat(fd, &st) < 0)
		return -errno;
	int r = cdm_pread_all(fd, bytes, sizeof bytes, 0);
	if (r < 0)
		return r == -ENODATA ? -EBADMSG : r;
	if (!header_decode(bytes, ret) || ret->segment.number != number || st.st_size < (off_t)SEGMENT_HEADER_SIZE ||
		(uint64_t)st.st_size > 2 * SEGMENT_BYTES_MAX)
		return -EBADMSG;
	ret->segment.size = (uint64_t)st.st_size;
	return 0;
}

/* 1 sound, 0 unborn, -ENOENT gone meanwhile, or another -errno. */
static int load_header(struct segments *s, uint64_t number, bool last, struct header *ret, struct cdm_error *err)
{
	char name[32];
	segment_name(number, name);
	_cleanup_close_ int fd = openat(s->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return cdm_fail(err, errno, "open journal segment %s", name);
	int r = read_header(fd, number, ret);
	if (r == -EBADMSG && last) {
		if (holds_nothing(fd)) {
			s->unborn = number;
			return 0;
		}
		/* A living writer may just have written it: what is behind it came later. */
		r = read_header(fd, number, ret);
	}
	if (r == -EBADMSG)
		return cdm_fail_plain(err, EBADMSG, "journal segment %s: the header is damaged", name);
	return r < 0 ? cdm_fail(err, -r, "read journal segment %s", name) : 1;
}

/* --- the list --- */

static int compare_numbers(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

static int list_numbers(int dir_fd, uint64_t **ret, size_t *ret_count, struct cdm_error *err)
{
	int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir) {
		int number = errno;
		cdm_cleanup_close(&fd);
		return cdm_fail(err, number, "open the journal's directory");
	}
	uint64_t *numbers = NULL, number;
	size_t count = 0, room = 0;
	int r = 0;
	for (struct dirent *e; r == 0 && (e = readdir(dir));) {
		if (!parse_name(e->d_name, &number))
			continue;
		if (count == room) {
			room = room ? 2 * room : 64;
			uint64_t *more = reallocarray(numbers, room, sizeof *numbers);
			if (!more) {
				r = cdm_fail(err, ENOMEM, "list the journal's segments");
				break;
			}
			numbers = more;
		}
		numbers[count++] = number;
	}
	closedir(dir);
	if (r < 0) {
		free(numbers);
		return r;
	}
	if (count)
		qsort(numbers, count, sizeof *numbers, compare_numbers);
	*ret = numbers;
	*ret_count = count;
	return 0;
}

static int add(struct segments *s, const struct segment *g)
{
	if (s->count == s->room) {
		size_t room = s->room ? 2 * s->room : 64;
		struct segment *list = reallocarray(s->list, room, sizeof *list);
		if (!list)
			return -ENOMEM;
		s->list = list;
		s->room = room;
	}
	s->list[s->count++] = *g;
	return 0;
}

static int add_checked(struct segments *s, const struct header *h, struct cdm_error *err)
{
	unsigned long long number = h->segment.number;
	if (s->count == 0) {
		s->instance = h->instance;
		s->node_number = h->node_number;
	} else {
		const struct segment *before = &s->list[s->count - 1];
		if (h->instance != s->instance || h->node_number != s->node_number)
			return cdm_fail_plain(err, EBADMSG, "journal segment %08llu belongs to another journal", number);
		if (h->segment.number != before->number + 1)
			return cdm_fail_plain(err, EBADMSG, "journal segment %08llu is missing",
				(unsigned long long)before->number + 1);
		if (h->segment.previous_end < before->start || h->segment.previous_end > segment_limit(before))
			return cdm_fail_plain(err, EBADMSG, "journal segment %08llu does not follow its neighbour", number);
	}
	int r = add(s, &h->segment);
	return r < 0 ? cdm_fail(err, -r, "list the journal's segments") : 0;
}

int segments_load(int dir_fd, struct segments *ret, struct cdm_error *err)
{
	_cleanup_free_ uint64_t *numbers = NULL;
	size_t count = 0;
	*ret = (struct segments){.dir_fd = dir_fd};
	int r = list_numbers(dir_fd, &numbers, &count, err);
	for (size_t i = 0; r >= 0 && i < count; i++) {
		struct header h;
		r = load_header(ret, numbers[i], i + 1 == count, &h, err);
		if (r == -ENOENT) /* trimmed meanwhile, and so is all before it */
			r = (int)(ret->count = 0);
		if (r > 0)
			r = add_checked(ret, &h, err);
	}
	if (r < 0)
		segments_fini(ret);
	return r < 0 ? r : 0;
}

void segments_fini(struct segments *s)
{
	free(s->list);
	*s = (struct segments){.dir_fd = -1};
}

size_t segments_find(const struct segments *s, uint64_t position)
{
	for (size_t i = s->count; i-- > 0;) {
		if (position < s->list[i].start)
			continue;
		if (i + 1 < s->count && position >= s->list[i + 1].previous_end)
			return SEGMENTS_NONE;
		return i;
	}
	return SEGMENTS_NONE;
}

int segment_open(const struct segments *s, size_t index, int flags)
{
	char name[32];
	segment_name(s->list[index].number, name);
	int fd = openat(s->dir_fd, name, flags | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 ? -errno : fd;
}

static int fill_new(struct segments *s, int fd, struct segment *g)
{
	uint8_t bytes[HEADER_FIELDS + 4];
	header_encode(s, g, bytes);
	int r = posix_fallocate(fd, 0, (off_t)g->size);
	r = r ? -r : cdm_pwrite_all(fd, bytes, sizeof bytes, 0);
	if (r == 0)
		r = segment_commit_write(fd, g, &(struct segment_commit){.generation = 1, .synced = g->start});
	if (r == 0)
		r = cdm_fsync(fd);
	return r == 0 ? cdm_fsync(s->dir_fd) : r;
}

int segments_create(struct segments *s, uint64_t start, uint64_t previous_end, uint64_t segment_bytes)
{
	char name[32];
	struct segment g = {
		.number = s->count ? s->list[s->count - 1].number + 1 : 1,
		.start = start,
		.previous_end = previous_end,
		.size = segment_bytes,
	};
	if (s->instance == 0 && getrandom(&s->instance, sizeof s->instance, 0) != sizeof s->instance)
		return -EIO;
	segment_name(g.number, name);
	_cleanup_close_ int fd = openat(s->dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -errno;
	int r = fill_new(s, fd, &g);
	if (r == 0)
		r = add(s, &g);
	if (r < 0) {
		unlinkat(s->dir_fd, name, 0);
		return r;
	}
	return cdm_take_fd(&fd);
}

int segments_drop_oldest(struct segments *s)
{
	char name[32];
	segment_name(s->list[0].number, name);
	if (unlinkat(s->dir_fd, name, 0) < 0 && errno != ENOENT)
		return -errno;
	s->count--;
	memmove(s->list, s->list + 1, s->count * sizeof *s->list);
	return 0;
}

int segments_drop_newest(struct segments *s)
{
	char name[32];
	segment_name(s->list[s->count - 1].number, name);
	if (unlinkat(s->dir_fd, name, 0) < 0)
		return -errno;
	s->count--;
	return cdm_fsync(s->dir_fd);
}

int segments_remove_unborn(struct segments *s)
{
	char name[32];
	segment_name(s->unborn, name);
	if (unlinkat(s->dir_fd, name, 0) < 0)
		return -errno;
	s->unborn = 0;
	return 0;
}

/* --- commit notes --- */

static uint32_t commit_crc(const uint8_t *fields, const struct segment *s)
{
	return cdm_crc32c((uint32_t)s->number, fields, COMMIT_FIELDS);
}

int segment_commit_write(int fd, const struct segment *s, const struct segment_commit *c)
{
	uint8_t bytes[COMMIT_FIELDS + 4];
	struct cdm_writer w = cdm_writer_of(bytes, sizeof bytes);
	cdm_put_u64(&w, c->generation);
	cdm_put_u64(&w, c->synced);
	cdm_put_u32(&w, c->clean);
	cdm_put_u32(&w, commit_crc(bytes, s));
	return cdm_pwrite_all(fd, bytes, sizeof bytes, (off_t)(COMMIT_SLOT_SIZE * (1 + c->generation % 2)));
}

int segment_commit_read(int fd, const struct segment *s, struct segment_commit *ret)
{
	*ret = (struct segment_commit){.synced = s->start};
	for (unsigned slot = 0; slot < 2; slot++) {
		uint8_t bytes[COMMIT_FIELDS + 4];
		int r = cdm_pread_all(fd, bytes, sizeof bytes, (off_t)(COMMIT_SLOT_SIZE * (1 + slot)));
		if (r < 0)
			return r;
		struct cdm_reader in = cdm_reader_of(bytes, sizeof bytes);
		struct segment_commit c;
		c.generation = cdm_get_u64(&in);
		c.synced = cdm_get_u64(&in);
		c.clean = cdm_get_u32(&in) == 1;
		if (cdm_get_u32(&in) == commit_crc(bytes, s) && c.generation > ret->generation && c.synced >= s->start &&
			c.synced <= segment_limit(s))
			*ret = c;
	}
	return 0;
}
