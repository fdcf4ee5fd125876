/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/quarantine.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/change.h"
#include "common/io.h"
#include "common/log.h"

#define ENTRIES_MAX 256 /* the oldest goes: it is in the log */
#define FILE_NAME ".cdmfs/quarantine"
#define FILE_MAX (64u << 20)
#define RAN_OVER_MARK "+" /* a line of its own */
#define UNREAD_MARK "r" /* behind the path's digits: an odd number of characters */

struct entry {
	char *path;
	size_t len;
	bool unread;
	uint64_t number; /* of its addition */
	char reason[256];
};

struct quarantine {
	pthread_mutex_t lock;
	struct entry entries[ENTRIES_MAX]; /* oldest first */
	_Atomic size_t count;
	uint64_t number; /* of the last addition */
	bool ran_over;
	uint64_t ran_over_number; /* what was the last addition then */
	int store_fd; /* -1: not loaded yet */
};

struct quarantine *quarantine_new(void)
{
	struct quarantine *q = calloc(1, sizeof *q);
	if (!q)
		abort();
	q->store_fd = -1;
	pthread_mutex_init(&q->lock, NULL);
	return q;
}

void quarantine_free(struct quarantine **pq)
{
	struct quarantine *q = *pq;
	*pq = NULL;
	if (!q)
		return;
	for (size_t i = 0; i < q->count; i++)
		free(q->entries[i].path);
	pthread_mutex_destroy(&q->lock);
	free(q);
}

static size_t find(const struct quarantine *q, const char *path, size_t len)
{
	size_t i = 0;
	while (i < q->count && !(q->entries[i].len == len && memcmp(q->entries[i].path, path, len) == 0))
		i++;
	return i;
}

static void drop(struct quarantine *q, size_t i)
{
	free(q->entries[i].path);
	q->count--;
	memmove(&q->entries[i], &q->entries[i + 1], (q->count - i) * sizeof q->entries[0]);
}

static void note_ran_over(struct quarantine *q)
{
	q->ran_over = true;
	q->ran_over_number = q->number;
}

/* --- the file --- */

/* Takes the lock off before it writes: only the applier changes the list, others must not wait for the disk. */
static void unlock_and_store(struct quarantine *q)
{
	struct cdm_error err = CDM_ERROR_INIT;
	char *text = NULL;
	size_t len = 0;
	FILE *f = q->store_fd < 0 ? NULL : open_memstream(&text, &len);
	if (!f) {
		pthread_mutex_unlock(&q->lock);
		return;
	}
	if (q->ran_over)
		fputs(RAN_OVER_MARK "\n", f);
	for (size_t i = 0; i < q->count; i++) {
		const struct entry *e = &q->entries[i];
		for (size_t k = 0; k < e->len; k++)
			fprintf(f, "%02x", (unsigned char)e->path[k]);
		fprintf(f, "%s %.*s\n", e->unread ? UNREAD_MARK : "", (int)strcspn(e->reason, "\n"), e->reason);
	}
	pthread_mutex_unlock(&q->lock);
	if (fclose(f) == 0) {
		_cleanup_close_ int dir = openat(q->store_fd, ".cdmfs", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		int r = dir < 0 ? cdm_fail(&err, errno, "write the list of what is set aside") : cdm_replace_file(dir, "quarantine", text, len, 0600, &err);
		if (r < 0)
			cdm_log_err(failed, &err);
	}
	free(text);
}

static int hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* One line of the file; what is damaged is left out. */
static void load_line(struct quarantine *q, const char *line, size_t len)
{
	q->ran_over |= len == 1 && line[0] == RAN_OVER_MARK[0];
	const char *blank = memchr(line, ' ', len);
	size_t n = blank ? (size_t)(blank - line) / 2 : 0;
	bool unread = n && (blank - line) % 2;
	if (!n || (unread && blank[-1] != UNREAD_MARK[0]) || n > CDM_PATH_MAX || q->count == ENTRIES_MAX)
		return;
	char *path = malloc(n + 1);
	if (!path)
		abort();
	for (size_t i = 0; i < n; i++) {
		int high = hex_digit(line[2 * i]), low = hex_digit(line[2 * i + 1]);
		if (high < 0 || low < 0) {
			free(path);
			return;
		}
		path[i] = (char)(high << 4 | low);
	}
	path[n] = 0;
	struct entry *e = &q->entries[q->count];
	*e = (struct entry){.path = path, .len = n, .unread = unread};
	snprintf(e->reason, sizeof e->reason, "%.*s", (int)(len - (size_t)(blank + 1 - line)), blank + 1);
	q->count++;
}

size_t quarantine_load(struct quarantine *q, int store_fd)
{
	char *text = NULL;
	size_t len = 0, count = 0;
	pthread_mutex_lock(&q->lock);
	bool loaded = q->store_fd >= 0;
	q->store_fd = store_fd;
	if (!loaded && cdm_read_file(store_fd, FILE_NAME, FILE_MAX, &text, &len, NULL) == 0) {
		for (size_t at = 0; at < len;) {
			const char *end = memchr(text + at, '\n', len - at);
			size_t n = end ? (size_t)(end - text) - at : len - at;
			load_line(q, text + at, n);
			at += n + 1;
		}
		free(text);
	}
	count = q->count;
	pthread_mutex_unlock(&q->lock);
	return count;
}

/* --- the list --- */

static void add(struct quarantine *q, const char *path, size_t len, const char *reason, bool unread)
{
	char *copy = malloc(len + 1);
	if (!copy)
		abort();
	memcpy(copy, path, len);
	copy[len] = 0;
	pthread_mutex_lock(&q->lock);
	size_t i = find(q, path, len);
	if (i < q->count)
		drop(q, i);
	q->number++;
	if (q->count == ENTRIES_MAX) {
		drop(q, 0);
		note_ran_over(q);
	}
	struct entry *e = &q->entries[q->count++];
	*e = (struct entry){.path = copy, .len = len, .unread = unread, .number = q->number};
	snprintf(e->reason, sizeof e->reason, "%s", reason);
	unlock_and_store(q);
}

void quarantine_add(struct quarantine *q, const char *path, size_t len, const char *reason)
{
	add(q, path, len, reason, false);
}

void quarantine_add_unread(struct quarantine *q, const char *path, size_t len, const char *reason)
{
	add(q, path, len, reason, true);
}

void quarantine_resolve(struct quarantine *q, const char *path, size_t len)
{
	if (!atomic_load_explicit(&q->count, memory_order_relaxed))
		return;
	pthread_mutex_lock(&q->lock);
	size_t i = find(q, path, len);
	if (i < q->count) {
		drop(q, i);
		unlock_and_store(q);
	} else {
		pthread_mutex_unlock(&q->lock);
	}
}

static bool is_at_or_below(const struct entry *e, const char *path, size_t len)
{
	return !len || (e->len >= len && memcmp(e->path, path, len) == 0 && (e->len == len || e->path[len] == '/'));
}

void quarantine_resolve_below(struct quarantine *q, const char *path, size_t len)
{
	pthread_mutex_lock(&q->lock);
	size_t before = q->count;
	for (size_t i = before; i-- > 0;)
		if (is_at_or_below(&q->entries[i], path, len))
			drop(q, i);
	if (q->count != before)
		unlock_and_store(q);
	else
		pthread_mutex_unlock(&q->lock);
}

size_t quarantine_count_aside(struct quarantine *q, const char *path, size_t len)
{
	size_t count = 0;
	pthread_mutex_lock(&q->lock);
	for (size_t i = 0; i < q->count; i++)
		count += !q->entries[i].unread && is_at_or_below(&q->entries[i], path, len);
	pthread_mutex_unlock(&q->lock);
	return count;
}

bool quarantine_has(struct quarantine *q, const char *path, size_t len)
{
	if (!atomic_load_explicit(&q->count, memory_order_relaxed))
		return false;
	pthread_mutex_lock(&q->lock);
	bool has = find(q, path, len) < q->count;
	pthread_mutex_unlock(&q->lock);
	return has;
}

bool quarantine_has_below(struct quarantine *q, const char *path, size_t len)
{
	bool has = false;
	if (!atomic_load_explicit(&q->count, memory_order_relaxed))
		return false;
	pthread_mutex_lock(&q->lock);
	for (size_t i = 0; i < q->count; i++)
		has |= is_at_or_below(&q->entries[i], path, len);
	pthread_mutex_unlock(&q->lock);
	return has;
}

bool quarantine_ran_over(struct quarantine *q)
{
	pthread_mutex_lock(&q->lock);
	bool over = q->ran_over;
	pthread_mutex_unlock(&q->lock);
	return over;
}

bool quarantine_may_have_below(struct quarantine *q, const char *path, size_t len)
{
	return quarantine_ran_over(q) || quarantine_has_below(q, path, len);
}

bool quarantine_has_unread(struct quarantine *q, const char *path, size_t len)
{
	bool has = false;
	if (!atomic_load_explicit(&q->count, memory_order_relaxed))
		return false;
	pthread_mutex_lock(&q->lock);
	for (size_t i = 0; i < q->count; i++)
		has |= q->entries[i].unread && is_at_or_below(&q->entries[i], path, len);
	pthread_mutex_unlock(&q->lock);
	return has;
}

void quarantine_each(struct quarantine *q, void (*fn)(void *arg, const struct set_aside *entry), void *arg)
{
	pthread_mutex_lock(&q->lock);
	for (size_t i = 0; i < q->count; i++) {
		const struct entry *e = &q->entries[i];
		fn(arg, &(struct set_aside){.path = e->path, .len = e->len, .reason = e->reason, .unread = e->unread});
	}
	pthread_mutex_unlock(&q->lock);
}

void quarantine_give_up(struct quarantine *q, const char *path, size_t len)
{
	pthread_mutex_lock(&q->lock);
	size_t i = find(q, path, len);
	if (i < q->count) {
		if (!q->entries[i].unread)
			note_ran_over(q);
		drop(q, i);
	}
	unlock_and_store(q);
}

uint64_t quarantine_number(struct quarantine *q)
{
	pthread_mutex_lock(&q->lock);
	uint64_t number = q->number;
	pthread_mutex_unlock(&q->lock);
	return number;
}

void quarantine_compared(struct quarantine *q, uint64_t number)
{
	pthread_mutex_lock(&q->lock);
	size_t before = q->count;
	bool forgets = q->ran_over && q->ran_over_number <= number;
	q->ran_over &= !forgets;
	for (size_t i = before; i-- > 0;)
		if (!q->entries[i].unread && q->entries[i].number <= number)
			drop(q, i);
	if (q->count != before || forgets)
		unlock_and_store(q);
	else
		pthread_mutex_unlock(&q->lock);
}

void quarantine_each_unread(struct quarantine *q, quarantine_fn *fn, void *arg)
{
	pthread_mutex_lock(&q->lock);
	for (size_t i = 0; i < q->count; i++)
		if (q->entries[i].unread)
			fn(arg, q->entries[i].path, q->entries[i].len);
	pthread_mutex_unlock(&q->lock);
}

bool quarantine_find(struct quarantine *q, const char *path, size_t len, char *reason, size_t room)
{
	pthread_mutex_lock(&q->lock);
	size_t i = find(q, path, len);
	bool found = i < q->count;
	if (found)
		snprintf(reason, room, "%s", q->entries[i].reason);
	pthread_mutex_unlock(&q->lock);
	return found;
}

size_t quarantine_describe(struct quarantine *q, char *out, size_t room)
{
	size_t count = atomic_load_explicit(&q->count, memory_order_relaxed);
	if (!count)
		return 0;
	pthread_mutex_lock(&q->lock);
	count = q->count;
	if (count)
		snprintf(out, room, "%zu path%s set aside, the last: %s", count, count == 1 ? "" : "s", q->entries[count - 1].reason);
	pthread_mutex_unlock(&q->lock);
	return count;
}
