/* SPDX-License-Identifier: Apache-2.0 */
/* nth.h — the Nth system call of a program of the running lab fails (tests/fault/nth_call.h). */
#ifndef NTH_H
#define NTH_H

#include "tests/cluster/story.h"
#include "tests/fault/nth_call.h"

/* All programs that are started from now on can be made to fail: before STORIES. */
void nth_prepare(void);
void nth_forget(void); /* after it */

/* This program's Nth call of the kind fails, once or each from then on; NTH_SHORT as errno. Also in a process that is started later. */
void nth_armed(const char *node, enum lab_program program, enum nth_kind kind, int number, unsigned long nth, bool for_good);
/* Each of this program's calls of the kind (NTH_READ, NTH_WRITE, NTH_LOOK, …) on an open file or directory of this name fails from now on. */
void nth_armed_on(const char *node, enum lab_program program, enum nth_kind kind, int number, const char *name);
/* Of these calls the Nth and the one after it fail. */
void nth_armed_twice(const char *node, enum lab_program program, enum nth_kind kind, int number, unsigned long nth, const char *name);
/* Nothing fails any more; how many calls of that kind there were. */
unsigned long nth_disarmed(void);
/* What was seen of it. */
extern struct nth_control *nth_control;

#endif
