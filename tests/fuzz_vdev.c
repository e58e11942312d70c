/*
 * libFuzzer: whatever a guest writes into a device's registers, configuration space, queues and
 * doorbells, in any order and with resets in between, the device stays inside guest RAM, does
 * not touch it while it is idle, and ends with nothing in flight.
 *
 * The input is a program, one opcode byte a step with its operands. The device has three queues:
 * one answers at once, one reads a file into its buffers, one holds what it gets until it is
 * stopped.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/driver.h"
#include "tests/fuzz_input.h"

#define RAM      0x10000
#define NQUEUES  3
#define SIZE     16
#define IOV_ROOM 20

struct request {
	struct io_timer timer;
	struct vdev_queue *queue;
	uint16_t head;
	uint32_t in;
	struct iovec iov[IOV_ROOM];
	bool held;
};

struct device {
	struct vdev vdev;
	int zero;
	struct request request[NQUEUES][SIZE];
	unsigned in_flight;
};

/* The device. */

static void request_done(struct io_op *op, int res)
{
	struct request *request = container_of(op, struct request, timer.op);
	struct device *device = container_of(request->queue->vdev, struct device, vdev);

	device->in_flight--;
	vdev_push(request->queue, request->head, res > 0 ? (uint32_t)res : 0);
}

static void request_start(struct device *device, struct vdev_queue *queue,
                          const struct virtq_chain *chain)
{
	struct request *request = &device->request[queue->index][chain->head];

	device->in_flight++;
	request->queue = queue;
	request->head = chain->head;
	request->timer.op.done = request_done;
	request->held = queue->index == 2;
	if (request->held)
		return;
	memcpy(request->iov, chain->iov, (chain->nout + chain->nin) * sizeof(struct iovec));
	ring_readv(device->vdev.world->ring, &request->timer.op, device->zero,
	           request->iov + chain->nout, chain->nin, 0);
}

static void device_notify(struct vdev *vdev, unsigned i)
{
	struct device *device = container_of(vdev, struct device, vdev);
	struct vdev_queue *queue = &vdev->queue[i];
	struct iovec iov[IOV_ROOM];
	struct virtq_chain chain = { .iov = iov, .iov_max = IOV_ROOM };
	int got;

	do {
		virtq_kicks_off(&queue->virtq);
		while ((got = virtq_pop(&queue->virtq, &chain)) > 0) {
			for (unsigned n = 0; i == 0 && n < chain.nin; n++)
				memset(iov[chain.nout + n].iov_base, 0x55,
				       iov[chain.nout + n].iov_len);
			if (i == 0)
				vdev_push(queue, chain.head, chain.in);
			else
				request_start(device, queue, &chain);
		}
	} while (!got && virtq_kicks_on(&queue->virtq));
	if (got < 0)
		vdev_broken(vdev, "its queue", got);
}

static void device_stop(struct vdev *vdev, unsigned i)
{
	struct device *device = container_of(vdev, struct device, vdev);

	for (unsigned head = 0; i == 2 && head < SIZE; head++) {
		struct request *request = &device->request[i][head];

		if (!request->held)
			continue;
		request->held = false;
		if (head & 1)
			ring_timeout(vdev->world->ring, &request->timer, 1000);
		else
			request_done(&request->timer.op, 0);
	}
}

static const struct vdev_ops device_ops = {
	.notify = device_notify,
	.stop = device_stop,
};

static const struct vdev_kind device_kind = {
	.name = "fuzz",
	.device_id = 42,
	.nqueues = NQUEUES,
	.queue_size = SIZE,
	.config_len = 4,
	.config_writable = 1,
	.ops = &device_ops,
};

/* The guest. */

static void step(struct device *device, struct world *world, uint8_t *before)
{
	bool idle = device->vdev.state == VDEV_IDLE;
	struct io_timer now = { .op.done = world_fired };

	if (idle)
		memcpy(before, world->mem.low.host, RAM);
	ring_timeout(&world->ring, &now, 0);
	while (now.op.done)
		ring_step(&world->ring);
	if (idle) {
		require(device->vdev.state == VDEV_IDLE);
		require(!memcmp(before, world->mem.low.host, RAM));
		require(!device->in_flight);
	}
}

static gpa_t queue_at(unsigned i)
{
	return 0x1000 * (i + 1);
}

/* Wherever the program has put the BARs, back to where the driver knows them. */
static void at_home(struct driver *d)
{
	config_out(d, PCI_BAR0, 4, (uint32_t)d->bar);
	config_out(d, PCI_BAR1, 4, (uint32_t)d->ports);
	config_out(d, PCI_COMMAND, 2, DRIVER_COMMAND);
}

static void bring_up(struct driver *d, unsigned how)
{
	at_home(d);
	driver_negotiate(d, (how & 1 ? 0 : driver_offered(d)) | 1ull << VIRTIO_F_VERSION_1);
	if (how & 2)
		driver_msix(d, NQUEUES + 1, 0x40);
	for (unsigned i = 0; i < NQUEUES; i++) {
		d->free = queue_at(i);
		driver_queue(d, i, 0, how & 2 ? (uint16_t)i : NO_VECTOR);
		d->queue[i].size = SIZE;
	}
	if (how & 4)
		status_add(d, S_DRIVER_OK);
}

static void poke(struct driver *d, gpa_t at, uint64_t value, unsigned len)
{
	void *host = mem_host(&d->world->mem, at, len);

	if (host)
		memcpy(host, &value, len);
}

/* The descriptors, then the available ring, as driver_queue() places them. */
static void offer(struct driver *d, unsigned i, uint16_t head)
{
	struct driver_queue *q = &d->queue[i];
	gpa_t avail = queue_at(i) + 16 * SIZE;

	poke(d, avail + 4 + 2 * (q->avail_idx++ % SIZE), head, 2);
	poke(d, avail + 2, q->avail_idx, 2);
}

static void describe(struct driver *d, struct input *in, unsigned i)
{
	gpa_t at = queue_at(i) + 16 * (take(in, 1) % SIZE);
	struct virtq_desc desc = { take(in, 2), (uint32_t)take(in, 2), (uint16_t)take(in, 1), 0 };

	desc.next = (uint16_t)take(in, 1);
	poke(d, at, desc.addr, 8);
	poke(d, at + 8, desc.len, 4);
	poke(d, at + 12, desc.flags, 2);
	poke(d, at + 14, desc.next, 2);
}

/* A queue wherever it may be. */
static void enable(struct driver *d, struct input *in, unsigned i)
{
	at_home(d);
	reg_out(d, R_QUEUE_SELECT, 2, i);
	queue_address(d, R_QUEUE_DESC, take(in, 2) << 4);
	queue_address(d, R_QUEUE_DRIVER, take(in, 2) << 1);
	queue_address(d, R_QUEUE_DEVICE, take(in, 2) << 2);
	reg_out(d, R_QUEUE_ENABLE, 2, 1);
}

/* The BAR through configuration space. */
static void look_through(struct driver *d, struct input *in, unsigned len, bool is_write)
{
	config_out(d, d->window + 8, 4, (uint32_t)take(in, 2));
	config_out(d, d->window + 12, 4, len);
	if (is_write)
		config_out(d, d->window + 16, 4, (uint32_t)take(in, 4));
	else
		config_in(d, d->window + 16, 4);
}

static void run(struct device *device, struct driver *d, struct input *in, uint8_t *before)
{
	uint8_t op = (uint8_t)take(in, 1);
	unsigned high = op >> 4, i = high % NQUEUES, len = 1u << (high & 3);
	uint64_t at;

	switch (op & 15) {
	case 0:
		at = take(in, 2) & 0x1fff;
		driver_out(d, d->bar + at, len, take(in, len));
		break;
	case 1:
		driver_in(d, d->bar + (take(in, 2) & 0x1fff), len);
		break;
	case 2:
		at = take(in, 1);
		config_out(d, (unsigned)at, len > 4 ? 4 : len, (uint32_t)take(in, len));
		break;
	case 3:
		config_in(d, (unsigned)take(in, 1), len > 4 ? 4 : len);
		break;
	case 4:
		at = take(in, 2);
		poke(d, at, take(in, len), len);
		break;
	case 5:
		describe(d, in, i);
		break;
	case 6:
		offer(d, i, (uint16_t)take(in, 1));
		break;
	case 7:
		d->kicks = take(in, 1) & 1 ? BUS_MMIO : BUS_PORT;
		driver_kick(d, i);
		break;
	case 8:
		bring_up(d, high);
		break;
	case 9:
		reg_out(d, R_STATUS, 1, 0);
		break;
	case 10:
		reg_out(d, R_QUEUE_SELECT, 2, i);
		reg_out(d, R_QUEUE_RESET, 2, 1);
		break;
	case 11:
		fake_kvm_eoi(WORLD_GSI + 1);
		break;
	case 12:
		at_home(d);
		d->free = queue_at(i);
		driver_queue(d, i, (uint16_t)(1u << high / 4), (uint16_t)i);
		d->queue[i].size = SIZE;
		break;
	case 13:
		if (high < 2)
			fake_kvm.fail = high ? ENOSPC : 0;
		else if (high < 8)
			enable(d, in, i);
		else
			look_through(d, in, len, high & 4);
		break;
	case 14:
		pthread_mutex_lock(&device->vdev.lock);
		device->vdev.config[1] = (uint8_t)high;
		vdev_config_changed(&device->vdev);
		pthread_mutex_unlock(&device->vdev.lock);
		break;
	default:
		step(device, d->world, before);
	}
}

static struct world *world_make(void)
{
	struct world *world = calloc(1, sizeof(*world));

	require(world != NULL);
	world_init(world, RAM);
	/* From the heap, whose ends AddressSanitizer watches. */
	munmap(world->mem.low.host, RAM);
	world->mem.low.host = aligned_alloc(4096, RAM);
	stderr = fopen("/dev/null", "w"); /* what the device says of its driver */
	return world;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct world *world;
	static uint8_t before[RAM];
	struct input in = { data, size };
	struct device *device = calloc(1, sizeof(*device));
	struct driver d;

	world = world ? world : world_make();
	memset(world->mem.low.host, 0, RAM);
	fake_kvm_reset();
	device->zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	require(!vdev_init(&device->vdev, &device_kind, &world->vdev));
	driver_probe(&d, world, 1, 0);
	while (in.left)
		run(device, &d, &in, before);

	fake_kvm.fail = 0;
	vdev_fini(&device->vdev);
	require(!device->in_flight && !world->ring.in_flight);
	close(device->zero);
	free(device);

	struct pci_config at = world->pci.at;

	pci_fini(&world->pci);
	pci_init(&world->pci, &at, &world->power);
	irq_router_fini(&world->router);
	require(!irq_router_init(&world->router, FAKE_KVM_FD));
	return 0;
}
