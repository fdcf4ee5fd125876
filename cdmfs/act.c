/* SPDX-License-Identifier: Apache-2.0 */
/* Recording an operation before, and its outcome after. */
#include "cdmfs/act.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "cdmfs/settle.h"
#include "common/faultpoint.h"
#include "common/io.h"

#define MTIME_TRIES 3

static int64_t stat_mtime_ns(const struct stat *st)
{
	return st->st_mtim.tv_sec * 1000000000ll + st->st_mtim.tv_nsec;
}

static int64_t directory_mtime_ns(int fd)
{
	struct stat st;

	return fstat(fd, &st) < 0 ? 0 : stat_mtime_ns(&st);
}

/* --- whose call is it --- */

static int take_announcement(struct act *a, enum cdm_call call)
{
	struct request *rq = a->rq;
	struct cdm_announcement *an = rq->resent ? cdm_lane_find_request(a->lane, rq->unique) : NULL;

	if (!an || an->state != CDM_AN_BUSY)
		an = cdm_lane_peek(a->lane);
	if (!an)
		return -EPERM;
	if (an->call != call)
		return -EPROTO;
	a->an = an;
	an->request = rq->unique;
	atomic_store(&an->state, CDM_AN_BUSY);
	return 0;
}

int act_init(struct act *a, struct request *rq, enum cdm_op op, enum cdm_call call)
{
	*a = (struct act){.rq = rq, .c = {.op = op, .request = rq->unique}};
	a->lane = rq->pid ? cdm_lane_find(rq->fs->announce, rq->pid) : NULL;
	return a->lane ? take_announcement(a, call) : 0;
}

/* --- is it as expected --- */

static bool is_unsaved(const struct act *a, const struct object *o)
{
	struct node n;

	return o->fd >= 0 && inodes_find(a->rq->fs->nodes, o->id, &n) && n.flags & NODE_UNSAVED;
}

static int refuse(struct act *a, const struct object *o, const struct cdm_stamp *stamp)
{
	struct cdm_announcement *an = a->an;

	an->found = stamp->content;
	an->found_exists = o->fd >= 0;
	an->found_is_dir = o->fd >= 0 && S_ISDIR(o->st.st_mode);
	an->found_unsaved = is_unsaved(a, o);
	an->result = -ESTALE;
	atomic_store(&an->state, CDM_AN_REFUSED);
	cdm_lane_taken(a->lane, an);
	a->an = NULL;
	return -EBUSY; /* the caller reads the lane; ESTALE would make the kernel look up everything and call once more, without an announcement */
}

/* Are the attributes here of a later change than the announced one? */
static bool attributes_are_newer(const struct cdm_announcement *an, const struct cdm_stamp *here)
{
	if (here->attr_clock != an->attr_clock)
		return here->attr_clock > an->attr_clock;
	return here->attr_origin > an->attr_origin;
}

/* None, or one that is none: zeros. It could not be read: -errno, for nothing may be decided without it. */
static int stamp_of(int fd, struct cdm_stamp *ret)
{
	int r = cdm_stamp_get(fd, ret);

	if (r == 0)
		return 0;
	*ret = (struct cdm_stamp){0};
	return r == -EIO || r == -ENOMEM || r == -EINTR ? r : 0;
}

int act_expect(struct act *a, const struct object *o)
{
	struct cdm_stamp stamp = {0};
	bool same;
	int r;

	if (a->an && a->an->flags & CDM_AN_ATTR_ORDER && cdm_stamp_get(o->fd, &stamp) == 0 && attributes_are_newer(a->an, &stamp))
		return refuse(a, o, &stamp);
	if (!a->an || a->an->expect == CDM_EXPECT_ANY)
		return 0;
	r = o->fd >= 0 ? stamp_of(o->fd, &stamp) : 0;
	if (r < 0)
		return r;
	if (a->an->expect == CDM_EXPECT_ABSENT)
		same = o->fd < 0;
	else
		same = o->fd >= 0 && cdm_dot_equal(stamp.content.dot, a->an->expect_version) && !(a->an->flags & CDM_AN_SAVED && is_unsaved(a, o));
	return same ? 0 : refuse(a, o, &stamp);
}

int act_policy(struct act *a)
{
	struct fs *fs = a->rq->fs;
	bool read_only = atomic_load_explicit(&fs->read_only, memory_order_relaxed);
	bool local, local2;

	if (a->an || a->silent)
		return 0;
	local = a->c.path_len && policy_is_local(fs, a->c.path, a->c.path_len);
	local2 = a->c.path2_len ? policy_is_local(fs, a->c.path2, a->c.path2_len) : local;
	if (local || local2)
		a->c.flags |= CDM_CH_LOCAL;
	return read_only && !(local && local2) ? -EROFS : 0;
}

/* --- journal --- */

static int64_t later(int64_t told, int64_t before)
{
	return told && told < before ? before : told;
}

/* The record says what act_parent_after will set: who settles it by looking has nothing else to go by. What comes out of staging has its directory as
 * the second one of the call. */
static void record_parents(const struct act *a, struct cdm_change *c)
{
	bool two = c->op == CDM_OP_RENAME || c->op == CDM_OP_LINK;

	c->parent_mtime_ns = later(c->parent_mtime_ns, a->parent_mtime_ns[!two && a->an->call == CDM_CALL_RENAME]);
	if (two)
		c->parent2_mtime_ns = later(c->parent2_mtime_ns, a->parent_mtime_ns[1]);
}

static int record_append(struct act *a, size_t i)
{
	struct cdm_change c;
	int r = cdm_lane_record(a->lane, a->an, i, &c);

	if (r < 0)
		return r;
	if (i == 0)
		record_parents(a, &c);
	c.flags |= CDM_CH_RECEIVED;
	c.request = a->rq->unique;
	if (c.handle.len == 0 && a->an->record_count == 1)
		c.handle = a->c.handle;
	r = cdm_journal_append(a->rq->fs->journal, &c);
	a->positions[i] = c.position;
	cdm_change_fini(&c);
	return r;
}

static void record_settle(struct act *a, size_t i, int r)
{
	struct cdm_change c;

	if (cdm_lane_record(a->lane, a->an, i, &c) < 0)
		return; /* the lane was written over while the call ran: the record stays pending and is settled by looking */
	c.position = a->positions[i];
	if (c.handle.len == 0 && a->an->record_count == 1)
		c.handle = a->c.handle;
	cdm_journal_settle(a->rq->fs->journal, &c, r < 0 ? CDM_FAILED : CDM_DONE, r < 0 ? -r : 0);
	cdm_change_fini(&c);
}

static int begin_announced(struct act *a)
{
	uint32_t count = a->an->record_count;
	int r = 0;

	if (count > CDM_LANE_DATA / 16)
		return -EBADMSG;
	a->positions = calloc(count ? count : 1, sizeof(*a->positions));
	if (!a->positions)
		return -ENOMEM;
	settle_acting(a->rq, 0);
	for (uint32_t i = 0; i < count; i++) {
		r = record_append(a, i);
		if (r == 0 && i == 0)
			settle_acting(a->rq, a->positions[0]);
		if (r < 0) {
			while (i-- > 0)
				record_settle(a, i, r);
			return r;
		}
	}
	return 0;
}

int act_begin(struct act *a)
{
	int r = 0;

	if (a->an) {
		r = begin_announced(a);
	} else if (!a->silent) {
		r = cdm_journal_append(a->rq->fs->journal, &a->c);
		if (r == 0)
			settle_acting(a->rq, a->c.position);
	} else {
		settle_acting(a->rq, 0);
	}
	a->begun = r == 0;
	cdm_faultpoint("act.recorded_not_done");
	return r;
}

void act_parent_before(struct act *a, unsigned which, int dirfd)
{
	if (a->an)
		a->parent_mtime_ns[which] = directory_mtime_ns(dirfd);
}

static void set_mtime(int fd, int64_t ns)
{
	struct timespec ts[2] = {{.tv_nsec = UTIME_OMIT}, cdm_time_of(ns)};

	for (int tries = 0; utimensat(fd, "", ts, AT_EMPTY_PATH) < 0 && tries < MTIME_TRIES; tries++)
		; /* nobody would set it again */
}

void act_parent_after(struct act *a, unsigned which, int dirfd)
{
	if (a->an) {
		int64_t before = a->parent_mtime_ns[which];
		int64_t told = which ? a->an->parent2_mtime_ns : a->an->parent_mtime_ns;
		cdm_faultpoint("act.done_not_dated");
		set_mtime(dirfd, told > before ? told : before);
	} else if (which) {
		a->c.parent2_mtime_ns = directory_mtime_ns(dirfd);
	} else {
		a->c.parent_mtime_ns = directory_mtime_ns(dirfd);
	}
}

bool act_is_undated(const struct stat *directory)
{
	return directory->st_mtim.tv_sec == directory->st_ctim.tv_sec && directory->st_mtim.tv_nsec == directory->st_ctim.tv_nsec;
}

void act_keep_mtime(const struct object *moved)
{
	int64_t before = (int64_t)moved->st.st_mtim.tv_sec * 1000000000 + moved->st.st_mtim.tv_nsec;

	if (S_ISDIR(moved->st.st_mode) && directory_mtime_ns(moved->fd) != before)
		set_mtime(moved->fd, before);
}

int act_stamp(struct act *a, int fd, bool content, bool attributes)
{
	struct cdm_stamp s = {0};
	int r;

	if (a->silent)
		return 0;
	if (a->an && (a->an->flags & CDM_AN_PART || (cdm_dot_is_none(a->an->stamp.dot) && !a->an->attr_clock)))
		return 0;
	r = stamp_of(fd, &s);
	if (r < 0)
		return r;
	if (a->an) {
		if (!cdm_dot_is_none(a->an->stamp.dot))
			s.content = a->an->stamp;
		if (a->an->attr_clock) {
			s.attr_clock = a->an->attr_clock;
			s.attr_origin = a->an->attr_origin;
		}
	} else {
		if (content)
			s.content = (struct cdm_version){.dot = a->c.dot, .clock = a->c.clock};
		if (attributes) {
			s.attr_clock = a->c.clock;
			s.attr_origin = a->c.dot.origin;
		}
		a->c.version = s.content;
	}
	return cdm_stamp_set(fd, &s);
}

static int end_announced(struct act *a, int r)
{
	struct cdm_announcement *an = a->an;

	if (a->begun)
		for (uint32_t i = 0; i < an->record_count; i++)
			record_settle(a, i, r);
	an->result = r;
	atomic_store(&an->state, CDM_AN_DONE);
	cdm_lane_taken(a->lane, an);
	return r;
}

int act_end(struct act *a, int r)
{
	cdm_faultpoint("act.done_not_settled");
	if (a->an)
		r = end_announced(a, r);
	else if (a->begun && !a->silent)
		cdm_journal_settle(a->rq->fs->journal, &a->c, r < 0 ? CDM_FAILED : CDM_DONE, r < 0 ? -r : 0);
	free(a->positions);
	a->positions = NULL;
	cdm_faultpoint("act.settled_not_published");
	return r;
}

void act_record_acls(struct fs *fs, int dirfd, const char *name, const struct cdm_change *made)
{
	static const char *const names[] = {"system.posix_acl_access", "system.posix_acl_default"};
	_cleanup_close_ int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	char value[4096];

	if (fd < 0 || flistxattr(fd, NULL, 0) <= 0)
		return;
	for (unsigned i = 0; i < 2; i++) {
		ssize_t n = fgetxattr(fd, names[i], value, sizeof(value));
		if (n <= 0)
			continue;
		struct cdm_change c = {.op = CDM_OP_SETXATTR, .flags = made->flags, .path = made->path, .path_len = made->path_len,
			.name = names[i], .name_len = strlen(names[i]), .value = value, .value_len = n, .handle = made->handle,
			.version = made->version};
		cdm_journal_put(fs->journal, &c);
	}
}

/* --- paths --- */

/* A directory that the table does not know how to reach (its own directory was forgotten): the kernel knows. */
static int path_by_descriptor(struct fs *fs, uint64_t id, char *buf, size_t room, struct node_path *ret)
{
	char self[40], *found;
	_cleanup_close_ int fd = node_open_path(fs, id);
	_cleanup_free_ char *root = malloc(CDM_PATH_MAX);
	_cleanup_free_ char *full = malloc(CDM_PATH_MAX);
	ssize_t root_len, len;

	if (fd < 0 || !root || !full)
		return -ENOENT;
	snprintf(self, sizeof(self), "/proc/self/fd/%d", fs->store.root_fd);
	root_len = readlink(self, root, CDM_PATH_MAX);
	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	len = readlink(self, full, CDM_PATH_MAX);
	if (root_len <= 1 || len <= root_len || len >= CDM_PATH_MAX || memcmp(root, full, root_len) != 0 || full[root_len] != '/')
		return -ENOENT;
	found = full + root_len + 1;
	len -= root_len + 1;
	ret->place = PLACE_CONTENT;
	if (len >= (ssize_t)strlen(META_DIR) && memcmp(found, META_DIR, strlen(META_DIR)) == 0)
		return -ENOENT;
	if ((size_t)len > room)
		return -ENAMETOOLONG;
	ret->path = buf + room - len;
	ret->len = len;
	memcpy(ret->path, found, len);
	return 0;
}

int path_of_node(struct fs *fs, uint64_t id, char *buf, struct place_path *ret)
{
	struct node_path p = {0};
	int r = path_that_travels(fs, id, buf, CDM_PATH_MAX - 1, &p);

	*ret = (struct place_path){.place = PLACE_NONE, .path = "", .len = 0};
	if (r < 0)
		return r;
	*ret = (struct place_path){.place = p.place, .path = p.path, .len = p.len};
	return 0;
}

int path_of_name(struct fs *fs, uint64_t parent, const char *name, size_t len, char *buf, struct place_path *ret)
{
	struct node_path p = {0};
	size_t room = CDM_PATH_MAX - 1 - len - 1;
	int r;

	if (len > CDM_NAME_LEN_MAX)
		return -ENAMETOOLONG;
	r = inodes_path(fs->nodes, parent, 0, buf, room, &p);
	if (r == -ENOENT)
		r = path_by_descriptor(fs, parent, buf, room, &p);
	if (r < 0)
		return r;
	if (p.len) {
		p.path[p.len++] = '/';
	}
	memcpy(p.path + p.len, name, len);
	*ret = (struct place_path){.place = p.place, .path = p.path, .len = p.len + len};
	return 0;
}

void act_set_path(struct act *a, const struct place_path *p)
{
	a->c.path = p->path;
	a->c.path_len = p->len;
}

void act_set_path2(struct act *a, const struct place_path *p)
{
	a->c.path2 = p->path;
	a->c.path2_len = p->len;
}

void act_set_attr(struct act *a, const struct stat *st)
{
	a->c.attr.mask = CDM_ATTR_MODE | CDM_ATTR_UID | CDM_ATTR_GID | CDM_ATTR_SIZE | CDM_ATTR_MTIME;
	a->c.attr.mode = st->st_mode;
	a->c.attr.uid = st->st_uid;
	a->c.attr.gid = st->st_gid;
	a->c.attr.nlink = st->st_nlink;
	a->c.attr.size = st->st_size;
	a->c.attr.rdev = st->st_rdev;
	a->c.attr.mtime_ns = stat_mtime_ns(st);
}
