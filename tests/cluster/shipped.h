/* SPDX-License-Identifier: Apache-2.0 */
/* shipped.h — what the other nodes would have: replays the journal's shipped records on a model of a tree (path → version of the
 * content). Compared with the mount it shows whether anything is missing, at the wrong path, or too much. */
#ifndef SHIPPED_H
#define SHIPPED_H

#include "tests/cluster/mount_fixture.h"

#define SHIPPED_MAX 65536

struct shipped_entry {
	char *path;
	mode_t type;
	unsigned file;          /* names of one file share it */
	struct cdm_dot version; /* of a regular file's content */
};
struct shipped {
	struct shipped_entry *entries; /* unordered */
	size_t count;
	unsigned files;
	unsigned saves;                /* SAVE records since shipped_count */
	char last_save[512];           /* path of the last one */
	char wrong[512];               /* first record that does not fit the tree before it, "" = none */
};

/* Replays one record (as `each` of fixture_journal_read). */
void shipped_record(const struct cdm_change *c, void *arg);
void shipped_fini(struct shipped *s);
/* Asserts that the model and the mount hold the same names and versions. Paths for which leave_out() is true are left out on both sides. */
void shipped_assert_equal(const struct shipped *s, struct fixture *f, bool (*leave_out)(const char *path));

#endif
