/* SPDX-License-Identifier: Apache-2.0 */
/* scrub_judge.h — nodes hold one version of a file and their bytes differ: which are right (design.md 6, "Scrub")? Pure. */
#ifndef REPLICATOR_SCRUB_JUDGE_H
#define REPLICATOR_SCRUB_JUDGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SCRUB_DIGEST_SIZE 16

struct scrub_vote { /* what one node has */
	uint32_t node;
	bool sound; /* false: the node knows that its copy is wrong (SCRUB_BAD): it has no vote */
	bool sure;  /* it is known to be what was sent: then it is right, whatever the others have */
	uint8_t digest[SCRUB_DIGEST_SIZE];
};

enum scrub_verdict {
	SCRUB_EQUAL,     /* all that have it have the same */
	SCRUB_DECIDED,   /* *ret_right is what somebody is sure of, else what the most have, or, of as many, what the node has that wrote it */
	SCRUB_UNDECIDED, /* nobody can tell */
};
enum scrub_verdict scrub_judge(const struct scrub_vote *votes, size_t count, uint32_t author, uint8_t ret_right[SCRUB_DIGEST_SIZE]);
bool scrub_is_right(const struct scrub_vote *vote, const uint8_t right[SCRUB_DIGEST_SIZE]);

/* When the next scrub is due, in Unix seconds: at night (UTC), a week after a good one, a night after one that found something or
 * was not made yet; the nodes of a set at different times. */
int64_t scrub_next_due(int64_t now_s, uint32_t node, bool good);

#endif
