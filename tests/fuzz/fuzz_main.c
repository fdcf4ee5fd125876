/* SPDX-License-Identifier: Apache-2.0 */
/* Replays a corpus directory: fuzz_NAME CORPUS-DIRECTORY. Input that once crashed a decoder stays in the corpus. */
#include "fuzz.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/io.h"

#define INPUT_MAX (1u << 20)
#define TRUNCATIONS_MAX 4096u /* of long inputs only so many, evenly spread */

/* In memory of exactly this size, so that a sanitizer sees a read behind it. */
static void replay(const char *bytes, size_t size)
{
	uint8_t *copy = malloc(size ? size : 1);
	if (!copy)
		abort();
	memcpy(copy, bytes, size);
	LLVMFuzzerTestOneInput(copy, size);
	free(copy);
}

static int replay_file(int dir_fd, const char *name)
{
	struct cdm_error err = CDM_ERROR_INIT;
	_cleanup_free_ char *bytes = NULL;
	size_t size;
	if (cdm_read_file(dir_fd, name, INPUT_MAX, &bytes, &size, &err) < 0) {
		cdm_error_print("fuzz", &err);
		return -1;
	}
	size_t step = size / TRUNCATIONS_MAX + 1;
	for (size_t len = 0; len < size; len += step)
		replay(bytes, len);
	replay(bytes, size);
	return 0;
}

int main(int argc, char **argv)
{
	DIR *dir = argc == 2 ? opendir(argv[1]) : NULL;
	int count = 0;
	if (!dir) {
		fprintf(stderr, "usage: %s CORPUS-DIRECTORY\n", argv[0]);
		return 2;
	}
	for (struct dirent *e; (e = readdir(dir));) {
		if (e->d_name[0] == '.')
			continue;
		if (replay_file(dirfd(dir), e->d_name) < 0)
			return 1;
		count++;
	}
	closedir(dir);
	printf("%d inputs and their truncations replayed\n", count);
	return count > 0 ? 0 : 1;
}
