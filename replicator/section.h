/* SPDX-License-Identifier: Apache-2.0 */
/* section.h — how links of a class are used: compression, encryption, deltas, bandwidth by the time of the week. The class of a link tells
 * where its two nodes are: in one group, in one region, in two regions. The table comes with routes.json ("sections",
 * internals.md 1) and is in force at once. Pure. */
#ifndef REPLICATOR_SECTION_H
#define REPLICATOR_SECTION_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "common/error.h"

struct member;

enum section_class { SECTION_GROUP, SECTION_REGION, SECTION_INTERNATIONAL };
#define SECTION_CLASSES 3
#define SECTION_GRID_MAX 64
#define SECTION_WEEK_MINUTES 10080

struct section {
	unsigned compression; /* 0 none … 9 */
	bool encryption, delta;
	uint64_t rate;        /* bytes a second that each side may send on one link; 0 = no limit */
	struct section_span {
		unsigned from, to; /* minutes of the week, UTC, from Monday 0:00; `to` is not part of it */
		uint64_t rate;
	} grid[SECTION_GRID_MAX];
	unsigned grid_count;
};
struct sections {
	struct section of[SECTION_CLASSES];
};

void sections_default(struct sections *ret);
/* From the value of "sections" (NULL: the defaults). 0; -EBADMSG with err. */
int sections_parse(const json_t *j, struct sections *ret, struct cdm_error *err);
/* Of the nodes at both ends of a link; either may be NULL: not known, so it may be anywhere. */
enum section_class section_class_of(const struct member *own, const struct member *peer);
const char *section_name(enum section_class class);
/* The rate at this wall clock (ns): that of the last matching span of the grid, else of the section. */
uint64_t section_rate(const struct section *s, int64_t wall_ns);

/* What was sent over links of a class, of this process. */
struct section_cost {
	uint64_t delta_saved_bytes; /* of contents, which deltas and ranges made unnecessary */
	uint64_t raw_bytes;        /* payload of the data plane's frames before compression … */
	uint64_t compressed_bytes; /* … and as it was sent */
	uint64_t wire_bytes;       /* all that went into the connections */
};

#endif
