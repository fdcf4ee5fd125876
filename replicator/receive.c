/* SPDX-License-Identifier: Apache-2.0 */
/* receive.c — frames of one peer become checked, staged changes. Large contents go straight into files of the store's
 * staging area with io_uring, small ones stay in memory until they are applied; what may be in flight is bounded by the
 * protocol (batches, inline bytes) and by pausing the link while the disk is slower than the network. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>
#include "common/faultpoint.h"
#include "common/io.h"
#include "replicator/content.h"
#include "replicator/fetch.h"
#include "replicator/publish.h"
#include "replicator/resync.h"
#include "replicator/rights.h"
#include "replicator/scrub.h"
#include "replicator/unsure.h"

#define WRITES_HIGH (8u << 20)
#define WRITES_LOW (2u << 20)

struct batch_in {
	struct batch_in *next;
	uint64_t number;
	uint32_t changes, got;
	uint64_t inline_bytes;
	bool ended;
	struct job *job;
};

struct receiver {
	struct peer *peer;
	struct batch_in *batches, **batches_tail; /* not yet handed to the applier; the last one is open */
	struct incoming *current; /* its pieces are arriving */
	XXH3_state_t *hash;
	struct contexts contexts;
	uint64_t writing_bytes;
	bool paused;
};

struct piece_write { /* one in flight; outlives receiver and link */
	struct set *set;
	uint64_t peer_serial;
	struct incoming *in;
	uint32_t len;
	uint64_t offset;
	uint8_t data[];
};

/* --- incoming --- */

struct incoming *incoming_new(const uint8_t *frame, size_t len, struct cdm_error *err)
{
	struct incoming *in = calloc(1, sizeof *in);
	if (!in || !(in->frame = malloc(len ? len : 1)))
		abort();
	memcpy(in->frame, frame, len);
	in->spool_fd = -1;
	if (carried_decode(in->frame, len, &in->carried) == 0)
		return in;
	cdm_fail_plain(err, EBADMSG, "malformed CHANGE of %zu bytes", len);
	free(in->frame);
	free(in);
	return NULL;
}

void incoming_free(struct incoming *in, int staging_fd)
{
	if (!in)
		return;
	if (in->spool_fd >= 0)
		close(in->spool_fd);
	if (in->staging[0])
		unlinkat(staging_fd, in->staging, 0);
	carried_fini(&in->carried);
	cdm_vector_fini(&in->context);
	bytes_fini(&in->copies);
	content_close(&in->like);
	free(in->frame);
	free(in);
}

struct job *job_new(struct set *s, uint64_t peer_serial, uint64_t batch)
{
	struct job *job = calloc(1, sizeof *job);
	if (!job)
		abort();
	job->set = s;
	job->peer_serial = peer_serial;
	job->batch = batch;
	job->tail = &job->head;
	return job;
}

void job_add(struct job *job, struct incoming *in)
{
	*job->tail = in;
	job->tail = &in->next;
	job->count++;
}

void job_free(struct job *job)
{
	for (struct incoming *in = job->head, *next; in; in = next) {
		next = in->next;
		incoming_free(in, job->set->staging_fd);
	}
	for (size_t i = 0; i < job->odd_count; i++)
		cdm_vector_fini(&job->odd[i].context);
	free(job);
}

/* --- handing over --- */

static bool job_is_complete(const struct job *job)
{
	for (const struct incoming *in = job->head; in; in = in->next)
		if (!in->complete)
			return false;
	return true;
}

static void batch_pop(struct receiver *r)
{
	struct batch_in *b = r->batches;
	r->batches = b->next;
	if (!r->batches)
		r->batches_tail = &r->batches;
	free(b);
}

/* Without what was passed over: for the applier it never came. */
static void take_out_passed_over(struct job *job)
{
	struct incoming *in = job->head;
	job->head = NULL;
	job->tail = &job->head;
	job->count = 0;
	for (struct incoming *next; in; in = next) {
		next = in->next;
		in->next = NULL;
		if (in->passed_over)
			incoming_free(in, job->set->staging_fd);
		else
			job_add(job, in);
	}
}

static void submit_ready(struct receiver *r)
{
	while (r->batches && r->batches->ended && job_is_complete(r->batches->job)) {
		set_receive_full(r->batches->job->set, false);
		cdm_faultpoint("receive.batch_whole_not_applied");
		take_out_passed_over(r->batches->job);
		publisher_submit(r->batches->job);
		batch_pop(r);
	}
}

/* --- pieces --- */

/* An answer counts only from the peer that the applier asks now. */
static bool is_asked(struct publisher *pub, const struct peer *p)
{
	pthread_mutex_lock(&pub->lock);
	bool asked = pub->ticket && pub->ticket_peer == p->serial;
	pthread_mutex_unlock(&pub->lock);
	return asked;
}

static void incoming_settled(struct peer *p, struct incoming *in)
{
	if (!in->ended || in->writes || in->torn)
		return;
	if (in->spool_fd >= 0)
		close(in->spool_fd);
	in->spool_fd = -1;
	in->complete = true;
	if (in->carried.flags & CARRIED_ANSWER && in->carried.change.dot.number & RESYNC_TICKET)
		resync_answer(p, in);
	else if (in->carried.flags & CARRIED_ANSWER && in->carried.change.dot.number & UNSURE_TICKET)
		unsure_answer(p, in);
	else if (in->carried.flags & CARRIED_ANSWER && in->carried.change.dot.number & SCRUB_TICKET)
		scrub_answer(p, in);
	else if (in->carried.flags & CARRIED_ANSWER && is_asked(p->set->publisher, p))
		publisher_answer(p->set->publisher, in);
	else if (in->carried.flags & CARRIED_ANSWER)
		incoming_free(in, p->set->staging_fd);
	else
		submit_ready(p->receiver);
}

static void piece_written(void *arg, int result)
{
	struct piece_write *w = arg;
	struct incoming *in = w->in;
	struct peer *p = set_peer_by_serial(w->set, w->peer_serial);
	in->writes--;
	w->set->writing--;
	if (result >= 0 && result < (int)w->len) { /* short: the rest by hand, it is rare */
		int r = cdm_pwrite_all(in->spool_fd, w->data + result, w->len - (uint32_t)result, (off_t)(w->offset + (uint32_t)result));
		result = r < 0 ? r : (int)w->len;
	}
	if (in->orphan) {
		if (!in->writes)
			incoming_free(in, w->set->staging_fd);
	} else if (p) {
		p->receiver->writing_bytes -= sizeof *w + w->len;
		if (result < 0) {
			in->torn = true; /* the link ends a little later: what else is in flight for it may succeed */
			if (result == -ENOSPC || result == -EDQUOT)
				set_receive_full(w->set, true);
			link_fail(p->link, -result, "write received content of set %s", set_name(w->set));
		} else {
			incoming_settled(p, in);
		}
		if (p->receiver->paused && p->receiver->writing_bytes < WRITES_LOW) {
			p->receiver->paused = false;
			link_resume(p->link);
		}
	}
	set_let_go(w->set);
	free(w);
}

void receive_content_came(struct peer *p, struct incoming *in)
{
	in->ended = true;
	incoming_settled(p, in);
}

/* Bytes of the open batch that stay in memory until it is applied. */
static int count_inline(struct receiver *r, size_t len, struct cdm_error *err)
{
	struct batch_in *b = r->batches;
	while (b && b->next)
		b = b->next;
	if (b && (b->inline_bytes += len) > FRAME_BATCH_INLINE_MAX)
		return cdm_fail_plain(err, EMSGSIZE, "a batch with more than %u bytes of inline content", FRAME_BATCH_INLINE_MAX);
	return 0;
}

static int take_piece(struct receiver *r, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	struct incoming *in = r->current;
	struct piece piece;
	if (!in || piece_decode(payload, len, &piece) < 0)
		return cdm_fail_plain(err, EBADMSG, "DATA without a change that wants it, or malformed");
	if (piece.offset + piece.len > in->carried.size || in->received + piece.len > in->carried.content_bytes)
		return cdm_fail_plain(err, EBADMSG, "content goes beyond its announced size");
	content_hash_piece(r->hash, piece.offset, piece.data, piece.len);
	in->received += piece.len;
	count_up(&r->peer->set->counters.content_received_bytes, piece.len);
	if (in->refused)
		return 0;
	struct piece_write *w = malloc(sizeof *w + piece.len);
	if (!w)
		abort();
	*w = (struct piece_write){.set = r->peer->set, .peer_serial = r->peer->serial, .in = in, .len = piece.len, .offset = piece.offset};
	memcpy(w->data, piece.data, piece.len);
	in->writes++;
	r->peer->set->writing++;
	r->writing_bytes += sizeof *w + piece.len;
	if (r->writing_bytes > WRITES_HIGH && !r->paused) {
		r->paused = true;
		link_pause(r->peer->link);
	}
	cdm_loop_write(r->peer->set->node->loop, in->spool_fd, w->data, w->len, w->offset, piece_written, w);
	return 0;
}

/* More copies of the current content; what they say is looked at when it is put together. */
static int take_copies(struct receiver *r, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	struct incoming *in = r->current;
	const struct carried_delta *d = in ? &in->carried.delta : NULL;
	if (!in || in->carried.kind != CONTENT_DELTA || d->copies || len > d->copies_total - in->copies.len)
		return cdm_fail_plain(err, EBADMSG, "COPIES without a change that wants them");
	bytes_put(&in->copies, payload, len);
	return in->carried.flags & CARRIED_ANSWER ? 0 : count_inline(r, len, err);
}

static int take_end(struct receiver *r, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	struct incoming *in = r->current;
	struct change_end end;
	if (!in || change_end_decode(payload, len, &end) < 0)
		return cdm_fail_plain(err, EBADMSG, "CHANGE_END without a change, or malformed");
	r->current = NULL;
	XXH128_canonical_t canonical;
	XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(r->hash));
	in->superseded = end.result != CONTENT_OK || in->refused;
	if (!in->superseded && (in->received != in->carried.content_bytes || memcmp(canonical.digest, end.hash, 16) != 0))
		return cdm_fail_plain(err, EBADMSG, "content of %.*s does not have the announced hash", (int)in->carried.change.path_len,
			in->carried.change.path);
	in->ended = true;
	incoming_settled(r->peer, in);
	return 0;
}

/* --- changes --- */

static bool check_inline(const struct incoming *in)
{
	const struct carried *k = &in->carried;
	XXH3_state_t *hash = XXH3_createState();
	if (!hash)
		abort();
	XXH3_128bits_reset(hash);
	size_t at = 0;
	struct piece piece;
	while (piece_next(k->pieces, k->pieces_len, &at, &piece) > 0)
		content_hash_piece(hash, piece.offset, piece.data, piece.len);
	XXH128_canonical_t canonical;
	XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(hash));
	XXH3_freeState(hash);
	return memcmp(canonical.digest, k->hash, 16) == 0;
}

static const struct member *origin_member(const struct receiver *r, const struct cdm_change *c)
{
	return r->peer->set->route ? route_member_number(r->peer->set->route, CDM_ORIGIN_NODE(c->dot.origin)) : NULL;
}

/* Vectors are bounded, here and on the wire. Who may not write the set, and does not feed us, can fill a part of the room, a smaller one with
 * origins that no member stands for; so he cannot make those refused that others bring. */
static size_t origins_from(const struct receiver *r, const struct cdm_change *c)
{
	const struct peer *p = r->peer;
	const struct member *m = p->set->route ? route_member_number(p->set->route, p->number) : NULL;
	if (p->towards_parent || (m && m->role & CDM_ROLE_SOURCE))
		return CDM_VECTOR_MAX;
	return origin_member(r, c) ? CDM_VECTOR_MAX / 4 * 3 : CDM_VECTOR_MAX / 2;
}

static int check_origin(const struct receiver *r, const struct cdm_change *c, struct cdm_error *err)
{
	const struct cdm_vector *visible = &r->peer->set->follow.visible, *has = &r->peer->has;
	if (!cdm_op_ships(c->op) || cdm_dot_is_none(c->dot))
		return cdm_fail_plain(err, EBADMSG, "a change that does not travel");
	size_t known = visible->count > has->count ? visible->count : has->count;
	if (known < origins_from(r, c) || cdm_vector_get(visible, c->dot.origin) || cdm_vector_get(has, c->dot.origin))
		return 0;
	return cdm_fail_plain(err, EOVERFLOW, "a change of one more origin; %zu origins are known already, more are not taken", known);
}

/* It only moves the vector. Directories' times and comparisons are for those to tell who may write. */
static void only_skip(const struct receiver *r, struct cdm_change *c)
{
	const struct member *m = origin_member(r, c);
	if (c->op != CDM_OP_SKIP || rights_brings(r->peer) || (m && m->role & CDM_ROLE_SOURCE))
		return;
	c->parent_mtime_ns = c->parent2_mtime_ns = 0;
	c->flags &= ~(uint32_t)(CDM_CH_WHOLE | CDM_CH_OVERTAKEN);
}

/* The vector moves, or the author would send it for ever, but nothing else does; and its tree is compared with ours. */
static void refuse_change(struct receiver *r, struct incoming *in)
{
	struct cdm_change *c = &in->carried.change;
	char path[256], origin[CDM_DOT_NAMED_SIZE];
	snprintf(path, sizeof path, "%.*s", (int)(c->path_len < 250 ? c->path_len : 250), c->path);
	cdm_dot_format_named(c->dot, link_peer_name(r->peer->link), origin); /* its author is the peer */
	cdm_log(change_refused, cdm_str("set", set_name(r->peer->set)), cdm_str("peer", link_peer_name(r->peer->link)), cdm_str("path", path),
		cdm_str("origin", origin));
	c->parent_mtime_ns = c->parent2_mtime_ns = 0;
	if (r->peer->towards_parent)
		doubt_raise(r->peer->set);
	else
		doubt_asked(r->peer);
}

static int open_spool(struct receiver *r, struct incoming *in, struct cdm_error *err)
{
	static unsigned number; /* the same dot may come from two peers */
	struct cdm_dot dot = in->carried.change.dot;
	snprintf(in->staging, sizeof in->staging, "%016" PRIx64 "-%" PRIx64 ".%x", dot.origin, dot.number, ++number);
	in->spool_fd = openat(r->peer->set->staging_fd, in->staging, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (in->spool_fd >= 0)
		return 0;
	int e = errno;
	in->staging[0] = 0;
	if (e == ENOSPC || e == EDQUOT)
		set_receive_full(r->peer->set, true);
	return cdm_fail(err, e, "create a staging file");
}

static int take_change(struct receiver *r, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	struct batch_in *b = NULL;
	struct incoming *in = incoming_new(payload, len, err);
	if (!in)
		return -EBADMSG;
	struct carried *k = &in->carried;
	bool answer = k->flags & CARRIED_ANSWER;
	int e = 0;
	if (r->current)
		e = cdm_fail_plain(err, EBADMSG, "CHANGE inside the content of another");
	if (e == 0 && !answer) {
		for (b = r->batches; b && b->next; b = b->next)
			;
		if (!b || b->ended || b->got >= b->changes)
			e = cdm_fail_plain(err, EBADMSG, "CHANGE outside a batch");
	}
	if (e == 0 && !answer)
		e = check_origin(r, &k->change, err);
	if (e == 0 && k->flags & CARRIED_INLINE && !check_inline(in))
		e = cdm_fail_plain(err, EBADMSG, "content of %.*s does not have its hash", (int)k->change.path_len, k->change.path);
	enum right right = answer ? RIGHT_TAKEN : rights_of(r->peer, &k->change);
	in->refused = right != RIGHT_TAKEN;
	in->passed_over = right == RIGHT_PASSED_OVER;
	in->streaming = carried_has_content(k) && !(k->flags & CARRIED_INLINE);
	if (e == 0 && in->streaming && !in->refused)
		e = open_spool(r, in, err);
	if (e < 0) {
		incoming_free(in, r->peer->set->staging_fd);
		return e;
	}
	count_up(&r->peer->set->counters.changes_received, 1);
	if (!answer) {
		b->got++;
		contexts_note(&r->contexts, &k->change);
		cdm_vector_copy(&in->context, &contexts_get(&r->contexts, k->change.dot.origin)->vector);
		cdm_vector_raise(&r->peer->has, k->change.dot);
		job_add(b->job, in);
		only_skip(r, &k->change);
		if (right == RIGHT_LEFT_OUT)
			refuse_change(r, in);
		else if (right == RIGHT_PASSED_OVER)
			rights_pass_over(r->peer, &k->change);
		e = count_inline(r, k->pieces_len, err);
		if (e < 0)
			return e;
	}
	count_up(&r->peer->set->counters.content_received_bytes, k->pieces_len);
	if (in->streaming) {
		r->current = in;
		XXH3_128bits_reset(r->hash);
		return 0;
	}
	if (k->kind == CONTENT_APART && !in->refused && !cdm_vector_covers(&r->peer->set->follow.visible, k->change.dot)) {
		fetch_await(r->peer, in);
		return 0;
	}
	in->superseded = in->refused || k->kind == CONTENT_APART; /* in the last case it is here, by another way */
	in->ended = true;
	incoming_settled(r->peer, in);
	return 0;
}

/* --- batches --- */

static int take_batch(struct receiver *r, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	struct batch_head head;
	if (batch_head_decode(payload, len, &head) < 0)
		return cdm_fail_plain(err, EBADMSG, "malformed BATCH");
	size_t open = 0;
	for (struct batch_in *b = r->batches; b; b = b->next, open++)
		if (!b->ended)
			return cdm_fail_plain(err, EBADMSG, "BATCH inside a batch");
	if (open >= FRAME_BATCHES_IN_FLIGHT)
		return cdm_fail_plain(err, EBADMSG, "more than %d batches in flight", FRAME_BATCHES_IN_FLIGHT);
	struct batch_in *b = calloc(1, sizeof *b);
	if (!b)
		abort();
	b->number = head.number;
	b->changes = head.changes;
	b->job = job_new(r->peer->set, r->peer->serial, head.number);
	*r->batches_tail = b;
	r->batches_tail = &b->next;
	count_up(&r->peer->set->counters.batches_received, 1);
	return 0;
}

static int take_coming(struct receiver *r, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	struct coming coming;
	if (coming_decode(payload, len, &coming) < 0)
		return cdm_fail_plain(err, EBADMSG, "malformed COMING");
	if (rights_brings(r->peer)) /* else its change is not taken from there either */
		fetch_coming(r->peer, &coming);
	return 0;
}

static int take_batch_end(struct receiver *r, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	struct batch_head head;
	struct batch_in *b = r->batches;
	while (b && b->next)
		b = b->next;
	if (batch_head_decode(payload, len, &head) < 0 || !b || b->ended || head.number != b->number || b->got != b->changes || r->current)
		return cdm_fail_plain(err, EBADMSG, "BATCH_END that does not fit its batch");
	b->ended = true;
	submit_ready(r);
	return 0;
}

int receive_frame(struct peer *p, enum frame_type type, uint8_t flags, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	struct receiver *r = p->receiver;
	switch ((unsigned)type) {
	case FRAME_BATCH:
		return take_batch(r, payload, len, err);
	case FRAME_CHANGE:
		return take_change(r, payload, len, err);
	case FRAME_DATA:
		return take_piece(r, payload, len, err);
	case FRAME_COPIES:
		return take_copies(r, payload, len, err);
	case FRAME_CHANGE_END:
		return take_end(r, payload, len, err);
	case FRAME_COMING:
		return take_coming(r, payload, len, err);
	case FRAME_BATCH_END:
		return take_batch_end(r, payload, len, err);
	default:
		return cdm_fail_plain(err, EBADMSG, "frame type %u has no meaning here", (unsigned)type);
	}
}

/* --- lifetime --- */

void receive_new(struct peer *p)
{
	struct receiver *r = calloc(1, sizeof *r);
	if (!r || !(r->hash = XXH3_createState()))
		abort();
	r->peer = p;
	r->batches_tail = &r->batches;
	p->receiver = r;
}

static void let_go(struct incoming *in, int staging_fd)
{
	if (in->writes)
		in->orphan = true;
	else
		incoming_free(in, staging_fd);
}

/* The link is gone: what came whole and in order is applied, the rest will be sent again. */
void receive_free(struct peer *p)
{
	struct receiver *r = p->receiver;
	bool whole = true;
	fetch_peer_gone(p);
	if (r->current && r->current->carried.flags & CARRIED_ANSWER)
		let_go(r->current, p->set->staging_fd);
	for (struct batch_in *b = r->batches; b; b = r->batches) {
		struct incoming *in = b->job->head;
		b->job->head = NULL;
		b->job->tail = &b->job->head;
		b->job->count = 0;
		for (struct incoming *next; in; in = next) {
			next = in->next;
			in->next = NULL;
			whole = whole && in->complete;
			if (whole && !in->passed_over)
				job_add(b->job, in);
			else
				let_go(in, p->set->staging_fd);
		}
		if (b->job->head && !p->set->stopping)
			publisher_submit(b->job);
		else
			job_free(b->job);
		batch_pop(r);
	}
	contexts_fini(&r->contexts);
	XXH3_freeState(r->hash);
	free(r);
	p->receiver = NULL;
}
