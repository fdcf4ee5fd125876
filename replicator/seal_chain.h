/* SPDX-License-Identifier: Apache-2.0 */
/* seal_chain.h — do the seals of an author that came hang together, and do they reach its changes that are here? Each tells after which of the author's
 * changes it begins and through which it goes (seal_codec.h), so what was held back leaves a hole: between two that came, or at the end. A hole is not
 * late before some time went by, here and at the author. Times are given, so all of this is pure. */
#ifndef REPLICATOR_SEAL_CHAIN_H
#define REPLICATOR_SEAL_CHAIN_H

#include "replicator/seal_codec.h"

#define HOLES_MAX 8 /* of one author; more are not noted while these are open */

struct hole { /* changes that no seal which came tells of */
	cdm_origin origin;
	uint64_t after, through;
	uint64_t before;      /* clock of the newest seal of this author that came before it */
	int64_t since_ms;     /* it waits so long … */
	uint64_t since_clock; /* … and by the author's clock */
	bool late;            /* until it is filled */
};

struct seal_chain { /* of one author; zeros: no seal of it came yet, and none is missed */
	struct cdm_dot told;  /* those that came tell of its changes up to this one, but for the holes */
	struct cdm_dot shown; /* its newest change here that is to be told of */
	struct hole end;      /* from told to shown; only its times and `late` are kept */
	struct hole holes[HOLES_MAX];
	size_t hole_count;
};

/* A change of the author is visible here. */
void chain_shows(struct seal_chain *c, struct cdm_dot change, uint64_t clock, int64_t now_ms);
/* A seal of it came that did not come before; newest: clock of the newest of those that did. */
void chain_takes(struct seal_chain *c, const struct seal *s, uint64_t newest, int64_t now_ms);
/* Is this one of those that are missing between others, however old it is? */
bool chain_wants(const struct seal_chain *c, const struct seal *s);
/* Clock of the newest seal before the first hole: what neighbours are told to have come. */
uint64_t chain_unbroken(const struct seal_chain *c, uint64_t newest);
/* Is there anything that may become late? */
bool chain_waits(const struct seal_chain *c);
/* Now, at the author's clock (0: it is not there; all begins anew): what waits for longer than late_ms is late. */
void chain_judge(struct seal_chain *c, int64_t now_ms, uint64_t author_clock, int64_t late_ms);
void chain_forgive(struct seal_chain *c, size_t hole); /* nobody has these any more */
void chain_settle(struct seal_chain *c);               /* nor are any others missed of what is here */
/* Something is late: the first of it. */
bool chain_is_late(const struct seal_chain *c, struct hole *ret);

#endif
