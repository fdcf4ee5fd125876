/* SPDX-License-Identifier: Apache-2.0 */
/* The server process: opens everything in order, runs the threads, ends in one of three ways (holder.h). */
#include "cdmfs/server.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>
#include "cdmfs/fs.h"
#include "cdmfs/save.h"
#include "cdmfs/session.h"
#include "cdmfs/settle.h"
#include "cdmfs/store.h"
#include "common/faultpoint.h"
#include "common/log.h"

#define THREADS_DEFAULT 4
#define DESCRIPTORS_WANTED 16384
#define MARK_SLACK_NS 2000000000ll

struct server {
	struct fs fs;
	struct child_options *options;
	struct cdm_identity *identity;
	struct cdm_journal_state state;
	struct worker workers[SETTLE_THREADS_MAX];
	unsigned threads, running;
	bool handover;
};

/* --- limits and signals --- */

static void raise_limits(void)
{
	struct rlimit files = {DESCRIPTORS_WANTED, DESCRIPTORS_WANTED}, size = {RLIM_INFINITY, RLIM_INFINITY}, core = {0, 0};

	setrlimit(RLIMIT_NOFILE, &files);
	setrlimit(RLIMIT_FSIZE, &size); /* the caller's limit was checked by the kernel */
	setrlimit(RLIMIT_CORE, &core);  /* a core of this process would hold people's content */
}

static void ignore_signal(int signo)
{
	(void)signo;
}

/* SIGUSR1 only ends a read; the signals that mean something are waited for by the main thread. Only the holder ends a server for good: one that
 * somebody else tells to end (SIGTERM) makes room for the next, for the mount goes on. */
static void prepare_signals(sigset_t *waited)
{
	struct sigaction wake = {.sa_handler = ignore_signal};

	sigaction(SIGUSR1, &wake, NULL);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGINT, SIG_IGN); /* Ctrl-C is for the holder */
	sigemptyset(waited);
	sigaddset(waited, SIGTERM);
	sigaddset(waited, SERVER_END_SIGNAL);
	sigaddset(waited, SIGUSR2);
	sigaddset(waited, SIGHUP);
	sigaddset(waited, SIGALRM);
	pthread_sigmask(SIG_BLOCK, waited, NULL);
}

/* --- opening --- */

static int load_config(struct server *s, struct cdm_error *err)
{
	struct fs *fs = &s->fs;
	int r = cdm_conf_load(s->options->config, &fs->conf, err);

	if (r < 0)
		return r;
	fs->set_conf = cdm_conf_set(fs->conf, s->options->set, err);
	if (!fs->set_conf)
		return -ENOENT;
	fs->set = fs->set_conf->name;
	r = cdm_identity_load(fs->conf, &s->identity, err);
	if (r < 0)
		return r;
	fs->node_name = s->identity->node;
	fs->node_number = s->identity->number;
	cdm_log_identity(fs->node_name, fs->set);
	return policy_reload(fs, err);
}

static int open_run_dir(struct fs *fs, struct cdm_error *err)
{
	if (asprintf(&fs->run_dir, "%s/%s", fs->conf->run, fs->set) < 0)
		return cdm_fail(err, ENOMEM, "run directory");
	fs->run_fd = open(fs->run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fs->run_fd < 0 ? cdm_fail(err, errno, "open %s", fs->run_dir) : 0;
}

static int next_incarnation(struct fs *fs, const char *reason, struct cdm_error *err)
{
	int r = store_set_incarnation(fs, fs->store.incarnation + 1, err);

	if (r < 0)
		return r;
	cdm_journal_set_incarnation(fs->journal, fs->store.incarnation);
	cdm_log(incarnation_new, cdm_uint("incarnation", fs->store.incarnation), cdm_str("reason", reason));
	return 0;
}

static bool tail_was_lost(const struct server *s)
{
	return !s->state.tail_alive && !s->state.clean && !s->fs.store.fresh;
}

static int open_journal(struct server *s, struct cdm_error *err)
{
	struct fs *fs = &s->fs;
	struct cdm_journal_conf conf = {.journal_dir_fd = fs->store.journal_fd, .run_dir = fs->run_dir, .node_number = fs->node_number,
		.incarnation = fs->store.incarnation, .max_bytes = fs->set_conf->journal_bytes, .cut_to_mark = true};
	if (!s->options->resume)
		recall_read(fs);
	int r = cdm_journal_open(&conf, &fs->journal, &s->state, err);

	if (r < 0)
		return cdm_wrap(err, r, "journal of set %s", fs->set);
	cdm_clock_observe(0);
	return tail_was_lost(s) ? next_incarnation(fs, "the journal's tail was lost", err) : 0;
}

static int root_ids(struct fs *fs, struct cdm_error *err)
{
	struct object content, staging;
	int r = object_find(fs, fs->store.root_fd, ".", &content);

	if (r < 0)
		return cdm_fail(err, -r, "file handles of store %s", fs->set_conf->store);
	r = object_find(fs, fs->store.staging_fd, ".", &staging);
	if (r < 0) {
		object_close(&content);
		return cdm_fail(err, -r, "file handles of store %s", fs->set_conf->store);
	}
	fs->content_id = content.id;
	fs->staging_id = staging.id;
	inodes_set_roots(fs->nodes, content.id, staging.id);
	r = inodes_see(fs->nodes, &(struct node_seen){.id = content.id, .handle = &content.handle, .type = S_IFDIR, .flags = NODE_PINNED});
	if (r == 0)
		r = inodes_see(fs->nodes, &(struct node_seen){.id = staging.id, .handle = &staging.handle, .type = S_IFDIR, .flags = NODE_PINNED});
	object_close(&content);
	object_close(&staging);
	return r < 0 ? cdm_fail(err, -r, "node table") : 0;
}

static void init_locks(struct fs *fs)
{
	pthread_rwlockattr_t writers_first;

	pthread_rwlockattr_init(&writers_first);
	pthread_rwlockattr_setkind_np(&writers_first, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&fs->tree, &writers_first);
	pthread_rwlockattr_destroy(&writers_first);
	pthread_rwlock_init(&fs->policy_lock, NULL);
	for (unsigned i = 0; i < DIR_STRIPES; i++)
		pthread_mutex_init(&fs->dir_locks[i], NULL);
	for (unsigned i = 0; i < NODE_STRIPES; i++)
		pthread_mutex_init(&fs->node_locks[i], NULL);
}

static int open_all(struct server *s, struct cdm_error *err)
{
	struct fs *fs = &s->fs;
	int r = load_config(s, err);

	if (r == 0)
		r = open_run_dir(fs, err);
	if (r == 0)
		r = store_open(fs, err);
	if (r == 0)
		r = open_journal(s, err);
	if (r == 0)
		r = inodes_open(fs->run_fd, &fs->nodes, err);
	if (r == 0)
		r = root_ids(fs, err);
	if (r == 0)
		r = cdm_announce_open(fs->run_dir, &fs->announce, err);
	if (r == 0)
		r = settle_open(fs, err);
	if (r == 0)
		r = removed_open(fs, err);
	if (r == 0)
		r = alive_open(fs, err);
	if (r == 0 && !(fs->descriptors = descriptors_new()))
		r = cdm_fail(err, ENOMEM, "start the server");
	return r;
}

/* A new mount: what the table says of an earlier one counts only as far as it was not saved. */
static int begin_anew(struct server *s, struct cdm_error *err)
{
	struct fs *fs = &s->fs;
	uint32_t cursor = 0;
	struct node n;

	while (inodes_next(fs->nodes, &cursor, &n))
		if (n.flags & NODE_UNSAVED)
			save_node(fs, n.id, 0);
	inodes_clear(fs->nodes);
	orphans_remove(fs);
	if (tail_was_lost(s))
		store_empty(fs->store.staging_fd);
	return root_ids(fs, err);
}

static int begin_check(struct server *s, struct cdm_error *err)
{
	struct fs *fs = &s->fs;
	bool marked = s->state.mark_ns != 0;

	if (!tail_was_lost(s)) {
		recall_drop(fs);
		recall_confirmed_drop(fs);
		return check_resume(fs, err);
	}
	recall_record(fs);
	recall_confirm(fs);
	cdm_log(check_begin, cdm_str("since", marked ? "last checkpoint" : "ever"), cdm_str("reason", "the journal's tail was lost"));
	return check_start(fs, marked ? s->state.mark_ns - MARK_SLACK_NS : INT64_MIN, &s->state.applied, err);
}

static int begin_serving(struct server *s, struct cdm_error *err)
{
	struct fs *fs = &s->fs;
	int r = 0;

	settle_pending(fs, s->options->resume);
	if (!s->options->resume)
		r = begin_anew(s, err);
	if (r == 0)
		r = saver_start(fs, err);
	if (r == 0)
		r = s->options->resume ? session_resume(fs, err) : session_init(fs, err);
	if (r == 0 && s->options->resume)
		cdm_log(resumed, cdm_uint("nodes", inodes_count(fs->nodes)), cdm_uint("records", s->state.records));
	return r < 0 ? r : begin_check(s, err);
}

/* --- threads --- */

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct cdm_error err = CDM_ERROR_INIT;
	char name[16];

	snprintf(name, sizeof(name), "cdmfs-%u", w->index);
	prctl(PR_SET_NAME, name);
	if (caller_prepare_thread(w, &err) < 0) {
		cdm_log_err(failed, &err);
		atomic_store(&w->fs->ending, true);
	}
	session_serve(w);
	kill(getpid(), SIGALRM); /* tells the main thread to look: the mount may be gone */
	return NULL;
}

/* Room for a request. The kernel copies requests into it; should a page of it not be there when the process is killed at that
 * moment, the copy fails and the call gets EIO instead of being resent (promise 7). So `resident` ones are there before the first read. */
static void *buffer_new(bool resident)
{
	int how = MAP_PRIVATE | MAP_ANONYMOUS | (resident ? MAP_POPULATE : MAP_NORESERVE);
	void *p = mmap(NULL, WORKER_BUFFER, PROT_READ | PROT_WRITE, how, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	if (resident)
		mlock(p, WORKER_BUFFER); /* a limit may forbid it; without swap it stays all the same */
	return p;
}

static int start_workers(struct server *s, struct cdm_error *err)
{
	for (unsigned i = 0; i < s->threads; i++) {
		struct worker *w = &s->workers[i];
		w->fs = &s->fs;
		w->index = i;
		w->in = buffer_new(true);
		w->out = buffer_new(false);
		w->path = malloc(CDM_PATH_MAX);
		w->path2 = malloc(CDM_PATH_MAX);
		int e = w->in && w->out && w->path && w->path2 ? pthread_create(&w->thread, NULL, worker_main, w) : ENOMEM;
		if (e)
			return cdm_fail(err, e, "start thread %u", i);
		s->running++;
	}
	return 0;
}

/* A thread may go to sleep in read() just after it looked at `ending`: knock until it has come out. */
static void join_worker(struct worker *w)
{
	for (;;) {
		struct timespec until;
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_nsec += 20000000;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		pthread_kill(w->thread, SIGUSR1);
		if (pthread_clockjoin_np(w->thread, NULL, CLOCK_MONOTONIC, &until) == 0)
			return;
	}
}

static void stop_workers(struct server *s)
{
	atomic_store(&s->fs.ending, true);
	saver_wake_waiters(&s->fs);
	check_wake_waiters(&s->fs);
	for (unsigned i = 0; i < s->running; i++) {
		join_worker(&s->workers[i]);
		munmap(s->workers[i].in, WORKER_BUFFER);
		munmap(s->workers[i].out, WORKER_BUFFER);
		free(s->workers[i].path);
		free(s->workers[i].path2);
	}
	s->running = 0;
}

/* Until somebody asks to end or the mount is gone. */
static void wait_for_end(struct server *s, const sigset_t *waited)
{
	struct cdm_error err = CDM_ERROR_INIT;
	int signo;

	while (!atomic_load(&s->fs.unmounted) && !atomic_load(&s->fs.ending)) {
		signo = sigwaitinfo(waited, NULL);
		if (signo == SIGHUP && policy_reload(&s->fs, &err) < 0)
			cdm_log_err(failed, &err);
		if (signo == SIGUSR2 || signo == SIGTERM)
			s->handover = true;
		if (s->handover || signo == SERVER_END_SIGNAL)
			return;
	}
}

/* --- the end --- */

static void remove_run_files(struct fs *fs)
{
	unlinkat(fs->run_fd, "nodes", 0);
	unlinkat(fs->run_fd, "inflight", 0);
	unlinkat(fs->run_fd, "removed", 0);
	unlinkat(fs->run_fd, "alive", 0);
	unlinkat(fs->run_fd, "check", 0);
	unlinkat(fs->run_fd, "init", 0);
}

/* For good: everything saved, the journal closed with CLEAN. */
static int end_clean(struct server *s, struct cdm_error *err)
{
	struct fs *fs = &s->fs;
	int r;

	check_stop(fs);
	saver_stop(fs, true);
	if (atomic_load(&fs->unmounted))
		orphans_remove(fs);
	r = cdm_journal_close(&fs->journal, err);
	if (r == 0)
		remove_run_files(fs);
	cdm_faultpoint("server.closed_not_ended");
	return r;
}

static int finish(struct server *s)
{
	struct fs *fs = &s->fs;
	struct cdm_error err = CDM_ERROR_INIT;

	if (s->handover && !atomic_load(&fs->unmounted)) {
		check_stop(fs);
		saver_stop(fs, false);
		return CDM_EXIT_HANDOVER;
	}
	if (end_clean(s, &err) < 0) {
		cdm_log_err(failed, &err);
		return CDM_EXIT_REFUSED;
	}
	cdm_log(stop, cdm_str("program", "cdmfs"), cdm_str("reason", atomic_load(&fs->unmounted) ? "unmounted" : "asked to"));
	return CDM_EXIT_CLEAN;
}

static void close_all(struct server *s)
{
	struct fs *fs = &s->fs;

	descriptors_free(&fs->descriptors);
	settle_close(fs);
	removed_close(fs);
	alive_close(fs);
	cdm_announce_close(&fs->announce);
	inodes_close(&fs->nodes);
	store_close(&fs->store);
	cdm_policy_fini(&fs->policy);
	cdm_identity_free(&s->identity);
	cdm_conf_free(&fs->conf);
	free(fs->run_dir);
	if (fs->run_fd >= 0)
		close(fs->run_fd);
}

int server_main(struct child_options *options)
{
	static struct server s; /* too large for the stack; one per process */
	struct cdm_error err = CDM_ERROR_INIT;
	uint64_t *orphans = NULL;
	size_t orphan_count = 0;
	sigset_t waited;
	int r;

	s.options = options;
	s.threads = THREADS_DEFAULT;
	s.fs.fuse_fd = options->fuse_fd;
	s.fs.watch_fd = options->watch_fd;
	s.fs.run_fd = -1;
	s.fs.store.root_fd = s.fs.store.lock_fd = -1;
	fcntl(options->fuse_fd, F_SETFD, FD_CLOEXEC);
	fcntl(options->watch_fd, F_SETFD, FD_CLOEXEC);
	raise_limits();
	prepare_signals(&waited);
	init_locks(&s.fs);
	cdm_log(start, cdm_str("program", "cdmfs"), cdm_str("version", CDM_VERSION));
	r = open_all(&s, &err);
	if (r == 0)
		r = begin_serving(&s, &err);
	if (r == 0 && options->resume)
		orphan_count = orphans_list(&s.fs, &orphans);
	if (r == 0)
		r = start_workers(&s, &err);
	if (r == -ENODEV && atomic_load(&s.fs.unmounted)) { /* unmounted while it started: nothing is left but to close the journal */
		r = finish(&s);
		close_all(&s);
		return r;
	}
	if (r < 0) {
		stop_workers(&s);
		return child_failed(options, &err);
	}
	child_ready(options);
	orphans_probe(&s.fs, orphans, orphan_count);
	free(orphans);
	wait_for_end(&s, &waited);
	stop_workers(&s);
	r = finish(&s);
	close_all(&s);
	return r;
}
