/* SPDX-License-Identifier: Apache-2.0 */
/* content.h — one change of a file's content: WRITE, truncate, fallocate, copy (op_file.c, op_attr.c).
 * The caller holds the node's lock from content_begin to content_end. */
#ifndef CDMFS_CONTENT_H
#define CDMFS_CONTENT_H

#include "cdmfs/act.h"

struct content_change {
	struct act act;
	struct descriptor *file;   /* open for writing */
	struct stat before;
	struct cdm_range range;
	bool truncate;             /* the size is set to `size` */
	uint64_t size;
	bool by_path;              /* not through an open descriptor */
};

/* act_init must have been done. Opens, checks policy and expectation, journals. 0 or -errno; call content_end in any case. */
int content_begin(struct content_change *c, uint64_t id);
/* Stamp, notes what is unsaved, clears suid and sgid if asked to, settles. r: result of the system call (bytes or 0, or -errno). */
int64_t content_end(struct content_change *c, uint64_t id, int64_t r, bool kill_suid);

/* What a write by somebody without CAP_FSETID leaves of a mode. */
mode_t mode_without_privileges(mode_t mode);

#endif
