/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "cdmfs/stat.h"
#include "common/io.h"

/* Absolute, without links, "." and ".." in front of the last name; the last name itself may be a link or may not exist, and
 * neither need the directories above it. NULL: no memory, or a directory that cannot be looked at. */
static char *resolve(const char *path)
{
	const char *slash = strrchr(path, '/'), *last = slash ? slash + 1 : path;
	if (!*last || strcmp(last, ".") == 0 || strcmp(last, "..") == 0) {
		char *whole = realpath(path, NULL);
		if (whole || !slash || *last || slash == path)
			return whole;
	}
	if (!*last) { /* "gone/": as "gone" */
		_cleanup_free_ char *shorter = strndup(path, (size_t)(slash - path));
		return shorter ? resolve(shorter) : NULL;
	}
	_cleanup_free_ char *parent = slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
	if (!parent)
		return NULL;
	_cleanup_free_ char *above = realpath(parent, NULL);
	if (!above && errno == ENOENT && strcmp(parent, ".") != 0 && strcmp(parent, "/") != 0)
		above = resolve(parent);
	char *ret = NULL;
	if (!above || asprintf(&ret, "%s/%s", strcmp(above, "/") == 0 ? "" : above, last) < 0)
		return NULL;
	return ret;
}

/* What is behind `place` in path ("" = the place itself), or NULL when it is not in there. */
static const char *path_behind(const char *path, const char *place)
{
	_cleanup_free_ char *real = place ? realpath(place, NULL) : NULL;
	const char *dir = real ? real : place;
	size_t n = dir ? strlen(dir) : 0;
	if (n == 0 || strncmp(path, dir, n) != 0 || (path[n] && path[n] != '/'))
		return NULL;
	return path[n] ? path + n + 1 : path + n;
}

/* Where the holder says it is mounted now (RUN/SET/pids); may differ from the configuration. The caller frees. */
static char *live_mountpoint(const struct cdm_conf *conf, const char *set)
{
	_cleanup_free_ char *file = NULL, *text = NULL;
	size_t len = 0;
	if (asprintf(&file, "%s/%s/pids", conf->run, set) < 0 || cdm_read_file(AT_FDCWD, file, 65536, &text, &len, NULL) < 0)
		return NULL;
	json_t *object = json_loadb(text, len, 0, NULL);
	const char *mountpoint = stat_text(object, "mountpoint");
	char *ret = *mountpoint ? strdup(mountpoint) : NULL;
	json_decref(object);
	return ret;
}

static int find_path(const struct cdm_conf *conf, const char *subject, struct stat_target *ret, struct cdm_error *err)
{
	_cleanup_free_ char *path = resolve(subject);
	if (!path)
		return cdm_fail(err, errno, "%s", subject);
	const char *best = NULL;
	for (size_t i = 0; i < conf->set_count; i++) {
		const struct cdm_set_conf *set = &conf->sets[i];
		_cleanup_free_ char *live = live_mountpoint(conf, set->name);
		const char *places[] = {live, set->mountpoint, set->store};
		for (size_t k = 0; k < 3; k++) {
			const char *behind = path_behind(path, places[k]);
			if (behind && (!best || strlen(behind) < strlen(best))) {
				best = behind;
				ret->set = set;
			}
		}
	}
	if (!best) {
		cdm_fail_plain(err, ENOENT, "%s is not in any mount of this node", path);
		cdm_hint(err, "cdmfs-stat without arguments shows the sets; their stores and mountpoints are in %s", conf->path);
		return -ENOENT;
	}
	if (strcmp(best, ".cdmfs") == 0 || strncmp(best, ".cdmfs/", 7) == 0)
		return cdm_fail_plain(err, ENOENT, "%s is the store's own state and is never replicated", path);
	if (*best && !(ret->path = strdup(best)))
		return cdm_fail(err, ENOMEM, "%s", subject);
	return 0;
}

int stat_target_find(const struct cdm_conf *conf, const char *subject, struct stat_target *ret, struct cdm_error *err)
{
	struct stat st;
	*ret = (struct stat_target){0};
	if (!subject)
		return 0;
	struct cdm_error unknown = CDM_ERROR_INIT;
	ret->set = cdm_conf_set(conf, subject, &unknown);
	if (ret->set)
		return 0;
	if (strchr(subject, '/') || strcmp(subject, ".") == 0 || lstat(subject, &st) == 0)
		return find_path(conf, subject, ret, err);
	if (err)
		*err = unknown;
	return -ENOENT;
}

void stat_target_fini(struct stat_target *t)
{
	free(t->path);
	*t = (struct stat_target){0};
}
