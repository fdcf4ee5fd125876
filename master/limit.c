/* SPDX-License-Identifier: Apache-2.0 */
#include "master/limit.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define DAY 1440 /* minutes */
#define WEEK (7 * DAY)
#define RATE_MOST 1e12
#define ENTRIES_MOST 14 /* of one window: each day, cut at the end of the week */

static const char *const days[7] = {"mon", "tue", "wed", "thu", "fri", "sat", "sun"};

/* --- rates ------------------------------------------------------------------------------------------------------ */

static const struct {
	const char *name;
	int64_t bytes;
} units[] = {{"gbit", 125000000}, {"mbit", 125000}, {"kbit", 125}, {"GB/s", 1000000000}, {"MB/s", 1000000}, {"kB/s", 1000}};

int limit_parse_rate(const char *text, int64_t *ret, struct cdm_error *err)
{
	char *unit;
	double n = text[0] >= '0' && text[0] <= '9' ? strtod(text, &unit) : -1;
	if (strcmp(text, "none") == 0) {
		*ret = 0;
		return 0;
	}
	if (n > 0 && unit != text + strspn(text, "0123456789.")) /* 0x10, 1e3 */
		n = -1;
	for (size_t i = 0; n > 0 && i < sizeof units / sizeof units[0]; i++) {
		if (strcmp(unit, units[i].name) != 0)
			continue;
		double bytes = n * (double)units[i].bytes;
		if (bytes < 1024 || bytes > RATE_MOST)
			break;
		*ret = (int64_t)(bytes + 0.5);
		return 0;
	}
	cdm_fail_plain(err, EINVAL, "\"%.40s\" is no bandwidth, or too small or too large", text);
	cdm_hint(err, "a number with kbit, mbit, gbit or kB/s, MB/s, GB/s, for example 100mbit; none for no limit; from 1024 bytes a second");
	return -EINVAL;
}

char *limit_format_rate(int64_t rate, char *out, size_t room)
{
	size_t u = 0;
	while (u < 2 && rate < units[u].bytes)
		u++;
	if (rate <= 0)
		snprintf(out, room, "none");
	else
		snprintf(out, room, "%.6g%s", (double)rate / (double)units[u].bytes, units[u].name);
	return out;
}

/* --- windows: reading ------------------------------------------------------------------------------------------- */

static int find_day(const char *name, size_t len)
{
	for (int d = 0; len == 3 && d < 7; d++)
		if (strncasecmp(days[d], name, 3) == 0)
			return d;
	return -1;
}

/* "fri", "sat-mon" of `len` bytes. */
static bool take_days(const char *word, size_t len, bool chosen[7])
{
	const char *dash = memchr(word, '-', len);
	int first = find_day(word, dash ? (size_t)(dash - word) : len);
	int last = dash ? find_day(dash + 1, len - (size_t)(dash + 1 - word)) : first;
	if (first < 0 || last < 0)
		return false;
	for (int d = first; chosen[d] = true, d != last;)
		d = (d + 1) % 7;
	return true;
}

static bool parse_days(const char *text, bool chosen[7])
{
	if (strcasecmp(text, "daily") == 0)
		return take_days("mon-sun", 7, chosen);
	for (;;) {
		size_t len = strcspn(text, ",");
		if (!take_days(text, len, chosen))
			return false;
		if (!text[len])
			return true;
		text += len + 1;
	}
}

/* One or two digits; -1. */
static int take_number(const char **text, int most)
{
	int n = -1;
	for (int digits = 0; digits < 2 && **text >= '0' && **text <= '9'; digits++)
		n = (n < 0 ? 0 : n * 10) + *(*text)++ - '0';
	return n <= most ? n : -1;
}

/* "8:00", "24:00": minutes of the day; -1. */
static int take_time(const char **text)
{
	int hours = take_number(text, 24);
	if (hours < 0 || **text != ':')
		return -1;
	++*text;
	int minutes = take_number(text, 59);
	return minutes < 0 || hours * 60 + minutes > DAY ? -1 : hours * 60 + minutes;
}

/* "08:00-18:00", "22:00-06:00Z"; the end is behind the begin, maybe on the next day. */
static bool parse_times(const char *text, int *from, int *to)
{
	*from = take_time(&text);
	if (*from < 0 || *from == DAY || *text++ != '-')
		return false;
	*to = take_time(&text);
	if (*to < 0 || *to == *from)
		return false;
	*to += *to < *from ? DAY : 0;
	return strcmp(text, "") == 0 || strcmp(text, "Z") == 0;
}

struct entry { int from, to; };

static int compare_entries(const void *a, const void *b)
{
	return ((const struct entry *)a)->from - ((const struct entry *)b)->from;
}

/* In the order of the week; what adjoins is one. */
static size_t make_entries(const bool chosen[7], int from, int to, struct entry out[ENTRIES_MOST])
{
	size_t n = 0, kept = 0;
	for (int d = 0; d < 7; d++) {
		int end = d * DAY + to;
		if (!chosen[d])
			continue;
		out[n++] = (struct entry){d * DAY + from, end < WEEK ? end : WEEK};
		if (end > WEEK)
			out[n++] = (struct entry){0, end - WEEK};
	}
	qsort(out, n, sizeof *out, compare_entries);
	for (size_t i = 1; i < n; i++) {
		if (out[i].from <= out[kept].to)
			out[kept].to = out[i].to;
		else
			out[++kept] = out[i];
	}
	return n ? kept + 1 : 0;
}

int limit_parse_window(const char *text, json_t *grid, struct cdm_error *err)
{
	char day_word[64] = "", second[64] = "", third[64] = "", more[2] = "";
	bool chosen[7] = {0};
	int from = 0, to = DAY;
	int64_t rate;
	struct entry entries[ENTRIES_MOST];
	int count = sscanf(text, "%63s %63s %63s %1s", day_word, second, third, more);
	if ((count != 2 && count != 3) || !parse_days(day_word, chosen) || (count == 3 && !parse_times(second, &from, &to))) {
		cdm_fail_plain(err, EINVAL, "\"%.80s\" is no window of the week with a rate", text);
		cdm_hint(err, "for example 'mon-fri 08:00-18:00 20mbit', 'sat,sun none', 'daily 22:00-06:00 1gbit'; times are UTC");
		return -EINVAL;
	}
	int r = limit_parse_rate(count == 3 ? third : second, &rate, err);
	if (r < 0)
		return r;
	size_t n = make_entries(chosen, from, to, entries);
	for (size_t i = 0; i < n; i++)
		json_array_append_new(grid, json_pack("{s:i, s:i, s:I}", "from", entries[i].from, "to", entries[i].to, "rate", (json_int_t)rate));
	return 0;
}

/* --- windows: showing ------------------------------------------------------------------------------------------- */

static int bounded(json_int_t n, int low, int high)
{
	return n < low ? low : n > high ? high : (int)n;
}

/* Whatever was answered, it is a part of the week. */
static struct entry entry_at(const json_t *grid, size_t i, int64_t *ret_rate)
{
	const json_t *e = json_array_get(grid, i);
	int from = bounded(json_integer_value(json_object_get(e, "from")), 0, WEEK - 1);
	*ret_rate = json_integer_value(json_object_get(e, "rate"));
	return (struct entry){from, bounded(json_integer_value(json_object_get(e, "to")), from + 1, WEEK)};
}

static const char *day_of(int minute)
{
	return days[minute / DAY % 7];
}

/* "mon-fri", "sat", "daily" */
static char *format_days(int first, int last, char *out, size_t room)
{
	snprintf(out, room, first == last ? "%s" : first == 0 && last == 6 ? "daily" : "%s-%s", days[first], days[last]);
	return out;
}

char *limit_format_window(const json_t *grid, size_t *at, char *out, size_t room)
{
	int64_t rate, next_rate;
	char rate_text[32], day_text[16];
	struct entry e = entry_at(grid, (*at)++, &rate), next;
	int length = e.to - e.from, first = e.from / DAY, last = first, begin = e.from % DAY, end = e.to % DAY;
	limit_format_rate(rate, rate_text, sizeof rate_text);
	if (length >= DAY && (begin || end)) { /* nobody types that */
		snprintf(out, room, "%s %02d:%02d to %s %02d:%02dZ %s", day_of(e.from), begin / 60, begin % 60, day_of(e.to), end / 60, end % 60, rate_text);
		return out;
	}
	for (; length <= DAY && last < 6 && *at < json_array_size(grid); last++, ++*at) {
		next = entry_at(grid, *at, &next_rate);
		if (next_rate != rate || next.from != e.from + (last + 1 - first) * DAY || next.to - next.from != length)
			break;
	}
	if (length > DAY)
		last = (e.to - 1) / DAY;
	end = end ? end : DAY;
	snprintf(out, room, "%s %02d:%02d-%02d:%02dZ %s", format_days(first, last, day_text, sizeof day_text), begin / 60, begin % 60, end / 60, end % 60,
		rate_text);
	return out;
}
