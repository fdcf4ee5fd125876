/* SPDX-License-Identifier: Apache-2.0 */
/* durable.c — the durable vector moves only by checkpoint (design.md 5): what is visible now, syncfs of the store, MARK in the
 * journal, which is on the disk when the call returns. At once when something new came after a pause, else every 100 ms;
 * never when nothing changed. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "common/faultpoint.h"
#include "common/io.h"
#include "replicator/set_internal.h"

#define CHECKPOINT_MS 100
#define RETRY_MS 1000

struct checkpoint {
	struct set *set;
	struct cdm_vector visible, mark;
	int result;
	struct cdm_error err;
};

static int write_mark(struct checkpoint *cp)
{
	struct cdm_change c = {.op = CDM_OP_MARK, .vector = &cp->mark};
	size_t max = cdm_change_encoded_max(&c);
	uint8_t *record = malloc(max + 4);
	char path[512];
	if (!record)
		abort();
	uint32_t len = (uint32_t)cdm_change_encode(&c, record + 4);
	memcpy(record, &len, sizeof len);
	snprintf(path, sizeof path, "%s/full", cp->set->run_dir);
	int r = setxattr(path, "trusted.cdmfs.journal", record, len + 4, 0) < 0 ? cdm_fail(&cp->err, errno, "journal a checkpoint") : 0;
	free(record);
	return r;
}

static void checkpoint_work(void *arg)
{
	struct checkpoint *cp = arg;
	int r = cdm_syncfs(cp->set->store_fd);
	cdm_faultpoint("durable.synced_not_marked");
	cp->result = r < 0 ? cdm_fail(&cp->err, -r, "sync the store of set %s", set_name(cp->set)) : write_mark(cp);
}

static void timer_over(void *arg)
{
	struct set *s = arg;
	s->durable.timer = NULL;
	durable_wanted(s);
}

static void checkpoint_done(void *arg)
{
	struct checkpoint *cp = arg;
	struct set *s = cp->set;
	struct durable *d = &s->durable;
	s->posted--;
	d->running = false;
	d->last_ms = cdm_now_ms();
	if (cp->result == 0) {
		cdm_vector_merge(&d->vector, &cp->visible);
		count_up(&s->counters.checkpoints, 1);
		if (!s->stopping) {
			follow_keep(s);
			set_moved(s);
			durable_wanted(s);
		}
	} else if (!s->stopping) {
		cdm_log_err(checkpoint_failed, &cp->err, cdm_str("set", set_name(s)));
		if (!d->timer)
			d->timer = cdm_loop_after(s->node->loop, RETRY_MS, timer_over, s);
	}
	cdm_vector_fini(&cp->visible);
	cdm_vector_fini(&cp->mark);
	free(cp);
}

void durable_wanted(struct set *s)
{
	struct durable *d = &s->durable;
	if (d->running || d->timer || !s->mounted || !s->ready || s->stopping || cdm_vector_covers_all(&d->vector, &s->follow.visible))
		return;
	int64_t wait = d->last_ms + CHECKPOINT_MS - cdm_now_ms();
	if (wait > 0 && d->last_ms) {
		d->timer = cdm_loop_after(s->node->loop, wait, timer_over, s);
		return;
	}
	struct checkpoint *cp = calloc(1, sizeof *cp);
	if (!cp)
		abort();
	cp->set = s;
	cdm_vector_copy(&cp->visible, &s->follow.visible);
	cdm_vector_copy(&cp->mark, &s->follow.visible);
	if (!cdm_dot_is_none(s->follow.own_raw))
		cdm_vector_raise(&cp->mark, s->follow.own_raw); /* numbers must never be used again */
	d->running = true;
	s->posted++;
	cdm_worker_submit(s->syncer, checkpoint_work, checkpoint_done, cp);
}

void durable_stop(struct set *s)
{
	cdm_timer_cancel(&s->durable.timer);
}
