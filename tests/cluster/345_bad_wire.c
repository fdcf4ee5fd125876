/* SPDX-License-Identifier: Apache-2.0 */
/* A wire that loses, doubles, exchanges and spoils frames (tests/lab/wire.c), between all nodes and all the time; what is spoiled has a good TCP
 * checksum. No wrong byte gets into a file: a link that was lied to ends, and is made again. */
#include "tests/cluster/story.h"

#include <stdlib.h>
#include <string.h>

static unsigned lines_with(const char *word)
{
	_cleanup_free_ char *said = NULL;
	shell_status("n1", &said, "cat %s/logs/*-replicator.log | grep -c '%s'", lab_dir(lab), word);
	return (unsigned)atoi(said);
}

static void small_files_and_large_ones(void **state)
{
	for (int round = 0; round < 4; round++)
		shell("n1", "mkdir small-%d && for i in $(seq 150); do echo $i-%d > small-%d/$i; done; head -c 3M /dev/urandom > large-%d; head -c 400k /dev/urandom > middle-%d",
			round, round, round, round, round);
	save("n2", "back", "the other way");
	everywhere_equal();
}

static void without_encryption(void **state)
{
	administrator("section", "set", "group", "--encryption", "off", NULL);
	shell("n1", "for i in 1 2 3 4; do head -c 2M /dev/urandom > plain-$i; done; mv small-1 moved");
	everywhere_equal();
}

static void links_did_end_because_of_it(void **state)
{
	unsigned ends = lines_with("event=link_down");
	print_message("links ended %u times\n", ends);
	assert_true(ends > 0);
}

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(small_files_and_large_ones),
		cmocka_unit_test(without_encryption),
		cmocka_unit_test(links_did_end_because_of_it),
	};
	setenv("LAB_WIRE_FAULTS", "drop=200 double=100 swap=50 spoil=1500 after=40", 1);
	return STORIES("wire", ((struct lab_options){.nodes = 3, .netns = true, .delay_us = 200}), stories);
}
