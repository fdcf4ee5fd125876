/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/cluster/hostile.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
#include "common/loop.h"
#include "common/tls.h"

struct hostile {
	char as[64], to[64];
	uint32_t number, features;
	int fd;
	SSL_CTX *ctx;
	struct cdm_tls *tls;
	struct bytes in;  /* plain bytes that are no whole frame yet, or were not asked for */
	size_t taken;     /* of them: handed out by hostile_await */
	struct cdm_vector theirs;
	char said[WIRE_TEXT_MAX + 1];
	bool cut;         /* it takes nothing any more; what it said before that is still here */
	bool ended;
};

static void must(int r, const struct hostile *h, const char *what, const struct cdm_error *err)
{
	if (r < 0)
		fail_msg("%s as %s to %s: %s", what, h->as, h->to, err->number ? err->text : strerror(-r));
}

/* --- bytes --- */

void hostile_tcp(struct hostile *h, const void *bytes, size_t len)
{
	for (size_t done = 0; done < len && !h->cut;) {
		ssize_t n = send(h->fd, (const char *)bytes + done, len - done, MSG_NOSIGNAL);
		if (n <= 0 && errno != EINTR)
			h->cut = errno != EAGAIN; /* EAGAIN: it does not read; the rest is not sent */
		if (n <= 0 && errno != EINTR)
			return;
		done += n > 0 ? (size_t)n : 0;
	}
}

static void flush(struct hostile *h)
{
	const uint8_t *out;
	size_t n = cdm_tls_out_take(h->tls, &out);
	hostile_tcp(h, out, n);
}

void hostile_bytes(struct hostile *h, const void *bytes, size_t len)
{
	if (cdm_tls_write(h->tls, bytes, len, NULL) == 0)
		flush(h);
}

/* Once what the socket has; waits up to 100 ms for something. */
static void receive(struct hostile *h)
{
	size_t room;
	uint8_t *at = cdm_tls_room(h->tls, &room);
	ssize_t n = recv(h->fd, at, room, 0);
	if (n > 0)
		cdm_tls_added(h->tls, (size_t)n);
	else if (n == 0 || (errno != EAGAIN && errno != EINTR))
		h->ended = true;
}

static void read_plain(struct hostile *h)
{
	for (;;) {
		uint8_t *at = bytes_add(&h->in, 65536);
		ssize_t n = cdm_tls_read(h->tls, at, 65536, NULL);
		h->in.len -= 65536 - (n > 0 ? (size_t)n : 0);
		if (n < 0)
			h->ended = true;
		if (n <= 0)
			return;
	}
}

static void handshake(struct hostile *h)
{
	struct cdm_error err = CDM_ERROR_INIT;
	int64_t until = cdm_now_ms() + STORY_MS;
	for (int r = 0; r == 0;) {
		r = cdm_tls_handshake(h->tls, &err);
		must(r, h, "TLS", &err);
		flush(h);
		if (r == 0)
			receive(h);
		if (h->ended || cdm_now_ms() > until)
			fail_msg("no TLS as %s with %s", h->as, h->to);
	}
}

/* --- frames --- */

void hostile_frame(struct hostile *h, unsigned type, unsigned flags, unsigned set, const void *payload, size_t len)
{
	uint8_t head[WIRE_HEADER];
	struct bytes frame = {0};
	wire_header_encode(&(struct wire_header){.payload = (uint32_t)len, .type = (uint8_t)type, .flags = (uint8_t)flags, .set = (uint16_t)set}, head);
	bytes_put(&frame, head, sizeof head);
	bytes_put(&frame, payload, len);
	hostile_bytes(h, frame.data, frame.len);
	bytes_fini(&frame);
}

/* The next whole frame that is here, or NULL. */
static const uint8_t *next_frame(struct hostile *h, struct wire_header *ret)
{
	struct wire_error e;
	if (h->taken)
		memmove(h->in.data, h->in.data + h->taken, h->in.len - h->taken);
	h->in.len -= h->taken;
	h->taken = 0;
	if (h->in.len < WIRE_HEADER)
		return NULL;
	if (wire_header_decode(h->in.data, ret, NULL) < 0)
		fail_msg("%s itself sent a frame that cannot be read", h->to);
	if (h->in.len < WIRE_HEADER + ret->payload)
		return NULL;
	h->taken = WIRE_HEADER + ret->payload;
	if (ret->type == FRAME_ERROR && wire_error_decode(h->in.data + WIRE_HEADER, ret->payload, &e) == 0)
		snprintf(h->said, sizeof h->said, "%s", e.text);
	return h->in.data + WIRE_HEADER;
}

/* Until `type` comes (0: the end of the connection). */
static const uint8_t *await(struct hostile *h, unsigned type, size_t *ret_len)
{
	struct wire_header head;
	int64_t until = cdm_now_ms() + STORY_MS;
	do {
		for (const uint8_t *payload; (payload = next_frame(h, &head));)
			if (type && head.type == type) {
				*ret_len = head.payload;
				return payload;
			}
		if (h->ended)
			return NULL;
		receive(h);
		read_plain(h);
	} while (cdm_now_ms() < until);
	return NULL;
}

const uint8_t *hostile_await(struct hostile *h, unsigned type, size_t *ret_len)
{
	const uint8_t *payload = await(h, type, ret_len);
	if (!payload)
		fail_msg("%s sent no frame of type %u, %s%s", h->to, type, h->ended ? "but ended: " : "and does not end", h->said);
	return payload;
}

const char *hostile_ended(struct hostile *h)
{
	size_t len;
	await(h, 0, &len);
	if (!h->ended)
		fail_msg("%s does not end the link", h->to);
	return h->said;
}

void hostile_lives(struct hostile *h)
{
	static uint64_t number;
	uint64_t ping = ++number, pong = 0;
	size_t len;
	hostile_frame(h, FRAME_PING, 0, 0, &ping, sizeof ping);
	while (pong != ping)
		memcpy(&pong, hostile_await(h, FRAME_PONG, &len), sizeof pong);
}

/* --- beginning --- */

uint32_t hostile_number(const char *node)
{
	char path[600];
	snprintf(path, sizeof path, "%s/%s/state/identity.json", lab_dir(lab), node);
	json_t *j = json_load_file(path, 0, NULL);
	uint32_t number = (uint32_t)json_integer_value(json_object_get(j, "number"));
	json_decref(j);
	assert_int_not_equal(number, 0);
	return number;
}

struct wire_hello hostile_hello(const struct hostile *h)
{
	struct wire_hello hello = {.version = WIRE_VERSION, .min_version = WIRE_VERSION, .features = h->features, .number = h->number,
		.instance = (uint64_t)cdm_wall_ns(), .clock = cdm_clock_now()};
	snprintf(hello.name, sizeof hello.name, "%s", h->as);
	return hello;
}

static void say_hello(struct hostile *h)
{
	uint8_t out[WIRE_SMALL_MAX];
	size_t len;
	struct wire_hello hello = hostile_hello(h);
	hostile_frame(h, FRAME_HELLO, 0, 0, out, wire_hello_encode(&hello, out));
	hostile_await(h, FRAME_HELLO, &len);
}

void hostile_serves(struct hostile *h)
{
	uint8_t out[WIRE_SMALL_MAX];
	size_t len;
	struct wire_set_up up = {.name = LAB_SET};
	hostile_await(h, FRAME_SET_UP, &len);
	hostile_frame(h, FRAME_SET_UP, 0, 0, out, wire_set_up_encode(&up, out));
}

static void agree_on_set(struct hostile *h)
{
	uint8_t out[WIRE_SMALL_MAX];
	size_t len;
	struct wire_set_up up = {.child = true, .name = LAB_SET};
	hostile_frame(h, FRAME_SET_UP, 0, 0, out, wire_set_up_encode(&up, out));
	hostile_await(h, FRAME_SET_UP, &len);
}

static void subscribe(struct hostile *h)
{
	struct subscribe theirs;
	struct bytes frame = {0};
	size_t len;
	const uint8_t *payload = hostile_await(h, FRAME_SUBSCRIBE, &len);
	assert_int_equal(subscribe_decode(payload, len, &theirs), 0);
	cdm_vector_copy(&h->theirs, &theirs.visible);
	struct subscribe ours = {.visible = theirs.visible, .durable = theirs.durable};
	subscribe_encode(&ours, &frame);
	hostile_frame(h, FRAME_SUBSCRIBE, 0, 0, frame.data, frame.len);
	bytes_fini(&frame);
	subscribe_fini(&theirs);
}

const struct cdm_vector *hostile_their_vector(const struct hostile *h)
{
	return &h->theirs;
}

/* "listen = HOST:PORT" of the node's configuration. */
static struct sockaddr_in address_of(const char *node)
{
	_cleanup_free_ char *said = NULL;
	assert_int_equal(shell_status("n1", &said, "sed -n 's/^listen = //p' %s/%s/node.conf", lab_dir(lab), node), 0);
	char *colon = strchr(said, ':');
	assert_non_null(colon);
	*colon = 0;
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(colon + 1))};
	assert_int_equal(inet_pton(AF_INET, said, &a.sin_addr), 1);
	return a;
}

static void dial(struct hostile *h)
{
	char key[600], cert[600], ca[600];
	struct cdm_error err = CDM_ERROR_INIT;
	const struct timeval patience = {.tv_usec = 100000}, write_patience = {.tv_sec = 5};
	struct sockaddr_in to = address_of(h->to);
	snprintf(key, sizeof key, "%s/%s/state/node.key", lab_dir(lab), h->as);
	snprintf(cert, sizeof cert, "%s/%s/state/node.crt", lab_dir(lab), h->as);
	snprintf(ca, sizeof ca, "%s/%s/state/ca.crt", lab_dir(lab), h->as);
	h->ctx = cdm_tls_context(cert, key, ca, false, &err);
	must(h->ctx ? 0 : -EACCES, h, "read the certificate", &err);
	h->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(h->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	setsockopt(h->fd, SOL_SOCKET, SO_SNDTIMEO, &write_patience, sizeof write_patience);
	if (h->fd < 0 || connect(h->fd, (struct sockaddr *)&to, sizeof to) < 0)
		must(-errno, h, "connect", &err);
	h->tls = cdm_tls_new(h->ctx, false, NULL);
	handshake(h);
}

struct hostile *hostile_connect(const char *as, const char *to, enum hostile_stage stage, uint32_t features)
{
	struct hostile *h = calloc(1, sizeof *h);
	assert_non_null(h);
	snprintf(h->as, sizeof h->as, "%s", as);
	snprintf(h->to, sizeof h->to, "%s", to);
	h->number = hostile_number(as);
	h->features = features;
	dial(h);
	if (stage >= HOSTILE_HELLO)
		say_hello(h);
	if (stage >= HOSTILE_SET)
		agree_on_set(h);
	if (stage >= HOSTILE_SUBSCRIBED)
		subscribe(h);
	return h;
}

void hostile_close(struct hostile **ret)
{
	struct hostile *h = *ret;
	*ret = NULL;
	if (!h)
		return;
	if (h->tls)
		cdm_tls_free(&h->tls);
	if (h->ctx)
		SSL_CTX_free(h->ctx);
	close(h->fd);
	bytes_fini(&h->in);
	cdm_vector_fini(&h->theirs);
	free(h);
}

/* --- between two --- */

struct hostile_relay {
	struct hostile *ends[2];
	hostile_drops_fn *drops;
	atomic_bool over;
	pthread_t thread;
};

static void pass_on(struct hostile_relay *r, struct hostile *from, struct hostile *to)
{
	struct wire_header head;
	for (const uint8_t *payload; (payload = next_frame(from, &head));) {
		if (head.type == FRAME_PING)
			hostile_frame(from, FRAME_PONG, 0, 0, payload, head.payload);
		else if ((head.type == FRAME_STATE || head.type >= FRAME_SUBSCRIBE) && !r->drops(head.type, payload, head.payload))
			hostile_frame(to, head.type, head.flags, 0, payload, head.payload);
	}
}

static void *relay(void *arg)
{
	struct hostile_relay *r = arg;
	while (!r->over && !r->ends[0]->ended && !r->ends[1]->ended) {
		struct pollfd fds[2] = {{r->ends[0]->fd, POLLIN, 0}, {r->ends[1]->fd, POLLIN, 0}};
		for (size_t i = 0; i < 2; i++) {
			pass_on(r, r->ends[i], r->ends[!i]); /* also what came before this began */
			if (poll(fds, 2, 20) <= 0 || !fds[i].revents)
				continue;
			receive(r->ends[i]);
			read_plain(r->ends[i]);
		}
	}
	return NULL;
}

struct hostile_relay *hostile_relay_begin(struct hostile *above, struct hostile *below, hostile_drops_fn *drops)
{
	struct hostile_relay *r = calloc(1, sizeof *r);
	assert_non_null(r);
	r->ends[0] = above;
	r->ends[1] = below;
	r->drops = drops;
	assert_int_equal(pthread_create(&r->thread, NULL, relay, r), 0);
	return r;
}

void hostile_relay_end(struct hostile_relay **ret)
{
	struct hostile_relay *r = *ret;
	*ret = NULL;
	r->over = true;
	pthread_join(r->thread, NULL);
	hostile_close(&r->ends[0]);
	hostile_close(&r->ends[1]);
	free(r);
}
