/* SPDX-License-Identifier: Apache-2.0 */
/* publish_records.c — the applier's records that belong to no call in the mount: changes that are left out, or are so already. They are gathered and
 * reach the journal with the next call, or when enough of them wait. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/xattr.h>
#include "replicator/node.h"
#include "replicator/overtaken.h"
#include "replicator/publish_ops.h"

#define RECORD_MAX (16u << 10)

int records_send(struct publisher *pub, struct cdm_error *err)
{
	if (!pub->records.len)
		return 0;
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fd/%d", pub->full_fd);
	if (setxattr(path, "trusted.cdmfs.journal", pub->records.data, pub->records.len, 0) < 0)
		return cdm_fail(err, errno, "journal what needed no call");
	pub->records.len = 0;
	pub->records_matter = false;
	return 0;
}

static void add_record(struct publisher *pub, const struct cdm_change *c)
{
	size_t max = cdm_change_encoded_max(c), at = pub->records.len;
	bytes_put_u32(&pub->records, 0);
	size_t n = cdm_change_encode(c, bytes_add(&pub->records, max));
	uint32_t len = (uint32_t)n;
	memcpy(pub->records.data + at, &len, sizeof len);
	pub->records.len = at + sizeof len + n;
}

static void raise_parents(struct publisher *pub, struct incoming *in)
{
	const struct cdm_change *c = &in->carried.change;
	raise_parent(pub, in, c->path, c->path_len, c->parent_mtime_ns);
	if (c->path2_len)
		raise_parent(pub, in, c->path2, c->path2_len, c->parent2_mtime_ns);
}

void record_skip(struct publisher *pub, struct incoming *in, bool overtaken)
{
	const struct cdm_change *from = &in->carried.change;
	bool fits = from->path_len + from->path2_len < 4096;
	struct cdm_change c = {.op = from->op, .flags = from->flags, .dot = from->dot, .clock = from->clock, .version = from->version,
		.path = from->path, .path_len = fits ? from->path_len : 0, .path2 = from->path2, .path2_len = fits ? from->path2_len : 0,
		.parent_mtime_ns = from->parent_mtime_ns, .parent2_mtime_ns = from->parent2_mtime_ns};
	if (from->op != CDM_OP_SKIP && overtaken)
		overtaken_skip(&c);
	c.flags = CDM_CH_RECEIVED | (c.op == CDM_OP_SKIP ? c.flags & (CDM_CH_WHOLE | CDM_CH_OVERTAKEN | CDM_CH_LINKED) : 0);
	c.op = CDM_OP_SKIP;
	raise_parents(pub, in);
	add_record(pub, &c);
	pub->records_matter |= (c.path_len && c.parent_mtime_ns) || (c.path2_len && c.parent2_mtime_ns) || c.flags & CDM_CH_OVERTAKEN;
	count_up(&pub->set->counters.skipped, 1);
}

/* What is so already here is news for who follows this node: he may have come to our state by another way, or be behind it. So is what cannot be done
 * here: it may well be done there. */
void record_done(struct publisher *pub, struct incoming *in)
{
	struct cdm_change c = record_of(pub, in);
	if (c.range_count && cdm_change_encoded_max(&c) > RECORD_MAX) { /* the whole is there as well */
		c.range_count = 0;
		c.flags |= CDM_CH_WHOLE;
	}
	bool ours = CDM_ORIGIN_NODE(c.dot.origin) == pub->set->node->id->number; /* the journal takes no operation of ours from others */
	if (ours || cdm_change_encoded_max(&c) > RECORD_MAX) {
		record_skip(pub, in, false);
		return;
	}
	raise_parents(pub, in);
	add_record(pub, &c);
	pub->records_matter = true;
	count_up(&pub->set->counters.already_there, 1);
}

bool records_flush(struct publisher *pub)
{
	struct cdm_error err = CDM_ERROR_INIT;
	while (pub->records.len && publisher_wait_for_mount(pub)) {
		int r = records_send(pub, &err);
		if (r == 0)
			return true;
		if (!publisher_mount_is_gone(r))
			cdm_log_err(failed, &err, cdm_str("set", set_name(pub->set)));
		if (r == -EINVAL || r == -EBADMSG) { /* it will not be taken the next time either; the peer sends it again */
			pub->records.len = 0;
			pub->records_matter = false;
			return false;
		}
		publisher_close(pub);
		if (!publisher_wait(pub, RETRY_MOUNT_MS))
			return false;
	}
	return !pub->records.len;
}
