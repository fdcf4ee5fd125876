/* SPDX-License-Identifier: Apache-2.0 */
/* ship_answer.c — what a peer asked for with NEED. It says which version it has at the path: then the answer is a delta of that, if its signature
 * is remembered here (signatures.h), or else told by the peer, which costs a round trip that other answers do not wait for. */
#include "replicator/ship.h"
#include "replicator/aside.h"
#include "replicator/publish.h"
#include "replicator/resync.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "common/io.h"

#define SIGN_FILE_MIN (64u << 10)  /* smaller ones are not worth the peer's reading */
#define AWAITED_MAX 64
#define ANSWERS_MAX 1024           /* an honest peer has a few hundred NEEDs open */
#define AWAITED_BYTES (4u << 20)

/* Content that its author has not saved yet is for nobody: its SAVE will come through the stream. */
static bool is_unsaved(const struct ship *ship, struct cdm_dot version)
{
	const struct set *s = ship_set(ship);
	const struct follow *f = &s->follow;
	if (version.origin != f->own_raw.origin || cdm_dot_is_none(version))
		return false;
	bool behind = ship->phase == SHIP_STREAM && f->reader &&
		cdm_journal_reader_position(f->reader) < cdm_journal_reader_position(ship->reader);
	if (!behind)
		return !follow_knows_saved(s, version);
	return !cdm_vector_covers(&f->visible, version) && !cdm_vector_covers(&ship->passed, version);
}

/* What cannot be looked at is not what is not there: it is said, as content that cannot be read. */
static struct item *nothing_to_say(struct ship *ship, const struct need *need, const struct cdm_change *c, int r)
{
	struct cdm_error err = CDM_ERROR_INIT;
	if (r < 0 && !listing_is_gone(r) && r != -ENAMETOOLONG) {
		cdm_fail(&err, -r, "look at %.*s", (int)(need->path_len < 200 ? need->path_len : 200), need->path);
		unreadable_said(ship->peer, need->path, need->path_len, &err);
	}
	return item_new(c, cdm_now_ms());
}

/* Than what lies at its path; NULL: nothing does. */
static bool is_newer(int file, const struct cdm_stamp *there)
{
	struct cdm_stamp kept;
	return stamp_of(file, &kept) == 0 && (!there || cdm_version_compare(&kept.content, &there->content) > 0);
}

static struct item *need_item(struct ship *ship, const struct need *need, bool look)
{
	struct set *s = ship_set(ship);
	struct cdm_change c = {.op = CDM_OP_SKIP, .dot = {ANSWER_ORIGIN, need->ticket}, .clock = 1, .path = need->path, .path_len = need->path_len};
	const char *name;
	_cleanup_close_ int dir = cdm_open_parent(s->store_fd, need->path, need->path_len, &name);
	char component[CDM_NAME_LEN_MAX + 1];
	size_t len = (size_t)(need->path + need->path_len - name);
	struct stat st;
	struct cdm_handle kept = {0};
	_cleanup_close_ int aside = aside_open(s, need->path, need->path_len, &kept);
	if ((dir < 0 && aside < 0) || len > CDM_NAME_LEN_MAX || set_leaves_out(s, need->path, need->path_len))
		return nothing_to_say(ship, need, &c, dir < 0 ? dir : 0);
	memcpy(component, name, len);
	component[len] = 0;
	_cleanup_close_ int there = openat(dir, component, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	struct cdm_stamp stamp = {0};
	int r = there < 0 ? -errno : stamp_of(there, &stamp);
	bool takes_kept = aside >= 0 && is_newer(aside, r == 0 ? &stamp : NULL);
	int object = takes_kept ? aside : there;
	c.handle = kept;
	if (takes_kept)
		r = stamp_of(object, &stamp);
	else if (r == 0)
		r = cdm_handle_get(dir, component, &c.handle);
	if (r == 0)
		r = publisher_stat(s->publisher, object, &st);
	if (r < 0)
		return nothing_to_say(ship, need, &c, r);
	char target[CDM_VALUE_MAX];
	c.attr = (struct cdm_attr){.mask = CDM_ATTR_MODE | CDM_ATTR_UID | CDM_ATTR_GID | CDM_ATTR_MTIME, .mode = st.st_mode, .uid = st.st_uid,
		.gid = st.st_gid, .rdev = st.st_rdev, .mtime_ns = st.st_mtim.tv_sec * 1000000000ll + st.st_mtim.tv_nsec};
	c.op = S_ISREG(st.st_mode) ? CDM_OP_SAVE : S_ISDIR(st.st_mode) ? CDM_OP_MKDIR : S_ISLNK(st.st_mode) ? CDM_OP_SYMLINK : CDM_OP_MKNOD;
	if (c.op == CDM_OP_SYMLINK) {
		ssize_t n = readlinkat(dir, component, target, sizeof target);
		if (n <= 0)
			c.op = CDM_OP_SKIP;
		c.value = target;
		c.value_len = n > 0 ? (size_t)n : 0;
	}
	c.version = stamp.content;
	c.flags = CDM_CH_WHOLE;
	if (c.op == CDM_OP_SAVE && is_unsaved(ship, c.version.dot))
		c.op = CDM_OP_SKIP;
	if (c.op == CDM_OP_SAVE && look) {
		c.op = CDM_OP_SETATTR;
		c.flags = 0;
	}
	struct item *item = item_new(&c, cdm_now_ms());
	if (item && c.op == CDM_OP_SAVE)
		item->bytes = (uint64_t)st.st_size;
	return item;
}

/* --- the queue --- */

void answer_free(struct answer **pa)
{
	struct answer *a = *pa;
	*pa = NULL;
	if (!a)
		return;
	item_free(a->item);
	bytes_fini(&a->signature);
	free(a);
}

void ship_answers_free(struct ship *ship)
{
	struct answer *lists[] = {ship->answer_head, ship->awaited};
	for (size_t i = 0; i < 2; i++)
		for (struct answer *a = lists[i], *next; a; a = next) {
			next = a->next;
			answer_free(&a);
		}
}

static struct answer *answer_new(struct item *item)
{
	struct answer *a = calloc(1, sizeof *a);
	if (!a)
		abort();
	a->item = item;
	return a;
}

static void answer_add(struct ship *ship, struct answer *a)
{
	*ship->answer_tail = a;
	ship->answer_tail = &a->next;
}

/* The root is nobody's creation: no change tells its attributes. Who waits for them subscribes again where they cannot be looked at. */
void ship_root(struct peer *p, bool always)
{
	struct stat st;
	bool ours_counts = always || !p->towards_parent || (p->is_empty && !p->was_empty);
	struct cdm_stamp stamp;
	if (!ours_counts)
		return;
	int r = stamp_of(p->set->store_fd, &stamp); /* first: it is set after the attributes, so they are never older than it says */
	if (r == 0)
		r = publisher_stat(p->set->publisher, p->set->store_fd, &st);
	if (r < 0) {
		link_fail(p->link, -r, "the root of set %s cannot be looked at", set_name(p->set));
		return;
	}
	struct cdm_change c = {.op = CDM_OP_SETATTR, .dot = {ANSWER_ORIGIN, RESYNC_TICKET}, .clock = stamp.attr_clock ? stamp.attr_clock : 1,
		.base = {stamp.attr_origin, stamp.attr_origin ? 1 : 0},
		.attr = {.mask = CDM_ATTR_MODE | CDM_ATTR_UID | CDM_ATTR_GID | CDM_ATTR_MTIME, .mode = st.st_mode, .uid = st.st_uid,
		.gid = st.st_gid, .mtime_ns = st.st_mtim.tv_sec * 1000000000ll + st.st_mtim.tv_nsec}};
	struct item *item = item_new(&c, cdm_now_ms());
	if (item)
		answer_add(p->ship, answer_new(item));
}

/* --- against what the peer has --- */

/* The peer is asked for the signature of its base, if there is room for it. False: it gets the whole. */
static bool await_signature(struct ship *ship, struct answer *a, const struct need *need)
{
	size_t len = need->base_size > DELTA_SIZE_MAX ? SIZE_MAX : delta_signature_size_for(need->base_size);
	if (need->base_size < SIGN_FILE_MIN || a->item->bytes < SIGN_FILE_MIN || ship->awaited_count == AWAITED_MAX ||
		len > AWAITED_BYTES - ship->awaited_bytes)
		return false;
	struct bytes frame = {0};
	need_encode(need, &frame);
	link_send(ship->peer->link, ship_set(ship), FRAME_SIGN, 0, frame.data, frame.len, NULL, 0);
	bytes_fini(&frame);
	a->signature_len = len;
	a->next = ship->awaited;
	ship->awaited = a;
	ship->awaited_count++;
	ship->awaited_bytes += len;
	return true;
}

int ship_signature(struct peer *p, const struct signature_part *part, struct cdm_error *err)
{
	struct ship *ship = p->ship;
	struct answer **at = &ship->awaited;
	while (*at && (*at)->ticket != part->ticket)
		at = &(*at)->next;
	struct answer *a = *at;
	if (!a || (part->total && (part->total != a->signature_len || part->len > a->signature_len - a->signature.len)))
		return cdm_fail_plain(err, EBADMSG, "a SIGNATURE that was not asked for, or of another length");
	bytes_put(&a->signature, part->data, part->len);
	if (part->total && a->signature.len < a->signature_len)
		return 0;
	if (!part->total)
		a->base = (struct cdm_dot){0};
	*at = a->next;
	a->next = NULL;
	ship->awaited_count--;
	ship->awaited_bytes -= a->signature_len;
	answer_add(ship, a);
	ship_kick(p);
	return 0;
}

int ship_need(struct peer *p, const struct need *need, uint8_t flags, struct cdm_error *err)
{
	struct ship *ship = p->ship;
	if (ship->answer_count == ANSWERS_MAX)
		return cdm_fail_plain(err, ENOBUFS, "more than %d NEEDs at a time", ANSWERS_MAX);
	struct item *item = need_item(ship, need, flags & NEED_LOOK);
	if (!item) { /* what is there cannot be said in a change */
		struct cdm_change nothing = {.op = CDM_OP_SKIP, .dot = {ANSWER_ORIGIN, need->ticket}, .clock = 1};
		item = item_new(&nothing, cdm_now_ms());
	}
	if (!item)
		abort();
	struct answer *a = answer_new(item);
	a->ticket = need->ticket;
	a->within = flags & NEED_WITHIN;
	ship->answer_count++;
	count_up(&p->set->counters.needs_answered, 1);
	bool may = !cdm_dot_is_none(need->base) && item->change.op == CDM_OP_SAVE && item->bytes >= DELTA_FILE_MIN && link_section(p->link)->delta;
	if (may)
		a->base = need->base;
	if (may && !deltas_knows(p->set->deltas, need->base)) {
		if (await_signature(ship, a, need))
			return 0;
		a->base = (struct cdm_dot){0};
	}
	answer_add(ship, a);
	ship_kick(p);
	return 0;
}
