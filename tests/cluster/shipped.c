/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/cluster/shipped.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/fs.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static struct shipped_entry *find(const struct shipped *s, const char *path, size_t len)
{
	for (size_t i = 0; i < s->count; i++)
		if (strlen(s->entries[i].path) == len && memcmp(s->entries[i].path, path, len) == 0)
			return &s->entries[i];
	return NULL;
}

static void wrong(struct shipped *s, const struct cdm_change *c, const char *why)
{
	if (!s->wrong[0])
		snprintf(s->wrong, sizeof(s->wrong), "%s %.*s -> %.*s: %s", cdm_op_name(c->op), (int)c->path_len, c->path ? c->path : "",
			(int)c->path2_len, c->path2 ? c->path2 : "", why);
}

/* file 0: another one than was there. */
static void put(struct shipped *s, const char *path, size_t len, mode_t type, unsigned file, struct cdm_dot version)
{
	struct shipped_entry *e = find(s, path, len);

	if (!e) {
		s->entries = reallocarray(s->entries, s->count + 1, sizeof(*s->entries));
		e = &s->entries[s->count++];
		e->path = strndup(path, len);
	}
	e->type = type;
	e->file = file ? file : ++s->files;
	e->version = version;
}

/* Content changes under all names of a file. */
static void save_record(struct shipped *s, const struct cdm_change *c)
{
	struct shipped_entry *e = find(s, c->path, c->path_len);

	if (!(c->flags & CDM_CH_NEW) && !e)
		wrong(s, c, "not NEW, but others do not have it");
	s->saves++;
	snprintf(s->last_save, sizeof(s->last_save), "%.*s", (int)c->path_len, c->path);
	put(s, c->path, c->path_len, S_IFREG, c->flags & CDM_CH_NEW || !e ? 0 : e->file, c->version.dot);
	e = find(s, c->path, c->path_len);
	for (size_t i = 0; i < s->count; i++)
		if (s->entries[i].file == e->file)
			s->entries[i].version = c->version.dot;
}

static bool is_beneath(const char *path, const char *dir, size_t len)
{
	return strncmp(path, dir, len) == 0 && path[len] == '/';
}

static bool drop(struct shipped *s, const char *path, size_t len)
{
	struct shipped_entry *e = find(s, path, len);

	if (!e)
		return false;
	free(e->path);
	*e = s->entries[--s->count];
	return true;
}

/* Everything at and below `from` gets the name `to`. */
static void move_tree(struct shipped *s, const char *from, size_t from_len, const char *to, size_t to_len)
{
	for (size_t i = 0; i < s->count; i++) {
		struct shipped_entry *e = &s->entries[i];
		if (!is_beneath(e->path, from, from_len) && !(strlen(e->path) == from_len && memcmp(e->path, from, from_len) == 0))
			continue;
		char *moved = NULL;
		assert_true(asprintf(&moved, "%.*s%s", (int)to_len, to, e->path + from_len) > 0);
		free(e->path);
		e->path = moved;
	}
}

static void rename_record(struct shipped *s, const struct cdm_change *c)
{
	static const char aside[] = "\001aside";

	if (!find(s, c->path, c->path_len)) {
		wrong(s, c, "renames what is not there");
		return;
	}
	if (c->rename_flags & RENAME_EXCHANGE) {
		if (!find(s, c->path2, c->path2_len))
			wrong(s, c, "exchanges with what is not there");
		move_tree(s, c->path, c->path_len, aside, sizeof(aside) - 1);
		move_tree(s, c->path2, c->path2_len, c->path, c->path_len);
		move_tree(s, aside, sizeof(aside) - 1, c->path2, c->path2_len);
		return;
	}
	drop(s, c->path2, c->path2_len);
	move_tree(s, c->path, c->path_len, c->path2, c->path2_len);
}

/* A name that others know went to a file that they do not: for them it is removed, and if that file moves on, too. */
static void unsaved_record(struct shipped *s, const struct cdm_change *c)
{
	if (c->flags & CDM_CH_COVERS && (c->op == CDM_OP_UNLINK || c->op == CDM_OP_RENAME))
		drop(s, c->path, c->path_len);
}

static void removal_record(struct shipped *s, const struct cdm_change *c)
{
	if (!drop(s, c->path, c->path_len))
		wrong(s, c, "removes what is not there");
}

/* SHOW_JOURNAL=1: for looking into a failed run. */
static void show(const struct cdm_change *c)
{
	uint64_t handle = 0;

	memcpy(&handle, c->handle.bytes, c->handle.len < sizeof(handle) ? c->handle.len : sizeof(handle));
	fprintf(stderr, "%-11s %.*s %.*s flags %x rename %u node %lx dot %lu\n", cdm_op_name(c->op), (int)c->path_len, c->path ? c->path : "",
		(int)c->path2_len, c->path2 ? c->path2 : "", c->flags, c->rename_flags, (unsigned long)handle, (unsigned long)c->dot.number);
}

void shipped_record(const struct cdm_change *c, void *arg)
{
	struct shipped *s = arg;

	if (getenv("SHOW_JOURNAL"))
		show(c);
	if (!cdm_op_ships(c->op))
		return;
	if (c->flags & CDM_CH_LOCAL) { /* out of the set's names: of a rename the old name's removal ships */
		if (c->op == CDM_OP_RENAME)
			drop(s, c->path, c->path_len);
		return;
	}
	if (c->flags & CDM_CH_UNSAVED) {
		unsaved_record(s, c);
		return;
	}
	switch (c->op) {
	case CDM_OP_SAVE:
		save_record(s, c);
		break;
	case CDM_OP_MKDIR:
		put(s, c->path, c->path_len, S_IFDIR, 0, (struct cdm_dot){0});
		break;
	case CDM_OP_SYMLINK:
		put(s, c->path, c->path_len, S_IFLNK, 0, (struct cdm_dot){0});
		break;
	case CDM_OP_MKNOD:
		put(s, c->path, c->path_len, c->attr.mode & S_IFMT, 0, (struct cdm_dot){0});
		break;
	case CDM_OP_UNLINK:
	case CDM_OP_RMDIR:
		removal_record(s, c);
		break;
	case CDM_OP_RENAME:
		rename_record(s, c);
		break;
	case CDM_OP_LINK: {
		struct shipped_entry *e = find(s, c->path, c->path_len);
		if (e)
			put(s, c->path2, c->path2_len, e->type, e->file, e->version);
		else
			wrong(s, c, "links what is not there");
		break;
	}
	default:
		if (c->op != CDM_OP_SKIP && !find(s, c->path, c->path_len) && c->path_len)
			wrong(s, c, "changes what is not there");
	}
}

void shipped_fini(struct shipped *s)
{
	for (size_t i = 0; i < s->count; i++)
		free(s->entries[i].path);
	free(s->entries);
	*s = (struct shipped){0};
}

/* --- comparing --- */

static struct {
	const struct shipped *s;
	struct fixture *f;
	bool (*leave_out)(const char *path);
	size_t seen;
	char trouble[1024];
} walk;

static void trouble(const char *path, const char *what)
{
	if (!walk.trouble[0])
		snprintf(walk.trouble, sizeof(walk.trouble), "%s: %s", path, what);
}

static int look_at(const char *full, const struct stat *st, int kind, struct FTW *where)
{
	const char *path = full + strlen(walk.f->mnt) + 1;
	const struct shipped_entry *e;
	struct cdm_stamp stamp;
	char in_store[1024];

	if (where->level == 0 || walk.leave_out(path))
		return 0;
	walk.seen++;
	e = find(walk.s, path, strlen(path));
	if (!e) {
		trouble(path, "never shipped");
		return 0;
	}
	if ((st->st_mode & S_IFMT) != e->type)
		trouble(path, "shipped as another type");
	if (!S_ISREG(st->st_mode))
		return 0;
	snprintf(in_store, sizeof(in_store), "%s/%s", walk.f->store, path);
	_cleanup_close_ int fd = open(in_store, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || cdm_stamp_get(fd, &stamp) < 0)
		trouble(path, "has no version");
	else if (!cdm_dot_equal(stamp.content.dot, e->version))
		trouble(path, "its newest version was not shipped");
	return 0;
}

void shipped_assert_equal(const struct shipped *s, struct fixture *f, bool (*leave_out)(const char *path))
{
	size_t expected = 0;

	memset(&walk, 0, sizeof(walk));
	walk.s = s;
	walk.f = f;
	walk.leave_out = leave_out;
	if (s->wrong[0])
		fail_msg("a shipped record does not fit: %s", s->wrong);
	assert_int_equal(nftw(f->mnt, look_at, 32, FTW_PHYS), 0);
	if (walk.trouble[0])
		fail_msg("%s", walk.trouble);
	for (size_t i = 0; i < s->count; i++)
		expected += !leave_out(s->entries[i].path);
	if (walk.seen != expected)
		for (size_t i = 0; i < s->count; i++) {
			char path[1024];
			struct stat st;
			snprintf(path, sizeof(path), "%s/%s", f->mnt, s->entries[i].path);
			if (!leave_out(s->entries[i].path) && lstat(path, &st) < 0)
				fail_msg("%s: shipped, but not there (%s)", s->entries[i].path, strerror(errno));
		}
	assert_int_equal(walk.seen, expected);
}
