/* SPDX-License-Identifier: Apache-2.0 */
/* Names that change faster than they are shipped: what is folded into one change still ends the same everywhere. Each story does one sequence
 * in many places at once, some with a look of the replicator in between. */
#include "tests/cluster/story.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* `script` in bash, in 30 directories: $old was known everywhere before; the steps follow each other at different paces. */
static void quickly(const char *name, const char *script)
{
	shell("n1", "mkdir %s && cd %s && for i in $(seq 30); do mkdir $i && echo old > $i/old && echo other > $i/other; done", name, name);
	in_sync();
	shell("n1", "cd %s && pace() { [ $((i %% 3)) != 0 ] || sleep 0.00$((i / 3)); }; tmp() { echo \"$2\" > $1.tmp && mv $1.tmp $1; }; "
		    "for i in $(seq 30); do cd $i && { %s; } && cd .. || exit 1; done", name, script);
	everywhere_equal_below(name);
}

static void saved_by_temporary_and_removed(void **state)
{
	quickly("tmp-rm", "tmp new 1; pace; rm new");
}

static void replaced_by_temporary_and_removed(void **state)
{
	quickly("tmp-over-rm", "tmp old 1; pace; rm old");
}

static void replaced_twice_and_removed(void **state)
{
	quickly("tmp-tmp-rm", "tmp old 1; pace; tmp old 2; rm old");
}

static void saved_by_temporary_and_linked(void **state)
{
	quickly("tmp-link", "tmp new 1; pace; ln new link; echo 2 >> link; tmp old 3; ln old link2");
}

static void truncated_and_linked(void **state)
{
	quickly("truncate-link", "tmp old 1; pace; truncate -s 1 old; mkdir d; ln old d/link");
}

static void exchanged_when_new(void **state)
{
	quickly("exchange-new", "echo new > new; pace; exch() { mv -T $1 x-$1 && mv -T $2 $1 && mv -T x-$1 $2; }; exch new old");
}

static void renamed_in_a_circle(void **state)
{
	quickly("circle", "mv old a; pace; mv other old; mv a other; pace; mv other b; mv b other");
}

static void renamed_over_and_made_again(void **state)
{
	quickly("over-again", "mv other old; pace; echo again > other; mv old other; echo more > old");
}

static void removed_and_made_again(void **state)
{
	quickly("rm-again", "rm old; pace; echo again > old; rm other; mkdir other; pace; rmdir other; echo file > other");
}

static void moved_into_a_new_directory(void **state)
{
	quickly("into-new", "mkdir new; mv old new/; pace; mv new newer; echo x > newer/x; mv newer/old .; rm -r newer");
}

static void directory_replaced_by_its_child(void **state)
{
	quickly("child-up", "mkdir a; echo x > a/x; pace; mv a/x b; rmdir a; mv b a");
}

static void unsaved_and_moved_around(void **state)
{
	quickly("unsaved", "exec 5> open; echo 1 >&5; pace; mv open moved; mkdir d; mv moved d/final; mv d e; echo 2 >&5; exec 5>&-");
}

static void unsaved_over_a_known_name(void **state)
{
	quickly("unsaved-over", "exec 5> open; echo 1 >&5; mv open old; pace; echo 2 >&5; exec 5>&-; mv old other");
}

static void unsaved_over_a_known_name_and_removed(void **state)
{
	quickly("unsaved-over-rm", "exec 5> open; echo 1 >&5; mv open old; pace; rm old; echo 2 >&5; exec 5>&-");
}

static void linked_and_one_name_replaced(void **state)
{
	quickly("link-replaced", "ln old link; pace; tmp old new; ln link third; echo more >> third; rm link");
}

static void attributes_between(void **state)
{
	quickly("attributes", "chmod 600 old; mv old a; setfattr -n user.x -v 1 a; pace; touch -d 2001-01-01 a; mv a old; chmod 640 old; setfattr -x user.x old");
}

static void attributes_of_removed_files(void **state)
{
	quickly("removed-attributes", "exec 5<> old; exec 6< other; rm old other; pace; chmod 711 /dev/fd/5; touch -d 2001-01-01 /dev/fd/6; "
				      "setfattr -n user.x -v 1 /dev/fd/5; exec 5>&- 6<&-");
	everywhere_equal();
}

static void emptied_and_removed_directories(void **state)
{
	quickly("dirs", "mkdir -p a/b/c; echo x > a/b/c/f; mv a/b b; pace; rm -r a; mv b a; rm a/c/f; rmdir a/c; mkdir a/c");
}

/* RENAME_EXCHANGE of every kind with every kind. */
static void exchanges(void **state)
{
	static const char *const kinds[] = {"old", "new", "dir", "link", "open"};
	make_directory("n1", "exchanges");
	for (int round = 0; round < 2; round++)
		for (size_t a = 0; a < 5; a++)
			for (size_t b = 0; b < 5; b++) {
				shell("n1", "mkdir -p exchanges/%d-%zu-%zu/d && cd exchanges/%d-%zu-%zu && echo old > old && echo old > d/old && mkdir dir d/dir && "
					    "echo x > dir/x && ln -s x link && ln -s y d/link", round, a, b, round, a, b);
			}
	in_sync();
	for (int round = 0; round < 2; round++)
		for (size_t a = 0; a < 5; a++)
			for (size_t b = 0; b < 5; b++) {
				char from[100], to[100];
				snprintf(from, sizeof from, "exchanges/%d-%zu-%zu/%s", round, a, b, kinds[a]);
				snprintf(to, sizeof to, "exchanges/%d-%zu-%zu/d/%s", round, a, b, kinds[b]);
				_cleanup_free_ char *pa = lab_path(lab, "n1", from), *pb = lab_path(lab, "n1", to);
				int fa = -1, fb = -1;
				if (a == 4 || a == 1)
					fa = open(pa, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
				if (b == 4 || b == 1)
					fb = open(pb, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
				if (a == 1 && close(fa) < 0)
					fail();
				if (b == 1 && close(fb) < 0)
					fail();
				assert_int_equal(renameat2(AT_FDCWD, pa, AT_FDCWD, pb, RENAME_EXCHANGE), 0);
				if (a == 4) {
					assert_int_equal(write(fa, "a", 1), 1);
					close(fa);
				}
				if (b == 4) {
					assert_int_equal(write(fb, "b", 1), 1);
					close(fb);
				}
				if (round)
					assert_int_equal(renameat2(AT_FDCWD, pb, AT_FDCWD, pa, RENAME_EXCHANGE), 0);
			}
	everywhere_equal_below("exchanges");
}

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(saved_by_temporary_and_removed),
		cmocka_unit_test(replaced_by_temporary_and_removed),
		cmocka_unit_test(replaced_twice_and_removed),
		cmocka_unit_test(saved_by_temporary_and_linked),
		cmocka_unit_test(truncated_and_linked),
		cmocka_unit_test(exchanged_when_new),
		cmocka_unit_test(renamed_in_a_circle),
		cmocka_unit_test(renamed_over_and_made_again),
		cmocka_unit_test(removed_and_made_again),
		cmocka_unit_test(moved_into_a_new_directory),
		cmocka_unit_test(directory_replaced_by_its_child),
		cmocka_unit_test(unsaved_and_moved_around),
		cmocka_unit_test(unsaved_over_a_known_name),
		cmocka_unit_test(unsaved_over_a_known_name_and_removed),
		cmocka_unit_test(linked_and_one_name_replaced),
		cmocka_unit_test(attributes_between),
		cmocka_unit_test(attributes_of_removed_files),
		cmocka_unit_test(emptied_and_removed_directories),
		cmocka_unit_test(exchanges),
	};
	return STORIES("quick", ((struct lab_options){.nodes = 2}), stories);
}
