/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include "replicator/set_internal.h"

struct context *contexts_get(struct contexts *c, cdm_origin origin)
{
	for (size_t i = 0; i < c->count; i++)
		if (c->entries[i].origin == origin)
			return &c->entries[i];
	struct context *grown = realloc(c->entries, (c->count + 1) * sizeof *grown);
	if (!grown)
		abort();
	c->entries = grown;
	grown[c->count] = (struct context){.origin = origin};
	return &grown[c->count++];
}

void contexts_note(struct contexts *c, const struct cdm_change *change)
{
	if (change->context && !cdm_dot_is_none(change->dot))
		cdm_vector_copy(&contexts_get(c, change->dot.origin)->vector, change->context);
}

bool contexts_same(struct contexts *c, cdm_origin origin, const struct cdm_vector *vector)
{
	struct context *known = contexts_get(c, origin);
	if (cdm_vector_equal(&known->vector, vector))
		return true;
	cdm_vector_copy(&known->vector, vector);
	return false;
}

void contexts_fini(struct contexts *c)
{
	for (size_t i = 0; i < c->count; i++)
		cdm_vector_fini(&c->entries[i].vector);
	free(c->entries);
	*c = (struct contexts){0};
}
