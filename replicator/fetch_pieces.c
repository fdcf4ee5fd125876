/* SPDX-License-Identifier: Apache-2.0 */
/* fetch_pieces.c — pieces of a content on their way to the disk, which are kept in memory for a while for those who get them from here: then
 * nothing is read that was just written.
 *
 * Of a large content the page cache is not filled: it is written past it (O_DIRECT, where the store can). What is in the cache are the files
 * that are served; a gigabyte that comes in would push them out, be copied once more, and let all writers wait for the disk at its end. */
#include "replicator/fetch_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "common/io.h"

#define DIRECT_MIN (32u << 20)  /* a content of so many bytes goes past the page cache */
#define WRITES_HIGH (8u << 20)
#define WRITES_LOW (2u << 20)
#define KEPT_BYTES (8u << 20)   /* of a set, written ones */
#define MARK_EVERY (8u << 20)   /* bytes between notes of how far a file got */

struct fetch_piece {
	struct fetch_piece *next;
	struct fetch *fetch;
	uint64_t offset;
	uint32_t len;
	bool direct, done;
	uint8_t *data;
};

/* --- kept ones --- */

static bool forget_oldest(struct fetch *f)
{
	struct fetch_piece *oldest = f->kept;
	if (oldest == f->writes)
		return false;
	f->kept = oldest->next;
	if (!f->kept)
		f->pieces_tail = &f->kept;
	f->kept_from = oldest->offset + oldest->len;
	f->set->kept_bytes -= oldest->len;
	free(oldest->data);
	free(oldest);
	return true;
}

void fetch_forget_pieces(struct fetch *f)
{
	while (forget_oldest(f))
		;
	f->kept_from = f->came;
}

/* Those of contents that are whole go first: few still want them. */
static void keep_within(struct fetch *f)
{
	struct set *s = f->set;
	for (struct fetch *other = s->fetches; other && s->kept_bytes > KEPT_BYTES; other = other->next)
		while (other->whole && s->kept_bytes > KEPT_BYTES && forget_oldest(other))
			;
	while (s->kept_bytes > KEPT_BYTES && forget_oldest(f))
		;
}

bool fetch_each_kept(const struct fetch *f, uint64_t at, fetch_piece_fn *fn, void *arg)
{
	uint64_t all = f->whole || f->ended ? f->size : f->came / BLOCK * BLOCK, end = at + BLOCK < f->size ? at + BLOCK : f->size;
	if (at < f->kept_from || end > all)
		return false;
	for (const struct fetch_piece *p = f->kept; p && p->offset < end; p = p->next)
		if (p->offset >= at)
			fn(arg, p->offset, p->data, p->len);
	return true;
}

/* --- writing --- */

void fetch_begin_writing(struct fetch *f)
{
	f->pieces_tail = &f->kept;
	f->direct_fd = f->size < DIRECT_MIN ? -1 : openat(f->set->staging_fd, f->name, O_WRONLY | O_DIRECT | O_NOFOLLOW | O_CLOEXEC);
}

void fetch_end_writing(struct fetch *f)
{
	if (f->direct_fd >= 0)
		close(f->direct_fd);
	f->direct_fd = -1;
}

int fetch_empty_file(struct fetch *f)
{
	if (ftruncate(f->fd, 0) < 0)
		return -errno;
	/* writes past the cache that make a file longer wait for one another */
	return f->direct_fd >= 0 && ftruncate(f->fd, (off_t)f->size) < 0 ? -errno : 0;
}

static void write_failed(struct fetch *f, int error)
{
	struct set *s = f->set;
	bool full = error == -ENOSPC || error == -EDQUOT;
	f->was_full |= full;
	if (full && f->waiters)
		set_receive_full(s, true);
	fetch_fail_waiters(f, -error, "write received content");
	fetch_stop_asking(f);
	if (!f->waiters)
		fetch_drop(f);
}

static void piece_written(void *arg, int result);

static void write_it(struct fetch_piece *p)
{
	struct fetch *f = p->fetch;
	cdm_loop_write(f->set->node->loop, p->direct ? f->direct_fd : f->fd, p->data, p->len, p->offset, piece_written, p);
}

/* A store that opens a file for writes past its cache, and then does not take them. The descriptor stays: others may be on their way to it. */
static bool is_refused(const struct fetch_piece *p, int result)
{
	return p->direct && result == -EINVAL;
}

/* Short: the rest by hand, it is rare. */
static int finish_write(struct fetch_piece *p, int result)
{
	struct fetch *f = p->fetch;
	if (result < 0 || result >= (int)p->len)
		return result;
	int r = cdm_pwrite_all(f->fd, p->data + result, p->len - (uint32_t)result, (off_t)(p->offset + (uint32_t)result));
	return r < 0 ? r : (int)p->len;
}

static void piece_written(void *arg, int result)
{
	struct fetch_piece *p = arg;
	struct fetch *f = p->fetch;
	struct set *s = f->set;
	uint64_t offset = p->offset;
	if (is_refused(p, result)) {
		f->no_direct = true;
		p->direct = false;
		write_it(p);
		return;
	}
	result = finish_write(p, result);
	p->done = true;
	f->writing -= p->len;
	s->writing--;
	s->kept_bytes += p->len;
	while (f->writes && f->writes->done)
		f->writes = f->writes->next;
	keep_within(f);
	if (f->writing < WRITES_LOW)
		fetch_resume_feeder(f);
	if (result < 0 && !f->gone) {
		f->ended = f->hashed = false;
		if (f->came > offset)
			f->came = offset / BLOCK * BLOCK;
		write_failed(f, result);
	} else if (!f->gone && !s->stopping) {
		if (fetch_readable(f) >= f->marked + MARK_EVERY)
			fetch_mark_wanted(f);
		feed_kick(s);
		fetch_check(f);
		fetch_step(f);
	}
	if (f->gone || s->stopping)
		fetch_forget_pieces(f);
	fetch_unref(f);
	set_let_go(s);
}

uint64_t fetch_written(const struct fetch *f)
{
	return f->writes && f->writes->offset < f->came ? f->writes->offset : f->came;
}

static struct fetch_piece *piece_new(struct fetch *f, const struct piece *piece)
{
	struct fetch_piece *p = malloc(sizeof *p);
	size_t pages = (piece->len + BLOCK_PAGE - 1) / BLOCK_PAGE * BLOCK_PAGE;
	uint8_t *data = aligned_alloc(BLOCK_PAGE, pages);
	if (!p || !data)
		abort();
	memcpy(data, piece->data, piece->len);
	*p = (struct fetch_piece){.fetch = f, .offset = piece->offset, .len = piece->len, .data = data};
	p->direct = f->direct_fd >= 0 && !f->no_direct && piece->len % BLOCK_PAGE == 0 && piece->offset % BLOCK_PAGE == 0;
	return p;
}

void fetch_write_piece(struct fetch *f, const struct piece *piece)
{
	struct fetch_piece *p = piece_new(f, piece);
	*f->pieces_tail = p;
	f->pieces_tail = &p->next;
	if (!f->writes)
		f->writes = p;
	f->writing += p->len;
	f->set->writing++;
	fetch_ref(f);
	if (f->writing > WRITES_HIGH && !f->paused) {
		f->paused = true;
		link_pause(f->feeder);
	}
	write_it(p);
}
