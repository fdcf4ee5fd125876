/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/cluster/held.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include "tests/cluster/story.h"

const char *hold_path(void)
{
	static char path[64];
	if (!path[0])
		snprintf(path, sizeof path, "/tmp/cdmfs-hold-%d", (int)getpid());
	return path;
}

static void fifo_of(const char *point, char out[128])
{
	snprintf(out, 128, "%s.%s", hold_path(), point);
}

void hold(const char *point)
{
	char fifo[128];
	fifo_of(point, fifo);
	assert_int_equal(mkfifo(fifo, 0600), 0);
}

struct arrival {
	const char *point;
	int fd;
};

static bool is_there(void *arg, char *seen)
{
	struct arrival *a = arg;
	char fifo[128];
	fifo_of(a->point, fifo);
	snprintf(seen, 512, "nobody has come to %s", a->point);
	a->fd = open(fifo, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
	return a->fd >= 0;
}

int arrived(const char *point)
{
	struct cdm_error err = CDM_ERROR_INIT;
	struct arrival a = {.point = point};
	char fifo[128];
	fifo_of(point, fifo);
	int r = lab_wait_for(is_there, &a, STORY_MS, point, &err);
	unlink(fifo);
	if (r < 0)
		fail_msg("%s", err.text);
	return a.fd;
}

void started_to_be_held(const char *node)
{
	if (lab_pid(lab, node, LAB_REPLICATOR))
		killed(node, LAB_REPLICATOR);
	setenv("CDMFS_FAULTPOINT_FILE", hold_path(), 1);
	started(node, LAB_REPLICATOR);
	unsetenv("CDMFS_FAULTPOINT_FILE");
}
