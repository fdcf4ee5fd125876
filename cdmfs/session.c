/* SPDX-License-Identifier: Apache-2.0 */
/* The receive loop: one request in, one operation, one answer out, after all locks are released. */
#include "cdmfs/session.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>
#include "cdmfs/settle.h"
#include "common/faultpoint.h"
#include "common/io.h"
#include "common/log.h"

/* Newer than the headers of Debian 12. */
#define UNIQUE_RESEND (1ull << 63)
#define NOTIFY_RESEND 7
#define FUSE_STATX 52
#define INIT_FILE "init"

#define WANTED (FUSE_ASYNC_READ | FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_BIG_WRITES | FUSE_EXPORT_SUPPORT | FUSE_DONT_MASK | FUSE_ASYNC_DIO | FUSE_PARALLEL_DIROPS | \
	FUSE_NO_OPEN_SUPPORT | FUSE_NO_OPENDIR_SUPPORT | FUSE_POSIX_ACL | FUSE_MAX_PAGES | FUSE_CACHE_SYMLINKS | \
	FUSE_EXPLICIT_INVAL_DATA | FUSE_HANDLE_KILLPRIV_V2 | FUSE_SETXATTR_EXT)
/* Without these the answers of this server would be wrong or lost. */
#define NEEDED (FUSE_NO_OPEN_SUPPORT | FUSE_NO_OPENDIR_SUPPORT | FUSE_MAX_PAGES | FUSE_EXPLICIT_INVAL_DATA | FUSE_HANDLE_KILLPRIV_V2 | \
	FUSE_POSIX_ACL | FUSE_SETXATTR_EXT)

const void *request_arg(const struct request *rq, size_t bytes)
{
	return rq->arg_len >= bytes ? rq->arg : NULL;
}

const char *request_string(const struct request *rq, size_t *offset, size_t *ret_len)
{
	const char *s = (const char *)rq->arg + *offset;
	const char *end = *offset < rq->arg_len ? memchr(s, 0, rq->arg_len - *offset) : NULL;

	if (!end)
		return NULL;
	*ret_len = end - s;
	*offset += *ret_len + 1;
	return s;
}

/* --- answers --- */

static void send_answer(struct request *rq, uint64_t unique, int error)
{
	struct fuse_out_header head = {.unique = unique, .error = error};
	struct iovec iov[2] = {{&head, sizeof(head)}, {(void *)rq->data, error ? 0 : rq->data_len}};

	head.len = iov[0].iov_len + iov[1].iov_len;
	if (writev(rq->fs->fuse_fd, iov, 2) >= 0)
		return;
	if (errno == ENOENT) { /* the caller was killed meanwhile: nobody took the entry */
		if (rq->counted && !error && inodes_forget(rq->fs->nodes, rq->counted, 1))
			node_forgotten(rq->fs, rq->counted);
		else if (rq->opcode == FUSE_READDIRPLUS && !error)
			readdirplus_undo(rq->fs, rq->data, rq->data_len);
	} else if (errno == ENODEV) {
		atomic_store(&rq->fs->unmounted, true);
	} else {
		struct cdm_error err = CDM_ERROR_INIT;
		cdm_fail(&err, errno, "answer request %u", rq->opcode);
		cdm_log_err(request_lost, &err);
	}
}

/* Operations that the kernel is to do without. */
static int op_not_there(struct request *rq)
{
	return -ENOSYS;
}

static int op_nothing(struct request *rq)
{
	return 0;
}

static int op_destroy(struct request *rq)
{
	atomic_store(&rq->fs->unmounted, true);
	return 0;
}

static const struct operation {
	op_fn *fn;
	const char *name;
} operations[OPCODES_MAX] = {
#define OP(opcode, fn) [FUSE_##opcode] = {fn, #opcode}
	OP(LOOKUP, op_lookup), OP(FORGET, op_forget), OP(BATCH_FORGET, op_batch_forget), OP(GETATTR, op_getattr), OP(STATX, op_statx), OP(SETATTR, op_setattr),
	OP(READLINK, op_readlink), OP(SYMLINK, op_symlink), OP(MKNOD, op_mknod), OP(MKDIR, op_mkdir), OP(TMPFILE, op_tmpfile),
	OP(UNLINK, op_unlink), OP(RMDIR, op_rmdir), OP(RENAME, op_rename), OP(RENAME2, op_rename2), OP(LINK, op_link),
	OP(READ, op_read), OP(WRITE, op_write), OP(FSYNC, op_fsync), OP(FSYNCDIR, op_fsyncdir), OP(FALLOCATE, op_fallocate),
	OP(LSEEK, op_lseek), OP(COPY_FILE_RANGE, op_copy_file_range), OP(STATFS, op_statfs), OP(READDIR, op_readdir), OP(READDIRPLUS, op_readdirplus),
	OP(SETXATTR, op_setxattr), OP(GETXATTR, op_getxattr), OP(LISTXATTR, op_listxattr), OP(REMOVEXATTR, op_removexattr),
	OP(OPEN, op_not_there), OP(OPENDIR, op_not_there), OP(CREATE, op_not_there), OP(FLUSH, op_not_there),
	OP(INTERRUPT, op_not_there), /* ENOSYS ends interrupts for good: no operation here takes long */
	OP(RELEASE, op_nothing), OP(RELEASEDIR, op_nothing), /* of O_TMPFILE, the only one the kernel opens through us */
	OP(DESTROY, op_destroy),
#undef OP
};

const char *opcode_name(uint32_t opcode)
{
	return opcode < OPCODES_MAX ? operations[opcode].name : NULL;
}

static op_fn *operation_of(uint32_t opcode)
{
	op_fn *fn = opcode < OPCODES_MAX ? operations[opcode].fn : NULL;

	return fn ? fn : op_not_there;
}

static bool request_parse(struct request *rq, const uint8_t *in, size_t len)
{
	const struct fuse_in_header *h = (const void *)in;
	size_t extensions;

	if (len < sizeof(*h) || h->len != len)
		return false;
	extensions = (size_t)h->total_extlen * 8;
	if (extensions > len - sizeof(*h))
		return false;
	rq->unique = h->unique & ~UNIQUE_RESEND;
	rq->resent = h->unique & UNIQUE_RESEND;
	rq->opcode = h->opcode;
	rq->node = h->nodeid;
	rq->uid = h->uid;
	rq->gid = h->gid;
	rq->pid = h->pid;
	rq->arg = in + sizeof(*h);
	rq->arg_len = len - sizeof(*h) - extensions;
	return true;
}

/* What ails the server itself is told as a disk would tell it: the caller has neither too many descriptors, nor was it interrupted. */
static int as_of_a_disk(int r)
{
	return r == -EMFILE ? -ENFILE : r == -EINTR ? -EIO : r;
}

static void request_answer_it(struct worker *w, size_t len)
{
	struct request rq = {.fs = w->fs, .worker = w};
	const struct fuse_in_header *h = (const void *)w->in;
	int r;

	if (!request_parse(&rq, w->in, len)) {
		if (len >= sizeof(*h))
			send_answer(&rq, h->unique, -EIO);
		return;
	}
	if (!rq.resent || !settle_answer(&rq, &r))
		r = operation_of(rq.opcode)(&rq);
	cdm_faultpoint("session.done_not_answered");
	if (settle_has_acted(w))
		cdm_faultpoint("session.changed_not_answered");
	if (r != OP_SILENT)
		send_answer(&rq, h->unique, as_of_a_disk(r));
	if (settle_has_acted(w))
		cdm_faultpoint("session.answered_not_noted");
	settle_answered(w);
	if (rq.opcode < OPCODES_MAX)
		atomic_fetch_add_explicit(&w->fs->requests[rq.opcode], 1, memory_order_relaxed);
}

void session_serve(struct worker *w)
{
	struct fs *fs = w->fs;

	alive_thread_is(w);
	while (!atomic_load(&fs->ending) && !atomic_load(&fs->unmounted)) {
		ssize_t n = read(fs->fuse_fd, w->in, WORKER_BUFFER);
		if (n >= 0) {
			alive_begin(w);
			request_answer_it(w, n);
			alive_end(w);
		} else if (errno == ENODEV) {
			atomic_store(&fs->unmounted, true);
		} else if (errno == ENOMEM || errno == EIO) { /* the kernel could not hand that one over, and answered it */
			struct cdm_error err = CDM_ERROR_INIT;
			cdm_fail(&err, errno, "read the next request");
			cdm_log_err(request_lost, &err);
		} else if (errno != EINTR && errno != EAGAIN && errno != ENOENT) { /* ENOENT: the request was taken back */
			struct cdm_error err = CDM_ERROR_INIT;
			cdm_fail(&err, errno, "read the next request");
			cdm_log_err(failed, &err);
			atomic_store(&fs->unmounted, true);
		}
	}
}

/* --- INIT --- */

static int init_check(const uint8_t *bytes, size_t len, struct cdm_error *err)
{
	const struct fuse_in_header *h = (const void *)bytes;
	const struct fuse_init_in *in = (const void *)(bytes + sizeof(*h));

	if (len < sizeof(*h) + offsetof(struct fuse_init_in, flags2) || h->opcode != FUSE_INIT)
		return cdm_fail_plain(err, EPROTO, "the first message of the kernel is not INIT");
	if (in->major != FUSE_KERNEL_VERSION || in->minor < 31 || (in->flags & NEEDED) != NEEDED) {
		cdm_hint(err, "Linux 6.1 or newer is needed, 6.9 or newer for restarts without errors");
		return cdm_fail_plain(err, ENOSYS, "this kernel's FUSE (%u.%u, flags %08x) lacks what the mount needs", in->major, in->minor, in->flags);
	}
	return 0;
}

static int init_answer(struct fs *fs, const uint8_t *bytes, struct cdm_error *err)
{
	const struct fuse_in_header *h = (const void *)bytes;
	const struct fuse_init_in *in = (const void *)(bytes + sizeof(*h));
	struct fuse_init_out out = {
		.major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION, .max_readahead = in->max_readahead,
		.flags = in->flags & WANTED, .max_background = 64, .congestion_threshold = 48, .max_write = MAX_WRITE, .time_gran = 1,
		.max_pages = MAX_WRITE / 4096,
	};
	struct request rq = {.fs = fs, .opcode = FUSE_INIT, .data = &out, .data_len = sizeof(out)};

	send_answer(&rq, h->unique, 0);
	if (atomic_load(&fs->unmounted))
		return cdm_fail_plain(err, ENODEV, "the mount went away at its start");
	return 0;
}

int session_init(struct fs *fs, struct cdm_error *err)
{
	static uint8_t buf[WORKER_BUFFER]; /* the kernel insists on room for a full write */
	ssize_t n;
	int r;

	do
		n = read(fs->fuse_fd, buf, sizeof(buf));
	while (n < 0 && errno == EINTR && !atomic_load(&fs->ending));
	if (n < 0) {
		r = cdm_fail(err, errno, "read the kernel's first message");
		if (r == -ENODEV)
			atomic_store(&fs->unmounted, true);
		return r;
	}
	r = init_check(buf, n, err);
	if (r == 0)
		r = cdm_replace_file(fs->run_fd, INIT_FILE, buf, n, 0600, err);
	return r < 0 ? r : init_answer(fs, buf, err);
}

static int notify(struct fs *fs, int code, const void *data, size_t len)
{
	struct fuse_out_header head = {.len = sizeof(head) + len, .error = code};
	struct iovec iov[2] = {{&head, sizeof(head)}, {(void *)data, len}};

	return writev(fs->fuse_fd, iov, len ? 2 : 1) < 0 ? -errno : 0;
}

int session_resume(struct fs *fs, struct cdm_error *err)
{
	_cleanup_free_ char *bytes = NULL;
	size_t len;
	int r = cdm_read_file(fs->run_fd, INIT_FILE, 4096, &bytes, &len, err);

	if (r == -ENOENT) { /* the server before died before it had saved INIT: it is still to be read, or to be sent again; or after it had
				 removed it at the end of the mount: then reading says that there is none */
		notify(fs, NOTIFY_RESEND, NULL, 0);
		return session_init(fs, err);
	}
	if (r < 0)
		return r;
	r = init_check((const uint8_t *)bytes, len, err);
	if (r < 0)
		return r;
	/* If the one before died between saving and answering INIT this is the answer; otherwise the kernel ignores it (ENOENT). */
	r = init_answer(fs, (const uint8_t *)bytes, err);
	if (r < 0)
		return r;
	r = notify(fs, NOTIFY_RESEND, NULL, 0);
	if (r < 0) {
		cdm_fail(err, -r, "ask the kernel to send again what was not answered");
		cdm_log_err(resend_missing, err);
		*err = CDM_ERROR_INIT;
	}
	return 0;
}

int session_invalidate(struct fs *fs, uint64_t id)
{
	struct fuse_notify_inval_inode_out out = {.ino = id, .off = -1};

	return notify(fs, FUSE_NOTIFY_INVAL_INODE, &out, sizeof(out));
}

void session_invalidate_name(struct fs *fs, uint64_t parent, const char *name)
{
	struct {
		struct fuse_notify_inval_entry_out out;
		char name[NAME_MAX + 1];
	} m = {.out = {.parent = parent, .namelen = (uint32_t)strlen(name)}};

	if (m.out.namelen >= sizeof(m.name))
		return;
	memcpy(m.name, name, m.out.namelen);
	int r = notify(fs, FUSE_NOTIFY_INVAL_ENTRY, &m, sizeof(m.out) + m.out.namelen + 1);
	if (r < 0 && r != -ENOENT)
		cdm_debug("invalidate name %s: %s", name, strerror(-r));
}
