/* SPDX-License-Identifier: Apache-2.0 */
/* 016_mount_killed — a serving and editing load while server, watcher and holder are killed at random, alone or together, or replaced by an upgrade in
 * place: no call fails, nothing is torn, lost or doubled, and the pause that a caller feels is told for each kind; also where much was
 * written since the last checkpoint. CDMFS_TEST_ROUNDS=n deaths (default 60), CDMFS_TEST_SEED=n repeats their choice, CDMFS_TEST_RECORDS=n
 * lie behind the last checkpoint where there are no more (default 100000). */
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <cmocka.h>
#include "common/filter.h"
#include "common/loop.h"
#include "tests/cluster/mount_fixture.h"
#include "tests/cluster/mount_load.h"
#include "tests/cluster/shipped.h"

#define ROUNDS 60
#define RECORDS 100000
#define PACE_MS 3
#define READ_EVERY 20 /* rounds between looks at the journal: it must not outrun us */

static struct fixture *fixture;
static struct shipped tree;
static struct cdm_filter excludes;
static uint64_t position;
static unsigned seed;
static const char *built;      /* the program */
static char installed[200];    /* a copy of it, which runs here and is replaced by upgrades */

/* --- what happens --- */

static pid_t kill_now(const char *which)
{
	pid_t pid = fixture_pid(fixture, which);

	if (pid > 0)
		kill(pid, SIGKILL);
	return pid;
}

struct replacing {
	const char *which;
	pid_t old;
};

static bool is_another(void *arg)
{
	struct replacing *r = arg;
	pid_t now = fixture_pid(fixture, r->which);

	return now > 0 && now != r->old;
}

static void wait_for_another(const char *which, pid_t old)
{
	fixture_wait("the next process", is_another, &(struct replacing){which, old});
}

static void server_dies(void)
{
	wait_for_another("server", kill_now("server"));
}

static void watcher_dies(void)
{
	wait_for_another("watcher", kill_now("watcher"));
}

static void both_children_die(void)
{
	pid_t watcher = kill_now("watcher"), server = kill_now("server");

	wait_for_another("server", server);
	wait_for_another("watcher", watcher);
}

static void next_holder(pid_t old)
{
	waitpid(old, NULL, 0);
	fixture->holder = 0;
	fixture_mount(fixture, NULL);
	wait_for_another("holder", old);
}

static void holder_dies(void)
{
	next_holder(kill_now("holder"));
}

/* The server and who would start the next one; the watcher is left. */
static void holder_and_server_die(void)
{
	pid_t holder = kill_now("holder"), server = kill_now("server");

	next_holder(holder);
	wait_for_another("server", server);
}

static void holder_and_watcher_die(void)
{
	pid_t holder = kill_now("holder"), watcher = kill_now("watcher");

	next_holder(holder);
	wait_for_another("watcher", watcher);
}

/* Another file with the program's name, as a package puts it there. */
static void install_program(void)
{
	char temporary[220];
	const char *const copy[] = {"cp", built, temporary, NULL};

	snprintf(temporary, sizeof(temporary), "%s.new", installed);
	assert_int_equal(run_program("/", copy), 0);
	assert_int_equal(rename(temporary, installed), 0);
}

static void assert_runs_installed(const char *which)
{
	char link[64];
	struct stat a, b;

	snprintf(link, sizeof(link), "/proc/%d/exe", (int)fixture_pid(fixture, which));
	assert_int_equal(stat(link, &a), 0);
	assert_int_equal(stat(installed, &b), 0);
	assert_true(a.st_ino == b.st_ino);
}

static void upgrade_in_place(void)
{
	pid_t server = fixture_pid(fixture, "server"), watcher = fixture_pid(fixture, "watcher");

	install_program();
	kill(fixture->holder, SIGHUP);
	wait_for_another("server", server);
	wait_for_another("watcher", watcher);
}

static void check_upgraded(void)
{
	upgrade_in_place();
	load_wait_for_progress();
	assert_runs_installed("server");
	assert_runs_installed("watcher");
}

static struct event {
	const char *name;
	void (*happens)(void);
	unsigned weight;
	int64_t *pauses;
	size_t count;
} events[] = {
	{"server killed", server_dies, 12, NULL, 0}, {"watcher killed", watcher_dies, 3, NULL, 0}, {"both killed", both_children_die, 2, NULL, 0},
	{"holder killed", holder_dies, 2, NULL, 0}, {"holder and server killed", holder_and_server_die, 1, NULL, 0},
	{"holder and watcher killed", holder_and_watcher_die, 1, NULL, 0}, {"upgrade in place", upgrade_in_place, 2, NULL, 0},
	{"server, no checkpoints", server_dies, 0, NULL, 0},
};
#define EVENTS (sizeof(events) / sizeof(*events))
#define WITHOUT_CHECKPOINTS (&events[EVENTS - 1])

static struct event *choose(void)
{
	unsigned sum = 0, at;

	for (size_t i = 0; i < EVENTS; i++)
		sum += events[i].weight;
	at = (unsigned)rand_r(&seed) % sum;
	for (size_t i = 0;; i++) {
		if (at < events[i].weight)
			return &events[i];
		at -= events[i].weight;
	}
}

/* --- what was felt of it --- */

static int by_length(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return x < y ? -1 : x > y;
}

static void report(void)
{
	for (size_t i = 0; i < EVENTS; i++) {
		struct event *e = &events[i];
		if (e->count == 0)
			continue;
		qsort(e->pauses, e->count, sizeof(*e->pauses), by_length);
		print_message("%-26s %5zu times, longest call: median %.1f ms, p95 %.1f ms, max %.1f ms\n", e->name, e->count,
			(double)e->pauses[e->count / 2] / 1e6, (double)e->pauses[e->count * 95 / 100] / 1e6, (double)e->pauses[e->count - 1] / 1e6);
		free(e->pauses);
		e->pauses = NULL;
		e->count = 0;
	}
}

static void one_round(struct event *e)
{
	poll(NULL, 0, 20 + (int)((unsigned)rand_r(&seed) % 200)); /* the moment of the death */
	if (e != WITHOUT_CHECKPOINTS)
		fixture_mark(fixture); /* as the replicator does all the time */
	load_pause_begin();
	if (e->happens)
		e->happens();
	int64_t pause = load_pause_end();
	load_look(e->name);
	e->pauses = reallocarray(e->pauses, e->count + 1, sizeof(*e->pauses));
	e->pauses[e->count++] = pause;
}

static bool is_excluded(const char *path)
{
	return cdm_filter_match(&excludes, path, strlen(path)) != NULL;
}

static bool all_is_shipped(void *arg)
{
	position = fixture_journal_read(fixture, position, shipped_record, &tree);
	return fixture_unsaved(fixture) == 0;
}

static unsigned number_of(const char *variable, unsigned otherwise)
{
	const char *text = getenv(variable);

	return text ? (unsigned)atoi(text) : otherwise;
}

static unsigned begin_deaths(void)
{
	unsigned rounds = number_of("CDMFS_TEST_ROUNDS", ROUNDS);

	seed = number_of("CDMFS_TEST_SEED", (unsigned)cdm_now_ns());
	print_message("CDMFS_TEST_SEED=%u, %u rounds\n", seed, rounds);
	load_start(PACE_MS);
	load_wait_for_progress();
	return rounds;
}

static void end_deaths(void)
{
	load_finish();
	report();
	fixture_wait("everything is saved", all_is_shipped, NULL);
	position = fixture_journal_read(fixture, position, shipped_record, &tree);
	shipped_assert_equal(&tree, fixture, is_excluded);
}

static void killed_at_random(void **state)
{
	unsigned rounds = begin_deaths();

	for (unsigned i = 0; i < rounds; i++) {
		one_round(choose());
		if (i % READ_EVERY == READ_EVERY - 1)
			position = fixture_journal_read(fixture, position, shipped_record, &tree);
	}
	check_upgraded();
	end_deaths();
}

/* Many records with few calls: as the replicator tells what needed nothing done. */
static void record_much(void)
{
	enum { CALL_BYTES = 60000 };
	unsigned count = number_of("CDMFS_TEST_RECORDS", RECORDS);
	struct cdm_change skip = {.op = CDM_OP_SKIP, .dot = {.origin = CDM_ORIGIN(9, 1)}, .clock = cdm_clock_now()};
	uint8_t *call = malloc(CALL_BYTES);

	while (skip.dot.number < count) {
		size_t len = 0;
		while (skip.dot.number < count && len + 4 + cdm_change_encoded_max(&skip) <= CALL_BYTES) {
			skip.dot.number++;
			uint32_t bytes = (uint32_t)cdm_change_encode(&skip, call + len + 4);
			memcpy(call + len, &bytes, sizeof(bytes));
			len += 4 + bytes;
		}
		assert_int_equal(setxattr(fixture->full, "trusted.cdmfs.journal", call, len, 0), 0);
	}
	free(call);
	print_message("%u records since the last checkpoint\n", count);
}

/* As after a long time without a replicator: what a new server needs is not to be had from the journal in a moment. */
static void killed_without_checkpoints(void **state)
{
	record_much();
	unsigned rounds = begin_deaths();
	for (unsigned i = 0; i < rounds; i++)
		one_round(WITHOUT_CHECKPOINTS);
	end_deaths();
}

/* The same calls without any death, to compare with. */
static void undisturbed(void **state)
{
	struct event calm = {.name = "undisturbed"};

	load_start(PACE_MS);
	load_wait_for_progress();
	for (int i = 0; i < 20; i++)
		one_round(&calm);
	load_finish();
	qsort(calm.pauses, calm.count, sizeof(*calm.pauses), by_length);
	print_message("%-26s longest call in a round: median %.1f ms, max %.1f ms\n", calm.name, (double)calm.pauses[calm.count / 2] / 1e6,
		(double)calm.pauses[calm.count - 1] / 1e6);
	free(calm.pauses);
}

/* --- around it --- */

static int begin_fresh(void **state)
{
	return load_clean();
}

static int end_load(void **state)
{
	load_end();
	return 0;
}

static int mount_all(void **state)
{
	char point[160];

	for (const char *const *x = cdm_filter_default_excludes; *x; x++)
		cdm_filter_add(&excludes, *x);
	snprintf(point, sizeof(point), "%s/point", fixture->dir);
	setenv("CDMFS_FAULTPOINT_FILE", point, 1); /* no pauses between quick deaths; no point is ever named */
	built = getenv("CDMFS_BIN");
	assert_non_null(built);
	snprintf(installed, sizeof(installed), "%s/cdmfs", fixture->dir);
	install_program();
	setenv("CDMFS_BIN", installed, 1);
	fixture_mount(fixture, NULL);
	load_prepare(fixture);
	return 0;
}

static int unmount_all(void **state)
{
	shipped_fini(&tree);
	cdm_filter_fini(&excludes);
	return fixture->holder ? fixture_unmount(fixture) : 0;
}

static int body(struct fixture *f)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(undisturbed, begin_fresh, end_load),
		cmocka_unit_test_setup_teardown(killed_without_checkpoints, begin_fresh, end_load),
		cmocka_unit_test_setup_teardown(killed_at_random, begin_fresh, end_load)};

	fixture = f;
	return cmocka_run_group_tests_name("mount_killed", tests, mount_all, unmount_all);
}

int main(void)
{
	return fixture_main(body);
}
