/* SPDX-License-Identifier: Apache-2.0 */
/* node.h — what one running replicator is: its loop, configuration, identity, held routes, links and sets.
 * Everything here belongs to the loop thread. */
#ifndef REPLICATOR_NODE_H
#define REPLICATOR_NODE_H

#include <jansson.h>
#include "common/conf.h"
#include "common/loop.h"
#include "common/vector.h"

struct link;
struct set;
struct master_link;

struct member { /* a node that may exchange a set, from routes.json */
	char *name, *addr, *group, *region;
	uint32_t number;
	enum cdm_role role;
	bool drained;
};

struct route { /* the held table of one set */
	char *set;
	uint64_t epoch;
	char *parent;          /* NULL: we are the root */
	char **alternates; size_t alternate_count;
	char **children; size_t child_count;
	struct member *members; size_t member_count;
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
};
struct set *node_set(struct node *node, const char *name);

#endif
