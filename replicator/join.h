/* SPDX-License-Identifier: Apache-2.0 */
/* join.h — `cdm-replicator join HOST:PORT --token T [--name N]`: makes the node's key, has it certified by the master, and writes
 * STATE/{node.key,node.crt,ca.crt,identity.json}. One shot, blocking, with limits and time-outs. */
#ifndef REPLICATOR_JOIN_H
#define REPLICATOR_JOIN_H

#include "common/error.h"

/* Returns the exit code: 0; 1 failure; 4 time-out; 5 the name is taken or this node has joined already. Prints on stdout what came of
 * it; err says what went wrong. */
int join_run(const char *config, const char *address, const char *token, const char *name, struct cdm_error *err);

#endif
