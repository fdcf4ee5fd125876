/* SPDX-License-Identifier: Apache-2.0 */
/* adopt.c — what would adopting the tree in this store mean: every directory of the parent is listed (the frames of resync.h) and compared
 * with ours; nothing is written. Then, unless it was only a question, what the parent's tree lacks is removed if that was asked
 * for, and the resynchronisation does the rest. Loop thread; the comparing itself in the walker. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "common/io.h"
#include "replicator/publish.h"
#include "replicator/rescan.h"
#include "replicator/resync_compare.h"
#include "replicator/route.h"
#include "replicator/view.h"

#define DIRS_ASKED_MAX 16
#define NAMES_SHOWN 10
#define AGAIN_MS 300 /* what was at work then is at something else now */
#define REMOVALS_MAX 100000
#define DEPTH_MAX 200 /* of local directories, which are walked by recursion */

struct counts {
	uint64_t same, fetch, fetch_bytes, newer, only_here, removed, local;
};

struct lone { /* a name that only we have */
	struct lone *next;
	char *path;
	size_t len;
	struct cdm_version version;
	bool directory, stays; /* stays: a directory that holds what does not belong to the set */
};

struct adopt {
	struct set *set;
	uint64_t serial; /* of the peer; 0: the node is gone from us */
	bool dry, remove, too_many;
	set_adopt_fn *done;
	void *arg;
	struct cdm_vector theirs, ours; /* read by the walker */
	struct todo *stack, *asked, **asked_tail;
	size_t asked_count, comparing;
	struct listing listing; /* of the oldest asked directory, arriving */
	struct counts counts;
	struct cdm_timer *again; /* before the second look of a rescan */
	struct rescan *rescan;  /* it is a search for what was written past the mount; NULL: it is not */
	struct lone *only_here; /* newest first: deepest first */
	size_t removal_count;
	json_t *names;
};

struct look { /* one directory, in the walker */
	struct adopt *adopt;
	struct todo *dir;
	struct listing theirs;
	bool gone;
	int error; /* not 0: it could not be looked at */
	struct counts counts;
	struct todo *subdirs;
	struct lone *only_here;
};

static void pump(struct adopt *a);

/* --- the end --- */

static void todos_free(struct todo *list)
{
	for (struct todo *next; list; list = next) {
		next = list->next;
		todo_free(list);
	}
}

static void lone_free(struct lone *l)
{
	free(l->path);
	free(l);
}

static void adopt_free(struct adopt *a)
{
	if (a->comparing)
		return; /* with the last one */
	todos_free(a->stack);
	todos_free(a->asked);
	for (struct lone *l = a->only_here, *next; l; l = next) {
		next = l->next;
		lone_free(l);
	}
	listing_free(&a->listing);
	rescan_free(&a->rescan);
	cdm_vector_fini(&a->theirs);
	cdm_vector_fini(&a->ours);
	json_decref(a->names);
	free(a);
}

static void finish(struct adopt *a, json_t *answer)
{
	a->set->adopt = NULL;
	a->serial = 0;
	cdm_timer_cancel(&a->again);
	a->done(a->arg, answer);
	adopt_free(a);
}

static void fail(struct adopt *a, const char *error, const char *hint)
{
	finish(a, json_pack("{s:s, s:s}", "error", error, "hint", hint));
}

static struct peer *peer_of(const struct adopt *a)
{
	struct peer *p = a->set->peers;
	while (p && p->serial != a->serial)
		p = p->next;
	return p;
}

/* --- comparing, in the walker --- */

static uint64_t count_files(int dir_fd, const char *name, unsigned depth)
{
	int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	uint64_t count = 0;
	if (!d) {
		if (fd >= 0)
			close(fd);
		return fd < 0; /* not a directory */
	}
	for (struct dirent *e; depth < DEPTH_MAX && (e = readdir(d));)
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			count += e->d_type == DT_DIR ? count_files(fd, e->d_name, depth + 1) : 1;
	closedir(d);
	return count;
}

/* Excluded or local? Then it is no part of the set. */
static bool is_foreign(struct set *s, const char *path, size_t len, bool *ret_local)
{
	pthread_mutex_lock(&s->policy_lock);
	bool excluded = cdm_filter_match(&s->policy.exclude, path, len), local = cdm_filter_match(&s->policy.local, path, len);
	pthread_mutex_unlock(&s->policy_lock);
	*ret_local = local && !excluded;
	return local || excluded;
}

/* Counts the local files of one directory. Returns whether it holds anything that is no part of the set. */
static bool count_foreign(struct look *l, const char *dir, size_t dir_len)
{
	struct set *s = l->adopt->set;
	bool found = false, local;
	int fd = dir_len ? cdm_open_beneath(s->store_fd, dir, dir_len, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0)
			 : openat(s->store_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (!d && fd >= 0)
		close(fd);
	for (struct dirent *e; d && (e = readdir(d));) {
		size_t len;
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 || (!dir_len && strcmp(e->d_name, ".cdmfs") == 0))
			continue;
		_cleanup_free_ char *path = cdm_path_join(dir, dir_len, e->d_name, strlen(e->d_name), &len);
		if (!is_foreign(s, path, len, &local))
			continue;
		found = true;
		l->counts.local += local ? count_files(fd, e->d_name, 0) : 0;
	}
	if (d)
		closedir(d);
	return found;
}

static struct lone *lone_new(char *path, size_t len, bool directory)
{
	struct lone *lone = calloc(1, sizeof *lone);
	if (!lone)
		abort();
	*lone = (struct lone){.path = path, .len = len, .directory = directory};
	return lone;
}

/* Takes path. Returns whether it must stay: it holds what is no part of the set. */
static bool only_here(struct look *l, char *path, size_t len, const struct entry *e)
{
	struct cdm_dot dot = e->stamp.content.dot;
	struct lone *lone = lone_new(path, len, S_ISDIR(e->mode));
	bool known = !cdm_dot_is_none(dot) && cdm_vector_covers(&l->adopt->theirs, dot); /* the others had it and removed it */
	struct listing below;
	lone->version = e->stamp.content;
	lone->next = l->only_here;
	l->only_here = lone;
	int r = lone->directory ? listing_read(l->adopt->set, path, len, &below) : -ENOTDIR;
	if (!listing_is_gone(r))
		l->error = r < 0 ? r : l->error;
	if (r == 0) {
		lone->stays = count_foreign(l, path, len);
		for (size_t i = 0; i < below.count; i++) {
			size_t n;
			char *name = cdm_path_join(path, len, below.entries[i].name, below.entries[i].name_len, &n);
			lone->stays |= only_here(l, name, n, &below.entries[i]);
		}
		listing_free(&below);
	}
	l->counts.removed += known && !lone->stays;
	l->counts.only_here += !known && !lone->stays;
	bool stays = lone->stays;
	lone->stays |= known; /* nothing to show or to remove for us */
	return stays;
}

static bool is_newer(const struct entry *ours, const struct entry *theirs)
{
	return !cdm_dot_is_none(ours->stamp.content.dot) && !cdm_dot_is_none(theirs->stamp.content.dot) &&
		cdm_version_compare(&ours->stamp.content, &theirs->stamp.content) > 0;
}

static void fetch(struct look *l, const struct entry *theirs)
{
	l->counts.fetch++;
	l->counts.fetch_bytes += theirs->size;
}

static void add_subdir(struct look *l, const char *path, size_t len)
{
	struct todo *t = todo_new(path, len);
	t->next = l->subdirs;
	l->subdirs = t;
}

static void one_of_theirs(struct look *l, const struct entry *theirs, const struct entry *ours)
{
	size_t len;
	_cleanup_free_ char *path = cdm_path_join(l->dir->path, l->dir->len, theirs->name, theirs->name_len, &len);
	struct cdm_dot dot = theirs->stamp.content.dot;
	if (!ours && !cdm_dot_is_none(dot) && cdm_vector_covers(&l->adopt->ours, dot))
		return; /* removed here, which ships */
	if (ours && compare_is_same(theirs, ours))
		l->counts.same++;
	else if (ours && !S_ISDIR(theirs->mode) && !S_ISDIR(ours->mode) && is_newer(ours, theirs))
		l->counts.newer++;
	else
		fetch(l, theirs);
	if (S_ISDIR(theirs->mode))
		add_subdir(l, path, len);
}

static int order(const struct entry *a, const struct entry *b)
{
	int r = memcmp(a->name, b->name, a->name_len < b->name_len ? a->name_len : b->name_len);
	return r ? r : a->name_len < b->name_len ? -1 : a->name_len > b->name_len;
}

static void look_for_strangers(struct look *l, const struct entry *theirs, const struct entry *ours)
{
	const struct entry *e = theirs ? theirs : ours;
	size_t len;
	_cleanup_free_ char *path = cdm_path_join(l->dir->path, l->dir->len, e->name, e->name_len, &len);
	if (rescan_look(l->adopt->rescan, path, len, theirs, ours))
		add_subdir(l, path, len);
}

static void look_work(void *arg)
{
	struct look *l = arg;
	struct listing ours;
	if (l->gone)
		return;
	int r = listing_read(l->adopt->set, l->dir->path, l->dir->len, &ours);
	if (r < 0 && !listing_is_gone(r)) {
		l->error = r;
		return;
	}
	for (size_t i = 0, k = 0; i < l->theirs.count || k < ours.count;) {
		const struct entry *t = i < l->theirs.count ? &l->theirs.entries[i] : NULL, *o = k < ours.count ? &ours.entries[k] : NULL;
		r = !t ? 1 : !o ? -1 : order(t, o);
		if (l->adopt->rescan) {
			look_for_strangers(l, r <= 0 ? t : NULL, r >= 0 ? o : NULL);
		} else if (r > 0) {
			size_t len;
			char *path = cdm_path_join(l->dir->path, l->dir->len, o->name, o->name_len, &len);
			only_here(l, path, len, o);
		} else {
			one_of_theirs(l, t, r == 0 ? o : NULL);
		}
		i += r <= 0;
		k += r >= 0;
	}
	listing_free(&ours);
	if (!l->adopt->rescan)
		count_foreign(l, l->dir->path, l->dir->len);
}

/* --- what follows when it was no question --- */

static void removed(struct job *job)
{
	job_free(job);
}

static void remove_only_here(struct adopt *a)
{
	struct job *job = job_new(a->set, a->serial, 0);
	for (const struct lone *l = a->only_here; l; l = l->next) {
		struct removal r = {.path = l->path, .len = l->len, .directory = l->directory, .version = l->version};
		job_add(job, removal_incoming(&r, &a->theirs));
	}
	job->done = removed;
	publisher_submit(job);
}

/* Subscribe anew, asking for the comparison that changes things. */
static void resynchronise(struct adopt *a)
{
	struct peer *p = peer_of(a);
	a->set->wants_resync = true;
	a->set->adopt = NULL;
	link_fail(p->link, EAGAIN, "set %s is adopted: subscribing again", set_name(a->set));
}

/* In the walker, when all was looked at. */
static void tell_strangers(void *arg)
{
	struct adopt *a = arg;
	rescan_tell(a->rescan, a->dry);
}

static void strangers_told(void *arg)
{
	struct adopt *a = arg;
	struct set *s = a->set;
	s->posted--;
	a->comparing--;
	if (!a->serial) {
		adopt_free(a);
	} else if (rescan_is_nowhere(a->rescan)) {
		fail(a, "neither this node nor the one it compares with has such a path", "paths are told from the set's root");
	} else {
		json_t *answer = json_pack("{s:o}", "result", rescan_result(a->rescan));
		if (rescan_wants_repair(a->rescan))
			resynchronise(a);
		finish(a, answer);
	}
	set_let_go(s);
}

static void look_again(void *arg)
{
	struct adopt *a = arg;
	a->again = NULL;
	pump(a);
}

static void conclude(struct adopt *a)
{
	if (a->rescan && rescan_again(a->rescan, &a->stack)) {
		a->again = cdm_loop_after(a->set->node->loop, AGAIN_MS, look_again, a);
		return;
	}
	if (a->rescan) {
		a->comparing++;
		a->set->posted++;
		cdm_worker_submit(a->set->walker, tell_strangers, strangers_told, a);
		return;
	}
	struct set *s = a->set;
	const struct counts *c = &a->counts;
	if (a->too_many && a->remove && !a->dry) {
		fail(a, "more than 100000 names are only here; nothing was removed or adopted", "is this the right store? Remove them by hand, or leave --delete away");
		return;
	}
	if (a->remove && !a->dry && !s->mounted) {
		fail(a, "the set is not mounted on this node: nothing can be removed", "mount it first; it adopts the tree then, and --delete removes afterwards");
		return;
	}
	json_t *answer = json_pack("{s:{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:O, s:s}}", "result", "same", (json_int_t)c->same, "fetch", (json_int_t)c->fetch,
		"fetch_bytes", (json_int_t)c->fetch_bytes, "newer", (json_int_t)c->newer, "only_here", (json_int_t)c->only_here, "removed",
		(json_int_t)c->removed, "local", (json_int_t)c->local, "names", a->names, "when", s->mounted ? "now" : "mount");
	if (!a->dry && s->mounted) {
		if (a->remove && a->only_here)
			remove_only_here(a);
		resynchronise(a);
	}
	finish(a, answer);
}

/* --- the walk --- */

static void note_only_here(struct adopt *a, struct look *l)
{
	struct lone *found = NULL;
	for (struct lone *n = l->only_here, *next; n; n = next) { /* into the order found, for the names */
		next = n->next;
		n->next = found;
		found = n;
	}
	l->only_here = NULL;
	for (struct lone *n = found, *next; n; n = next) {
		next = n->next;
		if (!n->stays && json_array_size(a->names) < NAMES_SHOWN)
			json_array_append_new(a->names, view_text(n->path));
		a->too_many |= a->removal_count >= REMOVALS_MAX;
		if (a->too_many || !a->remove || n->stays) {
			lone_free(n);
			continue;
		}
		a->removal_count++;
		n->next = a->only_here;
		a->only_here = n;
	}
}

static void fail_look(struct adopt *a, int error)
{
	struct cdm_error err = CDM_ERROR_INIT;
	cdm_fail(&err, -error, "look at a directory of this node's store");
	fail(a, err.text, "try again; the kernel's log tells more where a disk fails");
}

static void add_counts(struct counts *to, const struct counts *c)
{
	to->same += c->same;
	to->fetch += c->fetch;
	to->fetch_bytes += c->fetch_bytes;
	to->newer += c->newer;
	to->only_here += c->only_here;
	to->removed += c->removed;
	to->local += c->local;
}

static void look_done(void *arg)
{
	struct look *l = arg;
	struct adopt *a = l->adopt;
	struct set *s = a->set;
	s->posted--;
	a->comparing--;
	add_counts(&a->counts, &l->counts);
	note_only_here(a, l);
	while (l->subdirs) {
		struct todo *t = l->subdirs;
		l->subdirs = t->next;
		t->next = a->stack;
		a->stack = t;
	}
	int error = l->error;
	listing_free(&l->theirs);
	todo_free(l->dir);
	free(l);
	if (a->serial && error)
		fail_look(a, error);
	else if (a->serial)
		pump(a);
	else
		adopt_free(a);
	set_let_go(s);
}

static void pump(struct adopt *a)
{
	struct peer *p = peer_of(a);
	bool disturbed = a->set->resyncing; /* its listings come behind those asked for by now */
	while (p && !disturbed && a->stack && a->asked_count < DIRS_ASKED_MAX) {
		struct todo *t = a->stack;
		a->stack = t->next;
		t->next = NULL;
		link_send(p->link, a->set, FRAME_RESYNC_NEED, 0, t->path, t->len, NULL, 0);
		*a->asked_tail = t;
		a->asked_tail = &t->next;
		a->asked_count++;
	}
	if (p && !a->asked && !a->comparing && disturbed)
		fail(a, "the trees are being resynchronised since a moment ago", "cdmfs-stat shows when that is done");
	else if (p && !a->asked && !a->comparing)
		conclude(a);
}

bool adopt_is_asking(const struct peer *p)
{
	return p->set->adopt && p->set->adopt->serial == p->serial && p->set->adopt->asked;
}

int adopt_dir(struct peer *p, uint8_t flags, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	struct adopt *a = p->set->adopt;
	if (listing_decode(payload, len, &a->listing) < 0)
		return cdm_fail_plain(err, EBADMSG, "malformed RESYNC_DIR");
	if (!(flags & DIR_LAST))
		return 0;
	struct look *l = calloc(1, sizeof *l);
	if (!l)
		abort();
	struct todo *t = a->asked;
	a->asked = t->next;
	if (!a->asked)
		a->asked_tail = &a->asked;
	a->asked_count--;
	listing_settle(&a->listing);
	*l = (struct look){.adopt = a, .dir = t, .theirs = a->listing, .gone = flags & DIR_GONE};
	a->listing = (struct listing){0};
	a->comparing++;
	a->set->posted++;
	cdm_worker_submit(a->set->walker, look_work, look_done, l);
	pump(a);
	return 0;
}

void adopt_peer_gone(struct peer *p)
{
	struct adopt *a = p->set->adopt;
	if (a && a->serial == p->serial)
		fail(a, "the connection to the parent was lost while comparing", "try again");
}

void adopt_stop(struct set *s)
{
	if (s->adopt)
		fail(s->adopt, "this node's replicator ends", "try again");
}

/* --- the start --- */

/* NULL: it is not reached. Else it may not be ready yet. */
static struct peer *find_parent(struct set *s)
{
	struct peer *p = set_parent_peer(s);
	if (!p)
		for (p = s->peers; p && !p->towards_parent; p = p->next)
			;
	return p;
}

/* Whose tree is taken over? That of a child only by the root of the set's tree. */
static struct peer *whom_to_adopt(struct set *s)
{
	const struct held *held = route_held_find(s->node, set_name(s));
	struct peer *p = find_parent(s);
	return !p && held && !parent_now(held) ? s->peers : p;
}

/* What was written past the mount shows in a comparison with a child, too. */
static struct peer *find_neighbour(struct set *s)
{
	struct peer *p = find_parent(s);
	return p ? p : s->peers;
}

static bool is_other_store(const struct set *s, const char *store)
{
	struct stat here, named;
	return store && (fstat(s->store_fd, &here) < 0 || stat(store, &named) < 0 || here.st_dev != named.st_dev || here.st_ino != named.st_ino);
}

static const struct cdm_vector *vector_of(const struct peer *p)
{
	return !p ? NULL : p->subscribed ? &p->visible : p->early ? &p->early->visible : NULL;
}

/* It cannot begin; another one may be running. */
static void refuse(struct adopt *a, const char *error, const char *hint)
{
	struct adopt *running = a->set->adopt;
	struct set *s = a->set;
	fail(a, error, hint);
	s->adopt = running;
}

/* False: answered, why not. */
static bool may_begin(struct adopt *a, const struct cdm_vector *theirs)
{
	bool busy = a->set->adopt || a->set->resyncing;
	if (busy)
		refuse(a, "the trees are being compared already", "cdmfs-stat shows when that is done");
	else if (!theirs)
		refuse(a, "no other node of the set can be reached that is ready, so there is nothing to compare with", "cdmfs-stat and `cdmctl route show` tell more");
	return !busy && theirs;
}

static void begin(struct adopt *a, struct peer *p, const char *path, size_t len)
{
	a->set->adopt = a;
	a->serial = p->serial;
	cdm_vector_copy(&a->theirs, vector_of(p));
	cdm_vector_copy(&a->ours, &a->set->follow.visible);
	a->stack = todo_new(path, len);
	pump(a);
}

static struct adopt *adopt_new(struct set *s, bool dry, bool remove, set_adopt_fn *done, void *arg)
{
	struct adopt *a = calloc(1, sizeof *a);
	if (!a)
		abort();
	*a = (struct adopt){.set = s, .dry = dry, .remove = remove, .done = done, .arg = arg, .names = json_array(), .asked_tail = &a->asked};
	return a;
}

void set_adopt(struct set *s, const char *store, bool dry, bool remove, set_adopt_fn *done, void *arg)
{
	struct adopt *a = adopt_new(s, dry, remove, done, arg);
	struct peer *p = whom_to_adopt(s);
	char text[600];
	if (is_other_store(s, store)) {
		snprintf(text, sizeof text, "this node keeps set %.80s in %.200s, not in %.200s", set_name(s), s->conf->store, store);
		refuse(a, text, "correct `store` in its node.conf, or move the tree there");
	} else if (may_begin(a, vector_of(p))) {
		begin(a, p, "", 0);
	}
}

void set_rescan(struct set *s, const char *path, size_t len, bool dry, set_adopt_fn *done, void *arg)
{
	struct adopt *a = adopt_new(s, dry, false, done, arg);
	struct peer *p = find_neighbour(s);
	if (!dry)
		unreadable_asked(s, path, len);
	if (!s->mounted) {
		refuse(a, "the set is not mounted on this node", "what was written to an unmounted store is found when it is mounted and the trees are compared");
	} else if (may_begin(a, vector_of(p))) {
		a->rescan = rescan_new(s, path, len, vector_of(p));
		rescan_begin(a->rescan, &path, &len);
		begin(a, p, path, len);
	}
}
