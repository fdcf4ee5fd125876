/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "replicator/control.h"
#include "replicator/view.h"

#define PEERS_MS 100

struct peers_file {
	struct peers_files *all;
	struct set *set;
	struct cdm_timer *timer;
	int64_t written_ms;
	char *last; /* what the file holds */
};

struct peers_files {
	struct node *node;
	struct peers_file **files;
	size_t count;
	struct state_watch watch;
};

struct listing {
	struct set *set;
	json_t *nodes;
};

static void add_node(void *arg, const struct peer_state *p)
{
	struct listing *l = arg;
	struct view_node v;
	view_of(l->set, p, &v);
	_cleanup_free_ char *visible = cdm_vector_format(p->visible), *durable = cdm_vector_format(p->durable);
	json_array_append_new(l->nodes, json_pack("{s:o, s:I, s:b, s:s, s:o, s:s, s:s}", "name", view_text(p->member->name), "number",
		(json_int_t)p->member->number, "self", p->self, "state", v.state, "reason", view_text(v.reason), "visible",
		visible ? visible : "", "durable", durable ? durable : ""));
}

/* In memory (RUN is a tmpfs): no sync, but never half a file either. */
static int replace(const char *dir, const char *text)
{
	_cleanup_close_ int dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dirfd < 0)
		return -errno;
	_cleanup_close_ int fd = openat(dirfd, "peers.new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	size_t len = strlen(text);
	if (fd < 0 || write(fd, text, len) != (ssize_t)len || renameat(dirfd, "peers.new", dirfd, "peers") < 0)
		return errno ? -errno : -EIO;
	return 0;
}

static void write_file(void *arg)
{
	struct peers_file *f = arg;
	struct listing l = {.set = f->set, .nodes = json_array()};
	char dir[4096];
	f->timer = NULL;
	f->written_ms = cdm_now_ms();
	state_each(f->all->node, f->set, add_node, &l);
	json_t *j = json_pack("{s:i, s:o}", "apiVersion", 1, "nodes", l.nodes);
	char *text = json_dumps(j, JSON_COMPACT);
	json_decref(j);
	snprintf(dir, sizeof dir, "%s/%s", f->all->node->conf->run, set_name(f->set));
	if (!text || (f->last && strcmp(text, f->last) == 0) || replace(dir, text) < 0) {
		free(text); /* a set that is not mounted has no directory there: nobody would read it */
		return;
	}
	free(f->last);
	f->last = text;
}

static struct peers_file *file_of(struct peers_files *p, struct set *set)
{
	for (size_t i = 0; i < p->count; i++)
		if (p->files[i]->set == set)
			return p->files[i];
	struct peers_file *f = calloc(1, sizeof *f);
	p->files = realloc(p->files, (p->count + 1) * sizeof *p->files);
	if (!f || !p->files)
		abort();
	f->all = p;
	f->set = set;
	return p->files[p->count++] = f;
}

static void set_changed(void *arg, struct set *set)
{
	struct peers_files *p = arg;
	struct peers_file *f = file_of(p, set);
	if (f->timer)
		return;
	int64_t wait = f->written_ms + PEERS_MS - cdm_now_ms();
	f->timer = cdm_loop_after(p->node->loop, wait > 0 ? wait : 0, write_file, f);
}

struct peers_files *peers_new(struct node *node)
{
	struct peers_files *p = calloc(1, sizeof *p);
	if (!p)
		abort();
	p->node = node;
	p->watch = (struct state_watch){.fn = set_changed, .arg = p};
	state_watch(node, &p->watch);
	return p;
}

void peers_free(struct peers_files **pp)
{
	struct peers_files *p = *pp;
	*pp = NULL;
	if (!p)
		return;
	state_unwatch(p->node, &p->watch);
	for (size_t i = 0; i < p->count; i++) {
		cdm_timer_cancel(&p->files[i]->timer);
		free(p->files[i]->last);
		free(p->files[i]);
	}
	free(p->files);
	free(p);
}
