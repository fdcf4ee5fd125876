/* SPDX-License-Identifier: Apache-2.0 */
/* unreadable.c — content of this node that cannot be read for shipping (a bad sector, no memory): the others do not get this version, which must not
 * look like being in sync. The path is set aside like a change that cannot be applied, and said with its reason, until it can be
 * shipped. Loop thread; the list is written by the applier's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "replicator/quarantine.h"
#include "replicator/set_internal.h"

struct note {
	struct set *set;
	enum { SAID, OVER, GONE } what;
	char *path;
	size_t len;
	char reason[256];
};

static void note_work(void *arg)
{
	struct note *n = arg;
	if (n->what == OVER)
		quarantine_resolve(n->set->quarantine, n->path, n->len);
	else if (n->what == GONE)
		quarantine_resolve_below(n->set->quarantine, n->path, n->len);
	else
		quarantine_add(n->set->quarantine, n->path, n->len, n->reason);
}

static void note_done(void *arg)
{
	struct note *n = arg;
	n->set->posted--;
	if (!n->set->stopping)
		state_changed(n->set);
	free(n->path);
	free(n);
}

static void submit(struct set *s, int what, const char *path, size_t len, const char *reason)
{
	struct note *n = calloc(1, sizeof *n);
	if (!n || !(n->path = malloc(len + 1)))
		abort();
	n->set = s;
	n->what = what;
	memcpy(n->path, path, len);
	n->len = len;
	snprintf(n->reason, sizeof n->reason, "%s; save it again when it can be read", reason);
	s->posted++;
	cdm_worker_submit(s->applier, note_work, note_done, n);
}

void unreadable_said(struct peer *p, const char *path, size_t len, struct cdm_error *err)
{
	cdm_log_err(content_unreadable, err, cdm_str("set", set_name(p->set)), cdm_str("peer", link_peer_name(p->link)));
	submit(p->set, SAID, path, len, err->text);
	p->set->unreadable = true;
}

void unreadable_over(struct set *s, const char *path, size_t len)
{
	char reason[256];
	if (s->unreadable && quarantine_find(s->quarantine, path, len, reason, sizeof reason))
		submit(s, OVER, path, len, "");
}

void unreadable_gone(struct set *s, const struct cdm_change *c)
{
	bool went = c->op == CDM_OP_UNLINK || c->op == CDM_OP_RMDIR || c->op == CDM_OP_RENAME;
	if (s->ready && went && !(c->flags & CDM_CH_RECEIVED) && quarantine_has_below(s->quarantine, c->path, c->path_len))
		submit(s, GONE, c->path, c->path_len, "");
}
