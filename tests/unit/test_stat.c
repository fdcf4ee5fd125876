/* SPDX-License-Identifier: Apache-2.0 */
/* cdmfs-stat and mount.cdmfs as programs: what they print and return, with a replicator played by this test.
 * Arguments: the two programs. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <jansson.h>

static const char *stat_program, *mount_program;
static char dir[] = "/tmp/cdm-test-stat-XXXXXX";
static char output[16384], errors[4096], asked[4096];
static pid_t server;

static char *in_dir(const char *name)
{
	static char paths[4][128];
	static unsigned next;
	char *path = paths[next++ % 4];
	snprintf(path, sizeof paths[0], "%s/%s", dir, name);
	return path;
}

static void put(const char *name, const char *text)
{
	FILE *f = fopen(in_dir(name), "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static void read_all(const char *name, char *out, size_t room)
{
	FILE *f = fopen(in_dir(name), "r");
	size_t n = f ? fread(out, 1, room - 1, f) : 0;
	out[n] = 0;
	if (f)
		fclose(f);
}

/* Run a program with up to six arguments; output and errors are kept. Its exit code. */
static int run(const char *program, const char *a, const char *b, const char *c, const char *d, const char *e, const char *f)
{
	const char *argv[] = {program, a, b, c, d, e, f, NULL};
	pid_t pid = fork();
	if (pid == 0) {
		dup2(open(in_dir("out"), O_WRONLY | O_CREAT | O_TRUNC, 0600), STDOUT_FILENO);
		dup2(open(in_dir("err"), O_WRONLY | O_CREAT | O_TRUNC, 0600), STDERR_FILENO);
		setenv("CDMFS_CONFIG", in_dir("node.conf"), 1);
		execv(program, (char *const *)argv);
		_exit(99);
	}
	int status = 0;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	read_all("out", output, sizeof output);
	read_all("err", errors, sizeof errors);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}
#define ask(...) ask_(__VA_ARGS__, NULL, NULL, NULL, NULL, NULL, NULL)
#define ask_(a, b, c, d, e, f, ...) run(stat_program, a, b, c, d, e, f)

static void answer_one(int fd, const char *answer)
{
	char request[4096];
	ssize_t n = read(fd, request, sizeof request - 1);
	if (n <= 0)
		return;
	int log = open(in_dir("asked"), O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (write(log, request, (size_t)n) != n || write(fd, answer, strlen(answer)) < 0 || write(fd, "\n", 1) < 0)
		_exit(1);
	close(log);
}

/* Become a replicator that answers everything with this text (or closes at once: NULL). */
static void play(const char *answer)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	strcpy(addr.sun_path, in_dir("control.sock"));
	unlink(addr.sun_path);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof addr), 0);
	assert_int_equal(listen(fd, 8), 0);
	server = fork();
	if (server == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;) {
			int client = accept(fd, NULL, NULL);
			if (answer)
				answer_one(client, answer);
			close(client);
		}
	}
	close(fd);
}

static int make_dir(void **state)
{
	char conf[512];
	strcpy(dir + strlen(dir) - 6, "XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	mkdir(in_dir("mnt"), 0700);
	mkdir(in_dir("mnt/d"), 0700);
	mkdir(in_dir("store"), 0700);
	snprintf(conf, sizeof conf, "[node]\nrun=%s\nstate=%s\n[set www]\nstore=%s/store\nmountpoint=%s/mnt\n", dir, dir, dir, dir);
	put("node.conf", conf);
	return 0;
}

static int remove_dir(void **state)
{
	static const char *const names[] = {"node.conf", "out", "err", "asked", "control.sock"};
	if (server > 0) {
		kill(server, SIGKILL);
		waitpid(server, NULL, 0);
		server = 0;
	}
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		unlink(in_dir(names[i]));
	rmdir(in_dir("mnt/d"));
	rmdir(in_dir("mnt"));
	rmdir(in_dir("store"));
	return rmdir(dir);
}

static const char a_status[] =
	"{\"apiVersion\":1,\"set\":\"www\",\"in_sync\":false,\"nodes\":["
	"{\"counted\":false,\"name\":\"auth1\",\"state\":\"source\",\"lag_s\":0,\"pending_changes\":0,\"pending_bytes\":0,\"reason_code\":\"\",\"reason\":\"\",\"group\":\"a\"},"
	"{\"counted\":true,\"name\":\"web07\",\"state\":\"in sync\",\"lag_s\":0.04,\"pending_changes\":0,\"pending_bytes\":0,\"reason_code\":\"\",\"reason\":\"\",\"group\":\"eu\"},"
	"{\"counted\":true,\"name\":\"web09\",\"state\":\"paused\",\"lag_s\":41,\"pending_changes\":12,\"pending_bytes\":3250000,\"reason_code\":\"disk_full\","
	"\"reason\":\"disk \\u001b[31mfull\",\"group\":\"eu\"},"
	"{\"counted\":true,\"name\":\"web11\",\"state\":\"down\",\"lag_s\":7300,\"pending_changes\":8120,\"pending_bytes\":1073741824,\"reason_code\":\"no_contact\","
	"\"reason\":\"\",\"group\":\"us\"},"
	"{\"counted\":false,\"name\":\"web12\",\"state\":\"drained\",\"lag_s\":null,\"pending_changes\":0,\"pending_bytes\":0,\"reason_code\":\"\",\"reason\":\"\",\"group\":\"us\"}],"
	"\"open\":[\"a.css\",{\"path\":\"b\\u0007\"}],\"end\":true}";

static void a_table_for_people(void **state)
{
	play(a_status);
	assert_int_equal(ask("www"), 3);
	assert_string_equal(output,
		"NODE   STATE    LAG     PENDING        WHY\n"
		"auth1  source   0 s\n"
		"web07  in sync  0.04 s\n"
		"web09  paused   41 s    12 / 3.1 MiB   disk \\x1b[31mfull\n"
		"web11  down     2 h     8,120 / 1 GiB  no contact\n"
		"web12  drained  ?\n"
		"open for writing, not counted: a.css, b\\x07\n"
		"set www NOT IN SYNC (1 of 3)\n");
	assert_string_equal(errors, "");
	assert_int_equal(ask(in_dir("mnt"), "--node", "web07"), 0);
	assert_non_null(strstr(output, "set www in sync (1 of 1)\n"));
	assert_int_equal(ask("www", "--group", "nowhere"), 1);
	assert_non_null(strstr(errors, "has no node"));
}

static void json_for_programs(void **state)
{
	play(a_status);
	assert_int_equal(ask("www", "--json", "--group", "us"), 3);
	json_t *j = json_loads(output, 0, NULL);
	assert_int_equal(json_integer_value(json_object_get(j, "apiVersion")), 1);
	assert_int_equal(json_array_size(json_object_get(j, "nodes")), 2);
	assert_null(json_object_get(j, "end"));
	assert_int_equal(strcspn(output, "\n"), strlen(output) - 1);
	json_decref(j);
}

static void waiting_is_told_in_one_line(void **state)
{
	play("{\"result\":\"ok\",\"upto\":\"1.1:88231\",\"upto_name\":\"auth1:88231\",\"have\":20,\"of\":20,\"seconds\":0.04,\"lack\":[],\"open\":[],\"end\":true}");
	assert_int_equal(ask("www", "--wait", "--group", "eu", "--min", "95%"), 0);
	assert_string_equal(output, "www up to auth1:88231 on 20 of 20 in eu (0.04 s)\n");
	read_all("asked", asked, sizeof asked);
	json_t *j = json_loads(asked, 0, NULL);
	assert_string_equal(json_string_value(json_object_get(j, "cmd")), "wait");
	assert_string_equal(json_string_value(json_object_get(j, "group")), "eu");
	assert_true(json_real_value(json_object_get(j, "min_percent")) == 95);
	json_decref(j);
}

static void a_time_out_names_who_lacks_it(void **state)
{
	play("{\"result\":\"timeout\",\"upto\":\"1.1:88231\",\"upto_name\":\"auth1:88231\",\"have\":18,\"of\":20,\"seconds\":60,"
	     "\"lack\":[{\"node\":\"web09\",\"reason\":\"disk full\"},{\"node\":\"web11\",\"reason\":\"\"}],\"open\":[\"x\"],\"end\":true}");
	assert_int_equal(ask("www", "--wait", "--timeout", "60"), 4);
	assert_string_equal(output, "www NOT up to auth1:88231 on 18 of 20 (after 60 s)\nlacking: web09 (disk full), web11\n"
				    "open for writing, not counted: x\n");
}

static void fail_fast_is_three(void **state)
{
	play("{\"result\":\"down\",\"upto\":\"1.1:1\",\"upto_name\":\"a:1\",\"have\":1,\"of\":2,\"seconds\":0.001,\"lack\":[{\"node\":\"n2\",\"reason\":\"no contact\"}],\"open\":[],\"end\":true}");
	assert_int_equal(ask("www", "--wait", "--fail-fast"), 3);
	assert_non_null(strstr(output, "lacking: n2 (no contact)"));
}

static void why_a_file_is_not_there(void **state)
{
	play("{\"path\":\"d/a.css\",\"exists\":true,\"version\":\"1.1:88229\",\"version_name\":\"auth1:88229\",\"uid\":1001,\"saved_ns\":0,\"state\":\"shipped\",\"detail\":\"\","
	     "\"have\":[\"n1\",\"n2\"],\"lack\":[{\"node\":\"web09\",\"reason\":\"disk full\"}],\"end\":true}");
	assert_int_equal(ask(in_dir("mnt/d/../d/a.css")), 3);
	assert_string_equal(output, "d/a.css  version auth1:88229\n2 nodes have it; web09: disk full\n");
	read_all("asked", asked, sizeof asked);
	assert_non_null(strstr(asked, "\"path\":\"d/a.css\""));
	ask(in_dir("mnt/b\xff"));
	read_all("asked", asked, sizeof asked);
	assert_non_null(strstr(asked, "\"path_hex\":\"62ff\""));
}

static void an_excluded_file_is_no_failure(void **state)
{
	play("{\"path\":\"a\",\"exists\":true,\"version\":\"\",\"state\":\"excluded\",\"detail\":\"*.swp\",\"have\":[],\"lack\":[],\"end\":true}");
	assert_int_equal(ask(in_dir("mnt/a")), 0);
	assert_string_equal(output, "a  excluded by '*.swp'\n");
}

static void an_open_file_is_not_in_sync(void **state)
{
	play("{\"path\":\"a\",\"exists\":true,\"version\":\"\",\"state\":\"open\",\"detail\":\"x\",\"since_ns\":1000000000,\"have\":[],\"lack\":[],\"end\":true}");
	assert_int_equal(ask(in_dir("mnt/a")), 3);
	assert_string_equal(output, "a  open for writing since 1970-01-01 00:00:01.000Z: not shipped before it is closed\n");
}

static void an_absent_file_is_one(void **state)
{
	play("{\"path\":\"a\",\"exists\":false,\"state\":\"absent\",\"detail\":\"\",\"have\":[],\"lack\":[],\"end\":true}");
	assert_int_equal(ask(in_dir("mnt/a")), 1);
	assert_string_equal(output, "no such file here\n");
}

static void without_a_replicator_it_says_what_to_do(void **state)
{
	assert_int_equal(ask("www"), 1);
	assert_non_null(strstr(errors, "does not run on this node"));
	assert_non_null(strstr(errors, "control.sock"));
	assert_non_null(strstr(errors, "start it"));
	assert_string_equal(output, "");
}

static void bad_answers_are_failures(void **state)
{
	static const char *const answers[] = {NULL, "garbage", "{\"error\":\"the set is \\u001b[2Jgone\",\"hint\":\"look\",\"end\":true}", "[]", "{}"};
	for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
		play(answers[i]);
		int r = ask("www", "--wait");
		assert_int_equal(r, 1);
		assert_true(errors[0] && !strchr(errors, '\033'));
		kill(server, SIGKILL);
		waitpid(server, NULL, 0);
		server = 0;
	}
}

static void wrong_usage_is_two(void **state)
{
	assert_int_equal(ask("--bogus"), 2);
	assert_int_equal(ask("www", "more"), 2);
	assert_int_equal(ask("--timeout", "5"), 2);
	assert_int_equal(ask("--wait", "--min", "101"), 2);
	assert_int_equal(ask("--wait", "--timeout", "soon"), 2);
	assert_int_equal(ask("--wait", "--watch"), 2);
	assert_int_equal(ask("--node"), 2);
	assert_int_equal(ask("--help"), 0);
	assert_int_equal(ask("--version"), 0);
	assert_int_equal(ask("wwww"), 1);
	assert_non_null(strstr(errors, "unknown set 'wwww'"));
	assert_int_equal(ask("/etc/hostname"), 1);
	assert_non_null(strstr(errors, "not in any mount"));
	assert_int_equal(ask(in_dir("store/.cdmfs/journal")), 1);
}

#define mount_cdmfs(...) mount_(__VA_ARGS__, NULL, NULL, NULL, NULL, NULL, NULL)
#define mount_(a, b, c, d, e, f, ...) run(mount_program, a, b, c, d, e, f)

static void the_mount_helper_translates(void **state)
{
	assert_int_equal(mount_cdmfs("www", "/srv/www", "-fv", "-o", "rw,config=/x/n.conf,_netdev,context=\"a:s0,c1\",nofail"), 0);
	assert_non_null(strstr(errors, "cdmfs --daemon --config /x/n.conf -o rw,_netdev,context=\"a:s0,c1\",nofail -- www /srv/www\n"));
	assert_int_equal(mount_cdmfs("www", "none", "-f", "-v", "-s", "-n"), 0);
	assert_non_null(strstr(errors, "cdmfs --daemon -s -- www\n"));
	assert_int_equal(mount_cdmfs("/root/www", "/srv/www", "-fv"), 0);
	assert_non_null(strstr(errors, "-- www /srv/www\n"));
	assert_int_equal(mount_cdmfs("-f"), 1);
	assert_non_null(strstr(errors, "which set?"));
	assert_int_equal(mount_cdmfs("a", "b", "c"), 1);
	assert_int_equal(mount_cdmfs("www", "/m", "-q"), 1);
	assert_int_equal(mount_cdmfs("--version"), 0);
	assert_int_equal(mount_cdmfs("--help"), 0);
}

int main(int argc, char **argv)
{
	if (argc != 3) {
		fprintf(stderr, "usage: test_stat CDMFS-STAT MOUNT.CDMFS\n");
		return 2;
	}
	stat_program = argv[1];
	mount_program = argv[2];
#define in_own_dir(test) cmocka_unit_test_setup_teardown(test, make_dir, remove_dir)
	const struct CMUnitTest tests[] = {
		in_own_dir(a_table_for_people),
		in_own_dir(json_for_programs),
		in_own_dir(waiting_is_told_in_one_line),
		in_own_dir(a_time_out_names_who_lacks_it),
		in_own_dir(fail_fast_is_three),
		in_own_dir(why_a_file_is_not_there),
		in_own_dir(an_excluded_file_is_no_failure),
		in_own_dir(an_open_file_is_not_in_sync),
		in_own_dir(an_absent_file_is_one),
		in_own_dir(without_a_replicator_it_says_what_to_do),
		in_own_dir(bad_answers_are_failures),
		in_own_dir(wrong_usage_is_two),
		in_own_dir(the_mount_helper_translates),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
