/* SPDX-License-Identifier: Apache-2.0 */
/* Random operations at random nodes while links are cut and programs killed; when all is healed all nodes are equal. What one seed did
 * can be done again: CDMFS_TEST_SEED; CDMFS_TEST_ROUNDS for more of it (of 120 operations; where programs are killed, 12 times). What happened is in the lab's logs/operations.log. */
#include "tests/cluster/story.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define OPERATIONS 120

static unsigned seed;
static FILE *record;

static unsigned pick(unsigned n)
{
	return (unsigned)rand_r(&seed) % n;
}

/* A few names, so that operations meet: files f0 … f4, directories d0 … d3, up to two levels deep. */
static const char *some_path(bool directory)
{
	static char paths[4][64];
	static unsigned turn;
	char *path = paths[turn++ % 4];
	size_t used = 0;
	for (unsigned depth = pick(3); depth > 0; depth--)
		used += (size_t)snprintf(path + used, sizeof paths[0] - used, "d%u/", pick(4));
	snprintf(path + used, sizeof paths[0] - used, directory ? "d%u" : "f%u", pick(directory ? 4 : 5));
	return path;
}

static int write_random(const char *path, int flags, uint64_t version)
{
	uint8_t bytes[9000];
	int fd = open(path, O_WRONLY | O_CLOEXEC | flags, 0644);
	if (fd < 0)
		return -1;
	size_t len = pick(sizeof bytes);
	fill_version(bytes, len, version);
	ssize_t n = write(fd, bytes, len);
	return close(fd) < 0 || n < 0 ? -1 : 0;
}

enum operation { SAVE, APPEND, IN_PLACE, CUT_SHORT, RENAME, RENAME_DIR, EXCHANGE, LINK, SYMLINK, MKDIR, RMDIR, UNLINK, CHMOD, XATTR, TEMPORARY, OPERATION_COUNT };
static const char *const operation_names[OPERATION_COUNT] = {"save", "append", "in-place", "truncate", "rename", "rename-dir", "exchange", "link", "symlink",
	"mkdir", "rmdir", "unlink", "chmod", "xattr", "save by temporary"};

/* -1 with errno: refused, as it may be (no such name, not empty …). */
static int perform(enum operation op, const char *a, const char *b, uint64_t version)
{
	char temporary[4200];
	switch (op) {
	case SAVE:
		return write_random(a, O_CREAT | O_TRUNC, version);
	case APPEND:
		return write_random(a, O_APPEND, version);
	case IN_PLACE:
		return write_random(a, 0, version);
	case CUT_SHORT:
		return truncate(a, pick(5000));
	case RENAME:
	case RENAME_DIR:
		return rename(a, b);
	case EXCHANGE:
		return renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE);
	case LINK:
		return link(a, b);
	case SYMLINK:
		return symlink("somewhere", a);
	case MKDIR:
		return mkdir(a, 0755);
	case RMDIR:
		return rmdir(a);
	case UNLINK:
		return unlink(a);
	case CHMOD:
		return chmod(a, 0600 + pick(64));
	case XATTR:
		return setxattr(a, "user.random", &version, sizeof version, 0);
	case TEMPORARY:
		snprintf(temporary, sizeof temporary, "%s.tmp", a);
		return write_random(temporary, O_CREAT | O_EXCL, version) < 0 ? -1 : rename(temporary, a);
	default:
		return 0;
	}
}

static bool expected_refusal(int e)
{
	static const int fine[] = {ENOENT, EEXIST, ENOTEMPTY, ENOTDIR, EISDIR, EINVAL, EBUSY, EPERM, ELOOP};
	for (size_t i = 0; i < sizeof fine / sizeof *fine; i++)
		if (fine[i] == e)
			return true;
	return false;
}

static void some_operation(unsigned authors, uint64_t version)
{
	enum operation op = (enum operation)pick(OPERATION_COUNT);
	const char *node = lab_node_name(lab, pick(authors));
	bool directory = op == RENAME_DIR || op == MKDIR || op == RMDIR || (op == EXCHANGE && pick(2));
	const char *from = some_path(directory), *to = some_path(directory);
	_cleanup_free_ char *a = lab_path(lab, node, from), *b = lab_path(lab, node, to);
	int r = perform(op, a, b, version);
	int e = errno;
	fprintf(record, "%llu %s %s %s %s: %s\n", (unsigned long long)version, node, operation_names[op], from, to, r < 0 ? strerror(e) : "done");
	if (r < 0 && !expected_refusal(e))
		fail_msg("%s: %s %s %s: %s", node, operation_names[op], from, to, strerror(e));
}

static void open_record(void)
{
	_cleanup_free_ char *path = NULL;
	assert_true(asprintf(&path, "%s/logs/operations.log", lab_dir(lab)) >= 0);
	record = fopen(path, "we");
	assert_non_null(record);
	setlinebuf(record);
	seed = getenv("CDMFS_TEST_SEED") ? (unsigned)atoi(getenv("CDMFS_TEST_SEED")) : (unsigned)getpid();
	print_message("CDMFS_TEST_SEED=%u\n", seed);
}

static unsigned rounds(unsigned normally)
{
	return getenv("CDMFS_TEST_ROUNDS") ? (unsigned)atoi(getenv("CDMFS_TEST_ROUNDS")) : normally;
}

static void begin_round(const char *what, unsigned round)
{
	unsigned now = seed;
	shell("n1", "rm -rf -- *");
	everywhere_equal();
	fprintf(record, "# %s, round %u, seed %u\n", what, round, now);
}

static void cut_and_heal(unsigned i)
{
	if (i % 30 == 1) {
		const char *node = lab_node_name(lab, pick(lab_node_count(lab)));
		fprintf(record, "cut %s\n", node);
		cut(node);
	}
	if (i % 60 == 0) {
		fprintf(record, "heal all\n");
		for (unsigned k = 0; k < lab_node_count(lab); k++)
			healed(lab_node_name(lab, k));
	}
}

static unsigned kills[LAB_PROGRAMS];

static void kill_and_start(unsigned i)
{
	if (i % 10 != 0)
		return;
	enum lab_program program = (enum lab_program)pick(LAB_PROGRAMS);
	const char *node = program == LAB_MASTER ? NULL : lab_node_name(lab, pick(lab_node_count(lab)));
	fprintf(record, "kill %s %s\n", node ? node : "", lab_program_names[program]);
	killed(node, program);
	started(node, program);
	kills[program]++;
}

static void tell_kills(void)
{
	for (enum lab_program p = 0; p < LAB_PROGRAMS; p++)
		if (kills[p])
			print_message("%s killed %u times\n", lab_program_names[p], kills[p]);
	memset(kills, 0, sizeof kills);
}

static void no_trouble(unsigned i)
{
}

/* `authors` nodes do what comes to mind, `trouble` happens at each step; in the end all is equal. */
static void random_rounds(const char *what, unsigned authors, void (*trouble)(unsigned i))
{
	open_record();
	for (unsigned round = 0; round < rounds(3); round++) {
		begin_round(what, round);
		for (unsigned i = 1; i <= OPERATIONS; i++) {
			some_operation(authors, i);
			trouble(i);
		}
		all_rest();
		everywhere_equal();
	}
	tell_kills();
	fclose(record);
}

static void one_author(void **state)
{
	random_rounds("one author", 1, no_trouble);
}

static void one_author_while_links_are_cut(void **state)
{
	random_rounds("one author, links cut", 1, cut_and_heal);
}

static void one_author_while_programs_die(void **state)
{
	random_rounds("one author, programs killed", 1, kill_and_start);
}

static void all_are_authors(void **state)
{
	random_rounds("all are authors", 3, no_trouble);
}

static void all_are_authors_while_links_are_cut(void **state)
{
	random_rounds("all are authors, links cut", 3, cut_and_heal);
}

static void all_are_authors_while_programs_die(void **state)
{
	random_rounds("all are authors, programs killed", 3, kill_and_start);
}

/* Files with several names get their content by renames then (replicator/publish_names.c). */
static void strictly(const char *what, unsigned authors, void (*trouble)(unsigned i))
{
	administrator("set", "change", LAB_SET, "--update", "strict", NULL);
	random_rounds(what, authors, trouble);
	administrator("set", "change", LAB_SET, "--update", "follow", NULL);
}

static void strictly_one_author_while_programs_die(void **state)
{
	strictly("strict, one author, programs killed", 1, kill_and_start);
}

static void strictly_all_are_authors(void **state)
{
	strictly("strict, all are authors", 3, no_trouble);
}

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(one_author),
		cmocka_unit_test(one_author_while_links_are_cut),
		cmocka_unit_test(one_author_while_programs_die),
		cmocka_unit_test(all_are_authors),
		cmocka_unit_test(all_are_authors_while_links_are_cut),
		cmocka_unit_test(all_are_authors_while_programs_die),
		cmocka_unit_test(strictly_one_author_while_programs_die),
		cmocka_unit_test(strictly_all_are_authors),
	};
	return STORIES("random", ((struct lab_options){.nodes = 3, .netns = true}), stories);
}
