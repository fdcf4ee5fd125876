/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/conn.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "common/buffer.h"
#include "replicator/pace.h"
#include "replicator/plain.h"
#include "replicator/send_queue.h"

#define CONN_MAGIC 0xc0117ec7u
#define SEND_BYTES (240u << 10)    /* protected at once, and sent at once: with what that adds it fits into 256 KiB */
#define PLAIN_RECORDS (SEND_BYTES / PLAIN_RECORD_MAX + 1)
#define IN_STEP (32u << 10)        /* free room wanted before plain bytes are read */
#define FINISH_MS 1000
#define USER_TIMEOUT_MS 15000

enum conn_state { CONN_CONNECTING, CONN_HANDSHAKE, CONN_OPEN, CONN_FINISHING, CONN_CLOSED };

struct conn {
	uint32_t magic;
	struct cdm_loop *loop;
	const struct conn_ops *ops;
	void *arg;
	int fd;
	unsigned refs; /* the owner, each submission, each post */
	enum conn_state state;
	struct cdm_tls *tls;
	struct sockaddr_storage addr;

	const uint8_t *send_at;      /* being sent: the TLS engine's, or plain_buf */
	size_t send_len, send_done;
	uint8_t *plain_buf;
	struct plain *plain_out, *plain_in; /* the records' keys; NULL until first used */
	bool server, sends_plain, receives_plain, switched_in;
	bool switching;              /* sends_plain changes … */
	size_t switch_after;         /* … after so many more bytes of the queue */
	struct pace pace;
	bool limited;                /* when `pace` was asked last */
	struct cdm_timer *pace_timer;
	struct cdm_io *connect_io, *recv_io, *send_io;
	struct send_queue out;       /* what waits to be protected */
	struct cdm_buffer in;
	size_t need;
	uint8_t *fill;               /* where the next `fill_left` plain bytes go; NULL: to `in` */
	size_t fill_left;
	unsigned pauses;
	bool flush_posted, advance_posted, shut;
	struct cdm_timer *finish_timer;

	int64_t last_in_ms, last_out_ms;
	uint64_t sent, received;
	struct cdm_error why;
};

static void conn_flush(struct conn *c);
static void post_flush(struct conn *c);
static void conn_advance(struct conn *c);

static void *must(void *p)
{
	if (!p)
		abort();
	return p;
}

/* --- life --- */

static void conn_unref(struct conn *c)
{
	assert(c->magic == CONN_MAGIC && c->refs > 0);
	if (--c->refs > 0)
		return;
	if (c->fd >= 0)
		close(c->fd);
	cdm_tls_free(&c->tls);
	cdm_buffer_fini(&c->in);
	send_queue_fini(&c->out);
	free(c->plain_buf);
	plain_free(&c->plain_out);
	plain_free(&c->plain_in);
	c->magic = 0;
	free(c);
}

static void closed_post(void *arg)
{
	struct conn *c = arg;
	c->ops->closed(c->arg, &c->why);
	conn_unref(c); /* the owner's */
	conn_unref(c); /* the post's */
}

void conn_abort(struct conn *c, const struct cdm_error *why)
{
	if (c->state == CONN_CLOSED)
		return;
	if (why && !c->why.number)
		c->why = *why;
	c->state = CONN_CLOSED;
	cdm_timer_cancel(&c->finish_timer);
	cdm_timer_cancel(&c->pace_timer);
	struct cdm_io *ios[] = {c->connect_io, c->recv_io, c->send_io};
	for (size_t i = 0; i < sizeof ios / sizeof *ios; i++)
		if (ios[i])
			cdm_loop_cancel(c->loop, ios[i]);
	shutdown(c->fd, SHUT_RDWR);
	c->refs++;
	cdm_loop_post(c->loop, closed_post, c);
}

static void finish_timeout(void *arg)
{
	struct conn *c = arg;
	c->finish_timer = NULL;
	conn_abort(c, NULL);
}

/* Send what waits, then FIN, then read and drop until the peer's FIN, so that no reset overtakes our last words. */
static void finish_begin(struct conn *c, const struct cdm_error *why)
{
	if (why && !c->why.number)
		c->why = *why;
	c->state = CONN_FINISHING;
	c->finish_timer = cdm_loop_after(c->loop, FINISH_MS, finish_timeout, c);
	post_flush(c);
}

void conn_finish(struct conn *c, const struct cdm_error *why)
{
	if (c->state == CONN_CLOSED || c->state == CONN_FINISHING)
		return;
	if (c->state != CONN_OPEN) {
		conn_abort(c, why);
		return;
	}
	finish_begin(c, why);
	if (!c->recv_io)
		conn_advance(c); /* it was paused */
}

static void set_socket_options(int fd)
{
	int one = 1, user_ms = USER_TIMEOUT_MS;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_ms, sizeof user_ms);
}

static struct conn *conn_new(struct cdm_loop *loop, SSL_CTX *ctx, int fd, bool server, const char *host,
	const struct conn_ops *ops, void *arg)
{
	struct conn *c = must(calloc(1, sizeof *c));
	c->magic = CONN_MAGIC;
	c->loop = loop;
	c->ops = ops;
	c->arg = arg;
	c->fd = fd;
	c->server = server;
	c->refs = 1;
	c->tls = must(cdm_tls_new(ctx, server, host));
	c->last_in_ms = c->last_out_ms = cdm_now_ms();
	set_socket_options(fd);
	return c;
}

static void connected(void *arg, int result)
{
	struct conn *c = arg;
	c->connect_io = NULL;
	if (c->state == CONN_CONNECTING) {
		if (result < 0) {
			struct cdm_error err;
			cdm_fail(&err, -result, "connect");
			conn_abort(c, &err);
		} else {
			c->state = CONN_HANDSHAKE;
			c->last_in_ms = cdm_now_ms();
			conn_advance(c);
		}
	}
	conn_unref(c);
}

struct conn *conn_connect(struct cdm_loop *loop, SSL_CTX *ctx, const struct sockaddr *addr, socklen_t addr_len, const char *host,
	const struct conn_ops *ops, void *arg, struct cdm_error *err)
{
	int fd = socket(addr->sa_family, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP);
	if (fd < 0) {
		cdm_fail(err, errno, "make a socket");
		return NULL;
	}
	struct conn *c = conn_new(loop, ctx, fd, false, host, ops, arg);
	memcpy(&c->addr, addr, addr_len);
	c->refs++;
	c->connect_io = cdm_loop_connect(loop, fd, (const struct sockaddr *)&c->addr, addr_len, connected, c);
	return c;
}

struct conn *conn_accept(struct cdm_loop *loop, SSL_CTX *ctx, int fd, const struct conn_ops *ops, void *arg)
{
	struct conn *c = conn_new(loop, ctx, fd, true, NULL, ops, arg);
	c->state = CONN_HANDSHAKE;
	conn_advance(c);
	return c;
}

/* --- sending --- */

static void flush_post(void *arg)
{
	struct conn *c = arg;
	c->flush_posted = false;
	conn_flush(c);
	conn_unref(c);
}

static void post_flush(struct conn *c)
{
	if (c->flush_posted || c->send_io)
		return;
	c->flush_posted = true;
	c->refs++;
	cdm_loop_post(c->loop, flush_post, c);
}

static bool takes_bytes(const struct conn *c)
{
	return c->state != CONN_CLOSED && c->state != CONN_FINISHING;
}

uint8_t *conn_room(struct conn *c, size_t len)
{
	return takes_bytes(c) ? send_queue_room(&c->out, len) : NULL;
}

void conn_added(struct conn *c, size_t len)
{
	send_queue_added(&c->out, len);
	post_flush(c);
}

void conn_send_chunk(struct conn *c, struct chunk *chunk, const uint8_t *bytes, size_t len)
{
	if (!takes_bytes(c) || len == 0)
		return;
	send_queue_chunk(&c->out, chunk, bytes, len);
	post_flush(c);
}

void conn_send(struct conn *c, const void *bytes, size_t len)
{
	uint8_t *to = conn_room(c, len);
	if (!to)
		return;
	memcpy(to, bytes, len);
	conn_added(c, len);
}

static void sent(void *arg, int result)
{
	struct conn *c = arg;
	c->send_io = NULL;
	if (c->state != CONN_CLOSED) {
		if (result <= 0) {
			struct cdm_error err;
			cdm_fail(&err, result ? -result : EPIPE, "send");
			conn_abort(c, &err);
		} else {
			c->send_done += (size_t)result;
			c->sent += (uint64_t)result;
			c->last_out_ms = cdm_now_ms();
			conn_flush(c);
		}
	}
	conn_unref(c);
}

static void send_rest(struct conn *c)
{
	c->refs++;
	c->send_io = cdm_loop_send(c->loop, c->fd, c->send_at + c->send_done, c->send_len - c->send_done, sent, c);
}

static void pace_over(void *arg)
{
	struct conn *c = arg;
	c->pace_timer = NULL;
	conn_flush(c);
}

/* How many of the waiting bytes may go now; 0: later, the timer runs. */
static size_t paced(struct conn *c, size_t len)
{
	uint64_t rate = c->ops->rate ? c->ops->rate(c->arg) : 0;
	c->limited = rate > 0;
	if (!c->limited)
		return len;
	int64_t wait_ms = 0;
	size_t may = pace_ask(&c->pace, rate, cdm_now_ns(), len, &wait_ms);
	if (may == 0)
		c->pace_timer = cdm_loop_after(c->loop, wait_ms, pace_over, c);
	return may;
}

static int key_get(struct conn *c, bool of_server, struct plain **ret, struct cdm_error *err)
{
	uint8_t key[32];
	int r = *ret ? 0 : cdm_tls_export_key(c->tls, PLAIN_KEY_LABEL, of_server, key, err);
	if (r < 0 || *ret)
		return r;
	r = plain_new(key, ret, err);
	explicit_bzero(key, sizeof key);
	return r;
}

/* As many records as `len` bytes take, behind each other in plain_buf. */
static int seal_plain(struct conn *c, size_t len, struct cdm_error *err)
{
	int r = key_get(c, c->server, &c->plain_out, err);
	if (!c->plain_buf)
		c->plain_buf = must(malloc(SEND_BYTES + PLAIN_RECORDS * PLAIN_OVERHEAD));
	uint8_t *record = c->plain_buf;
	while (r == 0 && len > 0) {
		size_t size = len < PLAIN_RECORD_MAX ? len : PLAIN_RECORD_MAX;
		for (size_t got = 0, n; got < size; got += n) {
			const uint8_t *from = send_queue_first(&c->out, &n);
			n = n < size - got ? n : size - got;
			memcpy(record + PLAIN_HEAD + got, from, n);
			send_queue_consume(&c->out, n);
		}
		r = plain_seal(c->plain_out, record, size, err);
		record += size + PLAIN_OVERHEAD;
		len -= size;
	}
	c->send_at = c->plain_buf;
	c->send_len = (size_t)(record - c->plain_buf);
	return r;
}

static int seal_tls(struct conn *c, size_t len, struct cdm_error *err)
{
	int r = 0;
	for (size_t n; r == 0 && len > 0; len -= n) {
		const uint8_t *from = send_queue_first(&c->out, &n);
		n = n < len ? n : len;
		r = cdm_tls_write(c->tls, from, n, err);
		send_queue_consume(&c->out, n);
	}
	c->send_len = cdm_tls_out_take(c->tls, &c->send_at);
	return r;
}

/* Protect some of what is queued. Afterwards send_at and send_len tell what goes out, maybe nothing. */
static int seal_some(struct conn *c, struct cdm_error *err)
{
	size_t len = c->out.bytes;
	if (len == 0 || (c->state != CONN_OPEN && c->state != CONN_FINISHING) || c->pace_timer)
		return 0;
	if (len > SEND_BYTES)
		len = SEND_BYTES;
	if (c->switching && len > c->switch_after)
		len = c->switch_after;
	len = paced(c, len);
	if (len == 0)
		return 0;
	int r = c->sends_plain ? seal_plain(c, len, err) : seal_tls(c, len, err);
	if (r < 0)
		return r;
	if (c->limited)
		pace_used(&c->pace, c->send_len);
	if (c->switching && (c->switch_after -= len) == 0) {
		c->switching = false;
		c->sends_plain = !c->sends_plain;
	}
	return 0;
}

static void conn_flush(struct conn *c)
{
	struct cdm_error err = CDM_ERROR_INIT;
	if (c->send_io || c->state == CONN_CLOSED || c->state == CONN_CONNECTING)
		return;
	if (c->send_done < c->send_len) {
		send_rest(c);
		return;
	}
	c->send_done = c->send_len = 0;
	if (cdm_tls_out_waiting(c->tls) > 0) {
		c->send_len = cdm_tls_out_take(c->tls, &c->send_at);
	} else if (seal_some(c, &err) < 0) {
		conn_abort(c, &err);
		return;
	}
	if (c->send_len > 0)
		send_rest(c);
	else if (c->state == CONN_FINISHING && !c->shut && c->out.bytes == 0) {
		c->shut = true;
		shutdown(c->fd, SHUT_WR);
	}
	if (c->state == CONN_OPEN && c->ops->drained)
		c->ops->drained(c->arg, c->out.bytes);
}

void conn_send_plain(struct conn *c, bool on)
{
	assert(!c->switching && c->out.bytes > 0);
	c->switching = on != c->sends_plain;
	c->switch_after = c->out.bytes;
}

bool conn_sends_plain(const struct conn *c)
{
	return c->sends_plain != c->switching;
}

bool conn_switching(const struct conn *c)
{
	return c->switching;
}

void conn_rate_changed(struct conn *c)
{
	cdm_timer_cancel(&c->pace_timer);
	if (c->out.bytes > 0)
		post_flush(c);
}

size_t conn_queued(const struct conn *c)
{
	return c->out.bytes + (c->send_len - c->send_done);
}

/* --- receiving --- */

static void received(void *arg, int result)
{
	struct conn *c = arg;
	c->recv_io = NULL;
	if (c->state != CONN_CLOSED) {
		if (result > 0) {
			c->last_in_ms = cdm_now_ms();
			c->received += (uint64_t)result;
			if (c->state != CONN_FINISHING)
				cdm_tls_added(c->tls, (size_t)result);
			conn_advance(c);
		} else {
			struct cdm_error err;
			if (result == 0)
				cdm_fail_plain(&err, ECONNRESET, "the peer closed the connection");
			else
				cdm_fail(&err, -result, "receive");
			conn_abort(c, &err);
		}
	}
	conn_unref(c);
}

static void handshake_step(struct conn *c)
{
	struct cdm_error err = CDM_ERROR_INIT;
	int r = cdm_tls_handshake(c->tls, &err);
	if (r < 0) {
		finish_begin(c, &err); /* the alert tells the peer */
		return;
	}
	if (r == 1) {
		c->state = CONN_OPEN;
		c->ops->ready(c->arg);
	}
	post_flush(c);
}

/* What is to be filled first, the rest behind the bytes in `in`. */
static void take_plain_bytes(struct conn *c, const uint8_t *bytes, size_t len)
{
	size_t n = len < c->fill_left ? len : c->fill_left;
	if (n > 0) {
		memcpy(c->fill, bytes, n);
		c->fill += n;
		c->fill_left -= n;
	}
	if (len > n) {
		memcpy(cdm_buffer_reserve(&c->in, len - n), bytes + n, len - n);
		c->in.end += len - n;
	}
}

/* One plain record, if it is there: > 0, 0 it is not, -errno broken. */
static ssize_t read_record(struct conn *c, struct cdm_error *err)
{
	size_t have, len;
	const uint8_t *from = cdm_tls_unread(c->tls, &have);
	int r = key_get(c, !c->server, &c->plain_in, err);
	ssize_t n = r < 0 ? r : plain_open(c->plain_in, from, have, &len, err);
	if (n > 0) {
		take_plain_bytes(c, from + PLAIN_HEAD, len);
		cdm_tls_skip(c->tls, (size_t)n);
	}
	return n;
}

static ssize_t read_tls(struct conn *c, struct cdm_error *err)
{
	if (c->fill_left > 0) {
		ssize_t n = cdm_tls_read(c->tls, c->fill, c->fill_left, err);
		if (n > 0) {
			c->fill += n;
			c->fill_left -= (size_t)n;
		}
		return n;
	}
	size_t len = cdm_buffer_len(&c->in), want = c->need > len && c->need - len > IN_STEP ? c->need - len : IN_STEP;
	uint8_t *to = cdm_buffer_reserve(&c->in, want);
	ssize_t n = cdm_tls_read(c->tls, to, c->in.room - c->in.end, err);
	if (n > 0)
		c->in.end += (size_t)n;
	return n;
}

/* The protection changed with the last byte that was consumed, and with the last one of a record. */
static int check_switch(struct conn *c, struct cdm_error *err)
{
	if (!c->switched_in)
		return 0;
	c->switched_in = false;
	if (cdm_buffer_len(&c->in) > 0)
		return cdm_fail_plain(err, EPROTO, "bytes behind a change of protection");
	return c->receives_plain ? cdm_tls_between_records(c->tls, err) : 0;
}

/* What the owner asked for is there, or some bytes are: hand them over. False: more must come first. */
static bool deliver(struct conn *c)
{
	struct cdm_error err = CDM_ERROR_INIT;
	if (c->fill && c->fill_left == 0) {
		c->fill = NULL;
		c->ops->filled(c->arg);
		return true;
	}
	size_t len = cdm_buffer_len(&c->in);
	if (c->fill || len == 0 || len < c->need)
		return false;
	c->need = 0;
	size_t used = c->ops->bytes(c->arg, c->in.mem + c->in.start, len);
	cdm_buffer_consume(&c->in, used);
	if (c->fill_left > 0) {
		size_t have = cdm_buffer_len(&c->in), n = have < c->fill_left ? have : c->fill_left;
		memcpy(c->fill, c->in.mem + c->in.start, n);
		cdm_buffer_consume(&c->in, n);
		c->fill += n;
		c->fill_left -= n;
	}
	if (c->state == CONN_OPEN && check_switch(c, &err) < 0)
		conn_abort(c, &err);
	return used > 0 || c->fill;
}

/* Hand plain bytes to the owner until there are no more or it paused. */
static void decrypt_and_deliver(struct conn *c)
{
	struct cdm_error err = CDM_ERROR_INIT;
	while (c->state == CONN_OPEN && c->pauses == 0) {
		if (deliver(c))
			continue;
		ssize_t n = c->state == CONN_OPEN && c->pauses == 0 ? (c->receives_plain ? read_record(c, &err) : read_tls(c, &err)) : 0;
		if (n < 0)
			conn_abort(c, &err);
		if (n <= 0)
			return;
	}
}

void conn_fill(struct conn *c, uint8_t *to, size_t len)
{
	assert(!c->fill && len > 0);
	c->fill = to;
	c->fill_left = len;
}

void conn_receive_plain(struct conn *c, bool on)
{
	c->receives_plain = on;
	c->switched_in = true;
}

static void conn_advance(struct conn *c)
{
	if (c->state == CONN_HANDSHAKE)
		handshake_step(c);
	if (c->state == CONN_OPEN)
		decrypt_and_deliver(c);
	if (c->state == CONN_CLOSED || c->state == CONN_CONNECTING || c->recv_io)
		return;
	if (c->pauses > 0 && c->state == CONN_OPEN)
		return;
	size_t room;
	uint8_t *to = cdm_tls_room(c->tls, &room);
	c->refs++;
	c->recv_io = cdm_loop_recv(c->loop, c->fd, to, room, received, c);
}

void conn_need(struct conn *c, size_t len)
{
	c->need = len;
}

void conn_pause(struct conn *c)
{
	c->pauses++;
}

static void advance_post(void *arg)
{
	struct conn *c = arg;
	c->advance_posted = false;
	if (c->state != CONN_CLOSED && !c->recv_io)
		conn_advance(c);
	else if (c->state == CONN_OPEN)
		decrypt_and_deliver(c); /* bytes may have been left behind when it paused */
	conn_unref(c);
}

void conn_resume(struct conn *c)
{
	assert(c->pauses > 0);
	if (--c->pauses > 0 || c->advance_posted || c->state == CONN_CLOSED)
		return;
	c->advance_posted = true;
	c->refs++;
	cdm_loop_post(c->loop, advance_post, c);
}

bool conn_paused(const struct conn *c)
{
	return c->pauses > 0;
}

int conn_peer(const struct conn *c, struct cdm_tls_name *ret, struct cdm_error *err)
{
	return cdm_tls_peer(c->tls, ret, err);
}

int64_t conn_last_in_ms(const struct conn *c)
{
	return c->last_in_ms;
}

int64_t conn_last_out_ms(const struct conn *c)
{
	return c->last_out_ms;
}

void conn_counters(const struct conn *c, uint64_t *ret_sent, uint64_t *ret_received)
{
	*ret_sent = c->sent;
	*ret_received = c->received;
}

int conn_split_address(const char *text, char host[256], char port[16], struct cdm_error *err)
{
	const char *colon = strrchr(text, ':');
	const char *from = text;
	size_t len = colon ? (size_t)(colon - text) : 0;
	if (len >= 2 && text[0] == '[' && text[len - 1] == ']') {
		from++;
		len -= 2;
	} else if (colon && memchr(text, ':', len)) {
		return cdm_fail_plain(err, EINVAL, "address %s: an IPv6 address wants brackets, as in [::1]:7441", text);
	}
	char *end = NULL;
	long number = colon ? strtol(colon + 1, &end, 10) : 0;
	if (!colon || len == 0 || len >= 256 || end == colon + 1 || *end || number < 0 || number > 65535)
		return cdm_fail_plain(err, EINVAL, "address %s: not HOST:PORT", text);
	memcpy(host, from, len);
	host[len] = 0;
	snprintf(port, 16, "%ld", number);
	return 0;
}
