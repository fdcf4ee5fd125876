/* SPDX-License-Identifier: Apache-2.0 */
/* An author signs what it made, and every node checks that, whoever carried it there. n1 writes; n2 carries to n3, and alters it on the way: its store is
 * changed past the mount while n3 is away. Or it holds back what n1 signed: a program speaks in its name then. Made-up seals: 320_hostile_peer. */
#include "tests/cluster/hostile.h"
#include "replicator/seal_codec.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool has_logged(const char *node, const char *event, const char *words)
{
	return shell_status("n1", NULL, "grep 'event=%s ' %s/logs/%s-replicator.log | grep -q '%s'", event, lab_dir(lab), node, words) == 0;
}

static void logs(const char *node, const char *event, const char *words)
{
	comes_about("grep 'event=%s ' %s/logs/%s-replicator.log | grep -q '%s'", event, lab_dir(lab), node, words);
}

/* n1 feeds n2, n2 feeds n3. */
static void in_a_row(void)
{
	administrator("route", "set", LAB_SET, "n2", "--parent", "n1", NULL);
	administrator("route", "set", LAB_SET, "n3", "--parent", "n2", NULL);
	comes_about("grep 'event=set_up.*as=\"parent\"' %s/logs/n3-replicator.log | tail -n 1 | grep -q 'peer=\"n2\"'", lab_dir(lab));
	in_sync();
}

/* n1 makes this while n3 is away, and n2 has checked it. */
static void made_while_n3_is_away(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void made_while_n3_is_away(const char *fmt, ...)
{
	char command[512];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(command, sizeof command, fmt, ap);
	va_end(ap);
	killed("n3", LAB_REPLICATOR);
	int64_t before = counter("n2", "seal_equal"); /* a content: the directory may have a seal of its own */
	shell("n1", "%s", command);
	counts("n2", "seal_equal", before + 1);
}

static void every_node_checks_what_an_author_signed(void **state)
{
	in_a_row();
	make_directory("n1", "checked");
	shell("n1", "cd checked && echo a > a && head -c 3M /dev/urandom > large && truncate -s 1M hole && ln -s a link && ln a also && setfattr -n user.k -v v a");
	save("n1", "checked/gone", "gone");
	counts("n2", "seal_equal", 4);
	counts("n3", "seal_equal", 4);
	shell("n1", "cd checked && rm gone && chmod 0750 . && touch -d 2001-01-01 a");
	in_sync();
	assert_true(counter("n1", "seals_made") >= 1 && counter("n1", "seals_taken") == 0);
	assert_int_equal(counter("n2", "seal_broken") + counter("n3", "seal_broken"), 0);
}

static void a_content_altered_on_its_way_is_found_and_replaced(void **state)
{
	make_directory("n1", "altered");
	in_sync();
	made_while_n3_is_away("echo 'pay to A' > altered/invoice");
	shell("n1", "cd %s/altered && touch -r invoice /tmp/$$ && printf B | dd of=invoice bs=1 seek=7 conv=notrunc status=none && touch -r /tmp/$$ invoice && rm /tmp/$$",
		lab_store(lab, "n2"));
	started("n3", LAB_REPLICATOR);
	gets_text("n3", "altered/invoice", "pay to B\n");
	logs("n3", "seal_broken", "path=\"altered/invoice\" author=\"n1\" peer=\"n2\"");
	gets_text("n3", "altered/invoice", "pay to A\n");
	logs("n3", "seal_mended", "altered/invoice");
	gets_text("n2", "altered/invoice", "pay to A\n"); /* who was told to look, and knows what its author signed */
	assert_false(has_logged("n1", "seal_broken", ""));
	has_text("n1", "altered/invoice", "pay to A\n");
	everywhere_equal_below("altered");
}

static void rights_given_on_the_way_are_found(void **state)
{
	make_directory("n1", "rights");
	in_sync();
	made_while_n3_is_away("echo '#!/bin/sh' > rights/run && chmod 0755 rights/run");
	shell("n1", "cd %s/rights && chmod 04755 run", lab_store(lab, "n2"));
	started("n3", LAB_REPLICATOR);
	logs("n3", "seal_broken", "path=\"rights/run\" author=\"n1\"");
	comes_about("CDMFS_CONFIG=%s/n3/node.conf cdmfs-stat %s | grep -q 'not what its author signed'", lab_dir(lab), LAB_SET);
	shell("n1", "chmod 0700 rights/run"); /* a later version is what counts */
	gets_text("n3", "rights/run", "#!/bin/sh\n");
	comes_about("! CDMFS_CONFIG=%s/n3/node.conf cdmfs-stat %s | grep -q 'author signed'", lab_dir(lab), LAB_SET);
}

/* --- held back --- */

#define LATE "2500" /* ms after which seals are missed here */

static atomic_bool holds_all;
static atomic_uint held_back; /* of those that tell of held/b */

static bool tells_of_b(const struct seal *seal)
{
	for (size_t i = 0; i < seal->count; i++)
		if (seal->names[i].path_len == 6 && memcmp(seal->names[i].path, "held/b", 6) == 0)
			return true;
	return false;
}

static bool drops(unsigned type, const uint8_t *payload, size_t len)
{
	static struct seal seal;
	if (type != FRAME_SEAL || seal_decode(payload, len, &seal) < 0)
		return false;
	bool of_b = tells_of_b(&seal);
	held_back += of_b;
	seal_fini(&seal);
	return holds_all || of_b;
}

/* The master would find another parent for n3. */
static struct hostile_relay *n2_lies(void)
{
	killed(NULL, LAB_MASTER);
	killed("n2", LAB_REPLICATOR);
	struct hostile *below = hostile_connect("n2", "n3", HOSTILE_HELLO, WIRE_FEATURE_SEALS);
	hostile_serves(below);
	struct hostile *above = hostile_connect("n2", "n1", HOSTILE_SET, WIRE_FEATURE_SEALS);
	return hostile_relay_begin(above, below, drops);
}

static void n2_is_honest_again(struct hostile_relay **r)
{
	hostile_relay_end(r);
	started(NULL, LAB_MASTER);
	started("n2", LAB_REPLICATOR);
}

/* n1 goes on saving meanwhile, and thereby tells its time. */
static void n3_says_that_seals_are_missing(int64_t before)
{
	comes_about("date > held/more; [ $(grep -c 'event=seal_missing .*author=\"n1\" peer=\"n2\" msg=\"changes from n1.* what n1 signed of them did not' %s/logs/n3-replicator.log) = %d ]",
		lab_dir(lab), (int)before + 1);
	comes_about("CDMFS_CONFIG=%s/n3/node.conf cdmfs-stat %s | grep -q 'what n1 signed of them did not'", lab_dir(lab), LAB_SET);
	assert_int_equal(counter("n3", "seal_missing"), before + 1);
}

static void n3_takes_that_back(int64_t before)
{
	comes_about("[ $(grep -c 'event=seal_found .*author=\"n1\"' %s/logs/n3-replicator.log) = %d ]", lab_dir(lab), (int)before + 1);
	comes_about("! CDMFS_CONFIG=%s/n3/node.conf cdmfs-stat %s | grep -q 'n1 signed'", lab_dir(lab), LAB_SET);
	everywhere_equal_below("held");
}

/* A file that is saved all the time is sealed every ten seconds only; that there is more to come is said meanwhile. */
static void an_author_at_work_is_not_missed(void **state)
{
	make_directory("n1", "work");
	in_sync();
	int64_t until = counter("n3", "seals_taken") + 10, deadline = cdm_now_ms() + STORY_MS; /* who signs has the lowest priority */
	while (counter("n3", "seals_taken") < until && cdm_now_ms() < deadline)
		shell("n1", "date > work/log");
	assert_true(counter("n3", "seals_taken") >= until);
	assert_int_equal(counter("n3", "seal_missing"), 0);
}

static bool is_held_back(void *arg, char *seen)
{
	snprintf(seen, 512, "%u seals of held/b", held_back);
	return held_back;
}

static void what_a_relay_holds_back_is_missed(void **state)
{
	in_a_row();
	int64_t taken = counter("n3", "seals_taken"), before = counter("n3", "seal_missing");
	make_directory("n1", "held");
	counts("n3", "seals_taken", taken + 1);
	struct hostile_relay *r = n2_lies();
	holds_all = true;
	save("n1", "held/a", "pay to A\n");
	gets_text("n3", "held/a", "pay to A\n");
	n3_says_that_seals_are_missing(before);
	holds_all = false;
	n2_is_honest_again(&r);
	n3_takes_that_back(before);
}

static void what_a_relay_holds_back_once_is_missed(void **state)
{
	in_a_row();
	shell("n1", "mkdir -p held");
	int64_t taken = counter("n3", "seals_taken"), before = counter("n3", "seal_missing");
	struct cdm_error err = CDM_ERROR_INIT;
	struct hostile_relay *r = n2_lies();
	save("n1", "held/b", "pay to B\n");
	gets_text("n3", "held/b", "pay to B\n");
	if (lab_wait_for(is_held_back, NULL, STORY_MS, "a seal", &err) < 0)
		fail_msg("%s", err.text);
	n3_says_that_seals_are_missing(before);
	assert_true(held_back == 1 && counter("n3", "seals_taken") > taken);
	n2_is_honest_again(&r);
	n3_takes_that_back(before);
	assert_int_equal(counter("n1", "seal_missing") + counter("n2", "seal_missing"), 0);
}

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(every_node_checks_what_an_author_signed),
		cmocka_unit_test(a_content_altered_on_its_way_is_found_and_replaced),
		cmocka_unit_test(rights_given_on_the_way_are_found),
		cmocka_unit_test(an_author_at_work_is_not_missed),
		cmocka_unit_test(what_a_relay_holds_back_is_missed),
		cmocka_unit_test(what_a_relay_holds_back_once_is_missed),
	};
	stories_alter = true;
	setenv("CDMFS_FAULT_MS", "seal_late=" LATE, 1);
	return STORIES("seals", ((struct lab_options){.nodes = 3, .sources = "n1"}), stories);
}
