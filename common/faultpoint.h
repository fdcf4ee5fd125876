/* SPDX-License-Identifier: Apache-2.0 */
/* faultpoint.h — named places at which a test can kill the process.
 *
 * cdm_faultpoint("journal.appended_not_synced") costs nothing unless the build has -DCDM_FAULTPOINTS and the
 * environment names a point. Then the process kills itself with SIGKILL at the Nth pass (default: the first) of it:
 *   CDMFS_FAULTPOINT="NAME[:N]"     from the process's start; each new process that inherits it dies, too
 *   CDMFS_FAULTPOINT_FILE=PATH      the file holds "NAME[:N]" and may appear, change or go while the process runs; passes
 *                                   count from then on. It is removed by the process that dies of it: it kills once.
 * With "!" behind it ("NAME!", "NAME:N!") the thread that passes hangs for good instead, with the locks that it holds.
 * While there is a FIFO "PATH.NAME" (the PATH of CDMFS_FAULTPOINT_FILE) each thread that passes NAME waits, with the locks that it holds, until
 * somebody has opened the other end, which says that it is there, and closed it again.
 * Any thread. Names are "module.what_was_done_what_was_not"; each is used at one place only.
 *
 * The Nth system call fails by a library that tests preload (tests/fault/nth_call.h); what is submitted to io_uring is shown to it here. */
#ifndef CDM_FAULTPOINT_H
#define CDM_FAULTPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef CDM_FAULTPOINTS
extern bool cdm_faultpoints_armed; /* one of the two variables is set */
void cdm_faultpoint_pass(const char *name);
#define cdm_faultpoint(name) (__builtin_expect(cdm_faultpoints_armed, 0) ? cdm_faultpoint_pass(name) : (void)0)
/* A clock that is wrong: CDMFS_CLOCK_FILE=PATH in the environment; the file holds by how many seconds, may be negative, may change. No
 * file: not wrong. What the product calls the time of day (cdm_wall_ns, cdm_clock_now) goes by it; what the libraries do does not. */
int64_t cdm_fault_clock_ns(void);
/* A time that a test makes shorter: CDMFS_FAULT_MS="NAME=MS" in the environment, NAME is this one's. Else `ms`. */
int64_t cdm_fault_ms(const char *name, int64_t ms);
/* The preloaded library's `nth_submission`; NULL without it. True: do not submit this, its result is *ret_result. It may make it shorter, too. */
struct io_uring_sqe;
extern bool (*cdm_fault_submission)(struct io_uring_sqe *sqe, int *ret_result);
#define cdm_fault_submit(sqe, ret_result) (__builtin_expect(cdm_fault_submission != NULL, 0) && cdm_fault_submission(sqe, ret_result))
#else
#define cdm_faultpoint(name) ((void)0)
#define cdm_fault_submit(sqe, ret_result) false
#define cdm_fault_ms(name, ms) (ms)
static inline int64_t cdm_fault_clock_ns(void)
{
	return 0;
}
#endif

#endif
