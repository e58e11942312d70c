/*
 * libFuzzer: whatever a driver offers to a network device, whatever comes from the tap and whenever
 * either is reset or goes away, the device touches nothing but the guest's memory and keeps count
 * of each chain that it took.
 *
 * The input is a program: one opcode byte a step with its operands. The machine and the ring are
 * made once; each program begins and ends with a reset. The tap's queues are pairs of sockets.
 * Guest memory lies between pages that nobody may touch, not even the kernel.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/driver.h"
#include "tests/fuzz_input.h"
#include "virtio/net.h"

#define MEMORY     0x20000
#define GUARD      0x10000
#define PAIRS      2
#define QUEUES     (2 * PAIRS + 1)
#define QUEUE_SIZE 32

struct machine {
	struct world world;
	struct tap tap;
	struct net net;
	struct driver d;
	int guest[PAIRS]; /* a tap's queue, and */
	int host[PAIRS];  /* its other end */
	int hung_up;      /* what it may become: without another end, */
	int closed;       /* nothing that could be read or written, */
	int pipe;         /* and what does not answer */
};

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* An address: most of them RAM, some at its end or far away. */
static gpa_t take_gpa(struct input *in)
{
	uint32_t v = (uint32_t)take(in, 3);

	return v >> 20 == 15 ? (uint64_t)v << 40 : v & (2 * MEMORY - 1);
}

static void poke(struct machine *m, gpa_t gpa, const void *data, size_t len)
{
	void *host = mem_host(&m->world.mem, gpa, len);

	if (host)
		memcpy(host, data, len);
}

/* Let all happen that can happen now. */
static void settle(struct machine *m)
{
	struct io_timer timer = { .op.done = world_fired };

	ring_timeout(&m->world.ring, &timer, 1);
	while (timer.op.done)
		ring_step(&m->world.ring);
}

static void bring_up(struct machine *m, uint16_t how)
{
	static const unsigned feature[] = {
		VIRTIO_F_INDIRECT_DESC,  VIRTIO_F_EVENT_IDX,
		VIRTIO_NET_F_MRG_RXBUF,  VIRTIO_NET_F_MQ,
		VIRTIO_NET_F_CTRL_VQ,    VIRTIO_NET_F_CTRL_RX,
		VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_CTRL_MAC_ADDR,
		VIRTIO_NET_F_STATUS,     VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
	};
	uint64_t features = driver_offered(&m->d);

	for (unsigned i = 0; i < sizeof(feature) / sizeof(feature[0]); i++)
		if (how >> i & 1)
			features &= ~(1ull << feature[i]);
	require(driver_negotiate(&m->d, features));
	m->d.free = 0;
	for (unsigned i = 0; i < QUEUES; i++)
		driver_queue(&m->d, i, QUEUE_SIZE, NO_VECTOR);
	status_add(&m->d, S_DRIVER_OK);
	/* The mebibyte that a large packet takes is more than this guest has. */
	settle(m);
	if (how & 0x8000)
		m->net.packet_max = 0x2000;
}

static void offer(struct machine *m, unsigned i, uint16_t head)
{
	struct driver_queue *q = &m->d.queue[i];

	poke(m, q->avail + 4 + 2 * (q->avail_idx++ & (QUEUE_SIZE - 1)), &head, 2);
	poke(m, q->avail + 2, &q->avail_idx, 2);
}

/* A chain nearly as it should be: some pieces, all for reading or for writing. */
static void chain(struct machine *m, struct input *in, unsigned i, bool is_write)
{
	struct driver_queue *q = &m->d.queue[i];
	unsigned n = 1 + take(in, 1) % 5;
	uint16_t head = q->next;

	for (unsigned k = 0; k < n; k++) {
		struct virtq_desc desc = {
			.addr = take_gpa(in) % MEMORY,
			.len = (uint32_t)take(in, 1) << 4,
			.flags = (uint16_t)((k + 1 < n ? VIRTQ_DESC_F_NEXT : 0) |
			                    (is_write ? VIRTQ_DESC_F_WRITE : 0)),
			.next = (uint16_t)((q->next + 1) % QUEUE_SIZE),
		};

		poke(m, q->desc + 16 * q->next, &desc, sizeof(desc));
		q->next = desc.next;
	}
	offer(m, i, head);
	driver_kick(&m->d, i);
}

/* A command of up to 16 bytes in queue @i, and its answer. */
static void command(struct machine *m, struct input *in, unsigned i)
{
	struct driver_queue *q = &m->d.queue[i];
	gpa_t at = take(in, 2) & (MEMORY - 1);
	uint8_t class = take(in, 1) % 6;
	uint8_t bytes[18] = { class, take(in, 1) % 2 };
	uint64_t data[2] = { take(in, 8), take(in, 4) };
	uint16_t second = (uint16_t)((q->next + 1) % QUEUE_SIZE);
	struct virtq_desc desc[2] = {
		{ at, 2 + (uint32_t)take(in, 1) % 17, VIRTQ_DESC_F_NEXT, second },
		{ at + 32, 1, VIRTQ_DESC_F_WRITE, 0 },
	};

	memcpy(bytes + 2, data, 16);
	poke(m, at, bytes, sizeof(bytes));
	poke(m, q->desc + 16 * q->next, &desc[0], 16);
	poke(m, q->desc + 16 * second, &desc[1], 16);
	offer(m, i, q->next);
	q->next = (uint16_t)((second + 1) % QUEUE_SIZE);
	driver_kick(&m->d, i);
}

/* The host's end: packets to the guest, packets from it. */
static void host_acts(struct machine *m, struct input *in, unsigned pair, unsigned what)
{
	static uint8_t packet[0x4000];
	unsigned n = 1 + take(in, 1) % 8;
	unsigned len = (unsigned)take(in, 2) & (sizeof(packet) - 1);

	while (n--)
		if (what & 1)
			send(m->host[pair], packet, len, MSG_DONTWAIT);
		else
			recv(m->host[pair], packet, sizeof(packet), MSG_DONTWAIT);
}

/* A tap's queue becomes something else; what is in flight keeps what it had. */
static void tap_becomes(struct machine *m, unsigned pair, unsigned which)
{
	require(dup3((int[]){ m->guest[pair], m->hung_up, m->closed, m->pipe }[which % 4],
	             m->tap.fd[pair], O_CLOEXEC) >= 0);
}

/* Each chain that was popped is somewhere. */
static void check(struct machine *m)
{
	for (unsigned i = 0; i < PAIRS; i++) {
		struct net_rx *rx = &m->net.rx[i];
		struct net_tx *tx = &m->net.tx[i];
		unsigned chains = 0, writes = 0, reads = 0;

		for (unsigned k = 0; k < NET_READS; k++) {
			struct net_read *read = &rx->read[k];
			uint64_t in = 0, room = 0;

			for (unsigned c = 0; c < read->nchains; c++)
				in += read->chain[(read->first + c) % NET_QUEUE_SIZE].in;
			for (unsigned s = 0; s < read->nsegs; s++)
				room += read->iov[s].iov_len;
			require(in == read->bytes && room == read->bytes);
			chains += read->nchains;
			reads += read->started;
		}
		for (unsigned k = 0; k < NET_WRITES; k++)
			writes += tx->write[k].started;
		require(rx->out == reads && !(reads && rx->waiting));
		require(tx->out == writes);
		/* The second pair's may be the queue for commands. */
		require(chains == (i ? chains : rx->queue->virtq.in_flight));
		require(writes == tx->queue->virtq.in_flight);
	}
}

static void step(struct machine *m, struct input *in)
{
	uint8_t op = (uint8_t)take(in, 1);
	unsigned i = (op >> 4) % QUEUES;
	struct driver_queue *q = &m->d.queue[i];
	struct virtq_desc desc;
	uint64_t bytes;
	uint16_t value;

	switch (op & 15) {
	case 0: /* write anything anywhere */
		bytes = take(in, 8);
		poke(m, take_gpa(in), &bytes, 1 + (op >> 5));
		break;
	case 1: /* a descriptor of the queue, or of a table */
		desc.addr = take_gpa(in);
		desc.len = (uint32_t)take(in, op & 128 ? 4 : 2);
		desc.flags = (uint16_t)take(in, 1);
		desc.next = (uint16_t)take(in, 1);
		poke(m, (desc.flags & 64 ? take_gpa(in) : q->desc) + 16 * take(in, 1), &desc, 16);
		break;
	case 2:
		offer(m, i, (uint16_t)take(in, 1));
		break;
	case 3:
		value = (uint16_t)(q->avail_idx + take(in, 1) % 8 - 4);
		poke(m, q->avail + 2, &value, 2);
		break;
	case 4:
		driver_kick(&m->d, i);
		break;
	case 5:
		settle(m);
		break;
	case 6:
		driver_reset(&m->d);
		bring_up(m, (uint16_t)take(in, 2));
		break;
	case 7:
		reg_out(&m->d, R_QUEUE_SELECT, 2, i);
		reg_out(&m->d, R_QUEUE_RESET, 2, 1);
		for (int n = 0; n < 3; n++)
			settle(m);
		if (!reg_in(&m->d, R_QUEUE_RESET, 2) && op & 128) {
			m->d.free = q->desc;
			driver_queue(&m->d, i, QUEUE_SIZE, NO_VECTOR);
		}
		break;
	case 8:
		tap_becomes(m, op >> 4 & 1, op >> 5);
		m->net.link = true;
		m->net.nowait = op >> 7;
		break;
	case 9:
	case 10:
		host_acts(m, in, op >> 4 & 1, op >> 5);
		break;
	case 11:
	case 12:
		command(m, in, op & 16 ? 2 : 2 * PAIRS);
		break;
	case 13:
		chain(m, in, 2 * (op >> 4 & 1) + 1, false);
		break;
	default:
		chain(m, in, 2 * (op >> 4 & 1), true);
	}
	check(m);
}

static struct machine *machine;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct machine *m = calloc(1, sizeof(*m));
	uint8_t *host =
	        mmap(NULL, MEMORY + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fds[2];

	(void)argc;
	(void)argv;
	stderr = fopen("/dev/null", "w"); /* kring's; libFuzzer's is another */
	signal(SIGPIPE, SIG_IGN);
	machine = m;
	require(!pipe2(fds, O_CLOEXEC | O_NONBLOCK));
	m->pipe = fds[0];
	m->closed = open("/", O_RDONLY | O_CLOEXEC);
	require(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds));
	m->hung_up = fds[0];
	close(fds[1]);
	m->tap = (struct tap){ .name = "pair", .queues = PAIRS, .attached = 1 };
	m->tap.offloads = TUN_F_CSUM | TUN_F_TSO4;
	for (unsigned i = 0; i < PAIRS; i++) {
		require(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0,
		                    fds));
		m->guest[i] = fds[0];
		m->host[i] = fds[1];
		m->tap.fd[i] = fcntl(fds[0], F_DUPFD_CLOEXEC, 0);
		require(m->tap.fd[i] >= 0);
	}

	world_init(&m->world, MEMORY);
	mem_fini(&m->world.mem);
	require(host != MAP_FAILED && !mprotect(host + GUARD, MEMORY, PROT_READ | PROT_WRITE));
	m->world.mem.low = (struct mem_region){ 0, MEMORY, host + GUARD };
	m->world.mem.high = (struct mem_region){ MEM_HOLE_END, 0, NULL };

	require(!net_init(&m->net, 0, &m->tap, &m->world.vdev));
	driver_probe(&m->d, &m->world, 1, 0);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct machine *m = machine;
	struct input in = { data, size };
	uint8_t packet[64];

	memset(m->world.mem.low.host, 0, MEMORY);
	bring_up(m, (uint16_t)take(&in, 2));

	while (in.left)
		step(m, &in);

	driver_reset(&m->d);
	check(m);
	for (unsigned i = 0; i < PAIRS; i++) {
		require(!m->net.rx[i].out && !m->net.tx[i].out);
		tap_becomes(m, i, 0);
		while (recv(m->guest[i], packet, sizeof(packet), MSG_DONTWAIT) >= 0)
			;
		while (recv(m->host[i], packet, sizeof(packet), MSG_DONTWAIT) >= 0)
			;
	}
	m->net.link = true;
	m->net.nowait = true;
	return 0;
}
