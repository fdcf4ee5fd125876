/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/seal_look.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "common/io.h"
#include "replicator/content.h"
#include "replicator/resync.h"

#define NAMES_ROOM 8192 /* of extended attributes' names */

struct look *look_new(struct set *s)
{
	struct look *look = calloc(1, sizeof *look);
	if (!look)
		abort();
	look->set = s;
	return look;
}

struct looked *look_add(struct look *look, const char *path, size_t len)
{
	if (look->count == SEAL_NAMES_MAX)
		return NULL;
	struct looked *l = &look->names[look->count++];
	l->path = strndup(path, len);
	if (!l->path)
		abort();
	l->len = len;
	return l;
}

static void look_free(struct look *look)
{
	for (size_t i = 0; i < look->count; i++)
		free(look->names[i].path);
	free(look);
}

void look_drop(struct look **at)
{
	struct look *look = *at;
	*at = NULL;
	if (!look)
		return;
	scrub_read_cancel(&look->reading);
	look->dropped = true;
	if (!look->called)
		look_free(look);
}

/* --- attributes (scrub's thread) --- */

static int order(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void digest_text(EVP_MD_CTX *ctx, const void *text, size_t len)
{
	uint8_t head[4] = {(uint8_t)len, (uint8_t)(len >> 8), (uint8_t)(len >> 16), (uint8_t)(len >> 24)};
	if (EVP_DigestUpdate(ctx, head, sizeof head) != 1 || EVP_DigestUpdate(ctx, text, len) != 1)
		abort();
}

/* In the order of their names. False: they cannot be read. */
static bool digest_listed(const char *proc, char **list, size_t count, uint8_t ret[SEAL_DIGEST])
{
	char *value = malloc(CDM_VALUE_MAX);
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	bool good = true;
	if (!value || !ctx || EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) != 1)
		abort();
	for (size_t i = 0; good && i < count; i++) {
		ssize_t len = getxattr(proc, list[i], value, CDM_VALUE_MAX);
		good = len >= 0;
		if (good) {
			digest_text(ctx, list[i], strlen(list[i]));
			digest_text(ctx, value, (size_t)len);
		}
	}
	if (EVP_DigestFinal_ex(ctx, ret, NULL) != 1)
		abort();
	EVP_MD_CTX_free(ctx);
	free(value);
	return good;
}

static bool digest_xattrs(int fd, uint8_t ret[SEAL_DIGEST])
{
	char proc[64], names[NAMES_ROOM], *list[NAMES_ROOM / 2];
	size_t count = 0;
	snprintf(proc, sizeof proc, "/proc/self/fd/%d", fd);
	ssize_t n = listxattr(proc, names, sizeof names);
	if (n < 0)
		return errno == ENOTSUP;
	for (char *name = names; name < names + n; name += strlen(name) + 1)
		if (content_xattr_replicates(name))
			list[count++] = name;
	qsort(list, count, sizeof *list, order);
	return count == 0 || digest_listed(proc, list, count, ret);
}

static bool digest_target(int fd, uint8_t ret[SEAL_DIGEST])
{
	char target[4096];
	ssize_t n = readlinkat(fd, "", target, sizeof target);
	return n >= 0 && EVP_Digest(target, (size_t)n, ret, NULL, EVP_sha256(), NULL) == 1;
}

static void take_entry(struct looked *l, const struct entry *e)
{
	snprintf(l->user, sizeof l->user, "%s", content_user_name(e->uid));
	snprintf(l->group, sizeof l->group, "%s", content_group_name(e->gid));
	l->is = (struct sealed){.path = l->path, .path_len = l->len, .there = true, .mode = e->mode, .uid = e->uid, .gid = e->gid, .size = e->size,
		.rdev = e->rdev, .mtime_ns = e->mtime_ns, .stamp = e->stamp, .user = l->user, .user_len = strlen(l->user), .group = l->group,
		.group_len = strlen(l->group)};
}

static void look_at(struct set *s, struct looked *l)
{
	struct entry e;
	l->is = (struct sealed){.path = l->path, .path_len = l->len, .user = "", .group = ""};
	if (set_leaves_out(s, l->path, l->len))
		return;
	int r = entry_read(s, l->path, l->len, &e);
	if (listing_is_gone(r))
		l->found = LOOK_NOTHING;
	if (r < 0)
		return;
	take_entry(l, &e);
	_cleanup_close_ int fd = cdm_open_beneath(s->store_fd, l->path, l->len, O_PATH | O_NOFOLLOW, 0);
	bool good = fd >= 0 && (S_ISLNK(e.mode) ? digest_target(fd, l->is.content) : digest_xattrs(fd, l->is.xattrs));
	l->found = good ? LOOK_THERE : LOOK_UNSURE;
}

static void look_work(void *arg)
{
	struct look *look = arg;
	for (size_t i = 0; i < look->count; i++)
		look_at(look->set, &look->names[i]);
}

/* --- contents --- */

static void look_over(struct look *look)
{
	look->done(look->arg, look);
}

static void files_read(void *arg, struct scrub_files *files)
{
	struct look *look = arg;
	look->reading = NULL;
	for (size_t i = 0; i < files->count; i++) {
		struct looked *l = look->file_of[i];
		l->read = files->files[i].found == SCRUB_DIGEST || files->files[i].found == SCRUB_AS_SENT;
		memcpy(l->is.content, files->files[i].sha, sizeof l->is.content);
		if (!l->read)
			l->found = LOOK_UNSURE;
	}
	scrub_files_free(files);
	look_over(look);
}

static bool is_wanted(const struct looked *l)
{
	struct cdm_dot version = l->is.stamp.content.dot;
	return l->contents && l->found == LOOK_THERE && S_ISREG(l->is.mode) && !cdm_dot_is_none(version) && (cdm_dot_is_none(l->only) || cdm_dot_equal(l->only, version));
}

static void read_contents(struct look *look, struct scrub_reader *reader)
{
	struct scrub_files *files = scrub_files_new();
	for (size_t i = 0; i < look->count; i++) {
		struct looked *l = &look->names[i];
		struct scrub_question q = {.path = l->path, .path_len = l->len, .version = l->is.stamp.content.dot, .size = l->is.size};
		if (!is_wanted(l))
			continue;
		if (scrub_files_add(files, &q))
			look->file_of[files->count - 1] = l;
		else
			l->found = LOOK_UNSURE;
	}
	if (files->count) {
		look->reading = scrub_read(reader, files, look->why, files_read, look);
		return;
	}
	scrub_files_free(files);
	look_over(look);
}

struct looking { /* its message from the thread */
	struct look *look;
	struct scrub_reader *reader;
};

static void work(void *arg)
{
	struct looking *l = arg;
	look_work(l->look);
}

static void work_done(void *arg)
{
	struct looking *l = arg;
	struct look *look = l->look;
	struct set *s = look->set;
	s->posted--;
	look->called = false;
	if (look->dropped)
		look_free(look);
	else
		read_contents(look, l->reader);
	free(l);
	set_let_go(s);
}

void look_begin(struct look *look, struct scrub_reader *reader, enum scrub_purpose why, void (*done)(void *arg, struct look *look), void *arg)
{
	struct looking *l = malloc(sizeof *l);
	if (!l)
		abort();
	*l = (struct looking){look, reader};
	look->why = why;
	look->done = done;
	look->arg = arg;
	look->called = true;
	scrub_reader_call(reader, work, work_done, l);
}
