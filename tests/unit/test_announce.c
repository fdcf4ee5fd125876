/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "common/announce.h"

static char dir[] = "/tmp/cdm-test-announce-XXXXXX";
static struct cdm_announce_map *map;

static int make_map(void **state)
{
	strcpy(dir + strlen(dir) - 6, "XXXXXX");
	return mkdtemp(dir) ? cdm_announce_open(dir, &map, NULL) : -1;
}

static int remove_map(void **state)
{
	char path[64];
	cdm_announce_close(&map);
	snprintf(path, sizeof path, "%s/" CDM_ANNOUNCE_FILE, dir);
	unlink(path);
	return rmdir(dir);
}

static struct cdm_change change_of(const char *path, uint64_t number)
{
	return (struct cdm_change){
		.op = CDM_OP_MKDIR,
		.dot = {CDM_ORIGIN(3, 1), number},
		.clock = 77,
		.path = path,
		.path_len = strlen(path),
		.handle = {.len = 8, .type = 1, .bytes = {(uint8_t)number, 2, 3, 4, 5, 6, 7, 8}},
	};
}

/* Announce a mkdir with one record. */
static int announce(struct cdm_lane *lane, uint64_t number)
{
	char path[32];
	snprintf(path, sizeof path, "dir-%llu", (unsigned long long)number);
	struct cdm_change c = change_of(path, number);
	struct cdm_announcement a = {.call = CDM_CALL_MKDIR, .expect = CDM_EXPECT_ABSENT, .parent_mtime_ns = (int64_t)number};
	return cdm_lane_announce(lane, &a, &c, 1);
}

/* What the server does with the next call of the thread; the number it was announced with, 0 = none. */
static uint64_t serve(struct cdm_lane *lane, uint64_t request, enum cdm_announce_state end)
{
	struct cdm_announcement *a = cdm_lane_peek(lane);
	if (!a)
		return 0;
	uint64_t number = (uint64_t)a->parent_mtime_ns;
	a->request = request;
	a->state = CDM_AN_BUSY;
	struct cdm_change c;
	assert_int_equal(cdm_lane_record(lane, a, 0, &c), 0);
	assert_int_equal(c.dot.number, number);
	assert_int_equal(c.handle.len, 8);
	assert_int_equal(c.handle.bytes[0], (uint8_t)number);
	cdm_change_fini(&c);
	a->result = end == CDM_AN_REFUSED ? -ESTALE : 0;
	a->state = end;
	cdm_lane_taken(lane, a);
	return number;
}

static void calls_are_taken_in_order(void **state)
{
	struct cdm_lane *lane = cdm_lane_claim(map);
	assert_non_null(lane);
	assert_ptr_equal(cdm_lane_find(map, gettid()), lane);
	assert_null(cdm_lane_find(map, 1));
	assert_null(cdm_lane_peek(lane));
	struct cdm_announcement answer;
	for (uint64_t round = 0; round < 500; round++) {
		int slots[3];
		for (uint64_t i = 0; i < 3; i++)
			slots[i] = announce(lane, round * 3 + i + 1);
		for (uint64_t i = 0; i < 3; i++) {
			assert_true(slots[i] >= 0);
			assert_int_equal(serve(lane, 1000 + i, i == 1 ? CDM_AN_REFUSED : CDM_AN_DONE), round * 3 + i + 1);
			assert_int_equal(cdm_lane_result(lane, slots[i], &answer), i == 1 ? CDM_AN_REFUSED : CDM_AN_DONE);
			assert_int_equal(answer.result, i == 1 ? -ESTALE : 0);
			assert_int_equal(answer.request, 1000 + i);
		}
		assert_null(cdm_lane_peek(lane));
	}
	cdm_lane_release(lane);
	assert_null(cdm_lane_find(map, gettid()));
}

static void a_full_lane_says_again(void **state)
{
	struct cdm_lane *lane = cdm_lane_claim(map);
	for (uint64_t i = 1; i <= CDM_LANE_SLOTS; i++)
		assert_true(announce(lane, i) >= 0);
	assert_int_equal(announce(lane, 99), -EAGAIN);
	assert_int_equal(serve(lane, 5, CDM_AN_DONE), 1);
	assert_true(announce(lane, 99) >= 0);
	assert_int_equal(announce(lane, 100), -EAGAIN);
	for (uint64_t i = 2; i <= CDM_LANE_SLOTS; i++)
		assert_int_equal(serve(lane, 5 + i, CDM_AN_DONE), i);
	assert_int_equal(serve(lane, 200, CDM_AN_DONE), 99);
	assert_int_equal(serve(lane, 201, CDM_AN_DONE), 0);
	cdm_lane_release(lane);
}

static void a_call_that_never_arrived_is_withdrawn(void **state)
{
	struct cdm_lane *lane = cdm_lane_claim(map);
	struct cdm_announcement answer;
	int first = announce(lane, 1), second = announce(lane, 2);
	assert_int_equal(cdm_lane_result(lane, first, &answer), CDM_AN_READY);
	assert_int_equal(serve(lane, 9, CDM_AN_DONE), 2);
	assert_int_equal(cdm_lane_result(lane, second, &answer), CDM_AN_DONE);
	assert_null(cdm_lane_peek(lane));
	cdm_lane_release(lane);
}

static void a_half_arrived_write_does_not_catch_the_next_call(void **state)
{
	struct cdm_lane *lane = cdm_lane_claim(map);
	struct cdm_announcement answer;
	int first = announce(lane, 1);
	cdm_lane_peek(lane)->state = CDM_AN_BUSY;
	assert_int_equal(cdm_lane_result(lane, first, &answer), CDM_AN_BUSY);
	announce(lane, 2);
	assert_int_equal(serve(lane, 9, CDM_AN_DONE), 2);
	cdm_lane_release(lane);
}

static void a_resent_request_finds_its_announcement(void **state)
{
	struct cdm_lane *lane = cdm_lane_claim(map);
	announce(lane, 1);
	announce(lane, 2);
	assert_null(cdm_lane_find_request(lane, 0));
	assert_null(cdm_lane_find_request(lane, 71));
	assert_int_equal(serve(lane, 71, CDM_AN_DONE), 1);
	struct cdm_announcement *a = cdm_lane_find_request(lane, 71);
	assert_non_null(a);
	assert_int_equal(a->parent_mtime_ns, 1);
	cdm_lane_taken(lane, a); /* again: nothing moves */
	assert_int_equal(cdm_lane_peek(lane)->parent_mtime_ns, 2);
	cdm_lane_release(lane);
}

static void records_go_around_the_ring(void **state)
{
	struct cdm_lane *lane = cdm_lane_claim(map);
	static char path[60000];
	memset(path, 'p', sizeof path);
	for (size_t i = 200; i < sizeof path; i += 200)
		path[i] = '/';
	path[sizeof path - 1] = 0;
	uint64_t made = 0, served = 0;
	unsigned refused = 0;
	srand(7);
	while (served < 3000) {
		struct cdm_change changes[4];
		size_t count = 1 + (size_t)rand() % 4;
		for (size_t i = 0; i < count; i++) {
			changes[i] = change_of("x", made + 1 + i);
			changes[i].path = path;
			changes[i].path_len = 1 + (size_t)rand() % (sizeof path - 2);
			if (changes[i].path[changes[i].path_len - 1] == '/')
				changes[i].path_len--;
		}
		struct cdm_announcement a = {.call = CDM_CALL_RENAME, .parent_mtime_ns = (int64_t)(made + 1)};
		int slot = cdm_lane_announce(lane, &a, changes, count);
		if (slot >= 0)
			made += 1;
		else
			refused++;
		assert_true(slot >= 0 || slot == -EAGAIN);
		if (slot == -EAGAIN || rand() % 3 == 0)
			served += serve(lane, made, CDM_AN_DONE) != 0;
	}
	assert_true(refused > 10);
	cdm_lane_release(lane);
}

static void records_that_never_fit_are_refused(void **state)
{
	struct cdm_lane *lane = cdm_lane_claim(map);
	static char value[CDM_VALUE_MAX];
	struct cdm_change changes[9];
	for (size_t i = 0; i < 9; i++) {
		changes[i] = change_of("x", 1);
		changes[i].value = value;
		changes[i].value_len = sizeof value;
	}
	struct cdm_announcement a = {.call = CDM_CALL_RENAME};
	assert_int_equal(cdm_lane_announce(lane, &a, changes, 9), -EMSGSIZE);
	assert_int_equal(cdm_lane_announce(lane, &a, NULL, 0), 0);
	assert_int_equal(cdm_lane_peek(lane)->record_count, 0);
	cdm_lane_release(lane);
}

static void foreign_bytes_are_refused(void **state)
{
	struct cdm_lane *lane = cdm_lane_claim(map);
	struct cdm_change c;
	announce(lane, 1);
	struct cdm_announcement *a = cdm_lane_peek(lane), good = *a;
	assert_int_equal(cdm_lane_record(lane, a, 1, &c), -EBADMSG);
	a->record_bytes--;
	assert_int_equal(cdm_lane_record(lane, a, 0, &c), -EBADMSG);
	a->record_offset = CDM_LANE_DATA;
	assert_int_equal(cdm_lane_record(lane, a, 0, &c), -EBADMSG);
	a->record_offset = UINT32_MAX;
	a->record_bytes = UINT32_MAX;
	assert_int_equal(cdm_lane_record(lane, a, 0, &c), -EBADMSG);
	*a = good;
	for (int i = 0; i < 20000; i++) {
		lane->data[(uint32_t)rand() % a->record_bytes] = (uint8_t)rand();
		if (cdm_lane_record(lane, a, 0, &c) == 0)
			cdm_change_fini(&c);
	}
	lane->taken = lane->head + 5000;
	cdm_lane_peek(lane);
	lane->taken = 0;
	lane->head = UINT64_MAX;
	cdm_lane_peek(lane);
	lane->head = 0;
	cdm_lane_release(lane);
}

static void *claim_and_end(void *arg)
{
	struct cdm_lane *lane = cdm_lane_claim(map);
	assert_non_null(lane);
	announce(lane, 41);
	*(struct cdm_lane **)arg = lane;
	return NULL;
}

static void a_lane_of_a_thread_that_is_gone_is_claimed_again(void **state)
{
	struct cdm_lane *old = NULL;
	pthread_t thread;
	assert_int_equal(pthread_create(&thread, NULL, claim_and_end, &old), 0);
	pthread_join(thread, NULL);
	struct cdm_lane *lane = cdm_lane_claim(map);
	assert_ptr_equal(lane, old);
	assert_null(cdm_lane_peek(lane));
	announce(lane, 42);
	assert_int_equal(serve(lane, 1, CDM_AN_DONE), 42);
	cdm_lane_release(lane);
}

static void a_reused_thread_id_is_not_the_old_thread(void **state)
{
	struct cdm_lane *lane = cdm_lane_claim(map);
	lane->owner += 1ull << 32; /* as if this thread's id had belonged to one that started at another time */
	lane->seen_ms = 0;
	assert_null(cdm_lane_find(map, gettid()));
	assert_ptr_equal(cdm_lane_claim(map), lane);
	assert_ptr_equal(cdm_lane_find(map, gettid()), lane);
	cdm_lane_release(lane);
}

static void *claim_all(void *arg)
{
	for (;;) {
		struct cdm_lane *lane = cdm_lane_claim(map);
		if (!lane)
			return arg;
		atomic_fetch_add((_Atomic unsigned *)arg, 1);
	}
}

static void no_lane_is_claimed_twice(void **state)
{
	/* a thread that is claiming counts as living, so of eight lanes eight claims succeed, never more */
	_Atomic unsigned claimed = 0;
	pthread_t threads[4];
	struct cdm_lane *mine[CDM_LANES];
	for (size_t i = 0; i < CDM_LANES; i++)
		assert_non_null(mine[i] = cdm_lane_claim(map));
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, claim_all, &claimed), 0);
	for (size_t i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(claimed, 0);
	for (size_t i = 0; i < CDM_LANES; i++)
		cdm_lane_release(mine[i]);
}

/* An applying process that announces as fast as it can, until it is killed. */
static void announce_for_ever(int ready)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	struct cdm_lane *lane = cdm_lane_claim(map);
	char byte = lane ? 'y' : 'n';
	if (write(ready, &byte, 1) != 1)
		_exit(1);
	for (uint64_t n = 1; lane;)
		n += announce(lane, n) >= 0;
	_exit(1);
}

static void kill_minus_nine_while_announcing_leaves_a_sound_lane(void **state)
{
	for (int round = 0; round < 100; round++) {
		int pipe_fd[2];
		char byte = 0;
		assert_int_equal(pipe(pipe_fd), 0);
		pid_t pid = fork();
		if (pid == 0)
			announce_for_ever(pipe_fd[1]);
		assert_int_equal(read(pipe_fd[0], &byte, 1), 1);
		assert_int_equal(byte, 'y');
		struct cdm_lane *lane = cdm_lane_find(map, pid);
		assert_non_null(lane);
		uint64_t last = 0, stop_after = (uint64_t)(rand() % 200);
		for (uint64_t served = 0; served < stop_after;) {
			uint64_t number = serve(lane, served + 1, CDM_AN_DONE);
			if (!number)
				continue;
			assert_int_equal(number, last + 1);
			last = number;
			served++;
		}
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
		for (uint64_t number; (number = serve(lane, 999, CDM_AN_DONE)); last = number)
			assert_int_equal(number, last + 1);
		close(pipe_fd[0]);
		close(pipe_fd[1]);
		struct cdm_lane *again = cdm_lane_claim(map);
		assert_ptr_equal(again, lane);
		announce(again, 7);
		assert_int_equal(serve(again, 1, CDM_AN_DONE), 7);
		cdm_lane_release(again);
	}
}

static void another_versions_file_is_refused(void **state)
{
	struct cdm_announce_map *second = NULL;
	struct cdm_error err = CDM_ERROR_INIT;
	assert_int_equal(cdm_announce_open(dir, &second, &err), 0);
	cdm_announce_close(&second);
	map->version = 99;
	assert_int_equal(cdm_announce_open(dir, &second, &err), -EPROTO);
	assert_true(err.hint[0]);
	assert_null(second);
	map->version = 1;
	assert_int_equal(cdm_announce_open("/nonexistent", &second, &err), -ENOENT);
	char path[64];
	struct stat st;
	snprintf(path, sizeof path, "%s/" CDM_ANNOUNCE_FILE, dir);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
}

int main(void)
{
#define with_map(test) cmocka_unit_test_setup_teardown(test, make_map, remove_map)
	const struct CMUnitTest tests[] = {
		with_map(calls_are_taken_in_order),
		with_map(a_full_lane_says_again),
		with_map(a_call_that_never_arrived_is_withdrawn),
		with_map(a_half_arrived_write_does_not_catch_the_next_call),
		with_map(a_resent_request_finds_its_announcement),
		with_map(records_go_around_the_ring),
		with_map(records_that_never_fit_are_refused),
		with_map(foreign_bytes_are_refused),
		with_map(a_lane_of_a_thread_that_is_gone_is_claimed_again),
		with_map(a_reused_thread_id_is_not_the_old_thread),
		with_map(no_lane_is_claimed_twice),
		with_map(kill_minus_nine_while_announcing_leaves_a_sound_lane),
		with_map(another_versions_file_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
