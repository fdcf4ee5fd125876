/* SPDX-License-Identifier: Apache-2.0 */
/* opens.h — which files of a set are still open for writing here, as the mount says (getxattr trusted.cdmfs.open). The call may hang
 * while the mount's server is being replaced, so it is made in a thread of its own and never waited for longer than half a
 * second; then the list known before is given. Loop thread only. */
#ifndef REPLICATOR_OPENS_H
#define REPLICATOR_OPENS_H

#include "replicator/set.h"

struct opens;        /* in node->opens */
struct opens_query;
typedef void opens_fn(void *arg, json_t *list); /* an array, borrowed */

int opens_new(struct node *node);
void opens_free(struct node *node);
struct opens_query *opens_ask(struct node *node, struct set *set, opens_fn *done, void *arg);
void opens_cancel(struct opens_query **q); /* done will not come; NULL is fine */
void opens_refresh(struct node *node, struct set *set); /* ask, for opens_known of later */
size_t opens_known(struct node *node, struct set *set); /* how many the last answer named */

#endif
