/* SPDX-License-Identifier: Apache-2.0 */
/* master_link.h — the agent's connection to the master (internals.md 4): says hello, takes routes, reports status. While the master
 * is away it is dialled with growing pauses; everything else goes on. Loop thread only. */
#ifndef REPLICATOR_MASTER_LINK_H
#define REPLICATOR_MASTER_LINK_H

#include "replicator/node.h"

struct set;
int master_new(struct node *node);
void master_free(struct node *node);
/* Takes the reference; dropped while the master is away. */
void master_send(struct node *node, json_t *message);
/* An alternate was taken (or the table's parent again); told at once, and again after a reconnect. */
void master_tell_parent(struct node *node, const char *set, const char *parent, const char *reason);
/* Something the installation's log should have. level as in events.def. Dropped while the master is away. */
void master_tell_event(struct node *node, int level, const char *name, const char *set, const char *path, const char *text);

#endif
