/* SPDX-License-Identifier: Apache-2.0 */
/* watchdog.c — finds a server or watcher that hangs, and kills it, so that the next one can take over.
 *
 * Nothing is asked and nothing wakes an idle machine: the holder hears once (SIGIO of /dev/fuse, epoll for the watch socket) that there is
 * something to do, and from then on looks every quarter of the limit until nothing has happened in between. What it looks at: how many calls the
 * kernel waits for (fusectl), RUN/SET/alive (since when is each thread at its request, was anything taken from the queue), and what the
 * threads do (/proc). Who waits for the disk (state D) is not hanging, whatever it takes, and killing would not help; who computes gets many
 * times the limit; who is traced is left alone.
 *
 * Where the service manager asks for signs of life (WatchdogSec=) the holder gives them, and that time is the limit. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include "cdmfs/alive.h"
#include "cdmfs/holder_parts.h"
#include "common/io.h"
#include "common/log.h"
#include "common/loop.h"

#define LIMIT_NS 20000000000ll
#define LOOKS 4           /* within the limit */
#define START_LIMITS 3    /* so many limits may a start take without anything moving */
#define COMPUTE_LIMITS 30 /* and a request that computes */

/* --- what the threads of a process do --- */

struct doing {
	bool waits_for_disk, computes, traced;
};

/* State letter of a thread, 0 = it is gone. */
static char thread_state(pid_t pid, const char *tid)
{
	char path[300];
	_cleanup_free_ char *text = NULL;
	const char *after;

	snprintf(path, sizeof(path), "/proc/%d/task/%s/stat", (int)pid, tid);
	if (cdm_read_file(AT_FDCWD, path, 4096, &text, NULL, NULL) < 0)
		return 0;
	after = strrchr(text, ')');
	return after && after[1] ? after[2] : 0;
}

/* Does the thread belong to those that are looked at for computing? */
typedef bool thread_fn(pid_t tid, const void *arg);

/* Not asked for if nothing waits. */
static struct doing what_threads_do(bool waits, pid_t pid, thread_fn *looked_at, const void *arg)
{
	struct doing d = {0};
	char path[64];
	struct dirent *e;
	DIR *dir;

	if (!waits)
		return d;
	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	dir = opendir(path);
	while (dir && (e = readdir(dir))) {
		char state = isdigit((unsigned char)e->d_name[0]) ? thread_state(pid, e->d_name) : 0;
		d.waits_for_disk |= state == 'D';
		d.traced |= state == 't';
		d.computes |= state == 'R' && (!looked_at || looked_at((pid_t)atoi(e->d_name), arg));
	}
	if (dir)
		closedir(dir);
	return d;
}

/* --- one reason to think that something hangs --- */

/* Called at each look. True: it has been so for all of the limit, and nothing moved. */
static bool suspect(struct suspicion *s, bool waits, struct doing d, int64_t now, int64_t limit_ns)
{
	if (!waits || d.waits_for_disk || d.traced) {
		*s = (struct suspicion){0};
		return false;
	}
	if (!s->since_ns)
		s->since_ns = now;
	if (d.computes)
		s->quiet_ns = 0;
	else if (!s->quiet_ns)
		s->quiet_ns = now;
	return (s->quiet_ns && now - s->quiet_ns >= limit_ns) || now - s->since_ns >= COMPUTE_LIMITS * limit_ns;
}

static void forget_suspicions(struct watchdog *w)
{
	w->request = w->queue = w->told = w->asked = w->start = (struct suspicion){0};
}

static bool has_input(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return fd >= 0 && poll(&p, 1, 0) > 0 && p.revents & POLLIN;
}

/* The kernel's directory of this mount, in a fusectl of our own (the one at /sys may not be mounted); -1: not to be had. */
static int open_kernels_view(struct holder *h)
{
	struct mount_table t = {0};
	const struct mount_entry *full;
	_cleanup_close_ int fs = fsopen("fusectl", FSOPEN_CLOEXEC);
	_cleanup_close_ int top = fs >= 0 && fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0 ? fsmount(fs, FSMOUNT_CLOEXEC, 0) : -1;
	char name[32];
	int fd = -1;

	if (top < 0 || mount_table_read(&t, NULL) < 0)
		return -1;
	full = mount_table_at(&t, h->full);
	if (full) {
		snprintf(name, sizeof(name), "%u", minor(full->dev));
		fd = openat(top, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
	}
	mount_table_fini(&t);
	return fd;
}

/* --- the server --- */

static bool read_alive(struct holder *h, struct alive *ret)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_close_ int fd = asprintf(&path, "%s/" ALIVE_FILE, h->run_dir) < 0 ? -1 : open(path, O_RDONLY | O_CLOEXEC);

	return fd >= 0 && pread(fd, ret, sizeof(*ret), 0) == sizeof(*ret) && ret->version == ALIVE_VERSION &&
		ret->thread_bytes == sizeof(ret->threads[0]);
}

struct old_requests {
	const struct alive *alive;
	int64_t before_ns;
};

static bool is_old(const struct alive_thread *t, int64_t before_ns)
{
	int64_t since = atomic_load(&t->since_ns);

	return since > 0 && since < before_ns;
}

static bool is_at_old_request(pid_t tid, const void *arg)
{
	const struct old_requests *o = arg;

	for (unsigned i = 0; i < ALIVE_THREADS; i++)
		if (o->alive->threads[i].tid == tid)
			return is_old(&o->alive->threads[i], o->before_ns);
	return false;
}

/* A thread has been at its request for half the limit (and, as suspected from then on, will have for all of it). */
static bool request_hangs(struct holder *h, const struct alive *alive, int64_t now)
{
	struct watchdog *w = &h->watchdog;
	struct old_requests old = {alive, now - w->limit_ns / 2};
	bool any = false;

	for (unsigned i = 0; i < ALIVE_THREADS; i++)
		any |= is_old(&alive->threads[i], old.before_ns);
	return suspect(&w->request, any, what_threads_do(any, h->server.pid, is_at_old_request, &old), now, w->limit_ns / 2);
}

/* How many calls the kernel has not got an answer for. Without fusectl at least whether one is in its queue. */
static long calls_waiting(struct holder *h)
{
	struct watchdog *w = &h->watchdog;
	_cleanup_free_ char *text = NULL;

	if (w->view_fd < 0)
		w->view_fd = open_kernels_view(h);
	if (w->view_fd >= 0 && cdm_read_file(w->view_fd, "waiting", 64, &text, NULL, NULL) == 0)
		return strtol(text, NULL, 10);
	return has_input(h->fuse_fd);
}

/* Calls wait that no thread is at, and none is taken. */
static bool queue_hangs(struct holder *h, const struct alive *alive, int64_t now)
{
	struct watchdog *w = &h->watchdog;
	long waiting = calls_waiting(h);
	uint64_t taken = 0;
	bool waits;

	for (unsigned i = 0; i < ALIVE_THREADS; i++) {
		taken += alive->threads[i].taken;
		waiting -= alive->threads[i].since_ns != 0;
	}
	waits = waiting > 0 && taken == w->taken;
	w->moved = taken != w->taken;
	w->taken = taken;
	return suspect(&w->queue, waits, what_threads_do(waits, h->server.pid, NULL, NULL), now, w->limit_ns);
}

static const char *server_hangs(struct holder *h, int64_t now)
{
	struct watchdog *w = &h->watchdog;
	struct alive alive;
	bool told = has_input(h->watch_fds[0]);

	if (h->server.pid == 0)
		return NULL;
	if (!h->server.ready)
		return suspect(&w->start, true, what_threads_do(true, h->server.pid, NULL, NULL), now, START_LIMITS * w->limit_ns) ?
			"does not come up; killed" : NULL;
	w->start = (struct suspicion){0};
	if (!read_alive(h, &alive))
		return NULL;
	if (request_hangs(h, &alive, now))
		return "does not answer a request; killed";
	if (queue_hangs(h, &alive, now))
		return "takes no requests; killed";
	if (suspect(&w->told, told, what_threads_do(told, h->server.pid, NULL, NULL), now, w->limit_ns))
		return "does not listen to the watcher; killed";
	return NULL;
}

static const char *watcher_hangs(struct holder *h, int64_t now)
{
	struct watchdog *w = &h->watchdog;
	bool waits = h->watcher.ready && has_input(h->watch_fds[1]);

	return suspect(&w->asked, waits, what_threads_do(waits, h->watcher.pid, NULL, NULL), now, w->limit_ns) ?
		"does not listen; killed" : NULL;
}

static void kill_hanging(struct holder *h, struct child *c, const char *what)
{
	cdm_log(child_hangs, cdm_str("program", c->name), cdm_int("pid", c->pid), cdm_str("msg", what));
	child_signal(c, SIGKILL);
	forget_suspicions(&h->watchdog);
}

/* --- when to look --- */

static void guard(struct source *s)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLONESHOT, .data.ptr = s};

	if (s->fd >= 0 && epoll_ctl(s->epoll_fd, EPOLL_CTL_MOD, s->fd, &ev) < 0 && errno == ENOENT)
		epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, s->fd, &ev);
}

/* epoll says nothing of a request that was taken before we look; SIGIO comes with each. */
static void hear_requests(struct holder *h, bool on)
{
	int flags = fcntl(h->fuse_fd, F_GETFL);

	if (on)
		fcntl(h->fuse_fd, F_SETOWN, getpid());
	fcntl(h->fuse_fd, F_SETFL, on ? flags | O_ASYNC : flags & ~O_ASYNC);
}

static void on_look(struct holder *h, struct source *s);

static void look_later(struct holder *h)
{
	struct watchdog *w = &h->watchdog;

	if (w->look.fd < 0)
		timer_start(h, &w->look, w->limit_ns / 1000000 / LOOKS, on_look, NULL);
}

static void on_look(struct holder *h, struct source *s)
{
	struct watchdog *w = &h->watchdog;
	int64_t now = cdm_now_ns();
	const char *what;

	source_drop(s);
	if (h->phase >= PHASE_END_SERVER) /* it has a time-out of its own */
		return;
	what = server_hangs(h, now);
	if (what)
		kill_hanging(h, &h->server, what);
	what = watcher_hangs(h, now);
	if (what)
		kill_hanging(h, &h->watcher, what);
	if (w->moved || w->request.since_ns || w->queue.since_ns || w->told.since_ns || w->asked.since_ns || w->start.since_ns) {
		look_later(h);
		return;
	}
	guard(&w->server_end);
	guard(&w->watcher_end);
	hear_requests(h, true);
	if (calls_waiting(h) > 0) /* came just before */
		watchdog_heard(h);
}

void watchdog_heard(struct holder *h)
{
	hear_requests(h, false);
	look_later(h);
}

static void on_message(struct holder *h, struct source *s)
{
	look_later(h);
}

static void on_tell(struct holder *h, struct source *s)
{
	uint64_t ticks;

	if (read(s->fd, &ticks, sizeof(ticks)) > 0)
		notify_alive();
}

/* Signs of life to the service manager. */
static void start_telling(struct holder *h)
{
	const char *usec = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
	int64_t ns = usec ? strtoll(usec, NULL, 10) * 1000 : 0;
	struct itimerspec every = {.it_interval = {ns / 2 / 1000000000, ns / 2 % 1000000000}};
	int fd;

	if (ns <= 0 || (pid && strtol(pid, NULL, 10) != getpid()))
		return;
	h->watchdog.limit_ns = ns;
	every.it_value = every.it_interval;
	fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (fd >= 0 && timerfd_settime(fd, 0, &every, NULL) == 0)
		source_add(h, &h->watchdog.manager, fd, EPOLLIN, on_tell, NULL, NULL);
}

void watchdog_init(struct watchdog *w)
{
	struct source *sources[] = {&w->manager, &w->look, &w->server_end, &w->watcher_end};

	*w = (struct watchdog){.limit_ns = LIMIT_NS, .view_fd = -1};
	for (size_t i = 0; i < sizeof(sources) / sizeof(*sources); i++)
		sources[i]->fd = -1;
}

void watchdog_start(struct holder *h)
{
	struct watchdog *w = &h->watchdog;

	start_telling(h);
	w->server_end = (struct source){.fd = h->watch_fds[0], .epoll_fd = h->epoll_fd, .ready = on_message};
	w->watcher_end = (struct source){.fd = h->watch_fds[1], .epoll_fd = h->epoll_fd, .ready = on_message};
	look_later(h);
}
