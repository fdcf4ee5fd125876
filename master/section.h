/* SPDX-License-Identifier: Apache-2.0 */
/* section.h — sections: how links whose nodes are in one group, in one region, in two regions are used. Stored by the registry, pushed to all
 * nodes with their routes (docs/internals.md 1), in force there at once. Pure. */
#ifndef MASTER_SECTION_H
#define MASTER_SECTION_H

#include "master/registry.h"

#define SECTION_GRID_MAX 64
#define SECTION_WEEK_MINUTES 10080
#define SECTION_RATE_MIN 1024            /* bytes a second; below that a link could not even keep alive. 0: no limit */
#define SECTION_RATE_MAX 1000000000000ll

const char *section_name(enum section which);
/* SECTION_COUNT: there is no such section. */
enum section section_find(const char *name);
/* Is it [{"from","to","rate"}, …] as routes.json wants it? 0; -EINVAL says which entry is not, and what it should be. */
int section_check_grid(const json_t *grid, struct cdm_error *err);
int section_check_rate(int64_t rate, struct cdm_error *err);
/* What limits a link at this time: the last entry of the grid that it falls into, else the section's rate. */
int64_t section_rate_at(const struct model_section *s, int64_t unix_seconds);
/* {"compression","encryption","delta","rate","grid"} */
json_t *section_json(const struct model_section *s);
/* {"group":…,"region":…,"international":…} */
json_t *sections_json(const struct model *m);

#endif
