/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/loop.h"

static struct cdm_loop *loop;
static char trace[256];

static int setup(void **state)
{
	trace[0] = 0;
	return cdm_loop_new(&loop, NULL);
}

static int teardown(void **state)
{
	cdm_loop_free(&loop);
	return 0;
}

static void note(const char *s)
{
	strncat(trace, s, sizeof trace - strlen(trace) - 1);
}

static void note_fn(void *arg)
{
	note(arg);
}

static void stop_fn(void *arg)
{
	cdm_loop_stop(loop);
}

static void timers_fire_in_order_and_cancelled_ones_do_not(void **state)
{
	struct cdm_timer *t = cdm_loop_after(loop, 1, note_fn, (void *)"x");
	cdm_loop_after(loop, 20, note_fn, (void *)"c");
	cdm_loop_after(loop, 5, note_fn, (void *)"a");
	cdm_loop_after(loop, 5, note_fn, (void *)"b");
	cdm_timer_cancel(&t);
	assert_null(t);
	cdm_loop_after(loop, 30, stop_fn, NULL);
	assert_int_equal(cdm_loop_run(loop), 0);
	assert_string_equal(trace, "abc");
}

static int results[2048];
static size_t result_count;

static void store_result(void *arg, int result)
{
	results[(size_t)(uintptr_t)arg] = result;
	if (--result_count == 0)
		cdm_loop_stop(loop);
}

static void more_submissions_than_the_ring_holds_all_complete(void **state)
{
	int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	static char buf[2048];
	memset(buf, 1, sizeof buf);
	result_count = 2048;
	for (size_t i = 0; i < 2048; i++)
		cdm_loop_read(loop, fd, buf + i, 1, 0, store_result, (void *)i);
	assert_int_equal(cdm_loop_run(loop), 0);
	for (size_t i = 0; i < 2048; i++) {
		assert_int_equal(results[i], 1);
		assert_int_equal(buf[i], 0);
	}
	close(fd);
}

static void cancelled_poll_calls_back_with_ecanceled(void **state)
{
	int p[2];
	assert_int_equal(pipe(p), 0);
	result_count = 2;
	struct cdm_io *queued = cdm_loop_poll(loop, p[0], POLLIN, store_result, (void *)0);
	cdm_loop_cancel(loop, queued); /* not in the ring yet */
	cdm_loop_poll(loop, p[0], POLLIN, store_result, (void *)1);
	assert_int_equal(write(p[1], "x", 1), 1);
	assert_int_equal(cdm_loop_run(loop), 0);
	assert_int_equal(results[0], -ECANCELED);
	assert_int_equal(results[1], POLLIN);
	close(p[0]);
	close(p[1]);
}

static struct cdm_io *to_cancel;

static void cancel_now(void *arg)
{
	cdm_loop_cancel(loop, to_cancel);
}

static void poll_in_the_ring_can_be_cancelled(void **state)
{
	int p[2];
	assert_int_equal(pipe(p), 0);
	result_count = 1;
	to_cancel = cdm_loop_poll(loop, p[0], POLLIN, store_result, (void *)0);
	cdm_loop_after(loop, 5, cancel_now, NULL);
	assert_int_equal(cdm_loop_run(loop), 0);
	assert_int_equal(results[0], -ECANCELED);
	close(p[0]);
	close(p[1]);
}

static void free_calls_back_what_is_in_flight(void **state)
{
	int p[2];
	assert_int_equal(pipe(p), 0);
	result_count = 2;
	cdm_loop_poll(loop, p[0], POLLIN, store_result, (void *)0);
	cdm_loop_after(loop, 1, stop_fn, NULL);
	cdm_loop_run(loop);
	cdm_loop_free(&loop);
	assert_int_equal(result_count, 1);
	assert_int_equal(results[0], -ECANCELED);
	close(p[0]);
	close(p[1]);
}

static size_t posted;

static void count_post(void *arg)
{
	if (++posted == 20000)
		cdm_loop_stop(loop);
}

static void *poster(void *arg)
{
	for (int i = 0; i < 10000; i++)
		cdm_loop_post(loop, count_post, NULL);
	return NULL;
}

static void posts_of_several_threads_all_arrive(void **state)
{
	pthread_t a, b;
	posted = 0;
	pthread_create(&a, NULL, poster, NULL);
	pthread_create(&b, NULL, poster, NULL);
	assert_int_equal(cdm_loop_run(loop), 0);
	pthread_join(a, NULL);
	pthread_join(b, NULL);
	assert_int_equal(posted, 20000);
}

static void worker_runs_in_order_and_free_finishes_the_queue(void **state)
{
	struct cdm_worker *w = cdm_worker_new(loop, "test");
	assert_non_null(w);
	cdm_worker_submit(w, note_fn, NULL, (void *)"1");
	cdm_worker_submit(w, note_fn, NULL, (void *)"2");
	cdm_worker_submit(w, note_fn, stop_fn, (void *)"3");
	cdm_worker_free(&w);
	assert_string_equal(trace, "123");
	assert_int_equal(cdm_loop_run(loop), 0);
}

static void sleeping_loop_uses_no_processor(void **state)
{
	struct rusage before, after;
	getrusage(RUSAGE_THREAD, &before);
	cdm_loop_after(loop, 200, stop_fn, NULL);
	cdm_loop_run(loop);
	getrusage(RUSAGE_THREAD, &after);
	assert_true(after.ru_nvcsw - before.ru_nvcsw < 10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(timers_fire_in_order_and_cancelled_ones_do_not),
		T(more_submissions_than_the_ring_holds_all_complete),
		T(cancelled_poll_calls_back_with_ecanceled),
		T(poll_in_the_ring_can_be_cancelled),
		T(free_calls_back_what_is_in_flight),
		T(posts_of_several_threads_all_arrive),
		T(worker_runs_in_order_and_free_finishes_the_queue),
		T(sleeping_loop_uses_no_processor),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
