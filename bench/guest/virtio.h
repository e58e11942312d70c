/*
 * The driver's side of virtio 1.2: devices on PCI and MMIO, split virtqueues whose chains never
 * change shape. A queue is cut into slots of equally many descriptors; slot i's chain is written
 * once, and offering it again is one store into the available ring.
 */
#ifndef BENCH_GUEST_VIRTIO_H
#define BENCH_GUEST_VIRTIO_H

#include "bench/guest/guest.h"

/* Device IDs (§5) and feature bits (§6). */
#define VIRTIO_ID_NET 1
#define VIRTIO_ID_BLK 2
#define VIRTIO_ID_RNG 4

#define FEATURE(n)             (1ull << (n))
#define VIRTIO_F_INDIRECT_DESC 28
#define VIRTIO_F_EVENT_IDX     29
#define VIRTIO_F_VERSION_1     32
#define VIRTIO_BLK_F_MQ        12

struct device {
	bool mmio;
	unsigned id;
	uint64_t features; /* negotiated */
	uint64_t common;   /* PCI: the common configuration; MMIO: all registers */
	uint64_t config;
	/* PCI */
	uint32_t address; /* for CONFIG_ADDRESS */
	uint64_t notify;
	uint32_t notify_multiplier;
	bool notify_by_port;
	uint64_t msix; /* table; 0: none */
	/* MMIO */
	unsigned gsi;
};

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

#define DESC_F_WRITE 2

/* A segment of every chain: @base + slot * @step. */
struct segment {
	uint64_t base;
	uint64_t step;
	uint32_t len;
	uint16_t flags; /* DESC_F_WRITE */
};

struct queue {
	struct device *device;
	uint64_t doorbell;
	uint16_t index;
	uint16_t size;
	uint16_t nslots;
	bool event_idx;
	struct desc *desc;
	volatile uint16_t *avail; /* flags, idx, ring[size], used_event */
	volatile uint16_t *used;  /* flags, idx, {id, len}[size] of 32 bits, avail_event */
	uint16_t avail_idx;       /* offered */
	uint16_t published;       /* of them, what the device can see */
	uint16_t used_idx;        /* taken back */
	uint16_t *head;           /* of slot */
	uint16_t *slot;           /* of head */
	uint64_t kicks;
};

/* Find the @nth device of type @id, on PCI or named by virtio_mmio.device=. */
bool device_find(struct device *device, unsigned id, unsigned nth);
/* The one that the job names, or the @nth behind it; or the end of the guest. */
void device_need(struct device *device, unsigned id, unsigned nth);

/*
 * Reset it and negotiate @wanted, the two ring features (unless the job switches them off) and
 * VERSION_1. With interrupts it raises one vector for all queues.
 */
void device_start(struct device *device, uint64_t wanted, bool with_interrupts);
void device_ready(struct device *device);
uint32_t device_config32(const struct device *device, unsigned at);
uint64_t device_config64(const struct device *device, unsigned at);
uint16_t device_config16(const struct device *device, unsigned at);

/*
 * Enable queue @index with at most @nslots slots (0: as many as fit) of @n segments each; several
 * segments are one indirect table where that is negotiated.
 */
void queue_init(struct queue *queue, struct device *device, uint16_t index, unsigned nslots,
                const struct segment *segment, unsigned n);
/* How many slots it can have. */
unsigned queue_room(struct device *device, uint16_t index, unsigned segments);

/* The local APIC: interrupts come in, the last one is over, send one to oneself, or by command. */
void lapic_start(void);
void lapic_end(void);
void lapic_interrupt_self(void);
void lapic_command(uint32_t icr);

/* Interrupt each time that @count ticks of a timer of LAPIC_TIMER_HZ are over. */
#define LAPIC_TIMER_HZ 62500000 /* KVM's and QEMU's have 1 GHz, which is divided by 16 */
void lapic_timer(uint32_t count);

/* Sleep until an interrupt comes. */
void interrupt_wait(void);
/* What it said is known; before its queues are looked at. */
void device_acknowledge(struct device *device);

/* Members about the transport and the queues: what was negotiated, kicks, interrupts. */
void device_print(const struct device *device, const struct queue *queue, unsigned n);

static inline void barrier(void)
{
	__asm__ volatile("lock addl $0, (%%rsp)" : : : "memory", "cc");
}

#define compiler_barrier() __asm__ volatile("" : : : "memory")

/* Offer @slot; queue_publish() shows it. */
static inline void queue_offer(struct queue *queue, uint16_t slot)
{
	queue->avail[2 + (queue->avail_idx++ & (queue->size - 1))] = queue->head[slot];
}

/* Where avail_event lies, and used_event (§2.7.10). */
static inline volatile uint16_t *queue_avail_event(const struct queue *queue)
{
	return queue->used + 2 + 4 * queue->size;
}

static inline volatile uint16_t *queue_used_event(const struct queue *queue)
{
	return queue->avail + 2 + queue->size;
}

static inline void queue_kick(const struct queue *queue)
{
	if (queue->device->mmio)
		mmio_set32(queue->doorbell, queue->index);
	else if (queue->device->notify_by_port)
		outw((uint16_t)queue->doorbell, queue->index);
	else
		mmio_set16(queue->doorbell, queue->index);
}

/* Show what was offered, and kick if the device wants that (§2.7.13). */
static inline void queue_publish(struct queue *queue)
{
	uint16_t old = queue->published, now = queue->avail_idx;
	bool wanted;

	if (old == now)
		return;
	compiler_barrier();
	queue->avail[1] = now;
	queue->published = now;
	barrier(); /* the device: writes its wish, then reads idx */
	if (queue->event_idx)
		wanted = (uint16_t)(now - *queue_avail_event(queue) - 1) < (uint16_t)(now - old);
	else
		wanted = !(queue->used[0] & 1);
	if (!wanted)
		return;
	queue->kicks++;
	queue_kick(queue);
}

/* The next slot that came back, and how many bytes were written to it; -1: none. */
static inline int queue_take(struct queue *queue, uint32_t *written)
{
	const volatile uint32_t *elem;

	if (queue->used[1] == queue->used_idx)
		return -1;
	compiler_barrier();
	elem = (const volatile uint32_t *)(queue->used + 2) +
	       2 * (queue->used_idx++ & (queue->size - 1));
	*written = elem[1];
	return queue->slot[elem[0] & (queue->size - 1)];
}

/* Interrupt when one more comes back. Returns whether it has come already. */
static inline bool queue_interrupts_on(struct queue *queue)
{
	if (queue->event_idx)
		*queue_used_event(queue) = queue->used_idx;
	else
		queue->avail[0] = 0;
	barrier(); /* the device: writes idx, then reads the wish */
	return queue->used[1] != queue->used_idx;
}

/* No interrupts: the event lies half the numbers behind. */
static inline void queue_interrupts_off(struct queue *queue)
{
	if (queue->event_idx)
		*queue_used_event(queue) = (uint16_t)(queue->used_idx - 1 - 0x4000);
	else
		queue->avail[0] = 1;
}

#endif
