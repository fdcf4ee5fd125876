/* SPDX-License-Identifier: Apache-2.0 */
/* delta_share.h — blocks that an old and a new version have in common are not written again where the filesystem lets files share them (xfs,
 * btrfs: FICLONERANGE): no bytes to the disk, and no room on it. Any thread, one at a time per object. */
#ifndef REPLICATOR_DELTA_SHARE_H
#define REPLICATOR_DELTA_SHARE_H

#include <sys/stat.h>
#include "replicator/delta.h"

struct delta_share { /* begins with from, to (both are borrowed) and zeros */
	int from, to;
	bool looked;
	uint64_t block;     /* what is shared begins and ends at multiples of this; 0: not here */
	bool shared;        /* something is */
	struct stat before; /* the old version, before anything was */
};

/* Share what of a copy is whole blocks: ret_from, ret_to say which part of the old version that was (both 0: none of it). An old version that
 * was changed a moment ago is not shared: a change right after could not be told from that one. */
void delta_share_copy(struct delta_share *s, const struct delta_copy *c, uint64_t *ret_from, uint64_t *ret_to);
/* After the shared parts were read from the old version: are they what is shared? False: it was changed meanwhile. */
bool delta_share_holds(const struct delta_share *s);

#endif
