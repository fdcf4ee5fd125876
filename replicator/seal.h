/* SPDX-License-Identifier: Apache-2.0 */
/* seal.h — what an author says of its changes, signed by it and checked by every node, whoever carried the changes there (design.md 6, "Seals").
 *
 * After changes of this node were recorded it looks at their names (seal_make.c): what is there, which version, its attributes, the SHA-256 of its content;
 * and signs that. A seal is flooded over the set's tree as it is, each node passes on what it verified and did not see before, and keeps the newest of
 * them for neighbours that were away. A node that has those changes looks at the same names here (seal_check.c). What differs for good is not what the
 * author made: it is said, with whom it came from, and a content is fetched again until its digest is the author's.
 *
 * Seals that do not come are missed, too (seal_missing.c): each tells where the one before ended, and an author that has more to sign says so.
 *
 * All that reads contents runs behind everything else (scrub_read.h); no change waits for a seal. Memory: names waiting to be sealed, seals kept and
 * seals to be checked are bounded; what is beyond is counted (left out) and left to the scrub. Loop thread only. */
#ifndef REPLICATOR_SEAL_H
#define REPLICATOR_SEAL_H

#include "replicator/set_internal.h"

struct seals;
struct seals *seals_new(struct set *s);
void seals_stop(struct set *s); /* before scrub_stop */
void seals_free(struct set *s);

void seals_ready(struct set *s); /* the journal was read to its end */
void seals_note(struct set *s, const struct cdm_change *c); /* follow.c: a change of this node that ships */
void seals_came(struct set *s, const struct cdm_change *c); /* follow.c: another's change is visible here */
void seals_moved(struct set *s);                            /* more is visible here */
void seals_subscribed(struct peer *p);                      /* it is told which seals are known here */
void seals_peer_gone(struct peer *p);
void seals_drained(struct peer *p);                         /* there is room in its link */
int seals_frame(struct peer *p, const uint8_t *payload, size_t len, struct cdm_error *err); /* SEAL */
int seals_seen(struct peer *p, const uint8_t *payload, size_t len, struct cdm_error *err);  /* SEAL_SEEN */
/* What the author of this content signed of it, as far as its seal is kept. */
bool seals_tell(const struct set *s, struct cdm_dot version, uint8_t ret_digest[32]);
/* "3 names are not what their authors signed". False: there is none. */
bool seals_describe(const struct set *s, char *out, size_t room);
/* "changes from n1:7 to n1:9 came, and what n1 signed of them did not". False: none are missing. */
bool seals_describe_missing(const struct set *s, char *out, size_t room);
void seals_proven(struct set *s, const char *with); /* no difference from this node was found */
void seals_members_changed(struct set *s);

#endif
