/* SPDX-License-Identifier: Apache-2.0 */
/* unlink and rmdir; what happens to a file that loses its last name while somebody may have it open (orphans, conflicts). */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "cdmfs/act.h"
#include "cdmfs/save.h"
#include "cdmfs/session.h"
#include "common/faultpoint.h"
#include "common/io.h"
#include "common/log.h"

/* --- orphans --- */

void orphan_name(uint64_t id, char out[32])
{
	snprintf(out, 32, "%016" PRIx64, id);
}

int orphan_keep(struct fs *fs, const struct object *o)
{
	char name[32];

	orphan_name(o->id, name);
	if (linkat(o->fd, "", fs->store.orphans_fd, name, AT_EMPTY_PATH) < 0 && errno != EEXIST)
		return -errno;
	return 0;
}

bool orphan_is_kept(struct fs *fs, uint64_t id)
{
	char name[32];

	orphan_name(id, name);
	return faccessat(fs->store.orphans_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

void orphan_drop(struct fs *fs, uint64_t id)
{
	char name[32];

	orphan_name(id, name);
	descriptors_drop(fs->descriptors, id);
	unlinkat(fs->store.orphans_fd, name, 0);
}

/* --- conflicts: nobody's work is lost (promise 5) --- */

#define CONFLICT_TRIES 1000

/* "dir/file" → "dir%2Ffile", so that one directory can hold them; a long path keeps its end. */
static void flatten(const char *path, size_t len, char out[160])
{
	size_t at = 0;

	for (size_t i = len > 120 ? len - 120 : 0; i < len && at < 150; i++) {
		if (path[i] == '/' || path[i] == '%')
			at += snprintf(out + at, 160 - at, "%%%02X", path[i]);
		else
			out[at++] = path[i];
	}
	out[at] = 0;
}

/* A file that lives on under another name is copied: what is written there later is not what was to be kept. */
static int keep_copy(struct fs *fs, int fd, const struct stat *st, const char *name)
{
	char self[32];
	struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, st->st_mtim};
	int r;

	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	_cleanup_close_ int from = open(self, O_RDONLY | O_CLOEXEC);
	_cleanup_close_ int to = from < 0 ? -1 : openat(fs->store.conflicts_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (to < 0)
		return -errno;
	r = cdm_copy_file(from, to, st->st_size);
	if (r == 0 && (fchown(to, st->st_uid, st->st_gid) < 0 || fchmod(to, st->st_mode & 07777) < 0 || futimens(to, times) < 0))
		r = -errno;
	if (r < 0)
		unlinkat(fs->store.conflicts_fd, name, 0);
	return r;
}

static int keep_as(struct fs *fs, int fd, const char *name)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (st.st_nlink > 1)
		return S_ISREG(st.st_mode) ? keep_copy(fs, fd, &st, name) : 0; /* else its other name keeps all of it */
	return linkat(fd, "", fs->store.conflicts_fd, name, AT_EMPTY_PATH) < 0 ? -errno : 0;
}

int conflict_keep(struct fs *fs, int fd, const char *path, size_t len, const struct cdm_dot *dot)
{
	char flat[160], version[64], name[256];
	int r = -EEXIST;

	flatten(path, len, flat);
	cdm_dot_format(*dot, version);
	for (unsigned n = 0; n < CONFLICT_TRIES && r == -EEXIST; n++) {
		snprintf(name, sizeof(name), "%s.%s.%u", flat, version, n);
		r = keep_as(fs, fd, name);
	}
	if (r == 0) {
		char at[64 + sizeof(name)]; /* its name may tell only the end of the path */
		snprintf(at, sizeof(at), "/proc/self/fd/%d/%s", fs->store.conflicts_fd, name);
		(void)lsetxattr(at, CDM_XATTR_KEPT, path, len, 0);
		cdm_log(loser_kept, cdm_str("path", flat), cdm_str("kept", name));
		return 0;
	}
	struct cdm_error err = CDM_ERROR_INIT;
	r = cdm_fail(&err, -r, "keep %s in conflicts", flat);
	cdm_log_err(loser_lost, &err, cdm_str("path", flat));
	return r;
}

/* The writer of a file that a received version has replaced is done: what he wrote since is kept. */
void conflict_check(struct fs *fs, uint64_t id)
{
	struct stripes nodes;
	struct node n;
	struct cdm_stamp stamp = {0};
	struct node_path p = {0};
	_cleanup_free_ char *buf = malloc(CDM_PATH_MAX);
	int fd;

	lock_nodes(fs, &nodes, id, 0);
	if (buf && inodes_find(fs->nodes, id, &n) && n.flags & NODE_CONFLICT && n.flags & NODE_UNSAVED) {
		fd = node_open_path(fs, id);
		if (fd >= 0) {
			if (inodes_path(fs->nodes, id, 0, buf, CDM_PATH_MAX, &p) < 0)
				p = (struct node_path){0};
			cdm_stamp_get(fd, &stamp);
			if (conflict_keep(fs, fd, p.path, p.len, &stamp.content.dot) == 0)
				inodes_dirty_clear(fs->nodes, id);
			close(fd);
		}
	}
	unlock_stripes(&nodes);
}

/* --- the kernel forgot a node --- */

void node_forgotten(struct fs *fs, uint64_t id)
{
	struct stripes nodes;
	struct node n;

	if (!inodes_find(fs->nodes, id, &n) || n.lookups)
		return;
	if (n.flags & NODE_CONFLICT)
		conflict_check(fs, id);
	else if (n.flags & NODE_UNSAVED && !(n.flags & NODE_ORPHAN))
		save_node(fs, id, 0);
	lock_nodes(fs, &nodes, id, 0);
	if (inodes_find(fs->nodes, id, &n) && !n.lookups) {
		if (n.flags & NODE_ORPHAN) {
			orphan_drop(fs, id);
			inodes_dirty_clear(fs->nodes, id);
			inodes_flags(fs->nodes, id, 0, NODE_ORPHAN | NODE_CONFLICT | NODE_WRITER);
		}
		descriptors_drop(fs->descriptors, id);
		inodes_release(fs->nodes, id);
	}
	unlock_stripes(&nodes);
}

size_t orphans_list(struct fs *fs, uint64_t **ret)
{
	int fd = openat(fs->store.orphans_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	size_t count = 0, room = 0;
	struct dirent *e;

	*ret = NULL;
	while (dir && (e = readdir(dir))) {
		char *end;
		uint64_t id = strtoull(e->d_name, &end, 16);
		if (*end || e->d_name[0] == '.')
			continue;
		if (count == room) {
			uint64_t *more = reallocarray(*ret, room = room ? room * 2 : 64, sizeof(*more));
			if (!more)
				break; /* the rest waits for the next start */
			*ret = more;
		}
		(*ret)[count++] = id;
	}
	if (dir)
		closedir(dir);
	return count;
}

void orphans_probe(struct fs *fs, const uint64_t *ids, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (session_invalidate(fs, ids[i]) == -ENOENT) { /* its FORGET died with the server */
			inodes_forget(fs->nodes, ids[i], UINT64_MAX);
			node_forgotten(fs, ids[i]);
			orphan_drop(fs, ids[i]);
		}
}

void orphans_remove(struct fs *fs)
{
	uint64_t *ids;
	size_t count = orphans_list(fs, &ids);

	for (size_t i = 0; i < count; i++)
		orphan_drop(fs, ids[i]);
	free(ids);
}

/* --- unlink --- */

/* Remove the name. A last name of a file that the kernel knows moves to orphans/, all in one step. */
static int remove_file(struct fs *fs, int dirfd, const char *name, const struct object *o, const struct node *n)
{
	char orphan[32];

	if (S_ISREG(o->st.st_mode) && o->st.st_nlink == 1 && n->lookups) {
		orphan_name(o->id, orphan);
		if (renameat2(dirfd, name, fs->store.orphans_fd, orphan, 0) == 0) {
			inodes_flags(fs->nodes, o->id, NODE_ORPHAN, 0);
			return 0;
		}
		if (errno != ENOSPC && errno != EDQUOT && errno != EXDEV && errno != EMLINK)
			return -errno;
	}
	if (o->st.st_nlink == 1 && n->lookups)
		removed_note(fs, o->id, &o->st);
	return unlinkat(dirfd, name, 0) < 0 ? -errno : 0;
}

static void set_subject(struct act *a, const struct object *o, uint32_t node_flags)
{
	struct cdm_stamp stamp;

	a->c.handle = o->handle;
	if (cdm_stamp_get(o->fd, &stamp) == 0) {
		a->c.version = stamp.content;
		a->c.base = stamp.content.dot;
	}
	if (node_flags & NODE_NEW)
		a->c.flags |= CDM_CH_UNSAVED | (node_flags & NODE_COVERS ? CDM_CH_COVERS : 0);
	if (!S_ISDIR(o->st.st_mode) && o->st.st_nlink > 1)
		a->c.flags |= CDM_CH_LINKED;
	a->c.attr.nlink = o->st.st_nlink;
	a->c.attr.mode = o->st.st_mode;
	a->c.attr.mask = CDM_ATTR_MODE;
}

struct removing {
	const char *name;
	size_t len;
	bool directory;
	int dirfd;
	struct object o;
	struct place_path path;
};

/* A received removal of a file that is being written here: what will be in it is kept when its writer is done. */
static void note_conflict(struct act *a, const struct object *o, const struct node *n)
{
	if (act_is_announced(a) && S_ISREG(o->st.st_mode) && n->flags & (NODE_WRITER | NODE_UNSAVED))
		inodes_flags(a->rq->fs->nodes, o->id, NODE_CONFLICT, 0);
	else
		inodes_names_clear(a->rq->fs->nodes, o->id);
}

static int remove_file_act(struct act *a, struct removing *m)
{
	struct fs *fs = a->rq->fs;
	struct node n = {0};
	int r;

	inodes_find(fs->nodes, m->o.id, &n);
	set_subject(a, &m->o, n.flags);
	if (act_is_announced(a) && a->an->flags & CDM_AN_KEEP_OLD) {
		r = conflict_keep(fs, m->o.fd, m->path.path, m->path.len, &a->c.base);
		if (r < 0)
			return r;
	}
	act_parent_before(a, 0, m->dirfd);
	r = act_begin(a);
	if (r == 0)
		r = remove_file(fs, m->dirfd, m->name, &m->o, &n);
	if (r < 0)
		return r;
	if (m->o.st.st_nlink == 1 && !(n.flags & NODE_BARRIER)) {
		note_conflict(a, &m->o, &n);
		if (!S_ISREG(m->o.st.st_mode) || !n.lookups)
			inodes_dirty_clear(fs->nodes, m->o.id);
	} else if (!(n.flags & NODE_BARRIER)) {
		inodes_name_remove(fs->nodes, m->o.id, a->rq->node, m->name, m->len);
	}
	descriptors_drop(fs->descriptors, m->o.id);
	act_parent_after(a, 0, m->dirfd);
	return 0;
}

static int remove_directory_act(struct act *a, struct removing *m)
{
	struct fs *fs = a->rq->fs;
	int r;

	set_subject(a, &m->o, 0);
	act_parent_before(a, 0, m->dirfd);
	r = act_begin(a);
	if (r == 0)
		removed_note(fs, m->o.id, &m->o.st);
	if (r == 0 && unlinkat(m->dirfd, m->name, AT_REMOVEDIR) < 0)
		r = -errno;
	if (r < 0)
		return r;
	descriptors_drop(fs->descriptors, m->o.id);
	inodes_names_clear(fs->nodes, m->o.id);
	act_parent_after(a, 0, m->dirfd);
	return 0;
}

static int remove_found(struct act *a, struct removing *m)
{
	struct stripes nodes;
	int r = act_expect(a, &m->o);

	if (r < 0)
		return r;
	if (m->o.fd < 0)
		return -ENOENT;
	if (m->directory != S_ISDIR(m->o.st.st_mode))
		return m->directory ? -ENOTDIR : -EISDIR;
	if (m->directory)
		return remove_directory_act(a, m);
	lock_nodes(a->rq->fs, &nodes, m->o.id, 0);
	if (fstat(m->o.fd, &m->o.st) < 0) /* its number of links, now that nobody changes it */
		r = -errno;
	if (r == 0)
		r = remove_file_act(a, m);
	unlock_stripes(&nodes);
	return r;
}

static int remove_locked(struct act *a, struct removing *m)
{
	struct request *rq = a->rq;
	struct fs *fs = rq->fs;
	struct descriptor *dir;
	int r = node_borrow(fs, rq->node, DESCRIPTOR_PATH, &dir);

	if (r < 0)
		return act_end(a, r);
	m->dirfd = dir->fd;
	r = path_of_name(fs, rq->node, m->name, m->len, rq->worker->path, &m->path);
	if (r == 0) {
		a->silent = m->path.place != PLACE_CONTENT && !act_is_announced(a);
		act_set_path(a, &m->path);
		r = act_policy(a);
	}
	if (r == 0)
		r = object_find(fs, dir->fd, m->name, &m->o);
	if (r == 0)
		r = remove_found(a, m);
	r = act_end(a, r);
	object_close(&m->o);
	node_return(fs, dir);
	return r;
}

static int remove_name(struct request *rq, bool directory)
{
	struct fs *fs = rq->fs;
	struct removing m = {.directory = directory, .o.fd = -1};
	struct stripes names;
	struct act a;
	size_t at = 0;
	int r;

	m.name = request_string(rq, &at, &m.len);
	if (!m.name)
		return -EINVAL;
	if (rq->node == ROOT_NODE)
		return -EPERM;
	if (name_is_hidden(fs, rq->node, m.name))
		return -ENOENT;
	r = act_init(&a, rq, directory ? CDM_OP_RMDIR : CDM_OP_UNLINK, directory ? CDM_CALL_RMDIR : CDM_CALL_UNLINK);
	if (r < 0)
		return r;
	if (directory)
		pthread_rwlock_wrlock(&fs->tree);
	else
		pthread_rwlock_rdlock(&fs->tree);
	lock_dirs(fs, &names, rq->node, 0);
	r = remove_locked(&a, &m);
	unlock_stripes(&names);
	pthread_rwlock_unlock(&fs->tree);
	return r;
}

int op_unlink(struct request *rq)
{
	return remove_name(rq, false);
}

int op_rmdir(struct request *rq)
{
	return remove_name(rq, true);
}
