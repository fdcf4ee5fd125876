/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "replicator/control.h"
#include "replicator/view.h"

#define TIMEOUT_DEFAULT_S 60.0
#define TIMEOUT_MAX_S (7 * 86400.0)
#define BARRIER_MS 1000 /* a time-out that is shorter than the mount's answer waits so much longer for it: else --timeout 0 would never be good */

struct wait {
	struct node *node;
	struct set *set;
	struct client *client;   /* NULL: cancelled, waits for its barrier only to be freed */
	char *group, *only;      /* only these; NULL = all */
	double min_percent;
	bool fail_fast, has_upto, barrier_out, late; /* late: the time is up, and only the barrier is waited for */
	struct cdm_vector upto;
	int64_t start_ns;
	struct cdm_timer *timer;
	struct state_watch watch;
};

struct tally {
	struct wait *wait;
	unsigned have, of, down;
	json_t *lack;
};

static void wait_free(struct wait *w)
{
	cdm_timer_cancel(&w->timer);
	cdm_vector_fini(&w->upto);
	free(w->group);
	free(w->only);
	free(w);
}

/* Its vector says what it got, not yet what came of it: after a conflict trees are compared (doubt.c). */
static bool is_comparing(const struct wait *w, const struct peer_state *p)
{
	struct set_state own = {0};
	if (!p->self)
		return strcmp(p->state, "resync") == 0;
	set_get_state(w->set, &own);
	return strcmp(own.state, "resync") == 0;
}

/* What is waited for may be among it. */
static bool has_set_aside(const struct wait *w, const struct peer_state *p)
{
	struct set_state own = {0};
	if (p->self)
		set_get_state(w->set, &own);
	return strcmp(p->self ? own.reason_code : p->reason_code, "quarantined") == 0;
}

static void count_node(void *arg, const struct peer_state *p)
{
	struct tally *t = arg;
	const struct wait *w = t->wait;
	struct view_node v;
	if (!view_counts(p) || (w->group && (!p->member->group || strcmp(p->member->group, w->group) != 0)) ||
		(w->only && strcmp(p->member->name, w->only) != 0))
		return;
	t->of++;
	if (w->has_upto && !p->down && !is_comparing(w, p) && !has_set_aside(w, p) && cdm_vector_covers_all(p->durable, &w->upto)) {
		t->have++;
		return;
	}
	view_of(w->set, p, &v);
	t->down += p->down || p->member->paused;
	const char *why = !w->has_upto ? "the mount here has not told yet what is saved" : v.reason[0] && !(v.in_sync && v.proven_s) ? v.reason : v.state;
	json_array_append_new(t->lack, json_pack("{s:o, s:o}", "node", view_text(p->member->name), "reason", view_text(why)));
}

/* The last change of this node that is waited for. */
static struct cdm_dot upto_own(const struct wait *w)
{
	struct cdm_dot own = {0};
	for (size_t i = 0; i < w->upto.count; i++)
		if (CDM_ORIGIN_NODE(w->upto.entries[i].origin) == w->node->id->number && w->upto.entries[i].origin >= own.origin)
			own = w->upto.entries[i];
	return own;
}

static void finish(struct wait *w, const char *result, struct tally *t)
{
	struct client *c = w->client;
	struct cdm_dot own = upto_own(w);
	char upto[64] = "";
	if (!cdm_dot_is_none(own))
		cdm_dot_format(own, upto);
	json_t *answer = json_pack("{s:i, s:s, s:s, s:o, s:i, s:i, s:f, s:O}", "apiVersion", 1, "result", result, "upto", upto, "upto_name",
		view_version(w->node, w->set, own), "have", (int)t->have, "of", (int)t->of, "seconds",
		(double)(cdm_now_ns() - w->start_ns) / 1e9, "lack", t->lack);
	struct set *set = w->set;
	state_unwatch(w->node, &w->watch);
	w->client = NULL;
	cdm_timer_cancel(&w->timer);
	if (!w->barrier_out)
		wait_free(w);
	client_wait_over(c);
	client_answer_open(c, set, answer, true);
}

/* Look again; answers if it is decided. over: the time is up. */
static void step(struct wait *w, bool over)
{
	struct tally t = {.wait = w, .lack = json_array()};
	state_each(w->node, w->set, count_node, &t);
	double need = ceil((double)t.of * w->min_percent / 100.0 - 1e-9);
	if (w->has_upto && t.of > 0 && t.have >= need)
		finish(w, "ok", &t);
	else if (w->fail_fast && t.of - t.down < need)
		finish(w, "down", &t);
	else if (over)
		finish(w, "timeout", &t);
	json_decref(t.lack);
}

static void changed(void *arg, struct set *set)
{
	struct wait *w = arg;
	if (set == w->set)
		step(w, false);
}

static void timed_out(void *arg)
{
	struct wait *w = arg;
	w->timer = NULL;
	if (w->barrier_out && !w->late) {
		w->late = true;
		w->timer = cdm_loop_after(w->node->loop, BARRIER_MS, timed_out, w);
	} else {
		step(w, true);
	}
}

static void barrier_done(void *arg, int error, const struct cdm_vector *upto)
{
	struct wait *w = arg;
	w->barrier_out = false;
	if (!w->client) {
		wait_free(w);
		return;
	}
	if (error) {
		struct client *c = w->client;
		state_unwatch(w->node, &w->watch);
		wait_free(w);
		client_wait_over(c);
		client_refuse(c, "the mount does not say what is saved (%s): is the set mounted?", strerrordesc_np(abs(error)));
		return;
	}
	w->has_upto = true;
	cdm_vector_copy(&w->upto, upto);
	step(w, w->late);
}

static void barrier_start(void *arg)
{
	struct wait *w = arg;
	if (w->client)
		set_barrier(w->set, barrier_done, w);
	else
		wait_free(w);
}

static char *copy_or_null(const json_t *j)
{
	const char *s = json_string_value(j);
	return s ? strdup(s) : NULL;
}

struct wait *wait_start(struct node *node, struct set *set, struct client *c, const json_t *request)
{
	const json_t *timeout = json_object_get(request, "timeout_s"), *percent = json_object_get(request, "min_percent");
	double seconds = json_is_number(timeout) ? json_number_value(timeout) : TIMEOUT_DEFAULT_S;
	struct wait *w = calloc(1, sizeof *w);
	if (!w)
		abort();
	w->node = node;
	w->set = set;
	w->client = c;
	w->group = copy_or_null(json_object_get(request, "group"));
	w->only = copy_or_null(json_object_get(request, "node"));
	w->fail_fast = json_is_true(json_object_get(request, "fail_fast"));
	w->min_percent = json_is_number(percent) ? json_number_value(percent) : 100;
	if (!(w->min_percent >= 0 && w->min_percent <= 100))
		w->min_percent = 100;
	if (!(seconds >= 0 && seconds <= TIMEOUT_MAX_S))
		seconds = TIMEOUT_MAX_S;
	struct tally t = {.wait = w, .lack = json_array()};
	state_each(node, set, count_node, &t);
	json_decref(t.lack);
	if (t.of == 0) {
		client_refuse(c, "set %s has no target%s%s%s%s that counts", set_name(set), w->group ? " in group " : "",
			w->group ? w->group : "", w->only ? " named " : "", w->only ? w->only : "");
		wait_free(w);
		return NULL;
	}
	w->start_ns = cdm_now_ns();
	w->watch = (struct state_watch){.fn = changed, .arg = w};
	state_watch(node, &w->watch);
	w->timer = cdm_loop_after(node->loop, (int64_t)(seconds * 1000), timed_out, w);
	w->barrier_out = true;
	cdm_loop_post(node->loop, barrier_start, w); /* so that no answer comes before the client knows of us */
	return w;
}

void wait_cancel(struct wait **pw)
{
	struct wait *w = *pw;
	*pw = NULL;
	if (!w)
		return;
	w->client = NULL;
	cdm_timer_cancel(&w->timer);
	state_unwatch(w->node, &w->watch);
	if (!w->barrier_out)
		wait_free(w);
}
