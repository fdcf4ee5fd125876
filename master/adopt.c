/* SPDX-License-Identifier: Apache-2.0 */
/* Errands to a node: adopting a tree, looking for what was written past its mount, beginning to compare contents, deciding what it holds (docs/internals.md 4). The question goes to the node's
 * agent, its answer to the HTTP call that waits. */
#include <stdlib.h>
#include <string.h>
#include "master/http.h"
#include "master/live.h"

#define WAITING_MAX 32
#define PATIENCE_S 3600 /* a large tree takes its time */

struct adoption {
	struct adoption *next;
	uint64_t request;
	uint32_t number; /* the asked node's */
	struct http_call *call;
};
struct adoptions {
	struct adoption *list;
	uint64_t last_request;
	size_t count;
};

static struct adoptions *adoptions_of(struct master *m)
{
	if (!m->adoptions && !(m->adoptions = calloc(1, sizeof *m->adoptions)))
		abort();
	return m->adoptions;
}

/* Take the first that fits: a request's, or (0) any of a node's, or (0, 0) any. */
static struct http_call *take(struct master *m, uint64_t request, uint32_t number)
{
	struct adoptions *all = adoptions_of(m);
	for (struct adoption **at = &all->list; *at; at = &(*at)->next) {
		struct adoption *a = *at;
		if ((request && a->request != request) || (number && a->number != number))
			continue;
		struct http_call *call = a->call;
		*at = a->next;
		all->count--;
		free(a);
		return call;
	}
	return NULL;
}

void adopt_start(struct http_call *c, const struct model_node *node, const char *set, const char *what)
{
	struct master *m = c->master;
	struct adoptions *all = adoptions_of(m);
	struct adoption *a = all->count < WAITING_MAX ? calloc(1, sizeof *a) : NULL;
	if (!agents_is_connected(m->agents, node->number)) {
		http_problem(c, 409, "start its cdm-replicator: the comparison is made on that node", "node %s is not connected", node->name);
		free(a);
		return;
	}
	if (!a) {
		http_problem(c, 503, "try again when they are done", "%d trees are being compared already", WAITING_MAX);
		return;
	}
	*a = (struct adoption){.next = all->list, .request = ++all->last_request, .number = node->number, .call = c};
	all->list = a;
	all->count++;
	if (c->req)
		evhttp_connection_set_timeout(evhttp_request_get_connection(c->req), PATIENCE_S);
	json_t *j = json_pack("{s:s, s:i, s:I, s:s, s:b, s:b, s:O?, s:O*, s:O*, s:O*, s:O*, s:O*}", "type", what, "v", 1, "request", (json_int_t)a->request, "set", set, "dry_run", c->dry,
		"delete", json_is_true(json_object_get(c->body, "delete")), "store", json_object_get(c->body, "store"), "path", json_object_get(c->body, "path"), "hold", json_object_get(c->body, "hold"), "approve",
		json_object_get(c->body, "approve"), "action", json_object_get(c->body, "action"), "id", json_object_get(c->body, "id"));
	agents_send(m->agents, node->number, j);
}

void adopt_answered(struct master *m, uint32_t number, const json_t *msg)
{
	uint64_t request = (uint64_t)json_integer_value(json_object_get(msg, "request"));
	const char *error = json_string_value(json_object_get(msg, "error")), *hint = json_string_value(json_object_get(msg, "hint"));
	struct http_call *c = request ? take(m, request, number) : NULL;
	if (!c)
		return;
	if (error) {
		const struct model_node *n = model_node_number(registry_model(m->registry), number);
		http_problem(c, 409, hint ? hint : "", "%s: %s", n ? n->name : "the node", error);
		return;
	}
	json_t *answer = json_object(), *counts = json_object_get(msg, "result");
	json_object_set_new(answer, "dry_run", json_boolean(c->dry));
	json_object_update(answer, counts);
	http_answer(c, 200, answer);
}

void adopt_lost(struct master *m, uint32_t number)
{
	struct http_call *c;
	while ((c = take(m, 0, number)))
		http_problem(c, 503, "ask again when it is back", "the connection to the node was lost meanwhile");
}

void adopt_stop(struct master *m)
{
	struct http_call *c;
	while (m->adoptions && (c = take(m, 0, 0)))
		http_problem(c, 503, "ask again", "the master ends");
	free(m->adoptions);
	m->adoptions = NULL;
}
