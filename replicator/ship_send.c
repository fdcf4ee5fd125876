/* SPDX-License-Identifier: Apache-2.0 */
/* ship_send.c — one item after the other onto the link: small contents ride in their CHANGE, larger ones are read with
 * io_uring as the link drains. Content counts only if stamp and journal say afterwards that nobody touched it meanwhile. */
#include "common/io.h"
#include "replicator/fetch.h"
#include "replicator/publish.h"
#include "replicator/content_cache.h"
#include "replicator/overtaken.h"
#include "replicator/ship.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static void send_frame(struct ship *ship, enum frame_type type, const struct bytes *head, const void *body, size_t len)
{
	link_send(ship->peer->link, ship_set(ship), type, 0, head->data, head->len, body, len);
}

/* --- saves that were overtaken --- */

static struct owed *owed_find(struct ship *ship, const struct cdm_handle *h)
{
	for (size_t i = 0; i < ship->owed_count; i++)
		if (cdm_handle_equal(&ship->owed[i].handle, h))
			return &ship->owed[i];
	return NULL;
}

static void owed_drop(struct ship *ship, struct owed *owed)
{
	if (owed)
		*owed = ship->owed[--ship->owed_count];
}

static void owed_keep(struct ship *ship, const struct cdm_change *c)
{
	owed_drop(ship, owed_find(ship, &c->handle));
	if (!ship->owed && !(ship->owed = calloc(SHIP_OWED_MAX, sizeof *ship->owed)))
		abort();
	if (ship->owed_count == SHIP_OWED_MAX)
		owed_drop(ship, &ship->owed[0]); /* the receiver will find its base missing and ask for the whole */
	struct owed *o = &ship->owed[ship->owed_count++];
	*o = (struct owed){.handle = c->handle, .base = c->base, .victim = c->victim,
		.flags = c->flags & (CDM_CH_NEW | CDM_CH_WHOLE | CDM_CH_TRUNCATE | CDM_CH_COVERS)};
	o->range_count = c->range_count;
	if (c->range_count)
		memcpy(o->ranges, c->ranges, c->range_count * sizeof *c->ranges);
}

/* The next save of the file carries what is owed, too. */
static void owed_pay(struct ship *ship, struct cdm_change *c)
{
	struct owed *o = owed_find(ship, &c->handle);
	if (!o)
		return;
	c->base = o->base;
	if (cdm_dot_is_none(c->victim))
		c->victim = o->victim;
	c->flags |= o->flags;
	if (!(c->flags & (CDM_CH_WHOLE | CDM_CH_NEW))) {
		size_t count = o->range_count;
		for (size_t i = 0; i < c->range_count && count <= CDM_RANGES_MAX; i++)
			count = cdm_ranges_add(o->ranges, count, c->ranges[i].offset, c->ranges[i].length);
		free(c->ranges_mem);
		c->ranges_mem = NULL;
		c->ranges = NULL;
		c->range_count = 0;
		if (count > CDM_RANGES_MAX) {
			c->flags |= CDM_CH_WHOLE;
		} else {
			c->ranges_mem = calloc(count + 1, sizeof *c->ranges_mem);
			if (!c->ranges_mem)
				abort();
			memcpy(c->ranges_mem, o->ranges, count * sizeof *o->ranges);
			c->ranges = c->ranges_mem;
			c->range_count = count;
		}
	}
	owed_drop(ship, o);
}

/* --- items --- */

static void item_done(struct ship *ship)
{
	if (ship->answering) {
		ship->answer_count -= ship->answering->ticket != 0; /* the root's was not asked for */
		answer_free(&ship->answering); /* its item is `current` */
	} else {
		cdm_vector_raise(&ship->peer->has, ship->current->change.dot);
		ship->batch_at++;
		count_up(&ship_set(ship)->counters.changes_sent, 1);
	}
	item_free(ship->current);
	ship->current = NULL;
	content_close(&ship->content);
	deltas_release(&ship->plan);
	ship->plan_asked = false;
	ship->streaming = false;
	ship->short_read = false;
	ship->read_error = 0;
}

static void send_change(struct ship *ship, struct carried *k)
{
	struct cdm_change *c = &ship->current->change;
	k->change = *c;
	k->change.flags &= ~(uint32_t)(CDM_CH_RECEIVED | CDM_CH_UNSAVED | CDM_CH_RECOVERED);
	if (c->op != CDM_OP_SAVE)
		k->change.flags &= ~(uint32_t)CDM_CH_COVERS;
	if (ship->answering) {
		k->flags |= CARRIED_ANSWER;
		k->change.context = NULL;
	} else if (c->context && contexts_same(&ship->told, c->dot.origin, c->context)) {
		k->change.context = NULL;
	}
	struct bytes head = {0};
	carried_encode(k, &head);
	if (k->kind == CONTENT_RANGES && k->size > k->content_bytes) {
		count_up(&ship_set(ship)->counters.ranges_saved_bytes, k->size - k->content_bytes);
		link_saved(ship->peer->link, k->size - k->content_bytes);
	}
	if (k->flags & CARRIED_INLINE) {
		bytes_put(&head, ship->content->pieces.data, ship->content->pieces.len);
		content_digest(ship->content, bytes_add(&head, 16));
		count_up(&ship_set(ship)->counters.content_sent_bytes, k->content_bytes);
	}
	send_frame(ship, FRAME_CHANGE, &head, NULL, 0);
	bytes_fini(&head);
	k->change = (struct cdm_change){0};
}

/* A new file's directory changed, too; its SAVE does not say when, and comes later than that: what somebody set the mtime to
 * since then counts. Any save may be the one that brings the name: the first one may have been folded into it before the link broke. */
static void tell_parent_mtime(struct ship *ship)
{
	struct cdm_change *c = &ship->current->change;
	struct stat st;
	const char *name;
	if (c->parent_mtime_ns)
		return;
	_cleanup_close_ int dir = cdm_open_parent(ship_set(ship)->store_fd, c->path, c->path_len, &name);
	if (dir >= 0 && publisher_stat(ship_set(ship)->publisher, dir, &st) == 0)
		c->parent_mtime_ns = st.st_mtim.tv_sec * 1000000000ll + st.st_mtim.tv_nsec;
	else
		c->parent_mtime_ns = ship->current->created_ns;
}

static void send_without_content(struct ship *ship)
{
	struct cdm_change *c = &ship->current->change;
	struct carried k = {.kind = CONTENT_NONE};
	if (c->attr.mask & CDM_ATTR_UID) {
		k.user = content_user_name(c->attr.uid);
		k.user_len = strlen(k.user);
	}
	if (c->attr.mask & CDM_ATTR_GID) {
		k.group = content_group_name(c->attr.gid);
		k.group_len = strlen(k.group);
	}
	send_change(ship, &k);
	item_done(ship);
}

/* Nothing to publish for this dot: the file went away or was written again, and that comes. */
static void send_skip(struct ship *ship)
{
	struct cdm_change *c = &ship->current->change;
	overtaken_skip(c);
	cdm_change_fini(&(struct cdm_change){.ranges_mem = c->ranges_mem});
	c->ranges_mem = NULL;
	c->ranges = NULL;
	c->range_count = 0;
	send_without_content(ship);
}

static void superseded(struct ship *ship)
{
	count_up(&ship_set(ship)->counters.superseded, 1);
	if (!ship->answering)
		owed_keep(ship, &ship->current->change);
}

static void read_failed(struct ship *ship)
{
	const struct cdm_change *c = &ship->current->change;
	struct cdm_error err = CDM_ERROR_INIT;
	cdm_fail(&err, ship->read_error, "read %.*s", (int)(c->path_len < 200 ? c->path_len : 200), c->path);
	unreadable_said(ship->peer, c->path, c->path_len, &err);
}

/* 1: the journal is not settled about this file yet, wait for it; 0: content is what its version says; less: overtaken, or (read_error) not to be told. */
static int verdict(struct ship *ship)
{
	if (ship->short_read)
		return -EAGAIN;
	if (ship->content->fd < 0)
		return 0; /* read for another child, and found whole then */
	struct cdm_journal_reader *reader = ship->phase == SHIP_STREAM ? ship->reader : ship_set(ship)->follow.reader;
	int r = content_verdict(reader, &ship->current->change.handle, ship->content->fd, ship->content->carried.stamp.content.dot);
	if (r < 0 && r != -EAGAIN)
		ship->read_error = -r;
	return r;
}

/* --- content that fits into its CHANGE --- */

/* All pieces from the page cache: true; false: not there, or too much. */
static bool read_inline(struct ship *ship)
{
	struct content *c = ship->content;
	if (c->carried.content_bytes > FRAME_PIECE_MAX || c->extent_count > 2 * CDM_RANGES_MAX ||
		c->carried.delta.copies_total > FRAME_COPIES_INLINE_MAX)
		return false;
	c->pieces.len = 0;
	uint64_t offset;
	uint32_t len;
	while (content_next(c, &offset, &len)) {
		piece_encode_head(offset, len, &c->pieces);
		uint8_t *room = bytes_add(&c->pieces, len);
		struct iovec iov = {room, len};
		ssize_t n = preadv2(c->fd, &iov, 1, (off_t)offset, RWF_NOWAIT);
		if (n != (ssize_t)len) {
			c->extent_at = 0;
			c->extent_done = 0;
			XXH3_128bits_reset(c->hash);
			c->pieces.len = 0;
			return false;
		}
		content_hashed(c, offset, room, len);
	}
	c->carried.flags |= CARRIED_INLINE;
	return true;
}

/* --- content in pieces --- */

static void read_done(void *arg, int result)
{
	struct content_read *read = arg;
	struct ship *ship = read->ship;
	if (!ship) { /* the link went down meanwhile */
		content_close(&read->content);
		free(read);
		return;
	}
	if (content_again(result, read->len, &read->tries)) {
		cdm_loop_read(ship_set(ship)->node->loop, ship->content->fd, read->data, read->len, read->offset, read_done, read);
		return;
	}
	ship->read = NULL;
	if (result != (int)read->len) {
		ship->short_read = true;
		ship->read_error = result < 0 ? -result : 0;
	} else {
		content_hashed(ship->content, read->offset, read->data, read->len);
		struct bytes head = {0};
		piece_encode_head(read->offset, read->len, &head);
		send_frame(ship, FRAME_DATA, &head, read->data, read->len);
		bytes_fini(&head);
		count_up(&ship_set(ship)->counters.content_sent_bytes, read->len);
	}
	free(read);
	ship_kick(ship->peer);
}

/* False: waits for a read, for the link or for the journal. */
static bool stream_step(struct ship *ship)
{
	struct content *c = ship->content;
	uint64_t offset;
	uint32_t len;
	if (ship->read || link_queued(ship->peer->link) > LINK_QUEUE_HIGH)
		return false;
	if (!ship->short_read && content_next(c, &offset, &len)) {
		struct content_read *read = malloc(sizeof *read);
		if (!read)
			abort();
		read->ship = ship;
		read->content = c;
		read->offset = offset;
		read->len = len;
		read->tries = 0;
		ship->read = read;
		cdm_loop_read(ship_set(ship)->node->loop, c->fd, read->data, len, offset, read_done, read);
		return false;
	}
	int r = verdict(ship);
	if (r == 1)
		return false;
	struct change_end end = {.result = r == 0 ? CONTENT_OK : CONTENT_SUPERSEDED};
	content_digest(c, end.hash);
	struct bytes head = {0};
	change_end_encode(&end, &head);
	send_frame(ship, FRAME_CHANGE_END, &head, NULL, 0);
	bytes_fini(&head);
	if (r < 0 && ship->read_error)
		read_failed(ship);
	if (r < 0)
		superseded(ship);
	else
		unreadable_over(ship_set(ship), ship->current->change.path, ship->current->change.path_len);
	item_done(ship);
	return true;
}

/* The other children are sent the same. */
static void keep_for_others(struct ship *ship)
{
	struct set *s = ship_set(ship);
	struct content *c = ship->content;
	bool alone = s->peers == ship->peer && !ship->peer->next;
	if (!alone && !ship->answering && ship->phase == SHIP_STREAM && c->fd >= 0 && c->carried.kind == CONTENT_WHOLE)
		content_cache_keep(s->content_cache, c, &ship->current->change.handle, ship->known_to);
}

/* --- content as a delta --- */

#define BATCH_COPIES_MAX (8u << 20)

/* Does the peer have the base that the plan was made for? What it was sent may have been overtaken: then it is told the whole. */
static bool plan_fits(const struct ship *ship)
{
	const struct delta_plan *plan = ship->plan;
	if (ship->answering)
		return plan->state == PLAN_READY && plan->found.size == ship->content->carried.size && plan->copies.len <= FRAME_ANSWER_COPIES_MAX &&
			cdm_dot_equal(plan->version, ship->content->carried.stamp.content.dot);
	return plan->state == PLAN_READY && plan->found.size == ship->content->carried.size && cdm_vector_covers(&ship->peer->has, plan->base) &&
		deltas_fits(plan, &ship->current->change) && ship->batch_copies + plan->copies.len <= BATCH_COPIES_MAX;
}

static void use_plan(struct ship *ship)
{
	const struct delta_plan *plan = ship->plan;
	struct carried *k = &ship->content->carried;
	uint64_t whole = k->content_bytes;
	content_leave_out(ship->content, &plan->found.copies);
	k->kind = CONTENT_DELTA;
	k->delta = (struct carried_delta){.base = plan->base, .path = plan->base_path, .path_len = plan->base_path_len, .base_size = plan->base_size,
		.copies_total = (uint32_t)plan->copies.len, .copies = plan->copies.data};
	memcpy(k->delta.digest, plan->found.digest, sizeof k->delta.digest);
	ship->batch_copies += ship->answering ? 0 : k->delta.copies_total;
	count_up(&ship_set(ship)->counters.deltas_sent, 1);
	count_up(&ship_set(ship)->counters.deltas_passed_on, plan->received);
	count_up(&ship_set(ship)->counters.delta_saved_bytes, whole - k->content_bytes);
	link_saved(ship->peer->link, whole - k->content_bytes);
}

static struct delta_plan *take_plan(struct ship *ship)
{
	struct deltas *d = ship_set(ship)->deltas;
	struct answer *a = ship->answering;
	if (!link_section(ship->peer->link)->delta || ship->content->carried.kind != CONTENT_WHOLE)
		return NULL;
	return a ? deltas_against(d, ship->current, a->base, &a->signature) : deltas_take(d, ship->current);
}

/* False: it is being searched for what the peer has; the peers are kicked when that is done. */
static bool plan_step(struct ship *ship)
{
	if (deltas_opening(ship_set(ship)->deltas))
		return false;
	if (!ship->plan_asked)
		ship->plan = take_plan(ship);
	ship->plan_asked = true;
	if (!ship->plan || ship->content->carried.kind == CONTENT_DELTA)
		return true;
	if (ship->plan->state == PLAN_WORKING)
		return false;
	if (plan_fits(ship))
		use_plan(ship);
	else
		deltas_release(&ship->plan);
	return true;
}

static void send_copies(struct ship *ship)
{
	const struct carried_delta *d = &ship->content->carried.delta;
	if (ship->content->carried.kind != CONTENT_DELTA || d->copies_total <= FRAME_COPIES_INLINE_MAX)
		return;
	struct bytes none = {0};
	for (uint32_t at = 0, n; at < d->copies_total; at += n) {
		n = d->copies_total - at < FRAME_PIECE_MAX ? d->copies_total - at : FRAME_PIECE_MAX;
		send_frame(ship, FRAME_COPIES, &none, d->copies + at, n);
	}
}

/* --- content that the peer fetches --- */

static bool goes_apart(const struct ship *ship)
{
	const struct carried *k = &ship->content->carried;
	uint32_t feature = ship->answering ? WIRE_FEATURE_ANSWERS : WIRE_FEATURE_FETCH;
	if (ship->answering && ship->answering->within)
		return false;
	return k->kind == CONTENT_WHOLE && k->content_bytes >= FETCH_MIN && !cdm_dot_is_none(k->stamp.content.dot) && link_has(ship->peer->link, feature);
}

/* Should the file be written again before the peer has it, the peer learns that from the feed, and what it lacks from the next save. */
static void send_apart(struct ship *ship)
{
	struct carried *k = &ship->content->carried;
	k->kind = CONTENT_APART;
	feed_offer(ship_set(ship), k->stamp.content.dot, &ship->current->change.handle);
	send_change(ship, k);
	item_done(ship);
}

/* False: waits. */
static bool content_step(struct ship *ship)
{
	if (ship->streaming)
		return stream_step(ship);
	if (!plan_step(ship))
		return false;
	struct content *c = ship->content;
	if (goes_apart(ship)) {
		send_apart(ship);
		return true;
	}
	if (c->carried.flags & CARRIED_INLINE || read_inline(ship)) {
		int r = verdict(ship);
		if (r == 1)
			return false;
		if (r < 0 && ship->read_error)
			read_failed(ship);
		if (r < 0) {
			superseded(ship);
			send_skip(ship);
			return true;
		}
		send_change(ship, &c->carried);
		keep_for_others(ship);
		unreadable_over(ship_set(ship), ship->current->change.path, ship->current->change.path_len);
		item_done(ship);
		return true;
	}
	send_change(ship, &c->carried);
	send_copies(ship);
	ship->streaming = true;
	return stream_step(ship);
}

/* What was read for another child, unless a delta is sent instead, which takes a look at the file. */
static bool take_cached(struct ship *ship)
{
	struct set *s = ship_set(ship);
	if (ship->answering || ship->phase != SHIP_STREAM || deltas_opening(s->deltas))
		return false;
	ship->content = content_cache_find(s->content_cache, ship->current);
	if (!ship->content)
		return false;
	ship->plan = take_plan(ship);
	ship->plan_asked = true;
	if (ship->plan)
		content_close(&ship->content);
	return ship->content;
}

static int open_content(struct ship *ship, struct cdm_error *err)
{
	unsigned tries = 0;
	int r;
	do
		r = content_open(ship_set(ship)->store_fd, ship->current, &ship->content, err);
	while (content_again(r, 0, &tries));
	return r;
}

/* A directory: its attributes and ACLs, but the mtime it had then. */
static void send_directory(struct ship *ship)
{
	struct cdm_change *c = &ship->current->change;
	struct cdm_error err = CDM_ERROR_INIT;
	int r = open_content(ship, &err);
	if (r < 0 && r != -ESTALE && r != -EAGAIN)
		unreadable_said(ship->peer, c->path, c->path_len, &err);
	if (r < 0) {
		send_without_content(ship);
		return;
	}
	if (c->attr.mask & CDM_ATTR_MTIME)
		ship->content->carried.mtime_ns = c->attr.mtime_ns;
	send_change(ship, &ship->content->carried);
	item_done(ship);
}

static void begin_item(struct ship *ship, struct item *item)
{
	struct cdm_change *c = &item->change;
	struct cdm_error err = CDM_ERROR_INIT;
	ship->current = item;
	if (c->op == CDM_OP_MKDIR) {
		send_directory(ship);
		return;
	}
	if (c->op != CDM_OP_SAVE) {
		send_without_content(ship);
		return;
	}
	if (!ship->answering)
		owed_pay(ship, c);
	tell_parent_mtime(ship);
	if (take_cached(ship))
		return;
	ship->known_to = ship->phase == SHIP_STREAM ? cdm_journal_reader_position(ship->reader) : 0;
	int r = open_content(ship, &err);
	if (r == 0)
		return;
	if (r != -ESTALE)
		superseded(ship);
	bool unversioned = ship->answering && r == -ENODATA; /* it is being made: its change comes */
	if (r != -ESTALE && r != -EAGAIN && !unversioned)
		unreadable_said(ship->peer, c->path, c->path_len, &err);
	send_skip(ship);
}

static void end_batch(struct ship *ship)
{
	struct batch_head end = {.number = ship->batch_number, .changes = (uint32_t)ship->batch_count};
	struct bytes head = {0};
	batch_head_encode(&end, &head);
	send_frame(ship, FRAME_BATCH_END, &head, NULL, 0);
	bytes_fini(&head);
	free(ship->batch);
	ship->batch = NULL;
	ship->batch_count = ship->batch_at = 0;
}

bool ship_send_step(struct ship *ship)
{
	for (;;) {
		if (ship->content && !content_step(ship))
			return false;
		if (ship->content)
			continue;
		if (link_queued(ship->peer->link) > LINK_QUEUE_HIGH)
			return false;
		struct answer *a = ship->answer_head;
		if (a) {
			ship->answer_head = a->next;
			if (!ship->answer_head)
				ship->answer_tail = &ship->answer_head;
			ship->answering = a;
			struct item *item = a->item;
			a->item = NULL;
			begin_item(ship, item);
		} else if (ship->batch && ship->batch_at < ship->batch_count) {
			begin_item(ship, ship->batch[ship->batch_at]);
		} else if (ship->batch) {
			end_batch(ship);
		} else {
			return true;
		}
	}
}

/* The link is gone: forget what was being sent. */
void ship_send_reset(struct ship *ship)
{
	if (ship->read) {
		ship->read->ship = NULL; /* the read still needs the descriptor */
		ship->content = NULL;
		ship->read = NULL;
	}
	content_close(&ship->content);
	deltas_release(&ship->plan);
	ship->plan_asked = false;
	if (ship->answering) {
		item_free(ship->current);
		answer_free(&ship->answering);
	}
	ship->current = NULL;
}
