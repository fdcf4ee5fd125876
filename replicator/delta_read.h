/* SPDX-License-Identifier: Apache-2.0 */
/* delta_read.h — reading a file for signing, searching and applying: data as it is, holes without reading them. Any thread. */
#ifndef REPLICATOR_DELTA_READ_H
#define REPLICATOR_DELTA_READ_H

#include "replicator/delta.h"

#define DELTA_CHUNK (256u << 10) /* read at once: what was read is worked on while it is in the processor's cache */

/* Is there data (1) or a hole (0) at `at`, and up to where (*ret_end, beyond `at`, at most end)? -errno. */
int delta_part(int fd, uint64_t at, uint64_t end, uint64_t *ret_end);
/* pread all, past the page cache if it is not there; -ESTALE when the file is shorter. */
int delta_pread(int fd, void *buf, size_t len, uint64_t offset, struct cdm_error *err);
/* fd's [from, to) to the signer. */
int delta_feed(int fd, uint64_t from, uint64_t to, struct delta_signer *s, struct cdm_error *err);

#endif
