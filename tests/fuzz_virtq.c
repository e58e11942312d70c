/*
 * libFuzzer: whatever a driver writes into its rings, and whenever, what virtq_pop gives out lies
 * in guest RAM and is consistent, and the device writes nothing but its own used ring.
 *
 * The input is a program: the queue's set-up, then one opcode byte a step with its operands.
 * What it writes goes into a guest of a few pages, whose ends AddressSanitizer watches.
 */
#include <stdlib.h>
#include <string.h>

#include "tests/fuzz_input.h"
#include "virtio/virtq.h"

#define LOW_LEN  0x8000
#define HIGH_LEN 0x1000
#define IOV_ROOM 20

struct guest {
	struct mem mem;
	struct virtq q;
	gpa_t desc, driver, device;
	struct iovec *iov;

	uint16_t head[VIRTQ_SIZE_MAX]; /* in flight, as counted here */
	unsigned n;
	uint16_t pushed; /* since the queue was enabled */

	uint8_t low[LOW_LEN]; /* RAM before the step */
	uint8_t high[HIGH_LEN];
};

/* An address in 16 bits: most of them RAM, some at its ends or far away. */
static gpa_t take_gpa(struct input *in)
{
	uint16_t v = take(in, 2);

	switch (v >> 14) {
	case 2:
		return MEM_HOLE_END + (v & 0x1fff);
	case 3:
		return (uint64_t)(int16_t)v;
	default:
		return v;
	}
}

static void snapshot(struct guest *g)
{
	memcpy(g->low, g->mem.low.host, LOW_LEN);
	memcpy(g->high, g->mem.high.host, HIGH_LEN);
}

/* Since then nobody wrote but into the used ring. */
static void compare(struct guest *g)
{
	uint8_t *used = (uint8_t *)g->q.used;
	size_t len = 6 + 8 * g->q.size;

	if (used >= g->mem.low.host && used < g->mem.low.host + LOW_LEN)
		memcpy(g->low + (used - g->mem.low.host), used, len);
	else
		memcpy(g->high + (used - g->mem.high.host), used, len);
	require(!memcmp(g->low, g->mem.low.host, LOW_LEN));
	require(!memcmp(g->high, g->mem.high.host, HIGH_LEN));
}

static int in_region(const struct mem_region *region, const struct iovec *iov)
{
	uint8_t *base = iov->iov_base;

	return base >= region->host && base < region->host + region->len &&
	       iov->iov_len <= (size_t)(region->host + region->len - base);
}

static void pop(struct guest *g)
{
	struct virtq_chain chain = { .iov = g->iov, .iov_max = IOV_ROOM };
	uint16_t next = g->q.next_avail;
	uint64_t out = 0, in = 0;
	int got = virtq_pop(&g->q, &chain);

	if (got <= 0) {
		require(g->q.next_avail == next);
		return;
	}
	require(g->q.next_avail == (uint16_t)(next + 1));
	require(chain.head < g->q.size);
	for (unsigned i = 0; i < g->n; i++)
		require(g->head[i] != chain.head);
	g->head[g->n++] = chain.head;

	require(chain.nout + chain.nin <= IOV_ROOM);
	for (unsigned i = 0; i < chain.nout + chain.nin; i++) {
		require(g->iov[i].iov_len > 0);
		require(in_region(&g->mem.low, &g->iov[i]) || in_region(&g->mem.high, &g->iov[i]));
		*(i < chain.nout ? &out : &in) += g->iov[i].iov_len;
	}
	require(chain.out == out && chain.in == in);
}

static void push(struct guest *g, unsigned pick, uint32_t len)
{
	uint16_t slot = g->pushed & (g->q.size - 1);

	if (!g->n)
		return;
	pick %= g->n;
	virtq_push(&g->q, g->head[pick], len);
	require(g->q.used->ring[slot].id == g->head[pick] && g->q.used->ring[slot].len == len);
	g->head[pick] = g->head[--g->n];
	g->pushed++;
}

static int enable(struct guest *g, struct input *in)
{
	uint8_t how = take(in, 1);

	virtq_disable(&g->q);
	g->n = g->pushed = 0;
	g->desc = take_gpa(in);
	g->driver = take_gpa(in);
	g->device = take_gpa(in);
	return virtq_enable(&g->q, &g->mem, (uint64_t)(how & 3) << VIRTIO_F_INDIRECT_DESC,
	                    how & 4 ? how : 1u << (how >> 4), g->desc, g->driver, g->device);
}

static void poke(struct guest *g, gpa_t gpa, const void *data, size_t len)
{
	void *host = mem_host(&g->mem, gpa, len);

	if (host)
		memcpy(host, data, len);
}

/* One step of the driver or the device. */
static int step(struct guest *g, struct input *in)
{
	uint8_t op = take(in, 1);
	struct virtq_desc desc;
	uint16_t value;
	uint64_t bytes;

	switch (op & 15) {
	case 0: /* write anything anywhere */
		bytes = take(in, 8);
		poke(g, take_gpa(in), &bytes, 1 + (op >> 5));
		break;
	case 1: /* a descriptor of the queue, */
	case 2:
	case 3: /* or of a table in the first pages */
		desc.addr = take_gpa(in);
		desc.len = op & 16 ? take(in, 4) : take(in, 1) * 16;
		desc.flags = take(in, 1);
		desc.next = take(in, 1);
		poke(g, ((op & 15) < 3 ? g->desc : op >> 5) + 16 * take(in, 1), &desc, 16);
		break;
	case 4: /* offer a head */
	case 5:
		value = take(in, 1);
		bytes = g->q.avail->idx;
		poke(g, g->driver + 4 + 2 * (bytes & (g->q.size - 1)), &value, 2);
		value = bytes + 1;
		poke(g, g->driver + 2, &value, 2);
		break;
	case 6: /* avail idx */
		value = op & 16 ? take(in, 2) : g->q.next_avail + take(in, 1);
		poke(g, g->driver + 2, &value, 2);
		break;
	case 7: /* flags or used_event */
		value = take(in, 2);
		poke(g, op & 16 ? g->driver : g->driver + 4 + 2 * g->q.size, &value, 2);
		break;
	case 8:
		if (op >> 4 == 15)
			return enable(g, in);
		break;
	case 9:
		push(g, op >> 4, take(in, 4));
		break;
	case 10:
		value = g->q.flushed;
		virtq_flush(&g->q);
		require(value == g->pushed || g->q.used->idx == g->pushed);
		require(!virtq_flush(&g->q));
		break;
	case 11:
		virtq_kicks_off(&g->q);
		break;
	case 12:
		virtq_kicks_on(&g->q);
		break;
	default:
		pop(g);
	}
	return 0;
}

static uint8_t *pages(size_t len)
{
	uint8_t *host = aligned_alloc(4096, len);

	require(host != NULL);
	memset(host, 0, len);
	return host;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	struct guest *g = calloc(1, sizeof(*g));

	require(g != NULL);
	g->mem.low = (struct mem_region){ 0, LOW_LEN, pages(LOW_LEN) };
	g->mem.high = (struct mem_region){ MEM_HOLE_END, HIGH_LEN, pages(HIGH_LEN) };
	g->iov = calloc(IOV_ROOM, sizeof(struct iovec));
	require(g->iov != NULL);

	for (int err = enable(g, &in); !err && in.left;) {
		int is_device = (*in.data & 15) >= 9;

		if (is_device)
			snapshot(g);
		err = step(g, &in);
		if (is_device)
			compare(g);
		require(g->q.in_flight == g->n && g->n <= g->q.size);
	}

	free(g->mem.low.host);
	free(g->mem.high.host);
	free(g->iov);
	free(g);
	return 0;
}
