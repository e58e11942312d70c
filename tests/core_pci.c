/* PCI configuration space, by ports and by ECAM; and the reset register in between. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "core/pci.h"

#define PORTS 0xcf8
#define ECAM  0xe0000000ull

struct fixture {
	struct bus bus;
	struct power power;
	struct pci pci;
	struct pci_device device;
};

static int setup(void **state)
{
	static struct fixture f;

	memset(&f, 0, sizeof(f));
	power_init(&f.power);
	pci_init(&f.pci, &f.power);
	pci_set16(&f.device, PCI_VENDOR_ID, 0x1af4);
	pci_set16(&f.device, PCI_DEVICE_ID, 0x1042);
	f.device.writable[PCI_COMMAND] = 0x07;
	assert_int_equal(pci_add(&f.pci, &f.device, 3), 0);
	assert_int_equal(pci_attach(&f.pci, &f.bus, &(struct pci_config){ PORTS, ECAM }), 0);
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	pci_fini(&f->pci);
	power_fini(&f->power);
	return 0;
}

static uint32_t in(struct fixture *f, enum bus_space space, uint64_t addr, unsigned len)
{
	uint32_t value = 0;

	bus_access(&f->bus, space, addr, &value, len, false);
	return value;
}

static void out(struct fixture *f, enum bus_space space, uint64_t addr, unsigned len,
                uint32_t value)
{
	bus_access(&f->bus, space, addr, &value, len, true);
}

static void ports_reach_config(void **state)
{
	struct fixture *f = *state;

	out(f, BUS_PORT, PORTS, 4, 0x80000000 | 3 << 11);
	assert_int_equal(in(f, BUS_PORT, PORTS, 4), 0x80000000 | 3 << 11);
	assert_int_equal(in(f, BUS_PORT, PORTS + 4, 4), 0x10421af4);
	assert_int_equal(in(f, BUS_PORT, PORTS + 6, 2), 0x1042);
	assert_int_equal(in(f, BUS_PORT, PORTS + 5, 1), 0x1a);

	out(f, BUS_PORT, PORTS, 4, 0x80000000 | 3 << 11 | PCI_COMMAND);
	out(f, BUS_PORT, PORTS + 4, 2, 0xffff);
	assert_int_equal(in(f, BUS_PORT, PORTS + 4, 2), 0x0007);
}

static void absent_is_all_ones(void **state)
{
	struct fixture *f = *state;
	static const uint32_t absent[] = {
		4 << 11,          /* an empty slot */
		3 << 11 | 1 << 8, /* a second function */
		1 << 16 | 3 << 11 /* another bus */
	};

	for (unsigned i = 0; i < 3; i++) {
		out(f, BUS_PORT, PORTS, 4, 0x80000000 | absent[i]);
		assert_int_equal(in(f, BUS_PORT, PORTS + 4, 4), 0xffffffff);
	}
	out(f, BUS_PORT, PORTS, 4, 3 << 11); /* not enabled */
	assert_int_equal(in(f, BUS_PORT, PORTS + 4, 4), 0xffffffff);
}

static void ecam_reaches_config(void **state)
{
	struct fixture *f = *state;
	uint64_t device = ECAM + (3 << 15);

	assert_int_equal(in(f, BUS_MMIO, ECAM, 4), 0x00081b36); /* the host bridge */
	assert_int_equal(in(f, BUS_MMIO, ECAM + PCI_CLASS, 1), 0x06);
	assert_int_equal(in(f, BUS_MMIO, device, 4), 0x10421af4);
	out(f, BUS_MMIO, device + PCI_COMMAND, 4, 0xffffffff);
	assert_int_equal(in(f, BUS_MMIO, device + PCI_COMMAND, 4), 0x7);
	out(f, BUS_MMIO, device, 4, 0); /* identity is read-only */
	assert_int_equal(in(f, BUS_MMIO, device, 4), 0x10421af4);

	assert_int_equal(in(f, BUS_MMIO, device + 0xfe, 4), 0xffffffff); /* over the end */
	assert_int_equal(in(f, BUS_MMIO, device + 0x100, 4), 0xffffffff);
	assert_int_equal(in(f, BUS_MMIO, device + 0x1000, 4), 0xffffffff); /* function 1 */
	assert_int_equal(in(f, BUS_MMIO, ECAM + (31 << 15), 4), 0xffffffff);
}

static void reset_register(void **state)
{
	struct fixture *f = *state;

	out(f, BUS_PORT, PORTS, 4, 0xffffffff); /* no reset: that is CONFIG_ADDRESS */
	out(f, BUS_PORT, 0xcf9, 1, 0x02);
	assert_int_equal(in(f, BUS_PORT, 0xcf9, 1), 0x02);
	assert_int_equal(power_state(&f->power), POWER_ON);
	out(f, BUS_PORT, 0xcf9, 1, 0x06);
	assert_int_equal(power_state(&f->power), POWER_RESET);
}

static void a_slot_is_taken_once(void **state)
{
	struct fixture *f = *state;
	struct pci_device other = { 0 };

	assert_int_equal(pci_add(&f->pci, &other, 0), -EBUSY);
	assert_int_equal(pci_add(&f->pci, &other, 3), -EBUSY);
	assert_int_equal(pci_add(&f->pci, &other, 32), -EBUSY);
	assert_int_equal(pci_add(&f->pci, &other, 31), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(ports_reach_config, setup, teardown),
		cmocka_unit_test_setup_teardown(absent_is_all_ones, setup, teardown),
		cmocka_unit_test_setup_teardown(ecam_reaches_config, setup, teardown),
		cmocka_unit_test_setup_teardown(reset_register, setup, teardown),
		cmocka_unit_test_setup_teardown(a_slot_is_taken_once, setup, teardown),
	};

	return cmocka_run_group_tests_name("core_pci", tests, NULL, NULL);
}
