/*
 * A vCPU: a thread that runs the guest and hands its exits to the bus.
 *
 * vcpu_init .. vcpu_fini: main thread. What the thread itself does is in vcpu.c; it never touches
 * the I/O thread's ring.
 */
#ifndef CORE_VCPU_H
#define CORE_VCPU_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdbool.h>

#include "core/bus.h"
#include "core/memory.h"
#include "core/power.h"
#include "core/stats.h"
#include "core/vm.h"

struct trace;

/* What all vCPUs of a VM share. */
struct vcpu_world {
	const struct bus *bus;
	const struct mem *mem;
	struct power *power;
	struct stats *stats;
	struct trace *trace; /* NULL: no -T */
	pthread_mutex_t *deferred_lock;
};

struct vcpu {
	const struct vcpu_world *world;
	unsigned id;
	int fd;
	struct kvm_run *run;
	struct kvm_coalesced_mmio_ring *deferred; /* the VM's, behind run */
	size_t run_size;
	pthread_t thread;
	bool started;
};

/* Create vCPU @id in @vm. Returns 0 or -errno. */
int vcpu_init(struct vcpu *vcpu, const struct vm *vm, unsigned id, const struct vcpu_world *world);
void vcpu_fini(struct vcpu *vcpu);

/* Once a process, before the first vcpu_start(): the signal that vcpu_stop() sends. */
void vcpu_signal_init(void);

/* Run the guest on a thread of its own until power_request(). Returns 0 or -errno. */
int vcpu_start(struct vcpu *vcpu);

/* After power_request(): make the thread leave KVM_RUN and wait for it. */
void vcpu_stop(struct vcpu *vcpu);

/* Where a stopped vCPU stands, for messages: "vCPU 0 is halted: rip 0xffffffff81000000, bytes ..".
 */
void vcpu_describe(const struct vcpu *vcpu, char *text, size_t len);

#endif
