/* SPDX-License-Identifier: Apache-2.0 */
/* publish_moved.c — a change whose author did not know that a directory above was renamed here goes where that directory is now.
 * Two directories that were moved into each other on two nodes: the higher rename stays, the other one is undone everywhere. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "common/io.h"
#include "replicator/publish_ops.h"

void moved_end(struct publisher *pub, struct incoming *in)
{
	struct cdm_change *c = &in->carried.change;
	if (pub->given) {
		c->path = pub->given;
		c->path_len = pub->given_len;
	}
	if (pub->given2) {
		c->path2 = pub->given2;
		c->path2_len = pub->given2_len;
	}
	free(pub->mapped);
	free(pub->mapped2);
	pub->mapped = pub->mapped2 = NULL;
	pub->given = pub->given2 = NULL;
}

/* Is there a directory that holds `path`, and is `dir` one? 1, 0, or -errno. */
static int are_directories(const struct publisher *pub, const char *path, size_t len, const char *dir, size_t dir_len)
{
	const char *name;
	_cleanup_close_ int parent = cdm_open_parent(pub->set->store_fd, path, len, &name);
	_cleanup_close_ int fd = parent < 0 ? parent : cdm_open_beneath(pub->set->store_fd, dir, dir_len, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0);
	return fd >= 0 ? 1 : is_gone(fd) ? 0 : fd;
}

/* Did the author know all that history was not told of? */
static bool knew_the_rest(const struct publisher *pub, const struct incoming *in)
{
	const struct cdm_vector *since = &pub->history_since;
	for (size_t i = 0; i < since->count; i++)
		if (since->entries[i].origin != in->carried.change.dot.origin && !cdm_vector_covers(&in->context, since->entries[i]))
			return false;
	return true;
}

/* What was applied before this program began: the journal tells. Once, and only when somebody comes who did not know of it. */
static void read_history(struct publisher *pub)
{
	struct cdm_journal_reader *reader = NULL;
	struct history *older = history_new();
	struct cdm_error err = CDM_ERROR_INIT;
	struct cdm_change c;
	_cleanup_close_ int dir = openat(pub->set->store_fd, ".cdmfs/journal", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r = dir < 0 ? -errno : cdm_journal_reader_open(dir, pub->set->run_dir, &reader, &err);
	if (r == 0)
		r = cdm_journal_reader_seek(reader, 0);
	while (r == 0 && (r = cdm_journal_reader_next(reader, &c)) == 1) {
		if (!(c.flags & CDM_CH_LOCAL))
			history_note(older, &c);
		r = 0;
	}
	cdm_journal_reader_close(&reader);
	if (r < 0 && !err.number)
		cdm_fail(&err, -r, "read in the journal what was renamed");
	if (r < 0)
		cdm_log_err(failed, &err, cdm_str("set", set_name(pub->set)));
	history_put_before(pub->history, &older);
	cdm_vector_fini(&pub->history_since);
	pub->history_since = (struct cdm_vector){0};
}

/* Only where the directory is still found: a rename may have been undone, or the directory removed. NULL: it is not, or cannot be looked at (*ret_r). */
static char *map(struct publisher *pub, struct incoming *in, const char *path, size_t len, size_t *ret_len, struct history_rename *last, int *ret_r)
{
	struct history_rename newest = {0};
	char *mapped = len ? history_map(pub->history, path, len, in->carried.change.dot.origin, &in->context, ret_len, &newest) : NULL;
	int found = mapped ? are_directories(pub, mapped, *ret_len, newest.to, newest.to_len) : 0;
	*ret_r = found < 0 ? found : *ret_r;
	if (mapped && found <= 0) {
		free(mapped);
		mapped = NULL;
	}
	if (mapped && last)
		*last = newest;
	else
		history_rename_fini(&newest);
	return mapped;
}

static bool is_inside(const struct cdm_change *c)
{
	return c->path2_len > c->path_len && memcmp(c->path2, c->path, c->path_len) == 0 && c->path2[c->path_len] == '/';
}

struct way_back {
	int from, to;
	char from_name[CDM_NAME_LEN_MAX + 1], to_name[CDM_NAME_LEN_MAX + 1];
};

static int call_back(void *arg)
{
	struct way_back *w = arg;
	return renameat2(w->from, w->from_name, w->to, w->to_name, RENAME_NOREPLACE);
}

/* No record: whoever gets both renames undoes the lower one by himself. */
static int undo(struct publisher *pub, struct incoming *in, const struct history_rename *r)
{
	struct way_back way;
	struct step step;
	way.from = publisher_parent(pub, r->to, r->to_len, way.from_name);
	way.to = publisher_parent(pub, r->from, r->from_len, way.to_name);
	if (way.from < 0 || way.to < 0)
		return way.from < 0 ? way.from : way.to;
	step_init(&step, CDM_CALL_RENAME, in, NULL);
	step.a.parent_mtime_ns = r->to_mtime_ns;
	step.a.parent2_mtime_ns = r->from_mtime_ns;
	step.a.expect = CDM_EXPECT_ABSENT;
	int e = publisher_call(pub, &step, call_back, &way, NULL);
	publisher_forget_dirs(pub);
	if (e < 0)
		return e;
	history_forget(pub->history, r->version.dot);
	conflict_report(pub, r->to, r->to_len, r->version, "a directory was moved into one that was moved into it");
	return 0;
}

/* 0, or APPLY_SKIP: the rename that is here stays. */
static int break_cycle(struct publisher *pub, struct incoming *in, const struct history_rename *here)
{
	struct cdm_change *c = &in->carried.change;
	struct cdm_version mine = {.dot = c->dot, .clock = c->clock};
	if (cdm_version_compare(&mine, &here->version) < 0) {
		conflict_report(pub, c->path, c->path_len, mine, "a directory was moved into one that was moved into it");
		return APPLY_SKIP;
	}
	int r = undo(pub, in, here);
	moved_end(pub, in);
	return r == -ENOTCONN || r == -ENOSPC ? r : 0;
}

int moved_begin(struct publisher *pub, struct incoming *in)
{
	struct cdm_change *c = &in->carried.change;
	struct history_rename last = {0};
	size_t len;
	int r = 0;
	if (in->resync)
		return 0;
	if (pub->history_since.count && !knew_the_rest(pub, in))
		read_history(pub);
	pub->mapped = map(pub, in, c->path, c->path_len, &len, NULL, &r);
	if (pub->mapped) {
		pub->given = c->path;
		pub->odd = true;
		pub->given_len = c->path_len;
		c->path = pub->mapped;
		c->path_len = len;
	}
	pub->mapped2 = map(pub, in, c->path2, c->path2_len, &len, &last, &r);
	if (pub->mapped2) {
		pub->given2 = c->path2;
		pub->odd = true;
		pub->given2_len = c->path2_len;
		c->path2 = pub->mapped2;
		c->path2_len = len;
	}
	if (r == 0 && pub->mapped2 && c->op == CDM_OP_RENAME && is_inside(c))
		r = break_cycle(pub, in, &last);
	history_rename_fini(&last);
	return r;
}

/* --- a directory whose new name a comparison of trees has brought already --- */

struct child {
	int from, to;
	const char *name;
	int flags;
};

static int call_move(void *arg)
{
	struct child *c = arg;
	return renameat2(c->from, c->name, c->to, c->name, RENAME_NOREPLACE);
}

static int call_remove(void *arg)
{
	struct child *c = arg;
	return unlinkat(c->from, c->name, c->flags);
}

static int merge_child(struct publisher *pub, struct incoming *in, struct child *c)
{
	struct stat from, to;
	struct step step;
	if (fstatat(c->from, c->name, &from, AT_SYMLINK_NOFOLLOW) < 0)
		return is_gone(-errno) ? 0 : -errno;
	int r = fstatat(c->to, c->name, &to, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
	if (r < 0 && !is_gone(r))
		return r;
	bool there = r == 0, directory = S_ISDIR(from.st_mode);
	step_init(&step, CDM_CALL_RENAME, in, NULL);
	if (!there && publisher_call(pub, &step, call_move, c, NULL) == 0)
		return 0;
	r = there && directory && S_ISDIR(to.st_mode) ? moved_merge(pub, in, c->from, c->name, c->to, c->name) : 0;
	if (r < 0)
		return r;
	bool same = there && from.st_size == to.st_size && from.st_mtim.tv_sec == to.st_mtim.tv_sec && from.st_mtim.tv_nsec == to.st_mtim.tv_nsec;
	c->flags = directory ? AT_REMOVEDIR : 0;
	step_init(&step, directory ? CDM_CALL_RMDIR : CDM_CALL_UNLINK, in, NULL);
	step.a.flags = same || directory ? 0 : CDM_AN_KEEP_OLD;
	publisher_call(pub, &step, call_remove, c, NULL); /* what stays keeps the directory */
	return 0;
}

int moved_merge(struct publisher *pub, struct incoming *in, int from_dir, const char *from_name, int to_dir, const char *to_name)
{
	int from = openat(from_dir, from_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	_cleanup_close_ int to = openat(to_dir, to_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *d = from < 0 || to < 0 ? NULL : fdopendir(from);
	int r = d || is_gone(-errno) ? 0 : -errno;
	if (!d) {
		if (from >= 0)
			close(from);
		return r;
	}
	for (struct dirent *e; r == 0 && (e = readdir(d));)
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			r = merge_child(pub, in, &(struct child){.from = from, .to = to, .name = e->d_name});
	closedir(d);
	return r;
}
