/* SPDX-License-Identifier: Apache-2.0 */
/* daemon.c — going to the background, systemd, and who keeps a mount busy. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include "cdmfs/holder_parts.h"
#include "cdmfs/report.h"
#include "common/log.h"

#define NOTIFY_S 1 /* for a service manager that has no room for a message */

/* In the process the person started: wait for the news, pass it on. */
__attribute__((noreturn)) static void wait_for_report(int fd, pid_t pid)
{
	struct cdm_error err = CDM_ERROR_INIT;
	int r = report_read(fd, &err);

	if (r <= 0) /* it has let go of everything when the person is told */
		waitpid(pid, NULL, 0);
	if (r == 0)
		cdm_fail_plain(&err, EIO, "the mount ended before it was ready");
	if (r <= 0)
		cdm_error_print("cdmfs", &err);
	_exit(r > 0 ? 0 : 1);
}

int daemon_start(int *ret_report, struct cdm_error *err)
{
	int report[2];
	pid_t pid;

	if (pipe2(report, O_CLOEXEC) < 0)
		return cdm_fail(err, errno, "start in the background");
	pid = fork();
	if (pid < 0) {
		close(report[0]);
		close(report[1]);
		return cdm_fail(err, errno, "start in the background");
	}
	if (pid > 0) {
		close(report[1]);
		wait_for_report(report[0], pid);
	}
	close(report[0]);
	setsid();
	*ret_report = report[1];
	return 0;
}

static int connect_unix(const char *path, int type)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	size_t len = strlen(path);
	int fd;

	if (len == 0 || len >= sizeof(addr.sun_path))
		return -1;
	memcpy(addr.sun_path, path, len);
	if (path[0] == '@') /* systemd's way to name an abstract socket */
		addr.sun_path[0] = 0;
	fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	if (connect(fd, (struct sockaddr *)&addr, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

/* A stream to the journal, as systemd gives its services: identifier, unit, priority, level prefix, three times no forwarding. */
static int open_journal(void)
{
	static const char header[] = "cdmfs\n\n6\n1\n0\n0\n0\n";
	int fd = connect_unix("/run/systemd/journal/stdout", SOCK_STREAM);

	if (fd >= 0 && write(fd, header, sizeof(header) - 1) != (ssize_t)(sizeof(header) - 1)) {
		close(fd);
		return -1;
	}
	return fd;
}

/* A file (a log) and a socket (the journal) are kept as standard error; a terminal or a pipe would keep its other end waiting
 * and is replaced by the journal, or by nothing. Done before the children are started, so that they get it too. */
void daemon_detach_output(void)
{
	struct stat st;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null < 0)
		return;
	dup2(null, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	if (fstat(STDERR_FILENO, &st) < 0 || !(S_ISREG(st.st_mode) || S_ISSOCK(st.st_mode))) {
		int journal = open_journal();
		dup2(journal >= 0 ? journal : null, STDERR_FILENO);
		if (journal >= 0)
			close(journal);
	}
	close(null);
}

static void notify(const char *text, int flags)
{
	const char *path = getenv("NOTIFY_SOCKET");
	const struct timeval patience = {.tv_sec = NOTIFY_S};

	if (!path)
		return;
	_cleanup_close_ int fd = connect_unix(path, SOCK_DGRAM);
	if (fd < 0)
		return;
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (send(fd, text, strlen(text), MSG_NOSIGNAL | flags) < 0)
		cdm_debug("tell the service manager: %m");
}

void notify_systemd(const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	notify(text, 0);
}

void notify_alive(void)
{
	notify("WATCHDOG=1", MSG_DONTWAIT);
}

static bool link_is_beneath(int proc, const char *name, const char *dir)
{
	char target[4096];
	ssize_t n = readlinkat(proc, name, target, sizeof(target) - 1);

	if (n <= 0)
		return false;
	target[n] = 0;
	return path_is_beneath(target, dir);
}

static bool process_uses(int proc, const char *dir)
{
	int fd;
	DIR *d;
	struct dirent *e;
	bool found = false;

	if (link_is_beneath(proc, "cwd", dir) || link_is_beneath(proc, "root", dir) || link_is_beneath(proc, "exe", dir))
		return true;
	fd = openat(proc, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	d = fd < 0 ? NULL : fdopendir(fd);
	while (d && !found && (e = readdir(d)))
		found = link_is_beneath(fd, e->d_name, dir);
	if (d)
		closedir(d);
	return found;
}

void busy_describe(const char *dir, char *out, size_t room)
{
	DIR *all = opendir("/proc");
	struct dirent *e;
	size_t used = 0;

	out[0] = 0;
	while (all && used + 64 < room && (e = readdir(all))) {
		char comm[32] = "";
		if (!isdigit((unsigned char)e->d_name[0]))
			continue;
		_cleanup_close_ int proc = openat(dirfd(all), e->d_name, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (proc < 0 || !process_uses(proc, dir))
			continue;
		_cleanup_close_ int fd = openat(proc, "comm", O_RDONLY | O_CLOEXEC);
		ssize_t n = fd < 0 ? -1 : read(fd, comm, sizeof(comm) - 1);
		if (n > 0)
			comm[strcspn(comm, "\n")] = 0;
		used += (size_t)snprintf(out + used, room - used, "%s%s (pid %.10s)", used ? ", " : "", n > 0 ? comm : "?", e->d_name);
	}
	if (all)
		closedir(all);
}
