/*
 * A virtio device as its PCI transport sees it (virtio 1.2 §2.1, §4.1): status, features, queues,
 * notifications; and what a device built on it is given: memory, queues and the ring.
 *
 * Two threads meet here. vCPU threads read and write the transport's registers, under the device's
 * lock; they only note what the driver wants and wake the I/O thread. The I/O thread alone touches
 * virtqueues and the ring: it follows what was noted, and calls the device's ops. Nobody waits for
 * anybody: a driver that reset a device or a queue reads the register until it shows that it is done
 * (§2.4.2, §2.6.1), which is when nothing is in flight any more.
 *
 *   driver                 vCPU thread            I/O thread
 *   status = DRIVER_OK     noted, woken ........> virtq_enable() each queue, ops->start()
 *   notify (ioeventfd) .........................> ops->notify(queue)
 *                                                 virtq_pop(), an operation on the ring ...
 *                                                 done: vdev_push()
 *   interrupt <.................................. end of the batch: virtq_flush(), irqfd
 *   status = 0             noted, woken ........> ops->stop(queue): cancel what is in flight;
 *   reads status: not 0                           the last vdev_push(): status = 0
 *   reads status: 0
 */
#ifndef VIRTIO_VDEV_H
#define VIRTIO_VDEV_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/doorbell.h"
#include "core/memory.h"
#include "core/msix.h"
#include "core/pci.h"
#include "io/ring.h"
#include "virtio/virtq.h"

#define VDEV_QUEUES_MAX 33 /* 16 pairs and a control queue */

struct vdev;

/* What a kind of device adds. All functions run on the I/O thread. */
struct vdev_ops {
	/* DRIVER_OK: vdev->features holds what was negotiated, the queues are enabled. */
	void (*start)(struct vdev *vdev);
	/* There may be chains in @queue: serve it (virtq.h, "A device serves a queue thus"). */
	void (*notify)(struct vdev *vdev, unsigned queue);
	/*
	 * @queue is being reset: ring_cancel() what is in flight, so that each chain which was popped
	 * comes back by vdev_push() soon. No notify() for it until it is enabled again.
	 */
	void (*stop)(struct vdev *vdev, unsigned queue);
	/* The driver wrote vdev->config (already done); NULL: it is read-only. */
	void (*config_written)(struct vdev *vdev);
};

/* What makes a device: constant while it lives, filled in before vdev_init(). */
struct vdev_kind {
	const char *name;     /* "blk0", for messages and statistics */
	uint16_t device_id;   /* virtio's (§5), 2 for blk */
	uint32_t class_code;  /* PCI class, 24 bits */
	uint64_t features;    /* offered; VERSION_1, RING_RESET, INDIRECT and EVENT_IDX are added */
	unsigned nqueues;
	uint16_t queue_size;  /* the largest that the driver may choose */
	uint16_t config_len;  /* bytes of device configuration */
	const struct vdev_ops *ops;
};

/* What all devices of a machine share. */
struct vdev_world {
	const struct mem *mem;
	struct ring *ring;
	struct pci *pci;
	struct irq_router *router;
	int vm_fd;
};

struct vdev_queue {
	struct vdev *vdev;
	unsigned index;
	struct virtq virtq; /* I/O thread */
	/* ... transport's registers, doorbell, watch, flush hook: vdev.c's */
};

/*
 * I/O thread. Give the chain @head back with @len bytes written: published, and the interrupt raised
 * if the driver wants one, once at the end of the batch. While the queue is being reset it is only
 * counted.
 */
void vdev_push(struct vdev_queue *queue, uint16_t head, uint32_t len);

/* I/O thread. The driver broke the rules: DEVICE_NEEDS_RESET (§2.1.2), one line of log, no more I/O. */
void vdev_broken(struct vdev *vdev, const char *why, int err);

/* I/O thread. vdev->config was changed by the device: next generation, configuration interrupt. */
void vdev_config_changed(struct vdev *vdev);

#endif
