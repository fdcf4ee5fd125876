/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/aside.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "common/io.h"
#include "replicator/base.h"
#include "replicator/publish_ops.h"
#include "replicator/quarantine.h"

#define DIRECTORY ".cdmfs/aside"
#define KEPT_BYTES (1ull << 30)
#define KEPT_FILES 1024

/* --- the directory --- */

typedef bool visit_fn(void *arg, int dir, const char *name, const char *path, size_t len); /* false: no more of them */

static int open_directory(const struct set *s)
{
	return openat(s->store_fd, DIRECTORY, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* Each file with the path that it is kept for; "": it does not tell. */
static void visit(const struct set *s, visit_fn *fn, void *arg)
{
	int fd = open_directory(s);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (!d && fd >= 0)
		close(fd);
	for (struct dirent *e; d && (e = readdir(d));) {
		char at[64 + CDM_NAME_LEN_MAX], path[CDM_PATH_MAX];
		if (e->d_name[0] == '.')
			continue;
		snprintf(at, sizeof at, "/proc/self/fd/%d/%s", fd, e->d_name);
		ssize_t n = lgetxattr(at, CDM_XATTR_KEPT, path, sizeof path);
		if (!fn(arg, fd, e->d_name, path, n < 0 ? 0 : (size_t)n))
			break;
	}
	if (d)
		closedir(d);
}

struct taken {
	uint64_t bytes;
	unsigned files;
};

static bool add_size(void *arg, int dir, const char *name, const char *path, size_t len)
{
	struct taken *taken = arg;
	struct stat st;
	taken->files++;
	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
		taken->bytes += (uint64_t)st.st_blocks * 512;
	return true;
}

struct newer {
	const char *name, *path;
	size_t len;
};

static bool remove_older(void *arg, int dir, const char *name, const char *path, size_t len)
{
	const struct newer *newer = arg;
	if (len == newer->len && memcmp(path, newer->path, len) == 0 && strcmp(name, newer->name) != 0)
		unlinkat(dir, name, 0);
	return true;
}

/* --- keeping --- */

static bool has_room(const struct set *s, uint64_t bytes)
{
	struct taken taken = {0};
	visit(s, add_size, &taken);
	return taken.files < KEPT_FILES && taken.bytes + bytes <= KEPT_BYTES;
}

static int move_there(struct publisher *pub, const char *staged, const struct cdm_change *c)
{
	const struct set *s = pub->set;
	char name[64], at[64 + 64];
	cdm_dot_format(c->version.dot, name);
	if (mkdirat(s->store_fd, DIRECTORY, 0700) < 0 && errno != EEXIST)
		return -errno;
	_cleanup_close_ int dir = open_directory(s);
	if (dir < 0 || renameat(s->staging_fd, staged, dir, name) < 0)
		return -errno;
	snprintf(at, sizeof at, "/proc/self/fd/%d/%s", dir, name);
	int r = lsetxattr(at, CDM_XATTR_KEPT, c->path, c->path_len, 0) < 0 ? -errno : 0;
	if (r < 0)
		unlinkat(dir, name, 0);
	else if (quarantine_has(s->quarantine, c->path, c->path_len))
		visit(s, remove_older, &(struct newer){.name = name, .path = c->path, .len = c->path_len});
	return r;
}

static bool is_whole(const struct incoming *in)
{
	const struct carried *k = &in->carried;
	return k->change.op == CDM_OP_SAVE && k->kind == CONTENT_WHOLE && !in->lost && (k->flags & CARRIED_INLINE || in->staging[0]);
}

/* whole: with the content that c tells of, maybe c's own. -ENODATA: it is not that. */
static int keep(struct publisher *pub, struct incoming *whole, const struct cdm_change *c)
{
	char made[STAGING_NAME_MAX];
	struct cdm_error err = CDM_ERROR_INIT;
	struct cdm_handle handle;
	if (!is_whole(whole) || !cdm_dot_equal(whole->carried.stamp.content.dot, c->version.dot))
		return -ENODATA;
	if (!has_room(pub->set, whole->carried.size))
		return -EFBIG;
	snprintf(made, sizeof made, "made.%lx", (unsigned long)++pub->staged_number);
	bool spooled = whole->staging[0];
	int r = stage_object(pub, whole, pub->set->staging_fd, made, &handle, &err);
	if (r == 0)
		r = move_there(pub, spooled ? whole->staging : made, c);
	if (r < 0 && !spooled)
		unlinkat(pub->set->staging_fd, made, 0);
	if (r == 0)
		whole->staging[0] = 0;
	pub->aside_left |= r == 0;
	return r;
}

/* What the sender has there now, under the name that it knows. */
static struct incoming *whole_of(struct publisher *pub, const struct cdm_change *c, bool *ret_gone)
{
	struct incoming *whole = publisher_need(pub, &(struct need){.path = c->path, .path_len = c->path_len}, ret_gone);
	bool given = c->path == pub->mapped && pub->given;
	return whole || *ret_gone || !given ? whole : publisher_need(pub, &(struct need){.path = pub->given, .path_len = pub->given_len}, ret_gone);
}

int aside_keep(struct publisher *pub, struct incoming *in)
{
	const struct cdm_change *c = &in->carried.change;
	bool gone;
	int r = c->op == CDM_OP_SAVE ? keep(pub, in, c) : 0;
	if (r != -ENODATA || !has_room(pub->set, in->carried.size))
		return r == -ENODATA ? -EFBIG : r;
	struct incoming *whole = whole_of(pub, c, &gone);
	if (!whole)
		return gone ? -ECANCELED : r;
	r = keep(pub, whole, c);
	incoming_free(whole, pub->set->staging_fd);
	return r;
}

static bool remove_settled(void *arg, int dir, const char *name, const char *path, size_t len)
{
	struct publisher *pub = arg;
	if (len && quarantine_has(pub->set->quarantine, path, len))
		pub->aside_left = true;
	else
		unlinkat(dir, name, 0);
	return true;
}

void aside_tidy(struct publisher *pub)
{
	if (!pub->aside_left || quarantine_ran_over(pub->set->quarantine))
		return;
	pub->aside_left = false;
	visit(pub->set, remove_settled, pub);
}

/* --- answering --- */

struct search {
	const char *path;
	size_t len;
	struct cdm_handle *handle;
	int fd;
};

static bool find(void *arg, int dir, const char *name, const char *path, size_t len)
{
	struct search *search = arg;
	if (len != search->len || memcmp(path, search->path, len) != 0 || cdm_handle_get(dir, name, search->handle) < 0)
		return true;
	search->fd = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	return search->fd < 0;
}

int aside_open(struct set *s, const char *path, size_t len, struct cdm_handle *ret)
{
	struct search search = {.path = path, .len = len, .handle = ret, .fd = -1};
	if (quarantine_has(s->quarantine, path, len) || quarantine_ran_over(s->quarantine))
		visit(s, find, &search);
	return search.fd < 0 ? -ENOENT : search.fd;
}
