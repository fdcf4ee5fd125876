/* SPDX-License-Identifier: Apache-2.0 */
/* journal_resume.h — what a new writer knows without reading the journal: RUN/SET/resume says what all records before a position
 * amount to (journal_format.md, section 5). The writer notes it whenever more is synced, so the next one reads only what came after.
 *
 * It lies in memory as the tail does, and belongs to one tail: of any other it is as if it were not there. Whoever dies while noting
 * leaves the note before. A lost, old or failed note costs the next writer time and nothing else. Used by journal*.c only; one thread
 * at a time. */
#ifndef CDM_JOURNAL_RESUME_H
#define CDM_JOURNAL_RESUME_H

#include "common/vector.h"

#define RESUME_FILE "resume"

struct resume {
	uint64_t instance, base; /* of the tail it belongs to */
	uint64_t position;       /* all records before are settled and counted in, some behind may be */
	cdm_origin origin;
	uint64_t last_number;    /* given to a change of this origin */
	uint64_t sequence;
	uint64_t clock;          /* later than that of any record */
	uint64_t mark_clock;     /* of the last MARK or CLEAN, 0 = none */
	struct cdm_vector applied, marked; /* marked: what that one said */
};
void resume_fini(struct resume *r);

struct resume_file {
	int fd;              /* -1: not open, nothing is noted */
	uint64_t generation; /* of the newest note */
	uint8_t *bytes;      /* room for one note */
	size_t length;       /* of the note that is to be written; 0: none */
};
#define RESUME_FILE_NONE ((struct resume_file){.fd = -1})

/* Make it if it is missing; where that fails it is not open. fresh: what is there belonged to an earlier tail. */
struct resume_file resume_open(const char *run_dir, bool fresh);
void resume_close(struct resume_file *f);
/* The newest sound note of this tail. False: there is none. */
bool resume_read(struct resume_file *f, uint64_t instance, uint64_t base, struct resume *ret);
/* Copy a note (a few microseconds, for under a lock), then write it. What is too large for a note is not noted. */
void resume_prepare(struct resume_file *f, const struct resume *r);
void resume_write(struct resume_file *f);

#endif
