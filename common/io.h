/* SPDX-License-Identifier: Apache-2.0 */
/* io.h — the only caller of write, fsync, fdatasync, msync, rename for durable state, behind a table that tests replace
 * (short writes, EIO, ENOSPC on the nth call). Content read or written through io_uring goes through loop.h. */
#ifndef CDM_IO_H
#define CDM_IO_H

#include <stdint.h>
#include <sys/types.h>
#include <time.h>
#include "common/error.h"

struct cdm_io_table {
	ssize_t (*pwrite)(int fd, const void *buf, size_t len, off_t offset);
	int (*fsync)(int fd);
	int (*fdatasync)(int fd);
	int (*syncfs)(int fd);
	int (*renameat2)(int olddir, const char *from, int newdir, const char *to, unsigned flags);
};
extern struct cdm_io_table cdm_io_table; /* the system's calls unless a test put its own in */

/* Write all of it (short writes and EINTR are continued). 0 or -errno. */
int cdm_pwrite_all(int fd, const void *buf, size_t len, off_t offset);
/* Read exactly len; -ENODATA at a premature end. */
int cdm_pread_all(int fd, void *buf, size_t len, off_t offset);
/* The same; where the kernel can do that, what is not in the page cache does not stay there. */
int cdm_pread_passing(int fd, void *buf, size_t len, off_t offset);
int cdm_fdatasync(int fd);
int cdm_fsync(int fd);
int cdm_syncfs(int fd);

/* Replace dirfd/name with these bytes so that a crash leaves the old or the new file: temporary, fsync, rename, fsync of the directory. */
int cdm_replace_file(int dirfd, const char *name, const void *bytes, size_t len, mode_t mode, struct cdm_error *err);
/* Whole small file, NUL added behind; caller frees. -EFBIG past limit. */
int cdm_read_file(int dirfd, const char *name, size_t limit, char **ret, size_t *ret_len, struct cdm_error *err);
/* Nanoseconds since 1970, or before it, as the calls that set times want them. */
struct timespec cdm_time_of(int64_t ns);

/* mkdir -p. */
int cdm_make_dirs(const char *path, mode_t mode, struct cdm_error *err);

/* openat2 with RESOLVE_BENEATH|RESOLVE_NO_SYMLINKS|RESOLVE_NO_MAGICLINKS: path of `len` bytes below dirfd. fd or -errno. */
int cdm_open_beneath(int dirfd, const char *path, size_t len, int flags, mode_t mode);
/* Open the directory that holds path's last component; *ret_name points into path. "" parent = dirfd itself (dup). fd or -errno. */
int cdm_open_parent(int dirfd, const char *path, size_t len, const char **ret_name);

/* The first `size` bytes of one open file as the content of another, empty one: shared where the filesystem can, holes stay holes. 0 or -errno. */
int cdm_copy_file(int from, int to, uint64_t size);

#endif
