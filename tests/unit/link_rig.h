/* SPDX-License-Identifier: Apache-2.0 */
/* link_rig.h — nodes of one process on one loop, linked over loopback with certificates of a test authority; a set here is a counter of what it
 * is told (the real one is replicator/set.c). */
#ifndef TESTS_LINK_RIG_H
#define TESTS_LINK_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "replicator/links.h"
#include "replicator/node.h"
#include "replicator/route.h"
#include "replicator/set.h"
#include "replicator/state.h"
#include "replicator/wire_codec.h"

#define PIECE (100u << 10)
#define PIECES 100u

struct set {
	struct node *node;
	struct link *parent, *child; /* carried by these now */
	bool parent_began, child_began; /* and the other side began its session when we did */
	struct link *to_begin;
	unsigned ups, downs, drained;
	uint64_t frames, bytes, sent_bytes;
	uint32_t next;               /* expected number of the next FRAME_DATA */
	bool pause_once;
	struct link *paused;
	struct cdm_vector vector;
	unsigned to_send;
};

extern struct cdm_loop *rig_loop;
extern char rig_dir[];
extern const char *rig_sections; /* JSON: goes into the tables */
extern unsigned rig_detour;      /* port by which the first node is reached */
extern bool rig_mixed;           /* pieces are in turn text, random and zeros; else all random */
extern unsigned rig_fed, rig_fed_in_chunks; /* FED frames that came, as they were sent: numbered (their request), of bytes … */
uint8_t rig_fed_byte(unsigned number, size_t at); /* … as this says */
int rig_setup(void **state);
int rig_teardown(void **state);

/* Name "nN"; port 0: any. foreign: its certificate comes from another authority of the same name. */
struct node *node_make(unsigned number, unsigned port, bool foreign);
void node_end(struct node **pn);
/* One table for a node: members are all of `nodes` but `leave_out`. */
void give_route(struct node *n, struct node **nodes, size_t count, const char *parent, const char *alternate, struct node *leave_out);

typedef bool condition_fn(struct node **nodes);
/* Runs the loop until the condition holds; false: it did not in time. */
bool wait_for(condition_fn *fn, struct node **nodes, int64_t ms);
bool first_two_carry(struct node **n);
bool second_was_down_and_up(struct node **n);
bool all_arrived(struct node **n); /* all pieces at the second */

struct seen { /* what a node knows of another */
	const char *name;
	bool found, down;
	uint64_t number;
};
struct seen seen_at(struct node *n, const char *name);

/* Two nodes, the second is the child of the first; `use` are the sections in force from the start. */
void pair_make(struct node *n[2], const char *use, uint32_t features);
void pair_use(struct node *n[2], const char *use); /* other sections now */
void pair_end(struct node *n[2]);
void send_pieces(struct set *s, struct link *l); /* as many as the link's queue takes of to_send */
void send_all(struct node *n[2]);
void expect_all(struct node *n[2]); /* they came, and the set was never down */

#endif
