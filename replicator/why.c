/* SPDX-License-Identifier: Apache-2.0 */
/* why.c — what there is to say about one path of a set on this node (internals.md 5, "why"). Loop thread. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>
#include "common/io.h"
#include "replicator/kept.h"
#include "replicator/quarantine.h"
#include "replicator/set_internal.h"
#include "replicator/view.h"

/* The change that carries a version is its SAVE; the version is named after the first write before it. */
static struct cdm_dot carrier_of(const struct set *s, struct cdm_dot version)
{
	const struct follow *f = &s->follow;
	uint64_t known = f->recent_head < RECENT_MAX ? f->recent_head : RECENT_MAX;
	for (uint64_t i = 0; i < known; i++) {
		const struct recent *r = &f->recent[(f->recent_head - 1 - i) % RECENT_MAX];
		if (cdm_dot_equal(r->version, version))
			return r->dot;
	}
	return version;
}

static void say(json_t *o, const char *state, const char *detail)
{
	json_object_set_new(o, "state", json_string(state));
	json_object_set_new(o, "detail", view_text(detail));
}

static bool is_path(const json_t *entry, const char *path, size_t len)
{
	_cleanup_free_ char *hex = view_hex(path, len);
	const char *text = json_string_value(json_object_get(entry, "path")), *bytes = json_string_value(json_object_get(entry, "path_hex"));
	return bytes ? strcmp(bytes, hex) == 0 : text && strlen(text) == len && memcmp(text, path, len) == 0;
}

static bool say_open(json_t *o, const json_t *open, const char *path, size_t len)
{
	size_t i;
	const json_t *entry = NULL;
	for (i = 0; i < json_array_size(open) && !entry; i++)
		if (is_path(json_array_get(open, i), path, len))
			entry = json_array_get(open, i);
	if (!entry)
		return false;
	json_int_t since = json_integer_value(json_object_get(entry, "since_ns"));
	time_t seconds = (time_t)(since / 1000000000);
	struct tm tm;
	char detail[64];
	gmtime_r(&seconds, &tm);
	size_t n = strftime(detail, sizeof detail, "%Y-%m-%d %H:%M:%S", &tm);
	snprintf(detail + n, sizeof detail - n, ".%03dZ", (int)(since % 1000000000 / 1000000));
	say(o, "open", detail);
	json_object_set_new(o, "since_ns", json_integer(since));
	return true;
}

/* It is not here: may that be because this node lacks something? */
static void say_absent(json_t *o, struct set *s)
{
	struct set_state now = {0};
	char text[400] = "";
	set_get_state(s, &now);
	if (now.reason[0] && strcmp(now.state, "ok") != 0)
		snprintf(text, sizeof text, "this node may lack changes: %s", now.reason);
	say(o, "absent", text);
}

static void add_version(json_t *o, const struct set *s, int fd, struct cdm_dot *ret_carrier)
{
	char proc[64], dot[64];
	uint8_t bytes[CDM_XATTR_VERSION_SIZE];
	struct cdm_stamp stamp;
	struct stat st;
	snprintf(proc, sizeof proc, "/proc/self/fd/%d", fd);
	ssize_t n = getxattr(proc, CDM_XATTR_VERSION, bytes, sizeof bytes);
	if (n <= 0 || cdm_stamp_decode(bytes, (size_t)n, &stamp) < 0 || cdm_dot_is_none(stamp.content.dot))
		return;
	cdm_dot_format(stamp.content.dot, dot);
	json_object_set_new(o, "version", json_string(dot));
	json_object_set_new(o, "version_name", view_version(s->node, (struct set *)s, stamp.content.dot));
	bool dated = stamp.content.clock != CDM_CLOCK_UNSURE || fstat(fd, &st) < 0;
	json_object_set_new(o, "saved_ns", json_integer(dated ? cdm_clock_to_ns(stamp.content.clock) : st.st_mtim.tv_sec * 1000000000ll + st.st_mtim.tv_nsec));
	*ret_carrier = carrier_of(s, stamp.content.dot);
}

/* With the id that cdmctl quarantine takes. */
static void say_set_aside(json_t *o, const struct set *s, const char *path, size_t len, const char *reason)
{
	char id[KEPT_ID_SIZE], detail[300];
	kept_id('Q', s->node->id->number, path, len, id);
	snprintf(detail, sizeof detail, "%s: %s", id, reason);
	say(o, "quarantined", detail);
}

json_t *set_why(struct set *s, const char *path, size_t len, const json_t *open, struct cdm_dot *ret_carrier)
{
	json_t *o = json_object();
	struct stat st;
	char reason[256];
	bool sound = cdm_path_check(path, len) == 0;
	_cleanup_close_ int fd = sound ? cdm_open_beneath(s->store_fd, path, len, O_PATH | O_NOFOLLOW, 0) : -1;
	bool exists = fd >= 0 && fstat(fd, &st) == 0;
	const char *exclude = cdm_filter_match(&s->policy.exclude, path, len), *local = cdm_filter_match(&s->policy.local, path, len);
	*ret_carrier = (struct cdm_dot){0};
	view_put_path(o, path, len);
	json_object_set_new(o, "exists", json_boolean(exists));
	json_object_set_new(o, "version", json_string(""));
	if (exists)
		json_object_set_new(o, "uid", json_integer(st.st_uid));
	if (exclude || local) {
		say(o, exclude ? "excluded" : "local", exclude ? exclude : local);
		return o;
	}
	if (exists && say_open(o, open, path, len))
		return o; /* the version in its stamp is not finished */
	if (exists)
		add_version(o, s, fd, ret_carrier);
	if (quarantine_find(s->quarantine, path, len, reason, sizeof reason))
		say_set_aside(o, s, path, len, reason);
	else if (exists)
		say(o, "shipped", "");
	else
		say_absent(o, s);
	return o;
}
