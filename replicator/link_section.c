/* SPDX-License-Identifier: Apache-2.0 */
/* link_section.c — a link is used as its section says (section.h): compression, protection and limit follow a change at once; what it
 * cost is added up per section. */
#include "replicator/link_internal.h"

#include <errno.h>
#include "common/loop.h"
#include "common/log.h"
#include "replicator/route.h"

const struct section *link_section(const struct link *l)
{
	return route_section(l->node, l->section);
}

void link_account(struct link *l)
{
	uint64_t sent, received;
	if (!l->instance || !l->conn)
		return; /* the class is not known yet, or the end was counted */
	link_counters(l, &sent, &received);
	l->node->section_costs[l->section].wire_bytes += sent - l->accounted;
	l->accounted = sent;
}

void link_saved(struct link *l, uint64_t bytes)
{
	l->node->section_costs[l->section].delta_saved_bytes += bytes;
}

void links_account(struct node *node)
{
	for (size_t i = 0; i < node->link_count; i++)
		link_account(node->links[i]);
}

/* One change of protection after the other: the next may have to wait until this one went out. */
void link_follow_encryption(struct link *l)
{
	const uint8_t plain = !link_section(l)->encryption && (l->features & WIRE_FEATURE_PLAIN);
	if (l->state != LINK_UP || conn_switching(l->conn) || plain == conn_sends_plain(l->conn))
		return;
	if (link_send_frame(l, FRAME_PLAIN, 0, 0, &plain, sizeof plain, NULL, 0) == 0)
		return; /* the connection is gone, we just do not know it yet */
	conn_send_plain(l->conn, plain);
	cdm_log(link_protection, cdm_str("peer", l->name), cdm_str("encryption", plain ? "off" : "on"));
}

void link_follow_section(struct link *l)
{
	if (l->state != LINK_UP)
		return;
	link_account(l);
	l->section = route_section_of(l->node, l->number);
	link_follow_encryption(l);
	conn_rate_changed(l->conn);
}

void links_follow_sections(struct node *node)
{
	for (size_t i = 0; i < node->link_count; i++)
		link_follow_section(node->links[i]);
}

uint64_t link_rate(void *arg)
{
	const struct link *l = arg;
	return l->instance ? section_rate(link_section(l), cdm_wall_ns()) : 0;
}

void link_take_plain(struct link *l, const uint8_t *payload, size_t len)
{
	if (len != 1 || payload[0] > 1 || !(l->features & WIRE_FEATURE_PLAIN))
		link_fail(l, EPROTO, "a change of protection that cannot be read, or was not agreed on");
	else
		conn_receive_plain(l->conn, payload[0]); /* who sends decides what others may read */
}
