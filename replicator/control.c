/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/control.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "common/io.h"
#include "common/log.h"
#include "replicator/opens.h"
#include "replicator/view.h"

#define LINE_MAX_BYTES (128u << 10) /* a request; the longest path fits, escaped */
#define OUT_MAX_BYTES (16u << 20)
#define CLIENTS_MAX 128
#define WATCH_MS 250
#define ACCEPT_RETRY_MS 200

struct client {
	struct control *control;
	struct client *next;
	int fd;
	unsigned in_flight;
	bool closing;
	char *in;
	size_t in_len, in_room;
	char *out, *sending;
	size_t out_len, sending_len, sent;
	bool busy;                  /* a request is being answered: the next line waits */
	struct wait *wait;
	struct opens_query *query;  /* for the answer below */
	json_t *answer;
	bool answer_last;
	char *why_path;             /* for "why", while the query runs */
	size_t why_len;
	struct set *why_set;
	struct set *watched;
	struct cdm_timer *watch_timer;
	int64_t watch_ms;
};

struct control {
	struct node *node;
	int fd, lock_fd;
	bool ending;
	struct cdm_io *accept_io;
	struct cdm_timer *retry;
	struct client *clients;
	size_t client_count;
	struct state_watch watch;
	struct peers_files *peers;
};

static void client_read(struct client *c);
static void client_lines(struct client *c);

/* --- clients --- */

static void client_gone(struct client *c)
{
	if (!c->closing) {
		c->closing = true;
		wait_cancel(&c->wait);
		opens_cancel(&c->query);
		json_decref(c->answer);
		c->answer = NULL;
		free(c->why_path);
		c->why_path = NULL;
		cdm_timer_cancel(&c->watch_timer);
		c->watched = NULL;
		shutdown(c->fd, SHUT_RDWR); /* ends what is in flight */
	}
	if (c->in_flight > 0)
		return;
	for (struct client **at = c->control ? &c->control->clients : NULL; at && *at; at = &(*at)->next)
		if (*at == c) {
			*at = c->next;
			c->control->client_count--;
			break;
		}
	close(c->fd);
	free(c->in);
	free(c->out);
	free(c->sending);
	free(c);
}

static void client_send(struct client *c);

static void client_sent(void *arg, int result)
{
	struct client *c = arg;
	c->in_flight--;
	if (result <= 0 || c->closing) {
		client_gone(c);
		return;
	}
	c->sent += (size_t)result;
	if (c->sent == c->sending_len) {
		free(c->sending);
		c->sending = NULL;
	}
	client_send(c);
}

static void client_send(struct client *c)
{
	if (c->sending && c->sent == 0 && c->sending_len == 0)
		return;
	if (!c->sending) {
		if (c->out_len == 0)
			return;
		c->sending = c->out;
		c->sending_len = c->out_len;
		c->sent = 0;
		c->out = NULL;
		c->out_len = 0;
	}
	c->in_flight++;
	cdm_loop_send(c->control->node->loop, c->fd, c->sending + c->sent, c->sending_len - c->sent, client_sent, c);
}

void client_answer(struct client *c, json_t *answer, bool last)
{
	if (last)
		json_object_set_new(answer, "end", json_true());
	char *text = json_dumps(answer, JSON_COMPACT);
	json_decref(answer);
	if (last)
		c->busy = false;
	if (!text || c->closing) {
		free(text);
		return;
	}
	size_t len = strlen(text);
	c->out = realloc(c->out, c->out_len + len + 1);
	if (!c->out)
		abort();
	memcpy(c->out + c->out_len, text, len);
	c->out[c->out_len + len] = '\n';
	c->out_len += len + 1;
	free(text);
	if (c->out_len > OUT_MAX_BYTES)
		shutdown(c->fd, SHUT_RDWR); /* it does not read */
	else if (!c->sending)
		client_send(c);
}

void client_refuse(struct client *c, const char *fmt, ...)
{
	char text[512];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	client_answer(c, json_pack("{s:i, s:o}", "apiVersion", 1, "error", view_text(text)), true);
}

void client_wait_over(struct client *c)
{
	c->wait = NULL;
}

static void opens_told(void *arg, json_t *list)
{
	struct client *c = arg;
	json_t *answer = c->answer;
	c->query = NULL;
	c->answer = NULL;
	json_object_set(answer, "open", list);
	client_answer(c, answer, c->answer_last);
	if (!c->busy)
		client_lines(c);
}

void client_answer_open(struct client *c, struct set *set, json_t *answer, bool last)
{
	c->answer = answer;
	c->answer_last = last;
	c->query = opens_ask(c->control->node, set, opens_told, c);
}

/* --- commands --- */

/* With what it cost this node. */
static json_t *status_of(struct client *c, struct set *set)
{
	json_t *status = view_status(c->control->node, set), *stats = set_stats(set);
	json_object_set_new(status, "cost", view_cost(stats));
	json_object_set_new(status, "sections", view_sections(c->control->node));
	json_decref(stats);
	return status;
}

static void watch_send(void *arg)
{
	struct client *c = arg;
	c->watch_timer = NULL;
	c->watch_ms = cdm_now_ms();
	if (c->sending || c->query) { /* it reads slowly: it gets the state of later */
		c->watch_timer = cdm_loop_after(c->control->node->loop, WATCH_MS, watch_send, c);
		return;
	}
	client_answer_open(c, c->watched, status_of(c, c->watched), false);
}

static void set_changed(void *arg, struct set *set)
{
	struct control *control = arg;
	for (struct client *c = control->clients; c; c = c->next) {
		if (c->watched != set || c->watch_timer)
			continue;
		int64_t wait = c->watch_ms + WATCH_MS - cdm_now_ms();
		c->watch_timer = cdm_loop_after(control->node->loop, wait > 0 ? wait : 0, watch_send, c);
	}
}

static void list_sets(struct client *c)
{
	struct node *node = c->control->node;
	json_t *list = json_array();
	for (size_t i = 0; i < node->set_count; i++)
		json_array_append_new(list, json_string(set_name(node->sets[i])));
	client_answer(c, json_pack("{s:i, s:o}", "apiVersion", 1, "sets", list), true);
}

static void all_stats(struct client *c)
{
	struct node *node = c->control->node;
	json_t *sets = json_object();
	for (size_t i = 0; i < node->set_count; i++)
		json_object_set_new(sets, set_name(node->sets[i]), set_stats(node->sets[i]));
	client_answer(c, json_pack("{s:i, s:s, s:I, s:o, s:o}", "apiVersion", 1, "node", node->id->node, "links",
				 (json_int_t)node->link_count, "sets", sets, "sections", view_sections(node)), true);
}

struct holders {
	struct cdm_dot dot;
	json_t *have, *lack;
	struct set *set;
};

static void sort_holder(void *arg, const struct peer_state *p)
{
	struct holders *h = arg;
	struct view_node v;
	char reason[400];
	bool told = p->self || cdm_vector_covers(p->visible, h->dot);
	bool aside = !p->self && strcmp(p->reason_code, "quarantined") == 0; /* what, only that node knows */
	if (told && !aside) {
		json_array_append_new(h->have, view_text(p->member->name));
		return;
	}
	if (!view_counts(p))
		return; /* need not have it */
	view_of(h->set, p, &v);
	snprintf(reason, sizeof reason, "%s%s", told ? "may lack it: " : "", v.reason[0] ? v.reason : v.state);
	json_array_append_new(h->lack, json_pack("{s:o, s:o}", "node", view_text(p->member->name), "reason", view_text(reason)));
}

static void why_answer(void *arg, json_t *open)
{
	struct client *c = arg;
	struct holders h = {.have = json_array(), .lack = json_array(), .set = c->why_set};
	_cleanup_free_ char *path = c->why_path;
	c->query = NULL;
	c->why_path = NULL;
	json_t *answer = set_why(c->why_set, path, c->why_len, open, &h.dot);
	if (!cdm_dot_is_none(h.dot))
		state_each(c->control->node, h.set, sort_holder, &h);
	json_object_set_new(answer, "have", h.have);
	json_object_set_new(answer, "lack", h.lack);
	client_answer(c, answer, true);
	client_lines(c);
}

/* The bytes of "path", or of "path_hex". The caller frees; NULL when there is neither. */
static char *path_of(const json_t *request, size_t *ret_len)
{
	const json_t *text = json_object_get(request, "path");
	const char *hex = json_string_value(json_object_get(request, "path_hex"));
	size_t len = json_is_string(text) ? json_string_length(text) : hex ? strlen(hex) / 2 : 0;
	char *path = len ? malloc(len + 1) : NULL;
	if (!path)
		return NULL;
	if (json_is_string(text))
		memcpy(path, json_string_value(text), len);
	for (size_t i = 0; !json_is_string(text) && i < len; i++) {
		unsigned byte;
		if (!isxdigit((unsigned char)hex[2 * i]) || !isxdigit((unsigned char)hex[2 * i + 1]) || sscanf(hex + 2 * i, "%2x", &byte) != 1) {
			free(path);
			return NULL;
		}
		path[i] = (char)byte;
	}
	path[len] = 0;
	*ret_len = len;
	return path;
}

static void why(struct client *c, struct set *set, const json_t *request)
{
	c->why_path = path_of(request, &c->why_len);
	c->why_set = set;
	if (c->why_path)
		c->query = opens_ask(c->control->node, set, why_answer, c);
	else
		client_refuse(c, "why: no path");
}

/* Without an id: what is held in any set. */
static void hold(struct client *c, const json_t *request)
{
	struct node *node = c->control->node;
	const char *id = json_string_value(json_object_get(request, "id")), *decision = json_string_value(json_object_get(request, "decision"));
	bool approve = decision && strcmp(decision, "approve") == 0;
	json_t *list = json_array(), *answer = NULL;
	if (id && !approve && (!decision || strcmp(decision, "reject") != 0)) {
		json_decref(list);
		client_refuse(c, "hold: \"decision\" is \"approve\" or \"reject\"");
		return;
	}
	for (size_t i = 0; i < node->set_count; i++) {
		json_t *holds = set_holds(node->sets[i]);
		json_array_extend(list, holds);
		json_decref(holds);
	}
	for (size_t i = 0; id && i < node->set_count && !(answer && json_object_get(answer, "result")); i++) {
		json_decref(answer);
		answer = set_hold_decide(node->sets[i], id, approve);
	}
	if (!id)
		answer = json_pack("{s:i, s:O}", "apiVersion", 1, "holds", list);
	json_decref(list);
	client_answer(c, answer ? answer : json_pack("{s:s}", "error", "this node has no sets"), true);
}

static void command(struct client *c, const json_t *request)
{
	struct node *node = c->control->node;
	const char *cmd = json_string_value(json_object_get(request, "cmd"));
	const char *name = json_string_value(json_object_get(request, "set"));
	struct set *set = name ? node_set(node, name) : NULL;
	if (!cmd) {
		client_refuse(c, "no \"cmd\"");
	} else if (strcmp(cmd, "sets") == 0) {
		list_sets(c);
	} else if (strcmp(cmd, "stats") == 0) {
		all_stats(c);
	} else if (strcmp(cmd, "hold") == 0) {
		hold(c, request);
	} else if (strcmp(cmd, "status") != 0 && strcmp(cmd, "watch") != 0 && strcmp(cmd, "why") != 0 && strcmp(cmd, "wait") != 0) {
		client_refuse(c, "unknown command \"%s\"", cmd);
	} else if (!set) {
		client_refuse(c, "unknown set %s", name ? name : "(none named)");
	} else if (strcmp(cmd, "status") == 0) {
		client_answer_open(c, set, status_of(c, set), true);
	} else if (strcmp(cmd, "why") == 0) {
		why(c, set, request);
	} else if (strcmp(cmd, "watch") == 0) {
		c->watched = set;
		watch_send(c);
	} else {
		c->wait = wait_start(node, set, c, request);
	}
}

static void client_lines(struct client *c)
{
	size_t at = 0;
	char *end;
	while (!c->busy && !c->closing && (end = memchr(c->in + at, '\n', c->in_len - at))) {
		size_t len = (size_t)(end - (c->in + at));
		json_error_t jerr;
		json_t *request = json_loadb(c->in + at, len, 0, &jerr);
		at += len + 1;
		c->busy = true;
		if (json_is_object(request))
			command(c, request);
		else
			client_refuse(c, "not a JSON object: %.200s", jerr.text);
		json_decref(request);
	}
	if (at > 0 && c->in) {
		memmove(c->in, c->in + at, c->in_len - at);
		c->in_len -= at;
	}
}

static void client_received(void *arg, int result)
{
	struct client *c = arg;
	c->in_flight--;
	if (result <= 0 || c->closing) {
		client_gone(c);
		return;
	}
	c->in_len += (size_t)result;
	client_lines(c);
	if (c->closing)
		client_gone(c);
	else
		client_read(c);
}

static void client_read(struct client *c)
{
	if (c->in_len == c->in_room) {
		size_t room = c->in_room ? c->in_room * 2 : 4096;
		if (room > LINE_MAX_BYTES) {
			client_gone(c);
			return;
		}
		c->in = realloc(c->in, room);
		if (!c->in)
			abort();
		c->in_room = room;
	}
	c->in_flight++;
	cdm_loop_recv(c->control->node->loop, c->fd, c->in + c->in_len, c->in_room - c->in_len, client_received, c);
}

/* --- the socket --- */

static void accept_next(void *arg);

static void control_done(struct control *control)
{
	close(control->fd);
	close(control->lock_fd);
	free(control);
}

static void accepted(void *arg, int result)
{
	struct control *control = arg;
	control->accept_io = NULL;
	if (control->ending) {
		if (result >= 0)
			close(result);
		control_done(control);
		return;
	}
	if (result < 0) {
		control->retry = cdm_loop_after(control->node->loop, ACCEPT_RETRY_MS, accept_next, control);
		return;
	}
	if (control->client_count >= CLIENTS_MAX) {
		close(result);
	} else {
		struct client *c = calloc(1, sizeof *c);
		if (!c)
			abort();
		*c = (struct client){.control = control, .fd = result, .next = control->clients};
		control->clients = c;
		control->client_count++;
		client_read(c);
	}
	accept_next(control);
}

static void accept_next(void *arg)
{
	struct control *control = arg;
	control->retry = NULL;
	control->accept_io = cdm_loop_accept(control->node->loop, control->fd, accepted, control);
}

/* Only one may run. A lock tells that and goes with the process; its sockets may stay for a moment, until the kernel has ended its ring. */
static int lock_open(const char *control, int *ret, struct cdm_error *err)
{
	_cleanup_free_ char *path = NULL;
	if (asprintf(&path, "%s.lock", control) < 0)
		return cdm_fail(err, ENOMEM, "lock %s", control);
	_cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return cdm_fail(err, errno, "open %s", path);
	int failed = flock(fd, LOCK_EX | LOCK_NB) < 0 ? errno : 0;
	if (failed && failed != EWOULDBLOCK)
		return cdm_fail(err, failed, "lock %s", path);
	if (failed) {
		cdm_fail_plain(err, EADDRINUSE, "another replicator answers at %s", control);
		cdm_hint(err, "only one may run with this configuration");
		return -EADDRINUSE;
	}
	*ret = cdm_take_fd(&fd);
	return 0;
}

static int socket_open(const char *path, int *ret, struct cdm_error *err)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof addr.sun_path) {
		cdm_fail_plain(err, ENAMETOOLONG, "control socket %s: the path is longer than %zu bytes", path, sizeof addr.sun_path - 1);
		cdm_hint(err, "choose a shorter `run` in the [node] section of the configuration");
		return -ENAMETOOLONG;
	}
	strcpy(addr.sun_path, path);
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return cdm_fail(err, errno, "make a socket");
	unlink(path);
	mode_t before = umask(0177);
	int r = bind(fd, (struct sockaddr *)&addr, sizeof addr) < 0 || listen(fd, 64) < 0 ? -errno : 0;
	umask(before);
	if (r < 0)
		return cdm_fail(err, -r, "make control socket %s", path);
	*ret = cdm_take_fd(&fd);
	return 0;
}

int control_new(struct node *node, struct cdm_error *err)
{
	_cleanup_close_ int lock = -1;
	int fd = -1;
	int r = cdm_make_dirs(node->conf->run, 0755, err);
	if (r == 0)
		r = lock_open(node->conf->control, &lock, err);
	if (r == 0)
		r = socket_open(node->conf->control, &fd, err);
	if (r < 0)
		return r;
	struct control *control = calloc(1, sizeof *control);
	if (!control)
		abort();
	control->node = node;
	control->fd = fd;
	control->lock_fd = cdm_take_fd(&lock);
	control->watch = (struct state_watch){.fn = set_changed, .arg = control};
	control->peers = peers_new(node);
	node->control = control;
	state_watch(node, &control->watch);
	accept_next(control);
	return 0;
}

void control_free(struct node *node)
{
	struct control *control = node->control;
	node->control = NULL;
	if (!control)
		return;
	unlink(node->conf->control);
	state_unwatch(node, &control->watch);
	peers_free(&control->peers);
	cdm_timer_cancel(&control->retry);
	for (struct client *c = control->clients, *next; c; c = next) {
		next = c->next;
		if (c->in_flight > 0)
			c->control = NULL; /* it goes when its last submission has ended */
		client_gone(c);
	}
	control->ending = true;
	if (control->accept_io)
		cdm_loop_cancel(node->loop, control->accept_io);
	else
		control_done(control);
}
