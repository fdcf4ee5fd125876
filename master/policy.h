/* SPDX-License-Identifier: Apache-2.0 */
/* policy.h — from sets, roles and who is there to routes: computes the trees, stores what changed under a new epoch, and pushes each
 * node its routes.json (docs/internals.md 1) when that changed. Any number of pokes within one turn of the loop cost one run. */
#ifndef MASTER_POLICY_H
#define MASTER_POLICY_H

#include "master/master.h"
#include "master/router.h"

/* Above this many members a document names only the node's neighbours (parent, children, alternates both ways) and all sources. */
#define POLICY_MEMBERS_FULL 500

struct policy_tree { /* one set's current tree; index = node index of the model */
	int64_t set_id;
	int *slot;      /* node index → slot, or -1 */
	int *node;      /* slot → node index */
	struct router_result *out;
	bool *brings;   /* router_brings */
	size_t count;   /* members */
	bool overfull;
};
struct policy *policy_new(struct master *m);
void policy_free(struct policy **p);
void policy_poke(struct policy *p);
void policy_model_changed(struct policy *p);
/* The tree of a set as last computed for the current model; NULL before the first run. */
const struct policy_tree *policy_tree(const struct policy *p, int64_t set_id);
/* A node said hello or asks again: send its document whatever it was sent before. */
void policy_push_to(struct policy *p, uint32_t number);
json_t *policy_routes_json(const struct policy *p, const struct model_set *s);

#endif
