/* SPDX-License-Identifier: Apache-2.0 */
/* seal_check.c — what others signed, compared with what is here once their changes are. What differs may do so only for a moment (a later change
 * is on its way here, or comes between), so it is looked at again before it counts. */
#include "replicator/seal_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "replicator/route.h"
#include "replicator/scrub_internal.h"

#define QUEUE_BYTES_MAX (4u << 20)
#define ODD_MAX 256           /* names that differ; what is beyond is only counted */
#define LOOK_FIRST_MS 500    /* a name that differs is looked at again after this, then twice that, … */
#define LOOK_LAST_MS 600000
#define LOOKS 3               /* it counts when it differed so often */

enum difference { DIFFERS_NOT, DIFFERS_CONTENT, DIFFERS_ATTRIBUTES, DIFFERS_NAME };

struct queued {
	struct queued *next;
	struct kept *kept;
};

struct odd { /* a name that is not as its author signed it */
	struct odd *next;
	struct kept *kept;
	size_t index;        /* in that seal */
	enum difference how; /* when it was looked at last */
	unsigned looks, tries; /* times it differed; times it was looked at again */
	int64_t due_ms;
	bool said;
};

struct seal_checker {
	struct seals *seals;
	struct queued *first, **last;
	size_t bytes;
	int64_t moved_ms;       /* when more became visible here */
	struct look *look;
	struct seal *seal;      /* which is being looked at … */
	struct kept *kept;
	struct odd *again;      /* … because of this one name; NULL: for the first time */
	size_t index_of[SEAL_NAMES_MAX]; /* of the n-th name that is looked at, in the seal */
	struct odd *odds;
	size_t odd_count, said_count;
	struct cdm_timer *timer;
};

static int64_t pause_of(unsigned looks)
{
	int64_t ms = (int64_t)LOOK_FIRST_MS << (looks < 16 ? looks : 16);
	return ms < LOOK_LAST_MS ? ms : LOOK_LAST_MS;
}

/* --- comparing --- */

static bool same_text(const char *a, size_t a_len, const char *b, size_t b_len)
{
	return a_len && a_len == b_len && memcmp(a, b, a_len) == 0;
}

static bool is_same_version(const struct sealed *a, const struct sealed *b)
{
	return cdm_dot_equal(a->stamp.content.dot, b->stamp.content.dot) && (a->mode & S_IFMT) == (b->mode & S_IFMT);
}

static bool has_same_attributes_version(const struct sealed *a, const struct sealed *b)
{
	return a->stamp.attr_clock == b->stamp.attr_clock && a->stamp.attr_origin == b->stamp.attr_origin;
}

/* A directory's mtime moves with what is in it. */
static bool attributes_equal(const struct sealed *a, const struct sealed *b)
{
	return a->mode == b->mode && a->rdev == b->rdev && memcmp(a->xattrs, b->xattrs, sizeof a->xattrs) == 0 &&
		(S_ISDIR(a->mode) || a->mtime_ns == b->mtime_ns) && (a->uid == b->uid || same_text(a->user, a->user_len, b->user, b->user_len)) &&
		(a->gid == b->gid || same_text(a->group, a->group_len, b->group, b->group_len));
}

/* Has nobody changed anything since the author looked, and is all of it here? Then everything must be the same. */
static bool is_same_moment(struct set *s, const struct seal *seal)
{
	return seal->still && cdm_vector_equal(&seal->vector, &s->follow.visible) && seals_at_rest(s);
}

/* Had the author all that others than itself did? Two that set attributes at once may leave them under one clock and not the same, until trees were
 * compared. */
static bool knew_others(struct set *s, const struct seal *seal)
{
	const struct cdm_vector *here = &s->follow.visible;
	for (size_t i = 0; i < here->count; i++)
		if (CDM_ORIGIN_NODE(here->entries[i].origin) != CDM_ORIGIN_NODE(seal->upto.origin) && !cdm_vector_covers(&seal->vector, here->entries[i]))
			return false;
	return seal->still && seals_at_rest(s);
}

static bool is_by_author(const struct seal *seal, cdm_origin origin)
{
	return CDM_ORIGIN_NODE(origin) == CDM_ORIGIN_NODE(seal->upto.origin);
}

/* A directory's attributes travel apart from its creation, under whose clock it is seen with those of later. */
static bool attributes_count(struct set *s, const struct seal *seal, const struct sealed *says, const struct looked *l)
{
	if (is_same_moment(s, seal))
		return true;
	return !S_ISDIR(says->mode) && has_same_attributes_version(says, &l->is) && is_by_author(seal, says->stamp.attr_origin) && knew_others(s, seal);
}

/* Of another version it is somebody's later one, or the author's: only where nobody has changed anything since does that mean something. A directory
 * that its author removed may be left for what is local in it. */
static bool names_count(struct set *s, const struct seal *seal, const struct sealed *says, const struct looked *l)
{
	bool left = !says->there && l->found == LOOK_THERE && S_ISDIR(l->is.mode);
	return !left && (says->there || l->found == LOOK_THERE) && is_same_moment(s, seal);
}

/* What is here was looked at after all changes that the seal speaks for had come. */
static enum difference compare(struct set *s, const struct seal *seal, const struct sealed *says, const struct looked *l)
{
	if (l->found == LOOK_UNSURE)
		return DIFFERS_NOT;
	if (!says->there || l->found == LOOK_NOTHING || !is_same_version(says, &l->is))
		return names_count(s, seal, says, l) ? DIFFERS_NAME : DIFFERS_NOT;
	bool told = S_ISREG(says->mode) ? seal_tells_content(says) && is_by_author(seal, says->stamp.content.dot.origin) : true;
	if (told && memcmp(says->content, l->is.content, sizeof says->content) != 0)
		return DIFFERS_CONTENT;
	return !attributes_equal(says, &l->is) && attributes_count(s, seal, says, l) ? DIFFERS_ATTRIBUTES : DIFFERS_NOT;
}

/* --- names that differ --- */

static void odd_remove(struct seal_checker *c, struct odd *o)
{
	struct odd **at = &c->odds;
	while (*at != o)
		at = &(*at)->next;
	*at = o->next;
	c->odd_count--;
	if (o->said) {
		c->said_count--;
		state_changed(c->seals->set);
	}
	kept_release(&o->kept);
	free(o);
}

static void step_later(void *arg)
{
	struct seal_checker *c = arg;
	c->timer = NULL;
	seal_checker_step(c);
}

static struct odd *find_lesser(struct seal_checker *c)
{
	struct odd *o = c->odds;
	while (o && o->how == DIFFERS_CONTENT)
		o = o->next;
	return o;
}

/* Where there is no room a content takes that of something else. */
static void odd_add(struct seal_checker *c, size_t index, enum difference how)
{
	size_t room = how == DIFFERS_NOT ? ODD_MAX / 2 : ODD_MAX;
	if (c->odd_count >= room && how == DIFFERS_CONTENT && find_lesser(c))
		odd_remove(c, find_lesser(c));
	if (c->odd_count >= room) {
		count_up(&c->seals->set->counters.seal_left_out, 1);
		return;
	}
	struct odd *o = calloc(1, sizeof *o);
	if (!o)
		abort();
	*o = (struct odd){.next = c->odds, .kept = c->kept, .index = index, .how = how, .due_ms = cdm_now_ms() + pause_of(0)};
	o->kept->references++;
	c->odds = o;
	c->odd_count++;
}

static void say(const struct seal_checker *c, const struct sealed *says, enum difference d)
{
	static const char *const what[] = {
		[DIFFERS_CONTENT] = "its content here is not what its author signed",
		[DIFFERS_ATTRIBUTES] = "its attributes here are not what its author signed",
		[DIFFERS_NAME] = "what is here under this name is not what its author signed, though all changes came",
	};
	struct set *s = c->seals->set;
	const struct member *author = s->route ? route_member_number(s->route, c->kept->of.number) : NULL;
	struct peer *parent = set_parent_peer(s);
	char path[512];
	snprintf(path, sizeof path, "%.*s", (int)(says->path_len < 500 ? says->path_len : 500), says->path);
	cdm_log(seal_broken, cdm_str("set", set_name(s)), cdm_str("path", path), cdm_str("author", author ? author->name : "?"),
		cdm_str("peer", parent ? link_peer_name(parent->link) : ""), cdm_str("msg", what[d]));
}

/* It differs for good. Each time it does it is tried to be mended. */
static void odd_counts(struct seal_checker *c, struct odd *o, const struct sealed *says, enum difference d)
{
	struct set *s = c->seals->set;
	if (!o->said) {
		o->said = true;
		c->said_count++;
		count_up(&s->counters.seal_broken, 1);
		say(c, says, d);
		state_changed(s);
	}
	if (d == DIFFERS_CONTENT && S_ISREG(says->mode)) {
		struct scrub_question q = {.path = says->path, .path_len = says->path_len, .version = says->stamp.content.dot, .size = says->size};
		suspect_add_sealed(s->scrub, &q, says->content);
	}
}

static void looked_again(struct seal_checker *c, const struct look *look)
{
	struct odd *o = c->again;
	const struct sealed *says = &c->seal->names[o->index];
	enum difference d = compare(c->seals->set, c->seal, says, &look->names[0]);
	o->how = d;
	if (d == DIFFERS_NOT && look->names[0].found != LOOK_UNSURE) {
		odd_remove(c, o);
		return;
	}
	o->looks += d != DIFFERS_NOT;
	o->tries++;
	if (d != DIFFERS_NOT && o->looks >= LOOKS)
		odd_counts(c, o, says, d);
	o->due_ms = cdm_now_ms() + pause_of(o->tries);
}

/* --- looking --- */

static void look_over(struct seal_checker *c)
{
	seal_fini(c->seal);
	free(c->seal);
	c->seal = NULL;
	c->again = NULL;
	kept_release(&c->kept);
}

/* It cannot be told now what is there, and could be at another time. */
static bool is_to_come(struct set *s, const struct sealed *says, const struct looked *l)
{
	return l->found == LOOK_UNSURE && says->there && !set_leaves_out(s, l->path, l->len);
}

static void looked(void *arg, struct look *look)
{
	struct seal_checker *c = arg;
	struct set_counters *counters = &c->seals->set->counters;
	c->look = NULL;
	for (size_t i = 0; !c->again && i < look->count; i++) {
		const struct sealed *says = &c->seal->names[c->index_of[i]];
		enum difference d = compare(c->seals->set, c->seal, says, &look->names[i]);
		count_up(&counters->seal_names, 1);
		count_up(&counters->seal_equal, d == DIFFERS_NOT && look->names[i].read && is_same_version(says, &look->names[i].is));
		if (d != DIFFERS_NOT || is_to_come(c->seals->set, says, &look->names[i]))
			odd_add(c, c->index_of[i], d);
	}
	if (c->again)
		looked_again(c, look);
	look_drop(&look);
	look_over(c);
	seal_checker_step(c);
}

/* Only what is of the version that was signed needs to be read. */
static void begin(struct seal_checker *c, struct kept *kept, struct odd *again)
{
	c->seal = malloc(sizeof *c->seal);
	if (!c->seal || seal_decode(kept->payload, kept->len, c->seal) < 0)
		abort(); /* it was decoded when it came */
	c->kept = kept;
	c->again = again;
	c->look = look_new(c->seals->set);
	for (size_t i = 0; i < c->seal->count; i++) {
		const struct sealed *n = &c->seal->names[i];
		c->index_of[c->look->count] = i;
		if (again && again->index != i)
			continue;
		struct looked *l = look_add(c->look, n->path, n->path_len);
		l->contents = seal_tells_content(n);
		l->only = n->stamp.content.dot;
	}
	look_begin(c->look, c->seals->set->scrub->reader, READ_SEALED, looked, c);
}

static struct odd *next_odd(const struct seal_checker *c)
{
	struct odd *next = c->odds;
	for (struct odd *o = c->odds; o; o = o->next)
		if (o->due_ms < next->due_ms)
			next = o;
	return next;
}

/* The first whose changes are all here. */
static struct queued **find_due(struct seal_checker *c)
{
	for (struct queued **at = &c->first; *at; at = &(*at)->next)
		if (cdm_vector_covers(&c->seals->set->follow.visible, (*at)->kept->upto))
			return at;
	return NULL;
}

static int64_t time_for(const struct seal_checker *c, const struct kept *k)
{
	int64_t quiet = c->moved_ms + SEALS_QUIET_MS, late = k->came_ms + SEALS_LATE_MS;
	return quiet < late ? quiet : late;
}

static struct kept *take_out(struct seal_checker *c, struct queued **at)
{
	struct queued *q = *at;
	struct kept *kept = q->kept;
	*at = q->next;
	if (!*at)
		c->last = at;
	c->bytes -= kept->len;
	free(q);
	return kept;
}

void seal_checker_step(struct seal_checker *c)
{
	struct set *s = c->seals->set;
	if (c->look || s->stopping || !s->ready)
		return;
	struct queued **due = find_due(c);
	struct odd *o = next_odd(c);
	int64_t now = cdm_now_ms(), odd_ms = o ? o->due_ms : INT64_MAX, due_ms = due ? time_for(c, (*due)->kept) : INT64_MAX;
	cdm_timer_cancel(&c->timer);
	if (odd_ms <= now) {
		o->kept->references++;
		begin(c, o->kept, o);
	} else if (due_ms <= now) {
		begin(c, take_out(c, due), NULL);
	} else if (o || due) {
		c->timer = cdm_loop_after(s->node->loop, (odd_ms < due_ms ? odd_ms : due_ms) - now, step_later, c);
	}
}

void seal_checker_moved(struct seal_checker *c)
{
	c->moved_ms = cdm_now_ms();
	seal_checker_step(c);
}

/* --- coming --- */

static void drop_first(struct seal_checker *c)
{
	struct kept *k = take_out(c, &c->first);
	kept_release(&k);
}

void seal_checker_add(struct seal_checker *c, struct kept *kept)
{
	struct queued *q = calloc(1, sizeof *q);
	if (!q)
		abort();
	kept->references++;
	q->kept = kept;
	*c->last = q;
	c->last = &q->next;
	c->bytes += kept->len;
	while (c->bytes > QUEUE_BYTES_MAX && c->first != q) {
		count_up(&c->seals->set->counters.seal_left_out, c->first->kept->names);
		drop_first(c);
	}
	seal_checker_step(c);
}

bool seal_checker_describe(const struct seal_checker *c, char *out, size_t room)
{
	if (c->said_count)
		snprintf(out, room, "%zu name%s not what %s signed", c->said_count, c->said_count == 1 ? " is" : "s are",
			c->said_count == 1 ? "its author" : "their authors");
	return c->said_count;
}

/* --- life --- */

struct seal_checker *seal_checker_new(struct seals *seals)
{
	struct seal_checker *c = calloc(1, sizeof *c);
	if (!c)
		abort();
	c->seals = seals;
	c->last = &c->first;
	return c;
}

void seal_checker_stop(struct seal_checker *c)
{
	cdm_timer_cancel(&c->timer);
	look_drop(&c->look);
}

void seal_checker_free(struct seal_checker **checker)
{
	struct seal_checker *c = *checker;
	*checker = NULL;
	if (!c)
		return;
	while (c->first)
		drop_first(c);
	for (struct odd *o; (o = c->odds);) {
		c->odds = o->next;
		kept_release(&o->kept);
		free(o);
	}
	if (c->seal)
		look_over(c);
	free(c);
}
