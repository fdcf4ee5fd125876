/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/resolve.h"

#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include "replicator/conn.h"

struct resolve {
	struct cdm_loop *loop;
	resolve_fn *done; /* NULL: cancelled */
	void *arg;
	char host[256], port[16];
	struct sockaddr_storage addr;
	socklen_t addr_len; /* 0: not found */
	struct cdm_error err;
};

static void deliver(void *arg)
{
	struct resolve *r = arg;
	if (r->done)
		r->done(r->arg, r->addr_len ? (const struct sockaddr *)&r->addr : NULL, r->addr_len, &r->err);
	free(r);
}

static bool look_up(struct resolve *r, int flags)
{
	struct addrinfo *found = NULL, hints = {.ai_socktype = SOCK_STREAM, .ai_flags = flags};
	int failed = getaddrinfo(r->host, r->port, &hints, &found);
	if (failed) {
		cdm_fail_plain(&r->err, EHOSTUNREACH, "look up %s: %s", r->host, gai_strerror(failed));
		return false;
	}
	memcpy(&r->addr, found->ai_addr, found->ai_addrlen);
	r->addr_len = found->ai_addrlen;
	freeaddrinfo(found);
	return true;
}

static void *thread_main(void *arg)
{
	struct resolve *r = arg;
	look_up(r, AI_ADDRCONFIG);
	cdm_loop_post(r->loop, deliver, r);
	return NULL;
}

static int start_thread(struct resolve *r)
{
	pthread_t thread;
	pthread_attr_t attr;
	sigset_t all, before;
	sigfillset(&all);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int failed = pthread_create(&thread, &attr, thread_main, r);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	return failed;
}

struct resolve *resolve_start(struct cdm_loop *loop, const char *address, resolve_fn *done, void *arg)
{
	struct resolve *r = calloc(1, sizeof *r);
	if (!r)
		abort();
	*r = (struct resolve){.loop = loop, .done = done, .arg = arg};
	if (conn_split_address(address, r->host, r->port, &r->err) < 0 || look_up(r, AI_NUMERICHOST)) {
		cdm_loop_post(loop, deliver, r);
		return r;
	}
	int failed = start_thread(r);
	if (failed) {
		cdm_fail(&r->err, failed, "start a thread to look up %s", r->host);
		cdm_loop_post(loop, deliver, r);
	}
	return r;
}

void resolve_cancel(struct resolve **r)
{
	if (*r)
		(*r)->done = NULL;
	*r = NULL;
}
