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
	bool over;
	char *path;
	size_t len;
	char reason[256];
};

static void note_work(void *arg)
{
	struct note *n = arg;
	if (n->over)
		quarantine_resolve(n->set->quarantine, n->path, n->len);
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

static void submit(struct set *s, bool over, const char *path, size_t len, const char *reason)
{
	struct note *n = calloc(1, sizeof *n);
	if (!n || !(n->path = malloc(len + 1)))
		abort();
	n->set = s;
	n->over = over;
	memcpy(n->path, path, len);
	n->len = len;
	snprintf(n->reason, sizeof n->reason, "%s; save it again when it can be read", reason);
	s->posted++;
	cdm_worker_submit(s->applier, note_work, note_done, n);
}

void unreadable_said(struct peer *p, const char *path, size_t len, struct cdm_error *err)
{
	cdm_log_err(content_unreadable, err, cdm_str("set", set_name(p->set)), cdm_str("peer", link_peer_name(p->link)));
	submit(p->set, false, path, len, err->text);
	p->set->unreadable = true;
}

void unreadable_over(struct set *s, const char *path, size_t len)
{
	char reason[256];
	if (s->unreadable && quarantine_find(s->quarantine, path, len, reason, sizeof reason))
		submit(s, true, path, len, "");
}
