/*
 * A split virtqueue, as its device sees it (virtio 1.2 §2.7).
 *
 * I/O thread only, from virtq_enable to virtq_disable; a queue starts zeroed.
 *
 * A driver and a device pass buffers to and fro through three areas of guest memory, without a
 * lock, because each area has one writer:
 *
 *   descriptor table   driver   pieces of memory {addr, len, flags, next}, linked into chains
 *   available ring     driver   "please do these": the heads of chains, in the order offered
 *   used ring          device   "these are done": {head, bytes written}, in any order
 *
 * A request is a chain: first what the device reads, then what it writes.
 *
 * Nothing but the functions below knows the areas: packed rings (§2.8) would be another layout
 * behind the same.
 *
 *                    next_avail: next to be popped; the device's own note
 *                    | avail.idx: next to be offered
 *                    v v
 *   avail.ring   5 7 2 . . . . .        desc[5] -> desc[6] -> desc[1]      linked by `next`
 *   used.ring    7 . . . . . . .        desc[7] -> a table elsewhere       indirect: one entry,
 *                  ^                    desc[2] -> desc[0]                 many segments
 *                  used.idx: next to be returned
 *
 * Here 5 is in flight, 7 is done and 2 waits.
 *
 * An idx counts for ever, modulo 2^16 and not modulo the size. So full and empty look different,
 * `new - old` in 16 bits is right across the wrap, and idx & (size - 1) is the slot: sizes are
 * powers of two.
 *
 * Ownership moves by an idx and nothing else. What lies before avail.idx is the device's to read;
 * what lies before used.idx is the driver's again. All else is plain memory: storing an idx with
 * release and reading it with acquire is all the order that passing data needs.
 *
 * Sleeping needs more. Each side writes into its own ring when it wants to be notified: yes or no
 * in `flags` or, with VIRTIO_F_EVENT_IDX, "when your idx passes this" behind the last entry
 * (used_event in the available ring, avail_event in the used ring). Then, whichever way the chains
 * travel:
 *
 *   who waits                            who works
 *     writes: wake me at n                 writes: idx is n + 1 now
 *     full barrier                         full barrier
 *     reads idx; sleeps if it is n         reads the wish; notifies if it is n
 *
 * With both barriers at least one of them sees the other's write; without either, both may miss it
 * and the queue stands still for ever. virtq_kicks_on() is the left column for available chains,
 * virtq_flush() the right one for used chains; the driver has the other halves.
 *
 * A device serves a queue thus, and is not kicked while it is busy:
 *
 *   do {
 *           virtq_kicks_off(q);
 *           while ((got = virtq_pop(q, &chain)) > 0)
 *                   start the I/O
 *   } while (!got && virtq_kicks_on(q));
 *
 * As I/O completes: virtq_push(). After each batch, once: if (virtq_flush(q)) raise the interrupt.
 * Chains pushed between two flushes reach the driver all together, as the buffers of one received
 * packet must (§5.1.6.4.1).
 *
 * Nothing the driver writes is believed. It may write at any time, so each value is read once and
 * what was read is checked. What virtq_pop() gives out was true once and stays safe: iov points
 * into guest RAM, which is never unmapped.
 */
#ifndef VIRTIO_VIRTQ_H
#define VIRTIO_VIRTQ_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "core/memory.h"

#define VIRTQ_SIZE_MAX 1024

/* Feature bits (§6). */
#define VIRTIO_F_INDIRECT_DESC 28
#define VIRTIO_F_EVENT_IDX     29

/*
 * In guest memory: little-endian, as this machine is. Descriptors are packed because an indirect
 * table may lie at any address.
 */
struct virtq_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags;
	uint16_t next;
} __attribute__((packed));

#define VIRTQ_DESC_F_NEXT     1
#define VIRTQ_DESC_F_WRITE    2
#define VIRTQ_DESC_F_INDIRECT 4

struct virtq_avail {
	uint16_t flags;
	uint16_t idx;
	uint16_t ring[]; /* size entries, then used_event */
};

#define VIRTQ_AVAIL_F_NO_INTERRUPT 1

struct virtq_used_elem {
	uint32_t id;
	uint32_t len;
};

struct virtq_used {
	uint16_t flags;
	uint16_t idx;
	struct virtq_used_elem ring[]; /* size entries, then avail_event */
};

#define VIRTQ_USED_F_NO_NOTIFY 1

struct virtq {
	const struct mem *mem;
	const struct virtq_desc *desc;
	const struct virtq_avail *avail;
	struct virtq_used *used;
	uint16_t size; /* 0: not enabled */
	bool indirect; /* VIRTIO_F_INDIRECT_DESC and */
	bool event;    /* VIRTIO_F_EVENT_IDX were negotiated */

	uint16_t next_avail; /* popped so far */
	uint16_t avail_idx;  /* avail->idx when last read */
	uint16_t used_idx;   /* pushed so far */
	uint16_t flushed;    /* used->idx: as many of them as the driver was told of */
	uint16_t in_flight;  /* chains popped and not pushed; never more than size */
	bool waiting;        /* empty, and to be kicked */

	uint64_t busy[VIRTQ_SIZE_MAX / 64]; /* by head: in flight */
};

/* A chain in host memory. Its segments are the descriptors, less those of no length. */
struct virtq_chain {
	struct iovec *iov; /* the caller's, set before virtq_pop() */
	uint16_t iov_max;  /* room there */

	uint16_t head; /* for virtq_push() */
	uint16_t nout; /* segments for the device to read: iov[0] and on */
	uint16_t nin;  /* segments for it to write: iov[nout] and on */
	uint32_t out;  /* bytes to read, */
	uint32_t in;   /* bytes to write */
};

/*
 * Enable a queue of @size entries (a power of two, at most VIRTQ_SIZE_MAX) in the areas at @desc,
 * @driver (available ring) and @device (used ring). Of the negotiated @features the two above
 * count. Size and areas hold until virtq_disable(), as @mem must. Returns 0; -EBUSY (enabled
 * already), -EINVAL (size, alignment), -EFAULT (an area not in RAM).
 */
int virtq_enable(struct virtq *q, const struct mem *mem, uint64_t features, unsigned size,
                 gpa_t desc, gpa_t driver, gpa_t device);

/*
 * Forget the queue, and the chains in flight: no I/O may use their memory any more. Once disabled
 * it may be enabled anew, and begins at 0.
 */
void virtq_disable(struct virtq *q);

/*
 * The next available chain. Returns 1, 0 when there is none, or what is wrong with the ring; it is
 * of no use then until it was reset:
 *   -EOVERFLOW  avail idx is further ahead of what was flushed than the queue is long
 *   -ERANGE     a head or next lies outside its table
 *   -EBUSY      the head is in flight
 *   -ELOOP      more descriptors are linked than the table has
 *   -EINVAL     readable after writable; a forbidden indirect table, or one of impossible length
 *   -EFAULT     memory that is not RAM
 *   -E2BIG      more segments than @chain has room for
 *   -EMSGSIZE   4 GiB or more in all
 */
int virtq_pop(struct virtq *q, struct virtq_chain *chain);

/*
 * Return the chain @head, popped before. @len: bytes written from the start of its writable part,
 * at most chain.in. The driver sees it after virtq_flush().
 */
void virtq_push(struct virtq *q, uint16_t head, uint32_t len);

/* Show the driver all that was pushed. Returns whether it wants an interrupt for that. */
bool virtq_flush(struct virtq *q);

/* Whether there is a chain to be popped: a glance, after which one may not sleep. */
bool virtq_peek(const struct virtq *q);

/* While the queue is being served or looked at: the driver need not kick. It may all the same. */
void virtq_kicks_off(struct virtq *q);

/* Before sleeping: kick when there is more. Returns whether there is more already, to be popped. */
bool virtq_kicks_on(struct virtq *q);

#endif
