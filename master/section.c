/* SPDX-License-Identifier: Apache-2.0 */
#include "master/section.h"

#include <errno.h>
#include <string.h>

#define EPOCH_MINUTE (3 * 1440) /* 1970 began on a Thursday, a week begins on Monday */

static const char *const names[SECTION_COUNT] = {"group", "region", "international"};

const char *section_name(enum section which)
{
	return names[which];
}

enum section section_find(const char *name)
{
	enum section which = SECTION_GROUP;
	while (which < SECTION_COUNT && (!name || strcmp(names[which], name) != 0))
		which++;
	return which;
}

/* --- what is given ---------------------------------------------------------------------------------------------- */

static bool is_rate(int64_t rate)
{
	return rate == 0 || (rate >= SECTION_RATE_MIN && rate <= SECTION_RATE_MAX);
}

int section_check_rate(int64_t rate, struct cdm_error *err)
{
	if (is_rate(rate))
		return 0;
	cdm_fail_plain(err, EINVAL, "rate must be 0 (no limit), or %d to %lld bytes a second", SECTION_RATE_MIN, SECTION_RATE_MAX);
	cdm_hint(err, "cdmctl section set NAME --limit takes it with a unit: 100mbit, 10MB/s, none");
	return -EINVAL;
}

static int refuse_entry(size_t index, const char *what, struct cdm_error *err)
{
	cdm_fail_plain(err, EINVAL, "grid: entry %zu %s", index + 1, what);
	cdm_hint(err, "each is {\"from\":480,\"to\":1080,\"rate\":2500000}: minutes of the week in UTC from Monday 0:00, from < to <= %d, bytes a second",
		SECTION_WEEK_MINUTES);
	return -EINVAL;
}

static int check_entry(const json_t *entry, size_t index, struct cdm_error *err)
{
	const json_t *from = json_object_get(entry, "from"), *to = json_object_get(entry, "to"), *rate = json_object_get(entry, "rate");
	if (!json_is_integer(from) || !json_is_integer(to) || !json_is_integer(rate) || json_object_size(entry) != 3)
		return refuse_entry(index, "must have \"from\", \"to\" and \"rate\", whole numbers, and nothing else", err);
	json_int_t begin = json_integer_value(from), end = json_integer_value(to);
	if (begin < 0 || begin >= end || end > SECTION_WEEK_MINUTES)
		return refuse_entry(index, "is no part of a week", err);
	return is_rate(json_integer_value(rate)) ? 0 : refuse_entry(index, "has a rate that is not 0 (no limit) and too small or too large", err);
}

int section_check_grid(const json_t *grid, struct cdm_error *err)
{
	size_t i;
	json_t *entry;
	if (!json_is_array(grid) || json_array_size(grid) > SECTION_GRID_MAX)
		return cdm_fail_plain(err, EINVAL, "grid must be a list of at most %d entries", SECTION_GRID_MAX);
	json_array_foreach(grid, i, entry) {
		int r = check_entry(entry, i, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* --- what is in force ------------------------------------------------------------------------------------------- */

int64_t section_rate_at(const struct model_section *s, int64_t unix_seconds)
{
	json_int_t minute = (unix_seconds / 60 + EPOCH_MINUTE) % SECTION_WEEK_MINUTES;
	int64_t rate = s->rate;
	size_t i;
	json_t *entry;
	json_array_foreach(s->grid, i, entry)
		if (minute >= json_integer_value(json_object_get(entry, "from")) && minute < json_integer_value(json_object_get(entry, "to")))
			rate = json_integer_value(json_object_get(entry, "rate"));
	return rate;
}

json_t *section_json(const struct model_section *s)
{
	return json_pack("{s:i, s:b, s:b, s:I, s:O}", "compression", s->compression, "encryption", s->encryption, "delta", s->delta, "rate",
		(json_int_t)s->rate, "grid", s->grid);
}

json_t *sections_json(const struct model *m)
{
	json_t *all = json_object();
	for (enum section which = SECTION_GROUP; which < SECTION_COUNT; which++)
		json_object_set_new(all, names[which], section_json(&m->sections[which]));
	return all;
}
