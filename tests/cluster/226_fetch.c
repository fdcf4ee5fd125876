/* SPDX-License-Identifier: Apache-2.0 */
/* A large content goes from node to node once, while it arrives, and goes on where it stopped. */
#include "tests/cluster/story.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "common/io.h"

#define MIB (1ll << 20)

static void random_file(const char *path, long long bytes)
{
	shell("n1", "head -c %lld /dev/urandom > %s", bytes, path);
}

struct reaches { /* a counter of a node */
	const char *node, *name;
	int64_t value;
};

static bool has_reached(void *arg, char *seen)
{
	struct reaches *r = arg;
	int64_t now = counter(r->node, r->name);
	snprintf(seen, 512, "%s of %s is %" PRId64, r->name, r->node, now);
	return now >= r->value;
}

static void reaches(const char *node, const char *name, int64_t value)
{
	struct reaches r = {node, name, value};
	struct cdm_error err = CDM_ERROR_INIT;
	if (lab_wait_for(has_reached, &r, STORY_MS, "a transfer that is under way", &err) < 0)
		fail_msg("%s", err.text);
}

struct sized {
	const char *path;
	off_t size;
};

static bool has_size(void *arg, char *seen)
{
	struct sized *s = arg;
	struct stat st;
	bool there = stat(s->path, &st) == 0;
	snprintf(seen, 512, "%s has %lld bytes", s->path, there ? (long long)st.st_size : -1ll);
	return there && st.st_size == s->size;
}

static void gets_size(const char *node, const char *path, off_t size)
{
	_cleanup_free_ char *full = lab_path(lab, node, path);
	struct sized s = {full, size};
	struct cdm_error err = CDM_ERROR_INIT;
	if (lab_wait_for(has_size, &s, STORY_MS, "a published file", &err) < 0)
		fail_msg("%s", err.text);
}

static void slow(const char *node, const char *rate)
{
	struct cdm_error err = CDM_ERROR_INIT;
	if (lab_slow(lab, node, rate, &err) < 0)
		fail_msg("%s", err.text);
}

static void all_fast(void)
{
	for (unsigned i = 0; i < lab_node_count(lab); i++)
		slow(lab_node_name(lab, i), "off");
}

static void once_over_each_link(void **state)
{
	int64_t sent[8];
	unsigned nodes = lab_node_count(lab);
	for (unsigned i = 0; i < nodes; i++)
		sent[i] = counter(lab_node_name(lab, i), "content_sent_bytes");
	random_file("large", 24 * MIB);
	everywhere_equal();
	int64_t all = 0;
	for (unsigned i = 0; i < nodes; i++) {
		int64_t now = counter(lab_node_name(lab, i), "content_sent_bytes") - sent[i];
		assert_in_range(now, 0, 24 * MIB);
		all += now;
	}
	assert_int_equal(all, (nodes - 1) * 24 * MIB);
	assert_int_equal(counter("n1", "needs_answered"), 0);
}

static void from_any_node(void **state)
{
	shell("n3", "mkdir video && head -c 5000001 /dev/urandom > video/a.bin && head -c 3000000 /dev/urandom > video/.b.tmp && mv video/.b.tmp video/b");
	everywhere_equal();
	shell("n2", "mv video films && head -c 2000000 /dev/urandom >> films/a.bin");
	everywhere_equal();
	for (unsigned i = 0; i < lab_node_count(lab); i++)
		assert_int_equal(counter(lab_node_name(lab, i), "fetch_damaged"), 0);
}

/* Ranges too large for one frame, which begin and end within a block. */
static void large_ranges_in_place(void **state)
{
	shell("n1", "head -c 3000001 /dev/urandom > ranges");
	everywhere_equal();
	shell("n1", "dd if=/dev/urandom of=ranges bs=1001 count=300 seek=700 conv=notrunc status=none");
	everywhere_equal();
	shell("n1", "head -c 500000 /dev/urandom >> ranges");
	everywhere_equal();
}

static void many_at_once(void **state)
{
	shell("n1", "mkdir many && for i in $(seq 40); do head -c $((1100000 + i)) /dev/urandom > many/$i; done");
	everywhere_equal();
	shell("n1", "rm -r many");
	everywhere_equal();
}

static void holes_stay_holes(void **state)
{
	struct stat st;
	shell("n1", "truncate -s 300M sparse && head -c 3M /dev/urandom | dd of=sparse bs=64K seek=100 conv=notrunc status=none && "
		"dd if=/dev/urandom of=sparse bs=4K count=1 seek=50000 conv=notrunc status=none");
	everywhere_equal();
	_cleanup_free_ char *path = lab_path(lab, "n4", "sparse");
	assert_int_equal(stat(path, &st), 0);
	assert_in_range(st.st_blocks * 512, 3 * MIB, 4 * MIB);
}

static void goes_on_after_a_kill(void **state)
{
	slow("n4", "60mbit");
	int64_t before = counter("n4", "fetched_bytes");
	random_file("killed", 40 * MIB);
	reaches("n4", "fetched_bytes", before + 18 * MIB);
	killed("n4", LAB_REPLICATOR);
	started("n4", LAB_REPLICATOR);
	all_fast();
	everywhere_equal();
	assert_in_range(counter("n4", "fetch_resumed_bytes"), 8 * MIB, 40 * MIB);
	assert_in_range(counter("n4", "fetched_bytes"), 0, 32 * MIB);
}

static void goes_on_after_a_cut(void **state)
{
	slow("n3", "60mbit");
	int64_t before = counter("n3", "fetched_bytes");
	random_file("cut", 24 * MIB);
	reaches("n3", "fetched_bytes", before + 4 * MIB);
	cut("n3");
	save("n1", "beside", "the others have no part in it");
	gets_text("n2", "beside", "the others have no part in it");
	healed("n3");
	all_fast();
	everywhere_equal();
	assert_in_range(counter("n3", "fetched_bytes") - before, 1, 28 * MIB);
}

/* Whoever took it from the node that is gone takes it from another one. */
static void a_feeder_dies(void **state)
{
	slow("n1", "100mbit");
	int64_t before = counter("n3", "fetched_bytes"), fetched = counter("n4", "fetched");
	random_file("orphaned", 32 * MIB);
	reaches("n3", "fetched_bytes", before + 4 * MIB);
	killed("n2", LAB_REPLICATOR);
	all_fast();
	reaches("n4", "fetched", fetched + 1);
	started("n2", LAB_REPLICATOR);
	everywhere_equal();
	assert_in_range(counter("n3", "fetched_bytes") - before, 1, 40 * MIB);
}

/* The sender of a change is then never the one before a node in the ring, but for n2. */
static void all_hear_from_n1(void)
{
	for (unsigned i = 1; i < lab_node_count(lab); i++)
		administrator("route", "set", LAB_SET, lab_node_name(lab, i), "--parent", "n1", NULL);
	in_sync();
}

static void a_slow_node_holds_up_nobody(void **state)
{
	all_hear_from_n1();
	int64_t three = counter("n3", "fetched"), four = counter("n4", "fetched");
	slow("n2", "12mbit");
	random_file("overtaking", 40 * MIB);
	reaches("n3", "fetched", three + 1);
	reaches("n4", "fetched", four + 1);
	assert_in_range(counter("n3", "fetch_bypassed") + counter("n4", "fetch_bypassed"), 1, 8);
	all_fast();
	everywhere_equal();
}

/* More changes wait for contents than may be on their way at once: they take their turn, no link ends, nothing is sent twice. */
static void many_from_everywhere(void **state)
{
	enum { FILES = 34, BYTES = 1100000 };
	int64_t before = counter("n1", "content_received_bytes"), links = counter("n1", "batches_received");
	slow("n1", "120mbit");
	shell("n1", "for node in %s %s %s; do (for i in $(seq %d); do head -c %d /dev/urandom > $node/from-$(echo $node | cksum | cut -c1-5)-$i; done) & done; wait",
		lab_mount(lab, "n2"), lab_mount(lab, "n3"), lab_mount(lab, "n4"), FILES, BYTES);
	everywhere_equal();
	all_fast();
	assert_int_equal(counter("n1", "content_received_bytes") - before, 3ll * FILES * BYTES);
	assert_true(counter("n1", "batches_received") > links);
	shell("n1", "rm from-*");
	everywhere_equal();
}

/* A file of the store, or of its staging area, is changed where no mount sees it. */
static void flip(const char *node, const char *path, off_t offset)
{
	_cleanup_free_ char *file = lab_store_path(lab, node, path);
	_cleanup_close_ int fd = open(file, O_RDWR | O_CLOEXEC);
	struct stat st;
	uint8_t byte;
	assert_true(fd >= 0 && fstat(fd, &st) == 0);
	assert_int_equal(pread(fd, &byte, 1, offset), 1);
	byte ^= 1;
	assert_int_equal(pwrite(fd, &byte, 1, offset), 1);
	assert_int_equal(futimens(fd, (struct timespec[]){st.st_atim, st.st_mtim}), 0);
}

/* Promise 9: what a feeder's disk made of a content is found out by whom it feeds, before anybody sees it there. */
static void a_corrupted_feeder(void **state)
{
	all_hear_from_n1();
	administrator("route", "set", LAB_SET, "n3", "--parent", "n2", NULL); /* who is also before it in the ring */
	in_sync();
	slow("n3", "8mbit"); /* until n2 has all, and what is wrong then is not yet read for n3 */
	int64_t fed = counter("n2", "fetched"), before = counter("n3", "fetched_bytes"), damaged = counter("n3", "fetch_damaged");
	random_file("rotten", 48 * MIB);
	reaches("n2", "fetched", fed + 1);
	gets_size("n2", "rotten", 48 * MIB);
	reaches("n3", "fetched_bytes", before + MIB);
	flip("n2", "rotten", 24 * MIB);
	slow("n3", "40mbit");
	reaches("n3", "fetch_damaged", damaged + 1);
	absent("n3", "rotten");
	flip("n2", "rotten", 24 * MIB); /* as it was */
	all_fast();
	everywhere_equal();
}

static void partial_of(const char *node, char *ret, size_t room)
{
	char *output = NULL;
	_cleanup_free_ char *staging = lab_store_path(lab, node, ".cdmfs/staging");
	assert_int_equal(shell_status("n1", &output, "cd %s && ls -d fetch-*", staging), 0);
	output[strcspn(output, "\n")] = 0;
	snprintf(ret, room, ".cdmfs/staging/%s", output);
	free(output);
}

/* n4's replicator is killed amid a content; what lies in staging is changed by `trouble` before it is started again. */
static void killed_amid(const char *file, void (*trouble)(const char *partial))
{
	char partial[256];
	slow("n4", "60mbit");
	int64_t before = counter("n4", "fetched_bytes");
	random_file(file, 32 * MIB);
	reaches("n4", "fetched_bytes", before + 18 * MIB);
	killed("n4", LAB_REPLICATOR);
	partial_of("n4", partial, sizeof partial);
	trouble(partial);
	started("n4", LAB_REPLICATOR);
	all_fast();
	everywhere_equal();
}

static void flip_first_byte(const char *partial)
{
	flip("n4", partial, 100);
}

static void a_corrupted_part(void **state)
{
	killed_amid("corrupted-part", flip_first_byte);
	assert_int_equal(counter("n4", "fetch_damaged"), 1);
}

static void as_of_another_boot(const char *partial)
{
	_cleanup_free_ char *file = lab_store_path(lab, "n4", partial);
	char mark[128];
	ssize_t n = getxattr(file, "trusted.cdmfs.partial", mark, sizeof mark);
	assert_true(n > 0);
	mark[0] ^= 1;
	assert_int_equal(setxattr(file, "trusted.cdmfs.partial", mark, (size_t)n, XATTR_REPLACE), 0);
	flip("n4", partial, 100);
}

/* What was on its way when the machine went down may be anything: none of it is used. */
static void a_part_of_another_boot(void **state)
{
	killed_amid("other-boot", as_of_another_boot);
	assert_int_equal(counter("n4", "fetch_damaged"), 0);
	assert_in_range(counter("n4", "fetched_bytes"), 32 * MIB, 64 * MIB);
}

/* What is answered to who compares trees goes the same way. */
static void a_new_node_goes_on_after_a_kill(void **state)
{
	struct cdm_error err = CDM_ERROR_INIT;
	const char *name = NULL;
	random_file("long", 48 * MIB);
	in_sync();
	for (unsigned i = 0; i < lab_node_count(lab); i++)
		slow(lab_node_name(lab, i), "80mbit");
	if (lab_add_node(lab, NULL, &name, &err) < 0)
		fail_msg("add-node: %s", err.text);
	reaches(name, "fetched_bytes", 20 * MIB);
	killed(name, LAB_REPLICATOR);
	started(name, LAB_REPLICATOR);
	all_fast();
	if (lab_wait_ready(lab, STORY_MS * 2, &err) < 0)
		fail_msg("%s", err.text);
	everywhere_equal();
	assert_true(counter(name, "fetch_resumed_bytes") >= MIB);
}

static void overwritten_while_it_travels(void **state)
{
	slow("n1", "100mbit");
	int64_t before = counter("n3", "fetched_bytes");
	random_file("changing", 24 * MIB);
	reaches("n3", "fetched_bytes", before + 2 * MIB);
	random_file("changing", 20 * MIB);
	shell("n1", "dd if=/dev/urandom of=changing bs=1000 count=1 seek=3 conv=notrunc status=none");
	all_fast();
	everywhere_equal();
	shell("n1", "mv changing changed");
	everywhere_equal();
}

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(once_over_each_link), cmocka_unit_test(from_any_node), cmocka_unit_test(large_ranges_in_place), cmocka_unit_test(many_at_once), cmocka_unit_test(holes_stay_holes),
		cmocka_unit_test(goes_on_after_a_kill), cmocka_unit_test(goes_on_after_a_cut), cmocka_unit_test(a_feeder_dies),
		cmocka_unit_test(a_slow_node_holds_up_nobody), cmocka_unit_test(many_from_everywhere),
		cmocka_unit_test(a_corrupted_feeder), cmocka_unit_test(a_corrupted_part), cmocka_unit_test(a_part_of_another_boot), cmocka_unit_test(overwritten_while_it_travels),
		cmocka_unit_test(a_new_node_goes_on_after_a_kill)};
	stories_alter = true;
	return STORIES("fetch", ((struct lab_options){.nodes = 4, .netns = true}), stories);
}
