/* SPDX-License-Identifier: Apache-2.0 */
/* live.h — what the agents say: who is connected, what each has of each set. Memory only. Loop thread. */
#ifndef MASTER_LIVE_H
#define MASTER_LIVE_H

#include "master/master.h"

#define LIVE_LOST_MS 10000  /* a node is bypassed when its connection is lost for longer */
#define LIVE_START_MS 30000 /* after the master's start nodes get this long to come back */

#define COST_FIGURES 4
struct live_cost { /* bytes, since the start of what sent them; a report that lacks one of the figures does not count */
	bool known;
	int64_t bytes[COST_FIGURES]; /* of a section: offered, raw (after deltas), compressed, on the wire; of a set: offered, after deltas, sent */
};
struct live_node {
	uint32_t number;
	bool connected;
	int64_t since_ms; /* monotonic: connected or lost since */
	int64_t seen;     /* Unix seconds of its last message */
	int64_t status_ms; /* monotonic: of its last status */
	int64_t certificate_end; /* Unix seconds */
	uint64_t epoch;   /* last confirmed */
	char version[32];
	json_t *hello_sets; /* array of hello.sets */
	json_t *sets;     /* set name → last status object of that set */
	struct live_cost sections[SECTION_COUNT]; /* last told */
	json_t *parents;  /* set name → parent it took by itself */
};
struct live *live_new(struct master *m);
void live_free(struct live **l);
/* NULL: never heard of since the master's start. */
const struct live_node *live_find(const struct live *l, uint32_t number);
void live_hello(struct live *l, uint32_t number, const json_t *hello);
void live_certificate(struct live *l, uint32_t number, int64_t end);
void live_lost(struct live *l, uint32_t number);
void live_status(struct live *l, uint32_t number, const json_t *status);
void live_parent(struct live *l, uint32_t number, const char *set, const char *parent);
void live_confirmed(struct live *l, uint32_t number, uint64_t epoch);
/* Counts as there for the routes of this set (a lost connection counts for LIVE_LOST_MS). */
bool live_is_up(const struct live *l, const struct model_node *n, const char *set);
/* How long until live_is_up may answer differently without a message; 0: not by itself. */
int64_t live_next_change_ms(const struct live *l);
size_t live_connected_count(const struct live *l);

/* As cdmfs-stat --json. */
json_t *live_set_status(const struct live *l, const struct model *m, const struct model_set *s);
/* When the first journal of the set's nodes is full at the pace of its last day, in seconds from now; -1: nobody knows. */
double live_journal_full_s(const struct live *l, const struct model *m, const struct model_set *s);
struct live_cost live_node_set_cost(const struct live_node *n, const char *set); /* what it last told of this set */
/* What the connected nodes say it cost, added up: {"nodes":2,"offered_bytes","raw_bytes","compressed_bytes","wire_bytes","saved_bytes"} of a
 * section, {"nodes":2,"offered_bytes","after_delta_bytes","sent_bytes","saved_bytes"} of a set. NULL: none of them says it. */
json_t *live_section_cost(const struct live *l, const struct model *m, enum section which);
json_t *live_set_cost(const struct live *l, const struct model *m, const struct model_set *s);
/* Comparisons that wait for a decision: as the nodes told them, with "node". */
json_t *live_holds(const struct live *l, const struct model *m);
json_t *live_node_json(const struct live *l, const struct model *m, const struct model_node *n);

#endif
