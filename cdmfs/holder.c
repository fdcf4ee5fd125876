/* SPDX-License-Identifier: Apache-2.0 */
/* holder.c — what the person starts: checks, mounts, starts the server and the watcher, starts them again when they die, and
 * ends it all. The order of things is in enum phase; each phase ends with an event that enters the next. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>
#include "cdmfs/holder.h"
#include "cdmfs/holder_parts.h"
#include "cdmfs/report.h"
#include "common/io.h"
#include "common/log.h"

#define CLOSERS_MAX 2       /* servers started only for that */

/* --- epoll --- */

int source_add(struct holder *h, struct source *s, int fd, uint32_t events, source_fn *ready, void *owner, struct cdm_error *err)
{
	struct epoll_event ev = {.events = events, .data.ptr = s};

	*s = (struct source){.fd = fd, .epoll_fd = h->epoll_fd, .ready = ready, .owner = owner};
	if (epoll_ctl(h->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0) {
		int r = cdm_fail(err, errno, "wait for events");
		source_drop(s);
		return r;
	}
	return 0;
}

void source_drop(struct source *s)
{
	if (s->fd < 0)
		return;
	epoll_ctl(s->epoll_fd, EPOLL_CTL_DEL, s->fd, NULL); /* closing is not enough while a forked helper has it, too */
	close(s->fd);
	s->fd = -1;
}

int timer_start(struct holder *h, struct source *s, int64_t ms, source_fn *fired, void *owner)
{
	struct itimerspec when = {.it_value = {ms / 1000, ms % 1000 * 1000000}};
	struct cdm_error err = CDM_ERROR_INIT;
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK), r;

	r = fd < 0 || timerfd_settime(fd, 0, &when, NULL) < 0 ? cdm_fail(&err, errno, "start a timer") :
		source_add(h, s, fd, EPOLLIN, fired, owner, &err);
	if (r < 0)
		cdm_log_err(failed, &err);
	return r;
}

/* --- RUN/SET/pids --- */

void holder_write_pids(struct holder *h)
{
	json_t *o = json_pack("{s:i s:i s:i s:s s:b}", "holder", (int)getpid(), "server", (int)h->server.pid, "watcher",
		(int)h->watcher.pid, "mountpoint", h->mountpoint, "immutable", (int)h->immutable);
	_cleanup_free_ char *text = o ? json_dumps(o, 0) : NULL;
	_cleanup_close_ int dir = open(h->run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct cdm_error err = CDM_ERROR_INIT;

	json_decref(o);
	if (!text || dir < 0)
		return;
	if (cdm_replace_file(dir, "pids", text, strlen(text), 0600, &err) < 0)
		cdm_log_err(failed, &err);
}

/* The start failed for good. */
static void fail_start(struct holder *h, const struct cdm_error *err)
{
	h->failure = *err;
	h->exit_status = 1;
	holder_begin_end(h, "start failed");
}

/* --- the start --- */

/* Is the full mount there (RUN/SET/full), and what is the id of the visible one (0: gone)? */
static bool look_at_mounts(struct holder *h, int *ret_visible_id)
{
	struct mount_table t = {0};
	struct cdm_error err = CDM_ERROR_INIT;

	*ret_visible_id = h->visible_id;
	if (mount_table_read(&t, &err) < 0) {
		cdm_log_err(failed, &err);
		return h->full_mounted;
	}
	const struct mount_entry *full = mount_table_at(&t, h->full);
	const struct mount_entry *visible = h->visible_id ? mount_table_by_id(&t, h->visible_id) : mount_table_at(&t, h->mountpoint);
	bool there = full && strcmp(full->type, "fuse.cdmfs") == 0;
	bool ours = visible && strcmp(visible->type, "fuse.cdmfs") == 0 && strcmp(visible->source, h->set->name) == 0;
	if (!h->visible_id && there) /* just bound; the full one may be gone already */
		ours = ours && visible->dev == full->dev;
	*ret_visible_id = (h->visible_id ? visible != NULL : ours) ? visible->id : 0;
	mount_table_fini(&t);
	return there;
}

static void on_mounts_changed(struct holder *h, struct source *s)
{
	if (h->phase != PHASE_RUN)
		return;
	h->full_mounted = look_at_mounts(h, &h->visible_id);
	if (!h->full_mounted || !h->visible_id)
		holder_begin_end(h, "unmounted");
}

static void report_running(struct holder *h)
{
	cdm_log(mount_ready, cdm_str("mountpoint", h->mountpoint), cdm_str("store", h->set->store),
		cdm_str("mode", visible_flags(h) & MOUNT_ATTR_RDONLY ? "read-only" : "read-write"));
	notify_systemd("READY=1\nSTATUS=set %s at %s", h->set->name, h->mountpoint);
	report_ready(&h->report_fd);
}

static void apply_flags(struct holder *h);

static void on_flags_set(struct holder *h, int result, const struct cdm_error *err)
{
	h->helper_busy = false;
	if (result == -EBUSY) /* files are open for writing; the server refuses their writes */
		cdm_debug("%s", err->text);
	else if (result < 0)
		cdm_log_err(failed, err);
	if (h->policy_pending)
		apply_flags(h);
}

static void apply_flags(struct holder *h)
{
	h->policy_pending = h->helper_busy;
	if (h->helper_busy || h->phase != PHASE_RUN)
		return;
	h->helper_busy = true;
	helper_start(h, "cdmfs-remount", flags_in_helper, on_flags_set);
}

static void on_bound(struct holder *h, int result, const struct cdm_error *err)
{
	h->start_helper = false;
	if (result < 0)
		h->visible_id = 0;
	else
		h->full_mounted = look_at_mounts(h, &h->visible_id);
	if (h->phase != PHASE_BIND) { /* the end began meanwhile */
		holder_end_step(h);
		return;
	}
	if (result < 0) {
		fail_start(h, err);
		return;
	}
	if (!h->full_mounted || h->visible_id == 0) {
		holder_begin_end(h, "unmounted");
		return;
	}
	h->phase = PHASE_RUN;
	holder_write_pids(h);
	report_running(h);
	if (h->policy_pending)
		apply_flags(h);
}

static void enter_bind(struct holder *h)
{
	h->phase = PHASE_BIND;
	if (h->visible_id) { /* taken over, visible already */
		on_bound(h, 0, NULL);
		return;
	}
	if (set_immutable(h->mountpoint, true)) {
		h->immutable = true;
		holder_write_pids(h); /* a holder killed from here on leaves it to the next one to undo */
	}
	h->start_helper = true;
	helper_start(h, "cdmfs-mount", bind_in_helper, on_bound);
}

static void enter_watcher(struct holder *h)
{
	struct cdm_error err = CDM_ERROR_INIT;

	h->phase = PHASE_WATCHER;
	if (h->watcher.ready) {
		enter_bind(h);
		return;
	}
	h->watcher.wanted = true;
	if (h->watcher.pid == 0 && child_start(h, &h->watcher, &err) < 0)
		fail_start(h, &err);
}

static void on_primed(struct holder *h, int result, const struct cdm_error *err)
{
	h->start_helper = false;
	if (h->phase != PHASE_PRIME) {
		holder_end_step(h);
		return;
	}
	if (result < 0)
		fail_start(h, err);
	else
		enter_watcher(h);
}

static void enter_prime(struct holder *h)
{
	h->phase = PHASE_PRIME;
	h->start_helper = true;
	helper_start(h, "cdmfs-prime", prime_in_helper, on_primed);
}

void holder_child_ready(struct holder *h, struct child *c)
{
	cdm_log(child_ready, cdm_str("program", c->name), cdm_int("pid", c->pid));
	if (c == &h->server) {
		h->resumed = true;
		h->server_clean = false;
		if (h->phase == PHASE_SERVER)
			enter_prime(h);
	} else if (h->phase == PHASE_WATCHER) {
		enter_bind(h);
	}
}

static void describe_end(const struct child_end *end, char *out, size_t room)
{
	if (!end->known)
		snprintf(out, room, "ended");
	else if (WIFSIGNALED(end->status))
		snprintf(out, room, "killed by signal %d (%s)%s", WTERMSIG(end->status), strsignal(WTERMSIG(end->status)),
			WCOREDUMP(end->status) ? ", core dumped" : "");
	else
		snprintf(out, room, "exit status %d", WEXITSTATUS(end->status));
}

static bool ended_with(const struct child_end *end, int status)
{
	return end->known && WIFEXITED(end->status) && WEXITSTATUS(end->status) == status;
}

/* It ended before it ever worked: nobody is served yet, so the start fails and says why. */
static bool failed_at_start(struct holder *h, struct child *c, const struct child_end *end, const char *how)
{
	struct cdm_error err = end->error;

	if (c->once_ready || h->phase >= PHASE_RUN)
		return false;
	if (err.number == 0)
		cdm_fail_plain(&err, EIO, "the %s ended before it was ready (%s)", c->name, how);
	fail_start(h, &err);
	return true;
}

static void log_end(struct child *c, const struct child_end *end, const char *how)
{
	if (ended_with(end, CDM_EXIT_HANDOVER) || ended_with(end, CDM_EXIT_CLEAN))
		cdm_log(child_restarts, cdm_str("program", c->name), cdm_int("pid", end->pid));
	else
		cdm_log_err(child_died, &end->error, cdm_str("program", c->name), cdm_int("pid", end->pid), cdm_str("reason", how));
}

bool holder_start_closer(struct holder *h)
{
	struct cdm_error err = CDM_ERROR_INIT;

	if (h->server_clean || h->closers++ >= CLOSERS_MAX)
		return false;
	if (child_start(h, &h->server, &err) < 0) {
		cdm_log_err(failed, &err);
		return false;
	}
	return true;
}

/* The mount is gone, but its last server did not close the journal (it was killed, or handing over): one more does only that. */
static bool close_journal(struct holder *h, const struct child_end *end, const char *how)
{
	if (!h->server_clean)
		log_end(&h->server, end, how);
	return holder_start_closer(h);
}

void holder_child_ended(struct holder *h, struct child *c, const struct child_end *end)
{
	char how[128];
	bool is_server = c == &h->server;

	describe_end(end, how, sizeof(how));
	holder_write_pids(h);
	if (is_server)
		h->server_clean = ended_with(end, CDM_EXIT_CLEAN);
	if (failed_at_start(h, c, end, how))
		return;
	if (!is_server && h->phase == PHASE_END_WATCHER) {
		holder_enter_end(h, PHASE_END_FULL);
	} else if (is_server && h->phase == PHASE_END_SERVER) {
		if (close_journal(h, end, how))
			holder_end_server(h);
		else
			holder_enter_end(h, PHASE_OVER);
	} else if (is_server && h->phase == PHASE_END_FULL && !look_at_mounts(h, &h->visible_id)) {
		close_journal(h, end, how); /* on_full_unmounted goes on */
	} else if (c->wanted) {
		if (ended_with(end, CDM_EXIT_HANDOVER) || (!is_server && ended_with(end, CDM_EXIT_CLEAN)))
			c->quick_deaths = 0;
		log_end(c, end, how);
		child_start_again(h, c);
	}
}

/* --- signals, policy --- */

static void read_policy(struct holder *h)
{
	struct cdm_policy policy = {0};
	struct cdm_error err = CDM_ERROR_INIT;

	if (cdm_policy_load(h->conf, h->set->name, &policy, &err) < 0) {
		cdm_log_err(failed, &err);
		return;
	}
	uint64_t before = visible_flags(h);
	cdm_policy_fini(&h->policy);
	h->policy = policy;
	if (visible_flags(h) != before)
		apply_flags(h);
}

static void on_routes_changed(struct holder *h, struct source *s)
{
	char buf[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
	ssize_t n;
	bool ours = false;

	while ((n = read(s->fd, buf, sizeof(buf))) > 0) {
		const struct inotify_event *e;
		for (char *p = buf; p < buf + n; p += sizeof(*e) + e->len) {
			e = (const struct inotify_event *)p;
			ours |= e->len == 0 || strcmp(e->name, "routes.json") == 0;
		}
	}
	if (ours)
		read_policy(h);
}

static void restart_children(struct holder *h)
{
	read_policy(h);
	child_signal(&h->server, SIGUSR2);
	if (h->phase == PHASE_RUN)
		child_signal(&h->watcher, SIGTERM);
}

static void on_signal(struct holder *h, struct source *s)
{
	struct signalfd_siginfo si;

	while (read(s->fd, &si, sizeof(si)) == sizeof(si)) {
		if (si.ssi_signo == SIGIO) {
			watchdog_heard(h);
		} else if (si.ssi_signo == SIGHUP) {
			notify_systemd("RELOADING=1");
			restart_children(h);
			notify_systemd("READY=1");
		} else if (si.ssi_signo == SIGTERM || si.ssi_signo == SIGINT) {
			if (h->end_signals++ > 0)
				holder_end_by_force(h);
			else
				holder_begin_end(h, si.ssi_signo == SIGTERM ? "SIGTERM" : "SIGINT");
		}
	}
}

static int watch_routes(struct holder *h, struct cdm_error *err)
{
	int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);

	if (fd < 0 || inotify_add_watch(fd, h->conf->state, IN_MOVED_TO | IN_CLOSE_WRITE | IN_ONLYDIR) < 0) {
		int r = cdm_fail(err, errno, "watch %s", h->conf->state);
		if (fd >= 0)
			close(fd);
		return r;
	}
	return source_add(h, &h->routes, fd, EPOLLIN, on_routes_changed, NULL, err);
}

static int open_events(struct holder *h, struct cdm_error *err)
{
	sigset_t set;
	int fd, r;

	h->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (h->epoll_fd < 0)
		return cdm_fail(err, errno, "wait for events");
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGIO);
	sigprocmask(SIG_BLOCK, &set, NULL);
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0)
		return cdm_fail(err, errno, "wait for signals");
	r = source_add(h, &h->signals, fd, EPOLLIN, on_signal, NULL, err);
	if (r < 0)
		return r;
	fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return cdm_fail(err, errno, "open /proc/self/mountinfo");
	r = source_add(h, &h->mountinfo, fd, EPOLLPRI, on_mounts_changed, NULL, err);
	return r < 0 ? r : watch_routes(h, err);
}

/* --- from the command line to the loop --- */

int holder_make_watch(struct holder *h, struct cdm_error *err)
{
	int size = 4 << 20; /* closes may come faster than a busy server hears them, or while there is none */

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, h->watch_fds) < 0)
		return cdm_fail(err, errno, "make the watch socket");
	setsockopt(h->watch_fds[1], SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
	return 0;
}

static int start_fresh(struct holder *h, struct cdm_error *err)
{
	int r = check_store(h, err);

	if (r == 0)
		r = check_mountpoint(h, err);
	if (r == 0)
		r = mount_run_dir(h, err);
	if (r == 0)
		r = holder_make_watch(h, err);
	if (r == 0)
		r = mount_full(h, err);
	if (r < 0)
		return r;
	h->server.wanted = true;
	h->phase = PHASE_SERVER;
	return child_start(h, &h->server, err);
}

static int start_taken_over(struct holder *h, struct cdm_error *err)
{
	int r = mount_run_dir(h, err);

	if (r == 0 && h->visible_id == 0)
		r = check_mountpoint(h, err);
	if (r < 0)
		return r;
	h->policy_pending = true;
	holder_write_pids(h);
	enter_prime(h);
	return 0;
}

static int start_mount(struct holder *h, struct cdm_error *err)
{
	int r = lock_set(h, err);

	if (r < 0)
		return r;
	r = takeover(h, err);
	if (r < 0)
		return r;
	return r == 0 ? start_fresh(h, err) : start_taken_over(h, err);
}

static void run_loop(struct holder *h)
{
	struct epoll_event ev[1];

	while (h->phase != PHASE_OVER) {
		int n = epoll_wait(h->epoll_fd, ev, 1, -1); /* one: handling it may drop what a second one points to */
		if (n > 0) {
			struct source *s = ev[0].data.ptr;
			if (s->fd >= 0)
				s->ready(h, s);
		}
	}
}

/* A tail that nobody closed is the only copy of the newest changes: then RUN/SET stays for the next start. */
static void clean_run_dir(struct holder *h)
{
	_cleanup_free_ char *tail = NULL, *pids = NULL;

	if (asprintf(&tail, "%s/tail", h->run_dir) < 0 || asprintf(&pids, "%s/pids", h->run_dir) < 0)
		return;
	unlink(pids);
	if (h->server_clean || access(tail, F_OK) < 0)
		unmount_run_dir(h);
}

static void holder_init(struct holder *h)
{
	struct source *sources[] = {&h->signals, &h->mountinfo, &h->routes, &h->deadline};

	memset(h, 0, sizeof(*h));
	h->lock_fd = h->fuse_fd = h->watch_fds[0] = h->watch_fds[1] = h->report_fd = h->epoll_fd = -1;
	for (size_t i = 0; i < sizeof(sources) / sizeof(*sources); i++)
		sources[i]->fd = -1;
	watchdog_init(&h->watchdog);
	child_init(&h->server, "server");
	child_init(&h->watcher, "watcher");
}

static void holder_fini(struct holder *h)
{
	cdm_policy_fini(&h->policy);
	cdm_identity_free(&h->identity);
	cdm_conf_free(&h->conf);
	free(h->program);
	free(h->config_path);
	free(h->mountpoint);
	free(h->run_dir);
	free(h->full);
	free(h->content);
	holder_options_fini(&h->options);
}

/* Runs it all; returns the exit status, with h->failure saying why if that is not 0. */
static int run_mount(struct holder *h)
{
	int r;

	h->failure = CDM_ERROR_INIT;
	r = open_events(h, &h->failure);
	if (r == 0)
		r = start_mount(h, &h->failure);
	if (r < 0 && h->full_mounted) {
		struct cdm_error err = h->failure;
		fail_start(h, &err);
	} else if (r < 0) {
		return 1;
	}
	watchdog_start(h);
	run_loop(h);
	if (h->fuse_fd >= 0) { /* nobody answers any more: should the mount still be there, calls on it (our own ones, too) get errors */
		close(h->fuse_fd);
		h->fuse_fd = -1;
	}
	if (h->immutable)
		set_immutable(h->mountpoint, false);
	clean_run_dir(h);
	return h->exit_status ? h->exit_status : !h->server_clean;
}

static int run_holder(struct holder *h, const char *argv0)
{
	int r, status;

	prctl(PR_SET_NAME, "cdmfs-holder");
	r = load_settings(h, argv0, &h->failure);
	if (r == 0 && h->options.remount) {
		r = remount_visible(h, &h->failure);
		if (r == 0)
			return 0;
	}
	if (r == 0 && chdir("/") < 0)
		r = cdm_fail(&h->failure, errno, "go to /");
	if (r < 0)
		return 1;
	umask(022);
	check_kernel();
	cdm_log(start, cdm_str("program", "cdmfs"), cdm_str("version", CDM_VERSION));
	status = run_mount(h);
	cdm_log(stop, cdm_str("program", "cdmfs"), cdm_str("reason", status ? "failed" : "unmounted"));
	return status;
}

int holder_main(int argc, char **argv)
{
	struct holder h;
	int r, status;

	holder_init(&h);
	r = holder_options_parse(argc, argv, &h.options, &h.failure);
	if (r != 0) {
		if (r < 0)
			cdm_error_print("cdmfs", &h.failure);
		holder_options_fini(&h.options);
		return r < 0 ? 2 : 0;
	}
	if (h.options.daemon && !h.options.remount) {
		r = daemon_start(&h.report_fd, &h.failure);
		if (r == 0)
			daemon_detach_output();
	}
	status = r < 0 ? 1 : run_holder(&h, argv[0]);
	if (status && h.failure.number && h.report_fd >= 0)
		report_failed(&h.report_fd, &h.failure);
	else if (status && h.failure.number)
		cdm_error_print("cdmfs", &h.failure);
	holder_fini(&h);
	return status;
}
