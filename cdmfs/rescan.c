/* SPDX-License-Identifier: Apache-2.0 */
/* What somebody wrote to the store past the mount (design.md 4), as the replicator found it by comparing trees: one name per call.
 * Where the set is saved from here it becomes a change like any other; on a pure target it is put aside, so that the comparison that follows
 * fetches what belongs there. The kernel is told in either case: it kept what was there before. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "cdmfs/fs.h"
#include "cdmfs/save.h"
#include "cdmfs/session.h"
#include "common/io.h"
#include "common/log.h"

struct found {
	struct fs *fs;
	struct cdm_change *c;
	int dir;
	char *name;
	uint64_t parent;
	struct object o;
};

static int open_found(struct found *f)
{
	const char *name;
	struct cdm_handle handle;
	struct stat st;

	f->o.fd = -1;
	f->dir = cdm_open_parent(f->fs->store.root_fd, f->c->path, f->c->path_len, &name);
	if (f->dir < 0)
		return f->dir;
	f->name = strndup(name, (size_t)(f->c->path + f->c->path_len - name));
	if (!f->name)
		return -ENOMEM;
	if (fstat(f->dir, &st) < 0)
		return -errno;
	int r = node_identify(f->dir, &handle, &f->parent);
	if (r == 0)
		f->c->parent_mtime_ns = st.st_mtim.tv_sec * 1000000000ll + st.st_mtim.tv_nsec;
	return r < 0 ? r : object_find(f->fs, f->dir, f->name, &f->o);
}

static void close_found(struct found *f)
{
	if (f->o.fd >= 0)
		object_close(&f->o);
	if (f->dir >= 0)
		close(f->dir);
	free(f->name);
}

/* Is it still what the replicator looked at, and is nobody at work on it through the mount? */
static bool is_as_seen(const struct found *f)
{
	struct cdm_stamp stamp = {0};
	struct stripes nodes;
	struct dirty d;

	lock_nodes(f->fs, &nodes, f->o.id, 0); /* a write in hand is done then */
	if (cdm_stamp_get(f->o.fd, &stamp) < 0)
		stamp = (struct cdm_stamp){0};
	bool same = cdm_dot_equal(stamp.content.dot, f->c->base) && !inodes_dirty(f->fs->nodes, f->o.id, &d);
	unlock_stripes(&nodes);
	return same;
}

/* On a pure target. A file that had a version loses it: then it is no copy of what the others have, and what they have replaces it, with a copy
 * kept. What is only here goes, with a copy kept of a file; a directory only if nothing is left in it. */
static int put_aside(struct found *f)
{
	static const struct cdm_dot none = {0};
	char path[32];

	if (!cdm_dot_is_none(f->c->base)) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", f->o.fd);
		return removexattr(path, CDM_XATTR_VERSION) < 0 && errno != ENODATA ? -errno : 0;
	}
	if (S_ISDIR(f->o.st.st_mode))
		return unlinkat(f->dir, f->name, AT_REMOVEDIR) < 0 && errno != ENOTEMPTY ? -errno : 0;
	int r = S_ISREG(f->o.st.st_mode) ? conflict_keep(f->fs, f->o.fd, f->c->path, f->c->path_len, &none) : 0;
	return r < 0 || unlinkat(f->dir, f->name, 0) == 0 ? r : -errno;
}

static int take_there(struct found *f)
{
	bool fresh = cdm_dot_is_none(f->c->base);

	if (f->o.fd < 0 || !is_as_seen(f))
		return -ESTALE;
	if (atomic_load(&f->fs->read_only))
		return put_aside(f);
	return save_found(f->fs, f->dir, f->name, f->c->path, f->c->path_len, fresh ? CDM_CH_NEW : 0, NULL);
}

static int take_gone(struct found *f)
{
	if (f->o.fd >= 0)
		return -ESTALE;
	if (atomic_load(&f->fs->read_only))
		return 0; /* it is fetched */
	f->c->flags = 0;
	return cdm_journal_put(f->fs->journal, f->c);
}

int rescan_take(struct fs *fs, const void *bytes, size_t len)
{
	struct cdm_change c;
	int r = cdm_change_decode(bytes, len, &c);

	if (r < 0)
		return r;
	struct found f = {.fs = fs, .c = &c};
	if ((c.op != CDM_OP_SAVE && c.op != CDM_OP_UNLINK && c.op != CDM_OP_RMDIR) || policy_is_local(fs, c.path, c.path_len)) {
		cdm_change_fini(&c);
		return -EINVAL;
	}
	pthread_rwlock_rdlock(&fs->tree);
	r = open_found(&f);
	if (r == 0)
		r = c.op == CDM_OP_SAVE ? take_there(&f) : take_gone(&f);
	pthread_rwlock_unlock(&fs->tree);
	if (f.name && f.parent) { /* without locks: whoever works in that directory may wait for them */
		session_invalidate_name(fs, f.parent, f.name);
		saver_invalidate_all(fs, f.parent);
		if (f.o.fd >= 0)
			saver_invalidate_all(fs, f.o.id);
	}
	close_found(&f);
	cdm_change_fini(&c);
	return r == -ENOENT ? -ESTALE : r;
}
