/* SPDX-License-Identifier: Apache-2.0 */
/* publish_ops.c — one received change, by operation: what is announced, which call is made, what a refusal means. */
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
#include "replicator/names.h"
#include "replicator/publish.h"
#include "replicator/publish_ops.h"
#include "replicator/base.h"

#define REVIVE_DEPTH 256

/* --- steps --- */

/* The record of this change as this node journals it. */
struct cdm_change record_of(struct publisher *pub, struct incoming *in)
{
	struct cdm_change record = in->instead_of ? in->instead_of->carried.change : in->carried.change;
	record.flags |= CDM_CH_RECEIVED;
	record.context = contexts_same(&pub->told, record.dot.origin, &in->context) ? NULL : &in->context;
	return record;
}

void step_init(struct step *step, enum cdm_call call, const struct incoming *in, const struct cdm_change *record)
{
	const struct cdm_change *c = &in->carried.change;
	*step = (struct step){.a = {.call = call, .expect = CDM_EXPECT_ANY}, .records = record, .record_count = record && !in->resync ? 1 : 0};
	if (record) {
		step->a.parent_mtime_ns = c->parent_mtime_ns;
		step->a.parent2_mtime_ns = c->parent2_mtime_ns;
	}
}

void expect_version(struct step *step, struct cdm_dot dot)
{
	step->a.expect = cdm_dot_is_none(dot) ? CDM_EXPECT_ANY : CDM_EXPECT_VERSION;
	step->a.expect_version = dot;
}

int call_rename(void *arg)
{
	struct two_names *n = arg;
	return renameat2(n->dir, n->name, n->dir2, n->name2, n->flags);
}

int call_link(void *arg)
{
	struct two_names *n = arg;
	return linkat(n->dir, n->name, n->dir2, n->name2, 0);
}

int call_unlink(void *arg)
{
	struct two_names *n = arg;
	return unlinkat(n->dir, n->name, (int)n->flags);
}

int keep_away(struct publisher *pub, struct incoming *in, int dir, const char *name)
{
	struct step step;
	struct two_names n = {.dir = dir, .name = name};
	step_init(&step, CDM_CALL_UNLINK, in, NULL);
	step.a.flags = CDM_AN_KEEP_OLD;
	return publisher_call(pub, &step, call_unlink, &n, NULL);
}

/* --- parents that are missing here: another node removed them while this change was made --- */

static int revive_one(struct publisher *pub, struct incoming *in, const char *path, size_t len, struct cdm_error *err)
{
	char name[CDM_NAME_LEN_MAX + 1], staged[STAGING_NAME_MAX];
	bool gone;
	struct incoming *dir = publisher_need(pub, &(struct need){.path = path, .path_len = len}, &gone);
	if (!dir)
		return gone ? -ECANCELED : APPLY_SKIP;
	struct cdm_handle handle;
	int r = dir->carried.change.op == CDM_OP_MKDIR ? 0 : APPLY_SKIP;
	snprintf(staged, sizeof staged, "revived.%lx", (unsigned long)++pub->staged_number);
	if (r == 0)
		r = stage_object(pub, dir, pub->set->staging_fd, staged, &handle, err);
	int parent = r == 0 ? publisher_parent(pub, path, len, name) : -1;
	if (r == 0 && parent < 0)
		r = parent;
	if (r == 0) {
		struct step step;
		struct two_names n = {pub->staging_fd, parent, staged, name, RENAME_NOREPLACE};
		struct stat st;
		r = fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
		if (r == 0 && !S_ISDIR(st.st_mode))
			r = keep_away(pub, in, parent, name);
		r = is_gone(r) ? 0 : r;
		step_init(&step, CDM_CALL_RENAME, dir, NULL);
		if (r == 0)
			r = publisher_call(pub, &step, call_rename, &n, NULL);
		if (r < 0)
			unlinkat(pub->set->staging_fd, staged, AT_REMOVEDIR);
	}
	incoming_free(dir, pub->set->staging_fd);
	return r;
}

/* The directory that holds path; made again from the sender's where it is missing. fd, APPLY_SKIP as -ENOENT (the sender has none
 * either: what comes later deals with it), or -errno. */
int parent_for(struct publisher *pub, struct incoming *in, const char *path, size_t len, char *name, struct cdm_error *err)
{
	for (int tries = 0; tries < REVIVE_DEPTH; tries++) {
		int fd = publisher_parent(pub, path, len, name);
		if (fd >= 0 || !is_gone(fd))
			return fd;
		size_t at = 0, end = len; /* the topmost ancestor that is not there */
		for (;;) {
			const char *slash = memchr(path + at, '/', len - at);
			if (!slash)
				return -ENOENT;
			end = (size_t)(slash - path);
			int probe = cdm_open_beneath(pub->content_fd, path, end, O_PATH | O_DIRECTORY, 0);
			if (probe < 0 && !is_gone(probe))
				return probe;
			if (probe < 0)
				break;
			close(probe);
			at = end + 1;
		}
		int r = revive_one(pub, in, path, end, err);
		if (r != 0 && r != -EEXIST) /* made here meanwhile: all the better */
			return r == APPLY_SKIP ? -ENOENT : r;
		pub->odd = true;
	}
	return -ENOENT;
}

/* --- things that are staged and renamed into place --- */

static int clash_with_directory(struct publisher *pub, struct incoming *in, const char *staged)
{
	const struct cdm_change *c = &in->carried.change;
	if (c->op == CDM_OP_MKDIR) { /* both made it: one directory, the higher one's attributes */
		unlinkat(pub->set->staging_fd, staged, AT_REMOVEDIR);
		return apply_directory_attributes(pub, in);
	}
	conflict_keep_staged(pub, staged, c->path, c->path_len, change_version(c));
	if (staged == in->staging)
		in->staging[0] = 0;
	return APPLY_SKIP;
}

static void discard_staged(struct publisher *pub, struct incoming *in, const char *staged)
{
	unlinkat(pub->set->staging_fd, staged, in->carried.change.op == CDM_OP_MKDIR ? AT_REMOVEDIR : 0);
	if (staged == in->staging)
		in->staging[0] = 0;
}


/* What a refusal asks for: AGAIN = announce again as *step says now, else the end. */
static int after_refusal(struct publisher *pub, struct incoming *in, const char *staged, struct step *step,
	const struct cdm_announcement *found)
{
	const struct cdm_change *c = &in->carried.change;
	enum verdict verdict = conflict_decide(pub, in, found);
	step->a.flags = 0;
	/* Of two saves the higher wins everywhere, but a removal of that one may come before or after the other. */
	pub->odd |= c->op != CDM_OP_SAVE || (verdict != SAME && conflict_seen(pub, in, found) == UNSEEN);
	switch (verdict) {
	case ABSENT:
		step->a.expect = CDM_EXPECT_ABSENT;
		return AGAIN;
	case SAME:
		discard_staged(pub, in, staged);
		return APPLY_NOTHING;
	case INCOMING_WINS_KEEP_OLD:
		step->a.flags = CDM_AN_KEEP_OLD;
		conflict_report(pub, c->path, c->path_len, found->found, "version here");
		__attribute__((fallthrough));
	case INCOMING_WINS:
		expect_version(step, found->found.dot);
		return AGAIN;
	case TYPE_CLASH:
		return clash_with_directory(pub, in, staged);
	case LOCAL_WINS:
	default:
		if (c->op == CDM_OP_SAVE && conflict_seen(pub, in, found) != AHEAD)
			conflict_keep_staged(pub, staged, c->path, c->path_len, change_version(c));
		discard_staged(pub, in, staged);
		return APPLY_SKIP;
	}
}

static int place(struct publisher *pub, struct incoming *in, const char *staged, const struct cdm_handle *handle, int parent, const char *name)
{
	const struct cdm_change *c = &in->carried.change;
	struct cdm_change record = record_of(pub, in);
	struct two_names n = {pub->staging_fd, parent, staged, name, 0};
	struct cdm_announcement found;
	struct step step;
	record.handle = *handle;
	step_init(&step, CDM_CALL_RENAME, in, &record);
	step.a.parent2_mtime_ns = c->parent_mtime_ns; /* the final name's directory; staging's own does not matter */
	step.a.parent_mtime_ns = 0;
	struct cdm_dot base = c->op == CDM_OP_SAVE && !cdm_dot_is_none(c->base) ? c->base : c->victim;
	step.a.expect = cdm_dot_is_none(base) ? CDM_EXPECT_ABSENT : CDM_EXPECT_VERSION;
	step.a.expect_version = base;
	if (in->mends && !cdm_dot_is_none(in->carried.stamp.content.dot)) {
		expect_version(&step, in->carried.stamp.content.dot);
		step.a.flags = CDM_AN_KEEP_OLD;
		pub->kept_more = true;
	}
	int r = -ESTALE;
	for (int tries = 0; tries < PLACE_TRIES; tries++) {
		r = publisher_call(pub, &step, call_rename, &n, &found);
		if (r == 0) {
			if (staged == in->staging)
				in->staging[0] = 0;
			return APPLIED;
		}
		if (r == -EISDIR || r == -EEXIST || r == -ENOTEMPTY)
			return clash_with_directory(pub, in, staged);
		if (r == -ENOTDIR && c->op == CDM_OP_MKDIR) {
			r = keep_away(pub, in, parent, name);
			if (r == 0)
				conflict_report(pub, c->path, c->path_len, (struct cdm_version){0}, "file where a directory is now");
			step.a.expect = CDM_EXPECT_ABSENT;
			if (r == 0)
				continue;
		}
		if (r != -ESTALE)
			break;
		r = after_refusal(pub, in, staged, &step, &found);
		if (r != AGAIN)
			return r;
		r = -ESTALE;
	}
	if (staged != in->staging) /* else it is needed when this is tried again, and goes with the change */
		discard_staged(pub, in, staged);
	return r == -ENOENT ? APPLY_RETRY : r; /* the directory that was opened a moment ago is gone */
}

int publish_tree(struct publisher *pub, struct incoming *in, const char *staged, int parent, const char *name,
	const struct cdm_change *records, size_t count)
{
	struct two_names n = {pub->staging_fd, parent, staged, name, 0};
	struct step step;
	step_init(&step, CDM_CALL_RENAME, in, records);
	step.a.parent2_mtime_ns = in->carried.change.parent_mtime_ns;
	step.a.parent_mtime_ns = 0;
	step.a.expect = CDM_EXPECT_ABSENT;
	step.record_count = count;
	return publisher_call(pub, &step, call_rename, &n, NULL);
}

int apply_staged(struct publisher *pub, struct incoming *in, struct cdm_error *err)
{
	const struct cdm_change *c = &in->carried.change;
	char name[CDM_NAME_LEN_MAX + 1], made[STAGING_NAME_MAX];
	struct cdm_handle handle;
	int parent = in->mends ? publisher_parent(pub, c->path, c->path_len, name) : parent_for(pub, in, c->path, c->path_len, name, err);
	if (parent < 0)
		return parent == -ENOENT ? APPLY_SKIP : parent;
	snprintf(made, sizeof made, "made.%lx", (unsigned long)++pub->staged_number);
	bool spooled = in->staging[0];
	int r = stage_object(pub, in, pub->set->staging_fd, made, &handle, err);
	if (r < 0)
		return r;
	return place(pub, in, spooled ? in->staging : made, &handle, parent, name);
}

/* --- content changes in place --- */

/* What the sender has there now, for `in`, as a whole: put together if it came as a delta of what is here. */
static struct incoming *need_whole(struct publisher *pub, const struct incoming *in, const char *path, size_t len, bool *ret_gone, struct cdm_error *err)
{
	struct need need = {.path = path, .path_len = len};
	base_here(pub->set, &need);
	if (in->carried.kind == CONTENT_DELTA && cdm_dot_equal(in->carried.delta.base, need.base))
		need.base = (struct cdm_dot){0}; /* it was tried: what is here is not what its version says */
	struct incoming *whole = publisher_need(pub, &need, ret_gone);
	if (!whole || whole->carried.kind != CONTENT_DELTA || stage_delta(pub, whole, err) == 0)
		return whole;
	incoming_free(whole, pub->set->staging_fd);
	need.base = (struct cdm_dot){0};
	return publisher_need(pub, &need, ret_gone);
}

int apply_instead(struct publisher *pub, struct incoming *in, const char *path, size_t len, struct cdm_error *err)
{
	bool gone;
	const struct cdm_change *came = &in->carried.change;
	const char *given = path == came->path ? pub->given : path == came->path2 ? pub->given2 : NULL;
	pub->odd |= came->op != CDM_OP_SAVE;
	struct incoming *whole = need_whole(pub, in, path, len, &gone, err);
	for (int tries = 0; !whole && !gone && given && tries < 3; tries++) { /* the sender may not have applied the rename yet */
		bool as_given = tries % 2 == 0;
		size_t given_len = path == came->path ? pub->given_len : pub->given2_len;
		whole = need_whole(pub, in, as_given ? given : path, as_given ? given_len : len, &gone, err);
	}
	pub->overtaken = !whole && !gone;
	if (!whole)
		return gone ? -ECANCELED : APPLY_SKIP;
	struct cdm_change kept = whole->carried.change, *c = &whole->carried.change;
	bool usable = kept.op != CDM_OP_MKDIR || in->carried.change.op != CDM_OP_SAVE;
	*c = in->carried.change;
	c->op = kept.op;
	c->path = path;
	c->path_len = len;
	c->path2_len = 0;
	c->parent_mtime_ns = path == in->carried.change.path2 ? in->carried.change.parent2_mtime_ns : c->parent_mtime_ns;
	c->parent2_mtime_ns = 0;
	c->rename_flags = 0;
	c->value = kept.value;
	c->value_len = kept.value_len;
	c->attr = kept.attr;
	c->version = cdm_dot_is_none(kept.version.dot) ? change_version(&in->carried.change) : kept.version;
	if (cdm_dot_is_none(whole->carried.stamp.content.dot)) /* an adopted file: from now on it has a version here */
		whole->carried.stamp.content = c->version;
	c->base = c->victim = (struct cdm_dot){0};
	c->ranges = NULL;
	c->range_count = 0;
	c->flags |= CDM_CH_WHOLE;
	whole->resync = in->resync;
	if (!cdm_dot_is_none(kept.version.dot)) /* it is ahead of the stream: what made it comes with its own change */
		whole->instead_of = in;
	cdm_vector_copy(&whole->context, &in->context);
	int r = usable ? apply_staged(pub, whole, err) : APPLY_SKIP;
	if (r == APPLIED && !cdm_dot_equal(kept.version.dot, change_version(&in->carried.change).dot))
		doubt_note_ahead(pub, kept.version.dot, &in->context);
	whole->carried.change = kept;
	incoming_free(whole, pub->set->staging_fd);
	return r;
}

/* As the newest routes say; they come while changes are applied. */
static bool is_strict(struct set *s)
{
	pthread_mutex_lock(&s->policy_lock);
	bool strict = s->policy.strict_update;
	pthread_mutex_unlock(&s->policy_lock);
	return strict;
}

/* A file that has several names, here or at its author. What a crash left of an attempt is done to its end, whatever the policy says now. */
static int apply_to_several(struct publisher *pub, struct incoming *in, int base, struct cdm_error *err)
{
	return is_strict(pub->set) || pub->several_left ? apply_to_names(pub, in, base, err) : apply_in_place(pub, in, err);
}

/* What is at a name, as the mount knows it: nothing removes what is expected to be absent, so this only asks. -ESTALE: *ret says what. */
static int ask(struct publisher *pub, struct incoming *in, int dir, const char *name, struct cdm_announcement *ret)
{
	struct step step;
	struct two_names n = {.dir = dir, .name = name};
	step_init(&step, CDM_CALL_UNLINK, in, NULL);
	step.a.expect = CDM_EXPECT_ABSENT;
	return publisher_call(pub, &step, call_unlink, &n, ret);
}

/* Is what the walk saw there still, and does it give way without being kept? */
static bool gives_way(struct publisher *pub, struct incoming *in, const struct cdm_announcement *found)
{
	if (!cdm_dot_equal(found->found.dot, in->along))
		return false;
	if (in->carried.change.op != CDM_OP_LINK)
		return conflict_decide(pub, in, found) == INCOMING_WINS;
	return conflict_seen(pub, in, found) == SEEN && !conflict_is_refused(pub, in, found->found.dot);
}

/* The file that gives way at this path, if names that do not travel go along with it; if it is to be kept they keep it, too. A descriptor, or -1. */
static int open_with_left_out(struct publisher *pub, struct incoming *in, const char *path, size_t len)
{
	char name[CDM_NAME_LEN_MAX + 1];
	struct cdm_announcement found;
	struct cdm_stamp stamp;
	struct stat st;
	int parent = cdm_dot_is_none(in->along) ? -1 : publisher_parent(pub, path, len, name);
	if (parent < 0 || ask(pub, in, parent, name, &found) != -ESTALE || !gives_way(pub, in, &found))
		return -1;
	_cleanup_close_ int old = cdm_open_beneath(pub->set->store_fd, path, len, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
	bool is_it = old >= 0 && fstat(old, &st) == 0 && S_ISREG(st.st_mode) && stamp_of(old, &stamp) == 0 && cdm_dot_equal(stamp.content.dot, in->along);
	return is_it ? cdm_take_fd(&old) : -1;
}

/* A whole content takes the place of what is at its name. */
static int apply_whole(struct publisher *pub, struct incoming *in, struct cdm_error *err)
{
	const struct cdm_change *c = &in->carried.change;
	_cleanup_close_ int old = open_with_left_out(pub, in, c->path, c->path_len);
	return old < 0 ? apply_staged(pub, in, err) : apply_with_left_out(pub, in, old, err);
}

int apply_save(struct publisher *pub, struct incoming *in, struct cdm_error *err)
{
	const struct cdm_change *c = &in->carried.change;
	if (in->carried.kind == CONTENT_NONE || in->carried.kind == CONTENT_ATTRS)
		return cdm_fail_plain(err, EBADMSG, "a SAVE without content");
	bool linked = c->flags & CDM_CH_LINKED;
	int r = in->carried.kind == CONTENT_DELTA ? stage_delta(pub, in, err) : 0;
	if (r == -ESTALE)
		return apply_instead(pub, in, c->path, c->path_len, err);
	if (r != 0)
		return r;
	if (in->carried.kind == CONTENT_WHOLE && !linked)
		return apply_whole(pub, in, err);
	_cleanup_close_ int base = cdm_open_beneath(pub->set->store_fd, c->path, c->path_len, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
	struct cdm_stamp stamp = {0};
	struct stat st = {0};
	r = base < 0 ? base : fstat(base, &st) < 0 ? -errno : stamp_of(base, &stamp);
	if (r < 0 && !is_gone(r) && r != -ENXIO) /* a fifo or socket that nobody has open */
		return r;
	bool there = r == 0 && S_ISREG(st.st_mode) && !cdm_dot_is_none(stamp.content.dot);
	bool based = there && cdm_dot_equal(stamp.content.dot, c->base);
	if (in->carried.kind == CONTENT_WHOLE)
		return based && (st.st_nlink > 1 || pub->several_left) ? apply_to_several(pub, in, base, err) : apply_staged(pub, in, err);
	if (there && cdm_dot_equal(stamp.content.dot, in->carried.stamp.content.dot))
		return APPLY_NOTHING;
	if (!based)
		return apply_instead(pub, in, c->path, c->path_len, err);
	bool small = in->carried.content_bytes <= 8u << 20 && in->carried.content_bytes <= (uint64_t)st.st_size / 4;
	if (linked || st.st_nlink > 1)
		return apply_to_several(pub, in, base, err);
	if (small && !is_strict(pub->set))
		return apply_in_place(pub, in, err);
	char name[CDM_NAME_LEN_MAX + 1], made[STAGING_NAME_MAX];
	struct cdm_handle handle;
	int parent = parent_for(pub, in, c->path, c->path_len, name, err);
	if (parent < 0)
		return parent;
	snprintf(made, sizeof made, "made.%lx", (unsigned long)++pub->staged_number);
	r = stage_copy_with_ranges(pub, in, base, made, &handle, err);
	return r < 0 ? r : place(pub, in, made, &handle, parent, name);
}

/* --- names --- */

/* What a comparison would remove for the sender knows its version, the dot of the last write: was he told of it, too, by a SAVE? */
static bool is_told(struct publisher *pub, const struct incoming *in, struct cdm_dot here)
{
	struct cdm_dot saved_by;
	if (!cdm_vector_covers(&in->context, here))
		return true; /* nor does it go for that */
	return conflict_saved_by(pub, here, &saved_by) && (cdm_dot_is_none(saved_by) || cdm_vector_covers(&in->context, saved_by));
}

/* What is found where a name is to go: AGAIN, as *step says now, or APPLY_NOTHING: it stays. */
static int after_refused_removal(struct publisher *pub, struct incoming *in, struct step *step, const struct cdm_announcement *found)
{
	const struct cdm_change *c = &in->carried.change;
	bool meant = cdm_dot_equal(found->found.dot, c->version.dot);
	pub->odd = found->found_exists;
	if (!found->found_exists || found->found_is_dir)
		return APPLY_NOTHING;
	if (in->resync && (found->found_unsaved || !is_told(pub, in, found->found.dot)))
		return APPLY_NOTHING; /* it ships, when it is saved */
	enum seen seen = meant ? SEEN : conflict_seen(pub, in, found);
	if (seen == AHEAD)
		return APPLY_NOTHING;
	bool none = !meant && cdm_dot_is_none(found->found.dot);
	if (none || (seen == UNSEEN && cdm_version_compare(&found->found, &c->version) > 0)) {
		conflict_report(pub, c->path, c->path_len, c->version, "removal");
		return APPLY_NOTHING;
	}
	bool lost = seen == UNSEEN || conflict_is_refused(pub, in, found->found.dot);
	step->a.flags = (lost ? CDM_AN_KEEP_OLD : 0) | (in->resync ? CDM_AN_SAVED : 0);
	if (lost)
		conflict_report(pub, c->path, c->path_len, found->found, "version here");
	step->a.expect = CDM_EXPECT_VERSION;
	step->a.expect_version = found->found.dot;
	return AGAIN;
}

/* One name goes; what the origin had not seen stays (an update wins over a concurrent removal). A comparison looks first what is there (nothing
 * removes what is expected to be absent): only what is saved when it is looked at can be judged by what the journal says then. */
static int apply_unlink(struct publisher *pub, struct incoming *in, struct cdm_error *err)
{
	const struct cdm_change *c = &in->carried.change;
	char name[CDM_NAME_LEN_MAX + 1];
	struct cdm_announcement found;
	struct cdm_change record = record_of(pub, in);
	struct step step;
	int parent = publisher_parent(pub, c->path, c->path_len, name);
	if (parent < 0)
		return is_gone(parent) ? APPLY_NOTHING : parent;
	struct two_names n = {.dir = parent, .name = name};
	step_init(&step, CDM_CALL_UNLINK, in, &record);
	step.a.expect = in->resync ? CDM_EXPECT_ABSENT : CDM_EXPECT_VERSION;
	step.a.expect_version = c->version.dot; /* none: what never had one */
	cdm_faultpoint("publish.removal_came_not_looked");
	/* What is gone already, or stays because it is newer, is so by changes that the others get, too: they decide the same way. */
	for (int tries = 0; tries < PLACE_TRIES; tries++) {
		int r = publisher_call(pub, &step, call_unlink, &n, &found);
		if (r == 0)
			return APPLIED;
		pub->odd |= r != -ENOENT; /* what is gone already went by a change that the others get, too, or never left its author */
		if (r == -ENOENT || r == -EISDIR)
			return APPLY_NOTHING;
		if (r == -ESTALE)
			r = after_refused_removal(pub, in, &step, &found);
		if (r != AGAIN)
			return r;
	}
	return APPLY_RETRY;
}

int stamp_of(int fd, struct cdm_stamp *ret)
{
	int r = cdm_stamp_get(fd, ret);
	if (r == 0)
		return 0;
	*ret = (struct cdm_stamp){0};
	return r == -ENODATA || r == -ENOTSUP || r == -EPERM || r == -EBADMSG ? 0 : r;
}

int stamp_here(struct publisher *pub, const char *path, size_t len, struct cdm_stamp *ret, struct stat *st)
{
	*ret = (struct cdm_stamp){0};
	_cleanup_close_ int fd = cdm_open_beneath(pub->set->store_fd, path, len, O_PATH | O_NOFOLLOW, 0);
	int r = fd < 0 ? fd : fstat(fd, st) < 0 ? -errno : stamp_of(fd, ret);
	return r == 0 ? 1 : is_gone(r) ? 0 : r;
}

/* A directory of this name that the origin had not seen, and that was made later than his, is not what he removed: 1. 0, or -errno. */
static int another_stays(struct publisher *pub, const struct incoming *in)
{
	const struct cdm_change *c = &in->carried.change;
	struct cdm_announcement found = {.found_exists = true, .found_is_dir = true};
	struct cdm_stamp here;
	struct stat st;
	int r = stamp_here(pub, c->path, c->path_len, &here, &st);
	if (r <= 0 || cdm_dot_is_none(c->version.dot) || cdm_dot_equal(here.content.dot, c->version.dot))
		return r < 0 ? r : 0;
	found.found = here.content;
	pub->odd = true;
	enum seen seen = cdm_dot_is_none(here.content.dot) ? SEEN : conflict_seen(pub, in, &found);
	if (seen == SEEN || (seen == UNSEEN && cdm_version_compare(&here.content, &c->version) <= 0))
		return 0;
	conflict_report(pub, c->path, c->path_len, change_version(c), "removal of a directory that is another one here");
	return 1;
}

static int apply_rmdir(struct publisher *pub, struct incoming *in, struct cdm_error *err)
{
	const struct cdm_change *c = &in->carried.change;
	char name[CDM_NAME_LEN_MAX + 1];
	struct cdm_change record = record_of(pub, in);
	struct step step;
	int parent = publisher_parent(pub, c->path, c->path_len, name);
	if (parent < 0)
		return is_gone(parent) ? APPLY_NOTHING : parent;
	int r = another_stays(pub, in);
	if (r != 0)
		return r < 0 ? r : APPLY_NOTHING;
	struct two_names n = {.dir = parent, .name = name, .flags = AT_REMOVEDIR};
	step_init(&step, CDM_CALL_RMDIR, in, &record);
	if (c->flags & CDM_CH_WHOLE)
		r = remove_below(pub, in, parent, name);
	if (r < 0)
		return r;
	publisher_forget_dirs(pub);
	parent = publisher_parent(pub, c->path, c->path_len, name);
	if (parent < 0)
		return is_gone(parent) ? APPLY_NOTHING : parent;
	n.dir = parent;
	r = publisher_call(pub, &step, call_unlink, &n, NULL);
	if (r == -ENOTEMPTY || r == -EEXIST) {
		conflict_report(pub, c->path, c->path_len, change_version(c), "removal of a directory that is in use here");
		return APPLY_SKIP;
	}
	pub->odd |= r == -ENOTDIR;
	return r == -ENOENT || r == -ENOTDIR ? APPLY_NOTHING : r < 0 ? r : APPLIED;
}

/* Another name of the subject, whose version is `subject`, takes the place of what is there. */
static int replace_by_link(struct publisher *pub, struct incoming *in, struct two_names *n, struct cdm_dot subject)
{
	const struct cdm_change *c = &in->carried.change;
	struct cdm_change record = record_of(pub, in);
	struct cdm_announcement found;
	struct step step;
	step_init(&step, CDM_CALL_RENAME, in, &record);
	step.a.expect = CDM_EXPECT_ABSENT;
	for (int tries = 0; tries < PLACE_TRIES; tries++) {
		int r = publisher_call(pub, &step, call_rename, n, &found);
		if (r != -ESTALE)
			return r < 0 ? r : APPLIED;
		if (found.found_is_dir)
			return APPLY_RETRY;
		bool same = !found.found_unsaved && cdm_dot_equal(found.found.dot, subject);
		bool known = conflict_seen(pub, in, &found) != UNSEEN && !conflict_is_refused(pub, in, found.found.dot);
		bool seen = !found.found_exists || same || known;
		pub->odd |= !seen;
		step.a.flags = seen ? 0 : CDM_AN_KEEP_OLD;
		step.a.expect = found.found_exists ? CDM_EXPECT_VERSION : CDM_EXPECT_ABSENT;
		step.a.expect_version = found.found.dot;
		if (!seen)
			conflict_report(pub, c->path2, c->path2_len, found.found, "version here");
	}
	return APPLY_RETRY;
}

/* From what is at path2 to what is staged, which is about to replace that. */
static int left_out_go_along(struct publisher *pub, struct incoming *in, const char *staged)
{
	const struct cdm_change *c = &in->carried.change;
	_cleanup_close_ int old = open_with_left_out(pub, in, c->path2, c->path2_len);
	int r = old < 0 ? 0 : link_left_out(pub, in, old, staged);
	return r == -ESTALE || is_gone(r) ? APPLY_RETRY : r;
}

static void note_names(struct publisher *pub, const struct cdm_change *link, const struct stat *file)
{
	known_names_add(pub->known_names, file, link->path, link->path_len);
	known_names_add(pub->known_names, file, link->path2, link->path2_len);
}

static int apply_link(struct publisher *pub, struct incoming *in, struct cdm_error *err)
{
	const struct cdm_change *c = &in->carried.change;
	char name[CDM_NAME_LEN_MAX + 1], name2[CDM_NAME_LEN_MAX + 1], staged[STAGING_NAME_MAX];
	struct stat subject, other;
	int parent2 = parent_for(pub, in, c->path2, c->path2_len, name2, err);
	if (parent2 < 0)
		return parent2 == -ENOENT ? APPLY_SKIP : parent2;
	int parent = publisher_parent(pub, c->path, c->path_len, name), r = parent < 0 ? parent : 0;
	if (r == 0 && fstatat(parent, name, &subject, AT_SYMLINK_NOFOLLOW) < 0)
		r = -errno;
	if (r < 0) /* a file that only cannot be looked at is not one that is not here */
		return is_gone(r) ? apply_instead(pub, in, c->path2, c->path2_len, err) : r;
	struct cdm_change record = record_of(pub, in);
	struct two_names n = {parent, parent2, name, name2, 0};
	struct step step;
	struct cdm_stamp here;
	r = stamp_here(pub, c->path, c->path_len, &here, &subject);
	if (r < 0)
		return r;
	pub->odd |= r == 0 || !cdm_dot_equal(here.content.dot, c->version.dot);
	if (fstatat(parent2, name2, &other, AT_SYMLINK_NOFOLLOW) < 0) {
		if (!is_gone(-errno))
			return -errno;
		step_init(&step, CDM_CALL_LINK, in, &record);
		step.a.expect = CDM_EXPECT_ABSENT;
		r = publisher_call(pub, &step, call_link, &n, NULL);
		if (r == 0)
			note_names(pub, c, &subject);
		return r == -ESTALE || r == -EEXIST || r == -ENOENT ? APPLY_RETRY : r < 0 ? r : APPLIED;
	}
	if (other.st_ino == subject.st_ino)
		return APPLY_NOTHING;
	if (S_ISDIR(other.st_mode))
		return cdm_fail_plain(err, EISDIR, "link over a directory of another node");
	snprintf(staged, sizeof staged, "link.%lx", (unsigned long)++pub->staged_number); /* replace what is there in one step */
	n.dir2 = pub->staging_fd;
	n.name2 = staged;
	step_init(&step, CDM_CALL_LINK, in, NULL);
	r = publisher_call(pub, &step, call_link, &n, NULL);
	if (r < 0)
		return r;
	n = (struct two_names){pub->staging_fd, parent2, staged, name2, 0};
	r = left_out_go_along(pub, in, staged);
	if (r == 0)
		r = replace_by_link(pub, in, &n, here.content.dot);
	if (r == APPLIED)
		note_names(pub, c, &subject);
	else
		unlinkat(pub->set->staging_fd, staged, 0);
	return r;
}

static int apply_operation(struct publisher *pub, struct incoming *in, struct cdm_error *err)
{
	switch (in->carried.change.op) {
	case CDM_OP_SAVE:
		return apply_save(pub, in, err);
	case CDM_OP_MKDIR:
	case CDM_OP_SYMLINK:
	case CDM_OP_MKNOD:
		return apply_staged(pub, in, err);
	case CDM_OP_UNLINK:
		return apply_unlink(pub, in, err);
	case CDM_OP_RMDIR:
		return apply_rmdir(pub, in, err);
	case CDM_OP_RENAME:
		return apply_rename(pub, in, err);
	case CDM_OP_LINK:
		return apply_link(pub, in, err);
	case CDM_OP_SETATTR:
		return apply_setattr(pub, in, err);
	case CDM_OP_SETXATTR:
	case CDM_OP_REMOVEXATTR:
		return apply_xattr(pub, in, err);
	default:
		return cdm_fail_plain(err, EBADMSG, "operation %u has no meaning here", (unsigned)in->carried.change.op);
	}
}

int apply_change(struct publisher *pub, struct incoming *in, struct cdm_error *err)
{
	const struct cdm_change *c = &in->carried.change;
	int r = apply_operation(pub, in, err);
	if (r == APPLIED && c->op != CDM_OP_RENAME && c->op != CDM_OP_LINK && c->path2_len) /* renamed into place out of another directory */
		raise_parent(pub, in, c->path2, c->path2_len, c->parent2_mtime_ns);
	return r;
}
