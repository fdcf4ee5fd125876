/* SPDX-License-Identifier: Apache-2.0 */
/* scrub_suspect.c — files whose digests differ, one after the other: read once more here and at all neighbours, and by our parent
 * at his; judged; our own copy replaced if it is the wrong one. */
#include "replicator/scrub_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "common/io.h"
#include "replicator/base.h"
#include "replicator/content.h"
#include "replicator/publish.h"
#include "replicator/scrub_judge.h"

#define SUSPECTS_MAX 256
#define LOOK_MS 300    /* what was at work then is over */
#define ATTEMPTS_MAX 3 /* the neighbour that was to send the right one went away */
#define TRIED_MAX 64
#define SENDS_MS 30000  /* until then what was asked for has come, … */
#define SENDS_RATE 64   /* … and later by as much as its bytes take at so many a millisecond */

struct voter {
	uint64_t serial; /* of the peer; 0: it was told of by our parent */
	struct scrub_vote vote;
};
struct suspect {
	struct suspect *next;
	struct scrub *scrub;
	struct scrub_files *file; /* the one */
	bool of_run;              /* found here; else a neighbour told of it */
	unsigned attempts;
	struct cdm_timer *timer;
	struct scrub_read *reading;
	unsigned waiting;         /* for peers */
	bool drop;                /* it is another version by now */
	struct voter voters[SCRUB_ANSWERS_MAX];
	size_t count;             /* the first is this node */
	uint8_t right[SCRUB_DIGEST_SIZE];
	uint64_t ticket, sender;  /* the right one was asked for; 0: not */
	bool linked;              /* the file has other names */
	bool checked;             /* seal_check.c found it: nobody is asked what he has */
	bool is_sealed;           /* its author signed what is right (seal.h): no votes count */
	uint8_t sealed[BLOCK_SHA];
	uint32_t tried[TRIED_MAX]; /* nodes that were asked for it */
	size_t tried_count;
};

static void begin(void *arg);
static void fetch_sealed(struct suspect *su);

static const struct scrub_file *file_of(const struct suspect *su)
{
	return &su->file->files[0];
}

/* --- the list --- */

static void suspect_free(struct suspect *su)
{
	scrub_forget_questions(su->scrub, su);
	scrub_read_cancel(&su->reading);
	cdm_timer_cancel(&su->timer);
	scrub_files_free(su->file);
	free(su);
}

static void begin_later(struct suspect *su)
{
	su->timer = cdm_loop_after(su->scrub->set->node->loop, LOOK_MS, begin, su);
}

/* The first one is done with. */
static void over(struct suspect *su)
{
	struct scrub *sc = su->scrub;
	sc->suspects = su->next;
	if (!sc->suspects)
		sc->suspects_tail = &sc->suspects;
	sc->suspect_count--;
	suspect_free(su);
	if (sc->suspects)
		begin_later(sc->suspects);
	scrub_run_step(sc);
}

static struct suspect *find_path(struct scrub *sc, const struct scrub_question *q)
{
	struct suspect *su = sc->suspects;
	while (su && (file_of(su)->len != q->path_len || memcmp(file_of(su)->path, q->path, q->path_len) != 0))
		su = su->next;
	return su;
}

static struct suspect *list_add(struct scrub *sc, const struct scrub_question *q)
{
	struct suspect *su = calloc(1, sizeof *su);
	if (!su)
		abort();
	su->scrub = sc;
	su->file = scrub_files_new();
	scrub_files_add(su->file, q);
	*sc->suspects_tail = su;
	sc->suspects_tail = &su->next;
	if (sc->suspect_count++ == 0)
		begin_later(su);
	return su;
}

void suspect_add(struct scrub *sc, const struct scrub_question *q, bool of_run)
{
	struct suspect *known = find_path(sc, q);
	if (known)
		known->of_run |= of_run;
	else if (sc->suspect_count < SUSPECTS_MAX)
		list_add(sc, q)->of_run = of_run;
	else if (of_run)
		scrub_run_differs(sc); /* for the next scrub */
}

void suspect_add_sealed(struct scrub *sc, const struct scrub_question *q, const uint8_t digest[BLOCK_SHA])
{
	if (find_path(sc, q) || sc->suspect_count == SUSPECTS_MAX)
		return; /* it comes again */
	struct suspect *su = list_add(sc, q);
	su->checked = su->is_sealed = true;
	memcpy(su->sealed, digest, sizeof su->sealed);
}

bool suspect_any_of_run(const struct scrub *sc)
{
	for (const struct suspect *su = sc->suspects; su; su = su->next)
		if (su->of_run)
			return true;
	return false;
}

void suspects_free(struct scrub *sc)
{
	for (struct suspect *su; (su = sc->suspects);) {
		sc->suspects = su->next;
		suspect_free(su);
	}
	sc->suspects_tail = &sc->suspects;
	sc->suspect_count = 0;
}

/* --- telling people --- */

/* "n2, n3": those whose copies are not the right one; right NULL: all that voted. */
static void name_nodes(const struct suspect *su, const uint8_t *right, char *out, size_t room)
{
	const struct route *route = su->scrub->set->route;
	size_t n = 0;
	out[0] = 0;
	for (size_t i = 0; i < su->count; i++) {
		const struct scrub_vote *v = &su->voters[i].vote;
		const struct member *m = route ? route_member_number(route, v->node) : NULL;
		char number[16];
		snprintf(number, sizeof number, "%u", v->node);
		if ((!right || !scrub_is_right(v, right)) && n < room)
			n += (size_t)snprintf(out + n, room - n, "%s%s", n ? ", " : "", m ? m->name : number);
	}
}

static void count_difference(struct suspect *su)
{
	count_up(&su->scrub->set->counters.scrub_differences, 1);
	if (su->of_run)
		scrub_run_differs(su->scrub);
}

static void report_undecided(struct suspect *su, const char *msg)
{
	char path[512], nodes[256];
	const struct scrub_file *f = file_of(su);
	snprintf(path, sizeof path, "%.*s", (int)(f->len < 500 ? f->len : 500), f->path);
	name_nodes(su, NULL, nodes, sizeof nodes);
	count_up(&su->scrub->set->counters.scrub_undecided, 1);
	cdm_log(scrub_undecided, cdm_str("set", set_name(su->scrub->set)), cdm_str("path", path), cdm_str("nodes", nodes), cdm_str("msg", msg));
}

static void report_wrong(struct suspect *su, const char *msg)
{
	char path[512], nodes[256];
	const struct scrub_file *f = file_of(su);
	snprintf(path, sizeof path, "%.*s", (int)(f->len < 500 ? f->len : 500), f->path);
	name_nodes(su, su->right, nodes, sizeof nodes);
	cdm_log(scrub_differs, cdm_str("set", set_name(su->scrub->set)), cdm_str("path", path), cdm_str("nodes", nodes), cdm_str("msg", msg));
}

/* --- our copy is the wrong one --- */

struct check { /* of what came in its place; reader's thread */
	struct scrub *scrub;
	struct incoming *in;
	uint64_t ticket;
	bool is_sealed;
	uint8_t right[SCRUB_DIGEST_SIZE], sealed[BLOCK_SHA];
	bool good;
};

/* Its copy is the wrong one; NULL: it is gone. */
static void tell_to_look(struct suspect *su, struct peer *p)
{
	struct scrub_question q = scrub_file_question(file_of(su));
	struct bytes frame = {0};
	scrub_look_encode(&q, &frame);
	if (p)
		link_send(p->link, su->scrub->set, FRAME_SCRUB_LOOK, 0, frame.data, frame.len, NULL, 0);
	bytes_fini(&frame);
}

static struct suspect *find_ticket(struct scrub *sc, uint64_t ticket)
{
	struct suspect *su = sc->suspects;
	return su && su->ticket == ticket ? su : NULL;
}

static bool is_right(const struct check *ch, int fd, uint64_t size)
{
	uint8_t digest[SCRUB_DIGEST_SIZE], sha[BLOCK_SHA];
	if (ch->is_sealed)
		return block_sha_file(fd, size, sha) == 0 && memcmp(sha, ch->sealed, sizeof sha) == 0;
	return scrub_digest(fd, size, digest) == 0 && memcmp(digest, ch->right, sizeof digest) == 0;
}

/* Only its bytes are the neighbour's: no digest tells of the rest, and what is here came as all changes do. -ESTALE: it is another version by now. */
static int keep_attributes(const struct set *s, struct incoming *in)
{
	struct carried *k = &in->carried;
	struct item *item = item_new(&k->change, 0);
	_cleanup_close_ int fd = cdm_open_beneath(s->store_fd, k->change.path, k->change.path_len, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
	struct content *ours = NULL;
	if (!item)
		return -EBADMSG;
	item->change.version = k->stamp.content;
	int r = fd < 0 ? fd : cdm_handle_get(fd, "", &item->change.handle);
	if (r == 0)
		r = content_open(s->store_fd, item, &ours, NULL);
	item_free(item);
	if (r < 0)
		return r == -EIO ? 0 : r; /* nothing of it can be read: all of it comes from there */
	free(k->xattrs);
	k->xattrs = ours->carried.xattrs;
	k->xattr_count = ours->carried.xattr_count;
	ours->carried.xattrs = NULL;
	k->stamp = ours->carried.stamp;
	k->mode = ours->carried.mode;
	k->uid = ours->carried.uid;
	k->gid = ours->carried.gid;
	k->mtime_ns = ours->carried.mtime_ns;
	k->user_len = k->group_len = 0;
	in->like = ours;
	return 0;
}

static void check_work(void *arg)
{
	struct check *ch = arg;
	const struct carried *k = &ch->in->carried;
	_cleanup_close_ int fd = k->flags & CARRIED_INLINE ? memfd_create("cdm-scrub", MFD_CLOEXEC)
							   : openat(ch->scrub->set->staging_fd, ch->in->staging, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	bool there = fd >= 0 && (!(k->flags & CARRIED_INLINE) || stage_write_pieces(ch->in, ch->scrub->set->staging_fd, fd) == 0);
	ch->good = there && ftruncate(fd, (off_t)k->size) == 0 && is_right(ch, fd, k->size) && keep_attributes(ch->scrub->set, ch->in) == 0;
}

static void report_mended(struct suspect *su)
{
	char path[512];
	const struct scrub_file *f = file_of(su);
	const struct peer *p = set_peer_by_serial(su->scrub->set, su->sender);
	if (su->is_sealed) {
		snprintf(path, sizeof path, "%.*s", (int)(f->len < 500 ? f->len : 500), f->path);
		cdm_log(seal_mended, cdm_str("set", set_name(su->scrub->set)), cdm_str("path", path), cdm_str("peer", p ? link_peer_name(p->link) : ""));
		su->count = 1; /* what its author signed says this of our copy, and nothing of the others' */
	}
	if (!su->checked)
		report_wrong(su, "this node's copy was replaced by a neighbour's and is kept in conflicts/");
}

static void mended(struct job *job)
{
	struct set *s = job->set;
	struct suspect *su = find_ticket(s->scrub, job->head->carried.change.dot.number);
	bool replaced = job->head->mended;
	job_free(job);
	if (!su)
		return;
	if (su->linked)
		doubt_raise(s); /* its other names must become names of this one again */
	if (replaced) {
		count_up(&s->counters.scrub_mended, 1);
		report_mended(su);
	}
	over(su);
}

static bool has_other_names(const struct scrub *sc, const struct scrub_file *f)
{
	struct stat st;
	_cleanup_close_ int fd = cdm_open_beneath(sc->set->store_fd, f->path, f->len, O_PATH | O_NOFOLLOW, 0);
	return fd >= 0 && fstat(fd, &st) == 0 && st.st_nlink > 1;
}

static void replace(struct suspect *su, struct incoming *in)
{
	struct scrub *sc = su->scrub;
	struct job *job = job_new(sc->set, su->sender, 0);
	su->linked = has_other_names(sc, file_of(su));
	in->resync = in->mends = true;
	job_add(job, in);
	job->done = mended;
	publisher_submit(job);
}

static void check_done(void *arg)
{
	struct check *ch = arg;
	struct scrub *sc = ch->scrub;
	struct set *s = sc->set;
	struct suspect *su = s->stopping ? NULL : find_ticket(sc, ch->ticket);
	s->posted--;
	if (su && ch->good) {
		replace(su, ch->in);
	} else {
		incoming_free(ch->in, s->staging_fd);
		if (su && su->is_sealed) {
			tell_to_look(su, set_peer_by_serial(s, su->sender));
			fetch_sealed(su);
		} else if (su) {
			report_undecided(su, "what a neighbour sent in place of this node's copy has not the right digest; this node's copy stays");
			over(su);
		}
	}
	free(ch);
	set_let_go(s);
}

void scrub_answer(struct peer *p, struct incoming *in)
{
	struct scrub *sc = p->set->scrub;
	const struct carried *k = &in->carried;
	struct suspect *su = sc ? find_ticket(sc, k->change.dot.number) : NULL;
	const struct scrub_file *f = su ? file_of(su) : NULL;
	if (su && su->sender == p->serial)
		cdm_timer_cancel(&su->timer);
	bool whole = k->change.op == CDM_OP_SAVE && k->kind == CONTENT_WHOLE && !in->superseded;
	bool usable = whole && su && su->sender == p->serial && k->change.path_len == f->len && memcmp(k->change.path, f->path, f->len) == 0 &&
		cdm_dot_equal(k->stamp.content.dot, f->version);
	if (!usable) {
		incoming_free(in, p->set->staging_fd);
		if (su && su->sender == p->serial && su->is_sealed)
			fetch_sealed(su);
		else if (su && su->sender == p->serial)
			over(su); /* another version by now */
		return;
	}
	struct check *ch = calloc(1, sizeof *ch);
	if (!ch)
		abort();
	*ch = (struct check){.scrub = sc, .in = in, .ticket = su->ticket, .is_sealed = su->is_sealed};
	memcpy(ch->right, su->right, sizeof ch->right);
	memcpy(ch->sealed, su->sealed, sizeof ch->sealed);
	scrub_reader_call(sc->reader, check_work, check_done, ch);
}

/* Who has it does not send it. */
static void is_late(void *arg)
{
	struct suspect *su = arg;
	su->timer = NULL;
	su->ticket = su->sender = 0; /* should it come yet, nobody waits for it */
	if (su->is_sealed) {
		fetch_sealed(su);
		return;
	}
	report_undecided(su, "the neighbour that has the right copy does not send it");
	over(su);
}

static void fetch_from(struct suspect *su, struct peer *p)
{
	struct scrub *sc = su->scrub;
	const struct scrub_file *f = file_of(su);
	su->ticket = SCRUB_TICKET | ++sc->ticket;
	su->sender = p->serial;
	struct need need = {.ticket = su->ticket, .path = f->path, .path_len = f->len};
	su->timer = cdm_loop_after(sc->set->node->loop, SENDS_MS + (int64_t)(f->size / SENDS_RATE), is_late, su);
	base_send_need(p, &need, NEED_WITHIN); /* his copy is the right one; that of another who has this version may not be */
	count_up(&sc->set->counters.needs_sent, 1);
}

static bool was_tried(const struct suspect *su, const struct peer *p)
{
	for (size_t i = 0; i < su->tried_count; i++)
		if (su->tried[i] == p->number)
			return true;
	return false;
}

/* One neighbour after the other, until one sends what the author signed. */
static void fetch_sealed(struct suspect *su)
{
	struct peer *p = su->scrub->set->peers;
	while (p && (!scrub_may_ask(p) || was_tried(su, p)))
		p = p->next;
	if (p && su->tried_count < TRIED_MAX) {
		su->tried[su->tried_count++] = p->number;
		fetch_from(su, p);
		return;
	}
	report_undecided(su, "no neighbour has the content that its author signed (yet); it is tried again");
	over(su);
}

/* --- judging --- */

static void tell_wrong_ones(struct suspect *su)
{
	for (size_t i = 1; su->of_run && i < su->count; i++)
		if (!scrub_is_right(&su->voters[i].vote, su->right))
			tell_to_look(su, set_peer_by_serial(su->scrub->set, su->voters[i].serial));
}

static struct peer *right_neighbour(const struct suspect *su)
{
	for (size_t i = 1; i < su->count; i++) {
		struct peer *p = set_peer_by_serial(su->scrub->set, su->voters[i].serial);
		if (p && scrub_is_right(&su->voters[i].vote, su->right))
			return p;
	}
	return NULL;
}

static void decided(struct suspect *su)
{
	struct peer *p = right_neighbour(su);
	count_difference(su);
	if (scrub_is_right(&su->voters[0].vote, su->right)) {
		report_wrong(su, "this node's copy is right; its neighbours among those were told");
		tell_wrong_ones(su);
	} else if (p) {
		fetch_from(su, p);
		return;
	} else {
		report_undecided(su, "no neighbour has the right copy (yet)");
	}
	over(su);
}

static bool all_have(const struct suspect *su, const uint8_t right[SCRUB_DIGEST_SIZE])
{
	for (size_t i = 0; i < su->count; i++)
		if (!scrub_is_right(&su->voters[i].vote, right))
			return false;
	return true;
}

/* Ours is what its author signed, or it is not. */
static void judge_sealed(struct suspect *su)
{
	const struct scrub_vote *ours = &su->voters[0].vote;
	if (su->drop || all_have(su, ours->digest)) {
		over(su);
	} else if (ours->sound) {
		memcpy(su->right, ours->digest, sizeof su->right);
		decided(su);
	} else {
		count_difference(su);
		fetch_sealed(su);
	}
}

static void judge(struct suspect *su)
{
	struct scrub_vote votes[SCRUB_ANSWERS_MAX];
	if (su->waiting || su->reading)
		return;
	if (su->is_sealed) {
		judge_sealed(su);
		return;
	}
	for (size_t i = 0; i < su->count; i++)
		votes[i] = su->voters[i].vote;
	enum scrub_verdict verdict = su->drop ? SCRUB_EQUAL : scrub_judge(votes, su->count, CDM_ORIGIN_NODE(file_of(su)->version.origin), su->right);
	if (verdict == SCRUB_DECIDED) {
		decided(su);
		return;
	}
	if (verdict == SCRUB_UNDECIDED) {
		count_difference(su);
		report_undecided(su, "of these nodes as many have one content as another, and none of them wrote it");
	}
	over(su);
}

/* --- asking --- */

/* Who is believed that he is sure: we, and our parent, who could send us anything. */
static void vote(struct suspect *su, size_t at, uint32_t node, uint64_t serial, bool believed, uint8_t found, const uint8_t digest[16])
{
	struct voter *v = &su->voters[at];
	*v = (struct voter){.serial = serial, .vote = {.node = node, .sound = found == SCRUB_DIGEST || found == SCRUB_AS_SENT,
		.sure = believed && found == SCRUB_AS_SENT}};
	memcpy(v->vote.digest, digest, sizeof v->vote.digest);
}

static bool has_vote(const struct suspect *su, uint32_t node)
{
	for (size_t i = 0; i < su->count; i++)
		if (su->voters[i].vote.node == node)
			return true;
	return false;
}

static bool is_neighbour(const struct set *s, uint32_t number)
{
	for (const struct peer *p = s->peers; p; p = p->next)
		if (p->number == number)
			return true;
	return false;
}

/* What a peer says of itself counts; what it says of others only if it is our parent, and we do not ask them ourselves. */
static bool counts(const struct suspect *su, const struct peer *p, const struct scrub_answer *a)
{
	const struct set *s = su->scrub->set;
	if (a->index || a->found == SCRUB_OTHER || has_vote(su, a->node) || su->count == SCRUB_ANSWERS_MAX)
		return false;
	return a->node == p->number || (p->towards_parent && !is_neighbour(s, a->node) && s->route &&
		(s->route->neighbours_only || route_member_number(s->route, a->node)));
}

static void told(void *arg, struct peer *p, const struct scrub_tell *tell)
{
	struct suspect *su = arg;
	su->waiting--;
	for (size_t i = 0; tell && i < tell->count; i++) {
		const struct scrub_answer *a = &tell->answers[i];
		if (counts(su, p, a))
			vote(su, su->count++, a->node, a->node == p->number ? p->serial : 0, p->towards_parent && a->node == p->number, a->found, a->digest);
	}
	judge(su);
}

static void was_read(void *arg, struct scrub_files *files)
{
	struct suspect *su = arg;
	su->reading = NULL;
	scrub_files_free(su->file);
	su->file = files;
	su->drop = file_of(su)->found == SCRUB_OTHER;
	if (!su->is_sealed && file_of(su)->is_sealed) {
		su->is_sealed = true;
		memcpy(su->sealed, file_of(su)->sealed, sizeof su->sealed);
	}
	vote(su, 0, su->scrub->set->node->id->number, 0, true, file_of(su)->found, file_of(su)->digest);
	judge(su);
}

static void begin(void *arg)
{
	struct suspect *su = arg;
	struct scrub *sc = su->scrub;
	su->timer = NULL;
	su->attempts++;
	su->ticket = su->sender = 0;
	su->tried_count = 0;
	su->count = 1; /* ours, when it was read */
	vote(su, 0, sc->set->node->id->number, 0, true, SCRUB_BAD, (const uint8_t[16]){0});
	for (struct peer *p = sc->set->peers; p; p = p->next) {
		if (!scrub_may_ask(p) || su->checked)
			continue;
		su->waiting++;
		scrub_ask_peer(sc, p, su->file, (struct scrub_ask_how){.others = p->towards_parent, .doubted = true}, told, su);
	}
	struct scrub_files *file = su->file;
	su->file = scrub_files_new(); /* while the reader has the other one */
	struct scrub_question q = scrub_file_question(&file->files[0]);
	scrub_files_add(su->file, &q);
	file->files[0].is_sealed = su->is_sealed;
	memcpy(file->files[0].sealed, su->sealed, sizeof su->sealed);
	su->reading = scrub_read(sc->reader, file, READ_IN_DOUBT, was_read, su);
}

void suspect_peer_gone(struct scrub *sc, const struct peer *p)
{
	struct suspect *su = sc->suspects;
	if (!su || !su->ticket || su->sender != p->serial)
		return;
	su->ticket = su->sender = 0;
	cdm_timer_cancel(&su->timer);
	if (su->is_sealed) {
		fetch_sealed(su);
	} else if (su->attempts < ATTEMPTS_MAX) {
		begin_later(su);
	} else {
		report_undecided(su, "the neighbour that has the right copy goes away each time");
		over(su);
	}
}
