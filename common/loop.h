/* SPDX-License-Identifier: Apache-2.0 */
/* loop.h — one io_uring event loop with timers and posted messages. One thread owns it and calls everything here but
 * cdm_loop_post; every submission has exactly one completion callback, called on the owner, also when cancelled
 * (result -ECANCELED). When the ring is full submissions are queued in memory in order. */
#ifndef CDM_LOOP_H
#define CDM_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include "common/error.h"

struct cdm_loop;
struct cdm_io;    /* one submission in flight */
struct cdm_timer;

typedef void cdm_io_fn(void *arg, int result); /* result as io_uring's cqe->res: >= 0 or -errno */
typedef void cdm_loop_fn(void *arg);

int cdm_loop_new(struct cdm_loop **ret, struct cdm_error *err);
void cdm_loop_free(struct cdm_loop **loop);
int cdm_loop_run(struct cdm_loop *loop); /* until cdm_loop_stop */
void cdm_loop_stop(struct cdm_loop *loop);
void cdm_loop_assert_owner(const struct cdm_loop *loop);
int64_t cdm_now_ms(void);  /* monotonic */
int64_t cdm_now_ns(void);  /* monotonic */
int64_t cdm_wall_ns(void); /* CLOCK_REALTIME */

/* Buffers and addresses must live until the callback. Each returns a handle valid until its callback. */
struct cdm_io *cdm_loop_poll(struct cdm_loop *loop, int fd, short events, cdm_io_fn *fn, void *arg); /* one shot */
struct cdm_io *cdm_loop_read(struct cdm_loop *loop, int fd, void *buf, size_t len, uint64_t offset, cdm_io_fn *fn, void *arg);
struct cdm_io *cdm_loop_write(struct cdm_loop *loop, int fd, const void *buf, size_t len, uint64_t offset, cdm_io_fn *fn, void *arg);
struct cdm_io *cdm_loop_readv(struct cdm_loop *loop, int fd, const struct iovec *iov, unsigned count, uint64_t offset, cdm_io_fn *fn, void *arg);
struct cdm_io *cdm_loop_writev(struct cdm_loop *loop, int fd, const struct iovec *iov, unsigned count, uint64_t offset, cdm_io_fn *fn, void *arg);
struct cdm_io *cdm_loop_fsync(struct cdm_loop *loop, int fd, bool data_only, cdm_io_fn *fn, void *arg);
struct cdm_io *cdm_loop_fsetxattr(struct cdm_loop *loop, int fd, const char *name, const void *value, size_t len, cdm_io_fn *fn, void *arg);
struct cdm_io *cdm_loop_recv(struct cdm_loop *loop, int fd, void *buf, size_t len, cdm_io_fn *fn, void *arg);
struct cdm_io *cdm_loop_send(struct cdm_loop *loop, int fd, const void *buf, size_t len, cdm_io_fn *fn, void *arg);
struct cdm_io *cdm_loop_accept(struct cdm_loop *loop, int fd, cdm_io_fn *fn, void *arg);
struct cdm_io *cdm_loop_connect(struct cdm_loop *loop, int fd, const struct sockaddr *addr, socklen_t len, cdm_io_fn *fn, void *arg);
void cdm_loop_cancel(struct cdm_loop *loop, struct cdm_io *io); /* its callback still comes */

/* One-shot timers; freed by fire or cancel (cancel NULLs the caller's pointer; the callback is then not called). */
struct cdm_timer *cdm_loop_after(struct cdm_loop *loop, int64_t ms, cdm_loop_fn *fn, void *arg);
void cdm_timer_cancel(struct cdm_timer **timer);

/* Any thread: run fn(arg) on the owner, FIFO. */
void cdm_loop_post(struct cdm_loop *loop, cdm_loop_fn *fn, void *arg);

/* A worker: one thread with a FIFO queue for blocking work (hashing, applying, directory walks). `work` runs there, then
 * `done` on the loop. done may be NULL. */
struct cdm_worker;
struct cdm_worker *cdm_worker_new(struct cdm_loop *loop, const char *name);
void cdm_worker_free(struct cdm_worker **w); /* finishes what is queued */
void cdm_worker_submit(struct cdm_worker *w, cdm_loop_fn *work, cdm_loop_fn *done, void *arg);

#endif
