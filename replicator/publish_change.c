/* SPDX-License-Identifier: Apache-2.0 */
/* publish_change.c — one change until it is done here, left out, or set aside: what it waits for, how often it is tried, and what is recorded of it for
 * the nodes behind this one. */
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include "replicator/aside.h"
#include "replicator/node.h"
#include "replicator/publish_ops.h"
#include "replicator/quarantine.h"

#define RETRY_SPACE_MS 2000
#define RETRY_SOON_MS 100
#define RETRY_CLOSED_MS 10
#define IO_TRIES 4 /* within 0.7 s */
#define APPLY_TRIES 16

bool publisher_mount_is_gone(int r)
{
	return r == -ENOTCONN || r == -ECONNABORTED || r == -ENODEV || r == -ESHUTDOWN || r == -EBADF;
}

const char *publisher_waits_for(int r)
{
	return r == -ENOSPC || r == -EDQUOT ? "disk_full" : r == -EROFS ? "read_only_store" :
		r == -ENOMEM || r == -EMFILE || r == -ENFILE || r == -ENOBUFS ? "no_resources" : NULL;
}

/* The name that is as the change says, or lacks that: the new one of two. */
static const char *name_of(const struct cdm_change *c, size_t *ret_len)
{
	bool two = c->op == CDM_OP_RENAME || c->op == CDM_OP_LINK;
	*ret_len = two ? c->path2_len : c->path_len;
	return two ? c->path2 : c->path;
}

static void quarantine(struct publisher *pub, struct incoming *in, int r, struct cdm_error *err)
{
	char dot[64], path[512];
	size_t len;
	const struct cdm_change *c = &in->carried.change;
	const char *name = name_of(c, &len);
	cdm_dot_format(c->dot, dot);
	snprintf(path, sizeof path, "%.*s", (int)(len < 500 ? len : 500), name);
	if (!err->number)
		cdm_fail(err, -r, "%s %s", cdm_op_name(c->op), path);
	cdm_log_err(quarantined, err, cdm_str("set", set_name(pub->set)), cdm_str("change", dot), cdm_str("path", path));
	quarantine_add(pub->set->quarantine, name, len, err->text);
	count_up(&pub->set->counters.quarantined, 1);
}

/* It could be applied. Content or other attributes that were set aside may be lacking all the same when attributes could be set, and what was lacking
 * below a directory is now lacking elsewhere: trees tell. */
static void resolve(struct publisher *pub, const struct incoming *in)
{
	struct quarantine *q = pub->set->quarantine;
	const struct cdm_change *c = &in->carried.change;
	size_t len;
	const char *name = name_of(c, &len);
	bool attributes = c->op == CDM_OP_SETATTR || c->op == CDM_OP_SETXATTR || c->op == CDM_OP_REMOVEXATTR;
	if (attributes && !in->resync)
		pub->job->odd_surely |= quarantine_has(q, name, len);
	else if (!attributes || !pub->odd)
		quarantine_resolve(q, name, len);
	if (c->op == CDM_OP_RENAME)
		pub->job->odd_surely |= quarantine_has_below(q, c->path, c->path_len) || quarantine_has_below(q, c->path2, c->path2_len);
}

static bool is_there(struct publisher *pub, const struct cdm_change *c)
{
	struct cdm_stamp stamp;
	struct stat st;
	return stamp_here(pub, c->path, c->path_len, &stamp, &st) != 0;
}

/* Nodes behind this one lack it until it is settled here, and trees are compared. */
static void tell_not_passed_on(struct publisher *pub, const struct incoming *in, int r)
{
	struct cdm_error err = CDM_ERROR_INIT;
	char path[512];
	const struct cdm_change *c = &in->carried.change;
	snprintf(path, sizeof path, "%.*s", (int)(c->path_len < 500 ? c->path_len : 500), c->path);
	cdm_fail(&err, -r, "keep its content for nodes behind this one");
	cdm_log_err(not_passed_on, &err, cdm_str("set", set_name(pub->set)), cdm_str("path", path));
}

static void record_again(struct publisher *pub, const struct cdm_change *c)
{
	char path[64];
	struct cdm_error err = CDM_ERROR_INIT;
	snprintf(path, sizeof path, "/proc/self/fd/%d", pub->full_fd);
	if (setxattr(path, "trusted.cdmfs.again", c->path, c->path_len, 0) == 0 || errno == EROFS)
		return;
	cdm_fail(&err, errno, "record %.*s again", (int)(c->path_len < 200 ? c->path_len : 200), c->path);
	cdm_log_err(failed, &err, cdm_str("set", set_name(pub->set)));
}

/* --- trying --- */

struct attempts {
	bool paused; /* the node says why */
	int tries, io;
};
enum next { TRY_AGAIN, TRIED, STOPPING };

static enum next again_after(struct publisher *pub, int64_t ms)
{
	return publisher_wait(pub, ms) ? TRY_AGAIN : STOPPING;
}

/* Without this no change can be applied: all of them wait. */
static enum next wait_for_room(struct publisher *pub, struct attempts *a, int r, const char *reason)
{
	int64_t ms = a->paused ? RETRY_SPACE_MS : RETRY_SOON_MS;
	if (!a->paused)
		publisher_tell_pause(pub, publisher_waits_for(r), reason);
	a->paused = true;
	return again_after(pub, ms);
}

/* What others, and this node's own lists, are to know of it. */
static void note_outcome(struct publisher *pub, struct incoming *in, int r)
{
	const struct cdm_change *c = &in->carried.change;
	in->mended = r == APPLIED && in->mends;
	if (r == APPLIED && in->resync)
		doubt_note_ahead(pub, in->carried.stamp.content.dot, &in->context);
	if (r == APPLIED && in->again)
		record_again(pub, c);
	if (r != APPLIED)
		contexts_fini(&pub->told); /* what was said with it was not journaled */
	if (pub->odd || (r != APPLIED && r != APPLY_RETRY && r != APPLY_NOTHING))
		doubt_note(pub->job, in);
	if (r != APPLIED)
		return;
	if (!in->resync) /* its dot is a ticket */
		history_note(pub->history, c);
	resolve(pub, in);
	count_up(&pub->set->counters.applied, 1);
}

/* It cannot be done here, for good: ret_kept 0, those behind this node get it all the same. */
static enum next set_aside(struct publisher *pub, struct incoming *in, int r, struct attempts *a, int *ret_kept, struct cdm_error *err)
{
	int kept = in->resync ? -ENODATA : aside_keep(pub, in);
	if (kept == -ECANCELED)
		return STOPPING;
	if (publisher_waits_for(kept)) /* there must be room for those behind */
		return wait_for_room(pub, a, kept, "the store has no room for what is set aside");
	quarantine(pub, in, r == APPLY_RETRY ? -EBUSY : r, err);
	pub->job->set_aside++;
	if (kept < 0 && kept != -ENODATA)
		tell_not_passed_on(pub, in, kept);
	*ret_kept = kept;
	return TRIED;
}

static enum next end_undone(struct publisher *pub, struct incoming *in, int r, struct attempts *a, struct cdm_error *err)
{
	const struct cdm_change *c = &in->carried.change;
	bool removes = c->op == CDM_OP_UNLINK || c->op == CDM_OP_RMDIR;
	int kept = -ENODATA;
	if (r == APPLY_NOTHING && removes && !is_there(pub, c)) /* it never came here */
		quarantine_resolve_below(pub->set->quarantine, c->path, c->path_len);
	pub->job->lacking |= in->resync && r == APPLY_SKIP && !removes && quarantine_may_have_below(pub->set->quarantine, c->path, c->path_len);
	if (r != APPLY_SKIP && r != APPLY_NOTHING) {
		enum next next = set_aside(pub, in, r, a, &kept, err);
		if (next != TRIED)
			return next;
	}
	if (!in->resync && (r == APPLY_NOTHING || kept == 0))
		record_done(pub, in);
	else if (!in->resync)
		record_skip(pub, in, pub->overtaken);
	return TRIED;
}

/* Something else changed what it met: the next look may find it as it must be. */
static bool may_come_right(int r)
{
	return r == APPLY_RETRY || r == -ESTALE || r == -EAGAIN || r == -EINTR || r == -EPROTO;
}

static enum next try_once(struct publisher *pub, struct incoming *in, struct attempts *a)
{
	struct cdm_error err = CDM_ERROR_INIT;
	moved_end(pub, in);
	pub->odd = pub->overtaken = false;
	int r = moved_begin(pub, in);
	if (r == 0)
		r = apply_change(pub, in, &err);
	if (publisher_waits_for(r))
		return wait_for_room(pub, a, r, err.text[0] ? err.text : "the store takes nothing");
	if (publisher_mount_is_gone(r)) {
		publisher_close(pub);
		return again_after(pub, RETRY_CLOSED_MS);
	}
	if (r == -EIO && a->io < IO_TRIES - 1) /* what stays so is set aside */
		return again_after(pub, RETRY_SOON_MS << a->io++);
	if (r == -ECANCELED)
		return STOPPING;
	note_outcome(pub, in, r);
	if (r == APPLIED)
		return TRIED;
	if (may_come_right(r) && ++a->tries < APPLY_TRIES) {
		publisher_forget_dirs(pub);
		return TRY_AGAIN;
	}
	return end_undone(pub, in, r, a, &err);
}

bool publisher_work_on(struct publisher *pub, struct incoming *in)
{
	struct attempts a = {0};
	enum next next = TRY_AGAIN;
	while (next == TRY_AGAIN)
		next = publisher_wait_for_mount(pub) ? try_once(pub, in, &a) : STOPPING;
	moved_end(pub, in);
	if (a.paused && !publisher_is_stopping(pub))
		publisher_tell_pause(pub, "", "");
	return next == TRIED;
}
