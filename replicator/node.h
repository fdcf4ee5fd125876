/* SPDX-License-Identifier: Apache-2.0 */
/* node.h — what one running replicator is: its loop, configuration, identity, held routes, links and sets.
 * Everything here belongs to the loop thread. */
#ifndef REPLICATOR_NODE_H
#define REPLICATOR_NODE_H

#include <jansson.h>
#include "common/conf.h"
#include "common/loop.h"
#include "common/vector.h"
#include "replicator/section.h"

struct link;
struct set;
struct master_link;
struct route_table;
struct dialer;
struct listener;
struct state_table;
struct control;
struct opens;
struct renew;
struct feed;
struct ssl_ctx_st;

struct member { /* a node that may exchange a set, from routes.json */
	char *name, *addr, *group, *region;
	uint32_t number;
	enum cdm_role role;
	bool drained;
	bool paused; /* exchanges nothing of this set, by `cdmctl set pause` */
	bool brings; /* changes of others may come upwards from it … */
	int64_t brought_until_ms; /* … or so it was by a table before, and counts until then (route_brings) */
	int64_t wrote_until_ms; /* 0: it had the right to write by no table before, or has it; else its late changes may be elsewhere until then (rights.c) */
};

struct route { /* the held table of one set */
	char *set;
	uint64_t epoch;
	char *parent;          /* NULL: we are the root */
	char **alternates; size_t alternate_count;
	char **children; size_t child_count;
	struct member *members; size_t member_count;
	bool paused;           /* we are, in this set */
	bool neighbours_only;  /* members does not name all of them */
};
const struct member *route_member(const struct route *r, const char *name); /* NULL if none */
const struct member *route_member_number(const struct route *r, uint32_t number);

struct node {
	struct cdm_loop *loop;
	struct cdm_conf *conf;
	struct cdm_identity *id;
	struct set **sets; size_t set_count;
	struct link **links; size_t link_count;
	struct master_link *master;
	struct route_table *routes;   /* route.c */
	struct dialer *dialer;        /* link_dial.c */
	struct listener *listener;    /* link_dial.c */
	struct state_table *states;   /* state.c */
	struct control *control;      /* control.c */
	struct opens *opens;          /* opens.c */
	struct renew *renew;          /* renew.c */
	struct feed *feeds; size_t feed_count; /* feed.c */
	size_t kept_bytes, writing_bytes; /* fetch_pieces.c: of pieces that are written, and still in memory; that are on their way to the disk */
	struct ssl_ctx_st *tls_client, *tls_server;
	uint64_t instance;            /* start of this process, wall clock ns: tells runs apart */
	uint32_t features;            /* WIRE_FEATURES; less where a test plays an older node */
	struct section_cost section_costs[SECTION_CLASSES]; /* links.h: links_account */
	bool stopping;
	struct cdm_conf **old_confs; size_t old_conf_count; /* before SIGHUP: sets may still borrow from them */
};
/* Reads configuration and identity, makes loop-owned parts (not the sets). */
int node_new(const char *config, struct node **ret, struct cdm_error *err);
/* Say goodbye to everybody; the loop stops when all links are gone. Then node_free. */
void node_stop(struct node *node);
void node_link_gone(struct node *node); /* from link.c: one less in links */
void node_free(struct node **node);
/* Sets of the configuration that are not there yet (start, reload). Returns how many could not be started. */
int node_add_sets(struct node *node);
/* Read the configuration again: new sets are added; the rest needs a restart. */
int node_reload(struct node *node, struct cdm_error *err);
struct set *node_set(struct node *node, const char *name);

#endif
