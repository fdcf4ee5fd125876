/* SPDX-License-Identifier: Apache-2.0 */
#include "common/status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "common/text.h"

#define GREEN "\033[32m"
#define YELLOW "\033[33m"
#define RED "\033[1;31m"
#define PLAIN "\033[0m"

static const char *text_of(const json_t *object, const char *key)
{
	const char *s = json_string_value(json_object_get(object, key));
	return s ? s : "";
}

bool cdm_status_is_counted(const json_t *node)
{
	return json_is_true(json_object_get(node, "counted"));
}

bool cdm_status_is_good(const json_t *node)
{
	const char *state = text_of(node, "state");
	return strcmp(state, "source") == 0 || strcmp(state, "in sync") == 0;
}

static int compare(const void *a, const void *b, void *key)
{
	return strverscmp(text_of(*(json_t *const *)a, key), text_of(*(json_t *const *)b, key));
}

void cdm_status_sort(json_t *list, const char *key)
{
	size_t count = json_array_size(list);
	json_t **items = calloc(count + 1, sizeof(json_t *));
	if (!items)
		return;
	for (size_t i = 0; i < count; i++)
		items[i] = json_incref(json_array_get(list, i));
	qsort_r(items, count, sizeof *items, compare, (void *)key);
	json_array_clear(list);
	for (size_t i = 0; i < count; i++)
		json_array_append_new(list, items[i]);
	free(items);
}

bool cdm_status_has_colours(void)
{
	static int known = -1;
	if (known < 0) {
		const char *no = getenv("NO_COLOR"), *term = getenv("TERM");
		known = isatty(STDOUT_FILENO) && !(no && *no) && term && strcmp(term, "dumb") != 0;
	}
	return known;
}

static void format_pending(const json_t *node, char *out, size_t room)
{
	json_int_t changes = json_integer_value(json_object_get(node, "pending_changes"));
	json_int_t bytes = json_integer_value(json_object_get(node, "pending_bytes"));
	char count[32], size[32];
	out[0] = 0;
	if (changes > 0 || bytes > 0)
		snprintf(out, room, "%s / %s", cdm_text_count((uint64_t)changes, count, sizeof count),
			cdm_text_bytes((uint64_t)(bytes > 0 ? bytes : 0), size, sizeof size));
}

/* The reason, or its code as words. */
static void format_why(const json_t *node, char *out, size_t room)
{
	const char *reason = text_of(node, "reason"), *code = text_of(node, "reason_code");
	snprintf(out, room, "%s", *reason ? reason : code);
	for (char *c = out; !*reason && *c; c++)
		if (*c == '_')
			*c = ' ';
}

static const char *paint_of(const json_t *node)
{
	if (!cdm_status_has_colours())
		return NULL;
	if (cdm_status_is_good(node))
		return GREEN;
	return !cdm_status_is_counted(node) ? NULL : strcmp(text_of(node, "state"), "down") == 0 ? RED : YELLOW;
}

static void add_node(struct cdm_table *table, const json_t *node)
{
	const json_t *lag_s = json_object_get(node, "lag_s");
	char lag[32] = "?", pending[80], why[400];
	if (json_is_number(lag_s))
		cdm_text_duration(json_number_value(lag_s), lag, sizeof lag);
	format_pending(node, pending, sizeof pending);
	format_why(node, why, sizeof why);
	const char *const cells[] = {text_of(node, "name"), text_of(node, "state"), lag, pending, why};
	cdm_table_add(table, cells, paint_of(node));
}

void cdm_status_print(const json_t *status)
{
	static const char *const titles[] = {"NODE", "STATE", "LAG", "PENDING", "WHY"};
	struct cdm_table *table = cdm_table_new(5, titles);
	bool in_sync = json_is_true(json_object_get(status, "in_sync")), colours = cdm_status_has_colours();
	size_t i, counted = 0, good = 0;
	json_t *node;
	json_array_foreach(json_object_get(status, "nodes"), i, node) {
		counted += cdm_status_is_counted(node);
		good += cdm_status_is_counted(node) && cdm_status_is_good(node);
		add_node(table, node);
	}
	cdm_table_print(&table);
	if (!json_array_size(json_object_get(status, "nodes")))
		puts("(no nodes yet: cdmctl node token, cdmctl set change)");
	cdm_status_print_open(json_object_get(status, "open"));
	fputs("set ", stdout);
	cdm_text_put(text_of(status, "set"));
	printf(" %s%s%s (%zu of %zu)\n", !colours ? "" : in_sync ? GREEN : RED, in_sync ? "in sync" : "NOT IN SYNC", colours ? PLAIN : "", good, counted);
}

void cdm_status_print_open(const json_t *open)
{
	size_t count = json_array_size(open);
	if (!count)
		return;
	fputs("open for writing, not counted: ", stdout);
	for (size_t i = 0; i < count && i < 10; i++) {
		const json_t *one = json_array_get(open, i);
		const char *path = json_is_string(one) ? json_string_value(one) : text_of(one, "path");
		int64_t since = json_integer_value(json_object_get(one, "since_ns"));
		char when[48];
		fputs(i ? ", " : "", stdout);
		cdm_text_put(path);
		if (since > 0)
			printf(" (since %s)", cdm_text_time(since, when, sizeof when));
	}
	if (count > 10)
		printf(" and %zu more", count - 10);
	putchar('\n');
}
