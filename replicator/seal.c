/* SPDX-License-Identifier: Apache-2.0 */
/* seal.c — seals come, are verified, kept, and go on to the neighbours. */
#include "replicator/seal_internal.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "replicator/quarantine.h"
#include "replicator/route.h"
#include "replicator/scrub_internal.h"
#include "replicator/seal_sign.h"
#include "replicator/wire_codec.h"

#define REFUSED_MAX 16 /* of one link; after that none of its is looked at */

/* --- kept --- */

void kept_release(struct kept **at)
{
	struct kept *k = *at;
	*at = NULL;
	if (k && --k->references == 0)
		free(k);
}

static void forget_oldest(struct seals *seals)
{
	struct kept *k = seals->first;
	seals->first = k->next;
	if (!seals->first)
		seals->last = &seals->first;
	seals->bytes -= k->len;
	k->next = NULL;
	kept_release(&k);
}

static struct kept *keep(struct seals *seals, const struct seal *s, const uint8_t *payload, size_t len, uint64_t serial)
{
	struct kept *k = malloc(sizeof *k + len);
	if (!k)
		abort();
	*k = (struct kept){.references = 1, .number = ++seals->number, .serial = serial, .came_ms = cdm_now_ms(), .upto = s->upto, .names = s->count, .len = len,
		.of = {CDM_ORIGIN_NODE(s->upto.origin), s->clock}};
	memcpy(k->payload, payload, len);
	*seals->last = k;
	seals->last = &k->next;
	seals->bytes += len;
	while (seals->bytes > SEALS_KEPT_MAX && seals->first != k)
		forget_oldest(seals);
	return k;
}

/* --- on to the neighbours --- */

static bool has_seen(const struct seal_seen *seen, const struct seal_author *of)
{
	for (size_t i = 0; i < seen->count; i++)
		if (seen->authors[i].number == of->number)
			return seen->authors[i].clock >= of->clock;
	return false;
}

/* Until it told what it has seen it gets none. */
static void send_on(struct seals *seals, struct peer *p)
{
	struct kept *k = p->seals_seen ? seals->first : NULL;
	for (; k && link_queued(p->link) <= LINK_QUEUE_LOW; k = k->next) { /* content goes first */
		if (k->number <= p->seals_sent)
			continue;
		p->seals_sent = k->number;
		if (k->serial != p->serial && !has_seen(p->seals_seen, &k->of))
			link_send(p->link, seals->set, FRAME_SEAL, WIRE_FLAG_MAY_SKIP, k->payload, k->len, NULL, 0);
	}
}

struct kept *seals_spread(struct seals *seals, const struct seal *s, const uint8_t *payload, size_t len, uint64_t serial)
{
	struct kept *k = keep(seals, s, payload, len, serial);
	for (struct peer *p = seals->set->peers; p; p = p->next)
		send_on(seals, p);
	return k;
}

void seals_subscribed(struct peer *p)
{
	struct seals *seals = p->set->seals;
	if (!link_has(p->link, WIRE_FEATURE_SEALS))
		return;
	struct seal_seen *seen = calloc(1, sizeof *seen);
	struct bytes frame = {0};
	if (!seen)
		abort();
	for (; seen->count < seals->author_count && seen->count < SEAL_AUTHORS_MAX; seen->count++) {
		const struct author *a = &seals->authors[seen->count];
		seen->authors[seen->count] = (struct seal_author){a->number, chain_unbroken(&a->chain, a->newest)};
	}
	seal_seen_encode(seen, &frame);
	link_send(p->link, p->set, FRAME_SEAL_SEEN, WIRE_FLAG_MAY_SKIP, frame.data, frame.len, NULL, 0);
	bytes_fini(&frame);
	free(seen);
}

int seals_seen(struct peer *p, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	struct seal_seen *seen = calloc(1, sizeof *seen);
	if (!seen)
		abort();
	if (!link_has(p->link, WIRE_FEATURE_SEALS)) {
		free(seen);
		return 0;
	}
	if (p->seals_seen || seal_seen_decode(payload, len, seen) < 0) {
		free(seen);
		return cdm_fail_plain(err, EBADMSG, "SEAL_SEEN malformed or repeated");
	}
	for (size_t i = 0; i < seen->count; i++)
		if (seen->authors[i].number == p->set->node->id->number)
			seal_maker_knows(p->set->seals->maker, seen->authors[i].clock);
	p->seals_seen = realloc(seen, offsetof(struct seal_seen, authors) + seen->count * sizeof *seen->authors);
	if (!p->seals_seen)
		abort();
	send_on(p->set->seals, p);
	return 0;
}

void seals_peer_gone(struct peer *p)
{
	free(p->seals_seen);
	p->seals_seen = NULL;
}

void seals_drained(struct peer *p)
{
	send_on(p->set->seals, p);
}

/* --- coming --- */

struct author *seals_find_author(struct seals *seals, uint32_t number)
{
	for (size_t i = 0; i < seals->author_count; i++)
		if (seals->authors[i].number == number)
			return &seals->authors[i];
	return NULL;
}

static struct author *author_of(struct seals *seals, uint32_t number)
{
	struct author *a = seals_find_author(seals, number);
	if (a)
		return a;
	seals->authors = realloc(seals->authors, (seals->author_count + 1) * sizeof *seals->authors);
	if (!seals->authors)
		abort();
	a = &seals->authors[seals->author_count++];
	*a = (struct author){.number = number};
	return a;
}

/* Did this one come before, or is it older than what we remember, and not missed? */
static bool has_come(const struct author *a, const struct seal *s)
{
	for (size_t i = 0; i < SEEN_MAX; i++)
		if (a->seen[i] == s->clock)
			return true;
	return s->clock <= a->floor && !chain_wants(&a->chain, s);
}

static void note_clock(struct author *a, uint64_t clock)
{
	uint64_t *slot = &a->seen[a->seen_next++ % SEEN_MAX];
	if (*slot > a->floor)
		a->floor = *slot;
	*slot = clock;
	if (clock > a->newest)
		a->newest = clock;
}

/* Only members that may write are remembered, so their number bounds the table. */
bool seals_may_seal(const struct set *s, uint32_t number)
{
	const struct member *m = s->route ? route_member_number(s->route, number) : NULL;
	return m && m->role & CDM_ROLE_SOURCE;
}

static void refuse(struct peer *p, struct cdm_error *err)
{
	if (p->seals_refused++ == 0)
		cdm_log_err(seal_refused, err, cdm_str("set", set_name(p->set)), cdm_str("peer", link_peer_name(p->link)));
}

/* One that is not good goes no further. It does not end the link: no change depends on it. */
static void take(struct seals *seals, struct peer *p, const struct seal *s, const uint8_t *payload, size_t len)
{
	struct set *set = seals->set;
	struct cdm_error err = CDM_ERROR_INIT;
	uint32_t number = CDM_ORIGIN_NODE(s->upto.origin), signer = 0;
	if (number == set->node->id->number || !seals_may_seal(set, number) || has_come(author_of(seals, number), s))
		return;
	int r = strcmp(s->set, set_name(set)) == 0 ? seal_verify(set->node, s, &signer, &err) : cdm_fail_plain(&err, EACCES, "a seal of another set");
	if (r == 0 && signer != number)
		r = cdm_fail_plain(&err, EACCES, "a seal that speaks for changes that are not its author's");
	if (r < 0) {
		refuse(p, &err);
		return;
	}
	struct author *a = author_of(seals, number);
	missing_took(seals, a, s);
	note_clock(a, s->clock);
	count_up(&set->counters.seals_taken, 1);
	struct kept *k = seals_spread(seals, s, payload, len, p->serial);
	if (s->count)
		seal_checker_add(seals->checker, k);
}

int seals_frame(struct peer *p, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	if (p->seals_refused >= REFUSED_MAX)
		return 0; /* unread: the signatures of forged ones cost time, too */
	struct seal *s = malloc(sizeof *s);
	if (!s)
		abort();
	int r = seal_decode(payload, len, s);
	if (r < 0)
		cdm_fail_plain(err, EBADMSG, "malformed SEAL");
	else
		take(p->set->seals, p, s, payload, len);
	seal_fini(s);
	free(s);
	return r;
}

bool seals_at_rest(struct set *s)
{
	char first[256];
	return scrub_is_at_rest(s) && !quarantine_describe(s->quarantine, first, sizeof first);
}

/* --- life --- */

void seals_note(struct set *s, const struct cdm_change *c)
{
	seal_maker_note(s->seals->maker, c);
}

void seals_ready(struct set *s)
{
	seal_maker_go(s->seals->maker);
	seal_maker_moved(s->seals->maker);
	seal_checker_step(s->seals->checker);
}

void seals_moved(struct set *s)
{
	seal_maker_moved(s->seals->maker);
	seal_checker_moved(s->seals->checker);
}

static const struct sealed *find_content(const struct seal *seal, struct cdm_dot version)
{
	for (size_t i = 0; i < seal->count; i++)
		if (seal->names[i].there && S_ISREG(seal->names[i].mode) && seal_tells_content(&seal->names[i]) && cdm_dot_equal(seal->names[i].stamp.content.dot, version))
			return &seal->names[i];
	return NULL;
}

bool seals_tell(const struct set *s, struct cdm_dot version, uint8_t ret_digest[SEAL_DIGEST])
{
	struct seal *seal = malloc(sizeof *seal);
	const struct sealed *found = NULL;
	if (!seal)
		abort();
	for (const struct kept *k = s->seals->first; k && !found; k = k->next) {
		if (k->of.number != CDM_ORIGIN_NODE(version.origin) || seal_decode(k->payload, k->len, seal) < 0)
			continue;
		found = find_content(seal, version);
		if (found)
			memcpy(ret_digest, found->content, SEAL_DIGEST);
		seal_fini(seal);
	}
	free(seal);
	return found;
}

bool seals_describe(const struct set *s, char *out, size_t room)
{
	return seal_checker_describe(s->seals->checker, out, room);
}

struct seals *seals_new(struct set *s)
{
	struct seals *seals = calloc(1, sizeof *seals);
	if (!seals)
		abort();
	seals->set = s;
	seals->last = &seals->first;
	seals->maker = seal_maker_new(seals);
	seals->checker = seal_checker_new(seals);
	return seals;
}

void seals_stop(struct set *s)
{
	if (!s->seals)
		return;
	cdm_timer_cancel(&s->seals->look);
	seal_maker_stop(s->seals->maker);
	seal_checker_stop(s->seals->checker);
}

void seals_free(struct set *s)
{
	struct seals *seals = s->seals;
	s->seals = NULL;
	if (!seals)
		return;
	while (seals->first)
		forget_oldest(seals);
	seal_maker_free(&seals->maker);
	seal_checker_free(&seals->checker);
	free(seals->authors);
	free(seals);
}
