/* SPDX-License-Identifier: Apache-2.0 */
/* Deltas of a large file on one core: seconds to sign the old version, to search the new one and to put it together, and what would travel;
 * beside it what rsync takes for the same (its CPU seconds are those of all its processes).
 * bench_delta [DIRECTORY] [MiB]: the files are made in the directory and removed. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "common/io.h"
#include "replicator/delta.h"
#include "replicator/delta_roll.h"

#define MIB ((uint64_t)1 << 20)

static void die(const char *what)
{
	fprintf(stderr, "bench_delta: %s\n", what);
	exit(1);
}

static double now(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void check(int r, const struct cdm_error *err)
{
	if (r < 0)
		die(err->text);
}

static void fill(int fd, uint64_t bytes, uint64_t seed)
{
	static uint64_t buf[1 << 15];
	while (bytes) {
		size_t n = bytes < sizeof buf ? (size_t)bytes : sizeof buf;
		for (size_t i = 0; i < n / 8 + 1 && i < sizeof buf / 8; i++)
			buf[i] = seed = seed * 6364136223846793005ull + 1442695040888963407ull, buf[i] ^= buf[i] >> 29;
		if (write(fd, buf, n) != (ssize_t)n)
			die("no space");
		bytes -= n;
	}
}

static int make(const char *name)
{
	int fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		die("cannot make files here");
	return fd;
}

static void copy_range(int from, off_t at, int to, uint64_t len)
{
	while (len) {
		ssize_t n = copy_file_range(from, &at, to, NULL, len, 0);
		if (n <= 0)
			die("cannot copy");
		len -= (uint64_t)n;
	}
}

static void rsync(const char *const argv[])
{
	struct rusage before, after;
	getrusage(RUSAGE_CHILDREN, &before);
	double start = now();
	int status;
	pid_t pid = fork();
	if (pid == 0) {
		execvp("rsync", (char *const *)argv);
		_exit(127);
	}
	if (waitpid(pid, &status, 0) < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
		printf("  rsync: not to be had\n");
		return;
	}
	double wall = now() - start;
	getrusage(RUSAGE_CHILDREN, &after);
	double cpu = (double)(after.ru_utime.tv_sec - before.ru_utime.tv_sec) + (double)(after.ru_utime.tv_usec - before.ru_utime.tv_usec) / 1e6 +
		(double)(after.ru_stime.tv_sec - before.ru_stime.tv_sec) + (double)(after.ru_stime.tv_usec - before.ru_stime.tv_usec) / 1e6;
	printf("  rsync (all of it) %.3f s, %.3f CPU s\n", wall, cpu);
}

static void compare(const char *what, const char *old_name, const char *new_name)
{
	struct cdm_error err = CDM_ERROR_INIT;
	struct delta_signature *s;
	struct delta_found found;
	uint8_t digest[16];
	struct bytes code = {0};
	int old = open(old_name, O_RDONLY | O_CLOEXEC), new = open(new_name, O_RDONLY | O_CLOEXEC), there = make("there");
	double t0 = now();
	check(delta_sign_file(old, &s, digest, &err), &err);
	double t1 = now();
	check(delta_search(new, s, &found, &err), &err);
	double t2 = now();
	uint64_t at = 0;
	for (size_t i = 0; i <= found.copies.count; i++) {
		uint64_t end = i < found.copies.count ? found.copies.list[i].at : found.size;
		off_t to = (off_t)at;
		lseek(there, to, SEEK_SET);
		copy_range(new, to, there, end - at);
		at = i < found.copies.count ? end + found.copies.list[i].length : end;
	}
	double t3 = now();
	struct delta_signer *signer = delta_signer_new(found.size, false);
	check(delta_apply(old, &found.copies, there, found.size, signer, &err), &err);
	delta_signer_end(signer, digest);
	double t4 = now();
	if (memcmp(digest, found.digest, 16) != 0)
		die("what was put together is something else");
	delta_copies_encode(&found.copies, 0, SIZE_MAX / 2, &code);
	printf("%s\n  sign %.3f s, search (new signature included) %.3f s, apply %.3f s; literal %llu, %zu copies in %zu bytes; signature %zu bytes\n",
		what, t1 - t0, t2 - t1, t4 - t3, (unsigned long long)(found.size - found.copies.bytes), found.copies.count, code.len,
		delta_signature_size(s));
	bytes_fini(&code);
	delta_signer_free(&signer);
	delta_found_fini(&found);
	free(s);
	close(old);
	close(new);
	close(there);
	unlink("there");
	int dest = make("dest");
	old = open(old_name, O_RDONLY | O_CLOEXEC);
	copy_range(old, 0, dest, (uint64_t)lseek(old, 0, SEEK_END));
	close(old);
	close(dest);
	const char *all[] = {"rsync", "--no-whole-file", "-I", new_name, "dest", NULL};
	rsync(all);
	unlink("dest");
}

int main(int argc, char **argv)
{
	uint64_t size = (argc > 2 ? strtoull(argv[2], NULL, 10) : 256) * MIB, at = size / 10 / 4096 * 4096;
	if (argc > 1 && chdir(argv[1]) < 0)
		die("no such directory");
	int old = make("old"), new = make("new");
	fill(old, size, 1);
	copy_range(old, 0, new, at);
	fill(new, MIB + 13, 2);
	copy_range(old, (off_t)at, new, size - at);
	close(new);
	compare("1 MiB + 13 bytes inserted at a tenth", "old", "new");
	new = make("new");
	copy_range(old, 0, new, size);
	for (uint64_t i = 0; i < size / MIB; i++)
		if (pwrite(new, "changed", 7, (off_t)(i * MIB + 100)) != 7)
			die("no space");
	close(new);
	compare("7 bytes changed in each MiB", "old", "new");
	new = make("new");
	fill(new, size / 4, 3);
	close(new);
	compare("a quarter as long, nothing in common", "old", "new");
	roll_use_vectors(false);
	compare("the same without vectors", "old", "new");
	close(old);
	unlink("old");
	unlink("new");
	return 0;
}
