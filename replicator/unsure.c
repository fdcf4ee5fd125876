/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/unsure.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "common/io.h"
#include "replicator/base.h"
#include "replicator/resync.h"
#include "replicator/unsure_late.h"

#define FILE_NAME ".cdmfs/unsure"
#define PATHS_MAX 4096
#define BYTES_MAX (4u << 20)
#define ASKED_MAX 32     /* open questions to one peer */
#define GATHER_MS 15000  /* for all neighbours to be linked again: they dial every 5 s (link_dial.c), and on busy machines a handshake takes its time */
#define PATIENCE_MS 10000
#define FETCH_TICKET (1ull << 61) /* beside UNSURE_TICKET: with the content */

struct unsure {
	struct set *set;
	struct unsure_path {
		char *path;
		size_t len;
		struct cdm_version best; /* of the neighbours */
		uint64_t best_serial;
		bool fetched;
	} *paths;
	size_t count, bytes;
	bool compare;   /* by trees: the names are too many, or not known any more */
	bool gathered;  /* all neighbours are there, or were waited for */
	bool late;      /* nothing came for long: do not wait for what the peers still have for us */
	bool open;      /* ship all the same */
	bool settled;   /* the others were told; neighbours that were not there are asked when they come */
	struct late asked; /* settled: the nodes that were */
	bool answered;  /* by a peer that counts */
	uint64_t received; /* bytes of content, when last looked */
	struct cdm_timer *timer;
};

struct question { /* to one peer */
	struct cdm_vector goal; /* what it had when it subscribed */
	size_t next, open, fetches;
	bool begun, over;
};

static void step(struct set *s);

/* --- what was found --- */

static struct unsure *unsure_of(struct set *s)
{
	if (!s->unsure && !(s->unsure = calloc(1, sizeof *s->unsure)))
		abort();
	s->unsure->set = s;
	return s->unsure;
}

static void drop_paths(struct unsure *u)
{
	for (size_t i = 0; i < u->count; i++)
		free(u->paths[i].path);
	free(u->paths);
	u->paths = NULL;
	u->count = u->bytes = 0;
}

static void add_path(struct unsure *u, const char *path, size_t len)
{
	if (u->count == PATHS_MAX || u->bytes + len > BYTES_MAX)
		u->compare = true;
	if (u->compare)
		return;
	if (!u->paths && !(u->paths = calloc(PATHS_MAX, sizeof *u->paths)))
		abort();
	struct unsure_path *p = &u->paths[u->count++];
	*p = (struct unsure_path){.path = malloc(len + 1), .len = len};
	if (!p->path)
		abort();
	memcpy(p->path, path, len);
	p->path[len] = 0;
	u->bytes += len;
}

void unsure_note(struct set *s, const struct cdm_change *c)
{
	if (c->op != CDM_OP_SAVE || !(c->flags & CDM_CH_RECOVERED) || c->flags & (CDM_CH_RECEIVED | CDM_CH_LOCAL) ||
		c->version.clock != CDM_CLOCK_UNSURE || s->ready)
		return;
	add_path(unsure_of(s), c->path, c->path_len);
}

/* --- asking --- */

/* The parent; where there is none any neighbour will do. */
static bool counts(const struct peer *p)
{
	return p->towards_parent || (p->set->route && !p->set->route->parent);
}

/* Is this newer than what lies here by now? Nothing there: it was removed meanwhile. What cannot be looked at: the applier will know. */
static bool is_newer_than_here(const struct set *s, const struct unsure_path *path, const struct cdm_version *version)
{
	struct cdm_stamp stamp = {0};
	_cleanup_close_ int fd = cdm_open_beneath(s->store_fd, path->path, path->len, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
	if (cdm_dot_is_none(version->dot) || listing_is_gone(fd))
		return false;
	return fd < 0 || cdm_stamp_get(fd, &stamp) < 0 || cdm_version_compare(version, &stamp.content) > 0;
}

static void ask(struct peer *p, size_t index, bool content)
{
	const struct unsure_path *path = &p->set->unsure->paths[index];
	struct need need = {.ticket = UNSURE_TICKET | (content ? FETCH_TICKET : 0) | index, .path = path->path, .path_len = path->len};
	base_send_need(p, &need, content ? 0 : NEED_LOOK);
	count_up(&p->set->counters.needs_sent, 1);
}

/* What versions has it? */
static void look_on(struct peer *p)
{
	struct set *s = p->set;
	struct unsure *u = s->unsure;
	struct question *q = p->question;
	if (!q->begun && !u->late && !cdm_vector_covers_all(&s->follow.visible, &q->goal))
		return;
	q->begun = true;
	for (; q->next < u->count && q->open < ASKED_MAX; q->next++, q->open++)
		ask(p, q->next, false);
	if (q->over || q->next < u->count || q->open)
		return;
	q->over = true;
	u->answered |= counts(p);
}

static struct peer *peer_by_serial(struct set *s, uint64_t serial)
{
	struct peer *p = s->peers;
	while (p && p->serial != serial)
		p = p->next;
	return p && p->question ? p : NULL;
}

/* Fetch the newest of each that is newer than what is here. False: nothing is left to be fetched. */
static bool fetch_on(struct set *s)
{
	struct unsure *u = s->unsure;
	bool waiting = false;
	for (size_t i = 0; i < u->count; i++) {
		struct unsure_path *path = &u->paths[i];
		struct peer *p = path->fetched ? NULL : peer_by_serial(s, path->best_serial);
		if (!p)
			continue;
		if (p->question->fetches >= ASKED_MAX)
			return true;
		path->fetched = true;
		if (is_newer_than_here(s, path, &path->best)) {
			ask(p, i, true);
			p->question->fetches++;
		}
	}
	for (const struct peer *p = s->peers; p; p = p->next)
		waiting |= p->question && p->question->fetches;
	return waiting;
}

static void kick_all(struct set *s)
{
	for (struct peer *p = s->peers, *next; p; p = next) {
		next = p->next;
		ship_kick(p);
	}
}

/* --- neighbours that come when it is settled --- */

static bool was_asked(const struct set *s, const char *name)
{
	const struct member *m = route_member(s->route, name);
	return !m || late_was_asked(&s->unsure->asked, m->number);
}

static bool all_were_asked(const struct set *s)
{
	bool all = s->route && (!s->route->parent || was_asked(s, s->route->parent));
	for (size_t i = 0; all && i < s->route->child_count; i++)
		all = was_asked(s, s->route->children[i]);
	return all;
}

static void end_question(struct peer *p)
{
	if (!p->question)
		return;
	cdm_vector_fini(&p->question->goal);
	free(p->question);
	p->question = NULL;
}

/* Those that answered are not asked again. What is left to be asked survives the end of this program, before the others are told. */
static void note_asked(struct set *s)
{
	struct unsure *u = s->unsure;
	struct cdm_error err = CDM_ERROR_INIT;
	for (struct peer *p = s->peers; p; p = p->next) {
		if (p->question && p->question->over)
			late_add_asked(&u->asked, p->number);
		end_question(p);
	}
	bool all = all_were_asked(s);
	for (size_t i = 0; i < u->count && !all; i++)
		late_add_path(&u->asked, u->paths[i].path, u->paths[i].len);
	if (late_write(s->store_fd, &u->asked, &err) < 0)
		cdm_log_err(failed, &err, cdm_str("set", set_name(s)));
	u->settled = true;
	bytes_fini(&u->asked.paths);
	if (all)
		unsure_free(s);
}

/* All who came have answered, and the newest of theirs is here: they get what the others have. */
static void step_settled(struct set *s)
{
	bool waiting = false, any = false;
	for (struct peer *p = s->peers; p; p = p->next) {
		if (!p->question)
			continue;
		any = true;
		look_on(p);
		waiting |= !p->question->over;
	}
	if (!any || waiting || fetch_on(s))
		return;
	cdm_log(unsure_asked_late, cdm_str("set", set_name(s)), cdm_uint("files", s->unsure->count));
	note_asked(s);
	kick_all(s);
}

/* What an earlier run left to be asked. With names that are new, all of them are asked of all neighbours. */
static void take_up(struct set *s)
{
	bool fresh = s->unsure;
	struct late late = {0};
	struct cdm_error err = CDM_ERROR_INIT;
	size_t at = 0;
	int r = late_read(s->store_fd, &late, &err);
	if (r < 0)
		cdm_log_err(failed, &err, cdm_str("set", set_name(s)));
	for (const char *path; r == 1 && (path = late_next_path(&late, &at));)
		add_path(unsure_of(s), path, strlen(path));
	bytes_fini(&late.paths);
	if (r == 1 && !fresh && s->unsure) {
		s->unsure->asked = late;
		s->unsure->settled = true;
	}
}

static void done(struct set *s)
{
	unlinkat(s->store_fd, FILE_NAME, 0);
	unsure_free(s);
}

static void out_of_patience(void *arg)
{
	struct unsure *u = arg;
	struct set *s = u->set;
	u->timer = NULL;
	bool linked = false;
	uint64_t received = atomic_load(&s->counters.content_received_bytes);
	for (const struct peer *p = s->peers; p; p = p->next)
		linked |= p->subscribed;
	if (!u->gathered) {
		u->gathered = true;
		step(s);
		return;
	}
	if (s->resyncing || !linked || received != u->received) { /* that goes on as long as it takes */
		u->received = received;
		step(s);
		return;
	}
	if (!u->late) {
		u->late = true;
		step(s);
		return;
	}
	u->open = true;
	u->compare = true;
	drop_paths(u);
	kick_all(s);
}

static bool is_linked(const struct set *s, const char *name)
{
	const struct member *m = route_member(s->route, name);
	const struct peer *p = s->peers;
	while (p && !(m && p->subscribed && p->number == m->number))
		p = p->next;
	return p || !m;
}

static bool all_are_linked(const struct set *s)
{
	bool all = s->route && (!s->route->parent || is_linked(s, s->route->parent));
	for (size_t i = 0; all && i < s->route->child_count; i++)
		all = is_linked(s, s->route->children[i]);
	return all;
}

/* Go on with whoever is there; over when all that were asked have answered, one that counts among them, and the newest of all is here. */
static void step(struct set *s)
{
	struct unsure *u = s->unsure;
	if (!u || u->open || s->stopping)
		return;
	if (u->settled) {
		step_settled(s);
		return;
	}
	u->gathered |= all_are_linked(s);
	bool waiting = u->compare || !u->gathered;
	for (struct peer *p = s->peers; p && !u->compare; p = p->next) {
		if (!p->question)
			continue;
		look_on(p);
		waiting |= !p->question->over;
	}
	if (!waiting && u->answered && !fetch_on(s)) {
		cdm_log(unsure_settled, cdm_str("set", set_name(s)), cdm_uint("files", u->count));
		note_asked(s);
		unlinkat(s->store_fd, FILE_NAME, 0);
		kick_all(s);
		return;
	}
	if (!u->timer)
		u->timer = cdm_loop_after(s->node->loop, u->gathered ? PATIENCE_MS : GATHER_MS, out_of_patience, u);
}

/* --- from outside --- */

void unsure_ready(struct set *s)
{
	struct stat st;
	if (!s->unsure && (fstatat(s->store_fd, FILE_NAME, &st, AT_SYMLINK_NOFOLLOW) == 0 || errno != ENOENT))
		unsure_of(s)->compare = true; /* an earlier run knew the names */
	take_up(s);
	if (!s->unsure || s->unsure->settled)
		return;
	if (s->unsure->compare)
		drop_paths(s->unsure);
	cdm_log(unsure_found, cdm_str("set", set_name(s)), cdm_uint("files", s->unsure->count), cdm_str("how", s->unsure->compare ? "comparing trees" : "asking"));
	int fd = openat(s->store_fd, FILE_NAME, O_WRONLY | O_CREAT | O_CLOEXEC, 0600); /* the next checkpoint makes it durable */
	if (fd >= 0)
		close(fd);
	step(s);
}

bool unsure_waits(const struct set *s)
{
	return s->unsure && !s->unsure->open && !s->unsure->settled;
}

bool unsure_waits_for(const struct peer *p)
{
	return unsure_waits(p->set) || (p->set->unsure && p->set->unsure->settled && p->question);
}

bool unsure_compares(const struct set *s, const struct peer *p)
{
	return s->unsure && s->unsure->compare && counts(p);
}

static bool anybody_is_asked(const struct set *s)
{
	const struct peer *p = s->peers;
	while (p && !p->question)
		p = p->next;
	return p;
}

void unsure_subscribed(struct peer *p, const struct cdm_vector *visible)
{
	struct unsure *u = p->set->unsure;
	if (!u || u->compare || u->open)
		return;
	if (u->settled && late_was_asked(&u->asked, p->number)) {
		if (all_were_asked(p->set)) /* by newer routes */
			note_asked(p->set);
		return;
	}
	if (!u->settled && !anybody_is_asked(p->set)) { /* the others may be just behind it */
		u->gathered = false;
		cdm_timer_cancel(&u->timer);
	}
	p->question = calloc(1, sizeof *p->question);
	if (!p->question)
		abort();
	cdm_vector_copy(&p->question->goal, visible);
	p->question->begun = u->settled; /* it may wait for us, too */
	step(p->set);
}

void unsure_moved(struct set *s)
{
	if (!s->unsure || s->unsure->open || s->unsure->settled)
		return;
	if (s->unsure->gathered)
		cdm_timer_cancel(&s->unsure->timer); /* something comes */
	step(s);
}

static void taken_over(struct job *job)
{
	struct set *s = job->set;
	struct peer *p = peer_by_serial(s, job->peer_serial);
	if (p && p->question->fetches)
		p->question->fetches--;
	job_free(job);
	step(s);
}

static void take_over(struct peer *p, struct incoming *in)
{
	struct job *job = job_new(p->set, p->serial, 0);
	in->resync = in->again = true;
	cdm_vector_copy(&in->context, &p->visible);
	job_add(job, in);
	job->done = taken_over;
	publisher_submit(job);
}

void unsure_answer(struct peer *p, struct incoming *in)
{
	struct set *s = p->set;
	struct unsure *u = s->unsure;
	const struct cdm_change *c = &in->carried.change;
	size_t index = c->dot.number & ~(UNSURE_TICKET | FETCH_TICKET);
	bool fetch = c->dot.number & FETCH_TICKET;
	struct question *q = p->question;
	struct unsure_path *asked = u && q && (fetch ? q->fetches : q->open) && index < u->count ? &u->paths[index] : NULL;
	bool usable = asked && !in->superseded && c->path_len == asked->len && memcmp(c->path, asked->path, asked->len) == 0;
	if (usable && fetch && c->op == CDM_OP_SAVE && is_newer_than_here(s, asked, &in->carried.stamp.content)) {
		take_over(p, in);
		return;
	}
	if (usable && !fetch && c->op == CDM_OP_SETATTR && cdm_version_compare(&c->version, &asked->best) > 0) {
		asked->best = c->version;
		asked->best_serial = p->serial;
		asked->fetched = false;
	}
	incoming_free(in, s->staging_fd);
	if (!asked)
		return;
	if (fetch)
		q->fetches--;
	else
		q->open--;
	step(s);
}

void unsure_compared(struct peer *p)
{
	struct set *s = p->set;
	if (!s->unsure || !s->unsure->compare || !counts(p))
		return;
	cdm_log(unsure_settled, cdm_str("set", set_name(s)), cdm_str("how", "trees were compared"));
	done(s);
	take_up(s);
	kick_all(s);
}

/* What it was to tell or to give is asked of the others again. */
static void ask_again(struct set *s, uint64_t gone)
{
	struct unsure *u = s->unsure;
	bool missed = false;
	for (size_t i = 0; u && i < u->count; i++) {
		if (u->paths[i].best_serial != gone)
			continue;
		missed = true;
		u->paths[i].best = (struct cdm_version){0};
		u->paths[i].best_serial = 0;
		u->paths[i].fetched = false;
	}
	for (struct peer *p = s->peers; p && missed; p = p->next)
		if (p->question) {
			p->question->next = 0;
			p->question->over = false;
		}
}

void unsure_peer_gone(struct peer *p)
{
	if (!p->question)
		return;
	end_question(p);
	ask_again(p->set, p->serial);
	step(p->set);
}

void unsure_free(struct set *s)
{
	struct unsure *u = s->unsure;
	if (!u)
		return;
	s->unsure = NULL;
	cdm_timer_cancel(&u->timer);
	drop_paths(u);
	late_fini(&u->asked);
	free(u);
}
