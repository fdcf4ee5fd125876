/* SPDX-License-Identifier: Apache-2.0 */
#include "cdmfs/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>
#include "common/io.h"

#define FORMAT 1
#define FORMAT_FILE "format"
#define FORMAT_BYTES_MAX 65536

static int open_dir(int dirfd, const char *name, int *ret, struct cdm_error *err)
{
	if (mkdirat(dirfd, name, 0700) < 0 && errno != EEXIST)
		return cdm_fail(err, errno, "create %s in the store", name);
	*ret = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return *ret < 0 ? cdm_fail(err, errno, "open %s in the store", name) : 0;
}

static int open_dirs(struct store *s, const char *path, struct cdm_error *err)
{
	static const char *const names[] = {"journal", "staging", "orphans", "conflicts", "versions"};
	int *const fds[] = {&s->journal_fd, &s->staging_fd, &s->orphans_fd, &s->conflicts_fd, NULL};
	int unused, r;

	s->root_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s->root_fd < 0)
		return cdm_fail(err, errno, "open store %s", path);
	r = open_dir(s->root_fd, META_DIR, &s->meta_fd, err);
	for (unsigned i = 0; r == 0 && i < sizeof(names) / sizeof(names[0]); i++) {
		r = open_dir(s->meta_fd, names[i], fds[i] ? fds[i] : &unused, err);
		if (r == 0 && !fds[i])
			close(unused);
	}
	return r;
}

static int take_lock(struct store *s, const char *path, struct cdm_error *err)
{
	s->lock_fd = openat(s->meta_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (s->lock_fd < 0)
		return cdm_fail(err, errno, "open the lock of store %s", path);
	if (flock(s->lock_fd, LOCK_EX | LOCK_NB) == 0)
		return 0;
	if (errno != EWOULDBLOCK)
		return cdm_fail(err, errno, "lock store %s", path);
	cdm_hint(err, "is the set mounted already, or is the replicator applying to the store? see `cdmfs-stat`");
	return cdm_fail_plain(err, EBUSY, "store %s is in use", path);
}

static int format_check(struct fs *fs, const json_t *f, struct cdm_error *err)
{
	const char *path = fs->set_conf->store, *set = json_string_value(json_object_get(f, "set"));
	json_int_t format = json_integer_value(json_object_get(f, "format")), number = json_integer_value(json_object_get(f, "number"));
	json_int_t incarnation = json_integer_value(json_object_get(f, "incarnation"));

	if (format != FORMAT)
		return cdm_fail_plain(err, EBADMSG, "store %s has format %lld; this program knows format %d", path, (long long)format, FORMAT);
	if (!set || strcmp(set, fs->set) != 0) {
		cdm_hint(err, "check `store` of set %s in the configuration", fs->set);
		return cdm_fail_plain(err, ESTALE, "store %s belongs to set %s", path, set ? set : "?");
	}
	if (number != fs->node_number || incarnation < 1 || incarnation > UINT32_MAX) {
		cdm_hint(err, "a copied store: remove %s/" META_DIR " to adopt its content as this node's", path);
		return cdm_fail_plain(err, ESTALE, "store %s belongs to node number %lld, this is node %u", path, (long long)number, fs->node_number);
	}
	fs->store.incarnation = incarnation;
	return 0;
}

static int format_read(struct fs *fs, struct cdm_error *err)
{
	_cleanup_free_ char *text = NULL;
	json_error_t where;
	json_t *f;
	size_t len;
	int r = cdm_read_file(fs->store.meta_fd, FORMAT_FILE, FORMAT_BYTES_MAX, &text, &len, err);

	if (r < 0)
		return r;
	f = json_loads(text, 0, &where);
	if (!f)
		return cdm_fail_plain(err, EBADMSG, "store %s: " META_DIR "/" FORMAT_FILE " is damaged: %s", fs->set_conf->store, where.text);
	r = format_check(fs, f, err);
	json_decref(f);
	return r;
}

int store_set_incarnation(struct fs *fs, uint32_t incarnation, struct cdm_error *err)
{
	json_t *f = json_pack("{s:i, s:s, s:s, s:I, s:I}", "format", FORMAT, "set", fs->set, "node", fs->node_name,
		"number", (json_int_t)fs->node_number, "incarnation", (json_int_t)incarnation);
	char *text = f ? json_dumps(f, JSON_COMPACT) : NULL;
	int r = -ENOMEM;

	if (text)
		r = cdm_replace_file(fs->store.meta_fd, FORMAT_FILE, text, strlen(text), 0600, err);
	else
		cdm_fail(err, ENOMEM, "write " FORMAT_FILE);
	free(text);
	json_decref(f);
	if (r == 0)
		fs->store.incarnation = incarnation;
	return r;
}

static int format_open(struct fs *fs, struct cdm_error *err)
{
	struct cdm_error first = CDM_ERROR_INIT;
	int r = format_read(fs, &first);

	if (r == -ENOENT) {
		fs->store.fresh = true;
		return store_set_incarnation(fs, 1, err);
	}
	if (r < 0 && err)
		*err = first;
	return r;
}

int store_open(struct fs *fs, struct cdm_error *err)
{
	struct store *s = &fs->store;
	struct stat st;
	int r;

	*s = (struct store){.root_fd = -1, .meta_fd = -1, .journal_fd = -1, .staging_fd = -1, .orphans_fd = -1, .conflicts_fd = -1,
		.lock_fd = -1};
	r = open_dirs(s, fs->set_conf->store, err);
	if (r == 0 && fstat(s->root_fd, &st) < 0)
		r = cdm_fail(err, errno, "stat store %s", fs->set_conf->store);
	if (r == 0) {
		s->dev = st.st_dev;
		r = take_lock(s, fs->set_conf->store, err);
	}
	if (r == 0)
		r = format_open(fs, err);
	if (r < 0)
		store_close(s);
	return r;
}

void store_close(struct store *s)
{
	int *const fds[] = {&s->lock_fd, &s->conflicts_fd, &s->orphans_fd, &s->staging_fd, &s->journal_fd, &s->meta_fd, &s->root_fd};

	for (unsigned i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
		if (*fds[i] >= 0)
			close(*fds[i]);
		*fds[i] = -1;
	}
}

void store_empty(int dirfd)
{
	int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), below;
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	while (dir && (e = readdir(dir))) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		if (unlinkat(fd, e->d_name, 0) == 0 || (errno != EISDIR && errno != EPERM))
			continue;
		below = openat(fd, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (below < 0)
			continue;
		store_empty(below);
		close(below);
		unlinkat(fd, e->d_name, AT_REMOVEDIR);
	}
	if (dir)
		closedir(dir);
}
