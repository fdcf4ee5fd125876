/* SPDX-License-Identifier: Apache-2.0 */
/* The variables are read when a program starts, so each case starts this program anew, with "pass" and what to pass. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "common/faultpoint.h"

static char wanted_file[] = "/tmp/cdm-test-faultpoint-XXXXXX";

static int pass(int argc, char **argv)
{
	for (int i = 2; i < argc; i++) {
		cdm_faultpoint(argv[i]);
		if (write(STDOUT_FILENO, ".", 1) != 1)
			return 1;
	}
	return 0;
}

static pid_t begin(const char *variable, const char *value, int out[2])
{
	assert_int_equal(pipe(out), 0);
	pid_t pid = fork();
	if (pid == 0) {
		dup2(out[1], STDOUT_FILENO);
		close(out[0]);
		if (variable)
			setenv(variable, value, 1);
		execl("/proc/self/exe", "test_faultpoint", "pass", "a", "b", "a", "b", NULL);
		_exit(99);
	}
	return pid;
}

/* How many of a, b, a, b were passed; *ret_killed: by SIGKILL at the next. */
static size_t run(const char *variable, const char *value, bool *ret_killed)
{
	int out[2];
	char passed[16];
	pid_t pid = begin(variable, value, out);
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	close(out[1]);
	ssize_t n = read(out[0], passed, sizeof passed);
	close(out[0]);
	*ret_killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
	assert_true(*ret_killed || (WIFEXITED(status) && WEXITSTATUS(status) == 0));
	return n < 0 ? 0 : (size_t)n;
}

static void only_the_named_pass_kills(void **state)
{
	static const struct {
		const char *value;
		size_t passed;
	} rows[] = {{"a", 0}, {"b", 1}, {"a:1", 0}, {"a:2", 2}, {"b:2", 3}, {"a:3", 4}, {"ab", 4}, {"", 4}, {"c", 4}};
	bool killed;
	assert_int_equal(run(NULL, NULL, &killed), 4);
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		if (run("CDMFS_FAULTPOINT", rows[i].value, &killed) != rows[i].passed || killed != (rows[i].passed < 4))
			fail_msg("CDMFS_FAULTPOINT=%s", rows[i].value);
	}
}

static void a_file_kills_once(void **state)
{
	bool killed;
	int fd = mkstemp(wanted_file);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, "b:2\n", 4), 4);
	close(fd);
	assert_int_equal(run("CDMFS_FAULTPOINT_FILE", wanted_file, &killed), 3);
	assert_true(killed);
	assert_int_equal(access(wanted_file, F_OK), -1);
	assert_int_equal(run("CDMFS_FAULTPOINT_FILE", wanted_file, &killed), 4);
	assert_false(killed);
}

static void who_passes_waits_for_a_fifo_to_be_closed(void **state)
{
	char path[64], fifo[80], passed[16];
	int out[2], status;
	snprintf(path, sizeof path, "/tmp/cdm-test-faultpoint-%d", getpid());
	snprintf(fifo, sizeof fifo, "%s.b", path);
	assert_int_equal(mkfifo(fifo, 0600), 0);
	pid_t pid = begin("CDMFS_FAULTPOINT_FILE", path, out);
	int fd = open(fifo, O_WRONLY | O_CLOEXEC);
	unlink(fifo);
	assert_true(fd >= 0);
	assert_int_equal(read(out[0], passed, sizeof passed), 1);
	assert_int_equal(waitpid(pid, &status, WNOHANG), 0);
	close(fd);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(read(out[0], passed, sizeof passed), 3);
	close(out[0]);
	close(out[1]);
}

int main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "pass") == 0)
		return pass(argc, argv);
#ifndef CDM_FAULTPOINTS
	return 77; /* skipped: not compiled in */
#endif
	const struct CMUnitTest tests[] = {cmocka_unit_test(only_the_named_pass_kills), cmocka_unit_test(a_file_kills_once),
		cmocka_unit_test(who_passes_waits_for_a_fifo_to_be_closed)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
