/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/opens.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#define ASK_MS 500
#define LIST_BYTES_MAX 65536 /* what getxattr can carry */
#define NAME "trusted.cdmfs.open"

struct opens_set {
	struct opens *all;
	struct set *set;
	char *path;                  /* RUN/SET/full */
	json_t *list;                /* the last answer */
	bool asked;                  /* the worker is at it */
	char *text;                  /* worker's while asked */
	struct opens_query *queries;
};

struct opens_query {
	struct opens_set *of;
	struct opens_query *next;
	opens_fn *done;
	void *arg;
	struct cdm_timer *timer;
};

struct opens {
	struct node *node;
	struct cdm_worker *worker;
	struct opens_set **sets;
	size_t count;
};

static void query_unlink(struct opens_query *q)
{
	for (struct opens_query **at = &q->of->queries; *at; at = &(*at)->next)
		if (*at == q) {
			*at = q->next;
			break;
		}
	cdm_timer_cancel(&q->timer);
}

static void query_answer(struct opens_query *q)
{
	opens_fn *done = q->done;
	void *arg = q->arg;
	json_t *list = json_incref(q->of->list);
	query_unlink(q);
	free(q);
	done(arg, list);
	json_decref(list);
}

static void query_timeout(void *arg)
{
	struct opens_query *q = arg;
	q->timer = NULL;
	query_answer(q);
}

static void ask_mount(void *arg)
{
	struct opens_set *s = arg;
	char *text = malloc(LIST_BYTES_MAX + 1);
	ssize_t n = text ? getxattr(s->path, NAME, text, LIST_BYTES_MAX) : -1;
	if (n < 0) { /* not mounted */
		free(text);
		text = NULL;
	} else {
		text[n] = 0;
	}
	s->text = text;
}

static void mount_answered(void *arg)
{
	struct opens_set *s = arg;
	json_t *list = s->text ? json_loads(s->text, 0, NULL) : NULL;
	free(s->text);
	s->text = NULL;
	s->asked = false;
	json_decref(s->list);
	if (!json_is_array(list)) {
		json_decref(list);
		list = json_array();
	}
	s->list = list;
	while (s->queries && !s->asked) /* one that asks again from its callback starts a new round */
		query_answer(s->queries);
}

static struct opens_set *set_of(struct node *node, struct set *set)
{
	struct opens *o = node->opens;
	for (size_t i = 0; i < o->count; i++)
		if (o->sets[i]->set == set)
			return o->sets[i];
	struct opens_set *s = calloc(1, sizeof *s);
	o->sets = realloc(o->sets, (o->count + 1) * sizeof *o->sets);
	if (!s || !o->sets || asprintf(&s->path, "%s/%s/full", node->conf->run, set_name(set)) < 0)
		abort();
	s->all = o;
	s->set = set;
	s->list = json_array();
	return o->sets[o->count++] = s;
}

struct opens_query *opens_ask(struct node *node, struct set *set, opens_fn *done, void *arg)
{
	struct opens_set *s = set_of(node, set);
	struct opens_query *q = calloc(1, sizeof *q);
	if (!q)
		abort();
	*q = (struct opens_query){.of = s, .next = s->queries, .done = done, .arg = arg};
	s->queries = q;
	q->timer = cdm_loop_after(node->loop, ASK_MS, query_timeout, q);
	opens_refresh(node, set);
	return q;
}

void opens_refresh(struct node *node, struct set *set)
{
	struct opens_set *s = set_of(node, set);
	if (s->asked)
		return;
	s->asked = true;
	cdm_worker_submit(node->opens->worker, ask_mount, mount_answered, s);
}

void opens_cancel(struct opens_query **pq)
{
	struct opens_query *q = *pq;
	*pq = NULL;
	if (!q)
		return;
	query_unlink(q);
	free(q);
}

size_t opens_known(struct node *node, struct set *set)
{
	return json_array_size(set_of(node, set)->list);
}

int opens_new(struct node *node)
{
	struct opens *o = calloc(1, sizeof *o);
	if (!o)
		return -ENOMEM;
	o->node = node;
	o->worker = cdm_worker_new(node->loop, "cdm-opens");
	if (!o->worker) {
		free(o);
		return -ENOMEM;
	}
	node->opens = o;
	return 0;
}

static void free_rest(void *arg)
{
	struct opens *o = arg;
	for (size_t i = 0; i < o->count; i++) {
		json_decref(o->sets[i]->list);
		free(o->sets[i]->path);
		free(o->sets[i]);
	}
	free(o->sets);
	free(o);
}

void opens_free(struct node *node)
{
	struct opens *o = node->opens;
	node->opens = NULL;
	if (!o)
		return;
	cdm_worker_free(&o->worker);
	for (size_t i = 0; i < o->count; i++)
		while (o->sets[i]->queries) {
			struct opens_query *q = o->sets[i]->queries;
			opens_cancel(&q);
		}
	cdm_loop_post(node->loop, free_rest, o); /* behind the worker's answers */
}
