/* SPDX-License-Identifier: Apache-2.0 */
/* The slots of requests in work, and answering what the kernel sends again. How a pending record is settled: settle_look.c. */
#include "cdmfs/settle.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "cdmfs/settle_look.h"
#include "common/log.h"

struct inflight_slot { /* in RUN/SET/inflight; one writer each */
	_Atomic uint64_t request; /* 0 = nothing in work */
	uint64_t position;        /* of the first record; 0 = nothing is journaled (staging) */
	int64_t result;           /* of the system call, where it is more than 0 */
	uint64_t spare[5];
};
#define INFLIGHT_FILE "inflight"
#define INFLIGHT_BYTES (SETTLE_THREADS_MAX * sizeof(struct inflight_slot))

struct past { /* a request that a dead server had in work */
	uint64_t request;
	enum { PAST_DONE, PAST_FAILED, PAST_REDO, PAST_LOOK } outcome;
	int error;
	int64_t result;
	uint64_t offset; /* of a WRITE that is to be done again: an append must not go behind what it wrote the first time */
};
#define PAST_MAX 512

struct settle {
	struct inflight_slot *slots;
	pthread_mutex_t mtx;
	struct past past[PAST_MAX]; /* under mtx */
	unsigned past_count;
};

int settle_open(struct fs *fs, struct cdm_error *err)
{
	struct settle *s = calloc(1, sizeof(*s));
	_cleanup_close_ int fd = openat(fs->run_fd, INFLIGHT_FILE, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	void *map;

	if (!s)
		return cdm_fail(err, ENOMEM, "requests in work");
	pthread_mutex_init(&s->mtx, NULL);
	fs->settle = s;
	if (fd < 0 || ftruncate(fd, INFLIGHT_BYTES) < 0 || fallocate(fd, 0, 0, INFLIGHT_BYTES) < 0)
		return cdm_fail(err, errno, "open %s/" INFLIGHT_FILE, fs->run_dir);
	map = mmap(NULL, INFLIGHT_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return cdm_fail(err, errno, "map %s/" INFLIGHT_FILE, fs->run_dir);
	s->slots = map;
	return 0;
}

void settle_close(struct fs *fs)
{
	struct settle *s = fs->settle;

	if (!s)
		return;
	fs->settle = NULL;
	if (s->slots)
		munmap(s->slots, INFLIGHT_BYTES);
	pthread_mutex_destroy(&s->mtx);
	free(s);
}

void settle_acting(struct request *rq, uint64_t position)
{
	struct inflight_slot *slot = &rq->fs->settle->slots[rq->worker->index];

	slot->position = position;
	slot->result = 0;
	atomic_store_explicit(&slot->request, rq->unique, memory_order_release);
}

void settle_result(struct request *rq, int64_t result)
{
	rq->fs->settle->slots[rq->worker->index].result = result;
}

void settle_answered(struct worker *w)
{
	struct inflight_slot *slot = &w->fs->settle->slots[w->index];

	if (atomic_load_explicit(&slot->request, memory_order_relaxed))
		atomic_store_explicit(&slot->request, 0, memory_order_release);
}

/* --- at start --- */

static struct past *past_find(struct settle *s, uint64_t request)
{
	for (unsigned i = 0; i < s->past_count; i++)
		if (s->past[i].request == request)
			return &s->past[i];
	return NULL;
}

/* Several records of one request (an announced batch): it was done if all are. */
static void past_add(struct settle *s, const struct past *p)
{
	struct past *old = p->request ? past_find(s, p->request) : NULL;

	if (old) {
		if (old->outcome == PAST_DONE)
			*old = *p;
	} else if (p->request && s->past_count < PAST_MAX) {
		s->past[s->past_count++] = *p;
	}
}

static void settle_one(struct fs *fs, struct cdm_change *c)
{
	int r = settle_look(fs, c);
	struct past p = {.request = c->request, .outcome = PAST_DONE, .result = c->range_count ? (int64_t)c->ranges[0].length : 0,
		.offset = c->range_count ? c->ranges[0].offset : 0};

	if (r == SETTLED_REDO)
		p.outcome = PAST_REDO;
	else if (r < 0)
		p.outcome = PAST_REDO; /* nothing happened: it can be done now */
	cdm_journal_settle(fs->journal, c, r < 0 ? CDM_FAILED : CDM_DONE, r < 0 ? -r : 0);
	past_add(fs->settle, &p);
}

static void past_from_slot(struct fs *fs, const struct inflight_slot *slot)
{
	struct past p = {.request = slot->request, .result = slot->result, .outcome = PAST_LOOK};
	struct cdm_change c;

	if (past_find(fs->settle, p.request))
		return;
	if (slot->position) {
		if (cdm_journal_peek(fs->journal, slot->position, &c) < 0)
			return;
		p.outcome = c.outcome == CDM_DONE ? PAST_DONE : PAST_FAILED;
		p.error = c.error;
		if (c.request != p.request)
			p.outcome = PAST_REDO;
		cdm_change_fini(&c);
	}
	past_add(fs->settle, &p);
}

void settle_pending(struct fs *fs, bool resume)
{
	struct settle *s = fs->settle;
	struct cdm_change c;
	unsigned count = 0;

	while (cdm_journal_next_pending(fs->journal, &c) > 0) {
		settle_one(fs, &c);
		cdm_change_fini(&c);
		count++;
	}
	for (unsigned i = 0; i < SETTLE_THREADS_MAX; i++) {
		if (resume && s->slots[i].request)
			past_from_slot(fs, &s->slots[i]);
		atomic_store(&s->slots[i].request, 0);
	}
	if (!resume)
		s->past_count = 0;
	if (count)
		cdm_log(settled, cdm_uint("records", count), cdm_uint("requests", s->past_count));
}

/* --- a request comes again --- */

static bool past_take(struct settle *s, uint64_t request, struct past *ret)
{
	struct past *p;

	pthread_mutex_lock(&s->mtx);
	p = past_find(s, request);
	if (p) {
		*ret = *p;
		*p = s->past[--s->past_count];
	}
	pthread_mutex_unlock(&s->mtx);
	return p != NULL;
}

static int answer_name(struct request *rq, const char *name, size_t len)
{
	struct fs *fs = rq->fs;
	struct descriptor *dir;
	struct object o;
	int r = name ? node_borrow(fs, rq->node, DESCRIPTOR_PATH, &dir) : -EINVAL;

	if (r < 0)
		return r;
	r = object_find(fs, dir->fd, name, &o);
	if (r == 0)
		r = o.fd < 0 ? -ENOENT : answer_entry(rq, rq->node, name, len, &o, 0);
	object_close(&o);
	node_return(fs, dir);
	return r;
}

static size_t name_offset(uint32_t opcode)
{
	switch (opcode) {
	case FUSE_MKNOD: return sizeof(struct fuse_mknod_in);
	case FUSE_MKDIR: return sizeof(struct fuse_mkdir_in);
	case FUSE_LINK: return sizeof(struct fuse_link_in);
	default: return 0;
	}
}

/* The same answer as the first time. False: it cannot be made, the request is to be done (again). */
static bool answer_done(struct request *rq, const struct past *p, int *ret)
{
	size_t at = name_offset(rq->opcode), len = 0;
	struct stat st;

	switch (rq->opcode) {
	case FUSE_MKNOD:
	case FUSE_MKDIR:
	case FUSE_LINK:
	case FUSE_SYMLINK: {
		const char *name = request_string(rq, &at, &len);
		*ret = answer_name(rq, name, len);
		return true;
	}
	case FUSE_UNLINK:
	case FUSE_RMDIR:
	case FUSE_RENAME:
	case FUSE_RENAME2:
	case FUSE_SETXATTR:
	case FUSE_REMOVEXATTR:
	case FUSE_FALLOCATE:
		*ret = 0;
		return true;
	case FUSE_SETATTR:
		*ret = node_stat(rq->fs, rq->node, &st);
		if (*ret == 0)
			*ret = answer_attr(rq, rq->node, &st);
		return true;
	case FUSE_WRITE:
	case FUSE_COPY_FILE_RANGE:
		rq->small.write = (struct fuse_write_out){.size = p->result};
		*ret = request_answer(rq, &rq->small.write, sizeof(rq->small.write));
		return true;
	default:
		return false;
	}
}

/* Nothing was journaled (staging): was it done? Names tell. */
static bool answer_looked(struct request *rq, const struct past *p, int *ret)
{
	size_t at = name_offset(rq->opcode), len;
	bool makes = rq->opcode == FUSE_MKNOD || rq->opcode == FUSE_MKDIR || rq->opcode == FUSE_SYMLINK;
	bool removes = rq->opcode == FUSE_UNLINK || rq->opcode == FUSE_RMDIR;
	const char *name = makes || removes ? request_string(rq, &at, &len) : NULL;
	struct descriptor *dir;
	struct object o;
	bool there;

	if (!name || node_borrow(rq->fs, rq->node, DESCRIPTOR_PATH, &dir) < 0)
		return false;
	there = object_find(rq->fs, dir->fd, name, &o) == 0 && o.fd >= 0;
	object_close(&o);
	node_return(rq->fs, dir);
	return there == makes && answer_done(rq, p, ret);
}

/* The announcement of a call that was done by the server before. */
static void finish_announcement(struct request *rq, int result)
{
	struct cdm_lane *lane = rq->pid ? cdm_lane_find(rq->fs->announce, rq->pid) : NULL;
	struct cdm_announcement *an = lane ? cdm_lane_find_request(lane, rq->unique) : NULL;

	if (an && atomic_load(&an->state) == CDM_AN_BUSY) {
		an->result = result;
		atomic_store(&an->state, CDM_AN_DONE);
		cdm_lane_taken(lane, an);
	}
}

bool settle_answer(struct request *rq, int *ret)
{
	struct past p;
	bool answered = false;

	if (!past_take(rq->fs->settle, rq->unique, &p))
		return false;
	cdm_debug("request %llu (%s) comes again: outcome %d error %d result %lld", (unsigned long long)rq->unique,
		opcode_name(rq->opcode) ? opcode_name(rq->opcode) : "?", p.outcome, p.error, (long long)p.result);
	switch (p.outcome) {
	case PAST_DONE:
		answered = answer_done(rq, &p, ret);
		break;
	case PAST_FAILED:
		*ret = p.error ? -p.error : -EIO;
		answered = true;
		break;
	case PAST_LOOK:
		answered = answer_looked(rq, &p, ret);
		break;
	case PAST_REDO:
		rq->redo = p.result > 0;
		rq->redo_offset = p.offset;
		break;
	}
	if (answered)
		finish_announcement(rq, *ret);
	return answered;
}
