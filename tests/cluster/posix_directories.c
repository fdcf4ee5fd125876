/* SPDX-License-Identifier: Apache-2.0 */
/* posix_directories.c — reading directories: types, inode numbers, seeking, changes meanwhile, many entries. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include "tests/cluster/posix.h"

static void make_files(struct probe *p, const char *dir, int count)
{
	char name[300];

	if (mkdirat(p->dir, dir, 0755) < 0)
		probe_say(p, "mkdir: %s", strerrorname_np(errno));
	int d = openat(p->dir, dir, O_RDONLY | O_DIRECTORY);
	for (int i = 0; i < count; i++) {
		snprintf(name, sizeof(name), "file-%06d", i);
		int fd = openat(d, name, O_WRONLY | O_CREAT | O_EXCL, 0644);
		if (fd < 0) {
			probe_say(p, "create %s: %s", name, strerrorname_np(errno));
			break;
		}
		close(fd);
	}
	close(d);
}

static DIR *open_dir(struct probe *p, const char *name)
{
	int fd = openat(p->dir, name, O_RDONLY | O_DIRECTORY);

	return fd < 0 ? NULL : fdopendir(fd);
}

static int compare_lines(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void types_and_numbers(struct probe *p)
{
	struct dirent *e;
	char *lines[64];
	size_t count = 0;

	T(mkdirat(p->dir, "d", 0755));
	T(mkdirat(p->dir, "d/dir", 0755));
	T(mknodat(p->dir, "d/file", S_IFREG | 0644, 0));
	T(mknodat(p->dir, "d/fifo", S_IFIFO | 0644, 0));
	T(mknodat(p->dir, "d/socket", S_IFSOCK | 0644, 0));
	T(mknodat(p->dir, "d/chr", S_IFCHR | 0644, makedev(1, 3)));
	T(symlinkat("x", p->dir, "d/link"));
	T(linkat(p->dir, "d/file", p->dir, "d/hard", 0));
	DIR *d = open_dir(p, "d");
	while (d && (e = readdir(d)) && count < 64) {
		struct stat st;
		int r = fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW);
		if (asprintf(&lines[count], "entry %s type %d as stat %d number as stat %d", e->d_name, e->d_type, r == 0 && IFTODT(st.st_mode) == e->d_type,
			r == 0 && st.st_ino == e->d_ino) > 0)
			count++;
	}
	if (d)
		closedir(d);
	qsort(lines, count, sizeof(*lines), compare_lines);
	for (size_t i = 0; i < count; i++) {
		probe_say(p, "%s", lines[i]);
		free(lines[i]);
	}
}

/* Every telldir position leads back to the entry that followed it. */
static void seeking(struct probe *p)
{
	enum { COUNT = 3000 };
	static long positions[COUNT + 10];
	static char *names[COUNT + 10];
	int n = 0, wrong = 0;
	struct dirent *e;

	make_files(p, "d", COUNT);
	DIR *d = open_dir(p, "d");
	for (long at = telldir(d); n < COUNT + 10 && (e = readdir(d)); at = telldir(d), n++) {
		positions[n] = at;
		names[n] = strdup(e->d_name);
	}
	probe_say(p, "entries %d", n);
	for (int i = n - 1; i >= 0; i -= 7) {
		seekdir(d, positions[i]);
		e = readdir(d);
		wrong += !e || strcmp(e->d_name, names[i]) != 0;
	}
	probe_say(p, "wrong after seekdir: %d", wrong);
	rewinddir(d);
	int again = 0;
	while (readdir(d))
		again++;
	probe_say(p, "after rewinddir: %d", again);
	closedir(d);
	for (int i = 0; i < n; i++)
		free(names[i]);
}

static void removing_while_reading(struct probe *p)
{
	struct dirent *e;
	int removed = 0;

	make_files(p, "d", 2000);
	DIR *d = open_dir(p, "d");
	while ((e = readdir(d)))
		if (e->d_name[0] != '.' && unlinkat(dirfd(d), e->d_name, 0) == 0)
			removed++;
	closedir(d);
	probe_say(p, "removed %d", removed);
	T(unlinkat(p->dir, "d", AT_REMOVEDIR));
}

static void sees_changes(struct probe *p)
{
	struct dirent *e;
	int count = 0, seen = 0;

	make_files(p, "d", 10);
	DIR *d = open_dir(p, "d");
	while (readdir(d))
		count++;
	T(mkdirat(p->dir, "d/new", 0755));
	T(unlinkat(p->dir, "d/file-000003", 0));
	T(renameat(p->dir, "d/file-000004", p->dir, "d/renamed"));
	rewinddir(d);
	while ((e = readdir(d))) {
		seen++;
		if (strcmp(e->d_name, "file-000003") == 0 || strcmp(e->d_name, "file-000004") == 0)
			probe_say(p, "stale %s", e->d_name);
	}
	probe_say(p, "first %d, then %d", count, seen);
	T(mknodat(p->dir, "d/later", S_IFREG | 0600, 0));
	rewinddir(d);
	for (count = 0; readdir(d); count++)
		;
	probe_say(p, "later %d", count);
	closedir(d);
}

static void hundred_thousand(struct probe *p)
{
	enum { COUNT = 100000 };
	uint8_t *seen = calloc(1, COUNT);
	struct dirent *e;
	int count = 0, twice = 0;
	struct stat st;

	make_files(p, "d", COUNT);
	DIR *d = open_dir(p, "d");
	while ((e = readdir(d))) {
		int i;
		if (sscanf(e->d_name, "file-%d", &i) != 1 || i < 0 || i >= COUNT)
			continue;
		count++;
		twice += seen[i];
		seen[i] = 1;
	}
	closedir(d);
	probe_say(p, "read %d, twice %d", count, twice);
	T(fstatat(p->dir, "d/file-054321", &st, 0));
	T(fstatat(p->dir, "d/file-100000", &st, 0));
	T(renameat(p->dir, "d/file-000000", p->dir, "d/file-099999"));
	int fd = openat(p->dir, "d", O_RDONLY | O_DIRECTORY), removed = 0;
	for (int i = 1; i < COUNT; i++) {
		char name[32];
		snprintf(name, sizeof(name), "file-%06d", i);
		removed += unlinkat(fd, name, 0) == 0;
	}
	close(fd);
	probe_say(p, "removed %d", removed);
	T(unlinkat(p->dir, "d", AT_REMOVEDIR));
	free(seen);
}

static void many_subdirectories(struct probe *p)
{
	struct stat st;
	char name[64];

	T(mkdirat(p->dir, "d", 0755));
	for (int i = 0; i < 500; i++) {
		snprintf(name, sizeof(name), "d/sub-%d", i);
		if (mkdirat(p->dir, name, 0755) < 0)
			probe_say(p, "%s: %s", name, strerrorname_np(errno));
	}
	T(fstatat(p->dir, "d", &st, 0));
	probe_say(p, "links %lu", (unsigned long)st.st_nlink);
	for (int i = 0; i < 500; i += 2) {
		snprintf(name, sizeof(name), "d/sub-%d", i);
		if (unlinkat(p->dir, name, AT_REMOVEDIR) < 0)
			probe_say(p, "%s: %s", name, strerrorname_np(errno));
	}
	T(fstatat(p->dir, "d", &st, 0));
	probe_say(p, "links %lu", (unsigned long)st.st_nlink);
	T(unlinkat(p->dir, "d", AT_REMOVEDIR));
}

const struct scenario posix_directories[] = {
	{"types_and_numbers", types_and_numbers, AS_BOTH}, {"seeking", seeking, AS_BOTH}, {"removing_while_reading", removing_while_reading, AS_BOTH},
	{"sees_changes", sees_changes, AS_BOTH}, {"many_subdirectories", many_subdirectories, AS_BOTH}, {"hundred_thousand", hundred_thousand, AS_ROOT}, {0}};
