/*
 * A virtio device as its PCI transport sees it (virtio 1.2 §2.1, §4.1): status, features, queues,
 * notifications; and what a device built on it is given: memory, queues and the ring.
 *
 * Two threads meet here. vCPU threads read and write the transport's registers, under the device's
 * lock; they only note what the driver wants and wake the I/O thread. The I/O thread alone touches
 * virtqueues and the ring: it follows what was noted, and calls the device's ops. Nobody waits for
 * anybody: a driver that reset a device or a queue reads the register until it shows that it is
 * done (§2.4.2, §2.6.1), which is when nothing is in flight any more.
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
#include "core/irq.h"
#include "core/memory.h"
#include "core/msix.h"
#include "core/pci.h"
#include "io/ring.h"
#include "virtio/virtq.h"

#define VDEV_QUEUES_MAX 33 /* 16 pairs and a control queue */
#define VDEV_CONFIG_MAX 64

/* Feature bits of all devices (§6), beside those in virtq.h. */
#define VIRTIO_F_VERSION_1  32
#define VIRTIO_F_RING_RESET 40

struct vdev;

/* What a kind of device adds, on the I/O thread. Without start or stop: NULL. */
struct vdev_ops {
	/* DRIVER_OK: vdev->features holds what was negotiated, the queues are enabled. */
	void (*start)(struct vdev *vdev);
	/* There may be chains in @queue: serve it (virtq.h, "A device serves a queue thus"). */
	void (*notify)(struct vdev *vdev, unsigned queue);
	/*
	 * @queue is being reset: ring_cancel() what is in flight, so that each chain which was
	 * popped comes back by vdev_push() soon, or now. No notify() for it until it is enabled
	 * again.
	 */
	void (*stop)(struct vdev *vdev, unsigned queue);
};

/* What makes a device: constant while it lives, filled in before vdev_init(). */
struct vdev_kind {
	const char *name;    /* "blk0", for messages and statistics */
	uint16_t device_id;  /* virtio's (§5), 2 for blk */
	uint32_t class_code; /* PCI class, 24 bits */
	uint64_t features;   /* offered; VERSION_1, RING_RESET, INDIRECT and EVENT_IDX are added */
	unsigned nqueues;
	uint16_t queue_size;      /* the largest that the driver may choose: a power of two */
	uint16_t config_len;      /* bytes of device configuration, at most VDEV_CONFIG_MAX */
	uint64_t config_writable; /* those of them that the driver may write: a bit a byte */
	const struct vdev_ops *ops;
};

/* What all devices of a machine share. */
struct vdev_world {
	const struct mem *mem;
	struct ring *ring;
	struct pci *pci;
	struct irq_router *router;
	int vm_fd;
	unsigned intx_gsi; /* of INTA in slot 0; the next slots have the next, intx_n in a circle */
	unsigned intx_n;
};

/* Unless said otherwise a field is the I/O thread's. */
struct vdev_queue {
	struct vdev *vdev;
	unsigned index;
	struct virtq virtq;
	bool stopping; /* ops->stop() was called, chains are still in flight */
	struct io_watch kick;
	uint64_t kicks;    /* since vdev_init(): wake-ups, */
	uint64_t requests; /* chains given back */

	/* Registers (§4.1.4.3), under vdev->lock; while queue_enable is set all before it hold. */
	uint16_t queue_size;
	gpa_t queue_desc;
	gpa_t queue_driver;
	gpa_t queue_device;
	bool queue_enable;
	bool queue_reset;
	_Atomic uint16_t queue_msix_vector; /* written under the lock */
	struct doorbell doorbell;           /* moved under the lock */
};

enum vdev_state {
	VDEV_IDLE,      /* the driver negotiates; the I/O thread has nothing to do with it */
	VDEV_LIVE,      /* DRIVER_OK: the I/O thread serves each queue that is enabled */
	VDEV_BROKEN,    /* needs a reset: the I/O thread stops all queues */
	VDEV_RESETTING, /* the same, and then the device is idle; registers cannot be written */
};

/* A device, inside its owner's struct; container_of() finds that. */
struct vdev {
	const struct vdev_kind *kind;
	const struct vdev_world *world;
	struct vdev_queue *queue; /* kind->nqueues of them */
	uint64_t features;        /* negotiated; constant while the device is not idle */

	/* The I/O thread's. */
	struct io_watch noted; /* something below was written */
	struct ring_hook batch;
	bool follow;       /* at the end of this batch: look at what was noted, */
	bool config_raise; /* raise a configuration interrupt, */
	uint64_t pushed;   /* flush these queues (a bit each) */
	struct ring_poller poller;
	uint64_t polled;     /* instead of being kicked these queues are looked at */
	bool started;        /* ops->start() was called */
	uint64_t interrupts; /* since vdev_init() */
	struct irq intx;     /* opened when it is first raised */
	struct io_watch eoi;

	/* The lock guards what follows. It is taken within pci's lock, never around it. */
	pthread_mutex_t lock;
	enum vdev_state state;
	_Alignas(8) uint8_t config[VDEV_CONFIG_MAX];

	/* Registers (§4.1.4.3) and what PCI tells. */
	uint32_t device_feature_select;
	uint32_t driver_feature_select;
	uint8_t device_status;
	uint8_t config_generation;
	uint16_t queue_select;
	struct msix msix;
	bool mastering;   /* the guest lets the device access memory */
	uint64_t base[2]; /* where its BAR of each enum bus_space is; 0: nowhere */

	/* Written under the lock, read anywhere. */
	_Atomic uint16_t config_msix_vector;
	_Atomic uint8_t isr; /* §4.1.4.5; set by the I/O thread, cleared as it is read */
	_Atomic bool intx_off;

	/* Under pci's lock. */
	struct pci_device pci;
	unsigned window; /* where in it the access window is (§4.1.4.9) */
};

/*
 * Main thread, before vCPUs run: put a device of @kind on the PCI bus, vdev->config having been
 * filled in and all else zeroed. Returns 0 or -errno and nothing is held.
 */
int vdev_init(struct vdev *vdev, const struct vdev_kind *kind, const struct vdev_world *world);

/*
 * Main thread, after vCPUs have stopped and before ring_fini(): stop all queues, running batches
 * until nothing is in flight, and give everything back. A zeroed device is left alone.
 */
void vdev_fini(struct vdev *vdev);

/* I/O thread. Whether @queue may be served now: it is enabled, and not being reset. */
bool vdev_runs(const struct vdev_queue *queue);

/*
 * I/O thread. Give the chain @head back with @len bytes written: published, and the interrupt
 * raised if the driver wants one, once at the end of the batch. While the queue is being reset it
 * is only counted.
 */
void vdev_push(struct vdev_queue *queue, uint16_t head, uint32_t len);

/*
 * I/O thread. The driver broke the rules: DEVICE_NEEDS_RESET (§2.1.2), one line of log, no more
 * I/O: at the end of the batch ops->stop() is called for each queue, as for a reset.
 */
void vdev_broken(struct vdev *vdev, const char *why, int err);

/*
 * I/O thread, with vdev->lock held since before vdev->config was changed, so that the driver sees
 * either all of it or another generation (§2.5.3): next generation, configuration interrupt.
 */
void vdev_config_changed(struct vdev *vdev);

/* Any thread, for vpci.c and vregs.c: a driver wrote what the I/O thread must follow. */
void vdev_wake(const struct vdev *vdev);

#endif
