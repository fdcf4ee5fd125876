/* SPDX-License-Identifier: Apache-2.0 */
/* resync_left_out.c — which files here have names that do not travel (excluded or local)? No listing has those, so the directories of the store are read,
 * once a comparison, and not before it matters. Inode numbers are kept as hashes, in a set that is bounded as paths are. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "common/io.h"
#include "replicator/names.h"
#include "replicator/publish.h"
#include "replicator/resync_compare.h"

struct left_out {
	struct set *set;
	bool looked, any; /* any: more than are remembered, so it may be any file */
	struct paths *inodes;
};

struct left_out *left_out_new(struct set *s)
{
	struct left_out *l = calloc(1, sizeof *l);
	if (!l)
		abort();
	l->set = s;
	l->inodes = paths_new();
	return l;
}

void left_out_free(struct left_out **pl)
{
	if (*pl)
		paths_free(&(*pl)->inodes);
	free(*pl);
	*pl = NULL;
}

static void add(struct left_out *l, uint64_t inode)
{
	l->any |= !paths_add(l->inodes, (const char *)&inode, sizeof inode);
}

static int look_at(void *arg, int dir, const char *name, const char *path, size_t len)
{
	struct left_out *l = arg;
	struct stat st;
	if (!set_leaves_out(l->set, path, len))
		return 0;
	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (S_ISREG(st.st_mode) && st.st_nlink > 1)
		add(l, st.st_ino);
	return 0;
}

static bool goes_on(void *arg)
{
	return !publisher_is_stopping(arg);
}

/* Files whose names an attempt that did not come to its end has put on another file (publish_names.c). */
static void look_at_staged(struct left_out *l)
{
	int fd = openat(l->set->staging_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	uint64_t inode;
	if (!d) {
		if (fd >= 0)
			close(fd);
		return;
	}
	for (struct dirent *e; (e = readdir(d));)
		if (sscanf(e->d_name, STAGING_SEVERAL "%" SCNx64 "-", &inode) == 1)
			add(l, inode);
	closedir(d);
}

/* What cannot be looked at nobody else can read either: names in it stay behind. */
bool left_out_has(struct left_out *l, uint64_t inode)
{
	if (!l->looked) {
		look_at_staged(l);
		names_look_at_each(l->set->store_fd, look_at, l, goes_on, l->set->publisher);
	}
	l->looked = true;
	return l->any || paths_have(l->inodes, (const char *)&inode, sizeof inode);
}
