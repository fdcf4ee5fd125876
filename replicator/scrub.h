/* SPDX-License-Identifier: Apache-2.0 */
/* scrub.h — is what the disks hold still what was replicated? This node compares its whole tree with its parent's (the root:
 * with one of those it feeds): names and attributes by the listings of resync.h, contents by digests of what is read from the
 * disk now. It runs behind everything else (scrub_read.h), once a week at night, or when somebody asks for it. Without a
 * difference the set is "proven equal": when and with whom is told with this node's state.
 *
 * Where digests differ all neighbours are asked and who is wrong is judged (scrub_judge.h). Each node replaces only its own copy,
 * by what a right neighbour sends, checked against the digest; the copy that was wrong is kept in conflicts/. A neighbour whose
 * copy is wrong is told to look for itself. What is not decided stays as it is and is reported.
 *
 * Memory: as a comparison of trees, 64 files in work, 256 files in question; what is beyond waits for the next scrub.
 * STORE/.cdmfs/scrub outlives the program: when the next one is due, and the last proof. A scrub that was interrupted stays due
 * and begins anew when a neighbour is there. Loop thread only. */
#ifndef REPLICATOR_SCRUB_H
#define REPLICATOR_SCRUB_H

#include "replicator/set_internal.h"

#define SCRUB_TICKET (1ull << 60) /* of NEEDs asked here */

struct incoming;
struct scrub;

struct scrub *scrub_new(struct set *s); /* NULL: no thread can be had */
void scrub_ready(struct set *s); /* the journal was read to its end (also again); before peers are told */
void scrub_stop(struct set *s);
void scrub_free(struct set *s);  /* when no message of a worker is to come */
void scrub_peer_is_there(struct peer *p);
void scrub_peer_gone(struct peer *p);
int scrub_frame(struct peer *p, enum frame_type type, const uint8_t *payload, size_t len, struct cdm_error *err);
bool scrub_is_asking(const struct peer *p); /* RESYNC_DIR frames of this peer are for it: it never asks when others do */
int scrub_dir(struct peer *p, uint8_t flags, const uint8_t *payload, size_t len, struct cdm_error *err);
void scrub_answer(struct peer *p, struct incoming *in); /* receive.c: to a NEED with SCRUB_TICKET (takes it) */
/* The last proof: Unix seconds, and the node's name (borrowed). 0: none yet. */
int64_t scrub_proven(const struct set *s, const char **ret_with);

#endif
