/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/rescan.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <xxhash.h>
#include "replicator/overtaken.h"
#include "replicator/quarantine.h"
#include "replicator/view.h"

#define FINDINGS_MAX 100000 /* told at once; what is beyond is found by the next rescan */
#define NAMES_SHOWN 10

enum kind { CHANGED, FRESH, GONE, KINDS };

struct finding {
	enum kind kind;
	char *path;
	size_t len;
	uint32_t mode;
	struct cdm_version version; /* of ours; of theirs where ours is gone */
	uint64_t looks;             /* hash of how it looks on both sides */
};

struct rescan {
	struct set *set;
	char *path; /* as asked */
	size_t len;
	bool is_file, target, dry;
	struct unseen *unseen;
	struct overtaken *overtaken; /* as the set had it at the beginning */
	struct cdm_vector theirs, ours;
	/* the walker's while it works */
	uint64_t looked, counts[KINDS], aside, failed;
	struct finding *findings;
	size_t count, room;
	bool again;
	struct finding *first; /* what the first look found, by path */
	size_t first_count;
};

struct rescan *rescan_new(struct set *s, const char *path, size_t len, const struct cdm_vector *theirs)
{
	struct rescan *r = calloc(1, sizeof *r);
	struct stat st;
	if (!r || !(r->path = malloc(len + 1)))
		abort();
	r->set = s;
	memcpy(r->path, path, len);
	r->path[len] = 0;
	r->len = len;
	r->is_file = len > 0 && (fstatat(s->store_fd, r->path, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISDIR(st.st_mode));
	r->target = !(s->policy.role & CDM_ROLE_SOURCE);
	r->unseen = unseen_new(s, theirs);
	r->overtaken = overtaken_new();
	overtaken_taken_over(r->overtaken, s->overtaken);
	cdm_vector_copy(&r->theirs, theirs);
	cdm_vector_copy(&r->ours, &s->follow.visible);
	return r;
}

static void findings_free(struct finding *list, size_t count)
{
	for (size_t i = 0; i < count; i++)
		free(list[i].path);
	free(list);
}

void rescan_free(struct rescan **pr)
{
	struct rescan *r = *pr;
	*pr = NULL;
	if (!r)
		return;
	findings_free(r->findings, r->count);
	findings_free(r->first, r->first_count);
	unseen_free(&r->unseen);
	overtaken_free(&r->overtaken);
	cdm_vector_fini(&r->theirs);
	cdm_vector_fini(&r->ours);
	free(r->path);
	free(r);
}

void rescan_begin(const struct rescan *r, const char **ret_path, size_t *ret_len)
{
	const char *slash = r->is_file ? memrchr(r->path, '/', r->len) : NULL;
	*ret_path = r->path;
	*ret_len = !r->is_file ? r->len : slash ? (size_t)(slash - r->path) : 0;
}

/* --- finding --- */

static int by_path(const void *a, const void *b)
{
	const struct finding *x = a, *y = b;
	int r = memcmp(x->path, y->path, x->len < y->len ? x->len : y->len);
	return r ? r : x->len < y->len ? -1 : x->len > y->len;
}

static uint64_t looks_of(enum kind kind, const struct entry *theirs, const struct entry *ours)
{
	const struct entry *both[] = {theirs, ours};
	uint64_t all[2][10] = {{kind}};
	for (int i = 0; i < 2; i++) {
		const struct entry *e = both[i];
		if (!e)
			continue;
		const uint64_t one[] = {e->mode, e->uid, e->gid, e->size, e->rdev, (uint64_t)e->mtime_ns, e->extra, e->stamp.content.dot.origin,
			e->stamp.content.dot.number, e->stamp.attr_clock};
		for (size_t k = 0; k < 10; k++)
			all[i][k] ^= one[k];
	}
	return XXH3_64bits(all, sizeof all);
}

static bool was_found_before(const struct rescan *r, const struct finding *f)
{
	const struct finding *before = r->first_count ? bsearch(f, r->first, r->first_count, sizeof *f, by_path) : NULL;
	return before && before->kind == f->kind && before->looks == f->looks;
}

static void find(struct rescan *r, enum kind kind, const char *path, size_t len, const struct entry *theirs, const struct entry *ours)
{
	const struct entry *e = ours ? ours : theirs;
	struct finding found = {.kind = kind, .path = (char *)path, .len = len, .mode = e->mode, .version = e->stamp.content,
		.looks = looks_of(kind, theirs, ours)};
	if ((r->again && !was_found_before(r, &found)) || r->count == FINDINGS_MAX)
		return;
	r->counts[kind]++;
	if (r->count == r->room) {
		r->room = r->room ? 2 * r->room : 64;
		r->findings = realloc(r->findings, r->room * sizeof *r->findings);
		if (!r->findings)
			abort();
	}
	found.path = malloc(len + 1);
	if (!found.path)
		abort();
	memcpy(found.path, path, len);
	found.path[len] = 0;
	r->findings[r->count++] = found;
}

static bool has_version(const struct entry *e)
{
	return !cdm_dot_is_none(e->stamp.content.dot);
}

static bool attributes_equal(const struct entry *a, const struct entry *b)
{
	return a->mode == b->mode && a->uid == b->uid && a->gid == b->gid && (S_ISDIR(a->mode) || a->mtime_ns == b->mtime_ns) && a->extra == b->extra;
}

/* Both say they are of the same changes: then they are equal, unless somebody wrote past a mount. */
static bool was_changed(const struct entry *theirs, const struct entry *ours)
{
	if (!has_version(ours) || S_ISDIR(ours->mode))
		return !S_ISDIR(ours->mode) && (theirs->size != ours->size || !attributes_equal(theirs, ours));
	bool same_changes = cdm_dot_equal(theirs->stamp.content.dot, ours->stamp.content.dot) && theirs->stamp.attr_clock == ours->stamp.attr_clock &&
		theirs->stamp.attr_origin == ours->stamp.attr_origin;
	return same_changes && (theirs->size != ours->size || theirs->rdev != ours->rdev || !attributes_equal(theirs, ours));
}

static void look_below(struct rescan *r, const char *path, size_t len)
{
	struct listing below;
	if (listing_read(r->set, path, len, &below) < 0)
		return;
	for (size_t i = 0; i < below.count; i++) {
		const struct entry *e = &below.entries[i];
		_cleanup_free_ char *name = NULL;
		int n = asprintf(&name, "%.*s/%.*s", (int)len, path, (int)e->name_len, e->name);
		if (n < 0)
			abort();
		rescan_look(r, name, (size_t)n, NULL, e);
	}
	listing_free(&below);
}

bool rescan_look(struct rescan *r, const char *path, size_t len, const struct entry *theirs, const struct entry *ours)
{
	if (r->is_file && (len != r->len || memcmp(path, r->path, len) != 0))
		return false;
	r->looked += !r->again;
	if (!ours) {
		struct cdm_dot dot = theirs->stamp.content.dot;
		if (!has_version(theirs) || !cdm_vector_covers(&r->ours, dot) || unseen_went(r->unseen, path, len))
			return false;
		/* Our vector covers it, but it never came here: nobody removed it. */
		if (quarantine_may_have_below(r->set->quarantine, path, len) || overtaken_lacks(r->overtaken, path, len, dot))
			r->aside += !r->again;
		else
			find(r, GONE, path, len, theirs, NULL);
		return false;
	}
	if (!theirs) {
		if (!has_version(ours))
			find(r, FRESH, path, len, NULL, ours);
		if (S_ISDIR(ours->mode))
			look_below(r, path, len);
		return false;
	}
	if ((theirs->mode & S_IFMT) != (ours->mode & S_IFMT)) {
		if (!has_version(ours))
			find(r, CHANGED, path, len, theirs, ours);
		return false;
	}
	if (was_changed(theirs, ours))
		find(r, CHANGED, path, len, theirs, ours);
	return S_ISDIR(ours->mode) && !r->again;
}

static bool is_below(const struct finding *f, const struct finding *dir)
{
	return dir && f->len > dir->len && f->path[dir->len] == '/' && memcmp(f->path, dir->path, dir->len) == 0;
}

bool rescan_again(struct rescan *r, struct todo **ret_dirs)
{
	const struct finding *tree = NULL; /* only here: found again with the directory that holds it */
	*ret_dirs = NULL;
	if (r->again || !r->count)
		return false;
	for (size_t i = 0; i < r->count; i++) {
		const struct finding *f = &r->findings[i];
		const char *slash = memrchr(f->path, '/', f->len);
		size_t len = slash ? (size_t)(slash - f->path) : 0;
		if (is_below(f, tree))
			continue;
		tree = f->kind == FRESH ? f : tree;
		if (*ret_dirs && (*ret_dirs)->len == len && memcmp((*ret_dirs)->path, f->path, len) == 0)
			continue;
		struct todo *t = todo_new(f->path, len);
		t->next = *ret_dirs;
		*ret_dirs = t;
	}
	r->again = true;
	r->first = r->findings;
	r->first_count = r->count;
	qsort(r->first, r->first_count, sizeof *r->first, by_path);
	r->findings = NULL;
	r->count = r->room = 0;
	memset(r->counts, 0, sizeof r->counts);
	return true;
}

/* --- telling --- */

static void tell_one(struct rescan *r, const char *full, const struct finding *f)
{
	struct cdm_change c = {.op = f->kind != GONE ? CDM_OP_SAVE : S_ISDIR(f->mode) ? CDM_OP_RMDIR : CDM_OP_UNLINK, .path = f->path, .path_len = f->len,
		.version = f->version, .base = f->version.dot, .attr = {.mask = CDM_ATTR_MODE, .mode = f->mode, .nlink = 1}};
	uint8_t *bytes = malloc(cdm_change_encoded_max(&c));
	if (!bytes)
		abort();
	size_t len = cdm_change_encode(&c, bytes);
	int failed = setxattr(full, "trusted.cdmfs.rescan", bytes, len, 0) < 0 ? errno : 0;
	if (failed == ESTALE) { /* it is another thing by now */
		r->counts[f->kind]--;
	} else if (failed) {
		cdm_debug("rescan %s: %s", f->path, strerror(failed));
		r->failed++;
	}
	free(bytes);
}

void rescan_tell(struct rescan *r, bool dry)
{
	char full[4200];
	r->dry = dry;
	snprintf(full, sizeof full, "%s/full", r->set->run_dir);
	for (size_t i = 0; !dry && i < r->count; i++) /* a directory before what is in it; on a target, where they go, after it */
		tell_one(r, full, &r->findings[r->target ? r->count - 1 - i : i]);
}

/* What is on the list may be there all the same, and be of another version than it should. */
static size_t count_aside(const struct rescan *r)
{
	size_t listed = r->aside ? 0 : quarantine_count_aside(r->set->quarantine, r->path, r->len);
	return r->aside + listed;
}

bool rescan_is_nowhere(const struct rescan *r)
{
	return r->is_file && !r->looked && !count_aside(r);
}

bool rescan_wants_repair(const struct rescan *r)
{
	return !r->dry && (count_aside(r) > 0 || (r->target && r->counts[CHANGED] + r->counts[GONE] > 0));
}

json_t *rescan_result(struct rescan *r)
{
	json_t *names = json_array();
	for (size_t i = 0; i < r->count && i < NAMES_SHOWN; i++)
		json_array_append_new(names, view_text(r->findings[i].path));
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:s}", "looked", (json_int_t)r->looked, "changed", (json_int_t)r->counts[CHANGED], "new",
		(json_int_t)r->counts[FRESH], "gone", (json_int_t)r->counts[GONE], "aside", (json_int_t)count_aside(r), "failed", (json_int_t)r->failed, "names",
		names, "done",
		!r->count || r->dry ? "nothing" : r->target ? "repaired" : "journaled");
}
