/* SPDX-License-Identifier: Apache-2.0 */
/* lab_down.c — end a lab, also one whose programs or whose `lab up` crashed: first politely what lab.json names, then by
 * force whatever carries the lab's mark, sits in its namespaces or is mounted below its directory. */
#include "tests/lab/lab_private.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "common/io.h"

#define POLITE_MS 5000
#define FORCED_MS 10000

/* -- processes --------------------------------------------------------------------------------------------------- */

bool lab_process_is_of_lab(const struct lab *lab, pid_t pid)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/environ", (int)pid);
	_cleanup_free_ char *text = NULL, *mark = lab_format(LAB_MARK "=%s", lab->dir);
	size_t len;
	if (cdm_read_file(AT_FDCWD, path, 1 << 20, &text, &len, NULL) < 0)
		return false;
	for (const char *p = text; p < text + len; p += strlen(p) + 1)
		if (strcmp(p, mark) == 0)
			return true;
	return false;
}

struct namespaces {
	ino_t inodes[LAB_NODES_MAX + 2];
	size_t count;
};

static void note_namespace(void *arg, const char *name, ino_t ino)
{
	struct namespaces *n = arg;
	if (n->count < sizeof n->inodes / sizeof *n->inodes)
		n->inodes[n->count++] = ino;
}

static bool in_namespaces(const struct namespaces *n, pid_t pid)
{
	char path[64];
	struct stat st;
	snprintf(path, sizeof path, "/proc/%d/ns/net", (int)pid);
	if (n->count == 0 || stat(path, &st) < 0)
		return false;
	for (size_t i = 0; i < n->count; i++)
		if (n->inodes[i] == st.st_ino)
			return true;
	return false;
}

/* Are we it, or does it wait for us (a shell that was started by `lab run` and calls `lab down`)? */
static bool is_ancestor(pid_t pid)
{
	for (pid_t p = getpid(); p > 1;) {
		if (p == pid)
			return true;
		char path[64], parent[32] = "";
		snprintf(path, sizeof path, "/proc/%d/stat", (int)p);
		_cleanup_free_ char *text = NULL;
		size_t len;
		if (cdm_read_file(AT_FDCWD, path, 65536, &text, &len, NULL) < 0)
			return false;
		const char *end = strrchr(text, ')');
		if (!end || sscanf(end + 1, " %*c %31s", parent) != 1)
			return false;
		p = (pid_t)atoi(parent);
	}
	return false;
}

typedef void process_fn(void *arg, const struct lab_process *p);

/* Every living process of this lab but ourselves and those above us. Returns how many. */
static unsigned each_process(const struct lab *lab, process_fn *fn, void *arg)
{
	struct namespaces namespaces = {.count = 0};
	lab_net_each(lab, note_namespace, &namespaces);
	unsigned count = 0;
	DIR *dir = opendir("/proc");
	for (struct dirent *entry; dir && (entry = readdir(dir));) {
		pid_t pid = isdigit((unsigned char)entry->d_name[0]) ? (pid_t)atoi(entry->d_name) : 0;
		struct lab_process p;
		if (pid <= 1 || lab_process_of(pid, &p) < 0 || !(lab_process_is_of_lab(lab, pid) || in_namespaces(&namespaces, pid)) ||
			is_ancestor(pid))
			continue;
		count++;
		if (fn)
			fn(arg, &p);
	}
	if (dir)
		closedir(dir);
	return count;
}

static void kill_process(void *arg, const struct lab_process *p)
{
	kill(p->pid, SIGKILL);
}

static void await_process(void *arg, const struct lab_process *p)
{
	struct cdm_error *err = arg;
	if (!lab_process_wait(p, FORCED_MS))
		cdm_fail_plain(err, EBUSY, "process %d does not end", (int)p->pid);
}

static void terminate(const struct lab_process *p)
{
	if (!lab_process_lives(p))
		return;
	kill(p->pid, SIGTERM);
	kill(p->pid, SIGCONT);
}

/* Holders unmount cleanly, replicators say good-bye; the master goes last. */
static void end_politely(struct lab *lab)
{
	for (unsigned i = 0; i < lab->node_count; i++) {
		terminate(&lab->nodes[i]->holder);
		terminate(&lab->nodes[i]->replicator);
	}
	for (unsigned i = 0; i < lab->node_count; i++) {
		lab_process_wait(&lab->nodes[i]->holder, POLITE_MS);
		lab_process_wait(&lab->nodes[i]->replicator, POLITE_MS);
	}
	terminate(&lab->master);
	lab_process_wait(&lab->master, POLITE_MS);
}

/* -- mounts ------------------------------------------------------------------------------------------------------ */

/* mountinfo writes blanks, newlines and backslashes as \ooo. */
static void unescape(char *text)
{
	char *to = text;
	for (const char *p = text; *p; p++) {
		unsigned value;
		if (p[0] == '\\' && sscanf(p + 1, "%3o", &value) == 1) {
			*to++ = (char)value;
			p += 3;
		} else {
			*to++ = *p;
		}
	}
	*to = 0;
}

static bool is_below(const char *path, const char *dir)
{
	size_t n = strlen(dir);
	return strncmp(path, dir, n) == 0 && path[n] == '/';
}

/* The last mount below `dir` in the table (later ones cover earlier ones). False: there is none. */
static bool last_mount_below(const char *dir, char ret[PATH_MAX], unsigned *ret_minor, bool *ret_fuse)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	char *line = NULL;
	size_t room = 0;
	bool found = false;
	while (f && getline(&line, &room, f) >= 0) {
		char path[PATH_MAX];
		unsigned minor;
		if (sscanf(line, "%*u %*u %*u:%u %*s %4095s", &minor, path) != 2)
			continue;
		unescape(path);
		if (!is_below(path, dir))
			continue;
		found = true;
		memcpy(ret, path, sizeof path);
		*ret_minor = minor;
		*ret_fuse = strstr(line, " - fuse") != NULL;
	}
	free(line);
	if (f)
		fclose(f);
	return found;
}

/* Whoever hangs in a call to a dead mount gets an error. */
static void abort_connection(unsigned minor)
{
	char path[80];
	snprintf(path, sizeof path, "/sys/fs/fuse/connections/%u/abort", minor);
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd >= 0)
		(void)!write(fd, "1", 1);
}

static int unmount_all(const struct lab *lab, struct cdm_error *err)
{
	char path[PATH_MAX];
	unsigned minor;
	bool fuse;
	while (last_mount_below(lab->dir, path, &minor, &fuse)) {
		if (fuse)
			abort_connection(minor);
		if (umount2(path, MNT_DETACH) < 0)
			return cdm_fail(err, errno, "unmount %s", path);
	}
	return 0;
}

/* It has ended; reap it if this process started it. */
static void forget(struct lab_process *p)
{
	if (p->pid > 0)
		waitpid(p->pid, NULL, WNOHANG);
	*p = (struct lab_process){0};
}

/* -- all --------------------------------------------------------------------------------------------------------- */

bool lab_something_runs(struct lab *lab)
{
	char path[PATH_MAX];
	unsigned minor;
	bool fuse;
	return each_process(lab, NULL, NULL) > 0 || last_mount_below(lab->dir, path, &minor, &fuse);
}

int lab_end_everything(struct lab *lab, struct cdm_error *err)
{
	struct cdm_error failure = CDM_ERROR_INIT, ignored;
	end_politely(lab);
	each_process(lab, kill_process, NULL);
	each_process(lab, await_process, &failure);
	int r = unmount_all(lab, &failure);
	if (lab->netns)
		lab_net_down(lab, r == 0 ? &failure : &ignored);
	for (unsigned i = 0; i < lab->node_count; i++)
		forget(&lab->nodes[i]->holder), forget(&lab->nodes[i]->replicator), forget(&lab->nodes[i]->wire);
	forget(&lab->master);
	lab_state_save(lab, failure.number ? &ignored : &failure);
	if (failure.number && err)
		*err = failure;
	return -failure.number;
}
