/*
 * The network card, but for what it receives (virtio/net_rx.c). Knows chains, headers and commands;
 * not how rings work, nor where packets go.
 */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/iov.h"
#include "virtio/net.h"

#define DEVICE_ID  1
#define CLASS_CODE 0x020000 /* network, Ethernet */

#define SPEED       10000 /* Mb/s, as taps say */
#define DUPLEX_FULL 1

#define ETHERNET_MTU 1500

/* The largest packets: an Ethernet header with two VLAN tags, and what the host makes of it. */
#define FRAME_HEADER 22
#define NOT_CUT      1 /* byte: a read that is full to the last may have been too short */
#define GSO_MAX      65536

#define BIT(n) (1ull << (n))

/* What the driver can let the host do, and the host the driver (§5.1.3). */
static const struct {
	unsigned tun; /* TUN_F_* */
	unsigned guest;
	unsigned host;
} offloads[] = {
	{ TUN_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_CSUM },
	{ TUN_F_TSO4, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_HOST_TSO4 },
	{ TUN_F_TSO6, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_TSO6 },
	{ TUN_F_TSO_ECN, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_HOST_ECN },
	{ TUN_F_UFO, VIRTIO_NET_F_GUEST_UFO, VIRTIO_NET_F_HOST_UFO },
	{ TUN_F_USO4, VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_HOST_USO },
	{ TUN_F_USO6, VIRTIO_NET_F_GUEST_USO6, VIRTIO_NET_F_HOST_USO },
};

#define OFFLOADS (sizeof(offloads) / sizeof(offloads[0]))

static bool has(const struct net *net, unsigned feature)
{
	return net->vdev.features >> feature & 1;
}

static struct net *net_of(struct vdev *vdev)
{
	return container_of(vdev, struct net, vdev);
}

/* How many the driver knows of. */
static unsigned pairs_known(const struct net *net)
{
	return has(net, VIRTIO_NET_F_MQ) ? net->tap->queues : 1;
}

/* What the driver takes, of the guest's @features, in the tap's words. */
static unsigned tun_offloads(uint64_t features)
{
	unsigned flags = 0;

	for (size_t i = 0; i < OFFLOADS; i++)
		if (features >> offloads[i].guest & 1)
			flags |= offloads[i].tun;
	if (!(flags & TUN_F_USO4) || !(flags & TUN_F_USO6))
		flags &= ~(TUN_F_USO4 | TUN_F_USO6);
	if (!(flags & (TUN_F_TSO4 | TUN_F_TSO6))) /* Linux refuses it alone */
		flags &= ~TUN_F_TSO_ECN;
	return flags;
}

/* Shorter ones are counted on to hold a packet of the MTU's size, not what the host makes of many.
 */
static bool has_long_queues(const struct net *net)
{
	for (unsigned i = 0; i < pairs_known(net); i++) {
		unsigned size = net->rx[i].queue->virtq.size;

		if (size && size < NET_QUEUE_LARGE)
			return false;
	}
	return true;
}

/* Let the host do what the driver wants, as far as there is room for it. */
static int offloads_follow(struct net *net)
{
	static const uint64_t large = BIT(VIRTIO_NET_F_GUEST_TSO4) | BIT(VIRTIO_NET_F_GUEST_TSO6) |
	                              BIT(VIRTIO_NET_F_GUEST_UFO) | BIT(VIRTIO_NET_F_GUEST_USO4) |
	                              BIT(VIRTIO_NET_F_GUEST_USO6);
	bool takes_large;

	net->long_queues = has_long_queues(net);
	takes_large = net->vdev.features & large && (net->long_queues || !net->mergeable);
	net->packet_max = sizeof(struct virtio_net_hdr) + FRAME_HEADER + NOT_CUT;
	net->packet_max += takes_large ? GSO_MAX : tap_mtu(net->tap);
	return tap_set_offloads(net->tap,
	                        tun_offloads(takes_large ? net->wanted : net->wanted & ~large));
}

void net_link_down(struct net *net, int err)
{
	struct vdev *vdev = &net->vdev;
	struct virtio_net_config *config = (struct virtio_net_config *)vdev->config;

	if (!net->link)
		return;
	net->link = false;
	fprintf(stderr, "kring: %s: %s is gone: %s\n", net->name, net->tap->name, strerror(-err));
	pthread_mutex_lock(&vdev->lock);
	config->status = 0;
	vdev_config_changed(vdev);
	pthread_mutex_unlock(&vdev->lock);
}

/* Transmitting. */

static void tx_run(struct net_tx *tx);

/* A packet that the tap does not take is lost, as on a cable. */
static void tx_done(struct io_op *op, int res)
{
	struct net_write *write = container_of(op, struct net_write, op);
	struct net_tx *tx = write->tx;

	if (res > 0) {
		tx->count.packets++;
		tx->count.bytes += (unsigned)res - sizeof(struct virtio_net_hdr);
	} else {
		tx->count.lost++;
	}
	write->started = false;
	vdev_push(tx->queue, write->head, 0);
	if (!--tx->out)
		tx_run(tx);
}

/* Write what there is, as far as a pass goes. Returns the last virtq_pop()'s answer. */
static int tx_post(struct net_tx *tx)
{
	struct ring *ring = tx->net->vdev.world->ring;
	int fd = tx->net->tap->fd[tx->pair];
	struct virtq_chain chain = { .iov = tx->iov, .iov_max = NET_QUEUE_SIZE };
	int got = 0;

	while (tx->out < NET_WRITES && chain.iov + NET_QUEUE_SIZE <= tx->iov + NET_SEGMENTS &&
	       (got = virtq_pop(&tx->queue->virtq, &chain)) > 0) {
		struct net_write *write = &tx->write[tx->out];

		if (chain.out < sizeof(struct virtio_net_hdr)) {
			vdev_push(tx->queue, chain.head, 0);
			return -EINVAL;
		}
		write->head = chain.head;
		write->started = true;
		tx->out++;
		ring_writev(ring, &write->op, fd, chain.iov, chain.nout, (uint64_t)-1);
		chain.iov += chain.nout;
	}
	return got;
}

/* The next pass, unless one is under way. */
static void tx_run(struct net_tx *tx)
{
	struct virtq *q = &tx->queue->virtq;
	int got;

	if (tx->out || !vdev_runs(tx->queue))
		return;
	do {
		virtq_kicks_off(q);
		got = tx_post(tx);
	} while (!got && !tx->out && virtq_kicks_on(q));

	if (got < 0)
		vdev_broken(&tx->net->vdev, "a bad packet", got);
}

static void tx_stop(struct net_tx *tx)
{
	for (unsigned i = 0; i < NET_WRITES; i++)
		if (tx->write[i].started)
			ring_cancel(tx->net->vdev.world->ring, &tx->write[i].op);
}

/* Commands (§5.1.6.5). Each returns 0 or -errno. */

static int filter_set(const struct net *net)
{
	const struct virtio_net_config *config = (const void *)net->vdev.config;
	uint8_t addr[TAP_FILTER_MAX][ETH_ALEN];

	if (net->promisc || net->naddrs > NET_ADDRS_MAX)
		return tap_set_filter(net->tap, NULL, 0, false);
	memcpy(addr[0], config->mac, ETH_ALEN);
	memcpy(addr[1], net->addr, net->naddrs * sizeof(*addr));
	memset(addr[1 + net->naddrs], 0xff, ETH_ALEN);
	return tap_set_filter(net->tap, addr, net->naddrs + 2, net->allmulti);
}

/* Two tables, of stations and of groups: each a count and so many addresses. */
static int mac_table_set(struct net *net, const uint8_t *data, size_t len)
{
	unsigned naddrs = 0;

	net->naddrs = NET_ADDRS_MAX + 1;
	for (unsigned table = 0; table < 2; table++) {
		uint32_t n;

		if (len < sizeof(n))
			return -EINVAL;
		memcpy(&n, data, sizeof(n));
		data += sizeof(n);
		len -= sizeof(n);
		if (n > NET_ADDRS_MAX - naddrs)
			return filter_set(net);
		if (n > len / ETH_ALEN)
			return -EINVAL;
		memcpy(net->addr + naddrs, data, n * sizeof(*net->addr));
		naddrs += n;
		data += n * sizeof(*net->addr);
		len -= n * sizeof(*net->addr);
	}
	net->naddrs = naddrs;
	return filter_set(net);
}

static int mac_set(struct net *net, const uint8_t *data, size_t len)
{
	struct vdev *vdev = &net->vdev;

	if (len != ETH_ALEN)
		return -EINVAL;
	pthread_mutex_lock(&vdev->lock);
	memcpy(vdev->config + offsetof(struct virtio_net_config, mac), data, ETH_ALEN);
	pthread_mutex_unlock(&vdev->lock);
	return filter_set(net);
}

static int rx_mode_set(struct net *net, bool *mode, const uint8_t *data, size_t len)
{
	if (len != 1)
		return -EINVAL;
	*mode = data[0];
	return filter_set(net);
}

static int pairs_set(struct net *net, const uint8_t *data, size_t len)
{
	uint16_t pairs;

	if (len != sizeof(pairs))
		return -EINVAL;
	memcpy(&pairs, data, sizeof(pairs));
	if (!pairs || pairs > net->tap->queues)
		return -EINVAL;
	return tap_set_queues(net->tap, pairs);
}

static int offloads_set(struct net *net, const uint8_t *data, size_t len)
{
	uint64_t possible = 0;
	uint64_t wanted;

	if (len != sizeof(wanted))
		return -EINVAL;
	memcpy(&wanted, data, sizeof(wanted));
	for (size_t i = 0; i < OFFLOADS; i++)
		possible |= BIT(offloads[i].guest);
	if (wanted & ~(possible & net->vdev.features))
		return -EINVAL;
	net->wanted = wanted;
	return offloads_follow(net);
}

#define COMMAND(class, command) (VIRTIO_NET_CTRL_##class << 8 | VIRTIO_NET_CTRL_##class##_##command)

static int command_run(struct net *net, const struct virtio_net_ctrl_hdr *hdr, const uint8_t *data,
                       size_t len)
{
	int err = -EOPNOTSUPP;

	switch (hdr->class << 8 | hdr->command) {
	case COMMAND(RX, PROMISC):
		if (has(net, VIRTIO_NET_F_CTRL_RX))
			err = rx_mode_set(net, &net->promisc, data, len);
		break;
	case COMMAND(RX, ALLMULTI):
		if (has(net, VIRTIO_NET_F_CTRL_RX))
			err = rx_mode_set(net, &net->allmulti, data, len);
		break;
	case COMMAND(MAC, TABLE_SET):
		if (has(net, VIRTIO_NET_F_CTRL_RX))
			err = mac_table_set(net, data, len);
		break;
	case COMMAND(MAC, ADDR_SET):
		if (has(net, VIRTIO_NET_F_CTRL_MAC_ADDR))
			err = mac_set(net, data, len);
		break;
	case COMMAND(MQ, VQ_PAIRS_SET):
		if (has(net, VIRTIO_NET_F_MQ))
			err = pairs_set(net, data, len);
		break;
	case COMMAND(GUEST_OFFLOADS, SET):
		if (has(net, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS))
			err = offloads_set(net, data, len);
		break;
	}
	return err;
}

/* What comes behind the largest table that there is room for is not looked at. */
struct command {
	struct virtio_net_ctrl_hdr hdr;
	uint8_t data[2 * sizeof(uint32_t) + NET_ADDRS_MAX * ETH_ALEN];
};

static bool command_serve(struct net *net, const struct virtq_chain *chain)
{
	struct command command;
	size_t len = chain->out < sizeof(command) ? chain->out : sizeof(command);
	uint8_t ack = VIRTIO_NET_OK;

	if (len < sizeof(command.hdr) || chain->in < sizeof(ack))
		return false;
	iov_read(chain->iov, &command, len);
	if (command_run(net, &command.hdr, command.data, len - sizeof(command.hdr)))
		ack = VIRTIO_NET_ERR;
	iov_write(chain->iov + chain->nout, &ack, sizeof(ack));
	return true;
}

static void ctrl_run(struct net *net, struct vdev_queue *queue)
{
	struct virtq_chain chain = { .iov = net->iov, .iov_max = NET_QUEUE_SIZE };
	int got;

	do {
		virtq_kicks_off(&queue->virtq);
		while ((got = virtq_pop(&queue->virtq, &chain)) > 0) {
			bool whole = command_serve(net, &chain);

			vdev_push(queue, chain.head, whole ? 1 : 0);
			if (!whole) {
				vdev_broken(&net->vdev, "a command without header or ack", -EINVAL);
				return;
			}
		}
	} while (!got && virtq_kicks_on(&queue->virtq));

	if (got < 0)
		vdev_broken(&net->vdev, "a bad command", got);
}

/* The device. */

/*
 * The control queue follows the pairs that the driver knows of (§5.1.2): without MQ it is where
 * else the second pair begins.
 */
static bool is_ctrl(const struct net *net, unsigned index)
{
	return has(net, VIRTIO_NET_F_CTRL_VQ) && index == 2 * pairs_known(net);
}

/* Kicked, or new and maybe of another size. */
static void rx_notified(struct net *net, struct net_rx *rx)
{
	if (net->long_queues != has_long_queues(net))
		offloads_follow(net);
	net_rx_run(rx);
}

static void net_notify(struct vdev *vdev, unsigned index)
{
	struct net *net = net_of(vdev);

	if (is_ctrl(net, index))
		ctrl_run(net, &vdev->queue[index]);
	else if (index < 2 * net->tap->queues && index % 2)
		tx_run(&net->tx[index / 2]);
	else if (index < 2 * net->tap->queues)
		rx_notified(net, &net->rx[index / 2]);
}

static void net_stop(struct vdev *vdev, unsigned index)
{
	struct net *net = net_of(vdev);

	if (index < 2 * net->tap->queues && index % 2)
		tx_stop(&net->tx[index / 2]);
	else if (index < 2 * net->tap->queues)
		net_rx_stop(&net->rx[index / 2]);
}

/* Where a new driver begins; where that fails the tap is gone, and the first read will tell. */
static void net_start(struct vdev *vdev)
{
	struct net *net = net_of(vdev);

	net->mergeable = has(net, VIRTIO_NET_F_MRG_RXBUF);
	net->wanted = vdev->features;
	net->promisc = true;
	net->allmulti = false;
	net->naddrs = 0;
	filter_set(net);
	offloads_follow(net);
	tap_set_queues(net->tap, 1);
}

static const struct vdev_ops ops = { .start = net_start, .notify = net_notify, .stop = net_stop };

static uint64_t features(const struct tap *tap)
{
	uint64_t set = BIT(VIRTIO_NET_F_MAC) | BIT(VIRTIO_NET_F_STATUS) |
	               BIT(VIRTIO_NET_F_MRG_RXBUF) | BIT(VIRTIO_NET_F_CTRL_VQ) |
	               BIT(VIRTIO_NET_F_CTRL_RX) | BIT(VIRTIO_NET_F_CTRL_MAC_ADDR) |
	               BIT(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) | BIT(VIRTIO_NET_F_SPEED_DUPLEX);

	for (size_t i = 0; i < OFFLOADS; i++)
		if (tap->offloads & offloads[i].tun)
			set |= BIT(offloads[i].guest) | BIT(offloads[i].host);
	if (tap->queues > 1)
		set |= BIT(VIRTIO_NET_F_MQ);
	/* A driver that was told of one may not exceed it later. */
	if (tap->mtu_given || tap_mtu(tap) != ETHERNET_MTU)
		set |= BIT(VIRTIO_NET_F_MTU);
	return set;
}

static int queues_init(struct net *net)
{
	unsigned n = net->tap->queues;

	net->rx = calloc(n, sizeof(*net->rx));
	net->tx = calloc(n, sizeof(*net->tx));
	if (!net->rx || !net->tx)
		return -ENOMEM;
	for (unsigned i = 0; i < n; i++) {
		struct net_tx *tx = &net->tx[i];

		net_rx_init(&net->rx[i], net, i);
		tx->net = net;
		tx->pair = i;
		for (unsigned k = 0; k < NET_WRITES; k++) {
			tx->write[k].tx = tx;
			tx->write[k].op.done = tx_done;
		}
	}
	return 0;
}

int net_init(struct net *net, unsigned index, struct tap *tap, const struct vdev_world *world)
{
	struct virtio_net_config config = {
		.status = VIRTIO_NET_S_LINK_UP,
		.max_virtqueue_pairs = (uint16_t)tap->queues,
		.mtu = (uint16_t)tap_mtu(tap),
		.speed = SPEED,
		.duplex = DUPLEX_FULL,
	};
	int err;

	snprintf(net->name, sizeof(net->name), "net%u", index);
	net->kind = (struct vdev_kind){
		.name = net->name,
		.device_id = DEVICE_ID,
		.class_code = CLASS_CODE,
		.features = features(tap),
		.nqueues = 2 * tap->queues + 1,
		.queue_size = NET_QUEUE_SIZE,
		.config_len = sizeof(config),
		.ops = &ops,
	};
	net->tap = tap;
	net->link = true;
	net->nowait = true;
	memcpy(config.mac, tap->mac, ETH_ALEN);
	memcpy(net->vdev.config, &config, sizeof(config));

	err = queues_init(net);
	err = err ? err : vdev_init(&net->vdev, &net->kind, world);
	if (err)
		goto fail;
	for (unsigned i = 0; i < tap->queues; i++) {
		net->rx[i].queue = &net->vdev.queue[2 * i];
		net->tx[i].queue = &net->vdev.queue[2 * i + 1];
	}
	return 0;
fail:
	free(net->rx);
	free(net->tx);
	net->rx = NULL;
	net->tx = NULL;
	return err;
}

/* A pause may last longer than its queue holds chains. */
void net_fini(struct net *net)
{
	struct ring *ring = net->rx ? net->vdev.world->ring : NULL;

	vdev_fini(&net->vdev);
	for (unsigned i = 0; net->rx && i < net->tap->queues; i++)
		while (net->rx[i].waiting)
			ring_step(ring);
	free(net->rx);
	free(net->tx);
}
