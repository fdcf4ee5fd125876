/* SPDX-License-Identifier: Apache-2.0 */
/* journal_rig.h — a journal in a directory of its own, and the few verbs its tests are told in. */
#ifndef TESTS_JOURNAL_RIG_H
#define TESTS_JOURNAL_RIG_H

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include "common/journal.h"

struct rig {
	char dir[64], run[96], segments[96];
	int dir_fd;
	struct cdm_journal_conf conf;
	struct cdm_journal *j;
	struct cdm_journal_state state; /* of the last open */
	struct cdm_error err;
};

void rig_attach(struct rig *rig, const char *dir); /* one that another process made */
void rig_init(struct rig *rig);  /* 1 MiB tail, 1 MiB segments, node 1, incarnation 1 */
void rig_fini(struct rig *rig);  /* closes and removes everything */
int rig_try_open(struct rig *rig);
void rig_open(struct rig *rig);
void rig_close(struct rig *rig);
/* Run fn in a child that opens the journal, and dies without closing it. */
typedef void rig_fn(struct rig *rig);
void rig_in_dying_child(struct rig *rig, rig_fn *fn);
void rig_lose_tail(struct rig *rig);
/* The writer is dead: what the next one takes from the note RUN/SET/resume is what reading the journal gives. */
void rig_assert_note_is_true(struct rig *rig);
struct cdm_journal_reader *rig_reader(struct rig *rig);

struct cdm_change rig_write_change(const char *path); /* an own WRITE */
uint64_t rig_put(struct rig *rig, unsigned count);    /* so many WRITEs; the last one's number */
/* Read on to the frontier; checks that own numbers come without a gap. Returns the last number; *ret_count counts. */
uint64_t rig_read_numbers(struct cdm_journal_reader *r, uint64_t last, unsigned *ret_count);
/* Open the segment with this number; position → file offset is position - start + 4096. */
int rig_segment_fd(struct rig *rig, unsigned number);
void rig_assert_applied(struct rig *rig, const char *vector);

#endif
