/* SPDX-License-Identifier: Apache-2.0 */
/* Links are cut and healed: what was saved on either side meanwhile arrives, nothing twice, nothing lost. */
#include "tests/cluster/story.h"

#include <string.h>

static void saved_while_a_target_was_away(void **state)
{
	make_directory("n1", "away");
	in_sync();
	cut("n4");
	for (int i = 0; i < 200; i++) {
		char path[64];
		snprintf(path, sizeof path, "away/file-%d", i);
		save("n1", path, path);
	}
	gets_text("n2", "away/file-199", "away/file-199");
	absent("n4", "away/file-0");
	healed("n4");
	everywhere_equal();
	assert_int_equal(counter("n4", "full_resync_count"), 0);
}

static void saved_on_both_sides(void **state)
{
	cut("n2");
	save("n2", "from-the-island", "island");
	save("n1", "from-the-main-land", "main land");
	gets_text("n3", "from-the-main-land", "main land");
	absent("n1", "from-the-island");
	healed("n2");
	everywhere_equal();
	has_text("n4", "from-the-island", "island");
}

static void the_source_is_cut_off_while_it_sends(void **state)
{
	shell("n1", "head -c 60M /dev/urandom > sent-in-parts");
	for (int i = 0; i < 3; i++) {
		cut("n1");
		save("n1", "on-the-way", i % 2 ? "odd" : "even");
		healed("n1");
		gets_text("n2", "on-the-way", i % 2 ? "odd" : "even");
	}
	everywhere_equal();
}

static void each_in_turn_under_load(void **state)
{
	struct load *load = load_begin("n1", "turn", 8, LOAD_MIXED);
	for (unsigned i = 0; i < lab_node_count(lab); i++) {
		char text[40];
		snprintf(text, sizeof text, "round %u", i);
		cut(lab_node_name(lab, i));
		save("n1", "turn-mark", text);
		healed(lab_node_name(lab, i));
		gets_text("n3", "turn-mark", text);
	}
	assert_true(load_end(load) > 0);
	everywhere_equal();
}

static void who_is_away_is_said(void **state)
{
	_cleanup_free_ char *said = NULL, *waited = NULL;
	cut("n3");
	save("n1", "said", "x");
	gets_text("n2", "said", "x");
	int status = stat_wait("n1", "--timeout 2", &waited);
	if (status != 4 || !strstr(waited, "n3"))
		fail_msg("cdmfs-stat --wait with n3 away ended with %d: %s", status, waited);
	status = shell_status("n1", &said, "cdmfs-stat " LAB_SET);
	if (status != 3 || !strstr(said, "NOT IN SYNC"))
		fail_msg("cdmfs-stat with n3 away ended with %d: %s", status, said);
	healed("n3");
	assert_int_equal(stat_wait("n1", "--timeout 30", NULL), 0);
	everywhere_equal();
}

static void a_slow_link_delays_only_its_node(void **state)
{
	struct cdm_error err = CDM_ERROR_INIT;
	assert_int_equal(lab_slow(lab, "n4", "2mbit", &err), 0);
	shell("n1", "head -c 1M /dev/urandom > large-for-slow && echo ok > small-for-all");
	gets_text("n2", "small-for-all", "ok\n");
	gets_text("n3", "small-for-all", "ok\n");
	assert_int_equal(lab_slow(lab, "n4", "off", &err), 0);
	everywhere_equal();
}

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(saved_while_a_target_was_away),
		cmocka_unit_test(saved_on_both_sides),
		cmocka_unit_test(the_source_is_cut_off_while_it_sends),
		cmocka_unit_test(each_in_turn_under_load),
		cmocka_unit_test(who_is_away_is_said),
		cmocka_unit_test(a_slow_link_delays_only_its_node),
	};
	return STORIES("cut", ((struct lab_options){.nodes = 4, .groups = 2, .netns = true}), stories);
}
