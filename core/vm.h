/*
 * The VM: KVM's file descriptors, its interrupt controllers, its memory slots.
 *
 * Main thread only, but vm_unmap().
 */
#ifndef CORE_VM_H
#define CORE_VM_H

#include <stddef.h>

#include "core/bus.h"
#include "core/memory.h"

#define WHY_MAX 256 /* room for a sentence that says why something failed */

struct vm {
	int kvm_fd;
	int fd;
	size_t run_size; /* bytes of a vCPU's shared kvm_run area */
	unsigned nslots;
};

struct vm_config {
	uint64_t tss;          /* KVM_SET_TSS_ADDR: three unused pages below 4 GiB */
	uint64_t identity_map; /* KVM_SET_IDENTITY_MAP_ADDR: one unused page below 4 GiB */
};

/*
 * Open the KVM device @dev and make an empty VM.
 * Returns 0, or -errno and @why says what failed and what to do.
 */
int vm_init(struct vm *vm, const char *dev, char why[WHY_MAX]);
void vm_fini(struct vm *vm);

/*
 * Show @len bytes at @host (both page-aligned) to the guest at @gpa, as its RAM or, with @readonly,
 * as memory that it reads, and writes to which exit. Before vm_add_chips().
 * Returns the number of the memory slot, or -errno.
 */
int vm_map(struct vm *vm, gpa_t gpa, void *host, uint64_t len, bool readonly);

/* Take the memory of @slot from the guest: all accesses exit. Any thread, at any time. */
void vm_unmap(const struct vm *vm, int slot);

/*
 * The guest's writes of @len bytes at @addr may wait in KVM until the next exit of any vCPU: vcpu.c
 * takes them up then, in order, before that exit (KVM_REGISTER_COALESCED_MMIO, api.rst 4.116).
 * Returns 0 or -errno.
 */
int vm_defer_writes(struct vm *vm, enum bus_space space, uint64_t addr, uint32_t len);

/*
 * PIC, IOAPIC, PIT and local APICs, in the kernel. Returns 0, or -errno and @why.
 *
 * A memory slot that is changed after this waits for the kernel's readers of the interrupt routes:
 * 6 to 10 ms against 0.03 ms, measured on Linux 6.18.
 */
int vm_add_chips(struct vm *vm, const struct vm_config *config, char why[WHY_MAX]);

#endif
