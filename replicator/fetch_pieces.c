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
#include "replicator/chunk.h"

#define RUN_PIECES 8            /* written together: a store takes one large write with much less work than many small ones */
#define DIRECT_MIN (32u << 20)  /* a content of so many bytes goes past the page cache */
#define WRITES_HIGH (8u << 20)
#define WRITES_LOW (2u << 20)
#define WRITES_MOST (16u << 20) /* of all contents of the node together */
#define KEPT_BYTES (16u << 20)  /* of the node, written ones: who is further behind is fed from the disk */
#define MARK_EVERY (8u << 20)   /* bytes between notes of how far a file got */

struct fetch_piece {
	struct fetch_piece *next;
	uint64_t offset;
	uint32_t len;
	bool direct, done;
	struct chunk *chunk;
};

struct write_run { /* pieces that adjoin each other, on their way */
	struct fetch *fetch;
	struct fetch_piece *first;
	unsigned count;
	bool direct;
	uint64_t offset;
	uint32_t len;
	struct iovec iov[RUN_PIECES];
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
	f->set->node->kept_bytes -= oldest->len;
	chunk_unref(oldest->chunk);
	free(oldest);
	return true;
}

void fetch_forget_pieces(struct fetch *f)
{
	while (forget_oldest(f))
		;
	f->kept_from = f->came;
}

static bool keeps_too_much(const struct fetch *f)
{
	return f->set->node->kept_bytes > KEPT_BYTES;
}

/* Those of contents that are whole go first: few still want them. */
static void keep_within(struct fetch *f)
{
	for (struct fetch *other = f->set->fetches; other && keeps_too_much(f); other = other->next)
		while (other->whole && keeps_too_much(f) && forget_oldest(other))
			;
	while (keeps_too_much(f) && forget_oldest(f))
		;
}

bool fetch_each_kept(const struct fetch *f, uint64_t at, fetch_piece_fn *fn, void *arg)
{
	uint64_t all = f->whole || f->ended ? f->size : f->came / BLOCK * BLOCK, end = at + BLOCK < f->size ? at + BLOCK : f->size;
	if (at < f->kept_from || end > all)
		return false;
	for (const struct fetch_piece *p = f->kept; p && p->offset < end; p = p->next)
		if (p->offset >= at)
			fn(arg, p->offset, p->len, p->chunk);
	return true;
}

/* --- writing --- */

void fetch_begin_writing(struct fetch *f)
{
	f->pieces_tail = &f->kept;
	f->direct_fd = f->size < DIRECT_MIN ? -1 : openat(f->set->staging_fd, f->name, O_RDWR | O_DIRECT | O_NOFOLLOW | O_CLOEXEC);
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

static void run_written(void *arg, int result);

static void write_run(struct write_run *w)
{
	struct fetch *f = w->fetch;
	cdm_loop_writev(f->set->node->loop, w->direct ? f->direct_fd : f->fd, w->iov, w->count, w->offset, run_written, w);
}

/* A store that opens a file for writes past its cache, and then does not take them. The descriptor stays: others may be on their way to it. */
static bool is_refused(const struct write_run *w, int result)
{
	return w->direct && result == -EINVAL;
}

/* Short: the rest by hand, it is rare. */
static int finish_write(struct write_run *w, int result)
{
	uint32_t done = result < 0 ? 0 : (uint32_t)result, begin = 0;
	for (unsigned i = 0; result >= 0 && i < w->count; begin += (uint32_t)w->iov[i++].iov_len) {
		uint32_t end = begin + (uint32_t)w->iov[i].iov_len, from = done > begin ? done : begin;
		if (from >= end)
			continue;
		int r = cdm_pwrite_all(w->fetch->fd, (uint8_t *)w->iov[i].iov_base + (from - begin), end - from, (off_t)(w->offset + from));
		if (r < 0)
			return r;
	}
	return result;
}

static void run_is_done(struct write_run *w)
{
	struct fetch *f = w->fetch;
	struct fetch_piece *p = w->first;
	for (unsigned i = 0; i < w->count; i++, p = p->next)
		p->done = true;
	f->writing -= w->len;
	f->set->node->writing_bytes -= w->len;
	f->set->node->kept_bytes += w->len;
	while (f->writes && f->writes->done)
		f->writes = f->writes->next;
	keep_within(f);
}

static void run_written(void *arg, int result)
{
	struct write_run *w = arg;
	struct fetch *f = w->fetch;
	struct set *s = f->set;
	if (is_refused(w, result)) {
		f->no_direct = true;
		w->direct = false;
		write_run(w);
		return;
	}
	result = finish_write(w, result);
	uint64_t offset = w->offset;
	s->writing--;
	run_is_done(w);
	free(w);
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

void fetch_flush_pieces(struct fetch *f)
{
	if (!f->gathered)
		return;
	struct write_run *w = calloc(1, sizeof *w);
	if (!w)
		abort();
	w->fetch = f;
	w->first = f->gathered;
	w->direct = w->first->direct && !f->no_direct;
	w->offset = w->first->offset;
	for (const struct fetch_piece *p = f->gathered; p; p = p->next) {
		w->iov[w->count++] = (struct iovec){p->chunk->data, p->len};
		w->len += p->len;
	}
	f->gathered = NULL;
	f->gathered_count = 0;
	f->set->writing++;
	fetch_ref(f);
	write_run(w);
}

uint64_t fetch_written(const struct fetch *f)
{
	return f->writes && f->writes->offset < f->came ? f->writes->offset : f->came;
}

static struct chunk *copy_of(const struct piece *piece)
{
	struct chunk *chunk = chunk_new(piece->len);
	memcpy(chunk->data, piece->data, piece->len);
	return chunk;
}

static struct fetch_piece *piece_new(struct fetch *f, const struct piece *piece, struct chunk *chunk)
{
	struct fetch_piece *p = malloc(sizeof *p);
	if (!p)
		abort();
	*p = (struct fetch_piece){.offset = piece->offset, .len = piece->len, .chunk = chunk ? chunk_ref(chunk) : copy_of(piece)};
	p->direct = f->direct_fd >= 0 && piece->len % BLOCK_PAGE == 0 && piece->offset % BLOCK_PAGE == 0;
	return p;
}

void fetch_write_piece(struct fetch *f, const struct piece *piece, struct chunk *chunk)
{
	struct fetch_piece *p = piece_new(f, piece, chunk);
	if (f->gathered && (f->gathered_end != p->offset || f->gathered->direct != p->direct))
		fetch_flush_pieces(f);
	*f->pieces_tail = p;
	f->pieces_tail = &p->next;
	if (!f->writes)
		f->writes = p;
	if (!f->gathered)
		f->gathered = p;
	f->gathered_end = p->offset + p->len;
	f->gathered_count++;
	f->writing += p->len;
	f->set->node->writing_bytes += p->len;
	bool much = f->writing > WRITES_HIGH || f->set->node->writing_bytes > WRITES_MOST;
	if (much && !f->paused) {
		f->paused = f->held = true;
		link_pause(f->feeder);
	}
	if (much || f->gathered_count == RUN_PIECES) /* who is paused goes on when something of it is written */
		fetch_flush_pieces(f);
}
