/*
 * A virtio-net card for tests, with a driver at one end and the host's end of its tap at the other:
 * what is done is what both do, packet by packet. The tap is a pair of sockets where that will do,
 * else a real one.
 */
#ifndef TESTS_CARD_H
#define TESTS_CARD_H

#include <stdlib.h>

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

static inline int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	*state = f;
	f->seed = 1;
	f->host = -1;
	world_init(&f->world, MEMORY);
	return 0;
}

static inline int teardown(void **state)
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

static inline void plug(struct fixture *f)
{
	assert_int_equal(net_init(&f->net, 0, &f->tap, &f->world.vdev), 0);
	driver_probe(&f->d, &f->world, 1, QUEUES);
	f->free = BUFFER;
}

/* A cable of two sockets that keep packets apart, as a tap does. */
static inline void plug_sockets(struct fixture *f)
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

static inline void plug_tap(struct fixture *f, const char *text)
{
	need_taps();
	open_tap(&f->tap, text);
	f->host = netns_socket(f->tap.name);
	plug(f);
}

/* From reset to DRIVER_OK, and what the card begins with has been done. */
static inline void bring_up(struct fixture *f, uint64_t features, uint16_t size)
{
	assert_true(driver_start(&f->d, features, size, MSI));
	world_settle(&f->world);
}

static inline gpa_t alloc(struct fixture *f, uint32_t len)
{
	gpa_t at = f->free;

	f->free += len;
	return at;
}

/* Offer @n buffers of @len bytes in queue @i, to be written. Returns where the first is. */
static inline gpa_t post(struct fixture *f, unsigned i, unsigned n, uint32_t len)
{
	gpa_t first = f->free;

	while (n--) {
		struct piece piece = { alloc(f, len), len };

		memset(driver_host(&f->d, piece.gpa, len), 0xee, len);
		driver_offer(&f->d, i, &piece, 0, 1);
	}
	driver_kick(&f->d, i);
	return first;
}

static inline void *at(struct fixture *f, gpa_t gpa)
{
	return mem_host(&f->world.mem, gpa, 1);
}

/* Byte @i of the packet @number. */
static inline uint8_t byte_of(unsigned number, unsigned i)
{
	return (uint8_t)(number * 31 + i * 7 + (i >> 8));
}

static inline void fill(uint8_t *packet, unsigned number, unsigned len)
{
	for (unsigned i = 0; i < len; i++)
		packet[i] = byte_of(number, i);
}

/* The host sends the packet @number: a header of zeroes and @len bytes. */
static inline void host_sends(struct fixture *f, unsigned number, unsigned len)
{
	static uint8_t packet[HDR + 70000];

	fill(packet + HDR, number, len);
	assert_int_equal(send(f->host, packet, HDR + len, 0), HDR + len);
}

static inline unsigned used(struct fixture *f, unsigned i)
{
	struct virtq_used_elem elem;
	unsigned n = 0;

	while (driver_used(&f->d, i, &elem))
		n++;
	return n;
}

static inline void used_is(struct fixture *f, unsigned i, unsigned head, uint32_t len)
{
	struct virtq_used_elem elem = { 0xffff, 0 };

	assert_true(driver_used(&f->d, i, &elem));
	assert_int_equal(elem.id, head);
	assert_int_equal(elem.len, len);
}

static inline const struct virtio_net_hdr *hdr_at(struct fixture *f, gpa_t gpa)
{
	return at(f, gpa);
}

static inline bool is_broken(struct fixture *f)
{
	return status_in(&f->d) & S_NEEDS_RESET;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
