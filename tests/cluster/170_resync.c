/* SPDX-License-Identifier: Apache-2.0 */
/* A node was away for longer than the journal reaches back: both trees are compared, with removals, and with what was saved on the
 * other side meanwhile. */
#include "tests/cluster/outrun.h"
#include "tests/cluster/story.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void removals_and_changes_are_found(void **state)
{
	shell("n1", "rm -rf tree gone && mkdir -p tree/sub && for i in $(seq 300); do echo $i > tree/file-$i; done && echo x > tree/sub/file && mkdir gone && "
		    "echo x > gone/file");
	everywhere_equal();
	killed("n3", LAB_REPLICATOR);
	shell("n1", "rm -rf gone tree/file-10? && mv tree/sub tree/renamed && for i in $(seq 50); do echo new > tree/file-$i; done && "
		    "chmod 600 tree/file-60 && ln tree/file-61 tree/link");
	outrun_the_journal("n1", "n2");
	shell("n1", "echo after > tree/after");
	started("n3", LAB_REPLICATOR);
	everywhere_equal();
	assert_true(counter("n3", "full_resync_count") > 0);
	absent("n3", "gone");
	has_text("n3", "tree/after", "after\n");
}

static void what_the_other_side_saved_is_shipped_not_removed(void **state)
{
	shell("n1", "mkdir -p tree && echo old > tree/file-200");
	everywhere_equal();
	killed("n3", LAB_REPLICATOR);
	shell("n3", "mkdir own && echo mine > own/file && echo mine > tree/own && echo changed > tree/file-200; true");
	shell("n1", "echo other > tree/other");
	outrun_the_journal("n1", "n2");
	started("n3", LAB_REPLICATOR);
	everywhere_equal();
	has_text("n1", "own/file", "mine\n");
	has_text("n2", "tree/own", "mine\n");
	has_text("n3", "tree/other", "other\n");
}

static void the_other_side_outran_its_journal_too(void **state)
{
	shell("n1", "mkdir set-here set-there set-both filled");
	everywhere_equal();
	killed("n3", LAB_REPLICATOR);
	shell("n3", "touch -d 2001-01-01 set-there set-both && chmod 750 . && touch -d 2001-01-01 filled");
	outrun_the_journal("n3", NULL);
	shell("n3", "echo late > from-n3 && echo late > filled/from-n3");
	shell("n1", "touch -d 2002-01-01 set-here set-both");
	outrun_the_journal("n1", "n2");
	shell("n1", "echo late > from-n1");
	started("n3", LAB_REPLICATOR);
	everywhere_equal();
	shell("n1", "test $(stat -c %%y set-here set-there set-both | cut -d- -f1 | paste -sd ' ' | tr ' ' -) = 2002-2001-2002 && test $(stat -c %%a .) = 750 && chmod 755 .");
	shell("n3", "test $(stat -c %%Y filled) -gt 1100000000");
	has_text("n1", "from-n3", "late\n");
	has_text("n3", "from-n1", "late\n");
}

struct saying {
	const char *command, *begins;
	char *said;
};

static bool says(void *arg, char *seen)
{
	struct saying *s = arg;
	free(s->said);
	s->said = NULL;
	int status = shell_status("n3", &s->said, "%s", s->command);
	snprintf(seen, 512, "%.400s", s->said);
	return status == 0 && strncmp(s->said, s->begins, strlen(s->begins)) == 0;
}

/* Ask at n3 until the answer begins so; its first word, which the caller frees. */
static char *comes_to_say(const char *command, const char *begins)
{
	struct cdm_error err = CDM_ERROR_INIT;
	struct saying s = {command, begins, NULL};
	if (lab_wait_for(says, &s, STORY_MS, begins, &err) < 0)
		fail_msg("%s", err.text);
	s.said[strcspn(s.said, " ")] = 0;
	return s.said;
}

/* n3 is away while n1 removes what was much, for longer than the journals tell. */
static void much_is_removed(void)
{
	shell("n1", "mkdir -p passing mass/sub && for i in $(seq 1100); do echo $i > mass/$i; done && echo x > mass/sub/file && ln -s 1 mass/link");
	everywhere_equal();
	killed("n3", LAB_REPLICATOR);
	shell("n1", "rm -r mass");
	becomes_absent("n2", "mass");
	outrun_the_journal("n1", "n2");
	save("n1", "passing/file", "comes to n3 with the comparison");
	gets_text("n2", "passing/file", "comes to n3 with the comparison");
	started("n3", LAB_REPLICATOR);
}

static void a_removal_of_much_is_rejected(void **state)
{
	much_is_removed();
	_cleanup_free_ char *held = comes_to_say("cdm-replicator hold list", "H");
	has_text("n3", "mass/1100", "1100\n");
	absent("n1", "mass");
	shell("n3", "! cdm-replicator hold approve H1 2> /dev/null");
	gets_text("n3", "passing/file", "comes to n3 with the comparison");
	remove_tree("n1", "passing"); /* what somebody removes meanwhile is none of what was rejected */
	becomes_absent("n2", "passing");
	shell("n3", "cdm-replicator hold reject %s", held);
	everywhere_equal();
	has_text("n1", "mass/1100", "1100\n");
	has_text("n2", "mass/sub/file", "x\n");
	absent("n1", "passing");
}

static void a_removal_of_much_is_approved(void **state)
{
	remove_tree("n1", "mass");
	everywhere_equal();
	much_is_removed();
	_cleanup_free_ char *held = comes_to_say("cdmctl hold list", "H");
	administrator("hold", "approve", held, NULL);
	everywhere_equal();
	absent("n3", "mass");
	free(comes_to_say("cdmctl hold list", "nothing is held"));
}

/* n3 feeds the others. While it waits for a decision it takes in nothing, so they feed each other; what n3 compares with goes on. */
static void a_removal_of_much_is_held_at_the_root(void **state)
{
	administrator("route", "set", LAB_SET, "n1", "--parent", "n3", NULL);
	administrator("route", "set", LAB_SET, "n2", "--parent", "n3", NULL);
	everywhere_equal();
	much_is_removed();
	_cleanup_free_ char *held = comes_to_say("cdm-replicator hold list", "H");
	save("n1", "from-n1", "while n3 waits");
	gets_text("n2", "from-n1", "while n3 waits");
	save("n2", "from-n2", "while n3 waits");
	gets_text("n1", "from-n2", "while n3 waits");
	save("n3", "from-n3", "what it makes itself goes out");
	gets_text("n1", "from-n3", "what it makes itself goes out");
	has_text("n3", "mass/1100", "1100\n");
	killed("n1", LAB_REPLICATOR); /* who has the same to tell as n2 */
	started("n1", LAB_REPLICATOR);
	_cleanup_free_ char *still = NULL;
	assert_true(asprintf(&still, "cdm-replicator hold list | grep ^%s", held) > 0);
	free(comes_to_say(still, held));
	shell("n3", "cdm-replicator hold approve %s", held);
	everywhere_equal();
	absent("n3", "mass");
	free(comes_to_say("cdm-replicator hold list", "nothing is held"));
	has_text("n3", "from-n1", "while n3 waits");
	administrator("route", "set", LAB_SET, "n1", "--auto", NULL);
	administrator("route", "set", LAB_SET, "n2", "--auto", NULL);
}

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(removals_and_changes_are_found),
		cmocka_unit_test(what_the_other_side_saved_is_shipped_not_removed),
		cmocka_unit_test(the_other_side_outran_its_journal_too),
		cmocka_unit_test(a_removal_of_much_is_rejected),
		cmocka_unit_test(a_removal_of_much_is_approved),
		cmocka_unit_test(a_removal_of_much_is_held_at_the_root),
	};
	return STORIES("resync", ((struct lab_options){.nodes = 3, .journal = OUTRUN_JOURNAL}), stories);
}
