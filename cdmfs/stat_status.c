/* SPDX-License-Identifier: Apache-2.0 */
/* The table of a set's nodes, once or at each change. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "cdmfs/stat.h"

enum { COLUMNS = 5 }; /* NODE STATE LAG PENDING WHY */
struct row {
	char cell[COLUMNS][320];
	enum stat_colour colour; /* of the state */
};

/* Targets that are meant to be up to date; a pure source has nothing to receive. */
static bool is_counted(const json_t *node)
{
	return json_is_true(json_object_get(node, "counted"));
}

static bool is_up_to_date(const json_t *node)
{
	const char *state = stat_text(node, "state");
	return strcmp(state, "source") == 0 || strcmp(state, "in sync") == 0;
}

static void format_pending(const json_t *node, char *out, size_t room)
{
	json_int_t changes = json_integer_value(json_object_get(node, "pending_changes"));
	json_int_t bytes = json_integer_value(json_object_get(node, "pending_bytes"));
	char count[32], size[32];
	out[0] = 0;
	if (changes > 0 || bytes > 0)
		snprintf(out, room, "%s / %s", stat_format_count((uint64_t)changes, count, sizeof count),
			stat_format_bytes((uint64_t)(bytes > 0 ? bytes : 0), size, sizeof size));
}

static void format_why(const json_t *node, char *out, size_t room)
{
	const char *reason = stat_text(node, "reason"), *code = stat_text(node, "reason_code");
	stat_escape(*reason ? reason : code, out, room);
	for (char *c = out; !*reason && *c; c++)
		if (*c == '_')
			*c = ' ';
}

static void fill_row(const json_t *node, struct row *row)
{
	const json_t *lag = json_object_get(node, "lag_s");
	const char *state = stat_text(node, "state");
	stat_escape(stat_text(node, "name"), row->cell[0], sizeof row->cell[0]);
	stat_escape(state, row->cell[1], sizeof row->cell[1]);
	if (json_is_number(lag))
		stat_format_duration(json_number_value(lag), row->cell[2], sizeof row->cell[2]);
	else
		strcpy(row->cell[2], "?");
	format_pending(node, row->cell[3], sizeof row->cell[3]);
	format_why(node, row->cell[4], sizeof row->cell[4]);
	row->colour = is_up_to_date(node) ? STAT_GREEN : !is_counted(node) ? STAT_PLAIN : strcmp(state, "down") == 0 ? STAT_RED : STAT_YELLOW;
}

/* Columns a text takes on the screen, near enough: one per character. */
static size_t text_width(const char *s)
{
	size_t n = 0;
	for (; *s; s++)
		n += ((unsigned char)*s & 0xc0) != 0x80;
	return n;
}

static void print_row(const struct row *row, const size_t width[COLUMNS])
{
	size_t last = COLUMNS - 1;
	while (last > 0 && !row->cell[last][0])
		last--;
	for (size_t c = 0; c <= last; c++) {
		if (c == 1)
			stat_colour_begin(row->colour);
		fputs(row->cell[c], stdout);
		if (c == 1)
			stat_colour_end(row->colour);
		if (c < last)
			printf("%*s", (int)(width[c] - text_width(row->cell[c])) + 2, "");
	}
	putchar('\n');
}

static void print_table(const struct row *rows, size_t count)
{
	size_t width[COLUMNS] = {0};
	for (size_t i = 0; i < count; i++)
		for (size_t c = 0; c < COLUMNS; c++)
			if (text_width(rows[i].cell[c]) > width[c])
				width[c] = text_width(rows[i].cell[c]);
	for (size_t i = 0; i < count; i++)
		print_row(&rows[i], width);
}

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
		t.counted += is_counted(node);
		t.good += is_counted(node) && is_up_to_date(node);
	}
	t.in_sync = o->node || o->group ? t.good == t.counted : json_is_true(json_object_get(status, "in_sync"));
	return t;
}

static int print_people(const struct stat_options *o, const json_t *status, const struct tally *t)
{
	const json_t *nodes = json_object_get(status, "nodes");
	struct row *rows = calloc(t->shown + 1, sizeof *rows);
	if (!rows)
		return -ENOMEM;
	static const char *const titles[COLUMNS] = {"NODE", "STATE", "LAG", "PENDING", "WHY"};
	for (size_t c = 0; c < COLUMNS; c++)
		strcpy(rows[0].cell[c], titles[c]);
	for (size_t i = 0, n = 0; i < json_array_size(nodes); i++)
		if (stat_is_asked(o, json_array_get(nodes, i)))
			fill_row(json_array_get(nodes, i), &rows[++n]);
	print_table(rows, t->shown + 1);
	free(rows);
	stat_print_open(json_object_get(status, "open"));
	enum stat_colour colour = t->in_sync ? STAT_GREEN : STAT_RED;
	fputs("set ", stdout);
	stat_put(stat_text(status, "set"));
	putchar(' ');
	stat_colour_begin(colour);
	fputs(t->in_sync ? "in sync" : "NOT IN SYNC", stdout);
	stat_colour_end(colour);
	printf(" (%zu of %zu)\n", t->good, t->counted);
	return 0;
}

/* Leave only the asked nodes in the answer. */
static void filter_json(const struct stat_options *o, json_t *status, const struct tally *t)
{
	json_t *nodes = json_object_get(status, "nodes");
	for (size_t i = json_array_size(nodes); i-- > 0;)
		if (!stat_is_asked(o, json_array_get(nodes, i)))
			json_array_remove(nodes, i);
	json_object_set_new(status, "in_sync", json_boolean(t->in_sync));
}

static int compare_names(const void *a, const void *b)
{
	return strverscmp(stat_text(*(json_t *const *)a, "name"), stat_text(*(json_t *const *)b, "name"));
}

/* n2 before n10. */
static void sort_nodes(json_t *status)
{
	json_t *nodes = json_object_get(status, "nodes"), *sorted = json_array();
	size_t count = json_array_size(nodes);
	json_t **list = calloc(count + 1, sizeof *list);
	for (size_t i = 0; list && i < count; i++)
		list[i] = json_array_get(nodes, i);
	if (list && count > 0) {
		qsort(list, count, sizeof *list, compare_names);
		for (size_t i = 0; i < count; i++)
			json_array_append(sorted, list[i]);
		json_object_set(status, "nodes", sorted);
	}
	free(list);
	json_decref(sorted);
}

int stat_show(const struct stat_options *o, json_t *status, struct cdm_error *err)
{
	sort_nodes(status);
	struct tally t = count_nodes(o, status);
	if (t.shown == 0 && (o->node || o->group)) {
		cdm_fail_plain(err, ENOENT, "set %s has no such node: %s%s%s%s", stat_text(status, "set"), o->node ? o->node : "",
			o->node && o->group ? " in " : "", o->group ? "group " : "", o->group ? o->group : "");
		cdm_hint(err, "cdmfs-stat %s shows all its nodes", stat_text(status, "set"));
		return -ENOENT;
	}
	if (o->json) {
		filter_json(o, status, &t);
		stat_print_json(status);
	} else if (print_people(o, status, &t) < 0) {
		return cdm_fail(err, ENOMEM, "show the status");
	}
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
