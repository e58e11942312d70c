/*
 * What a VM did and when, for --timings.
 *
 * stats_phase: main thread (the first vCPU thread for PHASE_RUN). stats_mark: any thread.
 * Exit counters are written by their own vCPU's thread and may be read at any time.
 */
#ifndef CORE_STATS_H
#define CORE_STATS_H

#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>

#include "core/bus.h"

enum phase {
	PHASE_KVM,      /* the VM exists */
	PHASE_MEMORY,   /* guest RAM is there */
	PHASE_KERNEL,   /* kernel, initrd and tables are in it */
	PHASE_RUN,      /* the first KVM_RUN */
	PHASE_SHUTDOWN, /* the guest ended, or was ended */
	PHASE_N,
};

#define EXIT_REASONS 64  /* more than KVM_EXIT_* has */
#define EXIT_SITES   256 /* distinct addresses told apart per vCPU; a power of two */

/* Exits at one port or MMIO address, in one direction. */
struct exit_site {
	uint64_t addr;
	uint32_t count; /* 0: unused */
	uint8_t space;  /* enum bus_space */
	uint8_t is_write;
};

/* What one vCPU's thread counts: the returns of KVM_RUN. */
struct exit_stats {
	_Atomic uint64_t reason[EXIT_REASONS]; /* by KVM_EXIT_*; the last: interrupted */
	struct exit_site *site;                /* EXIT_SITES of them, or NULL: not counted */
	uint32_t other_sites;                  /* what found no room there */
	uint64_t cpu_ns;                       /* of the thread, when it has ended */
};

#define EXIT_INTERRUPTED (EXIT_REASONS - 1)

#define MARKS_MAX 64

struct mark {
	uint64_t us;
	uint64_t user_exits;
	uint64_t kvm_exits; /* all exits of all vCPUs as KVM counts them; 0 where it cannot tell */
	uint8_t value;
};

struct stats {
	uint64_t exec_ns; /* CLOCK_MONOTONIC at exec */
	uint64_t phase_us[PHASE_N];
	struct mark mark[MARKS_MAX];
	_Atomic unsigned nmarks;
	struct exit_stats *exits; /* one a vCPU */
	int *kvm_stats_fd;        /* one a vCPU, -1 where KVM has none; NULL without --timings */
	unsigned ncpus;
};

/*
 * Begin to count for @ncpus vCPUs. @exec_ns: stats_exec_time(), taken first thing in main.
 * Returns 0 or -ENOMEM.
 */
int stats_init(struct stats *stats, uint64_t exec_ns, unsigned ncpus);
void stats_fini(struct stats *stats);

/* CLOCK_MONOTONIC ns at which this process was executed: now, less the CPU time used since. */
uint64_t stats_exec_time(void);

/* Also count by address and read KVM's own counters of vCPU @id. Returns 0 or -ENOMEM. */
int stats_detail(struct stats *stats, unsigned id, int vcpu_fd);

void stats_phase(struct stats *stats, enum phase phase);
void stats_mark(struct stats *stats, uint8_t value);

/* Exits to a port or an MMIO address so far, of all vCPUs. */
uint64_t stats_device_exits(const struct stats *stats);

void exit_count(struct exit_stats *exits, unsigned reason);
void exit_count_site(struct exit_stats *exits, enum bus_space space, uint64_t addr, bool is_write);

/* By a vCPU's thread, last of all: the CPU time that it has used, in the guest and out of it. */
void exit_count_cpu(struct exit_stats *exits);

/*
 * A member of a JSON object: the CPU time of this thread, of the vCPUs, which have ended, and of
 * the whole process; what is left belongs to the ring's workers.
 */
void stats_print_cpu(const struct stats *stats, FILE *out);

/* Members of a JSON object: the exits to kring, and how many of each reason. */
void stats_print_exits(const struct stats *stats, FILE *out);

/* One JSON object and a newline. @bus names the devices behind addresses. */
void stats_print(const struct stats *stats, const struct bus *bus, FILE *out);

#endif
