/* SPDX-License-Identifier: Apache-2.0 */
/* 010_mount_posix — everything programs do works on the mount as on the store's own filesystem: each scenario of posix_*.c runs on
 * both, results and what is left must be equal. PROBE=name runs only scenarios with that name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <cmocka.h>
#include "tests/cluster/mount_fixture.h"
#include "tests/cluster/posix.h"

#define TESTS_MAX 128

static struct fixture *fixture;

static void compare(void **state)
{
	const struct scenario *s = *state;

	for (unsigned user = AS_ROOT; user <= AS_USER; user <<= 1)
		if (s->users & user)
			probe_compare(s, user, fixture->native, fixture->mnt);
}

static int mount_all(void **state)
{
	fixture_mount(fixture, NULL);
	return 0;
}

static int unmount_all(void **state)
{
	return fixture->holder ? fixture_unmount(fixture) : 0;
}

static int body(struct fixture *f)
{
	static const struct scenario *const lists[] = {posix_names, posix_content, posix_attributes, posix_permissions, posix_locks, posix_directories};
	static struct CMUnitTest tests[TESTS_MAX];
	const char *only = getenv("PROBE");
	size_t count = 0;

	fixture = f;
	for (size_t i = 0; i < sizeof(lists) / sizeof(*lists); i++)
		for (const struct scenario *s = lists[i]; s->name && count < TESTS_MAX; s++)
			if (!only || strcmp(only, s->name) == 0)
				tests[count++] = (struct CMUnitTest){s->name, compare, NULL, NULL, (void *)s};
	return _cmocka_run_group_tests("mount_posix", tests, count, mount_all, unmount_all);
}

int main(void)
{
	return fixture_main(body);
}
