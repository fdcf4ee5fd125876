/* SPDX-License-Identifier: Apache-2.0 */
/* The table of a set's nodes, once or at each change. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "cdmfs/stat.h"

struct tally {
	size_t shown, counted, good;
	bool in_sync;
};

static struct tally count_nodes(const struct stat_options *o, const json_t *status)
{
	const json_t *nodes = json_object_get(status, "nodes");
	struct tally t = {0};
	for (size_t i = 0; i < json_array_size(nodes); i++) {
		const json_t *node = json_array_get(nodes, i);
		if (!stat_is_asked(o, node))
			continue;
		t.shown++;
		t.counted += cdm_status_is_counted(node);
		t.good += cdm_status_is_counted(node) && cdm_status_is_good(node);
	}
	t.in_sync = o->node || o->group ? t.good == t.counted : json_is_true(json_object_get(status, "in_sync"));
	return t;
}

/* Leave only the asked nodes in the answer. */
static void leave_asked(const struct stat_options *o, json_t *status, const struct tally *t)
{
	json_t *nodes = json_object_get(status, "nodes");
	for (size_t i = json_array_size(nodes); i-- > 0;)
		if (!stat_is_asked(o, json_array_get(nodes, i)))
			json_array_remove(nodes, i);
	json_object_set_new(status, "in_sync", json_boolean(t->in_sync));
}

int stat_show(const struct stat_options *o, json_t *status, struct cdm_error *err)
{
	cdm_status_sort(json_object_get(status, "nodes"), "name");
	struct tally t = count_nodes(o, status);
	if (t.shown == 0 && (o->node || o->group)) {
		cdm_fail_plain(err, ENOENT, "set %s has no node%s%s%s%s", stat_text(status, "set"), o->node ? " " : "", o->node ? o->node : "",
			o->group ? " in group " : "", o->group ? o->group : "");
		cdm_hint(err, "cdmfs-stat %s shows all its nodes", stat_text(status, "set"));
		return -ENOENT;
	}
	leave_asked(o, status, &t);
	if (o->json)
		stat_print_json(status);
	else
		cdm_status_print(status);
	return t.in_sync ? 0 : 1;
}

int stat_status(const struct cdm_conf *conf, const struct stat_options *o, const json_t *sets, struct cdm_error *err)
{
	struct stat_client c;
	bool in_sync = true;
	int r = stat_client_open(conf, &c, err);
	if (r < 0)
		return r;
	for (size_t i = 0; r >= 0 && i < json_array_size(sets); i++) {
		json_t *status = NULL;
		r = stat_client_ask(&c, stat_request("status", json_string_value(json_array_get(sets, i)), NULL), &status, err);
		if (r < 0)
			break;
		if (i > 0 && !o->json)
			putchar('\n');
		r = stat_show(o, status, err);
		in_sync = in_sync && r == 0;
		json_decref(status);
	}
	stat_client_close(&c);
	return r < 0 ? r : in_sync ? STAT_GOOD : STAT_NOT_IN_SYNC;
}

/* --- --watch: one connection per set, the last status of each --- */

struct watched {
	struct stat_client client;
	json_t *last;
};

static int redraw(const struct stat_options *o, const struct watched *sets, size_t count, struct cdm_error *err)
{
	if (isatty(STDOUT_FILENO))
		fputs("\033[H\033[2J", stdout);
	for (size_t i = 0; i < count; i++) {
		if (!sets[i].last)
			continue;
		int r = stat_show(o, sets[i].last, err);
		if (r < 0)
			return r;
		putchar('\n');
	}
	return 0;
}

static int take_update(const struct stat_options *o, struct watched *w, struct cdm_error *err)
{
	json_decref(w->last);
	w->last = NULL;
	int r = stat_client_read(&w->client, -1, &w->last, err);
	if (r == 0 && o->json)
		r = stat_show(o, w->last, err);
	return r;
}

static int watch_all(const struct stat_options *o, struct watched *sets, size_t count, struct cdm_error *err)
{
	struct pollfd *fds = calloc(count, sizeof *fds);
	int r = fds ? 0 : cdm_fail(err, ENOMEM, "watch");
	while (r >= 0) {
		for (size_t i = 0; i < count; i++)
			fds[i] = (struct pollfd){.fd = sets[i].client.fd, .events = POLLIN};
		if (poll(fds, count, -1) < 0 && errno != EINTR)
			r = cdm_fail(err, errno, "watch");
		for (size_t i = 0; r >= 0 && i < count; i++)
			if (fds[i].revents)
				r = take_update(o, &sets[i], err);
		if (r >= 0 && !o->json)
			r = redraw(o, sets, count, err);
		if (fflush(stdout) != 0 && r >= 0)
			r = cdm_fail(err, errno, "write");
	}
	free(fds);
	return r;
}

int stat_watch(const struct cdm_conf *conf, const struct stat_options *o, const json_t *sets, struct cdm_error *err)
{
	size_t count = json_array_size(sets), opened = 0;
	struct watched *watched = calloc(count, sizeof *watched);
	int r = watched ? 0 : cdm_fail(err, ENOMEM, "watch");
	for (; r >= 0 && opened < count; opened++) {
		r = stat_client_open(conf, &watched[opened].client, err);
		if (r < 0)
			break;
		r = stat_client_send(&watched[opened].client, stat_request("watch", json_string_value(json_array_get(sets, opened)), NULL), err);
	}
	if (r >= 0)
		r = watch_all(o, watched, count, err);
	for (size_t i = 0; i < opened; i++) {
		stat_client_close(&watched[i].client);
		json_decref(watched[i].last);
	}
	free(watched);
	return r;
}
