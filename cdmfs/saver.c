/* SPDX-License-Identifier: Apache-2.0 */
/* The thread that decides when something counts as saved: it hears the watcher and has the clock. */
#include <errno.h>
#include <poll.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include "cdmfs/publish.h"
#include "cdmfs/save.h"
#include "cdmfs/walk.h"
#include "cdmfs/watch.h"
#include "common/log.h"

#define SECOND_NS 1000000000ll
#define FIRST_LOOK_PATH_NS SECOND_NS       /* after a change by path: the watcher is asked */
#define FIRST_LOOK_OPEN_NS (5 * SECOND_NS) /* after a WRITE: its close should come by itself */
#define LOOK_MAX_NS (60 * SECOND_NS)
#define GATHER_NS (SECOND_NS / 10)
#define INVALIDATE_MAX 64
#define ASK_AGAIN_NS (SECOND_NS / 20) /* the watcher's queue is full, after closes were lost */
#define BARRIERS_MAX 16
#define ROOM_WAIT_S 5

struct expected { /* an unsaved file to be looked at when no close is seen */
	uint64_t id;
	int64_t due_ns, wait_ns;
};
struct tree_job {
	struct tree_job *next;
	uint64_t note;
	size_t len;
	char path[];
};
struct saver {
	struct fs *fs;
	pthread_t thread;
	int wake_fd;
	atomic_bool stop;
	bool started;
	/* the thread's own: closes were lost at lost_ns, and what was unsaved then is not all looked at yet */
	bool lost;
	int64_t lost_ns;
	uint64_t barriers[BARRIERS_MAX]; /* they wait for that */
	unsigned barrier_count;
	pthread_mutex_t mtx;
	/* under mtx */
	struct expected *expected;
	size_t expected_count, expected_room;
	int64_t next_due_ns; /* no entry is due before; INT64_MAX = none is */
	struct {
		uint64_t id, offset;
	} invalidate[INVALIDATE_MAX];
	unsigned invalidate_count;
	pthread_cond_t room; /* in invalidate */
	struct tree_job *jobs, **jobs_end; /* the first is under way */
	pthread_cond_t published;          /* one of them is over */
};

static int64_t mono_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * SECOND_NS + ts.tv_nsec;
}

static void wake(struct saver *s)
{
	eventfd_write(s->wake_fd, 1);
}

/* --- from the workers --- */

/* True if the thread sleeps too long for it. */
static bool expect_locked(struct saver *s, uint64_t id, int64_t wait_ns)
{
	int64_t due = mono_ns() + wait_ns;
	bool sooner = due < s->next_due_ns;

	if (s->expected_count == s->expected_room) {
		size_t room = s->expected_room ? s->expected_room * 2 : 256;
		struct expected *more = realloc(s->expected, room * sizeof(*more));
		if (!more)
			return false; /* its close will still be seen */
		s->expected = more;
		s->expected_room = room;
	}
	s->expected[s->expected_count++] = (struct expected){.id = id, .due_ns = due, .wait_ns = wait_ns};
	if (sooner)
		s->next_due_ns = due;
	return sooner;
}

void saver_expect(struct fs *fs, uint64_t id, bool by_path)
{
	struct saver *s = fs->saver;
	bool sooner;

	pthread_mutex_lock(&s->mtx);
	sooner = expect_locked(s, id, by_path ? FIRST_LOOK_PATH_NS : FIRST_LOOK_OPEN_NS);
	pthread_mutex_unlock(&s->mtx);
	if (sooner)
		wake(s);
}

static void expect_at_once(struct saver *s, uint64_t id)
{
	pthread_mutex_lock(&s->mtx);
	expect_locked(s, id, 0);
	pthread_mutex_unlock(&s->mtx);
}

void saver_invalidate(struct fs *fs, uint64_t id, uint64_t offset)
{
	struct saver *s = fs->saver;

	unsigned i;

	pthread_mutex_lock(&s->mtx);
	for (i = 0; i < s->invalidate_count && s->invalidate[i].id != id; i++)
		;
	if (i == s->invalidate_count && i < INVALIDATE_MAX) {
		s->invalidate[i].id = id;
		s->invalidate[i].offset = offset;
		s->invalidate_count++;
	} else if (i < s->invalidate_count && offset < s->invalidate[i].offset) {
		s->invalidate[i].offset = offset;
	}
	pthread_mutex_unlock(&s->mtx);
	wake(s);
}

void saver_invalidate_all(struct fs *fs, uint64_t id)
{
	struct saver *s = fs->saver;
	struct timespec until;
	int e = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += ROOM_WAIT_S;
	pthread_mutex_lock(&s->mtx);
	while (s->invalidate_count == INVALIDATE_MAX && e == 0)
		e = pthread_cond_clockwait(&s->room, &s->mtx, CLOCK_MONOTONIC, &until);
	pthread_mutex_unlock(&s->mtx);
	saver_invalidate(fs, id, 0);
}

void saver_publish_tree(struct fs *fs, const char *path, size_t len, uint64_t note)
{
	struct saver *s = fs->saver;
	struct tree_job *j = malloc(sizeof(*j) + len);

	if (!j)
		return;
	j->next = NULL;
	j->note = note;
	j->len = len;
	memcpy(j->path, path, len);
	pthread_mutex_lock(&s->mtx);
	*s->jobs_end = j;
	s->jobs_end = &j->next;
	pthread_mutex_unlock(&s->mtx);
	wake(s);
}

/* --- the thread --- */

/* Its close was seen: whoever waits for all closes before it may go on. */
static void put_barrier(struct fs *fs, uint64_t id)
{
	char buf[CDM_NAME_LEN_MAX * 4];
	struct node_path p;
	struct cdm_change c = {.op = CDM_OP_BARRIER};

	if (inodes_path(fs->nodes, id, 0, buf, sizeof(buf), &p) == 0) {
		c.path = p.path;
		c.path_len = p.len;
		cdm_journal_put(fs->journal, &c);
	}
	inodes_flags(fs->nodes, id, 0, NODE_BARRIER);
	inodes_release(fs->nodes, id);
}

/* Is anything left that was unsaved when closes were lost, and of which nobody knows yet whether it has a writer? */
static bool lost_is_open(struct saver *s)
{
	uint32_t cursor = 0;
	struct node n;
	struct dirty d;

	while (s->lost && inodes_next(s->fs->nodes, &cursor, &n))
		if (n.flags & NODE_UNSAVED && !(n.flags & (NODE_WRITER | NODE_ORPHAN)) && inodes_dirty(s->fs->nodes, n.id, &d) && d.last_ns <= s->lost_ns)
			return true;
	s->lost = false;
	return false;
}

static void run_jobs(struct saver *s);

/* A barrier says that all closes before it were seen, after lost ones not before the watcher was asked; and that all names are told which
 * came out of local ones before it. */
static void take_barrier(struct saver *s, uint64_t id)
{
	run_jobs(s);
	if (!lost_is_open(s)) {
		put_barrier(s->fs, id);
	} else if (s->barrier_count < BARRIERS_MAX) {
		s->barriers[s->barrier_count++] = id;
	} else { /* who made it makes another */
		inodes_flags(s->fs->nodes, id, 0, NODE_BARRIER);
		inodes_release(s->fs->nodes, id);
	}
}

static void put_waiting_barriers(struct saver *s)
{
	if (s->barrier_count == 0 || lost_is_open(s))
		return;
	for (unsigned i = 0; i < s->barrier_count; i++)
		put_barrier(s->fs, s->barriers[i]);
	s->barrier_count = 0;
}

static void at_rest(struct saver *s, uint64_t id, int64_t looked_ns)
{
	struct fs *fs = s->fs;
	struct node n;

	if (!inodes_find(fs->nodes, id, &n))
		return;
	if (n.flags & NODE_BARRIER) {
		take_barrier(s, id);
		return;
	}
	if (n.flags & NODE_CONFLICT)
		conflict_check(fs, id);
	else if (n.flags & NODE_UNSAVED)
		save_node(fs, id, looked_ns);
	else
		inodes_flags(fs->nodes, id, 0, NODE_WRITER);
	descriptors_drop(fs->descriptors, id);
}

/* Closes may have been missed: look at everything unsaved. Barriers that wait are given up (who made one makes another): nobody can
 * say what was before them. */
static void expect_all(struct saver *s, bool lost)
{
	uint32_t cursor = 0;
	struct node n;

	if (lost) {
		s->lost = true;
		s->lost_ns = mono_ns();
		s->barrier_count = 0;
	}
	while (inodes_next(s->fs->nodes, &cursor, &n)) {
		if (n.flags & NODE_UNSAVED && lost) {
			inodes_flags(s->fs->nodes, n.id, 0, NODE_WRITER);
			expect_at_once(s, n.id);
		} else if (n.flags & NODE_UNSAVED) {
			saver_expect(s->fs, n.id, true);
		} else if (lost && n.flags & NODE_BARRIER) {
			inodes_flags(s->fs->nodes, n.id, 0, NODE_BARRIER);
			inodes_release(s->fs->nodes, n.id);
		}
	}
}

/* What the watcher has sent; false when there is nothing more now. A message leaves the queue when it is done: the next server finds what
 * this one did not get to. */
static bool take_messages(struct saver *s)
{
	struct watch_message batch[WATCH_BATCH_MAX];
	ssize_t n = recv(s->fs->watch_fd, batch, sizeof(batch), MSG_DONTWAIT | MSG_PEEK);

	for (ssize_t i = 0; i < n / (ssize_t)sizeof(batch[0]); i++) {
		if (batch[i].kind == WATCH_CLOSED && batch[i].writers == 0)
			at_rest(s, batch[i].node, batch[i].time_ns);
		else if (batch[i].kind == WATCH_CLOSED && s->lost)
			inodes_flags(s->fs->nodes, batch[i].node, NODE_WRITER, 0);
		else if (batch[i].kind == WATCH_LOST)
			expect_all(s, true);
	}
	put_waiting_barriers(s);
	if (n > 0)
		recv(s->fs->watch_fd, batch, 0, MSG_DONTWAIT);
	return n > 0;
}

static bool ask_watcher(struct saver *s, uint64_t id)
{
	struct watch_message m = {.kind = WATCH_CHECK, .node = id};

	return send(s->fs->watch_fd, &m, sizeof(m), MSG_DONTWAIT | MSG_NOSIGNAL) == sizeof(m);
}

/* Decide about one entry that is due. False: it needs no more looking. */
static bool look_at(struct saver *s, struct expected *e, int64_t now)
{
	struct node n;
	struct dirty d;

	if (!inodes_find(s->fs->nodes, e->id, &n) || n.flags & NODE_ORPHAN || !inodes_dirty(s->fs->nodes, e->id, &d))
		return false;
	bool lost = s->lost && d.last_ns <= s->lost_ns;
	if (!lost && d.last_ns + FIRST_LOOK_PATH_NS > now) {
		e->due_ns = d.last_ns + FIRST_LOOK_PATH_NS;
		return true;
	}
	if (!ask_watcher(s, e->id)) {
		e->due_ns = now + (lost ? ASK_AGAIN_NS : SECOND_NS);
		return true;
	}
	if (e->wait_ns < FIRST_LOOK_PATH_NS)
		e->wait_ns = FIRST_LOOK_PATH_NS;
	e->due_ns = now + e->wait_ns;
	e->wait_ns = e->wait_ns * 2 < LOOK_MAX_NS ? e->wait_ns * 2 : LOOK_MAX_NS;
	return true;
}

/* Go through what is expected, if anything is due. Returns milliseconds until the next is, -1 = nothing is expected. */
static int look_at_due(struct saver *s)
{
	int64_t now = mono_ns(), next = INT64_MAX;
	int ms;

	pthread_mutex_lock(&s->mtx);
	if (now >= s->next_due_ns) {
		for (size_t i = 0; i < s->expected_count;) {
			struct expected *e = &s->expected[i];
			if (e->due_ns <= now && !look_at(s, e, now)) {
				*e = s->expected[--s->expected_count];
				continue;
			}
			if (e->due_ns < next)
				next = e->due_ns;
			i++;
		}
		/* Gathers what is due close together. */
		s->next_due_ns = next == INT64_MAX ? next : (next > now ? next : now) + GATHER_NS;
	}
	ms = s->next_due_ns == INT64_MAX ? -1 : s->next_due_ns > now ? (int)((s->next_due_ns - now) / 1000000) + 1 : 0;
	pthread_mutex_unlock(&s->mtx);
	return ms;
}

/* Sends what is to be invalidated to the watcher (watch.h says why not from here). True: it takes no more now. */
static bool invalidate_queued(struct saver *s)
{
	bool left;

	pthread_mutex_lock(&s->mtx);
	while (s->invalidate_count) {
		unsigned last = s->invalidate_count - 1;
		struct watch_message m = {.kind = WATCH_INVALIDATE, .node = s->invalidate[last].id, .offset = s->invalidate[last].offset & ~4095ull};
		if (send(s->fs->watch_fd, &m, sizeof(m), MSG_DONTWAIT | MSG_NOSIGNAL) != sizeof(m))
			break;
		s->invalidate_count = last;
		pthread_cond_broadcast(&s->room);
	}
	left = s->invalidate_count > 0;
	pthread_mutex_unlock(&s->mtx);
	return left;
}

/* A file with several names that was told of, by the first of these. */
struct first_name {
	uint64_t id;
	size_t len;
	char path[]; /* ends with NUL */
};

static int order_by_id(const void *a, const void *b)
{
	const struct first_name *x = a, *y = b;

	return x->id < y->id ? -1 : x->id > y->id;
}

static const struct first_name *first_name_of(void *const *firsts, uint64_t id)
{
	struct first_name *const *found = tfind(&(struct first_name){.id = id}, firsts, order_by_id);

	return found ? *found : NULL;
}

/* Without memory: its next name is told of as a file of its own. */
static void first_name_add(void **firsts, uint64_t id, const struct walk_entry *e)
{
	struct first_name *f = malloc(sizeof(*f) + e->len + 1), **before = tfind(&(struct first_name){.id = id}, firsts, order_by_id), *old = before ? *before : NULL;

	if (!f)
		return;
	f->id = id;
	f->len = e->len;
	memcpy(f->path, e->path, e->len);
	f->path[e->len] = 0;
	if (old)
		tdelete(old, firsts, order_by_id);
	free(old);
	if (!tsearch(f, firsts, order_by_id))
		free(f);
}

static void publish_found(struct fs *fs, const struct walk_entry *e, void **firsts)
{
	bool several = S_ISREG(e->st->st_mode) && e->st->st_nlink > 1;
	const struct first_name *first = NULL;
	struct object o = {.fd = -1};
	int r = -ESTALE;

	if (several && policy_is_local(fs, e->path, e->len))
		return; /* a record of it would give the file a version that nobody hears of */
	if (several && object_find(fs, e->dirfd, e->name, &o) == 0 && o.fd >= 0)
		first = first_name_of(firsts, o.id);
	if (first)
		r = save_found_link(fs, &o, first->path, first->len, e->path, e->len);
	if (r == -ESTALE && save_found(fs, e->dirfd, e->name, e->path, e->len, CDM_CH_NEW, NULL) >= 0 && o.fd >= 0)
		first_name_add(firsts, o.id, e);
	object_close(&o);
}

static int publish_one(struct fs *fs, const struct walk_entry *e, void *arg)
{
	pthread_rwlock_rdlock(&fs->tree);
	publish_found(fs, e, arg);
	pthread_rwlock_unlock(&fs->tree);
	return 0;
}

static int publish_tree(struct fs *fs, const char *path, size_t len)
{
	void *firsts = NULL;
	int r = walk_tree(fs, path, len, publish_one, &firsts);

	tdestroy(firsts, free);
	return r;
}

int saver_renew_tree(struct fs *fs, const char *path, size_t len)
{
	return atomic_load(&fs->read_only) ? -EROFS : publish_tree(fs, path, len);
}

static bool overlaps(const struct tree_job *j, const char *path, size_t len)
{
	size_t common = j->len < len ? j->len : len;

	return memcmp(j->path, path, common) == 0 && (j->len == len || (j->len < len ? path : j->path)[common] == '/');
}

static bool is_publishing_locked(const struct saver *s, const char *path, size_t len)
{
	for (const struct tree_job *j = s->jobs; j; j = j->next)
		if (overlaps(j, path, len))
			return true;
	return false;
}

bool saver_is_publishing(struct fs *fs, const char *path, size_t len)
{
	struct saver *s = fs->saver;
	bool r;

	pthread_mutex_lock(&s->mtx);
	r = is_publishing_locked(s, path, len);
	pthread_mutex_unlock(&s->mtx);
	return r;
}

bool saver_wait_published(struct fs *fs, const char *path, size_t len)
{
	struct saver *s = fs->saver;
	bool told;

	pthread_mutex_lock(&s->mtx);
	while (!(told = !is_publishing_locked(s, path, len)) && !atomic_load(&fs->ending))
		pthread_cond_wait(&s->published, &s->mtx);
	pthread_mutex_unlock(&s->mtx);
	return told;
}

void saver_wake_waiters(struct fs *fs)
{
	struct saver *s = fs->saver;

	if (!s)
		return;
	pthread_mutex_lock(&s->mtx);
	pthread_cond_broadcast(&s->published);
	pthread_mutex_unlock(&s->mtx);
}

static struct tree_job *first_job(struct saver *s)
{
	struct tree_job *j;

	pthread_mutex_lock(&s->mtx);
	j = s->jobs;
	pthread_mutex_unlock(&s->mtx);
	return j;
}

static void drop_first_job(struct saver *s)
{
	struct tree_job *j;

	pthread_mutex_lock(&s->mtx);
	j = s->jobs;
	s->jobs = j->next;
	if (!s->jobs)
		s->jobs_end = &s->jobs;
	pthread_cond_broadcast(&s->published);
	pthread_mutex_unlock(&s->mtx);
	free(j);
}

static void run_jobs(struct saver *s)
{
	struct tree_job *j;

	while ((j = first_job(s))) {
		publish_tree(s->fs, j->path, j->len);
		publish_forget(s->fs, j->note);
		drop_first_job(s);
	}
}

static void *saver_thread(void *arg)
{
	struct saver *s = arg;
	struct pollfd fds[2] = {{.fd = s->fs->watch_fd, .events = POLLIN}, {.fd = s->wake_fd, .events = POLLIN}};

	prctl(PR_SET_NAME, "cdmfs-save");
	while (!atomic_load(&s->stop)) {
		eventfd_t count;
		int ms = look_at_due(s);
		if (poll(fds, 2, ms) < 0 && errno != EINTR)
			break;
		if (fds[0].revents & POLLIN && take_messages(s))
			; /* there may be more: poll() tells */
		else if (fds[0].revents & (POLLHUP | POLLERR | POLLNVAL))
			fds[0].fd = -1; /* the other end is gone with holder and watcher: only the clock is left */
		if (fds[1].revents & POLLIN)
			eventfd_read(s->wake_fd, &count);
		fds[0].events = POLLIN | (invalidate_queued(s) ? POLLOUT : 0);
		run_jobs(s);
	}
	return NULL;
}

int saver_start(struct fs *fs, struct cdm_error *err)
{
	struct saver *s = calloc(1, sizeof(*s));
	int e;

	if (!s)
		return cdm_fail(err, ENOMEM, "start the saver");
	s->fs = fs;
	s->jobs_end = &s->jobs;
	s->next_due_ns = INT64_MAX;
	pthread_mutex_init(&s->mtx, NULL);
	pthread_cond_init(&s->published, NULL);
	pthread_cond_init(&s->room, NULL);
	fs->saver = s;
	s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->wake_fd < 0)
		return cdm_fail(err, errno, "start the saver");
	expect_all(s, false);
	publish_resume(fs);
	e = pthread_create(&s->thread, NULL, saver_thread, s);
	s->started = e == 0;
	return e ? cdm_fail(err, e, "start the saver") : 0;
}

static void save_everything(struct fs *fs)
{
	uint32_t cursor = 0;
	struct node n;

	while (inodes_next(fs->nodes, &cursor, &n)) {
		if (n.flags & NODE_CONFLICT)
			conflict_check(fs, n.id);
		else if (n.flags & NODE_UNSAVED)
			save_node(fs, n.id, 0);
	}
}

void saver_stop(struct fs *fs, bool final)
{
	struct saver *s = fs->saver;

	if (!s)
		return;
	if (s->started) {
		atomic_store(&s->stop, true);
		wake(s);
		pthread_join(s->thread, NULL);
		while (final && take_messages(s))
			;
		run_jobs(s);
		if (final)
			save_everything(fs);
	}
	fs->saver = NULL;
	if (s->wake_fd >= 0)
		close(s->wake_fd);
	free(s->expected);
	pthread_mutex_destroy(&s->mtx);
	pthread_cond_destroy(&s->published);
	free(s);
}
