/* SPDX-License-Identifier: Apache-2.0 */
/* Names that are behind at a hostile peer. What decodes encodes to the same, but for names told twice. */
#include "fuzz.h"

#include <stdlib.h>
#include "replicator/overtaken.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct overtaken *o = overtaken_decode(data, size);
	struct bytes again = {0};
	if (!o)
		return 0;
	overtaken_encode(o, &again);
	struct overtaken *same = overtaken_decode(again.data, again.len);
	if (!same || again.len > size)
		abort();
	overtaken_free(&same);
	overtaken_free(&o);
	bytes_fini(&again);
	return 0;
}
