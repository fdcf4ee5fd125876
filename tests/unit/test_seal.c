/* SPDX-License-Identifier: Apache-2.0 */
/* Seals as bytes (seal_codec.h), and who signed them (seal_sign.h). */
#include "link_rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "replicator/seal_sign.h"

#define AUTHOR 7

static struct cdm_dot entries[] = {{CDM_ORIGIN(3, 1), 5}, {CDM_ORIGIN(AUTHOR, 2), 88}};

static void put_stamp(struct sealed *n)
{
	n->stamp.content = (struct cdm_version){.dot = {CDM_ORIGIN(AUTHOR, 2), 87}, .clock = 1000};
	n->stamp.attr_clock = 1001;
	n->stamp.attr_origin = CDM_ORIGIN(AUTHOR, 2);
}

/* A file, a directory with extended attributes, a name that went. */
static void fill(struct seal *s)
{
	*s = (struct seal){.set = "www", .clock = 1002, .upto = {CDM_ORIGIN(AUTHOR, 2), 88}, .after = 80, .through = 86, .still = true, .vector = {entries, 2, 2}, .count = 3};
	s->names[0] = (struct sealed){.path = "css/a.css", .path_len = 9, .there = true, .mode = S_IFREG | 0644, .uid = 33, .gid = 34, .size = 5,
		.mtime_ns = -1, .user = "www-data", .user_len = 8, .group = "", .group_len = 0};
	memset(s->names[0].content, 0xc5, SEAL_DIGEST);
	s->names[1] = (struct sealed){.path = "css", .path_len = 3, .there = true, .mode = S_IFDIR | 0755, .user = "", .group = "root", .group_len = 4};
	memset(s->names[1].xattrs, 0xa7, SEAL_DIGEST);
	s->names[2] = (struct sealed){.path = "old\n\xff", .path_len = 5, .user = "", .group = ""};
	put_stamp(&s->names[0]);
	put_stamp(&s->names[1]);
}

struct written {
	struct seal seal;
	struct bytes statement, memory, payload;
};

static void write_down(struct written *w)
{
	seal_statement_encode(&w->seal, &w->statement);
	w->seal.statement = w->statement.data;
	w->seal.statement_len = w->statement.len;
}

static void free_written(struct written *w)
{
	bytes_fini(&w->statement);
	bytes_fini(&w->memory);
	bytes_fini(&w->payload);
}

static void sign(struct written *w, const struct node *node)
{
	assert_int_equal(seal_sign(node, &w->seal, &w->memory, NULL), 0);
	seal_encode(&w->seal, &w->payload);
}

static void what_was_written_is_read(void **state)
{
	struct written w = {0};
	struct seal got;
	fill(&w.seal);
	write_down(&w);
	w.seal.certificate = (const uint8_t *)"C";
	w.seal.signature = (const uint8_t *)"SS";
	w.seal.certificate_len = 1;
	w.seal.signature_len = 2;
	seal_encode(&w.seal, &w.payload);
	assert_int_equal(seal_decode(w.payload.data, w.payload.len, &got), 0);
	assert_string_equal(got.set, "www");
	assert_true(got.still && got.clock == 1002 && cdm_dot_equal(got.upto, w.seal.upto) && got.after == 80 && got.through == 86 && cdm_vector_equal(&got.vector, &w.seal.vector));
	assert_int_equal(got.count, 3);
	for (size_t i = 0; i < 3; i++) {
		const struct sealed *a = &got.names[i], *b = &w.seal.names[i];
		assert_true(a->path_len == b->path_len && memcmp(a->path, b->path, a->path_len) == 0 && a->there == b->there);
		assert_true(a->mode == b->mode && a->uid == b->uid && a->gid == b->gid && a->size == b->size && a->mtime_ns == b->mtime_ns);
		assert_true(a->user_len == b->user_len && a->group_len == b->group_len && a->stamp.attr_clock == b->stamp.attr_clock);
		assert_memory_equal(a->content, b->content, SEAL_DIGEST);
		assert_memory_equal(a->xattrs, b->xattrs, SEAL_DIGEST);
	}
	assert_true(got.certificate_len == 1 && got.signature_len == 2 && got.statement_len == w.statement.len);
	seal_fini(&got);
	for (size_t len = 0; len < w.payload.len; len++)
		assert_int_equal(seal_decode(w.payload.data, len, &got), -EBADMSG);
	free_written(&w);
}

static int decode_altered(void (*alter)(struct seal *s))
{
	struct written w = {0};
	struct seal got;
	fill(&w.seal);
	alter(&w.seal);
	write_down(&w);
	seal_encode(&w.seal, &w.payload);
	int r = seal_decode(w.payload.data, w.payload.len, &got);
	if (r == 0)
		seal_fini(&got);
	free_written(&w);
	return r;
}

static void climb(struct seal *s)
{
	s->names[0].path = "../../a/b";
}

static void hide(struct seal *s)
{
	s->names[2].path = ".cdmfs/x";
	s->names[2].path_len = 8;
}

static void no_path(struct seal *s)
{
	s->names[1].path_len = 0;
}

static void no_author(struct seal *s)
{
	s->upto.origin = 0;
}

static void no_clock(struct seal *s)
{
	s->clock = 0;
}

static void after_its_end(struct seal *s)
{
	s->after = 87;
}

static void through_more_than_it_knows(struct seal *s)
{
	s->through = 89;
}

static void sign_of_life(struct seal *s)
{
	s->count = 0;
	s->through = s->after;
}

static void no_set(struct seal *s)
{
	s->set[0] = 0;
}

static void content_of_a_directory(struct seal *s)
{
	memset(s->names[1].content, 1, SEAL_DIGEST);
}

static void content_not_told(struct seal *s)
{
	memset(s->names[0].content, 0, SEAL_DIGEST);
}

static void nothing(struct seal *s)
{
}

static void what_cannot_be_is_refused(void **state)
{
	assert_int_equal(decode_altered(nothing), 0);
	assert_int_equal(decode_altered(climb), -EBADMSG);
	assert_int_equal(decode_altered(hide), -EBADMSG);
	assert_int_equal(decode_altered(no_path), -EBADMSG);
	assert_int_equal(decode_altered(no_author), -EBADMSG);
	assert_int_equal(decode_altered(no_clock), -EBADMSG);
	assert_int_equal(decode_altered(after_its_end), -EBADMSG);
	assert_int_equal(decode_altered(through_more_than_it_knows), -EBADMSG);
	assert_int_equal(decode_altered(sign_of_life), 0);
	assert_int_equal(decode_altered(no_set), -EBADMSG);
	assert_int_equal(decode_altered(content_of_a_directory), -EBADMSG);
	assert_int_equal(decode_altered(content_not_told), 0);
}

/* Who signed it, as the other node sees it; 0: it is refused. `damage`: this byte of the payload, from its end, is changed. */
static uint32_t author_seen(const struct node *author, const struct node *reader, size_t damage)
{
	struct written w = {0};
	struct seal got;
	uint32_t number = 0;
	fill(&w.seal);
	write_down(&w);
	sign(&w, author);
	if (damage)
		w.payload.data[w.payload.len - damage] ^= 1;
	if (seal_decode(w.payload.data, w.payload.len, &got) == 0) {
		if (seal_verify(reader, &got, &number, NULL) < 0)
			number = 0;
		seal_fini(&got);
	}
	free_written(&w);
	return number;
}

static void a_signature_names_its_author(void **state)
{
	struct node *author = node_make(AUTHOR, 0, false), *reader = node_make(8, 0, false), *stranger = node_make(9, 0, true);
	assert_int_equal(author_seen(author, reader, 0), AUTHOR);
	assert_int_equal(author_seen(reader, author, 0), 8);
	assert_int_equal(author_seen(stranger, reader, 0), 0);
	for (size_t at = 1; at < 200; at++)
		assert_int_equal(author_seen(author, reader, at), 0);
	node_end(&author);
	node_end(&reader);
	node_end(&stranger);
}

static void what_was_seen_is_read(void **state)
{
	struct seal_seen *seen = calloc(1, sizeof *seen), *got = calloc(1, sizeof *got);
	struct bytes frame = {0};
	seen->count = 2;
	seen->authors[0] = (struct seal_author){3, 1000};
	seen->authors[1] = (struct seal_author){AUTHOR, UINT64_MAX};
	seal_seen_encode(seen, &frame);
	assert_int_equal(seal_seen_decode(frame.data, frame.len, got), 0);
	assert_true(got->count == 2 && got->authors[1].number == AUTHOR && got->authors[1].clock == UINT64_MAX);
	for (size_t len = 0; len < frame.len; len++)
		assert_int_equal(seal_seen_decode(frame.data, len, got), -EBADMSG);
	bytes_put_u8(&frame, 0);
	assert_int_equal(seal_seen_decode(frame.data, frame.len, got), -EBADMSG);
	memcpy(frame.data, (const uint8_t[]){0xff, 0xff}, 2);
	assert_int_equal(seal_seen_decode(frame.data, frame.len, got), -EBADMSG);
	bytes_fini(&frame);
	free(seen);
	free(got);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_written_is_read),
		cmocka_unit_test(what_cannot_be_is_refused),
		cmocka_unit_test(a_signature_names_its_author),
		cmocka_unit_test(what_was_seen_is_read),
	};
	return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
