/* SPDX-License-Identifier: Apache-2.0 */
/* hold.h — a comparison of trees that wants to remove too much here waits for somebody's decision: shown with a number, released by a command
 * that comes through the master or through the local control socket. Approved: it goes on. Rejected: what it wanted to remove becomes new
 * changes of this node, which bring it back where it is lacking. Loop thread. */
#ifndef REPLICATOR_HOLD_H
#define REPLICATOR_HOLD_H

#include "replicator/set_internal.h"

enum decision { UNDECIDED, APPROVED, REJECTED };

struct hold { /* of one comparison */
	unsigned id;              /* node number * 1000 + a running number; 0: not held */
	int64_t since_ns;
	enum decision decision;
	uint64_t removals, names; /* as found last */
	json_t *examples;
};
void hold_begin(struct set *s, struct hold *h, uint32_t peer, uint64_t removals, uint64_t names, json_t *examples /* taken */);
void hold_end(struct hold *h);
/* Its link ends, nobody has decided. The next one with this peer has the same number. */
void hold_remember(struct set *s, const struct hold *h, uint32_t peer);
void hold_forget(struct set *s, uint32_t peer); /* a comparison with it came to its end */

/* resync_receive.c */
struct resync_in;
struct hold *resync_in_hold(struct resync_in *in);
void resync_in_decided(struct resync_in *in);

#endif
