/* SPDX-License-Identifier: Apache-2.0 */
/* load.c — authors that save and readers that look, side by side with a story. Threads only note what went wrong; the story's own
 * thread fails the test, for cmocka knows one thread. */
#include "tests/cluster/story.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define FILE_BYTES (24u << 10)

void fill_version(void *bytes, size_t len, uint64_t version)
{
	for (size_t i = 0; i < len; i++)
		((uint8_t *)bytes)[i] = (uint8_t)(version >> (i % 8 * 8));
}

/* -- authors ----------------------------------------------------------------------------------------------------- */

struct load {
	pthread_t thread;
	_Atomic bool stop;
	char *dir;
	unsigned files, saves;
	enum load_how how;
	char failure[5000];
};

static bool went(struct load *l, long result, const char *what, const char *path)
{
	if (result < 0 && !*l->failure)
		snprintf(l->failure, sizeof l->failure, "%s %s: %s", what, path, strerror(errno));
	return result >= 0;
}

static bool put(struct load *l, const char *path, uint64_t version)
{
	uint8_t bytes[FILE_BYTES];
	size_t len = sizeof bytes - version % 1000 * 8;
	fill_version(bytes, len, version);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (!went(l, fd, "open", path))
		return false;
	for (size_t done = 0; done < len; done += 8192) { /* in pieces, as programs with small buffers do */
		size_t piece = len - done < 8192 ? len - done : 8192;
		if (!went(l, write(fd, bytes + done, piece), "write", path)) {
			close(fd);
			return false;
		}
	}
	return went(l, close(fd), "close", path);
}

static bool save_once(struct load *l, unsigned i, uint64_t version)
{
	char path[4096], temporary[4096];
	snprintf(path, sizeof path, "%s/load-%u", l->dir, i);
	snprintf(temporary, sizeof temporary, "%s/.load-%u.tmp%llu", l->dir, i, (unsigned long long)version);
	if (l->how == LOAD_REWRITE || (l->how == LOAD_MIXED && version % 3 == 0))
		return put(l, path, version);
	return put(l, temporary, version) && went(l, rename(temporary, path), "rename", path);
}

/* A directory is made, filled, renamed, and the one before it removed. */
static bool turn_directory(struct load *l, uint64_t round)
{
	char a[4096], b[4096], file[4200];
	snprintf(a, sizeof a, "%s/dir-%llu", l->dir, (unsigned long long)round);
	snprintf(b, sizeof b, "%s/moved-%llu", l->dir, (unsigned long long)round);
	snprintf(file, sizeof file, "%s/inside", a);
	if (!went(l, mkdir(a, 0755), "mkdir", a) || !put(l, file, round + 1) || !went(l, rename(a, b), "rename", a))
		return false;
	if (round < 3)
		return true;
	snprintf(b, sizeof b, "%s/moved-%llu", l->dir, (unsigned long long)round - 3);
	snprintf(file, sizeof file, "%s/inside", b);
	return went(l, unlink(file), "unlink", file) && went(l, rmdir(b), "rmdir", b);
}

static void *load_thread(void *arg)
{
	struct load *l = arg;
	for (uint64_t version = 1; !l->stop && !*l->failure; version++) {
		for (unsigned i = 0; i < l->files && !l->stop; i++) {
			if (!save_once(l, i, version))
				return NULL;
			l->saves++;
		}
		if (l->how == LOAD_MIXED && !turn_directory(l, version - 1))
			return NULL;
	}
	return NULL;
}

struct load *load_begin(const char *node, const char *dir, unsigned files, enum load_how how)
{
	struct load *l = calloc(1, sizeof *l);
	assert_non_null(l);
	l->dir = lab_path(lab, node, dir);
	l->files = files;
	l->how = how;
	if (mkdir(l->dir, 0755) < 0 && errno != EEXIST)
		fail_msg("mkdir %s: %s", l->dir, strerror(errno));
	assert_int_equal(pthread_create(&l->thread, NULL, load_thread, l), 0);
	return l;
}

unsigned load_end(struct load *l)
{
	l->stop = true;
	pthread_join(l->thread, NULL);
	unsigned saves = l->saves;
	if (*l->failure)
		fail_msg("a save failed after %u: %s", saves, l->failure);
	free(l->dir);
	free(l);
	return saves;
}

/* -- readers ----------------------------------------------------------------------------------------------------- */

struct reader {
	pthread_t thread;
	_Atomic bool stop;
	char *path;
	bool may_be_absent;
	unsigned looks;
	char failure[5000];
};

/* One open file must hold one version from its first to its last byte. */
static bool whole(struct reader *r, const uint8_t *bytes, size_t len)
{
	for (size_t i = 8; i < len; i++)
		if (bytes[i] != bytes[i - 8]) {
			snprintf(r->failure, sizeof r->failure, "%s: two versions in one file, from byte %zu of %zu on", r->path, i, len);
			return false;
		}
	if (len == 0)
		snprintf(r->failure, sizeof r->failure, "%s: empty", r->path);
	return len > 0;
}

static void look(struct reader *r, uint8_t *bytes, size_t room)
{
	int fd = open(r->path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		if (errno != ENOENT || !r->may_be_absent)
			snprintf(r->failure, sizeof r->failure, "open %s: %s", r->path, strerror(errno));
		return;
	}
	size_t len = 0;
	for (ssize_t n; len < room && (n = read(fd, bytes + len, room - len < 4096 ? room - len : 4096)) != 0;) {
		if (n < 0) {
			snprintf(r->failure, sizeof r->failure, "read %s: %s", r->path, strerror(errno));
			close(fd);
			return;
		}
		len += (size_t)n;
	}
	close(fd);
	if (whole(r, bytes, len))
		r->looks++;
}

static void *reader_thread(void *arg)
{
	struct reader *r = arg;
	size_t room = 4u << 20;
	uint8_t *bytes = malloc(room);
	while (bytes && !r->stop && !*r->failure) {
		look(r, bytes, room);
		nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL); /* leave the processor to those that are looked at */
	}
	free(bytes);
	return NULL;
}

struct reader *reader_begin(const char *node, const char *path, bool may_be_absent)
{
	struct reader *r = calloc(1, sizeof *r);
	assert_non_null(r);
	r->path = lab_path(lab, node, path);
	r->may_be_absent = may_be_absent;
	assert_int_equal(pthread_create(&r->thread, NULL, reader_thread, r), 0);
	return r;
}

unsigned reader_end(struct reader *r)
{
	r->stop = true;
	pthread_join(r->thread, NULL);
	unsigned looks = r->looks;
	if (*r->failure)
		fail_msg("after %u good looks: %s", looks, r->failure);
	free(r->path);
	free(r);
	return looks;
}
