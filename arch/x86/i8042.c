/*
 * Ports 0x60 and 0x64 of a PC without a keyboard controller (IBM PC AT Technical Reference,
 * "Keyboard Controller"), as they float: all ones. That is the quickest answer to a probe. Told by
 * ACPI (FADT, IAPC_BOOT_ARCH), Linux does not look at all; without ACPI it drains an output buffer
 * that never runs empty and gives up after 33 accesses and 16 x 50 us, with "No controller found".
 * A controller without a keyboard would cost it timeouts of 200 ms each, as nothing acknowledges
 * its commands.
 *
 * Two things differ from an empty socket. Input Buffer Full reads clear, for who resets the machine
 * waits for that; and what pulls the CPU's reset line does reset the machine.
 */
#include <stddef.h>

#include "arch/x86/i8042.h"
#include "arch/x86/layout.h"

#define STATUS_IBF         0x02
#define WRITE_OUTPUT_PORT  0xd1
#define PULSE_OUTPUT_PORT  0xf0 /* low nibble: 0 pulses that bit's line low */
#define OUTPUT_PORT_NRESET 0x01

static uint64_t status_read(void *dev, uint64_t off, unsigned len)
{
	(void)dev;
	(void)off;
	(void)len;
	return (uint8_t)~STATUS_IBF;
}

static void command_write(void *dev, uint64_t off, unsigned len, uint64_t value)
{
	struct i8042 *i8042 = dev;

	(void)off;
	(void)len;
	i8042->output_port = value == WRITE_OUTPUT_PORT;
	if ((value & (PULSE_OUTPUT_PORT | OUTPUT_PORT_NRESET)) == PULSE_OUTPUT_PORT)
		power_request(i8042->power, POWER_RESET);
}

static void data_write(void *dev, uint64_t off, unsigned len, uint64_t value)
{
	struct i8042 *i8042 = dev;

	(void)off;
	(void)len;
	if (i8042->output_port && !(value & OUTPUT_PORT_NRESET))
		power_request(i8042->power, POWER_RESET);
	i8042->output_port = false;
}

static const struct bus_ops data_ops = { .write = data_write };
static const struct bus_ops command_ops = { .read = status_read, .write = command_write };

void i8042_init(struct i8042 *i8042, struct power *power)
{
	*i8042 = (struct i8042){ .power = power };
}

int i8042_attach(struct i8042 *i8042, struct bus *bus)
{
	const struct bus_range data = { PORT_I8042, 1, "i8042-data", &data_ops, i8042 };
	const struct bus_range command = { PORT_I8042 + 4, 1, "i8042-command", &command_ops,
		                           i8042 };
	int err = bus_add(bus, BUS_PORT, &data);

	return err ? err : bus_add(bus, BUS_PORT, &command);
}
