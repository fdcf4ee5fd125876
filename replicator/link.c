/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/link_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "common/cursor.h"
#include "common/log.h"
#include "common/tls.h"
#include "replicator/chunk.h"
#include "replicator/fetch.h"
#include "replicator/renew.h"
#include "replicator/route.h"
#include "replicator/set.h"
#include "replicator/state.h"

#define HELLO_MS 10000     /* connect, TLS and hello together */
#define TICK_MS 5000
#define PING_AFTER_MS 4500 /* nothing received for so long: ask */
#define DEAD_AFTER_MS 15000
#define UNREAD_MAX (64u << 20) /* bytes for a peer that sends and does not read: more are not kept */

static const struct conn_ops link_conn_ops;

/* --- sending --- */

static size_t send_frame(struct link *l, uint8_t type, uint8_t flags, uint16_t set, const void *head, size_t head_len, const void *body,
	size_t body_len, struct chunk *chunk)
{
	assert(head_len + body_len <= FRAME_PAYLOAD_MAX);
	if (!l->conn || l->state == LINK_DIAL)
		return 0;
	bool data = type >= FRAME_SUBSCRIBE;
	unsigned level = data ? link_section(l)->compression : 0;
	struct wire_header h = {.payload = (uint32_t)(head_len + body_len), .type = type, .flags = flags, .set = set};
	size_t sent = link_pack_send(&l->pack, level, l->features, l->conn, &h, head, head_len, body, body_len, chunk);
	if (conn_queued(l->conn) >= LINK_QUEUE_LOW)
		l->busy_queue = true;
	if (data && sent > 0) {
		l->node->section_costs[l->section].raw_bytes += h.payload;
		l->node->section_costs[l->section].compressed_bytes += sent;
	}
	return sent;
}

size_t link_send_frame(struct link *l, uint8_t type, uint8_t flags, uint16_t set, const void *head, size_t head_len, const void *body,
	size_t body_len)
{
	return send_frame(l, type, flags, set, head, head_len, body, body_len, NULL);
}

void link_send_chunk(struct link *l, struct set *set, enum frame_type type, const void *head, size_t head_len, const void *body, size_t body_len,
	struct chunk *chunk)
{
	size_t sent = l->state == LINK_UP ? send_frame(l, (uint8_t)type, 0, 0, head, head_len, body, body_len, chunk) : 0;
	if (set && sent)
		set_sent(set, WIRE_HEADER + sent);
}

void link_send_bare(struct link *l, struct set *set, enum frame_type type, const void *head, size_t head_len, const void *body, size_t body_len)
{
	link_send_chunk(l, set, type, head, head_len, body, body_len, NULL);
}

static void send_error(struct link *l, int errnum, const char *text)
{
	uint8_t out[WIRE_SMALL_MAX];
	struct wire_error e = {.number = wire_errno_of(errnum)};
	snprintf(e.text, sizeof e.text, "%s", text);
	size_t n = wire_error_encode(&e, out);
	link_send_frame(l, FRAME_ERROR, 0, 0, out, n, NULL, 0);
}

static void send_hello(struct link *l)
{
	uint8_t out[WIRE_SMALL_MAX];
	struct wire_hello h = {.version = WIRE_VERSION, .min_version = WIRE_VERSION, .features = l->node->features,
		.number = l->node->id->number, .instance = l->node->instance, .clock = cdm_clock_now()};
	snprintf(h.name, sizeof h.name, "%s", l->node->id->node);
	size_t n = wire_hello_encode(&h, out);
	link_send_frame(l, FRAME_HELLO, 0, 0, out, n, NULL, 0);
}

/* --- ending --- */

static void end_with(struct link *l, const struct cdm_error *why, bool tell)
{
	if (l->state == LINK_ENDING)
		return;
	if (tell)
		send_error(l, why->number, why->text);
	l->state = LINK_ENDING;
	l->why = *why;
	cdm_timer_cancel(&l->timer);
	conn_finish(l->conn, why);
}

void link_fail(struct link *l, int errnum, const char *fmt, ...)
{
	struct cdm_error why = {.number = errnum > 0 ? errnum : EIO};
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(why.text, sizeof why.text, fmt, ap);
	va_end(ap);
	if (l->state != LINK_ENDING)
		cdm_log_err(link_failed, &why, cdm_str("peer", l->name));
	end_with(l, &why, true);
}

void link_end(struct link *l, const char *why)
{
	struct cdm_error err = {.number = ESHUTDOWN};
	snprintf(err.text, sizeof err.text, "%s", why);
	end_with(l, &err, true);
}

static void link_closed(void *arg, const struct cdm_error *why)
{
	struct link *l = arg;
	struct node *node = l->node;
	bool was_up = l->state == LINK_UP || (l->state == LINK_ENDING && l->instance);
	if (!l->why.number)
		l->why = *why;
	l->state = LINK_ENDING;
	link_account(l);
	l->conn = NULL;
	cdm_timer_cancel(&l->timer);
	link_sets_closed(l);
	if (was_up)
		fetch_link_gone(node, l);
	for (size_t i = 0; i < node->link_count; i++)
		if (node->links[i] == l)
			node->links[i] = node->links[--node->link_count];
	if (was_up)
		cdm_log(link_down, cdm_str("peer", l->name), cdm_str("msg", l->why.text));
	else if (!l->dialled)
		cdm_log(link_refused, cdm_str("peer", l->name), cdm_str("msg", l->why.text));
	dialer_link_gone(node, l, l->name, &l->why);
	chunk_unref(l->fed);
	link_pack_fini(&l->pack);
	l->magic = 0;
	free(l);
	node_link_gone(node);
}

static void hello_timeout(void *arg)
{
	struct link *l = arg;
	l->timer = NULL;
	struct cdm_error why;
	cdm_fail_plain(&why, ETIMEDOUT, "no hello within %d s", HELLO_MS / 1000);
	l->why = why;
	l->state = LINK_ENDING;
	conn_abort(l->conn, &why);
}

static void tick(void *arg)
{
	struct link *l = arg;
	int64_t now = cdm_now_ms(), idle = now - conn_last_in_ms(l->conn);
	l->timer = NULL;
	if (conn_paused(l->conn))
		idle = 0; /* we do not read: its silence says nothing */
	if (idle >= DEAD_AFTER_MS) {
		struct cdm_error why;
		cdm_fail_plain(&why, ETIMEDOUT, "nothing heard for %d s", DEAD_AFTER_MS / 1000);
		l->why = why;
		conn_abort(l->conn, &why);
		return;
	}
	if (idle >= PING_AFTER_MS || now - conn_last_out_ms(l->conn) >= PING_AFTER_MS) {
		uint8_t stamp[8] = {0};
		link_send_frame(l, FRAME_PING, 0, 0, stamp, sizeof stamp, NULL, 0);
	}
	l->timer = cdm_loop_after(l->node->loop, TICK_MS, tick, l);
}

/* --- beginning --- */

static struct link *link_new(struct node *node)
{
	struct link *l = calloc(1, sizeof *l);
	struct link **links = realloc(node->links, (node->link_count + 1) * sizeof *links);
	if (!l || !links)
		abort();
	node->links = links;
	node->links[node->link_count++] = l;
	l->magic = LINK_MAGIC;
	l->node = node;
	l->timer = cdm_loop_after(node->loop, HELLO_MS, hello_timeout, l);
	return l;
}

int link_dial(struct node *node, const char *name, const struct sockaddr *addr, socklen_t addr_len, struct link **ret,
	struct cdm_error *err)
{
	struct link *l = link_new(node);
	l->dialled = true;
	snprintf(l->name, sizeof l->name, "%s", name);
	l->conn = conn_connect(node->loop, node->tls_client, addr, addr_len, NULL, &link_conn_ops, l, err);
	if (!l->conn) {
		node->link_count--;
		cdm_timer_cancel(&l->timer);
		free(l);
		return -EMFILE;
	}
	*ret = l;
	return 0;
}

struct link *link_accept(struct node *node, int fd, const struct sockaddr_storage *from)
{
	struct link *l = link_new(node);
	l->from = *from;
	l->conn = conn_accept(node->loop, node->tls_server, fd, &link_conn_ops, l);
	return l;
}

static void link_ready(void *arg)
{
	struct link *l = arg;
	struct cdm_tls_name peer;
	struct cdm_error err = CDM_ERROR_INIT;
	l->state = LINK_HELLO;
	int r = conn_peer(l->conn, &peer, &err);
	if (r == 0 && peer.number == 0)
		r = cdm_fail_plain(&err, EACCES, "the certificate of %s is not a node's", peer.name);
	else if (r == 0 && peer.number == l->node->id->number)
		r = cdm_fail_plain(&err, EACCES, "the certificate is our own (node %s): is this node running twice?", peer.name);
	else if (r == 0 && l->dialled && strcmp(peer.name, l->name) != 0)
		r = cdm_fail_plain(&err, EACCES, "dialled %s, but the certificate there is of %s", l->name, peer.name);
	else if (r == 0 && peer.ended && !renew_excuses(l->node, peer.ended))
		r = cdm_fail_plain(&err, EACCES, "the certificate of %s has ended, and it did not get a new one from the master", peer.name);
	if (r < 0) {
		link_fail(l, -r, "%s", err.text);
		return;
	}
	if (peer.ended)
		cdm_log(certificate_late, cdm_str("peer", peer.name), cdm_int("seconds", cdm_wall_ns() / 1000000000 - peer.ended));
	snprintf(l->name, sizeof l->name, "%s", peer.name);
	l->number = peer.number;
	send_hello(l);
}

/* Two links to one peer: the newer replaces an older one of the same dialler, else the one dialled by the lower number stays.
 * Returns whether `l` may go on. */
static bool settle_duplicate(struct link *l)
{
	uint32_t me = l->node->id->number;
	uint32_t dialler = l->dialled ? me : l->number;
	for (size_t i = 0; i < l->node->link_count; i++) {
		struct link *other = l->node->links[i];
		if (other == l || other->state != LINK_UP || other->number != l->number)
			continue;
		uint32_t other_dialler = other->dialled ? me : other->number;
		if (dialler > other_dialler && other->instance == l->instance) {
			struct cdm_error why;
			cdm_fail_plain(&why, EALREADY, "there is already a link between us");
			end_with(l, &why, true);
			return false;
		}
		link_end(other, "replaced by a newer link");
	}
	return true;
}

static int take_hello(struct link *l, const uint8_t *payload, size_t len)
{
	struct wire_hello h;
	if (l->state != LINK_HELLO || wire_hello_decode(payload, len, &h) < 0) {
		link_fail(l, EPROTO, "a hello that is not one, or a second one");
		return -EPROTO;
	}
	if (h.number != l->number || strcmp(h.name, l->name) != 0) {
		link_fail(l, EACCES, "the hello says %s (%u), the certificate %s (%u)", h.name, h.number, l->name, l->number);
		return -EACCES;
	}
	if (h.min_version > WIRE_VERSION || h.version < WIRE_VERSION || (h.required & ~l->node->features)) {
		link_fail(l, EPROTONOSUPPORT, "protocol %u (at least %u), required features %x; this node speaks %u: upgrade the older of both",
			h.version, h.min_version, h.required, WIRE_VERSION);
		return -EPROTONOSUPPORT;
	}
	if (!route_shares_set(l->node, l->number, l->name)) {
		link_fail(l, EACCES, "node %s (%u) is no member of any set that %s knows", l->name, l->number, l->node->id->node);
		return -EACCES;
	}
	l->instance = h.instance ? h.instance : 1;
	if (!cdm_clock_observe(h.clock))
		cdm_log(clock_ahead, cdm_str("peer", l->name), cdm_int("ahead_ms", (cdm_clock_to_ns(h.clock) - cdm_wall_ns()) / 1000000));
	if (!settle_duplicate(l))
		return -EALREADY;
	l->features = h.features & l->node->features;
	l->section = route_section_of(l->node, l->number);
	l->state = LINK_UP;
	cdm_timer_cancel(&l->timer);
	l->timer = cdm_loop_after(l->node->loop, TICK_MS, tick, l);
	cdm_log(link_up, cdm_str("peer", l->name), cdm_str("dialled", l->dialled ? "here" : "there"));
	link_follow_section(l);
	dialer_link_up(l->node, l);
	route_link_up(l->node, l);
	return 0;
}

/* --- frames --- */

static void take_error(struct link *l, const uint8_t *payload, size_t len)
{
	struct wire_error e;
	if (wire_error_decode(payload, len, &e) < 0) {
		link_fail(l, EPROTO, "an error frame that cannot be read");
		return;
	}
	struct cdm_error why;
	cdm_fail_plain(&why, wire_errno_to(e.number), "%s says: %s", l->name, e.text);
	end_with(l, &why, false);
}

static void take_fetch_frame(struct link *l, const struct wire_header *h, const uint8_t *payload)
{
	struct cdm_error err = CDM_ERROR_INIT;
	int r = fetch_frame(l->node, l, h->type, payload, h->payload, &err);
	if (r < 0)
		link_fail(l, -r, "%s", err.text);
}

static void take_frame(struct link *l, const struct wire_header *h, const uint8_t *payload)
{
	if (l->state == LINK_HELLO && h->type != FRAME_HELLO && h->type != FRAME_ERROR) {
		link_fail(l, EPROTO, "a frame of type %u before the hello", h->type);
		return;
	}
	switch (h->type) {
	case FRAME_HELLO:
		take_hello(l, payload, h->payload);
		break;
	case FRAME_PING:
		link_send_frame(l, FRAME_PONG, 0, 0, payload, h->payload, NULL, 0);
		break;
	case FRAME_PONG:
		break;
	case FRAME_PLAIN:
		link_take_plain(l, payload, h->payload);
		break;
	case FRAME_ERROR:
		take_error(l, payload, h->payload);
		break;
	case FRAME_SET_UP:
		link_take_set_up(l, h->set, payload, h->payload);
		break;
	case FRAME_SET_DOWN:
		link_take_set_down(l, payload, h->payload);
		break;
	default:
		if (h->type == FRAME_STATE || (h->type >= FRAME_SUBSCRIBE && h->type <= FRAME_SEAL_SEEN))
			link_take_set_frame(l, h, payload);
		else if (h->type >= FRAME_FETCH && h->type <= FRAME_FETCH_AT)
			take_fetch_frame(l, h, payload);
		/* else one that may be skipped: wire_header_decode has seen to that */
	}
}

static size_t link_bytes(void *arg, const uint8_t *bytes, size_t len)
{
	struct link *l = arg;
	size_t at = 0;
	if (conn_queued(l->conn) > UNREAD_MAX) {
		link_fail(l, ENOBUFS, "%zu bytes wait for a peer that does not read", conn_queued(l->conn));
		return len;
	}
	while (len - at >= WIRE_HEADER && (l->state == LINK_HELLO || l->state == LINK_UP) && !conn_paused(l->conn)) {
		struct wire_header h;
		struct cdm_error err = CDM_ERROR_INIT;
		if (wire_header_decode(bytes + at, &h, &err) < 0) {
			link_fail(l, EPROTO, "%s", err.text);
			return len;
		}
		size_t begun = link_fed_begin(l, &h, bytes + at, len - at);
		if (begun > 0)
			return at + begun;
		if (len - at < WIRE_HEADER + h.payload) {
			conn_need(l->conn, WIRE_HEADER + h.payload);
			break;
		}
		const uint8_t *payload = bytes + at + WIRE_HEADER;
		at += WIRE_HEADER + h.payload;
		if (link_pack_take(&l->pack, l->features, &h, &payload, &err) < 0) {
			link_fail(l, EPROTO, "%s", err.text);
			return len;
		}
		take_frame(l, &h, payload);
	}
	return at;
}

static void link_drained(void *arg, size_t queued)
{
	struct link *l = arg;
	link_follow_encryption(l);
	if (!l->busy_queue || queued >= LINK_QUEUE_LOW)
		return;
	l->busy_queue = false;
	link_sets_drained(l);
	if (l->state == LINK_UP)
		feed_link_drained(l->node, l);
}

static void link_filled(void *arg)
{
	link_fed_came(arg);
}

static const struct conn_ops link_conn_ops = {
	.ready = link_ready, .bytes = link_bytes, .filled = link_filled, .drained = link_drained, .closed = link_closed, .rate = link_rate,
};

/* --- what others ask --- */

struct link *link_find_up(struct node *node, const char *peer)
{
	for (size_t i = 0; i < node->link_count; i++)
		if (node->links[i]->state == LINK_UP && strcmp(node->links[i]->name, peer) == 0)
			return node->links[i];
	return NULL;
}

bool link_is_up(const struct link *l)
{
	return l->state == LINK_UP;
}

bool link_is_half_open(const struct link *l)
{
	return !l->dialled && !l->instance;
}

bool link_dialled(const struct link *l)
{
	return l->dialled;
}

const struct sockaddr_storage *link_from(const struct link *l)
{
	return &l->from;
}

const char *link_peer_name(const struct link *l)
{
	return l->name;
}

uint32_t link_peer_number(const struct link *l)
{
	return l->number;
}

bool link_has(const struct link *l, uint32_t feature)
{
	return l->features & feature;
}

size_t link_queued(const struct link *l)
{
	return l->conn ? conn_queued(l->conn) : 0;
}

void link_counters(const struct link *l, uint64_t *ret_sent, uint64_t *ret_received)
{
	*ret_sent = *ret_received = 0;
	if (l->conn)
		conn_counters(l->conn, ret_sent, ret_received);
}

void link_pause(struct link *l)
{
	if (l->conn)
		conn_pause(l->conn);
}

void link_resume(struct link *l)
{
	if (l->conn)
		conn_resume(l->conn);
}
