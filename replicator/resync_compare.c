/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/resync_compare.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "common/io.h"
#include "replicator/overtaken.h"
#include "replicator/publish.h"
#include "replicator/quarantine.h"

#define GROUPS_MAX 65536

/* --- files with several names --- */

struct group {
	uint64_t theirs;   /* their inode number; 0 = free */
	uint64_t ours;     /* ours at the first name; 0 = it is being fetched */
	char *path;
	size_t len;
};
struct owner { /* a file with several names here is this one of theirs */
	uint64_t ours, theirs; /* inode numbers; ours 0 = free */
};
struct groups {
	struct group slots[2 * GROUPS_MAX];
	struct owner owners[2 * GROUPS_MAX];
	size_t count, owner_count;
};

static size_t slot_for(uint64_t inode)
{
	return ((inode * 0x9e3779b97f4a7c15ull) >> 47) % (2 * GROUPS_MAX);
}

static struct group *group_slot(struct groups *g, uint64_t theirs)
{
	size_t i = slot_for(theirs);
	while (g->slots[i].theirs && g->slots[i].theirs != theirs)
		i = (i + 1) % (2 * GROUPS_MAX);
	return &g->slots[i];
}

static struct owner *owner_slot(struct groups *g, uint64_t ours)
{
	size_t i = slot_for(ours);
	while (g->owners[i].ours && g->owners[i].ours != ours)
		i = (i + 1) % (2 * GROUPS_MAX);
	return &g->owners[i];
}

void compare_shared_init(struct compare_shared *shared, struct set *s, const struct cdm_vector *sender, bool incomplete)
{
	*shared = (struct compare_shared){.groups = calloc(1, sizeof *shared->groups)};
	if (!shared->groups)
		abort();
	cdm_vector_copy(&shared->sender, sender);
	cdm_vector_copy(&shared->mine, &s->follow.visible);
	shared->incomplete = incomplete;
	shared->decisive = !incomplete && cdm_vector_covers_all(sender, &shared->mine);
	shared->began_clock = cdm_clock_now();
	shared->unseen = unseen_new(s, sender);
	shared->there = paths_new();
	shared->left_out = left_out_new(s);
}

void compare_shared_fini(struct compare_shared *shared)
{
	for (size_t i = 0; i < 2 * GROUPS_MAX; i++)
		free(shared->groups->slots[i].path);
	free(shared->groups);
	unseen_free(&shared->unseen);
	paths_free(&shared->there);
	left_out_free(&shared->left_out);
	overtaken_free(&shared->overtaken);
	cdm_vector_fini(&shared->sender);
	cdm_vector_fini(&shared->mine);
}

/* --- results --- */

struct todo *todo_new(const char *path, size_t len)
{
	struct todo *t = calloc(1, sizeof *t);
	if (!t || !(t->path = malloc(len + 1)))
		abort();
	memcpy(t->path, path, len);
	t->path[len] = 0;
	t->len = len;
	return t;
}

void todo_free(struct todo *t)
{
	free(t->path);
	free(t);
}

struct compare *compare_new(struct set *s, struct compare_shared *shared, struct todo *dir, struct listing *theirs, bool gone)
{
	struct compare *c = calloc(1, sizeof *c);
	if (!c)
		abort();
	c->set = s;
	c->shared = shared;
	c->dir = dir;
	c->theirs = *theirs;
	c->gone = gone;
	c->wants_tail = &c->wants;
	c->removals_tail = &c->removals;
	return c;
}

void compare_free(struct compare *c)
{
	while (c->wants) {
		struct want *w = c->wants;
		c->wants = w->next;
		incoming_free(w->in, c->set->staging_fd);
		free(w->path);
		free(w);
	}
	while (c->subdirs) {
		struct todo *t = c->subdirs;
		c->subdirs = t->next;
		todo_free(t);
	}
	while (c->removals) {
		struct removal *r = c->removals;
		c->removals = r->next;
		free(r->path);
		free(r);
	}
	listing_free(&c->theirs);
	listing_free(&c->ours);
	todo_free(c->dir);
	free(c);
}

static struct want *want_add(struct compare *c, const char *path, size_t len)
{
	struct want *w = calloc(1, sizeof *w);
	if (!w || !(w->path = malloc(len + 1)))
		abort();
	memcpy(w->path, path, len);
	w->len = len;
	w->parent_mtime_ns = c->dir->theirs.mtime_ns;
	*c->wants_tail = w;
	c->wants_tail = &w->next;
	return w;
}

struct incoming *incoming_make(const struct carried *k)
{
	struct bytes frame = {0};
	carried_encode(k, &frame);
	struct incoming *in = incoming_new(frame.data, frame.len, NULL);
	bytes_fini(&frame);
	if (!in)
		abort(); /* our own encoding */
	in->complete = true;
	return in;
}

struct incoming *removal_incoming(const struct removal *r, const struct cdm_vector *context)
{
	struct carried k = {.change = {.op = r->directory ? CDM_OP_RMDIR : CDM_OP_UNLINK, .dot = {ANSWER_ORIGIN, 1}, .clock = 1,
		.version = r->version, .path = r->path, .path_len = r->len}};
	struct incoming *in = incoming_make(&k);
	in->resync = true;
	cdm_vector_copy(&in->context, context);
	return in;
}

static void removal_add(struct compare *c, const char *path, size_t len, const struct entry *e, bool top, bool orphaned)
{
	struct removal *r = calloc(1, sizeof *r);
	if (!r || !(r->path = malloc(len + 1)))
		abort();
	memcpy(r->path, path, len);
	r->path[len] = 0;
	r->len = len;
	r->directory = S_ISDIR(e->mode);
	r->top = top;
	r->orphaned = orphaned;
	r->version = e->stamp.content;
	*c->removals_tail = r;
	c->removals_tail = &r->next;
}

static void subdir_add(struct compare *c, const char *path, size_t len, const struct entry *e, bool both)
{
	struct todo *t = todo_new(path, len);
	t->theirs = (struct directory){.mode = e->mode, .uid = e->uid, .gid = e->gid, .mtime_ns = e->mtime_ns, .stamp = e->stamp, .extra = e->extra};
	memcpy(t->theirs.user, e->user, e->user_len); /* at most FRAME_OWNER_MAX: decode_one */
	memcpy(t->theirs.group, e->owner_group, e->owner_group_len);
	t->both = both;
	t->next = c->subdirs;
	c->subdirs = t;
}

/* Attributes (and, where ours has none, the stamp) as theirs. */
static struct want *want_attributes(struct compare *c, const char *path, size_t len, const struct entry *e)
{
	struct carried k = {.user = e->user, .user_len = e->user_len, .group = e->owner_group, .group_len = e->owner_group_len,
		.change = {.op = CDM_OP_SETATTR, .dot = {ANSWER_ORIGIN, 1}, .clock = e->stamp.attr_clock ? e->stamp.attr_clock : 1, .version = e->stamp.content,
			.path = path, .path_len = len, .attr = {.mask = CDM_ATTR_UID | CDM_ATTR_GID | CDM_ATTR_MODE | CDM_ATTR_MTIME,
			.mode = e->mode, .uid = e->uid, .gid = e->gid, .mtime_ns = e->mtime_ns}}};
	if (e->stamp.attr_origin)
		k.change.dot.origin = e->stamp.attr_origin;
	struct want *w = want_add(c, path, len);
	w->in = incoming_make(&k);
	w->in->resync = true;
	w->in->carried.change.parent_mtime_ns = c->dir->theirs.mtime_ns;
	return w;
}

static struct want *want_link(struct compare *c, const struct group *first, const char *path, size_t len)
{
	struct carried k = {.change = {.op = CDM_OP_LINK, .dot = {ANSWER_ORIGIN, 1}, .clock = 1, .path = first->path, .path_len = first->len,
		.path2 = path, .path2_len = len, .parent2_mtime_ns = c->dir->theirs.mtime_ns}};
	struct want *w = want_add(c, path, len);
	w->in = incoming_make(&k);
	w->in->resync = true;
	cdm_vector_copy(&w->in->context, &c->shared->sender);
	return w;
}

/* This name of ours becomes one of another file: names of ours that do not travel go with it, if it has several there, and no other name stays. One that is
 * its file's only name there may have come by a rename: as in the stream, others of ours then keep what they have. */
static void take_along(struct compare *c, struct want *w, const struct entry *theirs, const struct entry *ours)
{
	bool files = S_ISREG(theirs->mode) && S_ISREG(ours->mode);
	if (!files || theirs->nlink < 2 || cdm_dot_is_none(ours->stamp.content.dot))
		return;
	const struct owner *o = owner_slot(c->shared->groups, ours->group);
	if ((o->ours && o->theirs != theirs->group) || !left_out_has(c->shared->left_out, ours->group))
		return;
	w->along = ours->stamp.content.dot;
	if (w->in)
		w->in->along = w->along;
}

/* --- only here --- */

/* No journal ever saw it: give it a change of its own, so that it ships. Not on a pure target. */
static void touch(struct compare *c, const char *path, size_t len)
{
	int r = c->set->policy.role & CDM_ROLE_SOURCE ? set_mount_touch(c->set, path, len) : 0;
	if (r < 0)
		cdm_debug("touch %.*s: %s", (int)len, path, strerror(-r));
}

/* --- what was lost with its author --- */

/* An answer brought it ahead of the stream (or it is being written): neither side's vector tells of it. */
static bool is_ahead(const struct compare *c, struct cdm_dot dot)
{
	return !cdm_dot_is_none(dot) && !cdm_vector_covers(&c->shared->mine, dot) && !cdm_vector_covers(&c->shared->sender, dot);
}

/* The sender's vector covers it, but it was overtaken before he got it. */
static bool is_behind(const struct compare *c, const char *path, size_t len, struct cdm_dot dot)
{
	return c->shared->overtaken && overtaken_lacks(c->shared->overtaken, path, len, dot);
}

static void stays_here(struct compare *c, const char *path, size_t len)
{
	c->stays = true;
	if (c->shared->overtaken)
		overtaken_is_here(c->shared->overtaken, path, len);
}

/* The sender does not have it, and its author lost it: he has begun anew. */
static bool is_orphan(const struct compare *c, struct cdm_dot dot, bool behind)
{
	return (behind || is_ahead(c, dot)) && (cdm_vector_began_anew(&c->shared->mine, dot.origin) || cdm_vector_began_anew(&c->shared->sender, dot.origin));
}

/* It becomes a change of ours, with all below it. False on a pure target: the sender's tree counts. */
static bool take_over(struct compare *c, const char *path, size_t len)
{
	char full[600];
	if (!(c->set->policy.role & CDM_ROLE_SOURCE))
		return false;
	snprintf(full, sizeof full, "%s/full", c->set->run_dir);
	if (setxattr(full, "trusted.cdmfs.new", path, len, 0) < 0)
		cdm_debug("take over %.*s: %s", (int)len, path, strerror(errno));
	c->taken_over++;
	return true;
}

/* Ours (or something below it) could not be read for shipping: the sender lacks it in spite of what his vector says, until it can be (unreadable.c). */
static bool is_unread(const struct compare *c, const char *path, size_t len)
{
	return quarantine_has_unread(c->set->quarantine, path, len);
}

/* top: its directory is not to be removed. */
static void only_here(struct compare *c, const char *dir, size_t dir_len, const struct entry *e, bool top)
{
	size_t len;
	_cleanup_free_ char *path = cdm_path_join(dir, dir_len, e->name, e->name_len, &len);
	struct cdm_dot dot = e->stamp.content.dot;
	c->seen++;
	bool came = unseen_came(c->shared->unseen, path, len), behind = is_behind(c, path, len, dot);
	c->ahead |= is_ahead(c, dot);
	c->stays |= came || !cdm_vector_covers(&c->shared->sender, dot);
	if (behind)
		stays_here(c, path, len);
	if (came)
		return; /* the rename or link ships, with all that is below */
	bool orphan = is_orphan(c, dot, behind);
	if (orphan && take_over(c, path, len))
		return;
	bool known = orphan || (cdm_vector_covers(&c->shared->sender, dot) && !behind);
	bool holds = S_ISDIR(e->mode) && c->shared->overtaken && overtaken_has_below(c->shared->overtaken, path, len);
	bool goes = !c->shared->incomplete && !cdm_dot_is_none(dot) && known && !holds && !is_unread(c, path, len);
	if (cdm_dot_is_none(dot))
		touch(c, path, len);
	else if (goes && !paths_have(c->shared->there, path, len))
		removal_add(c, path, len, e, top, orphan && behind);
	if (!S_ISDIR(e->mode))
		return;
	struct listing below;
	int r = listing_read(c->set, path, len, &below);
	if (r < 0) {
		c->error = listing_is_gone(r) ? c->error : r;
		return;
	}
	for (size_t i = 0; i < below.count; i++)
		only_here(c, path, len, &below.entries[i], !goes);
	listing_free(&below);
}

/* --- in both, or only there --- */

/* True: this name is another name of a file that was met before, and a link is all it needs (or it is one already). ours: NULL = nothing is here;
 * same: it has the content of theirs. */
static bool joins_group(struct compare *c, const char *path, size_t len, const struct entry *theirs, const struct entry *ours, bool same)
{
	struct groups *g = c->shared->groups;
	if (S_ISDIR(theirs->mode) || theirs->nlink < 2)
		return false;
	struct group *group = group_slot(g, theirs->group);
	if (group->theirs) {
		bool is_one = same && group->ours && group->ours == ours->group;
		struct want *w = is_one ? NULL : want_link(c, group, path, len);
		if (w && ours)
			take_along(c, w, theirs, ours);
		return true;
	}
	if (g->count >= GROUPS_MAX)
		return false;
	g->count++;
	*group = (struct group){.theirs = theirs->group, .ours = same ? ours->group : 0, .path = strndup(path, len), .len = len};
	return false;
}

static void forget_inode(struct compare *c, const struct entry *theirs)
{
	if (!S_ISDIR(theirs->mode) && theirs->nlink > 1) {
		struct group *group = group_slot(c->shared->groups, theirs->group);
		if (group->theirs)
			group->ours = 0; /* the first name gets a new file */
	}
}

/* Ours is one file with a name that is a name of another file there: that keeps it, and this name gets an inode of its own, to which the other names
 * of theirs are linked. How many names it has on either side says nothing of that: some may be local there, or here. */
static bool is_name_of_another(struct groups *g, const struct entry *theirs, const struct entry *ours)
{
	if (S_ISDIR(ours->mode) || ours->nlink < 2)
		return false;
	struct owner *o = owner_slot(g, ours->group);
	if (o->ours)
		return o->theirs != theirs->group;
	if (g->owner_count >= GROUPS_MAX)
		return ours->nlink != theirs->nlink; /* more than are told apart */
	g->owner_count++;
	*o = (struct owner){.ours = ours->group, .theirs = theirs->group};
	return false;
}

static void only_there(struct compare *c, const char *path, size_t len, const struct entry *e)
{
	struct cdm_dot dot = e->stamp.content.dot;
	if (!c->shared->decisive && !cdm_dot_is_none(dot) && cdm_vector_covers(&c->shared->mine, dot) && unseen_went(c->shared->unseen, path, len)) {
		c->stays = true; /* we had it and removed it: that ships */
		return;
	}
	/* The removal shipped, and could not be done there. What we have set aside may be lacking here for that. */
	if (c->shared->incomplete && !cdm_dot_is_none(dot) && cdm_vector_covers(&c->shared->mine, dot) &&
		!quarantine_may_have_below(c->set->quarantine, path, len)) {
		c->stays = true;
		return;
	}
	paths_add(c->shared->there, path, len);
	if (joins_group(c, path, len, e, NULL, false))
		return;
	want_add(c, path, len)->theirs = S_ISREG(e->mode) ? e->stamp.content : (struct cdm_version){0};
	if (S_ISDIR(e->mode))
		subdir_add(c, path, len, e, false);
}

static bool attributes_differ(const struct compare *c, const struct entry *a, const struct entry *b)
{
	return (a->mode & 07777) != (b->mode & 07777) || a->uid != b->uid || a->gid != b->gid || a->mtime_ns != b->mtime_ns;
}

/* Have we changed its attributes since, unknown to the sender? */
static bool our_attributes_stay(const struct compare *c, const struct entry *theirs, const struct entry *ours)
{
	if (c->shared->decisive)
		return ours->stamp.attr_clock > c->shared->began_clock;
	if (ours->stamp.attr_clock != theirs->stamp.attr_clock)
		return ours->stamp.attr_clock > theirs->stamp.attr_clock;
	return ours->stamp.attr_origin > theirs->stamp.attr_origin;
}

static void same_object(struct compare *c, const char *path, size_t len, const struct entry *theirs, const struct entry *ours)
{
	bool stamp = cdm_dot_is_none(ours->stamp.content.dot) && !cdm_dot_is_none(theirs->stamp.content.dot);
	c->same++;
	if (our_attributes_stay(c, theirs, ours))
		return;
	if (theirs->extra != ours->extra && !S_ISLNK(ours->mode)) {
		forget_inode(c, theirs);
		take_along(c, want_add(c, path, len), theirs, ours);
	} else if (attributes_differ(c, theirs, ours) || stamp) {
		want_attributes(c, path, len, theirs);
	}
}

static bool same_content(const struct entry *theirs, const struct entry *ours)
{
	if (S_ISLNK(theirs->mode))
		return theirs->extra == ours->extra;
	if (!S_ISREG(theirs->mode))
		return theirs->rdev == ours->rdev;
	if (cdm_dot_equal(theirs->stamp.content.dot, ours->stamp.content.dot) && !cdm_dot_is_none(ours->stamp.content.dot))
		return true;
	bool adopted = cdm_dot_is_none(theirs->stamp.content.dot) || cdm_dot_is_none(ours->stamp.content.dot);
	return adopted && theirs->size == ours->size && theirs->mtime_ns == ours->mtime_ns;
}

bool compare_is_same(const struct entry *theirs, const struct entry *ours)
{
	return (theirs->mode & S_IFMT) == (ours->mode & S_IFMT) && (S_ISDIR(theirs->mode) || same_content(theirs, ours));
}

/* Ours is newer than anything the sender knows of this name. */
static bool ours_stays(const struct compare *c, const struct entry *theirs, const struct entry *ours)
{
	struct cdm_dot dot = ours->stamp.content.dot;
	if (cdm_dot_is_none(dot) || cdm_dot_is_none(theirs->stamp.content.dot))
		return false;
	if (c->shared->decisive)
		return !cdm_vector_covers(&c->shared->sender, dot);
	return cdm_version_compare(&ours->stamp.content, &theirs->stamp.content) > 0;
}

static void in_both(struct compare *c, const char *path, size_t len, const struct entry *theirs, const struct entry *ours)
{
	bool clash = S_ISDIR(ours->mode) && !S_ISDIR(theirs->mode);
	c->seen++;
	c->ahead |= is_ahead(c, ours->stamp.content.dot);
	if (!clash)
		paths_add(c->shared->there, path, len);
	if (S_ISDIR(theirs->mode)) {
		bool both = S_ISDIR(ours->mode);
		if (!both)
			want_add(c, path, len); /* the applier keeps our file aside */
		c->same += both;
		subdir_add(c, path, len, theirs, both);
		return;
	}
	if (clash) {
		size_t dir_len = len > ours->name_len ? len - ours->name_len - 1 : 0;
		c->clash = true;
		only_here(c, path, dir_len, ours, true); /* it goes if the sender knew it; the file comes with the next comparison */
		return;
	}
	if ((theirs->mode & S_IFMT) == (ours->mode & S_IFMT) && same_content(theirs, ours)) {
		if (joins_group(c, path, len, theirs, ours, true))
			return;
		if (c->shared->decisive && is_name_of_another(c->shared->groups, theirs, ours)) {
			forget_inode(c, theirs);
			want_add(c, path, len);
		} else {
			same_object(c, path, len, theirs, ours);
		}
		return;
	}
	bool behind = is_behind(c, path, len, ours->stamp.content.dot), orphan = is_orphan(c, ours->stamp.content.dot, behind);
	bool newer = cdm_version_compare(&ours->stamp.content, &theirs->stamp.content) > 0;
	if (orphan ? newer && take_over(c, path, len) : ours_stays(c, theirs, ours) || (newer && (behind || is_unread(c, path, len)))) {
		stays_here(c, path, len);
		return;
	}
	if (joins_group(c, path, len, theirs, ours, false))
		return;
	forget_inode(c, theirs);
	struct want *w = want_add(c, path, len);
	take_along(c, w, theirs, ours);
	w->orphaned = orphan && behind && newer;
	w->again = ours->stamp.content.clock == CDM_CLOCK_UNSURE; /* what was found is in the journal, and might be shipped (unsure.h) */
	if (S_ISREG(theirs->mode))
		w->theirs = theirs->stamp.content;
	if (S_ISREG(theirs->mode) && S_ISREG(ours->mode)) {
		w->base = ours->stamp.content.dot;
		w->base_size = ours->size;
	}
}

static int order(const struct entry *a, const struct entry *b)
{
	size_t n = a->name_len < b->name_len ? a->name_len : b->name_len;
	int r = memcmp(a->name, b->name, n);
	return r ? r : a->name_len < b->name_len ? -1 : a->name_len > b->name_len;
}

bool compare_directory(const struct compare_shared *shared, const struct directory *theirs, const struct entry *ours, bool stays, int64_t *ret_mtime_ns)
{
	const struct cdm_stamp *a = &theirs->stamp, *b = &ours->stamp;
	bool equal = a->attr_clock == b->attr_clock && a->attr_origin == b->attr_origin;
	*ret_mtime_ns = theirs->mtime_ns;
	if (shared->decisive)
		return b->attr_clock <= shared->began_clock;
	if (ours->mtime_ns > theirs->mtime_ns && (equal || stays))
		*ret_mtime_ns = ours->mtime_ns;
	return equal || (a->attr_clock != b->attr_clock ? a->attr_clock > b->attr_clock : a->attr_origin > b->attr_origin);
}

/* A directory that both have, after what is in it. */
static void settle_directory(struct compare *c)
{
	const struct todo *d = c->dir;
	const struct directory *theirs = &d->theirs;
	struct entry ours, want = {.mode = theirs->mode, .uid = theirs->uid, .gid = theirs->gid, .stamp = theirs->stamp, .user = theirs->user,
		.user_len = strlen(theirs->user), .owner_group = theirs->group, .owner_group_len = strlen(theirs->group)};
	int r = entry_read(c->set, d->path, d->len, &ours);
	if (r < 0) {
		c->error = listing_is_gone(r) ? c->error : r;
		return;
	}
	if (!compare_directory(c->shared, theirs, &ours, c->stays, &want.mtime_ns))
		return;
	bool stamp = cdm_dot_is_none(ours.stamp.content.dot) && !cdm_dot_is_none(theirs->stamp.content.dot);
	bool extra = theirs->extra != ours.extra;
	if (extra)
		want_add(c, d->path, d->len)->parent_mtime_ns = 0;
	if (!extra && !stamp && !attributes_differ(c, &want, &ours))
		return;
	struct want *w = want_attributes(c, d->path, d->len, &want);
	w->in->mtime_was_ns = ours.mtime_ns;
}

void compare_work(void *arg)
{
	struct compare *c = arg;
	const struct todo *d = c->dir;
	if (c->gone)
		return; /* removed since: the stream will tell */
	int r = listing_read(c->set, d->path, d->len, &c->ours); /* gone: it is on its way */
	if (r < 0 && !listing_is_gone(r)) {
		c->error = r;
		return;
	}
	size_t i = 0, k = 0;
	while (i < c->theirs.count || k < c->ours.count) {
		const struct entry *theirs = i < c->theirs.count ? &c->theirs.entries[i] : NULL;
		const struct entry *ours = k < c->ours.count ? &c->ours.entries[k] : NULL;
		r = !theirs ? 1 : !ours ? -1 : order(theirs, ours);
		if (r > 0) {
			only_here(c, d->path, d->len, ours, true);
			k++;
			continue;
		}
		size_t len;
		_cleanup_free_ char *path = cdm_path_join(d->path, d->len, theirs->name, theirs->name_len, &len);
		if (r < 0)
			only_there(c, path, len, theirs);
		else
			in_both(c, path, len, theirs, ours);
		i++;
		k += r == 0;
	}
	if (d->both)
		settle_directory(c);
	if (!c->error)
		c->error = unseen_error(c->shared->unseen);
}
