/* SPDX-License-Identifier: Apache-2.0 */
/* cdmctl section …: how links are used, and what they cost. */
#include <stdio.h>
#include <string.h>
#include "common/text.h"
#include "master/cdmctl.h"
#include "master/limit.h"

#define WINDOW_TEXT 80

/* --- costs ------------------------------------------------------------------------------------------------------ */

static uint64_t figure(const json_t *cost, const char *key)
{
	json_int_t n = answer_number(cost, key);
	return n > 0 ? (uint64_t)n : 0;
}

/* "310 MiB, saved 74 %"; rounded down, for nothing is sent as nothing. */
static void format_saved(uint64_t before, uint64_t after, char *out, size_t room)
{
	char bytes[32];
	int saved = before > after ? (int)(100 * (1 - (double)after / (double)before)) : 0;
	cdm_text_bytes(after, bytes, sizeof bytes);
	if (saved > 0)
		snprintf(out, room, "%s, saved %d %%", bytes, saved);
	else
		snprintf(out, room, "%s", bytes);
}

/* "sent 1.2 GiB as 310 MiB, saved 74 %"; "" when no node says it. */
static char *format_cost(const json_t *cost, char *out, size_t room)
{
	char bytes[32], saved[64];
	uint64_t offered = figure(cost, "offered_bytes"), wire = figure(cost, "wire_bytes");
	cdm_text_bytes(offered, bytes, sizeof bytes);
	format_saved(offered, wire, saved, sizeof saved);
	snprintf(out, room, !cost ? "" : offered ? "sent %s as %s" : "nothing sent", bytes, saved);
	return out;
}

void print_set_cost(const json_t *cost)
{
	char offered[32], deltas[32], saved[64];
	if (!figure(cost, "offered_bytes"))
		return;
	cdm_text_bytes(figure(cost, "offered_bytes"), offered, sizeof offered);
	cdm_text_bytes(figure(cost, "after_delta_bytes"), deltas, sizeof deltas);
	format_saved(figure(cost, "offered_bytes"), figure(cost, "sent_bytes"), saved, sizeof saved);
	printf("  cost     %s offered, %s after deltas, sent %s\n", offered, deltas, saved);
}

/* --- showing ---------------------------------------------------------------------------------------------------- */

static const char *on_or_off(const json_t *section, const char *key)
{
	return json_is_true(json_object_get(section, key)) ? "on" : "off";
}

static size_t count_windows(const json_t *grid)
{
	char text[WINDOW_TEXT];
	size_t count = 0;
	for (size_t at = 0; at < json_array_size(grid); count++)
		limit_format_window(grid, &at, text, sizeof text);
	return count;
}

int run_section_list(const struct command *c, const struct options *o)
{
	static const char *const titles[] = {"SECTION", "COMPRESSION", "ENCRYPTION", "DELTA", "LIMIT NOW", "WINDOWS", "COST"};
	int code;
	json_t *answer = master_call(o, "GET", "/sections", NULL, &code), *s;
	size_t i;
	if (!answer || o->json)
		return answer ? print_json(answer) : code;
	struct cdm_table *table = cdm_table_new(7, titles);
	json_array_foreach(json_object_get(answer, "sections"), i, s) {
		char compression[24], rate[32], windows[24], cost[160];
		snprintf(compression, sizeof compression, "%lld", (long long)answer_number(s, "compression"));
		snprintf(windows, sizeof windows, "%zu", count_windows(json_object_get(s, "grid")));
		const char *const cells[] = {answer_text(s, "name"), compression, on_or_off(s, "encryption"), on_or_off(s, "delta"),
			limit_format_rate(answer_number(s, "rate_now"), rate, sizeof rate), windows,
			format_cost(json_object_get(s, "cost"), cost, sizeof cost)};
		cdm_table_add(table, cells, NULL);
	}
	cdm_table_print(&table);
	json_decref(answer);
	return EXIT_GOOD;
}

static void print_section(const json_t *s)
{
	const json_t *grid = json_object_get(s, "grid");
	char text[160];
	printf("section %s: compression %lld, encryption %s, delta %s\n", answer_text(s, "name"), (long long)answer_number(s, "compression"),
		on_or_off(s, "encryption"), on_or_off(s, "delta"));
	printf("  limit    %s\n", limit_format_rate(answer_number(s, "rate"), text, sizeof text));
	for (size_t at = 0; at < json_array_size(grid);)
		printf("  limit at %s\n", limit_format_window(grid, &at, text, sizeof text));
	if (json_array_size(grid) > 0)
		printf("  now      %s\n", limit_format_rate(answer_number(s, "rate_now"), text, sizeof text));
	if (format_cost(json_object_get(s, "cost"), text, sizeof text)[0])
		printf("  cost     %s\n", text);
}

static json_t *get_section(const struct options *o, const char *name, int *code)
{
	char path[400];
	put_path(path, sizeof path, "/sections/", name, "");
	return master_call(o, "GET", path, NULL, code);
}

int run_section_show(const struct command *c, const struct options *o)
{
	int code;
	json_t *s = get_section(o, o->words[0], &code);
	if (!s || o->json)
		return s ? print_json(s) : code;
	print_section(s);
	json_decref(s);
	return EXIT_GOOD;
}

/* --- setting ---------------------------------------------------------------------------------------------------- */

static int take_switch(json_t *body, const char *key, const char *value)
{
	bool on = value && strcmp(value, "on") == 0;
	if (!value)
		return EXIT_GOOD;
	if (!on && strcmp(value, "off") != 0)
		return report_usage("on or off", "--%s %.40s is neither", key, value);
	json_object_set_new(body, key, json_boolean(on));
	return EXIT_GOOD;
}

static int take_compression(json_t *body, const char *value)
{
	if (!value)
		return EXIT_GOOD;
	if (value[0] < '0' || value[0] > '9' || value[1])
		return report_usage("0 (none) to 9 (most)", "--compression %.40s is no level", value);
	json_object_set_new(body, "compression", json_integer(value[0] - '0'));
	return EXIT_GOOD;
}

static int take_limit(json_t *body, const char *value)
{
	struct cdm_error err = CDM_ERROR_INIT;
	int64_t rate;
	if (!value)
		return EXIT_GOOD;
	if (limit_parse_rate(value, &rate, &err) < 0)
		return report_usage(err.hint, "--limit: %s", err.text);
	json_object_set_new(body, "rate", json_integer(rate));
	return EXIT_GOOD;
}

static int take_windows(json_t *body, const json_t *windows)
{
	struct cdm_error err = CDM_ERROR_INIT;
	json_t *grid = json_array(), *w;
	size_t i;
	if (windows)
		json_object_set(body, "grid", grid);
	json_decref(grid);
	if (json_array_size(windows) == 1 && strcmp(json_string_value(json_array_get(windows, 0)), "none") == 0)
		return EXIT_GOOD;
	json_array_foreach(windows, i, w)
		if (limit_parse_window(json_string_value(w), grid, &err) < 0)
			return report_usage(err.hint, "--limit-at: %s", err.text);
	return EXIT_GOOD;
}

/* What was given as the body of the change. */
static int section_body(const struct options *o, json_t *body)
{
	int code = take_compression(body, o->compression);
	if (code == EXIT_GOOD)
		code = take_switch(body, "encryption", o->encryption);
	if (code == EXIT_GOOD)
		code = take_switch(body, "delta", o->delta);
	if (code == EXIT_GOOD)
		code = take_limit(body, o->limit);
	if (code == EXIT_GOOD)
		code = take_windows(body, o->limit_at);
	if (code == EXIT_GOOD && json_object_size(body) == 0)
		code = report_usage("cdmctl section set --help", "section set: nothing to change");
	return code;
}

int run_section_set(const struct command *c, const struct options *o)
{
	char path[400], said[200];
	json_t *body = json_object();
	int code = section_body(o, body);
	if (code != EXIT_GOOD) {
		json_decref(body);
		return code;
	}
	put_path(path, sizeof path, "/sections/", o->words[0], "");
	snprintf(said, sizeof said, "section %.80s %s", o->words[0], o->dry_run ? "can be changed" : "changed; in force at once");
	return make_change(o, "PATCH", path, body, said);
}
