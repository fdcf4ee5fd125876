/* SPDX-License-Identifier: Apache-2.0 */
/* Frames of the link layer. First byte: which decoder; the rest: its bytes. What decodes must encode to something that decodes to the
 * same again. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>
#include "replicator/wire_codec.h"

static void check(bool good)
{
	if (!good)
		abort();
}

static void try_state(const uint8_t *data, size_t size)
{
	struct wire_state s, again;
	if (wire_state_decode(data, size, &s) < 0)
		return;
	size_t room = wire_state_size(&s);
	uint8_t *bytes = malloc(room);
	check(bytes && wire_state_encode(&s, bytes) == room);
	check(room == size && memcmp(bytes, data, size) == 0);
	check(wire_state_decode(bytes, room, &again) == 0);
	check(cdm_vector_equal(&s.visible, &again.visible) && cdm_vector_equal(&s.durable, &again.durable));
	wire_state_fini(&s);
	wire_state_fini(&again);
	free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t bytes[WIRE_SMALL_MAX];
	if (size == 0)
		return 0;
	uint8_t which = data[0] % 6;
	data++;
	size--;
	if (which == 0 && size >= WIRE_HEADER) {
		struct wire_header h;
		if (wire_header_decode(data, &h, NULL) == 0) {
			wire_header_encode(&h, bytes);
			check(memcmp(bytes, data, WIRE_HEADER) == 0);
		}
	} else if (which == 1) {
		struct wire_hello h;
		if (wire_hello_decode(data, size, &h) == 0)
			check(wire_hello_encode(&h, bytes) <= size);
	} else if (which == 2) {
		struct wire_error e;
		if (wire_error_decode(data, size, &e) == 0)
			check(wire_error_encode(&e, bytes) == size && memcmp(bytes, data, size) == 0);
	} else if (which == 3) {
		struct wire_set_up s;
		if (wire_set_up_decode(data, size, &s) == 0)
			check(wire_set_up_encode(&s, bytes) == size && memcmp(bytes, data, size) == 0);
	} else if (which == 4) {
		struct wire_set_down s;
		if (wire_set_down_decode(data, size, &s) == 0)
			check(wire_set_down_encode(&s, bytes) == size && memcmp(bytes, data, size) == 0);
	} else if (which == 5) {
		try_state(data, size);
	}
	return 0;
}
