/* SPDX-License-Identifier: Apache-2.0 */
/* How sites are deployed: rsync --link-dest into a new release, a symbolic link made and moved over the old one, the release before the last
 * removed; all of it while every node is read. Readers see the old release, then the new one, whole, and never nothing. */
#include "tests/cluster/story.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RELEASES 12
#define PAGE_BYTES 40000
#define PAGES 40

/* The working copy that is deployed, beside the nodes: some pages change with each release, most stay. */
static void make_release(const char *source, unsigned version)
{
	char path[700];
	static uint64_t page[PAGE_BYTES / sizeof(uint64_t)];
	for (unsigned i = 0; i < PAGES; i++) {
		if (version > 1 && i % 8)
			continue;
		fill_version(page, sizeof page, version);
		snprintf(path, sizeof path, "%s/page-%u", source, i);
		FILE *f = fopen(path, "w");
		assert_non_null(f);
		assert_int_equal(fwrite(page, 1, sizeof page, f), sizeof page);
		assert_int_equal(fclose(f), 0);
	}
}

static void deployed(const char *source, unsigned version)
{
	make_release(source, version);
	shell("n1", "cd site && rsync -a %s%u/ %s/ releases/%u/ && ln -s releases/%u current.new && mv -T current.new current",
		version > 1 ? "--link-dest=$PWD/releases/" : "--exclude=", version > 1 ? version - 1 : 0, source, version, version);
	if (version > 2)
		shell("n1", "rm -rf site/releases/%u", version - 2);
}

struct expected_link {
	const char *node;
	unsigned version;
};

static bool shows_release(void *arg, char *seen)
{
	struct expected_link *e = arg;
	char wanted[64], now[64] = "";
	_cleanup_free_ char *link = lab_path(lab, e->node, "site/current");
	snprintf(wanted, sizeof wanted, "releases/%u", e->version);
	ssize_t n = readlink(link, now, sizeof now - 1);
	snprintf(seen, 512, "%s shows %s", e->node, n < 0 ? "nothing" : now);
	return strcmp(now, wanted) == 0;
}

static void all_show(unsigned version)
{
	for (unsigned i = 0; i < lab_node_count(lab); i++) {
		struct cdm_error err = CDM_ERROR_INIT;
		struct expected_link e = {lab_node_name(lab, i), version};
		if (lab_wait_for(shows_release, &e, STORY_MS, "the release", &err) < 0)
			fail_msg("%s", err.text);
	}
}

static void release_after_release_while_it_is_read(void **state)
{
	char source[600];
	struct reader *readers[3][2];
	snprintf(source, sizeof source, "%s/working-copy", lab_dir(lab));
	assert_int_equal(mkdir(source, 0755), 0);
	shell("n1", "mkdir -p site/releases");
	deployed(source, 1);
	everywhere_equal();
	for (unsigned i = 0; i < 3; i++) {
		readers[i][0] = reader_begin(lab_node_name(lab, i), "site/current/page-0", false); /* changes with each release */
		readers[i][1] = reader_begin(lab_node_name(lab, i), "site/current/page-1", false); /* linked from release to release */
	}
	for (unsigned version = 2; version <= RELEASES; version++) {
		deployed(source, version);
		all_show(version); /* the one before is removed by the next: who has just read the link has that long */
	}
	shell("n1", "cd site && ln -s releases/%d current.new && mv -T current.new current", RELEASES - 1); /* and back */
	all_show(RELEASES - 1);
	for (unsigned i = 0; i < 6; i++)
		assert_true(reader_end(readers[i / 2][i % 2]) > 0);
	everywhere_equal();
	shell("n2", "test \"$(ls site/releases | wc -l)\" = 2 && test \"$(stat -c %%h site/releases/%d/page-1)\" -gt 1", RELEASES);
}

static void a_deploy_that_is_undone_at_once(void **state)
{
	shell("n1", "cd site && ln -s releases/%d current.new && mv -T current.new current && ln -s releases/%d current.new && mv -T current.new current",
		RELEASES, RELEASES - 1);
	everywhere_equal();
	all_show(RELEASES - 1);
}

static void with_nodes_that_die_meanwhile(void **state)
{
	char source[600];
	snprintf(source, sizeof source, "%s/working-copy", lab_dir(lab));
	struct reader *reader = reader_begin("n3", "site/current/page-0", false);
	for (unsigned version = RELEASES + 1; version <= RELEASES + 6; version++) {
		deployed(source, version);
		killed(version % 2 ? "n2" : "n3", version % 3 ? LAB_REPLICATOR : LAB_SERVER);
		if (version % 3)
			started(version % 2 ? "n2" : "n3", LAB_REPLICATOR);
	}
	all_show(RELEASES + 6);
	assert_true(reader_end(reader) > 0);
	everywhere_equal();
}

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(release_after_release_while_it_is_read),
		cmocka_unit_test(a_deploy_that_is_undone_at_once),
		cmocka_unit_test(with_nodes_that_die_meanwhile),
	};
	return STORIES("deploy", ((struct lab_options){.nodes = 3, .sources = "n1"}), stories);
}
