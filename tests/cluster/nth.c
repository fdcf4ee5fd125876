/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/cluster/nth.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct nth_control *nth_control;

static char control_file[64];

static void prepared(bool good, const char *what)
{
	if (good)
		return;
	perror(what);
	exit(1);
}

void nth_prepare(void)
{
	char *program = realpath("/proc/self/exe", NULL), *library = NULL;
	char *slash = program ? strrchr(program, '/') : NULL;
	prepared(slash && asprintf(&library, "%.*s/../fault/libnth_call.so", (int)(slash - program), program) > 0 && access(library, R_OK) == 0,
		"libnth_call.so");
	snprintf(control_file, sizeof control_file, "/tmp/cdmfs-nth-%d", getpid());
	int fd = open(control_file, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	prepared(fd >= 0 && ftruncate(fd, sizeof *nth_control) == 0, control_file);
	nth_control = mmap(NULL, sizeof *nth_control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	prepared(nth_control != MAP_FAILED, control_file);
	close(fd);
	setenv("NTH_CALL_FILE", control_file, 1);
	setenv("LAB_PRELOAD", library, 1);
	free(library);
	free(program);
}

void nth_forget(void)
{
	unlink(control_file);
}

static void arm(const char *node, enum lab_program program, enum nth_kind kind, int number, unsigned long nth, unsigned long last, const char *name)
{
	static const char *const roles[LAB_PROGRAMS] = {"cdmfs", "server", "watcher", "cdm-replicator", "cdm-master"};
	struct nth_control *c = nth_control;
	atomic_store(&c->kind, NTH_OFF);
	snprintf(c->who, sizeof c->who, "%s/%s", node ?: "", roles[program]);
	snprintf(c->name, sizeof c->name, "%s", name);
	c->where[0] = 0;
	atomic_store(&c->error, number);
	atomic_store(&c->last, last);
	atomic_store(&c->nth, nth);
	atomic_store(&c->passes, 0);
	atomic_store(&c->fired, 0);
	atomic_store(&c->gave_up, false);
	atomic_store(&c->kind, kind);
}

void nth_armed(const char *node, enum lab_program program, enum nth_kind kind, int number, unsigned long nth, bool for_good)
{
	arm(node, program, kind, number, nth, for_good ? ULONG_MAX : nth, "");
}

void nth_armed_twice(const char *node, enum lab_program program, enum nth_kind kind, int number, unsigned long nth, const char *name)
{
	arm(node, program, kind, number, nth, nth + 1, name);
}

void nth_armed_on(const char *node, enum lab_program program, enum nth_kind kind, int number, const char *name)
{
	arm(node, program, kind, number, 1, ULONG_MAX, name);
}

unsigned long nth_disarmed(void)
{
	atomic_store(&nth_control->kind, NTH_OFF);
	return atomic_load(&nth_control->passes);
}
