/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/delta_share.h"

#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/vfs.h>
#include "common/faultpoint.h"
#include "common/loop.h"

#define SHARE_MIN (256u << 10)   /* less is sooner written; and a file of many shared pieces is slow to read */
#define SETTLED_NS 1000000000ll  /* by then the time of a change differs from that of the next one, whatever the kernel's clock tick */

static bool same_time(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

static bool is_settled(const struct stat *st)
{
	int64_t changed_ns = (int64_t)st->st_ctim.tv_sec * 1000000000 + st->st_ctim.tv_nsec;
	return llabs(cdm_wall_ns() - changed_ns) > SETTLED_NS;
}

static void look(struct delta_share *s)
{
	struct statfs fs;
	s->looked = true;
	if (fstat(s->from, &s->before) == 0 && is_settled(&s->before) && fstatfs(s->to, &fs) == 0 && fs.f_bsize > 0)
		s->block = (uint64_t)fs.f_bsize;
}

void delta_share_copy(struct delta_share *s, const struct delta_copy *c, uint64_t *ret_from, uint64_t *ret_to)
{
	*ret_from = *ret_to = 0;
	if (c->length < SHARE_MIN)
		return;
	if (!s->looked)
		look(s);
	if (!s->block || c->from % s->block != c->at % s->block)
		return;
	uint64_t skip = (s->block - c->from % s->block) % s->block;
	uint64_t len = (c->length - skip) / s->block * s->block;
	struct file_clone_range range = {.src_fd = s->from, .src_offset = c->from + skip, .src_length = len, .dest_offset = c->at + skip};
	cdm_faultpoint("delta_share.looked_not_shared");
	if (ioctl(s->to, FICLONERANGE, &range) < 0) {
		s->block = 0; /* most filesystems cannot; what stands in the way otherwise, writing will tell */
		return;
	}
	s->shared = true;
	cdm_faultpoint("delta_share.shared_not_read");
	*ret_from = c->from + skip;
	*ret_to = *ret_from + len;
}

bool delta_share_holds(const struct delta_share *s)
{
	struct stat now;
	return !s->shared || (fstat(s->from, &now) == 0 && same_time(&now.st_ctim, &s->before.st_ctim) && now.st_size == s->before.st_size);
}
