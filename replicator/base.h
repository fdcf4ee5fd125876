/* SPDX-License-Identifier: Apache-2.0 */
/* base.h — what is at a path here already, told to whoever is asked for what should be there (NEED): the answer may then be a delta of it. */
#ifndef REPLICATOR_BASE_H
#define REPLICATOR_BASE_H

#include "replicator/set_internal.h"

/* Any thread. Put the version and size of the regular file at need->path into it, if there is one with a version. */
void base_here(const struct set *s, struct need *need);
/* Send NEED to a peer (flags: NEED_…), with the base where it understands that. */
void base_send_need(struct peer *p, struct need *need, uint8_t flags);
/* SIGN came: its signature goes back, or that it is not to be had. */
int base_sign(struct peer *p, const uint8_t *payload, size_t len, struct cdm_error *err);

#endif
