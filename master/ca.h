/* SPDX-License-Identifier: Apache-2.0 */
/* ca.h — the installation's own certificate authority: EC P-256, 10 years, DIR/ca.key (0600) and DIR/ca.crt; the master's server
 * certificate DIR/server.key, DIR/server.crt, made anew when a name is missing in it or it ends within 30 days. Issues node
 * certificates from CSRs. Loop thread only. */
#ifndef MASTER_CA_H
#define MASTER_CA_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "common/error.h"

#define CA_NODE_LIFE_S (90 * 86400) /* of a node's certificate, unless the master was told another */
#define CA_LATE_S (30 * 86400)      /* so long after its end a node may still come for the next one */
#define CA_SERIAL_TEXT 40 /* hex of a serial, with NUL */

struct ca;
/* hosts: names and addresses the server certificate must carry, NULL-terminated (localhost, 127.0.0.1, ::1 are always added). */
int ca_open(int dirfd, const char *dir, const char *const *hosts, struct ca **ret, struct cdm_error *err);
void ca_free(struct ca **ca);

const char *ca_pem(const struct ca *ca);         /* of the CA certificate; borrowed */
const char *ca_fingerprint(const struct ca *ca); /* 64 hex of SHA-256(DER); borrowed */

/* Is this a usable request: well formed, signed by its own key, a key we accept? Otherwise -EINVAL. Takes the PEM text. */
struct ca_request;
int ca_request_parse(const char *pem, size_t len, struct ca_request **ret, struct cdm_error *err);
void ca_request_free(struct ca_request **req);

/* A fresh random serial as hex. */
int ca_make_serial(char out[CA_SERIAL_TEXT], struct cdm_error *err);
/* Sign: subject CN = name, URI SAN cdmfs:node:NUMBER, client and server authentication; what else the request asks for is
 * ignored. It is valid for life_s from now. *ret_pem: caller frees. */
int ca_issue(const struct ca *ca, const struct ca_request *req, const char *name, uint32_t number, const char *serial,
	int64_t life_s, char **ret_pem, struct cdm_error *err);

/* TLS 1.3 server context with our certificate and chain (the CA is sent too: joiners compare its hash). ask_client: request, not require, a
 * client certificate of this CA; a wrong one fails the handshake, one that ended does not (ca_peer_node). */
int ca_server_context(const struct ca *ca, bool ask_client, SSL_CTX **ret, struct cdm_error *err);

/* Who the verified peer certificate says the peer is; -ENOENT if the peer gave none, -EBADMSG if it is not a node's. Its end may be
 * past: the caller decides. */
struct ca_node {
	uint32_t number;
	char name[64], serial[CA_SERIAL_TEXT];
	int64_t end; /* Unix seconds */
};
int ca_peer_node(SSL *ssl, struct ca_node *ret);

#endif
