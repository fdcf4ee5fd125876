/* SPDX-License-Identifier: Apache-2.0 */
/* settle_look.h — a record whose server died before it had an outcome: what is there tells whether it was done. */
#ifndef CDMFS_SETTLE_LOOK_H
#define CDMFS_SETTLE_LOOK_H

#include "cdmfs/fs.h"

#define SETTLED_REDO 1 /* counts as done in the journal, but a request that comes again must be done again (writing is idempotent) */

/* Finish or find undone. Brings the node table in step and fills the result fields of *c. 0: done; SETTLED_REDO; -errno: not done.
 * No other thread runs yet. */
int settle_look(struct fs *fs, struct cdm_change *c);

#endif
