/* SPDX-License-Identifier: Apache-2.0 */
/* seal_sign.h — signatures of statements with a node's key (ECDSA P-256 over SHA-256, FIPS 186-4), checked against the certificate that comes along
 * and the installation's authority. Loop thread (uses the node's TLS contexts, whose key and certificate are the newest). */
#ifndef REPLICATOR_SEAL_SIGN_H
#define REPLICATOR_SEAL_SIGN_H

#include "replicator/node.h"
#include "replicator/seal_codec.h"

/* Sign the statement (encoded) with this node's key; sets certificate and signature, which are in `memory`. 0 or -errno. */
int seal_sign(const struct node *node, struct seal *s, struct bytes *memory, struct cdm_error *err);

/* Who signed it: the number of a node that the authority issued this certificate for. A certificate past its end is taken: who may write is for the
 * routes to say, and a seal may be older than the certificate's end. 0, or -EACCES with why not. */
int seal_verify(const struct node *node, const struct seal *s, uint32_t *ret_number, struct cdm_error *err);

#endif
