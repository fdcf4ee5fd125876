/* SPDX-License-Identifier: Apache-2.0 */
/* The agent port: TLS; a connection with a node certificate speaks frames (docs/internals.md 4), one without may only join. */
#include <arpa/inet.h>
#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent_ssl.h>
#include <event2/listener.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>
#include "common/log.h"
#include "master/live.h"
#include "master/policy.h"

#define FRAME_MAX (1u << 20)
#define OUT_MAX (8u << 20)       /* an agent that does not read is dropped */
#define HEAD_MAX (8u << 10)      /* join: request line and headers */
#define JOIN_BODY_MAX (64u << 10)
#define HANDSHAKE_S 10
#define SILENCE_S 20             /* agents send status every 5 s */
#define RENEW_MS 300             /* between certificates of one connection */
#define NEW_MAX 512              /* connections that have not said hello */

struct agent {
	struct agents *all;
	struct agent *next, **prev;
	struct bufferevent *bev;
	char address[INET6_ADDRSTRLEN];
	bool ipv6;
	struct ca_node cert; /* as at the handshake */
	uint32_t number;    /* of it; 0: not yet known, or joining */
	int64_t renewed_ms; /* its last certificate; 0: none on this connection */
	bool greeted, joining, closing;
	uint64_t sent_same; /* hash of the last document */
	bool sent;
};
struct agents {
	struct master *master;
	SSL_CTX *ctx;
	struct evconnlistener *listener;
	struct agent *list;
	struct agent **by_number;
	size_t room, fresh;
	uint32_t unknown; /* the highest number without a node that was shown: once told to the registry */
};

static void agent_free(struct agent *a)
{
	struct agents *all = a->all;
	*a->prev = a->next;
	if (a->next)
		a->next->prev = a->prev;
	if (!a->greeted)
		all->fresh--;
	if (!all->master->stopping && a->greeted && a->number < all->room && all->by_number[a->number] == a) {
		const struct model_node *n = model_node_number(registry_model(all->master->registry), a->number);
		all->by_number[a->number] = NULL;
		live_lost(all->master->live, a->number);
		adopt_lost(all->master, a->number);
		if (n) {
			cdm_log(agent_down, cdm_str("node", n->name));
			news_tell(all->master->news, 4, "node.lost", n->name, NULL, "connection to %s lost", n->name);
			registry_submit(all->master->registry, REG_NODE_SEEN,
				json_pack("{s:I, s:I}", "number", (json_int_t)a->number, "last_seen", (json_int_t)time(NULL)), NULL, false, NULL, NULL);
			policy_poke(all->master->policy);
		}
	}
	SSL *ssl = bufferevent_openssl_get_ssl(a->bev);
	if (a->closing && SSL_is_init_finished(ssl)) { /* say goodbye without waiting for theirs */
		SSL_set_shutdown(ssl, SSL_RECEIVED_SHUTDOWN);
		SSL_shutdown(ssl);
		ERR_clear_error();
	}
	bufferevent_free(a->bev);
	free(a);
}

/* --- sending ---------------------------------------------------------------------------------------------------- */

static void send_frame(struct agent *a, const char *text, size_t len)
{
	uint32_t size = htonl((uint32_t)len);
	bufferevent_write(a->bev, &size, sizeof size);
	bufferevent_write(a->bev, text, len);
}

/* Close once everything is out; the output is not empty. */
static void close_soon(struct agent *a)
{
	a->closing = true;
	bufferevent_disable(a->bev, EV_READ);
	bufferevent_set_timeouts(a->bev, NULL, &(struct timeval){.tv_sec = HANDSHAKE_S});
}

static void fail(struct agent *a, const char *text)
{
	json_t *j = json_pack("{s:s, s:i, s:s}", "type", "error", "v", 1, "text", text);
	_cleanup_free_ char *out = json_dumps(j, JSON_COMPACT);
	json_decref(j);
	cdm_log(agent_refused, cdm_str("address", a->address), cdm_uint("number", a->number), cdm_str("msg", text));
	const char *frame = out ? out : "{}";
	send_frame(a, frame, strlen(frame));
	close_soon(a);
}

bool agents_is_connected(const struct agents *all, uint32_t number)
{
	return all && number < all->room && all->by_number[number];
}

void agents_push(struct agents *all, uint32_t number, const char *text, size_t len, uint64_t same)
{
	struct agent *a = agents_is_connected(all, number) ? all->by_number[number] : NULL;
	if (!a || a->closing || (a->sent && a->sent_same == same))
		return;
	if (len > FRAME_MAX) {
		cdm_log(routes_too_large, cdm_uint("number", number), cdm_uint("bytes", len));
		return;
	}
	if (evbuffer_get_length(bufferevent_get_output(a->bev)) > OUT_MAX) {
		fail(a, "does not read what it is sent");
		return;
	}
	a->sent = true;
	a->sent_same = same;
	send_frame(a, text, len);
}

void agents_send(struct agents *all, uint32_t number, json_t *message)
{
	struct agent *a = agents_is_connected(all, number) ? all->by_number[number] : NULL;
	_cleanup_free_ char *text = a && !a->closing ? json_dumps(message, JSON_COMPACT) : NULL;
	json_decref(message);
	if (text && strlen(text) <= FRAME_MAX)
		send_frame(a, text, strlen(text));
}

void agents_refuse(struct agents *all, uint32_t number, const char *why)
{
	if (agents_is_connected(all, number) && !all->by_number[number]->closing)
		fail(all->by_number[number], why);
}

void agents_check(struct agents *all)
{
	const struct model *m = registry_model(all->master->registry);
	for (struct agent *a = all->list, *next; a; a = next) {
		next = a->next;
		const struct model_node *n = a->greeted && !a->closing ? model_node_number(m, a->number) : NULL;
		if (!a->greeted || a->closing)
			continue;
		if (!n)
			fail(a, "this node was removed from the installation");
		else if (n->state == NODE_REVOKED)
			fail(a, "this node's certificate was revoked");
	}
}

/* --- messages --------------------------------------------------------------------------------------------------- */

static void take_place(struct agent *a)
{
	struct agents *all = a->all;
	if (a->number >= all->room) {
		size_t room = a->number + 64;
		struct agent **grown = realloc(all->by_number, room * sizeof(struct agent *));
		if (!grown) {
			fail(a, "the master is out of memory");
			return;
		}
		memset(grown + all->room, 0, (room - all->room) * sizeof(struct agent *));
		all->by_number = grown;
		all->room = room;
	}
	struct agent *old = all->by_number[a->number];
	all->by_number[a->number] = a;
	a->greeted = true;
	all->fresh--;
	if (old)
		fail(old, "another connection with this node's certificate took over");
}

static void node_address(const struct agent *a, const json_t *hello, char *out, size_t room)
{
	const char *advertise = json_string_value(json_object_get(hello, "advertise"));
	json_int_t port = json_integer_value(json_object_get(hello, "listen_port"));
	if (advertise && advertise[0])
		snprintf(out, room, "%.250s", advertise);
	else
		snprintf(out, room, a->ipv6 ? "[%s]:%d" : "%s:%d", a->address, (int)port);
}

static void take_hello(struct agent *a, const json_t *msg)
{
	struct master *m = a->all->master;
	const struct model_node *n = model_node_number(registry_model(m->registry), a->number);
	const char *name = json_string_value(json_object_get(msg, "node"));
	json_int_t port = json_integer_value(json_object_get(msg, "listen_port"));
	char addr[256];
	if (!n && a->number > a->all->unknown) { /* removed, or joined after the backup that this database is of */
		a->all->unknown = a->number;
		registry_submit(m->registry, REG_NODE_UNKNOWN, json_pack("{s:I}", "number", (json_int_t)a->number), NULL, false, NULL, NULL);
	}
	if (!n || strcmp(n->name, a->cert.name) != 0) { /* numbers are not used again: whoever joins anew gets another one */
		fail(a, "this node's certificate is not valid any more (removed or joined anew); join again");
		return;
	}
	if (n->state == NODE_REVOKED) {
		fail(a, "this node's certificate was revoked");
		return;
	}
	if (time(NULL) > a->cert.end + CA_LATE_S) {
		fail(a, "this node's certificate ended more than 30 days ago; remove the node and join again");
		return;
	}
	if (!name || strcmp(name, n->name) != 0 || json_integer_value(json_object_get(msg, "number")) != a->number) {
		fail(a, "hello names another node than the certificate");
		return;
	}
	if (port < 1 || port > 65535) {
		fail(a, "hello: listen_port must be 1 to 65535");
		return;
	}
	if (!a->greeted)
		take_place(a);
	if (a->closing)
		return;
	a->sent = false;
	node_address(a, msg, addr, sizeof addr);
	live_hello(m->live, a->number, msg);
	live_certificate(m->live, a->number, a->cert.end);
	cdm_log(agent_up, cdm_str("node", n->name), cdm_str("addr", addr), cdm_str("version", live_find(m->live, a->number)->version));
	news_tell(m->news, 6, "node.connected", n->name, NULL, "%s connected from %s", n->name, addr);
	bufferevent_set_timeouts(a->bev, &(struct timeval){.tv_sec = SILENCE_S}, &(struct timeval){.tv_sec = SILENCE_S});
	if (strcmp(addr, n->addr) != 0 || n->last_seen == 0)
		registry_submit(m->registry, REG_NODE_SEEN,
			json_pack("{s:I, s:I, s:s}", "number", (json_int_t)a->number, "last_seen", (json_int_t)time(NULL), "addr", addr), NULL, false, NULL, NULL);
	policy_poke(m->policy);
}

/* The node wants its next certificate: for a new key, with the name and number that the connection has proven. */
static void take_renew(struct agent *a, const json_t *msg)
{
	struct master *m = a->all->master;
	const struct model_node *n = model_node_number(registry_model(m->registry), a->number);
	const char *csr = json_string_value(json_object_get(msg, "csr"));
	struct cdm_error err = CDM_ERROR_INIT;
	struct ca_request *request = NULL;
	_cleanup_free_ char *pem = NULL;
	char serial[CA_SERIAL_TEXT], until[32];
	int64_t now = master_now_ms();
	if (a->renewed_ms && now - a->renewed_ms < RENEW_MS)
		return; /* it asks again when it is due */
	a->renewed_ms = now;
	int r = n && csr ? ca_request_parse(csr, strlen(csr), &request, &err) : cdm_fail_plain(&err, EINVAL, "renew: no csr");
	if (r == 0)
		r = ca_make_serial(serial, &err);
	if (r == 0)
		r = ca_issue(m->ca, request, n->name, n->number, serial, m->conf->certificate_life_s, &pem, &err);
	ca_request_free(&request);
	if (r < 0) {
		fail(a, err.text);
		return;
	}
	int64_t end = time(NULL) + m->conf->certificate_life_s;
	master_format_time(end, until);
	cdm_log(certificate_renewed, cdm_str("node", n->name), cdm_str("until", until));
	live_certificate(m->live, a->number, end);
	registry_submit(m->registry, REG_NODE_SEEN, json_pack("{s:I, s:I, s:s}", "number", (json_int_t)a->number, "last_seen", (json_int_t)time(NULL),
		"serial", serial), NULL, false, NULL, NULL);
	agents_send(a->all, a->number, json_pack("{s:s, s:i, s:s}", "type", "certificate", "v", 1, "certificate", pem));
}

static void take_event(struct agent *a, const json_t *msg)
{
	const struct model_node *n = model_node_number(registry_model(a->all->master->registry), a->number);
	const char *name = json_string_value(json_object_get(msg, "name")), *set = json_string_value(json_object_get(msg, "set"));
	const char *text = json_string_value(json_object_get(msg, "text")), *path = json_string_value(json_object_get(msg, "path"));
	json_int_t level = json_integer_value(json_object_get(msg, "level"));
	if (n && name)
		news_tell(a->all->master->news, level < 3 || level > 7 ? 6 : (int)level, name, n->name, set, "%s%s%s", path ? path : "", path ? ": " : "", text ? text : "");
}

static void take_parent(struct agent *a, const json_t *msg)
{
	struct master *m = a->all->master;
	const struct model_node *n = model_node_number(registry_model(m->registry), a->number);
	const char *set = json_string_value(json_object_get(msg, "set")), *parent = json_string_value(json_object_get(msg, "parent"));
	const char *reason = json_string_value(json_object_get(msg, "reason"));
	if (!n || !set)
		return;
	live_parent(m->live, a->number, set, parent);
	news_tell(m->news, 5, "route.taken", n->name, set, "%s is fed by %s now: %s", n->name, parent ? parent : "nobody", reason ? reason : "");
}

static void take_message(struct agent *a, const json_t *msg)
{
	struct live *live = a->all->master->live;
	const char *type = json_string_value(json_object_get(msg, "type"));
	if (!type || json_integer_value(json_object_get(msg, "v")) != 1)
		fail(a, "every message needs \"type\" and \"v\":1");
	else if (strcmp(type, "hello") == 0)
		take_hello(a, msg);
	else if (!a->greeted)
		fail(a, "hello must come first");
	else if (strcmp(type, "status") == 0)
		live_status(live, a->number, msg);
	else if (strcmp(type, "routes_ok") == 0)
		live_confirmed(live, a->number, (uint64_t)json_integer_value(json_object_get(msg, "epoch")));
	else if (strcmp(type, "parent") == 0)
		take_parent(a, msg);
	else if (strcmp(type, "event") == 0)
		take_event(a, msg);
	else if (strcmp(type, "renew") == 0)
		take_renew(a, msg);
	else if (strcmp(type, "adopted") == 0)
		adopt_answered(a->all->master, a->number, msg);
	/* other types are of a newer agent: passed over */
}

/* One frame off the input: 1 taken, 0 needs more, -1 the agent is closing. */
static int take_frame(struct agent *a, struct evbuffer *in)
{
	uint32_t size;
	if (evbuffer_copyout(in, &size, sizeof size) < (ev_ssize_t)sizeof size)
		return 0;
	size = ntohl(size);
	if (size == 0 || size > FRAME_MAX) {
		fail(a, "frame length out of range");
		return -1;
	}
	if (evbuffer_get_length(in) < sizeof size + size)
		return 0;
	evbuffer_drain(in, sizeof size);
	json_error_t where;
	json_t *msg = json_loadb((const char *)evbuffer_pullup(in, (ev_ssize_t)size), size, JSON_REJECT_DUPLICATES, &where);
	evbuffer_drain(in, size);
	if (!msg || !json_is_object(msg))
		fail(a, "frame is not a JSON object");
	else
		take_message(a, msg);
	json_decref(msg);
	return a->closing ? -1 : 1;
}

/* --- joining ---------------------------------------------------------------------------------------------------- */

static void on_join_done(void *arg, int status, json_t *body)
{
	struct agent *a = arg;
	_cleanup_free_ char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
	a->joining = false;
	if (a->closing) { /* the peer is gone */
		agent_free(a);
		return;
	}
	evbuffer_add_printf(bufferevent_get_output(a->bev), "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s", status,
		status == 200 ? "OK" : "Refused", status == 200 ? "application/json" : "application/problem+json", text ? strlen(text) : 0, text ? text : "");
	close_soon(a);
}

static void refuse_http(struct agent *a, int status, const char *detail, const char *hint)
{
	json_t *body = problem_new(status, detail, hint);
	on_join_done(a, status, body);
	json_decref(body);
}

static bool header_length(const char *head, size_t *ret)
{
	for (const char *line = strstr(head, "\r\n"); line; line = strstr(line + 2, "\r\n")) {
		if (strncasecmp(line + 2, "content-length:", 15) != 0)
			continue;
		const char *value = line + 17 + strspn(line + 17, " \t");
		char *end;
		unsigned long n = strtoul(value, &end, 10);
		if (*value < '0' || *value > '9' || (*end != '\r' && *end != ' ') || n > JOIN_BODY_MAX)
			return false;
		*ret = n;
		return true;
	}
	return false;
}

/* A request of a peer without certificate: exactly one POST /api/v1/join. */
static void take_http(struct agent *a, struct evbuffer *in)
{
	struct evbuffer_ptr end = evbuffer_search(in, "\r\n\r\n", 4, NULL);
	size_t length = 0, have = evbuffer_get_length(in);
	char head[HEAD_MAX + 1];
	if (end.pos < 0 && have <= HEAD_MAX)
		return;
	if (end.pos < 0 || end.pos > (ev_ssize_t)HEAD_MAX - 2) {
		refuse_http(a, 400, "not a request this port answers", "nodes connect here with their certificate; the HTTP API has its own port");
		return;
	}
	evbuffer_copyout(in, head, (size_t)end.pos + 2);
	head[end.pos + 2] = 0;
	if (strncmp(head, "POST /api/v1/join HTTP/1.", 25) != 0) {
		refuse_http(a, 404, "without a node certificate only POST /api/v1/join is answered here", "use the HTTP API's port for everything else");
		return;
	}
	if (!header_length(head, &length)) {
		refuse_http(a, 413, "Content-Length is missing or above 64 KiB", "");
		return;
	}
	if (have < (size_t)end.pos + 4 + length)
		return;
	evbuffer_drain(in, (size_t)end.pos + 4);
	a->joining = true;
	bufferevent_disable(a->bev, EV_READ);
	join_start(a->all->master, a->address, (const char *)evbuffer_pullup(in, (ev_ssize_t)length), length, on_join_done, a);
}

/* --- connections ------------------------------------------------------------------------------------------------ */

static void on_read(struct bufferevent *bev, void *arg)
{
	struct agent *a = arg;
	struct evbuffer *in = bufferevent_get_input(bev);
	if (a->closing || a->joining)
		return;
	if (a->number == 0) {
		take_http(a, in);
		return;
	}
	while (take_frame(a, in) > 0)
		;
}

static void on_written(struct bufferevent *bev, void *arg)
{
	struct agent *a = arg;
	if (a->closing && !a->joining)
		agent_free(a);
}

static void on_connected(struct agent *a)
{
	SSL *ssl = bufferevent_openssl_get_ssl(a->bev);
	int r = ca_peer_node(ssl, &a->cert);
	a->number = r == 0 ? a->cert.number : 0;
	if (r == -EBADMSG) {
		cdm_log(agent_refused, cdm_str("address", a->address), cdm_str("msg", "not a node's certificate"));
		agent_free(a);
	}
}

static void on_event(struct bufferevent *bev, short what, void *arg)
{
	struct agent *a = arg;
	if (what & BEV_EVENT_CONNECTED) {
		on_connected(a);
		return;
	}
	unsigned long code = bufferevent_get_openssl_error(bev);
	if (code && !a->number) {
		char text[160];
		ERR_error_string_n(code, text, sizeof text);
		cdm_log(agent_refused, cdm_str("address", a->address), cdm_str("msg", text));
	}
	if (a->joining) { /* its answer is on the way and finds it closing */
		a->closing = true;
		bufferevent_disable(bev, EV_READ | EV_WRITE);
		return;
	}
	agent_free(a);
}

static void on_accept(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *addr, int len, void *arg)
{
	struct agents *all = arg;
	struct agent *a = all->fresh < NEW_MAX ? calloc(1, sizeof *a) : NULL;
	SSL *ssl = a ? SSL_new(all->ctx) : NULL;
	if (ssl)
		a->bev = bufferevent_openssl_socket_new(all->master->base, fd, ssl, BUFFEREVENT_SSL_ACCEPTING, BEV_OPT_CLOSE_ON_FREE);
	if (!a || !a->bev) {
		SSL_free(ssl);
		free(a);
		close(fd);
		return;
	}
	a->all = all;
	a->next = all->list;
	a->prev = &all->list;
	if (a->next)
		a->next->prev = &a->next;
	all->list = a;
	all->fresh++;
	a->ipv6 = addr->sa_family == AF_INET6;
	const void *raw = a->ipv6 ? (const void *)&((struct sockaddr_in6 *)addr)->sin6_addr : (const void *)&((struct sockaddr_in *)addr)->sin_addr;
	inet_ntop(addr->sa_family, raw, a->address, sizeof a->address);
	bufferevent_openssl_set_allow_dirty_shutdown(a->bev, 1);
	bufferevent_setwatermark(a->bev, EV_READ, 0, FRAME_MAX + 4096);
	bufferevent_setcb(a->bev, on_read, on_written, on_event, a);
	bufferevent_set_timeouts(a->bev, &(struct timeval){.tv_sec = HANDSHAKE_S}, &(struct timeval){.tv_sec = HANDSHAKE_S});
	bufferevent_enable(a->bev, EV_READ | EV_WRITE);
}

int agents_start(struct master *m, struct agents **ret, struct cdm_error *err)
{
	struct agents *all = calloc(1, sizeof *all);
	if (!all)
		return cdm_fail(err, ENOMEM, "agents");
	all->master = m;
	int fd = master_listen(m->conf->listen_agents, &m->agents_port, err);
	int r = fd < 0 ? fd : ca_server_context(m->ca, true, &all->ctx, err);
	if (r == 0)
		all->listener = evconnlistener_new(m->base, on_accept, all, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 0, fd);
	if (r == 0 && !all->listener)
		r = cdm_fail(err, errno, "listen on %s", m->conf->listen_agents);
	if (r < 0 && fd >= 0)
		close(fd);
	*ret = all;
	if (r < 0)
		agents_stop(ret);
	return r;
}

void agents_stop(struct agents **pa)
{
	struct agents *all = *pa;
	*pa = NULL;
	if (!all)
		return;
	if (all->listener)
		evconnlistener_free(all->listener);
	while (all->list)
		agent_free(all->list);
	SSL_CTX_free(all->ctx);
	free(all->by_number);
	free(all);
}
