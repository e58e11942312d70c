/*
 * Split virtqueues. Knows rings and chains; not what is in the buffers, what kicks or what raises.
 */
#include <assert.h>
#include <errno.h>
#include <stddef.h>

#include "virtio/virtq.h"

int virtq_enable(struct virtq *q, const struct mem *mem, uint64_t features, unsigned size,
                 gpa_t desc, gpa_t driver, gpa_t device)
{
	if (q->size)
		return -EBUSY;
	if (!size || size > VIRTQ_SIZE_MAX || size & (size - 1))
		return -EINVAL;
	if (desc & 15 || driver & 1 || device & 3)
		return -EINVAL;

	struct virtq enabled = {
		.mem = mem,
		.desc = mem_host(mem, desc, 16 * size),
		.avail = mem_host(mem, driver, 6 + 2 * size),
		.used = mem_host(mem, device, 6 + 8 * size),
		.size = size,
		.indirect = features >> VIRTIO_F_INDIRECT_DESC & 1,
		.event = features >> VIRTIO_F_EVENT_IDX & 1,
	};

	if (!enabled.desc || !enabled.avail || !enabled.used)
		return -EFAULT;
	*q = enabled;
	return 0;
}

void virtq_disable(struct virtq *q)
{
	*q = (struct virtq){ 0 };
}

static const uint16_t *used_event(const struct virtq *q)
{
	return &q->avail->ring[q->size];
}

static uint16_t *avail_event(const struct virtq *q)
{
	return (uint16_t *)&q->used->ring[q->size];
}

static bool is_busy(const struct virtq *q, uint16_t head)
{
	return q->busy[head / 64] >> head % 64 & 1;
}

/* Entry @i of a table that may change meanwhile: each field is loaded once. */
static struct virtq_desc desc_read(const struct virtq_desc *table, unsigned i)
{
	const volatile struct virtq_desc *desc = &table[i];

	return (struct virtq_desc){ desc->addr, desc->len, desc->flags, desc->next };
}

/* Copy the chain at @head, through its indirect table if it ends in one. */
static int chain_read(const struct virtq *q, uint16_t head, struct virtq_chain *chain)
{
	const struct virtq_desc *table = q->desc;
	bool indirect = false;
	unsigned entries = q->size; /* of this table, */
	unsigned left = entries;    /* and those of them that may still follow */
	unsigned i = head;
	unsigned nout = 0, nin = 0;
	uint64_t out = 0, in = 0;

	for (;;) {
		struct virtq_desc desc = desc_read(table, i);

		if (desc.flags & VIRTQ_DESC_F_INDIRECT) {
			/*
			 * The length is bounded by the largest queue and not by this one: Linux
			 * puts more segments into a table than a small queue has entries.
			 */
			if (!q->indirect || indirect || desc.flags & VIRTQ_DESC_F_NEXT ||
			    !desc.len || desc.len % 16 || desc.len / 16 > VIRTQ_SIZE_MAX)
				return -EINVAL;
			indirect = true;
			table = mem_host(q->mem, desc.addr, desc.len);
			if (!table)
				return -EFAULT;
			entries = left = desc.len / 16;
			i = 0;
			continue;
		}

		void *host = mem_host(q->mem, desc.addr, desc.len);

		if (host) {
			if (nout + nin == chain->iov_max)
				return -E2BIG;
			chain->iov[nout + nin] = (struct iovec){ host, desc.len };
			if (desc.flags & VIRTQ_DESC_F_WRITE) {
				nin++;
				in += desc.len;
			} else if (!nin) {
				nout++;
				out += desc.len;
			} else {
				return -EINVAL;
			}
		} else if (desc.len) {
			return -EFAULT;
		}

		if (!(desc.flags & VIRTQ_DESC_F_NEXT))
			break;
		i = desc.next;
		if (i >= entries)
			return -ERANGE;
		if (!--left)
			return -ELOOP;
	}

	if (out + in > UINT32_MAX)
		return -EMSGSIZE;
	chain->head = head;
	chain->nout = nout;
	chain->nin = nin;
	chain->out = out;
	chain->in = in;
	return 0;
}

int virtq_pop(struct virtq *q, struct virtq_chain *chain)
{
	if (q->next_avail == q->avail_idx) {
		/*
		 * Before the entries and their descriptors: acquire, pairs with the driver's
		 * barrier between writing those and idx (§2.7.13.3.1).
		 */
		uint16_t idx = __atomic_load_n(&q->avail->idx, __ATOMIC_ACQUIRE);

		if (idx == q->next_avail)
			return 0;
		/*
		 * A driver has no more than size chains out. Those that were pushed and not flushed
		 * are among them: it cannot know yet, and must not keep us busy for ever.
		 */
		if ((uint16_t)(idx - q->next_avail) >
		    q->size - (uint16_t)(q->next_avail - q->flushed))
			return -EOVERFLOW;
		q->avail_idx = idx;
	}

	const uint16_t *entry = &q->avail->ring[q->next_avail & (q->size - 1)];
	uint16_t head = __atomic_load_n(entry, __ATOMIC_RELAXED);

	if (head >= q->size)
		return -ERANGE;
	if (is_busy(q, head))
		return -EBUSY;

	int err = chain_read(q, head, chain);

	if (err)
		return err;
	q->busy[head / 64] |= 1ull << head % 64;
	q->in_flight++;
	q->next_avail++;
	return 1;
}

void virtq_push(struct virtq *q, uint16_t head, uint32_t len)
{
	assert(head < q->size && is_busy(q, head));
	q->busy[head / 64] &= ~(1ull << head % 64);
	q->in_flight--;
	q->used->ring[q->used_idx++ & (q->size - 1)] = (struct virtq_used_elem){ head, len };
}

bool virtq_flush(struct virtq *q)
{
	uint16_t new = q->used_idx;
	uint16_t old = q->flushed;

	if (new == old)
		return false;
	q->flushed = new;

	/*
	 * After the entries and the data: release, pairs with the driver's read of idx (§2.7.14).
	 * Before its wish is read: full barrier (xchg), pairs with the one between the driver's
	 * write of that wish and its last look at idx (ibid.).
	 */
	__atomic_store_n(&q->used->idx, new, __ATOMIC_SEQ_CST);

	if (!q->event) {
		uint16_t flags = __atomic_load_n(&q->avail->flags, __ATOMIC_SEQ_CST);

		return !(flags & VIRTQ_AVAIL_F_NO_INTERRUPT);
	}

	uint16_t event = __atomic_load_n(used_event(q), __ATOMIC_SEQ_CST);

	return (uint16_t)(event - old) < (uint16_t)(new - old); /* old <= event < new */
}

bool virtq_peek(const struct virtq *q)
{
	return __atomic_load_n(&q->avail->idx, __ATOMIC_RELAXED) != q->next_avail;
}

void virtq_kicks_off(struct virtq *q)
{
	/* With an event index that is its state already when idx has passed it. */
	if (!q->event)
		__atomic_store_n(&q->used->flags, VIRTQ_USED_F_NO_NOTIFY, __ATOMIC_RELAXED);
	else if (q->waiting && !virtq_peek(q))
		__atomic_store_n(avail_event(q), (uint16_t)(q->next_avail - 1), __ATOMIC_RELAXED);
	q->waiting = false;
}

bool virtq_kicks_on(struct virtq *q)
{
	/*
	 * Before idx is read: full barrier (xchg), pairs with the driver's between its write of idx
	 * and its read of this (§2.7.13.4.1).
	 */
	if (q->event)
		__atomic_store_n(avail_event(q), q->next_avail, __ATOMIC_SEQ_CST);
	else
		__atomic_store_n(&q->used->flags, 0, __ATOMIC_SEQ_CST);

	q->waiting = __atomic_load_n(&q->avail->idx, __ATOMIC_SEQ_CST) == q->next_avail;
	return !q->waiting;
}
