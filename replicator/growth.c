/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/growth.h"

#include <string.h>

#define LOOK_EVERY_S 3600
#define JUMP_BYTES (1ull << 30)

void growth_note(struct growth *g, int64_t now_s, uint64_t position)
{
	const struct growth_look *last = g->count ? &g->looks[g->count - 1] : NULL;
	if (last && (position < last->position || position - last->position > JUMP_BYTES))
		g->count = 0;
	else if (last && now_s - last->at_s < LOOK_EVERY_S)
		return;
	if (g->count == GROWTH_LOOKS)
		memmove(g->looks, g->looks + 1, --g->count * sizeof g->looks[0]);
	g->looks[g->count++] = (struct growth_look){now_s, position};
}

double growth_full_s(const struct growth *g, int64_t now_s, uint64_t position, uint64_t max_bytes)
{
	const struct growth_look *first = &g->looks[0];
	if (!g->count || now_s - first->at_s < GROWTH_LEAST_S || position <= first->position)
		return -1;
	return (double)max_bytes * (double)(now_s - first->at_s) / (double)(position - first->position);
}
