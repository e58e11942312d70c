/*
 * The PCI transport of a virtio device: its function, its BAR and the window to it, doorbells,
 * MSI-X and the interrupt line.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/stderr.h"
#include "tests/toy.h"

/* What a driver sees before it does anything. */

static void is_found(void **state)
{
	struct fixture *f = *state;
	struct driver *d = &f->d;

	assert_int_equal(config_in(d, PCI_VENDOR_ID, 4), (0x1040 + 42) << 16 | 0x1af4);
	assert_int_equal(config_in(d, PCI_REVISION_ID, 4), 0x078000 << 8 | 1);
	assert_int_equal(config_in(d, PCI_SUBSYSTEM_VENDOR_ID, 2), 0x1af4);
	assert_true(config_in(d, PCI_SUBSYSTEM_ID, 2) >= 0x40);
	assert_int_equal(config_in(d, PCI_INTERRUPT_PIN, 1), 1);
	assert_true(d->common && d->notify[BUS_PORT] && d->notify[BUS_MMIO] && d->isr &&
	            d->config && d->window && d->msix);
	assert_int_equal(reg_in(d, R_NUM_QUEUES, 2), NQUEUES);
	assert_int_equal(status_in(d), 0);
	assert_int_equal(config_in(d, d->msix + 2, 2), NQUEUES); /* and one for configuration */
}

static void bar_is_where_it_is_put(void **state)
{
	struct fixture *f = *state;
	struct driver *d = &f->d;

	config_out(d, PCI_BAR0, 4, 0xffffffff);
	assert_int_equal(config_in(d, PCI_BAR0, 4), 0xffffe000);
	config_out(d, PCI_BAR0, 4, 0xc0080000);
	d->common += 0xc0080000 - d->bar;
	assert_int_equal(reg_in(d, R_NUM_QUEUES, 2), NQUEUES);
	config_out(d, PCI_COMMAND, 2, 0);
	assert_int_equal(reg_in(d, R_NUM_QUEUES, 2), 0xffff);
}

static uint32_t window_in(struct driver *d, uint64_t addr, unsigned len)
{
	config_out(d, d->window + 4, 1, 0);
	config_out(d, d->window + 8, 4, (uint32_t)(addr - d->bar));
	config_out(d, d->window + 12, 4, len);
	return config_in(d, d->window + 16, len > 4 ? 4 : len);
}

static void window_out(struct driver *d, uint64_t addr, unsigned len, uint32_t value)
{
	config_out(d, d->window + 4, 1, 0);
	config_out(d, d->window + 8, 4, (uint32_t)(addr - d->bar));
	config_out(d, d->window + 12, 4, len);
	config_out(d, d->window + 16, len > 4 ? 4 : len, value);
}

/* §4.1.4.9: the BAR through configuration space, even where memory decoding is off. */
static void window_reaches_the_bar(void **state)
{
	struct fixture *f = *state;
	struct driver *d = &f->d;

	config_out(d, PCI_COMMAND, 2, 0);
	assert_non_null(fake_kvm_memory(WORLD_ECAM, 4));
	assert_int_equal(window_in(d, d->common + R_NUM_QUEUES, 2), NQUEUES);
	assert_int_equal(window_in(d, d->config + 3, 1), 0xc3);
	window_out(d, d->common + R_STATUS, 1, S_ACKNOWLEDGE);
	assert_int_equal(window_in(d, d->common + R_STATUS, 1), S_ACKNOWLEDGE);
	assert_int_equal(config_in(d, d->window + 16, 1), S_ACKNOWLEDGE);
	window_out(d, d->common + R_STATUS, 1, S_DRIVER);
	assert_int_equal(config_in(d, d->window + 16, 1), S_ACKNOWLEDGE | S_DRIVER);

	/* What cannot be an access is none. */
	assert_int_equal(window_in(d, d->config, 2), 0xc1c0);
	assert_int_equal(window_in(d, d->config + 1, 2), 0xc1c0);
	window_out(d, d->common + R_STATUS, 3, 0);
	window_out(d, d->common + R_STATUS, 8, 0);
	window_out(d, d->common + R_STATUS, 0, 0);
	window_out(d, d->common + R_QUEUE_SIZE + 1, 2, 16);
	window_out(d, d->bar + 0x2000, 1, 0);
	window_out(d, d->bar + 0xfffffff0, 1, 0);
	config_out(d, d->window + 4, 1, 1); /* another BAR */
	config_out(d, d->window + 8, 4, (uint32_t)(d->common - d->bar + R_STATUS));
	config_out(d, d->window + 12, 4, 1);
	config_out(d, d->window + 16, 1, 0);
	assert_int_equal(window_in(d, d->common + R_STATUS, 1), S_ACKNOWLEDGE | S_DRIVER);
	window_out(d, d->common + R_STATUS, 1, 0);
	assert_int_equal(config_in(d, d->window + 16, 1), 0);
}

/* The other BAR, too: a kick. */
static void window_reaches_the_ports(void **state)
{
	struct fixture *f = *state;
	struct driver *d = &f->d;
	unsigned kicks;

	bring_up(f, BASIC, true);
	world_settle(&f->world);
	kicks = f->toy.notified[0];
	config_out(d, d->window + 4, 1, 1);
	config_out(d, d->window + 8, 4, 0x100); /* beyond its end */
	config_out(d, d->window + 12, 4, 2);
	config_out(d, d->window + 16, 2, 0);
	world_settle(&f->world);
	assert_int_equal(f->toy.notified[0], kicks);
	config_out(d, d->window + 8, 4, 0);
	config_out(d, d->window + 16, 2, 0);
	world_settle(&f->world);
	assert_int_equal(f->toy.notified[0], kicks + 1);
	config_out(d, d->window + 4, 1, 2); /* there is no such BAR */
	config_out(d, d->window + 16, 2, 0);
	world_settle(&f->world);
	assert_int_equal(f->toy.notified[0], kicks + 1);
}

/* MSI-X. */

static void each_queue_has_its_vector(void **state)
{
	struct fixture *f = *state;

	bring_up(f, BASIC, true);
	round_trip(f, 1, 7);
	world_settle(&f->world);
	assert_int_equal(fake_kvm_take_msi(MSI + 0), 0);
	assert_int_equal(fake_kvm_take_msi(MSI + 1), 1);
	assert_int_equal(fake_kvm_take_msi(MSI + 2), 0);

	/* It may be another one, or none, at any time. */
	reg_out(&f->d, R_QUEUE_SELECT, 2, 1);
	reg_out(&f->d, R_QUEUE_VECTOR, 2, NO_VECTOR);
	round_trip(f, 1, 8);
	world_settle(&f->world);
	reg_out(&f->d, R_QUEUE_VECTOR, 2, 0);
	assert_int_equal(fake_kvm_take_msi(MSI + 1), 0);
	round_trip(f, 1, 9);
	world_settle(&f->world);
	assert_int_equal(fake_kvm_take_msi(MSI + 0), 1);
}

/* An interrupt leaves with what the ring does anyhow, or on older kernels by a system call. */
static void interrupts_with_and_without_silent_writes(void **state)
{
	struct fixture *f = *state;
	struct ring *ring = &f->world.ring;

	bring_up(f, BASIC, true);
	world_settle(&f->world);
	for (int silent = ring->silent; silent >= 0; silent--) {
		uint64_t sqes = ring->sqes;

		ring->silent = silent;
		round_trip(f, 0, 1);
		assert_int_equal(ring->sqes, sqes + (unsigned)silent + !ring->multishot);
		assert_int_equal(fake_kvm_take_msi(MSI), !silent);
		world_settle(&f->world);
		assert_int_equal(fake_kvm_take_msi(MSI), silent);
	}
}

/* Doorbells. */

/* The first kick makes an exit, and the next ones none, whichever way the driver takes. */
static void doorbells_hang_where_they_are_rung(void **state)
{
	struct fixture *f = *state;
	struct driver *d = &f->d;

	driver_negotiate(d, ALL);
	driver_queue(d, 0, 0, NO_VECTOR);
	driver_queue(d, 1, 0, NO_VECTOR);
	status_add(d, S_DRIVER_OK);
	world_settle(&f->world);
	assert_int_equal(fake_kvm.nioeventfds, 0);
	for (unsigned n = 0; n < 2; n++) {
		round_trip(f, 1, 1);
		assert_int_equal(fake_kvm.nioeventfds, 1);
		assert_true(fake_kvm_write(BUS_PORT, d->queue[1].bell[BUS_PORT]));
	}
	world_settle(&f->world);
	assert_int_equal(f->toy.notified[0], 1);

	/* It stays there, or a guest could keep KVM busy with moving it. */
	d->kicks = BUS_MMIO;
	for (unsigned n = 0; n < 2; n++)
		for (unsigned i = 0; i < NQUEUES; i++)
			round_trip(f, i, 2);
	assert_int_equal(fake_kvm.nioeventfds, NQUEUES);
	assert_true(fake_kvm_write(BUS_MMIO, d->queue[0].bell[BUS_MMIO]));
	assert_true(fake_kvm_write(BUS_PORT, d->queue[1].bell[BUS_PORT]));
	assert_false(fake_kvm_write(BUS_MMIO, d->queue[1].bell[BUS_MMIO]));
	for (unsigned i = 2; i < NQUEUES; i++)
		assert_true(fake_kvm_write(BUS_MMIO, d->queue[i].bell[BUS_MMIO]));
}

static void doorbells_move_with_their_bar(void **state)
{
	static const struct {
		enum bus_space space;
		unsigned reg, decode;
		uint32_t elsewhere;
	} bar[] = {
		{ BUS_MMIO, PCI_BAR0, PCI_COMMAND_MEMORY, 0xc0080000 },
		{ BUS_PORT, PCI_BAR1, PCI_COMMAND_IO, 0xc800 },
	};
	struct fixture *f = *state;
	struct driver *d = &f->d;

	bring_up(f, BASIC, true);
	for (unsigned n = 0; n < 2; n++) {
		enum bus_space space = d->kicks = bar[n].space;
		uint64_t was = space == BUS_PORT ? d->ports : d->bar;

		config_out(d, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
		assert_int_equal(fake_kvm.nioeventfds, 0);
		config_out(d, PCI_COMMAND, 2, DRIVER_COMMAND);
		for (unsigned i = 0; i < NQUEUES; i++)
			round_trip(f, i, 1);
		assert_int_equal(fake_kvm.nioeventfds, NQUEUES);
		/* The other one's goes: nothing of these. */
		config_out(d, PCI_COMMAND, 2, PCI_COMMAND_MASTER | bar[n].decode);
		assert_int_equal(fake_kvm.nioeventfds, NQUEUES);
		config_out(d, PCI_COMMAND, 2, DRIVER_COMMAND & ~bar[n].decode);
		assert_int_equal(fake_kvm.nioeventfds, 0);
		config_out(d, bar[n].reg, 4, bar[n].elsewhere);
		config_out(d, PCI_COMMAND, 2, DRIVER_COMMAND);
		for (unsigned i = 0; i < NQUEUES; i++) {
			d->queue[i].bell[space] += bar[n].elsewhere - was;
			round_trip(f, i, 2);
			assert_true(fake_kvm_write(space, d->queue[i].bell[space]));
		}
		if (space == BUS_MMIO) {
			d->common += bar[n].elsewhere - was;
			d->bar = bar[n].elsewhere;
		}
	}
}

/* Where KVM has no doorbell left, kicks are exits. */
static void kicks_without_doorbells(void **state)
{
	struct fixture *f = *state;

	bring_up(f, BASIC, true);
	fake_kvm.fail = ENOSPC;
	driver_kick(&f->d, 0);
	fake_kvm.fail = 0;
	assert_int_equal(fake_kvm.nioeventfds, 0);
	world_settle(&f->world);
	assert_int_equal(f->toy.notified[0], 2);
}

/* A queue that is not there, or not enabled, has no doorbell. */
static void kicks_of_no_queue(void **state)
{
	struct fixture *f = *state;
	struct driver *d = &f->d;

	for (unsigned space = 0; space < 2; space++)
		for (unsigned off = 0; off < 0x100; off++)
			driver_out_to(d, space, d->notify[space] + off, 1, 0);
	assert_int_equal(fake_kvm.nioeventfds, 0);
}

/* The interrupt line. */

static void line_is_level_triggered(void **state)
{
	struct fixture *f = *state;
	struct driver *d = &f->d;

	bring_up(f, BASIC, false);
	assert_null(fake_kvm_irqfd(WORLD_GSI + 1)); /* not needed so far */
	round_trip(f, 0, 1);
	world_settle(&f->world);
	assert_int_equal(fake_kvm_take(WORLD_GSI + 1), 1);
	assert_int_equal(config_in(d, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT, PCI_STATUS_INTERRUPT);

	/* Not served yet: up again. */
	fake_kvm_eoi(WORLD_GSI + 1);
	world_settle(&f->world);
	assert_int_equal(fake_kvm_take(WORLD_GSI + 1), 1);

	/* Reading the ISR status serves it. */
	assert_int_equal(driver_in(d, d->isr, 1), 1);
	assert_int_equal(driver_in(d, d->isr, 1), 0);
	assert_int_equal(config_in(d, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT, 0);
	fake_kvm_eoi(WORLD_GSI + 1);
	world_settle(&f->world);
	assert_int_equal(fake_kvm_take(WORLD_GSI + 1), 0);
	round_trip(f, 1, 2);
	world_settle(&f->world);
	assert_int_equal(fake_kvm_take(WORLD_GSI + 1), 1);
}

static void line_may_be_off(void **state)
{
	struct fixture *f = *state;
	struct driver *d = &f->d;
	uint16_t command = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;

	bring_up(f, BASIC, false);
	config_out(d, PCI_COMMAND, 2, command | PCI_COMMAND_INTX_OFF);
	round_trip(f, 0, 1);
	world_settle(&f->world);
	assert_int_equal(fake_kvm_take(WORLD_GSI + 1), 0);
	assert_int_equal(config_in(d, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT, PCI_STATUS_INTERRUPT);
	config_out(d, PCI_COMMAND, 2, command);
	world_settle(&f->world);
	assert_int_equal(fake_kvm_take(WORLD_GSI + 1), 1);
}

static void line_that_cannot_be_had(void **state)
{
	struct fixture *f = *state;
	char text[STDERR_MAX];

	bring_up(f, BASIC, false);
	world_settle(&f->world);
	driver_add(&f->d, 0, DATA, 4, DATA + 4, 4);
	driver_kick(&f->d, 0);
	capture();
	fake_kvm.fail = EMFILE;
	world_settle(&f->world);
	fake_kvm.fail = 0;
	capture_end(text);
	assert_non_null(strstr(text, "toy"));
	assert_true(status_in(&f->d) & S_NEEDS_RESET);
	driver_reset(&f->d);
	bring_up(f, BASIC, false);
	round_trip(f, 0, 1);
}

/* Linux, before kexec. */
static void bus_master_off_stops_it(void **state)
{
	struct fixture *f = *state;
	struct virtq_used_elem elem;

	bring_up(f, ALL, true);
	round_trip(f, 0, 1);
	config_out(&f->d, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	world_settle(&f->world);
	assert_int_equal(f->toy.stops[0], 1);
	driver_add(&f->d, 0, DATA, 4, DATA + 4, 4);
	driver_kick(&f->d, 0);
	config_out(&f->d, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	world_settle(&f->world);
	assert_false(driver_used(&f->d, 0, &elem));
	driver_reset(&f->d);
	bring_up(f, ALL, true);
	round_trip(f, 0, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(is_found),
		TEST(bar_is_where_it_is_put),
		TEST(window_reaches_the_bar),
		TEST(each_queue_has_its_vector),
		TEST(interrupts_with_and_without_silent_writes),
		TEST(window_reaches_the_ports),
		TEST(doorbells_hang_where_they_are_rung),
		TEST(doorbells_move_with_their_bar),
		TEST(kicks_of_no_queue),
		TEST(kicks_without_doorbells),
		TEST(line_is_level_triggered),
		TEST(line_may_be_off),
		TEST(line_that_cannot_be_had),
		TEST(bus_master_off_stops_it),
	};

	return cmocka_run_group_tests_name("virtio_vpci", tests, NULL, NULL);
}
