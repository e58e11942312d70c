/*
 * What entry.S and C agree on.
 */
#ifndef BENCH_GUEST_ENTRY_H
#define BENCH_GUEST_ENTRY_H

#define PORT_MARKER 0x4b52 /* a byte written there is a mark in kring's --timings */
#define MARK_FIRST  1      /* the first instruction that does anything */
#define MARK_RING3  2
#define MARK_END    3 /* the job is done and told */

/* Where a processor that is started begins, in real mode: a page below 1 MiB that nobody uses. */
#define AP_PAGE 0x8000

/* Interrupt vectors. */
#define VECTOR_DEVICE 0x40
#define VECTOR_GATE   3 /* INT3 */

#endif
