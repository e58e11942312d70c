/* Virtqueues: a driver's model on the other side of the ring, honest or not. */
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "tests/random.h"
#include "virtio/virtq.h"

/* Where things lie in guest memory; buffers anywhere, also above the hole. */
#define DESC      0x00010000ull
#define AVAIL     0x00020000ull
#define USED      0x00030000ull
#define TABLES    0x00100000ull /* a page for the indirect table of each head */
#define BUFFERS   0x01000000ull
#define RAM       (4ull << 30)
#define HIGH_LEN  (1ull << 30) /* of it above the hole */
#define CHAIN_MAX 12           /* segments the model puts in a chain */
#define IOV_ROOM  16           /* and the device has room for */

#define INDIRECT (1ull << VIRTIO_F_INDIRECT_DESC)
#define EVENT    (1ull << VIRTIO_F_EVENT_IDX)

#define N VIRTQ_DESC_F_NEXT
#define W VIRTQ_DESC_F_WRITE
#define I VIRTQ_DESC_F_INDIRECT

/* What the driver offered and expects to get back. */
struct request {
	unsigned nout, nin, ndesc;
	uint32_t out, in;
	uint16_t desc[CHAIN_MAX];
	struct iovec seg[CHAIN_MAX];
};

struct driver {
	struct mem mem;
	struct virtq q;
	struct virtq_desc *desc;
	struct virtq_avail *avail;
	struct virtq_used *used;
	unsigned size;
	uint64_t features;
	uint64_t seed;

	uint16_t free[VIRTQ_SIZE_MAX];
	unsigned nfree;
	uint16_t added; /* avail idx, published by driver_publish() */
	uint16_t published;
	uint16_t reaped;
	struct request request[VIRTQ_SIZE_MAX]; /* by head */
};

static int driver_init(struct driver *d, unsigned size, uint64_t features)
{
	memset(d->desc, 0, 16 * VIRTQ_SIZE_MAX);
	memset(d->avail, 0, 6 + 2 * VIRTQ_SIZE_MAX);
	memset(d->used, 0, 6 + 8 * VIRTQ_SIZE_MAX);
	d->size = d->nfree = size;
	d->features = features;
	d->added = d->published = d->reaped = 0;
	for (unsigned i = 0; i < size; i++)
		d->free[i] = i;
	virtq_disable(&d->q);
	return virtq_enable(&d->q, &d->mem, features, size, DESC, AVAIL, USED);
}

static int setup(void **state)
{
	struct driver *d = calloc(1, sizeof(*d));

	*state = d;
	if (!d || mem_init(&d->mem, RAM))
		return -1;
	d->desc = mem_host(&d->mem, DESC, 16 * VIRTQ_SIZE_MAX);
	d->avail = mem_host(&d->mem, AVAIL, 6 + 2 * VIRTQ_SIZE_MAX);
	d->used = mem_host(&d->mem, USED, 6 + 8 * VIRTQ_SIZE_MAX);
	d->seed = 1;
	return driver_init(d, 8, INDIRECT | EVENT);
}

static int teardown(void **state)
{
	struct driver *d = *state;

	mem_fini(&d->mem);
	free(d);
	return 0;
}

/* The events that are written behind the rings. */
static uint16_t *used_event(struct driver *d)
{
	return &d->avail->ring[d->size];
}

static uint16_t *avail_event(struct driver *d)
{
	return (uint16_t *)&d->used->ring[d->size];
}

/* Put @head into the next slot of the available ring. */
static void driver_offer(struct driver *d, uint16_t head)
{
	d->avail->ring[d->added++ % d->size] = head;
}

/* Returns whether the driver would kick, worked out one index at a time. */
static bool driver_publish(struct driver *d)
{
	bool kick = false;

	__atomic_store_n(&d->avail->idx, d->added, __ATOMIC_SEQ_CST);
	if (d->features & EVENT) {
		uint16_t event = __atomic_load_n(avail_event(d), __ATOMIC_SEQ_CST);

		for (uint16_t i = d->published; i != d->added; i++)
			kick |= i == event;
	} else if (d->added != d->published) {
		kick = !__atomic_load_n(&d->used->flags, __ATOMIC_SEQ_CST);
	}
	d->published = d->added;
	return kick;
}

/* A random chain, direct or indirect or both; returns whether there was room for one. */
static bool driver_add(struct driver *d)
{
	unsigned nseg = 1 + below(&d->seed, CHAIN_MAX);
	unsigned direct = d->features & INDIRECT ? below(&d->seed, nseg + 1) : nseg;
	unsigned ndesc = direct + (direct < nseg);
	unsigned nout = below(&d->seed, nseg + 1);

	if (ndesc > d->nfree)
		return false;

	uint16_t desc[CHAIN_MAX];

	for (unsigned i = 0; i < ndesc; i++) {
		unsigned pick = below(&d->seed, d->nfree);

		desc[i] = d->free[pick];
		d->free[pick] = d->free[--d->nfree];
	}

	struct request *r = &d->request[desc[0]];
	struct virtq_desc *table = mem_host(&d->mem, TABLES + desc[0] * 4096ull, 4096);

	*r = (struct request){ .nout = nout, .nin = nseg - nout, .ndesc = ndesc };
	memcpy(r->desc, desc, sizeof(desc));
	for (unsigned i = 0; i < nseg; i++) {
		uint32_t len = 1 + below(&d->seed, 1 << 20);
		gpa_t gpa = (below(&d->seed, 2) ? MEM_HOLE_END : BUFFERS) +
		            below(&d->seed, HIGH_LEN - len);
		unsigned flags = i < nout ? 0 : W;

		r->seg[i] = (struct iovec){ mem_host(&d->mem, gpa, len), len };
		*(i < nout ? &r->out : &r->in) += len;
		if (i < direct) {
			flags |= i + 1 < ndesc ? N : 0;
			d->desc[desc[i]] = (struct virtq_desc){ gpa, len, flags,
				                                desc[i + 1 < ndesc ? i + 1 : i] };
		} else {
			flags |= i + 1 < nseg ? N : 0;
			table[i - direct] = (struct virtq_desc){ gpa, len, flags, i - direct + 1 };
		}
	}
	if (direct < nseg)
		d->desc[desc[direct]] =
		        (struct virtq_desc){ TABLES + desc[0] * 4096ull, 16 * (nseg - direct),
			                     I | (below(&d->seed, 2) ? W : 0), 0 };
	driver_offer(d, desc[0]);
	return true;
}

/* What the device popped is what the driver offered. */
static void check_chain(const struct driver *d, const struct virtq_chain *chain)
{
	const struct request *r = &d->request[chain->head];

	assert_int_equal(chain->nout, r->nout);
	assert_int_equal(chain->nin, r->nin);
	assert_int_equal(chain->out, r->out);
	assert_int_equal(chain->in, r->in);
	assert_memory_equal(chain->iov, r->seg, (r->nout + r->nin) * sizeof(struct iovec));
}

/*
 * Requests of all shapes through a queue of @size, each party doing a random amount of work at a
 * time, until every index has wrapped.
 */
static void exchange(struct driver *d, unsigned size, uint64_t features)
{
	struct iovec iov[IOV_ROOM];
	struct virtq_chain chain = { .iov = iov, .iov_max = IOV_ROOM };
	struct virtq_used_elem held[VIRTQ_SIZE_MAX], pushed[VIRTQ_SIZE_MAX];
	unsigned nheld = 0, npushed = 0, in_ring = 0;
	bool kicks = true; /* the device wants the next one */
	uint64_t *seed = &d->seed;

	assert_int_equal(driver_init(d, size, features), 0);
	for (unsigned total = 0; total < 70000;) {
		unsigned n = below(seed, size + 1);

		while (n-- && driver_add(d))
			in_ring++;

		bool kick = kicks && d->added != d->published;

		assert_int_equal(driver_publish(d), kick);
		if (kick) {
			virtq_kicks_off(&d->q);
			kicks = false;
		}

		for (n = below(seed, size + 1); n; n--) {
			int got = virtq_pop(&d->q, &chain);

			assert_int_equal(got, in_ring > 0);
			if (!got)
				break;
			check_chain(d, &chain);
			held[nheld++] =
			        (struct virtq_used_elem){ chain.head, below(seed, chain.in + 1) };
			in_ring--;
			total++;
		}
		assert_int_equal(d->q.in_flight, nheld);
		if (!kicks && below(seed, 2)) {
			assert_int_equal(virtq_kicks_on(&d->q), in_ring > 0);
			kicks = !in_ring;
			if (!kicks)
				virtq_kicks_off(&d->q);
		}

		for (n = below(seed, nheld + 1); n; n--) {
			unsigned pick = below(seed, nheld);

			virtq_push(&d->q, held[pick].id, held[pick].len);
			pushed[npushed++] = held[pick];
			held[pick] = held[--nheld];
		}
		assert_int_equal(d->used->idx, d->reaped); /* nothing seen before the flush */

		bool wanted = false;

		if (features & EVENT) {
			*used_event(d) = d->reaped + below(seed, 2 * size) - size / 2;
			for (unsigned i = 0; i < npushed; i++)
				wanted |= *used_event(d) == (uint16_t)(d->reaped + i);
		} else {
			d->avail->flags = below(seed, 2);
			wanted = npushed && !d->avail->flags;
		}
		assert_int_equal(virtq_flush(&d->q), wanted);
		assert_false(virtq_flush(&d->q));

		assert_int_equal(d->used->idx, (uint16_t)(d->reaped + npushed));
		for (unsigned i = 0; i < npushed; i++) {
			const struct virtq_used_elem *elem = &d->used->ring[d->reaped++ % size];
			const struct request *r = &d->request[elem->id];

			assert_memory_equal(elem, &pushed[i], sizeof(*elem));
			memcpy(&d->free[d->nfree], r->desc, r->ndesc * sizeof(r->desc[0]));
			d->nfree += r->ndesc;
		}
		npushed = 0;
	}
}

static void passes_every_chain(void **state)
{
	for (unsigned size = 1; size <= VIRTQ_SIZE_MAX; size *= 2) {
		exchange(*state, size, 0);
		exchange(*state, size, INDIRECT);
		exchange(*state, size, EVENT);
		exchange(*state, size, INDIRECT | EVENT);
	}
}

static void enables_what_fits(void **state)
{
	static const struct {
		int err;
		unsigned size;
		gpa_t desc, driver, device;
	} cases[] = {
		{ 0, 1, DESC, AVAIL, USED },
		{ 0, 1024, DESC, AVAIL, USED },
		{ 0, 8, DESC + 16, AVAIL + 2, USED + 4 },
		{ 0, 8, MEM_HOLE_END, AVAIL, USED },
		{ -EINVAL, 0, DESC, AVAIL, USED },
		{ -EINVAL, 3, DESC, AVAIL, USED },
		{ -EINVAL, 2048, DESC, AVAIL, USED },
		{ -EINVAL, 8, DESC + 8, AVAIL, USED },
		{ -EINVAL, 8, DESC, AVAIL + 1, USED },
		{ -EINVAL, 8, DESC, AVAIL, USED + 2 },
		{ 0, 8, MEM_HOLE_START - 128, AVAIL, USED },
		{ -EFAULT, 8, MEM_HOLE_START - 112, AVAIL, USED },
		{ -EFAULT, 8, MEM_HOLE_START, AVAIL, USED },
		{ 0, 8, DESC, MEM_HOLE_START - 22, USED },
		{ -EFAULT, 8, DESC, MEM_HOLE_START - 20, USED },
		{ 0, 8, DESC, AVAIL, MEM_HOLE_END + HIGH_LEN - 72 },
		{ -EFAULT, 8, DESC, AVAIL, MEM_HOLE_END + HIGH_LEN - 68 },
		{ -EFAULT, 8, -16ull, AVAIL, USED },
		{ -EFAULT, 8, DESC, -2ull, USED },
		{ -EFAULT, 8, DESC, AVAIL, -4ull },
	};
	struct driver *d = *state;

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		virtq_disable(&d->q);
		assert_int_equal(virtq_enable(&d->q, &d->mem, 0, cases[i].size, cases[i].desc,
		                              cases[i].driver, cases[i].device),
		                 cases[i].err);
		assert_int_equal(d->q.size, cases[i].err ? 0 : cases[i].size);
	}
}

static void is_frozen_while_enabled(void **state)
{
	struct driver *d = *state;
	struct virtq before = d->q;

	assert_int_equal(virtq_enable(&d->q, &d->mem, 0, 4, DESC + 64, AVAIL + 64, USED + 64),
	                 -EBUSY);
	assert_memory_equal(&d->q, &before, sizeof(before));
}

static void begins_anew_after_a_reset(void **state)
{
	struct driver *d = *state;
	struct iovec iov[IOV_ROOM];
	struct virtq_chain chain = { .iov = iov, .iov_max = IOV_ROOM };

	for (unsigned round = 0; round < 3; round++) {
		assert_int_equal(driver_init(d, 8, INDIRECT), 0);
		assert_int_equal(virtq_pop(&d->q, &chain), 0);
		d->desc[3] = (struct virtq_desc){ BUFFERS, 64, W, 0 };
		d->desc[4] = (struct virtq_desc){ BUFFERS, 64, W, 0 };
		driver_offer(d, 3);
		driver_offer(d, 4);
		driver_publish(d);
		assert_int_equal(virtq_pop(&d->q, &chain), 1);
		assert_int_equal(virtq_pop(&d->q, &chain), 1);
		assert_int_equal(chain.head, 4);
		virtq_push(&d->q, 4, 64); /* not flushed; and 3 stays in flight */
	}
	assert_int_equal(d->used->idx, 0);
}

/* What is at head 0 of a queue of 8, and what virtq_pop says to it. */
struct shape {
	const char *what;
	int result;
	struct virtq_desc desc[8];
	struct virtq_desc table[8]; /* at T */
	unsigned nout, nin;
	uint32_t out, in;
	bool direct; /* VIRTIO_F_INDIRECT_DESC was not negotiated */
};

#define B    BUFFERS
#define T    TABLES
#define HOLE MEM_HOLE_START

/* clang-format off */
static const struct shape shapes[] = {
	{ "to read", 1, .desc = { { B, 5, 0, 9 } }, .nout = 1, .out = 5 },
	{ "to write", 1, .desc = { { B, 5, W, 9 } }, .nin = 1, .in = 5 },
	{ "unknown flags", 1, .desc = { { B, 5, 0xfff8, 9 } }, .nout = 1, .out = 5 },
	{ "the last byte", 1, .desc = { { HOLE - 1, 1, W, 0 } }, .nin = 1, .in = 1 },
	{ "linked backwards", 1,
	  .desc = { { B, 5, N, 7 }, [6] = { B, 1, W, 0 }, { B, 7, N | W, 6 } },
	  .nout = 1, .out = 5, .nin = 2, .in = 8 },
	{ "all descriptors", 1,
	  .desc = { { B, 1, N, 1 }, { B, 1, N, 2 }, { B, 1, N, 3 }, { B, 1, N, 4 },
	            { B, 1, N, 5 }, { B, 1, N, 6 }, { B, 1, N, 7 }, { B, 1, 0, 0 } },
	  .nout = 8, .out = 8 },
	{ "4 GiB - 1", 1, .desc = { { 0, 1u << 31, N, 1 }, { 0, ~0u >> 1, W, 0 } },
	  .nout = 1, .out = 1u << 31, .nin = 1, .in = ~0u >> 1 },
	{ "some without length", 1,
	  .desc = { { ~0ull, 0, N | W, 1 }, { B, 5, N, 2 }, { 0, 0, N, 3 }, { B, 6, W, 0 } },
	  .nout = 1, .out = 5, .nin = 1, .in = 6 },
	{ "nothing at all", 1, .desc = { { B, 0, 0, 0 } } },
	{ "indirect", 1,
	  .desc = { { T, 48, I, 0 } }, .table = { { B, 5, N, 2 }, [2] = { B, 6, W, 0 } },
	  .nout = 1, .out = 5, .nin = 1, .in = 6 },
	{ "direct, then indirect", 1,
	  .desc = { { B, 5, N, 1 }, { T, 16, I | W, 0 } }, .table = { { B, 6, 0, 0 } },
	  .nout = 2, .out = 11 },
	{ "own descriptors as a table", 1,
	  .desc = { { DESC + 16, 32, I, 0 }, { B, 5, N, 1 }, { B, 6, 0, 0 } },
	  .nout = 2, .out = 11 },

	{ "next outside", -ERANGE, .desc = { { B, 5, N, 8 } } },
	{ "next far outside", -ERANGE, .desc = { { B, 5, N, 0xffff } } },
	{ "next outside its table", -ERANGE,
	  .desc = { { T, 32, I, 0 } }, .table = { { B, 5, N, 2 } } },

	{ "a loop of one", -ELOOP, .desc = { { B, 5, N, 0 } } },
	{ "a loop of two", -ELOOP, .desc = { { B, 5, N, 1 }, { B, 5, N, 0 } } },
	{ "a loop of nothing", -ELOOP, .desc = { { B, 0, N, 1 }, { B, 0, N, 0 } } },
	{ "an indirect loop", -ELOOP,
	  .desc = { { T, 32, I, 0 } }, .table = { { B, 5, N, 1 }, { B, 5, N, 0 } } },

	{ "readable last", -EINVAL, .desc = { { B, 5, N | W, 1 }, { B, 5, 0, 0 } } },
	{ "readable last, indirect", -EINVAL,
	  .desc = { { B, 5, N | W, 1 }, { T, 16, I, 0 } }, .table = { { B, 5, 0, 0 } } },
	{ "not negotiated", -EINVAL,
	  .desc = { { T, 16, I, 0 } }, .table = { { B, 5, 0, 0 } }, .direct = true },
	{ "indirect and next", -EINVAL,
	  .desc = { { T, 16, I | N, 1 }, { B, 5, 0, 0 } }, .table = { { B, 5, 0, 0 } } },
	{ "nested", -EINVAL,
	  .desc = { { T, 32, I, 0 } }, .table = { { T + 16, 16, I, 0 }, { B, 5, 0, 0 } } },
	{ "nested in itself", -EINVAL, .desc = { { DESC, 128, I, 0 } } },
	{ "an empty table", -EINVAL,
	  .desc = { { T, 0, I, 0 } }, .table = { { B, 5, 0, 0 } } },
	{ "half an entry", -EINVAL,
	  .desc = { { T, 8, I, 0 } }, .table = { { B, 5, 0, 0 } } },
	{ "one and a half", -EINVAL,
	  .desc = { { T, 24, I, 0 } }, .table = { { B, 5, 0, 0 } } },
	{ "a long table", -EINVAL,
	  .desc = { { T, 16 * (VIRTQ_SIZE_MAX + 1), I, 0 } }, .table = { { B, 5, 0, 0 } } },
	{ "a huge table", -EINVAL,
	  .desc = { { T, -16u, I, 0 } }, .table = { { B, 5, 0, 0 } } },

	{ "a table outside RAM", -EFAULT, .desc = { { HOLE, 16, I, 0 } } },
	{ "a table half outside", -EFAULT, .desc = { { HOLE - 16, 32, I, 0 } } },
	{ "outside RAM", -EFAULT, .desc = { { HOLE, 1, 0, 0 } } },
	{ "half outside", -EFAULT, .desc = { { HOLE - 1, 2, 0, 0 } } },
	{ "across the hole", -EFAULT, .desc = { { HOLE - 1, 1u << 31, 0, 0 } } },
	{ "beyond 2^64", -EFAULT, .desc = { { ~0ull, 2, 0, 0 } } },
	{ "second outside", -EFAULT, .desc = { { B, 5, N, 1 }, { HOLE, 1, W, 0 } } },
	{ "outside, indirect", -EFAULT,
	  .desc = { { T, 16, I, 0 } }, .table = { { HOLE, 1, W, 0 } } },

	{ "4 GiB", -EMSGSIZE, .desc = { { 0, 1u << 31, N, 1 }, { 0, 1u << 31, 0, 0 } } },
	{ "4 GiB both ways", -EMSGSIZE,
	  .desc = { { 0, 1u << 31, N, 1 }, { 0, 1u << 31, W, 0 } } },
};
/* clang-format on */

static void judges_every_shape(void **state)
{
	struct driver *d = *state;
	struct iovec iov[IOV_ROOM];
	unsigned wrong = 0;

	for (unsigned i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
		const struct shape *s = &shapes[i];
		struct virtq_chain chain = { .iov = iov, .iov_max = IOV_ROOM };

		driver_init(d, 8, s->direct ? EVENT : INDIRECT);
		memcpy(d->desc, s->desc, sizeof(s->desc));
		memcpy(mem_host(&d->mem, TABLES, 4096), s->table, sizeof(s->table));
		driver_offer(d, 0);
		driver_publish(d);

		int result = virtq_pop(&d->q, &chain);

		if (result != s->result || d->q.in_flight != (result == 1) ||
		    (result == 1 && (chain.nout != s->nout || chain.nin != s->nin ||
		                     chain.out != s->out || chain.in != s->in))) {
			print_error("%s: %d instead of %d\n", s->what, result, s->result);
			wrong++;
		}
	}
	assert_int_equal(wrong, 0);
}

/* An indirect table may lie anywhere, and have more entries than its queue. */
static void takes_long_tables_at_odd_places(void **state)
{
	struct driver *d = *state;
	struct iovec iov[VIRTQ_SIZE_MAX];
	struct virtq_chain chain = { .iov = iov, .iov_max = VIRTQ_SIZE_MAX };
	struct virtq_desc *table = mem_host(&d->mem, TABLES + 3, 16 * VIRTQ_SIZE_MAX);

	driver_init(d, 2, INDIRECT);
	for (unsigned i = 0; i < VIRTQ_SIZE_MAX; i++)
		table[i] = (struct virtq_desc){ BUFFERS + i, 1, i + 1 < VIRTQ_SIZE_MAX ? N : 0,
			                        i + 1 };
	d->desc[1] = (struct virtq_desc){ TABLES + 3, 16 * VIRTQ_SIZE_MAX, I, 0 };
	driver_offer(d, 1);
	driver_publish(d);
	assert_int_equal(virtq_pop(&d->q, &chain), 1);
	assert_int_equal(chain.nout, VIRTQ_SIZE_MAX);
	assert_ptr_equal(iov[VIRTQ_SIZE_MAX - 1].iov_base, mem_host(&d->mem, BUFFERS + 1023, 1));
}

static void stays_within_the_room_given(void **state)
{
	struct driver *d = *state;
	struct iovec iov[3] = { [2] = { d, 42 } };
	struct virtq_chain chain = { .iov = iov, .iov_max = 2 };

	d->desc[0] = (struct virtq_desc){ BUFFERS, 1, N, 1 };
	d->desc[1] = (struct virtq_desc){ BUFFERS, 1, N | W, 2 };
	d->desc[2] = (struct virtq_desc){ BUFFERS, 1, W, 0 };
	driver_offer(d, 1);
	driver_offer(d, 0);
	driver_publish(d);
	assert_int_equal(virtq_pop(&d->q, &chain), 1);
	assert_int_equal(virtq_pop(&d->q, &chain), -E2BIG);
	assert_ptr_equal(iov[2].iov_base, d);
	assert_int_equal(iov[2].iov_len, 42);
}

static void refuses_bad_heads(void **state)
{
	struct driver *d = *state;
	struct iovec iov[IOV_ROOM];
	struct virtq_chain chain = { .iov = iov, .iov_max = IOV_ROOM };

	d->desc[7] = (struct virtq_desc){ BUFFERS, 1, W, 0 };
	driver_offer(d, 8);
	driver_publish(d);
	assert_int_equal(virtq_pop(&d->q, &chain), -ERANGE);
	d->avail->ring[0] = 0xffff;
	assert_int_equal(virtq_pop(&d->q, &chain), -ERANGE);
	d->avail->ring[0] = 7;
	assert_int_equal(virtq_pop(&d->q, &chain), 1);

	driver_offer(d, 7); /* once more, while it is in flight */
	driver_publish(d);
	assert_int_equal(virtq_pop(&d->q, &chain), -EBUSY);
	assert_int_equal(d->q.in_flight, 1);
	virtq_push(&d->q, 7, 1);
	assert_int_equal(virtq_pop(&d->q, &chain), 1);
	assert_int_equal(d->q.in_flight, 1);
}

static void refuses_an_idx_too_far_ahead(void **state)
{
	struct driver *d = *state;
	struct iovec iov[IOV_ROOM];
	struct virtq_chain chain = { .iov = iov, .iov_max = IOV_ROOM };

	for (unsigned i = 0; i < 8; i++) {
		d->desc[i] = (struct virtq_desc){ BUFFERS, 1, 0, 0 };
		driver_offer(d, i);
	}
	d->avail->idx = 9;
	assert_int_equal(virtq_pop(&d->q, &chain), -EOVERFLOW);
	d->avail->idx = 0xffff; /* taken back */
	assert_int_equal(virtq_pop(&d->q, &chain), -EOVERFLOW);
	d->avail->idx = 8;
	assert_int_equal(virtq_pop(&d->q, &chain), 1);
	d->avail->idx = 0; /* known to have been 8 */
	for (unsigned i = 1; i < 8; i++)
		assert_int_equal(virtq_pop(&d->q, &chain), 1);
	assert_int_equal(virtq_pop(&d->q, &chain), -EOVERFLOW);
	assert_int_equal(d->q.in_flight, 8);
}

/* What was given back is the driver's again when it was shown, and not before. */
static void refuses_what_the_driver_cannot_have_back(void **state)
{
	struct driver *d = *state;
	struct iovec iov[IOV_ROOM];
	struct virtq_chain chain = { .iov = iov, .iov_max = IOV_ROOM };

	d->desc[0] = (struct virtq_desc){ BUFFERS, 1, 0, 0 };
	for (unsigned i = 0; i < 8; i++) {
		driver_offer(d, 0);
		driver_publish(d);
		assert_int_equal(virtq_pop(&d->q, &chain), 1);
		virtq_push(&d->q, 0, 0);
	}
	driver_offer(d, 0);
	driver_publish(d);
	assert_int_equal(virtq_pop(&d->q, &chain), -EOVERFLOW);
	virtq_flush(&d->q);
	assert_int_equal(virtq_pop(&d->q, &chain), 1);
}

/* Nobody fetches what was copied already. */
static void keeps_its_copy(void **state)
{
	struct driver *d = *state;
	struct iovec iov[IOV_ROOM];
	struct virtq_chain chain = { .iov = iov, .iov_max = IOV_ROOM };

	d->desc[0] = (struct virtq_desc){ BUFFERS, 512, W, 0 };
	driver_offer(d, 0);
	driver_publish(d);
	assert_int_equal(virtq_pop(&d->q, &chain), 1);
	d->desc[0] = (struct virtq_desc){ ~0ull, ~0u, N, 0 };
	d->avail->ring[0] = 5;
	virtq_push(&d->q, chain.head, 512);
	virtq_flush(&d->q);
	assert_int_equal(d->used->ring[0].id, 0);
	assert_int_equal(d->used->ring[0].len, 512);
	assert_ptr_equal(iov[0].iov_base, mem_host(&d->mem, BUFFERS, 1));
}

/*
 * Two threads. Each side writes plain memory, hands it over by an idx, and sleeps on a semaphore
 * once the other was asked to post it: a missing barrier is a lost wake-up, a missing release or
 * acquire is for ThreadSanitizer to see.
 */
struct pair {
	struct driver *d;
	unsigned total;
	sem_t kick, interrupt;
	_Atomic bool over;
	uint64_t seed; /* the device's */
	const char *_Atomic failed;
	unsigned kicks, interrupts;
};

/* Before a side asks to be woken: wake-ups of old would hide that a new one got lost. */
static void forget(sem_t *sem)
{
	while (!sem_trywait(sem))
		;
}

static bool sleep_on(struct pair *p, sem_t *sem, const char *who)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 10;
	while (sem_timedwait(sem, &until)) {
		if (errno == EINTR)
			continue;
		p->failed = who;
		return false;
	}
	return true;
}

/*
 * A little while for the other side to come in between, and a store that misses the caches: it
 * holds back those behind it, and shows where a full barrier was forgotten.
 */
static void linger(struct pair *p)
{
	volatile uint8_t *cold = p->d->mem.low.host + BUFFERS + 4096;

	for (volatile unsigned n = below(&p->seed, 100); n; n--)
		;
	cold[64 * below(&p->seed, 1 << 18)] = 0;
}

static void *device_thread(void *arg)
{
	struct pair *p = arg;
	struct virtq *q = &p->d->q;
	struct iovec iov[2];
	struct virtq_chain chain = { .iov = iov, .iov_max = 2 };

	for (;;) {
		int got;

		do {
			virtq_kicks_off(q);
			while ((got = virtq_pop(q, &chain)) > 0) {
				*(uint64_t *)iov[1].iov_base = ~*(uint64_t *)iov[0].iov_base;
				virtq_push(q, chain.head, 8);
				if (!below(&p->seed, 4) && virtq_flush(q)) {
					p->interrupts++;
					sem_post(&p->interrupt);
				}
			}
			if (virtq_flush(q)) {
				p->interrupts++;
				sem_post(&p->interrupt);
			}
			forget(&p->kick);
			linger(p);
		} while (!got && virtq_kicks_on(q));
		if (got < 0) {
			p->failed = "the device met a bad ring";
			break;
		}
		if (p->over || !sleep_on(p, &p->kick, "the device waits for ever"))
			break;
	}
	return NULL;
}

/* Take back what is used; returns how many. */
static unsigned driver_reap(struct pair *p)
{
	struct driver *d = p->d;
	uint16_t idx = __atomic_load_n(&d->used->idx, __ATOMIC_ACQUIRE);
	unsigned n = 0;

	for (; d->reaped != idx; d->reaped++, n++) {
		const struct virtq_used_elem *elem = &d->used->ring[d->reaped % d->size];
		uint64_t *data = mem_host(&d->mem, BUFFERS + 16 * elem->id, 16);

		if (data[1] != ~data[0] || elem->len != 8)
			p->failed = "wrong data";
		d->free[d->nfree++] = elem->id;
	}
	return n;
}

static void driver_sleep(struct pair *p)
{
	struct driver *d = p->d;

	forget(&p->interrupt);
	if (d->features & EVENT)
		__atomic_store_n(used_event(d), d->reaped, __ATOMIC_SEQ_CST);
	else
		__atomic_store_n(&d->avail->flags, 0, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&d->used->idx, __ATOMIC_SEQ_CST) == d->reaped)
		sleep_on(p, &p->interrupt, "the driver waits for ever");
	if (!(d->features & EVENT))
		__atomic_store_n(&d->avail->flags, VIRTQ_AVAIL_F_NO_INTERRUPT, __ATOMIC_RELAXED);
}

static void *driver_thread(void *arg)
{
	struct pair *p = arg;
	struct driver *d = p->d;
	unsigned posted = 0, done = 0;

	while (done < p->total && !p->failed) {
		for (unsigned n = 1 + below(&d->seed, 8); n && d->nfree && posted < p->total; n--) {
			uint16_t head = d->free[--d->nfree];
			gpa_t gpa = BUFFERS + 16 * head;
			struct virtq_desc *table = mem_host(&d->mem, TABLES + 32 * head, 32);

			*(uint64_t *)mem_host(&d->mem, gpa, 8) = posted++;
			table[0] = (struct virtq_desc){ gpa, 8, N, 1 };
			table[1] = (struct virtq_desc){ gpa + 8, 8, W, 0 };
			d->desc[head] = (struct virtq_desc){ TABLES + 32 * head, 32, I, 0 };
			driver_offer(d, head);
		}
		if (driver_publish(d)) {
			p->kicks++;
			sem_post(&p->kick);
		}

		unsigned n = 0;

		for (unsigned look = 1u << below(&d->seed, 13); look && !n; look--)
			n = driver_reap(p);
		done += n;
		if (!n && (!d->nfree || posted == p->total))
			driver_sleep(p);
	}
	p->over = true;
	sem_post(&p->kick);
	return NULL;
}

static void run_pair(struct driver *d, unsigned size, uint64_t features, unsigned total)
{
	struct pair p = { .d = d, .total = total, .seed = 3 };
	pthread_t driver, device;

	assert_int_equal(driver_init(d, size, features), 0);
	sem_init(&p.kick, 0, 0);
	sem_init(&p.interrupt, 0, 0);
	assert_int_equal(pthread_create(&device, NULL, device_thread, &p), 0);
	assert_int_equal(pthread_create(&driver, NULL, driver_thread, &p), 0);
	pthread_join(driver, NULL);
	pthread_join(device, NULL);
	sem_destroy(&p.kick);
	sem_destroy(&p.interrupt);
	print_message("size %u: %u requests, %u kicks, %u interrupts\n", size, total, p.kicks,
	              p.interrupts);
	if (p.failed)
		fail_msg("size %u, features %#llx: %s", size, (unsigned long long)features,
		         p.failed);
	assert_int_equal(d->q.in_flight, 0);
}

static void two_threads_lose_nothing(void **state)
{
	run_pair(*state, 1, INDIRECT, 30000);
	run_pair(*state, 1, INDIRECT | EVENT, 30000);
	run_pair(*state, 4, INDIRECT, 50000);
	run_pair(*state, 4, INDIRECT | EVENT, 50000);
	run_pair(*state, 256, INDIRECT, 500000);
	run_pair(*state, 256, INDIRECT | EVENT, 500000);
}

/* A driver that writes all over its rings while they are read: whatever comes out lies in RAM. */
struct scribbler {
	struct driver *d;
	_Atomic bool over;
};

__attribute__((no_sanitize("thread"))) static void *scribbler_thread(void *arg)
{
	static const gpa_t addr[] = { BUFFERS, TABLES, DESC, HOLE - 64, MEM_HOLE_END, ~63ull };
	struct scribbler *s = arg;
	struct driver *d = s->d;
	volatile struct virtq_desc *table = mem_host(&d->mem, TABLES, 128);
	volatile struct virtq_avail *avail = d->avail;
	volatile struct virtq_used *used = d->used;
	uint64_t seed = 5;

	while (!s->over) {
		volatile struct virtq_desc *at = below(&seed, 2) ? table : d->desc;

		at += below(&seed, 8);
		at->addr = addr[below(&seed, 6)];
		at->len = 16 * below(&seed, 6);
		at->flags = below(&seed, 8);
		at->next = below(&seed, 9);
		avail->ring[below(&seed, 8)] = below(&seed, 64) % 9;
		if ((uint16_t)(avail->idx - used->idx) < 8 || !below(&seed, 64))
			avail->idx = avail->idx + 1;
	}
	return NULL;
}

static bool in_region(const struct mem_region *region, const struct iovec *iov)
{
	uint8_t *base = iov->iov_base;

	return base >= region->host && base + iov->iov_len <= region->host + region->len;
}

static void survives_a_scribbler(void **state)
{
	struct driver *d = *state;
	struct scribbler s = { .d = d };
	struct iovec iov[IOV_ROOM];
	struct virtq_chain chain = { .iov = iov, .iov_max = IOV_ROOM };
	unsigned popped = 0, refused = 0;
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, scribbler_thread, &s), 0);
	while (popped < 20000 || refused < 20000) {
		int got = virtq_pop(&d->q, &chain);

		if (got > 0) {
			uint64_t out = 0, in = 0;

			for (unsigned i = 0; i < chain.nout + chain.nin; i++) {
				assert_in_range(iov[i].iov_len, 1, 80);
				assert_true(in_region(&d->mem.low, &iov[i]) ||
				            in_region(&d->mem.high, &iov[i]));
				*(i < chain.nout ? &out : &in) += iov[i].iov_len;
			}
			assert_int_equal(chain.out, out);
			assert_int_equal(chain.in, in);
			popped++;
			if (chain.head) /* head 0 stays in flight, to be refused next time */
				virtq_push(&d->q, chain.head, in);
			virtq_flush(&d->q);
			virtq_kicks_on(&d->q);
		} else if (got < 0) {
			refused++;
			virtq_disable(&d->q);
			d->avail->idx = d->used->idx = 0;
			assert_int_equal(
			        virtq_enable(&d->q, &d->mem, INDIRECT, 8, DESC, AVAIL, USED), 0);
		}
	}
	s.over = true;
	pthread_join(thread, NULL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(enables_what_fits),
		TEST(is_frozen_while_enabled),
		TEST(begins_anew_after_a_reset),
		TEST(passes_every_chain),
		TEST(judges_every_shape),
		TEST(takes_long_tables_at_odd_places),
		TEST(stays_within_the_room_given),
		TEST(refuses_bad_heads),
		TEST(refuses_an_idx_too_far_ahead),
		TEST(refuses_what_the_driver_cannot_have_back),
		TEST(keeps_its_copy),
		TEST(two_threads_lose_nothing),
		TEST(survives_a_scribbler),
	};

	return cmocka_run_group_tests_name("virtio_virtq", tests, NULL, NULL);
}
