/* SPDX-License-Identifier: Apache-2.0 */
/* bench_replication.c — times what a person sees: saves made in one directory (a source's mount) until they are seen in others
 * (targets' mounts, or copies that another tool keeps). Knows nothing of cdmfs, so rsync and others can be measured alike.
 *
 *   bench_replication latency   SOURCE TARGET… [count=200] [size=10240]
 *   bench_replication inplace   SOURCE TARGET… [count=10] [size=1073741824] [change=4096]
 *   bench_replication rename    SOURCE TARGET… [count=5] [files=5000]
 *   bench_replication sustained SOURCE TARGET… [rate=200] [seconds=60] [size=4096] [files=50]
 *   bench_replication append    SOURCE TARGET… [count=50] [size=1048576]
 *
 * Prints one line of figures; exit 1 when something is missing or stale after the deadline. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define TARGETS_MAX 32
#define DEADLINE_NS (120ll * 1000000000ll)

struct bench {
	const char *source;
	const char *targets[TARGETS_MAX];
	int target_count;
	int64_t count, size, change, files, rate, seconds;
	double *samples_ms; /* count × targets: until each target had it; and the slowest of each round */
	int sample_count;
};

static int64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void pause_us(long us)
{
	struct timespec t = {us / 1000000, us % 1000000 * 1000};
	nanosleep(&t, NULL);
}

static void die(const char *what, const char *path)
{
	fprintf(stderr, "bench_replication: %s %s: %s\n", what, path, strerror(errno));
	exit(1);
}

static void fill(char *buf, size_t len, uint64_t seed)
{
	for (size_t i = 0; i + 8 <= len; i += 8) {
		seed = seed * 6364136223846793005ull + 1442695040888963407ull;
		memcpy(buf + i, &seed, 8);
	}
}

static void save(const char *path, const char *buf, size_t len)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	if (fd < 0)
		die("open", path);
	if (write(fd, buf, len) != (ssize_t)len)
		die("write", path);
	if (close(fd) < 0)
		die("close", path);
}

static bool same_content(const char *path, const char *want, size_t len)
{
	int fd = open(path, O_RDONLY);
	if (fd < 0)
		return false;
	struct stat st;
	bool same = false;
	if (fstat(fd, &st) == 0 && (size_t)st.st_size == len) {
		char *got = malloc(len + 1);
		same = got && pread(fd, got, len, 0) == (ssize_t)len && memcmp(got, want, len) == 0;
		free(got);
	}
	close(fd);
	return same;
}

/* Wait until seen(target, arg) holds on every target; the time from `start` until the last of them goes into the samples. */
static void wait_all(struct bench *b, int64_t start, bool (*seen)(const char *target, void *arg), void *arg)
{
	bool done[TARGETS_MAX] = {false};
	int left = b->target_count;
	while (left > 0) {
		for (int i = 0; i < b->target_count; i++) {
			if (!done[i] && seen(b->targets[i], arg)) {
				done[i] = true;
				left--;
			}
		}
		if (left > 0 && now_ns() - start > DEADLINE_NS) {
			fprintf(stderr, "bench_replication: %d of %d targets lack it after %lld s\n", left, b->target_count,
				(long long)(DEADLINE_NS / 1000000000));
			exit(1);
		}
		if (left > 0)
			pause_us(100);
	}
	b->samples_ms[b->sample_count++] = (double)(now_ns() - start) / 1e6;
}

static int compare_double(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return x < y ? -1 : x > y;
}

static void report(struct bench *b, const char *what)
{
	qsort(b->samples_ms, (size_t)b->sample_count, sizeof(double), compare_double);
	int n = b->sample_count;
	printf("%-10s on %d targets: median %.2f ms  p95 %.2f ms  max %.2f ms  (%d rounds)\n", what, b->target_count,
		b->samples_ms[n / 2], b->samples_ms[n * 95 / 100], b->samples_ms[n - 1], n);
}

struct content {
	const char *name, *bytes;
	size_t len;
	int64_t offset;
};

static bool content_seen(const char *target, void *arg)
{
	struct content *c = arg;
	char path[4096];
	snprintf(path, sizeof path, "%s/%s", target, c->name);
	return same_content(path, c->bytes, c->len);
}

static void run_latency(struct bench *b)
{
	char path[4096], name[64], *buf = malloc((size_t)b->size);
	for (int64_t i = 0; i < b->count; i++) {
		snprintf(name, sizeof name, "latency-%" PRId64 ".html", i % 100); /* the second half replaces the first */
		snprintf(path, sizeof path, "%s/%s", b->source, name);
		fill(buf, (size_t)b->size, (uint64_t)now_ns());
		save(path, buf, (size_t)b->size);
		struct content c = {name, buf, (size_t)b->size, 0};
		wait_all(b, now_ns(), content_seen, &c);
		pause_us(20000); /* idle between the saves */
	}
	free(buf);
	report(b, "latency");
}

static bool part_seen(const char *target, void *arg)
{
	struct content *c = arg;
	char path[4096], got[65536];
	snprintf(path, sizeof path, "%s/%s", target, c->name);
	int fd = open(path, O_RDONLY);
	if (fd < 0)
		return false;
	bool same = pread(fd, got, c->len, c->offset) == (ssize_t)c->len && memcmp(got, c->bytes, c->len) == 0;
	close(fd);
	return same;
}

static bool size_seen(const char *target, void *arg)
{
	struct content *c = arg;
	char path[4096];
	struct stat st;
	snprintf(path, sizeof path, "%s/%s", target, c->name);
	return stat(path, &st) == 0 && st.st_size == c->offset;
}

static void make_big_file(struct bench *b, const char *name)
{
	char path[4096], *buf = malloc(1 << 20);
	snprintf(path, sizeof path, "%s/%s", b->source, name);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	if (fd < 0)
		die("open", path);
	for (int64_t at = 0; at < b->size; at += 1 << 20) {
		fill(buf, 1 << 20, (uint64_t)at + 1);
		if (write(fd, buf, 1 << 20) != 1 << 20)
			die("write", path);
	}
	close(fd);
	free(buf);
	struct content c = {name, NULL, 0, b->size};
	int64_t start = now_ns();
	wait_all(b, start, size_seen, &c);
	printf("first copy of %lld MiB: %.2f s\n", (long long)(b->size >> 20), b->samples_ms[--b->sample_count] / 1000);
}

static void run_inplace(struct bench *b)
{
	const char *name = "big.bin";
	char path[4096], part[65536];
	if (b->change > (int64_t)sizeof part)
		b->change = sizeof part;
	make_big_file(b, name);
	snprintf(path, sizeof path, "%s/%s", b->source, name);
	for (int64_t i = 0; i < b->count; i++) {
		int64_t offset = (int64_t)((uint64_t)(i * 2654435761u) % (uint64_t)(b->size / 4096)) * 4096;
		fill(part, (size_t)b->change, (uint64_t)now_ns());
		int fd = open(path, O_WRONLY);
		if (fd < 0 || pwrite(fd, part, (size_t)b->change, offset) != b->change || close(fd) < 0)
			die("change", path);
		struct content c = {name, part, (size_t)b->change, offset};
		wait_all(b, now_ns(), part_seen, &c);
		pause_us(50000);
	}
	report(b, "in place");
}

static bool name_seen(const char *target, void *arg)
{
	struct content *c = arg;
	char path[4096];
	struct stat st;
	snprintf(path, sizeof path, "%s/%s", target, c->name);
	return stat(path, &st) == 0;
}

static void run_rename(struct bench *b)
{
	char dir[4096], path[4200], to[4096], name[64];
	snprintf(dir, sizeof dir, "%s/many-0", b->source);
	if (mkdir(dir, 0755) < 0)
		die("mkdir", dir);
	for (int64_t i = 0; i < b->files; i++) {
		snprintf(path, sizeof path, "%s/%" PRId64 ".txt", dir, i);
		save(path, "a small page\n", 13);
	}
	snprintf(name, sizeof name, "many-0/%" PRId64 ".txt", b->files - 1);
	struct content last = {name, "a small page\n", 13, 0};
	wait_all(b, now_ns(), content_seen, &last);
	b->sample_count--;
	for (int64_t i = 0; i < b->count; i++) {
		snprintf(dir, sizeof dir, "%s/many-%" PRId64, b->source, i);
		snprintf(to, sizeof to, "%s/many-%" PRId64, b->source, i + 1);
		pause_us(200000);
		if (rename(dir, to) < 0)
			die("rename", dir);
		snprintf(name, sizeof name, "many-%" PRId64, i + 1);
		struct content c = {name, NULL, 0, 0};
		wait_all(b, now_ns(), name_seen, &c);
	}
	report(b, "rename");
}

static void run_append(struct bench *b)
{
	char path[4096], part[4096];
	make_big_file(b, "append.log");
	snprintf(path, sizeof path, "%s/append.log", b->source);
	for (int64_t i = 0, end = b->size; i < b->count; i++, end += (int64_t)sizeof part) {
		fill(part, sizeof part, (uint64_t)now_ns());
		int fd = open(path, O_WRONLY | O_APPEND);
		if (fd < 0 || write(fd, part, sizeof part) != (ssize_t)sizeof part || close(fd) < 0)
			die("append", path);
		struct content c = {"append.log", part, sizeof part, end};
		wait_all(b, now_ns(), part_seen, &c);
	}
	report(b, "append");
}

/* Saves at a fixed rate over a few files, each twice in a row with the same size now and then; every 20th is watched. */
static void run_sustained(struct bench *b)
{
	char path[4096], name[64];
	char *last = malloc((size_t)(b->files * b->size)), *buf = malloc((size_t)b->size);
	int64_t total = b->rate * b->seconds, start = now_ns(), late = 0;
	for (int64_t i = 0; i < total; i++) {
		int64_t due = start + i * 1000000000ll / b->rate, wait = due - now_ns();
		if (wait > 0)
			pause_us((long)(wait / 1000));
		else if (wait < -1000000000ll)
			late++;
		int64_t which = i / 2 % b->files; /* twice in a row */
		fill(buf, (size_t)b->size, (uint64_t)i + 1);
		snprintf(name, sizeof name, "sustained-%" PRId64 ".html", which);
		snprintf(path, sizeof path, "%s/%s", b->source, name);
		save(path, buf, (size_t)b->size);
		memcpy(last + which * b->size, buf, (size_t)b->size);
		if (i % 20 == 1) {
			struct content c = {name, buf, (size_t)b->size, 0};
			wait_all(b, now_ns(), content_seen, &c);
		}
	}
	double took = (double)(now_ns() - start) / 1e9;
	int64_t settle = now_ns();
	for (int64_t f = 0; f < b->files; f++) {
		snprintf(name, sizeof name, "sustained-%" PRId64 ".html", f);
		struct content c = {name, last + f * b->size, (size_t)b->size, 0};
		wait_all(b, settle, content_seen, &c);
		b->sample_count--;
	}
	printf("sustained: %" PRId64 " saves in %.1f s, %" PRId64 " over a second late, all right %.1f ms after the last\n", total,
		took, late, (double)(now_ns() - settle) / 1e6);
	report(b, "lag");
	free(last);
	free(buf);
}

static void parse(struct bench *b, int argc, char **argv)
{
	const struct {
		const char *key;
		int64_t *value;
	} options[] = {{"count=", &b->count}, {"size=", &b->size}, {"change=", &b->change}, {"files=", &b->files},
		{"rate=", &b->rate}, {"seconds=", &b->seconds}};
	b->source = argv[2];
	for (int i = 3; i < argc; i++) {
		bool option = false;
		for (size_t k = 0; k < sizeof options / sizeof *options; k++) {
			size_t n = strlen(options[k].key);
			if (strncmp(argv[i], options[k].key, n) == 0) {
				*options[k].value = atoll(argv[i] + n);
				option = true;
			}
		}
		if (!option && b->target_count < TARGETS_MAX)
			b->targets[b->target_count++] = argv[i];
	}
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(struct bench *);
		struct bench defaults;
	} modes[] = {
		{"latency", run_latency, {.count = 200, .size = 10240}},
		{"inplace", run_inplace, {.count = 10, .size = 1 << 30, .change = 4096}},
		{"rename", run_rename, {.count = 5, .files = 5000}},
		{"append", run_append, {.count = 50, .size = 1 << 20}},
		{"sustained", run_sustained, {.rate = 200, .seconds = 60, .size = 4096, .files = 50}},
	};
	if (argc < 4) {
		fprintf(stderr, "usage: bench_replication latency|inplace|rename|append|sustained SOURCE TARGET… [key=value]…\n");
		return 2;
	}
	for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
		if (strcmp(argv[1], modes[i].name) != 0)
			continue;
		struct bench b = modes[i].defaults;
		parse(&b, argc, argv);
		int64_t rounds = b.count + b.rate * b.seconds + b.files + 16;
		b.samples_ms = calloc((size_t)rounds, sizeof(double));
		modes[i].run(&b);
		free(b.samples_ms);
		return 0;
	}
	fprintf(stderr, "bench_replication: unknown benchmark %s\n", argv[1]);
	return 2;
}
