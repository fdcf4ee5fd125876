/* SPDX-License-Identifier: Apache-2.0 */
#include "common/tls.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include "common/buffer.h"

#define TLS_MAGIC 0x715c0ec7u
#define NODE_URI "cdmfs:node:"
#define ROOM_EMPTY (128u << 10) /* for received bytes … */
#define ROOM_LEAST (48u << 10)  /* … behind the part of a record that came already */

struct cdm_tls {
	uint32_t magic;
	SSL *ssl;
	struct cdm_buffer in, out;
	struct cdm_buffer sending; /* handed out by cdm_tls_out_take */
};

/* --- memory: OpenSSL goes on without what it did not get, and for good. An algorithm or an authority that was being loaded is unknown to it from then on,
 * and no handshake of this process succeeds any more (3.0: 1 of 70 of its calls of malloc). So it ends the program, as everywhere else. --- */

static void *get(size_t size, const char *file, int line)
{
	void *p = malloc(size);
	if (!p && size)
		abort();
	return p;
}

static void *get_again(void *old, size_t size, const char *file, int line)
{
	void *p = realloc(old, size);
	if (!p && size)
		abort();
	return p;
}

static void give_back(void *p, const char *file, int line)
{
	free(p);
}

/* Before it was asked for anything: later it takes none. */
static void __attribute__((constructor)) memory_init(void)
{
	if (CRYPTO_set_mem_functions(get, get_again, give_back) != 1)
		abort();
}

/* What OpenSSL says in its queue, as the end of our sentence; empties the queue. */
static int fail_ssl(struct cdm_error *err, int errnum, const char *what)
{
	unsigned long code = ERR_peek_last_error();
	const char *reason = code ? ERR_reason_error_string(code) : NULL;
	ERR_clear_error();
	return reason ? cdm_fail_plain(err, errnum, "%s: %s", what, reason) : cdm_fail_plain(err, errnum, "%s", what);
}

static int load_files(SSL_CTX *ctx, const char *cert_file, const char *key_file, const char *ca_file, struct cdm_error *err)
{
	char what[512];
	if (cert_file) {
		snprintf(what, sizeof what, "read certificate %s", cert_file);
		if (SSL_CTX_use_certificate_chain_file(ctx, cert_file) != 1)
			return fail_ssl(err, EINVAL, what);
		snprintf(what, sizeof what, "read key %s", key_file);
		if (SSL_CTX_use_PrivateKey_file(ctx, key_file, SSL_FILETYPE_PEM) != 1 || SSL_CTX_check_private_key(ctx) != 1)
			return fail_ssl(err, EINVAL, what);
	}
	if (ca_file) {
		snprintf(what, sizeof what, "read authority %s", ca_file);
		if (SSL_CTX_load_verify_file(ctx, ca_file) != 1)
			return fail_ssl(err, EINVAL, what);
	}
	return 0;
}

SSL_CTX *cdm_tls_context(const char *cert_file, const char *key_file, const char *ca_file, bool server, struct cdm_error *err)
{
	SSL_CTX *ctx = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
	if (!ctx) {
		fail_ssl(err, ENOMEM, "make a TLS context");
		return NULL;
	}
	SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION);
	SSL_CTX_set_mode(ctx, SSL_MODE_AUTO_RETRY);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_num_tickets(ctx, 0);
	SSL_CTX_set_verify_depth(ctx, 4);
	if (ca_file)
		SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | (server ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0), NULL);
	if (load_files(ctx, cert_file, key_file, ca_file, err) < 0) {
		SSL_CTX_free(ctx);
		return NULL;
	}
	return ctx;
}

static int allow_late(int good, X509_STORE_CTX *ctx)
{
	return good || (X509_STORE_CTX_get_error(ctx) == X509_V_ERR_CERT_HAS_EXPIRED && X509_STORE_CTX_get_error_depth(ctx) == 0);
}

void cdm_tls_allow_late(SSL_CTX *ctx)
{
	SSL_CTX_set_verify(ctx, SSL_CTX_get_verify_mode(ctx), allow_late);
}

/* --- between the engine and our buffers: OpenSSL's own memory BIO copies twice and clears what it grows by --- */

static int engine_read(BIO *bio, char *to, size_t room, size_t *ret)
{
	struct cdm_tls *t = BIO_get_data(bio);
	size_t len = cdm_buffer_len(&t->in);
	BIO_clear_retry_flags(bio);
	if (len == 0) {
		BIO_set_retry_read(bio);
		return 0;
	}
	*ret = len < room ? len : room;
	memcpy(to, t->in.mem + t->in.start, *ret);
	t->in.start += *ret; /* not consumed: the next ones may be coming to their place just now */
	return 1;
}

static int engine_write(BIO *bio, const char *from, size_t len, size_t *ret)
{
	struct cdm_tls *t = BIO_get_data(bio);
	memcpy(cdm_buffer_reserve(&t->out, len), from, len);
	t->out.end += len;
	*ret = len;
	return 1;
}

static long engine_ctrl(BIO *bio, int what, long number, void *arg)
{
	return what == BIO_CTRL_FLUSH;
}

static BIO_METHOD *engine_method;

static void make_method(void)
{
	engine_method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "cdm_tls");
	if (!engine_method || BIO_meth_set_read_ex(engine_method, engine_read) != 1 ||
		BIO_meth_set_write_ex(engine_method, engine_write) != 1 || BIO_meth_set_ctrl(engine_method, engine_ctrl) != 1)
		abort(); /* fails only without memory */
}

struct cdm_tls *cdm_tls_new(SSL_CTX *ctx, bool server, const char *host)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, make_method);
	struct cdm_tls *t = calloc(1, sizeof *t);
	if (!t)
		return NULL;
	t->magic = TLS_MAGIC;
	t->ssl = SSL_new(ctx);
	BIO *bio = t->ssl ? BIO_new(engine_method) : NULL;
	if (!bio) {
		SSL_free(t->ssl);
		free(t);
		ERR_clear_error();
		return NULL;
	}
	BIO_set_data(bio, t);
	BIO_set_init(bio, 1);
	SSL_set_bio(t->ssl, bio, bio);
	if (server)
		SSL_set_accept_state(t->ssl);
	else
		SSL_set_connect_state(t->ssl);
	if (host)
		SSL_set_tlsext_host_name(t->ssl, host);
	return t;
}

void cdm_tls_free(struct cdm_tls **pt)
{
	struct cdm_tls *t = *pt;
	*pt = NULL;
	if (!t)
		return;
	SSL_free(t->ssl);
	cdm_buffer_fini(&t->in);
	cdm_buffer_fini(&t->out);
	cdm_buffer_fini(&t->sending);
	t->magic = 0;
	free(t);
}

uint8_t *cdm_tls_room(struct cdm_tls *t, size_t *ret_room)
{
	cdm_buffer_reserve(&t->in, cdm_buffer_len(&t->in) > 0 ? ROOM_LEAST : ROOM_EMPTY);
	*ret_room = t->in.room - t->in.end;
	return t->in.mem + t->in.end;
}

void cdm_tls_added(struct cdm_tls *t, size_t len)
{
	assert(len <= t->in.room - t->in.end);
	t->in.end += len;
}

int cdm_tls_between_records(const struct cdm_tls *t, struct cdm_error *err)
{
	return SSL_has_pending(t->ssl) ? cdm_fail_plain(err, EPROTO, "a change of protection in the middle of a TLS record") : 0;
}

const uint8_t *cdm_tls_unread(const struct cdm_tls *t, size_t *ret_len)
{
	*ret_len = cdm_buffer_len(&t->in);
	return t->in.mem + t->in.start;
}

void cdm_tls_skip(struct cdm_tls *t, size_t len)
{
	assert(len <= cdm_buffer_len(&t->in));
	t->in.start += len;
}

static int fail_state(struct cdm_tls *t, int result, const char *what, struct cdm_error *err)
{
	int code = SSL_get_error(t->ssl, result);
	long verify = SSL_get_verify_result(t->ssl);
	if (verify != X509_V_OK) {
		ERR_clear_error();
		cdm_fail_plain(err, EACCES, "%s: the peer's certificate: %s", what, X509_verify_cert_error_string(verify));
		if (verify == X509_V_ERR_CERT_NOT_YET_VALID || verify == X509_V_ERR_CERT_HAS_EXPIRED)
			cdm_hint(err, "compare the clocks of both machines, then the certificate's dates");
		else
			cdm_hint(err, "it was not issued by this installation's master: did one of both join another one?");
		return -EACCES;
	}
	if (code == SSL_ERROR_ZERO_RETURN)
		return cdm_fail_plain(err, EPIPE, "%s: the peer closed the connection", what);
	return fail_ssl(err, EPROTO, what);
}

int cdm_tls_handshake(struct cdm_tls *t, struct cdm_error *err)
{
	ERR_clear_error();
	int r = SSL_do_handshake(t->ssl);
	if (r == 1)
		return 1;
	int code = SSL_get_error(t->ssl, r);
	if (code == SSL_ERROR_WANT_READ || code == SSL_ERROR_WANT_WRITE)
		return 0;
	return fail_state(t, r, "TLS handshake", err);
}

ssize_t cdm_tls_read(struct cdm_tls *t, void *buf, size_t len, struct cdm_error *err)
{
	size_t got;
	ERR_clear_error();
	int r = SSL_read_ex(t->ssl, buf, len, &got);
	if (r == 1)
		return (ssize_t)got;
	int code = SSL_get_error(t->ssl, r);
	if (code == SSL_ERROR_WANT_READ || code == SSL_ERROR_WANT_WRITE)
		return 0;
	return fail_state(t, r, "TLS read", err);
}

int cdm_tls_write(struct cdm_tls *t, const void *bytes, size_t len, struct cdm_error *err)
{
	ERR_clear_error();
	while (len > 0) {
		size_t done;
		int r = SSL_write_ex(t->ssl, bytes, len, &done);
		if (r != 1)
			return fail_state(t, r, "TLS write", err);
		bytes = (const uint8_t *)bytes + done;
		len -= done;
	}
	return 0;
}

size_t cdm_tls_out_waiting(const struct cdm_tls *t)
{
	return cdm_buffer_len(&t->out);
}

size_t cdm_tls_out_take(struct cdm_tls *t, const uint8_t **ret)
{
	struct cdm_buffer sent = t->sending;
	t->sending = t->out;
	t->out = sent;
	t->out.start = t->out.end = 0;
	*ret = t->sending.mem;
	return t->sending.end;
}

int cdm_tls_export_key(const struct cdm_tls *t, const char *label, bool server, uint8_t ret[32], struct cdm_error *err)
{
	const uint8_t context = server ? 's' : 'c';
	if (SSL_export_keying_material(t->ssl, ret, 32, label, strlen(label), &context, 1, 1) != 1)
		return fail_ssl(err, EPROTO, "take a key out of the TLS connection");
	return 0;
}

void cdm_tls_shutdown(struct cdm_tls *t)
{
	if (SSL_is_init_finished(t->ssl))
		SSL_shutdown(t->ssl);
	ERR_clear_error();
}

/* --- certificates --- */

/* "cdmfs:node:17" → 17; 0 = it is not one; -1 = it is one, but not properly written. */
static int64_t number_of_uri(const ASN1_IA5STRING *uri)
{
	const unsigned char *p = ASN1_STRING_get0_data(uri);
	size_t len = (size_t)ASN1_STRING_length(uri), prefix = sizeof NODE_URI - 1;
	if (len < prefix || memcmp(p, NODE_URI, prefix) != 0)
		return 0;
	if (len == prefix || len > prefix + 10 || p[prefix] == '0')
		return -1;
	int64_t number = 0;
	for (size_t i = prefix; i < len; i++) {
		if (p[i] < '0' || p[i] > '9')
			return -1;
		number = number * 10 + (p[i] - '0');
	}
	return number <= UINT32_MAX ? number : -1;
}

static int read_number(const X509 *cert, uint32_t *ret)
{
	GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
	int64_t found = 0;
	for (int i = 0; names && i < sk_GENERAL_NAME_num(names); i++) {
		const GENERAL_NAME *n = sk_GENERAL_NAME_value(names, i);
		if (n->type != GEN_URI)
			continue;
		int64_t number = number_of_uri(n->d.uniformResourceIdentifier);
		if (number != 0)
			found = found != 0 ? -1 : number;
	}
	GENERAL_NAMES_free(names);
	*ret = found > 0 ? (uint32_t)found : 0;
	return found < 0 ? -EACCES : 0;
}

int cdm_tls_name_of(const X509 *cert, struct cdm_tls_name *ret, struct cdm_error *err)
{
	*ret = (struct cdm_tls_name){0};
	const X509_NAME *subject = X509_get_subject_name(cert);
	int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
	if (at >= 0) {
		unsigned char *text = NULL;
		int len = ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
		bool good = len > 0 && (size_t)len < sizeof ret->name && !memchr(text, 0, (size_t)len);
		if (good)
			memcpy(ret->name, text, (size_t)len);
		OPENSSL_free(text);
		if (!good)
			return cdm_fail_plain(err, EACCES, "the certificate's common name is not usable");
	}
	if (read_number(cert, &ret->number) < 0)
		return cdm_fail_plain(err, EACCES, "the certificate's node number is not properly written");
	if (ret->number && !ret->name[0])
		return cdm_fail_plain(err, EACCES, "the certificate has a node number but no name");
	return 0;
}

int cdm_tls_peer(const struct cdm_tls *t, struct cdm_tls_name *ret, struct cdm_error *err)
{
	X509 *cert = SSL_get1_peer_certificate(t->ssl);
	if (!cert)
		return cdm_fail_plain(err, EACCES, "the peer showed no certificate");
	int r = cdm_tls_name_of(cert, ret, err);
	if (r == 0 && SSL_get_verify_result(t->ssl) == X509_V_ERR_CERT_HAS_EXPIRED)
		ret->ended = cdm_tls_not_after(cert);
	X509_free(cert);
	return r;
}

int cdm_tls_cert_sha256(const X509 *cert, uint8_t ret[32], struct cdm_error *err)
{
	unsigned len = 0;
	if (X509_digest(cert, EVP_sha256(), ret, &len) != 1 || len != 32)
		return fail_ssl(err, EINVAL, "hash a certificate");
	return 0;
}

X509 *cdm_tls_cert_parse(const char *pem, struct cdm_error *err)
{
	size_t len = strlen(pem);
	BIO *bio = len <= INT_MAX ? BIO_new_mem_buf(pem, (int)len) : NULL;
	X509 *cert = bio ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
	BIO_free(bio);
	if (!cert)
		fail_ssl(err, EBADMSG, "read a certificate");
	return cert;
}

X509 *cdm_tls_cert_load(const char *file, struct cdm_error *err)
{
	BIO *bio = BIO_new_file(file, "r");
	X509 *cert = bio ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
	BIO_free(bio);
	if (!cert) {
		char what[512];
		snprintf(what, sizeof what, "read certificate %s", file);
		fail_ssl(err, EINVAL, what);
	}
	return cert;
}

int cdm_tls_verify(X509 *cert, X509 *ca, EVP_PKEY *key, struct cdm_error *err)
{
	if (key && X509_check_private_key(cert, key) != 1) {
		ERR_clear_error();
		return cdm_fail_plain(err, EACCES, "the certificate is not for our key");
	}
	X509_STORE *store = X509_STORE_new();
	X509_STORE_CTX *ctx = X509_STORE_CTX_new();
	int r = 0;
	if (!store || !ctx || X509_STORE_add_cert(store, ca) != 1 || X509_STORE_CTX_init(ctx, store, cert, NULL) != 1)
		r = fail_ssl(err, ENOMEM, "prepare to verify a certificate");
	else if (X509_verify_cert(ctx) != 1)
		r = cdm_fail_plain(err, EACCES, "the certificate does not hold against the authority: %s",
			X509_verify_cert_error_string(X509_STORE_CTX_get_error(ctx)));
	ERR_clear_error();
	X509_STORE_CTX_free(ctx);
	X509_STORE_free(store);
	return r;
}

static time_t time_of(const ASN1_TIME *at)
{
	struct tm tm;
	return ASN1_TIME_to_tm(at, &tm) == 1 ? timegm(&tm) : 0;
}

time_t cdm_tls_not_before(const X509 *cert)
{
	return time_of(X509_get0_notBefore(cert));
}

time_t cdm_tls_not_after(const X509 *cert)
{
	return time_of(X509_get0_notAfter(cert));
}

/* --- keys and requests --- */

EVP_PKEY *cdm_tls_key_new(struct cdm_error *err)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	if (!key)
		fail_ssl(err, EIO, "make a key");
	return key;
}

static int take_text(BIO *bio, char **ret, struct cdm_error *err)
{
	char *bytes;
	long len = BIO_get_mem_data(bio, &bytes);
	*ret = len > 0 ? strndup(bytes, (size_t)len) : NULL;
	return *ret ? 0 : cdm_fail(err, ENOMEM, "write PEM");
}

int cdm_tls_key_pem(EVP_PKEY *key, char **ret, struct cdm_error *err)
{
	BIO *bio = BIO_new(BIO_s_mem());
	int r = bio && PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL) == 1 ? take_text(bio, ret, err)
										     : fail_ssl(err, EIO, "write a key");
	BIO_free(bio);
	return r;
}

int cdm_tls_request_pem(EVP_PKEY *key, const char *name, char **ret, struct cdm_error *err)
{
	X509_REQ *req = X509_REQ_new();
	BIO *bio = BIO_new(BIO_s_mem());
	int r = 0;
	if (!req || !bio || X509_REQ_set_version(req, X509_REQ_VERSION_1) != 1 || X509_REQ_set_pubkey(req, key) != 1 ||
		(name[0] && X509_NAME_add_entry_by_txt(X509_REQ_get_subject_name(req), "CN", MBSTRING_UTF8,
				    (const unsigned char *)name, -1, -1, 0) != 1) ||
		X509_REQ_sign(req, key, EVP_sha256()) <= 0 || PEM_write_bio_X509_REQ(bio, req) != 1)
		r = fail_ssl(err, EIO, "make a certificate request");
	else
		r = take_text(bio, ret, err);
	BIO_free(bio);
	X509_REQ_free(req);
	return r;
}
