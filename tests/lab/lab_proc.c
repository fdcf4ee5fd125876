/* SPDX-License-Identifier: Apache-2.0 */
/* lab_proc.c — processes: start with a log and wait for readiness (sd_notify), know them again by their start time, run tools. */
#include "tests/lab/lab_private.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include "common/io.h"
#include "common/loop.h"

static uint64_t start_time(pid_t pid, char *ret_state)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	_cleanup_free_ char *text = NULL;
	size_t len;
	if (cdm_read_file(AT_FDCWD, path, 65536, &text, &len, NULL) < 0)
		return 0;
	const char *p = strrchr(text, ')'); /* the name may hold anything */
	if (!p)
		return 0;
	unsigned long long start = 0;
	char state = 0;
	int threads = 0;
	if (sscanf(p + 1, " %c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %d %*s %llu", &state, &threads, &start) != 3)
		return 0;
	*ret_state = threads > 1 ? 'R' : state; /* its first thread may have ended before the others, which hold its files */
	return start;
}

int lab_process_of(pid_t pid, struct lab_process *ret)
{
	char state = 0;
	uint64_t start = pid > 0 ? start_time(pid, &state) : 0;
	if (!start || state == 'Z' || state == 'X')
		return -ESRCH;
	*ret = (struct lab_process){.pid = pid, .start = start};
	return 0;
}

bool lab_process_lives(const struct lab_process *p)
{
	struct lab_process now;
	return p->pid > 0 && lab_process_of(p->pid, &now) == 0 && now.start == p->start;
}

bool lab_process_wait(const struct lab_process *p, int timeout_ms)
{
	if (!lab_process_lives(p))
		return p->pid <= 0 || (waitpid(p->pid, NULL, WNOHANG), true);
	_cleanup_close_ int fd = pidfd_open(p->pid, 0);
	if (fd < 0)
		return true;
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
	int64_t deadline = cdm_now_ms() + timeout_ms;
	while (lab_process_lives(p)) {
		int64_t left = deadline - cdm_now_ms();
		if (left <= 0)
			return false;
		poll(&poll_fd, 1, (int)left);
	}
	waitpid(p->pid, NULL, WNOHANG);
	return true;
}

/* -- starting ---------------------------------------------------------------------------------------------------- */

void lab_environment(const struct lab *lab, const struct lab_node *node)
{
	static const char *const folders[] = {"cdmfs", "replicator", "master", "smagent", "license", "tests/lab"};
	_cleanup_free_ char *path = lab_format("%s", getenv("PATH") ?: "/usr/sbin:/usr/bin:/sbin:/bin");
	if (*lab->build)
		for (size_t i = sizeof folders / sizeof *folders; i-- > 0;) {
			char *longer = lab_format("%s/%s:%s", lab->build, folders[i], path);
			free(path);
			path = longer;
		}
	setenv("PATH", path, 1);
	_cleanup_free_ char *token = lab_format("%s/admin.token", lab->dir), *ca = lab_format("%s/master/ca.crt", lab->dir);
	setenv("CDMFS_LAB", lab->dir, 1);
	setenv(LAB_MARK, lab->dir, 1);
	setenv("CDMFS_API", lab->url ?: "", 1);
	setenv("CDMFS_TOKEN_FILE", token, 1);
	setenv("CDMFS_CA", ca, 1);
	unsetenv("CDMFS_DIR");
	unsetenv("NOTIFY_SOCKET");
	if (!node) {
		unsetenv("CDMFS_CONFIG");
		return;
	}
	_cleanup_free_ char *config = lab_format("%s/node.conf", node->dir);
	setenv("CDMFS_CONFIG", config, 1);
}

/* In the child, between fork and exec. Reports what failed through `report_fd` and ends. */
static void become(struct lab *lab, const struct lab_node *node, const char *netns, const char *const argv[], const int io[3],
	const char *notify, int report_fd)
{
	struct cdm_error err = CDM_ERROR_INIT;
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	for (int i = 0; i < 3; i++)
		dup2(io[i], i);
	if (netns && lab_net_enter(netns, &err) < 0)
		goto failed;
	lab_environment(lab, node);
	if (notify)
		setenv("NOTIFY_SOCKET", notify, 1);
	close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
	execvp(argv[0], (char *const *)argv);
	cdm_fail(&err, errno, "run %s", argv[0]);
failed:
	(void)!write(report_fd, &err, sizeof err);
	_exit(127);
}

/* A program of its own: not of our terminal, and if it crashes its core is in D/logs. LAB_PRELOAD: a library that it is to be run with. */
static void be_a_program(const struct lab *lab)
{
	const struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};
	setsid();
	setrlimit(RLIMIT_CORE, &all);
	if (fchdir(lab->dir_fd) < 0 || chdir("logs") < 0)
		perror("lab: D/logs");
	if (getenv("LAB_PRELOAD"))
		setenv("LD_PRELOAD", getenv("LAB_PRELOAD"), 1);
}

/* fork + exec; io are the child's first three descriptors. The pid, or a negative errno when it could not become the program. */
static pid_t launch(struct lab *lab, const struct lab_node *node, const char *netns, const char *const argv[], const int io[3],
	const char *notify, bool session, struct cdm_error *err)
{
	int report[2];
	if (pipe2(report, O_CLOEXEC) < 0)
		return cdm_fail(err, errno, "make a pipe");
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0) {
		if (session)
			be_a_program(lab);
		become(lab, node, netns, argv, io, notify, report[1]);
	}
	int r = pid < 0 ? cdm_fail(err, errno, "fork") : 0;
	close(report[1]);
	struct cdm_error reported;
	ssize_t n = pid < 0 ? 0 : read(report[0], &reported, sizeof reported);
	close(report[0]);
	if (n == (ssize_t)sizeof reported) {
		waitpid(pid, NULL, 0);
		if (err)
			*err = reported;
		return -reported.number;
	}
	return r < 0 ? r : pid;
}

/* The socket's path goes through /proc, for a lab's directory may be longer than a socket address. */
static int notify_socket(struct lab *lab, const char *name, char **ret_path, struct cdm_error *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	*ret_path = lab_format("/proc/%d/fd/%d/.notify-%s", (int)getpid(), lab->dir_fd, name);
	int n = snprintf(address.sun_path, sizeof address.sun_path, "%s", *ret_path);
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || n >= (int)sizeof address.sun_path)
		return cdm_fail(err, fd < 0 ? errno : ENAMETOOLONG, "make the notify socket of %s", name);
	unlink(*ret_path);
	if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
		return cdm_fail(err, errno, "bind the notify socket of %s in %s", name, lab->dir);
	return cdm_take_fd(&fd);
}

int lab_spawn_start(struct lab *lab, struct lab_spawn *s, struct cdm_error *err)
{
	s->notify_fd = s->pid_fd = -1;
	_cleanup_free_ char *log_path = lab_format("%s/logs/%s.log", lab->dir, s->name), *notify = NULL;
	_cleanup_close_ int log_fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	_cleanup_close_ int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (log_fd < 0 || null_fd < 0)
		return cdm_fail(err, errno, "open %s", log_path);
	s->log_start = lseek(log_fd, 0, SEEK_END);
	if (s->wait_ready) {
		s->notify_fd = notify_socket(lab, s->name, &notify, err);
		if (s->notify_fd < 0)
			return s->notify_fd;
	}
	const int io[3] = {null_fd, log_fd, log_fd};
	pid_t pid = launch(lab, s->node, s->netns, s->argv, io, notify, true, err);
	if (pid < 0)
		return cdm_wrap(err, pid, "start %s", s->name);
	s->pid_fd = pidfd_open(pid, 0);
	if (s->pid_fd < 0)
		return cdm_fail(err, errno, "watch %s", s->name);
	if (lab_process_of(pid, &s->process) < 0)
		s->process = (struct lab_process){.pid = pid}; /* it has ended already: the wait says so */
	return 0;
}

static char *last_words(struct lab *lab, const struct lab_spawn *s)
{
	_cleanup_free_ char *path = lab_format("%s/logs/%s.log", lab->dir, s->name);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	char text[4096];
	off_t end = fd < 0 ? 0 : lseek(fd, 0, SEEK_END), from = end - (off_t)sizeof text + 1;
	ssize_t n = fd < 0 ? 0 : pread(fd, text, sizeof text - 1, from > s->log_start ? from : s->log_start);
	if (n < 0)
		n = 0;
	while (n > 0 && text[n - 1] == '\n')
		n--;
	text[n] = 0;
	char *start = text + n;
	for (int lines = 0; start > text; start--) /* the last three lines */
		if (start[-1] == '\n' && ++lines == 3)
			break;
	return lab_format("%s", *start ? start : "(it said nothing)");
}

/* One or more datagrams; has READY=1 come? */
static bool said_ready(int fd)
{
	char text[4096];
	ssize_t n;
	bool ready = false;
	while ((n = recv(fd, text, sizeof text - 1, MSG_DONTWAIT)) >= 0) {
		text[n] = 0;
		for (char *line = text, *next; line; line = next) {
			next = strchr(line, '\n');
			if (next)
				*next++ = 0;
			ready |= strcmp(line, "READY=1") == 0;
		}
	}
	return ready;
}

static void spawn_finish(struct lab *lab, struct lab_spawn *s)
{
	if (s->notify_fd >= 0) {
		_cleanup_free_ char *path = lab_format(".notify-%s", s->name);
		unlinkat(lab->dir_fd, path, 0);
	}
	cdm_cleanup_close(&s->notify_fd);
	cdm_cleanup_close(&s->pid_fd);
	s->notify_fd = s->pid_fd = -1;
}

static int ended_early(struct lab *lab, struct lab_spawn *s, struct cdm_error *err)
{
	int status = 0;
	waitpid(s->process.pid, &status, 0);
	s->process = (struct lab_process){0};
	if (!s->wait_ready && WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	_cleanup_free_ char *words = last_words(lab, s);
	if (WIFSIGNALED(status))
		return cdm_fail_plain(err, ECHILD, "%s was killed by SIG%s; last words: %s", s->name, sigabbrev_np(WTERMSIG(status)) ?: "?", words);
	return cdm_fail_plain(err, ECHILD, "%s ended with status %d; last words: %s", s->name, WEXITSTATUS(status), words);
}

int lab_spawn_wait(struct lab *lab, struct lab_spawn *s, int timeout_ms, struct cdm_error *err)
{
	int64_t deadline = cdm_now_ms() + timeout_ms;
	int r = -EAGAIN;
	while (r == -EAGAIN) {
		int64_t left = deadline - cdm_now_ms();
		struct pollfd fds[2] = {{.fd = s->pid_fd, .events = POLLIN}, {.fd = s->notify_fd, .events = POLLIN}};
		poll(fds, 2, left > 0 ? (int)left : 0);
		if (s->notify_fd >= 0 && said_ready(s->notify_fd))
			r = 0;
		else if (fds[0].revents)
			r = ended_early(lab, s, err);
		else if (left <= 0)
			r = -ETIMEDOUT;
	}
	if (r == -ETIMEDOUT) {
		_cleanup_free_ char *words = last_words(lab, s);
		cdm_fail_plain(err, ETIMEDOUT, "%s is not ready after %d s; last words: %s", s->name, timeout_ms / 1000, words);
		kill(-s->process.pid, SIGKILL);
		waitpid(s->process.pid, NULL, 0);
	}
	if (r < 0)
		cdm_hint(err, "its log is %s/logs/%s.log", lab->dir, s->name);
	spawn_finish(lab, s);
	return r;
}

/* -- tools ------------------------------------------------------------------------------------------------------- */

static int memory_file(const char *text)
{
	int fd = memfd_create("lab", MFD_CLOEXEC);
	if (fd >= 0 && text)
		if (cdm_pwrite_all(fd, text, strlen(text), 0) < 0) {
			close(fd);
			return -1;
		}
	return fd;
}

static char *memory_text(int fd)
{
	off_t len = lseek(fd, 0, SEEK_END);
	char *text = calloc(1, (size_t)(len > 0 ? len : 0) + 1);
	if (text && len > 0 && cdm_pread_all(fd, text, (size_t)len, 0) < 0)
		*text = 0;
	return text;
}

int lab_tool(struct lab *lab, const struct lab_node *node, const char *netns, const char *const argv[], const char *input, char **ret_output,
	struct cdm_error *err)
{
	_cleanup_close_ int in = memory_file(input), out = memory_file(NULL);
	if (in < 0 || out < 0)
		return cdm_fail(err, errno, "prepare to run %s", argv[0]);
	const int io[3] = {in, out, out};
	pid_t pid = launch(lab, node, netns, argv, io, NULL, false, err);
	if (pid < 0)
		return pid;
	int status = 0;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return cdm_fail(err, errno, "wait for %s", argv[0]);
	if (ret_output)
		*ret_output = memory_text(out);
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

int lab_tool_ok(struct lab *lab, const struct lab_node *node, const char *netns, const char *const argv[], const char *input,
	char **ret_output, struct cdm_error *err)
{
	char *output = NULL;
	int r = lab_tool(lab, node, netns, argv, input, &output, err);
	if (r > 0) {
		size_t len = strlen(output);
		while (len > 0 && output[len - 1] == '\n')
			output[--len] = 0;
		const char *name = strrchr(argv[0], '/');
		r = cdm_fail_plain(err, EIO, "%s %s (status %d): %s", name ? name + 1 : argv[0], argv[1] ?: "", r, output);
	}
	if (r == 0 && ret_output)
		*ret_output = output;
	else
		free(output);
	return r;
}

int lab_run(struct lab *lab, const char *node_name, const char *const argv[], int *ret_status, char **ret_output, struct cdm_error *err)
{
	const struct lab_node *node = node_name ? lab_node_find(lab, node_name, err) : NULL;
	if (node_name && !node)
		return -ENOENT;
	_cleanup_free_ char *netns = node ? (node->netns ? strdup(node->netns) : NULL) : lab->netns ? lab_netns_name(lab, "master") : NULL;
	int r = lab_tool(lab, node, netns, argv, NULL, ret_output, err);
	if (r < 0)
		return r;
	*ret_status = r;
	return 0;
}

int lab_exec(struct lab *lab, const char *node_name, char *const argv[], struct cdm_error *err)
{
	bool master = strcmp(node_name, "master") == 0;
	const struct lab_node *node = master ? NULL : lab_node_find(lab, node_name, err);
	if (!master && !node)
		return -ENOENT;
	if (lab->netns) {
		_cleanup_free_ char *netns = lab_netns_name(lab, node_name);
		int r = lab_net_enter(netns, err);
		if (r < 0)
			return r;
	}
	lab_environment(lab, node);
	execvp(argv[0], argv);
	return cdm_fail(err, errno, "run %s", argv[0]);
}
