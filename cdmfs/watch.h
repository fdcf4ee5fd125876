/* SPDX-License-Identifier: Apache-2.0 */
/* watch.h — what the watcher tells the server over the SOCK_SEQPACKET pair that the holder keeps open (design.md 4
 * "Closing is seen by fanotify"). One datagram is 1 … WATCH_BATCH_MAX messages, in the order of the closes. In the
 * other direction the server only sends CHECKs and INVALIDATEs, without ever blocking.
 *
 * A message only says when to look, never what changed. Before a CLOSED message is sent the watcher has closed its own
 * descriptor of the file, which makes the kernel write out pages that a finished writable mapping left dirty: the WRITE requests
 * of them come before the message. The file may have been removed or opened again by the time the message is read. */
#ifndef CDMFS_WATCH_H
#define CDMFS_WATCH_H

#include <stdint.h>

enum watch_kind {
	WATCH_CLOSED = 1, /* a descriptor or mapping that could write `node` was the last of its open file */
	WATCH_CHECK = 3,  /* server → watcher: may anybody write `node` now? (a file changed by path, or no close was seen for long.) Open it by its
			   * handle on the full mount, O_RDONLY | O_NONBLOCK (type 0x81, u32 words: node >> 32, node, 0), try the lease, and answer
			   * with CLOSED, pid 0; a node that cannot be opened has no writer. Without an answer the server waits for seconds. */
	WATCH_INVALIDATE = 4, /* server → watcher: tell the kernel that its pages of `node` from `offset` on are stale. Waits in the kernel for a page
			   * that is being written, so the server must never do it itself: killed while it waits it could not end, and the
			   * next one could not start. Not answered. */
	WATCH_LOST = 2,   /* closes may have gone unseen (the watcher was restarted, or the kernel's queue overflowed): look at every
			   * unsaved file after a time-out. First message of a watcher that is not the first of its mount. */
};

struct watch_message { /* native endian; both ends run on one machine and come from one program */
	uint32_t kind;    /* enum watch_kind */
	uint32_t writers; /* CLOSED: 1 = another writer is left, 0 = nobody can write it at the moment of looking */
	uint64_t node;    /* CLOSED, CHECK, INVALIDATE: FUSE node id */
	uint64_t offset;  /* INVALIDATE */
	int64_t time_ns;  /* CLOSED: CLOCK_MONOTONIC just before it was looked for writers, 0 = unknown. A WRITE after that is of a writer
			   * who came later, whose close will be told, too */
	int32_t pid;      /* CLOSED: process that closed it, 0 = unknown */
	uint32_t spare;
};

#define WATCH_BATCH_MAX 128

#endif
