/* SPDX-License-Identifier: Apache-2.0 */
/* A node comes back after the journal was outrun: of contents that differ it gets what differs. */
#include "tests/cluster/outrun.h"
#include "tests/cluster/story.h"

#include <stdio.h>
#include <unistd.h>

static bool all_signed(void *arg, char *seen)
{
	int64_t waiting = counter("n1", "signing") + counter("n2", "signing");
	snprintf(seen, 512, "%lld saves wait for their signature", (long long)waiting);
	return !waiting;
}

static bool n3_signed(void *arg, char *seen)
{
	int64_t waiting = counter("n3", "signing"), made = counter("n3", "signatures");
	snprintf(seen, 512, "%lld wait for their signature, %lld have it", (long long)waiting, (long long)made);
	return !waiting && made;
}

static void random_file_everywhere(const char *name)
{
	struct cdm_error err = CDM_ERROR_INIT;
	shell("n1", "head -c 8M /dev/urandom > %s", name);
	everywhere_equal();
	if (lab_wait_for(all_signed, NULL, STORY_MS, "signatures of what was shipped", &err) < 0)
		fail_msg("%s", err.text);
}

/* While n3 is away a large file changes a little; its journal being outrun, the trees are compared. How much content went over the links then? */
static int64_t travels_after_a_change(const char *file)
{
	int64_t before = counter("n1", "content_sent_bytes") + counter("n2", "content_sent_bytes");
	shell("n1", "(head -c 1000000 %s; head -c 1001 /dev/urandom; tail -c +1000001 %s) > %s.new && mv %s.new %s", file, file, file, file, file);
	outrun_the_journal("n1", "n2");
	shell("n1", "(head -c 5000000 %s; head -c 1001 /dev/urandom; tail -c +5000001 %s) > %s.new && mv %s.new %s", file, file, file, file, file);
	started("n3", LAB_REPLICATOR);
	everywhere_equal();
	assert_true(counter("n3", "full_resync_count") > 0);
	return counter("n1", "content_sent_bytes") + counter("n2", "content_sent_bytes") - before;
}

static void what_differs_comes_as_a_delta(void **state)
{
	random_file_everywhere("large");
	killed("n3", LAB_REPLICATOR);
	assert_in_range(travels_after_a_change("large"), 1, 100000);
	assert_true(counter("n3", "deltas_applied") > 0);
}

/* Nobody but n3 itself knows the signature of what it has. */
static void of_a_version_that_is_forgotten(void **state)
{
	random_file_everywhere("forgotten");
	for (unsigned i = 0; i < lab_node_count(lab); i++)
		killed(lab_node_name(lab, i), LAB_REPLICATOR);
	for (unsigned i = 0; i < lab_node_count(lab); i++) {
		_cleanup_free_ char *store = lab_store_path(lab, lab_node_name(lab, i), ".cdmfs/signatures");
		shell("n1", "rm %s/*", store);
	}
	started("n1", LAB_REPLICATOR);
	started("n2", LAB_REPLICATOR);
	/* n1 has forgotten, too: n2 gets the first change whole, unless it was outrun itself and asked for it by its own signature. */
	int64_t whole = 8 << 20;
	assert_in_range(travels_after_a_change("forgotten"), 1, whole + 200000);
	assert_true(counter("n3", "deltas_applied") > 0);
}

/* n3 remembers the signature of what it wrote; its disk has only a part of it by now. */
static void of_a_file_that_was_cut_off(void **state)
{
	struct cdm_error err = CDM_ERROR_INIT;
	shell("n3", "head -c 8M /dev/urandom > cut-off");
	everywhere_equal();
	if (lab_wait_for(n3_signed, NULL, STORY_MS, "signatures of what was shipped", &err) < 0)
		fail_msg("%s", err.text);
	for (unsigned i = 0; i < lab_node_count(lab); i++)
		killed(lab_node_name(lab, i), LAB_REPLICATOR);
	for (unsigned i = 0; i < 2; i++) {
		_cleanup_free_ char *signatures = lab_store_path(lab, lab_node_name(lab, i), ".cdmfs/signatures");
		shell("n1", "rm %s/*", signatures);
	}
	_cleanup_free_ char *here = lab_store_path(lab, "n3", "cut-off");
	assert_int_equal(truncate(here, 3000000), 0);
	started("n1", LAB_REPLICATOR);
	started("n2", LAB_REPLICATOR);
	travels_after_a_change("cut-off");
}

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(what_differs_comes_as_a_delta),
		cmocka_unit_test(of_a_version_that_is_forgotten),
		cmocka_unit_test(of_a_file_that_was_cut_off),
	};
	return STORIES("resync_content", ((struct lab_options){.nodes = 3, .journal = OUTRUN_JOURNAL}), stories);
}
