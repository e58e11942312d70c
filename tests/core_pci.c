/* PCI configuration space, by ports and by ECAM; and the reset register in between. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "core/pci.h"
#include "tests/fake_kvm.h"

#define PORTS 0xcf8
#define ECAM  0xe0000000ull
#define MMIO  0xc0000000ull
#define IO    0xc000
#define SLOT  1

struct fixture {
	struct bus bus;
	struct power power;
	struct pci pci;
	struct pci_device device;
	unsigned moves;
	uint64_t base, off, value;
};

static uint64_t bar_read(void *dev, uint64_t off, unsigned len)
{
	struct fixture *f = dev;

	f->off = off;
	return 0xab00 + len;
}

static void bar_write(void *dev, uint64_t off, unsigned len, uint64_t value)
{
	struct fixture *f = dev;

	f->off = off + len * 0x10000;
	f->value = value;
}

static void bar_moved(void *dev, uint64_t base)
{
	struct fixture *f = dev;

	f->moves++;
	f->base = base;
}

static const struct bus_ops bar_ops = { .read = bar_read, .write = bar_write };

static int setup(void **state)
{
	static struct fixture f;

	memset(&f, 0, sizeof(f));
	power_init(&f.power);
	pci_init(&f.pci, &(struct pci_config){ PORTS, ECAM, MMIO, 0x10000, IO, 0x100 }, &f.power);
	pci_set16(&f.device, PCI_VENDOR_ID, 0x1af4);
	pci_set16(&f.device, PCI_DEVICE_ID, 0x1042);
	f.device.writable[PCI_COMMAND] = 0x07;
	f.device.bar[0] = (struct pci_bar){ BUS_MMIO, 0x2000, &bar_ops, &f, bar_moved, 0 };
	f.device.bar[1] = (struct pci_bar){ BUS_PORT, 0x40, &bar_ops, &f, bar_moved, 0 };
	assert_int_equal(pci_add(&f.pci, &f.device), SLOT);
	assert_int_equal(pci_attach(&f.pci, &f.bus), 0);
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

	out(f, BUS_PORT, PORTS, 4, 0x80000000 | SLOT << 11);
	assert_int_equal(in(f, BUS_PORT, PORTS, 4), 0x80000000 | SLOT << 11);
	assert_int_equal(in(f, BUS_PORT, PORTS + 4, 4), 0x10421af4);
	assert_int_equal(in(f, BUS_PORT, PORTS + 6, 2), 0x1042);
	assert_int_equal(in(f, BUS_PORT, PORTS + 5, 1), 0x1a);

	out(f, BUS_PORT, PORTS, 4, 0x80000000 | SLOT << 11 | PCI_COMMAND);
	out(f, BUS_PORT, PORTS + 4, 2, 0xffff);
	assert_int_equal(in(f, BUS_PORT, PORTS + 4, 2), 0x0007);
}

static void absent_is_all_ones(void **state)
{
	struct fixture *f = *state;
	static const uint32_t absent[] = {
		4 << 11,             /* an empty slot */
		SLOT << 11 | 1 << 8, /* a second function */
		1 << 16 | SLOT << 11 /* another bus */
	};

	for (unsigned i = 0; i < 3; i++) {
		out(f, BUS_PORT, PORTS, 4, 0x80000000 | absent[i]);
		assert_int_equal(in(f, BUS_PORT, PORTS + 4, 4), 0xffffffff);
	}
	out(f, BUS_PORT, PORTS, 4, SLOT << 11); /* not enabled */
	assert_int_equal(in(f, BUS_PORT, PORTS + 4, 4), 0xffffffff);
}

static void ecam_reaches_config(void **state)
{
	struct fixture *f = *state;
	uint64_t device = ECAM + (SLOT << 15);

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

static void the_bar_moves(void **state)
{
	struct fixture *f = *state;
	uint64_t device = ECAM + (SLOT << 15);

	assert_int_equal(in(f, BUS_MMIO, device + PCI_BAR0, 4), MMIO); /* assigned, still off */
	assert_int_equal(in(f, BUS_MMIO, MMIO, 4), 0xffffffff);
	assert_int_equal(f->moves, 0);

	out(f, BUS_MMIO, device + PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	assert_int_equal(f->base, MMIO);
	assert_int_equal(in(f, BUS_MMIO, MMIO + 0x1ffe, 2), 0xab02);
	assert_int_equal(f->off, 0x1ffe);
	assert_int_equal(in(f, BUS_MMIO, MMIO + 0x1ffe, 4), 0xffffffff); /* over its end */
	assert_int_equal(in(f, BUS_MMIO, MMIO + 0x2000, 1), 0xff);

	/* Sizing, and a new place. */
	out(f, BUS_MMIO, device + PCI_BAR0, 4, 0xffffffff);
	assert_int_equal(in(f, BUS_MMIO, device + PCI_BAR0, 4), 0xffffe000);
	out(f, BUS_MMIO, device + PCI_BAR0, 4, MMIO + 0x8000);
	assert_int_equal(f->base, MMIO + 0x8000);
	assert_int_equal(in(f, BUS_MMIO, MMIO, 4), 0xffffffff);
	out(f, BUS_MMIO, MMIO + 0x8010, 4, 0x1234);
	assert_int_equal(f->off, 0x40010);
	assert_int_equal(f->value, 0x1234);

	/* Outside the window it answers nowhere. */
	static const uint32_t outside[] = { 0x10000000, MMIO - 0x2000, MMIO + 0x10000 };

	for (unsigned i = 0; i < 3; i++) {
		out(f, BUS_MMIO, device + PCI_BAR0, 4, MMIO + 0x8000);
		assert_int_equal(f->base, MMIO + 0x8000);
		out(f, BUS_MMIO, device + PCI_BAR0, 4, outside[i]);
		assert_int_equal(f->base, 0);
	}
	assert_int_equal(in(f, BUS_MMIO, 0x10000000, 4), 0xffffffff);
	out(f, BUS_MMIO, device + PCI_COMMAND, 2, 0);
	assert_int_equal(f->base, 0);
}

static void ports_move(void **state)
{
	struct fixture *f = *state;
	uint64_t device = ECAM + (SLOT << 15);

	assert_int_equal(in(f, BUS_MMIO, device + PCI_BAR1, 4), IO | 1);
	out(f, BUS_MMIO, device + PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	assert_int_equal(in(f, BUS_PORT, IO, 4), 0xffffffff);
	out(f, BUS_MMIO, device + PCI_COMMAND, 2, PCI_COMMAND_IO);
	assert_int_equal(f->base, IO);
	assert_int_equal(in(f, BUS_PORT, IO + 0x3e, 2), 0xab02);
	assert_int_equal(f->off, 0x3e);
	assert_int_equal(in(f, BUS_PORT, IO + 0x3e, 4), 0xffffffff); /* over its end */
	assert_int_equal(in(f, BUS_MMIO, MMIO, 4), 0xffffffff);

	out(f, BUS_MMIO, device + PCI_BAR1, 4, 0xffffffff);
	assert_int_equal(in(f, BUS_MMIO, device + PCI_BAR1, 4), 0xffffffc1);
	out(f, BUS_MMIO, device + PCI_BAR1, 4, IO + 0x80);
	assert_int_equal(f->base, IO + 0x80);
	assert_int_equal(in(f, BUS_PORT, IO, 1), 0xff);
	out(f, BUS_PORT, IO + 0x84, 2, 0x12);
	assert_int_equal(f->off, 0x20004);
	assert_int_equal(f->value, 0x12);
	out(f, BUS_MMIO, device + PCI_BAR1, 4, 0x300);
	assert_int_equal(f->base, 0);
}

static void count_reads(struct pci_device *device, unsigned reg, unsigned len)
{
	if (reg == 0x80 && len == 4)
		pci_set32(device, 0x80, pci_get32(device, 0x80) + 1);
}

static void a_device_may_look_first(void **state)
{
	struct fixture *f = *state;
	uint64_t device = ECAM + (SLOT << 15);

	f->device.reading = count_reads;
	assert_int_equal(in(f, BUS_MMIO, device + 0x80, 4), 1);
	assert_int_equal(in(f, BUS_MMIO, device + 0x80, 2), 1);
	out(f, BUS_PORT, PORTS, 4, 0x80000000 | SLOT << 11 | 0x80);
	assert_int_equal(in(f, BUS_PORT, PORTS + 4, 4), 2);
}

static void capabilities_chain(void **state)
{
	struct fixture *f = *state;
	static const uint8_t three[] = { 0x09, 0xff, 3 };
	static const uint8_t msix[12] = { 0x11 };

	assert_int_equal(pci_add_capability(&f->device, three, 3), 0x40);
	assert_int_equal(pci_add_capability(&f->device, msix, 12), 0x44);
	assert_int_equal(f->device.config[PCI_CAPABILITIES], 0x40);
	assert_int_equal(f->device.config[0x41], 0x44);
	assert_int_equal(f->device.config[0x44], 0x11);
	assert_int_equal(f->device.config[0x45], 0);
	assert_int_equal(pci_get16(&f->device, PCI_STATUS), PCI_STATUS_CAPABILITIES);
	assert_int_equal(pci_add_capability(&f->device, three, 256), -ENOSPC);
}

/* Memory and registers say the same, until the memory is taken away. */
static void reads_without_exits(void **state)
{
	struct fixture *f = *state;
	static const uint8_t nothing[8] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	struct pci_device more = { .config = { 0x34, 0x12 } };
	struct vm vm = { .fd = FAKE_KVM_FD };
	uint64_t device = ECAM + (2 << 15);

	fake_kvm_reset();
	assert_int_equal(pci_map(&f->pci, &vm, PCI_SLOTS), -ENOSPC);
	assert_int_equal(pci_map(&f->pci, &vm, 2), 0);
	assert_memory_equal(fake_kvm_memory(ECAM, 4), f->pci.bridge.config, 4);
	assert_memory_equal(fake_kvm_memory(device, 8), nothing, 8);

	more.writable[PCI_COMMAND] = 0x03;
	assert_int_equal(pci_add(&f->pci, &more), 2);
	assert_memory_equal(fake_kvm_memory(device, PCI_CONFIG_SIZE), more.config, PCI_CONFIG_SIZE);
	assert_memory_equal(fake_kvm_memory(device + PCI_CONFIG_SIZE, 8), nothing, 8);
	assert_memory_equal(fake_kvm_memory(device + 4096, 8), nothing, 8);
	assert_null(fake_kvm_memory(device + 0x8000, 4));

	out(f, BUS_MMIO, device + PCI_COMMAND, 2, 0xffff);
	assert_int_equal(*(const uint8_t *)fake_kvm_memory(device + PCI_COMMAND, 1), 0x03);

	pci_unmap(&f->pci);
	assert_null(fake_kvm_memory(device, 4));
	pci_unmap(&f->pci);
	assert_int_equal(in(f, BUS_MMIO, device, 2), 0x1234);
}

/* Where KVM has no such memory, each read exits. */
static void reads_with_exits(void **state)
{
	struct fixture *f = *state;
	struct vm vm = { .fd = FAKE_KVM_FD };

	fake_kvm.fail = EINVAL;
	assert_int_equal(pci_map(&f->pci, &vm, 2), 0);
	fake_kvm.fail = 0;
	pci_unmap(&f->pci);
	assert_int_equal(in(f, BUS_MMIO, ECAM, 4), 0x00081b36);
}

static void slots_and_window_run_out(void **state)
{
	struct fixture *f = *state;
	struct pci_device other[PCI_SLOTS] = { 0 };
	struct pci_device wide = { .bar[0] = { .space = BUS_MMIO, .size = 0x10000 } };
	struct pci_device many = { .bar[1] = { .space = BUS_PORT, .size = 0x100 } };

	assert_int_equal(pci_add(&f->pci, &wide), -ENOSPC);
	assert_int_equal(pci_add(&f->pci, &many), -ENOSPC);
	for (int i = 2; i < PCI_SLOTS; i++)
		assert_int_equal(pci_add(&f->pci, &other[i]), i);
	assert_int_equal(pci_add(&f->pci, &other[0]), -ENOSPC);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(ports_reach_config, setup, teardown),
		cmocka_unit_test_setup_teardown(absent_is_all_ones, setup, teardown),
		cmocka_unit_test_setup_teardown(ecam_reaches_config, setup, teardown),
		cmocka_unit_test_setup_teardown(reset_register, setup, teardown),
		cmocka_unit_test_setup_teardown(the_bar_moves, setup, teardown),
		cmocka_unit_test_setup_teardown(ports_move, setup, teardown),
		cmocka_unit_test_setup_teardown(a_device_may_look_first, setup, teardown),
		cmocka_unit_test_setup_teardown(capabilities_chain, setup, teardown),
		cmocka_unit_test_setup_teardown(reads_without_exits, setup, teardown),
		cmocka_unit_test_setup_teardown(reads_with_exits, setup, teardown),
		cmocka_unit_test_setup_teardown(slots_and_window_run_out, setup, teardown),
	};

	return cmocka_run_group_tests_name("core_pci", tests, NULL, NULL);
}
