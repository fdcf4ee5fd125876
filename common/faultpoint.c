/* SPDX-License-Identifier: Apache-2.0 */
#include "common/faultpoint.h"

#ifdef CDM_FAULTPOINTS
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool cdm_faultpoints_armed;
bool (*cdm_fault_submission)(struct io_uring_sqe *sqe, int *ret_result);
static const char *from_environment, *from_file, *clock_file, *times;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct counted { /* under lock: the point asked for and how often it was passed */
	char wanted[128];
	unsigned long passes;
} environment_count, file_count;

static void __attribute__((constructor)) faultpoint_init(void)
{
	from_environment = getenv("CDMFS_FAULTPOINT");
	from_file = getenv("CDMFS_FAULTPOINT_FILE");
	clock_file = getenv("CDMFS_CLOCK_FILE");
	times = getenv("CDMFS_FAULT_MS");
	cdm_faultpoints_armed = from_environment || from_file;
	*(void **)&cdm_fault_submission = dlsym(RTLD_DEFAULT, "nth_submission");
}

/* Is `wanted` ("NAME[:N]") this point, and is this its Nth pass? */
static bool is_due(struct counted *c, const char *wanted, const char *name)
{
	if (strcmp(c->wanted, wanted) != 0) {
		c->passes = 0;
		strncpy(c->wanted, wanted, sizeof c->wanted - 1);
	}
	size_t len = strcspn(wanted, ":!\n");
	if (strlen(name) != len || strncmp(wanted, name, len) != 0)
		return false;
	unsigned long due = wanted[len] == ':' ? strtoul(wanted + len + 1, NULL, 10) : 1;
	return ++c->passes == due;
}

static bool read_wanted(const char *file, char *out, size_t room)
{
	int fd = open(file, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	ssize_t n = read(fd, out, room - 1);
	close(fd);
	if (n <= 0)
		return false;
	out[n] = 0;
	return true;
}

static void die_or_hang(const char *wanted)
{
	if (!strchr(wanted, '!')) {
		kill(getpid(), SIGKILL);
		return;
	}
	pthread_mutex_unlock(&lock);
	for (;;)
		pause();
}

static void wait_at(const char *name)
{
	char fifo[512], byte;
	int fd;
	snprintf(fifo, sizeof fifo, "%s.%s", from_file, name);
	do
		fd = open(fifo, O_RDONLY | O_CLOEXEC);
	while (fd < 0 && errno == EINTR);
	if (fd < 0)
		return;
	while (read(fd, &byte, 1) < 0 && errno == EINTR)
		;
	close(fd);
}

void cdm_faultpoint_pass(const char *name)
{
	int saved = errno;
	char wanted[sizeof file_count.wanted];
	pthread_mutex_lock(&lock);
	if (from_environment && is_due(&environment_count, from_environment, name))
		die_or_hang(from_environment);
	if (from_file && read_wanted(from_file, wanted, sizeof wanted) && is_due(&file_count, wanted, name) && unlink(from_file) == 0)
		die_or_hang(wanted);
	pthread_mutex_unlock(&lock);
	if (from_file)
		wait_at(name);
	errno = saved;
}

int64_t cdm_fault_clock_ns(void)
{
	int saved = errno;
	char seconds[32];
	int64_t wrong = clock_file && read_wanted(clock_file, seconds, sizeof seconds) ? strtoll(seconds, NULL, 10) * 1000000000 : 0;
	errno = saved;
	return wrong;
}

int64_t cdm_fault_ms(const char *name, int64_t ms)
{
	size_t len = strlen(name);
	return times && strncmp(times, name, len) == 0 && times[len] == '=' ? strtoll(times + len + 1, NULL, 10) : ms;
}
#endif
