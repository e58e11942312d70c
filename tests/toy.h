/*
 * A toy of a virtio device for tests, with its driver: it copies what a request gives it to read to
 * where the request lets it write.
 */
#ifndef TESTS_TOY_H
#define TESTS_TOY_H

#include <stdlib.h>

#include "tests/driver.h"

#define MEMORY     0x800000
#define QUEUES     0x100000 /* guest memory for queues */
#define DATA       0x400000 /* and for what is sent */
#define SIZE       64
#define NQUEUES    2
#define MSI        0x40 /* data of vector 0; 2 is the configuration's */
#define FEATURE    5    /* that the toy offers */
#define STOP_NSEC  4000000
#define CONFIG_LEN 12
#define WRITABLE   9 /* the byte of it that the driver may write */

#define BASIC (1ull << VIRTIO_F_VERSION_1)
#define ALL                                                                                        \
	(BASIC | 1ull << VIRTIO_F_RING_RESET | 1ull << VIRTIO_F_INDIRECT_DESC |                    \
	 1ull << VIRTIO_F_EVENT_IDX | 1ull << FEATURE)

struct toy_request {
	struct io_timer timer;
	struct vdev_queue *queue;
	uint16_t head;
	bool held;
};

struct toy {
	struct vdev vdev;
	bool hold; /* requests are kept until they are stopped */
	bool slow; /* and then end a while later */
	unsigned starts, stops[NQUEUES], notified[NQUEUES];
	uint64_t features; /* at start() */
	struct toy_request request[NQUEUES][SIZE];
	struct iovec iov[SIZE];
};

static inline struct toy *toy_of(struct vdev *vdev)
{
	return container_of(vdev, struct toy, vdev);
}

static inline void toy_start(struct vdev *vdev)
{
	toy_of(vdev)->starts++;
	toy_of(vdev)->features = vdev->features;
}

static inline uint32_t echo(const struct virtq_chain *chain)
{
	if (chain->nout == 0 || chain->nin == 0)
		return 0;

	const struct iovec *from = &chain->iov[0], *to = &chain->iov[chain->nout];
	size_t len = from->iov_len < to->iov_len ? from->iov_len : to->iov_len;

	memmove(to->iov_base, from->iov_base, len);
	return (uint32_t)len;
}

static inline void toy_notify(struct vdev *vdev, unsigned i)
{
	struct toy *toy = toy_of(vdev);
	struct vdev_queue *queue = &vdev->queue[i];
	struct virtq_chain chain = { .iov = toy->iov, .iov_max = SIZE };
	int got;

	toy->notified[i]++;
	do {
		virtq_kicks_off(&queue->virtq);
		while ((got = virtq_pop(&queue->virtq, &chain)) > 0) {
			if (toy->hold)
				toy->request[i][chain.head] = (struct toy_request){
					.queue = queue,
					.head = chain.head,
					.held = true,
				};
			else
				vdev_push(queue, chain.head, echo(&chain));
		}
	} while (!got && virtq_kicks_on(&queue->virtq));
	if (got < 0)
		vdev_broken(vdev, "its queue", got);
}

static inline void toy_ended(struct io_op *op, int res)
{
	struct toy_request *request = container_of(op, struct toy_request, timer.op);

	(void)res;
	vdev_push(request->queue, request->head, 0);
}

static inline void toy_stop(struct vdev *vdev, unsigned i)
{
	struct toy *toy = toy_of(vdev);

	toy->stops[i]++;
	for (unsigned head = 0; head < SIZE; head++) {
		struct toy_request *request = &toy->request[i][head];

		if (!request->held)
			continue;
		request->held = false;
		request->timer.op.done = toy_ended;
		if (toy->slow)
			ring_timeout(vdev->world->ring, &request->timer, STOP_NSEC);
		else
			vdev_push(request->queue, request->head, 0);
	}
}

static const struct vdev_ops toy_ops = {
	.start = toy_start,
	.notify = toy_notify,
	.stop = toy_stop,
};

static const struct vdev_kind toy_kind = {
	.name = "toy",
	.device_id = 42,
	.class_code = 0x078000,
	.features = 1ull << FEATURE,
	.nqueues = NQUEUES,
	.queue_size = SIZE,
	.config_len = CONFIG_LEN,
	.config_writable = 1ull << WRITABLE,
	.ops = &toy_ops,
};

struct fixture {
	struct world world;
	struct toy toy;
	struct driver d;
};

static inline int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	world_init(&f->world, MEMORY);
	for (unsigned i = 0; i < CONFIG_LEN; i++)
		f->toy.vdev.config[i] = (uint8_t)(0xc0 + i);
	assert_int_equal(vdev_init(&f->toy.vdev, &toy_kind, &f->world.vdev), 0);
	driver_probe(&f->d, &f->world, 1, QUEUES);
	*state = f;
	return 0;
}

static inline int teardown(void **state)
{
	struct fixture *f = *state;

	vdev_fini(&f->toy.vdev);
	vdev_fini(&f->toy.vdev);
	world_fini(&f->world);
	free(f);
	return 0;
}

/* From reset to DRIVER_OK, with MSI-X or without. */
static inline void bring_up(struct fixture *f, uint64_t features, bool msix)
{
	assert_true(driver_start(&f->d, features, 0, msix ? MSI : 0));
}

/* One request through queue @i. */
static inline void round_trip(struct fixture *f, unsigned i, uint32_t token)
{
	uint32_t *data = driver_host(&f->d, DATA, 8);
	struct virtq_used_elem elem;
	uint16_t head;

	data[0] = token;
	data[1] = 0;
	head = driver_add(&f->d, i, DATA, 4, DATA + 4, 4);
	driver_kick(&f->d, i);
	elem = driver_wait(&f->d, i);
	assert_int_equal(elem.id, head);
	assert_int_equal(elem.len, 4);
	assert_int_equal(data[1], token);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
