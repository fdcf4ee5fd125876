/* SPDX-License-Identifier: Apache-2.0 */
/* Content of files: read, write, sync, holes, copies. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include "cdmfs/content.h"
#include "cdmfs/save.h"
#include "common/io.h"

#ifndef RWF_DONTCACHE
#define RWF_DONTCACHE 0x80
#endif

/* The mount caches what is read; the store's own cache need not keep it a second time. */
static ssize_t read_store(struct fs *fs, int fd, void *buf, size_t len, off_t offset)
{
	struct iovec iov = {buf, len};
	ssize_t n;

	if (!atomic_load_explicit(&fs->no_dontcache, memory_order_relaxed)) {
		n = preadv2(fd, &iov, 1, offset, RWF_DONTCACHE);
		if (n >= 0 || (errno != EOPNOTSUPP && errno != EINVAL))
			return n;
		atomic_store(&fs->no_dontcache, true);
	}
	return pread(fd, buf, len, offset);
}

int op_read(struct request *rq)
{
	const struct fuse_read_in *in = request_arg(rq, sizeof(*in));
	struct descriptor *file;
	size_t done = 0;
	int r;

	if (!in || in->size > WORKER_BUFFER)
		return -EINVAL;
	r = node_borrow(rq->fs, rq->node, DESCRIPTOR_READ, &file);
	if (r < 0)
		return r;
	while (done < in->size) {
		ssize_t n = read_store(rq->fs, file->fd, rq->worker->out + done, in->size - done, in->offset + done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && done == 0)
			r = -errno;
		if (n <= 0)
			break;
		done += n;
	}
	node_return(rq->fs, file);
	return r < 0 ? r : request_answer(rq, rq->worker->out, done);
}

/* --- write --- */

/* As the caller, so that the store's reserved blocks and quota hold for him. Pages of mappings come without a caller. */
static ssize_t write_store(struct request *rq, int fd, const void *buf, size_t len, off_t offset)
{
	size_t done = 0;
	ssize_t n = 0;
	int e = 0;

	if (rq->uid)
		syscall(SYS_setfsuid, rq->uid);
	while (done < len) {
		n = pwrite(fd, (const uint8_t *)buf + done, len - done, offset + done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			e = -errno;
		if (n <= 0)
			break;
		done += n;
	}
	if (rq->uid)
		syscall(SYS_setfsuid, 0);
	return done ? (ssize_t)done : e;
}

/* Does this request bring the last bytes of an announced WRITE? */
static bool write_completes(const struct act *a, size_t len)
{
	return !(a->an->flags & CDM_AN_MORE) || a->an->spare + (uint64_t)len >= a->an->bytes;
}

/* A part of an announced WRITE, but not its last: recorded as a local change of content (so that nobody ships the file meanwhile); the
 * announced records come with the last part. A request that is sent again counts once. */
static int64_t write_part(struct request *rq, struct content_change *c, const void *data, size_t len)
{
	struct act announced = c->act;
	int64_t r;

	c->act.an = NULL;
	r = content_begin(c, rq->node);
	if (r == 0)
		r = write_store(rq, c->file->fd, data, len, c->range.offset);
	act_end(&c->act, r < 0 ? (int)r : 0);
	node_return(rq->fs, c->file);
	if (r < 0)
		return act_end(&announced, (int)r);
	if (announced.an->found.clock != rq->unique) {
		announced.an->found.clock = rq->unique;
		announced.an->spare += r;
	}
	return r;
}

/* An append goes to where the store's end is. The kernel's idea of it differs only if somebody wrote past the mount. */
static void append_where(struct content_change *c, const struct fuse_write_in *in, bool *ret_moved)
{
	*ret_moved = in->flags & O_APPEND && !(in->write_flags & FUSE_WRITE_CACHE) && (uint64_t)c->before.st_size != in->offset;
	if (*ret_moved)
		c->range.offset = c->before.st_size;
}

static int64_t write_locked(struct request *rq, struct content_change *c, const struct fuse_write_in *in, const void *data)
{
	bool moved = false;
	int64_t r;

	if (rq->redo) {
		c->range.offset = rq->redo_offset;
	} else if (in->flags & O_APPEND && !act_is_announced(&c->act)) {
		r = node_stat(rq->fs, rq->node, &c->before);
		if (r < 0)
			return act_end(&c->act, (int)r);
		append_where(c, in, &moved);
	}
	if (act_is_announced(&c->act) && !write_completes(&c->act, in->size))
		return write_part(rq, c, data, in->size);
	r = content_begin(c, rq->node);
	if (r == 0)
		r = write_store(rq, c->file->fd, data, in->size, c->range.offset);
	if (r == 0 && in->size)
		r = -EIO;
	r = content_end(c, rq->node, r, in->write_flags & FUSE_WRITE_KILL_SUIDGID);
	if (moved)
		saver_invalidate(rq->fs, rq->node, in->offset);
	return r;
}

int op_write(struct request *rq)
{
	const struct fuse_write_in *in = request_arg(rq, sizeof(*in));
	struct content_change c = {0};
	struct stripes nodes;
	int64_t r;

	if (!in || rq->arg_len < sizeof(*in) + in->size)
		return -EINVAL;
	r = act_init(&c.act, rq, CDM_OP_WRITE, CDM_CALL_WRITE);
	if (r < 0)
		return r;
	c.range = (struct cdm_range){in->offset, in->size};
	lock_nodes(rq->fs, &nodes, rq->node, 0);
	r = write_locked(rq, &c, in, rq->arg + sizeof(*in));
	unlock_stripes(&nodes);
	if (r < 0)
		return (int)r;
	rq->small.write = (struct fuse_write_out){.size = r};
	return request_answer(rq, &rq->small.write, sizeof(rq->small.write));
}

/* --- sync: first the data, then the journal's record of it, then the answer --- */

/* The version whose content is all written by now. False: never versioned. */
static bool stamp_when_written(struct fs *fs, uint64_t id, int fd, struct cdm_stamp *ret)
{
	struct stripes nodes;
	bool found;

	lock_nodes(fs, &nodes, id, 0);
	found = cdm_stamp_get(fd, ret) == 0 && !cdm_dot_is_none(ret->content.dot);
	unlock_stripes(&nodes);
	return found;
}

int op_fsync(struct request *rq)
{
	const struct fuse_fsync_in *in = request_arg(rq, sizeof(*in));
	struct descriptor *file;
	struct cdm_change synced = {.op = CDM_OP_SYNCED};
	struct cdm_stamp stamp;
	int r;

	if (!in)
		return -EINVAL;
	r = node_borrow(rq->fs, rq->node, DESCRIPTOR_READ, &file);
	if (r < 0)
		return r;
	bool ours = stamp_when_written(rq->fs, rq->node, file->fd, &stamp) && CDM_ORIGIN_NODE(stamp.content.dot.origin) == rq->fs->node_number;
	r = in->fsync_flags & FUSE_FSYNC_FDATASYNC ? cdm_fdatasync(file->fd) : cdm_fsync(file->fd);
	node_return(rq->fs, file);
	if (r == 0 && ours) {
		synced.version = stamp.content;
		r = cdm_journal_put(rq->fs->journal, &synced);
	}
	return r < 0 ? r : cdm_journal_sync(rq->fs->journal);
}

int op_fsyncdir(struct request *rq)
{
	struct node n;
	int fd, r;

	if (rq->node == ROOT_NODE || !inodes_find(rq->fs->nodes, rq->node, &n))
		return 0;
	fd = cdm_handle_open(rq->fs->store.root_fd, &n.handle, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return fd == -ESTALE ? 0 : fd; /* removed: nothing is left to sync */
	r = cdm_fsync(fd);
	close(fd);
	return r < 0 ? r : cdm_journal_sync(rq->fs->journal);
}

/* --- holes and reserved space --- */

int op_fallocate(struct request *rq)
{
	const struct fuse_fallocate_in *in = request_arg(rq, sizeof(*in));
	struct content_change c = {0};
	struct stripes nodes;
	bool grows;
	int64_t r;

	if (!in)
		return -EINVAL;
	r = act_init(&c.act, rq, CDM_OP_WRITE, CDM_CALL_FALLOCATE);
	if (r < 0)
		return r;
	lock_nodes(rq->fs, &nodes, rq->node, 0);
	r = node_stat(rq->fs, rq->node, &c.before);
	grows = !(in->mode & FALLOC_FL_KEEP_SIZE) && in->offset + in->length > (uint64_t)c.before.st_size;
	c.range = (struct cdm_range){in->offset, in->length};
	c.truncate = grows;
	c.size = in->offset + in->length;
	if ((in->mode & ~FALLOC_FL_KEEP_SIZE) == 0) { /* only reserves: the content does not change, the size may */
		c.range = (struct cdm_range){0, 0};
		c.act.silent = !grows;
	}
	if (r == 0)
		r = content_begin(&c, rq->node);
	if (r == 0) {
		if (rq->uid)
			syscall(SYS_setfsuid, rq->uid);
		r = fallocate(c.file->fd, in->mode, in->offset, in->length) < 0 ? -errno : 0;
		if (rq->uid)
			syscall(SYS_setfsuid, 0);
	}
	r = content_end(&c, rq->node, r, rq->uid != 0);
	unlock_stripes(&nodes);
	return (int)r;
}

int op_lseek(struct request *rq)
{
	const struct fuse_lseek_in *in = request_arg(rq, sizeof(*in));
	struct descriptor *file;
	off_t at;
	int r;

	if (!in || (in->whence != SEEK_DATA && in->whence != SEEK_HOLE))
		return -EINVAL;
	r = node_borrow(rq->fs, rq->node, DESCRIPTOR_READ, &file);
	if (r < 0)
		return r;
	at = lseek(file->fd, in->offset, in->whence);
	if (at < 0)
		r = -errno;
	node_return(rq->fs, file);
	rq->small.lseek.offset = at;
	return r < 0 ? r : request_answer(rq, &rq->small.lseek, sizeof(rq->small.lseek));
}

static int64_t copy_store(struct content_change *c, int from, off_t offset, size_t len)
{
	off_t to = c->range.offset;
	ssize_t n = copy_file_range(from, &offset, c->file->fd, &to, len, 0);

	return n < 0 ? -errno : n;
}

int op_copy_file_range(struct request *rq)
{
	const struct fuse_copy_file_range_in *in = request_arg(rq, sizeof(*in));
	struct content_change c = {0};
	struct descriptor *from;
	struct stripes nodes;
	int64_t r;

	if (!in)
		return -EINVAL;
	r = act_init(&c.act, rq, CDM_OP_WRITE, CDM_CALL_WRITE);
	if (r < 0)
		return r;
	r = node_borrow(rq->fs, rq->node, DESCRIPTOR_READ, &from);
	if (r < 0)
		return act_end(&c.act, r);
	c.range = (struct cdm_range){in->off_out, in->len > 1u << 30 ? 1u << 30 : in->len};
	lock_nodes(rq->fs, &nodes, in->nodeid_out, 0);
	r = content_begin(&c, in->nodeid_out);
	if (r == 0)
		r = copy_store(&c, from->fd, in->off_in, c.range.length);
	r = content_end(&c, in->nodeid_out, r, rq->uid != 0);
	unlock_stripes(&nodes);
	node_return(rq->fs, from);
	if (r < 0)
		return r == -EXDEV ? -EOPNOTSUPP : (int)r; /* the kernel then copies by reading and writing */
	rq->small.write = (struct fuse_write_out){.size = r};
	return request_answer(rq, &rq->small.write, sizeof(rq->small.write));
}

int op_statfs(struct request *rq)
{
	struct statvfs v;
	struct fuse_kstatfs *st = &rq->small.statfs.st;

	if (fstatvfs(rq->fs->store.root_fd, &v) < 0)
		return -errno;
	rq->small.statfs = (struct fuse_statfs_out){0};
	*st = (struct fuse_kstatfs){.blocks = v.f_blocks, .bfree = v.f_bfree, .bavail = v.f_bavail, .files = v.f_files, .ffree = v.f_ffree,
		.bsize = v.f_bsize, .namelen = v.f_namemax, .frsize = v.f_frsize};
	return request_answer(rq, &rq->small.statfs, sizeof(rq->small.statfs));
}
