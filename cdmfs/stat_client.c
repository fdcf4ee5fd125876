/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include "cdmfs/stat.h"

#define LINE_BYTES_MAX (64u << 20)
#define ANSWER_MS 10000 /* for what is answered at once */

static int not_running(const struct cdm_conf *conf, int number, struct cdm_error *err)
{
	if (number == EACCES || number == EPERM) {
		cdm_fail(err, number, "ask the replicator at %s", conf->control);
		cdm_hint(err, "cdmfs-stat is for root; others ask about a file with: getfattr -n user.cdmfs.status FILE");
		return -number;
	}
	cdm_fail_plain(err, number, "the replicator does not run on this node: nobody answers at %s (%s)", conf->control,
		strerrordesc_np(number));
	cdm_hint(err, "start it (systemctl start cdm-replicator) or look why it ended (journalctl -u cdm-replicator); meanwhile the mount "
		      "works and journals every change");
	return -number;
}

/* By the directory's descriptor: a socket's address holds 107 bytes only. */
static int connect_control(const char *path)
{
	const char *slash = strrchr(path, '/');
	_cleanup_free_ char *dir = strndup(path, (size_t)(slash - path));
	if (!dir)
		return -ENOMEM;
	_cleanup_close_ int dirfd = open(*dir ? dir : "/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dirfd < 0)
		return -errno;
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	snprintf(addr.sun_path, sizeof addr.sun_path, "/proc/self/fd/%d/%.60s", dirfd, slash + 1);
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof addr) < 0)
		return -errno;
	return cdm_take_fd(&fd);
}

int stat_client_open(const struct cdm_conf *conf, struct stat_client *ret, struct cdm_error *err)
{
	int fd = connect_control(conf->control);
	if (fd < 0)
		return not_running(conf, -fd, err);
	*ret = (struct stat_client){.fd = fd};
	return 0;
}

void stat_client_close(struct stat_client *c)
{
	close(c->fd);
	free(c->buf);
	*c = (struct stat_client){.fd = -1};
}

int stat_client_send(struct stat_client *c, json_t *request, struct cdm_error *err)
{
	_cleanup_free_ char *text = json_dumps(request, JSON_COMPACT);
	json_decref(request);
	if (!text)
		return cdm_fail(err, ENOMEM, "ask the replicator");
	size_t len = strlen(text);
	text[len++] = '\n'; /* in place of the NUL */
	for (size_t sent = 0; sent < len;) {
		ssize_t n = send(c->fd, text + sent, len - sent, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return cdm_fail(err, errno, "ask the replicator");
		sent += (size_t)n;
	}
	return 0;
}

static int make_room(struct stat_client *c)
{
	if (c->used < c->room)
		return 0;
	if (c->room >= LINE_BYTES_MAX)
		return -EFBIG;
	size_t room = c->room ? c->room * 2 : 16384;
	char *grown = realloc(c->buf, room);
	if (!grown)
		return -ENOMEM;
	c->buf = grown;
	c->room = room;
	return 0;
}

static int64_t now_ms(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Read until buf holds a whole line; its length without the newline, or -errno (-EPIPE: the other side is gone). */
static ssize_t fill_line(struct stat_client *c, int timeout_ms)
{
	int64_t deadline = now_ms() + timeout_ms;
	for (size_t looked = 0;;) {
		char *newline = c->used > looked ? memchr(c->buf + looked, '\n', c->used - looked) : NULL;
		if (newline)
			return newline - c->buf;
		looked = c->used;
		int r = make_room(c);
		if (r < 0)
			return r;
		int64_t left = timeout_ms < 0 ? -1 : deadline - now_ms();
		struct pollfd p = {.fd = c->fd, .events = POLLIN};
		int ready = poll(&p, 1, left < 0 && timeout_ms >= 0 ? 0 : (int)left);
		if (ready == 0)
			return -ETIMEDOUT;
		ssize_t n = ready < 0 ? -1 : recv(c->fd, c->buf + c->used, c->room - c->used, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EPIPE;
		c->used += (size_t)n;
	}
}

/* An answer that says what went wrong. */
static int answered_error(const json_t *answer, struct cdm_error *err)
{
	const char *text = stat_text(answer, "error");
	if (!*text)
		return 0;
	cdm_fail_plain(err, EREMOTEIO, "%s", text);
	const char *hint = stat_text(answer, "hint");
	if (*hint)
		cdm_hint(err, "%s", hint);
	return -EREMOTEIO;
}

int stat_client_read(struct stat_client *c, int timeout_ms, json_t **ret, struct cdm_error *err)
{
	ssize_t len = fill_line(c, timeout_ms);
	if (len == -ETIMEDOUT)
		return cdm_fail_plain(err, ETIMEDOUT, "the replicator does not answer");
	if (len == -EPIPE || len == -ECONNRESET)
		return cdm_fail_plain(err, EPIPE, "the replicator ended while it was asked");
	if (len < 0)
		return cdm_fail(err, (int)-len, "read the replicator's answer");
	json_error_t wrong;
	json_t *answer = json_loadb(c->buf, (size_t)len, 0, &wrong);
	c->used -= (size_t)len + 1;
	memmove(c->buf, c->buf + len + 1, c->used);
	if (!answer)
		return cdm_fail_plain(err, EPROTO, "the replicator's answer is not JSON: %s", wrong.text);
	int r = answered_error(answer, err);
	if (r < 0) {
		json_decref(answer);
		return r;
	}
	*ret = answer;
	return 0;
}

int stat_client_ask(struct stat_client *c, json_t *request, json_t **ret, struct cdm_error *err)
{
	int r = stat_client_send(c, request, err);
	return r < 0 ? r : stat_client_read(c, ANSWER_MS, ret, err);
}
