/* SPDX-License-Identifier: Apache-2.0 */
/* Attaches nodes one by one below what is attached already: the root, one entry node per region, one per group, then their
 * members, leaves last. A node that feeds upper levels keeps a slot for each level below it, so that its own group and region
 * always find a place; with k nodes of capacity >= 1 attached there is at least one free slot, so every healthy node is placed. */
#include "master/router.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum scope { SCOPE_GROUP, SCOPE_REGION, SCOPE_ALL };

struct area { /* a group or a region */
	uint32_t id;
	size_t waiting; /* healthy members that are not attached yet */
	size_t attached; /* healthy ones that are */
	uint64_t capacity_sum; /* of the healthy ones */
	int *feeders;   /* heap of attached members with room, by (depth, order of attaching) */
	size_t feeder_count, feeder_room;
	int *blocked;   /* feeders whose last slots are reserved for now */
	size_t blocked_count, blocked_room;
	uint32_t depth_limit; /* groups: how deep an edge of the last answer may lie and still be kept; 0 = not set yet */
};

struct work {
	const struct router_node *nodes;
	size_t count;
	struct router_result *out;
	bool *attached;
	uint32_t *order;       /* when it was attached */
	uint32_t attach_count;
	int *group_of, *region_of; /* index into groups, regions */
	struct area *groups, *regions;
	size_t group_count, region_count;
	int *group_region;     /* region index of a group */
	size_t *groups_waiting; /* per region: groups without an attached healthy member but with healthy ones */
	struct area all;
	int *hand_first, *hand_next; /* lists of hand-set children */
	int *keep_first, *keep_next; /* lists of children of the same group in the last answer */
	uint32_t *prev_depth;
	bool overfull;
};

static bool is_healthy(const struct router_node *n)
{
	return n->up && !n->drained && n->capacity > 0;
}

/* A hand-set parent counts only while it can feed. */
static bool is_hand_active(const struct work *w, size_t i)
{
	int hand = w->nodes[i].hand;
	return hand != ROUTER_NONE && is_healthy(&w->nodes[hand]);
}

/* --- who comes first among equals ------------------------------------------------------------------------------ */

/* <0: a is the better feeder. */
static int compare_strength(const struct router_node *a, const struct router_node *b)
{
	if (a->capacity != b->capacity)
		return a->capacity > b->capacity ? -1 : 1;
	if (a->throughput != b->throughput)
		return a->throughput > b->throughput ? -1 : 1;
	if (a->rtt_us != b->rtt_us)
		return a->rtt_us && (!b->rtt_us || a->rtt_us < b->rtt_us) ? -1 : 1;
	return a->number < b->number ? -1 : a->number > b->number;
}

static bool feeds_before(const struct work *w, int a, int b)
{
	if (w->out[a].depth != w->out[b].depth)
		return w->out[a].depth < w->out[b].depth;
	return w->order[a] < w->order[b];
}

/* --- heaps of feeders ------------------------------------------------------------------------------------------- */

static int push(int **list, size_t *count, size_t *room, int node)
{
	if (*count == *room) {
		size_t more = *room ? *room * 2 : 8;
		int *grown = realloc(*list, more * sizeof *grown);
		if (!grown)
			return -ENOMEM;
		*list = grown;
		*room = more;
	}
	(*list)[(*count)++] = node;
	return 0;
}

static int area_push(const struct work *w, struct area *a, int node)
{
	int err = push(&a->feeders, &a->feeder_count, &a->feeder_room, node);
	if (err)
		return err;
	size_t i = a->feeder_count - 1;
	while (i > 0 && feeds_before(w, node, a->feeders[(i - 1) / 2])) {
		a->feeders[i] = a->feeders[(i - 1) / 2];
		i = (i - 1) / 2;
	}
	a->feeders[i] = node;
	return 0;
}

static void area_pop(const struct work *w, struct area *a)
{
	int last = a->feeders[--a->feeder_count];
	size_t i = 0;
	for (;;) {
		size_t child = 2 * i + 1;
		if (child >= a->feeder_count)
			break;
		if (child + 1 < a->feeder_count && feeds_before(w, a->feeders[child + 1], a->feeders[child]))
			child++;
		if (feeds_before(w, last, a->feeders[child]))
			break;
		a->feeders[i] = a->feeders[child];
		i = child;
	}
	if (a->feeder_count > 0)
		a->feeders[i] = last;
}

/* --- slots ------------------------------------------------------------------------------------------------------ */

/* How many of its slots a node keeps back for levels below `scope`. */
static uint32_t reserved(const struct work *w, int i, enum scope scope)
{
	uint32_t keep = 0;
	if (scope >= SCOPE_REGION && w->groups[w->group_of[i]].waiting > 0)
		keep++;
	if (scope >= SCOPE_ALL && w->groups_waiting[w->region_of[i]] > 0)
		keep++;
	return keep;
}

static bool has_slot(const struct work *w, int i, enum scope scope)
{
	return w->out[i].children + reserved(w, i, scope) < w->nodes[i].capacity;
}

/* The best feeder of an area with a free slot for `scope`. Full ones leave the heap, those with only reserved slots step
 * aside until area_unblock(). */
static int best_feeder(const struct work *w, struct area *a, enum scope scope)
{
	while (a->feeder_count > 0) {
		int top = a->feeders[0];
		if (has_slot(w, top, scope))
			return top;
		bool full = w->out[top].children >= w->nodes[top].capacity;
		if (!full && push(&a->blocked, &a->blocked_count, &a->blocked_room, top) < 0)
			return ROUTER_NONE;
		area_pop(w, a);
	}
	return ROUTER_NONE;
}

static void area_unblock(const struct work *w, struct area *a)
{
	while (a->blocked_count > 0) /* never grows: the heap had room for it before */
		(void)area_push(w, a, a->blocked[--a->blocked_count]);
}

/* --- attaching -------------------------------------------------------------------------------------------------- */

static int attach_one(struct work *w, int i, int parent)
{
	struct router_result *o = &w->out[i];
	assert(!w->attached[i]);
	w->attached[i] = true;
	w->order[i] = w->attach_count++;
	o->parent = parent;
	o->by_hand = parent != ROUTER_NONE && parent == w->nodes[i].hand;
	if (parent != ROUTER_NONE) {
		o->depth = w->out[parent].depth + 1;
		w->out[parent].children++;
	}
	if (!is_healthy(&w->nodes[i]))
		return 0;
	int g = w->group_of[i], r = w->region_of[i];
	if (w->groups[g].attached++ == 0)
		w->groups_waiting[r]--;
	w->groups[g].waiting--;
	w->regions[r].waiting--;
	w->regions[r].attached++;
	int err = area_push(w, &w->groups[g], i);
	if (!err)
		err = area_push(w, &w->regions[r], i);
	if (!err)
		err = area_push(w, &w->all, i);
	return err;
}

/* How deep a group of this size and strength may reach below its entry: one level more than a full tree needs. */
static uint32_t group_depth(uint32_t entry_depth, uint64_t capacity_sum, size_t healthy)
{
	uint64_t width = capacity_sum / healthy < 2 ? 1 : capacity_sum / healthy, level = 1, holds = 1;
	uint32_t levels = 0;
	while (holds < healthy && levels < healthy) {
		level = level * width;
		holds += level;
		levels++;
	}
	return entry_depth + levels + 1;
}

static void set_depth_limit(struct work *w, int entry)
{
	struct area *g = &w->groups[w->group_of[entry]];
	if (g->depth_limit == 0)
		g->depth_limit = group_depth(w->out[entry].depth, g->capacity_sum, g->waiting + g->attached);
}

/* The next node to hang below `at` at once: a hand-set child, else one it fed before and may go on feeding. */
static int next_follower(struct work *w, int at)
{
	for (int c = w->hand_first[at]; c != ROUTER_NONE; c = w->hand_first[at]) {
		w->hand_first[at] = w->hand_next[c];
		if (!w->attached[c])
			return c;
	}
	for (int c = w->keep_first[at]; c != ROUTER_NONE; c = w->keep_first[at]) {
		w->keep_first[at] = w->keep_next[c];
		bool fits = has_slot(w, at, SCOPE_GROUP) && w->out[at].depth < w->groups[w->group_of[at]].depth_limit;
		if (!w->attached[c] && fits)
			return c;
	}
	return ROUTER_NONE;
}

/* Attach a node and below it, without recursion, all that follow it. */
static int attach(struct work *w, int i, int parent)
{
	int err = attach_one(w, i, parent);
	if (err || !is_healthy(&w->nodes[i]))
		return err;
	set_depth_limit(w, i);
	for (int at = i;;) {
		int child = next_follower(w, at);
		if (child == ROUTER_NONE) {
			if (at == i)
				return 0;
			at = w->out[at].parent;
			continue;
		}
		err = attach_one(w, child, at);
		if (err)
			return err;
		if (!is_healthy(&w->nodes[child]))
			continue;
		set_depth_limit(w, child);
		at = child;
	}
}

/* Keep the last answer where it is still a good one. */
static int prefer_previous(const struct work *w, int i, int best, enum scope scope, int area)
{
	int p = w->nodes[i].previous;
	if (p == ROUTER_NONE || !w->attached[p] || !is_healthy(&w->nodes[p]) || !has_slot(w, p, scope))
		return best;
	if (scope == SCOPE_GROUP && w->group_of[p] != area)
		return best;
	if (scope == SCOPE_REGION && w->region_of[p] != area)
		return best;
	return w->out[p].depth <= w->out[best].depth + 2 ? p : best;
}

/* The member of a group that takes the feed from outside: the one that did before, else the strongest. */
static int choose_entry(const struct work *w, const int *members, size_t count)
{
	int best = ROUTER_NONE;
	for (size_t k = 0; k < count; k++) {
		int i = members[k];
		const struct router_node *n = &w->nodes[i];
		if (w->attached[i] || !is_healthy(n) || is_hand_active(w, (size_t)i))
			continue;
		bool was = n->previous != ROUTER_NONE && w->group_of[n->previous] != w->group_of[i];
		if (was)
			return i;
		if (best == ROUTER_NONE || w->prev_depth[i] < w->prev_depth[best] ||
			(w->prev_depth[i] == w->prev_depth[best] && compare_strength(n, &w->nodes[best]) < 0))
			best = i;
	}
	return best;
}

struct plan { /* the nodes sorted by region, group, previous depth, strength */
	int *sorted;
	size_t *group_start; /* group_count + 1 */
	size_t *region_group; /* first group of each region, region_count + 1 (groups are numbered in region order) */
};

static int attach_members(struct work *w, const struct plan *p, int g)
{
	for (size_t k = p->group_start[g]; k < p->group_start[g + 1]; k++) {
		int i = p->sorted[k];
		if (w->attached[i] || !is_healthy(&w->nodes[i]) || is_hand_active(w, (size_t)i))
			continue;
		int best = best_feeder(w, &w->groups[g], SCOPE_GROUP);
		if (best == ROUTER_NONE)
			return 0; /* waits for a wider scope: see attach_stragglers */
		int err = attach(w, i, prefer_previous(w, i, best, SCOPE_GROUP, g));
		if (err)
			return err;
	}
	return 0;
}

/* Bring a group in through one entry node, if a slot for it is free in its region. */
static int attach_entry(struct work *w, const struct plan *p, size_t g)
{
	if (w->groups[g].waiting == 0 || w->groups[g].attached > 0)
		return 0;
	size_t start = p->group_start[g];
	int entry = choose_entry(w, p->sorted + start, p->group_start[g + 1] - start);
	if (entry == ROUTER_NONE)
		return 0; /* all of them hang on hands and come with those */
	int r = w->region_of[entry];
	int best = best_feeder(w, &w->regions[r], SCOPE_REGION);
	if (best == ROUTER_NONE)
		return 0;
	return attach(w, entry, prefer_previous(w, entry, best, SCOPE_REGION, r));
}

/* Entries first, so that they sit high; then the members; again for entries that found no slot, as long as it helps. */
static int fill_region(struct work *w, const struct plan *p, int r)
{
	size_t before;
	int err = 0;
	do {
		before = w->regions[r].waiting;
		area_unblock(w, &w->regions[r]);
		for (size_t g = p->region_group[r]; g < p->region_group[r + 1] && !err; g++)
			err = attach_entry(w, p, g);
		for (size_t g = p->region_group[r]; g < p->region_group[r + 1] && !err; g++)
			if (w->groups[g].attached > 0 && w->groups[g].waiting > 0)
				err = attach_members(w, p, (int)g);
	} while (!err && w->regions[r].waiting > 0 && w->regions[r].waiting < before);
	return err;
}

static int region_entry(const struct work *w, const struct plan *p, int r)
{
	int best = ROUTER_NONE;
	for (size_t g = p->region_group[r]; g < p->region_group[r + 1]; g++) {
		size_t start = p->group_start[g];
		for (size_t k = start; k < p->group_start[g + 1]; k++) {
			int i = p->sorted[k];
			const struct router_node *n = &w->nodes[i];
			if (w->attached[i] || !is_healthy(n) || is_hand_active(w, (size_t)i))
				continue;
			if (n->previous != ROUTER_NONE && w->region_of[n->previous] != r)
				return i;
			if (best == ROUTER_NONE || w->prev_depth[i] < w->prev_depth[best] ||
				(w->prev_depth[i] == w->prev_depth[best] && compare_strength(n, &w->nodes[best]) < 0))
				best = i;
		}
	}
	return best;
}

/* All region entries first (low depth across the slow links), then fill each region; those that found no slot come after. */
static int attach_regions(struct work *w, const struct plan *p)
{
	bool again = true;
	while (again) {
		again = false;
		area_unblock(w, &w->all);
		for (size_t r = 0; r < w->region_count; r++) {
			if (w->regions[r].attached > 0 || w->regions[r].waiting == 0)
				continue;
			int entry = region_entry(w, p, (int)r);
			int best = entry == ROUTER_NONE ? ROUTER_NONE : best_feeder(w, &w->all, SCOPE_ALL);
			if (best == ROUTER_NONE)
				continue;
			int err = attach(w, entry, prefer_previous(w, entry, best, SCOPE_ALL, 0));
			if (err)
				return err;
			again = true;
		}
		for (size_t r = 0; r < w->region_count; r++) {
			size_t before = w->regions[r].waiting;
			if (w->regions[r].attached == 0 || before == 0)
				continue;
			int err = fill_region(w, p, (int)r);
			if (err)
				return err;
			if (w->regions[r].waiting < before)
				again = true;
		}
	}
	return 0;
}

/* The least loaded healthy node of a list, however full. */
static int least_loaded(const struct work *w, const int *members, size_t count)
{
	int best = ROUTER_NONE;
	for (size_t k = 0; k < count; k++) {
		int i = members[k];
		if (!w->attached[i] || !is_healthy(&w->nodes[i]))
			continue;
		if (best == ROUTER_NONE || w->out[i].children < w->out[best].children)
			best = i;
	}
	return best;
}

/* One node without a place so far: the nearest free slot, else the least loaded node. */
static int attach_straggler(struct work *w, const struct plan *p, int i, int root)
{
	int g = w->group_of[i], r = w->region_of[i];
	if (is_hand_active(w, (size_t)i))
		return 0; /* comes with its parent: the top of such a chain is healthy and has none */
	enum scope scope = SCOPE_GROUP; /* the slots reserved before are free now */
	int best = best_feeder(w, &w->groups[g], SCOPE_GROUP), area = g;
	if (best == ROUTER_NONE) {
		scope = SCOPE_REGION, area = r;
		best = best_feeder(w, &w->regions[r], SCOPE_GROUP);
	}
	if (best == ROUTER_NONE) {
		scope = SCOPE_ALL;
		best = best_feeder(w, &w->all, SCOPE_GROUP);
	}
	if (best != ROUTER_NONE)
		return attach(w, i, prefer_previous(w, i, best, scope, area));
	w->overfull = true;
	size_t start = p->group_start[g];
	best = least_loaded(w, p->sorted + start, p->group_start[g + 1] - start);
	if (best == ROUTER_NONE)
		best = least_loaded(w, p->sorted, w->count);
	return attach(w, i, best == ROUTER_NONE ? root : best);
}

/* What found no place within its borders, then the leaves (down, drained, no capacity). */
static int attach_stragglers(struct work *w, const struct plan *p, int root)
{
	int err = 0;
	area_unblock(w, &w->all);
	for (size_t r = 0; r < w->region_count; r++)
		area_unblock(w, &w->regions[r]);
	for (int pass = 0; pass < 2; pass++)
		for (size_t k = 0; k < w->count && !err; k++)
			if (!w->attached[p->sorted[k]] && (pass == 1 || is_healthy(&w->nodes[p->sorted[k]])))
				err = attach_straggler(w, p, p->sorted[k], root);
	return err;
}

/* --- preparing -------------------------------------------------------------------------------------------------- */

static bool better_root(const struct work *w, size_t a, size_t b)
{
	const struct router_node *x = &w->nodes[a], *y = &w->nodes[b];
	bool hx = is_healthy(x) && !is_hand_active(w, a), hy = is_healthy(y) && !is_hand_active(w, b);
	if (hx != hy)
		return hx;
	if (x->source != y->source)
		return x->source;
	if (x->previous_root != y->previous_root)
		return x->previous_root;
	return x->number < y->number;
}

static int choose_root(const struct work *w)
{
	size_t best = 0;
	for (size_t i = 1; i < w->count; i++)
		if (better_root(w, i, best))
			best = i;
	return (int)best;
}

static bool has_hand_cycle(const struct router_node *nodes, size_t count)
{
	uint8_t *seen = calloc(count, 1); /* 1 = on the way, 2 = done */
	if (!seen)
		return true;
	bool cycle = false;
	for (size_t i = 0; i < count && !cycle; i++) {
		int at = (int)i;
		while (at != ROUTER_NONE && seen[at] == 0) {
			seen[at] = 1;
			at = nodes[at].hand;
		}
		cycle = at != ROUTER_NONE && seen[at] == 1;
		for (at = (int)i; at != ROUTER_NONE && seen[at] == 1; at = nodes[at].hand)
			seen[at] = 2;
	}
	free(seen);
	return cycle;
}

/* Depth in the last answer; far for those that had none, also where the last answer is not a tree. */
static void fill_prev_depth(struct work *w)
{
	const uint32_t far = UINT32_MAX / 2;
	for (size_t i = 0; i < w->count; i++)
		w->prev_depth[i] = w->nodes[i].previous_root ? 0 : w->nodes[i].previous == ROUTER_NONE ? far : UINT32_MAX;
	for (size_t i = 0; i < w->count; i++) {
		size_t steps = 0;
		int at = (int)i;
		while (w->prev_depth[at] == UINT32_MAX && steps <= w->count) {
			at = w->nodes[at].previous;
			steps++;
		}
		uint32_t depth = steps > w->count ? far : w->prev_depth[at];
		at = (int)i;
		for (; w->prev_depth[at] == UINT32_MAX; steps--, at = w->nodes[at].previous)
			w->prev_depth[at] = depth >= far ? far : depth + (uint32_t)steps;
	}
}

static int compare_plan(const void *pa, const void *pb, void *arg)
{
	const struct work *w = arg;
	int a = *(const int *)pa, b = *(const int *)pb;
	const struct router_node *x = &w->nodes[a], *y = &w->nodes[b];
	if (x->region != y->region)
		return x->region < y->region ? -1 : 1;
	if (x->group != y->group)
		return x->group < y->group ? -1 : 1;
	if (w->prev_depth[a] != w->prev_depth[b])
		return w->prev_depth[a] < w->prev_depth[b] ? -1 : 1;
	return compare_strength(x, y);
}

static void plan_fini(struct plan *p)
{
	free(p->sorted);
	free(p->group_start);
	free(p->region_group);
}

static int plan_make(struct work *w, struct plan *p)
{
	size_t n = w->count;
	p->sorted = calloc(n, sizeof *p->sorted);
	p->group_start = calloc(n + 1, sizeof *p->group_start);
	p->region_group = calloc(n + 1, sizeof *p->region_group);
	if (!p->sorted || !p->group_start || !p->region_group)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		p->sorted[i] = (int)i;
	qsort_r(p->sorted, n, sizeof *p->sorted, compare_plan, w);
	for (size_t k = 0; k < n; k++) {
		const struct router_node *x = &w->nodes[p->sorted[k]];
		const struct router_node *before = k ? &w->nodes[p->sorted[k - 1]] : NULL;
		bool new_region = !before || before->region != x->region;
		if (new_region || before->group != x->group) {
			p->group_start[w->group_count] = k;
			if (new_region)
				p->region_group[w->region_count++] = w->group_count;
			w->group_count++;
		}
		int i = p->sorted[k], g = (int)w->group_count - 1, r = (int)w->region_count - 1;
		w->group_of[i] = g;
		w->region_of[i] = r;
		if (!is_healthy(x))
			continue;
		if (w->groups[g].waiting++ == 0)
			w->groups_waiting[r]++;
		w->regions[r].waiting++;
		w->groups[g].capacity_sum += x->capacity;
	}
	p->group_start[w->group_count] = n;
	p->region_group[w->region_count] = w->group_count;
	return 0;
}

static int work_init(struct work *w)
{
	size_t n = w->count;
	w->attached = calloc(n, sizeof *w->attached);
	w->order = calloc(n, sizeof *w->order);
	w->group_of = calloc(n, sizeof *w->group_of);
	w->region_of = calloc(n, sizeof *w->region_of);
	w->groups = calloc(n, sizeof *w->groups);
	w->regions = calloc(n, sizeof *w->regions);
	w->groups_waiting = calloc(n, sizeof *w->groups_waiting);
	w->hand_first = calloc(n, sizeof *w->hand_first);
	w->hand_next = calloc(n, sizeof *w->hand_next);
	w->keep_first = calloc(n, sizeof *w->keep_first);
	w->keep_next = calloc(n, sizeof *w->keep_next);
	w->prev_depth = calloc(n, sizeof *w->prev_depth);
	if (!w->attached || !w->order || !w->group_of || !w->region_of || !w->groups || !w->regions || !w->groups_waiting ||
		!w->hand_first || !w->hand_next || !w->keep_first || !w->keep_next || !w->prev_depth)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		w->hand_first[i] = w->keep_first[i] = ROUTER_NONE;
	for (size_t i = n; i-- > 0;) {
		const struct router_node *x = &w->nodes[i];
		if (is_hand_active(w, i)) {
			w->hand_next[i] = w->hand_first[x->hand];
			w->hand_first[x->hand] = (int)i;
		} else if (is_healthy(x) && x->previous != ROUTER_NONE && w->nodes[x->previous].group == x->group) {
			w->keep_next[i] = w->keep_first[x->previous];
			w->keep_first[x->previous] = (int)i;
		}
	}
	fill_prev_depth(w);
	return 0;
}

static void area_fini(struct area *a)
{
	free(a->feeders);
	free(a->blocked);
}

static void work_fini(struct work *w)
{
	for (size_t i = 0; w->groups && i < w->group_count; i++)
		area_fini(&w->groups[i]);
	for (size_t i = 0; w->regions && i < w->region_count; i++)
		area_fini(&w->regions[i]);
	area_fini(&w->all);
	free(w->attached);
	free(w->order);
	free(w->group_of);
	free(w->region_of);
	free(w->groups);
	free(w->regions);
	free(w->groups_waiting);
	free(w->hand_first);
	free(w->hand_next);
	free(w->keep_first);
	free(w->keep_next);
	free(w->prev_depth);
}

/* --- alternates ------------------------------------------------------------------------------------------------- */

static bool is_earlier(const struct work *w, int a, int b)
{
	if (w->out[a].depth != w->out[b].depth)
		return w->out[a].depth < w->out[b].depth;
	return w->nodes[a].number < w->nodes[b].number;
}

static void add_alternate(const struct work *w, int i, int candidate)
{
	struct router_result *o = &w->out[i];
	if (candidate == ROUTER_NONE || candidate == i || candidate == o->parent || o->alternate_count == ROUTER_ALTERNATES)
		return;
	if (!is_healthy(&w->nodes[candidate]) || !is_earlier(w, candidate, i))
		return;
	for (int k = 0; k < o->alternate_count; k++)
		if (o->alternates[k] == candidate)
			return;
	o->alternates[o->alternate_count++] = candidate;
}

/* Per node its first two healthy children: heirs among siblings and uncles. */
struct heirs { int node[2]; };

static void find_heirs(const struct work *w, struct heirs *heirs)
{
	for (size_t i = 0; i < w->count; i++)
		heirs[i].node[0] = heirs[i].node[1] = ROUTER_NONE;
	for (size_t i = 0; i < w->count; i++) {
		int p = w->out[i].parent;
		if (p == ROUTER_NONE || !is_healthy(&w->nodes[i]))
			continue;
		struct heirs *h = &heirs[p];
		if (h->node[0] == ROUTER_NONE || is_earlier(w, (int)i, h->node[0])) {
			h->node[1] = h->node[0];
			h->node[0] = (int)i;
		} else if (h->node[1] == ROUTER_NONE || is_earlier(w, (int)i, h->node[1])) {
			h->node[1] = (int)i;
		}
	}
}

static void choose_alternates(const struct work *w, int i, int root, const struct heirs *heirs)
{
	int parent = w->out[i].parent;
	if (parent == ROUTER_NONE)
		return;
	int grand = w->out[parent].parent;
	if (grand != ROUTER_NONE && w->group_of[grand] == w->group_of[i])
		add_alternate(w, i, grand);
	add_alternate(w, i, heirs[parent].node[0]);
	if (grand != ROUTER_NONE) {
		add_alternate(w, i, grand);
		add_alternate(w, i, heirs[grand].node[0]);
		add_alternate(w, i, heirs[grand].node[1]);
	}
	add_alternate(w, i, heirs[parent].node[1]);
	add_alternate(w, i, root);
}

/* --- the function ----------------------------------------------------------------------------------------------- */

int router_compute(const struct router_node *nodes, size_t count, struct router_result *ret, bool *overfull)
{
	if (overfull)
		*overfull = false;
	if (count == 0)
		return 0;
	if (has_hand_cycle(nodes, count))
		return -ELOOP;
	struct work w = {.nodes = nodes, .count = count, .out = ret};
	struct plan plan = {0};
	memset(ret, 0, count * sizeof *ret);
	for (size_t i = 0; i < count; i++)
		ret[i].parent = ROUTER_NONE;
	struct heirs *heirs = calloc(count, sizeof *heirs);
	int err = heirs ? work_init(&w) : -ENOMEM;
	if (!err)
		err = plan_make(&w, &plan);
	int root = ROUTER_NONE;
	if (!err) {
		root = choose_root(&w);
		err = attach(&w, root, ROUTER_NONE);
	}
	if (!err)
		err = attach_regions(&w, &plan);
	if (!err)
		err = attach_stragglers(&w, &plan, root);
	if (!err) {
		find_heirs(&w, heirs);
		for (size_t i = 0; i < count; i++)
			choose_alternates(&w, (int)i, root, heirs);
		if (overfull)
			*overfull = w.overfull;
	}
	free(heirs);
	plan_fini(&plan);
	work_fini(&w);
	return err;
}

struct bringing {
	bool *brings;
	int *open; /* those whose parent and alternates were not looked at */
	size_t count;
};

static void mark_bringing(struct bringing *b, int i)
{
	if (i == ROUTER_NONE || b->brings[i])
		return;
	b->brings[i] = true;
	b->open[b->count++] = i;
}

int router_brings(const struct router_node *nodes, size_t count, const struct router_result *result, bool *ret)
{
	struct bringing b = {.brings = ret, .open = calloc(count + 1, sizeof *b.open)};
	if (!b.open)
		return -ENOMEM;
	memset(ret, 0, count * sizeof *ret);
	for (size_t i = 0; i < count; i++)
		if (nodes[i].source || result[i].parent == ROUTER_NONE)
			mark_bringing(&b, (int)i);
	while (b.count > 0) {
		const struct router_result *o = &result[b.open[--b.count]];
		mark_bringing(&b, o->parent);
		for (int k = 0; k < o->alternate_count; k++)
			mark_bringing(&b, o->alternates[k]);
	}
	free(b.open);
	return 0;
}

size_t router_check_hand(const struct router_node *nodes, size_t count, int node, int parent, int *path, size_t room)
{
	size_t n = 0;
	for (int at = parent; at != ROUTER_NONE && n <= count; at = nodes[at].hand) {
		if (n < room)
			path[n] = at;
		n++;
		if (at == node)
			return n;
	}
	return 0;
}
