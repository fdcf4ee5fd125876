/* SPDX-License-Identifier: Apache-2.0 */
/* Every program is killed with SIGKILL while authors save and readers look. No call fails, nothing acknowledged is lost. */
#include "tests/cluster/story.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* After this many more saves by the load: something to do happened before, and happens after the kill. */
static void let_some_saves_pass(const char *node, const char *path)
{
	static unsigned round;
	char text[40];
	for (int i = 0; i < 30; i++) {
		snprintf(text, sizeof text, "mark %u", round++);
		save(node, path, text);
	}
}

static void server_of_the_source(void **state)
{
	struct load *load = load_begin("n1", "server", 8, LOAD_MIXED);
	for (int i = 0; i < 5; i++) {
		let_some_saves_pass("n1", "server-mark");
		killed("n1", LAB_SERVER);
		started("n1", LAB_SERVER);
	}
	assert_true(load_end(load) > 0);
	everywhere_equal();
}

static void server_of_a_target(void **state)
{
	save("n1", "read-meanwhile", "xxxxxxxxxxxxxxxx");
	in_sync();
	struct load *load = load_begin("n1", "target", 8, LOAD_MIXED);
	struct reader *reader = reader_begin("n2", "read-meanwhile", false);
	for (int i = 0; i < 5; i++) {
		let_some_saves_pass("n1", "target-mark");
		killed("n2", LAB_SERVER);
		started("n2", LAB_SERVER);
	}
	assert_true(load_end(load) > 0);
	assert_true(reader_end(reader) > 0);
	everywhere_equal();
}

static void open_files_and_mappings_outlive_the_server(void **state)
{
	_cleanup_free_ char *path = lab_path(lab, "n1", "outlives");
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	assert_true(fd >= 0 && ftruncate(fd, 1 << 20) == 0);
	char *map = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(map != MAP_FAILED);
	memcpy(map + 5000, "before", 6);
	killed("n1", LAB_SERVER);
	memcpy(map + 500000, "during", 6);
	assert_int_equal(pwrite(fd, "written", 7, 900000), 7);
	started("n1", LAB_SERVER);
	memcpy(map + 700000, "after", 5);
	assert_int_equal(munmap(map, 1 << 20), 0);
	assert_int_equal(close(fd), 0);
	everywhere_equal();
	shell("n3", "for at in 5000:before 500000:during 900000:written 700000:after; do t=${at#*:}; "
		    "[ \"$(dd if=outlives bs=1 skip=${at%%:*} count=${#t} status=none)\" = $t ]; done");
}

static void watcher(void **state)
{
	struct load *load = load_begin("n1", "watcher", 8, LOAD_MIXED);
	for (int i = 0; i < 3; i++) {
		let_some_saves_pass("n1", "watcher-mark");
		killed("n1", LAB_WATCHER);
		started("n1", LAB_WATCHER);
	}
	assert_true(load_end(load) > 0);
	all_rest();
	everywhere_equal();
}

static void holder(void **state)
{
	struct load *load = load_begin("n1", "holder", 8, LOAD_MIXED);
	for (int i = 0; i < 3; i++) {
		let_some_saves_pass("n1", "holder-mark");
		killed("n1", LAB_HOLDER);
		let_some_saves_pass("n1", "holder-mark");
		started("n1", LAB_HOLDER);
	}
	assert_true(load_end(load) > 0);
	everywhere_equal();
}

static void replicator_of_the_source(void **state)
{
	struct load *load = load_begin("n1", "ship", 8, LOAD_MIXED);
	for (int i = 0; i < 4; i++) {
		let_some_saves_pass("n1", "ship-mark");
		killed("n1", LAB_REPLICATOR);
		let_some_saves_pass("n1", "ship-mark");
		started("n1", LAB_REPLICATOR);
	}
	assert_true(load_end(load) > 0);
	everywhere_equal();
}

static void replicators_of_the_targets(void **state)
{
	struct load *load = load_begin("n1", "receive", 8, LOAD_MIXED);
	for (int i = 0; i < 4; i++) {
		const char *node = i % 2 ? "n2" : "n3";
		let_some_saves_pass("n1", "receive-mark");
		killed(node, LAB_REPLICATOR);
		let_some_saves_pass("n1", "receive-mark");
		started(node, LAB_REPLICATOR);
	}
	assert_true(load_end(load) > 0);
	everywhere_equal();
}

static void nothing_is_sent_whole_again_after_it(void **state)
{
	for (unsigned i = 0; i < lab_node_count(lab); i++)
		assert_int_equal(counter(lab_node_name(lab, i), "full_resync_count"), 0);
}

static void master(void **state)
{
	struct load *load = load_begin("n2", "no-master", 8, LOAD_MIXED);
	killed(NULL, LAB_MASTER);
	save("n1", "without-master", "works");
	gets_text("n3", "without-master", "works");
	killed("n3", LAB_REPLICATOR);
	started("n3", LAB_REPLICATOR); /* knows its routes by itself */
	save("n1", "without-master", "still works");
	gets_text("n3", "without-master", "still works");
	started(NULL, LAB_MASTER);
	assert_true(load_end(load) > 0);
	everywhere_equal();
}

static void a_whole_node(void **state)
{
	struct load *load = load_begin("n1", "node", 8, LOAD_MIXED);
	for (int i = 0; i < 2; i++) {
		let_some_saves_pass("n1", "node-mark");
		node_killed("n2");
		let_some_saves_pass("n1", "node-mark");
		node_started("n2");
	}
	assert_true(load_end(load) > 0);
	everywhere_equal();
}

static void anything_anytime(void **state)
{
	unsigned seed = getenv("CDMFS_TEST_SEED") ? (unsigned)atoi(getenv("CDMFS_TEST_SEED")) : (unsigned)getpid();
	print_message("CDMFS_TEST_SEED=%u\n", seed);
	struct load *first = load_begin("n1", "any-1", 5, LOAD_MIXED), *second = load_begin("n2", "any-2", 5, LOAD_MIXED);
	for (int i = 0; i < 15; i++) {
		static const enum lab_program programs[] = {LAB_SERVER, LAB_WATCHER, LAB_REPLICATOR};
		const char *node = lab_node_name(lab, (unsigned)rand_r(&seed) % lab_node_count(lab));
		enum lab_program program = programs[rand_r(&seed) % 3];
		let_some_saves_pass("n3", "any-mark");
		killed(node, program);
		started(node, program);
	}
	assert_true(load_end(first) > 0);
	assert_true(load_end(second) > 0);
	all_rest();
	everywhere_equal();
}

/* A close that no watcher sees is found by the next one; who asks meanwhile whether all is saved gets an answer. */
static void asked_while_no_watcher_listens(void **state)
{
	for (int i = 0; i < 4; i++) {
		save("n1", "asked", i % 2 ? "one" : "another");
		killed("n1", LAB_WATCHER);
		in_sync();
		started("n1", LAB_WATCHER);
	}
	everywhere_equal();
}

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(server_of_the_source),
		cmocka_unit_test(server_of_a_target),
		cmocka_unit_test(open_files_and_mappings_outlive_the_server),
		cmocka_unit_test(watcher),
		cmocka_unit_test(holder),
		cmocka_unit_test(replicator_of_the_source),
		cmocka_unit_test(replicators_of_the_targets),
		cmocka_unit_test(nothing_is_sent_whole_again_after_it),
		cmocka_unit_test(master),
		cmocka_unit_test(a_whole_node),
		cmocka_unit_test(anything_anytime),
		cmocka_unit_test(asked_while_no_watcher_listens),
	};
	return STORIES("kill", ((struct lab_options){.nodes = 3}), stories);
}
