/* SPDX-License-Identifier: Apache-2.0 */
/* A node with a good certificate that lies. n3 may receive the set and not write it; its replicator is dead, and this program speaks in its
 * name with n1. What no honest node sends ends the link with a reason that the liar is told; nothing outside the store is touched,
 * nobody else is affected, and n1 goes on without having died. First n3 is a leaf: whatever it says that others did
 * counts for nothing. Then it is one that carries changes of a source. */
#include "tests/cluster/hostile.h"
#include "common/loop.h"
#include "common/tls.h"
#include "replicator/seal_sign.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define LIAR "n3"
#define LIAR_ORIGIN CDM_ORIGIN(hostile_number(LIAR), 1)
#define SOURCE_ORIGIN CDM_ORIGIN(hostile_number("n2"), 7) /* of a node that may write, of an incarnation it never had */

static void put_frame(struct hostile *h, unsigned type, struct bytes *payload)
{
	hostile_frame(h, type, 0, 0, payload->data, payload->len);
	bytes_fini(payload);
}

/* --- below the set: frames, hello, sets --- */

static void header(struct hostile *h, uint32_t length, uint8_t type)
{
	const uint8_t head[WIRE_HEADER] = {(uint8_t)length, (uint8_t)(length >> 8), (uint8_t)(length >> 16), (uint8_t)(length >> 24), type};
	hostile_bytes(h, head, sizeof head);
}
static void length_4g(struct hostile *h) { header(h, UINT32_MAX, FRAME_DATA); }
static void length_2g(struct hostile *h) { header(h, 1u << 31, FRAME_CHANGE); }
static void length_of_next_type(struct hostile *h) { header(h, 4 + WIRE_SMALL_MAX + 1, FRAME_SET_UP); }
static void length_0(struct hostile *h) { header(h, 0, FRAME_PING); }
static void unknown_type(struct hostile *h) { hostile_frame(h, 200, 0, 0, "x", 1); }
static void unknown_type_to_skip(struct hostile *h) { hostile_frame(h, 200, WIRE_FLAG_MAY_SKIP, 0, "x", 1); }
static void random_frames(struct hostile *h)
{
	uint8_t bytes[4096];
	srand(320);
	for (size_t i = 0; i < sizeof bytes; i++)
		bytes[i] = (uint8_t)rand();
	hostile_bytes(h, bytes, sizeof bytes);
}
static void bytes_past_tls(struct hostile *h) { hostile_tcp(h, "not a TLS record, and longer than a header", 42); }
static void frame_before_hello(struct hostile *h) { hostile_frame(h, FRAME_PING, 0, 0, "12345678", 8); }
static void state_before_hello(struct hostile *h) { hostile_frame(h, FRAME_STATE, 0, 0, "", 0); }

static void hello_with(struct hostile *h, void (*spoil)(struct wire_hello *hello))
{
	uint8_t out[WIRE_SMALL_MAX];
	struct wire_hello hello = hostile_hello(h);
	spoil(&hello);
	hostile_frame(h, FRAME_HELLO, 0, 0, out, wire_hello_encode(&hello, out));
}
static void other_number(struct wire_hello *hello) { hello->number = hostile_number("n2"); }
static void other_name(struct wire_hello *hello) { snprintf(hello->name, sizeof hello->name, "n2"); }
static void newer_version(struct wire_hello *hello) { hello->version = hello->min_version = 9; }
static void unknown_feature(struct wire_hello *hello) { hello->required = 1u << 31; }
static void clock_in_a_year(struct wire_hello *hello) { hello->clock += 400ull * 86400 * 1000000000; }
static void clock_at_the_end(struct wire_hello *hello) { hello->clock = UINT64_MAX; }
static void hello_of_another_number(struct hostile *h) { hello_with(h, other_number); }
static void hello_of_another_name(struct hostile *h) { hello_with(h, other_name); }
static void hello_of_another_version(struct hostile *h) { hello_with(h, newer_version); }
static void hello_that_requires(struct hostile *h) { hello_with(h, unknown_feature); }
static void hello_with_future_clock(struct hostile *h) { hello_with(h, clock_in_a_year); }
static void hello_with_last_clock(struct hostile *h) { hello_with(h, clock_at_the_end); }
static void hello_cut_short(struct hostile *h) { hostile_frame(h, FRAME_HELLO, 0, 0, "cdml", 4); }
static void hello_twice(struct hostile *h) { hello_with(h, clock_in_a_year); }

static void set_up_of(struct hostile *h, const char *name, unsigned index)
{
	uint8_t out[WIRE_SMALL_MAX];
	struct wire_set_up up = {.child = true};
	snprintf(up.name, sizeof up.name, "%s", name);
	hostile_frame(h, FRAME_SET_UP, 0, index, out, wire_set_up_encode(&up, out));
}
static void unknown_set(struct hostile *h)
{
	struct wire_set_down down;
	size_t len;
	set_up_of(h, "secret", 1);
	const uint8_t *payload = hostile_await(h, FRAME_SET_DOWN, &len);
	assert_int_equal(wire_set_down_decode(payload, len, &down), 0);
	assert_string_equal(down.why.text, "this node does not hold the set");
}
static void set_with_path_as_name(struct hostile *h) { set_up_of(h, "../../etc", 1); }
static void set_name_of_4g(struct hostile *h)
{
	uint8_t up[9 + 4] = {1};
	memset(up + 9, 0xff, 4);
	hostile_frame(h, FRAME_SET_UP, 0, 0, up, sizeof up);
}
static void set_up_again_and_again(struct hostile *h)
{
	for (int i = 0; i < 200; i++)
		set_up_of(h, LAB_SET, 0);
}
static void set_never_named(struct hostile *h) { hostile_frame(h, FRAME_ACK, 0, 77, "", 0); }
static void plain_not_agreed(struct hostile *h) { hostile_frame(h, FRAME_PLAIN, 0, 0, "\1", 1); }
static void plain_record_of_2g(struct hostile *h)
{
	hostile_frame(h, FRAME_PLAIN, 0, 0, "\1", 1);
	hostile_tcp(h, "\0\0\0\x80 and so on", 14);
}
static void plain_record_with_wrong_code(struct hostile *h)
{
	hostile_frame(h, FRAME_PLAIN, 0, 0, "\1", 1);
	hostile_tcp(h, "\4\0\0\0" "data" "0123456789abcdef", 24);
}
static void packed_not_agreed(struct hostile *h) { hostile_frame(h, FRAME_ACK, WIRE_FLAG_ZSTD, 0, "\x10\0\0\0 garbage", 12); }
static void packed_both_ways(struct hostile *h) { hostile_frame(h, FRAME_ACK, WIRE_FLAG_ZSTD | WIRE_FLAG_ZLIB, 0, "\x10\0\0\0 garbage", 12); }
static void packed_to_4g(struct hostile *h) { hostile_frame(h, FRAME_ACK, WIRE_FLAG_ZLIB, 0, "\xff\xff\xff\xff garbage", 12); }
static void packed_garbage(struct hostile *h) { hostile_frame(h, FRAME_ACK, WIRE_FLAG_ZSTD, 0, "\x10\0\0\0 garbage", 12); }
/* 256 KiB of zeros say to be 16 bytes: raw deflate, one stored block. */
static void packed_bomb(struct hostile *h)
{
	static uint8_t bomb[4 + 5 + 65535] = {16, 0, 0, 0, 0, 0xff, 0xff, 0, 0};
	hostile_frame(h, FRAME_ACK, WIRE_FLAG_ZLIB, 0, bomb, sizeof bomb);
}
static void error_that_cannot_be_read(struct hostile *h) { hostile_frame(h, FRAME_ERROR, 0, 0, "\1\0\0\0\xff\xff\xff\xff", 8); }

/* Each PING is answered, and nobody reads the answers. */
static void pings_without_reading(struct hostile *h)
{
	static uint8_t pings[4096][WIRE_HEADER + 8];
	for (size_t i = 0; i < 4096; i++)
		wire_header_encode(&(struct wire_header){.payload = 8, .type = FRAME_PING}, pings[i]);
	for (size_t sent = 0; sent < 200u << 20; sent += sizeof pings)
		hostile_bytes(h, pings, sizeof pings);
}

/* --- states --- */

static void state_of(struct hostile *h, uint32_t number, uint64_t start, bool down)
{
	struct wire_state s = {.number = number, .start = start, .sequence = UINT64_MAX, .clock = cdm_clock_now(), .down = down, .state = "ok",
		.reason = "\033[31mred\n<img src=x onerror=alert(1)>"};
	uint8_t out[1024];
	hostile_frame(h, FRAME_STATE, 0, 0, out, wire_state_encode(&s, out));
}
static void states_of_strangers(struct hostile *h)
{
	for (uint32_t i = 100; i < 5100; i++)
		state_of(h, i, 1, false);
}
static void state_of_the_receiver(struct hostile *h) { state_of(h, hostile_number("n1"), UINT64_MAX, true); }
static void state_of_another(struct hostile *h) { state_of(h, hostile_number("n2"), UINT64_MAX, true); }
static void state_cut_short(struct hostile *h) { hostile_frame(h, FRAME_STATE, 0, 0, "\0\3\0\0\0", 5); }

/* --- vectors --- */

static void vector_of_4g(struct hostile *h)
{
	struct bytes p = {0};
	bytes_put_u8(&p, 0);
	bytes_put_u32(&p, UINT32_MAX);
	put_frame(h, FRAME_SUBSCRIBE, &p);
}
static void subscribe_twice(struct hostile *h)
{
	struct subscribe none = {0};
	struct bytes p = {0};
	subscribe_encode(&none, &p);
	put_frame(h, FRAME_SUBSCRIBE, &p);
}
static void frame_before_subscribe(struct hostile *h) { hostile_frame(h, FRAME_RESYNC_START, 0, 0, "\0\0\0\0", 4); }

static void ack_of(struct hostile *h, uint64_t batch, const struct cdm_vector *v)
{
	struct ack ack = {.batch = batch, .visible = *v, .durable = *v};
	struct bytes p = {0};
	ack_encode(&ack, &p);
	put_frame(h, FRAME_ACK, &p);
}
static void unsorted_vector(struct hostile *h)
{
	struct cdm_dot dots[] = {{CDM_ORIGIN(2, 1), 5}, {CDM_ORIGIN(1, 1), 5}};
	ack_of(h, 0, &(struct cdm_vector){.entries = dots, .count = 2});
}
static void ack_of_no_batch(struct hostile *h) { ack_of(h, UINT64_MAX, &(struct cdm_vector){0}); }

/* Vectors of many origins that nobody knows, each one other than those before. */
static void many_origins(struct hostile *h)
{
	static struct cdm_dot dots[CDM_VECTOR_MAX];
	for (uint32_t round = 0; round < 20; round++) {
		for (uint32_t i = 0; i < CDM_VECTOR_MAX; i++)
			dots[i] = (struct cdm_dot){CDM_ORIGIN(1000 + round * CDM_VECTOR_MAX + i, 1), 1};
		ack_of(h, 0, &(struct cdm_vector){.entries = dots, .count = CDM_VECTOR_MAX});
	}
}

/* --- batches --- */

static void batch(struct hostile *h, uint64_t number, uint32_t changes)
{
	struct bytes p = {0};
	batch_head_encode(&(struct batch_head){.number = number, .changes = changes}, &p);
	put_frame(h, FRAME_BATCH, &p);
}
static void batch_end(struct hostile *h, uint64_t number, uint32_t changes)
{
	struct bytes p = {0};
	batch_head_encode(&(struct batch_head){.number = number, .changes = changes}, &p);
	put_frame(h, FRAME_BATCH_END, &p);
}
static void batch_of_too_many(struct hostile *h) { batch(h, 1, 4097); }
static void batch_in_a_batch(struct hostile *h)
{
	batch(h, 1, 2);
	batch(h, 2, 2);
}
static void batch_that_ends_early(struct hostile *h)
{
	batch(h, 1, 2);
	batch_end(h, 1, 2);
}
static void change_outside_a_batch(struct hostile *h)
{
	struct carried k = {.change = {.op = CDM_OP_SKIP, .dot = {SOURCE_ORIGIN, 1}, .clock = 1}};
	struct bytes p = {0};
	carried_encode(&k, &p);
	put_frame(h, FRAME_CHANGE, &p);
}

/* --- changes --- */

static struct carried saved(const char *path, cdm_origin origin, const char *text)
{
	struct cdm_dot dot = {origin, 1};
	struct carried k = {.kind = CONTENT_WHOLE, .flags = CARRIED_INLINE, .mode = S_IFREG | 0644, .size = strlen(text), .content_bytes = strlen(text),
		.change = {.op = CDM_OP_SAVE, .flags = CDM_CH_NEW | CDM_CH_WHOLE, .dot = dot, .clock = cdm_clock_now(), .path = path, .path_len = strlen(path)}};
	k.change.version = k.stamp.content = (struct cdm_version){dot, k.change.clock};
	k.change.attr.size = k.size;
	return k;
}

static void put_inline(struct bytes *p, const char *text)
{
	XXH3_state_t *hash = XXH3_createState();
	XXH128_canonical_t canonical;
	uint8_t offset[8] = {0};
	XXH3_128bits_reset(hash);
	XXH3_128bits_update(hash, offset, sizeof offset);
	XXH3_128bits_update(hash, text, strlen(text));
	XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(hash));
	XXH3_freeState(hash);
	piece_encode_head(0, (uint32_t)strlen(text), p);
	bytes_put(p, text, strlen(text));
	bytes_put(p, canonical.digest, sizeof canonical.digest);
}

/* One batch with this change; `instead` (as long, NULL: not) stands where its path was encoded. */
static void send_change(struct hostile *h, const struct carried *k, const char *text, const char *instead)
{
	struct bytes p = {0};
	batch(h, 1, 1);
	carried_encode(k, &p);
	if (text)
		put_inline(&p, text);
	char *at = instead ? memmem(p.data, p.len, k->change.path, k->change.path_len) : NULL;
	if (at)
		memcpy(at, instead, k->change.path_len);
	put_frame(h, FRAME_CHANGE, &p);
	batch_end(h, 1, 1);
}
/* A file of the source under a path that the encoder would refuse; sizes count, so paths with a NUL can be told. */
static void save_under(struct hostile *h, const char *path, size_t len)
{
	char fair[8192];
	assert_true(len < sizeof fair);
	for (size_t i = 0; i < len; i++)
		fair[i] = i % 200 == 199 && i + 1 < len ? '/' : 'p';
	fair[len] = 0;
	struct carried k = saved(fair, SOURCE_ORIGIN, "hostile");
	send_change(h, &k, "hostile", path);
}
#define SAVE_UNDER(path) save_under(h, path, sizeof path - 1)
static void path_up(struct hostile *h) { SAVE_UNDER("../escaped"); }
static void path_up_inside(struct hostile *h) { SAVE_UNDER("a/../../escaped"); }
static void path_absolute(struct hostile *h) { SAVE_UNDER("/tmp/cdmfs-escaped"); }
static void path_dot(struct hostile *h) { SAVE_UNDER("a/./b"); }
static void path_double_slash(struct hostile *h) { SAVE_UNDER("a//b"); }
static void path_trailing_slash(struct hostile *h) { SAVE_UNDER("a/b/"); }
static void path_with_nul(struct hostile *h) { SAVE_UNDER("a\0b"); }
static void path_of_state(struct hostile *h) { SAVE_UNDER(".cdmfs/format"); }
static void name_too_long(struct hostile *h)
{
	char name[257];
	memset(name, 'n', 256);
	save_under(h, name, 256);
}
static void path_of_4g(struct hostile *h)
{
	struct carried k = saved("fair", SOURCE_ORIGIN, "hostile");
	struct bytes p = {0};
	batch(h, 1, 1);
	carried_encode(&k, &p);
	char *at = memmem(p.data, p.len, "fair", 4);
	memset(at - 4, 0xff, 4); /* its length */
	put_frame(h, FRAME_CHANGE, &p);
}
static void change_by_the_target(struct hostile *h)
{
	struct carried k = saved("by-the-target", LIAR_ORIGIN, "hostile");
	send_change(h, &k, "hostile", NULL);
}
static void removal_by_the_target(struct hostile *h)
{
	struct carried k = {.change = {.op = CDM_OP_UNLINK, .dot = {LIAR_ORIGIN, 1}, .clock = cdm_clock_now(), .path = "kept", .path_len = 4}};
	send_change(h, &k, NULL, NULL);
}
static void operation_that_does_not_travel(struct hostile *h)
{
	struct carried k = {.change = {.op = CDM_OP_MARK, .dot = {SOURCE_ORIGIN, 1}, .clock = 1}};
	send_change(h, &k, NULL, NULL);
}
static void unknown_kind(struct hostile *h)
{
	struct bytes p = {0};
	struct carried k = saved("fair", SOURCE_ORIGIN, "hostile");
	batch(h, 1, 1);
	carried_encode(&k, &p);
	p.data[0] = 17;
	put_frame(h, FRAME_CHANGE, &p);
}
static void wrong_hash(struct hostile *h)
{
	struct bytes p = {0};
	struct carried k = saved("fair", SOURCE_ORIGIN, "hostile");
	batch(h, 1, 1);
	carried_encode(&k, &p);
	put_inline(&p, "hostile");
	p.data[p.len - 1] ^= 1;
	put_frame(h, FRAME_CHANGE, &p);
}
static void more_than_announced(struct hostile *h)
{
	struct bytes p = {0};
	struct carried k = saved("fair", SOURCE_ORIGIN, "hostile");
	k.size = k.content_bytes = 3;
	batch(h, 1, 1);
	carried_encode(&k, &p);
	put_inline(&p, "hostile");
	put_frame(h, FRAME_CHANGE, &p);
}
static void streamed(struct hostile *h, uint64_t size)
{
	struct bytes p = {0};
	struct carried k = saved("fair", SOURCE_ORIGIN, "");
	k.flags = 0;
	k.size = k.content_bytes = size;
	batch(h, 1, 1);
	carried_encode(&k, &p);
	put_frame(h, FRAME_CHANGE, &p);
}
static void piece(struct hostile *h, uint64_t offset, const char *text)
{
	struct bytes p = {0};
	piece_encode_head(offset, (uint32_t)strlen(text), &p);
	bytes_put(&p, text, strlen(text));
	put_frame(h, FRAME_DATA, &p);
}
static void data_beyond_its_size(struct hostile *h)
{
	streamed(h, 4);
	piece(h, 2, "hostile");
}
static void data_at_the_end_of_numbers(struct hostile *h)
{
	streamed(h, 100);
	piece(h, UINT64_MAX - 3, "hostile");
}
static void size_beyond_all(struct hostile *h) { streamed(h, UINT64_MAX); }
static void change_in_a_content(struct hostile *h)
{
	streamed(h, 100);
	change_outside_a_batch(h);
}
static void data_of_nothing(struct hostile *h) { piece(h, 0, "hostile"); }
static void copies_of_nothing(struct hostile *h) { hostile_frame(h, FRAME_COPIES, 0, 0, "hostile", 7); }
static void end_of_nothing(struct hostile *h)
{
	struct bytes p = {0};
	change_end_encode(&(struct change_end){0}, &p);
	put_frame(h, FRAME_CHANGE_END, &p);
}
static void too_many_xattrs(struct hostile *h)
{
	struct bytes p = {0};
	struct carried k = saved("fair", SOURCE_ORIGIN, "hostile");
	batch(h, 1, 1);
	carried_encode(&k, &p);
	memset(p.data + p.len - 18, 0xff, 2); /* their count stands before two u64 */
	put_frame(h, FRAME_CHANGE, &p);
}
/* A batch may keep so much in memory, and no more. What came whole before that counts: the liar could have sent just that. */
static void inline_without_end(struct hostile *h)
{
	static char text[100001];
	memset(text, 'x', sizeof text - 1);
	batch(h, 1, 4096);
	for (unsigned i = 1; i <= 400; i++) {
		struct bytes p = {0};
		struct carried k = saved("flood", SOURCE_ORIGIN, text);
		k.change.dot.number = k.change.version.dot.number = k.stamp.content.dot.number = i;
		carried_encode(&k, &p);
		put_inline(&p, text);
		put_frame(h, FRAME_CHANGE, &p);
	}
}
/* SKIPs need no right to write: they only move the vector. Of origins that nobody knows. */
static void skips_of_many_origins(struct hostile *h)
{
	for (uint64_t number = 1; number <= 3; number++) {
		batch(h, number, 4096);
		for (uint32_t i = 0; i < 4096; i++) {
			struct carried k = {.change = {.op = CDM_OP_SKIP, .dot = {CDM_ORIGIN(1000 + (uint32_t)number * 4096 + i, 1), 1}, .clock = 1}};
			struct bytes p = {0};
			carried_encode(&k, &p);
			put_frame(h, FRAME_CHANGE, &p);
		}
		batch_end(h, number, 4096);
	}
}

/* --- asking --- */

static void need_of(struct hostile *h, uint64_t ticket, const char *path)
{
	struct bytes p = {0};
	need_encode(&(struct need){.ticket = ticket, .path = path, .path_len = strlen(path)}, &p);
	put_frame(h, FRAME_NEED, &p);
}
static void need_above(struct hostile *h) { need_of(h, 1, "../../state/node.key"); }
static void need_of_state(struct hostile *h) { need_of(h, 1, ".cdmfs/format"); }
static void need_without_ticket(struct hostile *h) { need_of(h, 0, "kept"); }

/* What the answer to a NEED is: the operation, SKIP when there is nothing. */
static enum cdm_op asked_for(struct hostile *h, const char *path)
{
	enum cdm_op op;
	bool ours;
	need_of(h, 4711, path);
	do { /* the root's attributes may come, too, without being asked for */
		struct carried k;
		size_t len;
		const uint8_t *payload = hostile_await(h, FRAME_CHANGE, &len);
		assert_int_equal(carried_decode(payload, len, &k), 0);
		op = k.change.op;
		ours = k.change.dot.number == 4711;
		carried_fini(&k);
	} while (!ours);
	return op;
}
static void need_of_what_is_nobody_elses(struct hostile *h)
{
	assert_int_equal(asked_for(h, "kept"), CDM_OP_SAVE);
	assert_int_equal(asked_for(h, "cache/secret"), CDM_OP_SKIP);
	assert_int_equal(asked_for(h, "draft.private"), CDM_OP_SKIP);
}
/* Many at once, as fast as can be: a link that fails reads on for a second, and who floods it longer hears nothing of the reason. */
static void need_flood(struct hostile *h)
{
	uint8_t head[WIRE_HEADER];
	struct bytes some = {0}, need = {0};
	for (unsigned i = 1; i <= 200000; i++) {
		need.len = 0;
		need_encode(&(struct need){.ticket = i, .path = "kept", .path_len = 4}, &need);
		wire_header_encode(&(struct wire_header){.payload = (uint32_t)need.len, .type = FRAME_NEED}, head);
		bytes_put(&some, head, sizeof head);
		bytes_put(&some, need.data, need.len);
		if (some.len < 32768 && i < 200000)
			continue;
		hostile_bytes(h, some.data, some.len);
		some.len = 0;
	}
	bytes_fini(&some);
	bytes_fini(&need);
}
static void sign(struct hostile *h, const char *path, struct cdm_dot base)
{
	struct bytes p = {0};
	need_encode(&(struct need){.ticket = 1, .path = path, .path_len = strlen(path), .base = base, .base_size = 7}, &p);
	put_frame(h, FRAME_SIGN, &p);
}
static void sign_without_a_base(struct hostile *h) { sign(h, "kept", (struct cdm_dot){0}); }
/* Whatever base it claims: of those files nothing is told. */
static void sign_of_what_is_nobody_elses(struct hostile *h)
{
	static const char *const paths[] = {"cache/secret", "draft.private", "to-state/node.key"};
	for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
		struct signature_part part;
		size_t len;
		sign(h, paths[i], (struct cdm_dot){SOURCE_ORIGIN, 1ull << 40});
		const uint8_t *payload = hostile_await(h, FRAME_SIGNATURE, &len);
		assert_int_equal(signature_part_decode(payload, len, &part), 0);
		assert_int_equal(part.total, 0);
	}
}
static void signature_unasked(struct hostile *h)
{
	struct bytes p = {0};
	signature_part_encode_head(1, 18, &p);
	bytes_put(&p, "garbage of 18 byte", 18);
	put_frame(h, FRAME_SIGNATURE, &p);
}
/* A base of 1 MiB, whose signature is then said to have 1 GiB. */
static void signature_without_end(struct hostile *h)
{
	struct bytes p = {0};
	struct cdm_dot base = {CDM_ORIGIN(999, 1), 1};
	size_t len;
	need_encode(&(struct need){.ticket = 1, .path = "large", .path_len = 5, .base = base, .base_size = 1 << 20}, &p);
	put_frame(h, FRAME_NEED, &p);
	hostile_await(h, FRAME_SIGN, &len);
	signature_part_encode_head(1, 1 << 30, &p);
	bytes_put(&p, "much", 4);
	put_frame(h, FRAME_SIGNATURE, &p);
}
static void need_through_a_symlink(struct hostile *h) { assert_int_equal(asked_for(h, "to-state/node.key"), CDM_OP_SKIP); }

static void directory_needed(struct hostile *h, const char *path) { hostile_frame(h, FRAME_RESYNC_NEED, 0, 0, path, strlen(path)); }
static void directory_above(struct hostile *h) { directory_needed(h, ".."); }
static void directory_of_state(struct hostile *h) { directory_needed(h, ".cdmfs"); }
static void too_many_directories(struct hostile *h)
{
	for (int i = 0; i < 5000; i++)
		directory_needed(h, "");
}

static void fetch_of(struct hostile *h, const char *set, const char *path, size_t len)
{
	struct bytes p = {0};
	struct fetch_ask ask = {.request = 1, .version = {SOURCE_ORIGIN, 1}, .size = 7, .set = set, .set_len = strlen(set), .path = path, .path_len = len};
	fetch_ask_encode(&ask, &p);
	put_frame(h, FRAME_FETCH, &p);
}
static void fetch_above(struct hostile *h) { fetch_of(h, LAB_SET, "../../state/node.key", 20); }
static void fetch_of_another_set(struct hostile *h)
{
	struct fed_end end;
	size_t len;
	fetch_of(h, "secret", "kept", 4);
	const uint8_t *payload = hostile_await(h, FRAME_FED_END, &len);
	assert_int_equal(fed_end_decode(payload, len, &end), 0);
	assert_int_not_equal(end.result, FED_WHOLE);
}
static void fetch_flood(struct hostile *h)
{
	for (int i = 0; i < 20000; i++)
		fetch_of(h, LAB_SET, "kept", 4);
}
static void fed_unasked(struct hostile *h)
{
	struct bytes p = {0};
	fed_piece_encode_head(99, 0, 4, &p);
	bytes_put(&p, "evil", 4);
	put_frame(h, FRAME_FED, &p);
	fed_end_encode(&(struct fed_end){.request = 99}, &p);
	put_frame(h, FRAME_FED_END, &p);
}

static void fed_in_crumbs(struct hostile *h)
{
	struct bytes p = {0};
	struct fetch_ask ask;
	size_t len;
	coming_encode(&(struct coming){.version = {SOURCE_ORIGIN, 1ull << 40}, .size = 8 << 20, .path = "crumbs", .path_len = 6}, &p);
	put_frame(h, FRAME_COMING, &p);
	const uint8_t *payload = hostile_await(h, FRAME_FETCH, &len);
	assert_int_equal(fetch_ask_decode(payload, len, &ask), 0);
	fed_piece_encode_head(ask.request, 0, 1, &p);
	bytes_put(&p, "x", 1);
	put_frame(h, FRAME_FED, &p);
}

/* --- comparing trees --- */

static void listing_unasked(struct hostile *h) { hostile_frame(h, FRAME_RESYNC_DIR, 1, 0, "", 0); }
static void end_unasked(struct hostile *h) { hostile_frame(h, FRAME_RESYNC_END, 0, 0, "", 0); }
static void start_with_garbage(struct hostile *h) { hostile_frame(h, FRAME_RESYNC_START, 0, 0, "\xff\xff\xff\xff", 4); }

static void compare_begins(struct hostile *h)
{
	size_t len;
	struct bytes p = {0};
	const struct cdm_vector *v = hostile_their_vector(h);
	cdm_vector_encode(v, bytes_add(&p, cdm_vector_encoded_size(v)));
	put_frame(h, FRAME_RESYNC_START, &p);
	hostile_await(h, FRAME_RESYNC_NEED, &len);
}
static void names_behind(struct hostile *h, const char *name, size_t len)
{
	struct bytes p = {0};
	bytes_put_u64(&p, SOURCE_ORIGIN);
	bytes_put_u64(&p, 1); /* number, */
	bytes_put_u64(&p, 1); /* clock */
	bytes_put_u16(&p, (uint16_t)len);
	bytes_put(&p, name, len);
	put_frame(h, FRAME_RESYNC_OVERTAKEN, &p);
}
static void names_behind_nothing(struct hostile *h) { names_behind(h, "kept", 4); }
static void names_behind_up(struct hostile *h)
{
	compare_begins(h);
	names_behind(h, "../kept", 7);
}
static void names_behind_twice(struct hostile *h)
{
	compare_begins(h);
	names_behind(h, "kept", 4);
	names_behind(h, "kept", 4);
}
static void put_entry(struct bytes *p, const char *name, size_t len, uint32_t mode, struct cdm_stamp stamp)
{
	bytes_put_u16(p, (uint16_t)len);
	bytes_put(p, name, len);
	bytes_put_u32(p, mode);
	for (int i = 0; i < 3; i++) /* uid, gid, nlink */
		bytes_put_u32(p, i == 2);
	for (int i = 0; i < 5; i++) /* size, rdev, inode, mtime, hash */
		bytes_put_u64(p, i == 0 ? 7 : i);
	cdm_stamp_encode(&stamp, bytes_add(p, CDM_XATTR_VERSION_SIZE));
	bytes_put_u16(p, 0); /* no names of owners */
}
static void listing_of(struct hostile *h, const char *name, size_t len)
{
	struct bytes p = {0};
	compare_begins(h);
	put_entry(&p, name, len, S_IFREG | 0644, (struct cdm_stamp){0});
	hostile_frame(h, FRAME_RESYNC_DIR, 1, 0, p.data, p.len);
	bytes_fini(&p);
}
static void listing_up(struct hostile *h) { listing_of(h, "..", 2); }
static void listing_deep(struct hostile *h) { listing_of(h, "a/b", 3); }
static void listing_nul(struct hostile *h) { listing_of(h, "a\0b", 3); }
static void listing_state(struct hostile *h) { listing_of(h, ".cdmfs", 6); }
static void listing_unsorted(struct hostile *h)
{
	struct bytes p = {0};
	compare_begins(h);
	put_entry(&p, "b", 1, S_IFREG | 0644, (struct cdm_stamp){0});
	put_entry(&p, "a", 1, S_IFREG | 0644, (struct cdm_stamp){0});
	hostile_frame(h, FRAME_RESYNC_DIR, 1, 0, p.data, p.len);
	bytes_fini(&p);
}
/* A directory in a directory in a directory …, each with a name of 255 bytes. */
static void listing_without_end(struct hostile *h)
{
	char name[255];
	memset(name, 'd', sizeof name);
	compare_begins(h);
	for (int depth = 0; depth < 600; depth++) {
		size_t len;
		struct bytes p = {0};
		put_entry(&p, name, sizeof name, S_IFDIR | 0755, (struct cdm_stamp){.content = {{SOURCE_ORIGIN, 1}, cdm_clock_now()}});
		hostile_frame(h, FRAME_RESYNC_DIR, 1, 0, p.data, p.len);
		bytes_fini(&p);
		if (depth < 200)
			hostile_await(h, FRAME_RESYNC_NEED, &len);
	}
}

static const struct attack {
	const char *what;
	enum hostile_stage stage;
	uint32_t features;
	void (*act)(struct hostile *h);
	const char *says; /* of the reason that the liar is told; "": it is only cut off; NULL: it stays */
} attacks[] = {
	{"length 2^32-1", HOSTILE_HELLO, 0, length_4g, "length"},
	{"length 2^31", HOSTILE_HELLO, 0, length_2g, "length"},
	{"length above the limit of the type", HOSTILE_HELLO, 0, length_of_next_type, "length"},
	{"length 0", HOSTILE_HELLO, 0, length_0, "length"},
	{"unknown type", HOSTILE_HELLO, 0, unknown_type, "unknown type"},
	{"unknown type that may be skipped", HOSTILE_HELLO, 0, unknown_type_to_skip, NULL},
	{"random bytes as frames", HOSTILE_HELLO, 0, random_frames, ""},
	{"bytes past TLS", HOSTILE_HELLO, 0, bytes_past_tls, ""},
	{"PING before HELLO", HOSTILE_TLS, 0, frame_before_hello, "before the hello"},
	{"STATE before HELLO", HOSTILE_TLS, 0, state_before_hello, "before the hello"},
	{"HELLO with another number", HOSTILE_TLS, 0, hello_of_another_number, "the certificate"},
	{"HELLO with another name", HOSTILE_TLS, 0, hello_of_another_name, "the certificate"},
	{"HELLO of an unknown version", HOSTILE_TLS, 0, hello_of_another_version, "upgrade"},
	{"HELLO that requires an unknown feature", HOSTILE_TLS, 0, hello_that_requires, "required features"},
	{"HELLO cut short", HOSTILE_TLS, 0, hello_cut_short, "hello"},
	{"HELLO with a clock 400 days ahead", HOSTILE_TLS, 0, hello_with_future_clock, NULL},
	{"HELLO with the last of all clocks", HOSTILE_TLS, 0, hello_with_last_clock, NULL},
	{"a second HELLO", HOSTILE_HELLO, 0, hello_twice, "hello"},
	{"a set that is not here", HOSTILE_HELLO, 0, unknown_set, NULL},
	{"a path as name of a set", HOSTILE_HELLO, 0, set_with_path_as_name, NULL},
	{"name of a set of 4 GiB", HOSTILE_HELLO, 0, set_name_of_4g, "SET_UP"},
	{"SET_UP 200 times", HOSTILE_SET, 0, set_up_again_and_again, NULL},
	{"a set that was never named", HOSTILE_SET, 0, set_never_named, "never named"},
	{"PLAIN that was not agreed on", HOSTILE_SET, 0, plain_not_agreed, "protection"},
	{"a plain record of 2 GiB", HOSTILE_SET, WIRE_FEATURE_PLAIN, plain_record_of_2g, ""},
	{"a plain record with a wrong code", HOSTILE_SET, WIRE_FEATURE_PLAIN, plain_record_with_wrong_code, ""},
	{"compression that was not agreed on", HOSTILE_SUBSCRIBED, 0, packed_not_agreed, "compress"},
	{"compressed by both methods", HOSTILE_SUBSCRIBED, WIRE_FEATURE_ZSTD | WIRE_FEATURE_ZLIB, packed_both_ways, "compress"},
	{"compressed, 4 GiB when unpacked", HOSTILE_SUBSCRIBED, WIRE_FEATURE_ZLIB, packed_to_4g, "compress"},
	{"compressed garbage", HOSTILE_SUBSCRIBED, WIRE_FEATURE_ZSTD, packed_garbage, "compress"},
	{"compressed, more than it says", HOSTILE_SUBSCRIBED, WIRE_FEATURE_ZLIB, packed_bomb, "compress"},
	{"ERROR with a text of 4 GiB", HOSTILE_SET, 0, error_that_cannot_be_read, "error frame"},
	{"200 MiB of PINGs, and nothing is read", HOSTILE_HELLO, 0, pings_without_reading, ""},
	{"states of 5000 nodes that do not exist", HOSTILE_SET, 0, states_of_strangers, NULL},
	{"the receiver is told that it is down", HOSTILE_SET, 0, state_of_the_receiver, NULL},
	{"another one is said to be down", HOSTILE_SET, 0, state_of_another, NULL},
	{"STATE cut short", HOSTILE_SET, 0, state_cut_short, "state"},
	{"a vector of 2^32-1 entries", HOSTILE_SET, 0, vector_of_4g, "SUBSCRIBE"},
	{"SUBSCRIBE twice", HOSTILE_SUBSCRIBED, 0, subscribe_twice, "SUBSCRIBE"},
	{"RESYNC_START before SUBSCRIBE", HOSTILE_SET, 0, frame_before_subscribe, NULL},
	{"a vector that is not sorted", HOSTILE_SUBSCRIBED, 0, unsorted_vector, "ACK"},
	{"ACK of a batch that never was", HOSTILE_SUBSCRIBED, 0, ack_of_no_batch, NULL},
	{"ACKs with 80,000 unknown origins", HOSTILE_SUBSCRIBED, 0, many_origins, "origins"},
	/* before those that make the receiver compare trees with the liar: then they are asked for */
	{"RESYNC_DIR that nobody asked for", HOSTILE_SUBSCRIBED, 0, listing_unasked, "RESYNC_DIR"},
	{"RESYNC_OVERTAKEN of no comparison", HOSTILE_SUBSCRIBED, 0, names_behind_nothing, "RESYNC_OVERTAKEN"},
	{"RESYNC_OVERTAKEN with a path ..", HOSTILE_SUBSCRIBED, 0, names_behind_up, "RESYNC_OVERTAKEN"},
	{"RESYNC_OVERTAKEN twice", HOSTILE_SUBSCRIBED, 0, names_behind_twice, "RESYNC_OVERTAKEN"},
	{"RESYNC_END that nobody asked for", HOSTILE_SUBSCRIBED, 0, end_unasked, "RESYNC_END"},
	{"a batch of 4097 changes", HOSTILE_SUBSCRIBED, 0, batch_of_too_many, "BATCH"},
	{"a batch in a batch", HOSTILE_SUBSCRIBED, 0, batch_in_a_batch, "BATCH"},
	{"a batch that ends early", HOSTILE_SUBSCRIBED, 0, batch_that_ends_early, "BATCH_END"},
	{"a change outside a batch", HOSTILE_SUBSCRIBED, 0, change_outside_a_batch, "outside a batch"},
	{"path ../x", HOSTILE_SUBSCRIBED, 0, path_up, "malformed CHANGE"},
	{"path a/../../x", HOSTILE_SUBSCRIBED, 0, path_up_inside, "malformed CHANGE"},
	{"path /x", HOSTILE_SUBSCRIBED, 0, path_absolute, "malformed CHANGE"},
	{"path a/./b", HOSTILE_SUBSCRIBED, 0, path_dot, "malformed CHANGE"},
	{"path a//b", HOSTILE_SUBSCRIBED, 0, path_double_slash, "malformed CHANGE"},
	{"path a/b/", HOSTILE_SUBSCRIBED, 0, path_trailing_slash, "malformed CHANGE"},
	{"path with a NUL", HOSTILE_SUBSCRIBED, 0, path_with_nul, "malformed CHANGE"},
	{"path into the store's state", HOSTILE_SUBSCRIBED, 0, path_of_state, "malformed CHANGE"},
	{"a name of 256 bytes", HOSTILE_SUBSCRIBED, 0, name_too_long, "malformed CHANGE"},
	{"a path of 4 GiB", HOSTILE_SUBSCRIBED, 0, path_of_4g, "malformed CHANGE"},
	{"a save by a node that may not write", HOSTILE_SUBSCRIBED, 0, change_by_the_target, NULL},
	{"a removal by a node that may not write", HOSTILE_SUBSCRIBED, 0, removal_by_the_target, NULL},
	{"an operation that does not travel", HOSTILE_SUBSCRIBED, 0, operation_that_does_not_travel, "does not travel"},
	{"an unknown kind of content", HOSTILE_SUBSCRIBED, 0, unknown_kind, "malformed CHANGE"},
	{"content with another hash", HOSTILE_SUBSCRIBED, 0, wrong_hash, "hash"},
	{"more content than announced", HOSTILE_SUBSCRIBED, 0, more_than_announced, "malformed CHANGE"},
	{"DATA beyond the size", HOSTILE_SUBSCRIBED, 0, data_beyond_its_size, "announced size"},
	{"DATA at offset 2^64-4", HOSTILE_SUBSCRIBED, 0, data_at_the_end_of_numbers, "DATA"},
	{"a size of 2^64-1", HOSTILE_SUBSCRIBED, 0, size_beyond_all, "malformed CHANGE"},
	{"a change inside a content", HOSTILE_SUBSCRIBED, 0, change_in_a_content, "inside the content"},
	{"DATA of nothing", HOSTILE_SUBSCRIBED, 0, data_of_nothing, "DATA"},
	{"COPIES of nothing", HOSTILE_SUBSCRIBED, 0, copies_of_nothing, "COPIES"},
	{"CHANGE_END of nothing", HOSTILE_SUBSCRIBED, 0, end_of_nothing, "CHANGE_END"},
	{"65,535 extended attributes", HOSTILE_SUBSCRIBED, 0, too_many_xattrs, "malformed CHANGE"},
	{"40 MB of inline content", HOSTILE_SUBSCRIBED, 0, inline_without_end, "inline content"},
	{"SKIPs of 12,288 unknown origins", HOSTILE_SUBSCRIBED, 0, skips_of_many_origins, "origins"},
	{"NEED ../x", HOSTILE_SUBSCRIBED, 0, need_above, "NEED"},
	{"NEED of the store's state", HOSTILE_SUBSCRIBED, 0, need_of_state, "NEED"},
	{"NEED without a ticket", HOSTILE_SUBSCRIBED, 0, need_without_ticket, "NEED"},
	{"NEED of local and excluded files", HOSTILE_SUBSCRIBED, 0, need_of_what_is_nobody_elses, NULL},
	{"NEED through a symlink", HOSTILE_SUBSCRIBED, 0, need_through_a_symlink, NULL},
	{"NEED 200,000 times", HOSTILE_SUBSCRIBED, 0, need_flood, "NEED"},
	{"SIGN without a base", HOSTILE_SUBSCRIBED, WIRE_FEATURE_ANSWERS, sign_without_a_base, "SIGN"},
	{"SIGN of local and excluded files", HOSTILE_SUBSCRIBED, WIRE_FEATURE_ANSWERS, sign_of_what_is_nobody_elses, NULL},
	{"SIGNATURE that nobody asked for", HOSTILE_SUBSCRIBED, WIRE_FEATURE_ANSWERS, signature_unasked, "SIGNATURE"},
	{"a signature of 1 GiB", HOSTILE_SUBSCRIBED, WIRE_FEATURE_ANSWERS, signature_without_end, "SIGNATURE"},
	{"RESYNC_NEED ..", HOSTILE_SUBSCRIBED, 0, directory_above, "RESYNC_NEED"},
	{"RESYNC_NEED of the store's state", HOSTILE_SUBSCRIBED, 0, directory_of_state, "RESYNC_NEED"},
	{"RESYNC_NEED 5000 times", HOSTILE_SUBSCRIBED, 0, too_many_directories, "RESYNC_NEED"},
	{"FETCH ../x", HOSTILE_SET, WIRE_FEATURE_FETCH, fetch_above, "FETCH"},
	{"FETCH of a set that is not here", HOSTILE_SET, WIRE_FEATURE_FETCH, fetch_of_another_set, NULL},
	{"FETCH 20,000 times", HOSTILE_SET, WIRE_FEATURE_FETCH, fetch_flood, NULL},
	{"FED that nobody asked for", HOSTILE_SET, WIRE_FEATURE_FETCH, fed_unasked, NULL},
	{"FED byte by byte", HOSTILE_SUBSCRIBED, WIRE_FEATURE_FETCH, fed_in_crumbs, "piece"},
	{"RESYNC_START with a vector of 4 GiB", HOSTILE_SUBSCRIBED, 0, start_with_garbage, "RESYNC_START"},
	{"a listing with ..", HOSTILE_SUBSCRIBED, 0, listing_up, "RESYNC_DIR"},
	{"a listing with a/b", HOSTILE_SUBSCRIBED, 0, listing_deep, "RESYNC_DIR"},
	{"a listing with a NUL", HOSTILE_SUBSCRIBED, 0, listing_nul, "RESYNC_DIR"},
	{"a listing with .cdmfs", HOSTILE_SUBSCRIBED, 0, listing_state, "RESYNC_DIR"},
	{"a listing that is not sorted", HOSTILE_SUBSCRIBED, 0, listing_unsorted, "RESYNC_DIR"},
	{"directories in directories without end", HOSTILE_SUBSCRIBED, 0, listing_without_end, ""},
};

/* --- in the name of others --- */

static cdm_origin origin_of(struct hostile *h, const char *node, uint64_t *ret_next)
{
	const struct cdm_vector *v = hostile_their_vector(h);
	cdm_origin newest = CDM_ORIGIN(hostile_number(node), 1);
	for (size_t i = 0; i < v->count; i++)
		if (CDM_ORIGIN_NODE(v->entries[i].origin) == hostile_number(node))
			newest = v->entries[i].origin;
	*ret_next = cdm_vector_get(v, newest) + 1;
	return newest;
}
static void save_as(struct hostile *h, cdm_origin origin, uint64_t number)
{
	char path[64]; /* each its own */
	snprintf(path, sizeof path, "forged-%u.%u-%lu", CDM_ORIGIN_NODE(origin), CDM_ORIGIN_INCARNATION(origin), (unsigned long)number);
	struct carried k = saved(path, origin, "hostile");
	k.change.dot.number = k.change.version.dot.number = k.stamp.content.dot.number = number;
	send_change(h, &k, "hostile", NULL);
}
static void save_as_a_source(struct hostile *h)
{
	uint64_t next;
	cdm_origin origin = origin_of(h, "n2", &next);
	save_as(h, origin, next);
}
static void save_as_a_source_begun_anew(struct hostile *h) { save_as(h, SOURCE_ORIGIN, 1); }
static void save_as_nobody(struct hostile *h) { save_as(h, CDM_ORIGIN(4242, 1), 1); }
static void save_as_the_receiver(struct hostile *h)
{
	uint64_t next;
	cdm_origin origin = origin_of(h, "n1", &next);
	save_as(h, origin, next + 1000);
}
static void save_as_the_receiver_begun_anew(struct hostile *h) { save_as(h, CDM_ORIGIN(hostile_number("n1"), 40), 1); }
static void stream_as_a_source(struct hostile *h)
{
	struct bytes p = {0};
	struct carried k = saved("forged-in-pieces", 0, "hostile");
	struct change_end end = {.result = CONTENT_OK};
	k.flags = 0;
	k.change.dot.origin = origin_of(h, "n2", &k.change.dot.number);
	k.change.version.dot = k.stamp.content.dot = k.change.dot;
	batch(h, 1, 1);
	carried_encode(&k, &p);
	put_frame(h, FRAME_CHANGE, &p);
	piece(h, 0, "hostile");
	put_inline(&p, "hostile");
	memcpy(end.hash, p.data + p.len - sizeof end.hash, sizeof end.hash);
	p.len = 0;
	change_end_encode(&end, &p);
	put_frame(h, FRAME_CHANGE_END, &p);
	batch_end(h, 1, 1);
}
/* Of the version that is there, as its author would do it. */
static void operation_as_a_source(struct hostile *h, struct cdm_change c)
{
	struct cdm_stamp stamp;
	_cleanup_free_ char *store = lab_store_path(lab, LIAR, c.path);
	_cleanup_close_ int fd = open(store, O_RDONLY | O_CLOEXEC);
	assert_int_equal(cdm_stamp_get(fd, &stamp), 0);
	c.path_len = strlen(c.path);
	c.path2_len = c.path2 ? strlen(c.path2) : 0;
	c.version = stamp.content;
	c.dot.origin = origin_of(h, "n2", &c.dot.number);
	c.clock = cdm_clock_now();
	struct carried k = {.change = c};
	send_change(h, &k, NULL, NULL);
}
static void removal_as_a_source(struct hostile *h) { operation_as_a_source(h, (struct cdm_change){.op = CDM_OP_UNLINK, .path = "kept-there"}); }
static void rename_as_a_source(struct hostile *h)
{
	operation_as_a_source(h, (struct cdm_change){.op = CDM_OP_RENAME, .path = "kept-here", .path2 = "forged-name"});
}
static void mode_as_a_source(struct hostile *h)
{
	operation_as_a_source(h, (struct cdm_change){.op = CDM_OP_SETATTR, .path = "kept", .attr = {.mask = CDM_ATTR_MODE, .mode = S_IFREG}});
}
/* Should that count, nothing that n2 makes would be new any more. */
static void skip_of_a_source(struct hostile *h)
{
	uint64_t next;
	cdm_origin origin = origin_of(h, "n2", &next);
	struct carried k = {.change = {.op = CDM_OP_SKIP, .dot = {origin, 1ull << 40}, .clock = 1}};
	send_change(h, &k, NULL, NULL);
}
/* Its own SKIP is taken; the time in it would be the root's. */
static void skip_with_a_time(struct hostile *h)
{
	struct carried k = {.change = {.op = CDM_OP_SKIP, .flags = CDM_CH_WHOLE, .dot = {LIAR_ORIGIN, 1ull << 40}, .clock = 1, .path = "kept", .path_len = 4,
		.parent_mtime_ns = 4102444800000000000}};
	send_change(h, &k, NULL, NULL);
}
static void tree_to_be_taken(struct hostile *h)
{
	size_t len;
	struct bytes p = {0};
	struct cdm_vector v = {0};
	cdm_vector_copy(&v, hostile_their_vector(h));
	cdm_vector_raise(&v, (struct cdm_dot){SOURCE_ORIGIN, 77});
	cdm_vector_encode(&v, bytes_add(&p, cdm_vector_encoded_size(&v)));
	cdm_vector_fini(&v);
	put_frame(h, FRAME_RESYNC_START, &p);
	hostile_await(h, FRAME_RESYNC_END, &len);
	hostile_frame(h, FRAME_RESYNC_DIR, 1, 0, "", 0);
}
static void answer_of(struct hostile *h, uint64_t ticket, struct carried k, const char *text)
{
	struct bytes p = {0};
	k.flags |= CARRIED_ANSWER;
	k.change.dot = (struct cdm_dot){UINT64_MAX, ticket};
	carried_encode(&k, &p);
	if (text)
		put_inline(&p, text);
	put_frame(h, FRAME_CHANGE, &p);
}
static void attributes_of_the_root(struct hostile *h)
{
	struct cdm_change c = {.op = CDM_OP_SETATTR, .clock = cdm_clock_now(), .base = {SOURCE_ORIGIN, 1}, .attr = {.mask = CDM_ATTR_MODE, .mode = S_IFDIR}};
	answer_of(h, 1ull << 63, (struct carried){.change = c}, NULL);
}
static void answers_to_nothing(struct hostile *h)
{
	for (uint64_t bit = 0; bit < 64; bit++)
		answer_of(h, 1ull << bit, saved("forged-answer", SOURCE_ORIGIN, "hostile"), "hostile");
}
static void content_that_comes(struct hostile *h)
{
	struct bytes p = {0};
	coming_encode(&(struct coming){.version = {SOURCE_ORIGIN, 1 << 30}, .size = 8 << 20, .path = "forged", .path_len = 6}, &p);
	put_frame(h, FRAME_COMING, &p);
}
/* It knows more of n1 than n1 does: that gives n1 a new incarnation, but not as often as it likes. */
static void more_of_the_receiver(struct hostile *h)
{
	static uint32_t known;
	size_t len;
	struct subscribe theirs, ours = {0};
	struct bytes p = {0};
	const uint8_t *payload = hostile_await(h, FRAME_SUBSCRIBE, &len);
	assert_int_equal(subscribe_decode(payload, len, &theirs), 0);
	cdm_vector_copy(&ours.visible, &theirs.visible);
	known += 40;
	for (uint32_t incarnation = 1; incarnation < known; incarnation++)
		cdm_vector_raise(&ours.visible, (struct cdm_dot){CDM_ORIGIN(hostile_number("n1"), incarnation), 1ull << 40});
	subscribe_encode(&ours, &p);
	put_frame(h, FRAME_SUBSCRIBE, &p);
	subscribe_fini(&theirs);
	subscribe_fini(&ours);
}
static void save_as_the_receiver_before(struct hostile *h)
{
	save_as(h, CDM_ORIGIN(hostile_number("n1"), 1), 1ull << 39);
}

/* --- seals --- */

static void seal_of_nonsense(struct hostile *h) { hostile_frame(h, FRAME_SEAL, WIRE_FLAG_MAY_SKIP, 0, "\3\0abc\0\0nonsense", 15); }
static void seal_with_a_large_certificate(struct hostile *h) { hostile_frame(h, FRAME_SEAL, WIRE_FLAG_MAY_SKIP, 0, "\xff\xff" "abc", 5); }
static void seen_of_too_many(struct hostile *h) { hostile_frame(h, FRAME_SEAL_SEEN, WIRE_FLAG_MAY_SKIP, 0, "\xff\xff", 2); }
static void seen_twice(struct hostile *h)
{
	hostile_frame(h, FRAME_SEAL_SEEN, WIRE_FLAG_MAY_SKIP, 0, "\0\0", 2);
	hostile_frame(h, FRAME_SEAL_SEEN, WIRE_FLAG_MAY_SKIP, 0, "\0\0", 2);
}
/* One that n2 made, as n1 sends it: before it lies below n2 and reads along, later it is between the two. */
static const uint8_t *true_seal(struct hostile *h, size_t *ret_len)
{
	const uint8_t *payload;
	struct seal *seal = calloc(1, sizeof *seal);
	assert_non_null(seal);
	hostile_frame(h, FRAME_SEAL_SEEN, WIRE_FLAG_MAY_SKIP, 0, "\0\0", 2);
	do {
		payload = hostile_await(h, FRAME_SEAL, ret_len);
		seal_fini(seal);
		assert_int_equal(seal_decode(payload, *ret_len, seal), 0);
	} while (CDM_ORIGIN_NODE(seal->upto.origin) != hostile_number("n2"));
	seal_fini(seal);
	free(seal);
	return payload;
}
static void seal_again(struct hostile *h)
{
	size_t len;
	struct bytes p = {0};
	const uint8_t *payload = true_seal(h, &len);
	int64_t before = counter("n1", "seals_taken");
	bytes_put(&p, payload, len);
	put_frame(h, FRAME_SEAL, &p);
	hostile_lives(h);
	assert_int_equal(counter("n1", "seals_taken"), before);
}
/* The last byte: of a digest. */
static void seal_altered(struct hostile *h)
{
	size_t len;
	struct bytes p = {0};
	const uint8_t *payload = true_seal(h, &len);
	int64_t before = counter("n1", "seals_taken");
	bytes_put(&p, payload, len);
	p.data[p.len - 1] ^= 1;
	put_frame(h, FRAME_SEAL, &p);
	hostile_lives(h);
	assert_int_equal(counter("n1", "seals_taken"), before);
}

/* Well made, by the key of a node, and n1 takes none of it. */
static void seal_signed_by(struct hostile *h, const char *signer, const char *set, const char *author)
{
	char path[3][512];
	static const char *const names[] = {"node.crt", "node.key", "ca.crt"};
	struct seal *seal = calloc(1, sizeof *seal);
	struct bytes statement = {0}, memory = {0}, p = {0};
	int64_t before = counter("n1", "seals_taken");
	for (size_t i = 0; i < 3; i++)
		snprintf(path[i], sizeof path[i], "%s/%s/state/%s", lab_dir(lab), signer, names[i]);
	struct node node = {.tls_server = cdm_tls_context(path[0], path[1], path[2], true, NULL)};
	assert_true(seal && node.tls_server);
	snprintf(seal->set, sizeof seal->set, "%s", set);
	seal->clock = cdm_clock_now();
	seal->upto = (struct cdm_dot){CDM_ORIGIN(hostile_number(author), 1), 1};
	seal->count = 1;
	seal->names[0] = (struct sealed){.path = "kept", .path_len = 4, .user = "", .group = ""};
	seal_statement_encode(seal, &statement);
	seal->statement = statement.data;
	seal->statement_len = statement.len;
	assert_int_equal(seal_sign(&node, seal, &memory, NULL), 0);
	seal_encode(seal, &p);
	put_frame(h, FRAME_SEAL, &p);
	hostile_lives(h);
	assert_int_equal(counter("n1", "seals_taken"), before);
	SSL_CTX_free(node.tls_server);
	bytes_fini(&statement);
	bytes_fini(&memory);
	free(seal);
}
static void seal_of_who_may_not_write(struct hostile *h) { seal_signed_by(h, LIAR, LAB_SET, LIAR); }
static void seal_for_another_author(struct hostile *h) { seal_signed_by(h, LIAR, LAB_SET, "n2"); }
static void seal_of_another_set(struct hostile *h) { seal_signed_by(h, "n2", "other", "n2"); }
static void seal_in_the_receivers_name(struct hostile *h) { seal_signed_by(h, LIAR, LAB_SET, "n1"); }

static const struct attack claims[] = {
	{"a seal of nonsense", HOSTILE_SUBSCRIBED, 0, seal_of_nonsense, "SEAL"},
	{"a seal with a certificate of 64 KiB that is not there", HOSTILE_SUBSCRIBED, 0, seal_with_a_large_certificate, "SEAL"},
	{"seals of 65,535 authors were seen", HOSTILE_SUBSCRIBED, WIRE_FEATURE_SEALS, seen_of_too_many, "SEAL_SEEN"},
	{"seals are seen twice", HOSTILE_SUBSCRIBED, WIRE_FEATURE_SEALS, seen_twice, "SEAL_SEEN"},
	{"a seal of a source once more", HOSTILE_SUBSCRIBED, WIRE_FEATURE_SEALS, seal_again, NULL},
	{"a seal of a source, altered", HOSTILE_SUBSCRIBED, WIRE_FEATURE_SEALS, seal_altered, NULL},
	{"a seal of who may not write", HOSTILE_SUBSCRIBED, 0, seal_of_who_may_not_write, NULL},
	{"a seal of a source that somebody else signed", HOSTILE_SUBSCRIBED, 0, seal_for_another_author, NULL},
	{"a seal of a source for another set", HOSTILE_SUBSCRIBED, 0, seal_of_another_set, NULL},
	{"a seal in the name of the receiver", HOSTILE_SUBSCRIBED, 0, seal_in_the_receivers_name, NULL},
	{"a save in the name of a source", HOSTILE_SUBSCRIBED, 0, save_as_a_source, NULL},
	{"a save in the name of a source that began anew", HOSTILE_SUBSCRIBED, 0, save_as_a_source_begun_anew, NULL},
	{"a save in the name of nobody", HOSTILE_SUBSCRIBED, 0, save_as_nobody, NULL},
	{"a save in the name of the receiver", HOSTILE_SUBSCRIBED, 0, save_as_the_receiver, NULL},
	{"a save in the name of the receiver that began anew", HOSTILE_SUBSCRIBED, 0, save_as_the_receiver_begun_anew, NULL},
	{"a save in the name of a source, in pieces", HOSTILE_SUBSCRIBED, 0, stream_as_a_source, NULL},
	{"a removal in the name of a source", HOSTILE_SUBSCRIBED, 0, removal_as_a_source, NULL},
	{"a rename in the name of a source", HOSTILE_SUBSCRIBED, 0, rename_as_a_source, NULL},
	{"a mode in the name of a source", HOSTILE_SUBSCRIBED, 0, mode_as_a_source, NULL},
	{"all that a source will make needs nothing", HOSTILE_SUBSCRIBED, 0, skip_of_a_source, NULL},
	{"a directory's time in a SKIP", HOSTILE_SUBSCRIBED, 0, skip_with_a_time, NULL},
	{"a tree that is to be taken over", HOSTILE_SUBSCRIBED, 0, tree_to_be_taken, "RESYNC_DIR"},
	{"attributes of the root", HOSTILE_SUBSCRIBED, 0, attributes_of_the_root, NULL},
	{"answers that nobody asked for", HOSTILE_SUBSCRIBED, 0, answers_to_nothing, NULL},
	{"a content that is said to come", HOSTILE_SUBSCRIBED, WIRE_FEATURE_FETCH, content_that_comes, NULL},
	{"more is known of the receiver than it knows", HOSTILE_SET, 0, more_of_the_receiver, NULL},
	{"and once more", HOSTILE_SET, 0, more_of_the_receiver, NULL},
	{"a save in the name of the receiver before it began anew", HOSTILE_SUBSCRIBED, 0, save_as_the_receiver_before, NULL},
};

/* --- stories --- */

static void brings(const char *node, bool yes)
{
	comes_about("jq -e '.sets[0].members[] | select(.name == \"%s\") | .brings == %s' %s/n1/state/routes.json", node, yes ? "true" : "false", lab_dir(lab));
}

static void the_liar_takes_its_place(void **state)
{
	save("n1", "kept", "of worth");
	save("n1", "kept-there", "of worth");
	save("n1", "kept-here", "of worth");
	shell("n1", "head -c 1M /dev/urandom > large");
	make_directory("n1", "cache");
	save("n1", "cache/secret", "only here");
	save("n1", "draft.private", "only here");
	shell("n1", "ln -s %s/n1/state to-state", lab_dir(lab));
	everywhere_equal_below("kept");
	everywhere_equal_below("kept-there");
	everywhere_equal_below("kept-here");
	administrator("section", "set", "group", "--compression", "0", NULL); /* what n1 says is read here as it comes */
	administrator("route", "set", LAB_SET, "n2", "--parent", "n1", NULL);
	administrator("route", "set", LAB_SET, LIAR, "--parent", "n2", NULL); /* below it, so that it is no alternate of n2's */
	brings(LIAR, false);
	killed(LIAR, LAB_REPLICATOR);
	killed("n1", LAB_REPLICATOR); /* it forgets that the liar did a moment ago */
	started("n1", LAB_REPLICATOR);
}

static void tried(const struct attack *list, size_t count)
{
	pid_t victim = lab_pid(lab, "n1", LAB_REPLICATOR);
	unsigned wrong = 0;
	for (size_t i = 0; i < count; i++) {
		const struct attack *a = &list[i];
		struct hostile *h = hostile_connect(LIAR, "n1", a->stage, a->features);
		int64_t t0 = cdm_now_ms();
		a->act(h);
		if (!a->says) {
			hostile_lives(h);
		} else {
			const char *said = hostile_ended(h);
			if (!strstr(said, a->says)) {
				print_error("%s: the liar is told '%s' instead of '%s'\n", a->what, said, a->says);
				wrong++;
			}
		}
		hostile_close(&h);
		if (cdm_now_ms() - t0 > 300)
			print_message("%s %ld\n", a->what, (long)(cdm_now_ms() - t0));
	}
	assert_int_equal(kill(victim, 0), 0);
	assert_int_equal(wrong, 0);
}

static void a_leaf_says_nothing_of_others(void **state)
{
	save("n2", "before", "fine");
	gets_text("n1", "before", "fine");
	shell("n1", "stat -c '%%a %%U %%Y' . > %s/root-before", lab_dir(lab));
	tried(claims, sizeof claims / sizeof *claims);
	static const char *const nodes[] = {"n1", "n2"};
	for (size_t i = 0; i < 2; i++) {
		shell(nodes[i], "! ls | grep forged");
		has_text(nodes[i], "kept", "of worth");
		has_text(nodes[i], "kept-there", "of worth");
		has_text(nodes[i], "kept-here", "of worth");
	}
	shell("n1", "[ $(stat -c %%a kept) = 644 ] && stat -c '%%a %%U %%Y' . | cmp - %s/root-before", lab_dir(lab));
	shell("n1", "[ $(find %s/.cdmfs/staging -name 'fetch-*' | wc -l) = 0 ]", lab_store(lab, "n1"));
	shell("n1", "[ $(cat %s/logs/n1-*.log | grep -c event=incarnation_new) -le 1 ]", lab_dir(lab));
	shell("n1", "grep event=change_passed_over %s/logs/n1-replicator.log | grep 'peer=\"n3\"' | grep 'path=\"forged-' | grep -q 'origin=\"n2:'", lab_dir(lab));
	shell("n1", "grep event=change_passed_over %s/logs/n1-replicator.log | grep -q 'origin=\"4242.1:1\"'", lab_dir(lab));
	shell("n1", "grep event=seal_refused %s/logs/n1-replicator.log | grep 'peer=\"n3\"' | grep -q 'not its author'", lab_dir(lab));
	shell("n1", "grep event=tree_refused %s/logs/n1-replicator.log | grep -q 'peer=\"n3\"'", lab_dir(lab));
}

static void the_liar_carries_what_a_source_makes(void **state)
{
	started(LIAR, LAB_REPLICATOR);
	administrator("route", "set", LAB_SET, LIAR, "--auto", NULL);
	administrator("route", "set", LAB_SET, "n2", "--parent", LIAR, NULL);
	brings(LIAR, true);
	killed(LIAR, LAB_REPLICATOR);
}

static void no_lie_gets_through(void **state)
{
	tried(attacks, sizeof attacks / sizeof *attacks);
}

static void others_have_noticed_nothing(void **state)
{
	save("n2", "afterwards", "fine");
	gets_text("n1", "afterwards", "fine");
	save("n1", "kept", "of worth still");
	gets_text("n2", "kept", "of worth still");
	absent("n1", "fair");
	absent("n1", "by-the-target");
	started(LIAR, LAB_REPLICATOR);
	gets_text(LIAR, "kept", "of worth still");
	in_sync();
}

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(the_liar_takes_its_place),
		cmocka_unit_test(a_leaf_says_nothing_of_others),
		cmocka_unit_test(the_liar_carries_what_a_source_makes),
		cmocka_unit_test(no_lie_gets_through),
		cmocka_unit_test(others_have_noticed_nothing),
	};
	stories_alter = true;
	return STORIES("hostile", ((struct lab_options){.nodes = 3, .sources = "n1,n2", .local = "cache/**", .exclude = "*.private"}), stories);
}
