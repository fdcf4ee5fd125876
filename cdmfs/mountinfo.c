/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include "cdmfs/mountinfo.h"

static int read_all(char **ret, struct cdm_error *err)
{
	_cleanup_close_ int fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
	_cleanup_free_ char *text = NULL;
	size_t len = 0, room = 0;

	if (fd < 0)
		return cdm_fail(err, errno, "open /proc/self/mountinfo");
	for (;;) {
		if (room - len < 4096) {
			room = room ? room * 2 : 16384;
			char *more = realloc(text, room);
			if (!more)
				return cdm_fail(err, ENOMEM, "read /proc/self/mountinfo");
			text = more;
		}
		ssize_t n = read(fd, text + len, room - len - 1);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return cdm_fail(err, errno, "read /proc/self/mountinfo");
		if (n == 0)
			break;
		len += (size_t)n;
	}
	text[len] = 0;
	*ret = text;
	text = NULL;
	return 0;
}

/* "\040" and its like become the byte they stand for. */
static void unescape(char *s)
{
	char *out = s;

	for (; *s; s++) {
		if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' && s[3] >= '0' && s[3] <= '7') {
			*out++ = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
			s += 3;
		} else {
			*out++ = *s;
		}
	}
	*out = 0;
}

/* One line: "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue" */
static bool parse_line(char *line, struct mount_entry *e)
{
	char *word[5], *save = NULL, *end;
	unsigned int major_number, minor_number;

	for (size_t i = 0; i < 5; i++)
		if (!(word[i] = strtok_r(i ? NULL : line, " ", &save)))
			return false;
	*e = (struct mount_entry){.id = (int)strtol(word[0], &end, 10), .parent = (int)strtol(word[1], NULL, 10)};
	if (*end || sscanf(word[2], "%u:%u", &major_number, &minor_number) != 2)
		return false;
	e->dev = makedev(major_number, minor_number);
	unescape(word[3]);
	unescape(word[4]);
	e->root = word[3];
	e->mountpoint = word[4];
	if (!strtok_r(NULL, " ", &save)) /* options of the mount */
		return false;
	for (;;) {
		char *field = strtok_r(NULL, " ", &save);
		if (!field)
			return false;
		if (strcmp(field, "-") == 0)
			break;
		if (strncmp(field, "shared:", 7) == 0)
			e->shared = true;
	}
	char *type = strtok_r(NULL, " ", &save), *source = strtok_r(NULL, " ", &save);
	if (!type)
		return false;
	unescape(type);
	e->type = type;
	if (source)
		unescape(source);
	e->source = source ? source : "";
	return true;
}

int mount_table_read(struct mount_table *ret, struct cdm_error *err)
{
	struct mount_table t = {0};
	char *next;
	int r = read_all(&t.text, err);

	if (r < 0)
		return r;
	for (char *line = t.text; line && *line; line = next) {
		next = strchr(line, '\n');
		if (next)
			*next++ = 0;
		if (t.count == t.room) {
			t.room = t.room ? t.room * 2 : 64;
			struct mount_entry *more = reallocarray(t.entries, t.room, sizeof(*more));
			if (!more) {
				mount_table_fini(&t);
				return cdm_fail(err, ENOMEM, "read /proc/self/mountinfo");
			}
			t.entries = more;
		}
		if (parse_line(line, &t.entries[t.count]))
			t.count++;
	}
	*ret = t;
	return 0;
}

void mount_table_fini(struct mount_table *t)
{
	free(t->entries);
	free(t->text);
	*t = (struct mount_table){0};
}

const struct mount_entry *mount_table_by_id(const struct mount_table *t, int id)
{
	for (size_t i = 0; i < t->count; i++)
		if (t->entries[i].id == id)
			return &t->entries[i];
	return NULL;
}

/* Is another mount stacked on this one at the same path? */
static bool is_covered(const struct mount_table *t, const struct mount_entry *e)
{
	for (size_t i = 0; i < t->count; i++)
		if (t->entries[i].parent == e->id && &t->entries[i] != e && strcmp(t->entries[i].mountpoint, e->mountpoint) == 0)
			return true;
	return false;
}

const struct mount_entry *mount_table_at(const struct mount_table *t, const char *path)
{
	for (size_t i = t->count; i-- > 0;)
		if (strcmp(t->entries[i].mountpoint, path) == 0 && !is_covered(t, &t->entries[i]))
			return &t->entries[i];
	return NULL;
}

const struct mount_entry *mount_table_of(const struct mount_table *t, const char *path)
{
	const struct mount_entry *best = NULL;

	for (size_t i = 0; i < t->count; i++) {
		const struct mount_entry *e = &t->entries[i];
		if (!path_is_beneath(path, e->mountpoint) || is_covered(t, e))
			continue;
		if (!best || strlen(e->mountpoint) >= strlen(best->mountpoint))
			best = e;
	}
	return best;
}

bool path_is_beneath(const char *path, const char *dir)
{
	size_t n = strlen(dir);

	if (n == 1 && dir[0] == '/')
		return true;
	return strncmp(path, dir, n) == 0 && (path[n] == 0 || path[n] == '/');
}
