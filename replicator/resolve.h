/* SPDX-License-Identifier: Apache-2.0 */
/* resolve.h — HOST:PORT to a socket address without blocking the loop: addresses at once, names in a thread of their own (a
 * look-up can hang for many seconds and must not hold up others). The callback always comes from the loop. Loop thread only. */
#ifndef REPLICATOR_RESOLVE_H
#define REPLICATOR_RESOLVE_H

#include <sys/socket.h>
#include "common/error.h"
#include "common/loop.h"

struct resolve;
/* addr NULL: it failed, err says why. */
typedef void resolve_fn(void *arg, const struct sockaddr *addr, socklen_t len, const struct cdm_error *err);
struct resolve *resolve_start(struct cdm_loop *loop, const char *address, resolve_fn *done, void *arg);
/* The callback will not come; NULLs the pointer. NULL is fine. */
void resolve_cancel(struct resolve **r);

#endif
