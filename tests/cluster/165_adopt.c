/* SPDX-License-Identifier: Apache-2.0 */
/* A node that comes with a tree of its own: what adopting it means is told before anything is changed, and nothing is lost. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "tests/cluster/story.h"

/* All of a store: names, times, sizes, attributes. */
static char *picture(void)
{
	char *text = NULL;
	if (shell_status("n3", &text, "cd ../store && find . -path ./.cdmfs -prune -o -printf '%%p %%T@ %%C@ %%s %%m\\n' | sort; getfattr -h -R -d -m - .") != 0)
		fail_msg("%s", text);
	return text;
}

static json_t *adoption(const char *option)
{
	struct cdm_error err = CDM_ERROR_INIT;
	char *output = NULL;
	const char *const words[] = {"set", "adopt", LAB_SET, "--node", "n3", "--json", option, "--yes", NULL};
	if (lab_cdmctl(lab, words, &output, &err) < 0)
		fail_msg("set adopt: %s", err.text);
	json_t *j = json_loads(output, 0, NULL);
	assert_non_null(j);
	free(output);
	return j;
}

static void expect(const char *option, json_int_t same, json_int_t fetch, json_int_t only_here, json_int_t local)
{
	json_t *j = adoption(option);
	assert_int_equal(json_integer_value(json_object_get(j, "same")), same);
	assert_int_equal(json_integer_value(json_object_get(j, "fetch")), fetch);
	assert_int_equal(json_integer_value(json_object_get(j, "only_here")), only_here);
	assert_int_equal(json_integer_value(json_object_get(j, "local")), local);
	json_decref(j);
}

struct figure {
	const char *key;
	json_int_t value;
};

/* The walk can be disturbed by a comparison that began by itself: asked until it says so. */
static bool says(void *arg, char *seen)
{
	const struct figure *f = arg;
	struct cdm_error err = CDM_ERROR_INIT;
	char *output = NULL;
	const char *const words[] = {"set", "adopt", LAB_SET, "--node", "n3", "--json", "--dry-run", NULL};
	int r = lab_cdmctl(lab, words, &output, &err);
	json_t *j = r < 0 ? NULL : json_loads(output, 0, NULL);
	bool holds = j && json_integer_value(json_object_get(j, f->key)) == f->value;
	snprintf(seen, 512, "%.400s", r < 0 ? err.text : output);
	json_decref(j);
	free(output);
	return holds;
}

static void comes_to_say(const char *key, json_int_t value)
{
	struct figure f = {key, value};
	struct cdm_error err = CDM_ERROR_INIT;
	if (lab_wait_for(says, &f, STORY_MS, key, &err) < 0)
		fail_msg("%s", err.text);
}

static void ended(const char *node, enum lab_program program)
{
	struct cdm_error err = CDM_ERROR_INIT;
	if (lab_kill(lab, node, program, SIGTERM, NULL, &err) < 0)
		fail_msg("%s", err.text);
}

static void a_copy_from_elsewhere(void)
{
	shell("n1", "mkdir d && for i in $(seq 50); do echo $i > d/$i; done && echo theirs > differs && ln -s d/1 link && ln d/1 hard");
	in_sync();
	ended("n3", LAB_HOLDER);
	ended("n3", LAB_REPLICATOR);
	shell("n1", "cd ../../n3 && rm -rf store/* store/.cdmfs && cp -a ../n1/mnt/. store/ && "
		    "echo ours > store/differs && rm store/d/7 && mkdir -p store/mine store/cache/x && echo 1 > store/mine/a && echo 1 > store/cache/x/1 && "
		    "echo 1 > store/config.local.php");
	started("n3", LAB_REPLICATOR);
}

static void a_dry_run_changes_nothing(void **state)
{
	a_copy_from_elsewhere();
	char *before = picture();
	comes_to_say("local", 2);
	expect("--dry-run", 52, 2, 2, 2); /* 49 files, d, link, hard; differs, d/7; mine, mine/a */
	char *after = picture();
	assert_string_equal(before, after);
	free(before);
	free(after);
}

static void the_mount_adopts_it(void **state)
{
	started("n3", LAB_SERVER);
	comes_to_say("fetch", 0);
	in_sync();
	has_text("n3", "differs", "theirs\n");
	has_text("n3", "mine/a", "1\n");
	assert_int_equal(kept_files("n3", "conflicts"), 1);
	absent("n1", "mine");
}

static void what_only_it_has_goes_when_asked(void **state)
{
	expect("--delete", 54, 0, 2, 2);
	becomes_absent("n3", "mine");
	comes_to_say("only_here", 0);
	in_sync();
	has_text("n3", "config.local.php", "1\n");
	has_text("n3", "cache/x/1", "1\n");
	has_text("n1", "d/7", "7\n");
}

static bool n2_refuses(void *arg, char *seen)
{
	bool *compared = arg;
	struct cdm_error err = CDM_ERROR_INIT;
	_cleanup_free_ char *output = NULL;
	const char *const words[] = {"set", "adopt", LAB_SET, "--node", "n2", "--json", "--dry-run", NULL};
	int r = lab_cdmctl(lab, words, &output, &err);
	snprintf(seen, 512, "%.400s", r < 0 ? err.text : output);
	*compared |= r == 0;
	return r == 0 || strstr(err.text, "no other node of the set can be reached that is ready");
}

static void n2_compares_with_nobody(void)
{
	struct cdm_error err = CDM_ERROR_INIT;
	bool compared = false;
	if (lab_wait_for(n2_refuses, &compared, STORY_MS, "n2 compares with nobody", &err) < 0)
		fail_msg("%s", err.text);
	if (compared)
		fail_msg("n2 compared its tree with its child's");
}

/* n2 stands between n1, who is gone, or there and not ready, and n3, who is ready all the time. */
static void it_does_not_compare_with_a_child(void **state)
{
	administrator("route", "set", LAB_SET, "n2", "--parent", "n1", NULL);
	administrator("route", "set", LAB_SET, "n3", "--parent", "n2", NULL);
	save("n1", "by-the-table", "x");
	in_sync();
	ended("n1", LAB_HOLDER);
	killed("n1", LAB_REPLICATOR);
	save("n2", "without-n1", "x");
	gets_text("n3", "without-n1", "x");
	n2_compares_with_nobody();
	started("n1", LAB_REPLICATOR); /* its set is not mounted */
	n2_compares_with_nobody();
	killed("n3", LAB_REPLICATOR);
	started("n3", LAB_REPLICATOR);
	save("n2", "beside-n1", "x");
	gets_text("n3", "beside-n1", "x");
	n2_compares_with_nobody();
	started("n1", LAB_SERVER);
	in_sync();
}

int main(void)
{
	static const struct CMUnitTest stories[] = {
		cmocka_unit_test(a_dry_run_changes_nothing),
		cmocka_unit_test(the_mount_adopts_it),
		cmocka_unit_test(what_only_it_has_goes_when_asked),
		cmocka_unit_test(it_does_not_compare_with_a_child),
	};
	return STORIES("165", ((struct lab_options){.nodes = 3, .sources = "n1,n2", .local = "cache/**,config.local.php"}), stories);
}
