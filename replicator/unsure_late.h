/* SPDX-License-Identifier: Apache-2.0 */
/* unsure_late.h — STORE/.cdmfs/late: files that a power cut left unsure and that were settled without all neighbours (unsure.h), and which nodes were
 * asked about them. It is replaced as a whole, so that a crash leaves the one before; one that is damaged counts as none. Loop thread. */
#ifndef REPLICATOR_UNSURE_LATE_H
#define REPLICATOR_UNSURE_LATE_H

#include <stdint.h>
#include "common/error.h"
#include "replicator/data_frames.h"

#define LATE_ASKED_MAX 1024 /* the oldest goes, and is asked again */

struct late {
	uint32_t asked[LATE_ASKED_MAX]; /* numbers of nodes */
	size_t asked_count;
	struct bytes paths;             /* each with its NUL */
};
void late_fini(struct late *l);
void late_add_asked(struct late *l, uint32_t number);
bool late_was_asked(const struct late *l, uint32_t number);
void late_add_path(struct late *l, const char *path, size_t len);
/* The next one, from *at = 0 on; NULL: the end. Borrowed. */
const char *late_next_path(const struct late *l, size_t *at);

/* 1; 0: there is none; -errno. *ret is empty before. */
int late_read(int store_fd, struct late *ret, struct cdm_error *err);
/* 0 or -errno. Without a path the file goes. */
int late_write(int store_fd, const struct late *l, struct cdm_error *err);

#endif
