/* SPDX-License-Identifier: Apache-2.0 */
/* save.h — when written content counts as saved (docs/internals.md 2 "SAVE"). One thread listens to the watcher and the clock.
 *
 * A file is saved when its last writer has closed it, when the kernel forgets it, when it was changed by path and the watcher finds no
 * writer, and at the end of the mount. */
#ifndef CDMFS_SAVE_H
#define CDMFS_SAVE_H

#include "cdmfs/fs.h"

int saver_start(struct fs *fs, struct cdm_error *err);
/* Stops the thread after it took what the watcher has sent. final: the mount has ended, everything unsaved is saved. */
void saver_stop(struct fs *fs, bool final);

/* A file has unsaved content now: have it looked at when no close is seen. by_path: it was not changed through an open descriptor. */
void saver_expect(struct fs *fs, uint64_t id, bool by_path);
/* The store's end was not where the kernel thought: tell it, after the request in hand is answered. */
void saver_invalidate(struct fs *fs, uint64_t id, uint64_t offset);
/* The same for all that the kernel keeps of a node, content or directory; waits until that is on its way, at most a few seconds. Not for
 * threads that hold a lock. */
void saver_invalidate_all(struct fs *fs, uint64_t id);
/* A name came out of local or excluded names: append SAVE or MKDIR (NEW, WHOLE) for it and everything below, then forget the note
 * (publish.h). */
void saver_publish_tree(struct fs *fs, const char *path, size_t len, uint64_t note);

/* What lies at this path, with all below it, becomes new versions of this node: it comes to be again where it was removed. Recorded when this
 * returns. -EROFS on a pure target. */
int saver_renew_tree(struct fs *fs, const char *path, size_t len);

/* Is something at, below or above this path still to be told in that way? Until then a rename of it would speak of a name that nobody knows. */
bool saver_is_publishing(struct fs *fs, const char *path, size_t len);
/* Wait until it is told; false: the server ends before that. The caller holds no lock. */
bool saver_wait_published(struct fs *fs, const char *path, size_t len);
/* fs->ending was set. */
void saver_wake_waiters(struct fs *fs);

/* Append SAVE if the node has unsaved content and a name. Takes the locks it needs; the caller holds none. looked_ns: when it was
 * looked for writers, 0 = no matter. */
void save_node(struct fs *fs, uint64_t id, int64_t looked_ns);
/* The same for a caller that holds fs->tree and the node's lock. 1: saved; 0: nothing to save; -errno. */
int save_node_locked(struct fs *fs, uint64_t id, char *path_buf);
/* `path` is another name of a file that was recorded so under `first` (both end with NUL). 0; -ENOENT: it is no more; -ESTALE: that one is not, so this
 * name is to be told of by itself. */
int save_found_link(struct fs *fs, const struct object *o, const char *first, size_t first_len, const char *path, size_t len);
/* Record what lies at this path once more, under the version that it has: whoever lacks it gets it. A file that is being written is left to its
 * SAVE. -EROFS on a pure target. */
int save_again(struct fs *fs, const char *path, size_t len);
/* A SAVE, MKDIR, SYMLINK or MKNOD of what lies at this path now, as a new version (CDM_CH_WHOLE and `flags`); puts that version into the
 * stamp. For names nobody recorded as they came to be. dirfd/name: where it lies. known: NULL, or by the start-up check, what the journal
 * knows: then the version is dated by the stamp that was found, so that it never wins over what others have whole. */
int save_found(struct fs *fs, int dirfd, const char *name, const char *path, size_t len, uint32_t flags, const struct cdm_vector *known);

#endif
