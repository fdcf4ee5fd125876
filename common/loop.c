/* SPDX-License-Identifier: Apache-2.0 */
#include "common/loop.h"
#include "common/faultpoint.h"

#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define RING_ENTRIES 256u
#define RING_COMPLETIONS 4096u
#define IO_SPARE_MAX 256 /* freed submissions kept for reuse */
#define IO_MAGIC 0x6f69c0d1u

struct cdm_io {
	uint32_t magic;
	bool in_ring, cancelled;
	cdm_io_fn *fn; /* NULL: nobody asks for the answer (a cancel request) */
	void *arg;
	struct cdm_loop *loop;
	struct cdm_io *next;        /* in the queue of what waits for the ring, or in the list of spare ones */
	struct cdm_io *live_prev, *live_next; /* all that owe a callback */
	struct io_uring_sqe sqe;
};

struct cdm_timer {
	struct cdm_loop *loop;
	int64_t due_ns;
	uint64_t order; /* FIFO among equals */
	size_t index;   /* in the heap */
	cdm_loop_fn *fn;
	void *arg;
};

struct post {
	struct post *next;
	cdm_loop_fn *fn;
	void *arg;
};

struct cdm_loop {
	/* fixed */
	pthread_t owner;
	struct io_uring ring;
	int wake_fd;

	/* owner only */
	bool stopping;
	uint64_t wake_value;
	struct cdm_io *wake_io;
	struct cdm_io *queue_head, **queue_tail;
	struct cdm_io *live;
	struct cdm_io *spare;
	size_t spare_count;
	struct cdm_timer **heap;
	size_t heap_count, heap_room;
	uint64_t timer_order;

	/* any thread, under post_lock */
	pthread_mutex_t post_lock;
	struct post *post_head, **post_tail;
};

static int64_t clock_ns(clockid_t id)
{
	struct timespec ts;
	clock_gettime(id, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

int64_t cdm_now_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

int64_t cdm_now_ms(void)
{
	return cdm_now_ns() / 1000000;
}

int64_t cdm_wall_ns(void)
{
	return clock_ns(CLOCK_REALTIME) + cdm_fault_clock_ns();
}

void cdm_loop_assert_owner(const struct cdm_loop *loop)
{
	assert(pthread_equal(loop->owner, pthread_self()));
}

static void *must_alloc(size_t size)
{
	void *p = calloc(1, size);
	if (!p)
		abort(); /* a few bytes: nothing sensible is left to do */
	return p;
}

/* --- submissions --- */

static void queue_put(struct cdm_loop *loop, struct cdm_io *io)
{
	io->next = NULL;
	*loop->queue_tail = io;
	loop->queue_tail = &io->next;
}

static struct cdm_io *queue_take(struct cdm_loop *loop)
{
	struct cdm_io *io = loop->queue_head;
	if (io) {
		loop->queue_head = io->next;
		if (!loop->queue_head)
			loop->queue_tail = &loop->queue_head;
	}
	return io;
}

static struct cdm_io *io_new(struct cdm_loop *loop, cdm_io_fn *fn, void *arg)
{
	cdm_loop_assert_owner(loop);
	struct cdm_io *io = loop->spare;
	if (io) {
		loop->spare = io->next;
		loop->spare_count--;
		memset(io, 0, sizeof *io);
	} else {
		io = must_alloc(sizeof *io);
	}
	io->magic = IO_MAGIC;
	io->fn = fn;
	io->arg = arg;
	io->loop = loop;
	io->live_next = loop->live;
	if (loop->live)
		loop->live->live_prev = io;
	loop->live = io;
	queue_put(loop, io);
	return io;
}

static void io_complete(struct cdm_io *io, int result)
{
	struct cdm_loop *loop = io->loop;
	cdm_io_fn *fn = io->fn;
	void *arg = io->arg;
	assert(io->magic == IO_MAGIC);
	if (io->live_prev)
		io->live_prev->live_next = io->live_next;
	else
		loop->live = io->live_next;
	if (io->live_next)
		io->live_next->live_prev = io->live_prev;
	io->magic = 0;
	if (loop->spare_count < IO_SPARE_MAX) {
		io->next = loop->spare;
		loop->spare = io;
		loop->spare_count++;
	} else {
		free(io);
	}
	if (fn)
		fn(arg, result);
}

/* Move what is queued into the ring as far as it goes; cancelled ones end here. Returns whether callbacks ran. */
static bool queue_flush(struct cdm_loop *loop)
{
	bool ran = false;
	while (loop->queue_head) {
		int result = -ECANCELED;
		if (loop->queue_head->cancelled || cdm_fault_submit(&loop->queue_head->sqe, &result)) {
			io_complete(queue_take(loop), result);
			ran = true;
			continue;
		}
		struct io_uring_sqe *sqe = io_uring_get_sqe(&loop->ring);
		if (!sqe) {
			int r = io_uring_submit(&loop->ring);
			if (r <= 0)
				break; /* completions must be taken first */
			continue;
		}
		struct cdm_io *io = queue_take(loop);
		memcpy(sqe, &io->sqe, sizeof *sqe);
		sqe->user_data = (uintptr_t)io;
		io->in_ring = true;
	}
	return ran;
}

struct cdm_io *cdm_loop_poll(struct cdm_loop *loop, int fd, short events, cdm_io_fn *fn, void *arg)
{
	struct cdm_io *io = io_new(loop, fn, arg);
	io_uring_prep_poll_add(&io->sqe, fd, (unsigned)events);
	return io;
}

struct cdm_io *cdm_loop_read(struct cdm_loop *loop, int fd, void *buf, size_t len, uint64_t offset, cdm_io_fn *fn, void *arg)
{
	struct cdm_io *io = io_new(loop, fn, arg);
	io_uring_prep_read(&io->sqe, fd, buf, (unsigned)len, offset);
	return io;
}

struct cdm_io *cdm_loop_write(struct cdm_loop *loop, int fd, const void *buf, size_t len, uint64_t offset, cdm_io_fn *fn,
	void *arg)
{
	struct cdm_io *io = io_new(loop, fn, arg);
	io_uring_prep_write(&io->sqe, fd, buf, (unsigned)len, offset);
	return io;
}

struct cdm_io *cdm_loop_readv(struct cdm_loop *loop, int fd, const struct iovec *iov, unsigned count, uint64_t offset, cdm_io_fn *fn, void *arg)
{
	struct cdm_io *io = io_new(loop, fn, arg);
	io_uring_prep_readv(&io->sqe, fd, iov, count, offset);
	return io;
}

struct cdm_io *cdm_loop_writev(struct cdm_loop *loop, int fd, const struct iovec *iov, unsigned count, uint64_t offset, cdm_io_fn *fn,
	void *arg)
{
	struct cdm_io *io = io_new(loop, fn, arg);
	io_uring_prep_writev(&io->sqe, fd, iov, count, offset);
	return io;
}

struct cdm_io *cdm_loop_fsync(struct cdm_loop *loop, int fd, bool data_only, cdm_io_fn *fn, void *arg)
{
	struct cdm_io *io = io_new(loop, fn, arg);
	io_uring_prep_fsync(&io->sqe, fd, data_only ? IORING_FSYNC_DATASYNC : 0);
	return io;
}

struct cdm_io *cdm_loop_fsetxattr(struct cdm_loop *loop, int fd, const char *name, const void *value, size_t len, cdm_io_fn *fn, void *arg)
{
	struct cdm_io *io = io_new(loop, fn, arg);
	io_uring_prep_fsetxattr(&io->sqe, fd, name, value, 0, (unsigned)len);
	return io;
}

struct cdm_io *cdm_loop_recv(struct cdm_loop *loop, int fd, void *buf, size_t len, cdm_io_fn *fn, void *arg)
{
	struct cdm_io *io = io_new(loop, fn, arg);
	io_uring_prep_recv(&io->sqe, fd, buf, len, 0);
	return io;
}

struct cdm_io *cdm_loop_send(struct cdm_loop *loop, int fd, const void *buf, size_t len, cdm_io_fn *fn, void *arg)
{
	struct cdm_io *io = io_new(loop, fn, arg);
	io_uring_prep_send(&io->sqe, fd, buf, len, MSG_NOSIGNAL);
	return io;
}

struct cdm_io *cdm_loop_accept(struct cdm_loop *loop, int fd, cdm_io_fn *fn, void *arg)
{
	struct cdm_io *io = io_new(loop, fn, arg);
	io_uring_prep_accept(&io->sqe, fd, NULL, NULL, SOCK_CLOEXEC);
	return io;
}

struct cdm_io *cdm_loop_connect(struct cdm_loop *loop, int fd, const struct sockaddr *addr, socklen_t len, cdm_io_fn *fn,
	void *arg)
{
	struct cdm_io *io = io_new(loop, fn, arg);
	io_uring_prep_connect(&io->sqe, fd, addr, len);
	return io;
}

void cdm_loop_cancel(struct cdm_loop *loop, struct cdm_io *io)
{
	cdm_loop_assert_owner(loop);
	assert(io->magic == IO_MAGIC);
	if (io->cancelled)
		return;
	io->cancelled = true;
	if (!io->in_ring)
		return; /* ends when the queue is flushed */
	struct cdm_io *request = io_new(loop, NULL, NULL);
	io_uring_prep_cancel(&request->sqe, io, 0);
}

/* --- timers: a binary heap by (due, order) --- */

static bool timer_before(const struct cdm_timer *a, const struct cdm_timer *b)
{
	return a->due_ns != b->due_ns ? a->due_ns < b->due_ns : a->order < b->order;
}

static void heap_set(struct cdm_loop *loop, size_t i, struct cdm_timer *t)
{
	loop->heap[i] = t;
	t->index = i;
}

static void heap_up(struct cdm_loop *loop, size_t i)
{
	struct cdm_timer *t = loop->heap[i];
	while (i > 0 && timer_before(t, loop->heap[(i - 1) / 2])) {
		heap_set(loop, i, loop->heap[(i - 1) / 2]);
		i = (i - 1) / 2;
	}
	heap_set(loop, i, t);
}

static void heap_down(struct cdm_loop *loop, size_t i)
{
	struct cdm_timer *t = loop->heap[i];
	for (size_t child; (child = 2 * i + 1) < loop->heap_count; i = child) {
		if (child + 1 < loop->heap_count && timer_before(loop->heap[child + 1], loop->heap[child]))
			child++;
		if (!timer_before(loop->heap[child], t))
			break;
		heap_set(loop, i, loop->heap[child]);
	}
	heap_set(loop, i, t);
}

static void heap_remove(struct cdm_loop *loop, size_t i)
{
	struct cdm_timer *last = loop->heap[--loop->heap_count];
	if (i == loop->heap_count)
		return;
	heap_set(loop, i, last);
	heap_up(loop, i);
	heap_down(loop, last->index);
}

struct cdm_timer *cdm_loop_after(struct cdm_loop *loop, int64_t ms, cdm_loop_fn *fn, void *arg)
{
	cdm_loop_assert_owner(loop);
	if (loop->heap_count == loop->heap_room) {
		size_t room = loop->heap_room ? loop->heap_room * 2 : 64;
		struct cdm_timer **heap = realloc(loop->heap, room * sizeof *heap);
		if (!heap)
			abort();
		loop->heap = heap;
		loop->heap_room = room;
	}
	struct cdm_timer *t = must_alloc(sizeof *t);
	*t = (struct cdm_timer){.loop = loop, .due_ns = cdm_now_ns() + (ms > 0 ? ms : 0) * 1000000,
		.order = loop->timer_order++, .fn = fn, .arg = arg};
	heap_set(loop, loop->heap_count++, t);
	heap_up(loop, t->index);
	return t;
}

void cdm_timer_cancel(struct cdm_timer **timer)
{
	struct cdm_timer *t = *timer;
	*timer = NULL;
	if (!t)
		return;
	cdm_loop_assert_owner(t->loop);
	heap_remove(t->loop, t->index);
	free(t);
}

/* Only those due at entry: a callback that sets a timer of 0 ms does not keep the loop from its completions. */
static void timers_run(struct cdm_loop *loop)
{
	if (loop->heap_count == 0)
		return;
	int64_t now = cdm_now_ns();
	uint64_t last_order = loop->timer_order;
	while (loop->heap_count > 0 && loop->heap[0]->due_ns <= now && loop->heap[0]->order < last_order) {
		struct cdm_timer *t = loop->heap[0];
		cdm_loop_fn *fn = t->fn;
		void *arg = t->arg;
		heap_remove(loop, 0);
		free(t);
		fn(arg);
	}
}

/* --- posts --- */

void cdm_loop_post(struct cdm_loop *loop, cdm_loop_fn *fn, void *arg)
{
	struct post *p = must_alloc(sizeof *p);
	p->fn = fn;
	p->arg = arg;
	pthread_mutex_lock(&loop->post_lock);
	bool first = !loop->post_head;
	*loop->post_tail = p;
	loop->post_tail = &p->next;
	pthread_mutex_unlock(&loop->post_lock);
	if (first && !pthread_equal(loop->owner, pthread_self())) {
		uint64_t one = 1;
		while (write(loop->wake_fd, &one, sizeof one) < 0 && errno == EINTR)
			;
	}
}

static bool posts_waiting(struct cdm_loop *loop)
{
	pthread_mutex_lock(&loop->post_lock);
	bool any = loop->post_head != NULL;
	pthread_mutex_unlock(&loop->post_lock);
	return any;
}

static void posts_run(struct cdm_loop *loop)
{
	pthread_mutex_lock(&loop->post_lock);
	struct post *p = loop->post_head;
	loop->post_head = NULL;
	loop->post_tail = &loop->post_head;
	pthread_mutex_unlock(&loop->post_lock);
	while (p) {
		struct post *next = p->next;
		p->fn(p->arg);
		free(p);
		p = next;
	}
}

static void wake_arm(struct cdm_loop *loop);

static void wake_done(void *arg, int result)
{
	struct cdm_loop *loop = arg;
	loop->wake_io = NULL;
	if (result != -ECANCELED)
		wake_arm(loop);
}

static void wake_arm(struct cdm_loop *loop)
{
	loop->wake_io = cdm_loop_read(loop, loop->wake_fd, &loop->wake_value, sizeof loop->wake_value, 0, wake_done, loop);
}

/* --- the loop --- */

static int ring_init(struct io_uring *ring)
{
	static const unsigned wanted[] = {IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN, 0};
	int r = -EINVAL;
	for (size_t i = 0; i < sizeof wanted / sizeof *wanted && r == -EINVAL; i++) {
		struct io_uring_params p = {.flags = wanted[i] | IORING_SETUP_CQSIZE, .cq_entries = RING_COMPLETIONS};
		r = io_uring_queue_init_params(RING_ENTRIES, ring, &p);
	}
	return r;
}

int cdm_loop_new(struct cdm_loop **ret, struct cdm_error *err)
{
	struct cdm_loop *loop = must_alloc(sizeof *loop);
	loop->owner = pthread_self();
	loop->queue_tail = &loop->queue_head;
	loop->post_tail = &loop->post_head;
	pthread_mutex_init(&loop->post_lock, NULL);
	loop->wake_fd = eventfd(0, EFD_CLOEXEC);
	if (loop->wake_fd < 0) {
		int r = cdm_fail(err, errno, "make an eventfd");
		free(loop);
		return r;
	}
	int r = ring_init(&loop->ring);
	if (r < 0) {
		cdm_fail(err, -r, "set up io_uring");
		cdm_hint(err, "see the kernel setting kernel.io_uring_disabled and the limit of locked memory");
		close(loop->wake_fd);
		free(loop);
		return r;
	}
	wake_arm(loop);
	*ret = loop;
	return 0;
}

static int completions_run(struct cdm_loop *loop)
{
	struct io_uring_cqe *batch[64];
	int total = 0;
	unsigned n;
	while ((n = io_uring_peek_batch_cqe(&loop->ring, batch, 64)) > 0) {
		struct {
			struct cdm_io *io;
			int result;
		} done[64];
		for (unsigned i = 0; i < n; i++) {
			done[i].io = (struct cdm_io *)(uintptr_t)batch[i]->user_data;
			done[i].result = batch[i]->res;
		}
		io_uring_cq_advance(&loop->ring, n);
		for (unsigned i = 0; i < n; i++)
			if (done[i].io)
				io_complete(done[i].io, done[i].result);
		total += (int)n;
		if (total >= 256)
			break; /* posts and timers get their turn */
	}
	return total;
}

/* Submit, and sleep until a completion or the next timer (not at all if something is already to be done). */
static int turn_wait(struct cdm_loop *loop, bool may_sleep)
{
	struct __kernel_timespec ts = {0};
	struct __kernel_timespec *limit = &ts;
	struct io_uring_cqe *cqe;
	if (may_sleep && loop->heap_count > 0) {
		int64_t left = loop->heap[0]->due_ns - cdm_now_ns();
		if (left > 0)
			ts = (struct __kernel_timespec){.tv_sec = left / 1000000000, .tv_nsec = left % 1000000000};
	} else if (may_sleep) {
		limit = NULL;
	}
	int r = io_uring_submit_and_wait_timeout(&loop->ring, &cqe, 1, limit, NULL);
	if (r == -ETIME || r == -EINTR || r == -EBUSY || r == -EAGAIN)
		r = 0;
	return r < 0 ? r : 0;
}

static int turn(struct cdm_loop *loop, bool may_sleep)
{
	bool busy = queue_flush(loop);
	busy |= loop->queue_head != NULL || posts_waiting(loop);
	int r = turn_wait(loop, may_sleep && !busy);
	if (r < 0)
		return r;
	completions_run(loop);
	posts_run(loop);
	timers_run(loop);
	return 0;
}

int cdm_loop_run(struct cdm_loop *loop)
{
	cdm_loop_assert_owner(loop);
	int r = 0;
	while (!loop->stopping && r == 0)
		r = turn(loop, true);
	loop->stopping = false;
	return r;
}

void cdm_loop_stop(struct cdm_loop *loop)
{
	cdm_loop_assert_owner(loop);
	loop->stopping = true;
}

/* Cancel all that is in flight and call every callback; posts run too, timers do not. */
static void drain(struct cdm_loop *loop)
{
	while (loop->live || posts_waiting(loop)) {
		for (struct cdm_io *io = loop->live, *next; io; io = next) {
			next = io->live_next;
			if (io->fn)
				cdm_loop_cancel(loop, io);
		}
		bool busy = queue_flush(loop) || loop->queue_head || posts_waiting(loop);
		if (turn_wait(loop, false) < 0)
			return;
		if (completions_run(loop) == 0 && !busy && loop->live) {
			struct io_uring_cqe *cqe;
			io_uring_wait_cqe(&loop->ring, &cqe);
			completions_run(loop);
		}
		posts_run(loop);
	}
}

void cdm_loop_free(struct cdm_loop **ploop)
{
	struct cdm_loop *loop = *ploop;
	*ploop = NULL;
	if (!loop)
		return;
	cdm_loop_assert_owner(loop);
	drain(loop);
	io_uring_queue_exit(&loop->ring);
	close(loop->wake_fd);
	while (loop->spare) {
		struct cdm_io *io = loop->spare;
		loop->spare = io->next;
		free(io);
	}
	for (size_t i = 0; i < loop->heap_count; i++)
		free(loop->heap[i]);
	free(loop->heap);
	pthread_mutex_destroy(&loop->post_lock);
	free(loop);
}
