/* SPDX-License-Identifier: Apache-2.0 */
/* view.h — what is known of a set, put into JSON for people and programs: the control socket's status and the agent's report.
 * Loop thread only. */
#ifndef REPLICATOR_VIEW_H
#define REPLICATOR_VIEW_H

#include "replicator/state.h"

/* Status words of a node in a set (internals.md 5). */
struct view_node {
	const char *state;       /* source, in sync, behind, paused, resync, down, drained */
	char reason_code[32], reason[300];
	double lag_s;
	uint64_t pending_changes, pending_bytes;
	bool in_sync;
	int64_t proven_s;          /* by a scrub (scrub.h); 0: not, or not known */
	char proven_with[64];
};
void view_of(struct set *set, const struct peer_state *p, struct view_node *ret);
/* Does it count for "in sync" and for waiting: a target that is not drained. */
bool view_counts(const struct peer_state *p);

json_t *view_status(struct node *node, struct set *set); /* internals.md 5 "status", without "open" and "end" */
/* What went over links of each class: {"group":{"offered_bytes","raw_bytes" (after deltas),"compressed_bytes","wire_bytes","saved_bytes"},…} */
json_t *view_sections(struct node *node);
/* What the changes of the set with these statistics would have needed with all content, what was put into frames of it, and all that was sent for it. */
json_t *view_cost(json_t *stats);
json_t *view_own(struct node *node, struct set *set);    /* internals.md 4: one element of an agent's "status" */
/* A version as people read it: "n1:88" (vector.h); of a node that the route does not name any more "2.1:88". "" for none. */
json_t *view_version(struct node *node, struct set *set, struct cdm_dot dot);
/* "path": readable; with "path_hex" (two digits per byte) when it is not UTF-8. */
void view_put_path(json_t *object, const char *path, size_t len);
char *view_hex(const char *bytes, size_t len); /* the caller frees */
/* Any bytes as a JSON string: what is not UTF-8 is shown as \xNN. Never NULL. */
json_t *view_text(const char *bytes);

#endif
