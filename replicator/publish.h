/* SPDX-License-Identifier: Apache-2.0 */
/* publish.h — received changes become visible: the applying thread of a set. It performs each change as an ordinary
 * call through the full mount, announced to the mount's server with dot and expectation (common/announce.h).
 *
 * Batches are handed over whole and in order; everything here happens on the set's applier thread except where said.
 * A full disk stops the thread at the change that met it until there is space again; an unmounted set likewise; nothing is lost. */
#ifndef REPLICATOR_PUBLISH_H
#define REPLICATOR_PUBLISH_H

#include <pthread.h>
#include <sys/stat.h>
#include "common/announce.h"
#include "replicator/history.h"
#include "replicator/set_internal.h"

#define STAGING_NAME_MAX 64
#define STAGING_FETCH "fetch-" /* begins the names of contents that are being fetched (fetch.c) */
#define STAGING_SEVERAL "several-" /* and of those that are put under several names (publish_names.c) */

struct incoming { /* one received change with what came along */
	struct incoming *next;
	uint8_t *frame;               /* `carried` points into it */
	struct carried carried;
	struct cdm_vector context;    /* what its origin had applied */
	struct bytes copies;          /* CONTENT_DELTA: encoded, where they did not come in the frame */
	char staging[STAGING_NAME_MAX]; /* streamed content: its file in staging, "" = none */
	int spool_fd;                 /* that file, -1 = none or closed */
	bool streaming, superseded, complete, ended;
	bool refused;                 /* its author may not write the set, or the peer does not bring: it ends as superseded, its content is not kept … */
	bool passed_over;             /* … in the latter case it is taken out of its batch, too (rights.h) */
	uint64_t received;
	unsigned writes;              /* in flight */
	bool orphan;                  /* its link is gone: the last write frees it */
	bool lost;                    /* its content went from staging after it came: its batch ends here, and comes again */
	bool torn;                    /* a piece of it could not be written: it never becomes complete, its link ends */
	bool resync;                  /* from a walk: no dot of its own to move the vector */
	bool decisive;                /* from a walk: the sender knew all of our changes, so what he has counts */
	bool keeps_own;               /* from a walk: the sender says that this node may not write; what it made itself is kept where it goes */
	uint64_t began_clock;         /* decisive: but for attributes that were set here since */
	const struct incoming *instead_of; /* its content is used for this change, which is what gets journaled; NULL = for itself */
	int64_t mtime_was_ns;         /* a comparison saw this mtime: set another one only if it is still that, or earlier; 0 = do not look */
	bool mends;                   /* in place of the same version here, whose bytes are wrong (scrub.h), and of nothing else … */
	struct content *like;         /* … with the attributes of what is here: `carried` points into this; NULL: with those that came … */
	bool mended;                  /* … and so it was */
	struct cdm_dot along;         /* from a walk: names here that do not travel, of the file of this version under its name, go with that; none: do not look */
	bool orphaned;                /* the author lost what is here, and the sender has less: where it does not stay it is kept in conflicts/ */
	bool again;                   /* once it is there, it is recorded as a save of this node (unsure.h) */
};
struct incoming *incoming_new(const uint8_t *frame, size_t len, struct cdm_error *err); /* NULL: malformed */
void incoming_free(struct incoming *in, int staging_fd); /* removes its staging file */

#define ODD_MAX 16
struct odd { /* a change that was applied otherwise than its author saw it */
	cdm_origin origin;
	struct cdm_vector context;
};
struct job { /* one batch for the applier */
	struct set *set;
	uint64_t peer_serial, batch;
	struct incoming *head, **tail;
	size_t count;
	struct odd odd[ODD_MAX];
	size_t odd_count;
	bool odd_surely; /* compare, whatever their authors knew */
	bool compared;                 /* the last one of a comparison of trees: all that differed was tried, and nothing is lacking here but what was … */
	uint64_t aside_before;         /* … set aside since (quarantine_number) */
	bool had_aside, settled;       /* something was set aside before; nothing of that is any more */
	uint64_t set_aside;            /* changes */
	bool lacking;                  /* of what a comparison brought something was not applied */
	uint64_t aside_number;         /* quarantine_number at its end */
	bool broken;                   /* not applied to its end: its peer must send again from what is applied */
	void (*done)(struct job *job); /* on the loop; owns the job then. NULL: acknowledge and free */
	void *arg;
};
struct job *job_new(struct set *s, uint64_t peer_serial, uint64_t batch);
void job_add(struct job *job, struct incoming *in);
void job_free(struct job *job);
/* doubt.c. Applier: this one. Loop, when the journal was read behind the job: was anything of it concurrent? */
void doubt_note(struct job *job, const struct incoming *in);
void doubt_judge(struct job *job);
/* Content of this version was put in place as an answer, and whoever gave it said that it has `context`. */
void doubt_note_ahead(struct publisher *pub, struct cdm_dot version, const struct cdm_vector *context);

/* Loop. */
struct publisher *publisher_new(struct set *s);
void publisher_free(struct publisher **pub); /* after the applier ended */
void publisher_submit(struct job *job);
/* Loop: an answer to a NEED (takes it); a peer that will not answer any more; end all waiting. */
void publisher_answer(struct publisher *pub, struct incoming *in);
void publisher_peer_gone(struct publisher *pub, uint64_t peer_serial);
void publisher_stop(struct publisher *pub);
/* What the journal says is applied; own_raw: this node's newest change of any kind. */
void publisher_seed(struct publisher *pub, const struct cdm_vector *visible, struct cdm_dot own_raw);
/* Loop: a change that is in the journal now. */
void publisher_note(struct publisher *pub, const struct cdm_change *c);
/* Loop: all that was in the journal when the applier asked (number) was noted. */
void publisher_was_read(struct publisher *pub, uint64_t number);
void publisher_unseed(struct publisher *pub); /* the journal is another one: forget what is applied, wait for a new seed */

/* Any thread: as fstat in the store. The mount sets a directory's mtime back after each call of the applier in it: what it is in between is
 * not told. (Waits for such a call, a tenth of a second at most.) */
int publisher_stat(struct publisher *pub, int fd, struct stat *ret);
/* Any thread: the stamp of what is open; zeros: it has none. 0, or -errno: it cannot be told. */
int stamp_of(int fd, struct cdm_stamp *ret);

/* --- shared by publish*.c, stage.c and conflict.c; applier thread --- */
struct dir_entry { /* a directory of the mount, by path, kept during one batch */
	char *path;
	size_t len;
	int fd;
};
#define DIRS_MAX 32
#define BROKEN_PEERS 64

struct publisher {
	struct set *set; /* fixed parts, counters and loop posting only */
	struct cdm_announce_map *map;
	struct cdm_lane *lane;
	int full_fd, content_fd, staging_fd; /* in the full mount; -1 = not open */
	struct dir_entry dirs[DIRS_MAX];
	size_t dir_next;
	struct cdm_vector applied;
	struct history *history;
	struct cdm_vector history_since; /* history has what came after this; what came before is read from the journal when it matters (publish_moved.c) */
	bool begun, kept_more;       /* earlier runs' losers were counted; more may be in conflicts/ than at tidied_ms */
	int64_t tidied_ms;
	char *mapped, *mapped2;      /* paths of the change at work, where directories were renamed */
	const char *given, *given2;  /* as they came; NULL = not mapped */
	size_t given_len, given2_len;
	struct contexts told;        /* context as last journaled, per origin */
	struct bytes records;        /* encoded, without a call of their own: for the next journal call */
	bool odd;                    /* the change at work met something that its author did not see */
	bool overtaken;              /* its content was not to be had any more */
	bool records_matter;         /* some of them tell the others more than a dot: they must not come after a later change of their origin */
	struct job *job;
	uint64_t broken[BROKEN_PEERS]; /* serials of peers one of whose batches was not applied to its end: nothing after it may be */
	size_t broken_next;
	uint64_t staged_number;      /* for names of things that are staged here */
	bool aside_left;             /* there may be something in aside/ (aside.h) */
	bool several_left;           /* there may be STAGING_SEVERAL files (publish_names.c) */
	struct known_names *known_names; /* of files with several */

	pthread_mutex_t calling;     /* held during each call that moves a directory's mtime */
	pthread_mutex_t lock;        /* below: any thread */
	pthread_cond_t wake;
	bool stopping;
	struct cdm_vector seed;      /* merged into applied before the next job */
	struct cdm_dot own;          /* the newest change of this node that the journal was read to have */
	struct cdm_vector seen_at_start; /* becomes history_since */
	bool seeded, forget, begin_asked;
	uint64_t forgotten;          /* peers up to this serial began with what is forgotten */
	uint64_t read_asked, read;   /* numbers of publisher_read_up: asked for last, done */
	uint64_t ticket;             /* waited for; 0 = none */
	uint64_t ticket_peer;
	struct incoming *answer;
	bool answer_gone;
};

enum apply {
	APPLIED = 0,
	APPLY_SKIP = 1,   /* it lost, or its content is not to be had: journal a SKIP for the dot */
	APPLY_RETRY = 2,  /* state changed: look again */
	APPLY_NOTHING = 3, /* nothing is to be done here; whoever follows this node may lack it: journal the change as it came */
};

int publisher_open(struct publisher *pub, struct cdm_error *err);
bool publisher_is_stopping(struct publisher *pub); /* any thread */
/* What no change can be applied without: until it is there again all of them wait. The reason code, or NULL. */
const char *publisher_waits_for(int r);
bool publisher_mount_is_gone(int r);
void publisher_close(struct publisher *pub);
/* Fetch what the sender has at this path; with a base it may come as a delta. NULL: it has nothing there, or is gone (*ret_gone). */
struct incoming *publisher_need(struct publisher *pub, const struct need *need, bool *ret_gone);

/* Wait until the history knows all that is in the journal at this moment: the applier may be ahead of follow.c. False: that will not be soon. */
bool publisher_read_up(struct publisher *pub);

/* Directory fd (borrowed) of path's parent, in the mount; name points into a static-per-publisher buffer. -ENOENT … */
int publisher_parent(struct publisher *pub, const char *path, size_t len, char ret_name[CDM_NAME_LEN_MAX + 1]);
void publisher_forget_dirs(struct publisher *pub);

/* The announcement for a change, prepared: record and defaults. */
struct step {
	struct cdm_announcement a;
	const struct cdm_change *records;
	size_t record_count;
};
/* Announce; make the call with the callback; read the answer. 0, -ESTALE (refused, *found says what is there), or -errno. */
typedef int call_fn(void *arg);
int publisher_call(struct publisher *pub, struct step *step, call_fn *call, void *arg, struct cdm_announcement *found);

/* stage.c: build the object of `in` under `name` in the store's staging, ready to be renamed. 0 or -errno. handle: its handle. */
int stage_object(struct publisher *pub, struct incoming *in, int dir_fd, const char *name, struct cdm_handle *handle, struct cdm_error *err);
int stage_copy_with_ranges(struct publisher *pub, struct incoming *in, int base_fd, const char *name, struct cdm_handle *handle,
	struct cdm_error *err);
/* stage_delta.c: put a content that came as a delta together; then it is a whole one. 0; APPLY_NOTHING: it is here already;
 * -ESTALE: the base is not here, or not what it should be. */
int stage_delta(struct publisher *pub, struct incoming *in, struct cdm_error *err);
/* The bytes of a CONTENT_RANGES in its staging file, range by range: between them that file has nothing of the content, and what it has as
 * data is cut at the blocks of its filesystem. */
typedef int stage_range_fn(void *arg, const uint8_t *data, size_t len, uint64_t at);
int stage_each_range(const struct incoming *in, int spool, stage_range_fn *fn, void *arg);
/* All pieces of a received content to fd at their offsets. */
int stage_write_pieces(struct incoming *in, int store_staging_fd, int fd);
/* Loop, before anything is received: remove what an earlier run left in staging. */
void stage_sweep(int staging_fd);
void stage_remove_tree(int staging_fd, const char *name);
uint32_t stage_uid(const struct incoming *in, uint32_t uid);
uint32_t stage_gid(const struct incoming *in, uint32_t gid);

/* conflict.c */
struct cdm_version change_version(const struct cdm_change *c); /* of its content, else its own dot and clock */
enum verdict { INCOMING_WINS, INCOMING_WINS_KEEP_OLD, LOCAL_WINS, SAME, ABSENT, TYPE_CLASH };
enum verdict conflict_decide(struct publisher *pub, const struct incoming *in, const struct cdm_announcement *found);
/* Move a staged object to conflicts/, log and count. */
void conflict_keep_staged(struct publisher *pub, const char *staged, const char *path, size_t len, struct cdm_version version);
/* Had the author of this change the version that is found here when he made it? AHEAD: it is his own and later (fetched before its turn). */
enum seen { UNSEEN, SEEN, AHEAD };
/* A version that this node made while it might write the set, and that others left out since it may not (receive.c): where trees are
 * compared it gives way, and must be kept. */
bool conflict_is_refused(struct publisher *pub, const struct incoming *in, struct cdm_dot here);
enum seen conflict_seen(struct publisher *pub, const struct incoming *in, const struct cdm_announcement *found);
/* The change that told others of this version, which was found here as saved (none: not known any more). False: it cannot be known now. */
bool conflict_saved_by(struct publisher *pub, struct cdm_dot version, struct cdm_dot *ret);
/* conflict_room.c: count what is there already; keep conflicts/ within its limit (after a job). */
void conflict_begin(struct publisher *pub);
void conflict_tidy(struct publisher *pub);
void conflict_report(struct publisher *pub, const char *path, size_t len, struct cdm_version loser, const char *what);

/* publish_ops.c */
int apply_change(struct publisher *pub, struct incoming *in, struct cdm_error *err); /* enum apply, or -errno */

#endif
