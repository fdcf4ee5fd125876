/* SPDX-License-Identifier: Apache-2.0 */
/* conflict_room.c — what is kept in conflicts/ is bounded: beyond the limit the oldest goes, after an event that names it. The
 * mount's server keeps losers there, too, so the directory itself is what is counted. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "replicator/publish.h"

#define KEPT_FILES 10000
#define KEPT_BYTES (1ull << 30)
#define LOOK_MS 1000

struct kept {
	char *name;
	int64_t since_ns;
	uint64_t bytes;
};

struct room {
	struct kept *files;
	size_t count, space;
	uint64_t bytes;
};

static void room_add(struct room *room, const char *name, const struct stat *st)
{
	if (room->count == room->space) {
		room->space = room->space ? 2 * room->space : 256;
		room->files = realloc(room->files, room->space * sizeof *room->files);
		if (!room->files)
			abort();
	}
	struct kept *k = &room->files[room->count++];
	*k = (struct kept){.name = strdup(name), .since_ns = st->st_ctim.tv_sec * 1000000000ll + st->st_ctim.tv_nsec,
		.bytes = (uint64_t)st->st_blocks * 512};
	if (!k->name)
		abort();
	room->bytes += k->bytes;
}

static int read_room(int dir_fd, struct room *room)
{
	int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (!d) {
		int e = errno;
		if (fd >= 0)
			close(fd);
		return -e;
	}
	for (struct dirent *e; (e = readdir(d));) {
		struct stat st;
		if (e->d_name[0] == '.' && (!e->d_name[1] || (e->d_name[1] == '.' && !e->d_name[2])))
			continue;
		if (fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISDIR(st.st_mode))
			room_add(room, e->d_name, &st);
	}
	closedir(d);
	return 0;
}

static int older(const void *a, const void *b)
{
	const struct kept *x = a, *y = b;
	return x->since_ns < y->since_ns ? -1 : x->since_ns > y->since_ns;
}

static void make_room(struct publisher *pub, struct room *room)
{
	size_t left = room->count;
	if (left <= KEPT_FILES && room->bytes <= KEPT_BYTES)
		return;
	qsort(room->files, room->count, sizeof *room->files, older);
	for (size_t i = 0; i + 1 < room->count && (left > KEPT_FILES || room->bytes > KEPT_BYTES); i++, left--) { /* never the newest */
		const struct kept *k = &room->files[i];
		cdm_log(conflict_dropped, cdm_str("set", set_name(pub->set)), cdm_str("kept", k->name), cdm_uint("bytes", k->bytes));
		unlinkat(pub->set->conflicts_fd, k->name, 0);
		room->bytes -= k->bytes;
	}
}

static size_t tidy(struct publisher *pub)
{
	struct room room = {0};
	if (read_room(pub->set->conflicts_fd, &room) == 0)
		make_room(pub, &room);
	size_t count = room.count;
	for (size_t i = 0; i < room.count; i++)
		free(room.files[i].name);
	free(room.files);
	pub->tidied_ms = cdm_now_ms();
	pub->kept_more = false;
	return count;
}

void conflict_begin(struct publisher *pub)
{
	count_up(&pub->set->counters.conflicts, tidy(pub)); /* those of earlier runs count */
}

void conflict_tidy(struct publisher *pub)
{
	if (pub->kept_more && cdm_now_ms() - pub->tidied_ms >= LOOK_MS)
		tidy(pub);
}
