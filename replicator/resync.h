/* SPDX-License-Identifier: Apache-2.0 */
/* resync.h — two nodes make their trees equal by comparing them, when journals cannot (design.md 6). The node that lacks
 * something (the receiver) drives: it asks its peer (the sender) for one directory after the other, compares with its own,
 * asks for what differs with NEED, and in the end takes over the vector the sender had when it began. Then the
 * sender's stream goes on from its position at that moment.
 *
 * What is published here is not journaled change by change: a SKIP with CDM_CH_WHOLE per origin marks the place in the receiver's
 * journal; whoever follows that journal and lacks those dots compares trees with the receiver, too.
 * Frames: START (vector, root) s→r; NEED (directory path) r→s; DIR (entries) s→r; OVERTAKEN (names) s→r; END r→s; ASK r→s: begin one (doubt.c). */
#ifndef REPLICATOR_RESYNC_H
#define REPLICATOR_RESYNC_H

#include "replicator/data_frames.h"
#include "replicator/set_internal.h"

enum dir_frame_flags { DIR_LAST = 1, DIR_GONE = 2 };

struct entry { /* of a directory listing; name points into the listing's bytes */
	const char *name;
	size_t name_len;
	uint32_t mode, uid, gid, nlink;
	uint64_t size, rdev, group; /* group: inode number, the same for all names of one file */
	int64_t mtime_ns;
	struct cdm_stamp stamp;     /* content.dot none: never versioned */
	uint64_t extra;             /* hash of xattrs that replicate and of a symlink's target */
	const char *user, *owner_group;
	size_t user_len, owner_group_len;
};
#define LISTING_ENTRIES_MAX 4000000u

struct listing { /* sorted by name, bytewise */
	struct entry *entries;
	size_t count;
	struct bytes bytes; /* names */
};
void listing_free(struct listing *l);
/* Walker thread: a directory of the store; excluded and local paths are left out. 0 or -errno. */
int listing_read(struct set *s, const char *path, size_t len, struct listing *ret);
bool listing_is_gone(int r); /* there is no such directory (any more); every other error says nothing about what is there */
/* The entry of one path itself ("" = the root). */
int entry_read(struct set *s, const char *path, size_t len, struct entry *ret);

void entry_encode(const struct entry *e, struct bytes *out);
/* All entries of one DIR frame; checks order and names against the one before. Appends to l (names copied). 0 or -EBADMSG. */
int listing_decode(const uint8_t *in, size_t len, struct listing *l);
void listing_settle(struct listing *l); /* after the last decode: names are pointers now */

/* resync_receive.c */
struct resync_in;
/* It is not taken: the sender hears that it is over, and its own changes, which are nobody's, count as needing nothing. */
void resync_in_refuse(struct peer *p, const struct cdm_vector *sender);
void resync_in_start(struct peer *p, const struct cdm_vector *sender, uint8_t flags);
int resync_in_dir(struct peer *p, uint8_t flags, const uint8_t *payload, size_t len, struct cdm_error *err);
/* Names that say nothing where they are older there than here, or absent (overtaken.h); right after START. */
int resync_in_overtaken(struct peer *p, const uint8_t *payload, size_t len, struct cdm_error *err);
void resync_in_free(struct resync_in **in);
struct incoming;
void resync_answer(struct peer *p, struct incoming *in); /* receive.c: a ticket with RESYNC_TICKET came */
#define RESYNC_TICKET (1ull << 63)

struct resync { /* both roles of one peer */
	/* sender */
	bool sending;
	uint64_t position;
	struct cdm_vector vector;
	size_t listing;           /* jobs in the walker */
	struct bytes *frames;     /* queued DIR payloads */
	size_t frame_count, frame_at;
	/* receiver */
	struct resync_in *in;
};

#endif
