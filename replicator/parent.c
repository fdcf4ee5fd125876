/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/route.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "common/log.h"
#include "replicator/master_link.h"
#include "replicator/ring.h"
#include "replicator/set.h"
#include "replicator/state.h"

#define PATIENCE_MS 2000       /* without the set on the parent of now: try the next */
#define SLOWER_MAX 5            /* 2^5 times that at most */
#define REFUSED_RETRY_MS 500
#define REFUSED_MEMORY_MS 10000 /* a parent that refused the set, or was stuck, is not gone back to before this */

static void parent_step(struct held *h);

static const char *candidate(const struct held *h, size_t at)
{
	if (at == 0)
		return h->route.parent;
	return at <= h->route.alternate_count ? h->route.alternates[at - 1] : NULL;
}

const char *parent_now(const struct held *h)
{
	return candidate(h, h->at);
}

const char *parent_why(const struct held *h)
{
	return h->why;
}

void parent_fini(struct held *h)
{
	cdm_timer_cancel(&h->patience);
	cdm_timer_cancel(&h->retry);
	cdm_timer_cancel(&h->back);
}

/* --- what is to be dialled --- */

static void add_wanted(struct wanted **list, size_t *count, const struct held *h, const char *name)
{
	const struct member *m = name ? route_member(&h->route, name) : NULL;
	if (!m || !m->addr || m->number == h->node->id->number)
		return;
	for (size_t i = 0; i < *count; i++)
		if (strcmp((*list)[i].name, name) == 0)
			return;
	struct wanted *grown = realloc(*list, (*count + 1) * sizeof *grown);
	if (!grown)
		abort();
	*list = grown;
	(*list)[(*count)++] = (struct wanted){.name = m->name, .addr = m->addr};
}

static bool is_child(const struct route *r, const char *name)
{
	for (size_t i = 0; i < r->child_count; i++)
		if (strcmp(r->children[i], name) == 0)
			return true;
	return false;
}

/* Whoever feeds us large contents; a child of ours dials us anyway. */
static void add_feeder(struct wanted **list, size_t *count, const struct held *h)
{
	const struct member *m = ring_before(&h->route, h->node->id->number);
	if (m && !is_child(&h->route, m->name))
		add_wanted(list, count, h, m->name);
}

static void want_links(struct node *node)
{
	struct wanted *list = NULL;
	size_t count = 0;
	struct held *h;
	for (size_t i = 0; (h = route_held(node, i)); i++) {
		if (!node_set(node, h->route.set))
			continue;
		add_wanted(&list, &count, h, parent_now(h));
		add_wanted(&list, &count, h, h->route.parent);
		add_feeder(&list, &count, h);
	}
	dialer_want(node, list, count);
	free(list);
}

/* --- choosing --- */

static void choose(struct held *h, size_t at, const char *reason)
{
	h->at = at;
	cdm_timer_cancel(&h->patience);
	cdm_timer_cancel(&h->retry);
	const char *now = parent_now(h);
	cdm_log(parent_changed, cdm_str("set", h->route.set), cdm_str("parent", now ? now : "(none)"), cdm_str("msg", reason));
	master_tell_parent(h->node, h->route.set, now, reason);
	want_links(h->node);
	parent_step(h);
}

/* A parent that takes in nothing itself (its disk is full, its set is not mounted) passes on nothing. */
static bool is_stuck(const struct held *h, const char *name)
{
	struct set *set = node_set(h->node, h->route.set);
	const struct member *m = name ? route_member(&h->route, name) : NULL;
	return set && m && state_is_stuck(h->node, set, m->number);
}

static bool is_carried(const struct held *h)
{
	struct set *set = node_set(h->node, h->route.set);
	struct link *l = parent_now(h) ? link_find_up(h->node, parent_now(h)) : NULL;
	return set && l && link_attaching(l, set) && link_carries(l, set);
}

/* The next one in turn that is not stuck. If all others are: a parent of now that carries the set stays. */
static size_t next_candidate(const struct held *h)
{
	size_t count = h->route.alternate_count + 1;
	for (size_t i = 1; i < count; i++)
		if (!is_stuck(h, candidate(h, (h->at + i) % count)))
			return (h->at + i) % count;
	return is_carried(h) ? h->at : (h->at + 1) % count;
}

static void out_of_patience(void *arg)
{
	struct held *h = arg;
	char reason[512];
	h->patience = NULL;
	const char *now = parent_now(h), *why = h->why[0] ? h->why : dialer_why(h->node, now);
	bool carried = is_carried(h);
	snprintf(reason, sizeof reason, "%s: %s", now, carried ? "takes in nothing itself at present" : why ? why : "cannot be reached");
	size_t next = next_candidate(h);
	if (next == h->at)
		return; /* nobody else; the dialler goes on, and states tell when the parent does */
	if (h->at == 0 && carried)
		h->primary_refused_ms = cdm_now_ms();
	h->changes++;
	choose(h, next, reason);
}

static void retry_now(void *arg)
{
	struct held *h = arg;
	h->retry = NULL;
	parent_step(h);
}

static void back_now(void *arg)
{
	struct held *h = arg;
	h->back = NULL;
	parent_step(h);
}

static bool primary_is_back(struct held *h)
{
	if (h->at == 0 || !h->route.parent || !link_find_up(h->node, h->route.parent))
		return false;
	if (is_stuck(h, h->route.parent))
		h->primary_refused_ms = cdm_now_ms();
	int64_t wait = h->primary_refused_ms ? h->primary_refused_ms + REFUSED_MEMORY_MS - cdm_now_ms() : 0;
	if (wait > 0 && !h->back)
		h->back = cdm_loop_after(h->node->loop, wait, back_now, h);
	return wait <= 0;
}

/* The parent of the table stays linked beside an alternate: what it makes itself goes out, and if it compares trees with us (the root does, for
 * want of a parent), that goes on. It takes in nothing, so there is nothing that would come twice. */
static bool is_kept(const struct held *h, const struct set *set, const struct link *l)
{
	return h->route.parent && strcmp(h->route.parent, link_peer_name(l)) == 0 && link_carries(l, set);
}

static void detach_others(struct held *h, struct set *set, const struct link *keep)
{
	for (size_t i = 0; i < h->node->link_count; i++) {
		struct link *l = h->node->links[i];
		if (l != keep && link_attaching(l, set) && !is_kept(h, set, l))
			link_detach(l, set, "another parent by now");
	}
}

/* Bring one set closer to being carried by its parent of now. */
static void parent_step(struct held *h)
{
	struct set *set = node_set(h->node, h->route.set);
	if (!set || h->node->stopping)
		return;
	if (primary_is_back(h)) {
		choose(h, 0, "the parent of the table can be reached again");
		return;
	}
	const char *now = parent_now(h);
	struct link *l = now ? link_find_up(h->node, now) : NULL;
	detach_others(h, set, l);
	if (!now)
		return;
	if (l && !link_attaching(l, set) && !h->retry)
		link_attach(l, set);
	bool carried = is_carried(h), stuck = is_stuck(h, now);
	if (carried)
		h->why[0] = 0;
	if (carried && !stuck) {
		cdm_timer_cancel(&h->patience);
		h->changes = 0;
	} else if (!h->patience) {
		/* Going round among the stuck and the unreachable is done more and more slowly. */
		int64_t ms = carried ? PATIENCE_MS << (h->changes < SLOWER_MAX ? h->changes : SLOWER_MAX) : PATIENCE_MS;
		h->patience = cdm_loop_after(h->node->loop, ms, out_of_patience, h);
	}
}

void parent_step_all(struct node *node)
{
	struct held *h;
	if (node->stopping)
		return;
	want_links(node);
	for (size_t i = 0; (h = route_held(node, i)); i++)
		parent_step(h);
}

void parent_heard(struct node *node, struct set *set)
{
	struct held *h = node->stopping ? NULL : route_held_find(node, set_name(set));
	if (h)
		parent_step(h);
}

void route_link_up(struct node *node, struct link *l)
{
	struct held *h;
	for (size_t i = 0; (h = route_held(node, i)); i++)
		parent_step(h);
}

void route_link_gone(struct node *node)
{
	struct held *h;
	for (size_t i = 0; (h = route_held(node, i)); i++)
		parent_step(h);
}

void route_set_up(struct node *node, struct set *set, struct link *l)
{
	struct held *h = route_held_find(node, set_name(set));
	if (!h || node->stopping)
		return;
	parent_step(h);
	want_links(node); /* the link to the parent before may be of no use now */
}

void route_set_refused(struct node *node, struct set *set, struct link *l, int errnum, const char *why)
{
	struct held *h = node->stopping ? NULL : route_held_find(node, set_name(set));
	const char *now = h ? parent_now(h) : NULL;
	if (!now || strcmp(now, link_peer_name(l)) != 0)
		return;
	if (strcmp(h->why, why) != 0)
		cdm_log(set_refused, cdm_str("peer", now), cdm_str("set", h->route.set), cdm_str("msg", why));
	snprintf(h->why, sizeof h->why, "%s", why);
	if (h->at == 0)
		h->primary_refused_ms = cdm_now_ms();
	if (!h->retry)
		h->retry = cdm_loop_after(node->loop, REFUSED_RETRY_MS, retry_now, h);
	if (!h->patience)
		h->patience = cdm_loop_after(node->loop, PATIENCE_MS, out_of_patience, h);
}
