/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/links.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>
#include "common/log.h"
#include "replicator/conn.h"
#include "replicator/resolve.h"
#include "replicator/route.h"

#define BACKOFF_MIN_MS 50
#define BACKOFF_MAX_MS 5000
#define FULL_RETRY_MS 10000 /* after a full disk here ended the link: until there is space all is sent in vain */
#define HALF_OPEN_MAX 64
#define HALF_OPEN_PER_ADDRESS 16
#define ACCEPT_RETRY_MS 100

/* --- dialling --- */

struct dial { /* one peer that a link is wanted to */
	struct node *node;
	char *name, *addr;
	struct link *link;          /* being made or up; NULL: none dialled by us */
	struct resolve *resolve;    /* its name is being looked up */
	struct cdm_timer *timer;    /* of the next try */
	int64_t backoff_ms;
	bool wanted, failed;
	char why[300];
};

struct dialer {
	struct dial **dials;
	size_t count;
};

static void dial_now(void *arg);

static struct dial *dial_find(const struct node *node, const char *name)
{
	struct dialer *d = node->dialer;
	for (size_t i = 0; d && i < d->count; i++)
		if (strcmp(d->dials[i]->name, name) == 0)
			return d->dials[i];
	return NULL;
}

static void dial_free(struct dial *p)
{
	cdm_timer_cancel(&p->timer);
	resolve_cancel(&p->resolve);
	free(p->name);
	free(p->addr);
	free(p);
}

/* Half of the time is certain, half is drawn, so that many children of one parent do not dial in step. */
static int64_t jittered(int64_t ms)
{
	uint32_t random = 0;
	if (getrandom(&random, sizeof random, GRND_NONBLOCK) != sizeof random)
		random = (uint32_t)cdm_now_ns();
	return ms / 2 + (int64_t)(random % (uint32_t)(ms / 2 + 1));
}

static void dial_later(struct dial *p)
{
	if (!p->wanted || p->timer || p->resolve || p->link || link_find_up(p->node, p->name))
		return;
	p->timer = cdm_loop_after(p->node->loop, jittered(p->backoff_ms), dial_now, p);
	p->backoff_ms = p->backoff_ms * 2 > BACKOFF_MAX_MS ? BACKOFF_MAX_MS : p->backoff_ms * 2;
}

static void dial_failed(struct dial *p, const struct cdm_error *why)
{
	if (!p->failed || strcmp(p->why, why->text) != 0)
		cdm_log_err(dial_failed, why, cdm_str("peer", p->name), cdm_str("addr", p->addr));
	p->failed = true;
	snprintf(p->why, sizeof p->why, "%.299s", why->text);
	dial_later(p);
}

static void resolved(void *arg, const struct sockaddr *addr, socklen_t len, const struct cdm_error *err)
{
	struct dial *p = arg;
	struct cdm_error failed = CDM_ERROR_INIT;
	p->resolve = NULL;
	if (!addr)
		dial_failed(p, err);
	else if (!link_find_up(p->node, p->name) && link_dial(p->node, p->name, addr, len, &p->link, &failed) < 0)
		dial_failed(p, &failed);
}

static void dial_now(void *arg)
{
	struct dial *p = arg;
	p->timer = NULL;
	if (p->wanted && !p->link && !p->resolve && !link_find_up(p->node, p->name))
		p->resolve = resolve_start(p->node->loop, p->addr, resolved, p);
}

static bool is_wanted(const struct wanted *wanted, size_t count, const char *name)
{
	for (size_t i = 0; i < count; i++)
		if (strcmp(wanted[i].name, name) == 0)
			return true;
	return false;
}

static void want_one(struct node *node, const struct wanted *w)
{
	struct dial *p = dial_find(node, w->name);
	if (!p) {
		struct dialer *d = node->dialer;
		p = calloc(1, sizeof *p);
		d->dials = realloc(d->dials, (d->count + 1) * sizeof *d->dials);
		if (!p || !d->dials || !(p->name = strdup(w->name)))
			abort();
		p->node = node;
		d->dials[d->count++] = p;
	}
	bool fresh = !p->wanted || !p->addr || strcmp(p->addr, w->addr) != 0;
	p->wanted = true;
	if (!fresh)
		return;
	free(p->addr);
	p->addr = strdup(w->addr);
	if (!p->addr)
		abort();
	resolve_cancel(&p->resolve);
	cdm_timer_cancel(&p->timer);
	p->backoff_ms = BACKOFF_MIN_MS;
	dial_now(p);
}

static void drop_unwanted(struct node *node)
{
	struct dialer *d = node->dialer;
	for (size_t i = 0; i < d->count;) {
		struct dial *p = d->dials[i];
		if (p->wanted) {
			i++;
			continue;
		}
		cdm_timer_cancel(&p->timer);
		resolve_cancel(&p->resolve);
		if (p->link && !link_serves_any(p->link))
			link_end(p->link, "no set uses this link any more");
		if (p->link) {
			i++; /* goes when the link is gone */
			continue;
		}
		dial_free(p);
		d->dials[i] = d->dials[--d->count];
	}
}

void dialer_want(struct node *node, const struct wanted *wanted, size_t count)
{
	for (size_t i = 0; i < node->dialer->count; i++)
		if (!is_wanted(wanted, count, node->dialer->dials[i]->name))
			node->dialer->dials[i]->wanted = false;
	for (size_t i = 0; i < count; i++)
		want_one(node, &wanted[i]);
	drop_unwanted(node);
}

void dialer_link_up(struct node *node, struct link *l)
{
	struct dial *p = dial_find(node, link_peer_name(l));
	if (!p)
		return;
	cdm_timer_cancel(&p->timer);
	p->backoff_ms = BACKOFF_MIN_MS;
	p->failed = false;
	p->why[0] = 0;
}

void dialer_link_gone(struct node *node, struct link *l, const char *peer, const struct cdm_error *why)
{
	for (size_t i = 0; node->dialer && i < node->dialer->count; i++) {
		struct dial *p = node->dialer->dials[i];
		bool ours = p->link == l;
		if (ours)
			p->link = NULL;
		if (ours && (why->number == ENOSPC || why->number == EDQUOT))
			p->backoff_ms = FULL_RETRY_MS;
		if (ours && !link_find_up(node, p->name))
			dial_failed(p, why);
		else if (strcmp(p->name, peer) == 0)
			dial_later(p);
	}
	if (node->dialer)
		drop_unwanted(node);
	route_link_gone(node);
}

const char *dialer_why(const struct node *node, const char *peer)
{
	const struct dial *p = dial_find(node, peer);
	return p && p->failed ? p->why : NULL;
}

int dialer_new(struct node *node)
{
	node->dialer = calloc(1, sizeof *node->dialer);
	return node->dialer ? 0 : -ENOMEM;
}

void dialer_free(struct node *node)
{
	struct dialer *d = node->dialer;
	node->dialer = NULL;
	for (size_t i = 0; d && i < d->count; i++)
		dial_free(d->dials[i]);
	if (d)
		free(d->dials);
	free(d);
}

/* --- listening --- */

struct listener {
	struct node *node;
	int fd;
	uint16_t port;
	struct cdm_io *accept_io;
	struct cdm_timer *retry;
	bool ending;
};

static void accept_next(void *arg);

static bool same_address(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
	if (a->ss_family != b->ss_family)
		return false;
	if (a->ss_family == AF_INET)
		return ((const struct sockaddr_in *)a)->sin_addr.s_addr == ((const struct sockaddr_in *)b)->sin_addr.s_addr;
	return memcmp(&((const struct sockaddr_in6 *)a)->sin6_addr, &((const struct sockaddr_in6 *)b)->sin6_addr, 16) == 0;
}

static bool may_accept(const struct node *node, const struct sockaddr_storage *from)
{
	size_t half_open = 0, from_there = 0;
	for (size_t i = 0; i < node->link_count; i++) {
		if (!link_is_half_open(node->links[i]))
			continue;
		half_open++;
		from_there += same_address(from, link_from(node->links[i]));
	}
	return half_open < HALF_OPEN_MAX && from_there < HALF_OPEN_PER_ADDRESS;
}

static void accepted(void *arg, int result)
{
	struct listener *s = arg;
	s->accept_io = NULL;
	if (s->ending) {
		if (result >= 0)
			close(result);
		close(s->fd);
		free(s);
		return;
	}
	if (result < 0) {
		struct cdm_error err;
		cdm_fail(&err, -result, "accept a connection");
		cdm_log_err(accept_failed, &err);
		s->retry = cdm_loop_after(s->node->loop, ACCEPT_RETRY_MS, accept_next, s);
		return;
	}
	struct sockaddr_storage from = {0};
	socklen_t len = sizeof from;
	if (getpeername(result, (struct sockaddr *)&from, &len) < 0 || !may_accept(s->node, &from))
		close(result); /* gone again, or too many that have not said who they are */
	else
		link_accept(s->node, result, &from);
	accept_next(s);
}

static void accept_next(void *arg)
{
	struct listener *s = arg;
	s->retry = NULL;
	s->accept_io = cdm_loop_accept(s->node->loop, s->fd, accepted, s);
}

static int listen_on(const char *text, int *ret_fd, struct cdm_error *err)
{
	char host[256], port[16];
	struct addrinfo *found = NULL, hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
	int r = conn_split_address(text, host, port, err);
	if (r < 0)
		return r;
	int failed = getaddrinfo(strcmp(host, "*") == 0 ? NULL : host, port, &hints, &found);
	if (failed)
		return cdm_fail_plain(err, EINVAL, "listen on %s: %s", text, gai_strerror(failed));
	_cleanup_close_ int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int one = 1;
	if (fd < 0)
		r = cdm_fail(err, errno, "make a socket");
	else if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0 ||
		/* The socket of one that was killed lives until the kernel has ended its ring. (That two run is seen at the control socket.) */
		setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one) < 0 ||
		bind(fd, found->ai_addr, found->ai_addrlen) < 0 || listen(fd, 256) < 0)
		r = cdm_fail(err, errno, "listen on %s", text);
	freeaddrinfo(found);
	if (r < 0) {
		cdm_hint(err, "see `listen` in the [node] section of the configuration");
		return r;
	}
	*ret_fd = cdm_take_fd(&fd);
	return 0;
}

int listener_new(struct node *node, struct cdm_error *err)
{
	struct listener *s = calloc(1, sizeof *s);
	if (!s)
		return cdm_fail(err, ENOMEM, "listen");
	int r = listen_on(node->conf->listen, &s->fd, err);
	if (r < 0) {
		free(s);
		return r;
	}
	struct sockaddr_storage own;
	socklen_t len = sizeof own;
	getsockname(s->fd, (struct sockaddr *)&own, &len);
	s->port = ntohs(own.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&own)->sin6_port : ((struct sockaddr_in *)&own)->sin_port);
	s->node = node;
	node->listener = s;
	accept_next(s);
	return 0;
}

uint16_t listener_port(const struct node *node)
{
	return node->listener ? node->listener->port : 0;
}

void listener_free(struct node *node)
{
	struct listener *s = node->listener;
	node->listener = NULL;
	if (!s)
		return;
	s->ending = true;
	cdm_timer_cancel(&s->retry);
	if (s->accept_io) {
		cdm_loop_cancel(node->loop, s->accept_io);
		return; /* freed when it has ended */
	}
	close(s->fd);
	free(s);
}
