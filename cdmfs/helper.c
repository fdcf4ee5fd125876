/* SPDX-License-Identifier: Apache-2.0 */
/* helper.c — short-lived processes for calls that the server must answer (holder_parts.h). */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include "cdmfs/holder_parts.h"
#include "cdmfs/report.h"
#include "common/log.h"

struct helper {
	struct source report;
	pid_t pid;
	helper_done_fn *done;
};

/* A helper must not keep /dev/fuse or the watch socket alive: the holder may have to end the connection under it. */
__attribute__((noreturn)) static void run_helper(struct holder *h, const char *name, helper_fn *fn, int report_fd)
{
	struct cdm_error err = CDM_ERROR_INIT;
	sigset_t none;

	prctl(PR_SET_NAME, name);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (h->fuse_fd >= 0)
		close(h->fuse_fd);
	close(h->watch_fds[0]);
	close(h->watch_fds[1]);
	if (fn(h, &err) < 0)
		report_failed(&report_fd, &err);
	else
		report_ready(&report_fd);
	_exit(0);
}

static void on_helper_done(struct holder *h, struct source *s)
{
	struct helper *p = s->owner;
	struct cdm_error err = CDM_ERROR_INIT;
	int r = report_read(s->fd, &err);

	if (r == -EAGAIN)
		return;
	if (r == 0)
		r = cdm_fail_plain(&err, EIO, "a helper of the mount ended early");
	source_drop(&p->report);
	waitpid(p->pid, NULL, 0); /* it has written its report, or is gone */
	helper_done_fn *done = p->done;
	free(p);
	done(h, r > 0 ? 0 : r, &err);
}

void helper_start(struct holder *h, const char *name, helper_fn *fn, helper_done_fn *done)
{
	struct helper *p = calloc(1, sizeof(*p));
	struct cdm_error err = CDM_ERROR_INIT;
	int report[2] = {-1, -1}, r;

	if (!p || pipe2(report, O_CLOEXEC) < 0) {
		r = cdm_fail(&err, errno, "start a helper");
		free(p);
		done(h, r, &err);
		return;
	}
	p->done = done;
	p->pid = fork();
	if (p->pid == 0)
		run_helper(h, name, fn, report[1]);
	r = p->pid < 0 ? cdm_fail(&err, errno, "start a helper") : 0;
	close(report[1]);
	fcntl(report[0], F_SETFL, O_NONBLOCK);
	if (r == 0)
		r = source_add(h, &p->report, report[0], EPOLLIN, on_helper_done, p, &err);
	if (r < 0) {
		free(p);
		done(h, r, &err);
	}
}
