/* SPDX-License-Identifier: Apache-2.0 */
#include "master/ca.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include "common/io.h"
#include "common/log.h"

#define DAY_S 86400
#define CA_DAYS 3653
#define SERVER_DAYS 825
#define SERVER_RENEW_DAYS 30
#define PEM_LIMIT (64u << 10)
#define NODE_URI "cdmfs:node:"

struct ca {
	EVP_PKEY *key, *server_key;
	X509 *cert, *server_cert;
	char *pem;
	char fingerprint[65];
};
struct ca_request {
	X509_REQ *req;
};

/* OpenSSL's own words for the last failure. */
static int fail_ssl(struct cdm_error *err, int errnum, const char *what)
{
	char text[160] = "unknown reason";
	unsigned long code = ERR_get_error();
	if (code)
		ERR_error_string_n(code, text, sizeof text);
	ERR_clear_error();
	return cdm_fail_plain(err, errnum, "%s: %s", what, text);
}

/* --- files ------------------------------------------------------------------------------------------------------ */

static int save_bio(int dirfd, const char *name, BIO *bio, mode_t mode, struct cdm_error *err)
{
	char *bytes;
	long len = BIO_get_mem_data(bio, &bytes);
	return cdm_replace_file(dirfd, name, bytes, (size_t)len, mode, err);
}

static int save_key(int dirfd, const char *name, EVP_PKEY *key, struct cdm_error *err)
{
	BIO *bio = BIO_new(BIO_s_secmem());
	int r = bio && PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL) ? save_bio(dirfd, name, bio, 0600, err)
										     : fail_ssl(err, ENOMEM, "write key");
	BIO_free(bio);
	return r;
}

static char *cert_to_pem(X509 *cert)
{
	BIO *bio = BIO_new(BIO_s_mem());
	char *bytes, *pem = NULL;
	if (bio && PEM_write_bio_X509(bio, cert)) {
		long len = BIO_get_mem_data(bio, &bytes);
		pem = strndup(bytes, (size_t)len);
	}
	BIO_free(bio);
	return pem;
}

static int save_cert(int dirfd, const char *name, X509 *cert, struct cdm_error *err)
{
	_cleanup_free_ char *pem = cert_to_pem(cert);
	if (!pem)
		return fail_ssl(err, ENOMEM, "write certificate");
	return cdm_replace_file(dirfd, name, pem, strlen(pem), 0644, err);
}

/* 0; -ENOENT when the file is not there. */
static int load_pem(int dirfd, const char *name, EVP_PKEY **key, X509 **cert, struct cdm_error *err)
{
	_cleanup_free_ char *bytes = NULL;
	size_t len;
	int r = cdm_read_file(dirfd, name, PEM_LIMIT, &bytes, &len, err);
	if (r < 0)
		return r;
	BIO *bio = BIO_new_mem_buf(bytes, (int)len);
	if (bio && key)
		*key = PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL);
	if (bio && cert)
		*cert = PEM_read_bio_X509(bio, NULL, NULL, NULL);
	BIO_free(bio);
	if (key)
		OPENSSL_cleanse(bytes, len);
	return (key && !*key) || (cert && !*cert) ? fail_ssl(err, EBADMSG, name) : 0;
}

/* --- certificates ----------------------------------------------------------------------------------------------- */

static int add_extension(X509 *cert, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX ctx;
	X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
	X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
	int ok = ext && X509_add_ext(cert, ext, -1);
	X509_EXTENSION_free(ext);
	return ok;
}

static int set_serial(X509 *cert, const char *hex)
{
	BIGNUM *bn = NULL;
	int ok = BN_hex2bn(&bn, hex) > 0 && BN_to_ASN1_INTEGER(bn, X509_get_serialNumber(cert));
	BN_free(bn);
	return ok;
}

/* Everything that all our certificates have in common. It is valid from a tenth of its life ago, at most an hour: clocks differ. */
static X509 *make_cert(EVP_PKEY *pub, const char *cn, const char *serial, int64_t life_s, const X509 *issuer)
{
	long early = life_s / 10 < 3600 ? (long)(life_s / 10) : 3600;
	X509 *cert = X509_new();
	if (!cert)
		return NULL;
	X509_NAME *subject = X509_get_subject_name(cert);
	int ok = X509_set_version(cert, X509_VERSION_3) && set_serial(cert, serial) &&
		X509_gmtime_adj(X509_getm_notBefore(cert), -early) &&
		X509_time_adj_ex(X509_getm_notAfter(cert), (int)(life_s / DAY_S), (long)(life_s % DAY_S), NULL) &&
		X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, (const unsigned char *)cn, -1, -1, 0) &&
		X509_set_issuer_name(cert, issuer ? X509_get_subject_name(issuer) : subject) && X509_set_pubkey(cert, pub);
	if (ok)
		return cert;
	X509_free(cert);
	return NULL;
}

int ca_make_serial(char out[CA_SERIAL_TEXT], struct cdm_error *err)
{
	unsigned char raw[16];
	if (RAND_bytes(raw, sizeof raw) != 1)
		return fail_ssl(err, EIO, "random serial");
	raw[0] = (unsigned char)((raw[0] & 0x7f) | 0x40); /* positive, always the same length */
	for (size_t i = 0; i < sizeof raw; i++)
		snprintf(out + 2 * i, 3, "%02x", raw[i]);
	return 0;
}

static int make_ca(int dirfd, struct ca *ca, struct cdm_error *err)
{
	char serial[CA_SERIAL_TEXT], cn[64];
	int r = ca_make_serial(serial, err);
	if (r < 0)
		return r;
	snprintf(cn, sizeof cn, "cdmfs CA %.8s", serial);
	ca->key = EVP_EC_gen("P-256");
	ca->cert = ca->key ? make_cert(ca->key, cn, serial, CA_DAYS * (int64_t)DAY_S, NULL) : NULL;
	if (!ca->cert || !add_extension(ca->cert, ca->cert, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") ||
		!add_extension(ca->cert, ca->cert, NID_key_usage, "critical,keyCertSign,cRLSign") ||
		!add_extension(ca->cert, ca->cert, NID_subject_key_identifier, "hash") ||
		!X509_sign(ca->cert, ca->key, EVP_sha256()))
		return fail_ssl(err, EIO, "make the certificate authority");
	r = save_key(dirfd, "ca.key", ca->key, err);
	return r < 0 ? r : save_cert(dirfd, "ca.crt", ca->cert, err);
}

static int open_ca(int dirfd, const char *dir, struct ca *ca, struct cdm_error *err)
{
	int r = load_pem(dirfd, "ca.key", &ca->key, NULL, err);
	if (r == -ENOENT) {
		r = load_pem(dirfd, "ca.crt", NULL, &ca->cert, err);
		if (r == -ENOENT)
			return make_ca(dirfd, ca, err);
		cdm_fail_plain(err, ENOENT, "%s/ca.key is missing, but %s/ca.crt is there", dir, dir);
		cdm_hint(err, "put ca.key back from a backup; without it no node can join this installation");
		return -ENOENT;
	}
	if (r < 0)
		return cdm_wrap(err, r, "%s", dir);
	r = load_pem(dirfd, "ca.crt", NULL, &ca->cert, err);
	if (r < 0) {
		cdm_hint(err, "put ca.crt back from a backup: every node trusts exactly this certificate");
		return cdm_wrap(err, r, "%s", dir);
	}
	if (X509_check_private_key(ca->cert, ca->key) == 1)
		return 0;
	ERR_clear_error();
	cdm_fail_plain(err, EBADMSG, "%s: ca.key does not belong to ca.crt", dir);
	cdm_hint(err, "put both back from the same backup");
	return -EBADMSG;
}

/* --- the server's certificate ----------------------------------------------------------------------------------- */

static bool is_address(const char *host)
{
	unsigned char raw[16];
	return inet_pton(AF_INET, host, raw) == 1 || inet_pton(AF_INET6, host, raw) == 1;
}

static bool cert_names(X509 *cert, const char *host)
{
	return is_address(host) ? X509_check_ip_asc(cert, host, 0) == 1 : X509_check_host(cert, host, 0, 0, NULL) == 1;
}

static bool is_server_cert_good(const struct ca *ca, const char *const *hosts)
{
	time_t limit = time(NULL) + SERVER_RENEW_DAYS * DAY_S;
	if (X509_cmp_time(X509_get0_notAfter(ca->server_cert), &limit) != 1 || X509_verify(ca->server_cert, ca->key) != 1 ||
		X509_check_private_key(ca->server_cert, ca->server_key) != 1) {
		ERR_clear_error();
		return false;
	}
	for (; *hosts; hosts++)
		if (!cert_names(ca->server_cert, *hosts))
			return false;
	return true;
}

static int make_server_cert(int dirfd, struct ca *ca, const char *const *hosts, struct cdm_error *err)
{
	char serial[CA_SERIAL_TEXT], san[2048] = "DNS:localhost,IP:127.0.0.1,IP:::1";
	int r = ca_make_serial(serial, err);
	if (r < 0)
		return r;
	size_t n = strlen(san);
	for (const char *const *h = hosts; *h && n < sizeof san; h++)
		n += (size_t)snprintf(san + n, sizeof san - n, ",%s:%s", is_address(*h) ? "IP" : "DNS", *h);
	if (n >= sizeof san)
		return cdm_fail_plain(err, E2BIG, "too many advertised names");
	X509_free(ca->server_cert);
	EVP_PKEY_free(ca->server_key);
	ca->server_key = EVP_EC_gen("P-256");
	ca->server_cert = ca->server_key ? make_cert(ca->server_key, "cdm-master", serial, SERVER_DAYS * (int64_t)DAY_S, ca->cert) : NULL;
	if (!ca->server_cert || !add_extension(ca->server_cert, ca->cert, NID_basic_constraints, "critical,CA:FALSE") ||
		!add_extension(ca->server_cert, ca->cert, NID_ext_key_usage, "serverAuth") ||
		!add_extension(ca->server_cert, ca->cert, NID_authority_key_identifier, "keyid") ||
		!add_extension(ca->server_cert, ca->cert, NID_subject_alt_name, san) ||
		!X509_sign(ca->server_cert, ca->key, EVP_sha256()))
		return fail_ssl(err, EINVAL, "make the server certificate (are all advertised names valid?)");
	r = save_key(dirfd, "server.key", ca->server_key, err);
	return r < 0 ? r : save_cert(dirfd, "server.crt", ca->server_cert, err);
}

int ca_open(int dirfd, const char *dir, const char *const *hosts, struct ca **ret, struct cdm_error *err)
{
	struct ca *ca = calloc(1, sizeof *ca);
	if (!ca)
		return cdm_fail(err, ENOMEM, "certificate authority");
	int r = open_ca(dirfd, dir, ca, err);
	unsigned char digest[32];
	if (r == 0 && X509_digest(ca->cert, EVP_sha256(), digest, NULL) != 1)
		r = fail_ssl(err, EIO, "hash the CA certificate");
	if (r == 0) {
		for (size_t i = 0; i < sizeof digest; i++)
			snprintf(ca->fingerprint + 2 * i, 3, "%02x", digest[i]);
		ca->pem = cert_to_pem(ca->cert);
		if (!ca->pem)
			r = cdm_fail(err, ENOMEM, "CA certificate");
	}
	if (r == 0) {
		struct cdm_error ignored = CDM_ERROR_INIT; /* whatever is wrong with it, it can be made again */
		if (load_pem(dirfd, "server.key", &ca->server_key, NULL, &ignored) < 0 ||
			load_pem(dirfd, "server.crt", NULL, &ca->server_cert, &ignored) < 0 || !is_server_cert_good(ca, hosts))
			r = make_server_cert(dirfd, ca, hosts, err);
	}
	if (r < 0) {
		ca_free(&ca);
		return r;
	}
	*ret = ca;
	return 0;
}

void ca_free(struct ca **pca)
{
	struct ca *ca = *pca;
	*pca = NULL;
	if (!ca)
		return;
	EVP_PKEY_free(ca->key);
	EVP_PKEY_free(ca->server_key);
	X509_free(ca->cert);
	X509_free(ca->server_cert);
	free(ca->pem);
	free(ca);
}

const char *ca_pem(const struct ca *ca)
{
	return ca->pem;
}

const char *ca_fingerprint(const struct ca *ca)
{
	return ca->fingerprint;
}

/* --- nodes ------------------------------------------------------------------------------------------------------ */

static bool is_key_accepted(EVP_PKEY *key)
{
	char group[32] = "";
	if (EVP_PKEY_is_a(key, "ED25519"))
		return true;
	if (EVP_PKEY_is_a(key, "RSA"))
		return EVP_PKEY_get_bits(key) >= 2048 && EVP_PKEY_get_bits(key) <= 8192;
	return EVP_PKEY_is_a(key, "EC") && EVP_PKEY_get_group_name(key, group, sizeof group, NULL) == 1 &&
		(strcmp(group, "prime256v1") == 0 || strcmp(group, "secp384r1") == 0);
}

int ca_request_parse(const char *pem, size_t len, struct ca_request **ret, struct cdm_error *err)
{
	if (len > PEM_LIMIT)
		return cdm_fail_plain(err, EINVAL, "csr: longer than %u bytes", PEM_LIMIT);
	BIO *bio = BIO_new_mem_buf(pem, (int)len);
	X509_REQ *x = bio ? PEM_read_bio_X509_REQ(bio, NULL, NULL, NULL) : NULL;
	BIO_free(bio);
	if (!x) {
		ERR_clear_error();
		return cdm_fail_plain(err, EINVAL, "csr: not a PEM certificate request");
	}
	EVP_PKEY *key = X509_REQ_get0_pubkey(x);
	bool accepted = key && is_key_accepted(key);
	bool proven = accepted && X509_REQ_verify(x, key) == 1;
	ERR_clear_error();
	struct ca_request *req = proven ? calloc(1, sizeof *req) : NULL;
	if (!req) {
		X509_REQ_free(x);
		return cdm_fail_plain(err, EINVAL, accepted ? "csr: not signed by its own key" : "csr: key must be P-256, P-384, RSA of 2048 bits or more, or Ed25519");
	}
	req->req = x;
	*ret = req;
	return 0;
}

void ca_request_free(struct ca_request **req)
{
	if (*req)
		X509_REQ_free((*req)->req);
	free(*req);
	*req = NULL;
}

int ca_issue(const struct ca *ca, const struct ca_request *req, const char *name, uint32_t number, const char *serial,
	int64_t life_s, char **ret_pem, struct cdm_error *err)
{
	char san[64];
	snprintf(san, sizeof san, "URI:" NODE_URI "%u", number);
	X509 *cert = make_cert(X509_REQ_get0_pubkey(req->req), name, serial, life_s, ca->cert);
	int ok = cert && add_extension(cert, ca->cert, NID_basic_constraints, "critical,CA:FALSE") &&
		add_extension(cert, ca->cert, NID_ext_key_usage, "clientAuth,serverAuth") &&
		add_extension(cert, ca->cert, NID_authority_key_identifier, "keyid") &&
		add_extension(cert, ca->cert, NID_subject_alt_name, san) && X509_sign(cert, ca->key, EVP_sha256());
	*ret_pem = ok ? cert_to_pem(cert) : NULL;
	X509_free(cert);
	return *ret_pem ? 0 : fail_ssl(err, EIO, "issue a certificate");
}

/* A certificate that is only too old does not end the handshake: ca_peer_node tells. */
static int allow_late(int good, X509_STORE_CTX *ctx)
{
	return good || (X509_STORE_CTX_get_error(ctx) == X509_V_ERR_CERT_HAS_EXPIRED && X509_STORE_CTX_get_error_depth(ctx) == 0);
}

/* --- connections ------------------------------------------------------------------------------------------------ */

int ca_server_context(const struct ca *ca, bool ask_client, SSL_CTX **ret, struct cdm_error *err)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
	X509_STORE *store = ctx ? SSL_CTX_get_cert_store(ctx) : NULL;
	if (!ctx || !SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) || SSL_CTX_use_certificate(ctx, ca->server_cert) != 1 ||
		SSL_CTX_use_PrivateKey(ctx, ca->server_key) != 1 || SSL_CTX_add1_chain_cert(ctx, ca->cert) != 1 ||
		X509_STORE_add_cert(store, ca->cert) != 1) {
		SSL_CTX_free(ctx);
		return fail_ssl(err, EIO, "TLS context");
	}
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_num_tickets(ctx, 0);
	SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
	if (ask_client) {
		SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, allow_late);
		SSL_CTX_set_purpose(ctx, X509_PURPOSE_SSL_CLIENT);
		SSL_CTX_add_client_CA(ctx, ca->cert);
	}
	*ret = ctx;
	return 0;
}

static int number_of(X509 *cert, uint32_t *ret)
{
	GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
	int r = -EBADMSG;
	for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
		const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
		if (name->type != GEN_URI)
			continue;
		const char *uri = (const char *)ASN1_STRING_get0_data(name->d.uniformResourceIdentifier);
		size_t len = (size_t)ASN1_STRING_length(name->d.uniformResourceIdentifier), prefix = strlen(NODE_URI);
		char text[16] = "", *end;
		if (len <= prefix || len - prefix >= sizeof text || memcmp(uri, NODE_URI, prefix) != 0)
			continue;
		memcpy(text, uri + prefix, len - prefix);
		unsigned long number = strtoul(text, &end, 10);
		if (*end == 0 && number > 0 && number <= UINT32_MAX && text[0] >= '1' && text[0] <= '9') {
			*ret = (uint32_t)number;
			r = 0;
		}
	}
	GENERAL_NAMES_free(names);
	return r;
}

/* The one common name, as text; false when it does not fit. */
static bool name_of(X509 *cert, char *out, size_t room)
{
	int len = X509_NAME_get_text_by_NID(X509_get_subject_name(cert), NID_commonName, out, (int)room);
	return len > 0 && (size_t)len < room - 1 && strlen(out) == (size_t)len;
}

int ca_peer_node(SSL *ssl, struct ca_node *ret)
{
	X509 *cert = SSL_get0_peer_certificate(ssl);
	struct tm end;
	long verified = SSL_get_verify_result(ssl);
	if (!cert)
		return -ENOENT;
	if ((verified != X509_V_OK && verified != X509_V_ERR_CERT_HAS_EXPIRED) || ASN1_TIME_to_tm(X509_get0_notAfter(cert), &end) != 1)
		return -EBADMSG;
	ret->end = timegm(&end);
	BIGNUM *bn = ASN1_INTEGER_to_BN(X509_get0_serialNumber(cert), NULL);
	char *hex = bn ? BN_bn2hex(bn) : NULL;
	bool good = hex && strlen(hex) < CA_SERIAL_TEXT && name_of(cert, ret->name, sizeof ret->name);
	int r = good ? number_of(cert, &ret->number) : -EBADMSG;
	for (size_t i = 0; r == 0 && i <= strlen(hex); i++)
		ret->serial[i] = (char)(hex[i] >= 'A' && hex[i] <= 'F' ? hex[i] + 32 : hex[i]);
	OPENSSL_free(hex);
	BN_free(bn);
	return r;
}
