/* SPDX-License-Identifier: Apache-2.0 */
#include "common/vector.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <time.h>
#include "common/cursor.h"
#include "common/faultpoint.h"

#define STAMP_TRIES 3 /* without a stamp a file counts as one of no version: a decision that must not hang on one bad read */

static int compare_u64(uint64_t a, uint64_t b)
{
	return a < b ? -1 : a > b;
}

int cdm_version_compare(const struct cdm_version *a, const struct cdm_version *b)
{
	int c = compare_u64(a->clock, b->clock);
	if (c == 0)
		c = compare_u64(a->dot.origin, b->dot.origin);
	return c ? c : compare_u64(a->dot.number, b->dot.number);
}

/* --- clock --- */

static _Atomic uint64_t clock_last;

static uint64_t physical_clock(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_REALTIME, &ts);
	return ((uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec + (uint64_t)cdm_fault_clock_ns()) & ~0xffffull;
}

uint64_t cdm_clock_now(void)
{
	uint64_t physical = physical_clock(), last = atomic_load_explicit(&clock_last, memory_order_relaxed), next;
	do {
		next = physical > last ? physical : last + 1;
	} while (!atomic_compare_exchange_weak(&clock_last, &last, next));
	return next;
}

bool cdm_clock_observe(uint64_t clock)
{
	uint64_t last = atomic_load_explicit(&clock_last, memory_order_relaxed);
	if (clock <= last)
		return true;
	if (clock > physical_clock() + CDM_CLOCK_AHEAD_NS)
		return false;
	while (clock > last && !atomic_compare_exchange_weak(&clock_last, &last, clock))
		;
	return true;
}

/* --- vectors --- */

void cdm_vector_fini(struct cdm_vector *v)
{
	free(v->entries);
	*v = (struct cdm_vector){0};
}

static void reserve(struct cdm_vector *v, size_t room)
{
	if (room <= v->room)
		return;
	if (room < 2 * v->room)
		room = 2 * v->room;
	struct cdm_dot *entries = reallocarray(v->entries, room, sizeof *entries);
	if (!entries)
		abort(); /* a few KiB: there is no way on without them */
	v->entries = entries;
	v->room = room;
}

void cdm_vector_copy(struct cdm_vector *to, const struct cdm_vector *from)
{
	if (to == from)
		return;
	reserve(to, from->count);
	if (from->count)
		memcpy(to->entries, from->entries, from->count * sizeof *from->entries);
	to->count = from->count;
}

/* Index of the first entry whose origin is not below this one. */
static size_t find_index(const struct cdm_vector *v, cdm_origin origin)
{
	size_t low = 0, high = v->count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (v->entries[middle].origin < origin)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

uint64_t cdm_vector_get(const struct cdm_vector *v, cdm_origin origin)
{
	size_t i = find_index(v, origin);
	return i < v->count && v->entries[i].origin == origin ? v->entries[i].number : 0;
}

bool cdm_vector_raise(struct cdm_vector *v, struct cdm_dot dot)
{
	if (dot.origin == 0 || dot.number == 0)
		return false;
	size_t i = find_index(v, dot.origin);
	if (i < v->count && v->entries[i].origin == dot.origin) {
		if (v->entries[i].number >= dot.number)
			return false;
		v->entries[i].number = dot.number;
		return true;
	}
	reserve(v, v->count + 1);
	memmove(v->entries + i + 1, v->entries + i, (v->count - i) * sizeof *v->entries);
	v->entries[i] = dot;
	v->count++;
	return true;
}

bool cdm_vector_covers(const struct cdm_vector *v, struct cdm_dot dot)
{
	return cdm_vector_get(v, dot.origin) >= dot.number;
}

bool cdm_vector_began_anew(const struct cdm_vector *v, cdm_origin origin)
{
	for (size_t i = 0; i < v->count; i++)
		if (CDM_ORIGIN_NODE(v->entries[i].origin) == CDM_ORIGIN_NODE(origin) && v->entries[i].origin > origin)
			return true;
	return false;
}

bool cdm_vector_covers_all(const struct cdm_vector *v, const struct cdm_vector *other)
{
	size_t k = 0;
	for (size_t i = 0; i < other->count; i++) {
		while (k < v->count && v->entries[k].origin < other->entries[i].origin)
			k++;
		if (k == v->count || v->entries[k].origin != other->entries[i].origin ||
			v->entries[k].number < other->entries[i].number)
			return false;
	}
	return true;
}

bool cdm_vector_equal(const struct cdm_vector *a, const struct cdm_vector *b)
{
	if (a->count != b->count)
		return false;
	for (size_t i = 0; i < a->count; i++)
		if (!cdm_dot_equal(a->entries[i], b->entries[i]))
			return false;
	return true;
}

void cdm_vector_merge(struct cdm_vector *into, const struct cdm_vector *other)
{
	for (size_t i = 0; i < other->count; i++)
		cdm_vector_raise(into, other->entries[i]);
}

void cdm_vector_meet(struct cdm_vector *into, const struct cdm_vector *other)
{
	size_t kept = 0;
	for (size_t i = 0; i < into->count; i++) {
		struct cdm_dot dot = into->entries[i];
		uint64_t number = cdm_vector_get(other, dot.origin);
		if (number < dot.number)
			dot.number = number;
		if (dot.number)
			into->entries[kept++] = dot;
	}
	into->count = kept;
}

/* --- text --- */

void cdm_dot_format(struct cdm_dot d, char out[64])
{
	snprintf(out, 64, "%" PRIu32 ".%" PRIu32 ":%" PRIu64, CDM_ORIGIN_NODE(d.origin), CDM_ORIGIN_INCARNATION(d.origin),
		d.number);
}

void cdm_dot_format_named(struct cdm_dot d, const char *name, char out[CDM_DOT_NAMED_SIZE])
{
	if (!name || !*name)
		cdm_dot_format(d, out);
	else if (CDM_ORIGIN_INCARNATION(d.origin) == 1)
		snprintf(out, CDM_DOT_NAMED_SIZE, "%.80s:%" PRIu64, name, d.number);
	else
		snprintf(out, CDM_DOT_NAMED_SIZE, "%.80s.%" PRIu32 ":%" PRIu64, name, CDM_ORIGIN_INCARNATION(d.origin), d.number);
}

/* Decimal digits only, at most max; moves *text behind them and behind the stop character, if there must be one. */
static bool parse_number(const char **text, char stop, uint64_t max, uint64_t *ret)
{
	uint64_t n = 0;
	const char *p = *text;
	if (*p < '0' || *p > '9')
		return false;
	for (; *p >= '0' && *p <= '9'; p++)
		if (__builtin_mul_overflow(n, 10, &n) || __builtin_add_overflow(n, (uint64_t)(*p - '0'), &n) || n > max)
			return false;
	if (stop && *p++ != stop)
		return false;
	*text = p;
	*ret = n;
	return true;
}

static bool dot_is_sound(struct cdm_dot d)
{
	return CDM_ORIGIN_NODE(d.origin) && CDM_ORIGIN_INCARNATION(d.origin) && d.number;
}

static bool parse_dot(const char **text, struct cdm_dot *ret)
{
	uint64_t node, incarnation, number;
	if (!parse_number(text, '.', UINT32_MAX, &node) || !parse_number(text, ':', UINT32_MAX, &incarnation) ||
		!parse_number(text, 0, UINT64_MAX, &number))
		return false;
	*ret = (struct cdm_dot){CDM_ORIGIN(node, incarnation), number};
	return dot_is_sound(*ret);
}

int cdm_dot_parse(const char *text, struct cdm_dot *ret)
{
	return parse_dot(&text, ret) && *text == 0 ? 0 : -EINVAL;
}

char *cdm_vector_format(const struct cdm_vector *v)
{
	char *text = malloc(v->count * 64 + 1);
	if (!text)
		abort();
	char *p = text;
	*p = 0;
	for (size_t i = 0; i < v->count; i++) {
		char dot[64];
		cdm_dot_format(v->entries[i], dot);
		p += sprintf(p, "%s%s", i ? " " : "", dot);
	}
	return text;
}

int cdm_vector_parse(const char *text, struct cdm_vector *ret)
{
	*ret = (struct cdm_vector){0};
	for (;;) {
		while (*text == ' ')
			text++;
		if (*text == 0)
			return 0;
		struct cdm_dot dot;
		if (!parse_dot(&text, &dot) || (*text && *text != ' ') || ret->count >= CDM_VECTOR_MAX ||
			cdm_vector_get(ret, dot.origin)) {
			cdm_vector_fini(ret);
			return -EINVAL;
		}
		cdm_vector_raise(ret, dot);
	}
}

/* --- bytes --- */

size_t cdm_vector_encoded_size(const struct cdm_vector *v)
{
	return 4 + v->count * 16;
}

size_t cdm_vector_encode(const struct cdm_vector *v, uint8_t *out)
{
	struct cdm_writer w = cdm_writer_of(out, cdm_vector_encoded_size(v));
	cdm_put_u32(&w, (uint32_t)v->count);
	for (size_t i = 0; i < v->count; i++) {
		cdm_put_u64(&w, v->entries[i].origin);
		cdm_put_u64(&w, v->entries[i].number);
	}
	assert(!w.bad && w.at == w.end);
	return (size_t)(w.at - out);
}

int cdm_vector_decode(const uint8_t *in, size_t len, struct cdm_vector *ret)
{
	struct cdm_reader r = cdm_reader_of(in, len);
	size_t count = cdm_get_u32(&r);
	*ret = (struct cdm_vector){0};
	if (r.bad || count > CDM_VECTOR_MAX || cdm_reader_left(&r) < count * 16)
		return -EBADMSG;
	if (count == 0)
		return 4;
	reserve(ret, count);
	for (size_t i = 0; i < count; i++) {
		struct cdm_dot dot;
		dot.origin = cdm_get_u64(&r);
		dot.number = cdm_get_u64(&r);
		if (!dot_is_sound(dot) || (i && ret->entries[i - 1].origin >= dot.origin)) {
			cdm_vector_fini(ret);
			return -EBADMSG;
		}
		ret->entries[ret->count++] = dot;
	}
	return (int)(4 + count * 16);
}

/* --- stamps: 40 bytes of fields, then u32: format in the low 8 bits, low 24 bits of the fields' CRC-32C above --- */

#define STAMP_FORMAT 1u

static uint32_t stamp_seal(const uint8_t *fields)
{
	return STAMP_FORMAT | cdm_crc32c(0, fields, CDM_XATTR_VERSION_SIZE - 4) << 8;
}

void cdm_stamp_encode(const struct cdm_stamp *s, uint8_t out[CDM_XATTR_VERSION_SIZE])
{
	struct cdm_writer w = cdm_writer_of(out, CDM_XATTR_VERSION_SIZE);
	cdm_put_u64(&w, s->content.dot.origin);
	cdm_put_u64(&w, s->content.dot.number);
	cdm_put_u64(&w, s->content.clock);
	cdm_put_u64(&w, s->attr_clock);
	cdm_put_u64(&w, s->attr_origin);
	cdm_put_u32(&w, stamp_seal(out));
	assert(!w.bad && w.at == w.end);
}

int cdm_stamp_decode(const uint8_t *in, size_t len, struct cdm_stamp *ret)
{
	if (len != CDM_XATTR_VERSION_SIZE)
		return -EBADMSG;
	struct cdm_reader r = cdm_reader_of(in, len);
	struct cdm_stamp s;
	s.content.dot.origin = cdm_get_u64(&r);
	s.content.dot.number = cdm_get_u64(&r);
	s.content.clock = cdm_get_u64(&r);
	s.attr_clock = cdm_get_u64(&r);
	s.attr_origin = cdm_get_u64(&r);
	if (cdm_get_u32(&r) != stamp_seal(in))
		return -EBADMSG;
	*ret = s;
	return 0;
}

static void descriptor_path(int fd, char out[32])
{
	snprintf(out, 32, "/proc/self/fd/%d", fd);
}

static ssize_t stamp_read(int fd, uint8_t bytes[CDM_XATTR_VERSION_SIZE])
{
	ssize_t n = fgetxattr(fd, CDM_XATTR_VERSION, bytes, CDM_XATTR_VERSION_SIZE);
	if (n >= 0 || errno != EBADF)
		return n;
	char path[32]; /* O_PATH */
	descriptor_path(fd, path);
	return getxattr(path, CDM_XATTR_VERSION, bytes, CDM_XATTR_VERSION_SIZE);
}

int cdm_stamp_get(int fd, struct cdm_stamp *ret)
{
	uint8_t bytes[CDM_XATTR_VERSION_SIZE];
	ssize_t n;
	int tries = 0;
	do
		n = stamp_read(fd, bytes);
	while (n < 0 && (errno == EIO || errno == ENOMEM || errno == EINTR) && ++tries < STAMP_TRIES);
	if (n < 0)
		return errno == ERANGE ? -EBADMSG : -errno;
	return cdm_stamp_decode(bytes, (size_t)n, ret);
}

int cdm_stamp_set(int fd, const struct cdm_stamp *s)
{
	uint8_t bytes[CDM_XATTR_VERSION_SIZE];
	cdm_stamp_encode(s, bytes);
	int r = fsetxattr(fd, CDM_XATTR_VERSION, bytes, sizeof bytes, 0);
	if (r < 0 && errno == EBADF) { /* O_PATH */
		char path[32];
		descriptor_path(fd, path);
		r = setxattr(path, CDM_XATTR_VERSION, bytes, sizeof bytes, 0);
	}
	return r < 0 ? -errno : 0;
}
