/* SPDX-License-Identifier: Apache-2.0 */
/* Operations that make a name: mknod, mkdir, symlink, O_TMPFILE, link. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include "cdmfs/act.h"
#include "cdmfs/save.h"

struct making {
	enum cdm_op op;
	enum cdm_call call;
	const char *name, *target;
	size_t len, target_len;
	mode_t mode, umask;
	dev_t rdev;
};

/* Make it in the store as the caller. Returns a descriptor (regular files: open, others: O_PATH) or -errno. */
static int make_object(struct request *rq, int dirfd, const struct making *m)
{
	int r, fd = -1;

	caller_begin(rq, m->umask);
	if (S_ISREG(m->mode))
		r = fd = TEMP_FAILURE_RETRY(openat(dirfd, m->name, O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC, m->mode & 07777));
	else if (S_ISDIR(m->mode))
		r = mkdirat(dirfd, m->name, m->mode & 07777);
	else if (S_ISLNK(m->mode))
		r = symlinkat(m->target, dirfd, m->name);
	else
		r = mknodat(dirfd, m->name, m->mode, m->rdev);
	if (r < 0)
		r = -errno;
	caller_end(rq);
	if (r < 0 || fd >= 0)
		return r;
	fd = TEMP_FAILURE_RETRY(openat(dirfd, m->name, O_PATH | O_NOFOLLOW | O_CLOEXEC));
	return fd < 0 ? -errno : fd;
}

static void unmake(int dirfd, const struct making *m)
{
	unlinkat(dirfd, m->name, S_ISDIR(m->mode) ? AT_REMOVEDIR : 0);
}

/* A new regular file is unsaved from its birth. */
static int note_new_file(struct fs *fs, uint64_t id, enum place place, const char *name)
{
	int r;

	if (place == PLACE_STAGING) {
		if (strncmp(name, ".barrier-", 9) == 0)
			inodes_flags(fs->nodes, id, NODE_BARRIER, 0);
		return 0;
	}
	inodes_flags(fs->nodes, id, NODE_NEW, 0);
	r = inodes_dirty_add(fs->nodes, id, &(struct dirty_add){.whole = true});
	if (r >= 0)
		saver_expect(fs, id, true);
	return r < 0 ? r : 0;
}

/* After the object is there: stamp, attributes, handle, entry. */
static int finish_object(struct act *a, struct object *o, const struct making *m, enum place place)
{
	struct request *rq = a->rq;
	int r = act_stamp(a, o->fd, true, true);

	if (r == -EOPNOTSUPP && !S_ISREG(m->mode) && !S_ISDIR(m->mode))
		r = 0; /* some filesystems take no xattrs on special files */
	if (r == 0 && fstat(o->fd, &o->st) < 0)
		r = -errno;
	if (r == 0)
		r = node_identify(o->fd, &o->handle, &o->id);
	if (r < 0)
		return r;
	a->c.handle = o->handle;
	act_set_attr(a, &o->st);
	r = answer_entry(rq, rq->node, m->name, m->len, o, 0);
	if (r == 0 && S_ISREG(m->mode) && !act_is_announced(a))
		r = note_new_file(rq->fs, o->id, place, m->name);
	return r;
}

static int make_in(struct act *a, int dirfd, const struct making *m, enum place place)
{
	struct object o;
	int r;

	r = object_find(a->rq->fs, dirfd, m->name, &o);
	if (r == 0)
		r = act_expect(a, &o);
	if (r == 0 && o.fd >= 0)
		r = -EEXIST;
	object_close(&o);
	if (r < 0)
		return r;
	act_parent_before(a, 0, dirfd);
	r = act_begin(a);
	if (r < 0)
		return r;
	o.fd = r = make_object(a->rq, dirfd, m);
	if (r >= 0) {
		r = finish_object(a, &o, m, place);
		if (r < 0)
			unmake(dirfd, m);
		else if (S_ISDIR(m->mode) && !a->silent && !act_is_announced(a))
			act_record_acls(a->rq->fs, dirfd, m->name, &a->c);
	}
	act_parent_after(a, 0, dirfd);
	object_close(&o);
	return r;
}

static int make_locked(struct act *a, struct making *m)
{
	struct request *rq = a->rq;
	struct fs *fs = rq->fs;
	struct descriptor *dir;
	struct place_path p;
	int r = node_borrow(fs, rq->node, DESCRIPTOR_PATH, &dir);

	if (r < 0)
		return act_end(a, r);
	r = path_of_name(fs, rq->node, m->name, m->len, rq->worker->path, &p);
	if (r == 0) {
		a->silent = p.place != PLACE_CONTENT && !act_is_announced(a);
		act_set_path(a, &p);
		a->c.attr = (struct cdm_attr){.mask = CDM_ATTR_MODE | CDM_ATTR_UID | CDM_ATTR_GID, .mode = m->mode & ~m->umask,
			.uid = rq->uid, .gid = rq->gid, .rdev = m->rdev};
		a->c.value = m->target;
		a->c.value_len = m->target_len;
		r = act_policy(a);
	}
	if (r == 0)
		r = make_in(a, dir->fd, m, p.place);
	r = act_end(a, r);
	node_return(fs, dir);
	return r;
}

static int make(struct request *rq, struct making *m)
{
	struct fs *fs = rq->fs;
	struct stripes names;
	struct act a;
	int r;

	if (rq->node == ROOT_NODE || name_is_hidden(fs, rq->node, m->name))
		return -EPERM;
	if (m->len > CDM_NAME_LEN_MAX)
		return -ENAMETOOLONG;
	r = act_init(&a, rq, m->op, m->call);
	if (r < 0)
		return r;
	pthread_rwlock_rdlock(&fs->tree);
	lock_dirs(fs, &names, rq->node, 0);
	r = make_locked(&a, m);
	unlock_stripes(&names);
	pthread_rwlock_unlock(&fs->tree);
	return r;
}

int op_mknod(struct request *rq)
{
	const struct fuse_mknod_in *in = request_arg(rq, sizeof(*in));
	struct making m = {.call = CDM_CALL_MKNOD};
	size_t at = sizeof(*in);

	m.name = request_string(rq, &at, &m.len);
	if (!in || !m.name)
		return -EINVAL;
	m.mode = in->mode & S_IFMT ? in->mode : in->mode | S_IFREG;
	m.umask = in->umask;
	m.rdev = makedev(in->rdev >> 8 & 0xfff, (in->rdev & 0xff) | (in->rdev >> 12 & 0xfff00));
	m.op = S_ISREG(m.mode) ? CDM_OP_CREATE : CDM_OP_MKNOD;
	return make(rq, &m);
}

int op_mkdir(struct request *rq)
{
	const struct fuse_mkdir_in *in = request_arg(rq, sizeof(*in));
	struct making m = {.op = CDM_OP_MKDIR, .call = CDM_CALL_MKDIR};
	size_t at = sizeof(*in);

	m.name = request_string(rq, &at, &m.len);
	if (!in || !m.name)
		return -EINVAL;
	m.mode = (in->mode & 07777) | S_IFDIR;
	m.umask = in->umask;
	return make(rq, &m);
}

int op_symlink(struct request *rq)
{
	struct making m = {.op = CDM_OP_SYMLINK, .call = CDM_CALL_SYMLINK, .mode = S_IFLNK | 0777};
	size_t at = 0;

	m.name = request_string(rq, &at, &m.len);
	m.target = m.name ? request_string(rq, &at, &m.target_len) : NULL;
	if (!m.target)
		return -EINVAL;
	return make(rq, &m);
}

/* --- O_TMPFILE: nameless, so its place while the kernel knows it is orphans/ --- */

static int tmpfile_open(struct request *rq, int dirfd, const struct fuse_create_in *in)
{
	int fd;

	caller_begin(rq, in->umask);
	fd = openat(dirfd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, in->mode & 07777);
	if (fd < 0)
		fd = -errno;
	caller_end(rq);
	return fd;
}

static int tmpfile_make(struct act *a, int dirfd, const struct fuse_create_in *in, struct object *o)
{
	struct request *rq = a->rq;
	struct fs *fs = rq->fs;
	int r = act_begin(a);

	if (r < 0)
		return r;
	o->fd = r = tmpfile_open(rq, dirfd, in);
	if (r < 0)
		return r;
	r = act_stamp(a, o->fd, true, true);
	if (r == 0 && fstat(o->fd, &o->st) < 0)
		r = -errno;
	if (r == 0)
		r = node_identify(o->fd, &o->handle, &o->id);
	if (r == 0)
		r = orphan_keep(fs, o);
	if (r == 0 && fstat(o->fd, &o->st) < 0)
		r = -errno;
	if (r < 0)
		return r;
	a->c.handle = o->handle;
	act_set_attr(a, &o->st);
	r = answer_entry(rq, 0, NULL, 0, o, NODE_ORPHAN | NODE_NEW);
	if (r == 0 && !a->silent)
		r = inodes_dirty_add(fs->nodes, o->id, &(struct dirty_add){.whole = true});
	if (r < 0)
		orphan_drop(fs, o->id);
	return r < 0 ? r : 0;
}

int op_tmpfile(struct request *rq)
{
	const struct fuse_create_in *in = request_arg(rq, sizeof(*in));
	struct fs *fs = rq->fs;
	struct descriptor *dir;
	struct place_path p;
	struct object o = {.fd = -1};
	struct act a;
	int r;

	if (!in)
		return -EINVAL;
	r = act_init(&a, rq, CDM_OP_CREATE, CDM_CALL_MKNOD);
	if (r < 0)
		return r;
	r = node_borrow(fs, rq->node, DESCRIPTOR_PATH, &dir);
	if (r < 0)
		return act_end(&a, r);
	pthread_rwlock_rdlock(&fs->tree);
	r = path_of_name(fs, rq->node, "#", 1, rq->worker->path, &p); /* stands for any name in this directory */
	if (r == 0) {
		a.silent = p.place != PLACE_CONTENT;
		act_set_path(&a, &p);
		r = act_policy(&a);
		act_set_path(&a, &(struct place_path){.path = ""});
	}
	if (r == 0)
		r = tmpfile_make(&a, dir->fd, in, &o);
	r = act_end(&a, r);
	pthread_rwlock_unlock(&fs->tree);
	node_return(fs, dir);
	object_close(&o);
	if (r < 0)
		return r;
	rq->small.create.open = (struct fuse_open_out){.open_flags = FOPEN_KEEP_CACHE};
	return request_answer(rq, &rq->small.create, sizeof(rq->small.create));
}

/* --- link --- */

static int link_object(struct fs *fs, const struct object *o, uint32_t flags, int dirfd, const char *name)
{
	char orphan[32];

	if (!(flags & NODE_ORPHAN))
		return linkat(o->fd, "", dirfd, name, AT_EMPTY_PATH) < 0 ? -errno : 0;
	orphan_name(o->id, orphan);
	if (renameat2(fs->store.orphans_fd, orphan, dirfd, name, RENAME_NOREPLACE) < 0)
		return -errno;
	inodes_flags(fs->nodes, o->id, 0, NODE_ORPHAN | NODE_CONFLICT);
	return 0;
}

struct linking {
	struct object subject;
	struct node node;
	struct place_path path, path2;
	bool known_place;       /* the others may know it under its old name */
	const char *name;
	size_t len;
};

/* A file that the others do not know under its old name is new to them under this one. Noted before the outcome: settling a record looks
 * at it in the same way (look_linked). */
static void link_publish(struct fs *fs, const struct linking *l)
{
	uint64_t id = l->subject.id;

	if (l->path2.place != PLACE_CONTENT || policy_is_local(fs, l->path2.path, l->path2.len))
		return;
	if (!l->known_place) {
		inodes_flags(fs->nodes, id, NODE_NEW, 0);
		inodes_dirty_add(fs->nodes, id, &(struct dirty_add){.whole = true});
	}
	if (!l->known_place || l->node.flags & NODE_UNSAVED)
		saver_expect(fs, id, true);
}

static int link_act(struct act *a, struct linking *l, int dirfd)
{
	struct request *rq = a->rq;
	struct fs *fs = rq->fs;
	struct object there;
	int r = object_find(fs, dirfd, l->name, &there);

	if (r == 0)
		r = act_expect(a, &there);
	if (r == 0 && there.fd >= 0)
		r = -EEXIST;
	object_close(&there);
	if (r < 0)
		return r;
	act_parent_before(a, 1, dirfd);
	r = act_begin(a);
	if (r == 0)
		r = link_object(fs, &l->subject, l->node.flags, dirfd, l->name);
	if (r == 0 && act_is_announced(a))
		r = act_stamp(a, l->subject.fd, false, false);
	if (r < 0)
		return r;
	act_parent_after(a, 1, dirfd);
	if (fstat(l->subject.fd, &l->subject.st) < 0)
		return -errno;
	act_set_attr(a, &l->subject.st);
	r = answer_entry(rq, rq->node, l->name, l->len, &l->subject, 0);
	if (r == 0 && !act_is_announced(a))
		link_publish(fs, l);
	return r;
}

static int link_locked(struct act *a, struct linking *l)
{
	struct request *rq = a->rq;
	struct fs *fs = rq->fs;
	struct descriptor *dir;
	int r = node_borrow(fs, rq->node, DESCRIPTOR_PATH, &dir);

	if (r < 0)
		return act_end(a, r);
	if (!inodes_find(fs->nodes, l->subject.id, &l->node))
		r = -ESTALE;
	if (r == 0)
		r = path_of_name(fs, rq->node, l->name, l->len, rq->worker->path2, &l->path2);
	if (r == 0) {
		path_of_node(fs, l->subject.id, rq->worker->path, &l->path);
		a->c.handle = l->subject.handle = l->node.handle;
		l->known_place = l->path.place == PLACE_CONTENT && !policy_is_local(fs, l->path.path, l->path.len);
		a->silent = l->path2.place != PLACE_CONTENT && !act_is_announced(a);
		if (l->path.place == PLACE_CONTENT)
			act_set_path(a, &l->path);
		act_set_path2(a, &l->path2);
		r = act_policy(a);
		if (l->node.flags & NODE_NEW || !l->known_place)
			a->c.flags |= CDM_CH_UNSAVED;
	}
	if (r == 0)
		r = link_act(a, l, dir->fd);
	r = act_end(a, r);
	node_return(fs, dir);
	return r;
}

int op_link(struct request *rq)
{
	const struct fuse_link_in *in = request_arg(rq, sizeof(*in));
	struct fs *fs = rq->fs;
	struct linking l = {.subject.fd = -1};
	struct stripes names, nodes;
	size_t at = sizeof(*in);
	struct act a;
	int r;

	l.name = request_string(rq, &at, &l.len);
	if (!in || !l.name)
		return -EINVAL;
	if (rq->node == ROOT_NODE || name_is_hidden(fs, rq->node, l.name))
		return -EPERM;
	l.subject.id = in->oldnodeid;
	l.subject.fd = node_open_path(fs, in->oldnodeid);
	if (l.subject.fd < 0)
		return l.subject.fd;
	r = act_init(&a, rq, CDM_OP_LINK, CDM_CALL_LINK);
	if (r == 0) {
		pthread_rwlock_rdlock(&fs->tree);
		lock_dirs(fs, &names, rq->node, 0);
		lock_nodes(fs, &nodes, l.subject.id, 0);
		r = link_locked(&a, &l);
		unlock_stripes(&nodes);
		unlock_stripes(&names);
		pthread_rwlock_unlock(&fs->tree);
	}
	object_close(&l.subject);
	return r;
}
