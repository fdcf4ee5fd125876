/* SPDX-License-Identifier: Apache-2.0 */
/* posix_content.c — bytes in files: writing, cutting, mapping, holes, copying. */
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#include "tests/cluster/posix.h"

#define KIB 1024ll
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)

static char pattern[4 * MIB];

static void fill_pattern(unsigned seed)
{
	uint64_t x = seed * 0x9e3779b97f4a7c15ull + 1;

	for (size_t i = 0; i < sizeof(pattern); i += 8) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		memcpy(pattern + i, &x, 8);
	}
}

static void writing(struct probe *p)
{
	static const long sizes[] = {1, 4095, 4096, 4097, 65536, 1000003, 1048576, 1048577, 4000000};
	char name[32];

	fill_pattern(1);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		snprintf(name, sizeof(name), "f%ld", sizes[i]);
		int fd = F(openat(p->dir, name, O_RDWR | O_CREAT, 0644));
		T(write(fd, pattern, (size_t)sizes[i]));
		T(pwrite(fd, "inside", 6, sizes[i] / 2));
		T(pwrite(fd, "behind", 6, sizes[i] + 5000));
		T(lseek(fd, 0, SEEK_END));
		T(close(fd));
		probe_content(p, name);
	}
	int fd = F(openat(p->dir, "f1", O_RDONLY));
	T(write(fd, "x", 1));
	T(pread(fd, pattern, 10, 1 << 20));
	T(pread(fd, pattern, 10, -1));
	T(close(fd));
	fd = F(openat(p->dir, "f1", O_WRONLY));
	T(read(fd, pattern, 1));
	T(pwrite(fd, "x", 0, 100));
	T(close(fd));
	struct iovec iov[3] = {{pattern, 10}, {pattern + 100, 0}, {pattern + 200, 5000}};
	fd = F(openat(p->dir, "vector", O_RDWR | O_CREAT, 0644));
	T(writev(fd, iov, 3));
	T(pwritev(fd, iov, 3, 100000));
	T(preadv(fd, iov, 3, 99990));
	T(close(fd));
}

static void appending(struct probe *p)
{
	int a = F(openat(p->dir, "log", O_WRONLY | O_CREAT | O_APPEND, 0644));
	int b = F(openat(p->dir, "log", O_RDWR | O_APPEND));
	char buf[64] = "";

	for (int i = 0; i < 200; i++) {
		int n = snprintf(buf, sizeof(buf), "line %d of a and b\n", i);
		if (write(i % 2 ? a : b, buf, (size_t)n) != n)
			probe_say(p, "append %d: %s", i, strerrorname_np(errno));
	}
	T(lseek(b, 0, SEEK_CUR));
	T(pwrite(b, "still at the end", 16, 0));
	T(ftruncate(a, 10));
	T(write(b, "after the cut", 13));
	T(pread(b, buf, 64, 0));
	T(fcntl(a, F_SETFL, 0));
	T(lseek(a, 2, SEEK_SET));
	T(write(a, "in place", 8));
	T(close(a));
	T(close(b));
	probe_content(p, "log");
}

static void truncating(struct probe *p)
{
	fill_pattern(2);
	int fd = F(openat(p->dir, "t", O_RDWR | O_CREAT, 0644));
	T(write(fd, pattern, 100000));
	T(ftruncate(fd, 5000));
	probe_content(p, "t");
	T(ftruncate(fd, 200000));
	probe_content(p, "t");
	T(ftruncate(fd, -1));
	T(ftruncate(fd, 0));
	probe_content(p, "t");
	T(pwrite(fd, "far", 3, 70000));
	probe_content(p, "t");
	T(close(fd));
	char path[300];
	snprintf(path, sizeof(path), "%s/t", p->path);
	probe_result(p, "truncate(path, 70001)", truncate(path, 70001), errno);
	probe_result(p, "truncate(path, 8 GiB)", truncate(path, 8 * GIB), errno);
	probe_stat(p, "t");
	probe_result(p, "truncate(path, 1)", truncate(path, 1), errno);
	fd = F(openat(p->dir, "t", O_RDONLY));
	T(ftruncate(fd, 0));
	T(close(fd));
	fd = F(openat(p->dir, "t", O_RDWR | O_TRUNC));
	probe_fstat(p, fd);
	T(close(fd));
	T(mkdirat(p->dir, "d", 0755));
	snprintf(path, sizeof(path), "%s/d", p->path);
	probe_result(p, "truncate(directory)", truncate(path, 0), errno);
}

static void mapping(struct probe *p)
{
	fill_pattern(3);
	int fd = F(openat(p->dir, "m", O_RDWR | O_CREAT, 0644));
	T(write(fd, pattern, 3 * 4096 + 100));
	char *shared = mmap(NULL, 4 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	char *private = mmap(NULL, 4 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	if (shared == MAP_FAILED || private == MAP_FAILED) {
		probe_say(p, "mmap: %s", strerrorname_np(errno));
		return;
	}
	probe_bytes(p, "mapped", shared, 3 * 4096 + 100);
	memcpy(shared + 4000, "written through the mapping", 27);
	memcpy(private, "private only", 12);
	char buf[32] = "";
	T(pread(fd, buf, 27, 4000));
	probe_bytes(p, "read of it", buf, 27);
	T(pwrite(fd, "by write", 8, 8200));
	probe_bytes(p, "seen in the mapping", shared + 8200, 8);
	T(msync(shared, 4 * 4096, MS_SYNC));
	probe_content(p, "m");
	memcpy(shared + 3 * 4096, "end", 3);
	memset(shared + 3 * 4096 + 100, 'z', 50); /* behind the end of the file */
	T(munmap(shared, 4 * 4096));
	T(munmap(private, 4 * 4096));
	T(close(fd));
	probe_content(p, "m");
	fd = F(openat(p->dir, "m", O_RDONLY));
	shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	probe_say(p, "writable mapping of a read-only descriptor: %s", shared == MAP_FAILED ? strerrorname_np(errno) : "works");
	T(close(fd));
	fd = F(openat(p->dir, "m2", O_RDWR | O_CREAT, 0644));
	T(ftruncate(fd, 1 << 20));
	shared = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	T(close(fd)); /* the mapping keeps it */
	for (int i = 0; i < 1 << 20; i += 5000)
		shared[i] = (char)(i / 5000 + 1);
	T(munmap(shared, 1 << 20));
	probe_content(p, "m2");
}

static void holes(struct probe *p)
{
	fill_pattern(4);
	int fd = F(openat(p->dir, "h", O_RDWR | O_CREAT, 0644));
	T(write(fd, pattern, 400 * KIB));
	T(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 64 * KIB, 128 * KIB));
	probe_content(p, "h");
	T(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 5000, 3000));
	probe_content(p, "h");
	T(fallocate(fd, FALLOC_FL_ZERO_RANGE, 300 * KIB, 50 * KIB));
	probe_content(p, "h");
	T(lseek(fd, 0, SEEK_HOLE));
	T(lseek(fd, 64 * KIB, SEEK_DATA));
	T(lseek(fd, 100 * KIB, SEEK_HOLE));
	T(lseek(fd, 500 * KIB, SEEK_DATA));
	T(lseek(fd, 400 * KIB, SEEK_HOLE));
	T(fallocate(fd, 0, 390 * KIB, 100 * KIB));
	probe_fstat(p, fd);
	T(fallocate(fd, FALLOC_FL_KEEP_SIZE, 1 * MIB, 100 * KIB));
	probe_fstat(p, fd);
	T(fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, 4096));
	T(fallocate(fd, 0, 0, 0));
	T(fallocate(fd, 0, -1, 10));
	T(posix_fallocate(fd, 0, 2 * MIB));
	probe_fstat(p, fd);
	T(close(fd));
	fd = F(openat(p->dir, "h", O_RDONLY));
	T(fallocate(fd, 0, 0, 10));
	T(close(fd));
}

static void sparse_and_large(struct probe *p)
{
	char buf[64] = "";
	int fd = F(openat(p->dir, "big", O_RDWR | O_CREAT, 0644));

	T(pwrite(fd, "at 5 GiB", 8, 5 * GIB));
	T(pwrite(fd, "at 4 GiB minus 3", 16, 4 * GIB - 3));
	T(pread(fd, buf, 16, 4 * GIB - 3));
	probe_bytes(p, "across 4 GiB", buf, 16);
	T(pread(fd, buf, 64, 5 * GIB));
	T(lseek(fd, 0, SEEK_DATA));
	T(lseek(fd, 0, SEEK_HOLE));
	T(lseek(fd, 5 * GIB - 100 * MIB, SEEK_DATA));
	T(lseek(fd, 0, SEEK_END));
	struct stat st;
	T(fstat(fd, &st));
	probe_say(p, "sparse: %d", st.st_blocks < 1000);
	T(ftruncate(fd, 6 * GIB));
	T(pread(fd, buf, 8, 5 * GIB));
	T(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 5 * GIB, 4096));
	T(pread(fd, buf, 8, 5 * GIB));
	probe_bytes(p, "punched", buf, 8);
	T(close(fd));
	probe_stat(p, "big");
	T(unlinkat(p->dir, "big", 0));
}

static void copying(struct probe *p)
{
	fill_pattern(5);
	off_t from, to;
	int a = F(openat(p->dir, "a", O_RDWR | O_CREAT, 0644)), b = F(openat(p->dir, "b", O_RDWR | O_CREAT, 0644));

	T(write(a, pattern, 300000));
	from = 0, to = 0;
	T(copy_file_range(a, &from, b, &to, 300000, 0));
	probe_content(p, "b");
	from = 1000, to = 150000;
	T(copy_file_range(a, &from, b, &to, 1000, 0));
	from = 299990, to = 0;
	T(copy_file_range(a, &from, b, &to, 1000, 0));
	from = 400000, to = 0;
	T(copy_file_range(a, &from, b, &to, 1000, 0));
	from = 0, to = 100;
	T(copy_file_range(a, &from, a, &to, 1000, 0));
	from = 0, to = 200000;
	T(copy_file_range(a, &from, a, &to, 1000, 0));
	probe_content(p, "a");
	probe_content(p, "b");
	int c = F(openat(p->dir, "c", O_WRONLY | O_CREAT, 0644));
	from = 0;
	T(sendfile(c, a, &from, 200000));
	T(sendfile(c, a, &from, 200000));
	probe_content(p, "c");
	int pipe_fds[2];
	T(pipe(pipe_fds));
	from = 10;
	T(splice(a, &from, pipe_fds[1], NULL, 50000, 0));
	to = 3;
	T(splice(pipe_fds[0], NULL, c, &to, 50000, 0));
	probe_content(p, "c");
	T(close(a));
	T(close(b));
	T(close(c));
}

static void direct(struct probe *p)
{
	char *aligned;

	fill_pattern(6);
	if (posix_memalign((void **)&aligned, 4096, 64 * KIB))
		abort();
	memcpy(aligned, pattern, 64 * KIB);
	int fd = F(openat(p->dir, "direct", O_RDWR | O_CREAT | O_DIRECT, 0644));
	T(write(fd, aligned, 64 * KIB));
	T(pwrite(fd, aligned, 4096, 128 * KIB));
	memset(aligned, 0, 64 * KIB);
	T(pread(fd, aligned, 16 * KIB, 4096));
	probe_bytes(p, "read directly", aligned, 16 * KIB);
	int buffered = F(openat(p->dir, "direct", O_RDWR));
	T(pwrite(buffered, "buffered", 8, 10));
	T(pread(fd, aligned, 4096, 0));
	probe_bytes(p, "direct read of a buffered write", aligned, 4096);
	memset(aligned, 'd', 4096);
	T(pwrite(fd, aligned, 4096, 4096));
	T(pread(buffered, aligned, 4096, 4096));
	probe_bytes(p, "buffered read of a direct write", aligned, 4096);
	T(pread(fd, aligned, 4096, 128 * KIB + 4096));
	T(close(fd));
	T(close(buffered));
	probe_content(p, "direct");
	free(aligned);
}

static void syncing(struct probe *p)
{
	int fd = F(openat(p->dir, "s", O_RDWR | O_CREAT | O_SYNC, 0644));

	T(write(fd, "synchronous", 11));
	T(fsync(fd));
	T(fdatasync(fd));
	T(sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE));
	T(syncfs(fd));
	T(fsync(p->dir));
	T(fdatasync(p->dir));
	T(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED));
	T(readahead(fd, 0, 4096));
	T(close(fd));
	fd = F(openat(p->dir, "s", O_RDWR | O_DSYNC));
	T(pwrite(fd, "more", 4, 3));
	T(close(fd));
	probe_content(p, "s");
}

static void two_writers(struct probe *p)
{
	fill_pattern(7);
	int a = F(openat(p->dir, "w", O_RDWR | O_CREAT, 0644)), b = F(openat(p->dir, "w", O_RDWR));

	for (int i = 0; i < 100; i++)
		if (pwrite(i % 2 ? a : b, pattern + i * 1000, 1000, i * 1000) != 1000)
			probe_say(p, "write %d: %s", i, strerrorname_np(errno));
	T(close(a));
	T(pwrite(b, "tail", 4, 100000));
	probe_content(p, "w");
	T(close(b));
	a = F(openat(p->dir, "w", O_RDWR | O_TRUNC));
	T(write(a, "short", 5));
	T(close(a));
	probe_content(p, "w");
}

const struct scenario posix_content[] = {
	{"writing", writing, AS_BOTH}, {"appending", appending, AS_BOTH}, {"truncating", truncating, AS_BOTH}, {"mapping", mapping, AS_BOTH},
	{"holes", holes, AS_BOTH}, {"sparse_and_large", sparse_and_large, AS_BOTH}, {"copying", copying, AS_BOTH}, {"direct", direct, AS_BOTH},
	{"syncing", syncing, AS_BOTH}, {"two_writers", two_writers, AS_BOTH}, {0}};
