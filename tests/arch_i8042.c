/* The keyboard controller's ports: nobody there, but the reset line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "arch/x86/i8042.h"
#include "arch/x86/layout.h"

#define DATA    0x60
#define COMMAND 0x64

struct machine {
	struct power power;
	struct i8042 i8042;
	struct bus bus;
};

static int setup(void **state)
{
	static struct machine machine;

	machine = (struct machine){ 0 };
	i8042_init(&machine.i8042, &machine.power);
	*state = &machine;
	return power_init(&machine.power) || i8042_attach(&machine.i8042, &machine.bus);
}

static int teardown(void **state)
{
	struct machine *machine = *state;

	power_fini(&machine->power);
	return 0;
}

static uint8_t in(struct machine *machine, uint16_t port)
{
	uint8_t value;

	bus_access(&machine->bus, BUS_PORT, port, &value, 1, false);
	return value;
}

static void out(struct machine *machine, uint16_t port, uint8_t value)
{
	bus_access(&machine->bus, BUS_PORT, port, &value, 1, true);
}

/* Linux: i8042_flush() gives up when there is always one more byte, without any wait for one. */
static void probe_finds_nobody(void **state)
{
	struct machine *machine = *state;

	for (int i = 0; i < 17; i++) {
		assert_true(in(machine, COMMAND) & 0x01);  /* output buffer full */
		assert_false(in(machine, COMMAND) & 0x02); /* input buffer full */
		assert_int_equal(in(machine, DATA), 0xff);
	}
}

static void other_commands_do_not_reset(void **state)
{
	struct machine *machine = *state;

	for (unsigned command = 0; command < 0x100; command++)
		if (command < 0xf0 || command & 1)
			out(machine, COMMAND, (uint8_t)command);
	out(machine, DATA, 0x00);
	assert_int_equal(power_state(&machine->power), POWER_ON);
}

static void pulse_resets(void **state)
{
	struct machine *machine = *state;

	out(machine, COMMAND, 0xfe);
	assert_int_equal(power_state(&machine->power), POWER_RESET);
}

static void output_port_resets(void **state)
{
	struct machine *machine = *state;

	out(machine, COMMAND, 0xd1);
	out(machine, DATA, 0xdf); /* A20 on, reset line high */
	out(machine, DATA, 0x00); /* to the keyboard */
	assert_int_equal(power_state(&machine->power), POWER_ON);
	out(machine, COMMAND, 0xd1);
	out(machine, DATA, 0xde);
	assert_int_equal(power_state(&machine->power), POWER_RESET);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(probe_finds_nobody),
		TEST(other_commands_do_not_reset),
		TEST(pulse_resets),
		TEST(output_port_resets),
	};

	return cmocka_run_group_tests_name("arch_i8042", tests, NULL, NULL);
}
