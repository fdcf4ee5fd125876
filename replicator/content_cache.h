/* SPDX-License-Identifier: Apache-2.0 */
/* content_cache.h — contents that were just read for one child, whole and small enough to ride in their CHANGE: the other children are sent
 * the same bytes, and the file is opened, read and hashed once for all of them. Bounded; one per set, the main thread's. */
#ifndef REPLICATOR_CONTENT_CACHE_H
#define REPLICATOR_CONTENT_CACHE_H

#include "replicator/content.h"

#define CACHE_CONTENTS 512
#define CACHE_BYTES (4u << 20)

struct content_cache;
struct content_cache *content_cache_new(void);
void content_cache_free(struct content_cache **r);
/* Keep what was read (inline, whole, found to be of its version) from the file of this handle. Everything that the journal says before
 * `position`, a reader's, is in it. The file is closed. */
void content_cache_keep(struct content_cache *r, struct content *c, const struct cdm_handle *handle, uint64_t position);
/* The content that this save is to send, if it was kept and has all that was folded into the item; a reference, for content_close. NULL: not here. */
struct content *content_cache_find(const struct content_cache *r, const struct item *item);
/* The journal begins anew: positions mean something else. */
void content_cache_forget(struct content_cache *r);

#endif
