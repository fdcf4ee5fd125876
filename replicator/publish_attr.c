/* SPDX-License-Identifier: Apache-2.0 */
/* publish_attr.c — attributes, content changed in place, removal of whole trees: several announced calls for one change,
 * the last of which carries its record. A crash before that leaves the change unapplied, and it is done again. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "common/faultpoint.h"
#include "common/io.h"
#include "replicator/content.h"
#include "replicator/delta_read.h"
#include "replicator/publish_ops.h"

struct attr_call {
	int fd;          /* O_PATH of the subject, or an open file */
	char proc[64];
	mode_t mode;
	uid_t uid;
	gid_t gid;
	struct timespec times[2];
	off_t size;
	const void *data;
	size_t len;
	const char *name;
	const struct cdm_change *change;
};

static int call_chown(void *arg)
{
	struct attr_call *a = arg;
	return fchownat(a->fd, "", a->uid, a->gid, AT_EMPTY_PATH);
}

static int call_chmod(void *arg)
{
	struct attr_call *a = arg;
	return chmod(a->proc, a->mode);
}

static int call_utimens(void *arg)
{
	struct attr_call *a = arg;
	return utimensat(a->fd, "", a->times, AT_EMPTY_PATH);
}

static int call_truncate(void *arg)
{
	struct attr_call *a = arg;
	return ftruncate(a->fd, a->size);
}

static int call_pwrite(void *arg)
{
	struct attr_call *a = arg;
	int r = cdm_pwrite_all(a->fd, a->data, a->len, a->size);
	if (r < 0)
		errno = -r;
	return r < 0 ? -1 : 0;
}

static int call_xattr(void *arg)
{
	struct attr_call *a = arg;
	if (a->change->op == CDM_OP_REMOVEXATTR)
		return removexattr(a->proc, a->name);
	return setxattr(a->proc, a->name, a->change->value, a->change->value_len, 0);
}

static void set_times(struct attr_call *a, const struct cdm_attr *attr)
{
	a->times[0] = attr->mask & CDM_ATTR_ATIME ? cdm_time_of(attr->atime_ns) : (struct timespec){.tv_nsec = UTIME_OMIT};
	a->times[1] = attr->mask & CDM_ATTR_MTIME ? cdm_time_of(attr->mtime_ns) : (struct timespec){.tv_nsec = UTIME_OMIT};
}

/* The subject in the mount (O_PATH) and its stamp from the store. fd or -errno. */
static int open_subject(struct publisher *pub, const struct cdm_change *c, struct attr_call *call, struct cdm_stamp *stamp)
{
	char name[CDM_NAME_LEN_MAX + 1];
	int parent = c->path_len ? publisher_parent(pub, c->path, c->path_len, name) : pub->full_fd;
	if (parent < 0)
		return parent;
	call->fd = openat(parent, c->path_len ? name : "content", O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (call->fd < 0)
		return -errno;
	snprintf(call->proc, sizeof call->proc, "/proc/self/fd/%d", call->fd);
	_cleanup_close_ int in_store = c->path_len ? cdm_open_beneath(pub->set->store_fd, c->path, c->path_len, O_PATH | O_NOFOLLOW, 0) : -1;
	int r = c->path_len && in_store < 0 ? in_store : stamp_of(c->path_len ? in_store : pub->set->store_fd, stamp);
	if (r < 0) {
		close(call->fd);
		call->fd = -1;
	}
	return r;
}

/* Attributes that a later change of another node set already stay. */
static bool attributes_are_newer(const struct cdm_stamp *stamp, const struct cdm_change *c)
{
	if (stamp->attr_clock != c->clock)
		return stamp->attr_clock > c->clock;
	return stamp->attr_origin > c->dot.origin;
}

/* Another content than the change speaks of; not one without a version. */
static bool is_another(const struct cdm_stamp *stamp, const struct cdm_change *c)
{
	return !cdm_dot_is_none(stamp->content.dot) && !cdm_dot_equal(stamp->content.dot, c->version.dot);
}

/* The mtime of a directory was this when it was looked at: what is done in it until the call counts. */
static void mtime_seen(struct step *step, int64_t mtime_ns)
{
	step->a.flags |= CDM_AN_MTIME_SEEN;
	step->a.parent_mtime_ns = mtime_ns;
}

/* Owner, mode, times in this order (a new owner takes setuid away); the last call carries the record. */
static int attr_steps(struct publisher *pub, struct incoming *in, struct attr_call *call, const struct cdm_attr *attr, const struct step *last)
{
	struct {
		uint32_t mask;
		call_fn *fn;
	} steps[] = {{CDM_ATTR_UID | CDM_ATTR_GID, call_chown}, {CDM_ATTR_MODE, call_chmod}, {CDM_ATTR_MTIME | CDM_ATTR_ATIME, call_utimens}};
	call->uid = attr->mask & CDM_ATTR_UID ? stage_uid(in, attr->uid) : (uid_t)-1;
	call->gid = attr->mask & CDM_ATTR_GID ? stage_gid(in, attr->gid) : (gid_t)-1;
	call->mode = attr->mode & 07777;
	set_times(call, attr);
	size_t last_step = 3;
	for (size_t i = 0; i < 3; i++)
		if (attr->mask & steps[i].mask)
			last_step = i;
	if (last_step == 3)
		return APPLY_SKIP;
	for (size_t i = 0; i <= last_step; i++) {
		if (!(attr->mask & steps[i].mask))
			continue;
		struct step step;
		step_init(&step, CDM_CALL_SETATTR, in, NULL);
		step.a.flags = last->a.flags | CDM_AN_PART;
		step.a.attr_clock = last->a.attr_clock;
		step.a.attr_origin = last->a.attr_origin;
		if (i == last_step)
			step = *last;
		int r = publisher_call(pub, &step, steps[i].fn, call, NULL);
		if (r < 0)
			return r == -ESTALE ? APPLY_RETRY : r;
		cdm_faultpoint("publish.attributes_partly_set");
	}
	return APPLIED;
}

int apply_setattr(struct publisher *pub, struct incoming *in, struct cdm_error *err)
{
	const struct cdm_change *c = &in->carried.change;
	struct attr_call call = {.fd = -1};
	struct cdm_stamp stamp;
	int r = open_subject(pub, c, &call, &stamp);
	if (is_gone(r) && !in->resync && cdm_dot_is_none(c->version.dot)) /* no journal told how it came to be (an adopted tree) */
		return apply_instead(pub, in, c->path, c->path_len, err);
	pub->odd |= r < 0;
	if (r < 0)
		return is_gone(r) ? APPLY_NOTHING : r;
	_cleanup_close_ int fd = call.fd;
	struct stat st;
	pub->odd |= !cdm_dot_equal(stamp.content.dot, c->version.dot);
	if (fstat(fd, &st) < 0)
		return -errno;
	if (in->decisive ? stamp.attr_clock > in->began_clock : attributes_are_newer(&stamp, c)) {
		pub->odd = true; /* one clock for all attributes: the later change may have been of another one */
		return APPLY_NOTHING;
	}
	struct cdm_attr attr = c->attr;
	if (S_ISLNK(st.st_mode))
		attr.mask &= ~(uint32_t)CDM_ATTR_MODE;
	bool written = in->resync && S_ISREG(st.st_mode) && is_another(&stamp, c); /* since trees were compared: that ships with its own mtime */
	if (written)
		attr.mask &= ~(uint32_t)CDM_ATTR_MTIME;
	struct cdm_change record = record_of(pub, in);
	struct step last;
	step_init(&last, CDM_CALL_SETATTR, in, &record);
	if (!in->resync || c->clock > 1) { /* 1: a comparison of trees found none */
		last.a.attr_clock = c->clock;
		last.a.attr_origin = c->dot.origin;
		last.a.flags = in->decisive ? 0 : CDM_AN_ATTR_ORDER;
	}
	if (in->resync && S_ISREG(st.st_mode))
		expect_version(&last, stamp.content.dot);
	if (in->resync && !written) /* an adopted file: it is what the sender has under this version */
		last.a.stamp = c->version;
	if (in->mtime_was_ns)
		mtime_seen(&last, in->mtime_was_ns);
	return attr_steps(pub, in, &call, &attr, &last);
}

static int call_one_xattr(void *arg)
{
	struct attr_call *a = arg;
	return setxattr(a->proc, a->name, a->data, a->len, 0);
}

static int call_remove_xattr(void *arg)
{
	struct attr_call *a = arg;
	return removexattr(a->proc, a->name);
}

static bool is_carried(const struct incoming *in, const char *name)
{
	for (size_t i = 0; i < in->carried.xattr_count; i++)
		if (strcmp(in->carried.xattrs[i].name, name) == 0)
			return true;
	return false;
}

/* Not one that this object cannot have, or does not have. */
static bool is_fault(int r)
{
	return r < 0 && r != -ENODATA && r != -ENOTSUP && r != -EPERM && r != -EACCES && r != -ENOENT && r != -ERANGE && r != -E2BIG && r != -EINVAL;
}

/* Those that the sender does not have. */
static int remove_other_xattrs(struct publisher *pub, struct incoming *in, struct attr_call *call)
{
	char names[8192];
	ssize_t n = listxattr(call->proc, names, sizeof names);
	if (n < 0 && is_fault(-errno))
		return -errno;
	for (const char *name = names; n > 0 && name < names + n; name += strlen(name) + 1) {
		struct step step;
		if (!content_xattr_replicates(name) || is_carried(in, name))
			continue;
		step_init(&step, CDM_CALL_REMOVEXATTR, in, NULL);
		call->name = name;
		int r = publisher_call(pub, &step, call_remove_xattr, call, NULL);
		if (is_fault(r))
			return r;
	}
	return 0;
}

static int set_all_xattrs(struct publisher *pub, struct incoming *in, struct attr_call *call)
{
	for (size_t i = 0; i < in->carried.xattr_count; i++) {
		const struct carried_xattr *x = &in->carried.xattrs[i];
		struct step step;
		if (!content_xattr_replicates(x->name))
			continue;
		step_init(&step, CDM_CALL_SETXATTR, in, NULL);
		call->name = x->name;
		call->data = x->value;
		call->len = x->value_len;
		int r = publisher_call(pub, &step, call_one_xattr, call, NULL);
		if (is_fault(r))
			return r;
	}
	return 0;
}

int apply_directory_attributes(struct publisher *pub, struct incoming *in)
{
	const struct cdm_change *c = &in->carried.change;
	struct cdm_version mine = change_version(c);
	struct attr_call call = {.fd = -1};
	struct cdm_stamp stamp;
	int r = open_subject(pub, c, &call, &stamp);
	if (r < 0)
		return is_gone(r) ? APPLY_RETRY : r;
	_cleanup_close_ int fd = call.fd;
	struct stat st;
	if (fstat(fd, &st) < 0)
		return -errno;
	raise_parent(pub, in, c->path, c->path_len, c->parent_mtime_ns);
	bool wins = in->resync || cdm_dot_is_none(stamp.content.dot) || cdm_version_compare(&mine, &stamp.content) > 0;
	int64_t here_ns = st.st_mtim.tv_sec * 1000000000ll + st.st_mtim.tv_nsec;
	const struct carried *k = &in->carried;
	struct cdm_attr attr = {.mask = CDM_ATTR_MTIME | (wins ? CDM_ATTR_MODE | CDM_ATTR_UID | CDM_ATTR_GID : 0), .mode = k->mode,
		.uid = k->uid, .gid = k->gid, .mtime_ns = in->resync || k->mtime_ns > here_ns ? k->mtime_ns : here_ns};
	if (in->resync)
		r = set_all_xattrs(pub, in, &call);
	if (r == 0 && in->decisive)
		r = remove_other_xattrs(pub, in, &call);
	if (r < 0)
		return r;
	struct cdm_change record = record_of(pub, in);
	struct step last;
	step_init(&last, CDM_CALL_SETATTR, in, &record);
	if (!in->resync)
		mtime_seen(&last, here_ns);
	if (wins) { /* else the record goes on to the others, who decide the same way */
		last.a.stamp = mine;
		last.a.attr_clock = k->stamp.attr_clock;
		last.a.attr_origin = k->stamp.attr_origin;
	}
	return attr_steps(pub, in, &call, &attr, &last);
}

int apply_xattr(struct publisher *pub, struct incoming *in, struct cdm_error *err)
{
	const struct cdm_change *c = &in->carried.change;
	char name[CDM_NAME_LEN_MAX + 1];
	struct attr_call call = {.fd = -1, .name = name, .change = c};
	struct cdm_stamp stamp;
	memcpy(name, c->name, c->name_len);
	name[c->name_len] = 0;
	if (!content_xattr_replicates(name))
		return cdm_fail_plain(err, EPERM, "attribute %s does not replicate", name);
	int r = open_subject(pub, c, &call, &stamp);
	pub->odd |= r < 0;
	if (r < 0)
		return is_gone(r) ? APPLY_NOTHING : r;
	_cleanup_close_ int fd = call.fd; /* for its end only */
	(void)fd;
	bool another = !cdm_dot_equal(stamp.content.dot, c->version.dot);
	pub->odd |= another;
	if (attributes_are_newer(&stamp, c)) {
		pub->odd = true;
		return APPLY_NOTHING;
	}
	struct cdm_change record = record_of(pub, in);
	struct step step;
	step_init(&step, c->op == CDM_OP_SETXATTR ? CDM_CALL_SETXATTR : CDM_CALL_REMOVEXATTR, in, &record);
	step.a.attr_clock = c->clock;
	step.a.attr_origin = c->dot.origin;
	step.a.flags = CDM_AN_ATTR_ORDER;
	r = publisher_call(pub, &step, call_xattr, &call, NULL);
	pub->odd |= r < 0;
	bool not_for_this = another && (r == -EPERM || r == -ENOTSUP || r == -EACCES); /* user.… of a symlink, a default ACL of a file */
	if (r == -ENODATA || r == -ENOENT || not_for_this)
		return APPLY_NOTHING;
	return r == -ESTALE ? APPLY_RETRY : r < 0 ? cdm_fail(err, -r, "set attribute %s", name) : APPLIED;
}

void raise_parent(struct publisher *pub, struct incoming *in, const char *path, size_t len, int64_t mtime_ns)
{
	char name[CDM_NAME_LEN_MAX + 1];
	struct stat st;
	int parent = mtime_ns && len ? publisher_parent(pub, path, len, name) : -ENOENT;
	int r = parent < 0 ? parent : fstat(parent, &st) < 0 ? -errno : 0;
	int64_t here_ns = r < 0 ? 0 : st.st_mtim.tv_sec * 1000000000ll + st.st_mtim.tv_nsec;
	pub->job->odd_surely |= r < 0 && !is_gone(r); /* trees will tell */
	if (r < 0 || here_ns >= mtime_ns)
		return;
	struct attr_call call = {.fd = parent};
	struct cdm_attr attr = {.mask = CDM_ATTR_MTIME, .mtime_ns = mtime_ns};
	struct step step;
	set_times(&call, &attr);
	step_init(&step, CDM_CALL_SETATTR, in, NULL);
	mtime_seen(&step, here_ns);
	r = publisher_call(pub, &step, call_utimens, &call, NULL);
	pub->job->odd_surely |= r < 0 && !is_gone(r);
}

/* --- content in place --- */

static int write_piece(struct publisher *pub, struct incoming *in, int fd, uint64_t offset, const void *data, size_t len, struct cdm_dot expect)
{
	struct attr_call call = {.fd = fd, .size = (off_t)offset, .data = data, .len = len};
	struct step step;
	step_init(&step, CDM_CALL_WRITE, in, NULL);
	step.a.flags = CDM_AN_MORE;
	step.a.bytes = len;
	step.a.expect = CDM_EXPECT_VERSION;
	step.a.expect_version = expect;
	return publisher_call(pub, &step, call_pwrite, &call, NULL);
}

struct in_place { /* a content that is written into the file that is there */
	struct publisher *pub;
	struct incoming *in;
	int fd;
	struct cdm_dot expect;
};

static int write_range(void *arg, const uint8_t *data, size_t len, uint64_t at)
{
	struct in_place *s = arg;
	return write_piece(s->pub, s->in, s->fd, at, data, len, s->expect);
}

/* What is to be a hole: zeros, where there is data. */
static int write_hole(struct in_place *to, uint64_t at, uint64_t end)
{
	static const uint8_t zeros[FRAME_PIECE_MAX];
	int r = 0;
	for (uint64_t part_end; r == 0 && at < end;) {
		int data = delta_part(to->fd, at, end, &part_end);
		uint64_t len = part_end - at < sizeof zeros || data == 0 ? part_end - at : sizeof zeros;
		r = data == 1 ? write_range(to, zeros, (size_t)len, at) : data;
		at += len;
	}
	return r;
}

static int write_data(struct in_place *to, int spool, uint64_t at, uint64_t end)
{
	_cleanup_free_ uint8_t *buf = malloc(FRAME_PIECE_MAX);
	int r = buf ? 0 : -ENOMEM;
	while (r == 0 && at < end) {
		size_t len = end - at < FRAME_PIECE_MAX ? (size_t)(end - at) : FRAME_PIECE_MAX;
		r = cdm_pread_all(spool, buf, len, (off_t)at);
		if (r == 0)
			r = write_range(to, buf, len, at);
		at += len;
	}
	return r;
}

/* A whole content says of each byte of the file what it is to be, holes among them. */
static int write_whole_spooled(struct in_place *to, int spool)
{
	uint64_t size = to->in->carried.size, end;
	int r = 0;
	for (uint64_t at = 0; r == 0 && at < size; at = end) {
		int data = delta_part(spool, at, size, &end);
		r = data < 0 ? data : data ? write_data(to, spool, at, end) : write_hole(to, at, end);
	}
	return r;
}

static int write_spooled(struct in_place *to)
{
	struct incoming *in = to->in;
	_cleanup_close_ int spool = openat(to->pub->set->staging_fd, in->staging, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (spool < 0)
		return -errno;
	return in->carried.kind == CONTENT_WHOLE ? write_whole_spooled(to, spool) : stage_each_range(in, spool, write_range, to);
}

static int write_inline(struct in_place *to)
{
	struct carried *k = &to->in->carried;
	struct piece piece;
	bool whole = k->kind == CONTENT_WHOLE;
	uint64_t done = 0;
	size_t at = 0;
	int r = 0;
	while (r == 0 && piece_next(k->pieces, k->pieces_len, &at, &piece) > 0) {
		r = whole ? write_hole(to, done, piece.offset) : 0;
		if (r == 0)
			r = write_range(to, piece.data, piece.len, piece.offset);
		done = piece.offset + piece.len;
	}
	return r == 0 && whole ? write_hole(to, done, k->size) : r;
}

/* The stamp and the xattrs of what is here, from the store: has somebody set attributes since those that came, and if not, do ours differ? */
static int look_at_attributes(struct publisher *pub, const struct incoming *in, bool *ret_newer, bool *ret_xattrs_differ)
{
	const struct carried *k = &in->carried;
	_cleanup_close_ int fd = cdm_open_beneath(pub->set->store_fd, k->change.path, k->change.path_len, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
	struct cdm_stamp stamp = {0};
	char names[8192];
	uint8_t value[4096];
	int r = fd < 0 ? fd : stamp_of(fd, &stamp);
	if (r < 0)
		return r;
	ssize_t n = flistxattr(fd, names, sizeof names);
	if (n < 0 && is_fault(-errno))
		return -errno;
	*ret_newer = stamp.attr_clock != k->stamp.attr_clock ? stamp.attr_clock > k->stamp.attr_clock : stamp.attr_origin > k->stamp.attr_origin;
	*ret_xattrs_differ = false;
	for (const char *name = names; n > 0 && name < names + n; name += strlen(name) + 1)
		*ret_xattrs_differ |= content_xattr_replicates(name) && !is_carried(in, name);
	for (size_t i = 0; i < k->xattr_count; i++) {
		const struct carried_xattr *x = &k->xattrs[i];
		ssize_t len = fgetxattr(fd, x->name, value, sizeof value);
		if (len < 0 && is_fault(-errno))
			return -errno;
		*ret_xattrs_differ |= len != (ssize_t)x->value_len || memcmp(value, x->value, x->value_len) != 0;
	}
	return 0;
}

int apply_in_place(struct publisher *pub, struct incoming *in, struct cdm_error *err)
{
	const struct carried *k = &in->carried;
	const struct cdm_change *c = &k->change;
	_cleanup_close_ int fd = cdm_open_beneath(pub->content_fd, c->path, c->path_len, O_RDWR | O_NOFOLLOW | O_NONBLOCK, 0);
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0)
		return fd >= 0 ? -errno : is_gone(fd) ? APPLY_RETRY : fd;
	struct in_place to = {.pub = pub, .in = in, .fd = fd, .expect = c->base};
	int r = in->staging[0] ? write_spooled(&to) : write_inline(&to);
	struct attr_call call = {.fd = fd, .size = (off_t)k->size};
	struct step step;
	step_init(&step, CDM_CALL_SETATTR, in, NULL);
	step.a.expect = CDM_EXPECT_VERSION;
	step.a.expect_version = c->base;
	if (r == 0 && fstat(fd, &st) < 0)
		r = -errno;
	if (r == 0 && (uint64_t)st.st_size != k->size)
		r = publisher_call(pub, &step, call_truncate, &call, NULL);
	if (r < 0)
		return r == -ESTALE ? APPLY_RETRY : cdm_fail(err, -r, "write into %.*s", (int)(c->path_len < 200 ? c->path_len : 200), c->path);
	bool ours_newer, xattrs_differ;
	r = look_at_attributes(pub, in, &ours_newer, &xattrs_differ);
	if (r < 0)
		return is_gone(r) ? APPLY_RETRY : r;
	pub->odd |= ours_newer;
	pub->job->odd_surely |= ours_newer; /* if he knows all there is, these were lost on their way to him: their subject had another name there */
	struct cdm_attr attr = {.mask = CDM_ATTR_MTIME, .mode = k->mode, .uid = k->uid, .gid = k->gid, .mtime_ns = k->mtime_ns};
	if (!ours_newer && (st.st_uid != stage_uid(in, k->uid) || st.st_gid != stage_gid(in, k->gid)))
		attr.mask |= CDM_ATTR_UID | CDM_ATTR_GID | CDM_ATTR_MODE;
	if (!ours_newer && (st.st_mode & 07777) != (k->mode & 07777))
		attr.mask |= CDM_ATTR_MODE;
	snprintf(call.proc, sizeof call.proc, "/proc/self/fd/%d", fd);
	if (!ours_newer && xattrs_differ)
		r = set_all_xattrs(pub, in, &call);
	if (r == 0 && !ours_newer && xattrs_differ)
		r = remove_other_xattrs(pub, in, &call);
	if (r < 0)
		return r;
	struct cdm_change record = record_of(pub, in);
	step_init(&step, CDM_CALL_SETATTR, in, &record);
	step.a.expect = CDM_EXPECT_VERSION; /* nobody has written since the first piece, or what is here is his */
	step.a.expect_version = c->base;
	step.a.stamp = k->stamp.content;
	step.a.attr_clock = ours_newer ? 0 : k->stamp.attr_clock;
	step.a.attr_origin = k->stamp.attr_origin;
	return attr_steps(pub, in, &call, &attr, &step);
}

/* --- trees --- */

struct removal {
	int dir;
	const char *name;
	int flags;
};

static int call_remove(void *arg)
{
	struct removal *r = arg;
	return unlinkat(r->dir, r->name, r->flags);
}

/* Others say what was found, or that it stays. */
static bool is_unlooked(int r)
{
	return r < 0 && !is_gone(r) && r != -ESTALE && r != -ENOTEMPTY && r != -EEXIST && r != -EISDIR && r != -EPERM && r != -EACCES;
}

/* What the author of the removal had not seen stays, and its directory with it. */
static int remove_file(struct publisher *pub, struct incoming *in, struct removal *removal)
{
	struct cdm_announcement found;
	struct step step;
	step_init(&step, CDM_CALL_UNLINK, in, NULL);
	step.a.expect = CDM_EXPECT_ABSENT; /* what is there? */
	int r = publisher_call(pub, &step, call_remove, removal, &found);
	if (r != -ESTALE || !found.found_exists)
		return r;
	if (!cdm_dot_is_none(found.found.dot) && conflict_seen(pub, in, &found) != SEEN) {
		pub->odd = true;
		return 0;
	}
	step.a.flags = CDM_AN_SAVED;
	step.a.expect = CDM_EXPECT_VERSION;
	step.a.expect_version = found.found.dot;
	return publisher_call(pub, &step, call_remove, removal, NULL);
}

static int remove_directory(struct publisher *pub, struct incoming *in, struct removal *removal)
{
	struct step step;
	int r = remove_below(pub, in, removal->dir, removal->name);
	step_init(&step, CDM_CALL_RMDIR, in, NULL);
	return r < 0 ? r : publisher_call(pub, &step, call_remove, removal, NULL);
}

static int remove_entry(struct publisher *pub, struct incoming *in, int dir, const char *name)
{
	struct removal removal = {.dir = dir, .name = name};
	struct stat st;
	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	removal.flags = S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0;
	return removal.flags ? remove_directory(pub, in, &removal) : remove_file(pub, in, &removal);
}

int remove_below(struct publisher *pub, struct incoming *in, int dir, const char *name)
{
	int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (!d) {
		int r = -errno;
		if (fd >= 0)
			close(fd);
		return is_unlooked(r) ? r : 0;
	}
	int r = 0;
	errno = 0;
	for (struct dirent *e; !is_unlooked(r) && (e = readdir(d)); errno = 0)
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			r = remove_entry(pub, in, fd, e->d_name);
	if (!is_unlooked(r))
		r = -errno;
	closedir(d);
	return is_unlooked(r) ? r : 0;
}
