/*
 * Disks: images read and written through the ring.
 *
 * Main thread only.
 *
 * An operation is a struct disk_op inside the caller's own struct. Its done() runs exactly once for
 * each start, never inside the call that started it, with 0 or -errno; in between, the operation,
 * its iov and the memory that this names are the disk's. Operations run side by side and end in any
 * order.
 *
 *                                          moved, or failed
 *   start --> [waiting] --> in its turn ---------------------> done()
 *      ^                         |
 *      '---- what is left <------'  moved in part
 *
 * Nobody waits unless O_DIRECT meets what is not aligned. Such an operation goes through a bounce
 * buffer, and a block of which only a part is written is read before: so its turn is its alone, and
 * operations wait for each other in the order of their starts until that is over. Guests that heed
 * the physical block size cause none of this. Alone, too, goes what gives ranges back where the
 * kernel writes at once (struct backing): a write would make the main thread wait for that.
 */
#ifndef IO_DISK_H
#define IO_DISK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "io/backing.h"
#include "io/ring.h"

#define BOUNCE_SIZE BACKING_ALIGN_MAX

enum disk_kind { DISK_READ, DISK_WRITE, DISK_FLUSH, DISK_DISCARD, DISK_ZERO };

struct disk_op {
	void (*done)(struct disk_op *op, int res);

	/* The disk's own while started. */
	struct io_op io;
	struct disk *disk;
	struct disk_op *next; /* that waits */
	struct iovec *iov;    /* what is left to be moved; NULL: zeroes to be written */
	unsigned niov;
	uint64_t offset; /* where it goes, or what is left to be zeroed or discarded */
	uint64_t len;
	enum disk_kind kind;
	bool durable;
	bool unmap;
	bool alone;
	bool running;
	bool cancelled;
};

struct disk {
	struct backing backing;
	struct ring *ring;
	uint64_t size; /* bytes, a multiple of BACKING_SECTOR */

	/* Called when that has changed; NULL: nobody cares. */
	void (*resized)(struct disk *disk, void *arg);
	void *resized_arg;
	struct io_timer tick;

	unsigned running; /* operations, */
	bool alone;       /* or the one that has its turn alone */
	struct disk_op *waiting;
	struct disk_op **waiting_end;
	uint8_t *bounce; /* BOUNCE_SIZE bytes */
	struct iovec bounce_iov;
};

/*
 * Open the image that @config says, which must outlive the disk. From the next batch on its size is
 * looked at once a second.
 * Returns 0, or -errno, nothing is held and @why (BACKING_WHY_MAX bytes) holds one line.
 */
int disk_init(struct disk *disk, struct ring *ring, const struct backing_config *config, char *why);

/* After ring_fini(), before which all operations had ended. */
void disk_fini(struct disk *disk);

/*
 * Start an operation, op->done being set, on @len bytes at @offset, multiples of BACKING_SECTOR and
 * within the disk. @iov, of @n pieces and @len bytes in all, is changed.
 * A read beyond the end of a file that has just become shorter gives zeroes.
 */
void disk_read(struct disk *disk, struct disk_op *op, struct iovec *iov, unsigned n,
               uint64_t offset, uint64_t len);

/* @durable: when it is done a loss of power does not undo it. */
void disk_write(struct disk *disk, struct disk_op *op, struct iovec *iov, unsigned n,
                uint64_t offset, uint64_t len, bool durable);

/* All that was done before is durable when this is done. */
void disk_flush(struct disk *disk, struct disk_op *op);

/* Give the range back to the host; -EOPNOTSUPP where that cannot. */
void disk_discard(struct disk *disk, struct disk_op *op, uint64_t offset, uint64_t len);

/* Zero the range; @unmap: it may be given back to the host. */
void disk_zero(struct disk *disk, struct disk_op *op, uint64_t offset, uint64_t len, bool unmap,
               bool durable);

/* Ask for @op, which is started, to end soon; done() gets -ECANCELED, -EINTR or its result. */
void disk_cancel(struct disk_op *op);

#endif
