/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/section.h"

#include <errno.h>
#include <string.h>
#include "replicator/node.h"

#define MINUTE_NS 60000000000ll
#define EPOCH_MINUTE (3 * 1440) /* the clock's zero was a Thursday */

static const char *const names[SECTION_CLASSES] = {"group", "region", "international"};

const char *section_name(enum section_class class)
{
	return names[class];
}

void sections_default(struct sections *ret)
{
	static const unsigned compression[SECTION_CLASSES] = {1, 3, 6};
	for (unsigned i = 0; i < SECTION_CLASSES; i++)
		ret->of[i] = (struct section){.compression = compression[i], .encryption = true, .delta = true};
}

/* --- from JSON; what is missing keeps the default --- */

static int parse_number(const json_t *o, const char *key, json_int_t most, json_int_t *ret)
{
	const json_t *j = json_object_get(o, key);
	if (!j)
		return 0;
	*ret = json_integer_value(j);
	return json_is_integer(j) && *ret >= 0 && *ret <= most ? 0 : -EBADMSG;
}

static int parse_bool(const json_t *o, const char *key, bool *ret)
{
	const json_t *j = json_object_get(o, key);
	if (j)
		*ret = json_is_true(j);
	return !j || json_is_boolean(j) ? 0 : -EBADMSG;
}

static int parse_span(const json_t *j, struct section_span *ret)
{
	json_int_t from = -1, to = -1, rate = -1;
	if (!json_is_object(j) || parse_number(j, "from", SECTION_WEEK_MINUTES, &from) < 0 || parse_number(j, "to", SECTION_WEEK_MINUTES, &to) < 0 ||
		parse_number(j, "rate", INT64_MAX, &rate) < 0 || from < 0 || rate < 0 || from >= to)
		return -EBADMSG;
	*ret = (struct section_span){.from = (unsigned)from, .to = (unsigned)to, .rate = (uint64_t)rate};
	return 0;
}

static int parse_grid(const json_t *j, const char *name, struct section *s, struct cdm_error *err)
{
	if (j && (!json_is_array(j) || json_array_size(j) > SECTION_GRID_MAX))
		return cdm_fail_plain(err, EBADMSG, "routes: section %s: \"grid\" is no list of at most %d spans", name, SECTION_GRID_MAX);
	for (size_t i = 0; i < json_array_size(j); i++) {
		if (parse_span(json_array_get(j, i), &s->grid[i]) < 0)
			return cdm_fail_plain(err, EBADMSG, "routes: section %s: span %zu of the grid is not \"from\" < \"to\" <= %d (minutes of the week) and a \"rate\"",
				name, i + 1, SECTION_WEEK_MINUTES);
		s->grid_count = (unsigned)i + 1;
	}
	return 0;
}

static int parse_section(const json_t *j, const char *name, struct section *s, struct cdm_error *err)
{
	json_int_t compression = s->compression, rate = 0;
	if (!j)
		return 0;
	if (!json_is_object(j))
		return cdm_fail_plain(err, EBADMSG, "routes: section %s is no object", name);
	if (parse_number(j, "compression", 9, &compression) < 0)
		return cdm_fail_plain(err, EBADMSG, "routes: section %s: \"compression\" is no number from 0 to 9", name);
	if (parse_number(j, "rate", INT64_MAX, &rate) < 0)
		return cdm_fail_plain(err, EBADMSG, "routes: section %s: \"rate\" is no number of bytes a second", name);
	if (parse_bool(j, "encryption", &s->encryption) < 0 || parse_bool(j, "delta", &s->delta) < 0)
		return cdm_fail_plain(err, EBADMSG, "routes: section %s: \"encryption\" and \"delta\" are true or false", name);
	s->compression = (unsigned)compression;
	s->rate = (uint64_t)rate;
	return parse_grid(json_object_get(j, "grid"), name, s, err);
}

int sections_parse(const json_t *j, struct sections *ret, struct cdm_error *err)
{
	sections_default(ret);
	if (j && !json_is_object(j))
		return cdm_fail_plain(err, EBADMSG, "routes: \"sections\" is no object");
	for (unsigned i = 0; i < SECTION_CLASSES; i++) {
		int r = parse_section(json_object_get(j, names[i]), names[i], &ret->of[i], err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* --- which, and how fast now --- */

static bool same(const char *a, const char *b)
{
	return a && b && strcmp(a, b) == 0;
}

enum section_class section_class_of(const struct member *own, const struct member *peer)
{
	if (!own || !peer || !same(own->region, peer->region))
		return SECTION_INTERNATIONAL;
	return same(own->group, peer->group) ? SECTION_GROUP : SECTION_REGION;
}

uint64_t section_rate(const struct section *s, int64_t wall_ns)
{
	unsigned minute = (unsigned)((wall_ns / MINUTE_NS + EPOCH_MINUTE) % SECTION_WEEK_MINUTES);
	uint64_t rate = s->rate;
	for (unsigned i = 0; i < s->grid_count; i++)
		if (minute >= s->grid[i].from && minute < s->grid[i].to)
			rate = s->grid[i].rate;
	return rate;
}
