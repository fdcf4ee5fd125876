/* SPDX-License-Identifier: Apache-2.0 */
/* mount_fixture.h — one node's mount with the real `cdmfs`, without master and replicator: a store on a journaled ext4 in a loop
 * device, node.conf, identity.json and routes.json written by hand.
 *
 * Everything runs in a pid and mount namespace of its own. When the test program ends, however it ends, the kernel ends all its
 * processes and mounts; then the directory is removed. One thread; asserts of cmocka on anything unexpected. */
#ifndef MOUNT_FIXTURE_H
#define MOUNT_FIXTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "common/journal.h"

#define FIXTURE_SET "www"
#define FIXTURE_DEADLINE_MS 20000

struct fixture {
	char dir[64];         /* scratch; removed at the end */
	char disk[96];        /* the ext4: holds store/ and native/ */
	char store[128], native[128];
	char mnt[96], run[96], state[96], conf[96], log[96];
	char full[128];       /* RUN/SET/full */
	const char *set;      /* the name given to cdmfs; FIXTURE_SET */
	pid_t holder;         /* 0: not mounted */
};

/* Run `body` (a cmocka group) inside fresh namespaces, with a fixture's directory made. Returns the exit status for main:
 * 77 with a reason on stderr when this machine cannot run it. ONLY=name runs only that test. */
int fixture_main(int (*body)(struct fixture *f));

/* Start `cdmfs` in the foreground with extra arguments (NULL-terminated, may be NULL) and wait until it is mounted. */
void fixture_mount(struct fixture *f, const char *const *extra);
/* SIGTERM, wait for the end; returns its exit status. */
int fixture_unmount(struct fixture *f);
/* Run `cdmfs` with these arguments after SET; waits; returns the exit status, *out (size room) has what it said on stderr. */
int fixture_cdmfs(struct fixture *f, const char *const *args, char *out, size_t room);

/* policy: the members of the set's object in routes.json, e.g. "\"role\":\"target\",\"local\":[\"cache/" "**\"]". NULL removes the file. */
void fixture_policy(struct fixture *f, const char *policy);

/* Pids from RUN/SET/pids: "holder", "server", "watcher"; 0 = none. */
pid_t fixture_pid(struct fixture *f, const char *which);
/* kill -9 and wait until another process has taken its place. */
void fixture_kill(struct fixture *f, const char *which);
/* How many files have content that is not saved yet (at most 100 are counted). */
size_t fixture_unsaved(struct fixture *f);

/* Poll cond(arg) until true; fails the test with `what` after the deadline. */
void fixture_wait(const char *what, bool (*cond)(void *arg), void *arg);
/* Run a program (argv NULL-terminated, found by PATH) in directory cwd; output goes to the test's own; returns the exit status, 127 = not there. */
int run_program(const char *cwd, const char *const *argv);
bool program_exists(const char *name);

/* A checkpoint, as the replicator makes one: all that is applied now is on the disk, and the journal says so. */
void fixture_mark(struct fixture *f);

/* The journal as a reader sees it. position: where to start (0 = the oldest). Calls `each` for every settled record up to a BARRIER
 * that this makes first (so that all closes up to now have their SAVE). Returns the position after it. */
uint64_t fixture_journal_read(struct fixture *f, uint64_t position, void (*each)(const struct cdm_change *c, void *arg), void *arg);

/* Whole small file written or read through plain system calls; asserts success. read: NUL added, the caller frees. */
void put_file(const char *path, const void *bytes, size_t len);
char *get_file(const char *path, size_t *ret_len);

#endif
