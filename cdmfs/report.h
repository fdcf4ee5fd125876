/* SPDX-License-Identifier: Apache-2.0 */
/* report.h — "ready" or "failed, because …" over a pipe: from a child or helper to the holder, and from a daemonized holder
 * to the process the person started. One report per pipe, one write each, so that one read gets it whole. */
#ifndef CDMFS_REPORT_H
#define CDMFS_REPORT_H

#include "common/error.h"

/* Write the report, close the descriptor, set it to -1. Errors of writing are ignored: then nobody listens any more. */
void report_ready(int *fd);
void report_failed(int *fd, const struct cdm_error *err);

/* Read the report; blocks unless fd is non-blocking and nothing has come.
 * 1: ready; 0: end of file without a report; -EAGAIN: not yet; another -errno: failed, *err says why. */
int report_read(int fd, struct cdm_error *err);

#endif
