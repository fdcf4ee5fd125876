/* SPDX-License-Identifier: Apache-2.0 */
/* filter.h — patterns that name paths (M8, the part of day one). A pattern without '/' matches the last component at any
 * depth; with '/', the whole path from the set's root. `*`, `?`, `[…]` do not cross '/', `**` does. A pattern that matches a
 * directory matches everything below it. Bytes, no locale. A leading '/' anchors a pattern at the set's root; a '/' at the end
 * changes nothing. `\` takes the next character literally; `[!…]` and `[^…]` negate. */
#ifndef CDM_FILTER_H
#define CDM_FILTER_H

#include <stdbool.h>
#include <stddef.h>

struct cdm_filter {
	char **patterns;
	size_t count;
};
extern const char *const cdm_filter_default_excludes[]; /* NULL-terminated: .*.swp .*.swo .*.swx *~ .#* #*# 4913 .nfs* .~lock.*# … */

void cdm_filter_add(struct cdm_filter *f, const char *pattern); /* copied */
void cdm_filter_fini(struct cdm_filter *f);
/* The pattern that matches this path or a directory above it, else NULL. Borrowed. */
const char *cdm_filter_match(const struct cdm_filter *f, const char *path, size_t len);
/* Is it a usable pattern? 0, or -EINVAL with err (empty, unclosed '[', longer than 1024 bytes, a component ".."). */
struct cdm_error;
int cdm_filter_check(const char *pattern, struct cdm_error *err);

#endif
