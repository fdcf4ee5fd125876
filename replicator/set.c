/* SPDX-License-Identifier: Apache-2.0 */
/* set.c — one set on this node: its life, its peers, its frames, and what the control layer asks. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>
#include "common/io.h"
#include "replicator/base.h"
#include "replicator/deltas.h"
#include "replicator/fetch.h"
#include "replicator/overtaken.h"
#include "replicator/publish.h"
#include "replicator/quarantine.h"
#include "replicator/rights.h"
#include "replicator/content_cache.h"
#include "replicator/scrub.h"
#include "replicator/seal.h"
#include "replicator/ship.h"
#include "replicator/state.h"
#include "replicator/unsure.h"

#define ACK_MS 50 /* vectors that moved without a batch are told at most this often */

const char *set_name(const struct set *s)
{
	return s->conf->name;
}

struct node *set_node(const struct set *s)
{
	return s->node;
}

const struct route *set_get_route(const struct set *s)
{
	return s->route;
}

void set_ready(struct set *s)
{
	s->ready = true;
	if (!s->swept) {
		stage_sweep(s->staging_fd); /* leftovers of an earlier run: what is still wanted comes again */
		fetch_start(s);
	}
	s->swept = true;
	publisher_seed(s->publisher, &s->follow.visible, s->follow.own_raw);
	rights_ready(s);
	unsure_ready(s);
	unreadable_ready(s);
	scrub_ready(s);
	seals_ready(s);
	doubt_ready(s);
	for (struct peer *p = s->peers; p; p = p->next)
		set_subscribe_peer(p);
	durable_wanted(s);
	state_changed(s);
}

/* --- lifecycle --- */

int set_new(struct node *node, const struct cdm_set_conf *conf, struct set **ret, struct cdm_error *err)
{
	struct set *s = calloc(1, sizeof *s);
	if (!s)
		return cdm_fail(err, ENOMEM, "start set %s", conf->name);
	s->magic = SET_MAGIC;
	pthread_mutex_init(&s->policy_lock, NULL);
	s->node = node;
	s->conf = conf;
	s->staging_fd = s->conflicts_fd = s->mounts_fd = -1;
	s->store_fd = open(conf->store, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r = 0;
	if (s->store_fd < 0) {
		r = cdm_fail(err, errno, "open the store %s of set %s", conf->store, conf->name);
		cdm_hint(err, "create the directory, or correct `store` in [set %s] of %s", conf->name, node->conf->path);
	} else if ((s->mounts_fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC)) < 0) {
		r = cdm_fail(err, errno, "open /proc/self/mountinfo");
	} else if (asprintf(&s->run_dir, "%s/%s", node->conf->run, conf->name) < 0) {
		s->run_dir = NULL;
		r = cdm_fail(err, ENOMEM, "start set %s", conf->name);
	}
	if (r == 0) {
		s->applier = cdm_worker_new(node->loop, "cdm-apply");
		s->walker = cdm_worker_new(node->loop, "cdm-walk");
		s->caller = cdm_worker_new(node->loop, "cdm-call");
		s->syncer = cdm_worker_new(node->loop, "cdm-sync");
		s->scrub = scrub_new(s);
		if (!s->applier || !s->walker || !s->caller || !s->syncer || !s->scrub)
			r = cdm_fail(err, EAGAIN, "start the threads of set %s", conf->name);
	}
	s->quarantine = quarantine_new();
	s->overtaken = overtaken_new();
	s->publisher = publisher_new(s);
	s->content_cache = content_cache_new();
	s->seals = seals_new(s);
	if (r < 0) {
		set_free(&s);
		return r;
	}
	cdm_policy_load(node->conf, conf->name, &s->policy, NULL);
	set_mount_begin(s);
	*ret = s;
	return 0;
}

void set_let_go(struct set *s)
{
	if (!s->over || s->mounts_io || s->follow.wake || s->posted || s->writing)
		return;
	deltas_free(&s->deltas);
	seals_free(s);
	scrub_free(s);
	pthread_mutex_destroy(&s->policy_lock);
	free(s);
}

static void set_over(void *arg)
{
	struct set *s = arg;
	s->over = true;
	set_let_go(s);
}

void set_free(struct set **set)
{
	struct set *s = *set;
	if (!s)
		return;
	*set = NULL;
	s->stopping = true;
	adopt_stop(s);
	doubt_stop(s);
	seals_stop(s);
	rights_stop(s);
	scrub_stop(s);
	while (s->peers)
		set_link_down(s, s->peers->link);
	barrier_fail_all(s, -ECANCELED);
	unsure_free(s);
	durable_stop(s);
	publisher_stop(s->publisher);
	feed_stop(s);
	fetch_stop(s);
	set_mount_stop(s);
	follow_stop(s);
	unreadable_stop(s);
	cdm_worker_free(&s->applier);
	cdm_worker_free(&s->walker);
	cdm_worker_free(&s->caller);
	cdm_worker_free(&s->syncer);
	deltas_stop(s->deltas);
	publisher_free(&s->publisher);
	content_cache_free(&s->content_cache);
	quarantine_free(&s->quarantine);
	overtaken_free(&s->overtaken);
	int fds[] = {s->store_fd, s->staging_fd, s->conflicts_fd, s->mounts_fd};
	for (size_t i = 0; i < 4; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	s->store_fd = s->staging_fd = s->conflicts_fd = s->mounts_fd = -1;
	cdm_vector_fini(&s->follow.visible);
	cdm_vector_fini(&s->durable.vector);
	cdm_policy_fini(&s->policy);
	free(s->run_dir);
	cdm_loop_post(s->node->loop, set_over, s); /* behind what the workers sent; cancelled polls and writes come yet */
}

void set_route(struct set *s, const struct route *route)
{
	s->route = route;
	pthread_mutex_lock(&s->policy_lock);
	cdm_policy_fini(&s->policy);
	cdm_policy_load(s->node->conf, set_name(s), &s->policy, NULL);
	pthread_mutex_unlock(&s->policy_lock);
	set_mount_reload(s);
	rights_changed(s);
	seals_members_changed(s);
}

/* --- peers --- */

struct peer *set_peer(struct set *s, const struct link *l)
{
	struct peer *p = s->peers;
	while (p && p->link != l)
		p = p->next;
	return p;
}

struct peer *set_peer_by_serial(struct set *s, uint64_t serial)
{
	struct peer *p = s->peers;
	while (p && p->serial != serial)
		p = p->next;
	return p;
}

struct peer *set_parent_peer(struct set *s)
{
	struct peer *found = NULL;
	for (struct peer *p = s->peers; p; p = p->next)
		if (p->towards_parent && p->subscribed && (!found || state_is_stuck(s->node, s, found->number)))
			found = p;
	return found;
}

void set_link_up(struct set *s, struct link *l, bool towards_parent)
{
	if (set_peer(s, l))
		return;
	struct peer *p = calloc(1, sizeof *p);
	if (!p)
		abort();
	p->magic = PEER_MAGIC;
	p->set = s;
	p->link = l;
	p->number = link_peer_number(l);
	p->serial = ++s->peer_serial;
	p->towards_parent = towards_parent;
	p->next = s->peers;
	s->peers = p;
	ship_new(p);
	receive_new(p);
	if (s->ready)
		set_subscribe_peer(p);
}

void set_link_down(struct set *s, struct link *l)
{
	for (struct peer **at = &s->peers; *at; at = &(*at)->next) {
		struct peer *p = *at;
		if (p->link != l)
			continue;
		*at = p->next;
		p->subscribed = false;
		cdm_timer_cancel(&p->ack);
		adopt_peer_gone(p);
		unsure_peer_gone(p);
		doubt_child_gone(p);
		scrub_peer_gone(p);
		seals_peer_gone(p);
		publisher_peer_gone(s->publisher, p->serial);
		resync_free(p);
		ship_free(p);
		receive_free(p);
		cdm_vector_fini(&p->has);
		cdm_vector_fini(&p->visible);
		cdm_vector_fini(&p->durable);
		cdm_vector_fini(&p->gives);
		cdm_vector_fini(&p->passed_over);
		if (p->early)
			subscribe_fini(p->early);
		free(p->early);
		free(p);
		return;
	}
}

void set_link_drained(struct set *s, struct link *l)
{
	struct peer *p = set_peer(s, l);
	if (!p)
		return;
	resync_drained(p);
	seals_drained(p); /* they are few, and under load there is never room behind what is produced now */
	ship_kick(p);
}

static void peer_subscribed(struct peer *p, const struct subscribe *sub)
{
	cdm_vector_copy(&p->visible, &sub->visible);
	cdm_vector_copy(&p->durable, &sub->durable);
	p->subscribed = true;
	rights_subscribed(p, &sub->visible);
	identity_check(p, &sub->visible);
	unsure_subscribed(p, &sub->visible);
	ship_subscribed(p, sub);
	if (p->towards_parent)
		doubt_parent_is_there(p->set);
	else
		doubt_child_is_there(p);
	scrub_peer_is_there(p);
	seals_subscribed(p);
}

void set_subscribe_peer(struct peer *p)
{
	struct set *s = p->set;
	if (p->told)
		return;
	struct subscribe sub = {.visible = s->follow.visible, .durable = s->durable.vector,
		.flags = s->follow.visible.count ? 0 : SUBSCRIBE_EMPTY | (set_has_unstamped(s) ? SUBSCRIBE_RESYNC : 0)};
	struct bytes frame = {0};
	if (s->wants_resync || unsure_compares(s, p))
		sub.flags |= SUBSCRIBE_RESYNC;
	s->wants_resync = false;
	p->was_empty = sub.flags & SUBSCRIBE_EMPTY;
	p->asked_tree = sub.flags & SUBSCRIBE_RESYNC;
	p->root_due = p->was_empty && p->towards_parent;
	subscribe_encode(&sub, &frame);
	link_send(p->link, s, FRAME_SUBSCRIBE, 0, frame.data, frame.len, NULL, 0);
	bytes_fini(&frame);
	p->told = true;
	struct subscribe *early = p->early;
	p->early = NULL;
	if (early) {
		peer_subscribed(p, early);
		subscribe_fini(early);
		free(early);
	}
}

static int take_subscribe(struct peer *p, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	struct subscribe *sub = calloc(1, sizeof *sub);
	if (!sub)
		abort();
	int r = subscribe_decode(payload, len, sub);
	if (r < 0 || p->subscribed || p->early) {
		if (r == 0)
			subscribe_fini(sub);
		free(sub);
		return cdm_fail_plain(err, EBADMSG, "SUBSCRIBE malformed or repeated");
	}
	if (!p->told) {
		p->early = sub;
		return 0;
	}
	peer_subscribed(p, sub);
	subscribe_fini(sub);
	free(sub);
	return 0;
}

void set_send_ack(struct peer *p, uint64_t batch)
{
	cdm_timer_cancel(&p->ack);
	p->acked_ms = cdm_now_ms();
	struct ack ack = {.batch = batch, .visible = p->set->follow.visible, .durable = p->set->durable.vector};
	struct bytes frame = {0};
	ack_encode(&ack, &frame);
	link_send(p->link, p->set, FRAME_ACK, 0, frame.data, frame.len, NULL, 0);
	bytes_fini(&frame);
}

static void ack_over(void *arg)
{
	struct peer *p = arg;
	p->ack = NULL;
	set_send_ack(p, 0);
}

/* Only the vectors moved: nobody waits for that on this link. */
static void ack_later(struct peer *p)
{
	int64_t wait = p->acked_ms + ACK_MS - cdm_now_ms();
	if (wait <= 0)
		set_send_ack(p, 0);
	else if (!p->ack)
		p->ack = cdm_loop_after(p->set->node->loop, wait, ack_over, p);
}

static int take_ack(struct peer *p, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	struct ack ack;
	if (ack_decode(payload, len, &ack) < 0)
		return cdm_fail_plain(err, EBADMSG, "malformed ACK");
	cdm_vector_merge(&p->visible, &ack.visible);
	cdm_vector_merge(&p->durable, &ack.durable);
	uint64_t batch = ack.batch;
	ack_fini(&ack);
	if (p->visible.count > CDM_VECTOR_MAX || p->durable.count > CDM_VECTOR_MAX)
		return cdm_fail_plain(err, EOVERFLOW, "acknowledgements of more than %d origins", CDM_VECTOR_MAX);
	if (batch)
		ship_acked(p, batch);
	return 0;
}

static int take_need(struct peer *p, uint8_t flags, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	struct need need;
	if (need_decode(payload, len, &need) < 0)
		return cdm_fail_plain(err, EBADMSG, "malformed NEED");
	if (p->ack)
		set_send_ack(p, 0); /* the answer counts together with what we know */
	return ship_need(p, &need, flags, err);
}

static int take_signature(struct peer *p, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	struct signature_part part;
	if (signature_part_decode(payload, len, &part) < 0)
		return cdm_fail_plain(err, EBADMSG, "malformed SIGNATURE");
	return ship_signature(p, &part, err);
}

int set_frame(struct set *s, struct link *l, enum frame_type type, uint8_t flags, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	struct peer *p = set_peer(s, l);
	if (!p)
		return 0; /* on its way down */
	switch ((unsigned)type) {
	case FRAME_SUBSCRIBE:
		return take_subscribe(p, payload, len, err);
	case FRAME_ACK:
		return take_ack(p, payload, len, err);
	case FRAME_NEED:
		return take_need(p, flags, payload, len, err);
	case FRAME_SIGN:
		return base_sign(p, payload, len, err);
	case FRAME_SIGNATURE:
		return take_signature(p, payload, len, err);
	default:
		if (type == FRAME_RESYNC_DIR && scrub_is_asking(p))
			return scrub_dir(p, flags, payload, len, err);
		if (type == FRAME_RESYNC_DIR && adopt_is_asking(p))
			return adopt_dir(p, flags, payload, len, err);
		if (!p->told)
			return cdm_fail_plain(err, EBADMSG, "frame type %u before SUBSCRIBE", (unsigned)type);
		if (type >= FRAME_RESYNC_START && type <= FRAME_RESYNC_END)
			return resync_frame(p, type, flags, payload, len, err);
		if (type >= FRAME_SCRUB_ASK && type <= FRAME_SCRUB_LOOK)
			return scrub_frame(p, type, payload, len, err);
		if (type == FRAME_SEAL)
			return seals_frame(p, payload, len, err);
		if (type == FRAME_SEAL_SEEN)
			return seals_seen(p, payload, len, err);
		return receive_frame(p, type, flags, payload, len, err);
	}
}

/* --- state --- */

void set_moved(struct set *s)
{
	for (struct peer *p = s->peers; p; p = p->next)
		if (p->told)
			ack_later(p);
	state_changed(s);
	durable_wanted(s);
	unsure_moved(s);
	seals_moved(s);
	fetch_moved(s);
}

void set_pause_reason(struct set *s, const char *code, const char *reason)
{
	if (strcmp(s->paused_code, code) == 0)
		return;
	snprintf(s->paused_code, sizeof s->paused_code, "%s", code);
	snprintf(s->paused_reason, sizeof s->paused_reason, "%s", reason);
	cdm_log(set_paused, cdm_str("set", set_name(s)), cdm_str("reason", code[0] ? code : "goes on"), cdm_str("msg", reason));
	state_changed(s);
}

void set_receive_full(struct set *s, bool full)
{
	if (s->receive_full == full)
		return;
	s->receive_full = full;
	cdm_log(set_paused, cdm_str("set", set_name(s)), cdm_str("reason", full ? "disk_full" : "goes on"),
		cdm_str("msg", full ? "no space for received content" : ""));
	state_tell_now(s); /* the link may be about to end */
}

/* "disk full on /srv/www (1.2 MiB free); tried again every few seconds" */
static void describe_full(struct set *s, char *out, size_t room)
{
	struct statvfs v;
	double free_kib = fstatvfs(s->store_fd, &v) == 0 ? (double)v.f_bavail * (double)v.f_frsize / 1024 : 0;
	snprintf(out, room, "disk full on %.150s (%.*f %s free); tried again every few seconds", s->conf->store, free_kib >= 1024,
		free_kib >= 1024 ? free_kib / 1024 : free_kib, free_kib >= 1024 ? "MiB" : "KiB");
}

static bool root_is_due(const struct set *s)
{
	for (const struct peer *p = s->peers; p; p = p->next)
		if (p->root_due)
			return true;
	return false;
}

/* "proven equal 2026-11-28 03:12:07Z with n1"; view.c reads it again. */
static bool describe_proof(const struct set_state *state, char *out, size_t room)
{
	char at[32];
	time_t when = (time_t)state->proven_s;
	struct tm tm;
	if (!when)
		return false;
	gmtime_r(&when, &tm);
	strftime(at, sizeof at, "%Y-%m-%d %H:%M:%SZ", &tm);
	snprintf(out, room, "proven equal %s with %s", at, state->proven_with);
	return true;
}

void set_get_state(struct set *s, struct set_state *ret)
{
	*ret = (struct set_state){.visible = s->follow.visible, .durable = s->durable.vector};
	const char *state = "ok", *code = "", *reason = "", *with;
	char text[256];
	ret->proven_s = scrub_proven(s, &with);
	snprintf(ret->proven_with, sizeof ret->proven_with, "%s", with);
	if (!s->mounted) {
		state = code = "not_mounted";
		reason = "the set is not mounted on this node";
	} else if (s->receive_full || strcmp(s->paused_code, "disk_full") == 0) {
		state = "paused";
		code = "disk_full";
		describe_full(s, text, sizeof text);
		reason = text;
	} else if (s->paused_code[0]) {
		state = "paused";
		code = s->paused_code;
		reason = s->paused_reason;
	} else if (s->held_reason[0]) {
		state = "paused";
		code = "held";
		reason = s->held_reason;
	} else if (s->resyncing) {
		state = code = "resync";
		reason = "comparing trees with its parent";
	} else if (s->doubt.only_unlooked) {
		state = code = "resync";
		reason = "a directory could not be looked at: trees will be compared again";
	} else if (doubt_is_open(s)) {
		state = code = "resync";
		reason = s->doubt.raised ? "a conflict: trees will be compared" : "those that it feeds compare trees after a conflict";
	} else if (root_is_due(s)) {
		state = code = "resync";
		reason = "the attributes of the root directory are on their way";
	} else if (quarantine_describe(s->quarantine, text, sizeof text)) {
		code = quarantine_count_aside(s->quarantine, "", 0) ? "quarantined" : "unreadable"; /* it lacks something; or the others do */
		reason = text;
	} else if (seals_describe(s, text, sizeof text)) {
		code = "seal_broken";
		reason = text;
	} else if (seals_describe_missing(s, text, sizeof text)) {
		code = "seal_missing";
		reason = text;
	} else if (describe_proof(ret, text, sizeof text)) {
		code = "proven";
		reason = text;
	}
	snprintf(ret->state, sizeof ret->state, "%s", state);
	snprintf(ret->reason_code, sizeof ret->reason_code, "%s", code);
	snprintf(ret->reason, sizeof ret->reason, "%s", reason);
}

void set_pending(struct set *s, const struct cdm_vector *vector, struct set_pending *ret)
{
	const struct follow *f = &s->follow;
	*ret = (struct set_pending){0};
	if (cdm_vector_covers_all(vector, &f->visible))
		return;
	uint64_t known = f->recent_head < RECENT_MAX ? f->recent_head : RECENT_MAX;
	for (uint64_t i = 0; i < known; i++) {
		const struct recent *r = &f->recent[(f->recent_head - 1 - i) % RECENT_MAX];
		if (cdm_vector_covers(vector, r->dot))
			continue;
		ret->changes++;
		ret->bytes += r->bytes;
		if (!ret->oldest_ns || r->wall_ns < ret->oldest_ns)
			ret->oldest_ns = r->wall_ns;
	}
	if (!ret->changes) { /* older than the ring */
		ret->changes = 1;
		ret->oldest_ns = cdm_wall_ns();
	}
}

void set_sent(struct set *s, uint64_t bytes)
{
	count_up(&s->counters.sent_bytes, bytes);
}

json_t *set_stats(struct set *s)
{
	json_t *o = json_object();
#define STAT(name) json_object_set_new(o, #name, json_integer((json_int_t)atomic_load(&s->counters.name)))
	STAT(batches_sent), STAT(changes_sent), STAT(content_sent_bytes), STAT(folded), STAT(superseded);
	STAT(batches_received), STAT(changes_received), STAT(content_received_bytes), STAT(applied), STAT(already_there), STAT(skipped);
	STAT(needs_sent), STAT(needs_answered), STAT(conflicts), STAT(quarantined), STAT(checkpoints), STAT(assembled);
	STAT(deltas_sent), STAT(deltas_passed_on), STAT(delta_saved_bytes), STAT(deltas_applied), STAT(deltas_refused), STAT(signatures), STAT(signing);
	STAT(fetched), STAT(fetched_bytes), STAT(fetch_resumed_bytes), STAT(fetch_damaged), STAT(fetch_bypassed), STAT(fed_bytes);
	STAT(full_resync_count), STAT(verify_count), STAT(resync_bytes), STAT(resync_same), STAT(resync_fetched), STAT(resync_deleted);
	STAT(scrubs), STAT(scrub_files), STAT(scrub_differences), STAT(scrub_mended), STAT(scrub_undecided);
	STAT(seals_made), STAT(seals_taken), STAT(seal_names), STAT(seal_equal), STAT(seal_broken), STAT(seal_missing), STAT(seal_left_out);
	STAT(sent_bytes), STAT(ranges_saved_bytes);
#undef STAT
	uint64_t content = atomic_load(&s->counters.content_sent_bytes);
	uint64_t saved = atomic_load(&s->counters.delta_saved_bytes) + atomic_load(&s->counters.ranges_saved_bytes);
	json_object_set_new(o, "after_delta_bytes", json_integer((json_int_t)content));
	json_object_set_new(o, "offered_bytes", json_integer((json_int_t)(content + saved)));
	return o;
}

double set_journal_full_s(struct set *s)
{
	if (!s->follow.reader)
		return -1;
	uint64_t position = cdm_journal_reader_position(s->follow.reader);
	int64_t now_s = cdm_now_ms() / 1000;
	growth_note(&s->growth, now_s, position);
	return growth_full_s(&s->growth, now_s, position, cdm_journal_limit(s->conf->journal_bytes, s->store_fd));
}
