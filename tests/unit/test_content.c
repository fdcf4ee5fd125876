/* SPDX-License-Identifier: Apache-2.0 */
/* What was read of an object for shipping stays as it was read, however long it is kept. Needs root: objects are opened by handle. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>
#include <fcntl.h>
#include "common/io.h"
#include "replicator/content.h"

#define SAME_PLACE 64 /* users whose numbers are so far apart share a place in the table of names */

static void the_owner_names_are_its_own(void **state)
{
	char path[] = "/tmp/test-content-XXXXXX", before[FRAME_OWNER_MAX + 1];
	struct item item = {.change = {.op = CDM_OP_MKDIR, .path = "d", .path_len = 1}};
	struct cdm_error err = CDM_ERROR_INIT;
	struct content *c;
	if (geteuid() != 0)
		skip();
	assert_non_null(mkdtemp(path));
	_cleanup_close_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(mkdirat(fd, "d", 0755), 0);
	assert_int_equal(cdm_handle_get(fd, "d", &item.change.handle), 0);
	assert_int_equal(content_open(fd, &item, &c, &err), 0);
	strcpy(before, content_user_name(0));
	assert_int_equal(c->carried.user_len, strlen(before));
	content_user_name(SAME_PLACE);
	content_group_name(SAME_PLACE);
	assert_memory_equal(c->carried.user, before, c->carried.user_len + 1);
	assert_string_equal(c->carried.group, content_group_name(0));
	content_close(&c);
	assert_int_equal(unlinkat(fd, "d", AT_REMOVEDIR), 0);
	assert_int_equal(rmdir(path), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(the_owner_names_are_its_own)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
