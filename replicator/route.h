/* SPDX-License-Identifier: Apache-2.0 */
/* route.h — the held table: what the master last said about our sets (kept in STATE/routes.json, used without the master), and which
 * of a set's possible parents we use now. The parent of the table is used as long as it can be reached and takes changes in itself
 * (state.h); when not for two seconds the alternates are tried in turn and the master is told; when the parent serves again we go back.
 * Loop thread only. */
#ifndef REPLICATOR_ROUTE_H
#define REPLICATOR_ROUTE_H

#include <stdbool.h>
#include "replicator/links.h"

/* route.c */
#define ROUTE_PAUSED "the set is paused (cdmctl set resume)"
/* Loads STATE/routes.json. Without one, or with a damaged one (route_bad is logged), nothing ships until the master has sent it. */
int route_new(struct node *node, struct cdm_error *err);
void route_free(struct node *node);
/* A table from the master: check, store, apply. 0; -EBADMSG (nothing changed); other -errno: applied, but not stored. */
int route_take(struct node *node, const json_t *table, struct cdm_error *err);
uint64_t route_epoch(const struct node *node);
const struct route *route_of(const struct node *node, const char *set); /* NULL if none */
/* The class of the link to a node that shares a set with us, and how links of a class are used now (valid until the next table). */
enum section_class route_section_of(const struct node *node, uint32_t number);
const struct section *route_section(const struct node *node, enum section_class class);
/* May changes that others made come upwards from this member (docs/internals.md 1)? */
bool route_brings(const struct member *m);
bool route_shares_set(const struct node *node, uint32_t number, const char *name);
/* Tell a set that was just made its route. */
void route_apply_set(struct node *node, struct set *set);

/* parent.c */
struct held { /* one set of the table */
	struct node *node;
	struct route route;
	size_t at;                 /* 0: the table's parent, n: alternate n */
	unsigned changes;          /* of parent since one served us */
	int64_t primary_refused_ms; /* when the table's parent last refused the set or was stuck; 0 = never */
	struct cdm_timer *patience; /* running while the parent of now does not carry the set, or is stuck */
	struct cdm_timer *retry;    /* of a refused SET_UP */
	struct cdm_timer *back;     /* to look whether the table's parent may be gone back to */
	char why[256];              /* why the parent of now does not carry it, "" if it does */
};
struct held *route_held(const struct node *node, size_t index); /* NULL past the end */
struct held *route_held_find(const struct node *node, const char *set);
const char *parent_now(const struct held *h); /* NULL: we are the root */
const char *parent_why(const struct held *h);
void parent_fini(struct held *h);
/* Look at all sets again: after a new table, a link that came or went. */
void parent_step_all(struct node *node);
/* Something is known of another node of the set: the parent may have become stuck. */
void parent_heard(struct node *node, struct set *set);
void route_link_up(struct node *node, struct link *l);
void route_link_gone(struct node *node);
void route_set_up(struct node *node, struct set *set, struct link *l);
void route_set_refused(struct node *node, struct set *set, struct link *l, int errnum, const char *why);

#endif
