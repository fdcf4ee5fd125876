/* SPDX-License-Identifier: Apache-2.0 */
/* unreadable.h — between unreadable.c, which remembers what could not be read, and unreadable_try.c, which tries it again. Loop thread. */
#ifndef REPLICATOR_UNREADABLE_H
#define REPLICATOR_UNREADABLE_H

#include "replicator/set_internal.h"

enum tried {
	TRIED_IN_VAIN,  /* it cannot be read yet, or not be recorded now */
	TRIED_GONE,     /* there is no such name any more, or it is nobody else's business */
	TRIED_RECORDED, /* it was read, and is a change of this node now: it ships */
	TRIED_LINKED,   /* likewise; it has other names, too, which the others may have as files of their own, or is a directory that they may have without
			 * its attributes: only comparing trees mends that */
	TRIED_COMPARE,  /* it can be read, and this node makes no changes: those that it feeds find out by comparing trees */
};

/* Read what lies there as for shipping, behind other work of the walker; where that works record it again. Then unreadable_tried, not if the
 * set ends before. One at a time. */
void unreadable_try(struct set *s, const char *path, size_t len);
void unreadable_tried(struct set *s, const char *path, size_t len, enum tried tried);

#endif
