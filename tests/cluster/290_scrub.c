/* SPDX-License-Identifier: Apache-2.0 */
/* A scrub compares what is on the disks by digests: an equal set is proven, a copy that rotted is found and mended from a
 * neighbour, also at the origin of the content; what is only being changed is no difference. n1 saves, n2 and n3 are pure targets. */
#include "tests/cluster/story.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* One byte in the node's store is another one from now on; nothing else tells of it. */
static void rots(const char *node, const char *path, off_t at)
{
	char *in_store = lab_store_path(lab, node, path), byte;
	int fd = open(in_store, O_RDWR | O_CLOEXEC);
	struct stat st;
	assert_true(fd >= 0 && fstat(fd, &st) == 0 && pread(fd, &byte, 1, at) == 1);
	byte ^= 0x10;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	assert_int_equal(futimens(fd, (struct timespec[2]){st.st_atim, st.st_mtim}), 0);
	close(fd);
	free(in_store);
}

/* What is in the store there; the caller frees. */
static char *on_disk(const char *node, const char *path)
{
	char *said = NULL;
	assert_int_equal(shell_status(node, &said, "md5sum < %s/%s", lab_store(lab, node), path), 0);
	return said;
}

static void same_on_disk(const char *path, char *expected)
{
	for (unsigned i = 0; i < lab_node_count(lab); i++) {
		char *here = on_disk(lab_node_name(lab, i), path);
		assert_string_equal(here, expected);
		free(here);
	}
}

struct counted {
	const char *node, *name;
	int64_t least;
};

/* A scrub there, from its beginning to its end. */
static void scrubbed(const char *node)
{
	int64_t before = counter(node, "scrubs");
	administrator("scrub", LAB_SET, node, NULL);
	counts(node, "scrubs", before + 1);
}

static bool begins_with_n1(void *arg, char *seen)
{
	struct counted *c = arg;
	_cleanup_free_ char *said = NULL;
	c->least = counter(c->node, "scrubs") + 1;
	shell_status(c->node, &said, "cdmctl scrub %s %s", LAB_SET, c->node);
	snprintf(seen, 512, "%.400s", said);
	return strstr(said, "begins, with n1");
}

/* The same beside n1, which is its parent from now on. */
static void scrubbed_with_n1(const char *node)
{
	struct counted c = {.node = node};
	struct cdm_error err = CDM_ERROR_INIT;
	administrator("route", "set", LAB_SET, node, "--parent", "n1", NULL);
	if (lab_wait_for(begins_with_n1, &c, STORY_MS, "a scrub beside n1", &err) < 0)
		fail_msg("%s", err.text);
	counts(node, "scrubs", c.least);
}

static bool is_proven(const char *node)
{
	_cleanup_free_ char *said = NULL;
	shell_status(node, &said, "cdmfs-stat %s --node %s", LAB_SET, node);
	return strstr(said, "proven equal");
}

/* When, by its own word; 0: not yet. */
static int64_t proven_s(const char *node)
{
	json_t *request = json_pack("{s:s, s:s}", "cmd", "status", "set", LAB_SET), *answer = NULL, *n;
	struct cdm_error err = CDM_ERROR_INIT;
	size_t i;
	int64_t when = 0;
	assert_int_equal(lab_control(lab, node, request, STORY_MS, &answer, &err), 0);
	json_decref(request);
	json_array_foreach(json_object_get(answer, "nodes"), i, n)
		if (strcmp(json_string_value(json_object_get(n, "name")), node) == 0)
			when = json_integer_value(json_object_get(n, "proven_s"));
	json_decref(answer);
	return when;
}

struct metric {
	const char *node;
	int64_t value;
};

static bool is_in_the_metrics(void *arg, char *seen)
{
	struct metric *m = arg;
	char line[200];
	_cleanup_free_ char *said = NULL;
	shell_status(m->node, &said, "curl -s --cacert $CDMFS_CA -H \"Authorization: Bearer $(cat $CDMFS_TOKEN_FILE)\" $CDMFS_API/metrics");
	snprintf(line, sizeof line, "cdmfs_scrub_last_success_timestamp_seconds{set=\"%s\",node=\"%s\"} %lld\n", LAB_SET, m->node, (long long)m->value);
	const char *found = strstr(said, "cdmfs_scrub");
	snprintf(seen, 512, "%.400s", found ? found : said);
	return strstr(said, line);
}

static void in_the_metrics(const char *node, int64_t value)
{
	struct metric m = {node, value};
	struct cdm_error err = CDM_ERROR_INIT;
	if (lab_wait_for(is_in_the_metrics, &m, STORY_MS, "the master's metrics", &err) < 0)
		fail_msg("%s", err.text);
}

static bool is_in_store(void *arg, char *seen)
{
	snprintf(seen, 512, "no %s", (char *)arg);
	return access(arg, F_OK) == 0;
}

static void comes_back(const char *node, const char *path)
{
	_cleanup_free_ char *in_store = lab_store_path(lab, node, path);
	struct cdm_error err = CDM_ERROR_INIT;
	if (lab_wait_for(is_in_store, in_store, STORY_MS, "a name in the store", &err) < 0)
		fail_msg("%s", err.text);
}

/* The author has signed them, too: what rots before that is another story. */
static void made(const char *dir)
{
	int64_t sealed2 = counter("n2", "seal_equal"), sealed3 = counter("n3", "seal_equal");
	shell("n1", "mkdir -p %s/sub && cd %s && for i in 1 2 3 4 5; do echo content-$i > f$i; head -c 300000 /dev/urandom > sub/g$i; done; "
		"truncate -s 1M sub/hole; echo end >> sub/hole; ln -s f1 sub/link; setfattr -n user.a -v b f2", dir, dir);
	everywhere_equal();
	counts("n2", "seal_equal", sealed2 + 10);
	counts("n3", "seal_equal", sealed3 + 10);
}

static void an_equal_set_is_proven(void **state)
{
	made("equal");
	assert_false(is_proven("n2"));
	for (unsigned i = 0; i < lab_node_count(lab); i++) {
		const char *node = lab_node_name(lab, i);
		scrubbed(node);
		assert_int_equal(counter(node, "scrub_differences"), 0);
		assert_true(counter(node, "scrub_files") >= 11);
		assert_true(proven_s(node) > 0);
		assert_true(is_proven(node));
	}
	in_the_metrics("n2", proven_s("n2"));
	int64_t before = proven_s("n2");
	killed("n2", LAB_REPLICATOR);
	started("n2", LAB_REPLICATOR);
	in_sync();
	assert_int_equal(proven_s("n2"), before); /* kept over the restart */
}

static void a_target_that_rotted_is_mended(void **state)
{
	made("target");
	char *small = on_disk("n1", "target/f3"), *large = on_disk("n1", "target/sub/g2");
	unsigned kept = kept_files("n2", "conflicts");
	int64_t mended = counter("n2", "scrub_mended"), proven = proven_s("n2");
	rots("n2", "target/f3", 4);
	rots("n2", "target/sub/g2", 299999);
	scrubbed("n2");
	counts("n2", "scrub_mended", mended + 2);
	same_on_disk("target/f3", small);
	same_on_disk("target/sub/g2", large);
	has_text("n2", "target/f3", "content-3\n");
	assert_int_equal(kept_files("n2", "conflicts"), kept + 2);
	assert_int_equal(proven_s("n2"), proven);
	everywhere_equal();
	scrubbed("n2");
	assert_int_equal(counter("n2", "scrub_mended"), mended + 2);
	assert_true(proven_s("n2") > proven);
	free(small);
	free(large);
}

/* Contents that travel apart from the answer, whole or as a delta of what is here: a byte in one of them, the end of another one cut off. */
static void a_large_file_that_rotted_is_mended(void **state)
{
	shell("n1", "mkdir large && head -c 5000000 /dev/urandom > large/a && cp large/a large/b && head -c 2000000 /dev/urandom > large/c");
	everywhere_equal();
	char *a = on_disk("n1", "large/a"), *b = on_disk("n1", "large/b"), *c = on_disk("n1", "large/c");
	int64_t mended = counter("n2", "scrub_mended");
	rots("n2", "large/a", 4999999);
	rots("n2", "large/c", 0);
	shell("n2", "cd %s/large && touch -r b ../.cdmfs/time && truncate -s 3000000 b && touch -r ../.cdmfs/time b && rm ../.cdmfs/time", lab_store(lab, "n2"));
	scrubbed("n2");
	counts("n2", "scrub_mended", mended + 3);
	same_on_disk("large/a", a);
	same_on_disk("large/b", b);
	same_on_disk("large/c", c);
	everywhere_equal();
	free(a);
	free(b);
	free(c);
}

/* What n1 sent it has the signature of; small files have none, there two neighbours count more than one. */
/* The right one comes from who has it, not from the node that large contents are otherwise taken from. */
static void a_large_file_that_rotted_on_two_is_mended(void **state)
{
	shell("n1", "mkdir -p large && head -c 4000000 /dev/urandom > large/d");
	everywhere_equal();
	char *d = on_disk("n1", "large/d");
	int64_t third = counter("n3", "scrub_mended");
	rots("n2", "large/d", 3000000);
	rots("n3", "large/d", 1000000);
	killed("n2", LAB_REPLICATOR); /* and with it the digest of what it had fetched */
	started("n2", LAB_REPLICATOR);
	in_sync();
	scrubbed_with_n1("n3"); /* n2 is before it in the ring */
	counts("n3", "scrub_mended", third + 1);
	scrubbed_with_n1("n2");
	counts("n2", "scrub_mended", 1);
	same_on_disk("large/d", d);
	everywhere_equal();
	free(d);
}

static void a_source_that_rotted_gets_a_good_copy_back(void **state)
{
	made("source");
	char *good = on_disk("n2", "source/sub/g4");
	unsigned kept = kept_files("n1", "conflicts"), kept2 = kept_files("n2", "conflicts");
	int64_t mended = counter("n1", "scrub_mended"), mended2 = counter("n2", "scrub_mended"), fresh = counter("n1", "changes_sent");
	rots("n1", "source/sub/g4", 0);
	scrubbed_with_n1("n2"); /* it finds that n1 is wrong, and tells it */
	counts("n1", "scrub_mended", mended + 1);
	same_on_disk("source/sub/g4", good);
	assert_int_equal(kept_files("n1", "conflicts"), kept + 1);
	assert_int_equal(kept_files("n2", "conflicts"), kept2);
	assert_int_equal(counter("n2", "scrub_mended"), mended2);
	assert_int_equal(counter("n1", "changes_sent"), fresh); /* it is no change */
	scrubbed_with_n1("n3"); /* that is n1's neighbour, too */
	rots("n1", "source/f1", 1);
	scrubbed("n1"); /* it finds out by itself: two against one */
	counts("n1", "scrub_mended", mended + 2);
	has_text("n1", "source/f1", "content-1\n");
	everywhere_equal();
	free(good);
}

/* Two are wrong in the same way; who sent it knows that they are. */
static void a_source_that_is_right_is_not_outvoted(void **state)
{
	made("outvoted");
	char *good = on_disk("n1", "outvoted/sub/g3");
	scrubbed_with_n1("n2");
	scrubbed_with_n1("n3");
	int64_t mended = counter("n1", "scrub_mended"), mended2 = counter("n2", "scrub_mended"), mended3 = counter("n3", "scrub_mended");
	rots("n2", "outvoted/sub/g3", 7);
	rots("n3", "outvoted/sub/g3", 7);
	scrubbed("n1");
	counts("n2", "scrub_mended", mended2 + 1);
	counts("n3", "scrub_mended", mended3 + 1);
	assert_int_equal(counter("n1", "scrub_mended"), mended);
	same_on_disk("outvoted/sub/g3", good);
	free(good);
}

/* One against one: the source's signature of what it sent tells that it is the source's copy that is wrong. */
static void of_two_the_one_that_sent_it_knows_better(void **state)
{
	made("two");
	killed("n3", LAB_REPLICATOR);
	char *good = on_disk("n2", "two/sub/g5");
	int64_t mended = counter("n1", "scrub_mended"), mended2 = counter("n2", "scrub_mended");
	rots("n1", "two/sub/g5", 150000);
	rots("n2", "two/sub/g1", 150000);
	scrubbed_with_n1("n2");
	counts("n1", "scrub_mended", mended + 1);
	counts("n2", "scrub_mended", mended2 + 1);
	char *here = on_disk("n1", "two/sub/g5"), *there = on_disk("n2", "two/sub/g5");
	assert_string_equal(here, good);
	assert_string_equal(there, good);
	free(here);
	free(there);
	free(good);
	started("n3", LAB_REPLICATOR);
	everywhere_equal();
}

static void a_file_with_two_names_stays_one_file(void **state)
{
	shell("n1", "mkdir links && cd links && echo linked-content > a && ln a b");
	everywhere_equal();
	rots("n3", "links/a", 2);
	scrubbed("n3");
	counts("n3", "scrub_mended", 1);
	everywhere_equal();
	has_text("n3", "links/b", "linked-content\n");
}

static void what_is_changed_meanwhile_is_no_difference(void **state)
{
	int64_t before[3];
	make_directory("n1", "busy");
	for (unsigned i = 0; i < 3; i++)
		before[i] = counter(lab_node_name(lab, i), "scrub_differences");
	struct load *load = load_begin("n1", "busy", 8, LOAD_MIXED);
	for (unsigned i = 0; i < lab_node_count(lab); i++)
		scrubbed(lab_node_name(lab, i));
	assert_true(load_end(load) > 0);
	everywhere_equal();
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(counter(lab_node_name(lab, i), "scrub_differences"), before[i]);
}

/* The last proof as it is kept: cdmfs-stat shows none of a node that something ails. */
static char *proof_kept(const char *node)
{
	char *said = NULL;
	assert_int_equal(shell_status(node, &said, "jq .proven_s %s/.cdmfs/scrub", lab_store(lab, node)), 0);
	return said;
}

static void names_that_went_past_the_mount_are_found_and_repaired(void **state)
{
	made("names");
	int64_t differences = counter("n3", "scrub_differences");
	_cleanup_free_ char *proven = proof_kept("n3");
	shell("n3", "rm %s/names/f2 && chmod 600 %s/names/sub/g1", lab_store(lab, "n3"), lab_store(lab, "n3"));
	scrubbed("n3");
	assert_int_equal(counter("n3", "scrub_differences"), differences + 2);
	_cleanup_free_ char *now = proof_kept("n3");
	assert_string_equal(now, proven);
	comes_back("n3", "names/f2"); /* in the store: the kernel has not missed it */
	everywhere_equal();
}

static void a_scrub_that_was_killed_begins_anew(void **state)
{
	shell("n1", "mkdir long && head -c 60M /dev/urandom > long/file");
	everywhere_equal();
	int64_t proven = proven_s("n2");
	administrator("scrub", LAB_SET, "n2", NULL);
	comes_about("jq -e '.due_s <= now' %s/.cdmfs/scrub", lab_store(lab, "n2"));
	killed("n2", LAB_REPLICATOR);
	started("n2", LAB_REPLICATOR);
	counts("n2", "scrubs", 1);
	assert_true(proven_s("n2") > proven);
}

static void without_a_neighbour_it_is_refused(void **state)
{
	_cleanup_free_ char *said = NULL;
	killed("n1", LAB_REPLICATOR);
	killed("n3", LAB_REPLICATOR);
	int64_t scrubs = counter("n2", "scrubs");
	for (int tries = 0; tries < 100 && (!said || !strstr(said, "no neighbour")); tries++) {
		free(said);
		said = NULL;
		shell_status("n2", &said, "cdmctl scrub %s n2; sleep 0.1", LAB_SET);
	}
	assert_non_null(strstr(said, "no neighbour"));
	assert_int_equal(counter("n2", "scrubs"), scrubs);
	started("n1", LAB_REPLICATOR);
	started("n3", LAB_REPLICATOR);
	everywhere_equal();
	scrubbed("n2");
}

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(an_equal_set_is_proven),
		cmocka_unit_test(a_target_that_rotted_is_mended),
		cmocka_unit_test(a_large_file_that_rotted_is_mended),
		cmocka_unit_test(a_large_file_that_rotted_on_two_is_mended),
		cmocka_unit_test(a_source_that_rotted_gets_a_good_copy_back),
		cmocka_unit_test(a_source_that_is_right_is_not_outvoted),
		cmocka_unit_test(of_two_the_one_that_sent_it_knows_better),
		cmocka_unit_test(a_file_with_two_names_stays_one_file),
		cmocka_unit_test(what_is_changed_meanwhile_is_no_difference),
		cmocka_unit_test(names_that_went_past_the_mount_are_found_and_repaired),
		cmocka_unit_test(a_scrub_that_was_killed_begins_anew),
		cmocka_unit_test(without_a_neighbour_it_is_refused),
	};
	stories_alter = true;
	return STORIES("scrub", ((struct lab_options){.nodes = 3, .sources = "n1"}), stories);
}
