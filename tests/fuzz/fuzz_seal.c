/* SPDX-License-Identifier: Apache-2.0 */
/* What authors signed, and what of it was seen, from a hostile peer. What decodes encodes to the same bytes. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>
#include "replicator/seal_codec.h"

static void check_seal(const uint8_t *data, size_t size)
{
	static struct seal seal;
	struct bytes statement = {0}, payload = {0};
	if (seal_decode(data, size, &seal) < 0)
		return;
	seal_statement_encode(&seal, &statement);
	seal.statement = statement.data;
	seal.statement_len = statement.len;
	seal_encode(&seal, &payload);
	if (payload.len != size || memcmp(payload.data, data, size) != 0)
		abort();
	bytes_fini(&statement);
	bytes_fini(&payload);
	seal_fini(&seal);
}

static void check_seen(const uint8_t *data, size_t size)
{
	static struct seal_seen seen;
	struct bytes payload = {0};
	if (seal_seen_decode(data, size, &seen) < 0)
		return;
	seal_seen_encode(&seen, &payload);
	if (payload.len != size || memcmp(payload.data, data, size) != 0)
		abort();
	bytes_fini(&payload);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	if (data[0] & 1)
		check_seen(data + 1, size - 1);
	else
		check_seal(data + 1, size - 1);
	return 0;
}
