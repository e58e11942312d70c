/*
 * Disks: what is written is read, whatever the pieces and the alignment; short transfers, errors,
 * what hosts cannot do, cancellation, durability, sizes that change.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "io/disk.h"
#include "tests/disk.h"
#include "tests/random.h"

#define SECTOR BACKING_SECTOR
#define SIZE   (1u << 20)

struct fixture {
	char dir[sizeof(IMAGE_DIR)];
	struct ring ring;
	struct backing_config config;
	struct disk disk;
	uint64_t seed;
};

/* An operation and how often it was done. */
struct op {
	struct disk_op op;
	int n;
	int res;
};

static void record(struct disk_op *op, int res)
{
	struct op *o = container_of(op, struct op, op);

	o->n++;
	o->res = res;
}

static struct op op_new(void)
{
	return (struct op){ .op.done = record };
}

static int wait_for(struct fixture *f, const struct op *o)
{
	assert_int_equal(o->n, 0); /* never inside the call that starts it */
	while (!o->n)
		ring_step(&f->ring);
	assert_int_equal(o->n, 1);
	return o->res;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	*state = f;
	f->seed = 1;
	if (image_make(f->dir, SIZE))
		return -1;
	return ring_init(&f->ring, 64);
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	int err = image_remove(f->dir);

	free(f);
	return err;
}

/* Returns backing_open()'s error, which is -EINVAL where there is no direct I/O. */
static int disk_open(struct fixture *f, const char *text)
{
	char why[BACKING_WHY_MAX];

	assert_int_equal(backing_parse(&f->config, text, why), 0);
	return disk_init(&f->disk, &f->ring, &f->config, why);
}

static void disk_close(struct fixture *f)
{
	assert_int_equal(f->disk.running, 0);
	assert_null(f->disk.waiting);
	ring_fini(&f->ring);
	disk_fini(&f->disk);
}

static int read_one(struct fixture *f, void *buf, uint64_t offset, size_t len)
{
	struct iovec iov = { buf, len };
	struct op o = op_new();

	disk_read(&f->disk, &o.op, &iov, 1, offset, len);
	return wait_for(f, &o);
}

static int write_one(struct fixture *f, const void *buf, uint64_t offset, size_t len, bool durable)
{
	struct iovec iov = { (void *)buf, len };
	struct op o = op_new();

	disk_write(&f->disk, &o.op, &iov, 1, offset, len, durable);
	return wait_for(f, &o);
}

static int zero_one(struct fixture *f, uint64_t offset, size_t len, bool unmap, bool durable)
{
	struct op o = op_new();

	disk_zero(&f->disk, &o.op, offset, len, unmap, durable);
	return wait_for(f, &o);
}

/*
 * Eight operations at a time, each on sectors of its own; but the first and the last of these may
 * share a block with those of a neighbour.
 */

#define SLOTS      8
#define SLOT_LEN   (SIZE / SLOTS)
#define PIECES_MAX 40

struct slot {
	struct op o;
	struct iovec iov[PIECES_MAX];
	uint8_t *memory; /* SLOT_LEN bytes, and some for odd addresses */
	uint8_t *data;
	uint32_t offset;
	uint32_t len;
	bool reads;
};

struct model {
	struct fixture *f;
	uint8_t *bytes; /* that the disk must hold */
	struct slot slot[SLOTS];
};

/* Cut the slot's data into pieces, each a multiple of @unit; returns how many. */
static unsigned cut(struct fixture *f, struct slot *slot, uint32_t unit)
{
	unsigned n = 0;

	for (uint32_t at = 0; at < slot->len; n++) {
		uint32_t rest = slot->len - at;
		uint32_t len = unit * (1 + below(&f->seed, 8192 / unit));

		if (len > rest || n == PIECES_MAX - 1 || !below(&f->seed, 4))
			len = rest;
		slot->iov[n] = (struct iovec){ slot->data + at, len };
		at += len;
	}
	return n;
}

static void slot_start(struct model *m, struct slot *slot, uint32_t first)
{
	struct fixture *f = m->f;
	struct disk *disk = &f->disk;
	uint32_t unit = below(&f->seed, 3) ? SECTOR : 1;
	uint32_t room = first + SLOT_LEN <= SIZE ? SLOT_LEN : SIZE - first;
	uint8_t *expected;

	slot->o = op_new();
	slot->data = slot->memory + (below(&f->seed, 3) ? 0 : below(&f->seed, SECTOR));
	slot->len = SECTOR * (1 + below(&f->seed, below(&f->seed, 2) ? 16 : room / SECTOR));
	if (slot->len > room)
		slot->len = room;
	slot->offset = first + SECTOR * below(&f->seed, (room - slot->len) / SECTOR + 1);
	slot->reads = false;
	expected = m->bytes + slot->offset;
	switch (below(&f->seed, 8)) {
	case 0:
	case 1:
	case 2:
		for (uint32_t i = 0; i < slot->len; i++)
			slot->data[i] = expected[i] = (uint8_t)below(&f->seed, 256);
		disk_write(disk, &slot->o.op, slot->iov, cut(f, slot, unit), slot->offset,
		           slot->len, !below(&f->seed, 10));
		break;
	case 3:
		memset(expected, 0, slot->len);
		disk_zero(disk, &slot->o.op, slot->offset, slot->len, below(&f->seed, 2),
		          !below(&f->seed, 10));
		break;
	case 4:
		memset(expected, 0, slot->len);
		disk_discard(disk, &slot->o.op, slot->offset, slot->len);
		break;
	case 5:
		disk_flush(disk, &slot->o.op);
		break;
	default:
		slot->reads = true;
		memset(slot->memory, 0xee, SLOT_LEN + SECTOR);
		disk_read(disk, &slot->o.op, slot->iov, cut(f, slot, unit), slot->offset,
		          slot->len);
	}
}

static void slot_check(const struct model *m, const struct slot *slot)
{
	assert_int_equal(slot->o.n, 1);
	assert_int_equal(slot->o.res, 0);
	if (!slot->reads)
		return;
	assert_memory_equal(slot->data, m->bytes + slot->offset, slot->len);
	for (const uint8_t *p = slot->memory; p < slot->data; p++)
		assert_int_equal(*p, 0xee);
	assert_int_equal(slot->data[slot->len], 0xee);
}

static void rounds(struct fixture *f, int n)
{
	struct model m = { .f = f, .bytes = calloc(1, SIZE) };

	for (unsigned i = 0; i < SLOTS; i++)
		m.slot[i].memory = aligned_alloc(4096, SLOT_LEN + 4096);
	while (n--) {
		uint32_t shift = SECTOR * below(&f->seed, SIZE / SECTOR);
		bool busy = true;

		for (unsigned i = 0; i < SLOTS; i++)
			slot_start(&m, &m.slot[i], (shift + i * SLOT_LEN) % SIZE);
		while (busy) {
			ring_step(&f->ring);
			busy = false;
			for (unsigned i = 0; i < SLOTS; i++)
				busy |= !m.slot[i].o.n;
		}
		for (unsigned i = 0; i < SLOTS; i++)
			slot_check(&m, &m.slot[i]);
	}
	m.slot[0].data = m.slot[0].memory;
	for (uint32_t at = 0; at < SIZE; at += SLOT_LEN) {
		assert_int_equal(read_one(f, m.slot[0].memory, at, SLOT_LEN), 0);
		assert_memory_equal(m.slot[0].memory, m.bytes + at, SLOT_LEN);
	}
	for (unsigned i = 0; i < SLOTS; i++)
		free(m.slot[i].memory);
	free(m.bytes);
}

static void any_pieces(void **state)
{
	assert_int_equal(disk_open(*state, "a.img"), 0);
	rounds(*state, 300);
	disk_close(*state);
}

static void any_pieces_direct(void **state)
{
	if (disk_open(*state, "a.img,direct"))
		skip();
	rounds(*state, 300);
	disk_close(*state);
}

/* The ring may poll while a device works, not while a thread of the kernel copies. */
static void who_moves_it(void **state)
{
	struct fixture *f = *state;
	uint8_t *buf = aligned_alloc(4096, 4096);
	struct iovec iov = { buf, 4096 };
	struct op o = op_new();

	if (disk_open(f, "a.img,direct"))
		skip();
	disk_read(&f->disk, &o.op, &iov, 1, 0, 4096);
	assert_true(f->ring.near == 1 && !f->ring.works);
	assert_int_equal(wait_for(f, &o), 0);
	f->config.direct = false;
	o = op_new();
	disk_read(&f->disk, &o.op, &iov, 1, 0, 4096);
	assert_true(f->ring.near == 1 && f->ring.works == 1);
	assert_int_equal(wait_for(f, &o), 0);
	free(buf);
	disk_close(f);
}

/* As on a device with blocks of 4 KiB, whose kernel wants memory aligned to that, too. */
static void any_pieces_direct_in_large_blocks(void **state)
{
	struct fixture *f = *state;

	if (disk_open(f, "a.img,direct"))
		skip();
	f->disk.backing.align = f->disk.backing.mem_align = 4096;
	rounds(f, 300);
	disk_close(f);
}

/* tmpfs cannot zero a range, but by a hole: zeroes are written. */
static void in_memory(struct fixture *f, uint32_t align)
{
	int fd = memfd_create("disk", MFD_CLOEXEC);

	assert_int_equal(disk_open(f, "a.img"), 0);
	assert_int_equal(ftruncate(fd, SIZE), 0);
	disk_becomes(&f->disk, fd);
	f->config.direct = align > SECTOR;
	f->disk.backing.align = align;
	rounds(f, 300);
	disk_close(f);
}

static void any_pieces_in_memory(void **state)
{
	in_memory(*state, SECTOR);
}

static void any_pieces_in_memory_in_large_blocks(void **state)
{
	in_memory(*state, 4096);
}

static void what_is_aligned_leaves_in_one_system_call(void **state)
{
	struct fixture *f = *state;
	struct op o[32];
	struct iovec iov[32];
	uint8_t *buf = aligned_alloc(4096, 32 * 4096);
	uint64_t enters, sqes;

	assert_int_equal(disk_open(f, "a.img"), 0);
	memset(buf, 1, 32 * 4096);
	assert_int_equal(write_one(f, buf, 0, 32 * 4096, false), 0);
	enters = f->ring.enters;
	sqes = f->ring.sqes;
	for (int i = 0; i < 32; i++) {
		o[i] = op_new();
		iov[i] = (struct iovec){ buf + i * 4096, 4096 };
		disk_read(&f->disk, &o[i].op, &iov[i], 1, i * 4096, 4096);
	}
	assert_int_equal(f->ring.enters, enters);
	for (int i = 0; i < 32; i++)
		while (!o[i].n)
			ring_step(&f->ring);
	assert_int_equal(f->ring.sqes, sqes + 32);
	assert_true(f->ring.enters - enters <= 4); /* the page cache has it all: one, as a rule */
	free(buf);
	disk_close(f);
}

/* What lies in memory is moved at once, from Linux 6.6 on. */
static void tmpfs_is_done_at_once(void **state)
{
	struct fixture *f = *state;
	int fd = memfd_create("disk", MFD_CLOEXEC);
	char path[32];
	uint8_t block[4096];
	int direct;
	bool can;

	assert_int_equal(ftruncate(fd, SIZE), 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	direct = open(path, O_RDONLY | O_DIRECT);
	can = direct >= 0;
	close(direct);
	assert_int_equal(disk_open(f, path), 0);
	assert_int_equal(f->disk.backing.at_once, can);
	if (!can) {
		disk_close(f);
		close(fd);
		skip();
	}
	/* Of any alignment. */
	for (unsigned write = 0; write < 2; write++) {
		struct iovec iov = { block + 1, sizeof(block) - SECTOR };
		struct op o = op_new();

		if (write)
			disk_write(&f->disk, &o.op, &iov, 1, SECTOR, iov.iov_len, false);
		else
			disk_read(&f->disk, &o.op, &iov, 1, SECTOR, iov.iov_len);
		io_uring_submit(&f->ring.uring);
		assert_int_equal(io_uring_cq_ready(&f->ring.uring), 1);
		assert_int_equal(wait_for(f, &o), 0);
	}

	/* A write waits for what gives space back, but not in the kernel. */
	struct iovec iov = { block, sizeof(block) };
	struct op discard = op_new(), write = op_new();

	disk_discard(&f->disk, &discard.op, 0, SIZE);
	disk_write(&f->disk, &write.op, &iov, 1, 0, sizeof(block), false);
	assert_ptr_equal(f->disk.waiting, &write.op);
	assert_int_equal(wait_for(f, &discard), 0);
	assert_int_equal(wait_for(f, &write), 0);
	disk_close(f);
	close(fd);
}

/* Short transfers. */

static void the_end_of_the_file_reads_as_zeroes(void **state)
{
	struct fixture *f = *state;
	uint8_t buf[4 * SECTOR];
	struct iovec iov[] = { { buf, SECTOR },
		               { buf + SECTOR, 100 },
		               { buf + SECTOR + 100, 3 * SECTOR - 100 } };
	struct op o = op_new();

	assert_int_equal(disk_open(f, "a.img"), 0);
	memset(buf, 0xaa, sizeof(buf));
	assert_int_equal(write_one(f, buf, 0, sizeof(buf), false), 0);
	assert_int_equal(truncate("a.img", SECTOR + 17), 0);
	disk_read(&f->disk, &o.op, iov, 3, 0, sizeof(buf));
	assert_int_equal(wait_for(f, &o), 0);
	for (unsigned i = 0; i < sizeof(buf); i++)
		assert_int_equal(buf[i], i < SECTOR + 17 ? 0xaa : 0);
	memset(buf, 0xaa, sizeof(buf));
	assert_int_equal(read_one(f, buf, 8 * SECTOR, sizeof(buf)), 0);
	for (unsigned i = 0; i < sizeof(buf); i++)
		assert_int_equal(buf[i], 0);
	disk_close(f);
}

/* The same when a block is read for the part of it that is not written. */
static void the_end_of_the_file_in_the_bounce_buffer(void **state)
{
	struct fixture *f = *state;
	uint8_t *buf = aligned_alloc(4096, 8192);

	if (disk_open(f, "a.img,direct"))
		skip();
	f->disk.backing.align = 4096;
	memset(buf, 0xaa, 8192);
	assert_int_equal(write_one(f, buf, 0, 8192, false), 0);
	assert_int_equal(truncate("a.img", 4096 + 512), 0);
	assert_int_equal(read_one(f, buf + 3, 512, 4096 + 2048 - 512), 0);
	for (unsigned i = 0; i < 4096 + 2048 - 512; i++)
		assert_int_equal(buf[3 + i], i < 4096 ? 0xaa : 0);
	/* A part of the file's last block, and of one behind that. */
	for (uint64_t block = 4096; block <= 3 * 4096; block += 2 * 4096) {
		memset(buf, 0xbb, 512);
		assert_int_equal(write_one(f, buf, block + 1024, 512, false), 0);
		assert_int_equal(read_one(f, buf, block, 4096), 0);
		for (unsigned i = 0; i < 4096; i++)
			assert_int_equal(buf[i], i < 512 && block == 4096 ? 0xaa
			                         : i >= 1024 && i < 1536  ? 0xbb
			                                                  : 0);
	}
	free(buf);
	disk_close(f);
}

/* A pipe gives and takes what it has and has room for. */
static void short_transfers_are_continued(void **state)
{
	struct fixture *f = *state;
	uint8_t *out = malloc(3 * 65536), *in = calloc(3, 65536);
	struct iovec iov[] = { { out, 65536 }, { out + 65536, 2 * 65536 } };
	struct op wr = op_new();
	int fds[2];
	size_t got = 0;

	assert_int_equal(disk_open(f, "a.img"), 0);
	for (int i = 0; i < 3 * 65536; i++)
		out[i] = (uint8_t)below(&f->seed, 256);
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	disk_becomes(&f->disk, fds[1]);
	disk_write(&f->disk, &wr.op, iov, 2, 0, 3 * 65536, false);
	while (got < 3 * 65536) {
		ssize_t n;

		for (int i = 0; i < 3 && !wr.n; i++) {
			struct op flush = op_new(); /* fails: so a batch ends soon */

			disk_flush(&f->disk, &flush.op);
			assert_int_equal(wait_for(f, &flush), -EINVAL);
		}
		n = read(fds[0], in + got, 50000);
		assert_true(n > 0);
		got += (size_t)n;
	}
	while (!wr.n)
		ring_step(&f->ring);
	assert_int_equal(wr.res, 0);
	assert_memory_equal(in, out, 3 * 65536);
	close(fds[0]);

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	disk_becomes(&f->disk, fds[0]);
	memset(in, 0, 3 * 65536);

	struct iovec back[] = { { in, 700 }, { in + 700, SECTOR * 4 - 700 } };
	struct op rd = op_new();

	disk_read(&f->disk, &rd.op, back, 2, 0, SECTOR * 4);
	for (unsigned at = 0; at < SECTOR * 4; at += SECTOR) {
		struct op flush = op_new();

		assert_int_equal(rd.n, 0);
		assert_int_equal(write(fds[1], out + at, SECTOR), SECTOR);
		disk_flush(&f->disk, &flush.op);
		assert_int_equal(wait_for(f, &flush), -EINVAL);
	}
	while (!rd.n)
		ring_step(&f->ring);
	assert_int_equal(rd.res, 0);
	assert_memory_equal(in, out, SECTOR * 4);
	close(fds[1]);
	free(in);
	free(out);
	disk_close(f);
}

/* Errors. */

static void a_full_disk(void **state)
{
	struct fixture *f = *state;
	uint8_t buf[SECTOR] = { 0 };

	assert_int_equal(disk_open(f, "a.img"), 0);
	disk_becomes(&f->disk, open("/dev/full", O_RDWR | O_CLOEXEC));
	assert_int_equal(write_one(f, buf, 0, sizeof(buf), false), -ENOSPC);
	assert_int_equal(read_one(f, buf, 0, sizeof(buf)), 0);
	disk_close(f);
}

/* Half of it can be written: a short write, and the rest of it fails. */
static void a_limit_in_the_middle(void **state)
{
	struct fixture *f = *state;
	struct rlimit limit = { SIZE / 2, RLIM_INFINITY };
	uint8_t buf[2 * SECTOR];

	assert_int_equal(disk_open(f, "a.img"), 0);
	signal(SIGXFSZ, SIG_IGN);
	memset(buf, 7, sizeof(buf));
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	assert_int_equal(write_one(f, buf, SIZE / 2 - SECTOR, sizeof(buf), false), -EFBIG);
	limit.rlim_cur = RLIM_INFINITY;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	assert_int_equal(read_one(f, buf, SIZE / 2 - SECTOR, sizeof(buf)), 0);
	assert_int_equal(buf[SECTOR - 1], 7);
	assert_int_equal(buf[SECTOR], 0);
	disk_close(f);
}

/* This process's memory is a file with holes that give EIO, and that knows no fallocate. */
static void bad_sectors(void **state)
{
	struct fixture *f = *state;
	uint8_t *page = mmap(NULL, 2 * 4096, PROT_READ | PROT_WRITE,
	                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	uint64_t at = (uintptr_t)page;
	uint8_t buf[8192];
	struct op o = op_new();

	munmap(page + 4096, 4096);
	assert_int_equal(disk_open(f, "a.img"), 0);
	disk_becomes(&f->disk, open("/proc/self/mem", O_RDWR | O_CLOEXEC));
	memset(page, 0xaa, 4096);
	assert_int_equal(read_one(f, buf, at, 4096), 0);
	assert_int_equal(buf[4095], 0xaa);
	assert_int_equal(read_one(f, buf, at + 4096, 4096), -EIO);
	assert_int_equal(write_one(f, buf, at + 4096, 4096, false), -EIO);
	assert_int_equal(read_one(f, buf, at + 2048, 4096), -EIO);

	disk_discard(&f->disk, &o.op, at, 4096);
	assert_int_equal(wait_for(f, &o), -EOPNOTSUPP);
	assert_int_equal(page[0], 0xaa);
	assert_int_equal(zero_one(f, at + SECTOR, 2 * SECTOR, true, false), 0);
	for (int i = 0; i < 4096; i++)
		assert_int_equal(page[i], i < SECTOR || i >= 3 * SECTOR ? 0xaa : 0);
	assert_int_equal(zero_one(f, at, 2 * 4096, false, false), -EIO);
	munmap(page, 4096);
	disk_close(f);
}

/* Ending before the end. */

static void cancelled_while_running_and_waiting(void **state)
{
	struct fixture *f = *state;
	uint8_t *buf = aligned_alloc(4096, 4 * 4096);
	struct iovec iov[4];
	struct op o[4];
	int fds[2];

	if (disk_open(f, "a.img,direct"))
		skip();
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	disk_becomes(&f->disk, fds[0]);
	for (int i = 0; i < 4; i++) {
		/* The second one must run alone: it waits, and so do those behind it. */
		iov[i] = (struct iovec){ buf + i * 4096 + (i == 1), SECTOR };
		o[i] = op_new();
		disk_read(&f->disk, &o[i].op, &iov[i], 1, 0, SECTOR);
	}
	assert_int_equal(f->disk.running, 1);
	disk_cancel(&o[2].op);
	assert_int_equal(o[2].n, 0);
	disk_cancel(&o[0].op);
	assert_int_equal(wait_for(f, &o[0]), -ECANCELED);
	assert_int_equal(o[2].n, 0); /* it is not its turn yet */
	disk_cancel(&o[1].op);
	assert_int_equal(wait_for(f, &o[1]), -ECANCELED);
	assert_int_equal(o[2].n, 1);
	assert_int_equal(o[2].res, -ECANCELED);

	memset(buf, 1, SECTOR);
	assert_int_equal(write(fds[1], buf, SECTOR), SECTOR);
	assert_int_equal(wait_for(f, &o[3]), 0);
	assert_memory_equal(buf + 3 * 4096, buf, SECTOR);
	close(fds[1]);
	free(buf);
	disk_close(f);
}

/* A part was moved, and then it is cancelled. */
static void cancelled_in_the_middle(void **state)
{
	struct fixture *f = *state;
	uint8_t buf[2 * SECTOR] = { 0 };
	struct iovec iov = { buf, sizeof(buf) };
	struct op o = op_new();
	int fds[2];

	assert_int_equal(disk_open(f, "a.img"), 0);
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	disk_becomes(&f->disk, fds[0]);
	disk_read(&f->disk, &o.op, &iov, 1, 0, sizeof(buf));
	assert_int_equal(write(fds[1], buf, SECTOR), SECTOR);
	ring_step(&f->ring);
	disk_cancel(&o.op);
	assert_int_equal(wait_for(f, &o), -ECANCELED);
	close(fds[1]);
	disk_close(f);
}

/* Durability, as far as the page cache tells (cachestat(2), Linux 6.5). */

static int dirty_pages(const struct fixture *f, uint64_t *n)
{
	const struct {
		uint64_t off, len;
	} range = { 0, 0 };
	struct {
		uint64_t cache, dirty, writeback, evicted, recently_evicted;
	} stat;

	if (syscall(451, f->disk.backing.fd, &range, &stat, 0))
		return -errno;
	*n = stat.dirty + stat.writeback;
	return 0;
}

static void durable_when_it_is_done(void **state)
{
	struct fixture *f = *state;
	uint8_t buf[2 * SECTOR];
	struct op o = op_new();
	uint64_t n;

	assert_int_equal(disk_open(f, "a.img"), 0);
	memset(buf, 1, sizeof(buf));
	assert_int_equal(write_one(f, buf, 0, sizeof(buf), false), 0);
	if (dirty_pages(f, &n))
		skip();
	assert_int_equal(n, 1);
	disk_flush(&f->disk, &o.op);
	assert_int_equal(wait_for(f, &o), 0);
	dirty_pages(f, &n);
	assert_int_equal(n, 0);

	assert_int_equal(write_one(f, buf, 8192, sizeof(buf), true), 0);
	dirty_pages(f, &n);
	assert_int_equal(n, 0);

	/* Half a page: that is zeroed in the cache. */
	assert_int_equal(zero_one(f, 8192, SECTOR, false, false), 0);
	dirty_pages(f, &n);
	assert_int_equal(n, 1);
	assert_int_equal(zero_one(f, 8192, 2 * SECTOR, false, true), 0);
	dirty_pages(f, &n);
	assert_int_equal(n, 0);
	disk_close(f);
}

/* Sizes. */

struct sizes {
	const struct disk *disk;
	uint64_t size[3];
	unsigned n;
};

static void size_noted(struct disk *disk, void *arg)
{
	struct sizes *sizes = arg;

	assert_ptr_equal(disk, sizes->disk);
	assert_true(sizes->n < 3);
	sizes->size[sizes->n++] = disk->size;
}

static void a_new_size_is_noticed(void **state)
{
	struct fixture *f = *state;
	struct sizes sizes = { .disk = &f->disk };

	assert_int_equal(disk_open(f, "a.img"), 0);
	assert_int_equal(f->disk.size, SIZE);
	assert_int_equal(truncate("a.img", 3 * SIZE + 700), 0);
	while (f->disk.size == SIZE) /* nobody listens yet */
		ring_step(&f->ring);
	assert_int_equal(f->disk.size, 3 * SIZE + SECTOR);

	f->disk.resized = size_noted;
	f->disk.resized_arg = &sizes;
	assert_int_equal(truncate("a.img", SIZE / 2), 0);
	while (!sizes.n)
		ring_step(&f->ring);
	assert_int_equal(truncate("a.img", 0), 0);
	while (sizes.n < 2)
		ring_step(&f->ring);
	assert_int_equal(sizes.size[0], SIZE / 2);
	assert_int_equal(sizes.size[1], 0);
	disk_close(f);
}

static void what_cannot_be_opened_holds_nothing(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(disk_open(f, "b.img"), -ENOENT);
	assert_int_equal(f->ring.in_flight, 0);
	ring_fini(&f->ring);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(any_pieces),
		TEST(any_pieces_direct),
		TEST(any_pieces_direct_in_large_blocks),
		TEST(who_moves_it),
		TEST(any_pieces_in_memory),
		TEST(any_pieces_in_memory_in_large_blocks),
		TEST(what_is_aligned_leaves_in_one_system_call),
		TEST(tmpfs_is_done_at_once),
		TEST(the_end_of_the_file_reads_as_zeroes),
		TEST(the_end_of_the_file_in_the_bounce_buffer),
		TEST(short_transfers_are_continued),
		TEST(a_full_disk),
		TEST(a_limit_in_the_middle),
		TEST(bad_sectors),
		TEST(cancelled_while_running_and_waiting),
		TEST(cancelled_in_the_middle),
		TEST(durable_when_it_is_done),
		TEST(a_new_size_is_noticed),
		TEST(what_cannot_be_opened_holds_nothing),
	};

	alarm(120);
	return cmocka_run_group_tests_name("io/disk", tests, NULL, NULL);
}
