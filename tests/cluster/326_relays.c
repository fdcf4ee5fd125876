/* SPDX-License-Identifier: Apache-2.0 */
/* A source below nodes that only receive: they carry what it makes, whichever of them it is fed by at the moment, and nobody loses anything where routes
 * of different age meet. What is tried by a node that carries nothing: 320_hostile_peer. */
#include "tests/cluster/held.h"
#include "tests/cluster/story.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* n1 is the root and writes, n4 writes, n2 and n3 receive. */

static void holds_route(const char *node, const char *filter)
{
	comes_about("jq -e '.sets[0] | %s' %s/%s/state/routes.json", filter, lab_dir(lab), node);
}

/* Not by the table: where the set goes just now. */
static void is_fed_by(const char *node, const char *parent)
{
	comes_about("grep 'event=set_up.*as=\"parent\"' %s/logs/%s-replicator.log | tail -n 1 | grep -q 'peer=\"%s\"'", lab_dir(lab), node, parent);
}

static void fed_by(const char *node, const char *parent)
{
	administrator("route", "set", LAB_SET, node, "--parent", parent, NULL);
	is_fed_by(node, parent);
}

static void a_target_carries_a_source(void **state)
{
	fed_by("n3", "n1");
	fed_by("n2", "n1");
	fed_by("n4", "n2");
	holds_route("n1", ".members[] | select(.name == \"n2\") | .brings");
	make_directory("n4", "below");
	save("n4", "below/a", "of n4");
	shell("n4", "head -c 3M /dev/urandom > below/large");
	gets_text("n1", "below/a", "of n4");
	everywhere_equal();
}

static void also_one_that_it_took_by_itself(void **state)
{
	killed(NULL, LAB_MASTER);
	killed("n2", LAB_REPLICATOR);
	killed("n1", LAB_REPLICATOR); /* of n4's alternates n3 is left */
	save("n4", "below/b", "by itself");
	is_fed_by("n4", "n3");
	gets_text("n3", "below/b", "by itself");
	started("n1", LAB_REPLICATOR);
	gets_text("n1", "below/b", "by itself");
	started("n2", LAB_REPLICATOR);
	started(NULL, LAB_MASTER);
	is_fed_by("n4", "n2");
	everywhere_equal();
}

static void also_after_it_was_moved(void **state)
{
	save("n4", "below/c", "before");
	fed_by("n4", "n3");
	save("n4", "below/c", "after");
	gets_text("n1", "below/c", "after");
	everywhere_equal();
}

/* n1 holds a table by which n3 brings nothing, as it would be if n4 had just come there; the master cannot correct it. */
static void with_an_older_table_it_waits_and_is_not_lost(void **state)
{
	killed(NULL, LAB_MASTER);
	killed("n1", LAB_REPLICATOR);
	shell("n1", "f=%s/n1/state/routes.json; jq -c '(.sets[0].members[] | select(.role == \"target\") | .brings) = false' $f > $f.new && mv $f.new $f",
		lab_dir(lab));
	started("n1", LAB_REPLICATOR);
	save("n1", "below/down", "of n1");
	gets_text("n4", "below/down", "of n1");
	save("n4", "below/d", "waits");
	save("n4", "below/e", "waits");
	gets_text("n3", "below/e", "waits");
	comes_about("grep 'event=change_passed_over' %s/logs/n1-replicator.log | grep 'peer=\"n3\"' | grep 'path=\"below/d\"' | grep -q 'origin=\"n4:'", lab_dir(lab));
	absent("n1", "below/d");
	started(NULL, LAB_MASTER);
	gets_text("n1", "below/d", "waits");
	gets_text("n1", "below/e", "waits");
	everywhere_equal();
}

/* n1 is away when n4 loses the right. Afterwards nobody behind n3 may write; but until then it carried what n4 made. */
static void what_was_sent_in_time_comes_through(void **state)
{
	cut("n1");
	save("n4", "below/in-time", "of n4");
	gets_text("n3", "below/in-time", "of n4");
	administrator("set", "change", LAB_SET, "--both", "n1", "--target", "n2,n3,n4", NULL);
	holds_route("n3", ".members | map(select(.role == \"both\").name) == [\"n1\"]");
	healed("n1");
	gets_text("n1", "below/in-time", "of n4");
	everywhere_equal();
	administrator("set", "change", LAB_SET, "--both", "n1,n4", "--target", "n2,n3", NULL);
	holds_route("n4", ".role == \"both\"");
	holds_route("n3", ".members[] | select(.name == \"n4\") | .role == \"both\"");
	comes_about("touch %s/below/writable", lab_mount(lab, "n4"));
	save("n4", "below/again", "of n4");
	gets_text("n1", "below/again", "of n4");
	everywhere_equal();
}

/* What n4 saves after it lost the right is left out by n3; that n1 need not wait for it n3 must be able to tell, though it brings nothing any more. */
static void what_comes_too_late_is_left_out_behind_a_relay(void **state)
{
	killed("n4", LAB_REPLICATOR);
	save("n4", "below/late", "nobody has it");
	save("n4", "below/c", "changed too late");
	administrator("set", "change", LAB_SET, "--both", "n1", "--target", "n2,n3,n4", NULL);
	holds_route("n1", ".members | map(select(.brings).name) == [\"n1\"]");
	killed("n1", LAB_REPLICATOR); /* it forgets that the others brought something a moment ago */
	started("n1", LAB_REPLICATOR);
	started("n4", LAB_REPLICATOR);
	becomes_absent("n4", "below/late");
	gets_text("n4", "below/c", "after");
	everywhere_equal();
	has_text("n1", "below/c", "after");
	assert_int_equal(kept_files("n4", "conflicts"), 2);
}

/* The only source has nothing left but its targets. */
static void a_source_gets_everything_back_from_targets(void **state)
{
	save("n1", "below/f", "of n1");
	everywhere_equal();
	node_killed("n1");
	shell("n2", "cd %s/n1 && find store -mindepth 1 -delete", lab_dir(lab));
	node_started("n1");
	gets_text("n1", "below/f", "of n1");
	gets_text("n1", "below/c", "after");
	everywhere_equal();
	save("n1", "below/g", "with the new disk");
	gets_text("n4", "below/g", "with the new disk");
	everywhere_equal();
}

/* What n1 told the targets since its last checkpoint is gone from its journal, as after a power cut. They may not write, but it was n1 that wrote it. */
static void the_only_source_takes_back_what_it_lost(void **state)
{
	char path[64], fifo[128];
	snprintf(path, sizeof path, "/tmp/cdmfs-relays-%d", getpid());
	snprintf(fifo, sizeof fifo, "%s.durable.synced_not_marked", path); /* common/faultpoint.h: no checkpoint is finished any more */
	killed("n1", LAB_REPLICATOR);
	setenv("CDMFS_FAULTPOINT_FILE", path, 1);
	started("n1", LAB_REPLICATOR);
	unsetenv("CDMFS_FAULTPOINT_FILE");
	everywhere_equal();
	assert_int_equal(mkfifo(fifo, 0600), 0);
	save("n1", "below/lost", "told, and forgotten");
	remove_file("n1", "below/f");
	becomes_absent("n4", "below/f");
	node_killed("n1");
	unlink(fifo);
	shell("n2", "cd / && umount -l %s %s/full %s; rm -rf %s/n1/run/*", lab_mount(lab, "n1"), lab_run_dir(lab, "n1"), lab_run_dir(lab, "n1"), lab_dir(lab));
	shell("n2", "cp %s/logs/n1-replicator.log %s/log-before", lab_dir(lab), lab_dir(lab));
	node_started("n1");
	gets_text("n1", "below/lost", "told, and forgotten");
	everywhere_equal();
	absent("n1", "below/f");
	shell("n2", "grep -q event=incarnation_new %s/logs/n1-cdmfs.log", lab_dir(lab));
	shell("n2", "cd %s; passed_over() { grep -c event=change_passed_over $1; }; [ $(passed_over log-before) = $(passed_over logs/n1-replicator.log) ]", lab_dir(lab));
}

/* n2, in need of what the first change builds on, gets what the second one brings there. Both are what n1 did, and no conflict. */
static void a_rename_to_where_it_is_already_is_passed_on(void **state)
{
	fed_by("n2", "n1");
	started_to_be_held("n2");
	shell("n1", "mkdir ended && head -c 100k /dev/urandom > ended/page && echo x > ended/next");
	everywhere_equal();
	int64_t before = counter("n2", "conflicts");
	shell("n2", "rm %s/ended/page", lab_store(lab, "n2"));
	hold("receive.batch_whole_not_applied");
	shell("n1", "echo more >> ended/page");
	int there = arrived("receive.batch_whole_not_applied");
	shell("n1", "echo end > ended/next && mv ended/next ended/page");
	close(there);
	everywhere_equal();
	has_text("n4", "ended/page", "end\n");
	assert_int_equal(counter("n2", "conflicts"), before);
	remove_tree("n1", "ended");
}

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(a_target_carries_a_source),
		cmocka_unit_test(also_one_that_it_took_by_itself),
		cmocka_unit_test(also_after_it_was_moved),
		cmocka_unit_test(with_an_older_table_it_waits_and_is_not_lost),
		cmocka_unit_test(what_was_sent_in_time_comes_through),
		cmocka_unit_test(what_comes_too_late_is_left_out_behind_a_relay),
		cmocka_unit_test(a_source_gets_everything_back_from_targets),
		cmocka_unit_test(a_rename_to_where_it_is_already_is_passed_on),
		cmocka_unit_test(the_only_source_takes_back_what_it_lost),
	};
	return STORIES("relays", ((struct lab_options){.nodes = 4, .sources = "n1,n4", .netns = true}), stories);
}
