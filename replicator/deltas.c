/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/deltas.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include "common/io.h"
#include "replicator/set_internal.h"
#include "replicator/signatures.h"

#define PLANS_MAX 4096               /* remembered: the slowest peer may be four batches behind */
#define PLANS_BYTES (8u << 20)       /* and their copies */
#define SIGNINGS_MAX 4096            /* waiting: beyond it new files get no signature */
#define SIGN_NICE 19
#define BUCKETS 4096                 /* power of two */
#define RECEIVED_MAX 1024            /* plans that came and nobody asked for yet: at a leaf nobody ever does */
#define RECEIVED_BYTES (1u << 20)
#define SAVED_MIN 256                /* a delta must save so much */

struct deltas {
	struct set *set;
	struct signatures *signatures;
	struct cdm_worker *searcher, *signer;
	bool opening, ready;              /* what earlier runs left is being read; was read */
	struct delta_plan *plans, **tail; /* oldest first */
	struct delta_plan *buckets[BUCKETS]; /* by version */
	size_t plan_count, signings;
	uint64_t plan_bytes;
	struct cdm_dot signing[64];       /* of those that wait: a save goes to several peers */
	size_t signing_next;
	pthread_mutex_t lock;             /* the rest, in any thread */
	struct delta_plan *received, **received_tail; /* oldest first, linked by `next` */
	size_t received_count;
	uint64_t received_bytes;
};

struct cdm_dot deltas_base(const struct cdm_change *c)
{
	return cdm_dot_is_none(c->base) || cdm_dot_equal(c->base, c->version.dot) ? c->victim : c->base;
}

/* --- plans --- */

static void plan_free(struct delta_plan *p)
{
	delta_found_fini(&p->found);
	bytes_fini(&p->copies);
	bytes_fini(&p->given);
	item_free(p->item);
	free(p->base_path);
	free(p);
}

void deltas_release(struct delta_plan **plan)
{
	struct delta_plan *p = *plan;
	*plan = NULL;
	if (p && --p->refs == 0)
		plan_free(p);
}

static uint64_t plan_bytes(const struct delta_plan *p)
{
	return p->found.copies.room * sizeof *p->found.copies.list + p->copies.room;
}

static struct delta_plan **bucket_of(struct deltas *d, struct cdm_dot version)
{
	return &d->buckets[(version.number ^ version.origin * 31) & (BUCKETS - 1)];
}

static struct delta_plan *plan_find(struct deltas *d, struct cdm_dot version)
{
	struct delta_plan *p = *bucket_of(d, version);
	while (p && !cdm_dot_equal(p->version, version))
		p = p->next_like;
	return p;
}

static void plan_add(struct deltas *d, struct delta_plan *p)
{
	struct delta_plan **bucket = bucket_of(d, p->version);
	p->next_like = *bucket;
	*bucket = p;
	*d->tail = p;
	d->tail = &p->next;
	d->plan_count++;
}

/* Forget the oldest as long as there are too many; those at work stay. */
static void plans_trim(struct deltas *d)
{
	while (d->plans && d->plans->state != PLAN_WORKING && (d->plan_count > PLANS_MAX || d->plan_bytes > PLANS_BYTES)) {
		struct delta_plan *p = d->plans;
		struct delta_plan **at = bucket_of(d, p->version);
		while (*at != p)
			at = &(*at)->next_like;
		*at = p->next_like;
		d->plans = p->next;
		if (!d->plans)
			d->tail = &d->plans;
		d->plan_count--;
		d->plan_bytes -= plan_bytes(p);
		deltas_release(&p);
	}
}

/* --- plans that came with what was received --- */

static struct delta_plan *received_pop(struct deltas *d)
{
	struct delta_plan *p = d->received;
	if (!p)
		return NULL;
	d->received = p->next;
	if (!d->received)
		d->received_tail = &d->received;
	p->next = NULL;
	d->received_count--;
	d->received_bytes -= plan_bytes(p);
	return p;
}

void deltas_received(struct deltas *d, const struct carried *k, struct delta_copies *copies, const uint8_t *encoded)
{
	struct delta_plan *p = calloc(1, sizeof *p);
	if (!p)
		abort();
	p->state = PLAN_READY;
	p->version = k->stamp.content.dot;
	p->base = k->delta.base;
	p->base_size = k->delta.base_size;
	p->guessed = cdm_dot_is_none(deltas_base(&k->change));
	p->base_path = k->delta.path_len ? strndup(k->delta.path, k->delta.path_len) : NULL;
	if (k->delta.path_len && !p->base_path)
		abort();
	p->base_path_len = k->delta.path_len;
	p->found.copies = *copies;
	*copies = (struct delta_copies){0};
	p->found.size = k->size;
	memcpy(p->found.digest, k->delta.digest, sizeof p->found.digest);
	bytes_put(&p->copies, encoded, k->delta.copies_total);
	p->received = true;
	p->refs = 1;
	pthread_mutex_lock(&d->lock);
	*d->received_tail = p;
	d->received_tail = &p->next;
	d->received_count++;
	d->received_bytes += plan_bytes(p);
	while (d->received != p && (d->received_count > RECEIVED_MAX || d->received_bytes > RECEIVED_BYTES)) {
		struct delta_plan *old = received_pop(d);
		deltas_release(&old);
	}
	pthread_mutex_unlock(&d->lock);
}

static void take_received(struct deltas *d)
{
	pthread_mutex_lock(&d->lock);
	for (struct delta_plan *p; (p = received_pop(d));) {
		p->deltas = d;
		p->set = d->set;
		d->plan_bytes += plan_bytes(p);
		plan_add(d, p);
	}
	pthread_mutex_unlock(&d->lock);
	plans_trim(d);
}

/* --- the worker's part --- */

/* The content that is to be shipped, if it still is that version. fd or -errno. */
static int open_version(struct set *s, const struct cdm_change *c)
{
	struct cdm_stamp stamp;
	struct stat st;
	_cleanup_close_ int fd = cdm_handle_open(s->store_fd, &c->handle, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || cdm_stamp_get(fd, &stamp) < 0 || !cdm_dot_equal(stamp.content.dot, c->version.dot))
		return -ESTALE;
	return cdm_take_fd(&fd);
}

static bool still_is(int fd, struct cdm_dot version)
{
	struct cdm_stamp stamp;
	return cdm_stamp_get(fd, &stamp) == 0 && cdm_dot_equal(stamp.content.dot, version);
}

static void keep_signature(struct deltas *d, int fd, const struct cdm_change *c, const struct delta_signature *signature)
{
	if (still_is(fd, c->version.dot) && signatures_put(d->signatures, c->version.dot, c->path, c->path_len, signature) == 0)
		count_up(&d->set->counters.signatures, 1);
}

/* A file with such a name, if it is here as it was when it was shipped: then the others have it, too. */
static bool find_like(struct delta_plan *p, uint64_t size)
{
	const struct cdm_change *c = &p->item->change;
	struct signatures_like like;
	if (!signatures_find_like(p->deltas->signatures, c->path, c->path_len, size, &like))
		return false;
	_cleanup_close_ int fd = cdm_open_beneath(p->set->store_fd, like.path, like.path_len, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
	bool renamed_since = fd >= 0 && still_is(fd, c->version.dot); /* over it: the others hear of that later */
	if (fd < 0 || (!still_is(fd, like.dot) && !renamed_since)) {
		free(like.path);
		return false;
	}
	p->base = like.dot;
	p->base_path = like.path;
	p->base_path_len = like.path_len;
	return true;
}

static void search(struct delta_plan *p)
{
	const struct cdm_change *c = &p->item->change;
	struct signatures *signatures = p->deltas->signatures;
	struct stat st;
	_cleanup_close_ int fd = open_version(p->set, c);
	if (fd < 0 || fstat(fd, &st) < 0)
		return;
	if (cdm_dot_is_none(p->base) && !find_like(p, (uint64_t)st.st_size))
		return;
	struct delta_signature *old = NULL;
	if (!p->given.len)
		old = signatures_get(signatures, p->base);
	else if (delta_signature_decode(p->given.data, p->given.len, &old) < 0)
		old = NULL;
	if (!old || delta_search(fd, old, &p->found, NULL) < 0) {
		free(old);
		return;
	}
	p->base_size = old->size;
	free(old);
	keep_signature(p->deltas, fd, c, p->found.signature);
	free(p->found.signature);
	p->found.signature = NULL;
	delta_copies_encode(&p->found.copies, 0, FRAME_COPIES_MAX, &p->copies);
	p->found_any = p->copies.len + SAVED_MIN <= p->found.copies.bytes && p->copies.len <= FRAME_COPIES_MAX - 64;
}

static void kick_peers(struct set *s)
{
	for (struct peer *p = s->stopping ? NULL : s->peers, *next; p; p = next) {
		next = p->next;
		ship_kick(p);
	}
}

struct signing {
	struct deltas *deltas;
	struct item *item;
};

static void take_signature(struct signing *g)
{
	const struct cdm_change *c = &g->item->change;
	struct delta_signature *signature = NULL;
	uint8_t digest[16];
	if (signatures_has(g->deltas->signatures, c->version.dot))
		return;
	_cleanup_close_ int fd = open_version(g->deltas->set, c);
	if (fd < 0 || delta_sign_file(fd, &signature, digest, NULL) < 0)
		return;
	keep_signature(g->deltas, fd, c, signature);
	free(signature);
}

/* Nobody waits for it: it gets what the sending of the same content leaves of the processor. */
static void sign_work(void *arg)
{
	int was = getpriority(PRIO_PROCESS, 0); /* of this thread alone */
	setpriority(PRIO_PROCESS, 0, SIGN_NICE);
	take_signature(arg);
	setpriority(PRIO_PROCESS, 0, was);
}

static void sign_done(void *arg)
{
	struct signing *g = arg;
	g->deltas->set->posted--;
	g->deltas->signings--;
	count_up(&g->deltas->set->counters.signing, (uint64_t)-1);
	item_free(g->item);
	free(g);
}

static struct item *copy_item(const struct item *item)
{
	struct item *copy = item_new(&item->change, item->read_ms);
	return copy; /* NULL: it does not encode; then it travels whole */
}

static void sign(struct deltas *d, const struct item *item)
{
	struct cdm_dot version = item->change.version.dot;
	for (size_t i = 0; i < sizeof d->signing / sizeof *d->signing; i++)
		if (cdm_dot_equal(d->signing[i], version))
			return;
	if (d->set->stopping || d->signings == SIGNINGS_MAX || signatures_has(d->signatures, version))
		return;
	struct signing *g = calloc(1, sizeof *g);
	if (!g || !(g->item = copy_item(item))) {
		free(g);
		return;
	}
	g->deltas = d;
	d->signing[d->signing_next++ % (sizeof d->signing / sizeof *d->signing)] = version;
	d->signings++;
	count_up(&d->set->counters.signing, 1);
	d->set->posted++;
	cdm_worker_submit(d->signer, sign_work, sign_done, g);
}

static void search_work(void *arg)
{
	search(arg);
}

static void search_done(void *arg)
{
	struct delta_plan *p = arg;
	struct set *s = p->set;
	s->posted--;
	p->state = p->found_any ? PLAN_READY : PLAN_NONE;
	if (!p->found_any)
		sign(p->deltas, p->item); /* nothing to search for was found: the next version shall find this one */
	item_free(p->item);
	p->item = NULL;
	if (p->remembered)
		p->deltas->plan_bytes += plan_bytes(p);
	deltas_release(&p);
	kick_peers(s);
}

/* --- what is asked --- */

/* The base to search for, none where the name must tell. False: there is none. A file that took the place of a known one before
 * it was saved does not say of which. */
static bool find_base(struct deltas *d, const struct cdm_change *c, struct cdm_dot *ret)
{
	*ret = deltas_base(c);
	if (!cdm_dot_is_none(*ret))
		return signatures_has(d->signatures, *ret);
	if (c->flags & CDM_CH_COVERS)
		*ret = signatures_newest_at(d->signatures, c->path, c->path_len);
	if (cdm_dot_equal(*ret, c->version.dot)) /* it was searched before, and its signature kept */
		*ret = (struct cdm_dot){0};
	return !cdm_dot_is_none(*ret) || signatures_may_find_like(d->signatures, c->path, c->path_len);
}

bool deltas_fits(const struct delta_plan *p, const struct cdm_change *c)
{
	struct cdm_dot base = deltas_base(c);
	return cdm_dot_equal(base, p->base) || (p->guessed && cdm_dot_is_none(base));
}

/* Searched for from now on. Two hold it: the caller and the worker. */
static struct delta_plan *plan_begin(struct deltas *d, const struct item *item, struct cdm_dot base, struct bytes *given)
{
	struct delta_plan *p = calloc(1, sizeof *p);
	if (!p || !(p->item = copy_item(item))) {
		free(p);
		return NULL;
	}
	p->deltas = d;
	p->set = d->set;
	p->version = item->change.version.dot;
	p->base = base;
	p->refs = 2;
	if (given) {
		p->given = *given;
		*given = (struct bytes){0};
	}
	d->set->posted++;
	cdm_worker_submit(d->searcher, search_work, search_done, p);
	return p;
}

static struct delta_plan *plan_of(struct deltas *d, const struct item *item)
{
	const struct cdm_change *c = &item->change;
	if (!d || !d->ready || !item_is_whole_save(item) || item->bytes < DELTA_FILE_MIN || cdm_dot_is_none(c->version.dot) || !c->handle.len)
		return NULL;
	take_received(d);
	struct delta_plan *p = plan_find(d, c->version.dot);
	if (p && p->received && deltas_fits(p, c))
		sign(d, item);
	else if (p && p->received)
		p = NULL; /* saves that became one here are another step than the one that came */
	bool knows_more = p && p->state == PLAN_NONE && p->guessed && !cdm_dot_is_none(deltas_base(c)); /* renamed into place since */
	if (p && !knows_more)
		return p;
	struct cdm_dot base;
	if (!find_base(d, c, &base)) {
		sign(d, item);
		return NULL;
	}
	p = plan_begin(d, item, base, NULL);
	if (!p)
		return NULL;
	p->remembered = true;
	p->guessed = cdm_dot_is_none(deltas_base(c));
	plan_add(d, p);
	plans_trim(d);
	return p;
}

struct delta_plan *deltas_against(struct deltas *d, const struct item *item, struct cdm_dot base, struct bytes *signature)
{
	if (!d || !d->ready || d->set->stopping || cdm_dot_is_none(base) || cdm_dot_is_none(item->change.version.dot))
		return NULL;
	return plan_begin(d, item, base, signature);
}

bool deltas_knows(const struct deltas *d, struct cdm_dot version)
{
	return d && d->ready && signatures_has(d->signatures, version);
}

bool deltas_opening(const struct deltas *d)
{
	return d && d->opening;
}

void deltas_expect(struct deltas *d, const struct item *item)
{
	plan_of(d, item);
}

struct delta_plan *deltas_take(struct deltas *d, const struct item *item)
{
	struct delta_plan *p = plan_of(d, item);
	if (!p || p->state == PLAN_NONE)
		return NULL;
	p->refs++;
	return p;
}

/* --- what a peer asks of a base of ours --- */

struct telling {
	struct deltas *deltas;
	char *path;
	size_t len;
	struct cdm_dot version;
	struct bytes encoded;
	deltas_sign_fn *done;
	void *arg;
};

static void tell_work(void *arg)
{
	struct telling *t = arg;
	uint8_t digest[16];
	struct signatures *signatures = t->deltas->signatures; /* were opened before, by this thread; NULL: they could not be */
	struct delta_signature *signature = signatures ? signatures_get(signatures, t->version) : NULL;
	if (!signature) {
		_cleanup_close_ int fd = cdm_open_beneath(t->deltas->set->store_fd, t->path, t->len, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
		if (fd < 0 || !still_is(fd, t->version) || delta_sign_file(fd, &signature, digest, NULL) < 0)
			return;
	}
	delta_signature_encode(signature, &t->encoded);
	free(signature);
}

static void tell_done(void *arg)
{
	struct telling *t = arg;
	struct set *s = t->deltas->set;
	s->posted--;
	t->done(t->arg, &t->encoded);
	bytes_fini(&t->encoded);
	free(t->path);
	free(t);
}

int deltas_sign(struct deltas *d, const char *path, size_t len, struct cdm_dot version, deltas_sign_fn *done, void *arg)
{
	if (!d || d->set->stopping)
		return -EAGAIN;
	struct telling *t = calloc(1, sizeof *t);
	if (!t || !(t->path = malloc(len + 1)))
		abort();
	*t = (struct telling){.deltas = d, .path = memcpy(t->path, path, len), .len = len, .version = version, .done = done, .arg = arg};
	d->set->posted++;
	cdm_worker_submit(d->signer, tell_work, tell_done, t);
	return 0;
}

struct signatures *deltas_signatures(struct deltas *d)
{
	return d && d->ready ? d->signatures : NULL;
}

/* --- lifetime --- */

static uint64_t signatures_limit(int store_fd)
{
	struct statvfs fs;
	uint64_t share = fstatvfs(store_fd, &fs) < 0 ? 0 : (uint64_t)fs.f_blocks * fs.f_frsize / SIGNATURES_SHARE;
	return share < SIGNATURES_MIN ? SIGNATURES_MIN : share > SIGNATURES_MAX ? SIGNATURES_MAX : share;
}

static void open_work(void *arg)
{
	struct deltas *d = arg;
	struct cdm_error err = CDM_ERROR_INIT;
	if (signatures_open(d->set->store_fd, signatures_limit(d->set->store_fd), &d->signatures, &err) < 0)
		cdm_log_err(deltas_off, &err, cdm_str("set", set_name(d->set)));
}

static void open_done(void *arg)
{
	struct deltas *d = arg;
	d->set->posted--;
	d->opening = false;
	d->ready = d->signatures;
	kick_peers(d->set);
}

struct deltas *deltas_new(struct set *s)
{
	struct cdm_error err = CDM_ERROR_INIT;
	struct deltas *d = calloc(1, sizeof *d);
	if (!d)
		abort();
	d->set = s;
	d->tail = &d->plans;
	d->received_tail = &d->received;
	pthread_mutex_init(&d->lock, NULL);
	d->searcher = cdm_worker_new(s->node->loop, "cdm-delta");
	d->signer = cdm_worker_new(s->node->loop, "cdm-sign");
	if (d->searcher && d->signer) {
		s->posted++;
		d->opening = true;
		cdm_worker_submit(d->signer, open_work, open_done, d);
		return d;
	}
	cdm_fail(&err, EAGAIN, "start the threads for deltas");
	cdm_log_err(deltas_off, &err, cdm_str("set", set_name(s)));
	deltas_stop(d);
	deltas_free(&d);
	return NULL;
}

void deltas_stop(struct deltas *d)
{
	if (!d)
		return;
	cdm_worker_free(&d->searcher);
	cdm_worker_free(&d->signer);
}

void deltas_free(struct deltas **deltas)
{
	struct deltas *d = *deltas;
	if (!d)
		return;
	*deltas = NULL;
	for (struct delta_plan *p = d->plans, *next; p; p = next) {
		next = p->next;
		deltas_release(&p);
	}
	for (struct delta_plan *p; (p = received_pop(d));)
		deltas_release(&p);
	pthread_mutex_destroy(&d->lock);
	signatures_close(&d->signatures);
	free(d);
}
