/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/ring.h"

#include <string.h>

static int compare_text(const char *a, const char *b)
{
	return strcmp(a ? a : "", b ? b : "");
}

static int compare(const struct member *a, const struct member *b)
{
	int r = compare_text(a->region, b->region);
	if (r == 0)
		r = compare_text(a->group, b->group);
	return r ? r : strcmp(a->name, b->name);
}

/* What a node takes that brings changes upwards goes to everybody: it takes no content from a leaf that may not write. */
static bool may_feed(const struct member *m, const struct member *self)
{
	return m->addr && !m->drained && !m->paused && (m->brings || !self->brings);
}

const struct member *ring_before(const struct route *r, uint32_t number)
{
	const struct member *self = r->neighbours_only ? NULL : route_member_number(r, number);
	const struct member *before = NULL, *last = NULL; /* the greatest below us, the greatest of all */
	for (size_t i = 0; self && i < r->member_count; i++) {
		const struct member *m = &r->members[i];
		if (m == self || !may_feed(m, self))
			continue;
		if (!last || compare(m, last) > 0)
			last = m;
		if (compare(m, self) < 0 && (!before || compare(m, before) > 0))
			before = m;
	}
	return before ? before : last;
}
