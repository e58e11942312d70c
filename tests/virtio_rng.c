/* virtio-rng: random bytes, no more than a portion at a time, in buffers of any shape. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#include "tests/driver.h"
#include "virtio/rng.h"

#define MEMORY 0x400000
#define QUEUES 0x100000
#define DATA   0x200000

#define FEATURES (1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_F_EVENT_IDX)

struct fixture {
	struct world world;
	struct rng rng;
	struct driver d;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	world_init(&f->world, MEMORY);
	assert_int_equal(rng_init(&f->rng, &f->world.vdev), 0);
	driver_probe(&f->d, &f->world, 1, QUEUES);
	assert_true(driver_negotiate(&f->d, FEATURES));
	driver_queue(&f->d, 0, 0, NO_VECTOR);
	status_add(&f->d, S_DRIVER_OK);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	rng_fini(&f->rng);
	rng_fini(&f->rng);
	assert_int_equal(f->world.ring.in_flight, 0);
	world_fini(&f->world);
	free(f);
	return 0;
}

static uint32_t ask(struct fixture *f, uint32_t len)
{
	driver_add(&f->d, 0, 0, 0, DATA, len);
	driver_kick(&f->d, 0);
	return driver_wait(&f->d, 0).len;
}

/* That fewer than half the bytes changed twice in a row has a chance of 1 in 2^200. */
static void bytes_are_random(void **state)
{
	struct fixture *f = *state;
	uint8_t *data = driver_host(&f->d, DATA, 64);
	uint8_t before[64] = { 0 };

	for (unsigned n = 0; n < 4; n++) {
		unsigned changed = 0;

		assert_int_equal(ask(f, 64), 64);
		for (unsigned i = 0; i < 64; i++)
			changed += data[i] != before[i];
		assert_true(changed > 32);
		memcpy(before, data, sizeof(before));
	}
}

static void is_an_entropy_source(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(config_in(&f->d, PCI_DEVICE_ID, 2), 0x1044);
	assert_int_equal(f->d.config, 0); /* it has no configuration */
	assert_int_equal(reg_in(&f->d, R_NUM_QUEUES, 2), 1);
}

static void writes_only_where_it_may(void **state)
{
	struct fixture *f = *state;
	uint8_t *data = driver_host(&f->d, DATA, 256);
	unsigned zeroes = 0;

	/* What is there to be read is not its business. */
	driver_add(&f->d, 0, DATA, 64, DATA + 128, 32);
	driver_kick(&f->d, 0);
	assert_int_equal(driver_wait(&f->d, 0).len, 32);
	for (unsigned i = 0; i < 256; i++)
		if (i < 128 || i >= 160)
			assert_int_equal(data[i], 0);
		else
			zeroes += !data[i];
	assert_true(zeroes < 16);
}

/* A buffer in pieces. */
static void fills_all_segments(void **state)
{
	struct fixture *f = *state;
	struct virtq_desc *desc = driver_host(&f->d, f->d.queue[0].desc, 16 * RNG_QUEUE_SIZE);
	uint8_t *data = driver_host(&f->d, DATA, 3 * 64);

	driver_add(&f->d, 0, 0, 0, DATA, 16);
	desc[0].flags |= VIRTQ_DESC_F_NEXT;
	desc[0].next = 7;
	desc[7] = (struct virtq_desc){ DATA + 64, 0, VIRTQ_DESC_F_WRITE | VIRTQ_DESC_F_NEXT, 5 };
	desc[5] = (struct virtq_desc){ DATA + 128, 48, VIRTQ_DESC_F_WRITE, 0 };
	driver_kick(&f->d, 0);
	assert_int_equal(driver_wait(&f->d, 0).len, 64);
	assert_int_equal(data[64], 0);
	assert_memory_not_equal(data, data + 64, 16);
	assert_memory_not_equal(data + 128, data + 64, 48);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void a_portion_at_a_time(void **state)
{
	struct fixture *f = *state;
	double start = now();
	uint32_t got = 0;

	assert_int_equal(ask(f, 64 * RNG_PORTION), RNG_PORTION);
	assert_int_equal(f->rng.left, 0);
	for (unsigned n = 0; n < 4; n++)
		got += ask(f, RNG_PORTION);
	assert_int_equal(got, 4 * RNG_PORTION);
	assert_true(now() - start >= 4 * RNG_PORTION_NSEC / 1e9);
}

/* Kicks are off while it waits for the next portion. */
static void waiting_is_not_spinning(void **state)
{
	struct fixture *f = *state;
	uint64_t enters;

	ask(f, RNG_PORTION);
	driver_add(&f->d, 0, 0, 0, DATA, 16);
	driver_kick(&f->d, 0);
	enters = f->world.ring.enters;
	driver_wait(&f->d, 0);
	assert_true(f->world.ring.enters - enters <= 3);
}

/* The driver sees that it need not kick. */
static void kicks_are_off_while_it_waits(void **state)
{
	struct fixture *f = *state;
	const struct virtq_used *used;

	driver_reset(&f->d);
	f->d.free = QUEUES;
	assert_true(driver_negotiate(&f->d, FEATURES & ~(1ull << VIRTIO_F_EVENT_IDX)));
	driver_queue(&f->d, 0, 0, NO_VECTOR);
	status_add(&f->d, S_DRIVER_OK);
	used = driver_host(&f->d, f->d.queue[0].used, 6);
	world_settle(&f->world);
	assert_int_equal(used->flags, 0);
	ask(f, RNG_PORTION);
	assert_int_equal(f->rng.left, 0);
	assert_int_equal(used->flags, VIRTQ_USED_F_NO_NOTIFY);
	while (f->rng.refilling)
		ring_step(&f->world.ring);
	assert_int_equal(used->flags, 0);
}

/* Requests for nothing come to an end, too. */
static void empty_requests_cost_something(void **state)
{
	struct fixture *f = *state;

	for (unsigned n = 0; n < 8; n++)
		assert_int_equal(ask(f, 0), 0);
	assert_int_equal(f->rng.left, RNG_PORTION - 8);
	while (f->rng.refilling)
		ring_step(&f->world.ring);
	assert_int_equal(f->rng.left, RNG_PORTION);
}

static void reset_while_it_waits(void **state)
{
	struct fixture *f = *state;

	ask(f, RNG_PORTION);
	driver_add(&f->d, 0, 0, 0, DATA, 16);
	driver_kick(&f->d, 0);
	world_settle(&f->world);
	driver_reset(&f->d);
	while (f->rng.refilling)
		ring_step(&f->world.ring);

	f->d.free = QUEUES;
	assert_true(driver_negotiate(&f->d, FEATURES));
	driver_queue(&f->d, 0, 0, NO_VECTOR);
	status_add(&f->d, S_DRIVER_OK);
	assert_int_equal(ask(f, 100), 100);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(is_an_entropy_source),         TEST(bytes_are_random),
		TEST(writes_only_where_it_may),     TEST(fills_all_segments),
		TEST(a_portion_at_a_time),          TEST(waiting_is_not_spinning),
		TEST(kicks_are_off_while_it_waits), TEST(empty_requests_cost_something),
		TEST(reset_while_it_waits),
	};

	return cmocka_run_group_tests_name("virtio_rng", tests, NULL, NULL);
}
