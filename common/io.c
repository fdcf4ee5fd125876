/* SPDX-License-Identifier: Apache-2.0 */
#include "common/io.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef RWF_DONTCACHE
#define RWF_DONTCACHE 0x80
#endif

struct cdm_io_table cdm_io_table = {
	.pwrite = pwrite,
	.fsync = fsync,
	.fdatasync = fdatasync,
	.syncfs = syncfs,
	.renameat2 = renameat2,
};

int cdm_pwrite_all(int fd, const void *buf, size_t len, off_t offset)
{
	const char *p = buf;
	while (len > 0) {
		ssize_t n = cdm_io_table.pwrite(fd, p, len, offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -EIO;
		p += n;
		len -= (size_t)n;
		offset += n;
	}
	return 0;
}

static int pread_all(int fd, void *buf, size_t len, off_t offset, int flags)
{
	char *p = buf;
	while (len > 0) {
		struct iovec iov = {p, len};
		ssize_t n = flags ? preadv2(fd, &iov, 1, offset, flags) : pread(fd, p, len, offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -ENODATA;
		p += n;
		len -= (size_t)n;
		offset += n;
	}
	return 0;
}

int cdm_pread_all(int fd, void *buf, size_t len, off_t offset)
{
	return pread_all(fd, buf, len, offset, 0);
}

int cdm_pread_passing(int fd, void *buf, size_t len, off_t offset)
{
	static atomic_bool cannot;
	int r = atomic_load(&cannot) ? -EOPNOTSUPP : pread_all(fd, buf, len, offset, RWF_DONTCACHE);
	if (r != -EOPNOTSUPP && r != -EINVAL)
		return r;
	atomic_store(&cannot, true);
	return pread_all(fd, buf, len, offset, 0);
}

struct timespec cdm_time_of(int64_t ns)
{
	struct timespec t = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
	if (t.tv_nsec < 0) {
		t.tv_nsec += 1000000000;
		t.tv_sec--;
	}
	return t;
}

/* A sync that was interrupted has not reported anything yet: asking again is not a retry of a failed one. */
static int sync_with(int (*sync_fn)(int fd), int fd)
{
	int r;
	do
		r = sync_fn(fd);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : 0;
}

int cdm_fdatasync(int fd)
{
	return sync_with(cdm_io_table.fdatasync, fd);
}

int cdm_fsync(int fd)
{
	return sync_with(cdm_io_table.fsync, fd);
}

int cdm_syncfs(int fd)
{
	return sync_with(cdm_io_table.syncfs, fd);
}

static int write_temporary(int dirfd, const char *temporary, const void *bytes, size_t len, mode_t mode)
{
	if (unlinkat(dirfd, temporary, 0) < 0 && errno != ENOENT)
		return -errno;
	_cleanup_close_ int fd = openat(dirfd, temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	if (fchmod(fd, mode) < 0)
		return -errno;
	int r = cdm_pwrite_all(fd, bytes, len, 0);
	if (r < 0)
		return r;
	return cdm_fsync(fd);
}

static int sync_directory(int dirfd)
{
	_cleanup_close_ int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	return cdm_fsync(fd);
}

int cdm_replace_file(int dirfd, const char *name, const void *bytes, size_t len, mode_t mode, struct cdm_error *err)
{
	/* the thread's number keeps two writers of one name apart; a crash leaves at most this one file behind */
	char temporary[NAME_MAX + 1];
	if (snprintf(temporary, sizeof temporary, ".%s.%d.new", name, (int)gettid()) >= (int)sizeof temporary)
		return cdm_fail(err, ENAMETOOLONG, "write %s", name);
	int r = write_temporary(dirfd, temporary, bytes, len, mode);
	if (r < 0) {
		unlinkat(dirfd, temporary, 0);
		return cdm_fail(err, -r, "write %s", name);
	}
	if (cdm_io_table.renameat2(dirfd, temporary, dirfd, name, 0) < 0) {
		r = cdm_fail(err, errno, "put the new %s in place", name);
		unlinkat(dirfd, temporary, 0);
		return r;
	}
	r = sync_directory(dirfd);
	if (r < 0)
		return cdm_fail(err, -r, "sync the directory of %s", name);
	return 0;
}

/* Append what fd holds to *buf, which keeps room for a NUL; -EFBIG past limit. */
static int read_to_end(int fd, size_t limit, char **buf, size_t *len)
{
	size_t room = 0;
	for (;;) {
		if (*len + 1 >= room) {
			room = room ? room * 2 : 4096;
			char *grown = realloc(*buf, room);
			if (!grown)
				return -ENOMEM;
			*buf = grown;
		}
		ssize_t n = read(fd, *buf + *len, room - 1 - *len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return 0;
		*len += (size_t)n;
		if (*len > limit)
			return -EFBIG;
	}
}

int cdm_read_file(int dirfd, const char *name, size_t limit, char **ret, size_t *ret_len, struct cdm_error *err)
{
	_cleanup_close_ int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (fd < 0)
		return cdm_fail(err, errno, "open %s", name);
	_cleanup_free_ char *buf = NULL;
	size_t len = 0;
	int r = read_to_end(fd, limit, &buf, &len);
	if (r == -EFBIG)
		return cdm_fail_plain(err, EFBIG, "read %s: larger than %zu bytes", name, limit);
	if (r < 0)
		return cdm_fail(err, -r, "read %s", name);
	buf[len] = 0;
	*ret = buf;
	buf = NULL;
	if (ret_len)
		*ret_len = len;
	return 0;
}

static int make_one_dir(const char *path, mode_t mode)
{
	if (mkdir(path, mode) == 0)
		return 0;
	int number = errno;
	struct stat st;
	if (stat(path, &st) == 0)
		return S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
	return -number;
}

int cdm_make_dirs(const char *path, mode_t mode, struct cdm_error *err)
{
	_cleanup_free_ char *copy = strdup(path);
	if (!copy)
		return cdm_fail(err, ENOMEM, "create directory %s", path);
	for (char *p = copy; *p; p++) {
		if (p == copy || *p != '/')
			continue;
		*p = 0;
		int r = make_one_dir(copy, mode);
		if (r < 0)
			return cdm_fail(err, -r, "create directory %s", copy);
		*p = '/';
	}
	int r = make_one_dir(copy, mode);
	if (r < 0)
		return cdm_fail(err, -r, "create directory %s", path);
	return 0;
}

/* One openat2 for a piece shorter than PATH_MAX. */
static int open_piece(int dirfd, const char *path, size_t len, int flags, mode_t mode)
{
	char name[PATH_MAX];
	if (memchr(path, 0, len))
		return -EINVAL;
	memcpy(name, path, len);
	name[len] = 0;
	struct open_how how = {
		.flags = (unsigned)(flags | O_CLOEXEC),
		.mode = (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE) ? mode : 0,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
	};
	/* EAGAIN: a rename or mount somewhere made the kernel unsure that it stayed beneath; it asks to be asked again */
	for (int attempt = 0; attempt < 64; attempt++) {
		long fd = syscall(SYS_openat2, dirfd, len ? name : ".", &how, sizeof how);
		if (fd >= 0)
			return (int)fd;
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
	}
	return -EAGAIN;
}

int cdm_open_beneath(int dirfd, const char *path, size_t len, int flags, mode_t mode)
{
	_cleanup_close_ int held = -1;
	while (len >= PATH_MAX) {
		const char *slash = memrchr(path, '/', PATH_MAX);
		if (!slash || slash == path)
			return slash ? -EXDEV : -ENAMETOOLONG;
		size_t piece = (size_t)(slash - path);
		int next = open_piece(held >= 0 ? held : dirfd, path, piece, O_PATH | O_DIRECTORY, 0);
		if (next < 0)
			return next;
		cdm_cleanup_close(&held);
		held = next;
		while (piece < len && path[piece] == '/')
			piece++;
		path += piece;
		len -= piece;
	}
	return open_piece(held >= 0 ? held : dirfd, path, len, flags, mode);
}

int cdm_open_parent(int dirfd, const char *path, size_t len, const char **ret_name)
{
	const char *slash = memrchr(path, '/', len);
	*ret_name = slash ? slash + 1 : path;
	if (slash == path)
		return -EXDEV;
	if (slash)
		return cdm_open_beneath(dirfd, path, (size_t)(slash - path), O_PATH | O_DIRECTORY, 0);
	int fd = fcntl(dirfd, F_DUPFD_CLOEXEC, 0);
	return fd < 0 ? -errno : fd;
}

/* As copy_file_range, also from one filesystem to another. */
static ssize_t copy_some(int from, loff_t *in, int to, loff_t *out, size_t len)
{
	ssize_t n = copy_file_range(from, in, to, out, len, 0);
	if (n >= 0 || errno != EXDEV)
		return n;
	if (lseek(to, *out, SEEK_SET) < 0)
		return -1;
	n = sendfile(to, from, in, len);
	*out += n > 0 ? n : 0;
	return n;
}

int cdm_copy_file(int from, int to, uint64_t size)
{
	struct stat st;
	if (fstat(from, &st) == 0 && (uint64_t)st.st_size == size && ioctl(to, FICLONE, from) == 0)
		return 0;
	for (uint64_t at = 0; at < size;) {
		off_t data = lseek(from, (off_t)at, SEEK_DATA);
		if (data < 0)
			return errno == ENXIO ? 0 : -errno;
		off_t hole = lseek(from, data, SEEK_HOLE);
		uint64_t end = hole < 0 || (uint64_t)hole > size ? size : (uint64_t)hole;
		for (loff_t in = data, out = data; (uint64_t)in < end;) {
			ssize_t n = copy_some(from, &in, to, &out, end - (uint64_t)in);
			if (n < 0)
				return -errno;
			if (!n)
				return 0;
		}
		at = end;
	}
	return 0;
}
