/* SPDX-License-Identifier: Apache-2.0 */
/* fetch.c — contents that this node fetches (fetch.h): the table, where a file lies and how far it got, what begins and ends one. */
#include "replicator/fetch_internal.h"

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
	assert(!f->waiters && !f->kept); /* the set may be gone by now */
	fetch_end_writing(f);
	close(f->fd);
	block_hash_fini(&f->hash);
	free(f->path);
	free(f);
}

int fetch_fd(const struct fetch *f)
{
	return f->fd;
}

int fetch_direct_fd(const struct fetch *f)
{
	return f->no_direct ? -1 : f->direct_fd;
}

uint64_t fetch_size(const struct fetch *f)
{
	return f->size;
}

uint64_t fetch_readable(const struct fetch *f)
{
	if (f->whole)
		return f->size;
	return fetch_written(f) / BLOCK * BLOCK;
}

uint64_t fetch_came(const struct fetch *f)
{
	return f->whole ? f->size : f->came;
}

bool fetch_is_fed(const struct fetch *f)
{
	return f->whole || f->feeder;
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

static void put_mark(struct fetch *f, uint8_t out[FETCH_PARTIAL_BYTES])
{
	struct cdm_writer w = cdm_writer_of(out, FETCH_PARTIAL_BYTES);
	f->marked = fetch_readable(f) / BLOCK * BLOCK;
	memcpy(out, boot_id(), 36);
	w.at += 36;
	cdm_put_u64(&w, f->size);
	cdm_put_u64(&w, f->marked);
}

static void mark(struct fetch *f)
{
	uint8_t out[FETCH_PARTIAL_BYTES];
	put_mark(f, out);
	if (f->name[0] && !f->marking && fsetxattr(f->fd, FETCH_PARTIAL_XATTR, out, sizeof out, 0) < 0)
		cdm_debug("mark %s: %m", f->name);
}

static void was_marked(void *arg, int result)
{
	struct fetch *f = arg;
	struct set *s = f->set;
	f->marking = false;
	s->writing--;
	if (!f->gone && !s->stopping)
		fetch_check(f);
	fetch_unref(f);
	set_let_go(s);
}

void fetch_mark_wanted(struct fetch *f)
{
	if (f->marking || !f->name[0])
		return;
	f->marking = true;
	f->set->writing++;
	fetch_ref(f);
	put_mark(f, f->mark);
	cdm_loop_fsetxattr(f->set->node->loop, f->fd, FETCH_PARTIAL_XATTR, f->mark, sizeof f->mark, was_marked, f);
}

static int read_mark(int fd, uint64_t *ret_size, uint64_t *ret_came)
{
	uint8_t in[FETCH_PARTIAL_BYTES];
	if (fgetxattr(fd, FETCH_PARTIAL_XATTR, in, sizeof in) != (ssize_t)sizeof in || memcmp(in, boot_id(), 36) != 0)
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
	fetch_begin_writing(f);
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

/* Out of the table; its file goes unless it was handed over. */
void fetch_drop(struct fetch *f)
{
	for (struct fetch **at = &f->set->fetches; *at; at = &(*at)->next)
		if (*at == f) {
			*at = f->next;
			break;
		}
	fetch_stop_asking(f);
	f->gone = !f->whole;
	fetch_forget_pieces(f);
	if (f->name[0])
		unlinkat(f->set->staging_fd, f->name, 0);
	f->name[0] = 0;
	feed_kick(f->set); /* who waits for it hears that it is gone */
	fetch_unref(f);
}

/* --- what begins one --- */

/* Announced, and its change has not come: what it has would have to be fetched again. */
static bool is_ahead(const struct fetch *f)
{
	return !f->waiters && f->name[0];
}

static bool goes_before(const struct fetch *a, const struct fetch *b)
{
	return is_ahead(a) != is_ahead(b) ? is_ahead(b) : a->used_ms < b->used_ms;
}

/* Room for one more: the one that nobody needs for longest goes, of those that are published first. */
static bool make_room(struct set *s)
{
	struct fetch *first = NULL;
	if (count_fetches(s) < FETCHES_MAX)
		return true;
	for (struct fetch *f = s->fetches; f; f = f->next)
		if (f->refs == 1 && !f->waiters && !f->feeder && (!first || goes_before(f, first)))
			first = f;
	if (first)
		fetch_drop(first);
	return first;
}

/* For one that was only announced there is no more than a part of the room, and nothing goes for it. */
static bool has_room_ahead(const struct set *s)
{
	size_t ahead = 0;
	for (const struct fetch *f = s->fetches; f; f = f->next)
		ahead += is_ahead(f);
	return ahead < FETCHES_AHEAD && count_fetches(s) < FETCHES_MAX;
}

static void tell_others(struct peer *from, const struct coming *c)
{
	struct bytes frame = {0};
	coming_encode(c, &frame);
	for (struct peer *p = from->set->peers; p; p = p->next)
		if (p != from && p->subscribed && link_has(p->link, WIRE_FEATURE_FETCH))
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

/* The entry of this content, made if there is none (then there must be room). NULL with err. */
static struct fetch *entry_for(struct peer *p, const struct coming *c, struct cdm_error *err)
{
	struct set *s = p->set;
	struct fetch *f = fetch_find(s, c->version);
	if (f && f->size != c->size && f->waiters) {
		cdm_fail_plain(err, EBADMSG, "one content with two sizes");
		return NULL;
	}
	if (f && (f->size != c->size || (f->whole && !f->name[0]))) { /* of an earlier run, or handed over */
		fetch_drop(f);
		f = NULL;
	}
	bool fresh = !f;
	if (fresh && fetch_create(s, c->version, c->size, &f, err) < 0)
		return NULL;
	set_path(f, c->path, c->path_len);
	fetch_sender_is(f, p);
	f->used_ms = cdm_now_ms();
	if (fresh)
		tell_others(p, c);
	return f;
}

void fetch_coming(struct peer *p, const struct coming *c)
{
	struct cdm_error err = CDM_ERROR_INIT;
	struct set *s = p->set;
	if (!s->swept || s->receive_full || cdm_vector_covers(&s->follow.visible, c->version) || fetch_find(s, c->version) || !has_room_ahead(s))
		return;
	struct fetch *f = entry_for(p, c, &err);
	if (f)
		fetch_step(f);
	feed_kick(s);
}

/* Of a batch or an answer. The incoming of a batch is freed with the batch, that of an answer has no other owner. */
static void waiter_free(struct waiter *w, int staging_fd)
{
	if (w->in->carried.flags & CARRIED_ANSWER)
		incoming_free(w->in, staging_fd);
	free(w);
}

/* The first of the queue has room now. */
static void begin(struct set *s, struct waiter *w)
{
	const struct carried *k = &w->in->carried;
	struct coming c = {.version = k->stamp.content.dot, .size = k->size, .path = k->change.path, .path_len = k->change.path_len};
	struct cdm_error err = CDM_ERROR_INIT;
	struct peer *p = set_peer_by_serial(s, w->peer_serial); /* those of peers that are gone do not wait here */
	struct fetch *f = entry_for(p, &c, &err);
	if (!f) {
		if (err.number == ENOSPC || err.number == EDQUOT)
			set_receive_full(s, true);
		link_fail(p->link, err.number, "%s", err.text);
		waiter_free(w, s->staging_fd);
		return;
	}
	w->next = f->waiters;
	f->waiters = w;
	if (f->whole)
		fetch_settle_waiters(f);
	else
		fetch_step(f);
}

void fetch_queue_step(struct set *s)
{
	bool began = false;
	for (struct waiter *w; (w = s->fetch_queue) && (fetch_find(s, w->in->carried.stamp.content.dot) || make_room(s)); began = true) {
		s->fetch_queue = w->next;
		begin(s, w);
	}
	if (began)
		feed_kick(s);
	fetch_tick_wanted(s);
}

/* The queue is as long as batches in flight allow. */
void fetch_await(struct peer *p, struct incoming *in)
{
	struct waiter *w = calloc(1, sizeof *w), **at = &p->set->fetch_queue;
	if (!w)
		abort();
	w->in = in;
	w->peer_serial = p->serial;
	while (*at)
		at = &(*at)->next;
	*at = w;
	fetch_queue_step(p->set);
}

/* --- what ends --- */

static void forget_waiters(struct waiter **at, const struct peer *p)
{
	while (*at) {
		struct waiter *w = *at;
		if (w->peer_serial != p->serial) {
			at = &w->next;
			continue;
		}
		*at = w->next;
		waiter_free(w, p->set->staging_fd);
	}
}

void fetch_peer_gone(struct peer *p)
{
	forget_waiters(&p->set->fetch_queue, p);
	for (struct fetch *f = p->set->fetches; f; f = f->next)
		forget_waiters(&f->waiters, p);
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
			fetch_flush_pieces(f);
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
	f->came = f->marked = f->kept_from = came;
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

