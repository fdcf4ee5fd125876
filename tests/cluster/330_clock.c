/* SPDX-License-Identifier: Apache-2.0 */
/* A node whose clock is wrong by 400 days, and jumps: order does not depend on it, what was saved last stays last everywhere, also where trees are
 * compared; the others say whose clock it is. Only n2 goes by the wrong clock (common/faultpoint.h). */
#include "tests/cluster/story.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DAYS_400 (400ll * 86400)

static char clock_file[600];

static void clock_of_n2_is_wrong_by(long long seconds)
{
	char text[32], temporary[640];
	snprintf(text, sizeof text, "%lld\n", seconds);
	snprintf(temporary, sizeof temporary, "%s.new", clock_file);
	int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	assert_true(fd >= 0 && write(fd, text, strlen(text)) > 0 && close(fd) == 0 && rename(temporary, clock_file) == 0);
}

static void n2_is_started_with_it(void)
{
	node_killed("n2");
	setenv("CDMFS_CLOCK_FILE", clock_file, 1);
	node_started("n2");
	unsetenv("CDMFS_CLOCK_FILE");
}

static bool is_said(void *arg, char *seen)
{
	int status = shell_status("n1", NULL, "grep -h event=clock_ahead %s/logs/n[13]-replicator.log | grep -q 'peer=\"n[123]\"'", lab_dir(lab));
	snprintf(seen, 512, "clock_ahead in the logs of n1 and n3: %s", status == 0 ? "yes" : "no");
	return status == 0;
}

/* Each node overwrites what the one before saved. */
static void the_last_one_wins_everywhere(const char *path)
{
	static const char *const authors[] = {"n2", "n1", "n3", "n2", "n1"};
	for (size_t i = 0; i < sizeof authors / sizeof *authors; i++) {
		char text[32];
		snprintf(text, sizeof text, "%zu by %s", i, authors[i]);
		save(authors[i], path, text);
		for (unsigned k = 0; k < lab_node_count(lab); k++)
			gets_text(lab_node_name(lab, k), path, text);
	}
	everywhere_equal();
}

static void ahead(void **state)
{
	struct cdm_error err = CDM_ERROR_INIT;
	snprintf(clock_file, sizeof clock_file, "%s/clock", lab_dir(lab));
	clock_of_n2_is_wrong_by(DAYS_400);
	n2_is_started_with_it();
	the_last_one_wins_everywhere("ahead");
	if (lab_wait_for(is_said, NULL, STORY_MS, "somebody says that a clock is ahead", &err) < 0)
		fail_msg("%s", err.text);
	save("n2", "from-the-future", "by n2");
	everywhere_equal();
}

static void it_jumps_back_while_all_runs(void **state)
{
	clock_of_n2_is_wrong_by(0);
	the_last_one_wins_everywhere("ahead");
	save("n1", "from-the-future", "by n1, who has seen it");
	gets_text("n2", "from-the-future", "by n1, who has seen it");
	everywhere_equal();
}

/* A node that has lost its journal compares trees: there clocks are looked at. */
static void trees_that_are_compared_keep_what_was_saved_last(void **state)
{
	save("n1", "compared", "first");
	everywhere_equal();
	killed("n3", LAB_REPLICATOR);
	save("n1", "from-the-future", "by n1, the second time");
	node_killed("n3");
	shell("n1", "rm -f %s/.cdmfs/journal/*.log; umount -l %s %s 2> /dev/null; rm -rf %s/*; true", lab_store(lab, "n3"), lab_mount(lab, "n3"),
		lab_run_dir(lab, "n3"), lab_run_dir(lab, "n3"));
	node_started("n3");
	gets_text("n3", "from-the-future", "by n1, the second time");
	everywhere_equal();
	has_text("n1", "from-the-future", "by n1, the second time");
}

static void behind(void **state)
{
	clock_of_n2_is_wrong_by(-DAYS_400);
	the_last_one_wins_everywhere("ahead");
	n2_is_started_with_it();
	the_last_one_wins_everywhere("ahead");
	the_last_one_wins_everywhere("behind");
	save("n2", "from-the-future", "by n2, in the past");
	gets_text("n1", "from-the-future", "by n2, in the past");
	everywhere_equal();
}

/* Both changed it without knowing of each other: one wins everywhere, the other is kept. */
static void authors_who_did_not_know_of_each_other(void **state)
{
	unsigned kept = 0;
	clock_of_n2_is_wrong_by(DAYS_400);
	save("n1", "shared", "by nobody yet");
	everywhere_equal();
	killed("n2", LAB_REPLICATOR);
	save("n1", "shared", "by n1, now");
	save("n2", "shared", "by n2, in 400 days");
	gets_text("n3", "shared", "by n1, now");
	setenv("CDMFS_CLOCK_FILE", clock_file, 1);
	started("n2", LAB_REPLICATOR);
	unsetenv("CDMFS_CLOCK_FILE");
	everywhere_equal();
	for (unsigned i = 0; i < lab_node_count(lab); i++)
		kept += kept_files(lab_node_name(lab, i), "conflicts");
	assert_true(kept > 0);
	the_last_one_wins_everywhere("shared");
}

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(ahead),
		cmocka_unit_test(it_jumps_back_while_all_runs),
		cmocka_unit_test(trees_that_are_compared_keep_what_was_saved_last),
		cmocka_unit_test(behind),
		cmocka_unit_test(authors_who_did_not_know_of_each_other),
	};
	return STORIES("clock", ((struct lab_options){.nodes = 3}), stories);
}
