/* SPDX-License-Identifier: Apache-2.0 */
/* content.h — reading one object of the store for shipping: opened by handle, checked by its stamp before and after, cut
 * into pieces, holes left out. Nothing here blocks on more than a stat: reading the pieces is the caller's (io_uring). */
#ifndef REPLICATOR_CONTENT_H
#define REPLICATOR_CONTENT_H

#include <sys/stat.h>
#include <xxhash.h>
#include "replicator/data_frames.h"
#include "replicator/delta.h"
#include "replicator/fold.h"

struct content {
	int fd;
	struct carried carried;      /* change borrowed from the item; names, stamp, attributes, xattrs filled */
	struct bytes xattr_bytes;    /* what carried.xattrs points into */
	char user[FRAME_OWNER_MAX + 1], group[FRAME_OWNER_MAX + 1]; /* what carried.user and .group are */
	struct cdm_range *extents;   /* what is to be sent, sorted */
	size_t extent_count, extent_at;
	uint64_t extent_done;        /* bytes of the current extent already handed out */
	XXH3_state_t *hash;
	struct bytes pieces;         /* of an inline content: as they go into its CHANGE */
	unsigned references;
};

/* Open what the item names by its handle. 0; -ESTALE: it is gone; -EAGAIN: it has another version by now (it will be saved
 * again); else -errno with err. For SAVE a regular file, for others only the attributes. */
int content_open(int store_fd, const struct item *item, struct content **ret, struct cdm_error *err);
void content_close(struct content **c);
/* One more reference to what was read completely (pieces, digest): the file is closed, and not looked at again. */
struct content *content_share(struct content *c);
/* An open, or a read of so many bytes, gave this: is it to be done again at once? Not more than some times. */
bool content_again(int result, uint32_t wanted, unsigned *tries);

/* Send only what these copies (sorted, disjoint) leave, instead of the whole. */
void content_leave_out(struct content *c, const struct delta_copies *copies);

/* Next piece to read: 1 and where, 0 at the end. */
int content_next(struct content *c, uint64_t *ret_offset, uint32_t *ret_len);
/* Account for a piece that was read (and will be sent), in order. */
void content_hashed(struct content *c, uint64_t offset, const void *data, uint32_t len);
void content_digest(struct content *c, uint8_t ret[16]);
/* Was what was read of this file, since it had this version, of that version all the time? 0 yes, -EAGAIN no, else -errno: its stamp cannot be read;
 * 1: an operation on it is under way, its record in the journal will tell. reader (any of the set's; NULL: nobody writes) and file are borrowed. */
struct cdm_journal_reader;
int content_verdict(struct cdm_journal_reader *reader, const struct cdm_handle *handle, int fd, struct cdm_dot version);
/* Does this open file have this content version? */
bool content_has_version(int fd, struct cdm_dot version);

/* The hash both ends make of pieces: XXH3-128 over offset (le64) and bytes of each. */
void content_hash_piece(XXH3_state_t *hash, uint64_t offset, const void *data, uint32_t len);

/* Is this extended attribute one that replicates? */
bool content_xattr_replicates(const char *name);
/* Names of a user/group here, "" if it has none; cached, and good until the thread's next call. */
const char *content_user_name(uint32_t uid);
const char *content_group_name(uint32_t gid);

#endif
