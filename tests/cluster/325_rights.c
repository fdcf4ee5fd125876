/* SPDX-License-Identifier: Apache-2.0 */
/* A node loses the right to write while changes of its are on the way: nobody is locked out, what it had sent before stays valid, what comes too late is
 * left out everywhere and kept beside the store of its author. */
#include "tests/cluster/story.h"

#include <stdlib.h>
#include <string.h>

struct logged {
	const char *node, *word;
};

static bool is_logged(void *arg, char *seen)
{
	const struct logged *s = arg;
	int status = shell_status("n1", NULL, "grep -q '%s' %s/logs/%s-replicator.log", s->word, lab_dir(lab), s->node);
	snprintf(seen, 512, "%s in the log of %s: %s", s->word, s->node, status == 0 ? "yes" : "no");
	return status == 0;
}

static void logs(const char *node, const char *word)
{
	struct logged s = {node, word};
	struct cdm_error err = CDM_ERROR_INIT;
	if (lab_wait_for(is_logged, &s, STORY_MS, "a line in the log", &err) < 0)
		fail_msg("%s", err.text);
}

/* n3 is fed by nobody and may meet n2 first, who was refused, and n1 later, who took it. */
static void what_was_sent_in_time_reaches_who_was_away(void **state)
{
	make_directory("n2", "site");
	administrator("route", "set", LAB_SET, "n1", "--parent", "n3", NULL);
	administrator("route", "set", LAB_SET, "n2", "--parent", "n3", NULL);
	save("n2", "site/old", "of n2");
	everywhere_equal();
	killed("n3", LAB_REPLICATOR);
	save("n2", "site/in-time", "of n2");
	gets_text("n1", "site/in-time", "of n2");
	administrator("set", "change", LAB_SET, "--both", "n1,n3", "--target", "n2", NULL);
	logs("n2", "event=route_new");
	started("n3", LAB_REPLICATOR);
	gets_text("n3", "site/in-time", "of n2");
	everywhere_equal();
	administrator("route", "set", LAB_SET, "n1", "--auto", NULL);
	administrator("route", "set", LAB_SET, "n2", "--auto", NULL);
}

static void what_comes_too_late_is_left_out_and_kept(void **state)
{
	save("n3", "site/own", "of n3");
	everywhere_equal();
	killed("n3", LAB_REPLICATOR);
	save("n3", "site/late", "nobody has it");
	save("n3", "site/own", "changed too late");
	shell("n3", "rm site/in-time");
	administrator("set", "change", LAB_SET, "--both", "n1", "--target", "n2,n3", NULL);
	save("n1", "site/new", "of n1");
	gets_text("n2", "site/new", "of n1");
	started("n3", LAB_REPLICATOR);
	gets_text("n3", "site/new", "of n1");
	becomes_absent("n3", "site/late");
	gets_text("n3", "site/own", "of n3");
	gets_text("n3", "site/in-time", "of n2");
	everywhere_equal();
	absent("n1", "site/late");
	has_text("n1", "site/own", "of n3");
	assert_int_equal(kept_files("n3", "conflicts"), 2);
	shell("n3", "grep -rq 'nobody has it' %s/.cdmfs/conflicts", lab_store(lab, "n3"));
}

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(what_was_sent_in_time_reaches_who_was_away),
		cmocka_unit_test(what_comes_too_late_is_left_out_and_kept),
	};
	return STORIES("rights", ((struct lab_options){.nodes = 3}), stories);
}
