/* SPDX-License-Identifier: Apache-2.0 */
/* quarantine.h — paths whose received change could not be applied here and was set aside, so that the others could go on. A path
 * leaves the list when a later change of it could be applied, or when the name goes. Bounded; each entry was logged. Outlives the program in
 * STORE/.cdmfs/quarantine: a line per path, its bytes in hexadecimal, a blank, the reason.
 * add, resolve… and load: the applier; the others: any thread. */
#ifndef REPLICATOR_QUARANTINE_H
#define REPLICATOR_QUARANTINE_H

#include <stdbool.h>
#include <stddef.h>

struct quarantine;
struct quarantine *quarantine_new(void);
/* Once: take up what an earlier run left, and keep the file from now on. store_fd is borrowed. How many. */
size_t quarantine_load(struct quarantine *q, int store_fd);
void quarantine_free(struct quarantine **q);
void quarantine_add(struct quarantine *q, const char *path, size_t len, const char *reason);
void quarantine_resolve(struct quarantine *q, const char *path, size_t len); /* it could be applied now */
void quarantine_resolve_below(struct quarantine *q, const char *path, size_t len); /* it, and what was below it, is gone */
bool quarantine_has_below(struct quarantine *q, const char *path, size_t len);
bool quarantine_find(struct quarantine *q, const char *path, size_t len, char *reason, size_t room);
/* How many; with one or more a sentence about them. */
size_t quarantine_describe(struct quarantine *q, char *out, size_t room);

#endif
