/* SPDX-License-Identifier: Apache-2.0 */
/* The server's side of its signs of life (alive.h). */
#include "cdmfs/alive.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include "cdmfs/fs.h"

int alive_open(struct fs *fs, struct cdm_error *err)
{
	_cleanup_close_ int fd = openat(fs->run_fd, ALIVE_FILE, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	struct alive *map;

	if (fd < 0 || ftruncate(fd, sizeof(*map)) < 0 || fallocate(fd, 0, 0, sizeof(*map)) < 0)
		return cdm_fail(err, errno, "open %s/" ALIVE_FILE, fs->run_dir);
	map = mmap(NULL, sizeof(*map), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return cdm_fail(err, errno, "map %s/" ALIVE_FILE, fs->run_dir);
	memset(map, 0, sizeof(*map)); /* what the server before was at */
	map->thread_bytes = sizeof(map->threads[0]);
	atomic_store(&map->version, ALIVE_VERSION);
	fs->alive = map;
	return 0;
}

void alive_close(struct fs *fs)
{
	if (fs->alive)
		munmap(fs->alive, sizeof(*fs->alive));
	fs->alive = NULL;
}

static int64_t coarse_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

void alive_thread_is(struct worker *w)
{
	atomic_store_explicit(&w->fs->alive->threads[w->index].tid, gettid(), memory_order_relaxed);
}

void alive_begin(struct worker *w)
{
	struct alive_thread *t = &w->fs->alive->threads[w->index];

	atomic_store_explicit(&t->taken, atomic_load_explicit(&t->taken, memory_order_relaxed) + 1, memory_order_relaxed);
	atomic_store_explicit(&t->since_ns, coarse_ns(), memory_order_relaxed);
}

void alive_waits(struct worker *w)
{
	atomic_store_explicit(&w->fs->alive->threads[w->index].since_ns, ALIVE_WAITS, memory_order_relaxed);
}

void alive_end(struct worker *w)
{
	atomic_store_explicit(&w->fs->alive->threads[w->index].since_ns, 0, memory_order_relaxed);
}
