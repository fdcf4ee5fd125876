/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/send_queue.h"

#include <assert.h>
#include <stdlib.h>
#include "common/buffer.h"

#define KEEP (256u << 10) /* the memory of a queue that became empty is kept for what comes next, if it is no larger */

struct send_part {
	struct send_part *next;
	struct cdm_buffer own; /* its bytes, or … */
	struct chunk *chunk;   /* … where they are */
	const uint8_t *bytes;
	size_t len;
};

static struct send_part *add(struct send_queue *q)
{
	struct send_part *p = calloc(1, sizeof *p);
	if (!p)
		abort();
	if (q->last)
		q->last->next = p;
	else
		q->first = p;
	q->last = p;
	return p;
}

static void drop_first(struct send_queue *q)
{
	struct send_part *p = q->first;
	q->first = p->next;
	if (!q->first)
		q->last = NULL;
	chunk_unref(p->chunk);
	cdm_buffer_fini(&p->own);
	free(p);
}

uint8_t *send_queue_room(struct send_queue *q, size_t len)
{
	struct send_part *p = q->last && !q->last->chunk ? q->last : add(q);
	return cdm_buffer_reserve(&p->own, len);
}

void send_queue_added(struct send_queue *q, size_t added)
{
	struct cdm_buffer *own = &q->last->own;
	assert(added <= own->room - own->end);
	own->end += added;
	q->bytes += added;
}

void send_queue_chunk(struct send_queue *q, struct chunk *chunk, const uint8_t *bytes, size_t len)
{
	struct send_part *p = add(q);
	p->chunk = chunk_ref(chunk);
	p->bytes = bytes;
	p->len = len;
	q->bytes += len;
}

const uint8_t *send_queue_first(const struct send_queue *q, size_t *ret_len)
{
	const struct send_part *p = q->first;
	*ret_len = p->chunk ? p->len : cdm_buffer_len(&p->own);
	return p->chunk ? p->bytes : p->own.mem + p->own.start;
}

void send_queue_consume(struct send_queue *q, size_t len)
{
	struct send_part *p = q->first;
	size_t left;
	q->bytes -= len;
	if (p->chunk) {
		p->bytes += len;
		p->len -= len;
	} else {
		cdm_buffer_consume(&p->own, len);
	}
	send_queue_first(q, &left);
	if (left == 0 && (p->chunk || p->next || p->own.room > KEEP))
		drop_first(q);
}

void send_queue_fini(struct send_queue *q)
{
	while (q->first)
		drop_first(q);
	q->bytes = 0;
}
