/*
 * What the host offers to the I/O side: io_uring, tap, memory locking, huge pages. Facts, and for
 * each thing that is missing a hint: what to fix and how. Prints nothing.
 *
 * Any thread, at any time; changes nothing on the host.
 */
#ifndef IO_PROBE_H
#define IO_PROBE_H

#include <stdint.h>
#include <sys/resource.h>
#include <sys/utsname.h>

#include "io/ring.h"

/* All hints are NULL when there is nothing to fix. */
struct probe_ring {
	int error;         /* 0, or why ring_init() failed: -errno */
	int disabled;      /* ring_disabled() */
	unsigned setup;    /* of ring_setup_flags, those in use */
	unsigned features; /* of probe_features */
	uint64_t opcodes;  /* 1 << value of those of ring_opcodes that the kernel has */
	const char *hint;
};

struct probe_tap {
	int error;      /* of /dev/net/tun: 0 or -errno */
	unsigned flags; /* of probe_tap_flags (TUNGETFEATURES) */
	const char *hint;
};

struct probe_huge {
	char enabled[16]; /* transparent huge pages: always, madvise or never; "": kernel without */
	char shmem[16];   /* the same for shared memory: always, within_size, advise, never, ... */
	uint64_t total;   /* reserved pages of 2 MiB, */
	uint64_t free;    /* those not in use */
	const char *hint;
};

struct probe {
	struct utsname uname;
	struct probe_ring ring;
	struct probe_tap tap;
	struct rlimit memlock; /* bytes, or RLIM_INFINITY */
	struct probe_huge huge;
};

extern const struct ring_name probe_features[];
extern const struct ring_name probe_tap_flags[];

void probe_host(struct probe *probe);

#endif
