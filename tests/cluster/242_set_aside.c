/* SPDX-License-Identifier: Apache-2.0 */
/* A change that cannot be applied at one node is set aside there: what was saved is not lost for that, whatever is compared and rescanned
 * meanwhile. The directory of n2's store is immutable while the change comes. All nodes save. */
#include "tests/cluster/story.h"

#include <stdlib.h>
#include <string.h>

static void immutable(const char *dir)
{
	shell("n2", "chattr +i %s/%s", lab_store(lab, "n2"), dir);
}

static void writable(const char *dir)
{
	shell("n2", "chattr -i %s/%s", lab_store(lab, "n2"), dir);
}

/* A new directory, immutable at n2, and a file in it that n2 sets aside. */
static void set_aside(const char *dir, const char *file)
{
	make_directory("n1", dir);
	everywhere_equal();
	int64_t before = counter("n2", "quarantined");
	immutable(dir);
	save("n1", file, "saved");
	counts("n2", "quarantined", before + 1);
}

/* Not while trees are compared there for another reason. The caller frees. */
static bool is_rescanned(void *arg, char *seen)
{
	char **said = arg;
	free(*said);
	*said = NULL;
	int status = shell_status("n1", said, "cdmctl rescan " LAB_SET ":rescan --node n2");
	snprintf(seen, 512, "%.400s", *said);
	return status == 0;
}

/* n2's vector covers it, and n2 does not have it: that is what a removal past the mount looks like. */
static void a_rescan_does_not_take_it_for_a_removal(void **state)
{
	_cleanup_free_ char *said = NULL;
	struct cdm_error err = CDM_ERROR_INIT;
	administrator("route", "set", LAB_SET, "n2", "--parent", "n1", NULL);
	administrator("route", "set", LAB_SET, "n3", "--parent", "n1", NULL);
	set_aside("rescan", "rescan/new");
	int r = lab_wait_for(is_rescanned, &said, STORY_MS, "a rescan", &err);
	writable("rescan");
	if (r < 0)
		fail_msg("%s", err.text);
	if (!strstr(said, "gone 0   set aside before 1, fetched again"))
		fail_msg("cdmctl rescan said: %s", said);
	comes_about("cdmctl rescan " LAB_SET ":rescan --node n2");
	gets_text("n2", "rescan/new", "saved");
	everywhere_equal();
	has_text("n1", "rescan/new", "saved");
}

/* n1 saves, n2 passes it on to n3, and back. */
static void n2_is_between(void)
{
	administrator("route", "set", LAB_SET, "n2", "--parent", "n3", NULL);
	administrator("route", "set", LAB_SET, "n1", "--parent", "n2", NULL);
}

static void nothing_is_aside_at_n2(void)
{
	comes_about("cdmctl quarantine list | grep -q 'nothing is set aside' || { cdmctl quarantine list | cut -d' ' -f1 | xargs -n1 cdmctl quarantine retry; false; }");
	comes_about("test -z \"$(ls %s/.cdmfs/aside)\"", lab_store(lab, "n2"));
}

/* Whatever n2 cannot do, n3 can. */
static void those_behind_get_it_all_the_same(void **state)
{
	n2_is_between();
	shell("n1", "mkdir -p behind/sub && cd behind && head -c 3000000 /dev/urandom > large && head -c 200000 /dev/urandom > ranges && echo x > over && echo x > gone && "
		"echo x > from && echo x > of");
	everywhere_equal();
	immutable("behind");
	immutable("behind/ranges");
	shell("n1", "cd behind && echo y > new && echo y > over && head -c 3000000 /dev/urandom > large && head -c 5000000 /dev/urandom > spooled && "
		"dd if=/dev/urandom of=ranges bs=1000 seek=30 count=2 conv=notrunc status=none && rm gone && mkdir dir && echo z > dir/in && ln -s over link && "
		"mv from to && ln of another && mkfifo fifo");
	comes_about("cmp -s behind/spooled %s/behind/spooled && test -p %s/behind/fifo", lab_mount(lab, "n3"), lab_mount(lab, "n3"));
	shell("n1", "diff -r --exclude fifo behind %s/behind", lab_mount(lab, "n3"));
	shell("n3", "test behind/another -ef behind/of && test ! -e behind/from && test ! -e behind/gone && test ! -e %s/behind/new", lab_mount(lab, "n2"));
	writable("behind/ranges");
	writable("behind");
	nothing_is_aside_at_n2();
	everywhere_equal();
}

/* One alone, so that nothing else makes trees be compared: the name is there, and is not what it should be. */
static void whatever_it_was_it_is_tried_again(void **state)
{
	static const char *const changes[] = {"rm file", "echo y > file", "chmod 600 file", "setfattr -n user.x -v y file", "mv file moved", "rmdir sub"};
	char dir[16];
	n2_is_between();
	for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
		snprintf(dir, sizeof dir, "one-%zu", i);
		shell("n1", "mkdir -p %s/sub && echo x > %s/file", dir, dir);
		everywhere_equal();
		int64_t before = counter("n2", "quarantined");
		shell("n2", "cd %s && chattr +i %s/file %s", lab_store(lab, "n2"), dir, dir);
		shell("n1", "cd %s && %s", dir, changes[i]);
		counts("n2", "quarantined", before + 1);
		comes_about("cdmfs-stat " LAB_SET " --json | jq -e '.nodes[] | select(.name == \"n2\") | .state == \"behind\"'");
		shell("n2", "cd %s && chattr -i %s/file %s", lab_store(lab, "n2"), dir, dir);
		nothing_is_aside_at_n2();
		everywhere_equal();
	}
}

/* It comes later, and finds it in n2's journal. */
static void who_was_away_gets_it_too(void **state)
{
	n2_is_between();
	make_directory("n1", "away");
	everywhere_equal();
	killed("n3", LAB_REPLICATOR);
	int64_t before = counter("n2", "quarantined");
	immutable("away");
	save("n1", "away/new", "saved");
	counts("n2", "quarantined", before + 1);
	killed("n2", LAB_REPLICATOR);
	started("n2", LAB_REPLICATOR);
	killed("n1", LAB_REPLICATOR);
	started("n3", LAB_REPLICATOR);
	gets_text("n3", "away/new", "saved");
	writable("away");
	started("n1", LAB_REPLICATOR);
	nothing_is_aside_at_n2();
	everywhere_equal();
}

static bool is_at_n1(void)
{
	return shell_status("n1", NULL, "cat relay/only %s/.cdmfs/conflicts/* 2>/dev/null | grep -q mine", lab_store(lab, "n1")) == 0;
}

/* Set aside by a relay: whoever is behind it never got it, and knows it by its vector. Its author, compared with such a node after a conflict, has the only copy. */
static void the_only_copy_is_kept_where_it_was_made(void **state)
{
	administrator("route", "set", LAB_SET, "n2", "--parent", "n3", NULL);
	administrator("route", "set", LAB_SET, "n1", "--parent", "n2", NULL);
	make_directory("n1", "relay");
	everywhere_equal();
	int64_t before = counter("n2", "quarantined");
	immutable("relay");
	save("n1", "relay/only", "mine\n");
	counts("n2", "quarantined", before + 1);
	writable("relay");
	administrator("route", "set", LAB_SET, "n1", "--parent", "n3", NULL);
	shell("n1", "touch %s/.cdmfs/doubt", lab_store(lab, "n1")); /* authors met, and that is not settled yet */
	node_killed("n1");
	node_started("n1");
	counts("n1", "verify_count", 1);
	comes_about("cdmfs-stat " LAB_SET " --json | jq -e '.nodes[] | select(.name == \"n1\") | .state == \"in sync\"'");
	assert_true(is_at_n1());
}

/* The first word of the line about this path on this node; "" if there is none. The caller frees. */
static char *id_of(const char *noun, const char *where)
{
	char *said = NULL;
	shell_status("n1", &said, "cdmctl %s list | grep -F '%s' | cut -d' ' -f1 | tr -d '\n'", noun, where);
	return said;
}

static void it_is_listed_and_tried_again(void **state)
{
	set_aside("listed", "listed/new");
	_cleanup_free_ char *id = id_of("quarantine", LAB_SET ":listed/new on n2: ");
	shell("n1", "cdmctl quarantine list | grep -q '^%s .*Operation not permitted$'", id);
	shell("n1", "cdmctl quarantine list --json | jq -e '.quarantine[] | select(.id == \"%s\") | .node == \"n2\" and .path == \"listed/new\"'", id);
	_cleanup_free_ char *there = lab_path(lab, "n2", "listed/new");
	shell("n2", "cdmfs-stat %s | grep -q 'quarantined %s: SAVE'", there, id);
	comes_about("cdmfs-stat listed/new | grep -q 'n2: may lack it: [12] path'; test \"${PIPESTATUS[*]}\" = '3 0'");
	writable("listed");
	comes_about("cdmctl quarantine list | grep -q %s && cdmctl quarantine retry %s || cdmctl quarantine list | grep -q 'nothing is set aside'", id, id);
	gets_text("n2", "listed/new", "saved");
	everywhere_equal();
	_cleanup_free_ char *none = id_of("quarantine", LAB_SET ":listed/new on n2: ");
	assert_string_equal(none, "");
}

/* What is given up is lacking there, and that does not make a removal of it. */
static void it_is_given_up(void **state)
{
	set_aside("given", "given/up");
	_cleanup_free_ char *id = id_of("quarantine", LAB_SET ":given/up on n2: ");
	shell("n1", "cdmctl quarantine drop %s --dry-run && cdmctl quarantine drop %s", id, id);
	assert_int_equal(shell_status("n1", NULL, "cdmctl quarantine drop %s", id), 1);
	writable("given");
	comes_about("cdmctl rescan " LAB_SET ":given --node n2");
	gets_text("n2", "given/up", "saved");
	has_text("n1", "given/up", "saved");
	everywhere_equal();
}

/* Both save while n2 is alone; the one of the two that lost is at n1. With blanks, a percent sign and a newline in its name. */
#define LOST "kept/a %2F\nb"
static char *lost_at_n1(const char *text)
{
	killed("n2", LAB_REPLICATOR);
	save("n1", LOST, text);
	save("n2", LOST, "came later");
	started("n2", LAB_REPLICATOR);
	gets_text("n1", LOST, "came later");
	everywhere_equal();
	return id_of("conflict", " on n1  version n1:");
}

static void what_lost_is_taken(void **state)
{
	make_directory("n1", "kept");
	everywhere_equal();
	_cleanup_free_ char *id = lost_at_n1("lost");
	shell("n1", "cdmctl conflict show %s | grep -q '^file, mode 06'", id);
	shell("n1", "cat \"$(cdmctl conflict show %s --json | jq -r .file)\" | grep -q lost", id);
	shell("n1", "cdmctl conflict take %s --dry-run", id);
	has_text("n1", LOST, "came later");
	shell("n1", "cdmctl conflict take %s", id);
	gets_text("n2", LOST, "lost");
	gets_text("n3", LOST, "lost");
	everywhere_equal();
	assert_int_equal(shell_status("n1", NULL, "cdmctl conflict show %s", id), 1);
}

static void or_dropped(void **state)
{
	_cleanup_free_ char *id = lost_at_n1("lost again");
	int before = (int)kept_files("n1", "conflicts");
	shell("n1", "cdmctl conflict drop %s", id);
	assert_int_equal(kept_files("n1", "conflicts"), before - 1);
	has_text("n1", LOST, "came later");
	everywhere_equal();
}

/* A node that only receives has nothing to take it with. */
static void who_only_receives_takes_nothing(void **state)
{
	_cleanup_free_ char *said = NULL, *id = lost_at_n1("lost once more");
	administrator("route", "set", LAB_SET, "n2", "--auto", NULL);
	administrator("route", "set", LAB_SET, "n3", "--auto", NULL);
	administrator("set", "change", LAB_SET, "--both", "n2,n3", "--target", "n1", NULL);
	comes_about("jq -e '.sets[0].role == \"target\"' %s/n1/state/routes.json", lab_dir(lab));
	assert_int_equal(shell_status("n1", &said, "cdmctl conflict take %s 2>&1", id), 5);
	if (!strstr(said, "only receives the set"))
		fail_msg("%s", said);
	shell("n1", "cdmctl conflict show %s", id);
	has_text("n1", LOST, "came later");
	administrator("set", "change", LAB_SET, "--both", "n1,n2,n3", NULL);
	comes_about("touch writable");
	everywhere_equal();
}

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(a_rescan_does_not_take_it_for_a_removal),
		cmocka_unit_test(it_is_listed_and_tried_again),
		cmocka_unit_test(it_is_given_up),
		cmocka_unit_test(what_lost_is_taken),
		cmocka_unit_test(or_dropped),
		cmocka_unit_test(who_only_receives_takes_nothing),
		cmocka_unit_test(those_behind_get_it_all_the_same),
		cmocka_unit_test(whatever_it_was_it_is_tried_again),
		cmocka_unit_test(who_was_away_gets_it_too),
		cmocka_unit_test(the_only_copy_is_kept_where_it_was_made),
	};
	stories_alter = true; /* n3 lacks what n1 signed */
	return STORIES("set_aside", ((struct lab_options){.nodes = 3}), stories);
}
