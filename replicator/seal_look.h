/* SPDX-License-Identifier: Apache-2.0 */
/* seal_look.h — what is at these names now, as a seal tells it: attributes and links by the scrub's thread at once, contents as scrub_read.h reads
 * them, behind everything else. For the author, who signs what is found, and for those who compare it with what he signed. Loop thread. */
#ifndef REPLICATOR_SEAL_LOOK_H
#define REPLICATOR_SEAL_LOOK_H

#include "replicator/scrub_read.h"
#include "replicator/seal_codec.h"

enum look_found {
	LOOK_UNSURE,  /* it cannot be told now (it is being changed, cannot be read, is left out here) */
	LOOK_NOTHING, /* there is no such name */
	LOOK_THERE,
};
struct looked {
	char *path; /* owned */
	size_t len;
	bool contents;       /* is the content of a file to be read … */
	struct cdm_dot only; /* … and only if it is of this version; none: of any */
	enum look_found found;
	bool read;           /* the file's content was */
	struct sealed is;    /* path and owner borrowed from here */
	char user[FRAME_OWNER_MAX + 1], group[FRAME_OWNER_MAX + 1];
};
struct look {
	struct looked names[SEAL_NAMES_MAX];
	size_t count;
	/* seal_look.c */
	struct set *set;
	struct scrub_read *reading;
	enum scrub_purpose why;
	bool called, dropped;
	void (*done)(void *arg, struct look *look);
	void *arg;
	struct looked *file_of[SCRUB_FILES_MAX]; /* whose content the n-th file that is read is */
};

struct look *look_new(struct set *s);
/* NULL: full. */
struct looked *look_add(struct look *look, const char *path, size_t len);
/* Takes look; done(arg, look) takes it back. Not at once. why: READ_SEALED or READ_TO_SEAL. */
void look_begin(struct look *look, struct scrub_reader *reader, enum scrub_purpose why, void (*done)(void *arg, struct look *look), void *arg);
/* At any time; done is not called any more. NULL is fine. */
void look_drop(struct look **look);

#endif
