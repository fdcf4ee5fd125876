/* SPDX-License-Identifier: Apache-2.0 */
/* control.h — the local control socket RUN/control.sock (internals.md 5): one JSON object per line in, one or more per line out.
 * Root only (0600). A client that does not read is dropped. Loop thread only. */
#ifndef REPLICATOR_CONTROL_H
#define REPLICATOR_CONTROL_H

#include "replicator/set.h"

int control_new(struct node *node, struct cdm_error *err);
void control_free(struct node *node);

struct client;
/* Answer one line; takes the reference. last: adds "end":true and takes the client's next request. */
void client_answer(struct client *c, json_t *answer, bool last);
/* The same with "open": what is open for writing in the set, asked of the mount first. */
void client_answer_open(struct client *c, struct set *set, json_t *answer, bool last);
void client_refuse(struct client *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* wait.c: answers c when what was saved before is durable on all counted nodes, or the time is over. NULL: refused and answered. */
struct wait;
struct wait *wait_start(struct node *node, struct set *set, struct client *c, const json_t *request);
void wait_cancel(struct wait **w);
void client_wait_over(struct client *c); /* from wait.c: it is gone; its answer comes next */

/* peers.c: keeps RUN/SET/peers for the mount's user.cdmfs.status. */
struct peers_files;
struct peers_files *peers_new(struct node *node);
void peers_free(struct peers_files **p);

#endif
