/* ACPI's fixed hardware: what ACPICA writes and expects to read, and when the machine goes off. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <time.h>

#include <cmocka.h>

#include "arch/x86/acpi.h"
#include "arch/x86/layout.h"
#include "arch/x86/pm.h"

#define SLP_EN   0x2000
#define SLP(typ) ((uint16_t)((typ) << 10))

struct machine {
	struct power power;
	struct pm pm;
	struct bus bus;
};

static int setup(void **state)
{
	static struct machine machine;

	machine = (struct machine){ 0 };
	pm_init(&machine.pm, &machine.power);
	*state = &machine;
	return power_init(&machine.power) || pm_attach(&machine.pm, &machine.bus);
}

static int teardown(void **state)
{
	struct machine *machine = *state;

	power_fini(&machine->power);
	return 0;
}

static uint32_t in(struct machine *machine, uint16_t port, unsigned len)
{
	uint32_t value = 0;

	assert_true(bus_access(&machine->bus, BUS_PORT, port, &value, len, false));
	return value;
}

static void out(struct machine *machine, uint16_t port, unsigned len, uint32_t value)
{
	assert_true(bus_access(&machine->bus, BUS_PORT, port, &value, len, true));
}

static void events(void **state)
{
	struct machine *machine = *state;

	assert_int_equal(in(machine, PORT_PM1_EVT, 2), 0);
	out(machine, PORT_PM1_EVT, 2, 0xffff);
	assert_int_equal(in(machine, PORT_PM1_EVT, 2), 0);

	out(machine, PORT_PM1_EVT + 2, 2, 0x0121);
	assert_int_equal(in(machine, PORT_PM1_EVT + 2, 2), 0x0121);
	out(machine, PORT_PM1_EVT + 3, 1, 0x02);
	assert_int_equal(in(machine, PORT_PM1_EVT, 4), 0x02210000);
	assert_int_equal(in(machine, PORT_PM1_EVT + 3, 1), 0x02);
}

static void control_reads_back(void **state)
{
	struct machine *machine = *state;

	assert_int_equal(in(machine, PORT_PM1_CNT, 2), 0x0001); /* ACPI mode */
	out(machine, PORT_PM1_CNT, 2, 0);
	assert_int_equal(in(machine, PORT_PM1_CNT, 2), 0x0001);
	out(machine, PORT_PM1_CNT, 2, SLP(3) | 0x0002);
	assert_int_equal(in(machine, PORT_PM1_CNT, 2), SLP(3) | 0x0003);
	assert_int_equal(power_state(&machine->power), POWER_ON);
}

static void only_s5_powers_off(void **state)
{
	struct machine *machine = *state;

	for (unsigned typ = 0; typ < 8; typ++) {
		out(machine, PORT_PM1_CNT, 2, SLP(typ));
		if (typ != ACPI_SLP_TYP_S5)
			out(machine, PORT_PM1_CNT, 2, SLP(typ) | SLP_EN);
	}
	assert_int_equal(in(machine, PORT_PM1_CNT, 2) & SLP_EN, 0);
	assert_int_equal(power_state(&machine->power), POWER_ON);
	out(machine, PORT_PM1_CNT, 2, SLP(ACPI_SLP_TYP_S5) | SLP_EN);
	assert_int_equal(power_state(&machine->power), POWER_OFF);
}

static void powers_off_by_bytes(void **state)
{
	struct machine *machine = *state;

	out(machine, PORT_PM1_CNT + 1, 1, (SLP(ACPI_SLP_TYP_S5) | SLP_EN) >> 8);
	assert_int_equal(power_state(&machine->power), POWER_OFF);
}

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ll + now.tv_nsec;
}

/* The ticks between two reads lie between what the clock says inside and outside of them. */
static void timer_counts(void **state)
{
	struct machine *machine = *state;
	const struct timespec nap = { .tv_nsec = 20000000 };
	int64_t before_first = now_ns();
	uint32_t first = in(machine, PORT_PM_TMR, 4);
	int64_t after_first = now_ns();

	nanosleep(&nap, NULL);
	int64_t before_last = now_ns();
	uint32_t ticks = in(machine, PORT_PM_TMR, 4) - first;
	int64_t after_last = now_ns();

	assert_in_range(ticks, (before_last - after_first) * 3579545 / 1000000000 - 1,
	                (after_last - before_first) * 3579545 / 1000000000 + 1);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(events),
		TEST(control_reads_back),
		TEST(only_s5_powers_off),
		TEST(powers_off_by_bytes),
		TEST(timer_counts),
	};

	return cmocka_run_group_tests_name("arch_pm", tests, NULL, NULL);
}
