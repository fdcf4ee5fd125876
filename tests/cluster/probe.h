/* SPDX-License-Identifier: Apache-2.0 */
/* probe.h — "as native": a scenario is a function that makes system calls in a directory and notes what each gave. It runs twice,
 * in a directory of the store's own filesystem and in one of the mount; the two transcripts must be equal, and so must be what
 * is left in the directories.
 *
 * T(call) notes a call's text, result and errno. F(call) the same for a descriptor, whose number is not noted. */
#ifndef PROBE_H
#define PROBE_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct probe {
	int dir;          /* the scenario's directory, empty */
	char path[256];   /* its path (differs between the two: never note it) */
	char *text;
	size_t len, room;
};

enum probe_user { AS_ROOT = 1, AS_USER = 2, AS_BOTH = 3 };
#define PROBE_UID 12001
#define PROBE_GID 12001
#define PROBE_GID2 12002 /* supplementary group */
#define PROBE_GID3 12003 /* a group the user is not in */

struct scenario {
	const char *name;
	void (*run)(struct probe *p);
	unsigned users;    /* enum probe_user */
};

void probe_say(struct probe *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void probe_result(struct probe *p, const char *call, long result, int error);
int probe_fd(struct probe *p, const char *call, int fd, int error);
#define T(call) do { errno = 0; long result_ = (long)(call); probe_result(p, #call, result_, errno); } while (0)
#define F(call) ({ errno = 0; int fd_ = (call); probe_fd(p, #call, fd_, errno); })

/* Type, mode, owner, links, size of a name (not of what a link points to); bytes and length of content. */
void probe_stat(struct probe *p, const char *name);
void probe_fstat(struct probe *p, int fd);
void probe_bytes(struct probe *p, const char *what, const void *bytes, ssize_t len);
void probe_content(struct probe *p, const char *name);
/* Names, values of the extended attributes (not trusted.cdmfs.*). */
void probe_xattrs(struct probe *p, const char *name);
/* Which of the three times of `name` differ between two looks: 'a', 'm', 'c'. */
struct probe_times { int64_t a_ns, m_ns, c_ns; };
struct probe_times probe_times(struct probe *p, const char *name);
void probe_times_changed(struct probe *p, const char *what, const char *name, struct probe_times before);
/* Until the kernel's clock for file times has moved on. */
void probe_tick(void);

/* Runs it in both places as one user; asserts that the transcripts are equal. */
void probe_compare(const struct scenario *s, enum probe_user user, const char *native, const char *mount);

#endif
