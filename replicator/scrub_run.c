/* SPDX-License-Identifier: Apache-2.0 */
/* scrub_run.c — one walk over the set's tree beside a neighbour's (scrub.h): a directory's names are listed on both sides and
 * compared, then its files in groups by digest. What is different only for a moment, because changes are on their way, is looked
 * at again. */
#include "replicator/scrub_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>
#include "replicator/content.h"
#include "replicator/resync_compare.h"

#define GROUP_BYTES (64u << 20) /* of content: more files wait for the next group */
#define LOOKS 3                 /* at names that differ … */
#define LOOK_MS 1000            /* … with this between */
#define ODD_MAX 1024            /* names of a directory that differ; what is beyond differs, too */
#define BUSY_MS 1000            /* others list trees on this link: wait */

struct odd_name {
	uint64_t looks; /* hash of name and both sides */
	char *path;
	size_t len;
};
struct odd_names {
	struct odd_name names[ODD_MAX];
	size_t count;
};

struct names { /* one directory, in the reader's thread */
	struct scrub *scrub;
	uint64_t number; /* of the run */
	char *path;
	size_t len;
	struct listing theirs, ours;
	struct odd_names *odd;
	struct todo *subdirs;
};

struct scrub_run {
	struct scrub *scrub;
	uint64_t number, serial; /* of the peer */
	char name[SCRUB_NODE_NAME_MAX + 1];
	struct todo *stack, *dir;
	unsigned look;
	bool asked, naming; /* a listing is on its way; it came and is compared */
	bool rested;        /* since the look before */
	struct listing theirs, ours;
	size_t their_at, our_at; /* files before these were compared */
	struct odd_names *odd;
	struct scrub_files *read;  /* the group as we have it … */
	struct scrub_tell *told;   /* … and as the peer has it */
	struct scrub_read *reading;
	struct cdm_timer *timer;
	uint64_t files, bytes, skipped, differences, odd_total;
};

static void step(struct scrub_run *run);

static struct peer *peer_of(const struct scrub_run *run)
{
	return set_peer_by_serial(run->scrub->set, run->serial);
}

/* --- names (reader's thread) --- */

static int order(const struct entry *a, const struct entry *b)
{
	int r = memcmp(a->name, b->name, a->name_len < b->name_len ? a->name_len : b->name_len);
	return r ? r : a->name_len < b->name_len ? -1 : a->name_len > b->name_len;
}

/* The next name of either side, or of both. False: none is left. */
static bool next_name(const struct listing *theirs, const struct listing *ours, size_t *their_at, size_t *our_at, const struct entry **ret_theirs,
	const struct entry **ret_ours)
{
	const struct entry *t = *their_at < theirs->count ? &theirs->entries[*their_at] : NULL;
	const struct entry *o = *our_at < ours->count ? &ours->entries[*our_at] : NULL;
	int r = !t ? 1 : !o ? -1 : order(t, o);
	*ret_theirs = r <= 0 ? t : NULL;
	*ret_ours = r >= 0 ? o : NULL;
	*their_at += *ret_theirs != NULL;
	*our_at += *ret_ours != NULL;
	return t || o;
}

static bool same_name(const char *name, const char *other, size_t len)
{
	return len && strlen(name) == len && memcmp(name, other, len) == 0;
}

/* By number, or by a name that means another number there. */
static bool owners_equal(const struct entry *theirs, const struct entry *ours)
{
	return (theirs->uid == ours->uid || same_name(content_user_name(ours->uid), theirs->user, theirs->user_len)) &&
		(theirs->gid == ours->gid || same_name(content_group_name(ours->gid), theirs->owner_group, theirs->owner_group_len));
}

static bool is_same_version(const struct entry *theirs, const struct entry *ours)
{
	return cdm_dot_equal(theirs->stamp.content.dot, ours->stamp.content.dot);
}

/* Contents of one version that can be compared: who wrote to one of them past the mount has moved its mtime. */
static bool is_comparable(const struct entry *theirs, const struct entry *ours)
{
	bool unversioned = ours && cdm_dot_is_none(ours->stamp.content.dot);
	return theirs && ours && S_ISREG(theirs->mode) && S_ISREG(ours->mode) && is_same_version(theirs, ours) && theirs->mtime_ns == ours->mtime_ns &&
		(!unversioned || theirs->size == ours->size);
}

/* Size and content of a file are the digests' business. A directory's mtime moves with what is in it. */
static bool names_equal(const struct entry *theirs, const struct entry *ours)
{
	return theirs && ours && theirs->mode == ours->mode && owners_equal(theirs, ours) && theirs->rdev == ours->rdev && theirs->extra == ours->extra &&
		(S_ISDIR(ours->mode) || (is_same_version(theirs, ours) && theirs->mtime_ns == ours->mtime_ns)) &&
		(!S_ISREG(ours->mode) || is_comparable(theirs, ours));
}

static uint64_t looks_of(const struct entry *e, uint64_t seed)
{
	if (!e)
		return seed;
	const uint64_t all[] = {e->mode, e->uid, e->gid, e->size, e->rdev, (uint64_t)e->mtime_ns, e->extra, e->stamp.content.dot.origin,
		e->stamp.content.dot.number};
	return XXH3_64bits_withSeed(all, sizeof all, XXH3_64bits_withSeed(e->name, e->name_len, seed));
}

static void odd_add(struct names *n, const struct entry *theirs, const struct entry *ours)
{
	if (n->odd->count == ODD_MAX)
		return;
	struct odd_name *o = &n->odd->names[n->odd->count++];
	o->looks = looks_of(ours, looks_of(theirs, 1) + 1);
	const struct entry *e = theirs ? theirs : ours;
	o->path = cdm_path_join(n->path, n->len, e->name, e->name_len, &o->len);
}

static void names_work(void *arg)
{
	struct names *n = arg;
	const struct entry *theirs, *ours;
	if (listing_read(n->scrub->set, n->path, n->len, &n->ours) < 0)
		n->ours = (struct listing){0};
	for (size_t i = 0, k = 0; next_name(&n->theirs, &n->ours, &i, &k, &theirs, &ours);) {
		if (!names_equal(theirs, ours))
			odd_add(n, theirs, ours);
		if (!theirs || !ours || !S_ISDIR(theirs->mode) || !S_ISDIR(ours->mode))
			continue;
		size_t len;
		_cleanup_free_ char *path = cdm_path_join(n->path, n->len, ours->name, ours->name_len, &len);
		struct todo *t = todo_new(path, len);
		t->next = n->subdirs;
		n->subdirs = t;
	}
}

static void odd_free(struct odd_names *odd)
{
	for (size_t i = 0; odd && i < odd->count; i++)
		free(odd->names[i].path);
	free(odd);
}

static void todos_free(struct todo *list)
{
	for (struct todo *next; list; list = next) {
		next = list->next;
		todo_free(list);
	}
}

static void names_free(struct names *n)
{
	listing_free(&n->theirs);
	listing_free(&n->ours);
	odd_free(n->odd);
	todos_free(n->subdirs);
	free(n->path);
	free(n);
}

/* Only what was exactly so before, too. */
static void odd_keep(struct odd_names *odd, const struct odd_names *before)
{
	size_t kept = 0;
	for (size_t i = 0; i < odd->count; i++) {
		size_t k = 0;
		while (k < before->count && before->names[k].looks != odd->names[i].looks)
			k++;
		if (k < before->count)
			odd->names[kept++] = odd->names[i];
		else
			free(odd->names[i].path);
	}
	odd->count = kept;
}

static void names_done(void *arg)
{
	struct names *n = arg;
	struct scrub *sc = n->scrub;
	struct set *s = sc->set;
	struct scrub_run *run = sc->run;
	s->posted--;
	if (s->stopping || !run || run->number != n->number) {
		names_free(n);
		set_let_go(s);
		return;
	}
	if (run->look == 0) {
		run->theirs = n->theirs;
		run->ours = n->ours;
		n->theirs = n->ours = (struct listing){0};
		for (struct todo *t = n->subdirs, *next; t; t = next) {
			next = t->next;
			t->next = run->stack;
			run->stack = t;
		}
		n->subdirs = NULL;
	} else {
		odd_keep(n->odd, run->odd);
	}
	odd_free(run->odd);
	run->odd = n->odd;
	n->odd = NULL;
	names_free(n);
	run->look++;
	run->naming = false;
	step(run);
}

/* --- asking for a listing --- */

static void try_again(void *arg)
{
	struct scrub_run *run = arg;
	run->timer = NULL;
	step(run);
}

static void wait_for(struct scrub_run *run, int64_t ms)
{
	if (!run->timer)
		run->timer = cdm_loop_after(run->scrub->set->node->loop, ms, try_again, run);
}

static void ask_for_names(struct scrub_run *run)
{
	struct set *s = run->scrub->set;
	struct peer *p = peer_of(run);
	if (s->resyncing || s->adopt) {
		wait_for(run, BUSY_MS);
		return;
	}
	run->asked = true;
	link_send(p->link, s, FRAME_RESYNC_NEED, 0, run->dir->path, run->dir->len, NULL, 0);
}

bool scrub_is_asking(const struct peer *p)
{
	const struct scrub *sc = p->set->scrub;
	return sc && sc->run && sc->run->serial == p->serial && sc->run->asked;
}

int scrub_dir(struct peer *p, uint8_t flags, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	struct scrub_run *run = p->set->scrub->run;
	struct listing *l = &run->theirs;
	if (listing_decode(payload, len, l) < 0)
		return cdm_fail_plain(err, EBADMSG, "malformed RESYNC_DIR");
	if (!(flags & DIR_LAST))
		return 0;
	struct names *n = calloc(1, sizeof *n);
	if (!n || !(n->odd = calloc(1, sizeof *n->odd)) || !(n->path = strndup(run->dir->path, run->dir->len)))
		abort();
	listing_settle(l);
	run->asked = false;
	run->naming = true;
	n->scrub = run->scrub;
	n->number = run->number;
	n->len = run->dir->len;
	n->theirs = *l;
	*l = (struct listing){0};
	scrub_reader_call(run->scrub->reader, names_work, names_done, n);
	return 0;
}

/* --- contents --- */

static struct scrub_files *next_group(struct scrub_run *run)
{
	struct scrub_files *group = scrub_files_new();
	const struct entry *theirs, *ours;
	size_t i = run->their_at, k = run->our_at;
	while (group->bytes < GROUP_BYTES && next_name(&run->theirs, &run->ours, &i, &k, &theirs, &ours)) {
		size_t len;
		_cleanup_free_ char *path = is_comparable(theirs, ours) ? cdm_path_join(run->dir->path, run->dir->len, ours->name, ours->name_len, &len) : NULL;
		struct scrub_question q = {.path = path, .version = ours ? ours->stamp.content.dot : (struct cdm_dot){0}, .size = ours ? ours->size : 0,
			.mtime_ns = ours ? ours->mtime_ns : 0};
		if (path)
			q.path_len = len;
		if (path && !scrub_files_add(group, &q))
			break;
		run->their_at = i;
		run->our_at = k;
	}
	if (group->count)
		return group;
	scrub_files_free(group);
	return NULL;
}

static const struct scrub_answer *answer_for(const struct scrub_run *run, size_t index, uint32_t node)
{
	for (size_t i = 0; i < run->told->count; i++)
		if (run->told->answers[i].index == index && run->told->answers[i].node == node)
			return &run->told->answers[i];
	return NULL;
}

static void compare_one(struct scrub_run *run, const struct scrub_file *f, const struct scrub_answer *a)
{
	if (f->found == SCRUB_OTHER || !a || a->found == SCRUB_OTHER) {
		run->skipped++;
	} else if (f->found == SCRUB_DIGEST && a->found == SCRUB_DIGEST && memcmp(f->digest, a->digest, sizeof f->digest) == 0) {
		run->files++;
		run->bytes += f->size;
		count_up(&run->scrub->set->counters.scrub_files, 1);
	} else {
		struct scrub_question q = scrub_file_question(f);
		suspect_add(run->scrub, &q, true);
	}
}

static void compare_group(struct scrub_run *run)
{
	struct peer *p = peer_of(run);
	if (!run->read || !run->told)
		return;
	for (size_t i = 0; i < run->read->count; i++)
		compare_one(run, &run->read->files[i], answer_for(run, i, p->number));
	scrub_files_free(run->read);
	free(run->told);
	run->read = NULL;
	run->told = NULL;
	step(run);
}

static void group_read(void *arg, struct scrub_files *files)
{
	struct scrub_run *run = arg;
	run->reading = NULL;
	run->read = files;
	compare_group(run);
}

static void group_told(void *arg, struct peer *p, const struct scrub_tell *tell)
{
	struct scrub_run *run = arg;
	if (!tell)
		return; /* scrub_peer_gone() ends the run */
	run->told = malloc(sizeof *tell);
	if (!run->told)
		abort();
	*run->told = *tell;
	compare_group(run);
}

/* False: the directory has none that was not compared. */
static bool begin_group(struct scrub_run *run)
{
	struct scrub_files *group = next_group(run);
	if (!group)
		return false;
	scrub_ask_peer(run->scrub, peer_of(run), group, (struct scrub_ask_how){0}, group_told, run);
	run->reading = scrub_read(run->scrub->reader, group, READ_TO_COMPARE, group_read, run);
	return true;
}

/* --- the walk --- */

/* One line per directory. */
static void report_odd(struct scrub_run *run)
{
	const struct odd_name *first = &run->odd->names[0];
	char shown[512];
	snprintf(shown, sizeof shown, "%.*s", (int)(first->len < 500 ? first->len : 500), first->path);
	cdm_log(scrub_names_differ, cdm_str("set", set_name(run->scrub->set)), cdm_str("peer", run->name), cdm_str("path", shown),
		cdm_uint("names", run->odd->count));
	run->odd_total += run->odd->count;
	run->differences += run->odd->count;
	count_up(&run->scrub->set->counters.scrub_differences, run->odd->count);
}

static void directory_over(struct scrub_run *run)
{
	odd_free(run->odd);
	run->odd = NULL;
	listing_free(&run->theirs);
	listing_free(&run->ours);
	run->their_at = run->our_at = 0;
	run->look = 0;
	todo_free(run->dir);
	run->dir = NULL;
}

static void run_free(struct scrub_run *run)
{
	scrub_forget_questions(run->scrub, run);
	scrub_read_cancel(&run->reading);
	cdm_timer_cancel(&run->timer);
	if (run->dir)
		directory_over(run);
	todos_free(run->stack);
	scrub_files_free(run->read);
	free(run->told);
	free(run);
}

static void names_repaired(void *arg, json_t *answer)
{
	struct set *s = arg;
	const char *error = json_string_value(json_object_get(answer, "error"));
	struct cdm_error err = CDM_ERROR_INIT;
	if (error) {
		cdm_fail_plain(&err, EAGAIN, "repair names that differ: %s", error);
		cdm_log_err(failed, &err, cdm_str("set", set_name(s)));
	}
	json_decref(answer);
}

/* On a pure target nobody's work is in them: as `cdmctl rescan` repairs them. */
static void repair_names(struct set *s)
{
	if (!(s->policy.role & CDM_ROLE_SOURCE) && s->policy.known)
		set_rescan(s, "", 0, false, names_repaired, s);
}

static void finish(struct scrub_run *run)
{
	struct scrub *sc = run->scrub;
	struct set *s = sc->set;
	bool good = !run->differences, odd = run->odd_total;
	char name[sizeof run->name];
	memcpy(name, run->name, sizeof name);
	if (good)
		cdm_log(scrub_proven, cdm_str("set", set_name(s)), cdm_str("peer", name), cdm_uint("files", run->files), cdm_uint("bytes", run->bytes),
			cdm_uint("skipped", run->skipped));
	else
		cdm_log(scrub_ends, cdm_str("set", set_name(s)), cdm_str("peer", name), cdm_uint("files", run->files),
			cdm_uint("differences", run->differences));
	sc->run = NULL;
	run_free(run);
	scrub_run_over(sc, name, good);
	if (odd)
		repair_names(s);
}

static void step(struct scrub_run *run)
{
	if (run->asked || run->naming || run->reading || run->read || run->timer || !peer_of(run))
		return;
	if (run->dir && run->look && begin_group(run))
		return;
	if (run->dir && run->look && (!run->odd->count || run->look == LOOKS)) {
		if (run->odd->count)
			report_odd(run);
		directory_over(run);
	}
	if (run->dir && run->look) { /* names differ: look again, a moment later */
		listing_free(&run->theirs);
		listing_free(&run->ours);
		run->their_at = run->our_at = 0;
		if (!run->rested) {
			run->rested = true;
			wait_for(run, LOOK_MS);
			return;
		}
	}
	run->rested = false;
	if (!run->dir && run->stack) {
		run->dir = run->stack;
		run->stack = run->dir->next;
		run->dir->next = NULL;
	}
	if (run->dir)
		ask_for_names(run);
	else if (!suspect_any_of_run(run->scrub))
		finish(run);
}

void scrub_run_begin(struct scrub *sc, struct peer *p)
{
	struct scrub_run *run = calloc(1, sizeof *run);
	if (!run)
		abort();
	run->scrub = sc;
	run->number = ++sc->run_number;
	run->serial = p->serial;
	snprintf(run->name, sizeof run->name, "%s", link_peer_name(p->link));
	run->stack = todo_new("", 0);
	sc->run = run;
	cdm_log(scrub_begins, cdm_str("set", set_name(sc->set)), cdm_str("peer", run->name));
	step(run);
}

void scrub_run_end(struct scrub *sc)
{
	struct scrub_run *run = sc->run;
	if (!run)
		return;
	cdm_log(scrub_interrupted, cdm_str("set", set_name(sc->set)), cdm_str("peer", run->name));
	sc->run = NULL;
	run_free(run);
	scrub_run_over(sc, NULL, false);
}

void scrub_run_step(struct scrub *sc)
{
	if (sc->run)
		step(sc->run);
}

void scrub_run_differs(struct scrub *sc)
{
	if (sc->run)
		sc->run->differences++;
}

bool scrub_run_is_with(const struct scrub *sc, const struct peer *p)
{
	return sc->run && sc->run->serial == p->serial;
}

const char *scrub_run_peer_name(const struct scrub *sc)
{
	return sc->run ? sc->run->name : "";
}
