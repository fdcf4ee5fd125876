/* SPDX-License-Identifier: Apache-2.0 */
/* identity.c — a peer knows more of this node's changes than the node itself: its store is a new or a restored one (design.md 5 "Identity"). What it
 * makes from now on gets another incarnation, or it would go under numbers that the others have already. Loop thread, but for the work. */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/xattr.h>
#include "replicator/set_internal.h"

#define STATUS_MAX 65536
#define STEPS_MAX 64 /* incarnations at a time, whatever a peer says */

struct renewal {
	struct set *set;
	cdm_origin known; /* the newest of ours of which a peer knows more */
	struct cdm_error err;
};

/* 0: the mount does not tell. */
static cdm_origin current(const char *full)
{
	char text[STATUS_MAX];
	unsigned node, incarnation;
	ssize_t n = getxattr(full, "trusted.cdmfs.status", text, sizeof text);
	json_t *status = n > 0 ? json_loadb(text, (size_t)n, 0, NULL) : NULL;
	const char *origin = json_string_value(json_object_get(status, "origin"));
	bool told = origin && sscanf(origin, "%u.%u", &node, &incarnation) == 2;
	json_decref(status);
	return told ? CDM_ORIGIN(node, incarnation) : 0;
}

static void renew_work(void *arg)
{
	struct renewal *r = arg;
	char full[512];
	snprintf(full, sizeof full, "%s/full", r->set->run_dir);
	cdm_origin now = current(full);
	for (int i = 0; now && now <= r->known && i < STEPS_MAX; i++, now = current(full))
		if (setxattr(full, "trusted.cdmfs.incarnation", "", 0, 0) < 0) {
			cdm_fail(&r->err, errno, "take a new incarnation");
			return;
		}
}

static void renew_done(void *arg)
{
	struct renewal *r = arg;
	r->set->posted--;
	if (r->err.number)
		cdm_log_err(failed, &r->err, cdm_str("set", set_name(r->set)));
	free(r);
}

void identity_check(struct set *s, const struct cdm_vector *theirs)
{
	cdm_origin known = 0;
	for (size_t i = 0; i < theirs->count; i++) {
		const struct cdm_dot *d = &theirs->entries[i];
		bool more = CDM_ORIGIN_NODE(d->origin) == s->node->id->number && d->number > cdm_vector_get(&s->follow.visible, d->origin);
		if (more && d->origin > known)
			known = d->origin;
	}
	struct renewal *r = known ? calloc(1, sizeof *r) : NULL;
	if (!r)
		return;
	r->set = s;
	r->known = known;
	s->posted++;
	cdm_worker_submit(s->caller, renew_work, renew_done, r);
}
