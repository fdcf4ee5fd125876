/* SPDX-License-Identifier: Apache-2.0 */
/* feed.c — contents for those who fetch them (fetch.h): out of the store, or out of what is still arriving here. Each link takes the first
 * of its requests that has something to send; a request that waits holds up no other one. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#include "common/io.h"
#include "replicator/blocks.h"
#include "replicator/chunk.h"
#include "replicator/content.h"
#include "replicator/fetch.h"
#include "replicator/publish.h"

#define OFFERS 256
#define READ_BLOCKS 8  /* read at once of what is not in memory … */
#define READS_WIDE 4   /* … while fewer such reads are in flight */
#define PARKED_MS 1000 /* a content that is not here may be about to come */

struct offer {
	struct cdm_dot version;
	struct cdm_handle handle;
	uint64_t furthest;         /* of all that were fed, the one who has most of it */
	int64_t first_ms, last_ms; /* since when that one is fed, when it got its last block */
};

struct feed { /* one request */
	struct feed *next;
	struct node *node;
	struct link *link; /* NULL: gone; freed by what is in flight */
	uint32_t request;
	struct set *set;
	struct cdm_dot version;
	char *path;
	size_t path_len;
	uint64_t size, at;
	struct fetch *from;         /* still arriving here, or just arrived; else: */
	int fd;                     /* of the store's file, -1 = nothing found yet */
	struct cdm_handle handle;
	bool sparse;
	bool hashed;                /* hash covers all up to `at` */
	struct block_hash hash;
	bool digested;              /* by the worker: what came before `at` was not sent by us */
	int digest_error;
	uint8_t digest[16];
	bool busy;                  /* a read or the worker is at it */
	struct cdm_timer *parked;
};

struct feed_read {
	struct feed *feed;
	uint32_t len;
	unsigned tries;
	int direct_fd; /* past the page cache, which does not have it; -1: as ever */
	unsigned count;
	struct chunk *chunks[READ_BLOCKS]; /* BLOCK bytes each, but the last */
	struct iovec iov[READ_BLOCKS];
};
static unsigned reads_in_flight; /* loop thread */

/* --- where the content is --- */

void feed_offer(struct set *s, struct cdm_dot version, const struct cdm_handle *handle)
{
	if (!s->offers && !(s->offers = calloc(OFFERS, sizeof *s->offers)))
		abort();
	for (size_t i = 0; i < OFFERS; i++)
		if (cdm_dot_equal(s->offers[i].version, version))
			return;
	s->offers[s->offer_next++ % OFFERS] = (struct offer){.version = version, .handle = *handle};
}

static struct offer *find_offer(const struct set *s, struct cdm_dot version)
{
	for (size_t i = 0; s->offers && i < OFFERS; i++)
		if (cdm_dot_equal(s->offers[i].version, version))
			return &s->offers[i];
	return NULL;
}

static int open_in_store(struct feed *f)
{
	struct set *s = f->set;
	struct stat st;
	const struct offer *o = find_offer(s, f->version);
	_cleanup_close_ int fd = o ? cdm_handle_open(s->store_fd, &o->handle, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW) : -1;
	if (fd < 0)
		fd = cdm_open_beneath(s->store_fd, f->path, f->path_len, O_RDONLY | O_NONBLOCK | O_NOFOLLOW, 0);
	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size != f->size || !content_has_version(fd, f->version) ||
		cdm_handle_get(fd, "", &f->handle) < 0)
		return -ENOENT;
	f->sparse = (uint64_t)st.st_blocks * 512 < f->size;
	f->fd = cdm_take_fd(&fd);
	block_hash_begin(&f->hash, f->size);
	f->hashed = f->at == 0;
	return 0;
}

static bool find_content(struct feed *f)
{
	if (f->from || f->fd >= 0)
		return true;
	struct fetch *from = fetch_find(f->set, f->version);
	if (from && !fetch_is_gone(from) && fetch_size(from) == f->size) {
		f->from = from;
		fetch_ref(from);
	} else if (open_in_store(f) < 0) {
		return false;
	}
	cdm_timer_cancel(&f->parked);
	return true;
}

/* --- the end of a request --- */

static void feed_free(struct feed *f)
{
	cdm_timer_cancel(&f->parked);
	if (f->from)
		fetch_unref(f->from);
	if (f->fd >= 0)
		close(f->fd);
	block_hash_fini(&f->hash);
	free(f->path);
	free(f);
}

static void feed_drop(struct feed *f)
{
	for (struct feed **at = &f->node->feeds; *at; at = &(*at)->next)
		if (*at == f) {
			*at = f->next;
			f->node->feed_count--;
			break;
		}
	f->link = NULL;
	if (!f->busy)
		feed_free(f);
}

static void feed_end(struct feed *f, enum fed_result result, const uint8_t digest[16])
{
	struct fed_end end = {.request = f->request, .result = result};
	struct bytes frame = {0};
	if (digest)
		memcpy(end.digest, digest, sizeof end.digest);
	fed_end_encode(&end, &frame);
	link_send_bare(f->link, f->set, FRAME_FED_END, frame.data, frame.len, NULL, 0);
	bytes_fini(&frame);
	feed_drop(f);
}

/* --- sending --- */

static void feed_link(struct node *node, struct link *l);

static void send_run(struct feed *f, uint64_t offset, const uint8_t *data, uint32_t len, struct chunk *chunk)
{
	struct bytes head = {0};
	fed_piece_encode_head(f->request, offset, len, &head);
	link_send_chunk(f->link, f->set, FRAME_FED, head.data, head.len, data, len, len >= CHUNK_BYTES / 4 ? chunk : NULL); /* a short one would hold all of its chunk */
	bytes_fini(&head);
	count_up(&f->set->counters.content_sent_bytes, len);
	count_up(&f->set->counters.fed_bytes, len);
}

static void send_piece(void *arg, uint64_t offset, uint32_t len, struct chunk *chunk)
{
	send_run(arg, offset, chunk->data, len, chunk);
}

/* For those who take it from elsewhere and want to know whether that is slow. */
static void note_progress(struct feed *f)
{
	struct offer *o = find_offer(f->set, f->version);
	if (!o || f->at <= o->furthest || (!o->first_ms && f->at > BLOCK)) /* of one that began before, the time is not known */
		return;
	o->furthest = f->at;
	o->last_ms = cdm_now_ms();
	if (!o->first_ms)
		o->first_ms = o->last_ms;
}

static void send_block(struct feed *f, struct chunk *chunk, uint32_t len)
{
	const uint8_t *data = chunk->data;
	for (uint32_t at = 0, run; block_next_run(data, len, &at, &run); at += run) {
		send_run(f, f->at + at, data + at, run, chunk);
		if (f->hashed)
			block_hash_piece(&f->hash, f->at + at, data + at, run);
	}
	f->at += len;
	note_progress(f);
}

/* What has just come goes on from memory. */
static bool send_kept(struct feed *f)
{
	if (!fetch_each_kept(f->from, f->at, send_piece, f))
		return false;
	f->at = f->at + BLOCK < f->size ? f->at + BLOCK : f->size;
	note_progress(f);
	return true;
}

static void read_failed(struct feed *f, int error)
{
	struct peer *p = set_peer(f->set, f->link);
	struct cdm_error err = CDM_ERROR_INIT;
	cdm_fail(&err, error, "read %.*s", (int)(f->path_len < 200 ? f->path_len : 200), f->path);
	if (p)
		unreadable_said(p, f->path, f->path_len, &err);
}

static void blocks_were_read(void *arg, int result);

static void read_blocks(struct feed_read *read)
{
	struct feed *f = read->feed;
	int fd = read->direct_fd >= 0 ? read->direct_fd : f->from ? fetch_fd(f->from) : f->fd;
	cdm_loop_readv(f->node->loop, fd, read->iov, read->count, f->at, blocks_were_read, read);
}

static void read_free(struct feed_read *read)
{
	for (unsigned i = 0; i < read->count; i++)
		chunk_unref(read->chunks[i]);
	free(read);
}

static void send_blocks(struct feed_read *read)
{
	uint32_t left = read->len, len;
	for (unsigned i = 0; i < read->count; i++, left -= len) {
		len = left < BLOCK ? left : BLOCK;
		send_block(read->feed, read->chunks[i], len);
	}
}

static void blocks_were_read(void *arg, int result)
{
	struct feed_read *read = arg;
	struct feed *f = read->feed;
	bool refused = read->direct_fd >= 0 && result == -EINVAL;
	if (f->link && (refused || content_again(result, read->len, &read->tries))) {
		if (refused)
			read->direct_fd = -1;
		read_blocks(read);
		return;
	}
	f->busy = false;
	reads_in_flight--;
	if (!f->link) {
		feed_free(f);
	} else if (result < (int)read->len) { /* shorter than it was, or not readable */
		if (result < 0)
			read_failed(f, -result);
		feed_end(f, FED_GONE, NULL);
	} else {
		struct node *node = f->node;
		struct link *l = f->link;
		send_blocks(read);
		feed_link(node, l);
	}
	read_free(read);
}

/* Several blocks at once, unless many others are being read. Past the page cache they are read by whole pages. */
static void begin_read(struct feed *f, struct chunk *first, uint64_t limit, int direct_fd)
{
	struct feed_read *read = calloc(1, sizeof *read);
	if (!read)
		abort();
	unsigned most = reads_in_flight < READS_WIDE ? READ_BLOCKS : 1;
	*read = (struct feed_read){.feed = f, .direct_fd = direct_fd};
	for (uint64_t left = limit - f->at; left > 0 && read->count < most; read->count++) {
		uint32_t len = left < BLOCK ? (uint32_t)left : BLOCK;
		struct chunk *chunk = read->count == 0 ? first : chunk_new(len);
		size_t pages = (len + BLOCK_PAGE - 1) / BLOCK_PAGE * BLOCK_PAGE;
		read->chunks[read->count] = chunk;
		read->iov[read->count] = (struct iovec){chunk->data, direct_fd >= 0 ? pages : len};
		read->len += len;
		left -= len;
	}
	f->busy = true;
	reads_in_flight++;
	read_blocks(read);
}

/* What is in the page cache goes at once. */
static void next_block(struct feed *f, uint64_t limit)
{
	int fd = f->from ? fetch_fd(f->from) : f->fd, direct_fd = f->from ? fetch_direct_fd(f->from) : -1;
	uint32_t len = limit - f->at < BLOCK ? (uint32_t)(limit - f->at) : BLOCK;
	struct chunk *chunk = chunk_new(len);
	struct iovec iov = {chunk->data, len};
	if (direct_fd >= 0 || preadv2(fd, &iov, 1, (off_t)f->at, RWF_NOWAIT) != (ssize_t)len) {
		begin_read(f, chunk, limit, direct_fd);
		return;
	}
	send_block(f, chunk, len);
	chunk_unref(chunk);
}

/* --- all was sent --- */

static void digest_work(void *arg)
{
	struct feed *f = arg;
	f->digest_error = block_hash_file(f->fd, f->size, f->digest);
}

static void digest_done(void *arg)
{
	struct feed *f = arg;
	f->busy = false;
	f->digested = true;
	f->set->posted--;
	if (!f->link)
		feed_free(f);
	else
		feed_link(f->node, f->link);
}

/* What is or was arriving here. Once it is published somebody may write to it: then it has a stamp, with another version. */
static void finish_arrived(struct feed *f)
{
	uint8_t digest[16];
	struct cdm_stamp stamp;
	if (!fetch_is_whole(f->from, digest))
		return;
	bool written = cdm_stamp_get(fetch_fd(f->from), &stamp) == 0 && !cdm_dot_equal(stamp.content.dot, f->version);
	feed_end(f, written ? FED_GONE : FED_WHOLE, digest);
}

static void finish_stored(struct feed *f)
{
	if (!f->hashed && !f->digested) {
		f->busy = true;
		f->set->posted++;
		cdm_worker_submit(f->set->walker, digest_work, digest_done, f);
		return;
	}
	int r = f->digest_error < 0 ? f->digest_error : content_verdict(f->set->follow.reader, &f->handle, f->fd, f->version);
	if (r == 1)
		return;
	if (r < 0 && r != -EAGAIN && r != -ENODATA)
		read_failed(f, -r);
	if (r == 0)
		unreadable_over(f->set, f->path, f->path_len);
	if (f->hashed)
		block_hash_end(&f->hash, f->digest);
	feed_end(f, r == 0 ? FED_WHOLE : FED_GONE, f->digest);
}

/* Send of one request until the link is full enough, it waits, or it is over (then it is freed). */
static void feed_step(struct feed *f)
{
	while (link_queued(f->link) <= LINK_QUEUE_HIGH && !f->busy) {
		uint64_t limit = f->from ? fetch_readable(f->from) : f->size;
		int fd = f->from ? fetch_fd(f->from) : f->fd;
		if (f->from && fetch_is_gone(f->from)) {
			feed_end(f, FED_GONE, NULL);
			return;
		}
		if (f->from && f->at < f->size && send_kept(f))
			continue;
		if ((f->from || f->sparse) && f->at < limit)
			f->at = block_next_data(fd, f->at, limit);
		if (f->at >= f->size) {
			if (f->from)
				finish_arrived(f);
			else
				finish_stored(f);
			return;
		}
		if (f->at >= limit)
			return;
		next_block(f, limit);
	}
}

static void feed_link(struct node *node, struct link *l)
{
	for (struct feed *f = node->feeds, *next; f && link_queued(l) <= LINK_QUEUE_HIGH; f = next) {
		next = f->next;
		if (f->link == l && !f->busy && find_content(f))
			feed_step(f);
	}
}

void feed_link_drained(struct node *node, struct link *l)
{
	feed_link(node, l);
}

void feed_kick(struct set *s)
{
	for (struct feed *f = s->node->feeds, *next; f; f = next) {
		next = f->next;
		if (f->set == s && !f->busy && find_content(f))
			feed_step(f);
	}
}

/* --- requests --- */

static void not_found(void *arg)
{
	struct feed *f = arg;
	f->parked = NULL;
	feed_end(f, FED_UNKNOWN, NULL);
}

/* The set, if this peer may have it. */
static struct set *set_of(struct node *node, struct link *l, const struct fetch_ask *ask)
{
	char name[FETCH_SET_NAME_MAX + 1];
	memcpy(name, ask->set, ask->set_len);
	name[ask->set_len] = 0;
	struct set *s = node_set(node, name);
	const struct route *r = s ? s->route : NULL;
	const struct member *m = r ? route_member_number(r, link_peer_number(l)) : NULL;
	bool may = m && strcmp(m->name, link_peer_name(l)) == 0 && !m->paused && !r->paused;
	return may && s->ready && !s->stopping ? s : NULL;
}

static void refuse(struct link *l, uint32_t request)
{
	struct fed_end end = {.request = request, .result = FED_BUSY};
	struct bytes frame = {0};
	fed_end_encode(&end, &frame);
	link_send_bare(l, NULL, FRAME_FED_END, frame.data, frame.len, NULL, 0);
	bytes_fini(&frame);
}

/* An honest peer has no more open; each of them is looked at again and again. */
static bool asks_too_much(const struct node *node, const struct link *l, const struct set *s)
{
	size_t open = 0;
	for (const struct feed *f = node->feeds; f; f = f->next)
		open += f->link == l && f->set == s;
	return open >= FETCHES_MAX;
}

static int take_fetch(struct node *node, struct link *l, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	struct fetch_ask ask;
	if (fetch_ask_decode(payload, len, &ask) < 0)
		return cdm_fail_plain(err, EBADMSG, "malformed FETCH");
	struct set *s = set_of(node, l, &ask);
	if (!s || node->feed_count >= FEEDS_MAX || asks_too_much(node, l, s)) {
		refuse(l, ask.request);
		return 0;
	}
	struct feed *f = calloc(1, sizeof *f);
	if (!f || !(f->path = malloc(ask.path_len)))
		abort();
	memcpy(f->path, ask.path, ask.path_len);
	f->path_len = ask.path_len;
	f->node = node;
	f->link = l;
	f->set = s;
	f->request = ask.request;
	f->version = ask.version;
	f->size = ask.size;
	f->at = ask.from / BLOCK * BLOCK;
	f->fd = -1;
	struct feed **at = &node->feeds;
	while (*at)
		at = &(*at)->next;
	*at = f;
	node->feed_count++;
	if (!find_content(f) && find_offer(s, f->version)) {
		feed_end(f, FED_GONE, NULL);
		return 0;
	}
	if (!f->from && f->fd < 0)
		f->parked = cdm_loop_after(node->loop, PARKED_MS, not_found, f);
	feed_link(node, l);
	return 0;
}

static int take_stop(struct node *node, struct link *l, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	uint32_t request;
	if (fetch_stop_decode(payload, len, &request) < 0)
		return cdm_fail_plain(err, EBADMSG, "malformed FETCH_STOP");
	for (struct feed *f = node->feeds, *next; f; f = next) {
		next = f->next;
		if (f->link == l && f->request == request)
			feed_drop(f);
	}
	return 0;
}

static const struct feed *find_feed(const struct node *node, const struct link *l, uint32_t request)
{
	const struct feed *f = node->feeds;
	while (f && (f->link != l || f->request != request))
		f = f->next;
	return f;
}

/* Whom it is fed hears how much there is, others how far and how fast somebody got it from here. */
static int take_look(struct node *node, struct link *l, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	struct fetch_ask ask;
	if (fetch_ask_decode(payload, len, &ask) < 0)
		return cdm_fail_plain(err, EBADMSG, "malformed FETCH_LOOK");
	struct set *s = set_of(node, l, &ask);
	const struct offer *o = s ? find_offer(s, ask.version) : NULL;
	const struct feed *f = find_feed(node, l, ask.request);
	struct fetch_at at = {.request = ask.request};
	struct bytes frame = {0};
	if (f) {
		at.bytes = f->from ? fetch_came(f->from) : f->fd >= 0 ? f->size : 0;
		at.elapsed = f->fd >= 0 || (f->from && fetch_is_fed(f->from));
	} else if (o) {
		at.bytes = o->furthest;
		at.elapsed = (uint64_t)(o->last_ms - o->first_ms);
	}
	fetch_at_encode(&at, &frame);
	link_send_bare(l, s, FRAME_FETCH_AT, frame.data, frame.len, NULL, 0);
	bytes_fini(&frame);
	return 0;
}

int feed_frame(struct node *node, struct link *l, enum frame_type type, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	if (type == FRAME_FETCH)
		return take_fetch(node, l, payload, len, err);
	return type == FRAME_FETCH_LOOK ? take_look(node, l, payload, len, err) : take_stop(node, l, payload, len, err);
}

bool feed_feeds(const struct node *node, const struct set *s, struct cdm_dot version, const struct link *l)
{
	for (const struct feed *f = node->feeds; f; f = f->next)
		if (f->link == l && f->set == s && cdm_dot_equal(f->version, version))
			return true;
	return false;
}

void feed_link_gone(struct node *node, struct link *l)
{
	for (struct feed *f = node->feeds, *next; f; f = next) {
		next = f->next;
		if (f->link == l)
			feed_drop(f);
	}
}

void feed_stop(struct set *s)
{
	for (struct feed *f = s->node->feeds, *next; f; f = next) {
		next = f->next;
		if (f->set == s)
			feed_drop(f);
	}
	free(s->offers);
	s->offers = NULL;
}
