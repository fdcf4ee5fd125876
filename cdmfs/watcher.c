/* SPDX-License-Identifier: Apache-2.0 */
/* watcher.c — hears from fanotify which files were closed after writing, finds out whether another writer is left, and tells
 * the server (watch.h). It holds a file only while it looks at it, and asks the server nothing: the node id is in the kernel's
 * file handle, a lease tells about writers, and opening is "no open". */
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>
#include "cdmfs/holder.h"
#include "cdmfs/watch.h"
#include "common/conf.h"
#include "common/log.h"
#include "common/loop.h"

#define FUSE_HANDLE_TYPE 0x81 /* 64-bit node id, 32-bit generation */
#define DOUBTS_MAX 64
#define ALONE_MS 60000 /* for a new holder to come */
#define EVENT_BYTES (WATCH_BATCH_MAX * sizeof(struct fanotify_event_metadata))

/* The kernel tells of a close shortly before it counts one writer less (in __fput): "a writer is left" may mean the one who is just
 * going. Such a node is looked at again, when the next events come (a close that returned before them is seen through by then, so that
 * the order of closes holds) and after these pauses. */
static const int doubt_ms[] = {1, 10, 100};
#define DOUBT_LOOKS (sizeof(doubt_ms) / sizeof(*doubt_ms))

struct doubt {
	uint64_t node;
	int32_t pid;
	unsigned looks;  /* timed ones done */
	int64_t due_ns;
};

struct watcher {
	int fan_fd, watch_fd, fuse_fd, signal_fd;
	bool ending; /* SIGTERM came: pass on what is queued, then exit */
	const char *full;
	struct watch_message batch[WATCH_BATCH_MAX + DOUBTS_MAX + 1];
	size_t count;
	struct doubt doubts[DOUBTS_MAX];
	size_t doubt_count;
};

/* FUSE's file handle is the node id as two 32-bit words, high word first, and the generation. */
static bool node_of(int fd, uint64_t *ret)
{
	union {
		struct file_handle handle;
		char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
	} u;
	uint32_t words[2];
	int mount_id;

	u.handle.handle_bytes = MAX_HANDLE_SZ;
	if (name_to_handle_at(fd, "", &u.handle, &mount_id, AT_EMPTY_PATH) < 0 || u.handle.handle_bytes < sizeof(words))
		return false;
	memcpy(words, u.handle.f_handle, sizeof(words));
	*ret = (uint64_t)words[0] << 32 | words[1];
	return true;
}

/* A read lease is only given while nobody has the file open for writing. */
static bool has_writer(int fd)
{
	if (fcntl(fd, F_SETLEASE, F_RDLCK) < 0)
		return errno == EAGAIN;
	fcntl(fd, F_SETLEASE, F_UNLCK);
	return false;
}

static void put(struct watcher *w, const struct watch_message *m)
{
	w->batch[w->count++] = *m;
}

static void put_lost(struct watcher *w)
{
	put(w, &(struct watch_message){.kind = WATCH_LOST});
}

/* Where nodes are opened from. Not O_PATH: open_by_handle_at() takes no such descriptor. */
static int open_mount(const struct watcher *w)
{
	int fd = open(w->full, O_RDONLY | O_DIRECTORY | O_NOATIME | O_CLOEXEC);

	if (fd < 0)
		cdm_debug("open %s: %m", w->full);
	return fd;
}

/* Open a node by the kernel's handle of it; only what the kernel has in memory can be opened. */
static int open_node(int mount_fd, uint64_t node)
{
	union {
		struct file_handle handle;
		char room[sizeof(struct file_handle) + 3 * sizeof(uint32_t)];
	} u;
	uint32_t words[3] = {(uint32_t)(node >> 32), (uint32_t)node, 0};

	u.handle.handle_bytes = sizeof(words);
	u.handle.handle_type = FUSE_HANDLE_TYPE;
	memcpy(u.handle.f_handle, words, sizeof(words));
	return open_by_handle_at(mount_fd, &u.handle, O_RDONLY | O_NONBLOCK | O_NOATIME | O_CLOEXEC);
}

/* May somebody write this node? Yes, too, where nothing can be found out: then it is looked at again. */
static bool node_has_writer(int mount_fd, uint64_t node)
{
	int fd = open_node(mount_fd, node);
	bool writer;

	if (fd < 0)
		return errno != ESTALE; /* the node is gone */
	writer = has_writer(fd);
	close(fd);
	return writer;
}

/* --- doubts --- */

static void forget_doubt(struct watcher *w, uint64_t node)
{
	for (size_t i = 0; i < w->doubt_count; i++)
		if (w->doubts[i].node == node) {
			w->doubts[i] = w->doubts[--w->doubt_count];
			return;
		}
}

/* When there are too many the first one goes: its last writer's close is told anyway, or the server's time-out finds it. */
static void add_doubt(struct watcher *w, const struct watch_message *m)
{
	if (w->doubt_count == DOUBTS_MAX)
		w->doubts[0] = w->doubts[--w->doubt_count];
	w->doubts[w->doubt_count++] = (struct doubt){.node = m->node, .pid = m->pid, .due_ns = cdm_now_ns() + doubt_ms[0] * 1000000ll};
}

/* Look again; true when the doubt is over (nobody writes any more, or the node is gone, or it was looked at often enough). */
static bool look_again(struct watcher *w, int mount_fd, struct doubt *d, bool timed)
{
	struct watch_message told = {.kind = WATCH_CLOSED, .node = d->node, .pid = d->pid, .time_ns = cdm_now_ns()};

	if (!node_has_writer(mount_fd, d->node)) {
		put(w, &told);
		return true;
	}
	if (timed && ++d->looks < DOUBT_LOOKS)
		d->due_ns = told.time_ns + doubt_ms[d->looks] * 1000000ll;
	return d->looks >= DOUBT_LOOKS;
}

/* All of them, or only those whose time has come. */
static void look_at_doubts(struct watcher *w, bool timed)
{
	int64_t now = cdm_now_ns();
	int mount_fd = w->doubt_count ? open_mount(w) : -1;

	if (mount_fd < 0)
		return;
	for (size_t i = w->doubt_count; i-- > 0;)
		if ((!timed || w->doubts[i].due_ns <= now) && look_again(w, mount_fd, &w->doubts[i], timed))
			w->doubts[i] = w->doubts[--w->doubt_count];
	close(mount_fd);
}

/* Milliseconds until the next one is due, -1 = none. */
static int doubts_timeout(const struct watcher *w)
{
	int64_t first = INT64_MAX, now = cdm_now_ns();

	for (size_t i = 0; i < w->doubt_count; i++)
		if (w->doubts[i].due_ns < first)
			first = w->doubts[i].due_ns;
	if (w->doubt_count == 0)
		return -1;
	return first <= now ? 0 : (int)((first - now + 999999) / 1000000);
}

/* --- events --- */

static void take_event(struct watcher *w, const struct fanotify_event_metadata *m)
{
	struct watch_message told = {.kind = WATCH_CLOSED, .pid = m->pid, .time_ns = cdm_now_ns()};
	bool known;

	if (m->mask & FAN_Q_OVERFLOW) {
		put_lost(w);
		return;
	}
	if (m->fd < 0)
		return;
	known = node_of(m->fd, &told.node);
	told.writers = known && has_writer(m->fd);
	close(m->fd); /* writes out what a mapping left dirty: before the message */
	if (!known)
		return;
	forget_doubt(w, told.node);
	if (told.writers)
		add_doubt(w, &told);
	put(w, &told);
}

/* May anybody write this node? Answered with CLOSED. */
static void answer_check(struct watcher *w, int mount_fd, uint64_t node)
{
	struct watch_message told = {.kind = WATCH_CLOSED, .node = node, .time_ns = cdm_now_ns()};

	told.writers = node_has_writer(mount_fd, node);
	put(w, &told);
}

static void invalidate(struct watcher *w, uint64_t node, uint64_t offset)
{
	struct {
		struct fuse_out_header head;
		struct fuse_notify_inval_inode_out body;
	} m = {.head = {.len = sizeof(m), .error = FUSE_NOTIFY_INVAL_INODE}, .body = {.ino = node, .off = (int64_t)offset}};

	if (write(w->fuse_fd, &m, sizeof(m)) < 0 && errno != ENOENT) /* ENOENT: the kernel does not know the node */
		cdm_debug("invalidate node %llx: %m", (unsigned long long)node);
}

static void answer_server(struct watcher *w)
{
	struct watch_message asked[WATCH_BATCH_MAX];
	ssize_t n = recv(w->watch_fd, asked, sizeof(asked), MSG_DONTWAIT);
	int mount_fd;

	if (n <= 0)
		return;
	mount_fd = open_mount(w);
	for (size_t i = 0; i < (size_t)n / sizeof(*asked); i++) {
		if (asked[i].kind == WATCH_CHECK)
			answer_check(w, mount_fd, asked[i].node);
		else if (asked[i].kind == WATCH_INVALIDATE)
			invalidate(w, asked[i].node, asked[i].offset);
	}
	if (mount_fd >= 0)
		close(mount_fd);
}

/* Take what is there, at most a batch. Returns whether there was something. */
static bool take_events(struct watcher *w)
{
	static char buf[EVENT_BYTES] __attribute__((aligned(__alignof__(struct fanotify_event_metadata))));
	ssize_t n = read(w->fan_fd, buf, sizeof(buf));

	if (n < 0) {
		if (errno != EAGAIN && errno != EINTR) {
			struct cdm_error err = CDM_ERROR_INIT;
			cdm_fail(&err, errno, "read from fanotify");
			cdm_log_err(watch_lost, &err);
			put_lost(w);
		}
		return errno != EAGAIN;
	}
	look_at_doubts(w, false);
	const struct fanotify_event_metadata *m = (const struct fanotify_event_metadata *)buf;
	for (; FAN_EVENT_OK(m, n); m = FAN_EVENT_NEXT(m, n))
		take_event(w, m);
	return true;
}

static void on_end_signal(struct watcher *w)
{
	struct signalfd_siginfo si;

	if (read(w->signal_fd, &si, sizeof(si)) == sizeof(si))
		w->ending = true;
}

/* Send the batch; while the socket is full, wait for room (no server may be running just now). When it is to end, a full
 * socket ends it: the next watcher, or the next start, says that closes were lost. Returns false when there is nobody to send to. */
static bool send_batch(struct watcher *w)
{
	while (w->count > 0) {
		ssize_t n = send(w->watch_fd, w->batch, w->count * sizeof(*w->batch), MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n >= 0) {
			w->count = 0;
			return true;
		}
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN && errno != ENOBUFS)
			return false;
		struct pollfd p[2] = {{.fd = w->watch_fd, .events = POLLOUT}, {.fd = w->signal_fd, .events = POLLIN}};
		poll(p, w->ending ? 1 : 2, -1);
		if (p[1].revents)
			on_end_signal(w);
		if (w->ending && !(p[0].revents & POLLOUT))
			return false;
	}
	return true;
}

/* Holder and server are gone: this process alone keeps /dev/fuse, so calls wait and nothing fails. A new holder takes it over and ends us
 * (the next watcher says that closes were lost). Should none come the mount must not hang for ever. */
static int wait_for_holder(struct watcher *w)
{
	struct pollfd p = {.fd = w->signal_fd, .events = POLLIN};

	poll(&p, 1, w->ending ? 0 : ALONE_MS);
	return CDM_EXIT_CLEAN;
}

static int run(struct watcher *w)
{
	for (;;) {
		while (take_events(w))
			if (!send_batch(w))
				return wait_for_holder(w);
		if (w->ending) {
			look_at_doubts(w, false);
			send_batch(w);
			return CDM_EXIT_CLEAN;
		}
		struct pollfd p[3] = {{.fd = w->fan_fd, .events = POLLIN}, {.fd = w->signal_fd, .events = POLLIN}, {.fd = w->watch_fd, .events = POLLIN}};
		if (poll(p, 3, doubts_timeout(w)) < 0)
			continue;
		look_at_doubts(w, true);
		if (p[1].revents)
			on_end_signal(w);
		if (p[2].revents & (POLLHUP | POLLERR))
			return wait_for_holder(w);
		if (p[2].revents & POLLIN)
			answer_server(w);
		if (!send_batch(w))
			return wait_for_holder(w);
	}
}

static int open_signals(struct watcher *w, struct cdm_error *err)
{
	sigset_t set;

	signal(SIGIO, SIG_IGN); /* an opener between lease and release */
	signal(SIGHUP, SIG_IGN);
	signal(SIGINT, SIG_IGN); /* Ctrl-C is for the holder */
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	w->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return w->signal_fd < 0 ? cdm_fail(err, errno, "wait for signals") : 0;
}

static int open_mark(struct watcher *w, const char *full, struct cdm_error *err)
{
	int r;

	w->fan_fd = fanotify_init(FAN_CLASS_NOTIF | FAN_CLOEXEC | FAN_NONBLOCK | FAN_UNLIMITED_QUEUE,
		O_RDONLY | O_LARGEFILE | O_NOATIME | O_CLOEXEC);
	if (w->fan_fd < 0) {
		r = cdm_fail(err, errno, "start fanotify");
		if (r == -ENOSYS)
			cdm_hint(err, "the kernel needs CONFIG_FANOTIFY");
		return r;
	}
	if (fanotify_mark(w->fan_fd, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_CLOSE_WRITE, AT_FDCWD, full) < 0)
		return cdm_fail(err, errno, "watch %s with fanotify", full);
	return 0;
}

int watcher_main(struct child_options *options)
{
	static struct watcher w;
	struct cdm_error err = CDM_ERROR_INIT;
	struct cdm_conf *conf = NULL;
	_cleanup_free_ char *full = NULL;
	int r = cdm_conf_load(options->config, &conf, &err);

	if (r < 0)
		return child_failed(options, &err);
	if (asprintf(&full, "%s/%s/full", conf->run, options->set) < 0)
		return CDM_EXIT_REFUSED;
	cdm_conf_free(&conf);
	cdm_log_identity(NULL, options->set);
	w.watch_fd = options->watch_fd;
	w.fuse_fd = options->fuse_fd;
	w.full = full;
	r = open_signals(&w, &err);
	if (r == 0)
		r = open_mark(&w, full, &err);
	if (r < 0)
		return child_failed(options, &err);
	if (options->resume)
		put_lost(&w);
	child_ready(options);
	return send_batch(&w) ? run(&w) : wait_for_holder(&w);
}
