/* SPDX-License-Identifier: Apache-2.0 */
/* token.h — join tokens "K10<64 hex: SHA-256 of the CA certificate>.<id 8 hex>.<secret 32 hex>", bearer tokens, and the
 * limiter of failed attempts. Only hashes of secrets are ever stored. */
#ifndef MASTER_TOKEN_H
#define MASTER_TOKEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "common/error.h"

#define TOKEN_TEXT 112 /* with NUL */
#define TOKEN_HASH_TEXT 65

struct token {
	char ca[65];
	char id[9];
	char secret[33];
};
/* A new random id and secret for this CA. */
int token_make(const char *ca_fingerprint, struct token *ret, struct cdm_error *err);
void token_format(const struct token *t, char out[TOKEN_TEXT]);
/* 0; -EINVAL for anything not exactly of that form (lower-case hex). */
int token_parse(const char *text, struct token *ret);
/* SHA-256 as hex. */
void token_hash(const char *secret, char out[TOKEN_HASH_TEXT]);
/* Constant time for equal lengths. */
bool token_hash_equal(const char *a, const char *b);
/* 64 random hex digits, for bearer tokens. */
int token_make_bearer(char out[65], struct cdm_error *err);

/* Failures per address: TOKEN_FAILURES_MAX within TOKEN_WINDOW_MS, then refused until the window has passed. A fixed table; when it is
 * full the entry idle for longest makes room. */
#define TOKEN_FAILURES_MAX 10
#define TOKEN_WINDOW_MS 60000
#define TOKEN_LIMITER_SLOTS 1024
struct token_limiter {
	struct token_limiter_slot {
		char address[46];
		int64_t since_ms;
		unsigned failures;
	} slots[TOKEN_LIMITER_SLOTS];
};
bool token_limiter_allows(const struct token_limiter *l, const char *address, int64_t now_ms);
void token_limiter_failed(struct token_limiter *l, const char *address, int64_t now_ms);

#endif
