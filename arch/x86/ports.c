/*
 * One-byte ports without a device behind them. Ports that a PC's guest touches for their delay or
 * out of habit (0xed, the DMA controllers, absent serial ports) need no device: nobody answers
 * them.
 */
#include <stddef.h>

#include "arch/x86/layout.h"
#include "arch/x86/ports.h"

#define FW_DEBUG_PRESENT 0xe9 /* what firmware reads there before it writes (as with Bochs) */

/* The POST card's latch is the DMA page register file's first byte, which reads back. */
static uint64_t post_read(void *dev, uint64_t off, unsigned len)
{
	struct ports *ports = dev;

	(void)off;
	(void)len;
	return ports->post;
}

static void post_write(void *dev, uint64_t off, unsigned len, uint64_t value)
{
	struct ports *ports = dev;

	(void)off;
	(void)len;
	ports->post = (uint8_t)value;
}

static uint64_t debug_read(void *dev, uint64_t off, unsigned len)
{
	(void)dev;
	(void)off;
	(void)len;
	return FW_DEBUG_PRESENT;
}

static void debug_write(void *dev, uint64_t off, unsigned len, uint64_t value)
{
	struct ports *ports = dev;

	(void)off;
	(void)len;
	ports->ops->debug(ports->arg, (uint8_t)value);
}

static void marker_write(void *dev, uint64_t off, unsigned len, uint64_t value)
{
	struct ports *ports = dev;

	(void)off;
	(void)len;
	ports->ops->mark(ports->arg, (uint8_t)value);
}

static const struct bus_ops post_ops = { .read = post_read, .write = post_write };
static const struct bus_ops debug_ops = { .read = debug_read, .write = debug_write };
static const struct bus_ops marker_ops = { .write = marker_write };

void ports_init(struct ports *ports, const struct ports_ops *ops, void *arg)
{
	*ports = (struct ports){ .ops = ops, .arg = arg };
}

int ports_attach(struct ports *ports, struct bus *bus)
{
	const struct bus_range post = { PORT_POST, 1, "post", &post_ops, ports };
	const struct bus_range debug = { PORT_FW_DEBUG, 1, "fw-debug", &debug_ops, ports };
	const struct bus_range marker = { PORT_MARKER, 1, "marker", &marker_ops, ports };
	int err = bus_add(bus, BUS_PORT, &post);

	if (!err && ports->ops->debug)
		err = bus_add(bus, BUS_PORT, &debug);
	return err ? err : bus_add(bus, BUS_PORT, &marker);
}
