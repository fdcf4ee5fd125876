/* SPDX-License-Identifier: Apache-2.0 */
/* descriptors.h — a small cache of open descriptors of the store, so that a series of reads, writes or lookups does not open by handle
 * each time. A process may have only so many descriptors: none is kept per inode (design.md 4 "Traps").
 * Threads: any; one mutex inside, not held over system calls. */
#ifndef CDMFS_DESCRIPTORS_H
#define CDMFS_DESCRIPTORS_H

#include <stdint.h>
#include "common/change.h"

#define DESCRIPTORS_MAX 256

enum descriptor_kind { DESCRIPTOR_PATH = 0, DESCRIPTOR_READ = 1, DESCRIPTOR_WRITE = 2 };

struct descriptor {
	int fd;
	/* private */
	uint64_t id;
	enum descriptor_kind kind;
	unsigned refs;
	uint64_t used;
	int dropped;
	struct descriptor *next;
};

struct descriptors;
struct descriptors *descriptors_new(void);
void descriptors_free(struct descriptors **d);

/* Borrow an open descriptor: PATH is O_PATH, READ and WRITE regular files. WRITE is O_RDWR. 0, or -errno of opening (-ESTALE: it is gone). */
int descriptors_get(struct descriptors *d, int store_fd, uint64_t id, const struct cdm_handle *handle, enum descriptor_kind kind,
	struct descriptor **ret);
void descriptors_put(struct descriptors *d, struct descriptor *e);
/* Close what is cached of this node (at its removal, so that its space is freed; at rest, so that the store settles it). */
void descriptors_drop(struct descriptors *d, uint64_t id);

#endif
