/* SPDX-License-Identifier: Apache-2.0 */
/* Notes of trees that came out of local or excluded names and are still to be told to the others (publish.h). */
#include "cdmfs/publish.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "cdmfs/save.h"
#include "common/io.h"
#include "common/log.h"

#define PUBLISH_DIR "publish"

static void note_file(uint64_t note, char out[64])
{
	snprintf(out, 64, PUBLISH_DIR "/%016" PRIx64, note);
}

/* Larger than any before it, also of servers before. */
static uint64_t next_note(void)
{
	static _Atomic uint64_t last;
	struct timespec ts;
	uint64_t before = atomic_load(&last), now;

	clock_gettime(CLOCK_BOOTTIME, &ts);
	do
		now = (uint64_t)ts.tv_sec * 1000000000 + ts.tv_nsec > before ? (uint64_t)ts.tv_sec * 1000000000 + ts.tv_nsec : before + 1;
	while (!atomic_compare_exchange_weak(&last, &before, now));
	return now;
}

int publish_note(struct fs *fs, const char *path, size_t len, uint64_t *ret_note)
{
	uint64_t note = next_note();
	char name[64];
	int r;

	note_file(note, name);
	if (mkdirat(fs->run_fd, PUBLISH_DIR, 0700) < 0 && errno != EEXIST)
		return -errno;
	_cleanup_close_ int fd = openat(fs->run_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	r = write(fd, path, len) == (ssize_t)len ? 0 : -ENOSPC;
	if (r < 0)
		unlinkat(fs->run_fd, name, 0);
	else
		*ret_note = note;
	return r;
}

void publish_forget(struct fs *fs, uint64_t note)
{
	char name[64];

	if (!note)
		return;
	note_file(note, name);
	unlinkat(fs->run_fd, name, 0);
}

/* Notes of one server begin with the oldest. */
static int oldest_first(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static int is_note(const struct dirent *e)
{
	return e->d_name[0] != '.';
}

void publish_resume(struct fs *fs)
{
	struct dirent **list;
	int count = scandirat(fs->run_fd, PUBLISH_DIR, &list, is_note, oldest_first);

	for (int i = 0; i < count; i++) {
		char name[300], *end;
		_cleanup_free_ char *path = NULL;
		size_t len;
		uint64_t note = strtoull(list[i]->d_name, &end, 16);

		snprintf(name, sizeof(name), PUBLISH_DIR "/%s", list[i]->d_name);
		if (*end == 0 && cdm_read_file(fs->run_fd, name, CDM_PATH_MAX, &path, &len, NULL) == 0 && len)
			saver_publish_tree(fs, path, len, note);
		else
			unlinkat(fs->run_fd, name, 0);
		free(list[i]);
	}
	if (count >= 0)
		free(list);
}
