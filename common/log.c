/* SPDX-License-Identifier: Apache-2.0 */
#include "common/log.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "common/text.h"

static const struct {
	const char *name;
	int level;
} events[] = {
#define EVENT(name, level, keys, when) {#name, level},
#include "common/events.def"
#undef EVENT
};

static char identity[320];
static pthread_mutex_t repeat_lock = PTHREAD_MUTEX_INITIALIZER;
static char last_line[2048];
static time_t last_time;
static unsigned last_repeats;

static size_t put_quoted(char *out, size_t room, const char *s)
{
	static const char hex[] = "0123456789abcdef";
	size_t n = 0;
	if (room < 3)
		return 0;
	out[n++] = '"';
	while (*s && n + 6 < room) {
		unsigned char c = (unsigned char)*s;
		size_t shown = cdm_text_shown(s);
		if (c == '"' || c == '\\')
			out[n++] = '\\';
		if (shown) {
			memcpy(out + n, s, shown);
			n += shown;
		} else {
			out[n++] = '\\';
			out[n++] = 'x';
			out[n++] = hex[c >> 4];
			out[n++] = hex[c & 15];
		}
		s += shown ? shown : 1;
	}
	out[n++] = '"';
	return n;
}

static size_t put_kv(char *out, size_t room, const struct cdm_kv *kv)
{
	int n = snprintf(out, room, " %s=", kv->key);
	if (n < 0 || (size_t)n >= room)
		return 0;
	size_t used = (size_t)n;
	switch (kv->type) {
	case CDM_KV_STR:
		used += put_quoted(out + used, room - used, kv->s ? kv->s : "");
		break;
	case CDM_KV_INT:
		used += (size_t)snprintf(out + used, room - used, "%" PRId64, kv->i);
		break;
	case CDM_KV_UINT:
		used += (size_t)snprintf(out + used, room - used, "%" PRIu64, kv->u);
		break;
	}
	return used < room ? used : room - 1;
}

static void write_line(const char *line, size_t len)
{
	while (len > 0) {
		ssize_t n = write(STDERR_FILENO, line, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;
		line += n;
		len -= (size_t)n;
	}
}

/* True when this line equals the one before within a second; then it is only counted. */
static bool is_repeat(const char *line, size_t len)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	time_t now = ts.tv_sec;
	bool same = len < sizeof last_line && strlen(last_line) == len && memcmp(line, last_line, len) == 0;
	if (same && now - last_time < 1) {
		last_repeats++;
		return true;
	}
	if (last_repeats > 0) {
		char note[96];
		int n = snprintf(note, sizeof note, "<6>event=repeated count=%u\n", last_repeats);
		write_line(note, (size_t)n);
	}
	last_repeats = 0;
	last_time = now;
	if (len < sizeof last_line) {
		memcpy(last_line, line, len);
		last_line[len] = 0;
	} else {
		last_line[0] = 0;
	}
	return false;
}

void cdm_log_event(enum cdm_event ev, const struct cdm_error *err, const struct cdm_kv *kv)
{
	int saved = errno;
	char line[2048];
	size_t n = (size_t)snprintf(line, sizeof line, "<%d>event=%s%s", events[ev].level, events[ev].name, identity);
	for (; kv && kv->key && n < sizeof line - 16; kv++)
		n += put_kv(line + n, sizeof line - 2 - n, kv);
	if (err && err->number) {
		const char *name = strerrorname_np(err->number);
		n += put_kv(line + n, sizeof line - 2 - n, &cdm_str("errno", name ? name : "unknown"));
		n += put_kv(line + n, sizeof line - 2 - n, &cdm_str("msg", err->text));
		if (err->hint[0])
			n += put_kv(line + n, sizeof line - 2 - n, &cdm_str("hint", err->hint));
	}
	line[n++] = '\n';
	pthread_mutex_lock(&repeat_lock);
	if (!is_repeat(line, n))
		write_line(line, n);
	pthread_mutex_unlock(&repeat_lock);
	errno = saved;
}

void cdm_log_identity(const char *node, const char *set)
{
	size_t n = 0;
	identity[0] = 0;
	if (node)
		n = put_kv(identity, sizeof identity, &cdm_str("node", node));
	if (set)
		n += put_kv(identity + n, sizeof identity - n, &cdm_str("set", set));
	identity[n] = 0;
}

void cdm_debug(const char *fmt, ...)
{
	static int enabled = -1;
	if (enabled < 0)
		enabled = getenv("CDMFS_DEBUG") != NULL;
	if (!enabled)
		return;
	int saved = errno;
	char text[1024];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	cdm_log(debug, cdm_str("msg", text));
	errno = saved;
}
