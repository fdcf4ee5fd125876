/* SPDX-License-Identifier: Apache-2.0 */
/* router.h — who feeds whom, for one set (design.md 7). A pure function: no clock, no database, no global state; equal input
 * gives equal output. Answers one undirected tree as a parent for each node, plus the parents to try next.
 *
 * Promises, tested on random trees:
 *  - exactly one root; everybody reaches it; no cycles. The root is a healthy source where there is one.
 *  - the healthy nodes of a group hang together (its border is crossed once), and so do those of a region, unless hands say otherwise.
 *  - no node feeds more children than its capacity, unless the healthy capacity of all cannot hold the leaves (`overfull`).
 *  - nodes that are down, drained or have capacity 0 feed nobody (a root that everybody lost stays the root until another is healthy).
 *  - an alternate is nearer to the root than the node, or as near and earlier in order: nodes that all switch to any of
 *    their alternates at once still form no cycle.
 *  - what was asked before (`previous`) is kept where it is valid and at most one level deeper than the best place. */
#ifndef MASTER_ROUTER_H
#define MASTER_ROUTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "common/error.h"

#define ROUTER_NONE (-1)
#define ROUTER_ALTERNATES 3
#define ROUTER_CAPACITY_DEFAULT 8

struct router_node {
	uint32_t number;     /* orders equals; unique */
	uint32_t group;      /* ids chosen by the caller; a group belongs to one region */
	uint32_t region;
	uint32_t capacity;   /* children it may feed */
	bool source;         /* may be the origin of changes */
	bool up, drained;
	int hand;            /* index of its parent set by hand, or ROUTER_NONE */
	int previous;        /* index of its parent in the last answer, or ROUTER_NONE */
	bool previous_root;  /* was the root in the last answer */
	uint64_t throughput; /* bytes per second it can pass on, 0 = unknown: faster nodes sit higher */
	uint32_t rtt_us;     /* towards the others, 0 = unknown: nearer nodes sit higher */
};

struct router_result {
	int parent;          /* ROUTER_NONE for the root */
	uint32_t depth;      /* of the root 0 */
	uint32_t children;   /* how many */
	int alternates[ROUTER_ALTERNATES];
	uint8_t alternate_count;
	bool by_hand;        /* its parent is the one set by hand */
};

/* ret[count]. 0; -ENOMEM; -ELOOP when the hand-set parents form a cycle (see router_check_hand). overfull may be NULL. */
int router_compute(const struct router_node *nodes, size_t count, struct router_result *ret, bool *overfull);

/* Which nodes may carry changes of others upwards: the root, the sources, and each parent and alternate of one that carries, up to the root.
 * A source that takes an alternate by itself is so carried without asking. nodes and result as of router_compute; ret[count]. 0; -ENOMEM. */
int router_brings(const struct router_node *nodes, size_t count, const struct router_result *result, bool *ret);

/* Would `parent` as the hand-set parent of `node` close a cycle of hand-set parents? Fills path with the indices from parent back to node
 * (at most `room`) and returns how many, 0 if there is none. */
size_t router_check_hand(const struct router_node *nodes, size_t count, int node, int parent, int *path, size_t room);

#endif
