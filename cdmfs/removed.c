/* SPDX-License-Identifier: Apache-2.0 */
/* Removed, but maybe open: a directory or special file has no content to keep, its attributes are remembered for a while. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include "cdmfs/fs.h"

#define REMOVED_FILE "removed"
#define REMOVED_MAX 256 /* the oldest goes; who still has it open then gets ESTALE */

struct removed_entry { /* in RUN/SET/removed */
	_Atomic uint64_t id; /* written last, 0 while it changes */
	struct stat st;
};
struct removed {
	pthread_mutex_t mtx;
	unsigned next;
	struct removed_entry *map;
};

int removed_open(struct fs *fs, struct cdm_error *err)
{
	const size_t size = REMOVED_MAX * sizeof(struct removed_entry);
	_cleanup_close_ int fd = openat(fs->run_fd, REMOVED_FILE, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	struct removed *r = calloc(1, sizeof(*r));
	void *map;

	if (!r)
		return cdm_fail(err, ENOMEM, "attributes of what was removed");
	pthread_mutex_init(&r->mtx, NULL);
	fs->removed = r;
	if (fd < 0 || ftruncate(fd, size) < 0 || fallocate(fd, 0, 0, size) < 0)
		return cdm_fail(err, errno, "open %s/" REMOVED_FILE, fs->run_dir);
	map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return cdm_fail(err, errno, "map %s/" REMOVED_FILE, fs->run_dir);
	r->map = map;
	return 0;
}

void removed_close(struct fs *fs)
{
	struct removed *r = fs->removed;

	if (!r)
		return;
	fs->removed = NULL;
	if (r->map)
		munmap(r->map, REMOVED_MAX * sizeof(*r->map));
	pthread_mutex_destroy(&r->mtx);
	free(r);
}

/* An entry of the same node is used again: a removal may be tried many times. */
static struct removed_entry *place_for(struct removed *r, uint64_t id)
{
	for (unsigned i = 0; i < REMOVED_MAX; i++)
		if (atomic_load_explicit(&r->map[i].id, memory_order_relaxed) == id)
			return &r->map[i];
	struct removed_entry *e = &r->map[r->next];
	r->next = (r->next + 1) % REMOVED_MAX;
	return e;
}

void removed_note(struct fs *fs, uint64_t id, const struct stat *st)
{
	struct removed *r = fs->removed;
	struct removed_entry *e;

	pthread_mutex_lock(&r->mtx);
	e = place_for(r, id);
	atomic_store(&e->id, 0);
	e->st = *st;
	e->st.st_nlink = 0;
	clock_gettime(CLOCK_REALTIME, &e->st.st_ctim);
	atomic_store_explicit(&e->id, id, memory_order_release);
	pthread_mutex_unlock(&r->mtx);
}

bool removed_find(struct fs *fs, uint64_t id, struct stat *ret)
{
	struct removed *r = fs->removed;
	bool found = false;

	pthread_mutex_lock(&r->mtx);
	for (unsigned i = 0; id && i < REMOVED_MAX && !found; i++)
		if (atomic_load(&r->map[i].id) == id) {
			*ret = r->map[i].st;
			found = true;
		}
	pthread_mutex_unlock(&r->mtx);
	return found;
}
