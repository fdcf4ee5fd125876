/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/rights.h"

#include <errno.h>
#include <stdio.h>
#include "replicator/route.h"

#define REGAIN_MS 600000 /* so long after its start a node takes back what it lost */
#define GATHER_MS 15000  /* for all neighbours to be linked again, as in unsure.c */
#define ANSWERED_MS 60000 /* so long it is not waited for them again */
#define LOOK_MS 1000

static const struct member *member_of(const struct set *s, uint32_t number)
{
	return s->route ? route_member_number(s->route, number) : NULL;
}

static bool may_write(const struct member *m)
{
	return m && m->role & CDM_ROLE_SOURCE;
}

bool rights_writes(const struct peer *p)
{
	return may_write(member_of(p->set, p->number));
}

bool rights_brings(const struct peer *p)
{
	const struct member *m = member_of(p->set, p->number);
	return p->towards_parent || may_write(m) || (m && route_brings(m));
}

/* --- changes --- */

/* Of an incarnation that ended with a power cut: nobody makes more of it, and who has more has what we lost. */
static bool is_lost_here(const struct set *s, cdm_origin origin)
{
	return CDM_ORIGIN_NODE(origin) == s->node->id->number && origin < s->regains.before && cdm_now_ms() < s->regains.until_ms;
}

static bool is_linked(const struct set *s, const char *name)
{
	const struct member *m = route_member(s->route, name);
	const struct peer *p = s->peers;
	while (p && !(p->subscribed && m && p->number == m->number))
		p = p->next;
	return p || !m || m->paused || m->drained;
}

static bool all_are_linked(const struct set *s)
{
	const struct route *r = s->route;
	bool all = !r || !r->parent || is_linked(s, r->parent);
	for (size_t i = 0; all && r && i < r->child_count; i++)
		all = is_linked(s, r->children[i]);
	return all;
}

/* For all neighbours, a moment ago. */
static bool was_waited(const struct set *s)
{
	int64_t now = cdm_now_ms();
	return s->late.until_ms && now >= s->late.until_ms && now < s->late.until_ms + ANSWERED_MS;
}

/* Its author sends it, who lost the right to write a while ago. Was it taken by somebody before that, it comes from there. */
static bool may_be_elsewhere(const struct peer *author, struct cdm_dot dot)
{
	const struct set *s = author->set;
	const struct member *m = member_of(s, author->number);
	if (!m || cdm_now_ms() >= m->wrote_until_ms || cdm_vector_covers(&s->follow.visible, dot))
		return false;
	for (const struct peer *p = s->peers; p; p = p->next)
		if (p != author && p->subscribed && rights_brings(p) && cdm_vector_covers(&p->visible, dot))
			return true;
	return !all_are_linked(s) && (cdm_now_ms() < s->late.until_ms || !was_waited(s));
}

enum right rights_of(const struct peer *p, const struct cdm_change *c)
{
	const struct set *s = p->set;
	uint32_t author = CDM_ORIGIN_NODE(c->dot.origin);
	bool writes = may_write(member_of(s, author));
	if (cdm_vector_get(&p->passed_over, c->dot.origin))
		return RIGHT_PASSED_OVER; /* or the vector would claim what was not taken */
	if (author == p->number && !writes && may_be_elsewhere(p, c->dot))
		return RIGHT_PASSED_OVER;
	if (author == p->number)
		return writes || c->op == CDM_OP_SKIP ? RIGHT_TAKEN : RIGHT_LEFT_OUT;
	if (rights_brings(p) || cdm_vector_covers(&p->gives, c->dot) || is_lost_here(s, c->dot.origin))
		return RIGHT_TAKEN;
	bool nobodys = !writes && author != s->node->id->number;
	return c->op == CDM_OP_SKIP && nobodys ? RIGHT_TAKEN : RIGHT_PASSED_OVER;
}

static void say_passed_over(const struct peer *p, const struct cdm_change *c)
{
	char path[256], origin[CDM_DOT_NAMED_SIZE];
	const struct member *author = member_of(p->set, CDM_ORIGIN_NODE(c->dot.origin));
	snprintf(path, sizeof path, "%.*s", (int)(c->path_len < 250 ? c->path_len : 250), c->path ? c->path : "");
	cdm_dot_format_named(c->dot, author ? author->name : NULL, origin);
	cdm_log(change_passed_over, cdm_str("set", set_name(p->set)), cdm_str("peer", link_peer_name(p->link)), cdm_str("path", path), cdm_str("origin", origin));
}

/* Is it clear now what of that is elsewhere? It has come here by now, or nobody has it. */
static bool is_clear(const struct peer *p)
{
	for (size_t i = 0; i < p->passed_over.count; i++)
		if (CDM_ORIGIN_NODE(p->passed_over.entries[i].origin) == p->number && may_be_elsewhere(p, p->passed_over.entries[i]))
			return false;
	return true;
}

static void look_again(void *arg)
{
	struct set *s = arg;
	bool waits = false;
	s->late.timer = NULL;
	for (struct peer *p = s->peers, *next; p; p = next) {
		next = p->next;
		if (p->passes_over_own && is_clear(p))
			link_fail(p->link, EAGAIN, "set %s: who has its late changes is known by now, subscribing again", set_name(s));
		else
			waits |= p->passes_over_own;
	}
	if (waits)
		s->late.timer = cdm_loop_after(s->node->loop, LOOK_MS, look_again, s);
}

static void wait_for_the_others(struct peer *p)
{
	struct set *s = p->set;
	p->passes_over_own = true;
	if (cdm_now_ms() >= s->late.until_ms && !was_waited(s))
		s->late.until_ms = cdm_now_ms() + GATHER_MS;
	if (!s->late.timer)
		s->late.timer = cdm_loop_after(s->node->loop, LOOK_MS, look_again, s);
}

void rights_pass_over(struct peer *p, const struct cdm_change *c)
{
	if (cdm_vector_covers(&p->set->follow.visible, c->dot))
		return;
	if (CDM_ORIGIN_NODE(c->dot.origin) == p->number)
		wait_for_the_others(p);
	else if (!p->passed_over.count)
		say_passed_over(p, c);
	cdm_vector_raise(&p->passed_over, c->dot);
}

void rights_stop(struct set *s)
{
	cdm_timer_cancel(&s->late.timer);
}

/* --- trees --- */

/* Who has nothing asks for everything, also for a tree that no journal ever saw (an empty vector). */
static bool is_still_asked(const struct peer *p)
{
	const struct cdm_vector *visible = &p->set->follow.visible;
	return p->asked_tree || (p->was_empty && !visible->count) || !cdm_vector_covers_all(visible, &p->gives);
}

bool rights_takes_tree(struct peer *p)
{
	bool takes = rights_brings(p) || is_still_asked(p);
	p->asked_tree = false;
	return takes;
}

bool rights_takes_root(const struct peer *p)
{
	return rights_brings(p) || is_still_asked(p);
}

void rights_refuse_tree(struct peer *p)
{
	if (!p->tree_refused)
		cdm_log(tree_refused, cdm_str("set", set_name(p->set)), cdm_str("peer", link_peer_name(p->link)));
	p->tree_refused = true;
}

/* --- beginning --- */

bool rights_renews(struct peer *p)
{
	bool renews = rights_brings(p) || !p->set->renewed_for_child;
	p->set->renewed_for_child |= !rights_brings(p);
	return renews;
}

void rights_subscribed(struct peer *p, const struct cdm_vector *visible)
{
	const struct set *s = p->set;
	if (p->was_empty || p->asked_tree || (s->regains.all && cdm_now_ms() < s->regains.until_ms))
		cdm_vector_copy(&p->gives, visible);
}

/* An incarnation after the first that no checkpoint saw began with this start of the mount, and the one before lost its end. */
void rights_ready(struct set *s)
{
	cdm_origin newest = s->follow.own_raw.origin;
	bool began = CDM_ORIGIN_INCARNATION(newest) > 1 && !cdm_vector_get(&s->durable.vector, newest);
	s->regains.before = began ? newest : 0;
	s->regains.all = !s->follow.visible.count;
	s->regains.until_ms = cdm_now_ms() + REGAIN_MS;
	s->renewed_for_child = false;
}

void rights_changed(struct set *s)
{
	for (struct peer *p = s->peers; p; p = p->next)
		if ((p->passed_over.count || p->tree_refused) && rights_brings(p))
			link_fail(p->link, EAGAIN, "set %s: what this node brings counts from now on, subscribing again", set_name(s));
}
