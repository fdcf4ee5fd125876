/* SPDX-License-Identifier: Apache-2.0 */
/* The start-up check (promise 1): after an end that lost the journal's tail the store may hold changes that no record tells of. Everything
 * changed since the last mark becomes a new version under the new incarnation. Serving goes on meanwhile; the replicator waits. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>
#include "cdmfs/act.h"
#include "cdmfs/save.h"
#include "cdmfs/walk.h"
#include "common/faultpoint.h"
#include "common/io.h"
#include "common/log.h"

#define CHECK_FILE "check" /* in RUN/SET while it is not over: since when, what the journal knew, what was synced */
#define CHECK_FILE_MAX (64u << 20)
#define DOUBT_FILE "doubt" /* in .cdmfs: the replicator is to compare trees (replicator/doubt.c) */

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
	bool undated; /* a directory of a pure target is, left so amid a received change: when that comes again its older mtime does not count */
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

/* Whoever left a directory so, the others have its mtime from us: as of a name that they never had, and that is gone. */
static int tell_mtime(struct check *c, const char *dir, const struct stat *st)
{
	_cleanup_free_ char *path = NULL;
	int len = asprintf(&path, "%s%s.undated", dir, *dir ? "/" : "");
	struct cdm_change change = {.op = CDM_OP_SKIP, .flags = CDM_CH_RECOVERED, .path = path, .path_len = len < 0 ? 0 : (size_t)len,
		.parent_mtime_ns = st->st_mtim.tv_sec * 1000000000ll + st->st_mtim.tv_nsec};

	if (len < 0 || change.path_len >= CDM_PATH_MAX)
		return 0; /* nothing has a name below it either */
	return cdm_journal_put(c->fs->journal, &change);
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
	bool undated = S_ISDIR(e->st->st_mode) && act_is_undated(e->st) && !policy_is_local(fs, e->path, e->len), read_only = atomic_load(&fs->read_only);
	c->undated |= undated && read_only;
	pthread_rwlock_rdlock(&fs->tree);
	r = check_known(c, e);
	if (r == 0)
		r = save_found(fs, e->dirfd, e->name, e->path, e->len, CDM_CH_RECOVERED, &c->known);
	if (r >= 0 && undated && !read_only)
		r = tell_mtime(c, e->path, e->st);
	pthread_rwlock_unlock(&fs->tree);
	if (r >= 0)
		c->found++;
	cdm_faultpoint("check.recorded_not_next");
	return r == -EIO || r == -ENOSPC ? r : 0;
}

/* Nothing was found, so nothing else tells the others that the incarnation before is over: who has what was lost with it must know
 * (replicator/doubt.c). */
static void tell_incarnation(struct check *c)
{
	struct cdm_change change = {.op = CDM_OP_SKIP};
	struct cdm_error err = CDM_ERROR_INIT;
	int r = atomic_load(&c->fs->read_only) || c->found ? 0 : cdm_journal_put(c->fs->journal, &change);

	if (r < 0) {
		cdm_fail(&err, -r, "record the new incarnation");
		cdm_log_err(check_failed, &err);
	}
}

static bool root_is_undated(const struct check *c, struct stat *st)
{
	return fstat(c->fs->store.root_fd, st) == 0 && st->st_ctim.tv_sec * 1000000000ll + st->st_ctim.tv_nsec >= c->since_ns && act_is_undated(st);
}

/* A source tells the others what it found; a pure target has its directories as they were told, and those are told by its parent. */
static int end_undated(struct check *c)
{
	struct stat root;
	bool undated = root_is_undated(c, &root);

	if (!atomic_load(&c->fs->read_only))
		return undated ? tell_mtime(c, "", &root) : 0;
	if (!undated && !c->undated)
		return 0;
	_cleanup_close_ int fd = openat(c->fs->store.meta_fd, DOUBT_FILE, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	return fd < 0 ? -errno : 0;
}

static void *check_thread(void *arg)
{
	struct check *c = arg;
	struct cdm_error err = CDM_ERROR_INIT;
	int r;

	prctl(PR_SET_NAME, "cdmfs-check");
	r = walk_tree(c->fs, "", 0, check_entry, c);
	if (r == 0)
		r = end_undated(c);
	if (r < 0 && r != -ECANCELED) {
		cdm_fail(&err, -r, "check the store after an unclean end");
		cdm_log_err(check_failed, &err);
	} else if (r == 0) {
		tell_incarnation(c);
		unlinkat(c->fs->run_fd, CHECK_FILE, 0);
		cdm_log(check_done, cdm_uint("entries", c->files), cdm_uint("recovered", c->found));
	}
	recall_confirmed_drop(c->fs);
	pthread_mutex_lock(&c->mtx);
	c->done = true;
	pthread_cond_broadcast(&c->over);
	pthread_mutex_unlock(&c->mtx);
	return NULL;
}

/* --- the next server goes on with it, from the beginning: what this one has recorded has a version of the new incarnation --- */

static int note_write(struct fs *fs, int64_t since_ns, const struct cdm_vector *known, struct cdm_error *err)
{
	_cleanup_free_ char *vector = cdm_vector_format(known);
	_cleanup_free_ char *text = NULL;
	size_t len = 0;
	FILE *f = vector ? open_memstream(&text, &len) : NULL;

	if (!f)
		return cdm_fail(err, ENOMEM, "check the store");
	fprintf(f, "%lld\n%s\n", (long long)since_ns, vector);
	recall_synced_write(fs, f);
	if (fclose(f) != 0)
		return cdm_fail(err, ENOMEM, "check the store");
	return cdm_replace_file(fs->run_fd, CHECK_FILE, text, len, 0600, err);
}

int check_resume(struct fs *fs, struct cdm_error *err)
{
	_cleanup_free_ char *text = NULL;
	struct cdm_vector known = {0};
	size_t len;
	char *vector, *dots;
	int r = cdm_read_file(fs->run_fd, CHECK_FILE, CHECK_FILE_MAX, &text, &len, NULL);

	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return cdm_fail(err, -r, "read %s/" CHECK_FILE, fs->run_dir);
	vector = strchr(text, '\n');
	dots = vector ? strchr(vector + 1, '\n') : NULL;
	if (!dots)
		return cdm_fail_plain(err, EBADMSG, "%s/" CHECK_FILE " is damaged", fs->run_dir);
	*dots = 0;
	r = cdm_vector_parse(vector + 1, &known);
	if (r < 0)
		return cdm_fail_plain(err, EBADMSG, "%s/" CHECK_FILE " is damaged", fs->run_dir);
	recall_synced_read(fs, dots + 1);
	recall_confirm(fs);
	cdm_log(check_begin, cdm_str("since", "the server before began it"), cdm_str("reason", "the journal's tail was lost"));
	r = check_start(fs, strtoll(text, NULL, 10), &known, err);
	cdm_vector_fini(&known);
	return r;
}

int check_start(struct fs *fs, int64_t since_ns, const struct cdm_vector *known, struct cdm_error *err)
{
	int e = note_write(fs, since_ns, known, err);
	struct check *c = e < 0 ? NULL : calloc(1, sizeof(*c));

	if (e < 0)
		return e;
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

bool check_wait(struct fs *fs)
{
	struct check *c = fs->check;
	bool done;

	if (!c)
		return true;
	pthread_mutex_lock(&c->mtx);
	while (!c->done && !atomic_load(&fs->ending))
		pthread_cond_wait(&c->over, &c->mtx);
	done = c->done;
	pthread_mutex_unlock(&c->mtx);
	return done;
}

void check_wake_waiters(struct fs *fs)
{
	struct check *c = fs->check;

	if (!c)
		return;
	pthread_mutex_lock(&c->mtx);
	pthread_cond_broadcast(&c->over);
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
