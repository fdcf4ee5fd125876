/* SPDX-License-Identifier: Apache-2.0 */
/* seal_internal.h — what the files of seals share: seal.c (coming, going, kept), seal_make.c (this node as author), seal_check.c (others' seals
 * compared with what is here). Loop thread only. */
#ifndef REPLICATOR_SEAL_INTERNAL_H
#define REPLICATOR_SEAL_INTERNAL_H

#include "replicator/seal.h"
#include "common/faultpoint.h"
#include "replicator/seal_chain.h"
#include "replicator/seal_look.h"

struct seal_maker;
struct seal_checker;

struct kept { /* a seal as it travels */
	struct kept *next;
	unsigned references;
	uint64_t number;      /* in the order they came to this node */
	uint64_t serial;      /* of the peer it came from; 0: made here */
	int64_t came_ms;
	struct seal_author of; /* its author, and its clock */
	struct cdm_dot upto;
	size_t names, len;
	uint8_t payload[];
};
void kept_release(struct kept **k);

#define SEALS_QUIET_MS 250  /* without a change so long: names are looked at, behind the work that came … */
#define SEALS_LATE_MS 10000 /* … or so long after they could have been, however much there is to do */
#define SEALS_KEPT_MAX (2u << 20) /* bytes */

/* Changes that are here for so long, and nothing of what their author signs of them: somebody holds that back. */
static inline int64_t seal_late_ms(void)
{
	return cdm_fault_ms("seal_late", 600000);
}
/* An author that has not told of all yet says at least so much. */
static inline int64_t seal_sign_of_life_ms(void)
{
	return seal_late_ms() / 4;
}

#define SEEN_MAX 256 /* of an author's newest seals we know which came */
struct author {
	uint32_t number;
	uint64_t newest;
	uint64_t seen[SEEN_MAX], floor; /* clocks of the newest; what is not above floor is too old to know */
	size_t seen_next;
	struct seal_chain chain;
	uint64_t start;      /* of its process, as it told last */
	bool missing;        /* said: seals of it do not come … */
	uint32_t missing_by; /* … over this neighbour */
};

struct seals {
	struct set *set;
	struct kept *first, **last; /* kept for those that were away */
	size_t bytes;
	uint64_t number;            /* of the newest */
	struct author *authors;
	size_t author_count;
	struct seal_maker *maker;
	struct seal_checker *checker;
	struct cdm_timer *look; /* for seals that are missing */
};

/* seal.c: keep it and send it on. Takes the payload's bytes by copy. */
struct kept *seals_spread(struct seals *seals, const struct seal *s, const uint8_t *payload, size_t len, uint64_t serial);

/* seal.c: nothing is on its way, in doubt, or set aside here: what names there are is the same wherever somebody has the same changes. */
bool seals_at_rest(struct set *s);

/* seal.c: NULL: no seal of it came. */
struct author *seals_find_author(struct seals *seals, uint32_t number);
bool seals_may_seal(const struct set *s, uint32_t number);

/* seal_missing.c */
void missing_took(struct seals *seals, struct author *a, const struct seal *s); /* before it is noted as seen */
void missing_look_later(struct seals *seals);

/* seal_make.c */
struct seal_maker *seal_maker_new(struct seals *seals);
void seal_maker_note(struct seal_maker *m, const struct cdm_change *c);
void seal_maker_go(struct seal_maker *m); /* what is noted can be looked at from now on */
void seal_maker_moved(struct seal_maker *m); /* more is visible here */
void seal_maker_knows(struct seal_maker *m, uint64_t clock); /* a neighbour has seen a seal of this node with this clock */
void seal_maker_stop(struct seal_maker *m);
void seal_maker_free(struct seal_maker **m);

/* seal_check.c */
struct seal_checker *seal_checker_new(struct seals *seals);
void seal_checker_add(struct seal_checker *c, struct kept *k); /* one more reference */
void seal_checker_moved(struct seal_checker *c); /* more is visible here */
void seal_checker_step(struct seal_checker *c);
bool seal_checker_describe(const struct seal_checker *c, char *out, size_t room);
void seal_checker_stop(struct seal_checker *c);
void seal_checker_free(struct seal_checker **c);

#endif
