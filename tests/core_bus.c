/* The bus: who answers where, and what is read where nobody does. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "core/bus.h"

struct echo {
	uint64_t off, value;
	unsigned len, writes;
};

static uint64_t echo_read(void *dev, uint64_t off, unsigned len)
{
	struct echo *echo = dev;

	echo->off = off;
	echo->len = len;
	return 0x1122334455667788;
}

static void echo_write(void *dev, uint64_t off, unsigned len, uint64_t value)
{
	*(struct echo *)dev = (struct echo){ off, value, len, ((struct echo *)dev)->writes + 1 };
}

static const struct bus_ops echo_ops = { .read = echo_read, .write = echo_write };
static const struct bus_ops deaf_ops = { 0 };

static int add(struct bus *bus, enum bus_space space, uint64_t base, uint64_t len,
               const struct bus_ops *ops, void *dev)
{
	return bus_add(bus, space, &(struct bus_range){ base, len, "test", ops, dev });
}

static void reaches_the_device(void **state)
{
	struct bus bus = { 0 };
	struct echo a = { 0 }, b = { 0 };
	uint32_t data = 0;

	(void)state;
	assert_int_equal(add(&bus, BUS_PORT, 0x3f8, 8, &echo_ops, &b), 0);
	assert_int_equal(add(&bus, BUS_PORT, 0x70, 2, &echo_ops, &a), 0);
	assert_true(bus_access(&bus, BUS_PORT, 0x71, &data, 1, false));
	assert_int_equal(data, 0x88);
	assert_int_equal(a.off, 1);
	assert_int_equal(a.len, 1);

	data = 0xdeadbeef;
	assert_true(bus_access(&bus, BUS_PORT, 0x3fa, &data, 2, true));
	assert_int_equal(b.off, 2);
	assert_int_equal(b.value, 0xbeef);
	assert_int_equal(b.len, 2);
	assert_int_equal(b.writes, 1);
}

static void nobody_is_all_ones(void **state)
{
	struct bus bus = { 0 };
	struct echo a = { 0 };
	uint64_t data = 0;

	(void)state;
	add(&bus, BUS_MMIO, 0x1000, 0x100, &echo_ops, &a);
	add(&bus, BUS_MMIO, 0x2000, 0x100, &deaf_ops, NULL);
	assert_false(bus_access(&bus, BUS_MMIO, 0xfff, &data, 1, false));
	assert_int_equal(data, 0xff);
	data = 0;
	assert_false(bus_access(&bus, BUS_MMIO, 0x1100, &data, 4, false));
	assert_int_equal(data, 0xffffffff);
	assert_false(bus_access(&bus, BUS_MMIO, 0xffe, &data, 4, true));  /* straddles the start */
	assert_false(bus_access(&bus, BUS_MMIO, 0x10fe, &data, 4, true)); /* and the end */
	assert_false(bus_access(&bus, BUS_MMIO, ~0ull, &data, 8, true));
	assert_int_equal(a.writes, 0);
	assert_false(bus_access(&bus, BUS_PORT, 0x1000, &data, 1, true)); /* the other space */

	data = 0;
	assert_true(bus_access(&bus, BUS_MMIO, 0x2000, &data, 8, false));
	assert_true(data == ~0ull);
	assert_true(bus_access(&bus, BUS_MMIO, 0x2000, &data, 8, true));
}

static void refuses_overlap(void **state)
{
	struct bus bus = { 0 };

	(void)state;
	assert_int_equal(add(&bus, BUS_PORT, 0x100, 0x10, &deaf_ops, NULL), 0);
	assert_int_equal(add(&bus, BUS_PORT, 0x10f, 1, &deaf_ops, NULL), -EEXIST);
	assert_int_equal(add(&bus, BUS_PORT, 0xff, 2, &deaf_ops, NULL), -EEXIST);
	assert_int_equal(add(&bus, BUS_PORT, 0x100, 1, &deaf_ops, NULL), -EEXIST);
	assert_int_equal(add(&bus, BUS_PORT, 0x110, 1, &deaf_ops, NULL), 0);
	assert_int_equal(add(&bus, BUS_PORT, 0xff, 1, &deaf_ops, NULL), 0);
	assert_int_equal(add(&bus, BUS_PORT, 0, 0, &deaf_ops, NULL), -EINVAL);
	assert_int_equal(add(&bus, BUS_MMIO, ~0ull, 2, &deaf_ops, NULL), -EINVAL);
	for (unsigned i = 3; i < BUS_RANGES_MAX; i++)
		assert_int_equal(add(&bus, BUS_PORT, 0x1000 + i, 1, &deaf_ops, NULL), 0);
	assert_int_equal(add(&bus, BUS_PORT, 0x2000, 1, &deaf_ops, NULL), -ENOSPC);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reaches_the_device),
		cmocka_unit_test(nobody_is_all_ones),
		cmocka_unit_test(refuses_overlap),
	};

	return cmocka_run_group_tests_name("core_bus", tests, NULL, NULL);
}
