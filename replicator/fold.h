/* SPDX-License-Identifier: Apache-2.0 */
/* fold.h — coalescing of what is about to be shipped (design.md 4 "What a save looks like"): several saves of one file become
 * one, a save that is renamed into place becomes a save of the final name, what came and went becomes nothing.
 * Never across a rename or link of the path or of a directory above it, nor across a change of another origin.
 * Changes only move forward (to a later dot of the same origin), and the last one of an origin is never dropped without a
 * SKIP in its place: so a receiver's vector still means what it says. Pure logic over a list; no thread, no state. */
#ifndef REPLICATOR_FOLD_H
#define REPLICATOR_FOLD_H

#include "common/change.h"

struct item { /* one change on its way out */
	struct cdm_change change;  /* points into buf (and buf2) */
	uint8_t *buf, *buf2;
	char *path2_mem;           /* path2 of a save that took it over from another item */
	bool gone;                 /* folded away: freed by the caller */
	int64_t read_ms;           /* when it was read from the journal */
	uint64_t bytes;            /* estimate of its content */
	uint64_t attributes_at;    /* position of the last change of attributes that was folded into it, 0 = none */
	int64_t created_ns;        /* SAVE of a new file: its directory's mtime when the file came to be, 0 = not known */
};

/* A private copy of a change (handle and journal positions too). */
struct item *item_new(const struct cdm_change *c, int64_t now_ms);
void item_free(struct item *item);
bool item_is_whole_save(const struct item *item);
/* Position in the journal of the last record that its content and attributes must have in them. */
uint64_t item_known_from(const struct item *item);

/* Fold items[0 … count), oldest first, none of them gone yet. May be called again with more behind. one_author: nobody else can have made
 * something under the same names meanwhile; else a removal goes out although what it removes never did. */
void fold_items(struct item **items, size_t count, bool one_author);

/* Should the newest item wait for what its program is probably about to do (a rename)? For how many ms since it was read; 0 = no. */
int64_t fold_hold_ms(const struct item *newest);

#endif
