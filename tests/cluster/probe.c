/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/cluster/probe.h"

#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>
#include "common/error.h"

#define SCENARIO_SECONDS 120
#define XATTR_BYTES 65536

void probe_say(struct probe *p, const char *fmt, ...)
{
	char line[8192];
	va_list ap;

	va_start(ap, fmt);
	int n = vsnprintf(line, sizeof(line) - 1, fmt, ap);
	va_end(ap);
	if (n >= (int)sizeof(line) - 1)
		n = (int)sizeof(line) - 2;
	line[n++] = '\n';
	if (p->len + (size_t)n + 1 > p->room) {
		p->room = (p->len + (size_t)n) * 2 + 65536;
		p->text = realloc(p->text, p->room);
		if (!p->text)
			abort();
	}
	memcpy(p->text + p->len, line, (size_t)n);
	p->len += (size_t)n;
	p->text[p->len] = 0;
}

void probe_result(struct probe *p, const char *call, long result, int error)
{
	if (result < 0)
		probe_say(p, "%s = %ld %s", call, result, strerrorname_np(error));
	else
		probe_say(p, "%s = %ld", call, result);
}

int probe_fd(struct probe *p, const char *call, int fd, int error)
{
	if (fd < 0)
		probe_say(p, "%s = %s", call, strerrorname_np(error));
	else
		probe_say(p, "%s = fd", call);
	return fd;
}

static void say_stat(struct probe *p, const char *what, const struct stat *st)
{
	probe_say(p, "%s: mode %o uid %u gid %u links %lu size %lld rdev %lx", what, st->st_mode, st->st_uid, st->st_gid,
		(unsigned long)st->st_nlink, S_ISDIR(st->st_mode) ? 0ll : (long long)st->st_size, (unsigned long)st->st_rdev);
}

void probe_stat(struct probe *p, const char *name)
{
	struct stat st;

	if (fstatat(p->dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		probe_say(p, "stat %s: %s", name, strerrorname_np(errno));
	else
		say_stat(p, name, &st);
}

void probe_fstat(struct probe *p, int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		probe_say(p, "fstat: %s", strerrorname_np(errno));
	else
		say_stat(p, "fstat", &st);
}

static uint64_t hash_bytes(uint64_t h, const uint8_t *b, size_t len)
{
	for (size_t i = 0; i < len; i++)
		h = (h ^ b[i]) * 0x100000001b3ull;
	return h;
}

void probe_bytes(struct probe *p, const char *what, const void *bytes, ssize_t len)
{
	size_t n = len < 0 ? 0 : (size_t)len;

	probe_say(p, "%s: %zd bytes, hash %016lx", what, len, (unsigned long)hash_bytes(0xcbf29ce484222325ull, bytes, n));
}

void probe_content(struct probe *p, const char *name)
{
	static uint8_t buf[65536];
	uint64_t h = 0xcbf29ce484222325ull;
	long long total = 0;
	ssize_t n = -1;
	_cleanup_close_ int fd = openat(p->dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);

	while (fd >= 0 && (n = read(fd, buf, sizeof(buf))) > 0) {
		h = hash_bytes(h, buf, (size_t)n);
		total += n;
	}
	if (n < 0)
		probe_say(p, "content of %s: %s", name, strerrorname_np(errno));
	else
		probe_say(p, "content of %s: %lld bytes, hash %016lx", name, total, (unsigned long)h);
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

void probe_xattrs(struct probe *p, const char *name)
{
	static char list[XATTR_BYTES], value[XATTR_BYTES];
	char path[600], *names[512];
	size_t count = 0;

	snprintf(path, sizeof(path), "%s/%s", p->path, name);
	ssize_t n = llistxattr(path, list, sizeof(list));
	if (n < 0) {
		probe_say(p, "xattrs of %s: %s", name, strerrorname_np(errno));
		return;
	}
	for (char *s = list; s < list + n && count < 512; s += strlen(s) + 1)
		if (strncmp(s, "trusted.cdmfs.", 14) != 0)
			names[count++] = s;
	qsort(names, count, sizeof(*names), compare_names);
	for (size_t i = 0; i < count; i++) {
		ssize_t len = lgetxattr(path, names[i], value, sizeof(value));
		probe_say(p, "xattr of %s: %s", name, names[i]);
		probe_bytes(p, names[i], value, len);
	}
}

struct probe_times probe_times(struct probe *p, const char *name)
{
	struct stat st;

	if (fstatat(p->dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return (struct probe_times){0};
	return (struct probe_times){st.st_atim.tv_sec * 1000000000ll + st.st_atim.tv_nsec, st.st_mtim.tv_sec * 1000000000ll + st.st_mtim.tv_nsec,
		st.st_ctim.tv_sec * 1000000000ll + st.st_ctim.tv_nsec};
}

void probe_times_changed(struct probe *p, const char *what, const char *name, struct probe_times before)
{
	struct probe_times now = probe_times(p, name);

	probe_say(p, "%s: times of %s:%s%s", what, name, now.m_ns != before.m_ns ? " m" : "", now.c_ns != before.c_ns ? " c" : "");
}

void probe_tick(void)
{
	struct timespec start, now;

	clock_gettime(CLOCK_REALTIME_COARSE, &start);
	do
		clock_gettime(CLOCK_REALTIME_COARSE, &now);
	while (now.tv_sec * 1000000000ll + now.tv_nsec < start.tv_sec * 1000000000ll + start.tv_nsec + 10000000);
}

/* --- running it twice --- */

static void become(enum probe_user user)
{
	const gid_t groups[] = {PROBE_GID2};

	umask(022);
	if (user == AS_ROOT)
		return;
	if (setgroups(1, groups) < 0 || setresgid(PROBE_GID, PROBE_GID, PROBE_GID) < 0 || setresuid(PROBE_UID, PROBE_UID, PROBE_UID) < 0)
		abort();
}

static void list_tree(struct probe *p, int dir, const char *prefix)
{
	DIR *d = fdopendir(dup(dir));
	char *names[4096];
	size_t count = 0;
	struct dirent *e;

	rewinddir(d);
	while (count < 4096 && (e = readdir(d)))
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			names[count++] = strdup(e->d_name);
	closedir(d);
	qsort(names, count, sizeof(*names), compare_names);
	for (size_t i = 0; i < count; i++) {
		char path[4096];
		struct stat st;
		snprintf(path, sizeof(path), "%s%s", prefix, names[i]);
		probe_stat(p, path);
		if (fstatat(p->dir, path, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) && st.st_size < (64 << 20))
			probe_content(p, path);
		int sub = S_ISDIR(st.st_mode) ? openat(dir, names[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
		if (sub >= 0 && strlen(path) < 2000) {
			strcat(path, "/");
			list_tree(p, sub, path);
		}
		if (sub >= 0)
			close(sub);
		free(names[i]);
	}
}

static char *read_to_end(int fd)
{
	size_t len = 0, room = 65536;
	char *text = malloc(room);
	ssize_t n;

	while (text && (n = read(fd, text + len, room - len - 1)) > 0) {
		len += (size_t)n;
		if (room - len < 4096)
			text = realloc(text, room *= 2);
	}
	if (!text)
		abort();
	text[len] = 0;
	return text;
}

static void in_child(const struct scenario *s, enum probe_user user, const char *path, int out)
{
	struct probe p = {.dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)};

	alarm(SCENARIO_SECONDS);
	snprintf(p.path, sizeof(p.path), "%s", path);
	if (p.dir < 0)
		abort();
	probe_say(&p, "--- %s", s->name);
	become(user);
	s->run(&p);
	for (size_t at = 0; at < p.len;) {
		ssize_t n = write(out, p.text + at, p.len - at);
		if (n <= 0)
			_exit(1);
		at += (size_t)n;
	}
	_exit(0);
}

static char *run_once(const struct scenario *s, enum probe_user user, const char *path)
{
	struct probe p = {0};
	int out[2], status;
	pid_t pid;

	assert_int_equal(mkdir(path, 0777), 0);
	assert_int_equal(chmod(path, 0777), 0);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0)
		in_child(s, user, path, out[1]);
	close(out[1]);
	char *text = read_to_end(out[0]);
	close(out[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	probe_say(&p, "--- what is left");
	if (status != 0)
		probe_say(&p, "the scenario ended with status %x", status);
	snprintf(p.path, sizeof(p.path), "%s", path);
	p.dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	list_tree(&p, p.dir, "");
	close(p.dir);
	char *all = malloc(strlen(text) + p.len + 1);
	strcpy(all, text);
	strcat(all, p.text);
	free(text);
	free(p.text);
	return all;
}

/* The lines where two transcripts part. Returns how many. */
static unsigned show_differences(const char *a, const char *b)
{
	unsigned count = 0, line = 1;

	while (*a || *b) {
		size_t la = strcspn(a, "\n"), lb = strcspn(b, "\n");
		if ((la != lb || memcmp(a, b, la) != 0) && count++ < 12)
			print_error("line %u\n  native: %.*s\n  mount:  %.*s\n", line, (int)(la > 300 ? 300 : la), a, (int)(lb > 300 ? 300 : lb), b);
		a += la + (a[la] != 0);
		b += lb + (b[lb] != 0);
		line++;
	}
	return count;
}

void probe_compare(const struct scenario *s, enum probe_user user, const char *native, const char *mount)
{
	char on_native[256], on_mount[256];
	const char *who = user == AS_ROOT ? "root" : "user";

	snprintf(on_native, sizeof(on_native), "%s/%s.%s", native, s->name, who);
	snprintf(on_mount, sizeof(on_mount), "%s/%s.%s", mount, s->name, who);
	char *a = run_once(s, user, on_native), *b = run_once(s, user, on_mount);
	unsigned differences = show_differences(a, b);
	free(a);
	free(b);
	if (differences)
		fail_msg("%s as %s: %u lines differ from native", s->name, who, differences);
}
