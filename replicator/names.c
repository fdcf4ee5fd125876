/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/names.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "common/change.h"
#include "common/io.h"

#define DEPTH_MAX 2048 /* directories open at once */

/* --- a list --- */

void names_fini(struct names *n)
{
	free(n->bytes);
	*n = (struct names){0};
}

const char *names_next(const struct names *n, size_t *at)
{
	const char *name = *at < n->len ? n->bytes + *at : NULL;
	*at += name ? strlen(name) + 1 : 0;
	return name;
}

static void add(struct names *n, const char *path, size_t len, size_t max)
{
	if (n->len + len + 1 > max) {
		n->more = true;
		return;
	}
	if (n->len + len + 1 > n->room) {
		n->room = 2 * (n->len + len + 1);
		n->bytes = realloc(n->bytes, n->room);
		if (!n->bytes)
			abort();
	}
	memcpy(n->bytes + n->len, path, len);
	n->bytes[n->len + len] = 0;
	n->len += len + 1;
}

/* Is this one of its names? 1, 0, or -errno. */
static int is_name_of(const struct stat *file, int dir, const char *name)
{
	struct stat st;
	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : -errno;
	return st.st_ino == file->st_ino && st.st_dev == file->st_dev;
}

/* --- a search --- */

struct search {
	ino_t only; /* 0: look at names of any file */
	names_look_fn *look;
	void *look_arg;
	names_go_on_fn *go_on;
	void *arg;
	char path[CDM_PATH_MAX];
	size_t len;
	unsigned depth;
	int unseen; /* -errno of what could not be looked at */
};

static int search_directory(struct search *s, int fd);

/* What is no directory that could be opened, for which there is this error. */
static void search_name(struct search *s, int dir, const struct dirent *e, int error)
{
	bool looks = !s->only || e->d_ino == s->only;
	int r = error != -ENOENT && error != -ENOTDIR && error != -ELOOP ? error : looks ? s->look(s->look_arg, dir, e->d_name, s->path, s->len) : 0;
	if (r < 0)
		s->unseen = r;
}

static int search_entry(struct search *s, int dir, const struct dirent *e)
{
	size_t before = s->len, len = strlen(e->d_name);
	bool directory = e->d_type == DT_DIR || e->d_type == DT_UNKNOWN;
	if (s->only && e->d_ino != s->only && !directory)
		return 0;
	if (before + len + 2 > sizeof s->path) {
		s->unseen = -ENAMETOOLONG;
		return 0;
	}
	if (before)
		s->path[s->len++] = '/';
	memcpy(s->path + s->len, e->d_name, len + 1);
	s->len += len;
	int fd = directory ? openat(dir, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -ENOTDIR;
	int r = fd >= 0 ? search_directory(s, fd) : 0;
	if (fd < 0)
		search_name(s, dir, e, fd == -1 ? -errno : fd);
	s->len = before;
	return r;
}

/* Consumes fd. */
static int search_directory(struct search *s, int fd)
{
	DIR *d = s->depth < DEPTH_MAX ? fdopendir(fd) : NULL;
	if (!d) {
		s->unseen = s->depth < DEPTH_MAX ? -errno : -ELOOP;
		close(fd);
		return 0;
	}
	int r = s->go_on(s->arg) ? 0 : -ECANCELED;
	s->depth++;
	errno = 0;
	for (struct dirent *e; r == 0 && (e = readdir(d)); errno = 0) {
		bool hidden = s->len == 0 && strcmp(e->d_name, ".cdmfs") == 0;
		if (!hidden && strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			r = search_entry(s, fd, e);
	}
	if (r == 0 && errno)
		s->unseen = -errno;
	s->depth--;
	closedir(d);
	return r;
}

static int search_all(int store_fd, ino_t only, names_look_fn *look, void *look_arg, names_go_on_fn *go_on, void *arg)
{
	int fd = openat(store_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct search *s = malloc(sizeof *s);
	if (!s)
		abort();
	*s = (struct search){.only = only, .look = look, .look_arg = look_arg, .go_on = go_on, .arg = arg};
	int r = fd < 0 ? -errno : search_directory(s, fd);
	r = r == 0 ? s->unseen : r;
	free(s);
	return r;
}

int names_look_at_each(int store_fd, names_look_fn *look, void *look_arg, names_go_on_fn *go_on, void *arg)
{
	return search_all(store_fd, 0, look, look_arg, go_on, arg);
}

struct find {
	const struct stat *file;
	struct names *found;
};

static int find_look(void *arg, int dir, const char *name, const char *path, size_t len)
{
	struct find *f = arg;
	int r = is_name_of(f->file, dir, name);
	if (r > 0)
		add(f->found, path, len, NAMES_BYTES_MAX);
	return r < 0 ? r : 0;
}

int names_find(int store_fd, const struct stat *file, struct names *ret, names_go_on_fn *go_on, void *arg)
{
	return search_all(store_fd, file->st_ino, find_look, &(struct find){file, ret}, go_on, arg);
}

/* --- what is remembered --- */

struct family {
	dev_t dev;
	ino_t ino;
	struct names names;
};
struct known_names {
	struct family families[FAMILIES]; /* the one used last is first */
};

struct known_names *known_names_new(void)
{
	struct known_names *k = calloc(1, sizeof *k);
	if (!k)
		abort();
	return k;
}

void known_names_free(struct known_names **k)
{
	for (size_t i = 0; *k && i < FAMILIES; i++)
		names_fini(&(*k)->families[i].names);
	free(*k);
	*k = NULL;
}

/* To the first place; the last one makes way for a new one. */
static struct family *family_of(struct known_names *k, const struct stat *file)
{
	size_t i = 0;
	while (i < FAMILIES - 1 && !(k->families[i].ino == file->st_ino && k->families[i].dev == file->st_dev))
		i++;
	struct family f = k->families[i];
	memmove(k->families + 1, k->families, i * sizeof f);
	if (f.ino != file->st_ino || f.dev != file->st_dev) {
		names_fini(&f.names);
		f = (struct family){.dev = file->st_dev, .ino = file->st_ino};
	}
	k->families[0] = f;
	return k->families;
}

static bool has_name(const struct names *n, const char *path, size_t len)
{
	size_t at = 0;
	for (const char *name; (name = names_next(n, &at));)
		if (strlen(name) == len && memcmp(name, path, len) == 0)
			return true;
	return false;
}

void known_names_add(struct known_names *k, const struct stat *file, const char *path, size_t len)
{
	struct names *n = &family_of(k, file)->names;
	if (!has_name(n, path, len))
		add(n, path, len, FAMILY_BYTES_MAX);
}

void known_names_set(struct known_names *k, const struct stat *file, const struct names *n)
{
	struct names *to = &family_of(k, file)->names;
	size_t at = 0;
	to->len = 0;
	for (const char *name; (name = names_next(n, &at));)
		add(to, name, strlen(name), FAMILY_BYTES_MAX);
}

void known_names_look(struct known_names *k, int store_fd, const struct stat *file, struct names *ret)
{
	struct names *n = &family_of(k, file)->names;
	size_t at = 0;
	for (const char *path; (path = names_next(n, &at));) {
		const char *name;
		_cleanup_close_ int dir = cdm_open_parent(store_fd, path, strlen(path), &name);
		if (dir >= 0 && is_name_of(file, dir, name) == 1)
			add(ret, path, strlen(path), NAMES_BYTES_MAX);
	}
}
