/* SPDX-License-Identifier: Apache-2.0 */
#include "master/token.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <string.h>

static void to_hex(const unsigned char *raw, size_t len, char *out)
{
	for (size_t i = 0; i < len; i++)
		snprintf(out + 2 * i, 3, "%02x", raw[i]);
}

static int random_hex(size_t bytes, char *out, struct cdm_error *err)
{
	unsigned char raw[32];
	if (RAND_bytes(raw, (int)bytes) != 1)
		return cdm_fail_plain(err, EIO, "no random numbers from the system");
	to_hex(raw, bytes, out);
	OPENSSL_cleanse(raw, sizeof raw);
	return 0;
}

int token_make(const char *ca_fingerprint, struct token *ret, struct cdm_error *err)
{
	memset(ret, 0, sizeof *ret);
	snprintf(ret->ca, sizeof ret->ca, "%s", ca_fingerprint);
	int r = random_hex(4, ret->id, err);
	return r < 0 ? r : random_hex(16, ret->secret, err);
}

void token_format(const struct token *t, char out[TOKEN_TEXT])
{
	snprintf(out, TOKEN_TEXT, "K10%s.%s.%s", t->ca, t->id, t->secret);
}

static const char *take_hex(const char *text, size_t len, char end, char *out)
{
	if (!text)
		return NULL;
	for (size_t i = 0; i < len; i++) {
		if (!((text[i] >= '0' && text[i] <= '9') || (text[i] >= 'a' && text[i] <= 'f')))
			return NULL;
		out[i] = text[i];
	}
	out[len] = 0;
	return text[len] == end ? text + len + 1 : NULL;
}

int token_parse(const char *text, struct token *ret)
{
	if (strncmp(text, "K10", 3) != 0)
		return -EINVAL;
	text = take_hex(text + 3, 64, '.', ret->ca);
	text = take_hex(text, 8, '.', ret->id);
	text = take_hex(text, 32, 0, ret->secret);
	return text ? 0 : -EINVAL;
}

void token_hash(const char *secret, char out[TOKEN_HASH_TEXT])
{
	unsigned char digest[SHA256_DIGEST_LENGTH];
	SHA256((const unsigned char *)secret, strlen(secret), digest);
	to_hex(digest, sizeof digest, out);
}

bool token_hash_equal(const char *a, const char *b)
{
	size_t len = strlen(a);
	return len == strlen(b) && CRYPTO_memcmp(a, b, len) == 0;
}

int token_make_bearer(char out[65], struct cdm_error *err)
{
	return random_hex(32, out, err);
}

/* --- limiter ---------------------------------------------------------------------------------------------------- */

bool token_limiter_allows(const struct token_limiter *l, const char *address, int64_t now_ms)
{
	for (size_t i = 0; i < TOKEN_LIMITER_SLOTS; i++) {
		const struct token_limiter_slot *s = &l->slots[i];
		if (s->failures > 0 && strcmp(s->address, address) == 0)
			return s->failures < TOKEN_FAILURES_MAX || now_ms - s->since_ms >= TOKEN_WINDOW_MS;
	}
	return true;
}

void token_limiter_failed(struct token_limiter *l, const char *address, int64_t now_ms)
{
	struct token_limiter_slot *use = &l->slots[0];
	for (size_t i = 0; i < TOKEN_LIMITER_SLOTS; i++) {
		struct token_limiter_slot *s = &l->slots[i];
		if (s->failures > 0 && strcmp(s->address, address) == 0) {
			use = s;
			break;
		}
		if (use->failures > 0 && (s->failures == 0 || s->since_ms < use->since_ms))
			use = s;
	}
	bool same = use->failures > 0 && strcmp(use->address, address) == 0;
	if (!same || now_ms - use->since_ms >= TOKEN_WINDOW_MS) {
		snprintf(use->address, sizeof use->address, "%s", address);
		use->since_ms = now_ms;
		use->failures = 0;
	}
	use->failures++;
}
