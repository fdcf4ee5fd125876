/* SPDX-License-Identifier: Apache-2.0 */
/* session.h — speaking the kernel's FUSE protocol on an inherited /dev/fuse descriptor.
 *
 * The protocol is spoken directly (linux/fuse.h), for what the mount rests on is not reachable through libfuse 3.14: HANDLE_KILLPRIV_V2,
 * the flag of SETXATTR that clears setgid, TMPFILE, the request number, and answering after the locks are released. */
#ifndef CDMFS_SESSION_H
#define CDMFS_SESSION_H

#include "cdmfs/fs.h"

/* First start: read INIT from the device, keep it in RUN/SET/init, answer it. 0, -ENODEV (unmounted), -errno. */
int session_init(struct fs *fs, struct cdm_error *err);
/* After another server: check that the saved INIT is one we would answer the same way, then ask the kernel to send again what was not
 * answered. */
int session_resume(struct fs *fs, struct cdm_error *err);
/* Answer requests until fs->ending or the mount is gone. The body of a worker thread. */
void session_serve(struct worker *w);
/* Tell the kernel that a node's attributes are not what it knows. -ENOENT: it does not know the node. (Pages: saver_invalidate.) */
int session_invalidate(struct fs *fs, uint64_t id);
/* What it knows of this name (also that it is not there). The caller holds no lock. */
void session_invalidate_name(struct fs *fs, uint64_t parent, const char *name);

#endif
