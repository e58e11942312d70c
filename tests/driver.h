/*
 * The other side of a virtio device, for tests: a machine without KVM, and a driver that finds and
 * works a device through the bus alone, in the order in which Linux's virtio_pci_modern does.
 */
#ifndef TESTS_DRIVER_H
#define TESTS_DRIVER_H

#include <assert.h>
#include <string.h>

#include "tests/fake_kvm.h"
#include "virtio/vdev.h"

#define WORLD_ECAM     0xe0000000ull
#define WORLD_MMIO     0xc0000000ull
#define WORLD_MMIO_LEN 0x100000
#define WORLD_IO       0xc000
#define WORLD_IO_LEN   0x2000
#define WORLD_GSI      16

struct world {
	struct mem mem;
	struct ring ring;
	struct bus bus;
	struct power power;
	struct vm vm;
	struct pci pci;
	struct irq_router router;
	struct vdev_world vdev;
};

static inline void world_init(struct world *world, uint64_t memory)
{
	static const struct pci_config at = { 0xcf8,          WORLD_ECAM, WORLD_MMIO,
		                              WORLD_MMIO_LEN, WORLD_IO,   WORLD_IO_LEN };
	int err;

	memset(world, 0, sizeof(*world));
	fake_kvm_reset();
	err = mem_init(&world->mem, memory);
	err = err ? err : ring_init(&world->ring, RING_ENTRIES);
	err = err ? err : power_init(&world->power);
	err = err ? err : irq_router_init(&world->router, FAKE_KVM_FD);
	assert(!err);
	pci_init(&world->pci, &at, &world->power);
	world->vm.fd = FAKE_KVM_FD;
	err = pci_map(&world->pci, &world->vm, 4);
	assert(!err && world->pci.map);
	err = pci_attach(&world->pci, &world->bus);
	assert(!err);
	world->vdev = (struct vdev_world){
		.mem = &world->mem,
		.ring = &world->ring,
		.pci = &world->pci,
		.router = &world->router,
		.vm_fd = FAKE_KVM_FD,
		.intx_gsi = WORLD_GSI,
		.intx_n = 4,
	};
}

static inline void world_fini(struct world *world)
{
	ring_fini(&world->ring);
	irq_router_fini(&world->router);
	pci_fini(&world->pci);
	power_fini(&world->power);
	mem_fini(&world->mem);
}

static inline void world_fired(struct io_op *op, int res)
{
	(void)res;
	op->done = NULL;
}

/* Batches until the ring had nothing to do for a while. */
static inline void world_settle(struct world *world)
{
	struct io_timer timer;
	uint64_t cqes;

	do {
		cqes = world->ring.cqes;
		timer.op.done = world_fired;
		ring_timeout(&world->ring, &timer, 3000000);
		while (timer.op.done)
			ring_step(&world->ring);
	} while (world->ring.cqes - cqes > 1);
}

#define DRIVER_QUEUES 8
#define DRIVER_SIZE   256

struct driver_queue {
	uint16_t size;
	gpa_t desc, avail, used;
	uint64_t bell[2]; /* where to notify, by enum bus_space */
	uint16_t next;    /* free descriptor, in a circle */
	uint16_t avail_idx;
	uint16_t used_idx;
};

struct driver {
	struct world *world;
	unsigned slot;
	uint64_t bar, ports;
	uint64_t common, isr, config; /* addresses; 0: not there */
	uint64_t notify[2];           /* by enum bus_space */
	uint32_t multiplier;
	enum bus_space kicks;  /* which of the two the driver takes */
	unsigned window, msix; /* offsets of capabilities */
	uint64_t table;
	uint64_t features;
	gpa_t begin; /* guest memory for queues, */
	gpa_t free;  /* and what is left of it */
	struct driver_queue queue[DRIVER_QUEUES];
};

/* Registers (virtio 1.2 §4.1.4.3). */
#define R_DEVICE_FEATURE_SELECT 0
#define R_DEVICE_FEATURE        4
#define R_DRIVER_FEATURE_SELECT 8
#define R_DRIVER_FEATURE        12
#define R_CONFIG_VECTOR         16
#define R_NUM_QUEUES            18
#define R_STATUS                20
#define R_GENERATION            21
#define R_QUEUE_SELECT          22
#define R_QUEUE_SIZE            24
#define R_QUEUE_VECTOR          26
#define R_QUEUE_ENABLE          28
#define R_QUEUE_NOTIFY_OFF      30
#define R_QUEUE_DESC            32
#define R_QUEUE_DRIVER          40
#define R_QUEUE_DEVICE          48
#define R_QUEUE_RESET           58

#define S_ACKNOWLEDGE 1
#define S_DRIVER      2
#define S_DRIVER_OK   4
#define S_FEATURES_OK 8
#define S_NEEDS_RESET 64
#define S_FAILED      128

#define NO_VECTOR 0xffff

#define DRIVER_COMMAND (PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER)

static inline uint64_t driver_in(struct driver *d, uint64_t addr, unsigned len)
{
	const void *memory = fake_kvm_memory(addr, len);
	uint64_t value = 0;

	if (memory)
		memcpy(&value, memory, len);
	else
		bus_access(&d->world->bus, BUS_MMIO, addr, &value, len, false);
	return value;
}

/* A doorbell's address makes no exit. */
static inline void driver_out_to(struct driver *d, enum bus_space space, uint64_t addr,
                                 unsigned len, uint64_t value)
{
	if (!fake_kvm_write(space, addr))
		bus_access(&d->world->bus, space, addr, &value, len, true);
}

static inline void driver_out(struct driver *d, uint64_t addr, unsigned len, uint64_t value)
{
	driver_out_to(d, BUS_MMIO, addr, len, value);
}

static inline uint32_t config_in(struct driver *d, unsigned reg, unsigned len)
{
	return (uint32_t)driver_in(d, WORLD_ECAM + (d->slot << 15) + reg, len);
}

static inline void config_out(struct driver *d, unsigned reg, unsigned len, uint32_t value)
{
	driver_out(d, WORLD_ECAM + (d->slot << 15) + reg, len, value);
}

static inline uint32_t reg_in(struct driver *d, unsigned reg, unsigned len)
{
	return (uint32_t)driver_in(d, d->common + reg, len);
}

static inline void reg_out(struct driver *d, unsigned reg, unsigned len, uint32_t value)
{
	driver_out(d, d->common + reg, len, value);
}

static inline uint8_t status_in(struct driver *d)
{
	return (uint8_t)reg_in(d, R_STATUS, 1);
}

static inline void status_add(struct driver *d, uint8_t bits)
{
	reg_out(d, R_STATUS, 1, status_in(d) | bits);
}

static inline void driver_find(struct driver *d, unsigned cap)
{
	unsigned id = config_in(d, cap, 1);
	bool is_port = config_in(d, cap + 4, 1);
	uint64_t at = (is_port ? d->ports : d->bar) + config_in(d, cap + 8, 4);

	if (id == 0x11) {
		d->msix = cap;
		d->table = d->bar + (config_in(d, cap + 4, 4) & ~7u);
	}
	if (id != 0x09)
		return;
	switch (config_in(d, cap + 3, 1)) {
	case 1:
		d->common = at;
		break;
	case 2:
		d->notify[is_port ? BUS_PORT : BUS_MMIO] = at;
		d->multiplier = config_in(d, cap + 16, 4);
		break;
	case 3:
		d->isr = at;
		break;
	case 4:
		d->config = at;
		break;
	case 5:
		d->window = cap;
		break;
	}
}

/* Find the device in @slot; @begin: guest memory for its queues. */
static inline void driver_probe(struct driver *d, struct world *world, unsigned slot, gpa_t begin)
{
	*d = (struct driver){ .world = world, .slot = slot, .begin = begin, .free = begin };
	d->bar = config_in(d, PCI_BAR0, 4);
	d->ports = config_in(d, PCI_BAR1, 4) & ~3u;
	config_out(d, PCI_COMMAND, 2, DRIVER_COMMAND);
	for (unsigned cap = config_in(d, PCI_CAPABILITIES, 1); cap; cap = config_in(d, cap + 1, 1))
		driver_find(d, cap);
}

static inline uint64_t driver_offered(struct driver *d)
{
	uint64_t low;

	reg_out(d, R_DEVICE_FEATURE_SELECT, 4, 0);
	low = reg_in(d, R_DEVICE_FEATURE, 4);
	reg_out(d, R_DEVICE_FEATURE_SELECT, 4, 1);
	return low | (uint64_t)reg_in(d, R_DEVICE_FEATURE, 4) << 32;
}

/* Ask for @features. Returns whether the device accepted them. */
static inline bool driver_negotiate(struct driver *d, uint64_t features)
{
	status_add(d, S_ACKNOWLEDGE);
	status_add(d, S_DRIVER);
	d->features = features;
	for (unsigned i = 0; i < 2; i++) {
		reg_out(d, R_DRIVER_FEATURE_SELECT, 4, i);
		reg_out(d, R_DRIVER_FEATURE, 4, (uint32_t)(features >> 32 * i));
	}
	status_add(d, S_FEATURES_OK);
	return status_in(d) & S_FEATURES_OK;
}

/* MSI-X on: vector i of @n is the message @data + i; the last one is for the configuration. */
static inline void driver_msix(struct driver *d, unsigned n, uint32_t data)
{
	config_out(d, d->msix + 2, 2, 0xc000);
	for (unsigned i = 0; i < n; i++) {
		driver_out(d, d->table + 16 * i, 4, 0xfee00000);
		driver_out(d, d->table + 16 * i + 4, 4, 0);
		driver_out(d, d->table + 16 * i + 8, 4, data + i);
		driver_out(d, d->table + 16 * i + 12, 4, 0);
	}
	config_out(d, d->msix + 2, 2, 0x8000);
	reg_out(d, R_CONFIG_VECTOR, 2, n - 1);
}

static inline gpa_t driver_alloc(struct driver *d, uint64_t len)
{
	gpa_t at = d->free;

	d->free += (len + 63) & ~63ull;
	return at;
}

static inline void queue_address(struct driver *d, unsigned reg, gpa_t at)
{
	reg_out(d, reg, 4, (uint32_t)at);
	reg_out(d, reg + 4, 4, (uint32_t)(at >> 32));
}

/* Set up queue @i with @size entries (0: as many as it offers) and @vector. */
static inline void driver_queue(struct driver *d, unsigned i, uint16_t size, uint16_t vector)
{
	struct driver_queue *q = &d->queue[i];

	reg_out(d, R_QUEUE_SELECT, 2, i);
	if (size)
		reg_out(d, R_QUEUE_SIZE, 2, size);
	*q = (struct driver_queue){ .size = (uint16_t)reg_in(d, R_QUEUE_SIZE, 2) };
	q->desc = driver_alloc(d, 16 * q->size);
	q->avail = driver_alloc(d, 6 + 2 * q->size);
	q->used = driver_alloc(d, 6 + 8 * q->size);
	memset(mem_host(&d->world->mem, q->desc, d->free - q->desc), 0, d->free - q->desc);
	for (unsigned space = 0; space < 2; space++)
		q->bell[space] =
		        d->notify[space] + d->multiplier * reg_in(d, R_QUEUE_NOTIFY_OFF, 2);
	reg_out(d, R_QUEUE_VECTOR, 2, vector);
	queue_address(d, R_QUEUE_DESC, q->desc);
	queue_address(d, R_QUEUE_DRIVER, q->avail);
	queue_address(d, R_QUEUE_DEVICE, q->used);
	reg_out(d, R_QUEUE_ENABLE, 2, 1);
}

/*
 * From reset to DRIVER_OK, with all queues; @size and @features as above. Each queue, and then the
 * configuration, has a vector of its own, the first with @data; 0: no vectors. Returns whether the
 * device accepted the features.
 */
static inline bool driver_start(struct driver *d, uint64_t features, uint16_t size, uint32_t data)
{
	unsigned n = reg_in(d, R_NUM_QUEUES, 2);

	if (!driver_negotiate(d, features))
		return false;
	if (data)
		driver_msix(d, n + 1, data);
	d->free = d->begin;
	for (unsigned i = 0; i < n; i++)
		driver_queue(d, i, size, data ? (uint16_t)i : NO_VECTOR);
	status_add(d, S_DRIVER_OK);
	return true;
}

static inline void *driver_host(struct driver *d, gpa_t gpa, uint64_t len)
{
	void *host = mem_host(&d->world->mem, gpa, len);

	assert(host);
	return host;
}

/* A piece of a chain. */
struct piece {
	gpa_t gpa;
	uint32_t len;
};

/*
 * Put @n pieces, the first @nout of them to be read, into a table of @size, from descriptor @at on.
 */
static inline void driver_fill(struct virtq_desc *table, unsigned at, unsigned size,
                               const struct piece *piece, unsigned nout, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		table[(at + i) % size] = (struct virtq_desc){
			.addr = piece[i].gpa,
			.len = piece[i].len,
			.flags = (uint16_t)((i < nout ? 0 : VIRTQ_DESC_F_WRITE) |
			                    (i + 1 < n ? VIRTQ_DESC_F_NEXT : 0)),
			.next = (uint16_t)((at + i + 1) % size),
		};
}

/* Make the chain of the next @n descriptors available. Returns its head. */
static inline uint16_t driver_publish(struct driver *d, unsigned i, unsigned n)
{
	struct driver_queue *q = &d->queue[i];
	struct virtq_avail *avail = driver_host(d, q->avail, 6 + 2 * q->size);
	uint16_t head = q->next % q->size;

	q->next = (uint16_t)(q->next + n);
	avail->ring[q->avail_idx++ & (q->size - 1)] = head;
	__atomic_store_n(&avail->idx, q->avail_idx, __ATOMIC_SEQ_CST);
	return head;
}

/* Offer @n pieces, the first @nout of them to be read. Returns the chain's head. */
static inline uint16_t driver_offer(struct driver *d, unsigned i, const struct piece *piece,
                                    unsigned nout, unsigned n)
{
	struct driver_queue *q = &d->queue[i];

	driver_fill(driver_host(d, q->desc, 16 * q->size), q->next, q->size, piece, nout, n);
	return driver_publish(d, i, n);
}

/*
 * Offer a request: @out bytes at @out_gpa to read and @in bytes at @in_gpa to write, either 0.
 * Returns its head.
 */
static inline uint16_t driver_add(struct driver *d, unsigned i, gpa_t out_gpa, uint32_t out,
                                  gpa_t in_gpa, uint32_t in)
{
	const struct piece piece[] = { { out_gpa, out }, { in_gpa, in } };

	if (!out)
		return driver_offer(d, i, piece + 1, 0, 1);
	return driver_offer(d, i, piece, 1, in ? 2 : 1);
}

static inline void driver_kick(struct driver *d, unsigned i)
{
	driver_out_to(d, d->kicks, d->queue[i].bell[d->kicks], 2, i);
}

/* Take the next used element; whether there is one. */
static inline bool driver_used(struct driver *d, unsigned i, struct virtq_used_elem *elem)
{
	struct driver_queue *q = &d->queue[i];
	const struct virtq_used *used = driver_host(d, q->used, 6 + 8 * q->size);

	if (__atomic_load_n(&used->idx, __ATOMIC_ACQUIRE) == q->used_idx)
		return false;
	*elem = used->ring[q->used_idx++ & (q->size - 1)];
	return true;
}

/* The next used element, as soon as it is there; the caller's thread runs the ring. */
static inline struct virtq_used_elem driver_wait(struct driver *d, unsigned i)
{
	struct virtq_used_elem elem;

	while (!driver_used(d, i, &elem))
		ring_step(&d->world->ring);
	return elem;
}

/* Reset the device and wait for it; the caller's thread runs the ring. */
static inline void driver_reset(struct driver *d)
{
	reg_out(d, R_STATUS, 1, 0);
	while (status_in(d))
		ring_step(&d->world->ring);
}

#endif
