/* SPDX-License-Identifier: Apache-2.0 */
/* lab_control.c — talk to a node's replicator over its local control socket, and wait for what it says. */
#include "tests/lab/lab_private.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include "common/loop.h"

#define LINE_MAX_BYTES (16u << 20)

struct control {
	int fd;
	char *buf;
	size_t len;
};

static void control_close(struct control *c)
{
	cdm_cleanup_close(&c->fd);
	free(c->buf);
	*c = (struct control){.fd = -1};
}

static int control_open(struct lab *lab, const char *node, struct control *c, struct cdm_error *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	*c = (struct control){.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
	snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%s/run/control.sock", lab->dir_fd, node);
	if (c->fd >= 0 && connect(c->fd, (struct sockaddr *)&address, sizeof address) == 0)
		return 0;
	int r = cdm_fail(err, errno, "connect to the replicator of %s", node);
	control_close(c);
	return r;
}

static int control_send(struct control *c, const json_t *request, struct cdm_error *err)
{
	char *text = json_dumps(request, JSON_COMPACT);
	size_t len = strlen(text), done = 0;
	text[len] = '\n'; /* in place of its NUL */
	while (done <= len) {
		ssize_t n = send(c->fd, text + done, len + 1 - done, MSG_NOSIGNAL);
		if (n < 0) {
			free(text);
			return cdm_fail(err, errno, "send to the replicator");
		}
		done += (size_t)n;
	}
	free(text);
	return 0;
}

/* The next line as JSON; the caller owns it. */
static int control_line(struct control *c, int64_t deadline_ms, json_t **ret, struct cdm_error *err)
{
	for (;;) {
		char *end = c->buf ? memchr(c->buf, '\n', c->len) : NULL;
		if (end) {
			json_error_t where;
			*ret = json_loadb(c->buf, (size_t)(end - c->buf), 0, &where);
			c->len -= (size_t)(end + 1 - c->buf);
			memmove(c->buf, end + 1, c->len);
			return *ret ? 0 : cdm_fail_plain(err, EBADMSG, "the replicator answers no JSON: %s", where.text);
		}
		int64_t left = deadline_ms - cdm_now_ms();
		struct pollfd in = {.fd = c->fd, .events = POLLIN};
		if (left <= 0 || poll(&in, 1, (int)left) == 0)
			return cdm_fail_plain(err, ETIMEDOUT, "no answer from the replicator");
		char *grown = c->len < LINE_MAX_BYTES ? realloc(c->buf, c->len + 65536) : NULL;
		if (!grown)
			return cdm_fail(err, ENOMEM, "read from the replicator");
		c->buf = grown;
		ssize_t n = recv(c->fd, c->buf + c->len, 65536, 0);
		if (n == 0 || (n < 0 && errno != EINTR))
			return cdm_fail(err, n ? errno : ECONNRESET, "read from the replicator");
		c->len += n > 0 ? (size_t)n : 0;
	}
}

int lab_control(struct lab *lab, const char *node, json_t *request, int timeout_ms, json_t **ret, struct cdm_error *err)
{
	struct control c;
	int64_t deadline = cdm_now_ms() + timeout_ms;
	int r = control_open(lab, node, &c, err);
	if (r == 0)
		r = control_send(&c, request, err);
	json_t *answer = NULL;
	while (r == 0 && !json_is_true(json_object_get(answer, "end"))) {
		json_decref(answer);
		answer = NULL;
		r = control_line(&c, deadline, &answer, err);
	}
	control_close(&c);
	if (r < 0)
		return cdm_wrap(err, r, "ask %s", node);
	*ret = answer;
	return 0;
}

/* -- waiting ----------------------------------------------------------------------------------------------------- */

int lab_wait_for(lab_condition_fn *holds, void *arg, int timeout_ms, const char *what, struct cdm_error *err)
{
	char seen[512] = "";
	int64_t deadline = cdm_now_ms() + timeout_ms;
	while (!holds(arg, seen)) {
		if (cdm_now_ms() >= deadline)
			return cdm_fail_plain(err, ETIMEDOUT, "after %d ms still not: %s; last seen: %s", timeout_ms, what, seen);
		nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
	}
	return 0;
}

/* {"result","lack":[{"node","reason"}],"open":[…]} in words, or {"error"}. */
static void say_lack(const json_t *answer, char *to, size_t room)
{
	const char *said = json_string_value(json_object_get(answer, "result")) ?: json_string_value(json_object_get(answer, "error"));
	size_t i, used = (size_t)snprintf(to, room, "%s", said ?: "no result");
	const json_t *item;
	json_array_foreach(json_object_get(answer, "lack"), i, item)
		if (used < room)
			used += (size_t)snprintf(to + used, room - used, "; %s lacks it: %s", json_string_value(json_object_get(item, "node")) ?: "?",
				json_string_value(json_object_get(item, "reason")) ?: "?");
	json_array_foreach(json_object_get(answer, "open"), i, item)
		if (used < room)
			used += (size_t)snprintf(to + used, room - used, "; open: %s", json_string_value(item) ?: "?");
}

int lab_wait_in_sync(struct lab *lab, int timeout_ms, struct cdm_error *err)
{
	int64_t deadline = cdm_now_ms() + timeout_ms;
	for (unsigned i = 0; i < lab->node_count; i++) {
		const char *node = lab->nodes[i]->name;
		int64_t left = deadline - cdm_now_ms();
		json_t *request = json_pack("{s:s,s:s,s:f}", "cmd", "wait", "set", LAB_SET, "timeout_s", left > 0 ? (double)left / 1000 : 0.001);
		json_t *answer = NULL;
		int r = lab_control(lab, node, request, left > 0 ? (int)left + 5000 : 5000, &answer, err);
		json_decref(request);
		if (r < 0)
			return r;
		const char *result = json_string_value(json_object_get(answer, "result"));
		if (!result || strcmp(result, "ok") != 0) {
			char lack[400];
			say_lack(answer, lack, sizeof lack);
			r = cdm_fail_plain(err, ETIMEDOUT, "not in sync after %d ms, asked at %s: %s", timeout_ms, node, lack);
		}
		json_decref(answer);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Is this status of a node that knows all nodes and finds them in sync? Else say what is missing. */
static bool status_ready(const struct lab *lab, const json_t *status, char *seen, size_t room)
{
	const json_t *nodes = json_object_get(status, "nodes"), *item;
	size_t i, used = (size_t)snprintf(seen, room, "%zu of %u nodes known", json_array_size(nodes), lab->node_count);
	bool ready = json_array_size(nodes) == lab->node_count && json_is_true(json_object_get(status, "in_sync"));
	json_array_foreach(nodes, i, item)
		if (used < room)
			used += (size_t)snprintf(seen + used, room - used, ", %s %s %s", json_string_value(json_object_get(item, "name")) ?: "?",
				json_string_value(json_object_get(item, "state")) ?: "?", json_string_value(json_object_get(item, "reason")) ?: "");
	const char *error = json_string_value(json_object_get(status, "error"));
	if (error && used < room)
		snprintf(seen + used, room - used, ", %s", error);
	return ready;
}

/* Follow one node's status until it is ready. A set it does not know yet ends the answer: then ask again. */
static int wait_node_ready(struct lab *lab, const char *node, int64_t deadline, struct cdm_error *err)
{
	struct control c = {.fd = -1};
	char seen[400] = "no answer";
	json_t *request = json_pack("{s:s,s:s}", "cmd", "watch", "set", LAB_SET);
	int r = -EAGAIN;
	while (r == -EAGAIN) {
		json_t *status = NULL;
		r = c.fd >= 0 ? 0 : control_open(lab, node, &c, err) ?: control_send(&c, request, err);
		if (r == 0)
			r = control_line(&c, deadline, &status, err);
		if (r < 0)
			break;
		bool ended = json_is_true(json_object_get(status, "end"));
		r = status_ready(lab, status, seen, sizeof seen) ? 0 : -EAGAIN;
		json_decref(status);
		if (r == -EAGAIN && ended) {
			control_close(&c);
			nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
		}
		if (r == -EAGAIN && cdm_now_ms() >= deadline)
			r = -ETIMEDOUT;
	}
	if (r == -ETIMEDOUT)
		cdm_fail_plain(err, ETIMEDOUT, "%s is not ready: %s", node, seen);
	json_decref(request);
	control_close(&c);
	return r;
}

int lab_wait_ready(struct lab *lab, int timeout_ms, struct cdm_error *err)
{
	int64_t deadline = cdm_now_ms() + timeout_ms;
	for (unsigned i = 0; i < lab->node_count; i++) {
		int r = wait_node_ready(lab, lab->nodes[i]->name, deadline, err);
		if (r < 0)
			return r;
	}
	return 0;
}
