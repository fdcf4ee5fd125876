/* SPDX-License-Identifier: Apache-2.0 */
/* Signatures and lists of copies from a hostile peer or a damaged file: the first byte says which. What decodes encodes to the same bytes
 * again, and every copy lies within both files. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>
#include "replicator/delta.h"

#define OLD_SIZE 100000
#define NEW_SIZE 200000

static void same(const struct bytes *again, const uint8_t *data, size_t size)
{
	if (again->len != size || (size && memcmp(again->data, data, size) != 0))
		abort();
}

static void try_signature(const uint8_t *data, size_t size)
{
	struct delta_signature *s;
	if (delta_signature_decode(data, size, &s) < 0)
		return;
	struct bytes again = {0};
	delta_signature_encode(s, &again);
	same(&again, data, size);
	if (again.len != delta_signature_size(s))
		abort();
	bytes_fini(&again);
	free(s);
}

/* In two parts, as two frames would bring them. */
static void try_copies(const uint8_t *data, size_t size)
{
	struct delta_copies c = {0};
	size_t first = size / 2;
	if (delta_copies_decode(data, size, OLD_SIZE, NEW_SIZE, &c) == 0) {
		struct bytes again = {0};
		uint64_t at = 0, bytes = 0;
		for (size_t i = 0; i < c.count; i++) {
			const struct delta_copy *k = &c.list[i];
			if (k->at < at || !k->length || k->length > NEW_SIZE - k->at || k->from > OLD_SIZE || k->length > OLD_SIZE - k->from)
				abort();
			at = k->at + k->length;
			bytes += k->length;
		}
		if (bytes != c.bytes || delta_copies_encode(&c, 0, size + 64, &again) != c.count)
			abort();
		same(&again, data, size);
		bytes_fini(&again);
	}
	delta_copies_fini(&c);
	if (delta_copies_decode(data, first, OLD_SIZE, NEW_SIZE, &c) == 0)
		delta_copies_decode(data + first, size - first, OLD_SIZE, NEW_SIZE, &c);
	delta_copies_fini(&c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!size)
		return 0;
	if (data[0] & 1)
		try_signature(data + 1, size - 1);
	else
		try_copies(data + 1, size - 1);
	return 0;
}
