/* SPDX-License-Identifier: Apache-2.0 */
#include "common/loop.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

struct job {
	struct job *next;
	cdm_loop_fn *work, *done;
	void *arg;
};

struct cdm_worker {
	struct cdm_loop *loop; /* fixed */
	pthread_t thread;
	char name[16];

	pthread_mutex_t lock; /* the rest */
	pthread_cond_t wake;
	struct job *head, **tail;
	bool ending;
};

static struct job *job_take(struct cdm_worker *w)
{
	pthread_mutex_lock(&w->lock);
	while (!w->head && !w->ending)
		pthread_cond_wait(&w->wake, &w->lock);
	struct job *j = w->head;
	if (j) {
		w->head = j->next;
		if (!w->head)
			w->tail = &w->head;
	}
	pthread_mutex_unlock(&w->lock);
	return j;
}

static void *worker_main(void *arg)
{
	struct cdm_worker *w = arg;
	pthread_setname_np(pthread_self(), w->name);
	for (struct job *j; (j = job_take(w));) {
		j->work(j->arg);
		if (j->done)
			cdm_loop_post(w->loop, j->done, j->arg);
		free(j);
	}
	return NULL;
}

/* NULL when no thread can be had. Signals stay with the main thread. */
struct cdm_worker *cdm_worker_new(struct cdm_loop *loop, const char *name)
{
	struct cdm_worker *w = calloc(1, sizeof *w);
	if (!w)
		return NULL;
	w->loop = loop;
	w->tail = &w->head;
	snprintf(w->name, sizeof w->name, "%s", name);
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->wake, NULL);
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int r = pthread_create(&w->thread, NULL, worker_main, w);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r != 0) {
		pthread_cond_destroy(&w->wake);
		pthread_mutex_destroy(&w->lock);
		free(w);
		return NULL;
	}
	return w;
}

void cdm_worker_submit(struct cdm_worker *w, cdm_loop_fn *work, cdm_loop_fn *done, void *arg)
{
	struct job *j = calloc(1, sizeof *j);
	if (!j)
		abort();
	*j = (struct job){.work = work, .done = done, .arg = arg};
	pthread_mutex_lock(&w->lock);
	bool first = !w->head;
	*w->tail = j;
	w->tail = &j->next;
	if (first)
		pthread_cond_signal(&w->wake);
	pthread_mutex_unlock(&w->lock);
}

void cdm_worker_free(struct cdm_worker **pw)
{
	struct cdm_worker *w = *pw;
	*pw = NULL;
	if (!w)
		return;
	pthread_mutex_lock(&w->lock);
	w->ending = true;
	pthread_cond_signal(&w->wake);
	pthread_mutex_unlock(&w->lock);
	pthread_join(w->thread, NULL);
	pthread_cond_destroy(&w->wake);
	pthread_mutex_destroy(&w->lock);
	free(w);
}
