/* SPDX-License-Identifier: Apache-2.0 */
/* unsure.h — after a power cut the mount's start-up check finds files that may be half: changed since the last checkpoint and never
 * fsynced (version clock CDM_CLOCK_UNSURE). Before this node ships anything it asks its neighbours which versions they have under
 * these names. The newest is fetched, takes the place of what was found (which is kept in conflicts/) and is recorded once more, so
 * that whoever lacks it gets it. What nobody has is shipped as it was found.
 *
 * All neighbours of the route are waited for, 15 s at most since the first one came: one that is not asked may be the only one that has the newest, and what
 * is taken from another one would win over it. A peer is asked once what it had when it subscribed has arrived here,
 * or when nothing comes for ten seconds. The parent (where there is none, any neighbour) must have answered; if none does for ten
 * seconds more this node goes on, and compares trees with its parent as soon as that is there.
 *
 * A neighbour that was not there is asked when it comes, before anything ships to it: it may still have the newest. So it goes on, also in the next run
 * (STORE/.cdmfs/late), until each neighbour of the route was asked once. Too many names to remember: trees are
 * compared at once. STORE/.cdmfs/unsure exists until it is over, so that a restart in between compares trees, too. Loop thread only. */
#ifndef REPLICATOR_UNSURE_H
#define REPLICATOR_UNSURE_H

#include "replicator/publish.h"

#define UNSURE_TICKET (1ull << 62) /* of NEEDs asked here */

/* follow.c: a record of the journal, while it is read. */
void unsure_note(struct set *s, const struct cdm_change *c);
/* The journal was read to its end; before anybody is told. */
void unsure_ready(struct set *s);
/* Must nothing ship yet? */
bool unsure_waits(const struct set *s);
bool unsure_waits_for(const struct peer *p); /* … to this one? */
/* Must this peer be asked to compare trees? (For its SUBSCRIBE.) */
bool unsure_compares(const struct set *s, const struct peer *p);
void unsure_subscribed(struct peer *p, const struct cdm_vector *visible);
void unsure_moved(struct set *s);                    /* something became visible here */
void unsure_answer(struct peer *p, struct incoming *in); /* takes it */
void unsure_compared(struct peer *p);                /* trees were compared with this peer */
void unsure_peer_gone(struct peer *p);
void unsure_free(struct set *s);

#endif
