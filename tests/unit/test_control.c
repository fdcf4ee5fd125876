/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket: a client in a thread, the loop here. */
#include "tests/unit/link_rig.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include "replicator/control.h"
#include "replicator/opens.h"

struct asking {
	char path[300], request[256], answer[4096];
	_Atomic bool done;
};

static void *ask_thread(void *arg)
{
	struct asking *a = arg;
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	size_t len = 0;
	memcpy(addr.sun_path, a->path, strlen(a->path) + 1);
	if (connect(fd, (struct sockaddr *)&addr, sizeof addr) == 0 && write(fd, a->request, strlen(a->request)) > 0)
		for (ssize_t n; len < sizeof a->answer - 1 && (n = read(fd, a->answer + len, sizeof a->answer - 1 - len)) > 0;) {
			len += (size_t)n;
			if (memchr(a->answer, '\n', len))
				break;
		}
	close(fd);
	a->done = true;
	return NULL;
}

static struct asking *asking_now;

static bool answered(struct node **n)
{
	return asking_now->done;
}

static void second_has_it_too(void *arg)
{
	struct node *n = arg;
	cdm_vector_raise(&n->sets[0]->vector, (struct cdm_dot){CDM_ORIGIN(1, 1), 7});
	state_changed(n->sets[0]);
}

/* Asks n[0]; `later`, if given, happens to it after 50 ms. */
static json_t *ask(struct node **n, const char *request, cdm_loop_fn *later, void *arg)
{
	struct asking a = {.done = false};
	pthread_t thread;
	asking_now = &a;
	snprintf(a.path, sizeof a.path, "%s", n[0]->conf->control);
	snprintf(a.request, sizeof a.request, "%s\n", request);
	if (later)
		cdm_loop_after(rig_loop, 50, later, arg);
	assert_int_equal(pthread_create(&thread, NULL, ask_thread, &a), 0);
	assert_true(wait_for(answered, n, 8000));
	pthread_join(thread, NULL);
	json_t *j = json_loads(a.answer, 0, NULL);
	assert_non_null(j);
	assert_true(json_is_true(json_object_get(j, "end")));
	return j;
}

static void expect(json_t *answer, const char *key, const char *value)
{
	const char *got = json_string_value(json_object_get(answer, key));
	if (!got || strcmp(got, value) != 0)
		fail_msg("%s is %s, not %s", key, got ? got : "missing", value);
}

static bool second_is_known(struct node **n)
{
	return first_two_carry(n) && seen_at(n[0], "n2").found;
}

static bool second_is_down(struct node **n)
{
	return seen_at(n[0], "n2").down;
}

static void waiting_ends_when_all_have_it_or_time_or_a_node_is_gone(void **state)
{
	struct node *n[2] = {node_make(1, 0, false), node_make(2, 0, false)};
	assert_true(asprintf(&n[0]->conf->run, "%s/run", rig_dir) > 0);
	assert_true(asprintf(&n[0]->conf->control, "%s/run/control.sock", rig_dir) > 0);
	assert_int_equal(opens_new(n[0]), 0);
	assert_int_equal(control_new(n[0], NULL), 0);
	give_route(n[0], n, 2, NULL, NULL, NULL);
	give_route(n[1], n, 2, "n1", NULL, NULL);
	cdm_vector_raise(&n[0]->sets[0]->vector, (struct cdm_dot){CDM_ORIGIN(1, 1), 7});
	assert_true(wait_for(second_is_known, n, 5000));

	json_t *j = ask(n, "{\"cmd\":\"wait\",\"set\":\"www\",\"timeout_s\":0.1}", NULL, NULL);
	expect(j, "result", "timeout");
	expect(j, "upto", "1.1:7");
	expect(json_array_get(json_object_get(j, "lack"), 0), "node", "n2");
	assert_int_equal(json_integer_value(json_object_get(j, "have")), 1);
	json_decref(j);
	j = ask(n, "{\"cmd\":\"wait\",\"set\":\"www\",\"min_percent\":50}", NULL, NULL);
	expect(j, "result", "ok");
	json_decref(j);
	j = ask(n, "{\"cmd\":\"status\",\"set\":\"www\"}", NULL, NULL);
	assert_true(json_is_false(json_object_get(j, "in_sync")));
	expect(json_array_get(json_object_get(j, "nodes"), 1), "state", "behind");
	json_decref(j);
	j = ask(n, "{\"cmd\":\"wait\",\"set\":\"www\"}", second_has_it_too, n[1]);
	expect(j, "result", "ok");
	assert_int_equal(json_integer_value(json_object_get(j, "of")), 2);
	json_decref(j);
	node_end(&n[1]);
	assert_true(wait_for(second_is_down, n, 5000));
	j = ask(n, "{\"cmd\":\"wait\",\"set\":\"www\",\"fail_fast\":true}", NULL, NULL);
	expect(j, "result", "down");
	json_decref(j);
	j = ask(n, "{\"cmd\":\"wait\",\"set\":\"other\"}", NULL, NULL);
	expect(j, "error", "unknown set other");
	json_decref(j);
	control_free(n[0]);
	opens_free(n[0]);
	free(n[0]->conf->run);
	free(n[0]->conf->control);
	node_end(&n[0]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(waiting_ends_when_all_have_it_or_time_or_a_node_is_gone),
	};
	return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
