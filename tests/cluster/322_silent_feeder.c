/* SPDX-License-Identifier: Apache-2.0 */
/* 322_silent_feeder — who is asked for a content, brings none of it, and keeps its link busy with something else: another one is asked.
 * n3 asks n2, who comes before it in the ring; n2's replicator is dead, and this program speaks in its name. */
#include "tests/cluster/hostile.h"

#include <string.h>
#include <sys/stat.h>
#include "common/loop.h"

#define ANSWER_MS 30000

static const uint8_t crumbs[16 << 10];

static bool has_size(void *arg, char *seen)
{
	struct hostile *h = arg;
	struct stat st;
	_cleanup_free_ char *path = lab_path(lab, "n3", "large");
	hostile_frame(h, 200, WIRE_FLAG_MAY_SKIP, 0, crumbs, sizeof crumbs); /* nobody knows what that means */
	bool there = stat(path, &st) == 0;
	snprintf(seen, 512, "n3 has %lld bytes of it", there ? (long long)st.st_size : -1ll);
	return there && st.st_size == 3 << 20;
}

static void crumbs_of_something_else_are_no_content(void **state)
{
	struct cdm_error err = CDM_ERROR_INIT;
	size_t len;
	administrator("route", "set", LAB_SET, "n3", "--parent", "n1", NULL);
	everywhere_equal();
	int64_t bypassed = counter("n3", "fetch_bypassed");
	killed("n2", LAB_REPLICATOR);
	struct hostile *h = hostile_connect("n2", "n3", HOSTILE_HELLO, WIRE_FEATURE_FETCH);
	shell("n1", "head -c 3M /dev/urandom > large");
	hostile_await(h, FRAME_FETCH, &len);
	if (lab_wait_for(has_size, h, ANSWER_MS, "the content from somebody else", &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(counter("n3", "fetch_bypassed") - bypassed, 1);
	hostile_lives(h); /* all the while nothing was wrong with the link */
	hostile_close(&h);
	started("n2", LAB_REPLICATOR);
	everywhere_equal();
}

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(crumbs_of_something_else_are_no_content),
	};
	return STORIES("silent", ((struct lab_options){.nodes = 3}), stories);
}
