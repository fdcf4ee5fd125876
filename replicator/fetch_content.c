/* SPDX-License-Identifier: Apache-2.0 */
/* fetch_content.c — pieces as they come, the digest of the whole, and the changes that wait for it. */
#include "replicator/fetch_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "common/io.h"
#include "replicator/chunk.h"

#define DAMAGES_MAX 3
#define DAMAGED_PAUSE_MS 10000

/* --- changes that wait --- */

/* One change that came from two peers is published once, so one of them gets the file: a second name of it in staging would be among the links that the
 * mount counts, until the kernel looks again. Should the other's turn come first after all, its batch ends there, and comes again. */
static void pass_over_twins(const struct fetch *f)
{
	for (const struct waiter *w = f->waiters; w; w = w->next)
		for (const struct waiter *twin = w->next; twin && !w->in->lost && set_peer_by_serial(f->set, w->peer_serial); twin = twin->next)
			twin->in->lost |= !(twin->in->carried.flags & CARRIED_ANSWER) && cdm_dot_equal(twin->in->carried.change.dot, w->in->carried.change.dot);
}

/* New ones were put in front. */
static void oldest_first(struct fetch *f)
{
	struct waiter *in_order = NULL;
	for (struct waiter *w = f->waiters, *next; w; w = next) {
		next = w->next;
		w->next = in_order;
		in_order = w;
	}
	f->waiters = in_order;
}

static bool is_last(const struct fetch *f)
{
	const struct waiter *w = f->waiters;
	while (w && w->in->lost)
		w = w->next;
	return !w;
}

/* A name of its own for each change: what the mount has looked up once is not used again. */
static int hand_over(struct fetch *f, struct incoming *in)
{
	static unsigned number;
	char name[STAGING_NAME_MAX];
	int dir = f->set->staging_fd;
	if (in->lost) {
		in->carried.kind = CONTENT_WHOLE;
		return 0;
	}
	snprintf(name, sizeof name, "%016" PRIx64 "-%" PRIx64 ".f%x", f->version.origin, f->version.number, ++number);
	bool last = is_last(f);
	int r = last ? renameat(dir, f->name, dir, name) : linkat(dir, f->name, dir, name, 0);
	if (r < 0)
		return -errno;
	fremovexattr(f->fd, FETCH_PARTIAL_XATTR);
	if (last)
		f->name[0] = 0;
	memcpy(in->staging, name, sizeof name);
	in->carried.kind = CONTENT_WHOLE;
	in->received = in->carried.content_bytes;
	return 0;
}

/* All that wait get it, or are told that this version is not to be had (superseded: a later save has what it needs). */
void fetch_settle_waiters(struct fetch *f)
{
	oldest_first(f);
	if (f->whole)
		pass_over_twins(f);
	while (f->waiters) {
		struct waiter *w = f->waiters;
		struct peer *p = set_peer_by_serial(f->set, w->peer_serial);
		f->waiters = w->next;
		struct incoming *in = w->in;
		free(w);
		in->superseded = !f->whole;
		int r = f->whole ? hand_over(f, in) : 0;
		bool lost = r < 0 || !p;
		if (r < 0 && p)
			link_fail(p->link, -r, "take received content of set %s", set_name(f->set));
		if (!lost)
			receive_content_came(p, in);
		else if (in->carried.flags & CARRIED_ANSWER)
			incoming_free(in, f->set->staging_fd);
	}
}

static void give_up(struct fetch *f)
{
	struct set *s = f->set;
	f->gone = true;
	fetch_settle_waiters(f);
	fetch_drop(f);
	fetch_queue_step(s);
}

/* Nothing but the caller's reference keeps it afterwards: who waits for room may take its place. */
static void became_whole(struct fetch *f)
{
	struct set *s = f->set;
	f->whole = true;
	f->used_ms = cdm_now_ms();
	count_up(&f->set->counters.fetched, 1);
	feed_kick(f->set);
	fetch_settle_waiters(f);
	fetch_queue_step(s);
}

void fetch_fail_waiters(struct fetch *f, int error, const char *what)
{
	for (struct waiter *w = f->waiters; w; w = w->next) {
		struct peer *p = set_peer_by_serial(f->set, w->peer_serial);
		if (p)
			link_fail(p->link, error, "%s of set %s", what, set_name(f->set));
	}
}

/* Bytes that do not give the announced digest: all of it again, from somebody else. Whoever took them from here is told. */
static void damaged(struct fetch *f)
{
	cdm_log(fetch_damaged, cdm_str("set", set_name(f->set)), cdm_str("path", f->path),
		cdm_str("msg", "the content that came is not what was sent; it is fetched again"));
	count_up(&f->set->counters.fetch_damaged, 1);
	f->gone = true;
	feed_kick(f->set);
	f->gone = f->ended = false;
	f->came = 0;
	fetch_ring_failed(f);
	if (++f->damages >= DAMAGES_MAX || fetch_empty_file(f) < 0) {
		f->damages = 0;
		f->pause_ms = cdm_now_ms() + DAMAGED_PAUSE_MS;
		fetch_fail_waiters(f, EBADMSG, "what was fetched is damaged each time");
		return;
	}
	fetch_step(f);
}

/* --- the end of a content --- */

static void check_work(void *arg)
{
	struct fetch *f = arg;
	uint8_t digest[16];
	f->right = block_hash_file(f->fd, f->size, digest) == 0 && memcmp(digest, f->digest, sizeof digest) == 0;
}

static void check_done(void *arg)
{
	struct fetch *f = arg;
	f->set->posted--;
	f->checking = false;
	if (!f->gone && f->right)
		became_whole(f);
	else if (!f->gone)
		damaged(f);
	fetch_unref(f);
}

/* Everything came and is written: is it right? */
void fetch_check(struct fetch *f)
{
	if (!f->ended || f->writes || f->marking || f->checking || f->whole)
		return;
	if (ftruncate(f->fd, (off_t)f->size) < 0) {
		damaged(f);
	} else if (f->hashed) {
		uint8_t digest[16];
		block_hash_end(&f->hash, digest);
		if (memcmp(digest, f->digest, sizeof digest) == 0)
			became_whole(f);
		else
			damaged(f);
	} else { /* a part of it came in an earlier run */
		f->checking = true;
		f->set->posted++;
		fetch_ref(f);
		cdm_worker_submit(f->set->walker, check_work, check_done, f);
	}
}

/* --- pieces --- */

/* Requests of one feeder are served one after the other: those behind are not silent. */
static void heard(struct node *node, const struct link *l)
{
	int64_t now = cdm_now_ms();
	for (size_t i = 0; i < node->set_count; i++)
		for (struct fetch *f = node->sets[i]->fetches; f; f = f->next)
			if (f->feeder == l) {
				f->fed_ms = now;
				fetch_heard(f, now);
			}
}

/* chunk: where its bytes are, NULL = they must be copied. */
static int take_piece(struct node *node, struct link *l, const struct fed_piece *fed, struct chunk *chunk, struct cdm_error *err)
{
	struct fetch *f = fetch_find_request(node, l, fed->request);
	if (!f)
		return 0; /* sent before it saw our FETCH_STOP */
	const struct piece *p = &fed->piece;
	bool whole_pages = p->offset % BLOCK_PAGE == 0 && (p->len % BLOCK_PAGE == 0 || p->offset + p->len == f->size); /* each piece takes its pages of memory */
	if (p->offset < f->came || p->offset + p->len > f->size || p->offset / BLOCK != (p->offset + p->len - 1) / BLOCK || !whole_pages)
		return cdm_fail_plain(err, EBADMSG, "a piece of a fetched content is not where it may be");
	if (f->hashed)
		f->hashed = block_hash_piece(&f->hash, p->offset, p->data, p->len) == 0;
	bool next_block = p->offset / BLOCK > f->came / BLOCK;
	f->came = p->offset + p->len;
	heard(node, l);
	count_up(&f->set->counters.content_received_bytes, p->len);
	count_up(&f->set->counters.fetched_bytes, p->len);
	fetch_write_piece(f, p, chunk);
	if (next_block)
		feed_kick(f->set);
	return 0;
}

int fetch_fed(struct node *node, struct link *l, const uint8_t head[FED_HEAD], struct chunk *chunk, size_t len, struct cdm_error *err)
{
	struct fed_piece fed;
	if (fed_piece_decode_apart(head, FED_HEAD, chunk->data, len, &fed) < 0)
		return cdm_fail_plain(err, EBADMSG, "malformed FED");
	return take_piece(node, l, &fed, chunk, err);
}

static int take_fed(struct node *node, struct link *l, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	struct fed_piece fed;
	if (fed_piece_decode(payload, len, &fed) < 0)
		return cdm_fail_plain(err, EBADMSG, "malformed FED");
	return take_piece(node, l, &fed, NULL, err);
}

static int take_end(struct node *node, struct link *l, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	struct fed_end end;
	if (fed_end_decode(payload, len, &end) < 0)
		return cdm_fail_plain(err, EBADMSG, "malformed FED_END");
	struct fetch *f = fetch_find_request(node, l, end.request);
	if (!f)
		return 0;
	fetch_resume_feeder(f);
	fetch_flush_pieces(f);
	f->feeder = NULL;
	if (end.result == FED_WHOLE) {
		f->ended = true;
		memcpy(f->digest, end.digest, sizeof f->digest);
		feed_kick(f->set);
		fetch_check(f);
		return 0;
	}
	if (f->from_ring) {
		fetch_ring_failed(f);
		fetch_step(f);
	} else if (end.result != FED_BUSY) { /* who told us of it has it no more: a later save brings what is there now */
		give_up(f);
	} /* else: asked again in a moment */
	return 0;
}

int fetch_frame(struct node *node, struct link *l, enum frame_type type, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	if (type == FRAME_FED)
		return take_fed(node, l, payload, len, err);
	if (type == FRAME_FED_END)
		return take_end(node, l, payload, len, err);
	if (type == FRAME_FETCH_AT)
		return fetch_take_at(node, l, payload, len, err);
	return feed_frame(node, l, type, payload, len, err);
}

