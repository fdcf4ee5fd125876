/* SPDX-License-Identifier: Apache-2.0 */
/* http.h — the HTTP side: http.c is the server (TLS, limits, bearer token, problems, event streams), http_api.c what it answers. */
#ifndef MASTER_HTTP_H
#define MASTER_HTTP_H

#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include "master/master.h"

#define HTTP_HEADERS_MAX (64 << 10)
#define HTTP_BODY_MAX (1 << 20)
#define HTTP_DEPTH_MAX 8

struct http_call { /* one request, from its arrival to its answer */
	struct master *master;
	struct evhttp_request *req; /* NULL: the client is gone */
	enum evhttp_cmd_type method;
	char address[64];
	char path[512];       /* decoded */
	const char *name;     /* what stands for NAME in the path, points into path */
	const char *account;  /* NULL: no token */
	bool dry;
	json_t *body;         /* of POST, PATCH; an object */
	struct evkeyvalq query;
	char idempotency[96]; /* key of a POST, or "" */
	uint64_t fingerprint; /* of method, path and body */
};
int http_start(struct master *m, struct http **ret, struct cdm_error *err);
void http_stop(struct http **h);

/* Each call is answered exactly once by one of these, which free it. body's reference is taken over. */
void http_answer(struct http_call *c, int status, json_t *body);
void http_problem(struct http_call *c, int status, const char *hint, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
void http_text(struct http_call *c, const char *type, const char *text, size_t len);
/* Turn the request into a stream of events; since: resume behind this id. */
void http_follow_news(struct http_call *c, uint64_t since);

/* http_api.c: finds and runs the handler. */
void http_dispatch(struct http_call *c);

#endif
