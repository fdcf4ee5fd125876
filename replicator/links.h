/* SPDX-License-Identifier: Apache-2.0 */
/* links.h — what the link layer offers to the rest of the control side (dialling, routes, states, status); the data plane sees
 * link.h only. A link lives from conn_connect/accept until its connection is closed; it is in node->links all that time.
 * Loop thread only. */
#ifndef REPLICATOR_LINKS_H
#define REPLICATOR_LINKS_H

#include <stdbool.h>
#include <sys/socket.h>
#include "replicator/link.h"

/* link.c: link states: connecting and TLS ("dial"), hello exchanged ("up"), ending ("ending"). */
int link_dial(struct node *node, const char *name, const struct sockaddr *addr, socklen_t addr_len, struct link **ret,
	struct cdm_error *err);
struct link *link_accept(struct node *node, int fd /* taken */, const struct sockaddr_storage *from);
bool link_is_up(const struct link *l);
bool link_is_half_open(const struct link *l); /* accepted, hello not done */
bool link_dialled(const struct link *l);
const struct sockaddr_storage *link_from(const struct link *l); /* of an accepted one */
struct link *link_find_up(struct node *node, const char *peer); /* NULL if none */
void link_counters(const struct link *l, uint64_t *ret_sent, uint64_t *ret_received);
/* A new table: sections are in force at once. */
void links_follow_sections(struct node *node);
/* Put what the links sent since the last time into node->section_costs. */
void links_account(struct node *node);
/* So much content was not put into frames, for a delta or ranges stand for it. */
void link_saved(struct link *l, uint64_t bytes);
/* Say goodbye (ERROR "ending"), close; nothing is wrong. */
void link_end(struct link *l, const char *why);

/* As the child: ask the peer to be our parent for this set; stop it. */
void link_attach(struct link *l, struct set *set);
void link_detach(struct link *l, struct set *set, const char *why);
bool link_carries(const struct link *l, const struct set *set);  /* both sides agreed */
bool link_attaching(const struct link *l, const struct set *set); /* asked or agreed, as the child */
bool link_serves_any(const struct link *l);                      /* any set asked or agreed */

/* link_dial.c: one entry per peer that we want a link to, with back-off; and the listening socket. */
int dialer_new(struct node *node);
void dialer_free(struct node *node);
int listener_new(struct node *node, struct cdm_error *err);
void listener_free(struct node *node);
uint16_t listener_port(const struct node *node);
/* Exactly these peers are wanted (name → address). Others' dialling stops; links that we dialled and nobody uses end. */
struct wanted {
	const char *name, *addr;
};
void dialer_want(struct node *node, const struct wanted *wanted, size_t count);
void dialer_link_up(struct node *node, struct link *l);
void dialer_link_gone(struct node *node, struct link *l, const char *peer, const struct cdm_error *why);
/* Why the last try to reach this peer failed; NULL if it did not. */
const char *dialer_why(const struct node *node, const char *peer);

#endif
