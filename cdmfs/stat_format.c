/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "cdmfs/stat.h"

bool stat_has_colours(void)
{
	static int known = -1;
	if (known < 0) {
		const char *no = getenv("NO_COLOR"), *term = getenv("TERM");
		known = isatty(STDOUT_FILENO) && !(no && *no) && term && strcmp(term, "dumb") != 0;
	}
	return known;
}

void stat_colour_begin(enum stat_colour colour)
{
	static const char *const codes[] = {"", "\033[32m", "\033[33m", "\033[1;31m"};
	if (stat_has_colours())
		fputs(codes[colour], stdout);
}

void stat_colour_end(enum stat_colour colour)
{
	if (colour != STAT_PLAIN && stat_has_colours())
		fputs("\033[0m", stdout);
}

/* Bytes of the UTF-8 character at s that may be shown as it is; 0 = control character or no UTF-8. */
static size_t shown_as_is(const unsigned char *s)
{
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

char *stat_escape(const char *s, char *out, size_t room)
{
	size_t used = 0;
	while (*s) {
		size_t n = shown_as_is((const unsigned char *)s);
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

void stat_put(const char *s)
{
	while (*s) {
		size_t n = shown_as_is((const unsigned char *)s);
		if (n)
			fwrite(s, 1, n, stdout);
		else
			printf("\\x%02x", (unsigned char)*s);
		s += n ? n : 1;
	}
}

char *stat_format_count(uint64_t n, char *out, size_t room)
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

char *stat_format_bytes(uint64_t n, char *out, size_t room)
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

char *stat_format_duration(double seconds, char *out, size_t room)
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

char *stat_format_time(int64_t ns, char *out, size_t room)
{
	time_t second = (time_t)(ns / 1000000000), now = time(NULL);
	int ms = (int)(ns % 1000000000 / 1000000);
	struct tm then = {0}, today = {0};
	gmtime_r(&second, &then);
	gmtime_r(&now, &today);
	bool same_day = then.tm_year == today.tm_year && then.tm_yday == today.tm_yday;
	size_t n = strftime(out, room, same_day ? "%H:%M:%S" : "%Y-%m-%d %H:%M:%S", &then);
	snprintf(out + n, room - n, ".%03dZ", ms < 0 ? 0 : ms);
	return out;
}

void stat_print_open(const json_t *open)
{
	size_t count = json_array_size(open);
	if (!count)
		return;
	fputs("open for writing, not counted: ", stdout);
	for (size_t i = 0; i < count && i < 10; i++) {
		const json_t *one = json_array_get(open, i);
		const char *path = json_is_string(one) ? json_string_value(one) : stat_text(one, "path");
		int64_t since = json_integer_value(json_object_get(one, "since_ns"));
		char when[48];
		fputs(i ? ", " : "", stdout);
		stat_put(path);
		if (since > 0)
			printf(" (since %s)", stat_format_time(since, when, sizeof when));
	}
	if (count > 10)
		printf(" and %zu more", count - 10);
	putchar('\n');
}
