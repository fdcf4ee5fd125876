/* SPDX-License-Identifier: Apache-2.0 */
/* A journal whose segment, or whose tail, holds arbitrary bytes: opening and reading it ends with an answer. The
 * first byte says what the rest is put into (and where), the rest overwrites bytes of a sound journal. */
#include "fuzz.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "common/journal.h"

#define KEPT (64u << 10) /* bytes of each file that are put back */

static char dir[] = "fuzz-journal-XXXXXX";
static char run_dir[64], tail_path[64], segment_path[64];
static int dir_fd;
static uint8_t kept_tail[KEPT], kept_segment[KEPT];

static void must(bool ok)
{
	if (!ok)
		abort();
}

static struct cdm_journal_conf conf(void)
{
	return (struct cdm_journal_conf){.journal_dir_fd = dir_fd, .run_dir = run_dir, .node_number = 1, .incarnation = 1,
		.tail_bytes = 1 << 20, .segment_bytes = 1 << 20, .max_bytes = 4 << 20, .sync_interval_ms = 60000};
}

static void remove_all(void)
{
	char name[32];
	for (unsigned i = 1; i < 8; i++) {
		snprintf(name, sizeof name, "%08u.log", i);
		unlinkat(dir_fd, name, 0);
	}
	unlinkat(dir_fd, "tail", 0);
	unlinkat(dir_fd, "wake", 0);
	rmdir(dir);
}

static void keep(const char *path, uint8_t *bytes)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	must(fd >= 0 && pread(fd, bytes, KEPT, 0) == KEPT);
	close(fd);
}

/* Some settled records, one of them a mark, and a pending one; then its writer is gone without a word. */
static void make_journal(void)
{
	struct cdm_journal *j;
	struct cdm_journal_state state;
	struct cdm_journal_conf c = conf();
	static const struct cdm_vector none;
	must(cdm_journal_open(&c, &j, &state, NULL) == 0);
	for (int i = 0; i < 6; i++) {
		struct cdm_change change = {.op = CDM_OP_WRITE, .path = "a/b", .path_len = 3};
		must(cdm_journal_put(j, &change) == 0);
	}
	struct cdm_change mark = {.op = CDM_OP_MARK, .vector = &none};
	struct cdm_change pending = {.op = CDM_OP_MKDIR, .path = "d", .path_len = 1};
	must(cdm_journal_put(j, &mark) == 0 && cdm_journal_append(j, &pending) == 0);
	must(cdm_journal_close(&j, NULL) < 0);
}

static void set_up(void)
{
	const char *where = getenv("CDMFS_TEST_DIR"); /* else the slowest disk decides how long it takes */
	must(!where || chdir(where) == 0);
	must(mkdtemp(dir) != NULL);
	snprintf(run_dir, sizeof run_dir, "%s", dir);
	snprintf(tail_path, sizeof tail_path, "%s/tail", dir);
	snprintf(segment_path, sizeof segment_path, "%s/00000001.log", dir);
	dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	must(dir_fd >= 0);
	make_journal();
	keep(tail_path, kept_tail);
	keep(segment_path, kept_segment);
	atexit(remove_all);
}

static void overwrite(const char *path, const uint8_t *bytes, size_t len, off_t at)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	must(fd >= 0 && pwrite(fd, bytes, len, at) == (ssize_t)len && ftruncate(fd, 4096 + (1 << 20)) == 0);
	close(fd);
}

static void read_all(void)
{
	struct cdm_journal_reader *r;
	struct cdm_change c;
	if (cdm_journal_reader_open(dir_fd, run_dir, &r, NULL) < 0)
		return;
	static const uint64_t from[] = {0, CDM_JOURNAL_LAST_MARK, CDM_JOURNAL_FRONTIER, 4096};
	for (size_t i = 0; i < sizeof from / sizeof *from; i++) {
		if (cdm_journal_reader_seek(r, from[i]) < 0)
			continue;
		for (int n = 0; n < 1000 && cdm_journal_reader_next(r, &c) == 1; n++)
			;
	}
	cdm_journal_reader_pending(r, &(struct cdm_handle){.len = 8});
	cdm_journal_reader_close(&r);
}

static void take_up(void)
{
	struct cdm_journal *j;
	struct cdm_journal_state state;
	struct cdm_journal_conf c = conf();
	struct cdm_change change;
	if (cdm_journal_open(&c, &j, &state, NULL) < 0)
		return;
	while (cdm_journal_next_pending(j, &change) == 1) {
		cdm_journal_settle(j, &change, CDM_FAILED, 5);
		cdm_change_fini(&change);
	}
	change = (struct cdm_change){.op = CDM_OP_WRITE, .path = "x", .path_len = 1};
	must(cdm_journal_put(j, &change) == 0);
	cdm_journal_close(&j, NULL);
	cdm_vector_fini(&state.applied);
	cdm_vector_fini(&state.durable);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char name[32];
	if (!kept_tail[0])
		set_up();
	if (size < 3 || size > KEPT / 2)
		return 0;
	bool into_tail = data[0] & 1, with_tail = into_tail || data[0] & 2;
	off_t at = (data[1] | data[2] << 8) % (int)(KEPT / 2);
	overwrite(tail_path, kept_tail, KEPT, 0);
	overwrite(segment_path, kept_segment, KEPT, 0);
	overwrite(into_tail ? tail_path : segment_path, data + 3, size - 3, at);
	if (!with_tail)
		unlink(tail_path);
	read_all();
	take_up();
	read_all();
	for (unsigned i = 2; i < 8; i++) {
		snprintf(name, sizeof name, "%08u.log", i);
		unlinkat(dir_fd, name, 0);
	}
	return 0;
}
