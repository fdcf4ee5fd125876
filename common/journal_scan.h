/* SPDX-License-Identifier: Apache-2.0 */
/* journal_scan.h — reading through segments from end to end: at open, and where a reader has no tail. Checks every
 * record it passes. Used by journal*.c only. */
#ifndef CDM_JOURNAL_SCAN_H
#define CDM_JOURNAL_SCAN_H

#include "common/journal_segments.h"

struct scan_end {
	uint64_t position; /* behind the last whole record */
	bool torn;         /* something unusable follows it */
	struct segment_commit commit;
};
/* Where the last segment's records end. -EBADMSG: damage before what had been synced. */
int scan_end(const struct segments *s, struct scan_end *ret, struct cdm_error *err);

/* Call fn for each record (not pad) from the boundary `from` (or the oldest there is) to exactly `end`. fn returns 0
 * to go on. -EBADMSG: a damaged record, or none ends at `end`. */
typedef int scan_fn(void *arg, const uint8_t *record, size_t length);
int scan_records(const struct segments *s, uint64_t from, uint64_t end, scan_fn *fn, void *arg, struct cdm_error *err);

struct scan_mark {
	uint64_t position, since; /* 0 = there is no mark */
	bool clean_end;           /* it is a CLEAN, and the last record */
};
/* The last MARK or CLEAN before `end`. Reads backwards by segment. */
int scan_last_mark(const struct segments *s, uint64_t end, struct scan_mark *ret, struct cdm_error *err);

#endif
