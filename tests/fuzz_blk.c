/*
 * libFuzzer: whatever a driver offers to a block device, and whenever it resets it, the device
 * touches nothing but the guest's memory and the disk, and all that it took comes back.
 *
 * The input is a program: how the disk is, then one opcode byte a step with its operands. The
 * machine and the ring are made once; each program begins and ends with a reset. Guest memory lies
 * between pages that nobody may touch, not even the kernel.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/driver.h"
#include "tests/fuzz_input.h"
#include "virtio/blk.h"

#define MEMORY     0x20000
#define GUARD      0x10000
#define QUEUES     2
#define QUEUE_SIZE 16
#define DISK       0x20000

struct machine {
	struct world world;
	struct backing_config config;
	struct disk disk;
	struct blk blk;
	struct driver d;
	int image; /* descriptors that the disk may have: the image itself, */
	int full;  /* one that nothing can be written to, */
	int bad;   /* one that nothing can be read from either, */
	int pipe;  /* and one that does not answer */
};

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* An address: most of them RAM, some at its end or far away. */
static gpa_t take_gpa(struct input *in)
{
	uint32_t v = (uint32_t)take(in, 3);

	return v >> 20 == 15 ? (uint64_t)v << 40 : v & (2 * MEMORY - 1);
}

static uint32_t take_type(struct input *in)
{
	static const uint32_t types[] = { VIRTIO_BLK_T_IN,      VIRTIO_BLK_T_OUT,
		                          VIRTIO_BLK_T_FLUSH,   VIRTIO_BLK_T_GET_ID,
		                          VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES };
	uint8_t v = (uint8_t)take(in, 1);

	return v < 240 ? types[v % 6] : v;
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

static void bring_up(struct machine *m, uint8_t how)
{
	uint64_t features = driver_offered(&m->d);

	for (unsigned i = 0; i < 8; i++)
		if (how >> i & 1)
			features &= ~(1ull << (unsigned[]){ 28, 29, 9, 11, 13, 14, 2, 12 }[i]);
	require(driver_negotiate(&m->d, features));
	m->d.free = 0;
	for (unsigned i = 0; i < QUEUES; i++)
		driver_queue(&m->d, i, QUEUE_SIZE, NO_VECTOR);
	status_add(&m->d, S_DRIVER_OK);
}

static void offer(struct machine *m, unsigned i, uint16_t head)
{
	struct driver_queue *q = &m->d.queue[i];

	poke(m, q->avail + 4 + 2 * (q->avail_idx++ & (QUEUE_SIZE - 1)), &head, 2);
	poke(m, q->avail + 2, &q->avail_idx, 2);
}

/* A request nearly as it should be: header, data in some pieces, status. */
static void request(struct machine *m, struct input *in, unsigned i)
{
	struct driver_queue *q = &m->d.queue[i];
	struct virtio_blk_req header = { take_type(in), 0, take(in, 1) };
	gpa_t at = take(in, 2) & (MEMORY - 1);
	unsigned n = 2 + take(in, 1) % 6;
	uint16_t head = q->next;
	bool inbound = header.type == VIRTIO_BLK_T_IN || header.type == VIRTIO_BLK_T_GET_ID;

	poke(m, at, &header, sizeof(header));
	for (unsigned k = 0; k < n; k++) {
		bool last = k + 1 == n;
		struct virtq_desc desc = {
			.addr = !k     ? at
			        : last ? at + 16
			               : take_gpa(in),
			.len = !k     ? 16
			       : last ? 1
			              : (uint32_t)take(in, 1) << 8,
			.flags = (uint16_t)((last ? 0 : VIRTQ_DESC_F_NEXT) |
			                    (last || (k && inbound) ? VIRTQ_DESC_F_WRITE : 0)),
			.next = (uint16_t)((q->next + 1) % QUEUE_SIZE),
		};

		poke(m, q->desc + 16 * q->next, &desc, sizeof(desc));
		q->next = desc.next;
	}
	offer(m, i, head);
	driver_kick(&m->d, i);
}

/* The disk's descriptor becomes another one; what is in flight keeps its own. */
static void disk_becomes(struct machine *m, unsigned which)
{
	require(dup3((int[]){ m->image, m->full, m->bad, m->pipe }[which % 4], m->disk.backing.fd,
	             O_CLOEXEC) >= 0);
}

static void step(struct machine *m, struct input *in)
{
	uint8_t op = (uint8_t)take(in, 1);
	unsigned i = op >> 4 & 1;
	struct driver_queue *q = &m->d.queue[i];
	struct virtq_desc desc;
	struct virtio_blk_discard_write_zeroes range;
	struct virtio_blk_req header;
	uint64_t bytes;
	uint16_t value;

	switch (op & 15) {
	case 0: /* write anything anywhere */
		bytes = take(in, 8);
		poke(m, take_gpa(in), &bytes, 1 + (op >> 5));
		break;
	case 1: /* a descriptor of the queue, or of a table */
		desc.addr = take_gpa(in);
		desc.len = (uint32_t)take(in, op & 32 ? 4 : 2);
		desc.flags = (uint16_t)take(in, 1);
		desc.next = (uint16_t)take(in, 1);
		poke(m, (op & 64 ? take_gpa(in) : q->desc) + 16 * take(in, 1), &desc, 16);
		break;
	case 2:
		header = (struct virtio_blk_req){ take_type(in), 0, take(in, op & 32 ? 8 : 1) };
		poke(m, take_gpa(in), &header, sizeof(header));
		break;
	case 3:
		range.sector = take(in, op & 32 ? 8 : 1);
		range.num_sectors = (uint32_t)take(in, op & 64 ? 4 : 1);
		range.flags = (uint32_t)take(in, 1) >> 6;
		poke(m, take_gpa(in), &range, sizeof(range));
		break;
	case 4:
		offer(m, i, (uint16_t)take(in, 1));
		break;
	case 5:
		driver_kick(&m->d, i);
		break;
	case 6:
		driver_kick(&m->d, i);
		settle(m);
		break;
	case 7:
		driver_reset(&m->d);
		require(!m->disk.running && !m->disk.waiting);
		bring_up(m, (uint8_t)take(in, 1));
		break;
	case 8:
		reg_out(&m->d, R_QUEUE_SELECT, 2, i);
		reg_out(&m->d, R_QUEUE_RESET, 2, 1);
		for (int n = 0; n < 3; n++)
			settle(m);
		m->d.free = 0x1000 * (i + 1);
		if (!reg_in(&m->d, R_QUEUE_RESET, 2) && op & 32)
			driver_queue(&m->d, i, QUEUE_SIZE, NO_VECTOR);
		break;
	case 9:
		driver_out(&m->d, m->d.config + 32, 1, op >> 5 & 1);
		break;
	case 10:
		disk_becomes(m, op >> 4);
		break;
	case 11:
		value = (uint16_t)(q->avail_idx + (op >> 5) - 4);
		poke(m, q->avail + 2, &value, 2);
		break;
	default:
		request(m, in, i);
	}
}

static struct machine *machine;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct machine *m = calloc(1, sizeof(*m));
	char text[64], why[BACKING_WHY_MAX];
	uint8_t *host =
	        mmap(NULL, MEMORY + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fds[2];

	(void)argc;
	(void)argv;
	stderr = fopen("/dev/null", "w"); /* kring's; libFuzzer's is another */
	machine = m;
	m->image = memfd_create("disk", MFD_CLOEXEC);
	m->full = open("/dev/full", O_RDWR | O_CLOEXEC);
	m->bad = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	require(m->image >= 0 && m->full >= 0 && m->bad >= 0 && !pipe2(fds, O_CLOEXEC));
	m->pipe = fds[0];
	require(!ftruncate(m->image, DISK));

	world_init(&m->world, MEMORY);
	mem_fini(&m->world.mem);
	require(host != MAP_FAILED && !mprotect(host + GUARD, MEMORY, PROT_READ | PROT_WRITE));
	m->world.mem.low = (struct mem_region){ 0, MEMORY, host + GUARD };
	m->world.mem.high = (struct mem_region){ MEM_HOLE_END, 0, NULL };

	snprintf(text, sizeof(text), "/proc/self/fd/%d,queues=%d,serial=fuzz", m->image, QUEUES);
	require(!backing_parse(&m->config, text, why));
	require(!disk_init(&m->disk, &m->world.ring, &m->config, why));
	require(!blk_init(&m->blk, 0, &m->disk, &m->world.vdev));
	driver_probe(&m->d, &m->world, 1, 0);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct machine *m = machine;
	struct input in = { data, size };
	uint8_t how = (uint8_t)take(&in, 1);
	struct stat st;

	/* Nothing is in flight: it can be another disk. */
	m->config.direct = how & 1;
	m->config.readonly = (how & 6) == 6;
	m->disk.size = DISK;
	m->disk.backing.align = how & 8 ? 4096 : 512;
	m->disk.backing.mem_align = how & 16 ? 512 : 4;
	memset(m->world.mem.low.host, 0, MEMORY);
	bring_up(m, (uint8_t)take(&in, 1));

	while (in.left)
		step(m, &in);

	driver_reset(&m->d);
	require(!m->disk.running && !m->disk.waiting && !m->disk.alone);
	for (unsigned i = 0; i < QUEUES; i++)
		for (unsigned head = 0; head < BLK_QUEUE_SIZE; head++)
			require(!m->blk.queue[i].req[head].busy);
	require(!fstat(m->image, &st) && st.st_size == DISK);
	disk_becomes(m, 0);
	return 0;
}
