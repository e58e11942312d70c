/*
 * job=exits: what it costs to leave the guest, by each way out.
 */
#include "bench/guest/virtio.h"

#define PORT_POST 0x80

static struct {
	struct device device; /* an entropy source, where there is one */
	struct queue queue;
} world;

static void do_nothing(void)
{
}

static void do_cpuid(void)
{
	cpuid(0);
}

static void do_port(void)
{
	inb(PORT_POST);
}

static void do_mmio(void)
{
	mmio_get32(world.device.common);
}

/* A kick for nothing: the queue is enabled and empty. */
static void do_kick(void)
{
	queue_kick(&world.queue);
}

static void do_apic(void)
{
	lapic_end();
}

static void do_ring0(void)
{
	ring0(ring0_nothing, 0, 0, 0);
}

/* From asking for it, over waking up, to its end. */
static void do_interrupt(void)
{
	lapic_interrupt_self();
	ring0(ring0_halt, 0, 0, 0);
	lapic_end();
}

static const struct {
	const char *name;
	void (*run)(void);
	bool with_device;
} ways[] = {
	{ "nothing", do_nothing, false }, /* the clock itself */
	{ "cpuid", do_cpuid, false },     /* handled by KVM */
	{ "apic", do_apic, false },       /* likewise, MMIO */
	{ "port", do_port, false },       /* to the monitor */
	{ "mmio", do_mmio, true },        /* likewise */
	{ "kick", do_kick, true },        /* an ioeventfd */
	{ "ring0", do_ring0, false },     /* an exception and its IRET */
	{ "interrupt", do_interrupt, false },
};

#define WAYS (sizeof(ways) / sizeof(ways[0]))

static void way_measure(size_t i, uint64_t ticks)
{
	struct histogram *h = memory_take(sizeof(*h), 64);
	uint64_t start = rdtsc(), least = UINT64_MAX, now, before;

	do {
		before = rdtsc();
		ways[i].run();
		now = rdtsc();
		histogram_add(h, now - before);
		if (now - before < least)
			least = now - before;
	} while (now - start < ticks);

	out_text(i ? ", {\"way\": \"" : "{\"way\": \"");
	out_text(ways[i].name);
	out_text("\"");
	member_number("n", h->n);
	member_fixed("least_us", clock_ns(least));
	histogram_print(h);
	out_text("}");
}

void exits_job(void)
{
	uint64_t ticks =
	        job_number("time_ms", 1000 * job_number("time", 5)) * clock_hz() / 1000 / WAYS;
	bool found = device_find(&world.device, VIRTIO_ID_RNG, 0);

	lapic_start();
	if (found) {
		void *buffer = memory_take(64, 64);
		const struct segment segment = { (uintptr_t)buffer, 0, 64, DESC_F_WRITE };

		device_start(&world.device, 0, false);
		queue_init(&world.queue, &world.device, 0, 1, &segment, 1);
		device_ready(&world.device);
	}
	out_text("\n{\"job\": \"exits\", \"ways\": [");
	for (size_t i = 0; i < WAYS; i++)
		if (found || !ways[i].with_device)
			way_measure(i, ticks);
	out_text("]");
}
