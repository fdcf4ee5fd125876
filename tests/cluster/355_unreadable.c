/* SPDX-License-Identifier: Apache-2.0 */
/* 355_unreadable — what a node cannot read for the others, for a while: it is said once, tried again after growing pauses and when somebody orders it,
 * lost by nobody, and goes out when it can be read. */
#include "tests/cluster/nth.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "common/loop.h"

static unsigned times_said(const char *path)
{
	_cleanup_free_ char *count = NULL;
	shell_status("n1", &count, "grep -c 'event=content_unreadable.*%s' %s/logs/n1-replicator.log", path, lab_dir(lab));
	return (unsigned)strtoul(count ?: "", NULL, 10);
}

static bool is_set_aside(const char *node)
{
	_cleanup_free_ char *code = NULL;
	shell_status(node, &code, "cdmfs-stat www --json | jq -j '.nodes[] | select(.name == \"%s\") | .reason_code'", node);
	return strcmp(code ?: "", "unreadable") == 0;
}

static bool n1_sets_aside(void *arg, char *seen)
{
	bool aside = is_set_aside("n1");
	snprintf(seen, 512, "n1 has %s set aside", aside ? "something" : "nothing");
	return aside == *(const bool *)arg;
}

static void waits_until(bool aside)
{
	struct cdm_error err = CDM_ERROR_INIT;
	if (lab_wait_for(n1_sets_aside, &aside, STORY_MS, "what n1 sets aside", &err) < 0)
		fail_msg("%s", err.text);
}

static bool has_failed_so_often(void *arg, char *seen)
{
	unsigned long fired = nth_control->fired;
	snprintf(seen, 512, "%lu calls failed", fired);
	return fired >= *(const unsigned long *)arg;
}

static void calls_failed(unsigned long count)
{
	struct cdm_error err = CDM_ERROR_INIT;
	if (lab_wait_for(has_failed_so_often, &count, STORY_MS, "so many tries", &err) < 0)
		fail_msg("%s", err.text);
}

/* Its attributes, with which every attempt begins: a try is one call that fails, but the first one is shipping's four. */
static void it_is_tried_again_by_itself(void **state)
{
	nth_armed_on("n1", LAB_REPLICATOR, NTH_LOOK, EIO, "sealed");
	save("n1", "sealed", "in the end");
	save("n1", "behind", "at once");
	gets_text("n2", "behind", "at once");
	waits_until(true);
	absent("n2", "sealed");
	calls_failed(nth_control->fired + 2);
	nth_disarmed();
	gets_text("n2", "sealed", "in the end");
	waits_until(false);
	assert_int_equal(times_said("sealed"), 1);
	everywhere_equal();
}

/* So does what can be opened, and not be read to its end. */
static void a_large_file_too(void **state)
{
	nth_armed_on("n1", LAB_REPLICATOR, NTH_READ, EIO, "sector");
	shell("n1", "head -c 3M /dev/urandom > sector");
	waits_until(true);
	calls_failed(nth_control->fired + 2);
	absent("n2", "sector");
	nth_disarmed();
	waits_until(false);
	everywhere_equal();
	assert_int_equal(times_said("sector"), 1);
}

/* What a file has from its directory and from before its first save is told with its content alone. Each of the looks at it fails once, and again. */
static void its_attributes_too(void **state)
{
	enum { LOOKS = 16 };
	shell("n1", "mkdir worn && setfacl -d -m u:77:rwx worn");
	for (unsigned look = 1; look <= LOOKS; look++) {
		char name[32];
		snprintf(name, sizeof name, "look-%u", look);
		nth_armed_twice("n1", LAB_REPLICATOR, NTH_LOOK, EIO, look, name);
		shell("n1", "exec 3> worn/%s && echo text >&3 && setfattr -n user.worn -v %u worn/%s && exec 3>&-", name, look, name);
		in_sync();
		nth_disarmed();
		_cleanup_free_ char *all = NULL;
		shell_status("n2", &all, "getfattr -d -m - --absolute-names worn/%s | grep -v '^#'", name);
		if (!strstr(all, "user.worn") || !strstr(all, "system.posix_acl_access"))
			fail_msg("after look %u at it failed %s has only %s", look, name, all);
	}
	everywhere_equal();
}

/* A directory is there all the same, for what is in it. */
static void those_of_a_directory_are_said_and_follow(void **state)
{
	enum { LOOKS = 8 };
	shell("n1", "mkdir rooms && setfacl -d -m u:77:rwx rooms");
	for (unsigned look = 1; look <= LOOKS; look++) {
		char name[32];
		snprintf(name, sizeof name, "room-%u", look);
		nth_armed_twice("n1", LAB_REPLICATOR, NTH_LOOK, EIO, look, name);
		shell("n1", "mkdir rooms/%s && echo text > rooms/%s/file", name, name);
		in_sync();
		nth_disarmed();
	}
	nth_armed_on("n1", LAB_REPLICATOR, NTH_LOOK, EIO, "room");
	shell("n1", "mkdir rooms/room && echo text > rooms/room/file");
	gets_text("n2", "rooms/room/file", "text\n");
	waits_until(true);
	nth_disarmed();
	waits_until(false);
	everywhere_equal();
	assert_int_equal(times_said("rooms/room"), 1);
}

/* After some tries the next one is far away; nothing is recorded of all of them. */
static void or_when_it_is_ordered(void **state)
{
	enum { SOON_MS = 5000 };
	nth_armed_on("n1", LAB_REPLICATOR, NTH_LOOK, EIO, "patient");
	save("n1", "patient", "by order");
	waits_until(true);
	unsigned long first = nth_control->fired;
	int64_t began_ms = cdm_now_ms();
	calls_failed(first + 4); /* after 1, 2, 4 and 8 s; the first one may be among the first */
	assert_true(cdm_now_ms() - began_ms > 5000);
	nth_disarmed();
	int64_t ordered_ms = cdm_now_ms();
	administrator("rescan", "www:patient", "--node", "n1", NULL);
	gets_text("n2", "patient", "by order");
	assert_in_range(cdm_now_ms() - ordered_ms, 0, SOON_MS);
	waits_until(false);
	assert_int_equal(times_said("patient"), 1);
	everywhere_equal();
}

static void it_is_tried_again_by_the_next_program_and_under_its_next_name(void **state)
{
	nth_armed_on("n1", LAB_REPLICATOR, NTH_LOOK, EIO, "carried");
	make_directory("n1", "was");
	save("n1", "was/carried", "under another name");
	waits_until(true);
	killed("n1", LAB_REPLICATOR);
	started("n1", LAB_REPLICATOR);
	waits_until(true);
	unsigned long fired = nth_control->fired;
	calls_failed(fired + 1);
	move("n1", "was", "is");
	gets_text("n1", "is/carried", "under another name");
	waits_until(true);
	nth_disarmed();
	gets_text("n2", "is/carried", "under another name");
	waits_until(false);
	everywhere_equal();
}

static bool n1_has_compared(void *arg, char *seen)
{
	int status = shell_status("n1", NULL, "test $(grep -c event=resync_ends %s/logs/n1-replicator.log) -gt %d", lab_dir(lab), *(const int *)arg);
	snprintf(seen, 512, "n1 has compared trees %s", status ? "no more" : "again");
	return status == 0;
}

static void n1_compares_trees(void)
{
	struct cdm_error err = CDM_ERROR_INIT;
	_cleanup_free_ char *before = NULL;
	killed("n1", LAB_REPLICATOR);
	shell_status("n1", &before, "grep -c event=resync_ends %s/logs/n1-replicator.log", lab_dir(lab));
	int count = atoi(before ?: "");
	shell("n1", ": > %s/.cdmfs/doubt", lab_store(lab, "n1"));
	started("n1", LAB_REPLICATOR);
	if (lab_wait_for(n1_has_compared, &count, STORY_MS, "a comparison", &err) < 0)
		fail_msg("%s", err.text);
}

/* Its parent's vector says that it has this version, but it was left out: comparing trees must not take that for a removal, or for an older choice. */
static void comparing_trees_with_its_parent_leaves_it(void **state)
{
	administrator("route", "set", LAB_SET, "n1", "--parent", "n2", NULL);
	make_directory("n1", "new");
	save("n1", "hidden", "as the others have it");
	everywhere_equal();
	nth_armed_on("n1", LAB_REPLICATOR, NTH_READ, EIO, "hidden");
	save("n1", "hidden", "as only its author has it");
	save("n1", "new/hidden", "nowhere else");
	in_sync();
	waits_until(true);
	n1_compares_trees();
	has_text("n1", "hidden", "as only its author has it");
	has_text("n1", "new/hidden", "nowhere else");
	has_text("n2", "hidden", "as the others have it");
	absent("n2", "new/hidden");
	nth_disarmed();
	gets_text("n2", "hidden", "as only its author has it");
	gets_text("n2", "new/hidden", "nowhere else");
	everywhere_equal();
	administrator("route", "set", LAB_SET, "n1", "--auto", NULL);
}

/* For what its parent cannot look at a node compares trees again, ever more rarely. */
static void a_directory_is_compared_again_after_growing_pauses(void **state)
{
	enum { COMPARISONS = 3 };
	administrator("route", "set", LAB_SET, "n2", "--parent", "n1", NULL);
	make_directory("n1", "shut");
	save("n1", "shut/file", "x");
	everywhere_equal();
	killed("n1", LAB_REPLICATOR);
	shell("n1", ": > %s/.cdmfs/doubt", lab_store(lab, "n1"));
	nth_armed_on("n1", LAB_REPLICATOR, NTH_READ, EIO, "shut");
	started("n1", LAB_REPLICATOR);
	calls_failed(1);
	int64_t began_ms = cdm_now_ms(), compared = counter("n2", "verify_count");
	calls_failed(1 + COMPARISONS); /* after 1, 2, 4 s */
	assert_true(cdm_now_ms() - began_ms > 5000);
	assert_in_range(counter("n2", "verify_count") - compared, 1, COMPARISONS + 1);
	nth_disarmed();
	everywhere_equal();
	administrator("route", "set", LAB_SET, "n2", "--auto", NULL);
}

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(it_is_tried_again_by_itself),
		cmocka_unit_test(a_large_file_too),
		cmocka_unit_test(its_attributes_too),
		cmocka_unit_test(those_of_a_directory_are_said_and_follow),
		cmocka_unit_test(or_when_it_is_ordered),
		cmocka_unit_test(it_is_tried_again_by_the_next_program_and_under_its_next_name),
		cmocka_unit_test(comparing_trees_with_its_parent_leaves_it),
		cmocka_unit_test(a_directory_is_compared_again_after_growing_pauses),
	};
	nth_prepare();
	int status = STORIES("unreadable", ((struct lab_options){.nodes = 2}), stories);
	nth_forget();
	return status;
}
