/*
 * virtio-rng (virtio 1.2 §5.4): the host's random bytes for the guest, so many a second.
 *
 * Main thread only.
 */
#ifndef VIRTIO_RNG_H
#define VIRTIO_RNG_H

#include "virtio/vdev.h"

#define RNG_QUEUE_SIZE 16

/* 64 KiB a second, in portions: whoever takes one at once waits for the next. */
#define RNG_PORTION      4096u
#define RNG_PORTION_NSEC 62500000

struct rng {
	struct vdev vdev;
	unsigned left; /* bytes of this portion */
	struct io_timer refill;
	bool refilling; /* the timer runs */
	struct iovec iov[RNG_QUEUE_SIZE];
};

/* As vdev_init() and vdev_fini(). */
int rng_init(struct rng *rng, const struct vdev_world *world);
void rng_fini(struct rng *rng);

#endif
