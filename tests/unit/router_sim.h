/* SPDX-License-Identifier: Apache-2.0 */
/* router_sim.h — random installations for the router and the checks of its promises. Deterministic by seed. */
#ifndef TESTS_ROUTER_SIM_H
#define TESTS_ROUTER_SIM_H

#include "master/router.h"

struct sim {
	struct router_node *nodes;
	struct router_result *out;
	size_t count;
	uint64_t seed;
	bool overfull;
};
struct sim_shape {
	size_t count;
	uint32_t regions, groups; /* spread by number */
	uint32_t capacity_max;    /* 1…this; 0: all the default */
	unsigned down_percent, drained_percent, source_percent, hand_percent;
};
void sim_init(struct sim *s, const struct sim_shape *shape, uint64_t seed);
void sim_fini(struct sim *s);
uint64_t sim_random(struct sim *s);
/* Compute; the answer becomes the next `previous`. Returns how many parents differ from before. */
size_t sim_step(struct sim *s);
/* Fails the cmocka test with a sentence when a promise of router.h is broken. */
void sim_check(const struct sim *s);
uint32_t sim_depth(const struct sim *s);
/* How many edges between healthy nodes cross a group (a region) border, and how many groups (regions) have healthy nodes. */
size_t sim_crossings(const struct sim *s, bool region, size_t *ret_areas);

#endif
