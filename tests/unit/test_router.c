/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <cmocka.h>
#include "tests/unit/router_sim.h"

static const struct sim_shape ten_thousand = {.count = 10000, .regions = 5, .groups = 40, .source_percent = 1};

static double seconds(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void random_trees_keep_every_promise(void **state)
{
	for (uint64_t seed = 1; seed <= 2000; seed++) {
		struct sim pick = {.seed = seed * 7919};
		struct sim_shape shape = {
			.count = 1 + sim_random(&pick) % 120,
			.source_percent = (unsigned)(sim_random(&pick) % 101),
			.capacity_max = (uint32_t)(sim_random(&pick) % 10),
			.down_percent = (unsigned)(sim_random(&pick) % 60),
			.drained_percent = (unsigned)(sim_random(&pick) % 20),
			.hand_percent = seed % 3 == 0 ? 20 : 0,
		};
		shape.groups = 1 + (uint32_t)(sim_random(&pick) % shape.count);
		shape.regions = 1 + (uint32_t)(sim_random(&pick) % shape.groups);
		struct sim s;
		sim_init(&s, &shape, seed);
		sim_step(&s);
		sim_check(&s);
		for (int change = 0; change < 10; change++) { /* the world moves */
			size_t i = sim_random(&s) % s.count;
			if (sim_random(&s) % 4 == 0)
				s.nodes[i].drained = !s.nodes[i].drained;
			else
				s.nodes[i].up = !s.nodes[i].up;
			sim_step(&s);
			sim_check(&s);
		}
		sim_fini(&s);
	}
}

static void a_second_run_changes_nothing(void **state)
{
	struct sim s;
	sim_init(&s, &ten_thousand, 3);
	sim_step(&s);
	assert_int_equal(sim_step(&s), 0);
	sim_fini(&s);
}

static void ten_thousand_nodes_take_less_than_a_second(void **state)
{
	struct sim s;
	sim_init(&s, &ten_thousand, 1);
	double start = seconds();
	sim_step(&s);
	double first = seconds() - start;
	start = seconds();
	sim_step(&s);
	double again = seconds() - start;
	sim_check(&s);
	bool *brings = calloc(s.count, sizeof *brings);
	assert_non_null(brings);
	start = seconds();
	assert_int_equal(router_brings(s.nodes, s.count, s.out, brings), 0);
	double bringing = seconds() - start;
	free(brings);
	assert_true(bringing < 0.1);
	printf("who brings: %.1f ms\n", bringing * 1e3);
	printf("10000 nodes, 40 groups, 5 regions: %.1f ms, again %.1f ms, depth %u\n", first * 1e3, again * 1e3, sim_depth(&s));
	assert_true(first < 1.0 && again < 1.0);
	assert_true(sim_depth(&s) <= 9);
	sim_fini(&s);

	const struct sim_shape lonely = {.count = 10000, .regions = 10000, .groups = 10000, .source_percent = 1};
	sim_init(&s, &lonely, 1);
	start = seconds();
	sim_step(&s);
	first = seconds() - start;
	sim_check(&s);
	printf("10000 nodes, each its own region: %.1f ms, depth %u\n", first * 1e3, sim_depth(&s));
	assert_true(first < 1.0);
	sim_fini(&s);
}

static void one_node_lost_moves_only_its_children(void **state)
{
	struct sim s;
	sim_init(&s, &ten_thousand, 5);
	sim_step(&s);
	size_t worst = 0;
	for (int round = 0; round < 50; round++) {
		size_t i = sim_random(&s) % s.count;
		uint32_t fed = s.out[i].children;
		s.nodes[i].up = false;
		size_t changed = sim_step(&s);
		if (changed > worst)
			worst = changed;
		assert_true(changed <= fed * 3 + 10);
		/* back again: as a leaf, and nobody else moves */
		s.nodes[i].up = true;
		changed = sim_step(&s);
		assert_int_equal(s.out[i].children, 0);
		assert_true(changed <= 2);
		sim_check(&s);
	}
	printf("one node lost: at most %zu parents change\n", worst);
	sim_fini(&s);
}

static void the_lost_root_is_followed_by_the_next_source(void **state)
{
	struct sim s;
	const struct sim_shape shape = {.count = 9, .regions = 1, .groups = 1, .source_percent = 100};
	sim_init(&s, &shape, 1);
	sim_step(&s);
	int root = ROUTER_NONE;
	for (int i = 0; i < 9; i++)
		if (s.out[i].parent == ROUTER_NONE)
			root = i;
	assert_int_equal(root, 0);
	assert_int_equal(sim_depth(&s), 1);
	s.nodes[0].up = false;
	sim_step(&s);
	sim_check(&s);
	assert_int_equal(s.out[1].parent, ROUTER_NONE);
	assert_int_equal(s.out[0].parent, 1);
	sim_fini(&s);
}

static void hand_set_cycles_are_found(void **state)
{
	struct router_node nodes[4] = {{0}};
	struct router_result out[4];
	for (int i = 0; i < 4; i++)
		nodes[i] = (struct router_node){.number = (uint32_t)i + 1, .capacity = 8, .up = true, .source = true,
			.hand = ROUTER_NONE, .previous = ROUTER_NONE};
	nodes[1].hand = 0;
	nodes[2].hand = 1;
	int path[4];
	assert_int_equal(router_check_hand(nodes, 4, 0, 2, path, 4), 3);
	assert_int_equal(path[0], 2);
	assert_int_equal(path[2], 0);
	assert_int_equal(router_check_hand(nodes, 4, 3, 2, path, 4), 0);
	nodes[0].hand = 2;
	assert_int_equal(router_compute(nodes, 4, out, NULL), -ELOOP);
}

static void nobody_up_still_gives_a_tree(void **state)
{
	struct sim s;
	const struct sim_shape shape = {.count = 5, .regions = 1, .groups = 2, .source_percent = 50, .down_percent = 100};
	sim_init(&s, &shape, 1);
	sim_step(&s);
	sim_check(&s);
	sim_fini(&s);
}

/* --- who brings changes upwards --- */

/* 0 is the root, 1 and 2 its children, 3 and 4 those of 1, 5 of 2; `source` alone writes. 5 may go to 1, and that to nobody. */
static void bring(int source, bool ret[6])
{
	static const int parents[6] = {ROUTER_NONE, 0, 0, 1, 1, 2};
	struct router_node nodes[6] = {0};
	struct router_result out[6] = {0};
	for (int i = 0; i < 6; i++) {
		nodes[i].source = i == source;
		out[i].parent = parents[i];
	}
	out[5].alternates[out[5].alternate_count++] = 1;
	assert_int_equal(router_brings(nodes, 6, out, ret), 0);
}

static void only_the_root_brings_when_it_alone_writes(void **state)
{
	bool brings[6];
	bring(0, brings);
	for (int i = 0; i < 6; i++)
		assert_int_equal(brings[i], i == 0);
}

static void all_on_the_way_of_a_source_bring(void **state)
{
	bool brings[6];
	bring(4, brings);
	assert_true(brings[0] && brings[1] && brings[4]);
	assert_false(brings[2] || brings[3] || brings[5]);
}

static void alternates_of_a_source_bring(void **state)
{
	bool brings[6];
	bring(5, brings);
	assert_true(brings[0] && brings[1] && brings[2] && brings[5]);
	assert_false(brings[3] || brings[4]);
}

/* Whichever of its parents each node on the way takes: all of them bring. */
static void from_every_source_all_ways_up_bring(void **state)
{
	for (uint64_t seed = 1; seed <= 200; seed++) {
		struct sim s;
		struct sim_shape shape = {.count = 1 + seed % 60, .regions = 1 + seed % 3, .groups = 1 + seed % 7, .source_percent = 15, .down_percent = 20};
		if (shape.groups < shape.regions)
			shape.groups = shape.regions;
		sim_init(&s, &shape, seed);
		sim_step(&s);
		bool brings[60];
		assert_int_equal(router_brings(s.nodes, s.count, s.out, brings), 0);
		for (size_t i = 0; i < s.count; i++) {
			const struct router_result *o = &s.out[i];
			assert_true(brings[i] || (!s.nodes[i].source && o->parent != ROUTER_NONE));
			assert_true(!brings[i] || o->parent == ROUTER_NONE || brings[o->parent]);
			for (int k = 0; brings[i] && k < o->alternate_count; k++)
				assert_true(brings[o->alternates[k]]);
		}
		sim_fini(&s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_trees_keep_every_promise),
		cmocka_unit_test(a_second_run_changes_nothing),
		cmocka_unit_test(ten_thousand_nodes_take_less_than_a_second),
		cmocka_unit_test(one_node_lost_moves_only_its_children),
		cmocka_unit_test(the_lost_root_is_followed_by_the_next_source),
		cmocka_unit_test(hand_set_cycles_are_found),
		cmocka_unit_test(nobody_up_still_gives_a_tree),
		cmocka_unit_test(only_the_root_brings_when_it_alone_writes),
		cmocka_unit_test(all_on_the_way_of_a_source_bring),
		cmocka_unit_test(alternates_of_a_source_bring),
		cmocka_unit_test(from_every_source_all_ways_up_bring),
	};
	return cmocka_run_group_tests_name("router", tests, NULL, NULL);
}
