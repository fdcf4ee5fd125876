/* SPDX-License-Identifier: Apache-2.0 */
/* publish_moved.c — a change whose author did not know that a directory above was renamed here goes where that directory is now.
 * Two directories that were moved into each other on two nodes: the higher rename stays, the other one is undone everywhere. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "common/io.h"
#include "replicator/publish_ops.h"

void moved_end(struct publisher *pub, struct incoming *in)
{
	struct cdm_change *c = &in->carried.change;
	if (pub->given) {
		c->path = pub->given;
		c->path_len = pub->given_len;
	}
	if (pub->given2) {
		c->path2 = pub->given2;
		c->path2_len = pub->given2_len;
	}
	free(pub->mapped);
	free(pub->mapped2);
	pub->mapped = pub->mapped2 = NULL;
	pub->given = pub->given2 = NULL;
}

static bool has_parent(const struct publisher *pub, const char *path, size_t len)
{
	const char *name;
	_cleanup_close_ int dir = cdm_open_parent(pub->set->store_fd, path, len, &name);
	return dir >= 0;
}

static char *map(struct publisher *pub, struct incoming *in, const char *path, size_t len, size_t *ret_len, struct history_rename *last)
{
	char *mapped = len ? history_map(pub->history, path, len, in->carried.change.dot.origin, &in->context, ret_len, last) : NULL;
	if (mapped && has_parent(pub, mapped, *ret_len))
		return mapped;
	free(mapped);
	return NULL;
}

static bool is_inside(const struct cdm_change *c)
{
	return c->path2_len > c->path_len && memcmp(c->path2, c->path, c->path_len) == 0 && c->path2[c->path_len] == '/';
}

struct way_back {
	int from, to;
	char from_name[CDM_NAME_LEN_MAX + 1], to_name[CDM_NAME_LEN_MAX + 1];
};

static int call_back(void *arg)
{
	struct way_back *w = arg;
	return renameat2(w->from, w->from_name, w->to, w->to_name, RENAME_NOREPLACE);
}

/* No record: whoever gets both renames undoes the lower one by himself. */
static int undo(struct publisher *pub, struct incoming *in, const struct history_rename *r)
{
	struct way_back way;
	struct step step;
	way.from = publisher_parent(pub, r->to, r->to_len, way.from_name);
	way.to = publisher_parent(pub, r->from, r->from_len, way.to_name);
	if (way.from < 0 || way.to < 0)
		return way.from < 0 ? way.from : way.to;
	step_init(&step, CDM_CALL_RENAME, in, NULL);
	step.a.parent_mtime_ns = r->to_mtime_ns;
	step.a.parent2_mtime_ns = r->from_mtime_ns;
	step.a.expect = CDM_EXPECT_ABSENT;
	int e = publisher_call(pub, &step, call_back, &way, NULL);
	publisher_forget_dirs(pub);
	if (e < 0)
		return e;
	history_forget(pub->history, r->version.dot);
	conflict_report(pub, r->to, r->to_len, r->version, "a directory was moved into one that was moved into it");
	return 0;
}

/* 0, or APPLY_SKIP: the rename that is here stays. */
static int break_cycle(struct publisher *pub, struct incoming *in, const struct history_rename *here)
{
	struct cdm_change *c = &in->carried.change;
	struct cdm_version mine = {.dot = c->dot, .clock = c->clock};
	if (cdm_version_compare(&mine, &here->version) < 0) {
		conflict_report(pub, c->path, c->path_len, mine, "a directory was moved into one that was moved into it");
		return APPLY_SKIP;
	}
	int r = undo(pub, in, here);
	moved_end(pub, in);
	return r == -ENOTCONN || r == -ENOSPC ? r : 0;
}

int moved_begin(struct publisher *pub, struct incoming *in)
{
	struct cdm_change *c = &in->carried.change;
	struct history_rename last = {0};
	size_t len;
	if (in->resync)
		return 0;
	pub->mapped = map(pub, in, c->path, c->path_len, &len, NULL);
	if (pub->mapped) {
		pub->given = c->path;
		pub->odd = true;
		pub->given_len = c->path_len;
		c->path = pub->mapped;
		c->path_len = len;
	}
	pub->mapped2 = map(pub, in, c->path2, c->path2_len, &len, &last);
	if (pub->mapped2) {
		pub->given2 = c->path2;
		pub->odd = true;
		pub->given2_len = c->path2_len;
		c->path2 = pub->mapped2;
		c->path2_len = len;
	}
	int r = pub->mapped2 && c->op == CDM_OP_RENAME && is_inside(c) ? break_cycle(pub, in, &last) : 0;
	history_rename_fini(&last);
	return r;
}
