/* SPDX-License-Identifier: Apache-2.0 */
/* 011_mount_reattach — the server and the watcher are killed again and again under load. No call of a program fails, locks stay,
 * mappings reach their file, and afterwards the content is what the programs wrote. */
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include "common/loop.h"
#include "tests/cluster/mount_fixture.h"
#include "tests/cluster/mount_load.h"

#define KILLS 40

static struct fixture *fixture;

static void survives_kills(const char *which)
{
	unsigned seed = 12345;

	load_start(0);
	load_wait_for_progress();
	for (int i = 0; i < KILLS; i++) {
		const char *victim = which ? which : rand_r(&seed) % 4 ? "server" : "watcher";
		poll(NULL, 0, (int)(rand_r(&seed) % 60)); /* the moment of the kill, not a wait for anything */
		fixture_kill(fixture, victim);
		load_look(victim);
	}
	load_wait_for_progress();
	load_finish();
}

static void server_and_watcher_killed_at_random(void **state)
{
	survives_kills(NULL);
}

static bool has_another_server(void *arg)
{
	pid_t now = fixture_pid(fixture, "server");
	return now && now != *(pid_t *)arg;
}

static void polite_restarts(void **state)
{
	load_start(0);
	load_wait_for_progress();
	for (int i = 0; i < 10; i++) {
		pid_t before = fixture_pid(fixture, "server");
		kill(fixture->holder, SIGHUP);
		fixture_wait("another server", has_another_server, &before);
		load_wait_for_progress();
	}
	load_finish();
}

static bool holder_mounted(void *arg)
{
	return fixture_pid(fixture, "holder") == fixture->holder;
}

/* Somebody ended the server by hand: nothing is unmounted, the next one goes on. */
static void server_told_to_end(void **state)
{
	load_start(0);
	load_wait_for_progress();
	for (int i = 0; i < 10; i++) {
		pid_t before = fixture_pid(fixture, "server");
		kill(before, i % 2 ? SIGTERM : SIGINT);
		kill(before, SIGTERM);
		fixture_wait("another server", has_another_server, &before);
		load_wait_for_progress();
	}
	load_finish();
}

/* The holder itself: server and watcher go on, the next holder takes them over. */
static void holder_killed(void **state)
{
	pid_t server = fixture_pid(fixture, "server");
	int status;

	load_start(0);
	load_wait_for_progress();
	kill(fixture->holder, SIGKILL);
	waitpid(fixture->holder, &status, 0);
	fixture->holder = 0;
	load_wait_for_progress();
	fixture_mount(fixture, NULL);
	fixture_wait("the next holder", holder_mounted, NULL);
	assert_int_equal(fixture_pid(fixture, "server"), server);
	load_wait_for_progress();
	fixture_kill(fixture, "server");
	load_wait_for_progress();
	load_finish();
}

/* Keeps the set's lock until somebody else opens it, as a child does that the killed holder was just starting. */
static pid_t hold_the_lock(void)
{
	char path[200], event[512];
	int ready[2];

	snprintf(path, sizeof(path), "%s/" FIXTURE_SET ".lock", fixture->run);
	assert_int_equal(pipe(ready), 0);
	pid_t pid = fork();
	if (pid == 0) {
		int fd = open(path, O_RDWR | O_CLOEXEC), watch = inotify_init1(IN_CLOEXEC);
		if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0 || inotify_add_watch(watch, path, IN_OPEN) < 0 || write(ready[1], "", 1) != 1)
			_exit(1);
		alarm(FIXTURE_DEADLINE_MS / 1000);
		_exit(read(watch, event, sizeof(event)) > 0 ? 0 : 1);
	}
	assert_int_equal(read(ready[0], event, 1), 1);
	close(ready[0]);
	close(ready[1]);
	return pid;
}

static void holder_killed_while_it_started_a_child(void **state)
{
	int status;

	kill(fixture->holder, SIGKILL);
	waitpid(fixture->holder, &status, 0);
	fixture->holder = 0;
	pid_t child = hold_the_lock();
	fixture_mount(fixture, NULL);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	fixture_wait("the next holder", holder_mounted, NULL);
}

static void clean_end_and_start_again(void **state)
{
	char in_store[300], in_mount[300];

	assert_int_equal(fixture_unmount(fixture), 0);
	snprintf(in_store, sizeof(in_store), "%s/map", fixture->store);
	load_check_map(in_store);
	snprintf(in_mount, sizeof(in_mount), "%s/map", fixture->mnt);
	fixture_mount(fixture, NULL);
	load_check_map(in_mount);
}

/* Whatever a failed test left behind is not the next one's. */
static int end_workers(void **state)
{
	load_end();
	return 0;
}

static int begin_fresh(void **state)
{
	return load_clean();
}

static int mount_all(void **state)
{
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
		cmocka_unit_test_setup_teardown(server_and_watcher_killed_at_random, begin_fresh, end_workers),
		cmocka_unit_test_setup_teardown(polite_restarts, begin_fresh, end_workers),
		cmocka_unit_test_setup_teardown(server_told_to_end, begin_fresh, end_workers),
		cmocka_unit_test_setup_teardown(holder_killed, begin_fresh, end_workers),
		cmocka_unit_test(holder_killed_while_it_started_a_child),
		cmocka_unit_test(clean_end_and_start_again)};

	fixture = f;
	return cmocka_run_group_tests_name("mount_reattach", tests, mount_all, unmount_all);
}

int main(void)
{
	return fixture_main(body);
}
