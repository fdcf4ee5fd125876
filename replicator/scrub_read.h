/* SPDX-License-Identifier: Apache-2.0 */
/* scrub_read.h — contents of the store read for their digests, behind everybody else: one thread per set with the lowest
 * priorities, a bound on the bytes a second (`scrub` in node.conf) that is an eighth while changes of the set come or go, but for seals. What
 * this node compares and what its neighbours ask for share that; it is read in steps of a few MiB, in turn. A digest counts only
 * if the file was of one version, and nobody at work on it, all the while. Loop thread, except where said. */
#ifndef REPLICATOR_SCRUB_READ_H
#define REPLICATOR_SCRUB_READ_H

#include "replicator/blocks.h"
#include "replicator/scrub_frames.h"
#include "replicator/set_internal.h"

struct scrub_file {
	char *path;
	size_t len;
	struct cdm_dot version; /* as in struct scrub_question */
	uint64_t size;
	int64_t mtime_ns;
	uint8_t found;          /* enum scrub_found, when it was read */
	uint8_t digest[16];
	uint8_t sha[BLOCK_SHA]; /* READ_SEALED, READ_TO_SEAL, or where is_sealed */
	bool is_sealed;         /* READ_IN_DOUBT: its author signed that it is this */
	uint8_t sealed[BLOCK_SHA];
	int fd;                 /* while it is read, -1 = not open */
	struct cdm_handle handle;
};
struct scrub_files {
	struct scrub_file files[SCRUB_FILES_MAX];
	size_t count, path_bytes;
	uint64_t bytes;         /* of content, as the names' listing said */
};
struct scrub_files *scrub_files_new(void);
void scrub_files_free(struct scrub_files *files); /* NULL is fine */
/* False: full. */
bool scrub_files_add(struct scrub_files *files, const struct scrub_question *q);
struct scrub_question scrub_file_question(const struct scrub_file *f); /* borrows the path */

struct scrub_reader;
struct scrub_reader *scrub_reader_new(struct set *s); /* NULL: no thread can be had */
void scrub_reader_stop(struct scrub_reader *r);       /* nothing is called back any more; waits for the step at work */
void scrub_reader_free(struct scrub_reader **r);      /* when no message of a worker is to come */
/* A short blocking call (a small file of state), by the same thread. */
void scrub_reader_call(struct scrub_reader *r, cdm_loop_fn *work, cdm_loop_fn *done, void *arg);

enum scrub_purpose {
	READ_TO_COMPARE,
	READ_IN_DOUBT, /* what its author signed (seal.h), or this node sent and has the signature of (deltas.h), is compared with that: SCRUB_AS_SENT
			* or SCRUB_BAD */
	READ_SEALED,  /* with its SHA-256 */
	READ_TO_SEAL, /* likewise; what is not as this node sent it is SCRUB_BAD: what rotted since is not to be signed */
};
struct scrub_read;
typedef void scrub_read_fn(void *arg, struct scrub_files *files); /* takes them */
struct scrub_read *scrub_read(struct scrub_reader *r, struct scrub_files *files, enum scrub_purpose why, scrub_read_fn *done, void *arg); /* takes files */
void scrub_read_cancel(struct scrub_read **read);
/* Worker. The digest of one content; size: how much of it there must be. 0 or -errno. */
int scrub_digest(int fd, uint64_t size, uint8_t ret[16]);

#endif
