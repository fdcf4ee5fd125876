/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/scrub_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>
#include "common/io.h"
#include "replicator/scrub_judge.h"
#include "replicator/seal.h"
#include "replicator/unsure.h"
#include "replicator/wire_codec.h"

#define DIRECTORY ".cdmfs"
#define FILE_NAME "scrub"
#define FILE_MAX 4096
#define START_MS 5000      /* after the set is ready: neighbours come */
#define RETRY_MS 60000     /* due, and it cannot begin yet */
#define LOOK_MS 3600000    /* the wall clock may be set meanwhile */
#define HANDLED_MS 600000  /* told again of the same file within this: it was judged */

static void timer_set(struct scrub *sc, int64_t least_ms);

static int64_t now_s(void)
{
	return cdm_wall_ns() / 1000000000;
}

/* --- the record --- */

struct saving {
	struct scrub *scrub;
	char *text;
	struct cdm_error err;
	int result;
};

static void record_save(struct scrub *sc);

static void save_work(void *arg)
{
	struct saving *sv = arg;
	_cleanup_close_ int dir = openat(sv->scrub->set->store_fd, DIRECTORY, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	sv->result = dir < 0 ? cdm_fail(&sv->err, errno, "open .cdmfs of the store")
			     : cdm_replace_file(dir, FILE_NAME, sv->text, strlen(sv->text), 0600, &sv->err);
}

static void save_done(void *arg)
{
	struct saving *sv = arg;
	struct scrub *sc = sv->scrub;
	struct set *s = sc->set;
	s->posted--;
	sc->saving = false;
	if (sv->result < 0)
		cdm_log_err(failed, &sv->err, cdm_str("set", set_name(s)));
	free(sv->text);
	free(sv);
	if (!s->stopping && sc->save_again)
		record_save(sc);
	set_let_go(s);
}

static void record_save(struct scrub *sc)
{
	const struct scrub_record *r = &sc->record;
	sc->save_again = sc->saving;
	if (sc->saving)
		return;
	struct saving *sv = calloc(1, sizeof *sv);
	json_t *j = json_pack("{s:I, s:I, s:s}", "due_s", (json_int_t)r->due_s, "proven_s", (json_int_t)r->proven_s, "with", r->with);
	if (!sv || !j || !(sv->text = json_dumps(j, JSON_COMPACT)))
		abort();
	json_decref(j);
	sv->scrub = sc;
	sc->saving = true;
	scrub_reader_call(sc->reader, save_work, save_done, sv);
}

static void record_load(struct scrub *sc)
{
	_cleanup_free_ char *text = NULL;
	size_t len;
	json_t *j = cdm_read_file(sc->set->store_fd, DIRECTORY "/" FILE_NAME, FILE_MAX, &text, &len, NULL) == 0 ? json_loadb(text, len, 0, NULL) : NULL;
	const char *with = json_string_value(json_object_get(j, "with"));
	sc->record.due_s = json_integer_value(json_object_get(j, "due_s"));
	sc->record.proven_s = json_integer_value(json_object_get(j, "proven_s"));
	snprintf(sc->record.with, sizeof sc->record.with, "%s", with ? with : "");
	json_decref(j);
	if (sc->record.due_s > 0)
		return;
	sc->record.due_s = scrub_next_due(now_s(), sc->set->node->id->number, false);
	record_save(sc);
}

int64_t scrub_proven(const struct set *s, const char **ret_with)
{
	*ret_with = s->scrub->record.with;
	return s->scrub->record.proven_s;
}

/* --- questions on their way --- */

struct question_sent {
	struct question_sent *next;
	uint32_t request;
	uint64_t serial;
	scrub_told_fn *told;
	void *arg;
};

bool scrub_may_ask(const struct peer *p)
{
	return p->subscribed && link_has(p->link, WIRE_FEATURE_SCRUB);
}

void scrub_ask_peer(struct scrub *sc, struct peer *p, const struct scrub_files *files, struct scrub_ask_how how, scrub_told_fn *told, void *arg)
{
	struct question_sent *q = calloc(1, sizeof *q);
	struct scrub_ask *ask = calloc(1, sizeof *ask);
	struct bytes frame = {0};
	if (!q || !ask)
		abort();
	sc->request += sc->request == UINT32_MAX ? 2 : 1;
	*q = (struct question_sent){.next = sc->questions, .request = sc->request, .serial = p->serial, .told = told, .arg = arg};
	sc->questions = q;
	ask->request = q->request;
	ask->others = how.others;
	ask->doubted = how.doubted;
	for (; ask->count < files->count; ask->count++)
		ask->files[ask->count] = scrub_file_question(&files->files[ask->count]);
	scrub_ask_encode(ask, &frame);
	link_send(p->link, sc->set, FRAME_SCRUB_ASK, 0, frame.data, frame.len, NULL, 0);
	bytes_fini(&frame);
	free(ask);
}

void scrub_forget_questions(struct scrub *sc, const void *arg)
{
	for (struct question_sent **at = &sc->questions; *at;) {
		struct question_sent *q = *at;
		if (q->arg != arg) {
			at = &q->next;
			continue;
		}
		*at = q->next;
		free(q);
	}
}

size_t scrub_questions_to(const struct scrub *sc, const struct peer *p)
{
	size_t n = 0;
	for (const struct question_sent *q = sc->questions; q; q = q->next)
		n += q->serial == p->serial;
	return n;
}

static int take_tell(struct scrub *sc, struct peer *p, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	struct scrub_tell *tell = calloc(1, sizeof *tell);
	struct question_sent **at = &sc->questions;
	if (!tell)
		abort();
	if (scrub_tell_decode(payload, len, tell) < 0) {
		free(tell);
		return cdm_fail_plain(err, EBADMSG, "malformed SCRUB_TELL");
	}
	while (*at && ((*at)->request != tell->request || (*at)->serial != p->serial))
		at = &(*at)->next;
	struct question_sent *q = *at;
	if (q) { /* else: nobody waits for it any more */
		*at = q->next;
		q->told(q->arg, p, tell);
		free(q);
	}
	free(tell);
	return 0;
}

/* --- told to look --- */

static bool was_handled(struct scrub *sc, const struct scrub_question *q)
{
	uint64_t key = XXH3_64bits_withSeed(q->path, q->path_len, q->version.origin * 31 + q->version.number);
	int64_t now = cdm_now_ms();
	for (size_t i = 0; i < HANDLED_MAX; i++)
		if (sc->handled[i].key == key && sc->handled[i].until_ms > now)
			return true;
	sc->handled[sc->handled_next].key = key;
	sc->handled[sc->handled_next].until_ms = now + HANDLED_MS;
	sc->handled_next = (sc->handled_next + 1) % HANDLED_MAX;
	return false;
}

static int take_look(struct scrub *sc, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	struct scrub_question q;
	if (scrub_look_decode(payload, len, &q) < 0)
		return cdm_fail_plain(err, EBADMSG, "malformed SCRUB_LOOK");
	if (!was_handled(sc, &q))
		suspect_add(sc, &q, false);
	return 0;
}

int scrub_frame(struct peer *p, enum frame_type type, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	struct scrub *sc = p->set->scrub;
	switch ((unsigned)type) {
	case FRAME_SCRUB_ASK:
		return asked_take(sc, p, payload, len, err);
	case FRAME_SCRUB_TELL:
		return take_tell(sc, p, payload, len, err);
	default:
		return take_look(sc, payload, len, err);
	}
}

void scrub_peer_gone(struct peer *p)
{
	struct scrub *sc = p->set->scrub;
	struct question_sent *gone = NULL;
	asked_peer_gone(sc, p);
	for (struct question_sent **at = &sc->questions; *at;) {
		struct question_sent *q = *at;
		if (q->serial != p->serial) {
			at = &q->next;
			continue;
		}
		*at = q->next;
		q->next = gone;
		gone = q;
	}
	for (struct question_sent *q = gone; q; q = gone) {
		gone = q->next;
		q->told(q->arg, p, NULL);
		free(q);
	}
	suspect_peer_gone(sc, p);
	if (scrub_run_is_with(sc, p))
		scrub_run_end(sc);
}

/* --- when --- */

/* The parent; the root compares with one of those it feeds. NULL: none that could. */
static struct peer *find_peer(struct set *s)
{
	struct peer *found = set_parent_peer(s);
	for (struct peer *p = s->peers; p && !(found && scrub_may_ask(found)); p = p->next)
		found = p;
	return found && scrub_may_ask(found) ? found : NULL;
}

bool scrub_is_at_rest(struct set *s)
{
	return s->mounted && s->ready && !s->resyncing && !s->adopt && !doubt_is_open(s) && !unsure_waits(s);
}

static void on_timer(void *arg)
{
	struct scrub *sc = arg;
	struct peer *p = find_peer(sc->set);
	sc->timer = NULL;
	if (!sc->run && sc->record.due_s <= now_s() && p && scrub_is_at_rest(sc->set))
		scrub_run_begin(sc, p);
	timer_set(sc, RETRY_MS);
}

static void timer_set(struct scrub *sc, int64_t least_ms)
{
	int64_t ms = (sc->record.due_s - now_s()) * 1000;
	cdm_timer_cancel(&sc->timer);
	if (sc->run)
		return;
	ms = ms > LOOK_MS ? LOOK_MS : ms < least_ms ? least_ms : ms;
	sc->timer = cdm_loop_after(sc->set->node->loop, ms, on_timer, sc);
}

void scrub_run_over(struct scrub *sc, const char *with, bool good)
{
	struct set *s = sc->set;
	if (with) {
		count_up(&s->counters.scrubs, 1);
		sc->record.due_s = scrub_next_due(now_s(), s->node->id->number, good);
	}
	if (with && good) {
		seals_proven(s, with);
		sc->record.proven_s = now_s();
		snprintf(sc->record.with, sizeof sc->record.with, "%s", with);
		state_changed(s);
	}
	if (with)
		record_save(sc);
	timer_set(sc, RETRY_MS);
}

static json_t *refusal(const char *error, const char *hint)
{
	return json_pack("{s:s, s:s}", "error", error, "hint", hint);
}

json_t *set_scrub(struct set *s)
{
	struct scrub *sc = s->scrub;
	struct peer *p = find_peer(s);
	if (!s->mounted || !sc->ready)
		return refusal("the set is not mounted on this node", "mount it first: cdmfs SET");
	bool runs = sc->run;
	if (!runs && !p)
		return refusal("no neighbour of this node that can compare contents is connected, so there is nothing to compare with",
			"cdmfs-stat and `cdmctl route show` tell more; an older cdm-replicator cannot");
	if (!runs && !scrub_is_at_rest(s))
		return refusal("the trees are being compared already", "cdmfs-stat shows when that is done");
	if (!runs) {
		sc->record.due_s = now_s(); /* after a restart it begins anew */
		record_save(sc);
		scrub_run_begin(sc, p);
		timer_set(sc, RETRY_MS);
	}
	return json_pack("{s:{s:s, s:s}}", "result", "scrub", runs ? "runs" : "begins", "with", scrub_run_peer_name(sc));
}

/* --- coming and going --- */

void scrub_peer_is_there(struct peer *p)
{
	struct scrub *sc = p->set->scrub;
	if (sc->ready && sc->record.due_s <= now_s())
		timer_set(sc, START_MS);
}

struct scrub *scrub_new(struct set *s)
{
	struct scrub *sc = calloc(1, sizeof *sc);
	if (!sc)
		abort();
	sc->set = s;
	sc->suspects_tail = &sc->suspects;
	sc->reader = scrub_reader_new(s);
	if (sc->reader)
		return sc;
	free(sc);
	return NULL;
}

void scrub_ready(struct set *s)
{
	struct scrub *sc = s->scrub;
	if (sc->ready)
		return;
	sc->ready = true;
	record_load(sc);
	timer_set(sc, START_MS);
}

void scrub_stop(struct set *s)
{
	struct scrub *sc = s->scrub;
	if (!sc)
		return;
	scrub_run_end(sc);
	cdm_timer_cancel(&sc->timer);
	suspects_free(sc);
	asked_free(sc);
	scrub_reader_stop(sc->reader);
}

void scrub_free(struct set *s)
{
	struct scrub *sc = s->scrub;
	s->scrub = NULL;
	if (!sc)
		return;
	scrub_reader_free(&sc->reader);
	free(sc);
}
