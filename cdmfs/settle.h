/* SPDX-License-Identifier: Apache-2.0 */
/* settle.h — nothing is done twice, nothing is forgotten when a server dies between two instructions (design.md 4 "Journal first,
 * with its outcome").
 *
 * RUN/SET/inflight has one slot per worker thread: request number and journal position, set before the store is touched,
 * cleared after the answer. The next server reads the slots and the journal's pending records, looks at what is there, settles the records,
 * and remembers the outcomes by request number: a request the kernel sends again is answered as the first time, or, if nothing had
 * happened, done now. */
#ifndef CDMFS_SETTLE_H
#define CDMFS_SETTLE_H

#include "cdmfs/fs.h"

#define SETTLE_THREADS_MAX 64

int settle_open(struct fs *fs, struct cdm_error *err);
void settle_close(struct fs *fs);
/* After journal and node table are open, before any thread serves. resume: of the same mount; otherwise nothing will be sent
 * again. */
void settle_pending(struct fs *fs, bool resume);

/* A request that was sent again: was it done before? Then *ret is its result, with the answer in place. Otherwise false: do it. */
bool settle_answer(struct request *rq, int *ret);

/* The worker's slot: before acting; with the result of the system call, before the record is settled; after the answer. */
void settle_acting(struct request *rq, uint64_t position);
void settle_result(struct request *rq, int64_t result);
void settle_answered(struct worker *w);
/* Did the request in work change something (settle_acting)? */
bool settle_has_acted(const struct worker *w);

#endif
