/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/renew.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "common/io.h"
#include "common/log.h"
#include "common/tls.h"
#include "replicator/master_link.h"

#define KEY "node.key"
#define NEXT_KEY "node.key.next" /* asked for; becomes KEY once its certificate is node.crt */
#define CERT "node.crt"
#define LOOK_MAX_S 86400
#define RETRY_S 60               /* after an answer that could not be used, or none */
#define WARN_DAYS 14
#define SPREAD 64                /* nodes that joined together do not come together */

struct renew {
	struct node *node;
	EVP_PKEY *asked; /* NULL: nothing is asked */
	struct cdm_timer *timer;
	time_t begin, end;
	int64_t heard_s; /* wall clock: the last word of the master; 0: none since the start */
	bool up;
};

/* --- files --- */

static int path_in_state(const struct node *node, const char *name, char out[4096], struct cdm_error *err)
{
	if (snprintf(out, 4096, "%s/%s", node->conf->state, name) >= 4096)
		return cdm_fail_plain(err, ENAMETOOLONG, "state directory %s: the path is too long", node->conf->state);
	return 0;
}

static int make_contexts(struct node *node, const char *key_name, struct cdm_error *err)
{
	char cert[4096], key[4096], ca[4096];
	if (path_in_state(node, CERT, cert, err) < 0 || path_in_state(node, key_name, key, err) < 0 || path_in_state(node, "ca.crt", ca, err) < 0)
		return -ENAMETOOLONG;
	SSL_CTX *client = cdm_tls_context(cert, key, ca, false, err);
	SSL_CTX *server = client ? cdm_tls_context(cert, key, ca, true, err) : NULL;
	if (!server) {
		SSL_CTX_free(client);
		return -EINVAL;
	}
	cdm_tls_allow_late(client);
	cdm_tls_allow_late(server);
	SSL_CTX_free(node->tls_client); /* connections keep theirs */
	SSL_CTX_free(node->tls_server);
	node->tls_client = client;
	node->tls_server = server;
	return 0;
}

static int open_state(const struct node *node, struct cdm_error *err)
{
	int fd = open(node->conf->state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? cdm_fail(err, errno, "open %s", node->conf->state) : fd;
}

static int keep_next_key(const struct node *node, struct cdm_error *err)
{
	_cleanup_close_ int dir = open_state(node, err);
	if (dir < 0)
		return dir;
	if (cdm_io_table.renameat2(dir, NEXT_KEY, dir, KEY, 0) < 0)
		return cdm_fail(err, errno, "rename %s/" NEXT_KEY, node->conf->state);
	int r = cdm_fsync(dir);
	return r < 0 ? cdm_fail(err, -r, "sync %s", node->conf->state) : 0;
}

int renew_load(struct node *node, struct cdm_error *err)
{
	struct cdm_error other = CDM_ERROR_INIT;
	int r = make_contexts(node, KEY, err);
	if (r < 0 && make_contexts(node, NEXT_KEY, &other) == 0) { /* ended between the certificate and its key */
		*err = (struct cdm_error)CDM_ERROR_INIT;
		r = keep_next_key(node, err);
	}
	return r;
}

/* --- when --- */

static void look(void *arg);

static void read_times(struct renew *n)
{
	char path[4096];
	X509 *cert = path_in_state(n->node, CERT, path, NULL) == 0 ? cdm_tls_cert_load(path, NULL) : NULL;
	n->begin = cert ? cdm_tls_not_before(cert) : 0;
	n->end = cert ? cdm_tls_not_after(cert) : 0;
	X509_free(cert);
}

/* Two thirds of the life, and up to a twentieth more. */
static time_t due(const struct renew *n)
{
	time_t life = n->end - n->begin;
	return n->begin + life * 2 / 3 + life / 20 * (time_t)(n->node->id->number % SPREAD) / SPREAD;
}

static void look_again_in(struct renew *n, int64_t seconds)
{
	cdm_timer_cancel(&n->timer);
	int64_t wait = seconds < 1 ? 1 : seconds > LOOK_MAX_S ? LOOK_MAX_S : seconds;
	n->timer = cdm_loop_after(n->node->loop, wait * 1000, look, n);
}

static void warn(const struct renew *n, time_t now)
{
	int64_t left = n->end - now;
	if (left < (n->end - n->begin) / 6 && left < WARN_DAYS * 86400)
		cdm_log(certificate_ends, cdm_int("days", left / 86400), cdm_str("master", n->up ? "up" : "down"));
}

/* --- asking --- */

static int make_request(struct renew *n, char **ret_csr, struct cdm_error *err)
{
	_cleanup_free_ char *pem = NULL;
	_cleanup_close_ int dir = open_state(n->node, err);
	EVP_PKEY_free(n->asked);
	n->asked = dir < 0 ? NULL : cdm_tls_key_new(err);
	if (!n->asked)
		return dir < 0 ? dir : -EIO;
	int r = cdm_tls_key_pem(n->asked, &pem, err);
	if (r == 0)
		r = cdm_replace_file(dir, NEXT_KEY, pem, strlen(pem), 0600, err);
	if (pem)
		OPENSSL_cleanse(pem, strlen(pem));
	return r < 0 ? r : cdm_tls_request_pem(n->asked, n->node->id->node, ret_csr, err);
}

static void ask(struct renew *n)
{
	struct cdm_error err = CDM_ERROR_INIT;
	_cleanup_free_ char *csr = NULL;
	if (make_request(n, &csr, &err) < 0)
		cdm_log_err(certificate_failed, &err);
	else
		master_send(n->node, json_pack("{s:s, s:i, s:s}", "type", "renew", "v", 1, "csr", csr));
}

static void look(void *arg)
{
	struct renew *n = arg;
	time_t now = (time_t)(cdm_wall_ns() / 1000000000), at = due(n);
	n->timer = NULL;
	if (!n->end)
		return;
	warn(n, now);
	if (now < at) {
		look_again_in(n, at - now);
		return;
	}
	if (n->up)
		ask(n);
	look_again_in(n, (n->end - n->begin) / 20 < RETRY_S ? (n->end - n->begin) / 20 : RETRY_S);
}

void renew_master_up(struct node *node)
{
	struct renew *n = node->renew;
	n->up = true;
	n->heard_s = cdm_wall_ns() / 1000000000;
	cdm_timer_cancel(&n->timer);
	look(n);
}

void renew_master_down(struct node *node)
{
	struct renew *n = node->renew;
	if (n->up)
		n->heard_s = cdm_wall_ns() / 1000000000;
	n->up = false;
}

bool renew_excuses(const struct node *node, time_t ended)
{
	const struct renew *n = node->renew;
	return !n->up && n->heard_s < ended;
}

/* --- the answer --- */

static int check(const struct renew *n, const char *pem, struct cdm_error *err)
{
	char path[4096];
	struct cdm_tls_name name = {0};
	X509 *cert = pem ? cdm_tls_cert_parse(pem, err) : NULL;
	X509 *ca = cert && path_in_state(n->node, "ca.crt", path, err) == 0 ? cdm_tls_cert_load(path, err) : NULL;
	int r = ca ? cdm_tls_verify(cert, ca, n->asked, err) : -EBADMSG;
	if (r == 0)
		r = cdm_tls_name_of(cert, &name, err);
	if (r == 0 && (name.number != n->node->id->number || strcmp(name.name, n->node->id->node) != 0))
		r = cdm_fail_plain(err, EACCES, "the master's certificate for us is of %s (%u)", name.name, name.number);
	X509_free(cert);
	X509_free(ca);
	return r;
}

static int take(struct renew *n, const char *pem, struct cdm_error *err)
{
	int r = check(n, pem, err);
	_cleanup_close_ int dir = r < 0 ? -1 : open_state(n->node, err);
	if (r == 0)
		r = dir < 0 ? dir : cdm_replace_file(dir, CERT, pem, strlen(pem), 0644, err);
	if (r == 0)
		r = keep_next_key(n->node, err);
	return r < 0 ? r : make_contexts(n->node, KEY, err);
}

void renew_take(struct node *node, const json_t *message)
{
	struct renew *n = node->renew;
	struct cdm_error err = CDM_ERROR_INIT;
	char until[32];
	struct tm tm;
	if (!n->asked)
		return;
	if (take(n, json_string_value(json_object_get(message, "certificate")), &err) < 0) {
		cdm_log_err(certificate_failed, &err);
		return; /* asked again by the timer */
	}
	EVP_PKEY_free(n->asked);
	n->asked = NULL;
	read_times(n);
	gmtime_r(&n->end, &tm);
	strftime(until, sizeof until, "%Y-%m-%dT%H:%M:%SZ", &tm);
	cdm_log(certificate_new, cdm_str("until", until));
	cdm_timer_cancel(&n->timer);
	look(n);
}

/* --- life --- */

void renew_new(struct node *node)
{
	struct renew *n = calloc(1, sizeof *n);
	if (!n)
		abort();
	n->node = node;
	node->renew = n;
	read_times(n);
	look(n);
}

void renew_free(struct node *node)
{
	struct renew *n = node->renew;
	node->renew = NULL;
	if (!n)
		return;
	cdm_timer_cancel(&n->timer);
	EVP_PKEY_free(n->asked);
	free(n);
}
