/* SPDX-License-Identifier: Apache-2.0 */
/* renew.h — this node's key and certificate: read at the start, renewed with the master after two thirds of their life, in force for
 * every connection made afterwards; those that are there stay. The new key is made here and is on the disk before it is asked for;
 * a crash at any moment leaves a pair that fits. Without the master a node goes on with what it has, also past its end (the
 * others decide: renew_excuses). Loop thread only. */
#ifndef REPLICATOR_RENEW_H
#define REPLICATOR_RENEW_H

#include <time.h>
#include "replicator/node.h"

/* Makes node->tls_client and tls_server from STATE/node.crt, node.key, ca.crt. */
int renew_load(struct node *node, struct cdm_error *err);
/* Once the loop is there. */
void renew_new(struct node *node);
void renew_free(struct node *node);
/* The master is there (again): it is asked at once if it is time. */
void renew_master_up(struct node *node);
void renew_master_down(struct node *node);
/* The master's answer {"certificate"}. */
void renew_take(struct node *node, const json_t *message);
/* May a peer whose certificate ended then be talked to? Yes when this node had no word of the master since: the peer had none either. */
bool renew_excuses(const struct node *node, time_t ended);

#endif
