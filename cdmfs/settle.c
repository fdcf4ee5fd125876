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
struct past { /* in RUN/SET/inflight: a request that a dead server had in work, until it is answered */
	_Atomic uint64_t request; /* 0 = free */
	enum { PAST_DONE, PAST_FAILED, PAST_REDO, PAST_LOOK } outcome;
	int error;
	int64_t result;
	uint64_t offset; /* of a WRITE that is to be done again: an append must not go behind what it wrote the first time */
};
#define PAST_MAX 512 /* when they are too many the oldest goes: its caller was killed, it is not sent again */

struct inflight {
	struct inflight_slot slots[SETTLE_THREADS_MAX];
	struct past past[PAST_MAX];
};
#define INFLIGHT_FILE "inflight"

struct settle {
	struct inflight *map;
	pthread_mutex_t mtx;           /* the table of past requests */
	bool found_now[PAST_MAX];      /* the entry was made in this run, not by a server before that died, too */
	int answering[SETTLE_THREADS_MAX]; /* entry that the thread answers, -1 = none */
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
	memset(s->answering, -1, sizeof(s->answering));
	if (fd < 0 || ftruncate(fd, sizeof(*s->map)) < 0 || fallocate(fd, 0, 0, sizeof(*s->map)) < 0)
		return cdm_fail(err, errno, "open %s/" INFLIGHT_FILE, fs->run_dir);
	map = mmap(NULL, sizeof(*s->map), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return cdm_fail(err, errno, "map %s/" INFLIGHT_FILE, fs->run_dir);
	s->map = map;
	return 0;
}

void settle_close(struct fs *fs)
{
	struct settle *s = fs->settle;

	if (!s)
		return;
	fs->settle = NULL;
	if (s->map)
		munmap(s->map, sizeof(*s->map));
	pthread_mutex_destroy(&s->mtx);
	free(s);
}

void settle_acting(struct request *rq, uint64_t position)
{
	struct inflight_slot *slot = &rq->fs->settle->map->slots[rq->worker->index];

	slot->position = position;
	slot->result = 0;
	atomic_store_explicit(&slot->request, rq->unique, memory_order_release);
}

void settle_result(struct request *rq, int64_t result)
{
	rq->fs->settle->map->slots[rq->worker->index].result = result;
}

void settle_answered(struct worker *w)
{
	struct settle *s = w->fs->settle;
	struct inflight_slot *slot = &s->map->slots[w->index];

	if (s->answering[w->index] >= 0) {
		atomic_store_explicit(&s->map->past[s->answering[w->index]].request, 0, memory_order_release);
		s->answering[w->index] = -1;
	}
	if (atomic_load_explicit(&slot->request, memory_order_relaxed))
		atomic_store_explicit(&slot->request, 0, memory_order_release);
}

bool settle_has_acted(const struct worker *w)
{
	return atomic_load_explicit(&w->fs->settle->map->slots[w->index].request, memory_order_relaxed) != 0;
}

/* --- at start --- */

static int past_find(const struct settle *s, uint64_t request)
{
	for (int i = 0; i < PAST_MAX; i++)
		if (atomic_load(&s->map->past[i].request) == request)
			return i;
	return -1;
}

/* A free entry, or the oldest one. */
static int past_room(const struct settle *s)
{
	int oldest = 0;

	for (int i = 0; i < PAST_MAX; i++) {
		uint64_t request = atomic_load(&s->map->past[i].request);
		if (request == 0)
			return i;
		if (request < atomic_load(&s->map->past[oldest].request))
			oldest = i;
	}
	return oldest;
}

static bool past_known_now(const struct settle *s, uint64_t request)
{
	int i = past_find(s, request);

	return i >= 0 && s->found_now[i];
}

/* Several records of one request (an announced batch): it was done if all are. What a server before found out about a request is
 * replaced: it may have done it again since. */
static void past_add(struct settle *s, const struct past *p)
{
	uint64_t request = p->request;
	int i = request ? past_find(s, request) : -1;

	if (request == 0 || (i >= 0 && s->found_now[i] && s->map->past[i].outcome != PAST_DONE))
		return;
	if (i < 0)
		i = past_room(s);
	struct past *to = &s->map->past[i];
	atomic_store(&to->request, 0);
	to->outcome = p->outcome;
	to->error = p->error;
	to->result = p->result;
	to->offset = p->offset;
	atomic_store_explicit(&to->request, request, memory_order_release);
	s->found_now[i] = true;
}

/* The table hears of it before the journal does: the next server finds one or the other. */
static void settle_one(struct fs *fs, struct cdm_change *c)
{
	int r = settle_look(fs, c);
	struct past p = {.request = c->request, .outcome = PAST_DONE, .result = c->range_count ? (int64_t)c->ranges[0].length : 0,
		.offset = c->range_count ? c->ranges[0].offset : 0};

	if (r != 0) /* it is not known how far it came, or nothing happened: it can be done now */
		p.outcome = PAST_REDO;
	past_add(fs->settle, &p);
	cdm_journal_settle(fs->journal, c, r < 0 ? CDM_FAILED : CDM_DONE, r < 0 ? -r : 0);
}

static void past_from_slot(struct fs *fs, const struct inflight_slot *slot)
{
	struct past p = {.request = slot->request, .result = slot->result, .outcome = PAST_LOOK};
	struct cdm_change c;

	if (past_known_now(fs->settle, p.request))
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
	unsigned count = 0, requests = 0;

	while (cdm_journal_next_pending(fs->journal, &c) > 0) {
		settle_one(fs, &c);
		cdm_change_fini(&c);
		count++;
	}
	for (unsigned i = 0; i < SETTLE_THREADS_MAX; i++) {
		if (resume && s->map->slots[i].request)
			past_from_slot(fs, &s->map->slots[i]);
		atomic_store(&s->map->slots[i].request, 0);
	}
	for (unsigned i = 0; i < PAST_MAX; i++) {
		if (!resume)
			atomic_store(&s->map->past[i].request, 0);
		requests += atomic_load(&s->map->past[i].request) != 0;
	}
	if (count)
		cdm_log(settled, cdm_uint("records", count), cdm_uint("requests", requests));
}

/* --- a request comes again --- */

/* The entry stays until the answer is out. */
static bool past_take(struct request *rq, struct past *ret)
{
	struct settle *s = rq->fs->settle;
	int i;

	pthread_mutex_lock(&s->mtx);
	i = past_find(s, rq->unique);
	if (i >= 0) {
		const struct past *p = &s->map->past[i];
		*ret = (struct past){.request = rq->unique, .outcome = p->outcome, .error = p->error, .result = p->result, .offset = p->offset};
		s->answering[rq->worker->index] = i;
	}
	pthread_mutex_unlock(&s->mtx);
	return i >= 0;
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

	if (!past_take(rq, &p))
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
