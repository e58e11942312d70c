/*
 * The virtio-pci transport and a device's life, driven through the bus as Linux drives it. The
 * device is a toy: it copies what a request gives it to read to where the request lets it write.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

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

struct toy;

struct toy_request {
	struct io_timer timer;
	struct toy *toy;
	struct vdev_queue *queue;
	uint16_t head;
	bool held;
};

struct toy {
	struct vdev vdev;
	struct vdev_kind kind;
	bool hold; /* requests are kept until they are stopped */
	bool slow; /* and then end a while later */
	unsigned starts, stops[NQUEUES], notified[NQUEUES];
	uint64_t features; /* at start() */
	struct toy_request request[NQUEUES][SIZE];
	struct iovec iov[SIZE];
};

static struct toy *toy_of(struct vdev *vdev)
{
	return container_of(vdev, struct toy, vdev);
}

static void toy_start(struct vdev *vdev)
{
	toy_of(vdev)->starts++;
	toy_of(vdev)->features = vdev->features;
}

static uint32_t echo(const struct virtq_chain *chain)
{
	if (chain->nout == 0 || chain->nin == 0)
		return 0;

	const struct iovec *from = &chain->iov[0], *to = &chain->iov[chain->nout];
	size_t len = from->iov_len < to->iov_len ? from->iov_len : to->iov_len;

	memmove(to->iov_base, from->iov_base, len);
	return (uint32_t)len;
}

static void toy_notify(struct vdev *vdev, unsigned i)
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
					.toy = toy,
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

static void toy_ended(struct io_op *op, int res)
{
	struct toy_request *request = container_of(op, struct toy_request, timer.op);

	(void)res;
	vdev_push(request->queue, request->head, 0);
}

static void toy_stop(struct vdev *vdev, unsigned i)
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

static int setup(void **state)
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

static int teardown(void **state)
{
	struct fixture *f = *state;

	vdev_fini(&f->toy.vdev);
	vdev_fini(&f->toy.vdev);
	world_fini(&f->world);
	free(f);
	return 0;
}

/* From reset to DRIVER_OK, with MSI-X or without. */
static void bring_up(struct fixture *f, uint64_t features, bool msix)
{
	assert_true(driver_negotiate(&f->d, features));
	if (msix)
		driver_msix(&f->d, NQUEUES + 1, MSI);
	f->d.free = QUEUES;
	for (unsigned i = 0; i < NQUEUES; i++)
		driver_queue(&f->d, i, 0, msix ? (uint16_t)i : NO_VECTOR);
	status_add(&f->d, S_DRIVER_OK);
}

static void wait_used(struct fixture *f, unsigned i, struct virtq_used_elem *elem)
{
	while (!driver_used(&f->d, i, elem))
		ring_step(&f->world.ring);
}

/* One request through queue @i. */
static void round_trip(struct fixture *f, unsigned i, uint32_t token)
{
	uint32_t *data = driver_host(&f->d, DATA, 8);
	struct virtq_used_elem elem;
	uint16_t head;

	data[0] = token;
	data[1] = 0;
	head = driver_add(&f->d, i, DATA, 4, DATA + 4, 4);
	driver_kick(&f->d, i);
	wait_used(f, i, &elem);
	assert_int_equal(elem.id, head);
	assert_int_equal(elem.len, 4);
	assert_int_equal(data[1], token);
}

/* Whether the driver, with one more request than now, would kick. */
static bool kick_wanted(struct fixture *f, unsigned i)
{
	struct driver_queue *q = &f->d.queue[i];
	const struct virtq_used *used = driver_host(&f->d, q->used, 6 + 8 * q->size);
	uint16_t event;

	memcpy(&event, &used->ring[q->size], sizeof(event));
	if (f->d.features >> VIRTIO_F_EVENT_IDX & 1)
		return event == q->avail_idx;
	return !(used->flags & VIRTQ_USED_F_NO_NOTIFY);
}

/* While the ring polls, an empty queue is looked at, and not kicked; before it sleeps, it is. */
static void polled(struct fixture *f, uint64_t features)
{
	struct ring *ring = &f->world.ring;
	struct vdev *vdev = &f->toy.vdev;
	struct virtq_used_elem elem;

	bring_up(f, features, true);
	round_trip(f, 0, 1);
	assert_true(kick_wanted(f, 0));
	assert_int_equal(vdev->polled, 0);

	ring_set_pace(ring, 1000000000, false);
	ring->pace.polling = true;
	round_trip(f, 0, 2);
	assert_int_equal(vdev->polled, 3); /* all queues: what comes next may be for another */
	assert_false(kick_wanted(f, 0));

	uint64_t kicks = vdev->queue[0].kicks;

	for (unsigned n = 0; n < SIZE; n++) {
		driver_add(&f->d, 0, DATA, 4, DATA + 4, 4);
		wait_used(f, 0, &elem);
		assert_true(ring->pace.polling);
	}
	assert_int_equal(vdev->queue[0].kicks, kicks);

	ring_set_pace(ring, 1000, false);
	ring->pace.polling = true;
	world_settle(&f->world);
	assert_int_equal(vdev->polled, 0);
	assert_true(kick_wanted(f, 0));
	round_trip(f, 1, 3);
	ring_set_pace(ring, 0, false);
}

static void polled_queues_need_no_kick(void **state)
{
	polled(*state, ALL);
}

static void polled_queues_without_event_idx(void **state)
{
	polled(*state, ALL & ~(1ull << VIRTIO_F_EVENT_IDX));
}

/* What is polled may be taken away meanwhile. */
static void a_polled_device_is_reset(void **state)
{
	struct fixture *f = *state;
	struct ring *ring = &f->world.ring;

	bring_up(f, ALL, true);
	ring_set_pace(ring, 1000000, false);
	ring->pace.polling = true;
	round_trip(f, 0, 1);
	assert_int_not_equal(f->toy.vdev.polled, 0);
	driver_reset(&f->d);
	world_settle(&f->world);
	bring_up(f, ALL, true);
	round_trip(f, 1, 2);
	ring->pace.polling = true;
	round_trip(f, 0, 1); /* and in the end with all of it: teardown */
}

/* Standard error goes to a file from here until it is read back. */

static int captured[2];

static void capture(void)
{
	captured[0] = dup(2);
	captured[1] = memfd_create("stderr", 0);
	dup2(captured[1], 2);
}

static void capture_end(char text[512])
{
	ssize_t n = pread(captured[1], text, 511, 0);

	text[n > 0 ? n : 0] = 0;
	dup2(captured[0], 2);
	close(captured[0]);
	close(captured[1]);
}

/* What a driver sees before it does anything. */

static void is_found(void **state)
{
	struct fixture *f = *state;
	struct driver *d = &f->d;

	assert_int_equal(config_in(d, PCI_VENDOR_ID, 4), (0x1040 + 42) << 16 | 0x1af4);
	assert_int_equal(config_in(d, PCI_REVISION_ID, 4), 0x078000 << 8 | 1);
	assert_int_equal(config_in(d, PCI_SUBSYSTEM_VENDOR_ID, 2), 0x1af4);
	assert_true(config_in(d, PCI_SUBSYSTEM_ID, 2) >= 0x40);
	assert_int_equal(config_in(d, PCI_INTERRUPT_PIN, 1), 1);
	assert_true(d->common && d->notify && d->isr && d->config && d->window && d->msix);
	assert_int_equal(reg_in(d, R_NUM_QUEUES, 2), NQUEUES);
	assert_int_equal(status_in(d), 0);
	assert_int_equal(config_in(d, d->msix + 2, 2), NQUEUES); /* and one for configuration */
}

static void bar_is_where_it_is_put(void **state)
{
	struct fixture *f = *state;
	struct driver *d = &f->d;

	config_out(d, PCI_BAR0, 4, 0xffffffff);
	assert_int_equal(config_in(d, PCI_BAR0, 4), 0xffffe000);
	config_out(d, PCI_BAR0, 4, 0xc0080000);
	d->common += 0xc0080000 - d->bar;
	assert_int_equal(reg_in(d, R_NUM_QUEUES, 2), NQUEUES);
	config_out(d, PCI_COMMAND, 2, 0);
	assert_int_equal(reg_in(d, R_NUM_QUEUES, 2), 0xffff);
}

static void features_are_negotiated(void **state)
{
	struct fixture *f = *state;
	struct driver *d = &f->d;

	assert_int_equal(driver_offered(d), ALL);
	reg_out(d, R_DEVICE_FEATURE_SELECT, 4, 2);
	assert_int_equal(reg_in(d, R_DEVICE_FEATURE, 4), 0);
	reg_out(d, R_DEVICE_FEATURE_SELECT, 4, 0xffffffff);
	assert_int_equal(reg_in(d, R_DEVICE_FEATURE, 4), 0);

	assert_false(driver_negotiate(d, ALL & ~BASIC));
	reg_out(d, R_STATUS, 1, 0);
	assert_false(driver_negotiate(d, ALL | 1ull << 33)); /* ACCESS_PLATFORM */
	reg_out(d, R_STATUS, 1, 0);
	assert_false(driver_negotiate(d, ALL | 1));
	reg_out(d, R_DRIVER_FEATURE_SELECT, 4, 0); /* it may think again */
	reg_out(d, R_DRIVER_FEATURE, 4, 1u << FEATURE);
	status_add(d, S_FEATURES_OK);
	assert_true(status_in(d) & S_FEATURES_OK);

	reg_out(d, R_DRIVER_FEATURE, 4, 0);
	assert_int_equal(reg_in(d, R_DRIVER_FEATURE, 4), 1u << FEATURE);
	status_add(d, S_DRIVER_OK);
	driver_queue(d, 0, 0, NO_VECTOR);
	while (!f->toy.starts)
		ring_step(&f->world.ring);
	assert_int_equal(f->toy.features, (ALL & ~0xffffffffull) | 1u << FEATURE);
}

static void status_only_grows(void **state)
{
	struct fixture *f = *state;
	struct driver *d = &f->d;

	status_add(d, S_DRIVER_OK | S_NEEDS_RESET);
	assert_int_equal(status_in(d), 0);
	assert_true(driver_negotiate(d, ALL));
	reg_out(d, R_STATUS, 1, S_FAILED);
	assert_int_equal(status_in(d), S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK | S_FAILED);
	reg_out(d, R_STATUS, 1, 0);
	assert_int_equal(status_in(d), 0);
	assert_int_equal(reg_in(d, R_DRIVER_FEATURE, 4), 0);
	assert_int_equal(f->toy.starts, 0);
}

static void queue_registers(void **state)
{
	struct fixture *f = *state;
	struct driver *d = &f->d;
	static const uint16_t bad_sizes[] = { 0, 3, 2 * SIZE, 0x8000, 48 };

	reg_out(d, R_QUEUE_SELECT, 2, 1);
	assert_int_equal(reg_in(d, R_QUEUE_SIZE, 2), SIZE);
	assert_int_equal(reg_in(d, R_QUEUE_VECTOR, 2), NO_VECTOR);
	assert_int_equal(reg_in(d, R_QUEUE_NOTIFY_OFF, 2), 1);
	for (unsigned i = 0; i < sizeof(bad_sizes) / sizeof(bad_sizes[0]); i++) {
		reg_out(d, R_QUEUE_SIZE, 2, bad_sizes[i]);
		assert_int_equal(reg_in(d, R_QUEUE_SIZE, 2), SIZE);
	}
	reg_out(d, R_QUEUE_SIZE, 2, 16);
	reg_out(d, R_QUEUE_VECTOR, 2, NQUEUES + 1); /* there is none of that number */
	assert_int_equal(reg_in(d, R_QUEUE_VECTOR, 2), NO_VECTOR);
	reg_out(d, R_QUEUE_VECTOR, 2, NQUEUES);
	assert_int_equal(reg_in(d, R_QUEUE_VECTOR, 2), NQUEUES);
	queue_address(d, R_QUEUE_DESC, 0x123456789abcull);
	queue_address(d, R_QUEUE_DRIVER, 0x23456789abcdull);
	queue_address(d, R_QUEUE_DEVICE, 0x3456789abcdeull);
	assert_int_equal(driver_in(d, d->common + R_QUEUE_DESC, 8), 0x123456789abcull);
	assert_int_equal(driver_in(d, d->common + R_QUEUE_DRIVER, 8), 0x23456789abcdull);
	assert_int_equal(driver_in(d, d->common + R_QUEUE_DEVICE, 8), 0x3456789abcdeull);

	/* Enabled, it is frozen, and only a reset disables it. */
	reg_out(d, R_QUEUE_ENABLE, 2, 1);
	reg_out(d, R_QUEUE_SIZE, 2, 32);
	queue_address(d, R_QUEUE_DESC, 0);
	reg_out(d, R_QUEUE_ENABLE, 2, 0);
	assert_int_equal(reg_in(d, R_QUEUE_SIZE, 2), 16);
	assert_int_equal(driver_in(d, d->common + R_QUEUE_DESC, 8), 0x123456789abcull);
	assert_int_equal(reg_in(d, R_QUEUE_ENABLE, 2), 1);

	/* The other one is untouched, and there is no third. */
	reg_out(d, R_QUEUE_SELECT, 2, 0);
	assert_int_equal(reg_in(d, R_QUEUE_SIZE, 2), SIZE);
	for (unsigned i = NQUEUES; i < 0x10000; i += 0x3fff) {
		reg_out(d, R_QUEUE_SELECT, 2, i);
		reg_out(d, R_QUEUE_SIZE, 2, 16);
		reg_out(d, R_QUEUE_ENABLE, 2, 1);
		assert_int_equal(reg_in(d, R_QUEUE_SELECT, 2), i);
		assert_int_equal(reg_in(d, R_QUEUE_SIZE, 2), 0);
		assert_int_equal(reg_in(d, R_QUEUE_ENABLE, 2), 0);
		assert_int_equal(reg_in(d, R_QUEUE_VECTOR, 2), NO_VECTOR);
	}

	reg_out(d, R_STATUS, 1, 0);
	reg_out(d, R_QUEUE_SELECT, 2, 1);
	assert_int_equal(reg_in(d, R_QUEUE_ENABLE, 2), 0);
	assert_int_equal(reg_in(d, R_QUEUE_SIZE, 2), SIZE);
	assert_int_equal(driver_in(d, d->common + R_QUEUE_DESC, 8), 0);
}

/* Nothing but whole registers can be written; anything can be read. */
static void odd_accesses(void **state)
{
	struct fixture *f = *state;
	struct driver *d = &f->d;
	static const unsigned lens[] = { 1, 2, 4, 8 };

	reg_out(d, R_QUEUE_SIZE, 4, 16);
	reg_out(d, R_QUEUE_SIZE, 1, 16);
	reg_out(d, R_QUEUE_SIZE + 1, 2, 16);
	assert_int_equal(reg_in(d, R_QUEUE_SIZE, 2), SIZE);
	reg_out(d, R_STATUS, 2, 0x0101);
	reg_out(d, R_STATUS - 1, 2, 0x0101);
	assert_int_equal(status_in(d), 0);
	reg_out(d, R_NUM_QUEUES, 2, 7);
	reg_out(d, R_GENERATION, 1, 7);
	assert_int_equal(reg_in(d, R_NUM_QUEUES, 4), NQUEUES);
	assert_int_equal(reg_in(d, R_NUM_QUEUES + 1, 1), 0);
	assert_int_equal(reg_in(d, R_QUEUE_SELECT + 1, 4), SIZE << 8 | 0xffu << 24);

	for (uint64_t off = 0; off < 0x2000; off++)
		for (unsigned i = 0; i < 4; i++) {
			driver_in(d, d->bar + off, lens[i]);
			driver_out(d, d->bar + off, lens[i], ~0ull);
		}
	assert_int_equal(reg_in(d, R_NUM_QUEUES, 2), NQUEUES);
	driver_reset(d);
	bring_up(f, ALL, true);
	round_trip(f, 0, 1);
}

static void config_is_read_and_in_part_written(void **state)
{
	struct fixture *f = *state;
	struct driver *d = &f->d;

	assert_int_equal(driver_in(d, d->config, 4), 0xc3c2c1c0);
	assert_int_equal(driver_in(d, d->config + CONFIG_LEN - 2, 4), 0xcbca); /* zeroes behind */
	assert_int_equal(driver_in(d, d->config + CONFIG_LEN, 8), 0);

	driver_out(d, d->config + 8, 4, 0x11223344);
	driver_out(d, d->config, 4, 0x11223344);
	driver_out(d, d->config + CONFIG_LEN, 4, 0x11223344);
	assert_int_equal(driver_in(d, d->config + 8, 4), 0xcbca33c8);
	assert_int_equal(driver_in(d, d->config, 4), 0xc3c2c1c0);
}

static void config_change_is_told(void **state)
{
	struct fixture *f = *state;
	struct vdev *vdev = &f->toy.vdev;
	uint32_t generation;

	bring_up(f, ALL, true);
	round_trip(f, 0, 1);
	generation = reg_in(&f->d, R_GENERATION, 1);

	pthread_mutex_lock(&vdev->lock);
	vdev->config[0] = 1;
	vdev_config_changed(vdev);
	pthread_mutex_unlock(&vdev->lock);
	world_settle(&f->world);
	assert_int_not_equal(reg_in(&f->d, R_GENERATION, 1), generation);
	assert_int_equal(driver_in(&f->d, f->d.config, 1), 1);
	assert_int_equal(fake_kvm_take_msi(MSI + NQUEUES), 1);
	assert_int_equal(driver_in(&f->d, f->d.isr, 1) & 2, 2);
}

/* §2.4.1: after a reset nobody is told of anything. */
static void config_change_before_a_reset_is_not_told(void **state)
{
	struct fixture *f = *state;
	struct vdev *vdev = &f->toy.vdev;

	bring_up(f, ALL, false);
	round_trip(f, 0, 1);
	world_settle(&f->world);
	fake_kvm_take(WORLD_GSI + 1);

	reg_out(&f->d, R_STATUS, 1, 0);
	pthread_mutex_lock(&vdev->lock);
	vdev->state = VDEV_LIVE; /* as it was when the change came */
	vdev_config_changed(vdev);
	vdev->state = VDEV_RESETTING;
	pthread_mutex_unlock(&vdev->lock);
	driver_reset(&f->d);
	world_settle(&f->world);
	assert_int_equal(fake_kvm_take(WORLD_GSI + 1), 0);
	assert_int_equal(driver_in(&f->d, f->d.isr, 1), 0);
}

static uint32_t window_in(struct driver *d, uint64_t addr, unsigned len)
{
	config_out(d, d->window + 4, 1, 0);
	config_out(d, d->window + 8, 4, (uint32_t)(addr - d->bar));
	config_out(d, d->window + 12, 4, len);
	return config_in(d, d->window + 16, len > 4 ? 4 : len);
}

static void window_out(struct driver *d, uint64_t addr, unsigned len, uint32_t value)
{
	config_out(d, d->window + 4, 1, 0);
	config_out(d, d->window + 8, 4, (uint32_t)(addr - d->bar));
	config_out(d, d->window + 12, 4, len);
	config_out(d, d->window + 16, len > 4 ? 4 : len, value);
}

/* §4.1.4.9: the BAR through configuration space, even where memory decoding is off. */
static void window_reaches_the_bar(void **state)
{
	struct fixture *f = *state;
	struct driver *d = &f->d;

	config_out(d, PCI_COMMAND, 2, 0);
	assert_non_null(fake_kvm_memory(WORLD_ECAM, 4));
	assert_int_equal(window_in(d, d->common + R_NUM_QUEUES, 2), NQUEUES);
	assert_int_equal(window_in(d, d->config + 3, 1), 0xc3);
	window_out(d, d->common + R_STATUS, 1, S_ACKNOWLEDGE);
	assert_int_equal(window_in(d, d->common + R_STATUS, 1), S_ACKNOWLEDGE);
	assert_int_equal(config_in(d, d->window + 16, 1), S_ACKNOWLEDGE);
	window_out(d, d->common + R_STATUS, 1, S_DRIVER);
	assert_int_equal(config_in(d, d->window + 16, 1), S_ACKNOWLEDGE | S_DRIVER);

	/* What cannot be an access is none. */
	assert_int_equal(window_in(d, d->config, 2), 0xc1c0);
	assert_int_equal(window_in(d, d->config + 1, 2), 0xc1c0);
	window_out(d, d->common + R_STATUS, 3, 0);
	window_out(d, d->common + R_STATUS, 8, 0);
	window_out(d, d->common + R_STATUS, 0, 0);
	window_out(d, d->common + R_QUEUE_SIZE + 1, 2, 16);
	window_out(d, d->bar + 0x2000, 1, 0);
	window_out(d, d->bar + 0xfffffff0, 1, 0);
	config_out(d, d->window + 4, 1, 1); /* another BAR */
	config_out(d, d->window + 8, 4, (uint32_t)(d->common - d->bar + R_STATUS));
	config_out(d, d->window + 12, 4, 1);
	config_out(d, d->window + 16, 1, 0);
	assert_int_equal(window_in(d, d->common + R_STATUS, 1), S_ACKNOWLEDGE | S_DRIVER);
	window_out(d, d->common + R_STATUS, 1, 0);
	assert_int_equal(config_in(d, d->window + 16, 1), 0);
}

/* Serving. */

static void requests_are_served(void **state)
{
	struct fixture *f = *state;

	bring_up(f, ALL, true);
	for (unsigned n = 0; n < 3 * SIZE; n++)
		round_trip(f, n % NQUEUES, 1000 + n);
	assert_int_equal(f->toy.starts, 1);
	assert_int_equal(f->toy.features, ALL);
	assert_int_equal(f->toy.vdev.queue[0].requests + f->toy.vdev.queue[1].requests, 3 * SIZE);
}

static void each_queue_has_its_vector(void **state)
{
	struct fixture *f = *state;

	bring_up(f, BASIC, true);
	round_trip(f, 1, 7);
	world_settle(&f->world);
	assert_int_equal(fake_kvm_take_msi(MSI + 0), 0);
	assert_int_equal(fake_kvm_take_msi(MSI + 1), 1);
	assert_int_equal(fake_kvm_take_msi(MSI + 2), 0);

	/* It may be another one, or none, at any time. */
	reg_out(&f->d, R_QUEUE_SELECT, 2, 1);
	reg_out(&f->d, R_QUEUE_VECTOR, 2, NO_VECTOR);
	round_trip(f, 1, 8);
	world_settle(&f->world);
	reg_out(&f->d, R_QUEUE_VECTOR, 2, 0);
	assert_int_equal(fake_kvm_take_msi(MSI + 1), 0);
	round_trip(f, 1, 9);
	world_settle(&f->world);
	assert_int_equal(fake_kvm_take_msi(MSI + 0), 1);
}

static void batch_is_one_interrupt(void **state)
{
	struct fixture *f = *state;
	uint64_t interrupts, enters;

	bring_up(f, BASIC, true);
	round_trip(f, 0, 1);
	world_settle(&f->world);
	fake_kvm_take_msi(MSI);

	for (unsigned i = 0; i < SIZE / 2; i++)
		driver_add(&f->d, 0, DATA, 4, DATA + 4, 4);
	interrupts = f->toy.vdev.interrupts;
	driver_kick(&f->d, 0);
	enters = f->world.ring.enters;
	ring_step(&f->world.ring);
	assert_int_equal(f->toy.vdev.queue[0].requests, 1 + SIZE / 2);
	assert_int_equal(f->toy.vdev.interrupts, interrupts + 1);
	assert_int_equal(f->world.ring.enters, enters + 1);
	world_settle(&f->world);
	assert_int_equal(fake_kvm_take_msi(MSI), 1);

	/* Two queues that share a vector, too. */
	reg_out(&f->d, R_QUEUE_SELECT, 2, 1);
	reg_out(&f->d, R_QUEUE_VECTOR, 2, 0);
	for (unsigned i = 0; i < NQUEUES; i++) {
		driver_add(&f->d, i, DATA, 4, DATA + 4, 4);
		driver_kick(&f->d, i);
	}
	world_settle(&f->world);
	assert_int_equal(f->toy.vdev.interrupts, interrupts + 2);
	assert_int_equal(fake_kvm_take_msi(MSI), 1);
}

static void nobody_interrupts_who_does_not_ask(void **state)
{
	struct fixture *f = *state;
	struct virtq_avail *avail;

	bring_up(f, BASIC, true);
	avail = driver_host(&f->d, f->d.queue[0].avail, 6);
	avail->flags = VIRTQ_AVAIL_F_NO_INTERRUPT;
	round_trip(f, 0, 1);
	world_settle(&f->world);
	assert_int_equal(fake_kvm_take_msi(MSI), 0);
}

/* A kernel without IOSQE_CQE_SKIP_SUCCESS: the interrupt is a system call. */
static void interrupts_without_silent_writes(void **state)
{
	struct fixture *f = *state;

	f->world.ring.silent = false;
	bring_up(f, BASIC, true);
	round_trip(f, 0, 1);
	assert_int_equal(fake_kvm_take_msi(MSI), 1);
}

static void early_requests_are_not_lost(void **state)
{
	struct fixture *f = *state;
	struct virtq_used_elem elem;

	assert_true(driver_negotiate(&f->d, ALL));
	driver_queue(&f->d, 0, 0, NO_VECTOR);
	driver_add(&f->d, 0, DATA, 4, DATA + 4, 4);
	driver_kick(&f->d, 0);
	world_settle(&f->world);
	assert_false(driver_used(&f->d, 0, &elem)); /* not before DRIVER_OK */
	status_add(&f->d, S_DRIVER_OK);
	wait_used(f, 0, &elem);

	/* A queue that is enabled late. */
	driver_queue(&f->d, 1, 0, NO_VECTOR);
	driver_add(&f->d, 1, DATA, 4, DATA + 4, 4);
	wait_used(f, 1, &elem);
	assert_int_equal(f->toy.starts, 1);
}

static void doorbells_are_there_when_they_are_needed(void **state)
{
	struct fixture *f = *state;
	struct driver *d = &f->d;

	driver_negotiate(d, ALL);
	driver_queue(d, 0, 0, NO_VECTOR);
	assert_int_equal(fake_kvm.nioeventfds, 0);
	status_add(d, S_DRIVER_OK);
	assert_int_equal(fake_kvm.nioeventfds, 1);
	driver_queue(d, 1, 0, NO_VECTOR);
	assert_int_equal(fake_kvm.nioeventfds, 2);
	assert_int_not_equal(d->queue[0].bell, d->queue[1].bell);
	round_trip(f, 1, 1);
	assert_int_equal(f->toy.notified[0], 1);

	/* They move with the BAR. */
	config_out(d, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
	assert_int_equal(fake_kvm.nioeventfds, 0);
	config_out(d, PCI_BAR0, 4, 0xc0080000);
	config_out(d, PCI_COMMAND, 2, PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY);
	assert_int_equal(fake_kvm.nioeventfds, 2);
	assert_false(fake_kvm_write(d->queue[0].bell));
	for (unsigned i = 0; i < NQUEUES; i++) {
		d->queue[i].bell += 0xc0080000 - d->bar;
		round_trip(f, i, 2);
	}
}

/* Where KVM has no doorbell left, kicks are exits. */
static void kicks_without_doorbells(void **state)
{
	struct fixture *f = *state;

	driver_negotiate(&f->d, ALL);
	driver_queue(&f->d, 0, 0, NO_VECTOR);
	fake_kvm.fail = ENOSPC;
	status_add(&f->d, S_DRIVER_OK);
	fake_kvm.fail = 0;
	assert_int_equal(fake_kvm.nioeventfds, 0);
	round_trip(f, 0, 1);
}

/* INTx. */

static void line_is_level_triggered(void **state)
{
	struct fixture *f = *state;
	struct driver *d = &f->d;

	bring_up(f, BASIC, false);
	assert_null(fake_kvm_irqfd(WORLD_GSI + 1)); /* not needed so far */
	round_trip(f, 0, 1);
	world_settle(&f->world);
	assert_int_equal(fake_kvm_take(WORLD_GSI + 1), 1);
	assert_int_equal(config_in(d, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT, PCI_STATUS_INTERRUPT);

	/* Not served yet: up again. */
	fake_kvm_eoi(WORLD_GSI + 1);
	world_settle(&f->world);
	assert_int_equal(fake_kvm_take(WORLD_GSI + 1), 1);

	/* Reading the ISR status serves it. */
	assert_int_equal(driver_in(d, d->isr, 1), 1);
	assert_int_equal(driver_in(d, d->isr, 1), 0);
	assert_int_equal(config_in(d, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT, 0);
	fake_kvm_eoi(WORLD_GSI + 1);
	world_settle(&f->world);
	assert_int_equal(fake_kvm_take(WORLD_GSI + 1), 0);
	round_trip(f, 1, 2);
	world_settle(&f->world);
	assert_int_equal(fake_kvm_take(WORLD_GSI + 1), 1);
}

static void line_may_be_off(void **state)
{
	struct fixture *f = *state;
	struct driver *d = &f->d;
	uint16_t command = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;

	bring_up(f, BASIC, false);
	config_out(d, PCI_COMMAND, 2, command | PCI_COMMAND_INTX_OFF);
	round_trip(f, 0, 1);
	world_settle(&f->world);
	assert_int_equal(fake_kvm_take(WORLD_GSI + 1), 0);
	assert_int_equal(config_in(d, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT, PCI_STATUS_INTERRUPT);
	config_out(d, PCI_COMMAND, 2, command);
	world_settle(&f->world);
	assert_int_equal(fake_kvm_take(WORLD_GSI + 1), 1);
}

static void line_that_cannot_be_had(void **state)
{
	struct fixture *f = *state;
	char text[512];

	bring_up(f, BASIC, false);
	world_settle(&f->world);
	driver_add(&f->d, 0, DATA, 4, DATA + 4, 4);
	driver_kick(&f->d, 0);
	capture();
	fake_kvm.fail = EMFILE;
	world_settle(&f->world);
	fake_kvm.fail = 0;
	capture_end(text);
	assert_non_null(strstr(text, "toy"));
	assert_true(status_in(&f->d) & S_NEEDS_RESET);
	driver_reset(&f->d);
	bring_up(f, BASIC, false);
	round_trip(f, 0, 1);
}

/* Reset. */

static void reset_waits_for_what_is_in_flight(void **state)
{
	struct fixture *f = *state;
	struct driver *d = &f->d;
	struct virtq_used_elem elem;
	struct virtq_used *used;

	bring_up(f, ALL, true);
	round_trip(f, 0, 1);
	f->toy.hold = f->toy.slow = true;
	for (unsigned i = 0; i < NQUEUES; i++) {
		driver_add(d, i, DATA, 4, DATA + 4, 4);
		driver_add(d, i, DATA, 4, DATA + 4, 4);
		driver_kick(d, i);
	}
	world_settle(&f->world);
	assert_int_equal(f->toy.vdev.queue[1].virtq.in_flight, 2);

	reg_out(d, R_STATUS, 1, 0);
	assert_int_not_equal(status_in(d), 0);
	status_add(d, S_FAILED); /* nothing can be written meanwhile */
	reg_out(d, R_QUEUE_SELECT, 2, 1);
	assert_int_equal(status_in(d) & S_FAILED, 0);
	while (!f->toy.stops[0])
		ring_step(&f->world.ring);
	assert_int_not_equal(status_in(d), 0);
	while (status_in(d))
		ring_step(&f->world.ring);
	assert_int_equal(f->toy.stops[0], 1);
	assert_int_equal(f->toy.stops[1], 1);
	used = driver_host(d, d->queue[0].used, 6);
	assert_int_equal(used->idx, 1); /* nothing was published any more */
	assert_false(driver_used(d, 1, &elem));

	/* And nothing is touched any more, whatever is kicked. */
	memset(used, 0xee, 6 + 8 * SIZE);
	driver_kick(d, 0);
	driver_kick(d, 1);
	world_settle(&f->world);
	for (unsigned i = 0; i < 6 + 8 * SIZE; i++)
		assert_int_equal(((uint8_t *)used)[i], 0xee);

	f->toy.hold = false;
	bring_up(f, BASIC, false);
	round_trip(f, 0, 2);
	assert_int_equal(f->toy.starts, 2);
	assert_int_equal(f->toy.features, BASIC);
}

static void reset_of_an_idle_device_is_at_once(void **state)
{
	struct fixture *f = *state;
	struct driver *d = &f->d;

	driver_negotiate(d, ALL);
	driver_msix(d, NQUEUES + 1, MSI);
	driver_queue(d, 0, 16, 0);
	reg_out(d, R_STATUS, 1, 0);
	assert_int_equal(status_in(d), 0);
	assert_int_equal(reg_in(d, R_QUEUE_ENABLE, 2), 0);
	assert_int_equal(reg_in(d, R_QUEUE_VECTOR, 2), NO_VECTOR);
	assert_int_equal(reg_in(d, R_CONFIG_VECTOR, 2), NO_VECTOR);
}

static void queue_reset(void **state)
{
	struct fixture *f = *state;
	struct driver *d = &f->d;

	bring_up(f, ALL, true);
	round_trip(f, 0, 1);
	f->toy.hold = f->toy.slow = true;
	driver_add(d, 1, DATA, 4, DATA + 4, 4);
	driver_kick(d, 1);
	while (!f->toy.vdev.queue[1].virtq.in_flight)
		ring_step(&f->world.ring);

	reg_out(d, R_QUEUE_SELECT, 2, 1);
	reg_out(d, R_QUEUE_RESET, 2, 1);
	assert_int_equal(reg_in(d, R_QUEUE_RESET, 2), 1);
	f->toy.hold = false;
	round_trip(f, 0, 2); /* the other one goes on */
	assert_int_equal(reg_in(d, R_QUEUE_RESET, 2), 1);
	assert_int_equal(f->toy.stops[1], 1);
	while (reg_in(d, R_QUEUE_RESET, 2))
		ring_step(&f->world.ring);
	assert_int_equal(reg_in(d, R_QUEUE_ENABLE, 2), 0);
	assert_int_equal(reg_in(d, R_QUEUE_SIZE, 2), SIZE);
	driver_kick(d, 1);
	world_settle(&f->world);

	driver_queue(d, 1, 8, 1); /* another size and place */
	for (unsigned n = 0; n < 20; n++)
		round_trip(f, 1, 100 + n);
	assert_int_equal(f->toy.starts, 1);
	assert_int_equal(f->toy.stops[0], 0);
}

static void queue_reset_must_be_negotiated(void **state)
{
	struct fixture *f = *state;

	bring_up(f, BASIC, true);
	round_trip(f, 1, 1);
	reg_out(&f->d, R_QUEUE_SELECT, 2, 1);
	reg_out(&f->d, R_QUEUE_RESET, 2, 1);
	assert_int_equal(reg_in(&f->d, R_QUEUE_RESET, 2), 0);
	round_trip(f, 1, 2);
}

static void device_reset_during_queue_reset(void **state)
{
	struct fixture *f = *state;

	bring_up(f, ALL, true);
	f->toy.hold = f->toy.slow = true;
	driver_add(&f->d, 1, DATA, 4, DATA + 4, 4);
	while (!f->toy.vdev.queue[1].virtq.in_flight)
		ring_step(&f->world.ring);
	reg_out(&f->d, R_QUEUE_SELECT, 2, 1);
	reg_out(&f->d, R_QUEUE_RESET, 2, 1);
	while (!f->toy.stops[1])
		ring_step(&f->world.ring);
	driver_reset(&f->d);
	assert_int_equal(f->toy.stops[1], 1);
	f->toy.hold = false;
	bring_up(f, ALL, true);
	round_trip(f, 1, 1);
}

/* Linux, before kexec. */
static void bus_master_off_stops_it(void **state)
{
	struct fixture *f = *state;
	struct virtq_used_elem elem;

	bring_up(f, ALL, true);
	round_trip(f, 0, 1);
	config_out(&f->d, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	world_settle(&f->world);
	assert_int_equal(f->toy.stops[0], 1);
	driver_add(&f->d, 0, DATA, 4, DATA + 4, 4);
	driver_kick(&f->d, 0);
	config_out(&f->d, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	world_settle(&f->world);
	assert_false(driver_used(&f->d, 0, &elem));
	driver_reset(&f->d);
	bring_up(f, ALL, true);
	round_trip(f, 0, 2);
}

/* Rules broken. */

static void bad_ring_stops_the_device_alone(void **state)
{
	struct fixture *f = *state;
	struct driver *d = &f->d;
	struct toy other = { .hold = false };
	struct fixture *g = calloc(1, sizeof(*g));
	struct virtq_used_elem elem;
	char text[512];

	assert_int_equal(vdev_init(&other.vdev, &toy_kind, &f->world.vdev), 0);
	bring_up(f, ALL, true);
	round_trip(f, 1, 1);

	capture();
	driver_add(d, 0, 0xffff0000, 4, DATA, 4); /* not RAM */
	driver_kick(d, 0);
	while (!(status_in(d) & S_NEEDS_RESET))
		ring_step(&f->world.ring);
	world_settle(&f->world);
	assert_int_equal(fake_kvm_take_msi(MSI + NQUEUES), 1);
	driver_add(d, 0, 0xffff0000, 4, DATA, 4);
	driver_add(d, 1, DATA, 4, DATA + 4, 4);
	driver_kick(d, 0);
	driver_kick(d, 1);
	world_settle(&f->world);
	capture_end(text);
	assert_string_equal(text, "kring: toy stops until its driver resets it: its queue: "
	                          "Bad address\n");
	assert_false(driver_used(d, 1, &elem));
	assert_int_equal(f->toy.stops[0], 1);
	assert_int_equal(f->toy.stops[1], 1);

	/* The one in the next slot does not mind. */
	g->world.ring = f->world.ring;
	driver_probe(&g->d, &f->world, 2, 0x200000);
	assert_true(driver_negotiate(&g->d, ALL));
	driver_queue(&g->d, 0, 0, NO_VECTOR);
	status_add(&g->d, S_DRIVER_OK);
	driver_add(&g->d, 0, DATA, 4, DATA + 4, 4);
	while (!driver_used(&g->d, 0, &elem))
		ring_step(&f->world.ring);
	vdev_fini(&other.vdev);
	free(g);

	driver_reset(d);
	bring_up(f, ALL, true);
	round_trip(f, 0, 2);
}

static void bad_queue_addresses(void **state)
{
	struct fixture *f = *state;
	struct driver *d = &f->d;
	char text[512];

	assert_true(driver_negotiate(d, ALL));
	driver_queue(d, 0, 0, NO_VECTOR);
	reg_out(d, R_QUEUE_SELECT, 2, 1);
	queue_address(d, R_QUEUE_DESC, MEMORY - 16);
	reg_out(d, R_QUEUE_ENABLE, 2, 1);
	capture();
	status_add(d, S_DRIVER_OK);
	while (!(status_in(d) & S_NEEDS_RESET))
		ring_step(&f->world.ring);
	capture_end(text);
	assert_non_null(strstr(text, "Bad address"));
	driver_reset(d);
	assert_int_equal(f->toy.starts, 0); /* what did not start is not stopped */
	assert_int_equal(f->toy.stops[0], 0);
	bring_up(f, ALL, true);
	round_trip(f, 0, 2);
}

/* The end. */

static void ends_with_requests_in_flight(void **state)
{
	struct fixture *f = *state;

	bring_up(f, ALL, true);
	f->toy.hold = f->toy.slow = true;
	driver_add(&f->d, 0, DATA, 4, DATA + 4, 4);
	while (!f->toy.vdev.queue[0].virtq.in_flight)
		ring_step(&f->world.ring);
	vdev_fini(&f->toy.vdev);
	assert_int_equal(f->toy.stops[0], 1);
	assert_int_equal(f->world.ring.in_flight, 0);
}

static void ends_while_it_is_reset(void **state)
{
	struct fixture *f = *state;

	bring_up(f, ALL, false);
	f->toy.hold = f->toy.slow = true;
	driver_add(&f->d, 0, DATA, 4, DATA + 4, 4);
	while (!f->toy.vdev.queue[0].virtq.in_flight)
		ring_step(&f->world.ring);
	reg_out(&f->d, R_STATUS, 1, 0);
	vdev_fini(&f->toy.vdev);
	assert_int_equal(f->world.ring.in_flight, 0);
}

static unsigned open_files(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void slots_run_out(void **state)
{
	struct fixture *f = *state;
	struct toy *toy = calloc(PCI_SLOTS, sizeof(*toy));
	unsigned before = open_files(), with_all;
	unsigned n = 0;

	while (n < PCI_SLOTS - 2)
		assert_int_equal(vdev_init(&toy[n++].vdev, &toy_kind, &f->world.vdev), 0);
	with_all = open_files();
	assert_int_equal(vdev_init(&toy[n].vdev, &toy_kind, &f->world.vdev), -ENOSPC);
	assert_int_equal(open_files(), with_all);
	vdev_fini(&toy[n].vdev);
	while (n--)
		vdev_fini(&toy[n].vdev);
	assert_int_equal(open_files(), before);
	assert_int_equal(f->world.ring.in_flight, 1);
	free(toy);
}

/* A driver on a thread of its own, as vCPUs are; ThreadSanitizer watches. */

struct life {
	struct fixture *f;
	unsigned rounds;
	_Atomic bool over;
	int wake;
};

static void life_used(struct life *life, unsigned i)
{
	struct virtq_used_elem elem;

	while (!driver_used(&life->f->d, i, &elem))
		sched_yield();
	while (driver_used(&life->f->d, i, &elem))
		;
}

static void *live(void *arg)
{
	struct life *life = arg;
	struct driver *d = &life->f->d;

	for (unsigned n = 0; n < life->rounds; n++) {
		driver_negotiate(d, ALL);
		if (n & 1)
			driver_msix(d, NQUEUES + 1, MSI);
		else
			config_out(d, d->msix + 2, 2, 0);
		d->free = QUEUES;
		for (unsigned i = 0; i < NQUEUES; i++)
			driver_queue(d, i, 0, n & 1 ? (uint16_t)i : NO_VECTOR);
		status_add(d, S_DRIVER_OK);
		for (unsigned i = 0; i < 8; i++) {
			driver_add(d, i % NQUEUES, DATA, 4, DATA + 4, 4);
			driver_kick(d, i % NQUEUES);
			driver_in(d, d->isr, 1);
			driver_out(d, d->config + WRITABLE, 1, n);
		}
		if (n % 3) {
			for (unsigned i = 0; i < NQUEUES; i++)
				life_used(life, i);
			reg_out(d, R_QUEUE_SELECT, 2, 1);
			reg_out(d, R_QUEUE_RESET, 2, 1);
			while (reg_in(d, R_QUEUE_RESET, 2))
				sched_yield();
		}
		reg_out(d, R_STATUS, 1, 0);
		while (status_in(d))
			sched_yield();
	}
	life->over = true;
	eventfd_write(life->wake, 1);
	return NULL;
}

static void woken(struct io_watch *watch)
{
	(void)watch;
}

static void lives_with_threads(void **state)
{
	struct fixture *f = *state;
	struct life life = { .f = f, .rounds = 300, .wake = eventfd(0, 0) };
	struct io_watch watch;
	pthread_t thread;

	ring_watch(&f->world.ring, &watch, life.wake, woken);
	pthread_create(&thread, NULL, live, &life);
	while (!life.over)
		ring_step(&f->world.ring);
	pthread_join(thread, NULL);
	ring_unwatch(&watch);
	close(life.wake);
	assert_in_range(f->toy.starts, life.rounds * 2 / 3, life.rounds); /* some were very short */
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(is_found),
		TEST(bar_is_where_it_is_put),
		TEST(features_are_negotiated),
		TEST(status_only_grows),
		TEST(queue_registers),
		TEST(odd_accesses),
		TEST(config_is_read_and_in_part_written),
		TEST(config_change_is_told),
		TEST(config_change_before_a_reset_is_not_told),
		TEST(window_reaches_the_bar),
		TEST(polled_queues_need_no_kick),
		TEST(polled_queues_without_event_idx),
		TEST(a_polled_device_is_reset),
		TEST(requests_are_served),
		TEST(each_queue_has_its_vector),
		TEST(batch_is_one_interrupt),
		TEST(nobody_interrupts_who_does_not_ask),
		TEST(interrupts_without_silent_writes),
		TEST(early_requests_are_not_lost),
		TEST(doorbells_are_there_when_they_are_needed),
		TEST(kicks_without_doorbells),
		TEST(line_is_level_triggered),
		TEST(line_may_be_off),
		TEST(line_that_cannot_be_had),
		TEST(reset_waits_for_what_is_in_flight),
		TEST(reset_of_an_idle_device_is_at_once),
		TEST(queue_reset),
		TEST(queue_reset_must_be_negotiated),
		TEST(device_reset_during_queue_reset),
		TEST(bus_master_off_stops_it),
		TEST(bad_ring_stops_the_device_alone),
		TEST(bad_queue_addresses),
		TEST(ends_with_requests_in_flight),
		TEST(ends_while_it_is_reset),
		TEST(slots_run_out),
		TEST(lives_with_threads),
	};

	return cmocka_run_group_tests_name("virtio_vdev", tests, NULL, NULL);
}
