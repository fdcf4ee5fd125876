/* SPDX-License-Identifier: Apache-2.0 */
/* The start-up check (promise 1): after an end that lost the journal's tail the store may hold changes that no record tells of. Everything
 * changed since the last mark becomes a new version under the new incarnation. Serving goes on meanwhile; the replicator waits. */
#include <errno.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include "cdmfs/save.h"
#include "cdmfs/walk.h"
#include "common/log.h"

struct check {
	struct fs *fs;
	pthread_t thread;
	atomic_bool stop;
	pthread_mutex_t mtx;
	pthread_cond_t over;
	bool done; /* under mtx */
	int64_t since_ns;
	struct cdm_vector known; /* what the journal still knew */
	uint64_t files, found;
};

/* A directory or special file that the journal knows: only its attributes may have changed unseen, and only those that were set here need to be
 * told (what others set comes again). 1: nothing else is to be done. */
static int check_known(struct check *c, const struct walk_entry *e)
{
	struct cdm_stamp stamp;
	struct object o;
	struct cdm_change change = {.op = CDM_OP_SETATTR, .flags = CDM_CH_RECOVERED, .path = e->path, .path_len = e->len};
	int r = 0;

	if (S_ISREG(e->st->st_mode) || object_find(c->fs, e->dirfd, e->name, &o) < 0 || o.fd < 0)
		return 0;
	if (cdm_stamp_get(o.fd, &stamp) < 0 || !cdm_vector_covers(&c->known, stamp.content.dot)) {
		object_close(&o);
		return 0;
	}
	if (CDM_ORIGIN_NODE(stamp.attr_origin) == c->fs->node_number) {
		change.handle = o.handle;
		change.version = stamp.content;
		change.base = stamp.content.dot;
		change.attr = (struct cdm_attr){.mask = CDM_ATTR_MODE | CDM_ATTR_UID | CDM_ATTR_GID | (S_ISDIR(o.st.st_mode) ? 0 : CDM_ATTR_MTIME), .mode = o.st.st_mode,
			.uid = o.st.st_uid, .gid = o.st.st_gid, .mtime_ns = o.st.st_mtim.tv_sec * 1000000000ll + o.st.st_mtim.tv_nsec};
		if (policy_is_local(c->fs, e->path, e->len))
			change.flags |= CDM_CH_LOCAL;
		r = cdm_journal_put(c->fs->journal, &change);
	}
	object_close(&o);
	return r < 0 ? r : 1;
}

static int check_entry(struct fs *fs, const struct walk_entry *e, void *arg)
{
	struct check *c = arg;
	int64_t ctime_ns = e->st->st_ctim.tv_sec * 1000000000ll + e->st->st_ctim.tv_nsec;
	int r;

	if (atomic_load(&c->stop))
		return -ECANCELED;
	c->files++;
	if (ctime_ns < c->since_ns)
		return 0;
	pthread_rwlock_rdlock(&fs->tree);
	r = check_known(c, e);
	if (r == 0)
		r = save_found(fs, e->dirfd, e->name, e->path, e->len, CDM_CH_RECOVERED, &c->known);
	pthread_rwlock_unlock(&fs->tree);
	if (r >= 0)
		c->found++;
	return r == -EIO || r == -ENOSPC ? r : 0;
}

static void *check_thread(void *arg)
{
	struct check *c = arg;
	struct cdm_error err = CDM_ERROR_INIT;
	int r;

	prctl(PR_SET_NAME, "cdmfs-check");
	r = walk_tree(c->fs, "", 0, check_entry, c);
	if (r < 0 && r != -ECANCELED) {
		cdm_fail(&err, -r, "check the store after an unclean end");
		cdm_log_err(check_failed, &err);
	} else if (r == 0) {
		cdm_log(check_done, cdm_uint("entries", c->files), cdm_uint("recovered", c->found));
	}
	recall_confirmed_drop(c->fs);
	pthread_mutex_lock(&c->mtx);
	c->done = true;
	pthread_cond_broadcast(&c->over);
	pthread_mutex_unlock(&c->mtx);
	return NULL;
}

int check_start(struct fs *fs, int64_t since_ns, const struct cdm_vector *known, struct cdm_error *err)
{
	struct check *c = calloc(1, sizeof(*c));
	int e;

	if (!c)
		return cdm_fail(err, ENOMEM, "check the store");
	c->fs = fs;
	c->since_ns = since_ns;
	cdm_vector_copy(&c->known, known);
	pthread_mutex_init(&c->mtx, NULL);
	pthread_cond_init(&c->over, NULL);
	fs->check = c; /* before the thread: who waits must find it */
	e = pthread_create(&c->thread, NULL, check_thread, c);
	if (e) {
		fs->check = NULL;
		cdm_vector_fini(&c->known);
		free(c);
		return cdm_fail(err, e, "check the store");
	}
	return 0;
}

void check_wait(struct fs *fs)
{
	struct check *c = fs->check;

	if (!c)
		return;
	pthread_mutex_lock(&c->mtx);
	while (!c->done)
		pthread_cond_wait(&c->over, &c->mtx);
	pthread_mutex_unlock(&c->mtx);
}

void check_stop(struct fs *fs)
{
	struct check *c = fs->check;

	if (!c)
		return;
	fs->check = NULL;
	atomic_store(&c->stop, true);
	pthread_join(c->thread, NULL);
	cdm_vector_fini(&c->known);
	free(c);
}
