/*
 * A doorbell: a port or an MMIO address whose write reaches an eventfd without an exit to kring
 * (KVM_IOEVENTFD, Documentation/virt/kvm/api.rst 4.59).
 *
 * Main thread, or vCPU threads under the owner's lock.
 */
#ifndef CORE_DOORBELL_H
#define CORE_DOORBELL_H

#include <stdint.h>

#include "core/bus.h"

struct doorbell {
	int fd; /* eventfd */
	int vm_fd;
	enum bus_space space;
	uint64_t address; /* 0: nowhere */
};

/* Returns 0 or -errno. */
int doorbell_init(struct doorbell *bell, int vm_fd);

/* KVM lets go of it with the VM. */
void doorbell_fini(struct doorbell *bell);

/*
 * Ring for writes of any length at @address of @space from now on, 0: for none. Returns 0 or
 * -errno, and it is nowhere.
 */
int doorbell_move(struct doorbell *bell, enum bus_space space, uint64_t address);

#endif
