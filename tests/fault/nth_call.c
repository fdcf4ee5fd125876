/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/fault/nth_call.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <unistd.h>

#define PROC_MAGIC 0x9fa0
#define SYSFS_MAGIC 0x62656572
#define CGROUP_MAGIC 0x63677270
#define FRAMES 12

static struct nth_control *control; /* NULL: nothing fails */
static char me[sizeof control->who];
static __thread bool busy; /* in here: our own calls do not count */

/* The next definition of a function. */
#define REAL(name) \
	static __typeof__(&name) real; \
	if (!real) \
		*(void **)&real = dlsym(RTLD_NEXT, #name)

static const char *role_of(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "--server") == 0)
		return "server";
	if (argc > 1 && strcmp(argv[1], "--watcher") == 0)
		return "watcher";
	const char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL;
	return slash ? slash + 1 : "?";
}

static void __attribute__((constructor)) nth_init(int argc, char **argv)
{
	const char *file = getenv("NTH_CALL_FILE"), *config = getenv("CDMFS_CONFIG");
	int fd = file ? open(file, O_RDWR | O_CLOEXEC) : -1;
	if (fd < 0)
		return;
	char node[32] = "";
	const char *slash = config ? strrchr(config, '/') : NULL, *from = slash;
	while (from && from > config && from[-1] != '/')
		from--;
	if (slash)
		snprintf(node, sizeof node, "%.*s", (int)(slash - from), from);
	snprintf(me, sizeof me, "%s/%s", node, role_of(argc, argv));
	void *frames[1];
	backtrace(frames, 1); /* it takes memory at its first call */
	void *map = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map != MAP_FAILED)
		control = map;
	close(fd);
}

/* Async-signal-safe but for dladdr: what failed, and the callers' places in their programs. */
static void tell_where(const char *what)
{
	void *frames[FRAMES];
	int count = backtrace(frames, FRAMES), len = snprintf(control->where, sizeof control->where, "%s", what);
	for (int i = 2; i < count && len < (int)sizeof control->where - 1; i++) {
		Dl_info info;
		if (!dladdr(frames[i], &info) || !info.dli_fname)
			continue;
		const char *slash = strrchr(info.dli_fname, '/');
		len += snprintf(control->where + len, sizeof control->where - (size_t)len, " %s+%#lx", slash ? slash + 1 : info.dli_fname,
			(unsigned long)((char *)frames[i] - (char *)info.dli_fbase));
	}
}

static bool is_wanted(enum nth_kind kind)
{
	return control && !busy && atomic_load(&control->kind) == (unsigned)kind && strcmp(control->who, me) == 0;
}

/* A call of this kind: is it the one? */
static __attribute__((noinline)) bool is_due(enum nth_kind kind, const char *what)
{
	if (!is_wanted(kind))
		return false;
	unsigned long pass = atomic_fetch_add(&control->passes, 1) + 1;
	if (pass < atomic_load(&control->nth) || pass > atomic_load(&control->last))
		return false;
	if (atomic_fetch_add(&control->fired, 1) == 0) {
		busy = true;
		tell_where(what);
		busy = false;
	}
	return true;
}

static bool is_disk(int fd)
{
	struct stat st;
	struct statfs fs;
	busy = true;
	bool disk = fd > 2 && fstat(fd, &st) == 0 && (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)) && fstatfs(fd, &fs) == 0 &&
		fs.f_type != PROC_MAGIC && fs.f_type != SYSFS_MAGIC && fs.f_type != CGROUP_MAGIC;
	busy = false;
	return disk;
}

static bool is_named_link(const char *link)
{
	char path[4096];
	busy = true;
	ssize_t n = readlink(link, path, sizeof path - 1);
	busy = false;
	path[n > 0 ? n : 0] = 0;
	const char *slash = strrchr(path, '/');
	return slash && strcmp(slash + 1, control->name) == 0;
}

/* Is this one meant? */
static bool is_named(int fd)
{
	char link[64];
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	return !control->name[0] || is_named_link(link);
}

static bool is_socket(int fd)
{
	struct stat st;
	busy = true;
	bool is = fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode);
	busy = false;
	return is;
}

static bool is_device(int fd)
{
	struct stat st;
	busy = true;
	bool is = fstat(fd, &st) == 0 && S_ISCHR(st.st_mode);
	busy = false;
	return is;
}

static bool is_elsewhere(const char *path)
{
	return path && (strncmp(path, "/proc/", 6) == 0 || strncmp(path, "/sys/", 5) == 0);
}

/* Fails this call, if it is due, with the errno that was asked for. What can only be short does not count. */
static bool fails_now(enum nth_kind kind, const char *what)
{
	if (!is_wanted(kind) || atomic_load(&control->error) == NTH_SHORT || !is_due(kind, what))
		return false;
	errno = atomic_load(&control->error);
	return true;
}

static bool fails(enum nth_kind kind, const char *what)
{
	return is_wanted(kind) && !control->name[0] && fails_now(kind, what);
}

static bool fails_at(enum nth_kind kind, int fd, const char *what)
{
	return is_wanted(kind) && (fd == AT_FDCWD || is_disk(fd)) && is_named(fd) && fails_now(kind, what);
}

/* From a directory to another one: either may be the one that is meant. */
static bool fails_between(enum nth_kind kind, int dir, int to_dir, const char *what)
{
	return is_wanted(kind) && (dir == AT_FDCWD || is_disk(dir)) && (is_named(dir) || is_named(to_dir)) && fails_now(kind, what);
}

static bool fails_on(enum nth_kind kind, const char *path, const char *what)
{
	return is_wanted(kind) && (!control->name[0] || is_named_link(path)) && fails_now(kind, what);
}

/* -- calls that move bytes --------------------------------------------------------------------------------------- */

static enum nth_kind kind_of(int fd, enum nth_kind kind)
{
	if (is_wanted(NTH_NET))
		return is_socket(fd) ? NTH_NET : NTH_OFF;
	if (is_wanted(NTH_DEVICE))
		return kind == NTH_READ && is_device(fd) ? NTH_DEVICE : NTH_OFF;
	return is_wanted(kind) && is_disk(fd) && is_named(fd) ? kind : NTH_OFF;
}

/* How much of len to move: len, half of it, or nothing (it fails, errno is set). */
static size_t granted(enum nth_kind kind, int fd, size_t len, const char *what)
{
	enum nth_kind counted = kind_of(fd, kind);
	if (counted == NTH_OFF || (atomic_load(&control->error) == NTH_SHORT && (len < 2 || counted == NTH_DEVICE)) || !is_due(counted, what))
		return len;
	if (atomic_load(&control->error) == NTH_SHORT)
		return len / 2;
	errno = atomic_load(&control->error);
	return 0;
}

#define MOVES(kind, name, params, fd, len, shorter) \
	ssize_t name params \
	{ \
		REAL(name); \
		size_t given = granted(kind, fd, len, #name); \
		if (len > 0 && given == 0) \
			return -1; \
		return real shorter; \
	}

MOVES(NTH_READ, read, (int fd, void *buf, size_t len), fd, len, (fd, buf, given))
MOVES(NTH_READ, pread64, (int fd, void *buf, size_t len, off_t at), fd, len, (fd, buf, given, at))
MOVES(NTH_WRITE, write, (int fd, const void *buf, size_t len), fd, len, (fd, buf, given))
MOVES(NTH_WRITE, pwrite64, (int fd, const void *buf, size_t len, off_t at), fd, len, (fd, buf, given, at))
MOVES(NTH_WRITE, copy_file_range, (int in, off_t *in_at, int fd, off_t *at, size_t len, unsigned flags), fd, len, (in, in_at, fd, at, given, flags))
MOVES(NTH_NET, recv, (int fd, void *buf, size_t len, int flags), fd, len, (fd, buf, given, flags))
MOVES(NTH_NET, send, (int fd, const void *buf, size_t len, int flags), fd, len, (fd, buf, given, flags))

/* Vectors are shortened to the first half of their parts; one of a single part to half of that. */
#define MOVES_PARTS(kind, name, params, args) \
	ssize_t name params \
	{ \
		REAL(name); \
		struct iovec half; \
		size_t len = count > 0 ? (count > 1 ? (size_t)count : parts[0].iov_len) : 0, given = granted(kind, fd, len, #name); \
		if (len > 0 && given == 0) \
			return -1; \
		if (given < len && count == 1) { \
			half = (struct iovec){parts[0].iov_base, given}; \
			parts = &half; \
		} else if (given < len) { \
			count = (int)given; \
		} \
		return real args; \
	}

MOVES_PARTS(NTH_READ, readv, (int fd, const struct iovec *parts, int count), (fd, parts, count))
MOVES_PARTS(NTH_READ, preadv64v2, (int fd, const struct iovec *parts, int count, off_t at, int flags), (fd, parts, count, at, flags))
MOVES_PARTS(NTH_WRITE, writev, (int fd, const struct iovec *parts, int count), (fd, parts, count))

/* -- calls that are done or fail --------------------------------------------------------------------------------- */

#define FAILS(condition, type, name, params, args) \
	type name params \
	{ \
		REAL(name); \
		if (condition) \
			return (type)-1; \
		return real args; \
	}

FAILS(fails_at(NTH_WRITE, fd, "ftruncate"), int, ftruncate64, (int fd, off_t len), (fd, len))
FAILS(fails_at(NTH_WRITE, fd, "fallocate"), int, fallocate64, (int fd, int mode, off_t at, off_t len), (fd, mode, at, len))
FAILS(fails(NTH_WRITE, "truncate"), int, truncate64, (const char *path, off_t len), (path, len))

int posix_fallocate64(int fd, off_t at, off_t len)
{
	REAL(posix_fallocate64);
	return fails_at(NTH_WRITE, fd, "posix_fallocate") ? atomic_load(&control->error) : real(fd, at, len);
}

FAILS(fails_at(NTH_SYNC, fd, "fsync"), int, fsync, (int fd), (fd))
FAILS(fails_at(NTH_SYNC, fd, "fdatasync"), int, fdatasync, (int fd), (fd))
FAILS(fails_at(NTH_SYNC, fd, "syncfs"), int, syncfs, (int fd), (fd))

FAILS(fails_between(NTH_NAME, dir, to_dir, "renameat2"), int, renameat2, (int dir, const char *from, int to_dir, const char *to, unsigned flags),
	(dir, from, to_dir, to, flags))
FAILS(fails_between(NTH_NAME, dir, to_dir, "renameat"), int, renameat, (int dir, const char *from, int to_dir, const char *to), (dir, from, to_dir, to))
FAILS(fails(NTH_NAME, "rename"), int, rename, (const char *from, const char *to), (from, to))
FAILS(fails_at(NTH_NAME, to_dir, "linkat"), int, linkat, (int dir, const char *from, int to_dir, const char *to, int flags),
	(dir, from, to_dir, to, flags))
FAILS(fails_at(NTH_NAME, dir, "unlinkat"), int, unlinkat, (int dir, const char *name, int flags), (dir, name, flags))
FAILS(fails(NTH_NAME, "unlink"), int, unlink, (const char *path), (path))
FAILS(fails_at(NTH_NAME, dir, "mkdirat"), int, mkdirat, (int dir, const char *name, mode_t mode), (dir, name, mode))
FAILS(fails(NTH_NAME, "mkdir"), int, mkdir, (const char *path, mode_t mode), (path, mode))
FAILS(fails_at(NTH_NAME, dir, "mknodat"), int, mknodat, (int dir, const char *name, mode_t mode, dev_t dev), (dir, name, mode, dev))
FAILS(fails_at(NTH_NAME, dir, "symlinkat"), int, symlinkat, (const char *target, int dir, const char *name), (target, dir, name))

FAILS(fails_at(NTH_ATTR, fd, "fchmod"), int, fchmod, (int fd, mode_t mode), (fd, mode))
FAILS(fails_at(NTH_ATTR, dir, "fchmodat"), int, fchmodat, (int dir, const char *name, mode_t mode, int flags), (dir, name, mode, flags))
FAILS(fails_at(NTH_ATTR, fd, "fchown"), int, fchown, (int fd, uid_t uid, gid_t gid), (fd, uid, gid))
FAILS(fails_at(NTH_ATTR, dir, "fchownat"), int, fchownat, (int dir, const char *name, uid_t uid, gid_t gid, int flags), (dir, name, uid, gid, flags))
FAILS(fails_at(NTH_ATTR, fd, "futimens"), int, futimens, (int fd, const struct timespec times[2]), (fd, times))
FAILS(fails_at(NTH_ATTR, dir, "utimensat"), int, utimensat, (int dir, const char *name, const struct timespec times[2], int flags),
	(dir, name, times, flags))
FAILS(fails_at(NTH_ATTR, fd, "fsetxattr"), int, fsetxattr, (int fd, const char *name, const void *value, size_t len, int flags),
	(fd, name, value, len, flags))
FAILS(fails(NTH_ATTR, "setxattr"), int, setxattr, (const char *path, const char *name, const void *value, size_t len, int flags),
	(path, name, value, len, flags))
FAILS(fails(NTH_ATTR, "lsetxattr"), int, lsetxattr, (const char *path, const char *name, const void *value, size_t len, int flags),
	(path, name, value, len, flags))
FAILS(fails_at(NTH_ATTR, fd, "fremovexattr"), int, fremovexattr, (int fd, const char *name), (fd, name))
FAILS(fails(NTH_ATTR, "removexattr"), int, removexattr, (const char *path, const char *name), (path, name))

FAILS(fails_at(NTH_LOOK, fd, "fstat"), int, fstat64, (int fd, struct stat64 *st), (fd, st))
FAILS(!is_elsewhere(name) && fails_at(NTH_LOOK, dir, "fstatat"), int, fstatat64, (int dir, const char *name, struct stat64 *st, int flags),
	(dir, name, st, flags))
FAILS(!is_elsewhere(path) && fails(NTH_LOOK, "stat"), int, stat64, (const char *path, struct stat64 *st), (path, st))
FAILS(!is_elsewhere(name) && fails_at(NTH_LOOK, dir, "statx"), int, statx, (int dir, const char *name, int flags, unsigned mask, struct statx *st),
	(dir, name, flags, mask, st))
FAILS(fails_at(NTH_LOOK, fd, "fgetxattr"), ssize_t, fgetxattr, (int fd, const char *name, void *value, size_t room), (fd, name, value, room))
FAILS(fails_on(NTH_LOOK, path, "getxattr"), ssize_t, getxattr, (const char *path, const char *name, void *value, size_t room), (path, name, value, room))
FAILS(fails_at(NTH_LOOK, fd, "flistxattr"), ssize_t, flistxattr, (int fd, char *list, size_t room), (fd, list, room))
FAILS(fails_on(NTH_LOOK, path, "listxattr"), ssize_t, listxattr, (const char *path, char *list, size_t room), (path, list, room))
FAILS(fails_at(NTH_LOOK, fd, "lseek"), off_t, lseek64, (int fd, off_t at, int whence), (fd, at, whence))

FAILS(!is_elsewhere(name) && fails_at(NTH_READ, dir, "readlinkat"), ssize_t, readlinkat, (int dir, const char *name, char *target, size_t room),
	(dir, name, target, room))
FAILS(fails_at(NTH_READ, fd, "getdents"), ssize_t, getdents64, (int fd, void *entries, size_t room), (fd, entries, room))

struct dirent64 *readdir64(DIR *dir)
{
	REAL(readdir64);
	return fails_at(NTH_READ, dirfd(dir), "readdir") ? NULL : real(dir);
}

FAILS(fails(NTH_NET, "connect"), int, connect, (int fd, const struct sockaddr *address, socklen_t len), (fd, address, len))

/* -- descriptors ------------------------------------------------------------------------------------------------- */

FAILS(fails(NTH_OPEN, "socket"), int, socket, (int family, int type, int protocol), (family, type, protocol))
FAILS(fails(NTH_OPEN, "accept4"), int, accept4, (int fd, struct sockaddr *address, socklen_t *len, int flags), (fd, address, len, flags))
FAILS(fails(NTH_OPEN, "pipe2"), int, pipe2, (int ends[2], int flags), (ends, flags))
FAILS(fails(NTH_OPEN, "eventfd"), int, eventfd, (unsigned value, int flags), (value, flags))
FAILS(fails(NTH_OPEN, "timerfd_create"), int, timerfd_create, (int clock, int flags), (clock, flags))
FAILS(fails(NTH_OPEN, "epoll_create1"), int, epoll_create1, (int flags), (flags))
FAILS(fails(NTH_OPEN, "memfd_create"), int, memfd_create, (const char *name, unsigned flags), (name, flags))
FAILS(fails(NTH_OPEN, "open_by_handle_at"), int, open_by_handle_at, (int mount, struct file_handle *handle, int flags), (mount, handle, flags))

DIR *opendir(const char *path)
{
	REAL(opendir);
	return !is_elsewhere(path) && fails(NTH_OPEN, "opendir") ? NULL : real(path);
}

static mode_t mode_of(int flags, va_list ap)
{
	return flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(ap, mode_t) : 0;
}

int open64(const char *path, int flags, ...)
{
	REAL(open64);
	va_list ap;
	va_start(ap, flags);
	mode_t mode = mode_of(flags, ap);
	va_end(ap);
	return !is_elsewhere(path) && fails(NTH_OPEN, "open") ? -1 : real(path, flags, mode);
}

int openat64(int dir, const char *path, int flags, ...)
{
	REAL(openat64);
	va_list ap;
	va_start(ap, flags);
	mode_t mode = mode_of(flags, ap);
	va_end(ap);
	return !is_elsewhere(path) && fails(NTH_OPEN, "openat") ? -1 : real(dir, path, flags, mode);
}

int fcntl64(int fd, int command, ...)
{
	REAL(fcntl64);
	va_list ap;
	va_start(ap, command);
	void *arg = va_arg(ap, void *);
	va_end(ap);
	return (command == F_DUPFD_CLOEXEC || command == F_DUPFD) && fails(NTH_OPEN, "dup") ? -1 : real(fd, command, arg);
}

long syscall(long number, ...)
{
	REAL(syscall);
	long a[6];
	va_list ap;
	va_start(ap, number);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(ap, long);
	va_end(ap);
	if ((number == SYS_openat2 || number == SYS_pidfd_open) && fails(NTH_OPEN, "openat2"))
		return -1;
	return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* -- memory ------------------------------------------------------------------------------------------------------ */

void *__libc_malloc(size_t len);
void *__libc_calloc(size_t count, size_t len);
void *__libc_realloc(void *p, size_t len);

void *malloc(size_t len)
{
	return fails(NTH_MEMORY, "malloc") ? NULL : __libc_malloc(len);
}

void *calloc(size_t count, size_t len)
{
	return fails(NTH_MEMORY, "calloc") ? NULL : __libc_calloc(count, len);
}

void *realloc(void *p, size_t len)
{
	return fails(NTH_MEMORY, "realloc") ? NULL : __libc_realloc(p, len);
}

void *mmap64(void *at, size_t len, int protection, int flags, int fd, off_t offset)
{
	REAL(mmap64);
	return fails(NTH_MEMORY, "mmap") ? MAP_FAILED : real(at, len, protection, flags, fd, offset);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*main)(void *), void *arg)
{
	REAL(pthread_create);
	return fails(NTH_MEMORY, "pthread_create") ? EAGAIN : real(thread, attributes, main, arg);
}

/* Out of memory a program may end itself: noted, and no core. Failed assertions do not come by here. */
void abort(void)
{
	REAL(abort);
	if (is_wanted(NTH_MEMORY) && atomic_load(&control->fired)) {
		atomic_store(&control->gave_up, true);
		kill(getpid(), SIGKILL);
	}
	real();
	__builtin_unreachable();
}

/* -- io_uring ---------------------------------------------------------------------------------------------------- */

static enum nth_kind kind_of_submission(const struct io_uring_sqe *sqe)
{
	switch (sqe->opcode) {
	case IORING_OP_READ:
	case IORING_OP_READV:
		return is_wanted(NTH_READ) && is_disk(sqe->fd) && is_named(sqe->fd) ? NTH_READ : NTH_OFF;
	case IORING_OP_WRITE:
	case IORING_OP_WRITEV:
		return is_wanted(NTH_WRITE) && is_disk(sqe->fd) && is_named(sqe->fd) ? NTH_WRITE : NTH_OFF;
	case IORING_OP_FSYNC:
		return NTH_SYNC;
	case IORING_OP_ACCEPT:
		return NTH_OPEN;
	case IORING_OP_CONNECT:
	case IORING_OP_RECV:
	case IORING_OP_SEND:
		return NTH_NET;
	default:
		return NTH_OFF;
	}
}

bool nth_submission(struct io_uring_sqe *sqe, int *ret_result);

bool nth_submission(struct io_uring_sqe *sqe, int *ret_result)
{
	enum nth_kind kind = kind_of_submission(sqe);
	if (kind == NTH_OFF || !is_wanted(kind))
		return false;
	bool is_short = atomic_load(&control->error) == NTH_SHORT;
	if (is_short && (sqe->len < 2 || sqe->opcode == IORING_OP_ACCEPT || sqe->opcode == IORING_OP_CONNECT || sqe->opcode == IORING_OP_FSYNC))
		return false;
	if (!is_due(kind, "io_uring"))
		return false;
	if (is_short)
		sqe->len /= 2;
	*ret_result = -atomic_load(&control->error);
	return !is_short;
}
