/* SPDX-License-Identifier: Apache-2.0 */
/* scrub_internal.h — what the files of a scrub share: scrub.c (when, questions on their way, the record), scrub_run.c (the walk), scrub_suspect.c
 * (files whose digests differ), scrub_asked.c (answering others). Loop thread only. */
#ifndef REPLICATOR_SCRUB_INTERNAL_H
#define REPLICATOR_SCRUB_INTERNAL_H

#include "replicator/scrub.h"
#include "replicator/scrub_read.h"

#define SCRUB_NODE_NAME_MAX 63

struct asked;
struct question_sent;
struct scrub_run;
struct suspect;

struct scrub_record { /* STORE/.cdmfs/scrub */
	int64_t due_s, proven_s;
	char with[SCRUB_NODE_NAME_MAX + 1];
};

#define HANDLED_MAX 256
struct scrub {
	struct set *set;
	struct scrub_reader *reader;
	bool ready;
	struct scrub_record record;
	bool saving, save_again;
	struct cdm_timer *timer;
	struct scrub_run *run;              /* NULL: none is under way */
	uint64_t run_number;
	uint32_t request;                   /* last used */
	struct question_sent *questions;
	struct asked *asked;
	struct suspect *suspects, **suspects_tail; /* the first is in work */
	size_t suspect_count;
	uint64_t ticket;
	struct { uint64_t key; int64_t until_ms; } handled[HANDLED_MAX]; /* files that neighbours told of and were judged */
	size_t handled_next;
};

/* scrub.c */
typedef void scrub_told_fn(void *arg, struct peer *p, const struct scrub_tell *tell); /* NULL: the peer is gone without an answer */
struct scrub_ask_how { bool others, doubted; }; /* as in struct scrub_ask */
void scrub_ask_peer(struct scrub *sc, struct peer *p, const struct scrub_files *files, struct scrub_ask_how how, scrub_told_fn *told, void *arg);
void scrub_forget_questions(struct scrub *sc, const void *arg); /* their told() is not called */
size_t scrub_questions_to(const struct scrub *sc, const struct peer *p);
bool scrub_may_ask(const struct peer *p);
/* Nothing that would make trees differ for a while is under way here. */
bool scrub_is_at_rest(struct set *s);
/* The run ended. with: whom it compared with; NULL: it was interrupted. */
void scrub_run_over(struct scrub *sc, const char *with, bool good);

/* scrub_run.c */
void scrub_run_begin(struct scrub *sc, struct peer *p);
void scrub_run_end(struct scrub *sc); /* interrupt it, if there is one */
void scrub_run_step(struct scrub *sc); /* a suspect is settled */
void scrub_run_differs(struct scrub *sc);
bool scrub_run_is_with(const struct scrub *sc, const struct peer *p);
const char *scrub_run_peer_name(const struct scrub *sc);

/* scrub_suspect.c */
void suspect_add(struct scrub *sc, const struct scrub_question *q, bool of_run);
/* What this node has of that version is not what its author signed: it is replaced by what has this digest. */
void suspect_add_sealed(struct scrub *sc, const struct scrub_question *q, const uint8_t digest[BLOCK_SHA]);
bool suspect_any_of_run(const struct scrub *sc);
void suspect_peer_gone(struct scrub *sc, const struct peer *p);
void suspects_free(struct scrub *sc);

/* scrub_asked.c */
int asked_take(struct scrub *sc, struct peer *p, const uint8_t *payload, size_t len, struct cdm_error *err);
void asked_peer_gone(struct scrub *sc, const struct peer *p);
void asked_free(struct scrub *sc);

#endif
