/* SPDX-License-Identifier: Apache-2.0 */
/* Whatever decodes as a change encodes to the same bytes again; vectors and stamps likewise. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>
#include "common/change.h"

static void try_change(const uint8_t *data, size_t size)
{
	struct cdm_change c;
	int n = cdm_change_decode(data, size, &c);
	if (n < 0)
		return;
	size_t max = cdm_change_encoded_max(&c);
	uint8_t *again = malloc(max ? max : 1);
	if (!again || max < (size_t)n || cdm_change_encode(&c, again) != (size_t)n || memcmp(again, data, (size_t)n) != 0)
		abort();
	free(again);
	cdm_change_fini(&c);
}

static void try_vector(const uint8_t *data, size_t size)
{
	struct cdm_vector v, back;
	int n = cdm_vector_decode(data, size, &v);
	if (n < 0)
		return;
	char *text = cdm_vector_format(&v);
	if (cdm_vector_encoded_size(&v) != (size_t)n || cdm_vector_parse(text, &back) < 0 || !cdm_vector_equal(&v, &back))
		abort();
	free(text);
	cdm_vector_fini(&v);
	cdm_vector_fini(&back);
}

static void try_text(const uint8_t *data, size_t size)
{
	struct cdm_vector v;
	char *text = strndup((const char *)data, size);
	if (!text)
		abort();
	if (cdm_vector_parse(text, &v) == 0)
		cdm_vector_fini(&v);
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cdm_stamp stamp;
	try_change(data, size);
	try_vector(data, size);
	try_text(data, size);
	cdm_stamp_decode(data, size, &stamp);
	return 0;
}
