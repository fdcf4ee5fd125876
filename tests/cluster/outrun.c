/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/cluster/outrun.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "tests/cluster/story.h"

#define LINKS_PER_ROUND 5000
#define LINKS_AT_ONCE 1000
#define TARGET_BYTES 3500

/* Or it would be outrun, too. */
static void witnessed(const char *node, const char *witness, int number)
{
	char mark[32];
	snprintf(mark, sizeof mark, "link %d", number);
	save(node, "many-mark", mark);
	if (witness)
		gets_text(witness, "many-mark", mark);
}

void outrun_the_journal(const char *node, const char *witness)
{
	char target[TARGET_BYTES], path[64];
	memset(target, 'x', sizeof target - 1);
	target[sizeof target - 1] = 0;
	_cleanup_free_ char *folder = lab_path(lab, node, "many");
	if (mkdir(folder, 0755) < 0)
		assert_int_equal(errno, EEXIST);
	for (int round = 0; round < 2; round++) {
		for (int i = 0; i < LINKS_PER_ROUND; i++) {
			snprintf(path, sizeof path, "many/link-%d", i);
			_cleanup_free_ char *full = lab_path(lab, node, path);
			assert_int_equal(symlink(target, full), 0);
			if (i % LINKS_AT_ONCE == LINKS_AT_ONCE - 1)
				witnessed(node, witness, round * LINKS_PER_ROUND + i);
		}
		for (int i = 0; i < LINKS_PER_ROUND; i++) {
			snprintf(path, sizeof path, "many/link-%d", i);
			remove_file(node, path);
		}
	}
}
