/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/plain.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include "common/cursor.h"

struct plain {
	EVP_CIPHER_CTX *ctx;
	uint64_t number; /* of the next record */
};

static int fail_crypto(struct cdm_error *err)
{
	ERR_clear_error();
	return cdm_fail_plain(err, EIO, "compute the code of a plain record");
}

int plain_new(const uint8_t key[32], struct plain **ret, struct cdm_error *err)
{
	struct plain *p = calloc(1, sizeof *p);
	if (!p)
		return cdm_fail(err, ENOMEM, "prepare plain records");
	p->ctx = EVP_CIPHER_CTX_new();
	if (!p->ctx || EVP_EncryptInit_ex(p->ctx, EVP_aes_256_gcm(), NULL, key, NULL) != 1) {
		plain_free(&p);
		return fail_crypto(err);
	}
	*ret = p;
	return 0;
}

void plain_free(struct plain **pp)
{
	struct plain *p = *pp;
	*pp = NULL;
	if (!p)
		return;
	EVP_CIPHER_CTX_free(p->ctx);
	free(p);
}

/* GMAC: GCM with nothing to encrypt. */
static int code_next(struct plain *p, const uint8_t *bytes, size_t len, uint8_t code[PLAIN_MAC], struct cdm_error *err)
{
	uint8_t nonce[12], none[16];
	int n;
	struct cdm_writer w = cdm_writer_of(nonce, sizeof nonce);
	cdm_put_u32(&w, 0);
	cdm_put_u64(&w, p->number++);
	if (EVP_EncryptInit_ex(p->ctx, NULL, NULL, NULL, nonce) != 1 || EVP_EncryptUpdate(p->ctx, NULL, &n, bytes, (int)len) != 1 ||
		EVP_EncryptFinal_ex(p->ctx, none, &n) != 1 || EVP_CIPHER_CTX_ctrl(p->ctx, EVP_CTRL_AEAD_GET_TAG, PLAIN_MAC, code) != 1)
		return fail_crypto(err);
	return 0;
}

int plain_seal(struct plain *p, uint8_t *out, size_t len, struct cdm_error *err)
{
	assert(len > 0 && len <= PLAIN_RECORD_MAX);
	struct cdm_writer w = cdm_writer_of(out, PLAIN_HEAD);
	cdm_put_u32(&w, (uint32_t)len);
	return code_next(p, out, PLAIN_HEAD + len, out + PLAIN_HEAD + len, err);
}

ssize_t plain_open(struct plain *p, const uint8_t *in, size_t have, size_t *ret_len, struct cdm_error *err)
{
	uint8_t code[PLAIN_MAC];
	struct cdm_reader r = cdm_reader_of(in, have);
	size_t len = cdm_get_u32(&r);
	if (r.bad)
		return 0;
	if (len == 0 || len > PLAIN_RECORD_MAX)
		return cdm_fail_plain(err, EBADMSG, "a plain record with the length %zu (at most %u)", len, PLAIN_RECORD_MAX);
	if (have < len + PLAIN_OVERHEAD)
		return 0;
	uint64_t number = p->number;
	int made = code_next(p, in, PLAIN_HEAD + len, code, err);
	if (made < 0)
		return made;
	if (CRYPTO_memcmp(code, in + PLAIN_HEAD + len, PLAIN_MAC) != 0) {
		cdm_fail_plain(err, EBADMSG, "plain record %llu is not what the peer sent", (unsigned long long)number);
		cdm_hint(err, "somebody or something on the way changes the bytes of this connection");
		return -EBADMSG;
	}
	*ret_len = len;
	return (ssize_t)(len + PLAIN_OVERHEAD);
}
