/*
 * The ring. Knows operations; not who starts them, nor what the bytes mean.
 */
#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>

#include "io/ring.h"

/*
 * Waiting for many: a quarter of what is in flight, when that is two or more. The limit is longer
 * than the kernel's tick mostly is (4 ms): a timer that would be the processor's next has to be
 * programmed, and in a VM that is an exit. So where a share takes longer than it should, the next
 * ones are not waited for. Measured (bench/README.md).
 */
#define SHARE           4
#define SHARE_MIN       2
#define SHARE_NSEC      5000000
#define SHARE_LONG_NSEC 300000

#define BUFFER_MAX (1ul << 30) /* that the kernel registers as one */

#define HEAD_START   8 /* disk operations */
#define DRAIN_ROUNDS 8

#define POLL_LOOKS   16   /* between two looks at the clock */
#define GATHER_GAP   64   /* looks that find nothing: some microseconds */
#define GATHER_LOOKS 1024 /* in all */

/* What CQEs carry that belong to no operation. */
#define DATA_CANCEL NULL
#define DATA_SIGNAL ((void *)1) /* it failed: the eventfd was full */

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static bool list_empty(const struct io_op *head)
{
	return head->next == head;
}

static void list_append(struct io_op *head, struct io_op *op)
{
	op->next = head;
	op->prev = head->prev;
	head->prev->next = op;
	head->prev = op;
}

static void list_remove(struct io_op *op)
{
	op->prev->next = op->next;
	op->next->prev = op->prev;
}

static void reap(struct ring *ring)
{
	struct io_uring_cqe *cqe;
	unsigned head;
	unsigned n = 0;

	io_uring_for_each_cqe(&ring->uring, head, cqe)
	{
		struct io_op *op = io_uring_cqe_get_data(cqe);

		n++;
		if (op == DATA_CANCEL)
			ring->cancels--;
		if (op == DATA_CANCEL || op == DATA_SIGNAL)
			continue;
		/* What overflowed may come behind the last. */
		if (op->back && !op->more)
			continue;
		op->res = cqe->res;
		op->more = cqe->flags & IORING_CQE_F_MORE;
		if (op->back)
			continue;
		op->back = true;
		list_remove(op);
		list_append(&ring->reaped, op);
		ring->in_flight--;
		ring->near -= op->near;
		ring->works -= op->works;
		ring->pauses -= op->pause;
	}
	io_uring_cq_advance(&ring->uring, n);
	ring->cqes += n;
}

/*
 * With many disk operations in flight that end one after another, to wake up for each costs more
 * than it is worth: the ring waits until a share of them has ended, where that does not take long,
 * and not again before it was seen that they do.
 */
static int submit_and_wait(struct ring *ring, unsigned wait)
{
	struct __kernel_timespec limit = { .tv_nsec = SHARE_NSEC };
	struct io_uring_cqe *cqe;
	unsigned share = ring->near / SHARE;
	uint64_t begin;
	int n;

	if (!wait || share < SHARE_MIN || !ring->trickles ||
	    !(ring->uring.features & IORING_FEAT_EXT_ARG) || /* 5.11 */
	    !patience_over(&ring->patience))
		return io_uring_submit_and_wait(&ring->uring, wait);
	begin = now();
	n = io_uring_submit_and_wait_timeout(&ring->uring, &cqe, share, &limit, NULL);
	patience_learn(&ring->patience, now() - begin < SHARE_LONG_NSEC);
	return n;
}

/* In the CQ, or to be brought there by a system call. */
static bool has_completions(const struct ring *ring)
{
	return io_uring_cq_ready(&ring->uring) ||
	       IO_URING_READ_ONCE(*ring->uring.sq.kflags) &
	               (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

/*
 * A wait brings no more than was waited for (from Linux 6.14 on), and the next calls 20 each. What
 * else disks have ended is to be served in the same batch; others may go on without end.
 */
static void drain(struct ring *ring)
{
	for (unsigned i = 0; i < DRAIN_ROUNDS && ring->near && !ring->works; i++) {
		if (!io_uring_cq_ready(&ring->uring)) {
			if (!has_completions(ring))
				return;
			ring->enters++;
			io_uring_get_events(&ring->uring);
			if (!io_uring_cq_ready(&ring->uring)) /* the flag was stale */
				return;
		}
		reap(ring);
	}
}

/*
 * -ETIME: nothing ended in time. -EBUSY: too many CQEs wait in the kernel; -EAGAIN: no memory for a
 * request. What could not be submitted stays queued, and reaping makes room.
 */
static void enter(struct ring *ring, unsigned wait)
{
	unsigned near = ring->near;
	bool calls = wait || io_uring_sq_ready(&ring->uring) || has_completions(ring);
	int n = submit_and_wait(ring, wait);

	ring->enters += calls;
	if (near > ring->crowd)
		ring->crowd = near;
	assert(n >= 0 || n == -ETIME || n == -EINTR || n == -EBUSY || n == -EAGAIN || n == -EBADR);
	if (wait || n < 0)
		reap(ring);
	if (wait) {
		drain(ring);
		ring->trickles = ring->near < near && near - ring->near < near / 2;
	}
}

static struct io_uring_sqe *sqe_get(struct ring *ring)
{
	struct io_uring_sqe *sqe;

	while (!(sqe = io_uring_get_sqe(&ring->uring)))
		enter(ring, 0);
	ring->sqes++;
	return sqe;
}

/*
 * Whether disks were idle, have this much to begin with, and are to get more: with a core to spare
 * they work on it while the rest is being queued.
 */
static bool has_head_start(const struct ring *ring)
{
	return ring->pace.poll_nsec && ring->near == HEAD_START && !ring->works &&
	       io_uring_sq_ready(&ring->uring) == HEAD_START;
}

static struct io_uring_sqe *op_start(struct ring *ring, struct io_op *op)
{
	assert(!ring->closing);
	if (has_head_start(ring))
		enter(ring, 0);
	list_append(&ring->started, op);
	ring->in_flight++;
	op->near = op->works = op->pause = op->back = op->more = false;
	return sqe_get(ring);
}

int ring_register_memory(struct ring *ring, const struct iovec *area, unsigned n)
{
	struct iovec *buffer;
	unsigned nbuffers = 0;
	int err;

	assert(n && n <= RING_AREAS_MAX && !ring->nareas);
	/* Older kernels wait for the ring to be idle before they let go of the memory. */
	if (!(ring->uring.features & IORING_FEAT_RSRC_TAGS))
		return -EOPNOTSUPP;
	for (unsigned i = 0; i < n; i++)
		nbuffers += (unsigned)((area[i].iov_len + BUFFER_MAX - 1) / BUFFER_MAX);
	buffer = malloc(nbuffers * sizeof(*buffer));
	if (!buffer)
		return -ENOMEM;

	nbuffers = 0;
	for (unsigned i = 0; i < n; i++) {
		size_t len = area[i].iov_len;

		ring->area[i] = (struct ring_area){ (uintptr_t)area[i].iov_base, len, nbuffers };
		for (size_t at = 0; at < len; at += BUFFER_MAX)
			buffer[nbuffers++] = (struct iovec){
				(char *)area[i].iov_base + at,
				len - at < BUFFER_MAX ? len - at : BUFFER_MAX,
			};
	}
	err = io_uring_register_buffers(&ring->uring, buffer, nbuffers);
	free(buffer);
	if (!err)
		ring->nareas = n;
	return err;
}

void ring_forget_memory(struct ring *ring)
{
	if (ring->nareas)
		io_uring_unregister_buffers(&ring->uring);
	ring->nareas = 0;
}

void ring_hold(struct ring *ring, int fd)
{
	io_uring_register_files(&ring->uring, &fd, 1);
}

/* The number of the registered buffer in which all of it lies; -1: none. */
static int buffer_find(const struct ring *ring, const void *addr, unsigned len)
{
	for (const struct ring_area *area = ring->area; area < ring->area + ring->nareas; area++) {
		size_t at = (uintptr_t)addr - area->base;

		if ((uintptr_t)addr >= area->base && at < area->len && len <= area->len - at &&
		    at % BUFFER_MAX + len <= BUFFER_MAX)
			return (int)(area->first + at / BUFFER_MAX);
	}
	return -1;
}

static void use_registered(struct ring *ring, struct io_uring_sqe *sqe, const void *addr)
{
	int buffer = buffer_find(ring, addr, sqe->len);

	if (buffer < 0)
		return;
	sqe->opcode = sqe->opcode == IORING_OP_READ ? IORING_OP_READ_FIXED : IORING_OP_WRITE_FIXED;
	sqe->buf_index = (uint16_t)buffer;
	ring->fixed++;
}

/* Of a file at an offset, that is: what reads a terminal or a tap may wait for ever. */
static struct io_uring_sqe *rw_start(struct ring *ring, struct io_op *op, int opcode, int fd,
                                     const void *addr, unsigned len, uint64_t offset)
{
	struct io_uring_sqe *sqe = op_start(ring, op);

	io_uring_prep_rw(opcode, sqe, fd, addr, len, offset);
	io_uring_sqe_set_data(sqe, op);
	op->near = offset != (uint64_t)-1;
	op->works = op->near && !op->by_device;
	ring->near += op->near;
	ring->works += op->works;
	if (opcode == IORING_OP_READ || opcode == IORING_OP_WRITE)
		use_registered(ring, sqe, addr);
	return sqe;
}

/* A single piece needs no list of pieces, which the kernel would have to fetch. */
static struct io_uring_sqe *pieces_start(struct ring *ring, struct io_op *op, bool is_write, int fd,
                                         const struct iovec *iov, unsigned n, uint64_t offset)
{
	if (n == 1 && iov->iov_len <= UINT_MAX)
		return rw_start(ring, op, is_write ? IORING_OP_WRITE : IORING_OP_READ, fd,
		                iov->iov_base, (unsigned)iov->iov_len, offset);
	return rw_start(ring, op, is_write ? IORING_OP_WRITEV : IORING_OP_READV, fd, iov, n,
	                offset);
}

void ring_read(struct ring *ring, struct io_op *op, int fd, void *buf, unsigned len,
               uint64_t offset)
{
	rw_start(ring, op, IORING_OP_READ, fd, buf, len, offset);
}

void ring_write(struct ring *ring, struct io_op *op, int fd, const void *buf, unsigned len,
                uint64_t offset)
{
	rw_start(ring, op, IORING_OP_WRITE, fd, buf, len, offset);
}

void ring_readv(struct ring *ring, struct io_op *op, int fd, const struct iovec *iov, unsigned n,
                uint64_t offset)
{
	pieces_start(ring, op, false, fd, iov, n, offset);
}

void ring_writev(struct ring *ring, struct io_op *op, int fd, const struct iovec *iov, unsigned n,
                 uint64_t offset)
{
	pieces_start(ring, op, true, fd, iov, n, offset);
}

void ring_readv_nowait(struct ring *ring, struct io_op *op, int fd, const struct iovec *iov,
                       unsigned n, uint64_t offset)
{
	pieces_start(ring, op, false, fd, iov, n, offset)->rw_flags = RWF_NOWAIT;
}

void ring_writev_durable(struct ring *ring, struct io_op *op, int fd, const struct iovec *iov,
                         unsigned n, uint64_t offset)
{
	pieces_start(ring, op, true, fd, iov, n, offset)->rw_flags = RWF_DSYNC;
}

void ring_fdatasync(struct ring *ring, struct io_op *op, int fd)
{
	struct io_uring_sqe *sqe = op_start(ring, op);

	io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
	io_uring_sqe_set_data(sqe, op);
}

void ring_fallocate(struct ring *ring, struct io_op *op, int fd, int mode, uint64_t offset,
                    uint64_t len)
{
	struct io_uring_sqe *sqe = op_start(ring, op);

	io_uring_prep_fallocate(sqe, fd, mode, (off_t)offset, (off_t)len);
	io_uring_sqe_set_data(sqe, op);
}

void ring_poll(struct ring *ring, struct io_op *op, int fd, unsigned events)
{
	struct io_uring_sqe *sqe = op_start(ring, op);

	io_uring_prep_poll_add(sqe, fd, events);
	io_uring_sqe_set_data(sqe, op);
}

void ring_timeout(struct ring *ring, struct io_timer *timer, uint64_t nsec)
{
	struct io_uring_sqe *sqe = op_start(ring, &timer->op);

	timer->ts.tv_sec = (int64_t)(nsec / 1000000000);
	timer->ts.tv_nsec = (long long)(nsec % 1000000000);
	io_uring_prep_timeout(sqe, &timer->ts, 0, 0);
	io_uring_sqe_set_data(sqe, &timer->op);
}

void ring_pause(struct ring *ring, struct io_timer *timer, uint64_t nsec)
{
	ring_timeout(ring, timer, nsec);
	timer->op.pause = true;
	ring->pauses++;
}

void ring_cancel(struct ring *ring, struct io_op *op)
{
	struct io_uring_sqe *sqe = sqe_get(ring);

	ring->cancels++;
	io_uring_prep_cancel(sqe, op, 0);
	io_uring_sqe_set_data(sqe, DATA_CANCEL);
}

/* Without a CQE, or the wait that follows would end with it. */
void ring_signal(struct ring *ring, int fd)
{
	static const uint64_t one = 1;
	struct io_uring_sqe *sqe;

	if (!ring->silent) {
		eventfd_write(fd, one);
		return;
	}
	sqe = sqe_get(ring);
	io_uring_prep_write(sqe, fd, &one, sizeof(one), (uint64_t)-1);
	io_uring_sqe_set_data(sqe, DATA_SIGNAL);
	io_uring_sqe_set_flags(sqe, IOSQE_CQE_SKIP_SUCCESS);
}

/* A poll does not read: what is written adds up, and each time it wakes. */
static void watch_start(struct io_watch *watch)
{
	struct io_uring_sqe *sqe;

	if (!watch->ring->multishot) {
		ring_read(watch->ring, &watch->op, watch->fd, &watch->count, sizeof(watch->count),
		          (uint64_t)-1);
		return;
	}
	sqe = op_start(watch->ring, &watch->op);
	io_uring_prep_poll_multishot(sqe, watch->fd, POLLIN);
	io_uring_sqe_set_data(sqe, &watch->op);
}

static void watch_done(struct io_op *op, int res)
{
	struct io_watch *watch = container_of(op, struct io_watch, op);

	if (res == -ECANCELED && (watch->ending || watch->ring->closing)) {
		watch->ring = NULL;
		return;
	}
	if (!op->more) /* read, or the kernel had no memory to go on */
		watch_start(watch);
	watch->woken(watch);
}

void ring_watch(struct ring *ring, struct io_watch *watch, int fd,
                void (*woken)(struct io_watch *watch))
{
	watch->op.done = watch_done;
	watch->woken = woken;
	watch->ring = ring;
	watch->fd = fd;
	watch->ending = false;
	watch_start(watch);
}

void ring_unwatch(struct io_watch *watch)
{
	struct ring *ring = watch->ring;

	watch->ending = true;
	while (watch->ring) {
		ring_cancel(ring, &watch->op);
		ring_step(ring);
	}
}

void ring_batch_end(struct ring *ring, struct ring_hook *hook)
{
	if (hook->queued)
		return;
	hook->queued = true;
	hook->next = ring->hooks;
	ring->hooks = hook;
}

bool ring_set_pace(struct ring *ring, uint64_t poll_nsec, bool may_give_way)
{
	if (!(ring->uring.flags & IORING_SETUP_TASKRUN_FLAG)) {
		pace_init(&ring->pace, 0, may_give_way);
		return !poll_nsec;
	}
	pace_init(&ring->pace, poll_nsec, may_give_way);
	return true;
}

bool ring_polls(const struct ring *ring)
{
	return ring->pace.polling[ring->near > 0].on;
}

void ring_add_poller(struct ring *ring, struct ring_poller *poller)
{
	poller->next = ring->pollers;
	ring->pollers = poller;
}

void ring_remove_poller(struct ring *ring, struct ring_poller *poller)
{
	struct ring_poller **link = &ring->pollers;

	while (*link != poller)
		link = &(*link)->next;
	*link = poller->next;
}

static bool look(struct ring *ring)
{
	bool found = false;

	for (struct ring_poller *p = ring->pollers; p; p = p->next)
		found |= p->look(p);
	return found;
}

/*
 * Who got back many requests offers as many again, one by one: they are to leave together, and not
 * the first of them alone. Until there are as many as there were, there is a gap, or others wait.
 */
static void gather(struct ring *ring)
{
	unsigned gap = 0;

	for (unsigned i = 0; i < GATHER_LOOKS && gap < GATHER_GAP; i++) {
		if (ring->near >= ring->crowd || io_uring_cq_ready(&ring->uring))
			break;
		gap = look(ring) ? 0 : gap + 1;
		if (gap)
			__builtin_ia32_pause();
	}
	if (ring->near < ring->crowd)
		ring->crowd = ring->near;
}

/* Look for more. Returns whether there was something before the time was over. */
static bool poll_for_more(struct ring *ring)
{
	uint64_t end = now() + ring->pace.poll_nsec;

	if (io_uring_sq_ready(&ring->uring)) /* the guest waits for these interrupts */
		enter(ring, 0);
	do {
		for (unsigned i = 0; i < POLL_LOOKS; i++) {
			if (look(ring)) {
				gather(ring);
				return true;
			}
			if (has_completions(ring))
				return true;
			__builtin_ia32_pause();
		}
	} while (now() < end);
	return false;
}

static void sleep_for_more(struct ring *ring)
{
	uint64_t begin = ring->pace.poll_nsec ? now() : 0;
	bool work = ring->near;

	pace_follow(&ring->pace, ring->enters, ring->cqes);
	enter(ring, 1);
	if (begin)
		pace_slept(&ring->pace, work, now() - begin);
}

static void wait_for_more(struct ring *ring)
{
	const struct ring_hook *hooks = ring->hooks;
	bool idle = !ring->works; /* nobody else has use for this core */
	bool polls = ring_polls(ring) && !ring->pauses;

	if (polls && idle) {
		bool work = ring->near;
		bool found = poll_for_more(ring);

		pace_polled(&ring->pace, work, found);
		if (found) /* is not to wait for a share of the others */
			ring->trickles = false;
	}
	for (struct ring_poller *p = ring->pollers; p; p = p->next)
		p->end(p);
	if (io_uring_cq_ready(&ring->uring)) /* found: no system call is needed */
		reap(ring);
	else if (ring->hooks != hooks) /* a poller has done all that it found */
		enter(ring, 0);
	else if (idle && !polls)
		sleep_for_more(ring);
	else
		enter(ring, 1);
}

/* What the kernel goes on with has not ended: not even when the ring is closing. */
static void op_end(struct ring *ring, struct io_op *op)
{
	list_remove(op);
	op->back = false;
	if (op->more) {
		list_append(&ring->started, op);
		ring->in_flight++;
	}
	if (!op->more || !ring->closing)
		op->done(op, ring->closing ? -ECANCELED : op->res);
}

void ring_step(struct ring *ring)
{
	if (list_empty(&ring->reaped))
		wait_for_more(ring);
	else
		enter(ring, 0);

	while (!list_empty(&ring->reaped))
		op_end(ring, ring->reaped.next);
	while (ring->hooks) {
		struct ring_hook *hook = ring->hooks;

		ring->hooks = hook->next;
		hook->queued = false;
		hook->run(hook);
	}
}

void ring_run(struct ring *ring, const bool *stop)
{
	while (!*stop)
		ring_step(ring);
}

/* A cancellation may miss an operation between two queues of the kernel: ask until none is left. */
void ring_fini(struct ring *ring)
{
	const struct timespec pause = { .tv_nsec = 1000000 };

	ring->closing = true;
	while (ring->in_flight || ring->cancels || !list_empty(&ring->reaped)) {
		for (unsigned n = ring->in_flight; n && !list_empty(&ring->started); n--) {
			struct io_op *op = ring->started.next;

			list_remove(op);
			list_append(&ring->started, op);
			ring_cancel(ring, op);
		}
		do
			ring_step(ring);
		while (ring->cancels);
		if (ring->in_flight)
			nanosleep(&pause, NULL);
	}
	io_uring_queue_exit(&ring->uring);
}
