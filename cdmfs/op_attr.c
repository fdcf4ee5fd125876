/* SPDX-License-Identifier: Apache-2.0 */
/* Attributes and extended attributes. */
#include <errno.h>
#include <fcntl.h>
#include <linux/limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>
#include "cdmfs/content.h"

#define OWN_XATTRS "trusted.cdmfs."
#define STATUS_XATTR "user.cdmfs.status"
#define ACL_XATTR "system.posix_acl_access"

/* What an O_PATH descriptor is good for: calls that take a path. */
static const char *self_path(int fd, char out[32])
{
	snprintf(out, 32, "/proc/self/fd/%d", fd);
	return out;
}

/* --- setattr --- */

static int set_times(int fd, const struct fuse_setattr_in *in)
{
	struct timespec ts[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_OMIT}};

	if (in->valid & FATTR_ATIME_NOW)
		ts[0].tv_nsec = UTIME_NOW;
	else if (in->valid & FATTR_ATIME)
		ts[0] = (struct timespec){(int64_t)in->atime, in->atimensec};
	if (in->valid & FATTR_MTIME_NOW)
		ts[1].tv_nsec = UTIME_NOW;
	else if (in->valid & FATTR_MTIME)
		ts[1] = (struct timespec){(int64_t)in->mtime, in->mtimensec};
	if (ts[0].tv_nsec == UTIME_OMIT && ts[1].tv_nsec == UTIME_OMIT)
		return 0;
	return utimensat(fd, "", ts, AT_EMPTY_PATH) < 0 ? -errno : 0;
}

static int truncate_file(struct content_change *c, const struct fuse_setattr_in *in)
{
	char self[32];

	/* truncate(2) leaves the mtime alone if the size stays, ftruncate and O_TRUNC do not. */
	if (in->valid & FATTR_MTIME)
		return ftruncate(c->file->fd, in->size) < 0 ? -errno : 0;
	return truncate(self_path(c->file->fd, self), in->size) < 0 ? -errno : 0;
}

static int set_size(struct request *rq, const struct fuse_setattr_in *in, struct act *act)
{
	struct content_change c = {.act = *act, .truncate = true, .size = in->size, .by_path = !(in->valid & FATTR_FH)};
	int r = content_begin(&c, rq->node);

	if (r == 0)
		r = truncate_file(&c, in);
	if (r == 0 && in->valid & FATTR_MTIME && !(in->valid & FATTR_MTIME_NOW))
		r = set_times(c.file->fd, in);
	return (int)content_end(&c, rq->node, r, in->valid & FATTR_KILL_SUIDGID);
}

static int64_t wall_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

/* What is asked for, so that a server that finds the record pending can do it. */
static void describe_attr(struct cdm_attr *attr, const struct fuse_setattr_in *in)
{
	*attr = (struct cdm_attr){.mode = in->mode, .uid = in->uid, .gid = in->gid};
	if (in->valid & FATTR_MODE)
		attr->mask |= CDM_ATTR_MODE;
	if (in->valid & FATTR_UID)
		attr->mask |= CDM_ATTR_UID;
	if (in->valid & FATTR_GID)
		attr->mask |= CDM_ATTR_GID;
	if (in->valid & FATTR_MTIME)
		attr->mask |= CDM_ATTR_MTIME;
	if (in->valid & FATTR_ATIME)
		attr->mask |= CDM_ATTR_ATIME;
	attr->mtime_ns = in->valid & FATTR_MTIME_NOW ? wall_ns() : (int64_t)in->mtime * 1000000000ll + in->mtimensec;
	attr->atime_ns = in->valid & FATTR_ATIME_NOW ? wall_ns() : (int64_t)in->atime * 1000000000ll + in->atimensec;
}

static int change_attr(int fd, const struct fuse_setattr_in *in)
{
	char self[32];
	uid_t uid = in->valid & FATTR_UID ? in->uid : (uid_t)-1;
	gid_t gid = in->valid & FATTR_GID ? in->gid : (gid_t)-1;

	if (in->valid & (FATTR_UID | FATTR_GID) && fchownat(fd, "", uid, gid, AT_EMPTY_PATH) < 0)
		return -errno;
	if (in->valid & FATTR_MODE && chmod(self_path(fd, self), in->mode & 07777) < 0)
		return -errno;
	return set_times(fd, in);
}

/* A change of a node's attributes or xattrs under way. */
struct attr_change {
	struct act act;
	int fd;           /* O_PATH */
	struct stat st;
	struct stripes nodes;
};

static int attr_begin(struct attr_change *c)
{
	struct act *a = &c->act;
	struct request *rq = a->rq;
	struct fs *fs = rq->fs;
	struct place_path p;
	struct object o = {.id = rq->node};
	struct node n;
	int r;

	c->fd = node_open_path(fs, rq->node);
	if (c->fd < 0)
		return c->fd;
	if (fstat(c->fd, &c->st) < 0)
		return -errno;
	if (inodes_find(fs->nodes, rq->node, &n)) {
		a->c.handle = n.handle;
		if (n.flags & NODE_NEW)
			a->c.flags |= CDM_CH_UNSAVED;
	}
	r = path_of_node(fs, rq->node, rq->worker->path, &p);
	if (r == -ENAMETOOLONG)
		return r;
	act_set_path(a, &p);
	a->silent = p.place == PLACE_STAGING && !act_is_announced(a);
	if (p.place == PLACE_NONE) /* removed, and still open: an empty path would mean the root to the others */
		a->c.flags |= CDM_CH_UNSAVED;
	o.fd = c->fd;
	o.st = c->st;
	if (S_ISREG(c->st.st_mode) && c->st.st_nlink > 1)
		a->c.flags |= CDM_CH_LINKED;
	r = act_policy(a);
	if (r == 0)
		r = act_expect(a, &o);
	return r < 0 ? r : act_begin(a);
}

static int attr_end(struct attr_change *c, int r)
{
	struct act *a = &c->act;

	if (r == 0)
		r = act_stamp(a, c->fd, false, true);
	if (r == -EOPNOTSUPP && !S_ISREG(c->st.st_mode) && !S_ISDIR(c->st.st_mode))
		r = 0; /* some filesystems take no xattrs on special files */
	if (r == 0 && fstat(c->fd, &c->st) < 0)
		r = -errno;
	if (r == 0) {
		uint32_t mask = a->c.attr.mask;
		int64_t atime_ns = c->st.st_atim.tv_sec * 1000000000ll + c->st.st_atim.tv_nsec;
		act_set_attr(a, &c->st);
		a->c.attr.mask = mask;
		a->c.attr.atime_ns = atime_ns;
	}
	r = act_end(a, r);
	if (c->fd >= 0)
		close(c->fd);
	return r;
}

#define FATTR_OTHERS (FATTR_MODE | FATTR_UID | FATTR_GID | FATTR_ATIME | FATTR_MTIME)

/* Something was done in the directory since the replicator looked at it. The kernel lets nothing be done in it now. */
static bool mtime_stays(const struct attr_change *c, const struct fuse_setattr_in *in)
{
	int64_t now_ns = c->st.st_mtim.tv_sec * 1000000000ll + c->st.st_mtim.tv_nsec;

	return act_is_announced(&c->act) && c->act.an->flags & CDM_AN_MTIME_SEEN && in->valid & FATTR_MTIME && now_ns != c->act.an->parent_mtime_ns &&
		now_ns > (int64_t)in->mtime * 1000000000ll + in->mtimensec;
}

static int setattr_others(struct request *rq, struct fuse_setattr_in *in)
{
	struct attr_change c = {.fd = -1};
	int r = act_init(&c.act, rq, CDM_OP_SETATTR, CDM_CALL_SETATTR);

	if (r < 0)
		return r;
	describe_attr(&c.act.c.attr, in);
	r = attr_begin(&c);
	if (r == 0 && mtime_stays(&c, in))
		in->valid &= ~FATTR_MTIME;
	if (r == 0)
		r = change_attr(c.fd, in);
	return attr_end(&c, r);
}

static int setattr_size(struct request *rq, const struct fuse_setattr_in *in)
{
	struct act act;
	int r = act_init(&act, rq, CDM_OP_WRITE, CDM_CALL_SETATTR);

	return r < 0 ? r : set_size(rq, in, &act);
}

/* The kernel asks for setuid and setgid to go, as a write would do it: the same as if the mode had been given. */
static int take_kill(struct request *rq, struct fuse_setattr_in *in)
{
	struct stat st;
	mode_t keep;
	int r;

	if (!(in->valid & FATTR_KILL_SUIDGID) || in->valid & (FATTR_MODE | FATTR_SIZE))
		return 0;
	r = node_stat(rq->fs, rq->node, &st);
	if (r < 0)
		return r;
	keep = mode_without_privileges(st.st_mode);
	if (S_ISREG(st.st_mode) && keep != st.st_mode) {
		in->valid |= FATTR_MODE;
		in->mode = keep;
	}
	return 0;
}

/* chown(-1, -1) and the like: only the ctime moves, which is nobody else's. */
static int setattr_nothing(struct request *rq)
{
	int fd = node_open_path(rq->fs, rq->node), r = 0;

	if (fd < 0)
		return fd;
	if (fchownat(fd, "", -1, -1, AT_EMPTY_PATH) < 0)
		r = -errno;
	close(fd);
	return r;
}

static int setattr_locked(struct request *rq, const struct fuse_setattr_in *asked)
{
	struct fuse_setattr_in in = *asked;
	uint32_t others;
	struct stat st;
	int r = take_kill(rq, &in);

	others = in.valid & FATTR_OTHERS;
	if (r == 0 && in.valid & FATTR_SIZE) {
		r = setattr_size(rq, &in);
		others &= ~(uint32_t)(FATTR_MTIME | (in.valid & FATTR_ATIME_NOW ? FATTR_ATIME : 0));
	}
	if (r == 0 && others)
		r = setattr_others(rq, &in);
	else if (r == 0 && !(in.valid & FATTR_SIZE))
		r = setattr_nothing(rq);
	if (r == 0)
		r = node_stat(rq->fs, rq->node, &st);
	return r < 0 ? r : answer_attr(rq, rq->node, &st);
}

int op_setattr(struct request *rq)
{
	const struct fuse_setattr_in *in = request_arg(rq, sizeof(*in));
	struct stripes nodes;
	int r;

	if (!in)
		return -EINVAL;
	if (rq->node == ROOT_NODE)
		return -EPERM;
	lock_nodes(rq->fs, &nodes, rq->node, 0);
	r = setattr_locked(rq, in);
	unlock_stripes(&nodes);
	return r;
}

/* --- xattrs --- */

static bool is_own(const char *name)
{
	return strncmp(name, OWN_XATTRS, strlen(OWN_XATTRS)) == 0;
}

/* Setting an access ACL clears the setgid bit of those who are not in the group; the kernel has found out who. */
static int clear_setgid(int fd, mode_t mode)
{
	char self[32];
	struct stat st;

	if (!(mode & S_ISGID) || fstat(fd, &st) < 0)
		return 0;
	return chmod(self_path(fd, self), st.st_mode & 07777 & ~(mode_t)S_ISGID) < 0 ? -errno : 0;
}

int op_setxattr(struct request *rq)
{
	const struct fuse_setxattr_in *in = request_arg(rq, sizeof(*in));
	struct attr_change c = {.fd = -1};
	size_t at = sizeof(*in), len;
	const char *name = request_string(rq, &at, &len);
	const void *value = rq->arg + at;
	char self[32];
	int r;

	if (!in || !name || in->size > rq->arg_len - at)
		return -EINVAL;
	if (rq->node == ROOT_NODE)
		return control_set(rq, name, value, in->size);
	if (is_own(name) || strcmp(name, STATUS_XATTR) == 0)
		return -EPERM;
	lock_nodes(rq->fs, &c.nodes, rq->node, 0);
	r = act_init(&c.act, rq, CDM_OP_SETXATTR, CDM_CALL_SETXATTR);
	if (r == 0) {
		c.act.c.name = name;
		c.act.c.name_len = len;
		c.act.c.value = value;
		c.act.c.value_len = in->size;
		r = attr_begin(&c);
		if (r == 0 && setxattr(self_path(c.fd, self), name, value, in->size, in->flags) < 0)
			r = -errno;
		if (r == 0 && in->setxattr_flags & FUSE_SETXATTR_ACL_KILL_SGID && strcmp(name, ACL_XATTR) == 0)
			r = clear_setgid(c.fd, c.st.st_mode);
		r = attr_end(&c, r);
	}
	unlock_stripes(&c.nodes);
	return r;
}

int op_removexattr(struct request *rq)
{
	struct attr_change c = {.fd = -1};
	size_t at = 0, len;
	const char *name = request_string(rq, &at, &len);
	char self[32];
	int r;

	if (!name)
		return -EINVAL;
	if (rq->node == ROOT_NODE || is_own(name))
		return -ENODATA;
	lock_nodes(rq->fs, &c.nodes, rq->node, 0);
	r = act_init(&c.act, rq, CDM_OP_REMOVEXATTR, CDM_CALL_REMOVEXATTR);
	if (r == 0) {
		c.act.c.name = name;
		c.act.c.name_len = len;
		r = attr_begin(&c);
		if (r == 0 && removexattr(self_path(c.fd, self), name) < 0)
			r = -errno;
		r = attr_end(&c, r);
	}
	unlock_stripes(&c.nodes);
	return r;
}

int answer_xattr(struct request *rq, const void *value, size_t len, uint32_t size)
{
	if (size == 0) {
		rq->small.xattr = (struct fuse_getxattr_out){.size = len};
		return request_answer(rq, &rq->small.xattr, sizeof(rq->small.xattr));
	}
	return len > size ? -ERANGE : request_answer(rq, value, len);
}

int op_getxattr(struct request *rq)
{
	const struct fuse_getxattr_in *in = request_arg(rq, sizeof(*in));
	size_t at = sizeof(*in), len;
	const char *name = request_string(rq, &at, &len);
	char self[32];
	ssize_t n;
	int fd;

	if (!in || !name)
		return -EINVAL;
	if (rq->node == ROOT_NODE)
		return control_get(rq, name, in->size);
	if (strcmp(name, STATUS_XATTR) == 0)
		return control_file_status(rq, rq->node, in->size);
	if (is_own(name))
		return -ENODATA;
	fd = node_open_path(rq->fs, rq->node);
	if (fd < 0)
		return fd;
	n = getxattr(self_path(fd, self), name, rq->worker->out, XATTR_SIZE_MAX);
	if (n < 0)
		n = -errno;
	close(fd);
	return n < 0 ? (int)n : answer_xattr(rq, rq->worker->out, n, in->size);
}

/* Leaves out our own names, in place. */
static size_t filter_names(char *list, size_t len)
{
	size_t to = 0;

	for (size_t at = 0; at < len;) {
		size_t one = strnlen(list + at, len - at) + 1;
		if (!is_own(list + at)) {
			memmove(list + to, list + at, one);
			to += one;
		}
		at += one;
	}
	return to;
}

int op_listxattr(struct request *rq)
{
	const struct fuse_getxattr_in *in = request_arg(rq, sizeof(*in));
	char *list = (char *)rq->worker->out, self[32];
	ssize_t n;
	int fd;

	if (!in)
		return -EINVAL;
	if (rq->node == ROOT_NODE)
		return answer_xattr(rq, "", 0, in->size);
	fd = node_open_path(rq->fs, rq->node);
	if (fd < 0)
		return fd;
	n = listxattr(self_path(fd, self), list, XATTR_LIST_MAX);
	if (n < 0)
		n = -errno;
	close(fd);
	return n < 0 ? (int)n : answer_xattr(rq, list, filter_names(list, n), in->size);
}
