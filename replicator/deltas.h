/* SPDX-License-Identifier: Apache-2.0 */
/* deltas.h — for one set: which saves travel as a delta, worked out beside the loop. A whole save of DELTA_FILE_MIN bytes or more has its
 * signature taken when it is shipped (signatures.h). If the signature of what it replaces is known, or of a file in the same directory whose name
 * only differs in what programs make up, the new content is searched for the old one's blocks: a *plan*, shared by all peers
 * and remembered for a while. Two threads: searching does not wait for the signing of large new files. What came as a delta is passed on as it came.
 *
 * Loop thread only, but for deltas_received. A plan is only right for the version it was made for; who sends it looks at the stamp
 * afterwards, as with any content. */
#ifndef REPLICATOR_DELTAS_H
#define REPLICATOR_DELTAS_H

#include "replicator/delta.h"
#include "replicator/fold.h"

#define DELTA_FILE_MIN (2u << 10)

struct set;
struct deltas;

enum plan_state { PLAN_WORKING, PLAN_READY, PLAN_NONE };
struct delta_plan {
	enum plan_state state;
	struct cdm_dot version, base;
	char *base_path;          /* with READY: where the base is, "" = at the save's own path */
	size_t base_path_len;
	uint64_t base_size;
	bool guessed;             /* the save does not name the base */
	bool received;            /* it came so from the parent */
	struct delta_found found;
	struct bytes copies;      /* encoded */

	unsigned refs;            /* private to deltas.c from here */
	struct delta_plan *next, *next_like;
	bool found_any;           /* written by the worker */
	bool remembered;          /* shared by all peers; else for one answer */
	struct bytes given;       /* the base's signature, as a peer told it */
	struct deltas *deltas;
	struct item *item;        /* a copy for the worker */
	struct set *set;
};

/* NULL on failure (logged): then everything travels whole. */
struct deltas *deltas_new(struct set *s);
void deltas_stop(struct deltas *d);   /* ends the threads; done callbacks may still come to the loop */
void deltas_free(struct deltas **d);

/* What earlier runs remembered is still being read: nothing is known of any save yet. The peers are kicked when that ends. */
bool deltas_opening(const struct deltas *d);
/* This save will be sent soon: begin what takes time. */
void deltas_expect(struct deltas *d, const struct item *item);
/* From the applier, before it is visible: a content was put together here as `k` said, from these copies (taken over; `encoded` has
 * k->delta.copies_total bytes of them and is copied). Who it is passed on to has the same base: nothing is searched for. */
void deltas_received(struct deltas *d, const struct carried *k, struct delta_copies *copies, const uint8_t *encoded);
/* Its plan, to be released; the peers are kicked when WORKING ends. NULL: it travels whole. */
struct delta_plan *deltas_take(struct deltas *d, const struct item *item);
void deltas_release(struct delta_plan **plan);

/* For an answer: a plan of its content against `base`, which the asker has. signature: of the base, as the asker told it (taken over); empty: it is
 * remembered here. To be released; the peers are kicked when WORKING ends. NULL: it travels whole. */
struct delta_plan *deltas_against(struct deltas *d, const struct item *item, struct cdm_dot base, struct bytes *signature);
/* Is this version's signature remembered? */
bool deltas_knows(const struct deltas *d, struct cdm_dot version);
/* The signature of what is at a path, if it is this version: encoded, empty if it cannot be had. done: on the loop. */
typedef void deltas_sign_fn(void *arg, const struct bytes *encoded);
int deltas_sign(struct deltas *d, const char *path, size_t len, struct cdm_dot version, deltas_sign_fn *done, void *arg);

/* What was kept of versions that were sent; NULL: nothing (yet). Until deltas_free. */
struct signatures;
struct signatures *deltas_signatures(struct deltas *d);

/* Is the plan's base what this save builds on? */
bool deltas_fits(const struct delta_plan *p, const struct cdm_change *c);
/* What of the receiver's content the save builds on: what it was rewritten from, else what it replaced. */
struct cdm_dot deltas_base(const struct cdm_change *c);

#endif
