/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/scrub_judge.h"

#include <string.h>

#define DAY_S 86400
#define NIGHT_BEGINS_S (1 * 3600)
#define NIGHT_S (4 * 3600)

bool scrub_is_right(const struct scrub_vote *vote, const uint8_t right[SCRUB_DIGEST_SIZE])
{
	return vote->sound && memcmp(vote->digest, right, SCRUB_DIGEST_SIZE) == 0;
}

static size_t votes_like(const struct scrub_vote *votes, size_t count, const struct scrub_vote *like)
{
	size_t n = 0;
	for (size_t i = 0; i < count; i++)
		n += scrub_is_right(&votes[i], like->digest);
	return n;
}

/* What somebody is sure of; NULL: nobody, or of different things. */
static const struct scrub_vote *find_sure(const struct scrub_vote *votes, size_t count)
{
	const struct scrub_vote *sure = NULL;
	for (size_t i = 0; i < count; i++) {
		if (!votes[i].sure)
			continue;
		if (sure && !scrub_is_right(&votes[i], sure->digest))
			return NULL;
		sure = &votes[i];
	}
	return sure;
}

enum scrub_verdict scrub_judge(const struct scrub_vote *votes, size_t count, uint32_t author, uint8_t ret_right[SCRUB_DIGEST_SIZE])
{
	const struct scrub_vote *best = NULL;
	size_t most = 0;
	bool tied = false, by_author = false;
	for (size_t i = 0; i < count; i++) {
		const struct scrub_vote *v = &votes[i];
		size_t n = v->sound ? votes_like(votes, count, v) : 0;
		if (!n || n < most)
			continue;
		bool other = best && !scrub_is_right(v, best->digest), authors = v->node == author;
		tied = n == most && (tied || other);
		by_author = n == most && by_author;
		if (n > most || (authors && !by_author))
			best = v;
		by_author |= authors;
		most = n;
	}
	if (most == count)
		return SCRUB_EQUAL;
	const struct scrub_vote *sure = find_sure(votes, count);
	if (!sure && (!best || (tied && !by_author)))
		return SCRUB_UNDECIDED;
	best = sure ? sure : best;
	memcpy(ret_right, best->digest, SCRUB_DIGEST_SIZE);
	return SCRUB_DECIDED;
}

int64_t scrub_next_due(int64_t now_s, uint32_t node, bool good)
{
	int64_t spread = (int64_t)((node * 2654435761u) % NIGHT_S);
	int64_t due = now_s - now_s % DAY_S + NIGHT_BEGINS_S + spread + (good ? 7 * DAY_S : 0);
	while (due <= now_s)
		due += DAY_S;
	return due;
}
