/* SPDX-License-Identifier: Apache-2.0 */
/* fetch_feeder.c — whom to ask for a content: the ring, else the sender of its change; and when the other one is better. */
#include "replicator/fetch_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "replicator/ring.h"

#define TICK_MS 250
#define SILENT_MS 2000                /* so long without content, and another feeder is asked; longer where shorter silences … */
#define SILENT_GAPS 4                 /* … of more than a fourth of it passed by themselves: a busy machine, a slow disk, … */
#define SILENT_MOST_MS 8000           /* … but not for ever */
#define STARVED_TIMES 3               /* so many times that, also when he says that he waits, too: he may wait for us in the end */
#define HEARD_BYTES 4096              /* on the link, between two looks: more than answers and signs of life take */
#define LOOK_MS 1000                  /* between looks at how fast others get it */
#define SLOW_FACTOR 3                 /* slower than the fastest by this: the ring has a slow link before us … */
#define SLOW_LOOKS 2                  /* … so many times in a row … */
#define USUAL_LOOKS 4                 /* … not by one second alone: a busy machine stops for as long … */
#define SLOW_LEFT (4u << 20)          /* … and so much is left that another feeder pays */
#define RING_AGAIN_LEFT (32u << 20)   /* so much that going back to the ring does */
#define RING_FAILURES_MAX 6
#define TRIAL_PACE (4u << 20)         /* bytes per second: when the ring gives less, and the end is */
#define TRIAL_LEFT_S 10               /* further away than this, the sender is tried */
#define TRIAL_MS 3000                 /* for so long */
#define WHOLE_KEPT_MS 600000          /* for a change that was announced and does not come */
#define PASSED_MS 2000                /* what was announced and then folded into a later save, or removed */
#define SERVED_MS 10000               /* a published content may still be asked for as one that arrives */

void fetch_resume_feeder(struct fetch *f)
{
	if (f->paused && f->feeder)
		link_resume(f->feeder);
	if (f->paused)
		f->heard_ms = cdm_now_ms(); /* we did not listen */
	f->paused = false;
}

void fetch_stop_asking(struct fetch *f)
{
	struct bytes frame = {0};
	if (!f->feeder)
		return;
	fetch_resume_feeder(f);
	fetch_flush_pieces(f);
	fetch_stop_encode(f->request, &frame);
	link_send_bare(f->feeder, f->set, FRAME_FETCH_STOP, frame.data, frame.len, NULL, 0);
	bytes_fini(&frame);
	f->feeder = NULL;
}

/* --- whom to ask --- */

static bool may_ask(const struct fetch *f, const struct link *l)
{
	return l && link_has(l, WIRE_FEATURE_FETCH) && !feed_feeds(f->set->node, f->set, f->version, l);
}

static struct link *ring_link(const struct fetch *f)
{
	struct node *node = f->set->node;
	const struct route *r = f->set->route;
	const struct member *m = r && cdm_now_ms() >= f->ring_bad_ms ? ring_before(r, node->id->number) : NULL;
	struct link *l = m ? link_find_up(node, m->name) : NULL;
	return may_ask(f, l) ? l : NULL;
}

static struct link *sender_link(const struct fetch *f)
{
	const struct peer *p = set_peer_by_serial(f->set, f->sender);
	return p && may_ask(f, p->link) ? p->link : NULL;
}

void fetch_sender_is(struct fetch *f, const struct peer *p)
{
	f->sender = p->serial;
	f->from_ring = f->feeder && f->feeder != p->link;
}

static void send_ask(const struct fetch *f, struct link *l, enum frame_type type)
{
	struct fetch_ask a = {.request = f->request, .version = f->version, .size = f->size, .from = f->came / BLOCK * BLOCK, .set = set_name(f->set),
		.set_len = strlen(set_name(f->set)), .path = f->path, .path_len = f->path_len};
	struct bytes frame = {0};
	fetch_ask_encode(&a, &frame);
	link_send_bare(l, f->set, type, frame.data, frame.len, NULL, 0);
	bytes_fini(&frame);
}

static uint64_t received_by(const struct link *l)
{
	uint64_t sent, received;
	link_counters(l, &sent, &received);
	return received;
}

static void ask(struct fetch *f, struct link *l)
{
	static uint32_t request;
	uint64_t from = f->came / BLOCK * BLOCK;
	if (++request == 0)
		request = 1;
	if (from != f->came) { /* the last block is sent again, from its start */
		f->came = from;
		f->hashed = false;
	}
	if (f->came == 0) { /* what an earlier try left does not stay where this one has holes */
		block_hash_begin(&f->hash, f->size);
		f->hashed = fetch_empty_file(f) == 0;
	}
	fetch_forget_pieces(f);
	f->request = request;
	f->feeder = l;
	f->heard_ms = f->fed_ms = f->looked_ms = cdm_now_ms();
	f->heard_bytes = received_by(l);
	f->slow_looks = 0;
	f->usual_pace = 0;
	f->answered = false;
	f->starved_ms = 0;
	f->looked_came = f->came;
	if (from)
		count_up(&f->set->counters.fetch_resumed_bytes, from);
	send_ask(f, l, FRAME_FETCH);
}

void fetch_step(struct fetch *f)
{
	if (f->whole || f->ended || f->gone || f->feeder || f->writes || !f->path || cdm_now_ms() < f->pause_ms || (f->was_full && !f->waiters))
		return;
	struct link *ring = ring_link(f), *sender = sender_link(f);
	f->from_ring = ring && ring != sender;
	if (ring || sender)
		ask(f, ring ? ring : sender);
	fetch_tick_wanted(f->set);
}

/* How long may it be silent? */
static int64_t patience_ms(const struct fetch *f)
{
	int64_t ms = f->gap_ms * SILENT_GAPS;
	return ms < SILENT_MS ? SILENT_MS : ms < SILENT_MOST_MS ? ms : SILENT_MOST_MS;
}

void fetch_heard(struct fetch *f, int64_t now)
{
	if (now - f->heard_ms > f->gap_ms)
		f->gap_ms = now - f->heard_ms;
	f->heard_ms = now;
}

/* A piece may take longer than a silence may last; but what comes may also be something else for ever. What we did not look at while we did not run ourselves is no silence, either. */
static void look_for_content(struct fetch *f, int64_t now, int64_t late_ms)
{
	uint64_t before = f->heard_bytes;
	if (!f->feeder)
		return;
	f->heard_bytes = received_by(f->feeder);
	if (f->heard_bytes >= before + HEARD_BYTES && now - f->fed_ms < SILENT_MOST_MS)
		fetch_heard(f, now);
	else if (late_ms > 0)
		f->heard_ms += late_ms;
}

/* The one before us waits, too: only who stands behind the slow link has to do something. */
static bool feeder_starves(const struct fetch *f)
{
	return f->starved_ms && cdm_now_ms() - f->starved_ms <= patience_ms(f);
}

void fetch_ring_failed(struct fetch *f)
{
	int64_t rest = FETCH_RING_AGAIN_MS << (f->ring_failures < RING_FAILURES_MAX ? f->ring_failures++ : RING_FAILURES_MAX);
	f->ring_bad_ms = cdm_now_ms() + rest;
}

/* Who was silent or slow may only have had nothing yet, and the link of the sender carries all that is left once for each that asks. */
static void look_at_ring(struct fetch *f)
{
	if (!f->feeder || f->from_ring || !f->ring_failures || f->trial == TRIAL_RUNS || f->size - f->came < RING_AGAIN_LEFT)
		return;
	struct link *ring = ring_link(f);
	if (!ring || ring == f->feeder)
		return;
	f->trial = TRIAL_NONE;
	fetch_stop_asking(f);
	fetch_step(f);
}

/* Nothing came for a while: the other one is asked, if there is one. */
static void look_at_silence(struct fetch *f, int64_t now)
{
	int64_t silent_ms = now - f->heard_ms, patience = patience_ms(f);
	if (!f->feeder || f->paused || f->writes || silent_ms < patience)
		return;
	struct link *other = f->from_ring ? sender_link(f) : ring_link(f);
	if (!other || other == f->feeder || (feeder_starves(f) && silent_ms < patience * STARVED_TIMES))
		return;
	if (f->from_ring) {
		count_up(&f->set->counters.fetch_bypassed, 1);
		fetch_ring_failed(f);
	}
	fetch_stop_asking(f);
	f->from_ring = !f->from_ring;
	ask(f, other);
}

/* The ring seems slow: is the sender better? If not, it may be our own link that is slow, and the ring is gone back to for good. */
static void try_sender(struct fetch *f)
{
	if (f->trial != TRIAL_NONE)
		return;
	count_up(&f->set->counters.fetch_bypassed, 1);
	f->trial = TRIAL_RUNS;
	f->trial_pace = f->usual_pace;
	f->ring_bad_ms = cdm_now_ms() + TRIAL_MS;
	fetch_stop_asking(f);
	fetch_step(f);
}

static void end_trial(struct fetch *f)
{
	f->trial = TRIAL_OVER;
	if (f->pace * 2 >= f->trial_pace * 3 || !ring_link(f)) {
		fetch_ring_failed(f);
		return;
	}
	fetch_stop_asking(f);
	fetch_step(f);
}

/* How fast others get it from the sender: is the ring much slower? And what our feeder has. */
int fetch_take_at(struct node *node, const struct link *l, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	struct fetch_at at;
	if (fetch_at_decode(payload, len, &at) < 0)
		return cdm_fail_plain(err, EBADMSG, "malformed FETCH_AT");
	struct fetch *f = fetch_find_request(node, NULL, at.request);
	if (f && f->feeder == l) {
		f->answered = true;
		if (at.elapsed == 1 && at.bytes < f->size && at.bytes < f->came + SLOW_LEFT) /* else it is not fed, or an older program */
			f->starved_ms = cdm_now_ms();
		return 0;
	}
	if (!f || !f->from_ring || !f->answered || feeder_starves(f) || !at.elapsed || f->size - f->came < SLOW_LEFT || at.bytes <= f->came)
		return 0;
	bool slower = (double)at.bytes * 1000 / (double)at.elapsed >= (double)f->usual_pace * SLOW_FACTOR;
	f->slow_looks = slower ? f->slow_looks + 1 : 0;
	if (f->slow_looks == SLOW_LOOKS)
		try_sender(f);
	return 0;
}

/* Slow, and far from its end: where nobody shows that it goes faster, trying does. */
static bool is_slow(const struct fetch *f)
{
	uint64_t left = f->size - f->came;
	return f->usual_pace < TRIAL_PACE && left > SLOW_LEFT && left > f->usual_pace * TRIAL_LEFT_S;
}

/* The ring's order may lead over a slow link: how do others fare who take it from whom we heard of it? */
static void look_at_pace(struct fetch *f, int64_t now)
{
	if (!f->feeder || now - f->looked_ms < LOOK_MS)
		return;
	bool held = f->held; /* what we did not take tells nothing of the feeder */
	f->pace = (f->came - f->looked_came) * 1000 / (uint64_t)(now - f->looked_ms);
	f->looked_ms = now;
	f->looked_came = f->came;
	f->held = f->paused;
	struct link *sender = sender_link(f);
	if (f->from_ring)
		send_ask(f, f->feeder, FRAME_FETCH_LOOK);
	if (held)
		return;
	f->usual_pace = f->usual_pace ? (f->usual_pace * (USUAL_LOOKS - 1) + f->pace) / USUAL_LOOKS : f->pace;
	if (f->trial == TRIAL_RUNS && !f->from_ring && now >= f->ring_bad_ms)
		end_trial(f);
	else if (f->trial == TRIAL_NONE && f->from_ring && sender && is_slow(f) && !feeder_starves(f))
		try_sender(f);
	else if (f->trial == TRIAL_NONE && f->from_ring && sender)
		send_ask(f, sender, FRAME_FETCH_LOOK);
}

/* Nobody asked for it, and changes that came after it are visible here: its own will hardly come. */
static bool is_passed(const struct fetch *f)
{
	return f->whole && f->name[0] && !f->waiters && cdm_vector_covers(&f->set->follow.visible, f->version);
}

static bool is_over(const struct fetch *f, int64_t now)
{
	int64_t kept = !f->whole ? (f->was_full ? FETCH_PART_FULL_MS : FETCH_PART_KEPT_MS) : is_passed(f) ? PASSED_MS : f->name[0] ? WHOLE_KEPT_MS : SERVED_MS;
	return (f->refs == 1 || f->was_full) && !f->waiters && !f->feeder && now - f->used_ms > kept;
}

static void tick(void *arg)
{
	struct set *s = arg;
	int64_t now = cdm_now_ms(), late_ms = now - s->fetch_tick_ms;
	s->fetch_timer = NULL;
	for (struct fetch *f = s->fetches, *next; f; f = next) {
		next = f->next;
		if (is_over(f, now)) {
			fetch_drop(f);
			continue;
		}
		look_for_content(f, now, late_ms);
		if (now - f->heard_ms >= TICK_MS)
			fetch_flush_pieces(f);
		look_at_silence(f, now);
		look_at_ring(f);
		look_at_pace(f, now);
		fetch_step(f);
	}
	fetch_queue_step(s);
	fetch_tick_wanted(s);
}

/* While something is being fetched or served; what is only kept does not wake the machine. */
void fetch_tick_wanted(struct set *s)
{
	bool busy = false;
	for (const struct fetch *f = s->fetches; f && !busy; f = f->next)
		busy = f->feeder || f->waiters || (f->whole && !f->name[0]) || is_passed(f) || f->was_full;
	if ((busy || s->fetch_queue) && !s->fetch_timer && !s->stopping) {
		s->fetch_tick_ms = cdm_now_ms() + TICK_MS;
		s->fetch_timer = cdm_loop_after(s->node->loop, TICK_MS, tick, s);
	}
}

void fetch_moved(struct set *s)
{
	fetch_tick_wanted(s);
}

struct fetch *fetch_find_request(struct node *node, const struct link *feeder, uint32_t request)
{
	for (size_t i = 0; i < node->set_count; i++)
		for (struct fetch *f = node->sets[i]->fetches; f; f = f->next)
			if (f->feeder && (!feeder || f->feeder == feeder) && f->request == request)
				return f;
	return NULL;
}

