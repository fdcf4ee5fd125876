/* SPDX-License-Identifier: Apache-2.0 */
/* The node table: names and paths, what keeps an entry, ranges, and that a process killed at any instant leaves a usable table. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include "cdmfs/inode.h"

#define ROOT 2
#define STAGING 3

struct rig {
	char dir[64];
	int fd;
	struct inodes *t;
};

static struct cdm_handle handle_of(uint64_t id)
{
	struct cdm_handle h = {.len = 8, .type = 1};

	memcpy(h.bytes, &id, 8);
	if (id % 7 == 0) { /* some of the kind that is not the id itself */
		h.len = 20;
		h.type = 0x4d;
	}
	return h;
}

static void see_flags(struct inodes *t, uint64_t id, uint64_t parent, const char *name, uint32_t type, uint32_t flags, uint64_t lookups)
{
	struct cdm_handle h = handle_of(id);

	assert_int_equal(inodes_see(t, &(struct node_seen){.id = id, .parent = parent, .name = name, .name_len = name ? strlen(name) : 0,
		.handle = &h, .type = type, .flags = flags, .lookups = lookups}), 0);
}

static void see(struct inodes *t, uint64_t id, uint64_t parent, const char *name, uint32_t type)
{
	see_flags(t, id, parent, name, type, 0, 1);
}

static void rig_open(struct rig *r)
{
	struct cdm_error err = CDM_ERROR_INIT;

	if (inodes_open(r->fd, &r->t, &err) < 0)
		fail_msg("%s", err.text);
	inodes_set_roots(r->t, ROOT, STAGING);
	see_flags(r->t, ROOT, 0, NULL, S_IFDIR, NODE_PINNED, 0);
	see_flags(r->t, STAGING, 0, NULL, S_IFDIR, NODE_PINNED, 0);
}

static void rig_make(struct rig *r)
{
	strcpy(r->dir, "/dev/shm/test_inode.XXXXXX");
	assert_non_null(mkdtemp(r->dir));
	r->fd = open(r->dir, O_RDONLY | O_DIRECTORY);
	assert_true(r->fd >= 0);
	rig_open(r);
}

static void rig_end(struct rig *r)
{
	inodes_close(&r->t);
	unlinkat(r->fd, "nodes", 0);
	close(r->fd);
	rmdir(r->dir);
}

static void path_is(struct inodes *t, uint64_t id, const char *expected)
{
	char buf[CDM_PATH_MAX];
	struct node_path p;

	assert_int_equal(inodes_path(t, id, 0, buf, sizeof(buf), &p), 0);
	assert_int_equal(p.len, strlen(expected));
	assert_memory_equal(p.path, expected, p.len);
}

static void moving_a_directory_moves_what_is_below(void **state)
{
	struct rig r;

	rig_make(&r);
	see(r.t, 10, ROOT, "a", S_IFDIR);
	see(r.t, 11, 10, "b", S_IFDIR);
	see(r.t, 12, 11, "file", S_IFREG);
	path_is(r.t, 12, "a/b/file");
	see(r.t, 13, ROOT, "other", S_IFDIR);
	assert_int_equal(inodes_name_add(r.t, 11, 13, "moved", 5), 0); /* a directory's new name replaces the old one */
	path_is(r.t, 12, "other/moved/file");
	inodes_close(&r.t);
	rig_open(&r);
	path_is(r.t, 12, "other/moved/file");
	path_is(r.t, ROOT, "");
	rig_end(&r);
}

static void the_next_file_of_a_number_is_another_node(void **state)
{
	struct rig r;
	struct cdm_handle old = {.len = 12, .type = 0x81, .bytes = {131, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}}, next = old; /* as xfs makes them: number, generation */
	struct node_seen seen = {.id = inodes_id(&old), .parent = ROOT, .name = "old", .name_len = 3, .handle = &old, .type = S_IFREG, .lookups = 1};

	next.bytes[8]++;
	rig_make(&r);
	assert_int_not_equal(inodes_id(&next), seen.id);
	assert_int_equal(inodes_id(&(struct cdm_handle){.len = 8, .type = 1, .bytes = {77}}), 77);
	assert_int_equal(inodes_see(r.t, &seen), 0);
	assert_int_equal(inodes_see(r.t, &seen), 0);
	seen.handle = &next;
	assert_int_equal(inodes_see(r.t, &seen), -EIO);
	path_is(r.t, seen.id, "old");
	rig_end(&r);
}

static void a_file_keeps_its_other_names(void **state)
{
	struct rig r;
	char buf[64];
	struct node_path p;

	rig_make(&r);
	see(r.t, 10, ROOT, "one", S_IFREG);
	see(r.t, 10, ROOT, "two", S_IFREG);
	path_is(r.t, 10, "two");
	inodes_name_remove(r.t, 10, ROOT, "two", 3);
	path_is(r.t, 10, "one");
	inodes_name_remove(r.t, 10, ROOT, "one", 3);
	assert_int_equal(inodes_path(r.t, 10, 0, buf, sizeof(buf), &p), -ENOENT);
	for (unsigned i = 0; i < 3 * NODE_NAMES_MAX; i++) {
		snprintf(buf, sizeof(buf), "n%u", i);
		assert_int_equal(inodes_name_add(r.t, 10, ROOT, buf, strlen(buf)), 0);
	}
	assert_int_equal(inodes_path(r.t, 10, NODE_NAMES_MAX - 1, buf, sizeof(buf), &p), 0);
	assert_int_equal(inodes_path(r.t, 10, NODE_NAMES_MAX, buf, sizeof(buf), &p), -ENOENT);
	rig_end(&r);
}

static void an_entry_goes_when_nothing_needs_it(void **state)
{
	struct rig r;
	struct node n;

	rig_make(&r);
	see(r.t, 10, ROOT, "d", S_IFDIR);
	see(r.t, 11, 10, "f", S_IFREG);
	assert_true(inodes_forget(r.t, 10, 1));
	inodes_release(r.t, 10);
	assert_true(inodes_find(r.t, 10, &n)); /* its child needs it for the path */
	assert_int_equal(inodes_dirty_add(r.t, 11, &(struct dirty_add){.length = 5}), 1);
	assert_true(inodes_forget(r.t, 11, 1));
	inodes_release(r.t, 11);
	path_is(r.t, 11, "d/f"); /* unsaved */
	inodes_dirty_clear(r.t, 11);
	inodes_release(r.t, 11);
	assert_false(inodes_find(r.t, 11, &n));
	assert_false(inodes_find(r.t, 10, &n));
	assert_true(inodes_find(r.t, ROOT, &n));
	assert_int_equal(inodes_count(r.t), 2);
	rig_end(&r);
}

static void ranges_are_merged_and_bounded(void **state)
{
	struct rig r;
	struct dirty d;

	rig_make(&r);
	see(r.t, 10, ROOT, "f", S_IFREG);
	for (uint64_t i = 0; i < 1000; i++)
		inodes_dirty_add(r.t, 10, &(struct dirty_add){.offset = i * 4096, .length = 4096, .base = {7, 8}});
	assert_true(inodes_dirty(r.t, 10, &d));
	assert_int_equal(d.count, 1);
	assert_int_equal(d.ranges[0].length, 4096000);
	assert_int_equal(d.base.number, 8);
	for (uint64_t i = 0; i <= CDM_RANGES_MAX; i++)
		inodes_dirty_add(r.t, 10, &(struct dirty_add){.offset = 10000000 + i * 10, .length = 1});
	assert_true(inodes_dirty(r.t, 10, &d));
	assert_true(d.whole);
	inodes_dirty_clear(r.t, 10);
	assert_false(inodes_dirty(r.t, 10, &d));
	assert_int_equal(inodes_dirty_add(r.t, 10, &(struct dirty_add){.truncated = true}), 1);
	assert_true(inodes_dirty(r.t, 10, &d) && d.truncated && !d.whole && d.count == 0);
	rig_end(&r);
}

static void stays_small_with_many_entries(void **state)
{
	struct rig r;
	struct stat st;
	char name[32];

	rig_make(&r);
	for (uint64_t i = 0; i < 100000; i++) {
		snprintf(name, sizeof(name), "file-number-%llu.html", (unsigned long long)i);
		see(r.t, 1000001 + i * 7, ROOT, name, S_IFREG);
	}
	assert_int_equal(fstatat(r.fd, "nodes", &st, 0), 0);
	assert_in_range(st.st_blocks * 512ull, 1, 16u << 20);
	for (uint64_t i = 0; i < 100000; i++)
		if (inodes_forget(r.t, 1000001 + i * 7, 1))
			inodes_release(r.t, 1000001 + i * 7);
	assert_int_equal(inodes_count(r.t), 2);
	rig_end(&r);
}

static void a_damaged_file_is_not_believed(void **state)
{
	struct rig r;
	uint8_t junk[4096];
	struct node n;
	uint32_t cursor;
	struct dirty d;
	char buf[CDM_PATH_MAX];
	struct node_path p;

	srand(7);
	for (unsigned round = 0; round < 50; round++) {
		rig_make(&r);
		for (uint64_t i = 0; i < 200; i++) {
			snprintf(buf, sizeof(buf), "n%llu", (unsigned long long)i);
			see(r.t, 100 + i, i % 3 ? ROOT : 100 + i / 2, buf, i % 3 ? S_IFREG : S_IFDIR);
			inodes_dirty_add(r.t, 100 + i, &(struct dirty_add){.offset = i, .length = 1});
		}
		inodes_close(&r.t);
		int fd = openat(r.fd, "nodes", O_RDWR);
		for (unsigned k = 0; k < 20; k++) {
			for (size_t i = 0; i < 16; i++)
				junk[i] = rand();
			assert_int_equal(pwrite(fd, junk, 16, 4096 + rand() % 12000), 16);
		}
		close(fd);
		rig_open(&r);
		for (cursor = 0; inodes_next(r.t, &cursor, &n);) {
			inodes_dirty(r.t, n.id, &d);
			inodes_path(r.t, n.id, 0, buf, sizeof(buf), &p);
		}
		rig_end(&r);
	}
}

/* --- killed at any instant --- */

#define IDS 40
#define OPS 3000

static unsigned random_next(unsigned *seed)
{
	*seed = *seed * 1103515245 + 12345;
	return *seed >> 8 & 0xffff;
}

/* The i-th step of a sequence is the same in every process. */
static void step(struct inodes *t, unsigned i)
{
	unsigned seed = i * 2654435761u + 17;
	uint64_t id = 100 + random_next(&seed) % IDS, parent = random_next(&seed) % 3 ? ROOT : STAGING;
	char name[300];
	size_t len = 1 + random_next(&seed) % 40;

	memset(name, 'a' + random_next(&seed) % 3, len);
	name[len] = 0;
	switch (random_next(&seed) % 8) {
	case 0:
	case 1:
		see(t, id, parent, name, S_IFREG);
		break;
	case 2:
		inodes_name_remove(t, id, parent, name, len);
		break;
	case 3:
		if (inodes_forget(t, id, 1))
			inodes_release(t, id);
		break;
	case 4:
	case 5:
		inodes_dirty_add(t, id, &(struct dirty_add){.offset = random_next(&seed), .length = 1 + random_next(&seed) % 50});
		break;
	case 6:
		inodes_dirty_clear(t, id);
		break;
	default:
		inodes_flags(t, id, NODE_NEW, random_next(&seed) % 2 ? NODE_WRITER : 0);
		break;
	}
}

struct view { /* what can be seen of one id */
	bool found;
	uint64_t lookups;
	uint32_t flags, count;
	size_t path_len;
};

static void look(struct inodes *t, uint64_t id, struct view *v)
{
	struct node n;
	struct dirty d = {0};
	char buf[512];
	struct node_path p = {0};

	*v = (struct view){.found = inodes_find(t, id, &n)};
	if (!v->found)
		return;
	v->lookups = n.lookups;
	v->flags = n.flags;
	if (inodes_dirty(t, id, &d)) {
		v->count = d.count;
		for (uint32_t i = 1; i < d.count; i++)
			assert_true(d.ranges[i].offset > d.ranges[i - 1].offset + d.ranges[i - 1].length);
	}
	if (inodes_path(t, id, 0, buf, sizeof(buf), &p) == 0)
		v->path_len = p.len;
}

/* Each thing seen is as before the step that was cut short, or as after it. */
static void compare(struct inodes *found, struct inodes *before, struct inodes *after)
{
	for (uint64_t id = 100; id < 100 + IDS; id++) {
		struct view f, b, a;
		look(found, id, &f);
		look(before, id, &b);
		look(after, id, &a);
		assert_true(f.found == b.found || f.found == a.found);
		if (!f.found || !b.found || !a.found)
			continue;
		assert_true(f.lookups == b.lookups || f.lookups == a.lookups);
		assert_true(f.flags == b.flags || f.flags == a.flags || (f.flags | NODE_UNSAVED) == (b.flags & ~(uint32_t)NODE_NEW));
		assert_true(f.count == b.count || f.count == a.count);
		assert_true(f.path_len == b.path_len || f.path_len == a.path_len);
	}
}

static void survives_a_kill_at_any_instant(void **state)
{
	_Atomic unsigned *done = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(done, MAP_FAILED);
	for (unsigned round = 0; round < 40; round++) {
		struct rig r, before, after;
		unsigned stop_at = 20 + round * 53 % OPS;
		int status;
		rig_make(&r);
		inodes_close(&r.t);
		atomic_store(done, 0);
		pid_t pid = fork();
		if (pid == 0) {
			rig_open(&r);
			for (unsigned i = 0; i < OPS * 100; i++) {
				step(r.t, i);
				atomic_store(done, i + 1);
			}
			_exit(0);
		}
		while (atomic_load(done) < stop_at)
			if (waitpid(pid, &status, WNOHANG) != 0)
				fail_msg("the writer ended");
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		rig_open(&r);
		rig_make(&before);
		rig_make(&after);
		for (unsigned i = 0; i <= atomic_load(done); i++) {
			if (i < atomic_load(done))
				step(before.t, i);
			step(after.t, i);
		}
		compare(r.t, before.t, after.t);
		for (unsigned i = 0; i < 500; i++) /* and it goes on */
			step(r.t, i);
		rig_end(&r);
		rig_end(&before);
		rig_end(&after);
	}
	munmap((void *)done, 4096);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(moving_a_directory_moves_what_is_below),
		cmocka_unit_test(the_next_file_of_a_number_is_another_node),
		cmocka_unit_test(a_file_keeps_its_other_names),
		cmocka_unit_test(an_entry_goes_when_nothing_needs_it),
		cmocka_unit_test(ranges_are_merged_and_bounded),
		cmocka_unit_test(stays_small_with_many_entries),
		cmocka_unit_test(a_damaged_file_is_not_believed),
		cmocka_unit_test(survives_a_kill_at_any_instant),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
