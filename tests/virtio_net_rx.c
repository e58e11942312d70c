/*
 * Receiving with a virtio-net card: packets into buffers in any layout, merged ones, one by one and
 * many at once, moderation, a driver that posts none or bad ones, resets with reads pending.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <time.h>

#include <cmocka.h>

#include "tests/card.h"
#include "tests/random.h"

static void packets_come_in(void **state)
{
	struct fixture *f = *state;
	gpa_t gpa;

	plug_sockets(f);
	bring_up(f, TRANSPORT, 256);
	gpa = post(f, RX, 4, 2000);
	world_settle(&f->world);
	assert_int_equal(fake_kvm_take_msi(MSI + RX), 0);
	for (unsigned i = 0; i < 3; i++)
		host_sends(f, i, 60 + i);
	world_settle(&f->world);
	for (unsigned i = 0; i < 3; i++) {
		struct virtq_used_elem elem = { 0 };
		uint8_t want[60 + 3];
		gpa_t buffer;

		fill(want, i, 60 + i);
		assert_true(driver_used(&f->d, RX, &elem));
		buffer = gpa + elem.id * 2000;
		assert_int_equal(elem.len, HDR + 60 + i);
		assert_int_equal(hdr_at(f, buffer)->num_buffers, 1);
		assert_memory_equal(at(f, buffer + HDR), want, 60 + i);
		assert_int_equal(*(uint8_t *)at(f, buffer + HDR + 60 + i), 0xee);
	}
	assert_true(fake_kvm_take_msi(MSI + RX) > 0);
	assert_int_equal(f->net.rx[0].count.packets, 3);
	assert_int_equal(f->net.rx[0].count.bytes, 60 + 61 + 62);
}

/*
 * The next packet that the driver got, as virtio_net would take it: all buffers of it are there
 * once the first is. Returns its length; @packet has it without header, @nbuffers their number.
 */
static unsigned take(struct fixture *f, unsigned queue, const struct piece (*chain)[8],
                     uint8_t *packet, unsigned *nbuffers)
{
	uint8_t whole[HDR + 70000];
	struct virtq_used_elem elem = { 0 };
	struct virtio_net_hdr hdr;
	unsigned len = 0;
	unsigned n = 0;

	do {
		assert_true(driver_used(&f->d, queue, &elem));
		for (unsigned i = 0, left = elem.len; left; i++) {
			unsigned part = left < chain[elem.id][i].len ? left : chain[elem.id][i].len;

			memcpy(whole + len, at(f, chain[elem.id][i].gpa), part);
			len += part;
			left -= part;
		}
		assert_true(len >= HDR);
		memcpy(&hdr, whole, sizeof(hdr));
	} while (++n < hdr.num_buffers);
	*nbuffers = n;
	memcpy(packet, whole + HDR, len - HDR);
	return len - HDR;
}

/* A queue full of buffers in odd pieces, of more than @least bytes, and ten packets at a time. */
static void receive_any_layout(struct fixture *f, uint64_t features, unsigned least)
{
	static struct piece chain[NET_QUEUE_SIZE][8];
	static uint8_t packet[70000], want[70000];
	unsigned nbuffers, most = 0;

	plug_sockets(f);
	for (unsigned round = 0; round < 50; round++) {
		unsigned len[10];

		f->free = BUFFER;
		bring_up(f, features, 0);
		while (f->d.queue[RX].next + 8 <= NET_QUEUE_SIZE) {
			struct piece *piece = chain[f->d.queue[RX].next];
			unsigned n = 1 + below(&f->seed, 8);

			for (unsigned i = 0; i < n; i++) {
				piece[i].len = i + 1 < n ? 1 + below(&f->seed, 20)
				                         : least + below(&f->seed, 50);
				piece[i].gpa = alloc(f, piece[i].len);
			}
			driver_offer(&f->d, RX, piece, 0, n);
		}
		driver_kick(&f->d, RX);
		for (unsigned i = 0; i < 10; i++) {
			len[i] = 60 + below(&f->seed, 1440);
			host_sends(f, 10 * round + i, len[i]);
			if (below(&f->seed, 2))
				world_settle(&f->world);
		}
		world_settle(&f->world);
		for (unsigned i = 0; i < 10; i++) {
			assert_int_equal(take(f, RX, chain, packet, &nbuffers), len[i]);
			fill(want, 10 * round + i, len[i]);
			assert_memory_equal(packet, want, len[i]);
			if (nbuffers > most)
				most = nbuffers;
		}
		driver_reset(&f->d);
	}
	assert_int_equal(most > 1, least < 1500);
	assert_int_equal(f->net.rx[0].count.packets, 500);
	assert_int_equal(f->net.rx[0].count.lost, 0);
}

static void packets_come_in_in_any_layout(void **state)
{
	receive_any_layout(*state, TRANSPORT, 1520);
}

static void packets_come_in_over_many_buffers(void **state)
{
	receive_any_layout(*state, MERGEABLE, 500);
}

static void large_packets_come_in_over_many_buffers(void **state)
{
	receive_any_layout(*state, LARGE, 1500);
}

/* A packet takes as many buffers as it fills, and the rest serve the next ones. */
static void merged_buffers_are_counted(void **state)
{
	struct fixture *f = *state;
	gpa_t gpa;

	plug_sockets(f);
	bring_up(f, LARGE, 256);
	gpa = post(f, RX, 80, 1000);
	host_sends(f, 1, 65536);
	host_sends(f, 2, 988);
	host_sends(f, 3, 989);
	world_settle(&f->world);
	for (unsigned i = 0; i < 65; i++)
		used_is(f, RX, i, 1000);
	used_is(f, RX, 65, 548);
	assert_int_equal(hdr_at(f, gpa)->num_buffers, 66);
	/* 14 are left, which is not enough for another packet of that size. */
	assert_int_equal(used(f, RX), 0);
	post(f, RX, 60, 1000);
	world_settle(&f->world);
	used_is(f, RX, 66, 1000);
	assert_int_equal(hdr_at(f, gpa + 66 * 1000)->num_buffers, 1);
	used_is(f, RX, 67, 1000);
	used_is(f, RX, 68, 1);
	assert_int_equal(hdr_at(f, gpa + 67 * 1000)->num_buffers, 2);
}

/* A queue too short for the largest packet still gets others. */
static void a_short_queue_gets_what_fits(void **state)
{
	struct fixture *f = *state;
	gpa_t gpa;

	plug_sockets(f);
	bring_up(f, LARGE, 4);
	gpa = post(f, RX, 3, 2000);
	host_sends(f, 1, 60);
	world_settle(&f->world);
	assert_int_equal(used(f, RX), 0);
	post(f, RX, 1, 2000);
	world_settle(&f->world);
	used_is(f, RX, 0, HDR + 60);
	assert_int_equal(hdr_at(f, gpa)->num_buffers, 1);

	/* What is cut short is lost, and no packet. */
	post(f, RX, 1, 2000);
	host_sends(f, 2, 9000);
	host_sends(f, 3, 70);
	world_settle(&f->world);
	used_is(f, RX, 1, HDR + 70);
	assert_true(f->net.rx[0].count.lost == 1 && f->net.rx[0].count.packets == 2);
}

/* Buffers that no packet has used serve all reads: the driver may wait long before it adds some. */
static void left_over_buffers_are_used(void **state)
{
	struct fixture *f = *state;
	unsigned sent = 0;

	plug_sockets(f);
	bring_up(f, LARGE, 0);
	post(f, RX, 1024, 1536);
	for (; sent < 900; sent += 30) {
		for (unsigned i = 0; i < 30; i++)
			host_sends(f, i, 60);
		world_settle(&f->world);
		assert_int_equal(used(f, RX), 30);
	}
	assert_int_equal(f->net.rx[0].count.packets, 900);
}

/* In order and with few system calls, when packets come faster than they are fetched. */
static void many_packets_come_in(void **state)
{
	struct fixture *f = *state;
	uint64_t enters;
	int room = 1 << 24;
	gpa_t gpa;

	plug_sockets(f);
	setsockopt(f->host, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room));
	bring_up(f, MERGEABLE, 0);
	gpa = post(f, RX, 1024, 4096);
	world_settle(&f->world);
	for (unsigned i = 0; i < 900; i++)
		host_sends(f, i, 100);
	enters = f->world.ring.enters;
	while (f->net.rx[0].count.packets < 900)
		ring_step(&f->world.ring);
	enters = f->world.ring.enters - enters;
	print_message("%u packets in %u enters\n", 900, (unsigned)enters);
	assert_in_range(enters, 1, 900 * 15 / 100);
	world_settle(&f->world);
	for (unsigned i = 0; i < 900; i++) {
		struct virtq_used_elem elem = { 0 };

		assert_true(driver_used(&f->d, RX, &elem));
		assert_int_equal(*(uint8_t *)at(f, gpa + elem.id * 4096 + HDR), byte_of(i, 0));
	}
}

/* The tap's own queue full of packets: few system calls for each. */
static void a_full_tap_is_emptied_in_few_calls(void **state)
{
	struct fixture *f = *state;
	uint64_t enters;

	plug_tap(f, "t0");
	bring_up(f, LARGE, 0);
	f->free = BUFFER + 0x20000;
	post(f, RX, 1024, 1536);
	world_settle(&f->world);
	for (unsigned i = 0; i < 480; i++) {
		uint8_t frame[64] = {
			0xff, 0xff, 0xff, 0xff, 0xff, 0xff, [12] = 0x88, [13] = 0xb5
		};

		assert_int_equal(send(f->host, frame, sizeof(frame), 0), sizeof(frame));
	}
	enters = f->world.ring.enters;
	while (f->net.rx[0].count.packets < 480)
		ring_step(&f->world.ring);
	enters = f->world.ring.enters - enters;
	print_message("480 packets in %u enters\n", (unsigned)enters);
	assert_in_range(enters, 1, 480 * 15 / 100);
}

/* A driver that posts nothing: packets stay in the tap, and nobody spins. */
static void buffers_are_waited_for(void **state)
{
	struct fixture *f = *state;
	uint64_t enters;

	plug_sockets(f);
	bring_up(f, TRANSPORT, 256);
	host_sends(f, 1, 60);
	world_settle(&f->world);
	enters = f->world.ring.enters;
	for (unsigned i = 0; i < 10; i++)
		world_settle(&f->world);
	assert_in_range(f->world.ring.enters - enters, 10, 11);
	assert_int_equal(f->net.rx[0].count.packets, 0);
	post(f, RX, 1, 2000);
	world_settle(&f->world);
	used_is(f, RX, 0, HDR + 60);
	host_sends(f, 2, 60);
	world_settle(&f->world);
	assert_int_equal(used(f, RX), 0);
	post(f, RX, 1, 2000);
	world_settle(&f->world);
	assert_int_equal(used(f, RX), 1);
}

/* An idle link costs nothing. */
static void packets_are_waited_for(void **state)
{
	struct fixture *f = *state;
	uint64_t enters;

	plug_sockets(f);
	bring_up(f, MERGEABLE, 256);
	post(f, RX, 256, 2000);
	world_settle(&f->world);
	enters = f->world.ring.enters;
	for (unsigned i = 0; i < 10; i++)
		world_settle(&f->world);
	assert_in_range(f->world.ring.enters - enters, 10, 11);
}

/* One packet at a time is one system call a packet: no read that finds nothing. */
static void single_packets_take_one_call(void **state)
{
	struct fixture *f = *state;
	uint64_t enters;

	plug_sockets(f);
	bring_up(f, MERGEABLE, 256);
	post(f, RX, 200, 2000);
	world_settle(&f->world);
	enters = f->world.ring.enters;
	for (unsigned i = 0; i < 100; i++) {
		host_sends(f, i, 60);
		ring_step(&f->world.ring);
		while (f->net.rx[0].count.packets <= i)
			ring_step(&f->world.ring);
		assert_false(f->net.rx[0].moderated);
	}
	assert_int_equal(f->net.rx[0].count.packets, 100);
	assert_in_range(f->world.ring.enters - enters, 100, 210);
}

/* Packets, and batches until they have come. */
static void receive(struct fixture *f, unsigned n)
{
	const struct net_count *count = &f->net.rx[0].count;
	uint64_t end = count->packets + n;

	for (unsigned i = 0; i < n; i++)
		host_sends(f, i, 60);
	while (count->packets < end)
		ring_step(&f->world.ring);
}

static void need_moderation(struct fixture *f)
{
	for (unsigned round = 0; round < 5 && !f->net.rx[0].waiting; round++)
		receive(f, 20);
	if (!f->net.nowait) {
		print_message("no RWF_NOWAIT on sockets: no moderation\n");
		skip();
	}
	assert_true(f->net.rx[0].moderated && f->net.rx[0].waiting);
}

static int64_t now_nsec(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* In close succession nothing fetches packets but the end of a pause, and then there are many. */
static void packets_in_close_succession_are_moderated(void **state)
{
	struct fixture *f = *state;
	const struct net_rx *rx;
	uint64_t came;
	int64_t begin;

	plug_sockets(f);
	bring_up(f, MERGEABLE, 256);
	post(f, RX, 250, 2000);
	world_settle(&f->world);
	rx = f->net.rx;
	need_moderation(f);
	assert_int_equal(f->world.ring.pauses, 1);
	for (unsigned i = 0; i < 20; i++)
		host_sends(f, i, 60);
	came = rx->count.packets;
	begin = now_nsec();
	driver_kick(&f->d, RX);
	while (rx->waiting && !rx->out)
		ring_step(&f->world.ring);
	assert_false(rx->waiting);
	assert_true(now_nsec() - begin >= 100000);
	assert_int_equal(rx->count.packets, came);
	while (rx->count.packets < came + 20)
		ring_step(&f->world.ring);
	assert_true(rx->moderated);

	/* Too few: the next packet is waited for, and moderation not tried at once. */
	world_settle(&f->world);
	assert_false(rx->moderated || rx->waiting);
	assert_int_equal(rx->patience.skip, 1);
	receive(f, 1);
	assert_false(rx->moderated);

	/* Two at a time are too few, each time again: it becomes rare. */
	for (unsigned i = 0; i < 50; i++) {
		receive(f, 1);
		receive(f, 2);
		world_settle(&f->world);
	}
	assert_in_range(rx->patience.backoff, 7, 31); /* 63 would be a trial each time */
}

/* It goes on while eight packets or more come in a pause, in however many system calls. */
static void moderation_is_for_many_packets(void **state)
{
	static const struct {
		unsigned packets, cancels;
		bool moderated;
	} cases[] = {
		{ 8, 0, true },
		{ 8, 2 * RING_ENTRIES, true },
		{ 7, 0, false },
	};
	struct fixture *f = *state;
	struct net_rx *rx;
	struct io_op none;

	plug_sockets(f);
	rx = f->net.rx;
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		f->free = BUFFER;
		bring_up(f, MERGEABLE, 256);
		post(f, RX, 250, 2000);
		need_moderation(f);
		for (unsigned n = 0; n < cases[i].packets; n++)
			host_sends(f, n, 60);
		while (rx->waiting)
			ring_step(&f->world.ring);
		for (unsigned n = 0; n < cases[i].cancels; n++)
			ring_cancel(&f->world.ring, &none);
		while (rx->moderated && !rx->waiting)
			ring_step(&f->world.ring);
		assert_int_equal(rx->moderated, cases[i].moderated);
		driver_reset(&f->d);
	}
}

static void (*read_done)(struct io_op *op, int res);
static int read_error;

static void read_fails(struct io_op *op, int res)
{
	read_done(op, res > 0 ? read_error : res);
}

/* What the kernel had no memory for, or could not put where it belongs, is one packet. */
static void a_packet_that_cannot_be_read_is_lost(void **state)
{
	struct fixture *f = *state;
	static const int errors[] = { ENOBUFS, ENOMEM, EFAULT, EINVAL };
	struct net_rx *rx;

	plug_sockets(f);
	bring_up(f, TRANSPORT | BIT(VIRTIO_NET_F_STATUS), 256);
	post(f, RX, 16, 2000);
	world_settle(&f->world);
	rx = &f->net.rx[0];
	read_done = rx->read[0].op.done;
	for (unsigned i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
		read_error = -errors[i];
		for (unsigned k = 0; k < NET_READS; k++)
			rx->read[k].op.done = read_fails;
		host_sends(f, i, 60);
		world_settle(&f->world);
		assert_int_equal(rx->count.lost, i + 1);
		assert_int_equal(rx->count.packets, i);
		assert_int_equal(used(f, RX), 0);
		assert_int_equal(driver_in(&f->d, f->d.config + 6, 2), VIRTIO_NET_S_LINK_UP);

		for (unsigned k = 0; k < NET_READS; k++)
			rx->read[k].op.done = read_done;
		host_sends(f, i, 60);
		world_settle(&f->world);
		assert_int_equal(rx->count.packets, i + 1);
		used_is(f, RX, i, HDR + 60);
	}
	assert_int_equal(rx->count.lost, 4);
	assert_false(is_broken(f));
}

static void a_bad_buffer_breaks_it(void **state)
{
	struct fixture *f = *state;
	static const struct {
		struct piece piece[2];
		unsigned nout, n;
	} cases[] = {
		{ { { BUFFER, HDR - 1 } }, 0, 1 },
		{ { { BUFFER, 2000 } }, 1, 1 },
		{ { { BUFFER, 20 }, { BUFFER, 2000 } }, 1, 2 },
		{ { { MEMORY, 2000 } }, 0, 1 },
	};

	plug_sockets(f);
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		bring_up(f, i % 2 ? MERGEABLE : TRANSPORT, 256);
		post(f, RX, 1, 2000);
		world_settle(&f->world);
		driver_offer(&f->d, RX, cases[i].piece, cases[i].nout, cases[i].n);
		host_sends(f, 1, 60);
		driver_kick(&f->d, RX);
		world_settle(&f->world);
		assert_true(is_broken(f));
		assert_int_equal(f->net.vdev.queue[RX].virtq.size, 0);
		driver_reset(&f->d);
	}
}

/* Resets. */

static void a_reset_takes_pending_reads_back(void **state)
{
	struct fixture *f = *state;
	gpa_t gpa;

	plug_sockets(f);
	for (unsigned round = 0; round < 50; round++) {
		f->free = BUFFER;
		bring_up(f, round % 2 ? LARGE : TRANSPORT, 256);
		gpa = post(f, RX, 128, 1600);
		for (unsigned i = below(&f->seed, 5); i; i--)
			host_sends(f, i, 60);
		if (round % 3)
			world_settle(&f->world);
		else
			ring_step(&f->world.ring);
		driver_reset(&f->d);
		assert_int_equal(f->net.rx[0].out, 0);

		/* Nothing is written from here on. */
		memset(at(f, gpa), 0xaa, 128 * 1600);
		host_sends(f, 1, 60);
		world_settle(&f->world);
		for (unsigned i = 0; i < 128 * 1600; i++)
			assert_int_equal(((uint8_t *)at(f, gpa))[i], 0xaa);
		while (recv(f->tap.fd[0], (char[1]){ 0 }, 1, 0) > 0)
			;
	}
}

static void a_reset_ends_a_pause(void **state)
{
	struct fixture *f = *state;

	plug_sockets(f);
	for (unsigned round = 0; round < 3; round++) {
		f->free = BUFFER;
		bring_up(f, MERGEABLE, 256);
		post(f, RX, 250, 2000);
		need_moderation(f);
		reg_out(&f->d, R_STATUS, 1, 0);
		while (!f->net.vdev.queue[RX].stopping)
			ring_step(&f->world.ring);
		assert_int_not_equal(f->world.ring.cancels, 0);
		driver_reset(&f->d);
		assert_false(f->net.rx[0].waiting);
		assert_int_equal(f->net.rx[0].read[0].nchains, 0);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(packets_come_in),
		TEST(packets_come_in_in_any_layout),
		TEST(packets_come_in_over_many_buffers),
		TEST(large_packets_come_in_over_many_buffers),
		TEST(merged_buffers_are_counted),
		TEST(a_short_queue_gets_what_fits),
		TEST(left_over_buffers_are_used),
		TEST(many_packets_come_in),
		TEST(buffers_are_waited_for),
		TEST(packets_are_waited_for),
		TEST(single_packets_take_one_call),
		TEST(packets_in_close_succession_are_moderated),
		TEST(a_packet_that_cannot_be_read_is_lost),
		TEST(moderation_is_for_many_packets),
		TEST(a_bad_buffer_breaks_it),
		TEST(a_reset_takes_pending_reads_back),
		TEST(a_reset_ends_a_pause),
		TEST(a_full_tap_is_emptied_in_few_calls),
	};

	return cmocka_run_group_tests(tests, netns_setup, NULL);
}
