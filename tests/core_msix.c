/* MSI-X: the table, masks, pending bits, and what of it reaches KVM. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "core/msix.h"
#include "tests/fake_kvm.h"

#define N       3
#define TABLE   0x1000
#define PBA     0x1800
#define ADDRESS 0xfee00000ull

#define ENABLE 0x8000
#define MASK   0x4000

struct fixture {
	struct irq_router router;
	struct pci_device device;
	struct msix msix;
};

static int setup(void **state)
{
	static struct fixture f;

	memset(&f, 0, sizeof(f));
	fake_kvm_reset();
	assert_int_equal(irq_router_init(&f.router, FAKE_KVM_FD), 0);
	assert_int_equal(msix_init(&f.msix, &f.router, &f.device, N, TABLE, PBA), 0);
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	msix_fini(&f->msix);
	msix_fini(&f->msix);
	irq_router_fini(&f->router);
	return 0;
}

static void set_control(struct fixture *f, uint16_t control)
{
	unsigned reg = f->msix.cap + 2;
	uint16_t mask = (uint16_t)(f->device.writable[reg] | f->device.writable[reg + 1] << 8);

	pci_set16(&f->device, reg,
	          (pci_get16(&f->device, reg) & (uint16_t)~mask) | (control & mask));
	msix_config_written(&f->msix);
}

/* As Linux does: masked while it is written. */
static void set_message(struct fixture *f, unsigned i, uint32_t data)
{
	msix_table_write(&f->msix, 16 * i + 12, 4, 1);
	msix_table_write(&f->msix, 16 * i, 4, (uint32_t)ADDRESS);
	msix_table_write(&f->msix, 16 * i + 4, 4, ADDRESS >> 32);
	msix_table_write(&f->msix, 16 * i + 8, 4, data);
	msix_table_write(&f->msix, 16 * i + 12, 4, 0);
}

static void raise_vector(struct fixture *f, unsigned i)
{
	eventfd_write(msix_eventfd(&f->msix, i), 1);
}

static uint64_t pending(struct fixture *f)
{
	return msix_pba_read(&f->msix, 0, 8);
}

static void capability_tells_where(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(f->device.config[f->msix.cap], 0x11);
	assert_int_equal(pci_get16(&f->device, f->msix.cap + 2), N - 1);
	assert_int_equal(pci_get32(&f->device, f->msix.cap + 4), TABLE);
	assert_int_equal(pci_get32(&f->device, f->msix.cap + 8), PBA);
	set_control(f, 0xffff);
	assert_int_equal(pci_get16(&f->device, f->msix.cap + 2), (ENABLE | MASK) | (N - 1));
	assert_true(msix_enabled(&f->msix));
	set_control(f, 0);
	assert_false(msix_enabled(&f->msix));
}

static void begins_masked(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < N; i++)
		assert_int_equal(msix_table_read(&f->msix, 16 * i + 12, 4), 1);
	set_control(f, ENABLE);
	assert_int_equal(fake_kvm.nirqfds, 0);
	assert_int_equal(fake_kvm.routings, 0);
}

static void delivers(void **state)
{
	struct fixture *f = *state;

	set_control(f, ENABLE | MASK);
	for (unsigned i = 0; i < N; i++)
		set_message(f, i, 0x40 + i);
	assert_int_equal(fake_kvm.nirqfds, 0);
	set_control(f, ENABLE);
	assert_int_equal(fake_kvm.nirqfds, N);
	raise_vector(f, 1);
	assert_int_equal(fake_kvm_take_msi(0x40), 0);
	assert_int_equal(fake_kvm_take_msi(0x41), 1);
	assert_int_equal(pending(f), 0);
}

static void masks_hold_back(void **state)
{
	struct fixture *f = *state;

	set_control(f, ENABLE);
	set_message(f, 2, 0x42);
	msix_table_write(&f->msix, 16 * 2 + 12, 4, 1);
	raise_vector(f, 2);
	raise_vector(f, 2);
	assert_int_equal(pending(f), 1 << 2);
	assert_int_equal(fake_kvm_take_msi(0x42), 0);

	/* The message is changed while it is masked, and what is pending goes by the new one. */
	msix_table_write(&f->msix, 16 * 2 + 8, 4, 0x52);
	set_control(f, ENABLE | MASK);
	msix_table_write(&f->msix, 16 * 2 + 12, 4, 0);
	assert_int_equal(pending(f), 1 << 2);
	set_control(f, ENABLE);
	assert_int_equal(pending(f), 0);
	assert_int_not_equal(fake_kvm_take_msi(0x52), 0);
	assert_int_equal(fake_kvm_take_msi(0x42), 0);
}

static void off_holds_back(void **state)
{
	struct fixture *f = *state;

	set_control(f, ENABLE);
	set_message(f, 0, 0x40);
	set_control(f, 0);
	raise_vector(f, 0);
	assert_int_equal(fake_kvm_take_msi(0x40), 0);
	msix_clear(&f->msix);
	set_control(f, ENABLE);
	assert_int_equal(fake_kvm_take_msi(0x40), 0);
}

static void table_is_read_back(void **state)
{
	struct fixture *f = *state;

	msix_table_write(&f->msix, 16 + 0, 8, 0x1fee12345ull);
	msix_table_write(&f->msix, 16 + 8, 4, 0x99);
	assert_int_equal(msix_table_read(&f->msix, 16 + 4, 4), 1);
	assert_int_equal(msix_table_read(&f->msix, 16 + 0, 8), 0x1fee12345ull);
	assert_int_equal(msix_table_read(&f->msix, 16 + 8, 8), 0x100000099ull);
	assert_int_equal(msix_table_read(&f->msix, 0, 8), 0);
}

static void odd_accesses_do_nothing(void **state)
{
	struct fixture *f = *state;
	struct msix_vector before[N];
	static const struct {
		uint64_t off;
		unsigned len;
	} odd[] = {
		{ 0, 1 }, { 0, 2 }, { 2, 4 }, { 4, 8 }, { 13, 1 }, { 16 * N, 4 }, { 0x7f8, 8 }
	};

	memcpy(before, f->msix.vector, sizeof(before));
	for (unsigned i = 0; i < sizeof(odd) / sizeof(odd[0]); i++) {
		msix_table_write(&f->msix, odd[i].off, odd[i].len, ~0ull);
		assert_int_equal(msix_table_read(&f->msix, odd[i].off, odd[i].len), 0);
	}
	assert_memory_equal(before, f->msix.vector, sizeof(before));
}

static void pending_bits_of_any_access(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < N; i++)
		raise_vector(f, i);
	assert_int_equal(msix_pba_read(&f->msix, 0, 1), 7);
	assert_int_equal(msix_pba_read(&f->msix, 0, 4), 7);
	assert_int_equal(msix_pba_read(&f->msix, 1, 1), 0);
	assert_int_equal(msix_pba_read(&f->msix, 8, 8), 0);
	assert_int_equal(msix_pba_read(&f->msix, 0x7f8, 8), 0);
	msix_clear(&f->msix);
	assert_int_equal(pending(f), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(capability_tells_where, setup, teardown),
		cmocka_unit_test_setup_teardown(begins_masked, setup, teardown),
		cmocka_unit_test_setup_teardown(delivers, setup, teardown),
		cmocka_unit_test_setup_teardown(masks_hold_back, setup, teardown),
		cmocka_unit_test_setup_teardown(off_holds_back, setup, teardown),
		cmocka_unit_test_setup_teardown(table_is_read_back, setup, teardown),
		cmocka_unit_test_setup_teardown(odd_accesses_do_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(pending_bits_of_any_access, setup, teardown),
	};

	return cmocka_run_group_tests_name("core_msix", tests, NULL, NULL);
}
