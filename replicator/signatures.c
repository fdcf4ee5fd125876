/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/signatures.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "common/io.h"

#define MAGIC 0x644d4443u /* "CDMd" */
#define GENERATION 8      /* bytes before the first record */
#define HEAD 72
#define HEAD_SUMMED 64
#define FILES 2

struct entry {
	struct cdm_dot dot;
	uint64_t key, path_hash, size, offset;
	uint32_t length, file;
};

struct head {
	uint32_t length, path_len, signature_len;
	struct cdm_dot dot;
	uint64_t key, path_hash, size, sum;
};

struct signatures {
	int fds[FILES]; /* fixed */
	uint64_t file_limit;

	pthread_mutex_t lock; /* the rest */
	uint64_t generations[FILES], ends[FILES];
	unsigned current;
	struct entry *entries; /* oldest first */
	size_t count, room;
	uint32_t *by_dot, *by_key, *by_path; /* index + 1; of equal keys and paths the newest */
	size_t mask;
};

/* --- names --- */

/* How many bytes from `at` on did a program probably make up: a hexadecimal number with a digit in it, a longer run of letters of both cases and
 * digits, or a decimal number behind letters? A run is what lies between other characters. */
static size_t drawn(const char *name, size_t at, size_t len)
{
	size_t end = at, digits = 0, lower = 0, upper = 0, others = 0;
	for (; end < len && isalnum((unsigned char)name[end]); end++) {
		digits += isdigit((unsigned char)name[end]) != 0;
		lower += islower((unsigned char)name[end]) != 0;
		upper += isupper((unsigned char)name[end]) != 0;
		others += !isxdigit((unsigned char)name[end]);
	}
	bool begins = !at || !isalnum((unsigned char)name[at - 1]);
	if (begins && digits && (!others || (end - at >= 8 && lower && upper)))
		return end - at;
	for (end = at; end < len && isdigit((unsigned char)name[end]); end++)
		;
	return end - at;
}

/* "page.html.new", ".page.html.tmp" and ".page.html.Xy12Ab" are on their way to become "page.html". */
static void strip_temporary(const char **name, size_t *len)
{
	static const char *const ends[] = {".new", ".tmp", ".temp", ".part", ".dpkg-new", ".dpkg-tmp", "~"};
	size_t end = *len;
	for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
		if (*len > strlen(ends[i]) + 1 && memcmp(*name + *len - strlen(ends[i]), ends[i], strlen(ends[i])) == 0)
			end = *len - strlen(ends[i]);
	const char *dot = memrchr(*name, '.', *len);
	if (**name == '.' && dot > *name + 1 && *name + *len - dot == 7)
		end = (size_t)(dot - *name);
	if (end < *len && **name == '.') {
		++*name;
		end--;
	}
	*len = end;
}

uint64_t signatures_name_key(const char *path, size_t len)
{
	const char *slash = len ? memrchr(path, '/', len) : NULL;
	const char *name = slash ? slash + 1 : path;
	size_t dir_len = (size_t)(name - path), name_len = len - dir_len, kept = 0, letters = 0;
	char constant[CDM_NAME_LEN_MAX + 1];
	if (!name_len)
		return 0;
	strip_temporary(&name, &name_len);
	for (size_t i = 0; i < name_len && kept < sizeof constant;) {
		size_t run = drawn(name, i, name_len);
		letters += !run && isalpha((unsigned char)name[i]);
		constant[kept++] = run ? '#' : name[i];
		i += run ? run : 1;
	}
	if (!letters)
		return 0;
	uint64_t key = XXH3_64bits_withSeed(constant, kept, XXH3_64bits(path, dir_len));
	return key ? key : 1;
}

/* --- index; under the lock --- */

static size_t hash_dot(struct cdm_dot dot)
{
	uint64_t both[2] = {dot.origin, dot.number};
	return XXH3_64bits(both, sizeof both);
}

static void index_entry(struct signatures *s, size_t i)
{
	const struct entry *e = &s->entries[i];
	size_t slot = hash_dot(e->dot) & s->mask;
	while (s->by_dot[slot])
		slot = (slot + 1) & s->mask;
	s->by_dot[slot] = (uint32_t)i + 1;
	slot = e->path_hash & s->mask;
	while (s->by_path[slot] && s->entries[s->by_path[slot] - 1].path_hash != e->path_hash)
		slot = (slot + 1) & s->mask;
	s->by_path[slot] = (uint32_t)i + 1;
	if (!e->key)
		return;
	slot = e->key & s->mask;
	while (s->by_key[slot] && s->entries[s->by_key[slot] - 1].key != e->key)
		slot = (slot + 1) & s->mask;
	s->by_key[slot] = (uint32_t)i + 1;
}

static void rebuild_index(struct signatures *s)
{
	size_t slots = 1024;
	while (slots < 4 * s->count)
		slots *= 2;
	free(s->by_dot);
	free(s->by_key);
	free(s->by_path);
	s->by_dot = calloc(slots, sizeof *s->by_dot);
	s->by_key = calloc(slots, sizeof *s->by_key);
	s->by_path = calloc(slots, sizeof *s->by_path);
	if (!s->by_dot || !s->by_key || !s->by_path)
		abort();
	s->mask = slots - 1;
	for (size_t i = 0; i < s->count; i++)
		index_entry(s, i);
}

static void add_entry(struct signatures *s, const struct entry *e)
{
	if (s->count == s->room) {
		s->room = s->room ? 2 * s->room : 256;
		s->entries = realloc(s->entries, s->room * sizeof *s->entries);
		if (!s->entries)
			abort();
	}
	s->entries[s->count++] = *e;
	if (2 * s->count > s->mask)
		rebuild_index(s);
	else
		index_entry(s, s->count - 1);
}

static const struct entry *find_dot(const struct signatures *s, struct cdm_dot dot)
{
	for (size_t slot = hash_dot(dot) & s->mask; s->by_dot[slot]; slot = (slot + 1) & s->mask)
		if (cdm_dot_equal(s->entries[s->by_dot[slot] - 1].dot, dot))
			return &s->entries[s->by_dot[slot] - 1];
	return NULL;
}

static const struct entry *find_key(const struct signatures *s, uint64_t key)
{
	for (size_t slot = key & s->mask; s->by_key[slot]; slot = (slot + 1) & s->mask)
		if (s->entries[s->by_key[slot] - 1].key == key)
			return &s->entries[s->by_key[slot] - 1];
	return NULL;
}

static void forget_file(struct signatures *s, uint32_t file)
{
	size_t kept = 0;
	for (size_t i = 0; i < s->count; i++)
		if (s->entries[i].file != file)
			s->entries[kept++] = s->entries[i];
	s->count = kept;
	rebuild_index(s);
}

/* --- records --- */

static void encode_record(const struct head *h, const char *path, const struct delta_signature *signature, struct bytes *out)
{
	struct bytes body = {0};
	bytes_put(&body, path, h->path_len);
	delta_signature_encode(signature, &body);
	bytes_put_u32(out, MAGIC);
	bytes_put_u32(out, h->length);
	bytes_put_u64(out, h->dot.origin);
	bytes_put_u64(out, h->dot.number);
	bytes_put_u64(out, h->key);
	bytes_put_u64(out, h->path_hash);
	bytes_put_u64(out, h->size);
	bytes_put_u32(out, h->path_len);
	bytes_put_u32(out, h->signature_len);
	bytes_put_u64(out, XXH3_64bits(body.data, body.len));
	bytes_put_u64(out, XXH3_64bits(out->data, HEAD_SUMMED));
	bytes_put(out, body.data, body.len);
	bytes_fini(&body);
}

static bool decode_head(const uint8_t in[HEAD], struct head *ret)
{
	struct reading r = {in, HEAD, 0, false};
	uint32_t magic = reading_u32(&r);
	ret->length = reading_u32(&r);
	ret->dot.origin = reading_u64(&r);
	ret->dot.number = reading_u64(&r);
	ret->key = reading_u64(&r);
	ret->path_hash = reading_u64(&r);
	ret->size = reading_u64(&r);
	ret->path_len = reading_u32(&r);
	ret->signature_len = reading_u32(&r);
	ret->sum = reading_u64(&r);
	return magic == MAGIC && reading_u64(&r) == XXH3_64bits(in, HEAD_SUMMED) && ret->path_len <= CDM_PATH_MAX &&
		ret->length == (uint64_t)HEAD + ret->path_len + ret->signature_len;
}

/* All of a record, checked; the caller frees. NULL: it was overwritten or torn. */
static uint8_t *read_record(struct signatures *s, const struct entry *e, struct head *ret)
{
	uint8_t *record = malloc(e->length);
	if (!record)
		return NULL;
	if (cdm_pread_all(s->fds[e->file], record, e->length, (off_t)e->offset) == 0 && decode_head(record, ret) && ret->length == e->length &&
		cdm_dot_equal(ret->dot, e->dot) && XXH3_64bits(record + HEAD, e->length - HEAD) == ret->sum)
		return record;
	free(record);
	return NULL;
}

/* --- files --- */

static uint64_t generation_of(int fd)
{
	uint8_t bytes[GENERATION];
	struct reading r = {bytes, sizeof bytes, 0, false};
	return cdm_pread_all(fd, bytes, sizeof bytes, 0) < 0 ? 0 : reading_u64(&r); /* 0: it is empty */
}

static void read_file(struct signatures *s, uint32_t file)
{
	uint8_t bytes[HEAD];
	struct head h;
	uint64_t at = GENERATION;
	for (; cdm_pread_all(s->fds[file], bytes, HEAD, (off_t)at) == 0 && decode_head(bytes, &h) && at + h.length <= s->file_limit; at += h.length) {
		struct entry e = {.dot = h.dot, .key = h.key, .path_hash = h.path_hash, .size = h.size, .offset = at, .length = h.length, .file = file};
		add_entry(s, &e);
	}
	s->ends[file] = at;
}

/* Begin `file` anew: what is in it is forgotten. */
static int begin_file(struct signatures *s, uint32_t file, uint64_t generation)
{
	struct bytes b = {0};
	forget_file(s, file);
	bytes_put_u64(&b, generation);
	int r = ftruncate(s->fds[file], 0) < 0 ? -errno : cdm_pwrite_all(s->fds[file], b.data, b.len, 0);
	bytes_fini(&b);
	s->generations[file] = generation;
	s->ends[file] = GENERATION;
	s->current = file;
	return r;
}

int signatures_open(int store_fd, uint64_t limit, struct signatures **ret, struct cdm_error *err)
{
	static const char *const names[FILES] = {"0", "1"};
	if (mkdirat(store_fd, ".cdmfs/signatures", 0700) < 0 && errno != EEXIST)
		return cdm_fail(err, errno, "make .cdmfs/signatures");
	_cleanup_close_ int dir = openat(store_fd, ".cdmfs/signatures", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir < 0)
		return cdm_fail(err, errno, "open .cdmfs/signatures");
	struct signatures *s = calloc(1, sizeof *s);
	if (!s)
		abort();
	pthread_mutex_init(&s->lock, NULL);
	s->file_limit = limit / FILES;
	for (uint32_t i = 0; i < FILES; i++)
		s->fds[i] = openat(dir, names[i], O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (s->fds[0] < 0 || s->fds[1] < 0) {
		cdm_fail(err, errno, "open a file of .cdmfs/signatures");
		signatures_close(&s);
		return -EIO;
	}
	rebuild_index(s);
	for (uint32_t i = 0; i < FILES; i++)
		s->generations[i] = generation_of(s->fds[i]);
	s->current = s->generations[1] > s->generations[0];
	read_file(s, 1 - s->current);
	read_file(s, s->current);
	int r = s->generations[s->current] ? 0 : begin_file(s, s->current, 1);
	if (r < 0) {
		signatures_close(&s);
		return cdm_fail(err, -r, "write to .cdmfs/signatures");
	}
	*ret = s;
	return 0;
}

void signatures_close(struct signatures **signatures)
{
	struct signatures *s = *signatures;
	if (!s)
		return;
	*signatures = NULL;
	for (uint32_t i = 0; i < FILES; i++)
		if (s->fds[i] >= 0)
			close(s->fds[i]);
	pthread_mutex_destroy(&s->lock);
	free(s->entries);
	free(s->by_dot);
	free(s->by_key);
	free(s->by_path);
	free(s);
}

/* --- what is asked --- */

bool signatures_has(struct signatures *s, struct cdm_dot dot)
{
	pthread_mutex_lock(&s->lock);
	bool has = find_dot(s, dot) != NULL;
	pthread_mutex_unlock(&s->lock);
	return has;
}

int signatures_put(struct signatures *s, struct cdm_dot dot, const char *path, size_t path_len, const struct delta_signature *signature)
{
	struct head h = {.dot = dot, .path_len = (uint32_t)path_len, .signature_len = (uint32_t)delta_signature_size(signature),
		.key = signatures_name_key(path, path_len), .path_hash = XXH3_64bits(path, path_len), .size = signature->size};
	uint64_t length = (uint64_t)HEAD + h.path_len + h.signature_len;
	if (length > s->file_limit - GENERATION)
		return -EFBIG;
	h.length = (uint32_t)length;
	pthread_mutex_lock(&s->lock);
	int r = find_dot(s, dot) ? -EEXIST : 0;
	if (r == 0 && s->ends[s->current] + length > s->file_limit)
		r = begin_file(s, 1 - s->current, s->generations[s->current] + 1);
	struct entry e = {.dot = dot, .key = h.key, .path_hash = h.path_hash, .size = h.size, .offset = s->ends[s->current], .length = h.length,
		.file = s->current};
	if (r == 0)
		s->ends[s->current] += length;
	pthread_mutex_unlock(&s->lock);
	if (r < 0)
		return r == -EEXIST ? 0 : r;
	struct bytes record = {0};
	encode_record(&h, path, signature, &record);
	r = cdm_pwrite_all(s->fds[e.file], record.data, record.len, (off_t)e.offset);
	bytes_fini(&record);
	pthread_mutex_lock(&s->lock);
	if (r == 0 && !find_dot(s, dot))
		add_entry(s, &e);
	pthread_mutex_unlock(&s->lock);
	return r;
}

static bool entry_of(struct signatures *s, struct cdm_dot dot, struct entry *ret)
{
	pthread_mutex_lock(&s->lock);
	const struct entry *e = find_dot(s, dot);
	if (e)
		*ret = *e;
	pthread_mutex_unlock(&s->lock);
	return e;
}

struct delta_signature *signatures_get(struct signatures *s, struct cdm_dot dot)
{
	struct entry e;
	struct head h;
	struct delta_signature *signature = NULL;
	uint8_t *record = entry_of(s, dot, &e) ? read_record(s, &e, &h) : NULL;
	if (record && delta_signature_decode(record + HEAD + h.path_len, h.signature_len, &signature) < 0)
		signature = NULL;
	free(record);
	return signature;
}

static const struct entry *find_path(const struct signatures *s, uint64_t hash)
{
	for (size_t slot = hash & s->mask; s->by_path[slot]; slot = (slot + 1) & s->mask)
		if (s->entries[s->by_path[slot] - 1].path_hash == hash)
			return &s->entries[s->by_path[slot] - 1];
	return NULL;
}

struct cdm_dot signatures_newest_at(struct signatures *s, const char *path, size_t path_len)
{
	uint64_t hash = XXH3_64bits(path, path_len);
	pthread_mutex_lock(&s->lock);
	const struct entry *e = find_path(s, hash);
	struct cdm_dot dot = e ? e->dot : (struct cdm_dot){0};
	pthread_mutex_unlock(&s->lock);
	return dot;
}

/* XXH3-64 of the path that a temporary name is on its way to; 0: it is none. */
static uint64_t hash_of_final(const char *path, size_t len)
{
	const char *slash = len ? memrchr(path, '/', len) : NULL;
	const char *name = slash ? slash + 1 : path;
	size_t dir_len = (size_t)(name - path), name_len = len - dir_len, stripped_len = name_len;
	if (!name_len)
		return 0;
	strip_temporary(&name, &stripped_len);
	if (stripped_len == name_len)
		return 0;
	struct bytes final = {0};
	bytes_put(&final, path, dir_len);
	bytes_put(&final, name, stripped_len);
	uint64_t hash = XXH3_64bits(final.data, final.len);
	bytes_fini(&final);
	return hash;
}

/* What a temporary name will replace counts before what only has a similar name. */
static bool like_entry(struct signatures *s, const char *path, size_t path_len, struct entry *ret)
{
	uint64_t key = signatures_name_key(path, path_len), final = hash_of_final(path, path_len);
	pthread_mutex_lock(&s->lock);
	const struct entry *found = final ? find_path(s, final) : NULL;
	if (!found && key)
		found = find_key(s, key);
	if (found)
		*ret = *found;
	pthread_mutex_unlock(&s->lock);
	return found;
}

bool signatures_may_find_like(struct signatures *s, const char *path, size_t path_len)
{
	struct entry e;
	return like_entry(s, path, path_len, &e);
}

bool signatures_find_like(struct signatures *s, const char *path, size_t path_len, uint64_t size, struct signatures_like *ret)
{
	struct entry e;
	struct head h;
	if (!like_entry(s, path, path_len, &e) || e.size > 2 * size || size > 2 * e.size)
		return false;
	uint8_t *record = read_record(s, &e, &h);
	if (!record || (h.path_len == path_len && memcmp(record + HEAD, path, path_len) == 0)) {
		free(record);
		return false;
	}
	*ret = (struct signatures_like){.dot = e.dot, .path = malloc(h.path_len + 1), .path_len = h.path_len};
	if (!ret->path)
		abort();
	memcpy(ret->path, record + HEAD, h.path_len);
	free(record);
	return true;
}
