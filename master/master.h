/* SPDX-License-Identifier: Apache-2.0 */
/* master.h — what one running master is. Everything here belongs to the loop thread. */
#ifndef MASTER_MASTER_H
#define MASTER_MASTER_H

#include <event2/event.h>
#include "master/ca.h"
#include "master/registry.h"
#include "master/token.h"

struct adoptions;
struct agents;
struct http;
struct live;
struct news;
struct policy;

struct master_conf {
	char *dir;
	char *listen_api, *listen_agents; /* host:port; port 0: the kernel's choice */
	char *advertise;                  /* HOST[,HOST…]; NULL: the host's name, or the listening address if it is one */
	int64_t certificate_life_s;       /* of the nodes' certificates */
};
struct master {
	const struct master_conf *conf;
	struct event_base *base;
	struct registry *registry;
	struct ca *ca;
	struct live *live;
	struct policy *policy;
	struct agents *agents;
	struct http *http;
	struct news *news;
	struct adoptions *adoptions; /* adopt.c */
	struct token_limiter limiter;
	char *advertise; /* first advertised host */
	uint16_t api_port, agents_port;
	bool stopping;
};

int64_t master_now_ms(void); /* monotonic */
/* "2026-11-20T12:00:01Z" */
void master_format_time(int64_t unix_seconds, char out[32]);
/* Where nodes and people reach us: host:port (with [] around IPv6), https://host:port. */
void master_agents_address(const struct master *m, char out[300]);
void master_api_url(const struct master *m, char out[300]);
/* Bind and listen; host:port, [v6]:port. fd or -errno with what to do. *ret_port: the one in use. */
int master_listen(const char *host_port, uint16_t *ret_port, struct cdm_error *err);

/* news.c — what happened, for /events and the log table. */
struct news_item {
	uint64_t id;
	char *json; /* {"id","at","level","name","node","set","text"} */
};
typedef void news_fn(void *arg, const struct news_item *item);
struct news *news_new(struct master *m);
void news_free(struct news **n);
/* node and set may be NULL. Levels up to 5 are stored in the registry, too. */
void news_tell(struct news *n, int level, const char *name, const char *node, const char *set, const char *fmt, ...)
	__attribute__((format(printf, 6, 7)));
/* Called for every item after `since` that is still held, oldest first. */
void news_replay(const struct news *n, uint64_t since, news_fn *fn, void *arg);
/* Called for each new item until news_unfollow. */
struct news_follower *news_follow(struct news *n, news_fn *fn, void *arg);
void news_unfollow(struct news *n, struct news_follower **f);

/* join.c — one joining request, from either port. done is called once, now or later. */
typedef void join_done_fn(void *arg, int status, json_t *body /* borrowed */);
void join_start(struct master *m, const char *address, const char *body, size_t len, join_done_fn *done, void *arg);
/* problem+json of an error. */
json_t *problem_new(int status, const char *detail, const char *hint);
int problem_status(int error);

/* agent.c */
int agents_start(struct master *m, struct agents **ret, struct cdm_error *err);
void agents_stop(struct agents **a);
/* Send a routes document (text) to a node if it is connected and this is not what it was sent last. `same` hashes the document without its epoch. */
void agents_push(struct agents *a, uint32_t number, const char *text, size_t len, uint64_t same);
/* Any other message; takes the reference. A node that is not connected does not get it. */
void agents_send(struct agents *a, uint32_t number, json_t *message);
/* End the connection of a node that was revoked or removed. */
void agents_refuse(struct agents *a, uint32_t number, const char *why);
bool agents_is_connected(const struct agents *a, uint32_t number);
/* After each new model: connections of revoked, removed and re-joined nodes end. */
void agents_check(struct agents *a);

/* adopt.c — compares a node's tree with its parent's, there: to adopt it ("adopt"), or to find what was written past the mount ("rescan"), or begins to compare contents ("scrub").
 * adopt_start answers the call, now or when the node does. */
struct http_call;
struct model_node;
void adopt_start(struct http_call *c, const struct model_node *node, const char *set, const char *what);
void adopt_answered(struct master *m, uint32_t number, const json_t *msg);
void adopt_lost(struct master *m, uint32_t number); /* the node's connection */
void adopt_stop(struct master *m); /* before the HTTP side ends */

#endif
