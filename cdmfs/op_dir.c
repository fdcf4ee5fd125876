/* SPDX-License-Identifier: Apache-2.0 */
/* Reading directories. There is no opendir: each READDIR says node and offset. A few streams stay open where the next one will
 * probably go on; any other offset is sought (the store's offsets are stable). */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include "cdmfs/fs.h"

#define STREAMS 16

static pthread_mutex_t streams_mtx = PTHREAD_MUTEX_INITIALIZER;
static struct stream {
	uint64_t id, offset, used;
	int fd; /* 0 = free slot: descriptors 0 to 2 are never directories */
} streams[STREAMS];
static uint64_t streams_clock;

static int stream_take(uint64_t id, uint64_t offset)
{
	int fd = -1;

	pthread_mutex_lock(&streams_mtx);
	for (unsigned i = 0; i < STREAMS && fd < 0; i++) {
		if (streams[i].fd && streams[i].id == id && streams[i].offset == offset) {
			fd = streams[i].fd;
			streams[i].fd = 0;
		}
	}
	pthread_mutex_unlock(&streams_mtx);
	return fd;
}

static void stream_keep(uint64_t id, uint64_t offset, int fd)
{
	struct stream *oldest = &streams[0];
	int close_fd;

	pthread_mutex_lock(&streams_mtx);
	for (unsigned i = 0; i < STREAMS; i++) {
		if (!streams[i].fd) {
			oldest = &streams[i];
			break;
		}
		if (streams[i].used < oldest->used)
			oldest = &streams[i];
	}
	close_fd = oldest->fd;
	*oldest = (struct stream){.id = id, .offset = offset, .used = ++streams_clock, .fd = fd};
	pthread_mutex_unlock(&streams_mtx);
	if (close_fd)
		close(close_fd);
}

/* 0 or more: entries end at this offset; -errno. */
static int stream_open(struct fs *fs, uint64_t id, uint64_t offset)
{
	struct node n;
	int fd = stream_take(id, offset);

	if (fd >= 0)
		return fd;
	if (!inodes_find(fs->nodes, id, &n))
		return -ESTALE;
	fd = cdm_handle_open(fs->store.root_fd, &n.handle, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0 && offset && lseek(fd, (off_t)offset, SEEK_SET) < 0) {
		close(fd);
		return -EINVAL;
	}
	return fd;
}

struct kernel_dirent { /* of getdents64 */
	uint64_t ino;
	int64_t next;
	uint16_t bytes;
	uint8_t type;
	char name[];
};

/* Append one entry; false: no room. */
static bool entry_put(uint8_t *out, size_t room, size_t *used, uint64_t ino, uint64_t next, uint8_t type, const char *name, size_t len)
{
	size_t bytes = FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + len);
	struct fuse_dirent *d = (void *)(out + *used);

	if (*used + bytes > room)
		return false;
	*d = (struct fuse_dirent){.ino = ino, .off = next, .namelen = len, .type = type};
	memcpy(d->name, name, len);
	memset(d->name + len, 0, bytes - FUSE_NAME_OFFSET - len);
	*used += bytes;
	return true;
}

static bool entry_hidden(const struct fs *fs, uint64_t id, const struct kernel_dirent *e)
{
	return id == fs->content_id && strcmp(e->name, META_DIR) == 0;
}

/* Entries from fd into out until it is full or the directory ends. *offset moves to behind the last one taken. */
static int read_entries(struct fs *fs, uint64_t id, int fd, uint8_t *out, size_t room, uint64_t *offset, size_t *used)
{
	uint8_t raw[32768] __attribute__((aligned(8)));

	for (;;) {
		size_t want = (room - *used) * 3 / 4; /* our entries are a little larger than the store's */
		ssize_t n = getdents64(fd, raw, want < 1024 ? 1024 : want < sizeof(raw) ? want : sizeof(raw));
		if (n <= 0)
			return n < 0 && errno != ENOENT ? -errno : 0; /* ENOENT: removed, thus empty */
		for (ssize_t at = 0; at < n;) {
			const struct kernel_dirent *e = (const void *)(raw + at);
			if (!entry_hidden(fs, id, e) &&
			    !entry_put(out, room, used, e->ino, e->next, e->type, e->name, strlen(e->name))) {
				lseek(fd, (off_t)*offset, SEEK_SET);
				return 0;
			}
			*offset = e->next;
			at += e->bytes;
		}
		if (room - *used < FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + 64))
			return 0;
	}
}

static int read_root(struct request *rq, uint64_t offset, size_t room)
{
	static const char *const names[] = {".", "..", "content", "staging"};
	size_t used = 0;

	for (uint64_t i = offset; i < 4; i++)
		if (!entry_put(rq->worker->out, room, &used, i + 1, i + 1, DT_DIR, names[i], strlen(names[i])))
			break;
	return request_answer(rq, rq->worker->out, used);
}

int op_readdir(struct request *rq)
{
	const struct fuse_read_in *in = request_arg(rq, sizeof(*in));
	uint64_t offset;
	size_t used = 0;
	struct stat st;
	int fd, r;

	if (!in || in->size > WORKER_BUFFER)
		return -EINVAL;
	offset = in->offset;
	if (rq->node == ROOT_NODE)
		return read_root(rq, offset, in->size);
	fd = stream_open(rq->fs, rq->node, offset);
	if (fd == -ESTALE && removed_find(rq->node, &st))
		return request_answer(rq, "", 0);
	if (fd < 0)
		return fd;
	r = read_entries(rq->fs, rq->node, fd, rq->worker->out, in->size, &offset, &used);
	if (r == 0 && used)
		stream_keep(rq->node, offset, fd);
	else
		close(fd);
	return r < 0 ? r : request_answer(rq, rq->worker->out, used);
}
