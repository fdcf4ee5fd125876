/* SPDX-License-Identifier: Apache-2.0 */
/* rescan.h — finds what was written to the store past the mount, by the comparison of adopt.c: the same version here and at the peer, but
 * other content or attributes; names without a version; names that went without a change of ours. Then the mount's server is told each name
 * (docs/internals.md 2, "trusted.cdmfs.rescan"): it makes changes of them, or on a pure target puts them aside for the peer's. */
#ifndef REPLICATOR_RESCAN_H
#define REPLICATOR_RESCAN_H

#include "replicator/resync_compare.h"

struct rescan;
/* Loop. Below `path` ("" = all), or only that file. */
struct rescan *rescan_new(struct set *s, const char *path, size_t len, const struct cdm_vector *theirs);
void rescan_free(struct rescan **r);
/* Where the comparison begins: the directory itself, or the one that holds the file. */
void rescan_begin(const struct rescan *r, const char **ret_path, size_t *ret_len);

/* Walker. One name: theirs or ours may be NULL. True: a directory of both, to be gone into. */
bool rescan_look(struct rescan *r, const char *path, size_t len, const struct entry *theirs, const struct entry *ours);
/* Loop, after the comparison: what was found may have been at work just then. True: look at these directories (a list of todos, the caller's)
 * once more a moment later; only what is then exactly as it was counts. Called again it says false. */
bool rescan_again(struct rescan *r, struct todo **ret_dirs);
/* Walker. Tell the server; unless `dry`. */
void rescan_tell(struct rescan *r, bool dry);

/* Loop, when all is told: {"looked","changed","new","gone","aside","names":[…],"failed","done":"nothing|journaled|repaired"}. */
json_t *rescan_result(struct rescan *r);
/* A path was asked for that nobody has. */
bool rescan_is_nowhere(const struct rescan *r);
/* Something was put aside, or set aside before (quarantine.h) and so never came: the trees must be compared to get it. */
bool rescan_wants_repair(const struct rescan *r);

#endif
