/* SPDX-License-Identifier: Apache-2.0 */
/* tls.h — TLS 1.3 with certificates of one private authority, and the keys and requests that lead to them.
 * A connection is an engine without a socket: received bytes go in, plain bytes come out, and the other way round, so that any
 * loop can carry it. Nothing here blocks but reading the files of a context.
 * Who somebody is: a node's certificate has the subject CN = node name and the URI SAN `cdmfs:node:NUMBER`; the master's has no such
 * URI, so that no node can pass for the master.
 * Threads: a context may be shared after it was made; a connection belongs to one thread. */
#ifndef CDM_TLS_H
#define CDM_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include "common/error.h"

/* TLS 1.3 only, both sides must show a certificate of this authority. cert/key NULL: a client without one (join). */
SSL_CTX *cdm_tls_context(const char *cert_file, const char *key_file, const char *ca_file, bool server, struct cdm_error *err);

/* A peer's certificate that holds in everything but is past its end does not fail the handshake: cdm_tls_peer tells, and whoever uses
 * this context must look. */
void cdm_tls_allow_late(SSL_CTX *ctx);

struct cdm_tls;
/* A connection of this context; `server` accepts, else connects. host (may be NULL) is sent as SNI. */
struct cdm_tls *cdm_tls_new(SSL_CTX *ctx, bool server, const char *host);
void cdm_tls_free(struct cdm_tls **t);
/* Bytes from the network: where the next ones go, which stays so until cdm_tls_added says how many came. */
uint8_t *cdm_tls_room(struct cdm_tls *t, size_t *ret_room);
void cdm_tls_added(struct cdm_tls *t, size_t len);
/* After a record of which both sides know that it is the last one the connection may carry something else, and TLS again later. -EPROTO:
 * part of another record was read already. What came and was not read yet, and that `len` bytes of it are used. */
int cdm_tls_between_records(const struct cdm_tls *t, struct cdm_error *err);
const uint8_t *cdm_tls_unread(const struct cdm_tls *t, size_t *ret_len);
void cdm_tls_skip(struct cdm_tls *t, size_t len);
/* Go on with the handshake: 1 done, 0 needs more bytes, -errno (EPROTO, EACCES for a certificate that is not good). */
int cdm_tls_handshake(struct cdm_tls *t, struct cdm_error *err);
/* Plain bytes: > 0 that many, 0 none now, -EPIPE the peer closed properly, other -errno broken. */
ssize_t cdm_tls_read(struct cdm_tls *t, void *buf, size_t len, struct cdm_error *err);
/* Encrypt all of it (after the handshake). 0 or -errno. */
int cdm_tls_write(struct cdm_tls *t, const void *bytes, size_t len, struct cdm_error *err);
/* What must be sent: how many bytes wait, and all of them, which stay where they are until the next call. */
size_t cdm_tls_out_waiting(const struct cdm_tls *t);
size_t cdm_tls_out_take(struct cdm_tls *t, const uint8_t **ret);
/* A key of this connection for the use that the label names (RFC 8446, 7.5): both ends get the same, nobody else can. 0 or -errno. */
int cdm_tls_export_key(const struct cdm_tls *t, const char *label, bool server, uint8_t ret[32], struct cdm_error *err);
/* Say goodbye (close_notify). */
void cdm_tls_shutdown(struct cdm_tls *t);

struct cdm_tls_name {
	char name[256];  /* CN */
	uint32_t number; /* of the node; 0 = no node's certificate (the master's, a person's) */
	time_t ended;    /* of a peer: when its certificate ended, if that is past; 0 = it holds */
};
/* Who the peer proved to be. -EACCES: a certificate that does not say it properly. */
int cdm_tls_peer(const struct cdm_tls *t, struct cdm_tls_name *ret, struct cdm_error *err);
int cdm_tls_name_of(const X509 *cert, struct cdm_tls_name *ret, struct cdm_error *err);
int cdm_tls_cert_sha256(const X509 *cert, uint8_t ret[32], struct cdm_error *err);

/* A new EC P-256 key, its PEM (PKCS#8, not encrypted), and a signed request for it with CN = name ("" allowed). The strings are
 * malloc'd. */
EVP_PKEY *cdm_tls_key_new(struct cdm_error *err);
int cdm_tls_key_pem(EVP_PKEY *key, char **ret, struct cdm_error *err);
int cdm_tls_request_pem(EVP_PKEY *key, const char *name, char **ret, struct cdm_error *err);

X509 *cdm_tls_cert_parse(const char *pem, struct cdm_error *err);
X509 *cdm_tls_cert_load(const char *file, struct cdm_error *err);
/* Does `cert` chain to `ca` (both times valid now), and, when key is given, belong to it? 0 or -EACCES with the reason. */
int cdm_tls_verify(X509 *cert, X509 *ca, EVP_PKEY *key, struct cdm_error *err);
time_t cdm_tls_not_before(const X509 *cert);
time_t cdm_tls_not_after(const X509 *cert); /* 0 if it cannot be read */

#endif
