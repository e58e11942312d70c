/*
 * job=idle: what a system does that has nothing to do. Its disks are set up; each processor sleeps,
 * and is woken by the timer of its local APIC so many times a second. The other processors run
 * entry.S's ap_start.
 */
#include "bench/guest/virtio.h"

#define AP_VECTOR  (AP_PAGE >> 12)
#define GATE_RING0 0x8e00
#define CS_RING0   0x38 /* 32-bit */

/* SDM vol. 3 §11.6.1: to all but oneself, level asserted. */
#define ICR_INIT    0xc4500
#define ICR_STARTUP 0xc4600

extern const char ap_start[], ap_end[], ap_interrupt[];
extern volatile uint64_t ap_idt[VECTOR_DEVICE + 1];
extern volatile uint32_t ap_count, ap_interrupts, idle_timer;

static uint64_t ms_to_ticks(uint64_t ms)
{
	return ms * clock_hz() / 1000;
}

/* SDM vol. 3 §9.4.4.1. They are in protected mode, without paging. */
static void processors_start(void)
{
	uint64_t at = (uintptr_t)ap_interrupt;
	uint64_t start = rdtsc();

	ap_idt[VECTOR_DEVICE] =
	        (at & 0xffff) | CS_RING0 << 16 | (uint64_t)GATE_RING0 << 32 | at >> 16 << 48;
	memcpy((void *)AP_PAGE, ap_start, (uintptr_t)ap_end - (uintptr_t)ap_start);
	lapic_command(ICR_INIT);
	while (rdtsc() - start < ms_to_ticks(10))
		;
	lapic_command(ICR_STARTUP | AP_VECTOR);
}

/* As a driver leaves it: all queues enabled, and empty. */
static void disk_start(unsigned nth, unsigned nqueues)
{
	static const struct segment request = { 0, 0, 512, DESC_F_WRITE };
	struct device *device = memory_take(sizeof(*device), 64);
	struct queue *queue = memory_take(nqueues * sizeof(*queue), 64);

	device_need(device, VIRTIO_ID_BLK, nth);
	device_start(device, FEATURE(VIRTIO_BLK_F_MQ), false);
	for (unsigned i = 0; i < nqueues; i++)
		queue_init(&queue[i], device, (uint16_t)i, 0, &request, 1);
	device_ready(device);
}

void idle_job(void)
{
	uint64_t hz = job_number("hz", 10);
	uint64_t ms = job_number("time_ms", 1000 * job_number("time", 5));
	uint64_t start, now, before;

	if (!hz || hz > 10000)
		guest_fail("hz= is from 1 to 10000");
	idle_timer = (uint32_t)(LAPIC_TIMER_HZ / hz);
	for (unsigned i = 0; i < job_number("disks", 0); i++)
		disk_start(i, (unsigned)job_number("queues", 1));
	lapic_start();
	processors_start();
	lapic_timer(idle_timer);
	start = rdtsc();
	before = interrupts + ap_interrupts;
	do {
		interrupt_wait();
		now = rdtsc();
	} while (!ms || now - start < ms_to_ticks(ms));

	out_text("\n{\"job\": \"idle\"");
	member_number("hz", hz);
	member_number("cpus", 1 + ap_count);
	member_fixed("seconds", clock_ns(now - start) / 1000000);
	member_number("interrupts", interrupts + ap_interrupts - before);
}
