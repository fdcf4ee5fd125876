/* SPDX-License-Identifier: Apache-2.0 */
/* posix_locks.c — flock, POSIX and open-file-description locks, leases, between two processes of this node. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "tests/cluster/posix.h"

/* What another process gets: 0 = granted, else errno. */
static int in_other(struct probe *p, int (*try_it)(int fd), const char *name)
{
	pid_t pid = fork();
	int status = 0;

	if (pid == 0) {
		int fd = openat(p->dir, name, O_RDWR);
		_exit(fd < 0 ? errno : try_it(fd));
	}
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int try_flock(int fd)
{
	return flock(fd, LOCK_EX | LOCK_NB) < 0 ? errno : 0;
}

static int try_flock_shared(int fd)
{
	return flock(fd, LOCK_SH | LOCK_NB) < 0 ? errno : 0;
}

static int try_posix(int fd)
{
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 50, .l_len = 10};

	return fcntl(fd, F_SETLK, &l) < 0 ? errno : 0;
}

static int who_holds(int fd)
{
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 0};

	if (fcntl(fd, F_GETLK, &l) < 0)
		return errno;
	return l.l_type == F_UNLCK ? 100 : l.l_pid == getppid() ? 101 + (int)l.l_start : 250;
}

static void flocks(struct probe *p)
{
	int fd = F(openat(p->dir, "f", O_RDWR | O_CREAT, 0644));

	T(flock(fd, LOCK_EX));
	T(in_other(p, try_flock, "f"));
	T(flock(fd, LOCK_SH));
	T(in_other(p, try_flock, "f"));
	T(in_other(p, try_flock_shared, "f"));
	int fd2 = F(openat(p->dir, "f", O_RDONLY));
	T(flock(fd2, LOCK_EX | LOCK_NB));
	T(flock(fd, LOCK_UN));
	T(flock(fd2, LOCK_EX | LOCK_NB));
	T(close(fd2));
	T(in_other(p, try_flock, "f"));
	T(flock(fd, 99));
	T(close(fd));
}

static void posix_locks_(struct probe *p)
{
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 20, .l_len = 35};
	int fd = F(openat(p->dir, "f", O_RDWR | O_CREAT, 0644));

	T(fcntl(fd, F_SETLK, &l));
	T(in_other(p, try_posix, "f"));
	T(in_other(p, who_holds, "f"));
	l.l_start = 45, l.l_type = F_UNLCK;
	T(fcntl(fd, F_SETLK, &l));
	T(in_other(p, try_posix, "f"));
	T(in_other(p, who_holds, "f"));
	int fd2 = F(openat(p->dir, "f", O_RDONLY));
	T(close(fd2)); /* drops this process's locks on the file */
	T(in_other(p, who_holds, "f"));
	fd2 = F(openat(p->dir, "f", O_RDONLY));
	l.l_type = F_WRLCK;
	T(fcntl(fd2, F_SETLK, &l));
	T(close(fd2));
	T(close(fd));
}

static void ofd_locks(struct probe *p)
{
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 100};
	int fd = F(openat(p->dir, "f", O_RDWR | O_CREAT, 0644)), fd2 = F(openat(p->dir, "f", O_RDWR));

	T(fcntl(fd, F_OFD_SETLK, &l));
	T(fcntl(fd2, F_OFD_SETLK, &l));
	T(in_other(p, try_posix, "f"));
	T(close(fd));
	T(fcntl(fd2, F_OFD_SETLK, &l));
	T(close(fd2));
}

static volatile sig_atomic_t got_signal;

static void on_io(int signo)
{
	got_signal = 1;
}

static int try_open(int fd)
{
	return 0;
}

static void leases(struct probe *p)
{
	int fd = F(openat(p->dir, "f", O_RDWR | O_CREAT, 0644));

	T(fcntl(fd, F_SETLEASE, F_RDLCK));
	T(close(fd));
	fd = F(openat(p->dir, "f", O_RDONLY));
	T(fcntl(fd, F_SETLEASE, F_RDLCK));
	T(fcntl(fd, F_GETLEASE));
	T(fcntl(fd, F_SETLEASE, F_UNLCK));
	signal(SIGIO, on_io);
	T(in_other(p, try_open, "f"));
	T(close(fd));
	probe_say(p, "signals %d", got_signal);
}

const struct scenario posix_locks[] = {
	{"flocks", flocks, AS_BOTH}, {"posix_locks", posix_locks_, AS_BOTH}, {"ofd_locks", ofd_locks, AS_BOTH}, {"leases", leases, AS_BOTH}, {0}};
