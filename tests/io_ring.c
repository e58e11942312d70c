/*
 * The ring: what a batch is, depth, older kernels, restrictions, the end with operations in flight,
 * and what it says where io_uring is forbidden.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "io/ring.h"
#include "tests/forbid.h"

#define POSITION ((uint64_t)-1)
#define DEPTH    3000 /* far beyond the SQ and the CQ of the test's ring */

struct result {
	union {
		struct io_op op;
		struct io_timer timer;
	};
	int n;
	int res;
};

static void record(struct io_op *op, int res)
{
	struct result *result = container_of(op, struct result, op);

	result->n++;
	result->res = res;
}

static void wait_for(struct ring *ring, const struct result *result)
{
	while (!result->n)
		ring_step(ring);
	assert_int_equal(result->n, 1);
}

static int setup(void **state)
{
	struct ring *ring = malloc(sizeof(*ring));

	*state = ring;
	return ring_init(ring, 8);
}

static int teardown(void **state)
{
	ring_fini(*state);
	free(*state);
	return 0;
}

static void read_and_write_at_offsets(void **state)
{
	struct result wr = { .op.done = record };
	struct result rd = { .op.done = record };
	int fd = memfd_create("test", MFD_CLOEXEC);
	char buf[8] = "";

	ring_write(*state, &wr.op, fd, "abcdef", 6, 10);
	assert_int_equal(wr.n, 0);
	wait_for(*state, &wr);
	assert_int_equal(wr.res, 6);
	ring_read(*state, &rd.op, fd, buf, 3, 12);
	wait_for(*state, &rd);
	assert_int_equal(rd.res, 3);
	assert_string_equal(buf, "cde");
	close(fd);
}

static void an_error_is_one_operations_own(void **state)
{
	struct result bad = { .op.done = record };
	struct result good = { .op.done = record };
	int fd = memfd_create("test", MFD_CLOEXEC);
	char byte;

	ring_read(*state, &bad.op, -1, &byte, 1, 0);
	ring_write(*state, &good.op, fd, "x", 1, 0);
	wait_for(*state, &bad);
	wait_for(*state, &good);
	assert_int_equal(bad.res, -EBADF);
	assert_int_equal(good.res, 1);
	close(fd);
}

static void poll_waits_for_events(void **state)
{
	struct result po = { .op.done = record };
	struct result wr = { .op.done = record };
	int fds[2];

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	ring_poll(*state, &po.op, fds[0], POLLIN);
	ring_write(*state, &wr.op, fds[1], "x", 1, POSITION);
	wait_for(*state, &po);
	assert_int_equal(po.res, POLLIN);
	wait_for(*state, &wr);
	assert_int_equal(wr.res, 1);
	close(fds[0]);
	close(fds[1]);
}

/*
 * The wait lasts until the operation is done: signals cost no completion, nor a batch, nor where
 * the kernel can do that a system call of their own.
 */
static void a_signal_is_silent(void **state)
{
	struct ring *ring = *state;
	struct result timer = { .timer.op.done = record };
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct pollfd now = { .fd = fd, .events = POLLIN };
	eventfd_t count;

	assert_int_equal(ring->silent, !!(ring->uring.features & IORING_FEAT_CQE_SKIP));
	for (int silent = ring->silent; silent >= 0; silent--) {
		ring->silent = silent;
		timer.n = 0;
		uint64_t enters = ring->enters, cqes = ring->cqes, sqes = ring->sqes;

		ring_timeout(ring, &timer.timer, 1000000);
		ring_signal(ring, fd);
		ring_signal(ring, fd);
		assert_int_equal(poll(&now, 1, 0), !silent);
		ring_step(ring);
		assert_int_equal(timer.n, 1);
		assert_int_equal(ring->sqes, sqes + (silent ? 3 : 1));
		assert_int_equal(ring->enters, enters + 1);
		assert_int_equal(ring->cqes, cqes + 1);
		assert_int_equal(eventfd_read(fd, &count), 0);
		assert_int_equal(count, 2);
	}
	close(fd);
}

static void a_signal_that_fails_ends_nothing(void **state)
{
	struct ring *ring = *state;
	struct result timer = { .timer.op.done = record };
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	eventfd_write(fd, UINT64_MAX - 1);
	ring_signal(ring, fd);
	ring_timeout(ring, &timer.timer, 1000000);
	wait_for(ring, &timer);
	close(fd);
}

static int64_t now_nsec(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static void timer_is_not_early(void **state)
{
	struct result timer = { .op.done = record };
	int64_t start = now_nsec();

	ring_timeout(*state, &timer.timer, 3000000);
	wait_for(*state, &timer);
	assert_int_equal(timer.res, -ETIME);
	assert_true(now_nsec() - start >= 3000000);
}

/* Operations that each start the next one when they are done. */
struct chain {
	struct io_op op;
	struct ring *ring;
	struct ring_hook *hook;
	int fd;
	int left;
};

static void chain_done(struct io_op *op, int res)
{
	struct chain *chain = container_of(op, struct chain, op);

	assert_int_equal(res, POLLIN);
	if (chain->hook)
		ring_batch_end(chain->ring, chain->hook);
	if (--chain->left)
		ring_poll(chain->ring, op, chain->fd, POLLIN);
}

static void a_batch_is_one_system_call(void **state)
{
	struct ring *ring = *state;
	struct chain chain[4];
	int fd = eventfd(1, EFD_CLOEXEC);
	uint64_t sqes = ring->sqes;
	uint64_t cqes = ring->cqes;
	uint64_t enters;

	/* What is there already completes while it is submitted. */
	for (int i = 0; i < 4; i++) {
		chain[i] =
		        (struct chain){ .op.done = chain_done, .ring = ring, .fd = fd, .left = 5 };
		ring_poll(ring, &chain[i].op, fd, POLLIN);
	}
	enters = ring->enters;
	for (int step = 0; step < 5; step++) {
		for (int i = 0; i < 4; i++)
			assert_int_equal(chain[i].left, 5 - step);
		ring_step(ring);
	}
	assert_int_equal(ring->enters - enters, 5);
	assert_int_equal(ring->sqes - sqes, 20);
	assert_int_equal(ring->cqes - cqes, 20);
	assert_int_equal(ring->in_flight, 0);
	close(fd);
}

struct counting_hook {
	struct ring_hook hook;
	const struct chain *chain;
	int n;
};

static void count_run(struct ring_hook *hook)
{
	struct counting_hook *counting = container_of(hook, struct counting_hook, hook);

	counting->n++;
	for (int i = 0; i < 3; i++)
		assert_int_equal(counting->chain[i].left, 2 - counting->n);
}

static void a_hook_runs_once_a_batch_after_all_handlers(void **state)
{
	struct counting_hook counting = { .hook.run = count_run };
	struct chain chain[3];
	int fd = eventfd(1, EFD_CLOEXEC);

	counting.chain = chain;
	for (int i = 0; i < 3; i++) {
		chain[i] = (struct chain){ .op.done = chain_done, .ring = *state };
		chain[i].hook = &counting.hook;
		chain[i].fd = fd;
		chain[i].left = 2;
		ring_poll(*state, &chain[i].op, fd, POLLIN);
	}
	ring_step(*state);
	assert_int_equal(counting.n, 1);
	ring_step(*state);
	assert_int_equal(counting.n, 2);
	close(fd);
}

/* Thousands of operations wait at once, then all complete at once: none is lost or done twice. */
static void deep(struct ring *ring)
{
	struct result *result = calloc(DEPTH, sizeof(*result));
	uint64_t *count = calloc(DEPTH, sizeof(*count));
	struct result wr = { .op.done = record };
	int fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
	uint64_t all = DEPTH;

	for (int i = 0; i < DEPTH; i++) {
		result[i].op.done = record;
		ring_read(ring, &result[i].op, fd, &count[i], sizeof(count[i]), POSITION);
	}
	assert_int_equal(ring->in_flight, DEPTH);
	ring_write(ring, &wr.op, fd, &all, sizeof(all), POSITION);
	while (ring->in_flight)
		ring_step(ring);
	for (int i = 0; i < DEPTH; i++) {
		assert_int_equal(result[i].n, 1);
		assert_int_equal(result[i].res, sizeof(count[i]));
		assert_int_equal(count[i], 1);
	}
	close(fd);
	free(result);
	free(count);
}

static void more_in_flight_than_entries(void **state)
{
	deep(*state);
}

static void move(struct ring *ring, int fd, char *from, char *to, unsigned len)
{
	struct result wr = { .op.done = record };
	struct result rd = { .op.done = record };

	ring_write(ring, &wr.op, fd, from, len, 0);
	wait_for(ring, &wr);
	ring_read(ring, &rd.op, fd, to, len, 0);
	wait_for(ring, &rd);
	assert_true(wr.res == (int)len && rd.res == (int)len);
	assert_memory_equal(from, to, len);
}

/* Which operations use registered memory: those all of whose bytes lie in one area of it. */
static void registered_memory_is_used(void **state)
{
	static _Alignas(4096) char memory[3][8192]; /* the middle one is not registered */
	const struct iovec areas[] = { { memory[0], 8192 }, { memory[2], 8192 } };
	struct ring *ring = *state;
	int fd = memfd_create("test", MFD_CLOEXEC);

	for (unsigned i = 0; i < sizeof(memory); i++)
		memory[i / 8192][i % 8192] = (char)(i * 7 + i / 251);
	assert_int_equal(ring_register_memory(ring, areas, 2), 0);
	move(ring, fd, memory[0], memory[2] + 100, 4000);
	assert_int_equal(ring->fixed, 2);
	move(ring, fd, memory[0] + 8190, memory[2] + 8190, 2);
	assert_int_equal(ring->fixed, 4);
	move(ring, fd, memory[0] + 8190, memory[1] + 100, 3); /* across the end; in none */
	assert_int_equal(ring->fixed, 4);
	move(ring, fd, memory[1] + 8191, memory[1] + 17, 2); /* across a beginning */
	assert_int_equal(ring->fixed, 4);

	ring_forget_memory(ring);
	move(ring, fd, memory[0], memory[2], 100);
	assert_int_equal(ring->fixed, 4);
	assert_int_equal(ring_register_memory(ring, areas + 1, 1), 0);
	move(ring, fd, memory[0], memory[2], 100);
	assert_int_equal(ring->fixed, 5);
	close(fd);
}

struct poll_test {
	struct ring_poller poller;
	struct ring *ring;
	struct result read;
	char byte;
	int fd;
	unsigned looks, ends;
	unsigned find_at; /* the look that finds something */
};

static bool look(struct ring_poller *poller)
{
	struct poll_test *test = container_of(poller, struct poll_test, poller);

	if (++test->looks != test->find_at)
		return false;
	ring_read(test->ring, &test->read.op, test->fd, &test->byte, 1, 0);
	return true;
}

#define SECOND 1000000000 /* a limit of polling with which all sleeps are short */

static void look_no_more(struct ring_poller *poller)
{
	struct poll_test *test = container_of(poller, struct poll_test, poller);

	test->ends++;
	test->ring->pace.poll_nsec = SECOND;
}

static void polling_starts_and_ends(void **state)
{
	struct ring *ring = *state;
	struct poll_test test = {
		.poller = { look, look_no_more, NULL },
		.ring = ring,
		.read.op.done = record,
		.fd = memfd_create("test", MFD_CLOEXEC),
		.find_at = 3,
	};
	struct result timer = { .op.done = record };

	ring_set_pace(ring, SECOND, false);
	if (!ring->pace.poll_nsec)
		skip(); /* this kernel cannot */
	assert_int_equal(write(test.fd, "x", 1), 1);
	ring_add_poller(ring, &test.poller);

	/* A short sleep begins it, */
	ring_timeout(ring, &timer.timer, 1000000);
	ring_step(ring);
	assert_true(ring_polls(ring));
	assert_int_equal(test.looks, 0);
	assert_int_equal(test.ends, 1);

	/* what is found goes on with it, */
	wait_for(ring, &test.read);
	assert_true(ring_polls(ring));
	assert_int_equal(test.looks, 3);

	/* so does a completion, */
	timer.n = 0;
	ring_timeout(ring, &timer.timer, 1000000);
	ring_step(ring);
	assert_true(timer.n == 1 && ring_polls(ring));

	/* but in a pause it does not, whose end has to wake it; */
	timer.n = 0;
	test.looks = test.ends = 0;
	test.find_at = 1;
	ring_pause(ring, &timer.timer, 1000000);
	ring_step(ring);
	assert_true(timer.n == 1 && !test.looks && test.ends == 1 && ring_polls(ring));
	test.find_at = 0;

	/* while disk I/O is in flight only if that leaves the core alone; */
	ring->pace.polling[1].on = true;
	for (int by_device = 0; by_device < 2; by_device++) {
		struct result io = { .op = { .done = record, .by_device = by_device } };
		int fds[2];
		char byte;

		assert_int_equal(pipe(fds), 0);
		ring_read(ring, &io.op, fds[0], &byte, 1, 0);
		timer.n = 0;
		test.looks = 0;
		ring_timeout(ring, &timer.timer, 1000000);
		ring_step(ring);
		assert_true(timer.n == 1 && !io.n && ring_polls(ring));
		assert_int_equal(!!test.looks, by_device);
		assert_int_equal(write(fds[1], "x", 1), 1);
		wait_for(ring, &io);
		close(fds[0]);
		close(fds[1]);
	}

	/* nothing ends it, and the sleep that follows is no reason to begin again. */
	ring_set_pace(ring, 1000000, false);
	ring->pace.polling[0].on = true;
	timer.n = 0;
	ring_timeout(ring, &timer.timer, 20000000);
	test.ends = 0;
	ring_step(ring);
	assert_false(ring_polls(ring));
	assert_int_equal(ring->pace.polling[0].vain.skip, 1);
	assert_int_equal(test.ends, 1);
	assert_int_equal(ring->pauses, 0); /* the timer was used for one before */
	ring_set_pace(ring, 0, false);
	ring_remove_poller(ring, &test.poller);
	close(test.fd);
}

/* A batch with nothing but a timer's end. */
static void step_to_a_timer(struct ring *ring)
{
	struct result timer = { .op.done = record };

	ring_timeout(ring, &timer.timer, 1000000);
	wait_for(ring, &timer);
}

/* Reads of an empty pipe that count as disk I/O, which no thread of the kernel's works on. */
#define READS 40

struct reads {
	struct ring *ring;
	struct result read[READS];
	char byte[READS];
	int fds[2];
	unsigned n; /* started */
};

static void reads_init(struct reads *reads, struct ring *ring)
{
	*reads = (struct reads){ .ring = ring };
	assert_int_equal(pipe(reads->fds), 0);
}

static void reads_start(struct reads *reads, unsigned n)
{
	while (n--) {
		struct result *read = &reads->read[reads->n];

		*read = (struct result){ .op = { .done = record, .by_device = true } };
		ring_read(reads->ring, &read->op, reads->fds[0], &reads->byte[reads->n++], 1, 0);
	}
}

static unsigned reads_done(const struct reads *reads)
{
	unsigned n = 0;

	for (unsigned i = 0; i < reads->n; i++)
		n += (unsigned)reads->read[i].n;
	return n;
}

/* All of them end. */
static void reads_end(struct reads *reads)
{
	static const char bytes[READS];

	assert_int_equal(write(reads->fds[1], bytes, reads->n), reads->n);
	while (reads_done(reads) < reads->n)
		ring_step(reads->ring);
}

static void reads_fini(struct reads *reads)
{
	close(reads->fds[0]);
	close(reads->fds[1]);
}

/* The kernel hands out what has ended in portions; it all belongs to one batch. */
static void a_batch_takes_all_that_has_ended(void **state)
{
	static const char bytes[READS];
	struct reads reads;
	struct ring ring;

	(void)state;
	assert_int_equal(ring_init(&ring, 64), 0);
	reads_init(&reads, &ring);
	reads_start(&reads, READS);
	step_to_a_timer(&ring);
	assert_int_equal(write(reads.fds[1], bytes, READS), READS);
	ring_step(&ring);
	assert_int_equal(reads_done(&reads), READS);
	reads_fini(&reads);
	ring_fini(&ring);
}

/* With a core to spare a disk that was idle begins with the first few, before the rest is queued.
 */
static void idle_disks_get_a_head_start(void **state)
{
	for (unsigned spare = 0; spare < 2; spare++) {
		struct reads reads;
		struct ring ring;
		uint64_t enters;

		(void)state;
		assert_int_equal(ring_init(&ring, 64), 0);
		if (!ring_set_pace(&ring, spare ? 1000 : 0, false)) {
			ring_fini(&ring);
			skip(); /* this kernel cannot */
		}
		enters = ring.enters;
		reads_init(&reads, &ring);
		reads_start(&reads, 8);
		assert_int_equal(ring.enters, enters);
		reads_start(&reads, 1);
		assert_int_equal(ring.enters, enters + spare);
		assert_int_equal(io_uring_sq_ready(&ring.uring), spare ? 1 : 9);
		ring.pace.polling[1].on = true; /* as was learnt while disks were at work */
		assert_true(ring_polls(&ring));
		ring.pace.polling[1].on = false;
		ring.pace.polling[0].on = true;
		assert_false(ring_polls(&ring));
		reads_start(&reads, READS - 9); /* it is busy */
		assert_int_equal(ring.enters, enters + spare);
		reads_end(&reads);
		reads_fini(&reads);
		ring_fini(&ring);
	}
}

struct refill {
	struct ring_poller poller;
	struct reads *reads;
	unsigned looks, every, left;
};

/* A guest that offers one more read at every so-manyth look. */
static bool refill(struct ring_poller *poller)
{
	struct refill *refill = container_of(poller, struct refill, poller);

	if (!refill->left || ++refill->looks % refill->every)
		return false;
	refill->left--;
	reads_start(refill->reads, 1);
	return true;
}

static void refill_end(struct ring_poller *poller)
{
	(void)poller;
}

/* As many as there were leave together; not those behind a gap, and nobody waits for them again. */
static void what_is_offered_one_by_one_leaves_together(void **state)
{
	struct reads reads;
	struct refill guest = { .poller = { refill, refill_end, NULL }, .reads = &reads };
	struct ring ring;

	(void)state;
	assert_int_equal(ring_init(&ring, 64), 0);
	if (!ring_set_pace(&ring, SECOND, false)) {
		ring_fini(&ring);
		skip();
	}
	ring_add_poller(&ring, &guest.poller);
	for (unsigned gap = 0; gap < 2; gap++) {
		reads_init(&reads, &ring);
		reads_start(&reads, 6);
		reads_end(&reads);
		assert_int_equal(ring.near, 0);
		assert_in_range(ring.crowd, 6, 8);

		ring.pace.polling[0].on = true;
		guest.left = 8;
		guest.looks = 0;
		guest.every = gap ? 1000 : 10;
		uint64_t sqes = ring.sqes, enters = ring.enters;
		struct result timer = { .op.done = record };

		ring_timeout(&ring, &timer.timer, 100000000);
		ring_step(&ring);
		assert_int_equal(ring.sqes - sqes, 1 + (gap ? 1 : ring.crowd));
		assert_int_equal(ring.enters - enters, 2); /* the timer; and they */
		assert_int_equal(ring.near, gap ? 1 : ring.crowd);
		assert_int_equal(ring.crowd, ring.near);
		guest.left = 0;
		reads_end(&reads);
		reads_fini(&reads);
	}
	ring_remove_poller(&ring, &guest.poller);
	ring_fini(&ring);
}

static bool something_else(struct ring_poller *poller)
{
	container_of(poller, struct refill, poller)->looks++;
	return true;
}

/* What is found again and again, and is no disk I/O, keeps nobody. */
static void gathering_ends(void **state)
{
	struct refill guest = { .poller = { something_else, refill_end, NULL } };
	struct result timer = { .op.done = record };
	struct ring *ring = *state;

	if (!ring_set_pace(ring, SECOND, false))
		skip();
	ring_add_poller(ring, &guest.poller);
	ring->crowd = 1000000;
	ring->pace.polling[0].on = true;
	ring_timeout(ring, &timer.timer, 1000000);
	ring_step(ring);
	assert_in_range(guest.looks, 2, 2000);
	assert_int_equal(ring->crowd, 0);
	wait_for(ring, &timer);
	ring_set_pace(ring, 0, false);
	ring_remove_poller(ring, &guest.poller);
}

/* What is held outlives its descriptor, and the ring by no more than the kernel takes. */
static void what_is_held_goes_with_the_ring(void **state)
{
	struct ring ring;
	struct pollfd end;
	int fds[2];

	(void)state;
	assert_int_equal(ring_init(&ring, 8), 0);
	assert_int_equal(pipe(fds), 0);
	end = (struct pollfd){ .fd = fds[0], .events = POLLIN };
	ring_hold(&ring, fds[1]);
	close(fds[1]);
	assert_int_equal(poll(&end, 1, 20), 0);
	ring_fini(&ring);
	assert_int_equal(poll(&end, 1, 30000), 1);
	assert_true(end.revents & POLLHUP);
	close(fds[0]);
}

struct counting_watch {
	struct io_watch watch;
	unsigned n;
};

static void count(struct io_watch *watch)
{
	container_of(watch, struct counting_watch, watch)->n++;
}

#define MANY 9 /* so many that a share of them is more than one, even when one has ended */

/* One of many has ended: a batch waits for a share of the others, once, and then for anything. */
static void a_share_is_not_waited_for_for_ever(void **state)
{
	struct ring *ring = *state;
	struct result rd[MANY] = { 0 };
	struct counting_watch woken = { .n = 0 };
	int kick = eventfd(0, EFD_CLOEXEC);
	char byte[MANY];
	int fds[2];

	if (!(ring->uring.features & IORING_FEAT_EXT_ARG))
		skip();
	assert_int_equal(pipe(fds), 0);
	for (int i = 0; i < MANY; i++) {
		rd[i].op.done = record;
		ring_read(ring, &rd[i].op, fds[0], &byte[i], 1, 0);
	}
	assert_int_equal(ring->near, MANY);
	assert_false(ring->trickles);

	assert_int_equal(write(fds[1], "1", 1), 1);
	ring_step(ring);
	assert_int_equal(ring->near, MANY - 1);
	assert_true(ring->trickles);
	ring_step(ring); /* nothing comes: it ends by itself, and is not done again soon */
	assert_false(ring->trickles);
	assert_int_equal(ring->patience.skip, 1);

	/* Whatever else comes is served at once, */
	ring_watch(ring, &woken.watch, kick, count);
	assert_int_equal(eventfd_write(kick, 1), 0);
	while (!woken.n)
		ring_step(ring);
	assert_false(ring->trickles);
	ring_unwatch(&woken.watch);
	close(kick);

	/* and what ends all at once is no trickle. */
	assert_int_equal(write(fds[1], "23456789", MANY - 1), MANY - 1);
	ring_step(ring);
	assert_int_equal(ring->near, 0);
	assert_false(ring->trickles);
	for (int i = 0; i < MANY; i++)
		assert_true(rd[i].n == 1 && rd[i].res == 1);
	close(fds[0]);
	close(fds[1]);
}

/* What waits for somebody else is no disk I/O. */
static void no_share_of_what_waits(void **state)
{
	struct ring *ring = *state;
	static struct result rd[MANY]; /* until the ring ends */
	static eventfd_t count[MANY];
	int fd = eventfd(0, EFD_CLOEXEC);

	for (int i = 0; i < MANY; i++) {
		rd[i].op.done = record;
		ring_read(ring, &rd[i].op, fd, &count[i], sizeof(count[i]), POSITION);
	}
	assert_int_equal(ring->near, 0);
}

static void older_kernels_flags(void **state)
{
	unsigned flags = 0;

	(void)state;
	for (const struct ring_name *flag = ring_setup_flags; flag->name; flag++)
		flags |= flag->value;
	for (const struct ring_name *flag = ring_setup_flags; flag->name; flag++) {
		struct ring ring;

		flags &= ~flag->value;
		if (ring_init_flags(&ring, 8, flags) == -EINVAL)
			continue; /* this kernel is such an older one */
		assert_int_equal(ring.uring.flags & flag->value, 0);
		deep(&ring);
		ring_fini(&ring);
	}
	assert_int_equal(flags, 0);
}

static void other_opcodes_are_refused(void **state)
{
	struct ring *ring = *state;
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->uring);
	struct io_uring_cqe *cqe;

	io_uring_prep_openat(sqe, AT_FDCWD, "/", O_PATH, 0);
	assert_int_equal(io_uring_submit_and_wait(&ring->uring, 1), 1);
	assert_int_equal(io_uring_peek_cqe(&ring->uring, &cqe), 0);
	assert_int_equal(cqe->res, -EACCES);
	io_uring_cqe_seen(&ring->uring, cqe);
	assert_int_equal(io_uring_register_eventfd(&ring->uring, 0), -EACCES);
}

#define WAKES 1000

struct waking_watch {
	struct io_watch watch;
	atomic_uint written;
	bool stop;
};

static void *wake_often(void *arg)
{
	struct waking_watch *waking = arg;

	for (unsigned i = 1; i <= WAKES; i++) {
		atomic_store(&waking->written, i);
		eventfd_write(waking->watch.fd, 1);
	}
	return NULL;
}

static void woken_often(struct io_watch *watch)
{
	struct waking_watch *waking = container_of(watch, struct waking_watch, watch);

	waking->stop = atomic_load(&waking->written) == WAKES;
}

static void watch_and_unwatch(struct ring *ring)
{
	struct counting_watch counting = { .n = 0 };
	int fd = eventfd(0, EFD_CLOEXEC);

	ring_watch(ring, &counting.watch, fd, count);
	for (unsigned i = 1; i <= 3; i++) {
		eventfd_write(fd, 3);
		ring_step(ring);
		assert_int_equal(counting.n, i);
	}
	ring_unwatch(&counting.watch);
	assert_int_equal(counting.n, 3);
	assert_int_equal(ring->in_flight, 0);
	eventfd_write(fd, 4);
	ring_unwatch(&counting.watch);
	assert_int_equal(counting.n, 3);
	close(fd);
}

/* An event that came before the last, but did not fit then, comes after it: the watch is over. */
static void the_last_is_the_last(void **state)
{
	static struct counting_watch counting; /* until the ring ends */
	struct result timer = { .op.done = record };
	struct ring *ring = *state;
	struct io_uring_sqe *sqe;
	int fd = eventfd(0, EFD_CLOEXEC);
	int last = eventfd(1, EFD_CLOEXEC);
	uint64_t sqes;

	if (!ring->multishot)
		skip();
	ring_watch(ring, &counting.watch, fd, count);
	ring_timeout(ring, &timer.timer, 1000000);
	ring_step(ring);
	assert_int_equal(counting.n, 0);

	sqe = io_uring_get_sqe(&ring->uring);
	io_uring_prep_poll_add(sqe, last, POLLIN);
	io_uring_sqe_set_data(sqe, &counting.watch.op);
	eventfd_write(fd, 1);
	sqes = ring->sqes;
	ring_step(ring);
	assert_int_equal(counting.n, 1);
	assert_int_equal(ring->sqes, sqes + 1); /* it begins again */
	close(last);
	close(fd);
}

static void a_watch_can_end_before_the_ring(void **state)
{
	watch_and_unwatch(*state);
}

static void a_watch_that_reads_can_end_before_the_ring(void **state)
{
	struct ring *ring = *state;

	ring->multishot = false;
	watch_and_unwatch(ring);
}

/* No write is missed, whether the eventfd is polled or read. */
static void another_thread_wakes(void **state)
{
	struct ring *ring = *state;
	pthread_t thread;

	for (unsigned round = 0; round < 2; round++) {
		struct waking_watch waking = { .written = 0 };
		int fd = eventfd(0, EFD_CLOEXEC);

		if (round)
			ring->multishot = false;
		ring_watch(ring, &waking.watch, fd, woken_often);
		pthread_create(&thread, NULL, wake_often, &waking);
		ring_run(ring, &waking.stop);
		pthread_join(thread, NULL);

		/* The watch is in flight: end the ring before it goes out of scope. */
		ring_fini(ring);
		close(fd);
		assert_int_equal(ring_init(ring, 8), 0);
	}
}

static void one_operation_is_cancelled(void **state)
{
	struct result rd = { .op.done = record };
	struct result other = { .op.done = record };
	uint64_t count[2];
	int fd = eventfd(0, EFD_CLOEXEC);

	ring_read(*state, &rd.op, fd, &count[0], sizeof(count[0]), POSITION);
	ring_read(*state, &other.op, fd, &count[1], sizeof(count[1]), POSITION);
	ring_cancel(*state, &rd.op);
	wait_for(*state, &rd);
	assert_int_equal(rd.res, -ECANCELED);
	assert_int_equal(other.n, 0);
	eventfd_write(fd, 1);
	wait_for(*state, &other);
	assert_int_equal(other.res, sizeof(count[1]));
	close(fd);
}

/* What completes at once when it is read would go on for ever, were it not told to end. */
static void endless(struct io_op *op, int res)
{
	struct chain *chain = container_of(op, struct chain, op);
	static char byte;

	if (res == -ECANCELED)
		chain->left = 0;
	else
		ring_read(chain->ring, op, chain->fd, &byte, 1, POSITION);
}

static void fini_ends_all_that_waits(struct ring *ring)
{
	struct result wait[DEPTH / 10];
	struct result other[5];
	struct chain chain = { .op.done = endless, .ring = ring, .left = 1 };
	char full[65536] = "";
	uint64_t count;
	char byte;
	int fds[2];
	int event = eventfd(0, EFD_CLOEXEC);
	int tty = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	assert_int_equal(write(fds[1], full, sizeof(full)), sizeof(full));
	assert_int_equal(grantpt(tty) | unlockpt(tty), 0);
	chain.fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	for (int i = 0; i < 5; i++)
		other[i] = (struct result){ .op.done = record };

	ring_read(ring, &chain.op, chain.fd, &byte, 1, POSITION);
	ring_poll(ring, &other[0].op, event, POLLIN);
	ring_timeout(ring, &other[1].timer, 3600000000000);
	ring_write(ring, &other[2].op, fds[1], full, sizeof(full), POSITION);
	ring_read(ring, &other[3].op, tty, &byte, 1, POSITION);
	ring_step(ring);
	for (int i = 0; i < DEPTH / 10; i++) {
		wait[i] = (struct result){ .op.done = record };
		ring_read(ring, &wait[i].op, event, &count, sizeof(count), POSITION);
	}
	/* Queued, never submitted by a step. */
	ring_read(ring, &other[4].op, event, &count, sizeof(count), POSITION);
	ring_fini(ring);

	assert_int_equal(chain.left, 0);
	for (int i = 0; i < DEPTH / 10; i++) {
		assert_int_equal(wait[i].n, 1);
		assert_int_equal(wait[i].res, -ECANCELED);
	}
	for (int i = 0; i < 5; i++) {
		assert_int_equal(other[i].n, 1);
		assert_int_equal(other[i].res, -ECANCELED);
	}
	close(chain.fd);
	close(fds[0]);
	close(fds[1]);
	close(event);
	close(tty);
}

static void fini_ends_all(void **state)
{
	struct ring ring;

	(void)state;
	assert_int_equal(ring_init(&ring, 8), 0);
	fini_ends_all_that_waits(&ring);
}

static void fini_ends_all_on_older_kernels(void **state)
{
	struct ring ring;

	(void)state;
	assert_int_equal(ring_init_flags(&ring, 8, 0), 0);
	fini_ends_all_that_waits(&ring);
}

static struct result going_on;

static void goes_on(struct io_op *op, int res)
{
	record(op, res);
	going_on.op.more = true;
}

/* What the kernel goes on with although it is cancelled is done when that has ended, and once. */
static void fini_waits_for_the_last(void **state)
{
	struct result first = { .op.done = goes_on };
	struct io_uring_sqe *sqe;
	struct ring ring;
	int fd = eventfd(0, EFD_CLOEXEC);

	(void)state;
	assert_int_equal(ring_init(&ring, 8), 0);
	going_on = (struct result){ .op.done = record };
	ring_poll(&ring, &first.op, fd, POLLIN);
	ring_poll(&ring, &going_on.op, fd, POLLIN);
	sqe = io_uring_get_sqe(&ring.uring); /* what is left of it */
	io_uring_prep_poll_add(sqe, fd, POLLIN);
	io_uring_sqe_set_data(sqe, &going_on.op);
	ring_fini(&ring);
	assert_int_equal(first.n, 1);
	assert_int_equal(going_on.n, 1);
	assert_int_equal(going_on.res, -ECANCELED);
	close(fd);
}

/* In a child that may not call @nr, ring_init fails with -@err and the words are about @about. */
static void fails_with(int nr, int err, const char *about)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		struct ring ring;

		if (forbid(nr, err))
			_exit(2);
		if (ring_init(&ring, 8) != -err)
			_exit(3);
		_exit(strstr(ring_explain(-err), about) ? 0 : 4);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void forbidden_is_explained(void **state)
{
	(void)state;
	if (ring_disabled() <= 0)
		fails_with(SYS_io_uring_setup, EPERM, "seccomp");
	fails_with(SYS_io_uring_setup, ENOSYS, "Linux 5.10");
	fails_with(SYS_io_uring_setup, ENOMEM, "ulimit -l");
	fails_with(SYS_io_uring_setup, EINVAL, "too old");
	fails_with(SYS_io_uring_setup, EMFILE, "Too many open files");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(read_and_write_at_offsets, setup, teardown),
		cmocka_unit_test_setup_teardown(an_error_is_one_operations_own, setup, teardown),
		cmocka_unit_test_setup_teardown(poll_waits_for_events, setup, teardown),
		cmocka_unit_test_setup_teardown(a_signal_is_silent, setup, teardown),
		cmocka_unit_test_setup_teardown(a_signal_that_fails_ends_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(timer_is_not_early, setup, teardown),
		cmocka_unit_test_setup_teardown(a_batch_is_one_system_call, setup, teardown),
		cmocka_unit_test_setup_teardown(a_hook_runs_once_a_batch_after_all_handlers, setup,
		                                teardown),
		cmocka_unit_test_setup_teardown(more_in_flight_than_entries, setup, teardown),
		cmocka_unit_test_setup_teardown(registered_memory_is_used, setup, teardown),
		cmocka_unit_test(what_is_held_goes_with_the_ring),
		cmocka_unit_test_setup_teardown(polling_starts_and_ends, setup, teardown),
		cmocka_unit_test(a_batch_takes_all_that_has_ended),
		cmocka_unit_test(idle_disks_get_a_head_start),
		cmocka_unit_test_setup_teardown(gathering_ends, setup, teardown),
		cmocka_unit_test(what_is_offered_one_by_one_leaves_together),
		cmocka_unit_test_setup_teardown(a_share_is_not_waited_for_for_ever, setup,
		                                teardown),
		cmocka_unit_test_setup_teardown(no_share_of_what_waits, setup, teardown),
		cmocka_unit_test(older_kernels_flags),
		cmocka_unit_test_setup_teardown(other_opcodes_are_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(another_thread_wakes, setup, teardown),
		cmocka_unit_test_setup_teardown(a_watch_can_end_before_the_ring, setup, teardown),
		cmocka_unit_test_setup_teardown(the_last_is_the_last, setup, teardown),
		cmocka_unit_test_setup_teardown(a_watch_that_reads_can_end_before_the_ring, setup,
		                                teardown),
		cmocka_unit_test_setup_teardown(one_operation_is_cancelled, setup, teardown),
		cmocka_unit_test(fini_ends_all),
		cmocka_unit_test(fini_ends_all_on_older_kernels),
		cmocka_unit_test(fini_waits_for_the_last),
		cmocka_unit_test(forbidden_is_explained),
	};

	alarm(60);
	return cmocka_run_group_tests_name("io/ring", tests, NULL, NULL);
}
