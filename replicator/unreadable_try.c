/* SPDX-License-Identifier: Apache-2.0 */
/* unreadable_try.c — can something that could not be read for shipping be read now? It is opened and read as for shipping (content.h), to its end, before
 * anything is recorded: what stays unreadable makes no change. In the walker, some at a time, so that nobody waits long behind it. */
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
#include "replicator/unreadable.h"

#define STEP_BYTES (32u << 20)

struct attempt {
	struct set *set;
	char *path;
	size_t len;
	struct content *content; /* of a file, while it is being read; the walker's during a step */
	bool more;               /* another step */
	bool linked;             /* it has other names */
	enum tried tried;
};

static int save_again(const struct attempt *a)
{
	char full[600];
	snprintf(full, sizeof full, "%s/full", a->set->run_dir);
	return setxattr(full, "trusted.cdmfs.again", a->path, a->len, 0) < 0 ? -errno : 0;
}

static enum tried recorded(const struct attempt *a, int r)
{
	return r == 0 ? (a->linked ? TRIED_LINKED : TRIED_RECORDED) : r == -EROFS ? TRIED_COMPARE : TRIED_IN_VAIN; /* what went meanwhile is found gone the next time */
}

static enum tried try_directory(const struct attempt *a)
{
	struct listing below;
	if (listing_read(a->set, a->path, a->len, &below) < 0)
		return TRIED_IN_VAIN;
	listing_free(&below);
	enum tried tried = recorded(a, set_mount_touch(a->set, a->path, a->len));
	return tried == TRIED_RECORDED ? TRIED_LINKED : tried;
}

/* As its save says it: by handle, of the version in its stamp. */
static int open_file(struct attempt *a)
{
	struct cdm_change c = {.op = CDM_OP_SAVE, .flags = CDM_CH_WHOLE, .dot = {ANSWER_ORIGIN, 1}, .clock = 1, .path = a->path, .path_len = a->len};
	struct cdm_stamp stamp;
	_cleanup_close_ int fd = cdm_open_beneath(a->set->store_fd, a->path, a->len, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
	int r = fd < 0 ? fd : cdm_handle_get(fd, "", &c.handle);
	if (r == 0)
		r = cdm_stamp_get(fd, &stamp);
	if (r < 0)
		return r;
	c.version = stamp.content;
	struct item *item = item_new(&c, 0);
	if (!item)
		return -ENAMETOOLONG;
	r = content_open(a->set->store_fd, item, &a->content, NULL);
	item_free(item);
	return r;
}

/* 1: there is more of it, 0: that was all, or -errno. */
static int read_some(struct content *c)
{
	_cleanup_free_ uint8_t *piece = malloc(FRAME_PIECE_MAX);
	uint64_t offset;
	uint32_t len;
	if (!piece)
		return -ENOMEM;
	for (uint64_t done = 0; done < STEP_BYTES; done += len) {
		if (!content_next(c, &offset, &len))
			return 0;
		ssize_t n = pread(c->fd, piece, len, (off_t)offset);
		if (n != (ssize_t)len)
			return n < 0 ? -errno : -ENODATA;
	}
	return 1;
}

static enum tried try_file(struct attempt *a)
{
	int r = a->content ? 0 : open_file(a);
	if (r == 0)
		r = read_some(a->content);
	a->more = r == 1;
	if (!a->more)
		content_close(&a->content);
	return r == 0 ? recorded(a, save_again(a)) : TRIED_IN_VAIN;
}

static void attempt_work(void *arg)
{
	struct attempt *a = arg;
	struct entry e;
	if (a->more) {
		a->tried = try_file(a);
		return;
	}
	int r = entry_read(a->set, a->path, a->len, &e);
	a->linked = r == 0 && !S_ISDIR(e.mode) && e.nlink > 1;
	if (listing_is_gone(r) || set_leaves_out(a->set, a->path, a->len))
		a->tried = TRIED_GONE;
	else if (r < 0)
		a->tried = TRIED_IN_VAIN;
	else if (S_ISREG(e.mode))
		a->tried = try_file(a);
	else
		a->tried = S_ISDIR(e.mode) ? try_directory(a) : recorded(a, set_mount_touch(a->set, a->path, a->len));
}

static void attempt_done(void *arg)
{
	struct attempt *a = arg;
	struct set *s = a->set;
	s->posted--;
	if (a->more && !s->stopping) {
		s->posted++;
		cdm_worker_submit(s->walker, attempt_work, attempt_done, a);
		return;
	}
	if (!s->stopping)
		unreadable_tried(s, a->path, a->len, a->tried);
	content_close(&a->content);
	free(a->path);
	free(a);
}

void unreadable_try(struct set *s, const char *path, size_t len)
{
	struct attempt *a = calloc(1, sizeof *a);
	if (!a || !(a->path = malloc(len + 1)))
		abort();
	a->set = s;
	memcpy(a->path, path, len);
	a->path[len] = 0;
	a->len = len;
	s->posted++;
	cdm_worker_submit(s->walker, attempt_work, attempt_done, a);
}
