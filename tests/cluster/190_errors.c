/* SPDX-License-Identifier: Apache-2.0 */
/* Bad input and trouble: a clear message that says what to do, nobody else affected, nothing lost. */
#include "tests/cluster/story.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

/* -- what people do wrong ---------------------------------------------------------------------------------------- */

/* Commands are run at n1 by a shell in a scratch directory with: $MNT its mount, $STORE its store, $AGENTS the master's port for nodes,
 * $TOKEN a token that is good once; `conf` makes a node.conf of a node that has not joined, `member` of one that has. */
struct mistake {
	const char *what, *command;
	int status;
	const char *says[3]; /* each must be in what it says; the last ones are the advice */
};

static const struct mistake mistakes[] = {
	{"unknown set, mount", "mkdir m && cdmfs nosuch m", 1, {"unknown set", "nosuch", "www"}},
	{"unknown set, stat", "cdmfs-stat nosuch", 1, {"nosuch", "www"}},
	{"mountpoint in use", "cdmfs www $MNT", 1, {"mounted"}},
	{"mountpoint not empty", "member && mkdir store m && : > m/file && cdmfs www m", 1, {"not empty", "file", "nonempty"}},
	{"mountpoint missing", "member && mkdir store && cdmfs www nowhere", 1, {"nowhere", "mkdir"}},
	{"store missing", "member && mkdir m && cdmfs www m", 1, {"store", "No such file", "mkdir"}},
	{"store on a read-only filesystem", "member && mkdir m store && mount -t tmpfs -o ro none store && { cdmfs www m; s=$?; umount store; exit $s; }",
		1, {"store"}},
	{"store inside the mountpoint", "member && mkdir -p m/store && sed -i s,/store,/m/store, node.conf && cdmfs www m", 1, {"store", "under the mountpoint"}},
	{"unknown mount option", "cdmfs www m -o bogus", 2, {"bogus", "--help"}},
	{"malformed configuration", "conf && echo stoer=x >> node.conf && cdmfs www m", 1, {"line", "stoer", "store"}},
	{"no configuration", "CDMFS_CONFIG=none.conf cdm-replicator", 1, {"none.conf", "No such file"}},
	{"not joined", "conf && cdm-replicator", 1, {"not joined", "cdmctl node token"}},
	{"second replicator", "cdm-replicator", 1, {"another replicator"}},
	{"second master", "cdm-master --dir $CDMFS_LAB/master --listen-api 127.0.0.1:0 --listen-agents 127.0.0.1:0", 1, {"another cdm-master"}},
	{"not a token", "conf && cdm-replicator join $AGENTS --token K10bad", 1, {"token", "cdmctl node token"}},
	{"token of another master",
		"conf && cdm-replicator join $AGENTS --token $(printf 'K10%064d.%08d.%032d' 0 0 0)", 1, {"not the master"}},
	{"guessed token", "conf && cdm-replicator join $AGENTS --token ${TOKEN%.*}.$(printf %032d 0)", 1, {"token", "expired", "cdmctl node token"}},
	{"token used twice",
		"conf && cdm-replicator join $AGENTS --token $TOKEN --name once >&2 && cdmctl node remove once --yes >&2; rm -r state; "
		"cdm-replicator join $AGENTS --token $TOKEN --name twice", 1, {"token", "used up", "cdmctl node token"}},
	{"token expired", "conf && cdm-replicator join $AGENTS --token $SHORT", 1, {"token", "expired", "cdmctl node token"}},
	{"name taken", "conf && cdm-replicator join $AGENTS --token $TOKEN --name n1", 5, {"n1", "--name"}},
	{"master not there", "conf && cdm-replicator join 127.0.0.1:1 --token $TOKEN", 1, {"127.0.0.1:1", "refused"}},
	{"bad set name", "cdmctl set add ../x --both @all", 2, {"../x", "a-z"}},
	{"set exists", "cdmctl set add www --both @all", 5, {"www"}},
	{"unknown node", "cdmctl set add other --both nosuch", 1, {"nosuch", "n1"}},
	{"unknown group", "cdmctl node token --group nosuch", 1, {"nosuch", "g1"}},
	{"unknown command", "cdmctl bogus", 2, {"bogus", "--help"}},
	{"wrong value", "cdmctl node change n1 --capacity 0", 2, {"capacity", "1 to 1000"}},
	{"half a command", "cdmctl stat", 2, {"did you mean status"}},
	{"unknown node, stat", "cdmfs-stat www --node nosuch", 1, {"no node nosuch"}},
	{"unknown group, wait", "cdmfs-stat www --wait --group nosuch", 1, {"nosuch"}},
	{"wait without its options", "cdmfs-stat www --timeout 3", 2, {"--wait"}},
	{"pause an unknown set", "cdmctl set pause nosuch", 1, {"nosuch", "known sets: www"}},
	{"pause an unknown group", "cdmctl set pause www --group nosuch", 1, {"nosuch", "g1"}},
	{"rescan an unknown path", "cdmctl rescan www:nosuch --node n1", 5, {"such a path", "from the set's root"}},
	{"rescan above the root", "cdmctl rescan www:a/../.. --node n1", 5, {"not a path below"}},
	{"remove without a yes", "cdmctl node remove n1 < /dev/null", 2, {"--yes", "--dry-run"}},
	{"certificates too short", "cdm-master --dir x --certificate-life 1s", 2, {"10s"}},
	{"wrong admin token", "echo wrong > t && CDMFS_TOKEN_FILE=t cdmctl status", 1, {"token"}},
	{"unknown option", "cdmfs-stat --bogus", 2, {"bogus"}},
};

static const char preamble[] =
	"set -u; s=$(mktemp -d) && cd $s && trap 'cd /; rm -rf $s' EXIT; MNT=%s STORE=%s AGENTS=%s TOKEN=%s SHORT=%s; "
	"conf() { printf '[node]\\nstate = %%s/state\\nrun = %%s/run\\nlisten = 127.0.0.1:1\\n[set www]\\nstore = %%s/store\\nmountpoint = %%s/m\\n' "
	"$s $s $s $s > node.conf; export CDMFS_CONFIG=$s/node.conf; }; member() { conf && cp -r $CDMFS_LAB/n1/state .; }; %s";

/* `cdmctl node token` with these words, only the token; the caller frees. */
static char *token(const char *words)
{
	_cleanup_free_ char *output = NULL;
	if (shell_status("n1", &output, "cdmctl node token --group g1 --json %s", words) != 0)
		fail_msg("cdmctl node token: %s", output);
	json_t *j = json_loads(output, 0, NULL);
	char *text = strdup(json_string_value(json_object_get(j, "token")) ?: "");
	json_decref(j);
	return text;
}

static char *agents(void)
{
	char *output = NULL;
	assert_int_equal(shell_status("n1", &output, "jq -j .agents %s/master/endpoints.json", lab_dir(lab)), 0);
	return output;
}

static void mistakes_are_said_with_advice(void **state)
{
	unsigned wrong = 0;
	_cleanup_free_ char *port = agents(), *brief = token("--ttl 1s");
	for (size_t i = 0; i < sizeof mistakes / sizeof *mistakes; i++) {
		const struct mistake *m = &mistakes[i];
		_cleanup_free_ char *once = token(""), *said = NULL;
		int status = shell_status("n1", &said, preamble, lab_mount(lab, "n1"), lab_store(lab, "n1"), port, once, brief, m->command);
		bool good = status == m->status;
		for (size_t k = 0; k < 3 && m->says[k]; k++)
			good = good && strcasestr(said, m->says[k]);
		if (!good) {
			print_error("%s: `%s` ended with %d (expected %d) and said: %s\n", m->what, m->command, status, m->status, said);
			wrong++;
		}
	}
	if (wrong)
		fail_msg("%u mistakes are not answered as they should be", wrong);
}

static void nothing_was_harmed_by_them(void **state)
{
	save("n1", "after-the-mistakes", "fine");
	gets_text("n3", "after-the-mistakes", "fine");
	everywhere_equal();
}

/* -- strangers --------------------------------------------------------------------------------------------------- */

static void strangers_at_the_ports_harm_nobody(void **state)
{
	static const char *const attacks[] = {
		"head -c 3M /dev/urandom > /dev/tcp/$host/$port",
		"printf 'GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' > /dev/tcp/$host/$port",
		"printf '\\xff\\xff\\xff\\xff\\x01\\x00\\x00\\x00' > /dev/tcp/$host/$port",
		"timeout 5 openssl s_client -connect $host:$port -tls1_2 < /dev/null",
		"head -c 100k /dev/urandom | timeout 5 openssl s_client -quiet -connect $host:$port",
		"openssl req -x509 -newkey ed25519 -nodes -keyout $k -out $c -subj /CN=n2 -days 1 && head -c 100k /dev/urandom | "
		"timeout 5 openssl s_client -quiet -connect $host:$port -cert $c -key $k",
		"for i in $(seq 200); do exec {f}<> /dev/tcp/$host/$port; printf x >&$f; done", /* half-open ones */
	};
	_cleanup_free_ char *port = agents();
	json_t *status = lab_status(lab);
	const char *n2 = json_string_value(json_object_get(json_array_get(json_object_get(status, "nodes"), 1), "addr"));
	for (size_t i = 0; i < sizeof attacks / sizeof *attacks; i++)
		for (int at = 0; at < 2; at++)
			shell("n1", "trap '' PIPE; k=$(mktemp) c=$(mktemp); at=%s%s; host=${at%%:*} port=${at##*:}; { %s; } > /dev/null 2>&1; rm -f $k $c; true",
				at ? port : n2, at ? "" : ":7441", attacks[i]);
	json_decref(status);
	save("n1", "after-the-strangers", "fine");
	gets_text("n2", "after-the-strangers", "fine");
	everywhere_equal();
}

/* -- trouble ----------------------------------------------------------------------------------------------------- */

static void everything_starts_without_the_master(void **state)
{
	killed(NULL, LAB_MASTER);
	killed("n1", LAB_REPLICATOR);
	killed("n1", LAB_HOLDER);
	killed("n1", LAB_SERVER);
	started("n1", LAB_HOLDER);
	save("n1", "saved-without-anybody", "in the journal");
	started("n1", LAB_REPLICATOR);
	gets_text("n3", "saved-without-anybody", "in the journal");
	started(NULL, LAB_MASTER);
	everywhere_equal();
}

static void a_file_that_changes_while_it_is_shipped(void **state)
{
	for (int i = 0; i < 5; i++)
		shell("n1", "head -c 8M /dev/urandom > restless; for k in 1 2 3 4 5 6; do printf $k | dd of=restless bs=1 seek=${k}000000 conv=notrunc status=none; done");
	everywhere_equal();
}

static void a_directory_renamed_while_its_files_are_shipped(void **state)
{
	shell("n1", "mkdir moving && for r in 1 2 3 4 5; do for i in $(seq 100); do echo $r.$i > moving/file-$i; done; mv moving moved; mv moved moving; done; "
		    "mv moving settled");
	everywhere_equal();
	has_text("n2", "settled/file-100", "5.100\n");
}

static void names_of_any_kind(void **state)
{
	shell("n1", "mkdir names && cd names && for c in $(seq 1 255); do o=$(printf '\\\\%%03o' $c); n=$(printf \"x${o}x.\"); n=${n%%.}; "
		    "case $n in */*) ;; *) : > \"$n\" ;; esac; done; d=.; for i in $(seq 200); do d=$d/$i; done; mkdir -p $d && echo deep > $d/file");
	everywhere_equal();
}

/* -- a full target ----------------------------------------------------------------------------------------------- */

/* n3 gets a store of its own of 48 MiB, empty: as a disk that was replaced. */
static void small_store(const char *node)
{
	_cleanup_free_ char *image = NULL;
	assert_true(asprintf(&image, "%s/%s/image", lab_dir(lab), node) >= 0);
	killed(node, LAB_HOLDER);
	killed(node, LAB_SERVER);
	killed(node, LAB_REPLICATOR);
	shell("n1", "cd / && umount -l %s %s/full; truncate -s 48M %s && mkfs.ext4 -q %s && mount -o loop %s %s && rmdir %s/lost+found", lab_mount(lab, node),
		lab_run_dir(lab, node), image, image, image, lab_store(lab, node), lab_store(lab, node));
	started(node, LAB_HOLDER);
	started(node, LAB_REPLICATOR);
}

static bool n1_sets_something_aside(void *arg, char *seen)
{
	_cleanup_free_ char *code = NULL;
	const bool *wanted = arg;
	shell_status("n1", &code, "cdmfs-stat www --json | jq -j '.nodes[] | select(.name == \"n1\") | .reason_code'");
	snprintf(seen, 512, "n1's reason is \"%.100s\"", code ?: "");
	return (strcmp(code ?: "", "unreadable") == 0) == *wanted;
}

static void what_cannot_be_read_is_set_aside_until_it_is_removed(void **state)
{
	struct cdm_error err = CDM_ERROR_INIT;
	bool yes = true, no = false;
	killed("n1", LAB_REPLICATOR);
	shell("n1", "mkdir unread && echo x > unread/file");
	shell("n1", "for i in $(seq 200); do test \"$(getfattr --absolute-names --only-values -n trusted.cdmfs.open %s/full)\" = '[]' && break; sleep .05; done", lab_run_dir(lab, "n1"));
	shell("n1", "setfattr -x trusted.cdmfs.version ../store/unread/file"); /* nobody can say which version it is */
	started("n1", LAB_REPLICATOR);
	if (lab_wait_for(n1_sets_something_aside, &yes, STORY_MS, "set aside", &err) < 0)
		fail_msg("%s", err.text);
	absent("n2", "unread/file");
	remove_tree("n1", "unread");
	if (lab_wait_for(n1_sets_something_aside, &no, STORY_MS, "nothing set aside", &err) < 0)
		fail_msg("%s", err.text);
	everywhere_equal();
}

static void a_replaced_disk_is_filled_again_and_when_full_waits_alone(void **state)
{
	_cleanup_free_ char *said = NULL;
	shell("n1", "rm -rf -- * && mkdir kept && for i in $(seq 100); do echo $i > kept/$i; done");
	everywhere_equal();
	shell("n3", "setfattr -n trusted.cdmfs.incarnation -v 70 %s/full", lab_run_dir(lab, "n3")); /* it has a long life behind it */
	save("n3", "by-n3", "with the old disk");
	everywhere_equal();
	small_store("n3");
	everywhere_equal(); /* the empty store does not win */
	save("n3", "by-n3-again", "with the new disk"); /* not under a number that the others know already */
	gets_text("n1", "by-n3-again", "with the new disk");
	shell("n3", "getfattr --absolute-names --only-values -n trusted.cdmfs.status %s/full | jq -e '.origin | split(\".\")[1] | tonumber > 71'", lab_run_dir(lab, "n3"));
	has_text("n1", "kept/100", "100\n");

	shell("n1", "head -c 70M /dev/urandom > too-large && echo x > after");
	gets_text("n2", "after", "x\n");
	int status = stat_wait("n1", "--timeout 3", &said);
	if (status != 4 || !strstr(said, "n3"))
		fail_msg("with a full target cdmfs-stat --wait ended with %d: %s", status, said);
	comes_about("cdmfs-stat www --json | jq -e '.nodes[] | select(.name == \"n3\") | .reason_code == \"disk_full\"'");
	has_text("n3", "kept/100", "100\n");
	shell("n1", "rm too-large");
	everywhere_equal();
	has_text("n3", "after", "x\n");
}

/* Who is fed by a node whose disk is full goes to another one, and back in the end. */
static void whom_a_full_node_feeds_goes_elsewhere(void **state)
{
	administrator("route", "set", LAB_SET, "n3", "--parent", "n1", NULL);
	administrator("route", "set", LAB_SET, "n2", "--parent", "n3", NULL);
	save("n1", "by-the-table", "1");
	everywhere_equal();
	shell("n1", "head -c 70M /dev/urandom > too-large && echo x > after-2");
	gets_text("n2", "after-2", "x\n");
	save("n2", "the-other-way", "2");
	gets_text("n1", "the-other-way", "2");
	shell("n1", "rm too-large");
	everywhere_equal();
	save("n2", "afterwards", "3");
	gets_text("n1", "afterwards", "3");
	everywhere_equal();
	administrator("route", "set", LAB_SET, "n2", "--auto", NULL);
	administrator("route", "set", LAB_SET, "n3", "--auto", NULL);
}

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(mistakes_are_said_with_advice),
		cmocka_unit_test(nothing_was_harmed_by_them),
		cmocka_unit_test(strangers_at_the_ports_harm_nobody),
		cmocka_unit_test(everything_starts_without_the_master),
		cmocka_unit_test(a_file_that_changes_while_it_is_shipped),
		cmocka_unit_test(a_directory_renamed_while_its_files_are_shipped),
		cmocka_unit_test(names_of_any_kind),
		cmocka_unit_test(what_cannot_be_read_is_set_aside_until_it_is_removed),
		cmocka_unit_test(a_replaced_disk_is_filled_again_and_when_full_waits_alone),
		cmocka_unit_test(whom_a_full_node_feeds_goes_elsewhere),
	};
	return STORIES("errors", ((struct lab_options){.nodes = 3, .netns = true}), stories);
}
