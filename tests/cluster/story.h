/* SPDX-License-Identifier: Apache-2.0 */
/* story.h — the words in which cluster tests are told: verbs over a running lab with the real programs. A verb that cannot be done,
 * or a wait that is not over in time, fails the running test with what was last seen.
 *
 * Paths are relative to the set's root. `node` is "n1", "n2", …. One lab serves all stories of a program, one after the other; each works
 * in a directory of its own name. Not run as root or without /dev/fuse: skipped (77) with the reason. */
#ifndef STORY_H
#define STORY_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "tests/lab/lab.h"

#define STORY_MS 30000 /* until when things must have come about */

extern struct lab *lab;

/* Bring the lab up, tell the stories, end it; `options->dir` is chosen here. The exit status for main. */
int story_tell(const char *name, struct lab_options options, const struct CMUnitTest stories[], size_t count);
/* Set before: these stories change stores behind the authors' backs, or lie. Else no node may find that it has what no author signed (seal.h). */
extern bool stories_alter;
#define STORIES(name, options, stories) story_tell(name, options, stories, sizeof stories / sizeof *stories)

/* -- what authors do --------------------------------------------------------------------------------------------- */

void save(const char *node, const char *path, const char *text);              /* create or truncate, write, close */
void save_bytes(const char *node, const char *path, const void *bytes, size_t len);
void save_at(const char *node, const char *path, off_t offset, const char *text); /* in place */
void append(const char *node, const char *path, const char *text);
void make_directory(const char *node, const char *path);
void move(const char *node, const char *from, const char *to);
void remove_file(const char *node, const char *path);
void remove_tree(const char *node, const char *path);
/* A command in a shell, in the node's network, in the mount's root; it must succeed. */
void shell(const char *node, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Its exit status, and what it said (the caller frees; NULL: not wanted). */
int shell_status(const char *node, char **ret_output, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* -- what happens to the installation ---------------------------------------------------------------------------- */

void killed(const char *node, enum lab_program program); /* kill -9, and dead */
void started(const char *node, enum lab_program program);
void node_killed(const char *node); /* all its programs at once */
void node_started(const char *node);
void cut(const char *node);
void healed(const char *node);
/* cdmctl with these words; fails the test when it fails. */
void administrator(const char *first, ...) __attribute__((sentinel));

/* -- what must hold ---------------------------------------------------------------------------------------------- */

/* All that was saved before is durable everywhere. */
void in_sync(void);
/* No node holds a file for open any more (after a watcher was killed its closes are found out after a while). */
void all_rest(void);
/* The trees at all mounts are equal in everything; so are the stores. */
void same_everywhere(void);
void everywhere_equal(void); /* both */
void everywhere_equal_below(const char *path);
/* The file has this content now; becomes so in time. */
void has_text(const char *node, const char *path, const char *text);
void gets_text(const char *node, const char *path, const char *text);
void absent(const char *node, const char *path);
void becomes_absent(const char *node, const char *path);
bool exists(const char *node, const char *path);
/* Files kept in STORE/.cdmfs/conflicts/ (or another directory of the store's state), anywhere below. */
unsigned kept_files(const char *node, const char *state_directory);
/* A number of the replicator's statistics of the set. Fails if there is none. */
int64_t counter(const char *node, const char *name);
/* It becomes so much, in time. */
void counts(const char *node, const char *name, int64_t least);
/* This command succeeds at n1, in time. */
void comes_about(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* cdmfs-stat as a deploy script calls it; the exit status. */
int stat_wait(const char *node, const char *arguments, char **ret_output);

/* -- side by side ------------------------------------------------------------------------------------------------ */

/* Contents that say which version they are in every 8 bytes, so that a mix of two shows. */
void fill_version(void *bytes, size_t len, uint64_t version);
/* Save version after version of files load-0 … load-(files-1) below `dir`, as fast as it goes, until load_end. How: */
enum load_how { LOAD_REWRITE, LOAD_RENAME, LOAD_MIXED /* also mkdir, rename, remove, append */ };
struct load;
struct load *load_begin(const char *node, const char *dir, unsigned files, enum load_how how);
unsigned load_end(struct load *load); /* how many saves succeeded; a save that failed fails the test */

/* Read these files at a node again and again: every look must find one whole version (or, if may_be_absent, no file). */
struct reader;
struct reader *reader_begin(const char *node, const char *path, bool may_be_absent);
unsigned reader_end(struct reader *reader); /* how many looks; a mix of versions or an error fails the test */

#endif
