/* SPDX-License-Identifier: Apache-2.0 */
#include "common/journal_tail.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "common/io.h"

static int map_fd(int fd, uint64_t capacity, struct tail *ret)
{
	void *p = mmap(NULL, TAIL_HEADER_SIZE + capacity, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return -errno;
	*ret = (struct tail){.header = p, .ring = (uint8_t *)p + TAIL_HEADER_SIZE, .capacity = capacity, .fd = fd};
	return 0;
}

static int tail_path(const char *run_dir, const char *name, char out[PATH_MAX])
{
	int n = snprintf(out, PATH_MAX, "%s/%s", run_dir, name);
	return n < 0 || n >= PATH_MAX ? -ENAMETOOLONG : 0;
}

static bool capacity_is_sound(uint64_t capacity)
{
	return capacity >= TAIL_BYTES_MIN && capacity <= TAIL_BYTES_MAX && (capacity & (capacity - 1)) == 0;
}

int tail_map(const char *run_dir, struct tail *ret)
{
	char path[PATH_MAX];
	*ret = TAIL_NONE;
	int r = tail_path(run_dir, TAIL_FILE, path);
	if (r < 0)
		return r;
	_cleanup_close_ int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return -errno;
	struct stat st;
	if (fstat(fd, &st) < 0)
		return -errno;
	uint64_t capacity = (uint64_t)st.st_size - TAIL_HEADER_SIZE;
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size <= TAIL_HEADER_SIZE || !capacity_is_sound(capacity))
		return -EBADMSG;
	r = map_fd(fd, capacity, ret);
	if (r < 0)
		return r;
	cdm_take_fd(&fd);
	const struct tail_header *h = ret->header;
	if (h->magic != TAIL_MAGIC || h->version != TAIL_VERSION || h->capacity != capacity) {
		tail_unmap(ret);
		return -EBADMSG;
	}
	return 0;
}

static void retire_old(const char *run_dir)
{
	struct tail old;
	if (tail_map(run_dir, &old) == 0) {
		atomic_store(&old.header->closed, 1);
		tail_unmap(&old);
	}
}

static int fill_new(int fd, uint64_t capacity, struct tail *ret)
{
	/* Take the memory now: a full /run must be an error here, not a signal in the middle of a system call. */
	int r = posix_fallocate(fd, 0, (off_t)(TAIL_HEADER_SIZE + capacity));
	return r ? -r : map_fd(fd, capacity, ret);
}

int tail_create(const char *run_dir, uint64_t capacity, uint64_t base, uint64_t instance, uint32_t node_number,
	struct tail *ret, struct cdm_error *err)
{
	char path[PATH_MAX], temporary[PATH_MAX];
	*ret = TAIL_NONE;
	if (tail_path(run_dir, TAIL_FILE, path) < 0 || tail_path(run_dir, TAIL_FILE ".new", temporary) < 0)
		return cdm_fail(err, ENAMETOOLONG, "journal tail in %s", run_dir);
	retire_old(run_dir);
	unlink(temporary);
	_cleanup_close_ int fd = open(temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return cdm_fail(err, errno, "create %s", temporary);
	int r = fill_new(fd, capacity, ret);
	if (r < 0) {
		unlink(temporary);
		cdm_fail(err, -r, "take %llu MiB of memory for %s", (unsigned long long)(capacity >> 20), path);
		cdm_hint(err, "make room in %s, which lies in memory", run_dir);
		return r;
	}
	cdm_take_fd(&fd);
	struct tail_header *h = ret->header;
	h->magic = TAIL_MAGIC;
	h->version = TAIL_VERSION;
	h->node_number = node_number;
	h->instance = instance;
	h->capacity = capacity;
	h->base = base;
	h->reserved = h->head = h->frontier = h->synced = base;
	if (rename(temporary, path) < 0) {
		r = cdm_fail(err, errno, "rename %s to %s", temporary, path);
		unlink(temporary);
		tail_unmap(ret);
		return r;
	}
	return 0;
}

void tail_unmap(struct tail *t)
{
	if (t->header)
		munmap(t->header, TAIL_HEADER_SIZE + t->capacity);
	cdm_cleanup_close(&t->fd);
	*t = TAIL_NONE;
}

static uint64_t own_start_time(void)
{
	_cleanup_free_ char *text = NULL;
	if (cdm_read_file(AT_FDCWD, "/proc/self/stat", 4096, &text, NULL, NULL) < 0)
		return 0;
	const char *p = strrchr(text, ')'); /* the name before it may hold anything */
	for (int field = 2; p && field < 22; field++)
		p = strchr(p + 1, ' ');
	return p ? strtoull(p + 1, NULL, 10) : 0;
}

void tail_set_writer(struct tail *t)
{
	atomic_store(&t->header->writer_start, own_start_time());
	atomic_store(&t->header->writer_pid, (uint32_t)getpid());
}

bool tail_is_current(const struct tail *t)
{
	struct stat st;
	return !atomic_load(&t->header->closed) && fstat(t->fd, &st) == 0 && st.st_nlink > 0;
}

uint64_t tail_oldest(const struct tail *t)
{
	uint64_t reserved = atomic_load_explicit(&t->header->reserved, memory_order_acquire);
	return reserved > t->header->base + t->capacity ? reserved - t->capacity : t->header->base;
}

static int wake_path(const char *run_dir, unsigned slot, char out[PATH_MAX])
{
	char name[32] = "wake";
	if (slot > 0)
		snprintf(name, sizeof name, "wake.%u", slot);
	return tail_path(run_dir, name, out);
}

uint32_t tail_wake_slots(const char *run_dir)
{
	uint32_t slots = 0;
	char path[PATH_MAX];
	for (unsigned i = 0; i < TAIL_READERS; i++)
		if (wake_path(run_dir, i, path) == 0 && access(path, F_OK) == 0)
			slots |= 1u << i;
	return slots;
}

int tail_open_wake(const char *run_dir, unsigned slot)
{
	char path[PATH_MAX];
	int r = wake_path(run_dir, slot, path);
	if (r < 0)
		return r;
	if (mkfifo(path, 0600) < 0 && errno != EEXIST)
		return -errno;
	_cleanup_close_ int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return -errno;
	struct stat st;
	if (fstat(fd, &st) < 0)
		return -errno;
	return S_ISFIFO(st.st_mode) ? cdm_take_fd(&fd) : -EEXIST;
}

static bool process_is_gone(uint32_t pid)
{
	return kill((pid_t)pid, 0) < 0 && errno == ESRCH;
}

unsigned tail_claim_slot(struct tail *t)
{
	for (unsigned i = 0; i < TAIL_READERS; i++) {
		uint32_t owner = atomic_load(&t->header->reader_pids[i]);
		if (owner && !process_is_gone(owner))
			continue;
		if (atomic_compare_exchange_strong(&t->header->reader_pids[i], &owner, (uint32_t)getpid()))
			return i;
	}
	return 0;
}

void tail_release_slot(struct tail *t, unsigned slot)
{
	uint32_t own = (uint32_t)getpid();
	atomic_compare_exchange_strong(&t->header->reader_pids[slot], &own, 0);
}
