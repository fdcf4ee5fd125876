/* SPDX-License-Identifier: Apache-2.0 */
/* The real cdm-master on loopback ports of the kernel's choice, driven by the real cdmctl, with joiners and agents made here.
 * argv: cdm-master, cdmctl. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>
#include <openssl/pem.h>
#include <sqlite3.h>
#include "common/tls.h"

#define DEADLINE_S 20

extern char **environ;
static const char *master_program, *ctl_program;
static char dir[256], out[1 << 20];
static pid_t master_pid;
static int master_log;
static int api_port, agents_port;
static char bearer[128];

/* --- programs --------------------------------------------------------------------------------------------------- */

/* Collects from a pipe until the word appears or the writer ends; fails after the deadline. */
static void read_until(int fd, const char *word, char *into, size_t room)
{
	size_t n = 0;
	time_t end = time(NULL) + DEADLINE_S;
	into[0] = 0;
	while (!word || !strstr(into, word)) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		if (time(NULL) > end || poll(&p, 1, DEADLINE_S * 1000) <= 0)
			fail_msg("no %s within %d s; last seen: %s", word ? word : "end", DEADLINE_S, into);
		ssize_t got = read(fd, into + n, room - n - 1);
		if (got <= 0 && !word)
			return;
		if (got <= 0)
			fail_msg("ended without %s: %s", word, into);
		n += (size_t)got;
		into[n] = 0;
	}
}

static pid_t start(const char *const argv[], int to, int *ret_fd)
{
	int ends[2];
	pid_t pid;
	posix_spawn_file_actions_t actions;
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, ends[1], to);
	assert_int_equal(posix_spawn(&pid, argv[0], &actions, NULL, (char *const *)argv, environ), 0);
	posix_spawn_file_actions_destroy(&actions);
	close(ends[1]);
	*ret_fd = ends[0];
	return pid;
}

static int end_of(pid_t pid)
{
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int port_of(const char *url)
{
	return atoi(strrchr(url, ':') + 1);
}

static void master_start(void)
{
	const char *const argv[] = {master_program, "--dir", dir, "--listen-api", "127.0.0.1:0", "--listen-agents", "127.0.0.1:0", NULL};
	char path[300];
	master_pid = start(argv, STDERR_FILENO, &master_log);
	read_until(master_log, "master_ready", out, sizeof out);
	snprintf(path, sizeof path, "%s/endpoints.json", dir);
	json_t *j = json_load_file(path, 0, NULL);
	assert_non_null(j);
	api_port = port_of(json_string_value(json_object_get(j, "api")));
	agents_port = port_of(json_string_value(json_object_get(j, "agents")));
	json_decref(j);
	snprintf(path, sizeof path, "%s/admin.token", dir);
	FILE *f = fopen(path, "r");
	assert_non_null(f);
	assert_non_null(fgets(bearer, sizeof bearer, f));
	bearer[strcspn(bearer, "\n")] = 0;
	fclose(f);
}

static void master_stop(void)
{
	kill(master_pid, SIGTERM);
	assert_int_equal(end_of(master_pid), 0);
	close(master_log);
}

/* Runs cdmctl; what it writes to this descriptor lands in out. */
static int ctl_to(int to, const char *first, va_list ap)
{
	const char *argv[24] = {ctl_program, first};
	int n = 2, fd;
	while ((argv[n] = va_arg(ap, const char *)) && n < 22)
		n++;
	pid_t pid = start(argv, to, &fd);
	read_until(fd, NULL, out, sizeof out);
	close(fd);
	return end_of(pid);
}

static int ctl(const char *first, ...)
{
	va_list ap;
	va_start(ap, first);
	int code = ctl_to(STDOUT_FILENO, first, ap);
	va_end(ap);
	return code;
}

/* Is it refused with these words? */
static void refused(int code, const char *words, const char *first, ...)
{
	va_list ap;
	va_start(ap, first);
	int got = ctl_to(STDERR_FILENO, first, ap);
	va_end(ap);
	if (got != code || !strstr(out, words))
		fail_msg("%d instead of %d, or without \"%s\": %s", got, code, words, out);
}

static json_t *ctl_json(void)
{
	json_t *j = json_loads(out, 0, NULL);
	if (!j)
		fail_msg("not JSON: %s", out);
	return j;
}

/* --- TLS -------------------------------------------------------------------------------------------------------- */

struct conn { SSL_CTX *ctx; SSL *ssl; int fd; };

/* cert and key PEM may be NULL. Returns whether the handshake (and with it the server's check of us) went well. */
static bool conn_open(struct conn *c, int port, const char *cert, EVP_PKEY *key)
{
	char ca[300];
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct timeval limit = {.tv_sec = DEADLINE_S};
	snprintf(ca, sizeof ca, "%s/ca.crt", dir);
	*c = (struct conn){.ctx = SSL_CTX_new(TLS_client_method()), .fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
	assert_int_equal(SSL_CTX_load_verify_locations(c->ctx, ca, NULL), 1);
	SSL_CTX_set_verify(c->ctx, SSL_VERIFY_PEER, NULL);
	if (cert) {
		X509 *x = cdm_tls_cert_parse(cert, NULL);
		assert_non_null(x);
		assert_int_equal(SSL_CTX_use_certificate(c->ctx, x), 1);
		assert_int_equal(SSL_CTX_use_PrivateKey(c->ctx, key), 1);
		X509_free(x);
	}
	assert_int_equal(connect(c->fd, (struct sockaddr *)&to, sizeof to), 0);
	setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
	c->ssl = SSL_new(c->ctx);
	SSL_set_fd(c->ssl, c->fd);
	return SSL_connect(c->ssl) == 1;
}

static void conn_close(struct conn *c)
{
	SSL_free(c->ssl);
	SSL_CTX_free(c->ctx);
	close(c->fd);
}

/* One HTTP request; the answer lands in out; returns its status (0: the connection just ended). */
static int http(int port, const char *method, const char *path, const char *headers, const char *body, size_t len)
{
	struct conn c;
	char head[1024];
	size_t n = 0;
	int got, status = 0;
	assert_true(conn_open(&c, port, NULL, NULL));
	int head_len = snprintf(head, sizeof head, "%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %zu\r\n%s\r\n", method, path, len, headers);
	SSL_write(c.ssl, head, head_len);
	if (len > 0)
		SSL_write(c.ssl, body, (int)len);
	while ((got = SSL_read(c.ssl, out + n, (int)(sizeof out - n - 1))) > 0)
		n += (size_t)got;
	out[n] = 0;
	sscanf(out, "HTTP/1.1 %d", &status);
	conn_close(&c);
	return status;
}

static int api(const char *method, const char *path, const char *body)
{
	char auth[200];
	snprintf(auth, sizeof auth, "Authorization: Bearer %s\r\n", bearer);
	return http(api_port, method, path, auth, body, strlen(body));
}

static json_t *http_body(void)
{
	const char *body = strstr(out, "\r\n\r\n");
	json_t *j = body ? json_loads(body + 4, 0, NULL) : NULL;
	if (!j)
		fail_msg("no JSON body: %s", out);
	return j;
}

static int join(const char *token, const char *name, EVP_PKEY *key, char **ret_cert)
{
	char *csr;
	assert_int_equal(cdm_tls_request_pem(key, "", &csr, NULL), 0);
	json_t *j = json_pack("{s:s, s:s*, s:s}", "token", token, "name", name, "csr", csr);
	char *body = json_dumps(j, 0);
	int status = http(agents_port, "POST", "/api/v1/join", "", body, strlen(body));
	if (ret_cert) {
		json_t *answer = http_body();
		const char *cert = json_string_value(json_object_get(answer, "certificate"));
		*ret_cert = cert ? strdup(cert) : NULL;
		json_decref(answer);
	}
	json_decref(j);
	free(body);
	free(csr);
	return status;
}

static char *new_token(const char *uses)
{
	assert_int_equal(ctl("node", "token", "--group", "g1", "--uses", uses, "--json", NULL), 0);
	json_t *j = ctl_json();
	char *token = strdup(json_string_value(json_object_get(j, "token")));
	json_decref(j);
	return token;
}

static void send_json(struct conn *c, json_t *j)
{
	char *text = json_dumps(j, JSON_COMPACT);
	uint32_t size = htonl((uint32_t)strlen(text));
	assert_int_equal(SSL_write(c->ssl, &size, 4), 4);
	assert_int_equal(SSL_write(c->ssl, text, (int)strlen(text)), (int)strlen(text));
	json_decref(j);
	free(text);
}

/* The next message, NULL when the connection ended. */
static json_t *next_json(struct conn *c)
{
	uint8_t head[4];
	size_t have = 0;
	int got;
	for (; have < 4; have += (size_t)got)
		if ((got = SSL_read(c->ssl, head + have, (int)(4 - have))) <= 0)
			return NULL;
	size_t size = (size_t)head[0] << 24 | (size_t)head[1] << 16 | (size_t)head[2] << 8 | head[3];
	assert_true(size < sizeof out);
	for (have = 0; have < size; have += (size_t)got)
		if ((got = SSL_read(c->ssl, out + have, (int)(size - have))) <= 0)
			return NULL;
	return json_loadb(out, size, 0, NULL);
}

static void hello(struct conn *c, const char *node, int number)
{
	send_json(c, json_pack("{s:s, s:i, s:s, s:i, s:s, s:i, s:n, s:i, s:[{s:s, s:b}]}", "type", "hello", "v", 1, "node", node, "number", number, "version", "test",
		"listen_port", 7441, "advertise", "epoch", 0, "sets", "name", "www", "mounted", true));
}

static bool is_type(const json_t *j, const char *type)
{
	const char *t = json_string_value(json_object_get(j, "type"));
	return t && strcmp(t, type) == 0;
}

/* --- the story -------------------------------------------------------------------------------------------------- */

static EVP_PKEY *key1, *key2;
static char *cert1, *cert2;

static void an_installation_is_made_by_cdmctl(void **state)
{
	assert_int_equal(ctl("region", "add", "r1", NULL), 0);
	assert_int_equal(ctl("region", "add", "r1", NULL), 5);
	assert_int_equal(ctl("group", "add", "g1", "--region", "r2", NULL), 1);
	assert_int_equal(ctl("group", "add", "g1", "--region", "r1", NULL), 0);
	assert_int_equal(ctl("set", "add", "www", "--both", "@all", "--exclude", "*.bak", NULL), 0);
	assert_string_equal(out, "set www: no nodes yet\n");
	assert_int_equal(ctl("node", "token", "--group", "nope", NULL), 1);
	assert_int_equal(ctl("group", "add", "g9", "--region", "r1", "--dry-run", NULL), 0);
	assert_int_equal(ctl("group", "list", NULL), 0);
	assert_null(strstr(out, "g9"));
	assert_int_equal(ctl("grup", "list", NULL), 2);
	assert_int_equal(ctl("group", "remove", "g1", NULL), 2); /* no yes */
}

static void nodes_join_with_tokens(void **state)
{
	char *token = new_token("2");
	key1 = cdm_tls_key_new(NULL);
	key2 = cdm_tls_key_new(NULL);
	assert_int_equal(join(token, "n1", key1, &cert1), 200);
	assert_int_equal(join(token, "n1", key1, NULL), 409); /* does not use the token up */
	assert_int_equal(join(token, "n2", key2, &cert2), 200);
	assert_int_equal(join(token, "n3", key1, NULL), 401);
	assert_non_null(strstr(out, "token not valid (expired, used up or unknown)"));
	token[strlen(token) - 1] = token[strlen(token) - 1] == '0' ? '1' : '0';
	assert_int_equal(join(token, "n3", key1, NULL), 401);
	assert_int_equal(join("K10nonsense", "n3", key1, NULL), 401);
	free(token);
	token = new_token("1");
	assert_int_equal(join(token, "../evil", key1, NULL), 400);
	assert_int_equal(http(agents_port, "GET", "/api/v1/nodes", "", "", 0), 404);
	free(token);
	assert_int_equal(ctl("node", "token", "--group", "g1", "--ttl", "1s", "--json", NULL), 0);
	json_t *j = ctl_json();
	struct timespec now, end;
	clock_gettime(CLOCK_REALTIME, &now);
	end = (struct timespec){.tv_sec = now.tv_sec + 2};
	clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &end, NULL); /* the moment it has expired */
	assert_int_equal(join(json_string_value(json_object_get(j, "token")), "n3", key1, NULL), 401);
	json_decref(j);
}

static void bad_requests_are_refused_with_reasons(void **state)
{
	char *big = malloc(2 << 20);
	assert_non_null(big);
	memset(big, ' ', 2 << 20);
	assert_int_equal(http(api_port, "GET", "/api/v1/status", "", "", 0), 401);
	assert_int_equal(http(api_port, "GET", "/api/v1/status", "Authorization: Bearer wrong\r\n", "", 0), 401);
	assert_int_equal(http(api_port, "GET", "/healthz", "", "", 0), 200);
	assert_int_equal(api("POST", "/api/v1/regions", "{\"name\":"), 400);
	assert_int_equal(api("POST", "/api/v1/regions", "[1]"), 400);
	assert_int_equal(api("POST", "/api/v1/regions", "{\"name\":\"a\",\"name\":\"b\"}"), 400);
	assert_int_equal(api("POST", "/api/v1/regions", "{\"name\":\"x\",\"colour\":1}"), 400);
	assert_non_null(strstr(out, "unknown field \\\"colour\\\""));
	assert_int_equal(api("POST", "/api/v1/regions", "{\"name\":[[[[[[[[[[1]]]]]]]]]]}"), 400);
	assert_int_equal(api("POST", "/api/v1/regions", "{\"name\":\"\\u0000\"}"), 400);
	assert_int_equal(api("PATCH", "/api/v1/regions", "{}"), 405);
	assert_int_equal(api("GET", "/api/v2", ""), 404);
	assert_int_equal(api("GET", "/api/v1/openapi.json", ""), 200);
	json_decref(http_body());
	char auth[200];
	snprintf(auth, sizeof auth, "Authorization: Bearer %s\r\n", bearer);
	int status = http(api_port, "POST", "/api/v1/regions", auth, big, 2 << 20);
	assert_true(status == 413 || status == 0);
	free(big);
	snprintf(auth, sizeof auth, "Authorization: Bearer %s\r\nIdempotency-Key: k1\r\n", bearer);
	const char *body = "{\"name\":\"r7\"}";
	assert_int_equal(http(api_port, "POST", "/api/v1/regions", auth, body, strlen(body)), 200);
	assert_int_equal(http(api_port, "POST", "/api/v1/regions", auth, body, strlen(body)), 200);
	assert_int_equal(api("DELETE", "/api/v1/regions/r7", ""), 200);
}

static void an_agent_gets_its_routes(void **state)
{
	struct conn a, b;
	assert_true(conn_open(&a, agents_port, cert1, key1));
	hello(&a, "n1", 1);
	json_t *routes = next_json(&a);
	assert_true(is_type(routes, "routes"));
	json_t *set = json_array_get(json_object_get(routes, "sets"), 0);
	assert_string_equal(json_string_value(json_object_get(set, "name")), "www");
	assert_true(json_is_null(json_object_get(set, "parent")));
	assert_int_equal(json_array_size(json_object_get(set, "members")), 2);
	assert_string_equal(json_string_value(json_array_get(json_object_get(set, "exclude"), 0)), "*.bak");
	json_int_t epoch = json_integer_value(json_object_get(routes, "epoch"));
	json_decref(routes);

	assert_true(conn_open(&b, agents_port, cert2, key2));
	hello(&b, "n2", 2);
	routes = next_json(&b);
	assert_true(is_type(routes, "routes"));
	json_decref(routes);
	send_json(&a, json_pack("{s:s, s:i, s:[{s:s, s:s, s:s, s:s}]}", "type", "status", "v", 1, "sets", "name", "www", "state", "ok", "vector", "1.1:5", "durable", "1.1:5"));
	send_json(&b, json_pack("{s:s, s:i, s:[{s:s, s:s, s:s, s:s}]}", "type", "status", "v", 1, "sets", "name", "www", "state", "ok", "vector", "1.1:5", "durable", "1.1:5"));

	/* a change of the set comes by itself, with a higher epoch */
	assert_int_equal(ctl("set", "change", "www", "--exclude", "*.tmp", NULL), 0);
	for (bool seen = false; !seen;) {
		routes = next_json(&a);
		assert_non_null(routes);
		set = json_array_get(json_object_get(routes, "sets"), 0);
		const char *exclude = json_string_value(json_array_get(json_object_get(set, "exclude"), 0));
		seen = exclude && strcmp(exclude, "*.tmp") == 0;
		if (seen)
			assert_true(json_integer_value(json_object_get(routes, "epoch")) > epoch);
		json_decref(routes);
	}
	assert_int_equal(ctl("status", "www", "--json", NULL), 0);
	json_t *status = ctl_json();
	assert_true(json_is_true(json_object_get(status, "in_sync")));
	json_decref(status);

	/* revoked: told, and refused from then on */
	assert_int_equal(ctl("node", "revoke", "n2", "--yes", NULL), 0);
	json_t *last = NULL;
	for (json_t *j; (j = next_json(&b)); last = j)
		json_decref(last);
	assert_true(is_type(last, "error"));
	json_decref(last);
	conn_close(&b);
	conn_close(&a);
	assert_true(conn_open(&b, agents_port, cert2, key2));
	hello(&b, "n2", 2);
	last = next_json(&b);
	assert_true(is_type(last, "error"));
	json_decref(last);
	conn_close(&b);
}

/* --- sections --------------------------------------------------------------------------------------------------- */

static json_int_t number_in(const json_t *o, const char *a, const char *b)
{
	const json_t *v = json_object_get(json_object_get(o, a), b);
	return json_is_integer(v) ? json_integer_value(v) : -1;
}

static void sections_have_defaults(void **state)
{
	static const struct { const char *name; int compression; } rows[] = {{"group", 1}, {"region", 3}, {"international", 6}};
	assert_int_equal(ctl("section", "list", "--json", NULL), 0);
	json_t *j = ctl_json(), *list = json_object_get(j, "sections");
	assert_int_equal(json_integer_value(json_object_get(j, "apiVersion")), 1);
	assert_int_equal(json_array_size(list), 3);
	for (size_t i = 0; i < 3; i++) {
		json_t *s = json_array_get(list, i);
		assert_string_equal(json_string_value(json_object_get(s, "name")), rows[i].name);
		assert_int_equal(json_integer_value(json_object_get(s, "compression")), rows[i].compression);
		assert_true(json_is_true(json_object_get(s, "encryption")) && json_is_true(json_object_get(s, "delta")));
		assert_int_equal(json_integer_value(json_object_get(s, "rate")), 0);
		assert_int_equal(json_array_size(json_object_get(s, "grid")), 0);
		assert_null(json_object_get(s, "cost")); /* no node told one */
	}
	json_decref(j);
	assert_int_equal(ctl("section", "show", "region", NULL), 0);
	assert_string_equal(out, "section region: compression 3, encryption on, delta on\n  limit    none\n");
	assert_int_equal(ctl("section", "list", NULL), 0);
	assert_non_null(strstr(out, "international  6            on          on     none       0\n"));
}

static void wrong_sections_are_refused(void **state)
{
	refused(2, "--compression 10 is no level", "section", "set", "group", "--compression", "10", NULL);
	refused(2, "--encryption maybe is neither", "section", "set", "group", "--encryption", "maybe", NULL);
	refused(2, "\"100\" is no bandwidth", "section", "set", "group", "--limit", "100", NULL);
	refused(2, "is no window of the week", "section", "set", "group", "--limit-at", "mon 20mbit", "--limit-at", "noday 20mbit", NULL);
	refused(2, "nothing to change", "section", "set", "group", NULL);
	refused(2, "unknown option", "section", "set", "group", "--limits", "1mbit", NULL);
	refused(1, "unknown section \"moon\"", "section", "set", "moon", "--delta", "off", NULL);
	refused(1, "known sections: group, region, international", "section", "show", "moon", NULL);
	assert_int_equal(api("PATCH", "/api/v1/sections/group", "{\"compression\":10}"), 400);
	assert_non_null(strstr(out, "compression must be 0 to 9"));
	assert_int_equal(api("PATCH", "/api/v1/sections/group", "{\"encryption\":1}"), 400);
	assert_int_equal(api("PATCH", "/api/v1/sections/group", "{\"colour\":1}"), 400);
	assert_non_null(strstr(out, "unknown field"));
	assert_int_equal(api("PATCH", "/api/v1/sections/group", "{\"rate\":5}"), 400);
	assert_non_null(strstr(out, "no limit"));
	assert_int_equal(api("PATCH", "/api/v1/sections/group", "{\"grid\":{}}"), 400);
	assert_int_equal(api("PATCH", "/api/v1/sections/group", "{\"grid\":[{\"from\":0,\"to\":10081,\"rate\":0}]}"), 400);
	assert_non_null(strstr(out, "grid: entry 1 is no part of a week"));
	assert_int_equal(api("PATCH", "/api/v1/sections/group", "{\"grid\":[{\"from\":0,\"to\":1,\"rate\":0,\"day\":1}]}"), 400);
	assert_non_null(strstr(out, "nothing else"));
	/* what is good beside what is bad is not taken */
	assert_int_equal(api("PATCH", "/api/v1/sections/group", "{\"compression\":7,\"rate\":5}"), 400);
	assert_int_equal(api("PATCH", "/api/v1/sections/moon", "{}"), 404);
	assert_int_equal(api("GET", "/api/v1/sections/moon", ""), 404);
	assert_int_equal(api("DELETE", "/api/v1/sections/group", ""), 405);
	sections_have_defaults(state);
}

/* Until the agent is sent a table whose section has this compression; the caller decrefs. It never sees `not_this`. */
static json_t *routes_with(struct conn *c, const char *section, json_int_t compression, json_int_t not_this)
{
	for (;;) {
		json_t *routes = next_json(c);
		assert_true(is_type(routes, "routes"));
		json_int_t is = number_in(json_object_get(routes, "sections"), section, "compression");
		assert_int_not_equal(is, not_this);
		if (is == compression)
			return routes;
		json_decref(routes);
	}
}

static void sections_go_to_the_nodes(void **state)
{
	struct conn a;
	assert_true(conn_open(&a, agents_port, cert1, key1));
	hello(&a, "n1", 1);
	json_t *routes = routes_with(&a, "international", 6, -1), *sections = json_object_get(routes, "sections");
	json_int_t epoch = json_integer_value(json_object_get(routes, "epoch"));
	assert_int_equal(json_object_size(sections), 3);
	assert_int_equal(json_object_size(json_object_get(sections, "group")), 5);
	assert_int_equal(number_in(sections, "group", "compression"), 1);
	json_decref(routes);

	assert_int_equal(ctl("section", "set", "international", "--compression", "5", "--dry-run", NULL), 0);
	assert_string_equal(out, "section international can be changed (dry run, nothing changed)\n");
	assert_int_equal(ctl("section", "set", "international", "--compression", "9", "--encryption", "off", "--delta", "off", "--limit", "100mbit",
		"--limit-at", "mon-fri 08:00-18:00 20mbit", "--limit-at", "sun 22:00-06:00 none", NULL), 0);
	assert_string_equal(out, "section international changed; in force at once\n");
	routes = routes_with(&a, "international", 9, 5);
	assert_true(json_integer_value(json_object_get(routes, "epoch")) > epoch);
	sections = json_object_get(routes, "sections");
	json_t *s = json_object_get(sections, "international"), *grid = json_object_get(s, "grid");
	assert_true(json_is_false(json_object_get(s, "encryption")) && json_is_false(json_object_get(s, "delta")));
	assert_int_equal(json_integer_value(json_object_get(s, "rate")), 12500000);
	assert_int_equal(json_array_size(grid), 7);
	json_t *friday = json_pack("{s:i, s:i, s:i}", "from", 6240, "to", 6840, "rate", 2500000);
	assert_true(json_equal(json_array_get(grid, 4), friday));
	json_decref(friday);
	assert_int_equal(number_in(sections, "region", "compression"), 3);
	json_decref(routes);
	assert_int_equal(ctl("section", "show", "international", NULL), 0);
	assert_non_null(strstr(out, "section international: compression 9, encryption off, delta off\n  limit    100mbit\n  limit at mon-fri 08:00-18:00Z 20mbit\n"
		"  limit at mon 00:00-06:00Z none\n  limit at sun 22:00-24:00Z none\n  now      "));

	/* the windows go, the rest stays */
	assert_int_equal(ctl("section", "set", "international", "--limit-at", "none", "--compression", "8", NULL), 0);
	routes = routes_with(&a, "international", 8, 5);
	s = json_object_get(json_object_get(routes, "sections"), "international");
	assert_int_equal(json_array_size(json_object_get(s, "grid")), 0);
	assert_int_equal(json_integer_value(json_object_get(s, "rate")), 12500000);
	assert_true(json_is_false(json_object_get(s, "delta")));
	json_decref(routes);
	assert_int_equal(api("GET", "/api/v1/audit", ""), 200);
	assert_non_null(strstr(out, "section change"));
	conn_close(&a);
}

/* Until cdmctl says so. */
static void comes_to_say(const char *word, bool shall, const char *noun, const char *verb, const char *name, const char *option)
{
	time_t end = time(NULL) + DEADLINE_S;
	do {
		assert_int_equal(ctl(noun, verb, name, option, NULL), 0);
		if ((strstr(out, word) != NULL) == shall)
			return;
		poll(NULL, 0, 20);
	} while (time(NULL) < end);
	fail_msg("%s %s %s still %s \"%s\": %s", noun, verb, name, shall ? "lacks" : "says", word, out);
}

static void tell_cost(struct conn *c, json_t *group, json_t *region, json_t *set)
{
	send_json(c, json_pack("{s:s, s:i, s:{s:o, s:o}, s:[{s:s, s:s, s:s, s:s, s:o}]}", "type", "status", "v", 1, "sections", "group", group, "region", region,
		"sets", "name", "www", "state", "ok", "vector", "1.1:5", "durable", "1.1:5", "cost", set));
}

static json_t *figures(const char *a, json_int_t x, const char *b, json_int_t y, const char *c, json_int_t z)
{
	return json_pack("{s:I, s:I, s:I}", a, x, b, y, c, z);
}

/* With `offered`, which comes first. */
static json_t *section_figures(json_int_t offered, json_int_t raw, json_int_t compressed, json_int_t wire)
{
	json_t *j = figures("raw_bytes", raw, "compressed_bytes", compressed, "wire_bytes", wire);
	json_object_set_new(j, "offered_bytes", json_integer(offered));
	return j;
}

static void nodes_tell_what_it_costs(void **state)
{
	struct conn a;
	json_int_t gib = 1 << 30;
	assert_true(conn_open(&a, agents_port, cert1, key1));
	hello(&a, "n1", 1);
	tell_cost(&a, section_figures(gib, gib / 2, gib / 5, gib / 4), section_figures(100, 100, 90, 200),
		figures("offered_bytes", 4 * gib, "after_delta_bytes", 2 * gib, "sent_bytes", gib));
	comes_to_say("sent 1 GiB as 256 MiB, saved 75 %", true, "section", "show", "group", NULL);
	comes_to_say("sent 100 B as 200 B\n", true, "section", "show", "region", NULL);
	assert_int_equal(ctl("section", "list", NULL), 0);
	assert_non_null(strstr(out, "sent 1 GiB as 256 MiB, saved 75 %\n"));
	assert_int_equal(ctl("set", "show", "www", NULL), 0);
	assert_non_null(strstr(out, "  cost     4 GiB offered, 2 GiB after deltas, sent 1 GiB, saved 75 %\n"));
	assert_int_equal(ctl("status", "www", "--json", NULL), 0);
	json_t *j = ctl_json();
	assert_int_equal(number_in(j, "cost", "offered_bytes"), 4 * gib);
	assert_int_equal(number_in(j, "cost", "nodes"), 1);
	assert_int_equal(number_in(j, "cost", "saved_bytes"), 3 * gib);
	json_decref(j);
	assert_int_equal(ctl("section", "show", "group", "--json", NULL), 0);
	j = ctl_json();
	assert_int_equal(number_in(j, "cost", "saved_bytes"), gib - gib / 4);
	json_decref(j);
	/* nonsense is not shown, and a figure without the others neither */
	tell_cost(&a, json_pack("{s:s, s:i, s:i}", "raw_bytes", "much", "compressed_bytes", 1, "wire_bytes", 1),
		section_figures(100, -1, 90, 200), json_pack("{s:i}", "offered_bytes", 7));
	comes_to_say("cost", false, "section", "list", "--json", NULL);
	comes_to_say("cost", false, "set", "show", "www", NULL);
	tell_cost(&a, json_pack("[i]", 1), json_null(), json_string("x"));
	tell_cost(&a, section_figures(0, 0, 0, 0), json_null(), json_null());
	comes_to_say("nothing sent", true, "section", "show", "group", NULL);
	conn_close(&a); /* its counts end with it */
	comes_to_say("cost", false, "section", "show", "group", NULL);
}

static void wrong_agents_are_refused(void **state)
{
	struct conn c;
	json_t *j;
	/* a node that claims to be another */
	assert_true(conn_open(&c, agents_port, cert1, key1));
	hello(&c, "n2", 2);
	j = next_json(&c);
	assert_true(is_type(j, "error"));
	json_decref(j);
	conn_close(&c);
	/* a length beyond the limit */
	assert_true(conn_open(&c, agents_port, cert1, key1));
	assert_int_equal(SSL_write(c.ssl, "\x7f\xff\xff\xff", 4), 4);
	j = next_json(&c);
	assert_true(is_type(j, "error"));
	json_decref(j);
	conn_close(&c);
	/* a certificate of another authority */
	X509 *x = X509_new();
	ASN1_INTEGER_set(X509_get_serialNumber(x), 1);
	X509_gmtime_adj(X509_getm_notBefore(x), -60);
	X509_gmtime_adj(X509_getm_notAfter(x), 3600);
	X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC, (const unsigned char *)"n1", -1, -1, 0);
	X509_set_issuer_name(x, X509_get_subject_name(x));
	X509_set_pubkey(x, key1);
	assert_true(X509_sign(x, key1, EVP_sha256()) > 0);
	BIO *bio = BIO_new(BIO_s_mem());
	char *pem;
	PEM_write_bio_X509(bio, x);
	BIO_write(bio, "", 1);
	BIO_get_mem_data(bio, &pem);
	if (conn_open(&c, agents_port, pem, key1)) { /* in TLS 1.3 the refusal comes with the first read */
		assert_null(next_json(&c));
	}
	conn_close(&c);
	BIO_free(bio);
	X509_free(x);
}

static void a_restart_keeps_everything(void **state)
{
	struct conn a;
	master_stop();
	master_start();
	assert_int_equal(ctl("node", "show", "n2", NULL), 0);
	assert_non_null(strstr(out, "revoked"));
	assert_int_equal(ctl("set", "show", "www", NULL), 0);
	assert_non_null(strstr(out, "*.tmp"));
	assert_int_equal(ctl("section", "show", "international", NULL), 0);
	assert_string_equal(out, "section international: compression 8, encryption off, delta off\n  limit    100mbit\n");
	assert_true(conn_open(&a, agents_port, cert1, key1));
	hello(&a, "n1", 1);
	json_t *routes = next_json(&a);
	assert_true(is_type(routes, "routes"));
	json_decref(routes);
	conn_close(&a);
	/* a second master in the same directory, and one whose port is busy */
	int fd;
	const char *const second[] = {master_program, "--dir", dir, "--listen-api", "127.0.0.1:0", "--listen-agents", "127.0.0.1:0", NULL};
	pid_t pid = start(second, STDERR_FILENO, &fd);
	read_until(fd, NULL, out, sizeof out);
	close(fd);
	assert_int_equal(end_of(pid), 1);
	assert_non_null(strstr(out, "another cdm-master uses"));
}

/* Make the database what the layout before this one was. */
static void age_database(void)
{
	char path[300];
	sqlite3 *db = NULL;
	snprintf(path, sizeof path, "%s/master.db", dir);
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, "DROP TABLE section; PRAGMA user_version = 2", NULL, NULL, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

static void an_older_database_is_taken_over(void **state)
{
	master_stop();
	age_database();
	master_start();
	sections_have_defaults(state);
	assert_int_equal(ctl("set", "show", "www", NULL), 0);
	assert_non_null(strstr(out, "*.tmp"));
	assert_int_equal(ctl("section", "set", "group", "--compression", "0", NULL), 0);
	master_stop();
	master_start(); /* and only once */
	assert_int_equal(ctl("section", "show", "group", NULL), 0);
	assert_non_null(strstr(out, "compression 0"));
}

static void a_damaged_database_is_named(void **state)
{
	char path[300];
	int fd;
	master_stop();
	snprintf(path, sizeof path, "%s/master.db", dir);
	int db = open(path, O_WRONLY | O_CLOEXEC);
	assert_int_equal(pwrite(db, "garbage, not a database header", 30, 0), 30);
	close(db);
	const char *const argv[] = {master_program, "--dir", dir, "--listen-api", "127.0.0.1:0", "--listen-agents", "127.0.0.1:0", NULL};
	pid_t pid = start(argv, STDERR_FILENO, &fd);
	read_until(fd, NULL, out, sizeof out);
	close(fd);
	assert_int_equal(end_of(pid), 1);
	assert_non_null(strstr(out, "is damaged"));
	assert_non_null(strstr(out, "backup"));
	master_pid = 0;
}

static int set_up(void **state)
{
	const char *tmp = getenv("TMPDIR");
	snprintf(dir, sizeof dir, "%s/cdm-master-XXXXXX", tmp ? tmp : "/tmp");
	assert_non_null(mkdtemp(dir));
	setenv("CDMFS_DIR", dir, 1);
	unsetenv("CDMFS_API");
	unsetenv("CDMFS_TOKEN_FILE");
	unsetenv("CDMFS_CA");
	master_start();
	return 0;
}

static int tear_down(void **state)
{
	static const char *const files[] = {"admin.token", "ca.crt", "ca.key", "server.crt", "server.key", "lock", "endpoints.json", "master.db", "master.db-wal", "master.db-shm"};
	if (master_pid > 0) {
		kill(master_pid, SIGKILL);
		end_of(master_pid);
	}
	for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
		char path[300];
		snprintf(path, sizeof path, "%s/%s", dir, files[i]);
		unlink(path);
	}
	rmdir(dir);
	EVP_PKEY_free(key1);
	EVP_PKEY_free(key2);
	free(cert1);
	free(cert2);
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_installation_is_made_by_cdmctl),
		cmocka_unit_test(nodes_join_with_tokens),
		cmocka_unit_test(bad_requests_are_refused_with_reasons),
		cmocka_unit_test(an_agent_gets_its_routes),
		cmocka_unit_test(sections_have_defaults),
		cmocka_unit_test(wrong_sections_are_refused),
		cmocka_unit_test(sections_go_to_the_nodes),
		cmocka_unit_test(nodes_tell_what_it_costs),
		cmocka_unit_test(wrong_agents_are_refused),
		cmocka_unit_test(a_restart_keeps_everything),
		cmocka_unit_test(an_older_database_is_taken_over),
		cmocka_unit_test(a_damaged_database_is_named),
	};
	if (argc != 3) {
		fprintf(stderr, "usage: 030_master CDM-MASTER CDMCTL\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	master_program = argv[1];
	ctl_program = argv[2];
	return cmocka_run_group_tests_name("master", tests, set_up, tear_down);
}
