/* SPDX-License-Identifier: Apache-2.0 */
/* resync.c — the sender's side of comparing trees (resync.h), and the frames of both. */
#include "replicator/resync.h"
#include "replicator/overtaken.h"
#include "replicator/quarantine.h"
#include "replicator/rights.h"
#include "replicator/ship.h"
#include "replicator/wire_codec.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LISTINGS_MAX 32   /* requests a receiver may have open */
#define DIR_FRAME_BYTES (96u << 10)

static struct resync *resync_of(struct peer *p)
{
	if (!p->resync && !(p->resync = calloc(1, sizeof *p->resync)))
		abort();
	return p->resync;
}

void resync_begin(struct peer *p, uint8_t flags)
{
	struct set *s = p->set;
	struct resync *r = resync_of(p);
	char reason[256];
	if (quarantine_describe(s->quarantine, reason, sizeof reason))
		flags |= RESYNC_INCOMPLETE;
	if (!rights_writes(p))
		flags |= RESYNC_KEEP;
	p->ship->phase = SHIP_RESYNC;
	r->sending = true;
	ship_root(p, true);
	r->position = s->follow.reader ? cdm_journal_reader_position(s->follow.reader) : 0;
	cdm_vector_copy(&r->vector, &s->follow.visible);
	struct bytes frame = {0};
	cdm_vector_encode(&r->vector, bytes_add(&frame, cdm_vector_encoded_size(&r->vector)));
	link_send(p->link, s, FRAME_RESYNC_START, flags, frame.data, frame.len, NULL, 0);
	bytes_fini(&frame);
	overtaken_encode(s->overtaken, &frame);
	if (frame.len && link_has(p->link, WIRE_FEATURE_OVERTAKEN))
		link_send(p->link, s, FRAME_RESYNC_OVERTAKEN, 0, frame.data, frame.len, NULL, 0);
	bytes_fini(&frame);
	cdm_log(resync_begins, cdm_str("set", set_name(s)), cdm_str("peer", link_peer_name(p->link)),
		cdm_str("reason", flags & RESYNC_VERIFY ? "after a conflict" : "the journal here does not reach back to what the peer has"));
	ship_send_step(p->ship); /* the root's attributes come before its listing */
}

/* --- listings --- */

struct list_job { /* walker */
	struct set *set;
	uint64_t peer_serial;
	char *path;
	size_t len;
	int result;
	int64_t worked_ns;
	struct listing listing;
};

static void list_work(void *arg)
{
	struct list_job *job = arg;
	int64_t began = cdm_now_ns();
	job->result = listing_read(job->set, job->path, job->len, &job->listing);
	job->worked_ns = cdm_now_ns() - began;
}

static void queue_frame(struct resync *r, struct bytes *payload)
{
	if ((r->frame_count & (r->frame_count - 1)) == 0) {
		r->frames = realloc(r->frames, (r->frame_count ? 2 * r->frame_count : 1) * sizeof *r->frames);
		if (!r->frames)
			abort();
	}
	r->frames[r->frame_count++] = *payload;
	*payload = (struct bytes){0};
}

void resync_unlooked(struct set *s, const char *path, size_t len, int error)
{
	struct cdm_error err = CDM_ERROR_INIT;
	cdm_fail(&err, -error, "look at directory %.*s to compare trees", len ? (int)(len < 200 ? len : 200) : 1, len ? path : "/");
	cdm_log_err(failed, &err, cdm_str("set", set_name(s)));
	doubt_unlooked(s);
}

/* A queued frame starts with its flags byte. */
void resync_drained(struct peer *p)
{
	struct resync *r = p->resync;
	if (!r)
		return;
	while (r->frame_at < r->frame_count && link_queued(p->link) < LINK_QUEUE_HIGH) {
		struct bytes *b = &r->frames[r->frame_at++];
		link_send(p->link, p->set, FRAME_RESYNC_DIR, b->data[0], b->data + 1, b->len - 1, NULL, 0);
		count_up(&p->set->counters.resync_bytes, b->len);
		bytes_fini(b);
	}
	if (r->frame_at == r->frame_count) {
		free(r->frames);
		r->frames = NULL;
		r->frame_count = r->frame_at = 0;
	}
}

static void list_done(void *arg)
{
	struct list_job *job = arg;
	struct set *s = job->set;
	struct peer *p = s->peers;
	s->posted--;
	doubt_looked(s, job->worked_ns);
	while (p && p->serial != job->peer_serial)
		p = p->next;
	if (p && p->resync && !s->stopping) {
		struct bytes frame = {0};
		p->resync->listing--;
		bytes_put_u8(&frame, 0);
		for (size_t i = 0; i < job->listing.count; i++) {
			if (frame.len > DIR_FRAME_BYTES) {
				queue_frame(p->resync, &frame);
				bytes_put_u8(&frame, 0);
			}
			entry_encode(&job->listing.entries[i], &frame);
		}
		frame.data[0] = DIR_LAST | (job->result < 0 ? DIR_GONE : 0);
		queue_frame(p->resync, &frame);
		resync_drained(p);
	}
	if (job->result < 0 && !listing_is_gone(job->result) && !s->stopping)
		resync_unlooked(s, job->path, job->len, job->result);
	listing_free(&job->listing);
	free(job->path);
	free(job);
}

static int take_request(struct peer *p, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	struct resync *r = resync_of(p);
	if (r->listing >= LISTINGS_MAX || (len && cdm_path_check((const char *)payload, len) < 0))
		return cdm_fail_plain(err, EBADMSG, "RESYNC_NEED out of place or malformed");
	struct list_job *job = calloc(1, sizeof *job);
	if (!job || !(job->path = malloc(len + 1)))
		abort();
	memcpy(job->path, payload, len);
	job->len = len;
	job->set = p->set;
	job->peer_serial = p->serial;
	r->listing++;
	p->set->posted++;
	cdm_worker_submit(p->set->walker, list_work, list_done, job);
	return 0;
}

/* The receiver has what we had at the start: the stream goes on from there. */
static int take_end(struct peer *p, struct cdm_error *err)
{
	struct resync *r = p->resync;
	if (!r || !r->sending)
		return cdm_fail_plain(err, EBADMSG, "RESYNC_END without a start");
	r->sending = false;
	cdm_vector_merge(&p->has, &r->vector);
	doubt_child_done(p);
	ship_root(p, false); /* what was done in it meanwhile moved its mtime */
	p->ship->fold_from = p->set->follow.reader ? cdm_journal_reader_position(p->set->follow.reader) : 0;
	ship_resume_at(p, r->position, &r->vector);
	return 0;
}

static int take_start(struct peer *p, uint8_t flags, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	struct cdm_vector vector = {0};
	int n = cdm_vector_decode(payload, len, &vector);
	if (n < 0 || (size_t)n != len || resync_of(p)->in) {
		if (n >= 0)
			cdm_vector_fini(&vector);
		return cdm_fail_plain(err, EBADMSG, "RESYNC_START malformed or repeated");
	}
	if (rights_takes_tree(p))
		resync_in_start(p, &vector, flags);
	else
		resync_in_refuse(p, &vector);
	cdm_vector_fini(&vector);
	if (p->has.count > CDM_VECTOR_MAX)
		return cdm_fail_plain(err, EOVERFLOW, "trees of more than %d origins", CDM_VECTOR_MAX);
	return 0;
}

int resync_frame(struct peer *p, enum frame_type type, uint8_t flags, const uint8_t *payload, size_t len, struct cdm_error *err)
{
	switch ((unsigned)type) {
	case FRAME_RESYNC_START:
		return take_start(p, flags, payload, len, err);
	case FRAME_RESYNC_ASK:
		doubt_asked(p);
		return 0;
	case FRAME_RESYNC_NEED:
		return take_request(p, payload, len, err);
	case FRAME_RESYNC_DIR:
		return resync_in_dir(p, flags, payload, len, err);
	case FRAME_RESYNC_OVERTAKEN:
		return resync_in_overtaken(p, payload, len, err);
	case FRAME_RESYNC_END:
		return take_end(p, err);
	default:
		return cdm_fail_plain(err, EBADMSG, "frame type %u has no meaning here", (unsigned)type);
	}
}

void resync_free(struct peer *p)
{
	struct resync *r = p->resync;
	if (!r)
		return;
	p->resync = NULL;
	for (size_t i = r->frame_at; i < r->frame_count; i++)
		bytes_fini(&r->frames[i]);
	free(r->frames);
	cdm_vector_fini(&r->vector);
	resync_in_free(&r->in);
	free(r);
}
