/* SPDX-License-Identifier: Apache-2.0 */
/* publish_rename.c — a received rename, and what it meets at both names: something newer, another kind of thing, a directory in use; exchanges. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include "replicator/publish_ops.h"

/* The subject, of version `here`, does not come to its new name, for something newer is there, or a directory: it goes, too. kept: in conflicts/. */
static int rename_lost(struct publisher *pub, struct incoming *in, int parent, const char *name, struct cdm_dot here, bool kept)
{
	struct cdm_change record = record_of(pub, in);
	struct two_names n = {.dir = parent, .name = name};
	struct step step;
	record.op = CDM_OP_UNLINK;
	record.path2_len = 0;
	record.rename_flags = 0;
	step_init(&step, CDM_CALL_UNLINK, in, &record);
	step.a.parent2_mtime_ns = 0;
	step.a.flags = kept ? CDM_AN_KEEP_OLD : 0;
	step.a.expect = CDM_EXPECT_VERSION;
	step.a.expect_version = here;
	if (kept)
		conflict_report(pub, in->carried.change.path2, in->carried.change.path2_len, in->carried.change.version, "renamed version");
	int r = publisher_call(pub, &step, call_unlink, &n, NULL);
	return r == -ENOENT ? APPLY_SKIP : r == -ESTALE ? APPLY_RETRY : r < 0 ? r : APPLIED;
}

/* Done by an earlier run, whose record a power cut took: the subject is at its new name and no more at the old one: 1. 0, or -errno. */
static int is_renamed_already(struct publisher *pub, const struct cdm_change *c)
{
	struct cdm_stamp from, to;
	struct stat st, st2;
	bool exchange = c->rename_flags & RENAME_EXCHANGE;
	if (cdm_dot_is_none(c->version.dot))
		return 0;
	int there = stamp_here(pub, c->path2, c->path2_len, &to, &st2);
	if (there <= 0 || !cdm_dot_equal(to.content.dot, c->version.dot))
		return there < 0 ? there : 0;
	there = stamp_here(pub, c->path, c->path_len, &from, &st);
	return there < 0 ? there : exchange ? there && !cdm_dot_is_none(c->victim) && cdm_dot_equal(from.content.dot, c->victim) : !there;
}

/* What the sender has at the other name of an exchange now is put at `name`, where nothing is, so that both sides are there to be
 * exchanged. 0, APPLY_SKIP: he has nothing there (any more), or -errno. */
static int fetch_side(struct publisher *pub, struct incoming *in, const char *other, size_t other_len, const char *name, size_t len,
	struct cdm_error *err)
{
	bool gone;
	struct incoming *side = publisher_need(pub, &(struct need){.path = other, .path_len = other_len}, &gone);
	if (!side)
		return gone ? -ECANCELED : APPLY_SKIP;
	struct cdm_change kept = side->carried.change, *c = &side->carried.change;
	c->path = name;
	c->path_len = len;
	c->base = c->victim = (struct cdm_dot){0};
	c->flags |= CDM_CH_WHOLE;
	side->resync = true; /* no record: the exchange tells of it */
	cdm_vector_copy(&side->context, &in->context);
	int r = apply_staged(pub, side, err);
	*c = kept;
	incoming_free(side, pub->set->staging_fd);
	return r == APPLY_NOTHING ? 0 : r;
}

static int call_exchange(struct publisher *pub, struct incoming *in, struct two_names *n)
{
	struct cdm_change record = record_of(pub, in);
	struct step step;
	step_init(&step, CDM_CALL_RENAME, in, &record);
	int r = publisher_call(pub, &step, call_rename, n, NULL);
	publisher_forget_dirs(pub);
	return r == -ENOENT ? APPLY_RETRY : r < 0 ? r : APPLIED;
}

/* Is there something at both names? 0 or -errno. */
static int look_at_both(struct publisher *pub, const struct cdm_change *c, bool *ret_there, bool *ret_there2)
{
	struct cdm_stamp stamp;
	struct stat st;
	int r = stamp_here(pub, c->path, c->path_len, &stamp, &st), r2 = stamp_here(pub, c->path2, c->path2_len, &stamp, &st);
	*ret_there = r > 0;
	*ret_there2 = r2 > 0;
	return r < 0 ? r : r2 < 0 ? r2 : 0;
}

/* Both sides stay, so nothing can be lost, whatever is there. A side that is missing here was never shipped (it was written again,
 * or removed after the exchange). */
static int apply_exchange(struct publisher *pub, struct incoming *in, struct cdm_error *err)
{
	const struct cdm_change *c = &in->carried.change;
	char name[CDM_NAME_LEN_MAX + 1], name2[CDM_NAME_LEN_MAX + 1];
	bool there, there2;
	int parent2 = parent_for(pub, in, c->path2, c->path2_len, name2, err), parent = parent_for(pub, in, c->path, c->path_len, name, err);
	if (parent < 0 || parent2 < 0)
		return parent == -ENOENT || parent2 == -ENOENT ? APPLY_SKIP : parent < 0 ? parent : parent2;
	pub->odd = true;
	int r = look_at_both(pub, c, &there, &there2);
	if (r == 0 && !there)
		r = fetch_side(pub, in, c->path2, c->path2_len, c->path, c->path_len, err);
	if (r == 0 && !there2)
		r = fetch_side(pub, in, c->path, c->path_len, c->path2, c->path2_len, err);
	if (r != 0 && r != APPLY_SKIP)
		return r;
	r = look_at_both(pub, c, &there, &there2);
	if (r < 0)
		return r;
	parent2 = publisher_parent(pub, c->path2, c->path2_len, name2);
	parent = publisher_parent(pub, c->path, c->path_len, name);
	if (parent < 0 || parent2 < 0)
		return is_gone(parent) || is_gone(parent2) ? APPLY_RETRY : parent < 0 ? parent : parent2;
	struct two_names forth = {parent, parent2, name, name2, there2 ? RENAME_EXCHANGE : 0}, back = {parent2, parent, name2, name, 0};
	if (!there && !there2)
		return APPLY_NOTHING;
	return call_exchange(pub, in, there ? &forth : &back);
}

/* At the new name is the subject itself: a comparison of trees saw it there before this rename came. */
static bool is_same_directory(struct publisher *pub, const struct cdm_change *c)
{
	struct cdm_stamp to;
	struct stat st;
	return !cdm_dot_is_none(c->version.dot) && stamp_here(pub, c->path2, c->path2_len, &to, &st) > 0 && S_ISDIR(st.st_mode) &&
		cdm_dot_equal(to.content.dot, c->version.dot);
}

/* A directory comes to a name that is a file's here: directories win, as in place(). */
static int gives_way(struct publisher *pub, struct incoming *in, int parent, const char *name, struct step *step)
{
	const struct cdm_change *c = &in->carried.change;
	int r = keep_away(pub, in, parent, name);
	if (r < 0 && r != -ENOENT)
		return r;
	conflict_report(pub, c->path2, c->path2_len, (struct cdm_version){0}, "file where a directory is now");
	step->a.expect = CDM_EXPECT_ABSENT;
	return AGAIN;
}

/* The subject is at its new name already: only the old one goes, and who follows this node hears of the rename. */
static int remove_old_name(struct publisher *pub, struct incoming *in, int parent, const char *name, struct cdm_dot here)
{
	struct cdm_change record = record_of(pub, in);
	struct two_names n = {.dir = parent, .name = name};
	struct step step;
	raise_parent(pub, in, in->carried.change.path2, in->carried.change.path2_len, in->carried.change.parent2_mtime_ns);
	step_init(&step, CDM_CALL_UNLINK, in, &record);
	step.a.flags = cdm_dot_is_none(here) ? CDM_AN_KEEP_OLD : 0; /* somebody's work, written past the mount */
	expect_version(&step, here);
	int r = publisher_call(pub, &step, call_unlink, &n, NULL);
	return r == -ENOENT || r == -ESTALE ? APPLY_RETRY : r < 0 ? r : APPLIED;
}

/* The rename failed with r. AGAIN: once more, as *step says now; else what comes of it, with *is_lost the end of the change. */
static int make_way(struct publisher *pub, struct incoming *in, struct two_names *n, bool directory, struct cdm_dot here, int r,
	const struct cdm_announcement *found, struct step *step, bool *is_lost)
{
	bool refused = r == -ESTALE, over_file = refused ? found->found_exists && !found->found_is_dir : r == -ENOTDIR;
	if (!refused && r != (directory ? -ENOTDIR : -EISDIR))
		return r;
	pub->odd = true;
	if (directory && over_file)
		return gives_way(pub, in, n->dir2, n->name2, step);
	enum verdict verdict = refused ? conflict_decide(pub, in, found) : TYPE_CLASH;
	*is_lost = !directory && (verdict == LOCAL_WINS || verdict == SAME || verdict == TYPE_CLASH);
	if (*is_lost && verdict == SAME) /* an answer brought it there */
		return remove_old_name(pub, in, n->dir, n->name, here);
	if (*is_lost)
		return rename_lost(pub, in, n->dir, n->name, here, verdict == TYPE_CLASH || conflict_seen(pub, in, found) != AHEAD);
	step->a.flags = verdict == INCOMING_WINS_KEEP_OLD ? CDM_AN_KEEP_OLD : 0;
	step->a.expect = directory ? CDM_EXPECT_ANY : CDM_EXPECT_ABSENT; /* an empty directory is replaced */
	if (!directory && verdict != ABSENT)
		expect_version(step, found->found.dot);
	return AGAIN;
}

/* At the new name is a directory that is in use: the subject itself, or one that another node made or filled. Then both become one. */
static int become_one(struct publisher *pub, struct incoming *in, struct two_names *n)
{
	const struct cdm_change *c = &in->carried.change;
	struct cdm_change record = record_of(pub, in);
	struct step step;
	pub->odd = true;
	if (!is_same_directory(pub, c))
		conflict_report(pub, c->path2, c->path2_len, change_version(c), "renamed to a directory that is in use here");
	int r = moved_merge(pub, in, n->dir, n->name, n->dir2, n->name2);
	if (r < 0)
		return r;
	struct two_names left = {.dir = n->dir, .name = n->name, .flags = AT_REMOVEDIR};
	step_init(&step, CDM_CALL_RMDIR, in, &record);
	return publisher_call(pub, &step, call_unlink, &left, NULL);
}

/* Changed here meanwhile, or something that the author of the rename never saw under this name: his own file was gone from it before (or
 * never came), and what is here now may be what a power cut left of the next one. */
static bool is_another_file(struct publisher *pub, const struct incoming *in, const struct cdm_version *here)
{
	const struct cdm_change *c = &in->carried.change;
	const struct cdm_announcement found = {.found_exists = true, .found = *here};
	if (cdm_dot_is_none(here->dot) || cdm_dot_equal(here->dot, c->version.dot))
		return false;
	return cdm_version_compare(here, &c->version) > 0 || conflict_seen(pub, in, &found) != SEEN;
}

/* Both are names of one file here (its author had exchanged it with one that nobody else had): a rename would leave both. 1; 0: they are not; or -errno. */
static int are_one_file(struct publisher *pub, const struct cdm_change *c, const struct stat *st)
{
	struct cdm_stamp stamp;
	struct stat st2;
	int r = st->st_nlink > 1 ? stamp_here(pub, c->path2, c->path2_len, &stamp, &st2) : 0;
	return r <= 0 ? r : st2.st_dev == st->st_dev && st2.st_ino == st->st_ino;
}

int apply_rename(struct publisher *pub, struct incoming *in, struct cdm_error *err)
{
	const struct cdm_change *c = &in->carried.change;
	char name[CDM_NAME_LEN_MAX + 1], name2[CDM_NAME_LEN_MAX + 1];
	struct cdm_announcement found;
	struct cdm_stamp here;
	struct stat st;
	int r = is_renamed_already(pub, c);
	if (r != 0)
		return r < 0 ? r : APPLY_NOTHING;
	if (c->path_len == c->path2_len && memcmp(c->path, c->path2, c->path_len) == 0) { /* by what others renamed meanwhile (moved_begin) it is there */
		pub->odd = true;
		return APPLY_SKIP;
	}
	if (c->rename_flags & RENAME_EXCHANGE)
		return apply_exchange(pub, in, err);
	r = stamp_here(pub, c->path, c->path_len, &here, &st);
	if (r <= 0)
		return r < 0 ? r : apply_instead(pub, in, c->path2, c->path2_len, err);
	bool directory = S_ISDIR(st.st_mode);
	pub->odd |= !cdm_dot_equal(here.content.dot, c->version.dot);
	if (!directory && is_another_file(pub, in, &here.content)) /* that stays, the rest is a copy */
		return apply_instead(pub, in, c->path2, c->path2_len, err);
	int parent2 = parent_for(pub, in, c->path2, c->path2_len, name2, err);
	if (parent2 < 0)
		return parent2 == -ENOENT ? APPLY_SKIP : parent2;
	int parent = publisher_parent(pub, c->path, c->path_len, name);
	if (parent < 0)
		return parent == -ENOENT ? APPLY_RETRY : parent;
	r = directory ? 0 : are_one_file(pub, c, &st);
	if (r != 0)
		return r < 0 ? r : remove_old_name(pub, in, parent, name, here.content.dot);
	struct cdm_change record = record_of(pub, in);
	struct two_names n = {parent, parent2, name, name2, 0};
	struct step step;
	step_init(&step, CDM_CALL_RENAME, in, &record);
	expect_version(&step, c->victim);
	if (!directory && cdm_dot_is_none(c->victim))
		step.a.expect = CDM_EXPECT_ABSENT;
	r = AGAIN;
	for (int tries = 0; r == AGAIN && tries < PLACE_TRIES; tries++) {
		r = publisher_call(pub, &step, call_rename, &n, &found);
		bool is_lost = false;
		if (r < 0)
			r = make_way(pub, in, &n, directory, here.content.dot, r, &found, &step, &is_lost);
		if (is_lost)
			return r;
	}
	if (directory && (r == -ENOTEMPTY || r == -EEXIST))
		r = become_one(pub, in, &n);
	if (directory)
		publisher_forget_dirs(pub);
	return r == AGAIN || r == -ENOENT || r == -ENOTEMPTY ? APPLY_RETRY : r < 0 ? r : APPLIED;
}
