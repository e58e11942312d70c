/*
 * The ring: the one io_uring of the process, through which the main thread waits for everything.
 *
 * Main thread only, from ring_init to ring_fini. Other threads wake it by writing an eventfd that a
 * ring_watch() waits for.
 *
 * An operation is a struct io_op inside the caller's own struct. Starting one only queues it; a
 * batch is:
 *
 *   io_uring_enter (submits what was queued, waits) -> done() of every completion -> hooks
 *
 * so all that a batch queues leaves in the next batch's one system call (but what the queue has no
 * room for, and the head start of idle disks), and done() never runs inside the call that started
 * an operation. done() runs exactly once for each start; from start to
 * done() the operation and its buffer belong to the kernel; in done() they are the caller's again
 * and may be used anew.
 */
#ifndef IO_RING_H
#define IO_RING_H

#include <liburing.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "io/pace.h"

#define RING_ENTRIES   256 /* SQEs: what kring gives its ring */
#define RING_AREAS_MAX 2

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

struct io_op {
	void (*done)(struct io_op *op, int res); /* @res: as the system call, or -errno */
	bool by_device; /* disk I/O with O_DIRECT: mostly no thread of the kernel's needs a core */

	/* The ring's own while started. */
	struct io_op *next;
	struct io_op *prev;
	int res;
	bool near;  /* it ends by itself, and soon: disk I/O, */
	bool works; /* which may take a core */
	bool pause; /* by ring_pause() */
	bool back;  /* in ring->reaped, */
	bool more;  /* and with the kernel all the same: a watch */
};

struct io_timer {
	struct io_op op; /* ends with -ETIME when the time is over */
	struct __kernel_timespec ts;
};

/* An eventfd that is polled for ever, or before Linux 5.13 read each time it was written. */
struct io_watch {
	struct io_op op;
	void (*woken)(struct io_watch *watch);
	struct ring *ring;
	int fd;
	bool ending;    /* asked for by ring_unwatch() */
	uint64_t count; /* where it is read */
};

/*
 * What may have come without a completion. While the ring polls, look() is called again and again:
 * whether there was something. end() is called before the ring sleeps: what comes from now on has
 * to wake it. Both may start operations.
 */
struct ring_poller {
	bool (*look)(struct ring_poller *poller);
	void (*end)(struct ring_poller *poller);
	struct ring_poller *next;
};

/* Called once, at the end of the batch in which it was added. Starts zeroed but for @run. */
struct ring_hook {
	void (*run)(struct ring_hook *hook);
	struct ring_hook *next;
	bool queued;
};

/* Registered memory: from @base on, in buffers numbered from @first on. */
struct ring_area {
	uintptr_t base;
	size_t len;
	unsigned first;
};

struct ring {
	struct io_uring uring;
	struct ring_area area[RING_AREAS_MAX];
	unsigned nareas;
	struct io_op started; /* list heads: with the kernel */
	struct io_op reaped;  /* and back, done() still to be called */
	struct ring_hook *hooks;
	struct ring_poller *pollers;
	struct pace pace;
	unsigned in_flight; /* how many are started */
	unsigned near;      /* how many of these are disk I/O, */
	unsigned crowd;     /* and were lately at the most */
	unsigned works;     /* how many of that may take a core, */
	unsigned pauses;    /* and how many ring_pause()s */
	unsigned cancels;   /* ring_cancel()s that the kernel has not answered */
	bool closing;
	bool trickles;            /* in the last wait disk I/O ended, but less than half of it */
	struct patience patience; /* until a share is waited for again */
	bool silent;    /* an operation may end without a completion (IORING_FEAT_CQE_SKIP) */
	bool multishot; /* a poll may go on after a completion */

	uint64_t enters; /* since ring_init: system calls, */
	uint64_t sqes;   /* entries queued, */
	uint64_t fixed;  /* and of these into or out of registered memory; */
	uint64_t cqes;   /* entries reaped */
};

struct ring_name {
	unsigned value;
	const char *name; /* NULL ends a table */
};

extern const struct ring_name ring_setup_flags[]; /* wanted; the newest first */
extern const struct ring_name ring_opcodes[];     /* needed; the ring is restricted to them */

/*
 * Set up a ring of @entries SQEs (a power of two), with as many of ring_setup_flags as this kernel
 * has. Any number of operations may be in flight.
 * Returns 0 or -errno, which ring_explain() puts in words.
 */
int ring_init(struct ring *ring, unsigned entries);

/* The same with no flags but @flags (IORING_SETUP_*): how older kernels are tested. */
int ring_init_flags(struct ring *ring, unsigned entries, unsigned flags);

/*
 * Cancel all that is in flight, wait until nothing is, and give the ring back. Whatever became of
 * it, each operation is done() with -ECANCELED, on which nothing may be started any more.
 */
void ring_fini(struct ring *ring);

/*
 * Register @n (at most RING_AREAS_MAX) areas of memory: what is read into one piece there, or
 * written from it, the kernel need not look up and hold at each operation (READ_FIXED,
 * WRITE_FIXED). All of it is populated and pinned until ring_forget_memory(), which waits for
 * nothing: no operation may be in flight there.
 * Returns 0 or -errno; -ENOMEM: the limit of locked memory; -EOPNOTSUPP: before Linux 5.13.
 */
int ring_register_memory(struct ring *ring, const struct iovec *area, unsigned n);
void ring_forget_memory(struct ring *ring);

/*
 * Hold what @fd stands for, when that is closed, until ring_fini(): after that the kernel lets go
 * of it in its own time, and the process need not wait for it to end. Once; where the kernel cannot
 * it does not.
 */
void ring_hold(struct ring *ring, int fd);

/* What @err, from ring_init, means and what to do about it: one line without a full stop. */
const char *ring_explain(int err);

/* The sysctl kernel.io_uring_disabled: 0, 1 or 2; -1 where it is missing (before Linux 6.6). */
int ring_disabled(void);

/*
 * Start an operation, op->done being set. Offsets, lengths and buffers are those of pread(2) and
 * pwrite(2); @offset -1 is the file's own position, and the one for pipes, terminals and sockets.
 * A file with O_NONBLOCK may give -EAGAIN.
 */
void ring_read(struct ring *ring, struct io_op *op, int fd, void *buf, unsigned len,
               uint64_t offset);
void ring_write(struct ring *ring, struct io_op *op, int fd, const void *buf, unsigned len,
                uint64_t offset);

/* The same over @n pieces of memory; @iov itself is the caller's again after the next batch. */
void ring_readv(struct ring *ring, struct io_op *op, int fd, const struct iovec *iov, unsigned n,
                uint64_t offset);
void ring_writev(struct ring *ring, struct io_op *op, int fd, const struct iovec *iov, unsigned n,
                 uint64_t offset);

/* ring_readv, but -EAGAIN where it would wait (RWF_NOWAIT), or -EOPNOTSUPP: this file cannot. */
void ring_readv_nowait(struct ring *ring, struct io_op *op, int fd, const struct iovec *iov,
                       unsigned n, uint64_t offset);

/* ring_writev, done when a loss of power does not undo it any more (RWF_DSYNC). */
void ring_writev_durable(struct ring *ring, struct io_op *op, int fd, const struct iovec *iov,
                         unsigned n, uint64_t offset);

/* fdatasync(2), fallocate(2) with its @mode. */
void ring_fdatasync(struct ring *ring, struct io_op *op, int fd);
void ring_fallocate(struct ring *ring, struct io_op *op, int fd, int mode, uint64_t offset,
                    uint64_t len);

/* Wait for @events (POLL*) once; the result is the events that are there. */
void ring_poll(struct ring *ring, struct io_op *op, int fd, unsigned events);

void ring_timeout(struct ring *ring, struct io_timer *timer, uint64_t nsec);

/* The same, in which the ring does not poll: what comes is to gather. Less than a millisecond. */
void ring_pause(struct ring *ring, struct io_timer *timer, uint64_t nsec);

/*
 * Add 1 to the eventfd @fd, which has EFD_NONBLOCK: with all else that this batch queues, or before
 * Linux 5.17 by a system call of its own. There is no done().
 */
void ring_signal(struct ring *ring, int fd);

/* Ask for @op, which is started, to end soon; its done() gets -ECANCELED, -EINTR or its result. */
void ring_cancel(struct ring *ring, struct io_op *op);

/* Call woken() after each write to the eventfd @fd (without EFD_NONBLOCK), until ring_fini. */
void ring_watch(struct ring *ring, struct io_watch *watch, int fd,
                void (*woken)(struct io_watch *watch));

/*
 * End a watch before ring_fini: when this returns, woken() is not called any more and @fd may be
 * closed. Not from within a handler: it runs batches until the kernel has let go.
 */
void ring_unwatch(struct io_watch *watch);

/* Run @hook at the end of this batch; adding it twice is adding it once. */
void ring_batch_end(struct ring *ring, struct ring_hook *hook);

/*
 * Poll for up to @poll_nsec before a sleep, when that finds something (0: never; a kernel before
 * 5.19, which does not tell of completions without a system call, never does); give way to who
 * wakes the ring, when that brings larger batches. See io/pace.h.
 * Returns whether it polls as asked.
 */
bool ring_set_pace(struct ring *ring, uint64_t poll_nsec, bool may_give_way);
bool ring_polls(const struct ring *ring);
void ring_add_poller(struct ring *ring, struct ring_poller *poller);
void ring_remove_poller(struct ring *ring, struct ring_poller *poller);

/* One batch: submit, wait for a completion or a signal, call done() for all that has completed. */
void ring_step(struct ring *ring);

/* Batches until a handler has set @stop. */
void ring_run(struct ring *ring, const bool *stop);

#endif
