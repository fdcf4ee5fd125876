/* SPDX-License-Identifier: Apache-2.0 */
/* What somebody who wants to join says is his token. What is taken is exactly what would be given out. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>
#include "master/token.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct token t;
	char again[TOKEN_TEXT], *text = malloc(size + 1);
	if (!text)
		abort();
	memcpy(text, data, size);
	text[size] = 0;
	if (token_parse(text, &t) == 0) {
		token_format(&t, again);
		if (strcmp(again, text) != 0)
			abort();
	}
	free(text);
	return 0;
}
