/* SPDX-License-Identifier: Apache-2.0 */
#include "store_rig.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char store[] = "/tmp/cdm-store-XXXXXX";
int store_fd = -1;

int store_set_up(void **state)
{
	if (!mkdtemp(store))
		return -1;
	store_fd = open(store, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return store_fd < 0 || mkdirat(store_fd, ".cdmfs", 0700) < 0;
}

int store_tear_down(void **state)
{
	int fd = openat(store_fd, ".cdmfs", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	for (struct dirent *e; d && (e = readdir(d));)
		if (e->d_name[0] != '.')
			unlinkat(fd, e->d_name, 0);
	if (d)
		closedir(d);
	return unlinkat(store_fd, ".cdmfs", AT_REMOVEDIR) < 0 || close(store_fd) < 0 || rmdir(store) < 0;
}
