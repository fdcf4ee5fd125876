/* SPDX-License-Identifier: Apache-2.0 */
/* A hash of open descriptors with the least recently used one going first. */
#include "cdmfs/descriptors.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#define BUCKETS 256u

struct descriptors {
	pthread_mutex_t mtx;
	struct descriptor *buckets[BUCKETS];
	unsigned count;
	uint64_t clock;
};

static struct descriptor **bucket_of(struct descriptors *d, uint64_t id)
{
	return &d->buckets[(id * 0x9e3779b97f4a7c15ull) >> 56 & (BUCKETS - 1)];
}

struct descriptors *descriptors_new(void)
{
	struct descriptors *d = calloc(1, sizeof(*d));

	if (d)
		pthread_mutex_init(&d->mtx, NULL);
	return d;
}

void descriptors_free(struct descriptors **dp)
{
	struct descriptors *d = *dp;

	if (!d)
		return;
	*dp = NULL;
	for (unsigned i = 0; i < BUCKETS; i++) {
		while (d->buckets[i]) {
			struct descriptor *e = d->buckets[i];
			d->buckets[i] = e->next;
			close(e->fd);
			free(e);
		}
	}
	pthread_mutex_destroy(&d->mtx);
	free(d);
}

/* Take it out of the table; the caller frees it after unlocking, unless somebody still uses it (then the last put does). */
static struct descriptor *cut(struct descriptors *d, struct descriptor **link)
{
	struct descriptor *e = *link;

	*link = e->next;
	d->count--;
	e->dropped = 1;
	if (e->refs)
		return NULL;
	e->next = NULL;
	return e;
}

static void dispose(struct descriptor *e)
{
	while (e) {
		struct descriptor *next = e->next;
		close(e->fd);
		free(e);
		e = next;
	}
}

static struct descriptor *find(struct descriptors *d, uint64_t id, enum descriptor_kind kind)
{
	for (struct descriptor *e = *bucket_of(d, id); e; e = e->next)
		if (e->id == id && e->kind == kind)
			return e;
	return NULL;
}

/* Past the limit: the oldest of a few buckets goes (an approximation that costs a bounded number of steps). */
static struct descriptor *evict_one(struct descriptors *d, const struct descriptor *keep)
{
	struct descriptor **oldest = NULL;
	unsigned seen = 0;

	for (unsigned i = 0; i < BUCKETS && seen < 16; i++) {
		unsigned b = (d->clock * 31 + i) % BUCKETS;
		for (struct descriptor **link = &d->buckets[b]; *link; link = &(*link)->next) {
			if (*link == keep || (*link)->refs)
				continue;
			seen++;
			if (!oldest || (*link)->used < (*oldest)->used)
				oldest = link;
		}
	}
	return oldest ? cut(d, oldest) : NULL;
}

static int open_kind(int store_fd, const struct cdm_handle *handle, enum descriptor_kind kind)
{
	static const int flags[] = {
		[DESCRIPTOR_PATH] = O_PATH | O_NOFOLLOW,
		[DESCRIPTOR_READ] = O_RDONLY | O_NOFOLLOW | O_NONBLOCK,
		[DESCRIPTOR_WRITE] = O_RDWR | O_NOFOLLOW | O_NONBLOCK,
	};

	return cdm_handle_open(store_fd, handle, flags[kind] | O_CLOEXEC | (kind == DESCRIPTOR_PATH ? 0 : O_NOATIME));
}

int descriptors_get(struct descriptors *d, int store_fd, uint64_t id, const struct cdm_handle *handle, enum descriptor_kind kind,
	struct descriptor **ret)
{
	struct descriptor *e, *fresh, *gone = NULL;
	int fd;

	pthread_mutex_lock(&d->mtx);
	e = find(d, id, kind);
	if (e) {
		e->refs++;
		e->used = ++d->clock;
	}
	pthread_mutex_unlock(&d->mtx);
	if (e) {
		*ret = e;
		return 0;
	}
	fd = open_kind(store_fd, handle, kind);
	if (fd < 0)
		return fd;
	fresh = calloc(1, sizeof(*fresh));
	if (!fresh) {
		close(fd);
		return -ENOMEM;
	}
	*fresh = (struct descriptor){.fd = fd, .id = id, .kind = kind, .refs = 1};
	pthread_mutex_lock(&d->mtx);
	fresh->used = ++d->clock;
	fresh->next = *bucket_of(d, id); /* two threads may both have opened it: the older one is found last and falls out by itself */
	*bucket_of(d, id) = fresh;
	if (++d->count > DESCRIPTORS_MAX)
		gone = evict_one(d, fresh);
	pthread_mutex_unlock(&d->mtx);
	dispose(gone);
	*ret = fresh;
	return 0;
}

void descriptors_put(struct descriptors *d, struct descriptor *e)
{
	int last;

	pthread_mutex_lock(&d->mtx);
	last = --e->refs == 0 && e->dropped;
	pthread_mutex_unlock(&d->mtx);
	if (last) {
		e->next = NULL;
		dispose(e);
	}
}

void descriptors_drop(struct descriptors *d, uint64_t id)
{
	struct descriptor *gone = NULL, **link;

	pthread_mutex_lock(&d->mtx);
	link = bucket_of(d, id);
	while (*link) {
		if ((*link)->id != id) {
			link = &(*link)->next;
			continue;
		}
		struct descriptor *e = cut(d, link);
		if (e) {
			e->next = gone;
			gone = e;
		}
	}
	pthread_mutex_unlock(&d->mtx);
	dispose(gone);
}
