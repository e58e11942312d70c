/* Ports without a device behind them: who hears of a byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "arch/x86/layout.h"
#include "arch/x86/ports.h"

struct heard {
	unsigned marks, debugs;
	uint8_t mark, debug;
};

static void mark(void *arg, uint8_t value)
{
	struct heard *heard = arg;

	heard->marks++;
	heard->mark = value;
}

static void debug(void *arg, uint8_t value)
{
	struct heard *heard = arg;

	heard->debugs++;
	heard->debug = value;
}

static const struct ports_ops both = { .mark = mark, .debug = debug };
static const struct ports_ops no_debug = { .mark = mark };

static uint8_t in(const struct bus *bus, uint16_t port)
{
	uint8_t value;

	bus_access(bus, BUS_PORT, port, &value, 1, false);
	return value;
}

static void out(const struct bus *bus, uint16_t port, uint8_t value)
{
	bus_access(bus, BUS_PORT, port, &value, 1, true);
}

static void tells_the_host(void **state)
{
	struct heard heard = { 0 };
	struct ports ports;
	struct bus bus = { 0 };

	(void)state;
	ports_init(&ports, &both, &heard);
	assert_int_equal(ports_attach(&ports, &bus), 0);

	out(&bus, PORT_MARKER, 7);
	assert_int_equal(heard.marks, 1);
	assert_int_equal(heard.mark, 7);
	assert_int_equal(heard.debugs, 0);

	assert_int_equal(in(&bus, PORT_FW_DEBUG), 0xe9);
	out(&bus, PORT_FW_DEBUG, 'x');
	assert_int_equal(heard.debugs, 1);
	assert_int_equal(heard.debug, 'x');

	out(&bus, PORT_POST, 0x55);
	assert_int_equal(in(&bus, PORT_POST), 0x55);
	assert_int_equal(ports.post, 0x55);
	assert_int_equal(heard.marks + heard.debugs, 2);
}

static void firmware_finds_no_debug_port(void **state)
{
	struct heard heard = { 0 };
	struct ports ports;
	struct bus bus = { 0 };

	(void)state;
	ports_init(&ports, &no_debug, &heard);
	assert_int_equal(ports_attach(&ports, &bus), 0);
	assert_int_equal(in(&bus, PORT_FW_DEBUG), 0xff);
	out(&bus, PORT_FW_DEBUG, 'x');
	out(&bus, PORT_MARKER, 1);
	assert_int_equal(heard.marks, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tells_the_host),
		cmocka_unit_test(firmware_finds_no_debug_port),
	};

	return cmocka_run_group_tests_name("arch_ports", tests, NULL, NULL);
}
