/* SPDX-License-Identifier: Apache-2.0 */
#include "master/http.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent_ssl.h>
#include <event2/listener.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/queue.h>
#include <unistd.h>
#include <xxhash.h>
#include "common/log.h"

#define CONNECTIONS_MAX 512
#define STREAMS_MAX 64
#define STREAM_BEHIND_MAX (1u << 20) /* a reader this far behind is dropped; it resumes by Last-Event-ID */
#define IDLE_S 30
#define REMEMBERED 256               /* answers by Idempotency-Key */

struct stream {
	struct stream *next, **prev;
	struct http *http;
	struct evhttp_request *req;
	struct news_follower *follower;
};
struct remembered {
	char key[96];
	uint64_t fingerprint;
	int status;
	json_t *body;
};
struct http {
	struct master *master;
	SSL_CTX *ctx;
	struct evhttp *server;
	struct evhttp_bound_socket *bound;
	struct event *beat; /* comment lines keep streams alive through proxies */
	struct stream *streams;
	size_t stream_count, connections;
	struct remembered memory[REMEMBERED];
	size_t memory_next;
};

/* --- answers ---------------------------------------------------------------------------------------------------- */

static void call_free(struct http_call *c)
{
	if (c->req)
		evhttp_connection_set_closecb(evhttp_request_get_connection(c->req), NULL, NULL);
	evhttp_clear_headers(&c->query);
	json_decref(c->body);
	free(c);
}

static void send_body(struct http_call *c, int status, const char *type, const char *text, size_t len)
{
	if (c->req) {
		struct evkeyvalq *out = evhttp_request_get_output_headers(c->req);
		struct evbuffer *buf = evbuffer_new();
		evhttp_add_header(out, "Content-Type", type);
		evhttp_add_header(out, "Cache-Control", "no-store");
		evhttp_add_header(out, "X-Content-Type-Options", "nosniff");
		if (status == 401)
			evhttp_add_header(out, "WWW-Authenticate", "Bearer");
		if (status == 429)
			evhttp_add_header(out, "Retry-After", "60");
		if (buf)
			evbuffer_add(buf, text, len);
		evhttp_connection_set_closecb(evhttp_request_get_connection(c->req), NULL, NULL);
		evhttp_send_reply(c->req, status, NULL, buf);
		if (buf)
			evbuffer_free(buf);
		c->req = NULL;
	}
	call_free(c);
}

static void remember(struct http_call *c, int status, json_t *body)
{
	struct http *h = c->master->http;
	if (!c->idempotency[0] || !h || status >= 500 || c->dry)
		return;
	struct remembered *slot = &h->memory[h->memory_next++ % REMEMBERED];
	json_decref(slot->body);
	*slot = (struct remembered){.fingerprint = c->fingerprint, .status = status, .body = json_incref(body)};
	memcpy(slot->key, c->idempotency, sizeof slot->key);
}

static void answer(struct http_call *c, int status, const char *type, json_t *body)
{
	_cleanup_free_ char *text = json_dumps(body, JSON_COMPACT);
	remember(c, status, body);
	json_decref(body);
	send_body(c, status, type, text ? text : "", text ? strlen(text) : 0);
}

void http_answer(struct http_call *c, int status, json_t *body)
{
	if (!body)
		body = json_object();
	if (status >= 400) {
		answer(c, status, "application/problem+json", body);
		return;
	}
	json_object_set_new(body, "apiVersion", json_integer(1));
	answer(c, status, "application/json", body);
}

void http_problem(struct http_call *c, int status, const char *hint, const char *fmt, ...)
{
	char text[600];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	answer(c, status, "application/problem+json", problem_new(status, text, hint));
}

void http_text(struct http_call *c, const char *type, const char *text, size_t len)
{
	send_body(c, 200, type, text, len);
}

/* --- event streams ---------------------------------------------------------------------------------------------- */

static void stream_free(struct stream *s)
{
	struct http *h = s->http;
	*s->prev = s->next;
	if (s->next)
		s->next->prev = s->prev;
	h->stream_count--;
	if (s->follower)
		news_unfollow(h->master->news, &s->follower);
	free(s);
}

static void on_stream_closed(struct evhttp_connection *conn, void *arg)
{
	stream_free(arg);
}

static void stream_end(struct stream *s)
{
	struct evhttp_request *req = s->req;
	evhttp_connection_set_closecb(evhttp_request_get_connection(req), NULL, NULL);
	stream_free(s);
	evhttp_send_reply_end(req);
}

static void stream_send(struct stream *s, const char *text)
{
	struct evbuffer *buf = evbuffer_new();
	if (!buf)
		return;
	evbuffer_add(buf, text, strlen(text));
	evhttp_send_reply_chunk(s->req, buf);
	evbuffer_free(buf);
}

static void on_news(void *arg, const struct news_item *item)
{
	struct stream *s = arg;
	struct bufferevent *bev = evhttp_connection_get_bufferevent(evhttp_request_get_connection(s->req));
	if (evbuffer_get_length(bufferevent_get_output(bev)) > STREAM_BEHIND_MAX)
		return; /* the gap shows in the ids; the reader resumes by them */
	char head[64];
	snprintf(head, sizeof head, "id: %llu\ndata: ", (unsigned long long)item->id);
	stream_send(s, head);
	stream_send(s, item->json);
	stream_send(s, "\n\n");
}

static void on_beat(evutil_socket_t fd, short what, void *arg)
{
	struct http *h = arg;
	for (struct stream *s = h->streams; s; s = s->next)
		stream_send(s, ": still here\n\n");
	if (!h->streams)
		event_del(h->beat);
}

void http_follow_news(struct http_call *c, uint64_t since)
{
	struct http *h = c->master->http;
	struct stream *s = h->stream_count < STREAMS_MAX && c->req ? calloc(1, sizeof *s) : NULL;
	if (!s) {
		http_problem(c, 503, "try again later", "too many event streams (%d)", STREAMS_MAX);
		return;
	}
	s->http = h;
	s->req = c->req;
	s->next = h->streams;
	s->prev = &h->streams;
	if (s->next)
		s->next->prev = &s->next;
	h->streams = s;
	h->stream_count++;
	struct evhttp_connection *conn = evhttp_request_get_connection(s->req);
	struct evkeyvalq *out = evhttp_request_get_output_headers(s->req);
	evhttp_add_header(out, "Content-Type", "text/event-stream");
	evhttp_add_header(out, "Cache-Control", "no-store");
	evhttp_send_reply_start(s->req, 200, "OK");
	c->req = NULL;
	call_free(c);
	evhttp_connection_set_closecb(conn, on_stream_closed, s);
	evhttp_connection_set_timeout(conn, 86400);
	stream_send(s, ": cdmfs events\n\n");
	news_replay(h->master->news, since, on_news, s);
	s->follower = news_follow(h->master->news, on_news, s);
	if (!event_pending(h->beat, EV_TIMEOUT, NULL))
		event_add(h->beat, &(struct timeval){.tv_sec = 15});
}

/* --- requests --------------------------------------------------------------------------------------------------- */

static void on_call_closed(struct evhttp_connection *conn, void *arg)
{
	((struct http_call *)arg)->req = NULL;
}

/* 1 good, 0 none given, -1 wrong. */
static int check_bearer(struct http_call *c)
{
	const char *given = evhttp_find_header(evhttp_request_get_input_headers(c->req), "Authorization");
	const struct model *m = registry_model(c->master->registry);
	char hash[TOKEN_HASH_TEXT];
	if (!given)
		return 0;
	if (strncasecmp(given, "Bearer ", 7) != 0 || !m->admin_hash)
		return -1;
	token_hash(given + 7, hash);
	return token_hash_equal(hash, m->admin_hash) ? 1 : -1;
}

static size_t depth_of(const char *text, size_t len)
{
	size_t depth = 0, deepest = 0;
	bool quoted = false;
	for (size_t i = 0; i < len; i++) {
		if (quoted && text[i] == '\\')
			i++;
		else if (text[i] == '"')
			quoted = !quoted;
		else if (!quoted && (text[i] == '{' || text[i] == '['))
			deepest = ++depth > deepest ? depth : deepest;
		else if (!quoted && (text[i] == '}' || text[i] == ']') && depth > 0)
			depth--;
	}
	return deepest;
}

static bool read_body(struct http_call *c)
{
	struct evbuffer *in = evhttp_request_get_input_buffer(c->req);
	size_t len = evbuffer_get_length(in);
	const char *text = (const char *)evbuffer_pullup(in, -1);
	json_error_t where;
	c->fingerprint = XXH3_64bits_withSeed(text, len, XXH3_64bits(c->path, strlen(c->path)) + (uint64_t)c->dry);
	if (len == 0) {
		c->body = json_object();
		return true;
	}
	if (depth_of(text, len) > HTTP_DEPTH_MAX) {
		http_problem(c, 400, "", "the body is nested deeper than %d", HTTP_DEPTH_MAX);
		return false;
	}
	c->body = json_loadb(text, len, JSON_REJECT_DUPLICATES, &where);
	if (json_is_object(c->body))
		return true;
	if (c->body)
		http_problem(c, 400, "", "the body must be a JSON object");
	else
		http_problem(c, 400, "", "the body is not JSON: line %d column %d: %s", where.line, where.column, where.text);
	return false;
}

/* The same request under the same key was answered before: the same answer. */
static bool answer_again(struct http_call *c)
{
	struct http *h = c->master->http;
	const char *key = evhttp_find_header(evhttp_request_get_input_headers(c->req), "Idempotency-Key");
	if (!key || c->method != EVHTTP_REQ_POST)
		return false;
	if (strlen(key) >= sizeof c->idempotency) {
		http_problem(c, 400, "", "Idempotency-Key is longer than %zu bytes", sizeof c->idempotency - 1);
		return true;
	}
	for (size_t i = 0; i < REMEMBERED; i++) {
		struct remembered *r = &h->memory[i];
		if (!r->body || strcmp(r->key, key) != 0)
			continue;
		if (r->fingerprint != c->fingerprint)
			http_problem(c, 409, "use a new key for a new request", "this Idempotency-Key was used for another request");
		else
			http_answer(c, r->status, json_incref(r->body));
		return true;
	}
	snprintf(c->idempotency, sizeof c->idempotency, "%s", key);
	return false;
}

static bool needs_no_token(const char *path)
{
	return strcmp(path, "/healthz") == 0 || strcmp(path, "/readyz") == 0 || strcmp(path, "/api/v1/join") == 0 || strcmp(path, "/api/v1/openapi.json") == 0;
}

static bool authorize(struct http_call *c)
{
	int64_t now = master_now_ms();
	if (needs_no_token(c->path))
		return true;
	int bearer = check_bearer(c);
	if (bearer > 0) {
		c->account = "admin";
		return true;
	}
	if (!token_limiter_allows(&c->master->limiter, c->address, now)) {
		http_problem(c, 429, "wait a minute", "too many failed attempts from this address");
		return false;
	}
	if (bearer < 0) {
		token_limiter_failed(&c->master->limiter, c->address, now);
		cdm_log(api_refused, cdm_str("address", c->address), cdm_str("path", c->path));
	}
	http_problem(c, 401, "send the header Authorization: Bearer TOKEN; the first token is in admin.token in the master's directory", bearer < 0
			? "wrong token" : "this needs a token");
	return false;
}

static void on_request(struct evhttp_request *req, void *arg)
{
	struct http *h = arg;
	struct http_call *c = calloc(1, sizeof *c);
	const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(req);
	if (!c || !uri) {
		free(c);
		evhttp_send_error(req, 503, NULL);
		return;
	}
	c->master = h->master;
	c->req = req;
	c->method = evhttp_request_get_command(req);
	char *peer = NULL;
	ev_uint16_t port;
	evhttp_connection_get_peer(evhttp_request_get_connection(req), &peer, &port);
	snprintf(c->address, sizeof c->address, "%s", peer ? peer : "");
	TAILQ_INIT(&c->query);
	evhttp_connection_set_closecb(evhttp_request_get_connection(req), on_call_closed, c);
	size_t len;
	const char *raw = evhttp_uri_get_path(uri);
	_cleanup_free_ char *path = evhttp_uridecode(raw ? raw : "", 0, &len);
	if (!path || strlen(path) != len || len >= sizeof c->path) {
		http_problem(c, 404, "", "no such path");
		return;
	}
	memcpy(c->path, path, len + 1);
	if (evhttp_uri_get_query(uri) && evhttp_parse_query_str(evhttp_uri_get_query(uri), &c->query) < 0) {
		http_problem(c, 400, "", "the query string cannot be read");
		return;
	}
	const char *dry = evhttp_find_header(&c->query, "dry_run");
	c->dry = dry && strcmp(dry, "0") != 0;
	if (!authorize(c) || !read_body(c) || answer_again(c))
		return;
	if (h->master->stopping)
		http_problem(c, 503, "try again in a moment", "the master is stopping");
	else
		http_dispatch(c);
}

/* --- connections ------------------------------------------------------------------------------------------------ */

static int ssl_index = -1;

/* OpenSSL calls this when a connection's SSL is freed, however it ended. */
static void on_ssl_free(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
	struct http *h = ptr;
	if (!h)
		return;
	if (h->connections-- == CONNECTIONS_MAX && h->bound)
		evconnlistener_enable(evhttp_bound_socket_get_listener(h->bound));
}

static struct bufferevent *new_connection(struct event_base *base, void *arg)
{
	struct http *h = arg;
	SSL *ssl = SSL_new(h->ctx);
	struct bufferevent *bev = ssl ? bufferevent_openssl_socket_new(base, -1, ssl, BUFFEREVENT_SSL_ACCEPTING, BEV_OPT_CLOSE_ON_FREE) : NULL;
	if (!bev) {
		SSL_free(ssl);
		abort(); /* evhttp would go on in plain text */
	}
	bufferevent_openssl_set_allow_dirty_shutdown(bev, 1);
	SSL_set_ex_data(ssl, ssl_index, h);
	if (++h->connections == CONNECTIONS_MAX)
		evconnlistener_disable(evhttp_bound_socket_get_listener(h->bound));
	return bev;
}

int http_start(struct master *m, struct http **ret, struct cdm_error *err)
{
	struct http *h = calloc(1, sizeof *h);
	if (!h)
		return cdm_fail(err, ENOMEM, "HTTP server");
	*ret = h;
	h->master = m;
	if (ssl_index < 0)
		ssl_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, on_ssl_free);
	int fd = master_listen(m->conf->listen_api, &m->api_port, err);
	int r = fd < 0 ? fd : ca_server_context(m->ca, false, &h->ctx, err);
	if (r == 0) {
		h->server = evhttp_new(m->base);
		h->beat = event_new(m->base, -1, EV_PERSIST, on_beat, h);
		h->bound = h->server ? evhttp_accept_socket_with_handle(h->server, fd) : NULL;
		if (!h->bound || !h->beat)
			r = cdm_fail(err, ENOMEM, "HTTP server");
	}
	if (r < 0) {
		if (fd >= 0 && !h->bound)
			close(fd);
		http_stop(ret);
		return r;
	}
	evhttp_set_bevcb(h->server, new_connection, h);
	evhttp_set_max_headers_size(h->server, HTTP_HEADERS_MAX);
	evhttp_set_max_body_size(h->server, HTTP_BODY_MAX);
	evhttp_set_allowed_methods(h->server, EVHTTP_REQ_GET | EVHTTP_REQ_POST | EVHTTP_REQ_PATCH | EVHTTP_REQ_DELETE);
	evhttp_set_timeout(h->server, IDLE_S);
	evhttp_set_default_content_type(h->server, NULL);
	evhttp_set_gencb(h->server, on_request, h);
	return 0;
}

void http_stop(struct http **ph)
{
	struct http *h = *ph;
	*ph = NULL;
	if (!h)
		return;
	while (h->streams)
		stream_end(h->streams);
	h->bound = NULL;
	if (h->server)
		evhttp_free(h->server);
	event_base_loop(h->master->base, EVLOOP_NONBLOCK); /* libevent frees connections from the loop; on_ssl_free needs h */
	if (h->beat)
		event_free(h->beat);
	for (size_t i = 0; i < REMEMBERED; i++)
		json_decref(h->memory[i].body);
	SSL_CTX_free(h->ctx);
	free(h);
}
