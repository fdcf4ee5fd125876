/* SPDX-License-Identifier: Apache-2.0 */
/* Somebody writes to a store past its mount: `cdmctl rescan` finds it. On a target it is repaired and a copy kept, on the source it becomes
 * a change; what authors do meanwhile through the mounts is never taken for it. n1 saves, n2 and n3 are pure targets. */
#include "tests/cluster/story.h"

#include <stdlib.h>
#include <string.h>

/* Below directory `dir` of a node's store: one file written in place, one replaced, one removed, one and a directory made, a mode changed. */
static void written_past_the_mount(const char *node, const char *dir)
{
	shell(node, "cd %s/%s && echo HACKED > a && rm b && sed -i s/content/sedded/ c && chmod 600 e && echo extra > extra && mkdir nd && echo x > nd/x",
		lab_store(lab, node), dir);
}

static void made(const char *dir)
{
	shell("n1", "mkdir %s && cd %s && for i in a b c e f; do echo content-$i > $i; done", dir, dir);
	everywhere_equal();
}

/* cdmctl rescan, and the numbers it tells of one node. */
struct counts {
	int changed, fresh, gone;
};

static struct counts rescanned(const char *node, const char *arguments)
{
	_cleanup_free_ char *said = NULL;
	struct counts c = {-1, -1, -1};
	int status = shell_status("n1", &said, "cdmctl rescan --node %s %s", node, arguments);
	const char *figures = strstr(said, "changed ");
	if (status != 0 || !figures || sscanf(figures, "changed %d   new %d   gone %d", &c.changed, &c.fresh, &c.gone) != 3)
		fail_msg("cdmctl rescan --node %s %s ended with %d: %s", node, arguments, status, said);
	return c;
}

static void found(struct counts c, int changed, int fresh, int gone)
{
	assert_int_equal(c.changed, changed);
	assert_int_equal(c.fresh, fresh);
	assert_int_equal(c.gone, gone);
}

static void a_target_is_repaired_and_a_copy_kept(void **state)
{
	made("target");
	has_text("n2", "target/a", "content-a\n"); /* the kernel knows it, and that nothing else is there */
	absent("n2", "target/extra");
	written_past_the_mount("n2", "target");
	found(rescanned("n2", LAB_SET ":target --dry-run"), 3, 3, 1);
	found(rescanned("n2", LAB_SET ":target/f"), 0, 0, 0);
	has_text("n2", "target/a", "content-a\n");
	found(rescanned("n2", LAB_SET ":target"), 3, 3, 1);
	gets_text("n2", "target/b", "content-b\n");
	everywhere_equal();
	assert_int_equal(kept_files("n2", "conflicts"), 4); /* a, c, extra, nd/x */
	shell("n2", "grep -rq HACKED %s/.cdmfs/conflicts", lab_store(lab, "n2"));
	found(rescanned("n2", LAB_SET), 0, 0, 0);
	found(rescanned("n3", LAB_SET), 0, 0, 0);
}

static void what_is_written_at_the_source_is_sent(void **state)
{
	made("source");
	has_text("n1", "source/a", "content-a\n");
	absent("n1", "source/extra");
	written_past_the_mount("n1", "source");
	found(rescanned("n1", LAB_SET ":source"), 3, 3, 1);
	has_text("n1", "source/a", "HACKED\n");
	has_text("n1", "source/nd/x", "x\n");
	absent("n1", "source/b");
	gets_text("n3", "source/nd/x", "x\n");
	everywhere_equal();
	has_text("n2", "source/a", "HACKED\n");
	has_text("n2", "source/c", "sedded-c\n");
	absent("n2", "source/b");
	found(rescanned("n1", LAB_SET), 0, 0, 0);
}

static void what_authors_do_is_not_taken_for_it(void **state)
{
	make_directory("n1", "busy");
	struct load *load = load_begin("n1", "busy", 8, LOAD_MIXED);
	for (int i = 0; i < 10; i++)
		for (unsigned k = 0; k < lab_node_count(lab); k++)
			found(rescanned(lab_node_name(lab, k), LAB_SET), 0, 0, 0);
	assert_true(load_end(load) > 0);
	everywhere_equal();
}

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(a_target_is_repaired_and_a_copy_kept),
		cmocka_unit_test(what_is_written_at_the_source_is_sent),
		cmocka_unit_test(what_authors_do_is_not_taken_for_it),
	};
	return STORIES("rescan", ((struct lab_options){.nodes = 3, .sources = "n1"}), stories);
}
