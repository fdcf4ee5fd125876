/* SPDX-License-Identifier: Apache-2.0 */
/* resync_compare.h — one directory of two trees compared (walker thread): what to fetch, change, link, remove, and where to go on.
 * The rules are those of conflict.c: what the sender has and we never had is fetched, what it had and has no more is
 * removed, what it never had stays; of two versions the higher wins. Where the sender knew all that we did (`decisive`), what he has counts. */
#ifndef REPLICATOR_RESYNC_COMPARE_H
#define REPLICATOR_RESYNC_COMPARE_H

#include "replicator/resync.h"

struct directory { /* what the sender has of a directory itself */
	uint32_t mode, uid, gid;
	int64_t mtime_ns; /* 0 = not known */
	struct cdm_stamp stamp;
	uint64_t extra;
	char user[FRAME_OWNER_MAX + 1], group[FRAME_OWNER_MAX + 1];
};

struct todo { /* a directory to compare */
	struct todo *next;
	char *path;
	size_t len;
	struct directory theirs;
	bool both; /* it is here, too: its attributes are settled after what is in it */
};
struct todo *todo_new(const char *path, size_t len);
void todo_free(struct todo *t);

struct want { /* something that must become as the sender has it */
	struct want *next;
	char *path;
	size_t len;
	int64_t parent_mtime_ns;
	uint64_t ticket;      /* 0 = not asked for yet */
	bool answered;
	bool again;           /* incoming.again */
	bool orphaned;        /* incoming.orphaned */
	struct cdm_dot base;  /* of the content that is here, none: there is none that is like it */
	uint64_t base_size;
	struct cdm_dot along; /* incoming.along */
	struct cdm_version theirs; /* of a file */
	struct incoming *in;  /* the answer, or what is to be done without asking */
};

struct removal {
	struct removal *next;
	char *path;
	size_t len;
	bool directory;
	bool top; /* the directory that holds it stays */
	bool orphaned; /* incoming.orphaned */
	struct cdm_version version;
};

struct groups; /* first names of files with several names */

struct unseen; /* resync_unseen.c: names that went and came here by changes that the sender does not have */
struct unseen *unseen_new(struct set *s, const struct cdm_vector *sender); /* loop */
void unseen_free(struct unseen **u);
/* Walker. Was it removed or renamed away here? Also true where the journal does not tell any more. */
bool unseen_went(struct unseen *u, const char *path, size_t len);
/* The same, but only where the journal tells. */
bool unseen_surely_went(struct unseen *u, const char *path, size_t len);
/* 0, or why the journal could not be read: then nothing of what was answered counts. */
int unseen_error(const struct unseen *u);
/* Did it get this name, or a content, here (rename, link, save)? */
bool unseen_came(struct unseen *u, const char *path, size_t len);

struct paths; /* resync_unseen.c: a set of paths, as hashes */
struct paths *paths_new(void);
void paths_free(struct paths **p);
bool paths_add(struct paths *p, const char *path, size_t len); /* false: full */
bool paths_have(const struct paths *p, const char *path, size_t len);

struct left_out; /* resync_left_out.c: files here with names that do not travel */
struct left_out *left_out_new(struct set *s);
void left_out_free(struct left_out **l);
/* Walker. Reads the whole tree when it is first asked. */
bool left_out_has(struct left_out *l, uint64_t inode);

struct compare_shared { /* of one resync; the walker's once it began */
	struct cdm_vector sender, mine;
	bool incomplete;      /* the sender has set changes aside: that it lacks something says nothing */
	bool decisive;        /* the sender knew all of our changes when this began: where he differs, he is right … */
	uint64_t began_clock; /* … but for what was changed here since */
	struct unseen *unseen;
	struct paths *there;  /* names that the sender had, in this or an earlier round: should one be gone there by now, his stream tells of it. As
			       * many as it takes; the removals of others are decided on with all others */
	struct overtaken *overtaken; /* what is behind at the sender, NULL = nothing (overtaken.h); the walker says what of it is here */
	struct groups *groups;
	struct left_out *left_out;
};
void compare_shared_init(struct compare_shared *shared, struct set *s, const struct cdm_vector *sender, bool incomplete);
void compare_shared_fini(struct compare_shared *shared);

struct compare { /* one directory */
	void *owner;
	struct set *set;
	struct compare_shared *shared;
	struct todo *dir;
	struct listing theirs, ours;
	int64_t worked_ns; /* how long the walker looked at it */
	bool gone; /* the sender has no such directory any more */
	bool stays; /* something of ours is on its way to the sender, and moves the directory's mtime there */
	/* results */
	int error; /* not 0: it could not be looked at here, nothing else counts */
	struct todo *subdirs;
	struct want *wants, **wants_tail;
	struct removal *removals, **removals_tail; /* a directory before what is in it */
	bool clash; /* a directory here where the sender has something else: that comes when the directory is gone */
	uint64_t same, seen;
	bool ahead; /* something here was taken ahead of the stream, and neither side's vector tells of it */
	uint64_t taken_over; /* versions that went with their author, and are ours now */
};
/* Takes dir and listing. */
struct compare *compare_new(struct set *s, struct compare_shared *shared, struct todo *dir, struct listing *theirs, bool gone);
void compare_free(struct compare *c);
void compare_work(void *arg);

/* Does ours need no content of theirs: of one type, and the same content by version, or by size and mtime where one has no version. */
bool compare_is_same(const struct entry *theirs, const struct entry *ours);

/* A directory that both sides hold: do the sender's attributes count, and which mtime is it to have? A decisive sender's do. Else the side with the
 * higher attribute clock says, and what stays here, on its way to the sender, raises the mtime; of equal clocks (or none) the later mtime.
 * False: ours stays as it is. */
bool compare_directory(const struct compare_shared *shared, const struct directory *theirs, const struct entry *ours, bool stays, int64_t *ret_mtime_ns);

struct incoming;
struct carried;
struct incoming *incoming_make(const struct carried *k); /* as if it had been received; content kinds without pieces only */
struct incoming *removal_incoming(const struct removal *r, const struct cdm_vector *context);

#endif
