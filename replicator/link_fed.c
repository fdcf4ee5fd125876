/* SPDX-License-Identifier: Apache-2.0 */
/* link_fed.c — pieces of contents that are fetched do not pass through the connection's buffer: what follows the head of a FED is put at once where it
 * is kept, written and sent on from. */
#include "replicator/link_internal.h"

#include <errno.h>
#include <string.h>
#include "replicator/chunk.h"

#define FED_LEAST (32u << 10) /* shorter ones are copied */

size_t link_fed_begin(struct link *l, const struct wire_header *h, const uint8_t *frame, size_t len)
{
	if (l->state != LINK_UP || h->type != FRAME_FED || h->flags || h->payload < FED_LEAST || h->payload > FED_HEAD + CHUNK_BYTES)
		return 0;
	if (len < WIRE_HEADER + FED_HEAD || len >= WIRE_HEADER + h->payload)
		return 0;
	memcpy(l->fed_head, frame + WIRE_HEADER, FED_HEAD);
	l->fed_len = h->payload - FED_HEAD;
	l->fed = chunk_new(l->fed_len);
	conn_fill(l->conn, l->fed->data, l->fed_len);
	return WIRE_HEADER + FED_HEAD;
}

void link_fed_came(struct link *l)
{
	struct cdm_error err = CDM_ERROR_INIT;
	struct chunk *chunk = l->fed;
	l->fed = NULL;
	int r = l->state == LINK_UP ? fetch_fed(l->node, l, l->fed_head, chunk, l->fed_len, &err) : 0;
	chunk_unref(chunk);
	if (r < 0)
		link_fail(l, -r, "%s", err.text);
}
