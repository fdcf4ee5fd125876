/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/unsure_late.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "common/change.h"
#include "common/io.h"

#define DIRECTORY ".cdmfs"
#define FILE_NAME "late"
#define FILE_MAX (8u << 20)
#define ASKED "asked" /* numbers behind it, to the end of the line; then the paths */

void late_fini(struct late *l)
{
	bytes_fini(&l->paths);
	*l = (struct late){0};
}

void late_add_asked(struct late *l, uint32_t number)
{
	if (late_was_asked(l, number))
		return;
	if (l->asked_count == LATE_ASKED_MAX)
		memmove(l->asked, l->asked + 1, --l->asked_count * sizeof *l->asked);
	l->asked[l->asked_count++] = number;
}

bool late_was_asked(const struct late *l, uint32_t number)
{
	size_t i = 0;
	while (i < l->asked_count && l->asked[i] != number)
		i++;
	return i < l->asked_count;
}

void late_add_path(struct late *l, const char *path, size_t len)
{
	bytes_put(&l->paths, path, len);
	bytes_put(&l->paths, "", 1);
}

const char *late_next_path(const struct late *l, size_t *at)
{
	const char *path = *at < l->paths.len ? (const char *)l->paths.data + *at : NULL;
	*at += path ? strlen(path) + 1 : 0;
	return path;
}

static int parse(const char *text, size_t len, struct late *ret)
{
	const char *at = text + strlen(ASKED), *end = text + len; /* a NUL is behind it */
	if (len <= strlen(ASKED) || memcmp(text, ASKED, strlen(ASKED)) != 0 || end[-1])
		return -EBADMSG;
	while (*at == ' ') {
		char *behind;
		late_add_asked(ret, (uint32_t)strtoul(at + 1, &behind, 10));
		at = behind > at + 1 ? behind : end;
	}
	if (*at++ != '\n')
		return -EBADMSG;
	for (; at < end; at += strlen(at) + 1) {
		if (!*at || cdm_path_check(at, strlen(at)) < 0)
			return -EBADMSG;
		late_add_path(ret, at, strlen(at));
	}
	return 1;
}

int late_read(int store_fd, struct late *ret, struct cdm_error *err)
{
	_cleanup_free_ char *text = NULL;
	size_t len;
	int r = cdm_read_file(store_fd, DIRECTORY "/" FILE_NAME, FILE_MAX, &text, &len, NULL);
	if (r == -ENOENT)
		return 0;
	r = r < 0 ? r : parse(text, len, ret);
	if (r == 1)
		return 1;
	late_fini(ret);
	return cdm_fail(err, -r, "read " DIRECTORY "/" FILE_NAME " of the store");
}

int late_write(int store_fd, const struct late *l, struct cdm_error *err)
{
	struct bytes text = {0};
	_cleanup_close_ int dir = openat(store_fd, DIRECTORY, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0 || (!l->paths.len && unlinkat(dir, FILE_NAME, 0) < 0 && errno != ENOENT))
		return cdm_fail(err, errno, "write " DIRECTORY "/" FILE_NAME " of the store");
	if (!l->paths.len)
		return 0;
	bytes_put(&text, ASKED, strlen(ASKED));
	for (size_t i = 0; i < l->asked_count; i++) {
		char number[16];
		bytes_put(&text, number, (size_t)snprintf(number, sizeof number, " %" PRIu32, l->asked[i]));
	}
	bytes_put(&text, "\n", 1);
	bytes_put(&text, l->paths.data, l->paths.len);
	int r = cdm_replace_file(dir, FILE_NAME, text.data, text.len, 0600, err);
	bytes_fini(&text);
	return r;
}
