/* SPDX-License-Identifier: Apache-2.0 */
/* publish.c — the applier: its life, its view of the full mount, announced calls, its jobs. */
#include "replicator/publish_ops.h"
#include "replicator/aside.h"
#include "replicator/base.h"
#include "replicator/names.h"
#include "replicator/quarantine.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>
#include "common/faultpoint.h"
#include "common/io.h"

#define NEED_TIMEOUT_MS 600000
#define RECORDS_FLUSH (44u << 10) /* an xattr value may have 64 KiB */
#define STAT_WAIT_MS 100
#define FUSE_MAGIC 0x65735546

/* --- messages to the loop --- */

struct note { /* applier to loop */
	struct set *set;
	enum { NOTE_PAUSE, NOTE_NEED, NOTE_READ } kind;
	char code[32], reason[256];
	uint64_t peer_serial, number;
	char *path;
	struct need need;
};

static void note_arrives(void *arg)
{
	struct note *note = arg;
	struct set *s = note->set;
	if (note->kind == NOTE_PAUSE) {
		set_pause_reason(s, note->code, note->reason);
	} else if (note->kind == NOTE_READ) {
		follow_read_up(s, note->number);
	} else {
		struct peer *p = s->peers;
		while (p && p->serial != note->peer_serial)
			p = p->next;
		if (p) {
			base_send_need(p, &note->need, 0);
			count_up(&s->counters.needs_sent, 1);
		} else {
			publisher_peer_gone(s->publisher, note->peer_serial);
		}
	}
	free(note->path);
	free(note);
}

void publisher_tell_pause(struct publisher *pub, const char *code, const char *reason)
{
	struct note *note = calloc(1, sizeof *note);
	if (!note)
		abort();
	note->set = pub->set;
	note->kind = NOTE_PAUSE;
	snprintf(note->code, sizeof note->code, "%s", code);
	snprintf(note->reason, sizeof note->reason, "%s", reason);
	cdm_loop_post(pub->set->node->loop, note_arrives, note);
}

/* Wait on pub->wake for at most ms. False: stopping. */
bool publisher_wait(struct publisher *pub, int64_t ms)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += ms / 1000;
	until.tv_nsec += ms % 1000 * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	pthread_mutex_lock(&pub->lock);
	if (!pub->stopping)
		pthread_cond_clockwait(&pub->wake, &pub->lock, CLOCK_MONOTONIC, &until);
	bool go_on = !pub->stopping;
	pthread_mutex_unlock(&pub->lock);
	return go_on;
}

struct incoming *publisher_need(struct publisher *pub, const struct need *need, bool *ret_gone)
{
	struct note *note = calloc(1, sizeof *note);
	*ret_gone = true;
	if (!note || !(note->path = malloc(need->path_len + 1)))
		abort();
	memcpy(note->path, need->path, need->path_len);
	note->need = *need;
	note->need.path = note->path;
	note->set = pub->set;
	note->kind = NOTE_NEED;
	pthread_mutex_lock(&pub->lock);
	note->need.ticket = pub->ticket = ++pub->staged_number;
	note->peer_serial = pub->ticket_peer = pub->job->peer_serial;
	pub->answer = NULL;
	pub->answer_gone = false;
	cdm_loop_post(pub->set->node->loop, note_arrives, note);
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += NEED_TIMEOUT_MS / 1000;
	int r = 0;
	while (!pub->answer && !pub->answer_gone && !pub->stopping && r != ETIMEDOUT)
		r = pthread_cond_clockwait(&pub->wake, &pub->lock, CLOCK_MONOTONIC, &until);
	struct incoming *in = pub->answer;
	pub->answer = NULL;
	pub->ticket = 0;
	pthread_mutex_unlock(&pub->lock);
	*ret_gone = !in;
	if (in && (in->superseded || in->carried.change.op == CDM_OP_SKIP)) {
		incoming_free(in, pub->set->staging_fd);
		in = NULL;
	}
	return in;
}

void publisher_answer(struct publisher *pub, struct incoming *in)
{
	pthread_mutex_lock(&pub->lock);
	bool wanted = pub->ticket && in->carried.change.dot.number == pub->ticket && !pub->answer;
	if (wanted) {
		pub->answer = in;
		pthread_cond_broadcast(&pub->wake);
	}
	pthread_mutex_unlock(&pub->lock);
	if (!wanted)
		incoming_free(in, pub->set->staging_fd);
}

void publisher_peer_gone(struct publisher *pub, uint64_t peer_serial)
{
	pthread_mutex_lock(&pub->lock);
	if (pub->ticket && pub->ticket_peer == peer_serial) {
		pub->answer_gone = true;
		pthread_cond_broadcast(&pub->wake);
	}
	pthread_mutex_unlock(&pub->lock);
}

bool publisher_read_up(struct publisher *pub)
{
	struct note *note = calloc(1, sizeof *note);
	if (!note)
		abort();
	note->set = pub->set;
	note->kind = NOTE_READ;
	cdm_faultpoint("publish.found_not_read_up");
	pthread_mutex_lock(&pub->lock);
	note->number = ++pub->read_asked;
	cdm_loop_post(pub->set->node->loop, note_arrives, note);
	while (pub->read < pub->read_asked && !pub->stopping && !pub->forget)
		pthread_cond_wait(&pub->wake, &pub->lock);
	bool all = pub->read == pub->read_asked;
	pthread_mutex_unlock(&pub->lock);
	return all;
}

void publisher_was_read(struct publisher *pub, uint64_t number)
{
	pthread_mutex_lock(&pub->lock);
	pub->read = number;
	pthread_cond_broadcast(&pub->wake);
	pthread_mutex_unlock(&pub->lock);
}

bool publisher_is_stopping(struct publisher *pub)
{
	pthread_mutex_lock(&pub->lock);
	bool stopping = pub->stopping;
	pthread_mutex_unlock(&pub->lock);
	return stopping;
}

void publisher_stop(struct publisher *pub)
{
	pthread_mutex_lock(&pub->lock);
	pub->stopping = true;
	pthread_cond_broadcast(&pub->wake);
	pthread_mutex_unlock(&pub->lock);
}

void publisher_seed(struct publisher *pub, const struct cdm_vector *visible, struct cdm_dot own_raw)
{
	pthread_mutex_lock(&pub->lock);
	cdm_vector_merge(&pub->seed, visible);
	if (!cdm_dot_is_none(own_raw))
		cdm_vector_raise(&pub->seed, own_raw);
	cdm_vector_copy(&pub->seen_at_start, visible);
	pub->seeded = true;
	bool begin = !pub->begin_asked;
	pub->begin_asked = true;
	pthread_cond_broadcast(&pub->wake);
	pthread_mutex_unlock(&pub->lock);
	if (begin)
		publisher_submit(job_new(pub->set, 0, 0)); /* of nobody: the applier looks what earlier runs left */
}

void publisher_note(struct publisher *pub, const struct cdm_change *c)
{
	history_note(pub->history, c);
	if (CDM_ORIGIN_NODE(c->dot.origin) != pub->set->node->id->number || c->flags & CDM_CH_RECEIVED)
		return;
	pthread_mutex_lock(&pub->lock);
	if (c->dot.origin != pub->own.origin || c->dot.number > pub->own.number)
		pub->own = c->dot;
	pthread_mutex_unlock(&pub->lock);
}

/* Ours come back where the tree of nodes has a circle for a moment, because its routes change. */
static bool is_known(struct publisher *pub, struct cdm_dot dot)
{
	pthread_mutex_lock(&pub->lock);
	bool own = !cdm_dot_is_none(dot) && dot.origin == pub->own.origin && dot.number <= pub->own.number;
	pthread_mutex_unlock(&pub->lock);
	return own || cdm_vector_covers(&pub->applied, dot);
}

void publisher_unseed(struct publisher *pub)
{
	pthread_mutex_lock(&pub->lock);
	cdm_vector_fini(&pub->seed);
	pub->seed = (struct cdm_vector){0};
	pub->own = (struct cdm_dot){0};
	pub->seeded = false;
	pub->forget = true;
	pub->forgotten = pub->set->peer_serial;
	pthread_cond_broadcast(&pub->wake);
	pthread_mutex_unlock(&pub->lock);
}

/* --- the mount --- */

void publisher_forget_dirs(struct publisher *pub)
{
	for (size_t i = 0; i < DIRS_MAX; i++) {
		if (!pub->dirs[i].path)
			continue;
		close(pub->dirs[i].fd);
		free(pub->dirs[i].path);
		pub->dirs[i] = (struct dir_entry){0};
	}
}

void publisher_close(struct publisher *pub)
{
	publisher_forget_dirs(pub);
	if (pub->lane)
		cdm_lane_release(pub->lane);
	pub->lane = NULL;
	cdm_announce_close(&pub->map);
	int *fds[] = {&pub->staging_fd, &pub->content_fd, &pub->full_fd};
	for (size_t i = 0; i < 3; i++) {
		if (*fds[i] >= 0)
			close(*fds[i]);
		*fds[i] = -1;
	}
}

static int open_mount(struct publisher *pub, struct cdm_error *err)
{
	_cleanup_free_ char *path = NULL;
	if (asprintf(&path, "%s/full", pub->set->run_dir) < 0)
		return cdm_fail(err, ENOMEM, "open the mount");
	struct statfs fs;
	pub->full_fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (pub->full_fd < 0 || fstatfs(pub->full_fd, &fs) < 0)
		return cdm_fail(err, errno, "open %s", path);
	if (fs.f_type != FUSE_MAGIC)
		return cdm_fail_plain(err, ENOTCONN, "set %s is not mounted", set_name(pub->set));
	pub->content_fd = openat(pub->full_fd, "content", O_PATH | O_DIRECTORY | O_CLOEXEC);
	pub->staging_fd = openat(pub->full_fd, "staging", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (pub->content_fd < 0 || pub->staging_fd < 0)
		return cdm_fail(err, errno, "open the full mount of set %s", set_name(pub->set));
	return 0;
}

int publisher_open(struct publisher *pub, struct cdm_error *err)
{
	if (pub->lane)
		return 0;
	int r = open_mount(pub, err);
	if (r == 0)
		r = cdm_announce_open(pub->set->run_dir, &pub->map, err);
	if (r == 0 && !(pub->lane = cdm_lane_claim(pub->map)))
		r = cdm_fail_plain(err, EBUSY, "all %d lanes of the mount are taken", CDM_LANES);
	if (r < 0)
		publisher_close(pub);
	return r;
}

int publisher_parent(struct publisher *pub, const char *path, size_t len, char ret_name[CDM_NAME_LEN_MAX + 1])
{
	const char *slash = memrchr(path, '/', len);
	const char *name = slash ? slash + 1 : path;
	size_t name_len = (size_t)(path + len - name), dir_len = slash ? (size_t)(slash - path) : 0;
	if (name_len > CDM_NAME_LEN_MAX)
		return -ENAMETOOLONG;
	memcpy(ret_name, name, name_len);
	ret_name[name_len] = 0;
	if (!dir_len)
		return pub->content_fd;
	for (size_t i = 0; i < DIRS_MAX; i++)
		if (pub->dirs[i].path && pub->dirs[i].len == dir_len && memcmp(pub->dirs[i].path, path, dir_len) == 0)
			return pub->dirs[i].fd;
	int fd = cdm_open_beneath(pub->content_fd, path, dir_len, O_PATH | O_DIRECTORY, 0);
	if (fd < 0)
		return fd;
	struct dir_entry *d = &pub->dirs[pub->dir_next++ % DIRS_MAX];
	if (d->path) {
		close(d->fd);
		free(d->path);
	}
	d->path = malloc(dir_len);
	if (!d->path)
		abort();
	memcpy(d->path, path, dir_len);
	d->len = dir_len;
	d->fd = fd;
	return fd;
}

int publisher_stat(struct publisher *pub, int fd, struct stat *ret)
{
	struct timespec until;
	if (fstat(fd, ret) < 0)
		return -errno;
	if (!S_ISDIR(ret->st_mode))
		return 0;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += STAT_WAIT_MS * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	bool locked = pthread_mutex_clocklock(&pub->calling, CLOCK_MONOTONIC, &until) == 0;
	int r = fstat(fd, ret) < 0 ? -errno : 0;
	if (locked)
		pthread_mutex_unlock(&pub->calling);
	return r;
}

int publisher_call(struct publisher *pub, struct step *step, call_fn *call, void *arg, struct cdm_announcement *found)
{
	if (pub->records_matter && step->record_count) {
		struct cdm_error err = CDM_ERROR_INIT;
		int r = records_send(pub, &err);
		if (r < 0)
			return r;
	}
	int slot = cdm_lane_announce(pub->lane, &step->a, step->records, step->record_count);
	if (slot < 0)
		return slot == -EMSGSIZE ? -E2BIG : slot;
	cdm_faultpoint("publish.announced_not_called");
	bool moves = step->a.call < CDM_CALL_SETATTR;
	if (moves)
		pthread_mutex_lock(&pub->calling);
	errno = 0;
	int r = call(arg) < 0 ? -errno : 0;
	if (moves)
		pthread_mutex_unlock(&pub->calling);
	cdm_faultpoint("publish.called_not_counted");
	struct cdm_announcement answer;
	enum cdm_announce_state state = cdm_lane_result(pub->lane, slot, &answer);
	if (found)
		*found = answer;
	if (state == CDM_AN_REFUSED)
		return answer.result ? answer.result : -ESTALE;
	if (state == CDM_AN_DONE)
		return answer.result;
	return r ? r : -EPROTO; /* done without the server: not by this mount */
}

/* --- the work --- */

/* Is the set mounted? Waits until it is. False: stopping. */
bool publisher_wait_for_mount(struct publisher *pub)
{
	struct cdm_error err = CDM_ERROR_INIT;
	while (publisher_open(pub, &err) < 0)
		if (!publisher_wait(pub, RETRY_MOUNT_MS))
			return false;
	return true;
}

static void take_seed(struct publisher *pub)
{
	pthread_mutex_lock(&pub->lock);
	while (!pub->seeded && !pub->stopping)
		pthread_cond_wait(&pub->wake, &pub->lock);
	if (pub->forget) {
		cdm_vector_fini(&pub->applied);
		pub->applied = (struct cdm_vector){0};
		contexts_fini(&pub->told);
		pub->forget = false;
	}
	if (pub->seen_at_start.count) {
		cdm_vector_copy(&pub->history_since, &pub->seen_at_start);
		cdm_vector_fini(&pub->seen_at_start);
		pub->seen_at_start = (struct cdm_vector){0};
	}
	cdm_vector_merge(&pub->applied, &pub->seed);
	pthread_mutex_unlock(&pub->lock);
}

static bool is_broken(struct publisher *pub, uint64_t serial)
{
	pthread_mutex_lock(&pub->lock);
	bool broken = pub->stopping || serial <= pub->forgotten;
	pthread_mutex_unlock(&pub->lock);
	for (size_t i = 0; i < BROKEN_PEERS; i++)
		broken |= pub->broken[i] == serial;
	return broken;
}

/* receive.c refuses origins beyond these before; here what several links brought at once is counted together. */
static bool origin_fits(const struct publisher *pub, cdm_origin origin)
{
	return pub->applied.count < CDM_VECTOR_MAX || cdm_vector_get(&pub->applied, origin);
}

/* All of a job, or false: then nothing more of this peer, or its later changes would claim those that were left out. */
static bool apply_all(struct publisher *pub, struct job *job)
{
	for (struct incoming *in = job->head; in; in = in->next) {
		const struct cdm_change *c = &in->carried.change;
		if (!in->resync && is_known(pub, c->dot)) {
			count_up(&pub->set->counters.already_there, 1);
			continue;
		}
		if (!in->resync && !origin_fits(pub, c->dot.origin))
			return false;
		size_t taken = c->op == CDM_OP_MKDIR && !in->resync && !in->superseded && publisher_wait_for_mount(pub) ? assemble_run(pub, in) : 0;
		if (taken) {
			count_up(&pub->set->counters.applied, taken);
			while (--taken)
				in = in->next;
			cdm_vector_raise(&pub->applied, in->carried.change.dot);
			continue;
		}
		if (in->lost)
			return false;
		bool nothing = c->op == CDM_OP_SKIP || in->superseded;
		if (nothing && !publisher_wait_for_mount(pub))
			return false;
		if (nothing)
			record_skip(pub, in, !in->refused);
		else if (!publisher_work_on(pub, in))
			return false;
		if (!in->resync)
			cdm_vector_raise(&pub->applied, c->dot);
		if (pub->records.len > RECORDS_FLUSH && !records_flush(pub))
			return false;
	}
	return true;
}

static void job_work(void *arg)
{
	struct job *job = arg;
	struct publisher *pub = job->set->publisher;
	take_seed(pub);
	if (!pub->begun) {
		pub->begun = true;
		conflict_begin(pub);
		several_tidy(pub, false);
		count_up(&pub->set->counters.quarantined, quarantine_load(pub->set->quarantine, pub->set->store_fd));
	}
	job->broken = is_broken(pub, job->peer_serial);
	if (job->broken)
		return;
	pub->job = job;
	job->broken = !apply_all(pub, job);
	if (job->broken)
		pub->broken[pub->broken_next++ % BROKEN_PEERS] = job->peer_serial;
	records_flush(pub);
	bool compared = job->compared && !job->broken;
	if (compared) {
		quarantine_compared(pub->set->quarantine, job->aside_before);
		compared = !quarantine_count_aside(pub->set->quarantine, "", 0);
		job->settled = job->had_aside && compared;
	}
	conflict_tidy(pub);
	several_tidy(pub, compared);
	aside_tidy(pub);
	publisher_forget_dirs(pub);
	pub->job = NULL;
	job->aside_number = quarantine_number(pub->set->quarantine);
}

static void job_done(void *arg)
{
	struct job *job = arg;
	struct set *s = job->set;
	s->posted--;
	if (s->stopping) {
		job_free(job);
		return;
	}
	if (!job->broken)
		s->aside_pending = job->aside_number;
	follow_step(s);
	if (job->settled) /* those that we feed may lack it, too */
		doubt_raise(s);
	doubt_judge(job);
	struct peer *p = s->peers;
	while (p && p->serial != job->peer_serial)
		p = p->next;
	if (p && job->broken)
		link_fail(p->link, EAGAIN, "set %s stopped amid a batch, subscribing again", set_name(s));
	if (job->done) {
		job->done(job);
		return;
	}
	if (p && !job->broken)
		set_send_ack(p, job->batch);
	job_free(job);
}

void publisher_submit(struct job *job)
{
	job->set->posted++;
	cdm_worker_submit(job->set->applier, job_work, job_done, job);
}

struct publisher *publisher_new(struct set *s)
{
	struct publisher *pub = calloc(1, sizeof *pub);
	if (!pub)
		abort();
	pub->set = s;
	pub->history = history_new();
	pub->full_fd = pub->content_fd = pub->staging_fd = -1;
	pub->known_names = known_names_new();
	pub->several_left = pub->aside_left = true; /* there may be some of an earlier run */
	pub->staged_number = (uint64_t)cdm_wall_ns() >> 20; /* names of an earlier run must not come again */
	pthread_mutex_init(&pub->calling, NULL);
	pthread_mutex_init(&pub->lock, NULL);
	pthread_cond_init(&pub->wake, NULL);
	return pub;
}

void publisher_free(struct publisher **p)
{
	struct publisher *pub = *p;
	if (!pub)
		return;
	*p = NULL;
	publisher_close(pub);
	cdm_vector_fini(&pub->applied);
	cdm_vector_fini(&pub->seed);
	cdm_vector_fini(&pub->seen_at_start);
	cdm_vector_fini(&pub->history_since);
	history_free(&pub->history);
	known_names_free(&pub->known_names);
	contexts_fini(&pub->told);
	bytes_fini(&pub->records);
	pthread_cond_destroy(&pub->wake);
	pthread_mutex_destroy(&pub->lock);
	pthread_mutex_destroy(&pub->calling);
	free(pub);
}
