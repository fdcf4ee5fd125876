/* SPDX-License-Identifier: Apache-2.0 */
/* limit.h — bandwidth as people type it and read it, in cdmctl: rates, and windows of the week that make a section's grid. Times are UTC. Pure. */
#ifndef MASTER_LIMIT_H
#define MASTER_LIMIT_H

#include <jansson.h>
#include <stdint.h>
#include "common/error.h"

/* "100mbit" (kbit, mbit, gbit: as tc takes them, 1000 based), "10MB/s" (kB/s, MB/s, GB/s), "none" (0: no limit). Bytes a second; -EINVAL. */
int limit_parse_rate(const char *text, int64_t *ret, struct cdm_error *err);
/* "mon-fri 08:00-18:00 20mbit", "sat-mon 2gbit" (whole days), "daily 22:00-06:00Z none": its entries {"from","to","rate"} are appended to
 * the grid; over the end of the week it is two. -EINVAL, then the grid is as before. */
int limit_parse_window(const char *text, json_t *grid, struct cdm_error *err);

/* Both return out. */
char *limit_format_rate(int64_t rate, char *out, size_t room);
/* The window that begins at entry *at, as it is typed; *at moves behind its entries. */
char *limit_format_window(const json_t *grid, size_t *at, char *out, size_t room);

#endif
