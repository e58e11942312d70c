/*
 * One run of the benchmark guest: another kring, executed, watched and reaped.
 *
 * Main thread.
 */
#ifndef BENCH_BENCH_RUN_H
#define BENCH_BENCH_RUN_H

#include <stdbool.h>
#include <stdint.h>

#define BENCH_ARGS_MAX 64

struct bench_run {
	/* set by the caller */
	const char *kernel;               /* NULL: the guest of bench/guest */
	const char *cmdline;              /* its job; NULL: kring's own command line, for a Linux */
	uint64_t memory_mib;              /* of the guest */
	const char *args[BENCH_ARGS_MAX]; /* more for `kring boot`, NULL at the end */
	uint64_t expect_ns;               /* how long the job takes; 30 s more are an error */
	const char *title;                /* of the progress line; NULL: none */
	/* afterwards */
	int status;     /* kring's exit status */
	char *output;   /* what the guest wrote, */
	char *guest;    /* its last line that is JSON in there; NULL: none */
	char *stats;    /* --stats, */
	char *timings;  /* --timings */
	double wall_us; /* from fork to wait: exec, a life, and the end of the process */
};

/*
 * Run it. Returns 0, and all of @run is there until bench_run_fini(); or -errno and one line was
 * printed. That the guest or its kring failed is no error here; kring's words went to standard
 * error.
 */
int bench_run(struct bench_run *run);
void bench_run_fini(struct bench_run *run);

#endif
