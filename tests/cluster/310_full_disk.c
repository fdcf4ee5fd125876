/* SPDX-License-Identifier: Apache-2.0 */
/* Disks that are full: of the author, of a relay, of the master (that of a target: 190_errors), and one that takes no writes. Who is full says so, the others go
 * on, and everything goes on by itself when there is room. Disks are small images; n1 is the author, n2 feeds n3. */
#include "tests/cluster/story.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* A store of its own of so many MiB, empty: as a disk that was replaced. Before any story. */
static void small_store(const char *node, int mib)
{
	node_killed(node);
	shell("n1", "cd / && umount -l %s %s/full; truncate -s %dM %s/%s/image && mkfs.ext4 -q %s/%s/image && mount -o loop %s/%s/image %s && rmdir %s/lost+found",
		lab_mount(lab, node), lab_run_dir(lab, node), mib, lab_dir(lab), node, lab_dir(lab), node, lab_dir(lab), node, lab_store(lab, node),
		lab_store(lab, node));
	node_started(node);
}

static void the_tree_is_a_chain_and_disks_are_small(void **state)
{
	administrator("route", "set", LAB_SET, "n2", "--parent", "n1", NULL);
	administrator("route", "set", LAB_SET, "n3", "--parent", "n2", NULL);
	small_store("n1", 64);
	small_store("n2", 48);
	save("n1", "kept", "of worth");
	gets_text("n3", "kept", "of worth");
	everywhere_equal();
}

static uint64_t journal_bytes(const char *node)
{
	_cleanup_free_ char *said = NULL;
	assert_int_equal(shell_status(node, &said, "du -sB1 %s/.cdmfs/journal | cut -f1", lab_store(lab, node)), 0);
	return strtoull(said, NULL, 10);
}

/* Saves of some bytes, with 800 bytes of records each. */
static void many_saves(const char *path, int count)
{
	_cleanup_free_ char *full = lab_path(lab, "n1", path);
	for (int i = 0; i < count; i++) {
		int fd = open(full, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
		if (fd < 0 || dprintf(fd, "%d", i) < 0 || close(fd) < 0)
			fail_msg("save %d: %s", i, strerror(errno));
	}
}

static void the_journal_leaves_the_disk_to_the_content(void **state)
{
	many_saves("busy", 15000);
	everywhere_equal();
	uint64_t bytes = journal_bytes("n1");
	if (bytes > 10u << 20)
		fail_msg("on a disk of 64 MiB the journal has %" PRIu64 " bytes", bytes);
}

struct room {
	const char *node;
	uint64_t mib;
};

static bool is_free(void *arg, char *seen)
{
	struct room *r = arg;
	struct statvfs v;
	assert_int_equal(statvfs(lab_store(lab, r->node), &v), 0);
	uint64_t mib = (uint64_t)v.f_bavail * v.f_frsize >> 20;
	snprintf(seen, 512, "%" PRIu64 " MiB are free at %s", mib, r->node);
	return mib >= r->mib;
}

/* What was removed takes room until those who just read it for shipping let go. */
static void has_room(const char *node, uint64_t mib)
{
	struct cdm_error err = CDM_ERROR_INIT;
	if (lab_wait_for(is_free, &(struct room){node, mib}, STORY_MS, "room on the disk", &err) < 0)
		fail_msg("%s", err.text);
}

static void the_author_is_told_as_by_any_disk(void **state)
{
	int status = shell_status("n1", NULL, "head -c 80M /dev/zero | tr '\\0' x > too-large");
	assert_int_not_equal(status, 0);
	_cleanup_free_ char *full = lab_path(lab, "n1", "too-large"), *block = malloc(1 << 20);
	int fd = open(full, O_WRONLY | O_APPEND | O_CLOEXEC);
	assert_true(fd >= 0 && block);
	memset(block, 'y', 1 << 20);
	ssize_t n;
	while ((n = write(fd, block, 1 << 20)) > 0)
		; /* the journal may have made some room meanwhile */
	assert_int_equal(n, -1);
	assert_int_equal(errno, ENOSPC);
	assert_int_equal(close(fd), 0);
	has_text("n1", "kept", "of worth");
	remove_file("n1", "too-large");
	has_room("n1", 30);
	save("n1", "after", "there is room");
	gets_text("n3", "after", "there is room");
	everywhere_equal();
}

static bool is_code(void *arg, char *seen)
{
	_cleanup_free_ char *said = NULL;
	int status = shell_status("n1", &said, "cdmfs-stat " LAB_SET " --json | jq -c '.nodes[] | select(.name == \"n2\") | .reason_code'");
	snprintf(seen, 512, "cdmfs-stat ended with %d: %s", status, said);
	return strstr(said, arg) != NULL;
}

static void n2_says(char *code)
{
	struct cdm_error err = CDM_ERROR_INIT;
	if (lab_wait_for(is_code, code, STORY_MS, "n2 says what its store lacks", &err) < 0)
		fail_msg("%s", err.text);
}

/* n2 cannot hold what n1 and n3 can. */
static void behind_a_full_relay_all_goes_on(void **state)
{
	shell("n1", "head -c 42M /dev/urandom > large && echo x > behind-it");
	n2_says((char[]){"disk_full"});
	gets_text("n3", "behind-it", "x\n");
	has_text("n2", "kept", "of worth");
	save("n3", "the-other-way", "y");
	gets_text("n1", "the-other-way", "y");
	remove_file("n1", "large");
	everywhere_equal();
	has_text("n2", "behind-it", "x\n");
}

/* As ext4 does after an error: what came meanwhile waits, and nothing is set aside. */
static void a_store_that_goes_read_only_waits(void **state)
{
	const char *store = lab_store(lab, "n2"), *run = lab_run_dir(lab, "n2");
	has_room("n2", 20); /* an abort takes back what was freed and not yet written */
	shell("n1", "cd / && sync -f %s && mount -o remount,abort %s", store, store);
	shell("n1", "mkdir read-only && for i in 1 2 3 4 5; do echo $i > read-only/$i; done");
	n2_says((char[]){"read_only_store"});
	has_text("n2", "kept", "of worth");
	node_killed("n2");
	shell("n1", "cd / && umount -l %s %s/full %s; umount %s && mount -o loop %s/n2/image %s", lab_mount(lab, "n2"), run, run, store, lab_dir(lab), store);
	node_started("n2");
	gets_text("n2", "read-only/5", "5\n");
	everywhere_equal();
	assert_int_equal(counter("n2", "quarantined"), 0);
}

/* -- the master -------------------------------------------------------------------------------------------------- */

static void a_full_master_refuses_and_goes_on(void **state)
{
	const char *dir = lab_dir(lab);
	_cleanup_free_ char *said = NULL;
	killed(NULL, LAB_MASTER);
	shell("n1", "cd %s && mv master master.was && mkdir master && truncate -s 8M image && mkfs.ext4 -q image && mount -o loop image master && "
		    "cp -a master.was/. master && rmdir master/lost+found", dir);
	started(NULL, LAB_MASTER);
	shell("n1", "! head -c 20M /dev/zero > %s/master/filler 2> /dev/null", dir);
	int refused = 0;
	for (int i = 0; i < 200 && !refused; i++) { /* the database has some room of its own */
		free(said);
		said = NULL;
		refused = shell_status("n1", &said, "cdmctl region add full%d", i);
	}
	assert_int_not_equal(refused, 0);
	if (!strcasestr(said, "full") && !strcasestr(said, "space"))
		fail_msg("a full master says: %s", said);
	save("n1", "meanwhile", "content goes on");
	gets_text("n3", "meanwhile", "content goes on");
	shell("n1", "cdmctl region list");
	shell("n1", "rm %s/master/filler && cdmctl region add roomy", dir);
	killed(NULL, LAB_MASTER);
	shell("n1", "cd %s && cp -a master/. master.was && umount master && rmdir master && mv master.was master && rm image", dir);
	started(NULL, LAB_MASTER);
	everywhere_equal();
}

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(the_tree_is_a_chain_and_disks_are_small),
		cmocka_unit_test(the_journal_leaves_the_disk_to_the_content),
		cmocka_unit_test(the_author_is_told_as_by_any_disk),
		cmocka_unit_test(a_store_that_goes_read_only_waits),
		cmocka_unit_test(behind_a_full_relay_all_goes_on),
		cmocka_unit_test(a_full_master_refuses_and_goes_on),
	};
	return STORIES("full", ((struct lab_options){.nodes = 3}), stories);
}
