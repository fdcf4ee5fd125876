/* SPDX-License-Identifier: Apache-2.0 */
/* server.h — the body of the server process, called by main.c for `cdmfs --server` (holder.h has its contract). */
#ifndef CDMFS_SERVER_H
#define CDMFS_SERVER_H

#include "cdmfs/holder.h"

int server_main(struct child_options *options);

#endif
