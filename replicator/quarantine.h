/* SPDX-License-Identifier: Apache-2.0 */
/* quarantine.h — paths whose received change could not be applied here and was set aside, so that the others could go on, and paths whose
 * content could not be read here for the others (`unread`: unreadable.c). A path leaves the list when a later change of its content or name could be
 * applied, when it could be read, when the name goes, or when trees were compared and it was not set aside again. Bounded; each entry was logged. Outlives the program in
 * STORE/.cdmfs/quarantine: a line per path, its bytes in hexadecimal, "r" if it is an unread one, a blank, the reason.
 * add, resolve… and load: the applier; the others: any thread. */
#ifndef REPLICATOR_QUARANTINE_H
#define REPLICATOR_QUARANTINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct quarantine;
struct quarantine *quarantine_new(void);
/* Take up what an earlier run left, and keep the file from now on; again: nothing. store_fd is borrowed. How many. */
size_t quarantine_load(struct quarantine *q, int store_fd);
void quarantine_free(struct quarantine **q);
void quarantine_add(struct quarantine *q, const char *path, size_t len, const char *reason);
void quarantine_add_unread(struct quarantine *q, const char *path, size_t len, const char *reason);
void quarantine_resolve(struct quarantine *q, const char *path, size_t len); /* it could be applied now */
void quarantine_resolve_below(struct quarantine *q, const char *path, size_t len); /* it, and what was below it, is gone */
/* How many were added so far. compared: trees were, with one that lacks nothing, and all that differed was tried again since there were so many:
 * what was added before is not lacking any more. */
uint64_t quarantine_number(struct quarantine *q);
void quarantine_compared(struct quarantine *q, uint64_t number);
bool quarantine_has(struct quarantine *q, const char *path, size_t len);
size_t quarantine_count_aside(struct quarantine *q, const char *path, size_t len); /* it, and what is below it, "" = all; not the unread ones */
bool quarantine_has_below(struct quarantine *q, const char *path, size_t len);
/* The list ran over, so that any path may have been on it (also told by the file, a line "+"), until trees are compared. */
bool quarantine_ran_over(struct quarantine *q);
bool quarantine_may_have_below(struct quarantine *q, const char *path, size_t len);
bool quarantine_has_unread(struct quarantine *q, const char *path, size_t len); /* it, or what is below it */
typedef void quarantine_fn(void *arg, const char *path, size_t len);
void quarantine_each_unread(struct quarantine *q, quarantine_fn *fn, void *arg); /* fn: under the list's lock */
struct set_aside { /* borrowed */
	const char *path;
	size_t len;
	const char *reason;
	bool unread;
};
void quarantine_each(struct quarantine *q, void (*fn)(void *arg, const struct set_aside *entry), void *arg); /* fn: under the list's lock */
/* Somebody decided that it is not waited for. It is lacking here all the same, so no missing name is taken for a removal any more (may_have_below). The applier. */
void quarantine_give_up(struct quarantine *q, const char *path, size_t len);
bool quarantine_find(struct quarantine *q, const char *path, size_t len, char *reason, size_t room);
/* How many; with one or more a sentence about them. */
size_t quarantine_describe(struct quarantine *q, char *out, size_t room);

#endif
