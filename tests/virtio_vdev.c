/*
 * A virtio device's life, driven through the bus as Linux drives it: requests, polling, resets,
 * broken rules, the end. Its registers are in tests/virtio_vregs.c, what is PCI's in
 * tests/virtio_vpci.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/stderr.h"
#include "tests/toy.h"

/* Serving. */

static void requests_are_served(void **state)
{
	struct fixture *f = *state;

	bring_up(f, ALL, true);
	for (unsigned n = 0; n < 3 * SIZE; n++)
		round_trip(f, n % NQUEUES, 1000 + n);
	assert_int_equal(f->toy.starts, 1);
	assert_int_equal(f->toy.features, ALL);
	assert_int_equal(f->toy.vdev.queue[0].requests + f->toy.vdev.queue[1].requests, 3 * SIZE);
}

static void batch_is_one_interrupt(void **state)
{
	struct fixture *f = *state;
	uint64_t interrupts, enters;

	bring_up(f, BASIC, true);
	round_trip(f, 0, 1);
	world_settle(&f->world);
	fake_kvm_take_msi(MSI);

	for (unsigned i = 0; i < SIZE / 2; i++)
		driver_add(&f->d, 0, DATA, 4, DATA + 4, 4);
	interrupts = f->toy.vdev.interrupts;
	driver_kick(&f->d, 0);
	enters = f->world.ring.enters;
	ring_step(&f->world.ring);
	assert_int_equal(f->toy.vdev.queue[0].requests, 1 + SIZE / 2);
	assert_int_equal(f->toy.vdev.interrupts, interrupts + 1);
	assert_int_equal(f->world.ring.enters, enters + 1);
	world_settle(&f->world);
	assert_int_equal(fake_kvm_take_msi(MSI), 1);

	/* Two queues that share a vector, too. */
	reg_out(&f->d, R_QUEUE_SELECT, 2, 1);
	reg_out(&f->d, R_QUEUE_VECTOR, 2, 0);
	for (unsigned i = 0; i < NQUEUES; i++) {
		driver_add(&f->d, i, DATA, 4, DATA + 4, 4);
		driver_kick(&f->d, i);
	}
	world_settle(&f->world);
	assert_int_equal(f->toy.vdev.interrupts, interrupts + 2);
	assert_int_equal(fake_kvm_take_msi(MSI), 1);
}

static void nobody_interrupts_who_does_not_ask(void **state)
{
	struct fixture *f = *state;
	struct virtq_avail *avail;

	bring_up(f, BASIC, true);
	avail = driver_host(&f->d, f->d.queue[0].avail, 6);
	avail->flags = VIRTQ_AVAIL_F_NO_INTERRUPT;
	round_trip(f, 0, 1);
	world_settle(&f->world);
	assert_int_equal(fake_kvm_take_msi(MSI), 0);
}

static void early_requests_are_not_lost(void **state)
{
	struct fixture *f = *state;
	struct virtq_used_elem elem;

	assert_true(driver_negotiate(&f->d, ALL));
	driver_queue(&f->d, 0, 0, NO_VECTOR);
	driver_add(&f->d, 0, DATA, 4, DATA + 4, 4);
	driver_kick(&f->d, 0);
	world_settle(&f->world);
	assert_false(driver_used(&f->d, 0, &elem)); /* not before DRIVER_OK */
	status_add(&f->d, S_DRIVER_OK);
	driver_wait(&f->d, 0);

	/* A queue that is enabled late. */
	driver_queue(&f->d, 1, 0, NO_VECTOR);
	driver_add(&f->d, 1, DATA, 4, DATA + 4, 4);
	driver_wait(&f->d, 1);
	assert_int_equal(f->toy.starts, 1);
}

/* Polling. */

/* Whether the driver, with one more request than now, would kick. */
static bool kick_wanted(struct fixture *f, unsigned i)
{
	struct driver_queue *q = &f->d.queue[i];
	const struct virtq_used *used = driver_host(&f->d, q->used, 6 + 8 * q->size);
	uint16_t event;

	memcpy(&event, &used->ring[q->size], sizeof(event));
	if (f->d.features >> VIRTIO_F_EVENT_IDX & 1)
		return event == q->avail_idx;
	return !(used->flags & VIRTQ_USED_F_NO_NOTIFY);
}

/* While the ring polls, an empty queue is looked at, and not kicked; before it sleeps, it is. */
static void polled(struct fixture *f, uint64_t features)
{
	struct ring *ring = &f->world.ring;
	struct vdev *vdev = &f->toy.vdev;

	bring_up(f, features, true);
	round_trip(f, 0, 1);
	assert_true(kick_wanted(f, 0));
	assert_int_equal(vdev->polled, 0);

	ring_set_pace(ring, 1000000000, false);
	ring->pace.polling[0].on = true;
	round_trip(f, 0, 2);
	assert_int_equal(vdev->polled, 3); /* all queues: what comes next may be for another */
	assert_false(kick_wanted(f, 0));

	uint64_t kicks = vdev->queue[0].kicks;

	for (unsigned n = 0; n < SIZE; n++) {
		driver_add(&f->d, 0, DATA, 4, DATA + 4, 4);
		driver_wait(&f->d, 0);
		assert_true(ring->pace.polling[0].on);
	}
	assert_int_equal(vdev->queue[0].kicks, kicks);

	/* More than once before the ring sleeps. */
	assert_int_equal(vdev->polled, 3);
	for (unsigned n = 0; n < 3; n++) {
		assert_false(vdev->poller.look(&vdev->poller));
		driver_add(&f->d, 0, DATA, 4, DATA + 4, 4);
		assert_true(vdev->poller.look(&vdev->poller));
		assert_false(kick_wanted(f, 0));
	}
	world_settle(&f->world);
	for (unsigned n = 0; n < 3; n++)
		driver_wait(&f->d, 0);

	ring_set_pace(ring, 1000, false);
	ring->pace.polling[0].on = true;
	world_settle(&f->world);
	assert_int_equal(vdev->polled, 0);
	assert_true(kick_wanted(f, 0));
	round_trip(f, 1, 3);
	ring_set_pace(ring, 0, false);
}

static void polled_queues_need_no_kick(void **state)
{
	polled(*state, ALL);
}

static void polled_queues_without_event_idx(void **state)
{
	polled(*state, ALL & ~(1ull << VIRTIO_F_EVENT_IDX));
}

/* What is polled may be taken away meanwhile. */
static void a_polled_device_is_reset(void **state)
{
	struct fixture *f = *state;
	struct ring *ring = &f->world.ring;

	bring_up(f, ALL, true);
	ring_set_pace(ring, 1000000, false);
	ring->pace.polling[0].on = true;
	round_trip(f, 0, 1);
	assert_int_not_equal(f->toy.vdev.polled, 0);
	driver_reset(&f->d);
	world_settle(&f->world);
	bring_up(f, ALL, true);
	round_trip(f, 1, 2);
	ring->pace.polling[0].on = true;
	round_trip(f, 0, 1); /* and in the end with all of it: teardown */
}

/* Configuration. */

static void config_change_is_told(void **state)
{
	struct fixture *f = *state;
	struct vdev *vdev = &f->toy.vdev;
	uint32_t generation;

	bring_up(f, ALL, true);
	round_trip(f, 0, 1);
	generation = reg_in(&f->d, R_GENERATION, 1);

	pthread_mutex_lock(&vdev->lock);
	vdev->config[0] = 1;
	vdev_config_changed(vdev);
	pthread_mutex_unlock(&vdev->lock);
	world_settle(&f->world);
	assert_int_not_equal(reg_in(&f->d, R_GENERATION, 1), generation);
	assert_int_equal(driver_in(&f->d, f->d.config, 1), 1);
	assert_int_equal(fake_kvm_take_msi(MSI + NQUEUES), 1);
	assert_int_equal(driver_in(&f->d, f->d.isr, 1) & 2, 2);
}

/* §2.4.1: after a reset nobody is told of anything. */
static void config_change_before_a_reset_is_not_told(void **state)
{
	struct fixture *f = *state;
	struct vdev *vdev = &f->toy.vdev;

	bring_up(f, ALL, false);
	round_trip(f, 0, 1);
	world_settle(&f->world);
	fake_kvm_take(WORLD_GSI + 1);

	reg_out(&f->d, R_STATUS, 1, 0);
	pthread_mutex_lock(&vdev->lock);
	vdev->state = VDEV_LIVE; /* as it was when the change came */
	vdev_config_changed(vdev);
	vdev->state = VDEV_RESETTING;
	pthread_mutex_unlock(&vdev->lock);
	driver_reset(&f->d);
	world_settle(&f->world);
	assert_int_equal(fake_kvm_take(WORLD_GSI + 1), 0);
	assert_int_equal(driver_in(&f->d, f->d.isr, 1), 0);
}

/* Reset. */

static void reset_waits_for_what_is_in_flight(void **state)
{
	struct fixture *f = *state;
	struct driver *d = &f->d;
	struct virtq_used_elem elem;
	struct virtq_used *used;

	bring_up(f, ALL, true);
	round_trip(f, 0, 1);
	f->toy.hold = f->toy.slow = true;
	for (unsigned i = 0; i < NQUEUES; i++) {
		driver_add(d, i, DATA, 4, DATA + 4, 4);
		driver_add(d, i, DATA, 4, DATA + 4, 4);
		driver_kick(d, i);
	}
	world_settle(&f->world);
	assert_int_equal(f->toy.vdev.queue[1].virtq.in_flight, 2);

	reg_out(d, R_STATUS, 1, 0);
	assert_int_not_equal(status_in(d), 0);
	status_add(d, S_FAILED); /* nothing can be written meanwhile */
	reg_out(d, R_QUEUE_SELECT, 2, 1);
	assert_int_equal(status_in(d) & S_FAILED, 0);
	while (!f->toy.stops[0])
		ring_step(&f->world.ring);
	assert_int_not_equal(status_in(d), 0);
	while (status_in(d))
		ring_step(&f->world.ring);
	assert_int_equal(f->toy.stops[0], 1);
	assert_int_equal(f->toy.stops[1], 1);
	used = driver_host(d, d->queue[0].used, 6);
	assert_int_equal(used->idx, 1); /* nothing was published any more */
	assert_false(driver_used(d, 1, &elem));

	/* And nothing is touched any more, whatever is kicked. */
	memset(used, 0xee, 6 + 8 * SIZE);
	driver_kick(d, 0);
	driver_kick(d, 1);
	world_settle(&f->world);
	for (unsigned i = 0; i < 6 + 8 * SIZE; i++)
		assert_int_equal(((uint8_t *)used)[i], 0xee);

	f->toy.hold = false;
	bring_up(f, BASIC, false);
	round_trip(f, 0, 2);
	assert_int_equal(f->toy.starts, 2);
	assert_int_equal(f->toy.features, BASIC);
}

static void queue_reset(void **state)
{
	struct fixture *f = *state;
	struct driver *d = &f->d;

	bring_up(f, ALL, true);
	round_trip(f, 0, 1);
	f->toy.hold = f->toy.slow = true;
	driver_add(d, 1, DATA, 4, DATA + 4, 4);
	driver_kick(d, 1);
	while (!f->toy.vdev.queue[1].virtq.in_flight)
		ring_step(&f->world.ring);

	reg_out(d, R_QUEUE_SELECT, 2, 1);
	reg_out(d, R_QUEUE_RESET, 2, 1);
	assert_int_equal(reg_in(d, R_QUEUE_RESET, 2), 1);
	f->toy.hold = false;
	round_trip(f, 0, 2); /* the other one goes on */
	assert_int_equal(reg_in(d, R_QUEUE_RESET, 2), 1);
	assert_int_equal(f->toy.stops[1], 1);
	while (reg_in(d, R_QUEUE_RESET, 2))
		ring_step(&f->world.ring);
	assert_int_equal(reg_in(d, R_QUEUE_ENABLE, 2), 0);
	assert_int_equal(reg_in(d, R_QUEUE_SIZE, 2), SIZE);
	driver_kick(d, 1);
	world_settle(&f->world);

	driver_queue(d, 1, 8, 1); /* another size and place */
	for (unsigned n = 0; n < 20; n++)
		round_trip(f, 1, 100 + n);
	assert_int_equal(f->toy.starts, 1);
	assert_int_equal(f->toy.stops[0], 0);
}

static void device_reset_during_queue_reset(void **state)
{
	struct fixture *f = *state;

	bring_up(f, ALL, true);
	f->toy.hold = f->toy.slow = true;
	driver_add(&f->d, 1, DATA, 4, DATA + 4, 4);
	while (!f->toy.vdev.queue[1].virtq.in_flight)
		ring_step(&f->world.ring);
	reg_out(&f->d, R_QUEUE_SELECT, 2, 1);
	reg_out(&f->d, R_QUEUE_RESET, 2, 1);
	while (!f->toy.stops[1])
		ring_step(&f->world.ring);
	driver_reset(&f->d);
	assert_int_equal(f->toy.stops[1], 1);
	f->toy.hold = false;
	bring_up(f, ALL, true);
	round_trip(f, 1, 1);
}

/* Rules broken. */

static void bad_ring_stops_the_device_alone(void **state)
{
	struct fixture *f = *state;
	struct driver *d = &f->d;
	struct toy other = { .hold = false };
	struct fixture *g = calloc(1, sizeof(*g));
	struct virtq_used_elem elem;
	char text[STDERR_MAX];

	assert_int_equal(vdev_init(&other.vdev, &toy_kind, &f->world.vdev), 0);
	bring_up(f, ALL, true);
	round_trip(f, 1, 1);

	capture();
	driver_add(d, 0, 0xffff0000, 4, DATA, 4); /* not RAM */
	driver_kick(d, 0);
	while (!(status_in(d) & S_NEEDS_RESET))
		ring_step(&f->world.ring);
	world_settle(&f->world);
	assert_int_equal(fake_kvm_take_msi(MSI + NQUEUES), 1);
	driver_add(d, 0, 0xffff0000, 4, DATA, 4);
	driver_add(d, 1, DATA, 4, DATA + 4, 4);
	driver_kick(d, 0);
	driver_kick(d, 1);
	world_settle(&f->world);
	capture_end(text);
	assert_string_equal(text, "kring: toy stops until its driver resets it: its queue: "
	                          "Bad address\n");
	assert_false(driver_used(d, 1, &elem));
	assert_int_equal(f->toy.stops[0], 1);
	assert_int_equal(f->toy.stops[1], 1);

	/* The one in the next slot does not mind. */
	g->world.ring = f->world.ring;
	driver_probe(&g->d, &f->world, 2, 0x200000);
	assert_true(driver_negotiate(&g->d, ALL));
	driver_queue(&g->d, 0, 0, NO_VECTOR);
	status_add(&g->d, S_DRIVER_OK);
	driver_add(&g->d, 0, DATA, 4, DATA + 4, 4);
	while (!driver_used(&g->d, 0, &elem))
		ring_step(&f->world.ring);
	vdev_fini(&other.vdev);
	free(g);

	driver_reset(d);
	bring_up(f, ALL, true);
	round_trip(f, 0, 2);
}

static void bad_queue_addresses(void **state)
{
	struct fixture *f = *state;
	struct driver *d = &f->d;
	char text[STDERR_MAX];

	assert_true(driver_negotiate(d, ALL));
	driver_queue(d, 0, 0, NO_VECTOR);
	reg_out(d, R_QUEUE_SELECT, 2, 1);
	queue_address(d, R_QUEUE_DESC, MEMORY - 16);
	reg_out(d, R_QUEUE_ENABLE, 2, 1);
	capture();
	status_add(d, S_DRIVER_OK);
	while (!(status_in(d) & S_NEEDS_RESET))
		ring_step(&f->world.ring);
	capture_end(text);
	assert_non_null(strstr(text, "Bad address"));
	driver_reset(d);
	assert_int_equal(f->toy.starts, 0); /* what did not start is not stopped */
	assert_int_equal(f->toy.stops[0], 0);
	bring_up(f, ALL, true);
	round_trip(f, 0, 2);
}

/* The end. */

static void ends_with_requests_in_flight(void **state)
{
	struct fixture *f = *state;

	bring_up(f, ALL, true);
	f->toy.hold = f->toy.slow = true;
	driver_add(&f->d, 0, DATA, 4, DATA + 4, 4);
	while (!f->toy.vdev.queue[0].virtq.in_flight)
		ring_step(&f->world.ring);
	vdev_fini(&f->toy.vdev);
	assert_int_equal(f->toy.stops[0], 1);
	assert_int_equal(f->world.ring.in_flight, 0);
}

static void ends_while_it_is_reset(void **state)
{
	struct fixture *f = *state;

	bring_up(f, ALL, false);
	f->toy.hold = f->toy.slow = true;
	driver_add(&f->d, 0, DATA, 4, DATA + 4, 4);
	while (!f->toy.vdev.queue[0].virtq.in_flight)
		ring_step(&f->world.ring);
	reg_out(&f->d, R_STATUS, 1, 0);
	vdev_fini(&f->toy.vdev);
	assert_int_equal(f->world.ring.in_flight, 0);
}

static unsigned open_files(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void slots_run_out(void **state)
{
	struct fixture *f = *state;
	struct toy *toy = calloc(PCI_SLOTS, sizeof(*toy));
	unsigned before = open_files(), with_all;
	unsigned n = 0;

	while (n < PCI_SLOTS - 2)
		assert_int_equal(vdev_init(&toy[n++].vdev, &toy_kind, &f->world.vdev), 0);
	with_all = open_files();
	assert_int_equal(vdev_init(&toy[n].vdev, &toy_kind, &f->world.vdev), -ENOSPC);
	assert_int_equal(open_files(), with_all);
	vdev_fini(&toy[n].vdev);
	while (n--)
		vdev_fini(&toy[n].vdev);
	assert_int_equal(open_files(), before);
	assert_int_equal(f->world.ring.in_flight, 1);
	free(toy);
}

/* A driver on a thread of its own, as vCPUs are; ThreadSanitizer watches. */

struct life {
	struct fixture *f;
	unsigned rounds;
	_Atomic bool over;
	int wake;
};

static void life_used(struct life *life, unsigned i)
{
	struct virtq_used_elem elem;

	while (!driver_used(&life->f->d, i, &elem))
		sched_yield();
	while (driver_used(&life->f->d, i, &elem))
		;
}

static void *live(void *arg)
{
	struct life *life = arg;
	struct driver *d = &life->f->d;

	for (unsigned n = 0; n < life->rounds; n++) {
		if (!(n & 1))
			config_out(d, d->msix + 2, 2, 0);
		driver_start(d, ALL, 0, n & 1 ? MSI : 0);
		for (unsigned i = 0; i < 8; i++) {
			driver_add(d, i % NQUEUES, DATA, 4, DATA + 4, 4);
			driver_kick(d, i % NQUEUES);
			driver_in(d, d->isr, 1);
			driver_out(d, d->config + WRITABLE, 1, n);
		}
		if (n % 3) {
			for (unsigned i = 0; i < NQUEUES; i++)
				life_used(life, i);
			reg_out(d, R_QUEUE_SELECT, 2, 1);
			reg_out(d, R_QUEUE_RESET, 2, 1);
			while (reg_in(d, R_QUEUE_RESET, 2))
				sched_yield();
		}
		reg_out(d, R_STATUS, 1, 0);
		while (status_in(d))
			sched_yield();
	}
	life->over = true;
	eventfd_write(life->wake, 1);
	return NULL;
}

static void woken(struct io_watch *watch)
{
	(void)watch;
}

static void lives_with_threads(void **state)
{
	struct fixture *f = *state;
	struct life life = { .f = f, .rounds = 300, .wake = eventfd(0, 0) };
	struct io_watch watch;
	pthread_t thread;

	ring_watch(&f->world.ring, &watch, life.wake, woken);
	pthread_create(&thread, NULL, live, &life);
	while (!life.over)
		ring_step(&f->world.ring);
	pthread_join(thread, NULL);
	ring_unwatch(&watch);
	close(life.wake);
	assert_in_range(f->toy.starts, life.rounds * 2 / 3, life.rounds); /* some were very short */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(requests_are_served),
		TEST(batch_is_one_interrupt),
		TEST(nobody_interrupts_who_does_not_ask),
		TEST(early_requests_are_not_lost),
		TEST(polled_queues_need_no_kick),
		TEST(polled_queues_without_event_idx),
		TEST(a_polled_device_is_reset),
		TEST(config_change_is_told),
		TEST(config_change_before_a_reset_is_not_told),
		TEST(reset_waits_for_what_is_in_flight),
		TEST(queue_reset),
		TEST(device_reset_during_queue_reset),
		TEST(bad_ring_stops_the_device_alone),
		TEST(bad_queue_addresses),
		TEST(ends_with_requests_in_flight),
		TEST(ends_while_it_is_reset),
		TEST(slots_run_out),
		TEST(lives_with_threads),
	};

	return cmocka_run_group_tests_name("virtio_vdev", tests, NULL, NULL);
}
