/* SPDX-License-Identifier: Apache-2.0 */
/* aside.h — the content of a file that cannot be published here (quarantine.h) lies in STORE/.cdmfs/aside/, named by its version, as long as its path is
 * on that list (or the list ran over): those behind this node get it from there. At most 1 GiB in 1024 files; what finds no room is passed on as a SKIP. */
#ifndef REPLICATOR_ASIDE_H
#define REPLICATOR_ASIDE_H

#include "replicator/publish.h"

/* Applier. The change was set aside: whoever follows is to have it all the same; the content of a SAVE is kept for that. 0; -ECANCELED: it comes again, or
 * this program ends; -ENODATA: it is not to be had any more, what comes later is; -EFBIG: no room; another -errno: it could not be kept. */
int aside_keep(struct publisher *pub, struct incoming *in);
/* Applier, after a job: what is not set aside any more goes. */
void aside_tidy(struct publisher *pub);
/* Any thread. The content that is kept for this path: a descriptor and its handle, or -ENOENT. */
int aside_open(struct set *s, const char *path, size_t len, struct cdm_handle *ret);

#endif
