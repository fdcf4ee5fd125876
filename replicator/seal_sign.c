/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/seal_sign.h"

#include <errno.h>
#include <string.h>
#include <openssl/err.h>
#include <openssl/x509.h>
#include "common/tls.h"

/* What is signed with a node's key says what it is for, so that nothing signed for something else can pass for it. */
static const char purpose[] = "cdmfs seal 1";

#define SIGNATURE_ROOM 256

static int failed(struct cdm_error *err, int errnum, const char *what)
{
	ERR_clear_error();
	return cdm_fail_plain(err, errnum, "%s", what);
}

static bool put_signature(EVP_PKEY *key, const struct seal *s, struct bytes *memory, size_t *ret_len)
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	size_t at = memory->len, len = SIGNATURE_ROOM;
	uint8_t *room = bytes_add(memory, SIGNATURE_ROOM);
	bool good = ctx && EVP_DigestSignInit(ctx, NULL, EVP_sha256(), NULL, key) == 1 && EVP_DigestSignUpdate(ctx, purpose, sizeof purpose) == 1 &&
		EVP_DigestSignUpdate(ctx, s->statement, s->statement_len) == 1 && EVP_DigestSignFinal(ctx, room, &len) == 1;
	EVP_MD_CTX_free(ctx);
	memory->len = at + (good ? len : 0);
	*ret_len = len;
	return good;
}

int seal_sign(const struct node *node, struct seal *s, struct bytes *memory, struct cdm_error *err)
{
	X509 *cert = SSL_CTX_get0_certificate(node->tls_server);
	EVP_PKEY *key = SSL_CTX_get0_privatekey(node->tls_server);
	unsigned char *der = NULL;
	int len = cert ? i2d_X509(cert, &der) : -1;
	if (len <= 0 || !key)
		return failed(err, EIO, "sign what changed: the node's certificate or key cannot be used");
	bytes_put(memory, der, (size_t)len);
	OPENSSL_free(der);
	bool good = put_signature(key, s, memory, &s->signature_len);
	s->certificate_len = (size_t)len;
	s->certificate = memory->data;
	s->signature = memory->data + s->certificate_len;
	return good ? 0 : failed(err, EIO, "sign what changed");
}

/* --- verifying --- */

static int check_chain(const struct node *node, X509 *cert, struct cdm_error *err)
{
	X509_STORE_CTX *ctx = X509_STORE_CTX_new();
	bool ready = ctx && X509_STORE_CTX_init(ctx, SSL_CTX_get_cert_store(node->tls_server), cert, NULL) == 1;
	if (ready)
		X509_STORE_CTX_set_flags(ctx, X509_V_FLAG_NO_CHECK_TIME);
	bool good = ready && X509_verify_cert(ctx) == 1;
	X509_STORE_CTX_free(ctx);
	return good ? 0 : failed(err, EACCES, "a seal with a certificate that this installation's master did not issue");
}

static int check_signature(EVP_PKEY *key, const struct seal *s, struct cdm_error *err)
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	bool good = ctx && key && EVP_DigestVerifyInit(ctx, NULL, EVP_sha256(), NULL, key) == 1 && EVP_DigestVerifyUpdate(ctx, purpose, sizeof purpose) == 1 &&
		EVP_DigestVerifyUpdate(ctx, s->statement, s->statement_len) == 1 && EVP_DigestVerifyFinal(ctx, s->signature, s->signature_len) == 1;
	EVP_MD_CTX_free(ctx);
	return good ? 0 : failed(err, EACCES, "a seal whose signature is not its author's");
}

int seal_verify(const struct node *node, const struct seal *s, uint32_t *ret_number, struct cdm_error *err)
{
	const uint8_t *der = s->certificate;
	X509 *cert = d2i_X509(NULL, &der, (long)s->certificate_len);
	struct cdm_tls_name name;
	if (!cert || der != s->certificate + s->certificate_len) {
		X509_free(cert);
		return failed(err, EACCES, "a seal without a certificate that can be read");
	}
	int r = check_chain(node, cert, err);
	if (r == 0)
		r = cdm_tls_name_of(cert, &name, err);
	if (r == 0 && !name.number)
		r = failed(err, EACCES, "a seal with a certificate that is no node's");
	if (r == 0)
		r = check_signature(X509_get0_pubkey(cert), s, err);
	X509_free(cert);
	if (r == 0)
		*ret_number = name.number;
	return r;
}
