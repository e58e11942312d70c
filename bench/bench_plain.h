/*
 * The ceiling of `kring bench net`: the same frames through the same tap by a plain loop of system
 * calls, without a guest.
 *
 * Main thread.
 */
#ifndef BENCH_BENCH_PLAIN_H
#define BENCH_BENCH_PLAIN_H

#include <stdint.h>

enum bench_plain_op { BENCH_PLAIN_TX, BENCH_PLAIN_RX, BENCH_PLAIN_RR };

#define BENCH_PLAIN_MAX 1024 /* room for what it writes */

/*
 * Do @op on the tap @net ([tap=]NAME[,OPTION...]) with frames of @size bytes for @ns. Returns 0,
 * and in @guest and @stats (BENCH_PLAIN_MAX bytes each) what a guest and its kring would have told;
 * or -errno and one line was printed.
 */
int bench_plain(enum bench_plain_op op, const char *net, uint32_t size, uint64_t ns, char *guest,
                char *stats);

#endif
