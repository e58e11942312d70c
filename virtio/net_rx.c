/*
 * Receiving: passes of reads from the tap into the chains that the driver posts. Knows chains and
 * the header; nothing of features, nor when a queue runs.
 */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <string.h>

#include "io/iov.h"
#include "virtio/net.h"

/* Moderation. */
#define PAUSE_NSEC 100000
#define GATHERED   8 /* packets, that make it worth while */

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
	rx->emptied = false;
	rx->posted_at = ring->enters;
	for (unsigned i = 0; i < n; i++) {
		struct net_read *read = &rx->read[i];
		unsigned nsegs = read->nsegs < IOV_MAX ? read->nsegs : IOV_MAX;

		read->started = true;
		if (rx->moderated || (rx->net->nowait && i + 1 < n))
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

/*
 * A pass is over. Two packets that were there at once are reason enough to try moderation.
 * Returns whether to pause before the next pass.
 */
static bool rx_moderate(struct net_rx *rx)
{
	if (!rx->moderated) {
		rx->moderated = rx->net->nowait && rx->found > 1 && patience_over(&rx->patience);
		return rx->moderated;
	}
	rx->gathered += rx->found;
	if (!rx->emptied)
		return false;
	rx->moderated = rx->gathered >= GATHERED;
	patience_learn(&rx->patience, rx->moderated);
	return rx->moderated;
}

/* The next pass, or what has to come before it; the tap's last answer was @res. */
static void rx_passed(struct net_rx *rx, int res)
{
	struct ring *ring = rx->net->vdev.world->ring;

	if (!vdev_runs(rx->queue)) {
		rx_give_back(rx);
	} else if (res == -EAGAIN && !rx->moderated) {
		/* Before Linux 5.15 no read of a file with O_NONBLOCK waits. */
		rx->waiting = true;
		ring_poll(ring, &rx->wait.op, rx->net->tap->fd[rx->pair], POLLIN);
	} else if (rx_moderate(rx)) {
		rx->waiting = true;
		rx->gathered = 0;
		ring_pause(ring, &rx->wait, PAUSE_NSEC);
	} else {
		net_rx_run(rx);
	}
}

static void rx_waited(struct io_op *op, int res)
{
	struct net_rx *rx = container_of(op, struct net_rx, wait.op);

	(void)res;
	rx->waiting = false;
	if (vdev_runs(rx->queue))
		net_rx_run(rx);
	else
		rx_give_back(rx);
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
		net_link_down(rx->net, res);
	}
}

static void rx_done(struct io_op *op, int res)
{
	struct net_read *read = container_of(op, struct net_read, op);
	struct net_rx *rx = read->rx;
	const struct ring *ring = rx->net->vdev.world->ring;

	read->started = false;
	/* Larger than what could come when it was posted: the tap gives what fits. */
	if (rx->net->mergeable && res > 0 && (uint64_t)res >= read->bytes)
		res = -ENOBUFS;
	rx->emptied |= res < 0;
	if (res > 0) {
		rx->found += rx->moderated || ring->enters - rx->posted_at == 1;
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

void net_rx_run(struct net_rx *rx)
{
	struct virtq *q = &rx->queue->virtq;
	unsigned n;
	int got;

	if (rx->out || rx->waiting || !vdev_runs(rx->queue) || !rx->net->link)
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

void net_rx_stop(struct net_rx *rx)
{
	struct ring *ring = rx->net->vdev.world->ring;

	if (rx->waiting)
		ring_cancel(ring, &rx->wait.op);
	else if (!rx->out)
		rx_give_back(rx);
	for (unsigned i = 0; i < NET_READS; i++)
		if (rx->read[i].started)
			ring_cancel(ring, &rx->read[i].op);
}

void net_rx_init(struct net_rx *rx, struct net *net, unsigned pair)
{
	rx->net = net;
	rx->pair = pair;
	rx->want = 1;
	rx->wait.op.done = rx_waited;
	for (unsigned k = 0; k < NET_READS; k++) {
		rx->read[k].op.done = rx_done;
		rx->read[k].rx = rx;
		rx->read[k].chain = rx->chain[k];
		rx->read[k].iov = rx->iov[k];
	}
}
