/* SPDX-License-Identifier: Apache-2.0 */
/* history.h — what the applier must know about changes that are in the journal already: which change saved a version, and which
 * directories were renamed, so that a change made by somebody who did not know of it goes where its directory is now.
 * Bounded: the oldest is forgotten; then a version counts as saved with its last write, and a path is taken as it is. Any thread. */
#ifndef REPLICATOR_HISTORY_H
#define REPLICATOR_HISTORY_H

#include "common/change.h"

struct history;
struct history *history_new(void);
void history_free(struct history **h);

/* A change that is in the journal or was just applied. Twice does no harm. */
void history_note(struct history *h, const struct cdm_change *c);

/* What `older` knows lies before all that h knows. Takes it. */
void history_put_before(struct history *h, struct history **older);

/* The newest change that told others of this version (its SAVE, a RENAME of the file); none: not known any more. */
struct cdm_dot history_saved_by(struct history *h, struct cdm_dot version);

/* Under which version did a start-up check find the content that it gave `version`? None: not known. */
struct cdm_dot history_found_as(struct history *h, struct cdm_dot version);

struct history_rename { /* of a directory */
	struct cdm_version version; /* dot and clock of the RENAME */
	int64_t from_mtime_ns, to_mtime_ns; /* of the directories it left and came to, 0 = not told */
	char *from, *to;
	size_t from_len, to_len;
};

/* Where is `path` now, if its author had applied `context` when using it? malloced, or NULL: there. *last: the newest rename that was
 * followed, a copy (history_rename_fini), may be NULL. */
char *history_map(struct history *h, const char *path, size_t len, cdm_origin author, const struct cdm_vector *context, size_t *ret_len,
	struct history_rename *last);
void history_rename_fini(struct history_rename *r);
/* It was undone. */
void history_forget(struct history *h, struct cdm_dot rename);

#endif
