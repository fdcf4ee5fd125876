/* SPDX-License-Identifier: Apache-2.0 */
/* The status as the master knows it, for a host that is no node: one GET of its API (master/http_api.md). */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>
#include "cdmfs/stat.h"
#include "common/io.h"
#include "common/tls.h"

#define IO_TIMEOUT_S 10
#define ANSWER_MAX (64u << 20)

struct place {
	char host[256], port[16];
	char *token;
	SSL_CTX *ctx;
	SSL *ssl;
	int fd;
};

bool stat_master_is_named(void)
{
	const char *api = getenv("CDMFS_API"), *token = getenv("CDMFS_TOKEN_FILE"), *ca = getenv("CDMFS_CA");
	return api && *api && token && *token && ca && *ca;
}

/* https://HOST:PORT, with [] around IPv6. */
static int split_url(const char *url, struct place *p, struct cdm_error *err)
{
	const char *at = strncmp(url, "https://", 8) == 0 ? url + 8 : NULL;
	const char *colon = at ? strrchr(at, ':') : NULL;
	size_t len = colon ? (size_t)(colon - at) : 0, port = colon ? strcspn(colon + 1, "/") : 0;
	if (len > 2 && at[0] == '[' && at[len - 1] == ']')
		at++, len -= 2;
	if (!len || len >= sizeof p->host || !port || port >= sizeof p->port) {
		cdm_fail_plain(err, EINVAL, "CDMFS_API=%.200s is not an address", url);
		cdm_hint(err, "it looks like https://master:7443");
		return -EINVAL;
	}
	snprintf(p->host, sizeof p->host, "%.*s", (int)len, at);
	snprintf(p->port, sizeof p->port, "%.*s", (int)port, colon + 1);
	return 0;
}

static int connect_to(struct place *p, struct cdm_error *err)
{
	struct addrinfo *found = NULL, hints = {.ai_socktype = SOCK_STREAM};
	struct timeval limit = {.tv_sec = IO_TIMEOUT_S};
	int failed = getaddrinfo(p->host, p->port, &hints, &found), last = EHOSTUNREACH;
	if (failed)
		return cdm_fail_plain(err, EHOSTUNREACH, "look up %s: %s", p->host, gai_strerror(failed));
	for (struct addrinfo *a = found; a && p->fd < 0; a = a->ai_next) {
		_cleanup_close_ int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) < 0 ||
			setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) < 0 || connect(fd, a->ai_addr, a->ai_addrlen) < 0)
			last = errno == EINPROGRESS ? ETIMEDOUT : errno;
		else
			p->fd = cdm_take_fd(&fd);
	}
	freeaddrinfo(found);
	if (p->fd >= 0)
		return 0;
	cdm_fail(err, last, "connect to the master at %s:%s", p->host, p->port);
	cdm_hint(err, "is cdm-master running there, and is the port reachable?");
	return -last;
}

/* The certificate must be of the authority in CDMFS_CA, and not a node's: then it is the master. */
static int secure(struct place *p, struct cdm_error *err)
{
	struct cdm_tls_name name;
	p->ctx = cdm_tls_context(NULL, NULL, getenv("CDMFS_CA"), false, err);
	p->ssl = p->ctx ? SSL_new(p->ctx) : NULL;
	if (!p->ctx)
		return -EACCES;
	if (!p->ssl || SSL_set_fd(p->ssl, p->fd) != 1 || SSL_set_tlsext_host_name(p->ssl, p->host) != 1)
		return cdm_fail(err, ENOMEM, "prepare TLS");
	if (SSL_connect(p->ssl) != 1) {
		cdm_fail_plain(err, EPROTO, "at %s:%s answers somebody who is not the master that %s belongs to, or nobody", p->host, p->port, getenv("CDMFS_CA"));
		return -EPROTO;
	}
	int r = cdm_tls_name_of(SSL_get0_peer_certificate(p->ssl), &name, err);
	return r == 0 && name.number ? cdm_fail_plain(err, EACCES, "at %s:%s answers node %s, not the master", p->host, p->port, name.name) : r;
}

static char *read_all(struct place *p)
{
	size_t used = 0, room = 65536, n;
	char *text = malloc(room + 1);
	while (text && used < ANSWER_MAX && SSL_read_ex(p->ssl, text + used, room - used, &n) == 1) {
		used += n;
		if (used < room)
			continue;
		char *grown = realloc(text, 2 * room + 1);
		if (!grown)
			break;
		text = grown;
		room *= 2;
	}
	if (text)
		text[used] = 0;
	return text;
}

static int exchange(struct place *p, const char *path, json_t **ret, struct cdm_error *err)
{
	_cleanup_free_ char *request = NULL, *answer = NULL;
	int status = 0, len = asprintf(&request, "GET %s HTTP/1.1\r\nHost: %s:%s\r\nAuthorization: Bearer %s\r\nConnection: close\r\n\r\n", path, p->host, p->port,
		p->token);
	size_t done;
	if (len < 0) {
		request = NULL;
		return cdm_fail(err, ENOMEM, "ask the master");
	}
	if (SSL_write_ex(p->ssl, request, (size_t)len, &done) == 1)
		answer = read_all(p);
	char *body = answer ? strstr(answer, "\r\n\r\n") : NULL;
	json_t *j = body && sscanf(answer, "HTTP/1.%*1d %3d", &status) == 1 ? json_loads(body + 4, 0, NULL) : NULL;
	if (status == 200 && j) {
		*ret = j;
		return 0;
	}
	const char *detail = stat_text(j, "detail"), *hint = stat_text(j, "hint");
	cdm_fail_plain(err, EREMOTEIO, "the master refuses: %s", *detail ? detail : "its answer cannot be read");
	if (*hint)
		cdm_hint(err, "%s", hint);
	json_decref(j);
	return -EREMOTEIO;
}

static int ask(struct place *p, const char *path, json_t **ret, struct cdm_error *err)
{
	size_t len;
	int r = split_url(getenv("CDMFS_API"), p, err);
	if (r == 0)
		r = cdm_read_file(AT_FDCWD, getenv("CDMFS_TOKEN_FILE"), 4096, &p->token, &len, err);
	if (r == 0)
		p->token[strcspn(p->token, "\r\n")] = 0;
	if (r == 0)
		r = connect_to(p, err);
	if (r == 0)
		r = secure(p, err);
	return r == 0 ? exchange(p, path, ret, err) : r;
}

static int show_all(const struct stat_options *o, json_t *answer, struct cdm_error *err)
{
	json_t *sets = json_object_get(answer, "sets");
	bool in_sync = true;
	if (o->subject) {
		int r = stat_show(o, answer, err);
		return r < 0 ? r : r ? STAT_NOT_IN_SYNC : STAT_GOOD;
	}
	for (size_t i = 0; i < json_array_size(sets); i++) {
		json_t *status = json_array_get(sets, i);
		json_object_set_new(status, "apiVersion", json_integer(1));
		if (i > 0 && !o->json)
			putchar('\n');
		int r = stat_show(o, status, err);
		if (r < 0)
			return r;
		in_sync = in_sync && r == 0;
	}
	return in_sync ? STAT_GOOD : STAT_NOT_IN_SYNC;
}

int stat_master(const struct stat_options *o, struct cdm_error *err)
{
	struct place p = {.fd = -1};
	char path[512] = "/api/v1/status";
	json_t *answer = NULL;
	if (o->wait || o->watch || (o->subject && o->subject[strspn(o->subject, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")])) {
		cdm_fail_plain(err, EINVAL, "this host is no node: the master can be asked for the status of a set only");
		cdm_hint(err, "--wait, --watch and files are answered on a node");
		return -EINVAL;
	}
	if (o->subject)
		snprintf(path, sizeof path, "/api/v1/sets/%.255s/status", o->subject);
	int r = ask(&p, path, &answer, err);
	if (r == 0)
		r = show_all(o, answer, err);
	json_decref(answer);
	SSL_free(p.ssl);
	SSL_CTX_free(p.ctx);
	if (p.token)
		OPENSSL_cleanse(p.token, strlen(p.token));
	free(p.token);
	if (p.fd >= 0)
		close(p.fd);
	return r;
}
