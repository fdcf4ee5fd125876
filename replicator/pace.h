/* SPDX-License-Identifier: Apache-2.0 */
/* pace.h — how many bytes may go now so that a rate is kept: a bucket that fills with time and holds what flows in PACE_BURST_MS. Pure. */
#ifndef REPLICATOR_PACE_H
#define REPLICATOR_PACE_H

#include <stddef.h>
#include <stdint.h>

#define PACE_BURST_MS 30
#define PACE_LEAST 1024 /* bytes a second: below it a peer would take the link for dead */

struct pace { /* zeroed: begins with a full bucket */
	int64_t filled_ns; /* when `tokens` was right */
	int64_t tokens;    /* bytes; negative: more was used than was there */
};
/* Of `want` bytes (not 0) so many may be used now, at `rate` bytes a second (not 0). 0: ask again in *ret_wait_ms (at most a second, for
 * the rate may have changed by then). */
size_t pace_ask(struct pace *p, uint64_t rate, int64_t now_ns, size_t want, int64_t *ret_wait_ms);
/* So many bytes went out, maybe more than were asked for. */
void pace_used(struct pace *p, size_t bytes);

#endif
