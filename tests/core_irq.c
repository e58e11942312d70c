/* Interrupts and doorbells as KVM is told of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/doorbell.h"
#include "core/irq.h"
#include "tests/fake_kvm.h"

#define MSI_BASE 24 /* the first GSI of a message */

static int setup(void **state)
{
	(void)state;
	fake_kvm_reset();
	return 0;
}

static void line_is_an_irqfd(void **state)
{
	struct irq irq;

	(void)state;
	assert_int_equal(irq_init(&irq, FAKE_KVM_FD, 4), 0);
	assert_true(irq.connected);
	assert_int_equal(fake_kvm_take(4), 0);
	irq_raise(&irq);
	irq_raise(&irq);
	assert_int_equal(fake_kvm_take(4), 2);
	assert_int_equal(fake_kvm_irqfd(4)->flags, 0);
	irq_fini(&irq);
	assert_int_equal(irq.fd, -1);
	irq_raise(&irq);
	irq_fini(&irq);
}

static void level_says_where_its_eoi_goes(void **state)
{
	struct irq irq;
	int eoi = eventfd(0, 0);
	eventfd_t count;

	(void)state;
	assert_int_equal(irq_init_level(&irq, FAKE_KVM_FD, 17, eoi), 0);
	assert_int_equal(fake_kvm_irqfd(17)->flags, KVM_IRQFD_FLAG_RESAMPLE);
	fake_kvm_eoi(17);
	assert_int_equal(eventfd_read(eoi, &count), 0);
	assert_int_equal(count, 1);
	irq_fini(&irq);
	close(eoi);
}

static void refusal_leaves_nothing(void **state)
{
	struct irq irq;
	struct doorbell bell;

	(void)state;
	fake_kvm.fail = ENOSPC;
	assert_int_equal(irq_init(&irq, FAKE_KVM_FD, 4), -ENOSPC);
	assert_int_equal(irq.fd, -1);

	assert_int_equal(doorbell_init(&bell, FAKE_KVM_FD), 0);
	assert_int_equal(doorbell_move(&bell, BUS_MMIO, 0x1000), -ENOSPC);
	fake_kvm.fail = 0;
	assert_false(fake_kvm_write(BUS_MMIO, 0x1000));
	assert_int_equal(doorbell_move(&bell, BUS_MMIO, 0x1000),
	                 0); /* it was not thought to be there */
	assert_true(fake_kvm_write(BUS_MMIO, 0x1000));
	doorbell_fini(&bell);
}

static void message_is_routed_when_connected(void **state)
{
	struct irq_router router;
	struct irq irq[2];

	(void)state;
	assert_int_equal(irq_router_init(&router, FAKE_KVM_FD), 0);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(irq_init_msi(&irq[i], &router), 0);
		assert_int_equal(irq[i].gsi, MSI_BASE + i);
		assert_false(irq[i].connected);
	}
	assert_int_equal(fake_kvm.routings, 0); /* nothing is told before it is needed */

	assert_int_equal(irq_connect_msi(&irq[1], &router, 0x1fee01000ull, 0x4041), 0);
	assert_int_equal(fake_kvm.routings, 1);
	assert_int_equal(fake_kvm.nroutes, 16 + 24 + 2);

	const struct kvm_irq_routing_entry *route = &fake_kvm.route[fake_kvm.nroutes - 1];

	assert_int_equal(route->gsi, MSI_BASE + 1);
	assert_int_equal(route->type, KVM_IRQ_ROUTING_MSI);
	assert_int_equal(route->u.msi.address_lo, 0xfee01000);
	assert_int_equal(route->u.msi.address_hi, 1);
	assert_int_equal(route->u.msi.data, 0x4041);
	irq_raise(&irq[1]);
	assert_int_equal(fake_kvm_take_msi(0x4041), 1);

	/* Again the same costs nothing; another message moves it, connected all the while. */
	assert_int_equal(irq_connect_msi(&irq[1], &router, 0x1fee01000ull, 0x4041), 0);
	assert_int_equal(fake_kvm.routings, 1);
	assert_int_equal(irq_connect_msi(&irq[1], &router, 0xfee01000, 0x4042), 0);
	assert_int_equal(fake_kvm.routings, 2);
	irq_raise(&irq[1]);
	assert_int_equal(fake_kvm_take_msi(0x4042), 1);

	for (unsigned i = 0; i < 2; i++)
		irq_fini(&irq[i]);
	irq_router_fini(&router);
	irq_router_fini(&router);
}

/* KVM's own routes are PIC 0..15 and IOAPIC 0..23; the table replaces them, so they are in it. */
static void chips_stay_routed(void **state)
{
	struct irq_router router;
	struct irq irq;
	unsigned pic = 0, ioapic = 0;

	(void)state;
	assert_int_equal(irq_router_init(&router, FAKE_KVM_FD), 0);
	assert_int_equal(irq_init_msi(&irq, &router), 0);
	assert_int_equal(irq_connect_msi(&irq, &router, 0xfee00000, 0x30), 0);
	for (unsigned i = 0; i < fake_kvm.nroutes; i++) {
		const struct kvm_irq_routing_entry *route = &fake_kvm.route[i];

		if (route->type != KVM_IRQ_ROUTING_IRQCHIP)
			continue;
		if (route->u.irqchip.irqchip == KVM_IRQCHIP_IOAPIC) {
			assert_int_equal(route->u.irqchip.pin, route->gsi);
			ioapic |= 1u << route->gsi;
		} else {
			assert_int_equal(route->u.irqchip.pin, route->gsi % 8);
			assert_int_equal(route->u.irqchip.irqchip == KVM_IRQCHIP_PIC_SLAVE,
			                 route->gsi / 8);
			pic |= 1u << route->gsi;
		}
	}
	assert_int_equal(pic, 0xffff);
	assert_int_equal(ioapic, 0xffffff);
	irq_fini(&irq);
	irq_router_fini(&router);
}

static void disconnected_remembers(void **state)
{
	struct irq_router router;
	struct irq irq;

	(void)state;
	assert_int_equal(irq_router_init(&router, FAKE_KVM_FD), 0);
	assert_int_equal(irq_init_msi(&irq, &router), 0);
	assert_false(irq_pending(&irq));
	irq_raise(&irq);
	assert_true(irq_pending(&irq));
	irq_clear(&irq);
	assert_false(irq_pending(&irq));
	irq_clear(&irq); /* nothing to forget, and nothing to wait for */

	irq_raise(&irq);
	assert_int_equal(irq_connect_msi(&irq, &router, 0xfee00000, 0x31), 0);
	assert_false(irq_pending(&irq)); /* KVM has it now */
	assert_int_equal(fake_kvm_take_msi(0x31), 1);

	irq_disconnect(&irq);
	assert_null(fake_kvm_irqfd(MSI_BASE));
	irq_raise(&irq);
	assert_true(irq_pending(&irq));
	irq_fini(&irq);
	irq_router_fini(&router);
}

static void messages_run_out(void **state)
{
	struct irq_router router;
	static struct irq irq[4096];
	unsigned n = 0;
	int err;

	(void)state;
	assert_int_equal(irq_router_init(&router, FAKE_KVM_FD), 0);
	/* As many as fit into KVM's 4096 routes, or as this process has descriptors for. */
	while (!(err = irq_init_msi(&irq[n], &router)))
		n++;
	assert_true(err == -ENOSPC || err == -EMFILE);
	assert_in_range(n, 256, 4096 - 16 - 24);
	while (n--)
		irq_fini(&irq[n]);
	irq_router_fini(&router);
}

static void doorbell_moves(void **state)
{
	struct doorbell bell;
	eventfd_t count;

	(void)state;
	assert_int_equal(doorbell_init(&bell, FAKE_KVM_FD), 0);
	assert_int_equal(fake_kvm.nioeventfds, 0);
	assert_int_equal(doorbell_move(&bell, BUS_MMIO, 0xc0000400), 0);
	assert_int_equal(doorbell_move(&bell, BUS_MMIO, 0xc0000400), 0);
	assert_true(fake_kvm_write(BUS_MMIO, 0xc0000400));
	assert_int_equal(eventfd_read(bell.fd, &count), 0);
	assert_int_equal(count, 1);
	assert_int_equal(fake_kvm.ioeventfd[0].len, 0); /* writes of any length */
	assert_int_equal(fake_kvm.ioeventfd[0].flags, 0);

	assert_int_equal(doorbell_move(&bell, BUS_MMIO, 0xd0000400), 0);
	assert_int_equal(fake_kvm.nioeventfds, 1);
	assert_false(fake_kvm_write(BUS_MMIO, 0xc0000400));
	assert_true(fake_kvm_write(BUS_MMIO, 0xd0000400));
	assert_int_equal(doorbell_move(&bell, BUS_PORT, 0xd0000400), 0);
	assert_int_equal(fake_kvm.nioeventfds, 1);
	assert_int_equal(fake_kvm.ioeventfd[0].flags, KVM_IOEVENTFD_FLAG_PIO);
	assert_false(fake_kvm_write(BUS_MMIO, 0xd0000400));
	assert_true(fake_kvm_write(BUS_PORT, 0xd0000400));
	assert_int_equal(doorbell_move(&bell, BUS_MMIO, 0), 0);
	assert_int_equal(fake_kvm.nioeventfds, 0);
	assert_int_equal(doorbell_move(&bell, BUS_PORT, 0), 0);
	doorbell_fini(&bell);
	doorbell_fini(&bell);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(line_is_an_irqfd, setup),
		cmocka_unit_test_setup(level_says_where_its_eoi_goes, setup),
		cmocka_unit_test_setup(refusal_leaves_nothing, setup),
		cmocka_unit_test_setup(message_is_routed_when_connected, setup),
		cmocka_unit_test_setup(chips_stay_routed, setup),
		cmocka_unit_test_setup(disconnected_remembers, setup),
		cmocka_unit_test_setup(messages_run_out, setup),
		cmocka_unit_test_setup(doorbell_moves, setup),
	};

	return cmocka_run_group_tests_name("core_irq", tests, NULL, NULL);
}
