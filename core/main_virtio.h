/*
 * The virtio devices of a machine, and the host's side of them: disks and taps, which outlive a
 * machine whose guest reboots.
 *
 * Main thread.
 */
#ifndef CORE_MAIN_VIRTIO_H
#define CORE_MAIN_VIRTIO_H

#include "core/options.h"
#include "virtio/blk.h"
#include "virtio/net.h"
#include "virtio/rng.h"

struct virtio_host {
	struct ring *ring;
	unsigned ndisks;
	struct backing_config backing[OPTION_LIST_MAX];
	struct disk disk[OPTION_LIST_MAX];
	bool rng;
	unsigned ntaps;
	struct tap_config tap_config[OPTION_LIST_MAX];
	struct tap tap[OPTION_LIST_MAX];
};

/* Understand the options of disks and taps. Returns 0, or -EINVAL and one line was printed. */
int virtio_host_parse(struct virtio_host *host, const struct options *options);

/* Open what was parsed. Returns 0, or -errno, one line was printed and nothing is held. */
int virtio_host_init(struct virtio_host *host, const struct options *options, struct ring *ring);

/* How many devices a machine gets. */
unsigned virtio_devices(const struct virtio_host *host);

/* After ring_fini(). */
void virtio_host_fini(struct virtio_host *host);

struct virtio {
	struct virtio_host *host;
	struct irq_router router;
	struct vdev_world world;
	struct rng rng;
	struct blk blk[OPTION_LIST_MAX];
	struct net net[OPTION_LIST_MAX];
};

/*
 * Put all devices on the PCI bus, in the order of the command line. Returns 0, or -errno and one
 * line was printed; virtio_fini() may be called all the same.
 */
int virtio_init(struct virtio *virtio, struct virtio_host *host, const struct mem *mem,
                struct pci *pci, int vm_fd);

/* After vCPUs have stopped and before ring_fini(): when this returns nothing is in flight. */
void virtio_fini(struct virtio *virtio);

/* Members of a JSON object: the ring's counters, and each device's by queue. */
void virtio_print(const struct virtio *virtio, FILE *out);

#endif
