/* SPDX-License-Identifier: Apache-2.0 */
/* `cdmctl set pause` and `node drain`: what a paused node saves waits in its journal, nothing reaches it, all of it is said; a drained
 * node still gets everything and is not waited for. n1 and n3 are in group g1, n2 and n4 in g2. */
#include "tests/cluster/story.h"

#include <string.h>

static void said(const char *node, int status, const char *command, const char *words[])
{
	_cleanup_free_ char *output = NULL;
	int got = shell_status(node, &output, "%s", command);
	for (size_t i = 0; words[i]; i++)
		if (!strstr(output, words[i]))
			fail_msg("`%s` at %s does not say \"%s\": %s", command, node, words[i], output);
	if (got != status)
		fail_msg("`%s` at %s ended with %d: %s", command, node, got, output);
}
#define SAID(node, status, command, ...) said(node, status, command, (const char *[]){__VA_ARGS__, NULL})

struct expected_state {
	const char *node, *command, *word;
};

static bool status_says(void *arg, char *seen)
{
	struct expected_state *e = arg;
	_cleanup_free_ char *output = NULL;
	shell_status(e->node, &output, "%s", e->command);
	snprintf(seen, 512, "%s at %s: %.400s", e->command, e->node, output);
	return strstr(output, e->word);
}

static void command_comes_to_say(const char *node, const char *command, const char *word)
{
	struct cdm_error err = CDM_ERROR_INIT;
	struct expected_state e = {node, command, word};
	if (lab_wait_for(status_says, &e, STORY_MS, word, &err) < 0)
		fail_msg("%s", err.text);
}

static void comes_to_say(const char *node, const char *word)
{
	command_comes_to_say(node, "cdmfs-stat " LAB_SET, word);
}

static void a_group_is_paused(void **state)
{
	save("n1", "before", "x");
	everywhere_equal();
	SAID("n1", 0, "cdmctl set pause " LAB_SET " --group g2 --dry-run", "(2 nodes)", "dry run");
	SAID("n1", 0, "cdmctl set pause " LAB_SET " --group g2", "www paused in g2 (2 nodes); saves are journaled");
	comes_to_say("n1", "paused");
	comes_to_say("n2", "paused");
	comes_to_say("n4", "paused");
	save("n1", "in-g1", "for g1 only");
	save("n2", "in-g2", "waits in the journal of n2");
	gets_text("n3", "in-g1", "for g1 only");
	SAID("n1", 0, "cdmfs-stat " LAB_SET " --wait --group g1", "on 2 of 2 in g1");
	SAID("n1", 3, "cdmfs-stat " LAB_SET, "the set is paused (cdmctl set resume)", "NOT IN SYNC (2 of 4)");
	command_comes_to_say("n1", "cdmctl status " LAB_SET, "paused since");
	SAID("n1", 3, "cdmfs-stat " LAB_SET " --wait --fail-fast", "paused");
	SAID("n1", 0, "cdmctl set show " LAB_SET, "@g2");
	absent("n2", "in-g1");
	absent("n4", "in-g1");
	absent("n4", "in-g2");
	absent("n1", "in-g2");
	SAID("n1", 0, "cdmctl set resume " LAB_SET " --group g2", "www resumed in g2 (2 nodes)");
	gets_text("n1", "in-g2", "waits in the journal of n2");
	gets_text("n4", "in-g1", "for g1 only");
	everywhere_equal();
	assert_int_equal(counter("n2", "full_resync_count") + counter("n4", "full_resync_count"), 0);
}

static void the_whole_set_is_paused_also_over_restarts(void **state)
{
	administrator("set", "pause", LAB_SET, NULL);
	comes_to_say("n2", "paused");
	comes_to_say("n1", "paused");
	SAID("n1", 5, "cdmctl set resume " LAB_SET " --group g1", "paused as a whole");
	killed("n1", LAB_REPLICATOR);
	killed(NULL, LAB_MASTER);
	struct cdm_error err = CDM_ERROR_INIT;
	assert_int_equal(lab_start(lab, "n1", LAB_REPLICATOR, &err), 0);
	for (int i = 0; i < 50; i++) {
		char path[32];
		snprintf(path, sizeof path, "paused-%d", i);
		save(i % 2 ? "n1" : "n2", path, path);
	}
	assert_int_equal(lab_start(lab, NULL, LAB_MASTER, &err), 0);
	comes_to_say("n1", "paused");
	absent("n2", "paused-1");
	absent("n1", "paused-2");
	administrator("set", "resume", LAB_SET, NULL);
	gets_text("n2", "paused-49", "paused-49");
	everywhere_equal();
}

static void a_drained_node_is_fed_but_feeds_nobody_and_is_not_waited_for(void **state)
{
	struct cdm_error err = CDM_ERROR_INIT;
	administrator("node", "drain", "n2", NULL);
	comes_to_say("n1", "drained");
	save("n1", "drained", "still fed");
	gets_text("n2", "drained", "still fed");
	SAID("n1", 0, "cdmctl route show " LAB_SET " --json | jq -e '[.nodes[] | select(.parent == \"n2\")] | length == 0'", "true");
	SAID("n2", 0, "cat drained && echo ' and serves' > by-n2", "still fed"); /* its mount stays, and saves */
	gets_text("n1", "by-n2", " and serves\n");
	killed("n2", LAB_REPLICATOR);
	save("n1", "drained", "without n2");
	SAID("n1", 0, "cdmfs-stat " LAB_SET " --wait --timeout 20", "on 3 of 3");
	SAID("n1", 0, "cdmfs-stat " LAB_SET, "drained", "in sync (3 of 3)");
	assert_int_equal(lab_start(lab, "n2", LAB_REPLICATOR, &err), 0);
	administrator("node", "undrain", "n2", NULL);
	gets_text("n2", "drained", "without n2");
	comes_to_say("n1", "in sync (4 of 4)");
	everywhere_equal();
}

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(a_group_is_paused),
		cmocka_unit_test(the_whole_set_is_paused_also_over_restarts),
		cmocka_unit_test(a_drained_node_is_fed_but_feeds_nobody_and_is_not_waited_for),
	};
	return STORIES("pause", ((struct lab_options){.nodes = 4, .groups = 2}), stories);
}
