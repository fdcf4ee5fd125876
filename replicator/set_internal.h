/* SPDX-License-Identifier: Apache-2.0 */
/* set_internal.h — what the files of a set's data plane share: the set, its peers, its counters, and the seams between
 * set.c (lifecycle), follow.c (own journal), ship.c (sending), receive.c (arriving), publish.c (applying), durable.c,
 * barrier.c and resync.c. Loop thread only, except where a member says otherwise. */
#ifndef REPLICATOR_SET_INTERNAL_H
#define REPLICATOR_SET_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include "common/journal.h"
#include "common/log.h"
#include "replicator/data_frames.h"
#include "replicator/growth.h"
#include "replicator/set.h"

#define SET_MAGIC 0x53455431u
#define PEER_MAGIC 0x50454552u

struct incoming;
struct publisher;
struct quarantine;
struct content_cache;
struct deltas;
struct fetch;
struct offer;
struct adopt;
struct ship;
struct receiver;
struct resync;
struct scrub;
struct seals;
struct seal_seen;
struct unsure;
struct waiter;
struct question;

/* What each origin had applied at its newest change that we read: changes carry it only when it changed. */
struct contexts {
	struct context {
		cdm_origin origin;
		struct cdm_vector vector;
	} *entries;
	size_t count;
};
struct context *contexts_get(struct contexts *c, cdm_origin origin); /* made empty if new */
void contexts_note(struct contexts *c, const struct cdm_change *change);
/* Is this what was noted for the origin last? If not, note it. */
bool contexts_same(struct contexts *c, cdm_origin origin, const struct cdm_vector *vector);
void contexts_fini(struct contexts *c);

struct set_counters { /* any thread */
	_Atomic uint64_t batches_sent, changes_sent, content_sent_bytes, folded, superseded, batches_received, changes_received,
		content_received_bytes, applied, already_there, skipped, needs_sent, needs_answered, conflicts, quarantined,
		full_resync_count, verify_count, resync_bytes, resync_same, resync_fetched, resync_deleted, checkpoints, assembled,
		sent_bytes, ranges_saved_bytes, deltas_sent, deltas_passed_on, delta_saved_bytes, deltas_applied, deltas_refused, signatures,
		fetched, fetched_bytes, fetch_resumed_bytes, fetch_damaged, fetch_bypassed, fed_bytes, /* contents apart from their changes; these bytes are part of the content's */
		scrubs, scrub_files, scrub_differences, scrub_mended, scrub_undecided,
		seals_made, seals_taken, seal_names, seal_equal, seal_broken, seal_missing, seal_left_out, /* names: that were compared; equal: of these, contents */
		signing; /* this one also falls: saves that wait for their signature */
};

#define RECENT_MAX 16384 /* changes of which we know whether a peer has them */
struct recent {
	struct cdm_dot dot, version; /* version: of the content that a SAVE carries */
	uint64_t bytes;
	int64_t wall_ns;
};

#define MILESTONES_MAX 64 /* positions in the journal with what was applied before them */
struct milestone {
	uint64_t position;
	struct cdm_vector vector;
};

struct follow {
	struct cdm_journal_reader *reader;
	struct cdm_io *wake;
	struct cdm_vector visible; /* own entry: the newest own change that ships */
	struct cdm_dot own_raw;    /* newest own change of any kind */
	struct recent recent[RECENT_MAX];
	uint64_t recent_head;
	struct cdm_dot saves_since; /* all saves of this node's versions above it are in the ring */
	struct milestone milestones[MILESTONES_MAX];
	size_t milestone_count;
	uint64_t since_milestone;
	int64_t kept_ms;
	struct cdm_timer *pause;   /* records come one after the other: they are read again then */
	int64_t woken_ms;
	unsigned wakes;            /* in a row, each at once after the one before */
	uint64_t asked, asked_to;  /* follow_read_up: its number, 0 = none; up to this position */
	bool stepping, started;
	int64_t root_was_ns;       /* mtime of the root before the journal was read: if that is empty, before anybody did anything in it here */
};

struct durable {
	struct cdm_vector vector;
	struct cdm_timer *timer;
	bool running;
	int64_t last_ms;
};

enum ship_phase { SHIP_WAIT, SHIP_SEEK, SHIP_STREAM, SHIP_RESYNC };

struct doubt_state { /* doubt.c */
	bool raised;       /* trees are to be compared with the parent's, or, at the root, by those it feeds */
	bool raised_since; /* while trees are being compared */
	bool only_unlooked; /* for no other reason than that something could not be looked at */
	bool looked_back;  /* for what was lost before this program ran */
	bool owed;         /* children that are not here are to compare when they come */
	_Atomic unsigned ahead; /* what was taken ahead of the stream since a comparison saw none of that */
	unsigned rounds;   /* comparisons that found something */
	unsigned waits;    /* comparisons that were not the last one */
	int64_t began_ms, not_before_ms; /* the last comparison; the next one */
	int64_t looked_ns; /* how long the walker worked for the last one */
	int64_t unlooked_at_ms, unlooked_ms, unlooked_due_ms; /* when something could not be looked at; the pause for that, and its end */
	struct cdm_timer *timer;
};

struct peer { /* one link that carries this set */
	uint32_t magic;
	struct peer *next;
	struct set *set;
	struct link *link;
	uint32_t number;
	uint64_t serial; /* names this peer for worker threads */
	bool towards_parent, told, subscribed;
	bool was_empty;                     /* we had nothing of the set when we subscribed */
	bool is_empty;                      /* it had nothing */
	bool verify_wanted, verifying;      /* a child that is to compare, compares its tree with ours after a conflict */
	bool root_exact;                    /* the next root attributes it tells are taken as they are */
	bool root_taken;                    /* it told us the root's attributes */
	bool asked_tree;                    /* rights.h: we asked it to compare trees, and it has not begun */
	bool tree_refused;                  /* what its tree has was not taken */
	struct cdm_vector gives;            /* what it had when we had nothing, or asked for its tree: taken whoever it is */
	struct cdm_vector passed_over;      /* changes that were not taken from it … */
	bool passes_over_own;               /* … some of them its own, which may be elsewhere */
	bool root_due;                      /* it is about to tell them: no vector says that we have them */
	struct cdm_vector has;              /* what it has or was sent, or sent us, on this link */
	struct cdm_vector visible, durable; /* as it acknowledged */
	int64_t acked_ms;                   /* when it was last told our vectors */
	struct cdm_timer *ack;              /* they moved since: it will be told */
	struct ship *ship;
	struct receiver *receiver;
	struct resync *resync;
	struct question *question;          /* unsure.c */
	struct seal_seen *seals_seen;       /* seal.c: it told this; NULL: not yet */
	unsigned seals_refused;             /* that came from it and were not good */
	uint64_t seals_sent;                /* kept ones up to this number were sent, or are known there */
	unsigned signs;                     /* base.c: signatures that it asked for, being made */
	struct subscribe *early; /* came before we were ready */
};

#define HOLDS_BEFORE 4
struct hold_before { /* hold.c: a comparison that waited for a decision when its link ended; id 0: none */
	unsigned id;
	uint32_t peer;
	int64_t since_ns;
};

struct set {
	uint32_t magic;
	/* fixed after set_new */
	struct node *node;
	const struct cdm_set_conf *conf;
	char *run_dir;
	int store_fd, staging_fd, conflicts_fd;
	struct set_counters counters;
	struct cdm_worker *applier, *walker; /* blocking work: applying received changes; walks, hashes */
	struct cdm_worker *caller, *syncer;  /* short calls on the mount, which must wait for no walk and no disk; checkpoints */
	struct quarantine *quarantine;       /* what could not be applied here */
	struct publisher *publisher;         /* belongs to the applier's thread */
	struct fetch *fetches;                    /* fetch.c: contents on their way to here */
	struct waiter *fetch_queue;               /* changes for whose contents there is no room there yet */
	struct cdm_timer *fetch_timer;
	int64_t fetch_tick_ms;                    /* when that is due */
	struct offer *offers;                     /* feed.c: contents that peers were told of */
	size_t offer_next;
	struct content_cache *content_cache; /* contents that several children are sent */
	struct deltas *deltas;               /* NULL until the store's directories are there, or when there can be none */
	/* loop */
	const struct route *route;
	struct cdm_policy policy;                 /* the walker reads it under policy_lock */
	pthread_mutex_t policy_lock;
	struct peer *peers;
	struct follow follow;
	struct durable durable;
	struct growth growth;
	struct doubt_state doubt;
	struct barrier *barriers;
	uint64_t barrier_number, peer_serial;
	struct cdm_timer *probe_timer;
	bool mounted, probing, probe_again, ready, swept, stopping; /* ready: the journal was read to its end once */
	int mounts_fd;                            /* /proc/self/mountinfo: tells when mounts come and go */
	struct cdm_io *mounts_io;
	char paused_code[32], paused_reason[256]; /* the applier waits for space … */
	char held_reason[256];                    /* a comparison of trees wants to remove too much */
	struct hold_before holds_before[HOLDS_BEFORE];
	struct unreadable *unreadable;            /* content here that could not be read, or NULL */
	struct overtaken *overtaken;              /* names that are behind what our vector says */
	uint64_t aside_pending, aside_number;     /* quarantine_number after the last job; and when the journal was last read to its head */
	bool resyncing, receive_full, wants_resync; /* wants_resync: says so when it subscribes next */
	struct { cdm_origin before; bool all; int64_t until_ms; } regains; /* rights.c: until then lost changes are taken back, of own incarnations before this one, or all */
	struct { int64_t until_ms; struct cdm_timer *timer; } late; /* rights.c: until then neighbours are waited for that may have what comes too late from its author */
	bool renewed_for_child;                   /* rights.c: a peer that does not bring led to a new incarnation */
	struct adopt *adopt;                      /* running comparison, or NULL */
	struct scrub *scrub;
	struct seals *seals;
	struct unsure *unsure;                    /* found after a power cut and not settled yet, or NULL */
	size_t posted;                            /* messages from workers still to come */
	size_t writing;                           /* pieces of content on their way to staging */
	bool over;                                /* set_free was here: the last callback frees it */
};

/* set_mount.c */
void set_mount_begin(struct set *s);
void set_mount_reload(struct set *s); /* the mount reads its policy again */
/* The mount is there, but what stands between the set and work did not open or cannot be read: nobody else would try that again. */
void set_mount_follow_later(struct set *s);
/* Any thread: set the owner of what is there to what it is, a change of this node for which everybody needs the object itself. -errno (EROFS: a pure target). */
int set_mount_touch(const struct set *s, const char *path, size_t len);
void set_mount_stop(struct set *s);   /* mounts_io's callback comes yet */

/* set.c */
struct peer *set_peer(struct set *s, const struct link *l);
struct peer *set_peer_by_serial(struct set *s, uint64_t serial); /* NULL: it is gone */
struct peer *set_parent_peer(struct set *s); /* of two (parent.c keeps one that takes in nothing) the one that feeds us; NULL: none */
void set_subscribe_peer(struct peer *p);
void set_send_ack(struct peer *p, uint64_t batch);
void set_moved(struct set *s);  /* visible or durable moved: tell peers and the state layer */
void set_receive_full(struct set *s, bool full); /* received content found no space; false: a batch came whole */
void set_pause_reason(struct set *s, const char *code, const char *reason); /* "" = goes on */
void set_let_go(struct set *s); /* at the end of a callback that may be the last one */
void set_ready(struct set *s);  /* follow.c: the journal was read to its end */

/* follow.c */
bool change_ships(const struct cdm_change *c);
void follow_start(struct set *s);
void follow_stop(struct set *s);
void follow_step(struct set *s);
/* publisher_was_read(number) once all that is in the journal now was noted. */
void follow_read_up(struct set *s, uint64_t number);
void follow_keep(struct set *s); /* tell the journal what no known member needs any more */
/* Is this version, of a file that this node wrote, saved content (as far as the ring of recent changes tells)? */
bool follow_knows_saved(const struct set *s, struct cdm_dot version);
const struct milestone *follow_milestone(const struct set *s, const struct cdm_vector *covered_by); /* newest; NULL */

/* ship.c */
bool set_leaves_out(struct set *s, const char *path, size_t len); /* any thread. Excluded or local: nothing of it is told to others */
void ship_new(struct peer *p);
void ship_free(struct peer *p);
void ship_subscribed(struct peer *p, const struct subscribe *sub);
void ship_kick(struct peer *p); /* something to do: records, room in the link, an acknowledgement */
void ship_acked(struct peer *p, uint64_t batch);
int ship_need(struct peer *p, const struct need *need, uint8_t flags, struct cdm_error *err); /* flags: NEED_… */
int ship_signature(struct peer *p, const struct signature_part *part, struct cdm_error *err); /* came */
/* Our root's attributes, to a child, or to a parent that begins with an empty one; always: to whoever compares trees with us. */
void ship_root(struct peer *p, bool always);
void ship_resume_at(struct peer *p, uint64_t position, const struct cdm_vector *passed); /* after a resync */

/* identity.c: does this peer, who subscribes, know more of this node than it does itself? Then it takes a new incarnation. */
void identity_check(struct peer *p, const struct cdm_vector *theirs);

/* unreadable.c */
/* This could not be read for the peer: unless that is known it is logged and set aside. It is tried again until it can be read. */
void unreadable_said(struct peer *p, const char *path, size_t len, struct cdm_error *err);
void unreadable_over(struct set *s, const char *path, size_t len); /* it was read for a peer */
void unreadable_gone(struct set *s, const struct cdm_change *c); /* a record of the journal: was a name that is set aside taken away here? */
void unreadable_asked(struct set *s, const char *path, size_t len); /* a person wants what is there or below it ("": all) to be tried now */
void unreadable_ready(struct set *s); /* what was set aside when the program before this ended is tried, too */
void unreadable_stop(struct set *s);

/* receive.c */
void receive_content_came(struct peer *p, struct incoming *in); /* a fetched content is in staging, or superseded */
void receive_new(struct peer *p);
void receive_free(struct peer *p);
int receive_frame(struct peer *p, enum frame_type type, uint8_t flags, const uint8_t *payload, size_t len, struct cdm_error *err);

/* adopt.c (set_adopt: set.h) */
bool adopt_is_asking(const struct peer *p); /* RESYNC_DIR frames of this peer are for it */
int adopt_dir(struct peer *p, uint8_t flags, const uint8_t *payload, size_t len, struct cdm_error *err);
void adopt_peer_gone(struct peer *p);
void adopt_stop(struct set *s);

/* doubt.c */
void doubt_raise(struct set *s);
void doubt_unlooked(struct set *s); /* something could not be looked at, while trees were compared: again, after a pause that grows */
void doubt_ready(struct set *s); /* the journal was read: what was open when the program before this ended is open again */
void doubt_author_began_anew(struct set *s, cdm_origin origin); /* a change of a new incarnation came: is something here that the old one may have lost? */
void doubt_parent_is_there(struct set *s);
void doubt_child_is_there(struct peer *p);
void doubt_asked(struct peer *p);
void doubt_begins(struct set *s);                   /* a comparison does, for whatever reason … */
void doubt_looked(struct set *s, int64_t worked_ns); /* … and the walker worked so long for it, here: that decides when the next one may be */
/* A comparison with the parent ended. decisive: he knew all our changes when it began; changed: something was different. */
void doubt_compared(struct set *s, bool decisive, bool changed);
/* How much was taken ahead of the stream; a comparison that began when it was so much saw none of it. */
unsigned doubt_taken_ahead(const struct set *s);
void doubt_none_is_ahead(struct set *s, unsigned taken);
bool doubt_begin_verify(struct peer *p); /* it has all there is: is a comparison wanted? Then it was begun */
void doubt_child_done(struct peer *p);
void doubt_child_gone(struct peer *p);
bool doubt_is_open(const struct set *s);
void doubt_stop(struct set *s);

/* durable.c, barrier.c */
void durable_wanted(struct set *s);
void durable_stop(struct set *s);
void barrier_seen(struct set *s, const char *name, size_t len);
void barrier_fail_all(struct set *s, int error);

/* resync.c */
#define RESYNC_KEEP 4 /* by the sender's table the receiver may not write: what it made itself is kept where it goes, also if it does not know yet */
#define RESYNC_INCOMPLETE 2 /* the sender has set changes aside: what it lacks may be there for all that its vector says */
#define RESYNC_VERIFY 1 /* flag of RESYNC_START: nothing is missing, but trees may have come out differently */
void resync_begin(struct peer *p, uint8_t flags); /* as the sender: the journal cannot serve this peer, or VERIFY */
/* A directory could not be looked at, here: that is said, and trees are compared again later. */
void resync_unlooked(struct set *s, const char *path, size_t len, int error);
int resync_frame(struct peer *p, enum frame_type type, uint8_t flags, const uint8_t *payload, size_t len, struct cdm_error *err);
void resync_drained(struct peer *p);
void resync_free(struct peer *p);
bool set_has_unstamped(struct set *s); /* content that no journal ever saw (an adopted tree)? */

static inline void count_up(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

#endif
