/*
 * The host's end of `kring bench net`: a process that sends frames into the tap's interface, or
 * answers those that come out of it.
 *
 * Main thread.
 */
#ifndef BENCH_BENCH_NET_H
#define BENCH_BENCH_NET_H

#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define BENCH_FRAME_MAX  1514 /* longer ones are TCP segments to be cut */
#define BENCH_FRAME_LONG 65549

/* A frame as a tap has it. */
struct bench_frame {
	struct virtio_net_hdr_mrg_rxbuf hdr;
	uint8_t bytes[BENCH_FRAME_LONG];
};

/* One of @size bytes, from whom is behind the tap to the host, or from the host. */
void bench_frame_write(struct bench_frame *frame, uint32_t size, bool to_host);

/* Whether it is from the host and of the bench. */
bool bench_frame_is_in(const struct bench_frame *frame);

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
