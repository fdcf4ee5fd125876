/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/quarantine.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ENTRIES_MAX 256 /* the oldest goes: it is in the log */

struct entry {
	char *path;
	size_t len;
	char reason[256];
};

struct quarantine {
	pthread_mutex_t lock;
	struct entry entries[ENTRIES_MAX]; /* oldest first */
	_Atomic size_t count;
};

struct quarantine *quarantine_new(void)
{
	struct quarantine *q = calloc(1, sizeof *q);
	if (!q)
		abort();
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

void quarantine_add(struct quarantine *q, const char *path, size_t len, const char *reason)
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
	if (q->count == ENTRIES_MAX)
		drop(q, 0);
	struct entry *e = &q->entries[q->count++];
	*e = (struct entry){.path = copy, .len = len};
	snprintf(e->reason, sizeof e->reason, "%s", reason);
	pthread_mutex_unlock(&q->lock);
}

void quarantine_resolve(struct quarantine *q, const char *path, size_t len)
{
	if (!atomic_load_explicit(&q->count, memory_order_relaxed))
		return;
	pthread_mutex_lock(&q->lock);
	size_t i = find(q, path, len);
	if (i < q->count)
		drop(q, i);
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
