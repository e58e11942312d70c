/*
 * virtio-net, driven through the bus and its queues: packets in any layout both ways, merged
 * buffers, commands, a tap that is full, silent or gone, resets with reads pending. The tap is a
 * pair of sockets where that will do, else a real one in a network namespace of the test's own.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/driver.h"
#include "tests/netns.h"
#include "virtio/net.h"

#define MEMORY 0x4000000
#define QUEUES 0x100000 /* guest memory for queues, */
#define BUFFER 0x400000 /* and for buffers */
#define MSI    0x40
#define HDR    TAP_HDR_LEN

#define BIT(n) (1ull << (n))
#define TRANSPORT                                                                                  \
	(BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_F_RING_RESET) | BIT(VIRTIO_F_INDIRECT_DESC) |        \
	 BIT(VIRTIO_F_EVENT_IDX))
#define MERGEABLE (TRANSPORT | BIT(VIRTIO_NET_F_MRG_RXBUF))
#define LARGE     (MERGEABLE | BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO4))
#define COMMANDS                                                                                   \
	(TRANSPORT | BIT(VIRTIO_NET_F_CTRL_VQ) | BIT(VIRTIO_NET_F_CTRL_RX) |                       \
	 BIT(VIRTIO_NET_F_CTRL_MAC_ADDR) | BIT(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) |                 \
	 BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO4))

enum { RX, TX, CTRL };

struct fixture {
	struct world world;
	struct tap tap;
	struct net net;
	struct driver d;
	int host;   /* the other end of the tap */
	gpa_t free; /* guest memory for buffers from here on */
	uint64_t seed;
};

static bool taps_allowed;

static int setup_group(void **state)
{
	(void)state;
	taps_allowed = netns_enter();
	return 0;
}

static void need_taps(void)
{
	if (taps_allowed)
		return;
	print_message("no taps here: this takes root and /dev/net/tun\n");
	skip();
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	*state = f;
	f->seed = 1;
	f->host = -1;
	world_init(&f->world, MEMORY);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	net_fini(&f->net);
	world_fini(&f->world);
	tap_close(&f->tap);
	if (f->host >= 0)
		close(f->host);
	free(f);
	return 0;
}

static uint32_t below(struct fixture *f, uint32_t n)
{
	f->seed = f->seed * 6364136223846793005 + 1442695040888963407;
	return (uint32_t)(f->seed >> 33) % n;
}

static void plug(struct fixture *f)
{
	assert_int_equal(net_init(&f->net, 0, &f->tap, &f->world.vdev), 0);
	driver_probe(&f->d, &f->world, 1, QUEUES);
	f->free = BUFFER;
}

/* A cable of two sockets that keep packets apart, as a tap does. */
static void plug_sockets(struct fixture *f)
{
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds),
	                 0);
	f->tap = (struct tap){ .name = "pair", .queues = 1, .attached = 1, .fd = { fds[0] } };
	f->tap.offloads = TUN_F_CSUM | TUN_F_TSO4;
	f->tap.mac[0] = 2;
	f->host = fds[1];
	plug(f);
}

static void plug_tap(struct fixture *f, const char *text)
{
	struct tap_config config;
	char why[TAP_WHY_MAX];

	need_taps();
	assert_int_equal(tap_parse(&config, text, why), 0);
	if (tap_open(&f->tap, &config, why))
		fail_msg("%s", why);
	f->host = netns_socket(config.name);
	plug(f);
}

/* From reset to DRIVER_OK, every queue and the configuration with a vector of its own. */
static void bring_up(struct fixture *f, uint64_t features, uint16_t size)
{
	unsigned n = reg_in(&f->d, R_NUM_QUEUES, 2);

	assert_true(driver_negotiate(&f->d, features));
	driver_msix(&f->d, n + 1, MSI);
	for (unsigned i = 0; i < n; i++)
		driver_queue(&f->d, i, size, (uint16_t)i);
	status_add(&f->d, S_DRIVER_OK);
	world_settle(&f->world);
}

/* A piece of a chain. */
struct piece {
	gpa_t gpa;
	uint32_t len;
};

/* Offer @n pieces, the first @nout of them to be read. Returns the chain's head. */
static uint16_t offer(struct fixture *f, unsigned i, const struct piece *piece, unsigned nout,
                      unsigned n)
{
	struct driver_queue *q = &f->d.queue[i];
	struct virtq_desc *desc = driver_host(&f->d, q->desc, 16 * q->size);
	struct virtq_avail *avail = driver_host(&f->d, q->avail, 6 + 2 * q->size);
	uint16_t head = q->next % q->size;

	for (unsigned k = 0; k < n; k++) {
		unsigned at = q->next++ % q->size;

		desc[at] = (struct virtq_desc){
			.addr = piece[k].gpa,
			.len = piece[k].len,
			.flags = (k >= nout ? VIRTQ_DESC_F_WRITE : 0) |
			         (k + 1 < n ? VIRTQ_DESC_F_NEXT : 0),
			.next = q->next % q->size,
		};
	}
	avail->ring[q->avail_idx++ & (q->size - 1)] = head;
	__atomic_store_n(&avail->idx, q->avail_idx, __ATOMIC_SEQ_CST);
	return head;
}

static gpa_t alloc(struct fixture *f, uint32_t len)
{
	gpa_t at = f->free;

	f->free += len;
	return at;
}

/* Offer @n buffers of @len bytes in queue @i, to be written. Returns where the first is. */
static gpa_t post(struct fixture *f, unsigned i, unsigned n, uint32_t len)
{
	gpa_t first = f->free;

	while (n--) {
		struct piece piece = { alloc(f, len), len };

		memset(driver_host(&f->d, piece.gpa, len), 0xee, len);
		offer(f, i, &piece, 0, 1);
	}
	driver_kick(&f->d, i);
	return first;
}

static void *at(struct fixture *f, gpa_t gpa)
{
	return mem_host(&f->world.mem, gpa, 1);
}

/* Byte @i of the packet @number. */
static uint8_t byte_of(unsigned number, unsigned i)
{
	return (uint8_t)(number * 31 + i * 7 + (i >> 8));
}

static void fill(uint8_t *packet, unsigned number, unsigned len)
{
	for (unsigned i = 0; i < len; i++)
		packet[i] = byte_of(number, i);
}

/* The host sends the packet @number: a header of zeroes and @len bytes. */
static void host_sends(struct fixture *f, unsigned number, unsigned len)
{
	static uint8_t packet[HDR + 70000];

	fill(packet + HDR, number, len);
	assert_int_equal(send(f->host, packet, HDR + len, 0), HDR + len);
}

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
	offer(f, TX, &piece, 1, 1);
}

static unsigned used(struct fixture *f, unsigned i)
{
	struct virtq_used_elem elem;
	unsigned n = 0;

	while (driver_used(&f->d, i, &elem))
		n++;
	return n;
}

static void used_is(struct fixture *f, unsigned i, unsigned head, uint32_t len)
{
	struct virtq_used_elem elem = { 0xffff, 0 };

	assert_true(driver_used(&f->d, i, &elem));
	assert_int_equal(elem.id, head);
	assert_int_equal(elem.len, len);
}

static const struct virtio_net_hdr *hdr_at(struct fixture *f, gpa_t gpa)
{
	return at(f, gpa);
}

static bool is_broken(struct fixture *f)
{
	return status_in(&f->d) & S_NEEDS_RESET;
}

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
	uint64_t csum = BIT(VIRTIO_NET_F_CSUM) | BIT(VIRTIO_NET_F_GUEST_CSUM);
	uint64_t tso = BIT(VIRTIO_NET_F_HOST_TSO4) | BIT(VIRTIO_NET_F_GUEST_TSO4) |
	               BIT(VIRTIO_NET_F_HOST_TSO6) | BIT(VIRTIO_NET_F_GUEST_TSO6) |
	               BIT(VIRTIO_NET_F_HOST_ECN) | BIT(VIRTIO_NET_F_GUEST_ECN);
	uint64_t uso = BIT(VIRTIO_NET_F_HOST_USO) | BIT(VIRTIO_NET_F_GUEST_USO4) |
	               BIT(VIRTIO_NET_F_GUEST_USO6);
	uint64_t offered;

	plug_tap(f, "t0");
	offered = driver_offered(&f->d);
	assert_int_equal(offered & (always | csum | tso), always | csum | tso);
	assert_true((offered & uso) == (f->tap.offloads & TUN_F_USO4 ? uso : 0));
	assert_int_equal(offered & (BIT(VIRTIO_NET_F_MTU) | BIT(VIRTIO_NET_F_MQ)), 0);
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
		unsigned len = 1 + below(f, 3000);
		unsigned max = 1 + below(f, number % 2 ? 4 : 2000);
		unsigned n = 0;
		gpa_t gpa = alloc(f, HDR + len);

		memset(at(f, gpa), 0, HDR);
		fill((uint8_t *)at(f, gpa) + HDR, number, len);
		for (unsigned left = HDR + len; left;) {
			uint32_t part = 1 + below(f, max);

			if (part > left || n == NET_QUEUE_SIZE - 1)
				part = left;
			piece[n++] = (struct piece){ gpa, part };
			gpa += part;
			left -= part;
		}
		offer(f, TX, piece, n, n);
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
	f->d.free = QUEUES;
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
	offer(f, TX, &piece, 1, 1);
	driver_kick(&f->d, TX);
	world_settle(&f->world);
	host_gets(f, 1, 60);
	assert_true(is_broken(f));
	assert_int_equal(fake_kvm_take_msi(MSI + 3), 1);
}

/* Receiving. */

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

		f->d.free = QUEUES;
		f->free = BUFFER;
		bring_up(f, features, 0);
		while (f->d.queue[RX].next + 8 <= NET_QUEUE_SIZE) {
			struct piece *piece = chain[f->d.queue[RX].next];
			unsigned n = 1 + below(f, 8);

			for (unsigned i = 0; i < n; i++) {
				piece[i].len = i + 1 < n ? 1 + below(f, 20) : least + below(f, 50);
				piece[i].gpa = alloc(f, piece[i].len);
			}
			offer(f, RX, piece, 0, n);
		}
		driver_kick(&f->d, RX);
		for (unsigned i = 0; i < 10; i++) {
			len[i] = 60 + below(f, 1440);
			host_sends(f, 10 * round + i, len[i]);
			if (below(f, 2))
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

/* In close succession nothing wakes the ring but the end of a pause, and then there are many. */
static void packets_in_close_succession_are_moderated(void **state)
{
	struct fixture *f = *state;
	uint64_t came;

	plug_sockets(f);
	bring_up(f, MERGEABLE, 256);
	post(f, RX, 250, 2000);
	world_settle(&f->world);
	need_moderation(f);
	for (unsigned i = 0; i < 20; i++)
		host_sends(f, i, 60);
	came = f->net.rx[0].count.packets;
	ring_step(&f->world.ring);
	assert_int_equal(f->net.rx[0].count.packets, came);
	assert_false(f->net.rx[0].waiting);
	while (f->net.rx[0].count.packets < came + 20)
		ring_step(&f->world.ring);
	assert_true(f->net.rx[0].moderated);

	/* Too few: the next packet is waited for, and moderation not tried at once. */
	world_settle(&f->world);
	assert_false(f->net.rx[0].moderated || f->net.rx[0].waiting);
	assert_int_equal(f->net.rx[0].patience.skip, 1);
	receive(f, 1);
	assert_false(f->net.rx[0].moderated);

	/* Two at a time are too few, each time again: it becomes rare. */
	for (unsigned i = 0; i < 50; i++) {
		receive(f, 1);
		receive(f, 2);
		world_settle(&f->world);
	}
	assert_in_range(f->net.rx[0].patience.backoff, 7, 63);
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
		f->d.free = QUEUES;
		bring_up(f, i % 2 ? MERGEABLE : TRANSPORT, 256);
		post(f, RX, 1, 2000);
		world_settle(&f->world);
		offer(f, RX, cases[i].piece, cases[i].nout, cases[i].n);
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
		f->d.free = QUEUES;
		f->free = BUFFER;
		bring_up(f, round % 2 ? LARGE : TRANSPORT, 256);
		gpa = post(f, RX, 128, 1600);
		for (unsigned i = below(f, 5); i; i--)
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
		f->d.free = QUEUES;
		f->free = BUFFER;
		bring_up(f, MERGEABLE, 256);
		post(f, RX, 250, 2000);
		need_moderation(f);
		driver_reset(&f->d);
		assert_false(f->net.rx[0].waiting);
		assert_int_equal(f->net.rx[0].read[0].nchains, 0);
	}
}

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
	offer(f, queue, piece, 2, 3);
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
	offer(f, CTRL, piece, 1, 2);
	driver_kick(&f->d, CTRL);
	world_settle(&f->world);
	assert_true(is_broken(f));
	driver_reset(&f->d);

	f->d.free = QUEUES;
	bring_up(f, COMMANDS, 64);
	piece[0].len = 3;
	offer(f, CTRL, piece, 1, 1);
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
	f->d.free = QUEUES;
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

/* The host sends packets of @n UDP flows. */
static void host_sends_flows(struct fixture *f, unsigned n)
{
	for (unsigned flow = 0; flow < n; flow++) {
		uint8_t frame[64] = { 0xff,
			              0xff,
			              0xff,
			              0xff,
			              0xff,
			              0xff,
			              [12] = 8,
			              [14] = 0x45,
			              [17] = 50,
			              [23] = 17,
			              [26] = 10,
			              [30] = 10,
			              [34] = (uint8_t)flow,
			              [37] = 9,
			              [39] = 30 };

		assert_int_equal(send(f->host, frame, sizeof(frame), 0), sizeof(frame));
	}
	world_settle(&f->world);
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
	f->d.free = QUEUES;
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
		offer(f, 2 * pair + 1, &piece, 1, 1);
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
	f->d.free = QUEUES;
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

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	static const struct CMUnitTest tests[] = {
		TEST(it_says_what_it_is),
		TEST(it_offers_what_the_tap_can_do),
		TEST(packets_go_out),
		TEST(packets_go_out_in_any_layout),
		TEST(many_packets_go_out),
		TEST(a_full_tap_is_waited_for),
		TEST(a_full_tap_does_not_stop_a_reset),
		TEST(what_the_tap_refuses_is_lost),
		TEST(a_packet_without_header_breaks_it),
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
		TEST(a_bad_buffer_breaks_it),
		TEST(a_reset_takes_pending_reads_back),
		TEST(a_reset_ends_a_pause),
		TEST(a_queue_is_reset_alone),
		TEST(bad_commands_get_an_error),
		TEST(commands_need_their_feature),
		TEST(a_command_without_header_or_answer_breaks_it),
		TEST(the_driver_says_what_it_hears),
		TEST(offloads_are_switched),
		TEST(pairs_of_queues_share_the_packets),
		TEST(both_pairs_transmit),
		TEST(a_tap_goes_away_under_load),
		TEST(a_tap_is_down_for_a_while),
		TEST(a_full_tap_is_emptied_in_few_calls),
	};

	return cmocka_run_group_tests(tests, setup_group, NULL);
}
