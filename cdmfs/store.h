/* SPDX-License-Identifier: Apache-2.0 */
/* store.h — opening a set's store and checking whose it is: STORE/.cdmfs with `format` and `lock` (docs/internals.md 1). */
#ifndef CDMFS_STORE_H
#define CDMFS_STORE_H

#include "cdmfs/fs.h"

/* Opens and locks the store, creating .cdmfs on the first start. -EBUSY: another mount or applier uses it; -EBADMSG, -ESTALE: it is of
 * another format, set or node. */
int store_open(struct fs *fs, struct cdm_error *err);
void store_close(struct store *s);
/* Make `incarnation` durable. */
int store_set_incarnation(struct fs *fs, uint32_t incarnation, struct cdm_error *err);
/* Remove everything in a directory of .cdmfs. */
void store_empty(int dirfd);

#endif
