/* SPDX-License-Identifier: Apache-2.0 */
/* aside.h — the content of a file that cannot be published here (quarantine.h) lies in STORE/.cdmfs/aside/, named by its version, as long as its path is
 * on that list: those behind this node get it from there. At most 1 GiB; what finds no room is passed on as a SKIP. */
#ifndef REPLICATOR_ASIDE_H
#define REPLICATOR_ASIDE_H

#include "replicator/publish.h"

/* Applier. The change was set aside: is what it says to be had here all the same, by whoever follows? A SAVE: its content is kept. */
bool aside_keep(struct publisher *pub, struct incoming *in);
/* Applier, after a job: what is not set aside any more goes. */
void aside_tidy(struct publisher *pub);
/* Any thread. The content that is kept for this path: a descriptor and its handle, or -ENOENT. */
int aside_open(struct set *s, const char *path, size_t len, struct cdm_handle *ret);

#endif
