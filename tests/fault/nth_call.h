/* SPDX-License-Identifier: Apache-2.0 */
/* nth_call.h — the Nth system call of a kind fails in a real program. libnth_call.so is preloaded into it (LAB_PRELOAD) and maps the file that
 * NTH_CALL_FILE names: one struct nth_control, which a test changes while programs run. Submissions to io_uring count as the calls that they stand
 * for (the seam: cdm_fault_submit in common/faultpoint.h). Files, directories and memory files of a program count as disk; its log, /proc and /sys do not. */
#ifndef NTH_CALL_H
#define NTH_CALL_H

#include <stdatomic.h>
#include <stdbool.h>

enum nth_kind {
	NTH_OFF,
	NTH_READ,   /* of files: read, pread, readdir, readlink */
	NTH_WRITE,  /* write, pwrite, copy_file_range, truncate, fallocate */
	NTH_SYNC,   /* fsync, fdatasync, syncfs */
	NTH_OPEN,   /* whatever makes a descriptor */
	NTH_NAME,   /* rename, link, unlink, mkdir, mknod, symlink */
	NTH_ATTR,   /* set mode, owner, times, extended attributes */
	NTH_LOOK,   /* stat, get extended attributes, seek */
	NTH_MEMORY, /* malloc, mmap, new threads */
	NTH_NET,    /* connect, send, receive */
	NTH_DEVICE, /* the next request is read from the FUSE device */
	NTH_KINDS
};

#define NTH_SHORT 0 /* as errno: half of it is read or written */

struct nth_control {
	char who[48];                   /* "n1/cdm-replicator", "n1/server" (by --server), "/cdm-master" */
	char name[64];                  /* not "": only calls on an open file or directory of this name, by descriptor or /proc/self/fd */
	atomic_int error;
	atomic_ulong nth, last;         /* these fail, from Nth to last */
	atomic_ulong passes, fired;
	atomic_bool gave_up;            /* abort() was called after memory was refused: ended without a core */
	char where[1024];               /* which call it was, and who called: offsets for addr2line */
	atomic_uint kind;               /* written last */
};

#endif
