/* SPDX-License-Identifier: Apache-2.0 */
/* growth.h — how fast a journal grows, by its positions over the last day, one look an hour: when would it be full if nobody took
 * anything from it? Pure; times are monotonic seconds. */
#ifndef REPLICATOR_GROWTH_H
#define REPLICATOR_GROWTH_H

#include <stddef.h>
#include <stdint.h>

#define GROWTH_LOOKS 25
#define GROWTH_LEAST_S 60 /* what was seen for less says nothing */

struct growth {
	struct growth_look {
		int64_t at_s;
		uint64_t position;
	} looks[GROWTH_LOOKS]; /* oldest first */
	size_t count;
};
/* A position that is behind the last, or 1 GiB before it, is that of another journal: all begins anew. */
void growth_note(struct growth *g, int64_t now_s, uint64_t position);
/* In so many seconds; -1: not known, or it does not grow. */
double growth_full_s(const struct growth *g, int64_t now_s, uint64_t position, uint64_t max_bytes);

#endif
