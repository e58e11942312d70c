/*
 * virtio-rng. A request is done as it is popped: getrandom(2) fills 4 KiB faster than the ring
 * could be asked to. What the portion does not cover waits in the queue, where the driver left it.
 */
#include <errno.h>
#include <sys/random.h>

#include "virtio/rng.h"

/* Fill up to @max bytes of the writable part. Returns how many. */
static unsigned fill(const struct virtq_chain *chain, unsigned max)
{
	unsigned filled = 0;

	for (unsigned i = 0; i < chain->nin && filled < max; i++) {
		const struct iovec *iov = &chain->iov[chain->nout + i];
		size_t want = iov->iov_len < max - filled ? iov->iov_len : max - filled;
		ssize_t got = getrandom(iov->iov_base, want, 0);

		if (got < 0)
			break;
		filled += (unsigned)got;
		if ((size_t)got < want)
			break;
	}
	return filled;
}

static void rng_notify(struct vdev *vdev, unsigned queue);

static void refilled(struct io_op *op, int res)
{
	struct rng *rng = container_of(op, struct rng, refill.op);

	rng->refilling = false;
	if (res != -ETIME)
		return;
	rng->left = RNG_PORTION;
	if (vdev_runs(&rng->vdev.queue[0]))
		rng_notify(&rng->vdev, 0);
}

/* A request that asks for nothing costs a byte: there is an end to them, too. */
static int serve(struct rng *rng, struct vdev_queue *queue)
{
	struct virtq_chain chain = { .iov = rng->iov, .iov_max = RNG_QUEUE_SIZE };
	int got = 0;

	while (rng->left && (got = virtq_pop(&queue->virtq, &chain)) > 0) {
		unsigned filled = fill(&chain, rng->left);

		rng->left -= filled ? filled : 1;
		vdev_push(queue, chain.head, filled);
	}
	return got;
}

static void rng_notify(struct vdev *vdev, unsigned i)
{
	struct rng *rng = container_of(vdev, struct rng, vdev);
	struct vdev_queue *queue = &vdev->queue[i];
	int got;

	do {
		virtq_kicks_off(&queue->virtq);
		got = serve(rng, queue);
	} while (!got && rng->left && virtq_kicks_on(&queue->virtq));

	if (got < 0) {
		vdev_broken(vdev, "its queue", got);
	} else if (!rng->refilling && rng->left < RNG_PORTION) {
		rng->refilling = true;
		ring_timeout(vdev->world->ring, &rng->refill, RNG_PORTION_NSEC);
	}
}

int rng_init(struct rng *rng, const struct vdev_world *world)
{
	static const struct vdev_ops ops = { .notify = rng_notify };
	static const struct vdev_kind kind = {
		.name = "rng",
		.device_id = 4,
		.class_code = 0x00ff00, /* unclassified, other */
		.nqueues = 1,
		.queue_size = RNG_QUEUE_SIZE,
		.ops = &ops,
	};

	rng->left = RNG_PORTION;
	rng->refill.op.done = refilled;
	return vdev_init(&rng->vdev, &kind, world);
}

void rng_fini(struct rng *rng)
{
	const struct vdev_world *world = rng->vdev.world;

	vdev_fini(&rng->vdev);
	while (rng->refilling) {
		ring_cancel(world->ring, &rng->refill.op);
		ring_step(world->ring);
	}
}
