/*
 * job=disk: reads or writes, so many in flight, for so long. See main.c for the parameters. Queues
 * are numbered over all disks: queue q is number q / ndisks of disk q % ndisks.
 */
#include "bench/guest/virtio.h"

#define SECTOR             512
#define VIRTIO_BLK_F_RO    5
#define VIRTIO_BLK_F_FLUSH 9
#define CONFIG_CAPACITY    0
#define CONFIG_NUM_QUEUES  34
#define VIRTIO_BLK_T_IN    0
#define VIRTIO_BLK_T_OUT   1
#define STATUS_NONE        0xff
#define QUEUES_MAX         64
#define DISKS_MAX          16
#define DRAIN_SECONDS      10
#define BS_MAX             0x400000
#define DEPTH_MAX          1024

struct request {
	uint32_t type, reserved;
	uint64_t sector;
	uint8_t status;
	uint8_t padding[7];
	uint64_t block;
	uint64_t since; /* TSC when it was offered */
	uint64_t more[3];
};

#define HEADER_LEN 16

/* One device. */
struct unit {
	struct device device;
	uint64_t next_block;
	uint64_t *written; /* verify: a bit a block */
};

struct disk {
	struct unit unit[DISKS_MAX];
	struct queue queue[QUEUES_MAX];
	struct request *request[QUEUES_MAX]; /* by slot */
	uint8_t *data[QUEUES_MAX];
	unsigned ndisks, nqueues, depth;
	bool write, random, verify, interrupts;
	uint32_t bs;
	uint64_t blocks; /* of the smallest disk */
	uint64_t seed;
	struct xorshift random_state;
	struct histogram *latency;
	uint64_t in_flight, done, served, errors, verified, mismatches;
};

static struct unit *unit_of(struct disk *disk, unsigned q)
{
	return &disk->unit[q % disk->ndisks];
}

/* What a block holds: each word tells its place, and on which disk. */
static uint64_t pattern(const struct disk *disk, unsigned q, uint64_t offset)
{
	return (offset + disk->seed + ((uint64_t)(q % disk->ndisks) << 48)) * 0x9e3779b97f4a7c15ull;
}

static void data_fill(const struct disk *disk, unsigned q, uint64_t block, uint64_t *data)
{
	for (uint64_t i = 0; i < disk->bs; i += 8)
		*data++ = pattern(disk, q, block * disk->bs + i);
}

static bool data_is_right(const struct disk *disk, unsigned q, uint64_t block, const uint64_t *data)
{
	for (uint64_t i = 0; i < disk->bs; i += 8)
		if (*data++ != pattern(disk, q, block * disk->bs + i))
			return false;
	return true;
}

static uint64_t block_next(struct disk *disk, unsigned q)
{
	struct unit *unit = unit_of(disk, q);
	uint64_t block = unit->next_block;

	if (disk->random)
		return random_below(&disk->random_state, disk->blocks);
	unit->next_block = block + 1 < disk->blocks ? block + 1 : 0;
	return block;
}

static void request_offer(struct disk *disk, unsigned q, unsigned slot, uint64_t block,
                          uint64_t now)
{
	struct request *request = &disk->request[q][slot];

	request->type = disk->write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN;
	request->sector = block * (disk->bs / SECTOR);
	request->status = STATUS_NONE;
	request->block = block;
	request->since = now;
	if (disk->verify && disk->write) {
		data_fill(disk, q, block, (uint64_t *)(disk->data[q] + (uint64_t)slot * disk->bs));
		unit_of(disk, q)->written[block / 64] |= 1ull << block % 64;
	}
	queue_offer(&disk->queue[q], (uint16_t)slot);
}

static void request_check(struct disk *disk, unsigned q, unsigned slot)
{
	const struct request *request = &disk->request[q][slot];

	if (request->status) {
		disk->errors++;
	} else if (disk->verify && !disk->write) {
		disk->verified++;
		if (!data_is_right(disk, q, request->block,
		                   (uint64_t *)(disk->data[q] + (uint64_t)slot * disk->bs)))
			disk->mismatches++;
	}
}

/* Take back what is done; @again: offer as many new ones. Returns how many. */
static unsigned queue_serve(struct disk *disk, unsigned q, uint64_t now, bool again)
{
	struct queue *queue = &disk->queue[q];
	uint32_t written;
	unsigned n = 0;
	int slot;

	while ((slot = queue_take(queue, &written)) >= 0) {
		request_check(disk, q, (unsigned)slot);
		histogram_add(disk->latency, now - disk->request[q][slot].since);
		n++;
		if (again)
			request_offer(disk, q, (unsigned)slot, block_next(disk, q), now);
		else
			disk->in_flight--;
	}
	disk->served += n;
	if (n && !disk->interrupts)
		queue_interrupts_off(queue);
	queue_publish(queue);
	return n;
}

/* Nothing came back: sleep until something does, unless the job is to poll. */
static void disk_idle(struct disk *disk)
{
	bool ready = false;

	if (!disk->interrupts) {
		__asm__ volatile("pause");
		return;
	}
	for (unsigned q = 0; q < disk->nqueues; q++)
		ready |= queue_interrupts_on(&disk->queue[q]);
	if (!ready)
		interrupt_wait();
	for (unsigned i = 0; i < disk->ndisks; i++)
		device_acknowledge(&disk->unit[i].device);
	for (unsigned q = 0; q < disk->nqueues; q++)
		queue_interrupts_off(&disk->queue[q]);
}

static unsigned disk_serve(struct disk *disk, uint64_t now, bool again)
{
	unsigned n = 0;

	for (unsigned q = 0; q < disk->nqueues; q++)
		n += queue_serve(disk, q, now, again);
	if (!n)
		disk_idle(disk);
	return n;
}

/* Wait for all that is in flight. */
static void disk_drain(struct disk *disk)
{
	uint64_t deadline = rdtsc() + DRAIN_SECONDS * clock_hz();

	while (disk->in_flight) {
		uint64_t now = rdtsc();

		disk_serve(disk, now, false);
		if (now > deadline)
			guest_fail("requests do not come back");
	}
}

/* Keep @depth in flight for @ticks. Returns how long it was. */
static uint64_t disk_load(struct disk *disk, uint64_t ticks)
{
	uint64_t least = job_number("min_ops", 0);
	uint64_t start = rdtsc(), now = start;

	for (unsigned i = 0; i < disk->depth; i++) {
		unsigned q = i % disk->nqueues;

		request_offer(disk, q, i / disk->nqueues, block_next(disk, q), now);
		disk->in_flight++;
	}
	for (unsigned q = 0; q < disk->nqueues; q++)
		queue_publish(&disk->queue[q]);
	do {
		now = rdtsc();
		disk->done += disk_serve(disk, now, true);
	} while (now - start < ticks || disk->done < least);

	uint64_t took = rdtsc() - start;

	disk_drain(disk);
	return took;
}

/* The next block from @from on that was written to @unit, or the number of blocks. */
static uint64_t written_next(const struct disk *disk, const struct unit *unit, uint64_t from)
{
	while (from < disk->blocks && !(unit->written[from / 64] >> from % 64 & 1))
		from++;
	return from;
}

/* Read back all that was written to disk @d, in rounds of what may be in flight. */
static void disk_read_back(struct disk *disk, unsigned d)
{
	const struct unit *unit = &disk->unit[d];
	uint64_t block = written_next(disk, unit, 0);

	while (block < disk->blocks) {
		unsigned slots = disk->queue[d].nslots;

		for (unsigned slot = 0; slot < slots && block < disk->blocks; slot++) {
			request_offer(disk, d, slot, block, rdtsc());
			disk->in_flight++;
			block = written_next(disk, unit, block + 1);
		}
		queue_publish(&disk->queue[d]);
		disk_drain(disk);
	}
}

static void disk_options(struct disk *disk)
{
	disk->random = job_is("op", "randread") || job_is("op", "randwrite");
	disk->write = job_is("op", "write") || job_is("op", "randwrite");
	if (!disk->random && !disk->write && !job_is("op", "read"))
		guest_fail("op is randread, randwrite, read or write");
	disk->bs = (uint32_t)job_number("bs", 4096);
	if (!disk->bs || disk->bs % SECTOR || disk->bs > BS_MAX)
		guest_fail("bs is a multiple of 512, at most 4m");
	disk->depth = (unsigned)job_number("depth", 32);
	disk->ndisks = (unsigned)job_number("disks", 1);
	if (!disk->ndisks || disk->ndisks > DISKS_MAX)
		guest_fail("disks is 1 to 16");
	disk->nqueues = (unsigned)job_number("queues", 1) * disk->ndisks;
	if (!disk->nqueues || disk->nqueues > QUEUES_MAX || disk->depth < disk->nqueues ||
	    disk->depth > DEPTH_MAX)
		guest_fail("queues is 1 to 64 on all disks, depth from there to 1024");
	disk->seed = job_number("seed", 1);
	disk->random_state.state = disk->seed * 0x9e3779b97f4a7c15ull | 1;
	disk->verify = job_number("verify", 0);
	disk->interrupts = job_is("wait", "irq");
}

static void queue_make(struct disk *disk, unsigned q, unsigned nslots)
{
	uint16_t in = disk->write ? 0 : DESC_F_WRITE;

	disk->request[q] = memory_take(sizeof(struct request) * nslots, 64);
	disk->data[q] = memory_take((uint64_t)disk->bs * nslots, 4096);

	const struct segment segments[] = {
		{ (uintptr_t)disk->request[q], sizeof(struct request), HEADER_LEN, 0 },
		{ (uintptr_t)disk->data[q], disk->bs, disk->bs, in },
		{ (uintptr_t)&disk->request[q]->status, sizeof(struct request), 1, DESC_F_WRITE },
	};

	queue_init(&disk->queue[q], &unit_of(disk, q)->device, (uint16_t)(q / disk->ndisks), nslots,
	           segments, 3);
	if (disk->queue[q].nslots < nslots)
		guest_fail("depth is more than the device's queues hold (a third of it without "
		           "indirect)");
}

/* Start disk @d; returns its blocks. */
static uint64_t unit_start(struct disk *disk, unsigned d)
{
	uint64_t features = FEATURE(VIRTIO_BLK_F_RO) | FEATURE(VIRTIO_BLK_F_FLUSH);
	struct device *device = &disk->unit[d].device;
	unsigned has = 1;

	device_need(device, VIRTIO_ID_BLK, d);
	device_start(device, features | FEATURE(VIRTIO_BLK_F_MQ), disk->interrupts);
	if (device->features & FEATURE(VIRTIO_BLK_F_MQ))
		has = device_config16(device, CONFIG_NUM_QUEUES);
	if (has < disk->nqueues / disk->ndisks)
		guest_fail("the device has fewer queues than the job wants");
	if (disk->write && device->features & FEATURE(VIRTIO_BLK_F_RO))
		guest_fail("the disk is read-only");

	uint64_t bytes = device_config64(device, CONFIG_CAPACITY) * SECTOR;
	uint64_t span = job_number("span", bytes);

	return (span < bytes ? span : bytes) / disk->bs;
}

static void disk_start(struct disk *disk)
{
	disk->blocks = UINT64_MAX;
	for (unsigned d = 0; d < disk->ndisks; d++) {
		uint64_t blocks = unit_start(disk, d);

		if (blocks < disk->blocks)
			disk->blocks = blocks;
	}
	if (!disk->blocks)
		guest_fail("the disk is smaller than one block");
	for (unsigned q = 0; q < disk->nqueues; q++)
		queue_make(disk, q, (disk->depth + disk->nqueues - 1) / disk->nqueues);
	for (unsigned d = 0; d < disk->ndisks; d++)
		device_ready(&disk->unit[d].device);
}

/* The chains were made to be written from: to read back, start the devices anew. */
static void disk_turn(struct disk *disk)
{
	disk->write = false;
	disk_start(disk);
	for (unsigned d = 0; d < disk->ndisks; d++)
		disk_read_back(disk, d);
	disk->write = true;
}

static void disk_print(const struct disk *disk, uint64_t ticks)
{
	out_text("\n{\"job\": \"disk\"");
	member_text("op", job_value("op", 0));
	member_text("wait", disk->interrupts ? "irq" : "poll");
	member_number("bs", disk->bs);
	member_number("depth", disk->depth);
	member_number("disks", disk->ndisks);
	member_number("queues", disk->nqueues / disk->ndisks);
	member_number("blocks", disk->blocks);
	member_number("ops", disk->done);
	member_number("bytes", disk->done * disk->bs);
	member_fixed("seconds", clock_ns(ticks) / 1000000);
	histogram_print(disk->latency);
	member_number("errors", disk->errors);
}

void disk_job(void)
{
	struct disk *disk = memory_take(sizeof(*disk), 64);
	uint64_t took;

	disk->latency = memory_take(sizeof(*disk->latency), 64);
	disk_options(disk);
	disk_start(disk);
	for (unsigned d = 0; disk->verify && d < disk->ndisks; d++)
		disk->unit[d].written = memory_take((disk->blocks + 63) / 64 * 8, 64);
	took = disk_load(disk,
	                 job_number("time_ms", 1000 * job_number("time", 5)) * clock_hz() / 1000);
	disk_print(disk, took);
	device_print(&disk->unit[0].device, disk->queue, disk->nqueues);
	if (disk->verify && disk->write)
		disk_turn(disk);
	if (disk->verify) {
		member_number("verified", disk->verified);
		member_number("mismatches", disk->mismatches);
	}
	member_number("served", disk->served);
}
