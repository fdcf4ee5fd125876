/* SPDX-License-Identifier: Apache-2.0 */
/* What happens to an installation over the years: yesterday's master is restored, everything goes down at once and comes back with the master
 * last, a node is removed and its machine joins again. */
#include "tests/cluster/story.h"

#include <string.h>

static bool log_says(void *arg, char *seen)
{
	const char *const *a = arg; /* node, word */
	_cleanup_free_ char *said = NULL;
	int status = shell_status(a[0], &said, "grep -F '%s' %s/logs/%s-replicator.log", a[1], lab_dir(lab), a[0]);
	snprintf(seen, 512, "%s's log does not say it", a[0]);
	return status == 0;
}

static void comes_to_log(const char *node, const char *word)
{
	struct cdm_error err = CDM_ERROR_INIT;
	const char *a[] = {node, word};
	if (lab_wait_for(log_says, a, STORY_MS, word, &err) < 0)
		fail_msg("%s", err.text);
}

static void yesterdays_master_is_restored(void **state)
{
	struct cdm_error err = CDM_ERROR_INIT;
	const char *fourth = NULL, *fifth = NULL;
	killed(NULL, LAB_MASTER);
	shell("n1", "cd %s && cp -a master yesterday", lab_dir(lab));
	started(NULL, LAB_MASTER);
	if (lab_add_node(lab, NULL, &fourth, &err) < 0 || lab_wait_ready(lab, STORY_MS, &err) < 0)
		fail_msg("%s", err.text);
	everywhere_equal();
	save(fourth, "from-the-fourth", "saved before the disaster");
	administrator("set", "change", LAB_SET, "--exclude", "*.today", NULL);
	everywhere_equal();
	killed(NULL, LAB_MASTER);
	shell("n1", "cd %s && mv master lost && mv yesterday master", lab_dir(lab));
	started(NULL, LAB_MASTER);
	save("n1", "after", "the disaster"); /* content goes on among those that the master knows */
	gets_text("n3", "after", "the disaster");
	comes_to_log(fourth, "certificate is not valid any more"); /* it joined after the backup */
	for (unsigned i = 0; i < 3; i++) {
		const char *node = lab_node_name(lab, i);
		comes_to_log(node, "event=route_older");
		comes_about("jq -e '.sets[0].exclude | length == 0' %s/%s/state/routes.json", lab_dir(lab), node);
	}
	comes_about("test \"$(grep 'event=policy_loaded' %s/logs/n2-cdmfs.log | tail -n 1 | grep -o 'epoch=[0-9]*')\" = \"epoch=$(jq .epoch %s/n2/state/routes.json)\"",
		lab_dir(lab), lab_dir(lab));
	save("n2", "a.today", "excluded only tomorrow"); /* the policy is yesterday's, too */
	gets_text("n3", "a.today", "excluded only tomorrow");
	absent(fourth, "a.today");
	if (lab_add_node(lab, NULL, &fifth, &err) < 0)
		fail_msg("%s", err.text);
	gets_text(fifth, "from-the-fourth", "saved before the disaster");
	shell("n1", "cdmctl node show %s | grep -q 'number 5'", fifth); /* not the fourth's, whose changes bear it */
	save(fifth, "from-the-fifth", "x");
	gets_text("n1", "from-the-fifth", "x");
}

static void all_go_down_and_the_master_comes_back_last(void **state)
{
	save("n1", "before-the-cut", "x");
	for (unsigned i = 0; i < 3; i++)
		node_killed(lab_node_name(lab, i));
	killed(NULL, LAB_MASTER);
	for (unsigned i = 0; i < 3; i++) {
		struct cdm_error err = CDM_ERROR_INIT;
		if (lab_start_node(lab, lab_node_name(lab, i), &err) < 0)
			fail_msg("%s", err.text);
	}
	save("n2", "without-the-master", "is saved");
	gets_text("n1", "without-the-master", "is saved");
	gets_text("n3", "without-the-master", "is saved");
	assert_int_equal(stat_wait("n2", "--timeout 30", NULL), 0);
	started(NULL, LAB_MASTER);
	save("n3", "with-the-master", "is saved, too");
	gets_text("n1", "with-the-master", "is saved, too");
}

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(yesterdays_master_is_restored),
		cmocka_unit_test(all_go_down_and_the_master_comes_back_last),
	};
	return STORIES("operations", ((struct lab_options){.nodes = 3}), stories);
}
