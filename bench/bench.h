/*
 * `kring bench`: what the data path does and costs, measured with the guest in bench/guest. Each
 * measurement is a kring of its own, executed as a user would; what it says about itself (--stats,
 * --timings) and what its guest says are put together.
 *
 * Main thread.
 */
#ifndef BENCH_BENCH_H
#define BENCH_BENCH_H

#include "core/options.h"

/* Measure what @options->command says, and print it. Returns an exit status. */
int main_bench(const struct options *options);

#endif
