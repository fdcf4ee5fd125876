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

struct listing { /* a READDIR or READDIRPLUS under way */
	struct fs *fs;
	uint64_t id;         /* of the directory */
	int fd;
	bool plus;           /* with attributes and lookups */
	uint8_t *out;
	size_t room, used;
	uint64_t offset;     /* behind the last entry taken */
};

static size_t entry_bytes(const struct listing *l, size_t name_len)
{
	return FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + name_len) + (l->plus ? FUSE_NAME_OFFSET_DIRENTPLUS - FUSE_NAME_OFFSET : 0);
}

/* Append one entry; false: no room. */
static bool entry_put(struct listing *l, uint64_t ino, uint64_t next, uint8_t type, const char *name, size_t len,
	const struct fuse_entry_out *entry)
{
	size_t bytes = entry_bytes(l, len), at = l->used;
	struct fuse_dirent *d;

	if (l->used + bytes > l->room)
		return false;
	memset(l->out + at, 0, bytes);
	if (l->plus) {
		if (entry)
			memcpy(l->out + at, entry, sizeof(*entry));
		at += FUSE_NAME_OFFSET_DIRENTPLUS - FUSE_NAME_OFFSET;
	}
	d = (void *)(l->out + at);
	*d = (struct fuse_dirent){.ino = ino, .off = next, .namelen = len, .type = type};
	memcpy(d->name, name, len);
	l->used += bytes;
	return true;
}

static bool is_dot(const char *name)
{
	return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]));
}

/* As a lookup of this name would be answered; false: the kernel is to look it up itself if it wants to. */
static bool entry_look(struct listing *l, const char *name, struct fuse_entry_out *entry)
{
	struct request part = {.fs = l->fs};
	struct object o;
	bool found;

	if (is_dot(name) || object_find(l->fs, l->fd, name, &o) < 0)
		return false;
	found = o.fd >= 0 && answer_entry(&part, l->id, name, strlen(name), &o, 0) == 0;
	object_close(&o);
	*entry = part.small.entry;
	return found;
}

static bool entry_add(struct listing *l, const struct kernel_dirent *e)
{
	size_t len = strlen(e->name);
	struct fuse_entry_out entry;
	bool looked;

	if (l->id == l->fs->content_id && strcmp(e->name, META_DIR) == 0)
		return true;
	if (l->used + entry_bytes(l, len) > l->room)
		return false;
	looked = l->plus && entry_look(l, e->name, &entry);
	return entry_put(l, e->ino, e->next, e->type, e->name, len, looked ? &entry : NULL);
}

/* Entries from the store until the answer is full or the directory ends. */
static int list_entries(struct listing *l)
{
	uint8_t raw[32768] __attribute__((aligned(8)));

	for (;;) {
		size_t want = (l->room - l->used) * 3 / (l->plus ? 12 : 4); /* our entries are larger than the store's */
		ssize_t n = getdents64(l->fd, raw, want < 1024 ? 1024 : want < sizeof(raw) ? want : sizeof(raw));
		if (n <= 0)
			return n < 0 && errno != ENOENT ? -errno : 0; /* ENOENT: removed, thus empty */
		for (ssize_t at = 0; at < n;) {
			const struct kernel_dirent *e = (const void *)(raw + at);
			if (!entry_add(l, e)) {
				lseek(l->fd, (off_t)l->offset, SEEK_SET);
				return 0;
			}
			l->offset = e->next;
			at += e->bytes;
		}
		if (l->room - l->used < entry_bytes(l, 64))
			return 0;
	}
}

static int read_root(struct request *rq, struct listing *l)
{
	static const char *const names[] = {".", "..", "content", "staging"};

	for (uint64_t i = l->offset; i < 4; i++)
		if (!entry_put(l, i + 1, i + 1, DT_DIR, names[i], strlen(names[i]), NULL))
			break;
	return request_answer(rq, l->out, l->used);
}

static int list_directory(struct request *rq, bool plus)
{
	const struct fuse_read_in *in = request_arg(rq, sizeof(*in));
	struct listing l = {.fs = rq->fs, .id = rq->node, .plus = plus, .out = rq->worker->out};
	struct stripes names;
	struct stat st;
	int r;

	if (!in || in->size > WORKER_BUFFER)
		return -EINVAL;
	l.room = in->size;
	l.offset = in->offset;
	if (rq->node == ROOT_NODE)
		return read_root(rq, &l);
	l.fd = stream_open(rq->fs, rq->node, l.offset);
	if (l.fd == -ESTALE && removed_find(rq->fs, rq->node, &st))
		return request_answer(rq, "", 0);
	if (l.fd < 0)
		return l.fd;
	if (plus)
		lock_dirs(rq->fs, &names, rq->node, 0); /* as a lookup */
	r = list_entries(&l);
	if (plus)
		unlock_stripes(&names);
	if (r == 0 && l.used)
		stream_keep(rq->node, l.offset, l.fd);
	else
		close(l.fd);
	if (r < 0 && plus)
		readdirplus_undo(rq->fs, l.out, l.used);
	return r < 0 ? r : request_answer(rq, l.out, l.used);
}

void readdirplus_undo(struct fs *fs, const uint8_t *out, size_t used)
{
	for (size_t at = 0; at + FUSE_NAME_OFFSET_DIRENTPLUS <= used;) {
		const struct fuse_direntplus *d = (const void *)(out + at);
		if (d->entry_out.nodeid && inodes_forget(fs->nodes, d->entry_out.nodeid, 1))
			node_forgotten(fs, d->entry_out.nodeid);
		at += FUSE_DIRENTPLUS_SIZE(d);
	}
}

int op_readdir(struct request *rq)
{
	return list_directory(rq, false);
}

int op_readdirplus(struct request *rq)
{
	return list_directory(rq, true);
}
