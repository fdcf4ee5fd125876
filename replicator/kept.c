/* SPDX-License-Identifier: Apache-2.0 */
/* kept.c — what lies in STORE/.cdmfs/conflicts/ as people see it and decide about it (cdmctl conflict). The walker does the work. */
#include "replicator/kept.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <xxhash.h>
#include "common/change.h"
#include "common/io.h"
#include "replicator/set_internal.h"
#include "replicator/view.h"

#define SHOWN_MAX 500     /* in one answer: the newest */
#define SHORTENED_FROM 120 /* bytes of a path: of longer ones the name may tell only the end (cdmfs/op_remove.c) */

struct kept_file {
	char *name;
	char *path; /* NULL: its name does not tell all of it */
	struct cdm_dot version;
	struct stat st;
};

enum action { LIST, SHOW, TAKE, DROP };

struct errand {
	struct set *set;
	set_adopt_fn *done;
	void *arg;
	enum action action;
	char id[KEPT_ID_SIZE];
	bool dry, may_write;
	struct kept_file *files; /* newest first; with an id only that one */
	size_t count, room, all;
	struct cdm_error err;
};

void kept_id(char letter, uint32_t node, const char *name, size_t len, char out[KEPT_ID_SIZE])
{
	snprintf(out, KEPT_ID_SIZE, "%c%08" PRIx32, letter, (uint32_t)XXH3_64bits_withSeed(name, len, node));
}

/* --- what a file tells --- */

static void unescape(char *name)
{
	char *out = name;
	for (const char *in = name; *in; in++) {
		unsigned c;
		if (*in == '%' && sscanf(in + 1, "%2X", &c) == 1 && in[1] && in[2]) {
			*out++ = (char)c;
			in += 2;
		} else {
			*out++ = *in;
		}
	}
	*out = 0;
}

/* "dir%2Fname@1.1:77" as it was received, "dir%2Fname.1.1:77.0" as it was here. NULL: it was shortened, or is no such name. */
static char *path_in_name(const char *name)
{
	static const char *const forms[] = {"^(.*)@[0-9]+\\.[0-9]+:[0-9]+$", "^(.*)\\.[0-9]+\\.[0-9]+:[0-9]+\\.[0-9]+$", "^[0-9a-f]{16}-"};
	char *path = NULL;
	for (size_t i = 0; i < 3; i++) {
		regex_t re;
		regmatch_t m[2];
		if (regcomp(&re, forms[i], REG_EXTENDED) != 0)
			abort();
		bool fits = regexec(&re, name, 2, m, 0) == 0;
		regfree(&re);
		if (fits && i == 2) {
			free(path);
			return NULL;
		}
		if (fits && !path)
			path = strndup(name, (size_t)m[1].rm_eo);
	}
	if (path)
		unescape(path);
	if (path && strlen(path) >= SHORTENED_FROM) {
		free(path);
		path = NULL;
	}
	return path;
}

static char *path_of(int dir, const char *name)
{
	char at[64 + CDM_NAME_LEN_MAX], path[CDM_PATH_MAX + 1];
	snprintf(at, sizeof at, "/proc/self/fd/%d/%s", dir, name);
	ssize_t n = lgetxattr(at, CDM_XATTR_KEPT, path, CDM_PATH_MAX);
	char *found = n > 0 ? strndup(path, (size_t)n) : path_in_name(name);
	if (found && cdm_path_check(found, strlen(found)) < 0) {
		free(found);
		found = NULL;
	}
	return found;
}

static void add(struct errand *e, int dir, const char *name, const struct stat *st)
{
	struct cdm_stamp stamp = {0};
	if (e->count == e->room) {
		e->room = e->room ? 2 * e->room : 64;
		e->files = realloc(e->files, e->room * sizeof *e->files);
		if (!e->files)
			abort();
	}
	_cleanup_close_ int fd = S_ISREG(st->st_mode) ? openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK) : -1;
	if (fd >= 0 && cdm_stamp_get(fd, &stamp) < 0)
		stamp = (struct cdm_stamp){0};
	e->files[e->count++] = (struct kept_file){.name = strdup(name), .path = path_of(dir, name), .version = stamp.content.dot, .st = *st};
}

static void forget(struct kept_file *f)
{
	free(f->name);
	free(f->path);
}

static int newest_first(const void *a, const void *b)
{
	const struct timespec *x = &((const struct kept_file *)a)->st.st_ctim, *y = &((const struct kept_file *)b)->st.st_ctim;
	return x->tv_sec != y->tv_sec ? (x->tv_sec < y->tv_sec ? 1 : -1) : (x->tv_nsec < y->tv_nsec) - (x->tv_nsec > y->tv_nsec);
}

static bool is_wanted(const struct errand *e, const char *name)
{
	char id[KEPT_ID_SIZE];
	kept_id('C', e->set->node->id->number, name, strlen(name), id);
	return e->action == LIST || strcmp(e->id, id) == 0;
}

static int read_all(struct errand *e)
{
	int fd = openat(e->set->conflicts_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (!d) {
		int r = cdm_fail(&e->err, errno, "read .cdmfs/conflicts of the store");
		if (fd >= 0)
			close(fd);
		return r;
	}
	for (struct dirent *entry; (entry = readdir(d));) {
		struct stat st;
		if (is_wanted(e, entry->d_name) && fstatat(fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISDIR(st.st_mode))
			add(e, fd, entry->d_name, &st);
	}
	closedir(d);
	if (e->count)
		qsort(e->files, e->count, sizeof *e->files, newest_first);
	e->all = e->count;
	while (e->count > SHOWN_MAX)
		forget(&e->files[--e->count]);
	return 0;
}

/* --- taking --- */

/* Attributes that people set; the stamp is that of another version. */
static int copy_xattrs(int from, int to)
{
	char names[1 << 16], value[1 << 16];
	ssize_t len = flistxattr(from, names, sizeof names);
	for (const char *name = names; len > 0 && name < names + len; name += strlen(name) + 1) {
		if (strncmp(name, "user.", 5) != 0 && strncmp(name, "system.posix_acl_", 17) != 0)
			continue;
		ssize_t n = fgetxattr(from, name, value, sizeof value);
		if (n >= 0 && fsetxattr(to, name, value, (size_t)n, 0) < 0)
			return -errno;
	}
	return 0;
}

static int copy_file(int conflicts, const struct kept_file *f, int dir, const char *as)
{
	const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, f->st.st_mtim};
	_cleanup_close_ int from = openat(conflicts, f->name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	_cleanup_close_ int to = from < 0 ? -1 : openat(dir, as, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (to < 0)
		return -errno;
	int r = cdm_copy_file(from, to, (uint64_t)f->st.st_size);
	if (r == 0 && (ftruncate(to, f->st.st_size) < 0 || fchown(to, f->st.st_uid, f->st.st_gid) < 0 || fchmod(to, f->st.st_mode & 07777) < 0))
		r = -errno;
	if (r == 0)
		r = copy_xattrs(from, to);
	if (r == 0 && (futimens(to, times) < 0 || fsync(to) < 0))
		r = -errno;
	return r;
}

static int copy_link(int conflicts, const struct kept_file *f, int dir, const char *as)
{
	char target[CDM_PATH_MAX + 1];
	ssize_t n = readlinkat(conflicts, f->name, target, CDM_PATH_MAX);
	if (n < 0)
		return -errno;
	target[n] = 0;
	return symlinkat(target, dir, as) < 0 || fchownat(dir, as, f->st.st_uid, f->st.st_gid, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

/* As an author saves: beside it, then renamed over it, through the mount. */
static int save_again(struct errand *e, const struct kept_file *f)
{
	const char *name, *mount = e->set->conf->mountpoint;
	char as[40];
	_cleanup_close_ int root = open(mount, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_close_ int dir = root < 0 ? -1 : cdm_open_parent(root, f->path, strlen(f->path), &name);
	if (dir < 0)
		return cdm_fail(&e->err, root < 0 ? errno : -dir, "open the directory of %s/%s", mount, f->path);
	snprintf(as, sizeof as, ".cdm-take-%s", e->id);
	int r = S_ISLNK(f->st.st_mode) ? copy_link(e->set->conflicts_fd, f, dir, as) : copy_file(e->set->conflicts_fd, f, dir, as);
	if (r == 0 && renameat(dir, as, dir, name) < 0)
		r = -errno;
	if (r < 0)
		unlinkat(dir, as, 0);
	return r < 0 ? cdm_fail(&e->err, -r, "save it as %s/%s", mount, f->path) : 0;
}

static int check_take(struct errand *e, const struct kept_file *f)
{
	int r = 0;
	if (!e->may_write) {
		r = cdm_fail_plain(&e->err, EACCES, "this node only receives the set: nothing can be saved there");
		cdm_hint(&e->err, "copy %s/.cdmfs/conflicts/%s to where it is saved", e->set->conf->store, f->name);
	} else if (!f->path || !(S_ISREG(f->st.st_mode) || S_ISLNK(f->st.st_mode))) {
		r = cdm_fail_plain(&e->err, EINVAL, "%s does not tell what it was, or is no file", f->name);
		cdm_hint(&e->err, "look at %s/.cdmfs/conflicts/%s and copy what is wanted through the mount", e->set->conf->store, f->name);
	}
	return r;
}

static void work(void *arg)
{
	struct errand *e = arg;
	int r = read_all(e);
	const struct kept_file *f = e->files;
	if (r < 0 || e->action == LIST)
		return;
	if (e->count != 1) {
		cdm_fail_plain(&e->err, ENOENT, "nothing is kept here under that id");
		cdm_hint(&e->err, "cdmctl conflict list shows all");
		return;
	}
	if (e->action == TAKE)
		r = check_take(e, f);
	if (r == 0 && e->action == TAKE && !e->dry)
		r = save_again(e, f);
	if (r == 0 && e->action != SHOW && !e->dry && unlinkat(e->set->conflicts_fd, f->name, 0) < 0)
		cdm_fail(&e->err, errno, "remove .cdmfs/conflicts/%s of the store", f->name);
}

/* --- answering --- */

static json_t *told(const struct errand *e, const struct kept_file *f)
{
	struct set *s = e->set;
	char id[KEPT_ID_SIZE];
	kept_id('C', s->node->id->number, f->name, strlen(f->name), id);
	json_t *o = json_pack("{s:s, s:o, s:I, s:I}", "id", id, "version", view_version(s->node, s, f->version), "bytes", (json_int_t)f->st.st_size, "kept_s",
		(json_int_t)f->st.st_ctim.tv_sec);
	if (f->path)
		view_put_path(o, f->path, strlen(f->path));
	if (e->action == LIST)
		return o;
	char mode[16], file[CDM_PATH_MAX];
	snprintf(mode, sizeof mode, "%04o", f->st.st_mode & 07777u);
	snprintf(file, sizeof file, "%s/.cdmfs/conflicts/%s", s->conf->store, f->name);
	json_object_update_new(o, json_pack("{s:s, s:I, s:I, s:I, s:o, s:s}", "mode", mode, "uid", (json_int_t)f->st.st_uid, "gid", (json_int_t)f->st.st_gid,
		"mtime_s", (json_int_t)f->st.st_mtim.tv_sec, "file", view_text(file), "type", S_ISLNK(f->st.st_mode) ? "symlink" : S_ISREG(f->st.st_mode) ? "file" : "special"));
	return o;
}

static void answer(void *arg)
{
	struct errand *e = arg;
	json_t *all = json_array();
	for (size_t i = 0; i < e->count; i++)
		json_array_append_new(all, told(e, &e->files[i]));
	if (e->err.number)
		e->done(e->arg, json_pack("{s:o, s:o}", "error", view_text(e->err.text), "hint", view_text(e->err.hint)));
	else
		e->done(e->arg, json_pack("{s:{s:O, s:I}}", "result", "conflicts", all, "count", (json_int_t)e->all));
	if (!e->err.number && !e->dry && (e->action == TAKE || e->action == DROP))
		cdm_log(conflict_resolved, cdm_str("set", set_name(e->set)), cdm_str("kept", e->files->name), cdm_str("what", e->action == TAKE ? "taken" : "dropped"));
	json_decref(all);
	while (e->count)
		forget(&e->files[--e->count]);
	free(e->files);
	free(e);
}

void set_conflicts(struct set *s, const char *action, const char *id, bool dry, set_adopt_fn *done, void *arg)
{
	static const char *const actions[] = {"list", "show", "take", "drop"};
	struct errand *e = calloc(1, sizeof *e);
	const struct member *self = s->route ? route_member_number(s->route, s->node->id->number) : NULL;
	if (!e)
		abort();
	*e = (struct errand){.set = s, .done = done, .arg = arg, .dry = dry, .may_write = self && self->role & CDM_ROLE_SOURCE};
	while (e->action < DROP && strcmp(action, actions[e->action]) != 0)
		e->action++;
	snprintf(e->id, sizeof e->id, "%s", id);
	if (s->conflicts_fd < 0 || (!s->mounted && e->action == TAKE)) {
		done(arg, json_pack("{s:s, s:s}", "error", "the set is not mounted on this node", "hint", "mount it there first"));
		free(e);
		return;
	}
	cdm_worker_submit(s->walker, work, answer, e);
}
