/* SPDX-License-Identifier: Apache-2.0 */
/* Signatures of shipped versions: kept over restarts, bounded, and damage is never taken for one. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>
#include "common/io.h"
#include "replicator/signatures.h"

#define ORIGIN CDM_ORIGIN(1, 1)

struct place {
	char path[64];
	int fd;
	struct signatures *s;
};

static void again(struct place *p, uint64_t limit)
{
	signatures_close(&p->s);
	assert_int_equal(signatures_open(p->fd, limit, &p->s, NULL), 0);
}

static int setup(void **state)
{
	struct place *p = calloc(1, sizeof *p);
	strcpy(p->path, "/tmp/signatures.XXXXXX");
	assert_non_null(mkdtemp(p->path));
	p->fd = open(p->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(mkdirat(p->fd, ".cdmfs", 0700), 0);
	again(p, SIGNATURES_MIN);
	*state = p;
	return 0;
}

static int teardown(void **state)
{
	struct place *p = *state;
	signatures_close(&p->s);
	static const char *const names[] = {".cdmfs/signatures/0", ".cdmfs/signatures/1"};
	for (size_t i = 0; i < 2; i++)
		unlinkat(p->fd, names[i], 0);
	unlinkat(p->fd, ".cdmfs/signatures", AT_REMOVEDIR);
	unlinkat(p->fd, ".cdmfs", AT_REMOVEDIR);
	close(p->fd);
	assert_int_equal(rmdir(p->path), 0);
	free(p);
	return 0;
}

/* A signature that says which one it is. */
static struct delta_signature *some(uint64_t number, uint64_t size)
{
	size_t count = (size_t)((size + 127) / 128);
	struct delta_signature *s = malloc(sizeof *s + count * sizeof s->blocks[0]);
	*s = (struct delta_signature){.size = size, .bits = 7, .count = count};
	for (size_t i = 0; i < count; i++)
		s->blocks[i] = (struct delta_block){(uint32_t)number, (uint32_t)i};
	return s;
}

static void put(struct place *p, uint64_t number, const char *path, uint64_t size)
{
	struct delta_signature *s = some(number, size);
	assert_int_equal(signatures_put(p->s, (struct cdm_dot){ORIGIN, number}, path, strlen(path), s), 0);
	free(s);
}

/* The number that the signature of this version says; 0: none. */
static uint64_t get(struct place *p, uint64_t number)
{
	struct delta_signature *s = signatures_get(p->s, (struct cdm_dot){ORIGIN, number});
	uint64_t says = s && s->count ? s->blocks[0].rolling : 0;
	assert_int_equal(s != NULL, signatures_has(p->s, (struct cdm_dot){ORIGIN, number}));
	free(s);
	return says;
}

static void kept_over_restarts(void **state)
{
	struct place *p = *state;
	for (uint64_t i = 1; i <= 3000; i++)
		put(p, i, "a/b", 1000 + i);
	put(p, 7, "a/b", 99); /* there already */
	for (int restarts = 0; restarts < 3; restarts++) {
		for (uint64_t i = 1; i <= 3000; i++)
			assert_int_equal(get(p, i), i);
		assert_int_equal(get(p, 3001), 0);
		again(p, SIGNATURES_MIN);
	}
}

static void bounded_and_the_newest_half_stays(void **state)
{
	struct place *p = *state;
	const uint64_t limit = 256 << 10;
	struct stat st;
	again(p, limit);
	for (uint64_t i = 1; i <= 2000; i++) {
		put(p, i, "a/b", 10000);
		if (i % 300 == 0)
			again(p, limit);
		uint64_t bytes = 0;
		for (int f = 0; f < 2; f++) {
			assert_int_equal(fstatat(p->fd, f ? ".cdmfs/signatures/1" : ".cdmfs/signatures/0", &st, 0), 0);
			bytes += (uint64_t)st.st_size;
		}
		assert_in_range(bytes, 0, limit);
		for (uint64_t back = 0; back < 128 && back < i; back++)
			assert_int_equal(get(p, i - back), i - back);
	}
	assert_int_equal(get(p, 1), 0);
	struct delta_signature *large = some(5, 128 * (limit / 8));
	assert_int_equal(signatures_put(p->s, (struct cdm_dot){ORIGIN, 9999}, "x", 1, large), -EFBIG);
	free(large);
}

static void damage_is_noticed(void **state)
{
	struct place *p = *state;
	for (uint64_t i = 1; i <= 100; i++)
		put(p, i, "a/b", 1000);
	int fd = openat(p->fd, ".cdmfs/signatures/0", O_RDWR | O_CLOEXEC);
	off_t size = lseek(fd, 0, SEEK_END), record = (size - 8) / 100;
	assert_int_equal(cdm_pwrite_all(fd, "!", 1, 8 + 49 * record + 100), 0); /* a body */
	struct delta_signature *s = signatures_get(p->s, (struct cdm_dot){ORIGIN, 50});
	assert_null(s);
	assert_int_equal(get(p, 51), 51);
	assert_int_equal(cdm_pwrite_all(fd, "!", 1, 8 + 80 * record + 9), 0); /* a head: what follows is not found again */
	again(p, SIGNATURES_MIN);
	assert_int_equal(get(p, 80), 80);
	assert_int_equal(get(p, 81), 0);
	put(p, 81, "a/b", 1000);
	assert_int_equal(get(p, 81), 81);
	assert_int_equal(ftruncate(fd, 20), 0);
	s = signatures_get(p->s, (struct cdm_dot){ORIGIN, 3});
	assert_null(s);
	again(p, SIGNATURES_MIN);
	put(p, 200, "a/b", 1000);
	again(p, SIGNATURES_MIN);
	assert_int_equal(get(p, 200), 200);
	close(fd);
}

static bool alike(const char *a, const char *b)
{
	uint64_t key = signatures_name_key(a, strlen(a));
	return key && key == signatures_name_key(b, strlen(b));
}

static void names_that_programs_make_up(void **state)
{
	assert_true(alike("js/app.3f2a.js", "js/app.9c01.js"));
	assert_true(alike("app-1.2.3.min.js", "app-1.10.0.min.js"));
	assert_true(alike("index-BxK3a9zQ.js", "index-C1fmWw0r.js"));
	assert_true(alike("d/.page.html.Xy12Ab", "d/page.html"));
	assert_true(alike("page.html.new", "page.html"));
	assert_true(alike(".page.html.tmp", "page.html"));
	assert_true(alike("page.html~", "page.html"));
	assert_true(alike(".hidden", ".hidden"));
	assert_false(alike(".hidden", "hidden"));
	assert_true(alike("backup-2026-01-31.tar", "backup-2026-02-28.tar"));
	assert_true(alike("chapter12.html", "chapter13.html"));
	assert_false(alike("a/app.3f2a.js", "b/app.3f2a.js"));
	assert_false(alike("index.html", "about.html"));
	assert_false(alike("chapter1.html", "appendix1.html"));
	assert_int_equal(signatures_name_key("", 0), 0);
	assert_int_equal(signatures_name_key("a/123", 5), 0);
	assert_int_equal(signatures_name_key("a/3f2a", 6), 0);
}

static void a_file_that_resembles_is_found(void **state)
{
	struct place *p = *state;
	struct signatures_like like;
	put(p, 1, "js/app.3f2a.js", 50000);
	put(p, 2, "js/app.77aa.js", 50000);
	put(p, 3, "js/index.js", 50000);
	again(p, SIGNATURES_MIN);
	assert_true(signatures_find_like(p->s, "js/app.1234.js", 14, 60000, &like));
	assert_int_equal(like.dot.number, 2);
	assert_int_equal(like.path_len, 14);
	assert_memory_equal(like.path, "js/app.77aa.js", 14);
	free(like.path);
	assert_int_equal(signatures_newest_at(p->s, "js/app.3f2a.js", 14).number, 1);
	assert_true(cdm_dot_is_none(signatures_newest_at(p->s, "js/app.1234.js", 14)));
	put(p, 4, "js/app.3f2a.js", 60000);
	assert_int_equal(signatures_newest_at(p->s, "js/app.3f2a.js", 14).number, 4);
	assert_false(signatures_find_like(p->s, "js/app.1234.js", 14, 200000, &like));
	assert_false(signatures_find_like(p->s, "js/other.1234.js", 16, 50000, &like));
	put(p, 5, "index-1.html", 50000);
	put(p, 6, "index-2.html", 50000);
	assert_true(signatures_find_like(p->s, ".index-1.html.Xy12Ab", 20, 50000, &like));
	assert_int_equal(like.dot.number, 5);
	free(like.path);
	assert_false(signatures_find_like(p->s, "js/index.js", 11, 50000, &like));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(kept_over_restarts, setup, teardown),
		cmocka_unit_test_setup_teardown(bounded_and_the_newest_half_stays, setup, teardown),
		cmocka_unit_test_setup_teardown(damage_is_noticed, setup, teardown),
		cmocka_unit_test(names_that_programs_make_up),
		cmocka_unit_test_setup_teardown(a_file_that_resembles_is_found, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
