/* SPDX-License-Identifier: Apache-2.0 */
/* Depth first; memory for one directory stream per level. */
#include "cdmfs/walk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "common/io.h"
#include "common/log.h"

struct walk {
	struct fs *fs;
	walk_fn *fn;
	void *arg;
	char path[CDM_PATH_MAX];
	size_t len;
	unsigned depth;
};

static int walk_directory(struct walk *w, int fd);

/* Puts the name behind the path; returns the old length, or -ENAMETOOLONG. */
static ssize_t push_name(struct walk *w, const char *name)
{
	size_t old = w->len, n = strlen(name);

	if (old + n + 2 > sizeof(w->path))
		return -ENAMETOOLONG;
	if (old)
		w->path[w->len++] = '/';
	memcpy(w->path + w->len, name, n + 1);
	w->len += n;
	return (ssize_t)old;
}

static int visit(struct walk *w, int dirfd, const char *name)
{
	struct stat st;
	int r, fd;

	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (st.st_dev != w->fs->store.dev)
		return 0;
	r = w->fn(w->fs, &(struct walk_entry){dirfd, name, w->path, w->len, &st}, w->arg);
	if (r < 0 || !S_ISDIR(st.st_mode))
		return r;
	fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT || errno == ENOTDIR ? 0 : -errno;
	return walk_directory(w, fd);
}

static int walk_entry(struct walk *w, int dirfd, const struct dirent *e)
{
	ssize_t old;
	int r;

	if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 || (w->len == 0 && strcmp(e->d_name, META_DIR) == 0))
		return 0;
	old = push_name(w, e->d_name);
	if (old < 0)
		return 0;
	r = visit(w, dirfd, e->d_name);
	w->len = old;
	w->path[old] = 0;
	return r;
}

/* Consumes fd. */
static int walk_directory(struct walk *w, int fd)
{
	DIR *dir;
	struct dirent *e;
	int r = 0;

	if (w->depth >= WALK_DEPTH_MAX) {
		cdm_log(walk_too_deep, cdm_str("path", w->path));
		close(fd);
		return 0;
	}
	dir = fdopendir(fd);
	if (!dir) {
		r = -errno;
		close(fd);
		return r;
	}
	w->depth++;
	while (r == 0 && (errno = 0, e = readdir(dir)))
		r = walk_entry(w, dirfd(dir), e);
	if (r == 0 && errno)
		r = -errno;
	w->depth--;
	closedir(dir);
	return r;
}

static int walk_from(struct walk *w)
{
	const char *name;
	_cleanup_close_ int fd = -1;
	int r;

	if (w->len == 0) {
		r = openat(w->fs->store.root_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		return r < 0 ? -errno : walk_directory(w, r);
	}
	fd = cdm_open_parent(w->fs->store.root_fd, w->path, w->len, &name);
	if (fd < 0)
		return fd == -ENOENT ? 0 : fd;
	_cleanup_free_ char *last = strdup(name);
	return last ? visit(w, fd, last) : -ENOMEM;
}

int walk_tree(struct fs *fs, const char *path, size_t len, walk_fn *fn, void *arg)
{
	struct walk *w;
	int r;

	if (len >= CDM_PATH_MAX)
		return -ENAMETOOLONG;
	w = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;
	w->fs = fs;
	w->fn = fn;
	w->arg = arg;
	memcpy(w->path, path, len);
	w->len = len;
	r = walk_from(w);
	free(w);
	return r;
}
