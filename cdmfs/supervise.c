/* SPDX-License-Identifier: Apache-2.0 */
/* supervise.c — starting the server and the watcher, seeing them end, starting the next. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "cdmfs/holder.h"
#include "cdmfs/holder_parts.h"
#include "cdmfs/report.h"
#include "common/faultpoint.h"
#include "common/log.h"
#include "common/loop.h"

#define QUICK_NS 1000000000ll /* an end within a second of the start is a quick one */
#define QUICK_FREE 3          /* so many quick ones in a row are followed at once */
#define QUICK_SHORT 10        /* so many after a pause of 100 ms, any more after a second */

void child_init(struct child *c, const char *name)
{
	*c = (struct child){.name = name, .exit.fd = -1, .report.fd = -1, .delay.fd = -1};
}

static void keep_on_exec(int fd)
{
	if (fd >= 0)
		fcntl(fd, F_SETFD, 0);
}

static void set_oom_score(const char *score)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	if (write(fd, score, strlen(score)) < 0)
		cdm_debug("oom_score_adj: %m");
	close(fd);
}

/* In the new process: become the child. The program's path is taken anew each time (an upgrade put another file there); while
 * a package is being replaced it may be missing for a moment, then the running one is good enough. */
__attribute__((noreturn)) static void become_child(struct holder *h, struct child *c, int report_fd)
{
	char fuse_arg[32], watch_arg[32], ready_arg[32];
	_cleanup_free_ char *config_arg = NULL, *set_arg = NULL;
	bool is_server = c == &h->server;
	int watch_fd = h->watch_fds[is_server ? 0 : 1];
	sigset_t none;
	struct cdm_error err = CDM_ERROR_INIT;

	setsid(); /* Ctrl-C and the like are for the holder */
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	snprintf(fuse_arg, sizeof(fuse_arg), "--fuse-fd=%d", h->fuse_fd);
	snprintf(watch_arg, sizeof(watch_arg), "--watch-fd=%d", watch_fd);
	snprintf(ready_arg, sizeof(ready_arg), "--ready-fd=%d", report_fd);
	if (asprintf(&config_arg, "--config=%s", h->config_path) < 0 || asprintf(&set_arg, "--set=%s", h->set->name) < 0)
		_exit(CDM_EXIT_REFUSED);
	const char *argv[10], **a = argv;
	*a++ = "cdmfs";
	*a++ = is_server ? "--server" : "--watcher";
	*a++ = fuse_arg;
	*a++ = watch_arg;
	*a++ = ready_arg;
	*a++ = config_arg;
	*a++ = set_arg;
	if (is_server ? h->resumed : c->once_ready)
		*a++ = "--resume";
	*a = NULL;
	keep_on_exec(h->fuse_fd);
	keep_on_exec(watch_fd);
	keep_on_exec(report_fd);
	set_oom_score("-800");
	execv(h->program, (char **)argv);
	execv("/proc/self/exe", (char **)argv);
	cdm_fail(&err, errno, "run %s", h->program);
	report_failed(&report_fd, &err);
	_exit(CDM_EXIT_REFUSED);
}

static void take_report(struct holder *h, struct child *c)
{
	int r;

	if (c->report.fd < 0)
		return;
	r = report_read(c->report.fd, &c->reported);
	if (r == -EAGAIN)
		return;
	source_drop(&c->report);
	if (r <= 0)
		return; /* its end comes next */
	c->ready = true;
	c->once_ready = true;
	if (c->signal_when_ready)
		child_signal(c, c->signal_when_ready);
	holder_child_ready(h, c);
}

static void on_report(struct holder *h, struct source *s)
{
	take_report(h, s->owner);
}

static void on_exit_seen(struct holder *h, struct source *s)
{
	struct child *c = s->owner;
	struct child_end end = {0};

	take_report(h, c);
	end.known = !c->adopted && waitpid(c->pid, &end.status, WNOHANG) == c->pid;
	end.error = c->reported;
	end.pid = c->pid;
	source_drop(&c->exit);
	source_drop(&c->report);
	c->pid = 0;
	c->ready = false;
	c->quick_deaths = cdm_now_ns() - c->started_ns < QUICK_NS ? c->quick_deaths + 1 : 0;
	holder_child_ended(h, c, &end);
}

static int watch_exit(struct holder *h, struct child *c, struct cdm_error *err)
{
	int fd = (int)syscall(SYS_pidfd_open, c->pid, 0);

	if (fd < 0)
		return cdm_fail(err, errno, "watch the %s (pid %d)", c->name, (int)c->pid);
	return source_add(h, &c->exit, fd, EPOLLIN, on_exit_seen, c, err);
}

int child_start(struct holder *h, struct child *c, struct cdm_error *err)
{
	int report[2], r;
	pid_t pid;

	if (pipe2(report, O_CLOEXEC) < 0)
		return cdm_fail(err, errno, "start the %s", c->name);
	pid = fork();
	if (pid == 0)
		become_child(h, c, report[1]);
	close(report[1]);
	if (pid < 0) {
		close(report[0]);
		return cdm_fail(err, errno, "start the %s", c->name);
	}
	fcntl(report[0], F_SETFL, O_NONBLOCK);
	c->pid = pid;
	c->ready = c->adopted = false;
	c->signal_when_ready = 0;
	c->reported = CDM_ERROR_INIT;
	c->started_ns = cdm_now_ns();
	r = watch_exit(h, c, err);
	if (r == 0)
		r = source_add(h, &c->report, report[0], EPOLLIN, on_report, c, err);
	holder_write_pids(h);
	return r;
}

static void on_delay_over(struct holder *h, struct source *s)
{
	struct child *c = s->owner;

	source_drop(s);
	if (c->wanted && c->pid == 0)
		child_start_again(h, c);
}

static void start_later(struct holder *h, struct child *c, int64_t ms)
{
	cdm_log(child_delayed, cdm_str("program", c->name), cdm_int("wait_ms", ms), cdm_uint("deaths", c->quick_deaths));
	timer_start(h, &c->delay, ms, on_delay_over, c);
}

/* How long to wait after quick deaths, counted from the last start. */
static int64_t pause_ms(const struct child *c)
{
	int64_t pause = c->quick_deaths < QUICK_FREE ? 0 : c->quick_deaths < QUICK_SHORT ? 100 : 1000;

#ifdef CDM_FAULTPOINTS
	if (cdm_faultpoints_armed) /* a test wants these deaths */
		return 0;
#endif
	return pause - (cdm_now_ns() - c->started_ns) / 1000000;
}

void child_start_again(struct holder *h, struct child *c)
{
	struct cdm_error err = CDM_ERROR_INIT;
	int64_t pause = pause_ms(c);

	if (c->delay.fd >= 0)
		return;
	if (pause > 0) {
		start_later(h, c, pause);
		return;
	}
	if (child_start(h, c, &err) < 0) {
		cdm_log_err(failed, &err);
		c->quick_deaths++;
		start_later(h, c, 1000);
	}
}

int child_adopt(struct holder *h, struct child *c, pid_t pid, struct cdm_error *err)
{
	c->pid = pid;
	c->ready = c->once_ready = c->adopted = true;
	c->reported = CDM_ERROR_INIT;
	c->started_ns = cdm_now_ns();
	return watch_exit(h, c, err);
}

void child_signal(struct child *c, int signo)
{
	if (c->pid == 0 || c->exit.fd < 0)
		return;
	if (c->ready || signo == SIGKILL)
		syscall(SYS_pidfd_send_signal, c->exit.fd, signo, NULL, 0);
	else
		c->signal_when_ready = signo;
}
