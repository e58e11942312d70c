/*
 * The host's end of `kring bench net`: a process that sends frames into the tap's interface, or
 * answers those that come out of it.
 *
 * Main thread.
 */
#ifndef BENCH_BENCH_NET_H
#define BENCH_BENCH_NET_H

#include <stdint.h>
#include <sys/types.h>

enum bench_peer {
	BENCH_PEER_NONE,
	BENCH_PEER_SEND, /* frames of @size, as fast as the interface takes them */
	BENCH_PEER_ECHO, /* each frame back to where it came from */
};

/*
 * Start it for the interface @name, which need not be there yet. Returns its process ID, or -errno
 * and one line was printed. It ends with the one who started it.
 */
pid_t bench_peer_start(enum bench_peer peer, const char *name, uint32_t size);

/* End it and wait for that. Returns the CPU time that it has used, in us. */
double bench_peer_stop(pid_t pid);

#endif
