/* SPDX-License-Identifier: Apache-2.0 */
/* From what a request names (node id, name in a directory) to the store, and back to what the kernel is told. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include "cdmfs/fs.h"
#include "common/log.h"

int node_identify(int fd, struct cdm_handle *ret_handle, uint64_t *ret_id)
{
	int r = cdm_handle_get(fd, "", ret_handle);

	if (r == 0)
		*ret_id = inodes_id(ret_handle);
	return r;
}

/* The handle of a node; ids of ext4 carry it themselves. */
static int handle_of(struct fs *fs, uint64_t id, struct cdm_handle *ret)
{
	struct node n;

	if (!inodes_find(fs->nodes, id, &n))
		return -ESTALE;
	*ret = n.handle;
	return 0;
}

int node_open_path(struct fs *fs, uint64_t id)
{
	struct cdm_handle h;
	int r = handle_of(fs, id, &h);

	return r < 0 ? r : cdm_handle_open(fs->store.root_fd, &h, O_PATH | O_NOFOLLOW | O_CLOEXEC);
}

int node_borrow(struct fs *fs, uint64_t id, enum descriptor_kind kind, struct descriptor **ret)
{
	struct cdm_handle h;
	int r = handle_of(fs, id, &h);

	return r < 0 ? r : descriptors_get(fs->descriptors, fs->store.root_fd, id, &h, kind, ret);
}

void node_return(struct fs *fs, struct descriptor *d)
{
	if (d)
		descriptors_put(fs->descriptors, d);
}

static void say_other_filesystem(const char *name)
{
	static atomic_bool said;

	if (!atomic_exchange(&said, true))
		cdm_log(store_foreign_mount, cdm_str("name", name));
}

int object_find(struct fs *fs, int dirfd, const char *name, struct object *ret)
{
	int r;

	*ret = (struct object){.fd = -1};
	ret->fd = TEMP_FAILURE_RETRY(openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC));
	if (ret->fd < 0)
		return errno == ENOENT ? 0 : -errno;
	r = fstat(ret->fd, &ret->st) < 0 ? -errno : 0;
	if (r == 0 && ret->st.st_dev != fs->store.dev) {
		say_other_filesystem(name);
		r = -EXDEV;
	}
	if (r == 0)
		r = node_identify(ret->fd, &ret->handle, &ret->id);
	if (r < 0)
		object_close(ret);
	return r;
}

void object_close(struct object *o)
{
	if (o->fd >= 0)
		close(o->fd);
	o->fd = -1;
}

bool name_is_hidden(const struct fs *fs, uint64_t parent, const char *name)
{
	return parent == fs->content_id && strcmp(name, META_DIR) == 0;
}

/* --- answers --- */

void fill_attr(const struct fs *fs, const struct stat *st, uint32_t node_flags, struct fuse_attr *out)
{
	*out = (struct fuse_attr){
		.ino = st->st_ino, .size = st->st_size, .blocks = st->st_blocks,
		.atime = st->st_atim.tv_sec, .mtime = st->st_mtim.tv_sec, .ctime = st->st_ctim.tv_sec,
		.atimensec = st->st_atim.tv_nsec, .mtimensec = st->st_mtim.tv_nsec, .ctimensec = st->st_ctim.tv_nsec,
		.mode = st->st_mode, .nlink = st->st_nlink, .uid = st->st_uid, .gid = st->st_gid, .blksize = st->st_blksize,
	};
	/* the kernel's new_encode_dev: 12 bits of major above 8 bits of minor, the rest of minor on top */
	out->rdev = (minor(st->st_rdev) & 0xff) | major(st->st_rdev) << 8 | (minor(st->st_rdev) & ~0xffu) << 12;
	if (node_flags & NODE_ORPHAN && out->nlink)
		out->nlink--;
}

int answer_entry(struct request *rq, uint64_t parent, const char *name, size_t len, const struct object *o, uint32_t node_flags)
{
	struct node n;
	int r = inodes_see(rq->fs->nodes, &(struct node_seen){.id = o->id, .parent = parent, .name = name, .name_len = len,
		.handle = &o->handle, .type = o->st.st_mode & S_IFMT, .flags = node_flags, .lookups = 1});

	if (r < 0)
		return r;
	rq->counted = o->id;
	if (!inodes_find(rq->fs->nodes, o->id, &n))
		n.flags = node_flags;
	rq->small.entry = (struct fuse_entry_out){.nodeid = o->id, .entry_valid = FOREVER_S, .attr_valid = FOREVER_S};
	fill_attr(rq->fs, &o->st, n.flags, &rq->small.entry.attr);
	return request_answer(rq, &rq->small.entry, sizeof(rq->small.entry));
}

int answer_negative(struct request *rq)
{
	rq->small.entry = (struct fuse_entry_out){.entry_valid = FOREVER_S};
	return request_answer(rq, &rq->small.entry, sizeof(rq->small.entry));
}

int answer_attr(struct request *rq, uint64_t id, const struct stat *st)
{
	struct node n = {0};

	inodes_find(rq->fs->nodes, id, &n);
	rq->small.attr = (struct fuse_attr_out){.attr_valid = FOREVER_S};
	fill_attr(rq->fs, st, n.flags, &rq->small.attr.attr);
	return request_answer(rq, &rq->small.attr, sizeof(rq->small.attr));
}

/* --- attributes --- */

int node_stat(struct fs *fs, uint64_t id, struct stat *ret)
{
	int fd = node_open_path(fs, id), r = 0;

	if (fd < 0)
		return removed_find(fs, id, ret) ? 0 : fd;
	if (fstat(fd, ret) < 0)
		r = -errno;
	close(fd);
	return r;
}

/* --- operations --- */

/* The full mount's root: made up, there is no directory behind it. */
static void root_stat(struct fs *fs, struct stat *ret)
{
	if (fstat(fs->store.meta_fd, ret) < 0)
		memset(ret, 0, sizeof(*ret));
	ret->st_mode = S_IFDIR | 0755;
	ret->st_nlink = 4;
	ret->st_ino = ROOT_NODE;
}

static int lookup_in_root(struct request *rq, const char *name, size_t len)
{
	struct fs *fs = rq->fs;
	struct object o;
	int r;

	if (strcmp(name, "content") == 0)
		r = object_find(fs, fs->store.root_fd, ".", &o);
	else if (strcmp(name, "staging") == 0)
		r = object_find(fs, fs->store.staging_fd, ".", &o);
	else
		return answer_negative(rq);
	if (r < 0)
		return r;
	r = answer_entry(rq, 0, name, len, &o, NODE_PINNED);
	object_close(&o);
	return r;
}

/* "." asks for a node by its handle (open_by_handle_at, NFS). Only what the table knows is answered. */
static int lookup_self(struct request *rq)
{
	struct fs *fs = rq->fs;
	struct node n;
	struct object o = {.fd = -1, .id = rq->node};
	int r;

	if (!inodes_find(fs->nodes, rq->node, &n))
		return -ESTALE;
	o.handle = n.handle;
	r = node_stat(fs, rq->node, &o.st);
	return r < 0 ? r : answer_entry(rq, 0, NULL, 0, &o, 0);
}

int op_lookup(struct request *rq)
{
	struct fs *fs = rq->fs;
	size_t at = 0, len;
	const char *name = request_string(rq, &at, &len);
	struct descriptor *dir;
	struct stripes names;
	struct object o;
	int r;

	if (!name)
		return -EINVAL;
	if (rq->node == ROOT_NODE)
		return lookup_in_root(rq, name, len);
	if (strcmp(name, ".") == 0)
		return lookup_self(rq);
	if (strcmp(name, "..") == 0)
		return -ESTALE;
	if (name_is_hidden(fs, rq->node, name))
		return answer_negative(rq);
	r = node_borrow(fs, rq->node, DESCRIPTOR_PATH, &dir);
	if (r < 0)
		return r;
	lock_dirs(fs, &names, rq->node, 0); /* against an operation whose caller was killed: the kernel does not wait for it */
	r = object_find(fs, dir->fd, name, &o);
	if (r == 0)
		r = o.fd < 0 ? answer_negative(rq) : answer_entry(rq, rq->node, name, len, &o, 0);
	unlock_stripes(&names);
	object_close(&o);
	node_return(fs, dir);
	return r;
}

int op_getattr(struct request *rq)
{
	struct stat st;
	int r = 0;

	if (rq->node == ROOT_NODE)
		root_stat(rq->fs, &st);
	else
		r = node_stat(rq->fs, rq->node, &st);
	return r < 0 ? r : answer_attr(rq, rq->node, &st);
}

static void forget(struct fs *fs, uint64_t id, uint64_t count)
{
	if (id != ROOT_NODE && inodes_forget(fs->nodes, id, count))
		node_forgotten(fs, id);
}

int op_forget(struct request *rq)
{
	const struct fuse_forget_in *in = request_arg(rq, sizeof(*in));

	if (in)
		forget(rq->fs, rq->node, in->nlookup);
	return OP_SILENT;
}

int op_batch_forget(struct request *rq)
{
	const struct fuse_batch_forget_in *in = request_arg(rq, sizeof(*in));
	const struct fuse_forget_one *one;

	if (!in || rq->arg_len < sizeof(*in) + (uint64_t)in->count * sizeof(*one))
		return OP_SILENT;
	one = (const void *)(rq->arg + sizeof(*in));
	for (uint32_t i = 0; i < in->count; i++)
		forget(rq->fs, one[i].nodeid, one[i].nlookup);
	return OP_SILENT;
}

int op_readlink(struct request *rq)
{
	int fd = node_open_path(rq->fs, rq->node);
	ssize_t n;

	if (fd < 0)
		return fd;
	n = readlinkat(fd, "", (char *)rq->worker->out, WORKER_BUFFER);
	if (n < 0)
		n = -errno;
	close(fd);
	return n < 0 ? (int)n : request_answer(rq, rq->worker->out, n);
}

/* --- statx: the only way to a birth time. Newer than the headers of Debian 12. --- */

struct statx_in {
	uint32_t getattr_flags, reserved;
	uint64_t fh;
	uint32_t sx_flags, sx_mask;
};
struct statx_time {
	int64_t sec;
	uint32_t nsec;
	int32_t reserved;
};
struct statx_out {
	uint64_t attr_valid;
	uint32_t attr_valid_nsec, flags;
	uint64_t spare[2];
	uint32_t mask, blksize;
	uint64_t attributes;
	uint32_t nlink, uid, gid;
	uint16_t mode, spare0;
	uint64_t ino, size, blocks, attributes_mask;
	struct statx_time atime, btime, ctime, mtime;
	uint32_t rdev_major, rdev_minor, dev_major, dev_minor;
	uint64_t spare2[14];
};
static_assert(sizeof(struct statx_out) == 288, "struct fuse_statx_out of the kernel");

static struct statx_time timespec_time(const struct timespec *t)
{
	return (struct statx_time){.sec = t->tv_sec, .nsec = t->tv_nsec};
}

/* STATX_BTIME and the time, or 0 where the filesystem does not tell. */
static uint32_t birth_time(struct fs *fs, uint64_t id, struct statx_time *ret)
{
	struct statx sx;
	int fd = id == ROOT_NODE ? -1 : node_open_path(fs, id);
	uint32_t mask = 0;

	if (fd >= 0 && statx(fd, "", AT_EMPTY_PATH, STATX_BTIME, &sx) == 0 && sx.stx_mask & STATX_BTIME) {
		*ret = (struct statx_time){.sec = sx.stx_btime.tv_sec, .nsec = sx.stx_btime.tv_nsec};
		mask = STATX_BTIME;
	}
	if (fd >= 0)
		close(fd);
	return mask;
}

int op_statx(struct request *rq)
{
	struct statx_out *out = (void *)rq->worker->out;
	struct node n = {0};
	struct stat st;
	int r = 0;

	if (!request_arg(rq, sizeof(struct statx_in)))
		return -EINVAL;
	if (rq->node == ROOT_NODE)
		root_stat(rq->fs, &st);
	else
		r = node_stat(rq->fs, rq->node, &st);
	if (r < 0)
		return r;
	inodes_find(rq->fs->nodes, rq->node, &n);
	*out = (struct statx_out){.attr_valid = FOREVER_S, .mask = STATX_BASIC_STATS, .blksize = st.st_blksize,
		.nlink = st.st_nlink - (n.flags & NODE_ORPHAN && st.st_nlink ? 1 : 0), .uid = st.st_uid, .gid = st.st_gid, .mode = st.st_mode,
		.ino = st.st_ino, .size = st.st_size, .blocks = st.st_blocks, .atime = timespec_time(&st.st_atim),
		.ctime = timespec_time(&st.st_ctim), .mtime = timespec_time(&st.st_mtim),
		.rdev_major = major(st.st_rdev), .rdev_minor = minor(st.st_rdev)};
	out->mask |= birth_time(rq->fs, rq->node, &out->btime);
	return request_answer(rq, out, sizeof(*out));
}
