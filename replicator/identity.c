/* SPDX-License-Identifier: Apache-2.0 */
/* identity.c — a peer knows more of this node's changes than the node itself: its store is a new or a restored one (design.md 5 "Identity"). What it
 * makes from now on gets another incarnation, or it would go under numbers that the others have already. Loop thread, but for the work. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/xattr.h>
#include "replicator/rights.h"

struct renewal {
	struct set *set;
	uint32_t known; /* the newest incarnation of ours of which a peer knows more */
	struct cdm_error err;
};

static void renew_work(void *arg)
{
	struct renewal *r = arg;
	char full[512], known[16];
	snprintf(full, sizeof full, "%s/full", r->set->run_dir);
	int len = snprintf(known, sizeof known, "%u", r->known);
	if (setxattr(full, "trusted.cdmfs.incarnation", known, (size_t)len, 0) < 0)
		cdm_fail(&r->err, errno, "take a new incarnation, for a peer knows of number %u of this node", r->known);
}

static void renew_done(void *arg)
{
	struct renewal *r = arg;
	r->set->posted--;
	if (r->err.number)
		cdm_log_err(failed, &r->err, cdm_str("set", set_name(r->set)));
	free(r);
}

void identity_check(struct peer *p, const struct cdm_vector *theirs)
{
	struct set *s = p->set;
	uint32_t known = 0;
	for (size_t i = 0; i < theirs->count; i++) {
		const struct cdm_dot *d = &theirs->entries[i];
		bool more = CDM_ORIGIN_NODE(d->origin) == s->node->id->number && d->number > cdm_vector_get(&s->follow.visible, d->origin);
		if (more && CDM_ORIGIN_INCARNATION(d->origin) > known)
			known = CDM_ORIGIN_INCARNATION(d->origin);
	}
	struct renewal *r = known && rights_renews(p) ? calloc(1, sizeof *r) : NULL;
	if (!r)
		return;
	r->set = s;
	r->known = known;
	s->posted++;
	cdm_worker_submit(s->caller, renew_work, renew_done, r);
}
