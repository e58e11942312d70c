/*
 * One read or write a frame, and poll() where there is none: what a program does that was written
 * in a day.
 */
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench/bench_net.h"
#include "bench/bench_plain.h"
#include "bench/bench_result.h"
#include "core/main.h"
#include "io/tap.h"

#define QUIET_MS    10000 /* without a frame: there is nobody */
#define ASK_MS      20
#define SAMPLES_MAX (1 << 20)
#define BUFFERS                                                                                    \
	256 /* each way, in turn, as the benchmark guest has: a copy costs what the cache holds */

struct plain {
	struct tap tap;
	uint32_t size;
	uint64_t deadline; /* ns */
	uint64_t frames, bytes, calls, others;
	double *us;                   /* rr: each round trip, up to SAMPLES_MAX */
	struct bench_frame *out, *in; /* BUFFERS of them */
	unsigned nout;                /* of which are sent */
	unsigned next_out, next_in;
};

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Wait until the tap is ready for @events. Returns 0 or -errno. */
static int plain_wait(struct plain *plain, short events, int ms)
{
	struct pollfd tap = { .fd = plain->tap.fd[0], .events = events };

	plain->calls++;
	return poll(&tap, 1, ms) > 0 ? 0 : -ETIMEDOUT;
}

static int frame_write(struct plain *plain)
{
	const struct bench_frame *frame = &plain->out[plain->next_out++ % plain->nout];

	for (;;) {
		plain->calls++;
		if (write(plain->tap.fd[0], frame, TAP_HDR_LEN + plain->size) >= 0)
			return 0;
		if (errno != EAGAIN)
			return -errno;

		int err = plain_wait(plain, POLLOUT, QUIET_MS);

		if (err)
			return err;
	}
}

/* Read the next frame of the bench's, and count it; -ETIMEDOUT when none comes for @ms. */
static int frame_read(struct plain *plain, int ms)
{
	struct bench_frame *frame = &plain->in[plain->next_in++ % BUFFERS];

	for (;;) {
		ssize_t n = read(plain->tap.fd[0], frame, sizeof(*frame));

		plain->calls++;
		if (n > TAP_HDR_LEN && bench_frame_is_in(frame)) {
			plain->frames++;
			plain->bytes += (uint64_t)n - TAP_HDR_LEN;
			return 0;
		}
		if (n >= 0) {
			plain->others++;
			continue;
		}
		if (errno != EAGAIN)
			return -errno;

		int err = plain_wait(plain, POLLIN, ms);

		if (err)
			return err;
	}
}

static int plain_tx(struct plain *plain)
{
	int err = 0;

	while (!err && clock_ns(CLOCK_MONOTONIC) < plain->deadline) {
		for (unsigned i = 0; !err && i < 16; i++) {
			err = frame_write(plain);
			plain->frames++;
		}
	}
	plain->bytes = plain->frames * plain->size;
	return err;
}

static int plain_rx(struct plain *plain)
{
	int err = 0;

	while (!err && clock_ns(CLOCK_MONOTONIC) < plain->deadline)
		for (unsigned i = 0; !err && i < 16; i++)
			err = frame_read(plain, QUIET_MS);
	return err;
}

static int plain_rr(struct plain *plain)
{
	uint64_t before, now = clock_ns(CLOCK_MONOTONIC);
	int err = 0;

	while (!err && now < plain->deadline) {
		before = now;
		err = frame_write(plain);
		err = err ? err : frame_read(plain, QUIET_MS);
		now = clock_ns(CLOCK_MONOTONIC);
		if (!err && plain->frames <= SAMPLES_MAX)
			plain->us[plain->frames - 1] = (double)(now - before) / 1e3;
	}
	return err;
}

/* Who sends, or answers, may not be there yet: what comes in the first starts the clock. */
static int plain_meet(struct plain *plain, bool ask)
{
	int err = -ETIMEDOUT;

	for (unsigned i = 0; err == -ETIMEDOUT && i < QUIET_MS / ASK_MS; i++) {
		err = ask ? frame_write(plain) : 0;
		err = err ? err : frame_read(plain, ASK_MS);
	}
	while (!err && ask && frame_read(plain, ASK_MS) == 0)
		; /* late answers */
	return err;
}

static double percentile(const struct plain *plain, double part)
{
	uint64_t n = plain->frames < SAMPLES_MAX ? plain->frames : SAMPLES_MAX;

	return plain->us[(uint64_t)((double)(n - 1) * part)];
}

static void latency_print(struct plain *plain, char *text, size_t len)
{
	uint64_t n = plain->frames < SAMPLES_MAX ? plain->frames : SAMPLES_MAX;
	struct bench_spread spread;
	double sum = 0;

	if (!n)
		return;
	for (uint64_t i = 0; i < n; i++)
		sum += plain->us[i];
	bench_spread(&spread, plain->us, n);
	snprintf(text, len,
	         ", \"lat_us\": {\"mean\": %.3f, \"p50\": %.3f, \"p90\": %.3f, \"p99\": %.3f, "
	         "\"p99.9\": %.3f, \"max\": %.3f}",
	         sum / (double)n, percentile(plain, 0.5), percentile(plain, 0.9),
	         percentile(plain, 0.99), percentile(plain, 0.999), spread.max);
}

static int plain_run(struct plain *plain, enum bench_plain_op op, uint64_t ns, char *guest,
                     char *stats)
{
	static const struct {
		const char *name;
		int (*run)(struct plain *plain);
	} ops[] = {
		[BENCH_PLAIN_TX] = { "tx", plain_tx },
		[BENCH_PLAIN_RX] = { "rx", plain_rx },
		[BENCH_PLAIN_RR] = { "rr", plain_rr },
	};
	char latency[256] = "";
	uint64_t start, cpu, took;
	int err;

	err = op == BENCH_PLAIN_TX ? 0 : plain_meet(plain, op == BENCH_PLAIN_RR);
	plain->frames = plain->bytes = plain->calls = plain->others = 0;
	start = clock_ns(CLOCK_MONOTONIC);
	cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	plain->deadline = start + ns;
	err = err ? err : ops[op].run(plain);
	if (err)
		return err;
	took = clock_ns(CLOCK_MONOTONIC) - start;
	cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu;

	if (op == BENCH_PLAIN_RR)
		latency_print(plain, latency, sizeof(latency));
	snprintf(guest, BENCH_PLAIN_MAX,
	         "{\"job\": \"plain\", \"op\": \"%s\", \"size\": %u, \"ops\": %llu, "
	         "\"bytes\": %llu, \"seconds\": %.6f%s, \"errors\": 0, \"others\": %llu, "
	         "\"calls\": %llu, \"served\": %llu}",
	         ops[op].name, plain->size, (unsigned long long)plain->frames,
	         (unsigned long long)plain->bytes, (double)took / 1e9, latency,
	         (unsigned long long)plain->others, (unsigned long long)plain->calls,
	         (unsigned long long)plain->frames);
	snprintf(stats, BENCH_PLAIN_MAX, "{\"cpu_us\": {\"io\": %llu, \"all\": %llu}}",
	         (unsigned long long)cpu / 1000, (unsigned long long)cpu / 1000);
	return 0;
}

int bench_plain(enum bench_plain_op op, const char *net, uint32_t size, uint64_t ns, char *guest,
                char *stats)
{
	struct plain plain = { .size = size };
	struct tap_config config;
	char why[TAP_WHY_MAX];
	int err = tap_parse(&config, net, why);

	err = err ? err : tap_open(&plain.tap, &config, why);
	if (err) {
		fprintf(stderr, "kring: %s\n", why);
		return err;
	}
	plain.us = malloc(SAMPLES_MAX * sizeof(*plain.us));
	plain.out = malloc(BUFFERS * sizeof(*plain.out));
	plain.in = malloc(BUFFERS * sizeof(*plain.in));
	err = plain.us && plain.out && plain.in ? 0 : -ENOMEM;
	if (!err && size > BENCH_FRAME_MAX)
		err = tap_set_offloads(&plain.tap, TUN_F_CSUM | TUN_F_TSO4);
	if (!err) {
		for (unsigned i = 0; i < BUFFERS; i++)
			bench_frame_write(&plain.out[i], size, true);
		plain.nout = op == BENCH_PLAIN_RR ? 1 : BUFFERS;
		err = plain_run(&plain, op, ns, guest, stats);
	}
	if (err)
		fprintf(stderr, "kring: bench net %s: %s\n", plain.tap.name,
		        err == -ETIMEDOUT ? "nothing comes in" : strerror(-err));
	free(plain.us);
	free(plain.out);
	free(plain.in);
	tap_close(&plain.tap);
	return err;
}
