/* SPDX-License-Identifier: Apache-2.0 */
/* How links are used, as the master tells it in JSON. What is taken keeps its limits at every time of the week. */
#include "fuzz.h"

#include <stdlib.h>
#include <jansson.h>
#include "replicator/section.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct sections s;
	json_t *j = json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES, NULL);
	if (!j)
		return 0;
	if (sections_parse(j, &s, NULL) == 0) {
		for (size_t class = 0; class < SECTION_CLASSES; class++)
			for (int64_t hour = 0; hour < 24 * 7; hour++) {
				uint64_t rate = section_rate(&s.of[class], hour * 3600 * 1000000000ll);
				if (s.of[class].compression > 9 || rate > INT64_MAX)
					abort();
			}
	}
	json_decref(j);
	return 0;
}
