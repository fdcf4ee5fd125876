/* SPDX-License-Identifier: Apache-2.0 */
/* A node that joins gets the full tree, also while authors save, also when it was killed in the middle of it. */
#include "tests/cluster/held.h"
#include "tests/cluster/story.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *added(void)
{
	struct cdm_error err = CDM_ERROR_INIT;
	const char *name = NULL;
	if (lab_add_node(lab, NULL, &name, &err) < 0)
		fail_msg("add-node: %s", err.text);
	return name;
}

static void all_nodes_know_each_other(void)
{
	struct cdm_error err = CDM_ERROR_INIT;
	if (lab_wait_ready(lab, STORY_MS * 2, &err) < 0)
		fail_msg("%s", err.text);
}

static void it_gets_what_is_there(void **state)
{
	shell("n1", "mkdir -p a/b c && for i in $(seq 500); do echo $i > a/file-$i; done && ln a/file-1 a/b/link && ln -s x c/y && "
		    "head -c 20M /dev/urandom > large && chown 3:4 c && setfattr -n user.k -v v a/file-2 && touch -d 2001-01-01 a/b");
	in_sync();
	added();
	all_nodes_know_each_other();
	everywhere_equal();
}

static void it_may_save_at_once(void **state)
{
	save("n3", "a/by-the-new-one", "mine");
	everywhere_equal();
	has_text("n1", "a/by-the-new-one", "mine");
}

static void it_joins_while_others_save(void **state)
{
	struct load *load = load_begin("n1", "a", 8, LOAD_MIXED);
	added();
	save("n2", "a/when-it-had-joined", "x");
	gets_text("n4", "a/when-it-had-joined", "x");
	assert_true(load_end(load) > 0);
	all_nodes_know_each_other();
	everywhere_equal();
}

static void it_is_killed_while_it_gets_the_tree(void **state)
{
	const char *name = added();
	killed(name, LAB_REPLICATOR);
	started(name, LAB_REPLICATOR);
	killed(name, LAB_SERVER);
	started(name, LAB_SERVER);
	all_nodes_know_each_other();
	everywhere_equal();
}

/* Clock and origin of the root's attributes, as its stamp has them; the caller frees. */
static char *attributes_clock(const char *node)
{
	char *said = NULL;
	assert_int_equal(shell_status(node, &said, "getfattr --absolute-names -n trusted.cdmfs.version -e hex %s | sed -n 's/.*version=//p' | cut -c 51-82", lab_store(lab, node)), 0);
	return said;
}

/* Several calls set them; whoever reads the stamp between two of them must not take the old ones for new. */
static void attributes_are_new_before_their_clock_is(void **state)
{
	shell("n1", "chown 3:4 . && chmod 0750 .");
	in_sync();
	hold("publish.attributes_partly_set");
	setenv("CDMFS_FAULTPOINT_FILE", hold_path(), 1);
	const char *name = added();
	unsetenv("CDMFS_FAULTPOINT_FILE");
	int go_on = arrived("publish.attributes_partly_set");
	shell(name, "test $(stat -c %%u-%%a %s) = 3-755", lab_store(lab, name));
	_cleanup_free_ char *theirs = attributes_clock("n1"), *ours = attributes_clock(name);
	assert_string_not_equal(ours, theirs);
	killed(name, LAB_REPLICATOR);
	close(go_on);
	started(name, LAB_REPLICATOR);
	all_nodes_know_each_other();
	everywhere_equal();
	_cleanup_free_ char *now = attributes_clock(name);
	assert_string_equal(now, theirs);
}

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(it_gets_what_is_there),
		cmocka_unit_test(it_may_save_at_once),
		cmocka_unit_test(it_joins_while_others_save),
		cmocka_unit_test(it_is_killed_while_it_gets_the_tree),
		cmocka_unit_test(attributes_are_new_before_their_clock_is),
	};
	return STORIES("new_node", ((struct lab_options){.nodes = 2}), stories);
}
