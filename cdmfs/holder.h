/* SPDX-License-Identifier: Apache-2.0 */
/* holder.h — the seam between the holder and its two children, the server and the watcher (docs/internals.md 2).
 *
 * The holder owns what must outlive them: the description of /dev/fuse, both ends of the watch socket, the mounts, the
 * lock of the set. It starts the children by exec of the path it was started as, so that an upgraded program is taken up:
 *
 *   cdmfs --server  --fuse-fd=N --watch-fd=M --ready-fd=K --config=FILE --set=NAME [--resume]
 *   cdmfs --watcher --fuse-fd=N --watch-fd=M --ready-fd=K --config=FILE --set=NAME [--resume]
 *
 * Ready: the child writes one byte (CDM_CHILD_READY) to its ready descriptor when it does its work, and closes it. Before
 * that the server must have answered INIT (first start: the holder has mounted already, INIT waits in the queue) or
 * replayed the saved one and asked for resending (--resume). If it cannot start it reports the error there instead (child_failed)
 * and does not log it: the holder says it where the person looks, also with --daemon. End of file without either: a crash.
 *
 * Signals the holder sends: SERVER_END_SIGNAL to the server: a clean end, whether the mount is still there or not. SIGUSR2 to the server: a
 * polite restart: take no more requests, answer those in work, leave the tail alive, exit with CDM_EXIT_HANDOVER; SIGTERM, which people send, is the
 * same to it, for the mount goes on. SIGTERM to the watcher: pass on what is queued, then exit. None is sent before the child is ready. Children have a session of their own. A child does not end when the holder dies: the next holder takes it over. */
#ifndef CDMFS_HOLDER_H
#define CDMFS_HOLDER_H

#include <signal.h>
#include <stdbool.h>
#include "common/error.h"

#define CDM_CHILD_READY 'R'
#define SERVER_END_SIGNAL SIGRTMIN

/* Exit statuses of the server. Any other end (signal, abort) is a crash: the next one resumes. */
enum cdm_child_exit {
	CDM_EXIT_CLEAN = 0,     /* after SERVER_END_SIGNAL, or the filesystem was unmounted (ENODEV): the journal is closed with CLEAN */
	CDM_EXIT_REFUSED = 1,   /* cannot serve, child_failed said why. At the first start the holder gives up, later it tries again */
	CDM_EXIT_HANDOVER = 75, /* after SIGUSR2, SIGTERM: start the next at once */
};

/* What a child was told on its command line. Parsed by main(); descriptors not given are -1. */
struct child_options {
	int fuse_fd, watch_fd, ready_fd;
	const char *config; /* NULL: the default file */
	const char *set;
	bool resume;        /* this is not the first of its mount: INIT was answered by an earlier one */
};

/* Tell the holder that this child does its work: writes the byte, closes the descriptor, sets it to -1. */
void child_ready(struct child_options *options);

/* Or why it cannot. Returns CDM_EXIT_REFUSED, so that `return child_failed(options, &err)` ends it. Without a ready descriptor the
 * error is logged. */
int child_failed(struct child_options *options, const struct cdm_error *err);

/* The bodies of the children. Return the exit status. server.h declares int server_main(struct child_options *options). */
int watcher_main(struct child_options *options);
int holder_main(int argc, char **argv);

#endif
