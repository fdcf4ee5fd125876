/* SPDX-License-Identifier: Apache-2.0 */
/* send_queue.h — bytes that wait to be sent, in order: small ones of its own, behind each other, and contents that stay in their chunks. Zeroed: empty.
 * Loop thread only. Memory: whoever puts in minds `bytes`. */
#ifndef REPLICATOR_SEND_QUEUE_H
#define REPLICATOR_SEND_QUEUE_H

#include <stddef.h>
#include <stdint.h>
#include "replicator/chunk.h"

struct send_part;
struct send_queue {
	struct send_part *first, *last;
	size_t bytes;
};

/* Room for `len` bytes at the end, until anything else is put in; `added` of them were put there. */
uint8_t *send_queue_room(struct send_queue *q, size_t len);
void send_queue_added(struct send_queue *q, size_t added);
/* Bytes of a chunk, which is kept until they are consumed. */
void send_queue_chunk(struct send_queue *q, struct chunk *chunk, const uint8_t *bytes, size_t len);
/* As many of the first bytes as lie behind each other (may be 0 where `bytes` is not), and that `len` of these are done with. */
const uint8_t *send_queue_first(const struct send_queue *q, size_t *ret_len);
void send_queue_consume(struct send_queue *q, size_t len);
void send_queue_fini(struct send_queue *q);

#endif
