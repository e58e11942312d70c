/*
 * virtio-blk, driven through the bus and its queues: requests in any layout, what is refused, what
 * the disk refuses, the write cache, discarding, resets with requests in flight.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/driver.h"
#include "tests/disk.h"
#include "tests/random.h"
#include "virtio/blk.h"

#define MEMORY  0x1000000
#define QUEUES  0x100000 /* guest memory for queues, */
#define TABLES  0x200000 /* for an indirect table of each head, 8 KiB apart, */
#define HEADERS 0x600000 /* for headers and for statuses, 32 bytes apart for each head, */
#define DATA    0x800000 /* and for data, 8 MiB */
#define SECTOR  512
#define SIZE    0x400000 /* of the disk */
#define MSI     0x40

#define BIT(n) (1ull << (n))
#define TRANSPORT                                                                                  \
	(BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_F_RING_RESET) | BIT(VIRTIO_F_INDIRECT_DESC) |        \
	 BIT(VIRTIO_F_EVENT_IDX))
#define ALWAYS                                                                                     \
	(TRANSPORT | BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_BLK_SIZE) |                      \
	 BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_TOPOLOGY) | BIT(VIRTIO_BLK_F_CONFIG_WCE) |     \
	 BIT(VIRTIO_BLK_F_MQ))

#define IN           VIRTIO_BLK_T_IN
#define OUT          VIRTIO_BLK_T_OUT
#define FLUSH        VIRTIO_BLK_T_FLUSH
#define GET_ID       VIRTIO_BLK_T_GET_ID
#define DISCARD      VIRTIO_BLK_T_DISCARD
#define WRITE_ZEROES VIRTIO_BLK_T_WRITE_ZEROES
#define UNMAP        VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP

#define OK     VIRTIO_BLK_S_OK
#define IOERR  VIRTIO_BLK_S_IOERR
#define UNSUPP VIRTIO_BLK_S_UNSUPP
#define NONE   0xee /* what the driver writes there before */

struct fixture {
	char dir[sizeof(IMAGE_DIR)];
	struct world world;
	struct backing_config config;
	struct disk disk;
	struct blk blk;
	struct driver d;
	uint64_t seed;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	*state = f;
	f->seed = 1;
	if (image_make(f->dir, SIZE))
		return -1;
	world_init(&f->world, MEMORY);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	int err = 0;

	blk_fini(&f->blk);
	if (f->disk.running || f->disk.waiting)
		err = -1;
	world_fini(&f->world);
	disk_fini(&f->disk);
	err = image_remove(f->dir) ? -1 : err;
	free(f);
	return err;
}

static void plug(struct fixture *f, const char *text)
{
	char why[BACKING_WHY_MAX];

	assert_int_equal(backing_parse(&f->config, text, why), 0);
	if (disk_init(&f->disk, &f->world.ring, &f->config, why))
		fail_msg("%s", why);
	assert_int_equal(blk_init(&f->blk, 0, &f->disk, &f->world.vdev), 0);
	driver_probe(&f->d, &f->world, 1, QUEUES);
}

static void bring_up(struct fixture *f, uint64_t features)
{
	assert_true(driver_start(&f->d, features, 0, MSI));
}

static void start(void **state, const char *text)
{
	struct fixture *f = *state;

	plug(f, text);
	bring_up(f, driver_offered(&f->d));
}

static struct virtio_blk_config config_get(struct fixture *f)
{
	struct virtio_blk_config config;

	for (unsigned i = 0; i < sizeof(config); i++)
		((uint8_t *)&config)[i] = (uint8_t)driver_in(&f->d, f->d.config + i, 1);
	return config;
}

/* Requests. */

/* Offer a chain, by descriptors of the queue or an indirect table. Returns its head. */
static uint16_t offer(struct fixture *f, unsigned i, const struct piece *piece, unsigned nout,
                      unsigned n, bool indirect)
{
	struct driver_queue *q = &f->d.queue[i];
	struct virtq_desc *desc = driver_host(&f->d, q->desc, 16 * q->size);
	uint16_t head = q->next % q->size;
	gpa_t at = TABLES + head * 0x2000;

	if (!indirect)
		return driver_offer(&f->d, i, piece, nout, n);
	driver_fill(driver_host(&f->d, at, 0x2000), 0, 512, piece, nout, n);
	desc[head] = (struct virtq_desc){ at, 16 * n, VIRTQ_DESC_F_INDIRECT, 0 };
	return driver_publish(&f->d, i, 1);
}

static gpa_t header_at(struct fixture *f, unsigned i)
{
	return HEADERS + i * 0x10000 + f->d.queue[i].next % f->d.queue[i].size * 32;
}

/* The usual layout: header, data if there are any, status. Returns where the status will be. */
static uint8_t *submit(struct fixture *f, unsigned i, uint32_t type, uint64_t sector, gpa_t data,
                       uint32_t len)
{
	gpa_t at = header_at(f, i);
	struct virtio_blk_req *header = driver_host(&f->d, at, 32);
	bool in = type == IN || type == GET_ID;
	struct piece piece[] = { { at, 16 }, { data, len }, { at + 16, 1 } };

	*header = (struct virtio_blk_req){ type, 0, sector };
	((uint8_t *)header)[16] = NONE;
	if (!len)
		piece[1] = piece[2];
	offer(f, i, piece, len && !in ? 2 : 1, len ? 3 : 2, i == 1);
	return (uint8_t *)header + 16;
}

static struct virtq_used_elem wait_used(struct fixture *f, unsigned i)
{
	driver_kick(&f->d, i);
	return driver_wait(&f->d, i);
}

/* One request from its begin to its end. Returns its status. */
static uint8_t ask(struct fixture *f, uint32_t type, uint64_t sector, gpa_t data, uint32_t len)
{
	const uint8_t *status = submit(f, 0, type, sector, data, len);
	uint32_t in = 1 + (type == IN || type == GET_ID ? len : 0);
	struct virtq_used_elem elem = wait_used(f, 0);

	/* What it wrote is counted as far as it is known. */
	assert_int_equal(elem.len, *status == OK || in == 1 ? in : 0);
	return *status;
}

static uint8_t ask_ranges(struct fixture *f, uint32_t type,
                          const struct virtio_blk_discard_write_zeroes *range, unsigned n)
{
	memcpy(driver_host(&f->d, DATA, n * sizeof(*range)), range, n * sizeof(*range));
	return ask(f, type, 0, DATA, n * sizeof(*range));
}

static uint8_t ask_range(struct fixture *f, uint32_t type, uint64_t sector, uint32_t n,
                         uint32_t flags)
{
	return ask_ranges(f, type, &(struct virtio_blk_discard_write_zeroes){ sector, n, flags },
	                  1);
}

static bool needs_reset(struct fixture *f)
{
	for (int i = 0; i < 100 && !(status_in(&f->d) & S_NEEDS_RESET); i++)
		world_settle(&f->world);
	return status_in(&f->d) & S_NEEDS_RESET;
}

/* What the driver finds. */

static void a_plain_disk(void **state)
{
	struct fixture *f = *state;
	struct virtio_blk_config config;

	plug(f, "a.img");
	assert_int_equal(config_in(&f->d, PCI_VENDOR_ID, 4), 0x10421af4);
	assert_int_equal(config_in(&f->d, PCI_SUBCLASS, 2), 0x0180);
	assert_int_equal(driver_offered(&f->d),
	                 ALWAYS | BIT(VIRTIO_BLK_F_DISCARD) | BIT(VIRTIO_BLK_F_WRITE_ZEROES));
	assert_int_equal(reg_in(&f->d, R_NUM_QUEUES, 2), 1);
	config = config_get(f);
	assert_int_equal(config.capacity, SIZE / SECTOR);
	assert_int_equal(config.seg_max, 254);
	assert_int_equal(config.blk_size, 512);
	assert_int_equal(SECTOR << config.topology.physical_block_exp, f->disk.backing.block);
	assert_int_equal(SECTOR * config.topology.min_io_size, f->disk.backing.block);
	assert_int_equal(config.topology.alignment_offset, 0);
	assert_int_equal(config.topology.opt_io_size, 0);
	assert_int_equal(config.writeback, 1);
	assert_int_equal(config.num_queues, 1);
	assert_true(config.max_discard_sectors && config.max_discard_seg);
	assert_true(config.max_write_zeroes_sectors && config.max_write_zeroes_seg);
	assert_int_equal(config.discard_sector_alignment, f->disk.backing.block / SECTOR);
	assert_int_equal(config.write_zeroes_may_unmap, 1);
}

static void a_readonly_disk(void **state)
{
	struct fixture *f = *state;

	start(state, "a.img,readonly");
	assert_int_equal(driver_offered(&f->d), ALWAYS | BIT(VIRTIO_BLK_F_RO));
	assert_int_equal(ask(f, IN, 1, DATA, SECTOR), OK);
	assert_int_equal(ask(f, OUT, 1, DATA, SECTOR), IOERR);
	assert_int_equal(ask(f, FLUSH, 0, 0, 0), OK);
	assert_int_equal(ask_range(f, DISCARD, 0, 8, 0), UNSUPP);
	assert_int_equal(ask_range(f, WRITE_ZEROES, 0, 8, 0), UNSUPP);
}

static void a_disk_that_keeps_what_is_discarded(void **state)
{
	struct fixture *f = *state;
	struct stat st;
	blkcnt_t blocks;

	start(state, "a.img,discard=off");
	assert_int_equal(driver_offered(&f->d), ALWAYS | BIT(VIRTIO_BLK_F_WRITE_ZEROES));
	assert_int_equal(config_get(f).write_zeroes_may_unmap, 0);
	memset(driver_host(&f->d, DATA, 65536), 1, 65536);
	assert_int_equal(ask(f, OUT, 0, DATA, 65536), OK);
	assert_int_equal(ask(f, FLUSH, 0, 0, 0), OK);
	stat("a.img", &st);
	blocks = st.st_blocks;
	assert_int_equal(ask_range(f, DISCARD, 0, 128, 0), UNSUPP);
	assert_int_equal(ask_range(f, WRITE_ZEROES, 0, 128, UNMAP), OK);
	assert_int_equal(ask(f, FLUSH, 0, 0, 0), OK);
	stat("a.img", &st);
	assert_int_equal(st.st_blocks, blocks);
	assert_int_equal(ask(f, IN, 0, DATA, 65536), OK);
	assert_int_equal(*(uint8_t *)driver_host(&f->d, DATA + 65535, 1), 0);
}

static void its_serial(void **state)
{
	struct fixture *f = *state;
	uint8_t *id;

	start(state, "a.img,serial=12345678901234567890");
	id = driver_host(&f->d, DATA, 32);
	memset(id, NONE, 32);
	assert_int_equal(ask(f, GET_ID, 0, DATA, 20), OK);
	assert_memory_equal(id, "12345678901234567890\xee", 21);
	memset(id, NONE, 32);
	assert_int_equal(ask(f, GET_ID, 0, DATA, 3), OK);
	assert_memory_equal(id, "123\xee", 4);

	/* More room than there is to say: 20 bytes were written. */
	submit(f, 0, GET_ID, 0, DATA, 30);
	assert_int_equal(wait_used(f, 0).len, 20);
	assert_int_equal(id[20], NONE);
}

static void no_serial(void **state)
{
	struct fixture *f = *state;
	uint8_t zeroes[20] = { 0 };

	start(state, "a.img");
	memset(driver_host(&f->d, DATA, 20), NONE, 20);
	assert_int_equal(ask(f, GET_ID, 0, DATA, 20), OK);
	assert_memory_equal(driver_host(&f->d, DATA, 20), zeroes, 20);
}

/* Layouts. */

/* Cut @len bytes at @gpa into at most @max pieces, a random length each. */
static unsigned cut(struct fixture *f, struct piece *piece, gpa_t gpa, uint32_t len, unsigned max)
{
	unsigned n = 0;

	while (len) {
		uint32_t part = n + 1 == max ? len : 1 + below(&f->seed, len);

		piece[n++] = (struct piece){ gpa, part };
		gpa += part;
		len -= part;
	}
	return n;
}

/* Headers, data and statuses in pieces that may begin and end anywhere, against a copy. */
static void random_layouts(void **state, const char *text)
{
	struct fixture *f = *state;
	uint8_t *copy = calloc(1, SIZE);

	start(state, text);
	for (int round = 0; round < 2000; round++) {
		bool in = below(&f->seed, 2);
		uint32_t len = SECTOR * (1 + below(&f->seed, below(&f->seed, 4) ? 8 : 256));
		uint64_t sector = below(&f->seed, (SIZE - len) / SECTOR + 1);
		gpa_t at = DATA + below(&f->seed, 4096);
		uint8_t *host = driver_host(&f->d, at, 16 + len + 1);
		struct virtio_blk_req header = { in ? IN : OUT, below(&f->seed, 1000), sector };
		uint8_t *data = host + 16, *status = data + len;
		struct virtq_used_elem elem;
		struct piece piece[256];
		unsigned nout, n;
		uint16_t head;

		/* One behind the other in memory, so a piece may hold the end of one of them and
		 * the beginning of the next. */
		memcpy(host, &header, 16);
		*status = NONE;
		for (uint32_t i = 0; i < len; i++)
			data[i] = in ? NONE : (uint8_t)below(&f->seed, 256);
		if (in) {
			nout = cut(f, piece, at, 16, 1 + below(&f->seed, 16));
			n = nout + cut(f, piece + nout, at + 16, len + 1, 1 + below(&f->seed, 200));
		} else {
			nout = cut(f, piece, at, 16 + len, 1 + below(&f->seed, 200));
			n = nout + cut(f, piece + nout, at + 16 + len, 1, 1);
			memcpy(copy + sector * SECTOR, data, len);
		}
		head = offer(f, 0, piece, nout, n, below(&f->seed, 2));
		elem = wait_used(f, 0);
		assert_int_equal(elem.id, head);
		assert_int_equal(elem.len, in ? len + 1 : 1);
		assert_int_equal(*status, OK);
		if (in)
			assert_memory_equal(data, copy + sector * SECTOR, len);
	}
	for (uint32_t at = 0; at < SIZE; at += 0x100000) {
		assert_int_equal(ask(f, IN, at / SECTOR, DATA, 0x100000), OK);
		assert_memory_equal(driver_host(&f->d, DATA, 0x100000), copy + at, 0x100000);
	}
	free(copy);
}

static void any_layout(void **state)
{
	random_layouts(state, "a.img");
}

static void any_layout_direct(void **state)
{
	int fd = open("a.img", O_RDONLY | O_DIRECT);

	close(fd);
	random_layouts(state, fd < 0 ? "a.img" : "a.img,direct");
}

static void the_longest_chains(void **state)
{
	struct fixture *f = *state;
	struct piece piece[256];
	gpa_t at;

	start(state, "a.img");
	at = header_at(f, 0);
	*(struct virtio_blk_req *)driver_host(&f->d, at, 16) = (struct virtio_blk_req){ OUT, 0, 3 };
	memset(driver_host(&f->d, DATA, 254 * SECTOR), 0x5a, 254 * SECTOR);
	piece[0] = (struct piece){ at, 16 };
	for (unsigned i = 1; i < 255; i++)
		piece[i] = (struct piece){ DATA + (254 - i) * SECTOR, SECTOR };
	piece[255] = (struct piece){ at + 16, 1 };
	for (int indirect = 0; indirect < 2; indirect++) {
		offer(f, 0, piece, 255, 256, indirect);
		assert_int_equal(wait_used(f, 0).len, 1);
		assert_int_equal(*(uint8_t *)driver_host(&f->d, at + 16, 1), OK);
	}
	assert_int_equal(ask(f, IN, 3, DATA + 0x100000, 254 * SECTOR), OK);
	assert_memory_equal(driver_host(&f->d, DATA, 254 * SECTOR),
	                    driver_host(&f->d, DATA + 0x100000, 254 * SECTOR), 254 * SECTOR);
}

/* What asks in a way that is not allowed. */

static void ranges_that_are_not_on_the_disk(void **state)
{
	static const struct {
		uint64_t sector;
		uint32_t len;
		uint8_t status;
	} requests[] = {
		{ 0, SECTOR, OK },
		{ SIZE / SECTOR - 1, SECTOR, OK },
		{ SIZE / SECTOR - 1, 2 * SECTOR, IOERR },
		{ SIZE / SECTOR, SECTOR, IOERR },
		{ SIZE / SECTOR, 0, OK },
		{ SIZE / SECTOR + 1, 0, IOERR },
		{ UINT64_MAX, SECTOR, IOERR },
		{ UINT64_MAX / SECTOR, SECTOR, IOERR },
		{ UINT64_MAX / SECTOR + 1, SECTOR, IOERR },
		{ 0, SIZE, OK },
		{ 0, SIZE + SECTOR, IOERR },
		{ 0, 1, IOERR },
		{ 0, SECTOR - 1, IOERR },
		{ 0, SECTOR + 1, IOERR },
	};
	struct fixture *f = *state;
	struct stat st;

	start(state, "a.img");
	for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
		assert_int_equal(ask(f, IN, requests[i].sector, DATA, requests[i].len),
		                 requests[i].status);
		assert_int_equal(ask(f, OUT, requests[i].sector, DATA, requests[i].len),
		                 requests[i].status);
	}
	stat("a.img", &st);
	assert_int_equal(st.st_size, SIZE);
}

static void types_that_are_not_known(void **state)
{
	struct fixture *f = *state;

	start(state, "a.img");
	assert_int_equal(ask(f, 2, 0, DATA, SECTOR), UNSUPP);
	assert_int_equal(ask(f, 14, 0, DATA, SECTOR), UNSUPP);
	assert_int_equal(ask(f, 16, 0, 0, 0), UNSUPP);
	assert_int_equal(ask(f, 0x80000000 | OUT, 0, DATA, SECTOR), UNSUPP);
	assert_int_equal(ask(f, UINT32_MAX, 0, 0, 0), UNSUPP);
}

static void features_that_were_not_negotiated(void **state)
{
	struct fixture *f = *state;

	plug(f, "a.img");
	bring_up(f, TRANSPORT);
	assert_int_equal(ask_range(f, DISCARD, 0, 8, 0), UNSUPP);
	assert_int_equal(ask_range(f, WRITE_ZEROES, 0, 8, 0), UNSUPP);
	assert_int_equal(ask(f, OUT, 0, DATA, SECTOR), OK);
}

/* No room for a header or a status: nothing can be said in the request itself. */
static void chains_that_are_no_requests(void **state)
{
	static const struct {
		uint32_t out, in;
	} chains[] = { { 16, 0 }, { 0, 1 }, { 15, 1 }, { 15, 513 }, { 528, 0 }, { 0, 4096 } };
	struct fixture *f = *state;

	plug(f, "a.img");
	for (size_t i = 0; i < sizeof(chains) / sizeof(chains[0]); i++) {
		struct piece piece[] = { { DATA, chains[i].out }, { DATA + 4096, chains[i].in } };

		bring_up(f, driver_offered(&f->d));
		assert_int_equal(ask(f, IN, 0, DATA, SECTOR), OK);
		if (!chains[i].out)
			piece[0] = piece[1];
		offer(f, 0, piece, chains[i].out != 0, 1 + (chains[i].out && chains[i].in), false);
		submit(f, 0, IN, 0, DATA, SECTOR); /* is not looked at any more */
		driver_kick(&f->d, 0);
		assert_true(needs_reset(f));
		driver_reset(&f->d);
	}
}

static void rings_that_are_none(void **state)
{
	struct fixture *f = *state;
	struct piece piece = { MEMORY, 16 };

	start(state, "a.img");
	offer(f, 0, &piece, 1, 1, false);
	driver_kick(&f->d, 0);
	assert_true(needs_reset(f));
	driver_reset(&f->d);
	bring_up(f, driver_offered(&f->d));
	assert_int_equal(ask(f, IN, 0, DATA, SECTOR), OK);
}

/* Discarding and zeroing. */

static bool is_all(struct fixture *f, uint64_t sector, uint32_t n, uint8_t byte)
{
	const uint8_t *bytes = driver_host(&f->d, DATA + 0x100000, n * SECTOR);

	assert_int_equal(ask(f, IN, sector, DATA + 0x100000, n * SECTOR), OK);
	for (uint32_t i = 0; i < n * SECTOR; i++)
		if (bytes[i] != byte)
			return false;
	return true;
}

static void fill(struct fixture *f)
{
	memset(driver_host(&f->d, DATA, SIZE), 0x77, SIZE);
	assert_int_equal(ask(f, OUT, 0, DATA, SIZE), OK);
}

static void discarded_space_goes_back(void **state)
{
	static const struct virtio_blk_discard_write_zeroes ranges[] = { { 0, 1024, 0 },
		                                                         { 2048, 8, 0 },
		                                                         { 4096, 1024, 0 } };
	struct fixture *f = *state;
	struct stat before, after;

	start(state, "a.img");
	fill(f);
	assert_int_equal(ask(f, FLUSH, 0, 0, 0), OK);
	stat("a.img", &before);
	assert_int_equal(ask_ranges(f, DISCARD, ranges, 3), OK);
	stat("a.img", &after);
	assert_true(after.st_blocks <= before.st_blocks - 2048);
	assert_int_equal(after.st_size, SIZE);
	assert_true(is_all(f, 0, 1024, 0));
	assert_true(is_all(f, 1024, 1024, 0x77));
	assert_true(is_all(f, 2048, 8, 0));
	assert_true(is_all(f, 2056, 4096 - 2056, 0x77));
	assert_true(is_all(f, 4096, 1024, 0));
	assert_true(is_all(f, 5120, 1024, 0x77));
}

static void zeroed_with_and_without_unmap(void **state)
{
	static const struct virtio_blk_discard_write_zeroes ranges[] = { { 7, 1500, 0 },
		                                                         { 3000, 3000, UNMAP } };
	struct fixture *f = *state;
	struct stat before, after;

	start(state, "a.img");
	fill(f);
	assert_int_equal(ask(f, FLUSH, 0, 0, 0), OK);
	stat("a.img", &before);
	assert_int_equal(ask_ranges(f, WRITE_ZEROES, ranges, 1), OK);
	stat("a.img", &after);
	assert_int_equal(after.st_blocks, before.st_blocks);
	assert_int_equal(ask_ranges(f, WRITE_ZEROES, ranges + 1, 1), OK);
	stat("a.img", &after);
	assert_true(after.st_blocks < before.st_blocks);
	assert_true(is_all(f, 0, 7, 0x77));
	assert_true(is_all(f, 7, 1500, 0));
	assert_true(is_all(f, 1507, 3000 - 1507, 0x77));
	assert_true(is_all(f, 3000, 3000, 0));
	assert_true(is_all(f, 6000, SIZE / SECTOR - 6000, 0x77));
}

static void ranges_that_are_refused(void **state)
{
	struct virtio_blk_discard_write_zeroes many[20];
	struct fixture *f = *state;

	start(state, "a.img");
	fill(f);
	for (int i = 0; i < 20; i++)
		many[i] = (struct virtio_blk_discard_write_zeroes){ 8 * i, 8, 0 };
	assert_int_equal(ask_ranges(f, DISCARD, many, 17), IOERR);
	assert_int_equal(ask_ranges(f, WRITE_ZEROES, many, 17), IOERR);
	assert_int_equal(ask(f, DISCARD, 0, 0, 0), IOERR);
	assert_int_equal(ask(f, WRITE_ZEROES, 0, DATA, 15), IOERR);
	assert_int_equal(ask(f, DISCARD, 0, DATA, 17), IOERR);
	assert_int_equal(ask_range(f, DISCARD, 0, 8, UNMAP), UNSUPP);
	assert_int_equal(ask_range(f, DISCARD, 0, 8, 2), UNSUPP);
	assert_int_equal(ask_range(f, WRITE_ZEROES, 0, 8, 2), UNSUPP);
	assert_int_equal(ask_range(f, WRITE_ZEROES, 0, 8, 0x80000001), UNSUPP);
	assert_int_equal(ask_range(f, DISCARD, SIZE / SECTOR - 7, 8, 0), IOERR);
	assert_int_equal(ask_range(f, WRITE_ZEROES, SIZE / SECTOR, 1, 0), IOERR);
	assert_int_equal(ask_range(f, WRITE_ZEROES, UINT64_MAX, 8, 0), IOERR);
	assert_int_equal(ask_range(f, WRITE_ZEROES, 0, UINT32_MAX, 0), IOERR);
	assert_int_equal(ask_range(f, DISCARD, 0, 0, 0), IOERR);
	assert_true(is_all(f, 0, SIZE / SECTOR, 0x77));

	/* Those before the bad one are done. */
	many[2].sector = SIZE;
	assert_int_equal(ask_ranges(f, DISCARD, many, 16), IOERR);
	assert_true(is_all(f, 0, 16, 0));
	assert_true(is_all(f, 16, 512, 0x77));
	many[2].sector = 16;
	assert_int_equal(ask_ranges(f, WRITE_ZEROES, many, 16), OK);
	assert_true(is_all(f, 0, 128, 0));
}

/* The write cache. */

/* Pages of the image that are not on its disk yet, or -1 (cachestat(2) is new in Linux 6.5). */
static int64_t dirty_pages(const struct fixture *f)
{
	uint64_t range[2] = { 0 };
	uint64_t stat[5];

	return syscall(451, f->disk.backing.fd, range, stat, 0) ? -1 : (int64_t)(stat[1] + stat[2]);
}

#define WRITEBACK offsetof(struct virtio_blk_config, writeback)

static void the_write_cache_is_the_drivers_to_switch(void **state)
{
	struct fixture *f = *state;

	start(state, "a.img");
	assert_int_equal(ask(f, OUT, 0, DATA, 4096), OK);
	if (dirty_pages(f) < 0)
		skip();
	assert_int_equal(dirty_pages(f), 1);
	assert_int_equal(ask(f, FLUSH, 0, 0, 0), OK);
	assert_int_equal(dirty_pages(f), 0);

	driver_out(&f->d, f->d.config + WRITEBACK, 1, 0);
	assert_int_equal(ask(f, OUT, 0, DATA, 4096), OK);
	assert_int_equal(dirty_pages(f), 0);
	assert_int_equal(ask_range(f, WRITE_ZEROES, 1, 3, 0), OK);
	assert_int_equal(dirty_pages(f), 0);

	driver_out(&f->d, f->d.config + WRITEBACK, 1, 1);
	assert_int_equal(ask(f, OUT, 0, DATA, 4096), OK);
	assert_int_equal(dirty_pages(f), 1);

	/* Nothing else of the configuration is the driver's. */
	for (unsigned i = 0; i < sizeof(struct virtio_blk_config); i++)
		if (i != WRITEBACK)
			driver_out(&f->d, f->d.config + i, 1, 0xa5);
	assert_int_equal(config_get(f).capacity, SIZE / SECTOR);
	assert_int_equal(config_get(f).seg_max, 254);
}

static void sync_leaves_no_choice(void **state)
{
	struct fixture *f = *state;

	start(state, "a.img,sync");
	assert_int_equal(config_get(f).writeback, 0);
	driver_out(&f->d, f->d.config + WRITEBACK, 1, 1);
	assert_int_equal(config_get(f).writeback, 0);
	assert_int_equal(ask(f, OUT, 0, DATA, 4096), OK);
	if (dirty_pages(f) < 0)
		skip();
	assert_int_equal(dirty_pages(f), 0);
}

static void a_driver_without_flush_has_no_write_cache(void **state)
{
	struct fixture *f = *state;

	plug(f, "a.img");
	bring_up(f, TRANSPORT);
	assert_int_equal(ask(f, OUT, 0, DATA, 4096), OK);
	if (dirty_pages(f) < 0)
		skip();
	assert_int_equal(dirty_pages(f), 0);
}

/* What the disk refuses. */

static void a_full_disk(void **state)
{
	struct fixture *f = *state;

	start(state, "a.img");
	disk_becomes(&f->disk, open("/dev/full", O_RDWR | O_CLOEXEC));
	memset(driver_host(&f->d, DATA, SECTOR), 1, SECTOR);
	assert_int_equal(ask(f, OUT, 0, DATA, SECTOR), IOERR);
	assert_int_equal(ask(f, OUT, 8, DATA, 65536), IOERR);
	assert_int_equal(ask(f, FLUSH, 0, 0, 0), IOERR);
	assert_int_equal(ask(f, IN, 0, DATA, SECTOR), OK);
	assert_int_equal(*(uint8_t *)driver_host(&f->d, DATA, 1), 0);
	assert_false(status_in(&f->d) & S_NEEDS_RESET);
}

/* A file of zeroes as long as the address space, that is not there where the disk is. */
static void bad_sectors(void **state)
{
	struct fixture *f = *state;

	start(state, "a.img");
	disk_becomes(&f->disk, open("/proc/self/mem", O_RDWR | O_CLOEXEC));
	memset(driver_host(&f->d, DATA, SECTOR), 1, SECTOR);
	assert_int_equal(ask(f, IN, 0, DATA, SECTOR), IOERR);
	assert_int_equal(ask(f, OUT, 0, DATA, SECTOR), IOERR);
	assert_int_equal(ask_range(f, DISCARD, 0, 8, 0), UNSUPP);
	assert_int_equal(ask_range(f, WRITE_ZEROES, 0, 8, UNMAP), IOERR);
	assert_false(status_in(&f->d) & S_NEEDS_RESET);
}

static void a_new_size_reaches_the_driver(void **state)
{
	struct fixture *f = *state;
	uint8_t generation;

	start(state, "a.img");
	assert_int_equal(ask(f, IN, SIZE / SECTOR, DATA, SECTOR), IOERR);
	generation = (uint8_t)reg_in(&f->d, R_GENERATION, 1);
	assert_int_equal(truncate("a.img", 2 * SIZE), 0);
	while (config_get(f).capacity == SIZE / SECTOR)
		ring_step(&f->world.ring);
	assert_int_equal(config_get(f).capacity, 2 * SIZE / SECTOR);
	assert_int_not_equal(reg_in(&f->d, R_GENERATION, 1), generation);
	world_settle(&f->world);
	assert_int_equal(fake_kvm_take_msi(MSI + 1), 1);
	assert_int_equal(ask(f, IN, SIZE / SECTOR, DATA, SECTOR), OK);
}

/* Many at a time. */

static void a_batch_in_and_out(void **state)
{
	struct fixture *f = *state;
	struct ring *ring = &f->world.ring;
	uint8_t *status[32];
	struct virtq_used_elem elem;
	uint64_t enters, sqes, bytes;

	start(state, "a.img");
	fill(f);
	world_settle(&f->world);
	fake_kvm_take_msi(MSI);
	enters = ring->enters;
	sqes = ring->sqes;
	bytes = f->blk.queue[0].bytes_read;
	for (unsigned i = 0; i < 32; i++)
		status[i] = submit(f, 0, IN, 8 * i, DATA + 4096 * i, 4096);
	driver_kick(&f->d, 0);
	for (unsigned i = 0; i < 32; i++) {
		while (!driver_used(&f->d, 0, &elem))
			ring_step(ring);
		assert_int_equal(elem.len, 4097);
	}
	for (unsigned i = 0; i < 32; i++)
		assert_int_equal(*status[i], OK);
	/* The kick is read, all requests leave at once and come back at once or nearly so. */
	assert_true(ring->enters - enters <= 4);
	assert_true(ring->sqes - sqes <= 32 + 4);
	assert_int_equal(f->blk.queue[0].bytes_read, bytes + 32 * 4096);
	world_settle(&f->world);
	assert_true(fake_kvm_take_msi(MSI) <= 3);
}

/* A call that waits for the kick, and one that reads and interrupts. */
static void one_request_takes_two_calls(void **state)
{
	struct fixture *f = *state;
	struct ring *ring = &f->world.ring;
	const struct vdev_queue *queue;

	plug(f, "a.img");
	bring_up(f,
	         driver_offered(&f->d) & ~BIT(VIRTIO_F_EVENT_IDX)); /* it is always interrupted */
	queue = &f->blk.vdev.queue[0];
	for (unsigned i = 0; i < 3; i++) {
		uint64_t enters, sqes;

		world_settle(&f->world);
		enters = ring->enters;
		sqes = ring->sqes;
		assert_int_equal(ask(f, IN, 0, DATA, 4096), OK);
		assert_int_equal(ring->enters, enters + 2);
		/* The read, and where the kernel can do that the interrupt. */
		assert_int_equal(ring->sqes, sqes + 1 + ring->silent + !ring->multishot);
		world_settle(&f->world);
		assert_int_equal(fake_kvm_take_msi(MSI), 1);
		assert_int_equal(queue->kicks, i + 1);
		assert_int_equal(queue->requests, i + 1);
	}
	assert_int_equal(f->blk.vdev.interrupts, 3);
}

/*
 * While a queue is served the driver need not kick. The device can tell what stands there then: it
 * is told to read the sector whose number that is.
 */
static void kicks_are_off_while_it_works(void **state)
{
	struct fixture *f = *state;
	struct driver_queue *q = &f->d.queue[0];
	const struct virtq_used *used;
	uint8_t *data;
	struct piece piece[5];
	gpa_t at;

	plug(f, "a.img");
	bring_up(f, driver_offered(&f->d) & ~BIT(VIRTIO_F_EVENT_IDX));
	used = driver_host(&f->d, q->used, 6);
	data = driver_host(&f->d, DATA, SECTOR);
	for (unsigned sector = 0; sector < 2; sector++) {
		memset(data, 0x10 + (int)sector, SECTOR);
		assert_int_equal(ask(f, OUT, sector, DATA, SECTOR), OK);
	}
	at = header_at(f, 0);
	*(struct virtio_blk_req *)driver_host(&f->d, at, 32) = (struct virtio_blk_req){ IN, 0, 0 };
	piece[0] = (struct piece){ at, 8 };
	piece[1] = (struct piece){ q->used + offsetof(struct virtq_used, flags), 2 };
	piece[2] = (struct piece){ at + 10, 6 };
	piece[3] = (struct piece){ DATA, SECTOR };
	piece[4] = (struct piece){ at + 16, 1 };
	assert_int_equal(used->flags, 0);
	offer(f, 0, piece, 3, 5, false);
	wait_used(f, 0);
	assert_int_equal(data[0], 0x10 + VIRTQ_USED_F_NO_NOTIFY);
	assert_int_equal(used->flags, 0);
}

static void queues_side_by_side(void **state)
{
	struct fixture *f = *state;
	uint8_t *status[4];

	start(state, "a.img,queues=4");
	assert_int_equal(config_get(f).num_queues, 4);
	assert_int_equal(reg_in(&f->d, R_NUM_QUEUES, 2), 4);
	for (unsigned i = 0; i < 4; i++) {
		memset(driver_host(&f->d, DATA + i * 0x10000, 0x10000), (int)i + 1, 0x10000);
		status[i] = submit(f, i, OUT, i * 128, DATA + i * 0x10000, (i + 1) * 4096);
	}
	for (unsigned i = 0; i < 4; i++)
		driver_kick(&f->d, i);
	for (unsigned i = 0; i < 4; i++) {
		wait_used(f, i);
		assert_int_equal(*status[i], OK);
		assert_int_equal(f->blk.queue[i].bytes_written, (i + 1) * 4096);
		assert_int_equal(f->blk.queue[i].bytes_read, 0);
		assert_int_equal(f->blk.vdev.queue[i].requests, 1);
	}
	for (unsigned i = 0; i < 4; i++)
		assert_true(is_all(f, i * 128, (i + 1) * 8, (uint8_t)(i + 1)));
	world_settle(&f->world);
	for (unsigned i = 0; i < 4; i++)
		assert_true(fake_kvm_take_msi(MSI + i) >= 1);
}

/* Resets. */

/* Requests that do not end by themselves, all over the queues; the pipe's other end. */
static int hang(struct fixture *f, unsigned n)
{
	int fds[2];

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	disk_becomes(&f->disk, fds[0]);
	for (unsigned i = 0; i < n; i++)
		submit(f, i % f->config.queues, i % 3 ? IN : OUT, 8 * i, DATA + 4096 * i, 4096);
	for (unsigned i = 0; i < f->config.queues; i++)
		driver_kick(&f->d, i);
	world_settle(&f->world);
	assert_true(f->blk.vdev.queue[0].virtq.in_flight > 0);
	return fds[1];
}

static void reset_with_requests_in_flight(void **state)
{
	struct fixture *f = *state;
	uint8_t *before = malloc(MEMORY);

	start(state, "a.img,queues=2");
	for (int round = 0; round < 20; round++) {
		int pipe = hang(f, 60);

		driver_reset(&f->d);
		assert_int_equal(f->disk.running, 0);
		memcpy(before, driver_host(&f->d, 0, MEMORY), MEMORY);
		disk_becomes(&f->disk, open("a.img", O_RDWR | O_CLOEXEC));
		close(pipe);
		world_settle(&f->world);
		assert_memory_equal(before, driver_host(&f->d, 0, MEMORY), MEMORY);
		bring_up(f, driver_offered(&f->d));
		assert_int_equal(ask(f, IN, 0, DATA, SECTOR), OK);
	}
	free(before);
}

static void one_queue_is_reset(void **state)
{
	struct fixture *f = *state;
	struct virtq_used_elem elem;
	int pipe;

	start(state, "a.img,queues=2");
	pipe = hang(f, 60);
	reg_out(&f->d, R_QUEUE_SELECT, 2, 0);
	reg_out(&f->d, R_QUEUE_RESET, 2, 1);
	while (reg_in(&f->d, R_QUEUE_RESET, 2))
		ring_step(&f->world.ring);
	assert_int_equal(f->blk.vdev.queue[0].virtq.in_flight, 0);
	assert_true(f->blk.vdev.queue[1].virtq.in_flight > 0);

	/* The other one goes on. */
	while (driver_used(&f->d, 1, &elem))
		;
	assert_int_equal(write(pipe, driver_host(&f->d, DATA, 4096), 4096), 4096);
	while (!driver_used(&f->d, 1, &elem))
		ring_step(&f->world.ring);
	assert_int_equal(elem.len, 4097);
	close(pipe);
}

/* A discard of many ranges ends after the one it is at. */
static void reset_between_ranges(void **state)
{
	struct virtio_blk_discard_write_zeroes many[16];
	struct fixture *f = *state;

	start(state, "a.img");
	fill(f);
	for (int round = 0; round < 50; round++) {
		for (int i = 0; i < 16; i++)
			many[i] = (struct virtio_blk_discard_write_zeroes){ 64 * i, 64, 0 };
		memcpy(driver_host(&f->d, DATA, sizeof(many)), many, sizeof(many));
		submit(f, 0, round % 2 ? DISCARD : WRITE_ZEROES, 0, DATA, sizeof(many));
		driver_kick(&f->d, 0);
		for (int i = 0; i < round % 7; i++)
			ring_step(&f->world.ring);
		driver_reset(&f->d);
		assert_int_equal(f->disk.running, 0);
		bring_up(f, driver_offered(&f->d));
	}
	assert_int_equal(ask(f, IN, 0, DATA, SECTOR), OK);
}

static void the_machine_ends_with_requests_in_flight(void **state)
{
	struct fixture *f = *state;
	int pipe;

	start(state, "a.img,queues=2");
	pipe = hang(f, 60);
	blk_fini(&f->blk);
	close(pipe);

	/* And the next one finds the same disk. */
	memset(&f->blk, 0, sizeof(f->blk));
	disk_becomes(&f->disk, open("a.img", O_RDWR | O_CLOEXEC));
	pci_fini(&f->world.pci);
	world_fini(&f->world);
	disk_fini(&f->disk);
	world_init(&f->world, MEMORY);
	start(state, "a.img");
	assert_int_equal(ask(f, IN, 0, DATA, SECTOR), OK);
}

/* What cannot be plugged in holds nothing, and is left alone when all is given back. */
static void no_slot_for_it(void **state)
{
	static struct pci_device other[PCI_SLOTS];
	struct fixture *f = *state;
	char why[BACKING_WHY_MAX];

	for (unsigned i = 0; i < PCI_SLOTS; i++)
		if (pci_add(&f->world.pci, &other[i]) < 0)
			break;
	assert_int_equal(backing_parse(&f->config, "a.img,queues=16", why), 0);
	assert_int_equal(disk_init(&f->disk, &f->world.ring, &f->config, why), 0);
	assert_int_equal(blk_init(&f->blk, 0, &f->disk, &f->world.vdev), -ENOSPC);
	assert_null(f->disk.resized);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_plain_disk),
		TEST(a_readonly_disk),
		TEST(a_disk_that_keeps_what_is_discarded),
		TEST(its_serial),
		TEST(no_serial),
		TEST(any_layout),
		TEST(any_layout_direct),
		TEST(the_longest_chains),
		TEST(ranges_that_are_not_on_the_disk),
		TEST(types_that_are_not_known),
		TEST(features_that_were_not_negotiated),
		TEST(chains_that_are_no_requests),
		TEST(rings_that_are_none),
		TEST(discarded_space_goes_back),
		TEST(zeroed_with_and_without_unmap),
		TEST(ranges_that_are_refused),
		TEST(the_write_cache_is_the_drivers_to_switch),
		TEST(sync_leaves_no_choice),
		TEST(a_driver_without_flush_has_no_write_cache),
		TEST(a_full_disk),
		TEST(bad_sectors),
		TEST(a_new_size_reaches_the_driver),
		TEST(a_batch_in_and_out),
		TEST(one_request_takes_two_calls),
		TEST(kicks_are_off_while_it_works),
		TEST(queues_side_by_side),
		TEST(reset_with_requests_in_flight),
		TEST(one_queue_is_reset),
		TEST(reset_between_ranges),
		TEST(the_machine_ends_with_requests_in_flight),
		TEST(no_slot_for_it),
	};

	alarm(200);
	return cmocka_run_group_tests_name("virtio/blk", tests, NULL, NULL);
}
