/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "master/master.h"

#define NEWS_HELD 1000

struct news_follower {
	struct news_follower *next;
	news_fn *fn;
	void *arg;
};
struct news {
	struct master *master;
	struct news_item held[NEWS_HELD];
	uint64_t next_id;
	size_t count;
	struct news_follower *followers;
};

struct news *news_new(struct master *m)
{
	struct news *n = calloc(1, sizeof *n);
	if (n) {
		n->master = m;
		n->next_id = (uint64_t)time(NULL) * 1000; /* later than every id of an earlier process */
	}
	return n;
}

void news_free(struct news **pn)
{
	struct news *n = *pn;
	*pn = NULL;
	if (!n)
		return;
	for (size_t i = 0; i < NEWS_HELD; i++)
		free(n->held[i].json);
	free(n);
}

void news_tell(struct news *n, int level, const char *name, const char *node, const char *set, const char *fmt, ...)
{
	char text[500], at[32];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	time_t now = time(NULL);
	master_format_time(now, at);
	uint64_t id = n->next_id++;
	/* texts of nodes may hold any bytes: what is not UTF-8 is dropped whole */
	json_t *shown = json_string(text);
	json_t *item = json_pack("{s:I, s:s, s:i, s:s, s:s, s:s, s:o}", "id", (json_int_t)id, "at", at, "level", level, "name", name, "node", node ? node : "",
		"set", set ? set : "", "text", shown ? shown : json_string(""));
	struct news_item *slot = &n->held[id % NEWS_HELD];
	free(slot->json);
	*slot = (struct news_item){.id = id, .json = json_dumps(item, JSON_COMPACT)};
	if (level <= 5 && !n->master->stopping) {
		json_object_set_new(item, "at", json_integer(now));
		registry_submit(n->master->registry, REG_EVENT, json_incref(item), NULL, false, NULL, NULL);
	}
	json_decref(item);
	for (struct news_follower *f = n->followers, *next; f && slot->json; f = next) {
		next = f->next;
		f->fn(f->arg, slot);
	}
}

void news_replay(const struct news *n, uint64_t since, news_fn *fn, void *arg)
{
	uint64_t first = n->next_id > NEWS_HELD ? n->next_id - NEWS_HELD : 0;
	for (uint64_t id = since + 1 > first ? since + 1 : first; id < n->next_id; id++) {
		const struct news_item *item = &n->held[id % NEWS_HELD];
		if (item->json && item->id == id)
			fn(arg, item);
	}
}

struct news_follower *news_follow(struct news *n, news_fn *fn, void *arg)
{
	struct news_follower *f = calloc(1, sizeof *f);
	if (!f)
		return NULL;
	*f = (struct news_follower){.next = n->followers, .fn = fn, .arg = arg};
	n->followers = f;
	return f;
}

void news_unfollow(struct news *n, struct news_follower **pf)
{
	for (struct news_follower **at = &n->followers; *at; at = &(*at)->next)
		if (*at == *pf) {
			*at = (*pf)->next;
			break;
		}
	free(*pf);
	*pf = NULL;
}
