/* SPDX-License-Identifier: Apache-2.0 */
/* What travels of a rewritten file is what changed, and a base that is not what it should be is found out. */
#include "tests/cluster/held.h"
#include "tests/cluster/story.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "common/io.h"

#define MIB (1 << 20)

/* All nodes together. */
static int64_t total(const char *name)
{
	int64_t sum = 0;
	for (unsigned i = 0; i < lab_node_count(lab); i++)
		sum += counter(lab_node_name(lab, i), name);
	return sum;
}

static bool all_signed(void *arg, char *seen)
{
	int64_t waiting = total("signing");
	snprintf(seen, 512, "%lld saves wait for their signature", (long long)waiting);
	return !waiting;
}

/* Saved, shipped, and remembered by whoever ships it on. */
static void shipped(const char *command)
{
	struct cdm_error err = CDM_ERROR_INIT;
	int64_t before = total("signatures");
	shell("n1", "%s", command);
	everywhere_equal();
	if (lab_wait_for(all_signed, NULL, STORY_MS, "signatures of what was shipped", &err) < 0)
		fail_msg("%s", err.text);
	assert_true(total("signatures") > before);
}

/* Bytes of content that a command of n1 puts on all links together, until all are equal. */
static int64_t travels(const char *command)
{
	int64_t before = total("content_sent_bytes");
	shell("n1", "%s", command);
	everywhere_equal();
	return total("content_sent_bytes") - before;
}

#define LINKS (lab_node_count(lab) - 1)

/* Of the deltas since, those that relays sent: all as they came. */
static void relays_searched_nothing(int64_t sent_before, int64_t passed_before)
{
	int64_t relayed = total("deltas_sent") - counter("n1", "deltas_sent") - sent_before;
	assert_int_equal(total("deltas_passed_on") - passed_before, relayed);
}

static void an_insertion_and_a_rename_over(void **state)
{
	shipped("head -c 8M /dev/urandom > large");
	int64_t applied = total("deltas_applied"), relayed = total("deltas_sent") - counter("n1", "deltas_sent"), passed = total("deltas_passed_on");
	int64_t sent = travels("(head -c 1000000 large; head -c 100001 /dev/urandom; tail -c +1000001 large) > large.new && mv large.new large");
	assert_in_range(sent, LINKS * 100001, LINKS * (100001 + 4096));
	assert_int_equal(total("deltas_applied") - applied, LINKS);
	sent = travels("(head -c 2000000 large; tail -c +2000100 large; date) > large.new && mv large.new large");
	assert_in_range(sent, 1, LINKS * 8192);
	relays_searched_nothing(relayed, passed);
	assert_int_equal(total("deltas_refused"), 0);
	assert_int_equal(total("needs_sent"), 0);
}

/* What the deltas spared is in the answer of cdmfs-stat. */
static void the_cost_is_told(void **state)
{
	_cleanup_free_ char *said = NULL;
	shell_status("n1", &said, "cdmfs-stat " LAB_SET " --json");
	json_t *status = json_loads(said, 0, NULL), *cost = json_object_get(status, "cost");
	int64_t offered = json_integer_value(json_object_get(cost, "offered_bytes")), after = json_integer_value(json_object_get(cost, "after_delta_bytes"));
	assert_true(counter("n1", "deltas_sent") > 0);
	if (after <= 0 || offered - after < counter("n1", "delta_saved_bytes") || after > counter("n1", "content_sent_bytes"))
		fail_msg("%s", said);
	json_decref(status);
}

static void written_anew_in_place(void **state)
{
	shipped("seq 300000 > numbers");
	assert_in_range(travels("sed 's/^777$/something else/' numbers > /tmp/numbers.$$ && cat /tmp/numbers.$$ > numbers && rm /tmp/numbers.$$"), 1, LINKS * 4096);
	assert_int_equal(total("deltas_refused"), 0);
}

/* Its content changes in place at the receivers, too, however it travels: a delta, the whole in one frame or in many, holes. */
static void a_file_with_two_names_written_anew(void **state)
{
	shipped("head -c 100000 /dev/urandom > one && ln one two");
	assert_in_range(travels("cat one > /tmp/one.$$ && date >> /tmp/one.$$ && cat /tmp/one.$$ > two && rm /tmp/one.$$"), 1, LINKS * 4096);
	travels("head -c 90000 /dev/urandom > two");
	travels("head -c 600000 /dev/urandom > one");
	travels("exec 3> two && head -c 70000 /dev/urandom >&3 && truncate -s 500000 two && date >&3");
	travels("exec 3> one && truncate -s 300000 one && dd if=/dev/urandom of=/dev/fd/3 bs=4096 seek=50 count=1 conv=notrunc status=none");
	shell("n3", "test one -ef two");
	assert_int_equal(total("deltas_refused"), 0);
}

static void the_next_version_under_another_name(void **state)
{
	shipped("mkdir js && head -c 300000 /dev/urandom > js/app.3f2a.js");
	int64_t sent = travels("(echo '// next'; cat js/app.3f2a.js) > js/.app.77b1.js.tmp && mv js/.app.77b1.js.tmp js/app.77b1.js");
	assert_in_range(sent, 1, LINKS * 4096);
	assert_int_equal(total("deltas_refused"), 0);
}

/* Pages of one index have one name but for the number, and nothing else in common: each is remembered all the same. */
static void a_similar_name_without_similar_content(void **state)
{
	shipped("mkdir index && head -c 100000 /dev/urandom > index/index-1.html");
	shipped("head -c 1M /dev/urandom > index/index-2.html");  /* not even of a similar size */
	shipped("head -c 900000 /dev/urandom > index/index-3.html");
	for (int page = 1; page <= 3; page++) {
		char command[128];
		snprintf(command, sizeof command, "cd index && (cat index-%d.html && date) > .index.tmp && mv .index.tmp index-%d.html", page, page);
		assert_in_range(travels(command), 1, LINKS * 8192);
	}
	assert_int_equal(total("deltas_refused"), 0);
}

static void holes_stay(void **state)
{
	struct stat st;
	shipped("f=$(mktemp) && truncate -s 200M $f && head -c 100000 /dev/urandom | dd of=$f bs=1M seek=50 conv=notrunc status=none && "
		"cp --sparse=always $f sparse && rm $f");
	assert_in_range(travels("cp --sparse=always sparse sparse.new && echo end >> sparse.new && mv sparse.new sparse"), 1, LINKS * 8192);
	for (unsigned i = 0; i < lab_node_count(lab); i++) {
		char *path = lab_store_path(lab, lab_node_name(lab, i), "sparse");
		assert_int_equal(stat(path, &st), 0);
		assert_in_range(st.st_blocks * 512, 1, MIB);
		free(path);
	}
}

/* Somebody, or a disk, changed the base behind everybody's back: the digest tells. */
static void a_corrupted_base(void **state)
{
	shipped("head -c 1M /dev/urandom > victim");
	char *path = lab_store_path(lab, "n2", "victim");
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_int_equal(cdm_pwrite_all(fd, "corrupted", 9, 500000), 0);
	close(fd);
	free(path);
	int64_t refused = counter("n2", "deltas_refused");
	shell("n1", "(echo first; cat victim) > victim.new && mv victim.new victim");
	everywhere_equal();
	assert_int_equal(counter("n2", "deltas_refused") - refused, 1);
}

static void a_base_that_somebody_else_changed(void **state)
{
	shipped("head -c 1M /dev/urandom > both");
	cut("n2");
	shell("n2", "(echo two; cat both) > both.new && mv both.new both");
	shell("n1", "(cat both; echo one) > both.new && mv both.new both");
	shell("n1", "head -c 50000 both > both.tail && (cat both.tail both) > both.new && mv both.new both && rm both.tail");
	healed("n2");
	everywhere_equal();
}

static void many_versions_quickly(void **state)
{
	shipped("mkdir many && for f in $(seq 30); do head -c 50000 /dev/urandom > many/$f; done");
	shell("n1", "cd many && for i in $(seq 20); do for f in $(seq 30); do (head -c 3000 $f; echo version $i; tail -c +3000 $f) > $f.new && mv $f.new $f; done; done");
	everywhere_equal();
	shell("n1", "cd many && for i in $(seq 20); do for f in $(seq 30); do (head -c 70000 $f; echo $i) > ../x && cat ../x > $f; done; done; rm ../x");
	everywhere_equal();
}

static void known_after_a_restart(void **state)
{
	shipped("head -c 2M /dev/urandom > old");
	killed("n1", LAB_REPLICATOR);
	shell("n1", "(cat old; echo more) > old.new && mv old.new old");
	started("n1", LAB_REPLICATOR);
	everywhere_equal();
	/* Its counts are those since its start. Where the link's end made them compare trees, the file came so. */
	assert_true(counter("n1", "deltas_sent") > 0 || total("resync_fetched") > 0);
}

/* A disk of another kind, empty, in place of n2's. */
static void store_that_shares(const char *node)
{
	node_killed(node);
	shell("n1", "cd / && umount -l %s %s/full; truncate -s 512M %s/%s/image && mkfs.xfs -q -m reflink=1 %s/%s/image && mount -o loop %s/%s/image %s",
		lab_mount(lab, node), lab_run_dir(lab, node), lab_dir(lab), node, lab_dir(lab), node, lab_dir(lab), node, lab_store(lab, node));
	node_started(node);
	everywhere_equal();
}

static bool is_settled(void *arg, char *seen)
{
	const struct stat *st = arg;
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	snprintf(seen, 512, "changed at %lld", (long long)st->st_ctim.tv_sec);
	return now.tv_sec > st->st_ctim.tv_sec + 1;
}

static void blocks_are_shared_where_the_disk_can(void **state)
{
	struct stat st;
	store_that_shares("n2");
	shipped("head -c 8M /dev/urandom > shared");
	_cleanup_free_ char *path = lab_store_path(lab, "n2", "shared");
	_cleanup_close_ int old = open(path, O_RDONLY | O_CLOEXEC); /* it keeps its blocks */
	assert_int_equal(fstat(old, &st), 0);
	struct cdm_error err = CDM_ERROR_INIT;
	if (lab_wait_for(is_settled, &st, STORY_MS, "the old version's age", &err) < 0)
		fail_msg("%s", err.text);
	int64_t applied = counter("n2", "deltas_applied"), refused = total("deltas_refused");
	travels("(head -c 1000000 shared; head -c 4096 /dev/urandom; tail -c +1000001 shared) > shared.new && mv shared.new shared");
	assert_int_equal(counter("n2", "deltas_applied") - applied, 1);
	shell("n2", "filefrag -v %s | grep -q shared", path);
	travels("(echo unaligned; cat shared) > shared.new && mv shared.new shared");
	assert_int_equal(counter("n2", "deltas_applied") - applied, 2);
	assert_int_equal(total("deltas_refused"), refused);
}

/* Past the mount, while its old version is shared, and as it was before it is read: its digest is right, what was shared is not. */
static void a_base_that_changes_while_it_is_shared(void **state)
{
	struct stat st;
	char was[9];
	struct cdm_error err = CDM_ERROR_INIT;
	shipped("head -c 8M /dev/urandom > changing");
	_cleanup_free_ char *path = lab_store_path(lab, "n2", "changing");
	_cleanup_close_ int base = open(path, O_RDWR | O_CLOEXEC);
	assert_int_equal(fstat(base, &st), 0);
	started_to_be_held("n2");
	everywhere_equal();
	if (lab_wait_for(is_settled, &st, STORY_MS, "the old version's age", &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(pread(base, was, sizeof was, 4000000), sizeof was);
	int64_t refused = counter("n2", "deltas_refused");
	hold("delta_share.looked_not_shared");
	hold("delta_share.shared_not_read");
	shell("n1", "(cat changing; echo more) > changing.new && mv changing.new changing");
	int looked = arrived("delta_share.looked_not_shared");
	assert_int_equal(cdm_pwrite_all(base, "corrupted", 9, 4000000), 0);
	close(looked);
	int shared = arrived("delta_share.shared_not_read");
	assert_int_equal(cdm_pwrite_all(base, was, sizeof was, 4000000), 0);
	close(shared);
	everywhere_equal();
	assert_int_equal(counter("n2", "deltas_refused") - refused, 1);
}

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(an_insertion_and_a_rename_over),
		cmocka_unit_test(the_cost_is_told),
		cmocka_unit_test(written_anew_in_place),
		cmocka_unit_test(a_file_with_two_names_written_anew),
		cmocka_unit_test(the_next_version_under_another_name),
		cmocka_unit_test(a_similar_name_without_similar_content),
		cmocka_unit_test(holes_stay),
		cmocka_unit_test(a_corrupted_base),
		cmocka_unit_test(a_base_that_somebody_else_changed),
		cmocka_unit_test(many_versions_quickly),
		cmocka_unit_test(known_after_a_restart),
		cmocka_unit_test(blocks_are_shared_where_the_disk_can),
		cmocka_unit_test(a_base_that_changes_while_it_is_shared),
	};
	return STORIES("delta", ((struct lab_options){.nodes = 3, .netns = true}), stories);
}
