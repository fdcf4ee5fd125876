/* SPDX-License-Identifier: Apache-2.0 */
/* watch.h — what the watcher and the server tell each other (docs/internals.md 2).
 *
 * They hold the two ends of one SOCK_SEQPACKET pair (--watch-fd); the holder keeps both ends open too, so what is queued
 * outlives either of them. One packet is 1 … WATCH_BATCH_MAX messages, native endian. Unknown kinds are ignored.
 *
 * The watcher finds a file's node id without asking the server: name_to_handle_at(fd, "", AT_EMPTY_PATH) on the event's
 * descriptor gives the kernel's FUSE handle (type 0x81; three or more u32): id = (u64)word[0] << 32 | word[1]. For a CHECK it
 * opens the same handle (word[2] = generation = 0) with open_by_handle_at on the full mount, O_RDONLY | O_NONBLOCK, and tries
 * the read lease.
 *
 * Sending never blocks the server: CHECKs that do not fit are sent again later. The watcher may block in sending.
 *
 * How the server ends: SIGTERM, or ENODEV on /dev/fuse (the mount is gone): for good: everything unsaved is saved, the journal
 * is closed with CLEAN. SIGUSR1: hand over: it finishes the requests in hand, leaves all state in RUN/SET for
 * `--resume`, and exits 0. Any other end (a signal) is a crash: start it again with `--resume`. It exits 1 when it cannot serve (the message says why).
 * Ready to serve: the server writes one WATCH_READY message to its end, after each start; the holder or the watcher may read it. */
#ifndef CDMFS_WATCH_H
#define CDMFS_WATCH_H

#include <stdint.h>

enum watch_kind {
	WATCH_REST = 1,  /* watcher → server: a written file was closed (or checked) and has no writer left */
	WATCH_BUSY = 2,  /* watcher → server: answer to CHECK: there is a writer */
	WATCH_GONE = 3,  /* watcher → server: answer to CHECK: the kernel does not know this node (any more) */
	WATCH_CHECK = 4, /* server → watcher: does this node have a writer? Answered by REST, BUSY or GONE */
	WATCH_READY = 5, /* server → watcher: a server has begun to serve; node = its process id */
};

struct watch_message {
	uint32_t kind; /* enum watch_kind */
	uint32_t spare;
	uint64_t node; /* FUSE node id */
} __attribute__((packed));

#define WATCH_BATCH_MAX 64

#endif
