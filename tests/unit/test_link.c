/* SPDX-License-Identifier: Apache-2.0 */
/* Links between nodes: they come up, carry sets, states and frames, and end with a reason. */
#include "tests/unit/link_rig.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <openssl/crypto.h>

static void frames_read_back_and_every_cut_is_refused(void **state)
{
	uint8_t bytes[4096];
	struct wire_hello h = {.version = 1, .min_version = 1, .number = 7, .instance = 9, .clock = 11, .name = "web07"}, h2;
	size_t n = wire_hello_encode(&h, bytes);
	assert_true(n > 0);
	assert_int_equal(wire_hello_decode(bytes, n, &h2), 0);
	assert_string_equal(h2.name, "web07");
	for (size_t i = 0; i < n; i++)
		assert_int_equal(wire_hello_decode(bytes, i, &h2), -EBADMSG);
	struct wire_state s = {.number = 3, .start = 4, .sequence = 5, .clock = 6, .state = "ok", .reason_code = "c", .reason = "r"}, s2;
	cdm_vector_raise(&s.visible, (struct cdm_dot){CDM_ORIGIN(1, 1), 7});
	cdm_vector_raise(&s.durable, (struct cdm_dot){CDM_ORIGIN(2, 1), 8});
	n = wire_state_encode(&s, bytes);
	assert_int_equal(n, wire_state_size(&s));
	assert_int_equal(wire_state_decode(bytes, n, &s2), 0);
	assert_true(cdm_vector_equal(&s.visible, &s2.visible) && cdm_vector_equal(&s.durable, &s2.durable));
	wire_state_fini(&s2);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(wire_state_decode(bytes, i, &s2), -EBADMSG);
	wire_state_fini(&s);
	struct wire_set_down d = {.name = "www", .why = {.number = 2, .text = "no"}}, d2;
	n = wire_set_down_encode(&d, bytes);
	assert_int_equal(wire_set_down_decode(bytes, n, &d2), 0);
	assert_string_equal(d2.why.text, "no");
	for (size_t i = 0; i < n; i++)
		assert_int_equal(wire_set_down_decode(bytes, i, &d2), -EBADMSG);
	struct wire_header wh = {.payload = FRAME_PAYLOAD_MAX, .type = FRAME_DATA, .set = 3}, wh2;
	wire_header_encode(&wh, bytes);
	assert_int_equal(wire_header_decode(bytes, &wh2, NULL), 0);
	wh.payload++;
	wire_header_encode(&wh, bytes);
	assert_int_equal(wire_header_decode(bytes, &wh2, NULL), -EPROTO);
	wh = (struct wire_header){.payload = 2000, .type = FRAME_HELLO};
	wire_header_encode(&wh, bytes);
	assert_int_equal(wire_header_decode(bytes, &wh2, NULL), -EPROTO);
	wh = (struct wire_header){.payload = 2, .type = FRAME_PLAIN};
	wire_header_encode(&wh, bytes);
	assert_int_equal(wire_header_decode(bytes, &wh2, NULL), -EPROTO);
	wh = (struct wire_header){.payload = 0, .type = 200};
	wire_header_encode(&wh, bytes);
	assert_int_equal(wire_header_decode(bytes, &wh2, NULL), -EPROTO);
}

static void child_dials_parent_and_both_carry_the_set(void **state)
{
	struct node *n[2] = {node_make(1, 0, false), node_make(2, 0, false)};
	give_route(n[0], n, 2, NULL, NULL, NULL);
	give_route(n[1], n, 2, "n1", NULL, NULL);
	assert_true(wait_for(first_two_carry, n, 5000));
	assert_string_equal(link_peer_name(n[1]->sets[0]->parent), "n1");
	assert_int_equal(link_peer_number(n[0]->sets[0]->child), 2);
	node_end(&n[1]);
	assert_int_equal(n[0]->sets[0]->child != NULL, false);
	node_end(&n[0]);
}

static bool receiver_paused(struct node **n)
{
	return n[1]->sets[0]->paused && n[0]->sets[0]->to_send > 0 && link_queued(n[0]->sets[0]->child) >= LINK_QUEUE_LOW;
}

static void pause_and_go_on(const char *use)
{
	rig_sections = use;
	struct node *n[2] = {node_make(1, 0, false), node_make(2, 0, false)};
	give_route(n[0], n, 2, NULL, NULL, NULL);
	give_route(n[1], n, 2, "n1", NULL, NULL);
	assert_true(wait_for(first_two_carry, n, 5000));
	struct set *a = n[0]->sets[0], *b = n[1]->sets[0];
	b->pause_once = true;
	a->to_send = PIECES;
	send_pieces(a, a->child);
	assert_true(wait_for(receiver_paused, n, 5000));
	assert_int_equal(b->frames, 1);
	assert_true(link_queued(a->child) <= LINK_QUEUE_HIGH + PIECE + 64);
	link_resume(b->paused);
	assert_true(wait_for(all_arrived, n, 10000));
	assert_int_equal(b->bytes, (PIECE + 4) * PIECES);
	assert_true(a->drained > 0);
	assert_non_null(b->parent);
	rig_sections = NULL;
	node_end(&n[0]);
	node_end(&n[1]);
}

static void a_paused_receiver_stops_the_sender_and_nothing_is_lost(void **state)
{
	pause_and_go_on(NULL);
	pause_and_go_on("{\"group\":{\"encryption\":false}}");
}

static bool third_knows_first(struct node **n)
{
	return seen_at(n[2], "n1").number == 7 && seen_at(n[0], "n3").found && seen_at(n[1], "n3").found;
}

static bool first_sees_third_down(struct node **n)
{
	return seen_at(n[0], "n3").down && !seen_at(n[0], "n2").down;
}

static void states_flood_over_a_relay_and_a_lost_leaf_is_told(void **state)
{
	struct node *n[3] = {node_make(1, 0, false), node_make(2, 0, false), node_make(3, 0, false)};
	give_route(n[0], n, 3, NULL, NULL, NULL);
	give_route(n[1], n, 3, "n1", NULL, NULL);
	give_route(n[2], n, 3, "n2", NULL, NULL);
	cdm_vector_raise(&n[0]->sets[0]->vector, (struct cdm_dot){CDM_ORIGIN(1, 1), 7});
	state_changed(n[0]->sets[0]);
	assert_true(wait_for(third_knows_first, n, 5000));
	node_end(&n[2]);
	struct node *left[3] = {n[0], n[1], NULL};
	assert_true(wait_for(first_sees_third_down, left, 2000));
	node_end(&n[0]);
	node_end(&n[1]);
}

static bool third_hangs_on_alternate(struct node **n)
{
	struct link *l = n[2]->sets[0]->parent;
	return l && strcmp(link_peer_name(l), "n2") == 0;
}

static bool third_hangs_on_first(struct node **n)
{
	struct link *l = n[2]->sets[0]->parent;
	return l && strcmp(link_peer_name(l), "n1") == 0 && !n[2]->sets[0]->child;
}

static void a_lost_parent_is_replaced_by_the_alternate_and_taken_back(void **state)
{
	struct node *n[3] = {node_make(1, 0, false), node_make(2, 0, false), node_make(3, 0, false)};
	unsigned port = listener_port(n[0]);
	give_route(n[0], n, 3, NULL, NULL, NULL);
	give_route(n[1], n, 3, NULL, NULL, NULL);
	give_route(n[2], n, 3, "n1", "n2", NULL);
	assert_true(wait_for(third_hangs_on_first, n, 5000));
	node_end(&n[0]);
	assert_true(wait_for(third_hangs_on_alternate, n, 6000));
	n[0] = node_make(1, port, false);
	give_route(n[0], n, 3, NULL, NULL, NULL);
	assert_true(wait_for(third_hangs_on_first, n, 10000));
	for (int i = 0; i < 3; i++)
		node_end(&n[i]);
}

static bool refused_second(struct node **n)
{
	const char *why = dialer_why(n[1], "n1");
	return why && strstr(why, "no member");
}

static bool second_left_first(struct node **n)
{
	return !n[0]->sets[0]->child || n[0]->sets[0]->child != link_find_up(n[0], "n2");
}

static bool first_asked_second(struct node **n)
{
	return n[0]->sets[0]->parent && n[0]->sets[0]->parent_began;
}

static bool first_hangs_on_second(struct node **n)
{
	struct set *first = n[0]->sets[0], *second = n[1]->sets[0];
	return first->parent && strcmp(link_peer_name(first->parent), "n2") == 0 && first->parent_began && second->child && second->child_began &&
		second->parent && strcmp(link_peer_name(second->parent), "n3") == 0;
}

/* Whoever hears of it first, and when both tell each other at once. */
static void parent_and_child_change_places(void **state)
{
	for (int order = 0; order < 3; order++) {
		struct node *n[3] = {node_make(1, 0, false), node_make(2, 0, false), node_make(3, 0, false)};
		give_route(n[0], n, 3, NULL, NULL, NULL);
		give_route(n[1], n, 3, "n1", NULL, NULL);
		give_route(n[2], n, 3, "n1", NULL, NULL);
		assert_true(wait_for(first_two_carry, n, 5000));
		give_route(n[2], n, 3, NULL, NULL, NULL);
		if (order == 1)
			give_route(n[1], n, 3, "n3", "n1", NULL);
		if (order == 1)
			assert_true(wait_for(second_left_first, n, 5000));
		give_route(n[0], n, 3, "n2", "n3", NULL);
		if (order == 0)
			assert_true(wait_for(first_asked_second, n, 5000));
		if (order != 1)
			give_route(n[1], n, 3, "n3", "n1", NULL);
		assert_true(wait_for(first_hangs_on_second, n, 5000));
		for (int i = 0; i < 3; i++)
			node_end(&n[i]);
	}
}

static void a_node_that_is_no_member_is_refused_with_a_reason(void **state)
{
	struct node *n[2] = {node_make(1, 0, false), node_make(2, 0, false)};
	give_route(n[0], n, 2, NULL, NULL, n[1]);
	give_route(n[1], n, 2, "n1", NULL, NULL);
	assert_true(wait_for(refused_second, n, 5000));
	assert_int_equal(n[0]->sets[0]->ups, 0);
	node_end(&n[1]);
	node_end(&n[0]);
}

static bool refused_foreign(struct node **n)
{
	return dialer_why(n[1], "n1") != NULL;
}

static void a_certificate_of_another_authority_is_refused(void **state)
{
	struct node *n[2] = {node_make(1, 0, false), node_make(2, 0, true)};
	give_route(n[0], n, 2, NULL, NULL, NULL);
	give_route(n[1], n, 2, "n1", NULL, NULL);
	assert_true(wait_for(refused_foreign, n, 5000));
	assert_int_equal(n[0]->sets[0]->ups + n[1]->sets[0]->ups, 0);
	node_end(&n[1]);
	node_end(&n[0]);
}

static void a_frame_that_cannot_be_used_ends_the_link_which_comes_back(void **state)
{
	struct node *n[2] = {node_make(1, 0, false), node_make(2, 0, false)};
	give_route(n[0], n, 2, NULL, NULL, NULL);
	give_route(n[1], n, 2, "n1", NULL, NULL);
	assert_true(wait_for(first_two_carry, n, 5000));
	uint32_t wrong = 99;
	link_send(n[1]->sets[0]->parent, n[1]->sets[0], FRAME_DATA, 0, &wrong, sizeof wrong, NULL, 0);
	assert_true(wait_for(second_was_down_and_up, n, 5000));
	node_end(&n[1]);
	node_end(&n[0]);
}

static bool both_dialled_one_left(struct node **n)
{
	return first_two_carry(n) && n[0]->sets[0]->parent && n[1]->sets[0]->child && n[0]->link_count == 1 && n[1]->link_count == 1;
}

static void when_both_dial_one_link_is_left(void **state)
{
	struct node *n[2] = {node_make(1, 0, false), node_make(2, 0, false)};
	give_route(n[0], n, 2, "n2", NULL, NULL);
	give_route(n[1], n, 2, "n1", NULL, NULL);
	n[0]->sets[0]->child = NULL;
	condition_fn *fn = both_dialled_one_left;
	bool one = wait_for(fn, n, 5000);
	if (!one) /* both asked on the one link: it is the parent for both */
		one = n[0]->link_count == 1 && n[1]->link_count == 1 && n[0]->sets[0]->parent && n[1]->sets[0]->parent;
	assert_true(one);
	node_end(&n[1]);
	node_end(&n[0]);
}

/* It would go on without, and never be able to greet anybody again. */
static void what_the_tls_library_does_not_get_ends_the_program(void **state)
{
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		setrlimit(RLIMIT_CORE, &(struct rlimit){0});
		CRYPTO_malloc(SIZE_MAX / 2, __FILE__, __LINE__);
		_exit(0);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

/* Of n2, by the table that n holds. */
static const struct member *second_at(struct node *n)
{
	return route_member_number(route_of(n, "www"), 2);
}

static void table_says(struct node *n, const char *brings)
{
	char text[512];
	struct cdm_error err = CDM_ERROR_INIT;
	snprintf(text, sizeof text, "{\"epoch\": 1000, \"node\": \"n9\", \"sets\": [{\"name\": \"www\", \"parent\": null, \"members\": [{\"name\": \"n9\", \"number\": 9, "
		"\"role\": \"both\"}, {\"name\": \"n2\", \"number\": 2, \"role\": \"target\"%s}]}]}", brings);
	json_t *table = json_loads(text, 0, NULL);
	assert_non_null(table);
	assert_int_equal(route_take(n, table, &err), 0);
	json_decref(table);
}

static void who_brings_is_told_by_the_table_and_goes_on_for_a_while(void **state)
{
	struct node *n = node_make(9, 0, false);
	table_says(n, ", \"brings\": false");
	assert_false(route_brings(second_at(n)));
	table_says(n, ", \"brings\": true");
	assert_true(route_brings(second_at(n)));
	table_says(n, ", \"brings\": false");
	int64_t until = second_at(n)->brought_until_ms;
	assert_true(!second_at(n)->brings && route_brings(second_at(n)) && until > cdm_now_ms());
	table_says(n, ", \"brings\": false"); /* another table does not make it longer */
	assert_int_equal(second_at(n)->brought_until_ms, until);
	table_says(n, ""); /* an older master */
	assert_true(second_at(n)->brings);
	node_end(&n);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_the_tls_library_does_not_get_ends_the_program),
		cmocka_unit_test(frames_read_back_and_every_cut_is_refused),
		cmocka_unit_test(child_dials_parent_and_both_carry_the_set),
		cmocka_unit_test(a_paused_receiver_stops_the_sender_and_nothing_is_lost),
		cmocka_unit_test(states_flood_over_a_relay_and_a_lost_leaf_is_told),
		cmocka_unit_test(a_lost_parent_is_replaced_by_the_alternate_and_taken_back),
		cmocka_unit_test(parent_and_child_change_places),
		cmocka_unit_test(a_node_that_is_no_member_is_refused_with_a_reason),
		cmocka_unit_test(a_certificate_of_another_authority_is_refused),
		cmocka_unit_test(a_frame_that_cannot_be_used_ends_the_link_which_comes_back),
		cmocka_unit_test(when_both_dial_one_link_is_left),
		cmocka_unit_test(who_brings_is_told_by_the_table_and_goes_on_for_a_while),
	};
	return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
