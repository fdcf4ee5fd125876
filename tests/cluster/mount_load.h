/* SPDX-License-Identifier: Apache-2.0 */
/* mount_load.h — programs at work on one mount, for tests that kill its processes meanwhile: readers that compare hashes, editors, appenders, writers
 * of mappings, listers, walks through all kinds of changes, holders of locks, users of removed files, and one that measures how long a call takes.
 *
 * Each is a process of its own and ends at the first call that fails or result that is wrong. Called from the test's thread; asserts of cmocka. */
#ifndef MOUNT_LOAD_H
#define MOUNT_LOAD_H

#include "tests/cluster/mount_fixture.h"

/* After the mount is there, once: the files that are served and listed. */
void load_prepare(struct fixture *f);
/* pace_ms: how long each program rests after a round; 0 = not at all. */
void load_start(int pace_ms);
/* Fails the test with `when` if a program has found something wrong. */
void load_look(const char *when);
/* Until every program has come further: all of them got over it. */
void load_wait_for_progress(void);
/* Stop them; the test fails unless all were content and the files hold what they wrote: nothing lost, doubled or torn. */
void load_finish(void);
/* Whatever runs still is killed (after a failed test). */
void load_end(void);
/* Removes what they made, for the next run. */
int load_clean(void);
/* Does the file at `path` hold what the writer of mappings left? */
void load_check_map(const char *path);

/* The longest call of the measuring program from pause_begin on until two more calls were answered after pause_end was called; nanoseconds. */
void load_pause_begin(void);
int64_t load_pause_end(void);

#endif
