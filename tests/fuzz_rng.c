/*
 * libFuzzer: whatever a driver offers to a source of random bytes, and whenever it resets it, the
 * device touches nothing but the guest's memory and gives no more than a portion at a time.
 *
 * The input is a program: one opcode byte a step with its operands. The machine and the ring are
 * made once; each program begins with a whole portion and ends with a reset. Guest memory lies
 * between pages that nobody may touch. Time runs faster than it does.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "tests/driver.h"
#include "tests/fuzz_input.h"
#include "virtio/rng.h"

#define MEMORY      0x10000
#define GUARD       0x10000
#define REFILL_NSEC 50000

/* What requests give: to be written, and to be read, which stays zeroes. */
#define WRITABLE     0x2000
#define WRITABLE_LEN 0x8000
#define READABLE     0xb000
#define READABLE_LEN 0x2000

struct machine {
	struct world world;
	struct rng rng;
	struct driver d;
	void (*refilled)(struct io_op *op, int res); /* the device's own */
	uint64_t portions;
	uint64_t given; /* bytes */
};

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct machine *machine;

static void refilled(struct io_op *op, int res)
{
	machine->portions += res == -ETIME;
	machine->refilled(op, res);
}

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

/* A batch. A timer that it has queued is given to the kernel in the next one. */
static void batch(struct machine *m)
{
	ring_step(&m->world.ring);
	m->rng.refill.ts = (struct __kernel_timespec){ .tv_nsec = REFILL_NSEC };
}

/* Let all happen that can happen now. */
static void settle(struct machine *m)
{
	struct io_timer timer = { .op.done = world_fired };

	ring_timeout(&m->world.ring, &timer, 1);
	while (timer.op.done)
		batch(m);
}

/* What came back is counted. A driver that broke the rings may find anything there. */
static void count_used(struct machine *m, bool sound)
{
	struct virtq_used_elem elem;

	for (unsigned n = 0; sound && n < RNG_QUEUE_SIZE && driver_used(&m->d, 0, &elem); n++) {
		require(elem.id < RNG_QUEUE_SIZE);
		m->given += elem.len;
	}
	require(!sound || m->given <= RNG_PORTION * m->portions);
	require(m->rng.left <= RNG_PORTION);
	require(m->rng.left == RNG_PORTION || m->rng.refilling ||
	        !vdev_runs(&m->rng.vdev.queue[0]));
}

static void bring_up(struct machine *m, uint8_t how)
{
	uint64_t features = driver_offered(&m->d);

	for (unsigned i = 0; i < 2; i++)
		if (how >> i & 1)
			features &= ~(1ull << (VIRTIO_F_INDIRECT_DESC + i));
	require(driver_negotiate(&m->d, features));
	m->d.free = 0;
	driver_queue(&m->d, 0, how & 4 ? 4 : RNG_QUEUE_SIZE, NO_VECTOR);
	status_add(&m->d, S_DRIVER_OK);
}

static void offer(struct machine *m, uint16_t head)
{
	struct driver_queue *q = &m->d.queue[0];

	poke(m, q->avail + 4 + 2 * (q->avail_idx++ & (q->size - 1)), &head, 2);
	poke(m, q->avail + 2, &q->avail_idx, 2);
}

/* A request nearly as it should be, away from the rings. */
static void request(struct machine *m, struct input *in, bool far)
{
	struct driver_queue *q = &m->d.queue[0];
	unsigned n = 1 + take(in, 1) % 4;
	uint16_t head = q->next;

	for (unsigned k = 0; k < n; k++) {
		uint8_t how = (uint8_t)take(in, 1);
		bool write = k || how & 1;
		gpa_t near = write ? WRITABLE + take(in, 2) % WRITABLE_LEN : READABLE;
		struct virtq_desc desc = {
			.addr = far ? take_gpa(in) : near,
			.len = (uint32_t)(how & 63) << (how >> 6) * 2,
			.flags = (uint16_t)((k + 1 < n ? VIRTQ_DESC_F_NEXT : 0) |
			                    (write ? VIRTQ_DESC_F_WRITE : 0)),
			.next = (uint16_t)((q->next + 1) % q->size),
		};

		poke(m, q->desc + 16 * q->next, &desc, sizeof(desc));
		q->next = desc.next;
	}
	offer(m, head);
	driver_kick(&m->d, 0);
}

/* Returns whether the driver still keeps to its own part of the rings. */
static bool step(struct machine *m, struct input *in)
{
	uint8_t op = (uint8_t)take(in, 1);
	struct driver_queue *q = &m->d.queue[0];
	struct virtq_desc desc;
	uint64_t bytes;
	uint16_t value;

	switch (op & 15) {
	case 0: /* write anything anywhere */
		bytes = take(in, 8);
		poke(m, take_gpa(in), &bytes, 1 + (op >> 5));
		return false;
	case 1: /* a descriptor of the queue, or of a table */
		desc.addr = take_gpa(in);
		desc.len = (uint32_t)take(in, op & 32 ? 4 : 2);
		desc.flags = (uint16_t)take(in, 1);
		desc.next = (uint16_t)take(in, 1);
		poke(m, (op & 64 ? take_gpa(in) : q->desc) + 16 * take(in, 1), &desc, 16);
		return false;
	case 2:
		offer(m, (uint16_t)take(in, 1));
		break;
	case 3:
		driver_kick(&m->d, 0);
		break;
	case 4:
		settle(m);
		break;
	case 5: /* the next portion, if it waits for one */
		for (unsigned n = 0; m->rng.refilling && n < 4; n++)
			batch(m);
		break;
	case 6:
		driver_reset(&m->d);
		bring_up(m, (uint8_t)take(in, 1));
		break;
	case 7:
		reg_out(&m->d, R_QUEUE_SELECT, 2, 0);
		reg_out(&m->d, R_QUEUE_RESET, 2, 1);
		for (unsigned n = 0; n < 3; n++)
			settle(m);
		m->d.free = 0x1000;
		if (!reg_in(&m->d, R_QUEUE_RESET, 2) && op & 32)
			driver_queue(&m->d, 0, RNG_QUEUE_SIZE, NO_VECTOR);
		break;
	case 8:
		value = (uint16_t)(q->avail_idx + (op >> 5) - 4);
		poke(m, q->avail + 2, &value, 2);
		break;
	case 9:
		request(m, in, true);
		return false;
	default:
		request(m, in, false);
		if (op & 32)
			settle(m);
	}
	return true;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct machine *m = calloc(1, sizeof(*m));
	uint8_t *host =
	        mmap(NULL, MEMORY + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)argc;
	(void)argv;
	stderr = fopen("/dev/null", "w"); /* kring's; libFuzzer's is another */
	machine = m;
	world_init(&m->world, MEMORY);
	mem_fini(&m->world.mem);
	require(host != MAP_FAILED && !mprotect(host + GUARD, MEMORY, PROT_READ | PROT_WRITE));
	m->world.mem.low = (struct mem_region){ 0, MEMORY, host + GUARD };
	m->world.mem.high = (struct mem_region){ MEM_HOLE_END, 0, NULL };
	require(!rng_init(&m->rng, &m->world.vdev));
	m->refilled = m->rng.refill.op.done;
	m->rng.refill.op.done = refilled;
	driver_probe(&m->d, &m->world, 1, 0);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct machine *m = machine;
	struct input in = { data, size };
	bool sound = true;

	m->rng.left = RNG_PORTION;
	m->portions = 1;
	m->given = 0;
	memset(m->world.mem.low.host, 0, MEMORY);
	bring_up(m, (uint8_t)take(&in, 1));

	while (in.left) {
		sound &= step(m, &in);
		count_used(m, sound);
	}
	settle(m);
	count_used(m, sound);

	driver_reset(&m->d);
	while (m->rng.refilling)
		batch(m);
	require(!m->rng.vdev.queue[0].virtq.in_flight);
	for (unsigned at = READABLE; sound && at < READABLE + READABLE_LEN; at++)
		require(!m->world.mem.low.host[at]);
	return 0;
}
