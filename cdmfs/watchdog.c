/* SPDX-License-Identifier: Apache-2.0 */
/* watchdog.c — when the service manager asks for signs of life (WatchdogSec=), the holder gives them, and asks the server for the same:
 * a helper calls statfs on the full mount, which the server has to answer within that time; otherwise it is killed, and the next one
 * answers what it left. Without WatchdogSec= nothing wakes an idle machine. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <sys/vfs.h>
#include <unistd.h>
#include "cdmfs/holder_parts.h"
#include "common/log.h"
#include "common/loop.h"

static int ask_in_helper(struct holder *h, struct cdm_error *err)
{
	struct statfs fs;

	return statfs(h->full, &fs) < 0 ? cdm_fail(err, errno, "statfs %s", h->full) : 0;
}

static void on_answer(struct holder *h, int result, const struct cdm_error *err)
{
	h->asked_ns = 0;
	if (result < 0)
		cdm_debug("%s", err->text);
}

/* Only a server that was there when it was asked can be blamed. */
static void ask_server(struct holder *h)
{
	if (h->phase != PHASE_RUN || !h->server.ready)
		return;
	if (h->asked_ns == 0) {
		h->asked_ns = cdm_now_ns();
		helper_start(h, "cdmfs-ask", ask_in_helper, on_answer);
	} else if (cdm_now_ns() - h->asked_ns > h->watchdog_ns && h->server.started_ns < h->asked_ns) {
		cdm_log(child_hangs, cdm_str("program", "server"), cdm_int("pid", h->server.pid), cdm_str("msg", "does not answer; killed"));
		child_signal(&h->server, SIGKILL);
	}
}

static void on_tick(struct holder *h, struct source *s)
{
	uint64_t ticks;

	if (read(s->fd, &ticks, sizeof(ticks)) <= 0)
		return;
	notify_systemd("WATCHDOG=1");
	ask_server(h);
}

void start_watchdog(struct holder *h)
{
	const char *usec = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
	int64_t half;
	struct itimerspec every;
	int fd;

	h->watchdog_ns = usec ? strtoll(usec, NULL, 10) * 1000 : 0;
	half = h->watchdog_ns / 2;
	if (half <= 0 || (pid && strtol(pid, NULL, 10) != getpid()))
		return;
	every.it_interval = every.it_value = (struct timespec){half / 1000000000, half % 1000000000};
	fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (fd >= 0 && timerfd_settime(fd, 0, &every, NULL) == 0)
		source_add(h, &h->watchdog, fd, EPOLLIN, on_tick, NULL, NULL);
}
