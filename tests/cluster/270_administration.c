/* SPDX-License-Identifier: Apache-2.0 */
/* Administrators at work while authors save: nodes are drained, sets paused, parents set by hand, capacities changed, master and replicators
 * killed in between, in an order that a seed tells (CDMFS_TEST_SEED repeats one). In the end all is as it was, and the trees are equal. */
#include "tests/cluster/story.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ACTIONS 40
#define NODES 5

static unsigned long long seed;

static unsigned pick(unsigned below)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (unsigned)(seed >> 33) % below;
}

static const char *some_node(void)
{
	return lab_node_name(lab, pick(lab_node_count(lab)));
}

static const char *some_group(void)
{
	return pick(2) ? "g1" : "g2";
}

/* Some of it is refused (a circle of parents, a part of what is paused as a whole): that is an answer, too. */
static void ask(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void ask(const char *fmt, ...)
{
	char command[300];
	_cleanup_free_ char *said = NULL;
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(command, sizeof command, fmt, ap);
	va_end(ap);
	int status = shell_status("n1", &said, "%s", command);
	if (status != 0 && status != 5)
		fail_msg("`%s` ended with %d: %s", command, status, said);
}

static void restarted(const char *node, enum lab_program program)
{
	struct cdm_error err = CDM_ERROR_INIT;
	killed(node, program);
	if (lab_start(lab, node, program, &err) < 0)
		fail_msg("%s", err.text);
}

static void act(void)
{
	switch (pick(10)) {
	case 0:
	case 1:
		ask("cdmctl node drain %s", some_node());
		break;
	case 2:
		ask("cdmctl node undrain %s", some_node());
		break;
	case 3:
		ask("cdmctl set pause " LAB_SET " --group %s", some_group());
		break;
	case 4:
		ask("cdmctl set resume " LAB_SET);
		break;
	case 5:
		ask("cdmctl route set " LAB_SET " %s --parent %s", some_node(), some_node());
		break;
	case 6:
		ask("cdmctl route set " LAB_SET " %s --auto", some_node());
		break;
	case 7:
		ask("cdmctl node change %s --capacity %u", some_node(), 1 + pick(4));
		break;
	case 8:
		restarted(some_node(), LAB_REPLICATOR);
		break;
	default:
		restarted(NULL, LAB_MASTER);
	}
}

static void put_back(void)
{
	ask("cdmctl set resume " LAB_SET);
	for (unsigned i = 0; i < NODES; i++) {
		ask("cdmctl node undrain %s", lab_node_name(lab, i));
		ask("cdmctl route set " LAB_SET " %s --auto", lab_node_name(lab, i));
		ask("cdmctl node change %s --capacity 8", lab_node_name(lab, i));
	}
}

static void all_is_equal_afterwards(void **state)
{
	struct load *loads[2];
	print_message("CDMFS_TEST_SEED=%llu\n", seed);
	make_directory("n1", "one");
	make_directory("n2", "two");
	everywhere_equal();
	loads[0] = load_begin("n1", "one", 8, LOAD_MIXED);
	loads[1] = load_begin("n2", "two", 8, LOAD_RENAME);
	for (int i = 0; i < ACTIONS; i++)
		act();
	put_back();
	assert_true(load_end(loads[0]) > 0 && load_end(loads[1]) > 0);
	everywhere_equal();
}

static void and_again(void **state)
{
	for (int i = 0; i < ACTIONS; i++) {
		char path[40];
		snprintf(path, sizeof path, "saved-%d", i);
		save(some_node(), path, path);
		act();
	}
	put_back();
	everywhere_equal();
}

int main(void)
{
	const char *given = getenv("CDMFS_TEST_SEED");
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(all_is_equal_afterwards),
		cmocka_unit_test(and_again),
	};
	seed = given ? strtoull(given, NULL, 10) : (unsigned long long)time(NULL);
	return STORIES("administration", ((struct lab_options){.nodes = NODES, .groups = 2}), stories);
}
