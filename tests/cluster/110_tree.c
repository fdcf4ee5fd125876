/* SPDX-License-Identifier: Apache-2.0 */
/* A tree of some thousand files of every kind is copied, replaced by its next version, renamed and removed. */
#include "tests/cluster/story.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A documentation tree as generators make them: 60 directories of 50 pages, some large, with everything a filesystem can hold. */
static void write_tree(const char *node, const char *path, const char *version)
{
	shell(node, "mkdir %s && cd %s && for d in $(seq 60); do mkdir -p part-$((d %% 7))/chapter-$d && for f in $(seq 50); do "
		    "printf '%%s page %%s of %%s\\n%%0*d\\n' '%s' $f $d $((f * 40)) 0 > part-$((d %% 7))/chapter-$d/page-$f.html; done; done",
		path, path, version);
	shell(node, "cd %s && mkdir odd 'odd/with blank' && cd odd && printf x > $'new\\nline' && printf x > $'not-utf8-\\xff\\xfe' && "
		    "printf x > \"$(printf 'n%%.0s' $(seq 255))\" && printf x > ' ' && printf x > '*?[a]' && printf x > -dash && printf x > '\"quoted\"' && "
		    "printf x > '.hidden' && printf x > 'back\\slash'",
		path);
	shell(node, "cd %s && mkdir kinds && cd kinds && : > empty && mkdir empty-dir && ln -s ../odd to-dir && ln -s /nowhere dangling && mkfifo pipe && "
		    "echo linked > l1 && ln l1 l2 && mkdir sub && ln l1 sub/l3 && echo x > suid && chmod 6755 suid && echo x > none && chmod 0 none && "
		    "echo x > owned && chown 12:34 owned && setfattr -n user.a -v 1 owned && setfattr -n user.b -v 0x00ff owned && "
		    "setfacl -m u:5:r,g:6:rw owned && mkdir acl && setfacl -d -m u:5:rwx acl && touch -d '1970-01-02' old && "
		    "touch -d '2106-01-01 00:00:00.000000001' future && head -c 3M /dev/urandom > large && truncate -s 100M holes",
		path);
	shell(node, "cd %s && d=. && for i in $(seq 40); do d=$d/deep-$i; done && mkdir -p $d && echo bottom > $d/file", path);
}

static void a_tree_is_copied(void **state)
{
	write_tree("n1", "tree", "first");
	everywhere_equal();
}

static void a_tree_arrives_with_cp_and_tar(void **state)
{
	shell("n2", "cp -a tree tree-cp && tar cf - --acls --xattrs tree | (mkdir tree-tar && cd tree-tar && tar xf - --acls --xattrs)");
	everywhere_equal();
	assert_true(exists("n3", "tree-tar/tree/kinds/sub/l3"));
}

/* As one they are published; no less is each thing in them what it is at the source. */
static void new_directories_come_with_what_is_in_them(void **state)
{
	shell("n1", "mkdir made && cd made && mkdir acls acls/below && setfacl -d -m u:5:rwx acls && for i in $(seq 20); do echo $i > acls/$i && setfacl -b acls/$i; done && "
		    "mkdir acls/after && echo x > acls/after/plain && setfacl -b acls/after/plain && for d in $(seq 10); do mkdir d$d && for i in $(seq 9); do echo $i > d$d/$i; done && head -c 300K /dev/urandom > d$d/large && "
		    "echo x > d$d/last && chmod 4750 d$d/last && chown 7:8 d$d/2 && chmod 2751 d$d && touch -d 1999-01-0$((d %% 9 + 1)) d$d d$d/3; done");
	shell("n1", "cp -a made made-2");
	everywhere_equal();
}

static void the_next_version_replaces_it(void **state)
{
	write_tree("n1", "next", "second");
	shell("n1", "rsync -aHAX --delete next/ tree/ && rm -rf next");
	everywhere_equal();
	shell("n3", "grep -q '^second page 7 of 9$' tree/part-2/chapter-9/page-7.html");
}

static void it_is_renamed(void **state)
{
	move("n1", "tree", "renamed");
	everywhere_equal();
	absent("n2", "tree");
	assert_true(exists("n2", "renamed/odd/with blank"));
}

static void parts_of_it_move_while_it_is_written(void **state)
{
	shell("n1", "cd renamed && for i in 1 2 3 4 5 6; do mv part-$i moving; for f in moving/*/page-1.html; do echo again > $f; done; mv moving part-$i; done");
	everywhere_equal();
}

static bool nothing_staged(void *arg, char *seen)
{
	for (unsigned i = 0; i < lab_node_count(lab); i++) {
		_cleanup_free_ char *path = lab_store_path(lab, lab_node_name(lab, i), ".cdmfs/staging");
		DIR *d = opendir(path);
		assert_non_null(d);
		struct dirent *e;
		while ((e = readdir(d)) && (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0))
			;
		snprintf(seen, 512, "%s is left in staging of %s", e ? e->d_name : "nothing", lab_node_name(lab, i));
		closedir(d);
		if (e)
			return false;
	}
	return true;
}

static void it_is_removed(void **state)
{
	struct cdm_error err = CDM_ERROR_INIT;
	shell("n3", "rm -rf renamed tree-cp tree-tar");
	everywhere_equal();
	absent("n1", "renamed");
	absent("n2", "tree-cp");
	/* contents that were announced, and went before their change, go a moment later */
	if (lab_wait_for(nothing_staged, NULL, STORY_MS, "staging areas to be empty", &err) < 0)
		fail_msg("%s", err.text);
}

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(a_tree_is_copied),
		cmocka_unit_test(a_tree_arrives_with_cp_and_tar),
		cmocka_unit_test(new_directories_come_with_what_is_in_them),
		cmocka_unit_test(the_next_version_replaces_it),
		cmocka_unit_test(it_is_renamed),
		cmocka_unit_test(parts_of_it_move_while_it_is_written),
		cmocka_unit_test(it_is_removed),
	};
	return STORIES("tree", ((struct lab_options){.nodes = 3}), stories);
}
