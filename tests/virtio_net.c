/*
 * virtio-net but for receiving (tests/virtio_net_rx.c): what the card offers, packets out in any
 * layout, commands, pairs of queues, a tap that is full, silent or gone.
 */
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/card.h"
#include "tests/random.h"

#define COMMANDS                                                                                   \
	(TRANSPORT | BIT(VIRTIO_NET_F_CTRL_VQ) | BIT(VIRTIO_NET_F_CTRL_RX) |                       \
	 BIT(VIRTIO_NET_F_CTRL_MAC_ADDR) | BIT(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) |                 \
	 BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO4))

/* What the card is. */

static void it_says_what_it_is(void **state)
{
	struct fixture *f = *state;
	struct virtio_net_config config;

	plug_sockets(f);
	assert_int_equal(config_in(&f->d, PCI_DEVICE_ID, 2), 0x1041);
	assert_int_equal(config_in(&f->d, PCI_REVISION_ID, 4) >> 8, 0x020000);
	assert_int_equal(reg_in(&f->d, R_NUM_QUEUES, 2), 3);
	for (unsigned i = 0; i < sizeof(config); i++)
		((uint8_t *)&config)[i] = (uint8_t)driver_in(&f->d, f->d.config + i, 1);
	assert_int_equal(config.mac[0], 2);
	assert_int_equal(config.status, VIRTIO_NET_S_LINK_UP);
	assert_int_equal(config.max_virtqueue_pairs, 1);
	assert_int_equal(config.speed, 10000);
	assert_int_equal(config.duplex, 1);
	driver_out(&f->d, f->d.config, 1, 0xff);
	assert_int_equal(driver_in(&f->d, f->d.config, 1), 2);
}

static void it_offers_what_the_tap_can_do(void **state)
{
	struct fixture *f = *state;
	uint64_t always = TRANSPORT | BIT(VIRTIO_NET_F_MAC) | BIT(VIRTIO_NET_F_STATUS) |
	                  BIT(VIRTIO_NET_F_MRG_RXBUF) | BIT(VIRTIO_NET_F_CTRL_VQ) |
	                  BIT(VIRTIO_NET_F_CTRL_RX) | BIT(VIRTIO_NET_F_CTRL_MAC_ADDR) |
	                  BIT(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) | BIT(VIRTIO_NET_F_SPEED_DUPLEX);
	static const struct {
		unsigned tun;
		uint64_t bits;
	} offloads[] = {
		{ TUN_F_CSUM, BIT(VIRTIO_NET_F_CSUM) | BIT(VIRTIO_NET_F_GUEST_CSUM) },
		{ TUN_F_TSO4, BIT(VIRTIO_NET_F_HOST_TSO4) | BIT(VIRTIO_NET_F_GUEST_TSO4) },
		{ TUN_F_TSO6, BIT(VIRTIO_NET_F_HOST_TSO6) | BIT(VIRTIO_NET_F_GUEST_TSO6) },
		{ TUN_F_TSO_ECN, BIT(VIRTIO_NET_F_HOST_ECN) | BIT(VIRTIO_NET_F_GUEST_ECN) },
		{ TUN_F_UFO, BIT(VIRTIO_NET_F_HOST_UFO) | BIT(VIRTIO_NET_F_GUEST_UFO) },
		{ TUN_F_USO4, BIT(VIRTIO_NET_F_HOST_USO) | BIT(VIRTIO_NET_F_GUEST_USO4) },
		{ TUN_F_USO6, BIT(VIRTIO_NET_F_HOST_USO) | BIT(VIRTIO_NET_F_GUEST_USO6) },
	};
	uint64_t offered, expected = always;
	unsigned host;

	need_taps();
	host = netns_offloads();
	for (unsigned i = 0; i < sizeof(offloads) / sizeof(offloads[0]); i++)
		if (host & offloads[i].tun)
			expected |= offloads[i].bits;
	plug_tap(f, "t0");
	assert_int_equal(driver_offered(&f->d), expected);
	net_fini(&f->net);
	world_fini(&f->world);
	tap_close(&f->tap);

	memset(&f->net, 0, sizeof(f->net));
	world_init(&f->world, MEMORY);
	plug_tap(f, "t0,mtu=9000,queues=2,mac=02:03:04:05:06:07");
	offered = driver_offered(&f->d);
	assert_true(offered & BIT(VIRTIO_NET_F_MTU) && offered & BIT(VIRTIO_NET_F_MQ));
	assert_int_equal(driver_in(&f->d, f->d.config, 4), 0x05040302);
	assert_int_equal(driver_in(&f->d, f->d.config + 8, 2), 2);
	assert_int_equal(driver_in(&f->d, f->d.config + 10, 2), 9000);
	assert_int_equal(reg_in(&f->d, R_NUM_QUEUES, 2), 5);
}

/* Transmitting. */

/* The next packet that the host got is @number, of @len bytes. */
static void host_gets(struct fixture *f, unsigned number, unsigned len)
{
	static uint8_t got[HDR + 70000], want[70000];

	fill(want, number, len);
	assert_int_equal(recv(f->host, got, sizeof(got), 0), HDR + len);
	assert_memory_equal(got + HDR, want, len);
}

/* Transmit the packet @number of @len bytes from one buffer. */
static void transmit(struct fixture *f, unsigned number, unsigned len)
{
	struct piece piece = { alloc(f, HDR + len), HDR + len };
	uint8_t *packet = at(f, piece.gpa);

	memset(packet, 0, HDR);
	fill(packet + HDR, number, len);
	driver_offer(&f->d, TX, &piece, 1, 1);
}

static void packets_go_out(void **state)
{
	struct fixture *f = *state;

	plug_sockets(f);
	bring_up(f, TRANSPORT, 256);
	transmit(f, 1, 60);
	transmit(f, 2, 1514);
	transmit(f, 3, 65549);
	driver_kick(&f->d, TX);
	world_settle(&f->world);
	host_gets(f, 1, 60);
	host_gets(f, 2, 1514);
	host_gets(f, 3, 65549);
	used_is(f, TX, 0, 0);
	used_is(f, TX, 1, 0);
	used_is(f, TX, 2, 0);
	assert_int_equal(fake_kvm_take_msi(MSI + TX), 1);
	assert_int_equal(f->net.tx[0].count.packets, 3);
	assert_int_equal(f->net.tx[0].count.bytes, 60 + 1514 + 65549);
	assert_int_equal(f->net.tx[0].count.lost, 0);
}

/* Header and data in pieces of any size, in as many as there are descriptors. */
static void packets_go_out_in_any_layout(void **state)
{
	struct fixture *f = *state;

	plug_sockets(f);
	bring_up(f, TRANSPORT, 0);
	for (unsigned number = 0; number < 100; number++) {
		struct piece piece[NET_QUEUE_SIZE];
		unsigned len = 1 + below(&f->seed, 3000);
		unsigned max = 1 + below(&f->seed, number % 2 ? 4 : 2000);
		unsigned n = 0;
		gpa_t gpa = alloc(f, HDR + len);

		memset(at(f, gpa), 0, HDR);
		fill((uint8_t *)at(f, gpa) + HDR, number, len);
		for (unsigned left = HDR + len; left;) {
			uint32_t part = 1 + below(&f->seed, max);

			if (part > left || n == NET_QUEUE_SIZE - 1)
				part = left;
			piece[n++] = (struct piece){ gpa, part };
			gpa += part;
			left -= part;
		}
		driver_offer(&f->d, TX, piece, n, n);
		driver_kick(&f->d, TX);
		world_settle(&f->world);
		host_gets(f, number, len);
		assert_int_equal(used(f, TX), 1);
	}
}

/* More than a pass: all leave, in order, in few system calls. */
static void many_packets_go_out(void **state)
{
	struct fixture *f = *state;
	uint64_t enters;
	int room = 1 << 24;

	plug_sockets(f);
	setsockopt(f->tap.fd[0], SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room));
	bring_up(f, TRANSPORT, 0);
	for (unsigned i = 0; i < 1000; i++)
		transmit(f, i, 100);
	enters = f->world.ring.enters;
	driver_kick(&f->d, TX);
	while (f->net.tx[0].count.packets < 1000)
		ring_step(&f->world.ring);
	assert_in_range(f->world.ring.enters - enters, 1, 1000 / NET_WRITES + 10);
	for (unsigned i = 0; i < 1000; i++)
		host_gets(f, i, 100);
	world_settle(&f->world);
	assert_int_equal(used(f, TX), 1000);
}

/* Nothing is lost, and nothing spins, while the host does not take packets. */
static void a_full_tap_is_waited_for(void **state)
{
	struct fixture *f = *state;
	uint8_t packet[HDR + 1000];
	uint64_t enters;
	int room = 16384;

	plug_sockets(f);
	setsockopt(f->tap.fd[0], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	bring_up(f, TRANSPORT, 0);
	for (unsigned i = 0; i < 500; i++)
		transmit(f, i, 1000);
	driver_kick(&f->d, TX);
	world_settle(&f->world);
	enters = f->world.ring.enters;
	for (unsigned i = 0; i < 10; i++)
		world_settle(&f->world);
	assert_in_range(f->world.ring.enters - enters, 10, 20);
	for (unsigned i = 0; i < 500; i++) {
		assert_int_equal(recv(f->host, packet, sizeof(packet), 0), sizeof(packet));
		world_settle(&f->world);
	}
	assert_int_equal(used(f, TX), 500);
	assert_int_equal(f->net.tx[0].count.lost, 0);
}

/* A driver that has more to send while a pass is under way need not say so. */
static void kicks_are_off_while_packets_go_out(void **state)
{
	struct fixture *f = *state;
	const struct virtq_used *tx, *rx;
	uint8_t packet[HDR + 1000];
	int room = 16384;

	plug_sockets(f);
	setsockopt(f->tap.fd[0], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	bring_up(f, TRANSPORT & ~BIT(VIRTIO_F_EVENT_IDX), 256);
	tx = driver_host(&f->d, f->d.queue[TX].used, 6);
	rx = driver_host(&f->d, f->d.queue[RX].used, 6);
	for (unsigned i = 0; i < 100; i++)
		transmit(f, i, 1000);
	driver_kick(&f->d, TX);
	world_settle(&f->world);
	assert_true(f->net.tx[0].out > 0);
	assert_int_equal(tx->flags, VIRTQ_USED_F_NO_NOTIFY);
	transmit(f, 100, 1000);
	for (unsigned i = 0; i <= 100; i++) {
		assert_int_equal(recv(f->host, packet, sizeof(packet), 0), sizeof(packet));
		world_settle(&f->world);
	}
	assert_int_equal(used(f, TX), 101);
	assert_int_equal(tx->flags, 0);

	/* Nor, while there are buffers for them, need one that receives packets. */
	assert_int_equal(rx->flags, 0);
	post(f, RX, 2, 2000);
	world_settle(&f->world);
	assert_int_equal(rx->flags, VIRTQ_USED_F_NO_NOTIFY);
	host_sends(f, 1, 60);
	host_sends(f, 2, 60);
	world_settle(&f->world);
	assert_int_equal(used(f, RX), 2);
	assert_int_equal(rx->flags, 0);
}

static void a_full_tap_does_not_stop_a_reset(void **state)
{
	struct fixture *f = *state;
	int room = 4608;

	plug_sockets(f);
	setsockopt(f->tap.fd[0], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	bring_up(f, TRANSPORT, 0);
	for (unsigned i = 0; i < 100; i++)
		transmit(f, i, 1000);
	driver_kick(&f->d, TX);
	world_settle(&f->world);
	assert_true(f->net.tx[0].out > 0);
	driver_reset(&f->d);
	assert_int_equal(f->net.tx[0].out, 0);

	while (recv(f->host, (char[1]){ 0 }, 1, 0) > 0)
		;
	bring_up(f, TRANSPORT, 0);
	transmit(f, 7, 100);
	driver_kick(&f->d, TX);
	world_settle(&f->world);
	host_gets(f, 7, 100);
}

static void what_the_tap_refuses_is_lost(void **state)
{
	struct fixture *f = *state;

	plug_sockets(f);
	bring_up(f, TRANSPORT, 256);
	close(f->host);
	f->host = -1;
	signal(SIGPIPE, SIG_IGN);
	for (unsigned i = 0; i < 100; i++)
		transmit(f, i, 1000);
	driver_kick(&f->d, TX);
	world_settle(&f->world);
	assert_int_equal(used(f, TX), 100);
	assert_int_equal(f->net.tx[0].count.lost, 100);
	assert_false(is_broken(f));
}

static void a_packet_without_header_breaks_it(void **state)
{
	struct fixture *f = *state;
	struct piece piece = { BUFFER, HDR - 1 };

	plug_sockets(f);
	bring_up(f, TRANSPORT, 256);
	transmit(f, 1, 60);
	driver_offer(&f->d, TX, &piece, 1, 1);
	driver_kick(&f->d, TX);
	world_settle(&f->world);
	host_gets(f, 1, 60);
	assert_true(is_broken(f));
	assert_int_equal(fake_kvm_take_msi(MSI + 3), 1);
}

/* Resets. */

static void reset_queue(struct fixture *f, unsigned i)
{
	reg_out(&f->d, R_QUEUE_SELECT, 2, i);
	reg_out(&f->d, R_QUEUE_RESET, 2, 1);
	while (reg_in(&f->d, R_QUEUE_RESET, 2))
		ring_step(&f->world.ring);
	assert_int_equal(reg_in(&f->d, R_QUEUE_ENABLE, 2), 0);
}

/* One queue starts over, at another size, while the others go on. */
static void a_queue_is_reset_alone(void **state)
{
	struct fixture *f = *state;

	plug_sockets(f);
	bring_up(f, MERGEABLE, 256);
	for (unsigned round = 0; round < 8; round++) {
		post(f, RX, 64, 1600);
		host_sends(f, round, 60);
		transmit(f, round, 70);
		driver_kick(&f->d, TX);
		world_settle(&f->world);
		used_is(f, RX, 0, HDR + 60);
		used_is(f, TX, round, 0);
		host_gets(f, round, 70);
		reset_queue(f, RX);
		driver_queue(&f->d, RX, round % 2 ? 256 : 64, RX);
	}
	assert_false(is_broken(f));
}

/* Commands. */

/* Run a command of @len bytes; its answer. */
static uint8_t command(struct fixture *f, uint8_t class, uint8_t number, const void *data,
                       uint32_t len)
{
	unsigned queue = reg_in(&f->d, R_NUM_QUEUES, 2) - 1;
	struct piece piece[3] = { { BUFFER, 2 }, { BUFFER + 16, len }, { BUFFER + 0x10000, 1 } };
	struct virtio_net_ctrl_hdr hdr = { class, number };
	uint8_t *ack = at(f, piece[2].gpa);

	if (!(f->d.features & BIT(VIRTIO_NET_F_MQ)))
		queue = CTRL;
	memcpy(at(f, piece[0].gpa), &hdr, sizeof(hdr));
	memcpy(at(f, piece[1].gpa), data, len);
	*ack = 0xee;
	driver_offer(&f->d, queue, piece, 2, 3);
	driver_kick(&f->d, queue);
	world_settle(&f->world);
	assert_int_equal(used(f, queue), 1);
	return *ack;
}

#define OK  VIRTIO_NET_OK
#define ERR VIRTIO_NET_ERR

static void bad_commands_get_an_error(void **state)
{
	struct fixture *f = *state;
	static const uint8_t zeroes[8192];
	uint8_t table[8] = { 1 };

	plug_tap(f, "t0,queues=2");
	bring_up(f, COMMANDS | BIT(VIRTIO_NET_F_MQ), 64);
	assert_int_equal(command(f, 99, 0, zeroes, 1), ERR);
	assert_int_equal(command(f, 0, 99, zeroes, 1), ERR);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_RX, 0, zeroes, 0), ERR);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_RX, 0, zeroes, 2), ERR);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_MAC, 1, zeroes, 5), ERR);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_MAC, 1, zeroes, 7), ERR);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_MAC, 0, zeroes, 0), ERR);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_MAC, 0, zeroes, 7), ERR);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_MAC, 0, table, 8), ERR);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_MQ, 0, zeroes, 2), ERR);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_MQ, 0, "\3", 2), ERR);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_MQ, 0, "\0\1", 2), ERR);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_MQ, 0, "\1", 1), ERR);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, zeroes, 7), ERR);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, zeroes, 9), ERR);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, "\0\1\0\0\0\0\0\0", 8), ERR);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, "\4\0\0\0\0\0\0\0", 8), ERR);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, zeroes, 8192), ERR);
	assert_false(is_broken(f));
}

/* The command says what stands in the used ring's flags while it is carried out. */
static void kicks_are_off_while_it_obeys(void **state)
{
	struct fixture *f = *state;
	struct virtio_net_ctrl_hdr *hdr;
	struct piece piece[3] = { { BUFFER, sizeof(*hdr) }, { 0, 1 }, { BUFFER + 16, 1 } };

	plug_tap(f, "t0");
	bring_up(f, COMMANDS & ~BIT(VIRTIO_F_EVENT_IDX), 64);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, "", 1), OK);
	assert_false(f->net.promisc);
	hdr = at(f, BUFFER);
	*hdr = (struct virtio_net_ctrl_hdr){ VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC };
	piece[1].gpa = f->d.queue[CTRL].used + offsetof(struct virtq_used, flags);
	assert_int_equal(*(uint8_t *)at(f, piece[1].gpa), 0);
	driver_offer(&f->d, CTRL, piece, 2, 3);
	driver_kick(&f->d, CTRL);
	world_settle(&f->world);
	assert_true(f->net.promisc);
	assert_int_equal(*(uint8_t *)at(f, piece[1].gpa), 0);
}

static void commands_need_their_feature(void **state)
{
	struct fixture *f = *state;
	static const uint8_t zeroes[8];

	plug_tap(f, "t0,queues=2");
	bring_up(f, TRANSPORT | BIT(VIRTIO_NET_F_CTRL_VQ), 64);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_RX, 0, zeroes, 1), ERR);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_RX, 1, zeroes, 1), ERR);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_MAC, 0, zeroes, 8), ERR);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_MAC, 1, "\2\0\0\0\0\1", 6), ERR);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_MQ, 0, "\1", 2), ERR);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, zeroes, 8), ERR);
}

static void a_command_without_header_or_answer_breaks_it(void **state)
{
	struct fixture *f = *state;
	struct piece piece[2] = { { BUFFER, 1 }, { BUFFER + 16, 1 } };

	plug_sockets(f);
	bring_up(f, COMMANDS, 64);
	driver_offer(&f->d, CTRL, piece, 1, 2);
	driver_kick(&f->d, CTRL);
	world_settle(&f->world);
	assert_true(is_broken(f));
	driver_reset(&f->d);

	bring_up(f, COMMANDS, 64);
	piece[0].len = 3;
	driver_offer(&f->d, CTRL, piece, 1, 1);
	driver_kick(&f->d, CTRL);
	world_settle(&f->world);
	assert_true(is_broken(f));
}

/* Whether a frame that the host sends to @to is received. */
static bool hears(struct fixture *f, const char *to)
{
	uint8_t frame[64] = { 0 };
	unsigned n;

	memcpy(frame, to, ETH_ALEN);
	frame[12] = 0x88;
	frame[13] = 0xb5;
	assert_int_equal(send(f->host, frame, sizeof(frame), 0), sizeof(frame));
	world_settle(&f->world);
	n = used(f, RX);
	if (n)
		post(f, RX, n, 1600);
	return n;
}

#define GROUP     "\x01\0\x5e\0\0\x01"
#define BROADCAST "\xff\xff\xff\xff\xff\xff"

static void the_driver_says_what_it_hears(void **state)
{
	struct fixture *f = *state;
	uint8_t table[2 + 4 + 6 * 100] = { 1, 0, 0, 0, 2, 0, 0,    0, 0, 7,
		                           1, 0, 0, 0, 1, 0, 0x5e, 0, 0, 1 };

	plug_tap(f, "t0,mac=02:00:00:00:00:01");
	bring_up(f, COMMANDS, 64);
	f->free = BUFFER + 0x20000;
	post(f, RX, 8, 1600);
	assert_true(hears(f, "\2\0\0\0\0\x09")); /* before it says anything */

	assert_int_equal(command(f, VIRTIO_NET_CTRL_RX, 0, "", 1), OK);
	assert_true(hears(f, "\2\0\0\0\0\1"));
	assert_true(hears(f, BROADCAST));
	assert_false(hears(f, "\2\0\0\0\0\7"));
	assert_false(hears(f, "\2\0\0\0\0\x09"));
	assert_false(hears(f, GROUP));

	assert_int_equal(command(f, VIRTIO_NET_CTRL_MAC, 0, table, 20), OK);
	assert_true(hears(f, "\2\0\0\0\0\7"));
	assert_true(hears(f, GROUP));
	assert_false(hears(f, "\2\0\0\0\0\x09"));
	assert_false(hears(f, "\3\0\0\0\0\x09"));

	assert_int_equal(command(f, VIRTIO_NET_CTRL_RX, 1, "\1", 1), OK);
	assert_true(hears(f, "\3\0\0\0\0\x09"));
	assert_int_equal(command(f, VIRTIO_NET_CTRL_RX, 1, "", 1), OK);
	assert_false(hears(f, "\3\0\0\0\0\x09"));

	assert_int_equal(command(f, VIRTIO_NET_CTRL_MAC, 1, "\2\0\0\0\0\x0a", 6), OK);
	assert_true(hears(f, "\2\0\0\0\0\x0a"));
	assert_false(hears(f, "\2\0\0\0\0\1"));
	assert_int_equal(driver_in(&f->d, f->d.config + 5, 1), 0x0a);

	/* More stations than there is room for, in a table that is longer than is looked at. */
	memset(table, 0, sizeof(table));
	table[0] = 99;
	assert_int_equal(command(f, VIRTIO_NET_CTRL_MAC, 0, table, sizeof(table)), OK);
	assert_true(hears(f, "\2\0\0\0\0\x09"));
	memset(table, 0, sizeof(table));
	assert_int_equal(command(f, VIRTIO_NET_CTRL_MAC, 0, table, 8), OK);
	assert_false(hears(f, "\2\0\0\0\0\x09"));
	assert_int_equal(command(f, VIRTIO_NET_CTRL_RX, 0, "\1", 1), OK);
	assert_true(hears(f, "\2\0\0\0\0\x09"));

	/* The next driver begins with everything. */
	assert_int_equal(command(f, VIRTIO_NET_CTRL_RX, 0, "", 1), OK);
	assert_false(hears(f, "\2\0\0\0\0\x09"));
	driver_reset(&f->d);
	bring_up(f, COMMANDS, 64);
	post(f, RX, 8, 1600);
	assert_true(hears(f, "\2\0\0\0\0\x09"));
}

static void offloads_are_switched(void **state)
{
	struct fixture *f = *state;

	plug_tap(f, "t0");
	bring_up(f, COMMANDS, 64);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, "\0\0\0\0\0\0\0\0", 8), OK);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, "\x82\0\0\0\0\0\0\0", 8),
	                 OK);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, "\2\0\0\0\0\0\0\0", 8), OK);
}

/* As `ethtool -k` does. */
static bool tap_segments(const struct fixture *f)
{
	struct ethtool_value value = { .cmd = ETHTOOL_GTSO };
	struct ifreq ifr = { .ifr_data = (void *)&value };

	strcpy(ifr.ifr_name, f->tap.name);
	assert_int_equal(ioctl(f->host, SIOCETHTOOL, &ifr), 0);
	return value.data;
}

/* What was negotiated holds from DRIVER_OK on, without a command. */
static void large_packets_come_in_whole(void **state)
{
	struct fixture *f = *state;
	const struct net_count *count;

	plug_tap(f, "t0");
	count = &f->net.rx[0].count;
	bring_up(f, LARGE, 256);
	assert_true(tap_segments(f));
	post(f, RX, 256, 1600);
	netns_send_tcp("t0", 4000, 1000);
	world_settle(&f->world);
	assert_int_equal(count->packets, 1);
	assert_int_equal(count->bytes, 54 + 4000);
	assert_int_equal(hdr_at(f, BUFFER)->num_buffers, 3);
	assert_int_equal(hdr_at(f, BUFFER)->gso_size, 1000);
	driver_reset(&f->d);

	/* The next driver cannot take them. */
	bring_up(f, MERGEABLE, 256);
	assert_false(tap_segments(f));
	f->free = BUFFER;
	post(f, RX, 256, 1600);
	netns_send_tcp("t0", 4000, 1000);
	world_settle(&f->world);
	assert_int_equal(count->packets, 1 + 4);
	assert_int_equal(count->bytes, 54 + 4000 + 4 * (54 + 1000));
}

static void packets_of_a_large_mtu_come_in_whole(void **state)
{
	struct fixture *f = *state;
	uint8_t frame[14 + 9000] = { [12] = 0x88, [13] = 0xb5 };

	memset(frame, 0xff, ETH_ALEN);
	plug_tap(f, "t0,mtu=9000");
	bring_up(f, MERGEABLE, 256);
	post(f, RX, 256, 1600);
	assert_int_equal(send(f->host, frame, sizeof(frame), 0), sizeof(frame));
	world_settle(&f->world);
	assert_int_equal(f->net.rx[0].count.packets, 1);
	assert_int_equal(f->net.rx[0].count.bytes, sizeof(frame));
	assert_int_equal(hdr_at(f, BUFFER)->num_buffers, 6);
	assert_int_equal(used(f, RX), 6);
}

/* One that is given is announced, even if it is what all have. */
static void an_mtu_that_is_given_is_announced(void **state)
{
	struct fixture *f = *state;

	plug_tap(f, "t0,mtu=1500");
	assert_true(driver_offered(&f->d) & BIT(VIRTIO_NET_F_MTU));
	assert_int_equal(driver_in(&f->d, f->d.config + 10, 2), 1500);
}

static void host_sends_flows(struct fixture *f, unsigned n)
{
	netns_send_flows(f->host, n);
	world_settle(&f->world);
}

/* Linux fills a queue again when half of it is used: with the other half it must get packets. */
static void short_queues_get_no_large_packets(void **state)
{
	struct fixture *f = *state;

	plug_tap(f, "t0");
	bring_up(f, COMMANDS | LARGE | BIT(VIRTIO_NET_F_GUEST_TSO6) | BIT(VIRTIO_NET_F_GUEST_ECN),
	         256);
	assert_true(tap_segments(f));
	for (uint16_t size = 64; size >= 32; size /= 2) {
		reset_queue(f, RX);
		driver_queue(&f->d, RX, size, RX);
		world_settle(&f->world);
		assert_false(tap_segments(f));
		post(f, RX, size / 2 - 1, 1536);
		host_sends_flows(f, 1);
		assert_int_equal(used(f, RX), 1);
	}
	assert_int_equal(command(f, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, "\x82\2\0\0\0\0\0\0", 8),
	                 OK);
	assert_false(tap_segments(f));
	reset_queue(f, RX);
	driver_queue(&f->d, RX, 128, RX);
	world_settle(&f->world);
	assert_true(tap_segments(f));

	/* What the driver has switched off stays off. */
	reset_queue(f, RX);
	driver_queue(&f->d, RX, 64, RX);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, "\2\0\0\0\0\0\0\0", 8), OK);
	reset_queue(f, RX);
	driver_queue(&f->d, RX, 128, RX);
	world_settle(&f->world);
	assert_false(tap_segments(f));
}

/* One is enough. */
static void a_short_queue_of_the_second_pair_counts(void **state)
{
	struct fixture *f = *state;

	plug_tap(f, "t0,queues=2");
	bring_up(f, COMMANDS | LARGE | BIT(VIRTIO_NET_F_MQ), 256);
	assert_true(tap_segments(f));
	reset_queue(f, 2);
	driver_queue(&f->d, 2, 64, 2);
	world_settle(&f->world);
	assert_false(tap_segments(f));
}

/* Without mergeable buffers each has room for a large packet (§5.1.6.3.1). */
static void a_short_queue_of_large_buffers_gets_large_packets(void **state)
{
	struct fixture *f = *state;

	plug_tap(f, "t0");
	bring_up(f, COMMANDS | (LARGE & ~BIT(VIRTIO_NET_F_MRG_RXBUF)), 64);
	assert_true(tap_segments(f));
}

/* Where there is but one pair, the queue behind it is the control queue. */
static void a_short_control_queue_does_not_matter(void **state)
{
	struct fixture *f = *state;

	plug_tap(f, "t0,queues=2");
	assert_true(driver_negotiate(&f->d, COMMANDS | LARGE));
	for (unsigned i = 0; i < 3; i++)
		driver_queue(&f->d, i, i == CTRL ? 64 : 256, NO_VECTOR);
	status_add(&f->d, S_DRIVER_OK);
	world_settle(&f->world);
	assert_true(tap_segments(f));
}

static void pairs_of_queues_share_the_packets(void **state)
{
	struct fixture *f = *state;
	unsigned first, second;

	plug_tap(f, "t0,queues=2");
	bring_up(f, COMMANDS | BIT(VIRTIO_NET_F_MQ), 256);
	f->free = BUFFER + 0x20000;
	post(f, 0, 256, 1600);
	post(f, 2, 256, 1600);
	host_sends_flows(f, 64);
	assert_int_equal(used(f, 0), 64);
	assert_int_equal(used(f, 2), 0);
	for (unsigned round = 0; round < 2; round++) {
		assert_int_equal(command(f, VIRTIO_NET_CTRL_MQ, 0, "\2", 2), OK);
		host_sends_flows(f, 64);
		first = used(f, 0);
		second = used(f, 2);
		assert_int_equal(first + second, 64);
		assert_in_range(first, 1, 63);
		assert_int_equal(command(f, VIRTIO_NET_CTRL_MQ, 0, "\1", 2), OK);
		host_sends_flows(f, 32);
		assert_int_equal(used(f, 0), 32);
		assert_int_equal(used(f, 2), 0);
	}
	assert_int_equal(command(f, VIRTIO_NET_CTRL_MQ, 0, "\2", 2), OK);
	driver_reset(&f->d);
	assert_int_equal(f->net.rx[1].out, 0);

	/* Without MQ the third queue is the one for commands. */
	bring_up(f, COMMANDS, 256);
	assert_int_equal(f->tap.attached, 1);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_RX, 0, "", 1), OK);
}

static void both_pairs_transmit(void **state)
{
	struct fixture *f = *state;
	uint8_t frame[64];

	plug_tap(f, "t0,queues=2");
	bring_up(f, COMMANDS | BIT(VIRTIO_NET_F_MQ), 256);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_MQ, 0, "\2", 2), OK);
	f->free = BUFFER + 0x20000;
	for (unsigned pair = 0; pair < 2; pair++) {
		struct piece piece = { alloc(f, HDR + 64), HDR + 64 };

		memset(at(f, piece.gpa), 0, HDR + 64);
		memset(at(f, piece.gpa + HDR), 0xff, 6);
		memcpy(at(f, piece.gpa + HDR + 12), "\x88\xb5", 3);
		*(uint8_t *)at(f, piece.gpa + HDR + 14) = (uint8_t)pair;
		driver_offer(&f->d, 2 * pair + 1, &piece, 1, 1);
		driver_kick(&f->d, 2 * pair + 1);
		world_settle(&f->world);
		assert_int_equal(recv(f->host, frame, sizeof(frame), 0), sizeof(frame));
		assert_int_equal(frame[14], pair);
		assert_int_equal(used(f, 2 * pair + 1), 1);
	}
}

/* A tap that goes away: the link is down, packets are lost, and that is all. */
static void a_tap_goes_away_under_load(void **state)
{
	struct fixture *f = *state;
	uint64_t enters;

	plug_tap(f, "t0");
	bring_up(f, LARGE | BIT(VIRTIO_NET_F_STATUS), 256);
	f->free = BUFFER + 0x20000;
	post(f, RX, 256, 1600);
	host_sends_flows(f, 32);
	assert_int_equal(used(f, RX), 32);
	for (unsigned i = 0; i < 200; i++)
		transmit(f, i, 1000);
	driver_kick(&f->d, TX);
	assert_true(netns_remove("t0"));
	world_settle(&f->world);
	assert_int_equal(used(f, TX), 200);
	assert_int_equal(driver_in(&f->d, f->d.config + 6, 2), 0);
	assert_int_equal(fake_kvm_take_msi(MSI + 3), 1);
	assert_false(is_broken(f));

	enters = f->world.ring.enters;
	for (unsigned i = 0; i < 10; i++)
		world_settle(&f->world);
	assert_in_range(f->world.ring.enters - enters, 10, 11);

	driver_reset(&f->d);
	bring_up(f, LARGE, 256);
	post(f, RX, 256, 1600);
	transmit(f, 1, 100);
	driver_kick(&f->d, TX);
	world_settle(&f->world);
	assert_int_equal(used(f, TX), 1);
	assert_false(is_broken(f));
}

/* An interface that is down takes nothing, and comes back. */
static void a_tap_is_down_for_a_while(void **state)
{
	struct fixture *f = *state;

	plug_tap(f, "t0");
	bring_up(f, MERGEABLE, 256);
	f->free = BUFFER + 0x20000;
	post(f, RX, 256, 1600);
	netns_set_flags("t0", 0);
	transmit(f, 1, 100);
	driver_kick(&f->d, TX);
	world_settle(&f->world);
	assert_int_equal(used(f, TX), 1);
	assert_int_equal(f->net.tx[0].count.lost, 1);
	netns_set_flags("t0", IFF_UP);
	close(f->host);
	f->host = netns_socket("t0");
	transmit(f, 2, 100);
	driver_kick(&f->d, TX);
	host_sends_flows(f, 16);
	assert_int_equal(used(f, TX), 1);
	assert_int_equal(f->net.tx[0].count.packets, 1);
	assert_int_equal(used(f, RX), 16);
	assert_int_equal(driver_in(&f->d, f->d.config + 6, 2), VIRTIO_NET_S_LINK_UP);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(it_says_what_it_is),
		TEST(it_offers_what_the_tap_can_do),
		TEST(packets_go_out),
		TEST(packets_go_out_in_any_layout),
		TEST(many_packets_go_out),
		TEST(a_full_tap_is_waited_for),
		TEST(kicks_are_off_while_packets_go_out),
		TEST(a_full_tap_does_not_stop_a_reset),
		TEST(what_the_tap_refuses_is_lost),
		TEST(a_packet_without_header_breaks_it),
		TEST(a_queue_is_reset_alone),
		TEST(bad_commands_get_an_error),
		TEST(commands_need_their_feature),
		TEST(kicks_are_off_while_it_obeys),
		TEST(a_command_without_header_or_answer_breaks_it),
		TEST(the_driver_says_what_it_hears),
		TEST(offloads_are_switched),
		TEST(large_packets_come_in_whole),
		TEST(packets_of_a_large_mtu_come_in_whole),
		TEST(an_mtu_that_is_given_is_announced),
		TEST(short_queues_get_no_large_packets),
		TEST(a_short_queue_of_the_second_pair_counts),
		TEST(a_short_queue_of_large_buffers_gets_large_packets),
		TEST(a_short_control_queue_does_not_matter),
		TEST(pairs_of_queues_share_the_packets),
		TEST(both_pairs_transmit),
		TEST(a_tap_goes_away_under_load),
		TEST(a_tap_is_down_for_a_while),
	};

	return cmocka_run_group_tests(tests, netns_setup, NULL);
}
