/* SPDX-License-Identifier: Apache-2.0 */
/* 017_mount_hangs — a server or watcher that does not die but hangs: it is found and replaced, and the callers only wait. One that was stopped for
 * a moment goes on, and an idle one is left alone. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include "tests/cluster/mount_fixture.h"
#include "tests/cluster/mount_load.h"

#define LIMIT_US "1000000"

static struct fixture *fixture;
static char point_file[160];

static const char *in_mount(const char *name)
{
	static char path[200];

	snprintf(path, sizeof(path), "%s/%s", fixture->mnt, name);
	return path;
}

static bool is_another(void *arg)
{
	pid_t now = fixture_pid(fixture, "server");

	return now > 0 && now != *(pid_t *)arg;
}

/* A call may be answered just before all threads have stopped: more of them, until the next server is there. */
static bool is_another_for_calls(void *arg)
{
	put_file(in_mount("called"), "x", 1);
	return is_another(arg);
}

static bool is_another_watcher(void *arg)
{
	pid_t now = fixture_pid(fixture, "watcher");

	return now > 0 && now != *(pid_t *)arg;
}

/* Every program at work waits for the stopped server; the next one answers them all. */
static void stopped_under_load(void **state)
{
	load_start(1);
	load_wait_for_progress();
	for (int i = 0; i < 3; i++) {
		pid_t server = fixture_pid(fixture, "server");
		assert_int_equal(kill(server, SIGSTOP), 0);
		fixture_wait("the next server", is_another, &server);
		load_wait_for_progress();
	}
	load_finish();
}

static void stopped_while_idle(void **state)
{
	pid_t server = fixture_pid(fixture, "server");

	assert_int_equal(kill(server, SIGSTOP), 0);
	fixture_wait("the next server", is_another_for_calls, &server);
}

static bool is_saved(void *arg)
{
	return fixture_unsaved(fixture) == 0;
}

static void see_nothing(const struct cdm_change *c, void *arg)
{
}

/* It is asked for nothing, so nobody minds; later it goes on. */
static void stopped_and_continued(void **state)
{
	pid_t server = fixture_pid(fixture, "server");

	fixture_wait("the saves", is_saved, NULL);
	fixture_journal_read(fixture, 0, see_nothing, NULL); /* the watcher has told all */
	assert_int_equal(kill(server, SIGSTOP), 0);
	poll(NULL, 0, 2500); /* more than twice the limit: long enough to be killed, if it were looked at */
	assert_int_equal(kill(server, SIGCONT), 0);
	put_file(in_mount("answered by the same"), "x", 1);
	assert_int_equal(fixture_pid(fixture, "server"), server);
}

/* One thread hangs with its locks, the others serve on: whoever needs it waits for the next server. */
static void one_thread_hangs(void **state)
{
	static const char *const points[] = {"act.recorded_not_done", "act.done_not_settled", "session.changed_not_answered"};
	struct stat st;

	for (size_t i = 0; i < sizeof(points) / sizeof(*points); i++) {
		char name[64];
		pid_t server = fixture_pid(fixture, "server");
		snprintf(name, sizeof(name), "hung-%zu", i);
		int fd = open(point_file, O_WRONLY | O_CREAT | O_TRUNC, 0600);
		assert_true(fd >= 0 && dprintf(fd, "%s!", points[i]) > 0);
		close(fd);
		assert_int_equal(mkdir(in_mount(name), 0755), 0);
		assert_true(is_another(&server));
		assert_int_equal(stat(in_mount(name), &st), 0);
		assert_int_equal(st.st_nlink, 2);
	}
}

/* Nobody tells the server of the close; it asks, and what it asks is not read. */
static void watcher_hangs(void **state)
{
	pid_t watcher = fixture_pid(fixture, "watcher");

	assert_int_equal(kill(watcher, SIGSTOP), 0);
	put_file(in_mount("closed unseen"), "x", 1);
	fixture_wait("the next watcher", is_another_watcher, &watcher);
	fixture_wait("the save", is_saved, NULL);
}

/* Stopped in the middle of being replaced. */
static void the_next_one_hangs_too(void **state)
{
	pid_t server = fixture_pid(fixture, "server");

	kill(server, SIGKILL);
	fixture_wait("the next server", is_another, &server);
	pid_t next = fixture_pid(fixture, "server");
	kill(next, SIGSTOP); /* most likely before it is ready */
	fixture_wait("the third server", is_another_for_calls, &next);
}

/* Locks belong to the kernel: no death, hang or upgrade loosens one. */
static void locks_stay(void **state)
{
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 5, .l_len = 7}, of_process = l;
	int fd = open(in_mount("locked"), O_RDWR | O_CREAT, 0644), other = open(in_mount("locked"), O_RDWR);
	pid_t server = fixture_pid(fixture, "server");

	assert_true(fd >= 0 && other >= 0);
	assert_int_equal(flock(fd, LOCK_EX), 0);
	of_process.l_start = 100;
	assert_int_equal(fcntl(fd, F_SETLK, &of_process), 0);
	assert_int_equal(fcntl(fd, F_OFD_SETLK, &l), 0);
	kill(server, SIGSTOP);
	fixture_wait("the next server", is_another_for_calls, &server);
	assert_int_equal(pwrite(fd, "locked", 6, 0), 6);
	fixture_kill(fixture, "server");
	server = fixture_pid(fixture, "server");
	kill(fixture->holder, SIGHUP);
	fixture_wait("the upgraded server", is_another, &server);
	assert_true(flock(other, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK);
	assert_true(fcntl(other, F_OFD_SETLK, &l) < 0 && errno == EAGAIN);
	pid_t child = fork();
	if (child == 0)
		_exit(fcntl(fd, F_SETLK, &of_process) < 0 && errno == EAGAIN ? 0 : 1);
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_int_equal(flock(fd, LOCK_UN), 0);
	assert_int_equal(flock(other, LOCK_EX | LOCK_NB), 0);
	close(fd);
	close(other);
}

static int begin_fresh(void **state)
{
	return load_clean();
}

static int end_load(void **state)
{
	load_end();
	unlink(point_file);
	return 0;
}

static int mount_all(void **state)
{
	snprintf(point_file, sizeof(point_file), "%s/point", fixture->dir);
	setenv("CDMFS_FAULTPOINT_FILE", point_file, 1);
	setenv("WATCHDOG_USEC", LIMIT_US, 1);
	fixture_mount(fixture, NULL);
	load_prepare(fixture);
	return 0;
}

static int unmount_all(void **state)
{
	return fixture->holder ? fixture_unmount(fixture) : 0;
}

static int body(struct fixture *f)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(stopped_under_load, begin_fresh, end_load), cmocka_unit_test(stopped_while_idle),
		cmocka_unit_test(stopped_and_continued), cmocka_unit_test_teardown(one_thread_hangs, end_load), cmocka_unit_test(watcher_hangs),
		cmocka_unit_test(the_next_one_hangs_too), cmocka_unit_test(locks_stay)};

	fixture = f;
	return cmocka_run_group_tests_name("mount_hangs", tests, mount_all, unmount_all);
}

int main(void)
{
	return fixture_main(body);
}
