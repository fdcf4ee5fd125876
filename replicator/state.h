/* SPDX-License-Identifier: Apache-2.0 */
/* state.h — what every node of a set has, known at every node. Each node floods its own state over the set's tree: at change (at
 * most every 20 ms), and every 5 s as a sign of life. A node marks those as down whose states came over a link that is gone, and
 * tells the others; whoever was heard of later than that, by another way, comes up again with its next state. Loop thread only. */
#ifndef REPLICATOR_STATE_H
#define REPLICATOR_STATE_H

#include <stdbool.h>
#include "replicator/set.h"

int state_new(struct node *node);
void state_free(struct node *node);
void state_link_up(struct node *node, struct set *set, struct link *l);
void state_link_down(struct node *node, struct set *set, struct link *l);
int state_frame(struct node *node, struct set *set, struct link *l, const uint8_t *payload, size_t len, struct cdm_error *err);
/* The routes changed: nodes that are no members any more are forgotten. */
void state_members_changed(struct node *node);

/* One member of a set as it looks from here. Borrowed until the loop goes on. */
struct peer_state {
	const struct member *member;
	bool self, known, down;      /* known: heard of since we run */
	int64_t heard_wall_ns;       /* last sign of life, 0 = never */
	const char *state, *reason_code, *reason;
	const struct cdm_vector *visible, *durable; /* never NULL */
};
/* Every member of the set's route, in the route's order. Returns how many; 0 without a route. */
typedef void state_each_fn(void *arg, const struct peer_state *p);
size_t state_each(struct node *node, struct set *set, state_each_fn *fn, void *arg);

/* Does this member say that it takes in nothing now (paused, not mounted), so that what it should pass on waits? A node that was not heard of
 * for 15 s says nothing any more. */
bool state_is_stuck(struct node *node, struct set *set, uint32_t number);

/* This member is heard, and nothing ails it: the start of its process, its clock as it told it last, and over which link. */
struct state_heard {
	uint64_t start, clock;
	const struct link *via;
};
bool state_heard(struct node *node, struct set *set, uint32_t number, struct state_heard *ret);

/* Called after something of a set changed: own state, another's, membership. */
struct state_watch {
	void (*fn)(void *arg, struct set *set);
	void *arg;
	struct state_watch *next;
};
void state_watch(struct node *node, struct state_watch *w);
void state_unwatch(struct node *node, struct state_watch *w);

#endif
