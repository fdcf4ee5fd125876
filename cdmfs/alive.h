/* SPDX-License-Identifier: Apache-2.0 */
/* alive.h — signs of life of the server: RUN/SET/alive says since when each of its threads has been at a request, and how many it took.
 *
 * Written by the server's threads, a few stores for each request; read by the holder's watchdog, and only while something waits. The two may be of
 * different versions (an upgrade in place leaves the holder running): a file of another `version` is not judged by. */
#ifndef CDMFS_ALIVE_H
#define CDMFS_ALIVE_H

#include <stdatomic.h>
#include <stdint.h>

#define ALIVE_FILE "alive"
#define ALIVE_VERSION 1u
#define ALIVE_THREADS 64

#define ALIVE_WAITS (-1)

struct alive_thread { /* a cache line; one writer */
	_Atomic int64_t since_ns; /* CLOCK_MONOTONIC when the request in hand was taken; 0: none is; ALIVE_WAITS: it waits for what may take any time */
	_Atomic uint64_t taken;   /* requests so far */
	_Atomic int32_t tid;
	uint32_t spare[11];
};
struct alive {
	_Atomic uint32_t version; /* written last */
	uint32_t thread_bytes;
	uint32_t spare[14];
	struct alive_thread threads[ALIVE_THREADS];
};

#endif
