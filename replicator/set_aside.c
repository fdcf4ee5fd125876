/* SPDX-License-Identifier: Apache-2.0 */
/* set_aside.c — the quarantine (quarantine.h) as people see it and decide about it (cdmctl quarantine). */
#include "replicator/set_internal.h"

#include <stdlib.h>
#include <string.h>
#include "replicator/kept.h"
#include "replicator/quarantine.h"
#include "replicator/view.h"

struct errand {
	struct set *set;
	set_adopt_fn *done;
	void *arg;
	const char *id; /* while the list is gone through; "": all */
	json_t *found;
	char *path; /* to be dropped */
	size_t len;
};

static void add(void *arg, const struct set_aside *q)
{
	struct errand *e = arg;
	char id[KEPT_ID_SIZE];
	kept_id('Q', e->set->node->id->number, q->path, q->len, id);
	if (*e->id && strcmp(e->id, id) != 0)
		return;
	json_t *o = json_pack("{s:s, s:o, s:b}", "id", id, "reason", view_text(q->reason), "unread", q->unread);
	view_put_path(o, q->path, q->len);
	json_array_append_new(e->found, o);
	free(e->path);
	e->path = strndup(q->path, q->len);
	e->len = q->len;
}

static void answer(struct errand *e)
{
	e->done(e->arg, json_pack("{s:{s:o}}", "result", "quarantine", e->found));
	free(e->path);
	free(e);
}

static void drop_work(void *arg)
{
	struct errand *e = arg;
	quarantine_give_up(e->set->quarantine, e->path, e->len);
}

static void drop_done(void *arg)
{
	struct errand *e = arg;
	cdm_log(set_aside_dropped, cdm_str("set", set_name(e->set)), cdm_str("path", e->path));
	state_changed(e->set);
	answer(e);
}

void set_quarantine(struct set *s, const char *action, const char *id, bool dry, set_adopt_fn *done, void *arg)
{
	bool drops = strcmp(action, "drop") == 0;
	struct errand *e = calloc(1, sizeof *e);
	if (!e)
		abort();
	*e = (struct errand){.set = s, .done = done, .arg = arg, .id = drops ? id : "", .found = json_array()};
	quarantine_each(s->quarantine, add, e);
	if (drops && json_array_size(e->found) != 1) {
		json_decref(e->found);
		done(arg, json_pack("{s:s, s:s}", "error", "nothing is set aside here under that id", "hint", "cdmctl quarantine list shows all"));
		free(e->path);
		free(e);
	} else if (drops && !dry) {
		cdm_worker_submit(s->applier, drop_work, drop_done, e);
	} else {
		answer(e);
	}
}
