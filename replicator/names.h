/* SPDX-License-Identifier: Apache-2.0 */
/* names.h — under which names does a file with several of them lie in a store? No filesystem that can be a store tells that of all its files, so the
 * whole tree is read (its directories, not its files), in which an inode number stands beside each name; and what was found is remembered for some
 * files. One thread. Memory: NAMES_BYTES_MAX a search, FAMILIES × FAMILY_BYTES_MAX for what is remembered; nothing grows with the tree. */
#ifndef REPLICATOR_NAMES_H
#define REPLICATOR_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

#define NAMES_BYTES_MAX (4u << 20)
#define FAMILIES 64
#define FAMILY_BYTES_MAX (64u << 10)

struct names { /* paths relative to the store's root, each with its NUL, one after the other */
	char *bytes;
	size_t len, room;
	bool more; /* there are others that found no room */
};
void names_fini(struct names *n);
/* The next one, from *at = 0 on; NULL: the end. Borrowed. */
const char *names_next(const struct names *n, size_t *at);

typedef bool names_go_on_fn(void *arg); /* asked before each directory */
/* Each name of what is no directory, but those below .cdmfs, is looked at: it is `name` in the directory `dir`. 0 or -errno. Returns as names_find. */
typedef int names_look_fn(void *arg, int dir, const char *name, const char *path, size_t len);
int names_look_at_each(int store_fd, names_look_fn *look, void *look_arg, names_go_on_fn *go_on, void *arg);
/* All names of a file (of its device and inode number) but those below .cdmfs are added to *ret. 0; -ECANCELED: go_on said no; -errno: something could not
 * be looked at, and may hold another one: what was found is there all the same. */
int names_find(int store_fd, const struct stat *file, struct names *ret, names_go_on_fn *go_on, void *arg);

/* What is remembered; a file that was not used for longest makes way. */
struct known_names;
struct known_names *known_names_new(void);
void known_names_free(struct known_names **k);
/* This path is a name of the file / these are its names. */
void known_names_add(struct known_names *k, const struct stat *file, const char *path, size_t len);
void known_names_set(struct known_names *k, const struct stat *file, const struct names *n);
/* Those that are its names still are added to *ret (each is looked at). */
void known_names_look(struct known_names *k, int store_fd, const struct stat *file, struct names *ret);

#endif
