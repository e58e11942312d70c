/*
 * virtio-net (virtio 1.2 §5.1): a network card whose cable ends in a tap.
 *
 * Main thread only.
 *
 * Packets go between guest memory and the tap as the driver laid them out, header first: a chain of
 * a transmit queue is one write, one or more chains of a receive queue are one read. Both go in
 * passes: a batch of operations, all in one system call, and the next batch when all of that are
 * done.
 *
 *   read[0]     | chain | chain | ... |   each has room for the largest packet
 *   read[1]     | chain | ...         |   (without MRG_RXBUF it is one chain)
 *   ...
 *   read[n-1]   | chain | ...         |
 *
 *   pass of 3, two packets in the tap:   0: does not wait ..> packet
 *                                        1: does not wait ..> packet
 *                                        2: waits .........> the next packet
 *
 * Only the last read of a pass waits, where Linux (6.4) can do that: an arrival wakes one read and
 * not all. A packet takes as many of its read's chains as it fills, the others stay for the next
 * pass. The size of a pass follows the load: twice as many while there is a packet for each read,
 * slowly less down to as many as found one; for single packets it is 1.
 *
 * Packets that come close upon each other are moderated, as by a card that interrupts at most so
 * many times a second: then no read of a pass waits, and a tap that is empty is left alone for 0.1
 * ms, as long as eight packets or more come meanwhile. To be woken up for a packet takes longer
 * than the packet.
 */
#ifndef VIRTIO_NET_H
#define VIRTIO_NET_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "io/tap.h"
#include "virtio/vdev.h"

#define NET_QUEUE_SIZE 1024 /* 16 to 24 of the largest packets, in the buffers that Linux posts */
#define NET_READS      32   /* in a pass */
#define NET_WRITES     64   /* in a pass */

/*
 * Linux posts buffers of 1.5 KB and more of them only once it has used 33, or in a shorter queue
 * half: fewer than these may then not hold a packet of 64 KiB, and both sides would wait.
 */
#define NET_QUEUE_LARGE 128

/* Reads in a pass if all wait: each packet wakes all, and after 128 times Linux wants a thread. */
#define NET_READS_WAITING 16

#define NET_ADDRS_MAX (TAP_FILTER_MAX - 2)

/* What is less than full can take one more chain of any length. */
#define NET_SEGMENTS (2 * NET_QUEUE_SIZE)

/* Feature bits (§5.1.3; USO: virtio 1.3). */
#define VIRTIO_NET_F_CSUM                0
#define VIRTIO_NET_F_GUEST_CSUM          1
#define VIRTIO_NET_F_CTRL_GUEST_OFFLOADS 2
#define VIRTIO_NET_F_MTU                 3
#define VIRTIO_NET_F_MAC                 5
#define VIRTIO_NET_F_GUEST_TSO4          7
#define VIRTIO_NET_F_GUEST_TSO6          8
#define VIRTIO_NET_F_GUEST_ECN           9
#define VIRTIO_NET_F_GUEST_UFO           10
#define VIRTIO_NET_F_HOST_TSO4           11
#define VIRTIO_NET_F_HOST_TSO6           12
#define VIRTIO_NET_F_HOST_ECN            13
#define VIRTIO_NET_F_HOST_UFO            14
#define VIRTIO_NET_F_MRG_RXBUF           15
#define VIRTIO_NET_F_STATUS              16
#define VIRTIO_NET_F_CTRL_VQ             17
#define VIRTIO_NET_F_CTRL_RX             18
#define VIRTIO_NET_F_MQ                  22
#define VIRTIO_NET_F_CTRL_MAC_ADDR       23
#define VIRTIO_NET_F_GUEST_USO4          54
#define VIRTIO_NET_F_GUEST_USO6          55
#define VIRTIO_NET_F_HOST_USO            56
#define VIRTIO_NET_F_SPEED_DUPLEX        63

/* §5.1.4 */
struct virtio_net_config {
	uint8_t mac[ETH_ALEN];
	uint16_t status;
	uint16_t max_virtqueue_pairs;
	uint16_t mtu;
	uint32_t speed; /* Mb/s */
	uint8_t duplex;
} __attribute__((packed));

#define VIRTIO_NET_S_LINK_UP 1

/* Before each packet (§5.1.6), little-endian as this machine is. */
struct virtio_net_hdr {
	uint8_t flags;
	uint8_t gso_type;
	uint16_t hdr_len;
	uint16_t gso_size;
	uint16_t csum_start;
	uint16_t csum_offset;
	uint16_t num_buffers;
};

/* A command (§5.1.6.5). */
struct virtio_net_ctrl_hdr {
	uint8_t class;
	uint8_t command;
};

#define VIRTIO_NET_OK  0
#define VIRTIO_NET_ERR 1

#define VIRTIO_NET_CTRL_RX                 0
#define VIRTIO_NET_CTRL_RX_PROMISC         0
#define VIRTIO_NET_CTRL_RX_ALLMULTI        1
#define VIRTIO_NET_CTRL_MAC                1
#define VIRTIO_NET_CTRL_MAC_TABLE_SET      0
#define VIRTIO_NET_CTRL_MAC_ADDR_SET       1
#define VIRTIO_NET_CTRL_MQ                 4
#define VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET    0
#define VIRTIO_NET_CTRL_GUEST_OFFLOADS     5
#define VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET 0

struct net_count {
	uint64_t packets;
	uint64_t bytes; /* without headers */
	uint64_t lost;  /* packets that the tap refused, or gave back broken */
};

/* A posted chain. */
struct net_chain {
	uint16_t head;
	uint32_t in; /* bytes */
};

struct net_read {
	struct io_op op;
	struct net_rx *rx;
	bool started;
	uint64_t bytes;
	unsigned nsegs;
	unsigned nchains;
	unsigned first;          /* chain, of those in a circle */
	struct net_chain *chain; /* in net_rx, */
	struct iovec *iov;       /* and so is their memory, one behind the other */
};

/* A receive queue. */
struct net_rx {
	struct net *net;
	struct vdev_queue *queue;
	unsigned pair;
	unsigned want;            /* reads for the next pass */
	unsigned posted;          /* reads of this pass, */
	unsigned out;             /* those that are not done, */
	unsigned found;           /* and those for which a packet was there already */
	uint64_t posted_at;       /* ring->enters */
	bool emptied;             /* a read of this pass got nothing */
	bool moderated;           /* no read waits, but a pause */
	unsigned gathered;        /* packets since the last pause */
	struct patience patience; /* until moderation is tried again */
	bool waiting;             /* between two passes, */
	struct io_timer wait;     /* for a pause to end, or for a packet */
	struct net_count count;   /* since net_init() */
	struct net_read read[NET_READS];
	struct net_chain chain[NET_READS][NET_QUEUE_SIZE];
	struct iovec iov[NET_READS][NET_SEGMENTS];
};

struct net_write {
	struct io_op op;
	struct net_tx *tx;
	uint16_t head;
	bool started;
};

/* A transmit queue. */
struct net_tx {
	struct net *net;
	struct vdev_queue *queue;
	unsigned pair;
	unsigned out; /* writes of this pass that are not done */
	struct net_count count;
	struct net_write write[NET_WRITES];
	struct iovec iov[NET_SEGMENTS];
};

struct net {
	struct vdev vdev;
	struct vdev_kind kind;
	char name[8];
	struct tap *tap;
	struct net_rx *rx; /* one for each queue of the tap */
	struct net_tx *tx;
	bool link;   /* the tap is there */
	bool nowait; /* its reads can be told not to wait */

	/* As negotiated. */
	bool mergeable;
	uint64_t wanted;  /* features: what the host may do for the driver */
	bool long_queues; /* all receive queues that are on have NET_QUEUE_LARGE or more entries */
	uint32_t packet_max; /* bytes, header included, and one: what fills them was cut short */

	/* What the driver wants to receive besides what is sent to its own address and to all. */
	bool promisc;
	bool allmulti;
	unsigned naddrs; /* more than there is room for: everything */
	uint8_t addr[NET_ADDRS_MAX][ETH_ALEN];

	struct iovec iov[NET_QUEUE_SIZE]; /* of the command being popped */
};

/*
 * Put a card that is connected to the tap, which must outlive it, on the PCI bus as number @index
 * of its kind. Returns 0, or -errno and nothing is held.
 */
int net_init(struct net *net, unsigned index, struct tap *tap, const struct vdev_world *world);

/* After vCPUs have stopped and before ring_fini(). A zeroed device is left alone. */
void net_fini(struct net *net);

/* Between virtio/net.c and virtio/net_rx.c. */

/* @rx is zeroed; vdev's queue is still to be set. */
void net_rx_init(struct net_rx *rx, struct net *net, unsigned pair);

/* The next pass, unless one is under way. */
void net_rx_run(struct net_rx *rx);

/* Give back what is posted, now or as soon as the kernel lets go of it. */
void net_rx_stop(struct net_rx *rx);

/* The tap is gone, says @err: the cable is out. */
void net_link_down(struct net *net, int err);

#endif
