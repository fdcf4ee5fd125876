/* SPDX-License-Identifier: Apache-2.0 */
/* Cost of recording a change: append + settle, ns each, for one and for two threads, with the flusher at work beside
 * it; and of reading it. The aim is well under 1 µs. bench_journal [DIRECTORY] [RECORDS]: the directory should lie on
 * the disk of a store. */
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "common/journal.h"

struct bench {
	struct cdm_journal *j;
	unsigned count;
};

static double now_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

static void die(const char *what)
{
	fprintf(stderr, "bench_journal: %s\n", what);
	exit(1);
}

static void *append_and_settle(void *arg)
{
	struct bench *b = arg;
	static const char path[] = "docs/reference/index.html";
	for (unsigned i = 0; i < b->count; i++) {
		struct cdm_change c = {.op = CDM_OP_WRITE, .path = path, .path_len = sizeof path - 1, .request = i,
			.handle = {.len = 8, .type = 1, .bytes = {1}}};
		if (cdm_journal_append(b->j, &c) < 0)
			die("append failed");
		c.version = (struct cdm_version){c.dot, c.clock};
		c.attr = (struct cdm_attr){.mask = CDM_ATTR_SIZE, .size = i};
		cdm_journal_settle(b->j, &c, CDM_DONE, 0);
	}
	return NULL;
}

static double run_threads(struct cdm_journal *j, unsigned threads, unsigned count)
{
	pthread_t ids[8];
	struct bench b = {j, count / threads};
	double start = now_ns();
	for (unsigned i = 0; i < threads; i++)
		if (pthread_create(&ids[i], NULL, append_and_settle, &b))
			die("no thread");
	for (unsigned i = 0; i < threads; i++)
		pthread_join(ids[i], NULL);
	return (now_ns() - start) / (b.count * threads);
}

static double read_all(int dir_fd, const char *run_dir, unsigned *ret_count)
{
	struct cdm_journal_reader *r;
	struct cdm_change c;
	if (cdm_journal_reader_open(dir_fd, run_dir, &r, NULL) < 0)
		die("no reader");
	double start = now_ns();
	for (*ret_count = 0; cdm_journal_reader_next(r, &c) == 1;)
		++*ret_count;
	double ns = (now_ns() - start) / *ret_count;
	cdm_journal_reader_close(&r);
	return ns;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

int main(int argc, char **argv)
{
	char dir[4096], run_dir[] = "/dev/shm/bench-journal-XXXXXX";
	unsigned count = argc > 2 ? (unsigned)atoi(argv[2]) : 300000, read_count;
	struct cdm_journal *j;
	struct cdm_journal_state state;
	struct cdm_error err = CDM_ERROR_INIT;
	snprintf(dir, sizeof dir, "%s/bench-journal-XXXXXX", argc > 1 ? argv[1] : ".");
	if (!mkdtemp(dir) || !mkdtemp(run_dir))
		die("no directory");
	struct cdm_journal_conf conf = {.journal_dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), .run_dir = run_dir,
		.node_number = 1, .incarnation = 1};
	if (cdm_journal_open(&conf, &j, &state, &err) < 0)
		die(err.text);
	run_threads(j, 1, 50000); /* touch the ring once */
	printf("append+settle  1 thread   %6.0f ns\n", run_threads(j, 1, count));
	printf("append+settle  2 threads  %6.0f ns\n", run_threads(j, 2, count));
	double start = now_ns();
	append_and_settle(&(struct bench){j, 1});
	if (cdm_journal_sync(j) < 0)
		die("sync failed");
	printf("append+sync               %6.0f us\n", (now_ns() - start) / 1000);
	double ns = read_all(conf.journal_dir_fd, run_dir, &read_count);
	printf("read                      %6.0f ns  (%u records)\n", ns, read_count);
	if (cdm_journal_close(&j, &err) < 0)
		die(err.text);
	close(conf.journal_dir_fd);
	nftw(dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
	nftw(run_dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
	return 0;
}
