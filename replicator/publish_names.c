/* SPDX-License-Identifier: Apache-2.0 */
/* publish_names.c — a file with several names gets another content by renames (update = strict): the content is staged whole and put on the disk, then
 * it takes the place of the old one at each other name, and at the change's own name last, with the record. Nobody sees half of it under any
 * name, and who has the old one open keeps it; for a moment some names have the new content and others the old one.
 *
 * The staged file bears inode and version of the old one in its name, and keeps that until the last step: who finds it after a crash knows that names of
 * the new one belong to those of the old one. Then the change comes again, and is done to its end. A name that is another file by now (or
 * content that was written here meanwhile) undoes what was done. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "common/faultpoint.h"
#include "common/io.h"
#include "replicator/names.h"
#include "replicator/publish_ops.h"

#define ROUNDS 64 /* of a search each: names beyond its room, or made meanwhile */

struct several {
	struct publisher *pub;
	struct incoming *in;
	int old;                     /* the file that is replaced; borrowed */
	struct cdm_dot base;         /* its version */
	bool left_out_only;          /* the other names are only those that do not travel */
	char prefix[64], staged[112]; /* of all staged files that were to replace it; this one */
	struct cdm_dot version;      /* its version */
	struct stat now;             /* and it */
	struct cdm_handle handle;
};

/* --- what is staged --- */

static void name_staged(struct several *s, const struct stat *old)
{
	const struct cdm_dot base = s->base;
	snprintf(s->prefix, sizeof s->prefix, STAGING_SEVERAL "%" PRIx64 "-%" PRIx64 "-%" PRIx64 "-", (uint64_t)old->st_ino, base.origin, base.number);
	snprintf(s->staged, sizeof s->staged, "%s%" PRIx64 "-%" PRIx64, s->prefix, s->version.origin, s->version.number);
}

/* Whole and on the disk before it has its name. */
static int stage_as(struct several *s, const char *made, struct cdm_error *err)
{
	int staging = s->pub->set->staging_fd;
	_cleanup_close_ int fd = openat(staging, made, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	int r = fd < 0 ? -errno : cdm_fsync(fd);
	if (r == 0 && renameat(staging, made, staging, s->staged) < 0)
		r = -errno;
	return r < 0 ? cdm_fail(err, -r, "stage the content of several names") : 0;
}

static int stage(struct several *s, struct cdm_error *err)
{
	char made[STAGING_NAME_MAX];
	struct incoming *in = s->in;
	snprintf(made, sizeof made, "made.%lx", (unsigned long)++s->pub->staged_number);
	bool whole = in->carried.kind == CONTENT_WHOLE, spooled = whole && in->staging[0];
	int r = whole ? stage_object(s->pub, in, s->pub->set->staging_fd, made, &s->handle, err) :
		stage_copy_with_ranges(s->pub, in, s->old, made, &s->handle, err);
	if (r < 0)
		return r;
	s->pub->several_left = true;
	r = stage_as(s, spooled ? in->staging : made, err);
	if (r < 0 && !spooled)
		unlinkat(s->pub->set->staging_fd, made, 0);
	if (r == 0 && spooled) {
		in->staging[0] = 0;
		in->lost = true; /* but for this */
	}
	return r;
}

/* From an earlier attempt, or anew. */
static int find_staged(struct several *s, struct cdm_error *err)
{
	int staging = s->pub->set->staging_fd;
	int r = fstatat(staging, s->staged, &s->now, AT_SYMLINK_NOFOLLOW) == 0 ? 0 : errno == ENOENT ? stage(s, err) : -errno;
	if (r == 0)
		r = cdm_handle_get(staging, s->staged, &s->handle);
	if (r == 0 && fstatat(staging, s->staged, &s->now, AT_SYMLINK_NOFOLLOW) < 0)
		r = -errno;
	return r;
}

/* Which version is staged under this name? */
static bool staged_version(const char *name, struct cdm_dot *ret)
{
	return sscanf(name, STAGING_SEVERAL "%*x-%*x-%*x-%" SCNx64 "-%" SCNx64, &ret->origin, &ret->number) == 2;
}

void several_tidy(struct publisher *pub, bool compared)
{
	int fd = pub->several_left ? openat(pub->set->staging_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct cdm_dot version;
	struct stat st;
	if (!d) {
		if (fd >= 0)
			close(fd);
		return;
	}
	pub->several_left = false;
	for (struct dirent *e; (e = readdir(d));) {
		if (strncmp(e->d_name, STAGING_SEVERAL, strlen(STAGING_SEVERAL)) != 0 || fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		bool settled = compared && staged_version(e->d_name, &version) && cdm_vector_covers(&pub->applied, version);
		if (st.st_nlink > 1 && !settled)
			pub->several_left = true;
		else
			unlinkat(fd, e->d_name, 0);
	}
	closedir(d);
}

/* --- names --- */

static bool goes_on(void *arg)
{
	return !publisher_is_stopping(arg);
}

static size_t count_names(const struct names *n)
{
	size_t count = 0, at = 0;
	while (names_next(n, &at))
		count++;
	return count;
}

/* wanted: so many at most. 0: those that are not in *ret lie where no mount shows them (or found no room). */
static int find_names(struct publisher *pub, const struct stat *file, size_t wanted, struct names *ret)
{
	known_names_look(pub->known_names, pub->set->store_fd, file, ret);
	if (count_names(ret) >= wanted)
		return 0;
	names_fini(ret);
	int r = names_find(pub->set->store_fd, file, ret, goes_on, pub);
	if (r == 0 && !ret->more)
		known_names_set(pub->known_names, file, ret);
	return r == -ECANCELED || ret->more || count_names(ret) < wanted ? r : 0;
}

static int drop_staged(struct publisher *pub, struct incoming *in, const char *staged)
{
	struct two_names n = {.dir = pub->staging_fd, .name = staged};
	struct step step;
	step_init(&step, CDM_CALL_UNLINK, in, NULL);
	return publisher_call(pub, &step, call_unlink, &n, NULL);
}

/* A staged file gets this name, too, in the place of one of this version. */
static int put_at(struct publisher *pub, struct incoming *in, const char *staged, const char *path, struct cdm_dot expected)
{
	char name[CDM_NAME_LEN_MAX + 1], other[STAGING_NAME_MAX];
	struct step step;
	int parent = publisher_parent(pub, path, strlen(path), name);
	if (parent < 0)
		return parent;
	snprintf(other, sizeof other, "name.%lx", (unsigned long)++pub->staged_number);
	struct two_names link = {pub->staging_fd, pub->staging_fd, staged, other, 0}, move = {pub->staging_fd, parent, other, name, 0};
	step_init(&step, CDM_CALL_LINK, in, NULL);
	int r = publisher_call(pub, &step, call_link, &link, NULL);
	if (r < 0)
		return r;
	step_init(&step, CDM_CALL_RENAME, in, NULL);
	expect_version(&step, expected);
	r = publisher_call(pub, &step, call_rename, &move, NULL);
	if (r < 0)
		drop_staged(pub, in, other);
	cdm_faultpoint("publish.put_at_one_name_not_all");
	return r;
}

/* Is this one of the names that get the content before the change's own? */
static bool is_other_name(const struct several *s, const char *path)
{
	const struct cdm_change *c = &s->in->carried.change;
	size_t len = strlen(path);
	bool own = len == c->path_len && memcmp(path, c->path, len) == 0;
	return !own && (!s->left_out_only || set_leaves_out(s->pub->set, path, len));
}

/* At all these but the change's own. */
static int put_at_each(struct several *s, const struct names *names, struct cdm_dot expected, size_t *ret_count)
{
	size_t at = 0;
	int r = 0;
	for (const char *path; r == 0 && (path = names_next(names, &at));)
		if (is_other_name(s, path)) {
			r = put_at(s->pub, s->in, s->staged, path, expected);
			++*ret_count;
		}
	if (r == 0 && !names->more)
		known_names_set(s->pub->known_names, &s->now, names);
	return r;
}

/* Until an open file of this version has only one name left, and others that no mount shows. */
static int put_at_others(struct several *s, int file, struct cdm_dot expected)
{
	struct stat st;
	for (int round = 0; round < ROUNDS; round++) {
		struct names names = {0};
		size_t count = 0;
		if (fstat(file, &st) < 0)
			return -errno;
		if (st.st_nlink <= 1)
			return 0;
		int r = find_names(s->pub, &st, st.st_nlink, &names);
		if (r == 0)
			r = put_at_each(s, &names, expected, &count);
		names_fini(&names);
		if (r < 0 || count == 0)
			return r;
	}
	return -ESTALE;
}

/* One that an earlier attempt left. What was written into it since, under the names that it has got, makes it a file of its own. */
static int put_at_one_left(struct several *s, int dir, const char *staged, struct cdm_dot version)
{
	struct cdm_stamp stamp;
	_cleanup_close_ int file = openat(dir, staged, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	int r = file < 0 ? -errno : stamp_of(file, &stamp);
	if (r < 0)
		return r;
	if (cdm_dot_equal(stamp.content.dot, version))
		return put_at_others(s, file, version);
	s->pub->job->odd_surely = true;
	return drop_staged(s->pub, s->in, staged);
}

/* What earlier attempts with other versions of the content left. */
static int put_at_left(struct several *s)
{
	int fd = s->pub->several_left ? openat(s->pub->set->staging_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1, r = 0;
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (!d) {
		if (fd >= 0)
			close(fd);
		return s->pub->several_left ? -EIO : 0;
	}
	for (struct dirent *e; r == 0 && (e = readdir(d));) {
		struct cdm_dot version;
		if (strncmp(e->d_name, s->prefix, strlen(s->prefix)) != 0 || strcmp(e->d_name, s->staged) == 0 || !staged_version(e->d_name, &version))
			continue;
		r = put_at_one_left(s, fd, e->d_name, version);
	}
	closedir(d);
	return r;
}

/* --- the end of it --- */

/* The change's own name, which makes it done. */
static int put_at_own(struct several *s)
{
	const struct cdm_change *c = &s->in->carried.change;
	char name[CDM_NAME_LEN_MAX + 1];
	int parent = publisher_parent(s->pub, c->path, c->path_len, name);
	if (parent < 0)
		return parent;
	struct cdm_change record = record_of(s->pub, s->in);
	struct two_names n = {s->pub->staging_fd, parent, s->staged, name, 0};
	struct step step;
	record.handle = s->handle;
	step_init(&step, CDM_CALL_RENAME, s->in, &record);
	step.a.parent2_mtime_ns = c->parent_mtime_ns;
	step.a.parent_mtime_ns = 0;
	expect_version(&step, s->base);
	cdm_faultpoint("publish.put_at_others_not_own");
	return publisher_call(s->pub, &step, call_rename, &n, NULL);
}

/* The old one, under this name in staging, goes back to all names that the new one has got. */
static int put_back(struct several *s, const char *old)
{
	struct stat st;
	struct names names = {0};
	if (fstatat(s->pub->set->staging_fd, s->staged, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	int r = find_names(s->pub, &st, st.st_nlink - 1, &names);
	size_t at = 0;
	for (const char *path; r == 0 && (path = names_next(&names, &at));)
		r = put_at(s->pub, s->in, old, path, s->version);
	names_fini(&names);
	return r;
}

/* Another name in staging for the old file, by one that it still has. */
static int stage_old(struct several *s, const char *staged)
{
	char name[CDM_NAME_LEN_MAX + 1];
	struct stat st, linked;
	struct names names = {0};
	struct step step;
	size_t at = 0;
	int r = fstat(s->old, &st) < 0 ? -errno : find_names(s->pub, &st, 1, &names);
	const char *path = r == 0 ? names_next(&names, &at) : NULL;
	int parent = path ? publisher_parent(s->pub, path, strlen(path), name) : -ENOENT;
	struct two_names n = {parent, s->pub->staging_fd, name, staged, 0};
	step_init(&step, CDM_CALL_LINK, s->in, NULL);
	r = r < 0 ? r : parent < 0 ? parent : publisher_call(s->pub, &step, call_link, &n, NULL);
	names_fini(&names);
	if (r == 0 && (fstatat(s->pub->set->staging_fd, staged, &linked, AT_SYMLINK_NOFOLLOW) < 0 || linked.st_ino != st.st_ino)) {
		drop_staged(s->pub, s->in, staged);
		r = -ESTALE; /* it went from there in this moment */
	}
	return r;
}

static int undo(struct several *s)
{
	char old[STAGING_NAME_MAX];
	struct stat st;
	if (fstatat(s->pub->set->staging_fd, s->staged, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_nlink == 1)
		return 0;
	snprintf(old, sizeof old, "back.%lx", (unsigned long)++s->pub->staged_number);
	int r = stage_old(s, old);
	if (r < 0)
		return r;
	r = put_back(s, old);
	drop_staged(s->pub, s->in, old);
	return r;
}

/* It cannot be done now: undo it, but not where all of it waits and is done later. */
static int after_failure(struct several *s, int r, struct cdm_error *err)
{
	const struct cdm_change *c = &s->in->carried.change;
	if (publisher_waits_for(r) || publisher_mount_is_gone(r) || r == -ECANCELED)
		return r;
	if (undo(s) < 0) /* names that should be of one file are of two */
		s->pub->job->odd_surely = true;
	if (r == -ESTALE || is_gone(r))
		return APPLY_RETRY;
	return cdm_fail(err, -r, "put the content of %.*s under its other names", (int)(c->path_len < 200 ? c->path_len : 200), c->path);
}

/* The mount keeps a file that lost its last name for those who have it open. */
static bool is_kept_open(struct publisher *pub, const struct stat *file)
{
	int fd = openat(pub->set->store_fd, ".cdmfs/orphans", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	bool found = false;
	if (!d && fd >= 0)
		close(fd);
	for (struct dirent *e; d && !found && (e = readdir(d));)
		found = e->d_ino == file->st_ino;
	if (d)
		closedir(d);
	return found;
}

/* Had the old file `names` names before the change's own went, and did it get another one in that moment? */
static bool has_new_name(struct several *s, nlink_t names)
{
	struct stat st;
	bool more = fstat(s->old, &st) == 0 && st.st_nlink >= names;
	if (more && st.st_nlink == 1 && is_kept_open(s->pub, &st))
		return false;
	return more && fstat(s->old, &st) == 0 && st.st_nlink > 0; /* 0: it was not kept any more when that was looked at */
}

static int put_at_all(struct several *s, struct cdm_error *err)
{
	const struct cdm_change *c = &s->in->carried.change;
	struct stat st;
	if (fstat(s->old, &st) < 0)
		return -errno;
	name_staged(s, &st);
	int r = find_staged(s, err);
	if (r < 0)
		return r;
	r = put_at_others(s, s->old, s->base);
	if (r == 0)
		r = put_at_left(s);
	if (r == 0 && fstat(s->old, &st) < 0)
		r = -errno;
	if (r == 0)
		r = put_at_own(s);
	if (r < 0)
		return after_failure(s, r, err);
	known_names_add(s->pub->known_names, &s->now, c->path, c->path_len);
	s->pub->job->odd_surely |= has_new_name(s, st.st_nlink);
	return APPLIED;
}

int apply_to_names(struct publisher *pub, struct incoming *in, int old, struct cdm_error *err)
{
	struct several s = {.pub = pub, .in = in, .old = old, .base = in->carried.change.base, .version = in->carried.stamp.content.dot};
	return put_at_all(&s, err);
}

int apply_with_left_out(struct publisher *pub, struct incoming *in, int old, struct cdm_error *err)
{
	struct several s = {.pub = pub, .in = in, .old = old, .base = in->along, .left_out_only = true, .version = in->carried.stamp.content.dot};
	return put_at_all(&s, err);
}

int link_left_out(struct publisher *pub, struct incoming *in, int old, const char *staged)
{
	struct several s = {.pub = pub, .in = in, .old = old, .left_out_only = true};
	snprintf(s.staged, sizeof s.staged, "%s", staged);
	if (fstatat(pub->set->staging_fd, staged, &s.now, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	return put_at_others(&s, old, in->along);
}
