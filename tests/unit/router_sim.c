/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "tests/unit/router_sim.h"

uint64_t sim_random(struct sim *s)
{
	s->seed ^= s->seed << 13;
	s->seed ^= s->seed >> 7;
	s->seed ^= s->seed << 17;
	return s->seed;
}

static bool chance(struct sim *s, unsigned percent)
{
	return sim_random(s) % 100 < percent;
}

void sim_init(struct sim *s, const struct sim_shape *shape, uint64_t seed)
{
	*s = (struct sim){.count = shape->count, .seed = seed * 0x9e3779b97f4a7c15ull + 1};
	s->nodes = calloc(shape->count + 1, sizeof *s->nodes);
	s->out = calloc(shape->count + 1, sizeof *s->out);
	assert_non_null(s->nodes);
	assert_non_null(s->out);
	for (size_t i = 0; i < shape->count; i++) {
		struct router_node *n = &s->nodes[i];
		n->number = (uint32_t)i + 1;
		n->group = (uint32_t)(sim_random(s) % shape->groups);
		n->region = n->group % shape->regions;
		n->capacity = shape->capacity_max ? 1 + (uint32_t)(sim_random(s) % shape->capacity_max) : ROUTER_CAPACITY_DEFAULT;
		n->source = chance(s, shape->source_percent);
		n->up = !chance(s, shape->down_percent);
		n->drained = chance(s, shape->drained_percent);
		n->previous = ROUTER_NONE;
		n->hand = i > 0 && chance(s, shape->hand_percent) ? (int)(sim_random(s) % i) : ROUTER_NONE;
		n->throughput = chance(s, 50) ? sim_random(s) % 1000000 : 0;
	}
}

void sim_fini(struct sim *s)
{
	free(s->nodes);
	free(s->out);
}

size_t sim_step(struct sim *s)
{
	int r = router_compute(s->nodes, s->count, s->out, &s->overfull);
	assert_int_equal(r, 0);
	size_t changed = 0;
	for (size_t i = 0; i < s->count; i++) {
		struct router_node *n = &s->nodes[i];
		if (n->previous != s->out[i].parent)
			changed++;
		n->previous = s->out[i].parent;
		n->previous_root = s->out[i].parent == ROUTER_NONE;
	}
	return changed;
}

static bool healthy(const struct router_node *n)
{
	return n->up && !n->drained && n->capacity > 0;
}

static void check_tree(const struct sim *s, bool any_healthy, bool any_source)
{
	size_t roots = 0;
	for (size_t i = 0; i < s->count; i++) {
		const struct router_result *o = &s->out[i];
		if (o->parent == ROUTER_NONE) {
			roots++;
			assert_int_equal(o->depth, 0);
			if (any_healthy)
				assert_true(healthy(&s->nodes[i]));
			if (any_source)
				assert_true(s->nodes[i].source);
			continue;
		}
		/* depth falls by one on every step up: no cycle, one root reached by all */
		assert_true(o->parent >= 0 && (size_t)o->parent < s->count);
		assert_int_equal(o->depth, s->out[o->parent].depth + 1);
		if (any_healthy)
			assert_true(healthy(&s->nodes[o->parent]));
	}
	assert_int_equal(roots, 1);
}

static void check_alternates(const struct sim *s, size_t i)
{
	const struct router_result *o = &s->out[i];
	assert_true(o->alternate_count <= ROUTER_ALTERNATES);
	for (int k = 0; k < o->alternate_count; k++) {
		int a = o->alternates[k];
		assert_int_not_equal(a, (int)i);
		assert_int_not_equal(a, o->parent);
		assert_true(healthy(&s->nodes[a]));
		bool earlier = s->out[a].depth < o->depth || (s->out[a].depth == o->depth && s->nodes[a].number < s->nodes[i].number);
		assert_true(earlier);
	}
}

void sim_check(const struct sim *s)
{
	bool any_healthy = false, any_hand = false, any_source = false;
	uint32_t *children = calloc(s->count + 1, sizeof *children);
	assert_non_null(children);
	for (size_t i = 0; i < s->count; i++) {
		any_healthy |= healthy(&s->nodes[i]);
		any_source |= healthy(&s->nodes[i]) && s->nodes[i].source;
		any_hand |= s->nodes[i].hand != ROUTER_NONE;
		if (s->out[i].parent != ROUTER_NONE)
			children[s->out[i].parent]++;
	}
	check_tree(s, any_healthy, any_source && !any_hand);
	for (size_t i = 0; i < s->count; i++) {
		const struct router_node *n = &s->nodes[i];
		assert_int_equal(children[i], s->out[i].children);
		if (!s->overfull && !any_hand && any_healthy)
			assert_true(children[i] <= n->capacity);
		check_alternates(s, i);
		if (n->hand != ROUTER_NONE && healthy(&s->nodes[n->hand]) && s->out[i].parent != ROUTER_NONE)
			assert_int_equal(s->out[i].parent, n->hand);
	}
	if (!any_hand) {
		size_t areas, crossings = sim_crossings(s, false, &areas);
		if (areas > 0)
			assert_int_equal(crossings, areas - 1);
		crossings = sim_crossings(s, true, &areas);
		if (areas > 0)
			assert_int_equal(crossings, areas - 1);
	}
	free(children);
}

uint32_t sim_depth(const struct sim *s)
{
	uint32_t depth = 0;
	for (size_t i = 0; i < s->count; i++)
		if (s->out[i].depth > depth)
			depth = s->out[i].depth;
	return depth;
}

size_t sim_crossings(const struct sim *s, bool region, size_t *ret_areas)
{
	bool *seen = calloc(s->count + 1, sizeof *seen);
	assert_non_null(seen);
	size_t crossings = 0, areas = 0;
	for (size_t i = 0; i < s->count; i++) {
		const struct router_node *n = &s->nodes[i];
		if (!healthy(n))
			continue;
		uint32_t own = region ? n->region : n->group;
		assert_true(own <= s->count);
		if (!seen[own])
			areas++;
		seen[own] = true;
		int p = s->out[i].parent;
		if (p != ROUTER_NONE && own != (region ? s->nodes[p].region : s->nodes[p].group))
			crossings++;
	}
	free(seen);
	*ret_areas = areas;
	return crossings;
}
