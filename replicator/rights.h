/* SPDX-License-Identifier: Apache-2.0 */
/* rights.h — what counts of that which a peer sends upwards. A node that feeds us could send us anything; of all others it is asked, by the
 * master's routes, whether somebody with the right to write can be behind it: whether it *brings* (docs/internals.md 1).
 *
 * From a peer that does not bring, what it sends of others is passed over: nothing moves, nothing is removed, it is said once for each link. So nothing
 * is lost where its routes are newer than ours: the vector here still lacks those changes, and when our table says that it brings, the link begins anew and
 * brings them. And a change that is on its way here by a right way too (a leaf that was fed by another parent before is ahead of us for a moment) comes
 * that way. What nobody else has stays at the peer, who is not in sync then.
 *
 * Taken from such a peer all the same: what this node asks for because it has nothing, or to have trees compared; what it lost itself in a power cut,
 * for a while; that a change needs nothing (SKIP), where its author cannot bring it any more.
 *
 * What a node itself sends when it may not write any more is left out, but not before all neighbours were heard: one of them may have taken it in
 * time, and then it comes from there. Until then it is passed over. Loop thread. */
#ifndef REPLICATOR_RIGHTS_H
#define REPLICATOR_RIGHTS_H

#include "replicator/set_internal.h"

enum right {
	RIGHT_TAKEN,
	RIGHT_LEFT_OUT,    /* by an author who may not write, from himself: the vector moves, and nothing else */
	RIGHT_PASSED_OVER, /* not from this peer */
};

bool rights_writes(const struct peer *p); /* itself */
/* Does it feed us, or may changes of others come upwards from it? */
bool rights_brings(const struct peer *p);
enum right rights_of(const struct peer *p, const struct cdm_change *c);
/* A change was not taken: nor are later ones of its origin, on this link. */
void rights_pass_over(struct peer *p, const struct cdm_change *c);
void rights_stop(struct set *s);

/* May we take over what its tree has (RESYNC_START)? Where it does not bring: once, if we asked for that. */
bool rights_takes_tree(struct peer *p);
bool rights_takes_root(const struct peer *p); /* the attributes of the root directory */
void rights_refuse_tree(struct peer *p);      /* says so, once for each link */

/* May it give us a new incarnation by what it says to know of us? A peer that does not bring may once, after a journal was opened. */
bool rights_renews(struct peer *p);

void rights_subscribed(struct peer *p, const struct cdm_vector *visible); /* what it had when it subscribed */
void rights_ready(struct set *s);   /* the journal was read to its end */
void rights_changed(struct set *s); /* a new table: who brings from now on sends again what was passed over */

#endif
