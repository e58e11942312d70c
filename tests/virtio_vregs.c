/* The registers of a virtio device: features, status, queues, configuration, and odd accesses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/toy.h"

static void features_are_negotiated(void **state)
{
	struct fixture *f = *state;
	struct driver *d = &f->d;

	assert_int_equal(driver_offered(d), ALL);
	reg_out(d, R_DEVICE_FEATURE_SELECT, 4, 2);
	assert_int_equal(reg_in(d, R_DEVICE_FEATURE, 4), 0);
	reg_out(d, R_DEVICE_FEATURE_SELECT, 4, 0xffffffff);
	assert_int_equal(reg_in(d, R_DEVICE_FEATURE, 4), 0);

	assert_false(driver_negotiate(d, ALL & ~BASIC));
	reg_out(d, R_STATUS, 1, 0);
	assert_false(driver_negotiate(d, ALL | 1ull << 33)); /* ACCESS_PLATFORM */
	reg_out(d, R_STATUS, 1, 0);
	assert_false(driver_negotiate(d, ALL | 1));
	reg_out(d, R_DRIVER_FEATURE_SELECT, 4, 0); /* it may think again */
	reg_out(d, R_DRIVER_FEATURE, 4, 1u << FEATURE);
	status_add(d, S_FEATURES_OK);
	assert_true(status_in(d) & S_FEATURES_OK);

	reg_out(d, R_DRIVER_FEATURE, 4, 0);
	assert_int_equal(reg_in(d, R_DRIVER_FEATURE, 4), 1u << FEATURE);
	status_add(d, S_DRIVER_OK);
	driver_queue(d, 0, 0, NO_VECTOR);
	while (!f->toy.starts)
		ring_step(&f->world.ring);
	assert_int_equal(f->toy.features, (ALL & ~0xffffffffull) | 1u << FEATURE);
}

static void status_only_grows(void **state)
{
	struct fixture *f = *state;
	struct driver *d = &f->d;

	status_add(d, S_DRIVER_OK | S_NEEDS_RESET);
	assert_int_equal(status_in(d), 0);
	assert_true(driver_negotiate(d, ALL));
	reg_out(d, R_STATUS, 1, S_FAILED);
	assert_int_equal(status_in(d), S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK | S_FAILED);
	reg_out(d, R_STATUS, 1, 0);
	assert_int_equal(status_in(d), 0);
	assert_int_equal(reg_in(d, R_DRIVER_FEATURE, 4), 0);
	assert_int_equal(f->toy.starts, 0);
}

static void queue_registers(void **state)
{
	struct fixture *f = *state;
	struct driver *d = &f->d;
	static const uint16_t bad_sizes[] = { 0, 3, 2 * SIZE, 0x8000, 48 };

	reg_out(d, R_QUEUE_SELECT, 2, 1);
	assert_int_equal(reg_in(d, R_QUEUE_SIZE, 2), SIZE);
	assert_int_equal(reg_in(d, R_QUEUE_VECTOR, 2), NO_VECTOR);
	assert_int_equal(reg_in(d, R_QUEUE_NOTIFY_OFF, 2), 1);
	for (unsigned i = 0; i < sizeof(bad_sizes) / sizeof(bad_sizes[0]); i++) {
		reg_out(d, R_QUEUE_SIZE, 2, bad_sizes[i]);
		assert_int_equal(reg_in(d, R_QUEUE_SIZE, 2), SIZE);
	}
	reg_out(d, R_QUEUE_SIZE, 2, 16);
	reg_out(d, R_QUEUE_VECTOR, 2, NQUEUES + 1); /* there is none of that number */
	assert_int_equal(reg_in(d, R_QUEUE_VECTOR, 2), NO_VECTOR);
	reg_out(d, R_QUEUE_VECTOR, 2, NQUEUES);
	assert_int_equal(reg_in(d, R_QUEUE_VECTOR, 2), NQUEUES);
	queue_address(d, R_QUEUE_DESC, 0x123456789abcull);
	queue_address(d, R_QUEUE_DRIVER, 0x23456789abcdull);
	queue_address(d, R_QUEUE_DEVICE, 0x3456789abcdeull);
	assert_int_equal(driver_in(d, d->common + R_QUEUE_DESC, 8), 0x123456789abcull);
	assert_int_equal(driver_in(d, d->common + R_QUEUE_DRIVER, 8), 0x23456789abcdull);
	assert_int_equal(driver_in(d, d->common + R_QUEUE_DEVICE, 8), 0x3456789abcdeull);

	/* Enabled, it is frozen, and only a reset disables it. */
	reg_out(d, R_QUEUE_ENABLE, 2, 1);
	reg_out(d, R_QUEUE_SIZE, 2, 32);
	queue_address(d, R_QUEUE_DESC, 0);
	reg_out(d, R_QUEUE_ENABLE, 2, 0);
	assert_int_equal(reg_in(d, R_QUEUE_SIZE, 2), 16);
	assert_int_equal(driver_in(d, d->common + R_QUEUE_DESC, 8), 0x123456789abcull);
	assert_int_equal(reg_in(d, R_QUEUE_ENABLE, 2), 1);

	/* The other one is untouched, and there is no third. */
	reg_out(d, R_QUEUE_SELECT, 2, 0);
	assert_int_equal(reg_in(d, R_QUEUE_SIZE, 2), SIZE);
	for (unsigned i = NQUEUES; i < 0x10000; i += 0x3fff) {
		reg_out(d, R_QUEUE_SELECT, 2, i);
		reg_out(d, R_QUEUE_SIZE, 2, 16);
		reg_out(d, R_QUEUE_ENABLE, 2, 1);
		assert_int_equal(reg_in(d, R_QUEUE_SELECT, 2), i);
		assert_int_equal(reg_in(d, R_QUEUE_SIZE, 2), 0);
		assert_int_equal(reg_in(d, R_QUEUE_ENABLE, 2), 0);
		assert_int_equal(reg_in(d, R_QUEUE_VECTOR, 2), NO_VECTOR);
	}

	reg_out(d, R_STATUS, 1, 0);
	reg_out(d, R_QUEUE_SELECT, 2, 1);
	assert_int_equal(reg_in(d, R_QUEUE_ENABLE, 2), 0);
	assert_int_equal(reg_in(d, R_QUEUE_SIZE, 2), SIZE);
	assert_int_equal(driver_in(d, d->common + R_QUEUE_DESC, 8), 0);
}

/* Nothing but whole registers can be written; anything can be read. */
static void odd_accesses(void **state)
{
	struct fixture *f = *state;
	struct driver *d = &f->d;
	static const unsigned lens[] = { 1, 2, 4, 8 };

	reg_out(d, R_QUEUE_SIZE, 4, 16);
	reg_out(d, R_QUEUE_SIZE, 1, 16);
	reg_out(d, R_QUEUE_SIZE + 1, 2, 16);
	assert_int_equal(reg_in(d, R_QUEUE_SIZE, 2), SIZE);
	reg_out(d, R_STATUS, 2, 0x0101);
	reg_out(d, R_STATUS - 1, 2, 0x0101);
	assert_int_equal(status_in(d), 0);
	reg_out(d, R_NUM_QUEUES, 2, 7);
	reg_out(d, R_GENERATION, 1, 7);
	assert_int_equal(reg_in(d, R_NUM_QUEUES, 4), NQUEUES);
	assert_int_equal(reg_in(d, R_NUM_QUEUES + 1, 1), 0);
	assert_int_equal(reg_in(d, R_QUEUE_SELECT + 1, 4), SIZE << 8 | 0xffu << 24);

	for (uint64_t off = 0; off < 0x2000; off++)
		for (unsigned i = 0; i < 4; i++) {
			driver_in(d, d->bar + off, lens[i]);
			driver_out(d, d->bar + off, lens[i], ~0ull);
		}
	assert_int_equal(reg_in(d, R_NUM_QUEUES, 2), NQUEUES);
	driver_reset(d);
	bring_up(f, ALL, true);
	round_trip(f, 0, 1);
}

static void config_is_read_and_in_part_written(void **state)
{
	struct fixture *f = *state;
	struct driver *d = &f->d;

	assert_int_equal(driver_in(d, d->config, 4), 0xc3c2c1c0);
	assert_int_equal(driver_in(d, d->config + CONFIG_LEN - 2, 4), 0xcbca); /* zeroes behind */
	assert_int_equal(driver_in(d, d->config + CONFIG_LEN, 8), 0);

	driver_out(d, d->config + 8, 4, 0x11223344);
	driver_out(d, d->config, 4, 0x11223344);
	driver_out(d, d->config + CONFIG_LEN, 4, 0x11223344);
	assert_int_equal(driver_in(d, d->config + 8, 4), 0xcbca33c8);
	assert_int_equal(driver_in(d, d->config, 4), 0xc3c2c1c0);
}

static void reset_of_an_idle_device_is_at_once(void **state)
{
	struct fixture *f = *state;
	struct driver *d = &f->d;

	driver_negotiate(d, ALL);
	driver_msix(d, NQUEUES + 1, MSI);
	driver_queue(d, 0, 16, 0);
	reg_out(d, R_STATUS, 1, 0);
	assert_int_equal(status_in(d), 0);
	assert_int_equal(reg_in(d, R_QUEUE_ENABLE, 2), 0);
	assert_int_equal(reg_in(d, R_QUEUE_VECTOR, 2), NO_VECTOR);
	assert_int_equal(reg_in(d, R_CONFIG_VECTOR, 2), NO_VECTOR);
}

static void queue_reset_must_be_negotiated(void **state)
{
	struct fixture *f = *state;

	bring_up(f, BASIC, true);
	round_trip(f, 1, 1);
	reg_out(&f->d, R_QUEUE_SELECT, 2, 1);
	reg_out(&f->d, R_QUEUE_RESET, 2, 1);
	assert_int_equal(reg_in(&f->d, R_QUEUE_RESET, 2), 0);
	round_trip(f, 1, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(features_are_negotiated),
		TEST(status_only_grows),
		TEST(queue_registers),
		TEST(odd_accesses),
		TEST(config_is_read_and_in_part_written),
		TEST(reset_of_an_idle_device_is_at_once),
		TEST(queue_reset_must_be_negotiated),
	};

	return cmocka_run_group_tests_name("virtio_vregs", tests, NULL, NULL);
}
