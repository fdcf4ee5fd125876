/* SPDX-License-Identifier: Apache-2.0 */
/* New objects belong to the caller: each worker thread changes its own fsuid, fsgid and umask.
 *
 * The kernel has checked the caller's permissions already (default_permissions, setgid bits and supplementary groups included), so the
 * thread keeps its capabilities while it wears the caller's ids (SECBIT_NO_SETUID_FIXUP). What it must not have is
 * CAP_SYS_RESOURCE, which would let everybody use the reserved blocks and ignore quota. */
#include <errno.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sched.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "cdmfs/fs.h"

/* The libraries' wrappers change all threads, the calls themselves only this one. */
static int drop_resource_capability(void)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &head, data) < 0)
		return -errno;
	data[0].effective &= ~(1u << CAP_SYS_RESOURCE);
	return syscall(SYS_capset, &head, data) < 0 ? -errno : 0;
}

int caller_prepare_thread(struct worker *w, struct cdm_error *err)
{
	if (unshare(CLONE_FS) < 0)
		return cdm_fail(err, errno, "give each thread its own umask");
	if (prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP) < 0)
		return cdm_fail(err, errno, "set secure bits");
	int r = drop_resource_capability();
	if (r < 0)
		return cdm_fail(err, -r, "drop CAP_SYS_RESOURCE");
	w->fsuid = 0;
	w->fsgid = 0;
	w->umask = 0;
	umask(0);
	return 0;
}

void caller_begin(struct request *rq, mode_t mask)
{
	struct worker *w = rq->worker;

	if (w->fsgid != rq->gid)
		syscall(SYS_setfsgid, rq->gid);
	if (w->fsuid != rq->uid)
		syscall(SYS_setfsuid, rq->uid);
	if (w->umask != mask)
		umask(mask);
	w->fsgid = rq->gid;
	w->fsuid = rq->uid;
	w->umask = mask;
}

void caller_end(struct request *rq)
{
	struct worker *w = rq->worker;

	if (w->fsuid != 0)
		syscall(SYS_setfsuid, 0);
	if (w->fsgid != 0)
		syscall(SYS_setfsgid, 0);
	w->fsuid = 0;
	w->fsgid = 0;
}
