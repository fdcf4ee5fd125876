/* SPDX-License-Identifier: Apache-2.0 */
/* barrier.c — "everything closed before now has its SAVE in the journal": a file is written and closed on the full mount; its
 * close passes the watcher behind all earlier ones, and the server answers it with a BARRIER record (internals.md 2). One that was closed while no
 * watcher listened is not answered: then another one is made. Each answers for all that were made before it. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "replicator/set_internal.h"

#define BARRIER_MS 60000 /* a store that is being synced answers late */
#define AGAIN_MS 1000

struct barrier {
	struct barrier *next;
	struct set *set;
	uint64_t number; /* of its first file */
	int64_t end_ms;
	char name[48];   /* of its last one */
	int result;
	bool working, settled; /* the file is being made; the answer was given */
	set_barrier_fn *done;
	void *arg;
	struct cdm_timer *timer;
};

static void barrier_unchain(struct barrier *b)
{
	for (struct barrier **at = &b->set->barriers; *at; at = &(*at)->next) {
		if (*at == b) {
			*at = b->next;
			return;
		}
	}
}

static void barrier_settle(struct barrier *b, int error)
{
	struct set *s = b->set;
	if (!b->settled) {
		b->settled = true;
		cdm_timer_cancel(&b->timer);
		b->done(b->arg, error, error ? NULL : &s->follow.visible);
	}
	if (b->working)
		return; /* freed when the worker is done with it */
	barrier_unchain(b);
	free(b);
}

static void barrier_work(void *arg)
{
	struct barrier *b = arg;
	char path[600];
	snprintf(path, sizeof path, "%s/full/staging/%s", b->set->run_dir, b->name);
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0) {
		b->result = -errno;
		return;
	}
	close(fd);
	b->result = unlink(path) < 0 ? -errno : 0;
}

static void barrier_made(void *arg)
{
	struct barrier *b = arg;
	b->set->posted--;
	b->working = false;
	if (b->settled || b->result < 0 || b->set->stopping)
		barrier_settle(b, b->result < 0 ? b->result : -ECANCELED);
}

static void barrier_late(void *arg);

static void make_file(struct barrier *b)
{
	struct set *s = b->set;
	snprintf(b->name, sizeof b->name, ".barrier-%d-%" PRIu64, (int)getpid(), ++s->barrier_number);
	b->working = true;
	s->posted++;
	cdm_worker_submit(s->caller, barrier_work, barrier_made, b);
}

static void barrier_late(void *arg)
{
	struct barrier *b = arg;
	b->timer = NULL;
	if (cdm_now_ms() >= b->end_ms) {
		barrier_settle(b, -ETIMEDOUT);
		return;
	}
	b->timer = cdm_loop_after(b->set->node->loop, AGAIN_MS, barrier_late, b);
	if (!b->working)
		make_file(b);
}

void set_barrier(struct set *s, set_barrier_fn *done, void *arg)
{
	struct barrier *b = calloc(1, sizeof *b);
	if (!b)
		abort();
	b->set = s;
	b->done = done;
	b->arg = arg;
	b->number = s->barrier_number + 1;
	b->end_ms = cdm_now_ms() + BARRIER_MS;
	b->next = s->barriers;
	s->barriers = b;
	if (!s->mounted && !s->probing) { /* while that is being found out the barrier waits behind it */
		barrier_settle(b, -ENOTCONN);
		return;
	}
	b->timer = cdm_loop_after(s->node->loop, AGAIN_MS, barrier_late, b);
	make_file(b);
}

void barrier_seen(struct set *s, const char *name, size_t len)
{
	char text[48];
	int pid;
	uint64_t number;
	snprintf(text, sizeof text, "%.*s", (int)(len < sizeof text ? len : sizeof text - 1), name);
	if (sscanf(text, ".barrier-%d-%" SCNu64, &pid, &number) != 2 || pid != (int)getpid())
		return;
	for (struct barrier *b = s->barriers, *next; b; b = next) {
		next = b->next;
		if (b->number <= number)
			barrier_settle(b, 0);
	}
}

void barrier_fail_all(struct set *s, int error)
{
	for (struct barrier *b = s->barriers, *next; b; b = next) {
		next = b->next;
		barrier_settle(b, error);
	}
}
