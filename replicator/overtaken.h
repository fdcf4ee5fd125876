/* SPDX-License-Identifier: Apache-2.0 */
/* overtaken.h — names that are behind what this node's vector says. The content of a change can be overtaken at its author by the next write, before this
 * node got it: then the change is recorded as a SKIP (CDM_CH_OVERTAKEN), and the save of that write brings what is lacking, usually in milliseconds. Should
 * its author lose that with his power, or be gone, the name stays behind; another node may have what was skipped here. So who compares trees with this one
 * is told these names (FRAME_RESYNC_OVERTAKEN): that they are older here, or absent, says nothing, and whoever has more of what its author lost
 * makes it a change of its own (resync_compare.c).
 *
 * In memory only, and at most so many: the oldest are forgotten. Loop thread. */
#ifndef REPLICATOR_OVERTAKEN_H
#define REPLICATOR_OVERTAKEN_H

#include "common/change.h"
#include "replicator/data_frames.h"

#define OVERTAKEN_MAX 1024
#define OVERTAKEN_PATH_MAX 4096
#define OVERTAKEN_BYTES_MAX (64u << 10) /* of all paths; they fit into one frame */

struct overtaken;
struct overtaken *overtaken_new(void);
void overtaken_free(struct overtaken **o);

/* The content of this change did not come: it becomes the SKIP that says so. */
void overtaken_skip(struct cdm_change *c);

/* A record of the journal: a name is overtaken from now on, or no more, or has another name. */
void overtaken_note(struct overtaken *o, const struct cdm_change *c);
bool overtaken_has(const struct overtaken *o, const char *path, size_t len);
/* Is one of them of an incarnation of this node before `now`? What was to come is lost then. */
bool overtaken_is_lost(const struct overtaken *o, cdm_origin now);

/* May it be that this version of the name, or of one below it, was skipped? */
bool overtaken_lacks(const struct overtaken *o, const char *path, size_t len, struct cdm_dot version);
bool overtaken_has_below(const struct overtaken *o, const char *dir, size_t len);
/* A comparison of trees removed it, with all below it, or made it as the sender has it: no record tells of that. */
void overtaken_compared(struct overtaken *o, const char *path, size_t len, bool removed);
/* What a comparison was to bring was not to be had: the content that `dot` made, or one before it. */
void overtaken_missed(struct overtaken *o, const char *path, size_t len, struct cdm_dot dot, uint64_t clock);

/* Names noted so far: for overtaken_settled. */
uint64_t overtaken_number(const struct overtaken *o);
/* Trees were compared with a node that knew all this one does: of those noted up to `number` only the ones it names (overtaken_encode) are left, and those
 * whose author has begun anew since, as its vector says: they come from somebody else, or not at all. */
void overtaken_settled(struct overtaken *o, uint64_t number, const struct overtaken *theirs, const struct cdm_vector *vector);

/* In what a sender told: this node has it all the same. */
void overtaken_is_here(struct overtaken *theirs, const char *path, size_t len);
/* Its vector is ours now, and so is what is behind that. */
void overtaken_taken_over(struct overtaken *o, const struct overtaken *theirs);

/* count × (dot, u64 clock, u16 length, path); nothing: there are none. */
void overtaken_encode(const struct overtaken *o, struct bytes *out);
/* NULL: malformed, or more than there can be. */
struct overtaken *overtaken_decode(const uint8_t *in, size_t len);

#endif
