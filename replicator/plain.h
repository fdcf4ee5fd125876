/* SPDX-License-Identifier: Apache-2.0 */
/* plain.h — records that anybody on the way can read, but not change, drop, repeat or reorder: what a link carries where the section says
 * "encryption off" (wire_protocol.md). u32 length, bytes, 16 bytes GMAC (AES-256) over both; the nonce is the record's number in its
 * direction, which never starts again. Keys come from the TLS connection that carried the link before (cdm_tls_export_key).
 * Pure: bytes in, bytes out. */
#ifndef REPLICATOR_PLAIN_H
#define REPLICATOR_PLAIN_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "common/error.h"

#define PLAIN_KEY_LABEL "EXPORTER-cdmfs-plain-records"
#define PLAIN_HEAD 4u
#define PLAIN_MAC 16u
#define PLAIN_OVERHEAD (PLAIN_HEAD + PLAIN_MAC)
#define PLAIN_RECORD_MAX (64u << 10) /* bytes in one record, at least 1 */

struct plain; /* one direction of one connection */
int plain_new(const uint8_t key[32], struct plain **ret, struct cdm_error *err);
void plain_free(struct plain **p);
/* The next record, of the `len` bytes at out + PLAIN_HEAD: what belongs before and behind them is put there. 0 or -errno. */
int plain_seal(struct plain *p, uint8_t *out, size_t len, struct cdm_error *err);
/* The record at the start of what was received: its length in all, its *ret_len bytes follow PLAIN_HEAD; 0: more must come first;
 * -EBADMSG: it is not the next record of the peer. */
ssize_t plain_open(struct plain *p, const uint8_t *in, size_t have, size_t *ret_len, struct cdm_error *err);

#endif
