/* SPDX-License-Identifier: Apache-2.0 */
/* ring.h — the order in which a large content goes from node to node (fetch.h): the members of a set by region, group and name, closed to a ring.
 * Each node takes such a content from the member before it, so every link carries it once and a border of groups or regions is crossed
 * once per group or region, wherever in the ring it was made. Pure: equal tables give equal rings at all nodes. */
#ifndef REPLICATOR_RING_H
#define REPLICATOR_RING_H

#include "replicator/node.h"

/* The member before this one that may feed others (active, with an address, and one that brings where this one does: rights.h); NULL: there is none, or the table does not name all members. */
const struct member *ring_before(const struct route *r, uint32_t number);

#endif
