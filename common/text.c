/* SPDX-License-Identifier: Apache-2.0 */
#include "common/text.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CELL_MAX 400
#define YEARS_MAX 100

size_t cdm_text_shown(const char *text)
{
	const unsigned char *s = (const unsigned char *)text;
	if (*s < 0x80)
		return *s >= 0x20 && *s != 0x7f;
	size_t n = *s >= 0xf0 && *s < 0xf5 ? 4 : *s >= 0xe0 && *s < 0xf0 ? 3 : *s >= 0xc2 && *s < 0xe0 ? 2 : 0;
	for (size_t i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	bool c1 = n == 2 && s[0] == 0xc2 && s[1] < 0xa0;
	bool overlong = (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xf0 && s[1] < 0x90);
	bool outside = (s[0] == 0xed && s[1] >= 0xa0) || (s[0] == 0xf4 && s[1] >= 0x90);
	bool turns = n == 3 && s[0] == 0xe2 && ((s[1] == 0x80 && s[2] >= 0xaa && s[2] <= 0xae) || (s[1] == 0x81 && s[2] >= 0xa6 && s[2] <= 0xa9));
	return c1 || overlong || outside || turns ? 0 : n; /* `turns`: marks that reverse what follows on the screen */
}

char *cdm_text_escape(const char *s, char *out, size_t room)
{
	size_t used = 0;
	while (*s) {
		size_t n = cdm_text_shown(s);
		if (used + (n ? n : 4) >= room)
			break;
		if (n)
			memcpy(out + used, s, n);
		else
			snprintf(out + used, room - used, "\\x%02x", (unsigned char)*s);
		used += n ? n : 4;
		s += n ? n : 1;
	}
	out[used] = 0;
	return out;
}

void cdm_text_put(const char *s)
{
	while (*s) {
		size_t n = cdm_text_shown(s);
		if (n)
			fwrite(s, 1, n, stdout);
		else
			printf("\\x%02x", (unsigned char)*s);
		s += n ? n : 1;
	}
}

char *cdm_text_count(uint64_t n, char *out, size_t room)
{
	char digits[24];
	size_t len = (size_t)snprintf(digits, sizeof digits, "%" PRIu64, n), used = 0;
	for (size_t i = 0; i < len && used + 2 < room; i++) {
		if (i > 0 && (len - i) % 3 == 0)
			out[used++] = ',';
		out[used++] = digits[i];
	}
	out[used] = 0;
	return out;
}

char *cdm_text_bytes(uint64_t n, char *out, size_t room)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	double value = (double)n;
	size_t unit = 0;
	for (; value >= 1023.95 && unit < 6; unit++)
		value /= 1024;
	int decimals = unit > 0 && value < 9.95 && value - (double)(uint64_t)value >= 0.05;
	snprintf(out, room, "%.*f %s", decimals, value, units[unit]);
	return out;
}

char *cdm_text_duration(double seconds, char *out, size_t room)
{
	if (seconds < 0.005)
		snprintf(out, room, "0 s");
	else if (seconds < 1)
		snprintf(out, room, "%.2f s", seconds);
	else if (seconds < 9.95)
		snprintf(out, room, "%.1f s", seconds);
	else if (seconds < 120)
		snprintf(out, room, "%.0f s", seconds);
	else if (seconds < 7200)
		snprintf(out, room, "%.0f min", seconds / 60);
	else if (seconds < 48 * 3600)
		snprintf(out, room, "%.0f h", seconds / 3600);
	else
		snprintf(out, room, "%.0f d", seconds / 86400);
	return out;
}

/* Time of day by `clock`, behind the date when it is another day than today. Returns its length. */
static size_t put_time(time_t second, const char *clock, char *out, size_t room)
{
	time_t now = time(NULL);
	struct tm then = {0}, today = {0};
	gmtime_r(&second, &then);
	gmtime_r(&now, &today);
	bool same_day = then.tm_year == today.tm_year && then.tm_yday == today.tm_yday;
	size_t n = same_day ? 0 : strftime(out, room, "%Y-%m-%d ", &then);
	return n + strftime(out + n, room - n, clock, &then);
}

char *cdm_text_time(int64_t ns, char *out, size_t room)
{
	int ms = (int)(ns % 1000000000 / 1000000);
	size_t n = put_time((time_t)(ns / 1000000000), "%H:%M:%S", out, room);
	snprintf(out + n, room - n, ".%03dZ", ms < 0 ? 0 : ms);
	return out;
}

char *cdm_text_minute(int64_t seconds, char *out, size_t room)
{
	put_time((time_t)seconds, "%H:%MZ", out, room);
	return out;
}

int64_t cdm_text_to_seconds(const char *text)
{
	static const struct {
		char unit;
		int64_t seconds;
	} units[] = {{0, 1}, {'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}};
	char *end;
	errno = 0;
	long long n = strtoll(text, &end, 10);
	if (errno || end == text || n < 1 || n > YEARS_MAX * 366ll * 86400 || (*end && end[1]))
		return -1;
	for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
		if (units[i].unit == *end)
			return n <= YEARS_MAX * 366ll * 86400 / units[i].seconds ? n * units[i].seconds : -1;
	return -1;
}

/* --- tables --- */

struct row {
	const char *paint;
	char **cells;
};
struct cdm_table {
	size_t columns, count;
	struct row *rows;
};

static void *must(void *p)
{
	if (!p)
		abort();
	return p;
}

void cdm_table_add(struct cdm_table *t, const char *const cells[], const char *paint)
{
	char shown[CELL_MAX];
	t->rows = must(realloc(t->rows, (t->count + 1) * sizeof *t->rows));
	struct row *row = &t->rows[t->count++];
	*row = (struct row){.paint = paint, .cells = must(calloc(t->columns, sizeof *row->cells))};
	for (size_t c = 0; c < t->columns; c++)
		row->cells[c] = must(strdup(cdm_text_escape(cells[c], shown, sizeof shown)));
}

struct cdm_table *cdm_table_new(size_t columns, const char *const titles[])
{
	struct cdm_table *t = must(calloc(1, sizeof *t));
	t->columns = columns;
	cdm_table_add(t, titles, NULL);
	return t;
}

/* Columns a text takes on the screen, near enough: one per character. */
static size_t text_width(const char *s)
{
	size_t n = 0;
	for (; *s; s++)
		n += ((unsigned char)*s & 0xc0) != 0x80;
	return n;
}

static void print_row(const struct row *row, const size_t *width, size_t last)
{
	while (last > 0 && !row->cells[last][0])
		last--;
	for (size_t c = 0; c <= last; c++) {
		const char *paint = c == 1 ? row->paint : NULL;
		printf("%s%s%s", paint ? paint : "", row->cells[c], paint ? "\033[0m" : "");
		if (c < last)
			printf("%*s", (int)(width[c] - text_width(row->cells[c])) + 2, "");
	}
	putchar('\n');
}

void cdm_table_print(struct cdm_table **pt)
{
	struct cdm_table *t = *pt;
	*pt = NULL;
	size_t *width = must(calloc(t->columns, sizeof *width));
	for (size_t i = 0; i < t->count; i++)
		for (size_t c = 0; c < t->columns; c++)
			if (text_width(t->rows[i].cells[c]) > width[c])
				width[c] = text_width(t->rows[i].cells[c]);
	for (size_t i = 0; i < t->count; i++) {
		print_row(&t->rows[i], width, t->columns - 1);
		for (size_t c = 0; c < t->columns; c++)
			free(t->rows[i].cells[c]);
		free(t->rows[i].cells);
	}
	free(width);
	free(t->rows);
	free(t);
}
