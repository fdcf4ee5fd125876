/* SPDX-License-Identifier: Apache-2.0 */
/* Links used as their sections say: compression, protection, limit. */
#include "tests/unit/link_rig.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "replicator/chunk.h"
#include "replicator/fetch.h"
#include "replicator/pack.h"

#define LINK_SECTION(compression, encryption, rate) \
	"{\"group\":{\"compression\":" #compression ",\"encryption\":" #encryption ",\"rate\":" #rate "}}"

static void frames_arrive_equal_at_every_level_and_by_every_method(void **state)
{
	static const char *const levels[] = {LINK_SECTION(0, true, 0), LINK_SECTION(1, true, 0), LINK_SECTION(6, true, 0), LINK_SECTION(9, true, 0)};
	static const uint32_t features[] = {WIRE_FEATURES, WIRE_FEATURE_ZLIB, 0};
	for (unsigned f = 0; f < 3; f++) {
		struct node *n[2];
		rig_mixed = true;
		pair_make(n, levels[0], features[f]);
		for (unsigned i = 0; i < 5; i++) { /* on one link; back to none at the end */
			pair_use(n, levels[i % 4]);
			struct section_cost before = n[0]->section_costs[SECTION_GROUP], *now = &n[0]->section_costs[SECTION_GROUP];
			send_all(n);
			expect_all(n);
			uint64_t raw = now->raw_bytes - before.raw_bytes, sent = now->compressed_bytes - before.compressed_bytes;
			assert_true(raw >= PIECES * (uint64_t)PIECE);
			if (i % 4 == 0 || !features[f])
				assert_int_equal(sent, raw);
			else
				assert_true(sent < raw / 2); /* a third is random */
		}
		pair_end(n);
	}
}

static void random_content_goes_as_it_is(void **state)
{
	struct node *n[2];
	pair_make(n, LINK_SECTION(6, true, 0), WIRE_FEATURES);
	send_all(n);
	expect_all(n);
	const struct section_cost *c = &n[0]->section_costs[SECTION_GROUP];
	assert_true(c->raw_bytes >= PIECES * (uint64_t)PIECE);
	assert_int_equal(c->compressed_bytes, c->raw_bytes);
	links_account(n[0]);
	assert_true(c->wire_bytes > c->raw_bytes && n[0]->sets[0]->sent_bytes > c->raw_bytes);
	pair_end(n);
}

static void a_compressed_frame_that_does_not_hold_ends_the_link(void **state)
{
	struct node *n[2];
	pair_make(n, NULL, WIRE_FEATURES);
	for (unsigned i = 0; i < 2 * 6; i++) {
		uint8_t packed[1024], content[500];
		enum pack_method method = i % 2 ? PACK_ZSTD : PACK_ZLIB;
		struct packer *p = packer_new(method);
		memset(content, 'x', sizeof content);
		uint32_t len = (uint32_t)packer_pack(p, 6, content, sizeof content, NULL, 0, packed);
		packer_free(&p);
		uint8_t flags = method == PACK_ZSTD ? WIRE_FLAG_ZSTD : WIRE_FLAG_ZLIB;
		const uint32_t says[6] = {sizeof content - 1, sizeof content + 1, 0, FRAME_PAYLOAD_MAX + 1, sizeof content, sizeof content};
		memcpy(packed, &says[i / 2], sizeof says[0]);
		if (i / 2 == 4)
			memset(packed + PACK_HEAD, 0xff, len - PACK_HEAD);
		if (i / 2 == 5)
			flags = WIRE_FLAG_ZSTD | WIRE_FLAG_ZLIB;
		n[0]->sets[0]->downs = n[1]->sets[0]->downs = 0;
		link_send(n[1]->sets[0]->parent, n[1]->sets[0], FRAME_DATA, flags, packed, len, NULL, 0);
		assert_true(wait_for(second_was_down_and_up, n, 5000));
	}
	pair_end(n);
}

static bool some_arrived(struct node **n)
{
	return n[1]->sets[0]->frames >= PIECES / 10;
}

static bool no_switch_is_under_way(struct node **n)
{
	return all_arrived(n) && link_queued(n[0]->sets[0]->child) == 0;
}

static void protection_changes_while_frames_flow(void **state)
{
	static const char *const turns[] = {LINK_SECTION(0, true, 0), LINK_SECTION(1, false, 0), LINK_SECTION(0, false, 0), LINK_SECTION(6, true, 0)};
	struct node *n[2];
	rig_mixed = true;
	pair_make(n, turns[1], WIRE_FEATURES);
	for (unsigned i = 0; i < 40; i++) {
		if (i % 4 == 0)
			send_all(n);
		pair_use(n, turns[i % 4]);
		if (i % 2)
			pair_use(n, turns[(i + 1) % 4]); /* before the first one is through */
		assert_true(wait_for(i % 4 == 3 ? no_switch_is_under_way : some_arrived, n, 20000));
	}
	expect_all(n);
	pair_end(n);
}

#define FED_PIECES 120u

static void feed(struct link *l, unsigned number)
{
	static const uint32_t sizes[] = {128 << 10, 100, 64 << 10, 128 << 10, 40000, 1, (32 << 10) - FED_HEAD, 128 << 10};
	uint32_t len = sizes[number % (sizeof sizes / sizeof *sizes)];
	uint8_t head[FED_HEAD] = {0};
	struct chunk *chunk = chunk_new(len);
	memcpy(head, &number, sizeof number);
	for (uint32_t i = 0; i < len; i++)
		chunk->data[i] = rig_fed_byte(number, i);
	link_send_chunk(l, NULL, FRAME_FED, head, sizeof head, chunk->data, len, number % 3 ? chunk : NULL);
	chunk_unref(chunk);
}

static bool all_fed(struct node **n)
{
	return rig_fed == FED_PIECES && all_arrived(n);
}

/* Among others, under each protection, compressed or not. */
static void pieces_that_are_fed_arrive_where_they_stay(void **state)
{
	static const char *const ways[] = {LINK_SECTION(0, true, 0), LINK_SECTION(0, false, 0), LINK_SECTION(1, true, 0)};
	struct node *n[2];
	pair_make(n, ways[0], WIRE_FEATURES);
	for (unsigned i = 0; i < 3; i++) {
		pair_use(n, ways[i]);
		rig_fed = rig_fed_in_chunks = 0;
		for (unsigned k = 0; k < FED_PIECES / 2; k++)
			feed(n[0]->sets[0]->child, k);
		send_all(n);
		for (unsigned k = FED_PIECES / 2; k < FED_PIECES; k++)
			feed(n[0]->sets[0]->child, k);
		assert_true(wait_for(all_fed, n, 20000));
		expect_all(n);
		if (i < 2)
			assert_true(rig_fed_in_chunks >= FED_PIECES / 3); /* at least those of 128 KiB that were not in the buffer already */
	}
	pair_end(n);
}

/* Between the first node and whoever dials it: a thread that passes bytes on, looks for readable text, and changes one byte when told to. */
struct detour {
	int fd;
	unsigned to;
	_Atomic bool change, readable;
	pthread_t thread;
};

static int connect_to(unsigned port)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connect(fd, (struct sockaddr *)&addr, sizeof addr) == 0)
		return fd;
	close(fd);
	return -1;
}

static bool pass_on(struct detour *d, int from, int to, bool down)
{
	static uint8_t bytes[64 << 10];
	ssize_t n = read(from, bytes, sizeof bytes);
	if (n <= 0)
		return false;
	if (down && memmem(bytes, (size_t)n, "armless", 7))
		d->readable = true;
	if (down && n > 8192 && d->change) {
		bytes[n / 2] ^= 0x10;
		d->change = false;
	}
	for (ssize_t at = 0, w; at < n; at += w)
		if ((w = write(to, bytes + at, (size_t)(n - at))) <= 0)
			return false;
	return true;
}

static void *detour_thread(void *arg)
{
	struct detour *d = arg;
	for (int in; (in = accept(d->fd, NULL, NULL)) >= 0; close(in)) {
		int out = connect_to(d->to);
		struct pollfd p[2] = {{.fd = in, .events = POLLIN}, {.fd = out, .events = POLLIN}};
		while (out >= 0 && poll(p, 2, -1) > 0)
			if ((p[0].revents && !pass_on(d, in, out, false)) || (p[1].revents && !pass_on(d, out, in, true)))
				break;
		close(out);
	}
	return NULL;
}

static void detour_begin(struct detour *d, unsigned to)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof addr;
	*d = (struct detour){.to = to, .fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
	assert_int_equal(bind(d->fd, (struct sockaddr *)&addr, sizeof addr) + listen(d->fd, 8), 0);
	getsockname(d->fd, (struct sockaddr *)&addr, &len);
	rig_detour = ntohs(addr.sin_port);
	assert_int_equal(pthread_create(&d->thread, NULL, detour_thread, d), 0);
}

static void detour_end(struct detour *d)
{
	rig_detour = 0;
	shutdown(d->fd, SHUT_RDWR);
	pthread_join(d->thread, NULL);
	close(d->fd);
}

static void without_encryption_bytes_can_be_read_but_not_changed(void **state)
{
	struct node *n[2] = {node_make(1, 0, false), node_make(2, 0, false)};
	struct detour d;
	detour_begin(&d, listener_port(n[0]));
	rig_mixed = true;
	pair_use(n, LINK_SECTION(0, true, 0));
	assert_true(wait_for(first_two_carry, n, 5000));
	send_all(n);
	expect_all(n);
	assert_false(d.readable);
	pair_use(n, LINK_SECTION(0, false, 0));
	send_all(n);
	expect_all(n);
	assert_true(d.readable);
	d.change = true;
	send_all(n);
	n[0]->sets[0]->to_send = 0; /* what was queued is enough */
	assert_true(wait_for(second_was_down_and_up, n, 5000));
	assert_false(d.change);
	assert_int_not_equal(n[1]->sets[0]->frames, PIECES);
	pair_end(n);
	detour_end(&d);
}

static void an_older_peer_gets_plain_frames_in_tls(void **state)
{
	struct node *n[2];
	rig_mixed = true;
	pair_make(n, LINK_SECTION(9, false, 0), 0);
	send_all(n);
	expect_all(n);
	assert_int_equal(n[0]->section_costs[SECTION_GROUP].compressed_bytes, n[0]->section_costs[SECTION_GROUP].raw_bytes);
	pair_end(n);
}

static void a_limited_link_sends_no_faster_and_a_new_limit_counts_at_once(void **state)
{
	struct node *n[2];
	pair_make(n, LINK_SECTION(0, true, 2000000), WIRE_FEATURES);
	links_account(n[0]);
	uint64_t before = n[0]->section_costs[SECTION_GROUP].wire_bytes;
	int64_t start = cdm_now_ms();
	send_all(n);
	assert_true(wait_for(some_arrived, n, 20000));
	links_account(n[0]);
	uint64_t sent = n[0]->section_costs[SECTION_GROUP].wire_bytes - before;
	uint64_t may = (uint64_t)(cdm_now_ms() - start + 1) * 2000 + 2000000 * 30 / 1000;
	assert_true(sent > PIECES / 10 * PIECE);
	assert_true(sent <= may + 1024); /* the last record's own bytes */
	pair_use(n, LINK_SECTION(0, true, 1));
	pair_use(n, LINK_SECTION(0, true, 0));
	expect_all(n);
	pair_end(n);
}

static void a_table_with_bad_sections_changes_nothing(void **state)
{
	static const char *const bad[] = {"[]", "{\"group\":{\"compression\":10}}", "{\"region\":{\"encryption\":1}}"};
	struct node *n[2];
	pair_make(n, LINK_SECTION(2, true, 0), WIRE_FEATURES);
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct cdm_error err = CDM_ERROR_INIT;
		json_t *j = json_pack("{s:i, s:s, s:[], s:o}", "epoch", 1000, "node", "n1", "sets", "sections", json_loads(bad[i], 0, NULL));
		assert_int_equal(route_take(n[0], j, &err), -EBADMSG);
		assert_non_null(strstr(err.text, "section"));
		json_decref(j);
	}
	assert_int_equal(link_section(n[0]->sets[0]->child)->compression, 2);
	pair_end(n);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(frames_arrive_equal_at_every_level_and_by_every_method),
		cmocka_unit_test(random_content_goes_as_it_is),
		cmocka_unit_test(a_compressed_frame_that_does_not_hold_ends_the_link),
		cmocka_unit_test(pieces_that_are_fed_arrive_where_they_stay), cmocka_unit_test(protection_changes_while_frames_flow),
		cmocka_unit_test(without_encryption_bytes_can_be_read_but_not_changed),
		cmocka_unit_test(an_older_peer_gets_plain_frames_in_tls),
		cmocka_unit_test(a_limited_link_sends_no_faster_and_a_new_limit_counts_at_once),
		cmocka_unit_test(a_table_with_bad_sections_changes_nothing),
	};
	return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
