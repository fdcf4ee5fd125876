/* SPDX-License-Identifier: Apache-2.0 */
/* fetch.c — contents that this node fetches (fetch.h): asked of a feeder, written to staging as they come, handed to the changes that wait for them. */
#include "replicator/fetch.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "common/cursor.h"
#include "common/io.h"
#include "replicator/blocks.h"
#include "replicator/publish.h"
#include "replicator/ring.h"

#define TICK_MS 250
#define SILENT_MS 1000                /* so long without a piece, and another feeder is asked */
#define RING_AGAIN_MS 5000            /* after the ring failed a content */
#define LOOK_MS 1000                  /* between looks at how fast others get it */
#define SLOW_FACTOR 3                 /* slower than the fastest by this: the ring has a slow link before us … */
#define SLOW_LEFT (4u << 20)          /* … and so much is left that another feeder pays */
#define TRIAL_PACE (4u << 20)         /* bytes per second: when the ring gives less, and the end is */
#define TRIAL_LEFT_S 10               /* further away than this, the sender is tried */
#define TRIAL_MS 3000                 /* for so long */
#define WHOLE_KEPT_MS 600000          /* for a change that was announced and does not come */
#define PART_KEPT_MS 86400000         /* for a parent that comes back */
#define SERVED_MS 10000               /* a published content may still be asked for as one that arrives */
#define WRITES_HIGH (8u << 20)
#define WRITES_LOW (2u << 20)
#define MARK_EVERY (8u << 20)         /* bytes between notes of how far a file got */
#define PARTIAL_XATTR "trusted.cdmfs.partial"
#define PARTIAL_BYTES (36 + 8 + 8)    /* boot id, size, bytes that are there */
#define DAMAGES_MAX 3

struct fetch_write { /* a piece on its way to the disk */
	struct fetch_write *next;
	struct fetch *fetch;
	uint64_t offset;
	uint32_t len;
	bool done;
	uint8_t data[];
};

struct waiter {
	struct waiter *next;
	struct incoming *in;
	uint64_t peer_serial;
};

struct fetch {
	struct fetch *next;
	struct set *set;
	struct cdm_dot version;
	char *path;
	size_t path_len;
	uint64_t size;
	int fd;
	char name[STAGING_NAME_MAX]; /* in staging; "" = it was handed over */
	uint64_t came;               /* all before this came (or is a hole) */
	struct fetch_write *writes, **writes_tail; /* in the order they came */
	size_t writing;              /* bytes of them */
	struct block_hash hash;
	bool hashed;                 /* it covers all that came */
	bool ended, checking, whole, gone;
	uint8_t digest[16];          /* with ended: what it must have */
	struct link *feeder;         /* it was asked and has not ended */
	uint32_t request;
	bool from_ring, paused;      /* paused: the feeder's link, by us */
	unsigned damages;            /* times that what came was not right */
	int64_t ring_bad_ms;         /* until then the ring is not asked */
	uint64_t sender;             /* peer that told us of it */
	struct waiter *waiters;
	unsigned refs;               /* the table, writes, the worker, feeds */
	int64_t heard_ms, used_ms;
	int64_t looked_ms;           /* when FETCH_LOOK was sent, and … */
	uint64_t looked_came, pace;  /* … how far it was then; bytes per second before that */
	enum trial { TRIAL_NONE, TRIAL_RUNS, TRIAL_OVER } trial; /* of the sender in place of the ring */
	uint64_t trial_pace;         /* what the ring gave */
	uint64_t marked;
};

static void fetch_step(struct fetch *f);
static void tick_wanted(struct set *s);

/* --- the table --- */

struct fetch *fetch_find(struct set *s, struct cdm_dot version)
{
	struct fetch *f = s->fetches;
	while (f && !cdm_dot_equal(f->version, version))
		f = f->next;
	return f;
}

static size_t count_fetches(const struct set *s)
{
	size_t n = 0;
	for (const struct fetch *f = s->fetches; f; f = f->next)
		n++;
	return n;
}

void fetch_ref(struct fetch *f)
{
	f->refs++;
}

void fetch_unref(struct fetch *f)
{
	f->used_ms = cdm_now_ms();
	if (--f->refs > 0)
		return;
	assert(!f->waiters && !f->writes);
	close(f->fd);
	block_hash_fini(&f->hash);
	free(f->path);
	free(f);
}

int fetch_fd(const struct fetch *f)
{
	return f->fd;
}

uint64_t fetch_size(const struct fetch *f)
{
	return f->size;
}

uint64_t fetch_readable(const struct fetch *f)
{
	if (f->whole)
		return f->size;
	uint64_t written = f->writes && f->writes->offset < f->came ? f->writes->offset : f->came;
	return written / BLOCK * BLOCK;
}

bool fetch_is_whole(const struct fetch *f, uint8_t ret_digest[16])
{
	if (f->whole)
		memcpy(ret_digest, f->digest, sizeof f->digest);
	return f->whole;
}

bool fetch_is_gone(const struct fetch *f)
{
	return f->gone;
}

/* --- how far a file got, for the next run --- */

static const char *boot_id(void)
{
	static char id[37];
	if (!id[0]) {
		_cleanup_close_ int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
		if (fd < 0 || read(fd, id, 36) != 36)
			memset(id, '?', 36);
	}
	return id;
}

static void mark(struct fetch *f)
{
	uint8_t out[PARTIAL_BYTES];
	struct cdm_writer w = cdm_writer_of(out, sizeof out);
	f->marked = fetch_readable(f) / BLOCK * BLOCK;
	memcpy(out, boot_id(), 36);
	w.at += 36;
	cdm_put_u64(&w, f->size);
	cdm_put_u64(&w, f->marked);
	if (f->name[0] && fsetxattr(f->fd, PARTIAL_XATTR, out, sizeof out, 0) < 0)
		cdm_debug("mark %s: %m", f->name);
}

static int read_mark(int fd, uint64_t *ret_size, uint64_t *ret_came)
{
	uint8_t in[PARTIAL_BYTES];
	if (fgetxattr(fd, PARTIAL_XATTR, in, sizeof in) != (ssize_t)sizeof in || memcmp(in, boot_id(), 36) != 0)
		return -ENODATA; /* what a power cut left may be anything */
	struct cdm_reader r = cdm_reader_of(in + 36, sizeof in - 36);
	*ret_size = cdm_get_u64(&r);
	*ret_came = cdm_get_u64(&r);
	return *ret_size <= INT64_MAX && *ret_came <= *ret_size && *ret_came % BLOCK == 0 ? 0 : -EBADMSG;
}

/* --- beginning and ending --- */

static struct fetch *fetch_add(struct set *s, struct cdm_dot version, uint64_t size, int fd, const char *name)
{
	struct fetch *f = calloc(1, sizeof *f);
	if (!f)
		abort();
	f->set = s;
	f->version = version;
	f->size = size;
	f->fd = fd;
	snprintf(f->name, sizeof f->name, "%s", name);
	f->writes_tail = &f->writes;
	f->refs = 1;
	f->used_ms = cdm_now_ms();
	block_hash_begin(&f->hash, size);
	f->hashed = true;
	f->next = s->fetches;
	s->fetches = f;
	return f;
}

static int fetch_create(struct set *s, struct cdm_dot version, uint64_t size, struct fetch **ret, struct cdm_error *err)
{
	char name[STAGING_NAME_MAX];
	snprintf(name, sizeof name, STAGING_FETCH "%016" PRIx64 "-%" PRIx64, version.origin, version.number);
	_cleanup_close_ int fd = openat(s->staging_fd, name, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return cdm_fail(err, errno, "create a staging file");
	*ret = fetch_add(s, version, size, cdm_take_fd(&fd), name);
	return 0;
}

static void resume_feeder(struct fetch *f)
{
	if (f->paused && f->feeder)
		link_resume(f->feeder);
	f->paused = false;
}

static void stop_asking(struct fetch *f)
{
	struct bytes frame = {0};
	if (!f->feeder)
		return;
	resume_feeder(f);
	fetch_stop_encode(f->request, &frame);
	link_send_bare(f->feeder, FRAME_FETCH_STOP, frame.data, frame.len, NULL, 0);
	bytes_fini(&frame);
	f->feeder = NULL;
}

/* Out of the table; its file goes unless it was handed over. */
static void fetch_drop(struct fetch *f)
{
	for (struct fetch **at = &f->set->fetches; *at; at = &(*at)->next)
		if (*at == f) {
			*at = f->next;
			break;
		}
	stop_asking(f);
	f->gone = !f->whole;
	if (f->name[0])
		unlinkat(f->set->staging_fd, f->name, 0);
	f->name[0] = 0;
	feed_kick(f->set); /* who waits for it hears that it is gone */
	fetch_unref(f);
}

/* --- changes that wait --- */

static struct peer *peer_by_serial(struct set *s, uint64_t serial)
{
	struct peer *p = s->peers;
	while (p && p->serial != serial)
		p = p->next;
	return p;
}

/* A name of its own for each change: what the mount has looked up once is not used again. */
static int hand_over(struct fetch *f, struct incoming *in)
{
	static unsigned number;
	char name[STAGING_NAME_MAX];
	int dir = f->set->staging_fd;
	snprintf(name, sizeof name, "%016" PRIx64 "-%" PRIx64 ".f%x", f->version.origin, f->version.number, ++number);
	bool last = !f->waiters;
	int r = last ? renameat(dir, f->name, dir, name) : linkat(dir, f->name, dir, name, 0);
	if (r < 0)
		return -errno;
	fremovexattr(f->fd, PARTIAL_XATTR);
	if (last)
		f->name[0] = 0;
	memcpy(in->staging, name, sizeof name);
	in->carried.kind = CONTENT_WHOLE;
	in->received = in->carried.content_bytes;
	return 0;
}

/* All that wait get it, or are told that this version is not to be had (superseded: a later save has what it needs). */
static void settle_waiters(struct fetch *f)
{
	while (f->waiters) {
		struct waiter *w = f->waiters;
		struct peer *p = peer_by_serial(f->set, w->peer_serial);
		f->waiters = w->next;
		struct incoming *in = w->in;
		free(w);
		in->superseded = !f->whole;
		int r = f->whole ? hand_over(f, in) : 0;
		if (r < 0 && p)
			link_fail(p->link, -r, "take received content of set %s", set_name(f->set));
		else if (p)
			receive_content_came(p, in);
	}
}

static void give_up(struct fetch *f)
{
	fetch_ref(f);
	f->gone = true;
	settle_waiters(f);
	fetch_drop(f);
	fetch_unref(f);
}

static void became_whole(struct fetch *f)
{
	f->whole = true;
	f->used_ms = cdm_now_ms();
	count_up(&f->set->counters.fetched, 1);
	feed_kick(f->set);
	settle_waiters(f);
}

/* The links of all changes that wait for it begin anew, and with them the changes. */
static void fail_waiters(struct fetch *f, int error, const char *what)
{
	for (struct waiter *w = f->waiters; w; w = w->next) {
		struct peer *p = peer_by_serial(f->set, w->peer_serial);
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
	f->ring_bad_ms = cdm_now_ms() + RING_AGAIN_MS;
	if (++f->damages >= DAMAGES_MAX || ftruncate(f->fd, 0) < 0) {
		f->damages = 0;
		fail_waiters(f, EBADMSG, "what was fetched is damaged each time");
		return;
	}
	fetch_step(f);
}

/* --- the end of a content --- */

static void check_work(void *arg)
{
	struct fetch *f = arg;
	uint8_t digest[16];
	f->hashed = block_hash_file(f->fd, f->size, digest) == 0 && memcmp(digest, f->digest, sizeof digest) == 0;
}

static void check_done(void *arg)
{
	struct fetch *f = arg;
	f->set->posted--;
	f->checking = false;
	if (!f->gone && f->hashed)
		became_whole(f);
	else if (!f->gone)
		damaged(f);
	fetch_unref(f);
}

/* Everything came and is written: is it right? */
static void check(struct fetch *f)
{
	if (!f->ended || f->writes || f->checking || f->whole)
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

static void write_failed(struct fetch *f, int error)
{
	struct set *s = f->set;
	bool full = error == -ENOSPC || error == -EDQUOT;
	if (full && f->waiters)
		set_receive_full(s, true);
	fail_waiters(f, -error, "write received content");
	stop_asking(f);
	if (!f->waiters)
		fetch_drop(f);
}

static void piece_written(void *arg, int result)
{
	struct fetch_write *w = arg;
	struct fetch *f = w->fetch;
	struct set *s = f->set;
	uint64_t offset = w->offset;
	if (result >= 0 && result < (int)w->len) { /* short: the rest by hand, it is rare */
		int r = cdm_pwrite_all(f->fd, w->data + result, w->len - (uint32_t)result, (off_t)(w->offset + (uint32_t)result));
		result = r < 0 ? r : (int)w->len;
	}
	w->done = true;
	f->writing -= w->len;
	s->writing--;
	while (f->writes && f->writes->done) {
		struct fetch_write *first = f->writes;
		f->writes = first->next;
		if (!f->writes)
			f->writes_tail = &f->writes;
		free(first);
	}
	if (f->writing < WRITES_LOW)
		resume_feeder(f);
	if (result < 0 && !f->gone) {
		f->ended = f->hashed = false;
		if (f->came > offset)
			f->came = offset / BLOCK * BLOCK;
		write_failed(f, result);
	} else if (!f->gone && !s->stopping) {
		if (fetch_readable(f) >= f->marked + MARK_EVERY)
			mark(f);
		feed_kick(s);
		check(f);
		fetch_step(f);
	}
	fetch_unref(f);
	set_let_go(s);
}

static void write_piece(struct fetch *f, const struct piece *piece)
{
	struct fetch_write *w = malloc(sizeof *w + piece->len);
	if (!w)
		abort();
	*w = (struct fetch_write){.fetch = f, .offset = piece->offset, .len = piece->len};
	memcpy(w->data, piece->data, piece->len);
	*f->writes_tail = w;
	f->writes_tail = &w->next;
	f->writing += w->len;
	f->set->writing++;
	fetch_ref(f);
	if (f->writing > WRITES_HIGH && !f->paused) {
		f->paused = true;
		link_pause(f->feeder);
	}
	cdm_loop_write(f->set->node->loop, f->fd, w->data, w->len, w->offset, piece_written, w);
}

static struct fetch *find_request(struct node *node, const struct link *l, uint32_t request)
{
	for (size_t i = 0; i < node->set_count; i++)
		for (struct fetch *f = node->sets[i]->fetches; f; f = f->next)
			if (f->feeder == l && f->request == request)
				return f;
	return NULL;
}

/* Requests of one feeder are served one after the other: those behind are not silent. */
static void heard(struct node *node, const struct link *l)
{
	int64_t now = cdm_now_ms();
	for (size_t i = 0; i < node->set_count; i++)
		for (struct fetch *f = node->sets[i]->fetches; f; f = f->next)
			if (f->feeder == l)
				f->heard_ms = now;
}

static struct fetch *find_number(struct node *node, uint32_t request)
{
	for (size_t i = 0; i < node->set_count; i++)
		for (struct fetch *f = node->sets[i]->fetches; f; f = f->next)
			if (f->feeder && f->request == request)
				return f;
	return NULL;
}

static int take_piece(struct node *node, struct link *l, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	struct fed_piece fed;
	if (fed_piece_decode(payload, len, &fed) < 0)
		return cdm_fail_plain(err, EBADMSG, "malformed FED");
	struct fetch *f = find_request(node, l, fed.request);
	if (!f)
		return 0; /* sent before it saw our FETCH_STOP */
	const struct piece *p = &fed.piece;
	if (p->offset < f->came || p->offset + p->len > f->size || p->offset / BLOCK != (p->offset + p->len - 1) / BLOCK)
		return cdm_fail_plain(err, EBADMSG, "a piece of a fetched content is not where it may be");
	if (f->hashed)
		f->hashed = block_hash_piece(&f->hash, p->offset, p->data, p->len) == 0;
	f->came = p->offset + p->len;
	heard(node, l);
	count_up(&f->set->counters.content_received_bytes, p->len);
	count_up(&f->set->counters.fetched_bytes, p->len);
	write_piece(f, p);
	return 0;
}

static int take_end(struct node *node, struct link *l, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	struct fed_end end;
	if (fed_end_decode(payload, len, &end) < 0)
		return cdm_fail_plain(err, EBADMSG, "malformed FED_END");
	struct fetch *f = find_request(node, l, end.request);
	if (!f)
		return 0;
	resume_feeder(f);
	f->feeder = NULL;
	if (end.result == FED_WHOLE) {
		f->ended = true;
		memcpy(f->digest, end.digest, sizeof f->digest);
		check(f);
		return 0;
	}
	if (f->from_ring) {
		f->ring_bad_ms = cdm_now_ms() + RING_AGAIN_MS;
		fetch_step(f);
	} else if (end.result != FED_BUSY) { /* who told us of it has it no more: a later save brings what is there now */
		give_up(f);
	} /* else: asked again in a moment */
	return 0;
}

static void leave_ring(struct fetch *f, int64_t ms)
{
	count_up(&f->set->counters.fetch_bypassed, 1);
	f->ring_bad_ms = cdm_now_ms() + ms;
	stop_asking(f);
	fetch_step(f);
}

/* How fast others get it from the sender: is the ring much slower? Then it is taken from there, too. */
static int take_at(struct node *node, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	struct fetch_at at;
	if (fetch_at_decode(payload, len, &at) < 0)
		return cdm_fail_plain(err, EBADMSG, "malformed FETCH_AT");
	struct fetch *f = find_number(node, at.request);
	if (!f || !f->from_ring || !at.elapsed || f->size - f->came < SLOW_LEFT || at.bytes <= f->came)
		return 0;
	if ((double)at.bytes * 1000 / (double)at.elapsed < (double)f->pace * SLOW_FACTOR)
		return 0;
	leave_ring(f, PART_KEPT_MS);
	return 0;
}

int fetch_frame(struct node *node, struct link *l, enum frame_type type, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	if (type == FRAME_FED)
		return take_piece(node, l, payload, len, err);
	if (type == FRAME_FED_END)
		return take_end(node, l, payload, len, err);
	if (type == FRAME_FETCH_AT)
		return take_at(node, payload, len, err);
	return feed_frame(node, l, type, payload, len, err);
}

/* --- whom to ask --- */

static bool may_ask(const struct fetch *f, const struct link *l)
{
	return l && link_has(l, LINK_FEATURE_FETCH) && !feed_feeds(f->set->node, f->set, f->version, l);
}

static struct link *ring_link(const struct fetch *f)
{
	struct node *node = f->set->node;
	const struct route *r = f->set->route;
	const struct member *m = r && cdm_now_ms() >= f->ring_bad_ms ? ring_before(r, node->id->number) : NULL;
	struct link *l = m ? link_find_up(node, m->name) : NULL;
	return may_ask(f, l) ? l : NULL;
}

static struct link *sender_link(const struct fetch *f)
{
	const struct peer *p = peer_by_serial(f->set, f->sender);
	return p && may_ask(f, p->link) ? p->link : NULL;
}

static void send_ask(const struct fetch *f, struct link *l, enum frame_type type)
{
	struct fetch_ask a = {.request = f->request, .version = f->version, .size = f->size, .from = f->came / BLOCK * BLOCK, .set = set_name(f->set),
		.set_len = strlen(set_name(f->set)), .path = f->path, .path_len = f->path_len};
	struct bytes frame = {0};
	fetch_ask_encode(&a, &frame);
	link_send_bare(l, type, frame.data, frame.len, NULL, 0);
	bytes_fini(&frame);
}

static void ask(struct fetch *f, struct link *l)
{
	static uint32_t request;
	uint64_t from = f->came / BLOCK * BLOCK;
	if (++request == 0)
		request = 1;
	if (from != f->came) { /* the last block is sent again, from its start */
		f->came = from;
		f->hashed = false;
	}
	if (f->came == 0) {
		block_hash_begin(&f->hash, f->size);
		f->hashed = true;
	}
	f->request = request;
	f->feeder = l;
	f->heard_ms = f->looked_ms = cdm_now_ms();
	f->looked_came = f->came;
	if (from)
		count_up(&f->set->counters.fetch_resumed_bytes, from);
	send_ask(f, l, FRAME_FETCH);
}

static void fetch_step(struct fetch *f)
{
	if (f->whole || f->ended || f->gone || f->feeder || f->writes || !f->path)
		return;
	struct link *ring = ring_link(f), *sender = sender_link(f);
	f->from_ring = ring && ring != sender;
	if (ring || sender)
		ask(f, ring ? ring : sender);
	tick_wanted(f->set);
}

/* Nothing came for a while: the other one is asked, if there is one. */
static void look_at_silence(struct fetch *f, int64_t now)
{
	if (!f->feeder || f->paused || f->writes || now - f->heard_ms < SILENT_MS)
		return;
	struct link *other = f->from_ring ? sender_link(f) : ring_link(f);
	if (!other || other == f->feeder)
		return;
	if (f->from_ring) {
		count_up(&f->set->counters.fetch_bypassed, 1);
		f->ring_bad_ms = now + RING_AGAIN_MS;
	}
	stop_asking(f);
	f->from_ring = !f->from_ring;
	ask(f, other);
}

/* Where nobody shows that it goes faster, trying does: a ring that leads over a slow link is left, one that is as fast as all else is gone back to. */
static void try_sender(struct fetch *f)
{
	uint64_t left = f->size - f->came;
	if (f->trial == TRIAL_NONE && f->from_ring && f->pace < TRIAL_PACE && left > SLOW_LEFT && left > f->pace * TRIAL_LEFT_S) {
		f->trial = TRIAL_RUNS;
		f->trial_pace = f->pace;
		leave_ring(f, TRIAL_MS);
	} else if (f->trial == TRIAL_RUNS && !f->from_ring && cdm_now_ms() >= f->ring_bad_ms) {
		f->trial = TRIAL_OVER;
		if (f->pace * 2 < f->trial_pace * 3 && ring_link(f)) {
			stop_asking(f);
			fetch_step(f);
		}
	}
}

/* The ring's order may lead over a slow link: how do others fare who take it from whom we heard of it? */
static void look_at_pace(struct fetch *f, int64_t now)
{
	if (!f->feeder || now - f->looked_ms < LOOK_MS)
		return;
	f->pace = (f->came - f->looked_came) * 1000 / (uint64_t)(now - f->looked_ms);
	f->looked_ms = now;
	f->looked_came = f->came;
	struct link *sender = sender_link(f);
	if (!sender || (f->from_ring && sender == f->feeder))
		return;
	if (f->from_ring)
		send_ask(f, sender, FRAME_FETCH_LOOK);
	try_sender(f);
}

static bool is_over(const struct fetch *f, int64_t now)
{
	int64_t kept = !f->whole ? PART_KEPT_MS : f->name[0] ? WHOLE_KEPT_MS : SERVED_MS;
	return f->refs == 1 && !f->waiters && !f->feeder && now - f->used_ms > kept;
}

static void tick(void *arg)
{
	struct set *s = arg;
	int64_t now = cdm_now_ms();
	s->fetch_timer = NULL;
	for (struct fetch *f = s->fetches, *next; f; f = next) {
		next = f->next;
		if (is_over(f, now)) {
			fetch_drop(f);
			continue;
		}
		look_at_silence(f, now);
		look_at_pace(f, now);
		fetch_step(f);
	}
	tick_wanted(s);
}

/* While something is being fetched or served; what is only kept does not wake the machine. */
static void tick_wanted(struct set *s)
{
	bool busy = false;
	for (const struct fetch *f = s->fetches; f && !busy; f = f->next)
		busy = f->feeder || f->waiters || (f->whole && !f->name[0]);
	if (busy && !s->fetch_timer && !s->stopping)
		s->fetch_timer = cdm_loop_after(s->node->loop, TICK_MS, tick, s);
}

/* --- what begins one --- */

/* Room for one more: the one that nobody needs for longest goes. */
static bool make_room(struct set *s)
{
	struct fetch *oldest = NULL;
	if (count_fetches(s) < FETCHES_MAX)
		return true;
	for (struct fetch *f = s->fetches; f; f = f->next)
		if (f->refs == 1 && !f->waiters && !f->feeder && (!oldest || f->used_ms < oldest->used_ms))
			oldest = f;
	if (oldest)
		fetch_drop(oldest);
	return oldest;
}

static void tell_others(struct peer *from, const struct coming *c)
{
	struct bytes frame = {0};
	coming_encode(c, &frame);
	for (struct peer *p = from->set->peers; p; p = p->next)
		if (p != from && p->subscribed && link_has(p->link, LINK_FEATURE_FETCH))
			link_send(p->link, p->set, FRAME_COMING, 0, frame.data, frame.len, NULL, 0);
	bytes_fini(&frame);
}

static void set_path(struct fetch *f, const char *path, size_t len)
{
	free(f->path);
	f->path = strndup(path, len);
	if (!f->path)
		abort();
	f->path_len = len;
}

/* The entry of this content, made if there is none. NULL with err, or no room. */
static struct fetch *entry_for(struct peer *p, const struct coming *c, struct cdm_error *err)
{
	struct set *s = p->set;
	struct fetch *f = fetch_find(s, c->version);
	if (f && (f->size != c->size || (f->whole && !f->name[0]))) { /* another content, or one that was handed over */
		fetch_drop(f);
		f = NULL;
	}
	bool fresh = !f;
	if (!f && !make_room(s))
		cdm_fail_plain(err, ENOBUFS, "more than %d contents on their way", FETCHES_MAX);
	else if (!f)
		fetch_create(s, c->version, c->size, &f, err);
	if (!f)
		return NULL;
	set_path(f, c->path, c->path_len);
	f->sender = p->serial;
	f->used_ms = cdm_now_ms();
	if (fresh)
		tell_others(p, c);
	return f;
}

void fetch_coming(struct peer *p, const struct coming *c)
{
	struct cdm_error err = CDM_ERROR_INIT;
	struct set *s = p->set;
	if (!s->swept || s->receive_full || cdm_vector_covers(&s->follow.visible, c->version) || fetch_find(s, c->version))
		return;
	struct fetch *f = entry_for(p, c, &err);
	if (f)
		fetch_step(f);
	feed_kick(s);
}

void fetch_await(struct peer *p, struct incoming *in)
{
	const struct carried *k = &in->carried;
	struct coming c = {.version = k->stamp.content.dot, .size = k->size, .path = k->change.path, .path_len = k->change.path_len};
	struct cdm_error err = CDM_ERROR_INIT;
	struct fetch *f = entry_for(p, &c, &err);
	if (!f) {
		if (err.number == ENOSPC || err.number == EDQUOT)
			set_receive_full(p->set, true);
		link_fail(p->link, err.number, "%s", err.text);
		return;
	}
	struct waiter *w = calloc(1, sizeof *w);
	if (!w)
		abort();
	w->in = in;
	w->peer_serial = p->serial;
	w->next = f->waiters;
	f->waiters = w;
	if (f->whole)
		settle_waiters(f);
	else
		fetch_step(f);
	feed_kick(p->set);
	tick_wanted(p->set);
}

/* --- what ends --- */

void fetch_peer_gone(struct peer *p)
{
	for (struct fetch *f = p->set->fetches; f; f = f->next)
		for (struct waiter **at = &f->waiters; *at;) {
			struct waiter *w = *at;
			if (w->peer_serial != p->serial) {
				at = &w->next;
				continue;
			}
			*at = w->next;
			free(w);
		}
}

void fetch_link_gone(struct node *node, struct link *l)
{
	feed_link_gone(node, l);
	for (size_t i = 0; i < node->set_count; i++)
		for (struct fetch *f = node->sets[i]->fetches; f; f = f->next) {
			if (f->feeder != l)
				continue;
			f->feeder = NULL;
			f->paused = false;
			f->used_ms = cdm_now_ms();
			mark(f);
			fetch_step(f);
		}
}

static int take_up(struct set *s, const char *name)
{
	struct cdm_dot version;
	uint64_t size, came;
	int end = 0;
	if (sscanf(name, STAGING_FETCH "%16" SCNx64 "-%16" SCNx64 "%n", &version.origin, &version.number, &end) != 2 || name[end])
		return -EINVAL;
	_cleanup_close_ int fd = openat(s->staging_fd, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || read_mark(fd, &size, &came) < 0 || !came || count_fetches(s) >= FETCHES_MAX)
		return -ENODATA;
	struct fetch *f = fetch_add(s, version, size, cdm_take_fd(&fd), name);
	f->came = f->marked = came;
	f->hashed = false;
	return 0;
}

void fetch_start(struct set *s)
{
	int fd = openat(s->staging_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (!d) {
		if (fd >= 0)
			close(fd);
		return;
	}
	for (struct dirent *e; (e = readdir(d));)
		if (strncmp(e->d_name, STAGING_FETCH, strlen(STAGING_FETCH)) == 0 && take_up(s, e->d_name) < 0)
			unlinkat(fd, e->d_name, 0);
	closedir(d);
}

void fetch_stop(struct set *s)
{
	cdm_timer_cancel(&s->fetch_timer);
	while (s->fetches) {
		struct fetch *f = s->fetches;
		mark(f); /* the next run goes on */
		f->name[0] = 0;
		fetch_drop(f);
	}
}
