/* SPDX-License-Identifier: Apache-2.0 */
/* publish.h — a name that came out of local or excluded ones is new to the others, and so is everything below it. The saver tells them
 * (saver_publish_tree); that may take long, so the note of it lies in RUN/SET/publish and outlives the server.
 *
 * Made before the rename is done, forgotten when it failed or when all is told. A note without its rename (the server died in between)
 * tells the others again what they have: no harm. */
#ifndef CDMFS_PUBLISH_H
#define CDMFS_PUBLISH_H

#include "cdmfs/fs.h"

/* 0, or -errno: then the rename must not be done. *ret_note is never 0. */
int publish_note(struct fs *fs, const char *path, size_t len, uint64_t *ret_note);
void publish_forget(struct fs *fs, uint64_t note); /* 0: nothing */
/* At start: what a server before has not told is given to the saver. */
void publish_resume(struct fs *fs);

#endif
