/*
 * Disks. Knows ranges of bytes; not who reads or writes them, nor what they mean.
 */
#include <errno.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/disk.h"
#include "io/iov.h"

#define TICK_NSEC 1000000000ull

static size_t min_size(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Turns. */

static struct disk_op *op_of(struct io_op *io)
{
	return container_of(io, struct disk_op, io);
}

static void op_run(struct disk_op *op);

static bool may_run(const struct disk_op *op)
{
	return !op->disk->alone && !(op->alone && op->disk->running);
}

/* Whether the kernel can move it as it is. Zeroes have to be put into some memory first. */
static bool is_aligned(const struct disk_op *op)
{
	const struct backing *backing = &op->disk->backing;

	if (!op->iov)
		return false;
	if (!backing->config->direct)
		return true;
	if ((op->offset | op->len) & (backing->align - 1))
		return false;
	for (unsigned i = 0; i < op->niov; i++)
		if ((uintptr_t)op->iov[i].iov_base & (backing->mem_align - 1) ||
		    op->iov[i].iov_len & (backing->align - 1))
			return false;
	return true;
}

static bool moves(const struct disk_op *op)
{
	return op->kind == DISK_READ || op->kind == DISK_WRITE;
}

static bool takes_range(const struct disk_op *op)
{
	return op->kind == DISK_DISCARD || op->kind == DISK_ZERO;
}

static void op_start(struct disk_op *op)
{
	struct disk *disk = op->disk;

	op->alone = moves(op) ? !is_aligned(op) : takes_range(op) && disk->backing.at_once;
	if (!disk->waiting && may_run(op)) {
		op_run(op);
	} else {
		op->next = NULL;
		*disk->waiting_end = op;
		disk->waiting_end = &op->next;
	}
}

/* Its turn is over. */
static void op_leave(struct disk_op *op)
{
	struct disk *disk = op->disk;

	op->running = false;
	disk->running--;
	disk->alone = false;
	while (disk->waiting && may_run(disk->waiting)) {
		struct disk_op *next = disk->waiting;

		disk->waiting = next->next;
		if (!disk->waiting)
			disk->waiting_end = &disk->waiting;
		op_run(next);
	}
}

static void op_finish(struct disk_op *op, int res)
{
	op_leave(op);
	op->done(op, res);
}

/* What is left of it waits for another turn. */
static void op_again(struct disk_op *op)
{
	op_leave(op);
	op_start(op);
}

static bool is_interrupted(int res)
{
	return res == -EINTR || res == -EAGAIN;
}

/* Moving. */

/* The kernel moved @n bytes of what was left, or none as it says. */
static void op_moved(struct disk_op *op, int64_t n)
{
	if (!n && op->kind == DISK_READ) { /* the end of the file */
		for (unsigned i = 0; i < op->niov; i++)
			memset(op->iov[i].iov_base, 0, op->iov[i].iov_len);
		n = (int64_t)op->len;
	}

	if (n == (int64_t)op->len) {
		op_finish(op, 0);
	} else if (n > 0) {
		iov_skip(&op->iov, &op->niov, (size_t)n);
		op->offset += (uint64_t)n;
		op->len -= (uint64_t)n;
		op_again(op);
	} else if (is_interrupted((int)n)) {
		op_again(op);
	} else {
		op_finish(op, n ? (int)n : -EIO);
	}
}

static void moved(struct io_op *io, int res)
{
	op_moved(op_of(io), res);
}

static void read_start(struct disk_op *op)
{
	ring_readv(op->disk->ring, &op->io, op->disk->backing.fd, op->iov, op->niov, op->offset);
}

static void write_start(struct disk_op *op, const struct iovec *iov, unsigned n, uint64_t offset)
{
	struct ring *ring = op->disk->ring;
	int fd = op->disk->backing.fd;

	/* RWF_DSYNC costs no second operation, and where the device can do it no flush either. */
	if (op->durable)
		ring_writev_durable(ring, &op->io, fd, iov, n, offset);
	else
		ring_writev(ring, &op->io, fd, iov, n, offset);
}

/*
 * The bounce buffer: it holds whole blocks from the one where the operation begins, as many as it
 * has room for.
 */

struct span {
	uint64_t begin;
	uint32_t len;
	uint32_t skip; /* bytes of it before the operation's, */
	uint32_t take; /* and the operation's */
};

static struct span bounce_span(const struct disk_op *op)
{
	uint64_t mask = op->disk->backing.align - 1;
	uint64_t end = (op->offset + op->len + mask) & ~mask;
	struct span span = { .begin = op->offset & ~mask };

	span.len = (uint32_t)min_size(end - span.begin, BOUNCE_SIZE);
	span.skip = (uint32_t)(op->offset - span.begin);
	span.take = (uint32_t)min_size(op->len, span.len - span.skip);
	return span;
}

/* How many of the operation's bytes there are in the @res that were moved from, or to, the span. */
static int64_t bounce_moved(const struct span *span, int res)
{
	if (res <= 0)
		return res;
	return res <= (int64_t)span->skip ? 0 : (int64_t)min_size(res - span->skip, span->take);
}

static void bounce_read(struct io_op *io, int res)
{
	struct disk_op *op = op_of(io);
	struct span span = bounce_span(op);
	int64_t n = bounce_moved(&span, res);

	if (n > 0)
		iov_write(op->iov, op->disk->bounce + span.skip, (size_t)n);
	op_moved(op, n);
}

static void bounce_written(struct io_op *io, int res)
{
	struct disk_op *op = op_of(io);
	struct span span = bounce_span(op);

	op_moved(op, bounce_moved(&span, res));
}

static void bounce_write(struct disk_op *op, const struct span *span)
{
	struct disk *disk = op->disk;

	if (op->iov)
		iov_read(op->iov, disk->bounce + span->skip, span->take);
	else
		memset(disk->bounce + span->skip, 0, span->take);
	disk->bounce_iov = (struct iovec){ disk->bounce, span->len };
	op->io.done = bounce_written;
	write_start(op, &disk->bounce_iov, 1, span->begin);
}

/* What surrounds the operation's bytes is there; beyond the end of the file they are zeroes. */
static void bounce_filled(struct io_op *io, int res)
{
	struct disk_op *op = op_of(io);
	struct span span = bounce_span(op);

	if (res < 0) {
		op_moved(op, res);
	} else {
		memset(op->disk->bounce + res, 0, span.len - (uint32_t)res);
		bounce_write(op, &span);
	}
}

static void bounce_start(struct disk_op *op)
{
	struct disk *disk = op->disk;
	struct span span = bounce_span(op);

	if (op->kind == DISK_WRITE && span.take == span.len) {
		bounce_write(op, &span);
		return;
	}
	op->io.done = op->kind == DISK_READ ? bounce_read : bounce_filled;
	ring_read(disk->ring, &op->io, disk->backing.fd, disk->bounce, span.len, span.begin);
}

/* The others. */

static void ended(struct io_op *io, int res)
{
	struct disk_op *op = op_of(io);

	if (is_interrupted(res))
		op_again(op);
	else
		op_finish(op, res);
}

static void flush_start(struct disk_op *op)
{
	op->io.done = ended;
	ring_fdatasync(op->disk->ring, &op->io, op->disk->backing.fd);
}

static void fallocate_start(struct disk_op *op, int mode, void (*done)(struct io_op *io, int res))
{
	op->io.done = done;
	ring_fallocate(op->disk->ring, &op->io, op->disk->backing.fd, mode | FALLOC_FL_KEEP_SIZE,
	               op->offset, op->len);
}

/* Of a block device, what is not whole blocks is refused: it need not be given back. */
static void discarded(struct io_op *io, int res)
{
	ended(io, res == -EINVAL ? 0 : res);
}

/* What the host cannot do in one way is done in the next: punch a hole, zero the range, write. */
static void zeroed(struct io_op *io, int res)
{
	struct disk_op *op = op_of(io);

	if (res == -EOPNOTSUPP || res == -EINVAL) {
		if (!op->unmap)
			op->kind = DISK_WRITE;
		op->unmap = false;
		op_again(op);
	} else if (!res && op->durable) {
		flush_start(op);
	} else {
		ended(io, res);
	}
}

static void op_run(struct disk_op *op)
{
	struct disk *disk = op->disk;

	if (op->cancelled) {
		op->done(op, -ECANCELED);
		return;
	}
	disk->running++;
	disk->alone = op->alone;
	op->running = true;
	switch (op->kind) {
	case DISK_READ:
	case DISK_WRITE:
		op->io.done = moved;
		if (op->alone)
			bounce_start(op);
		else if (op->kind == DISK_READ)
			read_start(op);
		else
			write_start(op, op->iov, op->niov, op->offset);
		break;
	case DISK_FLUSH:
		flush_start(op);
		break;
	case DISK_DISCARD:
		fallocate_start(op, FALLOC_FL_PUNCH_HOLE, discarded);
		break;
	case DISK_ZERO:
		fallocate_start(op, op->unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE,
		                zeroed);
		break;
	}
}

/* What is asked for. */

static void op_init(struct disk_op *op, struct disk *disk, enum disk_kind kind, uint64_t offset,
                    uint64_t len)
{
	op->io.by_device = disk->backing.config->direct;
	op->disk = disk;
	op->kind = kind;
	op->offset = offset;
	op->len = len;
	op->iov = NULL;
	op->niov = 0;
	op->durable = false;
	op->unmap = false;
	op->running = false;
	op->cancelled = false;
}

void disk_read(struct disk *disk, struct disk_op *op, struct iovec *iov, unsigned n,
               uint64_t offset, uint64_t len)
{
	op_init(op, disk, DISK_READ, offset, len);
	op->iov = iov;
	op->niov = n;
	op_start(op);
}

void disk_write(struct disk *disk, struct disk_op *op, struct iovec *iov, unsigned n,
                uint64_t offset, uint64_t len, bool durable)
{
	op_init(op, disk, DISK_WRITE, offset, len);
	op->iov = iov;
	op->niov = n;
	op->durable = durable;
	op_start(op);
}

void disk_flush(struct disk *disk, struct disk_op *op)
{
	op_init(op, disk, DISK_FLUSH, 0, 0);
	op_start(op);
}

void disk_discard(struct disk *disk, struct disk_op *op, uint64_t offset, uint64_t len)
{
	op_init(op, disk, DISK_DISCARD, offset, len);
	op_start(op);
}

void disk_zero(struct disk *disk, struct disk_op *op, uint64_t offset, uint64_t len, bool unmap,
               bool durable)
{
	op_init(op, disk, DISK_ZERO, offset, len);
	op->unmap = unmap;
	op->durable = durable;
	op_start(op);
}

void disk_cancel(struct disk_op *op)
{
	op->cancelled = true;
	if (op->running)
		ring_cancel(op->disk->ring, &op->io);
}

/* The disk itself. */

static void tick_start(struct disk *disk);

static void tick_passed(struct io_op *io, int res)
{
	struct disk *disk = container_of(io, struct disk, tick.op);
	int64_t size;

	if (res != -ETIME)
		return;
	tick_start(disk);
	size = backing_size(&disk->backing);
	if (size < 0 || (uint64_t)size == disk->size)
		return;
	disk->size = (uint64_t)size;
	if (disk->resized)
		disk->resized(disk, disk->resized_arg);
}

/*
 * Asking is a system call a second. Being told would cost more: inotify reports every write of our
 * own, and knows neither block devices nor network file systems.
 */
static void tick_start(struct disk *disk)
{
	disk->tick.op.done = tick_passed;
	ring_timeout(disk->ring, &disk->tick, TICK_NSEC);
}

int disk_init(struct disk *disk, struct ring *ring, const struct backing_config *config, char *why)
{
	int err;

	*disk = (struct disk){ .ring = ring };
	disk->waiting_end = &disk->waiting;
	err = backing_open(&disk->backing, config, why);
	if (err)
		return err;
	disk->bounce = aligned_alloc(BACKING_ALIGN_MAX, BOUNCE_SIZE);
	if (!disk->bounce) {
		backing_close(&disk->backing);
		snprintf(why, BACKING_WHY_MAX, "disk %.256s: no memory", config->path);
		return -ENOMEM;
	}
	disk->size = (uint64_t)backing_size(&disk->backing);
	tick_start(disk);
	return 0;
}

void disk_fini(struct disk *disk)
{
	free(disk->bounce);
	backing_close(&disk->backing);
}
