/*
 * The network card. Knows chains, headers and commands; not how rings work, nor where packets go.
 */
#include <errno.h>
#include <limits.h>
#include <poll.h>
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

/* What the driver takes, of the guest's @features, in the tap's words. */
static unsigned tun_offloads(uint64_t features)
{
	unsigned flags = 0;

	for (size_t i = 0; i < OFFLOADS; i++)
		if (features >> offloads[i].guest & 1)
			flags |= offloads[i].tun;
	if (!(flags & TUN_F_USO4) || !(flags & TUN_F_USO6))
		flags &= ~(TUN_F_USO4 | TUN_F_USO6);
	return flags;
}

/* The tap is gone: the cable is out. */
static void link_down(struct net *net, int err)
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

/* Receiving. */

static void rx_run(struct net_rx *rx);

/* Whether @read has @room bytes, or all that the driver can give, or the kernel take. */
static bool read_has(const struct net_read *read, uint64_t room)
{
	if (!read->rx->net->mergeable)
		return read->nchains;
	return read->bytes >= room || read->nsegs >= IOV_MAX ||
	       read->nchains == read->rx->queue->virtq.size;
}

/* Chain @i of those that @read has. */
static struct net_chain *read_chain(const struct net_read *read, unsigned i)
{
	return &read->chain[(read->first + i) % NET_QUEUE_SIZE];
}

/* Take the first @n chains, of @bytes in all, out of @read. */
static void read_drop(struct net_read *read, unsigned n, size_t bytes)
{
	struct iovec *iov = read->iov;

	iov_skip(&iov, &read->nsegs, bytes);
	if (iov != read->iov)
		memmove(read->iov, iov, read->nsegs * sizeof(*iov));
	read->first += n;
	read->nchains -= n;
	read->bytes -= bytes;
}

/* What lies where the last piece ends is part of it: Linux cuts buffers out of 32 KiB each. */
static void read_append(struct net_read *read, struct iovec piece)
{
	struct iovec *last = &read->iov[read->nsegs - 1];

	if (read->nsegs && (uint8_t *)last->iov_base + last->iov_len == piece.iov_base)
		last->iov_len += piece.iov_len;
	else
		read->iov[read->nsegs++] = piece;
}

/* Append the next chain of the queue. Returns as virtq_pop() does. */
static int read_pop(struct net_read *read)
{
	struct virtq_chain chain = {
		.iov = read->iov + read->nsegs,
		.iov_max = NET_QUEUE_SIZE,
	};
	int got = virtq_pop(&read->rx->queue->virtq, &chain);

	if (got <= 0)
		return got;
	if (chain.nout || chain.in < sizeof(struct virtio_net_hdr)) {
		vdev_push(read->rx->queue, chain.head, 0);
		return -EINVAL;
	}
	for (unsigned i = 0; i < chain.nin; i++)
		read_append(read, chain.iov[i]);
	*read_chain(read, read->nchains++) = (struct net_chain){ chain.head, chain.in };
	read->bytes += chain.in;
	return 1;
}

/*
 * Append the first chain of the last read that has any: those left over from packets would else lie
 * in many reads, none of which is full, and the driver wait for them. Returns 1, or 0: there is
 * none.
 */
static int read_take(struct net_read *read)
{
	struct net_read *from = &read->rx->read[NET_READS - 1];

	while (from > read && !from->nchains)
		from--;
	if (from == read)
		return 0;

	struct net_chain chain = *read_chain(from, 0);

	for (size_t i = 0, left = chain.in; left; i++) {
		struct iovec piece = from->iov[i];

		if (piece.iov_len > left)
			piece.iov_len = left;
		left -= piece.iov_len;
		read_append(read, piece);
	}
	read_drop(from, 1, chain.in);
	*read_chain(read, read->nchains++) = chain;
	read->bytes += chain.in;
	return 1;
}

/*
 * Give @read room for every packet, and then some at once: chains that follow each other make few
 * pieces. Returns 1, 0 when there is not enough, or virtq_pop()'s error.
 */
static int read_fill(struct net_read *read)
{
	uint64_t room = read->rx->net->packet_max;
	int got = 1;

	if (read_has(read, room))
		return 1;
	while (got > 0 && !read_has(read, room + room / 4)) {
		got = read_pop(read);
		if (!got)
			got = read_take(read);
	}
	return got < 0 ? got : read_has(read, room);
}

/* @len bytes of @read are a packet: give the chains back that it fills. */
static void read_deliver(struct net_read *read, uint32_t len)
{
	struct virtio_net_hdr hdr;
	unsigned nchains = 0;
	size_t bytes = 0;

	while (len) {
		const struct net_chain *chain = read_chain(read, nchains++);
		uint32_t part = len < chain->in ? len : chain->in;

		vdev_push(read->rx->queue, chain->head, part);
		bytes += chain->in;
		len -= part;
	}

	iov_read(read->iov, &hdr, sizeof(hdr));
	hdr.num_buffers = (uint16_t)nchains; /* §5.1.6.4.1; the tap leaves it out */
	iov_write(read->iov, &hdr, sizeof(hdr));
	read_drop(read, nchains, bytes);
}

/* Give all chains back unused: the queue stops. */
static void rx_give_back(struct net_rx *rx)
{
	for (struct net_read *read = rx->read; read < rx->read + NET_READS; read++) {
		for (unsigned i = 0; i < read->nchains; i++)
			vdev_push(rx->queue, read_chain(read, i)->head, 0);
		read->nchains = read->nsegs = read->bytes = 0;
	}
}

static void rx_post(struct net_rx *rx, unsigned n)
{
	struct ring *ring = rx->net->vdev.world->ring;
	int fd = rx->net->tap->fd[rx->pair];

	rx->posted = rx->out = n;
	rx->found = 0;
	rx->posted_at = ring->enters;
	for (unsigned i = 0; i < n; i++) {
		struct net_read *read = &rx->read[i];
		unsigned nsegs = read->nsegs < IOV_MAX ? read->nsegs : IOV_MAX;

		read->started = true;
		if (rx->net->nowait && i + 1 < n)
			ring_readv_nowait(ring, &read->op, fd, read->iov, nsegs, (uint64_t)-1);
		else
			ring_readv(ring, &read->op, fd, read->iov, nsegs, (uint64_t)-1);
	}
}

/* How many reads for the next pass. */
static unsigned rx_adapt(const struct net_rx *rx)
{
	unsigned max = rx->net->nowait ? NET_READS : NET_READS_WAITING;
	unsigned less = rx->posted - (rx->posted + 3) / 4;
	unsigned want = rx->found + 1 > less ? rx->found + 1 : less;

	if (rx->found == rx->posted)
		want = 2 * rx->posted;
	return want < max ? want : max;
}

/* A pass is over; the tap's last answer was @res. */
static void rx_passed(struct net_rx *rx, int res)
{
	struct net *net = rx->net;

	if (!vdev_runs(rx->queue)) {
		rx_give_back(rx);
	} else if (res == -EAGAIN) {
		/* Before Linux 5.15 no read of a file with O_NONBLOCK waits. */
		rx->polling = true;
		rx->out = 1;
		ring_poll(net->vdev.world->ring, &rx->poll, net->tap->fd[rx->pair], POLLIN);
	} else {
		rx_run(rx);
	}
}

static void rx_polled(struct io_op *op, int res)
{
	struct net_rx *rx = container_of(op, struct net_rx, poll);

	(void)res;
	rx->polling = false;
	rx->out = 0;
	rx_passed(rx, 0);
}

/* A read that failed has cost a packet at most: its chains are as they were. */
static void rx_failed(struct net_rx *rx, int res)
{
	switch (res) {
	case -EAGAIN:
	case -EINTR:
	case -ECANCELED:
		break;
	case -EOPNOTSUPP: /* a tap and RWF_NOWAIT, before Linux 6.4 */
		rx->net->nowait = false;
		break;
	case -EFAULT:
	case -EINVAL:
	case -ENOBUFS:
	case -ENOMEM:
		rx->count.lost++;
		break;
	default:
		link_down(rx->net, res);
	}
}

static void rx_done(struct io_op *op, int res)
{
	struct net_read *read = container_of(op, struct net_read, op);
	struct net_rx *rx = read->rx;

	read->started = false;
	if (res > 0) {
		rx->found += rx->net->vdev.world->ring->enters - rx->posted_at == 1;
		rx->count.packets++;
		rx->count.bytes += (unsigned)res - sizeof(struct virtio_net_hdr);
		read_deliver(read, (uint32_t)res);
	} else {
		rx_failed(rx, res);
	}
	if (--rx->out)
		return;
	rx->want = rx_adapt(rx);
	rx_passed(rx, res);
}

/* The next pass, unless one is under way. */
static void rx_run(struct net_rx *rx)
{
	struct virtq *q = &rx->queue->virtq;
	unsigned n;
	int got;

	if (rx->out || !vdev_runs(rx->queue) || !rx->net->link)
		return;
	do {
		virtq_kicks_off(q);
		n = 0;
		while ((got = n < rx->want ? read_fill(&rx->read[n]) : 0) > 0)
			n++;
	} while (!got && !n && virtq_kicks_on(q));

	if (got < 0)
		vdev_broken(&rx->net->vdev, "a bad receive buffer", got);
	else if (n)
		rx_post(rx, n);
}

static void rx_stop(struct net_rx *rx)
{
	struct ring *ring = rx->net->vdev.world->ring;

	if (!rx->out)
		rx_give_back(rx);
	if (rx->polling)
		ring_cancel(ring, &rx->poll);
	for (unsigned i = 0; i < NET_READS; i++)
		if (rx->read[i].started)
			ring_cancel(ring, &rx->read[i].op);
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
	return tap_set_offloads(net->tap, tun_offloads(wanted));
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
	return has(net, VIRTIO_NET_F_CTRL_VQ) &&
	       index == 2 * (has(net, VIRTIO_NET_F_MQ) ? net->tap->queues : 1);
}

static void net_notify(struct vdev *vdev, unsigned index)
{
	struct net *net = net_of(vdev);

	if (is_ctrl(net, index))
		ctrl_run(net, &vdev->queue[index]);
	else if (index < 2 * net->tap->queues && index % 2)
		tx_run(&net->tx[index / 2]);
	else if (index < 2 * net->tap->queues)
		rx_run(&net->rx[index / 2]);
}

static void net_stop(struct vdev *vdev, unsigned index)
{
	struct net *net = net_of(vdev);

	if (index < 2 * net->tap->queues && index % 2)
		tx_stop(&net->tx[index / 2]);
	else if (index < 2 * net->tap->queues)
		rx_stop(&net->rx[index / 2]);
}

/* Where a new driver begins; where that fails the tap is gone, and the first read will tell. */
static void net_start(struct vdev *vdev)
{
	static const uint64_t large = BIT(VIRTIO_NET_F_GUEST_TSO4) | BIT(VIRTIO_NET_F_GUEST_TSO6) |
	                              BIT(VIRTIO_NET_F_GUEST_UFO) | BIT(VIRTIO_NET_F_GUEST_USO4) |
	                              BIT(VIRTIO_NET_F_GUEST_USO6);
	struct net *net = net_of(vdev);

	net->mergeable = has(net, VIRTIO_NET_F_MRG_RXBUF);
	net->packet_max = sizeof(struct virtio_net_hdr) + FRAME_HEADER;
	net->packet_max += vdev->features & large ? GSO_MAX : tap_mtu(net->tap);
	net->promisc = true;
	net->allmulti = false;
	net->naddrs = 0;
	filter_set(net);
	tap_set_offloads(net->tap, tun_offloads(vdev->features));
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
	if (tap_mtu(tap) != ETHERNET_MTU)
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
		struct net_rx *rx = &net->rx[i];
		struct net_tx *tx = &net->tx[i];

		rx->net = tx->net = net;
		rx->pair = tx->pair = i;
		rx->want = 1;
		rx->poll.done = rx_polled;
		for (unsigned k = 0; k < NET_READS; k++) {
			rx->read[k].op.done = rx_done;
			rx->read[k].rx = rx;
			rx->read[k].chain = rx->chain[k];
			rx->read[k].iov = rx->iov[k];
		}
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

void net_fini(struct net *net)
{
	vdev_fini(&net->vdev);
	free(net->rx);
	free(net->tx);
}
