/* SPDX-License-Identifier: Apache-2.0 */
/* Records in clear. First byte even: the rest is what came from somebody without the key, which must never be taken. Odd: the rest but
 * its last two bytes is sealed, and must open again; changed at the place that these two say it must not. */
#include "fuzz.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include "replicator/plain.h"

static void check(bool good)
{
	if (!good)
		abort();
}

static struct plain *plain_make(void)
{
	static const uint8_t key[32] = {7};
	struct plain *p;
	check(plain_new(key, &p, NULL) == 0);
	return p;
}

static ssize_t open_with_new(const uint8_t *bytes, size_t len)
{
	struct plain *p = plain_make();
	size_t got;
	ssize_t r = plain_open(p, bytes, len, &got, NULL);
	check(r <= 0 || (got > 0 && (size_t)r == got + PLAIN_OVERHEAD && (size_t)r <= len));
	plain_free(&p);
	return r;
}

static void seal_and_open(const uint8_t *data, size_t size, uint16_t place)
{
	struct plain *p = plain_make();
	uint8_t *record = malloc(size + PLAIN_OVERHEAD);
	check(record);
	memcpy(record + PLAIN_HEAD, data, size);
	check(plain_seal(p, record, size, NULL) == 0);
	check(memcmp(record + PLAIN_HEAD, data, size) == 0);
	check(open_with_new(record, size + PLAIN_OVERHEAD) == (ssize_t)(size + PLAIN_OVERHEAD));
	check(open_with_new(record, size + PLAIN_OVERHEAD - 1) == 0);
	record[place % (size + PLAIN_OVERHEAD)] ^= (uint8_t)(1 + place / (size + PLAIN_OVERHEAD) % 255);
	check(open_with_new(record, size + PLAIN_OVERHEAD) <= 0);
	plain_free(&p);
	free(record);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint16_t place;
	if (size > 0 && data[0] % 2 == 0)
		check(open_with_new(data + 1, size - 1) <= 0);
	else if (size > 1 + sizeof place && size - 1 - sizeof place <= PLAIN_RECORD_MAX) {
		memcpy(&place, data + size - sizeof place, sizeof place);
		seal_and_open(data + 1, size - 1 - sizeof place, place);
	}
	return 0;
}
