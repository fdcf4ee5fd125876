/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/join.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
#include "common/conf.h"
#include "common/io.h"
#include "common/tls.h"
#include "replicator/conn.h"

#define IO_TIMEOUT_S 10
#define ANSWER_MAX (256u << 10)
#define TOKEN_PREFIX "K10"
#define AGENT_PORT "7440" /* when the address names none */

struct joining {
	const char *address, *token, *name;
	char host[256], port[16];
	uint8_t ca_hash[32];
	int fd;
	SSL_CTX *ctx;
	SSL *ssl;
	X509 *ca; /* the one the token names, as the master showed it */
};

static int hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* K10<64 hex>.<id>.<secret> */
static int token_parse(const char *token, uint8_t hash[32], struct cdm_error *err)
{
	size_t prefix = strlen(TOKEN_PREFIX);
	bool good = strlen(token) >= prefix + 66 && strlen(token) < 512 && strncmp(token, TOKEN_PREFIX, prefix) == 0 &&
		token[prefix + 64] == '.';
	for (size_t i = 0; good && i < 32; i++) {
		int high = hex_digit(token[prefix + 2 * i]), low = hex_digit(token[prefix + 2 * i + 1]);
		good = high >= 0 && low >= 0;
		hash[i] = (uint8_t)(high << 4 | low);
	}
	if (good)
		return 0;
	cdm_fail_plain(err, EINVAL, "this is not a join token");
	cdm_hint(err, "`cdmctl node token` prints one; copy all of it");
	return -EINVAL;
}

/* --- the connection --- */

static int connect_to(struct joining *j, struct cdm_error *err)
{
	struct addrinfo *found = NULL, hints = {.ai_socktype = SOCK_STREAM};
	struct timeval limit = {.tv_sec = IO_TIMEOUT_S};
	int failed = getaddrinfo(j->host, j->port, &hints, &found);
	if (failed)
		return cdm_fail_plain(err, EHOSTUNREACH, "look up %s: %s", j->host, gai_strerror(failed));
	int last = EHOSTUNREACH;
	for (struct addrinfo *a = found; a && j->fd < 0; a = a->ai_next) {
		_cleanup_close_ int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) < 0 ||
			setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) < 0 || connect(fd, a->ai_addr, a->ai_addrlen) < 0)
			last = errno == EINPROGRESS ? ETIMEDOUT : errno; /* a connect that SO_SNDTIMEO ended */
		else
			j->fd = cdm_take_fd(&fd);
	}
	freeaddrinfo(found);
	if (j->fd >= 0)
		return 0;
	cdm_fail(err, last, "connect to the master at %s", j->address);
	cdm_hint(err, "is it running, and may this machine reach that port?");
	return -last;
}

/* The authority that the token names must be in the chain, and the certificate must hold against it and not be a node's. */
static int check_master(struct joining *j, struct cdm_error *err)
{
	STACK_OF(X509) *chain = SSL_get_peer_cert_chain(j->ssl);
	X509 *leaf = SSL_get0_peer_certificate(j->ssl);
	struct cdm_tls_name name;
	uint8_t hash[32];
	for (int i = 0; chain && i < sk_X509_num(chain) && !j->ca; i++) {
		X509 *cert = sk_X509_value(chain, i);
		if (cdm_tls_cert_sha256(cert, hash, NULL) == 0 && memcmp(hash, j->ca_hash, sizeof hash) == 0) {
			X509_up_ref(cert);
			j->ca = cert;
		}
	}
	if (!leaf || !j->ca) {
		cdm_fail_plain(err, EACCES, "at %s answers somebody who is not the master that made this token", j->address);
		cdm_hint(err, "check the address; nothing was sent, the token is still secret");
		return -EACCES;
	}
	int r = cdm_tls_verify(leaf, j->ca, NULL, err);
	if (r == 0)
		r = cdm_tls_name_of(leaf, &name, err);
	if (r == 0 && name.number != 0)
		r = cdm_fail_plain(err, EACCES, "at %s answers node %s, not the master", j->address, name.name);
	return r;
}

static int timed_out(struct joining *j, const char *doing, struct cdm_error *err)
{
	if (errno == EAGAIN || errno == EWOULDBLOCK)
		return cdm_fail_plain(err, ETIMEDOUT, "%s: no answer from %s within %d s", doing, j->address, IO_TIMEOUT_S);
	return cdm_fail_plain(err, EPROTO, "%s: %s does not speak TLS 1.3 as a master does, or closed the connection", doing, j->address);
}

static int secure(struct joining *j, struct cdm_error *err)
{
	j->ctx = cdm_tls_context(NULL, NULL, NULL, false, err);
	j->ssl = j->ctx ? SSL_new(j->ctx) : NULL;
	if (!j->ssl || SSL_set_fd(j->ssl, j->fd) != 1 || SSL_set_tlsext_host_name(j->ssl, j->host) != 1)
		return cdm_fail_plain(err, ENOMEM, "prepare TLS");
	errno = 0;
	if (SSL_connect(j->ssl) != 1)
		return timed_out(j, "TLS handshake", err);
	return check_master(j, err);
}

/* --- the request --- */

static int exchange(struct joining *j, const char *body, char **ret, struct cdm_error *err)
{
	_cleanup_free_ char *request = NULL;
	int len = asprintf(&request, "POST /api/v1/join HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n"
		"Content-Length: %zu\r\nConnection: close\r\n\r\n%s", j->address, strlen(body), body);
	size_t done = 0, used = 0;
	char *answer = malloc(ANSWER_MAX + 1);
	int64_t end = time(NULL) + 3 * IO_TIMEOUT_S; /* a byte now and then does not keep us here */
	if (len < 0 || !answer) {
		request = len < 0 ? NULL : request;
		free(answer);
		return cdm_fail(err, ENOMEM, "prepare the request");
	}
	errno = 0;
	if (SSL_write_ex(j->ssl, request, (size_t)len, &done) != 1) {
		free(answer);
		return timed_out(j, "send the request", err);
	}
	while (used < ANSWER_MAX && time(NULL) < end && SSL_read_ex(j->ssl, answer + used, ANSWER_MAX - used, &done) == 1)
		used += done;
	answer[used] = 0;
	if (used == 0 || time(NULL) >= end || used == ANSWER_MAX || errno == EAGAIN) {
		free(answer);
		return timed_out(j, "read the answer", err);
	}
	*ret = answer;
	return 0;
}

static int answer_split(char *answer, int *ret_status, json_t **ret, struct cdm_error *err)
{
	char *body = strstr(answer, "\r\n\r\n");
	json_error_t jerr;
	if (sscanf(answer, "HTTP/1.%*1d %3d", ret_status) != 1 || !body)
		return cdm_fail_plain(err, EPROTO, "the answer is not HTTP");
	*ret = json_loads(body + 4, 0, &jerr);
	if (!json_is_object(*ret)) {
		json_decref(*ret);
		*ret = NULL;
		return cdm_fail_plain(err, EPROTO, "the answer (HTTP %d) is not JSON: %s", *ret_status, jerr.text);
	}
	return 0;
}

static int refused(int status, const json_t *answer, struct cdm_error *err)
{
	const char *detail = json_string_value(json_object_get(answer, "detail"));
	if (!detail)
		detail = json_string_value(json_object_get(answer, "title"));
	int number = status == 409 ? EEXIST : status == 401 || status == 403 ? EACCES : EIO;
	cdm_fail_plain(err, number, "the master refuses (HTTP %d): %s", status, detail ? detail : "no reason given");
	if (status == 401)
		cdm_hint(err, "make a new one with `cdmctl node token`");
	else if (status == 409)
		cdm_hint(err, "choose another name with --name, or remove the old node with `cdmctl node remove`");
	else if (status == 429)
		cdm_hint(err, "too many failures from this address: wait a minute");
	return -number;
}

/* --- keeping the result --- */

static const char *text_of(const json_t *answer, const char *key)
{
	const char *s = json_string_value(json_object_get(answer, key));
	return s ? s : "";
}

static int keep(int dir, EVP_PKEY *key, const json_t *answer, struct cdm_error *err)
{
	_cleanup_free_ char *pem = NULL, *identity = NULL;
	int r = cdm_tls_key_pem(key, &pem, err);
	json_t *id = json_pack("{s:s, s:I, s:s, s:s, s:s, s:s, s:s}", "node", text_of(answer, "node"), "number",
		json_integer_value(json_object_get(answer, "number")), "role", text_of(answer, "role"), "group", text_of(answer, "group"), "region",
		text_of(answer, "region"), "master", text_of(answer, "master"), "api", text_of(answer, "api"));
	identity = json_dumps(id, JSON_COMPACT);
	json_decref(id);
	if (!identity)
		return cdm_fail_plain(err, EPROTO, "the answer's names cannot be used");
	const char *cert = text_of(answer, "certificate"), *ca = text_of(answer, "ca");
	if (r == 0)
		r = cdm_replace_file(dir, "node.key", pem, strlen(pem), 0600, err);
	if (r == 0)
		r = cdm_replace_file(dir, "node.crt", cert, strlen(cert), 0644, err);
	if (r == 0)
		r = cdm_replace_file(dir, "ca.crt", ca, strlen(ca), 0644, err);
	if (r == 0) /* last: with it the node has joined */
		r = cdm_replace_file(dir, "identity.json", identity, strlen(identity), 0600, err);
	if (pem)
		OPENSSL_cleanse(pem, strlen(pem));
	return r;
}

static int check_answer(struct joining *j, EVP_PKEY *key, const json_t *answer, time_t *ret_until, struct cdm_error *err)
{
	uint8_t hash[32];
	struct cdm_tls_name name = {0};
	X509 *cert = cdm_tls_cert_parse(text_of(answer, "certificate"), err);
	X509 *ca = cert ? cdm_tls_cert_parse(text_of(answer, "ca"), err) : NULL;
	int r = ca ? cdm_tls_cert_sha256(ca, hash, err) : -EBADMSG;
	if (r == 0 && memcmp(hash, j->ca_hash, sizeof hash) != 0)
		r = cdm_fail_plain(err, EACCES, "the authority in the answer is not the one that the token names");
	if (r == 0)
		r = cdm_tls_verify(cert, ca, key, err);
	if (r == 0)
		r = cdm_tls_name_of(cert, &name, err);
	if (r == 0 && (name.number == 0 || (json_int_t)name.number != json_integer_value(json_object_get(answer, "number")) ||
			      strcmp(name.name, text_of(answer, "node")) != 0))
		r = cdm_fail_plain(err, EPROTO, "the certificate names another node than the answer");
	if (r == 0)
		*ret_until = cdm_tls_not_after(cert);
	X509_free(cert);
	X509_free(ca);
	return r;
}

static void tell(const struct cdm_conf *conf, const json_t *answer, time_t until)
{
	char day[32];
	struct tm tm;
	gmtime_r(&until, &tm);
	strftime(day, sizeof day, "%Y-%m-%d", &tm);
	printf("joined as %s, group %s, certificate until %s; next: ", text_of(answer, "node"), text_of(answer, "group"), day);
	if (conf->set_count > 0 && conf->sets[0].mountpoint)
		printf("mount -t cdmfs %s %s\n", conf->sets[0].name, conf->sets[0].mountpoint);
	else
		printf("name a set in %s, start cdm-replicator, mount -t cdmfs SET MOUNTPOINT\n", conf->path);
}

static int join_with(struct joining *j, const struct cdm_conf *conf, int dir, struct cdm_error *err)
{
	EVP_PKEY *key = cdm_tls_key_new(err);
	_cleanup_free_ char *csr = NULL, *body = NULL, *text = NULL;
	json_t *answer = NULL;
	int status = 0;
	time_t until = 0;
	int r = key ? cdm_tls_request_pem(key, j->name ? j->name : "", &csr, err) : -EIO;
	if (r == 0)
		r = connect_to(j, err);
	if (r == 0)
		r = secure(j, err);
	if (r == 0) {
		json_t *request = json_pack("{s:s, s:s, s:s*}", "token", j->token, "csr", csr, "name", j->name);
		body = json_dumps(request, JSON_COMPACT);
		json_decref(request);
		r = body ? exchange(j, body, &text, err) : cdm_fail_plain(err, EINVAL, "the name or the token is not UTF-8");
	}
	if (r == 0)
		r = answer_split(text, &status, &answer, err);
	if (r == 0 && (status < 200 || status > 299))
		r = refused(status, answer, err);
	if (r == 0)
		r = check_answer(j, key, answer, &until, err);
	if (r == 0)
		r = keep(dir, key, answer, err);
	if (r == 0)
		tell(conf, answer, until);
	json_decref(answer);
	EVP_PKEY_free(key);
	return r;
}

static int not_joined_yet(const struct cdm_conf *conf, struct cdm_error *err)
{
	struct cdm_identity *id = NULL;
	struct cdm_error ignored;
	int r = cdm_identity_load(conf, &id, &ignored);
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		cdm_fail_plain(err, EEXIST, "%s/identity.json is there, but cannot be read: %s", conf->state, ignored.text);
	else
		cdm_fail_plain(err, EEXIST, "this node has joined already, as %s", id->node);
	cdm_hint(err, "to join anew, remove the node from the master and then the files in %s", conf->state);
	cdm_identity_free(&id);
	return -EEXIST;
}

static int exit_code(int r)
{
	switch (-r) {
	case 0:
		return 0;
	case ETIMEDOUT:
		return 4;
	case EEXIST:
		return 5;
	default:
		return 1;
	}
}

int join_run(const char *config, const char *address, const char *token, const char *name, struct cdm_error *err)
{
	struct joining j = {.address = address, .token = token, .name = name, .fd = -1};
	struct cdm_conf *conf = NULL;
	_cleanup_close_ int dir = -1;
	_cleanup_free_ char *with_port = NULL;
	int r = cdm_conf_load(config, &conf, err);
	if (r == 0 && !strchr(address, ':') && asprintf(&with_port, "%s:%s", address, AGENT_PORT) >= 0)
		j.address = with_port;
	if (r == 0)
		r = conn_split_address(j.address, j.host, j.port, err);
	if (r == 0)
		r = token_parse(token, j.ca_hash, err);
	if (r == 0)
		r = not_joined_yet(conf, err);
	if (r == 0)
		r = cdm_make_dirs(conf->state, 0700, err);
	if (r == 0 && (dir = open(conf->state, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
		r = cdm_fail(err, errno, "open %s", conf->state);
	if (r == 0 && fchmod(dir, 0700) < 0)
		r = cdm_fail(err, errno, "make %s private", conf->state);
	if (r == 0)
		r = join_with(&j, conf, dir, err);
	SSL_free(j.ssl);
	SSL_CTX_free(j.ctx);
	X509_free(j.ca);
	if (j.fd >= 0)
		close(j.fd);
	cdm_conf_free(&conf);
	return exit_code(r);
}
