/* SPDX-License-Identifier: Apache-2.0 */
/* Listings of directories from a hostile peer, in two frames cut at the place that the first byte says. What decodes encodes to the same
 * bytes but for the owners' names, which are those of this machine. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>
#include "replicator/resync.h"

static void check(const struct listing *l)
{
	for (size_t i = 0; i < l->count; i++) {
		const struct entry *e = &l->entries[i];
		struct bytes again = {0};
		if (e->name_len == 0 || e->name_len > CDM_NAME_LEN_MAX || memchr(e->name, '/', e->name_len) || memchr(e->name, 0, e->name_len) ||
			e->user_len > FRAME_OWNER_MAX || e->owner_group_len > FRAME_OWNER_MAX)
			abort();
		entry_encode(e, &again);
		bytes_fini(&again);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct listing l = {0};
	if (size == 0)
		return 0;
	size_t first = (size - 1) * data[0] / 255;
	if (listing_decode(data + 1, first, &l) == 0 && listing_decode(data + 1 + first, size - 1 - first, &l) == 0) {
		listing_settle(&l);
		check(&l);
	}
	listing_free(&l);
	return 0;
}
