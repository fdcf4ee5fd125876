/* SPDX-License-Identifier: Apache-2.0 */
/* A change that cannot be applied at one node is set aside there: what was saved is not lost for that, whatever is compared and rescanned
 * meanwhile. The directory of n2's store is immutable while the change comes. All nodes save. */
#include "tests/cluster/story.h"

#include <stdlib.h>
#include <string.h>

static void immutable(const char *dir)
{
	shell("n2", "chattr +i %s/%s", lab_store(lab, "n2"), dir);
}

static void writable(const char *dir)
{
	shell("n2", "chattr -i %s/%s", lab_store(lab, "n2"), dir);
}

/* n2's vector covers it, and n2 does not have it: that is what a removal past the mount looks like. */
static void a_rescan_does_not_take_it_for_a_removal(void **state)
{
	_cleanup_free_ char *said = NULL;
	make_directory("n1", "rescan");
	everywhere_equal();
	int64_t before = counter("n2", "quarantined");
	immutable("rescan");
	save("n1", "rescan/new", "saved");
	counts("n2", "quarantined", before + 1);
	int status = shell_status("n1", &said, "cdmctl rescan " LAB_SET ":rescan --node n2");
	writable("rescan");
	assert_int_equal(status, 0);
	if (!strstr(said, "gone 0   set aside before 1, fetched again"))
		fail_msg("cdmctl rescan said: %s", said);
	shell("n1", "cdmctl rescan " LAB_SET ":rescan --node n2");
	gets_text("n2", "rescan/new", "saved");
	everywhere_equal();
	has_text("n1", "rescan/new", "saved");
}

static bool is_at_n1(void)
{
	return shell_status("n1", NULL, "cat relay/only %s/.cdmfs/conflicts/* 2>/dev/null | grep -qx mine", lab_store(lab, "n1")) == 0;
}

/* Set aside by a relay: whoever is behind it never got it, and knows it by its vector. Its author, compared with such a node after a conflict, has the only copy. */
static void the_only_copy_is_kept_where_it_was_made(void **state)
{
	administrator("route", "set", LAB_SET, "n2", "--parent", "n3", NULL);
	administrator("route", "set", LAB_SET, "n1", "--parent", "n2", NULL);
	make_directory("n1", "relay");
	everywhere_equal();
	int64_t before = counter("n2", "quarantined");
	immutable("relay");
	save("n1", "relay/only", "mine\n");
	counts("n2", "quarantined", before + 1);
	writable("relay");
	administrator("route", "set", LAB_SET, "n1", "--parent", "n3", NULL);
	shell("n1", "touch %s/.cdmfs/doubt", lab_store(lab, "n1")); /* authors met, and that is not settled yet */
	node_killed("n1");
	node_started("n1");
	counts("n1", "verify_count", 1);
	comes_about("cdmfs-stat " LAB_SET " --json | jq -e '.nodes[] | select(.name == \"n1\") | .state == \"in sync\"'");
	assert_true(is_at_n1());
}

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(a_rescan_does_not_take_it_for_a_removal),
		cmocka_unit_test(the_only_copy_is_kept_where_it_was_made),
	};
	stories_alter = true; /* n3 lacks what n1 signed */
	return STORIES("set_aside", ((struct lab_options){.nodes = 3}), stories);
}
