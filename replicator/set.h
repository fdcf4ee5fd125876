/* SPDX-License-Identifier: Apache-2.0 */
/* set.h — one set on this node: its journal reader, vectors, peers, what is being shipped and applied.
 * The link layer calls set_link_* and set_frame; the control layer calls the status functions. Loop thread only. */
#ifndef REPLICATOR_SET_H
#define REPLICATOR_SET_H

#include "replicator/link.h"

struct set;
/* Needs the store and RUN; a set that is not mounted yet is fine (state not_mounted; retried by inotify on RUN/SET). */
int set_new(struct node *node, const struct cdm_set_conf *conf, struct set **ret, struct cdm_error *err);
void set_free(struct set **s); /* after its links are down; waits for its workers */
const char *set_name(const struct set *s);
struct node *set_node(const struct set *s); /* it was made for */
/* A new route/policy (borrowed until the next call; one without members when the routes do not name the set). Also pokes the mount to reload its policy. */
void set_route(struct set *s, const struct route *route);
const struct route *set_get_route(const struct set *s);

/* The link carries this set now (both sides said SET_UP; the peer is a member). towards_parent: we chose it as parent. */
void set_link_up(struct set *s, struct link *l, bool towards_parent);
void set_link_down(struct set *s, struct link *l);
/* A frame of type >= 32. 0, or -errno with err: the link is ended with that message. */
int set_frame(struct set *s, struct link *l, enum frame_type type, uint8_t flags, const uint8_t *payload, size_t len,
	struct cdm_error *err);
/* So many bytes of frames went out for this set, as they were sent (compressed, before protection). */
void set_sent(struct set *s, uint64_t bytes);
void set_link_drained(struct set *s, struct link *l); /* its queue fell below LINK_QUEUE_LOW */

struct set_state { /* this node's own state in the set, flooded by state.c */
	struct cdm_vector visible, durable;  /* borrowed, valid until the next loop step */
	char state[16];          /* "ok", "paused", "resync", "not_mounted" */
	char reason_code[32], reason[256];   /* "proven" where nothing else is one (docs/internals.md 5) */
	int64_t proven_s;                    /* the last scrub that found no difference, Unix seconds; 0: none yet … */
	char proven_with[64];                /* … and whom it compared with */
};
void set_get_state(struct set *s, struct set_state *ret);
/* Called by the set whenever set_get_state would answer differently. */
void state_changed(struct set *s);
/* The same at once: for what must be said before a link ends. */
void state_tell_now(struct set *s);
/* What of this node's journal is beyond `vector`: number of changes, their bytes, wall time (ns) of the oldest. Bounded work
 * (a ring of recent changes; beyond it counts are lower bounds from the journal). */
struct set_pending { uint64_t changes, bytes; int64_t oldest_ns; };
/* When the journal would be full at its pace of the last day, in seconds; -1: not known. */
double set_journal_full_s(struct set *s);
void set_pending(struct set *s, const struct cdm_vector *vector, struct set_pending *ret);
/* Run done(arg, upto) once every close before this call has its SAVE in the journal and that was read (barrier of the mount). */
typedef void set_barrier_fn(void *arg, int error, const struct cdm_vector *upto);
void set_barrier(struct set *s, set_barrier_fn *done, void *arg);
/* "why" (internals.md 5) without have and lack. `open`: what is open for writing here (opens.h). ret_carrier: the change that brings the
 * version to others, none if nothing ships. */
json_t *set_why(struct set *s, const char *path, size_t len, const json_t *open, struct cdm_dot *ret_carrier);
json_t *set_stats(struct set *s);
/* Compare the tree in the store with the parent's. done is called once, maybe at once, and takes over an object with "result" (counts; internals.md 4) or
 * "error" and "hint". dry: nothing changes. Else the tree is adopted: now, or by the mount; remove: what only this node has goes. store (may be
 * NULL): the directory that is meant. */
/* Comparisons that wait for a decision (hold.h): [{"id":"H3127","set","peer","removals","names","since_ns","examples":["path"]}]. */
json_t *set_holds(struct set *s);
/* {"result":{"id","set","decision","removals"}} or {"error","hint"}. */
json_t *set_hold_decide(struct set *s, const char *id, bool approve);
typedef void set_adopt_fn(void *arg, json_t *answer);
void set_adopt(struct set *s, const char *store, bool dry, bool remove, set_adopt_fn *done, void *arg);
/* Find what was written to the store past the mount below a path ("" = all; rescan.h), and unless dry take it over or repair it. done: as above. */
void set_rescan(struct set *s, const char *path, size_t len, bool dry, set_adopt_fn *done, void *arg);
/* Compare all contents with a neighbour's, from now on (scrub.h): {"result":{"scrub":"begins|runs","with":"n1"}} or {"error","hint"}. */
json_t *set_scrub(struct set *s);
/* What lies in conflicts/ (kept.c). "list", or with an id: "show"; "take": saved under its path by this node, as by an author, and then removed from there;
 * "drop": removed. dry: only checked. done: {"result":{"conflicts":[{"id","path","version","bytes","kept_s", …}],"count"}} or {"error","hint"}. */
void set_conflicts(struct set *s, const char *action, const char *id, bool dry, set_adopt_fn *done, void *arg);
/* What was set aside (set_aside.c). "list", or with an id: "drop", it is not waited for any more; to try it again is set_rescan's. done: {"result":{"quarantine":
 * [{"id","path","reason","unread"}]}} or {"error","hint"}. */
void set_quarantine(struct set *s, const char *action, const char *id, bool dry, set_adopt_fn *done, void *arg);

#endif
